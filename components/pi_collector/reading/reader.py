"""Reads pieces of the archive: which one next, page by page, and what becomes of what went wrong.

Pieces come from three places, the most urgent first: coverage (polls and gaps), ranges that somebody asked for, and
what is looked at again. What was read goes to the intake, in order, with how far it reaches; nothing waits for the disk
but the number of pages that are on their way there, which is bounded.

    of the places for pieces (load.parallel - 1, 1 at least)   one is kept for polls, where there are two
    a piece                                                    has two requests under way, so that their latency costs
                                                               nothing; after TURN it goes back, and the most urgent
                                                               piece has the place, which may be the rest of it
    a poll                                                     never waits for the past: it has the priority of what is
                                                               live, and what follows waits for room

| what went wrong                        | becomes                                                                |
|----------------------------------------|------------------------------------------------------------------------|
| more was asked for than the server gives | less is asked for                                                    |
| the answer is none, or 500             | less is asked for, a little later; after LESS times each stream alone  |
| refused for what was asked (4xx)       | each stream is asked for alone: one must not cost the others           |
| one stream, alone                      | it is not advanced, and read again later; an unknown point looked up   |
| a stream is not in the answer          | it is asked for alone                                                  |
| anything else (nobody answers, 401 …)  | the piece goes back, for longer and longer                             |
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final, Protocol
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from pi_collector.config import Load
from pi_collector.coverage.paging import Paging
from pi_collector.coverage.pieces import Ask, Kind, Piece
from pi_collector.intake import StoreError
from pi_collector.points.point import Stream
from pi_collector.reading.reconcile import Reconciling
from pi_collector.reading.requested import Requested
from pi_collector.values.decode import Decoded, decode_recorded
from pi_collector.values.timed import Timed, join, nothing
from pi_collector.values.typing import Typings
from pi_collector.web import requests
from pi_collector.web.answers import Answer
from pi_collector.web.errors import (
    ForbiddenError,
    MalformedError,
    NotFoundError,
    PiError,
    RefusedError,
    ThrottledError,
    TooMuchError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedError,
)
from pi_collector.web.pace import BACKFILL, LIVE, RECONCILE, Priority
from sluice.retry import Backoff
from sluice.tasks import end

logger = logging.getLogger(__name__)

TURN: Final = 5.0
"""Seconds for which a piece of the past has its place before a more urgent one may have it."""
LESS: Final = 3
"""Times in a row that less is asked for after an answer that was none, until each stream is asked for alone."""
MOST_LESS: Final = 24
"""Times in a row that less is asked for because the server says so: from 150,000 values to one takes 18."""
UNDER_WAY: Final = 2
"""Requests of one piece at a time."""
_LOOK: Final = 0.1  # seconds between looks what there is to read
_PAGES: Final = 4  # of one piece, on their way to the disk
_PAUSES: Final = (0.5, 60.0)  # seconds after a failure
_STREAM_PAUSES: Final = (5.0, 600.0)  # seconds after one stream failed
_MOST_FAILING: Final = 10_000  # streams whose pauses are remembered
_BATCH: Final = 100
_SHOWN: Final = 10
_LEAST_VALUES: Final = 1_000  # that a server is taken to give at once, whatever it said of one question
_LITTLE_LATER: Final = 0.5  # seconds
_AWAY: Final = frozenset((502, 503, 504))  # it is not the question that the server has trouble with
_NOT_COLLECTED: Final = "it is not collected any more"
_NO_POINT: Final = re.compile(r"point not found|was not found|does not exist|no such point|deleted", re.IGNORECASE)
_PRIORITIES: Final[Mapping[Kind, Priority]] = {
    Kind.POLL: LIVE,
    Kind.GAP: BACKFILL,
    Kind.REQUESTED: BACKFILL,
    Kind.RECONCILE: RECONCILE,
}


class Clock(Protocol):
    """What is needed of `web.clock.Clock`."""

    @property
    def lower(self) -> int: ...


class Pace(Protocol):
    """What is needed of `web.pace.Pace`."""

    async def spend(self, values: int) -> None: ...


class Client(Protocol):
    """What is needed of `web.client.Client`."""

    @property
    def clock(self) -> Clock: ...
    @property
    def pace(self) -> Pace: ...
    async def get(
        self, path: str, query: Sequence[tuple[str, str]] = (), *, priority: Priority = ..., fresh: bool = False
    ) -> bytes: ...
    async def batch(
        self, parts: Mapping[str, Mapping[str, Any]], *, priority: Priority = ...
    ) -> Mapping[str, Answer]: ...


class Coverage(Protocol):
    """What is needed of `coverage.coverage.Coverage`."""

    def work(self, server_lower_ns: int, now_mono: float, most_streams: int) -> Piece | None: ...
    def covered(self, handle: int) -> int: ...
    def polls_due(self, server_lower_ns: int, now_mono: float) -> bool: ...
    def finished(self, piece: Piece) -> None: ...
    def returned(self, piece: Piece, due_mono: float, streams: NDArray[np.int32] | None = None) -> None: ...


class Intake(Protocol):
    """What is needed of `intake.Intake`."""

    @property
    def crowded(self) -> bool: ...
    def count(self, decoded: Decoded) -> None: ...
    def hand_on(
        self,
        timed: Timed,
        *,
        live: bool,
        advances: tuple[NDArray[np.int32], NDArray[np.int64]] | None = None,
        fresh: bool = True,
        positions: Mapping[str, bytes | None] | None = None,
    ) -> Awaitable[None]: ...


class Outlet(Protocol):
    """What is needed of `sluice.streams.Outlet`."""

    @property
    def roomy(self) -> bool: ...


@dataclass(slots=True)
class Counts:
    """Since the component's start."""

    requests: int = 0
    values: int = 0
    """Sent by the server."""
    pages: int = 0
    failures: int = 0
    """Requests that brought nothing."""
    alone: int = 0
    """Times that streams were asked for one by one."""
    stuck: int = 0
    """Times with more values than the server gives at once."""
    reconciled: int = 0
    """Values that were looked at again."""


