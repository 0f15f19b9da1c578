"""Turn a checkpoint into a safetensors file to hand on: python tools/export_weights.py last.ckpt d2ls.safetensors."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2ls.checkpoint import load_weights, read_checkpoint
from d2ls.cli import common as cli
from d2ls.config import load_config
from d2ls.export.weights import export_weights


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    parser = cli.parser(
        "Write the weights of a checkpoint, with what builds the network and its classes, as safetensors: a file that "
        "cannot hold code.",
        "The test scripts take it with -w, without a config. A config is Python code: run only configs that you trust.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="a checkpoint of ours or of the reference")
    parser.add_argument("output", type=Path, metavar="OUT.safetensors", help="the file to write")
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="where the checkpoint does not say it all")
    options = parser.parse_args(argv)
    checkpoint = read_checkpoint(options.checkpoint)
    if options.config is None:
        net, spec = checkpoint.build(), checkpoint.spec
    else:
        settings = load_config(options.config)
        net, spec = settings.net, getattr(settings.val_dataset, "spec", None)
        load_weights(net, checkpoint)
    export_weights(net, spec, options.output, train_size=checkpoint.train_size)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB, to be tested with -w {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
