"""From a foreign thread into the loop: in order, bounded, counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from sluice.handover import Handover


def in_a_thread(work: Callable[[], None]) -> None:
    """Runs `work` to its end in another thread while the event loop stands still."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def put_numbers(handover: Handover, size: int, made: list[int], stop: int, first: int = 0) -> None:
    for number in range(first, stop):
        handover.put(size, made.append, number)


async def drained(handover: Handover) -> None:
    end = time.monotonic() + 5
    while len(handover):
        assert time.monotonic() < end, f"{len(handover)} calls still wait"
        await asyncio.sleep(0)


async def test_calls_are_made_in_the_loop_in_their_order() -> None:
    handover = Handover(asyncio.get_running_loop(), 10**6, 10**6)
    made: list[int] = []
    threads: set[int] = set()

    def call(number: int) -> None:
        made.append(number)
        threads.add(threading.get_ident())

    def feed() -> None:
        for number in range(1_000):
            assert handover.put(1, call, number)

    in_a_thread(feed)
    await drained(handover)
    assert made == list(range(1_000))
    assert threads == {threading.get_ident()}
    assert (handover.bytes, handover.dropped) == (0, 0)


async def test_what_does_not_fit_by_bytes_is_dropped_and_counted() -> None:
    handover = Handover(asyncio.get_running_loop(), 1_000, 10**6)
    made: list[int] = []
    in_a_thread(lambda: put_numbers(handover, 300, made, 10))
    assert (handover.bytes, handover.dropped, handover.dropped_bytes) == (900, 7, 2_100)
    await drained(handover)
    assert made == [0, 1, 2]
    in_a_thread(lambda: put_numbers(handover, 300, made, 11, first=10))
    await drained(handover)
    assert made == [0, 1, 2, 10]


async def test_what_does_not_fit_by_number_is_dropped_and_counted() -> None:
    handover = Handover(asyncio.get_running_loop(), 10**6, 5)
    made: list[int] = []
    in_a_thread(lambda: put_numbers(handover, 0, made, 8))
    await drained(handover)
    assert (made, handover.dropped) == ([0, 1, 2, 3, 4], 3)


async def test_one_message_above_the_bound_passes_when_nothing_else_waits() -> None:
    handover = Handover(asyncio.get_running_loop(), 10, 5)
    made: list[int] = []
    in_a_thread(lambda: put_numbers(handover, 1_000, made, 2, first=1))
    await drained(handover)
    assert made == [1]


async def test_others_get_their_turn_while_a_long_queue_is_taken() -> None:
    handover = Handover(asyncio.get_running_loop(), 10**6, 10**6)
    made: list[int] = []
    in_a_thread(lambda: put_numbers(handover, 1, made, 1_000))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < len(made) < 1_000
    await drained(handover)
