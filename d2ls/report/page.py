"""`report.html`, put together from a run's scores, pictures and dictionary."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from torch import nn

from d2ls.data.dataset import SegmentationDataset
from d2ls.data.io import write_bytes
from d2ls.errors import ConfigError
from d2ls.inference.results import REPORT, Masks
from d2ls.inference.scores import MEANS, Scores
from d2ls.metrics import PER_CLASS, percent
from d2ls.report import dictionary, pictures
from d2ls.report.examples import choose, example, ranked, spread

_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%#_{}$"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
)
"""What has a meaning in LaTeX, as text."""
_LABELS = {
    "dataset": "Data set", "checkpoint_sha256": "SHA-256 of the checkpoint", "config_sha256": "SHA-256 of the config",
    "d2ls": "d2ls", "torch": "PyTorch",
}  # fmt: skip
"""Names of a run's settings; another one stands under its own name, with a capital."""


def check_image(name: str | None, dataset: SegmentationDataset) -> None:
    """Refuse, by a ConfigError, an image whose dictionary is wanted and that the data set does not have."""
    names = [pair.name for pair in dataset.pairs]
    if name is not None and name not in names:
        some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ConfigError(f"--report-image {name}: no image of that name. The names of the {len(names)} images: {some}")


def write(
    dataset: SegmentationDataset,
    masks: Masks,
    scores: Scores,
    net: nn.Module,
    run: Mapping[str, Any],
    *,
    image: str | None = None,
    window: tuple[int, int] | None = None,
) -> Path:
    """Write the page beside a run's masks; a few images and masks are read again, one at a time.

    `run` tells what made the masks. The dictionary is that of the `image` of a name, by default of the median by mIoU,
    else of the first, as the network sees it whole or, of one larger than the `window` (height, width), its centre.
    """
    pairs = {pair.name: pair for pair in dataset.pairs}
    found = scores.plain if scores.counts else None
    order = ranked(found["images"]) if found else []
    groups = choose(order) if order else {"": spread(list(pairs))}
    chosen = pairs[image or (order[len(order) // 2] if order else next(iter(pairs)))]
    content = {
        "spec": dataset.spec,
        "number": len(pairs),
        "found": found,
        "means": MEANS,
        "per_class": PER_CLASS,
        "command": run["command"],
        "settings": {_LABELS.get(name, name.capitalize()): _plain(value) for name, value in run.items()},
        "groups": {
            title: [example(dataset, pairs[n], masks, scores) for n in names] for title, names in groups.items()
        },
        "ranks": {name: rank for rank, name in enumerate(order, 1)},
        "network": type(net).__name__,
        "dictionary": dictionary.figures(net, chosen, masks, window or dictionary.LARGEST_WINDOW),
        "heat": ", ".join("rgb({} {} {})".format(*colour) for colour in pictures.HEAT[::51].tolist()),
    }
    path = masks.folder / REPORT
    write_bytes(path, render(content).encode())
    return path


def render(content: Mapping[str, Any], template: str = "report.html", script_file: str | None = "report.js") -> str:
    """The text of a page; whatever comes from outside is escaped, and only the page's own script, if any, may run."""
    environment = _environment()
    style, script = _own(environment, "report.css"), _own(environment, script_file) if script_file else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    scripts = Markup(f"'sha256-{digest}'" if script else "'none'")
    return environment.get_template(template).render(content, style=style, script=script, scripts=scripts)


def render_text(content: Mapping[str, Any], template: str) -> str:
    """The text of a file that is no page; nothing is escaped but by the template."""
    return _environment().get_template(template).render(content)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("d2ls.report"), autoescape=select_autoescape(), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters |= {"percent": percent, "shares": _shares, "latex": lambda text: text.translate(_LATEX)}
    return environment


def _own(environment: Environment, name: str) -> Markup:
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def _shares(row: Sequence[int]) -> list[float | None]:
    """Counts as shares of their sum; None where there are none."""
    total = sum(row)
    return [value / total if total else None for value in row]


def _plain(value: Any) -> str:
    """A setting in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value))
    return "none" if value is None else str(value)
