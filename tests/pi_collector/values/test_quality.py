"""Table 4.3 of the facts about PI Web API, row by row, from the JSON of a value to quality, value and status."""

from __future__ import annotations

from typing import Any

import pytest

from pi_collector.values.decode import Decoded, decode_recorded
from pi_collector.values.quality import SYSTEM_STATES, Facts, judge, table
from sluice.columns import Quality

from .streams import handles, recorded, typings

TIME = "2024-05-01T10:00:00.1234567Z"
BAD, UNCERTAIN, GOOD = Quality.BAD, Quality.UNCERTAIN, Quality.GOOD


def decoded(value: dict[str, Any], point_type: str = "Float32", **of: Any) -> Decoded:
    """One value of a point, with the flags of a good one unless it has others."""
    flags = {"Timestamp": TIME, "Good": True, "Questionable": False, "Substituted": False, "Annotated": False}
    return decode_recorded(recorded([{**flags, **value}]), handles(1), typings(point_type, **of))


def one(found: Decoded) -> tuple[Quality, float | str | None, int | str]:
    """Quality, value and status of the only sample."""
    timed = found.timed
    assert len(timed) == 1, found
    text = None if timed.text is None else timed.text[0]
    number = float(timed.number[0])
    status = 0 if timed.status is None else int(timed.status[0])
    return (
        Quality(0 if timed.quality is None else int(timed.quality[0])),
        text if text is not None else None if number != number else number,
        timed.words[-status - 1] if status < 0 else status,
    )


def system(code: int | None, name: str, **of: Any) -> dict[str, Any]:
    state = {"Name": name, "Value": code, "IsSystem": True, **of}
    return {"Value": {key: part for key, part in state.items() if part is not None}, "Good": False}


ERRORS = [{"FieldName": "Value", "Message": "PI Point not found."}]

