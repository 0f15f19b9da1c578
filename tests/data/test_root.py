from pathlib import Path

import pytest

from d2ls.data.root import check_protocol, data_root
from d2ls.errors import ConfigError


def test_follows_the_environment_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("D2LS_DATA", raising=False)
    assert data_root() == Path("data")
    monkeypatch.setenv("D2LS_DATA", "/elsewhere")
    assert data_root() == Path("/elsewhere")


def test_protocols() -> None:
    check_protocol("strict")
    check_protocol("published")
    with pytest.raises(ConfigError, match="'strikt'; expected one of: 'strict', 'published'"):
        check_protocol("strikt")
