"""Checkpoints of the reference implementation: their names in ours (spec section 7)."""

import re
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from d2ls.errors import CheckpointError
from d2ls.models.head import ConvHead
from d2ls.models.names import reference_backbone
from d2ls.models.pretrained import without_ones
from d2ls.models.weight_files import state_dict_of

_STAGE = r"decoder\.interactor\.layers\.(\d+)\."
_PROJ = r"(\w+)_proj\.(weight|bias)"
_ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}

# Names of the reference -> ours, as patterns; backbone tensors are handled apart.
_RENAMES: list[tuple[str, str]] = [
    (r"pe_layer\.positional_encoding_gaussian_matrix", "position.gaussian"),
    (r"linear_c\.(\d)\.proj\.(weight|bias)", r"aggregation.embed.\1.\2"),
    (r"aggregator\.weight", "aggregation.merge.weight"),
    (r"decoder\.token\.basic_queries\.weight", "dictionary.table"),
    (r"decoder\.token\.token_mlp\.(weight|bias)", r"dictionary.candidates.\1"),
    (r"decoder\.feature_modulator\.mlp1\.proj\.(weight|bias)", r"dictionary.modulator.embed.\1"),
    (r"decoder\.feature_modulator\.gmp_branch\.1\.(weight|bias)", r"dictionary.modulator.max_branch.\1"),
    (r"decoder\.feature_modulator\.gap_branch\.1\.(weight|bias)", r"dictionary.modulator.mean_branch.\1"),
    (r"decoder\.feature_modulator\.mlp2\.(0|2)\.(weight|bias)", r"dictionary.modulator.mix.\1.\2"),
    (_STAGE + r"cross_attn_token_to_image\." + _PROJ, r"interaction.stages.\1.token_to_image_attn.\2_proj.\3"),
    (_STAGE + r"norm2\.(weight|bias)", r"interaction.stages.\1.token_norm.\2"),
    (_STAGE + r"cross_attn_image_to_token\." + _PROJ, r"interaction.stages.\1.image_to_token_attn.\2_proj.\3"),
    (_STAGE + r"norm4\.(weight|bias)", r"interaction.stages.\1.image_to_token_attn.norm.\2"),
    (r"decoder\.interactor\.final_attn_token_to_image\." + _PROJ, r"interaction.final_attn.\1_proj.\2"),
    (r"decoder\.interactor\.norm_final_attn\.(weight|bias)", r"interaction.final_norm.\1"),
    (r"decoder\.upsampler\.1\.(weight|bias)", r"head.upsampler.norm.\1"),
    (r"decoder\.output_head\.(weight|bias)", r"head.entries_to_classes.\1"),  # `_ours` knows of the conv head
    (r"decoder\.output_hypernetwork_mlps\.layers\.0\.(weight|bias)", r"head.token_mlp.0.\1"),
    (r"decoder\.output_hypernetwork_mlps\.layers\.1\.(weight|bias)", r"head.token_mlp.2.\1"),
    (r"decoder\.output_hypernetwork_mlps\.layers\.2\.(weight|bias)", r"head.token_mlp.4.\1"),
]

# Built by the reference and never run, or without effect on any output (key biases cancel in the softmax).
_UNUSED = re.compile(
    _STAGE + r"(self_attn\.\w+_proj|norm1|mlp\.lin[12]|norm3)\.(weight|bias)|decoder\.interactor\..*\.k_proj\.bias"
)


