"""What the plant's OPC UA server remembers: the last rows of every unit.

asyncua's own storages keep an object per value and give no continuation point when a client limits the number of
values; this one keeps rows, which share their values with the recorded run, and answers as OPC UA Part 11, 6.5.3.2
says: the start is included and the end is not, and what did not fit is continued.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from operator import itemgetter
from typing import Any

from asyncua.server.history import HistoryStorageInterface
from asyncua.ua import DataValue, NodeId, get_win_epoch
from asyncua.ua.uaerrors import UaError

from plant.unit import Reading

_NO_TIME = get_win_epoch()  # how OPC UA writes that no time is given

MAX_VALUES_PER_ANSWER = 10_000


class History(HistoryStorageInterface):
    """Keeps the last `rows` rows of each unit. `prepare` makes the data value of a column of a reading."""

    def __init__(self, rows: int, prepare: Callable[[int, Reading, datetime], DataValue]) -> None:
        super().__init__(MAX_VALUES_PER_ANSWER)
        self._rows = rows
        self._prepare = prepare
        self._units: list[deque[tuple[datetime, Reading]]] = []
        self._columns: dict[NodeId, tuple[int, int]] = {}

    def add_unit(self, nodes: Sequence[NodeId]) -> None:
        """Remember one more unit, whose columns are these nodes."""
        unit = len(self._units)
        self._units.append(deque(maxlen=self._rows))
        self._columns.update({node: (unit, column) for column, node in enumerate(nodes)})

    def remember(self, unit: int, time: datetime, reading: Reading) -> None:
        """Keep a row; times ascend."""
        self._units[unit].append((time, reading))

    async def read_node_history(
        self, node_id: NodeId, start: datetime | None, end: datetime | None, nb_values: int
    ) -> tuple[list[DataValue], datetime | None]:
        """Values in the order of time, backwards when only an end is given or it lies before the start.

        With both times given, or without a limit of the client's, the second result is where to continue.
        """
        unit, column = self._columns.get(node_id, (-1, -1))
        if unit < 0:
            return [], None
        start, end = _known(start), _known(end)
        continued = start is not None and (end is not None or not nb_values)
        limit = min(nb_values or MAX_VALUES_PER_ANSWER, MAX_VALUES_PER_ANSWER)
        values: list[DataValue] = []
        for time, reading in _window(self._units[unit], start, end):
            if column not in reading.changed:
                continue
            if len(values) == limit:
                return values, time if continued else None
            values.append(self._prepare(column, reading, time))
        return values, None

    async def init(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def new_historized_node(self, node_id: NodeId, period: timedelta | None, count: int = 0) -> None:
        """Refused: rows come from production alone, not from subscriptions of the server to itself."""
        raise UaError(f"{node_id}: the plant remembers rows; add_unit names its nodes")

    async def save_node_value(self, node_id: NodeId, datavalue: DataValue) -> None:
        """Refused, as above."""
        raise UaError(f"{node_id}: the plant remembers rows")

    async def new_historized_event(
        self, source_id: NodeId, evtypes: Any, period: timedelta | None, count: int = 0
    ) -> None:
        """Refused: the plant has no events yet."""
        raise UaError(f"{source_id}: the plant has no events")

    async def save_event(self, event: Any) -> None:
        """Refused, as above."""
        raise UaError("the plant has no events")

    async def read_event_history(
        self, source_id: NodeId, start: datetime | None, end: datetime | None, nb_values: int, evfilter: Any
    ) -> tuple[list[Any], datetime | None]:
        """No events."""
        return [], None


def _known(time: datetime | None) -> datetime | None:
    return None if time is None or time <= _NO_TIME else time


def _window(
    rows: deque[tuple[datetime, Reading]], start: datetime | None, end: datetime | None
) -> Iterator[tuple[datetime, Reading]]:
    if start is None or (end is not None and end < start):
        latest = end if start is None else start
        earliest = None if start is None else end
        for time, reading in reversed(rows):
            if latest is not None and time > latest:
                continue
            if earliest is not None and time <= earliest:
                return
            yield time, reading
        return
    # A client that fills a gap asks for the last rows of thousands of variables: the others are not looked at.
    for time, reading in islice(rows, bisect_left(rows, start, key=itemgetter(0)), None):
        if end is not None and time >= end and time != start:
            return
        yield time, reading
