"""What the outbox does to its file: the tables, and the works that read and change them.

A work touches its connection only and may run again (`sluice.database`): it decides by what it finds in the file. What
it changed it returns; the outbox then changes what it has in memory accordingly.
"""

from __future__ import annotations

import asyncio
import heapq
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from sluice.database import PAGE

VERSION: Final = 1
SCHEMA: Final = (
    "CREATE TABLE streams (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL,"
    " next INTEGER NOT NULL, bytes INTEGER NOT NULL, samples INTEGER NOT NULL,"
    " ledger BLOB NOT NULL, consumers BLOB NOT NULL)",
    # The payload stands last, so that the other columns are read without it.
    "CREATE TABLE batches (id INTEGER PRIMARY KEY, samples INTEGER NOT NULL, size INTEGER NOT NULL,"
    " at INTEGER NOT NULL, payload BLOB NOT NULL)",
    "CREATE TABLE positions (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
)
PORTION: Final = 2_000
"""Frames that one transaction deletes at most."""
_SLACK: Final = 2**20
"""Evicting makes at most this much more room than is needed, so that it is done, and told, less often."""
SHIFT: Final = 44
_VACUUM_PAGES: Final = 4 * 2**20 // PAGE
"""How many pages one transaction gives back to the disk."""
_WORTH_VACUUM: Final = 16 * 2**20 // PAGE
"""Free pages from which on, when they are half of the file, they are given back."""


@dataclass(frozen=True)
class Registered:
    """A consumer of a stream: up to which number it needs nothing more, and when it was heard last (wall seconds)."""

    acked: int
    heard: float


@dataclass
class Stream:
    """What is known of a stream: what is on the disk, what is under way, and what has still to be settled."""

    no: int
    name: str
    epoch: str
    next: int = 1
    oldest: int = 1
    bytes: int = 0
    samples: int = 0
    ledger: dict[str, int] = field(default_factory=dict)
    consumers: dict[str, Registered] = field(default_factory=dict)
    stored: bool = False  # its row is on the disk
    assigned: int = 1  # the next number, with puts counted that are under way
    pending: int = 0  # bytes of puts under way
    passed: dict[str, int] = field(default_factory=dict)  # the caller's ledger, as it was told last
    owed: dict[str, int] = field(default_factory=dict)  # differences that settling has to write
    delete_to: int = 0
    oldest_at: int | None = None  # ms; None: not known
    leaving: bool = False

    @property
    def base(self) -> int:
        """The key of its number 0."""
        return self.no << SHIFT

    @property
    def idle(self) -> bool:
        """Nothing is kept, and nothing under way."""
        return self.oldest == self.next == self.assigned

    def difference(self, ledger: Mapping[str, int]) -> dict[str, int]:
        """What to add to the stored ledger, so that it says what the caller's does."""
        difference = {name: count - self.passed.get(name, 0) for name, count in ledger.items()}
        self.passed.update(ledger)
        return {name: count for name, count in difference.items() if count}

    def lose(self, samples: int) -> None:
        """Count samples as dropped that were stored."""
        for ledger in (self.ledger, self.passed):
            add(ledger, {"stored": -samples, "dropped": samples})


@dataclass(frozen=True)
class Part:
    """What a put does to one stream."""

    stream: Stream
    rows: Sequence[tuple[int, int, int, int, bytes]]
    next: int
    bytes: int
    samples: int
    ledger: Mapping[str, int]


@dataclass(frozen=True)
class Change:
    """A put."""

    parts: Sequence[Part]
    positions: Mapping[str, bytes | None]
    done: asyncio.Future[None]

    @property
    def touches(self) -> set[tuple[str, str]]:
        """What its order to other puts matters for."""
        streams = {("stream", part.stream.name) for part in self.parts}
        return streams | {("position", key) for key in self.positions}


@dataclass(frozen=True)
class Room:
    """What evicting has to reach: at most `limit` bytes, nothing stored before `since`. `settled`: by stream number."""

    limit: int
    since: int
    held: frozenset[int]
    settled: Mapping[int, int]


@dataclass(frozen=True)
class Removed:
    """Frames of a stream that are gone: up to `last` (a number); `dropped` of their samples nobody had acknowledged."""

    no: int
    last: int
    bytes: int
    samples: int
    dropped_first: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class Settlement:
    """What settling writes of one stream: differences of its ledger, its consumers, and up to where it is deleted."""

    no: int
    ledger: Mapping[str, int]
    consumers: bytes
    delete_to: int


