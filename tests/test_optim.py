"""The optimiser against shipped weights, against catalyst, and through interruption and resume."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, TensorDataset

from d2ls.errors import ConfigError
from d2ls.optim import adamw_lookahead, cosine
from tests.parity import cases

SHIPPED = json.loads((Path(__file__).parent / "parity" / "lookahead.json").read_text())


class Net(nn.Module):
    """Two layers, so that the backbone can have its own rate."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)
        for i, parameter in enumerate(self.parameters()):
            parameter.data = torch.from_numpy(cases.image(seed + i, tuple(parameter.shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.backbone(x)))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    net(torch.from_numpy(cases.image(seed, (5, 3)))).square().sum().backward()
    optimizer.step()


def weights(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- the phase ---


def test_shipped_weights_after_each_step() -> None:
    net = nn.Module()
    net.w = nn.Parameter(torch.from_numpy(cases.image(SHIPPED["start_seed"], (8,))))
    m = torch.from_numpy(cases.image(SHIPPED["matrix_seed"], (8, 8)))
    b = torch.from_numpy(cases.image(SHIPPED["vector_seed"], (8,)))
    optimizer = adamw_lookahead(net, lr=0.05, weight_decay=0.01)
    for number, expected in enumerate(SHIPPED["weights_after_step"], start=1):
        optimizer.zero_grad()
        (0.5 * net.w @ (m @ m.T / 8 + torch.eye(8)) @ net.w - b @ net.w).backward()
        optimizer.step()
        np.testing.assert_allclose(net.w.detach(), expected, rtol=0, atol=2e-6, err_msg=f"step {number}")


@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (1, 0.5), (2, 0.8), (5, 0.0), (3, 1.0)])
def test_every_step_equals_catalysts(k: int, alpha: float) -> None:
    lookahead = pytest.importorskip(
        "catalyst.contrib.optimizers.lookahead",
        reason="catalyst, the oracle, is not installed or does not import here",
        exc_type=Exception,
    ).Lookahead
    ours, theirs = Net(), Net()
    optimizer = adamw_lookahead(
        ours, lr=0.03, weight_decay=0.02, backbone_lr=0.01, backbone_weight_decay=0.1, k=k, alpha=alpha
    )
    groups = [
        {"params": theirs.head.parameters()},
        {"params": theirs.backbone.parameters(), "lr": 0.01, "weight_decay": 0.1},
    ]
    oracle = lookahead(AdamW(groups, lr=0.03, weight_decay=0.02), k=k, alpha=alpha)
    oracle._optimizer_step_pre_hooks, oracle._optimizer_step_post_hooks = OrderedDict(), OrderedDict()  # for torch 2
    for number in range(3 * k + 2):
        step(ours, optimizer, number)
        step(theirs, oracle, number)
        for mine, other in zip(weights(ours), weights(theirs), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7, msg=f"step {number + 1}")


def test_steps_1_6_and_11_meet_the_slow_weights_and_no_others() -> None:
    """Where they meet, the weights are the slow ones; the slow ones change there only."""
    net = Net()
    optimizer = adamw_lookahead(net, lr=0.05)
    jumps, slow = [], None
    for number in range(1, 13):
        before = weights(net)
        step(net, optimizer, number)
        after = weights(net)
        held = optimizer.state_dict()["state"]
        now = [held[i]["lookahead_slow_buff"].clone() for i in sorted(held)]
        if equal(after, now):
            jumps.append(number)
        assert slow is None or equal(slow, now) == (number not in jumps)
        assert not equal(before, after)
        slow = now
    assert jumps == [1, 6, 11]


# --- interruption and resume ---


