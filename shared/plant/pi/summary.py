"""Summaries of a point over time: total, average, extremes, deviation, count and the share that was good.

**Time weighted** (`TimeWeighted`): the value is a line over time, between good numbers straight or, where values hold,
in steps; it counts for as long as it lasts. What is no good number is a hole: neither value nor time of it counts, and
the value before the hole holds up to it. The total is the integral over days, as PI has it; the count is seconds.

**Event weighted** (`EventWeighted`): each event counts once. Of an interval its start belongs to it and its end to the
next one, but the last interval has both; the other bases say otherwise.

Deviations: of the population, and of a sample (n - 1 instead of n). Of a line there is no n, so that there both are
the population's. Times in ns since 1970 UTC.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from plant.pi import reading
from plant.pi.events import Event
from plant.pi.filtering import Test
from plant.pi.points import PiPoint

Type = Literal[
    "Total",
    "Average",
    "Minimum",
    "Maximum",
    "Range",
    "StdDev",
    "PopulationStdDev",
    "Count",
    "PercentGood",
    "All",
    "AllForNonNumeric",
]
Basis = Literal[
    "TimeWeighted",
    "EventWeighted",
    "TimeWeightedContinuous",
    "TimeWeightedDiscrete",
    "EventWeightedExcludeMostRecentEvent",
    "EventWeightedExcludeEarliestEvent",
    "EventWeightedIncludeBothEnds",
]
Stamp = Literal["Auto", "EarliestTime", "MostRecentTime"]

TYPES: Final[tuple[Type, ...]] = (
    "Total",
    "Average",
    "Minimum",
    "Maximum",
    "Range",
    "StdDev",
    "PopulationStdDev",
    "Count",
    "PercentGood",
    "All",
    "AllForNonNumeric",
)
BASES: Final[tuple[Basis, ...]] = (
    "TimeWeighted",
    "EventWeighted",
    "TimeWeightedContinuous",
    "TimeWeightedDiscrete",
    "EventWeightedExcludeMostRecentEvent",
    "EventWeightedExcludeEarliestEvent",
    "EventWeightedIncludeBothEnds",
)
STAMPS: Final[tuple[Stamp, ...]] = ("Auto", "EarliestTime", "MostRecentTime")
SAMPLES: Final = ("ExpressionRecordedValues", "Interval")

_SECOND_NS: Final = 1_000_000_000
_DAY_S: Final = 86400.0


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What the good numbers of an interval come to."""

    total: float
    mean: float
    variance: float
    sample_variance: float | None
    least: tuple[float, int]
    greatest: tuple[float, int]


@dataclass(frozen=True, slots=True)
class _Figures:
    """What an interval comes to. good: how many seconds, or events. numbers: None without a good one."""

    good: float
    percent_good: float
    numbers: _Numbers | None


def summaries(
    point: PiPoint,
    start_ns: int,
    end_ns: int,
    types: Sequence[Type],
    *,
    now_ns: int,
    basis: Basis = "TimeWeighted",
    stamp: Stamp = "Auto",
    duration_ns: int | None = None,
    sample_ns: int | None = None,
    test: Test | None = None,
) -> list[tuple[Type, Event]]:
    """Each summary of each interval, in the order of intervals and of `TYPES`.

    duration_ns: the length of the intervals; one over everything when None. The last may be shorter.
    sample_ns: interpolated values so far apart are summarised, not what was recorded. test: what is left out.
    """
    earliest, latest = min(start_ns, end_ns), max(start_ns, end_ns)
    wanted = set(types)
    if "All" in wanted:
        wanted |= set(TYPES[:9])
    if "AllForNonNumeric" in wanted:
        wanted |= {"Count", "PercentGood"}
    found: list[tuple[Type, Event]] = []
    first = earliest
    while first < latest or first == earliest:
        until = latest if duration_ns is None else min(latest, first + duration_ns)
        last = until == latest
        if basis.startswith("Event"):
            figures = _of_events(_inside(point, first, until, basis, sample_ns, now_ns, last=last), test)
        else:
            step = point.holds if basis == "TimeWeighted" else basis == "TimeWeightedDiscrete"
            figures = _of_line(_line(point, first, until, sample_ns, now_ns), test, step=step)
        found += [(kind, _told(kind, figures, stamp, first, until)) for kind in TYPES[:9] if kind in wanted]
        first = until
        if last:
            break
    return found


def _inside(
    point: PiPoint, first: int, until: int, basis: Basis, sample_ns: int | None, now_ns: int, *, last: bool
) -> list[Event]:
    if sample_ns is not None:
        events = [reading.interpolated_at(point, time, now_ns) for time in reading.steps(first, until, sample_ns)]
    else:
        rows = range(point.archive.first_at(first), point.archive.after(until))
        events = [point.archive.event(row) for row in rows]
    with_end = last if basis == "EventWeighted" else basis != "EventWeightedExcludeMostRecentEvent"
    with_start = basis != "EventWeightedExcludeEarliestEvent"
    return [
        event for event in events if (with_start or event.time_ns != first) and (with_end or event.time_ns != until)
    ]


