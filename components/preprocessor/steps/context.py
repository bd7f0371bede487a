"""Which batch runs, told by tags; every sample of its asset carries it.

`asset` is a path or a pattern: with `site/{unit}` each asset path that fits has its own context, for itself and all
below it; its captured names may stand in the tags of expressions, as in `{site/{unit}/Batch/Id}`. Without `asset` there
is one context for all tags of the flow. When a batch begins and ends is said in `preprocessor.batches.rules`.

The rules are looked at first, then each sample gets the batch, and the phase, that ran at its own time: late samples
and those read again from the past get the batch of then. A rule's tag may come a moment later than the samples beside
it: what went out before with another batch, or none, is told in an event of kind `context`, state `corrected`, with
its range. With onlyInBatch, samples of the asset outside of batches end here; the rules have seen them.

Events of kind `batch` have the states started, phase, completed, aborted, abandoned; with `summary` the end of a batch
is told 2 s later, when the last samples are in, with the figures of its tags. What does not fit into one event of 3,000
bytes follows in events of the state summary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from preprocessor.batches.rules import ABORT, ID, PHASE, START, STOP, Rules, Value
from preprocessor.batches.summary import SETTLE, Summary
from preprocessor.engine.block import Block, Mask
from preprocessor.engine.patterns import Pattern, PatternError, Selection
from preprocessor.engine.refusal import Refusal
from preprocessor.engine.step import SECOND, FlowContext, Step, Turn, grown
from preprocessor.engine.tags import Contexts, Tags, Words
from preprocessor.expressions.columns import Column
from preprocessor.expressions.signal import Signal
from preprocessor.expressions.suggesting import did_you_mean
from preprocessor.step_settings import ContextSettings
from sluice.columns import Quality, Series, ValueType
from sluice.context import Frame, History

MOST_UNITS: Final = 10_000
"""Asset paths that one step has contexts for."""
LARGEST_EVENT: Final = 3_000
_ROOM: Final = 2_800
_LOOK_EVERY: Final = 5 * SECOND
_NO_TIME: Final = -(2**63)
_NOT_SEEN: Final = -2
_NONE: Final = -1
_OVER: Final = ("completed", "aborted", "abandoned")


@dataclass(slots=True)
class _Unit:
    """One asset path with a context of its own."""

    asset: str
    captured: Mapping[str, str]
    rules: Rules
    signals: dict[str, Signal]
    """By the name of the rule."""
    summary: Summary | None = None
    newest: int = _NO_TIME
    """The newest time of a sample that went by."""
    closing: list[tuple[int, str, int]] = field(default_factory=list)
    """Frames that are over and not summed up yet: number, what happened, when they are due by the steady clock."""


class ContextStep(Step[ContextSettings]):
    """Puts batch and phase on samples, and tells of batches."""

    rank: ClassVar[int] = 500

    def __init__(self, name: str, settings: ContextSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._texts = {START: settings.start, STOP: settings.stop}
        if settings.abort:
            self._texts[ABORT] = settings.abort
        if settings.id:
            self._texts[ID] = settings.id
        self._texts.update((PHASE + phase, one.start) for phase, one in settings.phases.items())
        self._pattern = _asset_pattern(settings.asset)
        self._check()
        self._summed = None if settings.summary is None else Selection(settings.summary)
        self._history = History()
        self._units: list[_Unit] = []
        self._by_asset: dict[str, int] = {}
        self._listening: dict[str, list[int]] = {}
        """By the name of a tag, as expressions write it: the units whose rules look at it."""
        self._heard: dict[int, dict[int, None]] = {}
        """The same by slot."""
        self._hears: Mask = np.zeros(0, dtype=np.bool_)
        """By slot: whether any unit's rules look at it."""
        self._looked = -_LOOK_EVERY
        self._unit: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        """By slot: the unit that its samples belong to, -1 for none, -2 when the tag has not come yet."""
        self._place: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        """By slot: the place in the summary of its unit; -1: it has none."""
        if self._pattern is None or self._pattern.literal is not None:
            self._add(settings.asset, {})

    # --- a turn ---

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        self._unit = grown(self._unit, len(self.flow.tags), _NOT_SEEN)
        self._place = grown(self._place, len(self.flow.tags), _NONE)
        self._hears = grown(self._hears, len(self.flow.tags))
        for slot in slots:
            series = self.flow.tags.series[slot]
            for name in (series.tag, f"{series.asset}/{series.tag}"):
                for number in self._listening.get(name, ()):
                    self._listen(number, [slot])

    def _listen(self, number: int, slots: Sequence[int]) -> None:
        """A unit has rules that may look at these tags."""
        for signal in self._units[number].signals.values():
            signal.prepare(slots)
        for slot in slots:
            self._hears[slot] = True
            self._heard.setdefault(slot, {})[number] = None

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        for block in blocks:
            self._meet(block)
        for number in self._concerned(blocks, turn):
            self._follow(self._units[number], blocks, turn)
        if turn.trusted:
            for unit in self._units:
                if unit.rules.pass_time(turn.now):
                    self._tell(unit, turn)
        passed = [self._stamped(block, turn) for block in blocks]
        if self._summed is not None:
            for unit in self._units:
                self._sum_up(unit, turn, SETTLE)
        return passed

    def finish(self, turn: Turn) -> Sequence[Block]:
        """Batches that run are abandoned: nobody looks at them any more."""
        for unit in self._units:
            unit.rules.give_up(max(turn.now if turn.trusted else 0, unit.newest + 1), "step-removed")
            self._tell(unit, turn)
            self._sum_up(unit, turn, -1)
        return ()

    # --- units ---

    def _meet(self, block: Block) -> None:
        """Find the unit of tags that come for the first time."""
        unknown = self._unit[block.slot] == _NOT_SEEN
        if not unknown.any():
            return
        for slot in np.unique(block.slot[unknown]).tolist():
            series = self.flow.tags.series[slot]
            unit = self._unit[slot] = self._unit_of(series)
            if unit >= 0 and self._summed is not None and self._summed.covers(series.tag, series.asset):
                summary = self._units[unit].summary
                self._place[slot] = _NONE if summary is None else summary.place(slot)
                if self._place[slot] == _NONE:
                    self.flow.problem(
                        f"steps.{self.name}.summary",
                        "covers more than 1000 tags of one asset, the others are not summed up",
                        "select those that matter",
                    )

    def _unit_of(self, series: Series) -> int:
        if self._pattern is None:
            return 0
        parts = series.asset.split("/") if series.asset else []
        for count in range(1, len(parts) + 1):
            path = "/".join(parts[:count])
            known = self._by_asset.get(path)
            if known is not None:
                return known
            captured = self._pattern.captures(path)
            if captured is not None:
                return self._add(path, captured)
        return _NONE

    def _add(self, asset: str, captured: Mapping[str, str]) -> int:
        """Another context; -1 when there is no place for it, or its expressions make no sense."""
        place = f"steps.{self.name}.asset"
        if len(self._units) >= MOST_UNITS:
            self.flow.problem(place, f"fits more than {MOST_UNITS} asset paths", "make the pattern narrower")
            self.count("no-context")
            return _NONE
        phases = list(self.settings.phases)
        longest = round(self.settings.longest * SECOND)
        rules = Rules(asset, self.flow.name, self._history, phases, ids=bool(self.settings.id), longest=longest)
        texts = {rule: _with_captures(text, captured, _place_of(rule)) for rule, text in self._texts.items()}
        try:
            signals = {
                rule: Signal(text, self.flow, _place_of(rule) + (f".{asset}" if captured else ""), step=self.name)
                for rule, text in texts.items()
            }
        except Refusal as refusal:
            # An asset path can have letters that no tag's name in an expression may have.
            self.flow.problem(f"{place}.{asset}", refusal.problem, refusal.remedy)
            self._by_asset[asset] = _NONE
            return _NONE
        number = self._by_asset[asset] = len(self._units)
        self._units.append(_Unit(asset, dict(captured), rules, signals, None if self._summed is None else Summary()))
        for name in dict.fromkeys(tag for signal in signals.values() for tag in signal.tags):
            self._listening.setdefault(name, []).append(number)
            self._listen(number, self.flow.tags.find(name))
        return number

    def _follow(self, unit: _Unit, blocks: Sequence[Block], turn: Turn) -> None:
        """See what the rules of a unit became in this turn, and tell of it."""
        changes: list[tuple[int, str, Value]] = []
        for rule, signal in unit.signals.items():
            signal.feed(blocks, turn)
            times, column = signal.changes()
            if len(times):
                changes += [
                    (time, rule, value) for time, value in zip(times.tolist(), _values(column, rule), strict=True)
                ]
        if changes:
            unit.rules.feed(changes)
        self._tell(unit, turn)

    def _concerned(self, blocks: Sequence[Block], turn: Turn) -> Sequence[int]:
        """The units whose rules look at a tag that came; now and then all of them, to tell of tags that do not come."""
        if turn.steady - self._looked >= _LOOK_EVERY:
            self._looked = turn.steady
            return range(len(self._units))
        found: dict[int, None] = {}
        for block in blocks:
            for slot in np.unique(block.slot[self._hears[block.slot]]).tolist():
                found.update(self._heard[slot])
        return sorted(found)

    # --- samples ---

    def _stamped(self, block: Block, turn: Turn) -> Block:
        """The block with the context of each row; without those outside of batches, where that is wanted."""
        units = np.where(self.selected(block), self._unit[block.slot], _NONE)
        rows = np.flatnonzero(units >= 0)
        if not len(rows):
            return block
        context = np.zeros(len(block), dtype=np.int32) if block.context is None else block.context.copy()
        outside: Mask = np.zeros(len(block), dtype=np.bool_)
        values: NDArray[np.float64] | None = None
        if len(self._units) > 1:
            rows = rows[np.argsort(units[rows], kind="stable")]
        numbers = units[rows]
        cuts = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
        for part in np.split(rows, cuts):
            unit = self._units[int(units[part[0]])]
            times = block.t[part]
            self._put(unit, part, times, context, outside)
            unit.newest = max(unit.newest, int(times.max()))
            if unit.summary is not None and block.type is not ValueType.STRING:
                places = self._place[block.slot[part]]
                summed = places >= 0
                if summed.any():
                    if values is None:
                        values = block.numbers().copy()
                        values[block.quality != Quality.GOOD] = np.nan
                    unit.summary.feed(turn.steady, places[summed].astype(np.int64), times[summed], values[part[summed]])
        block = block.with_(context=context) if context.any() or block.context is not None else block
        return self.drop(block, outside, "outside-batch") if self.settings.only_in_batch else block

    def _put(
        self, unit: _Unit, rows: NDArray[np.intp], times: NDArray[np.int64], context: NDArray[np.int32], outside: Mask
    ) -> None:
        """Write the contexts of rows of one unit."""
        frames = self._history.at(unit.asset, times)
        lowest, highest = int(frames.min()), int(frames.max())
        for number in [lowest] if lowest == highest else np.unique(frames).tolist():
            mine = slice(None) if lowest == highest else frames == number
            if not number:
                outside[rows[mine]] = True
                continue
            frame = self._history.frame(number)
            phases = self._history.phases_at(number, times[mine])
            here = rows[mine]
            for phase in np.unique(phases).tolist():
                these = here[phases == phase]
                extra = {"phase": frame.phases[phase].name} if phase >= 0 else {}
                before = context[these]
                for known in np.unique(before).tolist():
                    context[these[before == known]] = self.flow.contexts.combined(known, frame.id, extra)

    # --- telling ---

    def _tell(self, unit: _Unit, turn: Turn) -> None:
        """Events of what happened, and of what was said otherwise before."""
        for what, count in unit.rules.counters.items():
            self.count(what, count)
        unit.rules.counters.clear()
        for happened in unit.rules.happened:
            frame = happened.frame
            if happened.what in _OVER:
                if unit.summary is not None:
                    unit.closing.append((frame.number, happened.what, turn.steady))
                else:
                    self._told_over(unit, frame, happened.what, [])
                continue
            members: dict[str, Any] = {"start_ns": frame.start}
            if happened.phase is not None:
                members |= {"phase": happened.phase.name, "phase_start_ns": happened.phase.start}
            elif frame.joined:
                members["joined"] = True
            self.count(happened.what)
            self.flow.tell("batch", happened.time, **self._head(unit, frame, happened.what), **members)
        unit.rules.happened.clear()
        for change in self._history.changes:
            if change.start <= unit.newest:
                before, after = self._history.get(change.before), self._history.get(change.after)
                self.count("corrected")
                self.flow.tell(
                    "context",
                    change.start,
                    state="corrected",
                    step=self.name,
                    asset=unit.asset,
                    before=before.id if before is not None else "",
                    batch=after.id if after is not None else "",
                    start_ns=change.start,
                    end_ns=min(change.end, unit.newest + 1),
                )
        self._history.changes.clear()

    def _head(self, unit: _Unit, frame: Frame, state: str) -> dict[str, Any]:
        return {"state": state, "step": self.name, "asset": unit.asset, "batch": frame.id}

    def _sum_up(self, unit: _Unit, turn: Turn, wait: int) -> None:
        """Tell of batches that are over for so long, with what their tags did."""
        summary = unit.summary
        if summary is None:
            return
        numbers = [number for number, _, _ in unit.closing]
        if (running := unit.rules.running) is not None:
            numbers.append(running.number)
        frames = {number: frame for number in numbers if (frame := self._history.get(number)) is not None}
        while unit.closing and turn.steady - unit.closing[0][2] > wait:
            number, what, _ = unit.closing.pop(0)
            frame = frames.get(number)
            if frame is None:
                continue
            figures = []
            for phase, slot, of in summary.close(frame, frames):
                series = self.flow.tags.series[slot]
                entry: dict[str, Any] = {"tag": series.tag}
                if series.asset != unit.asset:
                    entry["asset"] = series.asset
                if phase >= 0:
                    entry["phase"] = frame.phases[phase].name
                    entry["phase_start_ns"] = frame.phases[phase].start
                figures.append({**entry, **of})
            del frames[number]
            self._told_over(unit, frame, what, figures)
        summary.advance(turn.steady, frames)

    def _told_over(self, unit: _Unit, frame: Frame, what: str, figures: Sequence[Mapping[str, Any]]) -> None:
        """The event of a batch's end, and as many more as its phases and figures need."""
        self.count(what)
        phases = [
            {
                "phase": one.name,
                "start_ns": one.start,
                "end_ns": one.end,
                "duration_s": round((one.end - one.start) / SECOND, 3),
            }
            for one in frame.phases
        ]
        head: dict[str, Any] = {
            **self._head(unit, frame, what),
            "start_ns": frame.start,
            "end_ns": frame.end,
            "duration_s": round((frame.end - frame.start) / SECOND, 3),
        }
        if frame.reason:
            head["reason"] = frame.reason
        if frame.joined:
            head["joined"] = True
        parts = list(_in_parts([("phases", one) for one in phases] + [("summary", one) for one in figures], head))
        for number, lists in enumerate(parts, 1):
            more = {"part": number, "parts": len(parts)} if len(parts) > 1 else {}
            first = head if number == 1 else {**self._head(unit, frame, "summary"), "start_ns": frame.start}
            self.flow.tell("batch", frame.end, **first, **lists, **more)

    # --- state ---

    def save(self) -> Mapping[str, Any]:
        return {
            "history": self._history.save(),
            "looked": self._looked,
            "units": [
                {
                    "asset": unit.asset,
                    "captured": dict(unit.captured),
                    "rules": unit.rules.save(),
                    "signals": {rule: signal.save() for rule, signal in unit.signals.items()},
                    "summary": None if unit.summary is None else unit.summary.save(),
                    "newest": unit.newest,
                    "closing": [list(one) for one in unit.closing],
                }
                for unit in self._units
            ],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self._history.load(state["history"])
        self._looked = int(state["looked"])
        for saved in state["units"]:
            asset = str(saved["asset"])
            if self._pattern is None or self._pattern.literal is not None:
                number = self._by_asset.get(asset, _NONE)
            else:
                captured = self._pattern.captures(asset)
                number = _NONE if captured is None else self._add(asset, captured)
            if number < 0:
                for frame in self._history.running(asset):  # the settings do not have this context any more
                    self._history.end(frame.number, int(saved["newest"]), "abandon", "step-removed")
                continue
            unit = self._units[number]
            unit.rules.load(saved["rules"])
            unit.newest = int(saved["newest"])
            unit.closing = [(int(frame), str(what), int(since)) for frame, what, since in saved["closing"]]
            if unit.summary is not None and saved["summary"] is not None:
                unit.summary.load(saved["summary"])
            for rule, signal in unit.signals.items():
                kept = saved["signals"].get(rule)
                if kept is not None:
                    signal.load(kept)
        self._history.changes.clear()

    def explain(self, slot: int) -> dict[str, Any]:
        number = int(self._unit[slot]) if slot < len(self._unit) else _NONE
        told: dict[str, Any] = {"applies": self.applies(slot) and number >= 0}
        if number >= 0:
            unit = self._units[number]
            told["asset"] = unit.asset
            frame = unit.rules.running
            told["batch"] = None if frame is None else frame.id
            if frame is not None:
                told["since_ns"] = frame.start
                told["phase"] = frame.phases[-1].name if frame.phases else None
            told["summed"] = bool(self._place[slot] >= 0)
        return told

    # --- settings ---

    def _check(self) -> None:
        """Refuse expressions that cannot be used, whatever the asset."""
        names = () if self._pattern is None else self._pattern.names
        nowhere = FlowContext(self.flow.name, Tags(), Words(), Contexts())
        for rule, text in self._texts.items():
            place = _place_of(rule)
            Signal(_with_captures(text, dict.fromkeys(names, "x"), place), nowhere, place)


def _asset_pattern(asset: str) -> Pattern | None:
    """The pattern of asset paths that have contexts; None: there is one for everything. Raises Refusal."""
    if not asset:
        return None
    try:
        found = Pattern(asset)
    except PatternError as error:
        raise Refusal("asset", asset, str(error), error.remedy) from None
    if "**" in asset:
        raise Refusal("asset", asset, "has **, which fits paths one below the other", "write * or {unit} for one level")
    return found


def _place_of(rule: str) -> str:
    return f"phases.{rule.removeprefix(PHASE)}.start" if rule.startswith(PHASE) else rule


def _with_captures(text: str, captured: Mapping[str, str], place: str) -> str:
    """The expression with the names in braces inside of its tags put in: {site/{unit}/Id}. Raises Refusal."""
    if not captured:
        return text
    made: list[str] = []
    depth, begin, quote = 0, 0, ""
    for number, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif depth == 0 and letter in "'\"":
            quote = letter
        elif letter == "{":
            depth += 1
            if depth <= 2:
                begin = number
        elif letter == "}" and depth:
            depth -= 1
            name = text[begin + 1 : number]
            if depth == 1:
                if name not in captured:
                    remedy = did_you_mean(name, captured) or f"there are: {', '.join(sorted(captured))}"
                    raise Refusal(place, text, f"has {{{name}}}, which `asset` does not capture", remedy)
                made.append(captured[name])
                begin = -1
                continue
            if depth == 0 and begin >= 0 and name in captured:
                remedy = f"put it inside of a tag's name, such as {{site/{{{name}}}/Running}}"
                raise Refusal(place, text, f"has {{{name}}} by itself, which is no tag", remedy)
        if depth < 2:
            made.append(letter)
    return "".join(made)


def _values(column: Column, rule: str) -> Iterator[Value]:
    """What a rule became: true or false, an id as text; None where it is unknown."""
    for value, quality in zip(column.value.tolist(), column.quality.tolist(), strict=True):
        if value is None or value != value or quality == Quality.BAD:
            yield None
        elif rule != ID:
            yield bool(value)
        elif isinstance(value, float):
            yield str(int(value)) if value == int(value) and abs(value) < 2**63 else repr(value)
        else:
            yield str(value).strip()


def _in_parts(
    entries: Sequence[tuple[str, Mapping[str, Any]]], head: Mapping[str, Any]
) -> Iterator[dict[str, list[Mapping[str, Any]]]]:
    """The entries by their lists, in as many parts as it takes for each event to stay within 3,000 bytes."""
    used = room = len(orjson.dumps(dict(head))) + 100
    lists: dict[str, list[Mapping[str, Any]]] = {}
    for name, entry in entries:
        size = len(orjson.dumps(entry)) + 1
        if lists and used + size > _ROOM:
            yield lists
            lists, used = {}, room
        if name not in lists:
            used += len(name) + 5
        lists.setdefault(name, []).append(entry)
        used += size
    yield lists
