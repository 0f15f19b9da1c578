"""Declarative description of a data set on the disk: archives, tiles, folders, and the steps between them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal

from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError

Size = tuple[int, int]  # height and width in pixels
PATCH_SIDE = 1024  # side in pixels of the patches that prepare_data cuts


@dataclass
class Plan:
    """Targets of the downloaded files, below the data root."""

    # candidates for each target, the preferred one first
    files: dict[PurePosixPath, list[PurePosixPath]] = field(default_factory=lambda: defaultdict(list))
    expected: list[PurePosixPath] = field(default_factory=list)  # targets that must exist in the end
    notes: list[str] = field(default_factory=list)  # files left out, and why
    problems: list[str] = field(default_factory=list)  # what is missing
    preferred: str = ""  # name of a folder whose files are taken where those of one target differ


Planner = Callable[[Sequence[PurePosixPath], Callable[[PurePosixPath], bytes]], Plan]
"""Makes the plan from the paths of all downloaded files (archives count as folders) and a function that reads one."""


def plan_by_path(
    target: Callable[[PurePosixPath], PurePosixPath | None], partners: tuple[str, str], unlabelled: str = ""
) -> Planner:
    """A planner for data sets in which a file's path tells its target below the data root, None for files of no use.

    `partners` are the folders of images and of masks, which hold files of one stem, but for the folder `unlabelled`.
    """

    def plan(paths: Sequence[PurePosixPath], _: Callable[[PurePosixPath], bytes]) -> Plan:
        made = Plan()
        for path in paths:
            if (found := target(path)) is not None:
                made.files[found].append(path)
        stems = {found.with_suffix("") for found in made.files}
        other = dict([partners, partners[::-1]])
        for found in sorted(made.files):
            partner = PurePosixPath(*(other.get(part, part) for part in found.parts)).with_suffix("")
            if unlabelled not in found.parts and partner not in stems:
                made.problems.append(f"{found}: no partner {partner}.*")
        return made

    return plan


@dataclass(frozen=True)
class OriginalTile:
    """An original image and its colour mask; `stem` begins the names of its patches."""

    stem: str
    image: Path
    mask: Path


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Settings by which tiles are cut into patches, and the folders of the patches (ConfigError: one out of range)."""

    spec: DatasetSpec  # classes and colours
    images: Path  # folders of the patches; `masks` also holds the folder `origin` of a run with `colours`
    masks: Path
    size: Size  # of the grid
    stride: Size
    variants: Literal[1, 3] = 1  # 1, or 3 for horizontal and vertical flips as well
    scale: float = 1.0  # image and mask are resized by it first
    canvas: Size | None = None  # fixed size to cut from, instead of the next multiple of the patch size
    oversample_class: int | None = None  # index of the class around which additional crops are taken, or None
    colours: bool = False  # write colour masks instead of indices
    legend: Literal["official", "reference"] = "official"  # which colours
    unknown: Literal["error", "ignore"] = "error"  # colours of no class are an error, or read as ignore
    suffix: Literal[".tif", ".png"] = ".tif"  # format of the image patches
    off_palette: Mapping[str, str] = field(default_factory=dict)  # stems of tiles read by threshold, and why
    faulty: tuple[str, ...] = ()  # stems of tiles that should not be used

    def __post_init__(self) -> None:
        for name, values in (("split size", self.size), ("stride", self.stride)):
            if min(values) < 1:
                raise ConfigError(f"{name} is {min(values)}; expected pixels, 1 or more.")
        if self.images.resolve() == self.masks.resolve():
            raise ConfigError(f"{self.images}: images and masks of one name need two folders; give two different ones.")
        if not 1 / 64 <= self.scale <= 64:
            raise ConfigError(f"val-scale is {self.scale}; expected a factor from 1/64 to 64.")


@dataclass(frozen=True)
class Task:
    """Something that is made of originals."""

    name: str  # output, for the user and the journal
    inputs: tuple[Path, ...]  # folders that are read
    outputs: tuple[Path, ...]  # folders that only this step fills


@dataclass(frozen=True)
class SplitStep(Task):
    """Step that cuts tiles into patches."""

    tiles: Callable[[], list[OriginalTile]]  # lists them
    tiling: Tiling  # settings and output folders


@dataclass(frozen=True)
class ConvertStep(Task):
    """Step that converts the index masks of its input to class indices and, in its second output, to colours."""

    spec: DatasetSpec  # classes, with the meanings of the published values


@dataclass(frozen=True)
class MergeStep(Task):
    """Step that joins trees of images in one by hard links; each file keeps its path below its folder."""

    sources: Mapping[Path, tuple[Path, ...]]  # the folders that go into each target


Step = SplitStep | ConvertStep | MergeStep


def convert(name: str, masks: Path, output: Path, spec: DatasetSpec) -> ConvertStep:
    """Convert the masks of a folder; the colours go into a folder of the output's name and `_rgb`."""
    return ConvertStep(name, (masks,), (output, output.with_name(f"{output.name}_rgb")), spec)


def merge(name: str, sources: Mapping[Path, tuple[Path, ...]]) -> MergeStep:
    """Merge the sources of each target."""
    return MergeStep(name, tuple(chain(*sources.values())), tuple(sources), sources)


@dataclass(frozen=True)
class MaskFolder:
    """A folder of masks."""

    folder: Path  # where they are
    coloured: bool = False  # masks hold colours; else values
    ending: str = ""  # end of their names after the stem that they share with their image
    excluded: str | None = None  # end of the names of other files in the folder; None: there are none
    spec: DatasetSpec | None = None  # meanings of the values, where they differ from the data set's
    off_palette: Mapping[str, str] = field(default_factory=dict)  # stems of masks read by threshold, and why
    optional: bool = False  # whether the folder may be missing


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images and the folders of their masks."""

    split: str  # for the user; folders of one split are counted together
    folder: Path  # where they are
    masks: tuple[MaskFolder, ...] = ()  # their masks
    family: str | None = "images"  # images of different splits of one family must differ; None for unions of splits
    ending: str = ""  # end of their names after the stem that they share with their masks
