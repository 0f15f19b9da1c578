"""Damaged files of every kind: no hang, no crash, and never a wrong score or a wrong weight in silence.

The number of cases is for each kind of file; `-m slow` tries many more.
"""

import json
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from d2ls.config import parse_overrides
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.io import write_png
from d2ls.data.labels import index_to_colours, read_colour_mask, read_index_mask
from d2ls.data.pairs import Pair
from d2ls.data.sets import cloud, dubai
from d2ls.data.sets.facts import Server
from d2ls.errors import CheckpointError, ConfigError, DataError
from d2ls.inference import submission
from d2ls.inference.evaluate import predict
from d2ls.inference.predictor import Classes
from d2ls.inference.results import Masks
from d2ls.models.weight_files import load_file
from d2ls.preparation.archives import Sources
from tests.data.folders import labels, picture
from tests.fuzz.mutate import MUTATIONS, flip_bits, overwrite
from tests.fuzz.readers import damaged

ROOT = Path(__file__).parents[2]
SIZES = [pytest.param(1, id="few"), pytest.param(10, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("size", SIZES)
def test_decoders(size: int) -> None:
    """In a process of its own: a decoder that crashes or hangs must not take the tests along."""
    command = [sys.executable, "-m", "tests.fuzz.readers", "--seed", str(size), "--cases", str(60 * size)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60 + 60 * size)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout)
    assert counts.keys() == {"cases", "refused", "exact", "read"}, counts
    assert counts["cases"] == 60 * size * 28
    assert counts["refused"] > counts["exact"] > 0


LABELS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "png": write_png,
    "png of Pillow": lambda path, index: Image.fromarray(index).save(path),
    "colours": lambda path, index: write_png(path, index_to_colours(index, dubai.SPEC)),
    "deflated tiff": lambda path, index: Image.fromarray(index).save(path, format="TIFF", compression="tiff_deflate"),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", LABELS)
def test_a_damaged_label_gives_an_error_or_the_exact_score(kind: str, size: int, tmp_path: Path) -> None:
    spec, read = (dubai.SPEC, read_colour_mask) if kind == "colours" else (cloud.SPEC, read_index_mask)
    truth = labels(32, 48, 1)
    write_png(tmp_path / "image.png", picture(32, 48, 0))
    path = tmp_path / "label.png"
    LABELS[kind](path, truth)
    whole = path.read_bytes()

    def score() -> torch.Tensor:
        dataset = SegmentationDataset(spec, lambda: [Pair(tmp_path / "image.png", path, "a")], read_mask=read)
        guess = [Classes(torch.from_numpy(labels(32, 48, 2)), torch.tensor(True))]
        found = predict(dataset, lambda _: guess, Masks(tmp_path / "out", spec), workers=1)
        return found.total["confusion"]

    exact, counts, rng = score(), Counter[str](), np.random.default_rng(size)
    for _ in range(50 * size):
        path.write_bytes(damaged(whole, rng, strip="tiff" in kind))
        try:
            found = score()
        except DataError as error:
            counts["refused"] += str(path) in str(error)
        else:
            counts["exact"] += torch.equal(found, exact)
    assert counts.total() == 50 * size, counts
    assert counts["refused"]


@pytest.mark.parametrize("size", SIZES)
def test_checkpoints(size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    content = {"state_dict": {f"layer{n}.weight": torch.randn(20, 30) for n in range(4)}, "d2ls": {"format": 1}}
    path = tmp_path / "a.ckpt"
    torch.save(content, path)
    whole, rng, counts = path.read_bytes(), np.random.default_rng(size), Counter[str]()
    for number in range(150 * size):
        mutation = list(MUTATIONS.values())[number % len(MUTATIONS)]
        path.write_bytes(mutation(whole, rng))
        try:
            found = load_file(path)
        except CheckpointError as error:
            counts["refused"] += str(path) in str(error)
        else:
            weights = found["state_dict"]
            counts["exact"] += all(torch.equal(weights[name], value) for name, value in content["state_dict"].items())
    assert counts.total() == 150 * size, counts
    assert counts["refused"] > counts["exact"]


def packed(path: Path, members: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path.read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_archives(size: int, tmp_path: Path) -> None:
    """A member comes out as it went in, or not at all; its name may be another one: names have no checksum."""
    rng = np.random.default_rng(size)
    members = {f"folder/{n}.tif": rng.integers(4, size=900, dtype=np.uint8).tobytes() for n in range(3)}
    (tmp_path / "in").mkdir()
    (tmp_path / "scratch").mkdir()
    path = tmp_path / "in" / "a.zip"
    inner = packed(path, members)
    whole, counts = packed(path, {"inner.zip": inner, **members}), Counter[str]()
    for number in range(150 * size):
        mutation = list(MUTATIONS.values())[number % len(MUTATIONS)]
        path.write_bytes(mutation(whole, rng))
        try:
            with Sources(tmp_path / "in", tmp_path / "scratch") as sources:
                for entry in sources.files():
                    with entry.open() as file:
                        known = file.read() in members.values() or entry.path.suffix != ".tif" or entry.size == 0
                    assert known, entry.path
        except DataError as error:
            counts["refused"] += "a.zip" in str(error)
        else:
            counts["exact"] += 1
    assert counts.total() == 150 * size, counts
    assert counts["refused"]


@pytest.mark.parametrize("size", SIZES)
def test_submissions(size: int, tmp_path: Path) -> None:
    index = labels(16, 16, 0)
    write_png(tmp_path / "1.png", index)
    expected = Server(cloud.SPEC, {"1.png": ((16, 16),)}, coloured=False, official=1)
    path = tmp_path / "a.zip"
    whole, rng = packed(path, {"1.png": (tmp_path / "1.png").read_bytes()}), np.random.default_rng(size)
    assert submission.check(path, expected) == []
    counts = Counter[str]()
    for number in range(100 * size):
        mutation = (*MUTATIONS.values(), flip_bits, overwrite)[number % (len(MUTATIONS) + 2)]
        path.write_bytes(mutation(whole, rng))
        try:
            problems = submission.check(path, expected)
        except DataError:
            counts["refused"] += 1
        else:
            counts["problems" if problems else "exact"] += 1
    assert counts.total() == 100 * size


@given(words=st.lists(st.text(max_size=20) | st.from_regex(r"[a-z_]+=.{0,12}", fullmatch=True), max_size=3))
def test_words_of_a_command_line(words: list[str]) -> None:
    try:
        found = parse_overrides(words)
    except ConfigError as error:
        assert any(
            word in str(error) or repr(word) in str(error) or word.partition("=")[0] in str(error) for word in words
        )
    else:
        assert list(found) == [word.partition("=")[0] for word in words]
