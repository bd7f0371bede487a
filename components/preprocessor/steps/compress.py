"""Swinging door: of samples that lie on a line, within `deviation`, only its ends pass.

Per tag: the last sample that passed (the *anchor*), the newest one (*held*), and the *cone*: the slopes of the lines
from the anchor that come within the deviation of every sample since. A new sample shows whether the line to the held
one was still in the cone as long as the line may go on: the line from the anchor to the *new* sample must be in the
cone that all samples since the anchor left open; if not, the held sample passes and is the new anchor. Every sample
that was left out lies between two that passed, and the line between these was in its cone: so it is at most `deviation`
off. That holds to the last bit: the cone is narrower than the deviation by more than what arithmetic with floats may be
wrong by, and a jump so large that no room is left for that closes the door.

What ends a line at once: another quality (GOOD, UNCERTAIN, BAD), a value that is gone or there again, another type or
unit. The sample that does passes, after the one that was held. A tag without a value (null) runs on a line of nulls:
its first and last pass. Texts and booleans pass all. A line longer than `max_interval` ends; after so long without a
sample, by the steady clock, the held one passes. Samples that are not newer than the newest of their tag pass as they
are and change nothing.

With report by exception before it, the line is off by at most the deviation plus twice the band of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Index, Mask, Runs
from preprocessor.engine.step import SECOND, FlowContext, Step, Turn, grown
from preprocessor.step_settings import CompressSettings
from preprocessor.steps.kept_rows import CODES, KeptRows, Units
from sluice.columns import ValueType

ON_LINE: Final = "on_line"
_INF: Final = float("inf")
_NEVER: Final = -(2**63)
_ROUNDING: Final = 2.0**-49
"""Part of a difference by which what is calculated of it may be wrong: 16 units in the last place, of which it takes 7.
"""
_NARROWER: Final = 1.0 - 2.0**-48
_NUMERIC: Final = (ValueType.DOUBLE, ValueType.INTEGER)
# A row of the block by its number; else:
_NONE: Final = -1
_KEPT: Final = -2  # what the state holds
# What a row is to the one before it:
_GOES_ON: Final = 0
_BREAKS: Final = 1
_NULL_GOES_ON: Final = 2


@dataclass(slots=True)
class _Lines:
    """The lines of the tags of one block, run by run, while its rows are gone through."""

    at: NDArray[np.int64]
    """The anchor's time and value."""
    av: NDArray[Any]
    st: NDArray[np.int64]
    """The held sample's."""
    sv: NDArray[Any]
    up: NDArray[np.float64]
    lo: NDArray[np.float64]
    anchor: Index
    """Which row is the anchor; _NONE: the one of the state still."""
    held: Index
    given: Mask
    """What the state held has passed."""


