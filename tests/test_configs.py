"""Every config that comes with the project, against the table of published settings (spec section 2)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from d2ls.config import Settings, load_config
from d2ls.data.augment import Augmentation
from d2ls.errors import CheckpointError
from d2ls.synthetic import prepare as demo_drawing
from d2ls.training.trainer import train

ROOT = Path(__file__).parents[1]
# config/folder and config/raster need the files of their user: tests of their own train with them.
FILES = (path for path in (ROOT / "config").glob("*/*.py") if path.parent.name not in ("folder", "raster"))
CONFIGS = sorted(path.relative_to(ROOT / "config").as_posix() for path in FILES)
LIGHT = {"backbone": "test_convnext", "pretrained": False, "stages": 1}

# epochs, batch, learning rate, monitor
PUBLISHED = {
    "vaihingen": (45, 4, 1e-4, "val_F1"),
    "potsdam": (45, 4, 1e-4, "val_F1"),
    "loveda": (30, 8, 8e-5, "val_mIoU"),
    "uavid": (45, 4, 1e-4, "val_mIoU"),
    "grass": (100, 4, 1e-4, "val_mIoU"),
    "cloud": (100, 4, 1e-4, "val_mIoU"),
}
_THREE = {"flip": 0.5, "mosaic": 0.25}
_COLOUR = {**_THREE, "brightness_contrast": 0.25, "sharpen": 0.5}
RECIPES: dict[str, dict[str, Any]] = {
    "vaihingen": {**_THREE, "crop": 512, "scales": (0.5, 0.75, 1, 1.25, 1.5), "smart_crop": 0.5, "rot90": 0.5},
    "potsdam": {**_THREE, "crop": 768, "scales": (0.75, 1, 1.25, 1.5), "smart_crop": 0.75, "rot90": 0.25},
    "loveda": {**_THREE, "crop": 512, "scales": (0.75, 1, 1.25, 1.5), "smart_crop": 0.75, "rot90": 0.5},
    "uavid": _COLOUR,
    "grass": _COLOUR,
    "cloud": _COLOUR,
}


def load(name: str, **overrides: Any) -> Settings:
    return load_config(ROOT / "config" / name, overrides)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_network: None) -> None:
    """Neither network nor data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2LS_DATA", str(tmp_path / "nowhere"))


def test_all_data_sets_have_a_config() -> None:
    assert {f"{name}/d2ls.py" for name in (*PUBLISHED, "dubai", "demo")} <= set(CONFIGS)
    assert {"dubai/static.py", "dubai/unet.py"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("protocol", ["strict", "published"])
def test_every_config_loads_without_network_and_data(name: str, protocol: str, tmp_path: Path) -> None:
    settings = load(name, **LIGHT, protocol=protocol)
    folder = name.split("/")[0]
    stem = name.split("/")[1].removesuffix(".py")
    assert settings.protocol == protocol
    assert settings.weights_path == f"model_weights/{folder}/{stem}"
    assert settings.log_name == f"{folder}/{stem}"
    assert settings.classes == settings.train_dataset.spec.classes
    assert settings.val_dataset.augmentation is None, "evaluation is deterministic"
    assert settings.test_dataset.augmentation is None
    assert settings.save_last
    assert settings.save_top_k == 1
    assert settings.gradient_clip_val is None
    assert settings.accumulate_grad_batches == 1
    assert settings.seed == 42
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name: str) -> None:
    settings = load(f"{name}/d2ls.py", backbone="test_convnext")
    epochs, batch, lr, monitor = PUBLISHED[name]
    assert (settings.max_epoch, settings.train_batch_size, settings.lr) == (epochs, batch, lr)
    assert (settings.monitor, settings.monitor_mode, settings.check_val_every_n_epoch) == (monitor, "max", 1)
    assert settings.train_dataset.augmentation == Augmentation(**RECIPES[name])
    assert settings.train_loader.batch_size == batch
    assert settings.train_loader.drop_last
    assert (settings.pretrained, settings.stages, settings.weight_decay) == ("torchvision", 3, 0.01)
    assert settings.protocol == "strict"
    groups = settings.optimizer.param_groups
    assert [(g["lr"], g["weight_decay"], g["lookahead_k"], g["lookahead_alpha"]) for g in groups] == [
        (lr, 0.01, 5, 0.5)
    ]
    assert (settings.lr_scheduler.T_max, settings.lr_scheduler.eta_min) == (epochs, 1e-6)
    assert (settings.loss.auxiliary_weight, settings.loss.contrastive_weight) == (0.4, 1.0)
    assert settings.net.arguments["width"] == 256
    assert settings.net.arguments["dictionary"] == "dynamic"


def test_the_paper_s_network() -> None:
    settings = load("loveda/d2ls.py")
    assert settings.net.arguments["backbone"] == "convnext_base"
    assert settings.net.arguments["stages"] == 3
    # The reference has 94.03 million parameters, of which 3.95 million are never used (spec section 1).
    parameters = sum(parameter.numel() for parameter in settings.net.parameters())
    assert parameters / 1e6 == pytest.approx(94.03 - 3.95, abs=0.02)
    with pytest.raises(CheckpointError, match=r"pretrained='torchvision'.*not loaded yet"):
        settings.net.eval()(torch.zeros(1, 3, 32, 32))


