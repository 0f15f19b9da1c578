"""Kernels, bytes and host waits of a step, counted on the meta device, which takes an accelerator's paths."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FREE = {"detach", "alias", "_unsafe_view", "_reshape_alias", "lift_fresh", "promote_types"}
WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "bincount", "equal"}


class KernelCount(TorchDispatchMode):
    """Counts operations that start a kernel on an accelerator.

    Attributes:
        kernels: by name.
        waits: operations for which the host waits, by name.
        moved: bytes that kernels read and write at least.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.moved = 0

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        name = function._schema.name.removeprefix("aten::")
        self.waits[name] += name in WAITS
        result = function(*args, **(kwargs or {}))
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        if not (view or name in FREE or "empty" in name):
            self.kernels[name] += 1
            tensors = {id(x): x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)}
            self.moved += sum(_bytes(tensor) for tensor in tensors.values())
        return result


def count(function: Callable[[], Any]) -> dict[str, float]:
    """Kernels, gigabytes moved and host waits of a call on meta tensors, in float32."""
    with _without_autocast(), KernelCount() as counted:
        function()
    return {
        "kernels": counted.kernels.total(),
        "gigabytes": counted.moved / 1e9,
        "host waits": counted.waits.total(),
    }


@contextmanager
def _without_autocast() -> Iterator[None]:
    """The meta device has no automatic precision, and no answer to the question."""
    asked = torch.is_autocast_enabled

    def enabled(kind: str | None = None) -> bool:
        return kind != "meta" and (asked() if kind is None else asked(kind))

    with mock.patch.object(torch, "is_autocast_enabled", enabled):
        yield


def _bytes(tensor: Tensor) -> int:
    """Of the elements themselves; those that are expanded count once."""
    elements = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= length if stride else 1
    return elements * tensor.element_size()