@dataclass(slots=True)
class _Answered:
    """What one question brought: values, of which streams it brought none and why, and which points there are not."""

    timed: Timed
    sent: dict[int, int] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Reading:
    """A piece that is being read."""

    piece: Piece
    paging: Paging
    began: float
    less: int = 0
    """Times in a row that less was asked for."""
    failed: dict[int, str] = field(default_factory=dict)
    """Streams that are not read to the end of the piece."""
    reached: dict[int, int] = field(default_factory=dict)
    """Of a slice that is looked at again: up to when (ns) each stream was read."""
    flying: dict[asyncio.Task[_Answered], Ask] = field(default_factory=dict)
    handing: deque[asyncio.Future[None]] = field(default_factory=deque)
    ending: bool = False
    """No more is asked for."""
    error: PiError | None = None

    @property
    def past(self) -> bool:
        """It makes room for what is live."""
        return self.piece.kind is not Kind.POLL


class Reader:
    """Reads for one connection. Made anew when the connection begins anew; `run` ends with what the intake raises.

    stream_of: by handle; lost: told the web id of a point that the server does not know; tell: told events; outlet:
    where the intake hands on to.
    """

    def __init__(
        self,
        name: str,
        load: Load,
        client: Client,
        coverage: Coverage,
        intake: Intake,
        outlet: Outlet,
        typings: Typings,
        requested: Requested,
        reconciling: Reconciling,
        known: Callable[[Timed], NDArray[np.bool_]],
        *,
        stream_of: Callable[[int], Stream | None],
        lost: Callable[[str], None],
        tell: Callable[..., None],
    ) -> None:
        self.counts = Counts()
        self.load = load
        self.paused = False
        """Nothing is read: there is no room, or the archive is not to be had."""
        self._name = name
        self._client = client
        self._coverage = coverage
        self._intake = intake
        self._outlet = outlet
        self._typings = typings
        self._requested = requested
        self._reconciling = reconciling
        self._known = known
        self._stream_of = stream_of
        self._lost = lost
        self._tell = tell
        self._tasks: dict[asyncio.Task[None], _Reading] = {}
        self._windows: dict[Kind, int] = {}  # ns, as answers of this kind have had enough values in
        self._pauses: dict[int, Backoff] = {}  # of streams that fail
        self._troubles: dict[int, str] = {}  # the same: why
        self._pause = Backoff(*_PAUSES)
        self._paused_until = 0.0
        self._batches = True  # the server knows them, as far as we know
        self._trouble = ""
        self._most = 1
        self._values = self.load.values_per_request  # that the server gives at once, as far as it has said

    # --- which piece is next ---

    async def run(self) -> None:
        """Read whatever is to be read, until cancelled. Raises what the intake raises."""
        try:
            while True:
                while (piece := self._next()) is not None:
                    reading = _Reading(piece, self._paging(piece), _now())
                    self._tasks[asyncio.create_task(self._read(reading), name=f"reading of {self._name}")] = reading
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(_LOOK)
                for task in [task for task in self._tasks if task.done()]:
                    del self._tasks[task]
                    task.result()
        finally:
            await end(*self._tasks)
            self._tasks.clear()

    @property
    def _places(self) -> int:
        return max(1, self.load.parallel - 1)

    def _next(self) -> Piece | None:
        """The most urgent piece that there is a place for."""
        now, lower = _now(), int(self._client.clock.lower)
        if len(self._tasks) >= self._places or not lower or self.paused or now < self._paused_until:
            return None
        past = sum(reading.past for reading in self._tasks.values())
        may = past < max(1, self._places - 1) and self._room()
        most = self._most
        if may or self._coverage.polls_due(lower, now):
            piece = self._coverage.work(lower, now, most)
            if piece is not None and (may or piece.kind is Kind.POLL):
                return piece
            if piece is not None:
                self._coverage.returned(piece, now)
        if not may:
            return None
        return self._requested.work(lower, now, most) or self._reconciling.work(lower, now, most)

    def _room(self) -> bool:
        """Whether the past is wanted at present, and there is room for more than what is live."""
        return bool(self.load.backfill_values_per_second) and self._outlet.roomy and not self._intake.crowded

    def name(self, web_ids: Iterable[str]) -> None:
        """These are read from now on: as many are named in one address as have room in it."""
        longest = max((len(quote(web_id, safe="")) for web_id in web_ids), default=1)
        fixed = len(requests.written(*requests.recorded((), 2**62, 2**62, 10**7)))
        room = self.load.url_bytes - requests.BASE - fixed
        self._most = max(1, min(self.load.points_per_request, room // (longest + len("&webId="))))

    def _paging(self, piece: Piece) -> Paging:
        return Paging(piece, most=min(self.load.values_per_request, self._values), window=self._windows.get(piece.kind))

    # --- one piece ---

    async def _read(self, reading: _Reading) -> None:
        whole = False
        try:
            try:
                whole = await self._pages(reading)
            except StoreError:
                raise
            except Exception:  # whatever it is: this piece is read again, and all others go on
                logger.exception("Connection %s: a piece of the archive could not be read", self._name)
                reading.error = PiError("reading failed with an error of its own", "see the component's log for why")
            while reading.handing:
                await reading.handing[0]
                reading.handing.popleft()
        except BaseException:
            whole = False
            raise
        finally:
            await end(*reading.flying)
            for handed in reading.handing:
                handed.cancel()
            self._give_back(reading, whole=whole)

    async def _pages(self, reading: _Reading) -> bool:
        """Ask, and hand on what is answered; whether the piece was read to its end, but for streams that failed."""
        while True:
            while not reading.ending and len(reading.flying) < UNDER_WAY and (self._room() or not reading.past):
                ask = reading.paging.ask()
                if ask is None:
                    break
                self._fly(reading, ask, self._ask(ask, _PRIORITIES[reading.piece.kind]))
            if not reading.flying:
                return reading.paging.done and not reading.ending
            done, _ = await asyncio.wait(reading.flying, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await self._landed(reading, task, reading.flying.pop(task))
            if reading.past and (_now() - reading.began > TURN or self._must_make_room()):
                reading.ending = True

    def _must_make_room(self) -> bool:
        """Whether a poll waits for a place."""
        if len(self._tasks) < self._places:
            return False
        return self._coverage.polls_due(int(self._client.clock.lower), _now())

    def _fly(self, reading: _Reading, ask: Ask, asking: Coroutine[Any, Any, _Answered]) -> None:
        self.counts.requests += 1
        reading.flying[asyncio.create_task(asking)] = ask

    async def _landed(self, reading: _Reading, task: asyncio.Task[_Answered], ask: Ask) -> None:
        """Take over an answer, or do what the table above says."""
        alone = len(ask.streams) == 1
        try:
            answered = task.result()
        except TooMuchError as error:
            self._failed(error)
            reading.less += 1
            if reading.less > MOST_LESS:
                self._break_off(reading, error)
            else:
                reading.paging.too_much(ask)
                if len(ask.streams) * ask.max_count > reading.paging.most:
                    self._values = max(_LEAST_VALUES, min(self._values, reading.paging.most))
        except (MalformedError, UnavailableError) as error:
            self._failed(error)
            if isinstance(error, UnavailableError) and error.status in _AWAY:
                self._break_off(reading, error)
                return
            reading.less += 1
            if reading.less <= LESS:
                await asyncio.sleep(_LITTLE_LATER * reading.less)
                reading.paging.too_much(ask)
            elif alone:
                await self._take(reading, ask, _failing(ask, error))
            else:
                self._fly(reading, ask, self._each_alone(ask, _PRIORITIES[reading.piece.kind]))
        except (UnauthorizedError, ThrottledError) as error:
            self._failed(error)
            self._break_off(reading, error)
        except RefusedError as error:
            self._failed(error)
            if alone:
                await self._take(reading, ask, _failing(ask, error))
            else:
                self._fly(reading, ask, self._each_alone(ask, _PRIORITIES[reading.piece.kind]))
        except PiError as error:
            self._failed(error)
            self._break_off(reading, error)
        else:
            missing = [handle for handle in ask.streams.tolist() if handle not in answered.sent]
            missing = [handle for handle in missing if handle not in answered.failed]
            if missing and not alone:
                self._fly(reading, ask, self._each_alone(ask, _PRIORITIES[reading.piece.kind]))
                return
            answered.failed.update(dict.fromkeys(missing, "the server's answer leaves it out"))
            reading.less = 0
            await self._take(reading, ask, answered)

    def _failed(self, error: PiError) -> None:
        self.counts.failures += 1
        self._trouble = error.problem

    def _break_off(self, reading: _Reading, error: PiError) -> None:
        """This is nobody's fault in particular: the piece is read later."""
        reading.error = error
        reading.ending = True

    async def _take(self, reading: _Reading, ask: Ask, answered: _Answered) -> None:
        """Hand on what was answered; what follows waits when too much is on its way to the disk."""
        # One that went since it was decoded: its values are taken by nobody, and so nothing of it has been read.
        gone = (handle for handle in ask.streams.tolist() if self._stream_of(handle) is None)
        answered.failed.update(dict.fromkeys(gone, _NOT_COLLECTED))
        if answered.failed:
            bad = np.array([one for one in ask.streams.tolist() if one in answered.failed], np.int32)
            why = next(iter(answered.failed.values()))
            reading.failed.update(answered.failed)
            reading.paging.failed(ask, bad, why)
            for handle in answered.gone:
                if (stream := self._stream_of(handle)) is not None:
                    self._lost(stream.point.web_id)
            if len(bad) == len(ask.streams):
                return
            answered.timed = answered.timed.take(~np.isin(answered.timed.stream, bad))
        sent = np.array([answered.sent.get(handle, 0) for handle in ask.streams.tolist()], np.int64)
        paged = reading.paging.answered(ask, answered.timed, sent)
        good = np.array([handle not in answered.failed for handle in ask.streams.tolist()], np.bool_)
        self._hand_on(reading, answered.timed.take(paged.rows), ask.streams[good], paged.upto[good])
        values = int(sent.sum())
        self.counts.pages += 1
        self.counts.values += values
        self._trouble = ""
        self._pause.reset()
        if len(reading.handing) >= _PAGES:
            await reading.handing[0]
            reading.handing.popleft()
        if reading.past and values:
            await self._client.pace.spend(values)

    def _hand_on(self, reading: _Reading, timed: Timed, handles: NDArray[np.int32], upto: NDArray[np.int64]) -> None:
        piece, intake = reading.piece, self._intake
        if piece.kind is Kind.REQUESTED:
            self._requested.advanced(piece, handles, upto, len(timed))
            handing = intake.hand_on(timed, live=False, fresh=False, positions=self._requested.dump())
        elif piece.kind is Kind.RECONCILE:
            self.counts.reconciled += len(timed)
            reading.reached.update(zip(handles.tolist(), upto.tolist(), strict=True))
            # What lies beyond comes in its own way, and in its own stream.
            covered = {handle: self._coverage.covered(handle) for handle in np.unique(timed.stream).tolist()}
            timed = timed.take(timed.time <= np.array([covered[one] for one in timed.stream.tolist()], np.int64))
            if not len(timed):
                return
            self._reconciling.late += int((~self._known(timed)).sum())
            handing = intake.hand_on(timed, live=False)
        else:
            handing = intake.hand_on(timed, live=piece.kind is Kind.POLL, advances=(handles, upto))
        reading.handing.append(asyncio.ensure_future(handing))

    def _give_back(self, reading: _Reading, *, whole: bool) -> None:
        """The piece is over: read to its end, or to be read on, or again later."""
        piece, now = reading.piece, _now()
        self._windows[piece.kind] = int(reading.paging.window)
        reading.failed.update(reading.paging.failures)
        for handle, times in reading.paging.stuck.items():
            self._tell_stuck(handle, times)
        due = now if reading.error is None else self._later(reading.error, now)
        for handle in piece.streams.tolist():
            if handle not in reading.failed and self._pauses.pop(handle, None) is not None:
                self._troubles.pop(handle, None)
        if not reading.failed:
            failed = None
        else:
            failed = np.array(sorted(reading.failed), np.int32)
            due = max(due, now + self._failing(reading.failed))
        if piece.kind is Kind.REQUESTED:
            if failed is not None:
                self._requested.failed(piece, failed, next(iter(reading.failed.values())), due)
            if whole:
                self._requested.finished(piece)
            else:
                self._requested.returned(piece, due)
        elif piece.kind is Kind.RECONCILE:
            if whole:
                self._reconciling.finished(piece)
            elif reading.error is None:
                self._reconciling.resumed(piece, reading.reached)
            else:
                self._reconciling.returned(piece, due)
        elif whole and failed is None:
            self._coverage.finished(piece)
        else:
            self._coverage.returned(piece, due, None if reading.error is not None else failed)

    def _tell_stuck(self, handle: int, times: Sequence[int]) -> None:
        """More values stand at one time than the server gives at once: some of them cannot be had."""
        self.counts.stuck += len(times)
        stream = self._stream_of(handle)
        logger.error(
            "Connection %s: %s has more values at one time than the server gives at once: what is beyond is left out",
            self._name,
            handle if stream is None else stream.tag,
        )
        if stream is not None:
            self._tell(
                "values-left-out",
                tag=stream.tag,
                times_ns=list(times[:_SHOWN]),
                times=len(times),
                cause="more values stand at one time than the server gives at once",
                remedy="raise MaxReturnedItemsPerCall of PI Web API, and load.valuesPerRequest with it",
            )

    def _later(self, error: PiError, now: float) -> float:
        """When to try again after an error that is nobody's in particular: all wait, for longer and longer."""
        if now >= self._paused_until:  # several pieces fail of one cause
            self._paused_until = now + self._pause.next()
        if isinstance(error, ThrottledError):
            self._paused_until = max(self._paused_until, now + min(error.retry_after, _PAUSES[1]))
        return self._paused_until

    def _failing(self, failed: Mapping[int, str]) -> float:
        """Note streams that failed; after how long they are read again."""
        longest: float = 0.0
        for handle, why in failed.items():
            if handle not in self._pauses and len(self._pauses) >= _MOST_FAILING:
                longest = max(longest, _STREAM_PAUSES[0])
                continue
            longest = max(longest, self._pauses.setdefault(handle, Backoff(*_STREAM_PAUSES)).next())
            self._troubles[handle] = why
        return longest

    # --- one question ---

    async def _ask(self, ask: Ask, priority: Priority) -> _Answered:
        """All streams of it at once."""
        handles = self._web_ids(ask)
        if not handles:
            return _Answered(nothing(), failed=dict.fromkeys(ask.streams.tolist(), _NOT_COLLECTED))
        if len(handles) == 1:
            return await self._alone(ask, *next(iter(handles.items())), priority)
        body = await self._client.get(
            *requests.recorded(handles, ask.start, ask.stop, ask.max_count), priority=priority
        )
        return self._answered(decode_recorded(body, handles, self._typings), ask)

    def _web_ids(self, ask: Ask) -> dict[str, int]:
        """The handles of those of its streams that are still collected, by web id."""
        found = ((handle, self._stream_of(handle)) for handle in ask.streams.tolist())
        return {stream.point.web_id: handle for handle, stream in found if stream is not None}

    def _answered(self, decoded: Decoded, ask: Ask) -> _Answered:
        self._intake.count(decoded)
        gone = {handle for handle, why in decoded.errors.items() if _NO_POINT.search(why)}
        answered = _Answered(decoded.timed, decoded.sent, dict(decoded.errors), gone)
        for handle in ask.streams.tolist():
            if self._stream_of(handle) is None:
                answered.failed[handle] = _NOT_COLLECTED
        return answered

    async def _alone(self, ask: Ask, web_id: str, handle: int, priority: Priority) -> _Answered:
        """One stream, by a request of its own."""
        request = requests.recorded_alone(web_id, ask.start, ask.stop, ask.max_count)
        try:
            body = await self._client.get(*request, priority=priority)
        except NotFoundError as error:
            return _Answered(nothing(), failed={handle: error.problem}, gone={handle})
        return self._single(body, ask, web_id, handle)

    def _single(self, body: bytes, ask: Ask, web_id: str, handle: int) -> _Answered:
        answered = self._answered(decode_recorded(body, {web_id: handle}, self._typings), ask)
        if handle not in answered.failed:
            answered.sent.setdefault(handle, 0)  # an empty answer does not name it
        return answered

    async def _each_alone(self, ask: Ask, priority: Priority) -> _Answered:
        """Its streams one by one, so that each fails alone: in batches, where the server knows them."""
        self.counts.alone += 1
        handles = list(self._web_ids(ask).items())
        together = _Answered(nothing())
        parts: list[Timed] = []
        for start in range(0, len(handles), _BATCH):
            some = dict(handles[start : start + _BATCH])
            for one in await self._one_by_one(ask, some, priority):
                parts.append(one.timed)
                together.sent.update(one.sent)
                together.failed.update(one.failed)
                together.gone |= one.gone
        for handle in ask.streams.tolist():
            if handle not in together.sent and handle not in together.failed:
                together.failed[handle] = _NOT_COLLECTED
        together.timed = join(parts)
        return together

    async def _one_by_one(self, ask: Ask, handles: Mapping[str, int], priority: Priority) -> list[_Answered]:
        if self._batches:
            try:
                return await self._batch(ask, handles, priority)
            except (UnsupportedError, NotFoundError, ForbiddenError):
                self._batches = False
        found = []
        for web_id, handle in handles.items():
            try:
                found.append(await self._alone(ask, web_id, handle, priority))
            except (UnauthorizedError, ThrottledError, TooMuchError):  # noqa: PERF203 - each is a request
                raise
            except (RefusedError, MalformedError) as error:
                found.append(_Answered(nothing(), failed={handle: error.problem}))
        return found

    async def _batch(self, ask: Ask, handles: Mapping[str, int], priority: Priority) -> list[_Answered]:
        """One request with a part for each stream. Raises PiError for the whole, and TooMuchError for a part."""
        asked = {
            str(handle): {
                "Method": "GET",
                "Resource": requests.written(*requests.recorded_alone(web_id, ask.start, ask.stop, ask.max_count)),
            }
            for web_id, handle in handles.items()
        }
        answers = await self._client.batch(asked, priority=priority)
        found = []
        for web_id, handle in handles.items():
            answer = answers[str(handle)]
            error = answer.error()
            if isinstance(error, (TooMuchError, UnauthorizedError, ThrottledError)):
                raise error
            if error is None:
                try:
                    found.append(self._single(answer.body, ask, web_id, handle))
                except MalformedError as malformed:
                    found.append(_Answered(nothing(), failed={handle: malformed.problem}))
            else:
                gone = {handle} if isinstance(error, NotFoundError) else set()
                found.append(_Answered(nothing(), failed={handle: error.problem}, gone=gone))
        return found

    # --- what is told ---

    def trouble_of(self, handle: int) -> str:
        """Why the stream could not be read the last time; empty when it could."""
        return self._troubles.get(handle, "")

    @property
    def troubles(self) -> Mapping[int, str]:
        """By handle, why streams could not be read the last time."""
        return self._troubles

    def status(self) -> dict[str, Any]:
        """For the status."""
        told: dict[str, Any] = {name: count for name, count in asdict(self.counts).items() if count}
        if not self.load.backfill_values_per_second:
            told["paused"] = "load.backfillValuesPerSecond is 0"
        if self._tasks:
            kinds = Counter(reading.piece.kind.value for reading in self._tasks.values())
            told["reading"] = dict(kinds)
        if self._trouble:
            told["trouble"] = self._trouble
        if self._troubles:
            streams = ((self._stream_of(handle), why) for handle, why in self._troubles.items())
            told["failing"] = {
                "streams": len(self._troubles),
                "some": {stream.tag: why for stream, why in islice(streams, _SHOWN) if stream is not None},
            }
        return told


def _failing(ask: Ask, error: PiError) -> _Answered:
    """The only stream of it cannot be read."""
    handle = int(ask.streams[0])
    gone = {handle} if isinstance(error, NotFoundError) else set()
    return _Answered(nothing(), failed={handle: error.problem}, gone=gone)


def _now() -> float:
    return asyncio.get_running_loop().time()
