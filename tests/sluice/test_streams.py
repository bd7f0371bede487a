"""Streams: an outlet and an inlet over a bus that refuses, times out, goes away and dies silently."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from sluice.batch import BatchError, Columns, EventBatch, SampleBatch, Series, ValueType, decode
from sluice.delivery import SILENT_AFTER
from sluice.ipc import IpcDisconnected, IpcError, IpcTimeout, IpcUnauthorized
from sluice.streams import Inlet, Outlet

TOPIC = "sluice/data/opcua-collector/line1"


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
        self.faults: list[IpcError] = []
        self.down: IpcError | None = None
        self.delivers_before_fault = False
        self.published: list[tuple[str, bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, topic: str, payload: bytes) -> None:
        await self.gate.wait()
        fault = self.down or (self.faults.pop(0) if self.faults else None)
        if fault is None or self.delivers_before_fault:
            self.published.append((topic, payload))
            for subscription in self.subscriptions:
                if subscription.alive and matches(subscription.filter, topic):
                    subscription.handler(topic, payload)
        if fault is not None:
            raise fault

    async def subscribe(self, topic_filter: str, handler: Callable[[str, bytes], None]) -> MemorySubscription:
        if self.down is not None:
            raise self.down
        subscription = MemorySubscription(self, topic_filter, handler)
        self.subscriptions.append(subscription)
        return subscription


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT 3.1.1, 4.7, as far as it is used here."""
    parts, levels = topic_filter.split("/"), topic.split("/")
    return len(parts) == len(levels) and all(part in ("+", level) for part, level in zip(parts, levels, strict=True))


def columns(*values: float, tag: str = "T") -> Columns:
    return Columns(
        ValueType.DOUBLE,
        (Series(tag),),
        np.zeros(len(values), dtype=np.int32),
        np.arange(len(values), dtype=np.int64),
        np.array(values, dtype=np.float64),
    )


def outlet(bus: MemoryBus, source: str = "line1", **options: Any) -> Outlet:
    return Outlet(bus, "opcua-collector", source, max_bytes=7_000, **options)


async def eventually(condition: Callable[[], bool], state: Callable[[], object], limit: float = 30.0) -> None:
    """Wait until the condition holds; fails with the state."""
    deadline = asyncio.get_running_loop().time() + limit
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {limit} s: {state()}"
        await asyncio.sleep(0.005)


class Collected:
    """A handler that keeps what it got."""

    def __init__(self) -> None:
        self.batches: list[SampleBatch | EventBatch] = []

    async def __call__(self, batch: SampleBatch | EventBatch) -> None:
        self.batches.append(batch)

    def values(self) -> list[Any]:
        return [row.value for of in self.batches if isinstance(of, SampleBatch) for row in of.columns.samples()]


@contextlib.asynccontextmanager
async def following(bus: MemoryBus, handler: Any, **options: Any) -> AsyncIterator[Inlet]:
    inlet = Inlet(bus, ["sluice/data/+/+"], **options)
    await inlet.start(handler)
    try:
        yield inlet
    finally:
        await inlet.close()


@contextlib.asynccontextmanager
async def announcing(*outlets: Outlet) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each.run()) for each in outlets]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- the outlet ---


async def test_samples_flow_from_outlet_to_handler_in_order() -> None:
    bus, collected = MemoryBus(), Collected()
    source = outlet(bus)
    async with following(bus, collected) as inlet, announcing(source):
        for n in range(100):
            await source.send(columns(float(n)))
        await eventually(lambda: len(collected.batches) == 100, inlet.status)
    assert collected.values() == [float(n) for n in range(100)]
    told = source.ledgers()["opcua-collector/line1"]
    assert (told["received"], told["published"], told["dropped"], told["in_flight"]) == (100, 100, 0, 0)
    assert {topic for topic, _ in bus.published} == {TOPIC}


async def test_samples_left_out_on_purpose_stand_in_the_ledger() -> None:
    source = outlet(MemoryBus())
    source.filtered(3)
    assert (source.ledger.received, source.ledger.filtered, source.ledger.in_flight) == (3, 3, 0)


