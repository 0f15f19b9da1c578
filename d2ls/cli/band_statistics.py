"""Command line of tools/band_statistics.py: mean, standard deviation and percentiles of a config's training images."""

from collections.abc import Sequence
from pathlib import Path

from d2ls.cli.common import parser, progress_bar
from d2ls.config import load_config, parse_overrides
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.statistics import BandStatistics, band_statistics
from d2ls.errors import ConfigError

EXAMPLES = """example:
  python tools/band_statistics.py -c config/own.py     prints lines for the DatasetSpec of the config
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    command = parser("Print mean, std and value range of the bands of a config's training images.", EXAMPLES)
    command.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the config")
    command.add_argument("settings", nargs="*", metavar="name=value", help="settings that replace its own")
    options = command.parse_args(argv)
    dataset = load_config(options.config, parse_overrides(options.settings)).train_dataset
    if not isinstance(dataset, SegmentationDataset):
        raise ConfigError(f"{options.config}: train_dataset is {type(dataset).__name__}; expected SegmentationDataset.")
    with progress_bar() as bar:
        task = bar.add_task("reading", total=len(dataset))
        statistics = band_statistics(dataset, lambda: bar.advance(task))
    print(describe(statistics, dataset.spec.bands))
    return 0


def describe(found: BandStatistics, bands: Sequence[str]) -> str:
    """Lines for a DatasetSpec, with the percentiles of each band as comments."""
    ranges = zip(bands, found.low, found.high, strict=True)
    return "\n".join(
        [
            f"# {found.images} images, {found.pixels:,} pixels with data; 2nd and 98th percentile of each band:",
            *(f"#   {name}: {least:.6g} to {most:.6g}" for name, least, most in ranges),
            f"bands={tuple(bands)!r},",
            f"mean=({', '.join(f'{value:.6g}' for value in found.mean)},),",
            f"std=({', '.join(f'{value:.6g}' for value in found.std)},),",
            f"value_range=({min(found.low):.6g}, {max(found.high):.6g}),",
        ]
    )
