"""Our samples, made from windows, have the distribution of samples made from whole images step by step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from d2ls.data import io as files
from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SampleRequest, SegmentationDataset
from d2ls.data.pairs import Pair
from d2ls.data.sets import loveda, vaihingen
from tests.data.folders import SPEC
from tests.plain_augmentation import PlainAugmentation

SIZE, NUMBER, UNLIKELY = 64, 600, 1e-4
CROPS = {"vaihingen": replace(vaihingen.AUGMENTATION, crop=32), "loveda": replace(loveda.AUGMENTATION, crop=48)}
MEASURES = ("row", "column", "extent", "tiles", "class 0", "class 1", "class 2")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Tiles whose pixels tell where they are (red: row, green: column) and of which tile (blue); few mixed places."""
    folder, made = tmp_path_factory.mktemp("tiles"), []
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.uint8)
    for number in range(4):
        pair = Pair(folder / f"{number}.tif", folder / f"{number}.png", str(number))
        files.write_tiff(pair.image, np.stack([rows * 3, columns * 3, np.full_like(rows, 60 * number)], -1))
        files.write_png(pair.mask, np.digitize(rows, [30 + number, 44, 54]).astype(np.uint8) % 3)
        made.append(pair)
    return made


def measures(samples: list[dict]) -> NDArray[np.float64]:
    """Traces of scale, crop and mosaic in each sample, whatever its rotation: (samples, measures)."""
    found = []
    for sample in samples:
        red, green, blue = sample["image"].double()
        shares = [(sample["mask"] == label).double().mean() for label in range(3)]
        tiles = len(blue.mul(3).round().unique())
        found.append([red.mean(), green.mean(), red.std() + green.std(), tiles, *shares])
    return np.array(found, np.float64)


@pytest.fixture(scope="module")
def usual(pairs: list[Pair]) -> NDArray[np.float64]:
    """Samples of Vaihingen's augmentation."""
    return ours(pairs, CROPS["vaihingen"])


def ours(pairs: list[Pair], augmentation: Augmentation) -> NDArray[np.float64]:
    dataset = SegmentationDataset(SPEC, pairs.copy, augmentation=augmentation)
    return measures([dataset[SampleRequest(seed % len(pairs), seed)] for seed in range(NUMBER)])


def plain(pairs: list[Pair], augmentation: Augmentation) -> NDArray[np.float64]:
    dataset = PlainAugmentation(pairs, augmentation, SPEC.ignore_index, size=SIZE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return measures([dataset[seed % len(pairs)] for seed in range(NUMBER)])


def chances(one: NDArray[np.float64], other: NDArray[np.float64]) -> dict[str, float]:
    """Probability that samples of one distribution differ so much, for each measure (Kolmogorov and Smirnov).

    Noise of a fifth of their spread hides what is no matter of it: half a pixel where the nearest one is taken
    from another corner of it, and shares that are equal but for rounding.
    """
    rng, spread = np.random.default_rng(0), np.concatenate([one, other]).std(0)
    one, other = (values + 0.2 * spread * rng.standard_normal(values.shape) for values in (one, other))
    return {name: ks_2samp(one[:, at], other[:, at]).pvalue for at, name in enumerate(MEASURES)}


@pytest.mark.parametrize("name", CROPS)
def test_samples_are_distributed_as_in_the_plain_order(
    name: str, usual: NDArray[np.float64], pairs: list[Pair]
) -> None:
    found = chances(usual if name == "vaihingen" else ours(pairs, CROPS[name]), plain(pairs, CROPS[name]))
    assert min(found.values()) > UNLIKELY, found


@pytest.mark.parametrize(
    ("change", "shown"),
    [({"mosaic": 0.5}, "tiles"), ({"smart_crop": None}, "class 0"), ({"scales": (0.5, 0.75, 1, 1.25)}, "extent")],
)
def test_another_distribution_is_noticed(
    change: dict, shown: str, usual: NDArray[np.float64], pairs: list[Pair]
) -> None:
    assert chances(usual, ours(pairs, replace(CROPS["vaihingen"], **change)))[shown] < UNLIKELY
