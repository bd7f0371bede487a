"""A flow may die at any moment: what it gave is there once, its state is what it was, and no input is lost or doubled.

The world is a model: producers that keep what was not acknowledged and send it again, and a disk on which commits
arrive in order, some time after they were made, or never.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from preprocessor import checkpoints
from preprocessor.engine.pipeline import Outcome, Pipeline
from preprocessor.engine.step import SECOND, Turn
from preprocessor.journal import Batch
from preprocessor.work import Commit, Work
from sluice.batch import Announcement
from sluice.columns import Columns
from sluice.delivery import Message

from . import made

STREAMS = ("plant/a", "plant/b", "plant/a/backfill", "plant/b/events")
DEFINITIONS = (
    made.definition("plant/a", "plant/b", checkpointInterval=4),
    made.definition("plant/a", "plant/b", checkpointInterval=4, steps=("chain", "more")),
    made.definition("plant/a", "plant/b", checkpointInterval=4, steps=("more",)),
)


ROUND = st.tuples(
    st.lists(st.sampled_from(STREAMS), max_size=3),
    st.lists(st.sampled_from([1.0, 2.0, 13.0]), min_size=1, max_size=5),
    st.sampled_from([10, 100, 100, 1_000]),
    st.integers(0, 2),
)
"""On which streams a batch is sent, of which values; ms until the next turn; commits that reach the disk meanwhile."""


class Call(NamedTuple):
    """Something that a pipeline was asked to do; of: what it was built from."""

    kind: str
    what: list[Any]
    turn: Turn
    of: Mapping[str, Any]


class Watched(Pipeline):
    """A pipeline that tells what it is asked to do."""

    log: list[Call]
    of: Mapping[str, Any]

    def turn(self, batches: Any, turn: Turn) -> Outcome:
        self.log.append(Call("turn", list(batches), turn, self.of))
        return super().turn(batches, turn)

    def finish(self, names: Any, turn: Turn) -> Outcome:
        self.log.append(Call("finish", list(names), turn, self.of))
        return super().finish(names, turn)


class Given:
    """Everything that went out, as plain values."""

    def __init__(self) -> None:
        self.live: list[tuple[Any, ...]] = []
        self.backfill: list[tuple[Any, ...]] = []
        self.events: list[dict[str, Any]] = []
        self.filtered = 0

    def add(self, of: Outcome | Commit) -> None:
        self.live += rows(of.live)
        self.backfill += rows(of.backfill)
        self.events += of.events
        self.filtered += of.filtered

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return repr(vars(self))


def rows(parts: list[Columns]) -> list[tuple[Any, ...]]:
    return [(one.tag, one.time, one.value, int(one.quality)) for part in parts for one in part.samples()]


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.wall = made.START
        self.monotonic = 0
        self.sent: dict[str, list[Batch]] = defaultdict(list)
        self.acknowledged: dict[str, int] = defaultdict(int)
        self.positions: dict[str, bytes] = {}  # on the disk
        self.under_way: list[tuple[Commit, list[Call]]] = []
        self.committed = Given()
        self.history: list[Call] = []  # what the commits on the disk were made by
        self.calls: list[Call] = []  # what was asked of the pipeline since the last commit
        self.wanted = DEFINITIONS[0]
        self.deaths = 0
        self.begin()

    def build(self, name: str, of: Mapping[str, Any]) -> Pipeline:
        pipeline = made.build(name, of)
        pipeline.__class__ = Watched
        assert isinstance(pipeline, Watched)
        pipeline.log, pipeline.of = self.calls, of
        return pipeline

    def begin(self) -> None:
        """Start from the disk."""
        self.calls = []
        self.work = Work(
            "flow",
            self.build,
            checkpoints.read(self.positions),
            dict(self.positions),
            self.wanted,
            wall=self.wall,
            monotonic=self.monotonic,
        )

    # --- the world ---

    @rule(
        rounds=st.lists(ROUND, min_size=3, max_size=15),
        then=st.sampled_from(["crash", "crash", "crash", "stop", "change", "nothing"]),
        wanted=st.sampled_from(DEFINITIONS),
    )
    def live(self, rounds: list[tuple[Any, ...]], then: str, wanted: dict[str, Any]) -> None:
        """A while of ordinary life: batches are sent and arrive, turns are made, some reach the disk; then its end."""
        for streams, values, ms, count in rounds:
            for stream in streams:
                self.send(stream, values)
            if streams:
                self.deliver([*streams, *streams, *STREAMS] if self.work.rebuilding else [*streams, streams[0]])
            self.step(ms)
            self.store(count)
        if then == "crash":
            self.crash()
        elif then == "stop" and not self.work.rebuilding:
            self.send(STREAMS[0], [2.0])
            self.deliver([STREAMS[0]])  # it has come, and is not processed
            self.stop()
        elif then == "change":
            self.wanted = wanted
            self.work.change(wanted)

    def send(self, stream: str, values: list[float]) -> None:
        number = len(self.sent[stream]) + 1
        made_of = made.events(stream, number) if stream.endswith("events") else made.batch(stream, number, values)
        self.sent[stream].append(made_of)

    def deliver(self, streams: list[str]) -> None:
        """One batch of each of these streams arrives, after an announcement."""
        self.work.tick(self.monotonic)
        for stream in streams:
            sent, done = self.sent[stream], self.acknowledged[stream]
            now = self.monotonic / SECOND
            received = self.work.consumer.offer(Message(Announcement(stream, made.EPOCH, done + 1, len(sent))), now)
            assert received.gap is None, "a batch was deleted that is needed"
            wanted = self.work.consumer.wants(stream, made.EPOCH)
            if wanted is not None:
                given = self.work.consumer.offer(Message(sent[wanted - 1]), now, self.work.has_room())
                if given.batch is not None:
                    self.work.take(given.batch)

    def step(self, ms: int) -> None:
        self.wall += ms * 1_000_000
        self.monotonic += ms * 1_000_000
        rebuilding = self.work.rebuilding
        if rebuilding:
            del self.calls[:]
        commit = self.work.step(self.wall, self.monotonic)
        if rebuilding and commit is None:
            return
        if rebuilding:  # the last of it was the first turn of its own
            assert self.work.counters["differed"] == 0
        if commit is not None:
            self.under_way.append((commit, list(self.calls)))
            del self.calls[:]

    def store(self, count: int) -> None:
        """Commits reach the disk, in their order."""
        for _ in range(min(count, len(self.under_way))):
            commit, calls = self.under_way.pop(0)
            for key, value in commit.positions.items():
                if value is None:
                    self.positions.pop(key, None)
                else:
                    self.positions[key] = value
            self.committed.add(commit)
            self.history += calls
            self.work.stored(commit)
            for stream in STREAMS:
                done = self.work.acknowledged(stream, made.EPOCH)
                assert done is not None
                assert done >= self.acknowledged[stream]
                self.acknowledged[stream] = done

    def crash(self) -> None:
        """It dies, and with it everything that is not on the disk."""
        self.deaths += 1
        self.under_way.clear()
        self.wall += SECOND
        self.monotonic += SECOND
        self.begin()

    def stop(self) -> None:
        """It ends in peace."""
        commit = self.work.last(self.wall, self.monotonic)
        if commit is not None:
            self.under_way.append((commit, list(self.calls)))
            del self.calls[:]
        self.store(len(self.under_way))
        self.begin()
        assert not self.work.rebuilding

    # --- what must hold ---

    def reference(self) -> tuple[Pipeline | None, Given]:
        """One run through the same turns, without a crash; as far as it went on the disk."""
        given = Given()
        pipeline, of = None, None
        for call in self.history:
            if pipeline is None or of != call.of:
                pipeline, of = self.changed(pipeline, call.of), call.of
            given.add(
                pipeline.turn(call.what, call.turn) if call.kind == "turn" else pipeline.finish(call.what, call.turn)
            )
        stored = checkpoints.read(self.positions).definition
        if pipeline is not None and stored is not None and stored != of:
            pipeline = self.changed(pipeline, stored)
        return pipeline, given

    def changed(self, old: Pipeline | None, of: Mapping[str, Any]) -> Pipeline:
        """What another definition makes of a pipeline."""
        new = made.build("flow", of)
        if old is not None:
            ended = {step.name for step in old.steps} - {step.name for step in new.steps}
            parts = {name: part for name, part in old.save().items() if name.partition("/")[2] not in ended}
            assert new.load(parts) == []
        return new

    @invariant()
    def every_output_is_there_once(self) -> None:
        assert self.reference()[1] == self.committed

    @invariant()
    def every_input_is_processed_once_and_in_order(self) -> None:
        numbers = defaultdict(list)
        for call in self.history:
            if call.kind == "turn":
                for batch in call.what:
                    numbers[batch.header.stream].append(batch.header.seq)
        for stream, seen in numbers.items():
            assert seen == list(range(1, len(seen) + 1)), stream

    def teardown(self) -> None:
        """After one more crash everything comes again, and the state is that of a run without any."""
        self.crash()
        for _ in range(1_000):
            if not self.work.rebuilding or self.work.rebuilt:
                break
            if self.work.waits_for():
                self.deliver(list(STREAMS))
            else:
                assert self.work.step(self.wall, self.monotonic) is None
        assert not self.work.waits_for()
        reference, _ = self.reference()
        if reference is not None:
            assert self.work.counters["differed"] == self.work.counters["left_out"] == 0
            assert self.work.pipeline.save() == reference.save()


World.TestCase.settings = settings(max_examples=60, stateful_step_count=8, deadline=None)
TestCrashes = World.TestCase
