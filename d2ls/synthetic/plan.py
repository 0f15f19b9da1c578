"""Ground rules of a drawn scene: its colours, the way from the town's plane to the picture, a parcel's own axes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from d2ls.synthetic.canvas import RGB, Points, tone
from d2ls.synthetic.objects import pick


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Colours of a scene's surfaces."""

    asphalt: RGB
    pavement: RGB
    paving: RGB
    lawn: RGB
    soil: RGB
    crowns: tuple[RGB, ...]


def choose_ground(rng: np.random.Generator) -> Ground:
    """Surface colours drawn at random: fresh to dry lawns, dark to bleached asphalt."""
    dry = rng.uniform(0.0, 1.0)
    lawn = (86 + 70 * dry, 116 + 16 * dry, 66 + 26 * dry)
    grey = rng.uniform(88, 136)
    warm = rng.uniform(-4, 6)
    leaf = rng.uniform(0.85, 1.1)
    crowns: tuple[RGB, ...] = ((58, 84, 48), (70, 98, 54), (50, 78, 54), (84, 104, 56), (92, 96, 50))
    if rng.random() < 0.25:
        crowns = (*crowns, (128, 92, 52), (108, 60, 54))
    return Ground(
        asphalt=(grey + warm, grey, grey - warm),
        pavement=pick(rng, ((158, 154, 148), (142, 138, 136), (170, 160, 148))),
        paving=pick(rng, ((166, 152, 138), (150, 146, 140), (172, 134, 116), (186, 178, 164), (120, 118, 116))),
        lawn=pick(rng, (lawn,), 0.08),
        soil=pick(rng, ((140, 116, 88), (122, 104, 80), (158, 138, 108))),
        crowns=tuple(tone(colour, leaf) for colour in crowns),
    )


class Frame:
    """From the town's plane (pixels at scale 1, streets along the axes) to the picture: bend, turn, scale, shift."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, scale: float) -> None:
        angle = float(rng.uniform(0.0, 2.0 * np.pi))
        self.scale = scale
        self.half = float(np.hypot(height, width)) / 2.0 / scale + 12.0
        self._turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * scale
        self._turn_back = np.linalg.inv(self._turn)
        self._centre = np.array([width / 2.0, height / 2.0])
        self._bend = rng.uniform(-9.0, 9.0, size=2) * (rng.random() < 0.6)
        self._phase = rng.uniform(0.0, 2.0 * np.pi, size=2)

    def __call__(self, points: ArrayLike) -> Points:
        """Pixel coordinates of points (N, 2) of the town."""
        plane = np.asarray(points, dtype=np.float64)
        bent = plane + self._bend * np.sin(plane[..., ::-1] / 110.0 + self._phase)
        return np.asarray(bent @ self._turn + self._centre)

    def back(self, pixel: Points) -> Points:
        """The point of the town that shows near a pixel, its bend left out."""
        return np.asarray((pixel - self._centre) @ self._turn_back)

    def area(self, corners: ArrayLike) -> Points:
        """Pixel outline of a large polygon of the town, its edges bent too."""
        points = np.asarray(corners, dtype=np.float64)
        parts = []
        for start, stop in zip(points, np.roll(points, -1, axis=0), strict=True):
            steps = max(int(np.hypot(*(stop - start)) / 20.0), 1)
            parts.append(start + (stop - start) * (np.arange(steps) / steps)[:, None])
        return self(np.concatenate(parts))


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A piece of land: the middle of its street side, unit vectors along the street and away from it, its size."""

    origin: Points
    along: Points
    inward: Points
    width: float
    depth: float

    def point(self, u: float, v: float) -> Points:
        """The point at u along the street and v away from it."""
        return np.asarray(self.origin + u * self.along + v * self.inward)

    def rect(self, u: float, v: float, width: float, depth: float, turn: float = 0.0) -> Points:
        """Corners of a rectangle around (u along, v inward), turned by an angle in radians."""
        corner = np.array([[-width, -depth], [width, -depth], [width, depth], [-width, depth]]) / 2.0
        spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        local = corner @ spin + (u, v)
        return np.asarray(self.origin + local[:, :1] * self.along + local[:, 1:] * self.inward)
