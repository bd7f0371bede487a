"""Waiting with a limit, without losing cancellations."""

from __future__ import annotations

import asyncio

import pytest

from sluice.tasks import end, within


async def test_what_is_done_in_time_is_given_and_what_is_not_is_cancelled() -> None:
    assert await within(5, asyncio.sleep(0, "done")) == "done"
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with pytest.raises(asyncio.TimeoutError):
        await within(0.01, never)
    assert never.cancelled()


async def test_an_error_of_what_is_waited_for_comes_through() -> None:
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failed.set_exception(KeyError("x"))
    with pytest.raises(KeyError):
        await within(5, failed)


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_cancellation_in_the_moment_of_completion_is_not_lost(turns: int) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    rounds = 0

    async def for_ever() -> None:
        nonlocal rounds
        while True:
            await within(5, done)
            rounds += 1
            await asyncio.sleep(5)

    task = asyncio.create_task(for_ever())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    done.set_result(None)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    finished, _ = await asyncio.wait((task,), timeout=1)
    assert finished, f"the task goes on after {rounds} rounds"
    assert task.cancelled()


async def test_a_task_that_swallows_a_cancellation_is_ended_all_the_same() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:  # noqa: PERF203 - that is the point
                swallowed += 1

    async def failed() -> None:
        raise KeyError

    task, other = asyncio.create_task(stubborn()), asyncio.create_task(failed())
    await asyncio.sleep(0)
    await end(task, other, every=0.01)
    assert swallowed == 2
    await end()
