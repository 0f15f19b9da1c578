"""Segment and score the test images of dubai: python test_dubai.py --help."""

import sys

from d2ls.cli import run_main
from d2ls.prediction.command import script

main = script("dubai")

if __name__ == "__main__":
    sys.exit(run_main(main))