def _line(point: PiPoint, first: int, until: int, sample_ns: int | None, now_ns: int) -> list[Event]:
    """What is known from the first time to the last, both of them included."""
    if sample_ns is not None:
        times = [*reading.steps(first, until, sample_ns)]
        times += [until] if times[-1] != until else []
        return [reading.interpolated_at(point, time, now_ns) for time in times]
    archive = point.archive
    rows = range(archive.after(first), archive.first_at(until))
    ends = [reading.interpolated_at(point, time, now_ns) for time in (first, until)]
    # Of several events at the very end the first one is what the line leads to.
    row = archive.first_at(until)
    if row < len(archive) and archive.times[row] == until:
        ends[1] = archive.event(row)
    return [ends[0], *map(archive.event, rows), ends[1]]


def _of_events(events: Sequence[Event], test: Test | None) -> _Figures:
    if test is not None:
        events = [event for event in events if test(event)]
    good = [event for event in events if _is_good(event)]
    percent = 100.0 * len(good) / len(events) if events else 0.0
    numbered = [(number, event.time_ns) for event in good if (number := event.number) is not None]
    if not numbered:
        return _Figures(len(good), percent, None)
    numbers = [number for number, _ in numbered]
    mean = math.fsum(numbers) / len(numbers)
    squares = math.fsum((number - mean) ** 2 for number in numbers)
    sample_variance = squares / (len(numbers) - 1) if len(numbers) > 1 else None
    least, greatest = min(numbered, key=lambda one: one[0]), max(numbered, key=lambda one: one[0])
    return _Figures(
        len(good),
        percent,
        _Numbers(math.fsum(numbers), mean, squares / len(numbers), sample_variance, least, greatest),
    )


def _of_line(events: Sequence[Event], test: Test | None, *, step: bool) -> _Figures:
    whole_s = (events[-1].time_ns - events[0].time_ns) / _SECOND_NS
    if not whole_s:
        return _of_events(events[:1], test)
    pieces = list(_pieces(events, test, step=step))
    good = math.fsum(piece.seconds for piece in pieces)
    percent = 100.0 * good / whole_s
    lines = [(piece, piece.first, piece.last) for piece in pieces if piece.first is not None and piece.last is not None]
    weight = math.fsum(piece.seconds for piece, _, _ in lines)
    if not weight:
        return _Figures(good, percent, None)
    integral = math.fsum(piece.seconds * (first + last) / 2 for piece, first, last in lines)
    mean = integral / weight
    squares = math.fsum(
        piece.seconds * (a * a + a * b + b * b) / 3
        for piece, first, last in lines
        for a, b in [(first - mean, last - mean)]
    )
    variance = max(0.0, squares / weight)
    ends = [end for piece, first, last in lines for end in ((first, piece.from_ns), (last, piece.to_ns))]
    least, greatest = min(ends, key=lambda one: one[0]), max(ends, key=lambda one: one[0])
    return _Figures(good, percent, _Numbers(integral / _DAY_S, mean, variance, variance, least, greatest))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of the line that is good: straight between two numbers, or something that is no number."""

    from_ns: int
    to_ns: int
    first: float | None
    last: float | None

    @property
    def seconds(self) -> float:
        return (self.to_ns - self.from_ns) / _SECOND_NS


def _pieces(events: Sequence[Event], test: Test | None, *, step: bool) -> Iterator[_Piece]:
    for before, after in pairwise(events):
        if not _is_good(before) or before.time_ns == after.time_ns or (test is not None and not test(before)):
            continue
        first, last = before.number, after.number
        if step or last is None or not _is_good(after):
            last = first
        yield _Piece(before.time_ns, after.time_ns, first, last)


def _is_good(event: Event) -> bool:
    """Whether it is good, and no number that is none."""
    return event.good and (event.number is None or math.isfinite(event.number))


def _told(kind: Type, figures: _Figures, stamp: Stamp, first: int, until: int) -> Event:
    time = until if stamp == "MostRecentTime" else first
    numbers = figures.numbers
    if kind == "Count":
        return Event(time, figures.good)
    if kind == "PercentGood":
        return Event(time, figures.percent_good)
    if numbers is None or (kind == "StdDev" and numbers.sample_variance is None):
        return reading.no_data(time)
    if kind == "Minimum":
        return Event(numbers.least[1] if stamp == "Auto" else time, numbers.least[0])
    if kind == "Maximum":
        return Event(numbers.greatest[1] if stamp == "Auto" else time, numbers.greatest[0])
    number = {
        "Total": numbers.total,
        "Average": numbers.mean,
        "Range": numbers.greatest[0] - numbers.least[0],
        "StdDev": math.sqrt(numbers.sample_variance or 0.0),
        "PopulationStdDev": math.sqrt(numbers.variance),
    }[kind]
    return Event(time, number)
