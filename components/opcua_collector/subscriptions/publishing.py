"""Publishing: a few requests always outstanding, what is overdue fetched, a silent server noticed.

All subscriptions of a session share its requests: the server answers each with a message of whichever has one.

Answers can overtake each other on their way, but not for long: what is overdue after a moment, or when no request is
left that could bring it, is asked for by Republish at once, before anything that came after it is handed on. What the
server has not kept is missing: told, and read back from history where there is one.

What ends a subscription is that subscription's end (`Feed.lose`); what is raised ends the session.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, Final, Protocol

from opcua_collector.intake import Intake, Outlet
from opcua_collector.problems import status_name
from opcua_collector.services.session import Look
from opcua_collector.stack import UaStatusCodeError
from opcua_collector.subscriptions import recovery, timing
from opcua_collector.subscriptions.feed import MOST_ACKNOWLEDGEMENTS, Feed
from opcua_collector.subscriptions.pipeline import Pipeline
from opcua_collector.subscriptions.recovery import Fetched, Link
from opcua_collector.subscriptions.sequence import Missing, distance, following
from opcua_collector.subscriptions.watch import Watch
from opcua_collector.values.encoding import MalformedError
from opcua_collector.values.notifications import Publication
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

_OVERTAKING: Final = 0.1  # seconds that an answer may come later than its successor
_STEP: Final = 0.5  # seconds between looks at the clock
_LOOK: Final = 10.0  # seconds between looks at the server, which also measure the round trip
_MOST_ASKED: Final = 100  # overdue messages that are asked for although the server does not say that it has them
_TRUSTED: Final = 2  # times that the server's clock must have come, for a clock that stands still comes once
_PATIENCE: Final = 2  # times its limit that a subscription which exists may be silent
_MANY: Final = 100_000  # values after which older ones count half, in what decoding takes
_REMEMBERED: Final = 64  # subscriptions that were ended here, of which messages may still be under way

_TOO_MANY: Final = "BadTooMany"
_AGAIN: Final = frozenset({"BadTimeout", "BadRequestTimeout", "BadRequestCancelledByClient"})
_TRANSFERRED: Final = "GoodSubscriptionTransferred"
SILENT: Final = "it is silent while the server answers"
STALLED: Final = "nothing flows in it, although it answers"


class PublishLink(Link, Protocol):
    """What of a session publishing needs: `session.Session`."""

    async def publish(self, acknowledge: Sequence[tuple[int, int]]) -> tuple[bytes, int]:
        """One PublishRequest: (response, its start)."""

    async def look(self) -> Look:
        """The server's state and clock."""


class OutboxFullError(Exception):
    """Nothing more can be kept, and the source can be read again later."""


