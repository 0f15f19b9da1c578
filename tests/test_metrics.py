"""Scores against scikit-learn and against counts small enough to do by hand."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from d2ls.errors import ConfigError, DataError
from d2ls.metrics import SegmentationMetrics

few = settings(max_examples=60, deadline=None)


def score(prediction: torch.Tensor, mask: torch.Tensor, *args: object, **options: object) -> dict:
    metrics = SegmentationMetrics(*args, **options)
    metrics.update(prediction, mask)
    return metrics.compute()


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, int, tuple[int, ...], list[tuple[np.ndarray, np.ndarray]]]:
    """Classes, ignore index, scored classes and batches of (prediction, mask); rare and absent classes are common."""
    classes = draw(st.integers(2, 7))
    ignore_index = draw(st.sampled_from([255, classes, -100]))
    scored = draw(st.lists(st.integers(0, classes - 1), min_size=1, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batches = []
    for _ in range(draw(st.integers(1, 3))):
        shape = (draw(st.integers(1, 2)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
        prediction, mask = (rng.choice(classes, shape, p=rng.dirichlet([0.3] * classes)) for _ in range(2))
        mask[rng.random(shape) < draw(st.sampled_from([0.0, 0.3]))] = ignore_index
        batches.append((prediction, mask))
    return classes, ignore_index, tuple(scored), batches


@few
@given(runs())
def test_scores_equal_scikit_learn(run: tuple) -> None:
    classes, ignore_index, scored, batches = run
    metrics = SegmentationMetrics(classes, ignore_index, scored)
    for prediction, mask in batches:
        metrics.update(torch.from_numpy(prediction), torch.from_numpy(mask))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.compute()

    predicted, truth = (np.concatenate([batch[i].ravel() for batch in batches]) for i in (0, 1))
    predicted, truth = predicted[truth != ignore_index], truth[truth != ignore_index]
    if not len(truth):
        assert math.isnan(found["mIoU"])
        return
    labels = list(range(classes))
    occurs = np.isin(labels, truth) | np.isin(labels, predicted)
    options = {"labels": labels, "average": None, "zero_division": 0}
    expected = {
        "IoU": oracle.jaccard_score(truth, predicted, **options),
        "F1": oracle.f1_score(truth, predicted, **options),
        "precision": oracle.precision_score(truth, predicted, **options),
        "recall": oracle.recall_score(truth, predicted, **options),
    }
    for name, values in expected.items():
        wanted = np.where(occurs, values, np.nan)
        np.testing.assert_allclose(found["per_class"][name], wanted, rtol=0, atol=1e-12, err_msg=name)
    in_mean = [k for k in scored if occurs[k]]
    for name, values in (("mIoU", expected["IoU"]), ("F1", expected["F1"])):
        mean = float(np.mean(values[in_mean])) if in_mean else math.nan
        assert found[name] == pytest.approx(mean, abs=1e-12, nan_ok=True)
    assert found["OA"] == pytest.approx(oracle.accuracy_score(truth, predicted), abs=1e-12)
    np.testing.assert_array_equal(found["confusion"], oracle.confusion_matrix(truth, predicted, labels=labels))
    np.testing.assert_array_equal(found["per_class"]["pixels"], np.bincount(truth, minlength=classes))


def test_a_class_present_but_never_predicted_counts_zero_and_one_absent_from_both_is_left_out() -> None:
    mask = torch.tensor([[[0, 0, 1, 1]]])  # class 2 is absent from both
    found = score(torch.zeros(1, 1, 4, dtype=torch.long), mask, 3, 255)
    assert found["per_class"]["F1"].tolist() == pytest.approx([2 / 3, 0, math.nan], nan_ok=True)
    assert found["F1"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["mIoU"] == pytest.approx((1 / 2 + 0) / 2)
    assert isinstance(found["mIoU"], float)


def test_a_class_that_is_only_predicted_occurs() -> None:
    found = score(torch.tensor([[[0, 2]]]), torch.tensor([[[0, 0]]]), 3, 255)
    assert found["per_class"]["IoU"].tolist() == pytest.approx([0.5, math.nan, 0], nan_ok=True)
    assert found["per_class"]["recall"].tolist() == pytest.approx([0.5, math.nan, 0], nan_ok=True)


def test_oa_counts_the_classes_that_are_not_scored() -> None:
    mask, prediction = torch.tensor([[[0, 1, 2, 2]]]), torch.tensor([[[0, 1, 0, 2]]])
    found = score(prediction, mask, 3, 255, scored=(0, 1))
    assert found["OA"] == 0.75
    assert found["mIoU"] == pytest.approx((0.5 + 1) / 2)  # clutter taken for class 0 is class 0's error


def test_the_mean_is_of_the_whole_run_not_of_batches() -> None:
    metrics = SegmentationMetrics(2, 255)
    metrics.update(torch.tensor([[[0]]]), torch.tensor([[[0]]]))
    metrics.update(torch.tensor([[[0, 0, 0]]]), torch.tensor([[[1, 1, 0]]]))
    assert metrics.compute()["per_class"]["IoU"].tolist() == [0.5, 0]
    metrics.reset()
    metrics.update(torch.tensor([[[1]]]), torch.tensor([[[1]]]))
    assert metrics.compute()["OA"] == 1


def test_logits_score_like_their_largest_class() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=rng)
    mask = torch.randint(0, 5, (2, 6, 7), generator=rng)
    for kind in (logits, logits.bfloat16().float().bfloat16()):
        found = score(kind, mask, 5, 255)["confusion"]
        torch.testing.assert_close(
            found, score(kind.argmax(dim=1).to(torch.uint8), mask.to(torch.uint8), 5, 255)["confusion"]
        )


@few
@given(
    st.integers(2, 6), st.sampled_from([255, 6, -100]), st.integers(0, 2**16),
    st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(0, 255)), max_size=2),
)  # fmt: skip
def test_bytes_are_counted_and_refused_as_other_integers_are(
    classes: int, ignore_index: int, seed: int, put: list[tuple[int, int]]
) -> None:
    """Two ways of counting: the same counts, or the same words about the same values and numbers of pixels."""
    rng = torch.Generator().manual_seed(seed)
    pair = [torch.randint(0, classes, (1, 5, 7), generator=rng) for _ in range(2)]
    pair[1][torch.rand(1, 5, 7, generator=rng) < 0.3] = ignore_index % 256
    for which, value in put:
        pair[which].view(-1)[value % 35] = value
    found = []
    for dtype in (torch.int64, torch.uint8):
        try:
            found.append(score(*(x.to(dtype) for x in pair), classes, ignore_index)["confusion"].tolist())
        except DataError as error:
            found.append(str(error))
    assert found[0] == found[1]


def test_nothing_to_score_is_nan() -> None:
    found = score(torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), 255), 3, 255)
    assert all(math.isnan(found[name]) for name in ("mIoU", "F1", "OA"))
    assert found["per_class"]["IoU"].isnan().all()
    assert found["confusion"].sum() == 0


def test_counts_are_exact_beyond_float32() -> None:
    metrics = SegmentationMetrics(2, 255)
    metrics.confmat += 2**24  # float32 cannot add 1 to this
    metrics.update(torch.tensor([[[1]]]), torch.tensor([[[0]]]))
    found = metrics.compute()["confusion"]
    assert found.dtype == torch.int64
    assert found.tolist() == [[2**24, 2**24 + 1], [2**24, 2**24]]


def test_deterministic_mode_counts_the_same_without_a_table_of_pixels_by_cells() -> None:
    """With K = 64 and a million pixels such a table would take 32 GB."""
    rng = torch.Generator().manual_seed(0)
    prediction, mask = (torch.randint(0, 64, (1, 1024, 1024), generator=rng) for _ in range(2))
    expected = score(prediction, mask, 64, 255)["confusion"]
    torch.use_deterministic_algorithms(True)
    try:
        found = score(prediction, mask, 64, 255)["confusion"]
    finally:
        torch.use_deterministic_algorithms(False)
    assert expected.sum() == 1024**2
    torch.testing.assert_close(found, expected)


def test_what_compute_returns_does_not_change_with_later_batches() -> None:
    metrics = SegmentationMetrics(2, 255)
    metrics.update(torch.tensor([[[1]]]), torch.tensor([[[1]]]))
    before = metrics.compute()["confusion"]
    metrics.update(torch.tensor([[[1]]]), torch.tensor([[[0]]]))
    assert before.tolist() == [[0, 0], [0, 1]]


def part(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A different number of pixels for each process."""
    rng = torch.Generator().manual_seed(rank)
    shape = (1 + rank, 3, 5)
    return torch.randint(0, 4, shape, generator=rng), torch.randint(0, 4, shape, generator=rng)


