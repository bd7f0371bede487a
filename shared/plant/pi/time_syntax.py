"""Times as PI writes them.

    *                       now; so are nothing and null
    t, today                midnight of today;  y, yesterday  the one before
    mon, monday             midnight of the last one, today's if it is one
    jan, january            midnight of this month's day in that month of this year
    25                      midnight of the 25th of this month;  2024  of today's day in that year
    10/25, 10-25            midnight of that day (month, day) of this year
    14:30                   today at that time
    2014-07-22T14:00:00.1234567Z, 2014-07-22 14:00, 22-jul-14 14:00:00, 7/22/2014 2:00 PM

and any of them with one offset behind: `*-8h30m`, `t+8h`, `y-1mo`. An offset alone counts from now; in a pair, the
start's counts from the end, and the end's from the start. A time without a zone is the server's (or `timeZone`'s).
Seconds, minutes and hours may have fractions and are true durations; days and longer go by the calendar of the zone.

Times are ns since 1970 UTC.
"""

from __future__ import annotations

import calendar
import re
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

SECOND_NS: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)

_FIRST_NS: Final = -62_135_596_800 * SECOND_NS  # the year 1, where the calendar of .NET begins
_LAST_NS: Final = 253_402_300_800 * SECOND_NS - 100  # the last tick of the year 9999

_WEEKDAYS: Final = tuple(day.casefold() for day in calendar.day_name)
_MONTHS: Final = tuple(month.casefold() for month in calendar.month_name)
_ZONES: Final = {
    "utc": "UTC",
    "w. europe standard time": "Europe/Berlin",
    "gmt standard time": "Europe/London",
    "eastern standard time": "America/New_York",
    "central standard time": "America/Chicago",
    "pacific standard time": "America/Los_Angeles",
}

_UNITS: Final = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("h", "hour", "hours"), "h"),
    **dict.fromkeys(("d", "day", "days"), "d"),
    **dict.fromkeys(("w", "week", "weeks"), "w"),
    **dict.fromkeys(("mo", "month", "months"), "mo"),
    **dict.fromkeys(("y", "year", "years"), "y"),
}
_EXACT_NS: Final = {"ms": SECOND_NS // 1000, "s": SECOND_NS, "m": 60 * SECOND_NS, "h": 3600 * SECOND_NS}
_NOMINAL_DAYS: Final = {"d": 1, "w": 7, "mo": 30, "y": 365}

_PART: Final = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z]+)")
_OFFSET: Final = re.compile(r"([+-])\s*((?:\s*(?:\d+(?:\.\d+)?|\.\d+)\s*[a-zA-Z]+)+)\s*$")
_DATE: Final = re.compile(
    r"(?:(?P<y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})"
    r"|(?P<um>\d{1,2})/(?P<ud>\d{1,2})/(?P<uy>\d{4}|\d{2})"
    r"|(?P<bd>\d{1,2})-(?P<bm>[A-Za-z]{3,9})-(?P<by>\d{4}|\d{2}))"
    r"(?:(?:[T ]\s*)(?P<clock>.+))?$"
)
_CLOCK: Final = re.compile(
    r"(?P<h>\d{1,2}):(?P<m>\d{2})(?::(?P<s>\d{2})(?:[.,](?P<f>\d{1,9}))?)?\s*(?P<half>[AaPp][Mm])?"
    r"\s*(?P<zone>[Zz]|[+-]\d{2}:?\d{2})?$"
)


class TimeSyntaxError(ValueError):
    """Text that is no time; says so as PI Web API does."""


