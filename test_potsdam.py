"""Segment and score the test images of potsdam: python test_potsdam.py --help."""

import sys

from d2ls.cli.common import run_main
from d2ls.cli.test import script

main = script("potsdam")

if __name__ == "__main__":
    sys.exit(run_main(main))
