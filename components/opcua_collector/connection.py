"""One connection: connects, takes up where it was, publishes, and begins again whatever happens.

    connecting --> running --> (lost) --> waiting --> connecting ...       forever, 0.2 s to 30 s apart, with jitter
                          \\--> (outbox full, server with history) --> paused --> connecting ...

It has one session, and in it each group of tags has a subscription, or is polled (`groups`). What was lost with a line,
or with this component, is taken up by the rungs of a ladder (`recovery`). What it takes is kept in the outbox (`kept`).
So an end without goodbye loses nothing, and the component ends that way on purpose; only a connection that is removed,
or needs another session, says goodbye to its server.

Settings and tags may change at any time: what changed is told to the server, and nothing else is interrupted. Only
another endpoint, another protection or another user need another session.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Final, Protocol

from opcua_collector.config import Connection as Settings
from opcua_collector.config import Tag
from opcua_collector.groups import FullError, Group, Live, PolledGroup, Returned, SubscribedGroup
from opcua_collector.history.backfill import RATE, Backfill
from opcua_collector.history.requested import MOST_REQUESTS, Request, Requested
from opcua_collector.intake import GAPS, MARKS, Intake, Outlet, Traffic
from opcua_collector.kept import (
    ITEMS,
    SEQUENCE,
    SESSION,
    Kept,
    fingerprint,
    load_items,
    load_sequence,
    load_session,
    position,
)
from opcua_collector.load import Pace
from opcua_collector.nodes import Facts, Reporter, learn
from opcua_collector.plan import OWN, by_group, plan
from opcua_collector.problems import explain, status_name
from opcua_collector.security.certificates import thumbprint
from opcua_collector.services.connecting import Identity, TicketError, connect
from opcua_collector.services.session import Session, Subscribed, Ticket
from opcua_collector.stack import NodeId, UaStatusCodeError
from opcua_collector.subscriptions import recovery
from opcua_collector.subscriptions.pipeline import Pipeline
from opcua_collector.subscriptions.publishing import OutboxFullError, Publishing
from opcua_collector.subscriptions.timing import session_timeout
from sluice.log import Secret
from sluice.retry import Backoff
from sluice.status import Connection as State
from sluice.status import when
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
_PAUSE_WHILE_KEPT: Final = 3.0  # while the server may still have our subscription, it is not kept waiting for longer
_STABLE: Final = 5.0  # seconds after which a connection that is lost is tried again at once
_MOST_TICKETS: Final = 3  # times that a line may end over the old session before it is given up
_LOOK: Final = 0.5  # seconds between looks whether there is room in the outbox
_CROWDED: Final = 10.0  # seconds at least that a server without a session left is given
_TEND: Final = 2.0
_SKEW, _NO_SKEW = 10.0, 8.0  # seconds between the clocks from which on, and up to which no more, it is told
_SHOWN: Final = 16  # groups in a status

_REQUESTS: Final = "requests"
_POSITIONS: Final = (SESSION, MARKS, GAPS, _REQUESTS)
_LEAST: Final = frozenset({"queue", "queue_covers_s"})  # of what groups tell, that of which the least counts


class CredentialSource(Protocol):
    """Resolves the reference to a user's password, or to the private key of a user's certificate."""

    def __call__(self, settings: Settings, /) -> Awaitable[Secret | None]:
        """Raises TroubleError."""


@dataclass(slots=True)
class _Recovery:
    """How the connection was taken up last, and what each part of it took in seconds."""

    rung: str
    channel_s: float
    session_s: float
    subscription_s: float
    republished: int
    refused: list[str]


@dataclass(frozen=True, slots=True)
class _Opened:
    """A session, and what a first look at its server tells."""

    session: Session
    started: str  # when the server started
    ahead: int  # nanoseconds by which its clock is ahead of ours
    round_trip: float  # seconds of one answer


class Connection:
    """A server and its tags. `run` never ends by itself; `reconfigure` may be called at any time."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        tags: Mapping[str, Tag],
        *,
        outlet: Outlet,
        identity: Identity,
        password: CredentialSource,
        problems: Reporter,
    ) -> None:
        self.name = name
        self.state = State("connecting")
        self._settings = settings
        self._tags = tags
        self._outlet = outlet
        self._identity = identity
        self._password = password
        self._problems = problems
        self.beside: list[Callable[[Session, asyncio.Task[Facts]], Coroutine[Any, Any, None]]] = []
        """What else runs in each session, beside publishing."""
        self.live: Live | None = None
        """The session that publishes at present."""
        self._configured = tags
        self._discovered: Mapping[str, Tag] = {}
        self._names: dict[int, str] = {}
        self._intake = Intake(name, outlet, lambda: self._names)
        self._intake.assembler.server_time = settings.timestamps == "server"
        self._groups: dict[str, Group] = {}
        self._begun = False  # what the last run left is there
        self._retired: list[Group] = []  # groups that are no more, and may have a subscription yet
        self._regrouped = asyncio.Event()
        self._regroup()
        self._backfill = Backfill(name, outlet, self._intake.assembler, node=self._node, behind=lambda: self._behind)
        self._requested = Requested(self._handle, self._intake.gaps.history)
        # Here and not in `run`: a command that goes on after a restart may ask before that has begun.
        if trouble := self._requested.load(outlet.position(_REQUESTS)):
            logger.error("Connection %s: %s", name, trouble)
        self._on_request = Backfill(
            name,
            outlet,
            self._intake.assembler,
            node=self._node,
            behind=lambda: self._behind,
            work=self._requested,
            position=_REQUESTS,
            wait=self._before_requests,
        )
        self._say_what_is_read_back()
        self._kept: Kept | None = None
        self._recovering: tuple[dict[str, Subscribed], dict[str, bytes | None]] | None = None
        self._restart = asyncio.Event()  # settings that need another channel at least
        self._leaving = False
        self._proven = False  # the server has answered a publish request
        self._tickets = 0  # times in a row that the line ended over the old session
        self._parted = 0.0  # when the last session ended; 0: there was none
        self._facts: Facts | None = None  # of the session before
        self._pace: Pace | None = None  # of the present session, or the one before
        self._shutting_down = False
        self._recovery: _Recovery | None = None

    @property
    def traffic(self) -> Traffic:
        """Counters since the component's start."""
        return self._intake.traffic

    @property
    def _behind(self) -> bool:
        """Whether the server has more live data than it could send yet."""
        return self.live is not None and self.live.publishing.behind

    def _node(self, handle: int) -> NodeId | None:
        """The node that a client handle stands for."""
        found = (group.node(handle) for group in self._groups.values())
        return next((node for node in found if node is not None), None)

    def _handle(self, tag: str) -> int | None:
        found = (group.handle(tag) for group in self._groups.values())
        return next((handle for handle in found if handle is not None), None)

    @property
    def tags(self) -> Mapping[str, Tag]:
        """What is collected, by tag."""
        return self._tags

    def history(self, tag: str) -> str | None:
        """Whether the server keeps a history of the tag: "", or why not; None: it is not known yet."""
        return self._intake.gaps.history(tag)

    @property
    def asked(self) -> bool:
        """As many ranges of the past are asked for as can be."""
        return self._requested.waiting >= MOST_REQUESTS

    def asked_for(self, identity: str) -> Request | None:
        """The request of this id, done or not, as far as it is known."""
        return self._requested.get(identity)

    def request(self, identity: str, first: int, until: int, tags: Collection[str]) -> Request:
        """Read a range of the past (ns, first <= time < until) again; an id that is known goes on where it was."""
        found = self._requested.get(identity)
        if found is None:
            self._requested.add(identity, first, until, tags)
            self._note_requests()
        known = found or self._requested.get(identity)
        assert known is not None
        return known

    async def settled(self) -> None:
        """Until what has been read so far, and the note of it, are durable."""
        await self._note_requests()

    def _note_requests(self) -> asyncio.Future[None]:
        return self._intake.note({_REQUESTS: self._requested.dump(self._outlet.newest)})

    def _before_requests(self) -> str:
        """What a request has to wait for: nothing is to be lost, or late, for its sake."""
        if not self._requested.waiting:
            return ""
        if not self._outlet.roomy:
            return "for room in the outbox: consumers have to take what is kept first"
        return "for gaps to be filled" if self._backfill.reading else ""

    # --- what is collected ---

    def reconfigure(self, settings: Settings, tags: Mapping[str, Tag]) -> None:
        """Go over to this. Who needs another channel, or session, gets it; all else goes on, as the server is told."""
        before, self._settings = self._settings, settings
        self._intake.assembler.server_time = settings.timestamps == "server"
        self._configured = tags
        self._tags = {**self._discovered, **tags}
        self._regroup()
        self._say_what_is_read_back()
        load = settings.load
        if (
            fingerprint(before) != fingerprint(settings)
            or before.request_timeout != settings.request_timeout
            or (before.load.batch, before.load.parallel) != (load.batch, load.parallel)
        ):
            self._restart.set()
        elif self.live is not None and self.live.session.pace is not None:
            self.live.session.pace.apply(load)

    def _say_what_is_read_back(self) -> None:
        """How much of the past is read, and how fast, as the configuration says now."""
        history = self._settings.history
        self._intake.gaps.reads, self._intake.gaps.max_window = history.read, history.max_window
        for reader in (self._backfill, self._on_request):
            reader.rate = float(history.values_per_second or RATE)

    def discovered(self, tags: Mapping[str, Tag]) -> None:
        """These tags were found by filters. Those of the configuration go before them by name."""
        self._discovered = tags
        self._tags = {**tags, **self._configured}
        self._regroup()

    def _regroup(self) -> None:
        """Each group has the tags that are its own by now; groups come and go with their tags."""
        wanted = by_group(self._settings, self._tags) or {OWN: {}}
        plans = {name: plan(self._settings, name) for name in wanted}
        for name, group in list(self._groups.items()):
            stays = name in wanted and plans[name].mode == group.plan.mode
            tags = wanted[name] if stays else {}
            elsewhere = self._tags.keys() - tags.keys() if len(self._groups) > 1 or len(wanted) > 1 or not stays else ()
            group.want(self._settings, plans[name] if stays else group.plan, tags, elsewhere)
            if not stays:
                group.retire()
                self._retired.append(self._groups.pop(name))
        for name, tags in wanted.items():
            if name not in self._groups:
                self._groups[name] = self._group(name, tags)
        if self._begun:
            self._intake.assembler.keep(self._tags)
        self._regrouped.set()

    def _group(self, name: str, tags: Mapping[str, Tag]) -> Group:
        made = plan(self._settings, name)
        parts = (self.name, self._settings, made, tags, self._intake, self._problems, self._names)
        return PolledGroup(*parts) if made.mode == "poll" else SubscribedGroup(*parts, self._keep)

    def _keep(self, group: str, subscribed: Subscribed | None, positions: Mapping[str, bytes | None]) -> None:
        """Note the group's subscription (None: it has none any more) with the session, and positions beside it.

        While a session is taken up its notes wait until all groups are: until then those of the old one hold.
        """
        if self._recovering is not None:
            subscriptions, noted = self._recovering
            noted.update(positions)
            if subscribed is not None:
                subscriptions[group] = subscribed
            return
        assert self._kept is not None
        others = {name: one for name, one in self._kept.subscriptions.items() if name != group}
        subscriptions = others if subscribed is None else {**others, group: subscribed}
        self._kept = replace(self._kept, subscriptions=subscriptions)
        self._intake.note({SESSION: self._kept.dump(), **positions})

    def leave(self) -> None:
        """When `run` is cancelled next, it says goodbye: the connection will not come back."""
        self._leaving = True

    def forget(self) -> None:
        """Delete what is kept for the next run: there is none."""
        groups = {OWN, *self._groups, *(self._kept.subscriptions if self._kept is not None else ())}
        own = [position(kind, group) for kind in (ITEMS, SEQUENCE) for group in groups]
        self._intake.note(dict.fromkeys((*_POSITIONS, *own)))

    async def run(self) -> None:
        """Connect and collect until cancelled."""
        await self._restore()
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        try:
            while True:
                await self._room()
                self._proven = False
                self._restart.clear()
                started = _now()
                least = 0.0
                try:
                    await self._attempt()
                    backoff.reset()  # ended by a changed configuration, or for want of room
                    continue
                except asyncio.CancelledError:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever it is: reported, and tried again
                    self._failed(error)
                    if isinstance(error, UaStatusCodeError) and status_name(error.code) == "BadTooManySessions":
                        least = _CROWDED
                if self._proven and _now() - started > _STABLE:
                    backoff.reset()
                await self._pause(backoff.next(), least)
        finally:
            if not self._leaving:
                self._intake.checkpoint()

    async def _restore(self) -> None:
        """Begin where the last run ended."""
        await self._intake.restore(self._tags)
        self._begun = True
        self._intake.assembler.keep(self._tags)
        self._kept = kept = load_session(self._outlet.position(SESSION), self._settings)
        if kept is None:
            return
        for name, subscribed in kept.subscriptions.items():
            group = self._groups.get(name)
            if not isinstance(group, SubscribedGroup):
                continue
            items = await asyncio.to_thread(load_items, self._outlet.position(position(ITEMS, name)))
            reached = load_sequence(self._outlet.position(position(SEQUENCE, name)))
            try:
                restored = await group.restore(subscribed, items, reached)
            except Exception:  # whatever another release has written: its subscription is made anew
                logger.exception("Connection %s: the kept items of group %r cannot be used", self.name, name)
                continue
            if restored:
                self._parted = _now()

    async def _pause(self, seconds: float, least: float) -> None:
        saved = any(group.feed is not None for group in self._groups.values())
        if saved and _now() - self._parted < session_timeout(self._settings):
            seconds = min(seconds, _PAUSE_WHILE_KEPT)
        try:
            await within(max(seconds, least), self._restart.wait())
        except asyncio.TimeoutError:
            return

    async def _room(self) -> None:
        """Wait until the outbox has room. Nothing is lost: the source keeps its history, the marks say from where."""
        while self._outlet.full:
            self.state.set(
                "paused",
                "the outbox is full; what comes meanwhile is read back from the server's history",
                "see which consumer does not take its data, or give the outbox more room (outbox.maxSize)",
            )
            await asyncio.sleep(_LOOK)

    # --- one session ---

    async def _attempt(self) -> None:
        """One channel, from its first packet to its end. Returns when the configuration wants another one."""
        if not self.state.why:  # while it is tried again it stays "waiting", since its first failure
            self.state.set("connecting")
        settings = self._settings
        opened = await self._unless_changed(self._open(settings))
        if opened is None:
            return
        session = opened.session
        politely = False
        try:
            await self._work(opened, settings)
            politely = fingerprint(self._settings) != fingerprint(settings)
        except OutboxFullError:
            pass
        finally:
            self.live = None
            self._recovering = None
            self._parted = _now()
            for group in self._groups.values():
                group.interrupted()
            farewell = politely or self._leaving
            # A session that came to nothing is never used again, and servers have few. Its subscriptions stay.
            unknown = self._kept is None or self._kept.ticket is not session.ticket
            await asyncio.shield(session.close(politely=farewell or unknown, subscriptions=farewell))

    async def _unless_changed(self, work: Coroutine[Any, Any, _Opened]) -> _Opened | None:
        """The work's result; None when the configuration changes before it is there."""
        task = asyncio.create_task(work)
        changed = asyncio.create_task(self._restart.wait())
        try:
            await asyncio.wait((task, changed), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            changed.cancel()
            if not task.done():
                await end(task)

    async def _open(self, settings: Settings) -> _Opened:
        """An activated session: the old one where it still exists."""
        password = await self._password(settings)
        kept, ticket = self._kept, self._ticket(settings)
        try:
            session = await self._connect(settings, password, ticket)
        except TicketError:
            self._tickets += 1
            raise
        self._tickets = 0
        opened = await _first_look(session)
        if not session.resumed or kept is None:
            return opened
        if opened.started == kept.started:
            self._kept = replace(kept, ticket=session.ticket)  # the old nonce is of no use any more, whatever comes now
            return opened
        # The server was restarted and has given our token to somebody else, whose session this is.
        await session.close(politely=False)
        return await _first_look(await self._connect(settings, password, None))

    async def _connect(self, settings: Settings, password: Secret | None, ticket: Ticket | None) -> Session:
        session = await connect(self.name, settings, self._identity, password, ticket)
        if session.pace is not None:
            if self._pace is not None:
                session.pace.follow(self._pace)
            self._pace = session.pace
        return session

    def _ticket(self, settings: Settings) -> Ticket | None:
        kept = self._kept
        if kept is None or kept.settings != fingerprint(settings) or self._tickets >= _MOST_TICKETS:
            return None
        return kept.ticket

    async def _work(self, opened: _Opened, settings: Settings) -> None:
        """From the session's first service to its last."""
        session = opened.session
        await self._recover(opened, settings)
        publishing = Publishing(session, self._intake, self._outlet, Pipeline(opened.round_trip))
        facts = asyncio.create_task(learn(session, settings.load, self._facts))
        self.live = live = Live(session, publishing, facts)
        self._clear()
        self.state.set("running")
        self.state.details.clear()
        try:
            await _until(
                self._restart,
                self._collect(live),
                self._fill(session, facts),
                self._tend(publishing),
                *publishing.tasks(),
                *(work(session, facts) for work in self.beside),
            )
        finally:
            self._proven = publishing.proven
            await end(facts)

    async def _collect(self, live: Live) -> None:
        """Runs the groups, as they come and go."""
        for group in self._groups.values():
            if isinstance(group, SubscribedGroup) and group.feed is not None:
                live.publishing.serve(group.feed)
        tasks: dict[Group, asyncio.Task[None]] = {}
        regrouped: asyncio.Task[Any] | None = None
        try:
            while True:
                self._regrouped.clear()
                while self._retired:
                    group = self._retired.pop()
                    if group in tasks:
                        await end(tasks.pop(group))
                    await self._end(live, group)
                for group in self._groups.values():
                    if group not in tasks:
                        tasks[group] = asyncio.create_task(group.run(live))
                regrouped = asyncio.create_task(self._regrouped.wait())
                await asyncio.wait({regrouped, *tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks.values():
                    if task.done():
                        task.result()
                await end(regrouped)
        finally:
            await end(*tasks.values(), *((regrouped,) if regrouped is not None else ()))

    async def _end(self, live: Live, group: Group) -> None:
        """A group is no more: neither is its subscription, nor what is kept of it."""
        had = group.feed.subscribed.id if group.feed is not None else 0
        await group.end(live.session)
        kept = self._kept.subscriptions.get(group.name) if self._kept is not None else None
        if kept is not None and kept.id == had:
            positions = (position(ITEMS, group.name), position(SEQUENCE, group.name))
            self._keep(group.name, None, dict.fromkeys(positions))

    async def _fill(self, session: Session, facts: asyncio.Task[Facts]) -> None:
        self._facts = found = await asyncio.shield(facts)
        self._requested.paused()
        await asyncio.gather(self._backfill.run(session, found.limits), self._on_request.run(session, found.limits))

    async def _recover(self, opened: _Opened, settings: Settings) -> None:
        """Climb the ladder, each group for itself: those that have a subscription then are ready to publish."""
        began = _now()
        session, started = opened.session, opened.started
        self._intake.ahead = opened.ahead
        before = self._kept
        server = before.server if before is not None and session.resumed else session.server
        known = before is not None and server == before.server
        subscribed = [group for group in self._groups.values() if isinstance(group, SubscribedGroup)]
        if before is None or before.settings != fingerprint(settings):
            for group in subscribed:
                group.feed = None
        if not session.resumed:
            self._intake.gaps.ask_again()
        restarted = before is not None and (started != before.started or not known)
        old = before.subscriptions if before is not None else {}
        subscriptions: dict[str, Subscribed] = {}
        positions: dict[str, bytes | None] = {}
        self._recovering = subscriptions, positions
        self._retired.clear()
        for name, one in old.items():
            if not isinstance(self._groups.get(name), SubscribedGroup):
                positions.update({position(ITEMS, name): None, position(SEQUENCE, name): None})
                if session.resumed and not restarted:
                    await _delete(session, one)
        found: dict[SubscribedGroup, recovery.Situation] = {}
        full: FullError | None = None
        for group in subscribed:
            returned = Returned(session, restarted, known, old.get(group.name))
            try:
                found[group] = await group.recover(returned)
            except FullError as error:
                full = error
        if full is not None and not found and len(subscribed) == len(self._groups):
            assert full.__cause__ is not None
            raise full.__cause__
        self._kept = Kept(fingerprint(settings), server, started, session.ticket, subscriptions)
        self._recovering = None
        self._intake.note({SESSION: self._kept.dump(), **positions})
        saved = [group for group, one in found.items() if one.rung != recovery.RENEWED]
        self._intake.watched([handle for group in saved for handle in group.items.handles()])
        self._count(list(found.values()), session, _now() - began)

    def _count(self, found: list[recovery.Situation], session: Session, seconds: float) -> None:
        traffic = self.traffic
        otherwise = recovery.RESUMED if session.resumed else recovery.RENEWED
        rung = recovery.worst([one.rung for one in found] or [otherwise])
        republished = sum(one.republished for one in found)
        refusals = sorted({refusal for one in found for refusal in one.refusals})[:_SHOWN]
        traffic.connects += 1
        setattr(traffic, rung, getattr(traffic, rung) + 1)
        traffic.republished += republished
        self._recovery = _Recovery(
            rung,
            round(session.channel_seconds, 3),
            round(session.session_seconds, 3),
            round(seconds, 3),
            republished,
            refusals,
        )
        logger.info(
            "Connection %s runs: %s, %s, %s in %.3f s with %d messages republished%s, %d subscriptions",
            self.name,
            self._settings.endpoint,
            session.policy,
            rung,
            session.channel_seconds + session.session_seconds + seconds,
            republished,
            "".join(f", {refusal}" for refusal in refusals),
            len(found),
        )

    async def _tend(self, publishing: Publishing) -> None:
        """Keeps the outlet informed whether what it cannot keep can be read again; tells what the server says of
        itself."""
        while True:
            self._outlet.recoverable = self._intake.gaps.recoverable
            self._tell_skew(self._intake.ahead / 1e9)
            down = publishing.look is not None and publishing.look.state == "Shutdown"
            if down and not self._shutting_down:
                returns = publishing.look.returns if publishing.look is not None else ""
                logger.warning(
                    "Connection %s: the server is shutting down%s", self.name, f", back at {returns}" if returns else ""
                )
            self._shutting_down = down
            await asyncio.sleep(_TEND)

    def _tell_skew(self, ahead: float) -> None:
        """The server's clock and ours shall show the same: times of samples are compared with both."""
        place = f"connections.{self.name}.timestamps"
        if abs(ahead) > _SKEW:
            self._problems.report(
                place,
                f"the server's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours",
                "have both set by the same time server (NTP)",
                self._settings.timestamps,
            )
        elif abs(ahead) < _NO_SKEW:
            self._problems.clear(place)

    def _failed(self, error: Exception) -> None:
        settings = self._settings
        if self._proven:
            self.traffic.losses += 1
        problem = explain(error, self.name, _values(settings), self._own())
        if self.state.set("waiting", f"{problem.path}: {problem.problem}", problem.remedy):
            self._clear()
            self._problems.report(problem.path, problem.problem, problem.remedy, problem.value)
            logger.debug("Connection %s failed", self.name, exc_info=error)

    def _clear(self) -> None:
        """Forgets what was wrong with the connection itself, not with its tags."""
        for place in ("endpoint", "user", "security"):
            self._problems.clear(f"connections.{self.name}.{place}")

    def _own(self) -> dict[str, str]:
        path = self._identity.folder / "own" / "certificate.der"
        try:
            return {"certificate": str(path), "thumbprint": thumbprint(path.read_bytes())}
        except (OSError, ValueError):
            return {"certificate": str(path), "thumbprint": ""}

    # --- who asks ---

    @property
    def settings(self) -> Settings:
        """The configuration that it goes by."""
        return self._settings

    def of_tag(self, tag: str) -> dict[str, Any] | None:
        """What is known of one tag, and its last sample; None: it is not collected."""
        group = next((one for one in self._groups.values() if tag in one.tags), None)
        known = group.items.of_tag(tag) if group is not None else None
        if known is None:
            return None
        handle = self._handle(tag)
        last = None if handle is None else self._intake.assembler.last(handle)
        if last is not None:
            time_ns, value, status = last
            known["last"] = {"time": when(time_ns / 1e9), "value": value, "status": status}
        history = self.history(tag)
        known["history"] = "not known yet" if history is None else history or "the server keeps it"
        return known

    def request_of(self, tag: str) -> bytes | None:
        """What asks for the tag's value in a ReadRequest; None while nobody knows its node."""
        group = next((one for one in self._groups.values() if tag in one.tags), None)
        handle = group.handle(tag) if group is not None else None
        return None if group is None or handle is None else group.items.request_of(handle)

    def troubles(self, most: int) -> dict[str, str]:
        """What is wrong with some of the tags."""
        found: dict[str, str] = {}
        for group in self._groups.values():
            found.update(group.items.troubles(most - len(found)))
        return found

    def describe(self) -> dict[str, Any]:
        """What there is on the server, and what it made of what it was asked for: for `explain`."""
        live, kept = self.live, self._kept
        told: dict[str, Any] = {
            "connection": self.name,
            "endpoint": self._settings.endpoint,
            "state": self.state.as_dict(),
            "session_timeout_s": session_timeout(self._settings),
        }
        if kept is not None:
            told["server"] = {"uri": kept.server, "started": kept.started}
        if live is not None:
            told["session"] = {
                "policy": live.session.policy,
                "resumed": live.session.resumed,
                **live.session.certificates(),
            }
            told["publishing"] = live.publishing.status()
            if live.session.pace is not None:
                told["load"] = live.session.pace.status()
        if self._facts is not None:
            told["limits"] = {name: int(most) for name, most in asdict(self._facts.limits).items()}
        told["groups"] = {name: group.describe() for name, group in self._groups.items()}
        return told

    def status(self) -> dict[str, Any]:
        """For the component's status."""
        told = self.state.as_dict()
        told["endpoint"] = self._settings.endpoint
        told.update(together([group.status() for group in self._groups.values()]))
        if self.live is not None:
            told["policy"] = self.live.session.policy
            told.update(self.live.session.certificates())
            first = self._groups.get(OWN) or next(iter(self._groups.values()))
            told.update(first.granted())
            told.update(self.live.publishing.status())
            if self.live.session.pace is not None:
                told["load"] = self.live.session.pace.status()
        if set(self._groups) != {OWN}:
            told["groups"] = {
                name or "(connection)": {**group.status(), **group.granted()}
                for name, group in islice(self._groups.items(), _SHOWN)
            }
            if len(self._groups) > _SHOWN:
                told["more_groups"] = len(self._groups) - _SHOWN
        if self._recovery is not None:
            told["recovery"] = asdict(self._recovery)
        if backfill := self._backfill.status():
            told["backfill"] = backfill
        if requested := self._on_request.status():
            told["requested"] = requested
        if self._intake.latest:
            told["latest"] = when(self._intake.latest)
        told.update({key: value for key, value in asdict(self.traffic).items() if value})
        told.update({key: value for key, value in asdict(self._intake.assembler.counts).items() if value})
        return told


def together(several: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """What groups tell of themselves as one: numbers are added up, of some the least counts."""
    told: dict[str, Any] = {}
    for key in dict.fromkeys(key for one in several for key in one):
        values = [one[key] for one in several if key in one]
        if isinstance(values[0], Mapping):
            told[key] = together(values)
        elif isinstance(values[0], (int, float)) and not isinstance(values[0], bool):
            told[key] = min(values) if key in _LEAST else sum(values)
        else:
            told[key] = values[0]
    return told


async def _delete(session: Session, subscribed: Subscribed) -> None:
    """Of a group that is not there any more. One that is gone already is no error."""
    try:
        await session.unsubscribe(subscribed.id)
    except UaStatusCodeError as error:
        if status_name(error.code) in recovery.SESSION_LOST:
            raise


async def _first_look(session: Session) -> _Opened:
    began = _now()
    try:
        started, clock = await session.times()
    except BaseException:
        await session.close(politely=False)
        raise
    return _Opened(session, started, clock - time.time_ns(), _now() - began)


async def _until(stop: asyncio.Event, *work: Coroutine[Any, Any, None]) -> None:
    """Run all until one fails, which is raised, or `stop` is set. Others may end when they like."""
    stopped: asyncio.Task[Any] = asyncio.create_task(stop.wait())
    tasks: set[asyncio.Task[Any]] = {asyncio.create_task(one) for one in work}
    try:
        pending = {stopped, *tasks}
        while not stopped.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        await end(stopped, *tasks)


def _values(settings: Settings) -> dict[str, Any]:
    return {
        "endpoint": settings.endpoint,
        "user": settings.user.name or settings.user.certificate if settings.user else "anonymous",
        "security.policy": settings.security.policy,
        "security.mode": settings.security.mode,
    }


def _now() -> float:
    return asyncio.get_running_loop().time()
