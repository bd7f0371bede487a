"""Holes in what came live, and what fills them. The machine below is a server, a collector that is killed now and then,
and a list of what the plant produced: at the end each sample was handed on exactly once, or an event tells of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import process_time
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from opcua_collector.history import gaps as module
from opcua_collector.history.gaps import HAD_NOTHING, MAX_WINDOW, NOT_READ, TOO_MANY, TOO_OLD, Gaps, Piece
from opcua_collector.history.marks import dump, restore
from opcua_collector.values.notifications import Block, Publication
from opcua_collector.values.samples import Assembler, Rule
from sluice.batch import Columns, Header, SampleBatch, Series

SECOND = 10**9
START = 1_700_000_000 * SECOND
OVERFLOW = 0x480
DOUBLE = 11
TAGS = ("fast", "slow", "no history", "held back")
EPOCH = "0123456789ab"


def block(*rows: tuple[int, int, int]) -> Block:
    """(handle, time, status) each; the value is the time."""
    handle, time, status = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return Block(DOUBLE, np.arange(len(rows)), handle, time.astype(np.float64), status.astype(np.uint32), time)


def message(*rows: tuple[int, int, int]) -> Publication:
    return Publication(blocks=(block(*rows),) if rows else ())


@dataclass
class Transaction:
    """What becomes durable at once: samples, events, positions."""

    live: tuple[int, list[Columns]] | None = None  # number of the message at the server; 0: a new subscription
    history: list[Columns] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    positions: dict[str, bytes] = field(default_factory=dict)


class Outlet:
    """Numbers and keeps, in order; a kill loses what is not durable yet."""

    def __init__(self) -> None:
        self.transactions: list[Transaction] = []
        self.durable = 0

    @property
    def newest(self) -> int:
        return sum(len(one.live[1]) for one in self.transactions if one.live)

    def put(self, **what: Any) -> None:
        self.transactions.append(Transaction(**what))

    def position(self, key: str) -> bytes | None:
        return next((one.positions[key] for one in reversed(self.transactions) if key in one.positions), None)

    def batches(self) -> list[SampleBatch]:
        columns = [columns for one in self.transactions if one.live for columns in one.live[1]]
        return [SampleBatch(Header("a/b", EPOCH, number), some) for number, some in enumerate(columns, 1)]

    def sequence(self) -> int:
        return next((one.live[0] for one in reversed(self.transactions) if one.live), 0)

    def samples(self) -> list[tuple[str, int]]:
        columns = [some for one in self.transactions for some in (*(one.live[1] if one.live else ()), *one.history)]
        samples = [sample for some in columns for sample in some.samples()]
        return [(sample.tag, sample.time) for sample in samples if sample.status != "heartbeat"]

    def events(self) -> list[dict[str, Any]]:
        return [event for one in self.transactions for event in one.events]


class Plant(RuleBasedStateMachine):
    """A server with some tags, one without history, one whose changes are too small, and the collector's pure parts."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = START
        self.produced: dict[str, list[int]] = {tag: [] for tag in TAGS}
        self.queue: list[list[int]] = []  # [tag, time, status], not sent yet
        self.sent: dict[int, list[tuple[int, int, int]]] = {}  # by number, not acknowledged
        self.number = self.subscription = 0
        self.outlet = Outlet()
        self.requests: list[tuple[Piece, list[int]]] = []  # times that were read and not handed on

    @initialize()
    def begin(self) -> None:
        self.start()
        self.subscribe()
        self.produce(set(range(len(TAGS))))
        self.deliver()
        self.commit(1.0)

    @property
    def now(self) -> float:
        return (self.clock - START) / SECOND

    # --- the collector ---

    def start(self) -> None:
        self.marks = restore(self.outlet.position("marks"))
        self.gaps = Gaps(patience=5.0, settling=2.0)
        assert self.gaps.load(self.outlet.position("gaps")) == ""
        for batch in self.outlet.batches()[self.marks.newest :]:
            self.gaps.replay(batch, self.marks)
            self.marks.advance(batch)
        self.assembler = Assembler(self.gaps)
        self.assembler.restore(self.marks, TAGS)
        self.handled = False

    def monitor(self) -> None:
        """Handles are known only once the server is reached."""
        if not self.handled:
            for tag in TAGS:
                handle = self.assembler.add(Series(tag))
                self.assembler.fix(handle, Rule.DOUBLE)
                self.assembler.filter(handle, 1e30 if tag == "held back" else None)
                self.gaps.eligible(handle, "no history" if tag == "no history" else "")
            self.handled = True

    def subscribe(self) -> None:
        """A new subscription: the server's queues begin anew, with the present values."""
        self.gaps.open(None, "recreated")
        self.note()
        self.queue, self.sent = [], {}
        self.number = 0
        self.subscription += 1
        self.outlet.put(live=(0, []), positions={"session": str(self.subscription).encode()})
        self.monitor()
        for handle, tag in enumerate(TAGS):
            self.assembler.subscribed(handle)
            if self.produced[tag]:
                self.queue.append([handle, self.produced[tag][-1], 0])
        self.gaps.watched(range(len(TAGS)), self.clock, self.now)

    def note(self) -> None:
        if self.gaps.changed:
            self.outlet.put(positions={"gaps": self.gaps.dump(self.outlet.newest)})

    def take(self, number: int) -> None:
        columns = self.assembler.columns(message(*self.sent[number]))
        self.outlet.put(live=(number, columns))
        self.note()

    # --- what happens ---

    @rule(tags=st.sets(st.integers(0, 3), min_size=1), pause=st.integers(1, 2 * SECOND))
    def produces(self, tags: set[int], pause: int) -> None:
        self.clock += pause
        self.produce(tags)

    def produce(self, tags: set[int]) -> None:
        for tag in tags:
            self.produced[TAGS[tag]].append(self.clock)
            self.queue.append([tag, self.clock, 0])

    def send(self) -> int:
        self.number += 1
        self.sent[self.number] = [(tag, time, status) for tag, time, status in self.queue]
        self.queue = []
        return self.number

    @rule()
    def deliver(self) -> None:
        if self.queue:
            self.take(self.send())

    @rule()
    def message_is_lost(self) -> None:
        if self.queue:
            del self.sent[self.send()]
            self.gaps.open(None, "messages")
            self.note()
            self.gaps.watched(None, self.clock, self.now)

    @rule(tag=st.integers(0, 3), count=st.integers(1, 3))
    def queue_overflows(self, tag: int, count: int) -> None:
        waiting = [item for item in self.queue if item[0] == tag]
        dropped = waiting[:count]
        if len(waiting) > len(dropped):
            self.queue = [item for item in self.queue if not any(item is one for one in dropped)]
            waiting[len(dropped)][2] = OVERFLOW

    @precondition(lambda self: self.handled)
    @rule(tag=st.integers(0, 3), ahead=st.integers(0, 5))
    def beats(self, tag: int, ahead: int) -> None:
        columns = self.assembler.beats([block((tag, self.clock + ahead * SECOND, 0))])
        self.outlet.put(live=(self.outlet.sequence(), columns))

    @rule()
    def subscription_is_made_anew(self) -> None:
        self.subscribe()

    @rule(resumed=st.booleans(), again=st.booleans())
    def is_killed(self, resumed: bool, again: bool) -> None:
        del self.outlet.transactions[self.outlet.durable :]
        self.requests = []
        self.start()
        if again:  # dies once more before it reaches the server
            self.checkpoint()
            self.commit(1.0)
            self.start()
        if not resumed or self.outlet.position("session") != str(self.subscription).encode():
            self.subscribe()
            return
        self.monitor()
        for number in range(self.outlet.sequence() + 1, self.number + 1):  # Republish
            if number in self.sent:
                self.take(number)
            else:
                self.gaps.open(None, "messages")
                self.note()
        self.gaps.watched(None, self.clock, self.now)

    @rule(part=st.floats(0, 1))
    def commit(self, part: float) -> None:
        missing = len(self.outlet.transactions) - self.outlet.durable
        self.outlet.durable += round(missing * part)
        done = max((one.live[0] for one in self.outlet.transactions[: self.outlet.durable] if one.live), default=0)
        self.sent = {number: rows for number, rows in self.sent.items() if number > done}

    @rule()
    def checkpoint(self) -> None:
        newest = self.outlet.newest
        names = dict(enumerate(TAGS)) if self.handled else {}
        marks = dump(self.assembler, names, newest)
        self.outlet.put(positions={"marks": marks, "gaps": self.gaps.dump(newest)})

    @rule(pause=st.integers(1, 10))
    def time_passes(self, pause: int) -> None:
        self.clock += pause * SECOND

    # --- the backfill ---

    @rule(most=st.integers(1, 3))
    def asks(self, most: int) -> None:
        for piece in self.gaps.work(self.now, most):
            times = [t for t in self.produced[TAGS[piece.handle]] if piece.at < t < piece.until]
            self.requests.append((piece, times))

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def is_answered(self, data: st.DataObject) -> None:
        piece, times = self.requests.pop(data.draw(st.integers(0, len(self.requests) - 1)))
        page = data.draw(st.integers(0, len(times)))
        whole = page == len(times)
        self.hand_on(piece, times[:page])
        if not whole and data.draw(st.booleans()):
            self.requests.append((piece, times[page:]))  # a continuation point
            return
        if whole:
            self.gaps.finished(piece)
        else:
            self.gaps.returned(piece, self.now)
        self.outlet.put(positions={"gaps": self.gaps.dump(self.outlet.newest)})

    def hand_on(self, piece: Piece, times: list[int]) -> None:
        bounds = self.gaps.bounds(piece)
        wanted = [time for time in times if bounds is not None and bounds[0] < time < bounds[1]]
        if not wanted:
            return
        columns = self.assembler.brought([block(*((piece.handle, time, 0) for time in wanted))])
        self.gaps.advanced(piece, wanted[-1])
        self.outlet.put(history=columns, positions={"gaps": self.gaps.dump(self.outlet.newest)})

    @rule()
    def tells(self) -> None:
        events = self.gaps.events(self.now)
        if events:
            self.outlet.put(events=events, positions={"gaps": self.gaps.dump(self.outlet.newest)})

    # --- what must hold ---

    @invariant()
    def nothing_comes_twice(self) -> None:
        found = self.outlet.samples()
        assert len(found) == len(set(found))

    def teardown(self) -> None:
        if not self.number:
            return
        self.deliver()
        for piece, times in self.requests:
            self.hand_on(piece, times)
            self.gaps.finished(piece)
        self.requests = []
        for _ in range(20):
            self.clock += 10 * SECOND
            self.asks(3)
            for piece, times in self.requests:
                self.hand_on(piece, times)
                self.gaps.finished(piece)
            self.requests = []
            self.tells()
        assert self.gaps.work(self.now + 100, 3) == []
        found = self.outlet.samples()
        assert len(found) == len(set(found))
        lacking = {(tag, time) for tag in TAGS for time in self.produced[tag]} - set(found)
        spans = [(event["from_ns"], event["to_ns"]) for event in self.outlet.events()]
        for tag, time in lacking:
            if tag == "held back":
                continue
            assert tag == "no history", f"{tag} lacks the sample of {time - START} ns"
            assert any(first < time < last for first, last in spans), f"nobody tells of the sample of {time - START} ns"
        for event in self.outlet.events():
            assert event["tags"] == ["no history"], event


