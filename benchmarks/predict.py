"""How long a whole test run takes against its network alone, and whether its memory stays flat.

    python benchmarks/predict.py                          40 tiles without views, 4 with d4: seconds and ratios
    python benchmarks/predict.py --memory 200 800         peak memory of runs over so many tiles, a fresh process each
    python benchmarks/predict.py --raster 20000 --backbone test_convnext --stages 1 --width 32
                                                          predict.py on GeoTIFFs of this width and several heights:
                                                          speed, share of the network, peak memory
    python benchmarks/predict.py --raster 4000 --rows 4000 --weights models/dubai [--plain]
                                                          a trained network; a plain loop that holds the whole raster
    python benchmarks/predict.py --raster 40000 --rows 40000 --reuse ...
                                                          one call of the network, whose logits stand for all windows:
                                                          memory, and seconds of everything else

Tiles are drawn (Vaihingen's classes, TIFFs as the split tools write them); the network is untrained.
"""

import argparse
import contextlib
import io
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

from d2ls.checkpoint import KEY, describe, read_checkpoint
from d2ls.cli.common import PRECISIONS, run_main
from d2ls.cli.predict import main as predict_main
from d2ls.cli.test import script
from d2ls.data.sets import vaihingen
from d2ls.inference import tta
from d2ls.inference.predictor import Network, choose_device
from d2ls.inference.sliding_window import blended_axis
from d2ls.memory import keep_freed_memory
from d2ls.models import DynamicDictionaryLearning
from tests.drawn import folders

VIEWS = {"none": tta.NONE, "lr": tta.LR, "d4": vaihingen.FACTS.d4}
SIDE = 1024  # of predict.py's windows


def draw(root: Path, number: int, size: int, drawn: int = 8) -> None:
    """Test tiles: `drawn` different ones, and links to them."""
    folders.write_vaihingen(root, train=0, validation=0, test=min(number, drawn), size=size)
    for part in ("images_1024", "masks_1024"):
        folder = root / "vaihingen" / "test" / part
        tiles = sorted(folder.iterdir())
        for at in range(len(tiles), number):
            tile = tiles[at % len(tiles)]
            (folder / f"top_mosaic_09cm_area2_0_{at + 1000}{tile.suffix}").symlink_to(tile)


def write_checkpoint(path: Path, options: argparse.Namespace) -> None:
    """An untrained network that says how it was built."""
    torch.manual_seed(0)  # how noisy its maps are decides how long they take to compress
    net = DynamicDictionaryLearning(
        options.backbone, vaihingen.SPEC.num_classes, stages=options.stages, width=options.width
    )
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": weights, KEY: describe(net, vaihingen.SPEC)}, path)


def run_seconds(root: Path, views: str, options: argparse.Namespace) -> float:
    """Seconds of a whole run, from the command line to the written scores; importing the libraries is not in it."""
    words = ["-w", str(root / "net.ckpt"), "-o", str(root / "out"), "-t", views, "--device", options.device]
    words += ["--tta-batch", str(options.tta_batch), "-b", str(options.batch), "--precision", options.precision]
    os.environ["D2LS_DATA"] = str(root)
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        code = run_main(script("vaihingen"), words)
    seconds = time.perf_counter() - started
    if code:
        raise SystemExit(code)
    return seconds


