"""Command line of training."""

import sys
from collections.abc import Sequence

from d2ls.cli.common import EXIT_PROBLEMS, parser
from d2ls.settings import SETTINGS

EXAMPLES = """examples:
  python train.py -c config/demo/d2ls.py                     draws its own data; a few minutes on a CPU
  python train.py -c config/potsdam/d2ls.py                   the paper's setting
  python train.py -c config/potsdam/d2ls.py lr=3e-4 max_epoch=2 backbone=convnext_tiny
  python train.py -c config/potsdam/d2ls.py resume_ckpt_path=last
  python train.py -c config/potsdam/d2ls.py --check           tries everything on one small image first

Data sets are looked for in data/, or in the folder that the environment variable D2LS_DATA names.
A config is Python code: run only configs that you trust.

settings (and all plain values of the config itself):
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and train."""
    listed = "\n".join(f"  {name:24} {setting.help}" for name, setting in SETTINGS.items() if setting.simple)
    command = parser("Train a network as a config file says.", EXAMPLES + listed)
    add = command.add_argument
    add("-c", "--config", required=True, metavar="FILE", help="config file, such as config/potsdam/d2ls.py")
    add("settings", nargs="*", metavar="name=value", help="settings in the place of those in the config")
    add("--check", action="store_true", help="try everything on one small image and say what was verified")
    options = command.parse_intermixed_args(arguments)
    from rich.console import Console  # noqa: PLC0415  (--help need not wait for torch)

    from d2ls.config import load_config, parse_overrides  # noqa: PLC0415
    from d2ls.training.preflight import check  # noqa: PLC0415
    from d2ls.training.trainer import train  # noqa: PLC0415

    settings = load_config(options.config, parse_overrides(options.settings))
    for name in settings.unused:
        print(f"note: {name} changes nothing: {settings.path} does not use it", file=sys.stderr)
    if options.check:
        problems = check(settings, Console(soft_wrap=True))
        for problem in problems:
            print(f"problem: {problem}", file=sys.stderr)
        if not problems:
            print("all of it works: leave out --check to train")
        return EXIT_PROBLEMS if problems else 0
    train(settings)
    return 0
