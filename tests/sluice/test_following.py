"""A consumer as a whole: when it asks for what, and what it tells producers."""

from __future__ import annotations

import numpy as np

from sluice.batch import Announcement, Columns, EventBatch, Header, SampleBatch, Series, ValueType
from sluice.cursors import Ask, Cursor, Cursors, decode_cursors
from sluice.delivery import Consumer, Gap, Message
from sluice.following import ANSWER_WITHIN, Demand, Following

STREAM, EPOCH, OTHER = "opcua-collector/line1", "000000000001", "000000000002"
KEY = (STREAM, EPOCH)


def batch(seq: int, stream: str = STREAM, epoch: str = EPOCH, *, replayed: bool = False) -> Message:
    zero = np.zeros(1, dtype=np.int64)
    columns = Columns(ValueType.INTEGER, (Series("T"),), zero.astype(np.int32), zero, zero)
    return Message(SampleBatch(Header(stream, epoch, seq), columns), replayed)


def announce(
    newest: int, stream: str = STREAM, epoch: str = EPOCH, oldest: int = 1, *, replayed: bool = False
) -> Message:
    return Message(Announcement(stream, epoch, oldest, newest), replayed)


class TestReader:
    """Takes everything while it has room, and acknowledges what it is told to."""

    __test__ = False

    def __init__(self, cursors: dict[tuple[str, str], int] | None = None) -> None:
        self.consumer = Consumer(cursors)
        self.room = True
        self.numbers: list[int] = []
        self.gaps: list[Gap] = []
        self.done: dict[tuple[str, str], int] | None = {}

    def has_room(self) -> bool:
        return self.room

    def take(self, batch: SampleBatch | EventBatch) -> None:
        self.numbers.append(batch.header.seq)

    def missed(self, gap: Gap) -> None:
        self.gaps.append(gap)

    def acknowledged(self, stream: str, epoch: str) -> int | None:
        return None if self.done is None else self.done.get((stream, epoch), 0)


def following(**readers: TestReader) -> Following:
    of = Following("stream-exporter", window=1_000)
    of.readers = dict(readers)
    return of


def told(of: Following, now: float, *, everything: bool = False) -> list[Cursors]:
    return [decode_cursors(topic, payload) for topic, payload in of.tell(now, everything=everything)]


def asked(of: Following, now: float) -> list[Ask]:
    return [ask for message in told(of, now) for ask in message.asks]


# --- asking ---


def test_what_is_missed_is_asked_for_at_once_and_only_once() -> None:
    of = following(a=TestReader())
    of.offer(announce(0), 0.0)
    told(of, 0.0, everything=True)
    assert not of.offer(batch(1), 0.0), "nothing to tell: it is the next one"
    assert of.offer(batch(5), 0.0)
    assert asked(of, 0.0) == [Ask(STREAM, EPOCH, 2, 1_000)]
    assert not of.offer(batch(6), 0.1)
    assert asked(of, 0.1) == []


def test_after_a_restart_the_first_batch_of_a_known_epoch_is_enough_to_ask() -> None:
    of = following(a=TestReader({KEY: 3}))
    assert not of.offer(batch(9, epoch=OTHER), 0.0), "nobody knows this epoch: only an announcement begins one"
    assert asked(of, 0.0) == []
    assert not of.offer(batch(9, replayed=True), 0.0), "an answer to an ask of before"
    assert of.offer(batch(9), 0.1)
    assert asked(of, 0.1) == [Ask(STREAM, EPOCH, 3, 1_000)]


def test_the_next_stretch_is_asked_for_when_an_answer_has_ended() -> None:
    of = following(a=TestReader())
    of.offer(announce(9), 0.0)
    assert asked(of, 0.0) == [Ask(STREAM, EPOCH, 1, 1_000)]
    for number in (1, 2, 3):
        assert not of.offer(batch(number, replayed=True), 0.1)
    assert of.offer(announce(3, replayed=True), 0.1)
    assert asked(of, 0.1) == [Ask(STREAM, EPOCH, 4, 1_000)]


def test_an_ask_without_an_answer_is_repeated_after_2_seconds() -> None:
    of = following(a=TestReader())
    of.offer(announce(9), 0.0)
    assert len(asked(of, 0.0)) == 1
    assert asked(of, ANSWER_WITHIN - 0.1) == []
    assert of.demand.due_in(ANSWER_WITHIN - 0.5) == 0.5
    assert asked(of, ANSWER_WITHIN) == [Ask(STREAM, EPOCH, 1, 1_000)]
    assert of.demand.counters == {"asks": 2, "unanswered": 1}
    assert of.demand.waits_since(3 * ANSWER_WITHIN) == 3 * ANSWER_WITHIN


