"""The groups of a connection: each has a subscription of its own in the connection's session, or is polled.

What happens to one group's subscription is that group's matter: it is taken up again by the ladder (`recovery`), told
of changed intervals, made anew when the server has ended it or nothing flows in it, and waited for when the server has
none to give, while the others run on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from opcua_collector.config import Connection as Settings
from opcua_collector.config import Tag
from opcua_collector.intake import Intake
from opcua_collector.items import Items
from opcua_collector.kept import ITEMS, SEQUENCE, Reached, position
from opcua_collector.kept import Items as KeptItems
from opcua_collector.nodes import Facts, Reporter
from opcua_collector.plan import OWN, Plan
from opcua_collector.polling import Polled
from opcua_collector.problems import status_name
from opcua_collector.services.session import Session, Subscribed
from opcua_collector.stack import NodeId, UaStatusCodeError, ua
from opcua_collector.subscriptions import recovery, timing
from opcua_collector.subscriptions.feed import Feed
from opcua_collector.subscriptions.publishing import STALLED, Publishing
from opcua_collector.subscriptions.recovery import RENEWED, Situation, climb
from opcua_collector.subscriptions.sequence import Missing
from sluice.retry import Backoff
from sluice.tasks import end

logger = logging.getLogger(__name__)

_SHALLOW: Final = "a queue of one value"  # gaps' reasons
_NOT_NOTED: Final = "a tag of which no monitored item was noted"
_PAUSES: Final = (0.2, 60.0)  # seconds until a subscription that ended is made anew
_REFUSED_PAUSES: Final = (5.0, 300.0)  # and one that the server refused is asked for again
_CLOCK: Final = 1.0  # seconds between looks at the server's clock, at least: each costs a message and a note
_STABLE: Final = 5.0  # seconds after which one that ends is made anew at once
_FULL: Final = ("BadTooMany", "BadOutOfMemory", "BadResourceUnavailable")
_UNKNOWN_SERVICE: Final = frozenset({ua.StatusCodes.BadServiceUnsupported, ua.StatusCodes.BadNotImplemented})

Keep = Callable[[str, Subscribed | None, Mapping[str, bytes | None]], None]
"""Notes the group's subscription with the session's others, and positions beside them."""


@dataclass(frozen=True, slots=True)
class Live:
    """A session that publishes."""

    session: Session
    publishing: Publishing
    facts: asyncio.Task[Facts]


@dataclass(frozen=True, slots=True)
class Returned:
    """A session, as a subscription of an earlier one finds it."""

    session: Session
    restarted: bool  # the server has been started since
    known: bool  # it is the server that we had before
    kept: Subscribed | None  # the group's subscription there


class FullError(Exception):
    """The server has no subscription left for the group: reported, and asked for again later."""


class SubscribedGroup:
    """A group whose values the server reports. `names`: client handle -> tag, of all groups of the connection."""

    def __init__(
        self,
        connection: str,
        settings: Settings,
        plan: Plan,
        tags: Mapping[str, Tag],
        intake: Intake,
        problems: Reporter,
        names: dict[int, str],
        keep: Keep,
    ) -> None:
        self.plan = plan
        self.tags = tags
        self.feed: Feed | None = None
        """Its subscription; None: there is none to go on with."""
        self.items = Items(connection, settings, plan, tags, intake, problems, names)
        self.items.on_stalled = self._stands_still
        self._connection = connection
        self._settings = settings
        self._intake = intake
        self._problems = problems
        self._keep = keep
        self._changed = asyncio.Event()
        self._refusals = Backoff(*_REFUSED_PAUSES)
        self._unproven = ""  # why the server's clock proves nothing here
        self._publishing: Publishing | None = None
        self._restored = False  # and not taken up yet
        self._refused = False  # other intervals, by the server

    @property
    def name(self) -> str:
        """The group's name; empty for the connection's own."""
        return self.plan.group

    @property
    def _place(self) -> str:
        return f"connections.{self._connection}.{f'groups.{self.name}' if self.name != OWN else 'publishingInterval'}"

    # --- what is wanted ---

    def want(self, settings: Settings, plan: Plan, tags: Mapping[str, Tag], elsewhere: Collection[str]) -> None:
        """These settings and tags from now on. `elsewhere`: tags that are in another group of the connection."""
        self._settings, self.plan, self.tags = settings, plan, tags
        self.items.want(settings, plan, tags, elsewhere)
        self._changed.set()

    def retire(self) -> None:
        """The group is no more; what goes on in others has been given up before."""
        self.items.retire()
        self._problems.clear(self._place)

    # --- over the ends of sessions and processes ---

    async def restore(self, subscribed: Subscribed, items: KeptItems | None, reached: Reached | None) -> bool:
        """Take over the subscription of an earlier run; whether its notes belong together."""
        if items is None or items.subscription != subscribed.id:
            return False
        if reached is not None and reached.subscription != subscribed.id:
            return False
        await self.items.restore(items)
        self.feed = self._feed(subscribed, reached.number if reached is not None else 0)
        self._restored = True
        return True

    def _feed(self, subscribed: Subscribed, reached: int = 0) -> Feed:
        return Feed(self._intake, subscribed, reached, position(SEQUENCE, self.name))

    def interrupted(self) -> None:
        """The session has ended."""
        self.items.interrupted()
        self._unproven = ""
        if self.feed is not None and self.feed.over.is_set():
            self.feed = None

    async def recover(self, found: Returned) -> Situation:
        """Climb the ladder in another session; `situation.rung` says how far. Raises FullError."""
        if self.feed is not None and not self.items.are_of(self.feed.subscribed.id):
            self.feed = None
        # Behind what came last before the end, and behind what is republished: neither says what it replaced.
        shallow: list[int] = []
        if self.feed is not None:
            self.feed.begin()
            shallow = self.items.shallow()
            if shallow:
                self._intake.gaps.open(shallow, _SHALLOW)
        situation = Situation(
            link=found.session,
            resumed=found.session.resumed,
            restarted=found.restarted,
            feed=self.feed,
            stale=found.kept.id if found.kept is not None and found.session.resumed else 0,
            renew=lambda: self._subscribe(found.session),
        )
        try:
            situation.rung = await climb(situation)
        except FullError:
            self.feed = None  # what was refused before cannot be gone on with
            raise
        restored, self._restored = self._restored, False
        feed = situation.feed
        assert feed is not None
        if situation.rung == RENEWED:
            self._renewed(feed, known=found.known)
            return situation
        self._keep(self.name, feed.subscribed, {})
        if shallow:
            self._intake.open_gap(_SHALLOW, shallow)
        if restored:
            # They came from an item that we did not live to note, or were in another group then: nobody has taken
            # what was sent of them since.
            unwatched = self._intake.assembler.parked.keys() & self.tags.keys()
            if unwatched:
                self._intake.open_gap(_NOT_NOTED, only=unwatched)
        return situation

    async def _subscribe(self, session: Session) -> Feed:
        asked = timing.asked(self.plan, self._settings.keep_alive)
        try:
            subscribed = await session.subscribe(
                asked.interval, asked.keep_alive_count, asked.lifetime_count, timing.MOST_NOTIFICATIONS
            )
        except UaStatusCodeError as error:
            name = status_name(error.code)
            if not name.startswith(_FULL):
                raise
            raise FullError(name) from error
        self._refusals.reset()
        self._problems.clear(self._place)
        return self._feed(subscribed)

    def _renewed(self, feed: Feed, *, known: bool) -> None:
        """A new subscription is ours, without items yet. known: tags may have had samples of this server before."""
        self.feed = feed
        if known and any(tag in self.tags for tag, _ in self._intake.gaps.all_marks()):
            self._intake.open_gap("new subscription", only=self.tags)
        self.items.renewed()
        self._keep(self.name, feed.subscribed, {position(ITEMS, self.name): None, position(SEQUENCE, self.name): None})

    def refused(self, why: str) -> float:
        """The server has no subscription for the group: reported; the seconds until it is asked again."""
        self._problems.report(
            self._place,
            f"waits, because the server has no subscription left ({why}); the other groups are collected",
            "end other clients, raise the server's limit of subscriptions, or collect these tags in another group",
            self.name,
        )
        return self._refusals.next()

    # --- in a session ---

    async def run(self, live: Live) -> None:
        """Collect until cancelled; a subscription that ends is replaced by another one."""
        pauses = Backoff(*_PAUSES)
        while True:
            feed = self.feed
            if feed is None:
                try:
                    with live.publishing.creating():
                        feed = await self._subscribe(live.session)
                        self._renewed(feed, known=True)
                        live.publishing.serve(feed)
                except FullError as full:
                    await asyncio.sleep(self.refused(str(full)))
                    continue
            began = _now()
            await self._collect(live, feed)
            self._ended(feed)
            if _now() - began > _STABLE:
                pauses.reset()
            await asyncio.sleep(pauses.next())
            await self._delete(live.session, feed)
            self.feed = None

    async def _collect(self, live: Live, feed: Feed) -> None:
        """Everything that goes on in a subscription, until it is over. Raises what ends the session."""
        live.publishing.serve(feed)
        self._publishing = live.publishing
        over: asyncio.Task[Any] = asyncio.create_task(feed.over.wait())
        work: set[asyncio.Task[Any]] = {
            asyncio.create_task(one)
            for one in (
                self.items.keep_up(live.session, feed.subscribed, live.facts),
                live.publishing.mend(feed, self._missing),
                self._prove(live, feed),
                self._adjust(live, feed),
            )
        }
        try:
            pending = {over, *work}
            while not over.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    _unless_gone(task, feed)
        finally:
            live.publishing.leave(feed)
            self._publishing = None
            await end(over, *work)

    def _stands_still(self) -> None:
        """Most values that the server has now are not those that came."""
        if self.feed is not None:
            self.feed.lose(STALLED)

    def _ended(self, feed: Feed) -> None:
        """The subscription is over, and the session is not."""
        self._intake.traffic.ended += 1
        self._intake.traffic.stalled += feed.why == STALLED
        logger.warning(
            "Connection %s%s: subscription %d has ended: %s; it is made anew",
            self._connection,
            f", group {self.name}" if self.name != OWN else "",
            feed.subscribed.id,
            feed.why,
        )

    async def _delete(self, session: Session, feed: Feed) -> None:
        try:
            await session.unsubscribe(feed.subscribed.id)
        except UaStatusCodeError as error:  # it is gone already, and may be why we are here
            if status_name(error.code) in recovery.SESSION_LOST:
                raise

    def _missing(self, missing: Missing) -> None:
        """Messages of the subscription that nobody has."""
        self._intake.missing(missing, self.tags, self.items.handles())

    async def end(self, session: Session) -> None:
        """Delete the subscription of a group that is no more."""
        if self.feed is not None:
            await self._delete(session, self.feed)
            self.feed = None

    async def _prove(self, live: Live, feed: Feed) -> None:
        """Have the server send its clock in the subscription: what comes shows that values can flow."""
        one = feed.subscribed
        if one.canary or self._unproven:
            return
        interval = max(_CLOCK, one.interval * one.keep_alive_count)
        try:
            status, revised = await live.session.canary(one.id, interval)
        except UaStatusCodeError as error:
            if status_name(error.code) in recovery.GONE | recovery.SESSION_LOST:
                raise
            status, revised = int(error.code), 0.0
        except asyncio.TimeoutError:  # whether the server lives is for others to judge: it does without this
            status, revised = int(ua.StatusCodes.BadTimeout), 0.0
        if status >> 30 >= 2:
            self._unproven = f"the server refuses to send its clock ({status_name(status)})"
            return
        feed.subscribed = replace(feed.subscribed, canary=max(revised, interval))
        live.publishing.revised(feed)
        self._keep(self.name, feed.subscribed, {})

    async def _adjust(self, live: Live, feed: Feed) -> None:
        """Tells the server of changed intervals: nothing else of the subscription changes."""
        while True:
            self._changed.clear()
            asked = timing.asked(self.plan, self._settings.keep_alive)
            if feed.subscribed.asked == asked:
                self._intervals_are_well()
            else:
                try:
                    revised = await live.session.modify(
                        feed.subscribed,
                        asked.interval,
                        asked.keep_alive_count,
                        asked.lifetime_count,
                        timing.MOST_NOTIFICATIONS,
                    )
                except UaStatusCodeError as error:
                    if error.code in _UNKNOWN_SERVICE:
                        if feed.subscribed.asked is None and feed.subscribed.interval == asked.interval:
                            # Made by an earlier release, which did not note what it had asked for.
                            feed.subscribed = replace(feed.subscribed, asked=asked)
                            continue
                        feed.lose("other intervals are wanted, and the server cannot change those of a subscription")
                        return
                    if status_name(error.code) in recovery.GONE | recovery.SESSION_LOST:
                        raise
                    self._refused = True
                    self._problems.report(
                        self._place,
                        f"has other intervals than before, which the server refuses ({status_name(error.code)}): "
                        "those of before go on",
                        "set intervals that the server can do",
                        asked.interval,
                    )
                else:
                    feed.subscribed = replace(revised, canary=feed.subscribed.canary)
                    live.publishing.revised(feed)
                    self._intervals_are_well()
                    self._keep(self.name, feed.subscribed, {})
            await self._changed.wait()

    def _intervals_are_well(self) -> None:
        if self._refused:
            self._refused = False
            self._problems.clear(self._place)

    # --- who asks ---

    def node(self, handle: int) -> NodeId | None:
        """The node that the handle stands for, as last resolved."""
        return self.items.node(handle)

    def handle(self, tag: str) -> int | None:
        """The tag's client handle; None while nobody knows its node."""
        return self.items.handle(tag)

    def granted(self) -> dict[str, Any]:
        """For the status: what the server grants, and how long ago it gave a sign of life."""
        if self.feed is None or self._publishing is None:
            return {}
        told = self._publishing.of(self.feed)
        if unproven := self._unproven or self._publishing.unproven(self.feed):
            told["unproven"] = unproven
        return told

    def status(self) -> dict[str, Any]:
        """For the status: its tags."""
        return self.items.status()

    def describe(self) -> dict[str, Any]:
        """For who wants to understand it: what was asked for, and what the server made of it."""
        told: dict[str, Any] = {"mode": "subscribe", "outage_s": self.plan.outage, **self.granted()}
        if self.feed is not None:
            asked = self.feed.subscribed.asked
            told["subscription"] = self.feed.subscribed.id
            told["requested"] = None if asked is None else asdict(asked)
            told["canary_s"] = self.feed.subscribed.canary
        return {**told, **self.items.describe()}


