"""Results that use one another are put in order, and circles are told as the way around."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.expressions.ordering import CircleError, levels


def test_each_level_needs_only_those_before_it() -> None:
    assert levels({"d": ["b", "c"], "b": ["a"], "a": [], "c": [], "e": ["d"]}) == [["a", "c"], ["b"], ["d"], ["e"]]


@pytest.mark.parametrize(
    ("needs", "path"),
    [
        ({"a": ["a"]}, ("a", "a")),
        ({"a": ["b"], "b": ["a"]}, ("a", "b", "a")),
        ({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]}, ("a", "b", "c", "a")),
        ({"a": ["b", "c"], "b": ["c"], "c": ["a"]}, ("a", "c", "a")),
    ],
)
def test_a_circle_is_told_as_the_shortest_way_around(needs: dict[str, list[str]], path: tuple[str, ...]) -> None:
    with pytest.raises(CircleError) as wrong:
        levels(needs)
    assert wrong.value.path == path
    assert " -> ".join(path) in str(wrong.value)


@given(st.dictionaries(st.integers(0, 8).map(str), st.lists(st.integers(0, 8).map(str), max_size=3), max_size=9))
def test_everything_is_ordered_or_in_a_circle(graph: dict[str, list[str]]) -> None:
    needs = {name: [one for one in needed if one in graph] for name, needed in graph.items()}
    try:
        found = levels(needs)
    except CircleError as circle:
        steps = list(zip(circle.path, circle.path[1:], strict=False))
        assert circle.path[0] == circle.path[-1]  # noqa: PT017 - what was raised is looked at
        assert all(following in needs[one] for one, following in steps)
        return
    behind: set[str] = set()
    for level in found:
        assert all(set(needs[name]) <= behind for name in level)
        behind.update(level)
    assert behind == set(needs)
