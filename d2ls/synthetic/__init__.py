"""Painted aerial scenes for the demo and the tests; `folders` writes them in the layout of each data set."""

from d2ls.synthetic.prepare import prepare_demo
from d2ls.synthetic.scene import draw_scene

__all__ = ["draw_scene", "prepare_demo"]
