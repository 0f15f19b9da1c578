"""Import names of older configs, such as `d2ls.datasets.loading`: each is an alias that warns and names the new one."""

import pkgutil
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

_DATA = Path(__file__).parents[1] / "data"
_MODULES = {
    **{found.name: f"d2ls.data.{found.name}" for found in pkgutil.iter_modules([str(_DATA)])},
    **{found.name: f"d2ls.data.sets.{found.name}" for found in pkgutil.iter_modules([str(_DATA / "sets")])},
    "files": "d2ls.data.io", "loading": "d2ls.data.loaders", "segmentation": "d2ls.data.dataset",
    "transforms": "d2ls.data.augment", "demo": "d2ls.synthetic.demo", "synthetic": "d2ls.synthetic",
}  # fmt: skip
_NAMES = {"Recipe": "Augmentation", "RECIPE": "AUGMENTATION", "Draw": "SampleRequest"}


class _Alias(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by Python itself
            raise AttributeError(name)
        new, new_name = _MODULES[self.__name__.rpartition(".")[2]], _NAMES.get(name, name)
        warnings.warn(f"{self.__name__}.{name} is {new}.{new_name} now.", DeprecationWarning, stacklevel=2)
        found = getattr(import_module(new), new_name)
        return _with_recipe(found) if name == "SegmentationDataset" else found


def _with_recipe(dataset: Any) -> Any:
    """The class as a function that takes the older keyword `recipe`, too."""
    return lambda *args, recipe=None, **options: dataset(*args, **{"augmentation": recipe, **options})


for _name in _MODULES:
    sys.modules[f"{__name__}.{_name}"] = globals()[_name] = _Alias(f"{__name__}.{_name}")
