"""Common parts of Vaihingen and Potsdam (ISPRS 2D Semantic Labeling): classes, tiles, patches, protocols."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.io import SUFFIXES
from d2ls.data.pairs import Pair, list_images, match
from d2ls.data.root import check_protocol, data_root
from d2ls.data.sets import layout
from d2ls.data.sets.layout import ImageFolder, MaskFolder, OriginalTile, SplitStep, Step, Tiling
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError

CLASSES = ("ImSurf", "Building", "LowVeg", "Tree", "Car", "Clutter")
COLOURS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
REFERENCE_CAR = (255, 204, 0)
"""Colour of cars in masks of the reference; the official one is (255, 255, 0)."""
ERODED = "_noBoundary"
"""End of the names of labels whose boundaries are black, which is ignored."""


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


class Patches:
    """Data sets over the patches of `<folder>/{train,test}/{images_1024,masks_1024}`.

    Args:
        labels: the classes.
        folder: name below the data root, or a path.
        name: pattern of a training patch's stem with the groups `tile` and `variant`.
        validation: the tile held out by protocol "strict", as `tile` gives it.
        prepare: called before the folder is first listed; the demo draws its scenes here.
    """

    def __init__(
        self,
        labels: DatasetSpec,
        folder: str,
        name: str,
        validation: str,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self.labels, self.folder, self.name, self.validation = labels, folder, re.compile(name), validation
        self.prepare = prepare

    def train(self, protocol: str, augmentation: Augmentation) -> SegmentationDataset:
        """Training patches; "strict" leaves out all variants of the validation tile."""
        check_protocol(protocol)
        pairs = self._train if protocol == "strict" else partial(self._split, "train")
        return SegmentationDataset(self.labels, pairs, augmentation=augmentation)

    def val(self, protocol: str) -> SegmentationDataset:
        """Variant 0 of the validation tile's training patches; "published": the test patches."""
        check_protocol(protocol)
        return SegmentationDataset(self.labels, self._val) if protocol == "strict" else self.test()

    def test(self) -> SegmentationDataset:
        """Test patches."""
        return SegmentationDataset(self.labels, partial(self._split, "test"))

    def _split(self, split: str) -> list[Pair]:
        if self.prepare is not None:
            self.prepare()
        folder = data_root() / self.folder / split
        made_by = f"Make the patches with tools/{self.labels.name}_patch_split.py."
        return match(folder / "images_1024", folder / "masks_1024", made_by)

    def _train(self) -> list[Pair]:
        kept = [pair for pair in self._split("train") if self._tile(pair)[0] != self.validation]
        if not kept:
            raise DataError(
                f"{data_root() / self.folder / 'train'}: all patches are of tile {self.validation}, which protocol "
                "'strict' keeps for validation. Add the other training tiles, or set protocol = 'published'."
            )
        return kept

    def _val(self) -> list[Pair]:
        held = [pair for pair in self._split("train") if self._tile(pair) == (self.validation, "0")]
        if not held:
            raise DataError(
                f"{data_root() / self.folder / 'train'}: no patches of tile {self.validation} (variant 0), the "
                "validation set of protocol 'strict'. Add that tile to the training originals and split them again "
                f"with tools/{self.labels.name}_patch_split.py, or use protocol = 'published' (test patches)."
            )
        return held

    def _tile(self, pair: Pair) -> tuple[str, str]:
        """Tile and variant of a training patch."""
        found = self.name.search(pair.name)
        if found is None:
            raise DataError(
                f"{pair.image}: the name does not tell its tile, which protocol 'strict' needs. Expected names as "
                f"tools/{self.labels.name}_patch_split.py writes them, or set protocol = 'published'."
            )
        return without_zeros(found["tile"]), found["variant"]


def without_zeros(tile: str) -> str:
    """The number of a tile without leading zeros, `2_10` for `02_10`."""
    return "_".join(str(int(number)) for number in tile.split("_"))


@dataclass(frozen=True)
class Naming:
    """Ends of the names of a tile's image and mask, after their common stem."""

    image: str
    mask: str


def tiles(images: Path, masks: Path, naming: Naming) -> list[OriginalTile]:
    """Tiles of two folders in the order of their names.

    Raises:
        DataError: a folder is missing or has no files of these names, or a file has no partner.
    """
    found, partners = _named(images, naming.image, "images"), _named(masks, naming.mask, "masks")
    for here, there, folder, what, other, ending in (
        (found, partners, images, "image", "mask", naming.mask),
        (partners, found, masks, "mask", "image", naming.image),
    ):
        if alone := [stem for stem in here if stem not in there]:
            where = masks if other == "mask" else images
            raise DataError(
                f"{folder}: no {other} for {len(alone)} of {len(here)} {what}s (first: {here[alone[0]].name}; expected "
                f"{alone[0]}{ending}.tif in {where}). Every tile needs both: complete the folders, or move these "
                f"{what}s away."
            )
    return [OriginalTile(stem, path, partners[stem]) for stem, path in found.items()]


def expected(home: PurePosixPath, train: Iterable[str], test: Iterable[str], stem: str, ends: Naming, eroded: str
             ) -> list[PurePosixPath]:  # fmt: skip
    """Original files that a set needs: images and masks of all tiles, eroded masks of test tiles."""
    kinds = [("train_images", ends.image, train), ("train_masks", ends.mask, train), ("test_images", ends.image, test)]
    kinds += [("test_masks", ends.mask, test), ("test_masks_eroded", eroded, test)]
    return [home / folder / f"{stem}{tile}{end}.tif" for folder, end, tiles in kinds for tile in tiles]


def steps(home: Path, tiling: Callable[..., Tiling], naming: Callable[[bool], Naming], *, overlap: bool) -> list[Step]:
    """Training patches, test patches of eroded labels, and full colour masks of the latter.

    Args:
        home: the set's folder.
        tiling: makes the tiling of the training (`training=True`) or test tiles.
        naming: names of the originals with eroded or full labels.
        overlap: training patches overlap by half.
    """
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
        listing = partial(tiles, *inputs, naming(masks.endswith("eroded")))
        made.append(SplitStep(f"{home.name}/{split}/{output}", inputs, listing, how))
    return made


def folders(home: Path, full: Naming, eroded: Naming, **options: Any) -> list[ImageFolder]:
    """Originals and patches; `options` of the folders of the originals' masks."""
    made = []
    for split in ("train", "test"):
        excluded = "" if full.mask else ERODED
        masks = [MaskFolder(home / f"{split}_masks", True, full.mask, excluded, **options)]
        patches = [MaskFolder(home / split / "masks_1024")]
        if (home / f"{split}_masks_eroded").is_dir():
            masks.append(MaskFolder(home / f"{split}_masks_eroded", True, eroded.mask, **options))
        if (home / split / "masks_1024_rgb").is_dir():
            patches.append(MaskFolder(home / split / "masks_1024_rgb", True))
        made.append(ImageFolder(f"{split} originals", home / f"{split}_images", tuple(masks), "originals", full.image))
        made.append(ImageFolder(split, home / split / "images_1024", tuple(patches), "patches"))
    return made


def _named(folder: Path, ending: str, what: str) -> dict[str, Path]:
    """Files whose stem ends so, by the stem before it."""
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
    there = f"{len(everything)} other images there, first: {next(iter(everything.values())).name}" if everything else (
        "no images there at all"
    )  # fmt: skip
    raise DataError(
        f"{folder}: no {what} ({', '.join(SUFFIXES)}) whose {wanted}; {there}. Give the folder of the originals, and "
        "choose among them with --eroded (labels) and, for Potsdam, --rgb-image."
    )
