"""Drawn pictures in the classes of each data set: RGB (H, W, 3) and class indices (H, W), both uint8."""

import cv2
import numpy as np
from numpy.typing import NDArray

from d2ls.synthetic.canvas import Label, Material, noise
from d2ls.synthetic.scene import Scene, compose

Pixels = NDArray[np.uint8]
Size = int | tuple[int, int]  # the side of a square, or height and width, in pixels


def _town(size: Size, seed: int) -> Scene:
    """A scene; in a small picture everything is drawn smaller, so that most classes still find a place."""
    return compose(size, seed, scale=min(1.0, max(np.min(size) / 256.0, 0.4)))


def _map(scene: Scene, *labels: int) -> Pixels:
    """Class indices of one data set; `labels` gives that of each `Label`."""
    return np.asarray(labels, dtype=np.uint8)[scene.mask]


def isprs(size: Size, seed: int) -> tuple[Pixels, Pixels]:
    """Vaihingen and Potsdam: the classes as they are drawn."""
    scene = _town(size, seed)
    return scene.image, scene.mask


def loveda_raw(size: Size, seed: int) -> tuple[Pixels, Pixels]:
    """LoveDA as published (class + 1): asphalt is road, beds fields, heaps barren, crowns forest, pools water.

    A black corner without data is 0.
    """
    scene = _town(size, seed)
    mask = _map(scene, 3, 2, 1, 6, 3, 1)
    mask[(scene.mask == Label.IM_SURF) & (scene.material != Material.ASPHALT)] = 1
    mask[scene.material == Material.WATER] = 4
    mask[(scene.material == Material.SOIL) & (scene.mask == Label.CLUTTER)] = 5
    mask[(scene.material == Material.SOIL) & (scene.mask == Label.LOW_VEG)] = 7
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    empty = rows + columns < min(mask.shape) // 8
    return np.where(empty[..., None], 0, scene.image).astype(np.uint8), np.where(empty, 0, mask).astype(np.uint8)


def uavid(size: Size, seed: int) -> tuple[Pixels, Pixels]:
    """UAVid: asphalt is road, cars move or stand, people are spots on the pavement; all else is clutter."""
    scene = _town(size, seed)
    image, mask = scene.image.copy(), _map(scene, 1, 0, 3, 2, 5, 7)
    pavement = (scene.mask == Label.IM_SURF) & (scene.material != Material.ASPHALT)
    mask[pavement] = 7
    moving = np.zeros_like(mask)
    for thing in scene.things:
        if thing.moving:
            cv2.fillPoly(moving, [np.rint(thing.outline).astype(np.int32)], 1)
    mask[(moving > 0) & (scene.mask == Label.CAR)] = 4
    rng = np.random.default_rng([seed, 1])
    places = np.argwhere(pavement)[:, ::-1]
    for at in rng.integers(max(len(places), 1), size=max(mask.size // 6000, 3))[: len(places)]:
        place, colour = places[at].tolist(), rng.integers(20, 236, size=3).tolist()
        cv2.circle(image, place, 1, colour, cv2.FILLED)
        cv2.circle(mask, place, 1, 6, cv2.FILLED)
    return image, mask


def dubai(size: Size, seed: int) -> tuple[Pixels, Pixels]:
    """Dubai: asphalt is road, paving and soil land, plants vegetation, cars and other clutter unlabelled."""
    scene = _town(size, seed)
    mask = _map(scene, 1, 0, 3, 3, 5, 5)
    mask[(scene.mask == Label.IM_SURF) & (scene.material == Material.ASPHALT)] = 2
    mask[scene.material == Material.SOIL] = 1
    mask[scene.material == Material.WATER] = 4
    return scene.image, mask


def grass(size: Size, seed: int) -> tuple[Pixels, Pixels]:
    """Grass: five levels of cover, from bare soil to dense green, that follow one smooth field."""
    height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng([seed, 2])
    period = max(min(height, width) / 3.0, 8.0)
    cover = noise(rng, height, width, period) + 0.35 * noise(rng, height, width, period / 4.0)
    level = np.digitize(cover, (-0.9, -0.3, 0.3, 0.9)).astype(np.uint8)
    tufts = noise(rng, height, width, 3.0) + 0.6 * rng.standard_normal((height, width), dtype=np.float32)
    leaf = np.clip(0.5 + 0.30 * cover + 0.16 * tufts, 0.0, 1.0)[..., None]
    light = 1.0 + 0.10 * tufts[..., None] + 0.06 * noise(rng, height, width, 2.0 * period)[..., None]
    picture = np.array([176, 152, 118]) * (1.0 - leaf) + np.array([62, 104, 52]) * leaf  # soil and leaves
    return np.clip(np.rint(picture * light * rng.uniform(0.85, 1.15)), 0, 255).astype(np.uint8), level


def cloud(size: Size, seed: int) -> tuple[Pixels, Pixels]:
    """Cloud: 0 clear, 1 shadow, 2 thin cloud, 3 cloud, over land seen from far above."""
    height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng([seed, 3])
    land = cv2.GaussianBlur(compose((height, width), seed, scale=0.3).image, (7, 7), 2.0).astype(np.float32)
    margin, period = max(min(height, width) // 8, 3), max(min(height, width) / 3.0, 8.0)
    density = sum(noise(rng, height + margin, width + margin, period / 2**octave) * 0.5**octave for octave in range(4))
    opacity = np.clip((density - rng.uniform(-0.1, 0.4)) * 1.1, 0.0, 1.0).astype(np.float32)
    above, cast = opacity[margin:, margin:], opacity[:-margin, :-margin] > 0.45
    mask = np.select([above > 0.55, above > 0.12, cast], [3, 2, 1]).astype(np.uint8)
    soft = cv2.GaussianBlur(cast.astype(np.float32), (5, 5), 1.0)[..., None]
    white = 236.0 + 10.0 * noise(rng, height, width, 6.0)[..., None]
    picture = land * (1.0 - 0.5 * soft) * (1.0 - above[..., None]) + white * above[..., None]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), mask
