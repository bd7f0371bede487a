"""Delivery, rule by rule: numbering, announcing, retention; what a reader takes, drops, misses and disbelieves."""

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
from sluice.cursors import Cursor, MessageError
from sluice.delivery import (
    ANNOUNCE_EVERY,
    EXPIRY_UPTIME,
    FORGET_AFTER,
    HEARD_WITHIN,
    LIVE_WINDOW,
    MAX_CONSUMERS,
    MAX_EPOCHS,
    MAX_REGRESSIONS,
    Consumer,
    Frame,
    Gap,
    Producer,
    Received,
    Registration,
    data_topic,
    parse,
    replay_topic,
)

STREAM = "opcua-collector/line1"
TOPIC = "sluice/data/opcua-collector/line1"
ME = "stream-exporter"
REPLAY = "sluice/replay/stream-exporter/opcua-collector/line1"
EPOCH, OTHER = "000000000001", "000000000002"
KEY = (STREAM, EPOCH)
DAY = 86_400.0


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


def announce(newest: int, epoch: str = EPOCH, stream: str = STREAM, oldest: int = 1) -> bytes:
    return encode_announcement(Announcement(stream, epoch, oldest, newest))


def offer(
    consumer: Consumer, payload: bytes, now: float = 0.0, *, replayed: bool = False, room: bool = True
) -> Received:
    """What becomes of a message on the topic that it belongs to."""
    of: Any = decode(payload)
    stream = of.stream if isinstance(of, Announcement) else of.header.stream
    topic = replay_topic(ME, stream) if replayed else data_topic(stream)
    return consumer.offer(parse(topic, payload, ME), now, room)


def taken(consumer: Consumer, *numbers: int, epoch: str = EPOCH) -> list[int]:
    """The numbers that are given on when these arrive, each with room for it."""
    received = [offer(consumer, batch(number, epoch)) for number in numbers]
    return [of.batch.header.seq for of in received if of.batch is not None]


def following(oldest: int = 1, newest: int = 0) -> Consumer:
    """A reader that has heard one announcement."""
    consumer = Consumer()
    offer(consumer, announce(newest, oldest=oldest))
    return consumer


def stored(producer: Producer, *values: float) -> list[Frame]:
    """Frames that are committed, one per value."""
    frames = [frame for value in values for frame in producer.add(columns(value))]
    producer.stored(frames)
    return frames


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


def test_nothing_to_send_spends_no_number() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    assert producer.add(columns()) == []
    assert producer.add_events([]) == []
    assert [frame.seq for frame in producer.add(columns(1.0))] == [1]


def test_a_producer_goes_on_where_an_earlier_run_ended() -> None:
    producer = Producer(
        STREAM, EPOCH, max_bytes=7_000, number=42, ledger={"received": 90, "stored": 80, "filtered": 10}
    )
    assert (producer.newest, producer.durable) == (41, 41)
    assert decode(producer.announcement(oldest=7)) == Announcement(STREAM, EPOCH, 7, 41)
    assert [frame.seq for frame in producer.add(columns(1.0))] == [42]
    assert producer.ledger.settled()["stored"] == 81


def test_announced_is_what_was_offered_and_never_what_is_not_stored_yet() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    assert decode(producer.announcement(oldest=1)) == Announcement(STREAM, EPOCH, 1, 0)
    frames = stored(producer, 1.0, 2.0, 3.0)
    producer.add(columns(4.0))
    assert decode(producer.announcement(oldest=1)) == Announcement(STREAM, EPOCH, 1, 0), "nothing was offered yet"
    producer.offered(frames[1].seq)
    assert decode(producer.announcement(oldest=1)) == Announcement(STREAM, EPOCH, 1, 2)
    assert decode(producer.announcement(oldest=4)) == Announcement(STREAM, EPOCH, 4, 3), "all of it had to make room"
    assert producer.durable == 3


