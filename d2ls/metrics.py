"""Scores of a run: IoU, F1, precision and recall per class, mIoU, mean F1 and overall accuracy."""

import math
from collections.abc import Sequence
from typing import Literal, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from d2ls.errors import ConfigError, DataError

MEANS: tuple[Literal["mIoU", "F1", "OA"], ...] = ("mIoU", "F1", "OA")
"""Mean scores of a run."""
PER_CLASS = ("IoU", "F1", "precision", "recall")
"""Scores of a class by their keys in `score_counts`, in the order of tables' columns."""
_PREDICTIONS = "the prediction holds values that are no classes"


class ClassScores(TypedDict):
    """Scores of each class, float64 on the CPU, (K,), in 0..1; NaN for a class that never occurs."""

    IoU: Tensor
    F1: Tensor
    precision: Tensor
    recall: Tensor
    pixels: Tensor  # true ones of each class, int64, (K,)


class Scores(TypedDict):
    """Scores of a run, 0..1; NaN where nothing was there to score."""

    mIoU: float  # mean IoU of the scored classes that occur
    F1: float  # mean F1 of the same classes
    OA: float  # share of all labelled pixels, of scored and unscored classes, that are right
    per_class: ClassScores
    confusion: Tensor  # pixel counts, int64, (K, K): one row for each true class, one column for each predicted one


def score_counts(confusion: Tensor, scored: Sequence[int]) -> dict[str, Tensor]:
    """Score pixel counts, of any number of runs at once.

    A class occurs if any counted pixel has it as truth or as prediction. Where it occurs, a score of 0/0 is 0 (a class
    that is present but never predicted has precision and F1 0); a class that does not occur has NaN and is left out of
    the means.

    Args:
        confusion: pixel counts, (..., K, K): one row for each true class, one column for each predicted one.
        scored: classes in the means of IoU and F1.

    Returns:
        float64, 0..1: "IoU", "F1", "precision", "recall" of each class, (..., K); "mIoU", "mean F1", "OA", (...,).
    """
    counts = confusion.double()
    right, true, predicted = counts.diagonal(dim1=-2, dim2=-1), counts.sum(dim=-1), counts.sum(dim=-2)
    occurs = true + predicted > 0

    def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
        return torch.where(occurs, numerator / denominator.clamp(min=1), math.nan)

    iou, f1 = ratio(right, true + predicted - right), ratio(2 * right, true + predicted)
    return {
        "IoU": iou,
        "F1": f1,
        "precision": ratio(right, predicted),
        "recall": ratio(right, true),
        "mIoU": iou[..., list(scored)].nanmean(dim=-1),
        "mean F1": f1[..., list(scored)].nanmean(dim=-1),
        "OA": right.sum(dim=-1) / true.sum(dim=-1),
    }


