"""How a tag's values are typed: one type for ever, decided from the data type of its node. Pure.

The variants of a node have a *family* each (`notifications`: the built-in type, or ARRAY and the type of the elements).
A tag's *rule* says which families fit it and what becomes of them; it is the whole of what decides a tag's type:

| rule    | type    | takes                                                      | as                               |
|---------|---------|------------------------------------------------------------|----------------------------------|
| DOUBLE  | double  | Float, Double                                              | they are                         |
| NUMBER  | double  | any number                                                 | double                           |
| SECONDS | double  | any number; DateTime                                       | seconds since 1970 UTC           |
| INTEGER | integer | SByte to Int64, Byte to UInt64, StatusCode                 | beyond int64: `out-of-range`     |
| SWITCH  | integer | the same; Boolean                                          | 0 or 1                           |
| BOOLEAN | boolean | Boolean                                                    | it is                            |
| STRING  | string  | texts, times, ids, bytes; arrays and structures            | text; JSON                       |
| TEXT    | string  | anything                                                   | numbers: exact, shortest         |
| LABEL   | string  | anything                                                   | whole numbers: their label       |

What does not fit is null, BAD, `type-mismatch`. A structure that contradicts its definition is null, BAD,
`undecodable`.

Besides the rule a `Typing` holds what the rule needs to know: the labels, the definitions of structures, the field of a
structure that is the tag's value, and whether an array of one element (an index range) stands for its element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import isfinite
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from opcua_collector.types.structures import Definitions, Structure
from opcua_collector.values.encoding import FILETIME_OF_1970, MalformedError, Opaque, iso_time
from opcua_collector.values.notifications import ARRAY, BOOLEAN, DATE_TIME, INTEGERS, NULL, REALS, UINT64
from sluice.batch import NAN, ValueType

TYPE_MISMATCH: Final = "type-mismatch"
OUT_OF_RANGE: Final = "out-of-range"
HEARTBEAT: Final = "heartbeat"
UNDECODABLE: Final = "undecodable"
WORDS: Final = (TYPE_MISMATCH, OUT_OF_RANGE, HEARTBEAT, UNDECODABLE, NAN)
"""Statuses that are ours; in columns -1 stands for the first of them, -2 for the second, and so on."""
MISMATCH_CODE, RANGE_CODE, HEARTBEAT_CODE, UNDECODABLE_CODE, NAN_CODE = (-1 - place for place in range(len(WORDS)))

_FLOAT: Final = 10
_LARGEST: Final = np.uint64(np.iinfo(np.int64).max)
_STRUCTURES: Final = frozenset({22, 23, 24, 25})
_NO_VALUES: Final = (ValueError, TypeError, OverflowError)
_NESTED: Final = 64  # levels of lists around the one element of an index range


class Rule(IntEnum):
    """Which families fit a tag, and what becomes of them. The numbers are kept over restarts."""

    DOUBLE = 0
    INTEGER = 1
    BOOLEAN = 2
    STRING = 3
    NUMBER = 4
    SECONDS = 5
    SWITCH = 6
    TEXT = 7
    LABEL = 8


TYPE_OF_RULE: Final = {
    Rule.DOUBLE: ValueType.DOUBLE,
    Rule.INTEGER: ValueType.INTEGER,
    Rule.BOOLEAN: ValueType.BOOLEAN,
    Rule.STRING: ValueType.STRING,
    Rule.NUMBER: ValueType.DOUBLE,
    Rule.SECONDS: ValueType.DOUBLE,
    Rule.SWITCH: ValueType.INTEGER,
    Rule.TEXT: ValueType.STRING,
    Rule.LABEL: ValueType.STRING,
}

#: numpy's form of each type, and what stands in a value column where there is no value.
NATIVE: Final[dict[ValueType, tuple[Any, Any]]] = {
    ValueType.DOUBLE: (np.float64, np.nan),
    ValueType.INTEGER: (np.int64, 0),
    ValueType.BOOLEAN: (np.bool_, False),
    ValueType.STRING: (object, None),
}


def rule_of_family(family: int) -> Rule:
    """The rule that values of this family satisfy as they are."""
    if family in REALS:
        return Rule.DOUBLE
    if family in INTEGERS or family == UINT64:
        return Rule.INTEGER
    return Rule.BOOLEAN if family == BOOLEAN else Rule.STRING


@dataclass(slots=True)
class Converted:
    """Values in the form of a tag's type. `status`: 0, or the code of a word of ours where the value is refused."""

    value: NDArray[Any]
    null: NDArray[np.bool_]
    status: NDArray[np.int64] | None = None

    def refuse(self, rows: Any, code: int) -> None:
        """These rows have no value, and why."""
        if self.status is None:
            self.status = np.zeros(len(self.null), np.int64)
        self.null[rows] = True
        self.status[rows] = code