TestPlant = Plant.TestCase
TestPlant.settings = settings(max_examples=100, stateful_step_count=40, report_multiple_bugs=False)


# --- one thing at a time ----------------------------------------------------------------------------------------------


def collector(*whys: str, **options: float) -> tuple[Gaps, Assembler]:
    """A tag for each reason why there is no history ("": there is), with a first sample at START."""
    gaps = Gaps(**{"patience": 5.0, "settling": 0.0, **options})
    made = Assembler(gaps)
    for number, why in enumerate(whys):
        handle = made.add(Series(f"T{number}"))
        made.fix(handle, Rule.DOUBLE)
        gaps.eligible(handle, why)
    made.columns(message(*((handle, START, 0) for handle in range(len(whys)))))
    return gaps, made


def spans(gaps: Gaps, now: float = 0.0, most: int = 100) -> list[tuple[int, float, float]]:
    return [(one.handle, (one.at - START) / SECOND, (one.until - START) / SECOND) for one in gaps.work(now, most)]


def at(second: float) -> int:
    return START + round(second * SECOND)


def test_a_gap_is_from_the_mark_to_the_first_live_sample() -> None:
    gaps, made = collector("", "")
    gaps.open(None, "messages")
    assert spans(gaps) == []
    made.columns(message((0, at(7), 0), (0, at(8), 0)))
    assert spans(gaps) == [(0, 0, 7)]