def percent(share: float | None) -> str:
    """A share (0..1) in per cent; "-" for None and NaN."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f}"


class SegmentationMetrics(MulticlassConfusionMatrix):
    """Counts pixels by true and predicted class, exactly, and scores the counts.

    `score_counts` says how. Pixels whose truth is `ignore_index` count nowhere. Being a torchmetrics metric, it follows
    its module to a device, and several processes add up their counts when they compute.

    Args:
        num_classes: number of classes K, at least 2.
        ignore_index: label of pixels that are not counted; not one of the classes.
        scored: classes in mIoU and mean F1; all of them by default.

    Raises:
        ConfigError: `num_classes`, `ignore_index` and `scored` do not go together.
    """

    confmat: Tensor

    def __init__(self, num_classes: int, ignore_index: int, scored: Sequence[int] | None = None) -> None:
        if num_classes < 2:
            raise ConfigError(f"num_classes={num_classes}: there is nothing to score with fewer than 2 classes.")
        if 0 <= ignore_index < num_classes:
            raise ConfigError(f"ignore_index={ignore_index} is one of the classes 0..{num_classes - 1}.")
        scored = tuple(range(num_classes) if scored is None else scored)
        if not scored or len(set(scored)) < len(scored) or not set(scored) <= set(range(num_classes)):
            raise ConfigError(f"scored={scored}: expected different classes out of 0..{num_classes - 1}, at least one.")
        super().__init__(num_classes, ignore_index=ignore_index, validate_args=False)
        self.scored = scored
        self._labels = f"the mask holds labels that are neither classes nor ignore_index={ignore_index}"

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: predicted classes, any integer type, (B, H, W), or logits, (B, K, H, W).
            mask: true classes or `ignore_index`, any integer type, (B, H, W).

        Raises:
            DataError: shapes or types do not fit, a label or a prediction is no class, or logits are not finite.
        """
        if mask.is_floating_point() or mask.dtype == torch.bool:
            raise DataError(f"The mask is of type {mask.dtype}; expected an integer type that holds class indices.")
        predicted = self._classes_of(prediction, mask)
        mask = mask.to(predicted.device)
        in_bytes = mask.dtype == predicted.dtype == torch.uint8 and mask.device.type == "cpu"
        counts = (self._count_bytes if in_bytes and self.num_classes <= 256 else self._count)(mask, predicted)
        self.confmat += counts.to(self.confmat.device)

    def _count(self, mask: Tensor, predicted: Tensor) -> Tensor:
        """Pixels of each true and predicted class, (K, K)."""
        counted = mask != self.ignore_index
        truth, predicted = mask[counted].long(), predicted.long()
        self._check_range(truth, self._labels)
        self._check_range(predicted, _PREDICTIONS)
        # torchmetrics' own counting takes K * K times the memory where deterministic algorithms are on.
        pairs = truth * self.num_classes + predicted[counted]
        return torch.bincount(pairs, minlength=self.num_classes**2).view(self.num_classes, self.num_classes)

    def _count_bytes(self, mask: Tensor, predicted: Tensor) -> Tensor:
        """The same from bytes, all pairs of two counted at once. No operation of PyTorch on many values is in it.

        A run counts in a thread beside the network's: one that has started OpenMP's workers slows those of all others.
        """
        pairs = np.stack([predicted.numpy(), mask.numpy()], axis=-1).view("<u2")
        counts = np.bincount(pairs.ravel(), minlength=2**16).reshape(256, 256)  # truth, prediction
        labels = np.arange(256)
        true = counts.sum(axis=1) * (labels != self.ignore_index)
        for pixels, what in ((true, self._labels), (counts.sum(axis=0), _PREDICTIONS)):
            self._check_range(torch.from_numpy(labels[pixels > 0]), what, pixels)
        return torch.from_numpy(counts[: self.num_classes, : self.num_classes].copy())

    def compute(self) -> Scores:  # type: ignore[override]
        """Score everything counted since the last reset, in all processes together."""
        confusion = self.confmat.cpu()
        found = score_counts(confusion, self.scored)
        per_class = {name: found[name] for name in PER_CLASS} | {"pixels": confusion.sum(dim=1)}
        return {
            "mIoU": found["mIoU"].item(), "F1": found["mean F1"].item(), "OA": found["OA"].item(),
            "per_class": cast(ClassScores, per_class), "confusion": confusion.clone(),
        }  # fmt: skip

    def _classes_of(self, prediction: Tensor, mask: Tensor) -> Tensor:
        """The predicted class of each pixel, in the mask's shape."""
        if prediction.is_floating_point():
            if prediction.ndim != mask.ndim + 1 or prediction.shape[1] != self.num_classes:
                raise self._shape_error(prediction, mask)
            best, predicted = prediction.max(dim=1)
            if not best.isfinite().all():
                raise DataError("The logits hold NaN or infinite values: they have no largest class to score.")
        elif prediction.dtype == torch.bool:
            raise DataError("The prediction is of type torch.bool; expected class indices or floating-point logits.")
        else:
            predicted = prediction
        if predicted.shape != mask.shape:
            raise self._shape_error(prediction, mask)
        return predicted

    def _shape_error(self, prediction: Tensor, mask: Tensor) -> DataError:
        return DataError(
            f"The prediction has the shape {tuple(prediction.shape)} ({prediction.dtype}) and the mask "
            f"{tuple(mask.shape)}; expected integer classes (B, H, W) or floating-point logits "
            f"(B, {self.num_classes}, H, W) for a mask (B, H, W)."
        )

    def _check_range(self, values: Tensor, what: str, pixels: NDArray[np.int64] | None = None) -> None:
        """Refuse values that are no classes; `pixels` holds how often each occurs where they are given only once."""
        wrong = values[(values < 0) | (values >= self.num_classes)]
        if len(wrong):
            found = sorted(set(wrong.tolist()))
            number = len(wrong) if pixels is None else int(pixels[wrong.numpy()].sum())
            raise DataError(
                f"Cannot score: {what}: {found[:10]} in {number} pixels; expected 0..{self.num_classes - 1}. "
                "Check num_classes and ignore_index against the masks."
            )
