from pathlib import Path

import numpy as np
import pytest
import torch

from d2ls.data import io as files
from d2ls.data.sets import cloud


def test_real_patches(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2LS_DATA", str(shared_data))
    assert (len(cloud.train()), len(cloud.val()), len(cloud.test())) == (16, 8, 5)
    dataset = cloud.val()
    for number, pair in enumerate(dataset.pairs):
        sample = dataset[number]
        assert np.array_equal(sample["mask"], files.read_index(pair.mask))
        assert int(sample["mask"].max()) <= 3
        assert torch.isfinite(sample["image"]).all()
