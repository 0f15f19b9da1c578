"""predict.py with an exported ONNX file gives the map of the checkpoint, and runs no network of PyTorch."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
import torch

from d2ls.checkpoint import read_checkpoint
from d2ls.data.sets import vaihingen
from d2ls.data.spec import DatasetSpec
from d2ls.export.facts import ModelFacts
from d2ls.export.graph import export_program
from d2ls.export.onnx_file import write_int8, write_onnx, write_tile_onnx
from d2ls.export.onnx_model import OnnxModel
from d2ls.inference.raster import NODATA
from d2ls.models import DynamicDictionaryLearning
from tests.cli.test_predict import SMALL, CheckpointOf, files, read, run, write_scene
from tests.export import graphs

FORMS = ("float32", "float16", "int8")


@pytest.fixture(scope="module")
def exported(checkpoint: CheckpointOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the forms of one checkpoint, and a tile for map software in a folder of its own."""
    folder = tmp_path_factory.mktemp("exported")
    saved = read_checkpoint(checkpoint(vaihingen.SPEC))
    net, facts = saved.build(), ModelFacts.from_checkpoint(saved)
    for half, name in ((False, "float32"), (True, "float16")):
        write_onnx(export_program(net, vaihingen.SPEC, half=half), facts, folder / f"{name}.onnx")
    write_int8(folder / "float32.onnx", folder / "int8.onnx")
    (folder / "qgis").mkdir()
    write_tile_onnx(net, facts, folder / "qgis" / "tile.onnx", tile=64)
    return folder


@pytest.fixture
def no_network_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network of PyTorch was built")

    monkeypatch.setattr(DynamicDictionaryLearning, "__init__", refuse)


def top_two(shares: np.ndarray) -> np.ndarray:
    """Difference of the two largest values of each pixel, of (K, H, W)."""
    largest = np.sort(shares.astype(float), axis=0)
    return largest[-1] - largest[-2]


@pytest.mark.usefixtures("no_network_of_pytorch")
@pytest.mark.parametrize("form", FORMS)
def test_the_map_is_that_of_the_file_run_by_hand(form: str, exported: Path, tmp_path: Path) -> None:
    pixels = write_scene(tmp_path / "a.tif", nodata=0)
    path = exported / f"{form}.onnx"
    assert run("-w", path, "-i", tmp_path / "a.tif", "-o", tmp_path / "out") == 0
    shares = OnnxModel(path, providers=["CPUExecutionProvider"])(pixels[None])[0]
    found, missing = read(tmp_path / "out" / "a.tif")[0], (pixels == 0).all(axis=0)
    assert (found[missing] == NODATA).all()
    clear = (top_two(shares) > 1e-4) & ~missing
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(found[clear], shares.argmax(axis=0)[clear])


def test_the_map_is_that_of_the_checkpoint_pixel_by_pixel(
    exported: Path, checkpoint: CheckpointOf, tmp_path: Path
) -> None:
    pixels, weights = write_scene(tmp_path / "a.tif"), checkpoint(vaihingen.SPEC)
    for name, file in (("torch", weights), ("onnx", exported / "float32.onnx")):
        assert run("-w", file, "-i", tmp_path / "a.tif", "-o", tmp_path / name) == 0
    clear = top_two(graphs.expected(read_checkpoint(weights).build(), vaihingen.SPEC, pixels[None])[0]) > 1e-4
    assert clear.mean() > 0.9
    found, expected = (read(tmp_path / name / "a.tif")[0] for name in ("onnx", "torch"))
    np.testing.assert_array_equal(found[clear], expected[clear])


@pytest.mark.parametrize(("words", "levels"), [(("-t", "d4"), 1), (("-b", "3"), 1), (("--scale", "0.5"), 3)])
def test_windows_views_and_scales_are_those_of_the_checkpoint(
    words: tuple[str, ...], levels: int, exported: Path, checkpoint: CheckpointOf, tmp_path: Path
) -> None:
    """Classes differ only where probabilities, stored in levels of 1/250, tie; resized images are rounded."""
    write_scene(tmp_path / "a.tif")
    for name, file in (("torch", checkpoint(vaihingen.SPEC)), ("onnx", exported / "float32.onnx")):
        more = (*SMALL, "--probabilities", *words)
        assert run("-w", file, "-i", tmp_path / "a.tif", "-o", tmp_path / name, *more) == 0
    shares, other = (read(tmp_path / name / "a.probabilities.tif").astype(int) for name in ("torch", "onnx"))
    assert np.abs(shares - other).max() <= levels
    different = (read(tmp_path / "torch" / "a.tif") != read(tmp_path / "onnx" / "a.tif"))[0]
    assert top_two(shares)[different].max(initial=0) <= 2 * levels


