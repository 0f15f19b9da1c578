"""Common parts of Grass and Cloud (KTDA): folders `img_dir` and `ann_dir`, augmentation, one split for both protocols.

Their archives hold no file names that tell them apart: the folder above `img_dir` is named after the set.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.pairs import Pair, match
from d2ls.data.root import check_protocol, data_root
from d2ls.data.sets.facts import DatasetFacts, Views
from d2ls.data.sets.layout import ImageFolder, MaskFolder, Plan, plan_by_path
from d2ls.data.spec import DatasetSpec

AUGMENTATION = Augmentation(mosaic=0.25, flip=0.5, brightness_contrast=0.25, sharpen=0.5)
SPLITS = ("train", "val", "test")


class Splits:
    """Data sets over `<name>/{img_dir,ann_dir}/<split>` below the data root.

    Args:
        spec: classes; its name is the folder's.
        test: the split that serves for tests.
        words: parts of names of the set's own folders in the archives.
        others: parts of names of the sister set's folders.
        downloads: the folder to download.
    """

    def __init__(
        self, spec: DatasetSpec, *, test: str, words: tuple[str, ...], others: tuple[str, ...], downloads: str
    ) -> None:
        self.spec, self._test, self._words, self._others = spec, test, words, others
        self._downloads = downloads

    def train(self, protocol: str = "strict", **changes: Any) -> SegmentationDataset:
        """Training images, the same in both protocols.

        Args:
            protocol: "strict" or "published".
            changes: fields of the augmentation, e.g. `sharpen=0`.
        """
        check_protocol(protocol)
        pairs = partial(self._pairs, "train")
        return SegmentationDataset(self.spec, pairs, augmentation=replace(AUGMENTATION, **changes))

    def val(self, protocol: str = "strict") -> SegmentationDataset:
        """Validation images, the same in both protocols."""
        check_protocol(protocol)
        return SegmentationDataset(self.spec, partial(self._pairs, "val"))

    def test(self) -> SegmentationDataset:
        """Test images."""
        return SegmentationDataset(self.spec, partial(self._pairs, self._test))

    def facts(self) -> DatasetFacts:
        """Description of the set."""
        return DatasetFacts(
            spec=self.spec,
            val=self.val,
            test=self.test,
            d4=Views(hflip=True, scales=(0.75, 1.0, 1.25, 1.5)),
            home=self.spec.name,
            folders=_folders,
            downloads=self._downloads,
            plan=self._plan,
        )

    def _pairs(self, split: str) -> list[Pair]:
        folder = data_root() / self.spec.name
        made_by = f"Put the downloaded folders there with tools/prepare_data.py {self.spec.name}."
        return match(folder / "img_dir" / split, folder / "ann_dir" / split, made_by)

    def _plan(self, paths: Sequence[PurePosixPath], read: Callable[[PurePosixPath], bytes]) -> Plan:
        """Files of `<root>/{img_dir,ann_dir}/<split>`; of several roots the one that is named after this set."""
        roots = {root: root.as_posix().lower() for path in paths if (root := _root(path)) is not None}
        own = {root for root, name in roots.items() if any(word in name for word in self._words)}
        own = own or {root for root, name in roots.items() if not any(word in name for word in self._others)}

        def target(path: PurePosixPath) -> PurePosixPath | None:
            return PurePosixPath(self.spec.name, *path.parts[-3:]) if _root(path) in own else None

        return plan_by_path(target, ("img_dir", "ann_dir"))(paths, read)


def _root(path: PurePosixPath) -> PurePosixPath | None:
    """The folder above `img_dir` or `ann_dir` that a file belongs to."""
    parts = path.parts
    is_file = len(parts) >= 3 and parts[-3] in ("img_dir", "ann_dir") and parts[-2] in SPLITS
    return PurePosixPath(*parts[:-3]) if is_file else None


def _folders(home: Path) -> list[ImageFolder]:
    return [ImageFolder(split, home / "img_dir" / split, (MaskFolder(home / "ann_dir" / split),)) for split in SPLITS]
