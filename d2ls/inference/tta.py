"""Test-time augmentation: mean of the logits over flipped, rotated and resized views of an image (with ttach)."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
import ttach
from torch import Tensor
from ttach.base import DualTransform, Merger

from d2ls.data.sets.facts import Views

Model = Callable[[Tensor], Tensor]
"""Logits (B, K, H, W) of images (B, 3, H, W)."""


NONE = Views()
LR = Views(hflip=True, vflip=True)


class Scale(DualTransform):
    """Other sizes of an image, round(factor * side) px, and logits at its own size (ttach's may miss it by a pixel)."""

    identity_param = 1.0

    def __init__(self, scales: tuple[float, ...], size: tuple[int, int]) -> None:
        super().__init__("scale", list(scales))
        self.size = size

    def apply_aug_image(self, image: Tensor, scale: float = 1.0, **_: Any) -> Tensor:
        """The image at another size."""
        return _resize(image, tuple(max(1, round(scale * side)) for side in self.size))

    def apply_deaug_mask(self, mask: Tensor, scale: float = 1.0, **_: Any) -> Tensor:
        """Logits at the image's own size, whatever the factor was."""
        return _resize(mask, self.size)


def mean_logits(model: Model, image: Tensor, views: Views, batch: int = 1) -> Tensor:
    """Mean over all views of the logits, each transformed back: (B, K, H, W) of images (B, 3, H, W).

    Flips and rotations of one scale are merged before they are resized: resizing is linear and commutes with
    permutations of pixels, so this is the mean over all combinations, with one resize for each scale. At most the
    logits of two batches are held; the model gets up to `batch` views of one size at once.
    """
    if views == NONE:
        return model(image)
    scales = ttach.Compose([Scale(views.scales, (image.shape[-2], image.shape[-1]))])
    turns = _turns(views)
    merger = Merger("mean", n=len(scales))
    for scale in scales:
        merger.append(scale.deaugment_mask(_mean_of_turns(model, scale.augment_image(image), turns, batch)))
    return merger.result


def _turns(views: Views) -> ttach.Compose:
    """Flips and rotations; those that give one size follow each other."""
    turns = [ttach.Rotate90(angles=[0, 90])] if views.rot90 else []
    turns += [ttach.HorizontalFlip()] if views.hflip else []
    turns += [ttach.VerticalFlip()] if views.vflip else []
    return ttach.Compose(turns)


def _mean_of_turns(model: Model, image: Tensor, turns: ttach.Compose, batch: int) -> Tensor:
    merger = Merger("mean", n=len(turns))
    for group, images in _groups(turns, image, batch):
        for turn, logits in zip(group, model(images).split(len(image)), strict=True):
            merger.append(turn.deaugment_mask(logits))
    return merger.result


def _groups(turns: ttach.Compose, image: Tensor, batch: int) -> Iterator[tuple[list[Any], Tensor]]:
    """Up to `batch` successive turns of one size, and their views as one batch."""
    group: list[Any] = []
    views: list[Tensor] = []
    for turn in turns:
        view = turn.augment_image(image)
        if views and (len(views) == batch or view.shape != views[0].shape):
            yield group, torch.cat(views)
            group, views = [], []
        group.append(turn)
        views.append(view)
    yield group, torch.cat(views)


def _resize(image: Tensor, size: tuple[int, ...]) -> Tensor:
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode="bicubic", align_corners=False)