@dataclass(frozen=True, slots=True)
class Typing:
    """How a tag's values are typed. What is alike is equal, so that tags which are typed alike can share one."""

    rule: Rule
    element: bool = False
    """An array of one element stands for the element."""
    labels: tuple[tuple[int, str], ...] = ()
    """Of an enumeration: number and label."""
    structures: tuple[Structure, ...] = ()
    """Definitions of the structures that its values are made of."""
    field: tuple[str, ...] = ()
    """The names that lead to the part of a structure that is the tag's value."""
    family: int = NULL
    """Of that part."""

    @property
    def type(self) -> ValueType:
        """The type of the tag."""
        return TYPE_OF_RULE[self.rule]

    def after(self, before: Typing | None) -> Typing:
        """This one, if it leaves the tag's type as it was before; else the earlier one."""
        return self if before is None or before.type is self.type else before

    def dump(self) -> Any:
        """As JSON: a number where there is nothing but a rule."""
        if self == Typing(self.rule):
            return int(self.rule)
        content = {
            "rule": int(self.rule),
            "element": self.element,
            "labels": self.labels,
            "structures": [one.dump() for one in self.structures],
            "field": self.field,
            "family": self.family,
        }
        return {key: value for key, value in content.items() if value or key == "rule"}

    @classmethod
    def load(cls, content: Any) -> Typing:
        """What `dump` has made, also that of releases that knew rules only. Raises ValueError, TypeError, KeyError."""
        if isinstance(content, int) and not isinstance(content, bool):
            return cls(Rule(content))
        return cls(
            Rule(content["rule"]),
            bool(content.get("element", False)),
            tuple((int(number), str(label)) for number, label in content.get("labels", ())),
            tuple(Structure.load(one) for one in content.get("structures", ())),
            tuple(map(str, content.get("field", ()))),
            int(content.get("family", NULL)),
        )


