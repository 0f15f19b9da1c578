from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.data import io as files
from d2ls.data import lzw
from d2ls.data.headers import read_header
from d2ls.errors import DataError
from tests.data.folders import picture


def write(path: Path, pixels: np.ndarray, rows: int, predictor: int, compression: int = 5) -> Path:
    """A TIFF by OpenCV, in strips of so many rows."""
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_ROWSPERSTRIP, rows]
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.shape[2] == 3 else cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)
    assert cv2.imwrite(str(path), bgr, [*options, cv2.IMWRITE_TIFF_PREDICTOR, predictor])
    return path


def suits(path: Path, window: tuple[int, int, int, int]) -> bool:
    with path.open("rb") as file:
        page = read_header(file).page
    return page is not None and lzw.suits(page, window)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiffs")


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    rows=st.integers(1, 6),
    predictor=st.sampled_from([1, 2]),
    opaque=st.booleans(),
    smooth=st.booleans(),
    data=st.data(),
)
def test_any_window_is_that_of_the_whole(
    size: tuple[int, int], rows: int, predictor: int, opaque: bool, smooth: bool, data: st.DataObject, folder: Path
) -> None:
    height, width = size
    pixels = picture(height, width, height * width) // np.uint8(100 if smooth else 1)
    stored = np.dstack([pixels, np.full(size, 255, np.uint8)]) if opaque else pixels
    path = write(folder / "t.tif", stored, rows, predictor)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    found = files.read_window(path, *window)
    assert np.array_equal(found, pixels[top : top + window[2], left : left + window[3]])
    assert found.flags.c_contiguous
    assert found.flags.writeable
    rows = min(rows, height)
    last = -(-(top + window[2]) // rows) * rows
    assert suits(path, window) == (rows <= 4 and last <= height and left + window[3] <= 0.85 * width)


def test_what_the_ancestors_tools_write_suits(folder: Path) -> None:
    path = folder / "patch.tif"
    assert cv2.imwrite(str(path), picture(1024, 1024, 0))
    assert suits(path, (100, 100, 512, 512))


@pytest.mark.parametrize("compression", [1, 8])
def test_other_compressions_do_not_suit(compression: int, folder: Path) -> None:
    path = write(folder / "other.tif", picture(32, 32, 0), 2, 1, compression)
    assert not suits(path, (0, 0, 8, 8))
    assert np.array_equal(files.read_window(path, 3, 5, 8, 8), picture(32, 32, 0)[3:11, 5:13])


def test_transparency_and_damage_are_errors(folder: Path) -> None:
    pixels = np.dstack([picture(32, 32, 0), np.full((32, 32), 255, np.uint8)])
    pixels[10, 10, 3] = 0
    path = write(folder / "clear.tif", pixels, 2, 2)
    with pytest.raises(DataError, match=r"clear.tif: a fourth channel"):
        files.read_window(path, 8, 8, 8, 8)
    path = write(folder / "damaged.tif", picture(32, 32, 0), 2, 2)
    with path.open("rb") as file:
        at = int(read_header(file).page.locations()[8, 0])
    content = bytearray(path.read_bytes())
    content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged.tif: cannot be decoded"):
        files.read_window(path, 16, 0, 4, 16)
    assert np.array_equal(files.read_window(path, 20, 0, 4, 16), picture(32, 32, 0)[20:24, :16])
