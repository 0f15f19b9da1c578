"""Headers of image files: format, size and kind of pixels, before anything is decoded."""

import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2 as TagReader

OTHER_FORMATS = ("BMP", "GIF", "WEBP", "JPEG2000")
LOSSLESS = ("png", "tiff", "bmp", "gif")
_MODES = {  # of Pillow: kind, bits of a sample
    "1": ("grey", 1), "L": ("grey", 8), "LA": ("grey+alpha", 8), "P": ("palette", 8), "PA": ("palette+alpha", 8),
    "RGB": ("rgb", 8), "RGBA": ("rgb+alpha", 8), "CMYK": ("cmyk", 8), "YCCK": ("cmyk", 8), "I;16": ("grey", 16),
    "I;16B": ("grey", 16), "I": ("grey", 32), "F": ("grey", 32),
}  # fmt: skip
_PNG_KINDS = {0: "grey", 2: "rgb", 3: "palette", 4: "grey+alpha", 6: "rgb+alpha"}
RGB_KINDS = ("rgb", "palette", "rgb+alpha", "palette+alpha")
"""Kinds that can be read as RGB, a further channel being opaque."""
ORIENTATION = 274
_TAGS = {256, 257, 258, 259, 262, 266, 273, ORIENTATION, 277, 278, 279, 284, 320, 322, 323, 324, 325, 338, 339, 530}
NONE, JPEG_OLD, JPEG, DEFLATE = 1, 6, 7, (8, 32946)  # compressions of TIFF that are told apart here
LOSSLESS_COMPRESSIONS = (NONE, 2, 3, 4, 5, *DEFLATE, 32773, 34925, 50000)
"""Uncompressed, CCITT (one bit), LZW, deflate, PackBits, LZMA and Zstandard; others may be with loss."""


class FormatError(ValueError):
    """Reason why a file is not an image that can be read; the caller adds its name."""


@dataclass(frozen=True)
class Header:
    """Facts of an image file."""

    format: str  # "png", "jpeg", "tiff", or Pillow's name of another format in lower case
    height: int  # rows, as the image is shown (after its orientation)
    width: int  # columns, as it is shown
    kind: str  # "grey", "rgb", "palette", "cmyk", ...; with "+alpha" where a further channel follows
    bits: int  # of a sample (of an index of a palette)
    orientation: int = 1  # 1 to 8, of the EXIF and TIFF standards; 1 is upright
    tags: dict[int, Any] = field(default_factory=dict, repr=False)  # of a TIFF, by number

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width as the pixels are stored."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)

    @property
    def compression(self) -> int:
        """Compression of a TIFF; NONE of other formats."""
        return self.tag(259, NONE)

    def tag(self, number: int, default: int) -> int:
        """A number that a TIFF may give by a tag."""
        return int(self.tags.get(number, default))

    @property
    def has_blocks(self) -> bool:
        """Whether strips or tiles of a TIFF are decoded by themselves; JPEG in TIFF is decoded as a whole."""
        return self.format == "tiff" and self.compression not in (JPEG_OLD, JPEG)

    @property
    def is_lossless(self) -> bool:
        """Whether the pixels are certainly those that were saved."""
        return self.format in LOSSLESS and self.compression in LOSSLESS_COMPRESSIONS


