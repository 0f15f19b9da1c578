"""Cut the tiles of ISPRS Vaihingen into patches."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2ls.cli.common import run_main
from d2ls.cli.prepare import isprs_parser, split_isprs
from d2ls.data.sets import vaihingen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = isprs_parser("Cut the tiles of ISPRS Vaihingen into patches.", rgb_image=False).parse_args(argv)
    return split_isprs(options, vaihingen.tiling, vaihingen.naming(eroded=options.eroded))


if __name__ == "__main__":
    sys.exit(run_main(main))
