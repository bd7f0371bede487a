"""An outlet that writes to a disk of its own, which a test may have lose power at any moment."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sluice.columns import Columns, ValueType

Row = tuple[str, int, Any]
"""Tag, time in ns, value: None for one that is bad."""


@dataclass
class Disk:
    """What survives: samples of both streams, events, positions."""

    live: list[Row] = field(default_factory=list)
    past: list[Row] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    positions: dict[str, bytes] = field(default_factory=dict)
    extra: Counter[tuple[tuple[str, str], ...]] = field(default_factory=Counter)
    filtered: int = 0

    @property
    def rows(self) -> list[Row]:
        return [*self.live, *self.past]

    def counted(self, *tags: str) -> Counter[Row]:
        """How often each value arrived, of these tags or of all."""
        return Counter(row for row in self.rows if not tags or row[0] in tags)

    def gaps(self, state: str) -> list[dict[str, Any]]:
        """The gaps that were told with this state."""
        return [event for event in self.events if event["kind"] == "gap" and event["state"] == state]


@dataclass
class _Put:
    live: Sequence[Columns] = ()
    past: Sequence[Columns] = ()
    events: Sequence[Mapping[str, Any]] = ()
    positions: Mapping[str, bytes | None] = field(default_factory=dict)
    filtered: int = 0
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Outlet:
    """Commits what it is given in its order, a little later. `full` and `roomy` are what a test sets."""

    def __init__(self, disk: Disk, *, delay: float = 0.005) -> None:
        self.disk = disk
        self.recoverable = False
        self.full = False
        self.roomy = True
        self.delay = delay
        self.broken: Exception | None = None
        """Every transaction from now on fails with it."""
        self._positions = dict(disk.positions)
        self._queue: deque[_Put] = deque()
        self._dead = False
        self._task: asyncio.Task[None] | None = None

    def submit(
        self,
        columns: Sequence[Columns],
        *,
        positions: Mapping[str, bytes | None] | None = None,
        filtered: int = 0,
        undelivered: int = 0,
    ) -> Awaitable[None]:
        return self._put(_Put(live=columns, positions=positions or {}, filtered=filtered))

    def submit_backfill(
        self, columns: Sequence[Columns], *, positions: Mapping[str, bytes | None] | None = None, filtered: int = 0
    ) -> Awaitable[None]:
        return self._put(_Put(past=columns, positions=positions or {}, filtered=filtered))

    def submit_events(
        self, events: Sequence[Mapping[str, Any]], *, positions: Mapping[str, bytes | None] | None = None
    ) -> Awaitable[None]:
        return self._put(_Put(events=events, positions=positions or {}))

    def note(self, positions: Mapping[str, bytes | None]) -> Awaitable[None]:
        return self._put(_Put(positions=positions))

    def position(self, key: str) -> bytes | None:
        return self._positions.get(key)

    def kill(self) -> None:
        """The power fails: what is not on the disk by now never will be."""
        self._dead = True
        self._queue.clear()

    def _put(self, put: _Put) -> asyncio.Future[None]:
        if self.broken is not None:
            put.done.set_exception(self.broken)
            self._positions = dict(self.disk.positions)
            return put.done
        _place(self._positions, put.positions)
        self._queue.append(put)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._commit())
        return put.done

    async def _commit(self) -> None:
        while self._queue:
            await asyncio.sleep(self.delay)
            puts, self._queue = self._queue, deque()
            if self._dead:
                return
            for put in puts:
                self._store(put)
                if not put.done.done():
                    put.done.set_result(None)

    def _store(self, put: _Put) -> None:
        disk = self.disk
        for target, columns in ((disk.live, put.live), (disk.past, put.past)):
            for part in columns:
                target += _rows(part)
                disk.extra.update(part.series[place].extra for place in part.s.tolist())
        disk.events += [dict(event) for event in put.events]
        disk.filtered += put.filtered
        _place(disk.positions, put.positions)


def _place(positions: dict[str, bytes], noted: Mapping[str, bytes | None]) -> None:
    for key, value in noted.items():
        if value is None:
            positions.pop(key, None)
        else:
            positions[key] = value


def _rows(part: Columns) -> list[Row]:
    values: list[Any] = part.value.tolist()
    if part.type is ValueType.DOUBLE:
        values = [None if value != value else value for value in values]  # NaN is null
    elif part.null is not None:
        values = [None if missing else value for value, missing in zip(values, part.null.tolist(), strict=True)]
    tags = [series.tag for series in part.series]
    return [(tags[s], t, value) for s, t, value in zip(part.s.tolist(), part.t.tolist(), values, strict=True)]