class Converter:
    """Brings values of any family into the form of one typing."""

    def __init__(self, typing: Typing) -> None:
        self.typing = typing
        self.type = typing.type
        self._form, self._nothing = NATIVE[typing.type]
        self._plain = not (typing.element or typing.field)
        self._labels = dict(typing.labels)
        self._definitions = Definitions(typing.structures)

    def convert(self, family: int, raw: NDArray[Any] | None, count: int) -> Converted:
        """`count` values of a family; the column that is returned is a new one."""
        if raw is None:
            return self._nothings(count)
        if self._plain:
            return self._scalars(family, raw)
        if self.typing.field:
            family, raw, found = self._taken(raw)
        elif family & ARRAY:
            family, raw, found = self._elements(family & ~ARRAY, raw)
        else:
            return self._scalars(family, raw)
        if len(raw):
            rows = ~found.null
            part = self._scalars(family, raw)
            found.value[rows], found.null[rows] = part.value, part.null
            if part.status is not None:
                codes = np.zeros(count, np.int64) if found.status is None else found.status
                codes[rows] = part.status
                found.status = codes
        return found

    def _nothings(self, count: int) -> Converted:
        return Converted(np.full(count, self._nothing, self._form), np.ones(count, bool))

    # --- what stands for the value ---

    def _elements(self, family: int, raw: NDArray[Any]) -> tuple[int, NDArray[Any], Converted]:
        """The one element of each array; found has those that are there not null."""
        found = self._nothings(len(raw))
        values: list[Any] = []
        for row, value in enumerate(raw):
            for _ in range(_NESTED):
                if not isinstance(value, list) or len(value) != 1:
                    break
                value = value[0]
            if isinstance(value, list):
                if value:
                    found.refuse(row, MISMATCH_CODE)
            elif value is not None:
                values.append(value)
                found.null[row] = False
        return family, _column(family, values), found

    def _taken(self, raw: NDArray[Any]) -> tuple[int, NDArray[Any], Converted]:
        """The field of each structure; found has those that are there not null."""
        found = self._nothings(len(raw))
        values: list[Any] = []
        for row, value in enumerate(raw):
            for _ in range(_NESTED):
                if not (self.typing.element and isinstance(value, list) and len(value) == 1):
                    break
                value = value[0]
            if value is None:
                continue
            if not isinstance(value, Opaque):
                found.refuse(row, MISMATCH_CODE)
                continue
            try:
                value = self._definitions.field(value, self.typing.field)
            except MalformedError:
                found.refuse(row, UNDECODABLE_CODE)
                continue
            except LookupError:
                found.refuse(row, MISMATCH_CODE)
                continue
            if value is not None:
                values.append(value)
                found.null[row] = False
        return self.typing.family, self._fitting(values, found), found

    def _fitting(self, values: list[Any], found: Converted) -> NDArray[Any]:
        """The values as a column of the field's family; those that are no such values are refused."""
        family = self.typing.family
        kinds = _kinds(family, self.typing.rule)
        if not kinds or kinds.issuperset(map(type, values)):
            try:
                return _column(family, values)
            except _NO_VALUES:
                pass
        rows = np.flatnonzero(~found.null)
        fitting = []
        for row, value in zip(rows.tolist(), values, strict=True):
            try:
                if kinds and type(value) not in kinds:  # numpy would make a number of a text, or cut a fraction off
                    raise TypeError
                _column(family, [value])
            except _NO_VALUES as error:  # noqa: PERF203 - each value for itself is the point
                found.refuse(row, RANGE_CODE if isinstance(error, OverflowError) else MISMATCH_CODE)
            else:
                fitting.append(value)
        return _column(family, fitting)

    # --- one value each ---

    def _scalars(self, family: int, raw: NDArray[Any]) -> Converted:
        null = _nulls(raw)
        made = self._CONVERSIONS[self.type](self, family, raw, null)
        if made is None:
            made = self._nothings(len(raw))
            made.refuse(slice(None), MISMATCH_CODE)
        return made

    def _double(self, family: int, raw: NDArray[Any], null: NDArray[np.bool_]) -> Converted | None:
        rule = self.typing.rule
        if family in REALS or (rule != Rule.DOUBLE and (family in INTEGERS or family == UINT64)):
            return Converted(raw.astype(np.float64), null)
        if rule == Rule.SECONDS and family == DATE_TIME:
            ticks, no_time = _ticks(raw)
            whole = np.where(no_time, FILETIME_OF_1970, ticks) - FILETIME_OF_1970
            return Converted(whole / 1e7, null | no_time)
        return None

    def _integer(self, family: int, raw: NDArray[Any], null: NDArray[np.bool_]) -> Converted | None:
        if family in INTEGERS or (family == BOOLEAN and self.typing.rule == Rule.SWITCH):
            return Converted(raw.astype(np.int64), null)
        if family != UINT64:
            return None
        beyond = raw > _LARGEST
        made = Converted(raw.astype(np.int64), null)
        if beyond.any():
            made.refuse(beyond, RANGE_CODE)
        return made

    def _boolean(self, family: int, raw: NDArray[Any], null: NDArray[np.bool_]) -> Converted | None:
        return Converted(raw.astype(np.bool_), null) if family == BOOLEAN else None

    def _string(self, family: int, raw: NDArray[Any], null: NDArray[np.bool_]) -> Converted | None:
        if family & ARRAY or family in _STRUCTURES:
            return self._json(raw)
        if family == DATE_TIME:
            texts = _objects(list(map(iso_time, raw.tolist())))
            return Converted(texts, _nulls(texts))
        whole = family in INTEGERS or family == UINT64
        if not whole and family != BOOLEAN and family not in REALS:
            return Converted(raw.copy(), null)
        if self.typing.rule == Rule.STRING:
            return None
        if family == BOOLEAN:
            return Converted(np.where(raw, "true", "false").astype(object), null)
        if whole:
            return Converted(self._whole(raw), null)
        shortest = (raw.astype(np.float32) if family == _FLOAT else raw).astype(str).astype(object)
        made = Converted(shortest, null)
        infinite = ~np.isfinite(raw)
        if infinite.any():
            made.refuse(infinite, NAN_CODE)
        return made

    def _whole(self, raw: NDArray[Any]) -> NDArray[Any]:
        if not self._labels:
            return _objects(list(map(str, raw.tolist())))
        numbers, place = np.unique(raw, return_inverse=True)
        texts = _objects([self._labels.get(number, str(number)) for number in numbers.tolist()])
        return np.asarray(texts[place.reshape(-1)])

    def _json(self, raw: NDArray[Any]) -> Converted:
        texts: list[str | None] = []
        refused = []
        nan = []
        for row, value in enumerate(raw):
            text = None
            if isinstance(value, str):  # one that a Variant held
                text = value
            elif isinstance(value, float) and not isfinite(value):
                nan.append(row)
            elif value is not None:
                try:
                    text = orjson.dumps(value, self._definitions.shown, orjson.OPT_PASSTHROUGH_DATACLASS).decode()
                except (TypeError, MalformedError):  # orjson says TypeError of what `default` raises
                    refused.append(row)
            texts.append(text)
        made = _objects(texts)
        converted = Converted(made, _nulls(made))
        if refused:
            converted.refuse(refused, UNDECODABLE_CODE)
        if nan:
            converted.refuse(nan, NAN_CODE)
        return converted

    _CONVERSIONS: Final[
        dict[ValueType, Callable[[Converter, int, NDArray[Any], NDArray[np.bool_]], Converted | None]]
    ] = {
        ValueType.DOUBLE: _double,
        ValueType.INTEGER: _integer,
        ValueType.BOOLEAN: _boolean,
        ValueType.STRING: _string,
    }


