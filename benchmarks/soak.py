"""Train and test in a loop while processes are killed at random, and show what leaks, hangs or is left over.

    python benchmarks/soak.py [--minutes 20] [--seed 0] [--folder DIR]

Two things run side by side on drawn scenes with a tiny backbone: one process that trains and tests again and again,
whose memory, open files and child processes are looked at after each round; and runs of train.py and test_vaihingen.py
of which the whole process, or one that reads images, is killed at a random moment, or which are told to end (SIGTERM to
the process group). Each goes on with `auto_resume=True` or `--resume`. Exit code 1 means that something was found.
"""

import argparse
import contextlib
import gc
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
DEADLOCK = 400  # seconds after which a process is taken to hang
WARM = 3  # rounds in one process until its memory has settled
GROWTH = 3.0  # MB a round that count as a leak
# Exit codes; 0: it was quicker; -15 (143 to a shell): by the signal itself, before its first step or after its last.
ENDS = {"left alone": {0}, "killed": {-9}, "reader killed": {2}, "told to end": {143, -15}}

CONFIG = """
from d2ls.data.sets import vaihingen
from d2ls.data.loaders import evaluation_loader, training_loader
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning
from d2ls.optim import adamw_lookahead, cosine

max_epoch, train_batch_size, val_batch_size, num_workers, seed = 2, 2, 1, 2, 42
classes, num_classes, ignore_index = vaihingen.SPEC.classes, vaihingen.SPEC.num_classes, vaihingen.SPEC.ignore_index
weights_name = test_weights_name = "soak"
weights_path, log_name = "model_weights/soak", "soak"
monitor, accelerator, save_every_n_steps, auto_resume = "val_F1", "cpu", 3, True
net = DynamicDictionaryLearning("test_convnext", num_classes, stages=1, width=32)
loss = D2LSLoss(ignore_index)
train_dataset, val_dataset, test_dataset = vaihingen.train(crop=64), vaihingen.val(), vaihingen.test()
train_loader = training_loader(train_dataset, train_batch_size, seed=seed, num_workers=num_workers)
val_loader = evaluation_loader(val_dataset, val_batch_size, num_workers=num_workers)
optimizer = adamw_lookahead(net, 1e-3)
lr_scheduler = cosine(optimizer, max_epoch)
"""


@dataclass
class Found:
    """What the killed runs showed."""

    ends: Counter[str] = field(default_factory=Counter)
    deadlocks: int = 0
    children_left: int = 0
    parts_left: int = 0
    peak: float = 0.0
    handles: int = 0
    problems: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and print the figures."""
    options = _options(arguments)
    if options.rounds_until:
        return _rounds(options.rounds_until)
    with _folder(options.folder) as folder:
        environment = _prepare(folder)
        shared_before = set(Path("/dev/shm").iterdir())
        until = time.time() + 60 * options.minutes
        words = [sys.executable, __file__, "--rounds-until", str(until)]
        with (folder / "rounds.log").open("wb") as log:
            steady = subprocess.Popen(
                words, cwd=_fresh(folder / "steady"), env=environment, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        found, rng = Found(), random.Random(options.seed)
        while time.time() < until:
            _one_run(_fresh(folder / "killed"), environment, rng, found)
        code = _end_of(steady, DEADLOCK)
        rounds = [json.loads(line) for line in (folder / "rounds.log").read_text().splitlines() if line.startswith("{")]
        if code != 0 or len(rounds) < 2:
            found.problems.append(f"rounds in one process: exit code {code}: " + _tail(folder / "rounds.log"))
        found.children_left += _left_of(steady.pid)
        killed = _killed(found)
        shared = sum(not _is_in_use(path) for path in set(Path("/dev/shm").iterdir()) - shared_before) - killed
        temporary = _left_in(folder / "tmp", found)
        return _show(found, rounds, shared, temporary, options.minutes)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="how long (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="decides what is killed when")
    parser.add_argument("--folder", type=Path, help="where to work; kept (default: a temporary folder)")
    parser.add_argument("--rounds-until", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _prepare(folder: Path) -> dict[str, str]:
    from tests.drawn import folders  # noqa: PLC0415

    folders.write_vaihingen(folder / "data", size=96, train=24, validation=6, test=6)
    (folder / "tmp").mkdir(exist_ok=True)
    return {**os.environ, "D2LS_DATA": str(folder / "data"), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}


def _fresh(folder: Path) -> Path:
    """An empty working folder with the config."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "soak.py").write_text(CONFIG)
    return folder


