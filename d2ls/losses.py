"""The training objective: soft cross entropy, Dice, the auxiliary term and the contrastive term (paper, section 3.4).

The terms of the pixels are functions of a few sums for each class. On a CPU these are taken image by image, and nothing
of the logits' size is kept for the backward pass but the logits themselves.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2ls.distributed import all_gather, joined, world_size
from d2ls.errors import ConfigError, DataError, require

if TYPE_CHECKING:
    from d2ls.models import D2LSOutput

LABEL_SMOOTHING = 0.05
DICE_SMOOTHING = 0.05
CONTRASTIVE_EPSILON = 1e-6
EXTRA_LOSSES = MappingProxyType({"focal": ("FocalLoss", {"reduction": "sum"}), "lovasz": ("LovaszLoss", {})})
"""Terms of segmentation_models.pytorch by name: their class and options."""


class D2LSLoss(nn.Module):
    """Soft cross entropy + Dice, with auxiliary and contrastive terms where the output has what they need.

    The total is the plain sum of the other terms: each is returned as it enters the sum, weight included.
    A weight of 0 switches its term off.

    With several processes whose gradients are averaged (DDP, FSDP), the contrastive term is that of their joint batch,
    in value and gradient, as is the average of the cross entropies; Dice and the extra terms are those of each
    process's own batch.

    Args:
        ignore_index: label of pixels that count in no term; it must not be one of the classes 0..K-1.
        auxiliary_weight: factor of the soft cross entropy of the static logits.
        contrastive_weight: factor of `contrastive_loss` of the dynamic dictionary.
        class_weights: weight of each class in the cross entropies, K numbers of at least 0; None: 1 each. Dice, which
            counts every class alike, and the extra terms have none.
        extra_losses: factors of further terms of the main logits, by name: "focal" (gamma 2; mean over labelled pixels
            and classes) and "lovasz" (Lovasz-Softmax; mean over the classes in the batch), both in float32.

    Raises:
        ConfigError: a weight is negative or not finite, all class weights are 0, or an extra term has another name or
            needs a package that is not installed.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        ignore_index: int,
        auxiliary_weight: float = 0.4,
        contrastive_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
        extra_losses: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        factors = {"auxiliary_weight": auxiliary_weight, "contrastive_weight": contrastive_weight, **extra_losses}
        for name, weight in factors.items():
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"{name}={weight}: a loss weight is a finite number of at least 0 (0 = off).")
        self.ignore_index = ignore_index
        self.auxiliary_weight, self.contrastive_weight = auxiliary_weight, contrastive_weight
        self.extra_losses = {name: weight for name, weight in extra_losses.items() if weight}
        self.extra = nn.ModuleDict({name: _extra_loss(name, ignore_index) for name in self.extra_losses})
        self._sizes_compared = False
        self.register_buffer("class_weights", None, persistent=False)
        if class_weights is not None:
            self.set_class_weights(class_weights)

    def set_class_weights(self, class_weights: Sequence[float]) -> None:
        """Replace the weights of the classes, by those that were counted on a training set, say.

        Raises:
            ConfigError: a weight is negative or not finite, or all are 0.
        """
        weights = torch.as_tensor(class_weights, dtype=torch.float32).flatten().cpu()
        if not (weights.isfinite().all() and weights.ge(0).all() and weights.any()):
            raise ConfigError(
                f"class_weights={weights.tolist()}: expected a finite number of at least 0 for each class, not all 0."
            )
        self.class_weights = weights

    def forward(self, output: "D2LSOutput | Tensor", mask: Tensor) -> dict[str, Tensor]:
        """The loss terms of one batch.

        Args:
            output: what the network gave in training, a `D2LSOutput` or anything with its attributes, or main logits
                alone, (B, K, H, W). Half-precision logits are evaluated in float32.
            mask: class of each pixel, any integer type, (B, H, W): 0..K-1 or `ignore_index`.

        Returns:
            Scalars by name: "cross_entropy", "dice", the extra terms, "auxiliary" and "contrastive" (the last two only
            where they exist), and "loss", their sum. A batch without any labelled pixel gives 0 for all of them, with
            zero gradients: nothing is learnt from it, not even by the contrastive term (of several processes: unless
            another one's batch has a labelled pixel).

        Raises:
            DataError: the mask's type or shape does not fit the logits, it holds a label that is no class (looked at on
                a CPU alone, see `check_mask`), or the batches of several processes differ in size.
            ConfigError: `ignore_index` is one of the classes of the logits, or there is another number of
                `class_weights`.
            TypeError: `output` is neither logits nor a training output.
        """
        logits, static_logits, dictionary = _parts(output)
        check_mask(logits, mask, self.ignore_index)
        weights = self._weights(logits)
        cross_entropy, dice = soft_cross_entropy_and_dice(logits, mask, self.ignore_index, weights)
        terms = {"cross_entropy": cross_entropy, "dice": dice}
        for name, weight in self.extra_losses.items():
            terms[name] = weight * self.extra[name](logits.float(), mask.long()).sum()
            if name == "focal":  # the library's mean of no labelled pixel is NaN
                terms[name] = terms[name] / (mask != self.ignore_index).sum().clamp(min=1)
        if static_logits is not None and self.auxiliary_weight:
            if static_logits.shape[1] != logits.shape[1]:
                check_mask(static_logits, mask, self.ignore_index)
            auxiliary = soft_cross_entropy(static_logits, mask, self.ignore_index, weights)
            terms["auxiliary"] = self.auxiliary_weight * auxiliary
        if dictionary is not None and self.contrastive_weight:
            labelled = (mask != self.ignore_index).any()
            if world_size() > 1:
                dictionary, labelled = self._of_all_processes(dictionary, labelled)
            terms["contrastive"] = self.contrastive_weight * labelled * contrastive_loss(dictionary)
        terms["loss"] = torch.stack(list(terms.values())).sum()
        return terms

    def _weights(self, logits: Tensor) -> Tensor | None:
        if self.class_weights is None:
            return None
        if len(self.class_weights) != logits.shape[1]:
            found, classes = len(self.class_weights), logits.shape[1]
            raise ConfigError(
                f"class_weights has {found} numbers, the logits {classes} classes: expected one for each."
            )
        if self.class_weights.device != logits.device:  # of a loss that was never moved: once
            self.class_weights = self.class_weights.to(logits.device)
        return self.class_weights

    def _of_all_processes(self, dictionary: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """The dictionaries (W * B, N, C) of all W processes, and whether any of their masks has a labelled pixel.

        Every process must call this in every step, whatever its batch holds: it waits for all of them. On an
        accelerator their batch sizes are compared in the first step alone, as the host has to wait for them.
        """
        size = torch.full((), len(dictionary), dtype=torch.long, device=labelled.device)
        sizes, labels = all_gather(torch.stack([size, labelled.long()])).unbind(dim=1)
        if sizes.device.type == "cpu" or not self._sizes_compared:
            self._sizes_compared = True
            if len(set(found := sizes.tolist())) > 1:
                raise DataError(
                    f"The batches of the {len(found)} processes have {found} images; expected one size. "
                    "Let the training loader drop the last, smaller batch, as d2ls.data.loaders.training_loader does."
                )
        return joined(_at_least_float32(dictionary)), labels.any()


def _extra_loss(name: str, ignore_index: int) -> nn.Module:
    if name not in EXTRA_LOSSES:
        raise ConfigError(f"extra_losses={name!r}: expected some of {', '.join(EXTRA_LOSSES)}, each with its factor.")
    kind, options = EXTRA_LOSSES[name]
    smp = require("segmentation-models-pytorch", f"extra_losses={name!r}")
    loss: nn.Module = getattr(smp.losses, kind)("multiclass", ignore_index=ignore_index, **options)
    return loss


def soft_cross_entropy(logits: Tensor, mask: Tensor, ignore_index: int, weights: Tensor | None = None) -> Tensor:
    """Cross entropy with label smoothing 0.05, averaged over all pixels; ignored ones add 0 to that mean.

    Of logits (B, K, H, W) and labels (B, H, W), as `check_mask` accepts them. Weights of the classes, (K,), act as in
    `torch.nn.functional.cross_entropy`, but leave the mean's denominator.
    """
    return _soft_cross_entropy(_class_sums(logits, mask, ignore_index), mask, weights)


def soft_cross_entropy_and_dice(
    logits: Tensor, mask: Tensor, ignore_index: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The soft cross entropy and the Dice term of the same logits, which share their softmax.

    Dice compares sums over the whole batch: 1 - (2 I + 0.05) / (P + T + 0.05) for each class, where P sums the class's
    probability over the labelled pixels, T counts its true pixels and I sums the probability on these. A class without
    a true pixel counts 0; the mean is over all K classes. In a distributed run the sums are those of one process.
    Arguments are those of `soft_cross_entropy`.
    """
    sums = _class_sums(logits, mask, ignore_index, for_dice=True)
    _, _, predicted, overlap, true = sums
    score = (2 * overlap + DICE_SMOOTHING) / (predicted + true + DICE_SMOOTHING)
    return _soft_cross_entropy(sums, mask, weights), torch.where(true > 0, 1 - score, 0).mean()


def _soft_cross_entropy(sums: Sequence[Tensor], mask: Tensor, weights: Tensor | None) -> Tensor:
    """From the sums of each class's log-probability on its true and on all labelled pixels, (K,) each."""
    at_true, over_all = sums[:2]
    by_class = (1 - LABEL_SMOOTHING) * at_true + LABEL_SMOOTHING / len(at_true) * over_all
    return -(by_class if weights is None else by_class * weights).sum() / mask.numel()


def _class_sums(logits: Tensor, mask: Tensor, ignore_index: int, for_dice: bool = False) -> tuple[Tensor, ...]:
    """`_sums_of`; on a CPU image by image, and computed again in the backward pass."""
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return _sums_of(logits, mask, ignore_index, for_dice)
    images = [
        checkpoint(_sums_of, image, labels, ignore_index, for_dice, use_reentrant=False, preserve_rng_state=False)
        for image, labels in zip(logits.split(1), mask.split(1), strict=True)
    ]
    return tuple(torch.stack(sums).sum(dim=0) for sums in zip(*images, strict=True))


def _sums_of(logits: Tensor, mask: Tensor, ignore_index: int, for_dice: bool) -> tuple[Tensor, ...]:
    """Sums over the labelled pixels for each class, (K,) each.

    Of its log-probability on its true pixels and on all; for Dice of its probability on all and on its true pixels, and
    the number of these, too.
    """
    log_p, mask = _at_least_float32(logits).log_softmax(dim=1), mask.unsqueeze(1)
    classes = torch.arange(logits.shape[1], device=mask.device).view(-1, 1, 1)
    truth, labelled = (mask == classes).to(log_p.dtype), (mask != ignore_index).to(log_p.dtype)
    pixels = (0, 2, 3)
    sums = (log_p * truth).sum(pixels), (log_p * labelled).sum(pixels)
    if not for_dice:
        return sums
    p = log_p.exp()
    return *sums, (p * labelled).sum(pixels), (p * truth).sum(pixels), truth.sum(pixels)


def contrastive_loss(dictionary: Tensor) -> Tensor:
    """Spread of each entry over the batch, relative to the spread between entries (paper, section 3.4).

    With m_n the batch mean of entry n: the mean over (b, n) of |D[b, n] - m_n|^2, divided by the mean over pairs
    n < n' of |m_n - m_n'|^2 plus 1e-6, of the entries (B, N, C) of all images given. One image alone gives exactly 0.

    Raises:
        DataError: the dictionary has another number of dimensions, or fewer than two entries.
    """
    if dictionary.ndim != 3 or dictionary.shape[1] < 2:
        raise DataError(
            f"contrastive_loss: the dictionary has the shape {tuple(dictionary.shape)}; expected (B, N, C) with at "
            "least 2 entries to compare. Set contrastive_weight=0 to train without this term."
        )
    dictionary = _at_least_float32(dictionary)
    means = dictionary.mean(dim=0)
    intra = (dictionary - means).square().sum(dim=-1).mean()
    # Squared distances over all pairs sum to N times the squared distances to the centre.
    centred = means - means.mean(dim=0)
    inter = centred.square().sum() * 2 / (len(means) - 1)
    return intra / (inter + CONTRASTIVE_EPSILON)


def check_mask(logits: Tensor, mask: Tensor, ignore_index: int) -> None:
    """Refuse a mask (B, H, W) that does not fit the logits (B, K, H, W).

    Labels are looked at on a CPU alone: on an accelerator the host would wait, and they are looked at as they are read.

    Raises:
        DataError: wrong type or shape, or a label outside 0..K-1 other than `ignore_index`.
        ConfigError: `ignore_index` lies in 0..K-1.
    """
    if logits.ndim != 4 or mask.shape != logits.shape[:1] + logits.shape[2:] or not mask.numel():
        raise DataError(
            f"The mask has the shape {tuple(mask.shape)} and the logits {tuple(logits.shape)}; "
            "expected (B, H, W) for logits of (B, K, H, W), none of them 0."
        )
    if mask.is_floating_point() or mask.is_complex() or mask.dtype == torch.bool:
        raise DataError(f"The mask is of type {mask.dtype}; expected an integer type that holds class indices.")
    classes = logits.shape[1]
    if 0 <= ignore_index < classes:
        raise ConfigError(
            f"ignore_index={ignore_index} is one of the {classes} classes of the logits (0..{classes - 1}). "
            "Choose a label outside them, and check that num_classes fits the data set."
        )
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = (mask != ignore_index) & ((mask < 0) | (mask >= classes))
    if wrong.any():
        found = sorted(set(mask[wrong].tolist()))
        raise DataError(
            f"The mask holds the labels {found[:10]} in {int(wrong.sum())} pixels; expected the classes "
            f"0..{classes - 1} or ignore_index={ignore_index}. Check num_classes and ignore_index against the masks."
        )


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision as float32, wider types as they are."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _parts(output: "D2LSOutput | Tensor") -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Main logits, static logits and dictionary, the latter two where there are any."""
    if isinstance(output, Tensor):
        return output, None, None
    if all(hasattr(output, name) for name in ("logits", "static_logits", "dictionary")):
        return output.logits, output.static_logits, output.dictionary
    raise TypeError(
        f"D2LSLoss got a {type(output).__name__}; expected a logits tensor (B, K, H, W) or an output with the "
        "attributes logits, static_logits and dictionary."
    )
