"""The plan of a drawn town: streets, blocks of parcels, then cars, clutter and trees up to their shares."""

import numpy as np

from d2ls.synthetic.canvas import Label, Material, Points
from d2ls.synthetic.site import Parcel, Site, rectangle

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in the town's plane
_CAR = (18.0, 7.8)
_PAVEMENT = 4.5
_WHITE = (210.0, 210.0, 204.0)
_DECK = ("house",) * 7 + ("flats",) * 3 + ("parking", "yard") + ("green",) * 3  # how often each kind is dealt


def build_town(site: Site) -> None:
    """Lay out a whole scene on an empty site."""
    rng = site.rng
    kinds = {"house": _house, "flats": _flats, "parking": _parking, "green": _green, "yard": _yard}
    streets: list[Parcel] = []
    deck: list[str] = []
    for block in _split(rng, (-site.half, -site.half, site.half, site.half), streets):
        for parcel in _parcels(site, block):
            if site.near(site.pixels(parcel.outline)):
                deck = deck or [_DECK[index] for index in rng.permutation(len(_DECK))]
                kind = deck.pop()
                kinds[kind if min(parcel.width, parcel.depth) >= 44.0 else "green"](site, parcel)
    for street in streets:
        for along in np.arange(0.0, street.depth - 8.0, 20.0):
            site.canvas.line(site.pixels([street.point(0.0, along), street.point(0.0, along + 9.0)]), _WHITE)
    _fill_cars(site, streets)
    _fill_clutter(site)
    _fill_trees(site)


def _split(rng: np.random.Generator, block: Box, streets: list[Parcel]) -> list[Box]:
    """Cut land by streets, which are added to the list, until the pieces are blocks; at least once."""
    x0, y0, x1, y1 = block
    wide, high = x1 - x0, y1 - y0
    if streets and max(wide, high) < rng.uniform(270.0, 440.0):
        return [block]
    width, share = float(rng.choice([18.0, 22.0, 26.0])), float(rng.uniform(0.38, 0.62))
    right, down, half = np.array([1.0, 0.0]), np.array([0.0, 1.0]), width / 2
    if wide >= high:
        cut = x0 + wide * share
        streets.append(Parcel(origin=np.array([cut, y0]), along=right, inward=down, width=width, depth=high))
        return _split(rng, (x0, y0, cut - half, y1), streets) + _split(rng, (cut + half, y0, x1, y1), streets)
    cut = y0 + high * share
    streets.append(Parcel(origin=np.array([x0, cut]), along=down, inward=right, width=width, depth=wide))
    return _split(rng, (x0, y0, x1, cut - half), streets) + _split(rng, (x0, cut + half, x1, y1), streets)


def _parcels(site: Site, block: Box) -> list[Parcel]:
    """Paint a block's pavement and lawn; one or two rows of parcels along its longer side."""
    low, size = np.array(block[:2]), np.array(block[2:]) - block[:2]
    corners = rectangle(low + size / 2, size * (1, 0), size * (0, 1))
    inner = size - 2 * _PAVEMENT
    site.surface(corners, "pavement", Label.IM_SURF, Material.PAVING)
    site.surface(rectangle(low + size / 2, inner * (1, 0), inner * (0, 1)), "lawn", Label.LOW_VEG, Material.LAWN)
    along, across = (np.eye(2) if size[0] >= size[1] else np.eye(2)[::-1]).astype(np.float64)
    length, depth = float(inner.max()), float(inner.min())
    rows = 1 if depth < 105.0 else 2
    found = []
    for row in range(rows):
        count = max(round(length / site.rng.uniform(68.0, 92.0)), 1)
        for place in range(count):
            origin = low + _PAVEMENT + along * length * (place + 0.5) / count + across * depth * row
            inward = -across if row else across
            found.append(Parcel(origin=origin, along=along, inward=inward, width=length / count, depth=depth / rows))
    return found


def _pave(site: Site, corners: Points) -> None:
    site.surface(corners, "paving", Label.IM_SURF, Material.PAVING)


