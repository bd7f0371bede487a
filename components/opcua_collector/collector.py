"""The component: one connection per configured server, each with its own streams; changes touch only what changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from opcua_collector import checks
from opcua_collector.address_space.discovery import Discovery, forget_spaces
from opcua_collector.commands import Commands
from opcua_collector.config import Configuration, Tag
from opcua_collector.config import Connection as ConnectionSettings
from opcua_collector.connection import Connection
from opcua_collector.problems import TroubleError
from opcua_collector.security.policy import needs_trust
from opcua_collector.services.connecting import Identity
from opcua_collector.tags import forget, forget_others, select, stamps
from sluice.command import Command
from sluice.component import Component, Context
from sluice.config import Changes, Problem
from sluice.log import Secret
from sluice.secrets import SecretError
from sluice.streams import Outlets
from sluice.table_watch import LOOK, TableWatch
from sluice.tasks import end

logger = logging.getLogger(__name__)

_CERTIFICATES: Final = "pki"
_OUTBOX: Final = "outbox"
_SPACE: Final = "space"
_LAST_COMMIT: Final = 2.0  # seconds at the end for what is in hand
_PREPARE: Final = 3600.0  # seconds between looks whether our certificate comes near its end


@dataclass(slots=True)
class _Running:
    settings: ConnectionSettings
    connection: Connection
    discovery: Discovery
    task: asyncio.Task[None]


class OpcUaCollector(Component[Configuration]):
    """Collects the tags of OPC UA servers."""

    id: ClassVar[str] = "opcua-collector"
    settings: ClassVar[type[Configuration]] = Configuration

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        thing = context.thing_name or "gateway"
        self._identity = Identity(context.work_dir / _CERTIFICATES, f"urn:sluice:{thing}:{self.id}")
        self._running: dict[str, _Running] = {}
        self._outlets: Outlets | None = None
        self._changing = asyncio.Lock()
        directory = context.work_dir
        self._tables: TableWatch[ConnectionSettings, Tag] = TableWatch(
            partial(select, directory=directory, keep=True), partial(stamps, directory=directory), context.problems
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
        self._serve(config)
        for name, settings in config.connections.items():
            await self._open(outlets, name, settings)
        await asyncio.to_thread(forget_others, config.connections, self.context.work_dir)
        await asyncio.to_thread(forget_spaces, self.context.work_dir / _SPACE, config.connections)
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
        self._serve(config)
        entries = changes.entries("connections")
        for name in entries.removed:
            await self._close(outlets, name)
        for name in entries.added:
            await self._open(outlets, name, config.connections[name])
        for name in entries.changed:
            await self._reselect(name, config.connections[name])

    async def stop(self) -> None:
        """Commit what is in hand and leave without goodbye: the next start goes on where this one ended.

        Connections stay in the status, so that the last one has the whole ledger.
        """
        await end(*(running.task for running in self._running.values()), *((self._watch,) if self._watch else ()))
        if self._outlets is not None:
            await self._outlets.close(_LAST_COMMIT)

    def _serve(self, config: Configuration) -> None:
        """A new certificate of ours is used alone only when the servers of all these connections have taken it."""
        self._identity.own.serve([name for name, one in config.connections.items() if needs_trust(one.security)])

    async def _open(self, outlets: Outlets, name: str, settings: ConnectionSettings) -> None:
        selection = await self._tables.read(name, settings)
        connection = Connection(
            name,
            settings,
            selection.tags,
            outlet=outlets.outlet(name),
            identity=self._identity,
            password=self._credentials,
            problems=self.context.problems,
        )
        discovery = Discovery(
            name,
            settings,
            self.context.work_dir / _SPACE,
            connection.discovered,
            self.context.problems,
            behind=lambda: connection.live is not None and connection.live.publishing.behind,
        )
        connection.beside.append(discovery.run)
        await discovery.restore()
        task = asyncio.create_task(connection.run(), name=f"connection {name}")
        self._running[name] = _Running(settings, connection, discovery, task)

    async def _close(self, outlets: Outlets, name: str) -> None:
        """The connection is gone from the configuration: it says goodbye, and what is kept of it is still delivered."""
        running = self._running.pop(name)
        self._tables.forget(name)
        self.context.problems.clear(f"connections.{name}")
        running.connection.leave()
        await end(running.task)
        running.connection.forget()
        running.discovery.forget()
        outlets.remove(name)
        await asyncio.to_thread(forget, name, self.context.work_dir)

    # --- tags ---

    async def _reselect(self, name: str, settings: ConnectionSettings) -> None:
        """The connection goes over to these settings, and to its tags as they are now; the others flow on."""
        running = self._running[name]
        running.settings = settings
        selection = await self._tables.read(name, settings)
        running.connection.reconfigure(settings, selection.tags)
        await running.discovery.apply(settings)

    async def _watch_tables(self) -> None:
        """Applies tag tables that change, come or go."""
        clock = asyncio.get_running_loop().time
        prepared = clock()
        while True:
            await asyncio.sleep(LOOK)
            if clock() - prepared >= _PREPARE:
                prepared = clock()
                await self._prepare()
            await self._tables.look(self._again, self._changing)

    async def _again(self, name: str) -> None:
        await self._reselect(name, self._running[name].settings)

    async def _prepare(self) -> None:
        """The certificate that follows ours, in time for the servers to be told of it, though no session begins."""
        try:
            await asyncio.to_thread(self._identity.own.prepare, datetime.now(timezone.utc))
        except (TroubleError, OSError) as error:
            logger.warning("Our next certificate cannot be made: %s; it is tried again", error)

    async def _credentials(self, settings: ConnectionSettings) -> Secret | None:
        """The user's password, or the private key of the user's certificate, as it is now. Raises TroubleError."""
        user = settings.user
        place, reference = (
            ("password", user.password) if user and user.password else ("key", user.key if user else None)
        )
        if reference is None:
            return None
        try:
            return await self.context.secrets.resolve(reference)
        except SecretError as error:
            raise TroubleError(
                f"user.{place}", reference.secret or reference.file, error.problem, error.remedy
            ) from None

    @classmethod
    def check(cls, config: Configuration, directory: Path) -> Sequence[Problem]:
        """What is wrong with the tag tables of all connections."""
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
        connections = {name: _status(running) for name, running in self._running.items()}
        if self._outlets is None:
            return {"connections": connections}
        return {"connections": connections, "ledger": self._outlets.ledgers(), "outbox": self._outlets.status()}


def _status(running: _Running) -> dict[str, Any]:
    told = running.connection.status()
    select = running.discovery.status()
    return {**told, "select": select} if select else told
