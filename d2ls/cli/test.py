"""Command line of the test scripts, one parser for all data sets; torch is imported only after it has parsed."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from d2ls.cli import common as cli


def script(dataset: str) -> Callable[[Sequence[str] | None], int]:
    """The main function of a data set's test script: takes the command line, returns the exit code."""

    def main(arguments: Sequence[str] | None = None) -> int:
        words = list(sys.argv[1:] if arguments is None else arguments)
        options = parser(dataset).parse_intermixed_args(words)
        from d2ls.cli.test_run import run  # noqa: PLC0415

        return run(dataset, options, [f"test_{dataset}.py", *words])

    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """`d2ls-test`: the data set's name, then the command line of its test script."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = cli.parser("Segment and score the test images of a data set. For its options: d2ls-test DATASET --help")
    first.add_argument("dataset", help="such as vaihingen, potsdam, uavid")
    return script(first.parse_args(words[:1]).dataset)(words[1:])


def parser(dataset: str) -> argparse.ArgumentParser:
    """The command line of a data set's test script."""
    example = f"python test_{dataset}.py -c config/{dataset}/d2ls.py -o fig_results/{dataset}/d2ls -t lr"
    result = cli.parser(
        f"Segment the test images of {dataset}, write their masks, and score them where there are labels.",
        f"example:\n  {example}\n\nData sets are looked for in data/, or in the folder that the environment variable "
        "D2LS_DATA names.\nA config is Python code: run only configs that you trust.",
    )
    add = result.add_argument
    add("-c", "--config", type=Path, metavar="FILE", help="config; may be left out where the checkpoint says it all")
    add("-w", "--weights", type=Path, metavar="FILE", help="checkpoint (default: the one that the config names)")
    add("-o", "--output", "--output_path", type=Path, required=True, metavar="DIR", help="folder for masks and scores")
    cli.add_network_options(result)
    add("-b", "--batch-size", type=cli.positive, metavar="N", help="images of one size (or windows) at once")
    add("--window", type=cli.positive, metavar="N", help="side of blended windows (default: test_window of the config)")
    add("--overlap", type=float, metavar="SHARE", help="of windows, 0 to 0.9 (default: test_overlap; of -ph, -pw 0)")
    add("--workers", type=cli.positive, default=2, metavar="N", help="threads that read images (default 2)")
    add("--rgb", action="store_true", help="write colour masks rather than class indices")
    add("--legend", choices=("official", "reference"), default="official", help="whose colours, where they differ")
    add("--resume", action="store_true", help="keep the masks that exist already")
    add("--report", action="store_true", help="write a page of scores, pictures and the dictionary: report.html")
    add("--report-image", metavar="NAME", help="whose dictionary the page shows (default: the median image by mIoU)")
    add("--submission", type=Path, metavar="ZIP", help="check the masks and write the zip for the data set's server")
    add("settings", nargs="*", metavar="name=value", help="settings that replace those in the config")
    if dataset == "uavid":
        _add_window_options(result)
    else:
        add("--val", action="store_true", help="the validation images instead of the test images")
    return result


def _add_window_options(result: argparse.ArgumentParser) -> None:
    add = result.add_argument
    add("-i", "--input", "--image_path", type=Path, metavar="DIR", help="folder of seqN/Images (default: uavid_test)")
    add("-ph", "--patch-height", type=cli.positive, metavar="N", help="height of a window (default 1152)")
    add("-pw", "--patch-width", type=cli.positive, metavar="N", help="width of a window (default 1024)")
    add(
        "-d", "--dataset", default="uavid", metavar="NAME", help="classes and colours: uavid (default), pv, landcoverai"
    )
    add("--index", action="store_true", help="write class indices; without it colours, as the server wants them")
