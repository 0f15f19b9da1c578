"""Dynamic dictionary learning for segmentation (ICCV 2025, arXiv 2503.06683), from image to logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ls.errors import ConfigError
from d2ls.models.aggregation import Aggregation
from d2ls.models.backbone import Backbone
from d2ls.models.bands import in_bands
from d2ls.models.dictionary import Dictionary, DictionaryKind
from d2ls.models.head import ConvHead, DictionaryHead
from d2ls.models.interaction import Interaction
from d2ls.models.position import PositionCode
from d2ls.models.readings import HEADS


@dataclass
class D2LSOutput:
    """What the network gives in training.

    Attributes:
        logits: main logits, (B, K, H, W).
        static_logits: logits of the same decoder run on the static dictionary, (B, K, H, W); None unless the dictionary
            is dynamic.
        dictionary: dynamic dictionary before interaction, (B, N, C); None unless the dictionary is dynamic.
    """

    logits: Tensor
    static_logits: Tensor | None = None
    dictionary: Tensor | None = None


class DynamicDictionaryLearning(nn.Module):
    """A timm backbone with a dynamic dictionary decoder.

    Args:
        backbone: timm model name; any network with maps at strides 4, 8, 16 and 32.
        num_classes: classes K.
        stages: interaction stages L (paper: 3).
        width: embedding width C, divisible by 16 (paper: 256).
        in_channels: channels of the image.
        pretrained: False, True (timm's own weights), "torchvision" (the paper's ImageNet weights) or a weight file.
        drop_path_rate: final rate of stochastic depth in the backbone; None takes the paper's for ConvNeXt-T, -S and -B
            (0.1, 0.4, 0.5).
        dictionary: "dynamic", or the ablations "static", "ones", "zeros".
        num_entries: dictionary entries N, default K; where they differ, a linear map turns entries into classes.
        aggregate: False takes the deepest level alone.
        interact: False sends pixels and tokens straight to the head.
        head: "dictionary", or "conv": a 1x1 convolution, without dictionary and interaction.
        freeze_backbone: no gradient, and fixed normalisation statistics, in the backbone.

    Raises:
        ConfigError: an option out of its range, or a backbone without the four strides.
        CheckpointError: pretrained weights that cannot be had.
    """

    def __init__(
        self,
        backbone: str = "convnext_base",
        num_classes: int = 6,
        *,
        stages: int = 3,
        width: int = 256,
        in_channels: int = 3,
        pretrained: bool | str = False,
        drop_path_rate: float | None = None,
        dictionary: DictionaryKind = "dynamic",
        num_entries: int | None = None,
        aggregate: bool = True,
        interact: bool = True,
        head: Literal["dictionary", "conv"] = "dictionary",
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__()
        num_entries = num_classes if num_entries is None else num_entries
        _check_options(num_classes, num_entries, stages, width, in_channels, dictionary, head)
        # What a checkpoint needs to build this network again, without its pretrained weights.
        self.arguments: dict[str, Any] = {
            "backbone": backbone,
            "num_classes": num_classes,
            "stages": stages,
            "width": width,
            "in_channels": in_channels,
            "drop_path_rate": drop_path_rate,
            "dictionary": dictionary,
            "num_entries": num_entries,
            "aggregate": aggregate,
            "interact": interact,
            "head": head,
            "freeze_backbone": freeze_backbone,
        }
        self.num_classes = num_classes
        self.backbone = Backbone(
            backbone,
            in_channels=in_channels,
            pretrained=pretrained,
            drop_path_rate=drop_path_rate,
            frozen=freeze_backbone,
        )
        channels = self.backbone.channels
        self.aggregation = Aggregation(channels, width, aggregate=aggregate)
        self.dictionary: Dictionary | None = None
        self.position: PositionCode | None = None
        self.interaction: Interaction | None = None
        self.head: ConvHead | DictionaryHead
        if head == "conv":
            self.head = ConvHead(width, num_classes)
            return
        self.dictionary = Dictionary(dictionary, num_entries, channels[-1], width)
        if interact:
            self.position = PositionCode(width)
            self.interaction = Interaction(width, stages)
        self.head = DictionaryHead(width, num_entries, num_classes)

    def forward(self, image: Tensor) -> Tensor | D2LSOutput:
        """Segment an image batch.

        Args:
            image: ImageNet-normalised images, (B, in_channels, H, W), of any size.

        Returns:
            In evaluation the logits (B, K, H, W); in training a D2LSOutput.
        """
        height, width = image.shape[-2:]
        maps = self.backbone(_pad(image, self.backbone.step, self.backbone.smallest))
        pixels = self.aggregation(maps)  # (B, H/4, W/4, C)
        output = self._segment(pixels, maps[-1])
        output.logits = _crop(output.logits, height, width)
        if not self.training:
            return output.logits
        if output.static_logits is not None:
            output.static_logits = _crop(output.static_logits, height, width)
        return output

    def _segment(self, pixels: Tensor, deepest: Tensor) -> D2LSOutput:
        """The decoder on the aggregated map (B, H/4, W/4, C) and the stride-32 map."""
        if self.dictionary is None:
            return D2LSOutput(self.head(pixels))
        if torch.is_autocast_enabled(kind := pixels.device.type):  # every product would round them anyway
            pixels = pixels.to(torch.get_autocast_dtype(kind))
        code = None if self.position is None else self.position(*pixels.shape[1:3]).to(pixels.dtype)
        decode = partial(self._decode, images=in_bands(pixels), code=code)
        if self.dictionary.kind != "dynamic":
            return D2LSOutput(decode(self.dictionary.static(deepest)))
        dynamic = self.dictionary.dynamic(deepest)  # (B, N, C)
        logits = decode(dynamic)
        if not self.training:
            return D2LSOutput(logits)
        return D2LSOutput(logits, decode(self.dictionary.static(deepest)), dynamic)

    def _decode(self, tokens: Tensor, images: Sequence[Sequence[Tensor]], code: Tensor | None) -> Tensor:
        """Logits at full resolution of dictionaries (B, N, C) and the aggregated maps `in_bands`."""
        if len(images) == 1:
            return self._interact(tokens, images[0], code)
        each = tokens.split(len(tokens) // len(images))
        logits = [self._interact(entries, bands, code) for entries, bands in zip(each, images, strict=True)]
        return torch.cat(logits)

    def _interact(self, tokens: Tensor, bands: Sequence[Tensor], code: Tensor | None) -> Tensor:
        """`_decode` of images that are taken together; the position code is (H/4 * W/4, C)."""
        if self.interaction is not None and code is not None:
            tokens, pixels = self.interaction(tokens, [band.flatten(1, 2) for band in bands], code)
            bands = [flat.view_as(band) for flat, band in zip(pixels, bands, strict=True)]
        return self.head(tokens, bands)


def _pad(image: Tensor, step: int, smallest: int) -> Tensor:
    """Repeat the border at the bottom and right up to a multiple of `step`, 4 as a rule, and to `smallest`."""
    sides: list[Any] = [torch.sym_max((side + step - 1) // step * step, smallest) for side in image.shape[-2:]]
    if _is_exporting():  # a graph for every size cannot branch on one
        for dim, padded in zip((-2, -1), sides, strict=True):
            nearest = torch.arange(padded, device=image.device).clamp(max=image.shape[dim] - 1)
            image = image.index_select(dim, nearest)
        return image
    bottom, right = sides[0] - image.shape[-2], sides[1] - image.shape[-1]
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image


def _is_exporting() -> bool:
    """Whether torch.export traces the network; releases before 2.7 only tell that something does."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def _crop(logits: Tensor, height: int, width: int) -> Tensor:
    """The top left part; what fits stays as it is, as the gradient of a slice is a copy."""
    if _is_exporting():
        rows, columns = (torch.arange(side, device=logits.device) for side in (height, width))
        return logits.index_select(-2, rows).index_select(-1, columns)
    return logits if logits.shape[-2:] == (height, width) else logits[..., :height, :width]


def _check_options(
    num_classes: int, num_entries: int, stages: int, width: int, in_channels: int, dictionary: str, head: str
) -> None:
    for name, value, least in (
        ("num_classes", num_classes, 1),
        ("num_entries", num_entries, 1),
        ("stages", stages, 0),
        ("in_channels", in_channels, 1),
    ):
        if value < least:
            raise ConfigError(f"{name}={value}: expected at least {least}.")
    if width < 2 * HEADS or width % (2 * HEADS):
        raise ConfigError(
            f"width={width}: expected a multiple of {2 * HEADS} ({HEADS} heads share C/2; the head makes C/16)."
        )
    for name, text, choices in (
        ("dictionary", dictionary, get_args(DictionaryKind)),
        ("head", head, ("dictionary", "conv")),
    ):
        if text not in choices:
            raise ConfigError(f"{name}={text!r}: expected one of {', '.join(map(repr, choices))}.")
