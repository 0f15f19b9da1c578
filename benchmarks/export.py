"""Size, time and scores of every form that a trained network is exported in, on the validation part of its config.

python benchmarks/export.py model_weights/dubai/d2ls/d2ls.ckpt -c config/dubai/d2ls.py
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2ls.checkpoint import Checkpoint, read_checkpoint
from d2ls.cli import common as cli
from d2ls.config import load_config
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.spec import DatasetSpec
from d2ls.export.facts import ModelFacts
from d2ls.export.folder import write_folder
from d2ls.export.graph import Deployed, export_program, write_program
from d2ls.export.onnx_file import write_int8, write_onnx
from d2ls.export.onnx_model import OnnxModel
from d2ls.metrics import SegmentationMetrics

Predict = Callable[[NDArray[Any]], NDArray[np.float32]]
TIE = 1e-4  # of the probabilities of the two best classes


def forms(checkpoint: Checkpoint, folder: Path) -> Iterator[tuple[str, Path, Predict]]:
    """Write each form and give its name, its file and a function of images (1, C, H, W) to probabilities."""
    facts, net = ModelFacts.from_checkpoint(checkpoint), checkpoint.build()
    for name, half in (("folder, float32", False), ("folder, float16", True)):
        write_folder(net, facts, folder / name, half=half)
        yield name, folder / name / "model.safetensors", in_torch(read_checkpoint(folder / name).build(), facts.spec)
    program = export_program(net, facts.spec)
    write_program(program, facts, folder / "model.pt2")
    module = torch.export.load(folder / "model.pt2").module()
    yield "torch.export", folder / "model.pt2", lambda image: module(torch.from_numpy(image)).numpy()
    write_onnx(program, facts, folder / "model.onnx")
    yield "ONNX, float32", folder / "model.onnx", OnnxModel(folder / "model.onnx", threads=torch.get_num_threads())
    write_onnx(export_program(net, facts.spec, half=True), facts, folder / "half.onnx")
    yield "ONNX, float16", folder / "half.onnx", OnnxModel(folder / "half.onnx", threads=torch.get_num_threads())
    write_int8(folder / "model.onnx", folder / "int8.onnx")
    yield "ONNX, int8", folder / "int8.onnx", OnnxModel(folder / "int8.onnx", threads=torch.get_num_threads())


def in_torch(net: nn.Module, spec: DatasetSpec) -> Predict:
    """A network that is run by PyTorch as it is."""
    deployed = Deployed(net, spec).eval()
    return lambda image: deployed(torch.from_numpy(image)).numpy()


@torch.no_grad()
def measure(predict: Predict, dataset: SegmentationDataset, spec: DatasetSpec) -> tuple[float, float, list[Any]]:
    """Mean IoU, seconds an image, and the class of each pixel with its lead over the second best."""
    metrics = SegmentationMetrics(spec.num_classes, spec.ignore_index, spec.scored)
    seconds, found = 0.0, []
    for pair in dataset.pairs:
        image = np.ascontiguousarray(dataset.read_pixels(pair).transpose(2, 0, 1)[None])
        start = time.perf_counter()
        probabilities = predict(image)[0]
        seconds += time.perf_counter() - start
        classes = torch.from_numpy(probabilities.argmax(0)).unsqueeze(0)
        metrics.update(classes, torch.from_numpy(np.asarray(dataset.read_mask(pair))).long().unsqueeze(0))
        best = np.partition(probabilities, -2, axis=0)[-2:]
        found.append((classes.numpy()[0].astype(np.uint8), (best[1] - best[0]) > TIE))
    return float(metrics.compute()["mIoU"]), seconds / len(dataset.pairs), found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table in Markdown."""
    parser = cli.parser("Measure every exported form of a trained network on the validation part of its config.")
    parser.add_argument("checkpoint", type=Path, metavar="CKPT")
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(argv)
    checkpoint, dataset = read_checkpoint(options.checkpoint), load_config(options.config).val_dataset
    print("| form | MB | s an image | mIoU | pixels of another class, ties left out |\n|---|---:|---:|---:|---:|")
    expected: list[Any] | None = None
    with TemporaryDirectory() as folder:
        for name, path, predict in forms(checkpoint, Path(folder)):
            score, seconds, found = measure(predict, dataset, dataset.spec)
            expected = expected or found
            pairs = list(zip(found, expected, strict=True))
            different = sum(int(((a != b) & clear).sum()) for (a, _), (b, clear) in pairs)
            size = path.stat().st_size / 1e6
            pixels = sum(a.size for a, _ in found)
            print(f"| {name} | {size:.1f} | {seconds:.2f} | {100 * score:.2f} | {different / pixels:.4%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
