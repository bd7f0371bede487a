"""Tags that are calculated from others.

A result is calculated whenever one of the tags that it is made of has a sample, for the time of that sample, with the
values that the others had last. It begins when each of them has been seen once, or twice where the one before is looked
at. Its quality is the worst of those that took part. Results that use others are calculated behind them, by level.

All outputs are calculated together, in columns:

    rows of inputs -> pairs of output and time -> what each input was then -> one evaluation for each form of expression

where outputs whose expressions differ in their tags alone have one form. A sample that comes late gives a late result
for its own time, and changes none of those that are out already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Mask
from preprocessor.engine.refusal import Refusal
from preprocessor.engine.step import FlowContext, Step, Turn, grown
from preprocessor.expressions.aligning import NULL_TEXT, Followed, Found, Rows, joined_rows
from preprocessor.expressions.columns import Column, nulls
from preprocessor.expressions.compiling import BOOLEAN, TEXT, Expression, compile_expression
from preprocessor.expressions.ordering import CircleError, levels
from preprocessor.expressions.parsing import Reference
from preprocessor.expressions.resolving import NONE, Names
from preprocessor.step_settings import Derived, DeriveSettings
from preprocessor.steps.made_tags import Twins
from sluice.columns import NAN, Series, ValueType

TOO_OLD: Final = "too-old"
FROM_INPUTS: Final = "from-inputs"
"""The status of a result whose quality is that of its inputs."""
_NEVER: Final = -(2**63)
_FEW: Final = 4
"""Up to so many rows of one form are evaluated one by one, where there are more forms than this."""


@dataclass(frozen=True, slots=True)
class _Output:
    """One result. Its number is its index among all outputs, which stand by level, and in a level by form."""

    name: str
    settings: Derived
    form: Expression
    """Its expression with the tags "0", "1", …"""
    inputs: tuple[str | int, ...]
    """What these are: the name of a tag, or the number of another output."""


@dataclass(slots=True)
class _Level:
    """The outputs of one level. Output `first + i` needs the places `needs[starts[i] : starts[i + 1]]`."""

    first: int
    outputs: list[_Output]
    form: NDArray[np.int32]
    """By output: outputs of one form are evaluated together."""
    back: Mask
    """By need: whether the sample before is needed as well."""
    starts: NDArray[np.intp] = field(default_factory=lambda: np.zeros(1, dtype=np.intp))
    needs: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    ready: Mask = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """Which outputs have all their inputs."""
    user_starts: NDArray[np.intp] = field(default_factory=lambda: np.zeros(1, dtype=np.intp))
    users: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    """Which outputs of the level need a place, in the same way."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """What is to be calculated: outputs, by their index in the level, at times."""

    output: NDArray[np.int32]
    t: NDArray[np.int64]
    context: NDArray[np.int32]
    past: Mask
    starts: NDArray[np.intp]
    """Where the inputs of each stand among all that were looked up."""
    dubious: Mask
    """An input is not GOOD."""
    too_old: Mask

    def take(self, rows: Mask) -> _Pairs:
        """These of them."""
        return _Pairs(
            self.output[rows],
            self.t[rows],
            self.context[rows],
            self.past[rows],
            self.starts[rows],
            self.dubious[rows],
            self.too_old[rows],
        )


class _Single:
    """Evaluates pairs one by one: cheaper than columns for expressions that nothing else is like."""

    def __init__(self, pairs: _Pairs, found: Found, old: Mask) -> None:
        self._starts = pairs.starts.tolist()
        self._values = [None if value != value else value for value in found.table.value[found.row].tolist()]
        self._quality = found.table.quality[found.row].tolist()
        for place in np.flatnonzero(old).tolist():
            self._values[place] = None

    def evaluated(self, expression: Expression, place: int) -> tuple[float, int]:
        """The value and quality of a pair; NaN: unknown."""
        start = self._starts[place]
        end = start + len(expression.tags)
        names = expression.tags
        value, quality = expression.evaluate_one(
            dict(zip(names, self._values[start:end], strict=True)),
            dict(zip(names, self._quality[start:end], strict=True)),
        )
        return (value if isinstance(value, float) else np.nan), quality


@dataclass(frozen=True, slots=True, eq=False)
class _Results:
    """What was calculated, row by row: by output and time."""

    output: NDArray[np.int32]
    t: NDArray[np.int64]
    value: NDArray[np.float64]
    text: NDArray[Any] | None
    """As in `Rows`."""
    quality: NDArray[np.uint8]
    status: NDArray[np.int64]
    context: NDArray[np.int32]
    backfill: Mask


class Derive(Step[DeriveSettings]):
    """Calculates tags from others. Places of `Followed`: first the outputs by number, then tags as they turn up."""

    rank: ClassVar[int] = 600

    def __init__(self, name: str, settings: DeriveSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        ordered = _ordered(settings)
        self._outputs = [output for level in ordered for output in level]
        self._levels: list[_Level] = []
        for level in ordered:
            forms: dict[str, int] = {}
            numbers = [forms.setdefault(output.form.text, len(forms)) for output in level]
            first = sum(len(one.outputs) for one in self._levels)
            back = [str(number) in one.form.looks_back for one in level for number in range(len(one.inputs))]
            self._levels.append(_Level(first, level, np.array(numbers, dtype=np.int32), np.array(back, dtype=np.bool_)))
        count = len(self._outputs)
        self._kinds = np.array([_TYPES.index(_TYPE_OF.get(one.form.kind, ValueType.DOUBLE)) for one in self._outputs])
        self._used = np.zeros(count, dtype=np.bool_)
        """Which outputs others use."""
        names: dict[str, str] = {}
        for output in self._outputs:
            for one in output.inputs:
                if isinstance(one, int):
                    self._used[one] = True
                else:
                    names.setdefault(one, f"steps.{name}.outputs.{output.name}.expression")
        self._names = Names(list(names), flow, list(names.values()))
        self._numbers = {one: number for number, one in enumerate(names)}
        self._followed = Followed(count + len(names))
        self._followed.grow(count)
        self._tags: list[int] = []
        """The slots of the places behind those of the outputs."""
        self._slots: NDArray[np.int32] = np.full(count, NONE, dtype=np.int32)
        """By output: the slot of its results, once there were some."""
        self._place: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        """By slot; -1: not used."""
        self._unmet: Mask = np.zeros(0, dtype=np.bool_)
        """By slot: may be used, and has not been seen yet."""
        self._newest: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        """By slot: the time of an output's newest result."""
        self._twins = Twins(flow, name)
        self._connect()

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        self._grow()
        self._names.prepare(slots)
        self._twins.prepare(slots)
        for slot in slots:
            # what this step makes is found by the names of its outputs alone
            mine = self.flow.tags.stages[slot] == self.name
            if slot in self._names.users and not mine and self.applies(slot):
                self._unmet[slot] = self._place[slot] == NONE

    def _grow(self) -> None:
        size = len(self.flow.tags)
        self._place = grown(self._place, size, NONE)
        self._unmet = grown(self._unmet, size)
        self._newest = grown(self._newest, size, _NEVER)

    # --- a turn ---

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        self._names.watch(turn, bool(blocks))
        self._meet(blocks)
        taken = [(block, used) for block in blocks if (used := self._place[block.slot] >= 0).any()]
        made: list[_Results] = []
        if taken:
            rows, contexts, backfill = self._rows(taken)
            made = self._calculated(rows, contexts, backfill)
        going = list(blocks)
        if self.settings.inputs == "drop" and taken:
            drops = {id(block): used for block, used in taken}
            going = [self.drop(block, drops[id(block)], "used") if id(block) in drops else block for block in blocks]
        blocks = [*going, *self._blocks(made)]
        self._twins.look(going)
        return blocks

    def _meet(self, blocks: Sequence[Block]) -> None:
        """Give tags that are seen for the first time their places."""
        met = False
        for block in blocks:
            new = self._unmet[block.slot]
            if new.any():
                for slot in np.unique(block.slot[new]).tolist():
                    self._unmet[slot] = False
                    self._names.meet(slot)
                    self._give_place(slot)
                    met = True
        if met:
            self._connect()

    def _give_place(self, slot: int) -> None:
        self._place[slot] = len(self._outputs) + len(self._tags)
        self._tags.append(slot)
        self._followed.grow(len(self._outputs) + len(self._tags))

    def _connect(self) -> None:
        """Settle which places the outputs need, after a tag turned up."""
        for level in self._levels:
            starts, needs, ready = [0], [], []
            for output in level.outputs:
                places = [self._place_of(one) for one in output.inputs]
                ready.append(NONE not in places)
                needs += places
                starts.append(len(needs))
            level.starts = np.array(starts, dtype=np.intp)
            level.needs = np.array(needs, dtype=np.int32)
            level.ready = np.array(ready, dtype=np.bool_)
            users = np.repeat(np.arange(len(level.outputs), dtype=np.int32), np.diff(level.starts))
            order = np.argsort(level.needs, kind="stable")
            level.users = users[order]
            level.user_starts = np.searchsorted(level.needs[order], np.arange(self._followed.size + 1))

    def _place_of(self, one: str | int) -> int:
        if isinstance(one, int):
            return one
        slot = self._names.slots[self._numbers[one]]
        return NONE if slot == NONE else int(self._place[slot])

    def _rows(self, taken: Sequence[tuple[Block, Mask]]) -> tuple[Rows, NDArray[np.int32], Mask]:
        """The rows of all inputs as they came, the context of each, and whether it is backfill."""
        parts: list[Rows] = []
        contexts: list[NDArray[np.int32]] = []
        backfill: list[Mask] = []
        for block, used in taken:
            part = block if used.all() else block.take(used)
            place = self._place[part.slot]
            if part.type is ValueType.STRING:
                text = part.value.copy()
                text[part.nulls()] = NULL_TEXT
                parts.append(Rows(place, part.t, np.full(len(part), np.nan), part.quality, text))
            else:
                value = part.numbers()
                wrong = ~np.isfinite(value)
                if wrong.any():
                    value = np.where(wrong, np.nan, value)
                parts.append(Rows(place, part.t, value, part.quality))
            contexts.append(np.zeros(len(part), dtype=np.int32) if part.context is None else part.context)
            backfill.append(np.full(len(part), part.backfill))
        return joined_rows(parts), np.concatenate(contexts), np.concatenate(backfill)

    def _calculated(self, rows: Rows, contexts: NDArray[np.int32], backfill: Mask) -> list[_Results]:
        """All results of this turn, level by level."""
        made: list[_Results] = []
        for level in self._levels:
            results = self._level_results(level, rows, contexts, backfill)
            if results is None:
                continue
            made.append(results)
            used = self._used[results.output]
            if used.any():
                text = None if results.text is None else results.text[used]
                more = Rows(results.output[used], results.t[used], results.value[used], results.quality[used], text)
                rows = joined_rows([rows, more])
                contexts = np.concatenate((contexts, results.context[used]))
                backfill = np.concatenate((backfill, results.backfill[used]))
        self._followed.take(rows)
        return made

    def _level_results(self, level: _Level, rows: Rows, contexts: NDArray[np.int32], backfill: Mask) -> _Results | None:
        """The results of one level."""
        # each row asks for the outputs that need it, at its time; what several rows ask for is calculated once
        counts = level.user_starts[rows.place + 1] - level.user_starts[rows.place]
        asking = np.repeat(np.arange(len(rows)), counts)
        if not len(asking):
            return None
        offset = np.arange(len(asking)) - np.repeat(np.cumsum(counts) - counts, counts)
        output = level.users[level.user_starts[rows.place[asking]] + offset]
        ready = level.ready[output]
        asking, output = asking[ready], output[ready]
        if not len(asking):
            return None
        t = rows.t[asking]
        order = np.lexsort((t, output))
        asking, output, t = asking[order], output[order], t[order]
        first = np.ones(len(output), dtype=np.bool_)
        first[1:] = (output[1:] != output[:-1]) | (t[1:] != t[:-1])
        begin = np.flatnonzero(first)
        context = np.maximum.reduceat(contexts[asking], begin)
        past = np.logical_and.reduceat(backfill[asking], begin)
        output, t = output[begin], t[begin]

        # what all inputs of all results were, one after the other
        widths = np.diff(level.starts)[output]
        starts = np.cumsum(widths) - widths
        flat = np.repeat(level.starts[output], widths) + np.arange(int(widths.sum())) - np.repeat(starts, widths)
        found = self._followed.look(rows, level.needs[flat], np.repeat(t, widths), looks_back=bool(level.back.any()))
        old: Mask = np.zeros(len(flat), dtype=np.bool_)
        if self.settings.max_age is not None:
            old = found.ages() > self.settings.max_age
        known = found.known & (~level.back[flat] | (found.before >= 0))
        pairs = _Pairs(
            output,
            t,
            context,
            past,
            starts,
            np.logical_or.reduceat(found.table.quality[found.row] > 0, starts),
            np.logical_or.reduceat(old, starts),
        )
        complete = np.logical_and.reduceat(known, starts)
        pairs = pairs if complete.all() else pairs.take(complete)
        return self._evaluated(level, pairs, found, old) if len(pairs.output) else None

    def _evaluated(self, level: _Level, pairs: _Pairs, found: Found, old: Mask) -> _Results:
        """The values of pairs of output and time, form by form. Forms with few rows are evaluated one by one."""
        size = len(pairs.output)
        value, quality = np.full(size, np.nan), np.zeros(size, dtype=np.uint8)
        text: NDArray[Any] | None = None
        form = level.form[pairs.output]
        cuts = np.flatnonzero(form[1:] != form[:-1]) + 1
        single = _Single(pairs, found, old) if found.table.text is None and len(cuts) >= _FEW else None
        any_old = bool(old.any())
        for begin, end in zip([0, *cuts.tolist()], [*cuts.tolist(), size], strict=True):
            expression = level.outputs[int(pairs.output[begin])].form
            if single is not None and end - begin <= _FEW and expression.kind != TEXT and not expression.follows:
                for place in range(begin, end):
                    value[place], quality[place] = single.evaluated(expression, place)
                continue
            inputs = [pairs.starts[begin:end] + number for number in range(len(expression.tags))]
            founds = [found.take(rows) for rows in inputs]
            for rows, column in _by_type(expression, founds, [old[rows] for rows in inputs] if any_old else []):
                here = slice(begin, end) if rows is None else np.flatnonzero(rows) + begin
                if column.text:
                    text = np.full(size, None, dtype=object) if text is None else text
                    texts = column.value.copy()
                    texts[nulls(texts)] = NULL_TEXT
                    text[here] = texts
                else:
                    value[here] = column.value
                quality[here] = column.quality
        status = self._status(pairs, value, text, quality)
        output = pairs.output + np.int32(level.first)
        return _Results(output, pairs.t, value, text, quality, status, pairs.context, pairs.past)

    def _status(
        self, pairs: _Pairs, value: NDArray[np.float64], text: NDArray[Any] | None, quality: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Why results are not GOOD: an input is too old, or not good itself, or there is no such number."""
        status = np.zeros(len(value), dtype=np.int64)
        worse = quality > 0
        if not worse.any():
            return status
        code = self.flow.words.code
        null = np.isnan(value)
        if text is not None:
            null &= np.array([not isinstance(one, str) for one in text.tolist()], dtype=np.bool_)
        for word, rows in (
            (FROM_INPUTS, worse),
            (NAN, worse & null & ~pairs.dubious),
            (TOO_OLD, worse & null & pairs.too_old),
        ):
            if rows.any():
                status[rows] = code(word)
        return status

    # --- out ---

    def _blocks(self, made: Sequence[_Results]) -> list[Block]:
        """The results as blocks, one for each type, what is live before what is backfill."""
        blocks: list[Block] = []
        for past in (False, True):
            for results in made:
                blocks += self._typed(results, past)
        return blocks

    def _typed(self, results: _Results, past: bool) -> list[Block]:
        rows = results.backfill == past
        if not rows.any():
            return []
        unplaced = results.output[rows & (self._slots[results.output] == NONE)]
        for number in np.unique(unplaced).tolist():
            self._slots[number] = self._slot_of(number)
        slot = self._slots[results.output]
        lost = rows & (slot < 0)
        if lost.any():
            self.count("too-many-tags", int(np.count_nonzero(lost)))
            rows &= ~lost
        kinds = self._kinds[results.output]
        if results.text is not None:
            kinds[~nulls(results.text)] = _TYPES.index(ValueType.STRING)
        blocks: list[Block] = []
        for number, of in enumerate(_TYPES):
            mine = np.flatnonzero(rows & (kinds == number))
            if len(mine):
                mine = mine[np.argsort(slot[mine], kind="stable")]
                self.made(len(mine), "derived")
                blocks.append(self._block(results, of, mine, slot[mine], past))
        return blocks

    def _block(
        self, results: _Results, of: ValueType, rows: NDArray[np.intp], slot: NDArray[np.int32], past: bool
    ) -> Block:
        value: NDArray[Any] = results.value[rows]
        null: Mask | None = None
        if of is ValueType.BOOLEAN:
            null = np.isnan(value)
            value = np.where(null, 0.0, value) != 0
        elif of is ValueType.STRING:
            if results.text is None:
                value = np.full(len(rows), None, dtype=object)
            else:
                value = results.text[rows]
                value[np.equal(value, NULL_TEXT)] = None
        t = results.t[rows]
        late = t <= self._newest[slot]
        np.maximum.at(self._newest, slot, t)
        context = results.context[rows]
        return Block(
            of,
            slot,
            t,
            value,
            results.quality[rows],
            results.status[rows],
            null if null is not None and null.any() else None,
            late if late.any() else None,
            context if context.any() else None,
            past,
        )

    def _slot_of(self, number: int) -> int:
        """The slot of an output; -1: the flow has no place for another tag."""
        output = self._outputs[number]
        series = Series(_tag_of(output.name, output.settings), self._asset_of(number), output.settings.unit)
        slot = self.flow.tags.slot(series, stage=self.name)
        self._grow()
        self._twins.made(slot, f"steps.{self.name}.outputs.{output.name}")
        return slot

    def _asset_of(self, number: int) -> str:
        """Where an output belongs: where its first tag does, unless its settings say otherwise."""
        output = self._outputs[number]
        first = output.inputs[0]
        if output.settings.asset:
            return output.settings.asset
        if isinstance(first, int):
            return self._asset_of(first)
        return self.flow.tags.series[self._names.slots[self._numbers[first]]].asset

    # --- state ---

    def save(self) -> Mapping[str, Any]:
        made = np.flatnonzero(self._newest > _NEVER)
        return {
            "names": self._names.save(),
            "outputs": [[output.name, output.settings.expression] for output in self._outputs],
            "tags": self._tags,
            "followed": self._followed.save(),
            "made": made,
            "newest": self._newest[made],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        size = len(self.flow.tags)
        self._names.load(state["names"])
        today = {(output.name, output.settings.expression): number for number, output in enumerate(self._outputs)}
        places = [today.get((name, text), NONE) for name, text in state["outputs"]]
        for slot in map(int, state["tags"]):
            if slot < size and slot in self._names.users and self.applies(slot):
                self._names.meet(slot)
                self._unmet[slot] = False
                self._give_place(slot)
                places.append(int(self._place[slot]))
            else:
                places.append(NONE)
        self._followed.load(state["followed"], np.array(places, dtype=np.int32))
        for slot, newest in zip(np.asarray(state["made"]).tolist(), np.asarray(state["newest"]).tolist(), strict=True):
            if slot < size:
                self._newest[slot] = newest
        self._connect()

    def explain(self, slot: int) -> dict[str, Any]:
        for number, output in enumerate(self._outputs):
            if int(self._slots[number]) == slot:
                inputs = {one if isinstance(one, str) else self._outputs[one].name: one for one in output.inputs}
                return {
                    "applies": True,
                    "output": output.name,
                    "expression": output.settings.expression,
                    "inputs": {name: self._told(one) for name, one in inputs.items()},
                }
        if slot >= len(self._place) or self._place[slot] == NONE:
            return {"applies": False}
        place = int(self._place[slot])
        used_by = [one.name for one in self._outputs if place in map(self._place_of, one.inputs)]
        return {"applies": True, "usedBy": used_by, "passes": self.settings.inputs == "pass"}

    def _told(self, one: str | int) -> dict[str, Any] | None:
        """The newest sample of an input; None: it had none."""
        place = self._place_of(one)
        newest = None if place == NONE else self._followed.newest(place)
        return None if newest is None else dict(zip(("time_ns", "value", "quality"), newest, strict=True))


_TYPES: Final = (ValueType.DOUBLE, ValueType.BOOLEAN, ValueType.STRING)
_TYPE_OF: Final = {BOOLEAN: ValueType.BOOLEAN, TEXT: ValueType.STRING}
"""What a kind of expression gives. What its tags are decides for others: texts, else numbers."""


def _tag_of(name: str, settings: Derived) -> str:
    return settings.tag or name


def _ordered(settings: DeriveSettings) -> list[list[_Output]]:
    """The outputs, compiled, level by level. Raises Refusal."""
    outputs = settings.outputs
    meant: dict[str, str] = {}  # what braces may call an output
    called: dict[tuple[str, str], str] = {}
    for name, one in outputs.items():
        key = (_tag_of(name, one), one.asset)
        if key in called:
            raise Refusal(
                f"outputs.{name}.tag", key[0], f"is the tag of {called[key]} as well", "give each its own tag or asset"
            )
        called[key] = name
        meant.setdefault(name, name)
    for name, one in outputs.items():
        meant[_tag_of(name, one)] = name
        if one.asset:
            meant[f"{one.asset}/{_tag_of(name, one)}"] = name
    found: dict[str, tuple[Expression, list[tuple[str, bool]]]] = {}
    for name, one in outputs.items():
        place = f"outputs.{name}.expression"
        form, references = compile_expression(one.expression, names=outputs, place=place).form()
        if not references:
            raise Refusal(place, one.expression, "names no tag to calculate from", "write tags in braces, such as {A}")
        found[name] = form, [_input(reference, meant) for reference in references]
    needs = {name: [one for one, output in inputs if output] for name, (_, inputs) in found.items()}
    try:
        ordered = levels(needs)
    except CircleError as circle:
        first = circle.path[0]
        raise Refusal(
            f"outputs.{first}.expression",
            outputs[first].expression,
            str(circle),
            "an output cannot be made of itself: give it another name, or break the circle",
        ) from None
    ordered = [sorted(level, key=lambda name: found[name][0].text) for level in ordered]
    numbers = {name: number for number, name in enumerate(name for level in ordered for name in level)}
    return [
        [
            _Output(
                name,
                outputs[name],
                found[name][0],
                tuple(numbers[one] if output else one for one, output in found[name][1]),
            )
            for name in level
        ]
        for level in ordered
    ]


def _input(reference: Reference, meant: Mapping[str, str]) -> tuple[str, bool]:
    """What a reference means: an output, or else a tag."""
    if not reference.braces:
        return reference.name, True
    return (meant[reference.name], True) if reference.name in meant else (reference.name, False)


def _by_type(
    expression: Expression, founds: Sequence[Found], olds: Sequence[Mask]
) -> Iterator[tuple[Mask | None, Column]]:
    """The results of one form, and for which rows. Rows whose inputs are texts, or are not, are evaluated apart."""
    texts = [found.texts for found in founds]
    if not any(one.any() for one in texts):
        yield None, _evaluated(expression, founds, olds, [False] * len(founds))
        return
    patterns, of = np.unique(np.column_stack(texts), axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns.tolist()):
        rows = of.reshape(-1) == number
        some = [found.take(rows) for found in founds]
        yield rows, _evaluated(expression, some, [old[rows] for old in olds], pattern)


def _evaluated(expression: Expression, founds: Sequence[Found], olds: Sequence[Mask], texts: Sequence[bool]) -> Column:
    values: dict[str, Column] = {}
    for number, found in enumerate(founds):
        name = str(number)
        column = found.column(
            text=texts[number],
            looks_back=name in expression.looks_back,
            measures_age=name in expression.measures_age,
        )
        if olds and olds[number].any():
            value = np.where(olds[number], _NO_TEXT if texts[number] else np.nan, column.value)
            column = column.with_(value=value, quality=np.where(olds[number], np.uint8(2), column.quality))
        values[name] = column
    return expression.evaluate(values)


_NO_TEXT: Final = np.full(1, None, dtype=object)
