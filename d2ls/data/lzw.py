"""Windows of TIFFs that OpenCV and GDAL compress by LZW in short strips, decoded up to their right edge only.

A strip is one stream of bytes (TIFF 6.0, section 13), and decoding it can stop anywhere. To the decoder each strip is
shown as a row of grey values that ends where the window ends in the strip's last row.
"""

from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from d2ls.data import tiff
from d2ls.data.tiff import Entry, Page

Pixels = NDArray[np.uint8]
Window = tuple[int, int, int, int]  # top, left, height, width
_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _PREDICTOR = 258, 259, 262, 266, 277, 317
_LZW, _GREY = 5, 1
_FAR_RIGHT = 0.85  # of the page's width
_FEW_ROWS = 4  # of a strip: there the end of the last row counts


def suits(page: Page, window: Window) -> bool:
    """Whether `read_window` can read a window, and sooner than the decoder alone.

    It takes 8-bit RGB, and no strip that is shorter than the others. Near the right edge of the page little is saved,
    and undoing the differences here takes longer than in the decoder.
    """
    top, left, height, width = window
    rows = page.part[0]
    if left + width > _FAR_RIGHT * page.width:
        return False
    strips = not page.tiled and page.separable and rows <= _FEW_ROWS
    pixels = page.kind in ("rgb", "rgb+alpha") and page.get(_PHOTOMETRIC, 0) == 2
    pixels = pixels and set(page.entries[_BITS].values) == {8}
    stored = page.get(_COMPRESSION, 1) == _LZW and page.get(_PREDICTOR, 1) in (1, 2)
    return strips and pixels and stored and -(-(top + height) // rows) * rows <= page.height


def read_window(file: BinaryIO, page: Page, window: Window, decode: Callable[[bytes], Pixels]) -> Pixels:
    """A window of a page that suits.

    Args:
        file: the page's.
        page: its directory.
        window: inside the page.
        decode: gives the values (H, W) of a grey TIFF.

    Returns:
        (height, width, channels).

    Raises:
        TiffError: the file breaks off.
    """
    top, left, height, width = window
    rows, right = page.part[0], left + width
    strips = decode(_as_grey(file, page, window))
    if strips.shape[1:] != ((rows - 1) * page.width * page.samples + right * page.samples,):
        raise tiff.TiffError(f"the strips of the TIFF decode to shape {strips.shape}")
    pixels = np.empty((len(strips), rows, right, page.samples), np.uint8)
    for row in range(rows):
        start = row * page.width * page.samples
        stored = strips[:, start : start + right * page.samples].reshape(len(strips), right, page.samples)
        if page.get(_PREDICTOR, 1) == 2:  # differences to the left neighbour, mod 256
            np.add.accumulate(stored, axis=1, dtype=np.uint8, out=pixels[:, row])
        else:
            pixels[:, row] = stored
    return pixels.reshape(-1, right, page.samples)[top % rows :][:height, left:]


def _as_grey(file: BinaryIO, page: Page, window: Window) -> bytes:
    """A TIFF with a row of bytes for each strip that the window touches."""
    top, left, height, width = window
    rows = page.part[0]
    wanted = page.locations()[top // rows : -(-(top + height) // rows)]
    entries = {_BITS: 8, _COMPRESSION: _LZW, _PHOTOMETRIC: _GREY, _SAMPLES: 1, _FILL_ORDER: page.get(_FILL_ORDER, 1)}
    shape = (len(wanted), ((rows - 1) * page.width + left + width) * page.samples)
    described = {tag: Entry(3, (value,)) for tag, value in entries.items()}
    return tiff.build(page.order, described, shape, wanted[:, 1].tolist(), tiff.read_at(file, wanted), 1)
