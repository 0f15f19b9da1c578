"""The network: a timm backbone with a dynamic dictionary decoder, in pure torch."""

from d2ls.models.backbone import Backbone
from d2ls.models.d2ls import D2LSOutput, DynamicDictionaryLearning
from d2ls.models.pretrained import deferred_weights, efficientnet_lite0_weights
from d2ls.models.reference import load_reference_weights

__all__ = [
    "Backbone",
    "D2LSOutput",
    "DynamicDictionaryLearning",
    "deferred_weights",
    "efficientnet_lite0_weights",
    "load_reference_weights",
]
