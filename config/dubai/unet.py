"""Dubai with a plain U-Net on the same backbone, weights, recipe and number of steps: the baseline beside d2ls.py.

Needs segmentation-models-pytorch (requirements-dev.txt).
"""
# ruff: noqa: F821  (names of the base config)

import segmentation_models_pytorch as smp
import torch.nn.functional as F
from torch import Tensor

from d2ls.models.pretrained import load_into


class UNet(smp.Unet):
    """A U-Net for images of any size, whose encoder starts from the same ImageNet weights."""

    def __init__(self, backbone: str, num_classes: int, pretrained: bool | str) -> None:
        super().__init__(f"tu-{backbone}", encoder_weights=None, classes=num_classes)
        self.start = backbone, pretrained

    def load_pretrained(self) -> None:
        """Load the encoder's weights; training calls this, reading the config does not."""
        if self.start[1]:
            load_into(self.encoder.model, *self.start)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, H, W) of images (B, 3, H, W), padded to multiples of 32 and cropped again."""
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % 32, 0, -height % 32), mode="replicate")
        return super().forward(padded)[..., :height, :width]


base = "d2ls.py"

weights_name = "unet"
net = UNet(backbone, num_classes, pretrained)
