"""Wrong masks, wrong names, other classes, foreign objects: what people's own data and configs must meet."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import test_vaihingen
import train as script
from d2ls.checkpoint import best_record_of, read_best, read_checkpoint
from d2ls.cli.common import run_main
from d2ls.config import load_config
from d2ls.data.check import LabelCounts, count_labels
from d2ls.data.regions import Region
from d2ls.errors import CheckpointError, ConfigError, DataError
from d2ls.training import data_check
from d2ls.training.checkpoint_io import lock_folder
from d2ls.training.trainer import train
from tests.tiny import write_config
from tests.training.test_trainer import WEIGHTS, assert_same_state, log, run, saved

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("run_folder")

RECTANGLES = '''"""Rectangles on a ground, read from the folder own."""

from functools import partial
from pathlib import Path

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.loaders import evaluation_loader, training_loader
from d2ls.data.pairs import match
from d2ls.data.spec import DatasetSpec
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning
from d2ls.optim import adamw_lookahead, cosine

max_epoch = 1
train_batch_size = val_batch_size = 2
lr, num_workers = 1e-3, 0
classes = ("ground", "building")
num_classes, ignore_index = 2, 255
weights_name = test_weights_name = "own"
weights_path, log_name, accelerator = "model_weights/own", "own", "cpu"
values = {}
spec = DatasetSpec(
    name="own", classes=classes, colours=((0, 0, 0), (255, 0, 0)), ignore_index=ignore_index, values=values
)


def listing(split):
    return match(Path("own") / split / "images", Path("own") / split / "masks", "Draw them.")


train_dataset = SegmentationDataset(spec, partial(listing, "train"), augmentation=Augmentation(crop=32))
val_dataset = SegmentationDataset(spec, partial(listing, "val"))
test_dataset = None
net = DynamicDictionaryLearning("test_convnext", num_classes, stages=1, width=32, drop_path_rate=0.0)
loss = D2LSLoss(ignore_index)
train_loader = training_loader(train_dataset, train_batch_size, num_workers=num_workers)
val_loader = evaluation_loader(val_dataset, val_batch_size, num_workers=num_workers)
optimizer = adamw_lookahead(net, lr)
lr_scheduler = cosine(optimizer, max_epoch)
'''


def draw(*labels: int, images: int = 4, channels: int = 3) -> None:
    """Pictures of rectangles; their masks hold the first label outside and the second inside."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (Path("own") / split / kind).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            mask = np.full((40, 48), labels[0], np.uint8)
            mask[10:30, 8 : 20 + number] = labels[1]
            image = rng.integers(0, 90, (40, 48, channels), dtype=np.uint8) + (mask[..., None] == labels[1]) * np.uint8(
                99
            )
            cv2.imwrite(f"own/{split}/masks/{number}.png", mask)
            cv2.imwrite(f"own/{split}/images/{number}.png", image)


def own(*changes: tuple[str, str]) -> str:
    text = RECTANGLES
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    Path("own.py").write_text(text, encoding="utf-8")
    return "own.py"


# Masks


def test_good_masks_train() -> None:
    draw(0, 1)
    train(load_config(own()))
    assert Path("model_weights/own/own.ckpt").is_file()


def test_masks_of_0_and_255_are_no_perfect_score() -> None:
    draw(0, 255)
    with pytest.raises(
        ConfigError, match=r"no training mask holds the class building; .* 0 \(\d+\.\d %\), 255 \("
    ) as told:
        train(load_config(own()))
    for part in ("own.py", "255 (", "= ignore_index", "values={0: .., 255: ..}", "allow_missing_classes=True"):
        assert part in str(told.value)
    assert not Path("model_weights").exists()
    train(load_config(own(("values = {}", 'values = {0: "ground", 255: "building"}'))))
    assert saved("own", Path("model_weights/own"))["epoch"] + 1 > 0


