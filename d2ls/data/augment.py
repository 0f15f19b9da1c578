"""Augmentation of training samples: its settings, rotations and flips, colours, any albumentations pipeline."""

import copy
import os
import random
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError, DataError

Pixels = NDArray[Any]  # uint8, uint16, int16 or float32
Mask = NDArray[np.uint8]
_LARGEST_DENOMINATOR = 64
_OF_THE_DATASET = ("Normalize", "ToTensorV2", "ToTensor3D", "ToFloat", "FromFloat")
_ROTATIONS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of a training sample: mosaic, scale, crop, rotations and flips, colour, pipeline, in this order.

    Attributes:
        crop: side of the square that is cut out, in pixels; None keeps the whole image.
        scales: factors, one of which is chosen for the image's size; needs a crop.
        smart_crop: a crop should hold two classes or more, and none with this share of its non-ignored pixels;
            None takes the first crop.
        tries: most crops tried in search of such a one; the last is kept.
        mosaic: probability of a mosaic of four images.
        rot90: probability of a rotation by 90, 180 or 270 degrees (by 180 where the sample is not square).
        flip: probability of a flip, for each direction by itself.
        brightness_contrast: probability of a change of brightness and contrast by up to a quarter, of RGB bands.
        sharpen: probability of sharpening, of RGB bands.
        augment: an `albumentations.Compose` of further transforms. It gets uint8 pixels as they are, others as float32
            with the spec's `value_range` as 0 to 1, and the mask of class indices. Mask pixels that a transform adds
            (`fill_mask=0`, albumentations' default) are ignored. Transforms must draw from albumentations' generators,
            which are seeded for each sample.

    Raises:
        ConfigError: values out of range, or a pipeline that normalises or is none.
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
    augment: Any = None

    def __post_init__(self) -> None:
        chances = ("mosaic", "rot90", "flip", "brightness_contrast", "sharpen")
        for name, is_right, expected in (
            *((name, 0 <= getattr(self, name) <= 1, "a probability from 0 to 1") for name in chances),
            ("crop", self.crop is None or self.crop >= 1, "pixels, 1 or more, or None for the whole image"),
            ("smart_crop", self.smart_crop is None or 0 < self.smart_crop <= 1, "a share above 0, at most 1, or None"),
            ("tries", self.tries >= 1, "1 or more"),
        ):
            if not is_right:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {expected}.")
        if wrong := [scale for scale in self.scales if not 1 / 16 <= scale <= 16]:
            raise ConfigError(f"scales has {wrong[0]}; expected factors from 1/16 to 16.")
        if self.crop is None and (self.scales or self.smart_crop is not None):
            raise ConfigError("scales and smart_crop need a crop: the samples of a batch must have one size.")
        if self.augment is not None:
            _check_pipeline(self.augment)

    def random_scale(self, rng: np.random.Generator) -> Fraction:
        """One of the scales, as the nearest fraction of small numbers (0.75 is 3/4)."""
        if not self.scales:
            return Fraction(1)
        return Fraction(self.scales[rng.integers(len(self.scales))]).limit_denominator(_LARGEST_DENOMINATOR)


def random_rotate_flip(
    image: Pixels, mask: Mask, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Pixels, Mask]:
    """Rotate and flip an image (H, W, bands) and its mask (H, W) alike."""
    rotate, quarters = rng.random() < augmentation.rot90, int(rng.integers(1, 4))
    across, down = rng.random(2) < augmentation.flip
    if rotate:
        quarters = quarters if mask.shape[0] == mask.shape[1] else 2
        mask = cv2.rotate(mask, _ROTATIONS[quarters])
        # OpenCV is faster than NumPy, and rotates pixels of a few sizes only.
        many = image.shape[2] > 4
        image = np.ascontiguousarray(np.rot90(image, quarters)) if many else cv2.rotate(image, _ROTATIONS[quarters])
    if across or down:
        axes = -1 if across and down else int(across)
        image, mask = cv2.flip(image, axes), cv2.flip(mask, axes)
    return image.reshape(*mask.shape, -1), mask  # OpenCV drops the axis of a single band


def random_colours(
    image: Pixels, augmentation: Augmentation, rng: np.random.Generator, spec: DatasetSpec | None = None
) -> Pixels:
    """Change brightness, contrast and sharpness of the bands red, green and blue of (H, W, bands): albumentations."""
    spec = spec or _IMAGENET
    if not (augmentation.brightness_contrast or augmentation.sharpen) or spec.rgb is None:
        return image
    change = _colour_change(augmentation.brightness_contrast, augmentation.sharpen)
    seed_transforms(change, rng)
    bands = list(spec.rgb)
    rgb = np.ascontiguousarray(image if bands == [*range(image.shape[2])] else image[..., bands])
    rgb = from_unit(change(image=to_unit(rgb, spec))["image"], spec)
    if rgb.shape == image.shape:
        return rgb
    changed = image.copy()
    changed[..., bands] = rgb
    return changed


def to_unit(image: Pixels, spec: DatasetSpec) -> Pixels:
    """Values as albumentations takes them: uint8, or float32 with `value_range` as 0 to 1 (ConfigError without one)."""
    if image.dtype == np.uint8:
        return image
    if spec.value_range is None:
        raise ConfigError(
            f"data set {spec.name!r}: albumentations needs the range of the {spec.dtype} values. Set "
            "DatasetSpec(value_range=(lowest, highest)); tools/band_statistics.py prints it."
        )
    low, high = (np.float32(value) for value in spec.value_range)
    return (image.astype(np.float32) - low) / (high - low)


def from_unit(values: Pixels, spec: DatasetSpec) -> Pixels:
    """The inverse of `to_unit`, in the spec's type."""
    if values.dtype == np.uint8 or spec.value_range is None:
        return values
    low, high = (np.float32(value) for value in spec.value_range)
    return to_dtype(values * (high - low) + low, spec.dtype)


def to_dtype(values: NDArray[np.float32], dtype: str) -> Pixels:
    """Float values as another type; integers are rounded, and clipped to the type's range."""
    if dtype == "float32":
        return values
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype)


