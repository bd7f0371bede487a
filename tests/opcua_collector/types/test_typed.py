"""What each rule makes of each family of values, and what survives a restart."""

from __future__ import annotations

import math
import struct
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.types.structures import OPTIONAL, Field, Structure
from opcua_collector.types.typed import TYPE_OF_RULE, WORDS, Converter, Rule, Typing
from opcua_collector.values.encoding import FILETIME_OF_1970, Opaque, iso_time
from opcua_collector.values.notifications import ARRAY, BOOLEAN, DATE_TIME, INTEGERS, REALS, UINT64
from sluice.batch import ValueType

SPEED = Structure("ns=2;i=1", "ns=2;i=2", OPTIONAL, (Field("Speed", 11), Field("Name", 12, "", 1, True)))
typings = st.builds(
    Typing,
    st.sampled_from(list(Rule)),
    st.booleans(),
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.text(max_size=5)), max_size=3).map(tuple),
    st.sampled_from([(), (SPEED,)]),
    st.lists(st.text(max_size=5), max_size=2).map(tuple),
    st.integers(0, 127),
)
COLUMNS: dict[int, Any] = {
    **dict.fromkeys(INTEGERS, np.int64),
    **dict.fromkeys(REALS, np.float64),
    BOOLEAN: np.bool_,
    UINT64: np.uint64,
    DATE_TIME: np.int64,
}
EXAMPLES: dict[int, list[Any]] = {
    1: [True, False],
    2: [-128, 127],
    3: [0, 255],
    4: [-(2**15)],
    5: [2**16 - 1],
    6: [-(2**31)],
    7: [2**32 - 1],
    8: [-(2**63), 2**63 - 1],
    9: [0, 2**63 - 1],
    10: [0.5, -1.25],
    11: [0.5, 1e300],
    12: ["on", ""],
    13: [FILETIME_OF_1970 + 15_000_000],
    14: ["72962b91-fa75-4ae6-8d28-b404dc7daf63"],
    15: ["AP8="],
    17: ["ns=2;i=5"],
    19: [0x80310000],
    21: ["an"],
    22: [Opaque("ns=9;i=1", b"\x01")],
    ARRAY | 11: [[1.5, math.nan], []],
    ARRAY | 22: [[Opaque("ns=9;i=1", None)]],
}
NUMBERS = {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 19}
TAKES = {
    Rule.DOUBLE: {10, 11},
    Rule.NUMBER: NUMBERS,
    Rule.SECONDS: NUMBERS | {13},
    Rule.INTEGER: NUMBERS - {10, 11},
    Rule.SWITCH: (NUMBERS - {10, 11}) | {1},
    Rule.BOOLEAN: {1},
    Rule.STRING: set(EXAMPLES) - NUMBERS - {1},
    Rule.TEXT: set(EXAMPLES),
    Rule.LABEL: set(EXAMPLES),
}


def converted(typing: Typing, family: int, values: list[Any]) -> list[tuple[Any, str]]:
    """(value or None, word) each."""
    raw = np.empty(len(values), COLUMNS.get(family, object))
    raw[:] = values
    made = Converter(typing).convert(family, raw, len(values))
    codes = [0] * len(values) if made.status is None else made.status.tolist()
    found = []
    for value, null, code in zip(made.value.tolist(), made.null.tolist(), codes, strict=True):
        found.append((None if null else value, WORDS[-1 - code] if code < 0 else ""))
    return found


@pytest.mark.parametrize("rule", list(Rule), ids=lambda rule: str(rule.name))
@pytest.mark.parametrize("family", list(EXAMPLES))
def test_a_rule_takes_its_families_and_no_other(rule: Rule, family: int) -> None:
    types = {ValueType.DOUBLE: float, ValueType.INTEGER: int, ValueType.BOOLEAN: bool, ValueType.STRING: str}
    for value, word in converted(Typing(rule), family, EXAMPLES[family]):
        if family in TAKES[rule]:
            assert word == ""
            assert type(value) is types[TYPE_OF_RULE[rule]]
        else:
            assert (value, word) == (None, "type-mismatch")


@pytest.mark.parametrize("family", list(EXAMPLES))
def test_no_value_is_null_whatever_the_rule(family: int) -> None:
    for rule in Rule:
        made = Converter(Typing(rule)).convert(family, None, 2)
        assert made.null.all()
        assert made.status is None


@given(typings)
def test_a_typing_survives_a_restart(typing: Typing) -> None:
    assert Typing.load(orjson.loads(orjson.dumps(typing.dump()))) == typing


