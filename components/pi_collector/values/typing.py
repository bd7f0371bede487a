"""The type of each stream's values: fixed by the point's type and the configuration, and never changed by a value.

PointType                       recorded, snapshot, end        interpolated        summary
Float16, Float32, Float64       DOUBLE                         DOUBLE              DOUBLE
Int16, Int32                    INTEGER                        DOUBLE              DOUBLE
Digital                         STRING (INTEGER by code)       the same            DOUBLE
String, Timestamp               STRING                         STRING              DOUBLE
Blob, any other                 cannot be collected
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pi_collector.config import Connection
from pi_collector.points.point import DIGITAL, INTEGERS, NUMBERS, TEXTS, Stream
from pi_collector.values.quality import Table, table
from sluice.columns import ValueType


class Kind(IntEnum):
    """How a stream's values are read."""

    NUMBER = 0
    INTEGER = 1
    CODE = 2
    """Digital: the state's code."""
    NAME = 3
    """Digital: the state's name."""
    TEXT = 4
    UNKNOWN = 255
    """No stream has this handle."""


TYPES: Final = (ValueType.DOUBLE, ValueType.INTEGER, ValueType.STRING)
TYPE_OF: Final = {
    Kind.NUMBER: ValueType.DOUBLE,
    Kind.INTEGER: ValueType.INTEGER,
    Kind.CODE: ValueType.INTEGER,
    Kind.NAME: ValueType.STRING,
    Kind.TEXT: ValueType.STRING,
}
_SINGLE: Final = NUMBERS - {"Float64"}
_ROOM: Final = 64


def kind_of(point_type: str, mode: str, digitals: str) -> Kind | None:
    """How values of such points are read; None: they cannot be collected."""
    if point_type not in NUMBERS | INTEGERS | TEXTS and point_type != DIGITAL:
        return None
    if mode == "summary":
        return Kind.NUMBER
    if point_type == DIGITAL:
        return Kind.CODE if digitals == "code" else Kind.NAME
    if point_type in TEXTS:
        return Kind.TEXT
    return Kind.INTEGER if point_type in INTEGERS and mode != "interpolated" else Kind.NUMBER


class Typings:
    """By handle, as columns: what decoding must know of each stream."""

    def __init__(self) -> None:
        self.kind: NDArray[np.uint8] = np.full(_ROOM, Kind.UNKNOWN, np.uint8)
        self.type: NDArray[np.uint8] = np.zeros(_ROOM, np.uint8)
        """Place among TYPES."""
        self.single: NDArray[np.bool_] = np.zeros(_ROOM, np.bool_)
        """The point keeps numbers of 32 bits, of which some servers write more digits than others."""
        self.recorded: NDArray[np.bool_] = np.zeros(_ROOM, np.bool_)
        """Its values are those of the archive, where a null that is not good tells of a deletion."""
        self.again: NDArray[np.bool_] = np.zeros(_ROOM, np.bool_)
        """What cannot be had now can be read later: an error is no value."""
        self.table: Table = table()

    def fix(self, stream: Stream, settings: Connection) -> str:
        """From now on the handle's values are read so. What keeps the point from being collected, or ""."""
        self.table = table(settings.substituted, settings.out_of_range)
        handle, point = stream.handle, stream.point
        self._reach(handle)
        kind = kind_of(point.type, stream.plan.mode, settings.digitals)
        if kind is None:
            self.kind[handle] = Kind.UNKNOWN
            return f"values of type {point.type or 'unknown'} cannot be collected"
        self.kind[handle] = kind
        self.type[handle] = TYPES.index(TYPE_OF[kind])
        self.single[handle] = point.type in _SINGLE and stream.plan.mode != "summary"
        self.recorded[handle] = stream.plan.gapless
        self.again[handle] = stream.plan.mode not in ("snapshot", "end")
        return ""

    def forget(self, handle: int) -> None:
        """No stream has this handle any more."""
        if 0 <= handle < len(self.kind):
            self.kind[handle] = Kind.UNKNOWN

    def knows(self, handles: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of them have a stream."""
        inside = (handles >= 0) & (handles < len(self.kind))
        known: NDArray[np.bool_] = inside & (self.kind[np.where(inside, handles, 0)] != Kind.UNKNOWN)
        return known

    def value_type(self, handle: int) -> ValueType:
        """The type of the stream's values."""
        return TYPES[int(self.type[handle])]

    def _reach(self, handle: int) -> None:
        if handle < len(self.kind):
            return
        size = max(handle + 1, 2 * len(self.kind))
        self.kind = _grown(self.kind, size, Kind.UNKNOWN)
        self.type = _grown(self.type, size, 0)
        self.single = _grown(self.single, size, False)
        self.recorded = _grown(self.recorded, size, False)
        self.again = _grown(self.again, size, False)


def _grown(column: NDArray[Any], size: int, filler: Any) -> NDArray[Any]:
    grown = np.full(size, filler, column.dtype)
    grown[: len(column)] = column
    return grown
