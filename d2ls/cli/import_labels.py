"""Command line of tools/import_labels.py."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from d2ls.cli.common import parser, progress_bar
from d2ls.data.sets.folder import CLASSES, SPLITS
from d2ls.errors import ConfigError
from d2ls.preparation.importers import Labelled, read_coco, read_geojson, read_labelme, write_folder

EXAMPLES = """examples:
  python tools/import_labels.py coco instances_train.json --images photos -o my_photographs --split train
  python tools/import_labels.py labelme photos -o my_photographs             JSON files beside their pictures
  python tools/import_labels.py geojson fields.geojson --images tiles -o my_fields --column crop
  python train.py -c config/folder/d2ls.py data=my_photographs

The folder gets images/, masks/ (PNG of class values) and classes.csv; pixels outside all shapes are "background".
Overlapping shapes: the later one of the file lies on top of the earlier one. A pixel belongs to a polygon if its centre
does. A classes.csv that is there already is kept: write one first to choose the values of the classes. To join classes,
give their lines one name after all splits are imported; lines named "ignore" count nowhere.

coco      polygons and run lengths (RLE; these need: pip install pycocotools)
labelme   polygons, rectangles, circles and masks; images without a JSON file are left out
geojson   polygons in map coordinates (also GeoPackage and shapefile) over georeferenced TIFF files
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Import labels into a folder."""
    command = parser("Make masks of what annotation tools save: COCO, labelme, GeoJSON.", EXAMPLES)
    add = command.add_argument
    add("format", choices=("coco", "labelme", "geojson"), help="what the labels are")
    add("labels", type=Path, help="the file, or the folder of labelme's files")
    add("--images", type=Path, metavar="DIR", help="folder of the images (default: that of the labels)")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of images, masks and classes.csv")
    add("--split", choices=SPLITS, help="put them into images/SPLIT and masks/SPLIT")
    add("--column", metavar="NAME", help="geojson: the column that holds the class names")
    add("--background", default="background", metavar="NAME", help='class outside all shapes, or "ignore"')
    add("--overwrite", action="store_true", help="replace masks that are there")
    options = command.parse_args(arguments)
    found = _read(options.format, options.labels, options.images, options.column)
    with progress_bar() as bar:
        task = bar.add_task("writing", total=len(found))
        pixels = write_folder(
            found, options.output, options.split, background=options.background, overwrite=options.overwrite,
            progress=lambda: bar.advance(task),
        )  # fmt: skip
    console, total = Console(soft_wrap=True, highlight=False, markup=False), max(1, sum(pixels.values()))
    bare = sum(not one.shapes for one in found)
    console.print(f"{len(found)} masks written to {options.output}, {bare} of them without a shape")
    for name, number in pixels.items():
        console.print(f"  {name}: {sum(label == name for one in found for label, _ in one.shapes)} shapes, "
                      f"{number / total:.2%} of the pixels")  # fmt: skip
    console.print(f"classes: {options.output / CLASSES}; next: python tools/describe_data.py {options.output}")
    return 0


def _read(kind: str, labels: Path, images: Path | None, column: str | None) -> list[Labelled]:
    if not labels.exists() or (labels.is_dir() and kind != "labelme"):
        raise ConfigError(f"{labels}: no such file.")
    if (column is None) == (kind == "geojson"):
        raise ConfigError(f"--column {column}: it names the column of the class names, for geojson and for that alone.")
    images = images or (labels if labels.is_dir() else labels.parent)
    if not images.is_dir():
        raise ConfigError(f"--images {images}: no such folder.")
    if kind == "geojson":
        return read_geojson(labels, images, str(column))
    return (read_coco if kind == "coco" else read_labelme)(labels, images)
