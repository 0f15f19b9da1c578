"""Training recipes, and what each step of one does to an image and its mask."""

import os
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2ls.data.spec import IMAGENET_MEAN, IMAGENET_STD
from d2ls.errors import ConfigError

Pixels = NDArray[np.uint8]
_LARGEST_DENOMINATOR = 64
_TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of a training sample: mosaic, scale, crop, turns and flips, colour, in this order.

    Attributes:
        crop: side of the square that is cut out, in pixels; None keeps the whole image.
        scales: factors of which one is drawn for the image's size; needs a crop.
        smart_crop: a crop should hold two classes or more, and none with this share of its non-ignored pixels;
            None takes the first crop.
        tries: crops drawn at most in search of such a one; the last is kept.
        mosaic: probability of a mosaic of four images.
        rot90: probability of a turn by 90, 180 or 270 degrees (by 180 where the sample is not square).
        flip: probability of a flip, for each direction by itself.
        brightness_contrast: probability of a change of brightness and contrast by up to a quarter.
        sharpen: probability of sharpening.

    Raises:
        ConfigError: values that cannot be meant.
    """

    crop: int | None = None
    scales: tuple[float, ...] = ()
    smart_crop: float | None = None
    tries: int = 10
    mosaic: float = 0.0
    rot90: float = 0.0
    flip: float = 0.0
    brightness_contrast: float = 0.0
    sharpen: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mosaic", "rot90", "flip", "brightness_contrast", "sharpen"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a probability from 0 to 1.")
        if self.crop is None and (self.scales or self.smart_crop is not None):
            raise ConfigError("scales and smart_crop need a crop: the samples of a batch must have one size.")
        if self.crop is not None and self.crop < 1:
            raise ConfigError(f"crop is {self.crop}; expected pixels, 1 or more, or None for the whole image.")
        if wrong := [scale for scale in self.scales if not 1 / 16 <= scale <= 16]:
            raise ConfigError(f"scales has {wrong[0]}; expected factors from 1/16 to 16.")
        if self.smart_crop is not None and not 0 < self.smart_crop <= 1:
            raise ConfigError(f"smart_crop is {self.smart_crop}; expected a share above 0, at most 1, or None.")
        if self.tries < 1:
            raise ConfigError(f"tries is {self.tries}; expected 1 or more.")

    def random_scale(self, rng: np.random.Generator) -> Fraction:
        """One of the scales, as the nearest fraction of small numbers (0.75 is 3/4)."""
        if not self.scales:
            return Fraction(1)
        return Fraction(self.scales[rng.integers(len(self.scales))]).limit_denominator(_LARGEST_DENOMINATOR)


def random_rotate_flip(
    image: Pixels, mask: Pixels, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Turn and flip an image (H, W, 3) and its mask (H, W) alike."""
    turn, turns, across, down = (
        rng.random() < augmentation.rot90,
        int(rng.integers(1, 4)),
        *(rng.random(2) < augmentation.flip),
    )
    if turn:
        code = _TURNS[turns if mask.shape[0] == mask.shape[1] else 2]
        image, mask = cv2.rotate(image, code), cv2.rotate(mask, code)
    if across or down:
        axes = -1 if across and down else int(across)
        image, mask = cv2.flip(image, axes), cv2.flip(mask, axes)
    return image, mask


def random_colours(image: Pixels, augmentation: Augmentation, rng: np.random.Generator) -> Pixels:
    """Brightness, contrast and sharpness of an image (H, W, 3), by albumentations."""
    if not (augmentation.brightness_contrast or augmentation.sharpen):
        return image
    change = _colour_change(augmentation.brightness_contrast, augmentation.sharpen)
    change.set_random_seed(int(rng.integers(1 << 32)))
    changed: Pixels = change(image=np.ascontiguousarray(image))["image"]
    return changed


def normalise(image: Pixels) -> NDArray[np.float32]:
    """Values as ImageNet's backbones expect them.

    Args:
        image: RGB, 0..255, (H, W, 3).

    Returns:
        (3, H, W), contiguous.
    """
    values = np.empty((3, *image.shape[:2]), np.float32)
    for channel, plane in enumerate(cv2.split(image)):
        cv2.LUT(plane, _levels()[channel], dst=values[channel])
    return values


@lru_cache(maxsize=1)
def _levels() -> NDArray[np.float32]:
    """The normalised value of each level of each channel, (3, 256)."""
    factor = (1 / (255 * np.array(IMAGENET_STD))).astype(np.float32)
    offset = (-np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)).astype(np.float32)
    return np.arange(256, dtype=np.float32) * factor[:, None] + offset[:, None]


@lru_cache(maxsize=4)
def _colour_change(brightness_contrast: float, sharpen: float) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for its newest version
    import albumentations  # noqa: PLC0415  (slow to import, needed by few recipes)

    return albumentations.Compose(
        [albumentations.RandomBrightnessContrast(0.25, 0.25, p=brightness_contrast), albumentations.Sharpen(p=sharpen)]
    )
