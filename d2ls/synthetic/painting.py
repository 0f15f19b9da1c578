"""How the things of a drawn scene look from above: shadows, roofs, crowns, cars, clutter."""

import cv2
import numpy as np

from d2ls.synthetic.canvas import RGB, Canvas, Label, Material, Points, sweep, sweep_discs, tone
from d2ls.synthetic.objects import Building, Car, Clutter, Light, Objects

_WINDOW: RGB = (38, 44, 52)


def paint_objects(canvas: Canvas, objects: Objects, light: Light) -> None:
    """Paint all tiers, each after its shadow has fallen on what lies below it."""
    shape = canvas.mask.shape
    low, high, leafy = (np.zeros(shape, dtype=np.uint8) for _ in range(3))
    for car in objects.cars:
        sweep(low, car.corners, light.fall * car.height)
    for clutter in objects.clutter:
        if clutter.height > 0.0:
            sweep(low, clutter.outline, light.fall * clutter.height)
    for building in objects.buildings:
        sweep(high, building.corners, light.fall * building.height)
    for tree in objects.trees:
        for part in (0.5, 1.0):
            sweep_discs(leafy, tree.clumps[:8] + light.fall * tree.height * part, tree.radii[:8])
    canvas.shade(low)
    for clutter in objects.clutter:
        _paint_clutter(canvas, clutter, light)
    for car in objects.cars:
        _paint_car(canvas, car)
    canvas.shade(high)
    for building in sorted(objects.buildings, key=lambda wing: wing.height):
        _paint_building(canvas, building, light)
    canvas.shade(leafy, 0.9, softness=5)
    for tree in objects.trees:
        colours = np.clip(tree.brightness[:, None] * tree.colour, 0.0, 255.0).tolist()
        canvas.discs(tree.clumps, tree.radii, colours, Label.TREE)
    canvas.material[canvas.mask == Label.TREE] = Material.CROWN
    canvas.shade(cv2.bitwise_and(high, (canvas.mask == Label.TREE).astype(np.uint8) * 255), 0.45)


def _between(a: Points, b: Points, share: float | Points) -> Points:
    """The point at a share of the way from a to b."""
    return a + (b - a) * share


def _inset(corners: Points, share: float) -> Points:
    """A polygon shrunk towards its centre."""
    middle = corners.mean(axis=0)
    return middle + (corners - middle) * (1.0 - share)


def _cell(corners: Points, u0: float, u1: float, v0: float, v1: float) -> Points:
    """The part of a quadrilateral between shares u along its first edge and v along its second."""
    a, b, c, d = corners
    u, v = np.array([[u0], [u1], [u1], [u0]]), np.array([[v0], [v0], [v1], [v1]])
    return _between(_between(a, b, u), _between(d, c, u), v)


def _lit(face: Points, ridge: Points, light: Light, steep: float) -> float:
    """Brightness of a roof face that falls away from its ridge."""
    down = face - ridge
    length = float(np.hypot(*down))
    return 1.0 + steep * float(down @ light.towards) / max(length, 1e-6)


def _paint_building(canvas: Canvas, building: Building, light: Light) -> None:
    corners = building.corners
    if np.hypot(*(corners[1] - corners[0])) < np.hypot(*(corners[2] - corners[1])):
        corners = np.roll(corners, -1, axis=0)  # the first edge is a long one
    if building.roof == "flat":
        _paint_flat_roof(canvas, building, corners, light)
        return
    material = Material.SMOOTH if building.roof == "hall" else Material.TILES
    steep = 0.09 if building.roof == "hall" else 0.26
    a, b, c, d = corners
    end = 0.24 if building.roof == "hip" else 0.0
    left, right = _between(a, d, 0.5), _between(b, c, 0.5)
    start, stop = _between(left, right, end), _between(left, right, 1.0 - end)
    canvas.polygon(corners, building.colour, Label.BUILDING, material)
    ridge = (start + stop) / 2
    for face in (np.array([a, b, stop, start]), np.array([c, d, start, stop])):
        colour = tone(building.colour, _lit((face[0] + face[1]) / 2, ridge, light, steep))
        canvas.polygon(face, colour)
        rows = max(int(np.hypot(*(face[3] - face[0])) / 4), 1)
        for row in range(1, rows):
            share = row / rows
            canvas.line([_between(face[0], face[3], share), _between(face[1], face[2], share)], tone(colour, 0.94))
    if end:
        canvas.polygon([b, c, stop], tone(building.colour, _lit(right, stop, light, steep)))
        canvas.polygon([d, a, start], tone(building.colour, _lit(left, start, light, steep)))
    canvas.line([start, stop], tone(building.colour, 1.22))
    canvas.line(corners, tone(building.colour, 0.72), closed=True)
    _paint_roof_windows(canvas, building, corners, light)


def _paint_roof_windows(canvas: Canvas, building: Building, corners: Points, light: Light) -> None:
    key = building.style
    length, depth = np.hypot(*(corners[1] - corners[0])), np.hypot(*(corners[2] - corners[1]))
    if building.roof == "hall":
        for u in np.arange(0.15, 0.9, 0.22):
            canvas.polygon(_cell(corners, u, u + 0.04, 0.12, 0.38), tone(building.colour, 1.25))
            canvas.polygon(_cell(corners, u, u + 0.04, 0.62, 0.88), tone(building.colour, 1.25))
        return
    if key % 4 == 0 and length > 30:
        panel = _cell(corners, 0.28, 0.74, 0.10, 0.40) if key % 8 else _cell(corners, 0.28, 0.74, 0.60, 0.90)
        canvas.polygon(panel, (40, 50, 78), None, Material.SMOOTH)
        for share in (0.25, 0.5, 0.75):
            canvas.line([_between(panel[0], panel[1], share), _between(panel[3], panel[2], share)], (92, 102, 124))
    elif key % 4 == 1:
        for u in (0.32, 0.62):
            canvas.polygon(_cell(corners, u, u + 4 / length, 0.66, 0.66 + 4 / depth), (58, 68, 82))
    if key % 3:
        chimney = _cell(corners, 0.3, 0.3 + 4 / length, 0.40, 0.40 + 4 / depth)
        canvas.polygon(chimney + light.fall * 4, tone(building.colour, 0.5))
        canvas.polygon(chimney, (128, 108, 100))


