"""Segment and score the test images of vaihingen: python test_vaihingen.py --help."""

import sys

from d2ls.cli.common import run_main
from d2ls.cli.test import script

main = script("vaihingen")

if __name__ == "__main__":
    sys.exit(run_main(main))
