"""Where runs start, and how they stop; for runs that are killed see test_kill_and_resume.py."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from d2ls.config import load_config
from d2ls.errors import CheckpointError, ConfigError, Terminated
from d2ls.training import trainer as training
from d2ls.training.checkpoint_io import previous_of
from d2ls.training.module import SegmentationModule
from d2ls.training.resume import begin_loader
from tests.tiny import write_config
from tests.training.test_trainer import WEIGHTS, assert_same_state, log, run, saved

ROOT = Path(__file__).parents[2]
LAST = WEIGHTS / "last.ckpt"
pytestmark = pytest.mark.usefixtures("run_folder")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_truncated_last_checkpoint_gives_way_to_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    whole, content = saved(), LAST.read_bytes()
    cut(LAST)
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read .* There is also .*last-previous\.ckpt"):
        run(resume_ckpt_path=str(LAST))
    capsys.readouterr()

    run(auto_resume=True)
    shown = capsys.readouterr().out
    assert re.search(r"warning: \S+last\.ckpt cannot be read as a weight file", shown)
    assert "warning: going on from the checkpoint before it, model_weights/vaihingen/tiny/last-previous.ckpt" in shown
    assert "note: model_weights/vaihingen/tiny/last.ckpt is now last-unreadable.ckpt" in shown
    assert "note: going on with epoch 2 of 2, from model_weights/vaihingen/tiny/last-previous.ckpt" in shown
    assert_same_state(whole, saved())
    assert log(0) == log(1)
    assert saved("last-previous")["epoch"] == 0, "a damaged checkpoint never takes the place of a whole one"
    assert (WEIGHTS / "last-unreadable.ckpt").read_bytes() == content[:-100]

    for path in (LAST, previous_of(LAST)):
        cut(path)
    for changes in ({"auto_resume": True}, {"resume_ckpt_path": "last"}):
        with pytest.raises(CheckpointError, match=r"Remove last\.ckpt, last-previous\.ckpt from .* to start anew"):
            run(**changes)


def test_the_own_checkpoint_comes_before_the_named_one(capsys: pytest.CaptureFixture[str]) -> None:
    run(max_epoch=1)
    LAST.rename("first.ckpt")
    for epoch, source in ((2, "first.ckpt"), (3, str(LAST))):
        run(max_epoch=3 if epoch == 3 else 2, resume_ckpt_path="first.ckpt", auto_resume=True)
        assert f"going on with epoch {epoch} of {epoch}, from {source}" in capsys.readouterr().out
    run(max_epoch=3, auto_resume=True)
    assert "last.ckpt: all 3 epochs are done already. Raise max_epoch to train on." in capsys.readouterr().out
    assert not Path("lightning_logs/vaihingen/tiny/version_3").exists()


def test_best_scores_move_with_their_folder(capsys: pytest.CaptureFixture[str]) -> None:
    run(save_top_k=2, weights_name="tiny", max_epoch=2)
    Path("moved").mkdir()
    WEIGHTS.rename("moved/tiny")
    run(save_top_k=2, weights_path="moved/tiny", auto_resume=True, max_epoch=3, lr=1e-6)
    assert re.search(r"best val_F1: 0\.\d{4}, in moved/tiny/tiny-epoch=\d\.ckpt", capsys.readouterr().out)
    assert len(list(Path("moved/tiny").glob("tiny-epoch=*.ckpt"))) == 2


def test_an_epoch_goes_on_with_its_own_order_only() -> None:
    loader = load_config("tiny.py").train_loader
    order = {"seed": 42, "images": 6, "batch_size": 2, "processes": 1}
    whole = {epoch: _epoch(loader, epoch) for epoch in (1, 2)}
    begin_loader(loader, {"epochs": 1, "batches": 2, "order": order})
    assert len(loader) == 3
    assert _epoch(loader, None) == whole[1][2:]
    assert _epoch(loader, 2) == whole[2]
    for change in ({"seed": 1}, {"images": 7}, {"batch_size": 1}, {"processes": 2}):
        with pytest.raises(
            ConfigError, match=r"inside an epoch, behind 2 batches, .* Set seed, train_batch_size and gpus"
        ):
            begin_loader(loader, {"epochs": 1, "batches": 2, "order": order | change})
    begin_loader(loader, {"epochs": 2, "batches": 0, "order": {}})
    assert _epoch(loader, None) == whole[2]


def _epoch(loader: Any, epoch: int | None) -> list[list[str]]:
    if epoch is not None:
        loader.sampler.set_epoch(epoch)
    return [batch["name"] for batch in loader]


PLAIN = """import torch
from d2ls.data.loaders import collate
train_loader = torch.utils.data.DataLoader(train_dataset, 2, collate_fn=collate)
"""


def test_a_plain_loader_cannot_begin_inside_an_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loader = "train_loader = training_loader(train_dataset, train_batch_size, seed=seed, num_workers=num_workers)"
    path = write_config(Path(), (loader, PLAIN))
    with pytest.raises(ConfigError, match="save_every_n_steps=1: train_loader cannot begin inside an epoch"):
        run(path, save_every_n_steps=1)
    steps = iter(range(10))
    original = SegmentationModule.training_step

    def step(self: Any, batch: Any, at: int) -> Any:
        if next(steps) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, at)

    monkeypatch.setattr(SegmentationModule, "training_step", step)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as end:
        run(path)
    assert end.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert (saved()["epoch"], saved()["d2ls"]["position"]["batches"]) == (0, 0)
    assert "last.ckpt holds the last whole epoch: resume_ckpt_path=last" in capsys.readouterr().out


def test_slurm_is_not_left_to_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SLURMEnvironment, "detect", staticmethod(lambda: True))
    found = [
        plugin for plugin in training._plugins(load_config("tiny.py"), False) if isinstance(plugin, SLURMEnvironment)
    ]
    assert [plugin.auto_requeue for plugin in found] == [False]


@pytest.mark.parametrize("name", ["save_every_n_steps", "auto_resume"])
def test_what_needs_the_last_checkpoint(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}=(1|True): it needs the last checkpoint: set save_last=True"):
        load_config("tiny.py", {name: True if name == "auto_resume" else 1, "save_last": False})


# Losses that are not finite, labels that do not fit

SOMETIMES = """
import torch

