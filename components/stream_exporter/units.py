"""What each sink has taken on, durably: cursors, units and the ledger, in one SQLite file (`exporter.db`).

Theory of operation
-------------------
A *unit* is one contiguous range of one input stream that becomes k messages of the sink's target, or one file. It is

    intended    its row is there, `newest` is None: messages of it may be in the target, from number `noted` + 1 on
    committed   all its messages are in the target, the last one with number `newest`; the cursor is behind its range
    exported    the target's export is behind `newest`: the row is gone

and the other way only when the target turns out to have lost it: `undo` takes the rows away and the cursors back.

Everything is known twice. `units`, `cursors` and `ledger` are as submitted: what the next step builds on, for the
database keeps the order of what it is given. `exported_to` and `committed_to` are as durable: what producers may be
told to delete. They never run ahead of the medium, and go back at once when something is undone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sluice.database import Database, DatabaseError

logger = logging.getLogger(__name__)

#: A stream's epoch: numbers are unique within it.
Key = tuple[str, str]

#: Epochs of one stream whose cursors are kept; of the older ones nothing is produced any more.
MAX_EPOCHS = 4

#: Cursors of one sink that are kept; streams whose sources are gone are forgotten first.
MAX_CURSORS = 4_000

#: Three sinks share the commits: one that waits is done soon, and many units fit into one.
COMMIT_INTERVAL = 0.03

_VERSION = 1
_SCHEMA = (
    "CREATE TABLE sinks (name TEXT PRIMARY KEY, kind TEXT NOT NULL, next INTEGER NOT NULL, ledger TEXT NOT NULL)"
    " WITHOUT ROWID",
    "CREATE TABLE cursors (sink TEXT NOT NULL, stream TEXT NOT NULL, epoch TEXT NOT NULL, next INTEGER NOT NULL,"
    " UNIQUE (sink, stream, epoch))",
    "CREATE TABLE units (sink TEXT NOT NULL, number INTEGER NOT NULL, stream TEXT NOT NULL, epoch TEXT NOT NULL,"
    " first INTEGER NOT NULL, last INTEGER NOT NULL, samples INTEGER NOT NULL, messages INTEGER NOT NULL,"
    " bytes INTEGER NOT NULL, settings TEXT NOT NULL, decided_ns INTEGER NOT NULL, noted INTEGER NOT NULL,"
    " newest INTEGER, found INTEGER NOT NULL, found_samples INTEGER NOT NULL,"
    " parked INTEGER NOT NULL, account TEXT NOT NULL,"
    " PRIMARY KEY (sink, number)) WITHOUT ROWID",
)


@dataclass(frozen=True, slots=True)
class Unit:
    """One contiguous range of one input stream on its way to a target."""

    sink: str
    number: int  # in the order in which units go to the target
    stream: str
    epoch: str
    first: int  # batches first … last
    last: int
    samples: int  # carried by the messages
    messages: int
    bytes: int  # of the messages
    settings: str  # JSON that makes the same encoder again, or names the file
    decided_ns: int  # the decision time: with range and settings it makes the same messages again
    noted: int  # the target's newest number before
    newest: int | None = None  # the number of the last message, once all are there
    found: int = 0  # messages, from the first on, that are in the target up to `noted`
    found_samples: int = 0
    parked: bool = False  # an earlier run left it incomplete: nothing of it was appended behind `noted`
    account: str = "{}"  # JSON: what of the range no message carries, for the ledger

    @property
    def key(self) -> Key:
        """The stream's epoch that the range is of."""
        return self.stream, self.epoch


_COLUMNS = len(fields(Unit))
_PUT_UNIT = f"INSERT OR REPLACE INTO units VALUES ({', '.join('?' * _COLUMNS)})"  # noqa: S608 - question marks only
_PUT_CURSOR = (
    "INSERT INTO cursors VALUES (?, ?, ?, ?)"
    " ON CONFLICT (sink, stream, epoch) DO UPDATE SET next = excluded.next WHERE next <> excluded.next"
)

Work = Callable[[sqlite3.Connection], None]


