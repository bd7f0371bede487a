"""Totals of rates: a flow in m3/h becomes m3.

Between two samples of a tag its rate holds (stepped), or runs in a line (sloped): the time between them times that is
added to the total. Nothing is added for a pause longer than `max_gap`, which is told in an event (`gap-not-totalized`),
nor for time in which the rate was BAD; the total behind such a time is UNCERTAIN `gap`. Sums are compensated, so that
millions of small terms leave the total exact to its last digits.

When `reset` becomes true the totals of all tags begin at 0: at that very time, so that what a rate gave before belongs
to the old total and what it gives after to the new one, also between two samples. The old total is told in an event
(`total-reset`) as soon as it is known, which is with the next sample. Samples that come late are counted and told, and
add nothing. A tag that gets another unit begins anew, its old total is told (`unit-changed`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Index, Mask
from preprocessor.engine.step import SECOND, FlowContext, Step, Turn, grown
from preprocessor.expressions.signal import Signal
from preprocessor.step_settings import TotalizeSettings
from preprocessor.steps.kept_rows import Units, tell_another_unit
from preprocessor.steps.made_tags import MadeTags, block_of, rounds
from preprocessor.windows.ragged import NEVER
from preprocessor.windows.summing import add, added
from sluice.columns import Quality, ValueType

GAP: Final = "gap"
TOO_LARGE: Final = "too-large"
_PER: Final = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
_MOST_RESETS: Final = 1_000
"""Resets that are known at a time; a tag that was silent for more has only the latest ones told."""
_MOST_TOLD: Final = 100
"""Events in one turn; what else happens is counted."""
_BY_SLOT: Final[Mapping[str, tuple[Any, Any]]] = {
    "t": (np.int64, NEVER),
    "value": (np.float64, 0.0),
    "good": (np.bool_, False),
    "uncertain": (np.bool_, False),
    "sum": (np.float64, 0.0),
    "rest": (np.float64, 0.0),
    "resets": (np.int64, 0),
}
"""By slot: the last sample, the total as sum and rest, and how many resets are in it."""


class Totalize(Step[TotalizeSettings]):
    """Makes `<tag>.total` of rates."""

    rank: ClassVar[int] = 810

    def __init__(self, name: str, settings: TotalizeSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._of: dict[str, NDArray[Any]] = {name: np.zeros(0, dtype=of) for name, (of, _) in _BY_SLOT.items()}
        self._total = MadeTags(flow, name, "total", self._unit)
        self._signal = Signal(settings.reset, flow, "reset", step=name) if settings.reset.strip() else None
        self._true = False
        self._resets: list[int] = []
        """The times of the latest resets."""
        self._counted = 0
        """Resets that there ever were."""
        self._gap = round(settings.max_gap * SECOND)
        self._scale = 1.0 / (_PER[settings.per] * SECOND)
        self._units = Units(flow.tags)
        self._told = 0
        self._grow()

    def _unit(self, unit: str) -> str:
        if self.settings.unit:
            return self.settings.unit
        amount, slash, per = unit.rpartition("/")
        return amount if slash and per == self.settings.per else ""

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        self._grow()
        self._total.prepare(slots)
        for slot, before in self._units.replaced(slots):
            if self._of["t"][slot] > NEVER:
                tell_another_unit(self, slot, int(self._of["t"][slot]), before, total=self._shown(slot))
                for name, (_, fill) in _BY_SLOT.items():
                    self._of[name][slot] = fill
        if self._signal is not None:
            self._signal.prepare(slots)

    def _grow(self) -> None:
        for name, (_, fill) in _BY_SLOT.items():
            self._of[name] = grown(self._of[name], len(self.flow.tags), fill)

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        self._grow()
        self._told = 0
        if self._signal is not None:
            self._signal.feed(blocks, turn)
            self._note_resets(self._signal)
        result: list[Block] = []
        own: list[Block] = []
        for block in blocks:
            mine = self.selected(block)
            if not mine.any():
                result.append(block)
                continue
            made = self._totalized(block if mine.all() else block.take(mine))
            result.append(self.drop(block, mine, "totalized") if self.settings.inputs == "drop" else block)
            result += made
            own += made
        self._total.look(block for block in result if not any(block is one for one in own))
        return result

    def _note_resets(self, signal: Signal) -> None:
        times, _ = signal.changes()
        for when, true in zip(times.tolist(), signal.truth(times).tolist(), strict=True):
            if true and not self._true:
                self._resets.append(max(when, self._resets[-1]) if self._resets else when)
                self._counted += 1
                del self._resets[:-_MOST_RESETS]
            self._true = true

    def _totalized(self, block: Block) -> list[Block]:
        """The totals of these rows, which are all selected."""
        if block.type not in (ValueType.INTEGER, ValueType.DOUBLE):
            self.count("not-numeric", len(block))
            return []
        if block.late is not None and block.late.any():
            row = int(block.late.argmax())
            count = int(np.count_nonzero(block.late))
            self.count("late", count)
            self._tell("totalize-late", int(block.slot[row]), int(block.t[row]), samples=count)
            block = block.take(~block.late)
        size = len(block)
        if not size:
            return []
        value = block.numbers()
        good = np.isfinite(value) & (block.quality < Quality.BAD)
        total, flagged, doubtful = np.zeros(size), np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        in_rounds = rounds(block)
        if in_rounds is None:
            self._one_by_one(block, value, good, np.arange(size), total, flagged, doubtful)
        else:
            for rows in in_rounds:
                odd = self._at_once(block, value, good, rows, total, flagged, doubtful)
                if len(odd):
                    self._one_by_one(block, value, good, odd, total, flagged, doubtful)
        code = self.flow.words.code
        quality = np.maximum(block.quality, np.where(flagged | doubtful, np.uint8(1), np.uint8(0)))
        status = np.where(flagged, np.int64(code(GAP)), block.status)
        large = ~np.isfinite(total)
        if large.any():
            total[large] = np.nan
            quality = np.where(large, np.uint8(Quality.BAD), quality)
            status = np.where(large, np.int64(code(TOO_LARGE)), status)
        slots = self._total.of(block.slot)
        made = block_of(block, good, slots, ValueType.DOUBLE, total, quality=quality, status=status)
        self.made(len(made), "results")
        if not good.all():
            self.count("not-totalized", int(np.count_nonzero(~good)))
        return [made]

    def _at_once(
        self,
        block: Block,
        value: NDArray[Any],
        good: Mask,
        rows: Index,
        total: NDArray[Any],
        flagged: Mask,
        doubtful: Mask,
    ) -> Index:
        """Rows of different tags. Those that need a closer look are given back, and nothing is done with them."""
        of = self._of
        slot, t = block.slot[rows], block.t[rows]
        last = of["t"][slot]
        # behind a time that is not known, or a first sample, t - last may be anything
        plain = (last > NEVER) & (of["resets"][slot] == self._counted)
        plain[plain] = (t[plain] > last[plain]) & (t[plain] - last[plain] <= self._gap)
        odd: Index = rows[~plain]
        if len(odd):
            rows, slot, t, last = rows[plain], slot[plain], t[plain], last[plain]
        before, was_good = of["value"][slot], of["good"][slot]
        new = np.where(good[rows], value[rows], 0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            rate = np.where(good[rows], before / 2 + new / 2, before) if self.settings.sloped else before
            term = np.where(was_good, rate * ((t - last) * self._scale), 0.0)
        of["sum"][slot], of["rest"][slot] = added(of["sum"][slot], of["rest"][slot], term)
        total[rows] = of["sum"][slot] + of["rest"][slot]
        flagged[rows] = ~was_good
        doubtful[rows] = of["uncertain"][slot]
        of["t"][slot], of["value"][slot], of["good"][slot] = t, new, good[rows]
        of["uncertain"][slot] = block.quality[rows] == Quality.UNCERTAIN
        large = ~np.isfinite(total[rows])
        if large.any():
            self._begin_again(slot[large])
        return odd

    def _one_by_one(
        self,
        block: Block,
        value: NDArray[Any],
        good: Mask,
        rows: Index,
        total: NDArray[Any],
        flagged: Mask,
        doubtful: Mask,
    ) -> None:
        """Rows that need a closer look, or many rows of few tags."""
        of = self._of
        for row, slot, t in zip(rows.tolist(), block.slot[rows].tolist(), block.t[rows].tolist(), strict=True):
            last = int(of["t"][slot])
            new, is_good = float(value[row]) if good[row] else 0.0, bool(good[row])
            if last == NEVER:
                of["resets"][slot] = self._number_at(t)
            else:
                self._pass_time(slot, last, t, new, is_good)
                flagged[row] = not of["good"][slot] or t - last > self._gap
                doubtful[row] = of["uncertain"][slot]
            of["t"][slot], of["value"][slot], of["good"][slot] = t, new, is_good
            of["uncertain"][slot] = block.quality[row] == Quality.UNCERTAIN
            total[row] = of["sum"][slot] + of["rest"][slot]
            if not isfinite(total[row]):
                self._begin_again(np.array([slot], dtype=np.int32))

    def _pass_time(self, slot: int, last: int, t: int, new: float, is_good: bool) -> None:
        """Add what the rate gave between two samples; where it is reset in between, in parts."""
        of = self._of
        gap = t - last > self._gap
        if gap:
            self.count("gaps")
            self._tell("gap-not-totalized", slot, t, since_ns=last, seconds=(t - last) / SECOND)
        counts = bool(of["good"][slot]) and not gap
        before = float(of["value"][slot])
        rise = new - before if self.settings.sloped and is_good else 0.0
        since = last
        missed = min(self._counted - int(of["resets"][slot]), len(self._resets))
        for when in self._resets[len(self._resets) - missed :] if missed else ():
            if when > t:
                break
            until = max(when, since)
            if counts:
                self._add(slot, before, rise, last, t, since, until)
            self._tell_reset(slot, until)
            of["sum"][slot] = of["rest"][slot] = 0.0
            since = until
        of["resets"][slot] = self._number_at(t)
        if counts:
            self._add(slot, before, rise, last, t, since, t)

    def _add(self, slot: int, before: float, rise: float, last: int, t: int, since: int, until: int) -> None:
        """What a rate that was `before` at `last`, and rises by `rise` until t, gave within a part of that time."""
        of = self._of
        middle = (since - last + until - last) / (2 * (t - last))
        term = (before + rise * middle) * ((until - since) * self._scale)
        of["sum"][slot], of["rest"][slot] = add(float(of["sum"][slot]), float(of["rest"][slot]), term)

    def _number_at(self, t: int) -> int:
        """How many resets there were until then."""
        return self._counted - len(self._resets) + bisect_right(self._resets, t)

    def _begin_again(self, slots: NDArray[np.int32]) -> None:
        """Totals that are beyond all numbers begin at 0; the sample at which that was is BAD `too-large`."""
        self._of["sum"][slots] = self._of["rest"][slots] = 0.0
        self.count(TOO_LARGE, len(slots))

    def _tell_reset(self, slot: int, when: int) -> None:
        self.count("resets")
        self._tell("total-reset", slot, when, total=self._shown(slot))

    def _tell(self, kind: str, slot: int, t: int, **members: Any) -> None:
        if self._told < _MOST_TOLD or kind == "total-reset":
            series = self.flow.tags.series[slot]
            self.flow.tell(kind, t, step=self.name, tag=series.tag, asset=series.asset, **members)
        self._told += 1

    def _shown(self, slot: int) -> float:
        return float(self._of["sum"][slot] + self._of["rest"][slot])

    # --- state ---

    def save(self) -> Mapping[str, Any]:
        known = np.flatnonzero(self._of["t"] > NEVER).astype(np.int32)
        return {
            "known": known,
            **{name: self._of[name][known] for name in _BY_SLOT},
            "per": self.settings.per,
            "reset": self.settings.reset,
            "times": list(self._resets),
            "counted": self._counted,
            "true": self._true,
            "signal": None if self._signal is None else self._signal.save(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self._grow()
        if state["per"] != self.settings.per:
            raise ValueError(f"the totals are of a rate per {state['per']}, not per {self.settings.per}")
        known = np.array(state["known"], dtype=np.int32)
        if len(known) and not 0 <= int(known.min()) <= int(known.max()) < len(self.flow.tags):
            raise ValueError("totals of tags that are not there")
        for name in _BY_SLOT:
            self._of[name][known] = state[name]
        self._resets, self._counted = list(map(int, state["times"])), int(state["counted"])
        if self._signal is not None and state["reset"] == self.settings.reset:
            self._true = bool(state["true"])
            if state["signal"] is not None:
                self._signal.load(state["signal"])

    def explain(self, slot: int) -> dict[str, Any]:
        told = super().explain(slot)
        if slot >= len(self._of["t"]) or self._of["t"][slot] == NEVER:
            return {**told, "samples": "none yet"}
        of = self._of
        return {
            **told,
            "time_ns": int(of["t"][slot]),
            "rate": float(of["value"][slot]) if of["good"][slot] else None,
            "total": self._shown(slot),
        }
