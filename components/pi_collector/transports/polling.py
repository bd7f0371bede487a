"""Streams that are read of the archive every so often: what is to be read, and when. The reading is the reader's."""

from __future__ import annotations

import asyncio
import math
from typing import Final

from pi_collector.transports.choosing import Way
from pi_collector.transports.means import Means, settled
from pi_collector.transports.shards import Shard

_GOLDEN: Final = 0.618  # of an interval: shards whose numbers follow each other are spread evenly over it


class Polling:
    """Asks for the archive of a shard's streams, some at a time, so that all are asked for once in each interval."""

    way = Way.POLL

    def __init__(self, means: Means, shard: Shard) -> None:
        self._means = means
        self._shard = shard

    async def open(self) -> None:
        """Nothing has to be begun: the archive can be read as long as the server can be asked at all."""

    async def live(self) -> None:
        """Never ends."""
        while not self._means.client.clock.lower:  # noqa: ASYNC110 - it comes with any answer
            await asyncio.sleep(0.1)
        self._want(0, 1)
        await asyncio.sleep(self._interval() * (self._shard.number * _GOLDEN % 1))
        while True:
            parts = max(1, math.ceil(len(self._shard.streams) / self._means.settings.load.points_per_request))
            for part in range(parts):
                await asyncio.sleep(self._interval() / parts)
                self._want(part, parts)

    def _interval(self) -> float:
        stream = next(iter(self._shard.streams.values()), None)
        return 1.0 if stream is None else stream.plan.poll

    def _want(self, part: int, parts: int) -> None:
        streams = list(self._shard.streams.values())[part::parts]
        settled(streams, self._means.client.clock.lower, self._means.coverage.want)

    async def last(self) -> None:
        """What was not read yet is read as before."""

    async def close(self) -> None:
        """Nothing is open."""
