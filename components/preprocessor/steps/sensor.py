"""What the steps that judge sensors have in common: what counts as a value, what is done with a bad one, what is told.

A value counts when it is a number (double or integer), neither null nor BAD, and not late. Everything else passes these
steps untouched, and is neither compared nor remembered. An event is told when a tag begins to be wrong and when that
ends, never in between:

    {"kind": "sensor", "check": "stuck", "state": "begin" | "end", "step", "tag", "asset", "value", "since", "time_ns"}

`since` is the source time at which it began. A spike is over in itself: its one event has the state "single".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Mask, empty_values
from preprocessor.engine.step import SECOND, FlowContext, Step, Turn, grown
from preprocessor.step_settings import StepSettings
from preprocessor.steps.kept_rows import Units
from sluice.columns import Quality, ValueType

HELD: Final = "held"
NUMBERS: Final = (ValueType.DOUBLE, ValueType.INTEGER)
PAUSE: Final = 5 * SECOND
"""Turns come several times a second: a longer time between two of them means that nothing was running."""
MOST_SILENT: Final = 5_000
"""Tags that are found silent in one turn; when more are, the next turns find them."""

S = TypeVar("S", bound=StepSettings)


class PerTag:
    """Arrays by slot that grow together and are kept together."""

    def __init__(self, **kinds: tuple[str, Any]) -> None:
        """Each array's dtype, and what stands for a tag of which nothing is known."""
        self._fills = {name: fill for name, (_, fill) in kinds.items()}
        self._arrays: dict[str, NDArray[Any]] = {name: np.zeros(0, dtype=dtype) for name, (dtype, _) in kinds.items()}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def grow(self, size: int) -> None:
        """Make room for so many tags."""
        for name, array in self._arrays.items():
            self._arrays[name] = grown(array, size, self._fills[name])

    def save(self, size: int) -> dict[str, Any]:
        """The arrays of the first `size` tags."""
        return {name: array[:size] for name, array in self._arrays.items()}

    def load(self, saved: Mapping[str, Any], size: int) -> None:
        """What `save` gave, for a flow of `size` tags by now. Raises ValueError, KeyError."""
        read: dict[str, NDArray[Any]] = {}
        for name, array in self._arrays.items():
            one = np.asarray(saved[name])
            if one.ndim != 1 or not np.can_cast(one.dtype, array.dtype, "same_kind"):
                raise ValueError(f"{name} is not an array by tag")
            read[name] = grown(one.astype(array.dtype), size, self._fills[name])
        self._arrays = read


