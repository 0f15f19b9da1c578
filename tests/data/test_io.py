import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rasterio.windows import Window

from d2ls.data import io as files
from d2ls.errors import DataError
from tests.data.folders import labels, picture

Save = Callable[[Path, NDArray[np.uint8]], object]


def with_alpha(rgb: NDArray[np.uint8], alpha: int = 255) -> NDArray[np.uint8]:
    return np.dstack([rgb, np.full(rgb.shape[:2], alpha, np.uint8)])


def saved(name: str, **options: object) -> Save:
    return lambda folder, rgb: Image.fromarray(rgb).save(folder / name, **options)


def palette(name: str, **options: object) -> Save:
    return lambda folder, rgb: Image.fromarray(rgb).quantize(64).save(folder / name, **options)


def tiled(path: Path, rgb: NDArray[np.uint8], side: int = 32, compression: int = 8) -> None:
    """A TIFF of tiles, put together by hand from the standard's text."""
    height, width = rgb.shape[:2]
    down, across = -(-height // side), -(-width // side)
    padded = np.pad(rgb, ((0, down * side - height), (0, across * side - width), (0, 0)))
    tiles = [padded[r * side :, c * side :][:side, :side].tobytes() for r in range(down) for c in range(across)]
    blocks = [zlib.compress(tile) for tile in tiles] if compression == 8 else tiles
    starts = 8 + np.cumsum([0, *map(len, blocks)])
    end = int(starts[-1]) + int(starts[-1]) % 2
    lists = {258: ("H", [8, 8, 8]), 324: ("I", starts[:-1].tolist()), 325: ("I", [len(block) for block in blocks])}
    tags = {256: width, 257: height, 259: compression, 262: 2, 277: 3, 284: 1, 322: side, 323: side}
    extra, entries = b"", []
    first_extra = end + 2 + 12 * (len(lists) + len(tags)) + 4
    for tag in sorted({*lists, *tags}):
        letter, values = lists.get(tag, ("I", [tags.get(tag)]))
        packed = struct.pack(f"<{len(values)}{letter}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", first_extra + len(extra)), extra + packed + b"\0" * (len(packed) % 2)
        entries.append(struct.pack("<HHI", tag, 3 if letter == "H" else 4, len(values)) + packed.ljust(4, b"\0"))
    data = b"II*\0" + struct.pack("<I", end) + b"".join(blocks)
    path.write_bytes(data.ljust(end, b"\0") + struct.pack("<H", len(entries)) + b"".join(entries) + b"\0" * 4 + extra)


GOOD: dict[str, Save] = {
    "png": saved("x.png"),
    "png, alpha opaque": lambda folder, rgb: Image.fromarray(with_alpha(rgb)).save(folder / "x.png"),
    "png, palette": palette("x.png"),
    "png, palette of 4 bit": lambda folder, rgb: Image.fromarray(rgb).quantize(9).save(folder / "x.png", bits=4),
    "jpeg": saved("x.jpg"),
    "jpeg, progressive": saved("x.jpeg", progressive=True),
    "tiff, uncompressed": saved("x.tif"),
    "tiff, lzw": saved("x.tif", compression="tiff_lzw"),
    "tiff, lzw as OpenCV writes it": lambda folder, rgb: cv2.imwrite(str(folder / "x.tif"), rgb[..., ::-1]),
    "tiff, deflate": saved("x.tiff", compression="tiff_adobe_deflate"),
    "tiff, packbits": saved("x.tif", compression="packbits"),
    "tiff, jpeg": saved("x.tif", compression="jpeg"),
    "tiff, palette": palette("x.tif"),
    "tiff, palette, lzw": palette("x.tif", compression="tiff_lzw"),
    "tiff, alpha opaque": lambda folder, rgb: Image.fromarray(with_alpha(rgb)).save(folder / "x.tif"),
    "tiff, alpha opaque, lzw": lambda folder, rgb: Image.fromarray(with_alpha(rgb)).save(
        folder / "x.tif", compression="tiff_lzw"
    ),
    "tiff, tiles": lambda folder, rgb: tiled(folder / "x.tif", rgb),
    "tiff, tiles, uncompressed": lambda folder, rgb: tiled(folder / "x.tif", rgb, compression=1),
    "tiff of ours": lambda folder, rgb: files.write_tiff(folder / "x.tif", rgb),
    "tiff, big": saved("x.tif", big_tiff=True),
    "name with space and accent": saved("x \N{LATIN SMALL LETTER E WITH ACUTE}.png"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_reads_what_pillow_reads_whole_and_in_windows(kind: str, tmp_path: Path) -> None:
    rgb = cv2.resize(picture(20, 30, 0), (150, 100))
    GOOD[kind](tmp_path, rgb)
    (path,) = tmp_path.iterdir()
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    read = files.read_image(path)
    assert read.dtype == np.uint8
    assert read.flags.writeable
    assert read.flags.c_contiguous
    assert np.array_equal(read, expected)
    assert files.read_size(path) == (100, 150)
    for top, left, height, width in [
        (0, 0, 100, 150),
        (99, 149, 1, 1),
        (0, 40, 33, 60),
        (31, 0, 40, 150),
        (50, 70, 50, 80),
    ]:
        window = files.read_window(path, top, left, height, width)
        assert np.array_equal(window, read[top : top + height, left : left + width])


@settings(max_examples=30)
@given(data=st.data())
def test_windows_of_tiled_and_striped_tiffs(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    rgb, path = picture(height, width, 1), tmp_path_factory.mktemp("tiff") / "x.tif"
    if data.draw(st.booleans()):
        tiled(path, rgb, side=16)
    else:
        strip = data.draw(st.integers(1, 100))
        Image.fromarray(rgb).save(
            path, compression=data.draw(st.sampled_from([None, "tiff_lzw"])), tiffinfo={278: strip}
        )
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    h, w = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    assert np.array_equal(files.read_window(path, top, left, h, w), rgb[top : top + h, left : left + w])


def test_a_window_reads_only_its_strips(tmp_path: Path) -> None:
    rgb = picture(512, 512, 0)
    path = tmp_path / "x.tif"
    cv2.imwrite(str(path), rgb[..., ::-1])
    data = bytearray(path.read_bytes())
    data[8:100_000] = bytes(100_000 - 8)  # destroys the first strips
    path.write_bytes(data)
    assert np.array_equal(files.read_window(path, 300, 20, 100, 100), rgb[300:400, 20:120])
    with pytest.raises(DataError, match=r"x.tif: .*damaged"):
        files.read_image(path)


@pytest.mark.parametrize("window", [(-1, 0, 5, 5), (0, 0, 65, 5), (60, 60, 5, 5), (0, 0, 0, 5)])
def test_windows_outside_the_image(window: tuple[int, int, int, int], tmp_path: Path) -> None:
    files.write_png(tmp_path / "x.png", picture(64, 64, 0))
    with pytest.raises(DataError, match="not inside 64 x 64"):
        files.read_window(tmp_path / "x.png", *window)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "lzw.tif"])
def test_orientation_is_applied_to_the_whole_and_to_windows(orientation: int, kind: str, tmp_path: Path) -> None:
    rgb = cv2.resize(picture(5, 8, 0), (40, 24), interpolation=cv2.INTER_NEAREST)
    image, path = Image.fromarray(rgb), tmp_path / f"x.{kind}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind.endswith("tif"):
        image.save(path, tiffinfo={0x0112: orientation}, **({"compression": "tiff_lzw"} if "lzw" in kind else {}))
    else:
        image.save(path, exif=exif)
    if kind == "jpg":
        image = Image.fromarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION))
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape == ((40, 24, 3) if orientation > 4 else (24, 40, 3))
    assert np.array_equal(files.read_image(path), expected)
    assert files.read_size(path) == expected.shape[:2]
    assert np.array_equal(files.read_window(path, 3, 5, 13, 11), expected[3:16, 5:16])