def test_labels_counted_from_1_are_told() -> None:
    draw(1, 2)
    path = own(
        ('("ground", "building")', '("ground", "building", "road")'),
        ("num_classes, ignore_index = 2", "num_classes, ignore_index = 3"),
        ("(255, 0, 0))", "(255, 0, 0), (0, 0, 9))"),
    )
    with pytest.raises(ConfigError, match=r"no training mask holds the class ground; .*labels counted from 1"):
        train(load_config(path))


def test_a_missing_class_can_be_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    draw(0, 255)
    train(load_config(own(), {"allow_missing_classes": True}))
    assert "warning: no training mask holds the class building" in capsys.readouterr().out


def test_a_rare_class_is_found_outside_the_sample_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(0, 1, images=5)
    for number in (0, 2, 4):
        cv2.imwrite(f"own/train/masks/{number}.png", np.zeros((40, 48), np.uint8))
    monkeypatch.setattr(data_check, "SAMPLED_MASKS", 3)
    settings = load_config(own())
    assert data_check.check_classes(settings) == []
    kept = Path("lightning_logs/own.labels.json")
    before = kept.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(data_check, "count_labels", sampled_only)
        assert data_check.check_classes(settings) == [], "kept beside the log"
    cv2.imwrite("own/train/masks/1.png", np.ones((40, 48), np.uint8))
    assert data_check.check_classes(load_config("own.py")) == []
    assert kept.read_text() != before, "counted anew where a file has changed"


def sampled_only(dataset: Any, progress: Any = None, indices: Any = None) -> LabelCounts:
    assert indices is not None, "all masks are counted a second time"
    return count_labels(dataset, progress, indices)


WEIGHTED = """
class Weighted(D2LSLoss):
    def set_class_weights(self, weights):
        self.given = list(weights)

loss = Weighted(ignore_index)
"""


def test_balanced_class_weights_are_counted_once() -> None:
    draw(0, 1)
    path = own(("loss = D2LSLoss(ignore_index)\n", WEIGHTED))
    settings = load_config(path, {"class_weights": "balanced"})
    train(settings)
    masks = np.stack([cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in Path("own/train/masks").iterdir()])
    shares = np.bincount(masks.ravel()) / masks.size
    assert settings.loss.given == pytest.approx(1 / (2 * shares))
    assert Path("lightning_logs/own.labels.json").is_file()
    given = load_config(path, {"class_weights": (1, 3)})
    train(given)
    assert given.loss.given == [1, 3]
    ours = load_config(own(), {"class_weights": "balanced"})
    train(ours)
    assert ours.loss.class_weights.tolist() == pytest.approx(1 / (2 * shares))
    with pytest.raises(ConfigError, match=r"class_weights has 3 values, num_classes=2"):
        train(load_config("own.py", {"class_weights": (1, 2, 3)}))


def test_the_sampler_favours_rare_classes_and_a_run_goes_on_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    draw(0, 1, images=6)
    for number in range(5):  # only the last picture has buildings
        cv2.imwrite(f"own/train/masks/{number}.png", np.zeros((40, 48), np.uint8))
    cv2.imwrite("own/train/masks/0.png", np.full((40, 48), 255, np.uint8))
    path = own()
    options = {"sampler": "rare_classes", "max_epoch": 2}
    settings = load_config(path, options)
    train(settings)
    assert "sampler: the most favoured of 6 images comes 3.51 times an epoch" in capsys.readouterr().out
    masks = [cv2.imread(f"own/train/masks/{number}.png", cv2.IMREAD_UNCHANGED) for number in range(6)]
    ground, building = ([(mask == label).sum() for mask in masks] for label in (0, 1))
    wanted = [g / sum(ground) / 2 + b / sum(building) / 2 for g, b in zip(ground, building, strict=True)]
    assert data_check.rare_class_weights(np.transpose([ground, building])) == pytest.approx(wanted)
    settings.train_loader.sampler.set_epoch(0)
    images = [request.index for request in settings.train_loader.sampler]
    assert images.count(5) >= 3
    assert 0 not in images, "nothing is labelled there"

    whole = saved(folder=Path("model_weights/own"))
    train(load_config(path, options | {"max_epoch": 1}))
    train(load_config(path, options | {"resume_ckpt_path": "last"}))
    assert_same_state(whole, saved(folder=Path("model_weights/own")))
    with pytest.raises(ConfigError, match="sampler='rare': expected one of rare_classes"):
        load_config(path, {"sampler": "rare"})


