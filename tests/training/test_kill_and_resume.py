"""Runs that are killed and go on end as if they had never stopped: bit for bit."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import write_config
from tests.training.killing import ROOT, Chain, Death, run_chains
from tests.training.test_trainer import assert_same

WEIGHTS = Path("model_weights/vaihingen/tiny")
# Six steps of two accumulated batches of one image in two epochs, two validation images; Lookahead meets in the second.
WORDS = [
    "max_epoch=2", "train_batch_size=1", "val_batch_size=1", "accumulate_grad_batches=2", "drop_path_rate=0.5",
    "backbone_lr=1e-4", "save_every_n_steps=1", "auto_resume=True",
]  # fmt: skip
VARIANTS = {
    "accumulated": [*WORDS, "max_epoch=3"],
    "batch_norm, worker": [*WORDS, "backbone=test_resnet", "drop_path_rate=0.0", "num_workers=1", "max_epoch=3",
                           "accumulate_grad_batches=1", "train_batch_size=2", "save_every_n_steps=2"],
    "epochs alone, workers": [*WORDS, "num_workers=2", "save_every_n_steps=0", "max_epoch=3",
                              "accumulate_grad_batches=4", "check_val_every_n_epoch=2"],
}  # fmt: skip


def unique(words: list[str]) -> list[str]:
    """The last of each setting."""
    return [f"{name}={value}" for name, value in dict(word.split("=", 1) for word in words).items()]


def folder(at: Path, name: str) -> str:
    path = at / name
    path.mkdir()
    write_config(path)
    return str(path)


def state(path: Path) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    names = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "d2ls", "log")
    return {name: content[name] for name in names}


def newest_log(at: Path) -> bytes:
    versions = sorted((at / "lightning_logs/vaihingen/tiny").iterdir(), key=lambda path: int(path.name.split("_")[1]))
    return (versions[-1] / "metrics.csv").read_bytes()


def assert_same_end(one: str | Path, other: str | Path) -> None:
    """Checkpoints, log and files of two runs."""
    one, other = Path(one), Path(other)
    for name in ("last", "tiny"):
        assert_same(*(state(run / WEIGHTS / f"{name}.ckpt") for run in (one, other)), name)
    assert newest_log(one) == newest_log(other)
    files = [sorted(path.name for path in (run / WEIGHTS).iterdir()) for run in (one, other)]
    assert files[0] == files[1] == ["last-previous.ckpt", "last.ckpt", "tiny.ckpt"], "nothing is left over"


@pytest.mark.usefixtures("run_folder")
def test_killed_and_told_to_end(tmp_path: Path) -> None:
    deaths = [
        Death(4, "backward"),  # the second batch of the second step
        Death(1, "step", signal.SIGTERM),  # the next step is its boundary
        Death(2, "validation"),
        Death(1, "validation", signal.SIGTERM),
        Death(2, "write"),  # the best checkpoint of the first epoch
        Death(1, "epoch", signal.SIGTERM),
        Death(3, "rename"),
    ]
    chains = [
        Chain(folder(tmp_path, "whole"), unique([*WORDS, "num_workers=0"])),
        Chain(folder(tmp_path, "stopped"), unique([*WORDS, "num_workers=1"]), deaths),
    ]
    whole, stopped = run_chains(chains)
    assert whole.codes == [0], whole.output
    assert "auto_resume: no checkpoint model_weights/vaihingen/tiny/last.ckpt; the run starts anew" in whole.output[0]
    assert stopped.codes == [-9, 143, -9, 143, -9, 143, -9, 0], stopped.output
    assert_same_end(chains[0].folder, chains[1].folder)
    assert "last.ckpt holds epoch 1 as far as it was: resume_ckpt_path=last" in stopped.output[1]
    assert "going on with epoch 1 of 2, behind its first 4 batches" in stopped.output[2]
    assert "going on with epoch 1 of 2, behind its first 6 batches" in stopped.output[3]
    assert "last.ckpt holds the last whole epoch: resume_ckpt_path=last" in stopped.output[5]
    assert "going on with epoch 2 of 2, from" in stopped.output[6]
    for word in ("Traceback", "Warning", "resumable"):
        assert word not in "".join(stopped.output)


@pytest.mark.slow
@pytest.mark.usefixtures("run_folder")
@pytest.mark.parametrize("variant", VARIANTS)
def test_random_kill_points(variant: str, tmp_path: Path) -> None:
    words, rng = unique(VARIANTS[variant]), random.Random(variant)
    whole = Chain(folder(tmp_path, "whole"), words)
    (counted,) = run_chains([whole])
    assert counted.codes == [0], counted.output
    counts = counted.events[0]

    def death(share: float) -> Death:
        kind = rng.choice(sorted(counts))
        return Death(rng.randint(1, max(1, round(share * counts[kind]))), kind)

    # The first of a chain anywhere in the run, the second where the run has gone on for a part of it.
    chains = [Chain(folder(tmp_path, f"killed{number}"), words, [death(1), death(0.4)]) for number in range(6)]
    where: Counter[str] = Counter()
    for chain, outcome in zip(chains, run_chains(chains, timeout=1500), strict=True):
        assert set(outcome.codes[:-1]) <= {-9, 0}, outcome.output
        assert outcome.codes[-1] == 0, outcome.output
        where.update(name for found in outcome.events for name in found if name.startswith("killed in"))
        assert_same_end(whole.folder, chain.folder)
    print(f"{variant}: {where.total()} kill points: {dict(where)}")
    assert where.total() >= 8


@pytest.mark.slow
def test_killed_at_any_time(run_folder: Path) -> None:
    words = unique([*VARIANTS["accumulated"], "num_workers=1", "max_epoch=6"])
    command = [sys.executable, str(ROOT / "train.py"), "-c", "tiny.py", *words]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, timeout=500)
    length = time.monotonic() - started
    whole = run_folder / "whole"
    for name in ("model_weights", "lightning_logs"):
        shutil.move(run_folder / name, whole / name)
    rng, kills = random.Random(6), 0
    for _ in range(40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, error = process.communicate(timeout=rng.uniform(0.3, 1) * length if kills < 8 else 500)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, error
        break
    print(f"killed {kills} times")
    assert kills
    assert_same_end(whole, run_folder)
