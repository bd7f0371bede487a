"""Looking at the archive again: every stream once in its interval, spread evenly, and never before its beginning."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given

from pi_collector.coverage.pieces import Kind
from pi_collector.reading.reconcile import Reconciling, Turn

SECOND = 10**9
LOWER = 1_700_000_000 * SECOND
TURN = Turn(every=600.0, window=3600.0, settle=10.0)


def made(begin: int = 0, covered: int = LOWER) -> Reconciling:
    return Reconciling(lambda handle: begin, lambda handle: covered)


def test_the_last_window_of_every_stream_is_read_once_per_interval_spread_over_it() -> None:
    reconciling = made()
    reconciling.want(dict.fromkeys(range(250), TURN), 0.0)
    turns: dict[int, list[float]] = {}
    now = 0.0
    while now < 1800:
        now += 1.0
        piece = reconciling.work(LOWER, now, 100)
        if piece is None:
            continue
        assert piece.kind is Kind.RECONCILE
        assert set(piece.start.tolist()) == {LOWER - 3600 * SECOND}
        assert piece.stop == LOWER - 10 * SECOND
        assert reconciling.work(LOWER, now, 100) is None, "one slice at a time"
        reconciling.finished(piece)
        for handle in piece.streams.tolist():
            turns.setdefault(handle, []).append(now)
    assert set(turns) == set(range(250))
    for times in turns.values():
        assert all(abs(later - earlier - 600) <= 201 for earlier, later in pairwise(times))
        assert len(times) >= 2


@given(st.integers(1, 500), st.integers(1, 100), st.floats(1, 100))
def test_no_stream_waits_longer_than_two_intervals(streams: int, most: int, every: float) -> None:
    reconciling = made()
    reconciling.want(dict.fromkeys(range(streams), Turn(every, 60.0, 1.0)), 0.0)
    slices = -(-streams // most)
    seen: set[int] = set()
    for step in range(2 * slices + 2):
        now = every + step * every / slices
        while (piece := reconciling.work(LOWER, now, most)) is not None:
            seen.update(piece.streams.tolist())
            reconciling.finished(piece)
    assert seen == set(range(streams))


def test_it_is_not_read_before_the_streams_beginning_and_not_where_a_hole_reaches_over_the_window() -> None:
    covered = {1: LOWER, 2: LOWER - 3600 * SECOND, 3: LOWER}
    begins = {1: LOWER - 100 * SECOND, 2: 0, 3: LOWER - 5 * SECOND}
    reconciling = Reconciling(begins.__getitem__, covered.__getitem__)
    reconciling.want(dict.fromkeys(covered, TURN), 0.0)
    piece = reconciling.work(LOWER, 600.0, 100)
    assert piece is not None
    assert piece.streams.tolist() == [1], "2 has a hole, 3 began later than it may be read"
    assert piece.start.tolist() == [LOWER - 100 * SECOND]


def test_a_window_of_0_is_never_read() -> None:
    reconciling = made()
    reconciling.want({1: Turn(600.0, 0.0, 10.0)}, 0.0)
    assert reconciling.work(LOWER, 10_000.0, 100) is None


def test_a_slice_that_fails_has_its_turn_again_soon_but_not_for_ever() -> None:
    reconciling = made()
    reconciling.want({1: TURN}, 0.0)
    now, tries = 600.0, 0
    while (piece := reconciling.work(LOWER, now, 100)) is not None:
        tries += 1
        reconciling.returned(piece, now + 5)
        assert reconciling.work(LOWER, now, 100) is None
        now += 5
    assert tries == 3
    assert reconciling.status() == {"late": 0, "slices": 0, "given_up": 1}


def test_streams_that_come_and_go_do_not_hold_up_the_others() -> None:
    reconciling = made()
    reconciling.want(dict.fromkeys(range(10), TURN), 0.0)
    failed = reconciling.work(LOWER, 600.0, 5)
    assert failed is not None
    reconciling.returned(failed, 605.0)
    reconciling.want(dict.fromkeys(range(5, 10), TURN), 601.0)
    piece = reconciling.work(LOWER, 2000.0, 5)
    assert piece is not None
    assert piece.streams.tolist() == [5, 6, 7, 8, 9]
