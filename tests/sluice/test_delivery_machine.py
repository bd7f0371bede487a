"""Delivery under everything at once: real producer and consumer code over a simulated bus and simulated disks.

A source yields 0, 1, 2 … and goes back, after a crash, to what its position on the disk says. The bus loses, doubles,
delays, and reorders topics against each other; foreigners inject. Each disk is three lists: what was written last may
be lost in a power cut, what was flushed may not, and only what was told to be flushed may be acted upon. The judge
looks at what went in, what each reader has on its disk, which gaps were reported to it, and what was deleted because
there was no room or nobody left to wait for: nothing of the state of what it judges.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sluice.batch import (
    Announcement,
    Columns,
    EventBatch,
    Header,
    SampleBatch,
    Series,
    ValueType,
    encode,
    encode_announcement,
)
from sluice.cursors import Ask, Cursor, MessageError, ack_topic, decode_cursors, encode_cursors
from sluice.delivery import (
    Consumer,
    Frame,
    Gap,
    Producer,
    Registration,
    data_topic,
    parse,
    replay_topic,
)
from sluice.following import Following

PRODUCER, STREAM = "opcua-collector", "opcua-collector/line1"
TOPIC = data_topic(STREAM)
EXPIRY = 7 * 86_400.0
EPOCHS = itertools.count(1)
WINDOW = 400  # bytes: some three batches


def batch_of(value: int) -> Columns:
    zero = np.zeros(1, dtype=np.int64)
    return Columns(ValueType.INTEGER, (Series("T"),), zero.astype(np.int32), zero, np.array([value], dtype=np.int64))


class Bus:
    """Topics in which order is kept; between them there is none."""

    def __init__(self) -> None:
        self.topics: dict[str, deque[bytes]] = defaultdict(deque)

    def publish(self, topic: str, payload: bytes) -> None:
        self.topics[topic].append(payload)

    def busy(self) -> list[str]:
        return sorted(topic for topic, waiting in self.topics.items() if waiting)


@dataclass
class ProducerDisk:
    """What the outbox is for the producer, with every boundary that a commit has."""

    epoch: str
    next: int = 1
    frames: dict[int, Frame] = field(default_factory=dict)
    ledger: dict[str, int] = field(default_factory=dict)
    consumers: dict[str, Registration] = field(default_factory=dict)
    position: int = 0

    @property
    def oldest(self) -> int:
        return min(self.frames, default=self.next)


Change = Callable[[ProducerDisk], None]


class ProducingSide:
    """The producer's process and its disk."""

    def __init__(self, bus: Bus, named: list[str]) -> None:
        self.bus, self.named = bus, named
        self.disk = ProducerDisk(f"{next(EPOCHS):012x}")
        self.submitted: list[tuple[Change, list[Frame]]] = []
        self.written: list[tuple[Change, list[Frame]]] = []
        self.flushed: list[list[Frame]] = []
        self.deleted_without: dict[str, set[int]] = defaultdict(set)
        self.no_room: set[int] = set()
        self.known: set[str] = set()
        self.start(0.0)

    def start(self, now: float) -> None:
        self.producer = Producer(
            STREAM,
            self.disk.epoch,
            max_bytes=7_000,
            compress=False,
            number=self.disk.next,
            ledger=self.disk.ledger,
            consumers={name: Registration(of.acked, of.heard) for name, of in self.disk.consumers.items()},
            named=self.named,
            now=now,
        )
        self.source = self.disk.position
        self.live: deque[Frame] = deque()
        self.asked: dict[str, Ask] = {}

    def yield_one(self) -> None:
        """The source yields the next value."""
        frames = self.producer.add(batch_of(self.source))
        self.source += 1
        position, ledger, newest = self.source, self.producer.ledger.settled(), self.producer.newest

        def change(disk: ProducerDisk) -> None:
            disk.frames |= {frame.seq: frame for frame in frames}
            disk.next, disk.position, disk.ledger = newest + 1, position, ledger

        self.submitted.append((change, frames))

    def write(self) -> None:
        if self.submitted:
            self.written.append(self.submitted.pop(0))

    def flush(self) -> None:
        for change, frames in self.written:
            change(self.disk)
            self.flushed.append(frames)
        self.written = []

    def told(self, now: float) -> None:
        """A commit is told: what it holds may be shown."""
        if self.flushed:
            frames = self.flushed.pop(0)
            self.producer.stored(frames)
            if self.producer.live(now):
                self.live.extend(frames)
            elif frames and not self.live:
                self.producer.offered(frames[-1].seq)

    def publish(self) -> None:
        if self.live:
            frame = self.live.popleft()
            self.bus.publish(TOPIC, frame.payload)
            self.producer.offered(frame.seq)

    def announce(self) -> None:
        self.bus.publish(TOPIC, self.producer.announcement(self.disk.oldest))

    def take(self, topic: str, payload: bytes, now: float, wall: float) -> None:
        try:
            cursors = decode_cursors(topic, payload)
        except MessageError:
            return
        for stream, cursor in cursors.streams.items():
            if stream == STREAM and self.producer.take(cursors.consumer, cursor, now, wall) is None:
                self.known.add(cursors.consumer)
                self.settle()
        for ask in cursors.asks:
            if ask.stream == STREAM and ask.epoch == self.producer.epoch:
                self.asked[cursors.consumer] = ask

    def settle(self) -> None:
        """Who consumes and what may go, in one commit that is lost in a crash like any other."""
        consumers = {name: Registration(of.acked, of.heard) for name, of in self.producer.consumers.items()}
        to = self.producer.delete_to()

        def change(disk: ProducerDisk) -> None:
            disk.consumers = consumers
            for number in [number for number in disk.frames if number <= to]:
                for name in {"fast-and-slow", "other"} - set(consumers):
                    self.deleted_without[name].add(value_of(disk.frames[number]))
                del disk.frames[number]

        self.submitted.append((change, []))

    def answer(self, consumer: str) -> None:
        ask = self.asked.pop(consumer, None)
        if ask is None:
            return
        topic, number, window = replay_topic(consumer, STREAM), max(ask.first, self.disk.oldest), ask.bytes
        while window > 0 and number <= self.producer.durable and number in self.disk.frames:
            frame = self.disk.frames[number]
            self.bus.publish(topic, frame.payload)
            self.producer.offered(number)
            window -= len(frame.payload)
            number += 1
        newest = min(number - 1, self.producer.durable)
        self.bus.publish(topic, self.producer.announcement(self.disk.oldest, newest))

    def evict(self, count: int) -> None:
        """There is no room: the oldest go, as part of a commit that is flushed."""
        gone = sorted(self.disk.frames)[:count]
        if gone:
            frames = [self.disk.frames.pop(number) for number in gone]
            self.no_room |= {value_of(frame) for frame in frames}
            self.producer.evicted(gone[0], gone[-1], sum(frame.samples for frame in frames))

    def die(self, now: float, *, power: bool) -> None:
        """Nothing in memory survives; with the power goes what was not flushed."""
        if not power:
            self.flush()
        self.submitted, self.written, self.flushed = [], [], []
        self.start(now)

    def begin_anew(self, now: float) -> None:
        """The file is replaced by an empty one. The source goes on where it is."""
        self.flush()
        self.no_room |= {value_of(frame) for frame in self.disk.frames.values()}
        self.no_room |= set(range(self.disk.position, self.source))
        self.disk = ProducerDisk(f"{next(EPOCHS):012x}", position=self.source)
        self.submitted, self.written, self.flushed = [], [], []
        self.start(now)