def test_counts_of_parts_of_files_are_not_kept() -> None:
    draw(0, 1, images=2)
    settings = load_config(own(), {"sampler": "rare_classes"})
    whole = settings.train_dataset.pairs
    settings.train_dataset._pairs = [Region(p.image, p.mask, p.name, (0, 0, 40, 48), (0, 0, 40, 48)) for p in whole]
    train(settings)
    assert not Path("lightning_logs/own.labels.json").exists()
    train(load_config("own.py", {"sampler": "rare_classes"}))
    assert Path("lightning_logs/own.labels.json").exists()


def test_a_loader_that_takes_no_weights_is_told() -> None:
    draw(0, 1)
    path = own(("training_loader(train_dataset, train_batch_size, num_workers=num_workers)",
                "evaluation_loader(train_dataset, 2, num_workers=0)"))  # fmt: skip
    with pytest.raises(ConfigError, match=r"sampler='rare_classes': train_loader has a DistributedEvalSampler"):
        train(load_config(path, {"sampler": "rare_classes"}))


def test_every_header_is_read_before_the_first_step() -> None:
    draw(0, 1, images=9)
    cv2.imwrite("own/train/images/3.png", np.zeros((40, 48), np.uint8))
    cv2.imwrite("own/val/masks/5.png", np.zeros((40, 47), np.uint8))
    with pytest.raises(DataError) as told:
        train(load_config(own()))
    assert "own/train/images/3.png" in str(told.value)
    assert "own/val/masks/5.png" in str(told.value)
    assert not Path("model_weights").exists()


def test_a_validation_that_fails_leaves_the_first_epochs_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(0, 1, images=4)
    settings = load_config(own())
    original = type(settings.val_dataset).__getitem__

    def broken(self: Any, item: Any) -> Any:
        if self is settings.val_dataset and item == 3 and Path("model_weights/own/last.ckpt").exists():
            raise DataError("own/val/images/3.png: damaged")
        return original(self, item)

    monkeypatch.setattr(type(settings.val_dataset), "__getitem__", broken)
    with pytest.raises(DataError, match="damaged"):
        train(settings)
    assert saved("last", Path("model_weights/own"))["global_step"] == 2


def test_validation_without_labels_has_no_best() -> None:
    draw(0, 1)
    for path in Path("own/val/masks").iterdir():
        cv2.imwrite(str(path), np.full((40, 48), 255, np.uint8))
    with pytest.raises(DataError, match=r"no pixel of the validation images is labelled, so val_mIoU has no value"):
        train(load_config(own()))


def test_data_come_before_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"own/train/images: no such folder"):
        train(load_config(own(("drop_path_rate=0.0)", 'drop_path_rate=0.0, pretrained="gone.pth")'))))


# Names


@pytest.mark.parametrize(
    ("line", "close"),
    [
        ("gradient_clip = 1.0", "gradient_clip_val"),
        ("max_epochs = 3", "max_epoch"),
        ("logger = []", "loggers"),
        ("batch_size = 8", "train_batch_size"),
    ],
)
def test_names_that_nothing_reads(line: str, close: str) -> None:
    path = write_config(Path(), after=f"{line}\n")
    with pytest.raises(ConfigError, match=rf"tiny\.py: nothing reads {line.split()[0]}\. Did you mean {close}\?"):
        load_config(path)