def test_palette_masks_mean_their_colours_or_their_indices(tmp_path: Path) -> None:
    index = labels(40, 50, 0)
    mask = Image.fromarray(index)
    mask.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    mask.save(tmp_path / "x.png")
    mask.save(tmp_path / "x.tif")
    for name in ("x.png", "x.tif"):
        assert np.array_equal(files.read_index(tmp_path / name), index)
        assert np.array_equal(
            files.read_colours(tmp_path / name), np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)[index]
        )


def grey_png(path: Path, index: NDArray[np.uint8], bits: int) -> None:
    """A grey PNG of 1, 2 or 4 bits, put together by hand."""
    rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:].ravel()).tobytes() for row in index]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", index.shape[1], index.shape[0], bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    ]
    packed = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_index_masks_of_few_bits(bits: int, tmp_path: Path) -> None:
    index = labels(11, 13, 0, classes=2**bits)
    grey_png(tmp_path / "x.png", index, bits)
    assert np.array_equal(files.read_index(tmp_path / "x.png"), index)


def test_index_masks(tmp_path: Path) -> None:
    index = np.random.default_rng(0).integers(0, 256, (30, 41), dtype=np.uint8)
    files.write_png(tmp_path / "x.png", index)
    Image.fromarray(index).save(tmp_path / "x.tif", compression="tiff_lzw")
    for name in ("x.png", "x.tif"):
        assert np.array_equal(files.read_index(tmp_path / name), index)


