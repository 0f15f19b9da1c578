"""Configs and settings that cannot be meant."""

from pathlib import Path

import pytest

from tests.bad_input.running import refused
from tests.tiny import CONFIG, write_config

pytestmark = pytest.mark.usefixtures("run_folder")

TEXTS: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "a bracket that is never closed": (CONFIG + "x = (\n", ("bad.py is not Python", "never closed")),
    "wrong indentation": (CONFIG + "  x = 1\n", ("bad.py is not Python", "indent")),
    "not UTF-8": (b"# \xff\xfe\n", ("bad.py is not Python", "utf-8")),
    "a NUL": (b"x = 1\0\n", ("bad.py is not Python", "null")),
    "a binary file": (bytes(range(256)), ("bad.py is not Python",)),
    "brackets too deep": ("x = " + "(" * 300 + ")" * 300, ("bad.py is not Python", "nested")),
    "an expression too deep": (CONFIG + "x = " + "-" * 3000 + "1\n", ("bad.py", "recursion")),
    "nothing": ("", ("bad.py: no max_epoch, ", "see config/")),
    "a name that is not set": (CONFIG.replace("log_name =", "logname ="), ("bad.py: no log_name.",)),
    "a name that is nowhere": (CONFIG + "x = nowhere\n", ("bad.py, line ", "NameError", "nowhere")),
    "a mistake when it runs": (CONFIG + "x = 1 / 0\n", ("bad.py, line ", "ZeroDivisionError")),
    "an import of nothing": ("import no_such_module\n" + CONFIG, ("bad.py, line 1", "no_such_module")),
    "an exit": (CONFIG + "raise SystemExit(0)\n", ("bad.py, line ", "SystemExit")),
    "text for a number": (CONFIG.replace("max_epoch = 2", 'max_epoch = "2"'), ("bad.py", "max_epoch")),
    "a number for text": (
        CONFIG.replace('monitor, monitor_mode = "val_F1"', "monitor, monitor_mode = 3"),
        ("monitor=3",),
    ),
    "a number for the classes": (CONFIG + "classes = 6\n", ("bad.py", "classes=6")),
    "no network": (CONFIG + "net = None\n", ("bad.py: net=None: expected Module, found NoneType",)),
    "a loss that is a number": (CONFIG + "loss = 5\n", ("bad.py: loss=5: expected Module",)),
    "a loader that is a list": (CONFIG + "train_loader = []\n", ("bad.py: train_loader=[]: expected DataLoader",)),
    "a loader that is missing": (CONFIG.replace("val_loader =", "loader ="), ("bad.py: no val_loader",)),
    "an optimiser by name": (CONFIG + "optimizer = 'adamw'\n", ("bad.py: optimizer='adamw': expected Optimizer",)),
    "a schedule by name": (CONFIG + "lr_scheduler = 'cosine'\n", ("lr_scheduler='cosine': expected LRScheduler or",)),
    "data of another set": (
        CONFIG + "from d2ls.data.sets import loveda\nval_dataset = loveda.val()\n",
        ("val_dataset (loveda) has 7 classes",),
    ),
    "a base that is not there": ('base = "gone.py"\n', ("bad.py: its base gone.py does not exist",)),
    "a base that is itself": ('base = "bad.py"\n', ("base='bad.py' leads in a circle: bad.py -> bad.py",)),
    "a base in a circle": ('base = "round.py"\n', ("leads in a circle: bad.py -> round.py -> bad.py",)),
    "a base that is no text": ("base = 3\n", ("bad.py: base must be the name of another config file",)),
    "a base that is a folder": ('base = "."\n', ("bad.py: its base . does not exist",)),
    "statements beside a base": ('base = "tiny.py"\nfor x in (1, 2):\n    pass\n', ("bad.py, line 2", "for x in")),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    text, told = TEXTS[kind]
    Path("bad.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    Path("round.py").write_text('base = "bad.py"\n')
    refused(capfd, "train", "-c", "bad.py", told=told)


WORDS: dict[str, tuple[str, ...]] = {
    "max_epochs=2": ("max_epochs: no such setting in tiny.py. Did you mean max_epoch?",),
    "max_epoch=two": ("max_epoch='two'", "expected int, found str"),
    "max_epoch=2.5": ("max_epoch=2.5", "expected int, found float"),
    "max_epoch=True": ("max_epoch=True", "expected int, found bool"),
    "max_epoch=0": ("max_epoch=0: expected a whole number of epochs, at least 1",),
    "max_epoch": ("'max_epoch': expected name=value",),
    "=2": ("'=2': expected name=value",),
    "1x=2": ("'1x=2': expected name=value",),
    "lr=1e999": ("lr=inf", "finite"),
    "lr=nan": ("lr='nan'", "expected float"),
    "lr=0": ("lr=0",),
    "lr=-1e-3": ("lr=-0.001",),
    "weight_decay=-1": ("weight_decay=-1",),
    "seed=-1": ("seed=-1: expected at least 0",),
    "seed=4294967296": ("seed=4294967296: expected less than 2**32",),
    "seed=x": ("seed='x'",),
    "train_batch_size=0": ("tiny.py, line ", "batch_size=0"),
    "train_batch_size=7": ("6 training images are too few for a batch of 7",),
    "val_batch_size=-2": ("tiny.py, line ", "batch_size=-2"),
    "num_workers=-1": ("tiny.py, line ", "num_workers"),
    "num_classes=5": ("num_classes=5: classes names 6",),
    "num_classes=1": ("num_classes=1",),
    "ignore_index=2": ("ignore_index=2: it is one of the 6 classes",),
    "ignore_index=7": ("has 6 classes and ignore_index=6; the config says ignore_index=7",),
    "monitor=val_accuracy": ("monitor='val_accuracy'", "val_mIoU"),
    "monitor_mode=min": ("monitor_mode='min': monitor='val_F1' is better when it is larger",),
    "save_top_k=-2": ("save_top_k=-2",),
    "weights_name=last": ("weights_name='last'",),
    "deterministic=maybe": ("deterministic='maybe'",),
    "gradient_clip_val=0": ("gradient_clip_val=0",),
    "accumulate_grad_batches=0": ("accumulate_grad_batches=0",),
    "check_val_every_n_epoch=0": ("check_val_every_n_epoch=0",),
    "num_nodes=0": ("num_nodes=0",),
    "protocol=public": ("protocol", "'public'", "strict"),
    "precision=7": ("precision=7",),
    "precision=double": ("precision='double'",),
    "accelerator=abacus": ("accelerator='abacus'",),
    "accelerator=gpu": ("accelerator='gpu'",),
    "gpus=0": ("gpus=0",),
    "strategy=hope": ("strategy='hope'",),
    "backbone=no_such_net": ("backbone='no_such_net'", "timm has no model of this name"),
    "backbone=hf-hub:someone/net": ("backbone='hf-hub:someone/net'", "not fetched"),
    "backbone=local-dir:/tmp": ("backbone='local-dir:/tmp'",),
    "backbone=": ("backbone=''",),
    "stages=-1": ("stages=-1",),
    "width=10": ("width=10",),
    "dictionary=magic": ("dictionary='magic'",),
    "drop_path_rate=1.5": ("drop_path_rate",),
    "contrastive_weight=-1": ("contrastive_weight=-1",),
    "crop=0": ("crop is 0",),
    "pretrained=gone.pth": ("no weight file gone.pth", "pretrained=False"),
    "resume_ckpt_path=last": ("resume_ckpt_path='last': no checkpoint model_weights/vaihingen/tiny/last.ckpt",),
    "resume_ckpt_path=gone.ckpt": ("resume_ckpt_path='gone.ckpt': no checkpoint gone.ckpt",),
    "pretrained_ckpt_path=gone.ckpt": ("no weight file gone.ckpt",),
    "net=None": ("net: no such setting",),
    "base=other.py": ("base: no such setting",),
}


@pytest.mark.parametrize("word", WORDS)
def test_settings_on_the_command_line(word: str, capfd: pytest.CaptureFixture[str]) -> None:
    refused(capfd, "train", "-c", "tiny.py", word, told=WORDS[word])


def test_a_setting_given_twice(capfd: pytest.CaptureFixture[str]) -> None:
    refused(capfd, "train", "-c", "tiny.py", "lr=1", "lr=2", told=("lr is given twice",))


@pytest.mark.parametrize("place", [".", "gone.py", "loop.py", "tiny.py/in/it", "x" * 300])
def test_configs_that_are_no_files(place: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("loop.py").symlink_to("loop.py")
    refused(capfd, "train", "-c", place, told=(place[:50],))


def test_a_config_without_test_images(capfd: pytest.CaptureFixture[str]) -> None:
    write_config(Path(), after="test_dataset = None\n")
    refused(
        capfd, "test_vaihingen", "-c", "tiny.py", "-o", "out", told=("tiny.py: test_dataset=None", "vaihingen.test()")
    )
