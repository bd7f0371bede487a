"""What is kept of a connection's streams, what a restart makes of it, and what damage costs."""

from __future__ import annotations

from collections.abc import Mapping

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from pi_collector.coverage import kept
from pi_collector.coverage.kept import DamagedError, pack, unpack
from pi_collector.coverage.state import EVERY, JOURNALS, REMEMBERED, State

from .archives import SECOND, handles, timed

T0 = 1_700_000_000 * SECOND


class Kept:
    """The outlet's positions."""

    def __init__(self) -> None:
        self.positions: dict[str, bytes] = {}
        self.wall = 0.0
        self.troubles: list[str] = []

    def note(self, positions: Mapping[str, bytes | None]) -> None:
        for key, value in positions.items():
            if value is None:
                self.positions.pop(key, None)
            else:
                self.positions[key] = value

    def state(self) -> State:
        state = State(lambda: self.wall)
        self.troubles = state.load(self.positions.get)
        return state


def collecting(kept_: Kept, *keys: str) -> State:
    state = kept_.state()
    for key in keys:
        state.coverage.begin(state.handle(key), T0, 60 * SECOND, 10 * SECOND, 10**17)
    return state


VALUES = timed([(0, T0 + SECOND, 1), (1, T0 + SECOND, 2), (1, T0 + SECOND, 2), (0, T0 + 2 * SECOND, 1)])


def test_a_value_is_fresh_once_and_an_identical_one_beside_it_is_another() -> None:
    state = collecting(Kept(), "a", "b")
    assert not state.known(VALUES).any()
    assert state.fresh(VALUES).all()
    assert not state.fresh(VALUES).any()
    assert state.known(VALUES).all()
    third = timed([(1, T0 + SECOND, 2)] * 3)
    assert state.fresh(third).tolist() == [False, False, True]


ROW = st.tuples(st.integers(-1, 2), st.integers(T0, T0 + 2), st.integers(0, 1))


@given(st.lists(st.lists(ROW, max_size=5), min_size=1, max_size=5), st.lists(ROW, max_size=4))
def test_several_answers_at_once_are_as_one_after_the_other(
    answers: list[list[tuple[int, int, int]]], before: list[tuple[int, int, int]]
) -> None:
    together, apart = collecting(Kept(), "a", "b"), collecting(Kept(), "a", "b")
    for state in (together, apart):
        state.fresh(timed(before))
    numbers = np.repeat(np.arange(len(answers), dtype=np.int32), [len(answer) for answer in answers])
    fresh = together.fresh(timed([row for answer in answers for row in answer]), numbers)
    assert fresh.tolist() == [one for answer in answers for one in apart.fresh(timed(answer)).tolist()]
    assert together.unknown == apart.unknown
    assert not together.fresh(timed([row for answer in answers for row in answer]), numbers).any()


def test_rows_of_handles_that_stand_for_nothing_are_dropped_and_counted() -> None:
    state = collecting(Kept(), "a")
    assert state.fresh(timed([(7, T0, 1), (0, T0, 1), (-1, T0, 1)])).tolist() == [False, True, False]
    assert state.unknown == 2


@pytest.mark.parametrize("with_checkpoint", [False, True])
def test_a_restart_goes_on_from_what_is_kept(with_checkpoint: bool) -> None:
    there = Kept()
    state = collecting(there, "a", "b")
    state.coverage.subscribed(handles(0, 1), T0)
    state.fresh(VALUES)
    state.advance(handles(0, 1), np.array([T0 + 10 * SECOND] * 2))
    there.note(state.journal())
    if with_checkpoint:
        there.note(state.checkpoint())
        assert not [key for key in there.positions if key.startswith("journal/")]
    again = collecting(there, "b", "a", "c")
    assert there.troubles == []
    assert [again.handle(key) for key in "abc"] == [0, 1, 2]
    assert again.known(VALUES).all()
    assert again.coverage.covered(1) == T0 + 10 * SECOND
    assert again.coverage.in_gap(0)
    assert not again.coverage.in_gap(2), "a new one has lost nothing"
    assert {event["cause"] for event in again.ledger.events(1, str) if event["state"] == "opened"} >= {"restart"}


def test_nothing_new_is_nothing_to_keep() -> None:
    there = Kept()
    state = collecting(there, "a")
    assert set(state.journal()) == {"journal/0", "journal"}
    assert state.journal() == {}
    there.note(state.checkpoint())
    assert not state.due(0.0)
    assert not state.due(1000.0)


def test_a_checkpoint_is_due_after_a_while_or_after_many_journals() -> None:
    state = collecting(Kept(), "a")
    state.fresh(VALUES)
    state.journal()
    assert not state.due(5.0)
    assert not state.due(5.0 + EVERY - 0.1)
    assert state.due(5.0 + EVERY)
    state.checkpoint()
    for number in range(JOURNALS):
        state.fresh(timed([(0, T0 + number * SECOND, 9)]))
        state.journal()
    assert state.due(20.0)


def test_confirmation_is_kept_by_a_checkpoint_alone() -> None:
    there = Kept()
    state = collecting(there, "a")
    state.coverage.subscribed(handles(0), T0)
    state.advance(handles(0), np.array([T0 + 10 * SECOND]))
    there.note(state.journal())
    state.coverage.confirmed(handles(0), T0 + 100 * SECOND)
    assert state.journal() == {}
    assert state.coverage.covered(0) == T0 + 100 * SECOND
    assert there.state().coverage.covered(0) == T0 + 10 * SECOND
    assert not state.due(0.0)
    assert state.due(EVERY)
    there.note(state.checkpoint())
    assert there.state().coverage.covered(0) == T0 + 100 * SECOND