RGB = picture(32, 48, 0)
BAD_IMAGES: dict[str, tuple[Save, str]] = {
    "empty": (lambda folder, _: (folder / "x.png").touch(), "is empty"),
    "text": (lambda folder, _: (folder / "x.png").write_text("not an image" * 9), "neither PNG, JPEG, TIFF"),
    "folder": (lambda folder, _: (folder / "x.png").mkdir(), "cannot be read: Is a directory"),
    "16-bit png": (
        lambda folder, rgb: cv2.imwrite(str(folder / "x.png"), rgb.astype(np.uint16) * 257), "16 bits a sample",
    ),
    "16-bit tiff": (
        lambda folder, rgb: cv2.imwrite(str(folder / "x.tif"), rgb.astype(np.uint16) * 257), "16 bits a sample",
    ),
    "float tiff": (lambda folder, rgb: cv2.imwrite(str(folder / "x.tif"), rgb.astype(np.float32)), "32 bits a sample"),
    "transparent png": (
        lambda folder, rgb: Image.fromarray(with_alpha(rgb, 254)).save(folder / "x.png"), "not opaque throughout",
    ),
    "infrared tiff": (
        lambda folder, rgb: Image.fromarray(with_alpha(rgb, 90)).save(folder / "x.tif"), "not opaque throughout",
    ),
    "transparent palette": (
        lambda folder, rgb: Image.fromarray(rgb).quantize(8).save(folder / "x.png", transparency=0), "not opaque",
    ),
    "cmyk jpeg": (lambda folder, rgb: Image.fromarray(rgb).convert("CMYK").save(folder / "x.jpg"), "cmyk pixels"),
    "cmyk tiff": (lambda folder, rgb: Image.fromarray(rgb).convert("CMYK").save(folder / "x.tif"), "cmyk pixels"),
    "grey png": (lambda folder, rgb: Image.fromarray(rgb[..., 0]).save(folder / "x.png"), "grey pixels where RGB"),
    "grey jpeg": (lambda folder, rgb: Image.fromarray(rgb[..., 0]).save(folder / "x.jpg"), "grey pixels where RGB"),
    "grey and alpha": (
        lambda folder, rgb: Image.fromarray(rgb[..., 0]).convert("LA").save(folder / "x.png"), r"grey\+alpha pixels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_images_that_are_refused(kind: str, tmp_path: Path) -> None:
    save, words = BAD_IMAGES[kind]
    save(tmp_path, RGB)
    (path,) = tmp_path.iterdir()
    with pytest.raises(DataError, match=f"{path.name}: .*{words}"):
        files.read_image(path)


BAD_MASKS: dict[str, tuple[Save, str]] = {
    "colours": (saved("x.png"), "rgb pixels where an index mask"),
    "jpeg": (lambda folder, rgb: Image.fromarray(rgb[..., 0]).save(folder / "x.jpg"), "no longer exact"),
    "16 bit": (
        lambda folder, rgb: cv2.imwrite(str(folder / "x.png"), rgb[..., 0].astype(np.uint16) + 256), r"uint16.* 2\d\d",
    ),
    "fractions": (
        lambda folder, rgb: tifffile.imwrite(folder / "x.tif", rgb[..., 0].astype(np.float32) / 2), r"float32.*0\.5",
    ),
    "not a number": (
        lambda folder, rgb: tifffile.imwrite(folder / "x.tif", np.full((4, 4), np.nan, np.float32)), "float32.*nan",
    ),
    "negative": (lambda folder, rgb: tifffile.imwrite(folder / "x.tif", np.full((4, 4), -1, np.int16)), "int16.*-1"),
    "webp": (lambda folder, rgb: Image.fromarray(rgb[..., 0]).save(folder / "x.webp"), "rgb pixels|WEBP"),
    "white is zero": (
        lambda folder, rgb: Image.fromarray(rgb[..., 0]).save(folder / "x.tif", tiffinfo={262: 0}), "white-is-zero",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_masks_that_are_refused(kind: str, tmp_path: Path) -> None:
    save, words = BAD_MASKS[kind]
    save(tmp_path, RGB)
    (path,) = tmp_path.iterdir()
    with pytest.raises(DataError, match=f"{path.name}: .*{words}"):
        files.read_index(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x.png: cannot be read: No such file"):
        files.read_image(tmp_path / "x.png")


def test_symlink_loop(tmp_path: Path) -> None:
    (tmp_path / "x.png").symlink_to(tmp_path / "y.png")
    (tmp_path / "y.png").symlink_to(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x.png: cannot be read: Too many levels"):
        files.read_image(tmp_path / "x.png")


@pytest.mark.parametrize("kind", [kind for kind in GOOD if "name" not in kind])
@settings(max_examples=15)
@given(data=st.data())
def test_a_cut_file_is_always_refused(kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    GOOD[kind](folder, RGB)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    needed = len(whole) - (8 if whole[:2] in (b"II", b"MM") else 1)  # a TIFF may end in bytes that say nothing
    path.write_bytes(whole[: data.draw(st.integers(0, needed))])
    with pytest.raises(DataError, match=path.name):
        files.read_image(path)


@settings(max_examples=60)
@given(data=st.data())
def test_a_changed_png_is_always_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("flip") / "x.png"
    files.write_png(path, labels(40, 40, 0))
    damaged = bytearray(path.read_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"x.png"):
        files.read_index(path)


@pytest.mark.parametrize("kind", [kind for kind in GOOD if "name" not in kind])
@settings(max_examples=15)
@given(data=st.data())
def test_any_damage_ends_in_an_image_or_an_error(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    GOOD[kind](folder, RGB)
    (path,) = folder.iterdir()
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        pixels = files.read_image(path)
    except DataError as error:
        assert path.name in str(error)
    else:
        assert pixels.dtype == np.uint8
        assert pixels.shape == (*files.read_size(path), 3)


@pytest.mark.parametrize("side", [30_000, 20_000])
def test_a_header_of_many_pixels_is_refused_before_decoding(side: int, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    files.write_png(path, RGB)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(DataError, match="expected at most" if side == 30_000 else "cannot hold 20000 x 20000"):
        files.read_image(path)


@pytest.mark.parametrize("size", [(1, 1), (100, 4000), (3, 1)])
def test_any_shape_is_written_and_read(size: tuple[int, int], tmp_path: Path) -> None:
    rgb, index = picture(*size, 0), labels(*size, 0)
    files.write_png(tmp_path / "x.png", rgb)
    files.write_tiff(tmp_path / "x.tif", rgb)
    files.write_png(tmp_path / "m.png", index)
    for name in ("x.png", "x.tif"):
        assert np.array_equal(files.read_image(tmp_path / name), rgb)
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(np.asarray(image), rgb)
    assert np.array_equal(files.read_index(tmp_path / "m.png"), index)


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    files.write_png(path, RGB)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DataError, match=r"x.png: cannot be written: No space left"):
        files.write_png(path, picture(5, 5, 1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.png"]
    assert np.array_equal(files.read_image(path), RGB)
    with pytest.raises(DataError, match="cannot be written: No such file"):
        files.write_png(tmp_path / "nowhere" / "x.png", RGB)


def test_a_cut_tiff_is_refused_even_where_the_window_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(picture(400, 400, 0)).save(path, tiffinfo={278: 10})  # the directory comes first
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="breaks off before its end"):
        files.read_window(path, 0, 0, 8, 8)


def test_a_strip_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, picture(12, 8, 0), rowsperstrip=4, photometric="rgb")
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags[279]
        where, number = tag.valueoffset, len(tag.value)
    assert number == 3
    data = bytearray(path.read_bytes())
    size = {3: 2, 4: 4, 16: 8}[int(tag.dtype)]
    data[where + size : where + 2 * size] = (95).to_bytes(size, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="a strip of the TIFF has 95 bytes, expected 96 or more"):
        files.read_image(path)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_masks_of_wide_types_are_exact(dtype: str, compression: str | None, tmp_path: Path) -> None:
    index = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    profile = {"driver": "GTiff", "width": 30, "height": 20, "count": 1, "dtype": dtype, "compress": compression}
    with rasterio.open(tmp_path / "m.tif", "w", **profile) as raster:
        raster.write(index.astype(dtype), 1)
    read = files.read_index(tmp_path / "m.tif")
    assert read.dtype == np.uint8
    assert np.array_equal(read, index)
    if dtype == "uint16":
        cv2.imwrite(str(tmp_path / "m.png"), index.astype(dtype))
        assert np.array_equal(files.read_index(tmp_path / "m.png"), index)


def test_palettes_stored_as_bytes(tmp_path: Path) -> None:
    index = labels(20, 30, 0)
    colours = np.zeros((3, 256), np.uint16)
    colours[:, :3] = [[10, 40, 70], [20, 50, 80], [30, 60, 90]]
    expected = colours.T[index].astype(np.uint8)
    for name, factor in (("bytes", 1), ("words", 257)):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, index, photometric="palette", colormap=(colours * factor).astype(np.uint16))
        assert np.array_equal(files.read_colours(path), expected), name
        assert np.array_equal(files.read_image(path), expected), name
        assert np.array_equal(files.read_window(path, 2, 3, 5, 7), expected[2:7, 3:10]), name
        assert np.array_equal(files.read_index(path), index)


def retagged(path: Path, number: int, value: int | None) -> None:
    """The first page with another value of a tag of one number, or (None) without that tag."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags[number]
        offset, where = tag.offset, tag.valueoffset
    if value is None:
        data[offset : offset + 2] = (65000 + number % 100).to_bytes(2, "little")  # a private tag, which says nothing
    else:
        data[where : where + 2] = value.to_bytes(2, "little")
    path.write_bytes(data)


def test_a_palette_with_a_further_sample_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.dstack([labels(20, 30, 0)] * 2), photometric="minisblack", planarconfig="contig")
    retagged(path, 262, 3)
    for read in (files.read_image, files.read_index, files.read_colours):
        with pytest.raises(DataError, match=r"x\.tif: .*palette"):
            read(path)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_infrared_is_refused_whatever_the_compression(compression: str | None, tmp_path: Path) -> None:
    four = np.dstack([picture(40, 50, 0), picture(40, 50, 1)[..., 0] // 2])
    path = tmp_path / "x.tif"
    profile = {"driver": "GTiff", "width": 50, "height": 40, "count": 4, "dtype": "uint8", "compress": compression}
    with rasterio.open(path, "w", **profile, photometric="RGB", alpha="NO") as raster:
        raster.write(np.moveaxis(four, -1, 0))
    with pytest.raises(DataError, match="not opaque throughout"):
        files.read_image(path)
    with pytest.raises(DataError, match="not opaque throughout"):
        files.read_window(path, 0, 0, 9, 9)


def test_uncompressed_ycbcr_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, picture(20, 30, 0), photometric="rgb")
    retagged(path, 262, 6)
    with pytest.raises(DataError, match=r"x\.tif: .*YCbCr"):
        files.read_image(path)


def test_a_mask_that_does_not_declare_what_0_means_keeps_its_values(tmp_path: Path) -> None:
    index, path = labels(20, 30, 0), tmp_path / "x.tif"
    tifffile.imwrite(path, index, photometric="minisblack")
    retagged(path, 262, None)
    assert np.array_equal(tifffile.imread(path), index)
    assert np.array_equal(files.read_index(path), index)
    tifffile.imwrite(path, picture(20, 30, 0), photometric="rgb")
    retagged(path, 262, None)
    with pytest.raises(DataError, match="undeclared"):
        files.read_image(path)


def test_bits_in_reverse_order(tmp_path: Path) -> None:
    index, path = labels(20, 30, 0, classes=250), tmp_path / "x.tif"
    reverse = np.packbits(np.unpackbits(index[..., None], axis=-1)[..., ::-1], axis=-1)[..., 0]
    Image.fromarray(reverse).save(path, tiffinfo={266: 2})
    assert np.array_equal(tifffile.imread(path), index)
    assert np.array_equal(files.read_index(path), index)


def test_animations_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(picture(20, 30, number)) for number in range(3)]
    for name in ("x.png", "x.gif", "x.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match=f"{name}: an animation of 3"):
            files.read_image(tmp_path / name)


def test_sparse_tiffs_hold_zeros_where_blocks_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    profile = {"driver": "GTiff", "width": 96, "height": 64, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    with rasterio.open(path, "w", **profile, tiled=True, blockxsize=32, blockysize=32, sparse_ok=True) as raster:
        raster.write(np.full((3, 32, 32), 9, np.uint8), window=Window(32, 0, 32, 32))
    expected = np.zeros((64, 96, 3), np.uint8)
    expected[:32, 32:64] = 9
    assert np.array_equal(tifffile.imread(path), expected)
    assert np.array_equal(files.read_image(path), expected)
    assert np.array_equal(files.read_window(path, 20, 20, 30, 30), expected[20:50, 20:50])


@pytest.mark.parametrize("kind", ["bmp", "gif", "webp", "jp2"])
def test_further_formats(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    Image.fromarray(picture(40, 60, 0)).save(path, **({"lossless": True} if kind == "webp" else {}))
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(files.read_image(path), expected)
    assert np.array_equal(files.read_window(path, 3, 4, 20, 30), expected[3:23, 4:34])
    assert files.read_size(path) == (40, 60)
    assert path.suffix in files.SUFFIXES


def test_planes_that_are_stored_one_after_the_other(tmp_path: Path) -> None:
    rgb, path = picture(70, 90, 0), tmp_path / "x.tif"
    tifffile.imwrite(path, np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate", compression="deflate")
    assert np.array_equal(files.read_image(path), rgb)
    assert np.array_equal(files.read_window(path, 5, 6, 30, 40), rgb[5:35, 6:46])


def test_sidecar_files_and_neighbours_say_nothing(tmp_path: Path) -> None:
    rgb, path = picture(40, 50, 0), tmp_path / "x.tif"
    files.write_tiff(path, rgb)
    (tmp_path / "x.tif.aux.xml").write_text("<PAMDataset><Metadata><MDI key='X'>1</MDI></Metadata></PAMDataset>")
    (tmp_path / "x.tif.ovr").write_bytes(b"nothing")
    (tmp_path / "x.tif.msk").write_bytes(b"nothing")
    assert np.array_equal(files.read_image(path), rgb)


def test_masks_with_the_palette_of_their_classes(tmp_path: Path) -> None:
    index, path = labels(30, 40, 0, classes=5), tmp_path / "m.png"
    index[0, 0] = 255
    palette = [(10, 20, 30), (40, 50, 60), (70, 80, 90), (1, 2, 3), (4, 5, 6)]
    files.write_png(path, index, palette)
    assert np.array_equal(files.read_index(path), index)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), index)
        assert np.array_equal(np.asarray(image.convert("RGB"))[1:], np.array(palette, np.uint8)[index[1:]])


def test_a_mask_in_a_compression_that_may_lose_is_refused(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "width": 32, "height": 32, "count": 1, "dtype": "uint8"}
    for name, options in (("zstd", {"compress": "zstd"}), ("lerc", {"compress": "lerc", "max_z_error": 3})):
        path = tmp_path / f"{name}.tif"
        try:
            with rasterio.open(path, "w", **profile, **options) as raster:
                raster.write(labels(32, 32, 0), 1)
        except rasterio.errors.RasterioError:
            pytest.skip(f"this GDAL writes no {name}")
        if name == "zstd":
            assert np.array_equal(files.read_index(path), labels(32, 32, 0))
        else:
            with pytest.raises(DataError, match="no longer exact"):
                files.read_index(path)


@pytest.mark.parametrize("compression", [None, "tiff_deflate", "jpeg"])
def test_a_tiff_of_several_pages_is_refused(compression: str | None, tmp_path: Path) -> None:
    path, rgb = tmp_path / "x.tif", picture(64, 64, 0)
    Image.fromarray(rgb).save(path, save_all=True, append_images=[Image.fromarray(rgb)] * 2, compression=compression)
    for read in (files.read_image, lambda path: files.read_window(path, 0, 0, 8, 8)):
        with pytest.raises(DataError, match=r"x\.tif: 3 pages where one image is expected"):
            read(path)
    Image.fromarray(labels(64, 64, 0)).save(path, save_all=True, append_images=[Image.fromarray(labels(64, 64, 1))])
    with pytest.raises(DataError, match="2 pages"):
        files.read_index(path)


def test_overviews_and_masks_of_a_tiff_are_no_pages(tmp_path: Path) -> None:
    path, rgb = tmp_path / "x.tif", picture(64, 64, 0)
    files.write_tiff(path, rgb)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(np.full((64, 64), 255, np.uint8))
        file.build_overviews([2, 4])
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) > 3
    np.testing.assert_array_equal(files.read_image(path), rgb)
