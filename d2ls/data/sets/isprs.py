"""Common parts of Vaihingen and Potsdam (ISPRS 2D Semantic Labeling): classes, tiles, patches, protocols."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from d2ls.data.augment import Augmentation
from d2ls.data.io import SUFFIXES
from d2ls.data.pairs import Pair, list_images, match
from d2ls.data.sets import layout
from d2ls.data.sets.facts import Splits
from d2ls.data.sets.layout import ImageFolder, MaskFolder, OriginalTile, Plan, SplitStep, Step, Tiling
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError

CLASSES = ("ImSurf", "Building", "LowVeg", "Tree", "Car", "Clutter")
COLOURS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
REFERENCE_CAR = (255, 204, 0)  # colour of cars in masks of the reference; the official one is (255, 255, 0)
ERODED = "_noBoundary"  # end of the names of labels whose boundaries are black, which is ignored


def spec(name: str) -> DatasetSpec:
    """The classes of an ISPRS data set."""
    return DatasetSpec(
        name=name,
        classes=CLASSES,
        colours=COLOURS,
        ignore_index=6,
        ignore_colours=((0, 0, 0),),
        scored=(0, 1, 2, 3, 4),
        also_read={REFERENCE_CAR: 4},
        reference_colours=(*COLOURS[:4], REFERENCE_CAR, COLOURS[5]),
        citation="ISPRS WG III/4, 2D Semantic Labeling Contest (Potsdam and Vaihingen).",
    )


def patches(
    labels: DatasetSpec,
    home: str,
    name: str,
    validation: str,
    augmentation: Augmentation,
    prepare: Callable[[], object] = lambda: None,
) -> Splits:
    """Data sets over the patches of `<home>/{train,test}/{images_1024,masks_1024}`.

    Protocol "strict" keeps all variants of one tile, `validation` (without leading zeros), out of training, and
    validates on its variant 0; "published" trains on all tiles and validates on the test patches. The pattern `name`
    has the groups `tile` and `variant` of a patch's stem. `prepare` is called before the folder is listed.
    """
    tool = f"tools/{labels.name}_patch_split.py"

    def tile_of(pair: Pair) -> tuple[str, str]:
        """Tile and variant of a training patch."""
        if (found := re.search(name, pair.name)) is None:
            raise DataError(
                f"{pair.image}: the name does not tell its tile, which protocol 'strict' needs. Expected names as "
                f"{tool} writes them, or set protocol = 'published'."
            )
        return without_zeros(found["tile"]), found["variant"]

    def pairs(home: Path, split: str, protocol: str) -> list[Pair]:
        prepare()
        folder = home / ("train" if split == "train" or (split, protocol) == ("val", "strict") else "test")
        found = match(folder / "images_1024", folder / "masks_1024", f"Make the patches with {tool}.")
        if protocol == "published" or split == "test":
            return found
        if split == "train":
            kept = [pair for pair in found if tile_of(pair)[0] != validation]
            problem = f"all patches are of tile {validation}, which protocol 'strict' keeps for validation. Add others"
        else:
            kept = [pair for pair in found if tile_of(pair) == (validation, "0")]
            problem = (
                f"no patches of tile {validation} (variant 0), the validation set of protocol 'strict'. Add that tile "
                f"to the training originals and split them again with {tool}"
            )
        if not kept:
            raise DataError(f"{folder}: {problem}, or set protocol = 'published'.")
        return kept

    return Splits(labels, home, pairs, augmentation)


def without_zeros(tile: str) -> str:
    """The number of a tile without leading zeros, `2_10` for `02_10`."""
    return "_".join(str(int(number)) for number in tile.split("_"))


class Naming(NamedTuple):
    """Ends of the names of a tile's image and mask, after their common stem."""

    image: str
    mask: str


def tiles(images: Path, masks: Path, naming: Naming) -> list[OriginalTile]:
    """Tiles of two folders in the order of their names (raises DataError: no files of these names, or no partner)."""
    found, partners = _named(images, naming.image, "images"), _named(masks, naming.mask, "masks")
    sides = ("image", images, found, naming.image), ("mask", masks, partners, naming.mask)
    for (what, folder, here, _), (other, where, there, ending) in (sides, sides[::-1]):
        if alone := [stem for stem in here if stem not in there]:
            raise DataError(
                f"{folder}: no {other} for {len(alone)} of {len(here)} {what}s (first: {here[alone[0]].name}; expected "
                f"{alone[0]}{ending}.tif in {where}). Every tile needs both: complete the folders, or move these "
                f"{what}s away."
            )
    return [OriginalTile(stem, path, partners[stem]) for stem, path in found.items()]


