"""Variants of a comparison: configs, times the values of a grid or the rows of an ablation, times seeds."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2ls.config import load_config, parse_overrides
from d2ls.errors import ConfigError

ABLATION: dict[str, dict[str, Any]] = {
    "no dictionary": {"head": "conv", "use_aux_loss": False, "contrastive_weight": 0.0},
    "static dictionary": {"dictionary": "static", "use_aux_loss": False, "contrastive_weight": 0.0},
    "dynamic dictionary": {"use_aux_loss": False, "contrastive_weight": 0.0},
    "dynamic, static auxiliary": {"use_aux_loss": True, "contrastive_weight": 0.0},
    "dynamic, auxiliary, contrastive": {"use_aux_loss": True, "contrastive_weight": 1.0},
}
"""Rows of the paper's ablation table, as settings."""


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str  # unique in the comparison
    config: Path  # the config file
    overrides: Mapping[str, Any] = field(default_factory=dict)  # settings in the place of those in the config

    @property
    def folder(self) -> str:
        """The name as a folder."""
        return re.sub(r"[^\w.=-]+", "_", self.name)


def plan(
    configs: Sequence[Path], settings: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], *, ablation: bool
) -> list[Variant]:
    """List the variants: configs, the first of which the others are compared with, times a grid of values.

    The settings hold for all. With `ablation` the configs are multiplied by the rows of the paper's ablation table.
    Names that are no settings, and two variants that are the same, are a ConfigError.
    """
    rows = ABLATION if ablation else {"": {}}
    is_told_by_stem = len({config.stem for config in configs}) == len(configs)
    variants = []
    for config, (row, changes), values in itertools.product(configs, rows.items(), itertools.product(*grid.values())):
        point = dict(zip(grid, values, strict=True))
        name = config.stem if is_told_by_stem else f"{config.parent.name}/{config.stem}"
        words = [name if len(configs) > 1 or not row else "", row, *(f"{k}={v}" for k, v in point.items())]
        overrides = {**settings, **changes, **point}
        if overlap := sorted(settings.keys() & (changes.keys() | point.keys())):
            raise ConfigError(f"{overlap[0]} is given for all variants and varied, too. Leave out one of the two.")
        variants.append(Variant(" ".join(filter(None, words)), config, overrides))
    folders = [variant.folder for variant in variants]
    if doubled := sorted({name for name in folders if folders.count(name) > 1}):
        raise ConfigError(f"two variants have the name {doubled[0]}. Give each config once, each value once.")
    for variant in variants:
        load_config(variant.config, variant.overrides)
    return variants


def parse_grid(words: Sequence[str]) -> dict[str, list[Any]]:
    """Values by setting, of words such as `lr=1e-4,3e-4` (raises ConfigError: no `name=value,value`)."""
    grid: dict[str, list[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not text or name in grid:
            raise ConfigError(f"--grid {word}: expected name=value,value,... with each name once: lr=1e-4,3e-4.")
        grid[name] = [parse_overrides([f"{name}={value}"])[name] for value in text.split(",")]
    return grid
