"""The run of predict.py: rasters in, maps out, one after the other."""

import argparse
import multiprocessing
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from d2ls.checkpoint import read_checkpoint, sha256_of
from d2ls.cli import common as cli
from d2ls.cli.gpus import choose_gpus, run_processes
from d2ls.data import sets
from d2ls.data.sets.facts import Views
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError, D2LSError, DataError
from d2ls.inference import tta
from d2ls.inference.maps import MapFiles, OutputError
from d2ls.inference.onnx_network import OnnxNetwork, onnx_file
from d2ls.inference.predictor import Network, check_precision, choose_device, views_at_once
from d2ls.inference.raster import Segmentation
from d2ls.inference.raster_file import RASTER_SUFFIXES, RasterFile, fingerprint, open_raster
from d2ls.inference.sliding_window import Windows, window_for
from d2ls.memory import keep_freed_memory

_DECISIVE = ("overlap", "scale", "tta", "bands", "probabilities", "confidence", "polygons")
_D4 = Views(hflip=True, vflip=True, rot90=True)  # where the data set's own test has no other meaning of d4
_KEPT = 256 << 20  # bytes that the process keeps after it has freed them


def run(options: argparse.Namespace, command: list[str]) -> int:
    """Segment the rasters of this machine's share, on each of several GPUs the next one that none has taken.

    Options come from `d2ls.cli.predict.parser`; the command, script and arguments, is for the records. Returns the exit
    code: 0, or 2 if a raster was skipped.
    """
    rasters = rasters_of(options)
    if options.gpus:
        taken: Any = multiprocessing.get_context("spawn").Value("l", 0)
        return run_processes(choose_gpus(options)[: len(rasters)], _work, (options, command, rasters, taken))
    job = load_job(options, command)
    if job.opening:
        tell(job.opening)
    return _predict_rasters(job, rasters)


def _work(number: int, options: argparse.Namespace, command: list[str], rasters: list[Path], taken: Any) -> int:
    """Work of one process of several; the first tells what all of them have to tell."""
    try:
        job = load_job(options, command)
    except D2LSError:
        if number == 0:
            raise
        return cli.EXIT_BAD_INPUT
    if number == 0 and job.opening:
        tell(job.opening)
    return _predict_rasters(job, _next(rasters, taken))


def _next(rasters: list[Path], taken: Any) -> Iterator[Path]:
    """Rasters that no other process has taken, one by one."""
    while True:
        with taken.get_lock():
            number, taken.value = taken.value, taken.value + 1
        if number >= len(rasters):
            return
        yield rasters[number]


def rasters_of(options: argparse.Namespace) -> list[Path]:
    """The rasters of this machine's share."""
    if not 1 / 16 <= options.scale <= 16:
        raise ConfigError(f"--scale {options.scale}: expected a factor from 1/16 to 16.")
    share, shares = options.shard
    return list_rasters(options.input)[share - 1 :: shares]


def _predict_rasters(job: "Job", rasters: Iterable[Path]) -> int:
    """Segment rasters; one that cannot be used is reported and skipped. Returns the exit code as `run` does."""
    skipped = 0
    for path in rasters:
        try:
            job.predict(path)
        except DataError as problem:
            print(f"error: {problem}", file=sys.stderr)
            skipped += 1
    return cli.EXIT_BAD_INPUT if skipped else 0


def load_job(options: argparse.Namespace, command: list[str]) -> "Job":
    """The network of the options, ready to segment rasters; arguments as of `run`.

    Raises:
        CheckpointError: it cannot be read, or does not say its classes and bands.
        ConfigError: options that contradict each other or this machine.
    """
    network: Network | OnnxNetwork
    prepare: Callable[[NDArray[Any]], Tensor]  # gives the values of a raster as the network takes them
    if (onnx := onnx_file(options.weights)) is not None:
        if options.precision:
            raise ConfigError(f"--precision {options.precision}: an ONNX file has its own. Leave the option out.")
        network = OnnxNetwork(onnx, options.device)
        spec, train_size, prepare = network.spec, network.train_size, network.prepare
        decisive = {"checkpoint_sha256": sha256_of(onnx), "precision": "onnx", "device": network.provider}
    else:
        device, precision = choose_device(options.device), check_precision(options.precision or "32-true")
        if device.type == "cpu":
            keep_freed_memory(_KEPT)
        checkpoint = read_checkpoint(options.weights)
        spec = checkpoint.spec_or("Use the test script of its data set, with -c.")
        network = Network(checkpoint.build(), device, precision)
        train_size, prepare = checkpoint.train_size, normalisation(spec)
        decisive = {"checkpoint_sha256": checkpoint.sha256, "precision": precision, "device": device.type}
    side = options.window or window_for(train_size, options.scale)
    d4 = sets.find(spec.name).d4 if spec.name in sets.names() else _D4
    views = {"none": tta.NONE, "lr": tta.LR, "d4": d4}[options.tta]
    views = replace(views, scales=tuple(options.scale * scale for scale in views.scales))
    segmentation = Segmentation(
        views_at_once(network, views, options.tta_batch), prepare, spec.num_classes,
        Windows(side, side, options.overlap), options.batch_size, options.probabilities,
        confidence=options.confidence or options.polygons,
    )  # fmt: skip
    told = f"windows of {side} px: the network was trained on samples of {train_size} px (see --window)"
    opening = None if options.window or train_size is None else told
    further = {"checkpoint": str(options.weights), "command": shlex.join(command)}
    return Job(options, spec, segmentation, decisive, further, opening)


