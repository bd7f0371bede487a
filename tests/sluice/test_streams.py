"""Streams: outlets and an inlet over a bus that refuses, times out, goes away and dies silently, and real outboxes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice import outlets as outlets_module
from sluice.batch import Announcement, Columns, EventBatch, Header, SampleBatch, Series, ValueType, decode, encode
from sluice.config import OutboxSettings
from sluice.cursors import Ask, Cursor, ack_topic, encode_cursors
from sluice.delivery import Consumer, Gap, data_topic
from sluice.ipc import IpcDisconnected, IpcError, IpcTimeout, IpcTooLarge, IpcUnauthorized
from sluice.streams import Inlet, Outlet, Outlets, covers

PRODUCER, STREAM = "opcua-collector", "opcua-collector/line1"
TOPIC = "sluice/data/opcua-collector/line1"
FAST = 0.05
"""Seconds between announcements, and between cursors, where a test would wait for them."""


class MemorySubscription:
    def __init__(self, bus: MemoryBus, topic_filter: str, handler: Callable[[str, bytes], None]) -> None:
        self.bus, self.filter, self.handler = bus, topic_filter, handler
        self.active, self.alive, self.renewed = True, True, 0

    async def renew(self) -> None:
        self.renewed += 1
        self.alive = True

    async def close(self) -> None:
        self.bus.subscriptions.remove(self)


class MemoryBus:
    """Local publish/subscribe in memory, with faults on demand."""

    def __init__(self) -> None:
        self.subscriptions: list[MemorySubscription] = []
        self.down: IpcError | None = None
        self.fails: Callable[[str, bytes], IpcError | None] = lambda topic, payload: None
        self.delivers_before_fault = False
        self.published: list[tuple[str, bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, topic: str, payload: bytes) -> None:
        await asyncio.sleep(0)
        await self.gate.wait()
        fault = self.down or self.fails(topic, payload)
        if fault is None or self.delivers_before_fault:
            self.published.append((topic, payload))
            for subscription in self.subscriptions:
                if subscription.alive and covers(subscription.filter, topic):
                    subscription.handler(topic, payload)
        if fault is not None:
            raise fault

    async def subscribe(self, topic_filter: str, handler: Callable[[str, bytes], None]) -> MemorySubscription:
        if isinstance(self.down, IpcUnauthorized):
            raise self.down
        subscription = MemorySubscription(self, topic_filter, handler)
        self.subscriptions.append(subscription)
        return subscription

    def on(self, prefix: str) -> list[bytes]:
        return [payload for topic, payload in self.published if topic.startswith(prefix)]

    def deafen(self, prefix: str, *, deaf: bool) -> None:
        for subscription in self.subscriptions:
            if subscription.filter.startswith(prefix):
                subscription.alive = not deaf


class Kept:
    """A reader that keeps what it gets, and is done with it when `exports` is set."""

    def __init__(self, cursors: dict[tuple[str, str], int] | None = None) -> None:
        self.consumer = Consumer(cursors)
        self.batches: list[SampleBatch | EventBatch] = []
        self.gaps: list[Gap] = []
        self.exports = True
        self.room = True
        self.done: dict[tuple[str, str], int] = {key: number - 1 for key, number in (cursors or {}).items()}

    def has_room(self) -> bool:
        return self.room

    def take(self, batch: SampleBatch | EventBatch) -> None:
        self.batches.append(batch)
        self._did(batch.header.stream, batch.header.epoch, batch.header.seq)

    def missed(self, gap: Gap) -> None:
        self.gaps.append(gap)
        self._did(gap.stream, gap.epoch, gap.last)

    def acknowledged(self, stream: str, epoch: str) -> int | None:
        return self.done.get((stream, epoch), 0)

    def _did(self, stream: str, epoch: str, number: int) -> None:
        if self.exports:
            self.done[stream, epoch] = number

    def numbers(self, stream: str = STREAM) -> list[int]:
        return [of.header.seq for of in self.batches if of.header.stream == stream]

    def values(self) -> list[Any]:
        return [row.value for of in self.batches if isinstance(of, SampleBatch) for row in of.columns.samples()]

    def events(self) -> list[dict[str, Any]]:
        return [event for of in self.batches if isinstance(of, EventBatch) for event in of.events]


class Port:
    """One process's way to the bus: when the process dies, nothing of it is heard any more, and it hears nothing."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus, self.cut = bus, False
        self.subscriptions: list[MemorySubscription] = []

    async def publish(self, topic: str, payload: bytes) -> None:
        if self.cut:
            raise IpcDisconnected("dead")
        await self.bus.publish(topic, payload)

    async def subscribe(self, topic_filter: str, handler: Callable[[str, bytes], None]) -> MemorySubscription:
        self.subscriptions.append(await self.bus.subscribe(topic_filter, handler))
        return self.subscriptions[-1]

    def die(self) -> None:
        self.cut = True
        for subscription in self.subscriptions:
            subscription.alive = False


def columns(*values: float, tag: str = "T") -> Columns:
    return Columns(
        ValueType.DOUBLE,
        (Series(tag),),
        np.zeros(len(values), dtype=np.int32),
        np.arange(len(values), dtype=np.int64),
        np.array(values, dtype=np.float64),
    )


