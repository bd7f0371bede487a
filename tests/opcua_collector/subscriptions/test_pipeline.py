"""How many PublishRequests are outstanding: enough for the line, never more than the server takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.subscriptions.pipeline import FEWEST, MOST, Pipeline, outstanding

intervals = st.lists(st.floats(0.01, 3600), min_size=1, max_size=16)
round_trips = st.floats(0, 30)


@pytest.mark.parametrize(
    ("interval", "round_trip", "requests"),
    [(0.5, 0.001, 3), (0.1, 0.001, 4), (0.1, 0.3, 7), (0.05, 0.3, 10), (10.0, 2.0, 3), (0.01, 0.001, 10)],
)
def test_a_long_line_has_more_requests_under_way(interval: float, round_trip: float, requests: int) -> None:
    assert outstanding([interval], round_trip) == requests


@given(intervals, round_trips)
def test_there_are_more_than_subscriptions_and_no_more_than_ten_and_one_for_each(
    several: list[float], round_trip: float
) -> None:
    count = outstanding(several, round_trip)
    assert max(FEWEST, len(several) + 1) <= count <= MOST + len(several)


@given(intervals, st.floats(0.01, 3600), round_trips, round_trips)
def test_another_subscription_or_a_longer_line_never_means_fewer(
    several: list[float], another: float, one: float, other: float
) -> None:
    shorter, longer = sorted((one, other))
    assert outstanding(several, shorter) <= outstanding(several, longer)
    assert outstanding(several, shorter) <= outstanding([*several, another], shorter)


def test_without_a_subscription_there_is_nothing_to_ask_for() -> None:
    assert outstanding([], 1.0) == 0


def test_one_slow_answer_changes_nothing_and_several_do() -> None:
    pipeline = Pipeline(0.001)
    for _ in range(3):
        pipeline.measured(0.001)
    pipeline.measured(2.0)
    assert pipeline.count([0.5], 0.0) == 3
    pipeline.measured(2.0)
    assert pipeline.count([0.5], 0.0) == 7


@given(st.integers(1, 12), round_trips)
def test_it_finds_what_a_server_takes_and_asks_ever_more_seldom_whether_it_takes_more(limit: int, trip: float) -> None:
    """A server that takes so many; simulated second by second over a day."""
    pipeline = Pipeline(trip)
    wanted = outstanding([0.1], trip)
    refusals: list[float] = []
    for now in range(86_400 // 20):
        count = pipeline.count([0.1], now * 20.0)
        while count > limit:
            refusals.append(now * 20.0)
            count -= 1
            pipeline.refused(count, now * 20.0)
        assert min(limit, wanted) - 1 <= pipeline.count([0.1], now * 20.0) <= max(limit, 1)
    if limit >= wanted:
        assert not refusals
    else:
        assert 0 < len(refusals) <= (wanted - limit) + 8 + 86_400 / 960


@given(st.integers(1, 9))
def test_a_server_that_takes_more_again_gets_all_that_is_wanted(limit: int) -> None:
    pipeline = Pipeline(0.3)
    pipeline.refused(limit, 0.0)
    assert pipeline.count([0.05], 1.0) == limit
    now = 1.0
    for _ in range(20):
        now += 61.0
        pipeline.count([0.05], now)
    assert pipeline.count([0.05], now) == 10