def load_reference_weights(net: nn.Module, state_dict: Mapping[str, object]) -> list[str]:
    """Load a state dict or Lightning checkpoint (tensors under `net.`) of the reference implementation.

    Returns:
        Names of the reference that were left out: parts it never runs, and parts that `net` has switched off.

    Raises:
        CheckpointError: a name that the reference does not have, a tensor of ours that is missing, or a wrong shape.
    """
    named = state_dict_of(state_dict, "the reference checkpoint").items()
    tensors = {name.removeprefix("net."): tensor for name, tensor in named}
    target, loaded = net.state_dict(), dict[str, Tensor]()
    left_out, unknown, foreign = list[str](), list[str](), list[str]()
    for name, tensor in tensors.items():
        ours = _ours(name, net)
        if ours is None:
            (left_out if _UNUSED.fullmatch(name) else unknown).append(name)
        elif ours in target:
            loaded[ours] = _fitted(name, tensor, ours, target[ours])
        else:
            # Parts of the decoder may be switched off; the backbone is always whole.
            (foreign if name.startswith("backbone.") else left_out).append(name)
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors have names that the reference does not know (first: {unknown[0]}). "
            "Expected a checkpoint of the reference implementation with a ConvNeXt or ResNet backbone."
        )
    if foreign:
        raise CheckpointError(
            f"{len(foreign)} backbone tensors of the reference checkpoint have no place in this network's backbone "
            f"(first: {foreign[0]}). Check that `backbone` is the one of the run that wrote it."
        )
    if "decoder.output_head.weight" in left_out:
        raise CheckpointError(
            "the reference checkpoint has an output head, decoder.output_head.weight of shape "
            f"{tuple(tensors['decoder.output_head.weight'].shape)}, that this network lacks: set head='conv', or "
            "num_entries to the number of entries of that run."
        )
    # Batch counters count steps and play no part in the output.
    missing = [name for name in target if name not in loaded and not name.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(
            f"the reference checkpoint lacks {len(missing)} tensors of this network (first: {missing[0]}). "
            "Check backbone, stages, dictionary, num_entries, aggregate, interact and head against the run behind it."
        )
    _warn_of_more_stages(left_out, net)
    net.load_state_dict({**target, **loaded})
    return left_out


def _warn_of_more_stages(left_out: list[str], net: nn.Module) -> None:
    interaction = getattr(net, "interaction", None)
    stages = {int(match[1]) for name in left_out if (match := re.match(_STAGE + "cross", name))}
    if interaction is not None and stages and max(stages) >= len(interaction.stages):
        found, ours = max(stages) + 1, len(interaction.stages)
        told = f"the reference checkpoint has {found} interaction stages and this network {ours}"
        warnings.warn(f"{told}: the later ones were left out.", stacklevel=3)


def _ours(name: str, net: nn.Module) -> str | None:
    """Our name for a tensor of the reference; None for one that we do not build or do not know."""
    if name.startswith("backbone."):
        if (timm_name := reference_backbone(name.removeprefix("backbone."))) is None:
            return None
        # timm's feature networks write stages_0 where the classifier network has stages.0.
        flattened = f"backbone.body.{timm_name.replace('.', '_', 1)}"
        return flattened if flattened in net.state_dict() else f"backbone.body.{timm_name}"
    if _UNUSED.fullmatch(name):
        return None
    if isinstance(getattr(net, "head", None), ConvHead) and name.startswith("decoder.output_head."):
        return name.replace("decoder.output_head", "head.classify")
    for pattern, replacement in _RENAMES:
        if match := re.fullmatch(pattern, name):
            ours = re.sub(r"\b(q|k|v|out)_proj\b", lambda m: _ATTENTION[m[0]], match.expand(replacement))
            return _select_level(ours, net)
    return None


def _select_level(name: str, net: nn.Module) -> str:
    """Without aggregation only the deepest of the four level projections exists, as number 0."""
    if getattr(net, "arguments", {}).get("aggregate", True):
        return name
    return re.sub(r"(aggregation\.embed\.)(\d)", lambda match: f"{match[1]}{int(match[2]) - 3}", name)


def _fitted(name: str, tensor: Tensor, ours: str, wanted: Tensor) -> Tensor:
    """The tensor in our shape: 1x1 convolutions are linear layers here, and scales are flat."""
    squeezed = tensor.reshape(wanted.shape) if without_ones(tensor) == without_ones(wanted) else tensor
    if squeezed.shape != wanted.shape:
        raise CheckpointError(
            f"tensor {name} of the reference has shape {tuple(tensor.shape)}; "
            f"this network needs {tuple(wanted.shape)} ({ours})."
        )
    return squeezed.to(torch.float32) if squeezed.is_floating_point() else squeezed
