"""ONNX files: dynamic for any image, in a fixed tile for map software, and their float16 and int8 variants."""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.onnx import ONNXProgram

from d2ls.data.io import write_bytes
from d2ls.errors import ConfigError, require
from d2ls.export.facts import ModelFacts
from d2ls.export.graph import DIMENSIONS, INPUT, OUTPUT, Deployed
from d2ls.export.onnx_model import EXTRA, METADATA

TILE_OVERLAP = 25  # per cent


def write_onnx(program: ExportedProgram, facts: ModelFacts, path: Path) -> None:
    """Write an ONNX file of images (B, C, H, W) of any size to probabilities (B, K, H, W).

    The program comes from `d2ls.export.graph.export_program`; the facts are stored as JSON in the file's metadata.
    """
    check_onnx(path)
    model = _exported(program)
    for value in (*model.graph.input, *model.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, DIMENSIONS, strict=True):
            if name is not None:
                dimension.dim_param = name
    _write(model, {METADATA: facts.to_config()}, path)


def write_tile_onnx(net: nn.Module, facts: ModelFacts, path: Path, *, tile: int) -> None:
    """Write an ONNX file for QGIS with the Deepness plugin and for GeoDeep: one tile of `tile` pixels a side at a time.

    Both divide 8-bit values by 255 and read the model's metadata, each value of which is JSON.
    """
    check_onnx(path)
    if facts.spec.dtype != "uint8":
        raise ConfigError(
            f"data set {facts.spec.name!r} has {facts.spec.dtype} images; Deepness and GeoDeep scale other types than "
            "uint8 in different ways. Use the file of --onnx."
        )
    example = torch.rand(1, len(facts.spec.bands), tile, tile)
    model = _exported(Deployed(net, facts.spec, unit=255.0).eval(), example)
    _write(model, {METADATA: facts.to_config(), **tile_metadata(facts, tile)}, path)


def tile_metadata(facts: ModelFacts, tile: int) -> dict[str, Any]:
    """Metadata of a tile model under the names that the Deepness plugin and GeoDeep read."""
    channels = len(facts.spec.bands)
    metadata = {
        "model_type": "Segmentor",
        "class_names": {str(index): name for index, name in enumerate(facts.spec.classes)},
        "tile_size": tile,  # read by the plugin's code
        "tiles_size": tile,  # named in its documentation
        "tiles_overlap": TILE_OVERLAP,
        "standardization_mean": [0.0] * channels,  # the graph normalises
        "standardization_std": [1.0] * channels,
        "seg_thresh": 0.0,  # less probable pixels would become class 0
        "seg_small_segment": 0,
    }
    return metadata if facts.resolution is None else metadata | {"resolution": round(100 * facts.resolution, 6)}


def write_int8(source: Path, path: Path) -> None:
    """Write a variant of a float32 file of `write_onnx` whose matrices are int8 (dynamic quantisation)."""
    check_onnx(path)
    import onnx  # noqa: PLC0415  (optional)
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(source).metadata_props}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        quantised = Path(folder, "int8.onnx")
        quantize_dynamic(source, quantised, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        _write(onnx.load(quantised), metadata, path)


def check_onnx(path: Path) -> None:
    """Check the name of an ONNX file and that the packages are here, before a network is traced for it."""
    if path.suffix != ".onnx":
        raise ConfigError(f"{path}: expected a name that ends in .onnx.")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, f"{path}: writing ONNX", install=EXTRA)


def _exported(network: nn.Module | ExportedProgram, *examples: torch.Tensor) -> Any:
    """The ONNX model of a program, or of a network traced with examples of its input."""
    with _quiet(), torch.no_grad():
        exported = torch.onnx.export(
            network, examples, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False,
            external_data=False,
        )  # fmt: skip
    return cast(ONNXProgram, exported).model_proto


def _write(model: Any, metadata: Mapping[str, Any], path: Path) -> None:
    """Write a model without the exporter's notes on inner shapes and on the lines of code (they hold local paths)."""
    del model.graph.value_info[:], model.metadata_props[:]
    for part in (model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    write_bytes(path, model.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the remarks of the exporters, which are about their own workings."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
