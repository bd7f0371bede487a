"""What a point remembers, against a plain list that knows only the order of events."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plant.pi.archive import Archive
from plant.pi.events import Change, Event, Mode
from plant.pi.system import DigitalSet, PiError, PiPoint, PiSystem, PointDefinition

_S = 1_000_000_000
_NOW = 1_000 * _S


class _Clock:
    def now_ns(self) -> int:
        return _NOW


@dataclass
class _Naive:
    """Events in the order of time, and of their coming."""

    events: list[Event] = field(default_factory=list)

    def write(self, event: Event, mode: Mode) -> str | None:
        here = [n for n, e in enumerate(self.events) if e.time_ns == event.time_ns]
        if here and mode in ("replace", "replace-only"):
            self.events[here[0]] = replace(event, substituted=True)
            return "Update"
        if (here and mode == "no-replace") or mode == "replace-only":
            return None
        behind = sum(e.time_ns <= event.time_ns for e in self.events)
        self.events.insert(behind, event)
        return "Add" if behind == len(self.events) - 1 else "Insert"

    def delete(self, time_ns: int) -> str | None:
        here = [n for n, e in enumerate(self.events) if e.time_ns == time_ns]
        if not here:
            return None
        del self.events[here[0]]
        return "Delete"


_WRITES = st.tuples(
    st.sampled_from(["insert", "replace", "no-replace", "replace-only", "insert-no-compression"]),
    st.integers(1, 12),
    st.integers(0, 5),
)
_DELETES = st.tuples(st.just("delete"), st.integers(1, 12), st.just(0))


@settings(deadline=None)
@given(st.lists(st.one_of(_WRITES, _DELETES), max_size=40))
def test_every_way_to_write_does_what_it_says(steps: list[tuple[Any, int, int]]) -> None:
    system = PiSystem(_Clock())
    point, naive, told = system.add(PointDefinition("P")), _Naive(), list[Change]()
    system.listeners.append(told.extend)
    expected = []
    for mode, second, value in steps:
        event = Event(second * _S, float(value))
        if mode == "delete":
            system.delete(point, event.time_ns)
            done = naive.delete(event.time_ns)
        else:
            system.write(point, event, mode=mode)
            done = naive.write(event, mode)
        expected += [done] if done else []
    assert system.archived(point) == naive.events
    assert [change.action for change in told] == expected
    assert point.snapshot == (naive.events[-1] if naive.events else None)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9)), min_size=1, max_size=60))
def test_late_events_are_all_kept_whatever_compression_does_with_the_others(written: list[tuple[int, int]]) -> None:
    system = PiSystem(_Clock())
    point = system.add(PointDefinition("P", compressing=True, compdev=3.0))
    kept = []
    for second, value in written:
        change = system.write(point, Event(second * _S, float(value)))
        assert change is not None
        if change.action == "Insert":
            kept.append(change.event)
    archived = system.archived(point)
    assert all(event in archived for event in kept)
    assert [event.time_ns for event in archived] == sorted(event.time_ns for event in archived)


def test_a_new_event_says_what_became_of_the_snapshot_before_it() -> None:
    system = PiSystem(_Clock())
    point = system.add(PointDefinition("P", compressing=True, compdev=1.0))
    previous = []
    for second, value in ((1, 0.0), (2, 0.1), (3, 0.2), (4, 50.0), (5, 50.0)):
        change = system.write(point, Event(second * _S, value))
        assert change is not None
        previous.append(change.previous)
    assert previous == [None, "archived", "compressed", "archived", "archived"]
    assert [event.value for event in system.archived(point)] == [0.0, 0.2, 50.0, 50.0]
    assert [event.value for event in system.archived(point, snapshot=False)] == [0.0, 0.2, 50.0]


def test_events_of_one_time_are_all_kept_in_the_order_in_which_they_came() -> None:
    system = PiSystem(_Clock())
    point = system.add(PointDefinition("P", compressing=True, compdev=100.0))
    for value in (3.0, 1.0, 2.0):
        system.write(point, Event(5 * _S, value))
    assert [event.value for event in system.archived(point)] == [3.0, 1.0, 2.0]


def test_what_is_written_without_compression_outlives_what_follows() -> None:
    system = PiSystem(_Clock())
    point = system.add(PointDefinition("P", compressing=True, compdev=100.0))
    for second in range(1, 6):
        system.write(point, Event(second * _S, 1.0), mode="insert-no-compression" if second == 3 else "insert")
    assert [event.time_ns // _S for event in system.archived(point)] == [1, 3, 5]


def test_when_the_snapshot_is_deleted_the_one_before_it_takes_its_place_and_stays() -> None:
    system = PiSystem(_Clock())
    point = system.add(PointDefinition("P", compressing=True, compdev=100.0))
    for second in (1, 2, 3, 4):
        system.write(point, Event(second * _S, 0.0), mode="insert-no-compression" if second == 2 else "insert")
    system.delete(point, 4 * _S)
    assert point.snapshot == Event(2 * _S, 0.0)
    for second in (5, 6):
        system.write(point, Event(second * _S, 0.0))
    assert [event.time_ns // _S for event in system.archived(point)] == [1, 2, 6]


def test_deleting_one_of_several_at_a_time_takes_the_one_with_that_value() -> None:
    system = PiSystem(_Clock())
    point = system.add(PointDefinition("P"))
    for value in (1.0, 2.0):
        system.write(point, Event(_S, value))
    system.delete(point, _S, 2.0)
    assert [event.value for event in system.archived(point)] == [1.0]
    assert system.delete(point, _S, 7.0) is None


def test_times_are_cut_off_at_100_ns() -> None:
    system = PiSystem(_Clock())
    point = system.add(PointDefinition("P"))
    system.write(point, Event(1_234_567_899, 1.0))
    assert system.archived(point)[0].time_ns == 1_234_567_800


@pytest.mark.parametrize(
    ("kind", "written", "kept"),
    [
        ("Int32", 7.9, 7),
        ("Float32", 0.1, 0.1),
        ("Float32", 1 / 3, 0.33333334),
        ("Float32", 1e39, float("inf")),
        ("Float64", 1 / 3, 1 / 3),
        ("String", "käse", "käse"),
        ("String", 5, "5"),
    ],
)
def test_a_value_has_the_precision_of_its_points_type(kind: Any, written: Any, kept: Any) -> None:
    system = PiSystem(_Clock())
    point = system.add(PointDefinition("P", type=kind))
    system.write(point, Event(_S, written))
    assert system.archived(point)[0].value == kept
    assert type(system.archived(point)[0].value) is type(kept)


def test_states_and_flags_come_back_as_they_were() -> None:
    system = PiSystem(_Clock())
    digital = system.add(PointDefinition("D", type="Digital", digital_set=DigitalSet("S", ["Off", "On"])))
    number = system.add(PointDefinition("N"))
    system.write(digital, Event(_S, "on"))
    system.write(digital, Event.of_system(2 * _S, "Shutdown"))
    system.write(number, Event.of_system(_S, 246))
    system.write(number, Event(2 * _S, float("-inf"), good=False, questionable=True, annotated=True))
    on, shutdown = system.archived(digital)
    assert (on.state.name, on.value, on.good) == ("On", 1, True)  # type: ignore[union-attr]
    assert (shutdown.state.code, shutdown.state.is_system, shutdown.good) == (254, True, False)  # type: ignore[union-attr]
    timeout, infinite = system.archived(number)
    assert (timeout.state.name, timeout.good, timeout.number) == ("I/O Timeout", False, None)  # type: ignore[union-attr]
    assert infinite == Event(2 * _S, float("-inf"), good=False, questionable=True, annotated=True)


@pytest.mark.parametrize(
    ("definition", "value"),
    [
        (PointDefinition("P"), "text"),
        (PointDefinition("P"), None),
        (PointDefinition("P", type="Digital", digital_set=DigitalSet("S", ["Off"])), 1),
        (PointDefinition("P", type="Digital", digital_set=DigitalSet("S", ["Off"])), "On"),
    ],
)
def test_a_value_that_the_type_does_not_take_is_refused(definition: PointDefinition, value: Any) -> None:
    system = PiSystem(_Clock())
    with pytest.raises(ValueError, match=r"P|S"):
        system.write(system.add(definition), Event(_S, value))


def test_only_a_point_with_future_takes_what_lies_more_than_ten_minutes_ahead() -> None:
    system = PiSystem(_Clock())
    present, future = system.add(PointDefinition("P")), system.add(PointDefinition("F", future=True, compressing=True))
    system.write(present, Event(_NOW + 600 * _S, 1.0))
    with pytest.raises(PiError, match="future"):
        system.write(present, Event(_NOW + 601 * _S, 1.0))
    for hours in (3, 1, 2):
        system.write(future, Event(_NOW + hours * 3600 * _S, 1.0))
    assert len(system.archived(future)) == 3, "future data is not compressed"


def test_of_several_writes_those_before_a_refused_one_are_written_and_told() -> None:
    system = PiSystem(_Clock())
    point, told = system.add(PointDefinition("P")), list[Change]()
    system.listeners.append(told.extend)
    with pytest.raises(PiError):
        system.write_many([(point, Event(_S, 1.0)), (point, Event(_NOW * 2, 1.0)), (point, Event(2 * _S, 1.0))])
    assert [change.event.time_ns for change in told] == [_S]


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(allow_nan=False)), max_size=50))
def test_a_past_that_is_loaded_at_once_is_as_if_it_had_been_written(series: list[tuple[int, float]]) -> None:
    series.sort(key=lambda one: one[0])
    loaded, written = PiPoint(PointDefinition("P"), 1, "S"), PiPoint(PointDefinition("P"), 1, "S")
    loaded.load([time * 100 for time, _ in series], [value for _, value in series])
    for time, value in series:
        written.write(written.taken(Event(time * 100, value)))
    assert loaded.archived() == written.archived()


def test_a_past_out_of_order_is_refused() -> None:
    archive = Archive()
    archive.extend([1, 5], [0.0, 0.0])
    with pytest.raises(ValueError, match="ascend"):
        archive.extend([4], [0.0])
    with pytest.raises(ValueError, match="ascend"):
        archive.extend([7, 6], [0.0, 0.0])
    with pytest.raises(ValueError, match="2 times for 1"):
        archive.extend([7, 8], [0.0])
