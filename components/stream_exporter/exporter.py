"""The component: from the local bus to the sinks."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from sluice.batch import EventBatch, SampleBatch
from sluice.component import Component, Context
from sluice.config import Changes
from sluice.ipc import IpcError
from sluice.streams import Inlet
from stream_exporter.config import AnySink, ExporterSettings, streams_of, topic_filters
from stream_exporter.sink import Sink
from stream_exporter.sinks import make_sink
from stream_exporter.stream_client import DEFAULT_PORT, StreamClient

logger = logging.getLogger(__name__)

STREAM_MANAGER = "aws.greengrass.StreamManager"
PORT_KEY = "STREAM_MANAGER_SERVER_PORT"

#: Seconds that the sinks have for their last messages when the component stops.
STOP_LIMIT = 2.3


class StreamExporter(Component[ExporterSettings]):
    """Follows the sources and offers each batch to every sink."""

    id: ClassVar[str] = "stream-exporter"
    settings: ClassVar[type[ExporterSettings]] = ExporterSettings

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._sinks: dict[str, Sink] = {}
        self._inlet: Inlet | None = None
        self._events_passed_over = 0

    async def start(self, config: ExporterSettings) -> None:
        """Start the sinks, then listen."""
        await self._replace_sinks(set(), config)
        await self._listen(config)

    async def apply(self, config: ExporterSettings, changes: Changes) -> None:
        """Touch what changed: a sink that did not change does not notice."""
        sinks = changes.entries("sinks")
        everything = changes.under("streamManager")
        await self._replace_sinks(set(self._sinks) if everything else {*sinks.removed, *sinks.changed}, config)
        if ("sources",) in changes.changed:
            await self._listen(config)

    async def stop(self) -> None:
        """Stop listening, then flush the sinks side by side."""
        if self._inlet is not None:
            await self._inlet.close()
        await asyncio.gather(*(sink.stop(STOP_LIMIT) for sink in self._sinks.values()))

    def status(self) -> Mapping[str, Any]:
        """Sinks as connections, their ledgers, and what came in."""
        return {
            "connections": {name: sink.status() for name, sink in self._sinks.items()},
            "ledger": {name: sink.ledger.status() for name, sink in self._sinks.items()},
            "counters": {"event_batches_passed_over": self._events_passed_over},
            "inlet": self._inlet.status() if self._inlet is not None else {},
        }

    async def receive(self, batch: SampleBatch | EventBatch) -> None:
        """Offer a batch to every sink. Events have no route yet: they are counted."""
        if isinstance(batch, EventBatch):
            self._events_passed_over += 1
            return
        for sink in self._sinks.values():
            sink.offer(batch)

    async def _listen(self, config: ExporterSettings) -> None:
        filters = topic_filters(config.sources)
        if self._inlet is not None:
            await self._inlet.follow(filters)
            return
        self._inlet = Inlet(self.context.ipc, filters)
        await self._inlet.start(self.receive)

    async def _replace_sinks(self, names: set[str], config: ExporterSettings) -> None:
        """Stop the sinks called `names`, and start every sink of the configuration that does not run.

        A sink that goes on under its name takes batches from the moment on in which its predecessor takes no more, and
        takes over what that could not deliver; it begins to work when the other has ended, for both use the same files.
        """
        for name in names:
            self.context.problems.clear(f"sinks.{name}")
        ended = {name: self._sinks.pop(name) for name in names if name in self._sinks}
        begun = self._make_sinks(config)
        await asyncio.gather(*(sink.stop(STOP_LIMIT) for sink in ended.values()))
        for name in begun:
            if name in ended:
                self._sinks[name].take_over(ended[name])
            self._sinks[name].start()

    def _make_sinks(self, config: ExporterSettings) -> list[str]:
        """Make every sink of the configuration that is not there yet; their names."""
        timeout = config.stream_manager.request_timeout
        made = []
        for name, settings in config.sinks.items():
            if name in self._sinks or self._clashes(name, settings, config):
                continue
            client = StreamClient(name, self.find_port, request_timeout=timeout)
            sink = make_sink(name, settings, client, Path(self.context.work_dir) / "spool" / name)
            self._sinks[name] = sink
            made.append(name)
        return made

    def _clashes(self, name: str, settings: AnySink, config: ExporterSettings) -> bool:
        """Whether another sink that runs already has a stream that this one wants; it is left out and reported."""
        place = f"sinks.{name}"
        self.context.problems.clear(place)
        for other in self._sinks:
            shared = set(streams_of(settings)) & set(streams_of(config.sinks[other]))
            if shared:
                problem = f"is a stream of the sink {other} too"
                remedy = "give each sink streams of its own; this sink does not run"
                self.context.problems.report(f"{place}.stream", problem, remedy, shared.pop())
                return True
        return False

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
