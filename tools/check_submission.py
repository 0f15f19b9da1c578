"""Check masks before they go to the server: python tools/check_submission.py uavid uavid.zip."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2ls.cli import common as cli
from d2ls.inference import submission


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; exit code 0 where nothing is wrong, 1 with a line for each problem."""
    parser = cli.parser(
        "Check a submission: number, names, sizes and values of the masks.",
        "Names and sizes are those of the test images in data/ (or in the folder that the environment variable\n"
        "D2LS_DATA names); where there are none, those of the official test set.",
    )
    parser.add_argument("server", choices=submission.servers(), help="data set of the server")
    parser.add_argument("place", type=Path, metavar="ZIP_OR_FOLDER", help="the masks")
    options = parser.parse_args(arguments)
    expected = submission.server(options.server)
    problems = submission.check(options.place, expected)
    for line in [*problems, *([expected.note] if expected.note else [])]:
        print(line)
    if not problems:
        print(f"{options.place}: {len(expected.sizes)} masks, as the server expects them")
    return cli.EXIT_PROBLEMS if problems else 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
