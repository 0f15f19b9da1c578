"""load_model and predict, as a program uses them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import d2ls
from d2ls.data.augment import normalise
from d2ls.data.sets import vaihingen
from d2ls.errors import CheckpointError, DataError

CheckpointOf = Callable[[d2ls.DatasetSpec], Path]


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_model_knows_its_classes_and_input(checkpoint: CheckpointOf) -> None:
    model = d2ls.load_model(checkpoint(vaihingen.SPEC), device="cpu")
    assert not model.training
    assert model.spec == vaihingen.SPEC
    assert (model.classes, model.colours) == (vaihingen.SPEC.classes, vaihingen.SPEC.colours)
    assert len(model.bands) == len(model.mean) == len(model.std) == 3


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (64, 50)])
def test_a_mask_is_the_networks_largest_logit(checkpoint: CheckpointOf, size: tuple[int, int]) -> None:
    model = d2ls.load_model(checkpoint(vaihingen.SPEC), device="cpu")
    mask = d2ls.predict(model, image(*size))
    with torch.no_grad():
        expected = model(torch.from_numpy(normalise(image(*size)))[None]).argmax(dim=1)[0]
    assert mask.dtype == np.uint8
    assert mask.shape == size
    assert np.mean(mask != expected.numpy()) < 1e-3


def test_a_large_image_goes_by_windows(checkpoint: CheckpointOf) -> None:
    model = d2ls.load_model(checkpoint(vaihingen.SPEC), device="cpu")
    sizes = []
    hook = model.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[-2:]))
    mask = d2ls.predict(model, image(100, 150), window=64)
    hook.remove()
    assert mask.shape == (100, 150)
    assert set(sizes) == {(64, 64)}


def test_windows_are_as_large_as_the_training_samples(checkpoint: CheckpointOf, tmp_path: Path) -> None:
    content = torch.load(checkpoint(vaihingen.SPEC), weights_only=True)
    content["d2ls"]["train_size"] = 64
    torch.save(content, tmp_path / "a.ckpt")
    model = d2ls.load_model(tmp_path / "a.ckpt", device="cpu")
    sizes = []
    model.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape[-2:])))
    d2ls.predict(model, image(100, 150))
    d2ls.predict(model, image(40, 100))
    assert set(sizes) == {(64, 64), (40, 64)}
    assert d2ls.load_model(checkpoint(vaihingen.SPEC), device="cpu").window == 1024


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_other_arrays_are_refused(checkpoint: CheckpointOf, wrong: np.ndarray) -> None:
    model = d2ls.load_model(checkpoint(vaihingen.SPEC), device="cpu")
    with pytest.raises(DataError, match=str(wrong.dtype)):
        d2ls.predict(model, wrong)


def test_weights_without_a_description_are_refused(checkpoint: CheckpointOf, tmp_path: Path) -> None:
    state = torch.load(checkpoint(vaihingen.SPEC), weights_only=True)["state_dict"]
    torch.save({"state_dict": state}, tmp_path / "bare.ckpt")
    with pytest.raises(CheckpointError, match=r"bare\.ckpt"):
        d2ls.load_model(tmp_path / "bare.ckpt")
