"""Publishing: a few requests always outstanding, what is overdue fetched, a silent server noticed.

Answers can overtake each other on their way, but not for long: what is overdue after a moment, or when no request is
left that could bring it, is asked for by Republish at once, before anything that came after it is handed on. What the
server has not kept is missing: told, and read back from history where there is one.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from itertools import islice
from typing import Any, Final, Protocol

from opcua_collector import recovery, subscription
from opcua_collector.feed import Feed
from opcua_collector.intake import Intake, Outlet
from opcua_collector.notifications import Publication
from opcua_collector.problems import status_name
from opcua_collector.recovery import Fetched, Link
from opcua_collector.sequence import Missing, distance, following
from opcua_collector.stack import UaStatusCodeError

logger = logging.getLogger(__name__)

FEWEST, MOST = 3, 10
"""PublishRequests in flight: with one, a long line or a short interval loses values in the server's queues."""
_COMMIT: Final = 0.15  # seconds that a message takes to become durable, usually
_OVERTAKING: Final = 0.1  # seconds that an answer may come later than its successor
_STEP: Final = 0.5  # seconds between looks at the clock
_MOST_ASKED: Final = 100  # overdue messages that are asked for although the server does not say that it has them

_BUSY: Final = frozenset({"BadTooManyPublishRequests"})
_AGAIN: Final = frozenset({"BadTimeout", "BadRequestTimeout", "BadRequestCancelledByClient"})
_TRANSFERRED: Final = "GoodSubscriptionTransferred"


class PublishLink(Link, Protocol):
    """What of a session publishing needs: `session.Session`."""

    async def publish(self, acknowledge: Sequence[tuple[int, int]]) -> tuple[bytes, int]:
        """One PublishRequest: (response, its start)."""


class SubscriptionLostError(Exception):
    """The server has ended our subscription, or given it to somebody else."""


class OutboxFullError(Exception):
    """Nothing more can be kept, and the source can be read again later."""


def outstanding(interval: float, round_trip: float) -> int:
    """How many requests cover what comes while a message is on its way and being written."""
    return min(MOST, max(FEWEST, 2 + math.ceil((round_trip + _COMMIT) / interval)))


