"""Command line of predict.py; torch is imported only after it has parsed."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from d2ls.cli import common as cli

EXAMPLES = """examples:
  python predict.py -w model.ckpt -i scene.tif -o maps
  python predict.py -w model.ckpt -i scenes/ -o maps -t lr --polygons --min-area 20 --resume
  python predict.py -w model.ckpt -i list.txt -o maps --shard 2/8
  python predict.py -w model.ckpt -i scenes/ -o maps --gpus all --resume
  python predict.py -w model.onnx -i scene.tif -o maps

A map has the georeference of its raster, the classes' names and colours, and 255 where there is no data. PNG and JPEG
give a PNG. In a job array of Slurm each task takes its share of the rasters by itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and predict; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    options.shard = options.shard or slurm_shard()
    from d2ls.cli.predict_run import run  # noqa: PLC0415

    return run(options, ["predict.py", *words])


def parser() -> argparse.ArgumentParser:
    """The command line of predict.py."""
    result = cli.parser("Segment rasters of any size with a trained network; needs no config and no labels.", EXAMPLES)
    add = result.add_argument
    weights = "checkpoint, model folder, .onnx or hf-hub:owner/name"
    add("-w", "--weights", type=Path, required=True, metavar="FILE", help=weights)
    rasters = "GeoTIFF, VRT, PNG, JPEG, a folder, a .txt list"
    add("-i", "--input", type=Path, required=True, metavar="PATH", help=rasters)
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the maps")
    cli.add_network_options(result)
    add("--window", type=cli.positive, metavar="N", help="side of a window in pixels (default: follows from training)")
    add("--overlap", type=float, default=0.25, metavar="SHARE", help="of windows, 0 to 0.9 (default 0.25)")
    add("--scale", type=float, default=1.0, metavar="F", help="factor of the image's size for the network (default 1)")
    add("-b", "--batch-size", type=cli.positive, default=1, metavar="N", help="windows at once (default 1)")
    add("--bands", type=_bands, metavar="N,N,...", help="bands of the file, from 1, in the order of the network's")
    add("--probabilities", action="store_true", help="write <name>.probabilities.tif: a band for each class, 250 is 1")
    add("--confidence", action="store_true", help="write <name>.confidence.tif: probability of the class, 250 is 1")
    add("--polygons", action="store_true", help="write <name>.gpkg: class, area and mean confidence of each region")
    add("--min-area", type=float, default=0, metavar="A", help="leave out smaller polygons; m2, else pixels")
    add("--simplify", type=float, default=0, metavar="T", help="tolerance of polygons' outlines, in map units")
    add("--shard", type=cli.shard, metavar="I/N", help="share I of N of the rasters (default: Slurm's array task)")
    add("--resume", action="store_true", help="keep maps that are finished, continue one that was interrupted")
    return result


def slurm_shard(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which share of how many a task of a Slurm job array takes, from 1; (1, 1) outside of one."""
    names = ("ID", "MIN", "STEP", "COUNT")
    task, least, step, count = (int(environment.get(f"SLURM_ARRAY_TASK_{name}", 1)) for name in names)
    return (task - least) // step + 1, count


def _bands(text: str) -> tuple[int, ...]:
    return tuple(cli.positive(word) for word in text.split(","))
