"""train.py in several processes on the CPU: scores, files, and how runs end when one process fails."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from d2ls.checkpoint import load_weights, read_checkpoint
from d2ls.config import load_config
from d2ls.data.loaders import SeededSampler, collate
from d2ls.metrics import SegmentationMetrics
from tests.drawn import folders
from tests.tiny import write_config
from tests.training.test_trainer import assert_same

ROOT = Path(__file__).parents[2]
WEIGHTS = Path("model_weights/vaihingen/tiny")
LOG = Path("lightning_logs/vaihingen/tiny")
pytestmark = pytest.mark.usefixtures("run_folder")


def start(*words: str, processes: int = 2, launcher: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """A run of train.py with the config tiny.py, in a group of processes of its own."""
    command = [sys.executable, *launcher, str(ROOT / "train.py"), "-c", "tiny.py", f"gpus={processes}", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]", seconds: float = 400) -> tuple[str, str]:
    """Output of a run; nothing of it is left behind."""
    try:
        return process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def data(folder: Path, monkeypatch: pytest.MonkeyPatch, *, train: int, validation: int) -> None:
    """Drawn scenes in Vaihingen's layout, as the data root of the run."""
    folders.write_vaihingen(folder, size=64, train=train, validation=validation, test=0)
    monkeypatch.setenv("D2LS_DATA", str(folder))


def logged() -> dict[str, float]:
    """The last value of each column of the run's only log."""
    assert [folder.name for folder in LOG.iterdir()] == ["version_0"]
    with (LOG / "version_0/metrics.csv").open(newline="") as file:
        return {name: float(value) for row in csv.DictReader(file) for name, value in row.items() if value}


def scores_in_one_process(batches: Sequence[Sequence[int]], *words: str) -> dict[str, float]:
    """What the last checkpoint scores on the validation images, and its mean loss over batches of their indices."""
    settings = load_config("tiny.py", dict(word.split("=") for word in words))
    load_weights(settings.net, read_checkpoint(WEIGHTS / "last.ckpt"))
    net, losses = settings.net.eval(), []
    metrics = SegmentationMetrics(settings.num_classes, settings.ignore_index, settings.val_dataset.spec.scored)
    for batch in batches:
        samples = collate([settings.val_dataset[at] for at in batch])
        with torch.no_grad():
            logits = net(samples["image"])
        metrics.update(logits, samples["mask"])
        losses += [settings.loss(logits, samples["mask"])["loss"].item()] * len(batch)
    assert len(losses) == len(settings.val_dataset)
    found = metrics.compute()
    each = zip(settings.classes, found["per_class"]["IoU"].tolist(), strict=True)
    return {
        "val_mIoU": found["mIoU"],
        "val_F1": found["F1"],
        "val_OA": found["OA"],
        "val_loss": sum(losses) / len(losses),
    } | {f"val_IoU/{name}": value for name, value in each if value == value}  # noqa: PLR0124


def assert_scored_like_one_process(batches: Sequence[Sequence[int]], *words: str) -> None:
    found, wanted = logged(), scores_in_one_process(batches, *words)
    assert wanted["val_loss"] > 0.1
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-6 if name != "val_loss" else 1e-5), name


def test_two_processes_score_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data(tmp_path / "data", monkeypatch, train=8, validation=3)  # shares of two images and one
    out, error = finish(run := start("backbone=test_resnet", "max_epoch=1", "strategy=ddp"))
    assert run.returncode == 0, error
    assert "Traceback" not in error
    assert_scored_like_one_process([[0, 2], [1]], "backbone=test_resnet")
    assert {path.name for path in WEIGHTS.iterdir()} == {"last.ckpt", "tiny.ckpt"}
    assert torch.load(WEIGHTS / "last.ckpt", weights_only=True)["global_step"] == 2, "eight images by two times two"
    assert out.count("epoch 1 of 1") == 1
    assert out.count("last checkpoint:") == 1


@pytest.mark.slow
def test_a_process_without_an_image_of_its_own_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data(tmp_path / "data", monkeypatch, train=6, validation=2)
    _, error = finish(run := start("max_epoch=1", "val_batch_size=1", processes=3))
    assert run.returncode == 0, error
    assert_scored_like_one_process([[0], [1]])