async def test_events_have_a_stream_of_their_own_that_exists_once_it_is_used() -> None:
    bus, collected = MemoryBus(), Collected()
    source = outlet(bus, announce_every=0.02)
    inlet = Inlet(bus, ["sluice/data/+/+", "sluice/data/+/+/events"])
    await inlet.start(collected)
    async with announcing(source):
        await eventually(lambda: len(bus.published) > 3, lambda: bus.published)
        assert {topic for topic, _ in bus.published} == {TOPIC}
        await source.send_events([{"type": "gap", "n": 1}])
        await eventually(lambda: len(collected.batches) == 1, inlet.status)
        announced = len([topic for topic, _ in bus.published if topic == f"{TOPIC}/events"])
        await eventually(
            lambda: len([topic for topic, _ in bus.published if topic == f"{TOPIC}/events"]) > announced + 1,
            lambda: bus.published,
        )
    await inlet.close()
    (batch,) = collected.batches
    assert isinstance(batch, EventBatch)
    assert (batch.header.stream, batch.events) == ("opcua-collector/line1/events", ({"type": "gap", "n": 1},))
    assert source.ledgers()["opcua-collector/line1/events"]["published"] == 1


async def test_a_bus_that_is_away_for_a_moment_loses_and_doubles_nothing() -> None:
    bus, collected = MemoryBus(), Collected()
    source = outlet(bus)
    async with following(bus, collected) as inlet:
        await source.send(columns(1.0))
        bus.faults = [IpcDisconnected("gone"), IpcTimeout("no reply")]
        await source.send(columns(2.0))
        await source.send(columns(3.0))
        await eventually(lambda: len(collected.batches) == 3, inlet.status)
    assert collected.values() == [1.0, 2.0, 3.0]
    assert (source.ledger.dropped, source.trouble) == (0, "")


async def test_a_publish_that_timed_out_but_had_arrived_is_not_doubled() -> None:
    bus, collected = MemoryBus(), Collected()
    source = outlet(bus)
    async with following(bus, collected) as inlet:
        bus.faults, bus.delivers_before_fault = [IpcTimeout("no reply")], True
        await source.send(columns(1.0))
        await source.send(columns(2.0))
        await eventually(lambda: len(collected.batches) == 2, inlet.status)
        assert inlet.consumer.counters["repeats"] == 1
    assert collected.values() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("error", "patience"),
    [(IpcDisconnected("gone"), 0.15), (IpcUnauthorized("PublishToTopic", TOPIC), 1_000.0)],
    ids=["away for longer than patience", "not allowed"],
)
async def test_what_the_bus_does_not_take_is_counted_as_dropped_and_the_consumer_sees_the_gap(
    error: IpcError, patience: float
) -> None:
    bus, collected = MemoryBus(), Collected()
    source = outlet(bus, patience=patience)
    async with following(bus, collected) as inlet:
        await source.send(columns(1.0))
        bus.down = error
        await source.send(columns(2.0, 2.5))
        assert str(error) in source.trouble
        bus.down = None
        await source.send(columns(3.0))
        await eventually(lambda: len(collected.batches) == 2, inlet.status)
        assert [(gap.first, gap.last) for gap in inlet.gaps] == [(2, 2)]
        told = inlet.status()["recent_gaps"]
    assert [gap.split()[0] + " " + gap.split()[2] for gap in told] == ["opcua-collector/line1 2-2"]
    assert collected.values() == [1.0, 3.0]
    assert (source.ledger.received, source.ledger.published, source.ledger.dropped) == (4, 2, 2)
    assert source.trouble == ""


async def test_a_lost_end_is_reported_by_the_next_announcement() -> None:
    bus, collected = MemoryBus(), Collected()
    source = outlet(bus, announce_every=0.02)
    async with following(bus, collected) as inlet:
        await source.send(columns(1.0))
        (subscription,) = bus.subscriptions
        subscription.alive = False
        await source.send(columns(2.0))
        subscription.alive = True
        async with announcing(source):
            await eventually(lambda: len(inlet.gaps) == 1, inlet.status)
        assert [(gap.first, gap.last) for gap in inlet.gaps] == [(2, 2)]


