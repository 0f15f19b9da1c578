"""The plan of a drawn scene: streets, blocks of parcels, then cars, trees and clutter up to their shares."""

from dataclasses import dataclass

import cv2
import numpy as np

from d2ls.synthetic import parcels
from d2ls.synthetic.canvas import Label, Material, Points, tone
from d2ls.synthetic.plan import Parcel
from d2ls.synthetic.site import CAR_LENGTH, CAR_WIDTH, Site

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in the town's plane
_PAVEMENT = 5.5
_KINDS = {
    "house": parcels.house,
    "flats": parcels.flats,
    "parking": parcels.parking,
    "green": parcels.green,
    "yard": parcels.yard,
}
# How often each kind of parcel is dealt.
_DECK = ("house",) * 7 + ("flats",) * 3 + ("parking",) + ("green",) * 3 + ("yard",)


@dataclass(frozen=True)
class Street:
    """A straight carriageway."""

    start: Points
    stop: Points
    width: float

    @property
    def length(self) -> float:
        """From end to end."""
        return float(np.hypot(*(self.stop - self.start)))

    @property
    def ahead(self) -> Points:
        """Unit vector along the street."""
        return np.asarray((self.stop - self.start) / self.length)

    def at(self, along: float, aside: float = 0.0) -> Points:
        """The point so far from the start and from the middle."""
        ahead = self.ahead
        return np.asarray(self.start + ahead * along + ahead[::-1] * (-1, 1) * aside)


def build_town(site: Site) -> None:
    """Lay out a whole scene on an empty site."""
    half = site.frame.half
    site.canvas.fill(site.ground.asphalt, Label.IM_SURF, Material.ASPHALT)
    streets: list[Street] = []
    deck: list[str] = []
    for block in _split(site, (-half, -half, half, half), streets):
        _pave(site, block)
        for parcel in _parcels(site, block):
            if site.close(site.frame(parcel.rect(0.0, parcel.depth / 2, parcel.width, parcel.depth))):
                if not deck:
                    deck = [_DECK[index] for index in site.rng.permutation(len(_DECK))]
                kind = deck.pop()
                _KINDS[kind if min(parcel.width, parcel.depth) >= 44.0 else "green"](site, parcel)
    for street in streets:
        _mark(site, street)
    _street_cars(site, streets)
    _avenues(site, streets)
    _fill_clutter(site)
    _fill_trees(site)


def _split(site: Site, block: Box, streets: list[Street]) -> list[Box]:
    """Cut land by streets, which are added to the list, until the pieces are blocks; at least once."""
    rng = site.rng
    x0, y0, x1, y1 = block
    wide, high = x1 - x0, y1 - y0
    if streets and max(wide, high) < rng.uniform(270.0, 440.0):
        return [block]
    half = float(rng.choice([20.0, 23.0, 26.0] if streets else [26.0, 31.0])) / 2
    share = float(rng.uniform(0.38, 0.62))
    if wide >= high:
        cut = x0 + wide * share
        streets.append(Street(np.array([cut, y0]), np.array([cut, y1]), 2 * half))
        return _split(site, (x0, y0, cut - half, y1), streets) + _split(site, (cut + half, y0, x1, y1), streets)
    cut = y0 + high * share
    streets.append(Street(np.array([x0, cut]), np.array([x1, cut]), 2 * half))
    return _split(site, (x0, y0, x1, cut - half), streets) + _split(site, (x0, cut + half, x1, y1), streets)


def _pave(site: Site, block: Box) -> None:
    """The pavement around a block and the green land within."""
    x0, y0, x1, y1 = block
    outline = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    site.surface(outline, site.ground.pavement, Label.IM_SURF, Material.PAVING)
    site.canvas.line(site.frame.area(outline), tone(site.ground.pavement, 1.18), closed=True)
    inward = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * _PAVEMENT
    site.surface(outline + inward, site.ground.lawn, Label.LOW_VEG, Material.LAWN)


def _parcels(site: Site, block: Box) -> list[Parcel]:
    """One or two rows of parcels along the longer side of a block."""
    x0, y0 = block[0] + _PAVEMENT, block[1] + _PAVEMENT
    size = np.array([block[2] - _PAVEMENT - x0, block[3] - _PAVEMENT - y0])
    along, across = (np.array([1.0, 0.0]), np.array([0.0, 1.0]))[:: 1 if size[0] >= size[1] else -1]
    length, depth = float(size.max()), float(size.min())
    rows = 1 if depth < 105.0 else 2
    found = []
    for row in range(rows):
        count = max(round(length / site.rng.uniform(68.0, 92.0)), 1)
        edges = np.linspace(0.0, length, count + 1)
        edges[1:-1] += site.rng.uniform(-8.0, 8.0, count - 1)
        for left, right in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            base = np.array([x0, y0]) + along * (left + right) / 2 + across * (depth if row else 0.0)
            inward = -across if row else across
            found.append(Parcel(origin=base, along=along, inward=inward, width=right - left, depth=depth / rows))
    return found


