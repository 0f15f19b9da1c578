"""Segment and score the test images of grass: python test_grass.py --help."""

import sys

from d2ls.cli import run_main
from d2ls.prediction.command import script

main = script("grass")

if __name__ == "__main__":
    sys.exit(run_main(main))