def test_the_end_of_an_answer_names_what_the_answer_reached() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000, number=100)
    assert decode(producer.announcement(oldest=5, newest=17)) == Announcement(STREAM, EPOCH, 5, 17)


def test_what_cannot_be_had_any_more_is_replaced_by_an_event_under_its_number() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000, number=100)
    message = decode(producer.instead(17, "unreadable"))
    assert isinstance(message, EventBatch)
    assert message.header == Header(STREAM, EPOCH, 17)
    assert message.events == ({"kind": "gap", "reason": "unreadable", "stream": STREAM, "first": 17, "last": 17},)


def test_the_ledger_balances_whatever_becomes_of_the_samples() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=1_000)
    producer.filter(3)
    producer.drop(1)
    first = producer.add(columns(1.0, 2.0))
    second = producer.add(columns(3.0, 4.0, 5.0))
    third = producer.add(columns(6.0))
    producer.add(columns(7.0, tag="".join(chr(0x4E00 + i) for i in range(2_000))))
    with pytest.raises(BatchError):
        producer.add(columns(8.0, 9.0, tag="\ud800"))
    assert producer.ledger.settled()["stored"] == 6, "what is written along with the commit"
    producer.stored(first)
    producer.stored(second)
    producer.lost(third)
    told = producer.told(kept=5)
    assert {name: told[name] for name in ("received", "filtered", "stored", "dropped", "in_flight", "too_large")} == {
        "received": 13,
        "filtered": 3,
        "stored": 5,
        "dropped": 1 + 1 + 2 + 1,
        "in_flight": 0,
        "too_large": 0,
    }
    producer.add(columns(1.0))
    told = producer.told(kept=5)
    assert told["received"] == told["filtered"] + told["stored"] + told["dropped"] + told["in_flight"]
    assert (told["in_flight"], told["kept"], told["acknowledged"], told["unconsumed"]) == (1, 5, 0, 5)


# --- retention, and who is believed ---


def test_nothing_is_deleted_before_anybody_has_registered() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    stored(producer, 1.0, 2.0)
    assert producer.delete_to() == 0


def test_everything_is_kept_until_the_slowest_registered_consumer_is_done_with_it() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    stored(producer, *map(float, range(10)))
    assert producer.take("a", Cursor(EPOCH, 7, 9), 0.0, 0.0) is None
    assert producer.delete_to() == 7
    assert producer.take("b", Cursor(EPOCH, 3, 11), 0.0, 0.0) is None
    assert producer.delete_to() == 3
    producer.take("b", Cursor(EPOCH, 10, 11), 0.0, 0.0)
    assert producer.delete_to() == 7


def test_a_consumer_that_is_named_holds_everything_before_it_was_ever_heard() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000, named=["b"])
    stored(producer, 1.0, 2.0)
    producer.take("a", Cursor(EPOCH, 2, 3), 0.0, 0.0)
    assert producer.delete_to() == 0
    producer.take("b", Cursor(EPOCH, 1, 3), 0.0, 0.0)
    assert producer.delete_to() == 1


def test_a_consumer_may_go_back_and_what_is_left_is_kept_for_it() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    stored(producer, *map(float, range(10)))
    producer.take("a", Cursor(EPOCH, 7, 9), 0.0, 0.0)
    producer.take("a", Cursor(EPOCH, 2, 3), 0.0, 0.0)
    assert producer.delete_to() == 2


def test_frames_that_the_source_needs_itself_stay_but_count_as_acknowledged() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    stored(producer, *map(float, range(10)))
    producer.keep_after = 4
    producer.take("a", Cursor(EPOCH, 9, 10), 0.0, 0.0)
    assert producer.delete_to() == 4
    told = producer.told(kept=6)  # five of them are there for the source alone
    assert (told["stored"], told["acknowledged"], told["kept"]) == (10, 9, 1)
    producer.keep_after = 9
    assert producer.delete_to() == 9


