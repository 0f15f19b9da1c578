"""Albumentations pipelines of a config: seeded for each sample, their outcome checked."""

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2ls.data.augment import from_unit, seed_transforms, to_unit
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError

Pixels = NDArray[Any]
Mask = NDArray[np.uint8]


class Transforms:
    """A copy of a pipeline for the images of one data set.

    Args:
        pipeline: an `albumentations.Compose`.
        spec: bands, type and value range of the images, and the ignore index, which takes the place of `fill_mask=0`.
    """

    def __init__(self, pipeline: Any, spec: DatasetSpec) -> None:
        self.pipeline = copy.deepcopy(pipeline)
        self.spec = spec
        parts = [self.pipeline]
        for part in parts:
            parts += getattr(part, "transforms", ())
            if getattr(part, "fill_mask", None) == 0:
                part.fill_mask = spec.ignore_index

    def __call__(self, image: Pixels, mask: Mask, rng: np.random.Generator, path: object) -> tuple[Pixels, Mask]:
        """Run the pipeline.

        Args:
            image: (H, W, bands), in the unit of the file.
            mask: class indices and the ignore index, (H, W).
            rng: the source of all randomness.
            path: the image's file, for the error's text.

        Raises:
            DataError: a transform fails, or gives other types, bands or sizes; names it and the file.
            ConfigError: pixels of another type than uint8 without a `value_range`.
        """
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
    """Return what is wrong with the outcome of a transform."""
    image, mask = changed["image"], changed["mask"]
    expected = {"image": (str(before.dtype), (*mask.shape[:2], before.shape[2])), "mask": ("uint8", image.shape[:2])}
    for name, (dtype, shape) in expected.items():
        array = changed[name]
        if not isinstance(array, np.ndarray) or str(array.dtype) != dtype or array.shape != shape:
            found = f"{type(array).__name__} of {getattr(array, 'dtype', '')} {tuple(getattr(array, 'shape', ()))}"
            return f"the {name} becomes {found}; expected an array of {dtype} {shape}."
    return None
