"""The console scripts of pyproject.toml; each imports only its own command line."""

from functools import partial
from importlib import import_module

from d2ls.cli.common import run_main


def _run(name: str) -> int:
    return run_main(import_module(f"d2ls.cli.{name}").main)


train, test, predict, check, compare, export = (
    partial(_run, name) for name in ("train", "test", "predict", "check", "compare", "export")
)
