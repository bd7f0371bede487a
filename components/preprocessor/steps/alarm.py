"""Alarms: rules that raise an alarm for each tag, or one for an expression, told as events. Samples pass untouched.

    {"kind": "alarm", "state": "raised" | "changed" | "returned" | "suppressed", "id", "rule", "level", "priority",
     "tag", "asset", "batch", "value", "limit", "first_out", "message", "time_ns",
     "duration_s": how long it lasted, with returned and suppressed}

`id` is the same for all events of one alarm: <flow>/<rule>/<asset>/<tag>#<number of the occurrence>. `first_out` says
that no other alarm of the asset, of any rule of the flow, was active when it was raised. Beyond 30 events in ten
minutes of one rule and tag they are counted, and told in one event with the state "flood", which also says how the
alarm stands. An alarm whose rule or tag is taken out of the configuration is told as suppressed.

Late rows change nothing. A row without news costs the comparison, made for whole blocks at a time; only rows that
change the level of a tag, or whose tag has a delay under way, come to its state machine one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from preprocessor.alarms import levels
from preprocessor.alarms.flood import Flood
from preprocessor.alarms.levels import Levels, Limit
from preprocessor.alarms.machine import (
    ALIVE,
    DELAYED,
    RAISED,
    RETURNED,
    SUPPRESSED,
    Machine,
    Point,
    State,
    Transition,
)
from preprocessor.engine.block import Block, Mask
from preprocessor.engine.step import SECOND, FlowContext, Step, Turn
from preprocessor.expressions.columns import Column
from preprocessor.expressions.signal import Signal
from preprocessor.step_settings import AlarmSettings
from preprocessor.steps.kept_rows import KeptRows, Units
from preprocessor.steps.sensor import NUMBERS, Pauses, PerTag, Silence
from sluice.columns import Quality, ValueType

RULE: Final = -1
"""The key of the one point of a rule that is about an expression alone; other points have their tag's slot."""
_FOREVER: Final = 2**63 - 1
_UNKNOWN: Final = -1
"""Instead of a level: the row has a value, and nothing is known yet to judge it by."""
_PUT_IN: Final = re.compile(r"\{(tag|value|limit|asset)\}")


class _Stimulus(NamedTuple):
    """Something that may move a point."""

    time: int
    order: int
    """At one time: 0 for what expressions say, 1 for rows."""
    inhibit: bool | None
    """Not None: the inhibit expression has this value from now on."""
    number: float | None
    """Not None: what the limits are compared with."""
    level: int
    """Else: the level of the condition."""
    value: Any = None
    batch: str = ""


class _Said(NamedTuple):
    """What the followed expression said in one turn: setpoints, or levels."""

    times: list[int]
    words: list[float]
    least: float
    most: float

    @staticmethod
    def of(times: NDArray[np.int64], words: NDArray[np.float64]) -> _Said | None:
        """None when nothing was said. NaN is nothing."""
        known = ~np.isnan(words)
        if not known.any():
            return None
        times, words = times[known], words[known]
        return _Said(times.tolist(), words.tolist(), float(words.min()), float(words.max()))


