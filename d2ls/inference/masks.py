"""The masks that a run leaves behind: where each lies, and in which form."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from d2ls.data.io import write_png
from d2ls.data.labels import index_to_colours, read_colour_mask, read_index_mask
from d2ls.data.pairs import Pair
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError

Legend = Literal["official", "reference"]
Pixels = NDArray[np.uint8]


def mask_name(name: str) -> str:
    """Name of an image's mask below the output folder: `<stem>.png`, of a frame `seqN/<stem>` `seqN/Labels/<stem>.png`.

    Args:
        name: that of the image in its data set (see `d2ls.data.pairs.Pair`).
    """
    sequence, slash, stem = name.rpartition("/")
    return f"{sequence}/Labels/{stem}.png" if slash else f"{stem}.png"


@dataclass(frozen=True)
class Masks:
    """A folder of masks.

    Attributes:
        folder: made when the first mask is written.
        spec: the classes and their colours.
        coloured: colour masks; else class indices.
        legend: "reference" writes the reference implementation's colours where they differ.
    """

    folder: Path
    spec: DatasetSpec
    coloured: bool = False
    legend: Legend = "official"

    def path(self, name: str) -> Path:
        """Where an image's mask lies."""
        return self.folder / mask_name(name)

    def check_apart(self, pairs: Iterable[Pair]) -> None:
        """Refuse a folder in which masks would replace images or labels of the test, or be taken for them later.

        Raises:
            ConfigError: names the folder.
        """
        listed = list(pairs)
        read = {path.parent.resolve() for pair in listed for path in (pair.image, pair.mask) if path is not None}
        written = {self.path(pair.name).parent.resolve() for pair in listed}
        if common := sorted(read & written):
            raise ConfigError(
                f"{self.folder}: {common[0]} holds images or labels of this test; masks there would join or replace "
                "them. Choose another folder with -o."
            )

    def write(self, name: str, index: Pixels) -> None:
        """Write class indices (H, W) as an image's mask, whole or not at all.

        Raises:
            DataError: the file cannot be written.
        """
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, index_to_colours(index, self.spec, self.legend) if self.coloured else index)

    def read(self, name: str) -> Pixels:
        """Class indices (H, W) of a mask that is there.

        Raises:
            DataError: it cannot be read, or is of another form.
        """
        if not self.coloured:
            return read_index_mask(self.path(name), self.spec)
        return read_colour_mask(self.path(name), self.spec)
