"""What Vaihingen and Potsdam share: classes, patches of tiles, protocols (ISPRS 2D Semantic Labeling)."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.pairs import Pair, match
from d2ls.data.root import check_protocol, data_root
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError

CLASSES = ("ImSurf", "Building", "LowVeg", "Tree", "Car", "Clutter")
COLOURS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
_REFERENCE_CAR = (255, 204, 0)  # the reference writes cars so; official yellow is (255, 255, 0)


def spec(name: str) -> DatasetSpec:
    """The labels of an ISPRS data set."""
    return DatasetSpec(
        name=name,
        classes=CLASSES,
        colours=COLOURS,
        ignore_index=6,
        ignore_colours=((0, 0, 0),),
        scored=(0, 1, 2, 3, 4),
        also_read={_REFERENCE_CAR: 4},
        reference_colours=(*COLOURS[:4], _REFERENCE_CAR, COLOURS[5]),
        citation="ISPRS WG III/4, 2D Semantic Labeling Contest (Potsdam and Vaihingen).",
    )


class Patches:
    """Data sets over the patches of `<folder>/{train,test}/{images_1024,masks_1024}`.

    Args:
        labels: what the labels mean.
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
        return self._dataset(
            partial(self._train if protocol == "strict" else self._split, "train"), augmentation=augmentation
        )

    def val(self, protocol: str) -> SegmentationDataset:
        """Variant 0 of the validation tile's training patches; "published": the test patches."""
        check_protocol(protocol)
        return self._dataset(self._val) if protocol == "strict" else self.test()

    def test(self) -> SegmentationDataset:
        """Test patches."""
        return self._dataset(partial(self._split, "test"))

    def _dataset(self, listing: Any, **options: Any) -> SegmentationDataset:
        return SegmentationDataset(self.labels, listing, **options)

    def _split(self, split: str) -> list[Pair]:
        if self.prepare is not None:
            self.prepare()
        folder = self._place(split)
        return match(folder / "images_1024", folder / "masks_1024", self._made_by())

    def _train(self, split: str) -> list[Pair]:
        kept = [pair for pair in self._split(split) if self._tile(pair)[0] != self.validation]
        if not kept:
            raise DataError(
                f"{self._place(split)}: all patches are of tile {self.validation}, which protocol 'strict' keeps for "
                "validation. Add the other training tiles, or set protocol = 'published'."
            )
        return kept

    def _val(self) -> list[Pair]:
        held = [pair for pair in self._split("train") if self._tile(pair) == (self.validation, "0")]
        if not held:
            raise DataError(
                f"{self._place('train')}: no patches of tile {self.validation} (variant 0), the validation set of "
                f"protocol 'strict'. Add that tile to the training originals and split them again with "
                f"tools/{self.labels.name}_patch_split.py, or use protocol = 'published' (test patches)."
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
        tile = "_".join(str(int(number)) for number in found["tile"].split("_"))
        return tile, found["variant"]

    def _place(self, split: str) -> Path:
        return data_root() / self.folder / split

    def _made_by(self) -> str:
        return f"Make the patches with tools/{self.labels.name}_patch_split.py."
