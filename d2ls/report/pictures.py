"""Pictures of a page: made small, drawn, and encoded as data URIs."""

import base64
import io
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2ls.data.spec import DatasetSpec

Pixels = NDArray[np.uint8]
_QUALITY = 80  # of lossy pictures, 0..100
_WRONG, _HATCH = (150, 10, 20), (95, 95, 95)
_PALE = 150  # darkest grey of a photograph under a layer; darker ones are lifted
HEAT = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
"""Colours of a heat map from least to most, RGB (256, 3): their lightness alone tells the order."""


class Picture(NamedTuple):
    """An encoded picture and its size in pixels."""

    uri: str
    width: int
    height: int


class Mark(NamedTuple):
    """A number that names a class on a map: the class's index, and its position in per cent from left and top."""

    label: int
    left: float
    top: float


def shrink(pixels: Pixels, side: int, *, labels: bool = False) -> Pixels:
    """An image (H, W, 3), or labels (H, W), whose longer side has at most `side` pixels."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST_EXACT if labels else cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def photograph(image: Pixels) -> Picture:
    """An image, RGB (H, W, 3)."""
    return _encoded(Image.fromarray(np.ascontiguousarray(image)), "webp", quality=_QUALITY)


def class_map(labels: Pixels, spec: DatasetSpec) -> Picture:
    """Class indices (H, W) in the classes' colours; what is ignored is hatched."""
    striped = spec.num_classes  # the palette's next colours
    index = np.where(labels == spec.ignore_index, striped + _stripes(labels.shape), labels)
    picture = Image.fromarray(index.astype(np.uint8))
    picture.putpalette([value for colour in (*spec.colours, (255, 255, 255), _HATCH) for value in colour])
    return _encoded(picture, "png", optimize=True)


def error_map(image: Pixels, prediction: Pixels, truth: Pixels, ignore_index: int) -> Picture:
    """Where class indices (H, W) are wrong: dark red on the pale photograph (H, W, 3); hatched without a label."""
    light = _PALE + _grey(image).astype(np.uint16) * (255 - _PALE) // 255
    canvas = np.repeat(light.astype(np.uint8)[..., None], 3, axis=2)
    unlabelled = truth == ignore_index
    canvas[(prediction != truth) & ~unlabelled] = _WRONG
    canvas[unlabelled & (_stripes(truth.shape) == 1)] = _HATCH
    return photograph(canvas)


def heat_map(image: Pixels, values: NDArray[np.float32], top: float) -> Picture:
    """Values (H, W) of at least 0 as colours over the photograph (H, W, 3); `top` and more are the lightest colour."""
    share = np.clip(values / top, 0, 1) if top > 0 else np.zeros_like(values)
    colours = HEAT[np.round(255 * share).astype(np.uint8)].astype(np.float32)
    grey = _grey(image)[..., None].astype(np.float32)
    return photograph(np.round(0.78 * colours + 0.22 * grey).astype(np.uint8))


def marks(labels: Pixels, num_classes: int, *, per_class: int = 2, least: float = 0.015) -> list[Mark]:
    """Where to number the classes of a map (H, W): deep inside the largest regions, of at least a share of it."""
    height, width = labels.shape
    found = []
    for index in range(num_classes):
        inside = np.pad((labels == index).astype(np.uint8), 1)  # a border, so that depth counts from the map's edge
        if inside.sum() < least * labels.size:
            continue
        _, regions, facts, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
        areas = facts[1:, cv2.CC_STAT_AREA]
        for region in np.argsort(-areas, kind="stable")[:per_class]:
            if areas[region] < least * labels.size:
                break
            depth = cv2.distanceTransform((regions == region + 1).astype(np.uint8), cv2.DIST_L2, 3)
            row, column = np.unravel_index(int(depth.argmax()), depth.shape)
            found.append(Mark(index, 100 * (int(column) - 0.5) / width, 100 * (int(row) - 0.5) / height))
    return found


def _grey(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), np.uint8)


def _stripes(shape: tuple[int, ...]) -> NDArray[np.int64]:
    rows, columns = np.indices(shape)
    return np.asarray((rows + columns) // 5 % 2)


def _encoded(picture: Image.Image, kind: str, **options: int | bool) -> Picture:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    code = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(f"data:image/{kind};base64,{code}", picture.width, picture.height)
