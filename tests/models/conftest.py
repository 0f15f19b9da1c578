"""Fixtures of the network's tests."""

import pytest

from d2ls.models import bands


@pytest.fixture(autouse=True)
def bands_as_before():
    """Tests may choose the size of bands, hypothesis several in one test."""
    elements = bands.ELEMENTS
    yield
    bands.ELEMENTS = elements
