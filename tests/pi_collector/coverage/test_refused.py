"""What a transaction costs that the database refused while later ones were stored."""

from __future__ import annotations

import numpy as np

from .archives import SECOND, handles, timed
from .test_state import T0, Kept, collecting


def test_what_was_stored_after_something_that_was_refused_moves_no_frontier_and_is_not_handed_on_again() -> None:
    there = Kept()
    state = collecting(there, "a")
    state.coverage.subscribed(handles(0), T0)
    state.advance(handles(0), np.array([T0 + 10 * SECOND]))
    there.note(state.journal())
    state.fresh(timed([(0, T0 + 20 * SECOND, 1)]))
    state.advance(handles(0), np.array([T0 + 20 * SECOND]))
    state.coverage.begin(state.handle("b"), T0 - 3600 * SECOND, 0, 0, 10**17)
    state.journal()  # this transaction is refused, and what was put after it is not
    state.fresh(timed([(0, T0 + 30 * SECOND, 2)]))
    state.advance(handles(0, 1), np.array([T0 + 30 * SECOND] * 2))
    state.coverage.lost(handles(0), "cut")
    state.ledger.events(0, state.key)
    there.note(state.journal())

    again = there.state()
    assert "journal/1 is missing" in there.troubles[0]
    assert again.coverage.covered(again.handle("a")) == T0 + 10 * SECOND
    a = again.handle("a")
    assert again.fresh(timed([(a, T0 + 20 * SECOND, 1), (a, T0 + 30 * SECOND, 2)])).tolist() == [True, False]
    again.coverage.begin(a, T0, 60 * SECOND, 10 * SECOND, 10**17)
    assert [event["state"] for event in again.ledger.events(0, again.key)] == [], "its opening was told"
    again.coverage.subscribed(handles(a), T0 + 60 * SECOND)
    piece = again.coverage.work(T0 + 70 * SECOND, 0.0, 100)
    assert piece is not None
    assert piece.start.tolist() == [T0], "with its overlap: what was refused may be late values"


def test_a_stream_that_began_in_what_was_refused_begins_there() -> None:
    there = Kept()
    state = collecting(there, "a")
    there.note(state.journal())
    state.coverage.begin(state.handle("b"), T0 - 3600 * SECOND, 0, 0, 10**17)
    names = state.journal()
    there.note({key: note for key, note in names.items() if key == "journal"})
    state.advance(handles(1), np.array([T0]))
    state.release(1)  # names it again
    state.handle("b")
    there.note(state.journal())
    again = there.state()
    assert again.coverage.covered(again.handle("b")) == T0 - 3600 * SECOND
