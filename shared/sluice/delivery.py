"""Delivery: what a stream's two ends know of each other. No sockets, no clocks: bytes and times come in as arguments.

Theory of operation
-------------------
A *stream* is one data topic, `sluice/data/<stream>`. Its producer numbers batches 1, 2, 3 … within an *epoch*, an id
that is new whenever numbering starts again. The bus keeps the order of one publisher and promises nothing else: it
loses what nobody listens to, may kill a subscription without a word, and a publish that timed out may have arrived. So

- a batch keeps its number for ever: publishing it again is harmless, the consumer drops the repeat;
- the producer *announces* the newest number it has settled (published, or given up) at least every 2 s. An announcement
  follows on the same topic what it announces, so a consumer that has seen less has lost the difference for certain,
  also at the end of the data; and a stream without announcements for 6 s means a dead producer or a dead subscription;
- the consumer keeps one cursor per stream *and epoch*. Two producers that claim the same stream, or a forged epoch,
  therefore never disturb the order of another epoch; the cursors not heard of longest are forgotten first.

What a consumer does is decided by what arrives and where it stands to the cursor of its epoch:

    arrives    stands               given on   missing                    cursor      counted
    batch      NEW_STREAM           yes        nothing: we joined here    behind it   joined
    batch      NEW_EPOCH            yes        1 … number - 1             behind it   new_epochs
    batch      NEXT                 yes        nothing                    behind it
    batch      AHEAD                yes        expected … number - 1      behind it
    batch      BEHIND               no         nothing                    stays       repeats
    announce   NEW_STREAM           -          nothing: we joined here    at newest   joined
    announce   NEW_EPOCH            -          1 … newest                 at newest   new_epochs
    announce   NEXT                 -          nothing                    stays
    announce   AHEAD                -          expected … newest          at newest
    announce   BEHIND               -          nothing                    stays       regressed; rejected

An announcement is NEXT when its newest is the number before the expected one, the usual case. One that is BEHIND may
be a late copy from an overlapping subscription; three in a row mean that the cursor is wrong (a forged number moved it,
or the producer lost its memory), and the cursor goes back to what is announced. What is missing is reported once, as a
Gap, and never waited for. Everything else that arrives, be it malformed, of another topic, or under another stream's
name, costs itself: it is counted and the reason is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Final

from sluice.batch import (
    EPOCH_PATTERN,
    STREAM_PATTERN,
    Announcement,
    BatchError,
    Columns,
    EventBatch,
    Header,
    SampleBatch,
    decode,
    encode_announcement,
)
from sluice.cutting import Cutter, cut_events

DATA_PREFIX: Final = "sluice/data/"
ANNOUNCE_EVERY: Final = 2.0
SILENT_AFTER: Final = 3 * ANNOUNCE_EVERY
MAX_STREAMS: Final = 1_000
MAX_EPOCHS: Final = 4
"""Epochs of one stream whose order is followed at the same time."""
MAX_REGRESSIONS: Final = 3
"""Announcements in a row that say less than was received, until they are believed."""
FORGET_AFTER: Final = 600.0
"""Seconds of silence after which a stream may make room for another, when MAX_STREAMS are followed."""


def data_topic(stream: str) -> str:
    """The topic on which a stream's batches and announcements travel."""
    return DATA_PREFIX + stream


def new_epoch() -> str:
    """An id that no other numbering of any stream has: 12 hex characters."""
    return os.urandom(6).hex()


# -------------------------------------------------------------------------------------------------------- the producer


@dataclass(slots=True)
class Ledger:
    """Where the samples (or events) of one stream went: received = filtered + published + dropped + in flight."""

    received: int = 0
    filtered: int = 0
    """Left out on purpose: what the configuration, or the protocol's rules, do not want."""
    published: int = 0
    dropped: int = 0
    too_large: int = 0
    """Published without their value, because they alone exceed a frame."""
    batches: int = 0
    bytes: int = 0
    newest: int = 0

    def filter(self, count: int) -> None:
        """Note samples that were received and left out on purpose."""
        self.received += count
        self.filtered += count

    def drop(self, count: int) -> None:
        """Note samples that were received and could not be read."""
        self.received += count
        self.dropped += count

    @property
    def in_flight(self) -> int:
        """Received and not settled yet."""
        return self.received - self.filtered - self.published - self.dropped

    def as_dict(self) -> dict[str, int]:
        """For the status."""
        return {**asdict(self), "in_flight": self.in_flight}