def test_a_tag_that_never_had_a_sample_has_no_gap() -> None:
    gaps, made = collector("")
    handle = made.add(Series("new"))
    gaps.eligible(handle, "")
    made.fix(handle, Rule.DOUBLE)
    gaps.open(None, "recreated")
    made.columns(message((0, at(1), 0), (handle, at(1), 0)))
    assert spans(gaps) == [(0, 0, 1)]


def test_only_the_named_tags_have_a_gap() -> None:
    gaps, made = collector("", "", "")
    gaps.open([1, 99], "recreated")
    made.columns(message(*((handle, at(1), 0) for handle in range(3))))
    assert spans(gaps) == [(1, 0, 1)]


def test_a_value_that_has_not_changed_leaves_nothing_to_read() -> None:
    gaps, made = collector("")
    gaps.open(None, "recreated")
    made.subscribed(0)
    assert made.columns(message((0, START, 0))) == []
    gaps.watched(None, at(1), 1.0)
    assert spans(gaps, 100.0) == []
    assert gaps.status() == {}


def test_a_quiet_tag_is_read_up_to_the_recovery_when_the_patience_is_over() -> None:
    gaps, _ = collector("", "")
    gaps.open(None, "messages")
    gaps.watched([0], at(60), now=100.0)
    assert spans(gaps, 104.9) == []
    assert spans(gaps, 105.0) == [(0, 0, 65)]
    assert spans(gaps, 1000.0) == [], "the other is not monitored yet"


