"""Scores of a run against scikit-learn, and its files."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn import metrics as oracle

from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from d2ls.inference.scores import Scores, Tally

SPEC = DatasetSpec(
    name="four", classes=("a", "b", "c", "d"), colours=((1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)), ignore_index=9,
    scored=(0, 1, 2),
)  # fmt: skip


def pictures(number: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    truths = [rng.choice([0, 1, 3, 9], size=(20, 30)).astype(np.uint8) for _ in range(number)]
    return [
        (np.where(rng.random(t.shape) < rng.random(), t % 9 % 4, rng.integers(0, 2)).astype(np.uint8), t)
        for t in truths
    ]


def scores_of(found: list[tuple[np.ndarray, np.ndarray]]) -> Scores:
    tally = Tally(SPEC, [f"image{i}" for i in range(len(found) + 2)])  # two have no labels
    for i, (prediction, truth) in reversed(list(enumerate(found))):
        tally.add(f"image{i}", prediction, truth)
    return tally.scores()


def test_scores_are_scikit_learns() -> None:
    found = pictures(5)
    truth = np.concatenate([t[t != 9] for _, t in found])
    prediction = np.concatenate([p[t != 9] for p, t in found])
    result = scores_of(found).plain
    options = {"labels": range(4), "average": None, "zero_division": 0}
    expected = {
        "IoU": oracle.jaccard_score(truth, prediction, **options),
        "F1": oracle.f1_score(truth, prediction, **options),
        "precision": oracle.precision_score(truth, prediction, **options),
        "recall": oracle.recall_score(truth, prediction, **options),
    }
    for name, values in expected.items():
        for k, value in enumerate(values):
            got = result["per_class"]["abcd"[k]][name]
            assert got is None if k == 2 else got == pytest.approx(value, abs=1e-12)  # class c does not occur
    assert result["mIoU"] == pytest.approx(expected["IoU"][:2].mean(), abs=1e-12)
    assert result["F1"] == pytest.approx(expected["F1"][:2].mean(), abs=1e-12)
    assert result["OA"] == pytest.approx(oracle.accuracy_score(truth, prediction), abs=1e-12)
    assert result["confusion"] == oracle.confusion_matrix(truth, prediction, labels=range(4)).tolist()
    assert [row["pixels"] for row in result["per_class"].values()] == np.bincount(truth, minlength=4).tolist()
    assert [image["name"] for image in result["images"]] == [f"image{i}" for i in range(5)]


def test_intervals_are_those_of_images_drawn_one_by_one() -> None:
    scores = scores_of(pictures(6))
    images = torch.stack(list(scores.counts.values())).numpy()
    rng, drawn = np.random.default_rng(5), []
    for _ in range(3000):
        total = images[rng.integers(0, 6, size=6)].sum(axis=0)
        drawn.append(np.trace(total) / total.sum())
    low, high = np.quantile(drawn, [0.025, 0.975])
    interval = scores.intervals["OA"]
    assert interval == pytest.approx((low, high), abs=0.03)
    assert interval == scores_of(pictures(6)).intervals["OA"]  # the same every time
    assert interval[0] < scores.plain["OA"] < interval[1]


def test_like_images_have_no_spread_and_one_image_has_no_interval() -> None:
    picture = pictures(1)
    low, high = scores_of(picture * 4).intervals["mIoU"]
    assert low == pytest.approx(high, abs=1e-12)
    assert scores_of(picture).plain["intervals"] == {"mIoU": None, "F1": None, "OA": None}


def test_files_hold_the_scores_and_what_made_them(tmp_path: Path) -> None:
    scores = scores_of(pictures(3))
    run = {"command": "test_four.py -t lr", "checkpoint_sha256": "ab" * 32, "views": {"mode": "lr", "number": 4}}
    scores.write(tmp_path, run)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["run"] == run
    assert found["mIoU"] == scores.plain["mIoU"]
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    means = {row["name"]: row for row in rows if row["kind"] == "mean"}
    assert float(means["mIoU"]["value"]) == found["mIoU"]
    assert float(means["OA"]["low"]) == found["intervals"]["OA"][0]
    classes = {row["name"]: row for row in rows if row["kind"] == "class"}
    assert float(classes["b"]["IoU"]) == found["per_class"]["b"]["IoU"]
    assert classes["c"]["IoU"] == ""
    assert {row["name"]: row["value"] for row in rows if row["kind"] == "run"}["checkpoint_sha256"] == "ab" * 32


def test_nothing_to_score_is_null_not_nan(tmp_path: Path) -> None:
    empty = np.full((4, 4), 9, np.uint8)
    scores_of([(np.zeros((4, 4), np.uint8), empty)] * 2).write(tmp_path, {})
    found = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert found["mIoU"] is None
    assert found["OA"] is None


def test_the_table_names_every_class_and_marks_those_outside_the_means() -> None:
    console = Console(record=True, width=120, file=Path("/dev/null").open("w"))  # noqa: SIM115
    scores_of(pictures(3)).print(console)
    text = console.export_text()
    assert "d (not scored)" in text
    found = scores_of(pictures(3)).plain
    for name in ("mIoU", "F1", "OA"):
        assert f"{100 * found[name]:.2f}" in text
        low, high = found["intervals"][name]
        assert f"{100 * low:.2f} to {100 * high:.2f}" in text
    assert not math.isnan(found["OA"])


def test_a_tally_keeps_no_memory_of_its_own_for_each_image() -> None:
    """What stays between large buffers splits them: the room for all counts is there from the start."""
    tally = Tally(SPEC, [f"image{i}" for i in range(3)])
    before = tally._counts.data_ptr()
    for i, (prediction, truth) in enumerate(pictures(3)):
        tally.add(f"image{i}", prediction, truth)
    found = tally.scores().counts
    assert [counts.data_ptr() - before for counts in found.values()] == [0, 128, 256]


def test_a_label_of_another_size_is_told() -> None:
    with pytest.raises(DataError, match="image0: its mask has 4 x 5 pixels, its label 5 x 4"):
        Tally(SPEC, ["image0"]).add("image0", np.zeros((5, 4), np.uint8), np.zeros((4, 5), np.uint8))