def _paint_flat_roof(canvas: Canvas, building: Building, corners: Points, light: Light) -> None:
    key = building.style
    length, depth = np.hypot(*(corners[1] - corners[0])), np.hypot(*(corners[2] - corners[1]))
    canvas.polygon(corners, tone(building.colour, 1.18), Label.BUILDING, Material.GRAVEL)
    rim = 2.2 / min(length, depth)
    inner = _cell(corners, 2.2 / length, 1 - 2.2 / length, 2.2 / depth, 1 - 2.2 / depth)
    if rim < 0.25:
        canvas.polygon(inner, tone(building.colour, 0.62))  # the parapet's own shadow shows on the sunny side
        canvas.polygon(inner - light.towards * 1.5, building.colour)
        canvas.line(corners, tone(building.colour, 1.2), 2, closed=True)
    if min(length, depth) < 24:
        return
    for index in range(2 + key % 4):
        u, v = 0.14 + 0.62 * ((key * 7 + index * 37) % 100) / 100, 0.18 + 0.5 * ((key * 3 + index * 53) % 100) / 100
        wide, deep = (5 + (key + index * 5) % 6) / length, (4 + (key + index * 3) % 5) / depth
        box = _cell(corners, u, u + wide, v, v + deep)
        shadow = cv2.convexHull(np.concatenate([box, box + light.fall * 5]).astype(np.float32))[:, 0]
        canvas.polygon(shadow, tone(building.colour, 0.55))
        canvas.polygon(box, (196, 198, 200) if index % 2 else tone(building.colour, 1.25), None, Material.SMOOTH)
    if key % 3 == 0:
        for step in np.arange(0.12, 0.85, 12 / length):
            panel = _cell(corners, step, step + 7 / length, 0.62, 0.88)
            canvas.polygon(panel, (42, 52, 82), None, Material.SMOOTH)


def _paint_car(canvas: Canvas, car: Car) -> None:
    body = car.corners
    outline = np.concatenate(
        [_cell(body, 0.14, 0.86, 0.0, 1.0)[:2], _cell(body, 0.0, 1.0, 0.06, 0.95)[1:3],
         _cell(body, 0.10, 0.90, 0.0, 1.0)[2:], _cell(body, 0.0, 1.0, 0.06, 0.95)[[3, 0]]]
    )  # fmt: skip
    canvas.polygon(outline, car.colour, Label.CAR, Material.SMOOTH)
    cabin = tone(car.colour, 0.9 if sum(car.colour) > 300 else 1.25)
    canvas.polygon(_cell(body, 0.12, 0.88, 0.26, 0.88), _WINDOW)
    canvas.polygon(_cell(body, 0.16, 0.84, 0.40, 0.78), cabin)
    canvas.line(_cell(body, 0.2, 0.8, 0.03, 0.03)[:2], tone(car.colour, 1.15))


def _paint_clutter(canvas: Canvas, clutter: Clutter, light: Light) -> None:
    outline, colour = clutter.outline, clutter.colour
    if clutter.kind == "pool":
        canvas.polygon(outline, (214, 210, 200), Label.CLUTTER, Material.SMOOTH)
        canvas.polygon(_inset(outline, 0.16), colour, None, Material.WATER)
        canvas.polygon(_inset(outline, 0.16) * 0.5 + _inset(outline, 0.6) * 0.5, tone(colour, 0.9))
    elif clutter.kind == "container":
        canvas.polygon(outline, colour, Label.CLUTTER, Material.SMOOTH)
        for share in np.arange(0.08, 1.0, 0.12):
            canvas.line(
                [_between(outline[0], outline[1], share), _between(outline[3], outline[2], share)], tone(colour, 0.84)
            )
        canvas.line(outline, tone(colour, 0.7), closed=True)
    elif clutter.kind == "court":
        canvas.polygon(outline, colour, Label.CLUTTER, Material.SMOOTH)
        for lines in (_cell(outline, 0.1, 0.9, 0.12, 0.88), _cell(outline, 0.1, 0.9, 0.24, 0.76)):
            canvas.line(lines, (232, 232, 228), closed=True)
        canvas.line(_cell(outline, 0.5, 0.5, 0.06, 0.94)[[0, 2]], (60, 60, 60))
    elif clutter.kind == "heap":
        reach = np.hypot(*np.ptp(outline, axis=0)) / 2
        for share in (0.0, 0.25, 0.5, 0.72):
            part = _inset(outline, share) + light.towards * reach * 0.16 * share
            label, material = (Label.CLUTTER, Material.SOIL) if share == 0.0 else (None, None)
            canvas.polygon(part, tone(colour, 0.76 + 0.5 * share), label, material)
        canvas.polygon(_inset(outline, 0.55) - light.towards * reach * 0.22, tone(colour, 0.7))
    else:
        canvas.polygon(outline, tone(colour, 1.5), Label.CLUTTER, Material.WATER)
        canvas.polygon(_inset(outline, 0.12), colour)
        canvas.polygon(_inset(outline, 0.5), tone(colour, 0.88))