class PolledGroup:
    """A group whose values are read; the same to the connection as a `SubscribedGroup`."""

    feed = None

    def __init__(
        self,
        connection: str,
        settings: Settings,
        plan: Plan,
        tags: Mapping[str, Tag],
        intake: Intake,
        problems: Reporter,
        names: dict[int, str],
    ) -> None:
        self.plan = plan
        self.tags = tags
        self.items = Polled(connection, settings, plan, tags, intake, problems, names)

    @property
    def name(self) -> str:
        """The group's name; empty for the connection's own."""
        return self.plan.group

    def want(self, settings: Settings, plan: Plan, tags: Mapping[str, Tag], elsewhere: Collection[str]) -> None:
        """These settings and tags from now on. `elsewhere`: tags that are in another group of the connection."""
        self.plan, self.tags = plan, tags
        self.items.want(settings, plan, tags, elsewhere)

    def retire(self) -> None:
        """The group is no more; what goes on in others has been given up before."""
        self.items.retire()

    def interrupted(self) -> None:
        """The session has ended."""
        self.items.interrupted()

    async def run(self, live: Live) -> None:
        """Collect until cancelled."""
        await self.items.run(live.session, live.facts)

    async def end(self, session: Session) -> None:
        """Nothing of it is on the server."""

    def node(self, handle: int) -> NodeId | None:
        """The node that the handle stands for, as last resolved."""
        return self.items.node(handle)

    def handle(self, tag: str) -> int | None:
        """The tag's client handle; None while nobody knows its node."""
        return self.items.handle(tag)

    def granted(self) -> dict[str, Any]:
        """Nothing is granted to it."""
        return {"poll_interval_s": self.plan.poll}

    def status(self) -> dict[str, Any]:
        """For the status: its tags."""
        return self.items.status()

    def describe(self) -> dict[str, Any]:
        """For who wants to understand it."""
        return {"mode": "poll", "poll_interval_s": self.plan.poll, **self.items.describe()}


Group = SubscribedGroup | PolledGroup


def _unless_gone(task: asyncio.Task[Any], feed: Feed) -> None:
    """Raises what the task failed with, unless it says that there is no such subscription: that is over then."""
    try:
        task.result()
    except UaStatusCodeError as error:
        name = status_name(error.code)
        if name not in recovery.GONE:
            raise
        feed.lose(name)


def _now() -> float:
    return asyncio.get_running_loop().time()
