"""Compare several configs over several seeds: python compare.py --help."""

import sys

from d2ls.cli.common import run_main
from d2ls.cli.compare import main

if __name__ == "__main__":
    sys.exit(run_main(main))
