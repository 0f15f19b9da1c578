"""The dictionary of one image: mixing weights, cosines between entries, heat maps of what each entry attends to."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

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
from d2ls.models import DynamicDictionaryLearning
from d2ls.models.dictionary import DictionaryKind
from d2ls.models.two_way_attention import HEADS, Attention, TokenToImageAttention
from d2ls.report import pictures
from d2ls.report.pictures import Picture, Pixels

LARGEST_WINDOW = 2560, 2560
"""Height and width that an image may have and still be read whole."""
_SHOWN = 24  # entries
_SIDE, _STAGE_SIDE = 400, 200  # of a heat map of the final attention, and of a stage, in pixels
_TOP = 0.995  # quantile of a heat map that has the lightest colour


@dataclass
class Inspection:
    """A dictionary of N entries and one image."""

    kind: DictionaryKind
    static: Tensor  # entries that do not depend on the image, (N, C)
    named: bool  # whether entry n stands for class n; else a linear map turns entries into classes
    dynamic: Tensor | None = None  # entries that were mixed for the image, (N, C), of a dynamic dictionary
    weights: Tensor | None = None  # of the candidates in each mixture, (N, R), rows sum to 1
    # of each stage and then of the final attention, (N, h, w) at stride 4, the mean over the heads; maps sum to 1
    attention: list[Tensor] = field(default_factory=list)


def head_attention(read: Attention, query: Tensor, key: Tensor) -> Iterator[Tensor]:
    """The attention (B, N, HW) of each head, softmax(q . k), of coded tokens (B, N, C) and pixels (B, HW, C)."""
    queries = read.query(query).unflatten(-1, (HEADS, -1)) * read.scale
    keys = read.key(key).unflatten(-1, (HEADS, -1))
    for head in range(HEADS):
        yield (queries[:, :, head] @ keys[:, :, head].transpose(1, 2)).softmax(dim=-1)


def read_dictionary(net: nn.Module, image: Tensor) -> Inspection | None:
    """Note what a network's dictionary does in evaluation with a normalised image (bands, H, W); None without one."""
    if not isinstance(net, DynamicDictionaryLearning) or net.dictionary is None:
        return None
    found: dict[nn.Module, Any] = {}
    attention: list[Tensor] = []
    with ExitStack() as hooks, torch.inference_mode():
        for part in (net.backbone, net.aggregation):
            hooks.callback(part.register_forward_hook(lambda part, _, output: found.update({part: output})).remove)
        if net.interaction is not None:
            # The memory-efficient decoder would not call the modules as wholes.
            hooks.callback(setattr, net, "memory_efficient", net.memory_efficient)
            net.memory_efficient = False
            for module in net.interaction.modules():
                if isinstance(module, TokenToImageAttention):
                    hooks.callback(module.register_forward_hook(partial(_attend, attention)).remove)
        # Not net(...): that may be compiled, and a compiled graph calls no hooks.
        net.eval().forward(image[None].to(next(net.parameters()).device))
        deepest = found[net.backbone][-1]
        named = net.dictionary.num_entries == net.num_classes
        inspected = Inspection(net.dictionary.kind, net.dictionary.static(deepest)[0].cpu(), named)
        if inspected.kind == "dynamic":
            inspected.dynamic = net.dictionary.dynamic(deepest)[0].cpu()
            inspected.weights = net.dictionary.modulator(deepest)[0].cpu()
    grid = found[net.aggregation].shape[1:3]
    inspected.attention = [entries.unflatten(-1, grid) for entries in attention]
    return inspected


def cosines(entries: Tensor) -> Tensor:
    """Cosine of the angle between every two of (N, C), in (N, N); NaN where an entry is zero."""
    entries = entries.double()
    directions = entries / entries.norm(dim=-1, keepdim=True)
    return (directions @ directions.T).clamp(-1, 1)


def figures(
    net: nn.Module, pair: Pair, masks: Masks, largest: tuple[int, int] = LARGEST_WINDOW
) -> dict[str, Any] | None:
    """Run the network on an image, one plain view, and draw its dictionary; of one larger than `largest`, the centre.

    Content for the page: "window", width and height of what the network saw, None for all of it; "photo", that part;
    "number" of all entries, "names" of those that are shown, "weights" (N, R) of the candidates of a dynamic
    dictionary; "matrices", cosines (N, N) by the name of the dictionary; heat maps of the final attention, "entries",
    and of each stage before it, "stages". None for a network without a dictionary.
    """
    image, prediction = files.read_image(pair.image), masks.read(pair.name)
    height, width = prediction.shape
    image, prediction = _centre(image, largest), _centre(prediction, largest)
    inspected = read_dictionary(net, torch.from_numpy(normalise(image)))
    if inspected is None:
        return None
    seen = prediction.shape
    maps = [attention[:_SHOWN] for attention in inspected.attention]
    names = masks.spec.classes if inspected.named else [f"entry {at + 1}" for at in range(len(inspected.static))]
    names = list(names[:_SHOWN])
    dictionaries = {"static": inspected.static} | ({} if inspected.dynamic is None else {"dynamic": inspected.dynamic})
    return {
        "image": pair.name,
        "window": None if seen == (height, width) else (seen[1], seen[0]),
        "photo": pictures.photograph(pictures.shrink(image, _SIDE)),
        "names": names,
        "number": len(inspected.static),
        "weights": None if inspected.weights is None else inspected.weights[:_SHOWN].tolist(),
        "matrices": {
            name: [[None if value != value else value for value in row] for row in cosines(entries[:_SHOWN]).tolist()]  # noqa: PLR0124  (NaN)
            for name, entries in dictionaries.items()
        },
        "entries": _entries(maps[-1], image, prediction, names, masks.spec) if maps else [],
        "stages": [_heat_maps(attention, image, _STAGE_SIDE) for attention in maps[:-1]],
    }


def _centre(pixels: Pixels, largest: tuple[int, int]) -> Pixels:
    top, left = ((max(0, side - most)) // 2 for side, most in zip(pixels.shape, largest, strict=False))
    return pixels[top : top + largest[0], left : left + largest[1]]


def _entries(
    attention: Tensor, image: Pixels, prediction: Pixels, names: list[str], spec: DatasetSpec
) -> list[dict[str, Any]]:
    """The final attention (N, h, w): its peak in units of an even spread, and its shares "on" the predicted classes."""
    result = []
    shares = _on_classes(attention, prediction, spec.num_classes)
    maps = _heat_maps(attention, image, _SIDE)
    for entry, name, picture, share in zip(attention, names, maps, shares, strict=True):
        most = [(spec.classes[index], float(share[index])) for index in np.argsort(-share, kind="stable")[:2]]
        told = " and ".join(f"{part:.0%} on pixels predicted {title}" for title, part in most if part > 0)
        alt = f"Attention of {name} over the image: {told}."
        peak = _top(entry) * entry.numel()
        result.append({"name": name, "picture": picture, "alt": alt, "peak": peak, "on": most})
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


def _attend(found: list[Tensor], read: Attention, inputs: tuple[Tensor, Tensor, Tensor], _: Tensor) -> None:
    mean = torch.zeros(())
    for attention in head_attention(read, *inputs[:2]):
        mean = mean + attention[0].cpu() / HEADS
    found.append(mean)
