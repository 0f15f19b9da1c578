"""The run of a test script: images in, masks, scores, report and submission out."""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from d2ls.cli import common as cli
from d2ls.cli.gpus import choose_gpus, run_processes
from d2ls.config import Settings, load_config, parse_overrides
from d2ls.data import sets
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.sets.facts import Server
from d2ls.errors import ConfigError
from d2ls.inference import submission, tta
from d2ls.inference.evaluate import predict, remove
from d2ls.inference.predictor import (
    Network,
    Segment,
    by_windows,
    check_precision,
    choose_device,
    views_by_windows,
    whole_images,
)
from d2ls.inference.results import Masks, begin_run, describe_run
from d2ls.inference.scores import Scores, Tally
from d2ls.inference.sliding_window import Windows
from d2ls.inference.sources import test_images, trained_network
from d2ls.memory import keep_freed_memory
from d2ls.report import page
from d2ls.settings import SETTINGS


class Job(NamedTuple):
    """What a test run needs; every process on several GPUs makes its own."""

    dataset: SegmentationDataset
    network: Network  # on its device
    segment: Segment  # class indices of images
    masks: Masks
    record: dict[str, Any]  # what makes the masks, in plain values
    batch: int  # images at once
    workers: int  # threads that read images
    notes: list[str]  # lines about the network
    server: Server | None  # what the server of a submission expects

    def predict(self, **options: Any) -> Scores:
        """Segment and score the images; options as of `d2ls.inference.evaluate.predict`."""
        return predict(self.dataset, self.segment, self.masks, batch=self.batch, workers=self.workers, **options)


def run(name: str, options: argparse.Namespace, command: list[str]) -> int:
    """Test a network on a data set; everything that can be wrong is checked before the first mask is written.

    Options come from `d2ls.cli.test.parser`; the command, script and arguments, is for the record. Returns the exit
    code.
    """
    console = Console(markup=False, highlight=False, soft_wrap=True)
    gpus = choose_gpus(options) if options.gpus else []
    job = _load(name, options, command)
    dataset, masks, record = job.dataset, job.masks, job.record
    for note in job.notes:
        console.print(f"note: {note}")
    begin_run(options.output, record, resume=options.resume)
    started, number = time.perf_counter(), len(dataset)
    with cli.progress_bar() as bar:
        task = bar.add_task("segmenting", total=number)
        if gpus:
            show = partial(bar.update, task)
            scores = _on_gpus(gpus, job, (name, options, command), lambda done: show(completed=done))
        else:
            scores = job.predict(resume=options.resume, progress=partial(bar.advance, task))
    if scores is None:
        return cli.EXIT_BAD_INPUT
    seconds = time.perf_counter() - started
    console.print(f"{number} masks in {options.output} ({seconds:.1f} s)")
    _report(console, scores, number, options.output, record)
    if options.report or options.report_image:
        window = (record["windows"]["height"], record["windows"]["width"]) if record["windows"] else None
        path = page.write(dataset, masks, scores, job.network.net, record, image=options.report_image, window=window)
        console.print(f"report in {path}")
    return _submit(console, options.submission, job.server, options.output)


def _load(name: str, options: argparse.Namespace, command: list[str]) -> Job:
    """Images and network as the options ask for; nothing is written."""
    sets.find(name)  # refuses an unknown name
    settings = _settings(options)
    dataset = _images(name, options, settings)
    server = _server(name, options, dataset)
    precision = check_precision(options.precision or (settings.precision if settings else "32-true"))
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    pairs = dataset.pairs  # lists the folders: a missing one is told here
    page.check_image(options.report_image, dataset)
    trained = trained_network(settings, options.weights, dataset.spec)
    layout = {"channels_last": settings.channels_last, "compiled": settings.compile} if settings else {}
    network = Network(trained.net, device, precision, **layout)
    segment, shape = _segment(name, options, settings, network, dataset.spec.num_classes)
    masks = Masks(options.output, dataset.spec, _coloured(name, options), options.legend)
    masks.check_apart(pairs)
    record = describe_run(
        dataset=dataset.spec.name, checkpoint=trained.checkpoint, settings=settings, command=command, **shape,
        masks=f"{options.legend} colours" if masks.coloured else "indices", precision=precision, device=str(device),
    )  # fmt: skip
    batch, workers = (1, 1) if name == "uavid" else (_batch(name, options, settings), options.workers)
    return Job(dataset, network, segment, masks, record, batch, workers, trained.notes, server)


