"""Plain vision transformers as feature pyramids (DINOv2, DINOv3, EVA-02, DeiT, ...)."""

from typing import Any, cast

import timm
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

STRIDE = 16  # of the transformer's map


class ViTPyramid(nn.Module):
    """Maps at strides 4, 8, 16 and 32 from the last map of a plain vision transformer.

    This is the simple feature pyramid of ViTDet (arXiv 2203.16527, section 3): transposed convolutions upwards,
    max pooling downwards. Patches of other sides than 16 pixels keep their weights: the image is resized so that a
    patch covers 16 of its pixels.

    The trunk takes any image size, such as `plain_transformer`'s; `channels` are those of the four maps.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        network = cast(Any, trunk)
        self.patch: int = network.patch_embed.patch_size[0]
        width: int = network.num_features
        self.channels = (width // 4, width // 2, width, width)
        self.to_stride_4 = nn.Sequential(
            nn.ConvTranspose2d(width, width // 2, 2, stride=2),
            LayerNorm2d(width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2),
        )
        self.to_stride_8 = nn.ConvTranspose2d(width, width // 2, 2, stride=2)

    def last_map(self, image: Tensor) -> Tensor:
        """The transformer's normalised patch tokens, (B, C, H/16, W/16), of images (B, channels, H, W)."""
        if self.patch != STRIDE:
            size = [side // STRIDE * self.patch for side in image.shape[-2:]]
            image = F.interpolate(image, size, mode="bilinear", antialias=True)
        maps = cast(Any, self.trunk).forward_intermediates(
            image, indices=1, norm=True, intermediates_only=True, output_fmt="NCHW"
        )
        return cast(Tensor, maps[-1])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Four maps (B, C_i, H_i, W_i) of images (B, channels, H, W) with sides that are multiples of 32."""
        last = self.last_map(image)
        return [self.to_stride_4(last), self.to_stride_8(last), last, F.max_pool2d(last, 2)]


def plain_transformer(name: str, in_channels: int, drop_path_rate: float) -> nn.Module | None:
    """timm's transformer `name` without its classifier, for any image size; None if it is no such network."""
    try:
        network = timm.create_model(
            name, in_chans=in_channels, num_classes=0, dynamic_img_size=True, drop_path_rate=drop_path_rate
        )
    except TypeError:  # an option that it does not have
        return None
    return network if hasattr(network, "num_prefix_tokens") else None
