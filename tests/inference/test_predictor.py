from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from d2ls.data.io import read_index
from d2ls.data.sets import vaihingen
from d2ls.data.sets.facts import Views
from d2ls.data.spec import DatasetSpec
from d2ls.inference import predictor
from d2ls.inference.predictor import Network
from d2ls.inference.tta import mean_logits
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


class _Small:
    """A network on a device that takes only so many images of a size at once."""

    device = torch.device("cpu")

    def __init__(self, room: int) -> None:
        self.room, self.sizes = room, []

    def __call__(self, images):
        if len(images) > self.room:
            raise torch.OutOfMemoryError("too many")
        self.sizes.append(len(images))
        return torch.stack([images[:, 0], images[:, 1] * 2], dim=1)


@pytest.mark.parametrize("room", [1, 2, 3, 4, 8])
def test_as_many_views_as_fit(monkeypatch, room):
    monkeypatch.setattr(predictor, "_MOST_VIEWS", {})
    network, image = _Small(room), torch.rand(1, 3, 8, 8)
    views = Views(hflip=True, vflip=True, rot90=True)
    model = predictor.views_at_once(network, views, None)
    expected = mean_logits(_Small(1), image, views, 1)
    for _ in range(2):
        network.sizes.clear()
        torch.testing.assert_close(model(image), expected)
        most = 2 ** int(np.log2(room))
        assert network.sizes == [most] * (8 // most)  # the second image needs no further try


@pytest.mark.parametrize(("room", "asked"), [(0, None), (3, 4)])
def test_no_room_for_one_view_or_for_those_asked_for(monkeypatch, room, asked):
    monkeypatch.setattr(predictor, "_MOST_VIEWS", {})
    with pytest.raises(torch.OutOfMemoryError):
        predictor.views_at_once(_Small(room), Views(hflip=True, vflip=True), asked)(torch.rand(1, 3, 8, 8))


def test_a_cpu_takes_one_view_at_a_time():
    network = _Small(8)
    predictor.views_at_once(network, Views(hflip=True), None)(torch.rand(1, 3, 8, 8))
    assert network.sizes == [1, 1]
