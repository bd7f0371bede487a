"""The work of one flow, without tasks, disk and bus: what comes in, turn by turn, and what is to be stored of it.

Theory of operation
-------------------
Batches wait in the order in which they came. A *turn* takes what waits, gives it to the pipeline, and makes a `Commit`:
outputs, events and positions that the caller stores in one transaction, in the order of the commits. A turn's positions
are its record in the journal, or a checkpoint, which stands for all turns before it.

    what is known                  what happens
    ----------------------------   -----------------------------------------------------------------------------------
    nothing is stored              the first turn makes a checkpoint, so that there is a definition to build again from
    a checkpoint, and records      the work is *rebuilding*: the input since the checkpoint comes again, record by
                                   record, and what the turns give is thrown away; then a checkpoint
    a checkpoint alone             goes on from it
    another definition is wanted   behind a turn: what is held by steps that go is brought out, the new pipeline takes
                                   the state over, and a checkpoint makes that final
    a turn fails                   the pipeline is broken: the caller throws the work away and begins a new one from
                                   what is stored; the batches of that turn are *suspects*, each in a turn of its own
    a suspect failed three times   it is set aside: counted, told in an event

Cursors that are acknowledged upstream are those of the last checkpoint that is on the disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from preprocessor.checkpoints import Checkpoints, Stored
from preprocessor.clock import Clock
from preprocessor.config import Flow as Settings
from preprocessor.engine.pipeline import OURS, Outcome, Pipeline
from preprocessor.engine.step import SECOND, Turn
from preprocessor.journal import Batch, Key, Rebuild, Record, Span, spans_of, told
from sluice.batch import Announcement, EventBatch, SampleBatch
from sluice.columns import Columns, ValueType
from sluice.delivery import Consumer, Gap, Message, Received

Build = Callable[[str, Mapping[str, Any]], Pipeline]
"""The pipeline of a flow by its name and definition. Raises for a definition that cannot be built."""
Identity = tuple[str, str, int]
"""Stream, epoch and number of a batch."""

MOST_IN_TURN: Final = 50_000
"""Samples of one turn."""
IDLE_EVERY: Final = SECOND
MOST_JOURNALED: Final = 1_000_000
"""Samples since the last checkpoint, until there is one."""
MOST_JOURNALED_BATCHES: Final = 20_000
MOST_IDLE: Final = 600
"""Turns without input that are kept for the next record, until there is a checkpoint."""
SILENT: Final = 60 * SECOND
"""For so long a rebuild waits for a source that is silent while others come,"""
GONE: Final = 600 * SECOND
"""and for so long when nothing comes at all."""
FAILURES: Final = 3
"""Turns with the same batch that fail, until it is set aside."""
_LOOK: Final = SECOND // 4
_LEAST_BYTES: Final = 16 << 20
_SAMPLE_BYTES: Final = 64
_BATCH_BYTES: Final = 1_024


@dataclass(slots=True)
class Commit:
    """What one turn gave, to be stored in one transaction."""

    live: list[Columns] = field(default_factory=list)
    backfill: list[Columns] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    positions: dict[str, bytes | None] = field(default_factory=dict)
    filtered: int = 0
    cursors: dict[Key, int] | None = None
    """Those of a checkpoint: acknowledged upstream when it is on the disk."""

    def add(self, outcome: Outcome) -> None:
        """And this."""
        self.live += outcome.live
        self.backfill += outcome.backfill
        self.events += outcome.events
        self.filtered += outcome.filtered


class Cursors(Consumer):
    """A flow's cursors. It knows no streams but those that the flow takes, and has room stream by stream.

    covers: whether the flow takes a stream; room: whether a batch can come; back: told when a producer, which has lost
    its memory, gives numbers again that it had given before.
    """

    def __init__(
        self,
        cursors: Mapping[Key, int],
        covers: Callable[[str], bool],
        room: Callable[[str, str, int], bool],
        back: Callable[[Key, int], None],
    ) -> None:
        super().__init__(cursors)
        self._covers = covers
        self._has_room = room
        self._back = back

    def offer(self, message: Message, now: float, room: bool = True) -> Received:
        """Apply the rules to one message."""
        stream, body = message.stream, message.body
        if not self._covers(stream):
            return Received()
        if not isinstance(body, Announcement):
            header = body.header
            return super().offer(message, now, room and self._has_room(header.stream, header.epoch, header.seq))
        key = stream, body.epoch
        before = self.next(*key)
        received = super().offer(message, now, room)
        after = self.next(*key)
        if before is not None and after is not None and after < before:
            self._back(key, after)
        return received

    def next(self, stream: str, epoch: str) -> int | None:
        """The number wanted next; None when the epoch is not followed."""
        return super().next(stream, epoch) if self._covers(stream) else None

    def wants(self, stream: str, epoch: str) -> int | None:
        """The number wanted next if it is known to exist."""
        return super().wants(stream, epoch) if self._covers(stream) else None

    def forget_uncovered(self) -> None:
        """Streams that the flow does not take any more begin anew when it takes them again."""
        for stream in [stream for stream in self._streams if not self._covers(stream)]:
            del self._streams[stream]


@dataclass(frozen=True, slots=True)
class _Back:
    """In the queue: from here on a producer gives numbers again."""

    key: Key
    number: int


_Item = SampleBatch | EventBatch | Gap | _Back


@dataclass(slots=True)
class Attempt:
    """What was being worked on, for whoever has to find out why it failed."""

    batches: list[Identity] = field(default_factory=list)
    record: int = 0
    """The number of the record that was gone through again; 0: none."""
    changing: bool = False
    """Another definition was being taken over."""


class Work:
    """One flow at work, from what is stored on. Raises what `build` raises when neither definition can be built.

    wanted: the definition that the configuration asks for, None when that is refused. suspects: how often a turn with
    a batch has failed. hopeless: records that cannot be gone through again. All times in ns.
    """

    def __init__(
        self,
        name: str,
        build: Build,
        stored: Stored,
        positions: Mapping[str, bytes],
        wanted: Mapping[str, Any] | None,
        *,
        wall: int,
        monotonic: int,
        suspects: Mapping[Identity, int] | None = None,
        hopeless: Collection[int] = (),
    ) -> None:
        self.name = name
        self.attempt = Attempt()
        self.cleared: list[Identity] = []
        """Suspects that the last turn was done with."""
        self.counters: dict[str, int] = dict.fromkeys(("turns", "checkpoints", "poisoned", "left_out", "differed"), 0)
        self._build = build
        self._suspects = suspects or {}
        self._hopeless = frozenset(hopeless)
        self._told: list[str] = list(stored.troubles)
        self._definition, self.pipeline = self._built(stored.definition, wanted)
        self.settings = Settings.model_validate(self._definition["settings"])
        self._wanted = None if wanted is None or wanted == self._definition else dict(wanted)
        if stored.parts:
            self._told += self.pipeline.load(stored.parts)
        self._checkpoints = Checkpoints(positions)
        now, steady = stored.last
        self._clock = Clock(wall, monotonic, now=now, steady=steady)
        self._number = stored.turn
        self._done = dict(stored.cursors)
        self._acknowledged = dict(stored.cursors)
        self._rebuild = Rebuild(stored.records) if stored.records else None
        self._known: dict[str, bool] = {}
        self.consumer = Cursors(stored.cursors, self.covers, self._has_room_for, self._go_back)
        self._queue: deque[_Item] = deque()
        self._samples = 0
        self._bytes = 0
        self._oldest: int | None = None  # since when (monotonic) something waits
        self._came: int | None = None  # when (monotonic) something came last
        self._waits: dict[Key, int] = {}  # since when (monotonic) a rebuild hears nothing of a stream
        self._looked = monotonic  # when it looked last
        self._idle: list[Turn] = []
        self._journaled = [0, 0, 0]  # records, samples and batches since the last checkpoint
        self._due = stored.definition is None or self._rebuild is not None or bool(self._told)
        self._last_turn = monotonic
        self._last_checkpoint = monotonic
        self._monotonic = monotonic

    def _built(
        self, stored: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None
    ) -> tuple[Mapping[str, Any], Pipeline]:
        """The stored definition is built again; the wanted one when there is none, or it cannot be built any more."""
        if stored is None:
            if wanted is None:
                raise ValueError("there is nothing to build the flow from")
            return wanted, self._build(self.name, wanted)
        try:
            return stored, self._build(self.name, stored)
        except Exception as error:  # what an earlier release stored may mean anything to this one
            if wanted is None:
                raise
            self._told.append(f"its stored definition cannot be built any more ({error}): the configured one goes on")
            return wanted, self._build(self.name, wanted)

    # --- the reader ---

    @property
    def rebuilding(self) -> bool:
        """Input comes again, to become the state that was lost."""
        return self._rebuild is not None

    @property
    def definition(self) -> Mapping[str, Any]:
        """What the present pipeline was built from."""
        return self._definition

    @property
    def takes_ours(self) -> bool:
        """It takes what other flows give, by name."""
        return any(source.stream.startswith(f"{OURS}/") for source in self.pipeline.sources)

    @property
    def rebuilt(self) -> bool:
        """All of it has come, and the state is what it was; the next turn is a new one."""
        return self._rebuild is None or self._rebuild.over

    @property
    def waiting(self) -> int:
        """Samples that wait."""
        return self._samples

    @property
    def enough(self) -> bool:
        """As many samples wait as one turn takes."""
        return self._samples >= MOST_IN_TURN

    def has_room(self) -> bool:
        """Whether a batch may come; while rebuilding those that are needed always may."""
        return self.rebuilding or self._has_room()

    def covers(self, stream: str) -> bool:
        """Whether the flow takes this stream."""
        known = self._known.get(stream)
        if known is None:
            if len(self._known) >= 10_000:
                self._known.clear()
            base, _, kind = stream.rpartition("/")
            events = kind == "events" and base.count("/") == 1
            wanted = base if events else stream
            known = self._known[stream] = (not events or self.settings.events == "pass") and any(
                source.covers(wanted) for source in self.pipeline.sources
            )
        return known

    def take(self, batch: Batch) -> None:
        """A batch has come, in order within its stream, each once."""
        self._came = self._monotonic
        self._waits.pop((batch.header.stream, batch.header.epoch), None)
        if self._rebuild is None or not self._rebuild.take(batch):
            self._append(batch)

    def missed(self, gap: Gap) -> None:
        """Batches will never come."""
        first = gap.first
        if self._rebuild is not None:
            self._rebuild.give_up(gap.stream, gap.epoch, gap.first, gap.last)
            first = max(first, self._rebuild.cursors().get((gap.stream, gap.epoch), 0))
        if first <= gap.last:
            self._append(Gap(gap.stream, gap.epoch, first, gap.last))

    def acknowledged(self, stream: str, epoch: str) -> int | None:
        """Up to which number it may be deleted upstream."""
        return self._acknowledged.get((stream, epoch), 1) - 1 if self.covers(stream) else None

    def stored(self, commit: Commit) -> None:
        """The commit is on the disk."""
        if commit.cursors is not None:
            self._acknowledged = commit.cursors

    def _has_room(self) -> bool:
        most = self.settings.max_waiting
        return self._samples < most and self._bytes < max(_LEAST_BYTES, most * _SAMPLE_BYTES)

    def _has_room_for(self, stream: str, epoch: str, number: int) -> bool:
        if self._rebuild is not None and self._rebuild.covers(stream, epoch, number):
            return True
        return self._has_room()

    def _go_back(self, key: Key, number: int) -> None:
        self._append(_Back(key, number))

    def _append(self, item: _Item) -> None:
        self._queue.append(item)
        self._samples += _samples(item)
        self._bytes += _bytes(item)
        if self._oldest is None:
            self._oldest = self._monotonic

    # --- turns ---

    def tick(self, monotonic: int) -> None:
        """The time goes on: called before whatever comes is given to `take`, at least once a second."""
        self._monotonic = monotonic

    def due_in(self, monotonic: int) -> int:
        """ns until `step` has something to do."""
        if self._rebuild is not None:
            return max(0, self._looked + _LOOK - monotonic) if self._rebuild.missing() else 0
        if self._due or self.enough or (self._queue and self._suspects):
            return 0
        due = self._last_turn + IDLE_EVERY
        if self._oldest is not None:
            due = min(due, self._oldest + round(self.settings.pack_interval * SECOND))
        return max(0, due - monotonic)

    def change(self, wanted: Mapping[str, Any]) -> None:
        """Go over to this definition at the next turn. It is known to be good: it was built once."""
        self._wanted = None if wanted == self._definition else dict(wanted)
        self._due = self._due or self._wanted is not None

    def step(self, wall: int, monotonic: int) -> Commit | None:
        """Whatever is next: a record of the journal again, or a turn. What is to be stored of it; None: nothing."""
        self._monotonic = monotonic
        if self._rebuild is not None:
            if not self._rebuild.over:
                self._again(self._rebuild, monotonic)
                return None
            self._rebuilt(self._rebuild)
        return self._turn(wall, monotonic)

    def last(self, wall: int, monotonic: int) -> Commit | None:
        """A checkpoint to end with; what waits comes again. None when what is stored is all there is."""
        if self._rebuild is not None or not (self._journaled[0] or self._idle or self._due):
            return None
        turn = self._clock.turn(wall, monotonic)
        commit = Commit(events=[self._event("state-incomplete", turn, why=why) for why in self._told])
        self._told.clear()
        self._checkpoint(commit, turn, monotonic)
        return commit

    def finish(self, positions: Mapping[str, bytes], wall: int, monotonic: int) -> Commit:
        """The flow is given up: what its steps hold goes out, and all that is stored of its state is deleted.

        positions: all that it has.
        """
        turn = self._clock.turn(wall, monotonic)
        commit = Commit(positions=dict.fromkeys(positions))
        if self._rebuild is not None:
            commit.events.append(
                self._event(
                    "state-incomplete",
                    turn,
                    why="the flow was removed before its state was rebuilt: what its steps held is lost",
                )
            )
        else:
            commit.add(self.pipeline.finish([step.name for step in self.pipeline.steps], turn))
        return commit

    # --- going through turns again ---

    def _again(self, rebuild: Rebuild, monotonic: int) -> None:
        """One record, if all of it is here."""
        self._looked = monotonic
        ready = rebuild.next()
        if ready is None:
            self._give_up_silent(rebuild, monotonic)
            return
        self._waits.clear()
        record, batches = ready
        self._number = record.number + 1
        if record.number in self._hopeless:
            for span in record.spans:
                rebuild.skip(span)
            return
        self.attempt = Attempt(record=record.number)
        for idle in record.idle:
            self.pipeline.turn([], idle)
        outcome = self.pipeline.turn(batches, record.turn)
        self.attempt = Attempt()
        if _gave(outcome) != record.gave and not (rebuild.left_out or rebuild.skipped or self._told):
            self.counters["differed"] += 1

    def _give_up_silent(self, rebuild: Rebuild, monotonic: int) -> None:
        """What does not come while everything else does is given up after a minute; after ten in any case."""
        for span in rebuild.missing():
            since = self._waits.setdefault(span.key, monotonic)
            others = self._came is not None and self._came > since
            if monotonic - since >= (SILENT if others else GONE):
                rebuild.give_up(span.stream, span.epoch, span.first, rebuild.cursors()[span.key])
                del self._waits[span.key]

    def _rebuilt(self, rebuild: Rebuild) -> None:
        """All of the journal is in the state again."""
        for key, number in rebuild.cursors().items():
            self._done[key] = number
            wanted = self.consumer.next(*key)
            if wanted is None or wanted < number:  # it was given up: should it come after all, it is done with
                self.consumer.move(*key, number)
        for spans, what in (
            (rebuild.left_out, "did not come again after a crash"),
            (rebuild.skipped, f"could not be processed again after a crash, {FAILURES} times"),
        ):
            if spans:
                self.counters["left_out"] += sum(span.last - span.first + 1 for span in spans)
                why = f"batches {told(spans)} {what}: what they gave is stored, but the state is without them"
                self._told.append(why)
        self._rebuild = None
        self._due = True

    # --- a turn ---

    def _turn(self, wall: int, monotonic: int) -> Commit | None:
        commit = Commit()
        taken, passed, behind = self._gather(commit, wall)
        for batch in taken:
            if isinstance(batch, SampleBatch) and not batch.header.stream.endswith("/backfill"):
                self._clock.heard(batch.columns.t, wall, monotonic)
        turn = self._clock.turn(wall, monotonic)
        commit.events += [self._event("state-incomplete", turn, why=why) for why in self._told]
        self._told.clear()
        self.attempt = Attempt(_identities(taken))
        outcome = self.pipeline.turn(taken, turn)
        self.attempt = Attempt()
        self.counters["turns"] += 1
        self._last_turn = monotonic
        record = Record(
            self._number,
            turn,
            tuple(self._idle),
            spans_of(taken),
            tuple(passed),
            outcome.received,
            _gave(outcome),
        )
        commit.add(outcome)
        ahead: dict[Key, int] = {}
        for span in (*record.spans, *passed):  # within a turn the numbers of a stream only rise
            ahead[span.key] = max(ahead.get(span.key, 0), span.last + 1)
        self._done |= ahead | behind
        if self._suspects:
            self.cleared = [one for one in self._suspects if self._is_over(one)]
        if self._wanted is not None:
            self._change(commit, self._wanted, turn)
        fruitful = bool(taken or passed or commit.events or commit.filtered or any(_gave(outcome)) or outcome.made)
        if self._must_checkpoint(monotonic, fruitful, bool(behind)):
            self._number += 1
            self._checkpoint(commit, turn, monotonic)
            return commit
        if not fruitful:
            self._idle.append(turn)
            return None
        self._number += 1
        self._idle.clear()
        self._journaled[0] += 1
        self._journaled[1] += record.samples
        self._journaled[2] += len(taken) + len(passed)
        commit.positions = self._checkpoints.record(record)
        return commit

    def _gather(self, commit: Commit, wall: int) -> tuple[list[Batch], list[Span], dict[Key, int]]:
        """What the next turn is made from; what is passed over, and told; cursors that go back behind it."""
        taken: list[Batch] = []
        passed: list[Span] = []
        samples = 0
        while self._queue and samples < MOST_IN_TURN:
            item = self._queue[0]
            if isinstance(item, (SampleBatch, EventBatch)):
                header = item.header
                failed = self._suspects.get((header.stream, header.epoch, header.seq), 0)
                if failed and taken:
                    break
                self._pop()
                if failed >= FAILURES:
                    span = Span(header.stream, header.epoch, header.seq, header.seq)
                    passed.append(span)
                    self.counters["poisoned"] += 1
                    commit.events.append(
                        {
                            "kind": "poisoned",
                            "flow": self.name,
                            "time_ns": wall,
                            **span.as_dict(),
                            "samples": _samples(item),
                        }
                    )
                    continue
                taken.append(item)
                samples += _samples(item)
                if failed:
                    break
            elif isinstance(item, Gap):
                self._pop()
                span = Span(item.stream, item.epoch, item.first, item.last)
                passed.append(span)
                commit.events.append(
                    {"kind": "gap", "flow": self.name, "time_ns": wall, "reason": "missed-upstream", **span.as_dict()}
                )
            else:
                self._pop()
                return taken, passed, {item.key: item.number}
        return taken, passed, {}

    def _is_over(self, one: Identity) -> bool:
        """Whether a batch will not come any more: it is done with, or of a stream that is not taken."""
        stream, epoch, number = one
        return number < self._done.get((stream, epoch), 0) or not self.covers(stream)

    def _pop(self) -> None:
        item = self._queue.popleft()
        self._samples -= _samples(item)
        self._bytes -= _bytes(item)
        if not self._queue:
            self._oldest = None

    def _change(self, commit: Commit, wanted: Mapping[str, Any], turn: Turn) -> None:
        """Go over to another definition, with the state of the one before."""
        self.attempt = Attempt(changing=True)
        new = self._build(self.name, wanted)
        kept = {step.name: type(step) for step in new.steps}
        ended = [step.name for step in self.pipeline.steps if kept.get(step.name) is not type(step)]
        if ended:
            commit.add(self.pipeline.finish(ended, turn))
        gone = {f"step/{name}" for name in ended}
        troubles = new.load({name: part for name, part in self.pipeline.save().items() if name not in gone})
        commit.events += [self._event("state-incomplete", turn, why=why) for why in troubles]
        self.pipeline = new
        self._definition, self._wanted = dict(wanted), None
        self.settings = Settings.model_validate(self._definition["settings"])
        self._known.clear()
        self.consumer.forget_uncovered()
        self._drop_uncovered()
        self._due = True
        self.attempt = Attempt()

    def _drop_uncovered(self) -> None:
        """What waits of streams that are not taken any more is not processed."""
        queue = [item for item in self._queue if self.covers(_stream(item))]
        self._queue.clear()
        self._samples = self._bytes = 0
        oldest, self._oldest = self._oldest, None
        for item in queue:
            self._append(item)
        if queue:
            self._oldest = oldest

    def _must_checkpoint(self, monotonic: int, fruitful: bool, back: bool) -> bool:
        """Whether this turn is to make one."""
        if self._due or back:
            return True
        records, samples, batches = self._journaled
        if samples >= MOST_JOURNALED or batches >= MOST_JOURNALED_BATCHES or len(self._idle) >= MOST_IDLE:
            return True
        since = monotonic - self._last_checkpoint
        return (fruitful or records > 0) and since >= self.settings.checkpoint_interval * SECOND

    def _checkpoint(self, commit: Commit, turn: Turn, monotonic: int) -> None:
        self._done = {key: number for key, number in self._done.items() if self.consumer.next(*key) is not None}
        commit.cursors = dict(self._done)
        commit.positions = self._checkpoints.checkpoint(
            self._definition, self.pipeline.save(), commit.cursors, self._number, turn
        )
        self.counters["checkpoints"] += 1
        self._due = False
        self._idle.clear()
        self._journaled = [0, 0, 0]
        self._last_checkpoint = monotonic

    def _event(self, kind: str, turn: Turn, **members: Any) -> dict[str, Any]:
        return {"kind": kind, "flow": self.name, "time_ns": turn.now, **members}

    # --- telling ---

    def waits_for(self) -> str:
        """While rebuilding: what for."""
        if self._rebuild is None:
            return ""
        missing = self._rebuild.missing()
        return f"batches {told(missing)}" if missing else ""

    def status(self, monotonic: int) -> dict[str, Any]:
        """How far the flow is, and its counters."""
        status: dict[str, Any] = {
            "lag_s": 0.0 if self._oldest is None else round((monotonic - self._oldest) / SECOND, 1),
            "waiting_samples": self._samples,
            "checkpoint_age_s": round((monotonic - self._last_checkpoint) / SECOND, 1),
            "clock_trusted": self._clock.trusted,
            **{name: count for name, count in self.counters.items() if count},
        }
        if self._rebuild is not None:
            status["turns_to_rebuild"] = self._rebuild.left
        return {**status, **self.pipeline.status()}


def _gave(outcome: Outcome) -> tuple[int, int]:
    return sum(map(len, outcome.live)) + sum(map(len, outcome.backfill)), len(outcome.events)


def _identities(batches: Sequence[Batch]) -> list[Identity]:
    return [(batch.header.stream, batch.header.epoch, batch.header.seq) for batch in batches]


def _stream(item: _Item) -> str:
    if isinstance(item, Gap):
        return item.stream
    return item.key[0] if isinstance(item, _Back) else item.header.stream


def _samples(item: _Item) -> int:
    return len(item.columns) if isinstance(item, SampleBatch) else 0


def _bytes(item: _Item) -> int:
    """About how much memory an item takes while it waits."""
    if isinstance(item, EventBatch):
        return _BATCH_BYTES * (1 + len(item.events))
    if not isinstance(item, SampleBatch):
        return _BATCH_BYTES
    columns = item.columns
    texts = sum(map(len, filter(None, columns.value.tolist()))) if columns.type is ValueType.STRING else 0
    return _BATCH_BYTES + _SAMPLE_BYTES * len(columns) + texts
