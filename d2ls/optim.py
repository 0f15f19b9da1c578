"""The optimiser and schedule of the paper: AdamW under Lookahead, annealed by a cosine once per epoch."""

from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import Lookahead
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from d2ls.errors import ConfigError


def adamw_lookahead(
    net: nn.Module,
    lr: float,
    weight_decay: float = 0.01,
    backbone_lr: float | None = None,
    backbone_weight_decay: float | None = None,
    *,
    dictionary_lr: float | None = None,
    layer_decay: float | None = None,
    k: int = 5,
    alpha: float = 0.5,
) -> Lookahead:
    """AdamW whose weights are pulled back every k steps towards slow ones (Lookahead, arXiv 1907.08610).

    The slow weights start from the weights after the first step, and both meet at steps 1, k + 1, 2k + 1, ...: the
    phase of the published training. `state_dict` holds slow weights and phase, so a resumed run is exact.

    Args:
        net: network whose trainable parameters are optimised; frozen ones are left out.
        lr: learning rate, above 0.
        weight_decay: AdamW's decoupled weight decay, at least 0.
        backbone_lr: learning rate of the parameters under `net.backbone`; None: `lr`.
        backbone_weight_decay: weight decay of the same parameters; None: `weight_decay`.
        dictionary_lr: learning rate of the parameters under `net.dictionary`, of networks that have one; None: `lr`.
        layer_decay: factor of the learning rate from a layer of the backbone's trunk to the one before it, 0..1, as
            for BEiT (arXiv 2106.08254); for plain vision transformers. None: one rate.
        k: steps from one meeting to the next.
        alpha: share of the way that the slow weights go towards the fast ones, 0..1; 1 is AdamW alone.

    Raises:
        ConfigError: a value is out of range, nothing is trainable, or there is no trainable `net.backbone` to have a
            rate of its own.
    """
    _check("lr", lr, above=0)
    _check("weight_decay", weight_decay)
    if not isinstance(k, int) or k < 1:
        raise ConfigError(f"k={k}: Lookahead needs a whole number of steps, at least 1.")
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha={alpha}: Lookahead's share lies between 0 and 1.")
    own = {"backbone_lr": backbone_lr, "backbone_weight_decay": backbone_weight_decay}
    groups = _groups(net, {name: value for name, value in own.items() if value is not None}, dictionary_lr)
    if layer_decay is not None:
        groups = _by_layer(net, groups, layer_decay, lr if backbone_lr is None else backbone_lr)
    optimizer = Lookahead(AdamW(groups, lr=lr, weight_decay=weight_decay), alpha=alpha, k=k)
    for group in optimizer.param_groups:
        group["lookahead_step"] = k - 1  # timm meets where this counter is a multiple of k: now after the first step
    return optimizer


def cosine(optimizer: Optimizer, max_epoch: int, eta_min: float = 1e-6) -> CosineAnnealingLR:
    """Anneal every learning rate along half a cosine to `eta_min` after `max_epoch` epochs, one step per epoch.

    Raises:
        ConfigError: `max_epoch` is no positive whole number, or a learning rate starts below `eta_min`, so that it
            would rise.
    """
    if not isinstance(max_epoch, int) or max_epoch < 1:
        raise ConfigError(f"max_epoch={max_epoch}: expected a whole number of epochs, at least 1.")
    _check("eta_min", eta_min)
    for group in optimizer.param_groups:
        if group["lr"] < eta_min:
            name = group.get("name", "network")
            raise ConfigError(
                f"The learning rate {group['lr']} of the group {name!r} is below eta_min={eta_min}: annealing would "
                "raise it. Set eta_min to at most the smallest learning rate."
            )
    return CosineAnnealingLR(optimizer, T_max=max_epoch, eta_min=eta_min)