def seed_transforms(pipeline: Any, rng: np.random.Generator) -> None:
    """Seed an albumentations pipeline by generators that all of its transforms share.

    With albumentations' `set_random_seed` each of them draws the same numbers: two of probability 0.5 act together.
    """
    seed = int(rng.integers(1 << 62))
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))


class Transforms:
    """A copy of a pipeline for the images of one data set, whose ignore index takes the place of `fill_mask=0`."""

    def __init__(self, pipeline: Any, spec: DatasetSpec) -> None:
        self.pipeline = copy.deepcopy(pipeline)
        self.spec = spec
        for part in _parts(self.pipeline):
            if getattr(part, "fill_mask", None) == 0:
                part.fill_mask = spec.ignore_index

    def __call__(self, image: Pixels, mask: Mask, rng: np.random.Generator, path: object) -> tuple[Pixels, Mask]:
        """Transform an image (H, W, bands) and its mask (H, W) (raises DataError: names the transform that fails)."""
        values, mask = np.ascontiguousarray(to_unit(image, self.spec)), np.ascontiguousarray(mask)
        start = copy.deepcopy(rng)
        seed_transforms(self.pipeline, rng)
        try:
            changed = self.pipeline(image=values, mask=mask)
            problem = _problem(values, changed)
        except Exception as error:  # whatever a transform raises
            problem = f"{type(error).__name__}: {error}"
        if problem:
            raise DataError(f"{path}: augment, {self._culprit(values, mask, start)}: {problem}")
        return from_unit(changed["image"], self.spec), changed["mask"]

    def _culprit(self, image: Pixels, mask: Mask, rng: np.random.Generator) -> str:
        """Name of the first transform that fails or gives a wrong array, found by applying them one by one."""
        seed_transforms(self.pipeline, rng)
        self.pipeline.py_random.random()  # the pipeline's own probability
        data = {"image": image, "mask": mask}
        for transform in self.pipeline.transforms:
            try:
                data = transform(**data)
            except Exception:
                return type(transform).__name__
            if _problem(image, data):
                return type(transform).__name__
        return type(self.pipeline).__name__


