"""Command line of tools/describe_data.py."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from d2ls.cli.common import EXIT_PROBLEMS, parser, progress_bar
from d2ls.data.io import write_bytes
from d2ls.data.sets.folder import CLASSES
from d2ls.errors import ConfigError
from d2ls.preparation.describe import classes_table, describe, tell

EXAMPLES = """examples:
  python tools/describe_data.py my_photographs             sizes, bands, mask values and shares, what looks wrong
  python tools/describe_data.py my_photographs --write     and a table of classes, my_photographs/classes.csv, to edit
  python train.py -c config/folder/d2ls.py data=my_photographs
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Describe a folder; the exit code is 1 where something is wrong with it."""
    command = parser("Look at a folder of images and masks, and propose its table of classes.", EXAMPLES)
    command.add_argument("folder", type=Path, help="the folder; docs/your_data.md shows the layouts")
    command.add_argument("--write", action="store_true", help=f"write {CLASSES} into the folder, unless it is there")
    options = command.parse_args(arguments)
    if not options.folder.is_dir():
        raise ConfigError(f"{options.folder}: no such folder.")
    path = options.folder / CLASSES
    if options.write and path.exists():
        raise ConfigError(f"{path} is there already. Remove it to have it made again.")
    console = Console()
    with progress_bar() as bar:
        found = describe(options.folder, bar)
    tell(found, console)
    if options.write:
        write_bytes(path, classes_table(found).encode())
        console.print(f"{path} written: name its classes, then train", highlight=False, soft_wrap=True)
    return EXIT_PROBLEMS if found.problems else 0
