"""Answers become columns: whatever shape they have, and whatever is wrong with some of the values."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_collector.values.decode import Decoded, decode_recorded, decode_summary, decode_updates
from pi_collector.values.timed import Timed, join, nothing
from pi_collector.values.typing import Typings
from pi_collector.web.errors import MalformedError

from .streams import handles, recorded, settings, stream, typings

SECOND = 10**9
T0 = 1_714_557_600 * SECOND


def at(second: int, digits: str = "") -> str:
    return f"2024-05-01T10:{second // 60:02d}:{second % 60:02d}{digits}Z"


def value(second: int, of: Any, **flags: Any) -> dict[str, Any]:
    return {"Timestamp": at(second), "Value": of, "Good": True, **flags}


def rows(timed: Timed) -> list[tuple[int, int, Any, int, int | str]]:
    """Stream, time, value, quality and status of each."""
    found = []
    for i in range(len(timed)):
        text = None if timed.text is None else timed.text[i]
        number = float(timed.number[i])
        shown = text if text is not None else None if math.isnan(number) else number
        status = 0 if timed.status is None else int(timed.status[i])
        quality = 0 if timed.quality is None else int(timed.quality[i])
        found.append(
            (
                int(timed.stream[i]),
                int(timed.time[i]),
                shown,
                quality,
                timed.words[-status - 1] if status < 0 else status,
            )
        )
    return found


def plain(found: Decoded) -> list[tuple[int, int, Any]]:
    return [row[:3] for row in rows(found.timed)]


# --- shapes ---


ONE = [(0, T0, 1.5)]


@pytest.mark.parametrize(
    "body",
    [
        {"Items": [{"WebId": "W0", "Name": "T0", "Path": "p", "Items": [value(0, 1.5)], "Links": {}}], "Links": {}},
        {"Items": [{"WebId": "W0", "Items": {"Items": [value(0, 1.5)]}}]},
        {"Items": [{"WebId": "W0", "Value": value(0, 1.5)}]},
        {"Items": [{"WebId": "W0", "Value": [value(0, 1.5)]}]},
        {"Items": [value(0, 1.5)], "UnitsAbbreviation": "m", "Links": {}},  # a single stream
        value(0, 1.5),  # its newest value
        {"Items": [{"WebId": "W0", "New": [1], "Items": [{**value(0, 1.5), "New": {"a": 1}}]}], "New": 1},
        {"Items": [{"WebId": "W0", "Items": [{"Timestamp": at(0), "Value": 1.5}]}]},  # no flags at all
    ],
)
def test_shapes(body: dict[str, Any]) -> None:
    found = decode_recorded(orjson.dumps(body), handles(1), typings("Float64"))
    assert plain(found) == ONE
    assert found.sent == {0: 1}
    assert (found.malformed, found.unknown) == (0, 0)


@pytest.mark.parametrize("body", [{"Links": {}, "Items": []}, {"Items": None}, {}, {"Items": [{"WebId": "W0"}]}])
def test_nothing_new(body: dict[str, Any]) -> None:
    found = decode_recorded(orjson.dumps(body), handles(1), typings("Float64"))
    assert len(found.timed) == 0
    assert found.malformed == 0


def test_streams_keep_their_order_and_types() -> None:
    body = recorded(
        [value(2, 1.5), value(1, 2)],
        [value(3, 7)],
        [value(4, {"Name": "Open", "Value": 3, "IsSystem": False})],
        [value(5, "abc"), value(6, 12)],
    )
    found = decode_recorded(body, handles(4), typings("Float32", "Int32", "Digital", "String"))
    assert rows(found.timed) == [
        (0, T0 + 2 * SECOND, 1.5, 0, 0),
        (0, T0 + 1 * SECOND, 2.0, 0, 0),
        (1, T0 + 3 * SECOND, 7.0, 0, 0),
        (2, T0 + 4 * SECOND, "Open", 0, 3),
        (3, T0 + 5 * SECOND, "abc", 0, 0),
        (3, T0 + 6 * SECOND, "12", 0, 0),
    ]
    assert found.sent == {0: 2, 1: 1, 2: 1, 3: 2}


def test_units_come_from_the_stream_or_its_values() -> None:
    body = {
        "Items": [
            {"WebId": "W0", "UnitsAbbreviation": "m", "Items": [value(0, 1)]},
            {"WebId": "W1", "Value": value(0, 1, UnitsAbbreviation="°C")},
            {"WebId": "W2", "UnitsAbbreviation": "", "Items": [value(0, 1)]},
        ]
    }
    assert decode_recorded(orjson.dumps(body), handles(3), typings(*["Float64"] * 3)).units == {0: "m", 1: "°C"}


# --- what is wrong costs itself alone ---


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        7,
        "text",
        [],
        {},
        {"Value": 1.5},
        {"Timestamp": None, "Value": 1.5},
        {"Timestamp": "yesterday", "Value": 1.5},
        {"Timestamp": "9999-12-31T23:59:59Z", "Value": 1.5},
    ],
)
def test_a_malformed_value(wrong: Any) -> None:
    body = recorded([value(0, 1.5), wrong, value(1, 2.5)], [value(2, 3.5)])
    found = decode_recorded(body, handles(2), typings("Float64", "Float64"))
    assert plain(found) == [(0, T0, 1.5), (0, T0 + SECOND, 2.5), (1, T0 + 2 * SECOND, 3.5)]
    assert found.malformed == 1
    assert found.trouble
    assert found.sent == {0: 3, 1: 1}


@pytest.mark.parametrize("wrong", [None, 7, "text", [], {"WebId": ["W0"]}, {"WebId": "W0", "Items": 7}])
def test_a_malformed_stream(wrong: Any) -> None:
    body = orjson.dumps({"Items": [wrong, {"WebId": "W1", "Items": [value(0, 1.5)]}]})
    found = decode_recorded(body, handles(2), typings("Float64", "Float64"))
    assert plain(found) == [(1, T0, 1.5)]
    assert found.malformed + found.unknown >= 1


def test_streams_that_nobody_asked_for_are_counted() -> None:
    body = orjson.dumps({"Items": [{"WebId": "W9", "Items": [value(0, 1), value(1, 2)]}, {"WebId": "W1", "Items": []}]})
    found = decode_recorded(body, {"W9": 9, "W1": 5, "W0": 0}, typings("Float64"))
    assert (found.unknown, found.sent, len(found.timed)) == (3, {}, 0)


def test_a_stream_that_failed_is_told() -> None:
    body: dict[str, Any] = {"Items": [{"WebId": "W0", "Items": [], "Errors": ["No access", {"Message": "at all"}]}]}
    assert decode_recorded(orjson.dumps(body), handles(1), typings("Float64")).errors == {0: "No access; at all"}
    body = {"Items": [{"WebId": "W0", "Exception": {"Errors": ["Gone"]}}]}
    assert decode_recorded(orjson.dumps(body), handles(1), typings("Float64")).errors == {0: "Gone"}


@pytest.mark.parametrize("message", ["PI Point not found.", ["PI Point not found."]])
def test_an_error_may_have_several_messages(message: Any) -> None:
    body = recorded([{**value(0, None), "Errors": [{"FieldName": "Value", "Message": message}]}])
    assert decode_recorded(body, handles(1), typings("Float64")).errors == {0: "PI Point not found."}


def test_an_error_without_a_time_is_the_streams() -> None:
    body = recorded([{"Timestamp": None, "Value": None, "Errors": [{"Message": "PI Point not found."}]}])
    found = decode_recorded(body, handles(1), typings("Float64", mode="snapshot"))
    assert (found.errors, found.malformed) == ({0: "PI Point not found."}, 0)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"Items": [', b"[1]", b"null", b'{"Items": 7}', b"[" * 100_000])
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_recorded(body, handles(1), typings("Float64"))


def test_an_error_in_the_place_of_an_answer_is_told() -> None:
    with pytest.raises(MalformedError, match="Error occurred during writing"):
        decode_recorded(b'{"Errors": ["Error occurred during writing"]}', handles(1), typings("Float64"))


def test_numbers_without_quotes_that_are_none() -> None:
    body = recorded([value(0, "?"), value(1, 1.5)]).replace(b'"?"', b"NaN")
    found = decode_recorded(body, handles(1), typings("Float64"))
    assert rows(found.timed) == [(0, T0, None, 2, "nan"), (0, T0 + SECOND, 1.5, 0, 0)]


def test_a_text_that_is_not_unicode_costs_no_other_value() -> None:
    body = recorded([value(0, "a?b"), value(1, "c")]).replace(b"?", b"\xff")
    found = decode_recorded(body, handles(1), typings("String"))
    assert plain(found) == [(0, T0, "a�b"), (0, T0 + SECOND, "c")]


# --- against a slow reference ---

STATES = st.fixed_dictionaries(
    {"Name": st.sampled_from(["Open", "Closed", "I/O Timeout"]), "Value": st.sampled_from([0, 1, 246, 248, 253, 251])},
    optional={"IsSystem": st.booleans()},
)
VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**53), 2**53),
    st.text(max_size=3),
    STATES,
    st.none(),
)
TIMED = st.fixed_dictionaries(
    {"Timestamp": st.integers(0, 600).map(at), "Value": VALUES},
    optional={
        "Good": st.booleans(),
        "Questionable": st.booleans(),
        "Substituted": st.booleans(),
        "Annotated": st.booleans(),
        "Errors": st.sampled_from([[], [{"Message": "no"}]]),
    },
)
TYPES = ("Float64", "Int32", "Digital", "String")


def reference(kind: str, timed: dict[str, Any]) -> tuple[Any, int] | None:
    """Value and quality as table 4.3 has it, written out for one value; None: no sample. For mode recorded."""
    of, good = timed["Value"], timed.get("Good", True)
    if timed.get("Errors") or (of is None and not good):
        return None
    if of is None:
        return None, 2
    if isinstance(of, dict):
        reserved = of["Name"] == "I/O Timeout" and of["Value"] == 246
        if kind != "Digital" or of.get("IsSystem", reserved):
            return None if of["Value"] in (248, 253) else (None, 1 if of["Value"] == 251 else 2)
        of = of["Name"]
    elif kind == "String":
        of = str(of)
    elif isinstance(of, str):
        if kind != "Digital":
            return None, 2
    elif kind == "Digital":
        if of < 0 or of != int(of) or abs(of) > 2**53:
            return None, 2
        of = str(int(of))
    elif kind == "Int32" and (of != int(of) or abs(of) > 2**53):
        return None, 2
    return of, 2 if not good else 1 if timed.get("Questionable") else 0


@given(st.lists(st.lists(TIMED, max_size=6), min_size=4, max_size=4))
def test_decoding_agrees_with_a_slow_reference(values: list[list[dict[str, Any]]]) -> None:
    found = decode_recorded(recorded(*values), handles(4), typings(*TYPES))
    expected = []
    for handle, (kind, own) in enumerate(zip(TYPES, values, strict=True)):
        for timed in own:
            made = reference(kind, timed)
            if made is not None:
                minute, second = int(timed["Timestamp"][14:16]), int(timed["Timestamp"][17:19])
                expected.append((handle, T0 + (minute * 60 + second) * SECOND, *made))
    assert [row[:4] for row in rows(found.timed)] == expected
    assert found.sent == {handle: len(own) for handle, own in enumerate(values)}
    assert found.malformed == 0


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                ["Items", "WebId", "Value", "Timestamp", "Good", "Errors", "Name", "IsSystem", "Exception"]
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=30,
)


@given(JSON)
def test_any_json_is_read_or_refused(body: Any) -> None:
    try:
        answer = orjson.dumps(body)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        return
    types = typings("Float64", "String")
    with contextlib.suppress(MalformedError):
        decode_recorded(answer, {"": 0, "W0": 1}, types)
    with contextlib.suppress(MalformedError):
        decode_updates(answer, {"": 0, "W0": 1}, types)
    with contextlib.suppress(MalformedError):
        decode_summary(answer, {("", "Average"): 0, ("None", "None"): 1}, types)


# --- what tells values apart ---


def hashes(point_type: str, *values: dict[str, Any], **of: Any) -> list[int]:
    found = decode_recorded(recorded(list(values)), handles(1), typings(point_type, **of))
    assert len(found.timed) == len(values)
    return [int(one) for one in found.timed.hash]


STATE = {"Name": "I/O Timeout", "Value": 246, "IsSystem": True}


@pytest.mark.parametrize(
    ("point_type", "same"),
    [
        ("Float64", [value(0, 0.0), value(0, -0.0), value(0, 0)]),
        ("Float64", [value(0, 5), value(0, 5.0), value(0, 5.0, Annotated=True), value(0, 5.0, Substituted=True)]),
        ("Float64", [value(0, "NaN"), value(0, "Infinity")]),
        ("Float32", [value(0, 12.3), value(0, 12.300000190734863)]),
        ("Float32", [value(0, STATE), value(0, STATE, Good=False), value(0, {"Name": "Anders", "Value": 246})]),
        ("Int32", [value(0, 7), value(0, 7.0)]),
        ("Digital", [value(0, {"Name": "Open", "Value": 3, "IsSystem": False}), value(0, {"Name": "Auf", "Value": 3})]),
        ("String", [value(0, "x" * 1000), value(0, "x" * 1000, Annotated=True)]),
        ("String", [value(0, 12), value(0, "12")]),
    ],
)
def test_the_same_value_has_the_same_hash(point_type: str, same: list[dict[str, Any]]) -> None:
    assert len(set(hashes(point_type, *same))) == 1


def test_other_values_have_other_hashes() -> None:
    numbers = [value(0, of) for of in (0, 1, -1, 1.5, 246, 1e300)]
    others = [
        value(0, 1.5, Good=False),
        value(0, 1.5, Questionable=True),
        value(0, STATE, Good=False),
        value(0, {"Name": "Shutdown", "Value": 254, "IsSystem": True}),
        value(0, "NaN"),
        value(0, None),
        value(0, "text"),
    ]
    assert len(set(hashes("Float64", *numbers, *others))) == len(numbers) + len(others)
    assert hashes("Float64", value(0, 12.3)) != hashes("Float64", value(0, 12.300000190734863))


def test_what_we_are_configured_to_make_of_a_value_does_not_change_its_hash() -> None:
    under = value(0, {"Name": "Under Range", "Value": 251, "IsSystem": True}, Good=False)
    assert hashes("Float64", under) == hashes("Float64", under, out_of_range="bad")
    edited = value(0, 1.5, Substituted=True)
    assert hashes("Float64", edited) == hashes("Float64", edited, substituted="uncertain")
    state = value(0, {"Name": "Open", "Value": 3, "IsSystem": False})
    assert hashes("Digital", state) == hashes("Digital", state, digitals="code")


# --- stream updates ---


def updates(*events: dict[str, Any] | None, **of: Any) -> bytes:
    item = {
        "Source": "W0",
        "RequestedMarker": "m_0",
        "LatestMarker": "m_3",
        "Status": "Updated",
        "Events": list(events),
    }
    return orjson.dumps({"Items": [{**item, **of}]})


def test_updates() -> None:
    body = updates(
        {"Action": "Add", "PreviousEventAction": "PreviousEventArchived", **value(0, 1.5)},
        {"Action": "Insert", **value(1, 2.5)},
        {"Action": "Update", **value(2, 3.5, Substituted=True)},
        {"Action": "Delete", **value(3, 4.5)},
        {"Action": "Refresh", **value(4, None)},
        {"Action": "Refresh", "Timestamp": at(2)},
        {"Action": "Delete", "Timestamp": "?"},
        None,
    )
    found = decode_updates(body, handles(1), typings("Float64"))
    assert plain(found) == [(0, T0, 1.5), (0, T0 + SECOND, 2.5), (0, T0 + 2 * SECOND, 3.5)]
    assert found.deleted == [(0, T0 + 3 * SECOND)]
    assert found.refresh == {0: T0 + 2 * SECOND}
    assert found.markers == {0: "m_3"}
    assert found.malformed == 2


def test_the_same_value_by_updates_and_from_the_archive() -> None:
    by_updates = decode_updates(updates({"Action": "Add", **value(0, 1.5)}), handles(1), typings("Float64"))
    from_archive = decode_recorded(recorded([value(0, 1.5)]), handles(1), typings("Float64"))
    assert by_updates.timed.hash.tolist() == from_archive.timed.hash.tolist()


@pytest.mark.parametrize(
    ("of", "why"),
    [
        ({"Exception": {"Errors": ["The signup was removed."]}}, "The signup was removed."),
        ({"Status": "Failed"}, "the server gives no reason"),
        ({"Source": None, "Status": "Failed", "Exception": {"Errors": ["Invalid marker"]}}, "Invalid marker"),
    ],
)
def test_a_stream_that_is_not_registered_any_more(of: dict[str, Any], why: str) -> None:
    found = decode_updates(updates(**of), handles(1), typings("Float64"), {"m_0": 0})
    assert (found.unregistered, found.markers) == ({0: why}, {})


def test_an_answer_to_registering() -> None:
    body = {
        "Items": [
            {"Source": "W0", "LatestMarker": "a_0", "Status": "Succeeded"},
            {"Source": "W1", "LatestMarker": "b_0", "Status": "AlreadyRegistered"},
            {"Source": "W2", "Status": "Failed", "Exception": {"Errors": ["static attribute"]}},
        ]
    }
    found = decode_updates(orjson.dumps(body), handles(3), typings(*["Float64"] * 3))
    assert (found.markers, found.unregistered) == ({0: "a_0", 1: "b_0"}, {2: "static attribute"})


# --- summaries ---


def test_summaries() -> None:
    connection = settings(mode="summary", summaries=["Average", "Count"])
    made = Typings()
    for handle, summary in enumerate(("Average", "Count")):
        made.fix(stream(handle, "Int32", connection, summary=summary), connection)
    body = {
        "Items": [
            {
                "WebId": "W0",
                "Items": [
                    {"Type": "Average", "Value": value(0, 1.25)},
                    {"Type": "Count", "Value": value(0, 4)},
                    {"Type": "Average", "Value": value(60, {"Name": "No Data", "Value": 248, "IsSystem": True})},
                    {"Type": "Maximum", "Value": value(0, 4)},
                    {"Type": "Average"},
                    None,
                ],
            },
            7,
        ]
    }
    asked = {("W0", "Average"): 0, ("W0", "Count"): 1}
    found = decode_summary(orjson.dumps(body), asked, made)
    assert plain(found) == [(0, T0, 1.25), (1, T0, 4.0)]
    assert (found.sent, found.dropped, found.unknown, found.malformed) == ({0: 2, 1: 1}, 1, 1, 3)


# --- columns that are put together ---


@given(st.lists(st.lists(st.lists(TIMED, max_size=4), min_size=4, max_size=4), max_size=4))
def test_joined_columns_mean_what_their_parts_mean(answers: list[list[list[dict[str, Any]]]]) -> None:
    parts = [decode_recorded(recorded(*values), handles(4), typings(*TYPES)).timed for values in answers]
    whole = join(parts)
    assert rows(whole) == [row for part in parts for row in rows(part)]
    assert whole.hash.tolist() == [int(one) for part in parts for one in part.hash]
    some = np.arange(len(whole))[::2]
    assert rows(whole.take(some)) == rows(whole)[::2]


def test_nothing_joined_is_nothing() -> None:
    assert len(join([])) == len(nothing()) == 0