def test_a_tag_that_waits_to_be_read_may_turn_out_to_lack_nothing() -> None:
    gaps, made = collector("", "")
    gaps.open(None, "recreated")
    gaps.watched(None, at(60), now=100.0)
    assert spans(gaps, 105.0, most=1) == [(0, 0, 65)]
    made.subscribed(1)
    assert made.columns(message((1, START, 0))) == []
    assert spans(gaps, 105.0) == []


def test_a_server_gets_time_to_write_its_history() -> None:
    gaps, made = collector("", settling=2.0)
    gaps.open(None, "messages")
    made.columns(message((0, at(7), 0)))
    assert spans(gaps, 10.0) == []
    assert spans(gaps, 11.9) == []
    assert spans(gaps, 12.0) == [(0, 0, 7)]


def test_the_overflow_bit_is_a_gap_between_two_samples() -> None:
    gaps, made = collector("", "")
    made.columns(message((0, at(1), 0), (1, at(1), 0), (0, at(9), OVERFLOW), (0, at(10), 0), (1, at(2), 0)))
    assert spans(gaps) == [(0, 1, 9)]


def test_gaps_of_a_tag_that_overlap_are_one_and_others_are_not() -> None:
    gaps, made = collector("")
    gaps.open(None, "messages")
    gaps.open(None, "recreated")
    made.columns(message((0, at(5), 0), (0, at(6), 0)))
    gaps.open(None, "recreated")
    made.columns(message((0, at(9), OVERFLOW)))
    [piece] = gaps.work(0.0, 9)
    assert (piece.at, piece.until) == (START, at(5))
    assert gaps.work(0.0, 9) == [], "one piece of a tag at a time"
    gaps.finished(piece)
    [piece] = gaps.work(0.0, 9)
    assert (piece.at, piece.until) == (at(6), at(9))