ROWS: list[tuple[str, str, dict[str, Any], tuple[Quality, Any, Any]]] = [
    # 1: errors are looked at before Good, which such values have
    ("1 errors", "Float32", {"Value": None, "Errors": ERRORS}, (BAD, None, "PI_ERROR: PI Point not found.")),
    ("1 errors, a value", "Float32", {"Value": 1.5, "Errors": ERRORS}, (BAD, None, "PI_ERROR: PI Point not found.")),
    ("1 null", "Float32", {"Value": None}, (BAD, None, "PI_ERROR: no value")),
    ("1 null, not good", "Float32", {"Value": None, "Good": False}, (BAD, None, "PI_ERROR: no value")),
    ("1 no value at all", "String", {}, (BAD, None, "PI_ERROR: no value")),
    # 4: out of range
    ("4 Under Range", "Float32", system(251, "Under Range"), (UNCERTAIN, None, "251 Under Range")),
    ("4 Over Range", "Int32", system(252, "Over Range"), (UNCERTAIN, None, "252 Over Range")),
    ("4 Over UCL", "Float32", system(258, "Over UCL"), (UNCERTAIN, None, "258 Over UCL")),
    ("4 Under LCL", "Float32", system(259, "Under LCL"), (UNCERTAIN, None, "259 Under LCL")),
    # 5: other states
    ("5 Scan On", "Float32", system(239, "Scan On"), (BAD, None, "239 Scan On")),
    ("5 Scan Off", "Digital", system(238, "Scan Off"), (BAD, None, "238 Scan Off")),
    ("5 Shutdown", "String", system(254, "Shutdown"), (BAD, None, "254 Shutdown")),
    ("5 I/O Timeout", "Int16", system(246, "I/O Timeout"), (BAD, None, "246 I/O Timeout")),
    ("5 Bad Input", "Timestamp", system(255, "Bad Input"), (BAD, None, "255 Bad Input")),
    ("5 renamed by the site", "Float64", system(246, "Zeitüberschreitung"), (BAD, None, "246 Zeitüberschreitung")),
    ("5 without a name", "Float64", system(246, ""), (BAD, None, "246 I/O Timeout")),
    ("5 of an older server", "Float32", system(246, "I/O Timeout", IsSystem=None), (BAD, None, "246 I/O Timeout")),
    ("5 by its name alone", "Float32", system(None, "i/o timeout", IsSystem=None), (BAD, None, "246 i/o timeout")),
    ("5 of a name nobody knows", "Float32", system(None, "Wartung"), (BAD, None, "Wartung")),
    ("5 older, digital", "Digital", system(255, "Bad Input", IsSystem=None), (BAD, None, "255 Bad Input")),
    ("5 booleans as texts", "Float32", {**system(246, "I/O Timeout", IsSystem="True"), "Good": "False"},
     (BAD, None, "246 I/O Timeout")),
    ("5 that says it is good", "Float32", {**system(246, "I/O Timeout"), "Good": True}, (BAD, None, "246 I/O Timeout")),
    ("5 of the point's own set", "Float32", {"Value": {"Name": "Open", "Value": 1, "IsSystem": False}},
     (BAD, None, "1 Open")),
    ("5 and questionable", "Float32", {**system(246, "I/O Timeout"), "Questionable": True},
     (BAD, None, "246 I/O Timeout, questionable")),
    # of another type than the point
    ("text of a number", "Float32", {"Value": "12.5"}, (BAD, None, "wrong-type")),
    ("fraction of an integer", "Int32", {"Value": 1.5}, (BAD, None, "wrong-type")),
    ("list", "Float64", {"Value": [1, 2]}, (BAD, None, "wrong-type")),
    ("object", "String", {"Value": {"a": 1}}, (BAD, None, "wrong-type")),
    ("boolean of a number", "Float64", {"Value": True}, (BAD, None, "wrong-type")),
    # 6: not good
    ("6 with a number", "Float32", {"Value": 1.5, "Good": False}, (BAD, 1.5, 0)),
    ("6 with a text", "String", {"Value": "x", "Good": False}, (BAD, "x", 0)),
    ("6 before 7", "Float32", {"Value": 1.5, "Good": False, "Questionable": True}, (BAD, 1.5, "questionable")),
    ("6 as a text", "Float32", {"Value": 1.5, "Good": "false"}, (BAD, 1.5, 0)),
    # 7: questionable
    ("7", "Float32", {"Value": 1.5, "Questionable": True}, (UNCERTAIN, 1.5, "questionable")),
    ("7 before 8", "Float32", {"Value": 1.5, "Questionable": True, "Substituted": True},
     (UNCERTAIN, 1.5, "questionable, substituted")),
    ("7 digital", "Digital", {"Value": {"Name": "Open", "Value": 3, "IsSystem": False}, "Questionable": True},
     (UNCERTAIN, "Open", "3, questionable")),
    # 8: substituted
    ("8", "Float32", {"Value": 1.5, "Substituted": True}, (GOOD, 1.5, "substituted")),
    ("8 and annotated", "Float32", {"Value": 1.5, "Substituted": True, "Annotated": True},
     (GOOD, 1.5, "substituted, annotated")),
    # 9: no number
    *[
        (f"9 {text}", "Float32", {"Value": text}, (BAD, None, "nan"))
        for text in ("NaN", "Infinity", "-Infinity", "∞", "-∞", "nan")
    ],
    ("9 whatever its flags", "Float64", {"Value": "NaN", "Questionable": True}, (BAD, None, "nan, questionable")),
    # 10: good
    ("10 number", "Float32", {"Value": 1.5}, (GOOD, 1.5, 0)),
    ("10 number without a point", "Float64", {"Value": 3}, (GOOD, 3.0, 0)),
    ("10 integer", "Int32", {"Value": -7}, (GOOD, -7.0, 0)),
    ("10 integer with a point", "Int16", {"Value": 7.0}, (GOOD, 7.0, 0)),
    ("10 text", "String", {"Value": "Charge 7"}, (GOOD, "Charge 7", 0)),
    ("10 empty text", "String", {"Value": ""}, (GOOD, "", 0)),
    ("10 number of a text", "String", {"Value": 12}, (GOOD, "12", 0)),
    ("10 NaN of a text", "String", {"Value": "NaN"}, (GOOD, "NaN", 0)),
    ("10 timestamp", "Timestamp", {"Value": "2024-05-01T10:00:00Z"}, (GOOD, "2024-05-01T10:00:00Z", 0)),
    ("10 digital", "Digital", {"Value": {"Name": "Open", "Value": 3, "IsSystem": False}}, (GOOD, "Open", 3)),
    ("10 digital, 0", "Digital", {"Value": {"Name": "Closed", "Value": 0, "IsSystem": False}}, (GOOD, "Closed", 0)),
    ("10 digital of an older server", "Digital", {"Value": {"Name": "Open", "Value": 3}}, (GOOD, "Open", 3)),
    ("10 digital as a number", "Digital", {"Value": 3}, (GOOD, "3", 3)),
    ("10 digital as a text", "Digital", {"Value": "Open"}, (GOOD, "Open", 0)),
    ("10 annotated", "Float32", {"Value": 1.5, "Annotated": True}, (GOOD, 1.5, "annotated")),
    ("10 good as a text", "Float32", {"Value": 1.5, "Good": "True", "Questionable": "false"}, (GOOD, 1.5, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("point_type", "value", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_table(point_type: str, value: dict[str, Any], expected: tuple[Quality, Any, Any]) -> None:
    assert one(decoded(value, point_type, mode="snapshot")) == expected


@pytest.mark.parametrize("point_type", ["Float32", "Int32", "Digital", "String"])
@pytest.mark.parametrize(("code", "name"), [(253, "Pt Created"), (248, "No Data")])
def test_2_and_3_states_that_are_no_events(point_type: str, code: int, name: str) -> None:
    found = decoded(system(code, name), point_type)
    assert len(found.timed) == 0
    assert found.dropped == 1
    assert found.sent == {0: 1}


@pytest.mark.parametrize("code", sorted(SYSTEM_STATES.keys() - {248, 253}))
def test_every_system_state_keeps_its_code_and_name(code: int) -> None:
    quality, value, status = one(decoded(system(code, SYSTEM_STATES[code])))
    assert quality is (UNCERTAIN if code in (251, 252, 258, 259) else BAD)
    assert (value, status) == (None, f"{code} {SYSTEM_STATES[code]}")


def test_4_and_8_are_what_the_site_wants() -> None:
    assert one(decoded(system(251, "Under Range"), out_of_range="bad"))[0] is BAD
    assert one(decoded({"Value": 1.5, "Substituted": True}, substituted="uncertain")) == (UNCERTAIN, 1.5, "substituted")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"Value": {"Name": "Open", "Value": 3, "IsSystem": False}}, (GOOD, 3.0, 0)),
        ({"Value": 3}, (GOOD, 3.0, 0)),
        ({"Value": {"Name": "Open"}}, (BAD, None, "wrong-type")),
        ({"Value": "Open"}, (BAD, None, "wrong-type")),
        (system(246, "I/O Timeout"), (BAD, None, "246 I/O Timeout")),
    ],
)
def test_digital_states_by_code(value: dict[str, Any], expected: tuple[Quality, Any, Any]) -> None:
    assert one(decoded(value, "Digital", digitals="code")) == expected


