"""A STAC item that describes a model by the Machine Learning Model extension (MLM)."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from d2ls.data.io import write_bytes
from d2ls.errors import ConfigError
from d2ls.export.facts import ModelFacts

MLM = "https://stac-extensions.github.io/mlm/v1.6.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
_FORMS = {
    ".onnx": ("application/octet-stream; framework=onnxruntime; profile=onnx", "onnx", "ONNX"),
    ".pt2": ("application/octet-stream; application=pytorch", "torch.export.save", "PyTorch"),
    ".safetensors": ("application/octet-stream; application=safetensors", "safetensors", "PyTorch"),
}
"""Media type, artifact type and framework of the files of a model."""


def stac_item(facts: ModelFacts, files: Mapping[str, Path], parameters: int, *, name: str) -> dict[str, Any]:
    """A STAC item as plain values; it claims no place on earth.

    `files` holds the assets by name; the first is the model that the properties describe.
    """
    first = next(iter(files.values()))
    framework = _FORMS[first.suffix][2]
    properties: dict[str, Any] = {
        "datetime": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "description": f"Semantic segmentation of {facts.spec.name} images: {', '.join(facts.spec.classes)}.",
        "mlm:name": name,
        "mlm:architecture": facts.network,
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": framework,
        "mlm:total_parameters": parameters,
        "mlm:pretrained": True,
        "mlm:pretrained_source": facts.spec.name,
        "mlm:accelerator_constrained": False,
        "mlm:input": [_input(facts, raw=first.suffix != ".safetensors")],
        "mlm:output": [_output(facts, logits=first.suffix == ".safetensors")],
    }
    if framework == "PyTorch":
        properties["mlm:framework_version"] = torch.__version__
    if facts.licence is not None:
        properties["license"] = facts.licence
    if facts.resolution is not None:
        properties["gsd"] = facts.resolution
    paper = {"rel": "cite-as", "href": "https://arxiv.org/abs/2503.06683", "type": "text/html"}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, FILE],
        "id": name,
        "geometry": None,
        "properties": properties,
        "links": [] if "decoder" in facts.arguments else [paper],
        "assets": {key: _asset(path, facts) for key, path in files.items()},
    }


def write_stac(item: Mapping[str, Any], path: Path) -> None:
    """Write an item, its assets by their addresses relative to the file."""
    if path.suffix != ".json":
        raise ConfigError(f"{path}: expected a name that ends in .json.")
    found = item["assets"].items()
    assets = {key: asset | {"href": _relative(Path(asset["href"]), path.parent)} for key, asset in found}
    write_bytes(path, (json.dumps({**item, "assets": assets}, indent=2, ensure_ascii=False) + "\n").encode())


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return f"./{path.relative_to(folder).as_posix()}" if path.is_relative_to(folder) else path.as_uri()


def _asset(path: Path, facts: ModelFacts) -> dict[str, Any]:
    media_type, artifact, _ = _FORMS[path.suffix]
    return {
        "href": str(path),
        "type": media_type,
        "title": f"{path.name}, {artifact}",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": artifact,
        "file:size": path.stat().st_size,
        "bands": [{"name": name} for name in facts.spec.bands],
    }


def _input(facts: ModelFacts, *, raw: bool) -> dict[str, Any]:
    """Images of any size; graphs normalise them, for weights alone the scaling is stated."""
    spec = facts.spec
    scaling = [{"type": "z-score", "mean": m, "stddev": s} for m, s in zip(spec.mean, spec.std, strict=True)]
    return {
        "name": "image",
        "bands": list(spec.bands),
        "input": {
            "shape": [-1, len(spec.bands), -1, -1],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": spec.dtype if raw else "float32",
        },
        **({} if raw else {"value_scaling": scaling}),
        "pre_processing_function": None,
    }


def _output(facts: ModelFacts, *, logits: bool) -> dict[str, Any]:
    classes = enumerate(zip(facts.spec.classes, facts.spec.colours, strict=True))
    return {
        "name": "logits" if logits else "probabilities",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, facts.spec.num_classes, -1, -1],
            "dim_order": ["batch", "class", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": [
            {"value": index, "name": name, "description": name, "color_hint": "{:02X}{:02X}{:02X}".format(*colour)}
            for index, (name, colour) in classes
        ],
        "post_processing_function": None,
    }
