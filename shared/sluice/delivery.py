"""Delivery: what a stream's two ends know of each other. No sockets, no clocks: bytes and times come in as arguments.

Theory of operation
-------------------
A *stream* is one data topic, `sluice/data/<stream>`. Its producer numbers batches 1, 2, 3 … within an *epoch*, an id
that is new whenever numbering starts again. The bus keeps the order of one publisher and promises nothing else: it
loses what nobody listens to, may kill a subscription without a word, and a publish that timed out may have arrived. So

- a batch keeps its number for ever. The producer *stores* it, and only then shows it to anybody: what a consumer has
  seen survives every crash of the producer, and a number never means two different batches;
- the producer publishes a batch *live* once. Whether it arrived is found out by the *announcement* (epoch, oldest
  number kept, newest number offered) that follows on the same topic at least every 2 s: who has seen less has missed
  the difference for certain. A stream without announcements for 6 s means a dead producer or a dead subscription;
- a *consumer* has a stable name, and inside it one or more *readers*, each with a cursor per stream and epoch: the
  number it wants next. A reader takes exactly that number and drops all others. Who wants a number that exists *asks*
  for it; the answer is kept batches on the topic `sluice/replay/<consumer>/<stream>`, ended by an announcement there;
- the consumer tells its cursors every 2 s on `sluice/ack/<producer>/<consumer>`: up to where all of it may be deleted,
  and what its furthest reader wants. That registers it, and a batch is kept until every registered consumer is done
  with it. A consumer can tell cursors only under the name that the topic ends with, which the nucleus guards.

What a reader does is decided by what arrives and where it stands to the reader's cursor in its epoch:

    arrives            stands                         given   cursor          counted
    batch              UNKNOWN epoch                  no      -               unannounced
    batch              NEXT, and there is room        yes     behind it
    batch              NEXT, and there is no room     no      stays           no_room
    batch              AHEAD                          no      stays           ahead
    batch              BEHIND                         no      stays           repeats
    announce           UNKNOWN stream                 -       at its oldest   joined
    announce           UNKNOWN epoch                  -       at its oldest   new_epochs
    announce           LOST: oldest is ahead          -       at its oldest   gaps, missing: a Gap is reported
    announce           COVERED: oldest … newest + 1   -       stays
    announce           BELOW: newest + 1 is behind    -       stays           the third in a row: regressed
    replay's announce  UNKNOWN                        -       -               unannounced
    replay's announce  LOST, COVERED                  as above
    replay's announce  BELOW                          -       stays

One BELOW may be a late copy from an overlapping subscription, so copies within a second count once; three in a row mean
that the cursor is wrong (a forged number moved it, or the producer's disk lost what it had promised to keep), and the
cursor goes back behind what is announced. An answer to one reader ends BELOW the cursor of another that is further.

What a producer does with the cursors that a consumer tells of a stream:

    cursors                                         effect                                   counted
    of another epoch                                none; the epoch is announced anew        unknown_epoch
    acked, or next - 1, beyond the newest stored    none                                     future
    of one consumer more than MAX_CONSUMERS         none                                     crowded
    else                                            registered; what all are done with goes

Everything else that arrives, be it malformed, of another topic or under another's name, costs itself: it is counted and
the reason is given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from sluice.cursors import Cursor, MessageError
from sluice.cutting import Cutter, cut_events

DATA_PREFIX: Final = "sluice/data/"
REPLAY_PREFIX: Final = "sluice/replay/"
ANNOUNCE_EVERY: Final = 2.0
SILENT_AFTER: Final = 3 * ANNOUNCE_EVERY
LIVE_WINDOW: Final = 1_000
"""Batches that the best consumer may be behind before live publishing is a waste of the bus."""
HEARD_WITHIN: Final = 10.0
"""Seconds for which a consumer's cursors say where it stands."""
MAX_STREAMS: Final = 1_000
MAX_EPOCHS: Final = 4
"""Epochs of one stream whose order is followed at the same time."""
MAX_CONSUMERS: Final = 32
MAX_REGRESSIONS: Final = 3
"""Announcements in a row that say less than was received, until they are believed."""
FORGET_AFTER: Final = 600.0
"""Seconds of silence after which a stream does not count among the MAX_STREAMS that are followed."""
EXPIRY_UPTIME: Final = 600.0
"""Seconds for which a consumer must have been silent before our eyes, whatever the clock says, before it expires."""
_MAX_HELD: Final = 4_096


