"""What Grass and Cloud share: folders `img_dir` and `ann_dir`, augmentation, and one split for both protocols."""

from dataclasses import replace
from functools import partial
from typing import Any

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.pairs import Pair, match
from d2ls.data.root import check_protocol, data_root
from d2ls.data.sets.facts import Views
from d2ls.data.spec import DatasetSpec

D4 = Views(hflip=True, scales=(0.75, 1.0, 1.25, 1.5))
AUGMENTATION = Augmentation(mosaic=0.25, flip=0.5, brightness_contrast=0.25, sharpen=0.5)


class Splits:
    """Data sets over `<name>/{img_dir,ann_dir}/<split>` below the data root.

    Args:
        labels: what the labels mean; its name is the folder's.
    """

    def __init__(self, labels: DatasetSpec) -> None:
        self.labels = labels

    def train(self, protocol: str = "strict", **changes: Any) -> SegmentationDataset:
        """Training images, the same in both protocols.

        Args:
            protocol: "strict" or "published".
            changes: fields of the augmentation, e.g. `sharpen=0`.
        """
        check_protocol(protocol)
        return SegmentationDataset(
            self.labels, partial(self._pairs, "train"), augmentation=replace(AUGMENTATION, **changes)
        )

    def val(self, protocol: str = "strict") -> SegmentationDataset:
        """Validation images, the same in both protocols."""
        check_protocol(protocol)
        return self.evaluation("val")

    def evaluation(self, split: str) -> SegmentationDataset:
        """The images of a split, as they are."""
        return SegmentationDataset(self.labels, partial(self._pairs, split))

    def _pairs(self, split: str) -> list[Pair]:
        folder = data_root() / self.labels.name
        made_by = f"Put the downloaded folders there with tools/prepare_data.py {self.labels.name}."
        return match(folder / "img_dir" / split, folder / "ann_dir" / split, made_by)
