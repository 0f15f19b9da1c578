"""Segment and score the test images of grass: python test_grass.py --help."""

import sys

from d2ls.cli.common import run_main
from d2ls.cli.test import script

main = script("grass")

if __name__ == "__main__":
    sys.exit(run_main(main))
