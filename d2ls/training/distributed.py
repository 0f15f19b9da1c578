"""Runs on several devices: checks of settings, synchronised batch normalisation, a common end."""

import contextlib
import subprocess
from collections.abc import Iterator

import pytorch_lightning as pl
from pytorch_lightning.plugins.layer_sync import LayerSync
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import RandomSampler, SequentialSampler

from d2ls.config import Settings
from d2ls.errors import ConfigError, D2LSError

END_TIMEOUT = 3.0  # seconds until a process that has failed is taken to have ended
_BROKEN = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")  # what torch says of lost processes


class SyncBatchNorm(LayerSync):
    """Batch normalisation over the joint batch of all processes.

    timm's normalisation layers carry their activation, which torch's own conversion drops and timm's keeps. Weights
    and statistics stay the same tensors of the same names.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert the layers, in place."""
        return convert_sync_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Return the model as it is: outside a distributed run these layers are plain ones."""
        return model


def check_devices(settings: Settings, trainer: pl.Trainer) -> list[str]:
    """Refuse settings that the chosen devices and strategy cannot serve; gives notes for the user."""
    device = trainer.strategy.root_device.type
    for name in ("train_loader", "val_loader") if trainer.world_size > 1 else ():
        sampler = getattr(getattr(settings, name), "sampler", None)
        if isinstance(sampler, RandomSampler | SequentialSampler):
            raise ConfigError(
                f"{name}: its {type(sampler).__name__} gives all images to each of {trainer.world_size} processes. "
                "Make the loader with d2ls.data.loaders, or give it torch's DistributedSampler."
            )
    if settings.sync_batchnorm and trainer.world_size > 1 and device != "cuda":
        raise ConfigError(
            f"sync_batchnorm=True: torch normalises over {trainer.world_size} processes on GPUs only, and these run on "
            f"accelerator={device!r}. Set sync_batchnorm=False, or gpus=1."
        )
    if settings.strategy.startswith("fsdp") and settings.gradient_clip_val is not None:
        raise ConfigError(
            f"strategy={settings.strategy!r} and gradient_clip_val={settings.gradient_clip_val}: Lightning cannot clip "
            "the norm of gradients that lie on several devices. Set gradient_clip_val=None, or strategy='ddp'."
        )
    if settings.strategy.startswith("fsdp") and settings.test_window is not None:
        raise ConfigError(
            f"strategy={settings.strategy!r} and test_window={settings.test_window}: the processes would wait for each "
            "other where their validation images have different numbers of windows. Set test_window=None for training; "
            "the test scripts take --window."
        )
    notes = []
    if settings.sync_batchnorm and not any(isinstance(module, _BatchNorm) for module in settings.net.modules()):
        notes.append("sync_batchnorm=True changes nothing: the network has no batch normalisation")
    each, steps = getattr(settings.train_loader, "batch_size", None), settings.accumulate_grad_batches
    if trainer.world_size > 1 and each is not None:  # a loader with a batch sampler of its own does not tell
        product = f"{trainer.world_size} processes x {each} images" + (f" x {steps} batches" if steps > 1 else "")
        notes.append(f"a step learns from {trainer.world_size * each * steps} images ({product}); lr is taken as it is")
    return notes


@contextlib.contextmanager
def ending_together(trainer: pl.Trainer) -> Iterator[None]:
    """End all processes that this one has started where one of them fails, and name one that was lost."""
    try:
        yield
    except Exception as error:
        processes = list(getattr(trainer.strategy.launcher, "procs", []))  # by rank, from 1; none under torchrun, Slurm
        lost = trainer.world_size > 1 and is_lost_connection(error)
        told = _lost(processes) if lost else ""
        for process in processes:
            process.kill()  # one that waits for another one's data hears nothing else
        if lost:
            raise D2LSError(told) from error
        raise


def is_lost_connection(error: Exception) -> bool:
    """Whether torch says by this error that another process of the run has gone."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _BROKEN)


def killed_reader(error: BaseException) -> RuntimeError | None:
    """The error of a killed process that reads images, which torch raises in whatever code is running then."""
    for found in (error, error.__context__):
        if isinstance(found, RuntimeError) and "DataLoader worker (pid" in str(found):
            return found
    return None


def _lost(processes: list[subprocess.Popen[bytes]]) -> str:
    for rank, process in enumerate(processes, start=1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            if code := process.wait(END_TIMEOUT):
                how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                return f"process {rank} of this run {how}; what went wrong stands above."
    return "another process of this run has ended, and this one with it; what went wrong stands in its output."
