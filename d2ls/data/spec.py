"""Description of a data set: classes and colours of its masks, bands and value range of its images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2ls.errors import ConfigError

Colour = tuple[int, int, int]
IGNORE = "ignore"
RGB = ("red", "green", "blue")
DTYPES = ("uint8", "uint16", "int16", "float32")
MAX_BANDS = 64
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of values scaled to 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Meaning of the masks and images of one data set.

    Attributes:
        name: name of the data set, also of its folder of settings.
        classes: class names, in index order.
        colours: RGB, one per class, values 0..255.
        ignore_index: value of pixels that count in no loss and no metric; not a class.
        ignore_colours: colours that are read as `ignore_index`.
        scored: indices of the classes in mean F1 and mIoU; all of them by default.
        also_read: further colours and the class index that each is read as.
        reference_colours: colours as the reference implementation writes them, where they differ.
        citation: publication of the data set.
        values: meaning of the values in index masks, a class name or "ignore" for each value from 0 to 255, as in
            `{0: "background", 255: "building"}` or `{0: "ignore", 1: "water", 2: "land"}`; values that are not listed
            are an error. By default masks hold class indices and `ignore_index`.
        bands: names of the image bands, in the order in which the network takes them.
        file_bands: number of each band in the file, from 1; by default 1, 2, 3, ...
        dtype: type of the pixel values, one of `DTYPES`.
        value_range: lowest and highest value to expect, the range of colour changes; 0 to 255 by default for uint8.
        mean: mean of each band, in the unit of the pixel values; ImageNet's by default for 8-bit RGB.
        std: standard deviation of each band, as `mean`.
        nodata: value of pixels without data, which are ignored; by default what the files declare. NaN is always one.

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
    values: Mapping[int, str] = field(default_factory=dict, hash=False)
    bands: tuple[str, ...] = RGB
    file_bands: tuple[int, ...] = ()
    dtype: str = "uint8"
    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    nodata: float | None = None

    def __post_init__(self) -> None:
        for key in ("bands", "file_bands", "mean", "std"):
            if not isinstance(getattr(self, key), str):
                object.__setattr__(self, key, tuple(getattr(self, key)))
        defaults: dict[str, Any] = {
            "scored": tuple(range(len(self.classes))),
            "file_bands": tuple(range(1, len(self.bands) + 1)),
        }
        if self.dtype == "uint8":
            defaults["value_range"] = (0.0, 255.0)
            if self.bands == RGB and not self.std:
                defaults["mean"] = tuple(255 * value for value in IMAGENET_MEAN)
                defaults["std"] = tuple(255 * value for value in IMAGENET_STD)
        for key, value in defaults.items():
            if not getattr(self, key):
                object.__setattr__(self, key, value)
        if problem := next(chain(self._label_problems(), self._colour_problems(), self._band_problems()), None):
            raise ConfigError(f"data set {self.name!r}: {problem}.")

    @property
    def num_classes(self) -> int:
        """Number of classes, without ignore."""
        return len(self.classes)

    @property
    def is_rgb8(self) -> bool:
        """Whether images are ordinary pictures: the bands red, green, blue of a file, 8 bits each."""
        return (self.bands, self.file_bands, self.dtype, self.nodata) == (RGB, (1, 2, 3), "uint8", None)

    @property
    def rgb(self) -> tuple[int, int, int] | None:
        """Positions of the bands named red, green and blue; None where one of them is missing."""
        red, green, blue = (self.bands.index(name) if name in self.bands else -1 for name in RGB)
        return (red, green, blue) if min(red, green, blue) >= 0 else None

    def scale_and_offset(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Factor and summand of each band, (bands,) each, with which `value * factor + summand` is normalised.

        Raises:
            ConfigError: the spec has no mean and standard deviation.
        """
        if not self.std:
            raise ConfigError(
                f"data set {self.name!r}: no mean and std for {len(self.bands)} bands of {self.dtype}. Run "
                "tools/band_statistics.py -c CONFIG and copy the lines that it prints into the DatasetSpec."
            )
        mean, std = np.array(self.mean), np.array(self.std)
        return (1 / std).astype(np.float32), (-mean / std).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return the same facts as lists, numbers and strings only, for a checkpoint."""
        return {entry.name: _plain(getattr(self, entry.name)) for entry in fields(self)}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> "DatasetSpec":
        """Rebuild what `to_dict` returned; entries that older versions did not write take their defaults.

        Raises:
            ConfigError: an entry is missing, unknown or of the wrong kind.
        """
        try:
            known = {key: _frozen(value) for key, value in facts.items()}
            for key in ("also_read", "values"):
                known[key] = dict(known.get(key, ()))
            return cls(**known)
        except (ConfigError, TypeError, ValueError) as problem:
            raise ConfigError(f"not a description of a data set's classes: {str(problem).rstrip('.')}.") from problem

    def _label_problems(self) -> Iterator[str]:
        number = len(self.classes)
        if not 2 <= number <= 254 or len(set(self.classes)) != number:
            yield f"classes are {self.classes}, expected 2 to 254 different names"
        if not 0 <= self.ignore_index <= 255 or self.ignore_index < number:
            yield f"ignore_index is {self.ignore_index}, expected a value from {number} to 255, which no class has"
        for key, indices in (("scored", tuple(self.scored)), ("also_read", tuple(self.also_read.values()))):
            if key == "scored" and len(set(indices)) != len(indices):
                yield f"scored repeats a class: {indices}"
            if wrong := [index for index in indices if not 0 <= index < number]:
                yield f"{key} names class {wrong[0]}, expected 0 to {number - 1}"
        for value, name in self.values.items():
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
                yield f"values has {value!r}, expected whole numbers from 0 to 255"
            if name not in (IGNORE, *self.classes):
                yield f"values[{value}] is {name!r}, expected {IGNORE!r} or a class: {', '.join(self.classes)}"
        if self.values and (absent := [name for name in self.classes if name not in self.values.values()]):
            yield f"no entry of values means class {absent[0]!r}"

    def _colour_problems(self) -> Iterator[str]:
        """Values that are no colours, and colours with two meanings."""
        for label, colours in (("colours", self.colours), ("reference_colours", self.reference_colours)):
            if colours is not None and len(colours) != len(self.classes):
                yield f"{len(colours)} {label} for {len(self.classes)} classes, expected one each"
        read = (*self.colours, *self.ignore_colours, *self.also_read)
        for colour in (*read, *(self.reference_colours or ())):
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                yield f"{colour} is not a colour, expected three values of 0 to 255"
        if repeated := [colour for colour in read if read.count(colour) > 1]:
            yield f"colour {repeated[0]} has two meanings"
        if self.reference_colours is not None and len(set(self.reference_colours)) != len(self.reference_colours):
            yield "reference_colours repeats a colour"

    def _band_problems(self) -> Iterator[str]:
        number = len(self.bands)
        if not isinstance(self.bands, tuple) or not 1 <= number <= MAX_BANDS or len(set(self.bands)) != number:
            yield f"bands is {self.bands!r}, expected a tuple of 1 to {MAX_BANDS} different names"
        if len(self.file_bands) != number or min(self.file_bands) < 1:
            yield f"file_bands is {self.file_bands}, expected a number from 1 for each of {number} bands"
        if self.dtype not in DTYPES:
            yield f"dtype is {self.dtype!r}, expected one of {', '.join(DTYPES)}"
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            yield f"value_range is {self.value_range}, expected the lowest and a higher value"
        if len(self.mean) != len(self.std) or len(self.mean) not in (0, number):
            yield f"{len(self.mean)} values of mean and {len(self.std)} of std for {number} bands, expected one each"
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and min(self.std, default=1) > 0):
            yield f"mean is {self.mean} and std {self.std}, expected finite numbers, std above 0"
        if self.nodata is not None and not np.isfinite(self.nodata):
            yield f"nodata is {self.nodata}, expected a finite number (NaN is always without data)"


def _plain(value: Any) -> Any:
    """Tuples as lists, mappings as lists of pairs, numbers of NumPy as Python's."""
    if isinstance(value, Mapping):
        return [[_plain(key), item] for key, item in value.items()]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _frozen(value: Any) -> Any:
    """Lists as tuples, at any depth."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
