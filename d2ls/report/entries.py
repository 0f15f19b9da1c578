"""The figures of a dictionary: mixing weights, cosines between entries, and heat maps of what each entry attends to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from d2ls.data import io as files
from d2ls.data.augment import normalise
from d2ls.data.pairs import Pair
from d2ls.data.spec import DatasetSpec
from d2ls.inference.results import Masks
from d2ls.report import pictures
from d2ls.report.dictionary import Reading, cosines, read_dictionary
from d2ls.report.pictures import Picture, Pixels

LARGEST_WINDOW = 2560, 2560
"""Height and width that an image may have and still be read whole."""
_SHOWN = 24  # entries
_SIDE, _STAGE_SIDE = 400, 200  # of a heat map of the last reading, and of a stage, in pixels
_TOP = 0.995  # quantile of a heat map that has the lightest colour


class Entry(NamedTuple):
    """Attention of an entry in the final attention.

    Attributes:
        name: that of its class, or its number.
        picture: heat map over the image.
        peak: the heat map's lightest colour, in units of an even spread.
        on: classes that were predicted where the entry looks, and the shares of its attention there; largest first.
        alt: what the heat map shows.
    """

    name: str
    picture: Picture
    peak: float
    on: Sequence[tuple[str, float]]
    alt: str


@dataclass(frozen=True)
class DictionaryFigures:
    """Figures of a dictionary for a page.

    Attributes:
        image: name of the image that it was read for.
        window: what of the image the network saw, where that is not all: width, height.
        photo: that part.
        kind: of the dictionary.
        names: of the entries that are shown.
        number: of all entries.
        weights: of the candidates, (N, R); None unless the dictionary is dynamic.
        matrices: cosines between entries, (N, N), by the name of the dictionary; None where an entry is zero.
        entries: the last reading; empty where the network has no interaction.
        stages: heat maps of each stage before it.
    """

    image: str
    window: tuple[int, int] | None
    photo: Picture
    kind: str
    names: list[str]
    number: int
    weights: list[list[float]] | None
    matrices: dict[str, list[list[float | None]]]
    entries: list[Entry]
    stages: list[list[Picture]]


def figures(
    net: nn.Module, pair: Pair, masks: Masks, largest: tuple[int, int] = LARGEST_WINDOW
) -> DictionaryFigures | None:
    """Run the network on an image, one plain view, and draw its dictionary; None where it has none.

    Args:
        net: in evaluation.
        pair: the image.
        masks: where its mask was written.
        largest: height and width of what the network sees; of a larger image, the centre.
    """
    image, prediction = files.read_image(pair.image), masks.read(pair.name)
    height, width = prediction.shape
    image, prediction = _centre(image, largest), _centre(prediction, largest)
    reading = read_dictionary(net, torch.from_numpy(normalise(image)))
    if reading is None:
        return None
    seen = prediction.shape
    maps = [attention[:_SHOWN] for attention in reading.attention]
    names = _names(reading, masks.spec)
    return DictionaryFigures(
        image=pair.name,
        window=None if seen == (height, width) else (seen[1], seen[0]),
        photo=pictures.photograph(pictures.shrink(image, _SIDE)),
        kind=reading.kind,
        names=names,
        number=len(reading.static),
        weights=None if reading.weights is None else reading.weights[:_SHOWN].tolist(),
        matrices=_matrices(reading),
        entries=_entries(maps[-1], image, prediction, names, masks.spec) if maps else [],
        stages=[_heat_maps(attention, image, _STAGE_SIDE) for attention in maps[:-1]],
    )


def _centre(pixels: Pixels, largest: tuple[int, int]) -> Pixels:
    """The centre of an image or a mask that is larger."""
    top, left = ((max(0, side - most)) // 2 for side, most in zip(pixels.shape, largest, strict=False))
    return pixels[top : top + largest[0], left : left + largest[1]]


def _names(reading: Reading, spec: DatasetSpec) -> list[str]:
    number = min(len(reading.static), _SHOWN)
    return list(spec.classes[:number]) if reading.named else [f"entry {place + 1}" for place in range(number)]


def _matrices(reading: Reading) -> dict[str, list[list[float | None]]]:
    dictionaries = {"static": reading.static} | ({} if reading.dynamic is None else {"dynamic": reading.dynamic})
    return {
        name: [[None if value != value else value for value in row] for row in cosines(entries[:_SHOWN]).tolist()]  # noqa: PLR0124  (NaN)
        for name, entries in dictionaries.items()
    }


def _entries(attention: Tensor, image: Pixels, prediction: Pixels, names: list[str], spec: DatasetSpec) -> list[Entry]:
    """The last reading, (N, h, w)."""
    result = []
    shares = _on_classes(attention, prediction, spec.num_classes)
    maps = _heat_maps(attention, image, _SIDE)
    for entry, name, picture, share in zip(attention, names, maps, shares, strict=True):
        most = [(spec.classes[index], float(share[index])) for index in np.argsort(-share, kind="stable")[:2]]
        told = " and ".join(f"{part:.0%} on pixels predicted {title}" for title, part in most if part > 0)
        alt = f"Attention of {name} over the image: {told}."
        result.append(Entry(name, picture, _top(entry) * entry.numel(), most, alt))
    return result


def _on_classes(attention: Tensor, prediction: Pixels, num_classes: int) -> NDArray[np.float64]:
    """Shares of each entry's attention on the predicted classes, (N, K), rows sum to 1; padding is left out."""
    height, width = prediction.shape
    labels = prediction[2::4, 2::4] if min(height, width) > 2 else prediction[::4, ::4]
    inside = attention[:, : labels.shape[0], : labels.shape[1]].flatten(1).double().numpy()
    sums = np.stack([np.bincount(labels.ravel(), row, minlength=256)[:num_classes] for row in inside])
    return np.asarray(sums / sums.sum(axis=1, keepdims=True).clip(1e-12))


def _heat_maps(attention: Tensor, image: Pixels, side: int) -> list[Picture]:
    """Maps (N, h, w) at stride 4 over the image, each to a scale of its own."""
    small = pictures.shrink(image, side)
    height, width = image.shape[:2]
    rows, columns = -(-height // 4), -(-width // 4)  # cells that reach into the image; the rest is padding
    maps = F.interpolate(attention[:, None, :rows, :columns], small.shape[:2], mode="bilinear", align_corners=False)
    tops = [_top(entry) for entry in attention]
    return [pictures.heat_map(small, values.numpy(), top) for values, top in zip(maps[:, 0], tops, strict=True)]


def _top(attention: Tensor) -> float:
    """The value of the lightest colour of a map (h, w)."""
    return float(np.quantile(attention.numpy(), _TOP))
