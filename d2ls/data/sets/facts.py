"""Declarative description of a data set, from which tools and scripts take everything they know of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import MaskReader, SegmentationDataset
from d2ls.data.labels import read_index_mask
from d2ls.data.pairs import Pair
from d2ls.data.root import check_protocol, data_root
from d2ls.data.sets.layout import ImageFolder, Planner, Size, Step
from d2ls.data.spec import DatasetSpec


@dataclass(frozen=True)
class Splits:
    """Training, validation and test images of a data set.

    Attributes:
        spec: classes and bands.
        home: name of the folder below the data root.
        pairs: lists, for the path of that folder, the pairs of a split ("train", "val", "test") in a protocol.
        augmentation: random changes for training.
        read_mask: reads a mask file as class indices.
    """

    spec: DatasetSpec
    home: str
    pairs: Callable[[Path, str, str], list[Pair]]
    augmentation: Augmentation
    read_mask: MaskReader = read_index_mask

    def train(self, protocol: str = "strict", *, folder: str | None = None, **changes: Any) -> SegmentationDataset:
        """Training images.

        Args:
            protocol: "strict" or "published", see `d2ls.data.root.check_protocol`.
            folder: name below the data root of another folder in the set's layout.
            changes: fields of the augmentation, e.g. `crop=320`.
        """
        return self._dataset("train", protocol, folder, replace(self.augmentation, **changes))

    def val(self, protocol: str = "strict", *, folder: str | None = None) -> SegmentationDataset:
        """Validation images; arguments as those of `train`."""
        return self._dataset("val", protocol, folder)

    def test(self, *, folder: str | None = None) -> SegmentationDataset:
        """Test images, whole and in order."""
        return self._dataset("test", "strict", folder)

    def facts(self, **further: Any) -> "DatasetFacts":
        """Description of the data set, of which `further` are the fields that do not stand here."""
        known: dict[str, Any] = {"spec": self.spec, "val": self.val, "test": self.test, "home": self.home}
        return DatasetFacts(**known | further)

    def _dataset(
        self, split: str, protocol: str, folder: str | None, augmentation: Augmentation | None = None
    ) -> SegmentationDataset:
        check_protocol(protocol)
        return SegmentationDataset(
            self.spec, lambda: self.pairs(data_root() / (folder or self.home), split, protocol),
            read_mask=self.read_mask, augmentation=augmentation,
        )  # fmt: skip


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
        steps: lists, for the path of `home`, what is made from the originals, in order; by default nothing.
        server: what the evaluation server takes, where there is one.
        frame_specs: classes that `test(folder, spec=...)` can take, by the name that `-d` gives them. Only where test
            images are frames that are segmented in windows.
    """

    spec: DatasetSpec
    val: Callable[..., SegmentationDataset]
    test: Callable[..., SegmentationDataset]
    d4: Views = Views(hflip=True, scales=(0.75, 1.0, 1.25, 1.5))
    home: str
    folders: Callable[[Path], list[ImageFolder]]
    downloads: str = ""
    plan: Planner | None = None
    steps: Callable[[Path], list[Step]] = lambda _: []
    server: Server | None = None
    frame_specs: Mapping[str, DatasetSpec] = field(default_factory=dict, hash=False)
