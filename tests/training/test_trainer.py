"""Training runs on drawn scenes: what they leave behind, that they repeat, resume and refuse."""

import csv
import math
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from d2ls.checkpoint import read_checkpoint
from d2ls.config import load_config
from d2ls.data.sets import vaihingen
from d2ls.errors import CheckpointError, ConfigError, DataError
from d2ls.training import module
from d2ls.training import trainer as training
from d2ls.training.callbacks import BestCheckpoint
from d2ls.training.trainer import build_trainer, train
from tests.tiny import write_config

WEIGHTS = Path("model_weights/vaihingen/tiny")
pytestmark = pytest.mark.usefixtures("run_folder")


def run(config: Path | str = "tiny.py", **overrides: Any) -> pl.Trainer:
    return train(load_config(config, overrides))


def saved(name: str = "last", folder: Path = WEIGHTS) -> dict[str, Any]:
    """The content of a checkpoint, read without running code."""
    content: dict[str, Any] = torch.load(folder / f"{name}.ckpt", weights_only=True)
    return content


def assert_same(one: Any, two: Any, where: str = "") -> None:
    """Nested plain values and tensors, bit for bit."""
    if isinstance(one, Tensor):
        assert isinstance(two, Tensor), where
        assert bool(torch.equal(one, two)), where
    elif isinstance(one, dict):
        assert list(one) == list(two), where
        for key in one:
            assert_same(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for at, pair in enumerate(zip(one, two, strict=True)):
            assert_same(*pair, f"{where}/{at}")
    else:
        assert one == two, where


def assert_same_state(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Weights, optimiser, schedule and progress of two checkpoints."""
    for key in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "d2ls"):
        assert_same(one[key], two[key], key)


def log(version: int = 0) -> list[dict[str, str]]:
    with Path(f"lightning_logs/vaihingen/tiny/version_{version}/metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(name: str, version: int = 0) -> list[float]:
    return [float(row[name]) for row in log(version) if row[name]]


# What a run leaves behind


def test_a_run_leaves_checkpoints_log_config_and_table(capsys: pytest.CaptureFixture[str]) -> None:
    run(tensorboard=True)
    shown = capsys.readouterr()
    assert sorted(path.name for path in WEIGHTS.iterdir()) == ["last-previous.ckpt", "last.ckpt", "tiny.ckpt"]
    folder = Path("lightning_logs/vaihingen/tiny/version_0")
    assert {"config.py", "metrics.csv"} <= {path.name for path in folder.iterdir()}
    assert list(folder.glob("events.out.tfevents*")), "tensorboard=True"
    for name in ("cross_entropy", "dice", "auxiliary", "contrastive", "loss"):
        assert len(column(f"train_{name}_epoch")) == 2, name
        assert column(f"train_{name}_step"), name
    terms = [sum(column(f"train_{n}_epoch")) for n in ("cross_entropy", "dice", "auxiliary", "contrastive")]
    assert sum(terms) == pytest.approx(sum(column("train_loss_epoch")), rel=1e-4)
    for name in ("mIoU", "F1", "OA", "loss", *(f"IoU/{name}" for name in vaihingen.SPEC.classes)):
        assert len(column(f"val_{name}")) == 2, name
    scored = [column(f"val_IoU/{name}")[1] for name in vaihingen.SPEC.classes[:5]]
    assert column("val_mIoU")[1] == pytest.approx(sum(scored) / 5, rel=1e-5), "the mean of the five scored classes"
    # The table shows what the log holds, the training loss of its own epoch included.
    for epoch in (0, 1):
        title = rf"epoch {epoch + 1} of 2, training loss {column('train_loss_epoch')[epoch]:.4f}"
        assert re.search(title, shown.out)
    assert "Clutter (not scored)" in shown.out
    assert f"OA {100 * column('val_OA')[1]:.2f}" in shown.out
    assert f"last checkpoint: {WEIGHTS}/last.ckpt" in shown.out
    for noise in ("litlogger", "LeafSpec", "not empty", "logging interval"):
        assert noise not in shown.out + shown.err, noise


def test_nothing_avoidable_is_warned_of(recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]) -> None:
    run(max_epoch=1)
    run(max_epoch=1)  # over the checkpoints of the first
    ours = [str(warning.message) for warning in recwarn if "lightning" in str(warning.filename)]
    assert not ours
    (moved,) = (path for path in WEIGHTS.iterdir() if path.is_dir())
    assert f"note: the checkpoints of an earlier run are now in {moved}" in capsys.readouterr().out
    assert sorted(path.name for path in moved.iterdir()) == ["last.ckpt", "tiny.ckpt"]


def test_the_best_is_the_best_and_the_last_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter((0.9, 0.2, 0.5, 0.3))  # the first is of the check before training
    original = module.SegmentationMetrics.compute
    monkeypatch.setattr(module.SegmentationMetrics, "compute", lambda self: {**original(self), "F1": next(scores)})
    trainer = run(max_epoch=3)
    assert column("val_F1") == pytest.approx([0.2, 0.5, 0.3])
    assert (saved("tiny")["epoch"], saved("last")["epoch"]) == (1, 2)
    assert isinstance(trainer.checkpoint_callback, BestCheckpoint)
    assert trainer.checkpoint_callback.best_model_score == pytest.approx(0.5)


@pytest.mark.parametrize(("monitor", "mode", "choose"), [("val_loss", "min", min), ("val_mIoU", "max", max)])
def test_monitors(monitor: str, mode: str, choose: Any) -> None:
    run(max_epoch=3, monitor=monitor, monitor_mode=mode)
    scores = column(monitor)
    assert scores.index(choose(scores)) == saved("tiny")["epoch"]


def test_several_best_checkpoints_and_no_last_one() -> None:
    run(max_epoch=3, save_top_k=-1, save_last=False)
    assert sorted(path.name for path in WEIGHTS.iterdir()) == [f"tiny-epoch={epoch}.ckpt" for epoch in range(3)]


def test_validation_every_second_epoch_and_after_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    run(max_epoch=3, check_val_every_n_epoch=2)
    assert [int(row["epoch"]) for row in log() if row["val_mIoU"]] == [1, 2]
    assert re.findall(r"epoch (\d) of 3", capsys.readouterr().out) == ["2", "3"]
    assert saved("last")["epoch"] == 2


def test_a_run_shorter_than_the_distance_of_validations_is_validated_once() -> None:
    run(max_epoch=1, check_val_every_n_epoch=10)
    assert len(column("val_mIoU")) == 1
    assert saved("tiny")["epoch"] == 0


def test_the_copy_of_the_config_repeats_the_run() -> None:
    run(lr=2e-3, gradient_clip_val=0.1, max_epoch=1)
    first = saved()
    copy = Path("lightning_logs/vaihingen/tiny/version_0/config.py")
    assert "lr=0.002 gradient_clip_val=0.1 max_epoch=1" in copy.read_text().splitlines()[0]
    Path("moved.py").write_bytes(copy.read_bytes())
    run("moved.py")
    assert_same_state(first, saved())


def test_a_checkpoint_alone_gives_the_same_logits() -> None:
    run(max_epoch=1)
    settings = load_config("tiny.py")
    checkpoint = read_checkpoint(WEIGHTS / "last.ckpt")
    assert checkpoint.spec == vaihingen.SPEC
    settings.net.load_state_dict(checkpoint.weights)
    image = torch.randn(2, 3, 33, 47)
    with torch.no_grad():
        assert torch.equal(checkpoint.build()(image), settings.net.eval()(image))


# Repeating and resuming


def test_seed_decides_every_bit() -> None:
    run(drop_path_rate=0.5)
    first = saved()
    run(drop_path_rate=0.5, num_workers=1)
    assert_same_state(first, saved())
    run(drop_path_rate=0.5, seed=43)
    other = saved()["state_dict"]
    assert not torch.equal(first["state_dict"]["net.dictionary.table"], other["net.dictionary.table"])


class Stop(pl.Callback):
    """Ctrl+C in the third epoch."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    changes: dict[str, Any] = {"max_epoch": 4, "drop_path_rate": 0.5, "backbone_lr": 1e-4, "accumulate_grad_batches": 2}
    run(**changes)
    whole, whole_best = saved(), saved("tiny")

    before = signal.getsignal(signal.SIGINT)
    original = training.ProgressBar
    monkeypatch.setattr(training, "ProgressBar", lambda _: Stop())
    with pytest.raises(KeyboardInterrupt):
        run(**changes)
    monkeypatch.setattr(training, "ProgressBar", original)
    assert signal.getsignal(signal.SIGINT) is before, "Ctrl+C still works"
    assert "last.ckpt holds the last whole epoch: resume_ckpt_path=last" in capsys.readouterr().out
    assert saved()["epoch"] == 1

    run(**changes, resume_ckpt_path="last")
    assert saved()["epoch"] == 3
    assert_same_state(whole, saved())
    assert_same_state(whole_best, saved("tiny"))
    assert log(2) == log(0), "the log of a run that never stopped"


def test_a_longer_run_follows_the_schedule_of_its_new_length() -> None:
    run(max_epoch=4)
    whole = saved()
    run(max_epoch=2, lr=5e-4)
    run(max_epoch=4, lr=5e-4, resume_ckpt_path="last")
    state = saved()
    assert (state["epoch"], state["global_step"]) == (3, 12)
    assert state["lr_schedulers"][0]["T_max"] == 4
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1e-6)
    run(max_epoch=1)
    run(max_epoch=4, resume_ckpt_path="last")
    assert_same_state(whole, saved())  # the first epoch of both has the full learning rate


def test_a_finished_run_is_left_as_it_is() -> None:
    run(max_epoch=1)
    before = saved()
    run(max_epoch=1, resume_ckpt_path="last")
    assert_same_state(before, saved())


def test_what_cannot_be_resumed() -> None:
    with pytest.raises(ConfigError, match=r"resume_ckpt_path='last': no checkpoint .*tiny/last\.ckpt"):
        run(resume_ckpt_path="last")
    with pytest.raises(ConfigError, match=r"resume_ckpt_path='gone\.ckpt': no checkpoint gone\.ckpt"):
        run(resume_ckpt_path="gone.ckpt")
    run()
    torch.save(read_checkpoint(WEIGHTS / "last.ckpt").weights, "bare.pth")
    with pytest.raises(ConfigError, match=r"bare\.pth holds weights, but not the state of a training run"):
        run(resume_ckpt_path="bare.pth")
    with pytest.raises(ConfigError, match="has 2 epochs behind it, more than max_epoch=1"):
        run(resume_ckpt_path="last", max_epoch=1)
    with pytest.raises(ConfigError, match=r"groups \{'network': \d+\}, the config's \{'decoder': \d+, 'backbone'"):
        run(resume_ckpt_path="last", max_epoch=3, backbone_lr=1e-5)
    with pytest.raises(CheckpointError, match="was trained with stages=1, the config has stages=2"):
        run(resume_ckpt_path="last", max_epoch=3, stages=2)


def test_training_starts_from_a_checkpoint() -> None:
    run(max_epoch=1)
    start = read_checkpoint(WEIGHTS / "last.ckpt").weights
    settings = load_config("tiny.py", {"pretrained_ckpt_path": str(WEIGHTS / "last.ckpt"), "lr": 1e-6, "max_epoch": 1})
    train(settings)
    after = saved()
    assert after["epoch"] == 0, "a new run"
    table = after["state_dict"]["net.dictionary.table"]
    assert torch.allclose(table, start["dictionary.table"], atol=1e-5)
    assert not torch.equal(table, start["dictionary.table"])
    with pytest.raises(CheckpointError, match=r"no weight file gone\.ckpt"):
        run(pretrained_ckpt_path="gone.ckpt")


# Settings that must take effect


def steps(**overrides: Any) -> tuple[int, Tensor]:
    run(max_epoch=1, **overrides)
    content = saved()
    return content["global_step"], content["state_dict"]["net.dictionary.table"]


def test_accumulation_and_clipping() -> None:
    number, table = steps()
    assert number == 3
    number, accumulated = steps(accumulate_grad_batches=3)
    assert number == 1
    assert not torch.equal(table, accumulated)
    trainer = build_trainer(load_config("tiny.py", {"gradient_clip_val": 0.25, "accumulate_grad_batches": 2}))
    assert (trainer.gradient_clip_val, trainer.accumulate_grad_batches) == (0.25, 2)
    sgd = "import torch\noptimizer = torch.optim.SGD(net.parameters(), 1.0)"
    path = write_config(
        Path(), ("optimizer = adamw_lookahead(net, lr, weight_decay, backbone_lr, backbone_weight_decay)", sgd)
    )
    for clip in (1e-3, 2e-3):
        start = load_config(path).net.state_dict()
        run(path, max_epoch=1, accumulate_grad_batches=3, gradient_clip_val=clip)
        end = read_checkpoint(WEIGHTS / "last.ckpt").weights
        moved = math.sqrt(sum((end[name] - start[name]).double().square().sum().item() for name in start))
        assert moved == pytest.approx(clip, rel=1e-3), "one step of rate 1 moves by the clipped norm"


def test_layer_wise_rates() -> None:
    run(max_epoch=1, backbone_lr=1e-5, backbone_weight_decay=0.0)
    groups = {group["name"]: group for group in saved()["optimizer_states"][0]["param_groups"]}
    assert (groups["decoder"]["initial_lr"], groups["backbone"]["initial_lr"]) == (1e-3, 1e-5)
    assert (groups["decoder"]["weight_decay"], groups["backbone"]["weight_decay"]) == (0.01, 0.0)


def test_the_schedule_moves_once_an_epoch() -> None:
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    settings = load_config("tiny.py", {"max_epoch": 3})
    trainer = build_trainer(settings)
    trainer.callbacks.insert(0, Watch())
    trainer.fit(module.SegmentationModule.from_settings(settings), settings.train_loader, settings.val_loader)
    expected = [1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in range(3) for _ in range(3)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({"use_aux_loss": False}, {"cross_entropy", "dice", "contrastive", "loss"}),
        ({"contrastive_weight": 0.0}, {"cross_entropy", "dice", "auxiliary", "loss"}),
        ({"dictionary": "static"}, {"cross_entropy", "dice", "loss"}),
        ({"dictionary": "ones", "channels_last": True}, {"cross_entropy", "dice", "loss"}),
        ({"dictionary": "zeros", "backbone": "test_resnet"}, {"cross_entropy", "dice", "loss"}),
    ],
)
def test_ablations_train_with_the_terms_that_they_have(changes: dict[str, Any], terms: set[str]) -> None:
    run(max_epoch=1, **changes)
    assert {name[6:-6] for name in log()[0] if name.startswith("train_") and name.endswith("_epoch")} == terms
    arguments = read_checkpoint(WEIGHTS / "last.ckpt").arguments
    assert arguments is not None
    assert arguments["dictionary"] == changes.get("dictionary", "dynamic")