@pytest.mark.parametrize(
    ("cursor", "counter", "told"),
    [
        (Cursor(OTHER, 1, 2), "unknown_epoch", "epoch 000000000002 of stream 'opcua-collector/line1' is not known"),
        (Cursor(EPOCH, 4, 5), "future", "number 4 of stream 'opcua-collector/line1' does not exist yet"),
        (Cursor(EPOCH, 0, 5), "future", "number 4 of"),
        (Cursor(EPOCH, 2**62, 2**62 + 1), "future", "the newest is 3"),
    ],
)
def test_cursors_that_cannot_be_true_are_counted_explained_and_change_nothing(
    cursor: Cursor, counter: str, told: str
) -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    stored(producer, 1.0, 2.0, 3.0)
    producer.add(columns(4.0))  # on its way to the disk: nobody can have seen it
    producer.take("a", Cursor(EPOCH, 1, 2), 0.0, 0.0)
    assert told in (producer.take("a", cursor, 1.0, 1.0) or "")
    assert producer.counters[counter] == 1
    assert (producer.delete_to(), producer.consumers) == (1, {"a": Registration(1, 0.0, 2, 0.0)})


def test_no_more_consumers_register_than_the_limit_and_those_known_go_on() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    for n in range(MAX_CONSUMERS):
        assert producer.take(f"c{n}", Cursor(EPOCH, 0, 1), 0.0, 0.0) is None
    assert "has 32 consumers already" in (producer.take("one-more", Cursor(EPOCH, 0, 1), 0.0, 0.0) or "")
    assert producer.take("c0", Cursor(EPOCH, 0, 1), 0.0, 0.0) is None
    assert producer.counters["crowded"] == 1


def test_a_consumer_that_is_silent_for_too_long_is_not_waited_for_unless_it_is_named() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000, named=["b"], expiry=7 * DAY)
    stored(producer, 1.0, 2.0)
    for name in ("a", "b", "c"):
        producer.take(name, Cursor(EPOCH, 0, 1), 0.0, 0.0)
    producer.take("c", Cursor(EPOCH, 2, 3), 7 * DAY, 7 * DAY)
    assert producer.expire(7 * DAY + 1, 7 * DAY + 1) == ["a"]
    assert sorted(producer.consumers) == ["b", "c"]
    assert producer.counters["expired"] == 1


def test_a_clock_that_jumps_expires_nobody_who_was_heard_a_moment_ago() -> None:
    known = {"a": Registration(1, heard=0.0)}
    producer = Producer(STREAM, EPOCH, max_bytes=7_000, number=5, consumers=known, expiry=7 * DAY, now=100.0)
    assert producer.expire(100.0 + EXPIRY_UPTIME, 400 * DAY) == [], "it had no time yet to be heard"
    producer.take("a", Cursor(EPOCH, 2, 3), 800.0, 10.0)
    assert producer.expire(801.0, 400 * DAY) == []
    assert producer.expire(801.0 + EXPIRY_UPTIME, 400 * DAY) == ["a"]


def test_what_had_to_make_room_moves_from_stored_to_dropped_and_is_told_as_a_range() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    stored(producer, *map(float, range(10)))
    assert producer.evicted(1, 4, 4) == (1, 4, 4)
    assert (producer.ledger.stored, producer.ledger.dropped) == (6, 4)


def test_what_everybody_has_already_is_not_lost_when_it_makes_room() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000)
    stored(producer, *map(float, range(10)))
    producer.keep_after = 0
    producer.take("a", Cursor(EPOCH, 6, 7), 0.0, 0.0)
    assert producer.evicted(1, 5, 5) is None
    assert producer.evicted(6, 8, 3) == (7, 8, 2)
    assert (producer.ledger.stored, producer.ledger.dropped) == (8, 2)


# --- live, or not ---


def test_guests_listen_while_no_consumer_is_heard() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000, number=5_000, consumers={"a": Registration(1, 0.0)})
    assert producer.live(0.0)


