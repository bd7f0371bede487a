"""Timed values as PI Web API writes them.

    {"Timestamp":"2014-07-22T14:00:00.5Z","UnitsAbbreviation":"m","Good":true,"Questionable":false,"Substituted":false,
     "Annotated":false,"Value":12.3}

Timestamps have as many digits behind the second as they need, up to seven. States are objects with name and code.
Answers hold hundreds of thousands of them, so they are written from the archive's columns, without an object for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Literal

import orjson

from plant.pi.archive import ANNOTATED, BAD, OBJECT, QUESTIONABLE, SUBSTITUTED
from plant.pi.events import Event
from plant.pi.points import PiPoint
from plant.pi.selecting import Selection
from plant.pi.states import DigitalState

NaN = Literal["text", "symbol"]
"""How a number that is none is written: "NaN" as a text, or NaN as a symbol that JSON does not know."""

Run = range | Sequence[Event]
"""Rows of the point's archive, or events that were made for the answer."""

_SECOND_NS: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1)


@lru_cache(maxsize=1 << 16)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


def time_text(time_ns: int) -> str:
    """A time as answers write it."""
    seconds, rest = divmod(time_ns, _SECOND_NS)
    if not rest:
        return _second(seconds) + "Z"
    return f"{_second(seconds)}.{rest // 100:07d}".rstrip("0") + "Z"


def timed(point: PiPoint, event: Event) -> dict[str, Any]:
    """One event of a point as an answer has it."""
    value: Any = event.value
    if event.state is not None:
        value = _state(event.state)
    elif isinstance(value, float) and not math.isfinite(value):
        value = _not_finite(value)
    return {
        "Timestamp": time_text(event.time_ns),
        "UnitsAbbreviation": point.units,
        "Good": event.good,
        "Questionable": event.questionable,
        "Substituted": event.substituted,
        "Annotated": event.annotated,
        "Value": value,
    }


def error_value(point: PiPoint | None, time_ns: int, messages: Sequence[str]) -> dict[str, Any]:
    """What stands in the place of values that could not be read; good, as PI Web API has it."""
    return {
        "Timestamp": time_text(time_ns),
        "UnitsAbbreviation": "" if point is None else point.units,
        "Good": True,
        "Questionable": False,
        "Substituted": False,
        "Annotated": False,
        "Value": None,
        "Errors": [{"FieldName": "Value", "Message": list(messages)}],
    }


@dataclass(frozen=True, slots=True)
class TimedValues:
    """Values of a point in the order in which they are answered. It is written before the archive changes again."""

    point: PiPoint
    runs: Sequence[Run]
    nan: NaN = "text"

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    def events(self) -> list[Event]:
        """The values as events."""
        archive = self.point.archive
        return [archive.event(one) if isinstance(one, int) else one for run in self.runs for one in run]

    def encode(self, selection: Selection) -> bytes:
        """A JSON list of the values, with the wanted fields."""
        parts: list[str] = []
        template = _template(self.point.units, selection, self.nan)
        for run in self.runs:
            if isinstance(run, range):
                parts += _rows(self.point, run, template)
            else:
                parts += [template.event(event) for event in run]
        return ("[" + ",".join(parts) + "]").encode()


@dataclass(frozen=True, slots=True)
class OneValue:
    """One value of a point, written by itself."""

    point: PiPoint
    event: Event
    nan: NaN = "text"
    units: str | None = None
    """None: the point's."""

    def encode(self, selection: Selection) -> bytes:
        """A JSON object with the wanted fields."""
        units = self.point.units if self.units is None else self.units
        return _template(units, selection, self.nan).event(self.event).encode()


class _Template:
    """What stands between the time and the value, for each combination of flags."""

    def __init__(self, units: str, selection: Selection, nan: NaN) -> None:
        self.nan = nan
        self.time = selection.wants("Timestamp")
        self.value = selection.wants("Value")
        self.inner = selection.below("Value")
        self.head = '{"Timestamp":"' if self.time else "{"
        self.between: list[str] = []
        unit = orjson.dumps(units).decode()
        for flags in range(OBJECT):
            fields = (
                ("UnitsAbbreviation", unit),
                ("Good", _bool(not flags & BAD)),
                ("Questionable", _bool(flags & QUESTIONABLE)),
                ("Substituted", _bool(flags & SUBSTITUTED)),
                ("Annotated", _bool(flags & ANNOTATED)),
            )
            parts = [f'"{name}":{text}' for name, text in fields if selection.wants(name)]
            if self.value:
                parts.append('"Value":')
            # The time's closing quote and the comma behind it belong to what follows, if anything does.
            self.between.append(('"' if self.time else "") + ("," if self.time and parts else "") + ",".join(parts))

    def event(self, event: Event) -> str:
        flags = (
            (0 if event.good else BAD)
            | (QUESTIONABLE if event.questionable else 0)
            | (SUBSTITUTED if event.substituted else 0)
            | (ANNOTATED if event.annotated else 0)
        )
        value: Any = event.value if event.state is None else event.state
        return f"{self.head}{self.stamp(event.time_ns)}{self.between[flags]}{self.text(value) if self.value else ''}}}"

    def stamp(self, time_ns: int) -> str:
        return time_text(time_ns) if self.time else ""

    def text(self, value: float | int | str | DigitalState | None) -> str:
        if isinstance(value, DigitalState):
            fields = {name: field for name, field in _state(value).items() if self.inner.wants(name)}
            return orjson.dumps(fields).decode()
        if isinstance(value, float):
            if math.isfinite(value):
                return repr(value)
            return f'"{_not_finite(value)}"' if self.nan == "text" else _not_finite(value)
        return orjson.dumps(value).decode()


@lru_cache(maxsize=1024)  # a stream set writes the same one for each of its streams
def _template(units: str, selection: Selection, nan: NaN) -> _Template:
    return _Template(units, selection, nan)


def _rows(point: PiPoint, rows: range, template: _Template) -> list[str]:
    archive = point.archive
    if not rows:
        return []
    part = slice(rows.start, rows.stop if rows.stop >= 0 else None, rows.step)
    times, values, flags = archive.times[part], archive.values[part], archive.flags[part]
    head, between, stamp = template.head, template.between, template.stamp
    if not template.value:
        return [f"{head}{stamp(t)}{between[f & 15]}}}" for t, f in zip(times, flags, strict=True)]
    if max(flags) >= OBJECT or not math.isfinite(sum(values)):
        text, objects, whole = template.text, archive.objects, archive.integers
        return [
            f"{head}{stamp(t)}{between[f & 15]}"
            f"{text(objects[int(v)] if f & OBJECT else int(v) if whole and math.isfinite(v) else v)}}}"
            for t, v, f in zip(times, values, flags, strict=True)
        ]
    if archive.integers:
        return [f"{head}{stamp(t)}{between[f]}{int(v)}}}" for t, v, f in zip(times, values, flags, strict=True)]
    return [f"{head}{stamp(t)}{between[f]}{v!r}}}" for t, v, f in zip(times, values, flags, strict=True)]


def _state(state: DigitalState) -> dict[str, Any]:
    return {"Name": state.name, "Value": state.code, "IsSystem": state.is_system}


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _bool(on: object) -> str:
    return "true" if on else "false"
