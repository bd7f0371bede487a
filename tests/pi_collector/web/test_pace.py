"""How much is asked of a server, in which order, and when not at all."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_collector.config import Load
from pi_collector.web.pace import (
    BACKFILL,
    FAILURES,
    LEAST_FACTOR,
    LIVE,
    LONGEST_HOLD,
    RECONCILE,
    Breaker,
    Pace,
    Priority,
    Rules,
    Spending,
)
from sluice.tasks import within


def rules(rate: float = 20.0, parallel: int = 4) -> Rules:
    return Rules(Load(requests_per_second=rate, parallel=parallel))


@given(
    st.floats(0.5, 200),
    st.lists(st.floats(0, 0.5), min_size=1, max_size=200),
)
def test_over_any_time_no_more_is_sent_than_its_rate_and_one_burst(rate: float, pauses: list[float]) -> None:
    one = rules(rate, 16)
    burst = one.burst
    now, sent = 0.0, []
    for pause in pauses:
        now += pause
        if one.wait(LIVE, now) == 0:
            one.take(LIVE, now)
            one.ended(LIVE)
            sent.append(now)
    for i, first in enumerate(sent):
        for j, last in enumerate(sent[i:], 1):
            assert j <= rate * (last - first) + burst + 1e-6


def test_so_many_at_a_time_and_the_past_leaves_one_place() -> None:
    one = rules(1000, 4)
    for _ in range(3):
        assert one.wait(BACKFILL, 0) == 0
        one.take(BACKFILL, 0)
    assert one.wait(BACKFILL, 0) is None
    assert one.wait(RECONCILE, 0) is None
    assert one.wait(LIVE, 0) == 0
    one.take(LIVE, 0)
    assert one.wait(LIVE, 0) is None
    one.ended(BACKFILL)
    assert one.wait(BACKFILL, 0) == 0


def test_where_there_is_one_place_the_past_may_have_it() -> None:
    assert rules(10, 1).wait(BACKFILL, 0) == 0


def test_overload_halves_what_is_sent_once_a_second_and_answers_bring_it_back() -> None:
    one = rules(20, 4)
    one.overloaded(0.0)
    one.overloaded(0.5)
    assert one.factor == 0.5
    assert one.places == 2
    one.overloaded(1.0)
    assert one.factor == 0.25
    for second in range(2, 20):
        one.overloaded(float(second))
    assert one.factor == LEAST_FACTOR
    for _ in range(48):
        one.well(30.0)
    assert one.factor == 1.0


@pytest.mark.parametrize(("asked", "held"), [(30.0, 30.0), (-5.0, 0.0), (1e9, LONGEST_HOLD)])
def test_retry_after_holds_everything_for_as_long_as_is_reasonable(asked: float, held: float) -> None:
    one = rules()
    one.hold(asked, 0.0)
    for priority in Priority:
        assert one.wait(priority, 0.0) == held
    assert one.wait(LIVE, held) == 0


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_trial_through() -> None:
    one = Breaker()
    for _ in range(FAILURES - 1):
        assert one.may(0.0)
        one.failed(0.0)
    one.well()
    for _ in range(FAILURES):
        assert one.may(0.0)
        one.failed(0.0)
    assert not one.may(0.5)
    assert one.may(1.3)
    assert not one.may(1.3), "a second trial at the same time"
    one.well()
    assert one.may(1.3)


def test_a_breaker_stays_open_longer_after_each_failed_trial_up_to_a_minute() -> None:
    one, now, pauses = Breaker(), 0.0, []
    for _ in range(FAILURES):
        one.failed(now)
    for _ in range(12):
        pauses.append(one.closed_for(now))
        now += pauses[-1]
        assert one.may(now)
        one.failed(now)
    assert 0.8 <= pauses[0] <= 1.2
    assert all(48 <= pause <= 72 for pause in pauses[7:])


def test_a_trial_that_nobody_waited_for_is_followed_by_another() -> None:
    one = Breaker()
    for _ in range(FAILURES):
        one.failed(0.0)
    assert one.may(2.0)
    one.abandoned()
    assert one.may(2.0)


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=100))
def test_values_of_the_past_keep_their_rate(reads: list[int]) -> None:
    one, now = Spending(100_000), 0.0
    for values in reads:
        now += one.spend(values, now)
    assert now >= sum(reads) / 100_000 - 0.25 - 1e-6


# --- the shell ---


async def test_what_is_live_goes_before_what_waited_longer() -> None:
    pace = Pace(Load(requests_per_second=1000, parallel=1))
    order: list[Priority] = []

    async def ask(priority: Priority) -> None:
        async with pace.turn(priority):
            order.append(priority)

    async with pace.turn(LIVE):
        tasks = []
        for priority in (RECONCILE, BACKFILL, LIVE):
            tasks.append(asyncio.create_task(ask(priority)))
            await asyncio.sleep(0)
        assert pace.waiting == 3
        assert not order
    await asyncio.gather(*tasks)
    assert order == [LIVE, BACKFILL, RECONCILE]


async def test_however_much_is_live_the_past_comes_now_and_then() -> None:
    pace = Pace(Load(requests_per_second=1000, parallel=1))
    order: list[Priority] = []

    async def ask(priority: Priority) -> None:
        async with pace.turn(priority):
            order.append(priority)

    async with pace.turn(LIVE):
        tasks = [asyncio.create_task(ask(one)) for one in (*[BACKFILL] * 3, *[LIVE] * 40)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    first = [index for index, one in enumerate(order) if one is BACKFILL]
    assert len(first) == 3
    assert first[0] >= 3, "what is live goes first"
    assert first[-1] <= 3 * 5, "and not for ever"


async def test_a_burst_is_spread_over_time() -> None:
    pace = Pace(Load(requests_per_second=40, parallel=16))
    loop = asyncio.get_running_loop()
    began, sent = loop.time(), []

    async def ask() -> None:
        async with pace.turn(LIVE):
            sent.append(loop.time() - began)

    await asyncio.gather(*(ask() for _ in range(30)))
    assert sent == sorted(sent)
    assert sent[-1] >= 20 / 40 - 0.05, "30 requests at 40 a second, 10 of them at once"
    assert pace.requests == 30
    assert pace.waited > 0


async def test_whoever_is_cancelled_leaves_its_place_to_the_next() -> None:
    pace = Pace(Load(requests_per_second=1000, parallel=1))
    got = asyncio.Event()

    async def ask() -> None:
        async with pace.turn(BACKFILL):
            got.set()

    async with pace.turn(LIVE):
        first, second = asyncio.create_task(ask()), asyncio.create_task(ask())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
    await second
    assert got.is_set()
    assert first.cancelled()
    assert (pace.rules.busy, pace.rules.past, pace.waiting) == (0, 0, 0)


async def test_a_turn_that_comes_in_the_moment_of_a_cancellation_is_not_lost() -> None:
    pace = Pace(Load(requests_per_second=1000, parallel=1))

    async def ask() -> None:
        async with pace.turn(LIVE):
            pass

    async with pace.turn(LIVE):
        waiting = asyncio.create_task(ask())
        await asyncio.sleep(0)
    waiting.cancel()  # its turn has come, and it does not know yet
    await asyncio.gather(waiting, return_exceptions=True)
    assert pace.rules.busy == 0
    await ask()


async def test_other_settings_apply_to_those_who_wait_already() -> None:
    pace = Pace(Load(requests_per_second=0.5, parallel=1))
    await _once(pace)
    waiting = asyncio.create_task(_once(pace))
    await asyncio.sleep(0)
    assert not waiting.done()
    pace.apply(Load(requests_per_second=1000, parallel=4))
    await within(1, waiting)
    assert pace.status()["requests"] == 2


async def test_the_status_says_why_it_is_slow() -> None:
    pace = Pace(Load())
    pace.overloaded(60.0)
    told = pace.status()
    assert told["slowed_to"] == 0.5
    assert 59 <= told["held_for_s"] <= 60


async def _once(pace: Pace) -> None:
    async with pace.turn(LIVE):
        pass
