"""A flow's pipeline: batches in, batches and events out, its steps between. Sans-I/O.

What comes in is sorted by tag once, and rows that are not newer than what their tag had before are marked `late` there:
steps that need order (deadband, swinging door, spike, …) let those pass as they are, windows take them as late, and all
others treat them like any. A row that repeats exactly what its tag had last is dropped.

The state of a pipeline is its tags, words and contexts, the newest time of each tag, and what the steps hold. It is
saved as parts by name, each one blob, so that what has not changed need not be stored again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Mask, joined
from preprocessor.engine.explaining import Trace
from preprocessor.engine.packing import pack, unpack
from preprocessor.engine.patterns import Selection
from preprocessor.engine.step import SECOND, FlowContext, Step, Turn, grown, order_of
from preprocessor.engine.tags import Contexts, Tags, Words
from sluice import garbage
from sluice.batch import EventBatch, SampleBatch
from sluice.columns import DTYPES, Columns, Series, ValueType

OURS: Final = "preprocessor"
_TELL_EVERY: Final = 60 * SECOND
_NEVER: Final = -(2**63)
_MOST_KNOWN: Final = 4_096
_MOST_KNOWN_SERIES: Final = 1_000_000
_MOST_LISTS: Final = 16
_TYPES: Final = tuple(ValueType)
_FLOW: Final = "flow"
_NOT_SELECTED: Final = "comes, and no input of the flow selects it"
_NO_PLACE: Final = "comes, and has no place: the flow has as many tags as maxTags lets it have"
_MOST_TURNED_AWAY: Final = 10_000
_TAGS: Final = "tags"


@dataclass(frozen=True, slots=True)
class Source:
    """Which samples a flow takes: of these streams (<producer>/<source>, * for any), those of the selected tags."""

    stream: str
    selection: Selection
    assets: Selection
    backfill: bool = True

    def covers(self, stream: str) -> bool:
        """Whether a data stream, <producer>/<source> with or without /backfill, is one of them."""
        producer, _, rest = stream.partition("/")
        source, _, kind = rest.partition("/")
        if kind and (kind != "backfill" or not self.backfill):
            return False
        wanted_producer, _, wanted = self.stream.partition("/")
        if producer == OURS and (wanted_producer, wanted) != (producer, source):
            return False  # a wildcard never means our own flows: that would go in circles
        return wanted_producer in ("*", producer) and wanted in ("*", source)


@dataclass(slots=True)
class Outcome:
    """What one turn gave."""

    live: list[Columns] = field(default_factory=list)
    backfill: list[Columns] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    received: int = 0
    filtered: int = 0
    """Rows that were dropped on the way, of those that had come in or were made, now or earlier."""
    made: int = 0
    """Rows that the steps made: derived, aggregated, repeated."""


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """The series of a batch that came, to know them again."""

    series: tuple[Series, ...]
    slots: NDArray[np.int32]
    version: int
    """That of the flow's tags."""
    unwanted: bool
    """Some have no place, or are not selected."""
    batches: bool
    """Some carry a production batch."""