@dataclass(frozen=True)
class Settled:
    """What settling did, whether frames are left to delete, and whether there is much room to give back."""

    removed: Sequence[Removed]
    more: bool
    worth_vacuum: bool


def contents(connection: sqlite3.Connection) -> tuple[list[Stream], dict[str, bytes], int]:
    """Everything that an outbox keeps in memory: streams, positions, and when it stored something last."""
    streams = []
    last_at = 0
    for row in connection.execute("SELECT no, name, epoch, next, bytes, samples, ledger, consumers FROM streams"):
        no, name, epoch, following, size, samples, ledger, consumers = row
        bounds = no << SHIFT, (no + 1) << SHIFT
        ends = [
            connection.execute(
                f"SELECT id, at FROM batches WHERE id > ? AND id < ? ORDER BY id {order} LIMIT 1",  # noqa: S608
                bounds,
            ).fetchone()
            for order in ("ASC", "DESC")
        ]
        counts = orjson.loads(ledger)
        stream = Stream(no, name, epoch, following, following, size, samples, counts, _loaded(consumers), stored=True)
        stream.assigned = following
        stream.passed = dict(counts)
        if ends[0] is not None:
            stream.oldest = ends[0][0] - stream.base
            stream.oldest_at = ends[0][1]
            last_at = max(last_at, ends[1][1])
        streams.append(stream)
    return streams, dict(connection.execute("SELECT key, value FROM positions")), last_at


