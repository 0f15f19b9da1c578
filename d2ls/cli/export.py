"""Command line of `tools/export_model.py` and `d2ls-export`: a trained network in forms for other programs."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2ls.cli import common as cli

if TYPE_CHECKING:
    from torch import nn

    from d2ls.export.facts import ModelFacts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = _parse(argv)
    from d2ls.checkpoint import FOLDER_WEIGHTS, load_weights, read_checkpoint  # noqa: PLC0415  (after the arguments are parsed)
    from d2ls.config import load_config  # noqa: PLC0415
    from d2ls.errors import ConfigError  # noqa: PLC0415
    from d2ls.export.facts import ModelFacts, read_scores  # noqa: PLC0415
    from d2ls.export.folder import push_to_hub, write_folder  # noqa: PLC0415
    from d2ls.export.stac import stac_item, write_stac  # noqa: PLC0415

    checkpoint = read_checkpoint(options.checkpoint)
    scores = None if options.scores is None else read_scores(options.scores, checkpoint)
    given = {"window": options.window, "resolution": options.resolution, "licence": options.licence, "scores": scores}
    if options.config is None:
        facts = ModelFacts.from_checkpoint(checkpoint, **given)
        net = checkpoint.build()
    else:
        given["window"] = options.window or checkpoint.train_size
        settings = load_config(options.config)
        net = settings.net
        load_weights(net, checkpoint)
        given = {name: value for name, value in given.items() if value is not None}
        arguments = getattr(net, "arguments", None)
        if arguments is None:
            raise ConfigError(
                f"{options.config}: its net, a {type(net).__name__}, does not say how it was built (no attribute "
                "arguments), so nobody could build it again. Hand on its checkpoint together with the config."
            )
        facts = ModelFacts(arguments=arguments, spec=settings.val_dataset.spec, **given)
    if facts.backbone_note:
        print(f"note: {facts.backbone_note}")
    if options.output is not None:
        write_folder(net, facts, options.output, half=options.half)
        print(f"{options.output}: model folder, {_size(options.output)}; test and predict with -w {options.output}")
    _write_graphs(net, facts, options)
    if options.stac is not None:
        parameters = sum(parameter.numel() for parameter in net.parameters())
        weights = None if options.output is None else options.output / FOLDER_WEIGHTS
        named = {"onnx": options.onnx, "pt2": options.pt2, "weights": weights}
        files = {key: path for key, path in named.items() if path is not None}
        write_stac(stac_item(facts, files, parameters, name=options.stac.stem), options.stac)
        print(f"{options.stac}: STAC item of {', '.join(map(str, files.values()))}")
    if options.push is not None:
        print(push_to_hub(options.output, options.push, private=options.private))
    return 0


def _write_graphs(net: "nn.Module", facts: "ModelFacts", options: argparse.Namespace) -> None:
    """Write the forms that are asked for beside the folder; the network is traced once for all of them."""
    from d2ls.export import graph, onnx_file  # noqa: PLC0415  (after the arguments are parsed)
    from d2ls.export.facts import NOMINAL_SIZE  # noqa: PLC0415

    for path in (options.onnx, options.int8, options.qgis):
        if path is not None:
            onnx_file.check_onnx(path)
    if options.onnx is not None or options.pt2 is not None:
        program = graph.export_program(net, facts.spec, half=options.half)
        if options.pt2 is not None:
            graph.write_program(program, facts, options.pt2)
            print(f"{options.pt2}: torch.export program, {_size(options.pt2)}")
        if options.onnx is not None:
            onnx_file.write_onnx(program, facts, options.onnx)
            print(f"{options.onnx}: ONNX, any image size, {_size(options.onnx)}; predict with -w {options.onnx}")
    if options.int8 is not None:
        onnx_file.write_int8(options.onnx, options.int8)
        print(f"{options.int8}: ONNX with int8 matrices, {_size(options.int8)}")
    if options.qgis is not None:
        tile = options.tile or facts.window or NOMINAL_SIZE
        onnx_file.write_tile_onnx(net, facts, options.qgis, tile=tile)
        print(f"{options.qgis}: ONNX for QGIS (Deepness) and GeoDeep, {tile} px tiles, {_size(options.qgis)}")
        if facts.resolution is None:
            print("note: without --resolution these programs take a pixel size of their own.")


def _size(path: Path) -> str:
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(
        "Write a model folder from a checkpoint: weights without the optimiser's state, config.json, and a model card.",
        "python tools/export_model.py model_weights/dubai/d2ls/d2ls.ckpt -o models/dubai --half --licence CC-BY-4.0",
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CKPT", help="a checkpoint or another model folder")
    add("-o", "--output", type=Path, metavar="FOLDER", help="the model folder to write")
    add("-c", "--config", type=Path, metavar="FILE", help="config, where the checkpoint does not name its network")
    add("--half", action="store_true", help="float16: weights of half the size; ONNX and .pt2 compute in it too")
    add("--onnx", type=Path, metavar="FILE.onnx", help="write ONNX that takes images of any size")
    add("--int8", type=Path, metavar="FILE.onnx", help="with --onnx: write a variant with int8 matrices, too")
    add("--pt2", type=Path, metavar="FILE.pt2", help="write a torch.export program, which needs torch alone")
    add("--qgis", type=Path, metavar="FILE.onnx", help="write ONNX of one tile for QGIS (Deepness) and GeoDeep")
    add("--tile", type=cli.positive, metavar="PX", help="side of that tile (default: the window)")
    add("--stac", type=Path, metavar="FILE.json", help="write a STAC item (MLM extension) of the other files")
    add("--window", type=cli.positive, metavar="PX", help="side of the training images (default: the checkpoint's)")
    add("--resolution", type=float, metavar="M", help="size of a pixel on the ground in metres")
    add("--licence", metavar="SPDX", help="licence of the weights, such as CC-BY-4.0")
    add("--scores", type=Path, metavar="JSON", help="metrics.json of a test run of this checkpoint")
    add("--push", metavar="OWNER/NAME", help="upload the folder to the Hugging Face hub")
    add("--private", action="store_true", help="with --push: make the repository private")
    options = parser.parse_args(argv)
    if options.resolution is not None and not 0 < options.resolution < float("inf"):
        parser.error(f"--resolution {options.resolution}: expected a size in metres above 0")
    if not any((options.output, options.onnx, options.pt2, options.qgis)):
        parser.error("nothing to write: give -o, --onnx, --pt2 or --qgis")
    if options.stac is not None and not any((options.output, options.onnx, options.pt2)):
        parser.error("--stac describes the other files: give -o, --onnx or --pt2, too")
    if options.push is not None and options.output is None:
        parser.error("--push uploads the folder of -o: give it, too")
    if options.int8 is not None and (options.onnx is None or options.half):
        parser.error("--int8 is made from the float32 file of --onnx: give --onnx, and leave out --half")
    return options
