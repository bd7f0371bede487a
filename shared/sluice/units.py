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


class UnitError(ValueError):
    """A text or number that is no duration or size; the message says what is wrong with it."""


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
