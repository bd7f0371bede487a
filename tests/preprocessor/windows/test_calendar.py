"""Where windows begin and end."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessor.engine.refusal import Refusal
from preprocessor.windows.calendar import MOST_SEQUENCE, Batches, Calendar, Sequence, calendar_of
from preprocessor.windows.ragged import OPEN

SECOND = 1_000_000_000
HOUR = 3_600.0
DAY = 24 * HOUR
BERLIN = ZoneInfo("Europe/Berlin")
NO_SLOT = np.zeros(1, dtype=np.int32)


def instant(*when: int, zone: ZoneInfo = BERLIN, fold: int = 0) -> int:
    return int(datetime(*when, tzinfo=zone, fold=fold).timestamp()) * SECOND  # type: ignore[misc,arg-type]


def spans(calendar: Calendar, time: int, count: int) -> list[tuple[int, int]]:
    """The windows from the one on that ends first behind a time."""
    number = calendar.after(NO_SLOT, np.array([time]))
    found = [(calendar.start(NO_SLOT, number + i), calendar.end(NO_SLOT, number + i)) for i in range(count)]
    return [(int(start[0]), int(end[0])) for start, end in found]


def hours(calendar: Calendar, time: int, count: int) -> list[float]:
    return [(end - start) / SECOND / HOUR for start, end in spans(calendar, time, count)]


@given(
    size=st.integers(1, 500),
    slide=st.integers(1, 500),
    offset=st.integers(0, 1000),
    time=st.integers(-(10**6), 10**6),
)
def test_regular_windows_hold_every_time_as_often_as_they_overlap(
    size: int, slide: int, offset: int, time: int
) -> None:
    if slide > size or size > 100 * slide:
        return
    calendar = calendar_of(size, slide, offset, "UTC")
    week = 4 * 86_400 if size == slide == 7 * 86_400 else 0
    expected = [
        (number * slide + offset + week) * SECOND
        for number in range((time - offset - size) // slide - 2, (time - offset) // slide + 3)
        if number * slide + offset <= time < number * slide + offset + size
    ]
    first = calendar.after(NO_SLOT, np.array([time * SECOND]))[0]
    behind = calendar.begins(NO_SLOT, np.array([time * SECOND + 1]))[0]
    assert [int(calendar.start(NO_SLOT, np.array([n]))[0]) for n in range(first, behind)] == expected


def test_days_are_as_long_as_they_are() -> None:
    days = calendar_of(DAY, None, 0, "Europe/Berlin")
    assert hours(days, instant(2024, 3, 30, 12), 3) == [24, 23, 24]
    assert hours(days, instant(2024, 10, 26, 12), 3) == [24, 25, 24]
    assert spans(days, instant(2024, 10, 27), 1) == [(instant(2024, 10, 27), instant(2024, 10, 28))]


def test_a_day_whose_midnight_clocks_skip_begins_when_they_do() -> None:
    days = calendar_of(DAY, None, 0, "America/Sao_Paulo")
    zone = ZoneInfo("America/Sao_Paulo")
    assert spans(days, instant(2017, 10, 14, 12, zone=zone), 2) == [
        (instant(2017, 10, 14, zone=zone), instant(2017, 10, 15, 1, zone=zone)),
        (instant(2017, 10, 15, 1, zone=zone), instant(2017, 10, 16, zone=zone)),
    ]


def test_shifts_stay_at_their_hours_when_clocks_are_changed() -> None:
    shifts = calendar_of(8 * HOUR, None, 6 * HOUR, "Europe/Berlin")
    assert hours(shifts, instant(2024, 10, 26, 23), 2) == [9, 8]
    starts = [start for start, _ in spans(shifts, instant(2024, 3, 30, 12), 9)]
    assert {datetime.fromtimestamp(start / SECOND, BERLIN).hour for start in starts} == {6, 14, 22}


def test_an_hour_that_is_there_twice_has_two_windows_and_one_that_is_skipped_none() -> None:
    each_hour = calendar_of(HOUR, None, 0, "Europe/Berlin")
    assert hours(each_hour, instant(2024, 10, 27, 1), 4) == [1, 1, 1, 1]
    assert spans(each_hour, instant(2024, 10, 27, 2), 2)[1][0] == instant(2024, 10, 27, 2, fold=1)
    assert [start for start, _ in spans(each_hour, instant(2024, 3, 31, 1), 2)] == [
        instant(2024, 3, 31, 1),
        instant(2024, 3, 31, 3),
    ]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_weeks_begin_on_mondays(zone: str) -> None:
    weeks = calendar_of(7 * DAY, None, 0, zone)
    start, _ = spans(weeks, instant(2024, 11, 22, zone=ZoneInfo(zone)), 1)[0]
    assert start == instant(2024, 11, 18, zone=ZoneInfo(zone))


@settings(max_examples=20)
@given(
    times=st.lists(st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1)), min_size=1, max_size=6),
    size=st.sampled_from([HOUR, 8 * HOUR, DAY, 3 * DAY, 7 * DAY]),
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]),
)
def test_windows_of_a_zone_follow_each_other_without_pause_whatever_was_asked_before(
    times: list[datetime], size: float, zone: str
) -> None:
    calendar = calendar_of(size, None, 0, zone)
    for when in times:
        time = int((when - datetime(1970, 1, 1)) / timedelta(seconds=1)) * SECOND
        before, after = spans(calendar, time, 2)
        assert before[0] <= time < before[1] == after[0]
        assert spans(calendar_of(size, None, 0, zone), time, 2) == [before, after]
        assert spans(calendar, before[1], 1) == [after]


@pytest.mark.parametrize(
    ("window", "slide", "offset", "zone", "place", "remedy"),
    [
        (DAY, None, 0.0, "Europe/Berln", "zone", "did you mean Europe/Berlin?"),
        (DAY, None, 0.0, "europe/berlin/", "zone", "did you mean"),
        (60.0, 90.0, 0.0, "UTC", "slide", "at most 60s"),
        (600.0, 1.0, 0.0, "UTC", "slide", "at least 6s"),
        (5 * HOUR, None, 0.0, "Europe/Berlin", "window", "a part of one such as 8h"),
        (3 * HOUR, 2 * HOUR, 0.0, "Europe/Berlin", "slide", "a part of 10800s"),
        (DAY, None, 0.5, "Europe/Berlin", "offset", "whole seconds"),
    ],
)
def test_what_cannot_be_laid_out_is_refused_with_its_place(
    window: float, slide: float | None, offset: float, zone: str, place: str, remedy: str
) -> None:
    with pytest.raises(Refusal) as refused:
        calendar_of(window, slide, offset, zone)
    assert refused.value.place == place
    assert remedy in refused.value.remedy


def test_a_sequence_is_open_until_its_edge_comes_and_is_bounded() -> None:
    sequence = Sequence()
    sequence.edge(10, True)
    assert spans(sequence, 10, 2) == [(10, OPEN), (OPEN, OPEN)]
    sequence.edge(20, False)
    sequence.edge(30, True)
    sequence.edge(30, False)  # lasted for no time
    assert spans(sequence, 5, 2) == [(10, 20), (OPEN, OPEN)]
    again = Sequence()
    again.load(sequence.save())
    assert spans(again, 5, 1) == [(10, 20)]
    for number in range(MOST_SEQUENCE + 5):
        sequence.edge(100 + number, True)
    assert len(sequence) == MOST_SEQUENCE
    assert spans(sequence, 5, 1)[0][0] > 100


def test_batches_are_each_tags_own() -> None:
    batches = Batches()
    batches.of(3).edge(10, True)
    batches.of(3).edge(15, True)
    slots = np.array([3, 4], dtype=np.int32)
    number = batches.after(slots, np.array([0, 0]))
    assert batches.end(slots, number).tolist() == [15, OPEN]