async def eventually(condition: Callable[[], bool], state: Callable[[], object], limit: float = 30.0) -> None:
    """Wait until the condition holds; fails with the state."""
    deadline = asyncio.get_running_loop().time() + limit
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {limit} s: {state()}"
        await asyncio.sleep(0.005)


class Site:
    """A producing component with one source, its outbox in a folder, and consumers on the same bus."""

    def __init__(self, folder: Path) -> None:
        self.bus = MemoryBus()
        self.port = Port(self.bus)
        self.folder = folder
        self.deaths = 0
        self.outlets: Outlets | None = None
        self.inlets: list[Inlet] = []
        self.sent = 0

    @property
    def running(self) -> Outlets:
        assert self.outlets is not None
        return self.outlets

    @property
    def outlet(self) -> Outlet:
        return self.running.outlet("line1")

    async def produce(self, *, source: str | None = "line1", every: float = FAST, **settings: Any) -> Outlet | None:
        """Start the producing component."""
        self.port = Port(self.bus)
        self.outlets = await Outlets.open(
            self.port,
            PRODUCER,
            self.folder / "outbox",
            OutboxSettings.model_validate({"commitInterval": "10ms", **settings}),
            max_bytes=7_000,
            compress=True,
            announce_every=every,
        )
        outlet = self.outlets.outlet(source) if source else None
        await self.outlets.start()
        return outlet

    async def send(self, count: int = 1) -> None:
        """As many batches of one value each, numbered on; durable when done."""
        await asyncio.gather(*(self.outlet.submit([columns(float(self.sent + n))]) for n in range(count)))
        self.sent += count

    async def stop(self, limit: float = 2.0) -> None:
        outlets, self.outlets = self.outlets, None
        if outlets is not None:
            await outlets.close(limit)

    async def die(self) -> None:
        """End the producing component as a kill does: what it has on the disk at that moment is all that is left."""
        dying, self.outlets = self.running, None
        self.port.die()
        self.deaths += 1
        left = self.folder.with_name(f"{self.folder.name}-{self.deaths}")
        shutil.copytree(self.folder / "outbox", left / "outbox")
        self.folder = left
        await dying.close(0.0)

    async def follow(self, *readers: Kept, **options: Any) -> Inlet:
        options = {"tell_every": FAST, **options}
        inlet = Inlet(self.bus, "stream-exporter", ["sluice/data/#"], **options)
        await inlet.start({f"sink{n}": reader for n, reader in enumerate(readers)})
        self.inlets.append(inlet)
        return inlet

    async def got(self, reader: Kept, count: int | None = None) -> None:
        """Wait until the reader has everything that was sent, once and in order."""
        wanted = [float(n) for n in range(self.sent if count is None else count)]
        await eventually(lambda: len(reader.values()) >= len(wanted), self.state)
        assert reader.values() == wanted

    def ledger(self, stream: str = STREAM) -> dict[str, int]:
        return self.running.ledgers()[stream]

    def state(self) -> object:
        told = [inlet.status() for inlet in self.inlets]
        return told, self.outlets and (self.outlets.status(), self.outlets.ledgers())


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    yield site
    for inlet in site.inlets:
        await inlet.close()
    with contextlib.suppress(Exception):
        await site.stop()


# --- from source to reader ---


async def test_what_one_piece_of_work_gave_is_stored_with_its_positions_or_not_at_all(site: Site) -> None:
    outlet = await site.produce()
    assert outlet is not None
    reader = Kept()
    await site.follow(reader)
    await outlet.submit_turn(
        [columns(1.0)], [columns(0.5)], [{"kind": "alarm"}], positions={"turn/1": b"a", "state": b"b"}, filtered=7
    )
    await eventually(lambda: len(reader.batches) == 3, site.state)
    assert {of.header.stream: of.header.seq for of in reader.batches} == {
        STREAM: 1,
        f"{STREAM}/backfill": 1,
        f"{STREAM}/events": 1,
    }
    assert (site.ledger()["received"], site.ledger()["filtered"], site.ledger()["stored"]) == (8, 7, 1)
    assert outlet.positions() == {"turn/1": b"a", "state": b"b"}
    assert site.running.sources() == {"line1"}
    died = outlet.submit_turn([columns(2.0)], [], [{"kind": "alarm"}], positions={"turn/1": None, "turn/2": b"c"})
    await site.die()
    with contextlib.suppress(Exception):
        await died
    again = await site.produce()
    assert again is not None
    whole = {"turn/2": b"c", "state": b"b"}, 2
    nothing = {"turn/1": b"a", "state": b"b"}, 1
    assert (again.positions(), site.ledger()["stored"]) in (whole, nothing)
    assert site.ledger(f"{STREAM}/events")["stored"] == site.ledger()["stored"]


async def test_samples_flow_in_order_and_are_forgotten_when_the_reader_is_done_with_them(site: Site) -> None:
    await site.produce()
    reader = Kept()
    await site.follow(reader)
    await site.send(100)
    await site.got(reader)
    await eventually(lambda: site.ledger()["acknowledged"] == 100, site.state)
    await eventually(lambda: site.running.status()["bytes"] == 0, site.state)
    told = site.ledger()
    assert (told["received"], told["stored"], told["kept"], told["dropped"], told["in_flight"]) == (100, 100, 0, 0, 0)