@pytest.mark.parametrize("mode", ["recorded", "interpolated"])
def test_an_error_is_no_value_where_it_can_be_read_again(mode: str) -> None:
    found = decoded({"Value": None, "Errors": ERRORS}, mode=mode)
    assert len(found.timed) == 0
    assert found.errors == {0: "PI Point not found."}


def test_a_null_that_is_not_good_tells_of_a_deletion_in_the_archive() -> None:
    found = decoded({"Value": None, "Good": False})
    assert (len(found.timed), found.deleted) == (0, [(0, 1_714_557_600_123_456_700)])
    assert one(decoded({"Value": None})) == (BAD, None, "PI_ERROR: no value")


def test_a_status_is_short_however_long_the_error() -> None:
    long = [{"FieldName": "Value", "Message": "x" * 10_000}]
    assert len(str(one(decoded({"Value": None, "Errors": long}, mode="snapshot"))[2])) == 200


def test_the_first_row_that_applies_decides() -> None:
    everything = Facts("text", True, 253, "Pt Created", True, False, False, True, True, True)
    steps = (
        everything,
        everything._replace(error=""),
        everything._replace(error="", null=False),
        everything._replace(error="", null=False, state=251),
        everything._replace(error="", null=False, state=246),
        everything._replace(error="", null=False, state=None),
        everything._replace(error="", null=False, state=None, wrong=False),
        everything._replace(error="", null=False, state=None, wrong=False, finite=True),
        everything._replace(error="", null=False, state=None, wrong=False, finite=True, good=True),
        Facts(substituted=True),
        Facts(),
    )
    assert [judge(table(), step).name for step in steps] == [row.name for row in table()]
