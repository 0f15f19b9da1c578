from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from d2ls.data.augment import Augmentation, normalise_batch
from d2ls.data.bands import fill_missing, match_stacks, read_bands, read_pixels, read_size, stack_files
from d2ls.data.check import check_headers
from d2ls.data.dataset import SampleRequest, SegmentationDataset
from d2ls.data.io import write_png
from d2ls.data.loaders import training_loader
from d2ls.data.pairs import Pair
from d2ls.data.spec import DTYPES, DatasetSpec
from d2ls.errors import DataError
from tests.data.folders import SPEC, labels


def spec_of(bands: int, dtype: str, **changes: Any) -> DatasetSpec:
    mean, std = tuple(10.0 * band + 5 for band in range(bands)), tuple(2.0 + band for band in range(bands))
    facts: dict[str, Any] = {"bands": tuple(f"b{n}" for n in range(bands)), "file_bands": (), "dtype": dtype}
    return replace(SPEC, **(facts | {"mean": mean, "std": std, "value_range": (0.0, 200.0)} | changes))


def values(shape: Sequence[int], dtype: str, seed: int = 0) -> NDArray[Any]:
    """Values (H, W, bands) from 1 on: 0 is nodata in these tests."""
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


def write(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """A GeoTIFF of pixels (H, W, bands)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, count = pixels.shape
    facts = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": pixels.dtype}
    facts["transform"] = Affine.translation(500, 700)
    with rasterio.open(path, "w", **facts, **options) as file:
        file.write(pixels.transpose(2, 0, 1))
    return path


@settings(max_examples=25, deadline=None)
@given(bands=st.sampled_from([1, 2, 4, 13, 64]), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99), data=st.data())
def test_windows_and_chosen_bands(
    bands: int, dtype: str, seed: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pixels = values((20, 30, bands), dtype, seed)
    path = tmp_path_factory.mktemp("tiff") / "x.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig" if bands > 1 else None)
    chosen = data.draw(st.lists(st.integers(1, bands), min_size=1, max_size=6, unique=True))
    top, left = data.draw(st.integers(0, 19)), data.draw(st.integers(0, 29))
    height, width = data.draw(st.integers(1, 20 - top)), data.draw(st.integers(1, 30 - left))
    found, valid = read_bands(path, (top, left, height, width), chosen)
    assert found.dtype == dtype
    assert np.array_equal(found, pixels[top : top + height, left : left + width][..., [band - 1 for band in chosen]])
    assert valid.all()
    assert np.array_equal(read_bands(path)[0], pixels)


@pytest.mark.parametrize("kind", ["tag", "mask", "alpha", "spec", "nan"])
def test_pixels_without_data(kind: str, tmp_path: Path) -> None:
    dtype = "float32" if kind == "nan" else "uint16"
    pixels, hole = values((16, 16, 4), dtype), np.zeros((16, 16), bool)
    hole[3:7, 2:9] = True
    spec = spec_of(4, dtype, nodata=777.0 if kind == "spec" else None)
    path = tmp_path / "x.tif"
    if kind in ("tag", "spec"):
        pixels[hole] = 777
        pixels[0, 0, 1] = 777  # in one band alone: a value like any other
        write(path, pixels, nodata=777 if kind == "tag" else None)
    elif kind == "nan":
        pixels[hole, 2] = np.nan  # one band is enough
        write(path, pixels)
    elif kind == "alpha":
        alpha = np.where(hole, 0, 65535).astype(dtype)[..., None]
        write(path, np.concatenate([pixels, alpha], -1), photometric="MINISBLACK")
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * 3, ColorInterp.alpha]
    else:
        write(path, pixels)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.write_mask(~hole)
    read = read_pixels(path, spec)
    assert np.array_equal(np.isnan(read).all(-1), hole)
    assert np.array_equal(read[~hole], pixels[~hole])
    image, mask = fill_missing(read, np.ones((16, 16), np.uint8), spec)
    assert image.dtype == dtype
    assert (image[hole] == spec.mean).all()
    assert np.array_equal(mask == spec.ignore_index, hole)


def test_a_band_that_is_read_is_no_mask(tmp_path: Path) -> None:
    """Many files call the fourth of four bands alpha; where it is read as infrared, its zeros are values."""
    pixels = values((16, 16, 4), "uint8")
    pixels[:5, :, 3] = 0
    path = write(tmp_path / "x.tif", pixels, photometric="RGB", alpha="YES")
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    assert np.array_equal(read_pixels(path, spec_of(4, "uint8")), pixels)
    three = spec_of(3, "uint8")
    assert np.array_equal(np.isnan(read_pixels(path, three)).all(-1), pixels[..., 3] == 0)


def test_a_stack_of_files_is_one_image(tmp_path: Path) -> None:
    pixels = values((12, 15, 4), "uint16")
    for band, name in enumerate("RGBN"):
        write(tmp_path / name / "x.tif", pixels[..., band : band + 1])
    path = tmp_path / "{R,G,B,N}" / "x.tif"
    spec = spec_of(4, "uint16")
    assert read_size(path, spec) == (12, 15)
    assert np.array_equal(read_pixels(path, spec, (2, 3, 4, 5)), pixels[2:6, 3:8])
    swapped = replace(spec, file_bands=(4, 1, 3, 2))
    assert np.array_equal(read_pixels(path, swapped), pixels[..., [3, 0, 2, 1]])
    (tmp_path / "masks").mkdir()
    write_png(tmp_path / "masks" / "x.png", labels(12, 15, 0))
    (pair,) = match_stacks(path.parent, tmp_path / "masks", "")
    assert (pair.image, pair.mask, pair.name) == (path, tmp_path / "masks" / "x.png", "x")
    write(tmp_path / "B" / "x.tif", pixels[:11, :, :1])
    with pytest.raises(DataError, match=r"B/x.tif: 15 x 12 and 15 x 11"):
        read_size(path, spec)
    (tmp_path / "G" / "x.tif").unlink()
    with pytest.raises(DataError, match=r"G/x.tif: no such file"):
        read_size(path, spec)


def test_groups_of_braces_change_together() -> None:
    found = stack_files(Path("train_{red,nir}/{red,nir}_7.TIF"))
    assert [str(path) for path in found] == ["train_red/red_7.TIF", "train_nir/nir_7.TIF"]
    assert stack_files(Path("a{b}/c.tif")) == [Path("a{b}/c.tif")]
    with pytest.raises(DataError, match="2 and 3"):
        stack_files(Path("{a,b}/{a,b,c}.tif"))


@pytest.mark.parametrize("damage", ["type", "bands", "truncated", "empty", "png", "palette"])
def test_other_files_than_described_are_one_message(damage: str, tmp_path: Path) -> None:
    spec, path = spec_of(4, "uint16"), tmp_path / "x.tif"
    pixels = values((64, 64, 4), "uint16")
    words = {
        "type": "uint8 values.*uint16", "bands": "3 band", "truncated": "", "empty": "", "png": "expected a TIFF",
        "palette": "palette",
    }  # fmt: skip
    if damage == "palette":
        write(path, values((64, 64, 1), "uint8"), photometric="PALETTE")
        with rasterio.open(path, "r+") as file:
            file.write_colormap(1, {1: (1, 2, 3, 255)})
    elif damage == "png":
        path = tmp_path / "x.png"
        write_png(path, pixels[..., 0].astype(np.uint8))
    else:
        write(path, {"type": pixels.astype("uint8"), "bands": pixels[..., :3]}.get(damage, pixels))
    if damage in ("truncated", "empty"):
        path.write_bytes(path.read_bytes()[: 12000 if damage == "truncated" else 0])
    with pytest.raises(DataError, match=rf"{path.name}.*{words[damage]}"):
        read_pixels(path, spec)


def pairs(folder: Path, bands: int, dtype: str) -> list[Pair]:
    """Images whose first band is 40 times the label, the others 5 and more higher; no data in a corner."""
    made = []
    for number in range(3):
        mask = labels(48, 48, number)
        pixels = np.stack([mask.astype(dtype) * 40 + 1 + 5 * band for band in range(bands)], -1)
        pixels[:8, :8] = 0
        image = write(folder / f"{number}.tif", pixels, nodata=0)
        write_png(folder / f"{number}.png", mask)
        made.append(Pair(image, folder / f"{number}.png", str(number)))
    return made


@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (4, "uint16"), (5, "int16"), (13, "float32")])
def test_samples_of_any_bands_and_type(bands: int, dtype: str, tmp_path: Path) -> None:
    listed, spec = pairs(tmp_path, bands, dtype), spec_of(bands, dtype)
    augmentation = Augmentation(crop=40, scales=(0.75, 1, 1.5), mosaic=0.5, rot90=0.5, flip=0.5)
    dataset = SegmentationDataset(spec, listed.copy, augmentation=augmentation)
    raw = SegmentationDataset(spec, listed.copy, augmentation=augmentation, normalise=False)
    right = known = 0
    for seed in range(12):
        sample, unchanged = dataset[SampleRequest(seed % 3, seed)], raw[SampleRequest(seed % 3, seed)]
        assert sample["image"].shape == (bands, 40, 40)
        assert sample["image"].isfinite().all()
        again = normalise_batch(unchanged["image"][None], spec)[0]
        torch.testing.assert_close(again, sample["image"], atol=1e-3, rtol=1e-4)
        original = sample["image"] * torch.tensor(spec.std)[:, None, None] + torch.tensor(spec.mean)[:, None, None]
        keep = sample["mask"] != spec.ignore_index
        for band in range(bands):
            shown = ((original[band] - 1 - 5 * band) / 40).round()
            right, known = right + int((shown == sample["mask"])[keep].sum()), known + int(keep.sum())
    assert right > 0.93 * known > 0  # all but edges of regions in resized samples
    assert (dataset[SampleRequest(0, 0)]["mask"] == spec.ignore_index).any()


def test_whole_images_are_as_in_the_file(tmp_path: Path) -> None:
    listed, spec = pairs(tmp_path, 4, "uint16"), spec_of(4, "uint16")
    sample = SegmentationDataset(spec, listed.copy)[1]
    pixels, mask = tifffile.imread(listed[1].image).astype(np.float64), labels(48, 48, 1)
    pixels[:8, :8], mask[:8, :8] = spec.mean, spec.ignore_index
    expected = ((pixels - np.array(spec.mean)) / np.array(spec.std)).transpose(2, 0, 1)
    np.testing.assert_allclose(sample["image"], expected, atol=1e-5)
    assert np.array_equal(sample["mask"], mask)


def test_batches_of_uint16_come_from_workers(tmp_path: Path) -> None:
    spec = spec_of(4, "uint16")
    dataset = SegmentationDataset(
        spec, pairs(tmp_path, 4, "uint16").copy, augmentation=Augmentation(crop=32), normalise=False
    )
    batch = next(iter(training_loader(dataset, 2, num_workers=1)))
    assert batch["image"].dtype == torch.uint16
    assert normalise_batch(batch["image"], spec).shape == (2, 4, 32, 32)


def test_headers_of_any_bands_are_checked(tmp_path: Path) -> None:
    dataset = SegmentationDataset(spec_of(4, "uint16"), pairs(tmp_path, 4, "uint16").copy)
    assert check_headers(dataset) == []
    write(dataset.pairs[1].image, values((48, 48, 3), "uint16"))
    (problem,) = check_headers(dataset)
    assert "1.tif: 3 band(s)" in problem


def test_bands_as_pages_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, values((4, 20, 30), "uint16"), photometric="minisblack")
    with pytest.raises(DataError, match=r"x\.tif: 4 pages .* bands of one image"):
        read_bands(path)
