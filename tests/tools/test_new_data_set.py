"""A new data set is one module and one config: every tool and script knows it then."""

import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2ls.cli import check, test, train
from d2ls.cli.common import run_main
from d2ls.data import sets
from d2ls.errors import ConfigError
from tests.preparation import oracle
from tests.preparation.fake_archives import encode, write_zip
from tests.tiny import write_config
from tests.tools.conftest import ROOT

MODULE = '''"""Mars: dust and rocks."""

from functools import partial
from pathlib import PurePosixPath

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.pairs import match
from d2ls.data.root import data_root
from d2ls.data.sets.facts import DatasetFacts, Server, Views
from d2ls.data.sets.layout import ImageFolder, MaskFolder, plan_by_path
from d2ls.data.spec import DatasetSpec

SPEC = DatasetSpec(name="mars", classes=("dust", "rock"), colours=((200, 90, 20), (60, 60, 60)), ignore_index=255)


def pairs(split):
    folder = data_root() / "mars" / split
    return match(folder / "images", folder / "masks", "Land first.")


def train(protocol="strict", **changes):
    return SegmentationDataset(SPEC, partial(pairs, "train"), augmentation=Augmentation(**changes))


def val(protocol="strict"):
    return SegmentationDataset(SPEC, partial(pairs, "val"))


def test():
    return SegmentationDataset(SPEC, partial(pairs, "test"))


def folders(home):
    return [ImageFolder(s, home / s / "images", (MaskFolder(home / s / "masks"),)) for s in ("train", "val", "test")]


FACTS = DatasetFacts(
    spec=SPEC, val=val, test=test, d4=Views(hflip=True, scales=(0.5, 1.0)), home="mars", folders=folders,
    downloads="mars.zip",
    plan=plan_by_path(lambda path: PurePosixPath("mars", *path.parts[-3:]), ("images", "masks")),
    server=Server(SPEC, {"a.png": ((48, 48),)}, coloured=False, official=1, folder="mars/test"),
)
'''


@pytest.fixture
def mars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The data root of a working folder with the module in it; the downloads lie in `downloads`."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mars.py").write_text(MODULE)
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(tmp_path / "modules")])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2LS_DATA", "data")
    members = {}
    for split, number in (("train", 4), ("val", 2), ("test", 2)):
        for at in range(number):
            rng = np.random.default_rng([ord(split[1]), at])
            mask = np.kron(rng.integers(2, size=(6, 6), dtype=np.uint8), np.ones((8, 8), np.uint8))
            image = np.clip(mask[..., None] * 100 + rng.integers(100, size=(48, 48, 3)), 0, 255).astype(np.uint8)
            members[f"{split}/images/{split}{at}.png"] = encode(image, "PNG")
            members[f"{split}/masks/{split}{at}.png"] = encode(mask, "PNG")
    write_zip(tmp_path / "downloads" / "mars.zip", members)
    yield tmp_path / "data"
    sys.modules.pop("d2ls.data.sets.mars", None)
    vars(sets).pop("mars", None)


def test_it_is_prepared_checked_trained_and_tested(
    mars: Path, call_tool: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "mars" in sets.names()
    code, out, _ = call_tool("prepare_data.py", "mars", "--from", "downloads", "--to", mars)
    assert code == 0, out
    assert len(list((mars / "mars" / "train" / "images").iterdir())) == 4
    config = write_config(Path(), ("import vaihingen", "import mars"), ("vaihingen.", "mars."), ("val_F1", "val_mIoU"))
    for words in (["mars"], ["-c", str(config)]):
        assert run_main(check.main, [*words, "--json", "--workers", "1"]) == 0
        assert json.loads(capsys.readouterr().out)["ok"]
    assert run_main(train.main, ["-c", str(config), "max_epoch=1"]) == 0
    words = ["-c", str(config), "-o", "out", "-t", "d4", "--submission", "mars.zip"]
    assert run_main(test.script("mars"), words) == 0
    record = json.loads(Path("out/metrics.json").read_text())
    assert record["run"]["views"] == {"mode": "d4", "number": 4, "scales": [0.5, 1.0]}
    assert oracle.read(Path("out/test0.png")).shape == (48, 48)
    with zipfile.ZipFile("mars.zip") as archive:
        assert archive.namelist() == ["test0.png", "test1.png"]
    assert call_tool("check_submission.py", "mars", "mars.zip")[0] == 0


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'mars'.*cloud, dubai"):
        sets.find("mars")


def test_every_set_has_a_config_and_a_script() -> None:
    for name in sets.names():
        assert (ROOT / "config" / name / "d2ls.py").is_file()
        assert (ROOT / f"test_{name}.py").is_file()
        assert sets.find(name).plan is not None