def resume_schedule(
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    optimizer_state: dict[str, Any],
    schedule_state: dict[str, Any] | None,
) -> None:
    """Change saved states so that a resumed run goes on with the learning rates and weight decay of today's config.

    Moments, slow weights and the number of epochs stay as they were saved. The learning rates become those that a run
    with today's rates and length has after as many epochs; where nothing was changed, nothing changes. A schedule
    other than `cosine` goes on as it was saved. Optimiser and schedule are as the config built them, not stepped yet.

    Raises:
        ConfigError: the parameters were grouped in another way.
    """
    groups = optimizer_state["param_groups"]
    found, wanted = (
        {group.get("name", at): len(group["params"]) for at, group in enumerate(side)}
        for side in (groups, optimizer.param_groups)
    )
    if found != wanted:
        raise ConfigError(
            f"the checkpoint's optimiser has the parameter groups {found}, the config's {wanted}: backbone_lr, "
            "backbone_weight_decay and dictionary_lr must be None in both or in neither. Set them as in the run that "
            "is resumed, or start from its weights alone with pretrained_ckpt_path."
        )
    for group, ours in zip(groups, optimizer.param_groups, strict=True):
        group["weight_decay"] = ours["weight_decay"]
    if not isinstance(schedule, CosineAnnealingLR) or schedule_state is None:
        return
    decides = {"T_max": schedule.T_max, "eta_min": schedule.eta_min, "base_lrs": list(schedule.base_lrs)}
    if all(schedule_state.get(name) == value for name, value in decides.items()):
        return
    rates = _annealed(schedule, schedule_state["last_epoch"])
    schedule_state.update(decides, _last_lr=rates)
    for group, rate, base in zip(groups, rates, schedule.base_lrs, strict=True):
        group.update(lr=rate, initial_lr=base)


def _annealed(schedule: CosineAnnealingLR, epochs: int) -> list[float]:
    """The learning rates after some epochs, stepped to: the closed formula differs in the last digit."""
    stand_in = SGD([{"params": [torch.zeros(1)], "lr": base} for base in schedule.base_lrs])
    twin = CosineAnnealingLR(stand_in, schedule.T_max, schedule.eta_min)
    for _ in range(epochs):
        stand_in.step()
        twin.step()
    return [float(rate) for rate in twin.get_last_lr()]


def _groups(net: nn.Module, own: dict[str, float], dictionary_lr: float | None) -> list[dict[str, Any]]:
    """Trainable parameters, those of the backbone with its `own` settings and of the dictionary with its rate apart."""
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if not trainable:
        raise ConfigError(f"{type(net).__name__} has no trainable parameter: nothing to optimise.")
    apart: list[dict[str, Any]] = []
    if own:
        for name, value in own.items():
            _check(name, value, above=0 if name == "backbone_lr" else None)
        given, backbone = ", ".join(f"{name}={value}" for name, value in own.items()), getattr(net, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise ConfigError(f"{given}: {type(net).__name__} has no module `backbone` that this could apply to.")
        if not (ours := [p for p in backbone.parameters() if p.requires_grad]):
            raise ConfigError(
                f"{given}: every parameter of the backbone is frozen. Unfreeze it or leave this setting out."
            )
        options = {name.removeprefix("backbone_"): value for name, value in own.items()}
        apart.append({"params": ours, "name": "backbone", **options})
    if dictionary_lr is not None:
        _check("dictionary_lr", dictionary_lr, above=0)
        entries = [p for name, p in net.named_parameters() if name.startswith("dictionary.") and p.requires_grad]
        apart.append({"params": entries, "name": "dictionary", "lr": dictionary_lr})
    inside = {id(parameter) for group in apart for parameter in group["params"]}
    rest = [parameter for parameter in trainable if id(parameter) not in inside]
    groups = [{"params": rest, "name": "decoder" if own else "network"}, *apart]
    return [group for group in groups if group["params"]]


def _by_layer(net: nn.Module, groups: list[dict[str, Any]], decay: float, lr: float) -> list[dict[str, Any]]:
    """Split the trunk of the backbone into a group for each layer, the last of which has the rate `lr`."""
    trunk: Any = getattr(getattr(net, "backbone", None), "trunk", None)
    if not 0 < decay <= 1:
        raise ConfigError(f"layer_decay={decay}: expected a factor above 0, at most 1.")
    if not hasattr(trunk, "group_matcher"):
        raise ConfigError(
            f"layer_decay={decay}: the backbone of {type(net).__name__} is no plain vision transformer, whose layers "
            "timm could tell. Leave it out."
        )
    layers = group_parameters(trunk, trunk.group_matcher(coarse=False), reverse=True)
    layer_of = {id(parameter): layers[name] for name, parameter in trunk.named_parameters()}
    last, result = max(layers.values()), []
    for group in groups:
        parts: dict[int | None, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(layer_of.get(id(parameter)), []).append(parameter)
        for layer, parameters in parts.items():
            result.append({**group, "params": parameters})
            if layer is not None:
                result[-1] |= {"lr": lr * decay ** (last - layer), "name": f"{group['name']}, layer {layer}"}
    return result


def _check(name: str, value: float, above: float | None = None) -> None:
    """Refuse a number that is negative, infinite or NaN, or not above a limit."""
    if not (0 <= value < float("inf")) or (above is not None and value <= above):
        limit = "at least 0" if above is None else f"above {above:g}"
        raise ConfigError(f"{name}={value}: expected a finite number {limit}.")
