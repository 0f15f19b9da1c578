"""Labels of annotation tools (COCO, labelme, GeoJSON) as masks of class values in the folder layout.

A pixel belongs to a polygon if its centre does; where shapes overlap, the later one of the labels' file lies on top.
"""

import base64
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio import features

from d2ls.data import io as files
from d2ls.data.labels import count_values
from d2ls.data.overlay import Georeference, Polygons
from d2ls.data.pairs import list_images
from d2ls.data.sets.folder import CLASSES, Entry, format_classes, read_classes
from d2ls.errors import ConfigError, DataError, require

Mask = NDArray[np.uint8]
Burn = Callable[[Mask, int], object]  # sets a value in a mask (H, W) where one shape lies
MOST_CLASSES = 254  # beside the background; 255 is the ignore index
_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, shapely.errors.ShapelyError)


class Labelled(NamedTuple):
    """An image with its shapes."""

    image: Path  # its file
    size: tuple[int, int]  # height and width that the labels are for
    shapes: list[tuple[str, Burn]]  # label of each shape and what draws it, in the order of the labels' file


def read_coco(path: Path, images: Path) -> list[Labelled]:
    """Read a COCO file of instances: polygons, and run lengths (RLE, by pycocotools), compressed or not.

    All images that it lists are taken, also those without a shape; their names begin in the folder `images`.
    """
    content = _json(path)
    try:
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        found = {
            image["id"]: Labelled(images / image["file_name"], (int(image["height"]), int(image["width"])), [])
            for image in content["images"]
        }
        for one in content["annotations"]:
            outline, labelled = one["segmentation"], found[one["image_id"]]
            if isinstance(outline, Mapping):
                if tuple(outline["size"]) != labelled.size:
                    raise ValueError(f"a shape in run lengths of {outline['size']} in an image of {labelled.size}")
                require("pycocotools", f"{path}: a shape in run lengths")
                burn: Burn = partial(_burn_runs, outline)
            else:
                burn = partial(_burn_geometries, [_polygon(np.reshape(ring, (-1, 2))) for ring in outline])
            labelled.shapes.append((names[one["category_id"]], burn))
    except _MALFORMED as error:
        raise _unlike(path, "COCO instances", error) from error
    return list(found.values())


def read_labelme(path: Path, images: Path) -> list[Labelled]:
    """Read what labelme saved, one JSON file or a folder of them; lines and points have no area (raises DataError)."""
    found = []
    for file in [path] if path.is_file() else sorted(path.glob("*.json")):
        content = _json(file)
        try:
            name = str(content["imagePath"]).replace("\\", "/").rpartition("/")[2]
            size = int(content["imageHeight"]), int(content["imageWidth"])
            shapes = [(str(one["label"]), _labelme_shape(one)) for one in content["shapes"]]
        except (*_MALFORMED, OSError) as error:
            raise _unlike(file, "labelme", error) from error
        found.append(Labelled(images / name, size, shapes))
    if not found:
        raise DataError(f"{path}: no JSON file in it. Give the folder into which labelme saved them.")
    return found


def read_geojson(path: Path, images: Path, column: str) -> list[Labelled]:
    """Read polygons in map coordinates: one GeoJSON, GeoPackage or shapefile, whose column has the class names.

    All georeferenced TIFF files of the folder `images` are taken, also those without a polygon.
    """
    polygons = Polygons(path, column, {}, 0, warp=True)
    counts = polygons.entries()
    if "empty" in counts:
        raise DataError(f"{path}: {counts['empty']} polygons have no class in the column {column}.")
    labels, found = [*counts], []
    polygons = replace(polygons, values={label: number for number, label in enumerate(labels)})
    for image in list_images(images).values():
        place = Georeference.of(image)
        burns: list[tuple[str, Burn]] = [
            (labels[number], partial(_burn_geometries, [geometry], transform=place.transform))
            for geometry, number in polygons.shapes(image, place, place.bounds)
            if geometry.area  # neither a point nor a line
        ]
        found.append(Labelled(image, (place.height, place.width), burns))
    if not any(labelled.shapes for labelled in found):
        total = f"none of its {counts.total()} polygons lies on one of the {len(found)} images of {images}"
        raise DataError(f"{path}: {total}.")
    return found