class Compress(Step[CompressSettings]):
    """The step; see the top of this file."""

    rank = 950
    few = 300
    """Fewer tags than this go row by row in Python, more of them all at once, one row of each after the other."""

    def __init__(self, name: str, settings: CompressSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._deviation = settings.bound
        self._min = round(settings.min_interval * SECOND)
        self._max = round(settings.max_interval * SECOND)
        self._units = Units(flow.tags)
        self._anchor = KeptRows()
        self._newest = KeptRows()
        self._held: Mask = np.zeros(0, dtype=np.bool_)  # the newest has not passed
        self._up: NDArray[np.float64] = np.zeros(0, dtype=np.float64)
        self._lo: NDArray[np.float64] = np.zeros(0, dtype=np.float64)
        self._heard_at: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # steady
        self._came: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._passed: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._cones_for = self._deviation
        self._settled = True
        self._idle_from = 0  # steady before which no tag can have been silent for too long: spares looking

    def prepare(self, slots: Sequence[int]) -> None:
        """Room for new tags; what is kept of a tag that has another unit now means nothing any more."""
        super().prepare(slots)
        self._grow(len(self.flow.tags))
        for slot in self._units.changed(slots):
            if self._held[slot]:
                self.gone(1, "unit_changed")
            self._held[slot] = False
            self._anchor.type[slot] = 0

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        """The ends of lines that ended."""
        found: list[Block] = []
        if not self._settled:
            found += self._resettled()
        for block in blocks:
            found += self._compressed(block, turn)
        if turn.steady >= self._idle_from:
            found += self._idle(turn)
        return found

    def finish(self, turn: Turn) -> Sequence[Block]:
        """The samples that are held."""
        return self._flushed(np.flatnonzero(self._held))

    # --- samples ---

    def _compressed(self, block: Block, turn: Turn) -> list[Block]:
        mine = self.selected(block)
        if block.late is not None:
            mine &= ~block.late
        everything = bool(mine.all())
        rows = None if everything else np.flatnonzero(mine)
        if rows is not None and not len(rows):
            return [block]
        part = block if rows is None else block.take(rows)
        before, kept = self._judged(part, turn)
        if rows is not None:
            wanted = ~mine
            wanted[rows] = kept
            kept = wanted
        return [*before, block if kept.all() else block.take(kept)]

    def _judged(self, block: Block, turn: Turn) -> tuple[list[Block], Mask]:
        """What was held and passes before these rows, and which of the rows pass."""
        runs = block.runs()
        slots = runs.slots.astype(np.intp)
        self._heard_at[slots] = turn.steady
        if block.type not in _NUMERIC:
            before = self._flushed(slots[self._held[slots]])
            self._anchor.type[slots] = 0
            return before, np.ones(len(block), dtype=np.bool_)
        back = self._not_newer(block, runs, slots)
        if back is not None:
            forward = np.flatnonzero(~back)
            if not len(forward):
                return [], back
            before, kept = self._judged(block.take(forward), turn)
            back[forward] = kept
            return before, back
        nulls = block.nulls()
        state_held = self._held[slots]
        lines = self._lines(block, runs, slots, state_held)
        kept = np.zeros(len(block), dtype=np.bool_)
        self._gone_through(block, runs, self._breaks(block, runs, slots, nulls), lines, kept)
        given = lines.given
        before = self._newest.blocks(slots[given]) if given.any() else []
        stepped, moved = lines.anchor == _KEPT, lines.anchor >= 0
        if stepped.any():
            self._anchor.copy(self._newest, slots[stepped])
        if moved.any():
            self._anchor.put(slots[moved], block, lines.anchor[moved], nulls)
        held = lines.held >= 0
        if held.all():
            self._newest.put(slots, block, lines.held, nulls)
        elif held.any():
            self._newest.put(slots[held], block, lines.held[held], nulls)
        self._held[slots] = held
        self._up[slots] = lines.up
        self._lo[slots] = lines.lo
        passed = int(np.count_nonzero(kept))
        dropped = len(block) - passed - int(np.count_nonzero(held)) + int(np.count_nonzero(state_held & ~given))
        if dropped:
            self.gone(dropped, ON_LINE)
        if runs.single:
            self._came[slots] += 1
            self._passed[slots] += kept + given.astype(np.int64)
        else:
            self._came[slots] += runs.ends - runs.starts
            self._passed[slots] += np.add.reduceat(kept.astype(np.int64), runs.starts) + given
        if self.flow.watching:
            self.note(block, kept, "end of a line", "passed")
            self.note(block, ~kept, ON_LINE, "held")
        return before, kept

    def _not_newer(self, block: Block, runs: Runs, slots: Index) -> Mask | None:
        """Which rows are not newer than the newest of their tag; None: all are. Steps before may have made some."""
        latest = np.where(self._held[slots], self._newest.t[slots], self._anchor.t[slots])
        latest[self._anchor.type[slots] == 0] = _NEVER
        if bool((block.t[runs.starts] > latest).all()) and (
            runs.single or bool(((block.t[1:] > block.t[:-1]) | (block.slot[1:] != block.slot[:-1])).all())
        ):
            return None
        back = np.zeros(len(block), dtype=np.bool_)
        times = block.t.tolist()
        for top, start, end in zip(latest.tolist(), runs.starts.tolist(), runs.ends.tolist(), strict=True):
            newest = top
            for row in range(start, end):
                if times[row] > newest:
                    newest = times[row]
                else:
                    back[row] = True
        return back

    def _breaks(self, block: Block, runs: Runs, slots: Index, nulls: Mask) -> NDArray[np.uint8]:
        """What each row is to the one before it of its tag, which says as much of quality and null as the anchor."""
        anchor, starts = self._anchor, runs.starts
        breaks = np.zeros(len(block), dtype=np.bool_)
        if not runs.single:
            breaks[1:] = (block.quality[1:] != block.quality[:-1]) | (nulls[1:] != nulls[:-1])
        breaks[starts] = (
            (anchor.type[slots] != CODES[block.type])
            | (anchor.quality[slots] != block.quality[starts])
            | (anchor.null[slots] != nulls[starts])
        )
        codes: NDArray[np.uint8] = np.where(breaks, _BREAKS, np.where(nulls, _NULL_GOES_ON, _GOES_ON)).astype(np.uint8)
        return codes

    def _lines(self, block: Block, runs: Runs, slots: Index, held: Mask) -> _Lines:
        dtype = np.float64 if block.type is ValueType.DOUBLE else np.int64
        # A tag without a line has one that is just behind its first row, which breaks it.
        at = np.where(self._anchor.type[slots] == 0, block.t[runs.starts] - 1, self._anchor.t[slots])
        return _Lines(
            at,
            self._anchor.bits[slots].view(dtype),
            np.where(held, self._newest.t[slots], at),
            self._newest.bits[slots].view(dtype),
            self._up[slots],
            self._lo[slots],
            np.full(len(slots), _NONE, dtype=np.intp),
            np.where(held, _KEPT, _NONE).astype(np.intp),
            np.zeros(len(slots), dtype=np.bool_),
        )

    def _gone_through(self, block: Block, runs: Runs, codes: NDArray[np.uint8], lines: _Lines, kept: Mask) -> None:
        """The rows of all tags: as long as many tags have a row, one of each at a time; then tag by tag."""
        lengths = runs.ends - runs.starts
        longest = int(lengths.max())
        for number in range(longest):
            which = np.flatnonzero(lengths > number)
            if len(which) < self.few:
                self._one_by_one(block, runs.starts[which] + number, runs.ends[which], codes, lines, which, kept)
                return
            every = len(which) == len(runs)
            self._at_once(block, runs.starts[which] + number, codes, lines, slice(None) if every else which, kept)

    def _at_once(
        self,
        block: Block,
        rows: Index,
        codes: NDArray[np.uint8],
        lines: _Lines,
        which: Index | slice,
        kept: Mask,
    ) -> None:
        """One row of each of these tags."""
        t, value, code = block.t[rows], block.value[rows], codes[rows]
        at, av, up, lo = lines.at[which], lines.av[which], lines.up[which], lines.lo[which]
        anchor, held = lines.anchor[which], lines.held[which]
        has = held != _NONE
        special = bool(code.any())
        breaks = code == _BREAKS
        with np.errstate(all="ignore"):
            length, change = t - at, _difference(value, av)
            slope = change / length
            inside = (lo <= slope) & (slope <= up)
            if special:
                inside |= code == _NULL_GOES_ON
            closed = has & (~inside | (length > self._max))
            if self._min:
                closed &= length >= self._min
            if special:
                closed = np.where(breaks, has, closed)
            if closed.any():
                passing = held[closed]
                kept[passing[passing >= 0]] = True
                lines.given[which] |= closed & (held == _KEPT)
                at = np.where(closed, lines.st[which], at)
                av = np.where(closed, lines.sv[which], av)
                up = np.where(closed, _INF, up)
                lo = np.where(closed, -_INF, lo)
                anchor = np.where(closed, held, anchor)
                length, change = t - at, _difference(value, av)
            room = self._deviation * _NARROWER - np.abs(change) * _ROUNDING
            fits = room >= 0.0
            up = np.minimum(up, np.where(fits, (change + room) / length, -_INF))
            lo = np.maximum(lo, np.where(fits, (change - room) / length, _INF))
        held = rows
        if special and breaks.any():
            kept[rows[breaks]] = True
            at, av = np.where(breaks, t, at), np.where(breaks, value, av)
            up, lo = np.where(breaks, _INF, up), np.where(breaks, -_INF, lo)
            anchor, held = np.where(breaks, rows, anchor), np.where(breaks, _NONE, rows)
        lines.at[which], lines.av[which], lines.up[which], lines.lo[which] = at, av, up, lo
        lines.st[which], lines.sv[which] = t, value
        lines.anchor[which], lines.held[which] = anchor, held

    def _one_by_one(
        self,
        block: Block,
        begins: Index,
        ends: Index,
        codes: NDArray[np.uint8],
        lines: _Lines,
        which: Index,
        kept: Mask,
    ) -> None:
        """These tags from the given rows on, each to its end. The same as `_at_once`, and the same to the last bit.

        A row that is anything but the next number of its line has no value here, so that it falls out of every cone:
        what goes on need not be asked what it is.
        """
        base, floats = _base(block.t, lines.at[which], lines.st[which])
        exact = _floats_do(block.value, lines.av[which], lines.sv[which])
        times, values = floats(block.t - base), _as_numbers(block.value, exact, codes != _GOES_ON)
        deviation, rounding = self._deviation * _NARROWER, _ROUNDING
        least, most = self._min, self._max
        keep: list[int] = []
        ended: list[tuple[float, float, int, int, bool]] = []
        for begin, end, at, av, st, sv, up, lo, anchor, held, given in zip(
            begins.tolist(),
            ends.tolist(),
            floats(lines.at[which] - base),
            _as_numbers(lines.av[which], exact),
            floats(lines.st[which] - base),
            _as_numbers(lines.sv[which], exact),
            lines.up[which].tolist(),
            lines.lo[which].tolist(),
            lines.anchor[which].tolist(),
            lines.held[which].tolist(),
            lines.given[which].tolist(),
            strict=True,
        ):
            for row, t, value in zip(range(begin, end), times[begin:end], values[begin:end], strict=True):
                length = t - at
                change = value - av
                if not lo <= change / length <= up or length > most:
                    code = codes[row]
                    if code == _BREAKS:
                        if held >= 0:
                            keep.append(held)
                        elif held == _KEPT:
                            given = True
                        keep.append(row)
                        anchor, held, at, av, up, lo = row, _NONE, t, block.value[row].item(), _INF, -_INF
                        continue
                    if held != _NONE and length >= least and (code == _GOES_ON or length > most):
                        if held >= 0:
                            keep.append(held)
                            st, sv = times[held], values[held]
                        else:
                            given = True
                        anchor, at, av, up, lo = held, st, sv, _INF, -_INF
                        length = t - at
                        change = value - av
                room = deviation - abs(change) * rounding
                if room >= 0.0:
                    slope = (change + room) / length
                    if slope < up:
                        up = slope
                    slope = (change - room) / length
                    if slope > lo:
                        lo = slope
                else:
                    up, lo = -_INF, _INF
                held = row
            ended.append((up, lo, anchor, held, given))
        kept[keep] = True
        ups, los, anchors, helds, givens = zip(*ended, strict=True)
        lines.up[which], lines.lo[which] = ups, los
        lines.anchor[which], lines.held[which], lines.given[which] = anchors, helds, givens

    # --- time ---

    def _idle(self, turn: Turn) -> list[Block]:
        """Samples that are held of tags that have been silent for so long."""
        slots = np.flatnonzero(self._held)
        heard_at = self._heard_at[slots]
        silent = turn.steady - heard_at >= self._max
        self._idle_from = int(heard_at[~silent].min(initial=turn.steady)) + self._max
        return self._flushed(slots[silent])

    def _flushed(self, slots: Index) -> list[Block]:
        """What is held of these tags, which are then at the end of a line."""
        if not len(slots):
            return []
        self._held[slots] = False
        self._anchor.copy(self._newest, slots)
        self._up[slots], self._lo[slots] = _INF, -_INF
        self._passed[slots] += 1
        return self._newest.blocks(slots)

    def _resettled(self) -> list[Block]:
        """After a load: lines that began under another deviation end, and what is held of tags left out now goes."""
        self._settled = True
        gone = self._held & ~self._selected[: len(self._held)]
        if self._cones_for != self._deviation:
            self._cones_for = self._deviation
            gone = self._held
        return self._flushed(np.flatnonzero(gone))

    # --- state ---

    def _grow(self, size: int) -> None:
        self._anchor.grow(size)
        self._newest.grow(size)
        size = len(self._anchor)
        self._held = grown(self._held, size)
        self._selected = grown(self._selected, size)
        for name in ("_up", "_lo", "_heard_at", "_came", "_passed"):
            setattr(self, name, grown(getattr(self, name), size))

    def save(self) -> Mapping[str, Any]:
        """The anchor, the newest sample and the cone of each tag."""
        return {
            "anchor": self._anchor.save(),
            "newest": self._newest.save(),
            "held": self._held,
            "up": self._up,
            "lo": self._lo,
            "heard_at": self._heard_at,
            "came": self._came,
            "passed": self._passed,
            "deviation": self._cones_for,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Under other settings too: lines that began under another deviation then end with what is held."""
        anchor, newest = KeptRows(), KeptRows()
        anchor.load(state["anchor"])
        newest.load(state["newest"])
        columns = {
            name: np.array(state[name], dtype=getattr(self, f"_{name}").dtype)
            for name in ("held", "up", "lo", "heard_at", "came", "passed")
        }
        if {column.shape for column in columns.values()} != {(len(anchor),)} or len(newest) != len(anchor):
            raise ValueError("the columns of the state are not of one length")
        self._cones_for = float(state["deviation"])
        self._anchor, self._newest = anchor, newest
        for name, column in columns.items():
            setattr(self, f"_{name}", column)
        self._grow(len(self.flow.tags))
        self._settled = False
        self._idle_from = 0

    def explain(self, slot: int) -> dict[str, Any]:
        """The deviation, the last sample that passed, what is held, and how many samples passed."""
        if not self.applies(slot) or slot >= len(self._anchor) or not self._came[slot]:
            return super().explain(slot)
        found: dict[str, Any] = {
            "applies": True,
            "deviation": self._deviation,
            "passed_value": self._anchor.value(slot) if self._anchor.type[slot] else None,
            "passed_ns": int(self._anchor.t[slot]),
            "samples": int(self._came[slot]),
            "passed": int(self._passed[slot]),
        }
        if self._held[slot]:
            found["held"] = self._newest.value(slot)
            found["held_ns"] = int(self._newest.t[slot])
        return found


def _difference(value: NDArray[Any], before: NDArray[Any]) -> NDArray[np.float64]:
    """By how much values differ, as floats wrong in the last place at most; of integers exact before it is rounded."""
    difference: NDArray[Any] = value - before
    if value.dtype == np.float64:
        return difference
    wrapped = ((value ^ before) & (value ^ difference)) < 0
    found: NDArray[np.float64] = difference.astype(np.float64)
    if wrapped.any():
        found[wrapped] = value[wrapped].astype(np.float64) - before[wrapped].astype(np.float64)
    return found


def _base(*times: NDArray[np.int64]) -> tuple[np.int64, Callable[[NDArray[np.int64]], list[Any]]]:
    """What to take off these times, and how to make numbers of them then: floats where they are exact (104 days)."""
    base = np.min([one.min() for one in times])
    if int(np.max([one.max() for one in times])) - int(base) < 2**53:
        return base, lambda relative: list(relative.astype(np.float64).tolist())
    return np.int64(0), lambda relative: list(relative.tolist())


def _floats_do(*columns: NDArray[Any]) -> bool:
    """Whether floats hold all of these values exactly."""
    return all(
        values.dtype == np.float64 or (int(values.max()) <= 2**53 and int(values.min()) >= -(2**53))
        for values in columns
    )


def _as_numbers(values: NDArray[Any], floats: bool, without: Mask | None = None) -> list[Any]:
    """Floats, or integers as what they are. NaN in some places."""
    if floats and values.dtype != np.float64:
        values = values.astype(np.float64)
    if without is None or not without.any():
        return list(values.tolist())
    if floats:
        return list(np.where(without, np.nan, values).tolist())
    numbers: list[Any] = values.tolist()
    for place in np.flatnonzero(without).tolist():
        numbers[place] = float("nan")
    return numbers
