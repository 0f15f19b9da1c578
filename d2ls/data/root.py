"""Where the data lie, and which part of them a run may use."""

import os
from pathlib import Path

from d2ls.errors import ConfigError

PROTOCOLS = ("strict", "published")


def data_root() -> Path:
    """The folder of all data sets: environment variable D2LS_DATA, else `data` in the working directory.

    The variable is read at each call, so a data set constructed earlier follows it at its first use.
    """
    return Path(os.environ.get("D2LS_DATA") or "data")


def check_protocol(protocol: str) -> None:
    """Refuse a protocol that does not exist (paper's setting against ours, which never selects on test data).

    Raises:
        ConfigError: neither "strict" nor "published".
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol is {protocol!r}; expected one of: {', '.join(map(repr, PROTOCOLS))}.")
