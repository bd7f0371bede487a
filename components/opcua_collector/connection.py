"""One connection: connects, takes up where it was, publishes, and begins again whatever happens.

    connecting --> running --> (lost) --> waiting --> connecting ...       forever, 0.2 s to 30 s apart, with jitter
                          \\--> (outbox full, server with history) --> paused --> connecting ...

What was lost with a line, or with this component, is taken up by the rungs of a ladder (`recovery`). What it takes is
kept in the outbox (`kept`). So an end without goodbye loses nothing, and the component ends that way on purpose; only a
connection that is removed, or needs another session, says goodbye to its server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Collection, Coroutine, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol

from opcua_collector import browse, recovery, subscription
from opcua_collector.backfill import Backfill
from opcua_collector.certificates import thumbprint
from opcua_collector.config import Connection as Settings
from opcua_collector.config import Tag
from opcua_collector.connecting import Identity, TicketError, connect
from opcua_collector.feed import Feed
from opcua_collector.intake import GAPS, MARKS, Intake, Outlet, Traffic
from opcua_collector.items import Items, Reporter
from opcua_collector.kept import ITEMS, SEQUENCE, SESSION, Kept, fingerprint, load_items, load_sequence, load_session
from opcua_collector.problems import explain
from opcua_collector.publishing import OutboxFullError, Publishing, SubscriptionLostError, outstanding
from opcua_collector.requested import MOST_REQUESTS, Request, Requested
from opcua_collector.session import Session, Ticket
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
_TEND: Final = 2.0
_SHALLOW: Final = "a queue of one value"  # a gap's reason

_REQUESTS: Final = "requests"
_POSITIONS: Final = (SESSION, ITEMS, SEQUENCE, MARKS, GAPS, _REQUESTS)


class PasswordSource(Protocol):
    """Resolves the reference to a password."""

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
        password: PasswordSource,
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
        self._intake = Intake(name, outlet, lambda: self._items.names)
        self._items = Items(name, settings, tags, self._intake, problems)
        self._backfill = Backfill(
            name, outlet, self._intake.assembler, node=self._items.node, behind=lambda: self._behind
        )
        self._requested = Requested(self._items.handle, self._intake.gaps.history)
        # Here and not in `run`: a command that goes on after a restart may ask before that has begun.
        if trouble := self._requested.load(outlet.position(_REQUESTS)):
            logger.error("Connection %s: %s", name, trouble)
        self._on_request = Backfill(
            name,
            outlet,
            self._intake.assembler,
            node=self._items.node,
            behind=lambda: self._behind,
            work=self._requested,
            position=_REQUESTS,
            wait=self._before_requests,
        )
        self._kept: Kept | None = None
        self._feed: Feed | None = None
        self._restart = asyncio.Event()  # settings that need another channel at least
        self._leaving = False
        self._proven = False  # the server has answered a publish request
        self._tickets = 0  # times in a row that the line ended over the old session
        self._parted = 0.0  # when the last session ended; 0: there was none
        self._session: Session | None = None
        self._publishing: Publishing | None = None
        self._recovery: _Recovery | None = None

    @property
    def traffic(self) -> Traffic:
        """Counters since the component's start."""
        return self._intake.traffic

    @property
    def _behind(self) -> bool:
        """Whether the server has more live data than it could send yet."""
        return self._publishing is not None and self._publishing.behind

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

    def reconfigure(self, settings: Settings, tags: Mapping[str, Tag]) -> None:
        """Go over to this: tags come and go while the others flow on; all else needs another channel, or session."""
        before, self._settings = self._settings, settings
        self._tags = tags
        self._items.want(settings, tags)
        same = {"tags": {}, "tags_file": "", "tags_package": "", "asset": ""}
        if before.model_copy(update=same) != settings.model_copy(update=same):
            self._restart.set()

    def leave(self) -> None:
        """When `run` is cancelled next, it says goodbye: the connection will not come back."""
        self._leaving = True

    def forget(self) -> None:
        """Delete what is kept for the next run: there is none."""
        self._intake.note(dict.fromkeys(_POSITIONS))

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
                try:
                    await self._attempt()
                    backoff.reset()  # ended by a changed configuration, or for want of room
                    continue
                except asyncio.CancelledError:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever it is: reported, and tried again
                    self._failed(error)
                if self._proven and _now() - started > _STABLE:
                    backoff.reset()
                await self._pause(backoff.next())
        finally:
            if not self._leaving:
                self._intake.checkpoint()

    async def _restore(self) -> None:
        """Begin where the last run ended."""
        await self._intake.restore(self._tags)
        kept = load_session(self._outlet.position(SESSION))
        items = load_items(self._outlet.position(ITEMS))
        reached = load_sequence(self._outlet.position(SEQUENCE))
        self._kept = kept
        if kept is None or items is None or items.subscription != kept.subscription.id:
            return
        if reached is not None and reached.subscription != kept.subscription.id:
            return
        self._items.restore(items)
        self._feed = Feed(self._intake, kept.subscription, reached.number if reached is not None else 0)
        self._parted = _now()

    async def _pause(self, seconds: float) -> None:
        if self._feed is not None and _now() - self._parted < subscription.LIFETIME:
            seconds = min(seconds, _PAUSE_WHILE_KEPT)
        try:
            await within(seconds, self._restart.wait())
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
        except SubscriptionLostError:
            self._feed = None
            raise
        finally:
            self._session = self._publishing = None
            self._parted = _now()
            self._items.interrupted()
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
            session = await connect(self.name, settings, self._identity, password, ticket)
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
        return await _first_look(await connect(self.name, settings, self._identity, password))

    def _ticket(self, settings: Settings) -> Ticket | None:
        kept = self._kept
        if kept is None or kept.settings != fingerprint(settings) or self._tickets >= _MOST_TICKETS:
            return None
        return kept.ticket

    async def _work(self, opened: _Opened, settings: Settings) -> None:
        """From the session's first service to its last."""
        session = opened.session
        feed = await self._recover(opened, settings)
        requests = outstanding(feed.subscribed.interval, opened.round_trip)
        self._session = session
        self._publishing = publishing = Publishing(session, feed, self._intake, self._outlet, requests)
        self._clear()
        self.state.set("running")
        self.state.details.clear()
        limits = asyncio.create_task(browse.operation_limits(session.stack))
        try:
            await _until(
                self._restart,
                self._items.keep_up(session, feed.subscribed, limits),
                self._fill(session, limits),
                self._tend(),
                *publishing.tasks(),
            )
        finally:
            self._proven = publishing.proven
            await end(limits)

    async def _fill(self, session: Session, limits: asyncio.Task[browse.OperationLimits]) -> None:
        found = await asyncio.shield(limits)
        self._requested.paused()
        await asyncio.gather(self._backfill.run(session, found), self._on_request.run(session, found))

    async def _recover(self, opened: _Opened, settings: Settings) -> Feed:
        """Climb the ladder: what to publish from."""
        began = _now()
        session, started = opened.session, opened.started
        self._intake.ahead = opened.ahead
        before = self._kept
        server = before.server if before is not None and session.resumed else session.server
        known = before is not None and server == before.server
        if before is None or before.settings != fingerprint(settings):
            self._feed = None
        if self._feed is not None and not self._items.are_of(self._feed.subscribed.id):
            self._feed = None
        if self._feed is not None:
            self._feed.begin()
        situation = recovery.Situation(
            link=session,
            resumed=session.resumed,
            restarted=before is not None and (started != before.started or not known),
            feed=self._feed,
            stale=before.subscription.id if before is not None and session.resumed else 0,
            renew=lambda: self._renew(session, settings),
        )
        if not session.resumed:
            self._intake.gaps.ask_again()
        # Behind what came last before the end, and behind what is republished: neither says what it replaced.
        shallow = self._items.shallow() if self._feed is not None else []
        if shallow:
            self._intake.gaps.open(shallow, _SHALLOW)
        rung = await recovery.climb(situation)
        feed = situation.feed
        assert feed is not None
        self._feed = feed
        self._kept = Kept(fingerprint(settings), server, started, session.ticket, feed.subscribed)
        if rung == recovery.RENEWED:
            if known:
                self._intake.open_gap("new subscription")
            self._items.renewed()
            self._intake.note({SESSION: self._kept.dump(), ITEMS: None, SEQUENCE: None})
        else:
            self._intake.note({SESSION: self._kept.dump()})
            if shallow:
                self._intake.open_gap(_SHALLOW, shallow)
            self._intake.watched(None)
        self._count(rung, situation, session, _now() - began)
        return feed

    async def _renew(self, session: Session, settings: Settings) -> Feed:
        keep_alives = subscription.keep_alive_count(settings.publishing_interval, settings.keep_alive)
        subscribed = await session.subscribe(
            settings.publishing_interval,
            keep_alives,
            subscription.lifetime_count(settings.publishing_interval, keep_alives),
            subscription.MOST_NOTIFICATIONS,
        )
        return Feed(self._intake, subscribed)

    def _count(self, rung: str, situation: recovery.Situation, session: Session, seconds: float) -> None:
        traffic = self.traffic
        traffic.connects += 1
        setattr(traffic, rung, getattr(traffic, rung) + 1)
        traffic.republished += situation.republished
        self._recovery = _Recovery(
            rung,
            round(session.channel_seconds, 3),
            round(session.session_seconds, 3),
            round(seconds, 3),
            situation.republished,
            situation.refusals,
        )
        logger.info(
            "Connection %s runs: %s, %s, %s in %.3f s with %d messages republished%s, publishing every %g s",
            self.name,
            self._settings.endpoint,
            session.policy,
            rung,
            session.channel_seconds + session.session_seconds + seconds,
            situation.republished,
            "".join(f", {refusal}" for refusal in situation.refusals),
            situation.feed.subscribed.interval if situation.feed is not None else 0.0,
        )

    async def _tend(self) -> None:
        """Keeps the outlet informed whether what it cannot keep can be read again."""
        while True:
            self._outlet.recoverable = self._intake.gaps.recoverable
            await asyncio.sleep(_TEND)

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

    # --- status ---

    def status(self) -> dict[str, Any]:
        """For the component's status."""
        told = self.state.as_dict()
        told["endpoint"] = self._settings.endpoint
        told.update(self._items.status())
        if self._session is not None:
            told["policy"] = self._session.policy
        if self._publishing is not None:
            told.update(self._publishing.status())
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
