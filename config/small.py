"""Base of the configs for a 2-core CPU: EfficientNet-Lite0, ImageNet weights from an installed package.

`data` is the module of their data set.
"""

from d2ls.models import DynamicDictionaryLearning, efficientnet_lite0_weights

base = "paper.py"

lr = 1e-3
num_workers = 1
channels_last = True

backbone, pretrained = "tf_efficientnet_lite0", efficientnet_lite0_weights()
width = 128
net = DynamicDictionaryLearning(
    backbone, num_classes, stages=stages, width=width, pretrained=pretrained, dictionary=dictionary,
    num_entries=num_entries, head=head,
)  # fmt: skip
