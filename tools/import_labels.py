"""Make masks of what annotation tools save: python tools/import_labels.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2ls.cli.common import run_main
from d2ls.cli.import_labels import main

if __name__ == "__main__":
    sys.exit(run_main(main))
