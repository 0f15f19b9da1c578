"""train.py --check: what it verifies, what it finds, and that it leaves nothing."""

import shutil
import tempfile
import time
from pathlib import Path

import pytest
import torch

import train as script
from d2ls.cli.common import run_main
from d2ls.data.io import read_index, write_png
from tests.drawn import folders
from tests.tiny import write_config

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("run_folder")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which no line of the table breaks."""
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary folders are made."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))  # torch's own, kept
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    before = sorted(Path().rglob("*"))
    code = run_main(script.main, ["-c", "tiny.py", "--check", *words])
    captured = capsys.readouterr()
    assert sorted(Path().rglob("*")) == before, "leaves nothing behind"
    return code, " ".join(captured.out.split()), captured.err


def test_a_good_config(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys)
    assert (code, error) == (0, "")
    for part in ("training images", "validation images", "test images", "labels", "training step", "checkpoint",
                 "network from the checkpoint", "mask of a test", "room for checkpoints"):  # fmt: skip
        assert part in out
    assert "6 classes" in out
    assert "differ by 0 at most" in out
    assert "PROBLEM" not in out
    assert not list(scratch.iterdir())


def test_missing_data_are_told_and_the_rest_is_tried(
    scratch: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D2LS_DATA", "nowhere")
    code, out, error = run(capsys)
    assert code == 1
    assert "problem: training images: nowhere/vaihingen/train/images_1024: no such folder." in error
    assert out.count("PROBLEM") == error.count("problem: ") == 4
    assert "differ by 0 at most" in out


def test_missing_weights_are_told_and_the_rest_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys, "pretrained=gone.pth")
    assert code == 1
    assert error.startswith("problem: initial weights: no weight file gone.pth")
    assert out.count("PROBLEM") == 1
    assert "differ by 0 at most" in out


def test_labels_outside_the_classes(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_data, "data")
    monkeypatch.setenv("D2LS_DATA", "data")
    path = max(Path("data/vaihingen/train/masks_1024").glob("*area30_*"))
    write_png(path, read_index(path) + 7)
    code, _, error = run(capsys)
    assert code == 1
    assert str(path) in error


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ("import copy\noptimizer = adamw_lookahead(copy.deepcopy(net), lr)\n", "optimizer leaves out"),
        ("import torch\nloss.forward = lambda *_: {'loss': torch.tensor(torch.nan)}\n", "not finite"),
        ("loss.forward = lambda *_: 1 / 0\n", "ZeroDivisionError"),
        ("for group in optimizer.param_groups:\n    group['lr'] = group['weight_decay'] = 0.0\nlr_scheduler = None\n",
         "changed no weight"),
    ],
)  # fmt: skip
def test_runs_that_would_not_train(after: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(Path(), after=after)
    code, out, error = run(capsys)
    assert code == 1
    assert error.startswith("problem: training step, validation: ")
    assert told in error
    assert out.count("PROBLEM") == 1


def test_a_network_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    after = (
        "from torch import nn\nnet = nn.Sequential(nn.Conv2d(3, num_classes, 3, padding=1))\n"
        "optimizer = adamw_lookahead(net, lr)\nlr_scheduler = None\n"
    )
    write_config(Path(), after=after)
    assert run(capsys)[0] == 0


def test_a_config_that_cannot_be_read_is_no_finding(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys, "max_epochs=3")
    assert (code, out) == (2, "")
    assert error.startswith("error: max_epochs: no such setting")


@pytest.mark.slow
def test_the_papers_network_within_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.write_vaihingen(tmp_path / "data", size=512, train=5, validation=1, test=1)
    monkeypatch.setenv("D2LS_DATA", "data")
    begin = time.perf_counter(), time.process_time()
    code = run_main(script.main, ["-c", str(ROOT / "config/vaihingen/d2ls.py"), "--check", "pretrained=False"])
    assert code == 0, capsys.readouterr().err
    seconds, computed = time.perf_counter() - begin[0], time.process_time() - begin[1]
    assert min(seconds, computed / torch.get_num_threads()) < 60  # what else the machine does is not counted
