"""One module for each data set, found here by its name; a new one is a new module with `SPEC` and `FACTS`."""

import pkgutil
from importlib import import_module

from d2ls.data.sets.facts import DatasetFacts
from d2ls.errors import ConfigError


def names() -> tuple[str, ...]:
    """Names of all data sets, sorted."""
    return tuple(sorted(_all()))


def find(name: str) -> DatasetFacts:
    """The description of a data set (raises ConfigError: there is none of this name; lists the names)."""
    facts = _all().get(name)
    if facts is None:
        raise ConfigError(f"{name!r}: no such data set; expected one of {', '.join(names())}.")
    return facts


def _all() -> dict[str, DatasetFacts]:
    """Descriptions by name, of every module here that has one."""
    modules = (import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    return {module.FACTS.spec.name: module.FACTS for module in modules if hasattr(module, "FACTS")}
