"""Channels: websockets on which the server sends what is new, as PI Web API does, with all that makes them hard.

The server looks for news every `poll_s` of its own time, and not when something happens. A frame has the streams that
changed, each with the values since the last frame in no promised order; edits and deletions of old values are among
them. After so many polls without news an empty frame is sent, the heartbeat, if one was asked for. Nothing has a
number, nothing is repeated: what is sent on a connection that has died is gone. A client that reads slowly fills the
server's queue, and what does not fit any more is gone without a word.

After each frame the server sends a websocket ping with the frame's number; the pong proves that the client has taken
the frame out of its connection, and goes into the plant's own log.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from aiohttp import WSMsgType, web

from plant.pi.clock import Clock
from plant.pi.events import Change
from plant.pi.faults import Faults
from plant.pi.points import PiPoint
from plant.pi.system import PiSystem
from plant.pi.timed_values import time_text, timed
from plant.pi.truth import Sample, Truth

HEARTBEAT = '{"Links":{},"Items":[]}'
_CLOSE_S = 0.5
_UNREAD = 10_000
"""Frames of a channel whose pong may still come; a client that never answers is not remembered for ever."""


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """How channels behave where servers differ, or the documentation is silent."""

    poll_s: float = 1.0
    """Server seconds from one look for news to the next."""
    most: int = 5000
    """Channels at the same time."""
    full: int | None = 1013
    """What a channel too many gets: opened and closed with that code; None: not opened, HTTP 503."""
    shape: Literal["Items", "Value"] = "Items"
    """Value: one value per stream and frame, as a sample of the documentation has it."""
    text_booleans: bool = False
    """"true" and "false" as texts, as another sample has it."""
    shuffled: bool = False
    """Values of a frame in any order, as the documentation warns."""
    deletions: Literal["deleted", "null", "none"] = "null"
    """How a deletion looks: a value null that is not good; the same with an Errors text; or it is not told."""
    queue: int = 200_000
    """Values that wait for one channel; of more the oldest are gone without a word."""


@dataclass(slots=True, eq=False)
class Channel:
    """One websocket."""

    number: int
    socket: web.WebSocketResponse
    points: Mapping[int, PiPoint]
    web_ids: Mapping[int, str]
    heartbeat: int
    opened_ns: int
    waiting: deque[Change]
    task: asyncio.Task[None] | None = None
    lost: int = 0
    sent: int = 0
    last_sent_ns: int = 0
    oversize: int = 0
    unread: deque[int] = field(default_factory=lambda: deque(maxlen=_UNREAD))

    @property
    def name(self) -> str:
        """Its name in the log."""
        return f"channel-{self.number}"


class Channels:
    """All channels of a server."""

    def __init__(
        self,
        system: PiSystem,
        clock: Clock,
        faults: Faults,
        truth: Truth,
        options: ChannelOptions,
        *,
        seed: int = 0,
    ) -> None:
        self._clock = clock
        self._faults = faults
        self._truth = truth
        self._options = options
        self._random = random.Random(seed)  # noqa: S311 - order, not a secret
        self._open: dict[int, Channel] = {}
        self._by_point: dict[int, set[Channel]] = {}
        self._opened = 0
        self.lost = 0
        """Values that did not fit into a queue."""
        system.listeners.append(self._changed)

    # ---- what is open

    @property
    def open(self) -> int:
        """Channels that are open."""
        return len(self._open)

    def watched(self) -> set[int]:
        """Points that a channel follows."""
        return set(self._by_point)

    def instances(self) -> dict[str, Any]:
        """The answer of `channels/instances`."""
        return {
            "Items": [
                {
                    "Id": channel.name,
                    "StartTime": time_text(channel.opened_ns),
                    "LastMessageSentTime": time_text(channel.last_sent_ns or channel.opened_ns),
                    "SentMessageCount": channel.sent,
                }
                for channel in self._open.values()
            ],
            "Links": {},
        }

    def close(self, code: int, message: bytes = b"") -> list[asyncio.Task[None]]:
        """Close every channel with that code; the tasks that do it."""
        return [asyncio.ensure_future(self._closed(channel, code, message)) for channel in list(self._open.values())]

    @staticmethod
    async def _closed(channel: Channel, code: int, message: bytes) -> None:
        await channel.socket.close(code=code, message=message)

    def oversize(self, size: int) -> None:
        """Let the next frame of each channel have that many bytes."""
        for channel in self._open.values():
            channel.oversize = size

    # ---- one channel

    async def serve(
        self,
        request: web.Request,
        points: Sequence[PiPoint],
        web_ids: Sequence[str],
        *,
        initial: bool,
        heartbeat: int,
    ) -> web.StreamResponse:
        """Open a channel for these points and serve it until it is closed."""
        refused = self._faults.refused_upgrade()
        if refused is not None:
            return refused
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.json_response({"Errors": ["The protocol of the request is not supported."]}, status=400)
        full = len(self._open) >= self._options.most
        if full and self._options.full is None:
            return web.json_response({"Errors": ["The maximum number of channels is open."]}, status=503)
        socket = web.WebSocketResponse(autoping=False, compress=False, timeout=_CLOSE_S)
        await socket.prepare(request)
        if full:
            await socket.close(code=self._options.full or 1013, message=b"The maximum number of channels is open.")
            return socket
        channel = self._enter(socket, points, web_ids, heartbeat)
        channel.task = asyncio.create_task(self._send(channel, initial=initial))
        try:
            await self._listen(channel)
        finally:
            self._leave(channel)
            channel.task.cancel()
            await asyncio.wait([channel.task])
            if not channel.task.cancelled() and not isinstance(channel.task.exception(), (OSError, type(None))):
                channel.task.result()
        return socket

    def _enter(
        self, socket: web.WebSocketResponse, points: Sequence[PiPoint], web_ids: Sequence[str], heartbeat: int
    ) -> Channel:
        self._opened += 1
        channel = Channel(
            self._opened,
            socket,
            {point.id: point for point in points},
            {point.id: web_id for point, web_id in zip(points, web_ids, strict=True)},
            heartbeat,
            self._clock.now_ns(),
            deque(maxlen=self._options.queue),
        )
        self._open[channel.number] = channel
        for number in channel.points:
            self._by_point.setdefault(number, set()).add(channel)
        return channel

    def _leave(self, channel: Channel) -> None:
        self._open.pop(channel.number, None)
        for number in channel.points:
            followers = self._by_point[number]
            followers.discard(channel)
            if not followers:
                del self._by_point[number]

    async def _listen(self, channel: Channel) -> None:
        """Take what the client sends: pongs to our pings, pings of its own, its close."""
        while True:
            message = await channel.socket.receive()
            if self._faults.silent and message.type not in (WSMsgType.CLOSED, WSMsgType.ERROR):
                continue  # what comes while nobody listens is not heard
            if message.type is WSMsgType.PONG:
                self._pong(channel, bytes(message.data))
            elif message.type is WSMsgType.PING:
                await channel.socket.pong(message.data)
            elif message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                return

    def _pong(self, channel: Channel, payload: bytes) -> None:
        number = int(payload) if payload.isdigit() and len(payload) < 16 else -1
        if number not in channel.unread:
            return
        # A client may answer the newest of several pings alone (RFC 6455, 5.5.3): it has read what came before too.
        while channel.unread and channel.unread[0] <= number:
            self._truth.read(self._clock.now_ns(), channel.unread.popleft())

    async def _send(self, channel: Channel, *, initial: bool) -> None:
        if initial:
            current = [Change(point, "Add", event) for point in channel.points.values() if (event := point.snapshot)]
            await self._frame(channel, current)
        empty = 0
        while True:
            await self._clock.sleep(self._options.poll_s)
            if self._faults.mute:
                continue
            if channel.waiting:
                empty = 0
                changes = list(channel.waiting)
                channel.waiting.clear()
                if self._options.shape == "Value":
                    for one in _one_each(changes):
                        await self._frame(channel, one)
                else:
                    await self._frame(channel, changes)
                continue
            empty += 1
            if 0 < channel.heartbeat <= empty:
                empty = 0
                await self._text(channel, HEARTBEAT)

    async def _frame(self, channel: Channel, changes: Sequence[Change]) -> None:
        told = [change for change in changes if change.action != "Delete" or self._options.deletions != "none"]
        if not told:
            return
        text = self._encoded(channel, told)
        for _ in range(2 if self._faults.twice() else 1):
            number = self._truth.frame(channel.name, [(Sample.of(c.point.id, c.event), c.action) for c in told])
            channel.unread.append(number)
            await self._text(channel, text)
            await channel.socket.ping(str(number).encode())

    async def _text(self, channel: Channel, text: str) -> None:
        if channel.oversize > len(text):
            text = " " * (channel.oversize - len(text)) + text
            channel.oversize = 0
            self._faults.hits["oversize"] += 1
        await channel.socket.send_str(text)
        channel.sent += 1
        channel.last_sent_ns = self._clock.now_ns()

    def _encoded(self, channel: Channel, changes: Iterable[Change]) -> str:
        values: dict[int, list[dict[str, Any]]] = {}
        for change in changes:
            values.setdefault(change.point.id, []).append(self._value(change))
        items = []
        for number, told in values.items():
            point = channel.points[number]
            if self._options.shuffled:
                self._random.shuffle(told)
            item: dict[str, Any] = {
                "WebId": channel.web_ids[number],
                "Name": point.name,
                "Path": point.path,
                "Links": {},
            }
            if self._options.shape == "Value":
                item["Value"] = told[-1]
            else:
                item["Items"] = told
            item["UnitsAbbreviation"] = point.units
            items.append(item)
        if self._options.shuffled:
            self._random.shuffle(items)
        return orjson.dumps({"Links": {}, "Items": items}).decode()

    def _value(self, change: Change) -> dict[str, Any]:
        value = timed(change.point, change.event)
        if change.action == "Delete":
            value |= {"Value": None, "Good": False}
            if self._options.deletions == "deleted":
                value["Errors"] = [{"FieldName": "Value", "Message": ["The event was deleted."]}]
        if self._options.text_booleans:
            value = {name: str(one).lower() if isinstance(one, bool) else one for name, one in value.items()}
        return value

    # ---- news

    def _changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            for channel in self._by_point.get(change.point.id, ()):
                if len(channel.waiting) == channel.waiting.maxlen:
                    channel.lost += 1
                    self.lost += 1
                channel.waiting.append(change)


def _one_each(changes: Iterable[Change]) -> list[list[Change]]:
    """The changes as frames with one value per stream at the most, each stream's in their order."""
    frames: list[list[Change]] = []
    counts: dict[int, int] = {}
    for change in changes:
        number = counts.get(change.point.id, 0)
        counts[change.point.id] = number + 1
        if number == len(frames):
            frames.append([])
        frames[number].append(change)
    return frames


__all__ = ["HEARTBEAT", "Channel", "ChannelOptions", "Channels"]
