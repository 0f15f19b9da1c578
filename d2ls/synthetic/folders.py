"""Drawn data sets on the disk: complete small trees in the folder shape and the file formats of the real ones.

Every function writes below a data root and gives back the folder it filled; the numbers say how many pictures of each
split, `size` their height and width (or the side of a square) in pixels. Files that are there already stay as they are.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from d2ls.data.sets import dubai, potsdam, uavid, vaihingen
from d2ls.data.spec import DatasetSpec
from d2ls.synthetic import relabel
from d2ls.synthetic.pieces import Piece, Size, write_pieces


def vaihingen_patches(place: Path, *, train: int, validation: int, test: int, size: Size, seed: int) -> list[Piece]:
    """What `write_vaihingen` writes into a folder."""
    tiles = _deal(vaihingen.TRAIN_TILES, vaihingen.TEST_TILES, vaihingen.VALIDATION_TILE, (train, validation, test))
    return _patches(place, "top_mosaic_09cm_area{}_0_{}", tiles, size, seed)


def write_vaihingen(
    root: Path, *, folder: str = "vaihingen", train: int = 4, validation: int = 2, test: int = 2, size: Size = 256,
    seed: int = 0,
) -> Path:  # fmt: skip
    """Patches as the split tool leaves them; `validation` counts those of tile 30."""
    place = root / folder
    pieces = vaihingen_patches(place, train=train, validation=validation, test=test, size=size, seed=seed)
    return write_pieces(place, pieces)


def write_potsdam(
    root: Path, *, folder: str = "potsdam", train: int = 4, validation: int = 2, test: int = 2, size: Size = 256,
    seed: int = 0,
) -> Path:  # fmt: skip
    """Patches as the split tool leaves them; `validation` counts those of tile 2_10."""
    place = root / folder
    tiles = _deal(potsdam.TRAIN_TILES, potsdam.TEST_TILES, potsdam.VALIDATION_TILE, (train, validation, test))
    return write_pieces(place, _patches(place, "top_potsdam_{}_0_{}", tiles, size, seed))


def write_vaihingen_originals(
    root: Path, *, folder: str = "vaihingen", train: Sequence[str] = ("1", "30"), test: Sequence[str] = ("2",),
    size: Size = 300, seed: int = 0,
) -> Path:  # fmt: skip
    """Whole tiles with colour masks, the test tiles' eroded ones too."""
    names = ("top_mosaic_09cm_area{}.tif", "top_mosaic_09cm_area{}.tif", "top_mosaic_09cm_area{}_noBoundary.tif")
    return _originals(root / folder, vaihingen.SPEC, names, train, test, size, seed)


def write_potsdam_originals(
    root: Path, *, folder: str = "potsdam", train: Sequence[str] = ("2_10", "2_11"), test: Sequence[str] = ("2_13",),
    size: Size = 300, seed: int = 0,
) -> Path:  # fmt: skip
    """Whole tiles with colour masks, the test tiles' eroded ones too."""
    names = ("top_potsdam_{}_RGB.tif", "top_potsdam_{}_label.tif", "top_potsdam_{}_label_noBoundary.tif")
    return _originals(root / folder, potsdam.SPEC, names, train, test, size, seed)


def write_loveda(
    root: Path, *, train: int = 2, val: int = 1, test: int = 1, areas: Sequence[str] = ("Urban", "Rural"),
    size: Size = 256, seed: int = 0,
) -> Path:  # fmt: skip
    """Images and masks as published (0 no data, else class + 1) of each area; test images have no masks."""
    place, number = root / "LoveDA", count()
    pieces = []
    for split, pictures in (("Train", train), ("Val", val), ("Test", test)):
        for area in areas:
            for _ in range(pictures):
                at, home = next(number), place / split / area
                mask = None if split == "Test" else home / "masks_png" / f"{at}.png"
                image = home / "images_png" / f"{at}.png"
                pieces.append(Piece(draw=relabel.loveda_raw, size=size, seed=seed + at, image=image, mask=mask))
    return write_pieces(place, pieces)


def write_uavid_originals(
    root: Path, *, train: Sequence[str] = ("seq1", "seq2"), val: Sequence[str] = ("seq16",),
    test: Sequence[str] = ("seq21",), frames: int = 1, size: Size = (216, 384), seed: int = 0,
) -> Path:  # fmt: skip
    """Frames of the named sequences with colour masks; the test frames have none, as in the official release."""
    place, number = root / "uavid", count(seed)
    pieces = []
    for split, sequences in (("uavid_train", train), ("uavid_val", val), ("uavid_test", test)):
        for sequence in sequences:
            for frame in range(frames):
                home, name = place / split / sequence, f"{frame * 100:06d}.png"
                mask = None if split == "uavid_test" else home / "Labels" / name
                pieces.append(
                    Piece(
                        draw=relabel.uavid,
                        size=size,
                        seed=next(number),
                        image=home / "Images" / name,
                        mask=mask,
                        colours=uavid.SPEC,
                    )
                )
    return write_pieces(place, pieces)


