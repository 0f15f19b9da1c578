"""How much the decoder adds to the backbone alone, in time and memory, against a plain transcription of the method.

    python benchmarks/model.py                                     ConvNeXt-T, 512 px, batch 2, 7 classes
    python benchmarks/model.py --backbone convnext_base --batch 1
    python benchmarks/model.py --grow                              cost over image size and number of entries
    python benchmarks/model.py --count                             parameters and multiply-adds of the shipped configs
    python benchmarks/model.py --kernels --backbone convnext_base --batch 8    kernels of a step on an accelerator
    python benchmarks/model.py --matmul high --compile             float32 in TF32, compiled, on a GPU

Three contenders take turns in one process: the backbone alone (the limit), the network with its loss, and the
transcription of both in tests/naive.py with the same weights, whose outputs are compared first. Peak memory is that of
a fresh process for each on a CPU, and the allocator's in this process on a GPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.kernel_count import count as count_of
from d2ls.cli.common import parser, run_main
from d2ls.config import load_config
from d2ls.errors import ConfigError
from d2ls.losses import D2LSLoss
from d2ls.memory import keep_freed_memory
from d2ls.models import DynamicDictionaryLearning
from d2ls.settings import MATMUL_PRECISIONS
from tests.naive import NaiveD2LS, naive_loss

STEPS = ("evaluation", "training")
CONTENDERS = ("backbone", "network", "naive")
IGNORE = 255
PUBLISHED = {
    "vaihingen": (1024, 1024), "potsdam": (1024, 1024), "loveda": (1024, 1024), "uavid": (1152, 1024),
    "grass": (256, 256), "cloud": (512, 512),
}  # fmt: skip
"""Height and width of the images, or windows, that are tested."""


class Case:
    """The contenders with one set of weights, and a batch to run them on."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        torch.set_float32_matmul_precision(options.matmul)
        self.device = torch.device(options.device)
        self.precision = options.precision
        self.net = DynamicDictionaryLearning(
            options.backbone, options.classes, num_entries=options.entries, stages=options.stages, drop_path_rate=0.0,
            memory_efficient=False if options.plain_decoder else "auto",
        ).to(self.device)  # fmt: skip
        self.modules: dict[str, nn.Module] = {
            "backbone": self.net.backbone,
            "network": self.net,
            "naive": NaiveD2LS(self.net),
        }
        if options.compile:
            self.modules = {name: torch.compile(x, backend=options.compile) for name, x in self.modules.items()}
        shape = (options.batch, 3, options.size, options.size)
        self.image = torch.randn(shape, device=self.device)
        self.mask = torch.randint(0, options.classes, (shape[0], *shape[2:]), device=self.device)
        loss = D2LSLoss(ignore_index=IGNORE)
        self.losses: dict[str, Callable[[Any], torch.Tensor]] = {
            "backbone": lambda maps: torch.stack([level.float().mean() for level in maps]).sum(),
            "network": lambda output: loss(output, self.mask)["loss"],
            "naive": lambda output: naive_loss(output, self.mask, IGNORE),
        }

    def evaluate(self, name: str) -> Any:
        """One evaluation."""
        with torch.inference_mode(), self._autocast():
            return self.modules[name].eval()(self.image)

    def train(self, name: str) -> torch.Tensor:
        """The loss of one training step: forward, loss, backward. For the backbone, of the sum of its maps' means."""
        module = self.modules[name].train()
        self.net.zero_grad(set_to_none=True)
        with self._autocast():
            output = module(self.image)
        loss = self.losses[name](output)
        loss.backward()
        return loss.detach()

    def check(self, step: str) -> float:
        """Largest difference between the logits, or losses, of network and transcription, relative to the largest."""
        ours, plain = (self.runs(step)[name]().float() for name in ("network", "naive"))
        return float((ours - plain).abs().max() / plain.abs().max())

    def runs(self, step: str) -> dict[str, Callable[[], Any]]:
        """An evaluation or a training step of each contender."""
        return {name: partial(self.train if step == "training" else self.evaluate, name) for name in CONTENDERS}

    def added_memory(self, name: str, step: str) -> int:
        """Bytes that one run adds to the loaded model at its peak."""
        run = self.runs(step)[name]
        self.net.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            return torch.cuda.max_memory_allocated() - before
        Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
        before = _status("VmRSS")
        run()
        return _status("VmHWM") - before

    def _autocast(self) -> Any:
        kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        if kind is None:
            return nullcontext()
        return torch.autocast(self.device.type, kind)

    def wait(self) -> None:
        """Let the device finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def median_seconds(case: Case, step: str, options: argparse.Namespace) -> dict[str, float]:
    """Median of `repeats` runs of each contender, taking turns, after those of the warm-up, which do not count.

    Each turn begins with another one: what a run finds in memory and caches depends on the one before it.
    """
    runs = case.runs(step)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    bar = Console(stderr=True)  # drawn between the turns only
    number = range(-options.warmup, options.repeats)
    turns = track(number, "measuring", console=bar, disable=not bar.is_terminal, auto_refresh=False, transient=True)
    for turn in turns:
        first = turn % len(runs)
        for name, run in [*list(runs.items())[first:], *list(runs.items())[:first]]:
            case.wait()
            start = time.perf_counter()
            run()
            case.wait()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure(case: Case, options: argparse.Namespace, steps: Sequence[str]) -> dict[str, Any]:
    """Medians in seconds of the contenders in each step, and how far their logits, or losses, differ."""
    result: dict[str, Any] = {"difference": {step: case.check(step) for step in steps}}
    return result | {step: median_seconds(case, step, options) for step in steps}


def peak_memory(words: Sequence[str], name: str, step: str) -> int:
    """Bytes that one run adds to the loaded model at its peak, in a fresh process.

    glibc is told to return what is freed: the holes that it would keep among blocks of some MB are no one's tensors.
    """
    command = [sys.executable, __file__, *words, "--memory-of", name, step]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    finished = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(finished.stdout.split()[-1])


def _status(field: str) -> int:
    """A size in bytes from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def report(options: argparse.Namespace, words: Sequence[str], console: Console) -> dict[str, Any]:
    """Time and memory of one case, as tables."""
    case = Case(options)
    result = measure(case, options, options.steps)
    for step, difference in result["difference"].items():
        of = "losses" if step == "training" else "logits"
        console.print(f"largest difference of {of}, relative: {difference:.1e}")
    if not options.times_only:
        memory_of = case.added_memory if case.device.type == "cuda" else partial(peak_memory, words)
        result["memory"] = {step: {name: memory_of(name, step) for name in CONTENDERS} for step in options.steps}
    for step in options.steps:
        seconds, memory = result[step], result.get("memory", {}).get(step)
        table = Table(title=f"{step}, medians of {options.repeats}", title_justify="left")
        memory_headings = ("memory added, GB", "naive / it ") if memory else ()
        for heading in ("", "seconds", "over backbone", "naive / it", *memory_headings):
            table.add_column(heading, justify="left" if not heading else "right")
        for name in CONTENDERS:
            over = (seconds[name] - seconds["backbone"]) / seconds["backbone"]
            sizes = (f"{memory[name] / 1e9:.2f}", f"{memory['naive'] / memory[name]:.2f}") if memory else ()
            table.add_row(
                name, f"{seconds[name]:.3f}", f"{over:.2f}", f"{seconds['naive'] / seconds[name]:.2f}", *sizes
            )
        console.print(table)
    return result