def plan(
    spec: DatasetSpec,
    stem: str,
    splits: Mapping[str, Sequence[str]],
    names: tuple[Naming, Naming],
    found: Iterable[tuple[PurePosixPath, str, str]],
    left_out: Mapping[str, str] | None = None,
) -> Plan:
    """Targets of the original files: images and masks of all tiles, eroded masks of test tiles.

    `splits` are the tiles of "train" and "test"; `names` are for full and eroded masks; `found` are path, tile and kind
    ("images", "masks" or "masks_eroded") of each file; `left_out` says why for tiles of no split.
    """
    ends = {"images": names[0].image, "masks": names[0].mask, "masks_eroded": names[1].mask}
    targets = {
        (tile, kind): PurePosixPath(spec.name, f"{split}_{kind}", f"{stem}{tile}{end}.tif")
        for split, tiles in splits.items()
        for kind, end in ends.items()
        for tile in tiles
        if split == "test" or kind != "masks_eroded"
    }
    made, official = Plan(expected=[*targets.values()]), {tile for tile, _ in targets}
    for path, number, kind in found:
        tile = without_zeros(number)
        if tile not in official:
            made.notes.append(f"{path}: left out, {(left_out or {}).get(tile, 'it is in no official split')}")
        elif (tile, kind) in targets:
            made.files[targets[tile, kind]].append(path)
    return made


def steps(home: Path, tiling: Callable[..., Tiling], names: tuple[Naming, Naming], *, overlap: bool) -> list[Step]:
    """Training patches (which may overlap by half), test patches of eroded labels, and full colour masks of these."""
    side, made = layout.PATCH_SIDE, list[Step]()
    for split, masks, output in (
        ("train", "train_masks", "masks_1024"),
        ("test", "test_masks_eroded", "masks_1024"),
        ("test", "test_masks", "masks_1024_rgb"),
    ):
        training = split == "train"
        stride = side // 2 if training and overlap else side
        inputs = home / f"{split}_images", home / masks
        how = tiling(
            training=training, images=home / split / "images_1024", masks=home / split / output, size=(side, side),
            stride=(stride, stride), variants=3 if training else 1, colours=output.endswith("rgb"),
        )  # fmt: skip
        listing = partial(tiles, *inputs, names[masks.endswith("eroded")])
        outputs = (how.masks,) if how.colours else (how.images, how.masks)
        made.append(SplitStep(f"{home.name}/{split}/{output}", inputs, outputs, listing, how))
    return made


def folders(home: Path, names: tuple[Naming, Naming], **options: Any) -> list[ImageFolder]:
    """Originals and patches; `options` of the folders of the originals' masks."""
    made, (full, eroded) = [], names
    for split in ("train", "test"):
        masks = (
            MaskFolder(home / f"{split}_masks", True, full.mask, None if full.mask else ERODED, **options),
            MaskFolder(home / f"{split}_masks_eroded", True, eroded.mask, optional=True, **options),
        )
        patches = (
            MaskFolder(home / split / "masks_1024"),
            MaskFolder(home / split / "masks_1024_rgb", True, optional=True),
        )
        made.append(ImageFolder(f"{split} originals", home / f"{split}_images", masks, "originals", full.image))
        made.append(ImageFolder(split, home / split / "images_1024", patches, "patches"))
    return made


def _named(folder: Path, ending: str, what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Expected the folder with the original {what}.")
    everything = list_images(folder)
    found = {
        stem.removesuffix(ending): path
        for stem, path in everything.items()
        if stem.endswith(ending) and (ending or not stem.endswith(ERODED))
    }
    if found:
        return found
    wanted = f"names end in {ending}" if ending else f"names do not end in {ERODED}"
    first = f"{len(everything)} other images there, first: {min(everything.values()).name}" if everything else ""
    raise DataError(
        f"{folder}: no {what} ({', '.join(SUFFIXES)}) whose {wanted}; {first or 'no images there at all'}. Give the "
        "folder of the originals, and choose among them with --eroded (labels) and, for Potsdam, --rgb-image."
    )