def test_windows_follow_from_the_training_samples(checkpoint: CheckpointOf, tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif")
    saved = read_checkpoint(checkpoint(vaihingen.SPEC))
    facts = ModelFacts.from_checkpoint(saved, window=96)
    write_onnx(export_program(saved.build(), vaihingen.SPEC), facts, tmp_path / "m.onnx")
    assert run("-w", tmp_path / "m.onnx", "-i", tmp_path / "a.tif", "-o", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "a.json").read_text())["run"]["window"] == 96


def test_float_bands_with_missing_values(tmp_path: Path) -> None:
    """Bands of float32 with NaN: what the network sees there is the band's mean, as with a checkpoint."""
    spec = DatasetSpec(
        name="field", classes=("soil", "crop"), colours=((90, 60, 30), (0, 200, 0)), ignore_index=255,
        bands=("red", "nir"), dtype="float32", mean=(120, 90), std=(60, 30),
    )  # fmt: skip
    net = DynamicDictionaryLearning("test_convnext", 2, in_channels=2, stages=1, width=32).eval()
    write_onnx(export_program(net, spec), ModelFacts(arguments=net.arguments, spec=spec), tmp_path / "m.onnx")
    pixels = write_scene(tmp_path / "a.tif", 70, 90, bands=2, kind="float32", nodata=-1)
    pixels[:, 50:60, 50:60] = np.nan
    with rasterio.open(tmp_path / "a.tif", "r+") as dataset:
        dataset.write(pixels)
    assert run("-w", tmp_path / "m.onnx", "-i", tmp_path / "a.tif", "-o", tmp_path / "out") == 0
    image = torch.from_numpy((pixels - np.array(spec.mean)[:, None, None]) / np.array(spec.std)[:, None, None])
    with torch.no_grad():
        shares = net(image.float().nan_to_num(0)[None])[0].softmax(0).numpy()
    found, known = read(tmp_path / "out" / "a.tif")[0], np.isfinite(pixels[0]) & (pixels[0] != -1)
    assert (found[~known] == NODATA).all()
    clear = (top_two(shares) > 1e-4) & known
    np.testing.assert_array_equal(found[clear], shares.argmax(0)[clear])


@pytest.mark.usefixtures("no_network_of_pytorch")
def test_a_folder_that_holds_an_onnx_file(exported: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif", 40, 50)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "roofs.onnx").write_bytes((exported / "float32.onnx").read_bytes())
    assert run("-w", tmp_path / "model", "-i", tmp_path / "a.tif", "-o", tmp_path / "out") == 0
    assert "a.tif" in files(tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "words", "told"),
    [
        ("foreign", (), "does not say what its classes and bands are"), ("text", (), "cannot be read as an ONNX model"),
        ("missing", (), "no file"), ("tile", (), "tiles of one size"),
        ("float32", ("--precision", "bf16-mixed"), "--precision"), ("float32", ("--device", "mps"), "--device mps"),
        ("float32", ("--device", "cuda"), "CUDAExecutionProvider"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told(
    kind: str, words: tuple[str, ...], told: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path / "a.tif", 40, 50)
    path = exported / "qgis" / "tile.onnx" if kind == "tile" else exported / f"{kind}.onnx"
    if kind == "foreign":
        model = onnx.load(exported / "float32.onnx")
        del model.metadata_props[:]
        path = tmp_path / "foreign.onnx"
        onnx.save(model, path)
    elif kind == "text":
        path = tmp_path / "text.onnx"
        path.write_text("no model")
    if told in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    assert run("-w", path, "-i", tmp_path / "a.tif", "-o", tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert files(tmp_path / "out") == set()
