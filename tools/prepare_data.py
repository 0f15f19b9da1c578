"""Put downloaded archives of a data set where they belong, and make the patches that training reads."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from d2ls.cli import common as cli
from d2ls.cli.prepare import add_common
from d2ls.data import sets
from d2ls.data.root import data_root
from d2ls.preparation.pipeline import prepare, print_lists


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code, 1 where something is missing."""
    parser = cli.parser("Put the originals of a data set in place, split and convert them. Run again, it continues.")
    parser.add_argument("dataset", choices=sets.names(), help="the data set")
    parser.add_argument(
        "--from", dest="downloads", type=Path, required=True, metavar="D",
        help="folder with the downloaded archives, or with what they were unpacked to",
    )  # fmt: skip
    parser.add_argument("--to", type=Path, metavar="D", help="data root (default: D2LS_DATA, else data)")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    add_common(parser, labels=False)
    options = parser.parse_args(argv)
    console = Console()
    plan = prepare(
        sets.find(options.dataset), options.downloads, options.to or data_root(),
        dry_run=options.dry_run, workers=options.workers, console=console,
    )  # fmt: skip
    print_lists(plan, console)
    return cli.EXIT_PROBLEMS if plan.problems else 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