def test_a_long_answer_is_waited_for_as_long_as_something_of_it_comes() -> None:
    of = following(a=TestReader())
    of.offer(announce(9), 0.0)
    assert len(asked(of, 0.0)) == 1
    for number in range(1, 6):
        of.offer(batch(number, replayed=True), number * 1.5)
        assert asked(of, number * 1.5) == []


def test_an_answer_that_brought_nothing_is_not_asked_for_again_at_once() -> None:
    of = following(a=TestReader())
    of.offer(announce(9), 0.0)
    assert len(asked(of, 0.0)) == 1
    of.offer(announce(0, replayed=True), 0.1)
    assert asked(of, 0.1) == []
    assert len(asked(of, ANSWER_WITHIN)) == 1


def test_readers_at_different_places_take_turns_and_get_what_the_other_asked_for_too() -> None:
    slow, fast = TestReader({KEY: 1}), TestReader({KEY: 50})
    of = following(slow=slow, fast=fast)
    of.offer(announce(99), 0.0)
    places = []
    for step in range(4):
        (ask,) = asked(of, float(step))
        places.append(ask.first)
        for number in range(ask.first, ask.first + 5):
            of.offer(batch(number, replayed=True), float(step))
        of.offer(announce(ask.first + 4, replayed=True), float(step))
    assert places == [50, 1, 55, 6]
    near = TestReader({KEY: 8})
    of.readers["near"] = near
    (ask,) = asked(of, 9.0)
    of.offer(batch(8, replayed=True), 9.0)
    assert near.numbers == [8]


def test_for_a_reader_without_room_nothing_is_asked_until_it_has_room() -> None:
    reader = TestReader()
    of = following(a=reader)
    of.offer(announce(9), 0.0)
    reader.room = False
    assert asked(of, 0.0) == []
    reader.room = True
    assert asked(of, 0.1) == [Ask(STREAM, EPOCH, 1, 1_000)]


def test_a_reader_that_came_back_to_an_earlier_place_asks_from_there_before_anything_else_comes() -> None:
    reader = TestReader()
    of = following(a=reader)
    of.offer(announce(3), 0.0)
    for number in (1, 2, 3):
        of.offer(batch(number), 0.0)
    assert asked(of, 0.0) == []
    reader.consumer = Consumer({KEY: 2})
    assert asked(of, 1.0) == [Ask(STREAM, EPOCH, 2, 1_000)]


def test_no_more_is_asked_for_at_a_time_than_fits_and_all_streams_have_their_turn() -> None:
    of = Following("stream-exporter", window=1_000, most=3)
    of.readers = {"a": TestReader()}
    names = [f"p/s{n}" for n in range(9)]
    for name in names:
        of.offer(announce(10**6, name), 0.0)
    seen: list[str] = []
    for step in range(3):
        now = 1.0 + step * 0.1
        streams = [ask.stream for ask in asked(of, now)]
        assert len(streams) == 3
        seen += streams
        for name in streams:
            number = of.readers["a"].consumer.next(name, EPOCH) or 0
            of.offer(batch(number, name, replayed=True), now)
            of.offer(announce(number, name, replayed=True), now)
    assert sorted(seen) == names


def test_an_answer_of_another_epoch_or_of_a_stream_nobody_asked_for_is_no_answer() -> None:
    demand = Demand(1_000)
    assert demand.ask(STREAM, EPOCH, {"a": 4}, 0.0) is not None
    demand.arrived(announce(9, epoch=OTHER, replayed=True), 0.1)
    demand.arrived(announce(9, "p/s", replayed=True), 0.1)
    demand.arrived(announce(2, replayed=True), 0.1)  # of an earlier ask
    assert not demand.may_ask(STREAM, 0.1)
    demand.arrived(announce(4, replayed=True), 0.1)
    assert demand.may_ask(STREAM, 0.1)


def test_streams_of_a_producer_that_is_gone_do_not_keep_another_from_catching_up() -> None:
    of = following(a=TestReader())
    for number in range(24):
        of.offer(announce(1_000, f"gone/s{number}"), 0.0)
    of.offer(announce(1_000_000, "here/s"), 0.0)
    answers = 0
    for tick in range(1_000):
        now = tick * 0.02
        for ask in asked(of, now):
            if ask.stream == "here/s":
                answers += 1
                of.offer(batch(ask.first, ask.stream, replayed=True), now)
                of.offer(announce(ask.first, ask.stream, replayed=True), now)
    assert answers > 300, "of 1,000 chances, less those until the others have been tried once and found silent"


# --- telling ---