@dataclass(frozen=True, slots=True)
class Frame:
    """One encoded batch: the bytes that are published, unchanged, as often as it takes."""

    seq: int
    samples: int
    payload: bytes


class Producer:
    """The sending end of one stream: numbers, encodes, announces, and keeps the ledger.

    Every frame that add or add_events gives is settled by the caller in order: `sent`, or `lost` when it gave up.
    """

    def __init__(
        self,
        stream: str,
        epoch: str,
        *,
        max_bytes: int,
        compress: bool = True,
        announce_every: float = ANNOUNCE_EVERY,
    ) -> None:
        if not STREAM_PATTERN.fullmatch(stream):
            raise ValueError(f"stream {stream!r} is not <producer>/<source>, with /backfill or /events")
        if not EPOCH_PATTERN.fullmatch(epoch):
            raise ValueError(f"epoch {epoch!r} is not 12 hex characters")
        self.stream = stream
        self.epoch = epoch
        self.topic = data_topic(stream)
        self.announce_every = announce_every
        self.ledger = Ledger()
        self._max_bytes = max_bytes
        self._compress = compress
        self._cutter = Cutter(max_bytes, compress=compress)
        self._next = 1
        self._settled = 0
        self._announced: float | None = None

    def resize(self, max_bytes: int, *, compress: bool) -> None:
        """Cut and encode what comes from now on in another way; numbering goes on."""
        self._max_bytes = max_bytes
        self._compress = compress
        self._cutter = Cutter(max_bytes, compress=compress)

    def add(self, columns: Columns) -> list[Frame]:
        """Number and encode samples, cut to the frame size. Raises BatchError for columns that cannot be encoded;
        no number is spent then and the samples are counted as dropped."""
        self.ledger.received += len(columns)
        try:
            parts = list(self._cutter.parts(columns, self._header()))
        except BatchError:
            self.ledger.dropped += len(columns)
            raise
        frames = []
        for part in parts:
            if part.payload is None:
                self.ledger.dropped += len(part.columns)
                continue
            self.ledger.too_large += part.too_large
            frames.append(Frame(part.seq, len(part.columns), part.payload))
        return self._numbered(frames)

    def add_events(self, events: Sequence[Mapping[str, Any]]) -> list[Frame]:
        """Number and encode events, likewise."""
        self.ledger.received += len(events)
        first = self._header()
        try:
            payloads = list(cut_events(events, self._max_bytes, first, compress=self._compress))
        except BatchError:
            self.ledger.dropped += len(events)
            raise
        return self._numbered([Frame(first.seq + i, count, payload) for i, (count, payload) in enumerate(payloads)])

    def sent(self, frame: Frame) -> None:
        """The bus took the frame."""
        self.ledger.published += frame.samples
        self.ledger.batches += 1
        self.ledger.bytes += len(frame.payload)
        self._settled = frame.seq

    def lost(self, frame: Frame) -> None:
        """The frame was given up: its consumers will report the gap, and the ledger does."""
        self.ledger.dropped += frame.samples
        self._settled = frame.seq

    def due_in(self, now: float) -> float:
        """Seconds until the next announcement."""
        return 0.0 if self._announced is None else max(0.0, self._announced + self.announce_every - now)

    def announcement(self, now: float) -> bytes | None:
        """The announcement to publish now, or None while the last one is fresh."""
        if self.due_in(now) > 0.0:
            return None
        self._announced = now
        # Nothing is kept for a replay: the oldest batch to be had is the one not made yet.
        return encode_announcement(Announcement(self.stream, self.epoch, self._settled + 1, self._settled))

    def _header(self) -> Header:
        return Header(self.stream, self.epoch, self._next)

    def _numbered(self, frames: list[Frame]) -> list[Frame]:
        self._next += len(frames)
        self.ledger.newest = self._next - 1
        return frames


