"""The console scripts of pyproject.toml; each imports only its own command line."""

from d2ls.cli.common import run_main


def train() -> int:
    """Run `d2ls-train`."""
    from d2ls.cli.train import main  # noqa: PLC0415

    return run_main(main)


def test() -> int:
    """Run `d2ls-test`."""
    from d2ls.cli.test import main  # noqa: PLC0415

    return run_main(main)


def predict() -> int:
    """Run `d2ls-predict`."""
    from d2ls.cli.predict import main  # noqa: PLC0415

    return run_main(main)


def check() -> int:
    """Run `d2ls-check`."""
    from d2ls.cli.check import main  # noqa: PLC0415

    return run_main(main)


def compare() -> int:
    """Run `d2ls-compare`."""
    from d2ls.cli.compare import main  # noqa: PLC0415

    return run_main(main)


def export() -> int:
    """Run `d2ls-export`."""
    from d2ls.cli.export import main  # noqa: PLC0415

    return run_main(main)