def data_topic(stream: str) -> str:
    """The topic on which a stream's batches and announcements travel."""
    return DATA_PREFIX + stream


def replay_topic(consumer: str, stream: str) -> str:
    """The topic on which a consumer gets what it asked for."""
    return f"{REPLAY_PREFIX}{consumer}/{stream}"


# -------------------------------------------------------------------------------------------------------- the producer


@dataclass(slots=True)
class Ledger:
    """Where the samples (or events) of one stream went: received = filtered + stored + dropped + in flight."""

    received: int = 0
    filtered: int = 0
    """Left out on purpose: what the configuration, or the protocol's rules, do not want."""
    stored: int = 0
    """In the outbox, or acknowledged by every consumer and deleted."""
    dropped: int = 0
    """Could not be read or encoded, or had to make room when the outbox was full."""
    too_large: int = 0
    """Stored without their value, because they alone exceed a frame."""
    batches: int = 0
    bytes: int = 0

    @property
    def in_flight(self) -> int:
        """Received, and not committed yet."""
        return self.received - self.filtered - self.stored - self.dropped

    def settled(self) -> dict[str, int]:
        """The ledger as it is once everything in flight is committed: what is written along with it."""
        return {**{name: getattr(self, name) for name in self.__slots__}, "stored": self.stored + self.in_flight}


@dataclass(frozen=True, slots=True)
class Frame:
    """One encoded batch: the bytes that are stored and published, unchanged, as often as it takes."""

    seq: int
    samples: int
    payload: bytes


@dataclass(slots=True)
class Registration:
    """What a producer knows of one consumer of a stream."""

    acked: int
    heard: float
    """Seconds since 1970, of the last cursors."""
    next: int = 1
    seen: float | None = None
    """The same by the steady clock; None: not in this run."""


