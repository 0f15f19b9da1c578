"""Data root and protocols."""

import os
from pathlib import Path

from d2ls.errors import ConfigError
from d2ls.settings import PROTOCOLS


def data_root() -> Path:
    """The folder of all data sets: environment variable D2LS_DATA, else `data` in the working directory.

    The variable is read at each call, so a data set constructed earlier follows it at its first use.
    """
    return Path(os.environ.get("D2LS_DATA") or "data")


def check_protocol(protocol: str) -> None:
    """Refuse, by a ConfigError, another protocol than "strict" and "published".

    "published" repeats the paper's setting; "strict" never selects checkpoints on training or test data.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol is {protocol!r}; expected one of: {', '.join(map(repr, PROTOCOLS))}.")