def value_of(frame: Frame) -> int:
    message = parse(TOPIC, frame.payload, "nobody").body
    assert isinstance(message, SampleBatch)
    return int(message.columns.value[0])


class ReadingDisk:
    """What one reader has committed: numbers with their values, gaps, and the cursors that belong to them."""

    def __init__(self) -> None:
        self.got: dict[str, dict[int, int]] = defaultdict(dict)
        self.order: list[int] = []
        self.gaps: list[Gap] = []
        self.cursors: dict[tuple[str, str], int] = {}


class SimulatedReader:
    """A reader with a queue in memory, whose commits are written, flushed and told at different moments."""

    def __init__(self, most: int) -> None:
        self.disk = ReadingDisk()
        self.most = most
        self.start()

    def start(self) -> None:
        self.consumer = Consumer(self.disk.cursors)
        self.queue: deque[SampleBatch | EventBatch | Gap] = deque()
        self.written: list[SampleBatch | EventBatch | Gap] = []
        self.safe: dict[tuple[str, str], int] = {key: number - 1 for key, number in self.disk.cursors.items()}

    def has_room(self) -> bool:
        return len(self.queue) < self.most

    def take(self, batch: SampleBatch | EventBatch) -> None:
        self.queue.append(batch)

    def missed(self, gap: Gap) -> None:
        self.queue.append(gap)

    def acknowledged(self, stream: str, epoch: str) -> int | None:
        return self.safe.get((stream, epoch), 0)

    def work(self) -> None:
        if self.queue:
            self.written.append(self.queue.popleft())

    def flush(self) -> None:
        for item in self.written:
            if isinstance(item, Gap):
                self.disk.gaps.append(item)
                key, last = (item.stream, item.epoch), item.last
            else:
                assert isinstance(item, SampleBatch)
                key, last = (item.header.stream, item.header.epoch), item.header.seq
                assert last not in self.disk.got[key[1]], f"batch {last} came twice"
                before = self.disk.cursors.get(key)
                assert before is None or before == last, f"batch {last} came where {before} was wanted"
                self.disk.got[key[1]][last] = int(item.columns.value[0])
                self.disk.order.append(int(item.columns.value[0]))
            self.disk.cursors[key] = last + 1
            self.safe[key] = last
        self.written = []

    def die(self, *, power: bool) -> None:
        if not power:
            self.flush()
        self.written = []
        self.start()