def grow(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Evaluation over image size and over number of entries."""
    cases = [("size", size) for size in (256, 512, 1024, 2048)] + [("entries", n) for n in (4, 8, 16, 32, 64)]
    table = Table(title=f"evaluation, batch 1, medians of {options.repeats}, seconds", title_justify="left")
    for heading in ("", "backbone", "network", "naive", "over backbone"):
        table.add_column(heading, justify="right")
    rows = []
    for name, value in cases:
        chosen = argparse.Namespace(**{**vars(options), "batch": 1, name: value})
        seconds = measure(Case(chosen), options, ["evaluation"])["evaluation"]
        over = (seconds["network"] - seconds["backbone"]) / seconds["backbone"]
        table.add_row(f"{name} {value}", *(f"{seconds[n]:.3f}" for n in CONTENDERS), f"{over:.2f}")
        rows.append({name: value, **seconds})
    console.print(table)
    return rows


def count(console: Console) -> dict[str, Any]:
    """Parameters and multiply-adds of the published configs, at 256 px and at their test size."""
    table = Table(title="parameters and multiply-adds of one image", title_justify="left")
    for heading in ("config", "parameters, M", "256 px, G", "test size", "test size, G"):
        table.add_column(heading, justify="right")
    result = {}
    for name, size in PUBLISHED.items():
        config = Path(__file__).resolve().parents[1] / "config" / name / "d2ls.py"
        net = load_config(config, {"pretrained": False}).net.eval()
        millions = sum(p.numel() for p in net.parameters()) / 1e6
        small, large = (_multiply_adds(net, *sides) / 1e9 for sides in ((256, 256), size))
        name_of_size = "{} x {}".format(*size)
        table.add_row(name, f"{millions:.2f}", f"{small:.1f}", name_of_size, f"{large:.1f}")
        result[name] = {"parameters": millions * 1e6, "256": small * 1e9, name_of_size: large * 1e9}
    console.print(table)
    return result


def _multiply_adds(net: nn.Module, height: int, width: int) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        net(torch.zeros(1, 3, height, width))
    return int(counter.get_total_flops() // 2)


def count_kernels(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Kernels, bytes and host waits of each contender on the meta device, which takes an accelerator's paths."""
    case = Case(argparse.Namespace(**{**vars(options), "device": "meta", "compile": None, "precision": "32-true"}))
    result: dict[str, Any] = {}
    for step in options.steps:
        result[step] = {name: count_of(run) for name, run in case.runs(step).items()}
        table = Table(title=f"{step} in float32 on an accelerator", title_justify="left")
        for heading in ("", "kernels", "GB moved", "host waits"):
            table.add_column(heading, justify="left" if not heading else "right")
        for name, found in result[step].items():
            table.add_row(name, f"{found['kernels']:.0f}", f"{found['gigabytes']:.1f}", f"{found['host waits']:.0f}")
        console.print(table)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and measure."""
    command = parser(str(__doc__))
    command.add_argument("--backbone", default="convnext_tiny", help="timm model name")
    for name, default in (("size", 512), ("batch", 2), ("classes", 7), ("stages", 3), ("repeats", 5), ("warmup", 1)):
        command.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    command.add_argument("--steps", nargs="+", default=STEPS, choices=STEPS, help="default: both")
    command.add_argument("--entries", type=int, help="dictionary entries; default: classes")
    command.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed", "16-mixed"))
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument("--matmul", default="highest", choices=MATMUL_PRECISIONS, help="high: TF32 on GPUs")
    command.add_argument(
        "--compile", nargs="?", const="inductor", metavar="BACKEND", help="torch.compile the contenders"
    )
    command.add_argument("--threads", type=int, help="CPU threads")
    command.add_argument("--keep-memory", action="store_true", help="keep freed memory, as train.py does on a CPU")
    command.add_argument("--grow", action="store_true", help="cost over image size and number of entries")
    command.add_argument("--count", action="store_true", help="parameters and multiply-adds of the shipped configs")
    command.add_argument("--kernels", action="store_true", help="kernels of an evaluation and a step; needs no device")
    command.add_argument(
        "--plain-decoder", action="store_true", help="memory_efficient=False: the decoder that an accelerator runs"
    )
    command.add_argument("--times-only", action="store_true", help="leave out the memory")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    command.add_argument("--memory-of", nargs=2, metavar=("CONTENDER", "STEP"), help=argparse.SUPPRESS)
    options = command.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.keep_memory and not options.memory_of and not keep_freed_memory():
        raise ConfigError("--keep-memory: this C library has no such setting, or MALLOC_* or GLIBC_TUNABLES is set.")
    if options.memory_of:
        print(Case(options).added_memory(*options.memory_of))
        return 0
    console = Console()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if options.count:
        result: Any = count(console)
    elif options.kernels:
        result = count_kernels(options, console)
    elif options.grow:
        result = grow(options, console)
    else:
        result = report(options, words, console)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
