"""What a producer has read and its consumers have not acknowledged yet, on the disk: batches, ledgers and positions.

Theory of operation
-------------------
*A put is one transaction*: its frames, the ledgers of their streams, and the source's positions are on the disk
together or not at all. Many puts share a commit (`sluice.database`).

*One table holds the batches of all streams*, its key being stream number and batch number, so that a stream is read and
deleted as a range. In memory there are totals per stream and never anything per frame. What is in memory changes when a
commit is told, so `state` is what is on the disk; only `position` gives what was put last.

*Ledgers are written as differences*: what the caller's ledger says now, less what it said the last time. Transactions
may therefore overtake each other, and evicting moves samples from `stored` to `dropped` without asking the caller. The
caller does the same to its own ledger in `on_evicted`, before its next put.

*Settling is lazy*: who acknowledged how much is written with the next put, or within a second; frames are deleted in
portions. It goes ahead of puts, because it frees room.

*The limit* is `max_bytes`. While the disk has less than `min_free` it is, if lower, what was kept when that began: the
outbox stops growing, but does not shrink because of what others write. (LEAST is always allowed: data must flow.)

    streams          at the limit
    not held         in the put's transaction the globally oldest frames (by time of storing) of streams that are not
                     held are deleted, if need be the put's own. So a put of such streams never waits.
    held             never evicted. From 95 % of the limit on `full` asks their sources to pause (until below 85 %). A
                     put with frames of a held stream waits until they fit beside what held streams keep; and so does
                     every later put that shares a stream or a position with one that waits. All others pass.

Errors: `open` raises what `Database.open` does. A put's future raises DatabaseError when the outbox is closed first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sluice import outbox_tables as tables
from sluice.database import Database, DatabaseError
from sluice.delivery import Frame
from sluice.outbox_tables import (
    SHIFT,
    Change,
    Part,
    Registered,
    Removed,
    Room,
    Settled,
    Settlement,
    Stream,
    add,
    dumped,
)
from sluice.tasks import end

__all__ = ["OVERHEAD", "Outbox", "Put", "Quota", "Registered", "StreamState"]

logger = logging.getLogger(__name__)

OVERHEAD: Final = 64
"""Bytes that a frame counts beside its payload, so that many small ones count for what they take."""
LEAST: Final = 4 * 2**20
SETTLED_WITHIN: Final = 1.0
_FULL, _NOT_FULL = 0.95, 0.85
_LOOK: Final = 1.0
_AGES_EVERY: Final = 5  # looks


@dataclass(frozen=True)
class Quota:
    """How much may be kept: bytes, seconds (None: no limit), and bytes that stay free on the disk."""

    max_bytes: int
    max_age: float | None
    min_free: int


@dataclass(frozen=True)
class StreamState:
    """What is on the disk of a stream: the numbers oldest to next - 1 are kept; oldest == next: nothing is."""

    epoch: str
    next: int
    oldest: int
    bytes: int
    samples: int
    ledger: Mapping[str, int]
    consumers: Mapping[str, Registered]


@dataclass(frozen=True)
class Put:
    """New frames of a stream, numbered on from its last one, and the caller's ledger of it with them counted."""

    stream: str
    frames: Sequence[Frame]
    ledger: Mapping[str, int]


