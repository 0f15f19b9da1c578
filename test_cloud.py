"""Segment and score the test images of cloud: python test_cloud.py --help."""

import sys

from d2ls.cli import run_main
from d2ls.prediction.command import script

main = script("cloud")

if __name__ == "__main__":
    sys.exit(run_main(main))