def _house(site: Site, parcel: Parcel) -> None:
    """A house with a drive, a path, a terrace, perhaps a wing, a garage, a bed of earth and a hedge."""
    rng = site.rng
    wide = min(float(rng.uniform(46.0, 68.0)), parcel.width - 22.0)
    deep = min(float(rng.uniform(36.0, 52.0)), parcel.depth - 18.0)
    front, side = float(rng.uniform(8.0, max(parcel.depth * 0.75 - deep, 9.0))), float(rng.choice([-1.0, 1.0]))
    u, drive = -side * (parcel.width - wide) * 0.22, side * (parcel.width / 2 - 8.5)
    if rng.random() < 0.22:
        bed = parcel.rect(u, parcel.depth - 12.0, parcel.width * 0.5, 18.0)
        site.surface(bed, "soil", Label.LOW_VEG, Material.SOIL)
    _pave(site, parcel.rect(drive, front / 2 + 3.0, 12.0, front + 6.0))
    _pave(site, parcel.rect(u, front / 2, 5.0, front))
    _pave(site, parcel.rect(u, front + deep / 2 + 5.0, wide * rng.uniform(0.3, 0.8), deep + 8.0))
    roof = str(rng.choice(["gable", "gable", "gable", "flat"]))
    if rng.random() < 0.4:
        site.add(roof, parcel.rect(u + side * wide * 0.22, front + deep + 9.0, wide * 0.42, 20.0), 20.0)
    site.add(roof, parcel.rect(u, front + deep / 2, wide, deep), rng.uniform(22.0, 34.0))
    if rng.random() < 0.5:
        site.add("flat", parcel.rect(drive, front + 18.0, 13.0, 24.0), 10.0)
    if rng.random() < 0.75:
        site.add("car", parcel.rect(drive, max(front / 2 + 2, 10.0), _CAR[1], _CAR[0]), 6.0)
    if rng.random() < 0.45:
        for v in np.arange(6.0, parcel.depth - 4.0, 5.0):
            _tree(site, parcel.point(side * (1.0 - parcel.width / 2), v), float(rng.uniform(4.0, 5.5)))


def _flats(site: Site, parcel: Parcel) -> None:
    """A block of flats in a strip of paving."""
    rng = site.rng
    wide, deep = parcel.width - float(rng.uniform(12.0, 26.0)), min(float(rng.uniform(38.0, 58.0)), parcel.depth - 18.0)
    front = float(rng.uniform(10.0, max(parcel.depth - deep - 8.0, 11.0)))
    if rng.random() < 0.4:
        _pave(site, parcel.rect(0.0, front / 2, parcel.width, front))
    _pave(site, parcel.rect(0.0, front + deep / 2, wide + 8.0, deep + 8.0))
    roof = str(rng.choice(["flat", "flat", "gable"]))
    site.add(roof, parcel.rect(0.0, front + deep / 2, wide, deep), rng.uniform(32.0, 52.0))


def _parking(site: Site, parcel: Parcel) -> None:
    """A car park: two rows of stalls, some of them taken."""
    rng, deep = site.rng, min(parcel.depth, 84.0)
    site.surface(
        parcel.rect(0.0, deep / 2 - 4.0, parcel.width - 8.0, deep - 6.0), "asphalt", Label.IM_SURF, Material.ASPHALT
    )
    full = rng.uniform(0.3, 0.65)
    for v in (14.0, deep - 18.0) if deep > 60.0 else (deep / 2,):
        for u in np.arange(10.0 - parcel.width / 2, parcel.width / 2 - 10.0, 11.0):
            site.canvas.line(site.pixels([parcel.point(u - 5.5, v - 10.5), parcel.point(u - 5.5, v + 10.5)]), _WHITE)
            if rng.random() < full:
                site.add("car", parcel.rect(u, v, _CAR[1], _CAR[0]), 6.0)


def _green(site: Site, parcel: Parcel) -> None:
    """A lawn with a path, perhaps a bed of earth or a pond."""
    rng = site.rng
    if rng.random() < 0.4:
        bed = parcel.rect(0.0, parcel.depth / 2, parcel.width * 0.7, parcel.depth * 0.6)
        site.surface(bed, "soil", Label.LOW_VEG, Material.SOIL)
    path = parcel.rect(parcel.width * rng.uniform(-0.4, 0.4), parcel.depth / 2, 8.0, parcel.depth)
    site.surface(path, "gravel", Label.IM_SURF, Material.GRAVEL)
    if rng.random() < 0.6 and parcel.width > 70.0:
        site.add("pond", site.blob(parcel.point(0.0, parcel.depth * 0.4), 19.0), 0.0)


