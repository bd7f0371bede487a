"""What every transport works with, and the order in which values are handed on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import aiohttp
import numpy as np
from numpy.typing import NDArray

from pi_collector.config import Connection as Settings
from pi_collector.points.point import Stream
from pi_collector.transports.choosing import Way
from pi_collector.values.decode import Decoded, loads
from pi_collector.values.timed import Timed
from pi_collector.values.typing import Typings
from pi_collector.web.requests import Query

SECOND: Final = 1_000_000_000
MOST_PENDING: Final = 64
"""Messages of one channel that are handed on and not durable yet; then it is not read on."""
PATIENCE: Final = 30.0
"""Seconds for which a channel is not read before it is closed: what waits longer is better read of the archive."""
OPENINGS: Final = 2
"""Channels that are opened at the same time: each costs the server a query for every stream."""
_ROOM: Final = 0.02  # seconds between two looks whether there is room again

Handles = NDArray[np.int32]


class Clock(Protocol):
    """`web.clock.Clock`."""

    @property
    def lower(self) -> int:
        """The server's clock was at least here (ns) when it was heard last; 0: it was not."""

    async def after(self) -> int:
        """An upper bound of the server's clock (ns) at the moment of the call. Raises PiError."""


class Client(Protocol):
    """What transports need of `web.client.Client`."""

    @property
    def clock(self) -> Clock:
        """The server's."""

    @property
    def generation(self) -> int:
        """Rises when another server, or another process of it, is used."""

    async def get(self, path: str, query: Query = ()) -> bytes:
        """An answer. Raises PiError."""

    async def register(self, query: Query) -> bytes:
        """Of the POST to streamsets/updates. Raises PiError."""

    async def websocket(self, path: str, query: Query = ()) -> aiohttp.ClientWebSocketResponse:
        """An open websocket. Raises PiError."""


class Intake(Protocol):
    """What transports need of `intake.Intake`."""

    typings: Typings

    @property
    def broken(self) -> BaseException | None:
        """Why nothing is taken any more."""

    def hand_on(self, timed: Timed, *, live: bool) -> Awaitable[None]:
        """Take over values, in the order of the calls; durable when done. Raises StoreError."""

    def count(self, decoded: Decoded) -> None:
        """Note what a message held beside its values."""

    def tell(self, kind: str, /, **what: Any) -> None:
        """An event."""

    @property
    def crowded(self) -> bool:
        """So much is not durable yet that whoever reads waits."""


class Coverage(Protocol):
    """What transports need of `coverage.coverage.Coverage`."""

    def subscribed(self, handles: Handles, at_ns: int) -> None:
        """Everything later comes by itself."""

    def confirmed(self, handles: Handles, upto_ns: int) -> None:
        """What comes by itself has come up to this time."""

    def lost(self, handles: Handles, cause: str, remedy: str = "") -> None:
        """Nothing comes by itself any more."""

    def want(self, handles: Handles, upto_ns: int) -> None:
        """The archive is to be read up to this time."""


class State(Protocol):
    """What transports need of `coverage.state.State`."""

    @property
    def coverage(self) -> Coverage:
        """Of the connection."""


class Transport(Protocol):
    """One way in which the streams of a shard come. `open`, then `live`; `close` in any case."""

    way: Way

    async def open(self) -> None:
        """Begin, as far as can be done beside what is in use. Raises FailedError."""

    async def live(self) -> None:
        """Tell coverage what comes, and never end. Raises FailedError, and whatever keeps values from being stored."""

    async def last(self) -> None:
        """Another way has begun: take what came before that. Raises FailedError when it cannot be had."""

    async def close(self) -> None:
        """End, whatever its state."""


@dataclass(slots=True)
class Means:
    """Of one connection."""

    connection: str
    settings: Settings
    client: Client
    intake: Intake
    coverage: Coverage
    refused: Callable[[Stream, str], None] = lambda _stream, _why: None
    """The server knows no such stream: it is to be looked up again."""
    openings: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(OPENINGS))
    counts: Counter[str] = field(default_factory=Counter)
    """For the status."""


def handles_of(streams: Iterable[Stream]) -> Handles:
    """As coverage takes them."""
    return np.array([stream.handle for stream in streams], np.int32)


def settled(streams: Iterable[Stream], at: int, call: Callable[[Handles, int], None]) -> None:
    """Call with all streams of each settle time together, and `at` (ns) less that time."""
    groups: dict[float, list[int]] = {}
    for stream in streams:
        groups.setdefault(stream.plan.settle, []).append(stream.handle)
    for settle, of in groups.items():
        call(np.array(of, np.int32), at - round(settle * SECOND))


def tell_deleted(means: Means, decoded: Decoded, streams: Mapping[int, Stream]) -> None:
    """Values that were deleted in PI are events here: what was handed on stays."""
    times: dict[int, list[int]] = {}
    for handle, at in decoded.deleted:
        times.setdefault(handle, []).append(at)
    for handle, of in times.items():
        if (stream := streams.get(handle)) is not None:
            means.intake.tell("deleted", tag=stream.tag, values=len(of), from_ns=min(of), to_ns=max(of))


def named(body: bytes | str) -> set[str]:
    """WebIds of the streams of a message."""
    top = loads(body)
    items = top.get("Items") if isinstance(top, dict) else None
    entries = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return {web_id for entry in entries if isinstance(web_id := entry.get("WebId"), str)}


def aliases(body: bytes | str, streams: Iterable[Stream]) -> dict[str, int]:
    """What an answer calls streams that it names by other WebIds than we do: by their paths."""
    paths = {stream.point.path.casefold(): stream.handle for stream in streams}
    top = loads(body)
    items = top.get("Items") if isinstance(top, dict) else None
    found: dict[str, int] = {}
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        web_id, path = item.get("Source", item.get("WebId")), item.get("SourcePath", item.get("Path"))
        if isinstance(web_id, str) and isinstance(path, str) and (handle := paths.get(path.casefold())) is not None:
            found[web_id] = handle
    return found


class Handing:
    """Hands values on in order; bounded. What fails there is raised at the next call."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._pending: deque[asyncio.Future[None]] = deque()

    def give(self, decoded: Decoded) -> None:
        """Hand them on: they are stored before whatever coverage is told from now on."""
        self._failures()
        self._means.intake.count(decoded)
        if len(decoded.timed):
            self._pending.append(asyncio.ensure_future(self._means.intake.hand_on(decoded.timed, live=True)))

    def _failures(self) -> None:
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    @property
    def crowded(self) -> bool:
        """Nothing more is to be read for now."""
        self._failures()
        return len(self._pending) >= MOST_PENDING or self._means.intake.crowded

    async def room(self) -> float:
        """Waits until there is room, or `PATIENCE` has passed. Seconds that it took."""
        if not self.crowded:
            return 0.0
        begun = time.monotonic()
        while self.crowded and time.monotonic() - begun < PATIENCE:  # noqa: ASYNC110 - room is made in several places
            await asyncio.sleep(_ROOM)
        return time.monotonic() - begun

    def when_durable(self, call: Callable[[], None]) -> None:
        """Call it once all that was given so far is stored; not at all if that fails."""
        self._failures()
        if not self._pending:
            call()
            return
        self._pending[-1].add_done_callback(
            lambda done: None if done.cancelled() or done.exception() is not None else call()
        )
