import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2ls.data.sets import cloud, dubai, grass, loveda, potsdam, uavid, vaihingen
from d2ls.data.spec import DTYPES, DatasetSpec
from d2ls.errors import ConfigError

SPECS = [module.SPEC for module in (vaihingen, potsdam, loveda, uavid, grass, cloud, dubai)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_survives_json(spec: DatasetSpec) -> None:
    assert DatasetSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("name", "classes", "ignore", "scored"),
    [
        ("vaihingen", 6, 6, 5), ("potsdam", 6, 6, 5), ("loveda", 7, 7, 7), ("uavid", 8, 255, 8),
        ("grass", 5, 255, 5), ("cloud", 4, 255, 4), ("dubai", 6, 255, 5),
    ],
)  # fmt: skip
def test_shipped_specs(name: str, classes: int, ignore: int, scored: int) -> None:
    spec = next(spec for spec in SPECS if spec.name == name)
    assert (spec.num_classes, spec.ignore_index, spec.scored) == (classes, ignore, tuple(range(scored)))


def test_all_classes_are_scored_where_none_is_named() -> None:
    assert replace(cloud.SPEC, scored=()).scored == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ("a",)}, "2 to 254"),
        ({"classes": ("a", "a", "b", "c")}, "different names"),
        ({"colours": ((0, 0, 0),)}, "1 colours for 4 classes"),
        ({"reference_colours": ((0, 0, 0),)}, "1 reference_colours for 4"),
        ({"ignore_index": 3}, "ignore_index is 3"),
        ({"ignore_index": 256}, "ignore_index is 256"),
        ({"scored": (0, 4)}, "scored names class 4"),
        ({"scored": (0, 0)}, "repeats"),
        ({"also_read": {(1, 2, 3): 4}}, "also_read names class 4"),
        ({"also_read": {(79, 253, 199): 1}}, "two meanings"),
        ({"ignore_colours": ((79, 253, 199),)}, "two meanings"),
        ({"ignore_colours": ((0, 0, 256),)}, "not a colour"),
        ({"values": {256: "Clear"}}, "values has 256"),
        ({"values": {0: "clear"}}, r"values\[0\] is 'clear'.*Thin Cloud"),
        ({"values": {0: "Clear", 1: "Cloud Shadow", 2: "Cloud"}}, "'Thin Cloud'"),
        ({"bands": ()}, "bands"),
        ({"bands": ("a", "a", "b")}, "different"),
        ({"bands": tuple(f"b{n}" for n in range(65))}, "1 to 64"),
        ({"file_bands": (1, 2)}, "file_bands"),
        ({"file_bands": (0, 1, 2)}, "file_bands"),
        ({"dtype": "uint32"}, "dtype is 'uint32'"),
        ({"value_range": (3.0, 3.0)}, "value_range"),
        ({"mean": (1.0, 2.0)}, "2 values of mean and 3 of std for 3 bands"),
        ({"std": (1.0, 0.0, 1.0)}, "above 0"),
        ({"mean": (1.0, float("nan"), 1.0)}, "finite"),
        ({"nodata": float("inf")}, "nodata is inf"),
    ],
)
def test_contradictions_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(cloud.SPEC, **changes)


@pytest.mark.parametrize("damage", [{"classes": None}, {"colours": [[1, 2]]}, {"other": 1}])
def test_from_dict_refuses_what_it_does_not_know(damage: dict) -> None:
    with pytest.raises(ConfigError, match="not a description"):
        DatasetSpec.from_dict(cloud.SPEC.to_dict() | damage)


def test_pictures_take_the_statistics_of_imagenet() -> None:
    spec = cloud.SPEC
    assert (spec.bands, spec.file_bands, spec.value_range) == (("red", "green", "blue"), (1, 2, 3), (0, 255))
    assert spec.mean == pytest.approx((123.675, 116.28, 103.53))
    assert spec.std == pytest.approx((58.395, 57.12, 57.375))
    assert spec.is_rgb8
    factor, offset = spec.scale_and_offset()
    assert np.float32(100) * factor[0] + offset[0] == pytest.approx((100 / 255 - 0.485) / 0.229)


@pytest.mark.parametrize("change", [{"bands": ("red", "green", "nir")}, {"dtype": "uint16"}])
def test_other_images_need_statistics_of_their_own(change: dict) -> None:
    facts = cloud.SPEC.to_dict() | {"mean": [], "std": []} | change
    spec = DatasetSpec.from_dict(facts)
    assert not spec.is_rgb8
    with pytest.raises(ConfigError, match=r"cloud.*band_statistics.py -c"):
        spec.scale_and_offset()


@given(number=st.integers(1, 64), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 100), ignored=st.booleans())
def test_bands_and_values_survive_json(number: int, dtype: str, seed: int, ignored: bool) -> None:
    rng = np.random.default_rng(seed)
    spec = replace(
        cloud.SPEC,
        bands=tuple(f"b{n}" for n in range(number)),
        file_bands=tuple(rng.permutation(number) + 1),
        dtype=dtype,
        value_range=(-5.0, 3.5),
        mean=tuple(rng.normal(size=number)),
        std=tuple(rng.uniform(0.1, 9, number)),
        nodata=-9999.0,
        values=dict(enumerate(cloud.SPEC.classes, 1)) | ({0: "ignore"} if ignored else {}),
    )
    assert DatasetSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    hash(spec)


def test_positions_of_red_green_and_blue() -> None:
    spec = replace(cloud.SPEC, bands=("nir", "blue", "green", "red"), file_bands=(), mean=(), std=(), dtype="int16")
    assert spec.rgb == (3, 2, 1)
    assert spec.file_bands == (1, 2, 3, 4)
    assert replace(spec, bands=("nir", "blue", "green", "swir")).rgb is None


def test_descriptions_of_older_versions_are_read() -> None:
    new = ("values", "bands", "file_bands", "dtype", "value_range", "mean", "std", "nodata")
    facts = {key: value for key, value in cloud.SPEC.to_dict().items() if key not in new}
    assert DatasetSpec.from_dict(facts) == cloud.SPEC