def count_in_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        torch.save(score(*part(rank), 4, 255), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_add_up_their_counts(tmp_path: Path) -> None:
    mp.spawn(count_in_process, args=(str(tmp_path),), nprocs=2)
    joint = SegmentationMetrics(4, 255)
    for rank in range(2):
        joint.update(*part(rank))
    expected = joint.compute()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("prediction", "mask"),
    [
        (torch.zeros(2, 4, 5, dtype=torch.long), torch.zeros(2, 4, 6, dtype=torch.long)),
        (torch.zeros(2, 4, 5), torch.zeros(2, 4, 5, dtype=torch.long)),  # probabilities without their class axis
        (torch.zeros(2, 4, 5, 6), torch.zeros(2, 5, 6, dtype=torch.long)),  # four classes, three expected
        (torch.zeros(2, 3, 5, 7), torch.zeros(2, 5, 6, dtype=torch.long)),
    ],
)
def test_shapes_that_do_not_fit_are_both_named(prediction: torch.Tensor, mask: torch.Tensor) -> None:
    with pytest.raises(DataError) as error:
        score(prediction, mask, 3, 255)
    assert str(tuple(prediction.shape)) in str(error.value)
    assert str(tuple(mask.shape)) in str(error.value)


@pytest.mark.parametrize("value", [3, -1, 200])
def test_values_that_are_no_class_are_named_and_nothing_is_counted(value: int) -> None:
    metrics = SegmentationMetrics(3, 255)
    good, bad = torch.tensor([[[0, 1, 2]]]), torch.tensor([[[0, value, 2]]])
    with pytest.raises(DataError, match=rf"mask holds labels.*\[{value}\] in 1 pixels.*0\.\.2"):
        metrics.update(good, bad)
    with pytest.raises(DataError, match=rf"prediction holds values.*\[{value}\]"):
        metrics.update(bad, good)
    assert metrics.confmat.sum() == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_without_a_largest_class_are_refused(value: float) -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1, 0, 0] = value
    with pytest.raises(DataError, match="NaN or infinite"):
        score(logits, torch.zeros(1, 2, 2, dtype=torch.long), 3, 255)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_masks_that_hold_no_indices_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(DataError, match=str(dtype)):
        score(torch.zeros(1, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, dtype=dtype), 3, 255)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1, "ignore_index": 255}, "num_classes=1"),
        ({"num_classes": 6, "ignore_index": 5}, "ignore_index=5"),
        ({"num_classes": 6, "ignore_index": 6, "scored": ()}, "scored"),
        ({"num_classes": 6, "ignore_index": 6, "scored": (0, 6)}, "scored"),
        ({"num_classes": 6, "ignore_index": 6, "scored": (0, 0)}, "scored"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentationMetrics(**arguments)
