"""Declarative description of a data set, from which tools and scripts take everything they know of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from d2ls.data.dataset import SegmentationDataset
from d2ls.data.sets.layout import ImageFolder, Planner, Size, Step
from d2ls.data.spec import DatasetSpec


@dataclass(frozen=True)
class Views:
    """Views of an image in test-time augmentation: every combination of flips, rotations and scales.

    Attributes:
        hflip: with and without a horizontal flip.
        vflip: with and without a vertical flip.
        rot90: with and without a rotation by 90 degrees.
        scales: factors of the image's size.
    """

    hflip: bool = False
    vflip: bool = False
    rot90: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __len__(self) -> int:
        return len(self.scales) * 2 ** (self.hflip + self.vflip + self.rot90)


@dataclass(frozen=True)
class Server:
    """Submission that an evaluation server takes: 8-bit PNG masks of the test images in a zip.

    Attributes:
        spec: the classes.
        sizes: height and width that each file may have, by its name in the zip.
        coloured: masks in the data set's colours; else class indices.
        official: number of files of the official test set.
        folder: the test images, below the data root.
    """

    spec: DatasetSpec
    sizes: Mapping[str, tuple[Size, ...]]
    coloured: bool
    official: int
    folder: str = ""

    @property
    def note(self) -> str | None:
        """A line for users who have only a part of the test set; None for the whole."""
        if len(self.sizes) == self.official:
            return None
        return (
            f"note: checked against the {len(self.sizes)} test images found here; the server expects all "
            f"{self.official} of {self.spec.name}'s test set"
        )


def no_steps(_: Path) -> list[Step]:
    """No steps: the originals are what is trained on."""
    return []


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """One data set.

    Attributes:
        spec: classes, colours and bands.
        val, test: make the data sets of these splits.
        d4: the views of `-t d4`.
        home: name of its folder below the data root.
        folders: lists the folders of images and masks below `home`, those that do not exist included.
        downloads: the archives or folders to download, in words.
        plan: tells the target of each downloaded file.
        steps: lists, for the path of `home`, what is made from the originals, in order.
        server: what the evaluation server takes, where there is one.
        frame_specs: classes that `test(folder, spec=...)` can take, by the name that `-d` gives them. Only where test
            images are frames that are segmented in windows.
    """

    spec: DatasetSpec
    val: Callable[..., SegmentationDataset]
    test: Callable[..., SegmentationDataset]
    d4: Views
    home: str
    folders: Callable[[Path], list[ImageFolder]]
    downloads: str = ""
    plan: Planner | None = None
    steps: Callable[[Path], list[Step]] = no_steps
    server: Server | None = None
    frame_specs: Mapping[str, DatasetSpec] = field(default_factory=dict, hash=False)
