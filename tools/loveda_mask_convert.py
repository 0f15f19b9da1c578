"""Convert the published masks of LoveDA to class indices, and to colours beside them."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2ls.cli import common as cli
from d2ls.cli.prepare import add_common, print_summary
from d2ls.data.sets.layout import convert
from d2ls.data.sets.loveda import PUBLISHED
from d2ls.preparation.steps import convert_all


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    parser = cli.parser("Convert LoveDA's masks (0 no data, else class + 1) to class indices and, in D_rgb, colours.")
    parser.add_argument("--mask-dir", type=Path, required=True, metavar="D", help="folder: masks_png as published")
    parser.add_argument("--output-mask-dir", type=Path, required=True, metavar="D", help="folder: masks_png_convert")
    add_common(parser, labels=False)
    options = parser.parse_args(argv)
    step = convert("masks", options.mask_dir, options.output_mask_dir, PUBLISHED)
    return print_summary(lambda: convert_all(step, options.workers), PUBLISHED, "masks")


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
