"""What stands on the ground of a drawn scene: buildings, trees, cars and clutter.

Lengths are in pixels of the picture (about 25 cm each); footprints are polygons (N, 2) in pixel coordinates.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from d2ls.synthetic.canvas import RGB, Points

_ROOFS: tuple[RGB, ...] = (
    *((168, 92, 70), (150, 80, 62), (186, 116, 88), (122, 84, 68), (96, 92, 92), (74, 76, 82)),
    *((132, 128, 126), (158, 138, 116), (104, 122, 108)),
)
_FLAT_ROOFS: tuple[RGB, ...] = (
    *((150, 148, 144), (122, 122, 124), (186, 184, 180), (96, 98, 102), (170, 160, 146)),
    *((214, 212, 208), (98, 118, 74), (140, 104, 92)),
)
_CARS: tuple[RGB, ...] = (
    *((232, 232, 232), (238, 238, 236), (184, 188, 192), (150, 154, 158), (44, 46, 50), (30, 32, 36)),
    *((92, 96, 102), (150, 34, 34), (40, 66, 120), (58, 92, 150), (196, 168, 60), (60, 92, 70)),
)
_CONTAINERS: tuple[RGB, ...] = ((168, 62, 44), (52, 92, 140), (70, 118, 86), (204, 140, 52), (176, 176, 172))


@dataclass(frozen=True, kw_only=True)
class Light:
    """The sun of a scene.

    Attributes:
        fall: the shadow of one pixel of height, (x, y) in pixels.
        towards: unit vector on the ground that points to the sun.
    """

    fall: NDArray[np.float64]
    towards: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Building:
    """One wing.

    Attributes:
        corners: four, in order.
        roof: "gable", "hip", "flat" or "hall" (a low gable of metal).
        colour: of the roof.
        height: of the eaves.
        style: any number; decides chimney, windows and boxes.
    """

    corners: Points
    roof: str
    colour: RGB
    height: float
    style: int


@dataclass(frozen=True, kw_only=True)
class Car:
    """Four corners in order, the first two at the bonnet."""

    corners: Points
    colour: RGB
    height: float
    moving: bool


@dataclass(frozen=True, kw_only=True)
class Clutter:
    """Something that is none of the five classes: "container", "pool", "pond", "heap" or "court"."""

    outline: Points
    kind: str
    colour: RGB
    height: float


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A crown of clumps: centres (N, 2), radii (N,) and brightness (N,), painted in this order."""

    centre: Points
    radius: float
    clumps: Points
    radii: NDArray[np.float64]
    brightness: NDArray[np.float64]
    colour: RGB
    height: float


@dataclass
class Objects:
    """Everything that stands in a scene, by tier from low to high."""

    clutter: list[Clutter] = field(default_factory=list)
    cars: list[Car] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)


def pick(rng: np.random.Generator, colours: tuple[RGB, ...], spread: float = 0.1) -> RGB:
    """One of the colours, its brightness and hue changed at random."""
    red, green, blue = colours[int(rng.integers(len(colours)))]
    change = rng.uniform(1.0 - spread, 1.0 + spread) * rng.uniform(0.97, 1.03, size=3)
    return red * float(change[0]), green * float(change[1]), blue * float(change[2])


def roof_colour(rng: np.random.Generator, roof: str) -> RGB:
    """A colour that roofs of this kind have; flat ones may look like asphalt, gravel or grass."""
    return pick(rng, _ROOFS if roof in ("gable", "hip") else _FLAT_ROOFS)


def car_colour(rng: np.random.Generator) -> RGB:
    """Mostly white, grey or black."""
    return pick(rng, _CARS)


def clutter_colour(rng: np.random.Generator, kind: str) -> RGB:
    """A colour that clutter of this kind has."""
    choices: dict[str, tuple[RGB, ...]] = {
        "container": _CONTAINERS,
        "pool": ((86, 176, 198), (70, 150, 190)),
        "pond": ((46, 62, 58), (58, 76, 84), (72, 84, 66)),
        "heap": ((164, 140, 108), (138, 118, 96), (158, 154, 148)),
        "court": ((178, 92, 62), (64, 112, 92), (70, 98, 134)),
    }
    return pick(rng, choices[kind])


def grow(rng: np.random.Generator, light: Light, centre: Points, radius: float, colour: RGB) -> Tree:
    """A tree of irregular clumps, brighter towards the sun."""
    count = int(np.clip(radius * 2.2, 8, 45))
    angle = rng.uniform(0.0, 2.0 * np.pi, count)
    reach = radius * np.sqrt(rng.uniform(0.0, 0.62, count)) * (1.0 + 0.18 * np.sin(3.0 * angle + rng.uniform(0, 6.3)))
    offsets = np.stack([np.cos(angle), np.sin(angle)], axis=1) * reach[:, None]
    radii = np.maximum(radius * rng.uniform(0.16, 0.36, count), 1.6)
    radii[:5] = radius * rng.uniform(0.42, 0.56, 5)
    offsets[:5] *= 0.6
    side = offsets @ light.towards / radius
    brightness = 0.86 + 0.42 * side + rng.normal(0.0, 0.10, count)
    brightness[:5] -= 0.14
    height = float(radius * rng.uniform(1.3, 2.0))
    return Tree(
        centre=centre,
        radius=radius,
        clumps=centre + offsets,
        radii=radii,
        brightness=brightness,
        colour=colour,
        height=height,
    )