def _mark(site: Site, street: Street) -> None:
    """A dashed centre line, now and then a crossing for pedestrians."""
    rng, canvas, frame = site.rng, site.canvas, site.frame
    white = tone((226, 226, 220), rng.uniform(0.8, 1.0))
    if street.width >= 26.0 or rng.random() < 0.3:
        for along in np.arange(0.0, street.length - 8.0, 20.0):
            canvas.line(frame([street.at(along), street.at(along + 9.0)]), white)
    if rng.random() < 0.5:
        along = street.length * rng.uniform(0.3, 0.7)
        for aside in np.arange(-street.width / 2 + 2.0, street.width / 2 - 3.0, 4.0):
            corners = [(along, aside), (along + 10.0, aside), (along + 10.0, aside + 2.2), (along, aside + 2.2)]
            canvas.polygon(frame([street.at(*corner) for corner in corners]), white)


def _street_cars(site: Site, streets: list[Street]) -> None:
    """Parked and moving cars along the streets until cars have their share of the picture."""
    rng = site.rng
    car = CAR_LENGTH * CAR_WIDTH * site.frame.scale**2
    wanted = rng.uniform(0.014, 0.026) * site.taken.size / car
    count = sum(site.visible(known.corners) for known in site.objects.cars)
    for _ in range(20 + int(wanted) * 8):
        if count >= wanted:
            return
        street = streets[int(rng.integers(len(streets)))]
        moving = rng.random() < 0.4
        aside = float(rng.choice([-1.0, 1.0])) * (street.width / 4 - 1.0 if moving else street.width / 2 - 5.5)
        place = street.at(rng.uniform(0.0, street.length), aside)
        count += site.add_car(place, street.ahead if rng.random() < 0.5 else -street.ahead, moving=moving)


def _avenues(site: Site, streets: list[Street]) -> None:
    """Trees on the pavements of some streets."""
    rng = site.rng
    for street in streets:
        if rng.random() < 0.72:
            continue
        colour = site.ground.crowns[int(rng.integers(len(site.ground.crowns)))]
        for side in (-1.0, 1.0):
            for along in np.arange(rng.uniform(0.0, 30.0), street.length, rng.uniform(28.0, 44.0)):
                place = street.at(along, side * (street.width / 2 + 5.0))
                site.add_tree(place, float(rng.uniform(8.0, 11.0)), colour, street=True)


def _fill_clutter(site: Site) -> None:
    """Pools, heaps and containers on lawns until clutter has its share of the picture."""
    rng, known = site.rng, site.objects.clutter
    target = rng.uniform(0.022, 0.045) * site.taken.size
    area = sum(cv2.contourArea(item.outline.astype(np.float32)) for item in known if site.visible(item.outline))
    for _ in range(60 + site.taken.size // 2000):
        if area >= target:
            return
        kind = str(rng.choice(["pool", "pool", "heap", "container"]))
        place, size = site.anywhere(), float(rng.uniform(0.8, 1.2))
        turn = float(rng.choice([0.0, np.pi / 2])) + float(rng.normal(0.0, 0.06))
        sides = (30.0 * size, 17.0) if kind == "pool" else (24.0, 10.5 * size)
        spot = Parcel(origin=place, along=np.array([1.0, 0.0]), inward=np.array([0.0, 1.0]), width=0.0, depth=0.0)
        outline = site.blob(place, 9.0 * size, 13.0 * size) if kind == "heap" else spot.rect(0.0, 0.0, *sides, turn)
        done = site.add_clutter(outline, kind, 0.0 if kind == "pool" else 9.0, lawn=True)
        if done and site.visible(pixels := known[-1].outline):
            area += cv2.contourArea(pixels.astype(np.float32))


def _fill_trees(site: Site) -> None:
    """Single trees and groups on green land until crowns have their share of the picture."""
    rng = site.rng
    target = rng.uniform(0.10, 0.175) * site.taken.size
    area = 0.0
    for _ in range(100 + site.taken.size // 400):
        if area >= target:
            return
        place, colour = site.anywhere(), site.ground.crowns[int(rng.integers(len(site.ground.crowns)))]
        size = float(rng.uniform(8.0, 21.0))
        for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
            if site.add_tree(place, size, colour):
                area += 2.6 * (size * site.frame.scale) ** 2
            place = place + rng.normal(0.0, 1.0, 2) * size * 1.1
            size = max(size * rng.uniform(0.7, 1.2), 7.0)