class Publishing:
    """The requests of one session for one subscription. `requests`: how many are outstanding at once."""

    def __init__(self, link: PublishLink, feed: Feed, intake: Intake, outlet: Outlet, requests: int) -> None:
        self.feed = feed
        self.proven = False
        """The server has answered a request."""
        self.behind = False
        """The server has more than it could send with its last answer."""
        self._link = link
        self._intake = intake
        self._outlet = outlet
        self._publishers = requests
        self._requests = requests
        self._outstanding = 0
        self._unwanted: set[int] = set()
        subscribed = feed.subscribed
        self._watch = subscription.Watch(subscription.silence(subscribed.interval, subscribed.keep_alive_count), _now())

    def tasks(self) -> Iterable[Coroutine[Any, Any, None]]:
        """What is to run until one of them fails."""
        return (self.watch(), self.mend(), *(self.publish() for _ in range(self._requests)))

    async def publish(self) -> None:
        """One of the requests outstanding: ask, hand on, wait until it is durable, acknowledge with the next."""
        while True:
            if self._outlet.full:
                raise OutboxFullError
            if not self._outstanding:
                self._watch.heard(_now())  # nothing was asked meanwhile, so nothing could be heard
            acknowledge = self.feed.acknowledgements()
            self._outstanding += 1
            try:
                data, start = await self._link.publish(acknowledge)
            except UaStatusCodeError as error:
                self.feed.not_acknowledged(acknowledge)
                if await self._refused(error):
                    return
                continue
            except BaseException:
                self.feed.not_acknowledged(acknowledge)
                raise
            finally:
                self._outstanding -= 1
            self._watch.heard(_now())
            self.proven = True
            durable = self._received(self._intake.read(data, start), acknowledge)
            if durable is not None:
                await durable

    def _received(
        self, publication: Publication, acknowledged: Sequence[tuple[int, int]]
    ) -> asyncio.Future[None] | None:
        """Into the feed with it; what to wait for before the next request."""
        traffic = self._intake.traffic
        self._acknowledged(publication, acknowledged)
        if publication.subscription != self.feed.subscribed.id:
            if publication.damage:
                traffic.damaged += 1
                logger.warning("A message could not be read: %s", publication.damage)
            else:
                traffic.foreign += 1
                self._unwanted.add(publication.subscription)
            return None
        self.feed.says(publication.available)
        self.behind = publication.more
        if publication.keep_alive:
            traffic.keep_alives += 1
            self.feed.keep_alive(publication.sequence)
            return None
        durable, repeated = self.feed.take(publication)
        traffic.repeated += repeated
        for status in publication.status_changes:
            if status >> 30 >= 2 or status_name(status) == _TRANSFERRED:
                raise SubscriptionLostError(status_name(status))
        return durable

    def _acknowledged(self, publication: Publication, acknowledged: Sequence[tuple[int, int]]) -> None:
        """What the server says to our acknowledgements. One that it does not know was acknowledged before."""
        if not acknowledged:
            return
        refused = Counter(status_name(status) for status in publication.results if status >> 30 >= 2)
        self._intake.traffic.refused_acknowledgements += sum(refused.values())
        for name in recovery.GONE & refused.keys():
            raise SubscriptionLostError(name)

    async def _refused(self, error: Any) -> bool:
        """A publish request was refused; True: this task is one too many."""
        name = status_name(error.code)
        if name in recovery.GONE:
            raise SubscriptionLostError(name) from error
        if name in _BUSY:
            if self._publishers > 1:
                self._publishers -= 1
                return True
            await asyncio.sleep(self.feed.subscribed.interval)
            return False
        if name in _AGAIN:
            await asyncio.sleep(min(1.0, self.feed.subscribed.interval))
            return False
        raise error

    async def mend(self) -> None:
        """Fetches what is overdue."""
        while True:
            await self.feed.gap.wait()
            if self.feed.waiting < self._publishers:
                await asyncio.sleep(_OVERTAKING)
            overdue = self.feed.overdue
            if overdue is not None:
                await self._fetch(overdue)

    async def _fetch(self, overdue: Missing) -> None:
        for number in _asked_for(overdue, self.feed.available):
            if distance(self.feed.expected, number) < 0:
                continue  # it came by itself meanwhile
            fetched = await recovery.fetch(self._link, self.feed, number)
            if fetched is Fetched.GONE:
                raise SubscriptionLostError(fetched.value)
            self._intake.traffic.republished += fetched is Fetched.HANDED_ON
            await self.feed.settled(self._publishers)
        while (missing := self.feed.overdue) is not None and distance(missing.first, overdue.last) >= 0:
            self._intake.missing(missing)
            self.feed.pass_over()

    async def watch(self) -> None:
        """Ends it all when the server is silent for too long; has it drop subscriptions that nobody here knows."""
        while True:
            await asyncio.sleep(_STEP)
            if self._watch.silent(_now(), _STEP) and self._outstanding:
                raise asyncio.TimeoutError
            while self._unwanted:
                await self._link.unsubscribe(self._unwanted.pop())

    def status(self) -> dict[str, Any]:
        """For the connection's status."""
        subscribed = self.feed.subscribed
        return {
            "publishing_interval_s": subscribed.interval,
            "keep_alive_s": round(subscribed.interval * subscribed.keep_alive_count, 3),
            "lifetime_s": round(subscribed.interval * subscribed.lifetime_count, 3),
            "outstanding": self._outstanding,
            "requests": self._publishers,
        }


def _asked_for(overdue: Missing, available: Sequence[int]) -> list[int]:
    """Which of the overdue messages to ask for: few all, of many those that the server says it has, else the last."""
    if len(overdue) > _MOST_ASKED and available:
        kept = [number for number in available if 0 <= distance(overdue.first, number) < len(overdue)]
        return sorted(kept, key=lambda number: distance(overdue.first, number))
    first = max(0, len(overdue) - _MOST_ASKED)
    return list(islice((following(overdue.first, steps) for steps in range(first, len(overdue))), _MOST_ASKED))


def _now() -> float:
    return asyncio.get_running_loop().time()
