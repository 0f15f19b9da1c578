from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from d2ls.data import io as files
from d2ls.data.sets import uavid, vaihingen
from d2ls.data.sets.layout import OriginalTile, Tiling
from d2ls.errors import ConfigError, DataError
from d2ls.preparation.tiling import cut, grid, oversample_class, split
from tests.preparation import oracle

sides = st.integers(1, 40)


@settings(max_examples=80, deadline=None)
@given(height=sides, width=sides, size=st.integers(1, 17), stride=st.integers(1, 19), seed=st.integers(0, 99))
def test_windows_and_cuts_are_those_of_a_padded_copy(height, width, size, stride, seed):
    mask = np.random.default_rng(seed).integers(6, size=(height, width), dtype=np.uint8)
    image = np.repeat(mask[..., None] + 10, 3, axis=2).astype(np.uint8)
    expected = oracle.patches(image, mask, size, stride, 1)
    canvas = (-(-height // size) * size, -(-width // size) * size)
    found = {
        (0, cell.number): (cut(image, canvas, cell, (size, size), 0), cut(mask, canvas, cell, (size, size), 6))
        for cell in grid(canvas, (size, size), (stride, stride))
    }
    assert found.keys() == expected.keys()
    for key, (pixels, labels) in expected.items():
        np.testing.assert_array_equal(found[key][0], pixels)
        np.testing.assert_array_equal(found[key][1], labels)


def test_numbers_count_positions_whose_patch_is_not_full():
    found = [cell.number for cell in grid((4, 6), (2, 2), (1, 1))]
    assert found == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16]


def write_tile(folder: Path, shape=(70, 90), seed=0, **options):
    image, mask = oracle.draw(np.random.default_rng(seed), shape, **options)
    oracle.save(folder / "image.png", image)
    oracle.save(folder / "mask.png", mask)
    return OriginalTile("tile", folder / "image.png", folder / "mask.png"), image, mask


def tiling(folder: Path, **options):
    for name in ("images", "masks", "masks/origin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    settings = {"spec": vaihingen.SPEC, "size": (32, 32), "stride": (16, 16)} | options
    return Tiling(images=folder / "images", masks=folder / "masks", **settings)


@pytest.mark.parametrize("shape", [(70, 90), (32, 32), (31, 65), (1, 1), (64, 33)])
@pytest.mark.parametrize("variants", [1, 3])
def test_split_writes_the_patches_of_the_plain_way(tmp_path, shape, variants):
    original, image, mask = write_tile(tmp_path, shape)
    report = split(original, tiling(tmp_path, variants=variants))
    expected = oracle.patches(image, oracle.to_index(mask), 32, 16, variants)
    assert set(report.written) == {f"tile_{variant}_{k}" for variant, k in expected}
    images, masks = oracle.read_folder(tmp_path / "images"), oracle.read_folder(tmp_path / "masks")
    assert {Path(name).stem for name in images} == {Path(name).stem for name in masks} == set(report.written)
    for (variant, k), (pixels, labels) in expected.items():
        np.testing.assert_array_equal(images[f"tile_{variant}_{k}.tif"], pixels)
        np.testing.assert_array_equal(masks[f"tile_{variant}_{k}.png"], labels)
    counted = np.bincount(np.concatenate([labels.ravel() for _, labels in expected.values()]), minlength=256)
    np.testing.assert_array_equal(report.pixels, counted)


def test_padding_is_ignored_and_black_at_top_and_left(tmp_path):
    original, _image, mask = write_tile(tmp_path, (20, 25))
    split(original, tiling(tmp_path))
    labels = oracle.read(tmp_path / "masks/tile_0_0.png")
    assert (labels[:12] == 6).all()
    assert (labels[:, :7] == 6).all()
    np.testing.assert_array_equal(labels[12:, 7:], oracle.to_index(mask))
    assert not oracle.read(tmp_path / "images/tile_0_0.tif")[:12].any()


def test_a_window_of_an_image_patch_is_read_without_the_rest(tmp_path):
    original, _, _ = write_tile(tmp_path)
    split(original, tiling(tmp_path))
    path = tmp_path / "images/tile_0_0.tif"
    whole = files.read_image(path)
    np.testing.assert_array_equal(files.read_window(path, 3, 5, 7, 11), whole[3:10, 5:16])
    assert Image.open(path).info["compression"] == "raw"


def test_colour_masks_and_whole_originals(tmp_path):
    original, _image, mask = write_tile(tmp_path)
    split(original, tiling(tmp_path, colours=True))
    np.testing.assert_array_equal(oracle.read(tmp_path / "masks/origin/tile.tif"), mask)
    up, left = -mask.shape[0] % 32, -mask.shape[1] % 32
    padded = np.pad(mask, ((up, 0), (left, 0), (0, 0)))  # ignore is black
    np.testing.assert_array_equal(oracle.read(tmp_path / "masks/tile_0_0.png"), padded[:32, :32])
    np.testing.assert_array_equal(oracle.read(tmp_path / "masks/tile_0_8.png"), padded[16:48, 32:64])
    assert len(list((tmp_path / "images").iterdir())) == len(list((tmp_path / "masks").glob("*.png")))


def test_legend_of_the_reference(tmp_path):
    original, _, mask = write_tile(tmp_path, cars=0.5)
    split(original, tiling(tmp_path, colours=True, legend="reference"))
    whole = oracle.read(tmp_path / "masks/origin/tile.tif")
    cars = (mask == (255, 255, 0)).all(axis=2)
    assert cars.any()
    assert (whole[cars] == (255, 204, 0)).all()
    np.testing.assert_array_equal(whole[~cars], mask[~cars])


@pytest.mark.parametrize("scale", [0.5, 0.37, 1.5])
def test_scale_resizes_both_before_tiling(tmp_path, scale):
    original, image, mask = write_tile(tmp_path, (70, 90))
    split(original, tiling(tmp_path, scale=scale))
    height, width = int(70 * scale), int(90 * scale)
    index = oracle.to_index(mask)
    rows, columns = (((np.arange(n) + 0.5) * whole / n).astype(int) for n, whole in ((height, 70), (width, 90)))
    small = index[rows][:, columns]
    resized = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    expected = oracle.patches(resized, small, 32, 16, 1)
    masks = oracle.read_folder(tmp_path / "masks")
    assert set(masks) == {f"tile_0_{k}.png" for _, k in expected}
    for (_, k), (pixels, labels) in expected.items():
        np.testing.assert_array_equal(masks[f"tile_0_{k}.png"], labels)
        np.testing.assert_array_equal(oracle.read(tmp_path / f"images/tile_0_{k}.tif"), pixels)


def test_crops_around_cars_replace_their_patch(tmp_path):
    original, _image, _mask = write_tile(tmp_path, (128, 128), cars=0.3)
    settings = {"size": (64, 64), "stride": (64, 64), "oversample_class": 4}
    report = split(original, tiling(tmp_path, **settings))
    crowded = {name.rsplit("_", 1)[0] for name in report.written if name.count("_") == 3}
    assert crowded, "the drawn tile has cars enough"
    for k in range(4):
        name = f"tile_0_{k}"
        parts = {name} if name not in crowded else {f"{name}_{part}" for part in range(4)}
        assert parts <= set(report.written)
        assert (name in report.written) != (name in crowded)
    name = sorted(crowded)[0]
    labels = [oracle.read(tmp_path / f"masks/{name}_{part}.png") for part in range(4)]
    pixels = [oracle.read(tmp_path / f"images/{name}_{part}.tif") for part in range(4)]
    for crop in (labels, pixels):
        np.testing.assert_array_equal(crop[1], crop[0][::-1])
        np.testing.assert_array_equal(crop[2], crop[0][:, ::-1])
    turned = [
        turns
        for turns in (1, 2, 3)
        if all(np.array_equal(crop[3], np.rot90(crop[0], turns)) for crop in (labels, pixels))
    ]
    assert turned
    assert (labels[0] == 4).mean() > 0.1


def test_a_crop_is_a_part_of_the_patch_enlarged_two_to_two_and_two_thirds_times():
    ramp = np.arange(96, dtype=np.uint8) * 2
    image = np.stack([np.broadcast_to(ramp[:, None], (96, 96)), np.broadcast_to(ramp, (96, 96)), np.zeros((96, 96))], 2)
    mask = np.full((96, 96), 4, np.uint8)
    spans = []
    for number in range(40):
        (pixels, labels), *_ = oversample_class(image.astype(np.uint8), mask, 4, f"patch_{number}")
        assert pixels.shape == (96, 96, 3)
        assert labels.shape == (96, 96)
        spans.append([int(np.ptp(pixels[..., channel])) // 2 + 1 for channel in (0, 1)])
        assert spans[-1][0] == spans[-1][1], "square"
    assert min(min(spans)) >= 36
    assert max(max(spans)) <= 48
    assert len({span[0] for span in spans}) > 5


def test_the_labels_of_a_crop_lie_where_its_pixels_do():
    rng = np.random.default_rng(1)
    mask = cv2.resize(rng.integers(2, size=(8, 8), dtype=np.uint8), (96, 96), interpolation=cv2.INTER_NEAREST) * 4
    image = np.repeat(mask[..., None] * 50, 3, axis=2)
    (pixels, labels), *_ = oversample_class(image, mask, 4, "patch")
    agree = (pixels[..., 0] > 100) == (labels == 4)
    assert agree.mean() > 0.99


def test_crops_depend_on_the_name_alone():
    image, mask = (
        np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8),
        np.full((64, 64), 4, np.uint8),
    )
    first, again, other = (oversample_class(image, mask, 4, name)[0][0] for name in ("a_0_1", "a_0_1", "a_0_2"))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("share", "crops"), [(0.05, 0), (0.2, 4)])
def test_a_tenth_of_cars_makes_a_crowd(share, crops):
    mask = np.where(np.arange(100) % 20 < round(20 * share), 4, 0).astype(np.uint8)
    mask = np.broadcast_to(mask, (100, 100)).copy()
    assert len(oversample_class(np.zeros((100, 100, 3), np.uint8), mask, 4, "patch")) == crops


@pytest.mark.parametrize("shape", [(135, 240), (135, 256), (100, 250), (128, 256)])
def test_frames_are_padded_at_the_left_and_their_bottom_is_kept(tmp_path, shape):
    original, image, mask = write_tile(tmp_path, shape, colours=oracle.UAVID)
    canvas = (128, 256)
    split(original, tiling(tmp_path, spec=uavid.SPEC, size=(64, 64), stride=(64, 64), canvas=canvas, suffix=".png"))
    index = oracle.to_index(mask, oracle.UAVID)[-128:]
    up, left = 128 - index.shape[0], 256 - index.shape[1]
    labels = np.pad(index, ((up, 0), (left, 0)), constant_values=255)
    pixels = np.pad(image[-128:], ((up, 0), (left, 0), (0, 0)))
    assert len(list((tmp_path / "masks").glob("*.png"))) == 8
    for k in range(8):
        y, x = 64 * (k // 4), 64 * (k % 4)
        np.testing.assert_array_equal(oracle.read(tmp_path / f"masks/tile_0_{k}.png"), labels[y : y + 64, x : x + 64])
        np.testing.assert_array_equal(oracle.read(tmp_path / f"images/tile_0_{k}.png"), pixels[y : y + 64, x : x + 64])


def test_a_frame_that_is_too_wide_is_refused(tmp_path):
    original, *_ = write_tile(tmp_path, (64, 300), colours=oracle.UAVID)
    with pytest.raises(DataError, match=r"image.png: 300 pixels wide, expected at most 256"):
        split(original, tiling(tmp_path, spec=uavid.SPEC, canvas=(128, 256)))


def test_unknown_colours(tmp_path):
    original, _image, mask = write_tile(tmp_path)
    mask[3:5, 7] = (1, 2, 3)
    oracle.save(original.mask, mask)
    with pytest.raises(DataError, match=r"mask.png.*\(1, 2, 3\) \(2 pixels\)"):
        split(original, tiling(tmp_path))
    assert not list((tmp_path / "images").iterdir())
    split(original, tiling(tmp_path, unknown="ignore", size=(96, 96)))
    labels = oracle.read(tmp_path / "masks/tile_0_0.png")[-70:, -90:]
    assert (labels[3:5, 7] == 6).all()
    assert (labels == 6).sum() == (oracle.to_index(np.where(mask == (1, 2, 3), 0, mask)) == 6).sum()


def test_sizes_that_differ_are_refused(tmp_path):
    original, _image, mask = write_tile(tmp_path)
    oracle.save(original.mask, mask[:-1])
    with pytest.raises(DataError, match=r"mask.png: 90 x 69 pixels, but its image image.png has 90 x 70"):
        split(original, tiling(tmp_path))


@pytest.mark.parametrize("options", [{"size": (0, 4)}, {"stride": (4, 0)}, {"scale": 0.0}, {"scale": float("nan")}])
def test_settings_that_cannot_be_meant(tmp_path, options):
    with pytest.raises(ConfigError, match="expected"):
        tiling(tmp_path, **options)


def as_palette(pixels):
    return Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("form", ["palette", "opaque alpha"])
def test_originals_of_other_forms_mean_their_colours(tmp_path, suffix, form):
    original, _, mask = write_tile(tmp_path)
    image = (mask // 2).astype(np.uint8)
    paths = [tmp_path / f"{name}_other{suffix}" for name in ("image", "mask")]
    for path, pixels in zip(paths, (image, mask), strict=True):
        other = as_palette(pixels) if form == "palette" else Image.fromarray(pixels).convert("RGBA")
        other.save(path)
    split(OriginalTile(original.stem, *paths), tiling(tmp_path, size=(96, 96), stride=(96, 96)))
    np.testing.assert_array_equal(oracle.read(tmp_path / "images/tile_0_0.tif")[-70:, -90:], image)
    np.testing.assert_array_equal(oracle.read(tmp_path / "masks/tile_0_0.png")[-70:, -90:], oracle.to_index(mask))


def test_originals_that_cannot_be_meant_are_refused_with_the_reason(tmp_path):
    original, image, _ = write_tile(tmp_path)
    clear = np.dstack([image, np.full(image.shape[:2], 100, np.uint8)])
    for pixels, reason in (
        (clear, "not opaque"),
        (image[..., 0].astype(np.uint16), "16 bits"),
        (image[..., 0], "grey"),
    ):
        oracle.save(original.image, pixels)
        with pytest.raises(DataError, match=rf"image.png: .*{reason}"):
            split(original, tiling(tmp_path))
    assert not list((tmp_path / "images").iterdir())
