"""The component: from the local bus to the sinks.

Each sink is a reader of the inlet, with cursors of its own. A sink that is changed stops, and its successor goes on
from what is stored (`exporter.db`): cursors, ledger and units stay, and what the predecessor had only in memory comes
again by replays. A unit that it left incomplete is completed as it was begun. A sink that is removed from the
configuration is forgotten: it holds nobody, and a later one of its name begins at what the producers keep.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sluice.batch import LITE_MAX_MESSAGE_BYTES
from sluice.component import Component, Context
from sluice.config import Changes, Problem
from sluice.ipc import IpcError
from sluice.streams import Inlet
from stream_exporter import checks
from stream_exporter.config import Configuration, topic_filters
from stream_exporter.sink import Sink
from stream_exporter.sinks import make_sink
from stream_exporter.stream_client import DEFAULT_PORT, StreamClient
from stream_exporter.units import UnitStore

logger = logging.getLogger(__name__)

STREAM_MANAGER = "aws.greengrass.StreamManager"
PORT_KEY = "STREAM_MANAGER_SERVER_PORT"

STORE = "exporter.db"

#: Seconds that the sinks have for their last messages when the component stops, and then the store for its commits.
STOP_LIMIT = 1.8
CLOSE_LIMIT = 0.6

#: Bytes that one answer of a producer may have. Nucleus lite carries small messages, about a thousand a second.
WINDOW = 1_000_000
LITE_WINDOW = 256_000


class StreamExporter(Component[Configuration]):
    """Follows the sources and offers each batch to every sink."""

    id: ClassVar[str] = "stream-exporter"
    settings: ClassVar[type[Configuration]] = Configuration

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._sinks: dict[str, Sink] = {}
        self._inlet: Inlet | None = None
        self._store: UnitStore | None = None

    async def start(self, config: Configuration) -> None:
        """Start the sinks, then listen. Raises DatabaseError."""
        self._store = await UnitStore.open(Path(self.context.work_dir) / STORE)
        self._forget_removed(config)
        await self._replace_sinks(set(), config)
        await self._listen(config)

    async def apply(self, config: Configuration, changes: Changes) -> None:
        """Touch what changed: a sink that did not change does not notice."""
        sinks = changes.entries("sinks")
        everything = changes.under("streamManager")
        await self._replace_sinks(set(self._sinks) if everything else {*sinks.removed, *sinks.changed}, config)
        self._forget_removed(config)
        if ("sources",) in changes.changed:
            await self._listen(config)

    async def stop(self) -> None:
        """Stop listening, then flush the sinks side by side."""
        if self._inlet is not None:
            await self._inlet.close()
        await asyncio.gather(*(sink.stop(STOP_LIMIT) for sink in self._sinks.values()))
        if self._store is not None:
            await self._store.close(CLOSE_LIMIT)

    @classmethod
    def check(cls, config: Configuration, directory: Path) -> Sequence[Problem]:
        """Sinks that cannot run beside the others."""
        return checks.check(config, directory)

    def trouble(self) -> str:
        """What keeps the store of units from taking anything."""
        store = self._store
        return f"{store.trouble}: {store.remedy}" if store is not None and store.trouble else ""

    def status(self) -> Mapping[str, Any]:
        """Sinks as connections, their ledgers, and what came in."""
        return {
            "connections": {**self._store_status(), **{name: sink.status() for name, sink in self._sinks.items()}},
            "ledger": {name: sink.ledger.status() for name, sink in self._sinks.items()},
            "inlet": self._inlet.status() if self._inlet is not None else {},
        }

    def _store_status(self) -> dict[str, Any]:
        """The store, when there is something to tell of it."""
        store = self._store
        if store is None or not (store.trouble or store.aside):
            return {}
        told: dict[str, Any] = {"state": "failed" if store.trouble else "running"}
        if store.trouble:
            told.update(why=store.trouble, remedy=store.remedy)
        if store.aside is not None:
            told["may_repeat"] = (
                f"{STORE} was damaged and is kept as {store.aside.name}: what was not acknowledged then"
            )
        return {STORE: told}

    async def _listen(self, config: Configuration) -> None:
        filters = topic_filters(config.sources)
        if self._inlet is not None:
            await self._inlet.follow(filters)
            return
        lite = self.context.max_message_bytes <= LITE_MAX_MESSAGE_BYTES
        inlet = Inlet(self.context.ipc, self.id, filters, window=LITE_WINDOW if lite else WINDOW)
        await inlet.start(self._sinks)
        self._inlet = inlet
        for sink in self._sinks.values():
            sink.moved = inlet.moved

    async def _replace_sinks(self, names: set[str], config: Configuration) -> None:
        """Stop the sinks called `names`, and start every sink of the configuration that does not run."""
        for name in names:
            self.context.problems.clear(f"sinks.{name}")
        ended = {name: self._sinks.pop(name) for name in names if name in self._sinks}
        await asyncio.gather(*(sink.stop(STOP_LIMIT) for sink in ended.values()))
        begun = self._make_sinks(config)
        if self._inlet is not None:
            for name in begun:
                self._sinks[name].moved = self._inlet.moved
            self._inlet.replace(self._sinks)
        for name in begun:
            self._sinks[name].start()

    def _forget_removed(self, config: Configuration) -> None:
        assert self._store is not None
        for name in self._store.sinks():
            if name not in config.sinks:
                logger.info("sinks.%s is not configured any more: what is known of it is forgotten", name)
                self._store.forget(name)

    def _make_sinks(self, config: Configuration) -> list[str]:
        """Make every sink of the configuration that is not there yet; their names."""
        timeout = config.stream_manager.request_timeout
        made = []
        clashes = checks.clashes(config.sinks, self._sinks)
        for name, settings in config.sinks.items():
            if name in self._sinks:
                continue
            self.context.problems.clear(f"sinks.{name}")
            if (found := clashes.get(name)) is not None:
                self.context.problems.report(found.path, found.problem, found.remedy, found.value, effect=found.effect)
                continue
            client = StreamClient(name, self.find_port, request_timeout=timeout)
            assert self._store is not None
            sink = make_sink(name, settings, client, self._store, Path(self.context.work_dir) / "spool" / name)
            self._sinks[name] = sink
            made.append(name)
        return made

    async def find_port(self) -> int:
        """Stream manager's port: from its configuration, else from the environment, else the default."""
        try:
            found = await self.context.ipc.get_configuration([PORT_KEY], component=STREAM_MANAGER)
            if _port(found) == 0:  # it took a free one, and wrote it down
                found = await self.context.ipc.get_configuration(["port"], component=STREAM_MANAGER)
        except IpcError as error:
            logger.debug("the port of %s is not in its configuration: %s", STREAM_MANAGER, error)
            found = None
        return _port(found) or _port(os.environ.get(PORT_KEY)) or DEFAULT_PORT


def _port(value: Any) -> int:
    """A port that may come as text or float; 0 when it is none."""
    try:
        port = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return 0
    return port if 0 < port < 65536 else 0
