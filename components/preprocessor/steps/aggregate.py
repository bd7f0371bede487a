"""Aggregates over windows of source time: `<tag>.average`, `<tag>.percentGood`, …

Theory. Three times of a tag matter (`windows.watermark`): its *watermark*, up to which its samples have come; its
*horizon*, before which nothing changes any more; and the time of its *carry*, the last sample that was folded. Samples
behind the carry are kept as they are (`windows.store`), in order of their time whenever they came. Those before the
horizon are folded into the sums of the windows that are still open (`windows.folding`), now and then, many at once; the
last of them becomes the carry, whose value holds until the next sample.

A window is given when the watermark has passed its end: its sums, and what the carry and the samples behind it add. It
can be revised until the horizon has passed its end too: a late sample changes it, and maybe the next ones, whose first
value it is. What changed goes out again under the same time, with `rev` counted up. So of every tag, window and rev
there is one result, and the last one is that of all samples that were not too late.

Samples are never held: they are dropped as `aggregated`, or pass, as they come. Results are made.

Bounded are the samples that are kept (5,000,000: beyond that the horizon moves up to half of them, `lateness-cut`),
the windows that are given in a turn (the rest is given in the next ones), and the windows without a sample that a tag
is behind (10,000: beyond that they are skipped, `windows-skipped`).

A tag that gets another unit begins anew: what was kept of it means something else (`unit-changed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block
from preprocessor.engine.step import SECOND, FlowContext, Step, Turn, grown
from preprocessor.expressions.signal import Signal
from preprocessor.step_settings import AggregateSettings
from preprocessor.steps.kept_rows import Units, tell_another_unit
from preprocessor.steps.made_tags import Twins
from preprocessor.windows import calendar as calendars
from preprocessor.windows.calendar import Batches, Calendar, calendar_of
from preprocessor.windows.folding import BOOLEAN, NOTHING, NUMBER, TEXT, Points, Sums, concatenated, folded
from preprocessor.windows.given import Given
from preprocessor.windows.ragged import NEVER, OPEN, Times, found, rows_in, spread
from preprocessor.windows.results import FUNCTIONS, WORDS, Results, results
from preprocessor.windows.store import Rows, Store, together
from preprocessor.windows.texts import MOST as MOST_TEXTS
from preprocessor.windows.texts import Texts
from preprocessor.windows.watermark import Watermarks
from sluice.columns import Quality, Series, ValueType

Slots = NDArray[np.int32]
Numbers = NDArray[np.int64]
Mask = NDArray[np.bool_]

MOST_ROWS: Final = 5_000_000
MOST_BEHIND: Final = 10_000
_MOST_AT_ONCE: Final = 1_000
"""Windows of a tag, and of all tags, that are given in one turn."""
_MOST_IN_TURN: Final = 20_000
_FOLD_AT: Final = 50_000
_TEXTS_AT: Final = 10_000
"""Samples that are kept, and different texts, before those that are not needed are looked for."""
_SHORT: Final = 64
_EARLIEST: Final = NEVER + 2**57
_LATEST: Final = OPEN - 2**57
_UNKNOWN: Final = -2
_KINDS: Final = {
    ValueType.DOUBLE: NUMBER,
    ValueType.INTEGER: NUMBER,
    ValueType.BOOLEAN: BOOLEAN,
    ValueType.STRING: TEXT,
}
_BY_SLOT: Final = {
    "next": (np.int64, 0),
    "next_end": (np.int64, OPEN),
    "last_end": (np.int64, NEVER),
    "first": (np.int64, 0),
    "floor": (np.int64, NEVER),
    "carry_t": (np.int64, NEVER),
    "carry_value": (np.float64, 0.0),
    "carry_code": (np.uint8, 0),
    "carry_context": (np.int32, 0),
    "carry_changed": (np.bool_, False),
    "held": (np.float64, 0.0),
    "held_kind": (np.uint8, NOTHING),
    "kind": (np.uint8, NUMBER),
    "batch": (np.int64, 0),
}
"""What is known of each tag, as columns by slot.