def _problem(before: Pixels, changed: dict[str, Any]) -> str | None:
    """Sentence on an outcome of another type or shape."""
    image, mask = changed["image"], changed["mask"]
    expected = {"image": (str(before.dtype), (*mask.shape[:2], before.shape[2])), "mask": ("uint8", image.shape[:2])}
    for name, (dtype, shape) in expected.items():
        array = changed[name]
        if not isinstance(array, np.ndarray) or str(array.dtype) != dtype or array.shape != shape:
            found = f"{type(array).__name__} of {getattr(array, 'dtype', '')} {tuple(getattr(array, 'shape', ()))}"
            return f"the {name} becomes {found}; expected an array of {dtype} {shape}."
    return None


def normalise(image: Pixels, spec: DatasetSpec | None = None) -> NDArray[np.float32]:
    """Take mean and standard deviation out of each band: (H, W, bands), in the file's unit, to (bands, H, W).

    The spec None is 8-bit RGB with ImageNet's; one without them is a ConfigError.
    """
    spec = _IMAGENET if spec is None else spec
    values = np.empty((image.shape[2], *image.shape[:2]), np.float32)
    if image.dtype == np.uint8:
        levels = _levels(spec)
        for band, plane in enumerate(cv2.split(image)):
            cv2.LUT(plane, levels[band], dst=values[band])
        return values
    factor, offset = spec.scale_and_offset()
    np.multiply(image.transpose(2, 0, 1), factor[:, None, None], out=values)
    values += offset[:, None, None]
    return values


def normalise_batch(images: Tensor, spec: DatasetSpec) -> Tensor:
    """Normalise a batch (B, bands, H, W) on its device, if it is raw, of an integer type; gives float32."""
    if images.is_floating_point():
        return images
    factor, offset = (torch.from_numpy(values).to(images.device)[:, None, None] for values in spec.scale_and_offset())
    return images.to(torch.float32).mul_(factor).add_(offset)


_IMAGENET = DatasetSpec(name="ImageNet", classes=("a", "b"), colours=((0, 0, 0), (1, 1, 1)), ignore_index=255)


def _check_pipeline(pipeline: Any) -> None:
    """Refuse what is no pipeline, and transforms whose work the data set does."""
    if not (callable(pipeline) and hasattr(pipeline, "transforms") and hasattr(pipeline, "set_random_state")):
        raise ConfigError(f"augment is {pipeline!r:.80}; expected albumentations.Compose([...]).")
    for part in _parts(pipeline):
        if type(part).__name__ in _OF_THE_DATASET:
            raise ConfigError(
                f"augment has {type(part).__name__}: scaling, normalisation (mean and std of the DatasetSpec) and the "
                "conversion to a tensor come after it in any case. Leave it out."
            )


def _parts(pipeline: Any) -> list[Any]:
    """A pipeline and all transforms in it."""
    return [pipeline, *chain.from_iterable(map(_parts, getattr(pipeline, "transforms", ())))]


@lru_cache(maxsize=4)
def _levels(spec: DatasetSpec) -> NDArray[np.float32]:
    """The normalised value of each level of each band, (bands, 256)."""
    factor, offset = spec.scale_and_offset()
    return np.arange(256, dtype=np.float32) * factor[:, None] + offset[:, None]


@lru_cache(maxsize=4)
def _colour_change(brightness_contrast: float, sharpen: float) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for its newest version
    import albumentations  # noqa: PLC0415  (slow to import, needed by few augmentations)

    return albumentations.Compose(
        [albumentations.RandomBrightnessContrast(0.25, 0.25, p=brightness_contrast), albumentations.Sharpen(p=sharpen)]
    )