def test_what_a_release_before_kept_as_a_number_is_a_rule() -> None:
    assert [Typing.load(number).type for number in range(5)] == [
        ValueType.DOUBLE,
        ValueType.INTEGER,
        ValueType.BOOLEAN,
        ValueType.STRING,
        ValueType.DOUBLE,
    ]
    assert Typing(Rule.NUMBER).dump() == 4


@pytest.mark.parametrize("content", [None, "x", 99, {}, {"rule": 99}, {"rule": 0, "structures": [1]}, True])
def test_what_is_no_typing_is_refused(content: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        Typing.load(content)


def test_the_type_of_a_tag_stays_whatever_its_node_becomes() -> None:
    before = Typing(Rule.DOUBLE)
    assert Typing(Rule.NUMBER).after(before) == Typing(Rule.NUMBER)
    assert Typing(Rule.STRING).after(before) == before
    assert Typing(Rule.STRING).after(None) == Typing(Rule.STRING)


@given(st.integers(-(2**63), 2**63 - 1))
def test_whole_numbers_are_exact_as_text(number: int) -> None:
    assert converted(Typing(Rule.TEXT), 8, [number]) == [(str(number), "")]


@given(st.integers(0, 2**64 - 1))
def test_unsigned_numbers_are_exact_as_text_and_integers_up_to_what_an_integer_holds(number: int) -> None:
    assert converted(Typing(Rule.TEXT), UINT64, [number]) == [(str(number), "")]
    whole = (number, "") if number < 2**63 else (None, "out-of-range")
    assert converted(Typing(Rule.INTEGER), UINT64, [number]) == [whole]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_text_of_a_number_reads_back_as_the_same_number_and_is_short(wide: float, narrow: float) -> None:
    [(text, _)] = converted(Typing(Rule.TEXT), 11, [wide])
    assert float(text) == wide
    [(text, _)] = converted(Typing(Rule.TEXT), 10, [narrow])
    assert np.float32(text) == np.float32(narrow)
    assert len(Decimal(text).normalize().as_tuple().digits) <= 9, "no digits that a Float does not have"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_text_either(value: float) -> None:
    assert converted(Typing(Rule.TEXT), 11, [value]) == [(None, "nan")]


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(lambda t: t.replace(tzinfo=timezone.utc)))
def test_times_are_seconds_since_1970_or_iso_text(time: datetime) -> None:
    ticks = FILETIME_OF_1970 + (time - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1) * 10
    [(seconds, _)] = converted(Typing(Rule.SECONDS), DATE_TIME, [ticks])
    assert seconds == pytest.approx(time.timestamp(), abs=1e-6)
    [(text, _)] = converted(Typing(Rule.STRING), DATE_TIME, [ticks])
    assert datetime.fromisoformat(text[:26] + "+00:00") == time


@pytest.mark.parametrize("ticks", [0, -1, 2_650_467_743_990_000_000, 2**63 - 1])
def test_no_time_is_null(ticks: int) -> None:
    assert converted(Typing(Rule.SECONDS), DATE_TIME, [ticks]) == [(None, "")]
    assert converted(Typing(Rule.STRING), DATE_TIME, [ticks]) == [(None, "")]


def test_labels_stand_for_their_numbers_and_unknown_numbers_for_themselves() -> None:
    typing = Typing(Rule.LABEL, labels=((0, "Off"), (1, "On")))
    assert converted(typing, 6, [1, 0, 7, 1]) == [("On", ""), ("Off", ""), ("7", ""), ("On", "")]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([2.5], (2.5, "")),
        ([[2.5]], (2.5, "")),
        ([], (None, "")),
        (None, (None, "")),
        ([1.0, 2.0], (None, "type-mismatch")),
    ],
    ids=repr,
)
def test_an_array_of_one_element_stands_for_it(value: Any, found: tuple[Any, str]) -> None:
    typing = Typing(Rule.DOUBLE, element=True)
    assert converted(typing, ARRAY | 11, [value, [1.5]]) == [found, (1.5, "")]
    assert converted(typing, 11, [3.5]) == [(3.5, "")], "a server may send the element itself"


@pytest.mark.parametrize("rule", [Rule.INTEGER, Rule.SECONDS, Rule.STRING], ids=lambda rule: str(rule.name))
def test_one_element_of_times_and_texts(rule: Rule) -> None:
    ticks = FILETIME_OF_1970 + 15_000_000
    wanted = {Rule.INTEGER: (None, "type-mismatch"), Rule.SECONDS: (1.5, ""), Rule.STRING: (iso_time(ticks), "")}[rule]
    assert converted(Typing(rule, element=True), ARRAY | DATE_TIME, [[iso_time(ticks)]]) == [wanted]


