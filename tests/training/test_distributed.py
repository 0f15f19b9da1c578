"""What devices and strategies are refused, and batch normalisation over several processes."""

import copy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from d2ls.config import load_config
from d2ls.errors import ConfigError, D2LSError
from d2ls.models import DynamicDictionaryLearning
from d2ls.training.distributed import SyncBatchNorm, check_devices, ending_together
from d2ls.training.trainer import build_trainer
from tests.tiny import write_config


def notes(**overrides: Any) -> list[str]:
    settings = load_config("tiny.py", overrides)
    return check_devices(settings, build_trainer(settings))


@pytest.mark.usefixtures("run_folder")
def test_one_process_needs_no_note() -> None:
    assert not notes()
    assert not notes(sync_batchnorm=True, backbone="test_resnet")  # one process has nothing to synchronise


@pytest.mark.usefixtures("run_folder")
def test_the_joint_batch_is_told() -> None:
    assert notes(gpus=2) == ["a step learns from 4 images (2 processes x 2 images); lr is taken as it is"]
    assert "learns from 18 images (3 processes x 2 images x 3 batches)" in notes(gpus=3, accumulate_grad_batches=3)[0]


@pytest.mark.parametrize("loader", ["train_loader", "val_loader"])
def test_loaders_that_know_of_no_processes_are_refused(loader: str, run_folder: Path) -> None:
    of = loader.replace("loader", "dataset")
    write_config(run_folder, after=f"from torch.utils.data import DataLoader\n{loader} = DataLoader({of}, 2)\n")
    assert not notes()
    with pytest.raises(ConfigError, match=f"{loader}: its SequentialSampler gives all images to each of 2 processes"):
        notes(gpus=2)


@pytest.mark.usefixtures("run_folder")
def test_what_devices_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sync_batchnorm=True: torch normalises over 2 processes on GPUs.*'cpu'"):
        notes(sync_batchnorm=True, gpus=2, backbone="test_resnet")
    with pytest.raises(ConfigError, match=r"strategy='fsdp'.*requires a GPU"):
        notes(strategy="fsdp", gpus=2)
    on_gpus = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda", 0)), world_size=2)
    with pytest.raises(ConfigError, match=r"strategy='fsdp' and gradient_clip_val=1\.0"):
        check_devices(load_config("tiny.py", {"strategy": "fsdp", "gradient_clip_val": 1.0}), on_gpus)
    with pytest.raises(ConfigError, match=r"strategy='fsdp' and test_window=64"):
        check_devices(load_config("tiny.py", {"strategy": "fsdp", "test_window": 64}), on_gpus)
    told = check_devices(load_config("tiny.py", {"sync_batchnorm": True}), on_gpus)
    assert told[0] == "sync_batchnorm=True changes nothing: the network has no batch normalisation"
    assert not any("sync" in n for n in check_devices(
        load_config("tiny.py", {"sync_batchnorm": True, "backbone": "test_resnet"}), on_gpus))  # fmt: skip


@pytest.mark.parametrize(("backbone", "loses"), [("tf_efficientnet_lite0", True), ("test_resnet", False)])
def test_synchronised_layers_are_the_same_layers(backbone: str, loses: bool) -> None:
    torch.manual_seed(0)
    net = DynamicDictionaryLearning(backbone, 3, stages=1, width=32, drop_path_rate=0.0).train()
    image = torch.randn(2, 3, 64, 64)
    plain = copy.deepcopy(net)
    expected = plain(image).logits
    tensors = dict(net.named_parameters())
    converted = SyncBatchNorm().apply(net)
    layers = [module for module in converted.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert len(layers) > 10
    assert len(layers) == sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    torch.testing.assert_close(converted(image).logits, expected, rtol=0, atol=0)
    torch.testing.assert_close(converted.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert all(value is tensors[name] for name, value in converted.named_parameters()), "the optimiser's own"
    assert SyncBatchNorm().revert(converted) is converted
    by_torch = nn.SyncBatchNorm.convert_sync_batchnorm(plain)(image).logits
    assert torch.allclose(by_torch, expected, atol=1e-3) != loses, "torch's own conversion drops timm's activations"


def runner(*codes: str) -> tuple[Any, list["subprocess.Popen[bytes]"]]:
    """What stands for a trainer that has started Python processes with this code."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", code]) for code in codes]
    trainer = SimpleNamespace(
        world_size=1 + len(codes), strategy=SimpleNamespace(launcher=SimpleNamespace(procs=processes))
    )
    return trainer, processes


ENDLESS = "import time; time.sleep(600)"


def test_an_error_here_ends_the_others() -> None:
    trainer, processes = runner(ENDLESS, ENDLESS)
    with pytest.raises(ConfigError, match="mine"), ending_together(trainer):
        raise ConfigError("mine")
    assert [process.wait(20) for process in processes] == [-9, -9]


def test_the_process_that_failed_is_named() -> None:
    trainer, processes = runner(ENDLESS, "raise SystemExit(2)")
    processes[1].wait(60)
    with pytest.raises(D2LSError, match="process 2 of this run ended with exit code 2"), ending_together(trainer):
        raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:1234")
    assert processes[0].wait(20) == -9


def test_other_errors_stay_what_they_are() -> None:
    trainer, processes = runner(ENDLESS)
    with pytest.raises(RuntimeError, match="shapes"), ending_together(trainer):
        raise RuntimeError("shapes do not fit")
    assert processes[0].wait(20) == -9
