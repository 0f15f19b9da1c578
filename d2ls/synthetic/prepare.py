"""The demo's data: drawn scenes in Vaihingen's layout, made once in `<data root>/demo`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

from d2ls.data import io as files
from d2ls.data.root import data_root
from d2ls.data.sets import vaihingen
from d2ls.errors import DataError
from d2ls.synthetic.scene import draw_scene

FOLDER = "demo"
VERSION = 2  # another drawing or another choice of pictures needs another number
TRAIN, VALIDATION, TEST, SIZE = 320, 16, 24, 256
_MARKER = "drawn_by_d2ls.json"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A scene to be drawn and its two files."""

    seed: int
    image: Path
    mask: Path

    def exists(self) -> bool:
        """Whether both files are there."""
        return self.image.is_file() and self.mask.is_file()


@dataclass(frozen=True, kw_only=True)
class Marker:
    """What a run notes in the folder.

    Attributes:
        version: of the drawing.
        complete: whether the run came to its end.
        stale: whether pictures of an older version may still be there.
        files: names below the folder of all files that were drawn.
    """

    version: int
    complete: bool
    stale: bool
    files: list[str]


def prepare_demo(root: Path | None = None, *, progress: bool = True) -> Path:
    """Draw the demo's scenes where they are missing: 320 for training, 16 of tile 30, 24 for testing, 256 px each.

    An interrupted run is completed by the next one, scenes of an older version are drawn anew, and two processes may
    run at the same time: each file appears whole, with the same content from either.

    Args:
        root: the data root; None takes `data_root()`.
        progress: show a bar while drawing.

    Returns:
        The folder `demo`, for `vaihingen.train(folder="demo")` and its like.

    Raises:
        DataError: the folder holds files that this function has not made, or cannot be written.
    """
    folder = (data_root() if root is None else root) / FOLDER
    pieces = [
        Piece(
            seed=VERSION * 100_000 + at,
            image=folder / split / "images_1024" / f"{name}.tif",
            mask=folder / split / "masks_1024" / f"{name}.png",
        )
        for at, (split, name) in enumerate(patch_names(vaihingen, "top_mosaic_09cm_area", TRAIN, VALIDATION, TEST))
    ]
    names = sorted(path.relative_to(folder).as_posix() for piece in pieces for path in (piece.image, piece.mask))
    known = _read_marker(folder)
    stale = known is not None and (known.stale or known.version != VERSION)
    missing = [piece for piece in pieces if stale or not piece.exists()]
    if not missing and known is not None and known.complete:
        return folder
    obsolete = sorted(set(known.files) - set(names)) if known else []
    _write_marker(folder, Marker(version=VERSION, complete=False, stale=stale, files=names + obsolete))
    for piece in track(missing, "Drawing the demo's scenes", disable=not (progress and missing)):
        write_piece(piece)
    for name in obsolete:
        path = (folder / name).resolve()
        if path.is_relative_to(folder.resolve()):  # never anything outside the folder
            path.unlink(missing_ok=True)
    _write_marker(folder, Marker(version=VERSION, complete=True, stale=False, files=names))
    return folder


def patch_names(data: Any, stem: str, train: int, validation: int, test: int) -> list[tuple[str, str]]:
    """Split and file stem of patches of `vaihingen` or `potsdam`, dealt to its tiles; the held-out tile's validate."""
    held = data.VALIDATION_TILE
    others = [tile for tile in data.TRAIN_TILES if tile != held]
    dealt = (("train", others, train), ("train", [held], validation), ("test", data.TEST_TILES, test))
    return [
        (split, f"{stem}{tiles[at % len(tiles)]}_0_{at // len(tiles)}")
        for split, tiles, number in dealt
        for at in range(number)
    ]


def write_piece(piece: Piece) -> None:
    """Draw a scene and write its files, each whole or not at all."""
    image, mask = draw_scene(SIZE, piece.seed)
    for path in (piece.image, piece.mask):
        _make_folder(path.parent)
    files.write_tiff(piece.image, image)
    files.write_png(piece.mask, mask)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise DataError(f"{folder}: this folder cannot be made: {problem.strerror}.") from problem


def _read_marker(folder: Path) -> Marker | None:
    """What an earlier run noted; None where there is nothing yet."""
    path = folder / _MARKER
    try:
        if path.exists():
            return Marker(**json.loads(path.read_text(encoding="utf-8")))
        found = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    except (OSError, ValueError, TypeError) as problem:
        raise DataError(
            f"{path}: cannot be read ({problem}). Move the folder {folder} away; the demo is then drawn anew."
        ) from problem
    if foreign := [name for name in found if not name.startswith(".")]:
        raise DataError(
            f"{folder}: holds {len(foreign)} files or folders (first: {foreign[0]}) that were not drawn for the demo "
            f"(no {_MARKER} beside them). Move them away, or set D2LS_DATA to another data root."
        )
    return None


def _write_marker(folder: Path, marker: Marker) -> None:
    _make_folder(folder)
    files.write_bytes(folder / _MARKER, json.dumps(asdict(marker), indent=0).encode())
