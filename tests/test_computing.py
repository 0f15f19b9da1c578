"""Settings that change how a network is computed, but not what it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch

from d2ls.config import load_config
from d2ls.errors import ConfigError
from d2ls.models import streaming
from d2ls.training.trainer import train
from tests.tiny import write_config

pytestmark = pytest.mark.usefixtures("run_folder")


def weights_after(**overrides: Any) -> dict[str, torch.Tensor]:
    """The weights that one epoch leaves."""
    train(load_config("tiny.py", {"max_epoch": 1, **overrides}))
    content = torch.load("model_weights/vaihingen/tiny/last.ckpt", weights_only=True)
    weights: dict[str, torch.Tensor] = content["state_dict"]
    return weights


@pytest.mark.parametrize(
    "settings",
    [
        {"checkpoint_backbone": True},
        {"channels_last": True},
        pytest.param({"compile": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_trains_to_the_same_weights(settings: dict[str, Any]) -> None:
    expected, found = weights_after(), weights_after(**settings)
    assert list(found) == list(expected)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_half_precision_trains() -> None:
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        trainer = train(load_config("tiny.py", {"precision": precision}))
        losses.append(trainer.callback_metrics["train_loss_epoch"].item())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_a_foreign_network_has_no_backbone_to_checkpoint() -> None:
    config = write_config(Path(), after="\nimport torch\n\nnet = torch.nn.Conv2d(3, 6, 1)\n")
    with pytest.raises(ConfigError, match="checkpoint_backbone=True: a Conv2d"):
        train(load_config(config, {"checkpoint_backbone": True}))


def test_the_plain_decoder_trains_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "decode", pytest.fail)
    trainer = train(load_config("tiny.py", {"max_epoch": 1, "memory_efficient": False}))
    assert trainer.callback_metrics["train_loss_epoch"].isfinite()


def test_a_foreign_network_has_one_decoder_only() -> None:
    config = write_config(Path(), after="\nimport torch\n\nnet = torch.nn.Conv2d(3, 6, 1)\n")
    with pytest.raises(ConfigError, match="memory_efficient=False: a Conv2d"):
        train(load_config(config, {"memory_efficient": False}))
