"""One drawn picture on the disk: an image file and the files of its labels."""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from d2ls.data import io as files
from d2ls.data.labels import index_to_colours
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from d2ls.synthetic.relabel import Labelled, Pixels

Size = int | tuple[int, int]
_JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95}
_LZW: dict[str, Any] = {"format": "TIFF", "compression": "tiff_lzw"}
_ERODED = 3  # px of black on either side of a boundary, as in the official eroded labels


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A picture to be drawn and the files that show it.

    Attributes:
        draw: draws the picture in the data set's classes.
        size: of the picture, for `draw`.
        seed: of the picture, for `draw`.
        image: file of the picture; its suffix decides the format.
        mask: file of the labels, or None.
        colours: labels are written in these colours; None writes them as indices.
        eroded: file of the labels with black boundaries, or None.
    """

    draw: Callable[[Size, int], Labelled]
    size: Size
    seed: int
    image: Path
    mask: Path | None = None
    colours: DatasetSpec | None = None
    eroded: Path | None = None

    def exists(self) -> bool:
        """Whether all its files are there."""
        return all(path.is_file() for path in self.files)

    @property
    def files(self) -> list[Path]:
        """All files of the piece."""
        return [path for path in (self.image, self.mask, self.eroded) if path is not None]


def write_piece(piece: Piece, *, anew: bool = False) -> None:
    """Draw a picture and write its files, each whole or not at all; where all of them exist, do nothing unless `anew`.

    Raises:
        DataError: a file cannot be written.
    """
    if not anew and piece.exists():
        return
    drawn = piece.draw(piece.size, piece.seed)
    labels = drawn.mask if piece.colours is None else index_to_colours(drawn.mask, piece.colours)
    _write(piece.image, drawn.image)
    if piece.mask is not None:
        _write(piece.mask, labels)
    if piece.eroded is not None:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _ERODED + 1, 2 * _ERODED + 1))
        boundary = cv2.morphologyEx(drawn.mask, cv2.MORPH_GRADIENT, disc) > 0
        _write(piece.eroded, np.where(boundary[..., None], 0, labels).astype(np.uint8))


def write_pieces(place: Path, pieces: Iterable[Piece]) -> Path:
    """Write all pieces of a folder; gives the folder back."""
    for piece in pieces:
        write_piece(piece)
    return place


def _write(path: Path, pixels: Pixels) -> None:
    """Write a file in the format of its name: patches in plain TIFF, originals compressed as they are published."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise DataError(f"{path.parent}: this folder cannot be made: {problem.strerror}.") from problem
    if path.suffix == ".png":
        files.write_png(path, pixels)
    elif path.suffix == ".tif" and path.parent.name == "images_1024":
        files.write_tiff(path, pixels)
    else:
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, **(_JPEG if path.suffix == ".jpg" else _LZW))
        files.write_bytes(path, data.getvalue())