class ConsumingSide:
    """A consumer's process: its readers share one Following, as in an Inlet."""

    def __init__(self, bus: Bus, name: str, readers: dict[str, SimulatedReader]) -> None:
        self.bus, self.name, self.readers = bus, name, readers
        self.start()

    def start(self) -> None:
        self.following = Following(self.name, window=WINDOW)
        self.following.readers = dict(self.readers)

    def take(self, topic: str, payload: bytes, now: float) -> None:
        try:
            self.following.offer(parse(topic, payload, self.name), now)
        except MessageError:
            return

    def tell(self, now: float, *, everything: bool) -> None:
        for topic, payload in self.following.tell(now, everything=everything):
            self.bus.publish(topic, payload)

    def die(self, *, power: bool) -> None:
        for reader in self.readers.values():
            reader.die(power=power)
        self.start()


FAST, SLOW, OTHER = "fast", "slow", "other"
FATES = ("deliver", "lose", "double", "to one alone")
SMALL: tuple[str, ...] = ("yield", "write", "flush", "told", "publish", "announce", "answer", "work", "commit", "tell")
SMALL += ("deliver", *FATES)


class Delivery(RuleBasedStateMachine):
    """See the module."""

    @initialize(named=st.booleans(), most=st.integers(1, 3))
    def begin(self, named: bool, most: int) -> None:
        self.now, self.wall = 0.0, 1_700_000_000.0
        self.bus = Bus()
        self.producing = ProducingSide(self.bus, ["fast-and-slow", "other"] if named else [])
        self.fast, self.slow, self.other = SimulatedReader(100), SimulatedReader(most), SimulatedReader(100)
        self.consuming = [
            ConsumingSide(self.bus, "fast-and-slow", {FAST: self.fast, SLOW: self.slow}),
            ConsumingSide(self.bus, "other", {OTHER: self.other}),
        ]
        self.readers = {FAST: self.fast, SLOW: self.slow, OTHER: self.other}

    # --- what happens most of the time

    @rule(count=st.integers(0, 4), steps=st.integers(1, 2))
    def all_goes_well(self, count: int, steps: int) -> None:
        for _ in range(count):
            self.producing.yield_one()
        for _ in range(steps):
            self.calm_step()

    @rule(count=st.integers(1, 6), deaf=st.sampled_from(["all", "all", "first", "other"]))
    def somebody_is_deaf_meanwhile(self, count: int, deaf: str) -> None:
        for _ in range(count):
            self.producing.yield_one()
        deafened = [side for side in self.consuming if deaf == "all" or (deaf == "first") == (side.name != OTHER)]
        self.consuming = [side for side in self.consuming if side not in deafened]
        self.calm_step()
        self.consuming = sorted([*self.consuming, *deafened], key=lambda side: side.name)

    @rule(count=st.integers(0, 3), steps=st.integers(1, 4), dies=st.booleans())
    def the_readers_queue_and_do_not_work(self, count: int, steps: int, dies: bool) -> None:
        for _ in range(count):
            self.producing.yield_one()
        for _ in range(steps):
            self.calm_step(work=False)
        for side in self.consuming if dies else []:
            side.die(power=True)

    # --- the source and the producer's disk

    @rule(actions=st.lists(st.sampled_from(SMALL), min_size=1, max_size=12), data=st.data())
    def small_things_happen_in_any_order(self, actions: list[str], data: Any) -> None:
        for action in actions:
            if action == "yield":
                self.producing.yield_one()
            elif action == "write":
                self.producing.write()
            elif action == "flush":
                self.producing.flush()
            elif action == "told":
                self.producing.told(self.now)
            elif action == "publish":
                self.producing.publish()
            elif action == "announce":
                self.producing.announce()
            elif action == "answer":
                self.producing.answer(data.draw(st.sampled_from(self.consuming)).name)
            elif action == "work":
                self.readers[data.draw(st.sampled_from([FAST, SLOW, OTHER]))].work()
            elif action == "commit":
                self.readers[data.draw(st.sampled_from([FAST, SLOW, OTHER]))].flush()
            elif action == "tell":
                self.now += 0.5
                self.wall += 0.5
                data.draw(st.sampled_from(self.consuming)).tell(self.now, everything=data.draw(st.booleans()))
            elif busy := self.bus.busy():
                self.move(data.draw(st.sampled_from(busy)), action)

    @rule(count=st.integers(1, 6))
    def there_is_no_room(self, count: int) -> None:
        self.producing.evict(count)

    @rule(power=st.booleans())
    def the_producer_dies(self, power: bool) -> None:
        self.producing.die(self.now, power=power)

    @precondition(lambda self: len(self.fast.disk.got) < 3)
    @rule()
    def the_outbox_is_begun_anew(self) -> None:
        self.producing.begin_anew(self.now)

    @rule(named=st.booleans())
    def a_consumer_expires(self, named: bool) -> None:
        self.now += 1_000.0
        self.wall += EXPIRY + 1.0
        self.producing.producer.expire(self.now, self.wall)
        self.producing.settle()

    # --- the bus

    def move(self, topic: str, fate: str) -> None:
        payload = self.bus.topics[topic].popleft()
        if fate == "lose":
            return
        for _ in range(2 if fate == "double" else 1):
            if topic.startswith("sluice/ack/"):
                self.producing.take(topic, payload, self.now, self.wall)
                continue
            for side in self.consuming[: 1 if fate == "to one alone" else None]:
                if topic.startswith(("sluice/data/", f"sluice/replay/{side.name}/")):
                    side.take(topic, payload, self.now)

    @rule(what=st.sampled_from(["junk", "truncated", "foreign", "unknown epoch", "other stream"]))
    def somebody_publishes_nonsense_as_data(self, what: str) -> None:
        genuine = encode(Header(STREAM, self.producing.disk.epoch, 1), batch_of(-1))
        epoch = "ffffffffffff"
        payloads = {
            "junk": b"\xff\x00junk",
            "truncated": genuine[:-5],
            "foreign": encode_announcement(Announcement("other/stream", epoch, 1, 5)),
            "unknown epoch": encode(Header(STREAM, epoch, 1), batch_of(-1)),
            "other stream": encode(Header("opcua-collector/line2", epoch, 1), batch_of(-1)),
        }
        for side in self.consuming:
            side.take(TOPIC, payloads[what], self.now)
            side.take(replay_topic(side.name, STREAM), payloads[what], self.now)

    @rule(what=st.sampled_from(["junk", "future", "unknown epoch", "another's name", "unknown stream", "huge ask"]))
    def somebody_publishes_nonsense_as_cursors(self, what: str) -> None:
        epoch, beyond, newest = self.producing.disk.epoch, 2**62, self.producing.disk.next - 1
        everything = {STREAM: Cursor(epoch, newest, newest + 1)}
        asks = [Ask(STREAM, epoch, beyond, beyond), Ask(STREAM, "ffffffffffff", 1, 1), Ask("p/s", epoch, 1, 1)]
        messages: dict[str, tuple[str, dict[str, Cursor], list[Ask]]] = {
            "junk": ("fast-and-slow", {}, []),
            "future": ("fast-and-slow", {STREAM: Cursor(epoch, beyond, beyond + 1)}, []),
            "unknown epoch": ("fast-and-slow", {STREAM: Cursor("ffffffffffff", newest, newest + 1)}, []),
            "another's name": ("fast-and-slow", everything, []),
            "unknown stream": ("fast-and-slow", {"opcua-collector/none": Cursor(epoch, 1, 2)}, []),
            "huge ask": ("fast-and-slow", {}, asks),
        }
        consumer, cursors, wanted = messages[what]
        topic = ack_topic(PRODUCER, "foreigner" if what == "another's name" else "fast-and-slow")
        self.producing.take(topic, b"\xffjunk", self.now, self.wall)
        for payload in encode_cursors(consumer, cursors, wanted, max_bytes=7_000):
            self.producing.take(topic, payload, self.now, self.wall)
        while self.producing.submitted:  # were it believed, it would have its effect now
            self.producing.write()
        self.producing.flush()

    # --- the consumers

    @rule(side=st.integers(0, 1), power=st.booleans())
    def a_consumer_dies(self, side: int, power: bool) -> None:
        self.consuming[side].die(power=power)

    # --- the judgement

    def teardown(self) -> None:
        """When faults stop, everything is there after a bounded number of steps, once and in order."""
        if not hasattr(self, "bus"):
            return
        for step in range(300 + 4 * self.producing.source):  # a reader with little room takes a batch per step
            if step in (60, 120, 180):  # something new for everybody, also for those who have nothing yet
                self.producing.yield_one()
            self.calm_step()
            if step > 200 and self.settled():
                break
        for name, reader in self.readers.items():
            self.judge(name, reader)

    def calm_step(self, *, work: bool = True) -> None:
        self.now += 1.0
        self.wall += 1.0
        for _ in range(8):
            self.producing.write()
        self.producing.flush()
        while self.producing.flushed:
            self.producing.told(self.now)
        while self.producing.live:
            self.producing.publish()
        self.producing.announce()
        for side in self.consuming:
            self.producing.answer(side.name)
            side.tell(self.now, everything=True)
        while self.bus.busy():
            for topic in self.bus.busy():
                self.move(topic, "deliver")
        for reader in self.readers.values():
            while reader.queue and work:
                reader.work()
            reader.flush()

    def settled(self) -> bool:
        epoch, newest = self.producing.disk.epoch, self.producing.disk.next
        return all(reader.disk.cursors.get((STREAM, epoch)) == newest for reader in self.readers.values())

    def judge(self, name: str, reader: SimulatedReader) -> None:
        assert self.settled(), f"{name} stands at {reader.disk.cursors}, {self.producing.disk.next - 1} is the newest"
        got = set(reader.disk.order)
        assert len(got) == len(reader.disk.order), "a sample came twice"
        assert -1 not in got, "something forged was taken"
        for values in reader.disk.got.values():
            in_order = [values[number] for number in sorted(values)]
            assert in_order == sorted(in_order), "the order of a stream was not kept"
        consumer = "other" if name == OTHER else "fast-and-slow"
        missing = set(range(self.producing.source)) - got
        allowed = self.producing.no_room | self.producing.deleted_without[consumer]
        assert missing <= allowed, f"{name} never got {sorted(missing - allowed)}"
        for epoch, values in reader.disk.got.items():
            reported = {n for gap in reader.disk.gaps if gap.epoch == epoch for n in range(gap.first, gap.last + 1)}
            followed = range(min([*values, *reported]), max(values) + 1)
            silent = set(followed) - set(values) - reported
            assert not silent, f"{name} missed batches {sorted(silent)} of {epoch}, and no gap was reported"


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=60, stateful_step_count=40)