def test_tags_that_are_alike_in_time_are_asked_for_together_and_others_are_not() -> None:
    gaps, made = collector("", "", "", "")
    made.columns(message((1, at(2), 0), (2, at(500), 0), (3, at(503), 0)))
    gaps.open(None, "messages")
    made.columns(message(*((handle, at(510), 0) for handle in range(4))))
    assert spans(gaps) == [(0, 0, 510), (1, 2, 510)]
    assert spans(gaps) == [(2, 500, 510), (3, 503, 510)]
    assert spans(gaps) == []


def test_no_more_tags_than_asked_for() -> None:
    gaps, made = collector(*[""] * 10)
    gaps.open(None, "messages")
    made.columns(message(*((handle, at(1), 0) for handle in range(10))))
    assert [len(spans(gaps, most=4)) for _ in range(4)] == [4, 4, 2, 0]


def test_what_is_older_than_the_longest_window_is_an_event() -> None:
    gaps, made = collector("", max_window=3600.0)
    gaps.open(None, "recreated")
    made.columns(message((0, at(7200), 0)))
    assert gaps.max_window < MAX_WINDOW
    [(_, first, last)] = spans(gaps)
    assert (round(first), last) == (3600, 7200)
    [event] = gaps.events(0.0)
    assert (event["why"], event["from_ns"], event["to_ns"]) == (TOO_OLD, START, at(3600))
    assert gaps.events(0.0) == []


def test_more_gaps_than_can_be_remembered_become_one_event() -> None:
    gaps, made = collector("")
    made.columns(message(*((0, at(second), OVERFLOW) for second in range(1, 101))))
    [event] = gaps.events(0.0)
    assert (event["why"], event["from_ns"], event["to_ns"]) == (TOO_MANY, START, at(68))
    read = []
    while pieces := gaps.work(0.0, 9):
        read += [(piece.at, piece.until) for piece in pieces]
        gaps.finished(pieces[0])
    assert read == [(at(second), at(second + 1)) for second in range(68, 100)]


@pytest.mark.parametrize("restarted", [False, True])
def test_what_an_overflow_dropped_and_history_does_not_have_is_an_event(restarted: bool) -> None:
    gaps, made = collector("", "")
    made.columns(message((0, at(9), OVERFLOW), (1, at(9), OVERFLOW)))
    without, with_some = gaps.work(0.0, 9)
    gaps.advanced(with_some, at(5))
    if restarted:
        dumped = gaps.dump(1)
        gaps, made = collector("", "")
        assert gaps.load(dumped) == ""
        without, with_some = sorted(gaps.work(0.0, 9), key=lambda piece: piece.handle)
    gaps.finished(without)
    gaps.finished(with_some)
    [event] = gaps.events(0.0)
    assert (event["reason"], event["why"], event["tags"]) == ("overflow", HAD_NOTHING, ["T0"])
    assert (event["from_ns"], event["to_ns"]) == (START, at(9))
    assert (gaps.events(0.0), gaps.status()) == ([], {})


def test_a_gap_of_which_nobody_knows_whether_it_lacks_anything_ends_without_a_word() -> None:
    gaps, made = collector("")
    gaps.open(None, "recreated")
    made.columns(message((0, at(9), 0)))
    [piece] = gaps.work(0.0, 9)
    gaps.finished(piece)
    assert (gaps.events(0.0), gaps.status()) == ([], {})


def test_gaps_are_told_and_not_read_while_history_is_not_wanted() -> None:
    gaps, made = collector("", "no history")
    gaps.reads = False
    assert not gaps.recoverable
    gaps.open(None, "recreated")
    made.columns(message((0, at(9), 0), (1, at(9), 0)))
    assert spans(gaps) == []
    [event] = gaps.events(0.0)
    assert (event["why"], event["tags"], event["to_ns"]) == (NOT_READ, ["T0", "T1"], at(9))
    gaps.reads = True
    gaps.open(None, "recreated")
    made.columns(message((0, at(12), 0), (1, at(12), 0)))
    assert spans(gaps) == [(0, 9, 12)], "what comes after it is wanted again"