class Pipeline:
    """The steps of one flow and what they share.

    max_future: ns by which a source time may be ahead of a clock that is trusted.
    """

    def __init__(
        self,
        flow: FlowContext,
        sources: Sequence[Source],
        steps: Sequence[Step[Any]],
        *,
        max_future: int = 600 * SECOND,
        pass_events: bool = True,
    ) -> None:
        self.flow = flow
        self.sources = tuple(sources)
        self.steps = order_of(steps)
        self.received = self.made = self.dropped = self.sent = 0
        self.counters: dict[str, int] = dict.fromkeys(("repeated", "future", "too_many_tags", "not_selected"), 0)
        self.trace = Trace(flow)
        self._turned_away: dict[str, str] = {}  # tags that are not taken, and why; for people
        self._max_future = max_future
        self._future_untold = self._future_told_until = 0
        self._pass_events = pass_events
        self._newest: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._lists: dict[bytes, tuple[int, tuple[Series, ...]]] = {}
        self._known_series: dict[tuple[str, int, int, int], _Known] = {}
        self._known_size = 0
        self._tags_written: list[bytes] = []  # all tags as JSON, some in each
        self._written = -1, 0  # the version of the tags that it is of, and how many
        self._tags_part: tuple[tuple[int, int], bytes] = (-1, -1), b""
        self._made_series: dict[tuple[int, int], tuple[Series, Series]] = {}
        self._last_value: dict[ValueType, NDArray[Any]] = {}
        self._last_quality: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
        self._last_type: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)  # for people; 0: none in this run

    @property
    def tags(self) -> Tags:
        """The flow's tags."""
        return self.flow.tags

    @property
    def held(self) -> int:
        """Rows that the steps keep for later: received + made = dropped + sent + held, always."""
        return self.received + self.made - self.dropped - self.sent

    # --- a turn ---

    def turn(self, batches: Sequence[SampleBatch | EventBatch], turn: Turn) -> Outcome:
        """One pass: these batches in the order in which they came, and everything that is due."""
        outcome = Outcome()
        blocks: list[Block] = []
        for batch in batches:
            if isinstance(batch, EventBatch):
                if self._pass_events:
                    outcome.events += [{**event, "from": batch.header.stream} for event in batch.events]
                continue
            if blocks and self._relabels(batch):
                self._through(blocks, turn, outcome)
                blocks = []
            outcome.received += len(batch.columns)
            block = self._taken(batch, turn)
            if block is not None:
                blocks.append(block)
        self._through(blocks, turn, outcome)
        self.received += outcome.received
        self._account(outcome)
        return outcome

    def _through(self, blocks: Sequence[Block], turn: Turn, outcome: Outcome) -> None:
        """These through all steps. One pass does for a turn, unless a tag changes its unit in the middle of it: what
        came before is of the old one."""
        came = joined(blocks)
        live = [block for block in came if not block.backfill]
        self.flow.mixed = {}
        blocks = []
        for block in came:
            if len(live) > 1 and block is live[0]:
                self.flow.mixed = self._mixed(live)
            if len(in_order := self._ordered(block)):
                blocks.append(in_order)
        for step in self.steps:
            if self.tags.log:
                step.prepare(list(dict.fromkeys(self.tags.log)))
            blocks = [block for block in step.process(blocks, turn) if len(block)]
        self._settle_log()
        if self._written[0] == self.tags.version:
            self._write_tags()  # for all of them together, at a checkpoint, hold everything up
        self._give(blocks, outcome)

    def finish(self, names: Sequence[str], turn: Turn) -> Outcome:
        """What these steps still hold, brought through the steps behind them: they are to be given up."""
        outcome = Outcome()
        blocks: list[Block] = []
        for step in self.steps:
            if self.tags.log:
                step.prepare(list(dict.fromkeys(self.tags.log)))
            blocks = [block for block in step.process(blocks, turn) if len(block)] if blocks else []
            if step.name in names:
                blocks = [*blocks, *(block for block in step.finish(turn) if len(block))]
        self._settle_log()
        self._give(blocks, outcome)
        self._account(outcome)
        return outcome

    def _give(self, blocks: Sequence[Block], outcome: Outcome) -> None:
        for block in joined(blocks):
            (outcome.backfill if block.backfill else outcome.live).append(self._columns(block))
            self._note(block, np.ones(len(block), dtype=np.bool_), "end of the flow", "sent")
        self.sent += sum(map(len, blocks))

    def _account(self, outcome: Outcome) -> None:
        """Hand over what the steps counted and told in this turn."""
        flow = self.flow
        self.dropped += flow.dropped
        self.made += flow.made
        outcome.filtered, outcome.made = flow.dropped, flow.made
        outcome.events += flow.events
        flow.dropped = flow.made = 0
        flow.events.clear()

    def _settle_log(self) -> None:
        """A step may make tags for those before it: everybody hears of every tag, once."""
        if self.tags.log:
            slots = list(dict.fromkeys(self.tags.log))
            self.tags.log.clear()
            for step in self.steps:
                step.prepare(slots)
            self.tags.log.clear()

    # --- in ---

    def _taken(self, batch: SampleBatch, turn: Turn) -> Block | None:
        """The rows of a batch whose tags are taken, by slot."""
        columns, stream = batch.columns, batch.header.stream
        known = self._series_of(stream, columns.series)
        slot = known.slots[columns.s]
        backfill = stream.endswith("/backfill")
        size = len(columns)
        status = np.zeros(size, dtype=np.int64) if columns.status is None else columns.status
        if columns.words and columns.status is not None:
            codes = np.array([self.flow.words.code(word) for word in columns.words], dtype=np.int64)
            status = status.copy()
            words = status < 0
            status[words] = codes[-status[words] - 1]
        block = Block(
            columns.type,
            slot,
            columns.t,
            columns.value,
            np.zeros(size, dtype=np.uint8) if columns.quality is None else columns.quality,
            status,
            columns.null,
            context=self._context_of(columns) if known.batches else None,
            backfill=backfill,
        )
        if known.unwanted and (unwanted := slot < 0).any():
            self.counters["not_selected"] += int(np.count_nonzero(slot == -2))
            self.counters["too_many_tags"] += int(np.count_nonzero(slot == -1))
            self.flow.dropped += int(np.count_nonzero(unwanted))
            block = block.take(~unwanted)
        if turn.trusted:
            future = block.t > turn.now + self._max_future
            if future.any():
                self.counters["future"] += int(np.count_nonzero(future))
                self.flow.dropped += int(np.count_nonzero(future))
                self._tell_future(block, int(future.argmax()), int(np.count_nonzero(future)), turn)
                self._note(block, future, "future", "dropped")
                block = block.take(~future)
        return block.sorted() if len(block) else None

    def _tell_future(self, block: Block, first: int, count: int, turn: Turn) -> None:
        """An event, at most once a minute: a wrong clock is wrong in every batch."""
        self._future_untold += count
        if turn.steady < self._future_told_until:
            return
        series = self.tags.series[int(block.slot[first])]
        self.flow.tell(
            "quarantine",
            int(block.t[first]),
            reason="future",
            tag=series.tag,
            asset=series.asset,
            samples=self._future_untold,
            ahead_s=round((int(block.t[first]) - turn.now) / SECOND, 3),
        )
        self._future_untold, self._future_told_until = 0, turn.steady + _TELL_EVERY

    def _relabels(self, batch: SampleBatch) -> bool:
        """Whether a tag comes with another unit, or other members, than it had until now."""
        series = batch.columns.series
        known = self._known_series.get(_key_of(batch.header.stream, series))
        if known is not None and known.version == self.tags.version and known.series == series:
            return False
        return any(map(self.tags.relabelled, series))

    def _series_of(self, stream: str, series: tuple[Series, ...]) -> _Known:
        """The slots of a batch's series. Batches of a stream have the same ones again and again, and the same objects:
        then it is enough to see that."""
        key = _key_of(stream, series)
        known = self._known_series.get(key)
        if known is not None and known.version == self.tags.version and known.series == series:
            return known
        slots = self._slots_of(stream, series)
        self._known_size += len(series)
        if len(self._known_series) >= _MOST_KNOWN or self._known_size > _MOST_KNOWN_SERIES:
            self._known_series.clear()
            self._known_size = len(series)
        known = self._known_series[key] = _Known(
            series, slots, self.tags.version, bool((slots < 0).any()), any(one.batch for one in series)
        )
        return known

    def _slots_of(self, stream: str, series: tuple[Series, ...]) -> NDArray[np.int32]:
        """The slot of each series of a batch; -1: no place, -2: not selected."""
        sources = [source for source in self.sources if source.covers(stream)]
        if any(source.selection.everything and source.assets.everything for source in sources):
            return self._placed(series, [self.tags.slot(one) for one in series])
        found = []
        for one in series:
            wanted = any(
                source.selection.covers(one.tag, one.asset) and source.assets.covers(one.asset) for source in sources
            )
            found.append(self.tags.slot(one) if wanted else -2)
            if not wanted:
                self._turn_away(one, _NOT_SELECTED)
        return self._placed(series, found)

    def _placed(self, series: tuple[Series, ...], slots: Sequence[int]) -> NDArray[np.int32]:
        for one, slot in zip(series, slots, strict=True):
            if slot == -1:
                self._turn_away(one, _NO_PLACE)
                if "maxTags" not in self.flow.problems:
                    told = f"is reached: samples of further tags, such as {one.tag}, are dropped"
                    self.flow.problem("maxTags", told, "raise it, or select fewer tags in the inputs")
        return np.array(slots, dtype=np.int32)

    def _turn_away(self, series: Series, why: str) -> None:
        if len(self._turned_away) < _MOST_TURNED_AWAY:
            self._turned_away[series.tag] = why
            if series.asset:
                self._turned_away[f"{series.asset}/{series.tag}"] = why

    def _context_of(self, columns: Columns) -> NDArray[np.int32]:
        return np.array([self.flow.contexts.number(one.batch) for one in columns.series], dtype=np.int32)[columns.s]

    def _mixed(self, live: Sequence[Block]) -> dict[int, int]:
        """The tags that stand in several of these blocks, and the newest time that each had before."""
        self._newest = grown(self._newest, len(self.tags), _NEVER)
        seen: Mask = np.zeros(len(self.tags), dtype=np.bool_)
        found: dict[int, int] = {}
        for block in live:
            again = np.unique(block.slot[seen[block.slot]])
            found.update(zip(again.tolist(), self._newest[again].tolist(), strict=True))
            seen[block.slot] = True
        return found

    def _ordered(self, block: Block) -> Block:
        """The block with its late rows marked, and without exact repeats of what their tags had last."""
        self._newest = grown(self._newest, len(self.tags), _NEVER)
        runs = block.runs()
        newest = self._newest
        same = block.slot[1:] == block.slot[:-1]
        rising = block.t[1:] > block.t[:-1]
        in_order = bool((rising | ~same).all()) and bool((block.t[runs.starts] > newest[runs.slots]).all())
        if in_order:
            newest[runs.slots] = block.t[runs.ends - 1]
            self._remember(block, runs.slots, runs.ends - 1)
            return block
        late: Mask = np.zeros(len(block), dtype=np.bool_)
        repeats: Mask = np.zeros(len(block), dtype=np.bool_)
        last_rows = []
        for slot, start, end in zip(runs.slots.tolist(), runs.starts.tolist(), runs.ends.tolist(), strict=True):
            top = int(newest[slot])
            last_row = -1
            for row, time in enumerate(block.t[start:end].tolist(), start):
                if time > top:
                    top, last_row = time, row
                    continue
                late[row] = True
                if time == top:
                    repeats[row] = _same(block, row, last_row) if last_row >= 0 else self._is_last(block, row, slot)
            newest[slot] = top
            last_rows.append(last_row)
        rows = np.array(last_rows, dtype=np.intp)
        moved = rows >= 0
        self._remember(block, runs.slots[moved], rows[moved])
        block = block.with_(late=late)
        self._note(block, repeats, "repeated", "dropped")
        self._note(block, late & ~repeats, "late", "passed")
        if repeats.any():
            self.counters["repeated"] += int(np.count_nonzero(repeats))
            self.flow.dropped += int(np.count_nonzero(repeats))
            block = block.take(~repeats)
        return block

    def _note(self, block: Block, rows: Mask, reason: str, what: str) -> None:
        """Write down what becomes of rows of watched tags outside of the steps."""
        if self.flow.watching and rows.any():
            watched = rows & np.isin(block.slot, np.fromiter(self.flow.watching, np.int32))
            if watched.any():
                self.trace.note("output" if what == "sent" else "inputs", reason, block.take(watched), what)

    def _remember(self, block: Block, slots: NDArray[np.int32], rows: NDArray[np.intp]) -> None:
        """Keep the newest value of each tag, to know an exact repeat."""
        kept = self._last_value.get(block.type)
        fill = None if block.type is ValueType.STRING else 0
        kept = grown(np.zeros(0, dtype=block.value.dtype) if kept is None else kept, len(self.tags), fill)
        kept[slots] = block.value[rows]
        self._last_value[block.type] = kept
        self._last_quality = grown(self._last_quality, len(self.tags))
        self._last_quality[slots] = block.quality[rows]
        self._last_type = grown(self._last_type, len(self.tags))
        self._last_type[slots] = _TYPES.index(block.type) + 1

    def _is_last(self, block: Block, row: int, slot: int) -> bool:
        kept = self._last_value.get(block.type)
        if kept is None or slot >= len(kept):
            return False
        before, value = kept[slot], block.value[row]
        alike = bool(before == value or (before != before and value != value))
        return alike and bool(self._last_quality[slot] == block.quality[row])

    # --- out ---

    def _columns(self, block: Block) -> Columns:
        """A block as it leaves: series by tag and context."""
        if block.context is None or not block.context.any():
            runs = block.runs()
            lengths = runs.ends - runs.starts
            s = np.repeat(np.arange(len(runs), dtype=np.int32), lengths)
            series = self._list_of(runs.slots)
        else:
            key = (block.slot.astype(np.int64) << 32) | block.context
            keys, s = np.unique(key, return_inverse=True)
            s = s.astype(np.int32)
            series = tuple([self._in_context(number >> 32, number & 0xFFFFFFFF) for number in keys.tolist()])
        words: tuple[str, ...] = ()
        status: NDArray[np.int64] | None = block.status if block.status.any() else None
        if status is not None and (status < 0).any():
            used, place = np.unique(status[status < 0], return_inverse=True)
            words = tuple(str(self.flow.words.text(code)) for code in used.tolist())
            status = status.copy()
            status[status < 0] = -1 - place
        return Columns(
            block.type,
            series,
            s,
            np.ascontiguousarray(block.t),
            np.ascontiguousarray(block.value),
            block.quality if block.quality.any() else None,
            status,
            words,
            block.null if block.null is not None and block.null.any() else None,
        )

    def _list_of(self, slots: NDArray[np.int32]) -> tuple[Series, ...]:
        """The series of these tags: the same object as long as it is the same list, which is written only once."""
        key = slots.tobytes()
        known = self._lists.get(key)
        if known is not None and known[0] == self.tags.version:
            return known[1]
        of = self.tags.series
        series = tuple([of[slot] for slot in slots.tolist()])
        if len(self._lists) >= _MOST_LISTS:
            self._lists.clear()
        self._lists[key] = self.tags.version, series
        return series

    def _in_context(self, slot: int, context: int) -> Series:
        plain = self.tags.series[slot]
        known = self._made_series.get((slot, context))
        if known is not None and known[0] is plain:
            return known[1]
        if len(self._made_series) >= 200_000:
            self._made_series.clear()
        made = self.flow.contexts.series(plain, context)
        self._made_series[slot, context] = plain, made
        return made

    # --- state ---

    def save(self) -> dict[str, bytes]:
        """The state as parts by name: `tags`, `flow`, and one for each step."""
        size = len(self.tags)
        parts = {
            _TAGS: self._saved_tags(),
            _FLOW: pack(
                {
                    "words": self.flow.words.words,
                    "contexts": self.flow.contexts.save(),
                    "newest": grown(self._newest, size, _NEVER)[:size],
                    "ledger": [self.received, self.made, self.dropped, self.sent],
                    "last": {of.value: _kept(values) for of, values in self._last_value.items()},
                    "last_quality": self._last_quality,
                    "counters": self.counters,
                    "future": [self._future_untold, self._future_told_until],
                }
            ),
        }
        for step in self.steps:
            parts[f"step/{step.name}"] = pack({"counters": step.counters, "state": dict(step.save())})
        return parts

    def _saved_tags(self) -> bytes:
        """All tags, which are packed again only when there are others: checkpoints are many, new tags few."""
        self._write_tags()
        if self._tags_part[0] != self._written:
            text = b"".join((b"[", b",".join(self._tags_written), b"]"))
            self._tags_part = self._written, pack({"tags": np.frombuffer(text, dtype=np.uint8)})
        return self._tags_part[1]

    def _write_tags(self) -> None:
        """Write down the tags that are new."""
        version, written = self._written
        if version != self.tags.version:
            self._tags_written, written = [], 0
        if written < len(self.tags):
            new = self.tags.save(written)
            try:
                text = orjson.dumps(new)
            except TypeError:  # a name that is not Unicode
                text = json.dumps(new).encode()
            self._tags_written.append(text[1:-1])
        self._written = self.tags.version, len(self.tags)

    def load(self, parts: Mapping[str, bytes]) -> list[str]:
        """Go on from what `save` gave, maybe of other steps and settings. What of it cannot be used, in words."""
        troubles = []
        if _FLOW in parts:
            try:
                with garbage.paused():
                    self._load_flow(unpack(parts[_FLOW]), unpack(parts[_TAGS]))
            except (ValueError, KeyError, TypeError) as error:
                return [f"the tags of the flow cannot be read again, so that all of it begins anew: {error}"]
        slots = list(range(len(self.tags)))
        self.tags.log.clear()
        for step in self.steps:
            step.prepare(slots)
        for step in self.steps:
            part = parts.get(f"step/{step.name}")
            if part is None:
                continue
            try:
                saved = unpack(part)
                step.counters.update(saved["counters"])
                step.load(saved["state"])
            except (ValueError, KeyError, TypeError, IndexError) as error:
                troubles.append(f"the step {step.name} begins anew: what it kept cannot be used ({error})")
        self._settle_log()
        return troubles

    def _load_flow(self, saved: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        text = bytes(tags["tags"])
        try:
            known = orjson.loads(text)
        except orjson.JSONDecodeError:  # a name that is not Unicode
            known = json.loads(text)
        self.tags.load(known)
        self.flow.words.load(saved["words"])
        self.flow.contexts.load(saved["contexts"])
        self._newest = np.array(saved["newest"], dtype=np.int64)
        self.received, self.made, self.dropped, self.sent = map(int, saved["ledger"])
        self._last_value = {ValueType(name): _values(ValueType(name), kept) for name, kept in saved["last"].items()}
        self._last_quality = np.array(saved["last_quality"], dtype=np.uint8)
        self.counters.update(saved["counters"])
        self._future_untold, self._future_told_until = map(int, saved["future"])

    # --- telling ---

    def turned_away(self, name: str) -> str:
        """Why a tag that comes, by its name or as <asset>/<name>, is not taken; empty when that is not known."""
        return self._turned_away.get(name, "")

    def last(self, slot: int) -> dict[str, Any]:
        """The newest sample of a tag that comes in: time, quality, and the value if it came in this run."""
        if slot >= len(self._newest) or int(self._newest[slot]) == _NEVER:
            return {}
        told: dict[str, Any] = {"time_ns": int(self._newest[slot]), "quality": int(self._last_quality[slot])}
        kind = int(self._last_type[slot]) if slot < len(self._last_type) else 0
        if kind:
            value = self._last_value[_TYPES[kind - 1]][slot]
            plain = value.item() if isinstance(value, np.generic) else value
            told["value"] = None if plain != plain else plain
        return told

    def status(self) -> dict[str, Any]:
        """Counters of the flow and of each step."""
        return {
            "tags": len(self.tags),
            "ledger": {
                "received": self.received,
                "made": self.made,
                "dropped": self.dropped,
                "sent": self.sent,
                "held": self.held,
            },
            "counters": {name: count for name, count in self.counters.items() if count},
            "steps": {step.name: dict(step.counters) for step in self.steps if step.counters},
        }


def new_context(name: str, *, most_tags: int = 100_000) -> FlowContext:
    """What the steps of a new flow share."""
    return FlowContext(name, Tags(most_tags), Words(), Contexts())


def _key_of(stream: str, series: tuple[Series, ...]) -> tuple[str, int, int, int]:
    return stream, len(series), id(series[0]) if series else 0, id(series[-1]) if series else 0


def _kept(values: NDArray[Any]) -> Any:
    """The last values of a type for `pack`, which takes no objects."""
    return values.tolist() if values.dtype == object else values


def _values(of: ValueType, kept: Any) -> NDArray[Any]:
    if of is not ValueType.STRING:
        return np.array(kept, dtype=DTYPES[of])
    values = np.full(len(kept), None, dtype=object)
    values[:] = kept
    return values


def _same(block: Block, one: int, other: int) -> bool:
    a, b = block.value[one], block.value[other]
    alike = bool(a == b or (a != a and b != b))
    return alike and block.quality[one] == block.quality[other] and block.status[one] == block.status[other]
