"""A server is never asked for more than its connection's `load` says, and nothing is lost by a cancelled wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.config import Load
from opcua_collector.load import BURST, FREE, Bucket, Pace, Slots
from opcua_collector.stack import ua

T = TypeVar("T")

EPSILON = 1e-6


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer as soon as nothing else is to be done."""

    _now = 0.0
    _scheduled: list[Any]

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, self._scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]


def virtually(work: Coroutine[Any, Any, T]) -> T:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(work, 1e6))
    finally:
        loop.close()


def load(rate: float, parallel: int = 16) -> Load:
    return Load(requestsPerSecond=rate, parallel=parallel)


def most_in_a_window(times: list[float], rate: float) -> float:
    """By how much the busiest of all windows is above rate * its length: an oracle that looks at every one."""
    return max(
        (after - before + 1 - rate * (times[after] - times[before]))
        for before in range(len(times))
        for after in range(before, len(times))
    )


rates = st.floats(1, 200)
pauses = st.lists(st.floats(0, 3) | st.just(0.0), min_size=1, max_size=60)


@given(rates, pauses)
def test_over_any_window_no_more_than_rate_and_burst_is_granted(rate: float, gaps: list[float]) -> None:
    bucket = Bucket(rate)
    now, sent = 0.0, []
    for gap in gaps:
        now += gap
        while (seconds := bucket.wait(now)) > 0:
            now += seconds
        bucket.take(now)
        sent.append(now)
    assert most_in_a_window(sent, rate) <= max(1.0, rate * BURST) + EPSILON


@given(rates, st.integers(2, 60))
def test_nobody_waits_longer_than_the_rate_asks_for(rate: float, count: int) -> None:
    bucket = Bucket(rate)
    now = 0.0
    for _ in range(count):
        while (seconds := bucket.wait(now)) > 0:
            now += seconds
        bucket.take(now)
    assert now == pytest.approx(max(0.0, count - max(1.0, rate * BURST)) / rate, abs=1e-6)


