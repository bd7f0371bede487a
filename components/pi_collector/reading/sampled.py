"""Modes that sample the archive: snapshot, end, interpolated, summary. The server is asked every so often.

Theory of operation
-------------------
*snapshot, end*: every poll the newest value of each point. What has the time and the value of the last one is no news.
Of points with a future, `end` gives the end of what is known of it: a value may have a time to come. After a start the
newest value is given again if it is older than what is remembered.

*interpolated, summary*: values stand at whole multiples of the interval, in server time. A window is closed when it
lies before the server's clock less `settle`; then it is read. What is late changes windows that were read: the last
`overlap` is read again, every quarter of it, and what has another value then comes again with the same time. Coverage
is kept as for everything else, so that windows that were missed are read later, `maxBackfill` back at most.

Streams that are asked for in the same way are one *job*, which asks for them many at a time:

| what went wrong                    | becomes                                                                     |
|------------------------------------|-----------------------------------------------------------------------------|
| refused for what was asked (4xx)   | halves, until the bad one is alone: it is set aside and tried again later   |
| more than the server gives at once | halves; of one stream alone fewer windows                                   |
| one stream has an error            | it is not advanced, and read again later                                    |
| anything else                      | the same again at the next poll; after MISSED in a row it is a gap          |
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pi_collector.config import Load, Mode
from pi_collector.plan import Plan
from pi_collector.points.point import Stream
from pi_collector.values.decode import Decoded, decode_recorded, decode_summary
from pi_collector.values.timed import Timed
from pi_collector.values.typing import Typings
from pi_collector.web import requests
from pi_collector.web.errors import (
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
from pi_collector.web.pace import BACKFILL, LIVE, Priority
from pi_collector.web.requests import Request
from sluice.problem import render
from sluice.retry import Backoff
from sluice.tasks import end

logger = logging.getLogger(__name__)

MISSED: Final = 3
"""Polls in a row of which nothing came, after which it is a gap."""
CAUSE: Final = "the server could not be asked"
MODES: Final[Collection[Mode]] = frozenset(("snapshot", "end", "interpolated", "summary"))
_VALUES: Final = 20_000  # values of one answer
_REREAD: Final = 4  # the overlap is read again every such part of it
_PAST_AT_ONCE: Final = 5.0  # seconds of one poll that a longer past may take: the present is not kept waiting for it
_NEAR: Final = 10  # windows: what is read of them when they are just closed is live
_SET_ASIDE: Final = (5.0, 600.0)  # seconds before a stream that failed is tried again
_REASON: Final = 200  # characters
_NEVER: Final = -(2**63)


class Clock(Protocol):
    """What is needed of the client's clock."""

    @property
    def lower(self) -> int: ...
    async def after(self) -> int: ...


class Client(Protocol):
    """What is needed of `web.client.Client`."""

    @property
    def clock(self) -> Clock: ...
    async def get(self, path: str, query: Sequence[tuple[str, str]] = (), *, priority: Priority = ...) -> bytes: ...


class Coverage(Protocol):
    """What is needed of `coverage.coverage.Coverage`."""

    def want(self, handles: NDArray[np.int32], upto_ns: int, *, elsewhere: bool = False) -> None: ...
    def lost(self, handles: NDArray[np.int32], cause: str, remedy: str = "") -> None: ...
    def covered(self, handle: int) -> int: ...
    def needed(self, before: int) -> NDArray[np.int64]: ...


class State(Protocol):
    """What is needed of `coverage.state.State`."""

    @property
    def coverage(self) -> Coverage: ...


class Intake(Protocol):
    """What is needed of `intake.Intake`."""

    @property
    def typings(self) -> Typings: ...
    @property
    def full(self) -> bool: ...
    async def room(self) -> None: ...
    def count(self, decoded: Decoded) -> None: ...
    def hand_on(
        self,
        timed: Timed,
        *,
        live: bool,
        advances: tuple[NDArray[np.int32], NDArray[np.int64]] | None = None,
    ) -> Awaitable[None]: ...


