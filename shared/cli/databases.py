"""Looks into the SQLite files of a component without touching them: neither they nor their folders change.

A file whose write-ahead log is empty is opened as one that does not change (`immutable`), and looked at again when it
did meanwhile. One with a log, which is what a running component has, is copied with it, and copied anew when it was
written back between the two; only the copy is opened. What is too large to be copied is told with its sizes alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

LARGEST_COPY: Final = 2 * 2**30
SECONDS: Final = 20.0
"""For which a file is looked into."""
_TRIES: Final = 4
_ROWS: Final = 200
_TABLES: Final = ("streams", "batches", "positions", "sinks", "cursors", "units")


class _UnfitError(Exception):
    """A file that cannot be looked into now; the text says why."""


def examine(path: Path) -> dict[str, Any]:
    """What a database holds: `bytes`, `wal_bytes`, `state` (ok, malformed, not checked), `why`, `tables`, `kept`."""
    told: dict[str, Any] = {"file": path.name, "bytes": _size(path), "wal_bytes": _size(_wal(path))}
    try:
        for _ in range(_TRIES):
            before = _stamp(path)
            found = _copied(path) if told["wal_bytes"] else _look(path, immutable=True)
            if _stamp(path)[0] == before[0]:
                return {**told, **found}
            told["wal_bytes"] = _size(_wal(path))
        raise _UnfitError("it was written to each time that it was looked at")
    except (_UnfitError, OSError) as error:
        return {**told, "state": "not checked", "why": str(error)}


def _wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _size(path: Path) -> int:
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _stamp(path: Path) -> tuple[Any, bytes]:
    """What changes when the file is written (the first part), or its log is begun anew (both)."""
    found = path.lstat()
    header = b""
    if _size(_wal(path)):
        with open_plain(_wal(path)) as file:
            header = file.read(32)
    return (found.st_mtime_ns, found.st_size, header), header


def open_plain(path: Path) -> Any:
    """Open a file for reading when it is an ordinary one: no link, no device. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no ordinary file")
    return os.fdopen(descriptor, "rb")


def _copied(path: Path) -> dict[str, Any]:
    size = _size(path) + _size(_wal(path))
    with tempfile.TemporaryDirectory(prefix="sluice-doctor-") as folder:
        free = shutil.disk_usage(folder).free
        if size > LARGEST_COPY or free < 2 * size:
            raise _UnfitError(
                f"it is in use and has {size / 1e6:.0f} MB, too many to look into a copy ({free / 1e6:.0f} MB are free "
                f"in {folder.rpartition('/')[0]}): stop the component, or give another folder as TMPDIR"
            )
        copy = Path(folder) / "copy.db"
        _copy(path, copy)
        with contextlib.suppress(FileNotFoundError):  # the component ended meanwhile: its log is in the file
            _copy(_wal(path), _wal(copy))
        return _look(copy, immutable=False)


def _copy(source: Path, target: Path) -> None:
    with open_plain(source) as reading, target.open("wb") as writing:
        shutil.copyfileobj(reading, writing, 2**20)


def _look(path: Path, *, immutable: bool) -> dict[str, Any]:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise _UnfitError("it is no ordinary file")
    name = f"file:{quote(str(path.resolve()))}" + ("?mode=ro&immutable=1" if immutable else "?mode=rw")
    deadline = time.monotonic() + SECONDS
    try:
        with closing(sqlite3.connect(name, uri=True, timeout=1)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            return _inside(connection)
    except sqlite3.DatabaseError as error:
        if str(error) == "interrupted":
            raise _UnfitError(f"it was not read within {SECONDS:.0f} s") from None
        if "malformed" in str(error) or "not a database" in str(error):
            return {"state": "malformed", "why": str(error)}
        raise _UnfitError(str(error)) from None


def _inside(connection: sqlite3.Connection) -> dict[str, Any]:
    checked = [str(row[0]) for row in connection.execute("PRAGMA quick_check(10)")]
    present = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    tables = {
        table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - names of our own
        for table in _TABLES
        if table in present
    }
    told: dict[str, Any] = {
        "state": "ok" if checked == ["ok"] else "malformed",
        "version": connection.execute("PRAGMA user_version").fetchone()[0],
        "tables": tables,
    }
    if checked != ["ok"]:
        told["why"] = "; ".join(checked)[:500]
    for table, columns in _WHAT.items():
        if table in present:
            told[table] = _rows(connection, table, columns)
    return told


_WHAT: Final[Mapping[str, tuple[str, ...]]] = {
    "streams": ("name", "epoch", "next", "bytes", "samples", "ledger", "consumers"),
    "sinks": ("name", "kind", "next", "ledger"),
    "cursors": ("sink", "stream", "epoch", "next"),
}
"""What is told of which table: counts and positions, and nothing of the plant's data."""


def _rows(connection: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    present = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    wanted = [column for column in columns if column in present]
    if not wanted:
        return []
    rows = connection.execute(f"SELECT {', '.join(wanted)} FROM {table} LIMIT {_ROWS}")  # noqa: S608 - of our own
    return [{column: _plain(value) for column, value in zip(wanted, row, strict=True)} for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value[:500]
    return value