def test_a_stream_that_is_removed_is_remembered_for_a_week() -> None:
    there = Kept()
    state = collecting(there, "a", "b")
    state.advance(handles(1), np.array([T0 + 5 * SECOND]))
    state.release(1)
    there.note(state.checkpoint())
    there.wall += REMEMBERED - 1
    state = there.state()
    assert state.handle("b") == 1
    assert state.coverage.covered(1) == T0 + 5 * SECOND
    state.release(1)
    there.wall += REMEMBERED + 1
    there.note(state.checkpoint())
    state = collecting(there, "a", "c")
    assert state.handle("c") == 1, "its handle is free again"
    assert state.coverage.covered(1) == T0
    assert state.key(1) == "c"


def test_a_stream_that_is_not_collected_after_a_restart_is_given_up_by_its_gap() -> None:
    there = Kept()
    state = collecting(there, "a", "b")
    state.coverage.subscribed(handles(0, 1), T0)
    state.advance(handles(0, 1), np.array([T0 + 10 * SECOND] * 2))
    state.coverage.lost(handles(0, 1), "cut")
    there.note(state.journal())
    state = collecting(there, "a")
    state.coverage.subscribed(handles(0), T0 + 100 * SECOND)
    state.advance(handles(0), np.array([T0 + 110 * SECOND]))
    assert state.ledger.counts()["open"] == 1
    there.wall += 7200
    there.note(state.checkpoint())
    assert state.ledger.counts() == {"opened": 2, "filled": 1, "abandoned": 1, "open": 0}


def test_events_that_were_told_are_not_told_again_once_that_is_kept() -> None:
    there = Kept()
    state = collecting(there, "a")
    state.coverage.subscribed(handles(0), T0)
    there.note(state.journal())
    assert [event["state"] for event in there.state().ledger.events(1, str)] == ["opened"]
    assert [event["state"] for event in state.ledger.events(1, str)] == ["opened"]
    there.note(state.journal())
    assert there.state().ledger.events(1, str) == []


def test_ten_thousand_streams_that_are_confirmed_write_little() -> None:
    there = Kept()
    state = collecting(there, *(f"archive:{number}|recorded" for number in range(10_000)))
    every = np.arange(10_000, dtype=np.int32)
    state.coverage.subscribed(every, T0)
    state.advance(every, np.full(10_000, T0 + 10 * SECOND))
    there.note(state.checkpoint())
    state.coverage.confirmed(every, T0 + 50 * SECOND)
    again = state.checkpoint()
    assert sum(len(value or b"") for value in again.values()) < 20_000


# --- damage ---


def some_kept() -> Kept:
    there = Kept()
    state = collecting(there, "a", "b")
    state.coverage.subscribed(handles(0, 1), T0)
    state.fresh(VALUES)
    state.advance(handles(0, 1), np.array([T0 + 10 * SECOND] * 2))
    there.note(state.journal())
    there.note(state.checkpoint())
    state.fresh(timed([(0, T0 + 20 * SECOND, 3)]))
    there.note(state.journal())
    state.fresh(timed([(0, T0 + 30 * SECOND, 4)]))
    there.note(state.journal())
    return there


KEYS = sorted(some_kept().positions)


def test_the_parts_of_what_is_kept_are_these() -> None:
    assert KEYS == ["coverage", "journal", "journal/1", "journal/2", "streams", "tail/0"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "empty", "foreign"])
def test_damage_is_told_and_costs_only_what_it_remembered(key: str, damage: str) -> None:
    there = some_kept()
    note = there.positions[key]
    there.positions[key] = {
        "gone": b"",
        "cut": note[: len(note) // 2],
        "flipped": note[:-1] + bytes([note[-1] ^ 255]),
        "empty": b"",
        "foreign": pack({"head": b"[]", "names": b'{"a": 7}', "numbers": b"1", "keys": b"123", "ledger": b"3"}),
    }[damage]
    if damage == "gone":
        del there.positions[key]
    state = there.state()
    assert there.troubles or damage == "gone", "told"
    for name in ("a", "b", "c"):
        state.coverage.begin(state.handle(name), T0, 60 * SECOND, 10 * SECOND, 10**17)
    assert (state.coverage._covered[:3] <= T0 + 10 * SECOND).all(), "never ahead"
    state.coverage.subscribed(handles(0, 1, 2), T0 + 60 * SECOND)
    piece = state.coverage.work(T0 + 70 * SECOND, 0.0, 100)
    assert piece is not None
    if key == "tail/0":
        assert state.coverage.covered(0) == T0 + 10 * SECOND
        assert piece.start[piece.streams < 2].min() >= T0 + 10 * SECOND, "nothing before the frontier is read again"
    # It goes on, and what it keeps then is whole.
    there.note(state.journal())
    there.note(state.checkpoint())
    there.state()
    assert there.troubles == []


@given(st.dictionaries(st.text(max_size=5), st.binary(max_size=6000), max_size=5))
def test_a_note_is_what_was_put_into_it(sections: dict[str, bytes]) -> None:
    assert unpack(pack(sections)) == sections


@given(st.binary(max_size=200), st.binary(max_size=300))
def test_whatever_is_no_note_is_called_damaged(prefix: bytes, rubbish: bytes) -> None:
    for note in (rubbish, b"SPC1" + rubbish, b"SPZ1" + rubbish, pack({"a": prefix})[:-1], pack({"a": prefix}) + b"x"):
        with pytest.raises(DamagedError):
            unpack(note)


def test_a_column_of_another_length_is_damaged() -> None:
    with pytest.raises(DamagedError, match="section x has 7 bytes"):
        kept.column({"x": b"1234567"}, "x", np.int64)
    with pytest.raises(DamagedError):
        kept.column({"x": b"12345678"}, "x", np.int64, 2)
