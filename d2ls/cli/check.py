"""Command line of `d2ls-check` and tools/check_data.py: read every file of a data set and report problems."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from d2ls.cli import common as cli
from d2ls.cli.prepare import add_common
from d2ls.data.io import write_png
from d2ls.data.root import data_root
from d2ls.errors import DataError
from d2ls.preparation.check import check
from d2ls.preparation.findings import tell
from d2ls.preparation.folders import SPECS, check_apart, places
from d2ls.preparation.sheet import contact_sheet
from d2ls.preparation.splitting import make_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    parser = cli.parser("Read every file of a data set and report what is wrong; exit code 1 where something is.")
    parser.add_argument("dataset", choices=tuple(SPECS), help="the data set")
    parser.add_argument("--root", type=Path, metavar="D", help="data root (default: D2LS_DATA, else data)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--picture", type=Path, metavar="F", help="write a contact sheet of random pairs, PNG")
    add_common(parser, labels=False)
    options = parser.parse_args(argv)
    spec, root, begin = SPECS[options.dataset], options.root or data_root(), time.perf_counter()
    found = places(options.dataset, root)
    if not found:
        raise DataError(
            f"{root}: no folders of {options.dataset} in it. Expected a data root, such as tools/prepare_data.py fills."
        )
    if options.picture:
        check_apart(options.picture, found)
        make_folder(options.picture.parent)
    report = check(found, spec, options.workers)
    seconds = time.perf_counter() - begin
    if options.json:
        print(json.dumps({**report.to_dict(spec), "root": str(root), "seconds": round(seconds, 2)}, indent=2))
    else:
        tell(report, spec, seconds, Console())
    if options.picture:
        write_png(options.picture, contact_sheet(report.jobs, spec))
    return cli.EXIT_PROBLEMS if report.problems else 0
