"""One connection: reaches its PI Web API, knows its points, and has everything of them collected, whatever happens.

    connecting --> running <--> waiting (no answer, archive down, refused)           forever, with a growing pause
                      \\-----> paused (outbox full)                                   PI keeps what is to come

    client       speaks HTTP; which address, who we are, how much
    points       tags to points
    life         what is remembered, and whoever works with it: made anew, as after a crash, when storing has failed
      state      frontiers, gaps, what was handed on (`coverage`)
      intake     hands on what is new, with the journal of the state
      transports, sampled, reader    where values come from

What is collected of a point is a *stream*, known by the point's number and the mode (`points.point.key_of`). Settings
and tags may change at any time: streams that stay are not touched, and neither are their sockets. Whatever fails is
tried again, each part by itself; nothing here ever ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from pi_collector.config import Connection as Settings
from pi_collector.config import Tag
from pi_collector.coverage.state import State
from pi_collector.intake import Intake, StoreError
from pi_collector.intake import Outlet as IntakeOutlet
from pi_collector.plan import Plan, plan
from pi_collector.points.point import Stream, key_of
from pi_collector.points.resolving import Points, Resolved
from pi_collector.problems import Reporter, problem_of
from pi_collector.reading.reader import Reader
from pi_collector.reading.reconcile import Reconciling, Turn
from pi_collector.reading.requested import MOST_REQUESTS, NOT_COLLECTED, Request, Requested
from pi_collector.reading.sampled import Sampled
from pi_collector.reading.unreadable import Unreadable
from pi_collector.transports.transports import Transports
from pi_collector.values.decode import decode_recorded
from pi_collector.values.timed import Timed
from pi_collector.values.times import format7
from pi_collector.values.typing import Typings
from pi_collector.web import requests
from pi_collector.web.authentication import Source
from pi_collector.web.client import Client
from pi_collector.web.errors import PiError
from pi_collector.web.features import Health
from sluice.columns import Quality
from sluice.problem import render
from sluice.retry import Backoff
from sluice.status import Connection as Shown
from sluice.status import when
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

_SECOND: Final = 10**9
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_TEND: Final = 1.0  # seconds between looks at what is to be told and how all is
_STABLE: Final = 60.0  # seconds after which a part that fails is begun again at once
_SHOWN: Final = 10
_MOST_GROUPS: Final = 16
_REMEMBERED: Final = "reconcile"
"""Position: how far back the tail reaches."""
_FULL: Final = (
    "the outbox is full",
    "see which consumer does not take its data, or give the outbox more room (outbox.maxSize)",
)


class Outlet(IntakeOutlet, Protocol):
    """Where samples go: `sluice.streams.Outlet`."""

    recoverable: bool

    @property
    def roomy(self) -> bool:
        """There is room for more than what comes by itself."""

    def position(self, key: str) -> bytes | None:
        """As noted last."""


@dataclass(slots=True)
class _Life:
    """What is remembered, and whoever works with it."""

    state: State
    intake: Intake
    transports: Transports
    sampled: Sampled
    reader: Reader
    reconciling: Reconciling
    streams: dict[str, Stream]
    """By key."""
    by_handle: dict[int, Stream]
    held: str = ""
    """Why nothing is read at present."""

    def names(self, handle: int) -> str:
        """The tag of a stream, or what it is known by when it has none any more."""
        stream = self.by_handle.get(handle)
        return self.state.key(handle) if stream is None else stream.tag


class Connection:
    """A PI Web API and its tags. `run` never ends by itself; `reconfigure` may be called at any time."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        tags: Mapping[str, Tag],
        *,
        outlet: Outlet,
        secret: Source,
        directory: Path,
        problems: Reporter,
    ) -> None:
        self.name = name
        self.state = Shown("connecting")
        self._settings = settings
        self._configured = tags
        self._outlet = outlet
        self._problems = problems
        self._client = Client(name, settings, secret=secret, directory=directory, problems=problems)
        self._resolved: Mapping[str, Resolved] = {}
        self._points = Points(name, settings, self._client, directory, problems, tell=self._tell)
        self._points.want(tags)
        self._points.found = self._found
        self._life: _Life | None = None
        self._reached = False
        self._changed = asyncio.Event()  # settings, while the server is not reached
        self._leaving = False
        self._troubles: dict[str, str] = {}  # by part: why it failed the last time
        self._unusable: dict[str, str] = {}  # by tag: why its point cannot be collected
        self._begins = 0
        self._health: Health | None = None
        self._unreadable = Unreadable(problems, self._where)
        self._window: int | None = None  # ns that the tail reaches back (None: nothing was handed on yet),
        self._since = 0  # but never before this server time,
        self._shortened = 0  # for then so many keys had to go
        outlet.recoverable = True  # PI keeps its values
        # Here and not in `run`: a command that goes on after a restart may ask before that has begun.
        self._requested = self._load_requests()

    # --- what others ask of it ---

    @property
    def settings(self) -> Settings:
        """The configuration that it goes by."""
        return self._settings

    @property
    def tags(self) -> Mapping[str, Tag]:
        """What is collected, by tag: what is configured, and what searches have found."""
        return {**{name: one.tag for name, one in self._resolved.items()}, **self._configured}

    @property
    def client(self) -> Client:
        """What speaks with the server, for who looks something up there."""
        return self._client

    @property
    def points(self) -> Points:
        """The points of its tags."""
        return self._points

    def history(self, tag: str) -> str | None:
        """Whether the past of the tag can be read: "", or why not; None: it is not known yet."""
        found = self._resolved.get(tag)
        if found is None:
            return None
        mode = self._plan(found.tag.group).mode
        if mode in ("interpolated", "summary"):
            return f"its values are calculated by the server (mode {mode}), and not kept"
        return self._unusable.get(tag, "")

    @property
    def asked(self) -> bool:
        """As many ranges of the past are asked for as can be."""
        return self._requested.waiting >= MOST_REQUESTS

    def asked_for(self, identity: str) -> Request | None:
        """The request of this id, done or not, as far as it is known."""
        return self._requested.get(identity)

    def request(self, identity: str, first: int, until: int, tags: Collection[str]) -> Request:
        """Read a range of the past (ns, first <= time < until) again; an id that is known goes on where it was."""
        known = self._requested.get(identity)
        if known is None:
            self._requested.add(identity, first, until, tags)
            self._note_requests()
            known = self._requested.get(identity)
            assert known is not None
        return known

    async def settled(self) -> None:
        """Until what has been read so far, and the note of it, are durable."""
        await self._note_requests()

    def _note_requests(self) -> asyncio.Future[None]:
        noted = asyncio.ensure_future(self._outlet.note(self._requested.dump()))
        noted.add_done_callback(_heeded)
        return noted

    def _load_requests(self) -> Requested:
        requested = Requested(self._handle, self.history)
        if trouble := requested.load(self._outlet.position):
            logger.error("Connection %s: %s", self.name, trouble)
        return requested

    def _handle(self, tag: str) -> int | None:
        stream = self.stream_of(tag)
        return None if stream is None else stream.handle

    def stream_of(self, tag: str) -> Stream | None:
        """What is collected of the tag, in mode summary the first of it; None: nothing at present."""
        found, life = self._resolved.get(tag), self._life
        if found is None or life is None:
            return None
        how = self._plan(found.tag.group)
        summary = how.summaries[0] if how.mode == "summary" else ""
        return life.streams.get(key_of(found.point, how, summary))

    def refresh(self) -> None:
        """Look all points up anew, soon."""
        self._points.refresh()

    # --- settings ---

    def reconfigure(self, settings: Settings, tags: Mapping[str, Tag]) -> None:
        """Go over to this. Streams that stay go on, and so do their sockets, unless the server is another one."""
        before, self._settings = self._settings, settings
        self._configured = tags
        self._client.apply(settings)
        self._points.apply(settings)
        self._points.want(tags)
        life = self._life
        if life is not None:
            life.intake.apply(settings)
            life.transports.apply(settings)
            life.reader.load = life.sampled.load = settings.load
            if self._reached:
                self._collect(life, anew=_reading(before) != _reading(settings))
        self._changed.set()

    def leave(self) -> None:
        """When `run` is cancelled next, nothing more is noted: the connection will not come back."""
        self._leaving = True

    def forget(self) -> None:
        """Delete what is kept for the next run: there is none."""
        state = State(time.time)
        state.load(self._outlet.position)
        kept = [*state.positions(), *self._requested.positions(), _REMEMBERED]
        asyncio.ensure_future(self._outlet.note(dict.fromkeys(kept))).add_done_callback(_heeded)
        self._points.forget()

    # --- life ---

    async def run(self) -> None:
        """Collect until cancelled."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        try:
            while True:
                began = _now()
                try:
                    await self._live()
                except StoreError as error:
                    logger.error("Connection %s: %s; it begins anew from what is stored", self.name, error)
                    self.state.set("waiting", str(error), "see the component's log for why the outbox could not store")
                except Exception as error:
                    logger.exception("Connection %s failed; it begins anew", self.name)
                    self.state.set("waiting", f"failed with {type(error).__name__}", "see the component's log for why")
                if _now() - began > _STABLE:
                    backoff.reset()
                await asyncio.sleep(backoff.next())
        finally:
            await self._client.close()

    async def _live(self) -> None:
        """One life: from what is stored to whatever makes another one necessary."""
        life = self._life = self._begin()
        try:
            await self._reach()
            self._note_remembered(life)
            if not self._resolved:
                self._points.restore()
            self._collect(life, anew=True)
            await _all(
                self._watched("points", self._points.run),
                self._watched("transports", life.transports.run, self._transports_failed),
                self._watched("sampled", life.sampled.run),
                self._watched("reader", life.reader.run),
                self._watched("connection", self._tend),
            )
        finally:
            if not self._leaving and life.intake.broken is None:
                asyncio.ensure_future(life.intake.checkpoint()).add_done_callback(_heeded)
            life.intake.close()
            self._life = None
            self._unreadable.close()

    def _begin(self) -> _Life:
        self._begins += 1
        settings, outlet, client = self._settings, self._outlet, self._client
        state = State(time.time)
        for trouble in state.load(outlet.position):
            logger.error("Connection %s: %s", self.name, trouble)
        if self._begins > 1:
            self._requested = self._load_requests()
        intake = Intake(self.name, outlet, state, settings)
        reconciling = Reconciling(
            begin=lambda handle: self._readable_from(state, handle), covered=state.coverage.covered
        )
        streams: dict[str, Stream] = {}
        by_handle: dict[int, Stream] = {}
        transports = Transports(self.name, settings, client, intake, state, self._problems, refused=self._refused)
        sampled = Sampled(self.name, client, intake, state, self._problems, load=settings.load, lost=self._points.lost)
        reader = Reader(
            self.name,
            settings.load,
            client,
            state.coverage,
            intake,
            outlet,
            intake.typings,
            self._requested,
            reconciling,
            intake.known,
            stream_of=by_handle.get,
            lost=self._points.lost,
            tell=intake.tell,
        )
        return _Life(state, intake, transports, sampled, reader, reconciling, streams, by_handle)

    async def _reach(self) -> None:
        """Until the server answers, however often that has to be tried."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            self._changed.clear()
            try:
                await self._client.start()
            except PiError as error:
                problem = problem_of(self.name, self._settings, error)
                if self.state.set("waiting", f"{problem.path}: {problem.problem}", problem.remedy):
                    self._clear()
                    self._problems.report(
                        problem.path, problem.problem, problem.remedy, problem.value, effect=problem.effect
                    )
                    logger.warning("Connection %s: %s", self.name, problem)
            else:
                self._clear()
                if self._client.clock.lower:
                    self._reached = True
                    return
                self.state.set("waiting", *(self._client.clock.trouble() or ("tells no time", "")))
            try:
                await within(backoff.next(), self._changed.wait())
            except asyncio.TimeoutError:
                continue

    def _clear(self) -> None:
        """Forget what was wrong with the connection itself, not with its tags."""
        for place in ("url", "user", "bearer", "tls", "headers", "allowUnencrypted"):
            self._problems.clear(f"connections.{self.name}.{place}")

    async def _watched(
        self, part: str, run: Callable[[], Awaitable[None]], failed: Callable[[], None] = lambda: None
    ) -> None:
        """Run a part for ever: one that fails is told, and begun again. Raises StoreError alone."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            began = _now()
            try:
                await run()
            except StoreError:
                raise
            except Exception as error:
                logger.exception("Connection %s: its %s failed; it is begun again", self.name, part)
                self._troubles[part] = f"{type(error).__name__}: see the component's log"
                failed()
            if _now() - began > _STABLE:
                backoff.reset()
            await asyncio.sleep(backoff.next())
            self._troubles.pop(part, None)

    def _transports_failed(self) -> None:
        """Nothing comes by itself any more, as far as anybody knows."""
        life = self._life
        if life is not None:
            handles = np.array([one.handle for one in life.streams.values() if one.plan.gapless], np.int32)
            life.state.coverage.lost(handles, "an error of the collector's own", "see the component's log")

    def _refused(self, stream: Stream, why: str) -> None:
        logger.warning("Connection %s: %s is refused: %s", self.name, stream.tag, why)
        self._points.lost(stream.point.web_id)

    def _tell(self, kind: str, **what: Any) -> None:
        if self._life is not None:
            self._life.intake.tell(kind, **what)

    # --- what is collected ---

    def _found(self, resolved: Mapping[str, Resolved]) -> None:
        """Points came, went, or have changed."""
        self._resolved = resolved
        if self._life is not None and self._reached:
            self._collect(self._life, anew=False)

    def _plan(self, group: str) -> Plan:
        return plan(self._settings, group)

    def _collect(self, life: _Life, *, anew: bool) -> None:
        """Have exactly the streams of the points that there are collected. anew: also those that stay are fixed."""
        wanted = self._streams(life)
        before, gone = life.streams, []
        for key, stream in before.items():
            if key not in wanted:
                gone.append(stream)
        life.streams = wanted
        life.by_handle.clear()
        life.by_handle.update((stream.handle, stream) for stream in wanted.values())
        lower = int(self._client.clock.lower)
        by_tag = {stream.tag: stream for stream in gone}
        self._unusable = {}
        for key, stream in list(wanted.items()):
            old = before.get(key)
            if old == stream and not anew:
                continue
            if trouble := life.intake.fix(stream):
                self._unusable[stream.tag] = trouble
                del wanted[key], life.by_handle[stream.handle]
                gone.append(stream)
                continue
            how = stream.plan
            if old is None or _coverage(old.plan) != _coverage(how) or anew:
                # A point that was made anew begins where the one in its place was: nothing of it is older.
                one = by_tag.get(stream.tag)
                after = life.state.coverage.covered(one.handle) if one is not None else None
                start = min(after, lower) if after is not None else _start(how.initial, lower)
                life.state.coverage.begin(
                    stream.handle, start, _ns(how.overlap), _ns(how.settle), _ns(how.max_backfill)
                )
        streams = list(wanted.values())
        life.transports.want([stream for stream in streams if stream.plan.gapless])
        life.sampled.want([stream for stream in streams if not stream.plan.gapless])
        for stream in gone:
            life.state.release(stream.handle)
            life.intake.forget(stream.handle)
        self._client.servers = frozenset(stream.point.server for stream in streams)
        life.reader.name(stream.point.web_id for stream in streams)
        life.reconciling.want(
            {
                stream.handle: Turn(stream.plan.reconcile.every, stream.plan.reconcile.window, stream.plan.settle)
                for stream in streams
                if stream.plan.gapless
            },
            _now(),
        )
        self._remember(life, streams)
        self._look(life)

    def _streams(self, life: _Life) -> dict[str, Stream]:
        """By key, what is to be collected."""
        plans: dict[str, Plan] = {}
        wanted: dict[str, Stream] = {}
        for tag, found in self._resolved.items():
            group = found.tag.group
            how = plans.get(group)
            if how is None:
                how = plans[group] = self._plan(group)
            for summary in how.summaries if how.mode == "summary" else ("",):
                key = key_of(found.point, how, summary)
                if key not in wanted:
                    name = f"{tag}.{summary}" if summary else tag
                    wanted[key] = Stream(
                        life.state.handle(key), name, found.point, how, found.unit, found.asset, summary
                    )
        return wanted

    # --- how far back it is looked at again ---

    def _readable_from(self, state: State, handle: int) -> int:
        """Nothing of the stream is looked at again from before this (ns): it might come as if it were new."""
        _, floor, _, _ = state.coverage.frontiers(np.array([handle], np.int32))
        return max(int(floor[0]), self._since)

    def _note_remembered(self, life: _Life) -> None:
        """How far back what was handed on before is remembered: as far as the windows of the runs before allow."""
        lower = int(self._client.clock.lower)
        self._window, self._since, self._shortened = 0, lower, life.state.tail.shortened  # what is safe in any case
        kept = self._outlet.position(_REMEMBERED)
        if kept is not None:
            try:
                window, since, shortened = (int(one) for one in json.loads(kept))
            except (ValueError, TypeError):
                logger.error("Connection %s: how far back it remembers cannot be read", self.name)
            else:
                self._window, self._since = window, max(since, lower - window)
                if shortened != self._shortened:
                    self._since = lower
        elif not life.state.streams:
            self._window, self._since = None, -(2**63)  # nothing was handed on before

    def _remember(self, life: _Life, streams: Sequence[Stream]) -> None:
        """The tail reaches back over the longest window from now on."""
        windows = [_ns(stream.plan.reconcile.window) for stream in streams if stream.plan.gapless]
        if not windows:
            return  # their points are not known yet, perhaps
        window = max(windows)
        lower = int(self._client.clock.lower)
        if self._window is not None and window > self._window:
            self._since = max(self._since, lower - self._window)
        life.state.reconcile_ns = window
        if window != self._window:
            self._window = window
            self._note_window()

    def _note_window(self) -> None:
        data = json.dumps([self._window or 0, self._since, self._shortened]).encode()
        asyncio.ensure_future(self._outlet.note({_REMEMBERED: data})).add_done_callback(_heeded)

    # --- how it is ---

    async def _tend(self) -> None:
        """Every second: events, how all is, whether there is room."""
        while True:
            life = self._life
            assert life is not None
            if life.intake.broken is not None:
                raise life.intake.broken
            lower = int(self._client.clock.lower)
            if life.state.tail.shortened != self._shortened:
                self._shortened, self._since = life.state.tail.shortened, lower
                self._note_window()
                logger.warning(
                    "Connection %s: what was handed on long ago had to be forgotten for want of room", self.name
                )
            life.intake.events(life.state.ledger.events(time.time_ns(), life.names))
            health = await self._client.health()
            self._hold(life, health)
            # While nothing is read, what failed then is no news, and no better.
            if not life.held:
                self._unreadable.look(life.reader.troubles, _now())
            self._look(life)
            await asyncio.sleep(_TEND)

    def _where(self, handle: int) -> tuple[str, Any] | None:
        """The setting that a stream comes from, and its point; None: it is not collected."""
        stream = None if self._life is None else self._life.by_handle.get(handle)
        found = None if stream is None else self._resolved.get(stream.tag)
        if stream is None or found is None:
            return None
        setting = found.tag.setting
        if setting == "select":  # a search has a name of its own, and its tags stand nowhere
            return render(("connections", self.name, "points", stream.tag)), stream.point.path
        leaf = "point" if found.tag.path is None else "path"
        return render(("connections", self.name, setting, stream.tag, leaf)), stream.point.path

    def _hold(self, life: _Life, health: Health) -> None:
        """Nothing is read while the outbox is full, or the archive is not to be had."""
        cause, remedy = "", ""
        if self._outlet.full:
            cause, remedy = _FULL
        elif health.state == "archive-down":
            cause, remedy = health.problem, health.remedy
        if cause and cause != life.held:
            life.transports.suspend(cause, remedy)
            logger.warning("Connection %s: nothing is read: %s", self.name, cause)
        elif life.held and not cause:
            life.transports.resume()
            logger.info("Connection %s: it goes on", self.name)
        life.held = cause
        life.reader.paused = bool(cause)
        self._health = health

    def _look(self, life: _Life) -> None:
        """The state to show: running only when something is covered; else the clearest reason why not."""
        self.state.set(*self._judged(life))

    def _judged(self, life: _Life) -> tuple[str, str, str]:
        health = self._health
        if life.held == _FULL[0]:
            return "paused", *_FULL
        if health is not None and health.state != "well":
            return "waiting", f"connections.{self.name}.{health.place}: {health.problem}", health.remedy
        if self._troubles:
            part, why = next(iter(self._troubles.items()))
            return "waiting", f"its {part} failed: {why}", "see the component's log for why"
        if not life.streams:
            return self._without_points()
        told = life.state.coverage.status()
        sampled = sum(not stream.plan.gapless for stream in life.streams.values())
        if told["live"] or told["polled"] or sampled:
            failing = life.reader.status().get("failing", {}).get("streams", 0)
            if failing and failing >= len(life.streams):
                return "waiting", "none of its points can be read", "see which under failing, and why"
            return "running", "", ""
        why = next((one["why"] for one in life.transports.status().values() if one.get("why")), "")
        return "waiting", why or "its points are not watched yet", "none is needed if it lasts for seconds only"

    def _without_points(self) -> tuple[str, str, str]:
        points = self._points.status()
        if self._unusable:
            tag, why = next(iter(self._unusable.items()))
            return "waiting", f"none of its points can be collected; {tag}: {why}", "name other points"
        if (problem := self._points.server_problem) is not None:
            return "waiting", f"{problem.path}: {problem.problem}", problem.remedy
        if points.get("trouble"):
            return "waiting", f"its points {points['trouble']}", "see that this user may see them"
        if points.get("set_aside"):
            return "waiting", "none of its points is found", "see the rejected tags for why"
        if self._configured or self._settings.select:
            return "connecting", "its points are looked up", "none is needed if it lasts for seconds only"
        return "running", "it has no tags", "give it tags, a tags file, a tags package or a search (select)"

    def of_tag(self, tag: str) -> dict[str, Any] | None:
        """What is known of one tag: its point, how it is collected and how far; None: it is not collected."""
        found, life = self._resolved.get(tag), self._life
        if found is None:
            return None
        point = found.point
        told: dict[str, Any] = {
            "point": point.path,
            "id": point.id,
            "type": point.type,
            "unit": found.unit,
            "asset": found.asset,
        }
        if tag in self._unusable:
            told["problem"] = self._unusable[tag]
        stream = self.stream_of(tag)
        if life is None or stream is None:
            return told
        how, coverage = stream.plan, life.state.coverage
        told |= {
            "group": how.group or "connection",
            "mode": how.mode,
            "stream": stream.key,
            "covered_until": when(coverage.covered(stream.handle) / _SECOND),
            "live": coverage.is_live(stream.handle),
            "in_gap": coverage.in_gap(stream.handle),
        }
        if how.gapless:
            told["transport"] = life.transports.status().get(how.group or "connection", {})
        else:
            told["interval_s"] = how.interval if how.mode in ("interpolated", "summary") else how.poll
        if trouble := life.reader.trouble_of(stream.handle):
            told["trouble"] = trouble
        return told

    async def current(self, tags: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The newest value of each tag by the server's present. Raises PiError."""
        told: dict[str, dict[str, Any]] = {}
        typings = Typings()
        by_point: dict[str, list[str]] = {}
        handles: dict[str, int] = {}
        units: dict[str, str] = {}  # as they are now: a tag may be gone when the server has answered
        for tag in tags:
            found = self._resolved.get(tag)
            if found is None:
                told[tag] = {"problem": NOT_COLLECTED}
                continue
            units[tag] = found.unit
            web_id = found.point.web_id
            by_point.setdefault(web_id, []).append(tag)
            if web_id not in handles:
                handle = len(handles)
                how = replace(self._plan(found.tag.group), mode="snapshot")
                if trouble := typings.fix(
                    Stream(handle, tag, found.point, how, found.unit, found.asset), self._settings
                ):
                    told[tag] = {"problem": trouble}
                    continue
                handles[web_id] = handle
        load = self._settings.load
        for part in requests.chunks(
            "streamsets/value", requests.value_query(), list(handles), load.points_per_request, load.url_bytes
        ):
            web_ids = [list(handles)[place] for place in part]
            mine = {web_id: handles[web_id] for web_id in web_ids}
            decoded = decode_recorded(await self._client.get(*requests.value(web_ids)), mine, typings)
            values = _shown_values(decoded.timed)
            for web_id, handle in mine.items():
                for tag in by_point[web_id]:
                    unit = units[tag]
                    value = values.get(handle)
                    if value is None:
                        told[tag] = {"problem": decoded.errors.get(handle, "the server gives no value of it")}
                    else:
                        told[tag] = {**value, **({"unit": unit} if unit else {})}
        return told

    def describe(self) -> dict[str, Any]:
        """How it is, what it costs the server, and how each group is collected: for `explain`."""
        told: dict[str, Any] = {
            "connection": self.name,
            "url": self._settings.url,
            "state": self.state.as_dict(),
            "server": self._client.status(),
            "points": self._points.status(),
            "requests_per_s_at_most": self._settings.load.requests_per_second,
        }
        life = self._life
        if life is None:
            return told
        groups: dict[str, dict[str, Any]] = {}
        for stream in life.streams.values():
            how = stream.plan
            group = groups.setdefault(
                how.group or "connection",
                {
                    "mode": how.mode,
                    "streams": 0,
                    **({"transport": how.transport} if how.gapless else {}),
                    "gate": how.gate,
                    "overlap_s": how.overlap,
                    "settle_s": how.settle,
                    "reconcile": {"every_s": how.reconcile.every, "window_s": how.reconcile.window},
                    "max_backfill_s": how.max_backfill,
                },
            )
            group["streams"] += 1
        transports = life.transports.status()
        for name, group in groups.items():
            group["uses"] = transports.get(name, {})
        return told | {
            "streams": len(life.streams),
            "channels": sum(one.get("channels", 0) for one in transports.values()),
            "groups": dict(islice(groups.items(), _MOST_GROUPS)),
            "coverage": life.state.status(),
            "reader": life.reader.status(),
            "unusable": dict(islice(self._unusable.items(), _SHOWN)),
        }

    def status(self) -> dict[str, Any]:
        """For the component's status; bounded."""
        told = self.state.as_dict()
        told["server"] = self._client.status()
        points = self._points.status()
        if self._unusable:
            points["unusable"] = len(self._unusable)
        told["points"] = {"wanted": len(self.tags), **points}
        if self._begins > 1:
            told["begun_anew"] = self._begins - 1
        life = self._life
        if life is None:
            return told
        state = life.state.status()
        oldest = state.pop("oldest_ns", None)
        told["transports"] = dict(islice(life.transports.status().items(), _MOST_GROUPS))
        told["gaps"] = state.pop("gaps")
        told["streams"] = state
        if oldest is not None and life.streams:
            told["oldest_frontier_age_s"] = round((self._client.clock.lower - oldest) / _SECOND, 1)
        told["values"] = life.intake.status()
        if counts := life.transports.counts:
            told["events"] = counts
        if read := life.reader.status():
            told["read"] = read
        if late := life.reconciling.status():
            told["reconciled"] = late
        if sampled := life.sampled.status():
            told["sampled"] = sampled
        if requested := self._requested.status():
            told["requested"] = requested
        if life.intake.latest:
            told["latest"] = when(life.intake.latest)
        return told


