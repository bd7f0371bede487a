"""Limits: strictly beyond, the worst counts, and hysteresis holds a level and the milder ones of its side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.alarms.levels import HIGH, HIGH_HIGH, LOW, LOW_LOW, NAMES, Levels, Limit

LIMITS = [Limit(HIGH_HIGH, 20, 1, 2), Limit(HIGH, 10, 1, 1), Limit(LOW, -10, -1, 1), Limit(LOW_LOW, -20, -1, 2)]


@pytest.mark.parametrize(
    ("number", "now", "then"),
    [
        (10, 0, 0),
        (10.1, 0, HIGH),
        (20.1, 0, HIGH_HIGH),
        (19, HIGH_HIGH, HIGH_HIGH),
        (18, HIGH_HIGH, HIGH),
        (19, HIGH, HIGH),
        (9, HIGH, HIGH),
        (8, HIGH, 0),
        (9, HIGH_HIGH, HIGH),
        (9, 0, 0),
        (-9, HIGH, 0),
        (-9, LOW, LOW),
        (-25, HIGH_HIGH, LOW_LOW),
        (-19, LOW_LOW, LOW_LOW),
        (-18, LOW_LOW, LOW),
    ],
)
def test_levels(number: float, now: int, then: int) -> None:
    assert NAMES[Levels(LIMITS, 2).level(number, now)] == NAMES[then]


def test_names_keep_their_numbers_for_states_name_them_by_these() -> None:
    assert NAMES.index("low") == 1
    assert NAMES.index("bad") == 10


@given(st.lists(st.integers(-25, 25), max_size=50))
def test_as_one_latch_for_each_limit(numbers: list[int]) -> None:
    of, level = Levels(LIMITS, 2), 0
    latched = dict.fromkeys([HIGH_HIGH, HIGH, LOW, LOW_LOW], False)
    for number in numbers:
        for one in LIMITS:
            beyond = (number - one.limit) * one.side
            latched[one.level] = beyond > 0 or (latched[one.level] and beyond > -2)
        level = of.level(number, level)
        assert level == next((one for one in (HIGH_HIGH, LOW_LOW, HIGH, LOW) if latched[one]), 0)


@given(st.lists(st.integers(-25, 25), max_size=50))
def test_whole_columns_see_the_same_limits(numbers: list[int]) -> None:
    of = Levels(LIMITS, 2)
    assert of.passed(np.array(numbers, dtype=np.float64)).tolist() == [of.level(number, 0) for number in numbers]
    assert of.passed(np.array([np.nan])).tolist() == [0]
