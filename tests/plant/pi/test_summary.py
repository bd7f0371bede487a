"""Summaries, against a slow sum over every second."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plant.pi.events import Event
from plant.pi.points import PiPoint, PointDefinition
from plant.pi.states import DigitalSet
from plant.pi.summary import TYPES, Basis, Type, summaries

_S = 1_000_000_000
_NOW = 10_000 * _S
_VALUES = st.dictionaries(st.integers(0, 30), st.one_of(st.none(), st.integers(-9, 9)), min_size=1)


def _point(values: dict[int, int | None], **attributes: Any) -> PiPoint:
    point = PiPoint(PointDefinition("P", **attributes), 1, "S")
    for second in sorted(values):
        value = values[second]
        point.write(Event.of_system(second * _S, 246) if value is None else Event(second * _S, float(value)))
    return point


def _found(point: PiPoint, start: int, end: int, **options: Any) -> dict[Type, Event]:
    return dict(summaries(point, start * _S, end * _S, ["All"], now_ns=_NOW, **options))


def _at(values: dict[int, int | None], time: float, *, step: bool) -> float | None:
    """What is in force at a time between two whole seconds."""
    before = max((t for t in values if t <= time), default=None)
    if before is None or values[before] is None:
        return None
    first = float(values[before] or 0)
    after = min((t for t in values if t > time), default=None)
    if step or after is None or values[after] is None:
        return first
    return first + (float(values[after] or 0) - first) * (time - before) / (after - before)


@settings(deadline=None, max_examples=200)
@given(_VALUES, st.integers(0, 30), st.integers(1, 30), st.booleans())
def test_time_weighted_against_a_sum_over_every_second(
    values: dict[int, int | None], start: int, length: int, step: bool
) -> None:
    found = _found(_point(values, step=step), start, start + length)
    # Within one second the line is straight: its ends and its middle give its integral and its square's exactly.
    seconds = []
    for second in range(start, start + length):
        three = [_at(values, second + part, step=step) for part in (1e-9, 0.5, 1 - 1e-9)]
        if all(one is not None for one in three):
            seconds.append([float(one) for one in three if one is not None])
    assert found["PercentGood"].value == pytest.approx(100 * len(seconds) / length)
    assert found["Count"].value == pytest.approx(len(seconds))
    if not seconds:
        assert found["Average"].value == 248
        return
    mean = sum((a + 4 * m + b) / 6 for a, m, b in seconds) / len(seconds)
    square = sum((a * a + 4 * m * m + b * b) / 6 for a, m, b in seconds) / len(seconds)
    assert found["Average"].value == pytest.approx(mean, abs=1e-6)
    assert found["Total"].value == pytest.approx(mean * len(seconds) / 86400, abs=1e-9)
    assert found["PopulationStdDev"].value == pytest.approx(math.sqrt(max(0.0, square - mean * mean)), abs=1e-3)
    ends = [end for one in seconds for end in one]
    assert found["Minimum"].value == pytest.approx(min(ends), abs=1e-6)
    assert found["Maximum"].value == pytest.approx(max(ends), abs=1e-6)
    assert found["Range"].value == pytest.approx(max(ends) - min(ends), abs=1e-6)


@settings(deadline=None)
@given(_VALUES, st.integers(0, 30), st.integers(1, 30))
def test_event_weighted_against_the_statistics_of_a_list(
    values: dict[int, int | None], start: int, length: int
) -> None:
    found = _found(_point(values), start, start + length, basis="EventWeighted")
    inside = [value for second, value in values.items() if start <= second <= start + length]
    good = [value for value in inside if value is not None]
    if not good:
        assert (found["Average"].value, found["Count"].value, found["PercentGood"].value) == (248, 0.0, 0.0)
        return
    assert found["Count"].value == len(good)
    assert found["PercentGood"].value == pytest.approx(100 * len(good) / len(inside))
    assert found["Total"].value == pytest.approx(sum(good))
    assert found["Average"].value == pytest.approx(statistics.fmean(good))
    assert found["PopulationStdDev"].value == pytest.approx(statistics.pstdev(good))
    assert found["StdDev"].value == (pytest.approx(statistics.stdev(good)) if len(good) > 1 else 248)
    assert (found["Minimum"].value, found["Maximum"].value) == (min(good), max(good))


def test_intervals_follow_each_other_and_the_last_may_be_shorter() -> None:
    point = _point({second: second for second in range(26)})
    found = summaries(point, 0, 25 * _S, ["Average"], now_ns=_NOW, duration_ns=10 * _S)
    assert [(event.time_ns // _S, event.value) for _, event in found] == [(0, 5.0), (10, 15.0), (20, 22.5)]


@pytest.mark.parametrize(
    ("basis", "counts"),
    [
        ("EventWeighted", [10, 11]),
        ("EventWeightedIncludeBothEnds", [11, 11]),
        ("EventWeightedExcludeMostRecentEvent", [10, 10]),
        ("EventWeightedExcludeEarliestEvent", [10, 10]),
    ],
)
def test_who_has_the_events_on_the_border_of_two_intervals(basis: Basis, counts: list[int]) -> None:
    point = _point(dict.fromkeys(range(21), 1))
    found = summaries(point, 0, 20 * _S, ["Count"], now_ns=_NOW, duration_ns=10 * _S, basis=basis)
    assert [event.value for _, event in found] == counts


def test_extremes_have_their_time_unless_another_is_asked_for() -> None:
    point = _point({0: 5, 3: 9, 6: 1, 9: 5})
    for stamp, times in (("Auto", (6, 3, 0)), ("EarliestTime", (0, 0, 0)), ("MostRecentTime", (9, 9, 9))):
        found = _found(point, 0, 9, stamp=stamp)
        assert tuple(found[kind].time_ns // _S for kind in ("Minimum", "Maximum", "Average")) == times


def test_evenly_spaced_samples_can_be_summarised_instead_of_what_was_recorded() -> None:
    point = _point({0: 0, 10: 10})
    found = summaries(point, 0, 10 * _S, ["Count"], now_ns=_NOW, basis="EventWeighted", sample_ns=_S)
    assert [event.value for _, event in found] == [11]


def test_each_type_is_there_once_and_in_order() -> None:
    found = summaries(_point({0: 1}), 0, _S, ["Maximum", "Total", "Maximum"], now_ns=_NOW)
    assert [kind for kind, _ in found] == ["Total", "Maximum"]
    assert [kind for kind, _ in summaries(_point({0: 1}), 0, _S, ["All"], now_ns=_NOW)] == list(TYPES[:9])


def test_of_what_has_no_numbers_there_are_count_and_share_alone() -> None:
    point = PiPoint(PointDefinition("D", type="Digital", digital_set=DigitalSet("S", ["Off", "On"])), 1, "S")
    point.write(point.taken(Event(0, 1)))
    point.write(Event.of_system(6 * _S, "I/O Timeout"))
    found = _found(point, 0, 10)
    assert (found["Count"].value, found["PercentGood"].value, found["Average"].value) == (6.0, 60.0, 248)
    found = _found(point, 0, 10, basis="EventWeighted")
    assert (found["Count"].value, found["PercentGood"].value, found["Total"].value) == (1, 50.0, 248)


def test_no_line_leads_to_a_number_that_is_not_good() -> None:
    point = _point({0: 2})
    point.write(Event(4 * _S, 100.0, good=False))
    point.write(Event(8 * _S, 4.0))
    found = _found(point, 0, 10)
    assert found["Count"].value == 6.0
    assert found["Average"].value == pytest.approx((4 * 2 + 2 * 4) / 6)
