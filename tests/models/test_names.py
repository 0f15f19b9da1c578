"""Tensor names of torchvision and of the reference, for whole networks."""

import pytest
import timm
import torch
import torchvision

from d2ls.models.names import reference_backbone, torchvision_convnext, torchvision_resnet


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_small", "convnext_base"])
def test_torchvision_convnext(name):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name).state_dict()
        ours = timm.create_model(name).state_dict()
    renamed = {torchvision_convnext(key): tensor for key, tensor in theirs.items()}
    renamed.pop(None)
    assert set(renamed) == {key for key in ours if not key.startswith("head.")}
    for key, tensor in renamed.items():
        assert tensor.shape.numel() == ours[key].shape.numel(), key
    for key in theirs:
        if key.startswith("features."):
            assert reference_backbone("0." + key.removeprefix("features.")) == torchvision_convnext(key)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_torchvision_resnet(name):
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
        ours = timm.create_model(name).state_dict()
    theirs = {torchvision_resnet(key) for key in network.state_dict()} - {None}
    assert theirs == {key for key in ours if not key.startswith("fc.")}
    children = [child for child, _ in network.named_children()]
    for key in theirs:
        child, _, inner = key.partition(".")
        assert reference_backbone(f"{children.index(child)}.{inner}") == key


@pytest.mark.parametrize("name", ["8.weight", "2.weight", "0.0", "stages.0.weight", "0.1.0.block.9.weight", "0.1.0.x"])
def test_unknown_names_of_the_reference(name):
    with torch.device("meta"):
        known = set(timm.create_model("resnet18").state_dict()) | set(timm.create_model("convnext_tiny").state_dict())
    assert reference_backbone(name) not in known
