import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from d2ls.data import io as files
from d2ls.data import tiff
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


def test_large_tiffs_are_read_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = picture(100, 40, 0)
    cv2.imwrite(str(tmp_path / "x.tif"), rgb[..., ::-1])
    tiled(tmp_path / "y.tif", rgb, side=16)
    monkeypatch.setattr(files, "_BAND", 900)
    for name in ("x.tif", "y.tif"):
        assert np.array_equal(files.read_image(tmp_path / name), rgb)
        assert np.array_equal(files.read_window(tmp_path / name, 5, 3, 90, 30), rgb[5:95, 3:33])


@pytest.mark.parametrize("window", [(-1, 0, 5, 5), (0, 0, 65, 5), (60, 60, 5, 5), (0, 0, 0, 5)])
def test_windows_outside_the_image(window: tuple[int, int, int, int], tmp_path: Path) -> None:
    files.write_png(tmp_path / "x.png", picture(64, 64, 0))
    with pytest.raises(DataError, match="not inside 64 x 64"):
        files.read_window(tmp_path / "x.png", *window)


def test_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(20, 40, 0)).save(tmp_path / "x.jpg", exif=exif)
    assert files.read_image(tmp_path / "x.jpg").shape == (20, 40, 3)


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
    "text": (lambda folder, _: (folder / "x.png").write_text("not an image" * 9), "neither PNG, JPEG nor TIFF"),
    "gif": (lambda folder, rgb: Image.fromarray(rgb).save(folder / "x.png", format="GIF"), "neither PNG"),
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
    "16 bit": (lambda folder, rgb: cv2.imwrite(str(folder / "x.png"), rgb[..., 0].astype(np.uint16)), "16-bit grey"),
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
    entries = tiff.rgb_entries()
    blocks = [bytes(3 * 8 * 4), bytes(3 * 8 * 4 - 1), bytes(3 * 8 * 4)]
    (tmp_path / "x.tif").write_bytes(tiff.build("<", entries, (12, 8), [96, 95, 96], blocks, 4))
    with pytest.raises(DataError, match="a strip of the TIFF has 95 bytes, expected 96 or more"):
        files.read_image(tmp_path / "x.tif")
    assert not files.read_window(tmp_path / "x.tif", 8, 0, 4, 8).any()
