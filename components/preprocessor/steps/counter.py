"""Counters: what was added since the last sample, and all of it together.

A counter only rises. What it rose by between two samples is the *delta*; where it fell

    it began at 0 again (rollover)   if `rollover` is set and it fell by more than half of that: delta + rollover
    it was reset                     else: what it shows is what it counted since; told in an event

A delta that is larger than `max_rate` allows is not believed: the sample becomes BAD `too-fast`, is told in an event,
adds nothing, and the next one is compared with the last that was believed. When that one is no better, but agrees with
the one that was not believed, the counter was exchanged: from there it goes on, and what lies between is not counted.

The total begins at 0 with the first sample of a tag. Those of integer counters are integers and exact. BAD samples and
such without a value move nothing. A tag that gets another unit begins anew, its old total is told (`unit-changed`).
Samples that come late are counted and told: what they counted is in the next one's delta already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Index, Mask
from preprocessor.engine.step import SECOND, FlowContext, Step, Turn, grown
from preprocessor.step_settings import CounterSettings
from preprocessor.steps.kept_rows import Units, tell_another_unit
from preprocessor.steps.made_tags import MadeTags, block_of, rounds
from preprocessor.windows.ragged import NEVER
from preprocessor.windows.summing import add, added
from sluice.columns import Quality, ValueType

TOO_FAST: Final = "too-fast"
BEYOND: Final = "beyond-rollover"
TOO_LARGE: Final = "too-large"
_WORDS: Final = ("", TOO_FAST, BEYOND, TOO_LARGE)
_NONE: Final = 0
_INTEGER: Final = 1
_DOUBLE: Final = 2
_LARGE: Final = 2**62
_MOST: Final = 2**63 - 1
_MOST_TOLD: Final = 100
"""Events in one turn; what else happens is counted."""
_BY_SLOT: Final[Mapping[str, tuple[Any, Any]]] = {
    "of": (np.uint8, _NONE),
    "t": (np.int64, NEVER),
    "integer": (np.int64, 0),
    "double": (np.float64, 0.0),
    "total": (np.int64, 0),
    "sum": (np.float64, 0.0),
    "rest": (np.float64, 0.0),
    "doubted_t": (np.int64, NEVER),
    "doubted_integer": (np.int64, 0),
    "doubted_double": (np.float64, 0.0),
}
"""By slot: how it counts (in doubles once a double came), time and value of the last sample that was believed, the
total (in doubles: sum and rest), and the one after it that was not believed."""


class Counter(Step[CounterSettings]):
    """Makes `<tag>.total` and `<tag>.delta` of counters."""

    rank: ClassVar[int] = 800

    def __init__(self, name: str, settings: CounterSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._of: dict[str, NDArray[Any]] = {name: np.zeros(0, dtype=of) for name, (of, _) in _BY_SLOT.items()}
        self._total = MadeTags(flow, name, "total", lambda unit: unit)
        self._delta = MadeTags(flow, name, "delta", lambda unit: unit)
        self._units = Units(flow.tags)
        self._told = 0
        modulus = settings.rollover
        self._modulus: float | int | None = int(modulus) if modulus is not None and modulus.is_integer() else modulus
        self._grow()

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        self._grow()
        self._total.prepare(slots)
        self._delta.prepare(slots)
        for slot, before in self._units.replaced(slots):
            if self._of["of"][slot] != _NONE:
                tell_another_unit(self, slot, int(self._of["t"][slot]), before, total=self._shown(slot))
                for name, (_, fill) in _BY_SLOT.items():
                    self._of[name][slot] = fill

    def _grow(self) -> None:
        for name, (_, fill) in _BY_SLOT.items():
            self._of[name] = grown(self._of[name], len(self.flow.tags), fill)

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        self._grow()
        self._told = 0
        result: list[Block] = []
        own: list[Block] = []
        for block in blocks:
            mine = self.selected(block)
            if not mine.any():
                result.append(block)
                continue
            made = self._counted(block if mine.all() else block.take(mine))
            result.append(self.drop(block, mine, "counted") if self.settings.inputs == "drop" else block)
            result += made
            own += made
        passing = [block for block in result if not any(block is one for one in own)]
        self._total.look(passing)
        self._delta.look(passing)
        return result

    def _counted(self, block: Block) -> list[Block]:
        """What these rows, which are all selected, make."""
        if block.type not in (ValueType.INTEGER, ValueType.DOUBLE):
            self.count("not-numeric", len(block))
            return []
        useless = block.nulls() | (block.quality >= Quality.BAD)
        if block.type is ValueType.DOUBLE:
            useless = useless | ~np.isfinite(block.value)
        if block.late is not None and block.late.any():
            self._late(block, block.late)
            useless = useless | block.late
        if useless.any():
            self.count("not-counted", int(np.count_nonzero(useless)))
            block = block.take(~useless)
        if not len(block):
            return []
        doubles = self._as_doubles(block)
        if doubles.all() or not doubles.any():
            parts = [(block, bool(doubles.any()))]
        else:
            parts = [(block.take(doubles), True), (block.take(~doubles), False)]
        return [made for part, as_double in parts for made in self._made(part, as_double)]

    def _as_doubles(self, block: Block) -> Mask:
        """Which rows are counted in doubles: those of tags of which a double ever came."""
        of = self._of
        if block.type is ValueType.INTEGER:
            doubles: Mask = of["of"][block.slot] == _DOUBLE
            return doubles
        changed = np.unique(block.slot[of["of"][block.slot] == _INTEGER])
        of["double"][changed] = of["integer"][changed]
        of["sum"][changed], of["rest"][changed] = of["total"][changed], 0.0
        of["doubted_double"][changed] = of["doubted_integer"][changed]
        of["of"][changed] = _DOUBLE
        return np.ones(len(block), dtype=np.bool_)

    def _made(self, block: Block, as_double: bool) -> list[Block]:
        """The totals and deltas of these rows."""
        size = len(block)
        dtype: Any = np.float64 if as_double else np.int64
        out = _Out(
            np.zeros(size, dtype=dtype), np.zeros(size, dtype=dtype), np.zeros(size, np.bool_), np.zeros(size, np.uint8)
        )
        value = block.value.astype(dtype, copy=False)
        in_rounds = rounds(block)
        if in_rounds is None:
            self._one_by_one(block, value, np.arange(size), out, as_double)
        else:
            for rows in in_rounds:
                odd = self._at_once(block, value, rows, out, as_double)
                if len(odd):
                    self._one_by_one(block, value, odd, out, as_double)
        wrong = out.word > 0
        quality, status, null = block.quality, block.status, None
        if wrong.any():
            codes = np.array([0, *(self.flow.words.code(word) for word in _WORDS[1:])], dtype=np.int64)
            quality = np.where(wrong, np.uint8(Quality.BAD), quality)
            status = np.where(wrong, codes[out.word], status)
            if as_double:
                out.total[wrong] = out.delta[wrong] = np.nan
            else:
                null = wrong
        made = []
        type_ = ValueType.DOUBLE if as_double else ValueType.INTEGER
        if self.settings.output != "delta":
            every = np.ones(size, dtype=np.bool_)
            slots = self._total.of(block.slot)
            made.append(block_of(block, every, slots, type_, out.total, quality=quality, status=status, null=null))
        if self.settings.output != "total":
            slots = self._delta.of(block.slot)
            made.append(
                block_of(block, out.follows, slots, type_, out.delta, quality=quality, status=status, null=null)
            )
        self.made(sum(map(len, made)), "results")
        return made

    def _at_once(self, block: Block, value: NDArray[Any], rows: Index, out: _Out, as_double: bool) -> Index:
        """Rows of different tags. Those that need a closer look are given back, and nothing is done with them."""
        of = self._of
        slot, t, new = block.slot[rows], block.t[rows], value[rows]
        before = of["double" if as_double else "integer"][slot]
        plain = (of["of"][slot] != _NONE) & (of["doubted_t"][slot] == NEVER) & (new >= before)
        if as_double:
            with np.errstate(over="ignore"):
                delta = new - before
                plain &= np.isfinite(of["sum"][slot] + of["rest"][slot] + delta)
        else:
            small = (np.abs(new) < _LARGE) & (np.abs(before) < _LARGE) & (of["total"][slot] < _LARGE)
            delta = np.where(small, new, 0) - np.where(small, before, 0)
            plain &= small & (delta < _LARGE)
        if self._modulus is not None:
            plain &= (new >= 0) & (new < self._modulus)
        if self.settings.max_rate is not None:
            plain &= delta <= self.settings.max_rate * ((t - of["t"][slot]) / SECOND)
        odd: Index = rows[~plain]
        if len(odd):
            rows, slot, t, new, delta = rows[plain], slot[plain], t[plain], new[plain], delta[plain]
        of["t"][slot] = t
        if as_double:
            of["double"][slot] = new
            of["sum"][slot], of["rest"][slot] = added(of["sum"][slot], of["rest"][slot], delta)
            out.total[rows] = of["sum"][slot] + of["rest"][slot]
        else:
            of["integer"][slot] = new
            of["total"][slot] += delta
            out.total[rows] = of["total"][slot]
        out.delta[rows] = delta
        out.follows[rows] = True
        return odd

    def _one_by_one(self, block: Block, value: NDArray[Any], rows: Index, out: _Out, as_double: bool) -> None:
        """Rows that need a closer look, or many rows of few tags."""
        of, name = self._of, "double" if as_double else "integer"
        for row, slot, t, new in zip(
            rows.tolist(), block.slot[rows].tolist(), block.t[rows].tolist(), value[rows].tolist(), strict=True
        ):
            if self._modulus is not None and not 0 <= new < self._modulus:
                out.word[row] = _WORDS.index(BEYOND)
                out.follows[row] = True
                self.count(BEYOND)
                continue
            if of["of"][slot] == _NONE:
                of["of"][slot] = _DOUBLE if as_double else _INTEGER
                of["t"][slot], of[name][slot] = t, new
                out.total[row] = self._add(slot, 0, as_double)
                continue
            out.follows[row] = True
            before, last = of[name][slot].item(), int(of["t"][slot])
            delta, was_reset = self._rise(before, new)
            if self._is_too_fast(delta, t - last):
                doubted_t, doubted = int(of["doubted_t"][slot]), of[f"doubted_{name}"][slot].item()
                step, _ = self._rise(doubted, new) if doubted_t > NEVER else (0, False)
                if doubted_t == NEVER or new < doubted or self._is_too_fast(step, t - doubted_t):
                    of["doubted_t"][slot], of[f"doubted_{name}"][slot] = t, new
                    out.word[row] = _WORDS.index(TOO_FAST)
                    self.count(TOO_FAST)
                    self._tell("counter-too-fast", slot, t, before=before, value=new)
                    continue
                self._tell("counter-exchanged", slot, t, before=before, value=new)
                self.count("exchanged")
                delta, was_reset = step, False
            total = self._add(slot, delta, as_double)
            of["t"][slot], of[name][slot], of["doubted_t"][slot] = t, new, NEVER
            if total is None:
                out.word[row] = _WORDS.index(TOO_LARGE)
                self.count(TOO_LARGE)
                continue
            out.delta[row], out.total[row] = delta, total
            if was_reset:
                self.count("resets")
                self._tell("counter-reset", slot, t, before=before, value=new)

    def _rise(self, before: float, new: float) -> tuple[float, bool]:
        """By how much a counter rose, and whether it was reset in between."""
        delta = new - before
        if delta >= 0:
            return delta, False
        if self._modulus is not None and -delta > self._modulus / 2:
            return delta + self._modulus, False
        return max(new, 0), True

    def _is_too_fast(self, delta: float, duration: int) -> bool:
        limit = self.settings.max_rate
        return limit is not None and delta > limit * (duration / SECOND)

    def _add(self, slot: int, delta: float, as_double: bool) -> float | None:
        """The total with the delta; None where it has no room for it, and stays as it was."""
        of = self._of
        if as_double:
            total, rest = add(float(of["sum"][slot]), float(of["rest"][slot]), delta)
            if not np.isfinite(total + rest):
                return None
            of["sum"][slot], of["rest"][slot] = total, rest
            return total + rest
        whole = int(of["total"][slot]) + int(delta)
        if whole > _MOST or delta > _MOST:
            return None
        of["total"][slot] = whole
        return whole

    def _late(self, block: Block, late: Mask) -> None:
        count = int(np.count_nonzero(late))
        self.count("late", count)
        row = int(late.argmax())
        self._tell("counter-late", int(block.slot[row]), int(block.t[row]), samples=count)

    def _tell(self, kind: str, slot: int, t: int, **members: Any) -> None:
        if self._told < _MOST_TOLD:
            series = self.flow.tags.series[slot]
            self.flow.tell(kind, t, step=self.name, tag=series.tag, asset=series.asset, **members)
        self._told += 1

    def _shown(self, slot: int) -> float:
        """The total of a tag, an integer where it counts in integers."""
        of = self._of
        return float(of["sum"][slot] + of["rest"][slot]) if of["of"][slot] == _DOUBLE else int(of["total"][slot])

    # --- state ---

    def save(self) -> Mapping[str, Any]:
        known = np.flatnonzero(self._of["of"]).astype(np.int32)
        return {"known": known, **{name: self._of[name][known] for name in _BY_SLOT}}

    def load(self, state: Mapping[str, Any]) -> None:
        self._grow()
        known = np.array(state["known"], dtype=np.int32)
        if len(known) and not 0 <= int(known.min()) <= int(known.max()) < len(self.flow.tags):
            raise ValueError("counters that are not there")
        for name in _BY_SLOT:
            self._of[name][known] = state[name]

    def explain(self, slot: int) -> dict[str, Any]:
        told = super().explain(slot)
        if slot >= len(self._of["of"]) or self._of["of"][slot] == _NONE:
            return {**told, "samples": "none yet"}
        of = self._of
        double = of["of"][slot] == _DOUBLE
        return {
            **told,
            "time_ns": int(of["t"][slot]),
            "value": of["double" if double else "integer"][slot].item(),
            "total": self._shown(slot),
            "not_believed": bool(of["doubted_t"][slot] > NEVER),
        }


class _Out:
    """What each row made."""

    def __init__(self, total: NDArray[Any], delta: NDArray[Any], follows: Mask, word: NDArray[np.uint8]) -> None:
        self.total, self.delta, self.word = total, delta, word
        self.follows = follows
        """Whether there was a sample before it."""
