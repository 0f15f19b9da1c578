"""What the command lines of the preparation tools share."""

import argparse
import time
from pathlib import Path

from rich.console import Console

from d2ls.cli import common as cli
from d2ls.data.sets import loveda, uavid
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError
from d2ls.preparation.loveda_masks import convert_all
from d2ls.preparation.originals import Naming, Original, pair_tiles
from d2ls.preparation.patches import Cutting
from d2ls.preparation.pool import default_workers
from d2ls.preparation.splitting import split_all, summarise
from d2ls.preparation.steps import UAVID_CANVAS


def add_common(parser: argparse.ArgumentParser, *, labels: bool = True) -> None:
    """Options of every tool: processes and, where it reads colour labels, what unknown colours do."""
    parser.add_argument(
        "--workers", type=cli.positive, default=default_workers(), help="processes (default: %(default)s)"
    )
    if labels:
        parser.add_argument(
            "--unknown", choices=("error", "ignore"), default="error",
            help="colours of no class: an error (default), or read as ignore",
        )  # fmt: skip


def isprs_parser(description: str, *, rgb_image: bool) -> argparse.ArgumentParser:
    """The command line of the split tools of Vaihingen and Potsdam."""
    parser = cli.parser(description)
    for name, meaning in (
        ("--img-dir", "original images"), ("--mask-dir", "original colour labels"),
        ("--output-img-dir", "image patches, .tif"), ("--output-mask-dir", "mask patches, .png"),
    ):  # fmt: skip
        parser.add_argument(name, type=Path, required=True, metavar="D", help=f"folder: {meaning}")
    parser.add_argument(
        "--mode", choices=("train", "val"), required=True,
        help="train: also flipped variants (Vaihingen: and crops around cars); val: the tile as it is",
    )  # fmt: skip
    parser.add_argument("--split-size", type=cli.positive, default=1024, help="side of a patch in px (%(default)s)")
    parser.add_argument("--stride", type=cli.positive, default=512, help="px from patch to patch (%(default)s)")
    parser.add_argument("--eroded", action="store_true", help="take the labels whose names end in _noBoundary")
    parser.add_argument("--gt", action="store_true", help="write colour masks, and the whole ones under origin/")
    parser.add_argument("--val-scale", type=float, default=1.0, help="resize tiles by this factor first (mode val)")
    if rgb_image:
        parser.add_argument("--rgb-image", action="store_true", help="take the _RGB images, not the _IRRG ones")
    parser.add_argument(
        "--legend", choices=("official", "reference"), default="official", help="colours of the masks of --gt"
    )
    add_common(parser)
    return parser


def split_isprs(options: argparse.Namespace, spec: DatasetSpec, naming: Naming, *, crowds: int | None = None) -> int:
    """Run a split tool of Vaihingen or Potsdam.

    Args:
        options: from `isprs_parser`.
        spec: the labels.
        naming: of the originals.
        crowds: the class around whose crowds training crops are taken.
    """
    training = options.mode == "train"
    if training and options.val_scale != 1:
        raise ConfigError(f"--val-scale is {options.val_scale}: it belongs to --mode val; leave it out in mode train.")
    cutting = Cutting(
        spec=spec,
        images=options.output_img_dir,
        masks=options.output_mask_dir,
        size=(options.split_size, options.split_size),
        stride=(options.stride, options.stride),
        variants=3 if training else 1,
        scale=1.0 if training else options.val_scale,
        crowds=crowds if training else None,
        colours=options.gt,
        legend=options.legend,
        unknown=options.unknown,
    )
    return split_and_tell(pair_tiles(options.img_dir, options.mask_dir, naming), cutting, options.workers)


def uavid_parser(description: str) -> argparse.ArgumentParser:
    """The command line of the split tool of UAVid."""
    parser = cli.parser(description)
    parser.add_argument("--input-dir", type=Path, required=True, metavar="D", help="folder of seqN/{Images,Labels}")
    parser.add_argument("--output-img-dir", type=Path, required=True, metavar="D", help="folder: image patches, .png")
    parser.add_argument("--output-mask-dir", type=Path, required=True, metavar="D", help="folder: mask patches, .png")
    parser.add_argument(
        "--mode", choices=("train", "val"), required=True, help="frames are cut the same way in both modes"
    )
    for side in ("h", "w"):
        parser.add_argument(
            f"--split-size-{side}", type=cli.positive, default=1024, help="side of a patch in px (%(default)s)"
        )
        parser.add_argument(
            f"--stride-{side}", type=cli.positive, default=1024, help="px to the next patch (%(default)s)"
        )
    add_common(parser)
    return parser


def uavid_cutting(options: argparse.Namespace) -> Cutting:
    """How the split tool of UAVid cuts: frames padded to 4096 px at the left, their lowest 2048 rows."""
    return Cutting(
        spec=uavid.SPEC,
        images=options.output_img_dir,
        masks=options.output_mask_dir,
        size=(options.split_size_h, options.split_size_w),
        stride=(options.stride_h, options.stride_w),
        canvas=UAVID_CANVAS,
        unknown=options.unknown,
        suffix=".png",
    )


def split_and_tell(originals: list[Original], cutting: Cutting, workers: int) -> int:
    """Cut the originals and print the summary."""
    begin = time.perf_counter()
    report = split_all(originals, cutting, workers)
    summarise(report, cutting.spec, time.perf_counter() - begin, Console())
    return 0


def convert_and_tell(masks: Path, output: Path, workers: int) -> int:
    """Convert LoveDA's masks and print the summary."""
    begin = time.perf_counter()
    report = convert_all(masks, output, workers)
    summarise(report, loveda.SPEC, time.perf_counter() - begin, Console(), what="masks")
    return 0
