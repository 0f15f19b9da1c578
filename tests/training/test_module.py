"""SegmentationModule with plain objects in a plain Trainer, foreign losses and schedules, no waiting for the device."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import test_vaihingen
from d2ls import SegmentationModule
from d2ls.checkpoint import read_checkpoint
from d2ls.cli.common import run_main
from d2ls.config import load_config
from d2ls.data.augment import normalise_batch
from d2ls.data.sets import vaihingen
from d2ls.errors import ConfigError, DataError
from d2ls.losses import D2LSLoss
from d2ls.training.trainer import train
from tests.tiny import write_config
from tests.training.test_trainer import column, log, run, saved

ROOT = Path(__file__).parents[2]
CLASSES = ("a", "b", "c")
pytestmark = pytest.mark.usefixtures("run_folder")


def samples(number: int = 4, dtype: torch.dtype = torch.uint8) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (number, 3, 16, 16), generator=generator, dtype=torch.uint8)
    mask = torch.randint(3, (number, 16, 16), generator=generator, dtype=torch.uint8)
    return [{"image": image[at].to(dtype), "mask": mask[at], "path": f"{at}.png"} for at in range(number)]


def plain_trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip


def module(loss: nn.Module | None = None, schedule: Any = None, **options: Any) -> SegmentationModule:
    net = nn.Conv2d(3, 3, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    given = {"classes": CLASSES, "ignore_index": 255} | options
    return SegmentationModule(
        net, loss or D2LSLoss(255), optimizer, None if schedule is None else schedule(optimizer), **given
    )


# In anybody's Trainer


def test_a_plain_trainer_trains_validates_and_logs() -> None:
    own = module(nn.CrossEntropyLoss(ignore_index=255))
    trainer = plain_trainer(max_epochs=2)
    before = own.net.weight.detach().clone()
    trainer.fit(own, DataLoader(samples(), 2), DataLoader(samples(), 2))
    assert not torch.equal(own.net.weight, before)
    found = trainer.callback_metrics
    assert {"train_loss", "train_loss_epoch", "val_loss", "val_mIoU", "val_F1", "val_OA", "val_IoU/a"} <= set(found)
    (one,) = trainer.validate(own, DataLoader(samples(), 2), verbose=False)
    assert one["val_loss"] == pytest.approx(found["val_loss"].item())


def test_a_checkpoint_says_how_large_the_training_samples_were(tmp_path: Path) -> None:
    own, wide = (
        module(),
        [sample | {"image": sample["image"][:, :9], "mask": sample["mask"][:9]} for sample in samples()],
    )
    plain_trainer(max_epochs=1).fit(own, DataLoader(wide, 2), DataLoader(samples(), 2))
    own.trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt").train_size == 16
    again = module()
    small = [sample | {"image": sample["image"][:, :9, :8], "mask": sample["mask"][:9, :8]} for sample in samples()]
    plain_trainer(max_epochs=2).fit(again, DataLoader(small, 2), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    again.trainer.save_checkpoint(tmp_path / "b.ckpt")
    assert read_checkpoint(tmp_path / "b.ckpt").train_size == 16


def test_the_terms_of_our_loss_are_logged_by_name() -> None:
    own = module()
    trainer = plain_trainer(max_epochs=1)
    trainer.fit(own, DataLoader(samples(), 2), DataLoader(samples(), 2))
    terms = [trainer.callback_metrics[f"train_{name}_epoch"].item() for name in ("cross_entropy", "dice")]
    assert sum(terms) == pytest.approx(trainer.callback_metrics["train_loss_epoch"].item(), rel=1e-5)


def test_what_it_must_be_told() -> None:
    with pytest.raises(ConfigError, match=r"give spec=.*or both classes= and ignore_index="):
        module(classes=None, ignore_index=None)
    assert module(spec=vaihingen.SPEC, classes=None, ignore_index=None).classes == vaihingen.SPEC.classes


def test_raw_images_are_normalised_on_the_device() -> None:
    raw = torch.stack([sample["image"] for sample in samples()])
    own = module(spec=vaihingen.SPEC, classes=None, ignore_index=None)
    found = own.on_after_batch_transfer({"image": raw, "mask": raw[:, 0]}, 0)
    assert torch.equal(found["image"], normalise_batch(raw, vaihingen.SPEC))
    assert found["mask"].dtype == torch.int64
    again = own.on_after_batch_transfer(found, 0)
    assert torch.equal(again["image"], found["image"])


def test_a_run_moves_bytes() -> None:
    seen = set()

    class Watch(pl.Callback):
        def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
            original = pl_module.on_after_batch_transfer

            def look(batch: dict[str, Any], at: int) -> dict[str, Any]:
                seen.update((batch["image"].dtype, batch["mask"].dtype))
                return original(batch, at)

            pl_module.on_after_batch_transfer = look

    settings = load_config("tiny.py", {"max_epoch": 1})
    vars(settings)["_names"]["callbacks"] = [Watch()]
    train(settings)
    assert seen == {torch.uint8}
    assert settings.val_dataset[0]["image"].dtype == torch.float32, "as before"


# Waiting for the device


class NoWaiting(TorchDispatchMode):
    """Fails where a value is read on the host, or a size depends on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal", "masked_select"), name
        return func(*args, **(kwargs or {}))