def test_live_publishing_pauses_while_all_consumers_that_are_heard_are_far_behind() -> None:
    producer = Producer(STREAM, EPOCH, max_bytes=7_000, number=5_000)
    producer.take("a", Cursor(EPOCH, 1, 5_000 - LIVE_WINDOW - 1), 0.0, 0.0)
    assert not producer.live(0.0)
    producer.take("b", Cursor(EPOCH, 1, 10), 0.0, 0.0)
    assert not producer.live(1.0)
    producer.take("a", Cursor(EPOCH, 1, 5_000 - LIVE_WINDOW), 2.0, 2.0)
    assert producer.live(2.0)
    assert producer.live(HEARD_WITHIN + 0.5), "of b alone it is not known any more where it stands"
    assert producer.live(2.0 + HEARD_WITHIN + 0.5), "nobody is heard any more"


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


# --- what a reader does with what arrives ---


def test_a_stream_is_followed_from_its_first_announcement_on_where_that_begins() -> None:
    consumer = Consumer()
    assert taken(consumer, 16, 17) == []
    assert consumer.counters["unannounced"] == 2
    offer(consumer, announce(17, oldest=16))
    assert taken(consumer, 16, 17, 18) == [16, 17, 18]
    assert (consumer.counters["joined"], consumer.counters["gaps"]) == (1, 0)
    assert consumer.cursors() == {KEY: 19}


def test_a_cursor_of_an_earlier_run_goes_on_before_anything_is_announced() -> None:
    consumer = Consumer({KEY: 7})
    assert taken(consumer, 6, 7, 8) == [7, 8]
    assert (consumer.counters["repeats"], consumer.counters["unannounced"]) == (1, 0)


def test_only_the_next_batch_is_taken_and_what_is_missing_is_wanted() -> None:
    consumer = following()
    assert taken(consumer, 1, 3, 2, 3, 2, 4) == [1, 2, 3, 4]
    assert (consumer.counters["ahead"], consumer.counters["repeats"]) == (1, 1)
    assert consumer.wants(*KEY) is None
    assert taken(consumer, 9) == []
    assert consumer.wants(*KEY) == 5


def test_batches_of_the_replay_topic_are_taken_by_the_same_rule() -> None:
    consumer = following()
    assert offer(consumer, batch(1), replayed=True).batch is not None
    assert offer(consumer, batch(1)).batch is None
    assert offer(consumer, batch(2)).batch is not None


def test_an_announcement_tells_what_exists_and_was_missed() -> None:
    consumer = following()
    offer(consumer, announce(4))
    assert (consumer.next(*KEY), consumer.wants(*KEY)) == (1, 1)
    offer(consumer, announce(0))
    assert consumer.wants(*KEY) is None, "it was a number that does not exist"


def test_a_reader_without_room_is_behind_until_it_has_room() -> None:
    consumer = following()
    assert offer(consumer, batch(1), room=False).batch is None
    assert (consumer.counters["no_room"], consumer.wants(*KEY)) == (1, 1)
    assert taken(consumer, 1) == [1]


def test_what_the_producer_does_not_keep_any_more_is_a_gap_that_names_stream_epoch_and_numbers() -> None:
    consumer = following()
    taken(consumer, 1)
    received = offer(consumer, announce(9, oldest=5))
    assert received.gap == Gap(STREAM, EPOCH, 2, 4)
    assert (len(received.gap), consumer.next(*KEY), consumer.wants(*KEY)) == (3, 5, 5)
    assert (consumer.counters["gaps"], consumer.counters["missing"]) == (1, 3)
    assert "batches 2 to 4 of stream 'opcua-collector/line1' are lost" in (received.told or "")
    assert offer(consumer, announce(9, oldest=5)).gap is None
    assert taken(consumer, 4, 5) == [5]


