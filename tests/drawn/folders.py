"""Drawn data sets on the disk: complete small trees in the folder shape and the file formats of the real ones.

Every function `write_*` writes below a data root and gives back the folder it filled; the numbers say how many pictures
of each split, `size` their height and width (or the side of a square) in pixels. Files that exist stay as they are.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from d2ls.data import io as files
from d2ls.data.labels import index_to_colours
from d2ls.data.sets import dubai, potsdam, uavid, vaihingen
from d2ls.data.spec import DatasetSpec
from d2ls.synthetic.prepare import patch_names
from tests.drawn import relabel
from tests.drawn.relabel import Pixels, Size

_JPEG = {"format": "JPEG", "quality": 95}
_LZW = {"format": "TIFF", "compression": "tiff_lzw"}
Draw = Callable[[Size, int], tuple[Pixels, Pixels]]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A picture to be drawn and the files that show it.

    Attributes:
        draw: gives RGB (H, W, 3) and class indices (H, W) from `size` and `seed`.
        files: of the image, of the labels, and of the labels with black boundaries; suffixes decide the formats.
        colours: labels are written in these colours; None writes them as indices.
    """

    draw: Draw
    size: Size
    seed: int
    files: Sequence[Path]
    colours: DatasetSpec | None = None

    def exists(self) -> bool:
        """Whether all its files are there."""
        return all(path.is_file() for path in self.files)


def write_piece(piece: Piece) -> None:
    """Draw a picture and write its files, each whole or not at all; where all of them exist, do nothing."""
    if piece.exists():
        return
    image, mask = piece.draw(piece.size, piece.seed)
    labels = mask if piece.colours is None else index_to_colours(mask, piece.colours)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))  # 3 px on either side, as in the official labels
    boundary = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, disc).reshape(labels.shape[:2] + (1,) * (labels.ndim - 2)) > 0
    for path, pixels in zip(piece.files, (image, labels, np.where(boundary, 0, labels).astype(np.uint8)), strict=False):
        _save(path, pixels)


def _save(path: Path, pixels: Pixels) -> None:
    """Write a file in the format of its name: patches in plain TIFF, originals compressed as they are published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        files.write_png(path, pixels)
    elif path.parent.name == "images_1024":
        files.write_tiff(path, pixels)
    else:
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, **(_JPEG if path.suffix == ".jpg" else _LZW))
        files.write_bytes(path, data.getvalue())


def _write(pieces: Iterable[Piece], place: Path) -> Path:
    for piece in pieces:
        write_piece(piece)
    return place


def _pieces(
    draw: Draw, size: Size, seed: int, place: Path, names: Iterable[Sequence[str]],
    colours: DatasetSpec | None = None,
) -> list[Piece]:  # fmt: skip
    """Pieces of consecutive seeds for files below a folder."""
    return [
        Piece(draw=draw, size=size, seed=seed + at, files=[place / name for name in group], colours=colours)
        for at, group in enumerate(names)
    ]


def _splits(**numbers: int) -> list[tuple[int, str]]:
    """Running number and split of each picture."""
    return list(enumerate(split for split, number in numbers.items() for _ in range(number)))


def write_vaihingen(
    root: Path, *, folder: str = "vaihingen", train: int = 4, validation: int = 2, test: int = 2, size: Size = 256,
    seed: int = 0,
) -> Path:  # fmt: skip
    """Patches as the split tool leaves them; `validation` counts those of tile 30."""
    return _patches(vaihingen, "top_mosaic_09cm_area", root / folder, (train, validation, test), size, seed)


def write_potsdam(
    root: Path, *, folder: str = "potsdam", train: int = 4, validation: int = 2, test: int = 2, size: Size = 256,
    seed: int = 0,
) -> Path:  # fmt: skip
    """Patches as the split tool leaves them; `validation` counts those of tile 2_10."""
    return _patches(potsdam, "top_potsdam_", root / folder, (train, validation, test), size, seed)


def write_vaihingen_originals(
    root: Path, *, folder: str = "vaihingen", train: Sequence[str] = ("1", "30"), test: Sequence[str] = ("2",),
    size: Size = 300, seed: int = 0,
) -> Path:  # fmt: skip
    """Whole tiles with colour masks, the test tiles' eroded ones too."""
    suffixes = (".tif", ".tif", "_noBoundary.tif")
    return _originals(root / folder, "top_mosaic_09cm_area{}", suffixes, vaihingen.SPEC, train, test, size, seed)


def write_potsdam_originals(
    root: Path, *, folder: str = "potsdam", train: Sequence[str] = ("2_10", "2_11"), test: Sequence[str] = ("2_13",),
    size: Size = 300, seed: int = 0,
) -> Path:  # fmt: skip
    """Whole tiles with colour masks, the test tiles' eroded ones too."""
    suffixes = ("_RGB.tif", "_label.tif", "_label_noBoundary.tif")
    return _originals(root / folder, "top_potsdam_{}", suffixes, potsdam.SPEC, train, test, size, seed)


