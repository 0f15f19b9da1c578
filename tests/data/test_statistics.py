import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from d2ls.data import statistics
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.spec import DTYPES, DatasetSpec
from d2ls.data.statistics import band_statistics
from d2ls.errors import DataError
from tests.data.test_bands import pairs, spec_of, write
from tests.data.test_spawned_workers import settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_are_those_of_all_pixels_with_data(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "_ROWS", 7)
    listed, spec = pairs(tmp_path, 4, dtype), spec_of(4, dtype, mean=(), std=())
    rng, seen = np.random.default_rng(0), []
    for number, pair in enumerate(listed):
        pixels = rng.normal((20, 90, 40, 60), (3, 9, 5, 2), (48, 30 + number, 4)).astype(dtype)
        pixels[5:9, 5:20] = 0
        write(pair.image, pixels, nodata=0)
        seen.append(pixels[(pixels != 0).any(-1)])
    expected = np.concatenate(seen).astype(np.float64)
    steps = []
    found = band_statistics(SegmentationDataset(spec, listed.copy), lambda: steps.append(1))
    assert (found.images, found.pixels, len(steps)) == (3, len(expected), 3)
    np.testing.assert_allclose(found.mean, expected.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.std, expected.std(0), rtol=1e-9)
    np.testing.assert_allclose(found.low, np.percentile(expected, 2, axis=0), atol=1)
    np.testing.assert_allclose(found.high, np.percentile(expected, 98, axis=0), atol=1)


def test_statistics_of_large_values_lose_no_digits(tmp_path: Path) -> None:
    pixels = (1e6 + np.random.default_rng(0).normal(0, 1, (40, 40, 1))).astype(np.float32)
    listed = pairs(tmp_path, 1, "float32")[:1]
    write(listed[0].image, pixels)
    found = band_statistics(SegmentationDataset(spec_of(1, "float32"), listed.copy))
    np.testing.assert_allclose(found.std[0], pixels.astype(np.float64).std(), rtol=1e-9)


def test_images_without_any_data(tmp_path: Path) -> None:
    listed = pairs(tmp_path, 4, "uint16")
    for pair in listed:
        write(pair.image, np.zeros((48, 48, 4), np.uint16), nodata=0)
    with pytest.raises(DataError, match="no pixel with data in 3 images"):
        band_statistics(SegmentationDataset(spec_of(4, "uint16"), listed.copy))


def test_the_tool_prints_lines_of_a_spec(tmp_path: Path) -> None:
    settings(tmp_path, "fork")
    command = [sys.executable, "tools/band_statistics.py", "-c", str(tmp_path / "own.py"), f"folder={tmp_path}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    facts = eval(f"dict({run.stdout})")
    spec = DatasetSpec(name="x", classes=("a", "b"), colours=((0, 0, 0), (1, 1, 1)), ignore_index=255, **facts)
    assert spec.bands == ("red", "green", "blue")
    assert spec.mean == pytest.approx((127.5,) * 3, abs=3)  # of noise
    assert spec.std == pytest.approx((73.9,) * 3, abs=2)
    assert spec.value_range == pytest.approx((5, 250), abs=3)
