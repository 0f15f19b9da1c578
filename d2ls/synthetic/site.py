"""The ground of a drawn scene while it is being built on: what stands where, and what still finds a place."""

import cv2
import numpy as np
from numpy.typing import NDArray

from d2ls.synthetic.canvas import RGB, Canvas, Label, Material, Points
from d2ls.synthetic.objects import (
    Building,
    Car,
    Clutter,
    Light,
    Objects,
    car_colour,
    clutter_colour,
    grow,
    pick,
    roof_colour,
)
from d2ls.synthetic.plan import Frame, choose_ground

CAR_LENGTH, CAR_WIDTH = 18.0, 7.8
_CROSS = np.array([[0.0, 0.0], [0.6, 0.0], [-0.6, 0.0], [0.0, 0.6], [0.0, -0.6]])


class Site:
    """Paints land at once, collects in `objects` what stands on it; coordinates are the town's unless named pixels."""

    def __init__(self, rng: np.random.Generator, canvas: Canvas, scale: float) -> None:
        height, width = canvas.mask.shape
        self.rng, self.canvas = rng, canvas
        self.frame = Frame(rng, height, width, scale)
        self.ground = choose_ground(rng)
        self.objects = Objects()
        self.taken = np.zeros((height, width), dtype=np.uint8)
        sun = float(rng.uniform(0.0, 2.0 * np.pi))
        towards = np.array([np.cos(sun), np.sin(sun)])
        self.light = Light(fall=-towards * rng.uniform(0.35, 0.95), towards=towards)

    def surface(self, corners: Points, colour: RGB, label: Label, material: Material) -> None:
        """Paint land."""
        self.canvas.polygon(self.frame.area(corners), colour, label, material)

    def add_building(self, corners: Points, roof: str, height: float, colour: RGB | None = None) -> None:
        """Put up a wing; height in pixels at scale 1."""
        pixels = self.frame(corners)
        style = int(self.rng.integers(1000))
        shade = roof_colour(self.rng, roof) if colour is None else colour
        self.objects.buildings.append(
            Building(corners=pixels, roof=roof, colour=shade, height=float(height) * self.frame.scale, style=style)
        )
        self._take(pixels)

    def add_car(self, place: Points, ahead: Points, *, moving: bool = False) -> bool:
        """Park a car or a van unless something stands there; whether it is there and in the picture."""
        size = (CAR_LENGTH * float(self.rng.uniform(0.9, 1.1)), CAR_WIDTH * float(self.rng.uniform(0.94, 1.06)))
        colour, height = car_colour(self.rng), 6.0
        if self.rng.random() < 0.06:
            size, height = (24.0, 9.0), 10.0
        half, aside = ahead * size[0] / 2, ahead[::-1] * (-1, 1) * size[1] / 2
        corners = np.array([place + half - aside, place + half + aside, place - half + aside, place - half - aside])
        pixels = self.frame(corners)
        if not self.close(pixels) or not self._free(self.frame(place + (corners - place) * 1.15)):
            return False
        self.objects.cars.append(Car(corners=pixels, colour=colour, height=height * self.frame.scale, moving=moving))
        self._take(pixels)
        return self.visible(pixels)

    def add_clutter(self, outline: Points, kind: str, height: float, lawn: bool = False) -> bool:
        """Put clutter down unless something stands there (or the ground is no lawn, where it must be)."""
        pixels = self.frame(outline)
        if lawn and not self._on(pixels.mean(axis=0)[None], Label.LOW_VEG):
            return False  # most places fail here, and this is far cheaper than the whole outline
        if not self.close(pixels) or not self._free(pixels, Label.LOW_VEG if lawn else None):
            return False
        colour = clutter_colour(self.rng, kind)
        self.objects.clutter.append(Clutter(outline=pixels, kind=kind, colour=colour, height=height * self.frame.scale))
        self._take(pixels)
        return True

    def add_tree(self, place: Points, radius: float, colour: RGB, street: bool = False) -> bool:
        """Plant a tree where nothing stands, on green land or in a street; whether its trunk is in the picture."""
        pixels = self.frame(place + _CROSS * radius)
        centre = pixels[0]
        if not (street or self._on(centre[None], Label.LOW_VEG)) or not self.close(centre[None]) or self._hits(pixels):
            return False
        changed = pick(self.rng, (colour,), 0.12)
        self.objects.trees.append(grow(self.rng, self.light, centre, radius * self.frame.scale, changed))
        return self.visible(centre[None])

    def blob(self, centre: Points, small: float, large: float) -> Points:
        """A smooth irregular outline."""
        angle = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
        phase = self.rng.uniform(0.0, 2.0 * np.pi, 3)
        wobble = 1.0 + 0.12 * np.sin(2 * angle + phase[0]) + 0.08 * np.sin(3 * angle + phase[1])
        shape = np.stack([np.cos(angle) * large, np.sin(angle) * small], axis=1) * wobble[:, None]
        spin = np.array([[np.cos(phase[2]), np.sin(phase[2])], [-np.sin(phase[2]), np.cos(phase[2])]])
        return np.asarray(centre + shape @ spin)

    def _take(self, pixels: Points) -> None:
        cv2.fillPoly(self.taken, [np.round(pixels).astype(np.int32)], 1)

    def _inside(self, pixels: Points) -> NDArray[np.int64]:
        """Rounded coordinates of the points that are in the picture."""
        height, width = self.taken.shape
        at = np.rint(pixels).astype(np.int64)
        x, y = at.T
        return np.asarray(at[(x >= 0) & (y >= 0) & (x < width) & (y < height)])

    def visible(self, pixels: Points) -> bool:
        """Whether the centre of an outline is in the picture."""
        return bool(len(self._inside(pixels.mean(axis=0)[None])))

    def _on(self, pixels: Points, label: Label) -> bool:
        at = self._inside(pixels)
        return bool((self.canvas.mask[at[:, 1], at[:, 0]] == label).all())

    def _free(self, pixels: Points, label: Label | None = None) -> bool:
        """Whether nothing stands at a polygon's corners, edges and centre, and the ground has the label."""
        middle = pixels.mean(axis=0)
        spots = np.concatenate([pixels, (pixels + np.roll(pixels, 1, axis=0)) / 2, (pixels + middle) / 2, middle[None]])
        return not self._hits(spots) and (label is None or self._on(spots, label))

    def _hits(self, pixels: Points) -> bool:
        at = self._inside(pixels)
        return bool(self.taken[at[:, 1], at[:, 0]].any())

    def anywhere(self) -> Points:
        """A point of the town that is in the picture or a little beside it."""
        height, width = self.taken.shape
        margin = 12.0 * self.frame.scale
        return self.frame.back(self.rng.uniform(-margin, (width + margin, height + margin)))

    def close(self, pixels: Points) -> bool:
        """Whether something with this outline, or its shadow, may show in the picture."""
        height, width = self.taken.shape
        low, high, margin = pixels.min(axis=0), pixels.max(axis=0), 45.0 * self.frame.scale
        return bool(high.min() > -margin and low[0] < width + margin and low[1] < height + margin)