def test_backbone_and_rates_can_be_changed_from_outside() -> None:
    settings = load("cloud/d2ls.py", **LIGHT, train_batch_size=2, max_epoch=1, backbone_lr=1e-5)
    assert (settings.train_loader.batch_size, settings.lr_scheduler.T_max) == (2, 1)
    assert [group["lr"] for group in settings.optimizer.param_groups] == [1e-4, 1e-5]
    settings.net.eval()(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("dictionary", ["static", "ones", "zeros"])
def test_dictionaries_can_be_changed_from_outside(dictionary: str) -> None:
    settings = load("vaihingen/d2ls.py", **LIGHT, dictionary=dictionary, use_aux_loss=False, contrastive_weight=0.0)
    output = settings.net.train()(torch.zeros(2, 3, 32, 32))
    assert output.static_logits is None
    assert (settings.loss.auxiliary_weight, settings.loss.contrastive_weight) == (0.0, 0.0)


@pytest.mark.parametrize("config", ["vaihingen/d2ls.py", "dubai/static.py"])
def test_the_number_of_entries_can_be_changed_from_outside(config: str) -> None:
    assert load(config, **LIGHT, num_entries=9).net.arguments["num_entries"] == 9


def test_the_auxiliary_weight_can_be_changed_from_outside() -> None:
    assert load("vaihingen/d2ls.py", **LIGHT).loss.auxiliary_weight == 0.4
    assert load("vaihingen/d2ls.py", **LIGHT, auxiliary_weight=1.0).loss.auxiliary_weight == 1.0
    assert load("vaihingen/d2ls.py", **LIGHT, auxiliary_weight=1.0, use_aux_loss=False).loss.auxiliary_weight == 0.0


def test_dubai_s_three_configs_share_everything_but_the_network() -> None:
    ours, static, unet = (load(f"dubai/{name}.py") for name in ("d2ls", "static", "unet"))
    for name in ("max_epoch", "train_batch_size", "lr", "weight_decay", "seed", "backbone", "pretrained", "crop"):
        assert getattr(ours, name) == getattr(static, name) == getattr(unet, name), name
    assert ours.train_dataset.augmentation == static.train_dataset.augmentation == unet.train_dataset.augmentation
    assert (ours.net.arguments["dictionary"], static.net.arguments["dictionary"]) == ("dynamic", "static")
    assert static.net.arguments | {"dictionary": "dynamic"} == ours.net.arguments
    assert Path(ours.pretrained).is_file(), "the weights come with an installed package"


def test_unet_takes_any_size_and_starts_from_the_same_weights() -> None:
    settings = load("dubai/unet.py")
    ours = load("dubai/d2ls.py")
    before = {name: tensor.clone() for name, tensor in settings.net.encoder.model.state_dict().items()}
    settings.net.load_pretrained()
    ours.net.backbone.load_pretrained()
    expected = ours.net.backbone.body.state_dict()
    after = settings.net.encoder.model.state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    for name in expected.keys() & after.keys():
        assert torch.equal(after[name], expected[name]), name
    mask = torch.zeros(2, 41, 50, dtype=torch.long)
    image = torch.randn(2, 3, 41, 50)
    logits = settings.net.train()(image)
    assert logits.shape == (2, 6, 41, 50)
    settings.loss(logits, mask)["loss"].backward()
    settings.optimizer.step()
    assert not torch.equal(settings.net.encoder.model.state_dict()["conv_stem.weight"], expected["conv_stem.weight"])
    whole = torch.randn(1, 3, 64, 64)
    settings.net.eval()
    with torch.no_grad():
        assert settings.net(whole[..., :61, :]).shape == (1, 6, 61, 64)


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    for name, number in {"TRAIN": 4, "VALIDATION": 2, "TEST": 2, "SIZE": 64}.items():
        monkeypatch.setattr(demo_drawing, name, number)
    monkeypatch.setenv("D2LS_DATA", str(tmp_path / "drawn"))
    with torch.random.fork_rng():
        yield tmp_path / "drawn" / "demo"
    torch.use_deterministic_algorithms(False)


def test_demo_draws_its_scenes_at_first_use_and_trains(small_demo: Path) -> None:
    small = {**LIGHT, "width": 32, "train_batch_size": 2, "num_workers": 0, "accelerator": "cpu"}
    settings = load("demo/d2ls.py", **small, max_epoch=1)
    assert not small_demo.exists()
    train(settings)
    assert len(list(small_demo.glob("train/images_1024/*.tif"))) == 6
    assert len(list(small_demo.glob("test/masks_1024/*.png"))) == 2
    assert Path("model_weights/demo/d2ls/d2ls.ckpt").is_file(), (
        "validated, though fewer epochs than between validations"
    )
    assert len(settings.train_dataset) == 4
    assert [pair.name.split("_")[3] for pair in settings.val_dataset.pairs] == ["area30"] * 2
    published = load("demo/d2ls.py", **small, protocol="published")
    assert len(published.train_dataset) == 6
    assert published.val_dataset.pairs == settings.test_dataset.pairs


def test_demo_starts_from_weights_that_need_no_download() -> None:
    settings = load("demo/d2ls.py")
    assert settings.net.backbone.pending == settings.pretrained
    settings.net.backbone.load_pretrained()
    assert settings.net.eval()(torch.zeros(1, 3, 33, 47)).shape == (1, 6, 33, 47)