def store(connection: sqlite3.Connection, change: Change, room: Room | None) -> list[Removed]:
    """Do what the put says, and make room if it needs that."""
    for part in change.parts:
        stream = part.stream
        ledger = _ledger(connection, stream.no)
        if ledger is None:
            row = stream.no, stream.name, stream.epoch, part.next, part.bytes, part.samples
            values = (*row, orjson.dumps(dict(part.ledger)), b"{}")
            connection.execute("INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        else:
            add(ledger, part.ledger)
            connection.execute(
                "UPDATE streams SET next = ?, bytes = bytes + ?, samples = samples + ?, ledger = ? WHERE no = ?",
                (part.next, part.bytes, part.samples, orjson.dumps(ledger), stream.no),
            )
        connection.executemany("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", part.rows)
    for key, value in change.positions.items():
        if value is None:
            connection.execute("DELETE FROM positions WHERE key = ?", (key,))
        else:
            connection.execute("INSERT OR REPLACE INTO positions VALUES (?, ?)", (key, value))
    return [] if room is None else evict(connection, room)


def evict(connection: sqlite3.Connection, room: Room) -> list[Removed]:
    """Delete the oldest frames until the limit is kept; at most PORTION of them."""
    rows = connection.execute("SELECT no, bytes FROM streams").fetchall()
    over = sum(size for _, size in rows) - room.limit
    wanted = over + min(_SLACK, room.limit // 100) if over > 0 else 0
    cursors = [
        connection.execute(
            "SELECT at, id, size, samples FROM batches WHERE id > ? AND id < ? ORDER BY id",
            (no << SHIFT, (no + 1) << SHIFT),
        )
        for no, size in rows
        if size and no not in room.held
    ]
    found: dict[int, list[tuple[int, int, int]]] = {}
    for count, (at, number, size, samples) in enumerate(heapq.merge(*cursors)):
        if count == PORTION or (wanted <= 0 and at >= room.since):
            break
        wanted -= size
        found.setdefault(number >> SHIFT, []).append((number & ((1 << SHIFT) - 1), size, samples))
    for cursor in cursors:
        cursor.close()
    return [_removed(connection, no, frames, room.settled.get(no, 0)) for no, frames in found.items()]


def _removed(connection: sqlite3.Connection, no: int, frames: Sequence[tuple[int, int, int]], settled: int) -> Removed:
    """Delete the frames (number, size, samples). Those above `settled` are lost to somebody, and counted as dropped."""
    base, last = no << SHIFT, frames[-1][0]
    connection.execute("DELETE FROM batches WHERE id > ? AND id <= ?", (base, base + last))
    lost = [(number, samples) for number, _, samples in frames if number > settled]
    dropped = sum(samples for _, samples in lost)
    size, samples = sum(frame[1] for frame in frames), sum(frame[2] for frame in frames)
    ledger = _ledger(connection, no) or {}
    add(ledger, {"stored": -dropped, "dropped": dropped} if lost else {})
    connection.execute(
        "UPDATE streams SET bytes = bytes - ?, samples = samples - ?, ledger = ? WHERE no = ?",
        (size, samples, orjson.dumps(ledger), no),
    )
    return Removed(no, last, size, samples, lost[0][0] if lost else 0, dropped)


def settle(connection: sqlite3.Connection, settlements: Sequence[Settlement]) -> Settled:
    """Write ledgers and consumers, and delete frames; at most PORTION of them."""
    removed = []
    left = PORTION
    for settlement in settlements:
        ledger = _ledger(connection, settlement.no)
        if ledger is None:
            continue  # the file was begun anew
        base = settlement.no << SHIFT
        count, last, size, samples = connection.execute(
            "SELECT count(*), max(id), total(size), total(samples) FROM"
            " (SELECT id, size, samples FROM batches WHERE id > ? AND id <= ? ORDER BY id LIMIT ?)",
            (base, base + settlement.delete_to, left),
        ).fetchone()
        add(ledger, settlement.ledger)
        connection.execute(
            "UPDATE streams SET bytes = bytes - ?, samples = samples - ?, ledger = ?, consumers = ? WHERE no = ?",
            (int(size), int(samples), orjson.dumps(ledger), settlement.consumers, settlement.no),
        )
        if count:
            connection.execute("DELETE FROM batches WHERE id > ? AND id <= ?", (base, last))
            removed.append(Removed(settlement.no, last - base, int(size), int(samples)))
            left -= count
    return Settled(removed, left == 0, _worth_vacuum(connection))


def _worth_vacuum(connection: sqlite3.Connection) -> bool:
    free = int(connection.execute("PRAGMA freelist_count").fetchone()[0])
    return free >= _WORTH_VACUUM and 2 * free > int(connection.execute("PRAGMA page_count").fetchone()[0])


def vacuum(connection: sqlite3.Connection) -> bool:
    """Give free pages at the end back to the disk. Whether there is more to do."""
    for _ in range(_VACUUM_PAGES):  # Python steps such a statement once, and a step is a page
        connection.execute("PRAGMA incremental_vacuum(1)")
    return _worth_vacuum(connection)


def forget(connection: sqlite3.Connection, no: int) -> None:
    """Remove the row of an empty stream."""
    connection.execute("DELETE FROM streams WHERE no = ?", (no,))


def ages(connection: sqlite3.Connection, ranges: Sequence[tuple[int, int]]) -> list[int | None]:
    """When the first frame of each range was stored."""
    statement = "SELECT at FROM batches WHERE id >= ? AND id < ? ORDER BY id LIMIT 1"
    found = [connection.execute(statement, bounds).fetchone() for bounds in ranges]
    return [row[0] if row else None for row in found]


def restore(
    connection: sqlite3.Connection,
    rows: Sequence[tuple[int, str, str, int, dict[str, int], bytes]],
    positions: Sequence[tuple[str, bytes]],
) -> None:
    """Write to a new file what was known of the old one; puts that came first stand, and are added to."""
    for no, name, epoch, following, counts, consumers in rows:
        ledger = _ledger(connection, no)
        if ledger is None:
            values = (no, name, epoch, following, 0, 0, orjson.dumps(counts), consumers)
            connection.execute("INSERT INTO streams VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        else:
            add(ledger, counts)
            connection.execute(
                "UPDATE streams SET ledger = ?, consumers = ? WHERE no = ?", (orjson.dumps(ledger), consumers, no)
            )
    connection.executemany("INSERT OR IGNORE INTO positions VALUES (?, ?)", positions)


def _ledger(connection: sqlite3.Connection, no: int) -> dict[str, int] | None:
    row = connection.execute("SELECT ledger FROM streams WHERE no = ?", (no,)).fetchone()
    return None if row is None else dict(orjson.loads(row[0]))


def dumped(consumers: Mapping[str, Registered]) -> bytes:
    """Consumers as they are stored."""
    return orjson.dumps({name: [one.acked, one.heard] for name, one in consumers.items()})


def _loaded(consumers: bytes) -> dict[str, Registered]:
    return {name: Registered(acked, heard) for name, (acked, heard) in orjson.loads(consumers).items()}


def add(ledger: dict[str, int], difference: Mapping[str, int]) -> None:
    """Add the counts to the ledger."""
    for name, count in difference.items():
        ledger[name] = ledger.get(name, 0) + count
