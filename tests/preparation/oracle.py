"""The patches of a tile by the plainest possible means: padded copies, a comparison per class, PIL."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

ISPRS = {(255, 255, 255): 0, (0, 0, 255): 1, (0, 255, 255): 2, (0, 255, 0): 3, (255, 255, 0): 4, (255, 0, 0): 5}
ISPRS |= {(255, 204, 0): 4, (0, 0, 0): 6}
UAVID = {
    (128, 0, 0): 0, (128, 64, 128): 1, (0, 128, 0): 2, (128, 128, 0): 3,
    (64, 0, 128): 4, (192, 0, 192): 5, (64, 64, 0): 6, (0, 0, 0): 7, (255, 255, 255): 255,
}  # fmt: skip


def to_index(rgb, colours=ISPRS):
    index = np.full(rgb.shape[:2], 99, np.uint8)
    for colour, value in colours.items():
        index[(rgb == np.array(colour)).all(axis=2)] = value
    assert not (index == 99).any()
    return index


def patches(image, index, size, stride, variants, ignore=6):
    """{(variant, k): (image, mask)} of a tile, padded at top and left to a multiple of the size."""
    made = {}
    flips = [lambda a: a, np.fliplr, np.flipud]
    for variant in range(variants):
        a, m = flips[variant](image), flips[variant](index)
        up, left = -a.shape[0] % size, -a.shape[1] % size
        a = np.pad(a, ((up, 0), (left, 0), (0, 0)))
        m = np.pad(m, ((up, 0), (left, 0)), constant_values=ignore)
        k = 0
        for y in range(0, a.shape[0], stride):
            for x in range(0, a.shape[1], stride):
                b, n = a[y : y + size, x : x + size], m[y : y + size, x : x + size]
                if n.shape == (size, size):
                    made[variant, k] = b, n
                k += 1
    return made


def read(path):
    return np.array(Image.open(path))


def read_folder(folder: Path):
    return {path.name: read(path) for path in sorted(folder.iterdir()) if path.is_file()}


def hashes(folder: Path):
    """Every file below a folder, hidden ones too, by content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def draw(rng, shape, colours=ISPRS, cars=0.05):
    """A noisy image and blocky colour labels of a size."""
    palette = np.array([c for c in colours if c != (255, 204, 0)], np.uint8)
    height, width = shape
    cells = rng.integers(len(palette), size=(height // 16 + 1, width // 16 + 1))
    cells[rng.random(cells.shape) < cars] = 4
    mask = palette[cells.repeat(16, 0).repeat(16, 1)[:height, :width]]
    image = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
    return image, mask


def save(path: Path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
