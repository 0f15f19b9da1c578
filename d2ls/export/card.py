"""The model card of a model folder: `README.md` with the hub's metadata and the score table."""

import json

from jinja2 import Environment, PackageLoader

from d2ls.export.facts import ModelFacts
from d2ls.metrics import MEANS, PER_CLASS


def model_card(facts: ModelFacts, name: str) -> str:
    """The text of the model card, for a folder or repository of that name."""
    environment = Environment(loader=PackageLoader("d2ls.export"), autoescape=False, trim_blocks=True)
    environment.filters |= {"json": json.dumps, "percent": _percent}  # JSON strings are YAML strings
    scores = facts.scores
    return environment.get_template("card.md").render(
        facts=facts, spec=facts.spec, net=facts.arguments, name=name, means=MEANS, per_class=PER_CLASS, scores=scores,
        run=(scores or {}).get("run") or {}, paper="2503.06683",
    )  # fmt: skip


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
