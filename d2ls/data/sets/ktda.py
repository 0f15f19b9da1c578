"""Common parts of Grass and Cloud (KTDA): folders `img_dir` and `ann_dir`, augmentation, one split for both protocols.

Their archives hold no file names that tell them apart: the folder above `img_dir` is named after the set.
"""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from d2ls.data.augment import Augmentation
from d2ls.data.pairs import Pair, match
from d2ls.data.sets.facts import DatasetFacts, Splits
from d2ls.data.sets.layout import ImageFolder, MaskFolder, Plan, plan_by_path
from d2ls.data.spec import DatasetSpec

AUGMENTATION = Augmentation(mosaic=0.25, flip=0.5, brightness_contrast=0.25, sharpen=0.5)
SPLITS = ("train", "val", "test")


def splits(spec: DatasetSpec, *, test: str = "test") -> Splits:
    """Data sets over `<name>/{img_dir,ann_dir}/<split>`, of which the split `test` serves for tests."""

    def pairs(home: Path, split: str, _: str) -> list[Pair]:
        split = test if split == "test" else split
        made_by = f"Put the downloaded folders there with tools/prepare_data.py {spec.name}."
        return match(home / "img_dir" / split, home / "ann_dir" / split, made_by)

    return Splits(spec, spec.name, pairs, AUGMENTATION)


def facts(made: Splits, *, words: tuple[str, ...], others: tuple[str, ...], downloads: str) -> DatasetFacts:
    """Description of a set; `words` occur in names of its own folders in the archives, `others` in its sister's."""

    def plan(paths: Sequence[PurePosixPath], read: Callable[[PurePosixPath], bytes]) -> Plan:
        """Files of `<root>/{img_dir,ann_dir}/<split>`; of several roots the one that is named after this set."""
        roots = {root: root.as_posix().lower() for path in paths if (root := _root(path)) is not None}
        own = {root for root, name in roots.items() if any(word in name for word in words)}
        own = own or {root for root, name in roots.items() if not any(word in name for word in others)}
        planned = plan_by_path(
            lambda path: PurePosixPath(made.home, *path.parts[-3:]) if _root(path) in own else None,
            ("img_dir", "ann_dir"),
        )
        return planned(paths, read)

    return made.facts(folders=_folders, downloads=downloads, plan=plan)


def _root(path: PurePosixPath) -> PurePosixPath | None:
    """The folder above `img_dir` or `ann_dir` that a file belongs to."""
    parts = path.parts
    is_file = len(parts) >= 3 and parts[-3] in ("img_dir", "ann_dir") and parts[-2] in SPLITS
    return PurePosixPath(*parts[:-3]) if is_file else None


def _folders(home: Path) -> list[ImageFolder]:
    return [ImageFolder(split, home / "img_dir" / split, (MaskFolder(home / "ann_dir" / split),)) for split in SPLITS]
