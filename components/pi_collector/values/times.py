"""PI's times, as they stand in answers and requests, and nanoseconds. Pure.

A time has 0 to 7 digits behind the second, trailing zeros left out, and ends with Z. One with another offset is read
too, one with none is taken for UTC, and of more digits than 7 the rest is cut off: PI itself has no more. What cannot
be the time of a value is `NEVER`: what is no time, before 1970, after 2200, and with it the year 9999 by which PI says
"not over".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NEVER: Final = -(2**63)
"""In the place of a time that is none."""
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2200

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ODD: Final = re.compile(
    r"\s*([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{0,30}))?"
    r"\s*(?:[Zz]|([+-])([01][0-9]|2[0-3]):?([0-5][0-9]))?\s*"
)
_SHORTEST, _LONGEST = 20, 28  # characters of the usual form
_FEW: Final = 48  # with fewer the columns' fixed cost is more than each one by itself takes
_LINE: Final = 10
_DOT: Final = 46
_Z: Final = 90
_ZERO: Final = 48

_PAIRS: Final = (0, 2, 5, 8, 11, 14, 17)
_DIGITS: Final = np.array([place for pair in _PAIRS for place in (pair, pair + 1)])
_SIGNS: Final = ((4, ord("-")), (7, ord("-")), (10, ord("T")), (13, ord(":")), (16, ord(":")))
_WHOLE: Final = np.arange(_LONGEST, dtype=np.int32)[:, None]

#: Day (since 1970) with which each month begins, from January 1970 on.
_MONTHS: Final[NDArray[np.int64]] = (
    np.arange(f"{FIRST_YEAR}-01", f"{LAST_YEAR + 1}-02", dtype="datetime64[M]").astype("datetime64[D]").astype(np.int64)
)


def parse(texts: Sequence[Any]) -> NDArray[np.int64]:
    """Nanoseconds since 1970 of each; NEVER for what is no time of a value, whatever it is."""
    if len(texts) < _FEW:
        return np.array([_quick(text) for text in texts], np.int64)
    try:
        data = ("\n".join(texts) + "\n").encode("ascii") if texts else b""
    except (TypeError, UnicodeEncodeError):
        return _by_hand(texts)
    characters = np.frombuffer(data + bytes(_LONGEST), np.uint8)
    ends = np.flatnonzero(characters[: len(data)] == _LINE)
    if len(ends) != len(texts):
        return _by_hand(texts)  # one has a line feed inside
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + 1
    times, usual = _usual(characters, starts, ends - starts)
    if not usual.all():
        for i in np.flatnonzero(~usual).tolist():
            times[i] = _one(texts[i])
    return times


def _usual(
    characters: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The times of those that have the usual form and are within the range, and which these are."""
    # One row for each place in the text, so that all that follows goes over bytes that lie side by side.
    rows = characters[starts.astype(np.int32) + _WHOLE]
    digit = rows - _ZERO  # what is none becomes more than 9
    usual: NDArray[np.bool_] = (lengths == _SHORTEST) | (
        (lengths >= _SHORTEST + 2) & (lengths <= _LONGEST) & (rows[19] == _DOT)
    )
    last = np.clip(lengths - 1, 19, _LONGEST - 1).astype(np.int32)
    usual &= characters[starts + last] == _Z
    usual &= digit[_DIGITS].max(axis=0) <= 9
    for place, sign in _SIGNS:
        usual &= rows[place] == sign
    fraction = np.zeros(len(starts), np.int32)
    for place in range(20, 27):
        inside = last > place
        figure = np.where(inside, digit[place], 0)
        usual &= figure <= 9
        fraction = fraction * 10 + figure
    century, year, month, day, hour, minute, second = (digit[i] * 10 + digit[i + 1] for i in _PAIRS)
    months = (century.astype(np.int32) * 100 + year - FIRST_YEAR) * 12 + month - 1
    usual &= (months >= 0) & (months < len(_MONTHS) - 1) & (month >= 1) & (month <= 12)
    usual &= (hour < 24) & (minute < 60) & (second < 60)
    months = np.where(usual, months, 0)
    first = _MONTHS[months]
    usual &= (day >= 1) & (day <= _MONTHS[months + 1] - first)
    seconds = (first + day - 1) * 86400 + (hour.astype(np.int32) * 3600 + minute.astype(np.int32) * 60 + second)
    return np.where(usual, seconds * 10**9 + fraction.astype(np.int64) * 100, NEVER), usual


def _quick(text: Any) -> int:
    """A time, most likely of the usual form."""
    if text.__class__ is not str or text[-1:] != "Z":
        return _one(text)
    digits = text[20:-1]
    if text[19:20] == "." and len(digits) <= 7 and digits.isascii() and digits.isdigit():
        second = _second(text[:19])
        return NEVER if second == NEVER else second + int(digits) * 10 ** (9 - len(digits))
    return _second(text[:19]) if len(text) == _SHORTEST else _one(text)


@lru_cache(256)
def _second(text: str) -> int:
    """A time without fraction and zone: those of one answer are mostly of few seconds."""
    return _one(text + "Z") if len(text) == _SHORTEST - 1 else NEVER


def _by_hand(texts: Sequence[Any]) -> NDArray[np.int64]:
    return np.array([_one(text) for text in texts], np.int64)


def _one(text: Any) -> int:
    match = _ODD.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return NEVER
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
        if match[8]:
            offset = timedelta(hours=int(match[9]), minutes=int(match[10]))
            moment = moment - offset if match[8] == "+" else moment + offset
    except (ValueError, OverflowError):
        return NEVER
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        return NEVER
    since = moment - _EPOCH
    ticks = int((match[7] or "")[:7].ljust(7, "0"))
    return ((since.days * 86400 + since.seconds) * 10_000_000 + ticks) * 100


def format7(ns: int) -> str:
    """As it stands in requests: UTC, with all seven digits. What is finer than PI's 100 ns is cut off."""
    seconds, rest = divmod(ns, 10**9)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{rest // 100:07d}Z"
