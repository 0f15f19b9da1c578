"""Feature pyramids from timm: four NCHW maps at strides 4, 8, 16 and 32, whatever the family."""

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from d2ls.errors import CheckpointError, ConfigError
from d2ls.models import pretrained as weights
from d2ls.models.vit import ViTPyramid, plain_transformer

STRIDES = (4, 8, 16, 32)

# Final rates of stochastic depth in the paper's settings (spec section 1); other backbones start without it.
DROP_PATH_RATES = {"convnext_tiny": 0.1, "convnext_small": 0.4, "convnext_base": 0.5}


class Backbone(nn.Module):
    """A timm network, by its name with or without a pretrained tag, as feature pyramid.

    Options are those of `DynamicDictionaryLearning`. The rate of stochastic depth is linear over the blocks. `frozen`:
    no gradient in the trunk, and its normalisation statistics stay as they are.

    Raises:
        ConfigError: no such timm model, or one without maps at strides 4, 8, 16 and 32, or of a fixed image size.
        CheckpointError: weights that cannot be had or do not fit.
    """

    def __init__(
        self, name: str, *, in_channels: int = 3, pretrained: bool | str = False, drop_path_rate: float | None = None,
        frozen: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if drop_path_rate is None:
            drop_path_rate = DROP_PATH_RATES.get(name.split(".")[0], 0.0)
        if not 0 <= drop_path_rate < 1:
            raise ConfigError(f"drop_path_rate={drop_path_rate}: expected a rate of at least 0, below 1.")
        self.name, self.in_channels, self.frozen = name, in_channels, frozen
        self.body = _feature_network(name, in_channels, drop_path_rate)
        body: Any = self.body
        own = isinstance(body, ViTPyramid)
        self.channels: tuple[int, ...] = tuple(body.channels if own else body.feature_info.channels())
        self.channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self.pending: bool | str = False  # weights that were asked for and are not here yet
        self.step, self.smallest = self._image_sizes()
        self.register_load_state_dict_post_hook(_weights_arrived)
        if pretrained and weights.are_deferred():
            self.pending = pretrained
        elif pretrained:
            self.load_pretrained(pretrained)
        if frozen:
            self.trunk.requires_grad_(False)

    @property
    def trunk(self) -> nn.Module:
        """The part that pretrained weights are for: all but the pyramid on top of a plain transformer."""
        return self.body.trunk if isinstance(self.body, ViTPyramid) else self.body

    def load_pretrained(self, source: bool | str | None = None) -> None:
        """Load ImageNet weights from `source`, or those that the constructor was asked for and that are pending."""
        source = self.pending if source is None else source
        if source:
            weights.load_into(self.trunk, self.name, source)
        self.pending = False

    def checkpoint_gradients(self) -> None:
        """Keep only the inputs of stages or blocks for the backward pass and compute the rest again there."""
        # timm marks the parts that can; the body as a whole goes by coarser parts than its stages do.
        parts = [m for m in self.body.modules() if hasattr(m, "grad_checkpointing") and m is not self.body]
        if not parts and not hasattr(self.body, "grad_checkpointing"):
            raise ConfigError(f"backbone={self.name!r}: timm cannot checkpoint it. Set checkpoint_backbone=False.")
        for part in parts or [self.body]:
            part.grad_checkpointing = True  # type: ignore[assignment]

    def _image_sizes(self) -> tuple[int, int]:
        """Factor of the sides of an image and their least length, found by trial in evaluation.

        Most networks take any multiple of 4, some only of their deepest stride (HRNet), some only of the size that
        their windows were cut for (MaxViT).
        """
        deepest, native = STRIDES[-1], max(getattr(self.body, "default_cfg", {}).get("input_size", (0,)))
        training = self.body.training
        self.body.eval()
        try:
            for step, trial in (
                (STRIDES[0], (deepest + 4, deepest + 12)),
                (deepest, (2 * deepest, 3 * deepest)),
                (native, (native, 2 * native)),
            ):
                if step and step % STRIDES[0] == 0 and self._takes(*trial):
                    return step, step if step > STRIDES[0] or self._takes(step, step) else deepest
        finally:
            self.body.train(training)
        raise ConfigError(
            f"backbone={self.name!r} takes images of {native} x {native} pixels alone; the decoder needs one that "
            "takes any size, such as convnext_tiny, swin_tiny_patch4_window7_224, resnet50 or tf_efficientnet_lite0."
        )

    @torch.no_grad()
    def _takes(self, height: int, width: int) -> bool:
        weight = next(self.body.parameters())
        try:
            maps = self.forward(weight.new_zeros(1, self.in_channels, height, width))
        except (RuntimeError, AssertionError, ValueError):  # however timm's network fails on a size that it cannot take
            return False
        return maps[0].shape[-2:] == (height // STRIDES[0], width // STRIDES[0])

    def train(self, mode: bool = True) -> "Backbone":
        """Switch between training and evaluation; a frozen backbone stays in evaluation."""
        return super().train(mode and not self.frozen)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Four maps (B, C_i, H_i, W_i) at strides 4, 8, 16, 32 of an image batch (B, in_channels, H, W).

        H and W are multiples of `step` and at least `smallest`.
        """
        if self.pending:
            raise CheckpointError(
                f"backbone {self.name} was asked for with pretrained={self.pending!r}, and these weights are not "
                "loaded yet. Call net.backbone.load_pretrained(), or load a checkpoint first."
            )
        maps = self.body(image)
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return list(maps)


def _weights_arrived(module: nn.Module, keys: _IncompatibleKeys) -> None:
    """A checkpoint that was loaded into the backbone stands for the pretrained weights."""
    missing = [key for key in keys.missing_keys if "backbone." in key or key.startswith("body.")]
    if isinstance(module, Backbone) and not missing:
        module.pending = False


def _feature_network(name: str, in_channels: int, drop_path_rate: float) -> nn.Module:
    """timm's network `name`, cut to the maps at STRIDES."""
    if ":" in name:  # hf-hub:, local-dir:
        raise ConfigError(
            f"backbone={name!r}: expected the name of a timm model; networks from elsewhere are not fetched."
        )
    try:
        info: Any = _create(name, in_channels, drop_path_rate, None).feature_info
    except RuntimeError as error:
        if "Invalid pretrained tag" in str(error):
            base = name.split(".")[0]
            tags = ", ".join(tag for tag in timm.list_pretrained(base) if tag.startswith(f"{base}.")) or "none"
            raise ConfigError(f"backbone={name!r}: timm has no such tag of {base}. Its tags: {tags}.") from error
        if "Unknown model" not in str(error):
            raise
        close = ", ".join(timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:8]) or "none"
        raise ConfigError(
            f"backbone={name!r}: timm has no model of this name (similar ones: {close}). "
            "timm.list_models() lists them all."
        ) from error
    strides = list(info.reduction())
    if len(set(strides)) == 1 and (trunk := plain_transformer(name, in_channels, drop_path_rate)) is not None:
        return ViTPyramid(trunk)
    if not set(STRIDES) <= set(strides):
        raise ConfigError(
            f"backbone={name!r} gives maps at strides {strides}; the decoder needs strides {list(STRIDES)}. "
            "Choose a hierarchical network such as convnext_tiny, swin_tiny_patch4_window7_224, resnet50 or "
            "tf_efficientnet_lite0, or a plain vision transformer whose image size timm can change, such as "
            "vit_base_patch16_dinov3."
        )
    # timm counts some networks' maps from one at stride 1 that it does not give by default.
    # Of a stride's maps the last one is the raw output of its stage.
    last = {stride: index for index, stride in zip(info.out_indices, strides, strict=True)}
    return _create(name, in_channels, drop_path_rate, tuple(last[stride] for stride in STRIDES))


def _create(name: str, in_channels: int, drop_path_rate: float, out_indices: tuple[int, ...] | None) -> nn.Module:
    options: dict[str, Any] = {"features_only": True, "in_chans": in_channels, "pretrained": False}
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    if out_indices is not None:
        options["out_indices"] = out_indices
    # Window transformers check the image size unless told otherwise; the others do not know the option.
    for extra in ({"strict_img_size": False}, {}):
        try:
            return timm.create_model(name, **options, **extra)
        except TypeError as error:
            if "strict_img_size" in str(error):
                continue
            if "drop_path_rate" in str(error):
                raise ConfigError(f"backbone={name!r} has no stochastic depth: set drop_path_rate=0.") from error
            raise
    raise AssertionError("unreachable")