@dataclass(slots=True)
class _Kept:
    """One sink. `durable` and `held` (numbers and firsts of units not exported) decide what may be acknowledged."""

    kind: str = ""
    next: int = 1
    ledger: Mapping[str, Any] = field(default_factory=dict)
    cursors: dict[Key, int] = field(default_factory=dict)
    units: dict[int, Unit] = field(default_factory=dict)
    committed: set[int] = field(default_factory=set)  # of these units: the cursor was moved behind them
    durable: dict[Key, int] = field(default_factory=dict)
    held: dict[Key, dict[int, int]] = field(default_factory=dict)
    generation: int = 0  # rises when something is taken back: what was under way then says nothing any more

    def put(self, unit: Unit) -> None:
        self.units[unit.number] = unit
        self.held.setdefault(unit.key, {})[unit.number] = unit.first
        self.next = max(self.next, unit.number + 1)

    def take(self, unit: Unit) -> None:
        self.units.pop(unit.number, None)
        self.committed.discard(unit.number)

    def release(self, unit: Unit) -> None:
        held = self.held.get(unit.key)
        if held is not None:
            held.pop(unit.number, None)
            if not held:
                del self.held[unit.key]


class UnitStore:
    """The units of all sinks. What is submitted is done in that order; a future is done when it is on the medium."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sinks: dict[str, _Kept] = {}

    @classmethod
    async def open(cls, path: Path) -> UnitStore:
        """Open or begin the store. Raises sluice.database.DatabaseError."""
        database = await Database.open(path, schema=_SCHEMA, version=_VERSION, commit_interval=COMMIT_INTERVAL)
        store = cls(database)
        try:
            await store._load()
        except BaseException:
            await database.close(0.0)
            raise
        database.on_renewed = store._store_again
        if database.aside is not None:
            logger.error(
                "%s was damaged and is set aside as %s: every sink begins at what the producers keep. "
                "What was appended and not acknowledged before may be exported twice",
                path.name,
                database.aside.name,
            )
        return store

    @property
    def trouble(self) -> str:
        """Why nothing can be committed at present; empty when well."""
        return self._database.trouble

    @property
    def remedy(self) -> str:
        """What mends it."""
        return self._database.remedy

    @property
    def aside(self) -> Path | None:
        """Where a damaged file was put; None when none was."""
        return self._database.aside

    # --- what is there ------------------------------------------------------------------------------------------------

    def sinks(self) -> list[str]:
        """Every sink of which something is kept."""
        return list(self._sinks)

    def units(self, sink: str) -> list[Unit]:
        """Intended and committed, not exported, in order."""
        return list(self._sinks[sink].units.values()) if sink in self._sinks else []

    def count(self, sink: str) -> int:
        """How many units there are."""
        return len(self._sinks[sink].units) if sink in self._sinks else 0

    def next_number(self, sink: str) -> int:
        """The number of the sink's next unit."""
        return self._sinks[sink].next if sink in self._sinks else 1

    def cursors(self, sink: str) -> dict[Key, int]:
        """Per stream and epoch the number of the batch that comes next."""
        return dict(self._sinks[sink].cursors) if sink in self._sinks else {}

    def ledger(self, sink: str) -> Mapping[str, Any]:
        """As it was given last."""
        return self._sinks[sink].ledger if sink in self._sinks else {}

    def exported_to(self, sink: str, stream: str, epoch: str) -> int | None:
        """The last number that is exported with everything before it, durably; None when nothing is known."""
        kept = self._sinks.get(sink)
        if kept is None:
            return None
        durable = kept.durable.get((stream, epoch))
        if durable is None:
            return None
        held = kept.held.get((stream, epoch))
        return min(durable, min(held.values()) if held else durable) - 1

    def committed_to(self, sink: str, stream: str, epoch: str) -> int | None:
        """The last number that is committed, durably; None when nothing is known."""
        kept = self._sinks.get(sink)
        durable = kept.durable.get((stream, epoch)) if kept is not None else None
        return None if durable is None else durable - 1

    # --- what changes -------------------------------------------------------------------------------------------------

    def adopt(self, sink: str, kind: str) -> None:
        """A sink of that kind begins to work. What one of another kind left under its name is forgotten."""
        kept = self._sinks.get(sink)
        if kept is not None and kept.kind not in ("", kind):
            logger.warning("sinks.%s is of type %s now and was %s: it begins at what is kept", sink, kind, kept.kind)
            self.forget(sink)
            kept = None
        if kept is None or not kept.kind:
            self._of(sink).kind = kind
            self._submit(sink, self._put_sink(sink))

    def intend(self, *units: Unit) -> asyncio.Future[None]:
        """Note what is about to be appended; again with other figures when more is known."""
        kept = self._of(units[0].sink)
        works = [_statements([(_PUT_UNIT, astuple(unit)) for unit in units])]
        for unit in units:
            kept.put(unit)
            if unit.key not in kept.cursors:  # whoever reads the stream again must begin there
                works.append(self._cursor_at(unit.sink, unit.key, unit.first))
        return self._submit(units[0].sink, _all(*works))

    def commit(self, unit: Unit, newest: int | None, *, ledger: Mapping[str, Any]) -> asyncio.Future[None]:
        """The unit is in its target, or in a sealed file: its cursor stands behind it now. `newest`: see Unit.

        Committing a unit again only changes its row.
        """
        kept = self._of(unit.sink)
        unit = replace(unit, newest=newest)
        kept.put(unit)
        kept.ledger = ledger
        work = _all(_statements([(_PUT_UNIT, astuple(unit))]), self._put_sink(unit.sink))
        if unit.number in kept.committed:
            return self._submit(unit.sink, work)
        kept.committed.add(unit.number)
        return self._moved(unit.sink, unit.key, unit.last + 1, work)

    def exported(self, units: Sequence[Unit], *, ledger: Mapping[str, Any] | None = None) -> asyncio.Future[None]:
        """The units are where they were to go: nothing needs to be known of them any more."""
        sink = units[0].sink
        kept = self._of(sink)
        for unit in units:
            kept.take(unit)
        work = _statements([("DELETE FROM units WHERE sink = ? AND number = ?", (sink, unit.number)) for unit in units])
        if ledger is not None:
            kept.ledger = ledger
            work = _all(work, self._put_sink(sink))

        def durable() -> None:
            for unit in units:
                kept.release(unit)

        return self._submit(sink, work, durable, lasting=True)

    def undo(
        self, units: Sequence[Unit], cursors: Mapping[Key, int], *, ledger: Mapping[str, Any] | None = None
    ) -> asyncio.Future[None]:
        """The target lost these units: the ranges are wanted again, from these cursors on."""
        sink = units[0].sink
        kept = self._of(sink)
        kept.generation += 1
        kept.cursors.update(cursors)
        for key, next_number in cursors.items():
            kept.durable[key] = min(kept.durable.get(key, next_number), next_number)
        for unit in units:
            kept.take(unit)
            kept.release(unit)
        statements = [
            *(("DELETE FROM units WHERE sink = ? AND number = ?", (sink, unit.number)) for unit in units),
            *((_PUT_CURSOR, (sink, *key, next_number)) for key, next_number in cursors.items()),
        ]
        if ledger is not None:
            kept.ledger = ledger
        now = dict(kept.cursors)
        return self._submit(sink, _all(_statements(statements), self._put_sink(sink)), lambda: kept.durable.update(now))

    def move(
        self, sink: str, stream: str, epoch: str, next_number: int, *, ledger: Mapping[str, Any] | None = None
    ) -> asyncio.Future[None]:
        """Nothing is to be done about what comes before `next_number`: events, gaps, ranges without a message."""
        kept = self._of(sink)
        if ledger is None:
            return self._moved(sink, (stream, epoch), next_number, _statements(()))
        kept.ledger = ledger
        return self._moved(sink, (stream, epoch), next_number, self._put_sink(sink))

    def forget(self, sink: str) -> asyncio.Future[None]:
        """The sink is gone: a later one of the same name begins at what the producers keep."""
        kept = self._sinks.pop(sink, None)
        if kept is not None:
            kept.generation += 1
        return self._submit(
            sink,
            _statements(
                [
                    ("DELETE FROM units WHERE sink = ?", (sink,)),
                    ("DELETE FROM cursors WHERE sink = ?", (sink,)),
                    ("DELETE FROM sinks WHERE name = ?", (sink,)),
                ]
            ),
        )

    async def close(self, limit: float = 2.0) -> None:
        """Commit what was submitted, within `limit` seconds, and close."""
        await self._database.close(limit)

    # --- within -------------------------------------------------------------------------------------------------------

    def _of(self, sink: str) -> _Kept:
        return self._sinks.setdefault(sink, _Kept())

    def _moved(self, sink: str, key: Key, next_number: int, work: Work) -> asyncio.Future[None]:
        """Set a cursor in one transaction with `work`. It goes back when a producer has lost numbers it had given."""
        kept = self._of(sink)

        def durable() -> None:
            kept.durable[key] = next_number

        return self._submit(sink, _all(work, self._cursor_at(sink, key, next_number)), durable)

    def _cursor_at(self, sink: str, key: Key, next_number: int) -> Work:
        kept = self._of(sink)
        kept.cursors[key] = next_number
        return _statements([(_PUT_CURSOR, (sink, *key, next_number)), *self._pruned(sink, kept, key[0])])

    def _pruned(self, sink: str, kept: _Kept, stream: str) -> list[tuple[str, tuple[Any, ...]]]:
        """Statements that forget the oldest epochs of a stream that has too many, unless units of theirs wait."""
        epochs = [key for key in kept.cursors if key[0] == stream]
        surplus = epochs[: max(0, len(epochs) - MAX_EPOCHS)]
        if len(kept.cursors) > MAX_CURSORS:
            surplus.append(next(iter(kept.cursors)))
        statements: list[tuple[str, tuple[Any, ...]]] = []
        for key in dict.fromkeys(surplus):
            if key not in kept.held:
                del kept.cursors[key]
                kept.durable.pop(key, None)
                statements.append(("DELETE FROM cursors WHERE sink = ? AND stream = ? AND epoch = ?", (sink, *key)))
        return statements

    def _put_sink(self, sink: str) -> Work:
        kept = self._of(sink)
        row = (sink, kept.kind, kept.next, json.dumps(kept.ledger))
        return _statements([("INSERT OR REPLACE INTO sinks VALUES (?, ?, ?, ?)", row)])

    def _submit(
        self,
        sink: str,
        work: Work,
        durable: Callable[[], None] | None = None,
        *,
        lasting: bool = False,
        ahead: bool = False,
    ) -> asyncio.Future[None]:
        """`durable` is called once the work is on the medium, unless something was taken back since (`lasting`: then
        too)."""
        kept = self._sinks.get(sink)
        generation = kept.generation if kept is not None else 0
        future = self._database.submit(work, ahead=ahead)

        def done(future: asyncio.Future[None]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if isinstance(error, DatabaseError):
                logger.warning("sinks.%s: %s", sink, error)
                return
            if error is not None:
                logger.error("sinks.%s: its state could not be stored", sink, exc_info=error)
                return
            if durable is not None and kept is not None and (lasting or kept.generation == generation):
                durable()

        future.add_done_callback(done)
        shielded = asyncio.shield(future)
        shielded.add_done_callback(_told)
        return shielded

    def _store_again(self) -> None:
        """The file was damaged while we ran, and begun anew: put into it what is known."""
        logger.error("%s was damaged: what it held is written again into a new one", self._database.path.name)
        rows = [astuple(unit) for kept in self._sinks.values() for unit in kept.units.values()]
        cursors = [
            (sink, *key, next_number) for sink, kept in self._sinks.items() for key, next_number in kept.cursors.items()
        ]
        sinks = [self._put_sink(sink) for sink in self._sinks]

        def work(connection: sqlite3.Connection) -> None:
            _many(connection, _PUT_UNIT, rows)
            _many(connection, _PUT_CURSOR, cursors)
            _all(*sinks)(connection)

        self._submit("", work, ahead=True)

    async def _load(self) -> None:
        def work(connection: sqlite3.Connection) -> tuple[list[Any], list[Any], list[Any]]:
            return (
                connection.execute("SELECT name, kind, next, ledger FROM sinks").fetchall(),
                connection.execute("SELECT sink, stream, epoch, next FROM cursors ORDER BY rowid").fetchall(),
                connection.execute("SELECT * FROM units ORDER BY sink, number").fetchall(),
            )

        sinks, cursors, units = await self._database.read(work)
        for name, kind, next_number, ledger in sinks:
            self._sinks[name] = _Kept(kind, next_number, json.loads(ledger))
        for sink, stream, epoch, next_number in cursors:
            kept = self._of(sink)
            kept.cursors[stream, epoch] = kept.durable[stream, epoch] = next_number
        for row in units:
            unit = Unit(*row)
            kept = self._of(unit.sink)
            kept.put(replace(unit, parked=bool(unit.parked)))
            if unit.newest is not None or kept.cursors.get(unit.key, 0) > unit.last:
                kept.committed.add(unit.number)


def _told(future: asyncio.Future[None]) -> None:
    """Whoever does not wait for it need not be told again of an error that is logged."""
    if not future.cancelled():
        future.exception()


def _many(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    connection.executemany(statement, rows)


def _statements(statements: Sequence[tuple[str, tuple[Any, ...]]]) -> Work:
    def work(connection: sqlite3.Connection) -> None:
        for statement, values in statements:
            connection.execute(statement, values)

    return work


def _all(*works: Work) -> Work:
    def work(connection: sqlite3.Connection) -> None:
        for each in works:
            each(connection)

    return work
