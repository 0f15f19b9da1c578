"""Segment and score the test images of uavid: python test_uavid.py --help."""

import sys

from d2ls.cli import run_main
from d2ls.prediction.command import script

main = script("uavid")

if __name__ == "__main__":
    sys.exit(run_main(main))
