"""The table of a comparison as Markdown, CSV, LaTeX and a page."""

import csv
import math
import re
from pathlib import Path

import pytest

from d2ls.compare import tables
from d2ls.compare.statistics import Difference, Spread

CLASSES = ("A & b", "c|d")
COST = {"parameters": 1.2e6, "multiply_adds": 3e9, "seconds_per_step": 0.5, "peak_memory_mb": math.nan}


def row(name: str, difference: Difference, deviation: float = 0.01) -> tables.Row:
    means = {mean: Spread(0.5, deviation) for mean in ("mIoU", "F1", "OA")}
    per_class = [Spread(0.3, deviation), Spread(math.nan, math.nan)]
    return tables.Row(name, 2, means, per_class, [0.45, 0.55], difference, COST)


@pytest.fixture
def written(tmp_path: Path) -> dict[str, str]:
    rows = [row("a_x", Difference(0, 0, 0, 0.5)), row("no-b", Difference(-0.02, -0.03, 0.01, 0.1), math.nan)]
    paths = tables.write(tmp_path, rows, CLASSES, ["A note.", "Another <note>."])
    return {path.suffix: path.read_text(encoding="utf-8") for path in paths}


def test_markdown(written: dict[str, str]) -> None:
    lines = written[".md"].splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    assert [len(line) for line in cells] == [len(tables.HEADER)] * 4 + [len(CLASSES) + 1] * 4
    assert cells[2][:3] == [" a_x ", " 50.00 ± 1.00 ", " - "]
    assert cells[3][:3] == [" no-b ", " 50.00 ", " -2.00 [-3.00, 1.00] "]
    assert cells[4][2] == r" c\|d "
    assert lines[-3:] == ["", "A note.", "Another <note>."]


def test_latex(written: dict[str, str]) -> None:
    text = written[".tex"]
    assert text.count(r"\begin{tabular}{l" + "r" * (len(tables.HEADER) - 1) + "}") == 1
    assert text.count(r"\begin{tabular}{lrr}") == text.count(r"IoU & A \& b & c|d \\") == 1
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 2
    assert r"a\_x & 50.00 $\pm$ 1.00 & -- & -- & " in text
    assert r"no-b & 50.00 & $-$2.00 [$-$3.00, 1.00] & 10\% & " in text
    assert r"no-b & 30.00 & -- \\" in text


def test_names_mean_nothing_in_latex(tmp_path: Path) -> None:
    name = "extra_losses={'a': 1}$x^2~\\"
    _, _, latex, _ = tables.write(tmp_path, [row(name, Difference(0, 0, 0, 0.5))], CLASSES, [])
    escaped = r"extra\_losses=\{'a': 1\}\$x\textasciicircum{}2\textasciitilde{}\textbackslash{} & 50.00 "
    assert escaped in latex.read_text(encoding="utf-8")


def test_the_page_escapes_and_places_the_runs(written: dict[str, str]) -> None:
    page = written[".html"]
    assert "Another &lt;note&gt;." in page
    places = [float(place) for place in re.findall(r'<circle cx="([\d.]+)%"', page)]
    assert places == pytest.approx([100 / 12, 1100 / 12] * 2, abs=0.01), "a margin of a tenth on both sides"


def test_csv(written: dict[str, str]) -> None:
    head, first, second = csv.reader(written[".csv"].splitlines())
    assert len(head) == len(first) == len(second)
    assert dict(zip(head, second, strict=True))["mIoU difference"] == "-0.02"
    assert dict(zip(head, first, strict=True))["peak_memory_mb"] == ""