def list_rasters(path: Path) -> list[Path]:
    """The rasters of a folder, of a list (one path a line, relative to the list's folder), or the one itself."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in RASTER_SUFFIXES)
    elif path.suffix.lower() == ".txt" and path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [path.parent / line.strip() for line in lines if line.strip()]
    else:
        found = [path]
    if not found:
        raise DataError(f"{path}: no rasters in it; expected {', '.join(RASTER_SUFFIXES)}.")
    by_stem: dict[str, Path] = {}
    for file in found:
        if (other := by_stem.setdefault(file.stem, file)) is not file:
            raise DataError(f"{file} and {other}: their maps would have one name. Rename one, or use two folders.")
    return found


def normalisation(spec: DatasetSpec) -> Callable[[NDArray[Any]], Tensor]:
    """Normalised float32 values (C, h, w), of values as a raster holds them; NaN becomes the mean."""
    factor, summand = (torch.from_numpy(values)[:, None, None] for values in spec.scale_and_offset())
    return lambda pixels: torch.from_numpy(pixels.astype(np.float32)).mul_(factor).add_(summand).nan_to_num_(0, 0, 0)


@dataclass(frozen=True)
class Job:
    """The work on each raster of a run."""

    options: argparse.Namespace
    spec: DatasetSpec  # classes and bands of the network
    segmentation: Segmentation
    decisive: Mapping[str, Any]  # what decides the maps beside the options
    further: Mapping[str, Any]  # what the summaries tell, too
    opening: str | None  # a line about windows that nobody asked for and that follow from training

    def predict(self, path: Path) -> None:
        """Segment a raster, unless its map is finished or another process works on it."""
        options = self.options
        with open_raster(path, self.spec, options.bands) as raster:
            run = {"window": self.segmentation.windows.width, **{name: getattr(options, name) for name in _DECISIVE}}
            run |= {"input": path.name, "input_fingerprint": fingerprint(path), **self.decisive}
            layers = [name for name in ("probabilities", "confidence") if getattr(self.segmentation, name)]
            files = MapFiles(options.output, path.stem, raster, self.spec, run, tuple(layers))
            options.output.mkdir(parents=True, exist_ok=True)
            lock = FileLock(options.output / f".{path.stem}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                tell(f"{files.path}: another process works on it")
                return
            try:
                if options.resume and files.is_done():
                    tell(f"{files.path}: finished before")
                else:
                    self._make(raster, files)
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)
                lock.release()

    def _make(self, raster: RasterFile, files: MapFiles) -> None:
        options, started = self.options, time.perf_counter()
        files.begin(resume=options.resume)
        source = raster.turned or raster
        new = source.height - files.finished
        try:
            with cli.progress_bar(shown=not options.gpus) as bar:
                advance = partial(bar.advance, bar.add_task(raster.path.name, total=source.height))
                turned = source is not raster
                self.segmentation.run(source, files.write, turned=turned, finished=files.finished, progress=advance)
        except OutputError:
            raise
        except DataError:
            files.discard()
            raise
        files.build(tuple(name for name in ("probabilities", "confidence") if getattr(options, name)))
        summary: dict[str, Any] = dict(self.further)
        if options.polygons:
            summary["polygons"] = files.add_polygons(options.min_area, options.simplify)
        seconds = time.perf_counter() - started
        counts = files.counts().tolist()
        data = sum(counts[: self.spec.num_classes]) or 1
        shares = {name: counts[index] / data for index, name in enumerate(self.spec.classes)}
        area = raster.square_metres
        hectares = None if area is None else {n: counts[i] * area / 1e4 for i, n in enumerate(self.spec.classes)}
        files.publish(summary | {"seconds": round(seconds, 2), "shares": shares, "hectares": hectares})
        told = [f"{n} {s:.1%}" + (f" ({hectares[n]:,.2f} ha)" if hectares else "") for n, s in shares.items() if s]
        speed = new * source.width / 1e6 / seconds
        tell(f"{files.path}: {seconds:.1f} s, {speed:.2f} megapixels/s; {', '.join(told) or 'no data'}")


def tell(line: str) -> None:
    """Print a line as it is."""
    Console().print(line, highlight=False, soft_wrap=True, markup=False)
