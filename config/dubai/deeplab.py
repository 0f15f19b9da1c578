"""Dubai with a DeepLabV3+ on the same backbone, weights, recipe and number of steps as d2ls.py.

Needs segmentation-models-pytorch (requirements-dev.txt).
"""

from d2ls.models.peers import SMPNetwork

base = "d2ls.py"

weights_name = "deeplab"
decoder = "DeepLabV3Plus"
net = SMPNetwork(decoder, backbone, num_classes, pretrained)
