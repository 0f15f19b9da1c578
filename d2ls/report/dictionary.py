"""The dictionary of one image: mixing weights, entries, and the pixels that each entry attends to."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from d2ls.models import DynamicDictionaryLearning
from d2ls.models.dictionary import DictionaryKind
from d2ls.models.two_way_attention import HEADS, Attention, TokenToImageAttention


@dataclass
class Reading:
    """A dictionary of N entries and one image.

    Attributes:
        kind: of the dictionary.
        static: entries that do not depend on the image, (N, C).
        named: whether entry n stands for class n; else a linear map turns entries into classes.
        dynamic: entries that were mixed for the image, (N, C); None unless the dictionary is dynamic.
        weights: of the candidates in each mixture, (N, R), rows sum to 1; None unless the dictionary is dynamic.
        attention: of each stage and then of the last reading, (N, h, w) at stride 4, the mean over the heads; each
            map sums to 1. Empty where the network has no interaction.
    """

    kind: DictionaryKind
    static: Tensor
    named: bool
    dynamic: Tensor | None = None
    weights: Tensor | None = None
    attention: list[Tensor] = field(default_factory=list)


def head_attention(read: Attention, query: Tensor, key: Tensor) -> Iterator[Tensor]:
    """The attention of each head in turn, by its definition softmax(q . k): (B, N, HW).

    Args:
        read: holds the projections.
        query: tokens with their code, (B, N, C).
        key: pixels with theirs, (B, HW, C).
    """
    queries = read.query(query).unflatten(-1, (HEADS, -1)) * read.scale
    keys = read.key(key).unflatten(-1, (HEADS, -1))
    for head in range(HEADS):
        yield (queries[:, :, head] @ keys[:, :, head].transpose(1, 2)).softmax(dim=-1)


def read_dictionary(net: nn.Module, image: Tensor) -> Reading | None:
    """Run the network on an image in evaluation, and note what its dictionary does.

    Args:
        net: its parameters say on which device it runs.
        image: ImageNet-normalised, (3, H, W).

    Returns:
        Everything on the CPU; None for a network without a dictionary.
    """
    if not isinstance(net, DynamicDictionaryLearning) or net.dictionary is None:
        return None
    found: dict[str, Any] = {}
    attention: list[Tensor] = []
    with ExitStack() as hooks, torch.inference_mode():
        hooks.callback(net.backbone.register_forward_hook(partial(_keep, found, "maps")).remove)
        hooks.callback(net.aggregation.register_forward_hook(partial(_keep, found, "pixels")).remove)
        if net.interaction is not None:
            # The memory-efficient decoder would not call the modules as wholes.
            hooks.callback(setattr, net, "memory_efficient", net.memory_efficient)
            net.memory_efficient = False
            for module in net.interaction.modules():
                if isinstance(module, TokenToImageAttention):
                    hooks.callback(module.register_forward_hook(partial(_attend, attention)).remove)
        # Not net(...): that may be compiled, and a compiled graph calls no hooks.
        net.eval().forward(image[None].to(next(net.parameters()).device))
        deepest = found["maps"][-1]
        named = net.dictionary.num_entries == net.num_classes
        reading = Reading(net.dictionary.kind, net.dictionary.static(deepest)[0].cpu(), named)
        if reading.kind == "dynamic":
            reading.dynamic = net.dictionary.dynamic(deepest)[0].cpu()
            reading.weights = net.dictionary.modulator(deepest)[0].cpu()
    grid = found["pixels"].shape[1:3]
    reading.attention = [entries.unflatten(-1, grid) for entries in attention]
    return reading


def cosines(entries: Tensor) -> Tensor:
    """Cosine of the angle between every two of (N, C), in (N, N); NaN where an entry is zero."""
    entries = entries.double()
    directions = entries / entries.norm(dim=-1, keepdim=True)
    return (directions @ directions.T).clamp(-1, 1)


def _keep(found: dict[str, Any], name: str, _: nn.Module, __: Any, output: Any) -> None:
    found[name] = output


def _attend(found: list[Tensor], read: Attention, inputs: tuple[Tensor, Tensor, Tensor], _: Tensor) -> None:
    mean = torch.zeros(())
    for attention in head_attention(read, *inputs[:2]):
        mean = mean + attention[0].cpu() / HEADS
    found.append(mean)
