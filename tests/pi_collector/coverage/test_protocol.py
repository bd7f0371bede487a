"""The whole promise of coverage, against a server that does everything that servers do.

Hypothesis plays the server: a snapshot in front of an archive that compression keeps small, values that come late, an
archive that takes its time, channels whose frames are under way for as long as they like and are cut with what is in
them, reads that are cut off silently. It also kills the collector, which then has what was committed, and nothing of
the rest. A small driver does with `State` and `Paging` what the collector does. In the end:

- everything that the archive holds arrived, once;
- nothing arrived twice, and nothing that the server did not produce;
- whatever else the server produced, which compression has discarded before anybody could read it, lies in a gap of the
  ledger, unless the stream was polled then: polling promises what the archive holds;
- each gap was told when it was opened and when it was closed, once, over all restarts.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from pi_collector.coverage.paging import Paging
from pi_collector.coverage.pieces import Ask, Piece
from pi_collector.coverage.state import State

from .archives import SECOND, Row, handles, rows_of, timed

START: Final = 1_700_000_000 * SECOND
SETTLE: Final = 10 * SECOND
STREAMS: Final = 3
EVERYTHING: Final = handles(*range(STREAMS))


@dataclass
class Produced:
    """A value that reached the server."""

    row: Row
    at: int
    polled: bool  # its stream was polled then: nobody promises what compression discards


@dataclass
class Plant:
    """The PI server."""

    now: int = START
    produced: list[Produced] = field(default_factory=list)
    archive: list[tuple[int, Row]] = field(default_factory=list)  # with the time from which it can be read
    snapshot: dict[int, tuple[int, Row]] = field(default_factory=dict)
    channels: dict[int, deque[Row]] = field(default_factory=dict)  # what is under way, by stream
    values: int = 0

    def write(self, stream: int, time: int, *, keep: bool, latency: int, polled: bool) -> None:
        self.values += 1
        row = (stream, time, self.values)
        self.produced.append(Produced(row, self.now, polled))
        readable = self.now + latency
        held = self.snapshot.get(stream)
        if held is not None and time < held[1][1]:
            self.archive.append((readable, row))  # late: past the snapshot and compression
        else:
            if held is not None and keep:
                self.archive.append(held)
            self.snapshot[stream] = (readable, row)
        if stream in self.channels:
            self.channels[stream].append(row)

    def held(self) -> list[Row]:
        """Everything that can be read by now, or will be."""
        return [row for _, row in (*self.archive, *self.snapshot.values())]

    def recorded(self, ask: Ask) -> tuple[list[Row], NDArray[np.int64]]:
        there = [row for readable, row in (*self.archive, *self.snapshot.values()) if readable <= self.now]
        found: list[Row] = []
        sent = []
        for stream in ask.streams.tolist():
            of = sorted((row for row in there if row[0] == stream and ask.start <= row[1] <= ask.stop), key=_time)
            found += of[: ask.max_count]
            sent.append(len(of[: ask.max_count]))
        return found, np.array(sent, np.int64)


def _time(row: Row) -> int:
    return row[1]


@dataclass
class Transaction:
    """What is durable together or not at all."""

    rows: list[Row]
    events: list[dict[str, Any]]
    positions: Mapping[str, bytes | None]


class Protocol(RuleBasedStateMachine):
    """Server and collector."""

    def __init__(self) -> None:
        super().__init__()
        self.plant = Plant()
        self.seconds = 0.0
        self.lower = START
        self.positions: dict[str, bytes] = {}
        self.arrived: list[Row] = []
        self.events: list[dict[str, Any]] = []
        self.pending: deque[Transaction] = deque()
        self.overlap = 0
        self.polled: set[int] = set()
        self.stuck: set[tuple[int, int]] = set()  # times with more values than one answer could have
        self.state = State(lambda: self.seconds)
        self.piece: Piece | None = None
        self.paging: Paging | None = None

    @initialize(overlap=st.sampled_from([0, 60]))
    def start(self, overlap: int) -> None:
        self.overlap = overlap
        self._start()
        # Where a stream begins is a promise once it is durable.
        self._hand_on([])
        self._commit(1)

    def _start(self) -> None:
        self.state = State(lambda: self.seconds)
        self.state.reconcile_ns = 0  # nothing is remembered beyond what reading needs
        assert self.state.load(self.positions.get) == []
        self.piece = self.paging = None
        self.plant.channels = {}
        for number in range(STREAMS):
            assert self.state.handle(f"pi:{number}|recorded") == number
            self.state.coverage.begin(number, self.lower, self.overlap * SECOND, SETTLE, 10**18)

    # --- the server ---

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        self.plant.now += seconds * SECOND
        self.seconds += seconds

    @rule(
        stream=st.integers(0, STREAMS - 1),
        late=st.one_of(st.just(0), st.integers(0, 59)),
        keep=st.booleans(),
        latency=st.integers(0, 9),
        many=st.integers(1, 4),
        same_time=st.booleans(),
    )
    def written(self, stream: int, late: int, keep: bool, latency: int, many: int, same_time: bool) -> None:
        time = self.plant.now - min(late, self.overlap) * SECOND
        for _ in range(many):
            if not same_time:
                self.plant.now += SECOND // 1000
                time += SECOND // 1000
            self.plant.write(stream, time, keep=keep, latency=latency * SECOND, polled=stream in self.polled)

    @rule()
    def hear(self) -> None:
        self.lower = self.plant.now

    # --- the transports ---

    @rule(streams=st.sets(st.integers(0, STREAMS - 1), min_size=1), slack=st.integers(0, 3))
    def subscribe(self, streams: set[int], slack: int) -> None:
        fresh = [stream for stream in sorted(streams) if stream not in self.plant.channels]
        if not fresh:
            return
        for stream in fresh:
            self.plant.channels[stream] = deque()
            self.polled.discard(stream)
        # The server's clock is known from above.
        self.state.coverage.subscribed(handles(*fresh), self.plant.now + slack * SECOND)

    @rule(data=st.data())
    def frame(self, data: Any) -> None:
        under_way = sorted(stream for stream, queue in self.plant.channels.items() if queue)
        if not under_way:
            return
        stream = data.draw(st.sampled_from(under_way))
        queue = self.plant.channels[stream]
        rows = [queue.popleft() for _ in range(data.draw(st.integers(1, len(queue))))]
        if data.draw(st.booleans()):
            rows.reverse()
        self._hand_on(rows)
        if data.draw(st.booleans()):
            self._hand_on(rows)  # servers say things twice

    @rule()
    def confirmed(self) -> None:
        """All that reached the server before `lower` has come."""
        for stream, queue in self.plant.channels.items():
            waiting = set(queue)
            young = [one.at for one in self.plant.produced if one.row in waiting]
            if not young or min(young) >= self.lower:
                self.state.coverage.confirmed(handles(stream), self.lower - SETTLE)

    @rule(streams=st.sets(st.integers(0, STREAMS - 1), min_size=1), cause=st.sampled_from(["cut", "silence"]))
    def cut(self, streams: set[int], cause: str) -> None:
        lost = [stream for stream in sorted(streams) if stream in self.plant.channels]
        for stream in lost:
            del self.plant.channels[stream]
        self.state.coverage.lost(handles(*lost), cause)

    @rule(streams=st.sets(st.integers(0, STREAMS - 1), min_size=1))
    def poll(self, streams: set[int]) -> None:
        free = [stream for stream in sorted(streams) if stream not in self.plant.channels]
        for stream in free:
            if stream not in self.polled:
                self.polled.add(stream)
                # In a gap polling takes over at `lower`; a stream that was never live is polled from its beginning.
                since = self.lower if self.state.coverage.in_gap(stream) else START
                for one in self.plant.produced:
                    one.polled |= one.row[0] == stream and one.at >= since
        self.state.coverage.want(handles(*free), self.lower - SETTLE)

    # --- the reader ---

    @rule(most=st.integers(1, 12), together=st.integers(1, STREAMS))
    def read(self, most: int, together: int) -> None:
        if self.piece is None:
            self.piece = self.state.coverage.work(self.lower, self.seconds, together)
            if self.piece is not None:
                assert self.piece.stop <= max(self.lower, int(self.piece.start.max()))
                self.paging = Paging(self.piece, most=most)
            return
        assert self.paging is not None
        ask = self.paging.ask()
        if ask is None:
            self.state.coverage.finished(self.piece)
            self.piece = self.paging = None
            return
        found, sent = self.plant.recorded(ask)
        answer = timed(found)
        paged = self.paging.answered(ask, answer, sent)
        self.stuck |= {(stream, time) for stream, times in self.paging.stuck.items() for time in times}
        self._hand_on(rows_of(answer.take(paged.rows)), (ask.streams, paged.upto))

    @precondition(lambda self: self.piece is not None)
    @rule(pause=st.integers(0, 3))
    def reading_fails(self, pause: int) -> None:
        assert self.piece is not None
        self.state.coverage.returned(self.piece, self.seconds + pause)
        self.piece = self.paging = None

    # --- the disk ---

    def _hand_on(self, rows: list[Row], read: Any = None) -> None:
        values = timed(rows)
        new = ~self.state.known(values)
        fresh = self.state.fresh(values)
        assert fresh.tolist() == new.tolist()
        assert self.state.known(values).all()
        if read is not None:
            self.state.advance(*read)
        self.pending.append(Transaction(rows_of(values.take(fresh)), [], self.state.journal()))

    @rule()
    def tell(self) -> None:
        told = self.state.ledger.events(self.plant.now, str)
        self.pending.append(Transaction([], told, self.state.journal()))

    @rule()
    def checkpoint(self) -> None:
        self.pending.append(Transaction([], [], self.state.checkpoint()))

    @rule(data=st.data())
    def commit(self, data: Any) -> None:
        self._commit(data.draw(st.integers(0, len(self.pending))))

    def _commit(self, transactions: int) -> None:
        for _ in range(transactions):
            one = self.pending.popleft()
            self.arrived += one.rows
            self.events += one.events
            for key, value in one.positions.items():
                if value is None:
                    self.positions.pop(key, None)
                else:
                    self.positions[key] = value

    @rule(data=st.data())
    def crash(self, data: Any) -> None:
        """What was not committed is gone; any beginning of it may have been."""
        self._commit(data.draw(st.integers(0, len(self.pending))))
        self.pending.clear()
        self.polled = set()
        self._start()

    # --- what has to hold ---

    @invariant()
    def nothing_arrived_twice(self) -> None:
        twice = [row for row, count in Counter(self.arrived).items() if count > 1]
        assert not twice, f"arrived twice: {twice}"

    @invariant()
    def the_books_balance(self) -> None:
        counts = self.state.ledger.counts()
        assert counts["opened"] == counts["filled"] + counts["abandoned"] + counts["open"]

    def teardown(self) -> None:
        if not self.state.coverage.status()["streams"]:
            return
        self._come_to_rest()
        arrived, produced = Counter(self.arrived), [one.row for one in self.plant.produced]
        self.nothing_arrived_twice()
        assert not arrived - Counter(produced), "arrived, and never produced"
        missing = [row for row in self.plant.held() if row[1] >= START and row not in arrived]
        missing = [row for row in missing if row[:2] not in self.stuck]
        assert not missing, f"in the archive, and did not arrive: {missing}"
        spans = _spans(self.events)
        discarded = [one for one in self.plant.produced if one.row not in arrived and one.row[1] >= START]
        discarded = [one for one in discarded if one.row[:2] not in self.stuck]
        for one in discarded:
            assert one.polled or any(
                begin <= one.row[1] <= end and str(one.row[0]) in tags for begin, end, tags in spans
            ), f"discarded, and in no gap: {one}; {self.events}"
        told = Counter((event["id"], event["state"], event.get("part", 1)) for event in self.events)
        assert max(told.values(), default=1) == 1, f"told twice: {told}"
        opened = {event["id"] for event in self.events if event["state"] == "opened"}
        closed = {event["id"] for event in self.events if event["state"] in ("filled", "abandoned")}
        assert opened == closed
        assert len(opened) == self.state.ledger.counts()["opened"]

    def _come_to_rest(self) -> None:
        """The server is well, the collector runs, and there is time enough."""
        for _ in range(200):
            self.time_passes(40)
            self.hear()
            waiting = {stream for stream in range(STREAMS) if stream not in self.plant.channels}
            if waiting:
                self.subscribe(waiting, 0)
            for stream in list(self.plant.channels):
                if queue := self.plant.channels[stream]:
                    self._hand_on(list(queue))
                    queue.clear()
            self.confirmed()
            self.read(1000, STREAMS)
            while self.piece is not None:
                self.read(1000, STREAMS)
            if not self.state.coverage.behind():
                break
        else:
            raise AssertionError(f"never at rest: {self.state.status()}")
        self.tell()
        self._commit(len(self.pending))


def _spans(events: list[dict[str, Any]]) -> list[tuple[int, int, set[str]]]:
    everything = {str(stream) for stream in range(STREAMS)}
    return [
        (event["from_ns"], event["to_ns"], everything if event.get("all") else set(event["tags"]))
        for event in events
        if event["state"] in ("filled", "abandoned")
    ]


Protocol.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestProtocol = Protocol.TestCase
