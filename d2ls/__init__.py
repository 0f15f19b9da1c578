"""Dynamic dictionary learning for semantic segmentation of aerial and satellite images.

The names in `__all__` are imported from their modules at first use: `import d2ls` itself loads no torch.
"""

from importlib import import_module
from typing import Any

from d2ls.version import __version__

_EXPORTS = {
    "D2LSLoss": "d2ls.losses",
    "DatasetSpec": "d2ls.data.spec",
    "DynamicDictionaryLearning": "d2ls.models",
    "SegmentationDataset": "d2ls.data.dataset",
    "SegmentationMetrics": "d2ls.metrics",
    "SegmentationModule": "d2ls.training.module",
    "load_config": "d2ls.config",
    "load_model": "d2ls.inference.library",
    "load_reference_weights": "d2ls.models",
    "predict": "d2ls.inference.library",
}
"""Public names and the modules that define them; `__init__.pyi` holds the same for type checkers."""

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604  (the rest are strings too)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'd2ls' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
