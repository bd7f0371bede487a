"""A consumer as a whole: which streams it follows, what it asks for when, what it tells their producers. Sans-I/O.

What arrives is offered to every reader, whoever asked for it. For a reader that is behind and has room it asks: once at
a time per stream, because the answer moves the cursors that the next ask depends on; again when nothing of the answer
came for 2 s; for readers at different places in turn. Cursors are told every 2 s, and at once when one has moved far or
there is something to ask.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sluice.batch import LITE_MAX_MESSAGE_BYTES, Announcement, EventBatch, SampleBatch
from sluice.cursors import Ask, Cursor, ack_topic, encode_cursors
from sluice.delivery import LIVE_WINDOW, MAX_STREAMS, SILENT_AFTER, Consumer, Gap, Message

logger = logging.getLogger(__name__)

ANSWER_WITHIN: Final = 2.0
"""Seconds without anything of an answer until it is asked for again."""
MAX_WINDOW: Final = 1_000_000
"""Bytes that one answer may have."""
_TOLD_BEHIND: Final = LIVE_WINDOW // 4
"""Batches by which a cursor moves until the producer is told at once."""
_RECENT_GAPS: Final = 20


class Reader(Protocol):
    """One sink inside a consumer."""

    consumer: Consumer

    def has_room(self) -> bool:
        """False: it is offered nothing, and is behind until it has room again."""

    def take(self, batch: SampleBatch | EventBatch) -> None:
        """Work on the next batch: in order, each once per run. Never raises, never blocks."""

    def missed(self, gap: Gap) -> None:
        """The producer does not have these any more; the cursor is behind them."""

    def acknowledged(self, stream: str, epoch: str) -> int | None:
        """Up to which number it may be deleted; None: this reader does not care."""


@dataclass(slots=True)
class _Asked:
    """The latest ask of one stream."""

    reader: str
    epoch: str
    first: int
    at: float
    heard: float
    """When something of the answer came, or it was asked."""
    unheard: float
    """Since when nothing came, however often it was asked."""
    open: bool = True


class Demand:
    """When a consumer asks for what: one ask at a time per stream, again after 2 s without an answer, readers in turn.

    window: bytes of one answer; most: asks that may be open at a time, so that their answers fit a queue.
    """

    def __init__(self, window: int = MAX_WINDOW, *, most: int = 8) -> None:
        self.window = window
        self.counters: dict[str, int] = dict.fromkeys(("asks", "unanswered"), 0)
        self._most = most
        self._asked: dict[str, _Asked] = {}

    def arrived(self, message: Message, now: float) -> None:
        """Note a message of a replay topic: a part of an answer, or its end."""
        asked = self._asked.get(message.stream)
        if asked is None or not message.replayed or message.of.epoch != asked.epoch:
            return
        asked.heard = asked.unheard = now
        if isinstance(message.body, Announcement) and message.body.newest >= asked.first - 1:
            asked.open = False

    def may_ask(self, stream: str, now: float) -> bool:
        """Whether an ask of this stream would go out now: none is open."""
        asked = self._asked.get(stream)
        return asked is None or not asked.open or now - asked.heard >= ANSWER_WITHIN

    def ask(self, stream: str, epoch: str, places: Mapping[str, int], now: float) -> Ask | None:
        """What to ask of a stream whose readers (by name) want these numbers, which exist; None: nothing at present."""
        if not places:
            self._asked.pop(stream, None)
            return None
        asked = self._asked.get(stream)
        unheard = now
        if asked is not None and asked.epoch == epoch:
            if asked.open and now - asked.heard < ANSWER_WITHIN:
                return None
            turn = _next_turn(places, asked.reader)
            if not asked.open and places[turn] == asked.first and now - asked.at < ANSWER_WITHIN:
                return None  # the answer brought nothing: not again at once
            if asked.open:
                self.counters["unanswered"] += 1
                unheard = asked.unheard
        else:
            turn = min(places)
        # Whoever did not answer an earlier ask is asked again, and keeps nobody else from being asked.
        if sum(of.open and now - of.unheard < ANSWER_WITHIN for of in self._asked.values()) >= self._most:
            return None
        self._asked[stream] = _Asked(turn, epoch, places[turn], now, now, unheard)
        self.counters["asks"] += 1
        return Ask(stream, epoch, places[turn], self.window)

    def waits_since(self, now: float) -> float:
        """Seconds for which the ask that waits longest has had no answer; 0: none is open."""
        return max((now - of.unheard for of in self._asked.values() if of.open), default=0.0)

    def asked_at(self, stream: str) -> float:
        """When the stream was asked for last, so that those that waited longest come first."""
        asked = self._asked.get(stream)
        return 0.0 if asked is None else asked.at

    def due_in(self, now: float) -> float | None:
        """Seconds until an ask is to be repeated; None: none is open."""
        dues = [of.heard + ANSWER_WITHIN - now for of in self._asked.values() if of.open]
        return max(0.0, min(dues)) if dues else None

    def forget(self, unwanted: Callable[[str], bool]) -> None:
        """Ask no more for streams that are not wanted any more."""
        for stream in [stream for stream in self._asked if unwanted(stream)]:
            del self._asked[stream]


def _next_turn(places: Mapping[str, int], last: str) -> str:
    """The reader whose turn it is after `last`, in the order of their names."""
    later = [name for name in places if name > last]
    return min(later) if later else min(places)


# ------------------------------------------------------------------------------------------------------- the consumer


@dataclass(slots=True)
class _Followed:
    """One stream: what was announced of it, and what its producer was told last."""

    epoch: str
    newest: int
    heard: float
    told: Cursor | None = None


class Following:
    """The streams that one consumer follows for its readers.

    window, most: as in Demand. Cursors fit the frame of nucleus lite, whatever the nucleus: they are small anyway.
    """

    def __init__(self, consumer_id: str, *, window: int = MAX_WINDOW, most: int = 8) -> None:
        self.readers: dict[str, Reader] = {}
        self.demand = Demand(window, most=most)
        self.gaps: deque[Gap] = deque(maxlen=_RECENT_GAPS)
        """The latest gaps, for the status."""
        self.failed = 0
        """How often a reader raised what it must not."""
        self._consumer_id = consumer_id
        self._streams: dict[str, _Followed] = {}

    def offer(self, message: Message, now: float) -> bool:
        """Offer a message to every reader. Whether there is something to tell at once."""
        stream, body = message.stream, message.body
        self.demand.arrived(message, now)
        if isinstance(body, Announcement) and not message.replayed:
            self._follow(stream, body.epoch, body.newest, now)
        behind = False
        for name, reader in self.readers.items():
            room = reader.has_room()
            received = reader.consumer.offer(message, now, room)
            if received.told is not None:
                logger.warning("%s: %s", name, received.told)
            if received.gap is not None:
                self.gaps.append(received.gap)
                self._guarded(reader.missed, received.gap)
            if received.batch is not None:
                self._guarded(reader.take, received.batch)
            behind = behind or (room and reader.consumer.wants(stream, message.of.epoch) is not None)
        if behind and stream not in self._streams and not (isinstance(body, Announcement) or message.replayed):
            # After a restart: it says itself that those before it exist, and nobody has to wait for an announcement.
            self._follow(stream, body.header.epoch, body.header.seq, now)
        followed = self._streams.get(stream)
        if followed is None:
            return False
        moved = followed.told is None or self._furthest(stream, followed.epoch) - followed.told.next >= _TOLD_BEHIND
        return moved or (behind and self.demand.may_ask(stream, now))

    def tell(self, now: float, *, everything: bool) -> list[tuple[str, bytes]]:
        """What to publish: the cursors of all streams, or of those that moved far, and what there is to ask."""
        cursors: dict[str, dict[str, Cursor]] = {}
        asks: dict[str, list[Ask]] = {}
        for stream in sorted(self._streams, key=self.demand.asked_at):  # not all can be asked for at a time
            followed = self._streams[stream]
            producer = stream.partition("/")[0]
            ask = self.demand.ask(stream, followed.epoch, self._places(stream, followed), now)
            if ask is not None:
                asks.setdefault(producer, []).append(ask)
            cursor = self._cursor(stream, followed.epoch)
            if cursor is not None and (everything or ask is not None or _moved_far(followed.told, cursor)):
                cursors.setdefault(producer, {})[stream] = cursor
                followed.told = cursor
        return [
            (ack_topic(producer, self._consumer_id), payload)
            for producer in {**cursors, **asks}
            for payload in encode_cursors(
                self._consumer_id,
                cursors.get(producer, {}),
                asks.get(producer, ()),
                max_bytes=LITE_MAX_MESSAGE_BYTES,
            )
        ]

    def forget(self, unwanted: Callable[[str], bool]) -> None:
        """Ask and tell no more about streams that are not wanted. Cursors stay, in case they are wanted again."""
        for stream in [stream for stream in self._streams if unwanted(stream)]:
            del self._streams[stream]
        self.demand.forget(unwanted)

    def status(self, now: float) -> dict[str, Any]:
        """Streams, who is silent, what each reader counted, and the latest gaps."""
        return {
            **self.demand.counters,
            "silent": sorted(name for name, of in self._streams.items() if now - of.heard > SILENT_AFTER),
            "streams": {name: {"epoch": of.epoch, "newest": of.newest} for name, of in self._streams.items()},
            "readers": {
                name: {count: n for count, n in reader.consumer.counters.items() if n}
                for name, reader in self.readers.items()
            },
            "recent_gaps": [f"{gap.stream} {gap.epoch} {gap.first}-{gap.last}" for gap in self.gaps],
        }

    def _follow(self, stream: str, epoch: str, newest: int, now: float) -> None:
        """These numbers of a stream exist."""
        followed = self._streams.get(stream)
        if followed is None:
            if len(self._streams) >= MAX_STREAMS:
                quietest = min(self._streams, key=lambda name: self._streams[name].heard)
                if now - self._streams[quietest].heard <= SILENT_AFTER:
                    return
                del self._streams[quietest]
            followed = self._streams[stream] = _Followed(epoch, newest, now)
        if followed.epoch != epoch:
            followed.told = None
        followed.epoch, followed.newest, followed.heard = epoch, newest, now

    def _places(self, stream: str, followed: _Followed) -> dict[str, int]:
        """The numbers that readers with room want and that exist, by reader."""
        places: dict[str, int] = {}
        for name, reader in self.readers.items():
            number = reader.consumer.next(stream, followed.epoch)
            exists = number is not None and (
                number <= followed.newest or reader.consumer.wants(stream, followed.epoch) is not None
            )
            if number is not None and exists and reader.has_room():
                places[name] = number
        return places

    def _cursor(self, stream: str, epoch: str) -> Cursor | None:
        """What all readers together are done with, and what the furthest wants; None: nobody follows it yet."""
        furthest = self._furthest(stream, epoch)
        acked: list[int] = []
        for reader in self.readers.values():
            wanted = reader.consumer.next(stream, epoch)
            done = reader.acknowledged(stream, epoch)
            if done is not None:  # who has not heard of the epoch yet is done with nothing of it
                acked.append(0 if wanted is None else max(0, min(done, wanted - 1)))
        return Cursor(epoch, min(acked, default=furthest - 1), furthest) if furthest else None

    def _furthest(self, stream: str, epoch: str) -> int:
        return max((reader.consumer.next(stream, epoch) or 0 for reader in self.readers.values()), default=0)

    def _guarded(self, call: Callable[[Any], None], what: Any) -> None:
        try:
            call(what)
        except Exception:
            self.failed += 1
            logger.exception("A reader failed")


def _moved_far(told: Cursor | None, cursor: Cursor) -> bool:
    if told is None or told.epoch != cursor.epoch:
        return True
    return max(cursor.next - told.next, cursor.acked - told.acked) >= _TOLD_BEHIND
