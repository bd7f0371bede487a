"""Delivery: numbering, announcing, and what a consumer makes of a bus that loses and repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.batch import (
    Announcement,
    BatchError,
    Columns,
    EventBatch,
    Header,
    SampleBatch,
    Series,
    ValueType,
    decode,
    encode,
    encode_announcement,
    encode_events,
)
from sluice.delivery import (
    FORGET_AFTER,
    MAX_EPOCHS,
    MAX_REGRESSIONS,
    SILENT_AFTER,
    Consumer,
    Gap,
    Producer,
    Received,
    data_topic,
    new_epoch,
)

STREAM = "opcua-collector/line1"
TOPIC = "sluice/data/opcua-collector/line1"
EPOCH, OTHER = "000000000001", "000000000002"


def columns(*values: float, tag: str = "T") -> Columns:
    return Columns(
        ValueType.DOUBLE,
        (Series(tag),),
        np.zeros(len(values), dtype=np.int32),
        np.arange(len(values), dtype=np.int64),
        np.array(values, dtype=np.float64),
    )


def batch(seq: int, epoch: str = EPOCH, stream: str = STREAM) -> bytes:
    return encode(Header(stream, epoch, seq), columns(float(seq)))


def announce(newest: int, epoch: str = EPOCH, stream: str = STREAM) -> bytes:
    return encode_announcement(Announcement(stream, epoch, newest + 1, newest))


def seqs(received: Received) -> list[int]:
    return [of.header.seq for of in received.batches]


def gaps(received: Received) -> list[tuple[int, int]]:
    return [(gap.first, gap.last) for gap in received.gaps]


# --- the producer ---


def test_a_producer_numbers_its_batches_from_1_and_an_independent_reader_finds_the_samples() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    frames = producer.add(columns(1.0, 2.0)) + producer.add(columns(3.0))
    assert [(frame.seq, frame.samples) for frame in frames] == [(1, 2), (2, 1)]
    first = decode(frames[0].payload)
    assert isinstance(first, SampleBatch)
    assert first.header == Header(STREAM, EPOCH, 1)
    assert first.columns.same_as(columns(1.0, 2.0))
    assert producer.topic == TOPIC


def test_a_large_batch_becomes_frames_that_fit_and_are_numbered_on() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=1_000)
    rng = np.random.default_rng(1)
    frames = producer.add(columns(*rng.random(1_000)))
    assert len(frames) > 5
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
    assert max(len(frame.payload) for frame in frames) <= 1_000
    assert sum(frame.samples for frame in frames) == 1_000


def test_events_are_numbered_like_samples() -> None:
    producer = Producer(f"{STREAM}/events", EPOCH, max_bytes=1_000)
    frames = producer.add_events([{"type": "alarm", "n": n, "text": "x" * 100} for n in range(30)])
    batches = [decode(frame.payload) for frame in frames]
    assert [of.header.seq for of in batches if isinstance(of, EventBatch)] == list(range(1, len(frames) + 1))
    assert [event["n"] for of in batches if isinstance(of, EventBatch) for event in of.events] == list(range(30))


def test_frames_of_another_size_continue_the_numbering() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    assert [frame.seq for frame in producer.add(columns(*map(float, range(10))))] == [1]
    producer.resize(700, compress=False)
    frames = producer.add(columns(*map(float, range(200))))
    assert [frame.seq for frame in frames] == list(range(2, len(frames) + 2))
    assert len(frames) > 1
    assert max(len(frame.payload) for frame in frames) <= 700


def test_a_consumer_that_forgot_a_stream_joins_it_again_without_a_gap() -> None:
    consumer = Consumer()
    consumer.receive(TOPIC, batch(1), 0.0)
    consumer.forget(lambda topic: topic == TOPIC)
    received = consumer.receive(TOPIC, batch(7), 1.0)
    assert (seqs(received), gaps(received)) == ([7], [])


def test_nothing_to_send_spends_no_number() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    assert producer.add(columns()) == []
    assert producer.add_events([]) == []
    assert [frame.seq for frame in producer.add(columns(1.0))] == [1]


def test_announcements_come_at_once_and_then_every_2_seconds_and_name_what_was_settled() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    assert decode(producer.announcement(100.0) or b"") == Announcement(STREAM, EPOCH, 1, 0)
    sent, lost, waiting = (producer.add(columns(1.0))[0] for _ in range(3))
    assert producer.announcement(101.9) is None
    assert producer.due_in(101.5) == pytest.approx(0.5)
    producer.sent(sent)
    producer.lost(lost)
    assert decode(producer.announcement(102.0) or b"") == Announcement(STREAM, EPOCH, 3, 2), (
        f"{waiting.seq} is on its way"
    )
    assert producer.announcement(102.1) is None


def test_the_ledger_balances_whatever_becomes_of_the_samples() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=1_000)
    producer.ledger.filter(3)
    (first,) = producer.add(columns(1.0, 2.0))
    (second,) = producer.add(columns(3.0, 4.0, 5.0))
    producer.add(columns(6.0))
    producer.add(columns(7.0, tag="".join(chr(0x4E00 + i) for i in range(2_000))))
    with pytest.raises(BatchError):
        producer.add(columns(8.0, 9.0, tag="\ud800"))
    producer.sent(first)
    producer.lost(second)
    told = producer.ledger.as_dict()
    assert told == {
        "received": 12,
        "filtered": 3,
        "published": 2,
        "dropped": 3 + 1 + 2,
        "in_flight": 1,
        "too_large": 0,
        "batches": 1,
        "bytes": len(first.payload),
        "newest": 3,
    }
    assert told["received"] == told["filtered"] + told["published"] + told["dropped"] + told["in_flight"]


def test_a_sample_that_lost_its_value_to_the_frame_is_counted() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=1_000)
    text: Any = np.array(["".join(chr(0x4E00 + i) for i in range(2_000))], dtype=object)
    zero = np.zeros(1, dtype=np.int64)
    producer.add(Columns(ValueType.STRING, (Series("T"),), zero.astype(np.int32), zero, text))
    assert (producer.ledger.too_large, producer.ledger.dropped) == (1, 0)


@pytest.mark.parametrize(("stream", "epoch"), [("line1", EPOCH), ("a/#", EPOCH), ("a/b/c", EPOCH), (STREAM, "1")])
def test_a_producer_takes_only_names_that_consumers_accept(stream: str, epoch: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        Producer(stream, epoch, max_bytes=7_000)


def test_epochs_differ() -> None:
    assert len({new_epoch() for _ in range(1_000)}) == 1_000
    Producer(STREAM, new_epoch(), max_bytes=7_000)


# --- the consumer, rule by rule ---


def test_a_consumer_joins_a_stream_where_it_stands() -> None:
    consumer = Consumer()
    received = consumer.receive(TOPIC, batch(17), 0.0)
    assert (seqs(received), gaps(received), received.new_epoch, received.rejected) == ([17], [], None, None)
    assert seqs(consumer.receive(TOPIC, batch(18), 0.0)) == [18]
    assert consumer.cursors() == {STREAM: {"epoch": EPOCH, "newest": 18}}


def test_a_stream_first_known_by_its_announcement_misses_nothing_silently_from_there_on() -> None:
    consumer = Consumer()
    consumer.receive(TOPIC, announce(0), 0.0)
    received = consumer.receive(TOPIC, batch(3), 0.0)
    assert (seqs(received), gaps(received)) == ([3], [(1, 2)])


def test_a_jump_is_a_gap_that_names_stream_epoch_and_numbers() -> None:
    consumer = Consumer()
    consumer.receive(TOPIC, batch(1), 0.0)
    received = consumer.receive(TOPIC, batch(5), 0.0)
    assert received.gaps == (Gap(STREAM, EPOCH, 2, 4),)
    assert (len(received.gaps[0]), seqs(received)) == (3, [5])
    assert (consumer.counters["gaps"], consumer.counters["missing"]) == (1, 3)


def test_a_lost_end_is_told_by_the_next_announcement_and_only_once() -> None:
    consumer = Consumer()
    consumer.receive(TOPIC, batch(1), 0.0)
    assert gaps(consumer.receive(TOPIC, announce(4), 0.0)) == [(2, 4)]
    assert gaps(consumer.receive(TOPIC, announce(4), 0.0)) == []
    assert gaps(consumer.receive(TOPIC, batch(5), 0.0)) == []


def test_a_repeat_is_dropped_and_counted() -> None:
    consumer = Consumer()
    for seq in (1, 2, 2, 1, 3):
        consumer.receive(TOPIC, batch(seq), 0.0)
    assert (consumer.counters["repeats"], consumer.counters["batches"], consumer.counters["gaps"]) == (2, 3, 0)


def test_a_new_epoch_starts_at_1_and_what_of_it_was_missed_is_a_gap() -> None:
    consumer = Consumer()
    consumer.receive(TOPIC, batch(8), 0.0)
    received = consumer.receive(TOPIC, batch(1, OTHER), 0.0)
    assert (seqs(received), gaps(received), received.new_epoch) == ([1], [], OTHER)
    third = consumer.receive(TOPIC, batch(4, "000000000003"), 0.0)
    assert (seqs(third), third.gaps) == ([4], (Gap(STREAM, "000000000003", 1, 3),))
    fourth = consumer.receive(TOPIC, announce(2, "000000000004"), 0.0)
    assert (fourth.gaps, fourth.new_epoch) == ((Gap(STREAM, "000000000004", 1, 2),), "000000000004")
    assert consumer.counters["new_epochs"] == 3


def test_two_producers_of_one_stream_do_not_disturb_each_other() -> None:
    consumer = Consumer()
    consumer.receive(TOPIC, announce(0), 0.0)
    for seq in range(1, 20):
        for epoch in (EPOCH, OTHER):
            received = consumer.receive(TOPIC, batch(seq, epoch), 0.0)
            assert (seqs(received), gaps(received)) == ([seq], [])


def test_a_flood_of_forged_epochs_does_not_disturb_the_true_one() -> None:
    consumer = Consumer()
    consumer.receive(TOPIC, batch(1), 0.0)
    for n in range(50):
        consumer.receive(TOPIC, batch(1, f"{n + 16:012x}"), 0.0)
        if n % (MAX_EPOCHS - 1) == 0:
            received = consumer.receive(TOPIC, batch(2 + n // (MAX_EPOCHS - 1)), 0.0)
            assert (len(received.batches), gaps(received), received.new_epoch) == (1, [], None)


def test_an_announcement_of_less_than_was_received_is_rejected_until_it_is_insisted_on() -> None:
    consumer = Consumer()
    for seq in (1, 2, 1_000_000):  # the last one is forged
        consumer.receive(TOPIC, batch(seq), 0.0)
    assert seqs(consumer.receive(TOPIC, batch(3), 0.0)) == []
    for _ in range(MAX_REGRESSIONS):
        told = consumer.receive(TOPIC, announce(3), 0.0).rejected
        assert told == f"stream '{STREAM}' announces 3 as its newest batch, but 1000000 was received"
    assert seqs(consumer.receive(TOPIC, batch(4), 0.0)) == [4]
    assert consumer.counters["regressed"] == MAX_REGRESSIONS


def test_late_copies_of_announcements_from_an_overlapping_subscription_change_nothing() -> None:
    consumer = Consumer()
    consumer.receive(TOPIC, batch(1), 0.0)
    for seq in range(2, 20):
        assert seqs(consumer.receive(TOPIC, batch(seq), 0.0)) == [seq]
        consumer.receive(TOPIC, announce(seq - 2), 0.0)
        assert seqs(consumer.receive(TOPIC, batch(seq), 0.0)) == []


@pytest.mark.parametrize(
    ("topic", "payload", "counter", "told"),
    [
        (TOPIC, b"\xff\x00junk", "malformed", "payload: not JSON"),
        (TOPIC, batch(1)[:-3], "malformed", "payload"),
        (TOPIC, b'{"v":1,"kind":"status"}', "malformed", "kind: 'status' is none of"),
        (TOPIC, batch(1, stream="opcua-collector/line2"), "forged", "claims to be of stream 'opcua-collector/line2'"),
        (f"{TOPIC}/events", batch(1), "forged", "claims to be of stream 'opcua-collector/line1'"),
        ("sluice/status/opcua-collector", batch(1), "foreign", "is no data topic"),
        ("other/topic", batch(1), "foreign", "is no data topic"),
        ("x" * 5_000, b"", "foreign", "is no data topic"),
    ],
)
def test_input_that_is_not_believed_is_counted_explained_and_disturbs_nothing(
    topic: str, payload: bytes, counter: str, told: str
) -> None:
    consumer = Consumer()
    consumer.receive(TOPIC, batch(1), 0.0)
    received = consumer.receive(topic, payload, 1.0)
    assert (received.batches, received.gaps, received.new_epoch) == ((), (), None)
    assert told in (received.rejected or "")
    assert len(received.rejected or "") < 500
    assert consumer.counters[counter] == 1
    after = consumer.receive(TOPIC, batch(2), 0.0)
    assert (seqs(after), gaps(after)) == ([2], [])
    assert list(consumer.cursors()) == [STREAM]


@given(st.text(max_size=40), st.binary(max_size=100))
def test_nothing_that_arrives_makes_the_consumer_raise(topic: str, payload: bytes) -> None:
    consumer = Consumer()
    assert consumer.receive(topic, payload, 0.0).rejected
    assert consumer.receive(TOPIC, payload, 0.0).rejected


def test_events_and_samples_of_a_source_are_two_streams() -> None:
    consumer = Consumer()
    consumer.receive(TOPIC, batch(1), 0.0)
    payload = encode_events(Header(f"{STREAM}/events", EPOCH, 1), [{"type": "gap"}, {"type": "alarm"}])
    received = consumer.receive(f"{TOPIC}/events", payload, 0.0)
    assert (seqs(received), gaps(received)) == ([1], [])
    assert (consumer.counters["samples"], consumer.counters["events"]) == (1, 2)


def test_no_more_streams_are_followed_than_the_limit_and_those_known_go_on() -> None:
    consumer = Consumer(max_streams=1_000)
    for n in range(1_001):
        stream = f"p/s{n}"
        received = consumer.receive(data_topic(stream), batch(1, stream=stream), 0.0)
        assert bool(received.rejected) == (n == 1_000), received
    assert consumer.counters["refused"] == 1
    assert seqs(consumer.receive(data_topic("p/s0"), batch(2, stream="p/s0"), FORGET_AFTER)) == [2]
    assert consumer.receive(data_topic("p/new"), batch(1, stream="p/new"), FORGET_AFTER).rejected
    assert seqs(consumer.receive(data_topic("p/new"), batch(1, stream="p/new"), FORGET_AFTER + 1)) == [1]
    assert len(consumer.cursors()) == 1_000


def test_a_stream_is_silent_when_nothing_not_even_an_announcement_came_for_6_seconds() -> None:
    consumer = Consumer()
    consumer.receive(TOPIC, announce(0), 100.0)
    consumer.receive(data_topic("p/other"), batch(1, stream="p/other"), 103.0)
    assert consumer.silent(100.0 + SILENT_AFTER) == []
    assert consumer.silent(106.1) == [STREAM]
    assert consumer.silent(110.0) == [STREAM, "p/other"]
    consumer.receive(TOPIC, announce(0), 110.0)
    assert consumer.silent(110.0) == ["p/other"]


# --- producer and consumer over a lossy bus, judged by what went in and what came out ---


plans = st.lists(
    st.sampled_from(
        [
            "batch",
            "batch",
            "lost batch",
            "repeated batch",
            "late repeat",
            "announce",
            "lost announce",
            "junk",
            "restart",
        ]
    ),
    max_size=60,
)


@given(st.lists(plans, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_over_a_bus_that_loses_and_repeats_every_batch_is_given_on_once_in_order_or_reported_missing(
    streams: list[list[str]], order: Any
) -> None:
    consumer = Consumer()
    produced: dict[tuple[str, str], list[int]] = {}
    out: dict[tuple[str, str], list[int]] = {}
    missing: dict[tuple[str, str], list[int]] = {}

    def deliver(producer: Producer, payload: bytes) -> None:
        received = consumer.receive(producer.topic, payload, 0.0)
        for of in received.batches:
            assert isinstance(of, SampleBatch)
            assert [row.value for row in of.columns.samples()] == [float(of.header.seq)]
            out.setdefault((of.header.stream, of.header.epoch), []).append(of.header.seq)
        for gap in received.gaps:
            missing.setdefault((gap.stream, gap.epoch), []).extend(range(gap.first, gap.last + 1))

    def begin(stream: str) -> Producer:
        producer = Producer(stream, new_epoch(), max_bytes=7_000, announce_every=0.0)
        produced[stream, producer.epoch] = []
        return producer

    def announced(producer: Producer) -> bytes:
        payload = producer.announcement(0.0)
        assert payload is not None
        return payload

    producers = {f"p/s{n}": begin(f"p/s{n}") for n in range(len(streams))}
    for producer in producers.values():
        deliver(producer, announced(producer))
    steps = [(f"p/s{n}", action) for n, plan in enumerate(streams) for action in plan]
    by_stream = [[step for step in steps if step[0] == stream] for stream in producers]
    while any(by_stream):  # any interleaving of the streams, each in its own order
        stream, action = order.choice([queue for queue in by_stream if queue]).pop(0)
        producer = producers[stream]
        if action == "restart":
            deliver(producer, announced(producer))
            producers[stream] = begin(stream)
        elif action == "junk":
            deliver(producer, b"junk")
        elif "announce" in action:
            payload = announced(producer)
            if action == "announce":
                deliver(producer, payload)
        else:
            numbers = produced[stream, producer.epoch]
            if action == "late repeat":
                if numbers:
                    deliver(producer, batch(order.choice(numbers), producer.epoch, stream))
                continue
            numbers.append(len(numbers) + 1)
            (frame,) = producer.add(columns(float(len(numbers))))
            producer.sent(frame)
            for _ in range({"batch": 1, "lost batch": 0, "repeated batch": 2}[action]):
                deliver(producer, frame.payload)
    for producer in producers.values():
        deliver(producer, announced(producer))

    for key, numbers in produced.items():
        given_on, gone = out.get(key, []), missing.get(key, [])
        assert given_on == sorted(set(given_on)), "each once, in order"
        assert gone == sorted(set(gone)), "each missing one told once"
        assert sorted(given_on + gone) == numbers, "and together they are what was produced"