next, first: numbers of the next window that it gives, and of the first one it could have given; floor: the end of the
window before the first. next_end, last_end: the end of the next window, and of the last one given. held: its last good
value at or before the carry. batch: the batch that it runs in, as number of a text.
"""
_SAVED: Final = tuple(name for name in _BY_SLOT if name not in ("next", "next_end", "first", "floor"))


class Aggregate(Step[AggregateSettings]):
    """Gives the results of windows as tags of their own."""

    rank: ClassVar[int] = 850

    def __init__(self, name: str, settings: AggregateSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._functions = list(dict.fromkeys(settings.functions))
        self._signal: Signal | None = None
        self._calendar: Calendar
        if settings.while_.strip():
            self._signal = Signal(settings.while_, flow, "while", step=name)
            self._calendar = calendars.Sequence()
        elif settings.by == "batch":
            self._calendar = Batches()
        else:
            assert settings.window is not None, "the settings see to it"
            self._calendar = calendar_of(settings.window, settings.slide, settings.offset, settings.zone)
        lateness = round(settings.lateness * SECOND)
        self._marks = Watermarks(lateness, round(settings.allowed_lateness * SECOND), round(settings.idle * SECOND))
        self._behind = lateness if self._signal is not None else 0
        """How far behind the horizon is folded: an expression's tag may be as late as others."""
        self._transitions = "transitions" in self._functions
        self._store = Store()
        self._sums = Sums.none(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64))
        self._given = Given(len(self._functions))
        self._texts = Texts()
        self._batches = Texts()
        self._fold_at = _FOLD_AT
        self._texts_at = _TEXTS_AT
        self._of: dict[str, NDArray[Any]] = {name: np.zeros(0, dtype=of) for name, (of, _) in _BY_SLOT.items()}
        self._result_slots: NDArray[np.int32] = np.zeros((0, len(self._functions)), dtype=np.int32)
        self._assets: dict[str, int] = {}
        self._asset: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._units = Units(flow.tags)
        self._twins = Twins(flow, name)
        self._grow()

    # --- tags ---

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        if self._signal is not None:
            self._signal.prepare(slots)
        self._grow()
        self._twins.prepare(slots)
        tags = self.flow.tags
        for slot in slots:
            series = tags.series[slot]
            self._asset[slot] = self._assets.setdefault(series.asset, len(self._assets))
            if (self._result_slots[slot] >= 0).any():  # another unit
                for place in range(len(self._functions)):
                    self._result_slots[slot, place] = self._result_slot(slot, place)
        replaced = [one for one in self._units.replaced(slots) if self._marks.newest[one[0]] > NEVER]
        if replaced:
            of = np.array([slot for slot, _ in replaced], dtype=np.int32)
            self._forget(of, np.full(len(of), NEVER))
            for slot, before in replaced:
                tell_another_unit(self, slot, int(self._marks.newest[slot]), before)

    def _grow(self) -> None:
        size = len(self.flow.tags)
        if size <= len(self._asset) and len(self._asset):
            return
        for name, (_, fill) in _BY_SLOT.items():
            self._of[name] = grown(self._of[name], size, fill)
        self._asset = grown(self._asset, size)
        size = len(self._asset)
        self._marks.grow(size)
        for name, (_, fill) in _BY_SLOT.items():
            self._of[name] = grown(self._of[name], size, fill)
        slots = np.full((size, len(self._functions)), _UNKNOWN, dtype=np.int32)
        slots[: len(self._result_slots)] = self._result_slots
        self._result_slots = slots

    def _result_slot(self, slot: int, place: int) -> int:
        name = self._functions[place]
        series = self.flow.tags.series[slot]
        result = Series(f"{series.tag}.{name}", series.asset, FUNCTIONS[name].unit(series.unit), extra=series.extra)
        made = self.flow.tags.slot(result, stage=self.name)
        self._twins.made(made, f"steps.{self.name}.functions")
        return made

    # --- a turn ---

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        self._grow()
        self._marks.listen(turn)
        if self._signal is not None:
            self._signal.feed(blocks, turn)
            self._edges(self._signal)
        passed: list[Block] = []
        taken: list[Rows] = []
        for block in blocks:
            rest, rows = self._take(block)
            passed.append(rest)
            if rows is not None:
                taken.append(rows)
        touched = self._put(taken)
        self._mend(turn)
        self._marks.advance(turn)
        made: list[Block] = []
        if touched is not None:
            made += self._revise(*touched)
        made += self._due(turn)
        self._marks.settle(self._of["next_end"] - 1)
        self._given.forget(self._marks.horizon)
        if len(self._store) > self._fold_at:
            self._fold()
        if len(self._store) > MOST_ROWS:
            self._cut(turn)
        self._twins.look(passed)
        return [*passed, *made]

    def _take(self, block: Block) -> tuple[Block, Rows | None]:
        """What goes on of a block, and the rows of it that windows are made of."""
        mine = self.selected(block)
        if not mine.any():
            return block, None
        strange = mine & ((block.t <= _EARLIEST) | (block.t >= _LATEST))
        early = mine & ~strange & (block.t < self._marks.horizon[block.slot])
        used = mine & ~(early | strange)
        whole = bool(used.all())
        part = block if whole else block.take(used)
        rows = self._rows(part) if len(part) else None
        seen = part if not early.any() else block.take(used | early)
        if len(seen):
            runs = seen.runs()
            self._marks.saw(runs.slots, np.maximum.reduceat(seen.t, runs.starts))
        if early.any():
            self.note(block, early, "too-late", "passed" if self._passes_late else "dropped")
        if self.settings.inputs == "pass":
            self.count("aggregated", len(part))
            if early.any():
                self.count("too-late", int(np.count_nonzero(early)))
            return block, rows
        gone = used.copy()
        if early.any():
            self.count("too-late", int(np.count_nonzero(early)))
            if not self._passes_late:
                gone |= early
                self.flow.dropped += int(np.count_nonzero(early))
        if strange.any():
            gone |= strange
            self.gone(int(np.count_nonzero(strange)), "no-such-time")
        self.gone(len(part), "aggregated")
        self.note(block, used, "aggregated", "dropped")
        return block.take(~gone), rows

    @property
    def _passes_late(self) -> bool:
        return self.settings.late == "pass" or self.settings.inputs == "pass"

    def _rows(self, block: Block) -> Rows:
        kind = _KINDS[block.type]
        quality = block.quality
        if block.type is ValueType.STRING:
            if len(self._texts) > self._texts_at:
                self._renumber()
                self._texts_at = min(MOST_TEXTS - 1, max(_TEXTS_AT, 2 * len(self._texts)))
            value = self._texts.numbers(block.value.tolist())
            full = np.isnan(value) & ~block.nulls()
            if full.any():
                self.count("too-many-texts", int(np.count_nonzero(full)))
        else:
            value = block.numbers()
        useless = ~np.isfinite(value)
        if useless.any():
            quality = np.where(useless, np.uint8(Quality.BAD), quality)
            value = np.where(useless, 0.0, value)
        code = (np.minimum(quality, np.uint8(Quality.BAD)) | np.uint8(kind << 2)).astype(np.uint8)
        context = np.zeros(len(block), dtype=np.int32) if block.context is None else block.context
        return Rows(block.slot, block.t, value, code, context)

    def _put(self, taken: Sequence[Rows]) -> tuple[Slots, Times, Times, Rows] | None:
        """Keep these rows. Given back are the tags whose windows were given before and may be others now, the earliest
        and the latest time of their rows, and the rows."""
        if not taken:
            return None
        rows = together(list(taken))
        if len(taken) > 1:
            rows = rows.take(np.argsort(rows.slot, kind="stable"))
        self._store.add(rows)
        cuts = np.flatnonzero(rows.slot[1:] != rows.slot[:-1]) + 1
        starts = np.concatenate(([0], cuts))
        slots = rows.slot[starts]
        lowest = np.minimum.reduceat(rows.t, starts)
        newest = np.maximum.reduceat(rows.t, starts)
        before = self._marks.newest[slots]
        self._of["kind"][slots] = rows.code[np.append(starts[1:], len(rows)) - 1] >> 2
        if isinstance(self._calendar, Batches):
            self._by_batch(self._calendar, rows, before[np.searchsorted(slots, rows.slot)])
        self._marks.came(slots, newest)
        fresh = before == NEVER
        if fresh.any():
            self._begin(slots[fresh], self._calendar.after(slots[fresh], lowest[fresh]))
        last_end = self._of["last_end"][slots]
        # sloped, the line that leads to a sample changes as well: from the newest before, or one that is looked for
        reach = np.where(lowest > before, before, NEVER) if self.settings.sloped else lowest
        touched = ((reach < last_end) & (last_end > self._marks.horizon[slots])) | (lowest < self._of["floor"][slots])
        touched &= ~fresh
        if not touched.any():
            return None
        chosen = slots[touched]
        return chosen, lowest[touched], newest[touched], rows.take(np.isin(rows.slot, chosen))

    def _begin(self, slots: Slots, first: Numbers) -> None:
        """The windows of these tags begin with this number, none of them given yet."""
        of = self._of
        of["next"][slots] = of["first"][slots] = first
        of["next_end"][slots] = self._calendar.end(slots, first)
        of["floor"][slots] = np.minimum(self._calendar.end(slots, first - 1), of["next_end"][slots])
        of["last_end"][slots] = NEVER

    # --- windows that something opens and closes ---

    def _edges(self, signal: Signal) -> None:
        times, _ = signal.changes()
        if not len(times):
            return
        sequence = self._calendar
        assert isinstance(sequence, calendars.Sequence)
        folded_to = int(self._of["carry_t"].max()) if len(self._of["carry_t"]) else NEVER
        changed = False
        for when, opens in zip(times.tolist(), signal.truth(times).tolist(), strict=True):
            if opens == sequence.is_open:
                continue
            if when < folded_to:
                self.count("edges-late")
            sequence.edge(max(when, folded_to), opens)
            changed = True
        if changed:
            known = self._known()
            of = self._of
            of["next"][known] = np.maximum(of["next"][known], sequence.base)
            of["next_end"][known] = sequence.end(known, of["next"][known])

    def _by_batch(self, batches: Batches, rows: Rows, before: Times) -> None:
        """Where rows are of another batch than the rows of their tag before them, its window ends and another begins.
        Late rows belong to the window that their time lies in."""
        of = self._of
        numbers, place = np.unique(rows.context, return_inverse=True)
        texts = [self.flow.contexts.batch(number) for number in numbers.tolist()]
        if len(self._batches) > MOST_TEXTS - len(texts):
            of["batch"] = self._batches.renumbered(of["batch"].astype(np.float64))[of["batch"]].astype(np.int64)
        # beyond 100,000 batches at a time further ones are none
        batch = np.nan_to_num(self._batches.numbers(texts)).astype(np.int64)[place]
        order = np.lexsort((rows.t, rows.slot))
        order = order[rows.t[order] > before[order]]
        if not len(order):
            return
        slot, t, batch = rows.slot[order], rows.t[order], batch[order]
        previous = np.append(0, batch[:-1])
        first = np.append(True, slot[1:] != slot[:-1])
        previous[first] = of["batch"][slot[first]]
        ended: dict[tuple[int, int], int] = {}
        edges = np.flatnonzero(batch != previous)
        for row, tag, when, now, then in zip(
            edges.tolist(),
            slot[edges].tolist(),
            t[edges].tolist(),
            batch[edges].tolist(),
            of["batch"][slot[edges]].tolist(),
            strict=True,
        ):
            del row
            if then and now != then:
                key = (int(self._asset[tag]), then)
                ended[key] = min(when, ended.get(key, when))
            batches.of(tag).edge(when, bool(now))
            of["batch"][tag] = now
        self._close_batches(batches, ended)
        touched = np.unique(slot[edges])
        touched = touched[self._marks.newest[touched] > NEVER]
        of["next_end"][touched] = batches.end(touched, of["next"][touched])

    def _close_batches(self, batches: Batches, ended: Mapping[tuple[int, int], int]) -> None:
        """A batch that ended for one tag of an asset has ended for those too of which nothing comes."""
        of = self._of
        for (asset, batch), when in ended.items():
            silent = np.flatnonzero((of["batch"] == batch) & (self._asset == asset) & (self._marks.newest <= when))
            for tag in silent.tolist():
                batches.of(tag).edge(when, False)
                of["batch"][tag] = 0
            of["next_end"][silent] = batches.end(silent.astype(np.int32), of["next"][silent])

    # --- giving ---

    def _due(self, turn: Turn) -> list[Block]:
        of = self._of
        slots = np.flatnonzero(of["next_end"] <= self._marks.mark).astype(np.int32)
        if not len(slots):
            return []
        number = of["next"][slots]
        until = self._calendar.after(slots, self._marks.mark[slots])
        go_on = self._skipped(slots, number, until, turn)
        counts = np.minimum(np.where(go_on > 0, 1, until - number), _MOST_AT_ONCE)
        fits = np.cumsum(counts) <= _MOST_IN_TURN
        fits[0] = True
        slots, number, counts, go_on = slots[fits], number[fits], counts[fits], go_on[fits]
        numbers = spread(number, counts)
        each = np.repeat(slots, counts)
        start, end = self._calendar.start(each, numbers), self._calendar.end(each, numbers)
        sums = self._evaluate(each, start, end)
        following = np.where(go_on > 0, number + go_on, number + counts)
        of["next"][slots] = following
        of["last_end"][slots] = self._calendar.end(slots, following - 1)
        of["next_end"][slots] = self._calendar.end(slots, following)
        self._marks.settle(of["next_end"] - 1)
        return self._first_given(sums, end)

    def _first_given(self, sums: Sums, end: Times) -> list[Block]:
        """The first results of these windows."""
        if self.settings.empty == "skip":
            some = sums.samples > 0
            if not some.all():
                sums, end = sums.take(some), end[some]
        if not len(sums):
            return []
        found_out = self._results(sums, end)
        open_ = end > self._marks.horizon[sums.slot]
        if open_.any():
            self._given.add(sums.slot[open_], sums.start[open_], end[open_], found_out.take(open_))
        self.count("windows", len(sums))
        return self._blocks(sums, end, np.zeros(len(sums), dtype=np.int32), found_out)

    def _skipped(self, slots: Slots, number: Numbers, until: Numbers, turn: Turn) -> Numbers:
        """For tags that are far behind, by how many windows they go on when the next is given; 0: one by one."""
        skip = self.settings.empty == "skip"
        go_on = np.zeros(len(slots), dtype=np.int64)
        far = np.flatnonzero(until - number > (_SHORT if skip else MOST_BEHIND))
        if not len(far):
            return go_on
        # from the next window on up to the first that holds a sample, folded or not; windows may overlap
        chosen, begin = slots[far], self._calendar.start(slots[far], number[far] + 1)
        rows = self._store.of(chosen, begin)
        low = np.searchsorted(rows.slot, chosen, side="left")
        high = np.searchsorted(rows.slot, chosen, side="right")
        row = found(rows.t, low, high, begin, after=False)
        target = until[far].copy()
        there = row < high
        target[there] = np.minimum(target[there], self._calendar.after(chosen[there], rows.t[row[there]]))
        carry = self._of["carry_t"][chosen]
        there = carry >= begin
        target[there] = np.minimum(target[there], self._calendar.after(chosen[there], carry[there]))
        distance = target - number[far]
        jumps = distance > (1 if skip else MOST_BEHIND)
        go_on[far[jumps]] = distance[jumps]
        if not skip and jumps.any():
            skipped = int(distance[jumps].sum() - np.count_nonzero(jumps))
            self.count("windows-skipped", skipped)
            first = self.flow.tags.series[int(chosen[jumps][0])]
            self.flow.tell(
                "windows-skipped",
                turn.now,
                step=self.name,
                windows=skipped,
                tags=int(np.count_nonzero(jumps)),
                tag=first.tag,
                asset=first.asset,
            )
        return go_on

    def _revise(self, slots: Slots, lowest: Times, newest: Times, rows: Rows) -> list[Block]:
        """Windows of these tags that were given before the rows came, which are within these times."""
        of, given = self._of, self._given
        given.settle()
        earlier = lowest < of["floor"][slots]
        if earlier.any():
            first = np.minimum(self._calendar.after(slots, lowest), of["first"][slots])
            early = np.flatnonzero(earlier & (first < of["first"][slots]))
            none_given = of["next"][slots[early]] == of["first"][slots[early]]
            begin = early[none_given]
            self._begin(slots[begin], first[begin])
            behind = early[~none_given]
        else:
            first, behind = lowest, np.zeros(0, dtype=np.intp)
        # windows that hold these rows and gave nothing so far, and those between them and the first that did
        low, high = self._calendar.after(rows.slot, rows.t), self._calendar.begins(rows.slot, rows.t + 1)
        counts = np.maximum(np.minimum(high, of["next"][rows.slot]) - low, 0)
        each, numbers = np.repeat(rows.slot, counts), spread(low, counts)
        if len(behind):
            low = first[behind]
            counts = np.minimum(of["first"][slots[behind]] - low, _MOST_AT_ONCE)
            each = np.append(each, np.repeat(slots[behind], counts))
            numbers = np.append(numbers, spread(low, counts))
            of["first"][slots[behind]] = low
            of["floor"][slots[behind]] = self._calendar.end(slots[behind], low - 1)
        start, end = self._calendar.start(each, numbers), self._calendar.end(each, numbers)
        new = (end > self._marks.horizon[each]) & (given.rows(each, start) < 0)
        each, start, end = _distinct(each[new], start[new], end[new])
        # windows that gave something, and in which a piece of time has another value now
        points = self._points(slots, lowest - 1)
        from_: Times = lowest
        to: Times = np.full(len(slots), OPEN, dtype=np.int64)
        if len(points):
            at_low = np.searchsorted(points.slot, slots, side="left")
            at_high = np.searchsorted(points.slot, slots, side="right")
            after = found(points.t, at_low, at_high, newest, after=True)
            to = np.where(after < at_high, points.t[np.minimum(after, len(points) - 1)], OPEN)
            if self._transitions:  # the next good one may be a change now, or none any more
                good = np.append(np.flatnonzero(points.good), len(points))
                following = good[np.searchsorted(good, after)]
                there = following < at_high
                to[there] = np.maximum(to[there], points.t[following[there]] + 1)
            if self.settings.sloped:
                before = found(points.t, at_low, at_high, lowest, after=False) - 1
                from_ = np.where(before >= at_low, points.t[np.maximum(before, 0)], lowest)
        mine = np.searchsorted(slots, given.slot)
        mine = np.minimum(mine, len(slots) - 1)
        hit = (slots[mine] == given.slot) & (given.end > from_[mine]) & (given.start < to[mine])
        hit &= given.end > self._marks.horizon[given.slot]
        revised = np.flatnonzero(hit)
        made: list[Block] = []
        if len(revised):
            slot, begin_, end_ = given.slot[revised], given.start[revised], given.end[revised]
            sums = self._evaluate(slot, begin_, end_)
            again = self._results(sums, end_)
            other = ~given.results(revised).same_as(again)
            if other.any():
                rows_ = revised[other]
                given.put(rows_, again.take(other))
                self.count("revisions", len(rows_))
                made += self._blocks(sums.take(other), end_[other], given.rev[rows_], again.take(other))
        if len(each):
            made += self._first_given(self._evaluate(each, start, end), end)
        return made

    def _evaluate(self, slot: Slots, start: Times, end: Times) -> Sums:
        """All that is known of these windows, which are sorted by slot and start."""
        begin = np.maximum(start, self._of["carry_t"][slot])
        first = np.flatnonzero(np.append(True, slot[1:] != slot[:-1]))
        points = self._points(slot[first], begin[first])
        return folded(points, self._sums_of(slot, start), begin, end, sloped=self.settings.sloped)

    def _results(self, sums: Sums, end: Times) -> Results:
        made = results(
            self._functions,
            sums,
            end,
            min_good=self.settings.min_good,
            empty_is_bad=self.settings.empty == "bad",
        )
        unknown = made.kind == NOTHING
        if unknown.any():
            made.kind = np.where(unknown, self._of["kind"][sums.slot][:, None], made.kind)
        return made

    def _blocks(self, sums: Sums, end: Times, rev: NDArray[np.int32], given: Results) -> list[Block]:
        """Results as samples."""
        width = len(self._functions)
        slots = self._result_slots[sums.slot]
        for row, place in zip(*np.nonzero(slots == _UNKNOWN), strict=True):
            slot = int(sums.slot[row])
            if self._result_slots[slot, place] == _UNKNOWN:
                self._result_slots[slot, place] = self._result_slot(slot, int(place))
        slots = self._result_slots[sums.slot].ravel()
        contexts = self.flow.contexts
        context: NDArray[Any] = sums.context
        revised = np.flatnonzero(rev)
        if len(revised):
            context = context.copy()
            context[revised] = [
                contexts.combined(number, extra={"rev": str(times)})
                for number, times in zip(context[revised].tolist(), rev[revised].tolist(), strict=True)
            ]
        codes = np.array([0, *(self.flow.words.code(word) for word in WORDS[1:])], dtype=np.int64)
        t = np.repeat(sums.start if self.settings.stamp == "start" else end, width)
        context = np.repeat(context, width)
        value, kind, quality = given.value.ravel(), given.kind.ravel(), given.quality.ravel()
        status = codes[given.word.ravel()]
        whole = np.tile([FUNCTIONS[name].whole for name in self._functions], len(sums))
        room = slots >= 0
        if not room.all():
            self.count("too-many-tags", int(np.count_nonzero(~room)))
        blocks = []
        for type_, rows in (
            (ValueType.DOUBLE, room & ~whole & (kind == NUMBER)),
            (ValueType.INTEGER, room & whole),
            (ValueType.BOOLEAN, room & ~whole & (kind == BOOLEAN)),
            (ValueType.STRING, room & ~whole & (kind == TEXT)),
        ):
            if not rows.any():
                continue
            values, null = self._typed(type_, value[rows])
            block = Block(
                type_,
                slots[rows],
                t[rows],
                values,
                quality[rows],
                status[rows],
                null,
                context=context[rows] if context.any() else None,
            )
            blocks.append(block.sorted())
        self.made(sum(map(len, blocks)), "results")
        return blocks

    def _typed(self, of: ValueType, value: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Values of a type, and which of them are null where that stands beside them."""
        if of is ValueType.DOUBLE:
            return value, None
        null = np.isnan(value)
        if of is ValueType.STRING:
            texts = np.full(len(value), None, dtype=object)
            texts[:] = [None if number != number else self._texts.texts[int(number)] for number in value.tolist()]
            return texts, None
        plain = np.where(null, 0.0, value)
        return plain.astype(np.int64 if of is ValueType.INTEGER else np.bool_), null if null.any() else None

    # --- what is known ---

    def _points(self, slots: Slots, since: Times) -> Points:
        """The points of these tags, in rising order: at least from the last one at or before `since` on."""
        rows = self._store.of(slots, np.full(len(slots), NEVER) if self._transitions else since)
        return self._as_points(slots, rows)

    def _as_points(self, slots: Slots, rows: Rows) -> Points:
        """Rows, sorted, and the carry of each of these tags before them."""
        of = self._of
        carried = slots[of["carry_t"][slots] > NEVER]
        is_carry: Mask = np.zeros(len(rows), dtype=np.bool_)
        if len(carried):
            place = np.searchsorted(rows.slot, carried, side="left")
            carries = (of["carry_t"], of["carry_value"], of["carry_code"], of["carry_context"])
            columns: tuple[NDArray[Any], ...] = (rows.t, rows.value, rows.code, rows.context)
            with_carries = (
                _inserted(column, place, carry[carried]) for column, carry in zip(columns, carries, strict=True)
            )
            rows = Rows(_inserted(rows.slot, place, carried), *with_carries)
            is_carry = _inserted(is_carry, place, np.ones(len(place), dtype=np.bool_))
        quality, kind = rows.code & np.uint8(3), rows.code >> np.uint8(2)
        uncertain = quality == Quality.UNCERTAIN
        good = quality == Quality.GOOD
        if self.settings.uncertain == "good":
            good |= uncertain
        changed: Mask = np.zeros(len(rows), dtype=np.bool_)
        if self._transitions and len(rows):
            changed = self._changes(rows, kind, good)
            changed[is_carry] = of["carry_changed"][rows.slot[is_carry]]
        return Points(rows.slot, rows.t, rows.value, kind, good, uncertain, rows.context, changed)

    def _changes(self, rows: Rows, kind: NDArray[np.uint8], good: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which good rows have another value than the good one of their tag before them."""
        place = np.arange(len(rows))
        latest = np.maximum.accumulate(np.where(good, place, -1))
        before = np.append(-1, latest[:-1])
        new = np.append(True, rows.slot[1:] != rows.slot[:-1])
        begin = np.maximum.accumulate(np.where(new, place, 0))
        inside = before >= begin
        held, held_kind = self._of["held"][rows.slot], self._of["held_kind"][rows.slot]
        value = np.where(inside, rows.value[before], held)
        of_kind = np.where(inside, kind[before], held_kind)
        changed: NDArray[np.bool_] = good & (of_kind != NOTHING) & ((value != rows.value) | (of_kind != kind))
        return changed

    def _sums_of(self, slot: Slots, start: Times) -> Sums:
        """What was folded of these windows."""
        known = Sums.none(slot, start)
        if not len(self._sums):
            return known
        row = rows_in(self._sums.slot, self._sums.start, slot, start)
        there = row >= 0
        if not there.any():
            return known
        both = concatenated([known, self._sums])
        return both.take(np.where(there, len(slot) + row, np.arange(len(slot))))

    def _known(self) -> Slots:
        """Tags of which something came."""
        return np.flatnonzero(self._marks.newest > NEVER).astype(np.int32)

    # --- folding ---

    def _fold(self) -> None:
        """Samples before the horizon become sums of windows; the last of each tag becomes its carry."""
        of = self._of
        rows = self._store.all()
        gone = rows.t < self._marks.horizon[rows.slot] - self._behind
        if gone.any():
            self._fold_rows(rows.take(gone))
            self._store.keep(rows.take(~gone))
        self._forget_sums()
        self._fold_at = max(_FOLD_AT, 2 * len(self._store))
        known = self._known()
        horizon = self._marks.horizon
        if isinstance(self._calendar, calendars.Sequence) and len(known):
            self._calendar.forget(int(np.minimum(horizon[known], of["carry_t"][known]).min()))
        elif isinstance(self._calendar, Batches):
            for slot in known.tolist():
                self._calendar.forget(slot, int(min(horizon[slot], of["carry_t"][slot])))

    def _fold_rows(self, rows: Rows) -> None:
        of, calendar = self._of, self._calendar
        last = np.flatnonzero(np.append(rows.slot[1:] != rows.slot[:-1], True))
        slots, carry_t = rows.slot[last], rows.t[last]
        points = self._as_points(slots, rows)
        low = calendar.after(slots, self._marks.horizon[slots])
        counts = np.maximum(calendar.begins(slots, carry_t) - low, 0)
        each, numbers = np.repeat(slots, counts), spread(low, counts)
        start, end = calendar.start(each, numbers), calendar.end(each, numbers)
        begin = np.maximum(start, of["carry_t"][each])
        until = np.minimum(end, np.repeat(carry_t, counts))
        sums = folded(points, self._sums_of(each, start), begin, until, sloped=self.settings.sloped)
        others = self._sums
        if len(others):
            others = others.take(rows_in(sums.slot, sums.start, others.slot, others.start) < 0)
        both = concatenated([others, sums])
        self._sums = both.take(np.lexsort((both.start, both.slot)))
        self._carry(points, slots)

    def _carry(self, points: Points, slots: Slots) -> None:
        """The last points of these tags are what holds behind them."""
        of = self._of
        last = np.flatnonzero(np.append(points.slot[1:] != points.slot[:-1], True))
        quality = np.where(points.uncertain, Quality.UNCERTAIN, np.where(points.good, Quality.GOOD, Quality.BAD))
        of["carry_t"][slots], of["carry_value"][slots] = points.t[last], points.value[last]
        of["carry_code"][slots] = (quality[last] | (points.kind[last] << 2)).astype(np.uint8)
        of["carry_context"][slots], of["carry_changed"][slots] = points.context[last], points.changed[last]
        place = np.maximum.accumulate(np.where(points.good, np.arange(len(points)), -1))[last]
        begin = np.append(0, last[:-1] + 1)
        there = place >= begin
        of["held"][slots[there]] = points.value[place[there]]
        of["held_kind"][slots[there]] = points.kind[place[there]]

    def _forget_sums(self) -> None:
        """Sums of windows that nothing changes any more."""
        sums = self._sums
        if not len(sums):
            return
        number = self._calendar.begins(sums.slot, sums.start)
        kept = self._calendar.start(sums.slot, number) == sums.start
        kept &= self._calendar.end(sums.slot, number) > self._marks.horizon[sums.slot]
        if not kept.all():
            self._sums = sums.take(kept)

    def _cut(self, turn: Turn) -> None:
        """Too many samples are kept: of each tag the older half can be changed by nothing any more."""
        rows = self._store.all()
        slots, starts, counts = np.unique(rows.slot, return_index=True, return_counts=True)
        cut = rows.t[starts + counts // 2] + self._behind
        self._marks.mark[slots] = np.maximum(self._marks.mark[slots], cut)
        horizon = np.minimum(cut, self._of["next_end"][slots] - 1)
        self._marks.horizon[slots] = np.maximum(self._marks.horizon[slots], horizon)
        self.count("lateness-cut")
        self.flow.tell("lateness-cut", turn.now, step=self.name, samples=len(rows), most=MOST_ROWS)
        self._fold()

    def _mend(self, turn: Turn) -> None:
        """Tags that a clock has put years ahead go on from now."""
        slots = self._marks.ahead(turn).astype(np.int32)
        if not len(slots):
            return
        self._marks.reset(slots.astype(np.intp), turn)
        self._forget(slots, np.full(len(slots), turn.now))
        self.count("windows-reopened", len(slots))
        series = self.flow.tags.series[int(slots[0])]
        self.flow.tell(
            "windows-reopened", turn.now, step=self.name, tags=len(slots), tag=series.tag, asset=series.asset
        )

    def _forget(self, slots: Slots, since: Times) -> None:
        """What these tags gave, and what is known of them behind this time; they begin again where they stand."""
        of = self._of
        wrong = np.full(len(self._asset), OPEN, dtype=np.int64)
        wrong[slots] = since
        self._given.settle()
        self._given.keep(wrong[self._given.slot] == OPEN)
        self._sums = self._sums.take(wrong[self._sums.slot] == OPEN)
        rows = self._store.all()
        self._store.keep(rows.take(rows.t <= wrong[rows.slot]))
        of["carry_t"][slots[of["carry_t"][slots] > since]] = NEVER
        of["held_kind"][slots[of["carry_t"][slots] == NEVER]] = NOTHING
        self._begin(slots, self._calendar.after(slots, self._marks.mark[slots]))

    def _renumber(self) -> None:
        """Forget texts that no sample has any more."""
        of, given, sums = self._of, self._given, self._sums
        given.settle()
        rows = self._store.all()
        columns: list[tuple[NDArray[np.float64], NDArray[np.bool_]]] = [
            (rows.value, rows.code >> 2 == TEXT),
            (of["carry_value"], of["carry_code"] >> 2 == TEXT),
            (of["held"], of["held_kind"] == TEXT),
            (sums.first, sums.first_kind == TEXT),
            (sums.last, sums.last_kind == TEXT),
            (sums.head, sums.head_kind == TEXT),
            (sums.tail, sums.tail_kind == TEXT),
            (given.value, (given.kind == TEXT) & np.isfinite(given.value)),
        ]
        moved = self._texts.renumbered(np.concatenate([column[texts] for column, texts in columns]))
        for column, texts in columns:
            column[texts] = moved[column[texts].astype(np.int64)]

    # --- state ---

    def save(self) -> Mapping[str, Any]:
        known = self._known()
        return {
            "window": self._definition(),
            "functions": self._functions,
            "known": known,
            "next_start": self._calendar.start(known, self._of["next"][known]),
            "first_start": self._calendar.start(known, self._of["first"][known]),
            "marks": self._marks.save(known),
            "tags": {name: self._of[name][known] for name in _SAVED},
            "rows": self._store.save(),
            "sums": self._sums.save(),
            "given": self._given.save(),
            "texts": self._texts.texts,
            "batches": self._batches.texts,
            "fold_at": self._fold_at,
            "texts_at": self._texts_at,
            "calendar": calendars.saved_of(self._calendar),
            "signal": None if self._signal is None else self._signal.save(),
        }

    def _definition(self) -> list[Any]:
        """What sums and results are of: with another one they mean nothing."""
        of = self.settings
        return [of.window, of.slide, of.offset, of.zone, of.while_, of.by, of.sloped, of.uncertain]

    def load(self, state: Mapping[str, Any]) -> None:
        self._grow()
        known = np.array(state["known"], dtype=np.int32)
        if len(known) and not 0 <= int(known.min()) <= int(known.max()) < len(self.flow.tags):
            raise ValueError("samples of tags that are not there")
        self._marks.load(known, state["marks"])
        for name in _SAVED:
            self._of[name][known] = state["tags"][name]
        self._store.load(state["rows"])
        self._texts.load(state["texts"])
        self._batches.load(state["batches"])
        self._fold_at, self._texts_at = int(state["fold_at"]), int(state["texts_at"])
        same = list(state["window"]) == self._definition()
        of = self._of
        if same:
            calendars.restore(self._calendar, state["calendar"])
            if self._signal is not None and state["signal"] is not None:
                self._signal.load(state["signal"])
            self._sums = Sums.load(state["sums"])
            last_end = of["last_end"][known].copy()
            first = self._calendar.begins(known, np.array(state["first_start"], dtype=np.int64))
            self._begin(known, first)
            of["next"][known] = self._calendar.begins(known, np.array(state["next_start"], dtype=np.int64))
            of["next_end"][known] = self._calendar.end(known, of["next"][known])
            of["last_end"][known] = last_end
            if list(state["functions"]) == self._functions:
                self._given.load(state["given"])
        else:
            of["batch"][known] = 0
            self._begin(known, self._calendar.after(known, self._marks.mark[known]))

    def explain(self, slot: int) -> dict[str, Any]:
        told = super().explain(slot)
        if slot >= len(self._asset) or self._marks.newest[slot] == NEVER:
            return {**told, "samples": "none yet"}
        end = int(self._of["next_end"][slot])
        one = np.array([slot], dtype=np.int32)
        start = int(self._calendar.start(one, self._of["next"][one])[0])
        return {
            **told,
            "newest_ns": int(self._marks.newest[slot]),
            "watermark_ns": int(self._marks.mark[slot]),
            "too_late_before_ns": int(self._marks.horizon[slot]),
            "next_window": None if start >= OPEN else [start, None if end >= OPEN else end],
            "samples_kept": self._store.count(slot),
        }


def _inserted(column: NDArray[Any], place: NDArray[np.intp], values: NDArray[Any]) -> NDArray[Any]:
    """A column with these values before the places."""
    longer: NDArray[Any] = np.insert(column, place, values)
    return longer


def _distinct(slot: Slots, start: Times, end: Times) -> tuple[Slots, Times, Times]:
    """These windows sorted by slot and start, each once."""
    order = np.lexsort((start, slot))
    slot, start, end = slot[order], start[order], end[order]
    new = np.append(True, (slot[1:] != slot[:-1]) | (start[1:] != start[:-1]))[: len(slot)]
    return slot[new], start[new], end[new]
