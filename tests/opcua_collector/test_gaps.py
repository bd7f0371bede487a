"""Holes in what came live, and what fills them. The machine below is a server, a collector that is killed now and then,
and a list of what the plant produced: at the end each sample was handed on exactly once, or an event tells of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from opcua_collector.gaps import MAX_WINDOW, TOO_MANY, TOO_OLD, Gaps, Piece
from opcua_collector.marks import Marks, dump, restore
from opcua_collector.notifications import Block, Publication
from opcua_collector.samples import Assembler, Rule
from sluice.batch import Columns, Header, SampleBatch, Series

SECOND = 10**9
START = 1_700_000_000 * SECOND
OVERFLOW = 0x480
DOUBLE = 11
TAGS = ("fast", "slow", "no history")
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
        return [(sample.tag, sample.time) for some in columns for sample in some.samples()]

    def events(self) -> list[dict[str, Any]]:
        return [event for one in self.transactions for event in one.events]


class Plant(RuleBasedStateMachine):
    """A server with three tags, one of them without history, and the collector's pure parts."""

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
        self.produce({0, 1, 2})
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

    @rule(tags=st.sets(st.integers(0, 2), min_size=1), pause=st.integers(1, 2 * SECOND))
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

    @rule(tag=st.integers(0, 2), count=st.integers(1, 3))
    def queue_overflows(self, tag: int, count: int) -> None:
        waiting = [item for item in self.queue if item[0] == tag]
        dropped = waiting[:count]
        if len(waiting) > len(dropped):
            self.queue = [item for item in self.queue if not any(item is one for one in dropped)]
            waiting[len(dropped)][2] = OVERFLOW

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
            assert tag == "no history", f"{tag} lacks the sample of {time - START} ns"
            assert any(first < time < last for first, last in spans), f"nobody tells of the sample of {time - START} ns"
        for event in self.outlet.events():
            assert event["tags"] == ["no history"], event


TestPlant = Plant.TestCase
TestPlant.settings = settings(max_examples=100, stateful_step_count=40, report_multiple_bugs=False)
