"""One SQLite file that loses nothing it has promised: group commit, a full disk that recovers, corruption set aside.

Theory of operation
-------------------
*One writer thread* runs works (functions of a connection) in the order in which they were submitted. What waits when a
transaction begins is committed together: each work under a savepoint, so that one that raises is rolled back alone. The
file is in WAL mode with `synchronous=FULL`: a work's future is done only when it is on the disk. A transaction begins
at once when the last one began `commit_interval` ago or longer, else at the end of the interval: a lone work does not
wait, and a stream of them costs one fsync per interval.

*A transaction that fails* does so for one of three reasons:

    the storage    full, read-only, I/O error, file size limit: everything is rolled back, and the same works run again
                   after a pause of 0.2 s growing to 5 s, for ever. `trouble` and `remedy` say so meanwhile. Each
                   failure halves how much is tried at once, and works submitted `ahead` go first.
    the file       malformed: on a new connection at once, because a cause outside the file passes; then the file is
                   renamed aside and begun anew, `on_renewed` is called before anything committed to the new file is
                   told, and the works that waited run on it.
    the work       it alone gets the exception.

A work may therefore run more than once; only its last run counts. It must touch nothing but its connection.

*Reading* has a connection and a thread of its own, and sees what is committed. Reads must be short: while one lasts the
WAL cannot be begun from its start again, and grows.

Only one process may have a database open: a lock file beside it sees to that, because the owner keeps in memory what it
knows of its file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from sluice import __version__
from sluice.retry import Backoff
from sluice.tasks import within

logger = logging.getLogger(__name__)

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]

PAGE: Final = 1024
"""Small, because each commit writes a handful of pages anew whatever it stores: a quarter of SQLite's usual size halves
what a source of 20 batches a second writes, at the same CPU time (scripts/delivery_bench.py)."""
CHECKPOINT_PAGES: Final = 4 * 2**20 // PAGE
"""Pages in the WAL after which it is written back to the file: what is deleted before never gets there."""
WAL_KEPT: Final = 16 * 2**20
"""To how many bytes a WAL that grew is cut when it is begun again."""
CHECKED_IN_FULL: Final = 256 * 2**20
"""A larger file is only looked into when it is opened: reading all of it would take minutes from a slow disk."""
ASIDE_KEPT: Final = 2
LOCK_WAIT: Final = 10.0
"""Seconds for which an earlier instance of the component may still hold the file."""
_MOST_WORKS: Final = 1_000
_SAME_CONNECTION: Final = 10
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_UNLIMITED: Final = 4_294_967_294

# By message and not by code: exceptions carry codes only from Python 3.11 on.
_MALFORMED: Final = ("database disk image is malformed", "file is not a database")
_STORAGE: Final = {
    "database or disk is full": "free space on its disk",
    "disk I/O error": "check the disk, its free space and the limits of the process (dmesg, df, ulimit -f)",
    "attempt to write a readonly database": "mount its disk for writing, and let the component's user write there",
    "unable to open database file": "see that its folder exists and that the component's user may write there",
    "database is locked": "end the other process that has it open",
    "locking protocol": "use a local disk: network file systems do not lock as SQLite needs it",
}


class DatabaseError(Exception):
    """A database that cannot be used. `passing`: the storage is at fault, and opening it later may succeed."""

    def __init__(self, problem: str, remedy: str, *, passing: bool = False) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem = problem
        self.remedy = remedy
        self.passing = passing


def _release_number(version: str) -> int:
    """A release as SQLite's application id: 7 bits, 10 and 14."""
    major, minor, patch = (int(part) for part in version.split("."))
    return (major << 24) + (minor << 14) + patch


def _release(number: int) -> str:
    """The release that used the file last; empty when none has said so."""
    return f"{number >> 24}.{number >> 14 & 0x3FF}.{number & 0x3FFF}" if number > 0 else ""


_RELEASE: Final = _release_number(__version__)


class _MalformedError(Exception):
    """The content of the file is not what we wrote."""

    def __init__(self) -> None:
        super().__init__(_MALFORMED[1])


class _Work(Generic[T]):
    __slots__ = ("ahead", "done", "error", "result", "run")

    def __init__(self, run: Job[T], done: asyncio.Future[T], ahead: bool) -> None:
        self.run = run
        self.done = done
        self.ahead = ahead
        self.result: T | None = None
        self.error: BaseException | None = None


