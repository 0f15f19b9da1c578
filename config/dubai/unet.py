"""Dubai with a plain U-Net on the same backbone, weights, recipe and number of steps: the baseline beside d2ls.py.

Needs segmentation-models-pytorch (requirements-dev.txt).
"""
# ruff: noqa: F821  (names of the base config)

import segmentation_models_pytorch as smp
from torch import nn

from d2ls.models.pretrained import load_into


def unet(backbone: str, num_classes: int, weights: str) -> nn.Module:
    """A U-Net whose encoder starts from the same ImageNet weights."""
    net = smp.Unet(f"tu-{backbone}", encoder_weights=None, classes=num_classes)
    load_into(net.encoder.model, backbone, weights)
    return net


base = "d2ls.py"

weights_name = "unet"
net = unet(backbone, num_classes, pretrained)
