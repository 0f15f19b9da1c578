import io

import numpy as np
import pytest
from PIL import Image

from d2ls.data.sets import potsdam
from d2ls.data.sets.layout import OriginalTile
from d2ls.errors import DataError
from d2ls.preparation.tiling import split
from tests.preparation import oracle
from tests.preparation.test_tiling import tiling


def tile(folder, stem, mask):
    oracle.save(folder / f"{stem}_RGB.tif", np.zeros_like(mask))
    oracle.save(folder / f"{stem}_label.tif", mask)
    return OriginalTile(stem, folder / f"{stem}_RGB.tif", folder / f"{stem}_label.tif")


def settings(folder):
    return tiling(folder, spec=potsdam.SPEC, off_palette=potsdam.OFF_PALETTE, size=(128, 128), stride=(128, 128))


def reencoded(mask):
    data = io.BytesIO()
    Image.fromarray(mask).save(data, "JPEG", quality=60)
    return np.array(Image.open(data))


def test_the_lossy_tile_is_read_by_threshold(tmp_path):
    _, mask = oracle.draw(np.random.default_rng(3), (128, 128))
    mask = np.roll(mask, (5, 5), (0, 1))  # across the blocks of the encoder
    lossy = reencoded(mask)
    assert len(np.unique(lossy.reshape(-1, 3), axis=0)) > 500, "an imitation worth its name"
    report = split(tile(tmp_path, "top_potsdam_4_12", lossy), settings(tmp_path))
    found, true = oracle.read(tmp_path / "masks/top_potsdam_4_12_0_0.png"), oracle.to_index(mask)
    inside = ((np.indices(true.shape) - 5) % 16 % 15 > 1).all(axis=0)  # away from the edges of the drawn blocks
    assert (found == true)[inside].mean() > 0.995
    assert (found == true).mean() > 0.9
    assert len(report.notes) == 1
    assert "top_potsdam_4_12_label.tif" in report.notes[0]
    assert "threshold" in report.notes[0]


def test_the_cars_of_the_other_tile(tmp_path):
    _, mask = oracle.draw(np.random.default_rng(3), (128, 128), cars=0.3)
    cars = (mask == (255, 255, 0)).all(axis=2)
    off = mask.copy()
    off[cars & (np.arange(128) < 100)] = (252, 255, 0)
    report = split(tile(tmp_path, "top_potsdam_6_7", off), settings(tmp_path))
    np.testing.assert_array_equal(oracle.read(tmp_path / "masks/top_potsdam_6_7_0_0.png"), oracle.to_index(mask))
    assert f"{(cars & (np.arange(128) < 100)).sum()} pixels changed, 0 of no class" in report.notes[0]


def test_every_other_tile_stays_strict(tmp_path):
    _, mask = oracle.draw(np.random.default_rng(3), (128, 128))
    mask[0, 0] = (252, 255, 0)
    with pytest.raises(DataError, match=r"top_potsdam_6_8_label.tif.*\(252, 255, 0\) \(1 pixels\)"):
        split(tile(tmp_path, "top_potsdam_6_8", mask), settings(tmp_path))