class Alarm(Step[AlarmSettings]):
    """One rule."""

    rank = 700

    def __init__(self, name: str, settings: AlarmSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._levels = Levels(_limits(settings), settings.hysteresis)
        self._machine = Machine(settings.on_delay, settings.off_delay)
        self._alone = bool(settings.when) and self._selection.everything
        self._when = Signal(settings.when, flow, "when", step=name) if settings.when else None
        self._setpoint = Signal(settings.setpoint, flow, "setpoint", step=name) if settings.setpoint else None
        self._inhibit = Signal(settings.inhibit, flow, "inhibit", step=name) if settings.inhibit else None
        self._inhibited = False
        self._silence = None if settings.stale is None else Silence(settings.stale)
        self._keeps = settings.stale is not None or settings.deviation is not None or bool(settings.when)
        self._equal = _Equal(settings.equals or [])
        self._units = Units(flow.tags)
        self._pauses = Pauses()
        self._tags = PerTag(**_COLUMNS)
        self._rows = KeptRows()
        """The last row of each tag, for rules that look at a tag when it did not come."""
        self._points: dict[int, Point] = {}
        """Those that are not NORMAL."""
        self._rule = [0, 0]  # number and moved of RULE
        self._due = _FOREVER
        """No delay ends before this, by the steady clock."""
        self._orphans: list[int] = []
        self._flood = Flood()

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        size = len(self.flow.tags)
        self._tags.grow(size)
        self._rows.grow(size)
        for signal in self._signals():
            signal.prepare(slots)
        if self._silence is not None:
            self._silence.grow(size)
        for slot in self._units.changed(slots):
            self._tags["known"][slot] = False

    def _signals(self) -> list[Signal]:
        return [one for one in (self._when, self._setpoint, self._inhibit) if one is not None]

    # --- a turn ---

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        if self._pauses.begin(turn) and self._due < _FOREVER:
            self._due = self._next_due()
        if self._silence is not None:
            self._silence.begin(turn)
        for signal in self._signals():
            signal.feed(blocks, turn)
        for key in self._orphans:
            self._end(key, turn)
        self._orphans = []
        stimuli: dict[int, list[_Stimulus]] = {}
        followed = self._when or self._setpoint
        times, column = followed.changes() if followed is not None else _NOTHING
        if self._alone:
            for time, level in zip(times.tolist(), self._by_expression(column, len(times)).tolist(), strict=True):
                if level >= 0:
                    stimuli.setdefault(RULE, []).append(_Stimulus(time, 0, None, None, level))
        else:
            self._by_tag(blocks, turn, times, column, stimuli)
        self._run(stimuli, turn)
        self._wait(turn)
        for key, events, time in self._flood.over(turn.steady):
            self._tell_flood(key, events, time)
        return blocks

    def _by_tag(
        self,
        blocks: Sequence[Block],
        turn: Turn,
        times: NDArray[np.int64],
        column: Column,
        stimuli: dict[int, list[_Stimulus]],
    ) -> None:
        """What rows say, and what the followed expression and silence say of tags that did not come."""
        came: Mask = np.zeros(len(self._tags["level"]), dtype=np.bool_)
        said = _Said.of(times, self._numbers_or_levels(column, len(times)))
        near: Mask | None = None
        if said is not None:
            before = {key: self._tags[key].copy() for key in ("number", "known")}
            near = self._news(said, before["number"], np.arange(len(came)))
        for block in blocks:
            came[self._from_block(block, turn, said, near, stimuli)] = True
        if said is not None and near is not None:
            self._from_expression(said, came, near, before, stimuli)
        if self._silence is not None:
            for slot in self._silence.fallen(turn).tolist():
                if self._rows.type[slot]:
                    time = int(self._rows.t[slot]) + self._silence.after
                    value = self._rows.value(slot)
                    stimuli.setdefault(slot, []).append(_Stimulus(time, 1, None, None, levels.STALE, value))

    def _numbers_or_levels(self, column: Column, size: int) -> NDArray[np.float64]:
        """What the followed expression says: a setpoint, or the level of the rule; NaN where it says nothing."""
        if self._when is None:
            return _numbers(column, size)
        found = self._by_expression(column, size).astype(np.float64)
        found[found < 0] = np.nan
        return found

    def _news(self, said: _Said, number: NDArray[np.float64], slots: NDArray[Any]) -> Mask:
        """Which of these tags may change by what was said in this turn, if they have, or had, these values."""
        level, waits = self._tags["level"][slots], self._tags["waits"][slots]
        if self._when is not None:
            news: Mask = (level != said.least) | (level != said.most)
        else:
            furthest = np.maximum(np.abs(number - said.least), np.abs(number - said.most))
            news = (level != 0) | (self._levels.passed(furthest) != 0)
        news |= waits
        return news

    def _from_block(
        self,
        block: Block,
        turn: Turn,
        said: _Said | None,
        near: Mask | None,
        stimuli: dict[int, list[_Stimulus]],
    ) -> NDArray[np.int32]:
        """Stimuli of the rows that matter; the tags of all that count.

        said: what the followed expression said in this turn; near: the tags that this may change.
        """
        selected = self.selected(block)
        if self._silence is not None:
            self._silence.hear(block.slot[selected], turn)
        if block.late is not None:
            selected = selected & ~block.late
        nulls = block.nulls()
        is_bad = selected & (block.quality == Quality.BAD)
        values_only = selected & ~is_bad & ~nulls
        number, level, counts = self._judged(block, selected, values_only)
        if self.settings.bad != "hold" and self._when is None:
            level[is_bad] = levels.BAD if self.settings.bad == "alarm" else 0
            number[is_bad] = np.nan
            counts = counts | is_bad
        unknown = values_only & ~counts  # what the expression says is not known yet: the value counts when it is
        level[unknown] = _UNKNOWN
        rows = np.flatnonzero(counts | unknown)
        slots = block.slot[rows]
        if not len(rows):
            return slots
        if self._keeps:
            self._keep_last(block, rows, nulls)
        news = ((level[rows] != self._tags["level"][slots]) & ~unknown[rows]) | self._tags["waits"][slots]
        if said is not None and near is not None:
            news |= near[slots] | self._news(said, block.numbers()[rows], slots)
        if not news.any():
            return slots
        touched: Mask = np.zeros(len(self._tags["level"]), dtype=np.bool_)
        touched[slots[news]] = True
        chosen = rows[touched[slots]]
        values = block.value[chosen].tolist()
        contexts = [0] * len(chosen) if block.context is None else block.context[chosen].tolist()
        columns = (block.slot[chosen].tolist(), block.t[chosen].tolist(), number[chosen].tolist())
        for slot, time, measured, code, value, null, context in zip(
            *columns, level[chosen].tolist(), values, nulls[chosen].tolist(), contexts, strict=True
        ):
            stimuli.setdefault(slot, []).append(
                _Stimulus(
                    time,
                    1,
                    None,
                    measured if measured == measured else None,
                    code,
                    None if null else value,
                    self.flow.contexts.batch(context) if context else "",
                )
            )
        return slots

    def _judged(
        self, block: Block, selected: Mask, counts: Mask
    ) -> tuple[NDArray[np.float64], NDArray[np.int16], Mask]:
        """By row: what the limits are compared with (NaN: nothing), the level without hysteresis, whether it counts.

        selected: rows that are in order; counts: those of them that have a value and are not BAD.
        """
        settings, nothing = self.settings, np.full(len(block), np.nan)
        level = np.zeros(len(block), dtype=np.int16)
        if settings.equals is not None:
            level[counts & self._equal.rows(block)] = levels.EQUALS
            return nothing, level, counts
        if self._when is not None:
            found = self._by_expression(self._when.at(block.t), len(block))
            return nothing, np.maximum(found, 0), selected & (found >= 0)
        if settings.stale is not None:
            return nothing, level, selected  # it came, whatever it says
        if not self._levels.some:
            return nothing, level, counts
        if block.type not in NUMBERS:
            return nothing, level, np.zeros(len(block), dtype=np.bool_)
        number = block.numbers()
        if settings.rate is not None:
            number = self._changes(block, counts)
        elif self._setpoint is not None:
            number = np.abs(number - _numbers(self._setpoint.at(block.t), len(block)))
        if settings.limits is None:
            counts = counts & ~np.isnan(number)
        elif self.settings.bad != "hold":
            number = number.copy()  # the rows that are BAD are taken out of it
        return number, self._levels.passed(number), counts

    def _changes(self, block: Block, counts: Mask) -> NDArray[np.float64]:
        """How fast each value changed since the one before it, per second; NaN where that is not known."""
        found = np.full(len(block), np.nan)
        rows = np.flatnonzero(counts)
        if not len(rows):
            return found
        tags, slots, t, value = self._tags, block.slot[rows], block.t[rows], block.numbers()[rows]
        first = np.ones(len(rows), dtype=np.bool_)
        first[1:] = slots[1:] != slots[:-1]
        t_before, before = np.empty_like(t), np.empty_like(value)
        t_before[1:], before[1:] = t[:-1], value[:-1]
        t_before[first] = tags["t"][slots[first]]
        before[first] = np.where(tags["known"][slots[first]], tags["number"][slots[first]], np.nan)
        seconds = (t - t_before) / SECOND
        with np.errstate(all="ignore"):
            found[rows] = np.where(seconds > 0, np.abs(value - before) / seconds, np.nan)
        last = np.append(first[1:], True)
        tags["t"][slots[last]], tags["number"][slots[last]], tags["known"][slots[last]] = t[last], value[last], True
        return found

    def _keep_last(self, block: Block, rows: NDArray[np.intp], nulls: Mask) -> None:
        slots = block.slot[rows]
        last = np.append(slots[1:] != slots[:-1], True)
        self._rows.put(slots[last].astype(np.intp), block, rows[last], nulls)
        number = np.where(block.quality[rows[last]] == Quality.BAD, np.nan, block.numbers()[rows[last]])
        self._tags["number"][slots[last]] = number
        self._tags["known"][slots[last]] = True

    # --- expressions ---

    def _by_expression(self, column: Column, size: int) -> NDArray[np.int16]:
        """The levels of a rule that is about an expression; -1: not known, and the state stays."""
        unknown_is = {"hold": -1, "alarm": levels.BAD, "normal": 0}[self.settings.bad]
        number = _numbers(column, size)
        found = np.where(number != 0, levels.EXPRESSION, 0)
        found[np.isnan(number)] = unknown_is
        return found.astype(np.int16)

    def _from_expression(
        self,
        said: _Said,
        came: Mask,
        near: Mask,
        before: Mapping[str, NDArray[Any]],
        stimuli: dict[int, list[_Stimulus]],
    ) -> None:
        """What the followed expression said means for the tags, by the value that each had at that time.

        came: tags with rows in this turn; near: tags that may change by it; before: numbers as they were before the
        turn. Of tags that came, those that matter have all their rows in `stimuli`.
        """
        for slot in np.flatnonzero(self._tags["known"] & ~came & near & self._among(len(came))).tolist():
            number, value = float(self._tags["number"][slot]), self._rows.value(slot)
            batch = self.flow.contexts.batch(int(self._rows.context[slot]))
            for time, word in zip(said.times, said.words, strict=True):
                stimuli.setdefault(slot, []).extend(self._meant(time, word, number, value, batch))
        for slot, rows in stimuli.items():
            if not came[slot]:
                continue
            rows.sort(key=_by_time)
            known = bool(before["known"][slot])
            number, batch, place, more = float(before["number"][slot]) if known else np.nan, "", 0, []
            value = number if known and number == number else None
            for time, word in zip(said.times, said.words, strict=True):
                while place < len(rows) and rows[place].time <= time:
                    value, batch = rows[place].value, rows[place].batch
                    is_number = isinstance(value, (int, float)) and rows[place].level != levels.BAD
                    number = float(value) if is_number else np.nan
                    place, known = place + 1, True
                if known:
                    more += self._meant(time, word, number, value, batch)
            rows += more

    def _meant(self, time: int, word: float, number: float, value: Any, batch: str) -> list[_Stimulus]:
        """What it means for a tag with this value; nothing, when that is not known."""
        if self._when is not None:
            return [_Stimulus(time, 0, None, None, int(word), value, batch)]
        return [_Stimulus(time, 0, None, abs(number - word), 0, value, batch)] if number == number else []

    def _among(self, size: int) -> Mask:
        among: Mask = self._selected[:size]
        if self._selection.everything:
            among = np.ones(size, dtype=np.bool_)
        return among if len(among) == size else np.append(among, np.zeros(size - len(among), dtype=np.bool_))

    def _batch_of(self, slot: int) -> str:
        return self.flow.contexts.batch(int(self._rows.context[slot]))

    # --- points ---

    def _run(self, stimuli: dict[int, list[_Stimulus]], turn: Turn) -> None:
        """Move the points, each in the order of time."""
        inhibited, changes = self._inhibited, self._inhibit_changes()
        if changes:
            for key in self._points:
                stimuli.setdefault(key, [])
            self._inhibited = bool(changes[-1].inhibit)
        for key, ones in stimuli.items():
            if changes:
                ones = [*changes, *ones]
            if len(ones) > 1:
                ones = sorted(ones, key=_by_time)
            self._move(key, ones, inhibited, turn)

    def _inhibit_changes(self) -> list[_Stimulus]:
        """The times in this turn at which alarms begin to be inhibited, or cease to be."""
        if self._inhibit is None:
            return []
        times, column = self._inhibit.changes()
        number, now, changes = _numbers(column, len(times)), self._inhibited, []
        for time, true in zip(times.tolist(), (~np.isnan(number) & (number != 0)).tolist(), strict=True):
            if true != now:
                now = true
                changes.append(_Stimulus(time, 0, now, None, 0))
        return changes

    def _move(self, key: int, stimuli: Sequence[_Stimulus], inhibited: bool, turn: Turn) -> None:
        point, machine, told = self._point(key), self._machine, []
        for time, _, inhibit, number, level, value, batch in stimuli:
            if inhibit is not None:
                inhibited = inhibit
                told += machine.inhibit(point, time, inhibited, turn.steady)
                continue
            if number is None and level == _UNKNOWN:
                continue
            if number is not None:
                level = self._levels.level(number, point.level)
            told += machine.see(point, time, level, value, batch, inhibited, turn.steady)
        self._settle(key, point, told, turn)

    def _wait(self, turn: Turn) -> None:
        """End the delays that have passed while nothing came."""
        if turn.steady < self._due:
            return
        for key, point in list(self._points.items()):
            if point.state in DELAYED and self._ends(point) <= turn.steady:
                self._settle(key, point, self._machine.wait_over(point), turn)
        self._due = self._next_due()

    def _ends(self, point: Point) -> int:
        return max(point.steady, self._pauses.resumed) + self._machine.delay(point)

    def _next_due(self) -> int:
        return min((self._ends(point) for point in self._points.values() if point.state in DELAYED), default=_FOREVER)

    def _point(self, key: int) -> Point:
        point = self._points.get(key)
        if point is not None:
            return point
        if key == RULE:
            return Point(number=self._rule[0], moved=self._rule[1])
        return Point(number=int(self._tags["alarms"][key]), moved=int(self._tags["moved"][key]))

    def _settle(self, key: int, point: Point, told: Sequence[Transition], turn: Turn) -> None:
        """Remember how a point stands, and tell what happened to it."""
        if point.state == State.NORMAL:
            self._points.pop(key, None)
        else:
            self._points[key] = point
            if point.state in DELAYED:
                self._due = min(self._due, self._ends(point))
        if key != RULE:
            self._tags["level"][key] = point.level
            self._tags["waits"][key] = point.state in DELAYED
            self._tags["alarms"][key], self._tags["moved"][key] = point.number, point.moved
        else:
            self._rule = [point.number, point.moved]
        for one in told:
            self._tell(key, point, one, turn)

    def _end(self, key: int, turn: Turn) -> None:
        """Give up a point: its tag is not selected any more, or the rule is removed."""
        point = self._points.pop(key, None)
        if point is None:
            return
        told = []
        if point.state in ALIVE:
            point.moved = max(point.moved, turn.now if turn.trusted else point.moved)
            told = [
                Transition(SUPPRESSED, point.moved, point.told, point.value, point.batch, point.number, point.raised)
            ]
        point.state, point.level = State.NORMAL, 0
        self._settle(key, point, told, turn)

    # --- telling ---

    def _names(self, key: int) -> tuple[str, str]:
        """Tag and asset of a point. A rule that is about an expression alone is where its first tag is."""
        if key != RULE:
            series = self.flow.tags.series[key]
            return series.tag, series.asset
        for name in () if self._when is None else self._when.tags:
            for slot in self.flow.tags.find(name)[:1]:
                return "", self.flow.tags.series[slot].asset
        return "", ""

    def _id(self, key: int, number: int) -> str:
        tag, asset = self._names(key) if key != RULE else ("", "")
        return "/".join(part for part in (self.flow.name, self.name, asset, tag) if part) + f"#{number}"

    def _tell(self, key: int, point: Point, what: Transition, turn: Turn) -> None:
        tag, asset = self._names(key)
        number = self._id(key, what.number)
        self.count(what.told)
        over = what.told in (RETURNED, SUPPRESSED)
        if what.told == RAISED:
            point.asset, point.first = asset, not self.flow.alarms.get(asset)
        self._count_active(point.asset, number, None if over else what.raised)
        if not self._flood.allows(key, what.time, turn.steady):
            self.count("not_told")
            return
        level, limit = levels.NAMES[what.level], self._levels.limit(what.level)
        self.flow.tell(
            "alarm",
            what.time,
            state=what.told,
            id=number,
            rule=self.name,
            level=level,
            priority=self.settings.priority,
            tag=tag,
            asset=asset,
            batch=what.batch,
            value=what.value,
            limit=limit,
            first_out=point.first,
            message=self._message(tag, asset, level, what.value, limit),
            **({"duration_s": (what.time - what.raised) / SECOND} if over else {}),
        )

    def _count_active(self, asset: str, number: str, raised: int | None) -> None:
        """The alarm is active since this source time, or not any more: for `first_out` of all rules of the flow."""
        if not asset:
            return
        active = self.flow.alarms.setdefault(asset, {})
        if raised is not None:
            active[number] = raised
        else:
            active.pop(number, None)
            if not active:
                del self.flow.alarms[asset]

    def _tell_flood(self, key: int, events: int, time: int) -> None:
        tag, asset = self._names(key)
        point = self._points.get(key)
        alive = point is not None and point.state in ALIVE
        self.flow.tell(
            "alarm",
            time,
            state="flood",
            id=self._id(key, self._point(key).number),
            rule=self.name,
            level=levels.NAMES[point.told] if alive and point is not None else "",
            priority=self.settings.priority,
            tag=tag,
            asset=asset,
            active=alive,
            events=events,
            message=f"{events} events of this alarm were not told in the last ten minutes",
        )

    def _message(self, tag: str, asset: str, level: str, value: Any, limit: float | None) -> str:
        if not self.settings.message:
            return f"{tag or self.name}: {level}"
        words = {"tag": tag, "asset": asset, "value": _text(value), "limit": _text(limit)}
        return _PUT_IN.sub(lambda found: words[found[1]], self.settings.message)

    # --- state ---

    def save(self) -> Mapping[str, Any]:
        size = len(self.flow.tags)
        state: dict[str, Any] = {
            "tags": self._tags.save(size),
            "points": [[key, *(getattr(point, name) for name in _MEMBERS)] for key, point in self._points.items()],
            "rule": self._rule,
            "inhibited": self._inhibited,
            "flood": self._flood.save(),
            "pauses": self._pauses.save(),
            "signals": {name: one.save() for name, one in self._named_signals()},
        }
        if self._keeps:
            state["rows"] = self._rows.save()
        if self._silence is not None:
            state["silence"] = self._silence.save(size)
        return state

    def _named_signals(self) -> list[tuple[str, Signal]]:
        named = (("when", self._when), ("setpoint", self._setpoint), ("inhibit", self._inhibit))
        return [(name, one) for name, one in named if one is not None]

    def load(self, state: Mapping[str, Any]) -> None:
        size = len(self.flow.tags)
        points = {}
        for key, *members in state["points"]:
            point = Point(**dict(zip(_MEMBERS, members, strict=True)))
            point.state = State(point.state)
            if not RULE <= key < size or not all(0 <= one < len(levels.NAMES) for one in (point.level, point.told)):
                raise ValueError("an alarm is of a tag or a level that there is not")
            points[int(key)] = point
        number, moved = map(int, state["rule"])
        self._flood.load(state["flood"])
        self._pauses.load(state["pauses"])
        self._tags.load(state["tags"], size)
        if self._keeps and "rows" in state:
            self._rows.load(state["rows"])
            self._rows.grow(size)
        if self._silence is not None and "silence" in state:
            self._silence.load(state["silence"], size)
            self._silence.forget(np.flatnonzero(~self._among(size)))
        for name, signal in self._named_signals():
            if name in state["signals"]:
                signal.load(state["signals"][name])
        self._points, self._rule = points, [number, moved]
        self._inhibited = bool(state["inhibited"]) and self._inhibit is not None
        self._orphans = [key for key in points if (key == RULE) != self._alone or (key >= 0 and not self.applies(key))]
        self._due = self._next_due()
        for key, point in points.items():
            if point.state in ALIVE:
                self._count_active(point.asset, self._id(key, point.number), point.raised)

    def finish(self, turn: Turn) -> Sequence[Block]:
        for key in list(self._points):
            self._end(key, turn)
        return ()

    def explain(self, slot: int) -> dict[str, Any]:
        key = RULE if self._alone else slot
        point = self._points.get(key)
        stands = State.NORMAL if point is None else point.state
        told: dict[str, Any] = {"applies": self._alone or self.applies(slot), "state": stands.name.lower()}
        if point is not None:
            told["level"] = levels.NAMES[point.level]
            told["since"] = point.raised if point.state in ALIVE else point.since
        return {**told, "inhibited": self._inhibited}


_MEMBERS: Final = (
    "state",
    "level",
    "told",
    "since",
    "steady",
    "raised",
    "moved",
    "number",
    "first",
    "asset",
    "value",
    "batch",
)
_COLUMNS: Final[Mapping[str, tuple[str, Any]]] = {
    "level": ("int16", 0),  # of the condition
    "waits": ("bool", False),  # whether a delay is under way
    "alarms": ("int64", 0),  # raised so far
    "moved": ("int64", 0),
    "known": ("bool", False),  # whether number and t are of a row
    "number": ("float64", 0.0),
    "t": ("int64", 0),
}
_NOTHING: Final = (
    np.zeros(0, dtype=np.int64),
    Column(np.zeros(0), np.zeros(0, dtype=np.uint8)),
)


class _Equal:
    """Whether values are among given ones. A boolean is also the number 1 or 0.

    A number or boolean that is given as text is the same: that is what nucleus lite makes of it.
    """

    def __init__(self, values: Sequence[str | float | bool]) -> None:
        self._texts = {one if isinstance(one, str) else _text(one) for one in values}
        self._numbers = np.array([number for one in values if (number := _number(one)) is not None])

    def rows(self, block: Block) -> Mask:
        """The rows of a block that are."""
        if block.type is ValueType.STRING:
            texts = self._texts
            return np.array([text in texts for text in block.value.tolist()], dtype=np.bool_)
        found: Mask = np.isin(block.numbers(), self._numbers)
        return found


def _limits(settings: AlarmSettings) -> list[Limit]:
    found: list[Limit] = []
    if settings.limits is not None:
        of = settings.limits
        for level, limit, side, severity in (
            (levels.HIGH_HIGH, of.high_high, 1, 2),
            (levels.HIGH, of.high, 1, 1),
            (levels.LOW, of.low, -1, 1),
            (levels.LOW_LOW, of.low_low, -1, 2),
        ):
            if limit is not None:
                found.append(Limit(level, limit, side, severity))
    if settings.rate is not None:
        found.append(Limit(levels.RATE, settings.rate, 1, 1))
    if settings.deviation is not None:
        found.append(Limit(levels.DEVIATION, settings.deviation, 1, 1))
    return found


def _numbers(column: Column, size: int) -> NDArray[np.float64]:
    """A column of an expression as numbers; NaN where it is unknown, BAD or a text."""
    if column.text:
        return np.full(size, np.nan)
    return np.broadcast_to(np.where(column.quality == Quality.BAD, np.nan, column.value), size)


def _number(value: str | float | bool) -> float | None:
    """A value that is given as a number; None for another text."""
    if isinstance(value, str) and value.strip().casefold() in ("true", "false"):
        return float(value.strip().casefold() == "true")
    try:
        return float(value)
    except ValueError:
        return None


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    return format(value, ".10g") if isinstance(value, float) else str(value)


def _by_time(one: _Stimulus) -> tuple[int, int]:
    return one.time, one.order
