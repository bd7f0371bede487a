"""The server's clock: any start, any speed, and wrong to order."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plant.pi.clock import TICK_NS, Clock

START = 1_700_000_000_000_000_000


@given(st.floats(0.1, 100), st.floats(0, 1e6))
def test_it_runs_at_its_speed_in_whole_ticks(speed: float, elapsed: float) -> None:
    seconds = 0.0
    clock = Clock(speed, START, now=lambda: seconds)
    assert clock.now_ns() == START
    seconds = elapsed
    assert clock.now_ns() % TICK_NS == 0
    assert clock.now_ns() - START == pytest.approx(elapsed * speed * 1e9, abs=1000 + elapsed * speed)
    assert clock.ours(speed) == 1


def test_without_a_start_it_begins_now() -> None:
    assert abs(Clock().now_ns() - time.time_ns()) < 1e9


def test_it_can_be_wrong_as_a_whole_or_in_its_date_alone_and_right_again() -> None:
    clock = Clock(1, START, 5.0, now=lambda: 0.0)
    assert clock.now_ns() == clock.date_ns() == START + 5 * 10**9
    clock.skew(-3600)
    assert clock.now_ns() == START - 3600 * 10**9
    clock.skew(60, date_only=True)
    assert clock.date_ns() - clock.now_ns() == 60 * 10**9
    assert parsedate_to_datetime(clock.date()).timestamp() == clock.date_ns() // 10**9
    clock.skew(0)
    clock.skew(0, date_only=True)
    assert clock.now_ns() == clock.date_ns() == START


@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_a_speed_is_above_zero(speed: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Clock(speed)