class Reporter(Protocol):
    """Where problems are told: `sluice.component.Problems`."""

    def report(self, scope: str, problem: str, remedy: str, value: Any = None, *, effect: str = "") -> None: ...
    def clear(self, scope: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Way:
    """How streams are asked for; those that agree in it are asked for together. Times in ns, poll in seconds."""

    mode: Mode
    poll: float
    interval: int
    overlap: int
    settle: int
    summaries: tuple[str, ...]

    @property
    def windows(self) -> bool:
        """It reads closed windows, and not the present."""
        return self.mode in ("interpolated", "summary")


def way(plan: Plan) -> Way:
    """How the streams of a group are asked for."""
    windows = plan.mode in ("interpolated", "summary")
    return Way(
        plan.mode,
        plan.poll,
        max(1, round(plan.interval * 10**9)) if windows else 0,
        round(plan.overlap * 10**9) if windows else 0,
        round(plan.settle * 10**9) if windows else 0,
        plan.summaries if plan.mode == "summary" else (),
    )


@dataclass(slots=True, eq=False)
class _Job:
    """Streams that are asked for in the same way."""

    way: Way
    streams: dict[int, Stream]
    heard: int = 0
    """The server's clock at the last poll."""
    missed: int = 0
    """Polls in a row of which nothing came."""
    away: bool = False
    """The ledger has been told."""
    reread: int = _NEVER
    """Up to when windows were closed when the overlap was read again."""
    windows: int = 0
    """Windows in one question, where the server gives no more; 0: as many as fit."""
    counts: dict[str, int] = field(default_factory=lambda: {"polls": 0, "values": 0, "failures": 0, "overruns": 0})
    trouble: str = ""


@dataclass(slots=True)
class _Aside:
    """A stream that could not be read: why, and when it is tried again."""

    why: str
    pause: Backoff
    until: float


class Sampled:
    """Asks for the streams of a connection that are collected in these modes. `run` beside everything else.

    lost: told the web id of a point that the server does not know. clock: monotonic seconds.
    """

    def __init__(
        self,
        connection: str,
        client: Client,
        intake: Intake,
        state: State,
        problems: Reporter,
        *,
        load: Load | None = None,
        lost: Callable[[str], None] = lambda web_id: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.load = Load() if load is None else load
        self._connection = connection
        self._client = client
        self._intake = intake
        self._coverage = state.coverage
        self._problems = problems
        self._lost = lost
        self._clock = clock
        self._jobs: dict[Way, _Job] = {}
        self._aside: dict[int, _Aside] = {}
        self._told = ""
        self._changed = asyncio.Event()
        self._last_time: NDArray[np.int64] = np.full(64, _NEVER, np.int64)  # by handle, of snapshot and end
        self._last_hash: NDArray[np.uint64] = np.zeros(64, np.uint64)

    def want(self, streams: Sequence[Stream]) -> None:
        """Ask for these from now on, and for no others; those of other modes are passed over."""
        wanted: dict[Way, dict[int, Stream]] = {}
        for stream in streams:
            if stream.plan.mode in MODES:
                wanted.setdefault(way(stream.plan), {})[stream.handle] = stream
        for of, job in list(self._jobs.items()):
            job.streams = wanted.pop(of, {})
            if not job.streams:
                del self._jobs[of]
        self._jobs.update({of: _Job(of, mine) for of, mine in wanted.items()})
        known = {handle for job in self._jobs.values() for handle in job.streams}
        self._last_time[[handle for handle in range(len(self._last_time)) if handle not in known]] = _NEVER
        self._reach(max(known, default=0))
        for handle in self._aside.keys() - known:
            del self._aside[handle]
        self._tell_aside()
        self._changed.set()

    def _reach(self, handle: int) -> None:
        if handle >= len(self._last_time):
            more = 2 * handle + 1 - len(self._last_time)
            self._last_time = np.concatenate([self._last_time, np.full(more, _NEVER, np.int64)])
            self._last_hash = np.concatenate([self._last_hash, np.zeros(more, np.uint64)])

    async def run(self) -> None:
        """Ask, until cancelled. Raises what the intake raises."""
        tasks: dict[asyncio.Task[None], _Job] = {}
        try:
            while True:
                self._changed.clear()
                for job in [job for job in self._jobs.values() if job not in tasks.values()]:
                    tasks[asyncio.create_task(self._run(job), name=f"{job.way.mode} of {self._connection}")] = job
                changed = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait((changed, *tasks), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                for task in [task for task in tasks if task.done()]:
                    del tasks[task]
                    task.result()
        finally:
            await end(*tasks)

    async def _run(self, job: _Job) -> None:
        """Poll after poll, in step, as long as somebody wants it."""
        due = self._clock()
        while self._jobs.get(job.way) is job:
            await self._poll(job)
            due += job.way.poll
            behind = self._clock() - due
            if behind > 0:
                missed = int(behind // job.way.poll) + 1
                job.counts["overruns"] += missed
                due += missed * job.way.poll
            await asyncio.sleep(max(0.0, due - self._clock()))

    async def _poll(self, job: _Job) -> None:
        """One poll of all; what fails of it is left to the next one."""
        if self._intake.full:
            return
        try:
            lower = self._client.clock.lower
            if job.away or lower == job.heard:  # nobody hears of the server: is it there, and what time is it?
                await self._client.clock.after()
            job.heard = self._client.clock.lower
            asked = await self._ask_all(job)
        except PiError as error:
            self._failed(job, error)
            asked = False
        if asked or (asked is None and not job.away):
            job.missed, job.away, job.trouble = 0, False, ""
        elif asked is False:
            job.missed += 1
            if job.missed >= MISSED and not job.away:
                job.away = True
                self._coverage.lost(np.array(list(job.streams), np.int32), CAUSE, job.trouble[:_REASON])

    async def _ask_all(self, job: _Job) -> bool | None:
        """Whether something was answered; None: there was nothing to ask."""
        lower = self._client.clock.lower
        if not lower:
            return None
        of = job.way
        upto = (lower - of.settle) // of.interval * of.interval if of.windows else lower
        handles = np.array(list(job.streams), np.int32)
        self._coverage.want(handles, upto, elsewhere=True)
        job.counts["polls"] += 1
        questions = self._windows(job, handles, upto) if of.windows else [(0, 0, self._ready(handles.tolist()))]
        asked = [
            self._part(job, [streams[i] for i in part], first, last)
            for first, last, streams in questions
            for part in self._parts(job, streams)
        ]
        if not asked:
            return None
        answered = await asyncio.gather(*asked, return_exceptions=True)
        for outcome in answered:
            if isinstance(outcome, BaseException) and not isinstance(outcome, PiError):
                raise outcome
        failed = [outcome for outcome in answered if isinstance(outcome, PiError)]
        for error in failed[:1]:
            self._failed(job, error)
        return len(failed) < len(answered)

    def _failed(self, job: _Job, error: PiError) -> None:
        job.counts["failures"] += 1
        if job.trouble != error.problem:
            job.trouble = error.problem
            logger.warning(
                "Connection %s: values of mode %s cannot be read, which is tried again: %s",
                self._connection,
                job.way.mode,
                error,
            )

    def _ready(self, handles: Sequence[int]) -> list[int]:
        """Those that are not set aside at present."""
        now = self._clock()
        return [handle for handle in handles if (aside := self._aside.get(handle)) is None or aside.until <= now]

    def _windows(self, job: _Job, handles: NDArray[np.int32], upto: int) -> list[tuple[int, int, list[int]]]:
        """What is to be read of closed windows: (begin of the first, end of the last one, streams), oldest first."""
        of = job.way
        again = upto - job.reread >= max(of.overlap // _REREAD, 1) if job.reread != _NEVER else True
        covered = np.array([self._coverage.covered(handle) for handle in handles.tolist()], np.int64)
        starts = self._coverage.needed(upto)[handles] if again else covered
        first = -(-starts // of.interval) * of.interval
        behind = covered < upto
        if not behind.any():
            return []
        if again:
            job.reread = upto
        wanted = np.flatnonzero((behind | again) & (first < upto + (of.mode == "interpolated")))
        found = []
        for start in np.unique(first[wanted]).tolist():
            streams = self._ready(handles[wanted[first[wanted] == start]].tolist())
            if streams:
                found.append((start, upto, streams))
        return found

    def _parts(self, job: _Job, handles: Sequence[int]) -> list[list[int]]:
        """Streams by their place in `handles`, as many together as fit into one address."""
        web_ids: dict[str, list[int]] = {}
        for place, handle in enumerate(handles):
            web_ids.setdefault(job.streams[handle].point.web_id, []).append(place)
        names = list(web_ids)
        request = self._request(job.way, (), 0, 0)
        fitting = requests.chunks(request.path, request.query, names, self.load.points_per_request, self.load.url_bytes)
        return [[place for i in part for place in web_ids[names[i]]] for part in fitting]

    def _request(self, of: Way, web_ids: Collection[str], first: int, last: int) -> Request:
        if of.mode == "snapshot":
            return requests.value(web_ids)
        if of.mode == "end":
            return requests.end_value(web_ids)
        seconds = of.interval / 10**9
        if of.mode == "interpolated":
            return requests.interpolated(web_ids, first, last, seconds)
        return requests.summary(web_ids, first, last, seconds, of.summaries)

    # --- one question after the other ---

    async def _part(self, job: _Job, handles: Sequence[int], first: int, last: int) -> None:
        """Streams that fit into one address: page by page from the first window on."""
        of = job.way
        if not of.windows:
            await self._question(job, handles, 0, 0)
            return
        at = first
        enough = self._clock() + max(of.poll, _PAST_AT_ONCE)
        while at < last or (at == last and of.mode == "interpolated"):
            per_window = len(handles)  # of summaries each is a stream of its own
            windows = max(1, min(_VALUES, self.load.values_per_request) // per_window)
            windows = min(windows, job.windows) if job.windows else windows
            points = of.mode == "interpolated"
            stop = min(last, at + (windows - points) * of.interval)
            near = last - at <= of.overlap + _NEAR * of.interval
            if not await self._question(job, handles, at, stop, near=near):
                continue  # less is asked for now
            at = stop + of.interval if points else stop
            if not near and self._clock() >= enough:
                return  # the next poll goes on there

    async def _question(self, job: _Job, handles: Sequence[int], first: int, stop: int, *, near: bool = True) -> bool:
        """Ask, and hand on what is answered. False: it was too much, and less is to be asked for. Raises PiError."""
        mine = {handle: job.streams[handle] for handle in handles if handle in job.streams}
        if not mine:
            return True
        await self._intake.room()
        lower = self._client.clock.lower
        web_ids = list(dict.fromkeys(stream.point.web_id for stream in mine.values()))
        request = self._request(job.way, web_ids, first, stop)
        try:
            body = await self._client.get(*request, priority=LIVE if near else BACKFILL)
            decoded = self._decoded(job.way, body, mine)
        except TooMuchError as error:
            return await self._less(job, mine, web_ids, first, stop, near, error)
        except (UnauthorizedError, UnavailableError, ThrottledError, UnsupportedError):
            raise
        except (RefusedError, MalformedError) as error:
            if len(web_ids) > 1:
                await self._halves(job, mine, web_ids, first, stop, near)
            elif isinstance(error, MalformedError):
                raise
            else:
                self._set_aside(mine, error.problem)
                if isinstance(error, NotFoundError):
                    self._lost(web_ids[0])
            return True
        await self._take(job, mine, decoded, stop if job.way.windows else lower, near)
        return True

    async def _less(
        self,
        job: _Job,
        mine: Mapping[int, Stream],
        web_ids: Sequence[str],
        first: int,
        stop: int,
        near: bool,
        error: PiError,
    ) -> bool:
        """It was more than the server gives at once."""
        windows = 0
        if job.way.windows:
            windows = (stop - first) // job.way.interval + (job.way.mode == "interpolated")
        if windows > 1:
            job.windows = max(1, windows // 2)
            return False
        if len(web_ids) == 1:
            raise error
        await self._halves(job, mine, web_ids, first, stop, near)
        return True

    async def _halves(
        self, job: _Job, mine: Mapping[int, Stream], web_ids: Sequence[str], first: int, stop: int, near: bool
    ) -> None:
        half = frozenset(web_ids[: len(web_ids) // 2])
        for part in (True, False):
            handles = [handle for handle, stream in mine.items() if (stream.point.web_id in half) is part]
            if not await self._question(job, handles, first, stop, near=near):
                raise MalformedError("gives fewer values at once than there are windows", "it is asked again for fewer")

    def _decoded(self, of: Way, body: bytes, mine: Mapping[int, Stream]) -> Decoded:
        typings = self._intake.typings
        if of.mode == "summary":
            by_type = {(stream.point.web_id, stream.summary): handle for handle, stream in mine.items()}
            return decode_summary(body, by_type, typings)
        return decode_recorded(body, {stream.point.web_id: handle for handle, stream in mine.items()}, typings)

    async def _take(self, job: _Job, mine: Mapping[int, Stream], decoded: Decoded, upto: int, near: bool) -> None:
        """Hand on what was answered; who is in the answer without an error has been read up to there."""
        failed = {handle: why for handle, why in decoded.errors.items() if handle in mine}
        failed |= {h: "the server's answer leaves it out" for h in mine if h not in decoded.sent and h not in failed}
        for handle, why in failed.items():
            self._set_aside({handle: mine[handle]}, why)
        well = [handle for handle in mine if handle not in failed and handle in job.streams]
        for handle in well:
            if self._aside.pop(handle, None) is not None:
                self._tell_aside()
        self._intake.count(decoded)
        timed = decoded.timed if job.way.windows else self._news(decoded.timed)
        job.counts["values"] += len(timed)
        read = np.array(well, np.int32)
        await self._intake.hand_on(timed, live=near, advances=(read, np.full(len(read), upto, np.int64)))

    def _news(self, timed: Timed) -> Timed:
        """Those that have another time or value than the last one of their stream."""
        if not len(timed):
            return timed
        same = (self._last_time[timed.stream] == timed.time) & (self._last_hash[timed.stream] == timed.hash)
        self._last_time[timed.stream] = timed.time
        self._last_hash[timed.stream] = timed.hash
        return timed if not same.any() else timed.take(~same)

    # --- what cannot be read ---

    def _set_aside(self, streams: Mapping[int, Stream], why: str) -> None:
        for handle in streams:
            aside = self._aside.setdefault(handle, _Aside(why, Backoff(*_SET_ASIDE), 0.0))
            aside.why = why[:_REASON]
            aside.until = self._clock() + aside.pause.next()
        self._tell_aside()

    def _tell_aside(self) -> None:
        place = render(("connections", self._connection, "sampled"))
        if not self._aside:
            if self._told:
                self._problems.clear(place)
            self._told = ""
            return
        handle, aside = next(iter(self._aside.items()))
        tags = {h: stream.tag for job in self._jobs.values() for h, stream in job.streams.items()}
        told = f"{len(self._aside)} tags cannot be read at present, the first because: {aside.why}"
        if told != self._told:
            self._told = told
            self._problems.report(
                place,
                told,
                "see that the points exist and may be read by our user",
                tags.get(handle),
                effect="they are tried again; all others are collected",
            )

    def status(self) -> dict[str, Any]:
        """For the connection's status, by mode."""
        told: dict[str, Any] = {}
        for job in self._jobs.values():
            of = told.setdefault(job.way.mode, {"streams": 0, "aside": 0})
            of["streams"] += len(job.streams)
            of["aside"] += sum(handle in self._aside for handle in job.streams)
            for name, count in job.counts.items():
                of[name] = of.get(name, 0) + count
            if job.trouble:
                of["trouble"] = job.trouble
        return told
