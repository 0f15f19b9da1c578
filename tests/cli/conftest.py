"""Fixtures of the test scripts: drawn data of every data set, and tiny untrained networks."""

from tests.inference.conftest import checkpoint, config, data, drawn

__all__ = ["checkpoint", "config", "data", "drawn"]
