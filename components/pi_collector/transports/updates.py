"""Stream updates: the server notes what happens to registered streams, and is asked for it by markers.

    register  POST streamsets/updates            -> a marker for each stream, or why it cannot be registered
    ask       GET  streamsets/updates?marker=…   -> what happened since, in order, and the next marker

What has happened since a marker waits on the server, so an answer that does not come, or cannot be read, costs
nothing: the same marker is asked with again. But the server keeps this in memory, for a while. When it knows a marker
no more, or says that a registration is not valid, that stream is lost from its last answer on, and begins anew. Markers
belong to one process of one server and are kept nowhere.

An answer is complete: what was there when it was asked for is in it. So an answer confirms all its streams up to the
server's time when it was asked for, less settle. A stream that has an error in the place of a value is lost, and begins
anew; one that answers leave out is confirmed by nothing, and after a while proven by reading the archive.

A stream that is lost again and again is polled instead: of a server that has always just forgotten what was registered,
such as several behind one address, that is all of them, and another way is taken.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from pi_collector.points.point import Stream
from pi_collector.transports.choosing import FailedError, Reason, Way, failed
from pi_collector.transports.means import Handing, Means, aliases, handles_of, settled, tell_deleted
from pi_collector.transports.shards import Search, Shard
from pi_collector.values.decode import Decoded, decode_updates
from pi_collector.web import requests
from pi_collector.web.errors import ConflictError, MalformedError, NotFoundError, PiError

logger = logging.getLogger(__name__)

FAILURES: Final = 5
"""Polls of all markers in a row, without an answer that can be read, after which it counts as lost."""
LOSSES: Final = 5
"""Times that a stream is lost within `LOSSES_WITHIN` after which it is polled instead."""
LOSSES_WITHIN: Final = 300.0
"""Seconds."""
UNPROVEN: Final = 300.0
"""Seconds for which answers may leave a stream out before the archive is read for it."""
UNFIT_AGAIN: Final = 600.0
"""Seconds before streams that could not be registered are tried again."""


class Updates:
    """The updates of one shard's streams."""

    way = Way.UPDATES

    def __init__(self, means: Means, shard: Shard) -> None:
        self._means = means
        self._shard = shard
        self._markers: dict[int, str] = {}
        self._sources: dict[str, int] = {}  # by what the server calls them, which may be another WebId than ours
        self._unfit: dict[int, str] = {}
        """Streams that cannot be registered, and why: they are polled."""
        self._unfit_at = 0.0
        self._again: set[int] = set()
        self._losses: dict[int, deque[float]] = {}  # when streams were lost
        self._proven: dict[int, float] = {}  # when streams were confirmed last
        self._handing = Handing(means)
        self._generation = means.client.generation
        self._at = 0

    # --- its life ---

    async def open(self) -> None:
        """Register all streams. Raises FailedError."""
        self._generation = self._means.client.generation
        try:
            await self._register(list(self._shard.streams.values()))
            self._at = await self._means.client.clock.after()
        except (PiError, OSError, asyncio.TimeoutError) as error:
            found = failed(error)
            if found.suspects:  # and it is not the streams: they were tried one by one
                found.reason = Reason.CANNOT
            raise found from error
        if not self._markers:
            raise _none(self._unfit)

    async def live(self) -> None:
        """Asks every poll interval. Raises FailedError, and whatever keeps values from being stored."""
        self._subscribed(self._registered(), self._at)
        failures = 0
        due = time.monotonic()
        while True:
            self._want()
            due = max(due + self._interval(), time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            if self._means.client.generation != self._generation:
                raise FailedError("another PI Web API server is used now, which does not know what was registered")
            await self._handing.room()
            try:
                await self._ask_all()
                await self._begin_again()
            except (PiError, OSError, asyncio.TimeoutError) as error:
                found = failed(error)
                failures += found.reason is not Reason.AWAY
                if found.reason is Reason.CANNOT and not isinstance(error, MalformedError):
                    raise found from error
                if failures >= FAILURES:
                    raise FailedError(found.problem, found.remedy, after=found.after) from error
                if found.after:
                    await asyncio.sleep(found.after)
            else:
                failures = 0
            if not self._markers and not self._again and self.unfit:
                raise _none(self.unfit)

    async def last(self) -> None:
        """Ask once more. Raises FailedError."""
        try:
            await self._ask_all()
        except (PiError, OSError, asyncio.TimeoutError) as error:
            raise failed(error) from error

    async def close(self) -> None:
        """Nothing can be unregistered: the server forgets what nobody asks for."""

    def _interval(self) -> float:
        stream = next(iter(self._shard.streams.values()), None)
        return 1.0 if stream is None else stream.plan.poll

    def _registered(self) -> list[Stream]:
        return [stream for handle in self._markers if (stream := self._shard.streams.get(handle)) is not None]

    @property
    def unfit(self) -> dict[int, str]:
        """Streams that cannot be registered, and why."""
        return {handle: why for handle, why in self._unfit.items() if handle in self._shard.streams}

    def _subscribed(self, streams: Sequence[Stream], at: int) -> None:
        self._proven.update(dict.fromkeys((stream.handle for stream in streams), time.monotonic()))
        self._means.coverage.subscribed(handles_of(streams), at)

    def _want(self) -> None:
        """What is to be read of the archive: streams that cannot be registered, and those that answers leave out."""
        now = time.monotonic()
        silent = [one for one in self._registered() if now - self._proven.get(one.handle, now) > UNPROVEN]
        streams = [*(self._shard.streams[handle] for handle in self.unfit), *silent]
        if lower := self._means.client.clock.lower:
            settled(streams, lower, self._means.coverage.want)

    # --- registering ---

    async def _register(self, streams: Sequence[Stream]) -> None:
        """Each has a marker or is unfit afterwards. Raises PiError."""
        load = self._means.settings.load
        chunks = requests.chunks(
            "streamsets/updates",
            requests.register_query(),
            [stream.point.web_id for stream in streams],
            load.points_per_request,
            load.url_bytes,
        )
        for chunk in chunks:
            await self._register_chunk([streams[index] for index in chunk])

    async def _register_chunk(self, streams: Sequence[Stream]) -> None:
        try:
            await self._register_these(streams)
        except PiError as error:
            if not failed(error).suspects:
                raise
            await self._search(streams, error)

    async def _search(self, streams: Sequence[Stream], error: PiError) -> None:
        """The server refuses all of them, maybe for one that it does not know. Raises the error when it is not that."""
        by_handle = {stream.handle: stream for stream in streams}
        search = Search(list(by_handle))
        while (asked := search.ask()) is not None:
            search.answered(taken=await self._takes([by_handle[handle] for handle in asked]))
        if search.hopeless:
            raise error
        for handle in search.refused:
            self._unfit[handle] = error.problem
            self._means.refused(by_handle[handle], error.problem)

    async def _takes(self, streams: Sequence[Stream]) -> bool:
        """Registers them, if the server lets it. Raises PiError when it is not the streams."""
        try:
            await self._register_these(streams)
        except PiError as error:
            if not failed(error).suspects:
                raise
            return False
        return True

    async def _register_these(self, streams: Sequence[Stream]) -> None:
        body = await self._means.client.register(requests.register(stream.point.web_id for stream in streams).query)
        sources = {stream.point.web_id: stream.handle for stream in streams}
        decoded = decode_updates(body, sources, self._means.intake.typings)
        if len(decoded.markers) + len(decoded.unregistered) < len(streams):
            sources.update(aliases(body, streams))
            decoded = decode_updates(body, sources, self._means.intake.typings)
        self._sources.update(sources)
        for stream in streams:
            handle = stream.handle
            marker = decoded.markers.get(handle)
            self._unfit.pop(handle, None)
            self._markers.pop(handle, None)
            if marker is not None and handle not in decoded.unregistered:
                self._markers[handle] = marker
            else:
                self._unfit[handle] = decoded.unregistered.get(handle, "the server's answer does not name it")
                self._unfit_at = time.monotonic()

    async def _begin_again(self) -> None:
        """Registers what is to be registered anew, and now and then what could not be."""
        again = set(self._again)
        if self._unfit and time.monotonic() - self._unfit_at > UNFIT_AGAIN:
            self._unfit_at = time.monotonic()
            again |= set(self._unfit)
        streams = [self._shard.streams[handle] for handle in again if handle in self._shard.streams]
        if streams:
            await self._register(streams)
            at = await self._means.client.clock.after()
            new = [stream for stream in streams if stream.handle in self._markers]
            self._subscribed(new, at)
        self._again -= again

    # --- asking ---

    async def _ask_all(self) -> None:
        for known in (self._markers, self._losses, self._proven):
            for handle in [handle for handle in known if handle not in self._shard.streams]:
                del known[handle]
        asked = list(self._markers.items())
        load = self._means.settings.load
        chunks = requests.chunks(
            "streamsets/updates",
            requests.updates_query(),
            [marker for _, marker in asked],
            load.points_per_request,
            load.url_bytes,
            parameter="marker",
        )
        for chunk in chunks:
            await self._ask({asked[index][1]: asked[index][0] for index in chunk})

    async def _ask(self, markers: dict[str, int]) -> None:
        lower = self._means.client.clock.lower
        try:
            body = await self._means.client.get(*requests.updates(markers))
        except (NotFoundError, ConflictError) as error:
            self._lost(dict.fromkeys(markers.values(), error.problem))
            return
        decoded = decode_updates(body, self._sources, self._means.intake.typings, markers)
        self._handing.give(decoded)
        tell_deleted(self._means, decoded, self._shard.streams)
        self._follow(decoded)
        answered = [
            stream
            for handle in markers.values()
            if handle in decoded.markers
            and handle in self._markers
            and (stream := self._shard.streams.get(handle)) is not None
        ]
        self._proven.update(dict.fromkeys((stream.handle for stream in answered), time.monotonic()))
        settled(answered, lower, self._means.coverage.confirmed)

    def _follow(self, decoded: Decoded) -> None:
        """The next markers, and what has to begin anew."""
        for handle, marker in decoded.markers.items():
            if handle in self._markers:
                self._markers[handle] = marker
        lost = dict(decoded.unregistered)
        for handle in decoded.refresh:
            lost.setdefault(handle, "PI says that the stream's values have to be read again (Refresh)")
        for handle, why in decoded.errors.items():
            lost.setdefault(handle, f"an error in the place of a value: {why}")
        self._lost(lost)

    def _lost(self, whys: dict[int, str]) -> None:
        causes: dict[str, list[Stream]] = {}
        now = time.monotonic()
        for handle, why in whys.items():
            self._markers.pop(handle, None)
            if (stream := self._shard.streams.get(handle)) is not None:
                times = self._losses.setdefault(handle, deque(maxlen=LOSSES))
                times.append(now)
                if len(times) == LOSSES and now - times[0] < LOSSES_WITHIN:
                    self._unfit[handle], self._unfit_at = why, now
                else:
                    self._again.add(handle)
                causes.setdefault(why, []).append(stream)
        for why, streams in causes.items():
            self._means.counts["registrations_lost"] += len(streams)
            self._means.coverage.lost(handles_of(streams), f"stream updates: {why}")


def _none(unfit: Mapping[int, str]) -> FailedError:
    why = next(iter(unfit.values()), "the server registered none of the streams")
    return FailedError(f"no stream can be registered for updates: {why}", reason=Reason.CANNOT)
