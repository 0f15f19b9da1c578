"""Segment and score the test images of cloud: python test_cloud.py --help."""

import sys

from d2ls.cli.common import run_main
from d2ls.cli.test import script

main = script("cloud")

if __name__ == "__main__":
    sys.exit(run_main(main))
