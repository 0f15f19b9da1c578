"""docs/your_data.md, followed to the letter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.preparation import oracle

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/your_data.md").read_text()
BLOCKS = dict(
    re.findall(r"[Ss]ave this as `([\w/.]+\.py)`[^`]*(?:`[^`\n]*`[^`]*)*```python\n(.*?)```", PAGE, re.DOTALL)
)
COMMANDS = re.findall(r"^python (.*config/orchard.*)$", PAGE, re.MULTILINE)


def test_the_module_is_short():
    assert set(BLOCKS) == {"orchard.py", "config/orchard/d2ls.py"}
    assert len(BLOCKS["orchard.py"].strip().splitlines()) <= 25


def write_data(folder):
    colours = {(150, 75, 0): 0, (0, 160, 0): 1, (90, 90, 90): 2, (0, 0, 0): 255}
    for split, number in (("train", 4), ("val", 2)):
        for at in range(number):
            rng = np.random.default_rng([at, number])
            _, mask = oracle.draw(rng, (150 + at, 160), colours, cars=0)
            image = np.clip(mask + rng.normal(0, 10, mask.shape), 0, 255).astype(np.uint8)
            oracle.save(folder / f"orchard/{split}/images/row_{at}.jpg", image)
            oracle.save(folder / f"orchard/{split}/masks/row_{at}.png", mask)


@pytest.mark.slow
def test_following_the_page(tmp_path):
    for name, text in BLOCKS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_data(tmp_path / "data")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "2"}
    environment.pop("D2LS_DATA", None)
    small = ["max_epoch=1", "backbone=test_convnext", "pretrained=False", "train_batch_size=2"]
    assert [command.split()[0] for command in COMMANDS] == ["train.py", "test_dubai.py"]
    for command in COMMANDS:
        script, *arguments = command.split()
        run = subprocess.run(
            [sys.executable, str(ROOT / script), *arguments, *small],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
    assert {path.name for path in (tmp_path / "fig_results/orchard/d2ls").rglob("*.png")} >= {"row_0.png", "row_1.png"}
    assert "mIoU" in run.stdout
