"""A comparison of three variants and two seeds, killed and resumed."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import compare
from d2ls.cli.common import run_main
from d2ls.compare.run import read_result
from d2ls.compare.tables import FILES
from d2ls.compare.variants import ABLATION, plan
from d2ls.config import load_config
from tests.tiny import write_config

ROOT = Path(__file__).parents[2]
RUNS = 6


@pytest.fixture
def configs(run_folder: Path) -> list[str]:
    """Arguments: tiny.py, an ablation on it, and a config of its own."""
    write_config(run_folder, ("max_epoch = 2", "max_epoch = 1"))
    static = 'base = "tiny.py"\ndictionary = "static"\ncontrastive_weight = 0.0\n'
    (run_folder / "static.py").write_text(static)
    (run_folder / "slow.py").write_text('base = "tiny.py"\nlr = 1e-5\n')
    return ["-c", "tiny.py", "-c", "static.py", "-c", "slow.py", "--seeds", "2", "-o", "out", "test_weights_name=last"]


def start(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, ROOT / "compare.py", *arguments], cwd=folder, stdout=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def results(folder: Path) -> dict[str, object]:
    found = {}
    for path in sorted(folder.glob("*/*/result.json")):
        result = read_result(path.parent)
        assert result is not None
        found[path.parent.relative_to(folder).as_posix()] = [result[name] for name in ("images", "counts")]
    return found


@pytest.mark.slow
def test_killed_and_resumed_it_gives_the_identical_scores(configs: list[str], run_folder: Path) -> None:
    process = start(configs, run_folder)
    while len(results(run_folder / "out")) < 2:
        time.sleep(0.2)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = results(run_folder / "out")
    assert 2 <= len(before) < RUNS
    output, _ = start(configs, run_folder).communicate(timeout=600)
    assert output.decode().count("done before") >= 2
    resumed = results(run_folder / "out")
    assert resumed == resumed | before
    once = [*configs[:-2], "elsewhere", configs[-1]]
    assert start(once, run_folder).wait(600) == 0
    assert results(run_folder / "elsewhere") == resumed
    one, other = (list(csv.reader((run_folder / name / "comparison.csv").open())) for name in ("out", "elsewhere"))
    stop = one[0].index("parameters")
    assert [row[:stop] for row in one] == [row[:stop] for row in other]
    assert all((run_folder / "out" / name).stat().st_size > 100 for name in FILES)


@pytest.mark.slow
def test_a_run_ends_in_order_when_the_comparison_is_killed(configs: list[str], run_folder: Path) -> None:
    process = start([*configs, "max_epoch=2000"], run_folder)
    run = run_folder / "out" / "tiny" / "seed42"
    while not (run / "weights" / "last.ckpt").exists():
        time.sleep(0.2)
        assert process.poll() is None
    process.kill()  # it alone, not the run that it has started
    process.wait()
    for _ in range(300):
        if "last.ckpt holds" in (run / "train.log").read_text():
            return
        time.sleep(0.2)
    raise AssertionError((run / "train.log").read_text())


def test_a_failed_run_says_why(configs: list[str], run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_main(compare.main, ["-c", "tiny.py", "--seeds", "1", "-o", "out", "train_batch_size=99"]) == 2
    told = capfd.readouterr()
    assert "[1 of 1] tiny, seed 42: failed: error: 6 training images are too few for a batch of 99" in told.out
    assert "1 of the runs failed" in told.err


def test_one_variant_one_seed(configs: list[str], run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["-c", "tiny.py", "--seeds", "1", "-o", "out"]
    assert run_main(compare.main, arguments) == 0
    result = read_result(run_folder / "out" / "tiny" / "seed42")
    assert result is not None
    assert np.array(result["counts"]).shape == (len(result["images"]), 6, 6)
    assert result["parameters"] > 0
    assert result["multiply_adds"] > 0
    text = (run_folder / "out" / "comparison.md").read_text()
    assert "tiny" in text
    assert "Building" in text
    shown = capfd.readouterr().out
    mean = np.mean(
        [float(line.split()[-1]) for line in shown.splitlines() if line.startswith(" IoU ")][:-1]
    )  # Clutter counts not
    assert f"tiny, seed 42: mIoU {mean:.2f} % after 0:00:" in shown
    assert max(map(len, shown[shown.index("test images") :].split("Mean and")[0].splitlines())) <= 80
    assert run_main(compare.main, arguments) == 0
    assert "done before" in capfd.readouterr().out
    assert run_main(compare.main, [*arguments, "lr=1e-5"]) == 2
    assert str(Path("out/tiny/seed42")) in capfd.readouterr().err


def test_validation_images_that_name_no_files(configs: list[str], run_folder: Path) -> None:
    config = Path("tiny.py")
    own = "from torch.utils.data import Subset\n\nval_dataset = Subset(val_dataset, range(2))\n"
    config.write_text(config.read_text() + own)
    assert run_main(compare.main, ["-c", "tiny.py", "--seeds", "1", "-o", "out", "test_weights_name=last"]) == 0
    result = read_result(run_folder / "out" / "tiny" / "seed42")
    assert result is not None
    assert result["chosen_on_test_images"] is False


@pytest.mark.slow
def test_windows_of_the_test_images(configs: list[str], run_folder: Path) -> None:
    arguments = ["-c", "tiny.py", "--seeds", "1", "-o", "out", "--grid", "test_window=None,32,1000"]
    assert run_main(compare.main, arguments) == 0
    whole, small, large = (
        results(run_folder / "out")[f"tiny_test_window={side}/seed42"] for side in ("None", "32", "1000")
    )
    assert whole == large != small
    assert "segmented in windows of 32 or 1000 px" in (run_folder / "out" / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "-c"),
        (["-c", "tiny.py", "--grid", "lr"], "--grid lr"),
        (["-c", "tiny.py", "--grid", "lrr=1,2"], "lrr"),
        (["-c", "tiny.py", "lr=1e-3", "--grid", "lr=1e-3,1e-4"], "lr"),
        (["-c", "tiny.py", "-c", "tiny.py"], "tiny"),
        (["-c", "none.py"], "none.py"),
    ],
)
def test_wrong_use(
    arguments: list[str], told: str, configs: list[str], run_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(compare.main, [*arguments, "-o", "out"]) == 2
    assert told in capfd.readouterr().err
    assert not (run_folder / "out").exists()


@pytest.mark.parametrize("name", ["loveda", "dubai"])
def test_the_rows_of_the_papers_ablation_are_networks(name: str) -> None:
    light = {"backbone": "test_convnext", "pretrained": False, "stages": 1}
    variants = plan([ROOT / "config" / name / "d2ls.py"], light, {}, ablation=True)
    assert [variant.name for variant in variants] == list(ABLATION)
    image, outputs = torch.randn(2, 3, 32, 32), {}
    for variant in variants:
        settings = load_config(variant.config, variant.overrides)
        settings.net.load_state_dict(settings.net.state_dict())
        outputs[variant.name] = settings.loss(settings.net.train()(image), torch.zeros(2, 32, 32, dtype=torch.int64))
    terms = [sorted(set(terms) - {"loss"}) for terms in outputs.values()]
    plain = ["cross_entropy", "dice"]
    assert terms == [plain, plain, plain, ["auxiliary", *plain], ["auxiliary", "contrastive", *plain]]