# One process that trains and tests again and again


def _rounds(until: float) -> int:
    """Print a line of figures after each round."""
    from d2ls.cli.common import run_main  # noqa: PLC0415
    from test_vaihingen import main as test  # noqa: PLC0415
    from train import main as train  # noqa: PLC0415

    done = 0
    while time.time() < until:
        shutil.rmtree("model_weights", ignore_errors=True)
        codes = (
            run_main(train, ["-c", "soak.py", "max_epoch=1"]),
            run_main(test, ["-c", "soak.py", "-o", f"out{done % 2}"]),
        )
        if any(codes):
            return 1
        done += 1
        gc.collect()
        memory, handles = _memory(os.getpid()), len(list(Path("/proc/self/fd").iterdir()))
        threads = len(list(Path("/proc/self/task").iterdir()))
        print(
            "\n"
            + json.dumps(
                {"memory": memory, "handles": handles, "children": len(_children(os.getpid())), "threads": threads}
            ),
            flush=True,
        )
    return 0


# Runs that are killed


def _one_run(folder: Path, environment: dict[str, str], rng: random.Random, found: Found) -> None:
    """A run with deaths until it has ended, and a test of it with one."""
    train = [sys.executable, str(ROOT / "train.py"), "-c", "soak.py"]
    for death in (*rng.choices(list(ENDS)[1:], k=rng.randint(1, 4)), "left alone"):
        code = _process(train, folder, environment, death, rng, found)
        if code not in ENDS[death] | {0}:
            found.problems.append(f"train.py {death}: exit code {code}: {_tail(folder / 'output.log')}")
            return
        found.parts_left += len(list(folder.glob("model_weights/soak/.*.part"))) if death == "left alone" else 0
    test = [sys.executable, str(ROOT / "test_vaihingen.py"), "-c", "soak.py", "-o", "out", "-t", "lr", "--resume"]
    for death in ("killed", "left alone"):
        code = _process(test, folder, environment, death, rng, found)
        if code not in ENDS[death] | {0}:
            found.problems.append(f"test_vaihingen.py {death}: exit code {code}: {_tail(folder / 'output.log')}")


def _process(
    words: list[str], folder: Path, environment: dict[str, str], death: str, rng: random.Random, found: Found
) -> int:
    """Start a process, let it die, look at what it uses and leaves; its exit code, or minus a signal."""
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    started, moment = time.monotonic(), None
    patience = rng.expovariate(0.3)
    while process.poll() is None and time.monotonic() - started < DEADLOCK:
        with contextlib.suppress(OSError):
            found.peak = max(found.peak, _memory(process.pid))
            found.handles = max(found.handles, len(list(Path(f"/proc/{process.pid}/fd").iterdir())))
        if moment is None and _is_ready(process.pid, folder, death):
            moment = time.monotonic() + patience
        if moment is not None and time.monotonic() > moment and death != "left alone":
            _kill(process.pid, death, rng)
            death = "left alone"  # once is enough
        time.sleep(0.05)
    if process.poll() is None:
        found.deadlocks += 1
        found.problems.append(f"{Path(words[1]).name} hangs: {_tail(folder / 'output.log')}")
    code = _end_of(process, 1)
    found.ends[f"{Path(words[1]).name}: exit code {code}"] += 1
    found.children_left += _left_of(process.pid)
    return code


def _is_ready(process: int, folder: Path, death: str) -> bool:
    """Whether the moment of a death may be drawn: at once, or as soon as there is what dies."""
    if death == "reader killed":
        return bool(_children(process))
    if death == "told to end":
        return "Epoch" in (folder / "output.log").read_text(errors="replace") or bool(_children(process))
    return True


