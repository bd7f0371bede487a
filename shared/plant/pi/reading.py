"""Reading a point: the values that were recorded, and those between them. Times in ns since 1970 UTC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

from plant.pi.events import TICK_NS, Event
from plant.pi.filtering import Test
from plant.pi.points import PiPoint
from plant.pi.states import FILTERED, NO_DATA, system_state
from plant.pi.timed_values import Run, TimedValues

Boundary = Literal["Inside", "Outside", "Interpolated"]
Retrieval = Literal["Auto", "AtOrBefore", "Before", "AtOrAfter", "After", "Exact"]
BOUNDARIES: Final[tuple[Boundary, ...]] = ("Inside", "Outside", "Interpolated")
RETRIEVALS: Final[tuple[Retrieval, ...]] = ("Auto", "AtOrBefore", "Before", "AtOrAfter", "After", "Exact")

_AHEAD_NS: Final = 600 * 1_000_000_000


def value(point: PiPoint, now_ns: int) -> Event:
    """The present value: the snapshot; of a point with future the newest that is not ahead."""
    if point.definition.future:
        row = point.archive.after(now_ns) - 1
        return point.archive.event(row) if row >= 0 else no_data(now_ns)
    return end(point, now_ns)


def end(point: PiPoint, now_ns: int) -> Event:
    """The last value, however far ahead it is. Of a point that never had one: that it was created."""
    snapshot = point.snapshot
    if snapshot is not None:
        return snapshot
    return no_data(now_ns) if point.definition.future else replace(_CREATED, time_ns=point.created_ns)


def no_data(time_ns: int) -> Event:
    """That there is nothing at a time."""
    return Event(time_ns, NO_DATA.code, good=False, state=NO_DATA)


def recorded(
    point: PiPoint,
    start_ns: int,
    end_ns: int,
    *,
    now_ns: int,
    boundary: Boundary = "Inside",
    most: int,
    test: Test | None = None,
    keep_filtered: bool = False,
) -> TimedValues:
    """The events from start to end, both included, and the snapshot among them; backwards when the end is earlier.

    boundary: Outside takes the nearest event beyond each end too, where none lies on it; Interpolated makes one there.
    most: the first so many, and no word that there are more. test: what an event has to pass; keep_filtered: one that
    does not is there as the state Filtered.
    """
    archive = point.archive
    earliest, latest = min(start_ns, end_ns), max(start_ns, end_ns)
    first, behind = archive.first_at(earliest), archive.after(latest)
    head: list[Event] = []
    tail: list[Event] = []
    exact_first = first < behind and archive.times[first] == earliest
    exact_last = first < behind and archive.times[behind - 1] == latest
    if boundary == "Outside":
        first -= not exact_first and first > 0
        behind += not exact_last and behind < len(archive)
    elif boundary == "Interpolated":
        head = [] if exact_first else [interpolated_at(point, earliest, now_ns)]
        tail = [] if exact_last or earliest == latest else [interpolated_at(point, latest, now_ns)]
    rows = range(first, behind)
    runs: list[Run] = [head, rows, tail] if start_ns <= end_ns else [tail, rows[::-1], head]
    if test is not None:
        runs = [_filtered(TimedValues(point, runs).events(), test, keep_filtered)]
    return TimedValues(point, _first(runs, most))


def recorded_at(point: PiPoint, time_ns: int, mode: Retrieval) -> Event | None:
    """The event nearest to a time, as the mode has it; None when there is none.

    Auto: the one at that time, else the one before, else the one after.
    """
    archive = point.archive
    first, behind = archive.first_at(time_ns), archive.after(time_ns)
    exact = behind - 1 if first < behind else -1
    before, after = first - 1, behind if behind < len(archive) else -1
    row = {
        "Exact": exact,
        "Before": before,
        "After": after,
        "AtOrBefore": exact if exact >= 0 else before,
        "AtOrAfter": first if exact >= 0 else after,
        "Auto": exact if exact >= 0 else before if before >= 0 else after,
    }[mode]
    return archive.event(row) if row >= 0 else None


def interpolated_at(point: PiPoint, time_ns: int, now_ns: int) -> Event:
    """The value at a time: between two good numbers on the line, else what was there before, held.

    Nothing before the first event, and nothing further ahead than the archive allows.
    """
    archive = point.archive
    behind = archive.after(time_ns)
    if not behind or (time_ns > now_ns + _AHEAD_NS and not point.definition.future):
        return no_data(time_ns)
    before = archive.event(behind - 1)
    if before.time_ns == time_ns:
        return before
    held = replace(before, time_ns=time_ns, annotated=False)
    if behind == len(archive) or point.holds:
        return held
    return between(before, archive.event(behind), time_ns, whole=archive.integers) or held


def between(before: Event, after: Event, time_ns: int, *, whole: bool = False) -> Event | None:
    """The value on the line between two events; None where no line is, for one of them is no good number."""
    one, other = before.number, after.number
    if one is None or other is None or not (before.good and after.good and math.isfinite(one) and math.isfinite(other)):
        return None
    share = (time_ns - before.time_ns) / (after.time_ns - before.time_ns)
    number = one + (other - one) * share
    return Event(
        time_ns,
        round(number) if whole else number,
        questionable=before.questionable or after.questionable,
        substituted=before.substituted or after.substituted,
    )


def steps(start_ns: int, end_ns: int, interval_ns: int, *, sync_ns: int | None = None, outside: bool = False) -> range:
    """The times of evenly spaced values: from the start on, or on a raster through `sync_ns`; backwards as wanted.

    outside: on a raster, the times just beyond the ends too.
    """
    interval = max(TICK_NS, interval_ns)
    if sync_ns is None:
        return range(start_ns, end_ns + 1, interval) if start_ns <= end_ns else range(start_ns, end_ns - 1, -interval)
    earliest, latest = min(start_ns, end_ns), max(start_ns, end_ns)
    first = earliest + (sync_ns - earliest) % interval
    last = latest - (latest - sync_ns) % interval
    if outside:
        first -= interval if first > earliest else 0
        last += interval if last < latest else 0
    raster = range(first, last + 1, interval)
    return raster if start_ns <= end_ns else raster[::-1]


def interpolated(
    point: PiPoint, times_ns: Sequence[int], now_ns: int, *, test: Test | None = None, keep_filtered: bool = False
) -> TimedValues:
    """The values at those times."""
    events = [interpolated_at(point, time, now_ns) for time in times_ns]
    if test is not None:
        events = _filtered(events, test, keep_filtered)
    return TimedValues(point, [events])


def plot(point: PiPoint, start_ns: int, end_ns: int, intervals: int, now_ns: int) -> TimedValues:
    """What a picture of that many columns needs: of each the first, last, least, greatest and one bad value."""
    archive = point.archive
    earliest, latest = min(start_ns, end_ns), max(start_ns, end_ns)
    rows: set[int] = set()
    first = archive.first_at(earliest)
    for number in range(1, intervals + 1):
        until = earliest + (latest - earliest) * number // intervals
        behind = archive.after(until) if number == intervals else archive.first_at(until)
        rows |= _telling(point, range(first, behind))
        first = behind
    ordered = sorted(rows)
    times = [archive.times[row] for row in ordered]
    head = [] if times and times[0] == earliest else [interpolated_at(point, earliest, now_ns)]
    tail = [] if (times and times[-1] == latest) or earliest == latest else [interpolated_at(point, latest, now_ns)]
    events = [*head, *map(archive.event, ordered), *tail]
    return TimedValues(point, [events if start_ns <= end_ns else events[::-1]])


def _telling(point: PiPoint, rows: range) -> set[int]:
    if not rows:
        return set()
    archive = point.archive
    numbers = {row: number for row in rows if (number := archive.event(row).number) is not None}
    found = {rows[0], rows[-1]}
    if numbers:
        found |= {min(numbers, key=lambda row: numbers[row]), max(numbers, key=lambda row: numbers[row])}
    found |= set([row for row in rows if not archive.event(row).good][:1])
    return found


def _first(runs: Sequence[Run], most: int) -> list[Run]:
    kept: list[Run] = []
    for run in runs:
        if most > 0 and len(run):
            kept.append(run[:most])
            most -= len(kept[-1])
    return kept


def _filtered(events: Sequence[Event], test: Test, keep: bool) -> list[Event]:
    if not keep:
        return [event for event in events if test(event)]
    return [event if test(event) else _filtered_out(event) for event in events]


def _filtered_out(event: Event) -> Event:
    return Event(event.time_ns, FILTERED.code, good=False, state=FILTERED)


_CREATED: Final = Event(0, 253, good=False, state=system_state(253))
