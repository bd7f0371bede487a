"""The component: one connection per configured server, each with its own stream; changes touch only what changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from opcua_collector.config import Configuration
from opcua_collector.config import Connection as ConnectionSettings
from opcua_collector.connection import Connection
from opcua_collector.problems import TroubleError
from opcua_collector.session import Identity
from opcua_collector.tags import Selection, select
from sluice.component import Component, Context
from sluice.config import Changes
from sluice.log import Secret
from sluice.secrets import SecretError
from sluice.streams import Outlet
from sluice.tasks import end

logger = logging.getLogger(__name__)

_CERTIFICATES = "pki"
_SETTLE = 1.0  # seconds at the end for what is just being handed on


@dataclass(slots=True)
class _Running:
    connection: Connection
    outlet: Outlet
    tasks: tuple[asyncio.Task[None], ...]
    selection: Selection


class OpcUaCollector(Component[Configuration]):
    """Collects the tags of OPC UA servers."""

    id: ClassVar[str] = "opcua-collector"
    settings: ClassVar[type[Configuration]] = Configuration

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        thing = context.thing_name or "gateway"
        self._identity = Identity(context.work_dir / _CERTIFICATES, f"urn:sluice:{thing}:{self.id}")
        self._running: dict[str, _Running] = {}
        self._config = Configuration()

    async def start(self, config: Configuration) -> None:
        self._config = config
        for name, settings in config.connections.items():
            await self._open(name, settings)

    async def apply(self, config: Configuration, changes: Changes) -> None:
        self._config = config
        if changes.keys() & {"maxMessageBytes", "compress"}:
            for running in self._running.values():
                running.outlet.resize(self.context.max_message_bytes, compress=config.compress)
        entries = changes.entries("connections")
        for name in entries.removed:
            await self._close(name)
        for name in entries.added:
            await self._open(name, config.connections[name])
        for name in entries.changed:
            running = self._running[name]
            running.selection = await self._select(name, config.connections[name])
            running.connection.reconfigure(config.connections[name], running.selection.tags)

    async def stop(self) -> None:
        """End every connection. They stay in the status, so that the last one has the whole ledger."""
        await asyncio.gather(*(self._end(running) for running in self._running.values()))

    async def _open(self, name: str, settings: ConnectionSettings) -> None:
        selection = await self._select(name, settings)
        outlet = Outlet(
            self.context.ipc,
            self.id,
            name,
            max_bytes=self.context.max_message_bytes,
            compress=self._config.compress,
        )
        connection = Connection(
            name,
            settings,
            selection.tags,
            outlet=outlet,
            identity=self._identity,
            password=self._password,
            problems=self.context.problems,
        )
        tasks = (
            asyncio.create_task(outlet.run(), name=f"announcements of {name}"),
            asyncio.create_task(connection.run(), name=f"connection {name}"),
        )
        self._running[name] = _Running(connection, outlet, tasks, selection)

    async def _close(self, name: str) -> None:
        running = self._running.pop(name)
        self.context.problems.clear(f"connections.{name}")
        await self._end(running)

    async def _end(self, running: _Running) -> None:
        await running.connection.settle(_SETTLE)
        await end(*running.tasks)

    async def _select(self, name: str, settings: ConnectionSettings) -> Selection:
        self.context.problems.clear(f"connections.{name}.tagsFile")
        selection = await asyncio.to_thread(select, name, settings, self.context.work_dir)
        for problem in selection.problems:
            self.context.problems.report(problem.path, problem.problem, problem.remedy, problem.value)
        return selection

    async def _password(self, settings: ConnectionSettings) -> Secret | None:
        if settings.user is None or settings.user.password is None:
            return None
        try:
            return await self.context.secrets.resolve(settings.user.password)
        except SecretError as error:
            reference = settings.user.password
            raise TroubleError(
                "user.password", reference.secret or reference.file, error.problem, error.remedy
            ) from None

    def status(self) -> Mapping[str, Any]:
        ledger: dict[str, Any] = {}
        for running in self._running.values():
            ledger.update(running.outlet.ledgers())
        connections: dict[str, Any] = {}
        for name, running in self._running.items():
            connections[name] = running.connection.status()
            if running.outlet.trouble:
                connections[name]["outlet"] = running.outlet.trouble
        return {"connections": connections, "ledger": ledger}