def _kill(process: int, death: str, rng: random.Random) -> None:
    with contextlib.suppress(ProcessLookupError, IndexError):
        if death == "killed":
            os.kill(process, signal.SIGKILL)
        elif death == "told to end":
            os.killpg(process, signal.SIGTERM)
        elif death == "reader killed":
            os.kill(rng.choice(_children(process)), signal.SIGKILL)


def _end_of(process: subprocess.Popen[bytes], patience: float) -> int:
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _left_of(session: int) -> int:
    """Processes of a session that live on after it; readers notice within some seconds that they are alone."""
    until = time.monotonic() + 20
    while (left := _of_session(session)) and time.monotonic() < until:
        time.sleep(0.2)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(left)


def _left_in(folder: Path, found: Found) -> list[str]:
    """Temporary files that stay; but for a cache of torch, and one socket of each killed process."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("torchinductor_"))
    sockets = [name for name in names if name.startswith("pymp-")]
    return [name for name in names if name not in sockets] + sockets[_killed(found) :]


def _killed(found: Found) -> int:
    """Processes that could not clear up: each may leave a socket and the name of a piece of shared memory."""
    return sum(count for end, count in found.ends.items() if not end.endswith(("code 0", "code 143")))


# What the system tells


def _is_in_use(path: Path) -> bool:
    """Whether a file of shared memory was gone in a moment, or belongs to a process that lives: torch_<process>_..."""
    owner = re.match(r"torch_(\d+)_", path.name)
    time.sleep(0.5)
    return not path.exists() or (owner is not None and Path(f"/proc/{owner[1]}").exists())


def _memory(process: int) -> float:
    """Resident memory of a process, MB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _of_session(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, *numbers = path.read_text().rpartition(")")[2].split()
            if int(numbers[2]) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


def _tail(path: Path) -> str:
    lines = [line for line in re.split(r"[\r\n]+", path.read_text(errors="replace")) if line.strip()]
    return " | ".join(lines[-6:])


def _show(found: Found, rounds: list[dict[str, Any]], shared: int, temporary: list[str], minutes: float) -> int:
    """Print the table; the exit code."""
    table = Table(title=f"{minutes:g} minutes", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    if len(rounds) > WARM + 1:
        settled = rounds[WARM:]
        growth = float(np.polyfit(range(len(settled)), [row["memory"] for row in settled], 1)[0])
        if growth > GROWTH:
            found.problems.append(f"memory grows by {growth:.1f} MB a round")
        table.add_row("rounds of training and testing in one process", str(len(rounds)))
        table.add_row(
            "its memory after rounds 1, 4 and the last, MB",
            " ".join(f"{rounds[at]['memory']:.0f}" for at in (0, WARM, -1)),
        )
        table.add_row(f"growth a round after the first {WARM}, MB", f"{growth:.2f}")
        for name, text in (("handles", "open files"), ("children", "child processes"), ("threads", "threads")):
            table.add_row(f"its {text} after round 4 and the last", f"{settled[0][name]} {settled[-1][name]}")
            if settled[-1][name] > settled[0][name]:
                found.problems.append(f"{text} grow from {settled[0][name]} to {settled[-1][name]}")
    for end, count in sorted(found.ends.items()):
        table.add_row(end, str(count))
    table.add_row("largest memory of a killed or resumed process, MB", f"{found.peak:.0f}")
    table.add_row("most open files of one", str(found.handles))
    counts = {"deadlocks": found.deadlocks, "child processes left": found.children_left,
              "unfinished checkpoints left": found.parts_left, "left in /dev/shm beyond one a death": max(shared, 0),
              "temporary files left beyond one a death": len(temporary)}  # fmt: skip
    for name, count in counts.items():
        table.add_row(name, str(count))
        if count > 0:
            which = f" ({', '.join(temporary[:3])})" if "temporary" in name else ""
            found.problems.append(f"{name}: {count}{which}")
    Console().print(table)
    for problem in found.problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