def test_callbacks_and_loggers_work() -> None:
    after = """
from pytorch_lightning.callbacks import EarlyStopping
callbacks = [EarlyStopping("val_F1", mode="max", patience=1, min_delta=1.0)]
loggers = ("tensorboard",)
"""
    trainer = run(write_config(Path(), after=after), max_epoch=5)
    assert trainer.current_epoch == 2, "stopped early"
    assert list(Path("lightning_logs/vaihingen/tiny/version_0").glob("events.out.tfevents*"))
    run(write_config(Path(), after='callbacks = ("early_stopping",)\n'), max_epoch=1)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"callbacks": ("magic",)}, r"callbacks has 'magic'; expected .*'early_stopping'"),
        ({"loggers": ["magic"]}, r"loggers has 'magic'; expected .*tensorboard, wandb, mlflow"),
        ({"loggers": ["wandb"]}, r"loggers: 'wandb' is not installed"),
    ],
)
def test_unknown_callbacks_and_loggers(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run(**settings)


# The best checkpoint of the last run


def score(*words: str) -> int:
    return run_main(test_vaihingen.main, ["-c", "tiny.py", "-o", "out", *words])


def test_the_last_runs_best_is_tested_whatever_save_top_k(capsys: pytest.CaptureFixture[str]) -> None:
    run(max_epoch=1)
    run(max_epoch=3, save_top_k=3, lr=5e-4)
    best = read_best(WEIGHTS)
    assert best is not None
    scores = [float(row["val_F1"]) for row in log(1) if row["val_F1"]]
    assert best.score == pytest.approx(max(scores))
    assert (best.file, best.epoch) == (f"tiny-epoch={best.epoch - 1}.ckpt", scores.index(max(scores)) + 1)
    capsys.readouterr()
    assert score() == 0
    shown = capsys.readouterr().out
    assert f"{WEIGHTS}/{best.file}" in shown
    assert f"epoch {best.epoch}, val_F1 {best.score:.4f}" in shown
    assert len([path for path in WEIGHTS.iterdir() if path.is_dir()]) == 1


def test_a_run_without_a_validation_yet_is_not_tested_by_an_earlier_one(capsys: pytest.CaptureFixture[str]) -> None:
    run(max_epoch=1)
    assert score() == 0
    path = write_config(Path(), after="loss.forward = lambda *_: 1 / 0\n")
    with pytest.raises(ConfigError):
        run(path)
    write_config(Path())
    capsys.readouterr()
    assert score() == 2
    assert "the last training run has no best checkpoint yet" in capsys.readouterr().err


def test_a_record_of_another_epoch_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run(max_epoch=1)
    record = best_record_of(WEIGHTS)
    record.write_text(record.read_text().replace('"epoch": 1', '"epoch": 7'))
    assert score() == 2
    assert "tiny.ckpt is of epoch 1, its record says 7" in capsys.readouterr().err


HOLDER = """
import sys
from pathlib import Path
from d2ls.training.checkpoint_io import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_runs_of_one_config(capsys: pytest.CaptureFixture[str]) -> None:
    WEIGHTS.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(WEIGHTS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert run_main(script.main, ["-c", "tiny.py"]) == 2
    assert f"process {process.pid} on " in capsys.readouterr().err
    assert not list(WEIGHTS.iterdir())
    process.communicate()
    with lock_folder(WEIGHTS):
        pass


# Other classes


def test_fine_tuning_to_other_classes(capsys: pytest.CaptureFixture[str]) -> None:
    run(max_epoch=1)
    draw(0, 1)
    start = {"pretrained_ckpt_path": str(WEIGHTS / "tiny.ckpt"), "lr": 1e-6}
    with pytest.raises(CheckpointError, match="num_classes=6, the config has num_classes=2"):
        train(load_config(own(), start))
    capsys.readouterr()
    train(load_config("own.py", {**start, "pretrained_partial": True}))
    shown = capsys.readouterr().out
    assert "not loaded: dictionary.table: (6, 32) in the checkpoint, (2, 32) in the network" in shown
    before, after = (read_checkpoint(path).weights for path in (WEIGHTS / "tiny.ckpt", "model_weights/own/last.ckpt"))
    fitting = [name for name in after if before[name].shape == after[name].shape and after[name].is_floating_point()]
    assert len(fitting) > 40
    assert all(torch.allclose(after[name], before[name], atol=1e-4) for name in fitting)
    assert shown.count("not loaded: ") == len(after) - sum(before[name].shape == after[name].shape for name in after)
