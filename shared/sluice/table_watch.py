"""The tag tables of a running collector's connections: what is wrong with them is told, and what changes is applied.

A table that is being written is not read in the middle: it has to look the same twice, one look apart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from sluice.tag_tables import AnyTag, Selection, Stamp

logger = logging.getLogger(__name__)

LOOK: Final = 2.0
"""Seconds between looks whether a table has changed."""

S = TypeVar("S")
T = TypeVar("T", bound=AnyTag)


class Reporter(Protocol):
    """Where problems are told: `sluice.component.Problems`."""

    def report(self, scope: str, problem: str, remedy: str, value: Any = None, *, effect: str = "") -> None: ...
    def clear(self, scope: str) -> None: ...


@dataclass(slots=True)
class _Read(Generic[S, T]):
    settings: S
    selection: Selection[T]
    seen: tuple[Stamp, ...] | None = None
    """The stamps at the last look, where they were not those of the selection."""


class TableWatch(Generic[S, T]):
    """Of one component. select, stamps: of a connection, by its name and settings; they read the disk, on a thread."""

    def __init__(
        self,
        select: Callable[[str, S], Selection[T]],
        stamps: Callable[[S], tuple[Stamp, ...]],
        problems: Reporter,
    ) -> None:
        self._select = select
        self._stamps = stamps
        self._problems = problems
        self._read: dict[str, _Read[S, T]] = {}

    async def read(self, name: str, settings: S) -> Selection[T]:
        """The connection's tags as they are now; what is wrong with them is told, and what no longer is, no more."""
        selection = await asyncio.to_thread(self._select, name, settings)
        before = self._read.get(name)
        paths = {problem.path for problem in selection.problems}
        for problem in before.selection.problems if before is not None else ():
            if problem.path not in paths:
                self._problems.clear(problem.path)
        for problem in selection.problems:
            self._problems.report(problem.path, problem.problem, problem.remedy, problem.value, effect=problem.effect)
        for warning in selection.warnings:
            logger.warning("%s", warning)
        self._read[name] = _Read(settings, selection)
        return selection

    def forget(self, name: str) -> None:
        """The connection is gone."""
        self._read.pop(name, None)

    async def look(self, changed: Callable[[str], Awaitable[None]], changing: asyncio.Lock) -> None:
        """Give the names of connections whose tables are others, and were so at the last look.

        changing: held meanwhile; whoever adds and removes connections holds it too.
        """
        for name in list(self._read):
            async with changing:
                read = self._read.get(name)
                if read is None:
                    continue
                now = await asyncio.to_thread(self._stamps, read.settings)
                if now == read.selection.stamps:
                    read.seen = None
                elif read.seen != now:
                    read.seen = now
                else:
                    logger.info("Connection %s: its tag tables have changed", name)
                    try:
                        await changed(name)
                    except Exception:  # whatever it is, others go on, and it is looked at again
                        logger.exception("Connection %s: its tag tables could not be applied; it is tried again", name)
