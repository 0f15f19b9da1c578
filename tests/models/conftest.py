"""Fixtures of the network's tests."""

import pytest

from d2ls.models import streaming


@pytest.fixture(autouse=True)
def chunks_as_before():
    """Tests may choose the size of row chunks, hypothesis several in one test."""
    elements = streaming.ELEMENTS
    yield
    streaming.ELEMENTS = elements
