"""How values are written: against what a plain JSON writer makes of the same fields."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plant.pi.events import Event
from plant.pi.points import PiPoint, PointDefinition
from plant.pi.selecting import ALL, Selection, pruned
from plant.pi.states import system_state
from plant.pi.timed_values import OneValue, TimedValues, time_text, timed

_FIELDS = ("Timestamp", "UnitsAbbreviation", "Good", "Questionable", "Substituted", "Annotated", "Value")

_EVENTS = st.builds(
    lambda ticks, value, flags, state: Event(
        ticks * 100,
        value if state is None else state,
        good=flags[0] and state is None,
        questionable=flags[1],
        substituted=flags[2],
        annotated=flags[3],
        state=None if state is None else system_state(state),
    ),
    st.integers(0, 4_102_444_800 * 10_000_000),
    st.one_of(st.floats(), st.text()),
    st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    st.one_of(st.none(), st.sampled_from([246, 254])),
)


def _point(events: list[Event], **attributes: Any) -> PiPoint:
    point = PiPoint(PointDefinition("P", unit='°"C', **attributes), 1, "S")
    for event in events:
        point.archive.insert(event)
    return point


@settings(deadline=None)
@given(st.lists(_EVENTS, max_size=8), st.sets(st.sampled_from(_FIELDS)), st.booleans())
def test_each_way_to_write_a_value_says_the_same(events: list[Event], fields: set[str], backwards: bool) -> None:
    point = _point(events)
    rows = range(len(events))[:: -1 if backwards else 1]
    selection = Selection.parse(";".join(fields))
    expected = [
        {name: value for name, value in timed(point, point.archive.event(row)).items() if selection.wants(name)}
        for row in rows
    ]
    from_rows = TimedValues(point, [rows]).encode(selection)
    from_events = TimedValues(point, [[point.archive.event(row) for row in rows]]).encode(selection)
    one_by_one = [json.loads(OneValue(point, point.archive.event(row)).encode(selection)) for row in rows]
    assert json.loads(from_rows) == json.loads(from_events) == one_by_one == json.loads(json.dumps(expected))


@given(st.integers(0, 4_102_444_800 * 10_000_000))
def test_a_timestamp_has_the_digits_that_it_needs(ticks: int) -> None:
    text = time_text(ticks * 100)
    whole, _, digits = text.removesuffix("Z").partition(".")
    assert not digits.endswith("0")
    seconds = datetime.fromisoformat(whole).replace(tzinfo=timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert seconds // timedelta(seconds=1) * 10_000_000 + int(digits.ljust(7, "0")) == ticks


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "1970-01-01T00:00:00Z"), (100, "1970-01-01T00:00:00.0000001Z"), (10**9 // 2, "1970-01-01T00:00:00.5Z")],
)
def test_timestamps(ns: int, text: str) -> None:
    assert time_text(ns) == text


def test_a_number_that_is_none_is_a_text_or_a_symbol() -> None:
    point = _point([Event(0, float("nan")), Event(100, float("inf")), Event(200, -float("inf")), Event(300, 1.0)])
    texts = json.loads(TimedValues(point, [range(4)]).encode(ALL))
    assert [value["Value"] for value in texts] == ["NaN", "Infinity", "-Infinity", 1.0]
    symbols = TimedValues(point, [range(4)], nan="symbol").encode(Selection.parse("Value"))
    assert symbols == b'[{"Value":NaN},{"Value":Infinity},{"Value":-Infinity},{"Value":1.0}]'


def test_whole_numbers_are_written_whole_beside_states() -> None:
    point = _point([Event(0, 5), Event.of_system(100, 254)], type="Int32")
    values = TimedValues(point, [range(2)]).encode(Selection.parse("Value.Name;Value"))
    assert json.loads(values) == [{"Value": 5}, {"Value": {"Name": "Shutdown", "Value": 254, "IsSystem": True}}]
    assert json.loads(TimedValues(point, [range(1, 2)]).encode(Selection.parse("Value.Name"))) == [
        {"Value": {"Name": "Shutdown"}}
    ]


def test_fields_are_selected_at_every_depth_and_in_any_case() -> None:
    answer = {"Links": {"Next": "n", "First": "f"}, "Items": [{"WebId": "w", "Items": [{"A": 1, "B": 2}], "Name": "x"}]}
    assert pruned(answer, Selection.parse("items.webid;ITEMS.Items.a;Links.Next")) == {
        "Links": {"Next": "n"},
        "Items": [{"WebId": "w", "Items": [{"A": 1}]}],
    }
    assert pruned(answer, Selection.parse("")) == answer
    assert pruned(answer, Selection.parse("Items.WebId;Items; ;None.Of.Them")) == {"Items": answer["Items"]}


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3), max_size=4))
def test_a_field_is_there_when_it_or_what_it_is_in_was_selected(paths: list[list[str]]) -> None:
    tree = {x: {y: dict.fromkeys("abc", 1) for y in "abc"} for x in "abc"}
    kept = pruned(tree, Selection.parse(";".join(".".join(path) for path in paths)))
    for x in "abc":
        for y in "abc":
            for z in "abc":
                wanted = not paths or any([x, y, z][: len(path)] == path for path in paths)
                assert (z in kept.get(x, {}).get(y, {})) is wanted
