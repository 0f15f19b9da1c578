"""Fixtures of the network's tests."""

import pytest

from d2ls.models import slices


@pytest.fixture(autouse=True)
def slices_as_before():
    """Tests may choose the size of slices, hypothesis several in one test."""
    elements = slices.ELEMENTS
    yield
    slices.ELEMENTS = elements