def _yard(site: Site, parcel: Parcel) -> None:
    """A paved or gravelled yard with a hall, containers and heaps."""
    rng, wide = site.rng, parcel.width - 8.0
    ground, material = ("gravel", Material.GRAVEL) if rng.random() < 0.5 else ("paving", Material.PAVING)
    site.surface(parcel.rect(0.0, parcel.depth / 2 - 4.0, wide, parcel.depth), ground, Label.IM_SURF, material)
    hall = parcel.rect(0.0, max(parcel.depth * 0.7, 30.0), wide - 12.0, min(parcel.depth * 0.45, 44.0))
    site.add("flat", hall, rng.uniform(24.0, 36.0))
    for u in np.arange(14.0 - wide / 2, wide / 2 - 12.0, 27.0):
        if rng.random() < 0.3:
            site.add("heap", site.blob(parcel.point(u, parcel.depth * 0.2), 10.0), 8.0)
        else:
            site.add("container", parcel.rect(u, rng.uniform(8.0, parcel.depth * 0.35), 24.0, 10.0), 10.0)


def _tree(site: Site, place: Points, radius: float, on: Label | None = Label.LOW_VEG) -> float:
    """Plant a tree; the area of its crown in the picture, 0 where it finds no place."""
    square = rectangle(place, np.array([radius * 1.2, 0.0]), np.array([0.0, radius * 1.2]))
    return site.add("crown", square, radius * float(site.rng.uniform(1.3, 2.0)), on=on) * 1.8


def _fill_cars(site: Site, streets: list[Parcel]) -> None:
    """Parked and moving cars along the streets, trees beside some, until cars have their share of the picture."""
    rng = site.rng
    for street in streets:
        if rng.random() < 0.28:
            for along in np.arange(rng.uniform(0.0, 30.0), street.depth, 36.0):
                for side in (-1.0, 1.0):
                    _tree(site, street.point(side * (street.width / 2 + 5.0), along), rng.uniform(8.0, 11.0), None)
    area = sum(_CAR[0] * _CAR[1] * site.scale**2 for thing in site.things if thing.kind == "car")
    target = rng.uniform(0.016, 0.028) * site.area
    for _ in range(20 + int(target)):
        if area >= target:
            return
        street, moving = streets[int(rng.integers(len(streets)))], rng.random() < 0.4
        aside = float(rng.choice([-1.0, 1.0])) * (street.width / 4 - 1.0 if moving else street.width / 2 - 5.5)
        length, width = np.array(_CAR) * rng.uniform(0.9, 1.1, 2)
        corners = street.rect(aside, float(rng.uniform(0.0, street.depth)), width, length)
        area += site.add("car", corners, 6.0, on=Label.IM_SURF, moving=moving)


def _fill_clutter(site: Site) -> None:
    """Pools, heaps and containers on lawns until clutter has its share of the picture."""
    rng, area, target = site.rng, 0.0, site.rng.uniform(0.018, 0.04) * site.area
    for place in site.free_places(Label.LOW_VEG, 60 + int(site.area) // 2000):
        if area >= target:
            return
        kind = str(rng.choice(["pool", "pool", "heap", "container"]))
        size = np.array([30.0, 17.0] if kind == "pool" else [24.0, 10.5]) * rng.uniform(0.8, 1.2)
        first, second = np.eye(2)[:: int(rng.choice([-1, 1]))] * size[:, None]
        corners = site.blob(place, 11.0) if kind == "heap" else rectangle(place, first, second)
        area += site.add(kind, corners, 0.0 if kind == "pool" else 9.0, on=Label.LOW_VEG)


def _fill_trees(site: Site) -> None:
    """Single trees and groups on green land until crowns have their share of the picture."""
    rng, area, target = site.rng, 0.0, site.rng.uniform(0.10, 0.175) * site.area
    for place in site.free_places(Label.LOW_VEG, 100 + int(site.area) // 400):
        if area >= target:
            return
        radius = float(rng.uniform(8.0, 21.0))
        for step in range(int(rng.choice([1, 1, 1, 2, 4]))):
            area += _tree(site, place + step * rng.normal(0.0, 0.8, 2) * radius, radius * rng.uniform(0.7, 1.1))