async def test_nothing_is_shown_before_it_is_durable(site: Site) -> None:
    outlet = await site.produce(commitInterval="250ms")
    assert outlet is not None
    await outlet.submit([columns(1.0)])
    waiting = asyncio.ensure_future(outlet.submit([columns(2.0)]))
    await eventually(lambda: len([p for p in site.bus.on(TOPIC) if is_batch(p)]) == 1, site.state)
    assert not waiting.done()
    await waiting
    await eventually(lambda: len([p for p in site.bus.on(TOPIC) if is_batch(p)]) == 2, site.state)


def is_batch(payload: bytes) -> bool:
    return not isinstance(decode(payload), Announcement)


async def test_a_stream_is_announced_before_its_first_batch_so_that_nobody_who_listens_misses_it(site: Site) -> None:
    await site.produce(every=60.0)
    reader = Kept()
    await site.follow(reader)
    await site.outlet.submit([columns(0.0)])
    await site.outlet.submit_events([{"type": "alarm", "n": 1}])
    await site.outlet.submit_backfill([columns(1.0)])
    await eventually(lambda: len(reader.batches) == 3, site.state)
    assert {of.header.stream for of in reader.batches} == {STREAM, f"{STREAM}/events", f"{STREAM}/backfill"}
    assert reader.consumer.counters["unannounced"] == 0


async def test_events_and_backfill_have_streams_of_their_own_that_exist_once_they_are_used(site: Site) -> None:
    await site.produce()
    await eventually(lambda: len(site.bus.published) > 3, site.state)
    assert {topic for topic, _ in site.bus.published} == {TOPIC}
    assert list(site.running.ledgers()) == [STREAM]
    await site.outlet.submit_events([{"type": "gap", "n": 1}])
    assert site.ledger(f"{STREAM}/events")["stored"] == 1


async def test_what_is_left_out_on_purpose_or_cannot_be_read_stands_in_the_ledger(site: Site) -> None:
    await site.produce()
    await site.outlet.submit([columns(1.0)], filtered=3, undelivered=2)
    told = site.ledger()
    assert {name: told[name] for name in ("received", "filtered", "stored", "dropped", "unconsumed")} == {
        "received": 6,
        "filtered": 3,
        "stored": 1,
        "dropped": 2,
        "unconsumed": 1,
    }


async def test_samples_and_positions_are_durable_together_and_positions_belong_to_their_source(site: Site) -> None:
    await site.produce()
    await site.outlet.submit([columns(1.0)], positions={"sequence": b"17", "marks": b"old"})
    await site.outlet.note({"marks": None})
    assert site.outlet.position("sequence") == b"17"
    assert site.running.outlet("line2").position("sequence") is None
    await site.stop()
    await site.produce()
    assert (site.outlet.newest, site.outlet.position("sequence"), site.outlet.position("marks")) == (1, b"17", None)


async def test_what_cannot_be_encoded_is_counted_and_told_as_an_event_and_the_rest_flows(site: Site) -> None:
    await site.produce()
    reader = Kept()
    await site.follow(reader)
    too_large = "".join(chr(0x4E00 + i) for i in range(20_000))
    await site.outlet.submit([columns(1.0, 2.0, tag="\ud800"), columns(3.0), columns(4.0, tag=too_large)])
    await site.outlet.submit_events([{"bad": object()}])
    await site.outlet.submit([columns(5.0)])
    await eventually(lambda: len(reader.values()) == 2 and len(reader.events()) == 1, site.state)
    (event,) = reader.events()
    assert (event["kind"], event["reason"], event["stream"], event["samples"]) == ("gap", "not-encodable", STREAM, 3)
    assert reader.values() == [3.0, 5.0]
    assert (site.ledger()["dropped"], site.ledger()["stored"]) == (3, 2)
    assert site.ledger(f"{STREAM}/events")["dropped"] == 1


async def test_recent_live_batches_are_kept_for_the_source_and_read_in_order(site: Site) -> None:
    outlet = await site.produce()
    assert outlet is not None
    outlet.keep_after(40)
    reader = Kept()
    await site.follow(reader)
    await site.send(100)
    await site.got(reader)
    await eventually(lambda: site.running._outbox.state(STREAM).oldest == 41, site.state)
    told = site.ledger()
    assert (told["acknowledged"], told["kept"]) == (100, 0), "kept for the source alone"
    assert [of.header.seq async for of in outlet.recent(90)] == list(range(91, 101))
    outlet.keep_after(100)
    await eventually(lambda: site.running._outbox.state(STREAM).oldest == 101, site.state)
    assert [of async for of in outlet.recent(90)] == []


# --- loss on the bus ---


async def test_a_bus_that_is_away_for_a_moment_loses_and_doubles_nothing(site: Site) -> None:
    await site.produce()
    reader = Kept()
    await site.follow(reader)
    await site.send(3)
    await site.got(reader)
    site.bus.down = IpcDisconnected("gone")
    await site.send(3)
    await eventually(lambda: "gone" in site.running.trouble, site.state)
    site.bus.down = None
    await site.send(3)
    await site.got(reader)
    assert reader.gaps == []
    await eventually(lambda: site.running.trouble == "", site.state)