def _on_gpus(
    gpus: list[str | None], job: Job, given: tuple[str, argparse.Namespace, list[str]], show: Callable[[int], None]
) -> Scores | None:
    """Scores of images that are segmented by a process for each GPU; None where one has told an error."""
    names = [pair.name for pair in job.dataset.pairs]
    if not given[1].resume:
        remove(job.masks, names)
    tally, done = Tally(job.dataset.spec, names).share_memory(), multiprocessing.get_context("spawn").Value("l", 0)
    gpus = gpus[: -(-len(names) // job.batch)]
    arguments = (len(gpus), given, tally, done)
    code = run_processes(gpus, _work, arguments, together=True, watch=lambda: show(done.value))
    return None if code else tally.scores()


def _work(
    number: int, processes: int, given: tuple[str, argparse.Namespace, list[str]], tally: Tally, done: Any
) -> int:
    """Work of one process of several: its share of the images, but for masks that the first process has left there."""

    def advance(images: int) -> None:
        with done.get_lock():
            done.value += images

    _load(*given).predict(resume=True, progress=advance, share=(number, processes), tally=tally)
    return 0


def _settings(options: argparse.Namespace) -> Settings | None:
    if options.config is None:
        if options.settings:
            raise ConfigError(
                f"{options.settings[0]}: settings need a config (-c) whose values they take the place of."
            )
        return None
    return load_config(options.config, parse_overrides(options.settings))


def _images(name: str, options: argparse.Namespace, settings: Settings | None) -> SegmentationDataset:
    if name == "uavid":
        facts = sets.find(name)
        if options.dataset not in facts.frame_specs:
            raise ConfigError(f"-d {options.dataset!r}: expected one of {', '.join(facts.frame_specs)}.")
        return facts.test(options.input, spec=facts.frame_specs[options.dataset])
    return test_images(name, settings, validation=options.val)


def _coloured(name: str, options: argparse.Namespace) -> bool:
    """Whether masks are written in colours: on demand, of frames unless indices are demanded."""
    if name != "uavid":
        return bool(options.rgb)
    if options.rgb and options.index:
        raise ConfigError("--rgb and --index contradict each other.")
    return not options.index


def _batch(name: str, options: argparse.Namespace, settings: Settings | None) -> int:
    """Images, or windows of a frame, at once: as asked for, else as the config validates, else 1; windows 2."""
    default = 2 if name == "uavid" else settings.val_batch_size if settings else 1
    return int(options.batch_size or default)


def _windows(name: str, options: argparse.Namespace, settings: Settings | None) -> Windows | None:
    """The windows that --window or the config asks for; None for whole images and for frames in UAVid's own ones."""
    of_frames = name == "uavid"
    own = of_frames and (options.patch_height or options.patch_width)
    if own and options.window:
        raise ConfigError("--window and -ph or -pw contradict each other: leave out one of them.")
    side = options.window or (settings.test_window if settings and not own else None)
    if side is not None:
        default = settings.test_overlap if settings else SETTINGS["test_overlap"].default
        return Windows(side, side, default if options.overlap is None else options.overlap)
    if options.overlap is not None and not of_frames:
        raise ConfigError(f"--overlap {options.overlap}: images are segmented whole. Give --window, too.")
    return None


def _segment(
    name: str, options: argparse.Namespace, settings: Settings | None, network: Network, classes: int
) -> tuple[Segment, dict[str, Any]]:
    """The function that segments the images, and its settings as plain values."""
    views = {"none": tta.NONE, "lr": tta.LR, "d4": sets.find(name).d4}[options.tta]
    shape: dict[str, Any] = {"views": {"mode": options.tta, "number": len(views), "scales": list(views.scales)}}
    batch = _batch(name, options, settings)
    if windows := _windows(name, options, settings):
        segment = views_by_windows(network, views, classes, windows, batch)
        return segment, shape | {"windows": asdict(windows) | {"padded": False}}
    if name != "uavid":
        return whole_images(network, views, options.tta_batch, classes), shape | {"windows": None}
    windows = Windows(options.patch_height or 1152, options.patch_width or 1024, options.overlap or 0.0)
    segment = by_windows(network, views, options.tta_batch, classes, windows, batch)
    return segment, shape | {"windows": asdict(windows)}


def _server(name: str, options: argparse.Namespace, dataset: SegmentationDataset) -> Server | None:
    """What the server of the submission expects; None where none is wanted."""
    path: Path | None = options.submission
    if path is None:
        return None
    if not path.parent.is_dir():
        raise ConfigError(f"--submission {path}: no folder {path.parent}.")
    if getattr(options, "val", False):
        raise ConfigError("--submission is of the test images: leave out --val.")
    server = submission.server(name, dataset.pairs)
    if server.coloured != _coloured(name, options) or options.legend != "official":
        form = "colour masks: leave out --index" if server.coloured else "class indices: leave out --rgb"
        raise ConfigError(f"--submission: the server of {name} takes {form} and --legend.")
    if dataset.spec != server.spec:
        raise ConfigError(f"--submission: the server takes the classes of {name}, not those of {dataset.spec.name}.")
    return server


def _report(console: Console, scores: Scores, number: int, folder: Path, record: dict[str, Any]) -> None:
    """Show the scores and write them beside the masks; say so where there are none."""
    if not scores.counts:
        console.print("no labels, so no scores")
        return
    if len(scores.counts) < number:
        console.print(f"note: {number - len(scores.counts)} images have no labels and are not scored")
    scores.print(console)
    scores.write(folder, record)
    console.print(f"scores in {folder / 'metrics.json'} and metrics.csv")


def _submit(console: Console, path: Path | None, server: Server | None, folder: Path) -> int:
    if path is None or server is None:
        return 0
    problems = submission.write_zip(path, folder, server)
    for line in problems:
        print(f"problem: {line}", file=sys.stderr)
    if problems:
        print(f"{path} is not written", file=sys.stderr)
        return cli.EXIT_PROBLEMS
    if server.note:
        console.print(server.note)
    console.print(f"{path}: {len(server.sizes)} masks, ready for the server")
    return 0
