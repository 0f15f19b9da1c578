"""Rank and number of a run's processes, and collectives over their tensors."""

import torch
from torch import Tensor, distributed


def rank() -> int:
    """Number of this process among those of torch.distributed, from 0."""
    return distributed.get_rank() if _is_running() else 0


def world_size() -> int:
    """Number of processes, 1 until Lightning starts torch.distributed."""
    return distributed.get_world_size() if _is_running() else 1


def _is_running() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def all_gather(part: Tensor) -> Tensor:
    """Tensors (...) of W processes, of one shape and type, in the order of their ranks: (W, ...), without gradient.

    It waits for all processes.
    """
    parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(world_size())]
    distributed.all_gather(parts, part.detach().contiguous())
    return torch.stack(parts)


def average(values: Tensor) -> Tensor:
    """The mean over all processes of tensors of one shape, without gradient; it waits for all processes."""
    number = world_size()
    values = values.detach().clone()
    if number > 1:
        distributed.all_reduce(values)
    return values / number


def joined(part: Tensor) -> Tensor:
    """Batches (B, ...) of W processes, of one shape and type, in the order of their ranks: (W * B, ...).

    For losses that every process computes alike from the result. The gradient at this process's batch is W times that
    of its own loss, which is what all W losses add up to there: nothing needs to be sent backwards. Averaged over the
    processes, as DDP and FSDP do with gradients, that is the gradient of the joint loss. It waits for all processes.
    """
    parts = list(all_gather(part))
    parts[rank()] = part.detach() + world_size() * (part - part.detach())
    return torch.cat(parts)