def _nulls(raw: NDArray[Any]) -> NDArray[np.bool_]:
    if raw.dtype == object and None in (values := raw.tolist()):
        return np.fromiter((value is None for value in values), bool, len(values))
    return np.zeros(len(raw), bool)


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _ticks(raw: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times of the wire (100 ns since 1601), and which of them mean "no time"."""
    return raw, np.fromiter((iso_time(one) is None for one in raw.tolist()), bool, len(raw))


def _kinds(family: int, rule: Rule) -> frozenset[type]:
    """What values of this family are in Python, as the readers give them; empty: anything."""
    if family in REALS:
        return frozenset({int, float})
    if family == BOOLEAN:
        return frozenset({bool})
    if family in INTEGERS or family == UINT64:
        return frozenset({int, bool} if rule == Rule.SWITCH else {int})
    return frozenset()


def _column(family: int, values: list[Any]) -> NDArray[Any]:
    """The values as a block of this family has them. Raises ValueError, TypeError or OverflowError if they are none."""
    if family in REALS:
        return np.array(values, np.float64)
    if family == BOOLEAN:
        return np.array(values, np.bool_)
    if family == UINT64:
        return np.array(values, np.uint64)
    if family in INTEGERS:
        return np.array(values, np.int64)
    if family == DATE_TIME:
        return np.array([_filetime(value) for value in values], np.int64)
    return _objects(values)


def _filetime(text: str) -> int:
    """The wire's form of the ISO 8601 that `encoding.iso_time` made."""
    day, ticks = text[:-1].split(".")
    seconds = int(np.datetime64(day, "s").astype(np.int64))
    return FILETIME_OF_1970 + seconds * 10_000_000 + int(ticks)
