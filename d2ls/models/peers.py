"""Networks of segmentation_models.pytorch on any timm backbone, to compare with under the same recipe."""

import json
from contextlib import suppress
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from d2ls.errors import ConfigError, require
from d2ls.models.pretrained import load_into

STRIDE = 32  # of the deepest map: sides are padded to multiples of it


class SMPNetwork(nn.Module):
    """A decoder of segmentation_models.pytorch on a timm backbone, for images of any size.

    Args:
        decoder: name of an architecture of segmentation_models.pytorch: "Unet", "FPN", "Segformer", "UPerNet",
            "DeepLabV3Plus", ...
        backbone: timm model name.
        num_classes: classes K.
        pretrained: weights of the backbone, as in `DynamicDictionaryLearning`.
        in_channels: channels of the image.
        options: further arguments of the architecture.

    Attributes:
        arguments: rebuild it from its checkpoint; None where an option is no plain value, so that a config is needed.

    Raises:
        ConfigError: the library is not installed, or has no such architecture, or refuses the backbone.
    """

    def __init__(
        self,
        decoder: str,
        backbone: str,
        num_classes: int,
        pretrained: bool | str = False,
        in_channels: int = 3,
        **options: Any,
    ) -> None:
        super().__init__()
        smp = require("segmentation-models-pytorch", f"decoder={decoder!r}")
        known = {
            name: kind for name, kind in vars(smp).items() if isinstance(kind, type) and issubclass(kind, nn.Module)
        }
        if decoder not in known:
            raise ConfigError(f"decoder={decoder!r}: expected one of {', '.join(sorted(known))}.")
        try:
            network = known[decoder](
                f"tu-{backbone}", encoder_weights=None, in_channels=in_channels, classes=num_classes, **options
            )
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(f"decoder={decoder!r} cannot be built on backbone={backbone!r}: {error}") from error
        self.encoder: Any = network.encoder
        self.decoder: Any = network.decoder
        self.segmentation_head: Any = network.segmentation_head
        self.num_classes = num_classes
        self.start = backbone, pretrained
        built = {"decoder": decoder, "backbone": backbone, "num_classes": num_classes, "in_channels": in_channels}
        self.arguments: dict[str, Any] | None = None
        with suppress(TypeError):  # through JSON, since files of weights give lists for tuples
            self.arguments = json.loads(json.dumps({"network": type(self).__name__, **built, **options}))

    def load_pretrained(self) -> None:
        """Load the backbone's weights; training calls this, reading the config does not."""
        if self.start[1]:
            load_into(self.encoder.model, *self.start)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, H, W) of images (B, C, H, W); the border is repeated up to multiples of 32."""
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        logits: Tensor = self.segmentation_head(self.decoder(self.encoder(padded)))
        return logits[..., :height, :width]
