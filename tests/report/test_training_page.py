"""The page of a training run: its numbers, its samples, and that a resumed run goes on with its curves."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2ls.cli.common import run_main
from d2ls.cli.train import main
from d2ls.data.sets import vaihingen
from d2ls.report.training_page import charts, samples_of
from tests.tiny import write_config

BLOCK = re.compile(r'<script type="application/json">(.*?)</script>', re.DOTALL)


def epoch(number: int, **metrics: float) -> dict[str, Any]:
    return {"epoch": number, "metrics": metrics, "lr": {"lr 1": 0.1 / number}, "seconds": {"loading": 1.0}}


def page(version: int) -> str:
    return Path(f"lightning_logs/vaihingen/tiny/version_{version}/report.html").read_text(encoding="utf-8")


def curves(text: str) -> dict[str, Any]:
    return {name: points for block in BLOCK.findall(text) for name, points in json.loads(block).items()}


def test_charts_hold_what_was_logged_and_nothing_else() -> None:
    found = charts([epoch(1, train_loss_epoch=3.0), epoch(2, train_loss_epoch=2.0, val_mIoU=0.5)], ("a",))
    by_title = {chart["title"]: chart["series"] for chart in found}
    assert by_title["Training loss, by term"] == {"loss": [[1, 3.0], [2, 2.0]]}
    assert by_title["Validation scores, per cent"] == {"mIoU": [[2, 50.0]]}
    assert by_title["Learning rate"] == {"lr 1": [[1, 0.1], [2, 0.05]]}
    assert "IoU of each class, per cent" not in by_title


def test_values_that_are_not_finite_are_left_out() -> None:
    (chart, *_) = charts([epoch(1, train_loss_epoch=float("nan")), epoch(2, train_loss_epoch=1.0)], ())
    assert chart["series"] == {"loss": [[2, 1.0]]}


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_samples_of_any_number_of_bands(bands: int) -> None:
    mask = torch.zeros(2, 8, 8, dtype=torch.int64)
    mask[0, :4] = 1
    found = samples_of({"image": torch.randn(2, bands, 8, 8), "mask": mask, "name": ["a", "b"]}, vaihingen.SPEC)
    assert [one["name"] for one in found] == ["a", "b"]
    assert sorted(found[0]["shares"]) == [("Building", 0.5), ("ImSurf", 0.5)]
    assert found[1]["shares"] == [("ImSurf", 1.0)]


def test_a_run_and_a_resumed_run(run_folder: Path) -> None:
    assert run_main(main, ["-c", "tiny.py", "max_epoch=1"]) == 0
    assert [point[0] for point in curves(page(0))["loss"]] == [1]
    assert run_main(main, ["-c", "tiny.py", "max_epoch=2", "resume_ckpt_path=last"]) == 0
    text = page(1)
    found = curves(text)
    assert [point[0] for point in found["cross_entropy"]] == [1, 2]
    assert {"mIoU", "Building", "lr 1", "loading"} <= found.keys()
    assert np.isfinite([point[1] for points in found.values() for point in points]).all()
    assert "2 of 2 epochs" in text
    assert text.count('<img src="data:image/') == 4
    assert "resume_ckpt_path" in text


def test_extra_terms_stand_beside_the_others(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    write_config(
        run_folder, ("loss = D2LSLoss(ignore_index,", 'loss = D2LSLoss(ignore_index, extra_losses={"focal": 1.0},')
    )
    assert run_main(main, ["-c", "tiny.py", "max_epoch=1"]) == 0
    assert "focal" in capsys.readouterr().out
    assert len(curves(page(0))["focal"]) == 1


def test_foreign_text_is_escaped(run_folder: Path) -> None:
    write_config(
        run_folder, ("classes = vaihingen.SPEC.classes", "classes = ('</script><b>', 'B', 'C', 'D', 'E', 'F')")
    )
    assert run_main(main, ["-c", "tiny.py", "max_epoch=1"]) == 0
    assert "</script><b>" not in page(0)