async def test_a_publish_that_timed_out_but_had_arrived_is_not_doubled(site: Site) -> None:
    await site.produce()
    reader = Kept()
    await site.follow(reader)
    site.bus.fails = lambda topic, payload: IpcTimeout("no reply")
    site.bus.delivers_before_fault = True
    await site.send(10)
    await site.got(reader)


async def test_every_third_message_lost_costs_time_and_nothing_else(site: Site) -> None:
    await site.produce()
    reader, other = Kept(), Kept()
    await site.follow(reader, other)
    luck = random.Random(3)
    site.bus.fails = lambda topic, payload: IpcTimeout("no reply") if luck.random() < 0.33 else None
    for _ in range(6):
        await site.send(10)
        await asyncio.sleep(0.01)
    await site.got(reader)
    await site.got(other)
    assert (reader.gaps, other.gaps) == ([], [])


async def test_a_lost_end_is_noticed_by_the_next_announcement(site: Site) -> None:
    await site.produce()
    reader = Kept()
    await site.follow(reader)
    await site.send()
    await site.got(reader)
    site.bus.deafen("sluice/data", deaf=True)
    await site.send(5)
    await eventually(lambda: site.running.status()["queued_bytes"] == 0, site.state)
    site.bus.deafen("sluice/data", deaf=False)
    await site.got(reader)


# --- restarts and absences ---


async def test_a_consumer_that_was_away_gets_everything_from_where_it_was(site: Site) -> None:
    await site.produce()
    reader = Kept()
    inlet = await site.follow(reader)
    await site.send(50)
    await site.got(reader)
    await inlet.close()
    await site.send(2_500)
    again = Kept(reader.consumer.cursors())
    await site.follow(again)
    await eventually(lambda: len(again.batches) == 2_500, site.state)
    assert again.numbers() == list(range(51, 2_551))
    await site.send()
    await eventually(lambda: again.numbers()[-1] == 2_551, site.state)
    assert (again.gaps, again.consumer.counters["joined"]) == ([], 0)


async def test_a_producer_that_was_stopped_goes_on_with_its_numbers_and_what_was_kept(site: Site) -> None:
    await site.produce()
    await site.send(200)
    before = site.ledger()
    await site.stop()
    await site.produce()
    assert {**site.ledger(), "batches": before["batches"]} == before
    reader = Kept()
    await site.follow(reader)
    await site.send(10)
    await site.got(reader)
    assert reader.numbers() == list(range(1, 211))


async def test_a_producer_that_dies_in_the_midst_loses_nothing_that_was_durable(site: Site) -> None:
    await site.produce()
    reader = Kept()
    reader.exports = False
    await site.follow(reader)
    await site.send(30)
    await site.got(reader)
    site.bus.gate.clear()  # committed, and never published
    await site.send(30)
    dying = asyncio.create_task(site.die())
    await asyncio.sleep(0)
    site.bus.gate.set()
    await dying
    await site.produce()
    await site.got(reader)
    assert reader.gaps == []


async def test_two_readers_of_different_speed_each_get_everything_once(site: Site) -> None:
    await site.produce()
    fast, slow = Kept(), Kept()
    slow.room = False
    inlet = await site.follow(fast, slow)
    await site.send(300)
    await site.got(fast)
    assert slow.batches == []
    assert site.ledger()["acknowledged"] == 0, "the slow one holds everything"
    slow.room = True
    inlet.moved()
    await site.got(slow)
    await site.send(10)
    await site.got(slow)
    await site.got(fast)
    await eventually(lambda: site.ledger()["acknowledged"] == 310, site.state)


async def test_a_reader_that_is_added_later_gets_what_is_still_kept(site: Site) -> None:
    await site.produce()
    first = Kept()
    first.exports = False
    inlet = await site.follow(first)
    await site.send(20)
    await site.got(first)
    second = Kept()
    inlet.replace({"first": first, "second": second})
    await site.got(second)


async def test_nobody_is_waited_for_who_is_silent_for_longer_than_the_expiry(site: Site) -> None:
    await site.produce(consumerExpiry="60s")
    reader = Kept()
    reader.exports = False
    inlet = await site.follow(reader)
    await site.send(5)
    await site.got(reader)
    await eventually(lambda: "stream-exporter" in site.running.status()["consumers"], site.state)
    await inlet.close()
    for channel in site.running._channels.values():
        for of in channel.producer.consumers.values():
            of.heard, of.seen = of.heard - 61.0, (of.seen or 0.0) - 61.0
    await eventually(lambda: site.running.status()["counters"]["expired"] == 1, site.state)
    assert site.ledger()["unconsumed"] == 5


