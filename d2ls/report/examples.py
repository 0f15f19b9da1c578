"""The images that a page shows: which ones, and each as photograph, truth, prediction and error map."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from d2ls.data import io as files
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.labels import count_values
from d2ls.data.pairs import Pair
from d2ls.data.spec import DatasetSpec
from d2ls.inference.results import Masks
from d2ls.inference.scores import Scores
from d2ls.report import pictures
from d2ls.report.pictures import Mark, Picture, Pixels

_SIDE = 640  # of a picture, in pixels
_EACH = 3  # best, median and worst images
_UNSCORED = 6  # images of a run without labels
_NAMED = 3  # classes in a picture's description, and mistakes in its caption


class Figure(NamedTuple):
    """A picture with what it shows, in a word and in a sentence."""

    title: str
    picture: Picture
    alt: str
    marks: Sequence[Mark] = ()


def ranked(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the images that have an mIoU, the best first."""
    scored = [image for image in images if image["mIoU"] is not None]
    return [image["name"] for image in sorted(scored, key=lambda image: (-image["mIoU"], image["name"]))]


def choose(names: Sequence[str]) -> dict[str, list[str]]:
    """Best, median and worst of names in their order: up to three each, none twice; groups without one are left out."""
    number = len(names)
    each = min(_EACH, max(1, number // 3))
    middle = (number - each) // 2
    groups = {"Best": list(names[:each]), "Median": [], "Worst": list(names[each:][-each:])}
    if number > 2 * each:
        groups["Median"] = list(names[max(each, middle) : max(each, middle) + each])
    return {title: group for title, group in groups.items() if group}


def spread(names: Sequence[str]) -> list[str]:
    """A few names, evenly spread."""
    indices = np.unique(np.linspace(0, len(names) - 1, min(_UNSCORED, len(names))).round().astype(int))
    return [names[index] for index in indices]


def example(dataset: SegmentationDataset, pair: Pair, masks: Masks, scores: Scores) -> dict[str, Any]:
    """Read an image, its labels and its written mask again, and draw them, as content for the page.

    It is "name", "width" and "height" in pixels, "figures"; "scores" as in `metrics.json`, None without labels, and the
    most frequent "mistakes".
    """
    spec = dataset.spec
    image, prediction, truth = files.read_image(pair.image), masks.read(pair.name), dataset.read_mask(pair)
    height, width = prediction.shape
    masks_read = [labels for labels in (prediction, truth) if labels is not None]
    shares = [count_values(labels)[: spec.num_classes] / labels.size for labels in masks_read]
    image = pictures.shrink(image, _SIDE)
    prediction = pictures.shrink(prediction, _SIDE, labels=True)
    figures = [Figure("Image", pictures.photograph(image), f"Photograph {pair.name}.")]
    predicted = _map("Prediction", prediction, shares[0], spec)
    content = {"name": pair.name, "width": width, "height": height, "scores": None, "mistakes": []}
    if truth is None or pair.name not in scores.counts:
        return content | {"figures": [*figures, predicted]}
    truth = pictures.shrink(truth, _SIDE, labels=True)
    found = scores.image(pair.name)
    errors = pictures.error_map(image, prediction, truth, spec.ignore_index)
    wrong = "nothing to compare" if found["OA"] is None else f"{1 - found['OA']:.1%} of the labelled pixels are wrong"
    figures += [_map("Truth", truth, shares[1], spec), predicted, Figure("Errors", errors, f"Error map: {wrong}.")]
    return content | {"figures": figures, "scores": found, "mistakes": _mistakes(scores.counts[pair.name], spec)}


def _map(title: str, labels: Pixels, shares: NDArray[np.float64], spec: DatasetSpec) -> Figure:
    """A class map, its largest classes named in the description."""
    order = [index for index in np.argsort(-shares, kind="stable")[:_NAMED] if shares[index] > 0]
    parts = ", ".join(f"{spec.classes[index]} {shares[index]:.0%}" for index in order) or "no class"
    marks = pictures.marks(labels, spec.num_classes)
    return Figure(title, pictures.class_map(labels, spec), f"{title}: {parts}.", marks)


def _mistakes(counts: torch.Tensor, spec: DatasetSpec) -> list[dict[str, Any]]:
    """The most frequent pairs of a true and another predicted class, and their shares of the labelled pixels."""
    wrong = counts.clone().fill_diagonal_(0).flatten()
    most = [int(at) for at in wrong.argsort(descending=True, stable=True)[:_NAMED] if wrong[at] > 0]
    names, total = spec.classes, int(counts.sum())
    pairs = [(*divmod(at, len(counts)), int(wrong[at]) / total) for at in most]
    return [{"truth": names[true], "prediction": names[other], "share": share} for true, other, share in pairs]
