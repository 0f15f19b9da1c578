"""Train a network as a config file says: python train.py -c config/loveda/d2ls.py [name=value ...]."""

import sys

from d2ls.cli.common import run_main
from d2ls.cli.train import main

if __name__ == "__main__":
    sys.exit(run_main(main))
