"""Training steps on the device in every precision, compiled and not, without a wait of the host; and whole runs."""

from pathlib import Path

import pytest
import torch
from torch import nn

from d2ls.config import load_config
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning
from d2ls.optim import adamw_lookahead
from d2ls.training.trainer import train
from tests.gpu.conftest import SMOKE
from tests.parity import cases

pytestmark = pytest.mark.gpu

MODES = {
    "float32": ("highest", None, 1e-3),
    "TF32": ("high", None, 1e-2),
    "bf16": ("highest", torch.bfloat16, 5e-2),
    "fp16": ("highest", torch.float16, 2e-2),
}
"""Precision of products, type of autocast, and how far losses may be from those of float32 on the CPU."""


class Steps:
    """A tiny network in training, step by step on one batch."""

    def __init__(self, device: torch.device | str, mode: str = "float32", compiled: str | None = None) -> None:
        matmul, self.kind, _ = MODES[mode]
        torch.set_float32_matmul_precision(matmul)
        torch.manual_seed(0)
        net = DynamicDictionaryLearning("test_convnext", 4, stages=2, width=32, drop_path_rate=0.0)
        self.net = net.to(device).train()
        self.network: nn.Module = torch.compile(net, backend=compiled, fullgraph=True) if compiled else net
        self.loss, self.optimizer = D2LSLoss(255), adamw_lookahead(net, 2e-3)
        self.device = torch.device(device)
        fp16 = self.kind is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=2.0**8, enabled=fp16)
        self.image = torch.from_numpy(cases.image(1, (2, 3, 64, 64))).to(device)
        self.mask = torch.from_numpy(cases.mask(2, (2, 64, 64), 4, 255)).to(device)

    def step(self) -> torch.Tensor:
        """The loss before the step, on the device."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.kind, enabled=self.kind is not None):
            total = self.loss(self.network(self.image), self.mask)["loss"]
        self.scaler.scale(total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return total.detach()


@pytest.fixture(scope="module")
def losses_on_the_cpu() -> list[float]:
    steps = Steps("cpu")
    return [steps.step().item() for _ in range(4)]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("mode", MODES)
def test_steps(mode: str, compiled: bool, device: torch.device, backend: str, losses_on_the_cpu: list[float]) -> None:
    torch.compiler.reset()
    steps = Steps(device, mode, backend if compiled else None)
    found = [steps.step().item() for _ in range(4)]
    assert found == pytest.approx(losses_on_the_cpu, rel=MODES[mode][2])
    assert found[-1] < found[0]
    assert all(parameter.isfinite().all() for parameter in steps.net.parameters())


def test_an_overflow_in_float16_skips_a_step(device: torch.device) -> None:
    steps = Steps(device, "fp16")
    steps.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**60)
    before = [parameter.detach().clone() for parameter in steps.net.parameters()]
    steps.step()
    assert all(torch.equal(*pair) for pair in zip(before, steps.net.parameters(), strict=True))
    assert steps.scaler.get_scale() < 2.0**60


@pytest.mark.parametrize("mode", ["float32", "bf16"])
def test_the_host_waits_for_nothing(mode: str, device: torch.device) -> None:
    """Not under fp16: the scaler asks whether the gradients are finite."""
    steps = Steps(device, mode)
    steps.step()
    if not SMOKE:
        torch.cuda.set_sync_debug_mode("error")
    try:
        total = steps.step()
    finally:
        if not SMOKE:
            torch.cuda.set_sync_debug_mode("default")
    assert total.isfinite()


@pytest.mark.usefixtures("run_folder")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_run_and_its_continuation(precision: str, device: torch.device) -> None:
    """Two epochs, and one more from the last checkpoint. On a CPU Lightning takes bfloat16 for 16-mixed."""
    settings = {"accelerator": "cpu" if SMOKE else "gpu", "gpus": 1, "precision": precision, "lr": 1e-3}
    first = train(load_config("tiny.py", settings))
    second = train(load_config("tiny.py", {**settings, "max_epoch": 3, "auto_resume": True}))
    assert second.global_step == first.global_step // 2 * 3
    assert first.strategy.root_device.type == device.type
    losses = [trainer.callback_metrics["train_loss_epoch"].item() for trainer in (first, second)]
    assert losses[1] < losses[0] * 1.1
    assert Path("model_weights/vaihingen/tiny/last.ckpt").is_file()