class Publishing:
    """The requests of one session, for the subscriptions that it is told to `serve`."""

    def __init__(self, link: PublishLink, intake: Intake, outlet: Outlet, pipeline: Pipeline) -> None:
        self.proven = False
        """The server has answered a request."""
        self.behind = False
        """The server has more than it could send with its last answer."""
        self.look: Look | None = None
        """What the server said last of itself."""
        self._link = link
        self._intake = intake
        self._outlet = outlet
        self._pipeline = pipeline
        self._feeds: dict[int, Feed] = {}
        self._watch = Watch(_now())
        self._wanted = 0  # requests
        self._publishers = 0  # tasks that send them
        self._outstanding = 0
        self._changed = asyncio.Event()
        self._creating = 0
        self._created = asyncio.Event()
        self._served: dict[int, float] = {}  # since when
        self._unwanted: set[int] = set()
        self._ended: list[int] = []
        self._doubted: set[int] = set()  # subscriptions that are silent while the server speaks
        self._ask = asyncio.Event()
        self._trusted = False  # the server's clock goes, and comes
        self._decoding = [0.0, 0]  # seconds, values
        self._committing = 0.0  # seconds, lately

    # --- subscriptions ---

    @contextmanager
    def creating(self) -> Iterator[None]:
        """While a subscription is made: its first message may be here before the answer that tells its id."""
        self._creating += 1
        try:
            yield
        finally:
            self._creating -= 1
            self._created.set()
            self._created.clear()

    def serve(self, feed: Feed) -> None:
        """Hand this subscription's messages on, and see that there are some."""
        self._feeds[feed.subscribed.id] = feed
        self._served.setdefault(feed.subscribed.id, _now())
        self.revised(feed)
        self._changed.set()

    def revised(self, feed: Feed) -> None:
        """The intervals of the subscription have changed."""
        subscribed = feed.subscribed
        limit = timing.silence(subscribed.interval, subscribed.keep_alive_count)
        self._watch.follow(subscribed.id, limit, _now(), self._flow(feed))
        self._changed.set()

    def leave(self, feed: Feed) -> None:
        """Nothing of this subscription is wanted any more; what is still under way is left out."""
        number = feed.subscribed.id
        if self._feeds.pop(number, None) is not None:
            self._watch.leave(number)
            self._doubted.discard(number)
            self._served.pop(number, None)
            self._ended = [*self._ended[-_REMEMBERED:], number]

    def _flow(self, feed: Feed) -> float:
        """Seconds after which its data counts as standing still."""
        one = feed.subscribed
        if not self._trusted or not one.canary:
            return float("inf")
        return timing.standstill(one.interval, one.keep_alive_count, one.canary)

    def _proof(self, feed: Feed) -> None:
        """The server's clock has come once more: from the second time on it is relied upon."""
        if not self._trusted and feed.proofs >= _TRUSTED:
            self._trusted = True
            for one in self._feeds.values():
                self.revised(one)

    # --- requests ---

    def tasks(self) -> Iterable[Coroutine[Any, Any, None]]:
        """What is to run until one of them fails."""
        return (self.publish(), self.watch(), self.measure())

    async def publish(self) -> None:
        """Keeps as many requests outstanding as it takes, now."""
        publishers: set[asyncio.Task[None]] = set()
        changed: asyncio.Task[Any] = asyncio.create_task(self._changed.wait())
        try:
            while True:
                self._wanted = self._pipeline.count([feed.subscribed.interval for feed in self._feeds.values()], _now())
                while self._publishers < self._wanted:
                    self._publishers += 1
                    publishers.add(asyncio.create_task(self._publish()))
                done, _ = await asyncio.wait({changed, *publishers}, timeout=_STEP, return_when=asyncio.FIRST_COMPLETED)
                if changed in done:
                    self._changed.clear()
                    changed = asyncio.create_task(self._changed.wait())
                for task in publishers & done:
                    publishers.discard(task)
                    task.result()
        finally:
            await end(changed, *publishers)

    async def _publish(self) -> None:
        """One of the requests outstanding: ask, hand on, wait until it is durable, acknowledge with the next."""
        try:
            while self._feeds and self._publishers <= self._wanted:
                if self._outlet.full:
                    raise OutboxFullError
                await self._exchange()
        finally:
            self._publishers -= 1

    async def _exchange(self) -> None:
        if not self._outstanding:
            self._watch.asked(_now())
        asked_for = tuple(self._feeds.values())
        acknowledge = self._acknowledgements()
        try:
            data, start = await self._ask_for_news(acknowledge)
        except UaStatusCodeError as error:
            self._watch.answered(_now())
            await self._refused(error, asked_for)
            return
        self._watch.answered(_now())
        self.proven = True
        began = time.perf_counter()
        publication = self._intake.read(data, start)
        self._decoded(time.perf_counter() - began, publication)
        while publication.subscription not in self._feeds and self._creating:
            await self._created.wait()
        began = time.perf_counter()
        durable = self._received(publication, acknowledge)
        self._decoded(time.perf_counter() - began)
        if durable is not None:
            began = time.perf_counter()
            await durable
            self._committing += (time.perf_counter() - began - self._committing) / 8

    async def _ask_for_news(self, acknowledge: Sequence[tuple[int, int]]) -> tuple[bytes, int]:
        self._outstanding += 1
        try:
            return await self._link.publish(acknowledge)
        except BaseException:
            self._not_acknowledged(acknowledge)
            raise
        finally:
            self._outstanding -= 1
            if not self._outstanding:
                self._watch.idle(_now())

    def _decoded(self, seconds: float, publication: Publication | None = None) -> None:
        """What became of a message took so long."""
        self._decoding[0] += seconds
        if publication is not None:
            self._decoding[1] += len(publication)
            if self._decoding[1] > _MANY:
                self._decoding = [half / 2 for half in self._decoding]

    def _received(
        self, publication: Publication, acknowledged: Sequence[tuple[int, int]]
    ) -> asyncio.Future[None] | None:
        """Into its feed with it; what to wait for before the next request."""
        traffic = self._intake.traffic
        self._acknowledged(publication, acknowledged)
        feed = self._feeds.get(publication.subscription)
        if feed is None:
            self._stray(publication)
            return None
        feed.says(publication.available)
        self.behind = publication.more
        if publication.keep_alive:
            traffic.keep_alives += 1
            self._watch.heard(publication.subscription, _now())
            feed.keep_alive(publication.sequence)
            return None
        flows, proofs = feed.flows, feed.proofs
        durable, repeated = feed.take(publication)
        self._watch.heard(publication.subscription, _now(), data=feed.flows != flows)
        if feed.proofs != proofs:
            self._proof(feed)
        traffic.repeated += repeated
        for status in publication.status_changes:
            if status >> 30 >= 2 or status_name(status) == _TRANSFERRED:
                feed.lose(status_name(status))
        return durable

    def _stray(self, publication: Publication) -> None:
        """A message of no subscription of ours; the server is asked to end one that nobody here knows."""
        traffic = self._intake.traffic
        if publication.damage:
            traffic.damaged += 1
            logger.warning("A message could not be read: %s", publication.damage)
        elif publication.subscription not in self._ended:
            traffic.foreign += 1
            self._unwanted.add(publication.subscription)

    # --- acknowledgements ---

    def _acknowledgements(self) -> list[tuple[int, int]]:
        pairs: list[tuple[int, int]] = []
        for feed in self._feeds.values():
            pairs += feed.acknowledgements(MOST_ACKNOWLEDGEMENTS - len(pairs))
        return pairs

    def _not_acknowledged(self, pairs: Sequence[tuple[int, int]]) -> None:
        for number, feed in self._feeds.items():
            if own := [pair for pair in pairs if pair[0] == number]:
                feed.not_acknowledged(own)

    def _acknowledged(self, publication: Publication, acknowledged: Sequence[tuple[int, int]]) -> None:
        """What the server says to our acknowledgements. One that it does not know was acknowledged before."""
        for (number, _), status in zip(acknowledged, publication.results, strict=False):
            if status >> 30 >= 2 and (feed := self._feeds.get(number)) is not None:
                self._intake.traffic.refused_acknowledgements += 1
                if (name := status_name(status)) in recovery.GONE:
                    feed.lose(name)

    async def _refused(self, error: Any, asked_for: Sequence[Feed]) -> None:
        """A publish request was refused. asked_for: the subscriptions that there were when it was sent."""
        name = status_name(error.code)
        pause = min((feed.subscribed.interval for feed in self._feeds.values()), default=_STEP)
        if name in recovery.GONE:
            for feed in asked_for:
                feed.lose(name)
        elif name.startswith(_TOO_MANY):
            self._pipeline.refused(self._outstanding, _now())
            self._wanted = min(self._wanted, max(1, self._outstanding))
            if self._publishers > self._wanted:
                return
        elif name not in _AGAIN:
            raise error
        await asyncio.sleep(min(1.0, pause))

    # --- what is overdue ---

    async def mend(self, feed: Feed, missing: Callable[[Missing], None]) -> None:
        """Fetches what is overdue of one subscription; tells what nobody has."""
        while True:
            await feed.gap.wait()
            if feed.waiting < self._publishers:
                await asyncio.sleep(_OVERTAKING)
            overdue = feed.overdue
            if overdue is not None:
                await self._fetch(feed, overdue, missing)

    async def _fetch(self, feed: Feed, overdue: Missing, missing: Callable[[Missing], None]) -> None:
        for number in _asked_for(overdue, feed.available):
            if distance(feed.expected, number) < 0:
                continue  # it came by itself meanwhile
            fetched = await recovery.fetch(self._link, feed, number)
            if fetched is Fetched.GONE:
                feed.lose(fetched.value)
                await asyncio.Event().wait()  # nothing is to be had here any more
            self._intake.traffic.republished += fetched is Fetched.HANDED_ON
            await feed.settled(max(1, self._publishers))
        while (still := feed.overdue) is not None and distance(still.first, overdue.last) >= 0:
            missing(still)
            feed.pass_over()

    # --- silence ---

    async def watch(self) -> None:
        """Ends it all when the server is silent for too long, and a subscription that is alone in its silence."""
        while True:
            await asyncio.sleep(_STEP)
            look = self._watch.look(_now(), _STEP)
            if self._outstanding or not self._feeds:
                if look.dead:
                    raise asyncio.TimeoutError
                self._doubt(look.silent)
                for number in look.still:
                    self._lose(number, STALLED)
            while self._unwanted:
                await self._dismiss(self._unwanted.pop())

    async def _dismiss(self, stranger: int) -> None:
        try:
            await self._link.unsubscribe(stranger)
        except UaStatusCodeError as error:  # it is gone already: its last message was late
            if status_name(error.code) in recovery.SESSION_LOST:
                raise

    def _doubt(self, silent: Sequence[int]) -> None:
        """Some are silent while the server has answered others: it is asked about those."""
        self._doubted = set(silent)
        if self._doubted:
            self._ask.set()

    async def _examine(self, feed: Feed) -> None:
        """Whether a silent subscription exists. One that does is given as long again: servers can be very busy."""
        fetched = await recovery.fetch(self._link, feed, feed.expected)
        if fetched is Fetched.GONE:
            feed.lose(fetched.value)
        elif fetched is Fetched.HANDED_ON:
            self._intake.traffic.republished += 1
            self._watch.heard(feed.subscribed.id, _now())
        else:
            one = feed.subscribed
            silent, _ = self._watch.ages(one.id, _now())
            if silent > _PATIENCE * timing.silence(one.interval, one.keep_alive_count):
                feed.lose(SILENT)

    def _lose(self, number: int, why: str) -> None:
        if (feed := self._feeds.get(number)) is not None:
            feed.lose(why)

    async def measure(self) -> None:
        """Looks at the server now and then: how long an answer takes, what it says of itself, and that it lives.

        No answer in time is for `watch` to judge, which knows whether it was us who were late.
        """
        while True:
            with suppress(asyncio.TimeoutError):
                await within(_LOOK, self._ask.wait())
            self._ask.clear()
            began = _now()
            try:
                look = await self._link.look()
            except asyncio.TimeoutError:
                continue
            except UaStatusCodeError as error:
                if status_name(error.code) in recovery.SESSION_LOST:
                    raise
                look = Look("", 0, "")
            except MalformedError:
                look = Look("", 0, "")
            now = _now()
            self._watch.answered(now)
            seconds = look.seconds or now - began
            self._pipeline.measured(seconds)
            self.look = look
            if look.clock:
                self._intake.ahead = look.clock - time.time_ns() + int(seconds / 2 * 1e9)
            for number in tuple(self._doubted):
                if (feed := self._feeds.get(number)) is not None:
                    with suppress(asyncio.TimeoutError):
                        await self._examine(feed)

    def unproven(self, feed: Feed) -> str:
        """Why the server's clock proves nothing in the subscription; empty while it does, or may yet."""
        one = feed.subscribed
        if not one.canary or feed.proofs >= _TRUSTED or self._trusted:
            return ""
        limit = timing.standstill(one.interval, one.keep_alive_count, one.canary)
        waited = _now() - self._served.get(one.id, _now()) > limit
        return "the server's clock does not come, or stands still" if waited else ""

    # --- status ---

    def of(self, feed: Feed) -> dict[str, Any]:
        """For a group's status: what was granted, and how long ago it gave a sign of life."""
        subscribed, now = feed.subscribed, _now()
        heard, flowed = self._watch.ages(subscribed.id, now)
        told: dict[str, Any] = {
            "publishing_interval_s": subscribed.interval,
            "keep_alive_s": round(subscribed.interval * subscribed.keep_alive_count, 3),
            "lifetime_s": round(subscribed.interval * subscribed.lifetime_count, 3),
            "keep_alive_age_s": round(heard, 1),
            "data_age_s": round(flowed, 1),
        }
        if (asked := subscribed.asked) is not None and asked.interval != subscribed.interval:
            told["requested_interval_s"] = asked.interval
        return told

    def status(self) -> dict[str, Any]:
        """For the connection's status."""
        told: dict[str, Any] = {
            "outstanding": self._outstanding,
            "requests": self._wanted,
            "round_trip_ms": round(self._pipeline.round_trip * 1000, 1),
            "loop_lag_s": round(self._watch.lag(_now()), 3),
            "clock_ahead_s": round(self._intake.ahead / 1e9, 3),
            "commit_ms": round(self._committing * 1000, 1),
        }
        seconds, values = self._decoding
        if values:
            told["decode_us_per_value"] = round(seconds / values * 1e6, 3)
        if self.look is not None and self.look.state not in ("", "Running"):
            told["server_state"] = self.look.state
            if self.look.returns:
                told["server_returns"] = self.look.returns
        return told


def _asked_for(overdue: Missing, available: Sequence[int]) -> list[int]:
    """Which of the overdue messages to ask for: few all, of many those that the server says it has, else the last."""
    if len(overdue) > _MOST_ASKED and available:
        kept = [number for number in available if 0 <= distance(overdue.first, number) < len(overdue)]
        return sorted(kept, key=lambda number: distance(overdue.first, number))
    first = max(0, len(overdue) - _MOST_ASKED)
    return list(islice((following(overdue.first, steps) for steps in range(first, len(overdue))), _MOST_ASKED))


def _now() -> float:
    return asyncio.get_running_loop().time()
