"""The ground of a drawn scene: its colours, its axes, and what stands on it.

Lengths are pixels at scale 1 (about 25 cm) in the town's own plane, whose axes follow its streets; what stands on the
ground has pixel coordinates of the picture.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from d2ls.synthetic.canvas import RGB, Canvas, Label, Material, Points

_COLOURS: dict[str, tuple[RGB, ...]] = {
    "asphalt": ((92, 90, 88), (108, 107, 107), (122, 119, 116), (134, 130, 126)),
    "pavement": ((158, 154, 148), (142, 138, 136), (170, 160, 148)),
    "paving": ((166, 152, 138), (150, 146, 140), (172, 134, 116), (186, 178, 164), (120, 118, 116)),
    "gravel": ((172, 160, 142), (178, 164, 138)),
    "lawn": ((86, 116, 66), (108, 121, 75), (130, 126, 84), (152, 131, 91)),
    "soil": ((140, 116, 88), (122, 104, 80), (158, 138, 108)),
    "crown": ((58, 84, 48), (70, 98, 54), (50, 78, 54), (84, 104, 56), (92, 96, 50), (118, 92, 52)),
    "gable": ((168, 92, 70), (150, 80, 62), (186, 116, 88), (122, 84, 68), (96, 92, 92), (74, 76, 82)),
    "flat": ((150, 148, 144), (122, 122, 124), (186, 184, 180), (96, 98, 102), (170, 160, 146), (98, 118, 74)),
    "car": ((232, 232, 232), (184, 188, 192), (44, 46, 50), (92, 96, 102), (150, 34, 34), (40, 66, 120)),
    "container": ((168, 62, 44), (52, 92, 140), (70, 118, 86), (204, 140, 52), (176, 176, 172)),
    "pool": ((86, 176, 198), (70, 150, 190)),
    "pond": ((46, 62, 58), (58, 76, 84), (72, 84, 66)),
    "heap": ((164, 140, 108), (138, 118, 96), (158, 154, 148)),
}


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something that stands on the ground.

    Attributes:
        kind: "gable", "flat", "car", "container", "pool", "pond", "heap" or "crown".
        outline: polygon (N, 2) in pixels; four corners in order, but for ponds and heaps.
        height: in pixels of the picture.
        colour: RGB.
        moving: of a car, whether it drives.
    """

    kind: str
    outline: Points
    height: float
    colour: RGB
    moving: bool = False


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A piece of land: the middle of its near side, unit vectors along that side and away from it, its size."""

    origin: Points
    along: Points
    inward: Points
    width: float
    depth: float

    def point(self, u: float, v: float) -> Points:
        """The point at u along the near side and v away from it."""
        return np.asarray(self.origin + u * self.along + v * self.inward)

    def rect(self, u: float, v: float, width: float, depth: float) -> Points:
        """Corners of a rectangle around the point (u, v)."""
        return rectangle(self.point(u, v), self.along * width, self.inward * depth)

    @property
    def outline(self) -> Points:
        """Its corners."""
        return self.rect(0.0, self.depth / 2, self.width, self.depth)


def rectangle(middle: Points, first: Points, second: Points) -> Points:
    """Corners (4, 2) of the rectangle around a middle whose sides are these two vectors."""
    a, b = first / 2, second / 2
    return np.array([middle - a - b, middle + a - b, middle + a + b, middle - a + b])


class Site:
    """Land that is painted at once, and the things on it.

    Attributes:
        things: what stands there, in the order in which it was put down.
        half: half the side of the square of the town that the picture shows a part of.
    """

    def __init__(self, rng: np.random.Generator, canvas: Canvas, scale: float) -> None:
        height, width = canvas.mask.shape
        angle = float(rng.uniform(0.0, 2.0 * np.pi))
        self.rng, self.canvas, self.scale = rng, canvas, scale
        self.things: list[Thing] = []
        self.half = float(np.hypot(height, width)) / 2.0 / scale + 12.0
        self.area = float(height * width)
        self._size = np.array([width, height], dtype=np.float64)
        self._turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        self._taken = np.zeros((height, width), dtype=np.uint8)
        self._ground = {
            name: self._colour(name) for name in ("asphalt", "pavement", "paving", "gravel", "lawn", "soil")
        }
        canvas.fill(self._ground["asphalt"], Label.IM_SURF, Material.ASPHALT)

    def _colour(self, kind: str) -> RGB:
        """One of a kind's colours, its brightness and hue changed at random."""
        change = self.rng.uniform(0.9, 1.1) * self.rng.uniform(0.97, 1.03, size=3)
        colours = np.array(_COLOURS[kind])
        red, green, blue = (colours[self.rng.integers(len(colours))] * change).tolist()
        return red, green, blue

    def pixels(self, points: ArrayLike) -> Points:
        """Pixel coordinates of points (N, 2) of the town."""
        return np.asarray(np.asarray(points) @ self._turn * self.scale + self._size / 2)

    def free_places(self, label: Label, count: int) -> Points:
        """Up to `count` points (N, 2) of the town where the picture shows free ground of this label, in any order."""
        rows, columns = np.nonzero((self.canvas.mask == label) & (self._taken == 0))
        chosen = self.rng.permutation(len(rows))[:count]
        places = np.stack([columns[chosen], rows[chosen]], axis=1) + 0.5
        return np.asarray((places - self._size / 2) @ self._turn.T / self.scale)

    def near(self, pixels: Points) -> bool:
        """Whether something with this outline, or its shadow, may show in the picture."""
        margin = 45.0 * self.scale
        return bool((pixels.max(axis=0) > -margin).all() and (pixels.min(axis=0) < self._size + margin).all())

    def surface(self, corners: Points, ground: str, label: Label, material: Material) -> None:
        """Paint land in the scene's colour of that kind of ground."""
        self.canvas.polygon(self.pixels(corners), self._ground[ground], label, material)

    def add(self, kind: str, corners: Points, height: float, *, on: Label | None = None, moving: bool = False) -> float:
        """Put something down, unless something stands there or the ground has another label than `on`.

        Returns:
            Its area in square pixels of the picture if its middle shows there, otherwise 0.
        """
        outline = self.pixels(corners)
        middle = outline.mean(axis=0)
        if not self.near(outline) or not self._clear(middle[None], on):
            return 0.0
        spots = np.concatenate([outline, (outline + outline[np.arange(len(outline)) - 1]) / 2, (outline + middle) / 2])
        if not self._clear(spots, on):
            return 0.0
        thing = Thing(kind=kind, outline=outline, height=height * self.scale, colour=self._colour(kind), moving=moving)
        self.things.append(thing)
        if kind != "crown":
            cv2.fillPoly(self._taken, [np.rint(outline).astype(np.int32)], 1)
        shows = ((middle >= 0) & (middle < self._size)).all()
        return cv2.contourArea(outline.astype(np.float32)) if shows else 0.0

    def _clear(self, spots: Points, on: Label | None) -> bool:
        """Whether nothing stands at the spots that are in the picture, and the ground there has the label."""
        x, y = np.floor(spots[((spots >= 0) & (spots < self._size)).all(axis=1)]).astype(np.int64).T
        return not self._taken[y, x].any() and (on is None or bool((self.canvas.mask[y, x] == on).all()))

    def blob(self, centre: Points, radius: float) -> Points:
        """A smooth irregular outline (24, 2) around a point."""
        angle = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
        phase = self.rng.uniform(0.0, 2.0 * np.pi, 2)
        reach = radius * (1.0 + 0.2 * np.sin(2 * angle + phase[0]) + 0.1 * np.sin(3 * angle + phase[1]))
        return np.asarray(centre + np.stack([np.cos(angle), np.sin(angle)], axis=1) * reach[:, None])