class Database:
    """One SQLite file with one writer. Made by `open`; used from one event loop."""

    def __init__(
        self, path: Path, schema: Sequence[str], version: int, commit_interval: float, max_bytes: int | None
    ) -> None:
        self.path = path
        self.aside: Path | None = None
        """The latest file that was malformed, under its new name."""
        self.trouble = ""
        """Why nothing can be committed at present; empty when all is well."""
        self.remedy = ""
        self.commits = 0
        self._failure = ""  # the error that `trouble` tells of
        self.commit_interval = commit_interval
        self.on_renewed: Callable[[], None] = lambda: None
        """Called in the event loop when the file was malformed while running, and has been begun anew: all is gone."""
        self._schema = tuple(schema)
        self._version = version
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Condition()
        self._queue: deque[_Work[Any]] = deque()
        self._ahead: deque[_Work[Any]] = deque()
        self._closing: float | None = None  # when (monotonic) to give up what cannot be committed
        self._attentive = False  # the writer waits for works; else it looks by itself when the interval ends
        self._resized = False
        self._pages = 0  # the limit that the writer's connection has
        self._malformed = 0  # failures because of the content of the file, one after the other
        self._generation = 0  # of the file, so that the reader notices a new one
        self._reads: deque[_Work[Any]] = deque()
        self._reading = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._ended: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        schema: Sequence[str],
        version: int,
        commit_interval: float = 0.1,
        max_bytes: int | None = None,
    ) -> Database:
        """Open or make the file. A malformed one is renamed aside (`aside`) and begun anew.

        Raises DatabaseError when its storage does not let it be opened (`passing`), when another process has it open,
        or when another release made it.
        """
        database = cls(path, schema, version, commit_interval, max_bytes)
        opened: asyncio.Future[None] = database._loop.create_future()
        writer = threading.Thread(
            target=database._write_all, args=(opened,), name=f"writer of {path.name}", daemon=True
        )
        writer.start()
        database._threads.append(writer)
        try:
            await asyncio.shield(opened)
        except asyncio.CancelledError:
            await database.close(0.0)
            raise
        reader = threading.Thread(target=database._read_all, name=f"reader of {path.name}", daemon=True)
        reader.start()
        database._threads.append(reader)
        return database

    def submit(self, work: Job[T], *, ahead: bool = False) -> asyncio.Future[T]:
        """Have the work run in the next transaction; the future is done when it is on the disk.

        `ahead`: before what waits already, and alone while the storage is in trouble. For work that frees room.
        """
        done: asyncio.Future[T] = self._loop.create_future()
        if self._closing is not None:
            _refuse(done, self._closed())
            return done
        with self._wake:
            (self._ahead if ahead else self._queue).append(_Work(work, done, ahead))
            if self._attentive:
                self._wake.notify()
        return done

    async def write(self, work: Job[T]) -> T:
        """Submit the work and wait until it is on the disk. Cancelling the wait does not cancel the work."""
        return await asyncio.shield(self.submit(work))

    async def read(self, work: Job[T]) -> T:
        """What the work finds in what is committed. Raises DatabaseError when the file cannot be read at present."""
        done: asyncio.Future[T] = self._loop.create_future()
        if self._closing is not None:
            raise self._closed()
        with self._reading:
            self._reads.append(_Work(work, done, ahead=False))
            self._reading.notify()
        return await done

    def resize(self, max_bytes: int | None) -> None:
        """The file may grow to this many bytes. One that is larger already does not shrink."""
        with self._wake:
            self._max_bytes = max_bytes
            self._resized = True
            self._wake.notify()

    async def close(self, limit: float = 2.0) -> None:
        """Commit what was submitted, for up to `limit` seconds, and close; the rest gets DatabaseError."""
        with self._wake:
            self._closing = time.monotonic() + limit if self._closing is None else self._closing
            self._wake.notify()
        with self._reading:
            self._reading.notify()
        with contextlib.suppress(asyncio.TimeoutError):
            await within(limit + 0.5, asyncio.shield(self._ended))
        for work in (*self._ahead, *self._queue, *self._reads):
            _refuse(work.done, self._closed())

    def _closed(self) -> DatabaseError:
        return DatabaseError(
            f"{self.path} is closed: what was submitted last is not stored", "nothing, when the component is stopping"
        )

    # --- the writer's thread ---

    def _write_all(self, opened: asyncio.Future[None]) -> None:
        lock = None
        connection = None
        try:
            lock = self._lock()
            connection = self._opened()
        except DatabaseError as error:
            self._tell([(opened, None, error)])
        except (OSError, sqlite3.Error) as error:
            self._tell([(opened, None, self._unusable(error))])
        else:
            self._tell([(opened, None, None)])
            connection = self._serve(connection)
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with contextlib.suppress(sqlite3.Error):
                connection.close()
        if lock is not None:
            os.close(lock)
        self._in_loop(_set_done, self._ended)

    def _serve(self, connection: sqlite3.Connection | None) -> sqlite3.Connection | None:
        """Commit until closed. Gives the connection back, which may be another one or none at the end."""
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        portion = _MOST_WORKS
        failures = 0
        began = float("-inf")
        while (works := self._take(began, portion)) is not None:
            began = time.monotonic()
            try:
                if connection is None or self._malformed > 1:
                    connection = self._reopened(connection)
                self._apply_size(connection)
                self._commit(connection, works)
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing that was submitted may be lost
                self._put_back(works)
                failures += 1
                if not _usable_again(connection, error) or failures > _SAME_CONNECTION:
                    _shut(connection)
                    connection = None
                portion = max(1, len(works) // 2)
                self._malformed += str(error) in _MALFORMED
                if str(error) in _MALFORMED and self._malformed == 1:
                    continue
                self._in_trouble(error)
                if not self._pause(backoff.next()):
                    break
            else:
                self._malformed = failures = 0
                self.commits += bool(works)
                if not (self.trouble and all(work.ahead for work in works)):
                    self._well()
                    backoff.reset()
                    portion = _MOST_WORKS
                self._tell([(work.done, work.result, work.error) for work in works])
        return connection

    def _take(self, began: float, portion: int) -> list[_Work[Any]] | None:
        """What the next transaction does, when it is time for it; None when closed and nothing is left to do."""
        with self._wake:
            while True:
                now = time.monotonic()
                due = began + self.commit_interval
                if self._closing is not None:
                    if not (self._queue or self._ahead) or now > self._closing:
                        return None
                    break
                if self._malformed or (self._resized and not (self._queue or self._ahead)):
                    break
                if now < due:  # nobody need wake it: what comes meanwhile is found at the end of the interval
                    self._wake.wait(due - now)
                elif not (self._queue or self._ahead):
                    self._attentive = True
                    self._wake.wait()
                    self._attentive = False
                else:
                    break
            works: list[_Work[Any]] = []
            while self._ahead and len(works) < portion:
                works.append(self._ahead.popleft())
            if not (self.trouble and works):
                while self._queue and len(works) < portion:
                    works.append(self._queue.popleft())
            return works

    def _put_back(self, works: list[_Work[Any]]) -> None:
        with self._wake:
            for work in reversed(works):
                (self._ahead if work.ahead else self._queue).appendleft(work)

    def _commit(self, connection: sqlite3.Connection, works: list[_Work[Any]]) -> None:
        if not works:
            return
        connection.execute("BEGIN IMMEDIATE")
        for work in works:
            connection.execute("SAVEPOINT work")
            try:
                work.result, work.error = work.run(connection), None
            except Exception as error:
                if str(error) in _STORAGE or str(error) in _MALFORMED or not connection.in_transaction:
                    raise  # not its fault, or SQLite has rolled everything back already
                work.result, work.error = None, error
                connection.execute("ROLLBACK TO work")
            connection.execute("RELEASE work")
        connection.execute("COMMIT")

    def _pause(self, seconds: float) -> bool:
        """Wait before the next attempt; less when there is a new chance. False when it is time to give up."""
        end = time.monotonic() + seconds
        with self._wake:
            self._attentive = True
            waiting = len(self._ahead)
            while (now := time.monotonic()) < end and not self._resized and len(self._ahead) == waiting:
                if self._closing is not None:
                    if now >= self._closing:
                        return False
                    end = min(end, now + _FIRST_PAUSE, self._closing)
                self._wake.wait(end - now)
            self._attentive = self._resized = False  # the next attempt looks at the size anyway
            return self._closing is None or time.monotonic() < self._closing

    def _apply_size(self, connection: sqlite3.Connection) -> None:
        with self._wake:
            self._resized = False
        if self._pages != self._max_pages():
            self._pages = self._max_pages()
            connection.execute(f"PRAGMA max_page_count={self._pages}")

    def _max_pages(self) -> int:
        return _UNLIMITED if self._max_bytes is None else max(1, self._max_bytes // PAGE)

    def _in_trouble(self, error: BaseException) -> None:
        if self.trouble and self._failure == str(error):
            return  # told already: what is free on the disk changes all the time
        told = self._unusable(error)
        logger.error("%s. It is tried again until it succeeds: %s", told.problem, told.remedy)
        self._failure, self.trouble, self.remedy = str(error), told.problem, told.remedy

    def _well(self) -> None:
        if self.trouble:
            logger.info("%s can be written again", self.path)
            self.trouble = self.remedy = ""

    def _unusable(self, error: BaseException) -> DatabaseError:
        remedy = _STORAGE.get(str(error), "see that its folder exists on a healthy disk and may be written")
        if str(error) == "database or disk is full" and self._max_bytes is not None:
            with contextlib.suppress(OSError):
                if self.path.stat().st_size + PAGE * CHECKPOINT_PAGES >= self._max_bytes:
                    remedy += f", or raise its limit of {self._max_bytes} bytes"
        return DatabaseError(f"{self.path} cannot be written: {error}{self._free()}", remedy, passing=True)

    def _free(self) -> str:
        try:
            disk = os.statvfs(self.path.parent)
        except OSError:
            return ""
        return f" ({disk.f_bavail * disk.f_frsize // 10**6} MB of its disk are free)"

    # --- the file ---

    def _lock(self) -> int:
        """Make the folder, and be the only process that has the database open."""
        missing = [folder for folder in (self.path.parent, *self.path.parent.parents) if not folder.exists()]
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in missing:  # a folder's entry in the one above is on the disk only when that one is
            _sync(folder.parent)
        if self.path.parent.stat().st_mode & 0o077:
            self.path.parent.chmod(0o700)
        lock = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end = time.monotonic() + LOCK_WAIT
        while not _locked(lock):
            if time.monotonic() >= end or self._closing is not None:
                os.close(lock)
                raise DatabaseError(
                    f"{self.path} is in use by another process", "end the other instance of this component"
                )
            time.sleep(0.05)
        return lock

    def _opened(self) -> sqlite3.Connection:
        """A connection to a sound file of our version, made when there is none."""
        try:
            return self._connection(check=True)
        except (sqlite3.DatabaseError, _MalformedError) as error:
            if str(error) not in _MALFORMED:
                raise
            self._set_aside()
            return self._connection(check=False)

    def _reopened(self, connection: sqlite3.Connection | None) -> sqlite3.Connection:
        """A new connection after a failure: old handles may belong to a disk that has been mounted again since."""
        if self._malformed > 1:
            _shut(connection)
            self._set_aside()
        existed = self.path.exists()
        connection = self._connection(check=False)
        if not existed:
            self._malformed = 0
            self._generation += 1
            self._in_loop(self._renewed)
        return connection

    def _renewed(self) -> None:
        self.on_renewed()

    def _set_aside(self) -> None:
        """Rename the file and its WAL; the oldest of earlier ones are deleted."""
        when = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")
        aside = self.path.with_name(f"{self.path.name}.corrupt-{when}")
        if not self.path.exists():  # renamed by an attempt that failed later
            return
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(self.path.name + suffix).rename(aside.with_name(aside.name + suffix))
        _sync(self.path.parent)
        self.aside = aside
        logger.error("%s is malformed: it is kept as %s, and begun anew", self.path, aside.name)
        earlier = sorted(
            path
            for path in aside.parent.glob(f"{self.path.name}.corrupt-*")
            if not path.name.endswith(("-wal", "-shm"))
        )
        for old in earlier[:-ASIDE_KEPT]:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    old.with_name(old.name + suffix).unlink()

    def _connection(self, *, check: bool) -> sqlite3.Connection:
        with contextlib.suppress(FileExistsError):  # SQLite itself would let everybody read it
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self.path, timeout=2.0, isolation_level=None)
        self._pages = self._max_pages()
        try:
            for setting in (
                f"page_size={PAGE}",
                "auto_vacuum=INCREMENTAL",
                "journal_mode=WAL",
                "synchronous=FULL",
                f"journal_size_limit={WAL_KEPT}",
                "secure_delete=OFF",  # some builds overwrite what is deleted, which doubles what is written
                f"wal_autocheckpoint={CHECKPOINT_PAGES}",
                f"max_page_count={self._pages}",
            ):
                connection.execute(f"PRAGMA {setting}").fetchall()
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            if version == 0 and not tables:
                self._make(connection)
            elif version != self._version:
                self._refuse_version(version, _release(int(connection.execute("PRAGMA application_id").fetchone()[0])))
            if check:
                self._check(connection, [name for (name,) in tables])
            if int(connection.execute("PRAGMA application_id").fetchone()[0]) != _RELEASE:
                connection.execute(f"PRAGMA application_id={_RELEASE}")
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o600)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement in self._schema:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={self._version}")
        connection.execute("COMMIT")

    def _refuse_version(self, version: int, release: str) -> None:
        if version == 0:
            raise _MalformedError  # tables, but not ours
        newer = "a newer" if version > self._version else "an older"
        raise DatabaseError(
            f"{self.path} was left by {release or f'{newer} release'} in version {version}, and this release, "
            f"{__version__}, reads version {self._version}",
            f"deploy {release or f'the {newer.split()[1]} release'} again and let it deliver what is kept, or move the "
            "file away and lose what it holds",
        )

    def _check(self, connection: sqlite3.Connection, tables: list[str]) -> None:
        if self.path.stat().st_size < CHECKED_IN_FULL:
            if connection.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]:
                raise _MalformedError
            return
        for name in tables:
            for order in ("ASC", "DESC"):
                connection.execute(f'SELECT * FROM "{name}" ORDER BY 1 {order} LIMIT 10').fetchall()  # noqa: S608

    # --- the reader's thread ---

    def _read_all(self) -> None:
        connection: sqlite3.Connection | None = None
        generation = -1
        while (work := self._next_read()) is not None:
            if generation != self._generation:
                _shut(connection)
                connection, generation = None, self._generation
            connection = self._read_once(work, connection)
            if str(work.error) in _MALFORMED:  # perhaps only seen through an old connection
                connection = self._read_once(work, connection)
                if str(work.error) in _MALFORMED:
                    self._suspect()
            if isinstance(work.error, sqlite3.Error) and str(work.error) in (*_STORAGE, *_MALFORMED):
                work.error = self._unreadable(work.error)
            self._tell([(work.done, work.result, work.error)])
        _shut(connection)

    def _read_once(self, work: _Work[Any], connection: sqlite3.Connection | None) -> sqlite3.Connection | None:
        """Run the work. Gives the connection for the next one."""
        work.error = None
        try:
            if connection is None:
                uri = f"{self.path.absolute().as_uri()}?mode=ro"
                connection = sqlite3.connect(uri, uri=True, timeout=2.0, isolation_level=None)
            work.result = work.run(connection)
        except sqlite3.Error as error:
            work.error = error
            _shut(connection)
            return None
        except Exception as error:  # noqa: BLE001 - it is the caller's, who gets it
            work.error = error
        return connection

    def _suspect(self) -> None:
        """Have the writer begin the file anew."""
        with self._wake:
            self._malformed = 2
            self._wake.notify()

    def _unreadable(self, error: BaseException) -> DatabaseError:
        remedy = "nothing, it is begun anew" if str(error) in _MALFORMED else _STORAGE[str(error)]
        return DatabaseError(f"{self.path} cannot be read: {error}{self._free()}", remedy, passing=True)

    def _next_read(self) -> _Work[Any] | None:
        with self._reading:
            while not self._reads:
                if self._closing is not None:
                    return None
                self._reading.wait()
            return self._reads.popleft()

    # --- from the threads into the loop ---

    def _tell(self, outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
        self._in_loop(_resolve, outcomes)

    def _in_loop(self, call: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(call, *args)


def _resolve(outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for done, result, error in outcomes:
        if error is not None:
            _refuse(done, error)
        elif not done.done():
            done.set_result(result)


def _refuse(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # whoever does not wait for it is not told of it at the end either


def _set_done(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _shut(connection: sqlite3.Connection | None) -> None:
    """Close the connection, whatever state it is in; what it had not committed is rolled back."""
    if connection is not None:
        with contextlib.suppress(sqlite3.Error):
            connection.close()


def _usable_again(connection: sqlite3.Connection | None, error: BaseException) -> bool:
    """Roll back. Whether the connection may go on after the error: one that wrote to the WAL in vain should.

    Were the last connection closed after an fsync that failed, the next one would find the whole transaction in the
    WAL, and its works would run a second time on top of it.
    """
    if connection is None or str(error) not in ("database or disk is full", "disk I/O error"):
        return False
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return True


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
