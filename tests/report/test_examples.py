"""Which images a page shows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.report.examples import choose, ranked, spread


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=40))
def test_images_are_ranked_by_miou(values: list[float | None]) -> None:
    names = ranked([{"name": str(place), "mIoU": value} for place, value in enumerate(values)])
    scores = [values[int(name)] for name in names]
    assert scores == sorted((value for value in values if value is not None), reverse=True)


@settings(deadline=None)
@given(st.integers(1, 200))
def test_best_median_and_worst_are_different_images(number: int) -> None:
    names = [str(place) for place in range(number)]
    groups = choose(names)
    shown = [name for group in groups.values() for name in group]
    assert len(shown) == len(set(shown)) == min(9, number if number < 3 else 3 * (number // 3))
    assert groups["Best"][0] == "0"
    if number > 1:
        assert groups["Worst"][-1] == names[-1]
    if number > 2:
        assert list(groups) == ["Best", "Median", "Worst"]
        middle = (number - 1) / 2
        assert min(abs(int(name) - middle) for name in groups["Median"]) <= 0.5
    assert shown == sorted(shown, key=int)


@pytest.mark.parametrize(("number", "expected"), [(1, 1), (4, 4), (6, 6), (500, 6)])
def test_images_without_scores_are_spread_over_the_run(number: int, expected: int) -> None:
    names = [str(place) for place in range(number)]
    found = spread(names)
    assert len(found) == len(set(found)) == expected
    assert found[0] == "0"
    assert found[-1] == names[-1]
