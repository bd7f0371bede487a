"""Waiting with a limit, and ending tasks, so that a cancellation is never lost.

`asyncio.wait_for` before Python 3.12 swallows a cancellation that arrives in the moment in which the awaited thing is
done: the task goes on in its loop, and whoever waits for its end waits for ever. Therefore no `wait_for` in Sluice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float | None, awaitable: Awaitable[T]) -> T:
    """What `awaitable` gives, or asyncio.TimeoutError after `seconds`; then it is cancelled, but not waited for."""
    future = asyncio.ensure_future(awaitable)
    try:
        done, _ = await asyncio.wait((future,), timeout=seconds)
    except asyncio.CancelledError:
        future.cancel()
        raise
    if not done:
        future.cancel()
        raise asyncio.TimeoutError
    return future.result()


async def end(*tasks: asyncio.Task[Any], every: float = 1.0) -> None:
    """Cancel the tasks and wait until they have ended, cancelling again what is still there after `every` seconds."""
    pending: set[asyncio.Task[Any]] = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=every)
    await asyncio.gather(*tasks, return_exceptions=True)