def model_seconds(root: Path, views: str, number: int, options: argparse.Namespace) -> float:
    """Seconds of the network and its views alone, on one tile that is in memory, as often as the run has tiles."""
    net = read_checkpoint(root / "net.ckpt").build()
    network = Network(net, choose_device(options.device), options.precision)
    image = vaihingen.test()[0]["image"]
    images = torch.stack([image] * options.batch).to(network.device)
    with torch.inference_mode():
        tta.mean_logits(network, images[:1], VIEWS[views], options.tta_batch)
        started = time.perf_counter()
        for _ in range(number // options.batch):
            logits = tta.mean_logits(network, images, VIEWS[views], options.tta_batch)
        logits.sum().item()  # waits for a GPU
    return time.perf_counter() - started


def measure_time(options: argparse.Namespace) -> dict[str, object]:
    """Runs and the network alone in turn, median of each."""
    found: dict[str, object] = {}
    for views, number in zip(options.views, options.images, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            draw(root, number, options.size)
            write_checkpoint(root / "net.ckpt", options)
            pairs = [
                (run_seconds(root, views, options), model_seconds(root, views, number, options))
                for _ in range(options.repeats)
            ]
        run, model = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(whole / alone for whole, alone in pairs)
        found[views] = {
            "tiles": number,
            "run seconds": run,
            "network seconds": model,
            "tiles per second": number / run,
            "run / network": ratio,
        }
        print(f"{views:5} {number} tiles of {options.size} px: run {run:.1f} s ({number / run:.2f} tiles/s), "
              f"network alone {model:.1f} s, ratio {ratio:.3f}")  # fmt: skip
    return found


def measure_memory(options: argparse.Namespace) -> dict[str, object]:
    """Peak memory of runs of different lengths, in processes of their own."""
    found: dict[str, object] = {}
    for number in options.memory:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            draw(root, number, options.size)
            write_checkpoint(root / "net.ckpt", options)
            words = [sys.executable, __file__, "--peak", str(root), "--device", options.device]
            words += ["--batch", str(options.batch), "--tta-batch", str(options.tta_batch)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
        found[str(number)] = float(done.stdout)
        print(f"{number} tiles of {options.size} px: peak {found[str(number)]:.0f} MB")
    peaks = [float(str(peak)) for peak in found.values()]
    print(f"largest / smallest: {max(peaks) / min(peaks):.3f}")
    return found


def peak(options: argparse.Namespace) -> float:
    """Megabytes that this process needed at most, one run included."""
    run_seconds(options.peak, "none", options)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def draw_raster(path: Path, height: int, width: int) -> None:
    """A GeoTIFF of coloured noise, tiled and deflated, written a row of tiles at a time."""
    rng = np.random.default_rng(0)
    rows = np.kron(rng.integers(0, 256, (3, 32, -(-width // 16)), dtype=np.uint8), np.ones((16, 16), np.uint8))
    profile = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "crs": "EPSG:32632"}
    place = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)
    with rasterio.open(path, "w", "GTiff", width, height, 3, dtype="uint8", transform=place, **profile) as dataset:
        for top in range(0, height, 512):
            count = min(512, height - top)
            dataset.write(rows[:, :count, :width], window=Window(0, top, width, count))


class Cost(NamedTuple):
    """What a run on a raster needs.

    Attributes:
        seconds: on the clock.
        cpu: seconds of the processor, all threads together.
        megabytes: at its peak, the libraries included.
        network: seconds inside the network, on the clock.
        network_cpu: the same, of its thread: with OMP_NUM_THREADS=1, of the processor.
    """

    seconds: float
    cpu: float
    megabytes: float
    network: float
    network_cpu: float


def raster_cost(root: Path, options: argparse.Namespace) -> Cost:
    """Cost of predict.py, or of the plain loop, on the raster in the folder; in a process of its own."""
    weights = options.weights or root / "net.ckpt"
    words = ["-w", str(weights), "-i", str(root / "scene.tif"), "-o", str(root / "out")]
    words += ["--device", options.device, "-b", str(options.batch), "--window", str(SIDE)]
    call, inside = Network.__call__, [0.0, 0.0]
    known: dict[torch.Size, torch.Tensor] = {}

    def timed(network: Network, images: torch.Tensor) -> torch.Tensor:
        started, processor = time.perf_counter(), time.thread_time()
        logits = known[images.shape] if images.shape in known else call(network, images)
        if options.reuse:
            known[images.shape] = logits
        if logits.is_cuda:
            torch.cuda.synchronize()
        inside[0] += time.perf_counter() - started
        inside[1] += time.thread_time() - processor
        return logits

    Network.__call__ = timed  # type: ignore[method-assign]
    started, processor = time.perf_counter(), time.process_time()
    if options.plain:
        plain_loop(weights, root, options)
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            code = run_main(predict_main, words)
        if code:
            raise SystemExit(code)
    spent = time.perf_counter() - started, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return Cost(*spent, peak, *inside)


def plain_loop(weights: Path, root: Path, options: argparse.Namespace) -> None:
    """The loop that is often written: image, sums and weights of the whole raster in memory, an untiled GeoTIFF."""
    keep_freed_memory(256 << 20)
    checkpoint = read_checkpoint(weights)
    network = Network(checkpoint.build(), choose_device(options.device), "32-true")
    assert checkpoint.spec is not None
    with rasterio.open(root / "scene.tif") as dataset:
        image, profile = dataset.read(), dataset.profile
    factor, summand = (values[:, None, None] for values in checkpoint.spec.scale_and_offset())
    rows, columns = (blended_axis(side, SIDE, 0.25) for side in image.shape[1:])
    summed = torch.zeros(checkpoint.spec.num_classes, *image.shape[1:])
    for (top, down), (left, across) in product(*(zip(a.starts, a.weights, strict=True) for a in (rows, columns))):
        part = np.s_[:, top : top + rows.window, left : left + columns.window]
        window = torch.from_numpy(image[part].astype(np.float32) * factor + summand)
        summed[part] += network(window[None])[0].softmax(dim=0).cpu() * torch.outer(down, across)
    with rasterio.open(root / "map.tif", "w", **profile | {"count": 1}) as dataset:
        dataset.write(summed.argmax(dim=0).to(torch.uint8).numpy(), 1)


def measure_raster(options: argparse.Namespace) -> dict[str, object]:
    """Runs over rasters of several heights, each in a process of its own."""
    found: dict[str, object] = {}
    width = options.raster
    for height in options.rows or (width // 4, width // 2, width):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            draw_raster(root / "scene.tif", height, width)
            write_checkpoint(root / "net.ckpt", options)
            words = [sys.executable, __file__, "--raster-cost", str(root), "--device", options.device]
            words += ["--batch", str(options.batch), *(["--plain"] if options.plain else [])]
            words += ["--reuse"] if options.reuse else []
            words += ["--weights", str(options.weights)] if options.weights else []
            done = subprocess.run(words, check=True, capture_output=True, text=True)
        cost = Cost(*map(float, done.stdout.split()))
        windows = math.prod(len(blended_axis(side, SIDE, 0.25).starts) for side in (height, width))
        speed = height * width / 1e6 / cost.seconds
        ratios = cost.seconds / cost.network, cost.cpu / cost.network_cpu
        figures = {**cost._asdict(), "run / network": ratios[0], "of the processor": ratios[1]}
        found[f"{width} x {height}"] = figures | {"megapixels per second": speed}
        print(f"{width} x {height} px, {windows} windows: {cost.seconds:.1f} s ({speed:.2f} megapixels/s), "
              f"{cost.cpu:.1f} CPU s; run / network {ratios[0]:.3f}, of CPU seconds {ratios[1]:.3f}; "
              f"peak {cost.megabytes:.0f} MB", flush=True)  # fmt: skip
    return found


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--backbone", default="tf_efficientnet_lite0", help="default: that of the demo")
    add("--stages", type=int, default=3)
    add("--width", type=int, default=128)
    add("--size", type=int, default=1024)
    add("--views", nargs="+", choices=tuple(VIEWS), default=["none", "d4"])
    add("--images", nargs="+", type=int, default=[40, 4], help="tiles for each of --views")
    add("--batch", type=int, default=1)
    add("--tta-batch", type=int, default=1)
    add("--device", default="auto")
    add("--precision", choices=PRECISIONS, default="32-true", help="of test runs; default 32-true")
    add("--repeats", type=int, default=1, help="runs and times of the network, in turn; medians are told")
    add("--memory", nargs="+", type=int, metavar="TILES", help="measure peak memory of runs of these lengths")
    add("--peak", type=Path, help=argparse.SUPPRESS)
    add("--raster", type=int, metavar="WIDTH", help="measure predict.py on rasters of this width")
    add("--rows", nargs="+", type=int, help="heights of these rasters (default: a quarter, half, all of the width)")
    add("--weights", type=Path, help="a checkpoint or model folder of 8-bit RGB for these rasters (default: untrained)")
    add("--plain", action="store_true", help="measure a plain loop that holds the whole raster in place of predict.py")
    add("--reuse", action="store_true", help="call the network once for all windows of these rasters")
    add("--raster-cost", type=Path, help=argparse.SUPPRESS)
    add("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    if options.peak:
        print(peak(options))
        return
    if options.raster_cost:
        print(*raster_cost(options.raster_cost, options))
        return
    if options.raster:
        found = measure_raster(options)
    else:
        found = measure_memory(options) if options.memory else measure_time(options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
