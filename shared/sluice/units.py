"""Durations and sizes as people write them: ``500ms``, ``5s``, ``2m``, ``7d``; ``7000``, ``64MB``, ``4KiB``.

A duration is seconds as float, a size is bytes as int. A bare number is seconds or bytes, also when it arrives as text,
which is how nucleus lite hands over every scalar of a YAML recipe. KB, MB and GB are powers of 1000; KiB, MiB and GiB
are powers of 1024.
"""

from __future__ import annotations

import math
import re
from typing import Any

SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")
_WITH_COMMA = re.compile(r"([+-]?[0-9]+),([0-9]+)((?:[eE][+-]?[0-9]+)?\s*[A-Za-z%]*)")
_IN_THOUSANDS = re.compile(r"([+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+)(\.[0-9]+)?(\s*[A-Za-z%]*)")


class UnitError(ValueError):
    """A text or number that is no duration or size.

    The message says what is wrong with it, `remedy` how to mend it where that is known better than in general.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.remedy = remedy


def comma(value: Any) -> tuple[str, str] | None:
    """Problem and remedy when this is a number, with or without a unit, that has a comma as many countries write it."""
    text = value.strip() if isinstance(value, str) else ""
    if len(text) > 64:
        return None
    if found := _IN_THOUSANDS.fullmatch(text):
        number, rest, unit = found[1], found[2] or "", found[3]
        whole = number.replace(",", "")
        if rest or number.count(",") > 1:
            return "has commas between its digits", f"write {whole}{rest}{unit}"
        return "has a comma", f"write {whole}{unit}, or {number.replace(',', '.')}{unit} if it is a decimal comma"
    if found := _WITH_COMMA.fullmatch(text):
        return "has a decimal comma", f"write {found[1]}.{found[2]}{found[3]}"
    return None


def parse_duration(value: Any) -> float:
    """Seconds from ``"500ms"``, ``"5s"``, ``5`` or ``"5"``. Raises UnitError."""
    number, unit = _quantity(value, "duration")
    if unit and unit not in SECONDS:
        raise UnitError(f"has the unknown unit {unit!r}")
    return number * SECONDS[unit or "s"]


def parse_size(value: Any) -> int:
    """Bytes from ``"64MB"``, ``"7000"`` or ``7000.0``. Raises UnitError."""
    number, unit = _quantity(value, "size")
    if unit.lower() not in BYTES and unit:
        raise UnitError(f"has the unknown unit {unit!r}")
    size = number * BYTES[unit.lower() or "b"]
    if size != int(size):
        raise UnitError("is not a whole number of bytes")
    return int(size)


def format_duration(seconds: float) -> str:
    """The shortest exact spelling: 0.05 -> ``50ms``, 120 -> ``2m``."""
    for unit in ("d", "h", "m", "s", "ms"):
        number = seconds / SECONDS[unit]
        if number >= 1 and math.isclose(number, round(number)):
            return f"{round(number)}{unit}"
    return f"{seconds:g}s"


def format_size(size: int) -> str:
    """The shortest exact spelling: 64000000 -> ``64MB``, 4096 -> ``4KiB``, 7000 -> ``7KB``."""
    for unit in ("GiB", "GB", "MiB", "MB", "KiB", "KB"):
        if size and size % BYTES[unit.lower()] == 0:
            return f"{size // BYTES[unit.lower()]}{unit}"
    return f"{size}B"


def _quantity(value: Any, kind: str) -> tuple[float, str]:
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value)
        if match is None:
            if told := comma(value):
                raise UnitError(*told)
            raise UnitError(f"is not a {kind}")
        number, unit = float(match[1]), match[2]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number, unit = float(value), ""
        except OverflowError:
            raise UnitError(f"is not a {kind}") from None
    else:
        raise UnitError(f"is not a {kind}")
    if not math.isfinite(number) or number < 0:
        raise UnitError(f"is not a {kind}")
    return number, unit