def zone_of(name: str) -> tzinfo:
    """A zone by its IANA name, or by one of the names that Windows has. Raises TimeSyntaxError."""
    try:
        return ZoneInfo(_ZONES.get(name.strip().casefold(), name.strip()))
    except (ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise TimeSyntaxError(f"The time zone '{name}' is not known.") from error
    except KeyError as error:
        raise TimeSyntaxError(f"The time zone '{name}' is not known.") from error


def parse(text: str | None, now_ns: int, zone: tzinfo, *, base_ns: int | None = None) -> int:
    """A time in ns. base_ns: what an offset alone counts from; now when None. Raises TimeSyntaxError."""
    whole = (text or "").strip()
    if not whole or whole == "*":
        return now_ns
    offset = None if _absolute(whole, zone) is not None else _OFFSET.search(whole)
    stem = whole[: offset.start()].strip() if offset else whole
    if not stem:
        time_ns = now_ns if base_ns is None else base_ns
    else:
        found = _absolute(stem, zone)
        if found is None:
            found = _named(stem, now_ns, zone)
        if found is None:
            raise TimeSyntaxError(f"The specified time '{text}' is not valid.")
        time_ns = found
    if offset:
        time_ns = _moved(time_ns, offset.group(2), -1 if offset.group(1) == "-" else 1, zone, whole)
    if not _FIRST_NS <= time_ns <= _LAST_NS:
        raise TimeSyntaxError(f"The specified time '{text}' is not valid.")
    return time_ns


def parse_pair(start: str | None, end: str | None, now_ns: int, zone: tzinfo) -> tuple[int, int]:
    """Start and end of a range, each of which may count from the other. Raises TimeSyntaxError."""
    if _is_offset(start):
        end_ns = parse(end, now_ns, zone)
        return parse(start, now_ns, zone, base_ns=end_ns), end_ns
    start_ns = parse(start, now_ns, zone)
    return start_ns, parse(end, now_ns, zone, base_ns=start_ns)


def parse_span(text: str) -> int:
    """A duration such as `1h`, `1h30m`, `10s` or `00:10:00` in ns; months and years count 30 and 365 days.

    Raises TimeSyntaxError.
    """
    whole = text.strip().removeprefix("+")
    if clock := re.fullmatch(r"(\d+):(\d{2})(?::(\d{2}))?", whole):
        hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return ((hours * 60 + minutes) * 60 + seconds) * SECOND_NS
    total = 0
    for number, unit in _parts(whole, text):
        total += (
            round(number * _EXACT_NS[unit])
            if unit in _EXACT_NS
            else round(number * _NOMINAL_DAYS[unit]) * 86400 * SECOND_NS
        )
    return total


def _is_offset(text: str | None) -> bool:
    whole = (text or "").strip()
    match = _OFFSET.search(whole)
    return match is not None and match.start() == 0


def _parts(text: str, told: str) -> list[tuple[float, str]]:
    """Numbers and units, the latter as PI abbreviates them."""
    parts, at = [], 0
    while at < len(text):
        match = _PART.match(text, at)
        unit = _UNITS.get(match.group(2).casefold()) if match else None
        if match is None or unit is None or ("." in match.group(1) and unit not in _EXACT_NS):
            raise TimeSyntaxError(f"The specified time span '{told}' is not valid.")
        parts.append((float(match.group(1)), unit))
        at = match.end()
    if not parts:
        raise TimeSyntaxError(f"The specified time span '{told}' is not valid.")
    return parts


def _moved(time_ns: int, span: str, sign: int, zone: tzinfo, told: str) -> int:
    try:
        for number, unit in _parts(span.strip(), told):
            if unit in _EXACT_NS:
                time_ns += sign * round(number * _EXACT_NS[unit])
            else:
                time_ns = _by_calendar(time_ns, sign * int(number), unit, zone)
    except (OverflowError, ValueError) as error:
        raise TimeSyntaxError(f"The specified time '{told}' is not valid.") from error
    return time_ns


def _by_calendar(time_ns: int, number: int, unit: str, zone: tzinfo) -> int:
    local = _local(time_ns, zone).replace(tzinfo=None)
    if unit in ("d", "w"):
        moved = local + timedelta(days=number * _NOMINAL_DAYS[unit])
    else:
        months = local.year * 12 + local.month - 1 + number * (12 if unit == "y" else 1)
        year, month = divmod(months, 12)
        moved = local.replace(year=year, month=month + 1, day=min(local.day, calendar.monthrange(year, month + 1)[1]))
    return _ns(moved.replace(tzinfo=zone)) + time_ns % 1000


def _local(time_ns: int, zone: tzinfo) -> datetime:
    return (_EPOCH + timedelta(microseconds=time_ns // 1000)).astimezone(zone)


def _ns(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _midnight(now_ns: int, zone: tzinfo) -> datetime:
    return _local(now_ns, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)


def _named(stem: str, now_ns: int, zone: tzinfo) -> int | None:
    """`*`, names and numbers: times that depend on the present."""
    word, today = stem.casefold(), _midnight(now_ns, zone)
    if word == "*":
        return now_ns
    if word in ("t", "today"):
        return _ns(today)
    if word in ("y", "yesterday"):
        return _ns(_day(today, days=-1))
    if len(word) >= 3 and word.isalpha():
        for number, day in enumerate(_WEEKDAYS):
            if word in (day, day[:3]):
                return _ns(_day(today, days=-((today.weekday() - number) % 7)))
        for number, month in enumerate(_MONTHS):
            if number and word in (month, month[:3]):
                return _date(today, today.year, number, today.day)
    if word.isdecimal() and len(word) == 4 and int(word) >= 1970:
        return _date(today, int(word), today.month, today.day)
    if word.isdecimal() and len(word) <= 2 and 1 <= int(word) <= 31:
        return _exact_date(today, today.month, int(word))
    if match := re.fullmatch(r"(\d{1,2})[/-](\d{1,2})", word):
        return _exact_date(today, int(match.group(1)), int(match.group(2)))
    if match := _CLOCK.match(stem):
        return _at_clock(match, today.replace(tzinfo=None), zone)
    return None


def _day(midnight: datetime, days: int) -> datetime:
    return (midnight.replace(tzinfo=None) + timedelta(days=days)).replace(tzinfo=midnight.tzinfo)


def _date(today: datetime, year: int, month: int, day: int) -> int:
    """That date's midnight; a day that the month does not have is its last."""
    return _ns(today.replace(year=year, month=month, day=min(day, calendar.monthrange(year, month)[1])))


def _exact_date(today: datetime, month: int, day: int) -> int | None:
    try:
        return _ns(today.replace(month=month, day=day))
    except ValueError:
        return None


def _absolute(text: str, zone: tzinfo) -> int | None:
    """A date, with a time of day or without."""
    match = _DATE.match(text)
    if match is None:
        return None
    try:
        if match.group("y"):
            year, month, day = int(match.group("y")), int(match.group("m")), int(match.group("d"))
        elif match.group("uy"):
            year, month, day = _year(match.group("uy")), int(match.group("um")), int(match.group("ud"))
        else:
            name = match.group("bm").casefold()
            month = next((n for n, full in enumerate(_MONTHS) if n and name in (full, full[:3])), 0)
            year, day = _year(match.group("by")), int(match.group("bd"))
        midnight = datetime(year, month, day)
    except ValueError:
        return None
    if match.group("clock") is None:
        return _ns(midnight.replace(tzinfo=zone))
    clock = _CLOCK.match(match.group("clock").strip())
    return None if clock is None else _at_clock(clock, midnight, zone)


def _year(text: str) -> int:
    year = int(text)
    return year if len(text) == 4 else year + (2000 if year < 50 else 1900)  # as .NET reads two digits


def _at_clock(match: re.Match[str], midnight: datetime, zone: tzinfo) -> int | None:
    hour, half = int(match.group("h")), (match.group("half") or "").casefold()
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half == "pm" else 0)
    fraction_ns = int((match.group("f") or "0").ljust(9, "0"))
    written = match.group("zone")
    if written and written.upper() != "Z":
        minutes = int(written[1:3]) * 60 + int(written[-2:])
        zone = timezone(timedelta(minutes=-minutes if written[0] == "-" else minutes))
    elif written:
        zone = timezone.utc
    try:
        moment = midnight.replace(
            hour=hour, minute=int(match.group("m")), second=int(match.group("s") or 0), tzinfo=zone
        )
    except ValueError:
        return None
    return _ns(moment) + fraction_ns // 100 * 100
