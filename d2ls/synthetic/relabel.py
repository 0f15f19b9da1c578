"""Drawn pictures in the classes of the other data sets: what the scene knows, mapped as each data set would see it."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from d2ls.synthetic.canvas import Label, Material, noise
from d2ls.synthetic.scene import Scene, compose

Pixels = NDArray[np.uint8]
_GRASS_SOIL, _GRASS_LEAF = np.array([176.0, 152.0, 118.0]), np.array([62.0, 104.0, 52.0])


@dataclass(frozen=True)
class Labelled:
    """RGB (H, W, 3) and the class indices of one data set (H, W)."""

    image: Pixels
    mask: Pixels


def town_scene(size: int | tuple[int, int], seed: int) -> Scene:
    """A scene; in a small picture everything is drawn smaller, so that most classes still find a place."""
    smallest = size if isinstance(size, int) else min(size)
    return compose(size, seed, scale=min(1.0, max(smallest / 256.0, 0.4)))


def isprs(size: int | tuple[int, int], seed: int) -> Labelled:
    """Vaihingen and Potsdam: the classes as they are drawn."""
    scene = town_scene(size, seed)
    return Labelled(scene.image, scene.mask)


def loveda(size: int | tuple[int, int], seed: int) -> Labelled:
    """LoveDA: asphalt is road, soil and heaps barren, crowns forest, pools water, some lawns fields."""
    scene = town_scene(size, seed)
    asphalt = np.isin(scene.mask, (Label.IM_SURF, Label.CAR)) & (scene.material != Material.PAVING)
    lawn = scene.mask == Label.LOW_VEG
    soil = scene.material == Material.SOIL
    field = lawn & ~soil & _half(scene.mask.shape, seed)
    mask = np.zeros_like(scene.mask)
    mask[scene.mask == Label.BUILDING] = 1
    mask[asphalt & (scene.material != Material.GRAVEL)] = 2
    mask[scene.material == Material.WATER] = 3
    mask[soil] = 4
    mask[scene.mask == Label.TREE] = 5
    mask[field] = 6
    return Labelled(_ploughed(scene.image, field, seed), mask)


def loveda_raw(size: int | tuple[int, int], seed: int) -> Labelled:
    """LoveDA as it is published: values are class + 1; a black corner without data is 0."""
    drawn = loveda(size, seed)
    rows, columns = np.ogrid[: drawn.mask.shape[0], : drawn.mask.shape[1]]
    empty = rows + columns < min(drawn.mask.shape) // 8
    image, mask = np.where(empty[..., None], 0, drawn.image), np.where(empty, 0, drawn.mask + 1)
    return Labelled(image.astype(np.uint8), mask.astype(np.uint8))


def uavid(size: int | tuple[int, int], seed: int) -> Labelled:
    """UAVid: asphalt is road, cars move or stand, people are spots on the pavement; all else is clutter."""
    scene = town_scene(size, seed)
    image, mask = scene.image.copy(), np.full_like(scene.mask, 7)
    mask[(scene.mask == Label.IM_SURF) & (scene.material == Material.ASPHALT)] = 1
    for label, index in ((Label.BUILDING, 0), (Label.TREE, 2), (Label.LOW_VEG, 3), (Label.CAR, 5)):
        mask[scene.mask == label] = index
    moving = np.zeros_like(mask)
    for car in scene.objects.cars:
        if car.moving:
            cv2.fillPoly(moving, [np.rint(car.corners).astype(np.int32)], 1)
    mask[(moving > 0) & (scene.mask == Label.CAR)] = 4
    rng = np.random.default_rng([seed, 1])
    rows, columns = np.nonzero((scene.mask == Label.IM_SURF) & (scene.material == Material.PAVING))
    for _ in range(max(mask.size // 6000, 3) if len(rows) else 0):
        at = int(rng.integers(len(rows)))
        place, colour = (int(columns[at]), int(rows[at])), rng.integers(20, 236, size=3).tolist()
        cv2.circle(image, (place[0] + 2, place[1] + 2), 1, (50, 50, 54), cv2.FILLED)
        cv2.circle(image, place, 1, colour, cv2.FILLED)
        cv2.circle(mask, place, 1, 6, cv2.FILLED)
    return Labelled(image, mask)


def dubai(size: int | tuple[int, int], seed: int) -> Labelled:
    """Dubai: asphalt is road, paving and soil land, plants vegetation, cars and other clutter unlabelled."""
    scene = town_scene(size, seed)
    mask = np.full_like(scene.mask, 5)
    mask[scene.mask == Label.IM_SURF] = 1
    mask[(scene.mask == Label.IM_SURF) & (scene.material == Material.ASPHALT)] = 2
    mask[np.isin(scene.mask, (Label.LOW_VEG, Label.TREE))] = 3
    mask[scene.material == Material.SOIL] = 1
    mask[scene.mask == Label.BUILDING] = 0
    mask[scene.material == Material.WATER] = 4
    return Labelled(scene.image, mask)


def grass(size: int | tuple[int, int], seed: int) -> Labelled:
    """Grass: five levels of cover, from bare soil to dense green, that follow one smooth field."""
    height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng([seed, 2])
    period = max(min(height, width) / 3.0, 8.0)
    cover = noise(rng, height, width, period) + 0.35 * noise(rng, height, width, period / 4.0)
    level = np.digitize(cover, (-0.9, -0.3, 0.3, 0.9)).astype(np.uint8)
    tufts = noise(rng, height, width, 3.0) + 0.6 * rng.standard_normal((height, width), dtype=np.float32)
    leaf = np.clip(0.5 + 0.30 * cover + 0.16 * tufts, 0.0, 1.0)[..., None]
    light = 1.0 + 0.10 * tufts[..., None] + 0.06 * noise(rng, height, width, 2.0 * period)[..., None]
    picture = (_GRASS_SOIL * (1.0 - leaf) + _GRASS_LEAF * leaf) * light * rng.uniform(0.85, 1.15)
    return Labelled(np.clip(np.rint(picture), 0, 255).astype(np.uint8), level)


def cloud(size: int | tuple[int, int], seed: int) -> Labelled:
    """Cloud: 0 clear, 1 shadow, 2 thin cloud, 3 cloud, over land seen from far above."""
    height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng([seed, 3])
    land = cv2.GaussianBlur(compose((height, width), seed, scale=0.3).image, (7, 7), 2.0).astype(np.float32)
    period = max(min(height, width) / 3.0, 8.0)
    margin = max(min(height, width) // 8, 3)
    big = (height + margin, width + margin)
    density = sum(noise(rng, *big, period / 2**octave) * 0.5**octave for octave in range(4)) - rng.uniform(0.0, 0.5)
    opacity = np.clip((density + 0.1) * 1.1, 0.0, 1.0).astype(np.float32)
    above, cast = opacity[margin:, margin:], opacity[:-margin, :-margin]
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[cast > 0.45] = 1
    mask[above > 0.12] = 2
    mask[above > 0.55] = 3
    soft = cv2.GaussianBlur((cast > 0.45).astype(np.float32), (5, 5), 1.0)[..., None]
    white = 236.0 + 10.0 * noise(rng, height, width, 6.0)[..., None]
    picture = land * (1.0 - 0.5 * soft) * (1.0 - above[..., None]) + white * above[..., None]
    return Labelled(np.clip(np.rint(picture), 0, 255).astype(np.uint8), mask)


def _half(shape: tuple[int, ...], seed: int) -> NDArray[np.bool_]:
    """The pixels on one side of a line through the picture."""
    angle = np.random.default_rng([seed, 4]).uniform(0.0, 2.0 * np.pi)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((columns - shape[1] / 2) * np.cos(angle) + (rows - shape[0] / 2) * np.sin(angle) > 0)


def _ploughed(image: Pixels, field: NDArray[np.bool_], seed: int) -> Pixels:
    """The picture with furrows of ripe crop where there is a field."""
    angle = np.random.default_rng([seed, 5]).uniform(0.0, 2.0 * np.pi)
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    furrow = 1.0 + 0.14 * np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * 1.2)
    crop = image * (furrow[..., None] * np.array([1.22, 1.1, 0.72]))
    return np.where(field[..., None], np.clip(np.rint(crop), 0, 255), image).astype(np.uint8)
