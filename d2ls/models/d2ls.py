"""Dynamic dictionary learning for segmentation (ICCV 2025, arXiv 2503.06683), from image to logits."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ls.errors import ConfigError
from d2ls.models.aggregation import Aggregation
from d2ls.models.backbone import Backbone
from d2ls.models.dictionary import Dictionary, DictionaryKind
from d2ls.models.head import ConvHead, DictionaryHead
from d2ls.models.position import PositionCode
from d2ls.models.two_way_attention import HEADS, TwoWayAttention, is_recorded, is_traced
from d2ls.models.weight_files import current_name


@dataclass
class D2LSOutput:
    """Output of the network in training.

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
        memory_efficient: True runs the decoder in row chunks and computes their inner values again in the backward pass
            (`d2ls.models.streaming`), False as it is written here, "auto" the former on a CPU, where it is the faster
            one, and the latter on an accelerator, where it takes fewer kernels. The logits are the same. Graphs
            (torch.compile, torch.export, torch.jit.trace, ONNX) always hold the plain decoder.

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
        memory_efficient: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        num_entries = num_classes if num_entries is None else num_entries
        # A checkpoint builds the network again from these; weights and the way to compute are no part of it.
        self.arguments: dict[str, Any] = {
            "backbone": backbone, "num_classes": num_classes, "stages": stages, "width": width,
            "in_channels": in_channels, "drop_path_rate": drop_path_rate, "dictionary": dictionary,
            "num_entries": num_entries, "aggregate": aggregate, "interact": interact, "head": head,
            "freeze_backbone": freeze_backbone,
        }  # fmt: skip
        _check_options(self.arguments)
        self.num_classes = num_classes
        self.set_memory_efficient(memory_efficient)
        self.register_load_state_dict_pre_hook(_rename_old_tensors)
        self.backbone = Backbone(
            backbone, in_channels=in_channels, pretrained=pretrained, drop_path_rate=drop_path_rate,
            frozen=freeze_backbone,
        )  # fmt: skip
        channels = self.backbone.channels
        self.aggregation = Aggregation(channels, width, aggregate=aggregate)
        self.dictionary: Dictionary | None = None
        self.position: PositionCode | None = None
        self.interaction: TwoWayAttention | None = None
        self.head: ConvHead | DictionaryHead
        if head == "conv":
            self.head = ConvHead(width, num_classes)
            return
        self.dictionary = Dictionary(dictionary, num_entries, channels[-1], width)
        if interact:
            self.position = PositionCode(width)
            self.interaction = TwoWayAttention(width, stages)
        self.head = DictionaryHead(width, num_entries, num_classes)

    def set_memory_efficient(self, way: bool | str) -> None:
        """Choose how the decoder is computed, by the constructor's `memory_efficient`.

        Raises:
            ConfigError: it is none of True, False and "auto".
        """
        _check_choice("memory_efficient", way, ("auto", True, False))
        self.memory_efficient = way

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
        if output.static_logits is not None:
            output.static_logits = _crop(output.static_logits, height, width)
        return output if self.training else output.logits

    def _segment(self, pixels: Tensor, deepest: Tensor) -> D2LSOutput:
        """Logits at full resolution from the aggregated map (B, H/4, W/4, C) and the stride-32 map."""
        if self.dictionary is None:
            return D2LSOutput(self.head(pixels))
        code = None if self.position is None else self.position(*pixels.shape[1:3]).to(pixels.dtype)
        decode = partial(self._decode, pixels=pixels, code=code)
        if self.dictionary.kind != "dynamic":
            return D2LSOutput(decode(self.dictionary.static(deepest)))
        dynamic = self.dictionary.dynamic(deepest)  # (B, N, C)
        logits = decode(dynamic)
        if not self.training:
            return D2LSOutput(logits)
        return D2LSOutput(logits, decode(self.dictionary.static(deepest)), dynamic)

    def _decode(self, tokens: Tensor, pixels: Tensor, code: Tensor | None) -> Tensor:
        """Logits (B, K, H, W) of a dictionary (B, N, C) and the aggregated map (B, H/4, W/4, C)."""
        if self._saves_memory(pixels.device) and isinstance(self.head, DictionaryHead):
            from d2ls.models import streaming  # noqa: PLC0415  (only where it is asked for)

            return streaming.decode(self.interaction, self.head, tokens, pixels, code)
        if self.interaction is not None:
            tokens, flat = self.interaction(tokens, pixels.flatten(1, 2), code)
            pixels = flat.view_as(pixels)
        return self.head(tokens, pixels)

    def _saves_memory(self, device: torch.device) -> bool:
        if is_recorded():
            return False
        return device.type == "cpu" if self.memory_efficient == "auto" else bool(self.memory_efficient)


def _pad(image: Tensor, step: int, smallest: int) -> Tensor:
    """Repeat the border at the bottom and right up to a multiple of `step`, 4 as a rule, and to `smallest`."""
    if is_traced():  # for any size, of at least `smallest`
        height, width = image.shape[-2:]
        return F.pad(image, (0, -width % step, 0, -height % step), mode="replicate")
    sides: list[Any] = [torch.sym_max((side + step - 1) // step * step, smallest) for side in image.shape[-2:]]
    if _is_exporting():  # a graph for every size cannot branch on one
        for dim, padded in zip((-2, -1), sides, strict=True):
            nearest = torch.arange(padded, device=image.device).clamp(max=image.shape[dim] - 1)
            image = image.index_select(dim, nearest)
        return image
    bottom, right = sides[0] - image.shape[-2], sides[1] - image.shape[-1]
    if _is_certain(bottom == 0) and _is_certain(right == 0):
        return image
    return F.pad(image, (0, right, 0, bottom), mode="replicate")


def _is_certain(condition: Any) -> bool:
    """Whether a condition holds; in a graph for many sizes, whether it does for all: each branch would be a graph."""
    if not torch.compiler.is_compiling():
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # noqa: PLC0415  (slow, for graphs alone)

    return statically_known_true(condition)


def _is_exporting() -> bool:
    """Whether torch.export traces the network; releases before 2.7 only tell that something does."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def _crop(logits: Tensor, height: int, width: int) -> Tensor:
    """The top left part; what fits stays as it is, as the gradient of a slice is a copy."""
    if _is_exporting() or torch.compiler.is_compiling():
        if not _is_exporting() and _is_certain(logits.shape[-2] == height) and _is_certain(logits.shape[-1] == width):
            return logits
        # Not a slice: whether its rows lie one behind the other would depend on the sizes.
        rows, columns = (torch.arange(side, device=logits.device) for side in (height, width))
        return logits.index_select(-2, rows).index_select(-1, columns)
    fits = not is_traced() and logits.shape[-2:] == (height, width)
    return logits if fits else logits[..., :height, :width]


def _rename_old_tensors(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give tensors of an older checkpoint their names of today, before they are loaded."""
    for name in [name for name in state if name.startswith(prefix)]:
        if (new := current_name(name)) != name:
            state[new] = state.pop(name)


def _check_options(options: dict[str, Any]) -> None:
    for name, least in (("num_classes", 1), ("num_entries", 1), ("stages", 0), ("in_channels", 1)):
        if options[name] < least:
            raise ConfigError(f"{name}={options[name]}: expected at least {least}.")
    width, step = options["width"], 2 * HEADS
    if width < step or width % step:
        raise ConfigError(
            f"width={width}: expected a multiple of {step} ({HEADS} heads share C/2; the head makes C/16)."
        )
    _check_choice("dictionary", options["dictionary"], get_args(DictionaryKind))
    _check_choice("head", options["head"], ("dictionary", "conv"))


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}.")