class Producer:
    """The sending end of one stream: numbers, encodes, announces, retains, and keeps the ledger.

    Frames that add or add_events gives are stored by the caller in that order and settled by `stored`; then they are
    published as far as `live` allows, and `offered` is told what was.
    """

    def __init__(
        self,
        stream: str,
        epoch: str,
        *,
        max_bytes: int,
        compress: bool = True,
        number: int = 1,
        ledger: Mapping[str, int] | None = None,
        consumers: Mapping[str, Registration] | None = None,
        named: Collection[str] = (),
        expiry: float = 7 * 86_400.0,
        now: float = 0.0,
    ) -> None:
        """number: the next one; ledger and consumers: as an earlier run left them; named: consumers that never expire;
        now: the steady clock."""
        if not STREAM_PATTERN.fullmatch(stream):
            raise ValueError(f"stream {stream!r} is not <producer>/<source>, with /backfill or /events")
        if not EPOCH_PATTERN.fullmatch(epoch):
            raise ValueError(f"epoch {epoch!r} is not 12 hex characters")
        self.stream = stream
        self.epoch = epoch
        self.topic = data_topic(stream)
        known = {name: count for name, count in (ledger or {}).items() if name in Ledger.__slots__}
        self.ledger = Ledger(**known)
        self.counters: dict[str, int] = dict.fromkeys(("unknown_epoch", "future", "crowded", "expired"), 0)
        self.consumers: dict[str, Registration] = dict(consumers or {})
        self.named = frozenset(named)
        self.expiry = expiry
        self.keep_after: int | None = None
        """Batches above this number are kept although everybody is done with them."""
        self.newest = number - 1
        """The newest number assigned."""
        self.durable = number - 1
        """The newest number stored."""
        self._shown = number - 1
        self._started = now
        self._held: deque[tuple[int, int]] = deque(maxlen=_MAX_HELD)
        self.resize(max_bytes, compress=compress)

    def resize(self, max_bytes: int, *, compress: bool) -> None:
        """Cut and encode what comes from now on in another way; numbering goes on."""
        self._max_bytes = max_bytes
        self._compress = compress
        self._cutter = Cutter(max_bytes, compress=compress)

    # --- what comes in ---

    def filter(self, count: int) -> None:
        """Note samples that were received and left out on purpose."""
        self.ledger.received += count
        self.ledger.filtered += count

    def drop(self, count: int) -> None:
        """Note samples that were received and could not be read."""
        self.ledger.received += count
        self.ledger.dropped += count

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

    def stored(self, frames: Sequence[Frame]) -> None:
        """The frames are committed: from now on they may be shown."""
        for frame in frames:
            self.ledger.stored += frame.samples
            self._held.append((frame.seq, frame.samples))
            self.durable = frame.seq

    def lost(self, frames: Sequence[Frame]) -> None:
        """The frames could not be stored for a reason that waiting does not mend: their numbers stay empty."""
        for frame in frames:
            self.ledger.dropped += frame.samples
            self.durable = frame.seq

    def evicted(self, first: int, last: int, samples: int) -> tuple[int, int, int] | None:
        """The outbox deleted these to make room. What of it was lost: what not every consumer was done with."""
        done = self.release()
        if last <= done:
            return None
        samples -= sum(count for seq, count in self._held if first <= seq <= done)
        self._forget(last)
        self.ledger.stored -= samples
        self.ledger.dropped += samples
        return max(first, done + 1), last, samples

    # --- what goes out ---

    def live(self, now: float) -> bool:
        """Whether to publish what is stored just now: unless all consumers are so far behind that they must ask."""
        heard = [of.next for of in self.consumers.values() if of.seen is not None and now - of.seen <= HEARD_WITHIN]
        return not heard or max(heard) >= self.durable + 1 - LIVE_WINDOW

    def offered(self, number: int) -> None:
        """Everything up to number was published, or is left to replays."""
        self._shown = max(self._shown, number)

    def announcement(self, oldest: int, newest: int | None = None) -> bytes:
        """The announcement to publish now; on a replay topic newest is the last batch of the answer."""
        if newest is None:
            newest = self._shown
        return encode_announcement(Announcement(self.stream, self.epoch, oldest, max(newest, oldest - 1)))

    def instead(self, number: int, reason: str) -> bytes:
        """An events batch in the place of one that cannot be had any more, so that nobody waits for it for ever."""
        event = {"kind": "gap", "reason": reason, "stream": self.stream, "first": number, "last": number}
        header = Header(self.stream, self.epoch, number)
        ((_, payload),) = cut_events([event], self._max_bytes, header, compress=False)
        return payload

    # --- who is done with what ---

    def take(self, consumer: str, cursor: Cursor, now: float, wall: float) -> str | None:
        """Register what a consumer told. Why it is refused, or None. now: steady clock; wall: seconds since 1970."""
        if cursor.epoch != self.epoch:
            self.counters["unknown_epoch"] += 1
            return f"epoch {cursor.epoch} of stream {self.stream!r} is not known: the present one is {self.epoch}"
        if max(cursor.acked, cursor.next - 1) > self.durable:
            self.counters["future"] += 1
            beyond = max(cursor.acked, cursor.next - 1)
            return f"number {beyond} of stream {self.stream!r} does not exist yet: the newest is {self.durable}"
        if consumer not in self.consumers and len(self.consumers) >= MAX_CONSUMERS:
            self.counters["crowded"] += 1
            return f"stream {self.stream!r} has {MAX_CONSUMERS} consumers already"
        self.consumers[consumer] = Registration(cursor.acked, wall, cursor.next, now)
        return None

    def expire(self, now: float, wall: float) -> list[str]:
        """Forget consumers that were not heard of for too long; their names.

        A clock that jumps expires nobody: a consumer must also have been silent for a while since we run.
        """
        gone = [
            name
            for name, of in self.consumers.items()
            if name not in self.named
            and wall - of.heard > self.expiry
            and now - (self._started if of.seen is None else of.seen) > min(EXPIRY_UPTIME, self.expiry)
        ]
        for name in gone:
            del self.consumers[name]
            self.counters["expired"] += 1
        return gone

    def release(self) -> int:
        """Everybody who must have it is done with everything up to this number."""
        if self.named - self.consumers.keys():
            return 0  # one that was never heard of, and never expires
        return min((of.acked for of in self.consumers.values()), default=0)

    def delete_to(self) -> int:
        """Everything up to this number may be deleted."""
        number = self.release()
        if self.keep_after is not None:
            number = min(number, self.keep_after)
        self._forget(number)
        return number

    def told(self, kept: int) -> dict[str, int]:
        """The ledger for the status. kept: samples in the outbox, also those that are there for `keep_after` alone."""
        done = self.release()
        kept -= sum(samples for seq, samples in self._held if seq <= done)
        return {
            **asdict(self.ledger),
            "in_flight": self.ledger.in_flight,
            "acknowledged": self.ledger.stored - kept,
            "kept": kept,
            "unconsumed": 0 if self.consumers else kept,
            "newest": self.newest,
        }

    def _forget(self, number: int) -> None:
        while self._held and self._held[0][0] <= number:
            self._held.popleft()

    def _header(self) -> Header:
        return Header(self.stream, self.epoch, self.newest + 1)

    def _numbered(self, frames: list[Frame]) -> list[Frame]:
        self.newest += len(frames)
        self.ledger.batches += len(frames)
        self.ledger.bytes += sum(len(frame.payload) for frame in frames)
        return frames


