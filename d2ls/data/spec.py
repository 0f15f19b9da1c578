"""What a data set's labels mean: classes, colours, what is ignored and what is scored."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from d2ls.errors import ConfigError

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Facts about the labels of one data set.

    Attributes:
        name: name of the data set, also of its folder of settings.
        classes: class names, in index order.
        colours: RGB, one per class, values 0..255.
        ignore_index: value of pixels that count in no loss and no metric; not a class.
        ignore_colours: colours that are read as `ignore_index`.
        scored: indices of the classes in mean F1 and mIoU; all of them where none is named.
        also_read: further colours and the class each is read as.
        reference_colours: colours as the reference implementation writes them, where they differ.
        citation: where the data set comes from.

    Raises:
        ConfigError: the parts contradict each other.
    """

    name: str
    classes: tuple[str, ...]
    colours: tuple[Colour, ...]
    ignore_index: int
    ignore_colours: tuple[Colour, ...] = ()
    scored: tuple[int, ...] = ()
    also_read: Mapping[Colour, int] = field(default_factory=dict, hash=False)
    reference_colours: tuple[Colour, ...] | None = None
    citation: str = ""

    def __post_init__(self) -> None:
        if not self.scored:
            object.__setattr__(self, "scored", tuple(range(len(self.classes))))
        if problem := self._problem():
            raise ConfigError(f"data set {self.name!r}: {problem}.")

    @property
    def num_classes(self) -> int:
        """Number of classes, ignore not among them."""
        return len(self.classes)

    def to_dict(self) -> dict[str, Any]:
        """The same facts as lists, numbers and strings only, for a checkpoint."""
        facts = asdict(self)
        facts["also_read"] = [[list(colour), index] for colour, index in self.also_read.items()]
        for key in ("classes", "scored"):
            facts[key] = list(facts[key])
        for key in ("colours", "ignore_colours", "reference_colours"):
            facts[key] = None if facts[key] is None else [list(colour) for colour in facts[key]]
        return facts

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> "DatasetSpec":
        """Rebuild what `to_dict` gave.

        Raises:
            ConfigError: an entry is missing, unknown or of the wrong kind.
        """
        try:
            known = dict(facts)
            known["also_read"] = {_colour(colour): int(index) for colour, index in known.get("also_read", ())}
            for key in ("classes", "scored"):
                known[key] = tuple(known[key])
            for key in ("colours", "ignore_colours"):
                known[key] = tuple(_colour(colour) for colour in known[key])
            if (reference := known.get("reference_colours")) is not None:
                known["reference_colours"] = tuple(_colour(colour) for colour in reference)
            return cls(**known)
        except (KeyError, TypeError, ValueError) as problem:
            raise ConfigError(f"not a description of a data set's classes: {problem}.") from problem

    def _problem(self) -> str | None:
        """The first contradiction between the parts, or None."""
        number = len(self.classes)
        if not 2 <= number <= 254 or len(set(self.classes)) != number:
            return f"classes are {self.classes}, expected 2 to 254 different names"
        for label, colours in (("colours", self.colours), ("reference_colours", self.reference_colours)):
            if colours is not None and len(colours) != number:
                return f"{len(colours)} {label} for {number} classes, expected one each"
        if not 0 <= self.ignore_index <= 255 or self.ignore_index < number:
            return f"ignore_index is {self.ignore_index}, expected a value from {number} to 255, which no class has"
        for what, indices in (("scored", tuple(self.scored)), ("also_read", tuple(self.also_read.values()))):
            if what == "scored" and len(set(indices)) != len(indices):
                return f"scored repeats a class: {indices}"
            if wrong := [index for index in indices if not 0 <= index < number]:
                return f"{what} names class {wrong[0]}, expected 0 to {number - 1}"
        return self._colour_problem()

    def _colour_problem(self) -> str | None:
        """The first colour that is none, or that means two things, or None."""
        read = (*self.colours, *self.ignore_colours, *self.also_read)
        for colour in (*read, *(self.reference_colours or ())):
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                return f"{colour} is not a colour, expected three values of 0 to 255"
        if repeated := [colour for colour in read if read.count(colour) > 1]:
            return f"colour {repeated[0]} has two meanings"
        if self.reference_colours is not None and len(set(self.reference_colours)) != len(self.reference_colours):
            return "reference_colours repeats a colour"
        return None


def _colour(values: Any) -> Colour:
    red, green, blue = (int(value) for value in values)
    return red, green, blue
