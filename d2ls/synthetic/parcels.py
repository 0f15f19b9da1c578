"""What may be built on a parcel: a house, a block of flats, a car park, a green, a yard."""

import numpy as np

from d2ls.synthetic.canvas import Label, Material, Points, tone
from d2ls.synthetic.plan import Parcel
from d2ls.synthetic.site import Site


def house(site: Site, parcel: Parcel) -> None:
    """A house with a drive, a path, a terrace, perhaps a wing, a garage, a bed of earth and a hedge."""
    rng = site.rng
    wide = min(float(rng.uniform(42.0, 66.0)), parcel.width - 22.0)
    deep = min(float(rng.uniform(34.0, 50.0)), parcel.depth - 18.0)
    side = float(rng.choice([-1.0, 1.0]))
    front = float(rng.uniform(8.0, max(parcel.depth * 0.75 - deep, 9.0)))
    u, v = -side * (parcel.width - wide) / 2 * rng.uniform(0.2, 0.7), front + deep / 2
    drive = side * (parcel.width / 2 - 8.5)
    if rng.random() < 0.22:
        bed = parcel.rect(u, parcel.depth - 12.0, parcel.width * 0.5, 18.0)
        site.surface(bed, site.ground.soil, Label.LOW_VEG, Material.SOIL)
    _pave(site, parcel.rect(drive, front / 2 + 3.0, 12.0, front + 6.0))
    _pave(site, parcel.rect(u, front / 2, 5.0, front))
    _pave(site, parcel.rect(u, v + 5.0, wide * rng.uniform(0.3, 0.8), deep + 8.0))
    turn, roof = float(rng.normal(0.0, 0.03)), str(rng.choice(["gable", "gable", "hip", "flat"]))
    site.add_building(parcel.rect(u, v, wide, deep, turn), roof, rng.uniform(22.0, 34.0))
    if rng.random() < 0.4:
        wing = parcel.rect(u + side * wide * 0.22, front + deep, wide * 0.42, 22.0, turn)
        site.add_building(wing, roof, 20.0, site.objects.buildings[-1].colour)
    if rng.random() < 0.5:
        site.add_building(parcel.rect(drive, front + 18.0, 13.0, 24.0), "flat", 10.0)
    if rng.random() < 0.75:
        site.add_car(parcel.point(drive, max(front / 2 + 2, 10.0)), parcel.inward)
    if rng.random() < 0.45:
        _hedge(site, parcel)


def flats(site: Site, parcel: Parcel) -> None:
    """A block of flats in a strip of paving, perhaps with a wing."""
    rng = site.rng
    wide = parcel.width - float(rng.uniform(12.0, 26.0))
    deep = min(float(rng.uniform(38.0, 58.0)), parcel.depth - 18.0)
    roof = str(rng.choice(["flat", "flat", "flat", "hip", "gable"]))
    front = float(rng.uniform(10.0, max(parcel.depth - deep - 8.0, 11.0)))
    if rng.random() < 0.4:
        _pave(site, parcel.rect(0.0, front / 2, parcel.width, front))
    _pave(site, parcel.rect(0.0, front + deep / 2, wide + 8.0, deep + 8.0))
    site.add_building(parcel.rect(0.0, front + deep / 2, wide, deep), roof, rng.uniform(32.0, 52.0))
    rest = parcel.depth - front - deep
    if rest > 26.0 and rng.random() < 0.6:
        colour = site.objects.buildings[-1].colour
        site.add_building(
            parcel.rect(-wide * 0.34, parcel.depth - rest / 2 - 3.0, wide * 0.32, rest), roof, 30.0, colour
        )


