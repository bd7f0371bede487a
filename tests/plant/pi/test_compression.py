"""The two sieves: what may be thrown away, and that nothing else is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plant.pi.compression import ExceptionReporting
from plant.pi.events import Event
from plant.pi.points import PiPoint, PointDefinition
from plant.pi.states import DigitalSet

_S = 1_000_000_000
_Array = npt.NDArray[np.float64]
_SERIES = st.lists(st.tuples(st.integers(1, 100), st.integers(-1000, 1000)), min_size=1, max_size=80)


def _raw(series: list[tuple[int, int]]) -> list[Event]:
    times = np.cumsum([step for step, _ in series])
    return [Event(int(time) * _S, value / 10) for time, (_, value) in zip(times, series, strict=True)]


def _kept(definition: PointDefinition, raw: list[Event]) -> list[Event]:
    point = PiPoint(definition, 1, "S")
    for event in raw:
        point.write(point.taken(event))
    return point.archived()


def _arrays(events: list[Event]) -> tuple[_Array, _Array]:
    return np.array([e.time_ns for e in events], np.float64), np.array([e.value for e in events], np.float64)


@settings(deadline=None)
@given(_SERIES, st.sampled_from([0.0, 0.5, 5.0, 50.0]))
def test_the_line_through_what_is_kept_is_within_the_deviation_of_everything(
    series: list[tuple[int, int]], compdev: float
) -> None:
    raw = _raw(series)
    kept = _kept(PointDefinition("P", compressing=True, compdev=compdev, compmax=1e6), raw)
    times, values = _arrays(raw)
    line = np.interp(times, *_arrays(kept))
    assert np.abs(line - values).max() <= compdev + 1e-6


@given(_SERIES, st.floats(0, 50))
def test_the_first_and_the_last_are_kept_and_nothing_is_invented(series: list[tuple[int, int]], compdev: float) -> None:
    raw = _raw(series)
    kept = _kept(PointDefinition("P", compressing=True, compdev=compdev), raw)
    assert kept[0] == raw[0]
    assert kept[-1] == raw[-1]
    assert set(kept) <= set(raw)


@given(_SERIES, st.integers(1, 300))
def test_nothing_is_held_back_for_longer_than_the_maximum(series: list[tuple[int, int]], compmax: int) -> None:
    raw = _raw(series)
    kept = _kept(PointDefinition("P", compressing=True, compdev=1e9, compmax=compmax), raw)
    for one, other in pairwise(kept):
        between = [event for event in raw if one.time_ns < event.time_ns < other.time_ns]
        assert other.time_ns - one.time_ns < compmax * _S or not between


@given(_SERIES, st.integers(1, 300))
def test_what_follows_sooner_than_the_minimum_is_not_archived(series: list[tuple[int, int]], compmin: int) -> None:
    kept = _kept(PointDefinition("P", compressing=True, compdev=0.0, compmin=compmin), _raw(series))
    for one, other in pairwise(kept[:-1]):  # the last is the snapshot
        assert other.time_ns - one.time_ns >= compmin * _S


@given(_SERIES, st.sampled_from([0.0, 5.0, 50.0]))
def test_of_a_point_with_steps_the_value_in_force_is_within_the_deviation(
    series: list[tuple[int, int]], compdev: float
) -> None:
    raw = _raw(series)
    kept = _kept(PointDefinition("P", step=True, compressing=True, compdev=compdev, compmax=1e6), raw)
    times, values = _arrays(raw)
    kept_times, kept_values = _arrays(kept)
    in_force = kept_values[np.searchsorted(kept_times, times, side="right") - 1]
    assert np.abs(in_force - values).max() <= compdev + 1e-9


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_a_digital_point_keeps_every_change_of_state_and_no_repeats(codes: list[int]) -> None:
    states = DigitalSet("S", ["a", "b", "c"])
    raw = [Event(number * _S, code) for number, code in enumerate(codes, 1)]
    kept = _kept(PointDefinition("P", type="Digital", digital_set=states, compressing=True), raw)
    changes = [e for n, e in enumerate(raw) if n == 0 or e.value != raw[n - 1].value]
    assert [(e.time_ns, e.value) for e in kept if e.time_ns != raw[-1].time_ns] == [
        (e.time_ns, e.value) for e in changes if e.time_ns != raw[-1].time_ns
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["up", "down", "?", "I/O Timeout", "nan"])), max_size=40))
def test_no_line_is_drawn_across_a_state_a_hole_or_another_quality(steps: list[tuple[int, str]]) -> None:
    raw, time, number = [], 0, 0.0
    for step, what in steps:
        time += step
        number += {"up": 1.0, "down": -1.0}.get(what, 0.0)
        raw.append(
            Event.of_system(time * _S, what)
            if what == "I/O Timeout"
            else Event(time * _S, float("nan") if what == "nan" else number, questionable=what == "?")
        )
    kept = _kept(PointDefinition("P", compressing=True, compdev=0.5, compmax=1e6), raw)
    times = [event.time_ns for event in kept]
    for before, event, after in zip(raw, raw[1:], raw[2:], strict=False):
        kinds = [(e.state, str(e.value) == "nan", e.questionable) for e in (before, event, after)]
        if kinds[1] != kinds[0] or (kinds[1] != kinds[2] and event.number == event.number and event.state is None):
            assert event.time_ns in times


def test_annotated_values_are_all_kept_though_a_line_passes_through_them() -> None:
    raw = [Event(n * _S, 1.0, annotated=3 <= n <= 6) for n in range(1, 10)]
    kept = _kept(PointDefinition("P", compressing=True, compdev=10, compmax=1e6), raw)
    assert [e.time_ns // _S for e in kept if e.annotated] == [3, 4, 5, 6]


@settings(deadline=None)
@given(_SERIES, st.integers(0, 50))
def test_exception_reporting_holds_back_only_what_is_near_the_last_one_sent(
    series: list[tuple[int, int]], excdev: int
) -> None:
    raw = _raw(series)
    sieve = ExceptionReporting(float(excdev), 10**18, 0)
    last, held = None, None
    for event in raw:
        sent = sieve.offer(event)
        if not sent:
            assert last is not None
            assert abs(event.value - last.value) <= excdev  # type: ignore[operator]
            held = event
            continue
        # What was held just before a step goes with it, so that no ramp is seen in its place.
        assert sent == ([event] if held is None else [held, event])
        last, held = event, None


@pytest.mark.parametrize(("elapsed", "sent"), [(5, False), (11, True)])
def test_exception_reporting_sends_in_any_case_after_its_maximum(elapsed: int, sent: bool) -> None:
    sieve = ExceptionReporting(100.0, 10 * _S, 0)
    sieve.offer(Event(_S, 1.0))
    assert bool(sieve.offer(Event((1 + elapsed) * _S, 1.0))) is sent


def test_exception_reporting_waits_for_its_minimum() -> None:
    sieve = ExceptionReporting(0.0, 10**18, 10 * _S)
    sieve.offer(Event(_S, 1.0))
    assert not sieve.offer(Event(3 * _S, 50.0))
    assert [e.value for e in sieve.offer(Event(12 * _S, 60.0))] == [50.0, 60.0]