@pytest.mark.slow
def test_torchrun() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}")
    out, error = finish(run := start("max_epoch=1", "train_batch_size=1", "val_batch_size=1", launcher=launcher))
    assert run.returncode == 0, error
    assert_scored_like_one_process([[0], [1]])
    assert out.count("epoch 1 of 1") == 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_broken_image_of_one_process_ends_both(rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data(tmp_path / "data", monkeypatch, train=12, validation=2)
    write_config(tmp_path, ("crop=crop)", "crop=crop, mosaic=0.0)"))
    dataset = load_config("tiny.py").train_dataset
    # Some images are looked at before training begins: not this one, which one process alone will draw.
    drawn = [draw.index for draw in SeededSampler(dataset, 1, rank=rank, world=2)]
    pair = dataset.pairs[next(index for index in drawn if index not in (0, 4, 7, 11))]
    pair.image.write_bytes(b"no image")
    begin = time.monotonic()
    _, error = finish(run := start("train_batch_size=1"))
    assert run.returncode not in (0, None), error
    assert f"error: {pair.image}: " in error
    assert "Traceback" not in error
    assert time.monotonic() - begin < 240


NOT_A_NUMBER = """
from d2ls.distributed import rank


class Broken(D2LSLoss):
    def forward(self, output, mask):
        terms = super().forward(output, mask)
        if rank() == 1 and terms["loss"].requires_grad:
            terms["loss"] = terms["loss"] * float("nan")
        return terms


loss = Broken(ignore_index)
"""


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_ends_both() -> None:
    write_config(Path(), after=NOT_A_NUMBER)
    dataset = load_config("tiny.py").train_dataset
    batch = [dataset.pairs[draw.index].image.name for draw in SeededSampler(dataset, 1, rank=1, world=2)][:1]
    _, error = finish(run := start("train_batch_size=1"))
    assert run.returncode == 2, error
    assert "the loss is not finite in step 0" in error
    assert all(name in error for name in batch), error
    assert "Traceback" not in error


@pytest.mark.slow
def test_too_few_images_for_all_processes() -> None:
    _, error = finish(run := start("train_batch_size=4"))
    assert run.returncode == 2, error
    assert "6 training images are too few for a batch of 4 on each of 2 process(es)" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_parameters_without_gradient_are_named() -> None:
    write_config(Path(), ('net = Dynamic', 'import torch\nnet = Dynamic'), after="net.spare = torch.nn.Linear(2, 2)\n"
                 "optimizer = adamw_lookahead(net, lr)\nlr_scheduler = cosine(optimizer, max_epoch)\n")  # fmt: skip
    _, error = finish(run := start("train_batch_size=1"))
    assert run.returncode not in (0, None), error
    assert "2 parameters have no gradient (first: net.spare.weight)" in error
    assert "Traceback" not in error


def wait_for_checkpoint(process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 300
    while not (WEIGHTS / "last.ckpt").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)


def children(process: "subprocess.Popen[str]") -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]


def is_running(pid: int) -> bool:
    """Whether a process lives; one that has ended may wait for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_ctrl_c_ends_all_processes() -> None:
    run = start("max_epoch=2000", "train_batch_size=1")
    wait_for_checkpoint(run)
    others = children(run)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    _, error = finish(run, 300)
    assert run.returncode == 130, error
    assert "Traceback" not in error
    assert others
    assert not any(is_running(pid) for pid in others)


@pytest.mark.slow
def test_sigterm_saves_and_ends_all_processes() -> None:
    run = start("max_epoch=2000", "train_batch_size=1")
    wait_for_checkpoint(run)
    others = children(run)
    os.killpg(run.pid, signal.SIGTERM)  # as clusters do
    _, error = finish(run, 300)
    assert run.returncode == 143, error
    assert "Traceback" not in error
    assert others
    assert not any(is_running(pid) for pid in others)
    assert read_checkpoint(WEIGHTS / "last.ckpt").epochs is not None


@pytest.mark.slow
def test_a_stopped_run_goes_on_exactly() -> None:
    words = ("max_epoch=20", "train_batch_size=1", "save_every_n_steps=2")
    _, error = finish(whole := start(*words, "weights_name=whole"))
    assert whole.returncode == 0, error
    run = start(*words)
    wait_for_checkpoint(run)
    os.kill(run.pid, signal.SIGTERM)  # the first process alone hears it
    _, error = finish(run)
    assert run.returncode == 143, error
    _, error = finish(again := start(*words, "auto_resume=True"))
    assert again.returncode == 0, error
    one, two = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (WEIGHTS.with_name("whole"), WEIGHTS))
    assert one["global_step"] == two["global_step"] == 60
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(one[key], two[key], key)


@pytest.mark.slow
def test_a_killed_process_takes_the_others_along() -> None:
    run = start("max_epoch=2000", "train_batch_size=1")
    wait_for_checkpoint(run)
    os.kill(children(run)[0], signal.SIGKILL)
    finish(run, 300)
    assert run.returncode not in (0, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sync_batchnorm=True", "backbone=test_resnet"], "sync_batchnorm=True: torch normalises over 2 processes on"),
        (["strategy=fsdp"], "`fsdp` requires a GPU accelerator"),
    ],
)
def test_what_needs_a_gpu_is_refused_before_anything_starts(words: list[str], message: str) -> None:
    _, error = finish(run := start(*words))
    assert run.returncode == 2
    assert message in error
    assert not LOG.exists()
