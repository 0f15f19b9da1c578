"""Read every file of a data set and report problems: python tools/check_data.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2ls.cli.check import main
from d2ls.cli.common import run_main

if __name__ == "__main__":
    sys.exit(run_main(main))
