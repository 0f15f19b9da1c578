"""Drawn aerial scenes for the demo and the tests."""

from d2ls.synthetic.folders import (
    write_cloud,
    write_dubai,
    write_grass,
    write_loveda,
    write_potsdam,
    write_potsdam_originals,
    write_uavid,
    write_uavid_originals,
    write_vaihingen,
    write_vaihingen_originals,
)
from d2ls.synthetic.prepare import prepare_demo
from d2ls.synthetic.scene import draw_scene

__all__ = [
    "draw_scene",
    "prepare_demo",
    "write_cloud",
    "write_dubai",
    "write_grass",
    "write_loveda",
    "write_potsdam",
    "write_potsdam_originals",
    "write_uavid",
    "write_uavid_originals",
    "write_vaihingen",
    "write_vaihingen_originals",
]
