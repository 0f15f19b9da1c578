"""Command line of `tools/export_model.py` and `d2ls-export`: a trained network in forms for other programs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from d2ls.cli import common as cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = _parse(argv)
    from d2ls.checkpoint import load_weights, read_checkpoint  # noqa: PLC0415  (after the arguments are parsed)
    from d2ls.config import load_config  # noqa: PLC0415
    from d2ls.export.facts import ModelFacts, read_scores  # noqa: PLC0415
    from d2ls.export.folder import push_to_hub, write_folder  # noqa: PLC0415

    checkpoint = read_checkpoint(options.checkpoint)
    scores = None if options.scores is None else read_scores(options.scores, checkpoint)
    given = {"window": options.window, "resolution": options.resolution, "licence": options.licence, "scores": scores}
    if options.config is None:
        facts = ModelFacts.from_checkpoint(checkpoint, **given)
        net = checkpoint.build()
    else:
        settings = load_config(options.config)
        net = settings.net
        load_weights(net, checkpoint)
        facts = ModelFacts(
            arguments=net.arguments, spec=settings.val_dataset.spec, **{k: v for k, v in given.items() if v is not None}
        )
    if facts.backbone_note:
        print(f"note: {facts.backbone_note}")
    write_folder(net, facts, options.output, half=options.half)
    size = sum(file.stat().st_size for file in options.output.glob("*.safetensors")) / 1e6
    print(f"{options.output}: model folder, weights {size:.1f} MB; test and predict with -w {options.output}")
    if options.push is not None:
        print(push_to_hub(options.output, options.push, private=options.private))
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(
        "Write a model folder from a checkpoint: weights without the optimiser's state, config.json, and a model card.",
        "python tools/export_model.py model_weights/dubai/d2ls/d2ls.ckpt -o models/dubai --half --licence CC-BY-4.0",
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CKPT", help="a checkpoint or another model folder")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER", help="the model folder to write")
    add("-c", "--config", type=Path, metavar="FILE", help="config, where the checkpoint does not name its network")
    add("--half", action="store_true", help="store weights in float16: half the size")
    add("--window", type=cli.positive, metavar="PX", help="side of the images it was trained for (default 512)")
    add("--resolution", type=float, metavar="M", help="size of a pixel on the ground in metres")
    add("--licence", metavar="SPDX", help="licence of the weights, such as CC-BY-4.0")
    add("--scores", type=Path, metavar="JSON", help="metrics.json of a test run of this checkpoint")
    add("--push", metavar="OWNER/NAME", help="upload the folder to the Hugging Face hub")
    add("--private", action="store_true", help="with --push: make the repository private")
    options = parser.parse_args(argv)
    if options.resolution is not None and not 0 < options.resolution < float("inf"):
        parser.error(f"--resolution {options.resolution}: expected a size in metres above 0")
    return options