# -------------------------------------------------------------------------------------------------------- the consumer


@dataclass(frozen=True, slots=True)
class Message:
    """What came on a data topic, or (`replayed`) on the consumer's own replay topic."""

    body: SampleBatch | EventBatch | Announcement
    replayed: bool = False

    @property
    def stream(self) -> str:
        """The stream that it is of."""
        return self.of.stream

    @property
    def of(self) -> Header | Announcement:
        """Its stream and epoch."""
        return self.body if isinstance(self.body, Announcement) else self.body.header


def parse(topic: str, payload: bytes, consumer: str) -> Message:
    """The message that arrived on a topic. Raises MessageError for anything that a consumer does not believe."""
    replays = f"{REPLAY_PREFIX}{consumer}/"
    replayed = topic.startswith(replays)
    if not replayed and not topic.startswith(DATA_PREFIX):
        raise MessageError("foreign", f"message on {topic!r:.200}, which is no data topic")
    try:
        message = Message(decode(payload), replayed)
    except BatchError as error:
        raise MessageError("malformed", f"message on {topic!r:.200}: {error}") from None
    if topic != (replays if replayed else DATA_PREFIX) + message.stream:
        raise MessageError("forged", f"message on {topic!r:.200} claims to be of stream {message.stream!r}")
    return message


class _Kind(Enum):
    BATCH = "batch"
    ANNOUNCE = "announce"
    REPLAY_END = "replay's announce"


class _Stands(Enum):
    UNKNOWN = "unknown"
    NEXT = "next"
    NO_ROOM = "next, and there is no room"
    AHEAD = "ahead"
    BEHIND = "behind"
    LOST = "oldest is ahead"
    COVERED = "oldest to newest + 1"
    BELOW = "newest + 1 is behind"


class _Does(Enum):
    NOTHING = "nothing"
    GIVE = "give, and go behind it"
    JOIN = "follow it from its oldest on"
    SKIP = "report a gap, and go to its oldest"
    DOUBT = "go back if it insists"


_RULES: Final[Mapping[tuple[_Kind, _Stands], tuple[_Does, str]]] = {
    (_Kind.BATCH, _Stands.UNKNOWN): (_Does.NOTHING, "unannounced"),
    (_Kind.BATCH, _Stands.NEXT): (_Does.GIVE, ""),
    (_Kind.BATCH, _Stands.NO_ROOM): (_Does.NOTHING, "no_room"),
    (_Kind.BATCH, _Stands.AHEAD): (_Does.NOTHING, "ahead"),
    (_Kind.BATCH, _Stands.BEHIND): (_Does.NOTHING, "repeats"),
    (_Kind.ANNOUNCE, _Stands.UNKNOWN): (_Does.JOIN, ""),
    (_Kind.ANNOUNCE, _Stands.LOST): (_Does.SKIP, "gaps"),
    (_Kind.ANNOUNCE, _Stands.COVERED): (_Does.NOTHING, ""),
    (_Kind.ANNOUNCE, _Stands.BELOW): (_Does.DOUBT, ""),
    (_Kind.REPLAY_END, _Stands.UNKNOWN): (_Does.NOTHING, "unannounced"),
    (_Kind.REPLAY_END, _Stands.LOST): (_Does.SKIP, "gaps"),
    (_Kind.REPLAY_END, _Stands.COVERED): (_Does.NOTHING, ""),
    (_Kind.REPLAY_END, _Stands.BELOW): (_Does.NOTHING, ""),
}