def test_published_protocol_monitors_the_test_patches() -> None:
    settings = load_config("tiny.py", {"protocol": "published"})
    assert len(settings.train_dataset) == 8
    assert {pair.image.parent.parent.name for pair in settings.val_dataset.pairs} == {"test"}
    strict = load_config("tiny.py")
    assert len(strict.train_dataset) == 6
    assert {pair.image.parent.parent.name for pair in strict.val_dataset.pairs} == {"train"}


def test_each_epoch_has_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original = module.SegmentationModule.training_step

    def step(self: Any, batch: Any, at: int) -> Tensor:
        seen.extend(batch["name"])
        return original(self, batch, at)

    monkeypatch.setattr(module.SegmentationModule, "training_step", step)
    run()
    assert sorted(seen[:6]) == sorted(seen[6:])
    assert seen[:6] != seen[6:]


def test_a_network_of_another_library_trains_and_resumes() -> None:
    unet = (
        "import segmentation_models_pytorch as smp\n"
        "net = smp.Unet('tu-test_resnet', 3, None, decoder_channels=(16, 16, 8), classes=num_classes)\n"
    )
    path = write_config(Path(), ("\nuse_aux_loss,", "\n" + unet + "use_aux_loss,"))
    run(path, max_epoch=1)
    assert {name for name in log()[0] if name.startswith("train_") and name.endswith("_epoch")} == {
        "train_cross_entropy_epoch", "train_dice_epoch", "train_loss_epoch",
    }  # fmt: skip
    run(path, resume_ckpt_path="last")
    assert saved()["epoch"] == 1


