"""One subscription on its way into the outlet, over all sessions that come to serve it.

A message is handed on when its turn has come (`sequence`), in one transaction with its number. Only when that is
durable it is acknowledged to the server, and only then the request that brought it is followed by another: so there
are never more messages received and not committed than requests outstanding, and while nothing can be committed the
server's queues do the waiting.

In each subscription the server also sends its clock, the *canary*: a message of which nothing else is left is not
handed on, and only its number is noted: with the next message that is, or after a while, for an idle line shall cost no
writes. Until then it is not acknowledged, so the server has it for who comes after a kill and does not know of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, Protocol

from opcua_collector.kept import SEQUENCE, Reached
from opcua_collector.services.session import CANARY, Subscribed
from opcua_collector.subscriptions.sequence import Missing, Sequence, distance, following
from opcua_collector.values.notifications import Publication, without

MOST_ACKNOWLEDGEMENTS: Final = 1000
"""Of one request."""
_MOST_QUIET: Final = 8  # messages without values that the server is left to keep


class Intake(Protocol):
    """Where messages go: `intake.Intake`."""

    def read_republished(self, data: bytes, start: int, subscription: int) -> Publication:
        """A RepublishResponse."""

    def hand_on(self, publication: Publication, positions: Mapping[str, bytes]) -> asyncio.Future[None]:
        """Take over the message; the future ends when samples and positions are durable."""

    def note(self, positions: Mapping[str, bytes | None]) -> asyncio.Future[None]:
        """Positions alone; what is noted later is durable later."""

    def note_soon(self, position: str, data: bytes, noted: Callable[[asyncio.Future[None]], None]) -> None:
        """Note a position in a while, together with others, unless it is noted with something else before."""


class _Arrival:
    """A message that has come; `durable` ends when it is in the outbox."""

    __slots__ = ("durable", "publication")

    def __init__(self, publication: Publication) -> None:
        self.publication = publication
        self.durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Feed:
    """Keeps the order of a subscription's messages and knows which may be acknowledged.

    reached: number of the last message handed on before; position: where such numbers are noted.
    """

    def __init__(self, intake: Intake, subscribed: Subscribed, reached: int = 0, position: str = SEQUENCE) -> None:
        self.subscribed = subscribed
        self.over = asyncio.Event()
        """The subscription has ended, or does nothing any more: `why`."""
        self.why = ""
        self.proofs = 0
        """How often the server has sent its clock, in this session."""
        self.flows = 0
        """How many messages with something in them came, in this session; the clock counts."""
        self.available: tuple[int, ...] = ()
        """What the server said last that it can still republish."""
        self.gap = asyncio.Event()
        """Set while messages are overdue."""
        self._intake = intake
        self._position = position
        self._order: Sequence[_Arrival] = Sequence(following(reached) if reached else 1)
        self._committed = reached
        self._acknowledge: list[int] = []
        self._quiet: list[int] = []  # numbers of messages without values that are not noted yet
        self._sweep = reached != 0
        self._under_way: deque[asyncio.Future[None]] = deque()
        self._failed = False

    @property
    def expected(self) -> int:
        """The number of the next message to hand on."""
        return self._order.expected

    @property
    def overdue(self) -> Missing | None:
        """The first messages that are known to have been sent and have not come."""
        return self._order.overdue

    @property
    def waiting(self) -> int:
        """How many messages wait for others before them."""
        return self._order.waiting

    def begin(self) -> None:
        """Another channel: what waits for others before it will be republished with them."""
        behind = following(self._committed) if self._committed else 1
        self._order.forget(behind if self._failed else self._order.expected)
        if self._failed:
            self._quiet.clear()
        self._failed = False
        self._sweep = True
        self.proofs = self.flows = 0
        self._look()

    def lose(self, why: str) -> None:
        """The subscription is of no use any more; the first reason stays."""
        if not self.over.is_set():
            self.why = why
            self.over.set()

    # --- messages ---

    def take(self, publication: Publication) -> tuple[asyncio.Future[None] | None, bool]:
        """A message with data: (what to wait for before another is asked for, whether it is a repetition)."""
        publication, proofs = without(publication, CANARY)
        self.proofs += proofs
        self.flows += bool(proofs or publication.blocks)
        arrival = _Arrival(publication)
        step = self._order.receive(publication.sequence, arrival)
        self._hand_on(step.ready)
        self._look()
        if step.repeated:
            self._again(publication.sequence)
            return None, True
        return arrival.durable, False

    def keep_alive(self, number: int) -> None:
        """A message without data, which carries the next number."""
        self._order.keep_alive(number)
        self._look()

    async def republished(self, data: bytes, start: int, number: int) -> bool:
        """The answer to a Republish of `number`: whether it was that message."""
        publication = self._intake.read_republished(data, start, self.subscribed.id)
        if publication.keep_alive or publication.sequence != number:
            return False
        self.take(publication)
        return True

    def pass_over(self) -> None:
        """Nobody has what is overdue first."""
        self._hand_on(self._order.pass_over().ready)
        self._look()

    async def settled(self, most: int = 0) -> None:
        """Wait until at most so many messages are handed on and not durable."""
        while len(self._under_way) > most:
            await asyncio.wait((self._under_way[0],))
            while self._under_way and self._under_way[0].done():
                self._under_way.popleft()

    def _hand_on(self, arrivals: Iterable[_Arrival]) -> None:
        for arrival in arrivals:
            publication = arrival.publication
            number = publication.sequence
            reached = Reached(self.subscribed.id, number).dump()
            quiet = self._quiet if number else []
            if number and _is_empty(publication):
                quiet.append(number)
                if len(quiet) < _MOST_QUIET:
                    self._intake.note_soon(self._position, reached, partial(self._is_noted, number))
                    arrival.durable.set_result(None)  # there is nothing in it that could be lost
                    continue
                durable = self._intake.note({self._position: reached})
            else:
                durable = self._intake.hand_on(publication, {self._position: reached} if number else {})
            if number:
                self._quiet = []
            self._under_way.append(durable)
            durable.add_done_callback(partial(self._is_durable, arrival, quiet))

    def _is_noted(self, number: int, noted: asyncio.Future[None]) -> None:
        """That the messages up to this one, which had no values, have come."""
        if noted.cancelled() or noted.exception() is not None:
            self._failed = True
            return
        self._acknowledge += [one for one in self._quiet if distance(one, number) >= 0]
        self._quiet = [one for one in self._quiet if distance(one, number) < 0]
        if not self._committed or distance(self._committed, number) > 0:
            self._committed = number

    def _is_durable(self, arrival: _Arrival, quiet: list[int], durable: asyncio.Future[None]) -> None:
        while self._under_way and self._under_way[0].done():
            self._under_way.popleft()
        error = asyncio.CancelledError() if durable.cancelled() else durable.exception()
        if error is not None:
            self._failed = True
        elif arrival.publication.sequence:
            self._committed = arrival.publication.sequence
            self._acknowledge += [one for one in quiet if one != self._committed]
            self._acknowledge.append(self._committed)
        if arrival.durable.done():
            return
        if error is None:
            arrival.durable.set_result(None)
        elif isinstance(error, Exception):
            arrival.durable.set_exception(error)
        else:
            arrival.durable.cancel()

    def _look(self) -> None:
        if self._order.overdue is None:
            self.gap.clear()
        else:
            self.gap.set()

    # --- acknowledgements ---

    def acknowledgements(self, most: int = MOST_ACKNOWLEDGEMENTS) -> list[tuple[int, int]]:
        """What the next request shall acknowledge: so many (subscription, number) pairs at most."""
        numbers = self._acknowledge[:most]
        del self._acknowledge[: len(numbers)]
        return [(self.subscribed.id, number) for number in numbers]

    def not_acknowledged(self, pairs: Iterable[tuple[int, int]]) -> None:
        """The request was not answered: whether it acknowledged is not known, so once more."""
        self._acknowledge[:0] = [number for _, number in pairs]

    def says(self, available: tuple[int, ...]) -> None:
        """What the server can still republish, as its latest response says."""
        self.available = available
        if self._sweep:
            self._sweep = False
            self.acknowledge_again(available)

    def acknowledge_again(self, available: Iterable[int]) -> None:
        """Of what the server still keeps, acknowledge what is in the outbox: an earlier run did not come to it."""
        for number in available:
            self._again(number)

    def beyond(self, available: Iterable[int]) -> list[int]:
        """Of what the server still keeps, the numbers that have not been handed on, in order."""
        ahead = [number for number in available if distance(self.expected, number) >= 0]
        return sorted(ahead, key=lambda number: distance(self.expected, number))

    def _again(self, number: int) -> None:
        if self._committed and number not in self._acknowledge and distance(number, self._committed) >= 0:
            self._acknowledge.append(number)


def _is_empty(publication: Publication) -> bool:
    """Whether nothing is left of a message that brought the canary."""
    return not (
        publication.blocks
        or publication.events
        or publication.status_changes
        or publication.quarantined
        or publication.lost
        or publication.damage
    )