@given(
    st.lists(st.tuples(st.integers(0, 29), st.sampled_from(["open", "pass", "overflow", "drop"])), max_size=60),
    st.integers(1, 12),
)
@settings(max_examples=150)
def test_a_dump_of_many_is_kept_up_change_by_change(steps: list[tuple[int, str]], portion: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PORTION", portion)
        gaps, made = collector(*[""] * 30)
        gaps.open(range(20), "recreated")
        for second, (handle, what) in enumerate(steps, 1):
            if what == "open":
                gaps.open([handle], "messages")
            elif what == "drop":
                gaps.remove(handle)
            else:
                made.columns(message((handle, at(second), OVERFLOW if what == "overflow" else 0)))
            again = Gaps()
            assert again.load(gaps.dump(second)) == ""
            assert again.newest == second
            assert holes_of(again) == holes_of(gaps), (second, what, handle)


def holes_of(gaps: Gaps) -> dict[str, list[tuple[Any, ...]]]:
    """What survives of the state, as it is before and after a dump."""
    return {
        tag: [(hole.at, hole.end, hole.reason, hole.why, hole.brought, hole.given, hole.settled) for hole in holes]
        for tag, holes in gaps._holes.items()
    }


def test_a_change_among_many_gaps_does_not_cost_all_of_them() -> None:
    gaps = Gaps()
    gaps.all_marks = lambda: ((f"Area/Unit{n}/Loop.PV", START + n) for n in range(40_000))
    gaps.open(None, "recreated")
    whole, began = gaps.dump(1), process_time()
    gaps.dump(1)
    costs = process_time() - began
    for n in range(100):
        gaps.lost(gaps_handle(gaps, f"Area/Unit{n * 300}/Loop.PV"), None, START + 10**12)
    began = process_time()
    gaps.dump(2)
    assert process_time() - began < 0.05, f"{len(whole)} bytes; unchanged it takes {costs * 1000:.1f} ms"


def gaps_handle(gaps: Gaps, tag: str) -> int:
    handle = int(tag.split("/")[1].removeprefix("Unit"))
    gaps.add(handle, tag)
    return handle


def test_all_of_many_tags_are_read_although_they_are_looked_at_in_portions() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PORTION", 7)
        gaps, made = collector(*[""] * 40)
        gaps.open(None, "recreated")
        made.columns(message(*((handle, at(5), 0) for handle in range(40))))
        read: list[int] = []
        for _ in range(40):
            for piece in gaps.work(0.0, 3):
                read.append(piece.handle)
                gaps.finished(piece)
    assert sorted(read) == list(range(40))


def test_one_event_for_all_tags_of_a_cause_when_the_last_of_them_is_over() -> None:
    gaps, made = collector(*["no history"] * 50)
    gaps.open(None, "recreated")
    gaps.watched(None, at(1), now=100.0)
    made.columns(message(*((handle, at(3), 0) for handle in range(49))))
    assert gaps.events(104.0) == [], "one of them may still come"
    [event] = gaps.events(105.0)
    assert event == {
        "reason": "recreated",
        "recoverable": False,
        "why": "no history",
        "from_ns": START,
        "to_ns": at(6),
        "gaps": 50,
        "tags": sorted(f"T{n}" for n in range(50))[:20],
    }
    assert gaps.events(999.0) == []


def test_what_was_told_is_not_told_again_by_the_next_run() -> None:
    gaps, made = collector("no history")
    gaps.open(None, "recreated")
    made.columns(message((0, at(3), 0)))
    untold = gaps.dump(1)
    assert gaps.events(0.0) != []
    for data, times in ((untold, 1), (gaps.dump(1), 0)):
        after = Gaps()
        assert after.load(data) == ""
        after.add(0, "T0")
        after.eligible(0, "no history")
        assert len(after.events(0.0)) == times


def test_a_tag_that_is_not_wanted_any_more_leaves_nothing() -> None:
    gaps, made = collector("", "")
    gaps.open(None, "recreated")
    made.columns(message((0, at(3), 0)))
    [piece] = gaps.work(0.0, 9)
    made.remove(0)
    assert gaps.bounds(piece) is None
    gaps.advanced(piece, at(2))
    gaps.finished(piece)
    made.remove(1)
    assert gaps.status() == {}


def test_a_removed_tag_is_forgotten_over_a_restart_too() -> None:
    gaps, _ = collector("", "")
    gaps.open(None, "recreated")
    after = Gaps()
    after.load(gaps.dump(1))
    after.keep({"T1"})
    assert after.status()["tags"] == 1


def test_a_refusal_holds_until_it_is_asked_again() -> None:
    gaps, made = collector("", "")
    gaps.open(None, "recreated")
    made.columns(message((0, at(3), 0), (1, at(3), 0)))
    pieces = gaps.work(0.0, 9)
    gaps.refused(pieces[0], "BadHistoryOperationUnsupported")
    [event] = gaps.events(0.0)
    assert (event["tags"], event["why"]) == (["T0"], "BadHistoryOperationUnsupported")
    assert not gaps.recoverable
    gaps.ask_again()
    assert gaps.unknown == {0}
    gaps.eligible(0, "")
    assert gaps.recoverable


@pytest.mark.parametrize("data", [b"", b"no dump", b"\x28\xb5\x2f\xfd\x00"])
def test_what_is_no_dump_is_told_and_nothing_is_taken_over(data: bytes) -> None:
    gaps = Gaps()
    assert "cannot be read" in gaps.load(data)
    assert gaps.status() == {}


@given(place=st.integers(0, 300), content=st.binary(min_size=1, max_size=5))
def test_a_damaged_dump_never_raises(place: int, content: bytes) -> None:
    gaps, _ = collector("", "")
    gaps.open(None, "recreated")
    data = gaps.dump(1)
    place %= len(data)
    after = Gaps()
    after.load(data[:place] + content + data[place + len(content) :])
    after.add(0, "T0")
    after.dump(1)


def test_messages_cost_nothing_when_nothing_is_missing() -> None:
    gaps, made = collector(*[""] * 100)
    before = gaps.dump(1)
    gaps.changed = False
    made.columns(message(*((handle, at(1), 0) for handle in range(100))))
    assert not gaps.changed
    assert gaps.dump(1) == before


def test_a_tag_whose_clock_is_far_ahead_of_its_servers_is_read_and_done_with() -> None:
    """Else a hole that ends before it begins would stay for ever."""
    gaps = Gaps()
    gaps.add(0, "fast")
    gaps.eligible(0, "")
    gaps.mark_of = lambda handle: START + 3600 * SECOND
    gaps.open([0], "missing messages")
    gaps.watched(None, START, 0.0)
    (piece,) = gaps.work(60.0, 10)
    assert piece.at == START + 3600 * SECOND < piece.until
    gaps.finished(piece)
    assert gaps.status() == {}


def test_a_clock_that_is_set_back_behind_a_gap_that_history_filled_costs_no_sample() -> None:
    gaps = Gaps()
    assembler = Assembler(gaps)
    handle = assembler.add(Series("fast"))
    assembler.fix(handle, Rule.DOUBLE)
    gaps.eligible(handle, "")
    assembler.columns(message((handle, START, 0)))
    gaps.open(None, "new subscription")
    gaps.watched([handle], START + 60 * SECOND, 0.0)
    (piece,) = gaps.work(60.0, 10)
    gaps.advanced(piece, START + 30 * SECOND)
    gaps.finished(piece)
    assert not assembler.columns(message((handle, START + 30 * SECOND, 0)))  # history has brought it
    back = assembler.columns(message((handle, START - 3600 * SECOND, 0), (handle, START - 3599 * SECOND, 0)))
    assert [len(columns) for columns in back] == [2]