async def test_a_send_that_is_cancelled_leaves_the_ledger_balanced_and_the_numbering_whole() -> None:
    bus, collected = MemoryBus(), Collected()
    source = outlet(bus)
    async with following(bus, collected) as inlet:
        bus.gate.clear()
        rng = np.random.default_rng(1)
        sending = asyncio.create_task(source.send(columns(*rng.random(5_000))))
        await eventually(lambda: source.ledger.received == 5_000, source.ledgers)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        bus.gate.set()
        assert (source.ledger.in_flight, source.ledger.dropped) == (0, 5_000)
        await source.send(columns(7.0))
        await eventually(lambda: len(collected.batches) == 1, inlet.status)
    assert decode(bus.published[-1][1]).header.seq == source.ledger.newest  # type: ignore[union-attr]


async def test_columns_that_cannot_be_encoded_are_dropped_and_the_next_ones_flow() -> None:
    bus = MemoryBus()
    source = outlet(bus)
    with pytest.raises(BatchError):
        await source.send(columns(1.0, tag="\ud800"))
    await source.send(columns(2.0))
    assert (source.ledger.dropped, source.ledger.published, source.ledger.newest) == (1, 1, 1)


async def test_announcing_goes_on_while_the_bus_is_away() -> None:
    bus = MemoryBus()
    source = outlet(bus, announce_every=0.02)
    async with announcing(source):
        await eventually(lambda: len(bus.published) > 1, lambda: bus.published)
        bus.faults = [IpcDisconnected("gone")] * 3
        await eventually(lambda: not bus.faults, lambda: bus.faults)
        count = len(bus.published)
        await eventually(lambda: len(bus.published) > count, lambda: bus.published)


# --- the inlet ---


async def test_a_subscription_that_dies_silently_is_noticed_and_renewed() -> None:
    bus, collected = MemoryBus(), Collected()
    source = outlet(bus, announce_every=0.02)
    async with following(bus, collected, quiet_after=0.2) as inlet, announcing(source):
        await source.send(columns(1.0))
        (subscription,) = bus.subscriptions
        subscription.alive = False
        await source.send(columns(2.0))
        await eventually(lambda: subscription.renewed == 1, inlet.status)
        await source.send(columns(3.0))
        await eventually(lambda: len(collected.batches) == 2, inlet.status)
        assert [(gap.first, gap.last) for gap in inlet.gaps] == [(2, 2)]
        assert inlet.counters["renewals"] == 1
    assert collected.values() == [1.0, 3.0]


async def test_a_subscription_with_announcements_is_left_alone_although_no_data_comes() -> None:
    bus = MemoryBus()
    source = outlet(bus, announce_every=0.02)
    async with following(bus, Collected(), quiet_after=0.2) as inlet, announcing(source):
        await eventually(lambda: len(bus.published) > 30, lambda: len(bus.published))
        assert bus.subscriptions[0].renewed == 0
        assert inlet.consumer.counters["announcements"] > 0


async def test_a_subscription_on_which_nothing_ever_comes_is_renewed_ever_more_seldom() -> None:
    bus = MemoryBus()
    async with following(bus, Collected(), quiet_after=0.03) as inlet:
        loop = asyncio.get_running_loop()
        at = []
        for n in (1, 2, 3, 4):
            await eventually(lambda n=n: bus.subscriptions[0].renewed >= n, inlet.status)  # type: ignore[misc]
            at.append(loop.time())
    assert at[3] - at[2] > 1.5 * (at[1] - at[0]), at


async def test_a_subscription_that_the_bus_itself_is_renewing_is_left_to_it() -> None:
    bus = MemoryBus()
    async with following(bus, Collected(), quiet_after=0.02) as inlet:
        bus.subscriptions[0].active = False
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await eventually(lambda: loop.time() > begun + 0.2, inlet.status)
        assert (bus.subscriptions[0].renewed, inlet.counters["renewals"]) == (0, 0)


async def test_a_handler_that_fails_costs_its_batch_only() -> None:
    bus, done = MemoryBus(), list[int]()

    async def handler(batch: SampleBatch | EventBatch) -> None:
        if batch.header.seq == 2:
            raise RuntimeError("cannot")
        done.append(batch.header.seq)

    source = outlet(bus)
    async with following(bus, handler) as inlet:
        for n in range(3):
            await source.send(columns(float(n)))
        await eventually(lambda: done == [1, 3], inlet.status)
        assert inlet.counters["failed"] == 1


