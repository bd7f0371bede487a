"""Tags take their place in an asset model.

A tag that is a member of an instance gets the member's name, the instance's asset path and the member's unit. A tag
that comes without a unit is taken to be in the member's already. One whose unit cannot become the member's goes out
null, BAD `unit-mismatch`, and the flow has a problem that says so. Texts and booleans have no unit.

Derived tags are calculated for all instances together, in columns: a row for each instance and time at which one of the
members that the tag is made of had a sample, with the values that the other members had last at that time. They begin
when each of these members has been seen once; so what is made of an optional member is left out for instances without
it. A row that is not newer than what the derived tag had before is late, like the sample that brought it.

What an instance lacks for more than 60 s after its first tag (a configured one: after the first samples of the flow) is
a problem that names the nearest tag; it is gone when the tag comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from preprocessor.config import Instance
from preprocessor.engine.block import Block, Mask
from preprocessor.engine.mixing import as_one
from preprocessor.engine.patterns import Pattern, pattern
from preprocessor.engine.refusal import Refusal
from preprocessor.engine.step import GROWTH, MOST_TOLD, SECOND, FlowContext, Step, Turn, grown
from preprocessor.engineering_units import Conversion, UnitError, conversion
from preprocessor.expressions.columns import Column
from preprocessor.expressions.compiling import BOOLEAN, TEXT
from preprocessor.expressions.suggesting import nearest
from preprocessor.models import MOST_INSTANCES, Formula, ResolvedModel, captures, filled, formulas
from preprocessor.step_settings import ModelSettings
from preprocessor.steps.made_tags import Twins
from sluice.columns import NAN, Quality, Series, ValueType

UNIT_MISMATCH: Final = "unit-mismatch"
PATIENCE: Final = 60 * SECOND
_LOOK_EVERY: Final = 5 * SECOND
_MOST_AT_ONCE: Final = 5
"""Problems with a suggestion that one turn looks for."""
_MOST_COMPARED: Final = 5_000
_NEVER: Final = -(2**63)
_NOT_MET: Final = -3
_NOT_SELECTED: Final = -2
_OTHER: Final = -1
_TOO_MANY: Final = "too_many_tags"
_NO_FIT: Final = 1

Times = NDArray[np.int64]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of members in one turn."""

    member: Index
    instance: Index
    t: Times
    number: NDArray[np.float64]
    text: NDArray[Any] | None
    """None: there are none; in a row that is no text: None."""
    quality: NDArray[np.uint8]
    backfill: Mask
    context: NDArray[np.int32]

    def take(self, rows: Mask | Index) -> _Rows:
        """These rows."""
        text = None if self.text is None else self.text[rows]
        return _Rows(
            self.member[rows],
            self.instance[rows],
            self.t[rows],
            self.number[rows],
            text,
            self.quality[rows],
            self.backfill[rows],
            self.context[rows],
        )


@dataclass(frozen=True, slots=True)
class _Values:
    """A member, constant or derived tag at each instance and time; numbers of length 1 are the same everywhere."""

    number: NDArray[np.float64]
    text: NDArray[Any] | None
    quality: NDArray[np.uint8]

    def texts(self) -> Mask | None:
        """In which rows it is a text; None: in none."""
        if self.text is None:
            return None
        return np.fromiter((one is not None for one in self.text.tolist()), np.bool_, len(self.text))

    def column(self, rows: Index | slice, text: bool) -> Column:
        """These rows, all of which are texts, or none."""
        if len(self.number) == 1:
            return Column(self.number, self.quality)
        value = self.text if text else self.number
        assert value is not None
        return Column(value[rows], self.quality[rows])


