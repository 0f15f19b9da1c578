"""ONNX and torch.export give PyTorch's probabilities for images of any size."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from d2ls.cli.common import run_main
from d2ls.cli.export import main
from d2ls.data.sets import vaihingen
from d2ls.data.spec import DatasetSpec
from d2ls.errors import CheckpointError, ConfigError, DataError
from d2ls.export.facts import ModelFacts
from d2ls.export.graph import export_program, write_program
from d2ls.export.onnx_file import write_int8, write_onnx
from d2ls.export.onnx_model import OnnxModel
from tests.export import graphs  # registers test_swin
from tests.test_checkpoint import network, save

ROOT = Path(__file__).resolve().parents[2]
INFRARED = DatasetSpec(
    name="infrared", classes=("water", "land", "ice"), colours=((0, 0, 255), (0, 255, 0), (255, 255, 255)),
    ignore_index=255, bands=("blue", "nir"), dtype="uint16", mean=(900.0, 2000.0), std=(300.0, 700.0),
)  # fmt: skip


@dataclass
class Exported:
    """A network, its traced program, and a folder with both files."""

    net: nn.Module
    spec: DatasetSpec
    program: ExportedProgram
    folder: Path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    yield export("test_convnext", tmp_path_factory.mktemp("tiny"))


def export(backbone: str, folder: Path, spec: DatasetSpec = vaihingen.SPEC) -> Exported:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # A width that folds the attention's projections into the entries, as every shipped config does.
        net = network(backbone=backbone, width=96, in_channels=len(spec.bands), num_classes=spec.num_classes).eval()
    program = export_program(net, spec)
    facts = ModelFacts(arguments=net.arguments, spec=spec, window=96, resolution=0.09)
    write_onnx(program, facts, folder / "model.onnx")
    write_program(program, facts, folder / "model.pt2")
    return Exported(net, spec, program, folder)


def assert_same(made: Exported, number: int = 20) -> None:
    model, module = OnnxModel(made.folder / "model.onnx"), made.program.module()
    for image in graphs.images(number):
        wanted = graphs.expected(made.net, made.spec, image)
        assert wanted.shape[2:] == image.shape[2:]
        np.testing.assert_allclose(model(image), wanted, atol=1e-4)
        np.testing.assert_allclose(module(torch.from_numpy(image)).numpy(), wanted, atol=1e-4)


def test_any_size_gives_the_same_probabilities(tiny: Exported) -> None:
    assert_same(tiny)


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        "test_resnet",
        "test_efficientnet",
        "test_swin",
        "test_vit",
        "eva02_tiny_patch14_224",
        "tf_mobilenetv3_small_minimal_100",
    ],
)
def test_other_families(backbone: str, tmp_path: Path) -> None:
    assert_same(export(backbone, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone", ["convnext_tiny", "resnet50", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"]
)
def test_whole_backbones(backbone: str, tmp_path: Path) -> None:
    assert_same(export(backbone, tmp_path), number=5)


@pytest.mark.slow
def test_16_bit_bands(tmp_path: Path) -> None:
    made = export("test_resnet", tmp_path, INFRARED)
    image = np.random.default_rng(0).integers(0, 10000, (1, 2, 45, 51), dtype=np.uint16)
    wanted = graphs.expected(made.net, INFRARED, image)
    np.testing.assert_allclose(OnnxModel(tmp_path / "model.onnx")(image), wanted, atol=1e-4)
    assert torch.allclose(made.program.module()(torch.from_numpy(image)), torch.from_numpy(wanted), atol=1e-4)


def test_the_file_describes_itself(tiny: Exported) -> None:
    model = OnnxModel(tiny.folder / "model.onnx")
    assert model.classes == vaihingen.SPEC.classes
    assert model.colours == vaihingen.SPEC.colours
    assert model.bands == ("red", "green", "blue")
    assert (model.window, model.resolution) == (96, 0.09)
    proto = onnx.load(tiny.folder / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    sizes = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*proto.graph.input, *proto.graph.output)
    ]
    assert sizes == [["batch", 3, "height", "width"], ["batch", 6, "height", "width"]]
    assert str(ROOT).encode() not in (tiny.folder / "model.onnx").read_bytes(), "no paths of the machine"


def test_images_that_do_not_fit_and_files_that_are_no_models(tiny: Exported, tmp_path: Path) -> None:
    model = OnnxModel(tiny.folder / "model.onnx")
    for image in (np.zeros((1, 4, 8, 8), np.uint8), np.zeros((1, 3, 8, 8), np.float32), np.zeros((3, 8, 8), np.uint8)):
        with pytest.raises(DataError, match=r"model\.onnx takes uint8 images \(B, 3, H, W\)"):
            model(image)
    with pytest.raises(CheckpointError, match=r"no file .*gone\.onnx"):
        OnnxModel(tmp_path / "gone.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"bad\.onnx cannot be read"):
        OnnxModel(tmp_path / "bad.onnx")
    proto = onnx.load(tiny.folder / "model.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "bare.onnx")
    with pytest.raises(CheckpointError, match=r"bare\.onnx does not say what its classes"):
        OnnxModel(tmp_path / "bare.onnx")


def test_int8_is_smaller_and_close(tiny: Exported, tmp_path: Path) -> None:
    write_int8(tiny.folder / "model.onnx", tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size < (tiny.folder / "model.onnx").stat().st_size
    model = OnnxModel(tmp_path / "int8.onnx")
    assert model.classes == vaihingen.SPEC.classes
    for image in graphs.images(3):
        assert np.abs(model(image) - graphs.expected(tiny.net, tiny.spec, image)).max() < 0.02


def test_running_it_needs_no_torch(tiny: Exported) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['timm'] = None; import numpy as np;"
        "from d2ls.export.onnx_model import OnnxModel;"
        f"print(OnnxModel({str(tiny.folder / 'model.onnx')!r})(np.zeros((1, 3, 9, 11), np.uint8)).shape)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "(1, 6, 9, 11)"


def test_the_program_needs_torch_alone(tiny: Exported) -> None:
    code = (
        "import sys; sys.modules['d2ls'] = sys.modules['timm'] = None; import json, torch; extra = {'d2ls.json': ''};"
        f"net = torch.export.load({str(tiny.folder / 'model.pt2')!r}, extra_files=extra).module();"
        "image = torch.arange(2 * 3 * 41 * 30).reshape(2, 3, 41, 30).to(torch.uint8);"
        "print(json.dumps([json.loads(extra['d2ls.json'])['num_classes'], net(image).flatten().tolist()]))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    classes, values = json.loads(result.stdout)
    assert classes == 6
    image = (np.arange(2 * 3 * 41 * 30) % 256).reshape(2, 3, 41, 30).astype(np.uint8)
    np.testing.assert_allclose(values, graphs.expected(tiny.net, tiny.spec, image).flatten(), atol=1e-4)


@pytest.mark.slow
def test_half_precision(tmp_path: Path) -> None:
    net = network().eval()
    write_onnx(
        export_program(net, vaihingen.SPEC, half=True),
        ModelFacts(arguments=net.arguments, spec=vaihingen.SPEC),
        tmp_path / "half.onnx",
    )
    model = OnnxModel(tmp_path / "half.onnx")
    for image in graphs.images(5):
        assert np.abs(model(image) - graphs.expected(net, vaihingen.SPEC, image)).max() < 5e-3


def test_names_and_options(tiny: Exported, tmp_path: Path) -> None:
    facts = ModelFacts(arguments={}, spec=vaihingen.SPEC)
    with pytest.raises(ConfigError, match=r"model\.txt: expected a name that ends in \.onnx"):
        write_onnx(tiny.program, facts, tmp_path / "model.txt")
    with pytest.raises(ConfigError, match=r"model\.txt: expected a name that ends in \.pt2"):
        write_program(tiny.program, facts, tmp_path / "model.txt")
    path = save(tmp_path / "a.ckpt", tiny.net)
    for words in ([], ["--int8", "x.onnx"], ["--onnx", "x.onnx", "--int8", "y.onnx", "--half"], ["--push", "a/b"]):
        with pytest.raises(SystemExit) as stop:
            run_main(main, [str(path), *words])
        assert stop.value.code == 2
    assert run_main(main, [str(path), "--onnx", str(tmp_path / "x.txt")]) == 2


def test_what_cannot_be_traced_is_named() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.arguments = {"backbone": "mine"}

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image if image.shape[-1] == 1437 else -image

    with pytest.raises(ConfigError, match=r"backbone='mine' cannot be exported for every image size"):
        export_program(Branching(), vaihingen.SPEC)