@dataclass(frozen=True, slots=True)
class Gap:
    """Batches first to last of a stream's epoch that the producer does not have any more."""

    stream: str
    epoch: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Received:
    """What came of one message, for one reader."""

    batch: SampleBatch | EventBatch | None = None
    """To be worked on."""
    gap: Gap | None = None
    told: str | None = None
    """What people should know of it: for the log, one line."""


_NOTHING: Final = Received()


@dataclass(slots=True)
class _Place:
    """Where a reader stands in one epoch of a stream: the number it wants, and the newest that is known to exist."""

    next: int
    newest: int
    heard: float | None = None
    """None: not in this run; the cursor comes from an earlier one."""
    given: bool = False
    """The cursor stands for work that was done: it must not be forgotten."""
    regressions: int = 0
    doubted: float = 0.0


_COUNTERS: Final = (
    "batches",
    "samples",
    "events",
    "announcements",
    "joined",
    "new_epochs",
    "gaps",
    "missing",
    "ahead",
    "no_room",
    "repeats",
    "unannounced",
    "regressed",
    "refused",
)


class Consumer:
    """One reader's side of all streams that it follows: its cursors, order, repeats, gaps.

    cursors: (stream, epoch) -> the number wanted next, as they were committed with the work.
    counters: `missing` are batches inside gaps; `refused` announcements are of a stream or epoch beyond the limits.
    """

    def __init__(self, cursors: Mapping[tuple[str, str], int] | None = None, *, max_streams: int = MAX_STREAMS) -> None:
        self.counters: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._max_streams = max_streams
        self._streams: dict[str, dict[str, _Place]] = {}
        for (stream, epoch), number in (cursors or {}).items():
            self.move(stream, epoch, number)

    def offer(self, message: Message, now: float, room: bool = True) -> Received:
        """Apply the rules to one message. room: whether the reader can take a batch just now."""
        body = message.body
        if isinstance(body, Announcement):
            self.counters["announcements"] += 1
            place = self._place(body.stream, body.epoch)
            kind = _Kind.REPLAY_END if message.replayed else _Kind.ANNOUNCE
            stands = _announced(place, body)
        else:
            place = self._place(body.header.stream, body.header.epoch)
            kind = _Kind.BATCH
            stands = _arrived(place, body.header.seq, room)
        does, counts = _RULES[kind, stands]
        if counts:
            self.counters[counts] += 1
        if place is None:
            return self._join(body, now) if does is _Does.JOIN and isinstance(body, Announcement) else _NOTHING
        place.heard = now
        if not isinstance(body, Announcement):
            place.newest = max(place.newest, body.header.seq)
            return self._give(place, body) if does is _Does.GIVE else _NOTHING
        # What is announced on the data topic is all there is; the end of an answer says only how far that went.
        place.newest = max(place.newest, body.newest) if message.replayed else body.newest
        if does is _Does.SKIP:
            return self._skip(place, body)
        return self._doubt(place, body, now) if does is _Does.DOUBT else self._trusted(place)

    def next(self, stream: str, epoch: str) -> int | None:
        """The number wanted next; None when the epoch is not followed."""
        place = self._place(stream, epoch)
        return None if place is None else place.next

    def wants(self, stream: str, epoch: str) -> int | None:
        """The number wanted next if it is known to exist: what to ask for."""
        place = self._place(stream, epoch)
        return place.next if place is not None and place.next <= place.newest else None

    def move(self, stream: str, epoch: str, number: int) -> None:
        """Set the cursor: the reader goes back to what it has to do again, or passes over what it does not want."""
        place = self._place(stream, epoch)
        if place is None:
            self._streams.setdefault(stream, {})[epoch] = _Place(number, number - 1, given=True)
        else:
            place.newest = max(place.newest, place.next - 1)
            place.next, place.given = number, True

    def cursors(self) -> dict[tuple[str, str], int]:
        """(stream, epoch) -> the number wanted next."""
        return {(stream, epoch): at.next for stream, epochs in self._streams.items() for epoch, at in epochs.items()}

    def _place(self, stream: str, epoch: str) -> _Place | None:
        epochs = self._streams.get(stream)
        return None if epochs is None else epochs.get(epoch)

    def _give(self, place: _Place, batch: SampleBatch | EventBatch) -> Received:
        place.next = batch.header.seq + 1
        place.given = True
        place.regressions = 0
        self.counters["batches"] += 1
        if isinstance(batch, SampleBatch):
            self.counters["samples"] += len(batch.columns)
        else:
            self.counters["events"] += len(batch.events)
        return Received(batch)

    def _skip(self, place: _Place, of: Announcement) -> Received:
        gap = Gap(of.stream, of.epoch, place.next, of.oldest - 1)
        place.next = of.oldest
        place.regressions = 0
        self.counters["missing"] += len(gap)
        told = f"batches {gap.first} to {gap.last} of stream {of.stream!r} are lost: the producer had to give them up"
        return Received(gap=gap, told=told)

    def _trusted(self, place: _Place) -> Received:
        place.regressions = 0
        return _NOTHING

    def _doubt(self, place: _Place, of: Announcement, now: float) -> Received:
        if place.regressions and now - place.doubted < ANNOUNCE_EVERY / 2:
            return _NOTHING  # a copy of the same announcement
        place.regressions += 1
        place.doubted = now
        if place.regressions < MAX_REGRESSIONS:
            return _NOTHING
        told = (
            f"stream {of.stream!r} announces {of.newest} as its newest batch, but {place.next - 1} was received: its "
            "producer has lost its memory; batches with numbers that came before are taken for new"
        )
        place.next = of.newest + 1
        place.regressions = 0
        self.counters["regressed"] += 1
        return Received(told=told)

    def _join(self, of: Announcement, now: float) -> Received:
        """Follow an epoch that is new to us, if there is a place for it."""
        epochs = self._streams.get(of.stream)
        new = epochs is None
        if epochs is None:
            if not self._room_for_stream(now):
                self.counters["refused"] += 1
                return Received(told=f"stream {of.stream!r} is beyond the {self._max_streams} that are followed")
            epochs = self._streams[of.stream] = {}
        elif not _room_for_epoch(epochs, now):
            self.counters["refused"] += 1
            return Received(told=f"stream {of.stream!r} has {MAX_EPOCHS} epochs already: who else publishes it?")
        told = None
        if not new:
            behind = [f"{at.next} to {at.newest} of {epoch}" for epoch, at in epochs.items() if at.next <= at.newest]
            told = f"stream {of.stream!r} is numbered anew, in epoch {of.epoch}"
            told += f"; never received: {', '.join(behind)}" if behind else ""
        epochs[of.epoch] = _Place(of.oldest, of.newest, now)
        self.counters["joined" if new else "new_epochs"] += 1
        return Received(told=told)

    def _room_for_stream(self, now: float) -> bool:
        """Whether one more may be followed. Streams silent for long do not count, for they cost nothing; those whose
        cursor stands for work are remembered all the same, up to ten times as many as may be followed."""
        if len(self._streams) < self._max_streams:
            return True
        silent = [
            stream for stream, epochs in self._streams.items() if all(_is_silent(at, now) for at in epochs.values())
        ]
        if len(self._streams) - len(silent) >= self._max_streams:
            return False
        for stream in silent:
            if not any(at.given for at in self._streams[stream].values()):
                del self._streams[stream]
        return len(self._streams) < 10 * self._max_streams


def _is_silent(place: _Place, now: float) -> bool:
    return place.heard is None or now - place.heard > FORGET_AFTER


def _room_for_epoch(epochs: dict[str, _Place], now: float) -> bool:
    """Make room for one more epoch: one that gave nothing goes first, then one that is silent for long."""
    if len(epochs) < MAX_EPOCHS:
        return True
    goes = min(
        (epoch for epoch, at in epochs.items() if not at.given or _is_silent(at, now)),
        key=lambda epoch: (epochs[epoch].given, epochs[epoch].heard or 0.0),
        default=None,
    )
    if goes is not None:
        del epochs[goes]
    return goes is not None


def _announced(place: _Place | None, of: Announcement) -> _Stands:
    if place is None:
        return _Stands.UNKNOWN
    if of.oldest > place.next:
        return _Stands.LOST
    return _Stands.COVERED if place.next <= of.newest + 1 else _Stands.BELOW


def _arrived(place: _Place | None, number: int, room: bool) -> _Stands:
    if place is None:
        return _Stands.UNKNOWN
    if number == place.next:
        return _Stands.NEXT if room else _Stands.NO_ROOM
    return _Stands.AHEAD if number > place.next else _Stands.BEHIND
