"""Shared parts of the command lines of the preparation tools."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from d2ls.cli import common as cli
from d2ls.data.sets import isprs, uavid
from d2ls.data.sets.layout import Tiling
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError
from d2ls.preparation.pool import default_workers
from d2ls.preparation.steps import split_all, summarise
from d2ls.preparation.tiling import Summary


def add_common(parser: argparse.ArgumentParser, *, labels: bool = True) -> None:
    """Add the options of every tool: number of processes and, where it reads colour labels, use of unknown colours."""
    add = parser.add_argument
    add("--workers", type=cli.positive, default=default_workers(), help="processes (default: %(default)s)")
    if labels:
        meaning = "colours of no class: an error (default), or read as ignore"
        add("--unknown", choices=("error", "ignore"), default="error", help=meaning)


def isprs_parser(description: str, *, rgb_image: bool) -> argparse.ArgumentParser:
    """The command line of the split tools of Vaihingen and Potsdam."""
    parser = cli.parser(description)
    add = parser.add_argument
    for name, meaning in (
        ("--img-dir", "original images"), ("--mask-dir", "original colour labels"),
        ("--output-img-dir", "image patches, .tif"), ("--output-mask-dir", "mask patches, .png"),
    ):  # fmt: skip
        add(name, type=Path, required=True, metavar="D", help=f"folder: {meaning}")
    modes = "train: also flipped variants (Vaihingen: and crops around cars); val: the tile as it is"
    add("--mode", choices=("train", "val"), required=True, help=modes)
    add("--split-size", type=cli.positive, default=1024, help="side of a patch in px (%(default)s)")
    add("--stride", type=cli.positive, default=512, help="px from patch to patch (%(default)s)")
    add("--eroded", action="store_true", help="take the labels whose names end in _noBoundary")
    add("--gt", action="store_true", help="write colour masks, and the whole ones under origin/")
    add("--val-scale", type=float, default=1.0, help="resize tiles by this factor first (mode val)")
    if rgb_image:
        add("--rgb-image", action="store_true", help="take the _RGB images, not the _IRRG ones")
    add("--legend", choices=("official", "reference"), default="official", help="colours of the masks of --gt")
    add_common(parser)
    return parser


def split_isprs(options: argparse.Namespace, tiling: Callable[..., Tiling], naming: isprs.Naming) -> int:
    """Run a split tool of Vaihingen or Potsdam with the options of `isprs_parser`."""
    training = options.mode == "train"
    if training and options.val_scale != 1:
        raise ConfigError(f"--val-scale is {options.val_scale}: it belongs to --mode val; leave it out in mode train.")
    how = tiling(
        training=training,
        images=options.output_img_dir,
        masks=options.output_mask_dir,
        size=(options.split_size, options.split_size),
        stride=(options.stride, options.stride),
        variants=3 if training else 1,
        scale=options.val_scale,
        colours=options.gt,
        legend=options.legend,
        unknown=options.unknown,
    )
    tiles = isprs.tiles(options.img_dir, options.mask_dir, naming)
    return print_summary(lambda: split_all(tiles, how, options.workers), how.spec)


def uavid_parser(description: str) -> argparse.ArgumentParser:
    """The command line of the split tool of UAVid."""
    parser = cli.parser(description)
    add = parser.add_argument
    add("--input-dir", type=Path, required=True, metavar="D", help="folder of seqN/{Images,Labels}")
    add("--output-img-dir", type=Path, required=True, metavar="D", help="folder: image patches, .png")
    add("--output-mask-dir", type=Path, required=True, metavar="D", help="folder: mask patches, .png")
    add("--mode", choices=("train", "val"), required=True, help="frames are cut the same way in both modes")
    for side in ("h", "w"):
        add(f"--split-size-{side}", type=cli.positive, default=1024, help="side of a patch in px (%(default)s)")
        add(f"--stride-{side}", type=cli.positive, default=1024, help="px to the next patch (%(default)s)")
    add_common(parser)
    return parser


def split_uavid(options: argparse.Namespace) -> int:
    """Run the split tool of UAVid."""
    how = uavid.tiling(
        images=options.output_img_dir,
        masks=options.output_mask_dir,
        size=(options.split_size_h, options.split_size_w),
        stride=(options.stride_h, options.stride_w),
        unknown=options.unknown,
    )
    return print_summary(lambda: split_all(uavid.tiles(options.input_dir), how, options.workers), how.spec)


def print_summary(make: Callable[[], Summary], spec: DatasetSpec, what: str = "patches") -> int:
    """Cut tiles or convert masks, and print the summary; gives the exit code."""
    begin = time.perf_counter()
    summary = make()
    summarise(summary, spec, time.perf_counter() - begin, Console(), what=what)
    return 0