class Server:
    """Counts what it is asked, and when; answers after a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.times: list[float] = []
        self.order: list[Any] = []
        self.busy = self.busiest = 0
        self._seconds = seconds

    async def answer(self, what: Any = None) -> Any:
        self.times.append(asyncio.get_running_loop().time())
        self.order.append(what)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self.busy -= 1
        return what


@given(
    rates,
    st.integers(1, 6),
    st.floats(0, 0.5),
    st.lists(st.tuples(st.floats(0, 2), st.booleans(), st.none() | st.floats(0, 1)), min_size=1, max_size=40),
)
def test_a_counting_server_is_never_asked_too_much_whoever_asks_and_gives_up(
    rate: float, parallel: int, seconds: float, callers: list[tuple[float, bool, float | None]]
) -> None:
    server = Server(seconds)

    async def one(pace: Pace, at: float, past: bool, patience: float | None) -> bool:
        await asyncio.sleep(at)
        try:
            await asyncio.wait_for(pace.hold(server.answer, past=past), patience)
        except asyncio.TimeoutError:
            return False
        return True

    async def all_of_them() -> Pace:
        pace = Pace(load(rate, parallel))
        done = await asyncio.gather(*(one(pace, *caller) for caller in callers))
        assert all(came for came, (_, _, patience) in zip(done, callers, strict=True) if patience is None)
        return pace

    pace = virtually(all_of_them())
    assert pace.requests == len(server.times)
    assert server.busiest <= parallel
    if server.times:
        assert most_in_a_window(server.times, rate) <= max(1.0, rate * BURST) + EPSILON
    assert pace._slots.busy == pace._past.busy == pace._slots.waiting == 0


@given(rates, st.integers(1, 4), st.integers(2, 30))
def test_requests_go_in_the_order_in_which_they_were_made(rate: float, parallel: int, count: int) -> None:
    server = Server(0.01)

    async def work() -> None:
        pace = Pace(load(rate, parallel))
        await asyncio.gather(*(pace.hold(partial(server.answer, number)) for number in range(count)))

    virtually(work())
    assert server.order == list(range(count))


def test_what_waits_for_history_leaves_a_place_for_the_present() -> None:
    server = Server(60.0)

    async def work() -> float:
        pace = Pace(load(1000, 3))
        reads = [asyncio.create_task(pace.hold(server.answer, past=True)) for _ in range(5)]
        await asyncio.sleep(1)
        assert server.busy == 2
        quick = Server(0.0)
        await pace.hold(quick.answer)
        await asyncio.gather(*reads)
        return quick.times[0]

    assert virtually(work()) == 1.0


def test_other_settings_apply_at_once_to_those_who_wait() -> None:
    server = Server(10.0)

    async def work() -> None:
        pace = Pace(load(1000, 1))
        asked = [asyncio.create_task(pace.hold(server.answer)) for _ in range(4)]
        await asyncio.sleep(1)
        assert server.busy == 1
        pace.apply(load(1000, 3))
        await asyncio.sleep(1)
        assert server.busy == 3
        pace.apply(load(1000, 1))
        await asyncio.gather(*asked)
        assert server.busiest == 3

    virtually(work())


def test_a_request_that_fails_gives_its_place_back() -> None:
    async def work() -> None:
        pace = Pace(load(1000, 1))

        async def fails() -> None:
            raise ConnectionError("gone")

        for _ in range(3):
            with pytest.raises(ConnectionError, match="gone"):
                await pace.hold(fails)
        assert pace.requests == 3
        assert await pace.hold(lambda: Server().answer("next")) == "next"

    virtually(work())


moments = st.sampled_from((0.0, 0.1, 0.2))


@given(
    st.integers(1, 3), st.lists(st.tuples(moments, st.none() | moments, st.none() | st.integers(0, 11)), max_size=12)
)
def test_slots_are_neither_lost_nor_given_twice(
    most: int, callers: list[tuple[float, float | None, int | None]]
) -> None:
    async def work() -> None:
        slots, inside = Slots(most), 0
        tasks: list[asyncio.Task[None]] = []

        async def one(seconds: float) -> None:
            nonlocal inside
            await slots.acquire()
            inside += 1
            assert inside <= slots.busy <= most
            try:
                await asyncio.sleep(seconds)
            finally:
                inside -= 1
                slots.release()

        for held, pause, given_up in callers:
            tasks.append(asyncio.create_task(one(held)))
            if pause is not None:
                await asyncio.sleep(pause)
            if given_up is not None:
                tasks[given_up % len(tasks)].cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
        assert (slots.busy, slots.waiting, inside) == (0, 0, 0)

    virtually(work())


# --- over a session -------------------------------------------------------------------------------------------------


class Stack:
    """A session of the stack: only what every request of it goes through."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def _send_request(self, request: Any, timeout: float | None = None) -> Any:
        return await self._server.answer((type(request).__name__, timeout))


def test_publishing_and_the_sessions_own_services_are_neither_held_nor_counted() -> None:
    async def work() -> None:
        server = Server()
        stack = Stack(server)
        pace = Pace.over(stack, load(1, 1))
        for _ in range(50):
            for request in (ua.PublishRequest(), ua.RepublishRequest(), ua.ActivateSessionRequest()):
                await stack._send_request(request, timeout=0)
        assert asyncio.get_running_loop().time() == 0.0
        assert pace.requests == 0
        for request in (ua.ReadRequest(), ua.HistoryReadRequest(), ua.BrowseRequest(), ua.CreateSubscriptionRequest()):
            assert await stack._send_request(request, 5) == (type(request).__name__, 5)
        assert pace.requests == 4
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)
        assert pace.status() == {"requests_per_s": 0.3, "waited_s": 3.0}

    virtually(work())


def test_every_service_that_reads_or_makes_something_is_held() -> None:
    names = {one.__name__ for one in FREE}
    assert not [name for name in names if any(word in name for word in ("Read", "Browse", "Item", "Write", "Call"))]


def test_sessions_that_follow_each_other_have_one_burst_together() -> None:
    """A line that breaks again and again is no way around the ceiling."""

    async def sessions() -> list[float]:
        server = Server()
        clock = asyncio.get_running_loop().time
        before: Pace | None = None
        began = clock()
        for _ in range(10):
            pace = Pace(load(40, 4))
            if before is not None:
                pace.follow(before)
            before = pace
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.gather(*(pace.hold(server.answer) for _ in range(30))), 0.2)
        return [at - began for at in server.times]

    times = virtually(sessions())
    assert len(times) <= 40 * (times[-1] + BURST) + 1, times