class OwnLoss(nn.Module):
    def forward(self, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        entropy = nn.functional.cross_entropy(logits, mask)
        return {"entropy": entropy, "loss": entropy * 1}


def test_a_step_waits_for_nothing() -> None:
    own = module(OwnLoss(), seed=1)
    own.log_terms = False
    steps = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            steps.append(NoWaiting())
            steps[-1].__enter__()

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            steps[-1].__exit__(None, None, None)

    plain_trainer(max_epochs=1, callbacks=[Watch()], num_sanity_val_steps=0).fit(own, DataLoader(samples(), 2))
    assert len(steps) == 2


@pytest.mark.parametrize("step", [0, 1])
def test_a_loss_that_is_not_finite_is_read_a_step_late_and_names_its_own_files(step: int) -> None:
    class Breaks(nn.Module):
        calls = 0

        def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
            Breaks.calls += 1
            return logits.mean() * (math.nan if Breaks.calls == step + 1 else 1)

    Breaks.calls = 0
    loader = DataLoader(samples(), 2)
    with pytest.raises(
        DataError, match=rf"in step {step}; the batch holds {2 * step}\.png, {2 * step + 1}\.png \(loss"
    ):
        plain_trainer(max_epochs=2, num_sanity_val_steps=0).fit(module(Breaks()), loader, loader)
    assert Breaks.calls <= step + 2


# Objects of a config


def config(after: str, *changes: tuple[str, str]) -> Path:
    return write_config(Path(), *changes, after="\nimport torch\n" + after)


def test_a_plain_loss_with_class_weights() -> None:
    net = "net = torch.nn.Conv2d(3, num_classes, 1)\noptimizer = adamw_lookahead(net, lr)\nlr_scheduler = None\n"
    run(config(net + "loss = torch.nn.CrossEntropyLoss(weight=torch.rand(num_classes), ignore_index=ignore_index)\n"))
    assert len([row for row in log() if row["train_loss_epoch"]]) == 2


PAIR = """
class Pair(torch.nn.Conv2d):
    def forward(self, image):
        return super().forward(image), None

net = Pair(3, num_classes, 1)
"""
NORM = """
class Pooled(torch.nn.Sequential):
    def forward(self, image):
        return super().forward(image).expand(-1, -1, *image.shape[-2:])

net = Pooled(torch.nn.AdaptiveAvgPool2d(1), torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, num_classes, 1))
"""
REBUILD = "optimizer = adamw_lookahead(net, lr)\nlr_scheduler = None\n"


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (PAIR + REBUILD, "net gives tuple in evaluation; expected logits"),
        (NORM + REBUILD, r"net fails on \(1, 3, 32, 32\): ValueError: Expected more than 1 value"),
        ("net = torch.nn.Conv2d(5, num_classes, 1)\n" + REBUILD, r"net fails on \(1, 3, 64, 64\): RuntimeError"),
        ("loss.forward = lambda *_: {'dice': 1}\n", r"loss gives \['dice'\]; expected a scalar, or a dict"),
        ("loss.forward = lambda o, m: {'loss': getattr(o, 'logits', o)}\n", "'loss' is .*; expected a scalar tensor"),
        ("loss.forward = lambda *_: torch.tensor(1.0)\n", "does not depend on the parameters of net"),
    ],
)
def test_objects_that_cannot_work_are_one_message(after: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run(config(after), train_batch_size=1, val_batch_size=1)


def test_a_reader_that_is_killed_is_no_fault_of_the_loss() -> None:
    class Killed(nn.Module):
        def forward(self, *_: Any) -> Tensor:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    with pytest.raises(RuntimeError, match=r"^DataLoader worker"):
        plain_trainer(max_epochs=1).fit(module(Killed()), DataLoader(samples(), 2), DataLoader(samples(), 2))


def test_a_plateau_schedule_follows_the_monitor() -> None:
    after = (
        "lr_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode='max', patience=0, threshold=9)\n"
    )
    run(config(after), max_epoch=3)
    assert saved()["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1e-5)
    with pytest.raises(ConfigError, match=r"monitor_mode='max': lr_scheduler follows val_F1 with mode='min'"):
        run(config(after.replace("'max'", "'min'")))


def test_a_schedule_by_steps_reaches_its_end() -> None:
    after = "lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=6)\n"
    with pytest.raises(
        ConfigError, match=r"total_steps=6, and it moves max_epoch=2 times.*lr_scheduler_interval='step'"
    ):
        run(config(after))
    run(config(after), lr_scheduler_interval="step")
    assert [float(row["lr"]) for row in log() if row["lr"]][-1] == pytest.approx(4e-9, rel=1e-3), "its last step"
    with pytest.raises(ConfigError, match=r"total_steps=6, the run has 9 steps"):
        run(config(after), lr_scheduler_interval="step", max_epoch=3)


def test_learning_rates_are_logged_by_group() -> None:
    run(max_epoch=2, backbone_lr=1e-4)
    rows = [row for row in log() if row["lr/decoder"]]
    assert (float(rows[0]["lr/decoder"]), float(rows[0]["lr/backbone"])) == (1e-3, 1e-4)
    assert float(rows[-1]["lr/decoder"]) < 1e-3


def test_validation_sees_the_windows_that_a_test_sees(tmp_path: Path) -> None:
    run(max_epoch=1, test_window=16)
    scores = []
    for setting in ("test_window=16", "test_window=None"):
        words = ["-c", "tiny.py", "--val", "-o", str(tmp_path / setting), setting]
        assert run_main(test_vaihingen.main, words) == 0
        scores.append(json.loads((tmp_path / setting / "metrics.json").read_text())["mIoU"])
    windows, whole = scores
    (found,) = column("val_mIoU")
    assert found == pytest.approx(windows, rel=1e-5)
    assert found != pytest.approx(whole, rel=1e-5)


# Logs for people


def test_a_plain_log_has_a_line_for_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    run(max_epoch=3, check_val_every_n_epoch=3)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ") and ": loss" in line]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    for line in lines:
        for part in ("cross_entropy ", "dice ", "lr ", " images/s, ", " left"):
            assert part in line
    assert "val_mIoU" in lines[2]
    assert "val_mIoU" not in lines[0]


CODE = """
import multiprocessing, sys
sys.path.insert(0, sys.argv.pop(1))
from d2ls.cli.common import run_main
from d2ls.cli.train import main

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(run_main(main))
"""


def started(config: Path | str, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    Path("start.py").write_text(CODE, encoding="utf-8")
    command = [sys.executable, "start.py", str(ROOT), "-c", str(config), "max_epoch=1", *words]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False, timeout=400,
        env={name: value for name, value in os.environ.items() if not name.startswith("LC_")} | variables,
    )  # fmt: skip


def test_an_epoch_with_spawned_readers_in_a_locale_without_utf8() -> None:
    names = 'classes = ("Straße", *vaihingen.SPEC.classes[1:])'
    path = write_config(Path(), ("classes = vaihingen.SPEC.classes", names))
    done = started(path, "num_workers=1", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr[-3000:]
    header = Path("lightning_logs/vaihingen/tiny/version_0/metrics.csv").read_bytes().decode("utf-8").splitlines()[0]
    assert "val_IoU/Straße" in header
    assert saved()["global_step"] == 3


OWN_READER = """
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.labels import read_index_mask


def read(path, spec):
    return read_index_mask(path, spec)


train_dataset = SegmentationDataset(
    vaihingen.SPEC, vaihingen.train().pairs.copy, read_mask=read, augmentation=train_dataset.augmentation
)
train_loader = training_loader(train_dataset, train_batch_size, num_workers=1)
"""


OWN_DATASET = """
from torch.utils.data import DataLoader, Dataset


class Own(Dataset):
    def __len__(self):
        return len(vaihingen.train())

    def __getitem__(self, index):
        return train_dataset[index]


train_loader = DataLoader(Own(), train_batch_size, num_workers=1)
"""

OWN_COLLATE = """
from torch.utils.data import DataLoader, default_collate


def collate(items):
    return default_collate(items)


train_loader = DataLoader(train_dataset, train_batch_size, num_workers=1, collate_fn=collate)
"""


@pytest.mark.parametrize("after", [OWN_READER, OWN_DATASET, OWN_COLLATE])
def test_a_reader_of_the_config_under_spawn_works_or_is_one_message(after: str) -> None:
    done = started(write_config(Path(), after=after))
    if done.returncode:
        assert done.returncode == 2, done.stderr[-3000:]
        assert "Traceback" not in done.stderr
        assert "num_workers=0" in done.stderr


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys\nsys.argv = ['train.py', '--help']\nfrom d2ls.cli.train import main\ntry:\n    main()\n"
    code += "finally:\n    assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
