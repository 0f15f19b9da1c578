"""Two processes against one with the joint batch: loss, gradients, samples."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from d2ls.data.loaders import DistributedEvalSampler, SeededSampler
from d2ls.distributed import all_gather, world_size
from d2ls.distributed import rank as this_rank
from d2ls.errors import DataError
from d2ls.losses import D2LSLoss, contrastive_loss
from d2ls.models import DynamicDictionaryLearning

WORLD = 2
IGNORE = 255


@dataclass
class Output:
    """A network's output with a dictionary."""

    logits: Tensor
    static_logits: Tensor | None
    dictionary: Tensor | None


def joint_output() -> tuple[dict[str, Tensor], Tensor]:
    """Leaf tensors of a batch of four, in float64, and its masks."""
    rng = torch.Generator().manual_seed(3)
    shapes = {"logits": (4, 3, 6, 5), "static_logits": (4, 3, 6, 5), "dictionary": (4, 3, 8)}
    leaves = {name: torch.randn(shape, generator=rng, dtype=torch.float64) for name, shape in shapes.items()}
    mask = torch.randint(0, 3, (4, 6, 5), generator=rng)
    return leaves, mask


def masks(kind: str) -> Tensor:
    """The joint batch's masks with all of them labelled, none, or none on the first process."""
    mask = joint_output()[1].clone()
    mask[{"labelled": slice(0, 0), "ignored": slice(None), "first ignored": slice(0, 2)}[kind]] = IGNORE
    return mask


KINDS = ("labelled", "ignored", "first ignored")