def write_loveda(
    root: Path, *, train: int = 2, val: int = 1, test: int = 1, areas: Sequence[str] = ("Urban", "Rural"),
    size: Size = 256, seed: int = 0,
) -> Path:  # fmt: skip
    """Images and masks as published (0 no data, else class + 1) of each area; test images have no masks."""
    names = []
    for at, (split, area) in enumerate(
        (split, area) for split, number in (("Train", train), ("Val", val), ("Test", test)) for area in areas
        for _ in range(number)
    ):  # fmt: skip
        kinds = ("images_png",) if split == "Test" else ("images_png", "masks_png")
        names.append([f"{split}/{area}/{kind}/{at}.png" for kind in kinds])
    return _write(_pieces(relabel.loveda_raw, size, seed, root / "LoveDA", names), root / "LoveDA")


def write_uavid_originals(
    root: Path, *, train: Sequence[str] = ("seq1", "seq2"), val: Sequence[str] = ("seq16",),
    test: Sequence[str] = ("seq21",), frames: int = 1, size: Size = (216, 384), seed: int = 0,
) -> Path:  # fmt: skip
    """Frames of the named sequences with colour masks; the test frames have none, as in the official release."""
    names = [
        [f"uavid_{split}/{sequence}/{kind}/{frame * 100:06d}.png" for kind in ("Images", "Labels")[: 1 + labelled]]
        for split, sequences, labelled in (("train", train, True), ("val", val, True), ("test", test, False))
        for sequence in sequences
        for frame in range(frames)
    ]
    return _write(_pieces(relabel.uavid, size, seed, root / "uavid", names, uavid.SPEC), root / "uavid")


def write_uavid(root: Path, *, train: int = 4, val: int = 2, size: Size = 256, seed: int = 0) -> Path:
    """Patches as the split tool leaves them; `train_val` holds those of both splits."""
    for place in ("{}", "train_val"):
        names = [[f"{place.format(split)}/{kind}/seq{at + 1}_000000_0_0.png" for kind in ("images", "masks")]
                 for at, split in _splits(train=train, val=val)]  # fmt: skip
        _write(_pieces(relabel.uavid, size, seed, root / "uavid", names), root)
    return root / "uavid"


def write_grass(root: Path, *, train: int = 4, val: int = 2, size: Size = 256, seed: int = 0) -> Path:
    """Images (TIFF) and index masks of five degrees of cover."""
    return _ktda(root / "grass", ".tif", relabel.grass, _splits(train=train, val=val), size, seed)


def write_cloud(root: Path, *, train: int = 4, val: int = 2, test: int = 2, size: Size = 512, seed: int = 0) -> Path:
    """Images and index masks of clouds and their shadows."""
    return _ktda(root / "cloud", ".png", relabel.cloud, _splits(train=train, val=val, test=test), size, seed)


def write_dubai(root: Path, *, train: int = 4, val: int = 2, size: Size = (256, 300), seed: int = 0) -> Path:
    """Photographs (JPEG) and colour masks."""
    names = [(f"images/{split}/tile{at // 9 + 1}_part{at % 9 + 1:03d}.jpg",
              f"masks/{split}/tile{at // 9 + 1}_part{at % 9 + 1:03d}.png")
             for at, split in _splits(train=train, val=val)]  # fmt: skip
    return _write(_pieces(relabel.dubai, size, seed, root / "dubai", names, dubai.SPEC), root / "dubai")


def _patches(data: Any, stem: str, place: Path, numbers: tuple[int, int, int], size: Size, seed: int) -> Path:
    """Training, held out and test patches of Vaihingen or Potsdam."""
    names = [(f"{split}/images_1024/{name}.tif", f"{split}/masks_1024/{name}.png")
             for split, name in patch_names(data, stem, *numbers)]  # fmt: skip
    return _write(_pieces(relabel.isprs, size, seed, place, names), place)


def _ktda(place: Path, suffix: str, draw: Draw, splits: list[tuple[int, str]], size: Size, seed: int) -> Path:
    """Images and index masks in the folders that Grass and Cloud share."""
    names = [(f"img_dir/{split}/{place.name}_{at}{suffix}", f"ann_dir/{split}/{place.name}_{at}.png")
             for at, split in splits]  # fmt: skip
    return _write(_pieces(draw, size, seed, place, names), place)


def _originals(
    place: Path, stem: str, suffixes: tuple[str, str, str], spec: DatasetSpec, train: Sequence[str],
    test: Sequence[str], size: Size, seed: int,
) -> Path:  # fmt: skip
    """Whole tiles; `suffixes` of image, mask and eroded mask."""
    names = []
    for split, tiles, kinds in (("train", train, 2), ("test", test, 3)):
        folders = (f"{split}_images", f"{split}_masks", "test_masks_eroded")[:kinds]
        names += [[f"{folder}/{stem.format(tile)}{suffix}" for folder, suffix in zip(folders, suffixes, strict=False)]
                  for tile in tiles]  # fmt: skip
    return _write(_pieces(relabel.isprs, size, seed, place, names, spec), place)
