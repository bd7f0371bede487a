"""What is read of a point, against a plain list of its events."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plant.pi import filtering, reading
from plant.pi.events import Event
from plant.pi.points import PiPoint, PointDefinition
from plant.pi.timed_values import TimedValues

_S = 1_000_000_000
_NOW = 100 * _S
_EVENTS = st.lists(st.tuples(st.integers(0, 20), st.integers(-5, 5)), max_size=30)


def _point(events: list[tuple[int, int]], **attributes: Any) -> PiPoint:
    point = PiPoint(PointDefinition("P", **attributes), 1, "S")
    for second, value in events:
        point.write(point.taken(Event(second * _S, value)))
    return point


def _told(values: TimedValues) -> list[tuple[float, Any]]:
    return [(e.time_ns / _S, e.state.name if e.state else e.value) for e in values.events()]


@settings(deadline=None)
@given(_EVENTS, st.integers(-2, 22), st.integers(-2, 22), st.integers(1, 10))
def test_inside_is_what_lies_between_both_ends_with_them_cut_off_in_silence(
    written: list[tuple[int, int]], start: int, end: int, most: int
) -> None:
    values = reading.recorded(_point(written), start * _S, end * _S, now_ns=_NOW, most=most)
    ordered = sorted(written, key=lambda one: one[0])
    expected = [one for one in ordered if min(start, end) <= one[0] <= max(start, end)]
    assert _told(values) == (expected if start <= end else expected[::-1])[:most]


@settings(deadline=None)
@given(_EVENTS, st.integers(-2, 22), st.integers(-2, 22))
def test_outside_has_the_nearest_beyond_an_end_on_which_nothing_lies(
    written: list[tuple[int, int]], start: int, end: int
) -> None:
    values = reading.recorded(_point(written), start * _S, end * _S, now_ns=_NOW, most=1000, boundary="Outside")
    low, high = min(start, end), max(start, end)
    ordered = sorted(written, key=lambda one: one[0])
    inside = [one for one in ordered if low <= one[0] <= high]
    before, after = [one for one in ordered if one[0] < low], [one for one in ordered if one[0] > high]
    at_low, at_high = any(one[0] == low for one in inside), any(one[0] == high for one in inside)
    expected = (before[-1:] if not at_low else []) + inside + (after[:1] if not at_high else [])
    assert _told(values) == (expected if start <= end else expected[::-1])


def test_interpolated_ends_are_made_where_nothing_lies() -> None:
    point = _point([(0, 0), (4, 4), (8, 8)])
    values = reading.recorded(point, 2 * _S, 6 * _S, now_ns=_NOW, most=10, boundary="Interpolated")
    assert _told(values) == [(2, 2.0), (4, 4.0), (6, 6.0)]
    values = reading.recorded(point, 8 * _S, 0, now_ns=_NOW, most=2, boundary="Interpolated")
    assert _told(values) == [(8, 8.0), (4, 4.0)], "an end on which an event lies is that event"


@settings(deadline=None)
@given(_EVENTS, st.integers(-1, 21), st.sampled_from(reading.RETRIEVALS))
def test_recorded_at_a_time(written: list[tuple[int, int]], second: int, mode: reading.Retrieval) -> None:
    found = reading.recorded_at(_point(written), second * _S, mode)
    before = [time for time, _ in written if time < second]
    after = [time for time, _ in written if time > second]
    here = [second] if any(time == second for time, _ in written) else []
    expected = {
        "Exact": here,
        "Before": [max(before)] if before else [],
        "After": [min(after)] if after else [],
        "AtOrBefore": here or ([max(before)] if before else []),
        "AtOrAfter": here or ([min(after)] if after else []),
        "Auto": here or ([max(before)] if before else [min(after)] if after else []),
    }[mode]
    assert [found.time_ns // _S] == expected if found else not expected


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 20), st.integers(-5, 5), min_size=1), st.integers(0, 2100))
def test_between_two_numbers_lies_a_line_and_behind_the_last_it_holds(values: dict[int, int], hundredths: int) -> None:
    time = hundredths * _S // 100
    found = reading.interpolated_at(_point(list(values.items())), time, _NOW)
    if time < min(values) * _S:
        assert found == reading.no_data(time)
        return
    times = sorted(values)
    expected = np.interp(hundredths / 100, times, [values[t] for t in times])
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.time_ns == time


def test_a_value_holds_where_no_line_can_be() -> None:
    step, number = _point([(0, 0), (10, 10)], step=True), _point([(0, 0)])
    number.write(Event.of_system(10 * _S, "I/O Timeout"))
    number.write(Event(20 * _S, 5.0))
    assert reading.interpolated_at(step, 5 * _S, _NOW).value == 0.0
    assert [reading.interpolated_at(number, s * _S, _NOW).value for s in (5, 15, 25)] == [0.0, 246, 5.0]
    assert reading.interpolated_at(_point([(0, 0), (10, 10)], type="Int32"), 4 * _S, _NOW).value == 4


def test_no_line_leads_to_a_number_that_is_not_good() -> None:
    point = _point([(0, 0), (20, 20)])
    point.write(Event(10 * _S, 10.0, good=False))
    assert [reading.interpolated_at(point, s * _S, _NOW) for s in (5, 15)] == [
        Event(5 * _S, 0.0),
        Event(15 * _S, 10.0, good=False),
    ]


def test_there_is_nothing_further_ahead_than_ten_minutes() -> None:
    assert reading.interpolated_at(_point([(0, 1)]), _NOW + 601 * _S, _NOW).value == 248


def test_the_value_of_a_point_with_future_is_the_present_one_and_its_end_the_last() -> None:
    point = _point([(50, 1), (200, 2)], future=True)
    assert (reading.value(point, _NOW).value, reading.end(point, _NOW).value) == (1.0, 2.0)
    assert reading.value(_point([(200, 2)], future=True), _NOW).value == 248


def test_a_point_that_never_had_a_value_says_that_it_was_created() -> None:
    point = PiPoint(PointDefinition("P"), 1, "S", created_ns=7 * _S)
    assert reading.value(point, _NOW) == Event.of_system(7 * _S, "Pt Created")


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        ({}, [3, 6, 9]),
        ({"start": 10, "end": 3}, [10, 7, 4]),
        ({"sync": 0}, [3, 6, 9]),
        ({"sync": 2}, [5, 8]),
        ({"sync": 2, "outside": True}, [2, 5, 8, 11]),
        ({"start": 10, "end": 3, "sync": 2}, [8, 5]),
    ],
)
def test_evenly_spaced_times(arguments: dict[str, Any], seconds: list[int]) -> None:
    start, end, sync = arguments.get("start", 3), arguments.get("end", 10), arguments.get("sync")
    times = reading.steps(
        start * _S,
        end * _S,
        3 * _S,
        sync_ns=None if sync is None else sync * _S,
        outside=arguments.get("outside", False),
    )
    assert [time / _S for time in times] == seconds


@settings(deadline=None)
@given(_EVENTS, st.integers(1, 6))
def test_a_plot_has_the_extremes_and_both_sides_of_every_column(written: list[tuple[int, int]], columns: int) -> None:
    values = reading.plot(_point(written), 0, 20 * _S, columns, _NOW)
    told = _told(values)
    assert [time for time, _ in told] == sorted(time for time, _ in told)
    assert len(told) <= 5 * columns + 2
    numbers = [value for _, value in told if not isinstance(value, str)]
    if written:
        assert min(numbers) == min(value for _, value in written)
        assert max(numbers) == max(value for _, value in written)


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("'.' > 2", [3, 4]),
        ("'.' >= 2 and '.' < 4", [2, 3]),
        ("'.' = 1 or '.' = 4", [1, 4]),
        ("not '.' <> 3", [3, 246]),  # a state is no number: it is neither more nor less
        ("('.' < 2 or '.' > 3) and not '.' = -1", [0, 1, 4]),
        ("BadVal('.')", [246]),
        ("not badval('.')", [0, 1, 2, 3, 4]),
        ("IsSet('.', \"a\")", [2]),
        ("isset('.',\"Q\")", [3]),
        ("'.' = \"I/O timeout\"", [246]),
    ],
)
def test_filters(expression: str, kept: list[int]) -> None:
    point = _point([(0, 0), (1, 1)])
    point.write(Event(2 * _S, 2.0, annotated=True))
    point.write(Event(3 * _S, 3.0, questionable=True))
    point.write(Event(4 * _S, 4.0))
    point.write(Event.of_system(5 * _S, "I/O Timeout"))
    test = filtering.parse(expression)
    found = reading.recorded(point, 0, 9 * _S, now_ns=_NOW, most=100, test=test)
    assert [event.value for event in found.events()] == kept
    all_of_them = reading.recorded(point, 0, 9 * _S, now_ns=_NOW, most=100, test=test, keep_filtered=True)
    assert [e.value if e.value != 244 else "Filtered" for e in all_of_them.events()] == [
        value if value in kept else "Filtered" for value in (0, 1, 2, 3, 4, 246)
    ]


@pytest.mark.parametrize(
    "expression", ["'.'", "'.' >", "x", "'.' > 1 '.'", "IsSet('.', \"z\")", "(", "'TAG' > 1", "'.' > 1)"]
)
def test_a_filter_that_is_none_is_refused(expression: str) -> None:
    with pytest.raises(filtering.FilterError, match="filter expression"):
        filtering.parse(expression)