def _reading(settings: Settings) -> tuple[str, ...]:
    """What decides how values of all streams are read."""
    return settings.substituted, settings.out_of_range, settings.digitals


def _coverage(how: Plan) -> tuple[float, ...]:
    """What coverage knows of a plan."""
    return how.overlap, how.settle, how.max_backfill


def _start(initial: str | float, lower: int) -> int:
    """Where a stream begins of which nothing is known: ns, by the server's clock."""
    if initial == "now":
        return lower
    if isinstance(initial, str):
        moment = datetime.fromisoformat(initial.replace("Z", "+00:00"))
        return int(moment.timestamp()) * _SECOND
    return lower - _ns(initial)


def _ns(seconds: float) -> int:
    return round(seconds * _SECOND)


def _shown_values(timed: Timed) -> dict[int, dict[str, Any]]:
    """The value of each handle, for people."""
    shown: dict[int, dict[str, Any]] = {}
    for row in range(len(timed)):
        text = None if timed.text is None else timed.text[row]
        number = float(timed.number[row])
        quality = Quality.GOOD if timed.quality is None else Quality(int(timed.quality[row]))
        status = 0 if timed.status is None else int(timed.status[row])
        told: dict[str, Any] = {
            "time": format7(int(timed.time[row])),
            "value": text if text is not None else None if math.isnan(number) else number,
            "quality": quality.name,
        }
        if status:
            told["status"] = timed.words[-status - 1] if status < 0 else status
        shown[int(timed.stream[row])] = told
    return shown


def _heeded(noted: asyncio.Future[None]) -> None:
    """What failed is logged by the outlet; what was noted is noted again."""
    if not noted.cancelled():
        noted.exception()


async def _all(*work: Coroutine[Any, Any, None]) -> None:
    """Run all until one fails, which is raised; the others are ended then."""
    tasks: set[asyncio.Task[None]] = {asyncio.create_task(one) for one in work}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await end(*tasks)


def _now() -> float:
    return asyncio.get_running_loop().time()
