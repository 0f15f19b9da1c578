"""Training runs that are killed at chosen moments, and go on: `run_chains` for tests; as a script, what it starts.

A chain is one run of train.py in as many processes as it has deaths, plus one that is left alone. Each process counts
events (steps, validation batches, writes, renames, ...); a death names one of them and the signal that the process
sends itself there. The processes are forks of one that has imported everything, so that each costs a second.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Death:
    """Signal `number` at the `at`-th event, of one kind or of any."""

    at: int
    kind: str = ""
    number: int = signal.SIGKILL


@dataclass
class Chain:
    """A run in `folder`, with settings as on a command line."""

    folder: str
    words: Sequence[str]
    deaths: Sequence[Death] = ()


@dataclass
class Outcome:
    """How each process of a chain ended (exit code, or minus a signal), and what events it counted."""

    codes: list[int]
    events: list[dict[str, int]]
    output: list[str]


def run_chains(chains: Sequence[Chain], timeout: float = 1500) -> list[Outcome]:
    """Run chains one after the other."""
    told = json.dumps([asdict(chain) for chain in chains])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killing"], input=told, capture_output=True, text=True, check=False,
        timeout=timeout, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [Outcome(**found) for found in json.loads(done.stdout.splitlines()[-1])]


class _Events:
    """Counts events and dies at the chosen one."""

    def __init__(self, death: Death | None) -> None:
        self.counts: Counter[str] = Counter()
        self.death = death

    def happen(self, kind: str) -> None:
        self.counts[kind] += 1
        death = self.death
        if death is not None and death.at == (self.counts[death.kind] if death.kind else self.counts.total()):
            self.death = None
            if death.number == signal.SIGKILL:
                self.write(Path("killed.json"), kind)
            os.kill(os.getpid(), death.number)

    def write(self, path: Path, kind: str = "") -> None:
        path.write_text(json.dumps({**self.counts, **({"killed in " + kind: 1} if kind else {})}))

    def before(self, owner: Any, name: str, kind: str) -> None:
        """Let an event happen before each call of a function."""
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            self.happen(kind)
            return original(*args, **options)

        setattr(owner, name, wrapped)


class _Watched:
    """A file each of whose writes is an event, with what was written before on the disk."""

    def __init__(self, file: Any, happen: Callable[[str], None]) -> None:
        self._file, self._happen = file, happen

    def write(self, data: Any) -> int:
        self._file.flush()
        self._happen("write")
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _watch(events: _Events) -> None:
    import torch  # noqa: PLC0415
    from pytorch_lightning.loggers import CSVLogger  # noqa: PLC0415

    from d2ls.training.module import SegmentationModule  # noqa: PLC0415
    from d2ls.training.resume import LastCheckpoint  # noqa: PLC0415

    events.before(SegmentationModule, "training_step", "step")
    events.before(SegmentationModule, "on_after_backward", "backward")
    events.before(SegmentationModule, "validation_step", "validation")
    events.before(LastCheckpoint, "on_train_batch_end", "stepped")
    events.before(LastCheckpoint, "on_train_epoch_end", "epoch")
    events.before(CSVLogger, "save", "row")
    events.before(os, "fsync", "sync")
    events.before(os, "replace", "rename")
    for name in ("replace", "hardlink_to", "unlink"):
        events.before(Path, name, "rename")
    save = torch.save
    torch.save = lambda content, file, *args: save(content, _Watched(file, events.happen), *args)  # type: ignore[assignment]


def _run(chain: Chain, death: Death | None) -> int:
    """A process of a chain; in a child of this one."""
    from d2ls.cli.common import run_main  # noqa: PLC0415
    from train import main  # noqa: PLC0415

    os.chdir(chain.folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    events = _Events(death)
    _watch(events)
    try:
        code = run_main(main, ["-c", "tiny.py", *chain.words])
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError):
        events.write(Path("killed.json"))
    return code


def _main() -> None:
    import torch  # noqa: PLC0415

    import train  # noqa: F401, PLC0415

    torch.set_num_threads(1)
    found = []
    for told in json.load(sys.stdin):
        chain = Chain(told["folder"], told["words"], [Death(**death) for death in told["deaths"]])
        outcome = Outcome([], [], [])
        for death in (*chain.deaths, None):
            if (child := os.fork()) == 0:
                code = 98
                try:
                    code = _run(chain, death)
                finally:
                    os._exit(code)
            outcome.codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            folder = Path(chain.folder)
            outcome.events.append(json.loads((folder / "killed.json").read_text()))
            outcome.output.append((folder / "output.txt").read_text()[-4000:])
        found.append(asdict(outcome))
    print(json.dumps(found))


if __name__ == "__main__":
    _main()