async def test_a_consumer_that_is_forgotten_holds_nothing_any_more_and_may_come_back(site: Site) -> None:
    await site.produce()
    reader = Kept()
    reader.exports = False
    inlet = await site.follow(reader)
    await site.send(5)
    await site.got(reader)
    await eventually(lambda: "stream-exporter" in site.running.consumers(), site.state)
    with pytest.raises(ValueError, match="runs, and would register again at once: stop or remove it first"):
        site.running.forget("stream-exporter")
    await inlet.close()
    for channel in site.running._channels.values():
        for of in channel.producer.consumers.values():
            of.seen = (of.seen or 0.0) - 61.0
    with pytest.raises(ValueError, match="is not known: those for whom data is kept are stream-exporter"):
        site.running.forget("stream-exporters")
    assert site.running.forget("stream-exporter") == 5
    assert site.running.consumers() == set()
    await site.stop()
    await site.produce()
    assert site.running.consumers() == set()
    assert site.ledger()["unconsumed"] == 5  # kept for whoever comes next
    again = Kept()
    await site.follow(again)
    await site.got(again)


async def test_a_consumer_that_is_configured_cannot_be_forgotten(site: Site) -> None:
    await site.produce(consumers=["stream-exporter"])
    with pytest.raises(ValueError, match=r"is named under outbox\.consumers.*: take it out there first"):
        site.running.forget("stream-exporter")


# --- bounds ---


async def test_while_the_consumer_is_far_behind_nothing_is_published_live_and_it_catches_up_all_the_same(
    site: Site,
) -> None:
    await site.produce()
    reader = Kept()
    inlet = await site.follow(reader)
    await site.send(5)
    await site.got(reader)
    await eventually(lambda: bool(site.running.status()["consumers"]), site.state)
    reader.room = False
    await site.send(1_500)
    await site.send(5)
    await eventually(lambda: site.running.status()["queued_bytes"] == 0, site.state)
    assert STREAM in site.running.status()["not_live"]
    count = len(site.bus.on(TOPIC))
    await site.send(50)
    assert len(site.bus.on(TOPIC)) - count < 20, "announcements alone"
    reader.room = True
    inlet.moved()
    await site.got(reader)
    await eventually(lambda: site.running.status()["not_live"] == [], site.state)


async def test_the_live_queue_is_bounded_and_what_does_not_fit_is_had_by_asking(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlets_module, "LIVE_QUEUE_BYTES", 10_000)
    await site.produce()
    reader = Kept()
    await site.follow(reader)
    site.bus.gate.clear()
    await site.send(300)
    assert site.running.status()["queued_bytes"] <= 10_000
    assert site.running.status()["counters"]["left_to_replays"] > 200
    site.bus.gate.set()
    await site.got(reader)


async def test_an_inlet_that_cannot_keep_up_drops_asks_and_loses_nothing(site: Site) -> None:
    await site.produce()
    reader = Kept()
    inlet = await site.follow(reader, queue_bytes=20_000, window=5_000)
    await site.send(500)
    await site.got(reader)
    assert inlet.status()["queued_bytes"] <= 20_000


async def test_what_had_to_make_room_is_a_gap_for_the_reader_and_an_event(site: Site) -> None:
    await site.produce(maxSize="8MB", minFreeDisk="0")
    noise = np.random.default_rng(1)
    reader = Kept()
    for _ in range(12):
        await asyncio.gather(*(site.outlet.submit([columns(*noise.random(8_000))]) for _ in range(12)))
    await eventually(lambda: site.ledger()["dropped"] > 0, site.state)
    told = site.ledger()
    assert told["received"] == told["stored"] + told["dropped"] == 12 * 12 * 8_000
    await site.follow(reader)
    await eventually(lambda: reader.numbers()[-1:] == [site.outlet.newest], site.state)
    await eventually(lambda: bool(reader.events()), site.state)
    event = reader.events()[0]
    assert (event["kind"], event["reason"], event["stream"], event["first"]) == ("gap", "outbox-full", STREAM, 1)
    assert reader.numbers() == list(range(reader.numbers()[0], site.outlet.newest + 1))


async def test_a_source_that_can_be_read_again_is_asked_to_pause_and_loses_nothing(site: Site) -> None:
    await site.produce(maxSize="8MB", minFreeDisk="0")
    site.outlet.recoverable = True
    noise = np.random.default_rng(1)
    submitted = 0
    while not site.outlet.full:
        await site.outlet.submit([columns(*noise.random(20_000))])
        submitted += 20_000
    assert (site.ledger()["stored"], site.ledger()["dropped"]) == (submitted, 0)
    reader = Kept()
    await site.follow(reader)
    await eventually(lambda: reader.numbers() == list(range(1, site.outlet.newest + 1)), site.state)
    await eventually(lambda: not site.outlet.full, site.state)


async def test_a_frame_that_the_bus_cannot_take_any_more_is_replaced_by_an_event_and_blocks_nothing(site: Site) -> None:
    await site.produce()
    await site.send(2)
    await site.outlet.submit([columns(*np.random.default_rng(1).random(300))])
    await site.send(2)

    def small_frames(topic: str, payload: bytes) -> IpcError | None:
        return IpcTooLarge("too large") if len(payload) > 1_000 else None

    site.bus.fails = small_frames
    reader = Kept()
    await site.follow(reader)
    await site.got(reader)
    assert reader.numbers() == [1, 2, 3, 4, 5]
    assert [(event["reason"], event["first"]) for event in reader.events()] == [("too-large-for-bus", 3)]


# --- sources that come and go ---


