"""The version of the package, readable without anything else of it."""

__version__ = "0.1.0"
