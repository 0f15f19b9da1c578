"""What map software reads: Deepness and GeoDeep tiles, and the STAC item."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from pystac.validation.local_validator import get_local_schema_cache
from rasterio.transform import from_origin
from referencing import Registry, Resource
from stac_model.schema import SCHEMA_URI, MLModelProperties
from torch import nn

from d2ls.cli.common import run_main
from d2ls.cli.export import main
from d2ls.data.sets import vaihingen
from d2ls.errors import ConfigError
from d2ls.export.facts import ModelFacts
from d2ls.export.onnx_file import write_tile_onnx
from d2ls.export.stac import MLM, stac_item
from tests.export import graphs
from tests.export.test_graph import INFRARED
from tests.test_checkpoint import network, save

TILE = 64


class ByColour(nn.Module):
    """Six classes that a pixel alone decides: the nearest of six greys."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(-2, 2.2, 6).view(1, 6, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return -20 * (image.mean(dim=1, keepdim=True) - self.centres) ** 2


def write(net: nn.Module, path: Path) -> ModelFacts:
    facts = ModelFacts(arguments={}, spec=vaihingen.SPEC, window=TILE, resolution=0.09)
    write_tile_onnx(net, facts, path, tile=TILE)
    return facts


def test_deepness(tmp_path: Path) -> None:
    """The plugin divides by 255, runs one tile and takes the argmax; every value of the metadata is JSON."""
    net = network().eval()
    write(net, tmp_path / "qgis.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "qgis.onnx"), providers=["CPUExecutionProvider"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.shape, taken.type, given.shape) == ([1, 3, TILE, TILE], "tensor(float)", [1, 6, TILE, TILE])
    metadata = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    del metadata["d2ls"]
    assert metadata == {
        "model_type": "Segmentor",
        "class_names": {str(index): name for index, name in enumerate(vaihingen.SPEC.classes)},
        "resolution": 9.0,
        "tile_size": TILE, "tiles_size": TILE, "tiles_overlap": 25,
        "standardization_mean": [0.0, 0.0, 0.0], "standardization_std": [1.0, 1.0, 1.0],
        "seg_thresh": 0.0, "seg_small_segment": 0,
    }  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (1, 3, TILE, TILE), dtype=np.uint8)
    found = session.run(None, {taken.name: (image / 255.0).astype(np.float32)})[0]
    np.testing.assert_allclose(found, graphs.expected(net, vaihingen.SPEC, image), atol=1e-4)


def test_geodeep(tmp_path: Path) -> None:
    """GeoDeep itself, on a GeoTIFF of several tiles (it smooths the mask: blocks, but for their corners)."""
    geodeep = pytest.importorskip("geodeep")
    write(ByColour(), tmp_path / "tile.onnx")
    spec, random = vaihingen.SPEC, np.random.default_rng(0)
    wanted = np.kron(random.integers(0, 6, (6, 8)), np.ones((25, 25), int))
    centres = np.linspace(-2, 2.2, 6)[wanted]
    image = np.stack([centres * s + m for m, s in zip(spec.mean, spec.std, strict=True)]).clip(0, 255).astype(np.uint8)
    profile: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": 3, "photometric": "RGB"}
    transform = from_origin(500000, 5400000, 0.09, 0.09)
    height, width = wanted.shape
    with rasterio.open(
        tmp_path / "a.tif", "w", **profile, height=height, width=width, crs="EPSG:32632", transform=transform
    ) as file:
        file.write(image)
    mask: NDArray[np.uint8] = geodeep.segment(str(tmp_path / "a.tif"), str(tmp_path / "tile.onnx"))
    assert mask.shape == wanted.shape
    assert (mask == wanted).mean() > 0.97
    features = json.loads(geodeep.segment(str(tmp_path / "a.tif"), str(tmp_path / "tile.onnx"), output_type="geojson"))
    names = {feature["properties"]["class"] for feature in features["features"]}
    assert names == {vaihingen.SPEC.classes[index] for index in np.unique(mask)}


def test_other_types_than_8_bit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'infrared' has uint16 images"):
        write_tile_onnx(network(), ModelFacts(arguments={}, spec=INFRARED), tmp_path / "a.onnx", tile=TILE)


def test_stac_item(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", network())
    words = [
        path,
        "-o",
        tmp_path / "roofs",
        "--stac",
        tmp_path / "roofs.json",
        "--resolution",
        0.09,
        "--licence",
        "MIT",
    ]
    assert run_main(main, [str(word) for word in words]) == 0
    item = json.loads((tmp_path / "roofs.json").read_text())
    schemas = {address: Resource.from_contents(schema) for address, schema in get_local_schema_cache().items()}
    core = next(schema for address, schema in get_local_schema_cache().items() if address.endswith("/item.json"))
    jsonschema.Draft7Validator(core, registry=Registry().with_resources(schemas.items())).validate(item)
    assert MLM == SCHEMA_URI
    properties = MLModelProperties.model_validate(item["properties"])
    assert properties.architecture == "D2LS (test_convnext)"
    assert properties.input[0].input.shape == [-1, 3, -1, -1]
    assert properties.input[0].value_scaling is not None
    assert [scaling.mean for scaling in properties.input[0].value_scaling] == list(vaihingen.SPEC.mean)
    classes = properties.output[0].classes
    assert classes is not None
    assert [entry.name for entry in classes] == list(vaihingen.SPEC.classes)
    assert item["properties"]["gsd"] == 0.09
    asset = item["assets"]["weights"]
    assert asset["href"] == "./roofs/model.safetensors"
    assert asset["file:size"] == (tmp_path / "roofs" / "model.safetensors").stat().st_size
    assert properties.total_parameters == sum(parameter.numel() for parameter in network().parameters())


def test_graphs_take_the_values_of_files(tmp_path: Path) -> None:
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), tmp_path / "a.onnx")
    facts = ModelFacts(arguments={"backbone": "x"}, spec=INFRARED)
    item = stac_item(facts, {"onnx": tmp_path / "a.onnx"}, 1, name="a")
    properties = MLModelProperties.model_validate(item["properties"])
    assert properties.input[0].input.data_type == "uint16"
    assert properties.input[0].value_scaling is None
    assert properties.output[0].name == "probabilities"
    assert properties.framework == "ONNX"


def test_stac_options(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", network())
    with pytest.raises(SystemExit):
        run_main(main, [str(path), "--qgis", "a.onnx", "--stac", "a.json"])
    assert run_main(main, [str(path), "-o", str(tmp_path / "m"), "--stac", str(tmp_path / "a.txt")]) == 2