async def test_what_is_kept_of_a_source_that_is_gone_from_the_configuration_is_still_delivered(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlets_module, "_ORPHAN_STAYS", 0.1)
    await site.produce()
    await site.send(20)
    site.running.remove("line1")
    await site.stop()
    await site.produce(source=None)
    reader = Kept()
    await site.follow(reader)
    await site.got(reader)
    await eventually(lambda: site.running.ledgers() == {}, site.state)
    await eventually(lambda: site.running._outbox.streams() == [], site.state)


async def test_a_source_that_is_removed_while_running_leaves_nothing_behind_once_it_is_delivered(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlets_module, "_ORPHAN_STAYS", 0.1)
    await site.produce()
    site.outlet.recoverable = True
    site.outlet.keep_after(0)
    await site.send(20)
    site.running.remove("line1")
    reader = Kept()
    await site.follow(reader)
    await site.got(reader)
    await eventually(lambda: STREAM not in site.running._outbox.streams(), site.state)


async def test_what_could_not_be_stored_yet_when_its_source_was_removed_is_delivered_all_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlets_module, "_ORPHAN_STAYS", 0.1)
    await site.produce()
    with contextlib.closing(sqlite3.connect(site.folder / "outbox" / "outbox.db", isolation_level=None)) as disturber:
        disturber.execute("BEGIN IMMEDIATE")  # nothing can be stored meanwhile
        submitted = asyncio.gather(*(site.outlet.submit([columns(float(n))]) for n in range(3)))
        site.running.remove("line1")
        channel = site.running._channels[STREAM]
        loop = asyncio.get_running_loop()
        await eventually(
            lambda: channel.orphan_since is not None and loop.time() - channel.orphan_since > 0.3, site.state
        )
    await submitted
    reader = Kept()
    await site.follow(reader)
    await site.got(reader, 3)
    await eventually(lambda: STREAM not in site.running._outbox.streams(), site.state)


async def test_a_source_that_comes_back_goes_on_where_it_was(site: Site) -> None:
    await site.produce()
    await site.send(3)
    site.running.remove("line1")
    assert site.running.outlet("line1").newest == 3


async def test_other_settings_take_effect_without_a_restart(site: Site) -> None:
    await site.produce()
    settings = OutboxSettings.model_validate({"consumers": ["stream-exporter"], "maxSize": "50MB"})
    site.running.apply(settings, max_bytes=700, compress=False)
    await site.outlet.submit([columns(*np.arange(500.0))])
    reader = Kept()
    await site.follow(reader)
    await eventually(lambda: len(reader.values()) == 500, site.state)
    assert len(reader.batches) > 5
    assert max(len(payload) for payload in site.bus.on(TOPIC)) <= 700
    assert site.running.status()["limit"] == 50_000_000


# --- bad input ---


async def test_cursors_that_are_not_believed_are_counted_and_nothing_is_deleted(site: Site) -> None:
    await site.produce()
    await site.send(10)
    epoch = site.running._outbox.state(STREAM).epoch
    topic = ack_topic(PRODUCER, "stream-exporter")

    async def tell(consumer: str, stream: str, cursor: Cursor, at: str = topic) -> None:
        for payload in encode_cursors(consumer, {stream: cursor}, [], max_bytes=7_000):
            await site.bus.publish(at, payload)

    await site.bus.publish(topic, b"junk")
    await site.bus.publish(topic, b"{}" * 200_000)
    await tell("console", STREAM, Cursor(epoch, 10, 11))
    await tell("stream-exporter", STREAM, Cursor(epoch, 11, 12))
    await tell("stream-exporter", STREAM, Cursor("ffffffffffff", 10, 11))
    await tell("stream-exporter", f"{PRODUCER}/none", Cursor(epoch, 10, 11))
    await tell("stream-exporter", "pi-collector/line1", Cursor(epoch, 10, 11))
    counted = site.running.status()["counters"]
    names = ("malformed", "forged", "future", "unknown_epoch", "unknown_stream")
    assert {name: counted[name] for name in names} == {
        "malformed": 2,
        "forged": 2,
        "future": 1,
        "unknown_epoch": 1,
        "unknown_stream": 1,
    }
    assert site.running.status()["consumers"] == {}
    assert site.ledger()["kept"] == 10


async def test_asks_for_nonsense_are_answered_with_what_there_is_or_not_at_all(site: Site) -> None:
    await site.produce()
    await site.send(10)
    epoch = site.running._outbox.state(STREAM).epoch
    asks = [
        Ask(STREAM, epoch, 2**62, 2**62),
        Ask(STREAM, "ffffffffffff", 1, 1),
        Ask(f"{PRODUCER}/none", epoch, 1, 1),
    ]
    for payload in encode_cursors("console", {}, asks, max_bytes=7_000):
        await site.bus.publish(ack_topic(PRODUCER, "console"), payload)
    await eventually(lambda: len(site.bus.on("sluice/replay/console/")) == 1, site.state)
    answer = decode(site.bus.on("sluice/replay/console/")[0])
    assert answer == Announcement(STREAM, epoch, 1, 10)
    for payload in encode_cursors("console", {}, [Ask(STREAM, epoch, 9, 2**62)], max_bytes=7_000):
        await site.bus.publish(ack_topic(PRODUCER, "console"), payload)
    await eventually(lambda: len(site.bus.on("sluice/replay/console/")) == 4, site.state)
    counted = site.running.status()["counters"]
    assert (counted["unknown_epoch"], counted["unknown_stream"]) == (1, 1)


