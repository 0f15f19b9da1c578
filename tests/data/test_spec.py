import json
from dataclasses import replace

import pytest

from d2ls.data.sets import cloud, dubai, grass, loveda, potsdam, uavid, vaihingen
from d2ls.data.spec import DatasetSpec
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
    ],
)
def test_contradictions_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(cloud.SPEC, **changes)


@pytest.mark.parametrize("damage", [{"classes": None}, {"colours": [[1, 2]]}, {"other": 1}])
def test_from_dict_refuses_what_it_does_not_know(damage: dict) -> None:
    with pytest.raises(ConfigError, match="not a description"):
        DatasetSpec.from_dict(cloud.SPEC.to_dict() | damage)