@pytest.mark.parametrize("stop", [1, 2, 4, 5, 6, 8])
def test_resuming_is_bit_identical(stop: int, tmp_path: Path) -> None:
    """Stopped on, before and after a meeting; one scheduler step every three steps."""

    def build() -> tuple:
        net = Net()
        optimizer = adamw_lookahead(net, lr=0.05, backbone_lr=0.01)
        return net, optimizer, cosine(optimizer, max_epoch=6, eta_min=1e-4)

    def advance(parts: tuple, first: int, last: int) -> None:
        net, optimizer, schedule = parts
        for number in range(first, last + 1):
            step(net, optimizer, number)
            if number % 3 == 0:
                schedule.step()

    whole, interrupted = build(), build()
    advance(whole, 1, 14)
    advance(interrupted, 1, stop)
    torch.save([part.state_dict() for part in interrupted], tmp_path / "state.pt")

    resumed = build()
    step(resumed[0], resumed[1], 99)  # whatever the fresh objects hold must not survive
    for part, state in zip(resumed, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert [group["lookahead_step"] for group in resumed[1].param_groups] == [4 + stop] * 2
    advance(resumed, stop + 1, 14)
    assert equal(weights(whole[0]), weights(resumed[0]))


class Regression(LightningModule):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.net = Net(seed)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> dict:
        optimizer = adamw_lookahead(self.net, lr=0.05, backbone_lr=0.02)
        return {"optimizer": optimizer, "lr_scheduler": cosine(optimizer, max_epoch=3, eta_min=1e-4)}

    def fit(self, folder: Path, epochs: int, resume: Path | None = None) -> "Regression":
        """Seven steps an epoch: no epoch ends where Lookahead's period does."""
        images = torch.from_numpy(cases.image(7, (14, 3)))
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            default_root_dir=folder,
            callbacks=[ModelCheckpoint(folder, save_last=True)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(self, DataLoader(TensorDataset(images), batch_size=2), ckpt_path=resume, weights_only=True)
        return self


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*exists and is not empty.*")
def test_lightning_resumes_bit_identically(tmp_path: Path) -> None:
    whole = Regression().fit(tmp_path / "whole", 2)
    Regression().fit(tmp_path / "part", 1)
    resumed = Regression(seed=50).fit(tmp_path / "part", 2, resume=tmp_path / "part" / "last.ckpt")
    assert equal(weights(whole), weights(resumed))
    assert not equal(weights(whole), weights(Regression()))
    # the steps themselves are those of a plain loop
    net = Net()
    optimizer = adamw_lookahead(net, lr=0.05, backbone_lr=0.02)
    schedule = cosine(optimizer, max_epoch=3, eta_min=1e-4)
    for _ in range(2):
        for batch in torch.from_numpy(cases.image(7, (14, 3))).split(2):
            optimizer.zero_grad()
            net(batch).square().mean().backward()
            optimizer.step()
        schedule.step()
    assert equal(weights(whole.net), weights(net))


# --- rates ---


def test_the_cosine_anneals_every_group_to_eta_min() -> None:
    net = Net()
    optimizer = adamw_lookahead(net, lr=1e-2, backbone_lr=1e-3)
    schedule = cosine(optimizer, max_epoch=10)
    for epoch in range(11):
        for group, start in zip(optimizer.param_groups, (1e-2, 1e-3), strict=True):
            expected = 1e-6 + (start - 1e-6) * (1 + np.cos(np.pi * epoch / 10)) / 2
            assert group["lr"] == pytest.approx(expected, rel=1e-9)
        step(net, optimizer, epoch)
        schedule.step()


def test_one_rate_for_everything_by_default() -> None:
    net = Net()
    (group,) = adamw_lookahead(net, lr=3e-4).param_groups
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (3e-4, 0.01, 4)


def test_the_backbone_can_have_its_own_rate_and_decay() -> None:
    net = Net()
    decoder, backbone = adamw_lookahead(net, lr=1e-3, backbone_lr=1e-4).param_groups
    assert [id(p) for p in backbone["params"]] == [id(p) for p in net.backbone.parameters()]
    assert [id(p) for p in decoder["params"]] == [id(p) for p in net.head.parameters()]
    assert (decoder["lr"], backbone["lr"], backbone["weight_decay"]) == (1e-3, 1e-4, 0.01)
    decoder, backbone = adamw_lookahead(net, lr=1e-3, backbone_weight_decay=0.0).param_groups
    assert (decoder["weight_decay"], backbone["weight_decay"], backbone["lr"]) == (0.01, 0.0, 1e-3)
    assert (decoder["name"], backbone["name"]) == ("decoder", "backbone")


def test_the_dictionary_can_have_its_own_rate() -> None:
    net = Net()
    (alone,) = adamw_lookahead(net, lr=1e-3, dictionary_lr=1e-2).param_groups  # a network without a dictionary
    assert (alone["name"], alone["lr"]) == ("network", 1e-3)
    net.dictionary = nn.Linear(3, 2)
    network, dictionary = adamw_lookahead(net, lr=1e-3, dictionary_lr=1e-2).param_groups
    assert (network["name"], network["lr"], dictionary["name"], dictionary["lr"]) == (
        "network",
        1e-3,
        "dictionary",
        1e-2,
    )
    assert [id(p) for p in dictionary["params"]] == [id(p) for p in net.dictionary.parameters()]
    groups = adamw_lookahead(net, lr=1e-3, backbone_lr=1e-4, dictionary_lr=1e-2).param_groups
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("decoder", 1e-3),
        ("backbone", 1e-4),
        ("dictionary", 1e-2),
    ]
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters())


def test_with_alpha_1_it_is_adamw() -> None:
    ours, theirs = Net(), Net()
    theirs.load_state_dict(ours.state_dict())
    one, other = (
        adamw_lookahead(ours, lr=0.01, alpha=1.0),
        torch.optim.AdamW(theirs.parameters(), 0.01, weight_decay=0.01),
    )
    for number in range(13):
        step(ours, one, number)
        step(theirs, other, number)
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference)


def test_frozen_parameters_are_left_out() -> None:
    net = Net()
    net.backbone.requires_grad_(False)
    before = weights(net.backbone)
    optimizer = adamw_lookahead(net, lr=1e-2)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    step(net, optimizer, 0)
    assert equal(before, weights(net.backbone))
    with pytest.raises(ConfigError, match=r"backbone_lr=0\.001.*frozen"):
        adamw_lookahead(net, lr=1e-2, backbone_lr=1e-3)
    with pytest.raises(ConfigError, match="no trainable parameter"):
        adamw_lookahead(net.requires_grad_(False), lr=1e-2)


def test_a_rate_for_a_backbone_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"backbone_lr=0\.001: Linear has no module `backbone`"):
        adamw_lookahead(nn.Linear(2, 2), lr=1e-2, backbone_lr=1e-3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("weight_decay", -0.1),
        ("backbone_lr", 0),
        ("backbone_weight_decay", -1),
        ("dictionary_lr", 0),
        ("k", 0),
        ("k", 2.5),
        ("alpha", 1.5),
    ],
)
def test_values_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}="):
        adamw_lookahead(Net(), **{"lr": 1e-3, name: value})


@pytest.mark.parametrize("epochs", [0, -3, 2.0])
def test_a_schedule_needs_whole_epochs(epochs: int) -> None:
    with pytest.raises(ConfigError, match="max_epoch"):
        cosine(adamw_lookahead(Net(), lr=1e-3), epochs)


def test_a_rate_that_annealing_would_raise_is_refused() -> None:
    with pytest.raises(ConfigError, match="1e-07 of the group 'backbone' is below eta_min=1e-06"):
        cosine(adamw_lookahead(Net(), lr=1e-3, backbone_lr=1e-7), 10)
