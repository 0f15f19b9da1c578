"""The network as one graph of any image size: normalisation, padding and softmax inside (`torch.export`)."""

import copy
import json
from pathlib import Path

import torch
import torch.fx.experimental._config as symbolic_shapes
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from d2ls.data.io import write_bytes
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError
from d2ls.export.any_size import any_size
from d2ls.export.facts import ModelFacts
from d2ls.models.weight_files import summary

INPUT, OUTPUT = "image", "probabilities"
DIMENSIONS = ("batch", None, "height", "width")  # of both, where their size is free
FACTS = "d2ls.json"  # in a .pt2 file
_EXAMPLE = (1122, 1437)  # no multiple of any stride, and several windows of every kind in the deepest map
_MOST = 65536  # images of a batch, pixels of a side


class Deployed(nn.Module):
    """Images with the values of their files to class probabilities, by a copy of the network.

    `unit` is the value of the spec's range that 1 of the input stands for: 255 where 8-bit images come as 0..1. `half`
    computes in float16 between normalisation and softmax.
    """

    factor: Tensor
    offset: Tensor

    def __init__(self, net: nn.Module, spec: DatasetSpec, *, unit: float = 1.0, half: bool = False) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).cpu().eval().requires_grad_(False)
        self.net = self.net.half() if half else self.net.float()
        self.kind = torch.float16 if half else torch.float32
        if hasattr(self.net, "memory_efficient"):
            self.net.memory_efficient = False  # type: ignore[assignment]
        factor, offset = (torch.from_numpy(values).view(-1, 1, 1) for values in spec.scale_and_offset())
        self.register_buffer("factor", factor * unit)
        self.register_buffer("offset", offset)

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities (B, K, H, W), float32, of images (B, C, H, W) of the spec's type, or float32 with a unit."""
        normalised = (image.to(torch.float32) * self.factor + self.offset).to(self.kind)
        return self.net(normalised).float().softmax(dim=1)


def export_program(net: nn.Module, spec: DatasetSpec, *, half: bool = False) -> ExportedProgram:
    """Trace the network with dynamic batch, height and width; `half`: it computes in float16.

    The program leads from images (B, C, H, W) of the spec's type to probabilities (B, K, H, W), float32.
    """
    example = torch.zeros(2, len(spec.bands), *_EXAMPLE, dtype=getattr(torch, spec.dtype))
    dimensions = {at: Dim(name, min=1, max=_MOST) for at, name in enumerate(DIMENSIONS) if name}
    deployed = Deployed(net, spec, half=half).eval()
    # Maps of one pixel are as good as others: sizes are not told apart by whether they are 1.
    sizes_alike = symbolic_shapes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    try:
        with torch.no_grad(), any_size(deployed), sizes_alike:
            program = torch.export.export(
                deployed, (example,), dynamic_shapes={INPUT: dimensions},
                prefer_deferred_runtime_asserts_over_guards=True,
            )  # fmt: skip
    except Exception as error:  # torch.export fails in many ways
        arguments = getattr(net, "arguments", None) or {}
        named = ", ".join(f"{name}={arguments[name]!r}" for name in ("decoder", "backbone") if name in arguments)
        raise ConfigError(
            f"{named or type(net).__name__} cannot be exported for every image size ({summary(error)}). Known to work: "
            "ConvNeXt, ResNet, EfficientNet, Swin, ViT. A file of one tile (--qgis) needs no other size."
        ) from error
    # The checks that tracing added for other sizes than the example's go; the graph is the same for all.
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def write_program(program: ExportedProgram, facts: ModelFacts, path: Path) -> None:
    """Write a .pt2 file that `torch.export.load` reads without this package; `d2ls.json` in it holds the facts."""
    if path.suffix != ".pt2":
        raise ConfigError(f"{path}: expected a name that ends in .pt2.")
    write_bytes(path, b"")  # says what is wrong with the folder before torch does
    torch.export.save(program, path, extra_files={FACTS: json.dumps(facts.to_config())})
