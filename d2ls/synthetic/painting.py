"""The things of a drawn scene as they look from above: shadows, roofs, crowns, cars, clutter."""

import cv2
import numpy as np

from d2ls.synthetic.canvas import RGB, Canvas, Label, Material, Points, sweep, tone
from d2ls.synthetic.site import Thing

_TIERS = (("car", "container", "pool", "pond", "heap"), ("gable", "flat"), ("crown",))


def paint_things(canvas: Canvas, things: list[Thing], rng: np.random.Generator) -> None:
    """Paint cars and clutter, then buildings, then trees, each after its shadows have fallen on what lies below."""
    sun = float(rng.uniform(0.0, 2.0 * np.pi))
    towards = np.array([np.cos(sun), np.sin(sun)])
    fall = -towards * rng.uniform(0.35, 0.95)  # the shadow of one pixel of height
    for tier in _TIERS:
        members = sorted((thing for thing in things if thing.kind in tier), key=lambda thing: thing.height)
        canvas.shade([sweep(thing.outline, fall * thing.height) for thing in members])
        for thing in members:
            if thing.kind == "gable":
                _paint_gable(canvas, thing, towards)
            elif thing.kind == "flat":
                _paint_flat(canvas, thing, fall, rng)
            elif thing.kind == "car":
                _paint_car(canvas, thing)
            elif thing.kind == "crown":
                _paint_crown(canvas, thing, towards, rng)
            else:
                _paint_clutter(canvas, thing)
    canvas.material[canvas.mask == Label.TREE] = Material.CROWN


def _cell(corners: Points, u0: float, u1: float, v0: float, v1: float) -> Points:
    """The part of a quadrilateral between shares u along its first edge and v along its second."""
    a, b, c, d = corners
    u, v = np.array([[u0], [u1], [u1], [u0]]), np.array([[v0], [v0], [v1], [v1]])
    near, far = a + (b - a) * u, d + (c - d) * u
    return np.asarray(near + (far - near) * v)


def _long_first(corners: Points) -> tuple[Points, float, float]:
    """The corners so that the first edge is a long one; the lengths of the first and the second."""
    first, second = (float(np.hypot(*(corners[at + 1] - corners[at]))) for at in (0, 1))
    return (corners, first, second) if first >= second else (np.roll(corners, -1, axis=0), second, first)


def _paint_gable(canvas: Canvas, roof: Thing, towards: Points) -> None:
    """Two faces beside a ridge, the one towards the sun brighter; rows of tiles, a chimney."""
    corners, length, depth = _long_first(roof.outline)
    canvas.polygon(corners, roof.colour, Label.BUILDING, Material.TILES)
    for near, far in ((0.0, 0.5), (1.0, 0.5)):
        face = _cell(corners, 0.0, 1.0, near, far)
        down = face[0] - face[3]
        colour = tone(roof.colour, 1.0 + 0.26 * float(down @ towards) / max(float(np.hypot(*down)), 1e-6))
        canvas.polygon(face, colour)
        for share in np.arange(8.0, depth, 8.0) / depth:
            canvas.line(_cell(face, 0.0, 1.0, share, share)[:2], tone(colour, 0.94))
    canvas.line(_cell(corners, 0.0, 1.0, 0.5, 0.5)[:2], tone(roof.colour, 1.22))
    canvas.line(corners, tone(roof.colour, 0.72), closed=True)
    canvas.polygon(_cell(corners, 0.3, 0.3 + 4 / length, 0.40, 0.40 + 4 / depth), (128, 108, 100))


def _paint_flat(canvas: Canvas, roof: Thing, fall: Points, rng: np.random.Generator) -> None:
    """A bright rim around gravel; on large roofs some boxes with their shadows."""
    corners, length, depth = _long_first(roof.outline)
    canvas.polygon(corners, roof.colour, Label.BUILDING, Material.GRAVEL)
    canvas.line(corners, tone(roof.colour, 1.2), 2, closed=True)
    if depth < 24.0:
        return
    for u, v in rng.uniform(0.1, 0.75, size=(3, 2)):
        unit = _cell(corners, u, u + rng.uniform(5, 12) / length, v, v + rng.uniform(4, 9) / depth)
        canvas.polygon(sweep(unit, fall * 5.0), tone(roof.colour, 0.55))
        canvas.polygon(unit, (42, 52, 82) if rng.random() < 0.3 else (196, 198, 200), None, Material.SMOOTH)


def _paint_car(canvas: Canvas, car: Thing) -> None:
    """A body with cut corners, dark windows and a roof."""
    body, *_ = _long_first(car.outline)
    hull = np.concatenate([_cell(body, 0.06, 0.95, 0.0, 1.0), _cell(body, 0.0, 1.0, 0.14, 0.86)]).astype(np.float32)
    canvas.polygon(cv2.convexHull(hull)[:, 0], car.colour, Label.CAR, Material.SMOOTH)
    canvas.polygon(_cell(body, 0.26, 0.88, 0.12, 0.88), (38, 44, 52))
    canvas.polygon(_cell(body, 0.40, 0.78, 0.16, 0.84), tone(car.colour, 0.9 if sum(car.colour) > 300 else 1.25))


def _paint_crown(canvas: Canvas, tree: Thing, towards: Points, rng: np.random.Generator) -> None:
    """Clumps of leaves, brighter towards the sun."""
    radius = float(np.hypot(*(tree.outline[1] - tree.outline[0]))) / 1.2
    count = int(np.clip(radius * 1.8, 8, 32))
    angle = rng.uniform(0.0, 2.0 * np.pi, count)
    reach = radius * np.sqrt(rng.uniform(0.0, 0.62, count))
    radii = np.maximum(radius * rng.uniform(0.16, 0.36, count), 1.6)
    radii[:5], reach[:5] = radius * rng.uniform(0.42, 0.56, 5), reach[:5] * 0.6  # the body, below the small ones
    offsets = np.stack([np.cos(angle), np.sin(angle)], axis=1) * reach[:, None]
    brightness = 0.86 + 0.42 * (offsets @ towards) / radius + rng.normal(0.0, 0.10, count)
    brightness[:5] -= 0.14
    colours = np.clip(brightness[:, None] * tree.colour, 0.0, 255.0).tolist()
    canvas.discs(tree.outline.mean(axis=0) + offsets, radii, colours, Label.TREE)


def _paint_clutter(canvas: Canvas, thing: Thing) -> None:
    """Water with its rim, heaps that are brighter at the top, containers with ribs."""
    outline, colour = thing.outline, thing.colour
    middle = outline.mean(axis=0)
    inner = middle + (outline - middle) * 0.8
    if thing.kind == "container":
        canvas.polygon(outline, colour, Label.CLUTTER, Material.SMOOTH)
        for share in np.arange(0.08, 1.0, 0.12):
            canvas.line(_cell(outline, share, share, 0.0, 1.0)[1:3], tone(colour, 0.84))
    elif thing.kind == "heap":
        canvas.polygon(outline, tone(colour, 0.76), Label.CLUTTER, Material.SOIL)
        canvas.polygon(middle + (outline - middle) * 0.6, tone(colour, 1.1))
    else:
        rim: RGB = (214, 210, 200) if thing.kind == "pool" else tone(colour, 1.5)
        canvas.polygon(outline, rim, Label.CLUTTER, Material.SMOOTH)
        canvas.polygon(inner, colour, None, Material.WATER)
