"""The command line of train.py, in this process and as a real one."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train as script
from d2ls.cli.common import run_main
from d2ls.settings import SETTINGS
from tests.drawn import folders
from tests.tiny import write_config

ROOT = Path(__file__).parents[2]
WEIGHTS = Path("model_weights/vaihingen/tiny")
pytestmark = pytest.mark.usefixtures("run_folder")


def run(*words: str) -> int:
    return run_main(script.main, ["-c", "tiny.py", *words])


def test_help_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        script.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "python train.py -c config/demo/d2ls.py" in text
    assert "D2LS_DATA" in text
    assert all(f"  {name} " in text for name, setting in SETTINGS.items() if setting.simple)
    assert max(map(len, text.splitlines())) <= 120


def test_wrong_use_shows_how(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        script.main(["max_epoch=1"])
    assert end.value.code == 2
    assert "required: -c/--config" in capsys.readouterr().err


def test_settings_before_and_behind_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(script.main, ["max_epoch=1", "-c", "tiny.py", "lr=3e-4", "crop=16", "width=48"]) == 0
    content = torch.load(WEIGHTS / "tiny.ckpt", weights_only=True)
    assert content["epoch"] == 0
    assert content["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 3e-4
    assert content["d2ls"]["model"]["width"] == 48
    assert "epoch 1 of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["max_epochs=2"], "max_epochs: no such setting in tiny.py. Did you mean max_epoch?"),
        (["max_epoch=two"], "max_epoch='two' (given from outside): expected int, found str"),
        (["max_epoch=0"], "max_epoch=0"),
        (["max_epoch"], "'max_epoch': expected name=value"),
        (["lr=1", "lr=2"], "lr is given twice: 1 and '2'"),
        (["backbone=no_such_net"], "backbone='no_such_net': timm has no model of this name"),
        (["train_batch_size=7"], "6 training images are too few for a batch of 7"),
        (["resume_ckpt_path=last"], "resume_ckpt_path='last': no checkpoint"),
        (["pretrained_ckpt_path=gone.ckpt"], "no weight file gone.ckpt"),
        (["pretrained=gone.pth"], "no weight file gone.pth. Choose one of: pretrained=False"),
        (["precision=7"], "Lightning cannot train with"),
    ],
)
def test_bad_input_is_one_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert f"error: {message}" in error or f": {message}" in error
    assert error.count("error: ") == 1
    assert "Traceback" not in error
    assert not WEIGHTS.exists()


def test_no_data_says_what_to_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2LS_DATA", "nowhere")
    assert run() == 2
    error = capsys.readouterr().err
    assert "error: nowhere/vaihingen/train/images_1024: no such folder." in error
    assert "tools/vaihingen_patch_split.py" in error


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("pretrained", "backbone"), [("torchvision", "convnext_tiny"), ("True", "test_convnext")])
def test_no_network_and_no_weights(
    pretrained: str, backbone: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the hub's client waits before it tries again
    assert run(f"pretrained={pretrained}", f"backbone={backbone}", "drop_path_rate=0.0") == 2
    error = capsys.readouterr().err
    for choice in ("pretrained=False", "True (timm", '"torchvision"', "path of a weight file"):
        assert choice in error
    assert not WEIGHTS.exists(), "never random weights in silence"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_whoever_reads_it(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.write_vaihingen(tmp_path / "data", size=64, train=2, validation=1, test=0)
    broken = next((tmp_path / "data/vaihingen/train/images_1024").glob("*area1_*.tif"))
    broken.write_bytes(b"no image")
    monkeypatch.setenv("D2LS_DATA", "data")
    assert run(f"num_workers={workers}") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: data/vaihingen/train/images_1024/{broken.name}: ")


def test_an_override_without_effect_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    write_config(Path(), after="spare = 3\n")
    assert run("spare=4", "max_epoch=1") == 0
    assert "note: spare changes nothing: tiny.py does not use it" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_its_own_exit_code() -> None:
    command = [sys.executable, str(ROOT / "train.py"), "-c", "tiny.py", "max_epoch=2000", "num_workers=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        waited = time.monotonic() + 240
        while not (WEIGHTS / "last.ckpt").exists() and process.poll() is None and time.monotonic() < waited:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert error.endswith("interrupted\n")
    assert "Traceback" not in error
    assert re.search(r"last\.ckpt holds (the last whole epoch|epoch \d+ as far as it was): resume_ckpt_path=last", out)
    assert torch.load(WEIGHTS / "last.ckpt", weights_only=True)["epoch"] >= 0
