"""Types, defaults and contradictions of settings."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from d2ls.config import load_config
from d2ls.data.sets import loveda, vaihingen
from d2ls.errors import ConfigError
from d2ls.settings import SETTINGS, check_contradictions, check_type
from tests.tiny import write_config

# Spec section 7: what GeoSeg's users know, and what is new.
NAMES = re.findall(
    r"\w+",
    """max_epoch train_batch_size val_batch_size lr weight_decay backbone_lr backbone_weight_decay ignore_index
num_classes classes weights_name weights_path test_weights_name log_name monitor monitor_mode save_top_k save_last
check_val_every_n_epoch pretrained_ckpt_path resume_ckpt_path gpus num_nodes strategy precision net loss use_aux_loss
train_dataset val_dataset test_dataset train_loader val_loader optimizer lr_scheduler
backbone pretrained stages protocol seed accumulate_grad_batches gradient_clip_val""",
)

VALID = {
    **{name: setting.default for name, setting in SETTINGS.items()},
    "max_epoch": 2, "num_classes": 3, "classes": ("a", "b", "c"), "ignore_index": 255, "path": Path("c.py"),
}  # fmt: skip


def test_all_names_of_the_interface_exist() -> None:
    assert set(NAMES) <= set(SETTINGS)


def test_defaults_have_the_types_that_they_ask_for() -> None:
    for name, setting in SETTINGS.items():
        if setting.simple and not setting.required and setting.default is not None:
            check_type(name, setting.default, "default")
    assert SETTINGS["seed"].default == 42
    assert SETTINGS["protocol"].default == "strict"
    assert SETTINGS["deterministic"].default == "warn"
    assert SETTINGS["precision"].default == "32-true"
    assert SETTINGS["gradient_clip_val"].default is None


def test_every_setting_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs/configs.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", text[text.index("## Settings") :]))
    assert SETTINGS.keys() <= named


def test_valid_settings_pass() -> None:
    check_contradictions(SimpleNamespace(**VALID))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_epoch": 0}, "c.py: max_epoch=0: expected at least 1"),
        ({"val_batch_size": 0}, "val_batch_size=0: expected at least 1"),
        ({"accumulate_grad_batches": -2}, "accumulate_grad_batches=-2: expected at least 1"),
        ({"num_workers": -1}, "num_workers=-1: expected at least 0"),
        ({"seed": -1}, "seed=-1: expected at least 0"),
        ({"seed": 2**32}, f"seed={2**32}: expected less than 2**32"),
        ({"test_window": 0}, "test_window=0: expected at least 1"),
        ({"test_overlap": 0.95}, "test_overlap=0.95: expected a share from 0 to 0.9"),
        ({"test_overlap": float("nan")}, "test_overlap=nan: expected a share from 0 to 0.9"),
        ({"save_top_k": -2}, "save_top_k=-2: expected a number, or -1 for all"),
        ({"weights_name": "last"}, "weights_name='last': this is the name of the last checkpoint"),
        ({"deterministic": "yes"}, "deterministic='yes': True, False or 'warn'"),
        ({"protocol": "loose"}, "protocol='loose': expected one of strict, published"),
        ({"monitor": "val_f1"}, "monitor='val_f1': expected one of val_mIoU, val_F1, val_OA, val_loss, train_loss"),
        ({"monitor_mode": "up"}, "monitor_mode='up': expected one of max, min"),
        ({"monitor": "val_loss"}, "monitor_mode='max': monitor='val_loss' is better when it is smaller"),
        ({"monitor_mode": "min"}, "monitor_mode='min': monitor='val_mIoU' is better when it is larger"),
        ({"num_classes": 4}, "num_classes=4: classes names 3: ('a', 'b', 'c')"),
        ({"ignore_index": 2}, "ignore_index=2: it is one of the 3 classes"),
        ({"gradient_clip_val": 0.0}, "gradient_clip_val=0.0: expected a norm above 0, or None"),
        ({"net": SimpleNamespace(num_classes=5)}, "num_classes=3: net was built with num_classes=5"),
        ({"loss": SimpleNamespace(ignore_index=6)}, "ignore_index=255: loss was built with ignore_index=6"),
        (
            {"val_dataset": SimpleNamespace(spec=loveda.SPEC)},
            "num_classes=3: val_dataset (loveda) has 7 classes and ignore_index=7; the config says ignore_index=255",
        ),
    ],
)
def test_contradictions_quote_the_setting(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_contradictions(SimpleNamespace(**(VALID | changes)))


@pytest.mark.parametrize(("monitor", "mode"), [("val_loss", "min"), ("train_loss", "min"), ("val_OA", "max")])
def test_monitors_and_their_modes(monitor: str, mode: str) -> None:
    check_contradictions(SimpleNamespace(**(VALID | {"monitor": monitor, "monitor_mode": mode})))


def test_fewer_epochs_than_the_distance_of_validations_is_no_contradiction() -> None:
    check_contradictions(SimpleNamespace(**(VALID | {"check_val_every_n_epoch": 10})))


def test_classes_of_another_data_set_in_a_config(tmp_path: Path) -> None:
    path = write_config(
        tmp_path, ("import vaihingen\n", "import loveda, vaihingen\n"), ("= vaihingen.test()", "= loveda.test()")
    )
    with pytest.raises(ConfigError, match=r"num_classes=6: test_dataset \(loveda\) has 7 classes"):
        load_config(path)
    assert vaihingen.SPEC.num_classes == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gpus", 2),
        ("gpus", [0, 1]),
        ("gpus", "auto"),
        ("precision", 32),
        ("pretrained", True),
        ("pretrained", "torchvision"),
        ("backbone_lr", None),
        ("lr", 1),
    ],
)
def test_settings_of_several_types(name: str, value: object) -> None:
    check_type(name, value, "here")


@pytest.mark.parametrize(
    ("name", "value"),
    [("gpus", True), ("gpus", 1.0), ("pretrained", 1), ("lr", "1e-3"), ("classes", "ab"), ("test_window", 2.5)],
)
def test_values_of_no_allowed_type(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{name}={value!r} (here): expected")):
        check_type(name, value, "here")
