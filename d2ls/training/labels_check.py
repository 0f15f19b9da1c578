"""A look at some masks before training: do their labels fit the number of classes?"""

from typing import Any

import numpy as np
import torch

from d2ls.config import Settings
from d2ls.errors import ConfigError

SAMPLES = 4  # images of each split


def check_labels(settings: Settings) -> None:
    """Compare the labels of a few training and validation images, evenly spread, with the classes.

    Raises:
        ConfigError: a label is neither a class nor the ignore index; names the image.
        DataError: an image or a mask cannot be read.
    """
    for split in ("train", "val"):
        dataset: Any = getattr(settings, f"{split}_dataset")
        for place in sorted({round(at) for at in np.linspace(0, len(dataset) - 1, SAMPLES)} if len(dataset) else ()):
            with torch.random.fork_rng(devices=[]):
                sample = dataset[place]
            if "mask" in sample:
                _check(settings, split, sample)


def _check(settings: Settings, split: str, sample: Any) -> None:
    labels = torch.as_tensor(sample["mask"]).unique().tolist()
    wrong = [label for label in labels if label != settings.ignore_index and label not in range(settings.num_classes)]
    if wrong:
        raise ConfigError(
            f"{settings.path}: num_classes={settings.num_classes} does not fit the labels of {split}_dataset: the mask "
            f"of {sample['path']} holds {wrong}; expected 0..{settings.num_classes - 1} or "
            f"ignore_index={settings.ignore_index}. Set num_classes and classes as the masks have them."
        )