# Runs that must not start, or must stop


def test_fewer_images_than_a_batch() -> None:
    with pytest.raises(DataError, match=r"6 training images are too few for a batch of 8.*Set train_batch_size to 6"):
        run(train_batch_size=8)
    assert not Path("lightning_logs").exists()


class Overflow(nn.Module):
    def forward(self, output: Any, mask: Tensor) -> dict[str, Tensor]:
        dice = output.logits.sum() if not isinstance(output, Tensor) else output.sum()
        return {"dice": dice, "loss": dice * math.nan}


def test_a_loss_that_is_no_number_names_the_files() -> None:
    path = write_config(
        Path(), ("\ncrop = 32", "\nfrom tests.training.test_trainer import Overflow\nloss = Overflow()\ncrop = 32")
    )
    words = r"not finite in step 0; the batch holds (\S+\.tif), (\S+\.tif) \(dice=.*, loss=nan\) \(also in (\S+)\)"
    with pytest.raises(DataError, match=words) as caught:
        run(path)
    found = re.search(words, str(caught.value))
    assert found is not None
    with Path(found[3]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [found[1], found[2]]
    assert {(row["epoch"], row["step"], row["loss"]) for row in rows} == {("0", "0", "nan")}


def test_devices_that_are_not_there() -> None:
    for setting, value in (("precision", "8-bit"), ("strategy", "teleport"), ("accelerator", "abacus"), ("gpus", 0)):
        with pytest.raises(ConfigError, match=rf"Lightning cannot train with .*{setting}={value!r}.*: "):
            run(**{setting: value})


def test_validation_images_without_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(
        Path(), ("vaihingen.val(protocol)", "unlabelled()"), ("\ncrop = 32", UNLABELLED + "\ncrop = 32")
    )
    with pytest.raises(DataError, match=r"\.tif: a validation image without a mask cannot be scored"):
        run(path)


UNLABELLED = """
from dataclasses import replace
from d2ls.data.dataset import SegmentationDataset

def unlabelled():
    listed = vaihingen.test()
    return SegmentationDataset(listed.spec, lambda: [replace(pair, mask=None) for pair in listed.pairs])
"""


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_joint_batch(run_folder: Path) -> None:

    root = Path(__file__).parents[2]
    words = [
        "gpus=2",
        "strategy=ddp",
        "train_batch_size=1",
        "val_batch_size=1",
        "contrastive_weight=0.0",
        "max_epoch=1",
    ]
    command = [sys.executable, str(root / "train.py"), "-c", "tiny.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("epoch 1 of 1") == 1, "one process prints"
    assert saved()["global_step"] == 3
    assert Path("lightning_logs/vaihingen/tiny/version_0/config.py").is_file()
    assert "sync_dist" not in done.stderr
    pixels = int(re.search(r"Building\s+│(?:[^│]+│){4}\s+([\d,]+)", done.stdout)[1].replace(",", ""))  # type: ignore[index]
    expected = sum(int((sample["mask"] == 1).sum()) for sample in load_config("tiny.py").val_dataset)
    assert pixels == expected, "both processes' images are counted"