def terms_and_gradients(part: slice, kind: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Loss terms of a part of the joint batch, and the gradient of all but Dice at the outputs."""
    leaves = {name: leaf[part].clone().requires_grad_() for name, leaf in joint_output()[0].items()}
    terms = D2LSLoss(IGNORE, contrastive_weight=0.7)(Output(**leaves), masks(kind)[part])
    (terms["loss"] - terms["dice"]).backward()
    return {name: term.detach() for name, term in terms.items()}, {name: leaf.grad for name, leaf in leaves.items()}


def network(**options: Any) -> nn.Module:
    """A small network in float64, with all parts if nothing else is asked for."""
    torch.manual_seed(5)
    options = {"backbone": "test_convnext", "stages": 2, "num_entries": 4} | options
    return DynamicDictionaryLearning(num_classes=3, width=32, **options).double().train()


def step(net: nn.Module, part: slice, at: int, **weights: float) -> dict[str, Tensor]:
    """Loss terms of a part of a joint batch of four images, with gradients of all but Dice in the network."""
    rng = torch.Generator().manual_seed(at)
    image = torch.randn(4, 3, 32, 32, generator=rng, dtype=torch.float64)
    mask = torch.randint(0, 3, (4, 32, 32), generator=rng)
    terms: dict[str, Tensor] = D2LSLoss(IGNORE, **{"contrastive_weight": 1e3, **weights})(net(image[part]), mask[part])
    (terms["loss"] - terms["dice"]).backward()
    return {name: term.detach() for name, term in terms.items()}


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("module."): value.grad for name, value in net.named_parameters()}


@contextmanager
def group(rank: int, folder: str) -> Iterator[None]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    try:
        yield
    finally:
        dist.destroy_process_group()


def job(rank: int, folder: str) -> None:
    """What each process does; its findings go into a file."""
    part = slice(2 * rank, 2 * rank + 2)
    found: dict[str, Any] = {}
    with group(rank, folder):
        found["rank"] = this_rank(), world_size()
        found["gathered"] = all_gather(torch.full((2,), rank))
        found["outputs"] = {kind: terms_and_gradients(part, kind) for kind in KINDS}
        net = DistributedDataParallel(network())
        found["network"] = []
        for at in range(2):  # DDP misses unused parameters in the second step
            net.zero_grad()
            found["network"].append((step(net, part, at), {name: g.clone() for name, g in gradients(net).items()}))
        found["draws"] = [tuple(draw) for draw in SeededSampler(range(11), 2, seed=1)]
        found["shares"] = list(DistributedEvalSampler(range(5)))
        try:
            terms_and_gradients(slice(0, 1 + rank), "labelled")
        except DataError as error:
            found["uneven"] = str(error)
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Findings of both processes."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(job, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def test_one_process_is_alone() -> None:
    assert (this_rank(), world_size()) == (0, 1)


def test_each_process_knows_its_rank(found: list[dict[str, Any]]) -> None:
    assert [f["rank"] for f in found] == [(0, 2), (1, 2)]
    for f in found:
        assert f["gathered"].tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_contrastive_term_is_that_of_the_joint_batch(found: list[dict[str, Any]], kind: str) -> None:
    terms, wanted = terms_and_gradients(slice(None), kind)
    assert bool(terms["contrastive"] > 0) == (kind != "ignored")
    assert terms["contrastive"] == pytest.approx(
        0.7 * contrastive_loss(joint_output()[0]["dictionary"]) * (kind != "ignored")
    )
    for rank, f in enumerate(found):
        own, gradient = f["outputs"][kind]
        torch.testing.assert_close(own["contrastive"], terms["contrastive"], rtol=1e-12, atol=0)
        # The average over processes, which follows, divides by their number.
        part = slice(2 * rank, 2 * rank + 2)
        for name in wanted:
            torch.testing.assert_close(gradient[name] / WORLD, wanted[name][part], rtol=1e-10, atol=1e-14)
    for name in ("cross_entropy", "auxiliary"):
        mean = sum(f["outputs"][kind][0][name] for f in found) / WORLD
        torch.testing.assert_close(mean, terms[name], rtol=1e-12, atol=0)


def test_ddp_gives_the_gradients_of_the_joint_batch(found: list[dict[str, Any]]) -> None:
    for at in range(2):
        net = network()
        terms = step(net, slice(None), at)
        wanted = gradients(net)
        assert len(wanted) > 50
        assert terms["contrastive"] > 0.1, "it counts in the gradients"
        for f in found:
            own, averaged = f["network"][at]
            torch.testing.assert_close(own["contrastive"], terms["contrastive"], rtol=1e-10, atol=0)
            torch.testing.assert_close(averaged, wanted, rtol=1e-7, atol=1e-12)


def test_local_batches_would_give_another_term(found: list[dict[str, Any]]) -> None:
    whole = joint_output()[0]["dictionary"]
    halves = [0.7 * contrastive_loss(half) for half in whole.chunk(WORLD)]
    joint = found[0]["outputs"]["labelled"][0]["contrastive"]
    assert all(abs(half - joint) > 1e-3 for half in halves)


def test_batches_of_different_size_are_refused_by_all(found: list[dict[str, Any]]) -> None:
    for f in found:
        assert "The batches of the 2 processes have [1, 2] images" in f["uneven"]


def test_samples_are_dealt_out_once(found: list[dict[str, Any]]) -> None:
    assert sorted(found[0]["shares"] + found[1]["shares"]) == list(range(5))
    alone = [tuple(draw) for draw in SeededSampler(range(11), 4, seed=1, rank=0, world=1)]
    for start in range(0, 8, 4):
        joint = [draw for f in found for draw in f["draws"][start // 2 : start // 2 + 2]]
        assert sorted(joint) == sorted(alone[start : start + 4]), "the batches of both are that of one"


VARIANTS: tuple[tuple[dict[str, Any], dict[str, float]], ...] = (
    *(({"dictionary": kind}, {}) for kind in ("dynamic", "static", "ones", "zeros")),
    ({}, {"auxiliary_weight": 0.0}),
    ({}, {"contrastive_weight": 0.0}),
    ({"num_entries": None}, {}),
    ({"interact": False}, {}),
    ({"aggregate": False}, {}),
    ({"head": "conv"}, {}),
    ({"stages": 0}, {}),
    ({"backbone": "test_resnet", "freeze_backbone": True}, {}),
)


def train_variants(rank: int, folder: str) -> None:
    """Two steps of each variant under DDP as it is by default, which waits for the gradient of every parameter."""
    part = slice(2 * rank, 2 * rank + 2)
    with group(rank, folder):
        for options, weights in VARIANTS:
            net = DistributedDataParallel(network(**options))
            for at in range(2):
                step(net, part, at, **weights)
        spare = network()
        spare.spare = nn.Linear(1, 1)
        net = DistributedDataParallel(spare.double())
        step(net, part, 0)
        with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
            step(net, part, 1)
    Path(folder, f"{rank}.done").touch()


@pytest.mark.slow
def test_no_variant_has_unused_parameters(tmp_path: Path) -> None:
    mp.spawn(train_variants, args=(str(tmp_path),), nprocs=WORLD)
    assert sorted(path.name for path in tmp_path.glob("*.done")) == ["0.done", "1.done"]
