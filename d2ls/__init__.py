"""Dynamic dictionary learning for semantic segmentation of aerial and satellite images."""

__version__ = "0.1.0"