def read_header(file: BinaryIO) -> Header:
    """Read the header of an open image file (raises FormatError: none, damaged, an animation, of an unknown kind)."""
    start = file.read(26)
    file.seek(0)
    if not start:
        raise FormatError("the file is empty")
    try:
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack(">II", start[16:24])
            if not width * height:
                raise FormatError(f"its header gives {width} x {height} pixels")
            header = _of_pillow(PngImagePlugin.PngImageFile(file), (_PNG_KINDS[start[25]], start[24]))
        elif start.startswith(b"\xff\xd8"):
            header = _of_pillow(JpegImagePlugin.JpegImageFile(file))
        elif start[:2] in (b"II", b"MM") and start[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+"):
            header = _tiff(file)
        else:
            header = _of_pillow(Image.open(file, formats=OTHER_FORMATS))
    except UnidentifiedImageError as problem:
        raise FormatError("not an image: neither PNG, JPEG, TIFF, BMP, GIF, WebP nor JPEG 2000") from problem
    except FormatError:
        raise
    except Exception as problem:  # a damaged header can make Pillow raise nearly anything
        raise FormatError(f"the file breaks off in its header, or its header is damaged ({problem})") from problem
    if header.height < 1 or header.width < 1:
        raise FormatError(f"its header gives {header.width} x {header.height} pixels")
    return header


def tiff_blocks(header: Header) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions and lengths of the strips or tiles of a TIFF; both are 0 for those that a sparse file leaves out."""
    numbers = (324, 325) if 324 in header.tags else (273, 279)
    starts, counts = (np.atleast_1d(np.asarray(header.tags.get(number, ()), np.int64)) for number in numbers)
    if len(starts) != len(counts) or not len(starts):
        raise FormatError("the header does not say where the pixels are; it is damaged")
    return starts, counts


def _of_pillow(image: Any, known: tuple[str, int] | None = None) -> Header:
    """The header that Pillow has read without decoding; `known` kind and bits take the place of its own."""
    if getattr(image, "n_frames", 1) > 1:
        raise FormatError(f"an animation of {image.n_frames} frames where one image is expected")
    if known is None and image.mode not in _MODES:
        raise FormatError(f"pixels of an unknown kind ({image.mode})")
    kind, bits = known or _MODES[image.mode]
    if "transparency" in image.info and "alpha" not in kind:
        kind += "+alpha"
    exif = Image.Exif()
    exif.load(image.info.get("exif", b""))
    orientation = exif.get(ORIENTATION, 1)
    if orientation not in range(1, 9):  # cameras write 0 for unknown
        orientation = 1
    width, height = image.size if orientation < 5 else image.size[::-1]
    return Header(str(image.format).lower(), height, width, kind, bits, orientation)


def _tiff(file: BinaryIO) -> Header:
    start = file.read(16)
    tags = TagReader(start if 43 in start[2:4] else start[:8])  # 43: BigTIFF
    file.seek(tags.next)
    tags.load(file)
    found: dict[int, Any] = {number: tags[number] for number in tags if number in _TAGS}
    samples, orientation = int(found.get(277, 1)), int(found.get(ORIENTATION, 1))
    bits = np.unique(found.get(258, 1)).tolist()
    if len(bits) != 1 or not samples:
        raise FormatError(f"samples of {bits} bits; expected one size for all")
    if orientation not in range(1, 9):
        raise FormatError(f"orientation {orientation}, expected 1 to 8; the header is damaged")
    height, width = (int(found[number]) for number in ((257, 256) if orientation < 5 else (256, 257)))
    return Header("tiff", height, width, _tiff_kind(found, samples), int(bits[0]), orientation, found)


def _tiff_kind(tags: dict[int, Any], samples: int) -> str:
    """Kind of the pixels; combinations that are not known to be read right get a name that nothing accepts."""
    photometric = tags.get(262)
    if photometric == 6 and int(tags.get(259, NONE)) in (JPEG_OLD, JPEG):
        photometric = 2  # decoders of JPEG give RGB
    if (found := _TIFF_KINDS.get((photometric, samples))) is not None:
        return found
    name = {None: "undeclared", 3: "palette", 5: "cmyk", 6: "YCbCr", 8: "CIELab"}.get(photometric, str(photometric))
    return f"{name} (samples a pixel: {samples})"


_TIFF_KINDS: dict[tuple[int | None, int], str] = {
    (0, 1): "white-is-zero grey", (1, 1): "grey", (None, 1): "grey", (1, 2): "grey+alpha", (2, 3): "rgb",
    (2, 4): "rgb+alpha", (3, 1): "palette", (5, 4): "cmyk",
}  # fmt: skip
"""By photometric interpretation and samples a pixel. Grey that does not say what 0 means keeps its values."""
