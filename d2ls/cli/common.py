"""Shared parts of all scripts: common options, the progress bar, exit codes and messages."""

import argparse
import io
import sys
import traceback
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from d2ls.errors import D2LSError

EXIT_PROBLEMS = 1  # a check found problems
EXIT_BAD_INPUT = 2  # wrong use or bad input
EXIT_INTERRUPTED = 130
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # those of d2ls.inference.predictor, which imports torch

Main = Callable[[Sequence[str] | None], int]


def parser(description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser with the options that all scripts have; its epilog, of examples, is shown as it is typed."""
    layout = argparse.RawDescriptionHelpFormatter
    result = argparse.ArgumentParser(description=description, epilog=epilog, formatter_class=layout)
    result.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return result


def add_network_options(result: argparse.ArgumentParser) -> None:
    """Add the options of whatever runs a trained network: views, devices, precision."""
    add = result.add_argument
    views = "views: none (default), lr (flips), d4 (more)"
    add("-t", "--tta", choices=("none", "lr", "d4"), default="none", help=views)
    add("--tta-batch", type=positive_or_auto, metavar="N", help="views of one size at once (default auto: what fits)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    add("--gpus", type=_gpus, metavar="N", help="a process for each of N GPUs, or of all; they share the images")
    add("--precision", choices=PRECISIONS, help="arithmetic (default: the config's, else 32-true)")


def progress_bar(shown: bool = True) -> Progress:
    """Bars on stderr, each beside its description, shown only on a terminal, and not where others draw over them."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (shown and console.is_terminal))


def _gpus(word: str) -> int | str:
    return word if word == "all" else positive(word)


def positive_or_auto(word: str) -> int | None:
    """A whole number above 0, or None for "auto", for argparse."""
    return None if word == "auto" else positive(word)


def positive(word: str) -> int:
    """A whole number above 0, for argparse."""
    if not word.isascii() or not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word}: expected a whole number above 0")
    return int(word)


def shard(word: str) -> tuple[int, int]:
    """A share of the work, `I/N` with I from 1 to N, for argparse."""
    index, slash, number = word.partition("/")
    if not slash or not positive(index) <= positive(number):
        raise argparse.ArgumentTypeError(f"{word}: expected I/N, such as 2/8, with I from 1 to N")
    return int(index), int(number)


def run_main(main: Main, arguments: Sequence[str] | None = None) -> int:
    """Run a script with its command line, that of the process by default; gives the exit code.

    An error that the user can mend becomes one message on stderr and exit code 2.
    """
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="replace")  # a class name that the locale cannot show ends no run
    try:
        return main(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (D2LSError, OSError, RuntimeError) as error:
        # Path.resolve, before Python 3.13, has no better kind for a link that leads to itself.
        if isinstance(error, RuntimeError) and not str(error).startswith("Symlink loop"):
            raise
        if debug:
            traceback.print_exc()
        print(f"error: {_text(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _text(error: Exception) -> str:
    """The message of an error, with the file that an error of the operating system is about, without tracebacks."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # A data loader's worker sends its error as text, behind the whole traceback.
    module = type(error).__module__
    kind = f"{'' if module == 'builtins' else f'{module}.'}{type(error).__qualname__}: "
    _, found, message = str(error).rpartition(f"\n{kind}")
    return message.strip() if found else str(error)
