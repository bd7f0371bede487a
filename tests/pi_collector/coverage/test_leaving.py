"""Streams that leave while something of them is under way, come back, or make room for others."""

from __future__ import annotations

import numpy as np
import pytest

from pi_collector.coverage import state as module
from pi_collector.coverage.ledger import MOST
from pi_collector.values.timed import TICK

from .archives import SECOND, handles, timed
from .test_state import T0, Kept, collecting


def test_what_arrives_after_a_stream_has_left_moves_nothing() -> None:
    state = collecting(Kept(), "a")
    state.coverage.subscribed(handles(0), T0 + 7200 * SECOND)
    piece = state.coverage.work(T0 + 7300 * SECOND, 0.0, 10)
    assert piece is not None
    state.release(0)
    state.advance(handles(0), np.array([T0 + 3600 * SECOND]))
    assert state.coverage.covered(0) == T0, "its values were taken by nobody"


def test_a_handle_stands_for_another_stream_only_when_nothing_is_under_way_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_REMOVED", 1)
    there = Kept()
    state = collecting(there, "a", "b")
    for handle in (0, 1):
        state.release(handle)  # the first is forgotten at once, for want of room
    there.wall = 60.0
    assert state.handle("c") == 2
    there.wall = 700.0
    assert state.handle("d") == 0
    there.note(state.checkpoint())
    again = there.state()
    assert [again.handle(key) for key in "bcd"] == [1, 2, 0]


def test_what_a_stream_begins_with_is_not_shortened_even_where_its_gap_had_to_join_another() -> None:
    there = Kept()
    state = collecting(there, *(f"s{number}" for number in range(MOST)))
    for number in range(MOST):
        state.coverage.want(handles(number), T0)
        state.coverage.lost(handles(number), f"cause {number}")
        state.ledger.events(0, state.key)
    assert state.ledger.counts()["open"] == MOST
    begins = T0 - 90 * 86400 * SECOND
    late = state.handle("late")
    state.coverage.begin(late, begins, 0, 0, 86400 * SECOND)
    state.coverage.subscribed(handles(late), T0)
    there.note(state.journal())
    again = there.state()
    again.coverage.begin(again.handle("late"), 0, 0, 0, 86400 * SECOND)
    again.coverage.subscribed(handles(late), T0 + 60 * SECOND)
    assert again.coverage.covered(late) == begins
    assert again.ledger.counts()["abandoned"] == 0
    again.advance(handles(late), np.array([T0 + 60 * SECOND]))
    again.coverage.lost(handles(late), "cut")
    again.coverage.subscribed(handles(late), T0 + 10 * 86400 * SECOND)
    assert again.coverage.covered(late) == T0 + 9 * 86400 * SECOND, "later ones are"


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("remembered", [False, True])
def test_a_stream_that_comes_back_is_read_from_where_what_it_had_is_remembered(remembered: bool, restart: bool) -> None:
    there = Kept()
    state = collecting(there, "a", "b")
    state.reconcile_ns = 3600 * SECOND
    state.coverage.subscribed(handles(0, 1), T0)
    piece = state.coverage.work(T0 + 10 * SECOND, 0.0, 10)
    assert piece is not None
    state.advance(handles(0, 1), np.array([T0 + 10 * SECOND] * 2))
    state.coverage.finished(piece)
    values = timed([(0, T0 + 200 * SECOND, 1)])
    state.fresh(values)
    state.coverage.confirmed(handles(0, 1), T0 + 200 * SECOND)
    there.note(state.journal())
    there.note(state.checkpoint())
    state.release(0)
    later = T0 + (300 if remembered else 7200) * SECOND
    state.fresh(timed([(1, later, 1)]))
    state.coverage.confirmed(handles(1), later)
    state.coverage.work(later, 1.0, 10)
    there.note(state.checkpoint())
    if restart:
        state = there.state()
    assert state.known(values).tolist() == [remembered]
    state.coverage.begin(state.handle("a"), T0, 60 * SECOND, 10 * SECOND, 10**17)
    state.coverage.subscribed(handles(0), later)
    piece = state.coverage.work(later + 10 * SECOND, 2.0, 10)
    assert piece is not None
    assert piece.start.tolist() == [T0 + 140 * SECOND if remembered else T0 + 200 * SECOND + TICK]