def test_told_is_what_all_readers_are_done_with_and_what_the_furthest_wants() -> None:
    near, far = TestReader({KEY: 20}), TestReader({KEY: 40})
    near.done, far.done = {KEY: 12}, {KEY: 30}
    of = following(near=near, far=far)
    of.offer(announce(39), 0.0)
    (message,) = told(of, 0.0, everything=True)
    assert message.consumer == "stream-exporter"
    assert message.streams == {STREAM: Cursor(EPOCH, 12, 40)}


def test_a_reader_that_does_not_care_holds_nobody() -> None:
    near, far = TestReader({KEY: 20}), TestReader({KEY: 40})
    near.done, far.done = None, {KEY: 30}
    of = following(near=near, far=far)
    of.offer(announce(39), 0.0)
    assert told(of, 0.0, everything=True)[0].streams == {STREAM: Cursor(EPOCH, 30, 40)}
    far.done = None
    assert told(of, 0.0, everything=True)[0].streams == {STREAM: Cursor(EPOCH, 39, 40)}


def test_a_new_reader_that_has_not_heard_of_the_stream_yet_holds_everything() -> None:
    old = TestReader({KEY: 40})
    old.done = {KEY: 39}
    of = following(old=old)
    of.offer(announce(39), 0.0)
    of.readers["new"] = TestReader()
    assert told(of, 0.0, everything=True)[0].streams == {STREAM: Cursor(EPOCH, 0, 40)}


def test_more_is_never_acknowledged_than_was_received() -> None:
    reader = TestReader({KEY: 40})
    reader.done = {KEY: 10**6}
    of = following(a=reader)
    of.offer(announce(39), 0.0)
    assert told(of, 0.0, everything=True)[0].streams == {STREAM: Cursor(EPOCH, 39, 40)}


def test_without_readers_or_before_anything_is_announced_there_is_nothing_to_tell() -> None:
    of = following(a=TestReader({KEY: 40}))
    assert told(of, 0.0, everything=True) == []
    of = following()
    of.offer(announce(9), 0.0)
    assert told(of, 0.0, everything=True) == []


def test_between_rounds_only_what_moved_far_is_told() -> None:
    of = following(a=TestReader())
    for name in ("p/a", "p/b"):
        of.offer(announce(0, name), 0.0)
    assert len(told(of, 0.0, everything=True)[0].streams) == 2
    for number in range(1, 250):
        assert not of.offer(batch(number, "p/a"), 0.1)
    assert told(of, 0.1) == []
    assert of.offer(batch(250, "p/a"), 0.1)
    assert told(of, 0.1)[0].streams == {"p/a": Cursor(EPOCH, 0, 251)}
    assert told(of, 0.1) == []


def test_each_producer_is_told_about_its_own_streams_and_the_present_epoch() -> None:
    of = following(a=TestReader())
    for name in ("p/a", "q/a"):
        of.offer(announce(0, name), 0.0)
    assert [list(message.streams) for message in told(of, 0.0, everything=True)] == [["p/a"], ["q/a"]]
    of.offer(announce(0, "p/a", OTHER), 0.0)
    assert [list(message.streams.values()) for message in told(of, 0.0, everything=True)] == [
        [Cursor(OTHER, 0, 1)],
        [Cursor(EPOCH, 0, 1)],
    ]


def test_gaps_reach_the_reader_and_the_status() -> None:
    reader = TestReader()
    of = following(a=reader)
    of.offer(announce(0), 0.0)
    of.offer(announce(9, oldest=5), 0.0)
    assert reader.gaps == [Gap(STREAM, EPOCH, 1, 4)]
    assert of.status(0.0)["recent_gaps"] == [f"{STREAM} {EPOCH} 1-4"]
    assert of.status(0.0)["silent"] == []
    assert of.status(6.1)["silent"] == [STREAM]


def test_a_reader_that_fails_costs_the_others_nothing() -> None:
    class Failing(TestReader):
        def take(self, batch: SampleBatch | EventBatch) -> None:
            raise RuntimeError("cannot")

    good = TestReader()
    of = following(bad=Failing(), good=good)
    of.offer(announce(0), 0.0)
    of.offer(batch(1), 0.0)
    assert (good.numbers, of.failed) == ([1], 1)


def test_streams_that_are_not_wanted_any_more_are_not_asked_for_and_their_cursors_stay() -> None:
    reader = TestReader()
    of = following(a=reader)
    of.offer(announce(9), 0.0)
    of.forget(lambda stream: stream == STREAM)
    assert told(of, 0.0, everything=True) == []
    assert reader.consumer.cursors() == {KEY: 1}
