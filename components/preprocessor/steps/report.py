"""Report by exception: a sample passes only when it says something new.

Each sample is compared with the last one *reported* of its tag, not with the one before it. What passes, and why:

    first       nothing was reported of the tag yet
    type        another value type than the last one reported
    quality     another quality (GOOD, UNCERTAIN, BAD), or the value is gone, or there again
    deadband    the value differs by more than the band (strictly), `min_interval` after the last report at the earliest
    heartbeat   `max_interval` after the last report in source time, whatever the value is: noise within the band too

Before the other reasons, but not before a heartbeat, the sample before it goes out as well (`previous`), if it was not
reported: else a step after a long calm would be drawn as a ramp. To that end the newest sample of each tag is held
until the next one comes. A change that must wait for `min_interval` goes out when that is over, also when nothing else
comes.

A tag of which nothing comes at all for `max_interval` has its last value repeated: at the source time of its last
sample plus the silence, UNCERTAIN `heartbeat` (a BAD one stays what it is). Silence is time in which the flow runs, by
the steady clock: after a pause of the flow itself nothing is repeated that has only not been read yet. Each tag has
moments of its own, every `max_interval`, given by its name, so that the tags of a plant that has fallen silent do not
all speak at once: the first repeat comes after once to twice `max_interval`, the others follow every `max_interval`.

The line through what passes is off by at most twice the band (with `previous`). With compression behind it, it is off
by at most twice the band plus the deviation of the compression.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Index, Mask, Runs
from preprocessor.engine.step import SECOND, FlowContext, Step, Turn, grown
from preprocessor.step_settings import ReportSettings
from preprocessor.steps.kept_rows import CODES, KeptRows, Units, bits_of
from sluice.columns import Quality, ValueType

HEARTBEAT: Final = "heartbeat"
IN_BAND: Final = "in_band"
_LONGEST_PAUSE: Final = 10 * SECOND
"""A turn that comes later than this after the one before counts as that much silence: the flow did not run."""
_ANY: Final = -(2**63)
_NONE: Final = -2
_HELD: Final = -1
_MOST_UINT64: Final = float(2**64 - 2048)
_NUMERIC: Final = (ValueType.DOUBLE, ValueType.INTEGER)


class Report(Step[ReportSettings]):
    """The step; see the top of this file."""

    rank = 900

    def __init__(self, name: str, settings: ReportSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._band = settings.absolute or 0.0
        if settings.percent_of_range is not None and settings.range is not None:
            low, high = settings.range
            self._band = settings.percent_of_range / 100.0 * (high - low)
        self._part = None if settings.percent_of_value is None else settings.percent_of_value / 100.0
        self._floor = settings.floor or 0.0
        self._min = round(settings.min_interval * SECOND)
        self._max = None if settings.max_interval is None else round(settings.max_interval * SECOND)
        self._beats = self._max if settings.heartbeat == "hold" else None
        self._units = Units(flow.tags)
        self._last = KeptRows()  # the last report
        self._heard = KeptRows()  # the newest sample, which may be the last report
        self._held: Mask = np.zeros(0, dtype=np.bool_)  # the newest sample was not reported, and may still be
        self._waiting: Mask = np.zeros(0, dtype=np.bool_)  # it is a change that came too soon
        self._heard_at: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # steady
        self._heard_alive: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._phase: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # from the tag's name: not part of the state
        # Never later than the next repeat: when it has come, it is seen whether the tag was silent for so long.
        self._look: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._came: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._passed: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._alive = 0  # ns that the flow has run
        self._before: int | None = None  # steady of the turn before
        self._settled = True

    def prepare(self, slots: Sequence[int]) -> None:
        """The moments of new tags; what is kept of a tag that has another unit now means nothing any more."""
        super().prepare(slots)
        size = len(self.flow.tags)
        self._grow(size)
        if self._beats is not None:
            for slot in slots:
                series = self.flow.tags.series[slot]
                number = zlib.crc32(f"{series.asset}/{series.tag}".encode(errors="surrogatepass"))
                self._phase[slot] = number * self._beats >> 32
        for slot in self._units.changed(slots):
            if self._held[slot]:
                self.gone(1, "unit_changed")
            self._held[slot] = self._waiting[slot] = False
            self._last.type[slot] = self._heard.type[slot] = 0

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        """What is new in these blocks, changes that waited long enough, and repeats of silent tags."""
        if self._before is not None:
            self._alive += max(0, min(turn.steady - self._before, _LONGEST_PAUSE))
        self._before = turn.steady
        found: list[Block] = []
        if not self._settled:
            found += self._released()
        for block in blocks:
            found += self._reported(block, turn)
        if self._min:
            found += self._due(turn)
        if self._beats is not None:
            found += self._repeated(turn, self._beats)
        return found

    def finish(self, turn: Turn) -> Sequence[Block]:
        """The samples that are held."""
        slots = np.flatnonzero(self._held)
        self._held[:] = self._waiting[:] = False
        return self._heard.blocks(slots)

    # --- samples ---

    def _reported(self, block: Block, turn: Turn) -> list[Block]:
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
        """What was held and goes out before these rows, and which of the rows pass."""
        runs, nulls = block.runs(), block.nulls()
        slots = runs.slots.astype(np.intp)
        forced = self._forced(block, runs, slots, nulls)
        if runs.single:
            elapsed = block.t - self._last.t[slots]
            beyond = self._beyond(block, slots)
            changed = forced | (beyond & (elapsed >= self._min) if self._min else beyond)
            kept = changed if self._max is None else changed | (elapsed >= self._max)
            given = changed & self._held[slots] if self.settings.previous else np.zeros(len(slots), dtype=np.bool_)
            if given.any():
                given &= self._heard.t[slots] > self._last.t[slots]
            latest = np.where(kept, np.arange(len(slots)), -1)
            passed: NDArray[np.int64] = kept.astype(np.int64)
            lengths: Any = 1
        else:
            kept, given = self._searched(block, runs, slots, forced)
            latest = np.maximum.reduceat(np.where(kept, np.arange(len(block)), -1), runs.starts)
            passed = np.add.reduceat(kept.astype(np.int64), runs.starts)
            lengths = runs.ends - runs.starts
        before = self._heard.blocks(slots[given]) if given.any() else []
        reported = latest >= 0
        if reported.any():
            self._last.put(slots[reported], block, latest[reported], nulls)
        ends = runs.ends - 1
        self._heard.put(slots, block, ends, nulls)
        held = ~kept[ends]
        if self._min:
            waiting = held & self._beyond(block, slots, ends) & ~nulls[ends]
            self._waiting[slots] = waiting
            held = held if self.settings.previous else waiting
        elif not self.settings.previous:
            held[:] = False
        dropped = len(block) - int(np.count_nonzero(kept)) - int(np.count_nonzero(held))
        dropped += int(np.count_nonzero(self._held[slots] & ~given))
        if self.flow.watching:
            self._told(block, forced, kept)
        self._held[slots] = held
        self._heard_at[slots] = turn.steady
        self._heard_alive[slots] = self._alive
        self._came[slots] += lengths
        self._passed[slots] += passed + given
        if dropped:
            self.gone(dropped, IN_BAND)
        return before, kept

    def _forced(self, block: Block, runs: Runs, slots: Index, nulls: Mask) -> Mask:
        """Rows of another type or quality than the one before, and those whose value is gone or there again.

        What is forced always passes, so that the row before says as much as the last report.
        """
        last = self._last
        if runs.single:
            forced: Mask = (
                (last.type[slots] != CODES[block.type])
                | (last.quality[slots] != block.quality)
                | (last.null[slots] != nulls)
            )
            return forced
        forced = np.zeros(len(block), dtype=np.bool_)
        forced[1:] = (block.quality[1:] != block.quality[:-1]) | (nulls[1:] != nulls[:-1])
        starts = runs.starts
        forced[starts] = (
            (last.type[slots] != CODES[block.type])
            | (last.quality[slots] != block.quality[starts])
            | (last.null[slots] != nulls[starts])
        )
        return forced

    def _beyond(self, block: Block, slots: Index, rows: Index | slice = slice(None)) -> Mask:
        """Which rows differ from the last report of their tag (`slots`, one for each row) by more than the band."""
        if block.type is ValueType.STRING:
            get = self._last.texts.get
            pairs = zip(slots.tolist(), block.value[rows].tolist(), strict=True)
            return np.array([get(slot) != text for slot, text in pairs], dtype=np.bool_)
        beyond: Mask
        if block.type is ValueType.DOUBLE:
            last: NDArray[Any] = self._last.bits[slots].view(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                distance = np.abs(block.value[rows] - last)
                band = self._band if self._part is None else self._part * np.maximum(np.abs(last), self._floor)
                beyond = distance > band
            return beyond
        value, last = bits_of(block)[rows], self._last.bits[slots]
        if block.type is ValueType.BOOLEAN:
            beyond = value != last
            return beyond
        # As integers without a sign the distance is exact over all 64 bits; beyond a band is beyond its whole part.
        distance = np.where(value >= last, value - last, last - value).view(np.uint64)
        if self._part is None:
            beyond = distance > np.uint64(min(self._band, _MOST_UINT64))
            return beyond
        band = self._part * np.maximum(np.abs(last.astype(np.float64)), self._floor)
        beyond = distance > np.minimum(band, _MOST_UINT64).astype(np.uint64)
        return beyond

    def _searched(self, block: Block, runs: Runs, slots: Index, forced: Mask) -> tuple[Mask, Mask]:
        """Which rows pass, and before which tags' rows the one that is held: where tags have several rows.

        Rows that are within the band of what was reported before this turn cost no Python: only from the first one
        that is not, a tag is gone through row by row.
        """
        lengths = runs.ends - runs.starts
        by_row = np.repeat(slots, lengths)
        candidates = forced | self._beyond(block, by_row)
        if self._max is not None:
            candidates |= block.t - self._last.t[by_row] >= self._max
        places = np.flatnonzero(candidates)
        kept = np.zeros(len(block), dtype=np.bool_)
        given = np.zeros(len(runs), dtype=np.bool_)
        if not len(places):
            return kept, given
        first = np.searchsorted(places, runs.starts)
        chosen = np.flatnonzero(first < np.searchsorted(places, runs.ends))
        values, lasts = self._comparable(block, slots[chosen])
        times, force = block.t.tolist(), forced.tolist()
        in_band = _NONE if not self.settings.previous else _HELD
        part = self._part if block.type in _NUMERIC else None
        floor, most = self._floor, self._max
        least = self._min or _ANY  # a repeat may be ahead of the sample that comes next
        keep: list[int] = []
        before: list[int] = []
        for run, start, begin, end, last, last_t, held, held_t in zip(
            chosen.tolist(),
            runs.starts[chosen].tolist(),
            places[first[chosen]].tolist(),
            runs.ends[chosen].tolist(),
            lasts,
            self._last.t[slots[chosen]].tolist(),
            self._held[slots[chosen]].tolist(),
            self._heard.t[slots[chosen]].tolist(),
            strict=True,
        ):
            band = self._band if part is None else part * max(abs(float(last)), floor)
            previous = _NONE
            if in_band != _NONE:
                if begin > start:
                    previous = begin - 1
                elif held and held_t > last_t:
                    previous = _HELD
            for row in range(begin, end):
                value, time = values[row], times[row]
                distance = value - last
                if force[row] or ((distance > band or -distance > band) and time - last_t >= least):
                    if previous >= 0:
                        if times[previous] > last_t:
                            keep.append(previous)
                    elif previous == _HELD:
                        before.append(run)
                elif most is None or time - last_t < most:
                    if in_band != _NONE:
                        previous = row
                    continue
                keep.append(row)
                last, last_t, previous = value, time, _NONE
                if part is not None:
                    band = part * max(abs(float(last)), floor)
        kept[keep] = True
        given[before] = True
        return kept, given

    def _comparable(self, block: Block, slots: Index) -> tuple[list[Any], list[Any]]:
        """The values of the block, and of the last reports of these tags, as numbers; texts by a number for each."""
        if block.type is ValueType.STRING:
            numbers: dict[str | None, int] = {}
            values = [numbers.setdefault(text, len(numbers)) for text in block.value.tolist()]
            get = self._last.texts.get
            return values, [numbers.setdefault(get(slot), len(numbers)) for slot in slots.tolist()]
        if block.type is ValueType.DOUBLE:
            return block.value.tolist(), self._last.bits[slots].view(np.float64).tolist()
        return bits_of(block).tolist(), self._last.bits[slots].tolist()

    def _told(self, block: Block, forced: Mask, kept: Mask) -> None:
        self.note(block, kept & forced, "first, type or quality", "passed")
        self.note(block, kept & ~forced, "deadband, previous or heartbeat", "passed")
        self.note(block, ~kept, IN_BAND, "held")

    # --- time ---

    def _due(self, turn: Turn) -> list[Block]:
        """Changes that came too soon after a report, when that is long enough ago."""
        if not self._waiting.any():
            return []
        slots = np.flatnonzero(self._waiting)
        silence = turn.steady - self._heard_at[slots]
        slots = slots[silence >= self._min - (self._heard.t[slots] - self._last.t[slots])]
        if not len(slots):
            return []
        self._held[slots] = self._waiting[slots] = False
        self._last.copy(self._heard, slots)
        self._passed[slots] += 1
        return self._heard.blocks(slots)

    def _repeated(self, turn: Turn, every: int) -> list[Block]:
        """The last value of each tag that was silent for so long."""
        alive = self._alive
        slots = np.flatnonzero(self._look <= alive)
        if not len(slots):
            return []
        heard = (self._heard.type[slots] > 0) & self._selected[slots]
        quiet = alive - self._heard_alive[slots] >= every
        # The tag's next moment: for those that spoke lately the first one at which they may have been silent enough.
        least = np.where(heard & ~quiet, self._heard_alive[slots] + every, alive + 1)
        phase = self._phase[slots]
        self._look[slots] = -(-(least - phase) // every) * every + phase
        slots = slots[heard & quiet]
        if not len(slots):
            return []
        lost = int(np.count_nonzero(self._held[slots]))
        if lost:
            self.gone(lost, IN_BAND)
        self._held[slots] = self._waiting[slots] = False
        self._last.copy(self._heard, slots)
        word = self.flow.words.code(HEARTBEAT)
        found = []
        for block in self._heard.blocks(slots):
            of = block.slot.astype(np.intp)
            repeat = block.with_(
                t=block.t + (turn.steady - self._heard_at[of]),
                quality=np.maximum(block.quality, np.uint8(Quality.UNCERTAIN)),
                status=np.where(block.quality < Quality.BAD, word, block.status),
                backfill=False,
            )
            self._last.t[of] = repeat.t
            self._last.quality[of] = repeat.quality
            self.note(repeat, np.ones(len(repeat), dtype=np.bool_), HEARTBEAT, "made")
            found.append(repeat)
        self.made(len(slots), HEARTBEAT)
        return found

    def _released(self) -> list[Block]:
        """What is held of tags that the step does not apply to any more."""
        self._settled = True
        slots = np.flatnonzero(self._held & ~self._selected[: len(self._held)])
        self._held[slots] = self._waiting[slots] = False
        return self._heard.blocks(slots)

    # --- state ---

    def _grow(self, size: int) -> None:
        self._last.grow(size)
        self._heard.grow(size)
        self._held = grown(self._held, len(self._heard))
        self._waiting = grown(self._waiting, len(self._heard))
        self._selected = grown(self._selected, len(self._heard))
        for name in ("_heard_at", "_heard_alive", "_phase", "_look", "_came", "_passed"):
            setattr(self, name, grown(getattr(self, name), len(self._heard)))

    def save(self) -> Mapping[str, Any]:
        """The last report and the newest sample of each tag, and the clocks."""
        return {
            "last": self._last.save(),
            "heard": self._heard.save(),
            "held": self._held,
            "waiting": self._waiting,
            "heard_at": self._heard_at,
            "heard_alive": self._heard_alive,
            "look": self._look,
            "came": self._came,
            "passed": self._passed,
            "alive": self._alive,
            "before": self._before,
            "every": self._beats,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Under other settings too: the next sample is judged by them. Samples of tags left out now go out."""
        last, heard = KeptRows(), KeptRows()
        last.load(state["last"])
        heard.load(state["heard"])
        columns = {
            name: np.array(state[name], dtype=getattr(self, f"_{name}").dtype)
            for name in ("held", "waiting", "heard_at", "heard_alive", "look", "came", "passed")
        }
        if {column.shape for column in columns.values()} != {(len(last),)} or len(heard) != len(last):
            raise ValueError("the columns of the state are not of one length")
        self._alive, before = int(state["alive"]), state["before"]
        self._before = None if before is None else int(before)
        self._last, self._heard = last, heard
        for name, column in columns.items():
            setattr(self, f"_{name}", column)
        if state["every"] != self._beats:
            self._look[:] = 0
        self._grow(len(self.flow.tags))
        self._settled = False

    def explain(self, slot: int) -> dict[str, Any]:
        """The band, the last report, what is held, and how many samples passed."""
        if not self.applies(slot) or slot >= len(self._last) or not self._heard.type[slot]:
            return super().explain(slot)
        found: dict[str, Any] = {
            "applies": True,
            "band": self._band_of(slot),
            "reported": self._last.value(slot) if self._last.type[slot] else None,
            "reported_ns": int(self._last.t[slot]),
            "reported_quality": int(self._last.quality[slot]),
            "samples": int(self._came[slot]),
            "passed": int(self._passed[slot]),
        }
        if self._held[slot]:
            found["held"] = self._heard.value(slot)
            found["held_ns"] = int(self._heard.t[slot])
            if self._waiting[slot]:
                found["waits_for"] = "minInterval"
        if self._beats is not None:
            found["silent_s"] = round((self._alive - int(self._heard_alive[slot])) / SECOND, 3)
        return found

    def _band_of(self, slot: int) -> float:
        value = self._last.value(slot)
        if isinstance(value, (bool, str)) or value is None:
            return 0.0
        return self._band if self._part is None else self._part * max(abs(float(value)), self._floor)
