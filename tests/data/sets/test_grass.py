from pathlib import Path
from types import ModuleType

import pytest

from d2ls.data.sets import cloud, grass
from d2ls.errors import ConfigError, DataError
from tests.data.folders import write_pair

BOTH = pytest.mark.parametrize("module", [grass, cloud], ids=lambda module: module.SPEC.name)


@BOTH
def test_splits(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2LS_DATA", str(tmp_path))
    top = tmp_path / module.SPEC.name
    with pytest.raises(DataError, match=rf"img_dir/train: no such folder.*prepare_data.py {module.SPEC.name}"):
        len(module.train())
    for number, split in enumerate(("train", "val", "test"), start=1):
        for k in range(number):
            write_pair(top / "img_dir" / split, top / "ann_dir" / split, f"x{k}", size=(16, 16), suffix=".tif")
    for protocol in ("strict", "published"):
        assert (len(module.train(protocol)), len(module.val(protocol))) == (1, 2)
    assert len(module.test()) == (2 if module is grass else 3)
    assert module.train(sharpen=0.0).augmentation.sharpen == 0
    assert module.train()[0]["image"].shape == (3, 16, 16)
    with pytest.raises(ConfigError, match="'all'"):
        module.train("all")
