"""The training objective: soft cross entropy, Dice, the auxiliary term and the contrastive term (paper, section 3.4).

Logits at full resolution are the widest tensors of the last layers, so the per-pixel terms keep nothing of their size
for the backward pass but the logits themselves, and work through a batch one image at a time.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from d2ls.distributed import Gather, all_gather, world_size
from d2ls.errors import ConfigError, DataError

LABEL_SMOOTHING = 0.05
DICE_SMOOTHING = 0.05
CONTRASTIVE_EPSILON = 1e-6


@runtime_checkable
class TrainingOutput(Protocol):
    """What a network hands to the loss while training."""

    @property
    def logits(self) -> Tensor:
        """Main logits, (B, K, H, W)."""

    @property
    def static_logits(self) -> Tensor | None:
        """Logits of the static dictionary, (B, K, H, W), for the auxiliary term."""

    @property
    def dictionary(self) -> Tensor | None:
        """The dynamic dictionary before interaction, (B, N, C), for the contrastive term."""


class D2LSLoss(nn.Module):
    """Soft cross entropy + Dice, with auxiliary and contrastive terms where the output has what they need.

    The total is the plain sum of the other terms: each is returned as it enters the sum, weight included.
    A weight of 0 switches its term off.

    With several processes whose gradients are averaged (DDP, FSDP), the contrastive term is that of their joint batch,
    in value and gradient, as is the average of the cross entropies; Dice is taken on each process's own batch.

    Args:
        ignore_index: label of pixels that count in no term; it must not be one of the classes 0..K-1.
        auxiliary_weight: factor of the soft cross entropy of the static logits.
        contrastive_weight: factor of `contrastive_loss` of the dynamic dictionary.

    Raises:
        ConfigError: a weight is negative or not finite.
    """

    def __init__(self, ignore_index: int, auxiliary_weight: float = 0.4, contrastive_weight: float = 1.0) -> None:
        super().__init__()
        for name, weight in (("auxiliary_weight", auxiliary_weight), ("contrastive_weight", contrastive_weight)):
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"{name}={weight}: a loss weight is a finite number of at least 0 (0 = off).")
        self.ignore_index = ignore_index
        self.auxiliary_weight = auxiliary_weight
        self.contrastive_weight = contrastive_weight

    def forward(self, output: TrainingOutput | Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The loss terms of one batch.

        Args:
            output: what the network gave in training, or main logits alone, (B, K, H, W). Half-precision logits are
                evaluated in float32.
            mask: class of each pixel, any integer type, (B, H, W): 0..K-1 or `ignore_index`.

        Returns:
            Scalars by name: "cross_entropy", "dice", "auxiliary" and "contrastive" (the last two only where they
            exist), and "loss", their sum. A batch without any labelled pixel gives 0 for all of them, with zero
            gradients: nothing is learnt from it, not even by the contrastive term (of several processes: unless
            another one's batch has a labelled pixel).

        Raises:
            DataError: the mask's type or shape does not fit the logits, it holds a label that is no class, or the
                batches of several processes differ in size.
            ConfigError: `ignore_index` is one of the classes of the logits.
            TypeError: `output` is neither logits nor a training output.
        """
        logits, static_logits, dictionary = _parts(output)
        check_mask(logits, mask, self.ignore_index)
        cross_entropy, dice = soft_cross_entropy_and_dice(logits, mask, self.ignore_index)
        terms = {"cross_entropy": cross_entropy, "dice": dice}
        if static_logits is not None and self.auxiliary_weight:
            check_mask(static_logits, mask, self.ignore_index, values=static_logits.shape[1] != logits.shape[1])
            terms["auxiliary"] = self.auxiliary_weight * soft_cross_entropy(static_logits, mask, self.ignore_index)
        if dictionary is not None and self.contrastive_weight:
            labelled = (mask != self.ignore_index).any()
            if world_size() > 1:
                dictionary, labelled = _of_all_processes(dictionary, labelled)
            terms["contrastive"] = self.contrastive_weight * labelled * contrastive_loss(dictionary)
        terms["loss"] = torch.stack(list(terms.values())).sum()
        return terms

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return (
            f"ignore_index={self.ignore_index}, auxiliary_weight={self.auxiliary_weight}, "
            f"contrastive_weight={self.contrastive_weight}"
        )