async def test_input_that_is_not_believed_is_counted_and_the_stream_goes_on() -> None:
    bus, collected = MemoryBus(), Collected()
    source = outlet(bus)
    async with following(bus, collected) as inlet:
        await source.send(columns(1.0))
        await bus.publish(TOPIC, b"junk")
        await bus.publish("sluice/data/mqtt-bridge/plant", bus.published[0][1])
        await source.send(columns(2.0))
        await eventually(lambda: len(collected.batches) == 2, inlet.status)
        told = inlet.status()
    assert (told["malformed"], told["forged"], told["gaps"]) == (1, 1, 0)


async def test_a_handler_that_stalls_bounds_the_queue_and_what_it_missed_is_a_gap() -> None:
    bus, go, done = MemoryBus(), asyncio.Event(), list[int]()

    async def handler(batch: SampleBatch | EventBatch) -> None:
        await go.wait()
        done.append(batch.header.seq)

    source = outlet(bus, compress=False)
    async with following(bus, handler, queue_bytes=20_000) as inlet:
        for n in range(500):
            await source.send(columns(float(n)))
        assert inlet.status()["queued_bytes"] <= 20_000
        overflowed = inlet.counters["overflowed"]
        assert overflowed > 400
        go.set()
        await eventually(lambda: inlet.status()["queued_bytes"] == 0, inlet.status)
        await source.send(columns(1.0))
        await eventually(lambda: bool(done) and done[-1] == 501, inlet.status)
        assert sum(len(gap) for gap in inlet.gaps) == overflowed == 501 - len(done)


async def test_others_run_while_a_handler_that_never_waits_works_off_a_long_queue() -> None:
    bus, collected = MemoryBus(), Collected()
    source = outlet(bus)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with following(bus, collected) as inlet:
        for n in range(200):
            await source.send(columns(float(n)))
        task = asyncio.create_task(others())
        await eventually(lambda: len(collected.batches) == 200, inlet.status)
        task.cancel()
    assert turns >= 100


async def test_a_refused_subscription_is_told_to_whoever_starts_the_inlet() -> None:
    bus = MemoryBus()
    bus.down = IpcUnauthorized("SubscribeToTopic", "sluice/data/+/+")
    inlet = Inlet(bus, ["sluice/data/+/+"])
    with pytest.raises(IpcUnauthorized, match="accessControl"):
        await inlet.start(Collected())
    bus.down = None
    await inlet.start(Collected())
    await inlet.close()
    assert bus.subscriptions == []


async def test_what_is_queued_when_the_inlet_is_closed_is_still_worked_on() -> None:
    bus, collected = MemoryBus(), Collected()
    source = outlet(bus)
    async with following(bus, collected):
        for n in range(50):
            await source.send(columns(float(n)))
    assert len(collected.batches) == 50


async def test_closing_does_not_wait_for_a_handler_that_stalls() -> None:
    bus, begun = MemoryBus(), asyncio.Event()

    async def handler(batch: SampleBatch | EventBatch) -> None:
        begun.set()
        await asyncio.Event().wait()

    inlet = Inlet(bus, ["sluice/data/+/+"])
    await inlet.start(handler)
    await outlet(bus).send(columns(1.0))
    await begun.wait()
    await asyncio.wait_for(inlet.close(), 3)


async def test_after_close_nothing_is_worked_on() -> None:
    bus, collected = MemoryBus(), Collected()
    async with following(bus, collected):
        pass
    await outlet(bus).send(columns(1.0))
    assert (collected.batches, bus.subscriptions) == ([], [])


async def test_the_status_names_cursors_and_silent_streams() -> None:
    bus, collected = MemoryBus(), Collected()
    source = outlet(bus)
    async with following(bus, collected) as inlet:
        await source.send(columns(1.0))
        await eventually(lambda: len(collected.batches) == 1, inlet.status)
        told = inlet.status()
        assert told["streams"]["opcua-collector/line1"]["newest"] == 1
        assert told["silent"] == []
        now = asyncio.get_running_loop().time()
        assert inlet.consumer.silent(now + SILENT_AFTER + 1) == ["opcua-collector/line1"]
