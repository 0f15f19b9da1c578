"""Segment and score the test images of loveda: python test_loveda.py --help."""

import sys

from d2ls.cli.common import run_main
from d2ls.cli.test import script

main = script("loveda")

if __name__ == "__main__":
    sys.exit(run_main(main))