# -------------------------------------------------------------------------------------------------------- the consumer


class _Kind(Enum):
    BATCH = "batch"
    ANNOUNCE = "announce"


class _Stands(Enum):
    NEW_STREAM = "new stream"
    NEW_EPOCH = "new epoch"
    NEXT = "next"
    AHEAD = "ahead"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True)
class _Rule:
    gives: bool
    """The batch is given on."""
    moves: bool
    """The cursor moves behind what arrived."""
    counts: str = ""
    rejects: bool = False


_RULES: Final[Mapping[tuple[_Kind, _Stands], _Rule]] = {
    (_Kind.BATCH, _Stands.NEW_STREAM): _Rule(gives=True, moves=True, counts="joined"),
    (_Kind.BATCH, _Stands.NEW_EPOCH): _Rule(gives=True, moves=True, counts="new_epochs"),
    (_Kind.BATCH, _Stands.NEXT): _Rule(gives=True, moves=True),
    (_Kind.BATCH, _Stands.AHEAD): _Rule(gives=True, moves=True),
    (_Kind.BATCH, _Stands.BEHIND): _Rule(gives=False, moves=False, counts="repeats"),
    (_Kind.ANNOUNCE, _Stands.NEW_STREAM): _Rule(gives=False, moves=True, counts="joined"),
    (_Kind.ANNOUNCE, _Stands.NEW_EPOCH): _Rule(gives=False, moves=True, counts="new_epochs"),
    (_Kind.ANNOUNCE, _Stands.NEXT): _Rule(gives=False, moves=False),
    (_Kind.ANNOUNCE, _Stands.AHEAD): _Rule(gives=False, moves=True),
    (_Kind.ANNOUNCE, _Stands.BEHIND): _Rule(gives=False, moves=False, counts="regressed", rejects=True),
}


@dataclass(frozen=True, slots=True)
class Gap:
    """Batches first to last of a stream's epoch that never arrived."""

    stream: str
    epoch: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Received:
    """What came of one message."""

    batches: tuple[SampleBatch | EventBatch, ...] = ()
    """To be worked on, in order."""
    gaps: tuple[Gap, ...] = ()
    new_epoch: str | None = None
    """The stream's numbering started again: its producer was replaced."""
    rejected: str | None = None
    """Why the message was not believed: for people, one line."""


@dataclass(slots=True)
class _Followed:
    """One stream as the consumer knows it: per epoch the number it expects next, the epoch heard of last at the end."""

    heard: float
    expected: dict[str, int] = field(default_factory=dict)
    regressions: int = 0


_COUNTERS: Final = (
    "batches",
    "samples",
    "events",
    "announcements",
    "joined",
    "new_epochs",
    "gaps",
    "missing",
    "repeats",
    "regressed",
    "malformed",
    "foreign",
    "forged",
    "refused",
)


