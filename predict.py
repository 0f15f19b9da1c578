"""Segment rasters of any size with a trained network: python predict.py --help."""

import sys

from d2ls.cli.common import run_main
from d2ls.cli.predict import main

if __name__ == "__main__":
    sys.exit(run_main(main))