def write_folder(
    found: Sequence[Labelled], folder: Path, split: str | None = None, *, background: str = "background",
    overwrite: bool = False, progress: Callable[[], object] = lambda: None,
) -> dict[str, int]:  # fmt: skip
    """Write masks, copy images, and make the table of classes where there is none; gives the pixels by class.

    `folder` gets `images`, `masks` (both with the sub-folder `split`, if any) and `classes.csv`. The class `background`
    has the pixels outside all shapes; "ignore": they count nowhere. Without `overwrite`, masks that are there are a
    ConfigError, as are labels that a table which is there does not have.
    """
    masks, pictures = (folder / kind / (split or "") for kind in ("masks", "images"))
    targets = [masks / f"{labelled.image.stem}.png" for labelled in found]
    _check(found, targets, overwrite)
    values = _class_values(folder / CLASSES, background, sorted({label for one in found for label, _ in one.shapes}))
    masks.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(256, np.int64)
    for labelled, target in zip(found, targets, strict=True):
        mask = np.full(labelled.size, values[background], np.uint8)
        for label, burn in labelled.shapes:
            burn(mask, values[label])
        files.write_png(target, mask)
        copy = pictures / labelled.image.name
        if not (copy.exists() and copy.samefile(labelled.image)):
            shutil.copyfile(labelled.image, copy)
        pixels += count_values(mask)
        progress()
    return {name: int(pixels[value]) for name, value in values.items()}


def _check(found: Sequence[Labelled], targets: Sequence[Path], overwrite: bool) -> None:
    if missing := [labelled.image for labelled in found if not labelled.image.is_file()]:
        raise DataError(f"{len(missing)} of {len(found)} images are not there (first: {missing[0]}). Give --images.")
    for labelled in found:
        height, width = files.read_size(labelled.image)
        if (height, width) != labelled.size:
            sizes = f"{width} x {height} pixels, its labels are for {labelled.size[1]} x {labelled.size[0]}"
            raise DataError(f"{labelled.image}: {sizes}. Give the images that were labelled, not resized or turned.")
    if len(set(targets)) < len(targets):
        twice = Counter(targets).most_common(1)[0][0].stem
        raise DataError(f"two images have the name {twice}. Rename one of them, or import them with two --split.")
    if not overwrite and (there := [target for target in targets if target.exists()]):
        raise ConfigError(f"{len(there)} masks are there already (first: {there[0]}). --overwrite replaces them.")


def _class_values(table: Path, background: str, labels: Iterable[str]) -> dict[str, int]:
    """Values by class name: those of the table, or of a new one with the background first."""
    names = list(dict.fromkeys([background, *labels]))
    if not table.exists():
        if len(names) > MOST_CLASSES + 1:
            raise DataError(f"{len(names)} different labels: expected {MOST_CLASSES} classes at most.")
        table.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(table, format_classes(Entry(value, None, name) for value, name in enumerate(names)).encode())
    known = {entry.name: entry.value for entry in reversed(read_classes(table)) if entry.value is not None}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"{table}: no value for {', '.join(unknown)}; it has {', '.join(known)}. Add a line for each, such as "
            f"{max(known.values(), default=-1) + 1},,{unknown[0]},1."
        )
    return {name: known[name] for name in names}


def _labelme_shape(one: Mapping[str, Any]) -> Burn:
    points, kind = np.reshape(one["points"], (-1, 2)).astype(float), one.get("shape_type") or "polygon"
    if kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(one["mask"]))) as picture:
            return partial(_burn_window, np.array(picture) > 0, *points[0].round().astype(int).tolist())
    if kind == "rectangle":
        geometry = shapely.box(*points.min(axis=0), *points.max(axis=0))
    elif kind == "circle":
        centre, edge = points
        geometry = shapely.Point(centre).buffer(float(np.hypot(*(edge - centre))), quad_segs=64)
    else:
        geometry = _polygon(points) if kind == "polygon" else shapely.Polygon()
    return partial(_burn_geometries, [geometry])


def _polygon(points: NDArray[Any]) -> shapely.Polygon:
    """A polygon (N, 2); an empty one of fewer than three points, which have no area."""
    return shapely.Polygon(points if len(points) > 2 else None)


def _burn_geometries(geometries: Sequence[Any], mask: Mask, value: int, transform: Any = None) -> None:
    drawn = [(geometry, value) for geometry in geometries if not geometry.is_empty]
    if drawn:
        features.rasterize(drawn, out=mask, transform=transform or Affine.identity())


def _burn_runs(outline: Mapping[str, Any], mask: Mask, value: int) -> None:
    from pycocotools import mask as coder  # noqa: PLC0415  (optional)

    runs = coder.frPyObjects(outline, *mask.shape) if isinstance(outline["counts"], list) else outline
    mask[coder.decode(runs).astype(bool)] = value


def _burn_window(window: NDArray[np.bool_], left: int, top: int, mask: Mask, value: int) -> None:
    window = window[max(0, -top) :, max(0, -left) :]
    part = mask[max(0, top) :, max(0, left) :][: window.shape[0], : window.shape[1]]
    part[window[: part.shape[0], : part.shape[1]]] = value


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _unlike(path, "JSON", error) from error


def _unlike(path: Path, kind: str, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as {kind} ({type(error).__name__}: {error}).")