class LastGood:
    """The newest GOOD value of each tag, by value type."""

    def __init__(self) -> None:
        self._values: dict[ValueType, NDArray[Any]] = {}
        self._known: dict[ValueType, Mask] = {}

    def _of(self, of: ValueType, size: int) -> tuple[NDArray[Any], Mask]:
        values = grown(self._values.get(of, empty_values(of, 0)), size)
        known = grown(self._known.get(of, np.zeros(0, dtype=np.bool_)), size)
        self._values[of], self._known[of] = values, known
        return values, known

    def before(self, block: Block, good: Mask, size: int) -> tuple[NDArray[Any], Mask]:
        """For each row the good value before it, and whether there is one. good: rows of the block that are."""
        kept, known_of = self._of(block.type, size)
        values, known = kept[block.slot], known_of[block.slot]
        runs = block.runs()
        starts = np.repeat(runs.starts, runs.ends - runs.starts)
        rows = np.arange(len(block))
        latest = np.maximum.accumulate(np.where(good, rows, -1))
        here = latest >= starts
        values[here] = block.value[latest[here]]
        known[here] = True
        return values, known

    def remember(self, block: Block, good: Mask, size: int) -> None:
        """Keep the last good row of each tag."""
        values, known = self._of(block.type, size)
        slots = block.slot[good]
        values[slots] = block.value[good]  # where a slot stands several times, its last row stays
        known[slots] = True

    def forget(self, slots: Sequence[int]) -> None:
        """Nothing good is known of these tags any more."""
        for known in self._known.values():
            known[[slot for slot in slots if slot < len(known)]] = False

    def save(self) -> dict[str, Any]:
        """For `load`."""
        return {
            of.value: [values.tolist() if of is ValueType.STRING else values, self._known[of]]
            for of, values in self._values.items()
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """What `save` gave. Raises ValueError."""
        values: dict[ValueType, NDArray[Any]] = {}
        known: dict[ValueType, Mask] = {}
        for name, (kept, which) in saved.items():
            of = ValueType(name)
            values[of] = empty_values(of, len(kept))
            values[of][:] = kept
            known[of] = np.array(which, dtype=np.bool_)
            if values[of].shape != known[of].shape or values[of].ndim != 1:
                raise ValueError("the last good values are not arrays by tag")
        self._values, self._known = values, known


class SensorStep(Step[S]):
    """A step that judges sensors. A subclass names its `check`, which is also the status word of what it marks."""

    check: ClassVar[str]

    def __init__(self, name: str, settings: S, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._action: str = getattr(settings, "action", "mark")
        self._tells: bool = getattr(settings, "event", False)
        self._last = LastGood()
        self._good_in = Units(flow.tags)
        self._wrong = PerTag(wrong=("bool", False), since=("int64", 0))

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        self._wrong.grow(len(self.flow.tags))
        self._last.forget(self._good_in.changed(slots))

    def save(self) -> Mapping[str, Any]:
        return {"wrong": self._wrong.save(len(self.flow.tags)), "last": self._last.save()}

    def load(self, state: Mapping[str, Any]) -> None:
        self._last.load(state["last"])
        self._wrong.load(state["wrong"], len(self.flow.tags))

        unselected = np.flatnonzero(~self._selected[: len(self.flow.tags)])
        self._wrong["wrong"][unselected] = False

    def finish(self, turn: Turn) -> Sequence[Block]:
        """Whoever was told of a beginning is told of its end."""
        for slot in np.flatnonzero(self._wrong["wrong"]).tolist() if self._tells else ():
            self.tell("end", slot, turn.now, None, int(self._wrong["since"][slot]))
        return ()

    # --- for subclasses ---

    def counted(self, block: Block) -> Mask:
        """The rows that count as values."""
        if block.type not in NUMBERS:
            return np.zeros(len(block), dtype=np.bool_)
        counted = self.selected(block) & (block.quality < Quality.BAD) & ~block.nulls()
        return counted if block.late is None else counted & ~block.late

    def act(self, block: Block, rows: Mask, counted: Mask, quality: Quality) -> Block:
        """Do with these rows what the settings say: mark them with this quality, drop them, or hold what was good.

        Where no good value is known, as for late rows, `hold` marks.
        """
        if self._action == "mark":
            return self.mark(block, rows, quality, self.check)
        if self._action == "drop":
            return self.drop(block, rows, self.check)
        good = counted & ~rows & (block.quality == Quality.GOOD)
        size = len(self.flow.tags)
        if rows.any():
            values, known = self._last.before(block, good, size)
            if block.late is not None:  # what held at its time is not known any more
                known &= ~block.late
            self._last.remember(block, good, size)
            return self._held(self.mark(block, rows & ~known, quality, self.check), rows & known, values)
        self._last.remember(block, good, size)
        return block

    def _held(self, block: Block, rows: Mask, values: NDArray[Any]) -> Block:
        count = int(np.count_nonzero(rows))
        if not count:
            return block
        self.count(HELD, count)
        self.note(block, rows, self.check, "changed")
        value, qualities, status = block.value.copy(), block.quality.copy(), block.status.copy()
        value[rows] = values[rows]
        qualities[rows] = Quality.UNCERTAIN
        status[rows] = self.flow.words.code(HELD)
        return block.with_(value=value, quality=qualities, status=status)

    def transitions(self, block: Block, counted: Mask, wrong: Mask, since: NDArray[np.int64] | None = None) -> None:
        """Remember which tags are wrong, and tell which begin to be, or cease. since: by row, left out: its time."""
        rows = np.flatnonzero(counted)
        if not len(rows):
            return
        slots, now = block.slot[rows], wrong[rows]
        first = np.ones(len(rows), dtype=np.bool_)
        first[1:] = slots[1:] != slots[:-1]
        last = np.append(first[1:], True)
        before = np.empty(len(rows), dtype=np.bool_)
        before[1:] = now[:-1]
        states, begins = self._wrong["wrong"], self._wrong["since"]
        before[first] = states[slots[first]]
        states[slots[last]] = now[last]
        for place in np.flatnonzero(now != before).tolist():
            row, slot = int(rows[place]), int(slots[place])
            if now[place]:
                begins[slot] = block.t[row] if since is None else since[row]
            self.count("begun" if now[place] else "ended")
            if self._tells:
                state = "begin" if now[place] else "end"
                self.tell(state, slot, int(block.t[row]), block.value[row].item(), int(begins[slot]))

    def tell(self, state: str, slot: int, time_ns: int, value: Any, since: int) -> None:
        """An event about a tag."""
        series = self.flow.tags.series[slot]
        self.flow.tell(
            "sensor",
            time_ns,
            check=self.check,
            state=state,
            step=self.name,
            tag=series.tag,
            asset=series.asset,
            value=value,
            since=since,
        )

    def explained(self, slot: int) -> dict[str, Any]:
        """What every such step says of a tag."""
        known = slot < len(self._wrong["wrong"])
        wrong = known and bool(self._wrong["wrong"][slot])
        return {
            "applies": self.applies(slot),
            "action": self._action,
            self.check: wrong,
            **({"since": int(self._wrong["since"][slot])} if wrong else {}),
        }


class Pauses:
    """When the component went on after a time in which nothing was running.

    That is told from the turns alone, which lie far apart then: turns that are gone through once more find the same.
    """

    def __init__(self) -> None:
        self.resumed = 0
        """The steady clock of the first turn after the latest pause; 0: there was none."""
        self._turn: tuple[int, int] | None = None

    def begin(self, turn: Turn) -> bool:
        """Call once in each turn, before all else. Whether there was a pause before this turn."""
        before, self._turn = self._turn, (turn.steady, turn.now)
        if before is None or max(turn.steady - before[0], turn.now - before[1]) <= PAUSE:
            return False
        self.resumed = turn.steady
        return True

    def save(self) -> list[int]:
        """For `load`."""
        return [self.resumed, *(self._turn or ())]

    def load(self, saved: Sequence[Any]) -> None:
        """What `save` gave. Raises ValueError."""
        resumed, *turn = map(int, saved)
        self._turn = (turn[0], turn[1]) if len(turn) == 2 else None
        self.resumed = resumed


class Silence:
    """Since when nothing came of each tag, by `Turn.steady`.

    Only tags that have come at all are silent at some time. Silence before the latest pause does not count.
    """

    def __init__(self, after: float) -> None:
        """after: seconds of silence that are too long."""
        self.after = round(after * SECOND)
        self._tags = PerTag(heard=("int64", 0), known=("bool", False), silent=("bool", False))
        self._pauses = Pauses()

    def grow(self, size: int) -> None:
        """Make room for so many tags."""
        self._tags.grow(size)

    def begin(self, turn: Turn) -> None:
        """Call once in each turn, before all else."""
        self._pauses.begin(turn)

    def hear(self, slots: NDArray[np.int32], turn: Turn) -> NDArray[np.int32]:
        """These tags came. Those of them that were silent, each once."""
        ended: NDArray[np.int32] = np.unique(slots[self._tags["silent"][slots]])
        self._tags["heard"][slots] = turn.steady
        self._tags["known"][slots] = True
        self._tags["silent"][ended] = False
        return ended

    def fallen(self, turn: Turn) -> NDArray[np.intp]:
        """The tags that are silent for too long, each told once until it comes again; at most 5,000 in one turn."""
        if turn.steady - self._pauses.resumed < self.after:
            return np.zeros(0, dtype=np.intp)
        tags = self._tags
        silent = np.flatnonzero((tags["heard"] <= turn.steady - self.after) & tags["known"] & ~tags["silent"])
        silent = silent[:MOST_SILENT]
        tags["silent"][silent] = True
        return silent

    def forget(self, slots: NDArray[np.intp]) -> None:
        """These tags are not watched any more."""
        self._tags["known"][slots] = False
        self._tags["silent"][slots] = False

    def is_silent(self, slot: int) -> bool:
        """Whether the tag was found silent and has not come since."""
        return slot < len(self._tags["silent"]) and bool(self._tags["silent"][slot])

    def silent(self) -> NDArray[np.intp]:
        """All tags that are silent."""
        return np.flatnonzero(self._tags["silent"])

    def save(self, size: int) -> dict[str, Any]:
        """For `load`."""
        return {**self._tags.save(size), "pauses": self._pauses.save()}

    def load(self, saved: Mapping[str, Any], size: int) -> None:
        """What `save` gave. Raises ValueError, KeyError."""
        self._pauses.load(saved["pauses"])
        self._tags.load(saved, size)
