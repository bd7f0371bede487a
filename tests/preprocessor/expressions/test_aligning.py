"""What a place was at a time: the last of all samples at or before it, however late they came."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessor.engine.packing import pack, unpack
from preprocessor.expressions.aligning import Followed, Found, Rows

PLACES = 3
ONE = st.tuples(st.integers(0, PLACES - 1), st.integers(0, 20), st.integers(0, 9))
TURNS = st.lists(st.lists(ONE, max_size=6), min_size=1, max_size=6)


def rows(of: list[tuple[int, int, int]]) -> Rows:
    return Rows(
        np.array([place for place, _, _ in of], dtype=np.int32),
        np.array([time for _, time, _ in of], dtype=np.int64),
        np.array([value for _, _, value in of], dtype=np.float64),
        np.zeros(len(of), dtype=np.uint8),
    )


def answers(found: Found) -> list[tuple[float | None, float | None]]:
    """The value, and the one before it."""
    column = found.column(looks_back=True)
    assert column.before is not None
    both = zip(column.value.tolist(), column.before.value.tolist(), strict=True)
    return [(None if a != a else a, None if b != b else b) for a, b in both]


@settings(max_examples=400, deadline=None)
@given(TURNS, st.integers(0, 6))
def test_it_is_the_last_of_all_samples_at_or_before(turns: list[list[tuple[int, int, int]]], cut: int) -> None:
    followed = Followed(PLACES)
    followed.grow(PLACES)
    known: list[dict[int, int]] = [{} for _ in range(PLACES)]
    questions = [(place, time) for place in range(PLACES) for time in range(-1, 22)]
    places = np.array([place for place, _ in questions], dtype=np.int32)
    times = np.array([time for _, time in questions], dtype=np.int64)
    for number, turn in enumerate(turns):
        if number == cut:
            state = unpack(pack(followed.save()))
            followed = Followed(PLACES)
            followed.grow(PLACES)
            followed.load(state, np.arange(PLACES, dtype=np.int32))
        for place, time, value in turn:
            known[place][time] = value
        came = rows(turn)
        expected = []
        for place, time in questions:
            before = sorted((one for one in known[place] if one <= time), reverse=True)
            values = [float(known[place][one]) for one in before[:2]]
            expected.append((values[0] if values else None, values[1] if len(values) > 1 else None))
        assert answers(followed.look(came, places, times, looks_back=True)) == expected
        followed.take(came)
        assert answers(followed.look(rows([]), places, times, looks_back=True)) == expected


@settings(max_examples=200, deadline=None)
@given(TURNS, st.lists(st.booleans(), min_size=6, max_size=6))
def test_it_makes_no_difference_when_it_is_saved(turns: list[list[tuple[int, int, int]]], saves: list[bool]) -> None:
    ones = [Followed(100_000), Followed(100_000)]
    for one in ones:
        one.grow(PLACES)
    for turn, save in zip(turns, saves, strict=False):
        for one in ones:
            one.take(rows(turn))
        if save:
            ones[0].save()
    assert pack(ones[0].save()) == pack(ones[1].save())


def test_what_is_forgotten_is_the_oldest_that_is_kept() -> None:
    followed = Followed(1_000_000)
    assert followed.depth == 4
    followed.grow(1)
    for time in range(10):
        followed.take(rows([(0, time, time)]))
    followed.save()
    asked = np.array([-1, 0, 3, 5, 6, 7, 9], dtype=np.int64)
    found = followed.look(rows([]), np.zeros(len(asked), dtype=np.int32), asked)
    assert [value for value, _ in answers(found)] == [None, 6.0, 6.0, 6.0, 6.0, 7.0, 9.0]
    assert found.ages().tolist()[1:4] == [0.0, 0.0, 0.0]


def test_a_place_that_is_gone_takes_its_samples_with_it() -> None:
    followed = Followed(2)
    followed.grow(2)
    followed.take(rows([(0, 1, 5), (1, 1, 7)]))
    other = Followed(2)
    other.grow(1)
    other.load(unpack(pack(followed.save())), np.array([-1, 0], dtype=np.int32))
    assert other.newest(0) == (1, 7.0, 0)