async def test_input_that_is_not_believed_is_counted_by_the_inlet_and_the_stream_goes_on(site: Site) -> None:
    await site.produce()
    reader = Kept()
    inlet = await site.follow(reader)
    await site.send(2)
    await site.got(reader)
    genuine = site.bus.on(TOPIC)[-1]
    await site.bus.publish(TOPIC, b"junk")
    await site.bus.publish("sluice/data/mqtt-bridge/plant", genuine)
    await site.bus.publish("sluice/replay/stream-exporter/a/b", b"\xff" * 100)
    await site.bus.publish(TOPIC, encode(Header(STREAM, "ffffffffffff", 3), columns(9.0)))
    await site.send(2)
    await site.got(reader)
    told = inlet.status()
    assert (told["malformed"], told["forged"], reader.consumer.counters["unannounced"]) == (2, 1, 1)


# --- the inlet's subscriptions ---


async def test_a_subscription_that_dies_silently_is_noticed_and_renewed(site: Site) -> None:
    await site.produce()
    reader = Kept()
    await site.follow(reader, quiet_after=0.3)
    await site.send()
    await site.got(reader)
    data = next(of for of in site.bus.subscriptions if of.filter.startswith("sluice/data"))
    data.alive = False
    await site.send()
    await eventually(lambda: data.renewed == 1, site.state)
    await site.send()
    await site.got(reader)


async def test_the_replay_subscription_is_renewed_when_answers_do_not_come_and_only_then(site: Site) -> None:
    await site.produce()
    reader = Kept()
    await site.follow(reader, quiet_after=0.3)
    await site.send()
    await site.got(reader)
    replays = next(of for of in site.bus.subscriptions if of.filter.startswith("sluice/replay"))
    site.bus.deafen("sluice/replay", deaf=True)
    site.bus.deafen("sluice/data", deaf=True)
    await site.send()
    await eventually(lambda: site.running.status()["queued_bytes"] == 0, site.state)
    assert replays.renewed == 0
    site.bus.deafen("sluice/data", deaf=False)
    await eventually(lambda: replays.renewed >= 1, site.state)
    await site.got(reader)


async def test_a_subscription_with_announcements_is_left_alone_although_no_data_comes(site: Site) -> None:
    await site.produce()
    inlet = await site.follow(Kept(), quiet_after=0.3)
    await eventually(lambda: len(site.bus.on(TOPIC)) > 15, site.state)
    assert inlet.counters["renewals"] == 0


async def test_a_subscription_on_which_nothing_ever_comes_is_renewed_ever_more_seldom(site: Site) -> None:
    inlet = await site.follow(Kept(), quiet_after=0.03)
    loop = asyncio.get_running_loop()
    at = []
    data = site.bus.subscriptions[0]
    for n in (1, 2, 3, 4):
        await eventually(lambda n=n: data.renewed >= n, inlet.status)  # type: ignore[misc]
        at.append(loop.time())
    assert at[3] - at[2] > 1.5 * (at[1] - at[0]), at


async def test_a_subscription_that_the_bus_itself_is_renewing_is_left_to_it(site: Site) -> None:
    inlet = await site.follow(Kept(), quiet_after=0.02)
    site.bus.subscriptions[0].active = False
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await eventually(lambda: loop.time() > begun + 0.2, inlet.status)
    assert (site.bus.subscriptions[0].renewed, inlet.counters["renewals"]) == (0, 0)


async def test_going_over_to_other_filters_loses_and_doubles_nothing_that_both_cover(site: Site) -> None:
    await site.produce()
    other = site.running.outlet("line2")
    reader = Kept()
    inlet = await site.follow(reader)
    await site.send(5)
    await site.got(reader)
    await inlet.follow(["sluice/data/opcua-collector/line1/#"])
    await other.submit([columns(99.0)])
    await site.send(5)
    await site.got(reader)
    assert f"{PRODUCER}/line2" not in inlet.status()["streams"]
    assert sorted(of.filter for of in site.bus.subscriptions if not of.filter.startswith("sluice/ack")) == [
        "sluice/data/opcua-collector/line1/#",
        "sluice/replay/stream-exporter/#",
    ]
    await inlet.follow(["sluice/data/#"])
    await eventually(lambda: 99.0 in reader.values(), site.state)


async def test_a_refused_subscription_is_told_to_whoever_starts(site: Site) -> None:
    site.bus.down = IpcUnauthorized("SubscribeToTopic", "sluice/data/#")
    inlet = Inlet(site.bus, "stream-exporter", ["sluice/data/#"])
    with pytest.raises(IpcUnauthorized, match="accessControl"):
        await inlet.start({})
    with pytest.raises(IpcUnauthorized, match="accessControl"):
        await site.produce()
    assert site.bus.subscriptions == []


async def test_others_run_while_a_long_queue_is_worked_off(site: Site) -> None:
    reader = Kept({(STREAM, "000000000001"): 1})
    await site.follow(reader)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    take = site.bus.subscriptions[0].handler
    for n in range(200):
        take(data_topic(STREAM), encode(Header(STREAM, "000000000001", n + 1), columns(float(n))))
    task = asyncio.create_task(others())
    await site.got(reader, 200)
    task.cancel()
    assert turns >= 100


