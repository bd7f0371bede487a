"""When each component was seen at work on the local bus, and how long it took from its death until it was again."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import orjson

from localcore.ipc import IpcServer

_ANNOUNCEMENT = b'{"v":1,"kind":"announce"'


class Flow:
    """Listens on the bus, from start() on.

    A producer is at work when it publishes a batch, live or again; a consumer when its cursors move on.

    producers: components by their short ids, as in topics.
    """

    def __init__(self, producers: Mapping[str, str], consumer: str) -> None:
        self._producers = producers
        self._consumer = consumer
        self._died: dict[str, float] = {}
        self._took: dict[str, list[float]] = defaultdict(list)
        self._cursors: dict[tuple[str, str], int] = {}

    def start(self, ipc: IpcServer) -> None:
        """Begin to listen."""
        ipc.observe("sluice/data/#", self.on_batch)
        ipc.observe("sluice/replay/#", self.on_batch)
        ipc.observe("sluice/ack/#", self.on_acknowledgement)

    def died(self, component: str) -> None:
        """A component has died now; when it had not been at work since it died last, that was the same time away."""
        self._died.setdefault(component, time.monotonic())

    def on_batch(self, topic: str, payload: bytes) -> None:
        """A message of a producer."""
        if payload.startswith(_ANNOUNCEMENT):
            return
        # sluice/data/<producer>/… and sluice/replay/<consumer>/<producer>/…
        levels = topic.split("/")
        producer = self._producers.get(levels[3] if levels[1] == "replay" else levels[2])
        if producer is not None:
            self._at_work(producer)

    def on_acknowledgement(self, topic: str, payload: bytes) -> None:
        """The cursors of a consumer."""
        try:
            streams = orjson.loads(payload)["streams"]
            moved = False
            for stream, cursor in streams.items():
                key = (stream, cursor["epoch"])
                moved |= cursor["next"] > self._cursors.get(key, cursor["next"])
                self._cursors[key] = cursor["next"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if moved:
            self._at_work(self._consumer)

    def recoveries(self) -> Mapping[str, dict[str, Any]]:
        """Per component the seconds from its deaths until it was at work again; a chain of deaths counts as one."""
        return {
            name: {
                "times": len(took),
                "median_s": round(statistics.median(took), 2),
                "longest_s": round(max(took), 2),
            }
            for name, took in self._took.items()
        }

    def _at_work(self, component: str) -> None:
        died = self._died.pop(component, None)
        if died is not None:
            self._took[component].append(time.monotonic() - died)
