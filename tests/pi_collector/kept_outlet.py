"""An outlet that keeps what it is given in memory, and stores it when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sluice.columns import Columns, Sample


@dataclass
class Submit:
    """One transaction."""

    stream: str
    columns: Sequence[Columns] = ()
    events: Sequence[Mapping[str, Any]] = ()
    positions: Mapping[str, bytes | None] = field(default_factory=dict)
    filtered: int = 0
    undelivered: int = 0
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def samples(self) -> list[Sample]:
        return [sample for part in self.columns for sample in part.samples()]


class KeptOutlet:
    """`at_once`: what is submitted is durable at once; else when `store` is called."""

    def __init__(self, at_once: bool = True) -> None:
        self.at_once = at_once
        self.full = False
        self.waiting: list[Submit] = []
        self.stored: list[Submit] = []
        self.positions: dict[str, bytes] = {}

    def submit(
        self,
        columns: Sequence[Columns],
        *,
        positions: Mapping[str, bytes | None] | None = None,
        filtered: int = 0,
        undelivered: int = 0,
    ) -> asyncio.Future[None]:
        return self._take(Submit("live", columns, (), positions or {}, filtered, undelivered))

    def submit_backfill(
        self, columns: Sequence[Columns], *, positions: Mapping[str, bytes | None] | None = None, filtered: int = 0
    ) -> asyncio.Future[None]:
        return self._take(Submit("backfill", columns, (), positions or {}, filtered))

    def submit_events(
        self, events: Sequence[Mapping[str, Any]], *, positions: Mapping[str, bytes | None] | None = None
    ) -> asyncio.Future[None]:
        return self._take(Submit("events", (), events, positions or {}))

    def note(self, positions: Mapping[str, bytes | None]) -> asyncio.Future[None]:
        return self._take(Submit("note", positions=positions))

    def _take(self, submit: Submit) -> asyncio.Future[None]:
        self.waiting.append(submit)
        if self.at_once:
            self.store()
        return submit.done

    def store(self, count: int | None = None) -> None:
        """What waits is durable now, the oldest first."""
        count = len(self.waiting) if count is None else count
        done, self.waiting = self.waiting[:count], self.waiting[count:]
        for submit in done:
            for key, value in submit.positions.items():
                if value is None:
                    self.positions.pop(key, None)
                else:
                    self.positions[key] = value
            self.stored.append(submit)
            submit.done.set_result(None)

    def refuse(self, error: Exception) -> None:
        """What waits will never be durable."""
        for submit in self.waiting:
            submit.done.set_exception(error)
        self.waiting = []

    def of(self, stream: str) -> list[Submit]:
        return [submit for submit in self.stored if submit.stream == stream]

    @property
    def samples(self) -> list[Sample]:
        """All that are durable, live and of the past."""
        return [sample for submit in self.stored for sample in submit.samples]
