"""Cut the frames of UAVid into patches."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2ls.cli.common import run_main
from d2ls.cli.prepare import split_uavid, uavid_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    return split_uavid(uavid_parser("Cut the frames of UAVid into patches.").parse_args(argv))


if __name__ == "__main__":
    sys.exit(run_main(main))
