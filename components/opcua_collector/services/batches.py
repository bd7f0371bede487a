"""Many questions in requests that the server takes, whatever one of them does to the request that it is in.

Theory of operation. A request that fails as a whole fails for one of two reasons: it asked for too much, or one of its
questions cannot be dealt with. Which, nobody says. So it is asked again in halves, and what happens to them tells:

    both halves succeed      it was too much: later requests are no larger than a half
    one half fails           that one is halved further, down to the question that is to blame: its answer is the status

A poisoned question among n thus costs about 2 log2(n) requests more, and no other question anything. What the server
takes is remembered in the `Batch` over sessions; after a run of successes twice as much is tried once more.

Some failures are no question's: a session or a subscription that is gone, a broken line. They are raised. A line that
breaks under a request may have been broken by it: the next session begins with requests of half the size.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from opcua_collector.stack import UaError, UaStatusCodeError, ua
from opcua_collector.values.encoding import MalformedError
from sluice.tasks import end

A = TypeVar("A")
B = TypeVar("B")

#: How a server says that a request asked for too much, or that it cannot deal with something in it.
TOO_MUCH: Final = frozenset(
    {
        ua.StatusCodes.BadTooManyOperations,
        ua.StatusCodes.BadEncodingLimitsExceeded,
        ua.StatusCodes.BadEncodingError,
        ua.StatusCodes.BadDecodingError,
        ua.StatusCodes.BadResponseTooLarge,
        ua.StatusCodes.BadRequestTooLarge,
        ua.StatusCodes.BadTcpMessageTooLarge,
        ua.StatusCodes.BadTooManyMonitoredItems,
        ua.StatusCodes.BadOutOfMemory,
        ua.StatusCodes.BadInternalError,
        ua.StatusCodes.BadUnexpectedError,
        ua.StatusCodes.BadInvalidArgument,
        ua.StatusCodes.BadTimeout,
        ua.StatusCodes.BadRequestTimeout,
    }
)
#: Of these, those that the next question would get as well: it is not asked any more.
_FULL: Final = frozenset({ua.StatusCodes.BadTooManyMonitoredItems, ua.StatusCodes.BadOutOfMemory})
_UNANSWERED: Final = int(ua.StatusCodes.BadTimeout)
_UNREADABLE: Final = int(ua.StatusCodes.BadDecodingError)
_PATIENCE: Final = 3  # questions in a row that, each alone, the server did not answer in time
_FEW: Final = 8  # questions of a call: who does not answer so few in time is not asked too much, but gone
_PROVEN: Final = 8  # requests of the present size that succeed before a larger one is tried; twice as many each time
_PROVEN_AGAIN: Final = 1024  # that it was too large, up to so many


class Batch(int):
    """How many questions a request may have at most, and, as `now`, how many turned out to work."""

    parallel: int
    """Requests at the same time."""
    now: int

    def __new__(cls, most: int, parallel: int = 1, now: int | None = None) -> Batch:
        """`now`: what worked before."""
        made = super().__new__(cls, max(1, most))
        made.parallel = max(1, parallel)
        made.now = max(1, min(made, made if now is None else now))
        made._streak, made._wanted = 0, _PROVEN
        return made

    _streak: int
    _wanted: int

    def succeeded(self, asked: int) -> None:
        """A request with so many questions was answered."""
        if asked < self.now or self.now >= self:
            return
        self._streak += 1
        if self._streak >= self._wanted:
            self.now = min(int(self), 2 * self.now)
            self._streak = 0

    def too_much(self, works: int) -> None:
        """A request was too large; one with so many questions may do."""
        self.now = max(1, min(self.now, works))
        self._streak, self._wanted = 0, min(_PROVEN_AGAIN, 2 * self._wanted)


@dataclass(slots=True)
class _Span:
    """Questions start … stop - 1, to be asked in one request."""

    start: int
    stop: int
    half_of: _Halved | None = None


@dataclass(slots=True)
class _Halved:
    """A request that failed."""

    size: int
    succeeded: int = 0  # of its two halves


async def in_batches(
    items: Sequence[A],
    size: int,
    ask: Callable[[Sequence[A]], Awaitable[Sequence[B]]],
    *,
    failed: Callable[[int], B] | None = None,
) -> list[B]:
    """One answer per item, in their order, asked for `size` at a time; a `Batch` may say: several requests at a time.

    `failed` makes the answer of an item that fails by itself, from the status; without it that error is raised.
    Raises what is no item's fault.
    """
    batch = size if isinstance(size, Batch) else Batch(size)
    work = _Work(items, batch, ask, failed)
    workers = min(batch.parallel, -(-len(items) // batch.now))
    if workers <= 1:
        await work.run()
        return work.answers
    tasks = [asyncio.create_task(work.run()) for _ in range(workers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        await end(*tasks)
    return work.answers


class _Work:
    """The questions of one call, for one or several that take them in turn."""

    def __init__(
        self,
        items: Sequence[Any],
        batch: Batch,
        ask: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]],
        failed: Callable[[int], Any] | None,
    ) -> None:
        self.answers: list[Any] = [None] * len(items)
        self._items = items
        self._batch = batch
        self._ask = ask
        self._failed = failed
        self._todo: deque[_Span] = deque([_Span(0, len(items))] if items else ())
        self._silent = 0
        self._full: Exception | None = None

    async def run(self) -> None:
        """Until nothing is left that another has not taken."""
        while self._todo:
            span = self._take()
            some = self._items[span.start : span.stop]
            if self._full is not None:
                self._give_up(span, self._full)
                continue
            try:
                found = await self._ask(some)
                if len(found) != len(some):
                    raise UaError(f"the server gave {len(found)} answers to {len(some)} questions")
            except (ConnectionError, OSError) as error:
                if not isinstance(error, (asyncio.TimeoutError, TimeoutError)):
                    self._batch.too_much(len(some) // 2)
                    raise
                self._unanswered(span, error)
            except asyncio.TimeoutError as error:
                self._unanswered(span, error)
            except MalformedError as error:
                self._refused(span, error)
            except UaStatusCodeError as error:
                if error.code not in TOO_MUCH:
                    raise
                self._refused(span, error)
            else:
                self._silent = 0
                self.answers[span.start : span.stop] = found
                self._batch.succeeded(len(some))
                self._learn(span)

    def _take(self) -> _Span:
        """The next questions, no more than the server takes by now."""
        span = self._todo.popleft()
        if span.stop - span.start > self._batch.now:
            middle = span.start + self._batch.now
            self._todo.appendleft(_Span(middle, span.stop))
            span = _Span(span.start, middle)
        return span

    def _learn(self, span: _Span) -> None:
        halved = span.half_of
        if halved is None:
            return
        halved.succeeded += 1
        if halved.succeeded == 2:
            self._batch.too_much((halved.size + 1) // 2)

    def _unanswered(self, span: _Span, error: Exception) -> None:
        if len(self._items) <= _FEW:
            raise error
        self._refused(span, error)

    def _refused(self, span: _Span, error: Exception) -> None:
        size = span.stop - span.start
        if size > 1:
            middle = span.start + size // 2
            halved = _Halved(size)
            self._todo.extendleft((_Span(middle, span.stop, halved), _Span(span.start, middle, halved)))
            return
        status = _status(error)
        if status == _UNANSWERED:
            self._silent += 1
            if self._silent >= _PATIENCE:
                raise error
        elif status in _FULL:
            self._full = error
        self._give_up(span, error)

    def _give_up(self, span: _Span, error: Exception) -> None:
        if self._failed is None:
            raise error
        for position in range(span.start, span.stop):
            self.answers[position] = self._failed(_status(error))


def _status(error: Exception) -> int:
    if isinstance(error, UaStatusCodeError):
        return int(error.code)
    return _UNREADABLE if isinstance(error, MalformedError) else _UNANSWERED