def parking(site: Site, parcel: Parcel) -> None:
    """A car park: two rows of stalls, some of them taken."""
    rng = site.rng
    colour = tone(site.ground.asphalt, rng.uniform(0.88, 1.15))
    deep = min(parcel.depth, 84.0)
    site.surface(
        parcel.rect(0.0, deep / 2 - 4.0, parcel.width - 8.0, deep - 6.0), colour, Label.IM_SURF, Material.ASPHALT
    )
    site.surface(parcel.rect(0.0, 0.0, 22.0, 18.0), colour, Label.IM_SURF, Material.ASPHALT)
    stalls = int((parcel.width - 16.0) / 11.0)
    full = rng.uniform(0.3, 0.65)
    for v in [14.0, deep - 18.0] if deep > 60.0 else [deep / 2]:
        for stall in range(stalls + 1):
            u = (stall - stalls / 2) * 11.0
            ends = parcel.rect(u, v, 0.0, 21.0)[[0, 2]]
            site.canvas.line(site.frame(ends), (205, 205, 200))
            if stall < stalls and rng.random() < full:
                place = parcel.point(u + 5.5, v + rng.normal(0.0, 0.8))
                site.add_car(place, parcel.inward if rng.random() < 0.6 else -parcel.inward)


def green(site: Site, parcel: Parcel) -> None:
    """A lawn with a winding path, perhaps a bed of earth, a pond or a tennis court."""
    rng = site.rng
    if rng.random() < 0.4:
        bed = parcel.rect(0.0, parcel.depth / 2, parcel.width * 0.7, parcel.depth * 0.6, rng.uniform(-0.4, 0.4))
        site.surface(bed, site.ground.soil, Label.LOW_VEG, Material.SOIL)
    steps = np.linspace(-0.05, 1.05, 9)
    winding = 0.5 + 0.3 * np.sin(steps * 5.0 + parcel.width)
    path = np.array(
        [parcel.point(parcel.width * (u - 0.5), parcel.depth * v) for u, v in zip(steps, winding, strict=True)]
    )
    outline = np.concatenate([path - parcel.inward * 4.0, (path + parcel.inward * 4.0)[::-1]])
    colour = site.ground.paving if rng.random() < 0.5 else (178, 164, 138)
    site.surface(outline, colour, Label.IM_SURF, Material.GRAVEL)
    if rng.random() < 0.6 and parcel.width > 70.0:
        kind = "pond" if rng.random() < 0.6 else "court"
        place = parcel.rect(rng.uniform(-12, 12), parcel.depth * 0.3, 46.0, 26.0)
        site.add_clutter(site.blob(place.mean(axis=0), 15.0, 21.0) if kind == "pond" else place, kind, 0.0)


def yard(site: Site, parcel: Parcel) -> None:
    """A paved or gravelled yard with a hall, containers and heaps."""
    rng = site.rng
    wide, deep = parcel.width - 8.0, parcel.depth - 8.0
    gravel = rng.random() < 0.5
    colour = (172, 160, 142) if gravel else tone(site.ground.pavement, 0.95)
    material = Material.GRAVEL if gravel else Material.PAVING
    site.surface(parcel.rect(0.0, deep / 2, wide, deep + 8.0), colour, Label.IM_SURF, material)
    v = max(parcel.depth * 0.7, 30.0)
    site.add_building(parcel.rect(0.0, v, wide - 12.0, min(deep * 0.5, 44.0)), "hall", rng.uniform(24.0, 36.0))
    for _ in range(int(rng.integers(2, 6))):
        u, at = rng.uniform(-wide / 2 + 12, wide / 2 - 12), rng.uniform(6.0, parcel.depth * 0.4)
        if rng.random() < 0.3:
            site.add_clutter(site.blob(parcel.point(u, at), 9.0, 12.0), "heap", 8.0)
        else:
            turn = float(rng.choice([0.0, np.pi / 2])) + float(rng.normal(0.0, 0.05))
            site.add_clutter(parcel.rect(u, at, 24.0, 10.0, turn), "container", 10.0)
    site.add_car(parcel.point(wide / 2 - 8.0, 12.0), parcel.inward)


def _pave(site: Site, corners: Points) -> None:
    site.surface(corners, site.ground.paving, Label.IM_SURF, Material.PAVING)


def _hedge(site: Site, parcel: Parcel) -> None:
    """A row of small crowns along one side of a parcel."""
    side = float(site.rng.choice([-1.0, 1.0])) * (parcel.width / 2 - 1.0)
    for v in np.arange(6.0, parcel.depth - 4.0, 5.0):
        site.add_tree(parcel.point(side, v), float(site.rng.uniform(4.0, 5.5)), site.ground.crowns[0])