class Sometimes(torch.nn.Module):
    def __init__(self, loss, bad):
        super().__init__()
        self.loss, self.bad, self.calls = loss, bad, 0

    def forward(self, output, mask):
        terms = self.loss(output, mask)
        if self.training:
            self.calls += 1
            if self.calls in self.bad:
                terms["loss"] = terms["loss"] / 0 * 0
        return terms

loss = Sometimes(loss, {bad})
"""


class Weights(pl.Callback):
    """Which steps changed the weights."""

    def __init__(self) -> None:
        self.moved: list[bool] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.before = [parameter.detach().clone() for parameter in module.net.parameters()]

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        pairs = zip(self.before, module.net.parameters(), strict=True)
        self.moved.append(any(not torch.equal(one, other) for one, other in pairs))


def test_batches_without_a_finite_loss_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(Path(), after=SOMETIMES.replace("{bad}", "{2, 4}"))
    weights = Weights()
    monkeypatch.setattr(training, "ProgressBar", lambda _: weights)
    run(path, max_skipped_batches=1)
    assert weights.moved == [True, False, True, False, True, True]
    rows = [row for row in log() if row["train_loss_epoch"]]
    assert [float(row["train_skipped_epoch"]) for row in rows] == [1, 1]
    assert all(0 < float(row["train_loss_epoch"]) < 10 for row in rows)
    file = Path("lightning_logs/vaihingen/tiny/version_0/not_finite.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in file[1:]] == [["0", "1"]] * 2 + [["1", "3"]] * 2
    assert saved()["d2ls"]["skipped"] == [1, 2]
    assert all(torch.isfinite(tensor).all() for tensor in saved()["state_dict"].values() if tensor.is_floating_point())


def test_too_many_of_them_are_an_error() -> None:
    path = write_config(Path(), after=SOMETIMES.replace("{bad}", "{1, 3}"))
    with pytest.raises(
        training.D2LSError, match=r"not finite in step 2; .* 1 batches of this epoch were left out before"
    ):
        run(path, max_skipped_batches=1)
    path = write_config(Path(), after=SOMETIMES.replace("{bad}", "{1, 2, 3}"))
    with pytest.raises(training.D2LSError, match="no batch of epoch 1 had a finite loss: nothing was learnt"):
        run(path, max_skipped_batches=5)


def test_a_batch_left_out_among_accumulated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(Path(), after=SOMETIMES.replace("{bad}", "{2}"))
    weights = Weights()
    monkeypatch.setattr(training, "ProgressBar", lambda _: weights)
    run(path, max_skipped_batches=1, accumulate_grad_batches=3, max_epoch=1)
    assert weights.moved == [False, False, True]
    assert all(torch.isfinite(tensor).all() for tensor in saved()["state_dict"].values() if tensor.is_floating_point())


RELABELLED = """
class Relabelled(torch.utils.data.Dataset):
    def __init__(self, dataset, label):
        self.dataset, self.label = dataset, label

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, item):
        sample = self.dataset[item]
        return {**sample, "mask": torch.full_like(sample["mask"], self.label)}

