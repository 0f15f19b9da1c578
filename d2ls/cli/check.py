"""Command line of `d2ls-check` and tools/check_data.py: read every file of a data set and report problems."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from d2ls.cli import common as cli
from d2ls.cli.prepare import add_common
from d2ls.config import load_config, parse_overrides
from d2ls.data import sets
from d2ls.data.io import write_png
from d2ls.data.root import data_root
from d2ls.errors import ConfigError
from d2ls.preparation.archives import make_folder
from d2ls.preparation.check import KINDS, check, check_apart, check_config, figures, folders_of, print_report
from d2ls.preparation.sheet import contact_sheet

EXAMPLES = """examples:
  python tools/check_data.py dubai --picture dubai.png     the official folders, originals and patches
  python tools/check_data.py -c config/own.py              the data of any config: all headers, all labels
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code, 1 where a problem is found."""
    parser = cli.parser("Read every file of a data set; exit code 1 where something is wrong.", EXAMPLES)
    parser.add_argument("dataset", nargs="?", metavar="DATASET", help=f"one of {', '.join(sets.names())}")
    parser.add_argument("settings", nargs="*", metavar="name=value", help="with -c: settings that replace its own")
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="check the data of a config instead")
    parser.add_argument("--root", type=Path, metavar="D", help="data root (default: D2LS_DATA, else data)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--picture", type=Path, metavar="F", help="write a contact sheet of random pairs, PNG")
    add_common(parser, labels=False)
    options = parser.parse_intermixed_args(argv)
    if options.config is None and options.dataset is None:
        parser.error("the following arguments are required: DATASET, or -c FILE")
    return _check_dataset(options) if options.config is None else _check_config(options)


def _check_dataset(options: argparse.Namespace) -> int:
    if options.settings:
        raise ConfigError(f"{options.settings[0]}: settings need a config (-c) whose values they replace.")
    facts, root, begin = sets.find(options.dataset), options.root or data_root(), time.perf_counter()
    folders = folders_of(facts, root)
    if options.picture:
        check_apart(options.picture, folders)
        make_folder(options.picture.parent)
    splits, problems, jobs = check(folders, facts.spec, options.workers)
    seconds = time.perf_counter() - begin
    if options.json:
        found: dict[str, Any] = {"dataset": facts.spec.name, "ok": not problems, "splits": figures(splits, facts.spec)}
        found["problems"] = [problem._asdict() for problem in problems]
        print(json.dumps(found | {"root": str(root), "seconds": round(seconds, 2)}, indent=2))
    else:
        by_kind = {meaning: [str(one) for one in problems if one.kind == kind] for kind, meaning in KINDS.items()}
        title = f"{facts.spec.name}: {len(jobs)} images read in {seconds:.1f} s"
        print_report(title, splits, by_kind, facts.spec, Console())
    if options.picture:
        write_png(options.picture, contact_sheet(jobs, facts.spec))
    return cli.EXIT_PROBLEMS if problems else 0


def _check_config(options: argparse.Namespace) -> int:
    words = [*([options.dataset] if options.dataset else []), *options.settings]
    if options.root or options.picture:
        raise ConfigError("--root and --picture need the name of a data set; with -c, D2LS_DATA names the root.")
    settings = load_config(options.config, parse_overrides(words))
    with cli.progress_bar() as bar:
        splits, of_files, others = check_config(settings, bar)
    is_right = not others and not any(of_files.values())
    if options.json:
        found: dict[str, Any] = {"config": str(settings.path), "ok": is_right, "problems": others}
        found["splits"] = [one | {"problems": of_files[one["split"]]} for one in figures(splits, settings)]
        print(json.dumps(found, indent=2))
    else:
        problems = {f"problems of {name}_dataset": lines for name, lines in of_files.items()}
        print_report(str(settings.path), splits, problems | {"problems of the whole": others}, settings, Console())
    return 0 if is_right else cli.EXIT_PROBLEMS
