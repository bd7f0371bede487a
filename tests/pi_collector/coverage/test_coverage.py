"""Frontiers, live intervals and holes: what moves them, what is to be read next, and which gaps are told."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from pi_collector.coverage.coverage import CLOCK, Coverage
from pi_collector.coverage.ledger import INITIAL, TOO_OLD, Ledger
from pi_collector.coverage.pieces import Kind, Piece

from .archives import SECOND, handles

T0 = 1_700_000_000 * SECOND
HOUR = 3600 * SECOND


class Plan:
    """A coverage with streams 0, 1, … that begin at T0, settle 10 s, overlap 60 s."""

    def __init__(self, streams: int = 1, *, start: int = T0, max_backfill: int = 7 * 24 * HOUR) -> None:
        self.ledger = Ledger("abc123")
        self.coverage = Coverage(self.ledger)
        self.all = np.arange(streams, dtype=np.int32)
        for handle in range(streams):
            self.coverage.begin(handle, start, 60 * SECOND, 10 * SECOND, max_backfill)

    def work(self, seconds: float, now: float = 0.0, most: int = 100) -> Piece | None:
        return self.coverage.work(T0 + int(seconds * SECOND), now, most)

    def must(self, seconds: float, now: float = 0.0, most: int = 100) -> Piece:
        piece = self.work(seconds, now, most)
        assert piece is not None
        return piece

    def read(self, piece: Piece) -> None:
        self.coverage.advance(piece.streams, np.full(len(piece.streams), piece.stop))
        self.coverage.finished(piece)

    def live(self, seconds: float = 0) -> None:
        """All streams subscribed at that time, and their holes read."""
        self.coverage.subscribed(self.all, T0 + int(seconds * SECOND))
        while (piece := self.work(seconds + 10)) is not None:
            self.read(piece)

    def covered(self, handle: int = 0) -> float:
        return (self.coverage.covered(handle) - T0) / SECOND

    def told(self) -> list[tuple[str, str]]:
        return [(event["state"], event["cause"]) for event in self.ledger.events(1, str)]


def column(*times: float) -> NDArray[np.int64]:
    return np.array([T0 + int(time * SECOND) for time in times], np.int64)


def test_a_new_stream_has_nothing_to_read_until_it_is_subscribed() -> None:
    plan = Plan()
    assert plan.work(1000) is None
    plan.coverage.subscribed(plan.all, T0 + 5 * SECOND)
    assert plan.work(14) is None, "the archive may still take its time"
    piece = plan.must(15)
    assert (piece.kind, piece.start[0], piece.stop) == (Kind.GAP, T0, T0 + 15 * SECOND)
    plan.read(piece)
    assert plan.covered() == 5, "what is younger than the subscription comes by itself"
    assert plan.coverage.is_live(0)
    assert plan.coverage.behind() == 0


def test_while_a_hole_is_open_confirmation_does_not_move_the_frontier_and_then_it_does() -> None:
    plan = Plan()
    plan.coverage.subscribed(plan.all, T0 + 5 * SECOND)
    plan.coverage.confirmed(plan.all, T0 + 100 * SECOND)
    assert plan.covered() == 0
    plan.read(plan.must(15))
    assert plan.covered() == 100
    plan.coverage.confirmed(plan.all, T0 + 90 * SECOND)
    assert plan.covered() == 100, "never back"
    plan.coverage.confirmed(plan.all, T0 + 110 * SECOND)
    assert plan.covered() == 110


def test_a_loss_before_the_hole_was_read_only_makes_it_longer() -> None:
    plan = Plan()
    plan.live()
    plan.told()
    plan.coverage.confirmed(plan.all, T0 + 100 * SECOND)
    plan.coverage.lost(plan.all, "cut")
    plan.coverage.subscribed(plan.all, T0 + 200 * SECOND)
    plan.coverage.lost(plan.all, "cut again")
    plan.coverage.subscribed(plan.all, T0 + 300 * SECOND)
    piece = plan.must(310)
    assert (piece.start[0], piece.stop) == (T0 + 40 * SECOND, T0 + 310 * SECOND)
    plan.read(piece)
    assert plan.told() == [("opened", "cut"), ("filled", "cut")]


def test_a_subscription_that_is_lost_while_its_hole_is_read_does_not_vouch_for_what_was_young_then() -> None:
    plan = Plan()
    plan.coverage.subscribed(plan.all, T0 + 5 * SECOND)
    piece = plan.must(15)
    plan.coverage.lost(plan.all, "cut")
    plan.read(piece)
    assert plan.covered() == 5, "reading alone proves nothing that is younger than the clock less settle"
    plan.coverage.subscribed(plan.all, T0 + 40 * SECOND)
    assert plan.must(50).stop == T0 + 50 * SECOND


def test_a_long_hole_is_read_before_its_end_has_settled() -> None:
    plan = Plan(start=T0 - HOUR)
    plan.coverage.subscribed(plan.all, T0)
    piece = plan.must(1)
    assert piece.stop == T0 - 9 * SECOND
    plan.read(piece)
    assert plan.covered() == -9
    assert plan.coverage.behind() == 1
    assert plan.work(2) is None, "not in small steps"
    plan.read(plan.must(10))
    assert plan.covered() == 0
    assert plan.told() == [("opened", INITIAL), ("filled", INITIAL)]


def test_page_by_page_the_frontier_moves_on_and_reading_goes_on_there() -> None:
    plan = Plan(start=T0 - HOUR)
    plan.coverage.subscribed(plan.all, T0)
    piece = plan.must(20)
    plan.coverage.advance(piece.streams, column(-1800))
    assert plan.covered() == -1800
    plan.coverage.returned(piece, 5.0)
    assert plan.work(20, now=4.9) is None
    again = plan.must(20, now=5.0)
    assert again.start[0] == T0 - 1860 * SECOND, "an overlap before the frontier"


def test_polled_streams_are_read_up_to_what_is_wanted_and_before_gaps() -> None:
    plan = Plan(2)
    plan.coverage.want(handles(0), T0 + 5 * SECOND)
    plan.coverage.subscribed(handles(1), T0 + 1 * SECOND)
    poll = plan.must(15)
    assert (poll.kind, poll.streams.tolist(), poll.stop) == (Kind.POLL, [0], T0 + 5 * SECOND)
    gap = plan.must(15)
    assert (gap.kind, gap.streams.tolist()) == (Kind.GAP, [1])
    plan.read(poll)
    assert plan.covered() == 5
    assert plan.work(16) is None
    assert not plan.coverage.polls_due(T0 + 16 * SECOND, 0)
    plan.coverage.want(handles(0), T0 + 10 * SECOND)
    assert plan.coverage.polls_due(T0 + 20 * SECOND, 0)


def test_a_piece_never_goes_past_the_clock_of_the_server() -> None:
    plan = Plan()
    plan.coverage.want(plan.all, T0 + HOUR)
    assert plan.must(30).stop == T0 + 20 * SECOND


def test_a_live_stream_that_is_silent_can_be_proven_by_reading() -> None:
    plan = Plan()
    plan.live()
    plan.coverage.want(plan.all, T0 + 300 * SECOND)
    piece = plan.must(310)
    assert piece.kind is Kind.POLL
    plan.read(piece)
    assert plan.covered() == 300
    assert plan.coverage.is_live(0)


def test_polling_in_the_place_of_a_channel_fills_its_gap_and_a_channel_in_the_place_of_polling_opens_none() -> None:
    plan = Plan()
    plan.live()
    plan.told()
    plan.coverage.lost(plan.all, "refused")
    plan.coverage.want(plan.all, T0 + 100 * SECOND)
    plan.read(plan.must(110))
    assert plan.told() == [("opened", "refused")], "what came by itself until then may be younger than what was read"
    plan.coverage.want(plan.all, T0 + 120 * SECOND)
    plan.read(plan.must(130))
    assert plan.told() == [("filled", "refused")]
    plan.coverage.subscribed(plan.all, T0 + 140 * SECOND)
    plan.read(plan.must(150))
    assert plan.told() == []
    assert plan.covered() == 140


def test_what_is_older_than_is_filled_is_given_up_and_told() -> None:
    plan = Plan(max_backfill=HOUR)
    plan.live()
    plan.told()
    plan.coverage.lost(plan.all, "cut")
    plan.coverage.subscribed(plan.all, T0 + 5 * HOUR)
    assert plan.covered() == 4 * 3600 + 10
    assert plan.told() == [("opened", "cut"), ("opened", TOO_OLD), ("abandoned", TOO_OLD)]
    piece = plan.must(5 * 3600 + 10)
    assert piece.start[0] == T0 + 4 * HOUR + 10 * SECOND, "what was given up is not read by the overlap"
    plan.read(piece)
    assert plan.told() == [("filled", "cut")]


def test_an_initial_hole_is_as_long_as_it_was_wanted() -> None:
    plan = Plan(start=T0 - 100 * HOUR, max_backfill=HOUR)
    plan.coverage.subscribed(plan.all, T0)
    plan.coverage.lost(plan.all, "cut")
    plan.coverage.subscribed(plan.all, T0 + 60 * SECOND)
    assert plan.must(100).start[0] == T0 - 100 * HOUR


def test_a_stream_that_is_removed_is_given_up_by_its_gap_and_goes_on_where_it_was_when_it_comes_back() -> None:
    plan = Plan(2)
    plan.live()
    plan.told()
    plan.coverage.confirmed(plan.all, T0 + 50 * SECOND)
    plan.coverage.lost(plan.all, "cut")
    plan.coverage.end(0, "the point was deleted")
    plan.coverage.subscribed(handles(0, 1), T0 + 100 * SECOND)
    piece = plan.must(110)
    assert piece.streams.tolist() == [1]
    plan.read(piece)
    assert plan.told() == [("opened", "cut"), ("abandoned", "cut")]
    plan.coverage.begin(0, T0 + HOUR, 60 * SECOND, 10 * SECOND, HOUR)
    plan.coverage.subscribed(handles(0), T0 + 200 * SECOND)
    assert plan.must(210).start[0] == T0
    assert plan.covered(0) == 50


def test_streams_with_the_same_frontier_are_read_together_and_others_by_themselves() -> None:
    plan = Plan(250)
    plan.coverage.begin(250, T0 - 100 * HOUR, 60 * SECOND, 10 * SECOND, 1000 * HOUR)
    plan.coverage.subscribed(np.arange(251, dtype=np.int32), T0)
    pieces = [plan.must(10) for _ in range(4)]
    assert [len(piece.streams) for piece in pieces] == [1, 100, 100, 50]
    assert pieces[0].streams.tolist() == [250], "the oldest frontier first"
    assert plan.work(10) is None, "all are being read"
    streams = np.concatenate([piece.streams for piece in pieces])
    assert sorted(streams.tolist()) == list(range(251))


def test_one_stream_that_always_fails_ends_up_alone_and_holds_nobody() -> None:
    plan = Plan(64)
    plan.coverage.subscribed(plan.all, T0)
    now, asked = 0.0, 0
    while plan.coverage.behind() > 1:
        now += 1
        while (piece := plan.work(10, now)) is not None:
            asked += 1
            if 13 in piece.streams:
                plan.coverage.returned(piece, now + 1)
            else:
                plan.read(piece)
            if asked == 3:
                plan.coverage.begin(64, T0, 60 * SECOND, 10 * SECOND, HOUR)  # another one, that can be read
                plan.coverage.subscribed(handles(64), T0)
        assert now < 30, plan.coverage.status()
    assert plan.must(10, now + 2).streams.tolist() == [13]


def test_a_server_that_answers_nobody_does_not_make_pieces_small() -> None:
    plan = Plan(100)
    plan.coverage.subscribed(plan.all, T0)
    for now in range(20):
        plan.coverage.returned(plan.must(10, now), now + 1)
    assert len(plan.must(10, 20).streams) == 100


def test_a_piece_that_is_finished_without_coming_further_waits() -> None:
    plan = Plan()
    plan.coverage.subscribed(plan.all, T0)
    plan.coverage.finished(plan.must(10, now=1))
    assert plan.work(10, now=2) is None
    plan.must(10, now=60)


def test_a_long_read_makes_room_for_a_poll_and_that_is_no_failure() -> None:
    plan = Plan(1, start=T0 - HOUR)
    plan.coverage.begin(1, T0 - 5 * SECOND, 60 * SECOND, 10 * SECOND, HOUR)
    plan.coverage.subscribed(handles(0), T0)
    gap = plan.must(10)
    plan.coverage.want(handles(1), T0)
    assert plan.coverage.polls_due(T0 + 10 * SECOND, 0.0)
    plan.coverage.returned(gap, 0.0)
    assert plan.coverage.status()["failing"] == 0


def test_a_clock_that_went_back_takes_frontiers_with_it_and_is_told() -> None:
    plan = Plan()
    plan.live()
    plan.told()
    plan.coverage.confirmed(plan.all, T0 + 10 * HOUR)
    piece = plan.work(3600)
    assert plan.covered() == 3590
    assert piece is None
    plan.read(plan.must(3610))
    assert plan.told() == [("opened", CLOCK), ("filled", CLOCK)]
    assert plan.coverage.is_live(0)


def test_streams_that_are_read_elsewhere_are_in_no_piece_and_their_gap_is_filled_by_advancing() -> None:
    plan = Plan()
    plan.coverage.want(plan.all, T0 + 60 * SECOND, elsewhere=True)
    assert plan.work(100) is None
    plan.coverage.advance(plan.all, column(60))
    plan.coverage.lost(plan.all, "restart")
    plan.coverage.want(plan.all, T0 + 300 * SECOND, elsewhere=True)
    plan.coverage.advance(plan.all, column(120))
    assert plan.told() == [("opened", "restart")]
    plan.coverage.advance(plan.all, column(360))
    assert plan.told() == [("filled", "restart")]


@pytest.mark.alone
def test_ten_thousand_streams_are_confirmed_and_looked_through_in_a_millisecond() -> None:
    plan = Plan(10_000)
    plan.live()
    confirmed, looked = [], []
    for second in range(50):
        began = time.perf_counter()
        plan.coverage.confirmed(plan.all, T0 + second * SECOND)
        confirmed.append(time.perf_counter() - began)
        began = time.perf_counter()
        assert plan.work(second + 10) is None
        looked.append(time.perf_counter() - began)
    assert min(confirmed) < 0.001
    assert min(looked) < 0.001


def test_polls_that_are_always_due_leave_a_gap_its_turn() -> None:
    plan = Plan(2)
    plan.coverage.subscribed(handles(1), T0 + 5 * SECOND)
    kinds = []
    for second in range(30, 50):
        plan.coverage.want(handles(0), T0 + (second - 10) * SECOND)
        piece = plan.must(second)
        kinds.append(piece.kind)
        plan.read(piece)
    assert kinds[:8] == [Kind.POLL] * 8, "polls go first"
    assert kinds.count(Kind.GAP) == 1
    assert plan.coverage.is_live(1)
    assert plan.coverage.behind() == 0
