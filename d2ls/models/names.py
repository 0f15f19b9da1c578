"""Tensor names of other code bases in terms of timm's, for whole backbones."""

import re
from collections.abc import Callable

Translate = Callable[[str], str | None]

# torchvision's ConvNeXt block: children of `block` in order, and the scale beside it.
_CONVNEXT_BLOCK = {
    "layer_scale": "gamma",
    "block.0": "conv_dw",
    "block.2": "norm",
    "block.3": "mlp.fc1",
    "block.5": "mlp.fc2",
}
_RESNET_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def torchvision_convnext(name: str) -> str | None:
    """timm's name for torchvision's ConvNeXt tensor `features...`; None for the classifier."""
    match = re.fullmatch(r"features\.(\d)\.(.+)", name)
    if match is None:
        return None
    position, rest = int(match[1]), match[2]
    if position == 0:
        return f"stem.{rest}"
    if position % 2 == 0:  # 2, 4, 6: the downsampling before stage 1, 2, 3
        return f"stages.{position // 2}.downsample.{rest}"
    block, inner = rest.split(".", 1)
    for theirs, ours in _CONVNEXT_BLOCK.items():
        if inner == theirs or inner.startswith(f"{theirs}."):
            return f"stages.{position // 2}.blocks.{block}.{ours}{inner[len(theirs) :]}"
    return None


def torchvision_resnet(name: str) -> str | None:
    """timm's name for torchvision's ResNet tensor: the same; None for the classifier."""
    return None if name.startswith("fc.") else name


def reference_backbone(name: str) -> str | None:
    """timm's name for a backbone tensor of a reference checkpoint, without the leading `backbone.`; None if unknown.

    ConvNeXt stands there as `0.` + the children of torchvision's `features`, ResNet as torchvision's children in order.
    """
    if re.match(r"0\.\d\.", name):
        return torchvision_convnext(f"features.{name[2:]}")
    child, _, rest = name.partition(".")
    return f"{_RESNET_CHILDREN[child]}.{rest}" if child in _RESNET_CHILDREN else None
