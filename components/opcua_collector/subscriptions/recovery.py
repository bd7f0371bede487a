"""How a subscription is taken up again after its line was lost, or after we were: the rungs of a ladder (Part 4, 6.7).

Theory. Channel, session and subscription live apart on a server. A lost line ends the channel only; for as long as its
timeout the session waits for ActivateSession in another channel, and for as long as its lifetime the subscription goes
on filling its queues. Messages that the server has sent and that we have not acknowledged are kept for Republish. So
whatever was lost between us is still there, if we come back in time and ask in the right order:

| rung        | possible when                        | asks for                      | then              | refused     |
|-------------|--------------------------------------|-------------------------------|-------------------|-------------|
| resumed     | our old session was activated again  | nothing                       | Republish         | next rung   |
| transferred | the session is new, the server isn't | TransferSubscriptions         | Republish         | next rung   |
| renewed     | always                               | CreateSubscription, all items | a gap, from marks | try anew    |

- After a session was activated again nothing is transferred: servers refuse a transfer to the session that has it
  already (BadNothingToDo, BadUserAccessDenied), and who takes that for a loss throws full queues away.
- Republish asks for the number behind the last one handed on, then the next, until the server has no more. Only then
  the first PublishRequest is sent, so that order is kept. Not every server says BadMessageNotAvailable: an answer that
  is empty or has another number ends it as well. One that goes on beyond a bound is made up: next rung.
- What lies between the last republished and the first published message shows as a gap in the numbers, and is looked
  for again by `publishing`.
- Each subscription of a session climbs for itself: what one has lost is not another's loss.
- Ids of sessions and subscriptions are small numbers on some servers, and given out anew after a restart, to anybody.
  So nothing of ours is believed to be on a server that has started since.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from opcua_collector.problems import status_name
from opcua_collector.stack import UaStatusCodeError
from opcua_collector.subscriptions.feed import Feed
from opcua_collector.subscriptions.sequence import following

MOST_REPUBLISHED: Final = 10_000
"""Messages that one recovery fetches: more than any server keeps."""
_ENDLESS: Final = "Republish never ends"
_UNDER_WAY: Final = 4  # republished messages that may wait to be durable

GONE: Final = frozenset({"BadNoSubscription", "BadSubscriptionIdInvalid"})
"""Answers that say: there is no such subscription."""
SESSION_LOST: Final = frozenset(
    {
        "BadSessionIdInvalid",
        "BadSessionClosed",
        "BadSessionNotActivated",
        "BadSecureChannelIdInvalid",
        "BadSecureChannelClosed",
        "BadConnectionClosed",
        "BadShutdown",
        "BadServerHalted",
    }
)
"""Answers that say: there is no such session any more."""


class Link(Protocol):
    """What of a session the ladder needs: `session.Session`."""

    async def republish(self, subscription: int, number: int) -> tuple[bytes, int]:
        """One kept message once more: (response, its start)."""

    async def transfer(self, subscription: int) -> tuple[int, tuple[int, ...]]:
        """TransferSubscriptions into this session: (status, numbers of the messages that the server has kept)."""

    async def unsubscribe(self, subscription: int) -> None:
        """DeleteSubscriptions."""


class Fetched(Enum):
    """What became of one Republish."""

    HANDED_ON = "handed on"
    NOT_AVAILABLE = "not available"
    GONE = "the subscription is gone"


@dataclass(slots=True)
class Situation:
    """What the rungs have to go by for one subscription. `feed` is None when there is none to save."""

    link: Link
    resumed: bool  # the session is the one that the subscription was in
    restarted: bool  # the server has been started since
    feed: Feed | None
    stale: int  # subscription in this session that a new one replaces; 0: none
    renew: Callable[[], Awaitable[Feed]]
    republished: int = 0
    refusals: list[str] = field(default_factory=list)
    rung: str = ""  # that it came to


async def fetch(link: Link, feed: Feed, number: int) -> Fetched:
    """Ask for one message. Raises what ends the session."""
    try:
        data, start = await link.republish(feed.subscribed.id, number)
    except UaStatusCodeError as error:
        name = status_name(error.code)
        if name in SESSION_LOST:
            raise
        return Fetched.GONE if name in GONE else Fetched.NOT_AVAILABLE
    return Fetched.HANDED_ON if await feed.republished(data, start, number) else Fetched.NOT_AVAILABLE


async def _republish(situation: Situation, numbers: Iterable[int]) -> str:
    feed = situation.feed
    assert feed is not None
    for count, number in enumerate(numbers, 1):
        fetched = await fetch(situation.link, feed, number)
        if fetched is Fetched.GONE:
            return Fetched.GONE.value
        if fetched is Fetched.NOT_AVAILABLE:
            break
        situation.republished += 1
        await feed.settled(_UNDER_WAY)
        if count == MOST_REPUBLISHED:  # numbers that the server made up: what it sends next would count as old
            return _ENDLESS
    return ""


def _from(number: int) -> Iterable[int]:
    return (following(number, steps) for steps in range(MOST_REPUBLISHED))


async def _resume(situation: Situation) -> str:
    assert situation.feed is not None
    return await _republish(situation, _from(situation.feed.expected))


async def _transfer(situation: Situation) -> str:
    feed = situation.feed
    assert feed is not None
    try:
        status, available = await situation.link.transfer(feed.subscribed.id)
    except UaStatusCodeError as error:
        status, available = int(error.code), ()
        if status_name(status) in SESSION_LOST:
            raise
    if status >> 30 >= 2:
        return status_name(status)
    feed.acknowledge_again(available)
    kept = feed.beyond(available)[:MOST_REPUBLISHED]
    return await _republish(situation, kept if available else _from(feed.expected))


async def _renew(situation: Situation) -> str:
    if situation.stale:
        with contextlib.suppress(UaStatusCodeError):  # it is gone already, and may be why we are here
            await situation.link.unsubscribe(situation.stale)
    situation.feed = await situation.renew()
    return ""


@dataclass(frozen=True, slots=True)
class Rung:
    """One row of the table above."""

    name: str
    possible: Callable[[Situation], bool]
    climb: Callable[[Situation], Awaitable[str]]  # empty, or why the server refuses


RESUMED, TRANSFERRED, RENEWED = "resumed", "transferred", "renewed"

LADDER: Final = (
    Rung(RESUMED, lambda s: s.feed is not None and s.resumed and not s.restarted, _resume),
    Rung(TRANSFERRED, lambda s: s.feed is not None and not s.resumed and not s.restarted, _transfer),
    Rung(RENEWED, lambda s: True, _renew),
)


def worst(rungs: Iterable[str]) -> str:
    """The lowest of these rungs: what a session as a whole came to."""
    order = [rung.name for rung in LADDER]
    return max(rungs, key=order.index)


async def climb(situation: Situation) -> str:
    """The name of the first rung that holds; `situation.feed` is then what to publish from."""
    for rung in LADDER:
        if not rung.possible(situation):
            continue
        refusal = await rung.climb(situation)
        if not refusal:
            return rung.name
        situation.refusals.append(f"not {rung.name}: {refusal}")
    raise AssertionError("the last rung of the ladder refuses nothing")
