"""The loss terms against the shipped numbers and against a pixel-by-pixel transcription of their formulas."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from d2ls.errors import ConfigError, DataError
from d2ls.losses import D2LSLoss, contrastive_loss, soft_cross_entropy, soft_cross_entropy_and_dice
from tests.naive import naive_loss
from tests.parity import cases

SHIPPED = json.loads((Path(__file__).parent / "parity" / "losses.json").read_text())
few = settings(max_examples=40, deadline=None)


@dataclass
class Output:
    logits: Tensor
    static_logits: Tensor | None = None
    dictionary: Tensor | None = None


# --- the formulas, one pixel and one class at a time ---


def naive_cross_entropy(logits: Tensor, mask: Tensor, ignore_index: int) -> Tensor:
    batch, classes, height, width = logits.shape
    total = logits.sum() * 0
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                label = int(mask[b, i, j])
                if label == ignore_index:
                    continue
                pixel = logits[b, :, i, j]
                log_p = pixel - torch.log(torch.exp(pixel).sum())
                total = total + (1 - 0.05) * -log_p[label] + 0.05 / classes * (-log_p).sum()
    return total / (batch * height * width)


def naive_dice(logits: Tensor, mask: Tensor, ignore_index: int) -> Tensor:
    classes = logits.shape[1]
    p = torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True)
    kept = (mask != ignore_index).double()
    result = logits.sum() * 0
    for k in range(classes):
        truth = (mask == k).double()
        if truth.sum() == 0:
            continue
        overlap, predicted = (p[:, k] * kept * truth).sum(), (p[:, k] * kept).sum()
        result = result + 1 - (2 * overlap + 0.05) / max(predicted + truth.sum() + 0.05, 1e-7)
    return result / classes


def naive_contrastive(dictionary: Tensor) -> Tensor:
    batch, entries, _ = dictionary.shape
    means = [sum(dictionary[b, n] for b in range(batch)) / batch for n in range(entries)]
    intra = [((dictionary[b, n] - means[n]) ** 2).sum() for b in range(batch) for n in range(entries)]
    inter = [((means[n] - means[m]) ** 2).sum() for n in range(entries) for m in range(n + 1, entries)]
    return (sum(intra) / len(intra)) / (sum(inter) / len(inter) + 1e-6)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Float64 logits, mask and ignore index; ignored shares from none to all, classes often absent."""
    classes = draw(st.integers(2, 6))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    ignore_index = draw(st.sampled_from([255, classes, -100]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.standard_normal((shape[0], classes, *shape[1:])) * draw(st.sampled_from([0.1, 1.0, 5.0]))
    mask = rng.integers(0, draw(st.integers(1, classes)), shape)
    mask[rng.random(shape) < draw(st.sampled_from([0.0, 0.2, 1.0]))] = ignore_index
    return torch.tensor(logits), torch.tensor(mask), ignore_index


def gradient(value: Tensor, of: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(value, of)
    return result


@few
@given(batches(), st.floats(-2, 2), st.floats(-2, 2), st.booleans())
def test_cross_entropy_and_dice_follow_their_formulas(
    batch: tuple[Tensor, Tensor, int], a: float, b: float, channels_last: bool
) -> None:
    logits, mask, ignore_index = batch
    if channels_last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    logits.requires_grad_()
    ce, dice = soft_cross_entropy_and_dice(logits, mask, ignore_index)
    naive_ce, naive_d = naive_cross_entropy(logits, mask, ignore_index), naive_dice(logits, mask, ignore_index)
    torch.testing.assert_close(ce, naive_ce, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(dice, naive_d, rtol=1e-10, atol=1e-12)
    # any mixture of both, so that neither gradient hides behind the other
    expected = gradient(a * naive_ce + b * naive_d, logits)
    torch.testing.assert_close(gradient(a * ce + b * dice, logits), expected, rtol=1e-9, atol=1e-12)


@few
@given(batches())
def test_cross_entropy_alone_is_the_same_as_beside_dice(batch: tuple[Tensor, Tensor, int]) -> None:
    logits, mask, ignore_index = batch
    logits.requires_grad_()
    alone = soft_cross_entropy(logits, mask, ignore_index)
    naive = naive_cross_entropy(logits, mask, ignore_index)
    torch.testing.assert_close(alone, naive, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient(alone, logits), gradient(naive, logits), rtol=1e-9, atol=1e-12)


@few
@given(batches(), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_the_whole_objective_is_the_plain_transcription(
    batch: tuple[Tensor, Tensor, int], entries: int, seed: int
) -> None:
    """Whole tensors, in the order of the text: what the benchmark of the network compares with."""
    logits, mask, ignore_index = batch
    assume((mask != ignore_index).any())  # without a label nothing is learnt, whatever the dictionary
    rng = np.random.default_rng(seed)
    output = Output(
        logits.requires_grad_(),
        torch.tensor(rng.standard_normal(logits.shape), requires_grad=True),
        torch.tensor(rng.standard_normal((len(logits), entries, 3)), requires_grad=True),
    )
    inputs = [output.logits, output.static_logits, output.dictionary]
    ours, naive = D2LSLoss(ignore_index)(output, mask)["loss"], naive_loss(output, mask, ignore_index)
    torch.testing.assert_close(ours, naive, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(naive, inputs), rtol=1e-8, atol=1e-10
    )


@few
@given(st.integers(1, 4), st.integers(2, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_contrastive_follows_its_formula(batch: int, entries: int, width: int, seed: int) -> None:
    dictionary = torch.tensor(np.random.default_rng(seed).standard_normal((batch, entries, width)), requires_grad=True)
    ours, naive = contrastive_loss(dictionary), naive_contrastive(dictionary)
    torch.testing.assert_close(ours, naive, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient(ours, dictionary), gradient(naive, dictionary), rtol=1e-8, atol=1e-10)


def test_the_written_gradient_passes_torchs_own_check() -> None:
    logits = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.from_numpy(cases.mask(3, (2, 3, 5), 4, 255))
    assert torch.autograd.gradcheck(lambda x: soft_cross_entropy_and_dice(x, mask, 255), (logits,))


# --- the shipped numbers ---


@pytest.mark.parametrize("case", SHIPPED["segmentation"], ids=lambda case: case["name"])
def test_shipped_segmentation_losses(case: dict) -> None:
    shape, ignore_index = tuple(case["logits_shape"]), case["ignore_index"]
    logits = torch.from_numpy(cases.image(case["logits_seed"], shape) * case["logits_scale"]).requires_grad_()
    static = torch.from_numpy(cases.image(case["aux_seed"], shape) * case["logits_scale"])
    mask = cases.mask(case["mask_seed"], (shape[0], *shape[2:]), shape[1], ignore_index)
    if case["removed_class"] == "all":
        mask[:] = ignore_index
    elif case["removed_class"] is not None:
        mask[mask == case["removed_class"]] = ignore_index
    mask = torch.from_numpy(mask)

    loss = D2LSLoss(ignore_index=ignore_index)
    plain = loss(logits, mask)
    assert plain.keys() == {"loss", "cross_entropy", "dice"}
    norm = gradient(plain["loss"], logits).norm().item()
    both = loss(Output(logits, static), mask)
    assert both.keys() == {"loss", "cross_entropy", "dice", "auxiliary"}
    found = {
        "soft_cross_entropy": plain["cross_entropy"].item(),
        "dice": plain["dice"].item(),
        "main": plain["loss"].item(),
        "main_gradient_norm": norm,
        "with_auxiliary": both["loss"].item(),
    }
    assert found == pytest.approx({name: case[name] for name in found}, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("case", SHIPPED["contrastive"], ids=lambda case: f"batch{case['shape'][0]}")
def test_shipped_contrastive_losses(case: dict) -> None:
    dictionary = torch.from_numpy(cases.image(case["seed"], tuple(case["shape"]))).requires_grad_()
    value = contrastive_loss(dictionary)
    norm = gradient(value, dictionary).norm().item()
    exact = 0 if case["shape"][0] == 1 else 1e-5
    assert value.item() == pytest.approx(case["loss"], rel=1e-5, abs=exact * 1e-3)
    assert norm == pytest.approx(case["gradient_norm"], rel=1e-4, abs=exact * 1e-3)


# --- the whole objective ---


def make(seed: int = 0, batch: int = 2, classes: int = 5, size: int = 8) -> tuple[Output, Tensor]:
    shape = (batch, classes, size, size)
    logits, static = (torch.from_numpy(cases.image(seed + i, shape)).requires_grad_() for i in range(2))
    dictionary = torch.from_numpy(cases.image(seed + 2, (batch, classes, 16))).requires_grad_()
    mask = torch.from_numpy(cases.mask(seed, (batch, size, size), classes, 255))
    return Output(logits, static, dictionary), mask


def test_the_terms_enter_the_sum_with_their_weights() -> None:
    output, mask = make()
    terms = D2LSLoss(255, auxiliary_weight=0.3, contrastive_weight=0.7)(output, mask)
    assert terms.keys() == {"loss", "cross_entropy", "dice", "auxiliary", "contrastive"}
    assert output.static_logits is not None
    assert output.dictionary is not None
    auxiliary = soft_cross_entropy(output.static_logits, mask, 255)
    torch.testing.assert_close(terms["auxiliary"], 0.3 * auxiliary)
    torch.testing.assert_close(terms["contrastive"], 0.7 * contrastive_loss(output.dictionary))
    torch.testing.assert_close(terms["loss"], sum(value for name, value in terms.items() if name != "loss"))
    assert all(value.shape == () for value in terms.values())


def test_a_weight_of_zero_switches_its_term_off() -> None:
    output, mask = make()
    terms = D2LSLoss(255, auxiliary_weight=0, contrastive_weight=0)(output, mask)
    assert terms.keys() == {"loss", "cross_entropy", "dice"}


def test_a_batch_of_two_plain_logits_is_not_taken_apart() -> None:
    output, mask = make(batch=2)
    loss = D2LSLoss(255)
    torch.testing.assert_close(loss(output.logits, mask)["loss"], loss(Output(output.logits), mask)["loss"])


@pytest.mark.parametrize("batch", [1, 3])
def test_nothing_is_learnt_from_a_batch_without_labels(batch: int) -> None:
    output, mask = make(batch=batch)
    terms = D2LSLoss(255)(output, torch.full_like(mask, 255))
    assert terms.keys() == {"loss", "cross_entropy", "dice", "auxiliary", "contrastive"}
    assert all(value.item() == 0 for value in terms.values())
    terms["loss"].backward()
    for tensor in (output.logits, output.static_logits, output.dictionary):
        assert tensor is not None
        assert tensor.grad is not None
        assert tensor.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_evaluated_in_float32(dtype: torch.dtype) -> None:
    output, mask = make(size=40)
    half = (output.logits.detach() * 20).to(dtype).requires_grad_()
    single = half.detach().float().requires_grad_()
    found, expected = D2LSLoss(255)(half, mask), D2LSLoss(255)(single, mask)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)
    scale = 1024.0  # as a gradient scaler does: the gradients of a mean over pixels underflow in float16
    assert gradient(scale * found["loss"], half).dtype == dtype
    torch.testing.assert_close(
        gradient(scale * D2LSLoss(255)(half, mask)["loss"], half), gradient(scale * expected["loss"], single).to(dtype)
    )


def test_autocast_changes_nothing() -> None:
    output, mask = make()
    expected = D2LSLoss(255)(output, mask)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        found = D2LSLoss(255)(output, mask)["loss"]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_every_integer_type_of_mask_gives_the_same(dtype: torch.dtype) -> None:
    output, mask = make()
    torch.testing.assert_close(D2LSLoss(255)(output, mask.to(dtype))["loss"], D2LSLoss(255)(output, mask)["loss"])


def test_large_logits_stay_finite_and_exact() -> None:
    logits = torch.tensor([[[[2e4]], [[-2e4]], [[0.0]]]], requires_grad=True)
    terms = D2LSLoss(255)(logits, torch.tensor([[[1]]]))
    # -log p = (0, 4e4, 2e4)
    assert terms["cross_entropy"].item() == pytest.approx(0.95 * 4e4 + 0.05 / 3 * 6e4)
    assert gradient(terms["loss"], logits).isfinite().all()


def test_sums_over_a_large_image_keep_their_digits() -> None:
    """Float32 sums over a million equal pixels, against exact arithmetic."""
    logits = torch.zeros(1, 3, 1024, 1024)
    ce, dice = soft_cross_entropy_and_dice(logits, torch.zeros(1, 1024, 1024, dtype=torch.long), 255)
    n = 1024**2
    assert ce.item() == pytest.approx(math.log(3), rel=2e-6)
    assert dice.item() == pytest.approx((1 - (2 * n / 3 + 0.05) / (n / 3 + n + 0.05)) / 3, rel=1e-5)


def test_nothing_of_the_logits_size_is_saved_but_the_logits() -> None:
    output, mask = make(size=32)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        D2LSLoss(255)(output, mask)
    assert output.static_logits is not None

    def storage(tensor: Tensor) -> int:  # images are saved one by one
        return tensor.untyped_storage().data_ptr()

    own = {storage(tensor) for tensor in (output.logits, output.static_logits, mask)}
    beside = [tensor for tensor in saved if storage(tensor) not in own]
    assert {storage(output.logits), storage(output.static_logits)} <= {storage(tensor) for tensor in saved}
    assert max(tensor.numel() for tensor in beside) <= 2 * 5 * 16  # the dictionary


# --- what is refused ---


@pytest.mark.parametrize("label", [5, 7, -1, 254])
def test_a_label_that_is_no_class_is_named(label: int) -> None:
    output, mask = make(classes=5)
    mask[1, 3, 4] = label
    with pytest.raises(DataError, match=rf"labels \[{label}\] in 1 pixels.*0\.\.4.*ignore_index=255"):
        D2LSLoss(255)(output, mask)


def test_static_logits_with_fewer_classes_are_checked_too() -> None:
    output, mask = make(classes=5)
    assert output.static_logits is not None
    mask[0, 0, 0] = 4
    with pytest.raises(DataError, match=r"labels \[4\]"):
        D2LSLoss(255)(Output(output.logits, output.static_logits[:, :4]), mask)


@pytest.mark.parametrize("shape", [(2, 8, 9), (1, 8, 8), (2, 1, 8, 8), (128,)])
def test_a_wrong_shape_names_both(shape: tuple[int, ...]) -> None:
    output, _ = make()
    with pytest.raises(DataError) as error:
        D2LSLoss(255)(output, torch.zeros(shape, dtype=torch.long))
    assert str(shape) in str(error.value)
    assert "(2, 5, 8, 8)" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_a_mask_that_holds_no_indices_is_refused(dtype: torch.dtype) -> None:
    output, mask = make()
    with pytest.raises(DataError, match=str(dtype)):
        D2LSLoss(255)(output, mask.to(dtype))


def test_an_ignore_index_among_the_classes_is_refused() -> None:
    output, mask = make(classes=5)
    with pytest.raises(ConfigError, match="ignore_index=4 is one of the 5 classes"):
        D2LSLoss(4)(output, mask.clamp(max=4))


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_senseless_weights_are_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="auxiliary_weight"):
        D2LSLoss(255, auxiliary_weight=weight)


def test_a_tuple_of_logits_is_refused() -> None:
    output, mask = make()
    with pytest.raises(TypeError, match="tuple"):
        D2LSLoss(255)((output.logits, output.static_logits), mask)


@pytest.mark.parametrize("shape", [(2, 1, 8), (6, 8)])
def test_a_dictionary_without_pairs_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="contrastive_weight=0"):
        contrastive_loss(torch.randn(shape, generator=torch.Generator().manual_seed(0)))


@few
@given(batches(), st.integers(0, 2**32 - 1))
def test_class_weights_are_torchs(batch: tuple[Tensor, Tensor, int], seed: int) -> None:
    """torch.nn.functional.cross_entropy with weights and label smoothing, but for the mean over all pixels."""
    logits, mask, ignore_index = batch
    weights = torch.tensor(np.random.default_rng(seed).random(logits.shape[1]) + 0.1)
    summed = torch.nn.functional.cross_entropy(
        logits, mask, weights, ignore_index=ignore_index, label_smoothing=0.05, reduction="sum"
    )
    found = soft_cross_entropy(logits, mask, ignore_index, weights)
    torch.testing.assert_close(found, summed / mask.numel(), rtol=1e-9, atol=1e-12)


def test_class_weights_of_the_objective() -> None:
    output, mask = make()
    weights = [1.0, 0.5, 0.0, 2.0, 3.0]
    terms = D2LSLoss(255, class_weights=weights)(output, mask)
    plain = D2LSLoss(255)(output, mask)
    assert output.static_logits is not None
    auxiliary = 0.4 * soft_cross_entropy(output.static_logits, mask, 255, torch.tensor(weights))
    torch.testing.assert_close(terms["auxiliary"], auxiliary)
    torch.testing.assert_close(
        terms["cross_entropy"], soft_cross_entropy(output.logits, mask, 255, torch.tensor(weights))
    )
    torch.testing.assert_close(terms["dice"], plain["dice"])
    ones = D2LSLoss(255, class_weights=[1.0] * 5)
    torch.testing.assert_close(ones(output, mask)["loss"], plain["loss"])
    assert not ones.state_dict(), "older checkpoints load"


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, math.nan], [0.0, 0.0]])
def test_senseless_class_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="class_weights"):
        D2LSLoss(255, class_weights=weights)


def test_another_number_of_class_weights_names_both() -> None:
    output, mask = make(classes=5)
    with pytest.raises(ConfigError, match=r"class_weights.* 3 .* 5 classes"):
        D2LSLoss(255, class_weights=[1.0, 1.0, 1.0])(output, mask)


# --- terms of segmentation_models.pytorch ---


def numpy_focal(logits: Tensor, mask: Tensor, ignore_index: int) -> float:
    """Mean of (1 - p)^2 * -log p over labelled pixels and one-against-all problems of the classes."""
    x = logits.detach().numpy().transpose(0, 2, 3, 1)[mask.numpy() != ignore_index]
    truth = np.eye(x.shape[1])[mask.numpy()[mask.numpy() != ignore_index]]
    p = 1 / (1 + np.exp(-np.where(truth == 1, x, -x)))
    return float(((1 - p) ** 2 * -np.log(p)).mean()) if p.size else 0.0


def numpy_lovasz(logits: Tensor, mask: Tensor, ignore_index: int) -> float:
    """Lovasz extension of 1 - IoU by its definition: the sum of sorted errors times increments of the loss."""
    labelled = mask.numpy() != ignore_index
    x, truth = np.exp(logits.detach().numpy().transpose(0, 2, 3, 1)[labelled]), mask.numpy()[labelled]
    p, values = x / x.sum(axis=1, keepdims=True), []
    for k in np.unique(truth):
        foreground = truth == k
        errors = np.where(foreground, 1 - p[:, k], p[:, k])
        wrong, before, total = np.zeros(len(errors), bool), 0.0, 0.0
        for place in np.argsort(-errors, kind="stable"):
            wrong[place] = True  # IoU where exactly these pixels are wrong
            now = 1 - (foreground & ~wrong).sum() / (foreground | wrong).sum()
            total, before = total + errors[place] * (now - before), now
        values.append(total)
    return float(np.mean(values)) if values else 0.0


@few
@given(batches())
def test_extra_terms_follow_their_formulas(batch: tuple[Tensor, Tensor, int]) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    logits, mask, ignore_index = batch
    logits.requires_grad_()
    terms = D2LSLoss(ignore_index, extra_losses={"focal": 2.0, "lovasz": 0.5})(logits, mask)
    assert list(terms) == ["cross_entropy", "dice", "focal", "lovasz", "loss"]
    assert terms["focal"].item() == pytest.approx(2 * numpy_focal(logits, mask, ignore_index), rel=1e-4, abs=1e-6)
    assert terms["lovasz"].item() == pytest.approx(numpy_lovasz(logits, mask, ignore_index) / 2, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(terms["loss"], sum(terms[name] for name in list(terms)[:-1]))
    assert gradient(terms["loss"], logits).isfinite().all()


def test_extra_terms_are_the_librarys_own_in_float32() -> None:
    losses = pytest.importorskip("segmentation_models_pytorch").losses
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 4, 9, 7, requires_grad=True), torch.randint(0, 4, (2, 9, 7), dtype=torch.uint8)
    mask[:, :3] = 255
    own = D2LSLoss(255, extra_losses={"focal": 1.0, "lovasz": 1.0})
    terms = own(logits, mask)
    for name, kind in (("focal", losses.FocalLoss), ("lovasz", losses.LovaszLoss)):
        theirs = kind("multiclass", ignore_index=255)(logits, mask.long())
        torch.testing.assert_close(terms[name], theirs)
        torch.testing.assert_close(gradient(own(logits, mask)[name], logits), gradient(theirs, logits))
    half = own(logits.bfloat16(), mask)
    assert half["focal"].dtype == half["lovasz"].dtype == torch.float32
    torch.testing.assert_close(half["lovasz"], own(logits.bfloat16().float(), mask)["lovasz"])
    assert list(D2LSLoss(255, extra_losses={"focal": 0.0})(logits, mask)) == ["cross_entropy", "dice", "loss"]


def test_extra_terms_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="extra_losses='focl': expected some of focal, lovasz"):
        D2LSLoss(255, extra_losses={"focl": 1.0})
    with pytest.raises(ConfigError, match="focal=-1"):
        D2LSLoss(255, extra_losses={"focal": -1})
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ConfigError, match="extra_losses='focal' needs segmentation-models-pytorch: pip install"):
        D2LSLoss(255, extra_losses={"focal": 1.0})