def body(speed: float, names: bytes = b"") -> Opaque:
    mask = 1 if names else 0
    return Opaque("ns=2;i=2", mask.to_bytes(4, "little") + np.float64(speed).tobytes() + names)


def test_a_structure_that_contradicts_its_definition_costs_itself() -> None:
    good, short, long = body(1.5), Opaque("ns=2;i=2", b"\0" * 11), Opaque("ns=2;i=2", b"\0" * 13)
    whole = Typing(Rule.STRING, structures=(SPEED,))
    assert converted(whole, 22, [good, short, long, None, good]) == [
        ('{"Speed":1.5}', ""),
        (None, "undecodable"),
        (None, "undecodable"),
        (None, ""),
        ('{"Speed":1.5}', ""),
    ]
    field = Typing(Rule.DOUBLE, structures=(SPEED,), field=("Speed",), family=11)
    assert converted(field, 22, [good, short, None, Opaque("ns=9;i=9", b""), good]) == [
        (1.5, ""),
        (None, "undecodable"),
        (None, ""),
        (None, "type-mismatch"),
        (1.5, ""),
    ]


def test_a_value_that_is_not_what_its_field_says_costs_itself() -> None:
    loose = Structure("ns=2;i=1", "ns=2;i=2", 0, (Field("Any", 24),))
    typing = Typing(Rule.SECONDS, structures=(loose,), field=("Any",), family=11)
    number = Opaque("ns=2;i=2", b"\x0b" + np.float64(2.5).tobytes())
    text = Opaque("ns=2;i=2", b"\x0c\x02\0\0\0on")
    assert converted(typing, 22, [number, text, number]) == [(2.5, ""), (None, "type-mismatch"), (2.5, "")]


ANYTHING = Structure("ns=2;i=5", "ns=2;i=6", 0, (Field("V", 24),))


def held(encoding: int, form: str, *values: Any) -> Opaque:
    return Opaque("ns=2;i=6", bytes([encoding]) + struct.pack(form, *values))


@pytest.mark.parametrize(
    ("rule", "family", "value", "found"),
    [
        (Rule.SECONDS, 11, held(11, "<d", 1.75), (1.75, "")),
        (Rule.SECONDS, 11, held(8, "<q", 3), (3.0, "")),
        (Rule.SECONDS, 11, held(12, "<i3s", 3, b"1.5"), (None, "type-mismatch")),
        (Rule.SECONDS, 11, held(1, "<B", 1), (None, "type-mismatch")),
        (Rule.SECONDS, 11, held(0x8B, "<idd", 2, 1.0, 2.0), (None, "type-mismatch")),
        (Rule.SWITCH, 8, held(8, "<q", 2**60 + 1), (2**60 + 1, "")),
        (Rule.SWITCH, 8, held(1, "<B", 1), (1, "")),
        (Rule.SWITCH, 8, held(11, "<d", 1.75), (None, "type-mismatch")),
        (Rule.SWITCH, 8, held(12, "<i1s", 1, b"5"), (None, "type-mismatch")),
        (Rule.SWITCH, 8, held(9, "<Q", 2**63), (None, "out-of-range")),
        (Rule.SWITCH, 8, held(0x86, "<ii", 1, 7), (None, "type-mismatch")),
        (Rule.BOOLEAN, 1, held(1, "<B", 1), (True, "")),
        (Rule.BOOLEAN, 1, held(12, "<i1s", 1, b"0"), (None, "type-mismatch")),
        (Rule.BOOLEAN, 1, held(11, "<d", 0.5), (None, "type-mismatch")),
        (Rule.TEXT, 24, held(12, "<i3s", 3, b"1.5"), ("1.5", "")),
        (Rule.TEXT, 24, held(9, "<Q", 2**63 + 1), ("9223372036854775809", "")),
        (Rule.TEXT, 24, held(11, "<d", math.nan), (None, "nan")),
        (Rule.TEXT, 24, held(0x8B, "<idd", 2, 1.0, 2.0), ("[1.0,2.0]", "")),
    ],
)
def test_a_field_that_may_hold_anything_makes_no_other_value_of_it(
    rule: Rule, family: int, value: Opaque, found: tuple[Any, str]
) -> None:
    typing = Typing(rule, structures=(ANYTHING,), field=("V",), family=family)
    assert converted(typing, 22, [value]) == [found]
    assert converted(typing, 22, [value, None, value]) == [found, (None, ""), found]


def test_a_structure_without_a_definition_is_its_type_and_its_bytes() -> None:
    [(text, _)] = converted(Typing(Rule.STRING), 22, [Opaque("ns=9;i=1", b"\x01\x02")])
    assert orjson.loads(text) == {"type": "ns=9;i=1", "body": "AQI="}
