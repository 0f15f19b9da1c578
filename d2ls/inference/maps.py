"""Maps as files: rows are collected in a folder of raw layers, then become Cloud-Optimised GeoTIFFs or a PNG.

The folder `.<name>.part` lies beside the map and records the run and its finished rows, so that an interrupted run can
be resumed; nothing in it is ever taken for a result.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray

from d2ls.data.io import write_bytes
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from d2ls.inference.overviews import halve, shapes
from d2ls.inference.polygons import trace, write_polygons
from d2ls.inference.raster import LEVELS, NODATA, Rows
from d2ls.inference.raster_file import RasterFile

LARGEST_PNG = 1 << 29  # pixels; a larger map without georeference is a TIFF
_RECORD = "run.json"
_LAYERS = (".probabilities.tif", ".confidence.tif")
_RESULTS = (*_LAYERS, *(f"{layer}.aux.xml" for layer in _LAYERS), ".gpkg")
_SHARE = 1.5  # bytes of disk for each byte of the raw layers: themselves, and the files they become
_COUNTED = 1 << 20  # pixels that are counted at once
_COG = {"driver": "COG", "bigtiff": "IF_SAFER", "blocksize": 512, "num_threads": "ALL_CPUS"}
_COG |= {"compress": "DEFLATE", "level": 5}  # half the time of level 6, and a twelfth more bytes


class OutputError(DataError):
    """The disk is full, or a file cannot be written: the rows that are finished stay for `--resume`."""


class MapFiles:
    """The files of one map, from its first row to the finished map; what cannot be written raises an OutputError.

    Args:
        folder: folder of the map, made by `begin`.
        stem: name of the map without its ending.
        raster: the input, which the map must not replace.
        spec: the classes and their colours.
        run: plain values that decide the content of the map.
        layers: those to collect beside "classes": "probabilities", "confidence".

    Attributes:
        path: the map, a GeoTIFF or (without georeference) a PNG.
        finished: rows that are written; columns, of a raster that is read by columns.
    """

    def __init__(
        self, folder: Path, stem: str, raster: RasterFile, spec: DatasetSpec, run: Mapping[str, Any],
        layers: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self._folder, self._stem, self._raster, self._spec = folder, stem, raster, spec
        self._run = json.loads(json.dumps({**run, "rows": raster.height, "columns": raster.width}))
        self._bands = {"classes": 1} | {name: spec.num_classes if name == "probabilities" else 1 for name in layers}
        png = not raster.is_georeferenced and raster.height * raster.width <= LARGEST_PNG
        self._shapes = shapes(raster.height, raster.width)[: 1 if png else None]  # of the classes and their overviews
        self.path = folder / f"{stem}{'.png' if png else '.tif'}"
        self.finished = 0
        self._part = folder / f".{stem}.part"
        if self.path.resolve() == raster.path.resolve():
            raise DataError(f"{raster.path}: its map would replace it. Choose another folder with -o.")

    @property
    def ready(self) -> Path:
        """Folder of finished files on their way to `folder`, under their final names."""
        return self._part / "ready"

    def is_done(self) -> bool:
        """Whether a run of the same record has finished this map."""
        return self.path.is_file() and _read_json(self._summary).get("run") == self._run

    def begin(self, *, resume: bool) -> None:
        """Make the folder of the run, or continue that of an interrupted run with the same record.

        Raises:
            DataError: the disk has too little space.
        """
        found = _read_json(self._part / _RECORD) if resume else {}
        if found.get("run") != self._run or found.get("levels") != len(self._shapes):
            found = {}
            shutil.rmtree(self._part, ignore_errors=True)
        self.finished = int(found.get("finished", 0))
        pixels, *above = (height * width for height, width in self._shapes)
        sizes = {_raw(name): pixels * bands for name, bands in self._bands.items()}
        needed = sum(sizes.values()) * _SHARE + sum(above)
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            used = sum(file.stat().st_blocks * 512 for file in self._part.glob("*.raw"))
            if (free := shutil.disk_usage(self._folder).free + used) < needed:
                raise DataError(
                    f"{self._folder}: {free / 1e9:.2f} GB are free; the map of {self._raster.path.name} "
                    f"({self._raster.width} x {self._raster.height} pixels) needs up to {needed / 1e9:.2f} GB."
                )
            self._summary.unlink(missing_ok=True)
            self._part.mkdir(exist_ok=True)
            sizes |= {_raw("classes", level): size for level, size in enumerate(above, 1)}
            for name, size in sizes.items():
                with (self._part / name).open("ab") as file:
                    file.truncate(size)
        self._note()

    def write(self, rows: Rows) -> None:
        """Write finished rows (columns, of a raster that is read by columns); note them once they are on the disk."""
        with self._writing():
            for name in self._bands:
                with (self._part / _raw(name)).open("r+b") as file:
                    for band, plane in enumerate(np.atleast_3d(getattr(rows, name).T).T):
                        start = band * self._raster.height * self._raster.width
                        # One piece of whole rows, or a piece of every row.
                        pieces = plane.T if self._raster.turned else plane.reshape(1, -1)
                        first = rows.top * (1 if self._raster.turned else self._raster.width)
                        for row, piece in enumerate(pieces):
                            file.seek(start + row * self._raster.width + first)
                            file.write(np.ascontiguousarray(piece).data)
                    file.flush()
                    os.fsync(file.fileno())
            last = rows.top + len(rows.classes)
            self._write_overviews(rows.top, last)
        self.finished = last
        self._note()

    def _write_overviews(self, first: int, last: int) -> None:
        """Halve rows (columns) of the classes, level by level, as far as they are complete."""
        for level in range(1, len(self._shapes)):
            below, above = self.layer("classes", level - 1), self.layer("classes", level, "r+")
            axis = 1 if self._raster.turned else 0
            first, last = first // 2, above.shape[axis] if last == below.shape[axis] else last // 2
            if first < last:
                source, target = ((slice(None),) * axis + (slice(n * first, n * last),) for n in (2, 1))
                above[target] = halve(below[source], NODATA)
                above.flush()

    def layer(
        self, name: str, level: int = 0, mode: Literal["r", "r+"] = "r"
    ) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
        """A layer of one band, (H, W), or one of its overviews, mapped from the disk."""
        return np.memmap(self._part / _raw(name, level), np.uint8, mode, shape=self._shapes[level])

    def counts(self) -> NDArray[np.int64]:
        """Pixels of each value of the classes, (256,); the file is read, as a mapped one would count as memory."""
        with (self._part / _raw("classes")).open("rb") as file:
            parts = iter(partial(file.read, _COUNTED), b"")
            counted = [np.bincount(np.frombuffer(part, np.uint8), minlength=256) for part in parts]
        return np.sum(counted, axis=0)

    def build(self, results: tuple[str, ...]) -> None:
        """Write the map, its style and the other layers that are results to `ready`."""
        shutil.rmtree(self.ready, ignore_errors=True)
        with self._writing():
            self.ready.mkdir()
            for name in ("classes", *results):
                suffix = self.path.suffix if name == "classes" else f".{name}.tif"
                method = "MODE" if name == "classes" else "AVERAGE"
                options = {"driver": "PNG"} if suffix == ".png" else _COG | {"overview_resampling": method}
                for level in range(len(self._shapes) if name == "classes" else 1):
                    self._describe(name, level)
                rasterio.shutil.copy(self._part / f"{name}.0.vrt", self.ready / f"{self._stem}{suffix}", **options)
            (self.ready / f"{self._stem}.qml").write_bytes(_render("style.qml", legend=self._spec))

    def add_polygons(self, min_area: float = 0, simplify: float = 0) -> int:
        """Write the regions of the map as a GeoPackage to `ready`; gives their number.

        Smaller ones than `min_area`, in square metres, are left out; in pixels, where the coordinates are no lengths.
        `simplify` is the tolerance of the outlines, see `d2ls.inference.polygons.write_polygons`.
        """
        raster = self._raster
        pixels = min_area / (raster.square_metres or 1)
        regions = trace(self.layer("classes"), self.layer("confidence"), min_pixels=pixels)
        with self._writing():
            return write_polygons(
                self.ready / f"{self._stem}.gpkg", regions, self._spec.classes, raster.transform, raster.crs,
                square_metres=raster.square_metres, simplify=simplify,
            )  # fmt: skip

    def publish(self, summary: Mapping[str, Any]) -> None:
        """Move everything in `ready` to the folder, the map last, and remove the folder of the run.

        The summary holds plain values for `<name>.json`, beside the record of the run.
        """
        text = json.dumps({"run": self._run, **summary}, indent=1) + "\n"
        with self._writing():
            ready = {path.name for path in self.ready.iterdir()}
            for suffix in _RESULTS:  # of an earlier run with other options
                if f"{self._stem}{suffix}" not in ready:
                    (self._folder / f"{self._stem}{suffix}").unlink(missing_ok=True)
            for name in sorted(ready, key=lambda name: name == self.path.name):
                (self.ready / name).replace(self._folder / name)
            write_bytes(self._summary, text.encode())
        self.discard()

    def discard(self) -> None:
        """Remove the folder of the run."""
        shutil.rmtree(self._part, ignore_errors=True)

    @property
    def _summary(self) -> Path:
        return self._folder / f"{self._stem}.json"

    def _note(self) -> None:
        content = {"run": self._run, "finished": self.finished, "levels": len(self._shapes)}
        write_bytes(self._part / _RECORD, json.dumps(content).encode())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, rasterio.errors.RasterioError) as problem:
            reason = getattr(problem, "strerror", None) or problem.__cause__ or problem
            raise OutputError(
                f"{self.path}: cannot be written: {reason}. The rows that are finished are kept: mend this, and "
                "continue with --resume."
            ) from problem

    def _describe(self, name: str, level: int = 0) -> None:
        """Write a VRT of a raw layer, with everything that the map says of itself, or of one of its overviews."""
        raster, spec, classes = self._raster, self._spec, name == "classes"
        above = range(1, len(self._shapes)) if classes and not level else ()
        text = _render(
            "layer.vrt", height=self._shapes[level][0], width=self._shapes[level][1], file=_raw(name, level),
            titles=spec.classes if name == "probabilities" else [name], legend=spec if classes else None,
            crs=raster.crs, transform=raster.transform, nodata=NODATA, scale=1 / LEVELS,
            overviews=[f"{name}.{number}.vrt" for number in above],
        )  # fmt: skip
        (self._part / f"{name}.{level}.vrt").write_bytes(text)


def _render(template: str, **values: Any) -> bytes:
    """An XML file from its template."""
    return _templates().get_template(template).render(values).encode()


@cache
def _templates() -> Environment:
    """The templates, each of which is compiled once, however many maps are written."""
    loader = PackageLoader("d2ls.inference")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)


def _raw(name: str, level: int = 0) -> str:
    """File name of a layer, or of one of its overviews."""
    return f"{name}.{level}.raw" if level else f"{name}.raw"


def _read_json(path: Path) -> dict[str, Any]:
    """The content of a record; nothing where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