def test_a_gap_may_be_told_at_the_end_of_an_answer() -> None:
    consumer = following(newest=9)
    assert offer(consumer, announce(6, oldest=4), replayed=True).gap == Gap(STREAM, EPOCH, 1, 3)
    assert consumer.wants(*KEY) == 4, "9 is still the newest, although the answer ended at 6"


def test_the_end_of_an_answer_to_another_reader_changes_nothing() -> None:
    consumer = following(newest=9)
    taken(consumer, *range(1, 10))
    for n in range(10):
        offer(consumer, announce(3), now=10.0 * n, replayed=True)
    assert (consumer.next(*KEY), consumer.counters["regressed"]) == (10, 0)


def test_an_answer_does_not_begin_an_epoch() -> None:
    consumer = Consumer()
    offer(consumer, announce(9, oldest=5), replayed=True)
    assert consumer.cursors() == {}


def test_a_new_epoch_is_followed_from_its_own_oldest_on_and_people_are_told() -> None:
    consumer = following(newest=8)
    taken(consumer, 1, 2)
    received = offer(consumer, announce(3, OTHER))
    assert received.gap is None
    assert received.told == (f"stream '{STREAM}' is numbered anew, in epoch {OTHER}; never received: 3 to 8 of {EPOCH}")
    assert taken(consumer, 1, 2, epoch=OTHER) == [1, 2]
    assert taken(consumer, 3) == [3], "the former one goes on if it comes again"
    assert consumer.counters["new_epochs"] == 1


def test_two_producers_of_one_stream_do_not_disturb_each_others_order() -> None:
    consumer = following()
    offer(consumer, announce(0, OTHER))
    for seq in range(1, 20):
        for epoch in (EPOCH, OTHER):
            assert taken(consumer, seq, epoch=epoch) == [seq]


def test_a_flood_of_forged_epochs_does_not_disturb_the_true_one() -> None:
    consumer = following()
    for n in range(50):
        assert taken(consumer, n + 1) == [n + 1]
        offer(consumer, announce(0, f"{n + 16:012x}"))
        offer(consumer, batch(1, f"{n + 16:012x}"))
    assert len(consumer.cursors()) == MAX_EPOCHS
    assert consumer.counters["refused"] > 0
    assert taken(consumer, 51) == [51]


def test_an_epoch_that_gave_something_makes_room_only_when_it_is_silent_for_long() -> None:
    consumer = Consumer({(STREAM, f"00000000000{n}"): 5 for n in range(1, MAX_EPOCHS + 1)})
    for n in range(1, MAX_EPOCHS + 1):
        offer(consumer, announce(4, f"00000000000{n}"), now=1.0)
    told = offer(consumer, announce(0, "00000000000a"), now=1.0).told
    assert told == f"stream '{STREAM}' has 4 epochs already: who else publishes it?"
    offer(consumer, announce(0, "00000000000a"), now=2.0 + FORGET_AFTER)
    assert consumer.next(STREAM, "00000000000a") == 1


def test_announcements_of_less_than_was_received_are_believed_when_they_insist() -> None:
    consumer = Consumer({KEY: 1_000_001})  # somebody moved it
    for n in range(1, MAX_REGRESSIONS):
        assert offer(consumer, announce(3), now=n * ANNOUNCE_EVERY).told is None
        assert consumer.next(*KEY) == 1_000_001
    told = offer(consumer, announce(3), now=MAX_REGRESSIONS * ANNOUNCE_EVERY).told
    assert (told or "").startswith(f"stream '{STREAM}' announces 3 as its newest batch, but 1000000 was received")
    assert taken(consumer, 4) == [4]
    assert consumer.counters["regressed"] == 1


def test_copies_of_one_late_announcement_do_not_insist() -> None:
    consumer = following(newest=5)
    taken(consumer, 1, 2, 3, 4, 5)
    for _ in range(20):
        offer(consumer, announce(3), now=7.0)
    assert consumer.next(*KEY) == 6


