"""Print mean, std and value range of a config's training images: python tools/band_statistics.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2ls.cli.band_statistics import main
from d2ls.cli.common import run_main

if __name__ == "__main__":
    sys.exit(run_main(main))
