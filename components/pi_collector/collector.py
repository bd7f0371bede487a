"""The component: one connection per configured server, each with its own streams; changes touch only what changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from pi_collector import checks
from pi_collector.commands import Commands
from pi_collector.config import Configuration, Tag
from pi_collector.config import Connection as ConnectionSettings
from pi_collector.connection import Connection
from pi_collector.points import cache
from pi_collector.tags import Selection, forget, forget_others, select, stamps
from sluice.command import Command
from sluice.component import Component, Context
from sluice.config import Changes, Problem
from sluice.streams import Outlets
from sluice.table_watch import LOOK, TableWatch
from sluice.tasks import end

logger = logging.getLogger(__name__)

_OUTBOX: Final = "outbox"
_LAST_COMMIT: Final = 2.0  # seconds at the end for what is in hand


@dataclass(slots=True)
class _Running:
    settings: ConnectionSettings
    connection: Connection
    task: asyncio.Task[None]


class PiCollector(Component[Configuration]):
    """Collects the points of PI Web API servers."""

    id: ClassVar[str] = "pi-collector"
    settings: ClassVar[type[Configuration]] = Configuration

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._running: dict[str, _Running] = {}
        self._outlets: Outlets | None = None
        self._changing = asyncio.Lock()
        directory = context.work_dir
        self._tables: TableWatch[ConnectionSettings, Tag] = TableWatch(
            partial(_selected, directory), partial(stamps, directory=directory), context.problems
        )
        self._watch: asyncio.Task[None] | None = None

    async def start(self, config: Configuration) -> None:
        self._outlets = outlets = await Outlets.open(
            self.context.ipc,
            self.id,
            self.context.work_dir / _OUTBOX,
            config.outbox,
            max_bytes=self.context.max_message_bytes,
            compress=config.compress,
        )
        for name, settings in config.connections.items():
            await self._open(outlets, name, settings)
        await asyncio.to_thread(forget_others, config.connections, self.context.work_dir)
        await asyncio.to_thread(cache.forget_others, self.context.work_dir, config.connections)
        await outlets.start()
        self._watch = asyncio.create_task(self._watch_tables(), name="tag tables")

    async def apply(self, config: Configuration, changes: Changes) -> None:
        async with self._changing:
            await self._apply(config, changes)

    async def _apply(self, config: Configuration, changes: Changes) -> None:
        outlets = self._outlets
        assert outlets is not None
        if changes.keys() & {"maxMessageBytes", "compress", "outbox"}:
            outlets.apply(config.outbox, max_bytes=self.context.max_message_bytes, compress=config.compress)
        entries = changes.entries("connections")
        for name in entries.removed:
            await self._close(outlets, name)
        for name in entries.added:
            await self._open(outlets, name, config.connections[name])
        for name in entries.changed:
            await self._reselect(name, config.connections[name])

    async def stop(self) -> None:
        """Commit what is in hand and leave: the next start goes on where this one ended.

        Connections stay in the status, so that the last one has the whole ledger.
        """
        await end(*(running.task for running in self._running.values()), *((self._watch,) if self._watch else ()))
        if self._outlets is not None:
            await self._outlets.close(_LAST_COMMIT)

    async def _open(self, outlets: Outlets, name: str, settings: ConnectionSettings) -> None:
        selection = await self._tables.read(name, settings)
        connection = Connection(
            name,
            settings,
            selection.tags,
            outlet=outlets.outlet(name),
            secret=self.context.secrets.resolve,
            directory=self.context.work_dir,
            problems=self.context.problems,
        )
        task = asyncio.create_task(connection.run(), name=f"connection {name}")
        self._running[name] = _Running(settings, connection, task)

    async def _close(self, outlets: Outlets, name: str) -> None:
        """The connection is gone from the configuration: what is kept of it is still delivered."""
        running = self._running.pop(name)
        self._tables.forget(name)
        self.context.problems.clear(f"connections.{name}")
        running.connection.leave()
        await end(running.task)
        running.connection.forget()
        outlets.remove(name)
        await asyncio.to_thread(forget, name, self.context.work_dir)

    async def _reselect(self, name: str, settings: ConnectionSettings) -> None:
        """The connection goes over to these settings, and to its tags as they are now; the others flow on."""
        running = self._running[name]
        running.settings = settings
        selection = await self._tables.read(name, settings)
        running.connection.reconfigure(settings, selection.tags)

    async def _watch_tables(self) -> None:
        """Applies tag tables that change, come or go."""
        while True:
            await asyncio.sleep(LOOK)
            await self._tables.look(self._again, self._changing)

    async def _again(self, name: str) -> None:
        await self._reselect(name, self._running[name].settings)

    @classmethod
    def check(cls, config: Configuration, directory: Path) -> Sequence[Problem]:
        """What is wrong with the tag tables and identities of all connections."""
        return checks.check(config, directory)

    def commands(self) -> Sequence[Command[Any]]:
        """See `commands`."""
        return Commands(
            lambda: {name: running.connection for name, running in self._running.items()}, lambda: self._outlets
        ).all()

    def trouble(self) -> str:
        """What keeps the outbox from taking, or delivering, anything."""
        outlets = self._outlets
        return f"{outlets.trouble}: {outlets.remedy}" if outlets is not None and outlets.trouble else ""

    def status(self) -> Mapping[str, Any]:
        connections = {name: running.connection.status() for name, running in self._running.items()}
        if self._outlets is None:
            return {"connections": connections}
        return {"connections": connections, "ledger": self._outlets.ledgers(), "outbox": self._outlets.status()}


def _selected(directory: Path, name: str, settings: ConnectionSettings) -> Selection:
    """The connection's tags, and what is wrong with them and its settings; rows that went wrong are as last good."""
    return checks.judged(name, settings, select(name, settings, directory, keep=True))
