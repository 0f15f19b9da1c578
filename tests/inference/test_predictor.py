from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from d2ls.data.io import read_index
from d2ls.data.sets import vaihingen
from d2ls.data.spec import DatasetSpec
from d2ls.inference.predictor import Network
from d2ls.models import DynamicDictionaryLearning
from tests.cli.test_test_scripts import run, tree
from tests.inference.conftest import MODEL

CPU = torch.device("cpu")
CheckpointOf = Callable[[DatasetSpec], Path]


def network() -> DynamicDictionaryLearning:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DynamicDictionaryLearning(num_classes=6, **MODEL)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))


def test_bf16_decides_as_float32_where_that_is_clear(images: Tensor) -> None:
    exact, rounded = (Network(network(), CPU, precision)(images) for precision in ("32-true", "bf16-mixed"))
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)  # it was computed otherwise
    best = exact.topk(2, dim=1).values
    certain = best[:, 0] - best[:, 1] > 0.05 * exact.std()
    assert certain.float().mean() > 0.5
    same = rounded.argmax(1) == exact.argmax(1)
    assert same.float().mean() > 0.97
    assert same[certain].float().mean() > 0.999


def test_channels_last_reaches_the_backbone_and_changes_nothing(images: Tensor) -> None:
    expected = Network(network(), CPU, "32-true")(images)
    net, seen = network(), []
    net.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    found = Network(net, CPU, "32-true", channels_last=True)(images)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert not seen[0].is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_config_decides_memory_order_precision_and_compilation(
    data: Path, config: CheckpointOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Network] = []
    compiled: list[nn.Module] = []
    build = Network.__init__
    monkeypatch.setattr(Network, "__init__", lambda self, *a, **k: made.append(self) or build(self, *a, **k))
    monkeypatch.setattr(DynamicDictionaryLearning, "compile", lambda self, **_: compiled.append(self))
    words = ["-c", config(vaihingen.SPEC), "-o", tmp_path / "out"]
    assert run("vaihingen", *words) == 0
    assert run("vaihingen", *words, "channels_last=True", "compile=True", "precision='bf16-mixed'") == 0
    assert run("vaihingen", *words, "precision='bf16-mixed'", "--precision", "32-true") == 0
    plain, changed, overruled = made
    assert (plain.memory_format, plain.dtype) == (torch.contiguous_format, None)
    assert (changed.memory_format, changed.dtype) == (torch.channels_last, torch.bfloat16)
    assert overruled.dtype is None
    assert compiled == [changed.net]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_compiled_the_masks_are_the_same(precision: str, data: Path, config: CheckpointOf, tmp_path: Path) -> None:
    words = ["-c", config(vaihingen.SPEC), "-t", "lr", "--precision", precision]
    for out, more in {"a": (), "b": ("compile=True",)}.items():
        assert run("vaihingen", *words, "-o", tmp_path / out, *more) == 0
    masks = [[read_index(tmp_path / out / name) for name in tree(tmp_path / out)] for out in "ab"]
    different = sum((one != other).mean() for one, other in zip(*masks, strict=True)) / len(masks[0])
    assert different < (1e-3 if precision == "32-true" else 0.03)  # ties that rounding decides
