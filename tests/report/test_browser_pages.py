"""The pages of a training run and of a comparison in headless Chromium, at two widths, light and dark."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2ls.compare import tables
from d2ls.report import page as pages
from d2ls.report.training_page import charts
from tests.report.test_browser import BROKEN, OVERFLOW, RULES, browser, opened, pytestmark

__all__ = ["browser", "pytestmark"]


def training_page() -> str:
    names = ("train_loss_epoch", "train_dice_epoch", "val_loss", "val_mIoU", "val_IoU/Building", "val_IoU/Road")
    rows = np.random.default_rng(0).random((9, len(names)))
    epochs = [
        {"epoch": at, "metrics": dict(zip(names, row, strict=True)), "lr": {"lr 1": 0.1}, "seconds": {"loading": 1.0}}
        for at, row in enumerate(rows.tolist(), 1)
    ]
    content = {
        "title": "dubai/d2ls", "epochs": 9, "done": 9, "charts": charts(epochs, ("Building", "Road")), "samples": [],
        "overrides": {"lr": 0.1}, "source": "lr = 0.1\n" * 30, "machine": {"device": "cpu"}, "total": {"loading": 9.0},
        "share": {"loading": 1.0},
    }  # fmt: skip
    return pages.render(content, "training.html", "training.js")


def comparison_page(folder: Path) -> Path:
    common: dict[str, Any] = {
        "parameters": 4e6, "multiply_adds": 2e9, "seconds_per_step": 0.5, "peak_memory_mb": 900.0, "images": [*"abcd"],
        "images_sha256": "0", "scored": [0, 1, 2], "device": "2 CPU threads", "flop_size": 256,
        "chosen_on_test_images": False,
    }  # fmt: skip
    random = np.random.default_rng(0)
    results = {
        name: [common | {"counts": random.integers(1, 99, (4, 3, 3)).tolist()} for _ in range(3)]
        for name in ("dynamic", "static", "unet")
    }
    tables.write(folder, tables.rows_of(results), ("Building", "Road", "Water"), tables.notes_on(results))
    return folder / "comparison.html"


@pytest.fixture(params=["training", "comparison"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "comparison":
        return comparison_page(tmp_path)
    (tmp_path / "report.html").write_text(training_page(), encoding="utf-8")
    return tmp_path / "report.html"


@pytest.fixture(params=[(1400, "light"), (400, "dark")], ids=["wide-light", "narrow-dark"])
def shown(request: pytest.FixtureRequest, browser: Any, path: Path) -> Iterator[Any]:
    yield from opened(browser, path, *request.param)


def test_nothing_is_broken_and_axe_finds_nothing(shown: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    assert shown.evaluate(BROKEN) == 0
    assert shown.evaluate(OVERFLOW) <= 0
    assert shown.locator("svg").count() > 2
    found = axe.Axe().run(shown, options=RULES).response
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found["violations"]] == []


def test_seven_lines_can_be_told_apart(browser: Any, tmp_path: Path) -> None:
    names = [f"train_{name}_epoch" for name in "gabcdef"]
    epochs = [{"epoch": at, "metrics": dict.fromkeys(names, at), "lr": {}, "seconds": {}} for at in (1, 2)]
    (chart,) = charts(epochs, ())
    assert list(chart["series"]) == [*"gabcdef"], "in the order of the loss"
    text = training_page()
    start, stop = text.index('<script type="application/json">') + 32, text.index("</script>")
    (tmp_path / "report.html").write_text(text[:start] + json.dumps(chart["series"]) + text[stop:], encoding="utf-8")
    for shown in opened(browser, tmp_path / "report.html", 1400, "light"):
        lines = shown.locator("figure.curves").first.locator("polyline")
        styles = {tuple(map(line.get_attribute, ("stroke", "stroke-dasharray"))) for line in lines.all()}
        assert len(styles) == 7


@pytest.mark.parametrize("path", ["comparison", "training"], indirect=True)
def test_no_foreign_script_runs(shown: Any, path: Path) -> None:
    assert shown.evaluate("document.querySelectorAll('meta[http-equiv=Content-Security-Policy]').length") == 1
    policy = shown.locator("meta[http-equiv]").get_attribute("content")
    assert "default-src 'none'" in policy
    assert ("script-src 'none'" if path.name == "comparison.html" else "script-src 'sha256-") in policy


@pytest.mark.parametrize("path", ["training"], indirect=True)
def test_buttons_hide_their_lines(shown: Any) -> None:
    figure = shown.locator("figure.curves").first
    lines, button = figure.locator("polyline"), figure.locator("button").first
    before = lines.count()
    button.focus()
    shown.keyboard.press("Enter")
    assert lines.count() == before - 1
    assert button.get_attribute("aria-pressed") == "false"
    shown.keyboard.press("Enter")
    assert lines.count() == before
