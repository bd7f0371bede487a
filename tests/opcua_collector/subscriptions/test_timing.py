"""What is asked of a subscription follows from the outage that shall cost nothing; its silence has a limit."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.config import Connection
from opcua_collector.plan import plan
from opcua_collector.subscriptions import timing

intervals = st.floats(0.01, 3600)
outages = st.floats(1, 3600)
keep_alives = st.floats(0.1, 600)


def settings(**changes: object) -> Connection:
    return Connection.model_validate({"endpoint": "opc.tcp://a:1", **changes})


@given(intervals, keep_alives, outages)
def test_a_subscription_outlives_the_outage_and_three_keep_alives(
    interval: float, keep_alive: float, outage: float
) -> None:
    made = plan(settings(publishingInterval=interval, outage=outage))
    asked = timing.asked(made, keep_alive)
    lives = asked.interval * asked.lifetime_count
    assert lives >= outage + 30 - 1e-6
    assert lives >= 90 - 1e-6
    assert asked.lifetime_count >= 3 * asked.keep_alive_count
    assert asked.keep_alive_count < 2**32 > asked.lifetime_count


@given(intervals, intervals, outages)
def test_a_queue_holds_what_an_outage_brings_as_far_as_a_server_can_be_asked_for(
    sampling: float, publishing: float, outage: float
) -> None:
    size = timing.queue_size(sampling, publishing, outage)
    assert size >= min(10_000, outage / sampling)
    assert 100 <= size <= 10_000


def test_a_session_lives_as_long_as_the_longest_outage_of_its_groups() -> None:
    assert timing.session_timeout(settings()) == 90
    assert timing.session_timeout(settings(groups={"slow": {"outage": "10m"}})) == 630
    assert timing.session_timeout(settings(keepAlive=100)) == 300


@given(intervals, st.integers(1, 10_000), st.floats(0, 3600))
def test_a_standstill_takes_longer_than_a_silence(interval: float, count: int, canary: float) -> None:
    """So a subscription that is silent is told as silent, and data have three keep-alives to come."""
    assert timing.standstill(interval, count, canary) > timing.silence(interval, count)
    assert timing.standstill(interval, count, canary) >= 3 * canary
    assert math.isfinite(timing.standstill(interval, count, canary))
