"""Another scale, unit, range, precision or type.

In this order, each on what the ones before left:

    texts       with `valueType` double or integer, texts and booleans become numbers first
    scaling     raw and scaled, or gain and offset
    unit        from the unit that the value has by now (`unit` or `sourceUnit`, else the tag's own) to the one that
                `units` gives for it, else to `to`
    clamp, digits
    type        what does not fit it exactly becomes null, BAD `not-convertible`: 2.5 is no integer (digits: 0 rounds)

Scaling and units are for numbers alone: texts and booleans pass them. They make doubles of integers; clamping and
rounding leave integers what they are, unless the limits are no integers. A tag whose unit cannot become the one it
should goes out null, BAD `unit-mismatch`, and the flow has a problem that says what to do.

A tag in another unit is another slot of the same name. What a tag needs is settled when its first row comes; from then
on a block costs a few passes of numpy, however many tags are in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.engine.block import Block, Mask, empty_values
from preprocessor.engine.mixing import as_one
from preprocessor.engine.refusal import Refusal
from preprocessor.engine.step import FlowContext, Step, Turn, grown
from preprocessor.engineering_units import Conversion, Unit, UnitError, between, conversion, find, unit
from preprocessor.numbers import number, whole
from preprocessor.step_settings import ConvertSettings
from sluice.columns import NAN, Quality, Series, ValueType

UNIT_MISMATCH: Final = "unit-mismatch"
NOT_CONVERTIBLE: Final = "not-convertible"
CLAMPED: Final = "clamped"
NO_PLACE: Final = "too_many_tags"
_NUMBERS: Final = (ValueType.DOUBLE, ValueType.INTEGER)
_EXACT: Final = 2.0**53
_INT64: Final = 2.0**63
_TRUTHS: Final = {
    "true": True,
    "1": True,
    "on": True,
    "yes": True,
    "false": False,
    "0": False,
    "off": False,
    "no": False,
}

_UNSETTLED: Final = -3
_MISMATCH: Final = -2
_LEFT_ALONE: Final = -1  # nothing is done with the tag; 0 and above: a conversion by its number, 0 being none


class Convert(Step[ConvertSettings]):
    """Scales, converts units, clamps, rounds, changes the type."""

    rank: ClassVar[int] = 200

    def __init__(self, name: str, settings: ConvertSettings, flow: FlowContext) -> None:
        super().__init__(name, settings, flow)
        self._scale = _scale(settings)
        self._target = _unit("to", settings.to) if settings.to else None
        self._known_from = self._source()
        self._by_unit = self._units()
        self._limits = self._whole_limits()
        self._type = ValueType(settings.value_type) if settings.value_type else None
        self._changes_all = (
            not self._scale.identity
            or settings.clamp is not None
            or settings.digits is not None
            or self._type is not None
        )
        self._conversions: list[Conversion] = [Conversion()]
        self._numbers: dict[Conversion, int] = {Conversion(): 0}
        self._table: NDArray[np.float64] = _table(self._conversions)
        self._of: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._slots: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._moved = False  # whether any tag is another slot behind this step
        self._mismatches: dict[int, str] = {}  # the unit that a tag has, which cannot be converted
        self._settled_with: dict[int, str] = {}

    # --- settings ---

    def _source(self) -> str:
        """The unit that values have before units are converted, where the settings say it; empty: the tag's own."""
        settings = self.settings
        text = settings.unit or settings.source_unit
        if text and self._target is not None:
            source = _unit("unit" if settings.unit else "sourceUnit", text)
            _checked("to", settings.to, source, self._target, settings.delta)
        return text

    def _units(self) -> dict[str, tuple[Unit, str]]:
        """By the name of the unit that a tag has, the one that it becomes and how that is to be written."""
        found: dict[str, tuple[Unit, str]] = {}
        for source, target in self.settings.units.items():
            place = f"units.{source}"
            one, other = _unit(place, source), _unit(place, target)
            _checked(place, target, one, other, self.settings.delta)
            if one.name in found:
                raise Refusal(place, target, "is a unit that stands there already, written in another way", "keep one")
            found[one.name] = other, target
        known = self._known_from
        if known and found and not self.settings.to:
            place = "unit" if self.settings.unit else "sourceUnit"
            if _unit(place, known).name not in found:
                raise Refusal(place, known, "is none of those that `units` converts", f"add {known}: <unit> to units")
        return found

    def _whole_limits(self) -> tuple[int, int] | None:
        """The limits of `clamp` for integers; None when they are no integers themselves."""
        limits = self.settings.clamp
        if limits is None or not all(limit.is_integer() and abs(limit) < _INT64 for limit in limits):
            return None
        return int(limits[0]), int(limits[1])

    # --- tags ---

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        size = len(self.flow.tags)
        known = len(self._slots)
        self._of = grown(self._of, size, _UNSETTLED)
        self._slots = grown(self._slots, size)
        self._slots[known:] = np.arange(known, len(self._slots))
        for slot in slots:
            if self._settled_with.get(slot) != self.flow.tags.series[slot].unit:
                self._of[slot] = _UNSETTLED
                self._slots[slot] = slot

    def _settle(self, block: Block) -> None:
        """Find out what is done with tags that come for the first time, or with another unit."""
        slots = np.unique(block.slot[self._of[block.slot] == _UNSETTLED]).tolist()
        known = len(self._mismatches)
        mended = 0
        for slot in slots:
            mended += self._mismatches.pop(slot, None) is not None
            self._settled_with[slot] = self.flow.tags.series[slot].unit
            self._of[slot] = self._settled(slot) if self.applies(slot) else _LEFT_ALONE
            self._moved = self._moved or int(self._slots[slot]) != slot
        if mended or len(self._mismatches) != known:
            self._tell()

    def _settled(self, slot: int) -> int:
        """What is done with one tag."""
        series = self.flow.tags.series[slot]
        settings = self.settings
        own = self._known_from or series.unit
        target, written = self._target, settings.to
        one = Conversion()
        if self._by_unit or target is not None:
            source = find(own)
            if source is not None and source.name in self._by_unit:
                target, written = self._by_unit[source.name]
            if target is not None:
                fitting = None if source is None else _fitting(source, target, settings.delta)
                if fitting is None:
                    self._mismatches[slot] = own
                    return _MISMATCH
                one = fitting
        new = written if target is not None else own
        if new != series.unit:
            self._slots[slot] = self.flow.tags.slot(replace(series, unit=new), stage=self.name)
        if one.identity and not self._changes_all and self._slots[slot] == slot:
            return _LEFT_ALONE
        return self._number(one)

    def _number(self, conversion: Conversion) -> int:
        if conversion not in self._numbers:
            self._numbers[conversion] = len(self._conversions)
            self._conversions.append(conversion)
            self._table = _table(self._conversions)
        return self._numbers[conversion]

    def _tell(self) -> None:
        """The problem of tags whose unit cannot be converted, or that there is none any more."""
        place = f"steps.{self.name}.to"
        if not self._mismatches:
            self.flow.mended(place)
            return
        slot, own = next(iter(self._mismatches.items()))
        error = self._mismatch(own)
        more = len(self._mismatches) - 1
        others = f", and so do {more} more tags" if more else ""
        self.flow.problem(
            place, f"does not fit tag {self._full(self.flow.tags.series[slot])}: {error}{others}", _remedy(error)
        )

    def _mismatch(self, own: str) -> UnitError:
        """Why values in this unit cannot become what they should."""
        if not own:
            return UnitError("it comes without a unit", "say in which unit it comes with sourceUnit")
        try:
            conversion(own, self.settings.to, self.settings.delta)
        except UnitError as error:
            return error
        raise AssertionError(f"{own} can become {self.settings.to}")

    @staticmethod
    def _full(series: Series) -> str:
        return f"{series.asset}/{series.tag}" if series.asset else series.tag

    def explain(self, slot: int) -> dict[str, Any]:
        of = int(self._of[slot]) if slot < len(self._of) else _UNSETTLED
        told: dict[str, Any] = {"applies": self.applies(slot)}
        if of == _UNSETTLED:
            return told
        if of == _MISMATCH:
            return {**told, "problem": str(self._mismatch(self._mismatches[slot]))}
        target = int(self._slots[slot])
        known = self.flow.tags.series
        told["unit"] = {"from": self._known_from or known[slot].unit, "to": known[target].unit if target >= 0 else ""}
        if of > 0:
            one = self._conversions[of]
            told["conversion"] = {"before": one.before, "times": one.times, "over": one.over, "after": one.after}
        return told

    # --- samples ---

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        parts: list[Block] = []
        for block in blocks:
            of = self._of[block.slot]
            lowest = int(of.min())
            if lowest == _UNSETTLED:
                self._settle(block)
                of = self._of[block.slot]
                lowest = int(of.min())
            if lowest > _LEFT_ALONE:
                parts += self._converted(block, of)
                continue
            mine = of > _LEFT_ALONE
            wrong = of == _MISMATCH
            if wrong.any():
                if block.type in _NUMBERS or self._type in _NUMBERS:
                    parts.append(self._mismatched(block.take(wrong)))
                else:
                    parts.append(block.take(wrong))
            if mine.any():
                parts += self._converted(block.take(mine), of[mine])
                parts.append(block.take(of == _LEFT_ALONE))
            else:
                parts.append(block.take(~wrong) if wrong.any() else block)
        if len(parts) > 1:
            parts = as_one(parts, self.flow.mixed)
        return [self._placed(part) for part in parts]

    def _mismatched(self, block: Block) -> Block:
        every: Mask = np.ones(len(block), dtype=np.bool_)
        return self.mark(block, every, Quality.BAD, UNIT_MISMATCH).emptied(every)

    def _converted(self, block: Block, of: NDArray[np.int32]) -> list[Block]:
        if block.type in _NUMBERS:
            return self._computed(block, of)
        if self._type not in _NUMBERS:
            return [block if self._type is None else self._cast(block, self._type)]
        exact = (of == 0) & (self._type is ValueType.INTEGER and self._scale.identity)
        return [
            part
            for rows, target in ((exact, ValueType.INTEGER), (~exact, ValueType.DOUBLE))
            if rows.any()
            for part in self._computed(self._cast(block.take(rows), target), of[rows])
        ]

    def _computed(self, block: Block, of: NDArray[np.int32]) -> list[Block]:
        if block.type is ValueType.DOUBLE:
            return [self._finished(self._calculated(block, of))]
        reals = of > 0
        if not self._scale.identity or (self.settings.clamp is not None and self._limits is None):
            reals = np.ones(len(block), dtype=np.bool_)
        if reals.all():
            return [self._finished(self._calculated(_as_doubles(block), of))]
        if not reals.any():
            return [self._finished(block)]
        return [
            self._finished(self._calculated(_as_doubles(block.take(reals)), of[reals])),
            self._finished(block.take(~reals)),
        ]

    def _calculated(self, block: Block, of: NDArray[np.int32]) -> Block:
        """Scaled and in another unit."""
        values = self._scale(block.value)
        first = int(of[0])
        if (of == first).all():
            values = self._conversions[first](values)
        elif of.any():
            rows = np.flatnonzero(of)
            before, times, over, after = self._table[:, of[rows]]
            values = np.array(values, dtype=np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                values[rows] = (values[rows] + before) * times / over + after
        if values is block.value:
            return block
        block = block.with_(value=values)
        finite = np.isfinite(values)
        if finite.all():
            return block
        lost = np.isinf(values) | (~finite & (block.quality == Quality.GOOD))
        return self.mark(block, lost, Quality.BAD, NAN).emptied(lost)

    def _finished(self, block: Block) -> Block:
        block = self._clamped(block)
        digits = self.settings.digits
        if digits is not None and block.type is ValueType.DOUBLE:
            block = block.with_(value=rounded(block.value, digits))
        return block if self._type is None else self._cast(block, self._type)

    def _clamped(self, block: Block) -> Block:
        limits: Sequence[float | int] | None = self.settings.clamp
        if limits is None:
            return block
        if block.type is ValueType.INTEGER and self._limits is not None:
            limits = self._limits
        low, high = limits
        beyond = (block.value < low) | (block.value > high)
        if block.null is not None:
            beyond &= ~block.null
        if not beyond.any():
            return block
        block = self.mark(block, beyond, Quality.UNCERTAIN, CLAMPED)
        value = block.value.copy()
        value[beyond] = np.clip(value[beyond], low, high)
        return block.with_(value=value)

    def _cast(self, block: Block, target: ValueType) -> Block:
        """The block in another type; what does not fit is BAD."""
        if block.type is target:
            return block
        null = block.nulls()
        value, fits = _cast(block, target)
        wrong = ~fits & ~null
        if wrong.any():
            block = self.mark(block, wrong, Quality.BAD, NOT_CONVERTIBLE)
            null = null | wrong
        beside = target in (ValueType.INTEGER, ValueType.BOOLEAN) and bool(null.any())
        if null.any():
            value[null] = empty_values(target, 1)[0]
        return block.with_(type=target, value=value, null=null if beside else None)

    def _placed(self, block: Block) -> Block:
        """The block with its tags as they are behind this step."""
        if not self._moved:
            return block
        slots = self._slots[block.slot]
        lost = slots < 0
        if lost.any():
            block, slots = self.drop(block, lost, NO_PLACE), slots[~lost]
        return block.with_(slot=slots).sorted()


def rounded(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Values with so many digits behind the point, halves to the even digit. Those that have no more are left alone."""
    power = 10.0**digits
    with np.errstate(over="ignore", invalid="ignore"):
        large = values * power
        result: NDArray[np.float64] = np.rint(large)
        result /= power
    coarse = ~(np.abs(large) < _EXACT)
    if coarse.any():
        result[coarse] = values[coarse]
    return result


def _scale(settings: ConvertSettings) -> Conversion:
    if settings.raw is not None and settings.scaled is not None:
        (low, high), (start, end) = settings.raw, settings.scaled
        return Conversion(-low, end - start, high - low, start)
    return Conversion(0.0, settings.gain, 1.0, settings.offset)


def _unit(place: str, text: str) -> Unit:
    try:
        return unit(text)
    except UnitError as error:
        raise Refusal(place, text, str(error), error.remedy) from None


def _fitting(source: Unit, target: Unit, delta: bool) -> Conversion | None:
    try:
        return between(source, target, delta)
    except UnitError:
        return None


def _checked(place: str, text: str, source: Unit, target: Unit, delta: bool) -> None:
    try:
        between(source, target, delta)
    except UnitError as error:
        raise Refusal(place, text, str(error), error.remedy) from None


def _remedy(error: UnitError) -> str:
    return (
        f"{error.remedy}; or leave the tag out with `exclude`, or give its unit with `sourceUnit` in a step of its own"
    )


def _table(conversions: Sequence[Conversion]) -> NDArray[np.float64]:
    return np.array([[one.before, one.times, one.over, one.after] for one in conversions]).T.copy()


def _as_doubles(block: Block) -> Block:
    return block.with_(type=ValueType.DOUBLE, value=block.numbers(), null=None)


def _cast(block: Block, target: ValueType) -> tuple[NDArray[Any], Mask]:
    """The values in another type, and which of them fit it. Nulls are whatever comes of them."""
    values: NDArray[Any] = block.value
    fits: Mask = np.ones(len(block), dtype=np.bool_)
    if block.type is ValueType.STRING:
        return _from_texts(values.tolist(), target)
    if target is ValueType.STRING:
        texts = empty_values(target, len(block))
        written = values.tolist()
        texts[:] = (
            [str(one).lower() for one in written] if block.type is ValueType.BOOLEAN else list(map(repr, written))
        )
        return texts, fits
    if target is ValueType.BOOLEAN:
        fits = (values == 0) | (values == 1)
        return values == 1, fits
    if target is ValueType.DOUBLE:
        reals = values.astype(np.float64)
        if block.type is ValueType.INTEGER:
            back = np.where(reals < _INT64, reals, 0.0).astype(np.int64)
            fits = back == values
        return reals, fits
    if block.type is ValueType.BOOLEAN:
        return values.astype(np.int64), fits
    fits = (np.rint(values) == values) & (values >= -_INT64) & (values < _INT64)
    return np.where(fits, values, 0.0).astype(np.int64), fits


def _from_texts(texts: Sequence[str | None], target: ValueType) -> tuple[NDArray[Any], Mask]:
    read: list[Any]
    if target is ValueType.DOUBLE:
        read = [None if text is None else number(text) for text in texts]
    elif target is ValueType.INTEGER:
        read = [None if text is None else whole(text) for text in texts]
    else:
        read = [None if text is None else _TRUTHS.get(text.strip().lower()) for text in texts]
    fits: Mask = np.array([one is not None for one in read], dtype=np.bool_)
    values = empty_values(target, len(texts))
    if fits.any():
        values[fits] = [one for one in read if one is not None]
    return values, fits
