"""Deterministic inputs of the parity cases: weights, images and masks are functions of names and seeds,
so nothing large has to be shipped. numpy >= 1.24; the same numbers on every platform."""

import zlib

import numpy as np


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:  # noqa: PLR0911
    """The value of the reference tensor `name`: float32, int64 for batch-norm counters."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    noise = rng.standard_normal(shape, dtype=np.float32) if shape else np.float32(rng.standard_normal())
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    if name.endswith("running_var"):
        return (0.5 + np.abs(noise)).astype(np.float32)
    if name.endswith("running_mean"):
        return (0.1 * noise).astype(np.float32)
    if name.endswith("layer_scale"):
        return (0.3 + 0.05 * noise).astype(np.float32)
    if name.endswith(("positional_encoding_gaussian_matrix", "basic_queries.weight")):
        return noise
    if name.endswith("bias") or len(shape) == 0:
        return (0.1 * noise).astype(np.float32)
    if len(shape) == 1:  # normalisation gains
        return (1.0 + 0.1 * noise).astype(np.float32)
    return (noise / np.sqrt(int(np.prod(shape[1:])))).astype(np.float32)


def image(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard-normal float32 array: an image batch, or logits."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)


def mask(seed: int, shape: tuple[int, ...], classes: int, ignore_index: int) -> np.ndarray:
    """Uniform int64 class indices with about a tenth of the pixels set to `ignore_index`."""
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = rng.integers(0, classes, size=shape)
    labels[rng.random(shape) < 0.1] = ignore_index
    return labels.astype(np.int64)
