"""Segment and score the test images of vaihingen: python test_vaihingen.py --help."""

import sys

from d2ls.cli import run_main
from d2ls.prediction.command import script

main = script("vaihingen")

if __name__ == "__main__":
    sys.exit(run_main(main))
