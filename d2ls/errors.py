"""Errors that a user can cause and mend; a script prints their text and ends with exit code 2."""

import importlib
from typing import Any


class D2LSError(Exception):
    """Says what was found, what was expected and what to do, with the file or setting named."""


class ConfigError(D2LSError):
    """A setting, a config file or a command line that cannot be used."""


class DataError(D2LSError):
    """An image, a mask or a folder that cannot be used."""


class CheckpointError(D2LSError):
    """A weight file that cannot be read or does not fit the network."""


class Terminated(SystemExit):
    """The process was asked to end (SIGTERM) and did so in order; its exit code is 143."""

    def __init__(self) -> None:
        super().__init__(143)


def require(package: str, needed_by: str, *, install: str = "") -> Any:
    """Import a package that only some uses need; its name has hyphens where its module has underscores.

    Raises:
        ConfigError: it is not installed; says who needs it, and what to install, the package itself as a rule.
    """
    try:
        return importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        raise ConfigError(f"{needed_by} needs {package}: pip install {install or package}.") from error