def write_uavid(root: Path, *, train: int = 4, val: int = 2, size: Size = 256, seed: int = 0) -> Path:
    """Patches as the split tool leaves them; `train_val` holds those of both splits."""
    place = root / "uavid"
    pieces = []
    for at in range(train + val):
        split = "train" if at < train else "val"
        stem = f"seq{at + 1}_000000_0_0"
        for folder in (split, "train_val"):
            image, mask = place / folder / "images" / f"{stem}.png", place / folder / "masks" / f"{stem}.png"
            pieces.append(Piece(draw=relabel.uavid, size=size, seed=seed + at, image=image, mask=mask))
    return write_pieces(place, pieces)


def write_grass(root: Path, *, train: int = 4, val: int = 2, size: Size = 256, seed: int = 0) -> Path:
    """Images (TIFF) and index masks of five degrees of cover."""
    place, number = root / "grass", count()
    pieces = []
    for split, pictures in (("train", train), ("val", val)):
        for _ in range(pictures):
            at = next(number)
            image, mask = place / "img_dir" / split / f"grass_{at}.tif", place / "ann_dir" / split / f"grass_{at}.png"
            pieces.append(Piece(draw=relabel.grass, size=size, seed=seed + at, image=image, mask=mask))
    return write_pieces(place, pieces)


def write_cloud(root: Path, *, train: int = 4, val: int = 2, test: int = 2, size: Size = 512, seed: int = 0) -> Path:
    """Images and index masks of clouds and their shadows."""
    place, number = root / "cloud", count()
    pieces = []
    for split, pictures in (("train", train), ("val", val), ("test", test)):
        for _ in range(pictures):
            at = next(number)
            image, mask = place / "img_dir" / split / f"cloud_{at}.png", place / "ann_dir" / split / f"cloud_{at}.png"
            pieces.append(Piece(draw=relabel.cloud, size=size, seed=seed + at, image=image, mask=mask))
    return write_pieces(place, pieces)


def write_dubai(root: Path, *, train: int = 4, val: int = 2, size: Size = (256, 300), seed: int = 0) -> Path:
    """Photographs (JPEG) and colour masks."""
    place, number = root / "dubai", count()
    pieces = []
    for split, pictures in (("train", train), ("val", val)):
        for _ in range(pictures):
            at = next(number)
            stem = f"tile{at // 9 + 1}_part{at % 9 + 1:03d}"
            image, mask = place / "images" / split / f"{stem}.jpg", place / "masks" / split / f"{stem}.png"
            pieces.append(
                Piece(draw=relabel.dubai, size=size, seed=seed + at, image=image, mask=mask, colours=dubai.SPEC)
            )
    return write_pieces(place, pieces)


def _deal(
    train_tiles: Sequence[str], test_tiles: Sequence[str], held: str, numbers: tuple[int, int, int]
) -> list[tuple[str, str, int]]:
    """Split, tile and running number of each patch: training, held out and test patches, dealt to the tiles in turn."""
    others = [tile for tile in train_tiles if tile != held]
    dealt = []
    for split, tiles, number in zip(("train", "train", "test"), (others, [held], test_tiles), numbers, strict=True):
        dealt += [(split, tiles[at % len(tiles)], at // len(tiles)) for at in range(number)]
    return dealt


def _patches(place: Path, stem: str, tiles: list[tuple[str, str, int]], size: Size, seed: int) -> list[Piece]:
    pieces = []
    for at, (split, tile, number) in enumerate(tiles):
        name = stem.format(tile, number)
        image, mask = place / split / "images_1024" / f"{name}.tif", place / split / "masks_1024" / f"{name}.png"
        pieces.append(Piece(draw=relabel.isprs, size=size, seed=seed + at, image=image, mask=mask))
    return pieces


def _originals(
    place: Path, spec: DatasetSpec, names: tuple[str, str, str], train: Sequence[str], test: Sequence[str], size: Size,
    seed: int,
) -> Path:  # fmt: skip
    """Whole tiles; `names` of image, mask and eroded mask."""
    pieces = []
    for at, (split, tile) in enumerate([("train", tile) for tile in train] + [("test", tile) for tile in test]):
        image, mask, eroded = (name.format(tile) for name in names)
        pieces.append(
            Piece(
                draw=relabel.isprs,
                size=size,
                seed=seed + at,
                image=place / f"{split}_images" / image,
                mask=place / f"{split}_masks" / mask,
                colours=spec,
                eroded=place / "test_masks_eroded" / eroded if split == "test" else None,
            )
        )
    return write_pieces(place, pieces)
