"""The processes of a run: which this one is, and tensors of all of them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


class Place(NamedTuple):
    """Where a process stands.

    Attributes:
        rank: of this process, from 0.
        number: how many processes there are.
    """

    rank: int
    number: int


def place() -> Place:
    """Where this process stands among those of torch.distributed, which is one alone until Lightning starts it."""
    if distributed.is_available() and distributed.is_initialized():
        return Place(distributed.get_rank(), distributed.get_world_size())
    return Place(0, 1)


def all_gather(part: Tensor) -> Tensor:
    """Tensors (...) of W processes, of one shape and type, in the order of their ranks: (W, ...), without gradient.

    It waits for all processes.
    """
    parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(place().number)]
    distributed.all_gather(parts, part.detach().contiguous())
    return torch.stack(parts)


def average(values: Tensor) -> Tensor:
    """The mean over all processes of tensors of one shape, without gradient; it waits for all processes."""
    number = place().number
    values = values.detach().clone()
    if number > 1:
        distributed.all_reduce(values)
    return values / number


class Gather(torch.autograd.Function):
    """Batches (B, ...) of W processes, of one shape and type, in the order of their ranks: (W * B, ...).

    For losses that every process computes alike from the result. What these W losses add up to as gradient at this
    process's batch is then W times the gradient of its own loss there, and nothing needs to be sent backwards. Averaged
    over the processes, as DDP and FSDP do with gradients, that is the gradient of the one joint loss.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        """Gather; it waits for all processes."""
        ctx.place = place()
        return all_gather(part).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """W times the gradient of this process's batch."""
        own: Place = ctx.place
        return gradients[0].chunk(own.number)[own.rank] * own.number
