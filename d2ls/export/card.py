"""The model card of a model folder: `README.md` with the hub's metadata and the score table."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from d2ls.export.facts import MEANS, ModelFacts

PAPER = "2503.06683"
PER_CLASS = ("IoU", "F1", "precision", "recall")


def model_card(facts: ModelFacts, name: str) -> str:
    """The text of the model card.

    Args:
        facts: of the model.
        name: of its folder or repository.
    """
    return "\n".join([*_metadata(facts, name), *_introduction(facts, name), *_scores(facts), *_classes(facts), ""])


def _metadata(facts: ModelFacts, name: str) -> Iterator[str]:
    """The YAML header that the Hugging Face hub reads; JSON strings are YAML strings."""
    yield "---"
    yield "library_name: d2ls"
    yield "pipeline_tag: image-segmentation"
    yield "tags: [remote-sensing, semantic-segmentation, d2ls]"
    if facts.licence:
        yield f"license: {json.dumps(facts.licence.lower())}"
    if facts.scores is not None:
        yield "model-index:"
        yield f"- name: {json.dumps(name)}"
        yield "  results:"
        yield "  - task: {type: image-segmentation}"
        yield f"    dataset: {{name: {json.dumps(facts.spec.name)}, type: {json.dumps(facts.spec.name)}}}"
        yield "    metrics:"
        for mean in MEANS:
            if facts.scores[mean] is not None:
                yield f"    - {{type: {json.dumps(mean)}, value: {facts.scores[mean]:.4f}}}"
    yield "---"


def _introduction(facts: ModelFacts, name: str) -> Iterator[str]:
    spec = facts.spec
    resolution = "not stated" if facts.resolution is None else f"{facts.resolution:g} m"
    arguments = facts.arguments
    yield from (
        "",
        f"# {name}",
        "",
        f"Semantic segmentation of {spec.name} images with dynamic dictionary learning "
        f"([arXiv {PAPER}](https://arxiv.org/abs/{PAPER})).",
        "",
        f"- network: {arguments.get('backbone')}, width {arguments.get('width')}, {arguments.get('stages')} stages, "
        f"dictionary {arguments.get('dictionary')}",
        f"- input: {spec.dtype} images, bands {', '.join(spec.bands)}; normalised by the mean and standard deviation "
        "of each band in `config.json`",
        f"- pixel size on the ground: {resolution}; windows of {facts.window} x {facts.window} px",
        f"- licence: {facts.licence or 'not stated'}",
    )
    if facts.backbone_note:
        yield f"- note: {facts.backbone_note}"
    if spec.citation:
        yield f"- data set: {spec.citation}"
    yield from (
        "",
        "```python",
        "import d2ls",
        "",
        f"model = d2ls.load_model({json.dumps(name)})   # this folder",
        "mask = d2ls.predict(model, image)   # uint8 (H, W, bands) to class indices (H, W)",
        "```",
    )


def _scores(facts: ModelFacts) -> Iterator[str]:
    yield from ("", "## Scores", "")
    if facts.scores is None:
        yield "None were stated when the folder was written."
        return
    run, intervals = facts.scores.get("run") or {}, facts.scores.get("intervals") or {}
    yield f"In per cent, on {facts.scores['images']} images of {run.get('dataset', facts.spec.name)}."
    if run.get("command"):
        yield f"Command: `{run['command']}`"
    yield from ("", "| score | value | 95 % interval |", "|---|---:|---:|")
    for mean in MEANS:
        edges = " to ".join(map(_percent, intervals.get(mean) or ())) or "-"
        yield f"| {mean} | {_percent(facts.scores[mean])} | {edges} |"
    yield from ("", f"| class | {' | '.join(PER_CLASS)} |", f"|---|{'---:|' * len(PER_CLASS)}")
    rows: Mapping[str, Mapping[str, Any]] = facts.scores["per_class"]
    for label, row in rows.items():
        unscored = "" if row.get("scored", True) else " (not in the means)"
        yield f"| {label}{unscored} | {' | '.join(_percent(row.get(score)) for score in PER_CLASS)} |"


def _classes(facts: ModelFacts) -> Iterator[str]:
    yield from ("", "## Classes", "", "| index | class | colour |", "|---:|---|---|")
    for index, (label, colour) in enumerate(zip(facts.spec.classes, facts.spec.colours, strict=True)):
        yield f"| {index} | {label} | {', '.join(map(str, colour))} |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