class ModelStep(Step[ModelSettings]):
    """Makes tags members of instances, and calculates what the model derives from them."""

    rank: ClassVar[int] = 350

    def __init__(self, name: str, settings: ModelSettings, flow: FlowContext, model: ResolvedModel) -> None:
        super().__init__(name, settings, flow)
        self._model = model
        self._members = list(model.settings.members)
        self._formulas = formulas(model.settings, model.name)
        self._check_units()
        self._captures = captures(model.settings)
        self._patterns: list[tuple[int, Pattern]] = [
            (number, pattern(text)) for number, one in enumerate(model.settings.members.values()) for text in one.match
        ]
        self._names: list[str] = []
        self._instances: dict[str, int] = {}
        self._configured: list[Instance | None] = []
        self._captured: list[dict[str, str]] = []
        self._asset: list[str | None] = []
        self._by_asset: dict[str, int] = {}
        self._named: dict[str, tuple[int, int]] = {}
        self._tag_of: dict[tuple[int, int], tuple[str, str]] = {}
        """By member and instance the tag that has the place: asset and name."""
        self._met: dict[int, None] = {}
        """Slots of what comes in, in the order in which they were met."""
        # by slot of what comes in
        self._member: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._out: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._conversion: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._conversions: list[Conversion | None] = [Conversion(), None]  # None: it does not fit
        self._mismatches: dict[int, str] = {}
        # by slot of what goes out
        self._out_member: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._out_instance: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        # by member and instance
        count = len(self._members)
        self._seen: NDArray[np.bool_] = np.zeros((count, 0), dtype=np.bool_)
        self._last_t: Times = np.zeros((count, 0), dtype=np.int64)
        self._last_q: NDArray[np.uint8] = np.zeros((count, 0), dtype=np.uint8)
        self._last: NDArray[np.float64] = np.zeros((count, 0))
        self._texts: dict[int, NDArray[Any]] = {}
        """By member, where one of its instances sends texts: these, None for numbers."""
        # by formula and instance
        self._newest: Times = np.zeros((len(self._formulas), 0), dtype=np.int64)
        self._derived: NDArray[np.int32] = np.zeros((len(self._formulas), 0), dtype=np.int32)
        self._derived_of: dict[int, tuple[int, int]] = {}
        self._since: Times = np.zeros(0, dtype=np.int64)
        """When an instance was first heard of, by the steady clock; below 0: not yet."""
        self._constants: list[NDArray[np.float64]] = [np.zeros(0) for _ in model.settings.values]
        self._told: set[tuple[int, int]] = set()
        self._looked = -_LOOK_EVERY
        self._start: int = -1
        self._twins = Twins(flow, name)
        for one, instance in model.instances.items():
            self._add(one, instance, {})
        self._grow()

    # --- settings ---

    def _check_units(self) -> None:
        for member, one in self._model.settings.members.items():
            if one.unit:
                self._known_unit(f"members.{member}.unit", one.unit)
        for formula in self._formulas:
            if formula.settings.unit:
                self._known_unit(f"derived.{formula.name}.unit", formula.settings.unit)

    def _known_unit(self, place: str, unit: str) -> None:
        try:
            conversion(unit, unit)
        except UnitError as error:
            raise Refusal(f"models.{self._model.name}.{place}", unit, str(error), error.remedy) from None

    # --- instances ---

    def _add(self, name: str, configured: Instance | None, captured: Mapping[str, str]) -> int:
        """Another instance; -1 when there is no place for it."""
        if len(self._names) >= MOST_INSTANCES:
            self.flow.problem(
                f"steps.{self.name}.model", f"has more than {MOST_INSTANCES} instances", "make the patterns narrower"
            )
            return _OTHER
        number = self._instances[name] = len(self._names)
        self._names.append(name)
        self._configured.append(configured)
        self._captured.append(dict(captured))
        self._asset.append(None)
        if configured is not None:
            for member, tag in configured.tags.items():
                if member in self._model.settings.members:
                    self._named[tag] = self._members.index(member), number
        return number

    def _grow(self) -> None:
        """Room in all arrays for the instances that there are."""
        size, known = len(self._names), self._seen.shape[1]
        if size > known:
            self._seen = _wider(self._seen, size)
            self._last_t = _wider(self._last_t, size, _NEVER)
            self._last_q = _wider(self._last_q, size, Quality.BAD)
            self._last = _wider(self._last, size, np.nan)
            for member, texts in self._texts.items():
                self._texts[member] = np.concatenate((texts, np.full(self._seen.shape[1] - len(texts), None)))
            self._newest = _wider(self._newest, size, _NEVER)
            self._derived = _wider(self._derived, size, _NOT_MET)
            self._since = grown(self._since, self._seen.shape[1], -1)
        for place, (value, common) in enumerate(self._model.settings.values.items()):
            if len(self._constants[place]) < size:
                more = [
                    common if one is None else one.values.get(value, common)
                    for one in self._configured[len(self._constants[place]) :]
                ]
                self._constants[place] = np.concatenate((self._constants[place], np.array(more, dtype=np.float64)))

    # --- tags ---

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        size = len(self.flow.tags)
        self._member = grown(self._member, size, _NOT_MET)
        self._out = grown(self._out, size, _OTHER)
        self._conversion = grown(self._conversion, size)
        self._out_member = grown(self._out_member, size, _OTHER)
        self._out_instance = grown(self._out_instance, size, _OTHER)
        self._twins.prepare(slots)
        for slot in slots:
            if self._member[slot] >= 0 or slot in self._mismatches:  # its unit is another one now
                self._member[slot] = _NOT_MET

    def _meet(self, block: Block, turn: Turn) -> None:
        """Find the place of tags that come for the first time."""
        unknown = self._member[block.slot] == _NOT_MET
        if not unknown.any():
            return
        for slot in np.unique(block.slot[unknown]).tolist():
            self._settle(slot)
        self._grow()
        new = self._out[block.slot[unknown]]
        here = np.unique(self._out_instance[new[new >= 0]])
        here = here[self._since[here] < 0]
        self._since[here] = turn.steady

    def _settle(self, slot: int) -> None:
        series = self.flow.tags.series[slot]
        self._met.setdefault(slot)
        self._member[slot] = _OTHER if self.applies(slot) else _NOT_SELECTED
        if self._member[slot] == _NOT_SELECTED:
            return
        found = self._place_of(series)
        if found is None:
            return
        member, instance = found
        if not self._asset_settled(instance, series):
            return
        own = self._model.settings.members[self._members[member]].unit
        target = self._slot_of(member, instance, series, own or series.unit)
        if target < 0:
            self.count(_TOO_MANY)
            return
        self._tag_of[member, instance] = series.asset, series.tag
        self._member[slot], self._out[slot] = member, target
        self._out_member[target], self._out_instance[target] = member, instance
        self._conversion[slot] = self._fitting(slot, series, own, instance, member)

    def _place_of(self, series: Series) -> tuple[int, int] | None:
        """Member and instance of a tag that is met; None when it is none's, or another tag has the place."""
        full = f"{series.asset}/{series.tag}" if series.asset else series.tag
        for name in (series.tag, full):
            if (named := self._named.get(name)) is not None:
                return named if self._is_free(named, series) else None
        for member, one in self._patterns:
            found = one.captures(series.tag)
            if found is None and series.asset:
                found = one.captures(full)
            if found is None:
                continue
            name = found.pop("instance", "")
            captured = {key: found[key] for key in self._captures}
            if name in self._model.left_out:
                return None
            instance = self._instances.get(name, _OTHER)
            if instance == _OTHER:
                instance = self._add(name, None, captured)
                if instance == _OTHER:
                    return None
            configured = self._configured[instance]
            if configured is not None and self._members[member] in configured.tags:
                continue  # it names another tag as this member
            known = self._captured[instance]
            if not known:
                self._captured[instance] = captured
            elif known != captured:
                told = ", ".join(f"{key} {captured[key]}" for key in captured if captured[key] != known[key])
                here = ", ".join(known[key] for key in captured if captured[key] != known[key])
                self._problem(name, member, f"is not {full}: it says {told}, other tags of {name} say {here}")
                return None
            return (member, instance) if self._is_free((member, instance), series) else None
        return None

    def _is_free(self, place: tuple[int, int], series: Series) -> bool:
        """Whether no other tag has this place."""
        taken = self._tag_of.get(place)
        if taken is None or taken == (series.asset, series.tag):
            return True
        member, instance = place
        other = "/".join(filter(None, taken))
        mine = "/".join(filter(None, (series.asset, series.tag)))
        self._problem(self._names[instance], member, f"is {other} already, and {mine} as well")
        return False

    def _problem(self, instance: str, member: int, problem: str) -> None:
        self.flow.problem(
            f"steps.{self.name}.{instance}.{self._members[member]}",
            problem,
            "write a pattern that tells them apart, or name the tags of this instance",
        )

    def _asset_settled(self, instance: int, series: Series) -> bool:
        """Whether the instance has an asset path of its own, which its first tag may have to tell."""
        if self._asset[instance] is not None:
            return True
        name, configured = self._names[instance], self._configured[instance]
        asset = configured.asset if configured is not None else ""
        if not asset:
            template = self._model.settings.asset or "{asset}"
            values = {**self._captured[instance], "instance": name, "asset": series.asset}
            asset = filled(template, values)
        other = self._by_asset.setdefault(asset, instance)
        if other != instance:
            self.flow.problem(
                f"steps.{self.name}.{name}",
                f"has the asset path {asset or '(none)'}, which {self._names[other]} has already",
                "put {instance} into the model's asset, such as {asset}/{instance}",
            )
            return False
        self._asset[instance] = asset
        return True

    def _slot_of(self, member: int, instance: int, series: Series, unit: str) -> int:
        made = Series(self._members[member], self._asset[instance] or "", unit, extra=series.extra)
        slot = self.flow.tags.slot(made, stage=self.name)
        if slot >= 0:
            size = len(self.flow.tags)
            self._out_member = grown(self._out_member, size, _OTHER)
            self._out_instance = grown(self._out_instance, size, _OTHER)
        self._twins.made(slot, f"steps.{self.name}.{self._names[instance]}.{self._members[member]}")
        return slot

    def _fitting(self, slot: int, series: Series, own: str, instance: int, member: int) -> int:
        """The number of the conversion of a tag."""
        place = f"steps.{self.name}.{self._names[instance]}.{self._members[member]}"
        if slot in self._mismatches:
            del self._mismatches[slot]
            self.flow.mended(place)
        if not own or not series.unit:
            return 0
        try:
            one = conversion(series.unit, own)
        except UnitError as error:
            self._mismatches[slot] = series.unit
            self.flow.problem(place, f"is {series.tag}, which comes in {series.unit}: {error}", error.remedy)
            return _NO_FIT
        if one not in self._conversions:
            self._conversions.append(one)
        return self._conversions.index(one)

    # --- a turn ---

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        if blocks and self._start < 0:
            self._start = turn.steady
        parts: list[Block] = []
        members: list[Block] = []
        for block in blocks:
            self._meet(block, turn)
            of = self._member[block.slot]
            mine = of >= 0
            if self.settings.others == "drop":
                others = of == _OTHER
                if others.any():
                    block, of, mine = self.drop(block, others, "other"), of[~others], mine[~others]
            if not mine.any():
                parts.append(block)
                continue
            if not mine.all():
                parts.append(block.take(~mine))
                block = block.take(mine)
            members += self._converted(block)
        members = as_one(members, self.flow.mixed) if len(members) > 1 else members
        members = [block.with_(slot=self._out[block.slot]).sorted() for block in members]
        made = self._calculated(members) if self._formulas and members else []
        self._look(turn)
        self._twins.look(parts)
        return (
            as_one([*parts, *members, *made], {}) if len(parts) + len(members) + len(made) > 1 else [*parts, *members]
        )

    def _converted(self, block: Block) -> list[Block]:
        """Rows of members in their own units."""
        if block.type not in (ValueType.DOUBLE, ValueType.INTEGER):
            return [block]
        of = self._conversion[block.slot]
        if not of.any():
            return [block]
        wrong = of == _NO_FIT
        if wrong.any():
            block = self.mark(block, wrong, Quality.BAD, UNIT_MISMATCH).emptied(wrong)
        changes = (of != 0) & ~wrong
        if block.type is ValueType.DOUBLE:
            return [self._in_units(block, of, changes)] if changes.any() else [block]
        if not changes.any():
            return [block]
        numbers = block.take(changes)
        numbers = numbers.with_(type=ValueType.DOUBLE, value=numbers.numbers(), null=None)
        converted = self._in_units(numbers, of[changes], np.ones(len(numbers), dtype=np.bool_))
        return [converted, block.take(~changes)] if not changes.all() else [converted]

    def _in_units(self, block: Block, of: NDArray[np.int32], rows: Mask) -> Block:
        value = np.array(block.value, dtype=np.float64)
        for number in np.unique(of[rows]).tolist():
            one = self._conversions[number]
            if one is not None:
                these = of == number
                value[these] = one(value[these])
        lost = np.isinf(value) & rows
        block = block.with_(value=value)
        return self.mark(block, lost, Quality.BAD, NAN).emptied(lost) if lost.any() else block

    # --- derived tags ---

    def _calculated(self, blocks: Sequence[Block]) -> list[Block]:
        """What the derived tags are at each instance and time at which one of their members came."""
        rows = _rows(blocks, self._out_member, self._out_instance)
        used = np.zeros(len(self._members), dtype=np.bool_)
        for formula in self._formulas:
            used[[self._members.index(member) for member in formula.members]] = True
        if not used.all():
            rows = rows.take(used[rows.member])
        if not len(rows.t):
            return []
        times, rank = np.unique(rows.t, return_inverse=True)
        key = rows.instance.astype(np.int64) * len(times) + rank
        keys, first = np.unique(key, return_index=True)
        instance, t = keys // len(times), times[keys % len(times)]
        found: dict[str, _Values] = {}
        drives: dict[str, Mask] = {}
        known: dict[str, Mask] = {}
        for number, member in enumerate(self._members):
            if used[number]:
                found[member], drives[member], known[member] = self._aligned(number, rows, key, keys, instance, t)
        for name, constants in zip(self._model.settings.values, self._constants, strict=True):
            same = len(constants) == 0 or bool((constants == constants[0]).all())
            value = constants[:1] if same else constants[instance]
            found[name] = _Values(value, None, np.zeros(len(value), dtype=np.uint8))
        backfill = np.ones(len(keys), dtype=np.bool_)
        np.logical_and.at(backfill, np.searchsorted(keys, key), rows.backfill)
        made: list[Block] = []
        for number, formula in enumerate(self._formulas):
            found[formula.name] = result = _evaluated(formula, found, len(keys))
            goes = np.zeros(len(keys), dtype=np.bool_)
            for member in formula.members:
                goes |= drives[member]
            for member in formula.members:
                goes &= known[member]
            if goes.any():
                shared = backfill[goes], rows.context[first][goes]
                made += self._outgoing(number, result, np.flatnonzero(goes), instance[goes], t[goes], *shared)
        self._remember(rows)
        return made

    def _aligned(
        self, member: int, rows: _Rows, key: Times, keys: Times, instance: Index, t: Times
    ) -> tuple[_Values, Mask, Mask]:
        """A member at each instance and time: its value, whether a row of it brought it, whether it is known at all."""
        mine = np.flatnonzero(rows.member == member)
        seen = self._seen[member][instance]
        before = self._last[member][instance], self._last_q[member][instance]
        texts = self._texts[member][instance] if member in self._texts else None
        if not len(mine):
            return _Values(before[0], texts, before[1]), np.zeros(len(keys), dtype=np.bool_), seen
        # of two rows at one time the one that came later counts: a stable sort, and the last of its like
        mine = mine[np.argsort(key[mine], kind="stable")]
        place = np.searchsorted(key[mine], keys, side="right") - 1
        row = mine[np.maximum(place, 0)]
        here = (place >= 0) & (rows.instance[row] == instance)
        # what was known before is nearer in time than a row that comes late
        last_t = self._last_t[member][instance]
        newer = here & ~(seen & (last_t > rows.t[row]) & (last_t <= t))
        if rows.text is not None or texts is not None:
            nothing = np.full(len(keys), None)
            texts = np.where(
                newer, nothing if rows.text is None else rows.text[row], nothing if texts is None else texts
            )
        values = _Values(
            np.where(newer, rows.number[row], before[0]), texts, np.where(newer, rows.quality[row], before[1])
        )
        return values, here & (rows.t[row] == t), seen | here

    def _outgoing(
        self,
        number: int,
        result: _Values,
        rows: Index,
        instance: Index,
        t: Times,
        backfill: Mask,
        context: NDArray[np.int32],
    ) -> list[Block]:
        """Blocks of one derived tag of all instances: these rows of the result."""
        slots = self._derived[number][instance]
        if (slots == _NOT_MET).any():
            for one in np.unique(instance[slots == _NOT_MET]).tolist():
                self._derived[number, one] = self._derived_slot(number, one)
            slots = self._derived[number][instance]
        late = t <= self._newest[number][instance]
        np.maximum.at(self._newest[number], instance, t)
        self.made(len(slots), "derived")
        lost = slots < 0
        if lost.any():
            self.gone(int(np.count_nonzero(lost)), _TOO_MANY)
        kind = self._formulas[number].expression.kind
        texts = result.texts()
        text = np.full(len(rows), kind == TEXT) if texts is None else texts[rows] | (kind == TEXT)
        blocks = []
        for behind in (False, True):
            for of_text in (False, True):
                part = np.flatnonzero((backfill == behind) & (text == of_text) & ~lost)
                if not len(part):
                    continue
                null = None
                if of_text:
                    of = ValueType.STRING
                    value: NDArray[Any] = np.full(len(part), None) if result.text is None else result.text[rows[part]]
                else:
                    of, value = ValueType.DOUBLE, result.number[rows[part]]
                    if kind == BOOLEAN:
                        of, null = ValueType.BOOLEAN, np.isnan(value)
                        value = np.nan_to_num(value) != 0
                block = Block(
                    of,
                    slots[part],
                    t[part],
                    value,
                    result.quality[rows[part]],
                    np.zeros(len(part), dtype=np.int64),
                    null if null is not None and null.any() else None,
                    late[part] if late[part].any() else None,
                    context[part] if context[part].any() else None,
                    behind,
                )
                blocks.append(block.sorted())
        return blocks

    def _derived_slot(self, number: int, instance: int) -> int:
        formula = self._formulas[number]
        settings = formula.settings
        own = self._asset[instance] or ""
        values = {**self._captured[instance], "instance": self._names[instance], "asset": own}
        asset = filled(settings.asset, values) if settings.asset else own
        tag = filled(settings.tag, values) if settings.tag else formula.name
        slot = self.flow.tags.slot(Series(tag, asset, settings.unit), stage=self.name)
        if slot >= 0 and self._derived_of.setdefault(slot, (number, instance)) != (number, instance):
            self.flow.problem(
                f"steps.{self.name}.{self._names[instance]}.{formula.name}",
                f"would be {asset}/{tag}, which is another derived tag already",
                "put {instance} into its tag or its asset",
            )
            return _OTHER
        self._twins.made(slot, f"steps.{self.name}.{self._names[instance]}.{formula.name}")
        return slot

    def _remember(self, rows: _Rows) -> None:
        """Keep the newest row of each member and instance."""
        for member in np.unique(rows.member).tolist():
            mine = np.flatnonzero(rows.member == member)
            mine = mine[np.lexsort((rows.t[mine], rows.instance[mine]))]
            instances = rows.instance[mine]
            ends = np.concatenate((instances[1:] != instances[:-1], [True]))
            mine, instances = mine[ends], instances[ends]
            newer = rows.t[mine] >= self._last_t[member][instances]
            mine, instances = mine[newer], instances[newer]
            self._last[member][instances] = rows.number[mine]
            if rows.text is not None and member not in self._texts and any(rows.text[mine] != None):  # noqa: E711
                self._texts[member] = np.full(self._seen.shape[1], None)
            if member in self._texts:
                self._texts[member][instances] = None if rows.text is None else rows.text[mine]
            self._last_t[member][instances] = rows.t[mine]
            self._last_q[member][instances] = rows.quality[mine]
            self._seen[member][instances] = True

    # --- what is missing ---

    def _look(self, turn: Turn) -> None:
        """Tell of members that did not come, and of those that came after all."""
        if self._start < 0 or turn.steady - self._looked < _LOOK_EVERY:
            return
        self._looked = turn.steady
        for member, instance in [place for place in self._told if place in self._tag_of]:
            self._told.discard((member, instance))
            self.flow.mended(f"steps.{self.name}.{self._names[instance]}.{self._members[member]}")
        required = [number for number, one in enumerate(self._model.settings.members.values()) if not one.optional]
        size = len(self._names)
        since = np.where(self._since[:size] < 0, self._start, self._since[:size])
        late = np.flatnonzero(turn.steady - since >= PATIENCE)
        left = _MOST_AT_ONCE
        for member in required:
            for instance in late[~self._seen[member][late]].tolist():
                place = member, instance
                if place in self._tag_of or place in self._told:
                    continue
                if not left or len(self._told) >= MOST_TOLD:
                    return
                left -= 1
                self._told.add(place)
                self._tell_missing(member, instance)

    def _tell_missing(self, member: int, instance: int) -> None:
        name, wanted = self._names[instance], self._members[member]
        configured = self._configured[instance]
        tag = configured.tags.get(wanted, "") if configured is not None else ""
        patterns = self._model.settings.members[wanted].match
        expected = tag or " or ".join(text.replace("{instance}", name) for text in patterns)
        free = [
            series.tag
            for slot, series in enumerate(self.flow.tags.series[:_MOST_COMPARED])
            if not self.flow.tags.stages[slot] and self._member[slot] < 0
        ]
        near = nearest(expected, dict.fromkeys(free))
        self.flow.problem(
            f"steps.{self.name}.{name}.{wanted}",
            f"has not come: instance {name} of model {self._model.name} expects {expected or 'a tag'}",
            f"did you mean {near}?" if near else "correct the name, or make the member optional: true",
        )

    # --- state ---

    def save(self) -> Mapping[str, Any]:
        size = len(self._names)
        return {
            "met": list(self._met),
            "instances": list(self._names),
            "members": list(self._members),
            "formulas": [one.name for one in self._formulas],
            "start": self._start,
            "looked": self._looked,
            "since": self._since[:size],
            "seen": self._seen[:, :size],
            "last_t": self._last_t[:, :size],
            "last_q": self._last_q[:, :size],
            "last": self._last[:, :size],
            "texts": [[self._members[member], texts[:size].tolist()] for member, texts in sorted(self._texts.items())],
            "newest": self._newest[:, :size],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        for slot in state["met"]:  # in the order of then, so that the same tags find the same places
            if slot < len(self.flow.tags):
                self._settle(int(slot))
        self._grow()
        known = {name: number for number, name in enumerate(state["instances"])}
        pairs = [(known[name], number) for name, number in self._instances.items() if name in known]
        old = np.array([one for one, _ in pairs], dtype=np.intp)
        new = np.array([one for _, one in pairs], dtype=np.intp)
        self._start, self._looked = int(state["start"]), int(state["looked"])
        self._since[: len(self._names)] = self._looked  # instances that are new have their time as well
        self._since[new] = np.asarray(state["since"])[old]
        texts = dict(state["texts"])
        for number, member in enumerate(self._members):
            if member not in state["members"]:
                continue
            before = state["members"].index(member)
            for name in ("seen", "last_t", "last_q", "last"):
                getattr(self, f"_{name}")[number, new] = np.asarray(state[name])[before][old]
            if member in texts:
                kept = self._texts[number] = np.full(self._seen.shape[1], None)
                kept[new] = np.array([*texts[member], None], dtype=object)[:-1][old]
        for number, formula in enumerate(self._formulas):
            if formula.name in state["formulas"]:
                before = state["formulas"].index(formula.name)
                self._newest[number, new] = np.asarray(state["newest"])[before][old]

    def explain(self, slot: int) -> dict[str, Any]:
        told: dict[str, Any] = {"applies": self.applies(slot)}
        if slot < len(self._member) and self._member[slot] >= 0:
            target = int(self._out[slot])
            instance, unit = int(self._out_instance[target]), self.flow.tags.series[slot].unit
            told["model"] = self._model.name
            told["instance"] = self._names[instance]
            told["member"] = self._members[int(self._member[slot])]
            told["asset"] = self._asset[instance]
            told["unit"] = {"from": unit, "to": self.flow.tags.series[target].unit}
        return told


def _evaluated(formula: Formula, found: Mapping[str, _Values], size: int) -> _Values:
    """A derived tag at each instance and time. Rows in which other inputs are texts are calculated by themselves."""
    inputs = {name: found[name] for name in formula.inputs}
    texts = {name: mask for name, one in inputs.items() if (mask := one.texts()) is not None and mask.any()}
    code = np.zeros(size, dtype=np.int64)
    for place, mask in enumerate(texts.values()):
        code |= mask.astype(np.int64) << min(place, 62)
    number, quality = np.full(size, np.nan), np.full(size, Quality.BAD, dtype=np.uint8)
    text: NDArray[Any] | None = None
    for one in np.unique(code).tolist() if texts else [0]:
        rows: Index | slice = np.flatnonzero(code == one) if texts else slice(None)
        of_text = {name: bool(one >> min(place, 62) & 1) for place, name in enumerate(texts)}
        result = formula.expression.evaluate(
            {name: values.column(rows, of_text.get(name, False)) for name, values in inputs.items()}
        )
        quality[rows] = result.quality
        if result.text:
            text = np.full(size, None) if text is None else text
            text[rows] = result.value
        else:
            number[rows] = result.value
    return _Values(number, text, quality)


def _rows(blocks: Sequence[Block], members: NDArray[np.int32], instances: NDArray[np.int32]) -> _Rows:
    """The rows of all blocks, in columns."""
    slots = np.concatenate([block.slot for block in blocks])
    texts = None
    if any(block.type is ValueType.STRING for block in blocks):
        texts = np.concatenate(
            [block.value if block.type is ValueType.STRING else np.full(len(block), None) for block in blocks]
        )
    return _Rows(
        members[slots].astype(np.intp),
        instances[slots].astype(np.intp),
        np.concatenate([block.t for block in blocks]),
        np.concatenate([block.numbers() for block in blocks]),
        texts,
        np.concatenate([block.quality for block in blocks]),
        np.concatenate([np.full(len(block), block.backfill) for block in blocks]),
        np.concatenate(
            [np.zeros(len(block), dtype=np.int32) if block.context is None else block.context for block in blocks]
        ),
    )


A = TypeVar("A", bound=np.generic)


def _wider(array: NDArray[A], size: int, fill: Any = 0) -> NDArray[A]:
    """Columns for at least so many instances; new ones hold `fill`. Grows in large pieces."""
    more = max(size, array.shape[1] + array.shape[1] // 2 + GROWTH) - array.shape[1]
    return np.concatenate((array, np.full((array.shape[0], more), fill, dtype=array.dtype)), axis=1)