async def test_what_is_queued_when_the_inlet_is_closed_is_still_worked_on(site: Site) -> None:
    reader = Kept({(STREAM, "000000000001"): 1})
    inlet = await site.follow(reader)
    take = site.bus.subscriptions[0].handler
    for n in range(50):
        take(data_topic(STREAM), encode(Header(STREAM, "000000000001", n + 1), columns(float(n))))
    await inlet.close()
    assert len(reader.batches) == 50
    assert site.bus.subscriptions == []


async def test_what_is_in_hand_when_the_producer_is_closed_is_stored_and_published(site: Site) -> None:
    await site.produce()
    reader = Kept()
    await site.follow(reader)
    await eventually(lambda: reader.consumer.counters["joined"] == 1, site.state)
    submitted = [site.outlet.submit([columns(float(n))]) for n in range(100)]
    await site.stop()
    await asyncio.gather(*submitted)
    await site.got(reader, 100)


# --- everything at once, on real disks ---


class Committing(Kept):
    """A reader whose work counts once it is committed; what is not is forgotten when it dies."""

    def __init__(self, log: list[SampleBatch] | None = None, cursors: dict[tuple[str, str], int] | None = None) -> None:
        super().__init__(cursors)
        self.exports = False
        self.log = log if log is not None else []

    def commit(self) -> None:
        for batch in self.batches:
            assert isinstance(batch, SampleBatch)
            self.log.append(batch)
            self.done[batch.header.stream, batch.header.epoch] = batch.header.seq
        self.batches = []

    def again(self) -> Committing:
        return Committing(self.log, {key: number + 1 for key, number in self.done.items()})

    def logged(self) -> list[float]:
        return [row.value for batch in self.log for row in batch.columns.samples()]  # type: ignore[misc]


DEAF = {"deaf to data": "sluice/data", "deaf to replays": "sluice/replay", "deaf to cursors": "sluice/ack"}
ACTIONS = (
    "send",
    "send",
    "send unawaited",
    "commit",
    "commit one",
    "producer dies",
    "producer restarts",
    "consumer dies",
    *DEAF,
    "bus down",
    "heal",
    "no room",
    "wait",
)


@settings(max_examples=12)
@given(st.lists(st.sampled_from(ACTIONS), min_size=5, max_size=25))
def test_whatever_dies_or_is_deaf_every_sample_is_committed_once_in_order_by_each_reader(actions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(everything_at_once(Path(folder) / "core", actions))


async def everything_at_once(folder: Path, actions: list[str]) -> None:
    folder.mkdir()
    site = Site(folder)
    readers = [Committing(), Committing()]
    source = 0

    async def produce() -> None:
        nonlocal source
        await site.produce(every=0.02, consumers=["stream-exporter"])
        source = int(site.outlet.position("source") or b"0")  # it goes back to what is not safe

    def submit(count: int) -> list[Any]:
        nonlocal source
        waiting = []
        for _ in range(count):
            source += 1
            position = {"source": b"%d" % source}
            waiting.append(site.outlet.submit([columns(float(source - 1))], positions=position))
        return waiting

    def heal() -> None:
        site.bus.down = None
        for prefix in DEAF.values():
            for subscription in site.bus.subscriptions:
                if subscription.filter.startswith(prefix) and subscription not in dead:
                    subscription.alive = True

    dead: list[MemorySubscription] = []
    await produce()
    inlet = await site.follow(*readers, tell_every=0.02)
    for action in actions:
        if action == "send":
            await asyncio.gather(*submit(20))
        elif action == "send unawaited":
            submit(20)
        elif action == "commit":
            for reader in readers:
                reader.commit()
        elif action == "commit one":
            readers[0].commit()
        elif action == "producer dies":
            dead += site.port.subscriptions
            await site.die()
            await produce()
        elif action == "producer restarts":
            dead += site.port.subscriptions
            await site.stop()
            await produce()
        elif action == "consumer dies":
            await inlet.close()
            readers = [reader.again() for reader in readers]
            inlet = await site.follow(*readers, tell_every=0.02)
        elif action in DEAF:
            site.bus.deafen(DEAF[action], deaf=True)
        elif action == "bus down":
            site.bus.down = IpcDisconnected("gone")
        elif action == "heal":
            heal()
        elif action == "no room":
            readers[1].room = not readers[1].room
        else:
            await asyncio.sleep(0.05)
    heal()
    readers[1].room = True
    await asyncio.gather(*submit(3))
    wanted = [float(n) for n in range(source)]

    def all_committed() -> bool:
        for reader in readers:
            reader.commit()
        return all(reader.logged() == wanted for reader in readers)

    await eventually(all_committed, lambda: (site.state(), [reader.logged() for reader in readers]))
    assert [reader.gaps for reader in readers] == [[], []]
    await eventually(lambda: site.ledger()["kept"] == 0, site.state)
    told = site.ledger()
    assert told["received"] == told["stored"] == told["acknowledged"] == source
    await inlet.close()
    await site.stop()
