"""Write a model folder, ONNX and other forms of a trained network: python tools/export_model.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2ls.cli.common import run_main
from d2ls.cli.export import main

if __name__ == "__main__":
    sys.exit(run_main(main))
