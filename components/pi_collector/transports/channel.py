"""One channel: a websocket on which the server sends what is new of some streams.

Its life: open; take over what comes from the first message on, while an upper bound of the server's time is asked for;
from that time on everything comes by itself (`live`); at last it ends, always with a `FailedError` that says why. It is
never reopened: that is `carrier`'s affair. Where the first message keeps us waiting the server may still be subscribing
the streams: the time is then asked for once more after it came.

Messages are handed on in their order. When the store does not keep up nothing is read, so that the line holds the
server back and memory stays small; after half a minute of that the channel is closed. The server's own pings are
answered once what came before them is durable: whoever takes a pong for a receipt is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Coroutine
from typing import Any, Final

import aiohttp
from aiohttp import WSMsgType

from pi_collector.points.point import Stream
from pi_collector.transports.choosing import FailedError, Way, failed
from pi_collector.transports.confirmation import Confirmation, Watch
from pi_collector.transports.means import (
    PATIENCE,
    Handing,
    Means,
    aliases,
    handles_of,
    named,
    settled,
    tell_deleted,
)
from pi_collector.transports.shards import Shard
from pi_collector.values.decode import decode_recorded
from pi_collector.web import requests
from pi_collector.web.errors import MalformedError, PiError
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

LOOK: Final = 1.0
"""Seconds from one look at the clock to the next."""
FIRST_MESSAGE: Final = 2.0
"""Seconds to wait for the first message, which shows that the server has subscribed the streams, before going on."""
UNPROVEN: Final = 300.0
"""Seconds without any proof by messages after which the archive is read for it."""
RESUBSCRIBE: Final = 10.0
"""Seconds from one new subscription of single streams to the next at least."""
OPENED: Final = 30.0
"""Seconds within which a channel has to be open."""
_CLOSING: Final = 0.8  # seconds for the server to say goodbye
_POLL: Final = 5.0  # seconds that servers take from one look for news to the next, as far as it is known
_TOO_BIG: Final = 1009
_MOST_STRANGERS: Final = 100  # messages in which streams that are not known are looked for by their paths

_WORDS: Final = {
    1000: "the server closed the channel",
    1001: "the server closed the channel: it goes away",
    1006: "the line to the channel broke",
    1008: "the server closed the channel: it is against its rules",
    1009: "a message was larger than a channel may have",
    1011: "the server closed the channel for an error of its own",
    1012: "the server closed the channel: it restarts",
    1013: "the server closed the channel: it has too many",
}
SINGLE: Final = "each of its messages has one value per stream, and may leave out those between"
STRANGE: Final = "its messages name streams in a way that is none of ours, so that their values are missed"


def heartbeat_rate(heartbeat: float) -> int:
    """The rate to ask for, which the server counts in looks of unknown length."""
    return max(1, round(heartbeat / _POLL))


class Channel:
    """The channel of one shard. `open`, then `live`; `close` in any case."""

    way = Way.CHANNEL

    def __init__(self, means: Means, shard: Shard, only: Collection[int] | None = None) -> None:
        """only: handles of the shard that it is opened for; None: all of them."""
        self._means = means
        self._shard = shard
        self.streams: dict[int, Stream] = {
            handle: stream for handle, stream in shard.streams.items() if only is None or handle in only
        }
        """Those that it was opened with."""
        self.at = 0
        """Server time (ns) since when everything comes by itself."""
        self.generation = means.client.generation
        self.single = False
        """Its messages may leave values out, see SINGLE and STRANGE: the archive is read beside."""
        self.opened = time.monotonic()
        self.received = 0
        self._handing = Handing(means)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._first = asyncio.Event()
        self._confirmation = Confirmation(self.opened)
        self._watch = Watch(means.settings.heartbeat, self.opened)
        self._handles = {stream.point.web_id: stream.handle for stream in self.streams.values()}
        self._wanted = len(shard.streams)
        self._left: set[str] = set()  # WebIds of streams that it still sends and nobody wants
        self._is_live = False
        self._late = False  # its first message was not there when the time was asked for
        self._strangers = 0
        self._recognised = False  # a message has named a stream of ours
        self._again: set[int] = set()  # streams that are to be subscribed anew
        self._again_at = 0.0
        self._wanted_at = 0.0

    # --- its life ---

    async def open(self) -> None:
        """Open it, and learn from when on everything comes. Raises FailedError."""
        await self.shake_hands()
        assert self._socket is not None
        now = time.monotonic()
        self._confirmation, self._watch = Confirmation(now), Watch(self._means.settings.heartbeat, now)
        self._reader = asyncio.create_task(self._read(self._socket), name=f"channel {self._shard.number}")
        await self._or_ended(self._first_message(), FIRST_MESSAGE)
        self._late = not self._first.is_set()
        try:
            self.at = await self._or_ended(self._means.client.clock.after(), OPENED)
        except (PiError, OSError, asyncio.TimeoutError) as error:
            raise failed(error) from error
        self._means.counts["channels_opened"] += 1

    async def shake_hands(self) -> None:
        """Open its websocket and nothing more: whether the server takes these streams. Raises FailedError."""
        self.generation = self._means.client.generation
        try:
            async with self._means.openings:
                self._socket = await within(OPENED, self._means.client.websocket(*self._request()))
        except (PiError, OSError, asyncio.TimeoutError) as error:
            raise failed(error) from error
        except aiohttp.ClientError as error:
            raise FailedError(f"a channel could not be opened ({type(error).__name__})") from error

    def _request(self) -> requests.Request:
        rate = heartbeat_rate(self._means.settings.heartbeat)
        return requests.channel([stream.point.web_id for stream in self.streams.values()], rate)

    async def _first_message(self) -> int:
        with contextlib.suppress(asyncio.TimeoutError):
            await within(FIRST_MESSAGE, self._first.wait())
        return 0

    async def _or_ended(self, coroutine: Coroutine[Any, Any, int], seconds: float) -> int:
        """What it gives, unless the channel ends before. Raises what ended it."""
        assert self._reader is not None
        task = asyncio.create_task(coroutine)
        try:
            await asyncio.wait((task, self._reader), timeout=seconds + 1, return_when=asyncio.FIRST_COMPLETED)
            if self._reader.done():
                self._reader.result()
            if not task.done():
                raise asyncio.TimeoutError
            return task.result()
        finally:
            if not task.done():
                task.cancel()

    async def live(self) -> None:
        """Tells coverage what comes, until it ends. Raises FailedError, and whatever keeps values from being stored."""
        assert self._reader is not None
        assert self._socket is not None
        self._is_live = True
        if self.single:
            self._want()
        else:
            self._means.coverage.subscribed(handles_of(self._mine()), self.at)
        while True:
            await asyncio.wait((self._reader,), timeout=LOOK)
            if self._reader.done():
                self._reader.result()
                raise FailedError(_WORDS[1000])
            now = time.monotonic()
            if trouble := self._watch.look(now, LOOK):
                raise FailedError(trouble)
            if self._means.client.generation != self.generation:
                raise FailedError("another PI Web API server is used now, or the same one was started anew")
            await self._ask(self._socket, now)
            if self.single:
                self._want()
            else:
                await self._prove(now)

    async def last(self) -> None:
        """Nothing is better than a channel."""

    async def close(self) -> None:
        """Ends it, whatever its state. What was handed on stays."""
        if self._reader is not None:
            await end(self._reader)
        if self._socket is not None:
            with contextlib.suppress(asyncio.TimeoutError, OSError, aiohttp.ClientError):
                await within(_CLOSING, self._socket.close())

    @property
    def cadence(self) -> float | None:
        """Seconds between the server's heartbeats, as far as they were heard."""
        return self._watch.cadence

    def _mine(self) -> list[Stream]:
        """Streams of it that are still wanted, as they are now."""
        return [stream for handle in self.streams if (stream := self._shard.streams.get(handle)) is not None]

    # --- proofs ---

    async def _ask(self, socket: aiohttp.ClientWebSocketResponse, now: float) -> None:
        payload = self._confirmation.ask(self._means.client.clock.lower, now, self._means.settings.heartbeat)
        if payload is not None:
            # A line that takes nothing any more must not hold us: the watch decides what that means.
            with contextlib.suppress(asyncio.TimeoutError, ConnectionError, aiohttp.ClientError):
                await within(LOOK, socket.ping(payload))

    def _confirmed(self) -> None:
        if self._is_live and not self.single:
            of = [stream for stream in self._mine() if stream.handle not in self._again]
            settled(of, self._confirmation.proven, self._means.coverage.confirmed)

    async def _prove(self, now: float) -> None:
        """Lets the archive prove what messages do not: everything from a new time on comes by itself, as before."""
        whole = self._confirmation.unproven(now) > UNPROVEN and now - self._again_at > UNPROVEN
        if not whole and not (self._again and now - self._again_at > RESUBSCRIBE):
            return
        again = set(self.streams) if whole else set(self._again)
        self._again_at = now
        try:
            at = await self._or_ended(self._means.client.clock.after(), OPENED)
        except (PiError, OSError, asyncio.TimeoutError):
            return  # asked again at the next opportunity; nothing is confirmed before
        self._again -= again
        self._means.coverage.subscribed(handles_of(one for one in self._mine() if one.handle in again), at)

    def _want(self) -> None:
        """What such a channel sends is handed on; what it may leave out is read like a poll."""
        now = time.monotonic()
        mine = self._mine()
        if mine and now - self._wanted_at >= mine[0].plan.poll and (lower := self._means.client.clock.lower):
            self._wanted_at = now
            settled(mine, lower, self._means.coverage.want)

    # --- messages ---

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            waited = await self._handing.room()
            if waited:
                self._means.counts["channel_pauses"] += 1
                if waited >= PATIENCE:
                    raise FailedError(
                        f"what a channel sent could not be stored for {waited:.0f} s",
                        "look at the outbox's disk: it is too slow or full",
                    )
                self._watch.excuse(waited, time.monotonic())
            message = await socket.receive()
            now = time.monotonic()
            self._watch.heard(now)
            if message.type is WSMsgType.TEXT or message.type is WSMsgType.BINARY:
                self._message(message.data, now)
                await self._ask(socket, now)
            elif message.type is WSMsgType.PING:
                self._receipt(socket, bytes(message.data))
            elif message.type is WSMsgType.PONG:
                self._confirmation.pong(bytes(message.data), now)
            else:
                raise self._ended(socket, message)

    def _message(self, data: str | bytes, now: float) -> None:
        if len(self._shard.streams) != self._wanted:
            self._narrow()
        try:
            decoded = decode_recorded(data, self._handles, self._means.intake.typings)
            if decoded.unknown and self._strangers < _MOST_STRANGERS:
                self._strangers += 1
                if named(data) - self._left - self._handles.keys():
                    self._handles.update(aliases(data, self._mine()))
                    decoded = decode_recorded(data, self._handles, self._means.intake.typings)
                    if not self._recognised and not decoded.sent:
                        self._beside(STRANGE)
        except MalformedError as error:
            self._means.counts["channel_messages_malformed"] += 1
            raise FailedError(f"a channel sent what cannot be read: {error.problem}", error.remedy) from error
        empty = not decoded.sent and not decoded.unknown and not decoded.malformed
        self._watch.message(now, empty=empty)
        self.received += len(decoded.timed)
        self._recognised |= bool(decoded.sent)
        self._notice_shape(data, empty=empty)
        self._handing.give(decoded)
        tell_deleted(self._means, decoded, self._shard.streams)
        self._first.set()
        if self._late:
            self._late = False
            self._again |= self.streams.keys()
        errors = {handle: why for handle, why in decoded.errors.items() if handle in self._shard.streams}
        if errors and not self._is_live:
            self._again |= errors.keys()
        elif errors and not self.single:
            self._doubted(errors)
        if self._confirmation.message(None if empty else data, now):
            self._confirmed()

    def _notice_shape(self, data: str | bytes, *, empty: bool) -> None:
        if empty or self.single:
            return
        word = '"Items"' if isinstance(data, str) else b'"Items"'
        if data.find(word, data.find(word) + len(word)) >= 0:  # type: ignore[arg-type]
            return
        self._beside(SINGLE)

    def _beside(self, why: str) -> None:
        """What it sends is taken, and proves nothing: the archive is read beside it."""
        if self.single:
            return
        self.single = True
        logger.info("%s: the channel of %d streams is read beside: %s", self._means.connection, len(self.streams), why)
        if self._is_live:
            self._means.coverage.lost(handles_of(self._mine()), why)

    def _narrow(self) -> None:
        """Streams have left it. It still sends them, but their handles may stand for other streams one day."""
        self._wanted = len(self._shard.streams)
        self._left |= {web_id for web_id, handle in self._handles.items() if handle not in self._shard.streams}
        self._handles = {web_id: handle for web_id, handle in self._handles.items() if web_id not in self._left}
        self._again &= self._shard.streams.keys()

    def _doubted(self, errors: dict[int, str]) -> None:
        """The server could not say what is new of some streams: that is lost, and begins anew."""
        causes: dict[str, list[Stream]] = {}
        for handle, why in errors.items():
            if handle not in self._again:
                causes.setdefault(why, []).append(self._shard.streams[handle])
        for why, of in causes.items():
            self._means.coverage.lost(handles_of(of), f"the channel has an error in the place of values: {why}")
            self._again |= {stream.handle for stream in of}

    def _receipt(self, socket: aiohttp.ClientWebSocketResponse, payload: bytes) -> None:
        self._handing.when_durable(lambda: self._pong(socket, payload))

    def _pong(self, socket: aiohttp.ClientWebSocketResponse, payload: bytes) -> None:
        if socket.closed:
            return
        task = asyncio.ensure_future(within(LOOK, socket.pong(payload)))
        task.add_done_callback(_noticed)

    def _ended(self, socket: aiohttp.ClientWebSocketResponse, message: aiohttp.WSMessage) -> FailedError:
        code = socket.close_code
        if message.type is WSMsgType.CLOSE and isinstance(message.data, int):
            code = message.data
        if code == _TOO_BIG or getattr(message.data, "code", None) == _TOO_BIG:
            return FailedError(
                _WORDS[_TOO_BIG], "none is needed: fewer streams share a channel from now on", too_large=True
            )
        words = _WORDS.get(code or 1006, f"the server closed the channel with code {code}")
        said = message.extra if message.type is WSMsgType.CLOSE and isinstance(message.extra, str) else ""
        printable = "".join(c for c in said if c.isprintable())[:120]
        return FailedError(f"{words} ({printable})" if printable else words)


def _noticed(task: asyncio.Future[None]) -> None:
    """A pong that cannot be sent: the line is dead, and its reader learns that by itself."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("a pong was not sent: %s", type(error).__name__)
