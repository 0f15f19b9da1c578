"""One run of a comparison: train, test, measure; leaves `result.json`."""

import copy
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from d2ls.compare.variants import Variant
from d2ls.config import Settings, load_config
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.io import write_bytes
from d2ls.errors import DataError
from d2ls.inference import tta
from d2ls.inference.evaluate import predict
from d2ls.inference.predictor import Network, check_precision, choose_device, views_by_windows, whole_images
from d2ls.inference.results import Masks
from d2ls.inference.sliding_window import Windows
from d2ls.inference.sources import trained_network
from d2ls.training.trainer import train

JOB, RESULT = "job.json", "result.json"
FLOP_SIZE = 256  # pixels a side of the image whose multiply-adds are counted
TIMED_STEPS = 5


def write_job(folder: Path, variant: Variant, seed: int) -> None:
    """Describe a run for the process that calls `run`."""
    folder.mkdir(parents=True, exist_ok=True)
    job = {"config": str(variant.config), "overrides": overrides_of(folder, variant, seed)}
    write_bytes(folder / JOB, (json.dumps(job, indent=1) + "\n").encode())


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run; None where there is none yet (raises DataError: it cannot be read)."""
    path = folder / RESULT
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as problem:
        raise DataError(f"{path} is damaged: {problem}. Remove it to make this run again.") from problem
    return result


def overrides_of(folder: Path, variant: Variant, seed: int) -> dict[str, Any]:
    """Settings of a run: the variant's, its seed, and folders of its own."""
    own = {
        "seed": seed,
        "weights_path": str(folder / "weights"),
        "log_name": f"comparisons/{folder.parent.name}/{seed}",
    }
    return {**variant.overrides, **own, "auto_resume": True}


def fingerprint(settings: Settings) -> str:
    """SHA-256 of everything that decides a run's result but the data: the config's text as it runs."""
    return hashlib.sha256(settings.source.encode()).hexdigest()


def images_hash(dataset: SegmentationDataset) -> str:
    """SHA-256 of the names and the bytes of all images and masks."""
    total = hashlib.sha256()
    for pair in dataset.pairs:
        total.update(pair.name.encode())
        for path in filter(None, (pair.image, pair.mask)):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def run(folder: Path) -> None:
    """Train (or go on), test, and write the result of the run that `write_job` described."""
    job = json.loads((folder / JOB).read_text())
    settings = load_config(job["config"], job["overrides"])
    train(settings)
    settings = load_config(job["config"], job["overrides"])  # fresh objects: a trained optimiser would be timed, too
    result = {"config_sha256": fingerprint(settings), "torch": torch.__version__, **_test(settings, folder)}
    result |= _measure(settings)
    write_bytes(folder / RESULT, (json.dumps(result) + "\n").encode())


def _test(settings: Settings, folder: Path) -> dict[str, Any]:
    """Pixel counts of each test image, by the checkpoint that the config names, without views."""
    dataset = settings.test_dataset or settings.val_dataset
    device, spec = choose_device("auto"), dataset.spec
    trained = trained_network(settings, None, spec)
    precision = check_precision(settings.precision)
    network = Network(trained.net, device, precision, channels_last=settings.channels_last, compiled=settings.compile)
    batch, segment = settings.val_batch_size, whole_images(network, tta.NONE, 1, spec.num_classes)
    if side := settings.test_window:
        windows = Windows(side, side, settings.test_overlap)
        segment = views_by_windows(network, tta.NONE, spec.num_classes, windows, batch)
    scores = predict(dataset, segment, Masks(folder / "masks", spec), batch=batch)
    if not scores.counts:
        raise DataError(f"{settings.path}: no test image has labels, so there is nothing to compare.")
    validation = getattr(settings.val_dataset, "pairs", ())  # a user's own data set, or a part of one, has none
    is_same = {pair.image for pair in dataset.pairs} == {pair.image for pair in validation}
    return {
        "dataset": spec.name,
        "classes": list(spec.classes),
        "scored": list(spec.scored),
        "checkpoint": str(trained.checkpoint.path),
        "checkpoint_sha256": trained.checkpoint.sha256,
        "test_window": settings.test_window,
        "images": list(scores.counts),
        "images_sha256": images_hash(dataset),
        "chosen_on_test_images": settings.test_weights_name != "last" and is_same,
        "counts": [counts.tolist() for counts in scores.counts.values()],
    }


def _measure(settings: Settings) -> dict[str, Any]:
    """Parameters, multiply-adds of one image, seconds of a training step, peak memory of this process."""
    device = choose_device("auto")
    net: nn.Module = settings.net.to(device)
    batch: Mapping[str, Any] = next(iter(settings.train_loader))
    image, mask = batch["image"].to(device), batch["mask"].to(device)
    counter = FlopCounterMode(display=False)
    frozen = copy.deepcopy(net).requires_grad_(False).eval()  # the counter takes hold of whatever has a gradient
    with torch.no_grad(), counter:
        frozen(image.new_zeros(1, image.shape[1], FLOP_SIZE, FLOP_SIZE))
    del frozen
    net.train()
    loss = settings.loss.to(device)
    seconds = []
    for _ in range(TIMED_STEPS + 1):
        begin = time.perf_counter()
        settings.optimizer.zero_grad()
        loss(net(image), mask)["loss"].backward()
        settings.optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return {
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "flop_size": FLOP_SIZE,
        "multiply_adds": counter.get_total_flops() // 2,
        "seconds_per_step": statistics.median(seconds[1:]),
        "peak_memory_mb": _peak_memory(device) / 2**20,
        "device": torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"a CPU (threads: {torch.get_num_threads()})",
    }


def _peak_memory(device: torch.device) -> float:
    """Bytes: the allocator's on a GPU, else the most that this process ever held; NaN where nobody tells."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource  # noqa: PLC0415  (not on Windows)
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