def test_what_is_between_them_takes_the_doubt_away() -> None:
    consumer = following(newest=5)
    taken(consumer, 1, 2, 3, 4, 5)
    for n in range(20):
        offer(consumer, announce(3), now=20.0 * n)
        offer(consumer, announce(5), now=20.0 * n + 10.0)
    assert consumer.next(*KEY) == 6


def test_a_reader_can_go_back_or_pass_over_what_it_does_not_want() -> None:
    consumer = following(newest=9)
    taken(consumer, 1, 2, 3, 4)
    consumer.move(*KEY, 2)
    assert consumer.wants(*KEY) == 2
    assert taken(consumer, 2, 3) == [2, 3]
    consumer.move(*KEY, 8)
    assert taken(consumer, 4, 8) == [8]
    consumer.move("p/s", OTHER, 5)
    assert consumer.next("p/s", OTHER) == 5


# --- what is not believed ---


@pytest.mark.parametrize(
    ("topic", "payload", "counter", "told"),
    [
        (TOPIC, b"\xff\x00junk", "malformed", "payload: not JSON"),
        (TOPIC, batch(1)[:-3], "malformed", "payload"),
        (TOPIC, b'{"v":1,"kind":"cursors"}', "malformed", "kind: 'cursors' is none of"),
        (TOPIC, batch(1, stream="opcua-collector/line2"), "forged", "claims to be of stream 'opcua-collector/line2'"),
        (f"{TOPIC}/events", batch(1), "forged", "claims to be of stream 'opcua-collector/line1'"),
        (REPLAY, batch(1, stream="opcua-collector/line2"), "forged", "claims to be of stream 'opcua-collector/line2'"),
        ("sluice/replay/console/opcua-collector/line1", batch(1), "foreign", "is no data topic"),
        ("sluice/status/opcua-collector", batch(1), "foreign", "is no data topic"),
        ("other/topic", batch(1), "foreign", "is no data topic"),
        ("x" * 5_000, b"", "foreign", "is no data topic"),
    ],
)
def test_a_message_that_is_not_believed_costs_itself_and_says_why(
    topic: str, payload: bytes, counter: str, told: str
) -> None:
    with pytest.raises(MessageError) as refused:
        parse(topic, payload, ME)
    assert refused.value.counter == counter
    assert told in str(refused.value)
    assert len(str(refused.value)) < 500


@given(st.text(max_size=40), st.binary(max_size=100))
def test_nothing_that_arrives_raises_anything_else(topic: str, payload: bytes) -> None:
    for where in (topic, TOPIC, REPLAY):
        with pytest.raises(MessageError):
            parse(where, payload, ME)


def test_events_and_samples_of_a_source_are_two_streams() -> None:
    consumer = following()
    offer(consumer, announce(0, stream=f"{STREAM}/events"))
    taken(consumer, 1)
    payload = encode_events(Header(f"{STREAM}/events", EPOCH, 1), [{"type": "gap"}, {"type": "alarm"}])
    assert offer(consumer, payload).batch is not None
    assert (consumer.counters["samples"], consumer.counters["events"]) == (1, 2)


def test_no_more_streams_are_followed_than_the_limit_and_those_known_go_on() -> None:
    consumer = Consumer(max_streams=1_000)
    for n in range(1_001):
        told = offer(consumer, announce(0, stream=f"p/s{n}")).told
        assert (told == f"stream 'p/s{n}' is beyond the 1000 that are followed") == (n == 1_000)
    assert consumer.counters["refused"] == 1
    offer(consumer, batch(1, stream="p/s0"))
    offer(consumer, announce(0, stream="p/new"), now=1.0)
    assert consumer.next("p/new", EPOCH) is None
    offer(consumer, announce(0, stream="p/new"), now=FORGET_AFTER + 2.0)
    assert consumer.next("p/new", EPOCH) == 1
    assert consumer.next("p/s0", EPOCH) == 2, "what was done must not be done again, however long it is silent"
    assert len(consumer.cursors()) == 2