"""


def relabelled(label: int) -> Path:
    loader = "train_loader = training_loader"
    change = f"{RELABELLED}train_dataset = Relabelled(train_dataset, {label})\n{loader}"
    first = '"""Six drawn scenes, two epochs of three steps."""\n'
    return write_config(Path(), (loader, change), (first, first + "import torch\n"))


def test_labels_that_do_not_fit_are_found_before_the_first_step() -> None:
    words = (
        r"tiny\.py: num_classes=6 does not fit the labels of train_dataset: the mask of \S+\.tif holds \[17\]; expected"
    )
    with pytest.raises(ConfigError, match=words):
        run(relabelled(17))
    assert not Path("lightning_logs").exists()
    assert not WEIGHTS.exists()


def test_batches_without_labelled_pixels_teach_nothing_and_break_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []

    def look(self: Any) -> None:
        gradients.extend(parameter.grad for parameter in self.net.parameters() if parameter.grad is not None)

    monkeypatch.setattr(SegmentationModule, "on_after_backward", look)
    run(relabelled(load_config("tiny.py").ignore_index), max_epoch=1, allow_missing_classes=True)
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    (row,) = (row for row in log() if row["train_loss_epoch"])
    assert float(row["train_loss_epoch"]) == 0
    assert all(torch.isfinite(tensor).all() for tensor in saved()["state_dict"].values() if tensor.is_floating_point())


# Processes


@pytest.mark.slow
def test_a_killed_reader_is_a_clear_end() -> None:
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "-c",
        "tiny.py",
        "max_epoch=2000",
        "num_workers=1",
        "auto_resume=True",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _wait_for(LAST, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        out, error = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 2, error
    assert "Traceback" not in error
    assert re.search(
        r"error: a process that reads images was killed \(DataLoader worker \(pid.*\) .*auto_resume", error
    )
    assert "last.ckpt holds the last whole epoch" in out


@pytest.mark.slow
def test_two_processes_end_together_and_go_on(run_folder: Path) -> None:
    words = ["gpus=2", "strategy=ddp", "train_batch_size=1", "val_batch_size=1", "auto_resume=True"]
    command = [sys.executable, str(ROOT / "train.py"), "-c", "tiny.py", *words]
    process = subprocess.Popen([*command, "max_epoch=2000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _wait_for(LAST, process)
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode in (143, -15), error
    assert "last.ckpt holds" in out
    epochs = saved()["d2ls"]["position"]["epochs"]
    done = subprocess.run(
        [*command, f"max_epoch={epochs + 1}"], capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"going on with epoch {epochs + 1} of {epochs + 1}") == 1
    assert saved()["epoch"] == epochs
    assert sorted(path.name for path in WEIGHTS.iterdir()) == ["last-previous.ckpt", "last.ckpt", "tiny.ckpt"]


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 240
    while not path.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