class Consumer:
    """The receiving end of all streams that one consumer follows: order, repeats, gaps.

    counters: `missing` are batches inside gaps; `malformed` payloads are no batch, `foreign` ones come on no data
    topic, `forged` ones name another stream than their topic, `refused` ones belong to a stream beyond max_streams.
    """

    def __init__(self, *, max_streams: int = MAX_STREAMS) -> None:
        self.counters: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._max_streams = max_streams
        self._streams: dict[str, _Followed] = {}

    def receive(self, topic: str, payload: bytes, now: float) -> Received:
        """Take one message from the bus. Never raises for what the message holds."""
        if not topic.startswith(DATA_PREFIX):
            return self._rejected("foreign", f"message on {topic!r:.200}, which is no data topic")
        try:
            message = decode(payload)
        except BatchError as error:
            return self._rejected("malformed", f"message on {topic!r:.200}: {error}")
        of = message if isinstance(message, Announcement) else message.header
        if data_topic(of.stream) != topic:
            return self._rejected("forged", f"message on {topic!r:.200} claims to be of stream {of.stream!r}")
        known = of.stream in self._streams
        followed = self._follow(of.stream, now)
        if followed is None:
            return self._rejected("refused", f"stream {of.stream!r} is beyond the {self._max_streams} followed")
        return self._advance(followed, known, message)

    def silent(self, now: float) -> list[str]:
        """Streams of which nothing was heard for SILENT_AFTER seconds: no producer, or no subscription any more."""
        return sorted(stream for stream, followed in self._streams.items() if now - followed.heard > SILENT_AFTER)

    def forget(self, unwanted: Callable[[str], bool]) -> None:
        """Forget the streams of unwanted data topics: when they come again, what was missed meanwhile is no gap."""
        for stream in [stream for stream in self._streams if unwanted(data_topic(stream))]:
            del self._streams[stream]

    def cursors(self) -> dict[str, dict[str, Any]]:
        """Per stream the epoch heard of last and the newest number seen in it, for the status."""
        return {
            stream: {"epoch": epoch, "newest": followed.expected[epoch] - 1}
            for stream, followed in self._streams.items()
            for epoch in [next(reversed(followed.expected))]
        }

    def _follow(self, stream: str, now: float) -> _Followed | None:
        followed = self._streams.get(stream)
        if followed is None:
            if len(self._streams) >= self._max_streams:
                quietest = min(self._streams, key=lambda name: self._streams[name].heard, default=None)
                if quietest is None or now - self._streams[quietest].heard <= FORGET_AFTER:
                    return None
                del self._streams[quietest]
            followed = self._streams[stream] = _Followed(now)
        followed.heard = now
        return followed

    def _advance(self, followed: _Followed, known: bool, message: SampleBatch | EventBatch | Announcement) -> Received:
        """Apply the rules: move the cursor, say what is missing, give on what is new."""
        of: Header | Announcement
        if isinstance(message, Announcement):
            kind, of, number = _Kind.ANNOUNCE, message, message.newest + 1
            behind = number
        else:
            kind, of, number = _Kind.BATCH, message.header, message.header.seq
            behind = number + 1
        expected = followed.expected.pop(of.epoch, None)
        stands = _stands(known, expected, number)
        rule = _RULES[kind, stands]
        if rule.counts:
            self.counters[rule.counts] += 1
        if expected is None:
            expected = 1 if known else number
        followed.expected[of.epoch] = behind if rule.moves else expected
        if len(followed.expected) > MAX_EPOCHS:
            del followed.expected[next(iter(followed.expected))]
        if rule.rejects:
            return self._regressed(followed, of, expected, number)
        if stands is not _Stands.BEHIND:
            followed.regressions = 0
        gap = Gap(of.stream, of.epoch, expected, number - 1) if expected < number else None
        if gap is not None:
            self.counters["gaps"] += 1
            self.counters["missing"] += len(gap)
        given: tuple[SampleBatch | EventBatch, ...] = ()
        if isinstance(message, Announcement):
            self.counters["announcements"] += 1
        elif rule.gives:
            given = (message,)
            self._count(message)
        return Received(given, () if gap is None else (gap,), of.epoch if stands is _Stands.NEW_EPOCH else None)

    def _regressed(self, followed: _Followed, of: Header | Announcement, expected: int, number: int) -> Received:
        followed.regressions += 1
        if followed.regressions >= MAX_REGRESSIONS:
            followed.regressions = 0
            followed.expected[of.epoch] = number
        told = f"stream {of.stream!r} announces {number - 1} as its newest batch, but {expected - 1} was received"
        return Received(rejected=told)

    def _count(self, batch: SampleBatch | EventBatch) -> None:
        self.counters["batches"] += 1
        if isinstance(batch, SampleBatch):
            self.counters["samples"] += len(batch.columns)
        else:
            self.counters["events"] += len(batch.events)

    def _rejected(self, counter: str, told: str) -> Received:
        self.counters[counter] += 1
        return Received(rejected=told)


def _stands(known: bool, expected: int | None, number: int) -> _Stands:
    """Where a message stands with this number: its own, or the one that an announcement says comes next."""
    if not known:
        return _Stands.NEW_STREAM
    if expected is None:
        return _Stands.NEW_EPOCH
    if number == expected:
        return _Stands.NEXT
    return _Stands.AHEAD if number > expected else _Stands.BEHIND