def soft_cross_entropy(logits: Tensor, mask: Tensor, ignore_index: int) -> Tensor:
    """Cross entropy with label smoothing 0.05, averaged over all pixels; ignored ones add 0 to that mean.

    Args:
        logits: (B, K, H, W).
        mask: labels, (B, H, W), as `check_mask` accepts them.
        ignore_index: label of the pixels to ignore.
    """
    total: Tensor = _LabelledSums.apply(logits, mask, ignore_index, False)[0]
    return total / mask.numel()


def soft_cross_entropy_and_dice(logits: Tensor, mask: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The soft cross entropy and the Dice term of the same logits, which share their softmax.

    Dice compares sums over the whole batch: 1 - (2 I + 0.05) / (P + T + 0.05) for each class, where P sums the class's
    probability over the labelled pixels, T counts its true pixels and I sums the probability on these. A class without
    a true pixel counts 0; the mean is over all K classes. In a distributed run the sums are those of one process.

    Args:
        logits: (B, K, H, W).
        mask: labels, (B, H, W), as `check_mask` accepts them.
        ignore_index: label of the pixels to ignore.
    """
    classes = logits.shape[1]
    total, predicted, overlap = _LabelledSums.apply(logits, mask, ignore_index, True)
    labels = torch.where(mask == ignore_index, classes, mask.long())  # ignored pixels fall into one bin more
    true = torch.bincount(labels.flatten(), minlength=classes + 1)[:classes]
    score = (2 * overlap + DICE_SMOOTHING) / (predicted + true + DICE_SMOOTHING)
    dice = torch.where(true > 0, 1 - score, 0).mean()
    return total / mask.numel(), dice


def contrastive_loss(dictionary: Tensor) -> Tensor:
    """Spread of each entry over the batch, relative to the spread between entries (paper, section 3.4).

    With m_n the batch mean of entry n: the mean over (b, n) of |D[b, n] - m_n|^2, divided by the mean over pairs
    n < n' of |m_n - m_n'|^2 plus 1e-6. One image alone gives exactly 0. Both means are over the images given:
    `D2LSLoss` gives it those of all processes.

    Args:
        dictionary: entries of each image, (B, N, C), N at least 2.

    Raises:
        DataError: the dictionary has another number of dimensions, or fewer than two entries.
    """
    if dictionary.ndim != 3 or dictionary.shape[1] < 2:
        raise DataError(
            f"contrastive_loss: the dictionary has the shape {tuple(dictionary.shape)}; expected (B, N, C) with at "
            "least 2 entries to compare. Set contrastive_weight=0 to train without this term."
        )
    entries = dictionary.shape[1]
    dictionary = _at_least_float32(dictionary)
    means = dictionary.mean(dim=0)
    intra = (dictionary - means).square().sum(dim=-1).mean()
    # Squared distances over all pairs sum to N times the squared distances to the centre.
    centred = means - means.mean(dim=0)
    inter = centred.square().sum() * 2 / (entries - 1)
    return intra / (inter + CONTRASTIVE_EPSILON)


def check_mask(logits: Tensor, mask: Tensor, ignore_index: int, *, values: bool = True) -> None:
    """Refuse a mask that does not fit the logits.

    Args:
        logits: (B, K, H, W), floating point.
        mask: integer labels, (B, H, W).
        ignore_index: label of the pixels to ignore, which must not be a class.
        values: also look at every label (on an accelerator this waits for the device).

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
    if not values:
        return
    wrong = (mask != ignore_index) & ((mask < 0) | (mask >= classes))
    if wrong.any():
        found = sorted(set(mask[wrong].tolist()))
        raise DataError(
            f"The mask holds the labels {found[:10]} in {int(wrong.sum())} pixels; expected the classes "
            f"0..{classes - 1} or ignore_index={ignore_index}. Check num_classes and ignore_index against the masks."
        )


def _of_all_processes(dictionary: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
    """The dictionaries (W * B, N, C) of all W processes, and whether any of their masks has a labelled pixel.

    Every process must call this in every step, whatever its batch holds: it waits for all of them.
    """
    own = torch.stack([labelled.new_tensor(len(dictionary), dtype=torch.long), labelled.long()])
    sizes, labels = all_gather(own).unbind(dim=1)
    if len(set(sizes.tolist())) > 1:
        raise DataError(
            f"The batches of the {len(sizes)} processes have {sizes.tolist()} images; expected one size. "
            "Let the training loader drop the last, smaller batch, as d2ls.data.loaders.training_loader does."
        )
    joint: Tensor = Gather.apply(_at_least_float32(dictionary))
    return joint, labels.any()


class _LabelledSums(torch.autograd.Function):
    """What the labelled pixels of logits (B, K, H, W) add up to: the loss terms are functions of these sums.

    Gives the summed soft cross entropy (scalar) and, if asked for, each class's summed probability and its summed
    probability on its own true pixels (K each; else zeros). The gradient is written out: softmax is taken again in the
    backward pass, so nothing of the logits' size is stored between the two.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, mask: Tensor, ignore_index: int, with_overlap: bool) -> tuple[Tensor, ...]:
        ctx.save_for_backward(logits, mask)
        ctx.ignore_index, ctx.with_overlap = ignore_index, with_overlap
        classes = logits.shape[1]
        total, predicted, overlap = [], [], []
        for image, labels in zip(logits, mask, strict=True):
            valid, target = _target(labels, ignore_index)
            log_p = _at_least_float32(image).log_softmax(dim=0)
            nll = -log_p.gather(0, target).squeeze(0)
            smooth = -log_p.sum(dim=0) / classes
            total.append(torch.where(valid, torch.lerp(nll, smooth, LABEL_SMOOTHING), 0).sum())
            if with_overlap:
                p = log_p.exp_().mul_(valid)
                predicted.append(p.sum(dim=(1, 2)))
                overlap.append(_sum_by_class(p.gather(0, target).squeeze(0), target.squeeze(0), classes))
        none = total[0].new_zeros(classes)
        if not with_overlap:
            return torch.stack(total).sum(), none, none.clone()
        return torch.stack(total).sum(), torch.stack(predicted).sum(dim=0), torch.stack(overlap).sum(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, mask = ctx.saved_tensors
        by_total, by_predicted, by_overlap = gradients
        classes = logits.shape[1]
        result = torch.empty_like(logits)
        for image, labels, gradient in zip(logits, mask, result, strict=True):
            valid, target = _target(labels, ctx.ignore_index)
            by_pixel = by_total * valid
            p = _at_least_float32(image).softmax(dim=0).mul_(valid)
            at_target = (LABEL_SMOOTHING - 1) * by_pixel
            if ctx.with_overlap:
                # Through softmax a gradient g of the probabilities becomes p (g - <g, p>).
                by_p = by_predicted[:, None, None]
                at_p = by_overlap[target.squeeze(0)] * p.gather(0, target).squeeze(0)
                at_target = at_target + at_p
                p *= by_p + (by_pixel - (p * by_p).sum(dim=0) - at_p)
            else:
                p *= by_pixel
            p.scatter_(0, target, p.gather(0, target) + at_target)
            gradient.copy_(p.sub_(LABEL_SMOOTHING / classes * by_pixel))
        return result, None, None, None


def _target(labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Which pixels are labelled, (H, W), and a class for each, (1, H, W): class 0 stands in where it is ignored."""
    valid = labels != ignore_index
    return valid, torch.where(valid, labels, 0).long().unsqueeze(0)


def _sum_by_class(values: Tensor, classes_of: Tensor, classes: int) -> Tensor:
    """Sum (H, W) values by their class, row by row first: one float32 sum over a whole image would lose digits."""
    rows = torch.arange(len(values), device=values.device).unsqueeze(1)
    bins = (rows * classes + classes_of).flatten()
    return values.new_zeros(len(values) * classes).scatter_add_(0, bins, values.flatten()).view(-1, classes).sum(dim=0)


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision as float32, wider types as they are."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _parts(output: TrainingOutput | Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Main logits, static logits and dictionary, the latter two where there are any."""
    if isinstance(output, Tensor):
        return output, None, None
    if isinstance(output, TrainingOutput):
        return output.logits, output.static_logits, output.dictionary
    raise TypeError(
        f"D2LSLoss got a {type(output).__name__}; expected a logits tensor (B, K, H, W) or an output with the "
        "attributes logits, static_logits and dictionary."
    )