class Outbox:
    """The outbox of a component. Made by `open`; used from one event loop."""

    def __init__(self, database: Database, quota: Quota, clock: Callable[[], float]) -> None:
        self.full = False
        """Held streams keep nearly all that may be kept: their sources should pause."""
        self.on_evicted: Callable[[str, int, int, int], None] = lambda stream, first, last, samples: None
        self._database = database
        self._quota = quota
        self._clock = clock
        self._streams: dict[str, Stream] = {}
        self._by_no: dict[int, Stream] = {}
        self._held: dict[str, Stream] = {}
        self._positions: dict[str, bytes] = {}  # as last put
        self._committed: dict[str, bytes] = {}
        self._bytes = 0
        self._pending = 0
        self._waiting: deque[Change] = deque()
        self._unsettled: dict[str, Stream] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._last_at = 0
        self._last_no = 0
        self._ceiling: int | None = None
        self._free = (float("-inf"), 0)
        self._evicting = self._vacuuming = False
        self._stored_bytes = 0
        self._rate = 0.0  # bytes stored per second
        self._task: asyncio.Task[None] | None = None
        database.on_renewed = self._renewed

    @classmethod
    async def open(
        cls, path: Path, quota: Quota, *, commit_interval: float = 0.1, clock: Callable[[], float] = time.time
    ) -> Outbox:
        """Open or make the outbox. Raises DatabaseError."""
        database = await Database.open(
            path,
            schema=tables.SCHEMA,
            version=tables.VERSION,
            commit_interval=commit_interval,
            max_bytes=_file_limit(quota),
        )
        outbox = cls(database, quota, clock)
        try:
            outbox._load(*await database.read(tables.contents))
        except BaseException:
            await database.close(0.0)
            raise
        outbox._task = asyncio.create_task(outbox._watch(), name=f"watch of {path.name}")
        return outbox

    def _load(self, streams: Sequence[Stream], positions: Mapping[str, bytes], last_at: int) -> None:
        self._streams = {stream.name: stream for stream in streams}
        self._by_no = {stream.no: stream for stream in streams}
        self._bytes = sum(stream.bytes for stream in streams)
        self._positions, self._committed = dict(positions), dict(positions)
        self._last_at = last_at
        self._last_no = max(self._by_no, default=0)

    # --- what is kept ---

    @property
    def aside(self) -> Path | None:
        """The file that was malformed, under its new name."""
        return self._database.aside

    @property
    def trouble(self) -> str:
        """Why data waits, or less is kept than configured; empty when all is well."""
        if self._database.trouble:
            return self._database.trouble
        if self._waiting:
            return f"{self._database.path} is full of what cannot be dropped: {self._held_bytes()} bytes"
        if self._ceiling is not None:
            return f"the disk of {self._database.path} is nearly full: no more than {self._limit()} bytes are kept"
        return ""

    @property
    def remedy(self) -> str:
        """What to do about the trouble."""
        if self._database.trouble:
            return self._database.remedy
        if self._waiting:
            return "bring the consumers back that have not acknowledged it, or raise maxSize"
        return "free space on it, or lower minFreeDisk" if self._ceiling is not None else ""

    def streams(self) -> list[str]:
        """The names of all streams, also of those of which nothing is kept."""
        return list(self._streams)

    def state(self, stream: str) -> StreamState:
        """What is on the disk of the stream. One that is not known gets a new epoch, which its first put stores."""
        found = self._stream(stream)
        return StreamState(
            found.epoch,
            found.next,
            found.oldest,
            found.bytes,
            found.samples,
            dict(found.ledger),
            dict(found.consumers),
        )

    def position(self, key: str) -> bytes | None:
        """The position as it was put last, whether it is on the disk yet or not, unless that was refused."""
        return self._positions.get(key)

    def positions(self, prefix: str) -> dict[str, bytes]:
        """The positions whose keys begin with it, likewise, by what follows it."""
        return {key[len(prefix) :]: value for key, value in self._positions.items() if key.startswith(prefix)}

    async def read(self, stream: str, first: int, max_bytes: int) -> list[Frame]:
        """Frames that are on the disk, in order, from `first` or the oldest on: up to `max_bytes`, but at least one.

        Raises DatabaseError when the file cannot be read at present.
        """
        found = self._streams.get(stream)
        if found is None:
            return []
        start, stop = found.base + max(first, found.oldest), found.base + found.next

        def frames(connection: sqlite3.Connection) -> list[Frame]:
            read: list[Frame] = []
            size = 0
            for number, samples, payload in connection.execute(
                "SELECT id, samples, payload FROM batches WHERE id >= ? AND id < ? ORDER BY id", (start, stop)
            ):
                size += len(payload)
                if read and size > max_bytes:
                    break
                read.append(Frame(number & ((1 << SHIFT) - 1), samples, payload))
            return read

        return await self._database.read(frames)

    @property
    def roomy(self) -> bool:
        """Less than half of the limit is used, or about to be."""
        return 2 * (self._bytes + self._pending) < self._limit()

    def status(self) -> dict[str, Any]:
        """How full it is, how old, how long it lasts, and what troubles it."""
        limit = self._limit()
        ages = [stream.oldest_at for stream in self._streams.values() if stream.oldest_at is not None]
        return {
            "bytes": self._bytes,
            "limit": limit,
            "held_bytes": self._held_bytes(),
            "full": self.full,
            "waiting": len(self._waiting),
            "oldest_age": round(max(0.0, self._clock() - min(ages) / 1000), 1) if ages else 0.0,
            # if nothing were acknowledged from now on
            "hours_left": round(max(0, limit - self._bytes) / self._rate / 3600, 2) if self._rate >= 1 else None,
            "free_disk": self._free_disk(),
            "commits": self._database.commits,
            "corrupt": str(self.aside) if self.aside else "",
            "trouble": self.trouble,
            "remedy": self.remedy,
        }

    def _stream(self, name: str) -> Stream:
        stream = self._streams.get(name)
        if stream is None:
            self._last_no += 1
            stream = Stream(self._last_no, name, secrets.token_hex(6))
            self._streams[name] = self._by_no[stream.no] = stream
        return stream

    # --- putting ---

    def put(self, puts: Sequence[Put], positions: Mapping[str, bytes | None] | None = None) -> asyncio.Future[None]:
        """Store all of it in one transaction; the future is done when it is on the disk. A position None is deleted.

        Raises ValueError, and does nothing, when frames are not numbered on from the last ones of their stream.
        """
        self._refuse_holes(puts)
        self._last_at = now = max(self._last_at, int(self._clock() * 1000))
        change = Change(
            [self._part(put, now) for put in puts], dict(positions or {}), asyncio.get_running_loop().create_future()
        )
        for key, value in change.positions.items():
            _place(self._positions, key, value)
        if self._must_wait(change, self._waiting):
            self._waiting.append(change)
            self._look()
        else:
            self._store(change)
        return change.done

    def _refuse_holes(self, puts: Sequence[Put]) -> None:
        following: dict[str, int] = {}
        for put in puts:
            wanted = following.get(put.stream) or self._stream(put.stream).assigned
            for frame in put.frames:
                if frame.seq != wanted:
                    raise ValueError(
                        f"frame {frame.seq} of {put.stream} does not follow {wanted - 1}: number it {wanted}"
                    )
                wanted += 1
            following[put.stream] = wanted

    def _part(self, put: Put, now: int) -> Part:
        stream = self._stream(put.stream)
        stream.leaving = False
        rows = [
            (stream.base + frame.seq, frame.samples, len(frame.payload) + OVERHEAD, now, frame.payload)
            for frame in put.frames
        ]
        stream.assigned += len(rows)
        size = sum(row[2] for row in rows)
        samples = sum(row[1] for row in rows)
        return Part(stream, rows, stream.assigned, size, samples, stream.difference(put.ledger))

    def _must_wait(self, change: Change, before: Iterable[Change]) -> bool:
        touches = change.touches
        if any(touches & other.touches for other in before):
            return True
        held = sum(part.bytes for part in change.parts if part.stream.name in self._held)
        return held > 0 and self._held_bytes() + held > self._limit()

    def _store(self, change: Change) -> None:
        if self._unsettled:
            self._settle()
        for part in change.parts:
            part.stream.pending += part.bytes
            self._pending += part.bytes
        room = self._room() if self._bytes + self._pending > self._limit() else None
        stored = self._database.submit(lambda connection: tables.store(connection, change, room))
        stored.add_done_callback(lambda done: self._was_stored(change, done))

    def _was_stored(self, change: Change, stored: asyncio.Future[list[Removed]]) -> None:
        for part in change.parts:
            part.stream.pending -= part.bytes
            self._pending -= part.bytes
        error = stored.exception()
        if error is not None:
            self._take_back(change.positions)
            _fail(change.done, error)
            return
        for part in change.parts:
            stream = part.stream
            stream.stored = True
            if stream.oldest == stream.next and part.rows:
                stream.oldest_at = part.rows[0][3]
            stream.next = part.next
            stream.bytes += part.bytes
            stream.samples += part.samples
            add(stream.ledger, part.ledger)
            self._bytes += part.bytes
            self._stored_bytes += part.bytes
        for key, value in change.positions.items():
            _place(self._committed, key, value)
        self._remove(stored.result())
        if self._unsettled:
            self._settle_soon()
        if not change.done.done():
            change.done.set_result(None)
        self._look()

    def _take_back(self, positions: Mapping[str, bytes | None]) -> None:
        """They will never be on the disk: what is there counts again, unless something else was put meanwhile."""
        for key, value in positions.items():
            if self._positions.get(key) == value:
                _place(self._positions, key, self._committed.get(key))

    # --- settling and forgetting ---

    def settle(
        self, stream: str, consumers: Mapping[str, Registered], delete_to: int, ledger: Mapping[str, int]
    ) -> None:
        """Note who consumes the stream, that its frames up to `delete_to` are not needed, and the caller's ledger."""
        found = self._stream(stream)
        found.consumers = dict(consumers)
        found.delete_to = max(found.delete_to, min(delete_to, found.next - 1))
        add(found.owed, found.difference(ledger))
        self._unsettled[stream] = found
        self._settle_soon()

    def _settle_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLED_WITHIN, self._settle)

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # A stream's row comes with its first put: until then there is nothing to settle.
        streams = [stream for stream in self._unsettled.values() if stream.stored]
        self._unsettled = {name: stream for name, stream in self._unsettled.items() if not stream.stored}
        if not streams:
            return
        settlements = []
        for stream in streams:
            settlements.append(Settlement(stream.no, stream.owed, dumped(stream.consumers), stream.delete_to))
            stream.owed = {}
        settled = self._database.submit(lambda connection: tables.settle(connection, settlements), ahead=True)
        settled.add_done_callback(lambda done: self._was_settled(settlements, done))

    def _was_settled(self, settlements: Sequence[Settlement], settled: asyncio.Future[Settled]) -> None:
        if settled.exception() is not None:
            return  # closed: the consumers will say it again
        for settlement in settlements:
            if stream := self._by_no.get(settlement.no):
                add(stream.ledger, settlement.ledger)
        outcome = settled.result()
        self._remove(outcome.removed)
        if outcome.more:
            self._unsettled |= {
                stream.name: stream for one in settlements if (stream := self._by_no.get(one.no)) is not None
            }
            self._settle()
        elif outcome.worth_vacuum and not self._vacuuming:
            self._vacuum()
        self._look()

    def _vacuum(self) -> None:
        self._vacuuming = True
        vacuumed = self._database.submit(tables.vacuum)
        vacuumed.add_done_callback(self._was_vacuumed)

    def _was_vacuumed(self, vacuumed: asyncio.Future[bool]) -> None:
        self._vacuuming = False
        if vacuumed.exception() is None and vacuumed.result():
            self._vacuum()

    def _remove(self, removed: Sequence[Removed]) -> None:
        for one in removed:
            stream = self._by_no.get(one.no)
            if stream is None:
                continue
            stream.oldest = max(stream.oldest, one.last + 1)
            stream.oldest_at = None
            stream.bytes -= one.bytes
            stream.samples -= one.samples
            self._bytes -= one.bytes
            if one.dropped_first:
                stream.lose(one.dropped)
                self._tell_evicted(stream.name, one.dropped_first, one.last, one.dropped)
            if stream.leaving:
                self.drop(stream.name)

    def _tell_evicted(self, name: str, first: int, last: int, samples: int) -> None:
        try:
            self.on_evicted(name, first, last, samples)
        except Exception:
            logger.exception("That frames %d to %d of %s were dropped could not be told", first, last, name)

    def hold(self, stream: str, held: bool) -> None:
        """Whether the stream is never evicted, from the next put on."""
        found = self._stream(stream)
        if held:
            self._held[stream] = found
        else:
            self._held.pop(stream, None)
        self._look()

    def drop(self, stream: str) -> None:
        """Forget the stream as soon as nothing of it is kept. A later put of it takes that back."""
        found = self._streams.get(stream)
        if found is None:
            return
        found.leaving = True
        if not found.idle:
            return
        del self._streams[stream], self._by_no[found.no]
        self._held.pop(stream, None)
        self._unsettled.pop(stream, None)
        self._database.submit(lambda connection: tables.forget(connection, found.no))

    def apply(self, quota: Quota, commit_interval: float) -> None:
        """Go over to other limits. Held streams that keep more than a lower one allows are waited for."""
        self._quota = quota
        self._database.commit_interval = commit_interval
        self._database.resize(_file_limit(quota))
        self._look()
        self._evict()

    async def close(self, limit: float = 2.0) -> None:
        """Store what was put and settled, for up to `limit` seconds, and close. Other puts raise DatabaseError."""
        if self._task is not None:
            await end(self._task)
        self._settle()
        await self._database.close(limit)
        waiting, self._waiting = self._waiting, deque()
        for change in waiting:
            _fail(change.done, DatabaseError(f"{self._database.path} is closed", "what did not fit is not stored"))

    # --- limits ---

    def _held_bytes(self) -> int:
        return sum(stream.bytes + stream.pending for stream in self._held.values())

    def _limit(self) -> int:
        free = self._free_disk()
        if free >= self._quota.min_free:
            self._ceiling = None
        elif self._ceiling is None:
            self._ceiling = max(LEAST, self._bytes + self._pending)
        return self._quota.max_bytes if self._ceiling is None else min(self._ceiling, self._quota.max_bytes)

    def _free_disk(self) -> int:
        """Free bytes on the disk, looked at once a second."""
        now = time.monotonic()
        looked, free = self._free
        if now - looked >= _LOOK:
            with contextlib.suppress(OSError):
                disk = os.statvfs(self._database.path.parent)
                free = disk.f_bavail * disk.f_frsize
            self._free = now, free
        return free

    def _look(self) -> None:
        """Let puts pass that fit now, and tell whether held streams are full."""
        if self._waiting:
            waiting, self._waiting = self._waiting, deque()
            for change in waiting:
                if self._must_wait(change, self._waiting):
                    self._waiting.append(change)
                else:
                    self._store(change)
        if not self._held and not self._waiting:
            self.full = False
            return
        limit, held = self._limit(), self._held_bytes()
        if self._waiting or held >= _FULL * limit:
            self.full = True
        elif held < _NOT_FULL * limit:
            self.full = False

    def _room(self, since: int = 0) -> Room:
        settled = {stream.no: stream.delete_to for stream in self._streams.values()}
        return Room(self._limit(), since, frozenset(stream.no for stream in self._held.values()), settled)

    def _evict(self) -> None:
        """Remove what is too old, or too much because the limit was lowered, in portions."""
        if self._evicting:
            return
        since = 0 if self._quota.max_age is None else int((self._clock() - self._quota.max_age) * 1000)
        kept = [stream for stream in self._streams.values() if stream.name not in self._held and stream.bytes]
        aged = any(stream.oldest_at is not None and stream.oldest_at < since for stream in kept)
        if not aged and (not kept or self._bytes + self._pending <= self._limit()):
            return
        room = self._room(since)
        self._evicting = True
        evicted = self._database.submit(lambda connection: tables.evict(connection, room), ahead=True)
        evicted.add_done_callback(self._was_evicted)

    def _was_evicted(self, evicted: asyncio.Future[list[Removed]]) -> None:
        self._evicting = False
        if evicted.exception() is None and evicted.result():
            self._remove(evicted.result())
            self._look()
            self._evict()

    async def _watch(self) -> None:
        looks = 0
        before = self._stored_bytes
        while True:
            await asyncio.sleep(_LOOK)
            self._rate += (self._stored_bytes - before - self._rate) / 60
            before = self._stored_bytes
            if looks % _AGES_EVERY == 0:
                await self._learn_ages()
            looks += 1
            self._look()
            self._evict()

    async def _learn_ages(self) -> None:
        unknown = [stream for stream in self._streams.values() if stream.bytes and stream.oldest_at is None]
        if unknown:
            ranges = [(stream.base + stream.oldest, stream.base + stream.next) for stream in unknown]
            with contextlib.suppress(DatabaseError):
                for stream, at in zip(
                    unknown, await self._database.read(lambda c: tables.ages(c, ranges)), strict=True
                ):
                    stream.oldest_at = at

    # --- a file begun anew ---

    def _renewed(self) -> None:
        """All that was on the disk is gone: say so, and write again what is known. Epochs and numbers go on."""
        rows = []
        for stream in self._streams.values():
            first, samples = stream.oldest, stream.samples
            self._bytes -= stream.bytes
            stream.bytes = stream.samples = 0
            stream.oldest = stream.next
            stream.oldest_at = None
            if first < stream.next:
                stream.lose(samples)
                self._tell_evicted(stream.name, first, stream.next - 1, samples)
            if stream.stored:
                rows.append(
                    (stream.no, stream.name, stream.epoch, stream.next, dict(stream.ledger), dumped(stream.consumers))
                )
        positions = list(self._committed.items())
        self._database.submit(lambda connection: tables.restore(connection, rows, positions))


# --- small things ---


def _file_limit(quota: Quota) -> int:
    """What the file may take: pages are seldom full. It guards the disk; the limit of what is kept is the quota."""
    return 2 * quota.max_bytes + 32 * 2**20


def _place(positions: dict[str, bytes], key: str, value: bytes | None) -> None:
    if value is None:
        positions.pop(key, None)
    else:
        positions[key] = value


def _fail(done: asyncio.Future[None], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # whoever does not wait for it is not told of it at the end either
