"""The database: what it says is stored is on the disk, whatever happens to the disk, the file or the process."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import sluice.database
from sluice import __version__
from sluice.database import PAGE, WAL_KEPT, Database, DatabaseError

SHARED = Path(__file__).resolve().parents[2] / "shared"
SCHEMA = ("CREATE TABLE notes (id INTEGER PRIMARY KEY, text BLOB NOT NULL)",)
Job = Callable[[sqlite3.Connection], Any]


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[Database]:
    options = {"schema": SCHEMA, "version": 1, "commit_interval": 0.01, **options}
    database = await Database.open(path, **options)
    try:
        yield database
    finally:
        await database.close()


def note(number: int, text: bytes = b"") -> Job:
    return lambda connection: connection.execute("INSERT INTO notes VALUES (?, ?)", (number, text)).rowcount


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT id FROM notes ORDER BY id")]


def on_disk(path: Path) -> list[int]:
    """What another process finds in the file."""
    connection = sqlite3.connect(path)
    try:
        return numbers(connection)
    finally:
        connection.close()


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.005)


# --- writing --------------------------------------------------------------------------------------------------------


async def test_what_is_done_is_on_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as database:
        assert await database.write(note(1)) == 1
        assert on_disk(database.path) == [1]


async def test_each_commit_waits_for_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as database:
        full = 2
        assert await database.write(lambda connection: connection.execute("PRAGMA synchronous").fetchone()) == (full,)
        assert await database.read(lambda connection: connection.execute("PRAGMA journal_mode").fetchone()) == ("wal",)


async def test_works_run_and_are_told_in_the_order_of_their_submission(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as database:
        ran: list[int] = []
        told: list[int] = []

        def run(number: int, connection: sqlite3.Connection) -> None:
            ran.append(number)
            note(number)(connection)

        def tell(number: int, _: asyncio.Future[None]) -> None:
            told.append(number)

        futures = []
        for number in range(1, 2_501):
            future = database.submit(partial(run, number))
            future.add_done_callback(partial(tell, number))
            futures.append(future)
        await asyncio.gather(*futures)
        assert ran == told == list(range(1, 2_501))
        assert database.commits < 10


@pytest.mark.alone
async def test_a_lone_work_waits_for_no_interval_and_many_share_one(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", commit_interval=0.4) as database:
        start = time.monotonic()
        await database.write(note(1))
        assert time.monotonic() - start < 0.3
        futures = [database.submit(note(number)) for number in (2, 3)]
        await futures[0]
        futures.append(database.submit(note(4)))
        assert futures[1].done()
        await futures[2]
        assert time.monotonic() - start >= 0.8
        assert database.commits == 3


async def test_a_work_that_raises_is_rolled_back_alone(tmp_path: Path) -> None:
    def wrong(connection: sqlite3.Connection) -> None:
        note(2)(connection)
        raise LookupError("not this one")

    async with opened(tmp_path / "a.db") as database:
        outcomes = await asyncio.gather(
            *(database.submit(work) for work in (note(1), wrong, note(1), note(3))), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [int, LookupError, sqlite3.IntegrityError, int]
        assert on_disk(database.path) == [1, 3]
        assert database.trouble == ""


async def test_whoever_stops_waiting_does_not_stop_the_work(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", commit_interval=0.05) as database:
        await database.write(note(1))
        waiters = [asyncio.create_task(database.write(note(2))), asyncio.ensure_future(database.submit(note(3)))]
        await asyncio.sleep(0)
        for waiter in waiters:
            waiter.cancel()
        await database.write(note(4))
        assert on_disk(database.path) == [1, 2, 3, 4]


async def test_work_that_frees_room_goes_ahead(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", commit_interval=0.05) as database:
        await database.write(note(1))
        later = database.submit(lambda connection: numbers(connection))
        database.submit(lambda connection: connection.execute("DELETE FROM notes"), ahead=True)
        assert await later == []


async def test_reading_sees_what_is_committed_and_writes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as database:
        await database.write(note(1))
        assert await database.read(numbers) == [1]
        with pytest.raises(DatabaseError, match="cannot be read: attempt to write a readonly database"):
            await database.read(note(2))
        with pytest.raises(KeyError):
            await database.read(lambda connection: {"one": 1}["another"])
        assert await database.read(numbers) == [1]


async def test_reading_does_not_wait_for_writing_nor_writing_for_reading(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as database:
        await database.write(note(1))
        writing, go_on = threading.Event(), threading.Event()

        def slow(connection: sqlite3.Connection) -> None:
            note(2)(connection)
            writing.set()
            assert go_on.wait(10)

        written = database.submit(slow)
        await until(writing.is_set)
        assert await database.read(numbers) == [1]
        go_on.set()
        await written
        assert await database.read(numbers) == [1, 2]


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir(mode=0o755)
    async with opened(tmp_path / "work" / "deeper" / "a.db") as database:
        await database.write(note(1))
        assert {path.name for path in database.path.parent.iterdir()} == {"a.db", "a.db-wal", "a.db-shm", "a.db.lock"}
        assert {path.stat().st_mode & 0o777 for path in database.path.parent.iterdir()} == {0o600}
        assert database.path.parent.stat().st_mode & 0o777 == 0o700


async def test_the_wal_does_not_grow_with_what_is_written(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", commit_interval=0.0) as database:
        for number in range(200):
            await database.write(note(2 * number, bytes(100_000)))
            await database.write(lambda connection: connection.execute("DELETE FROM notes"))
        assert database.path.with_name("a.db-wal").stat().st_size < 8 * 2**20
        assert database.path.stat().st_size < 2**20
        await database.write(note(1, bytes(2 * WAL_KEPT)))
        await database.write(note(2, bytes(5_000_000)))
        await database.write(note(3, bytes(5_000_000)))
        assert database.path.with_name("a.db-wal").stat().st_size <= WAL_KEPT


# --- closing --------------------------------------------------------------------------------------------------------


async def test_closing_commits_what_was_submitted(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", commit_interval=5.0) as database:
        await database.write(note(1))
        futures = [database.submit(note(number)) for number in (2, 3)]
        start = time.monotonic()
    assert time.monotonic() - start < 2
    assert [future.result() for future in futures] == [1, 1]
    assert on_disk(database.path) == [1, 2, 3]
    assert {path.name for path in tmp_path.iterdir()} == {"a.db", "a.db.lock"}


async def test_after_closing_nothing_is_taken_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", max_bytes=10 * PAGE) as database:
        lost = database.submit(note(1, bytes(50 * PAGE)))
        await until(lambda: database.trouble)
        start = time.monotonic()
        await database.close(0.3)
        assert 0.2 < time.monotonic() - start < 1.5
        for refused in (lost, database.submit(note(2))):
            with pytest.raises(DatabaseError, match=r"a\.db is closed: what was submitted last is not stored"):
                await refused
        with pytest.raises(DatabaseError, match="is closed"):
            await database.read(numbers)
        await database.close()


# --- opening --------------------------------------------------------------------------------------------------------


async def test_a_database_is_found_again_as_it_was(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        async with opened(tmp_path / "a.db") as database:
            await database.write(note(number))
            assert await database.read(numbers) == list(range(1, number + 1))
            assert database.aside is None


async def test_the_file_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", version=2) as database:
        await database.write(note(1))
    with pytest.raises(DatabaseError) as caught:
        await Database.open(tmp_path / "a.db", schema=SCHEMA, version=1)
    assert caught.value.problem == (
        f"{tmp_path}/a.db was left by {__version__} in version 2, and this release, {__version__}, reads version 1"
    )
    assert caught.value.remedy.startswith(f"deploy {__version__} again")
    assert not caught.value.passing
    async with opened(tmp_path / "a.db", version=2) as database:
        assert await database.read(numbers) == [1]


async def test_the_release_that_left_a_file_is_told_by_its_number(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", version=2):
        pass
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute(f"PRAGMA application_id={(1 << 24) + (12 << 14) + 3}")
    with pytest.raises(DatabaseError, match=r"was left by 1\.12\.3 in version 2.* deploy 1\.12\.3 again"):
        await Database.open(tmp_path / "a.db", schema=SCHEMA, version=1)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("PRAGMA application_id=0")
    with pytest.raises(
        DatabaseError, match=r"was left by a newer release in version 2.* deploy the newer release again"
    ):
        await Database.open(tmp_path / "a.db", schema=SCHEMA, version=1)


async def test_only_one_may_have_it_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sluice.database, "LOCK_WAIT", 0.2)
    async with opened(tmp_path / "a.db") as first:
        with pytest.raises(DatabaseError, match=r"is in use by another process: end the other instance"):
            await Database.open(tmp_path / "a.db", schema=SCHEMA, version=1)
        await first.write(note(1))
    async with opened(tmp_path / "a.db") as second:
        assert await second.read(numbers) == [1]


async def test_who_comes_while_the_earlier_instance_ends_waits_for_it(tmp_path: Path) -> None:
    first = await Database.open(tmp_path / "a.db", schema=SCHEMA, version=1)
    second = asyncio.create_task(Database.open(tmp_path / "a.db", schema=SCHEMA, version=1))
    await asyncio.sleep(0.1)
    assert not second.done()
    await first.close()
    await (await second).close()


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match=r"file/a\.db cannot be written: .*see that its folder exists") as caught:
        await Database.open(tmp_path / "file" / "a.db", schema=SCHEMA, version=1)
    assert caught.value.passing


# --- a file that is malformed ---------------------------------------------------------------------------------------


async def filled(path: Path, notes: int = 200) -> None:
    async with opened(path) as database:
        await asyncio.gather(*(database.submit(note(number, bytes(3_000))) for number in range(notes)))


def clear(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM notes WHERE length(text) >= 0")


def scribble(path: Path, start: int, stop: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(random.Random(start).randbytes(stop - start))


async def test_a_malformed_file_is_set_aside_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await filled(path)
    scribble(path, 3 * PAGE, 60 * PAGE)
    size = path.stat().st_size
    async with opened(path) as database:
        assert await database.read(numbers) == []
        assert await database.write(note(1)) == 1
        assert database.aside is not None
        assert database.aside.name.startswith("a.db.corrupt-20")
        assert database.aside.stat().st_size == size
        assert database.trouble == ""


@pytest.mark.parametrize("content", [b"Not what SQLite writes. " * 1_000, b"\0" * 8_192])
async def test_a_foreign_file_is_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.db").write_bytes(content)
    async with opened(tmp_path / "a.db") as database:
        assert await database.read(numbers) == []
        assert database.aside is not None
        assert database.aside.read_bytes() == content


async def test_a_database_of_somebody_else_is_set_aside(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as foreign:
        foreign.execute("CREATE TABLE theirs (x)")
    foreign.close()
    async with opened(tmp_path / "a.db") as database:
        assert await database.read(numbers) == []
        assert database.aside is not None


async def test_a_large_file_is_only_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sluice.database, "CHECKED_IN_FULL", 100_000)
    path = tmp_path / "a.db"
    await filled(path)
    middle = path.stat().st_size // PAGE // 2 * PAGE
    scribble(path, middle, middle + PAGE)
    async with opened(path) as database:
        assert database.aside is None
    scribble(path, PAGE, path.stat().st_size)
    async with opened(path) as database:
        assert database.aside is not None


async def test_of_the_files_set_aside_two_are_kept(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / "a.db").write_bytes(b"%d" % number * 10_000)
        async with opened(tmp_path / "a.db"):
            pass
    kept = sorted(path for path in tmp_path.iterdir() if ".corrupt-" in path.name)
    assert [path.read_bytes()[:1] for path in kept] == [b"2", b"3"]


@pytest.mark.parametrize("noticed_by", ["writer", "reader"])
async def test_a_file_that_becomes_malformed_is_begun_anew(tmp_path: Path, noticed_by: str) -> None:
    path = tmp_path / "a.db"
    await filled(path, 1_500)  # more than connections have in memory
    async with opened(path) as database:
        told: list[str] = []
        database.on_renewed = lambda: told.append("renewed")
        scribble(path, PAGE, path.stat().st_size)
        if noticed_by == "writer":
            futures = [database.submit(job) for job in (clear, note(1_001), note(1_002))]
            futures[0].add_done_callback(lambda _: told.append("stored"))
            await asyncio.gather(*futures)
            assert told == ["renewed", "stored"]
        else:
            with pytest.raises(DatabaseError, match="cannot be read: database disk image is malformed"):
                await database.read(numbers)
            await until(lambda: told)
            await asyncio.gather(*(database.submit(note(number)) for number in (1_001, 1_002)))
            assert told == ["renewed"]
        assert await database.read(numbers) == [1_001, 1_002]
        assert database.aside is not None
        assert database.trouble == ""


# --- a disk that does not take it -----------------------------------------------------------------------------------


async def test_a_full_file_makes_works_wait_until_its_limit_is_raised(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", max_bytes=20 * PAGE) as database:
        await database.write(note(1))
        futures = [database.submit(note(number, bytes(8 * PAGE))) for number in (2, 3, 4)]
        await until(lambda: database.trouble)
        assert database.trouble.startswith(f"{database.path} cannot be written: database or disk is full (")
        assert f"raise its limit of {20 * PAGE} bytes" in database.remedy
        # what fits is stored all the same, in order
        await until(futures[1].done)
        await asyncio.wait(futures[2:], timeout=0.5)
        assert [future.done() for future in futures] == [True, True, False]
        assert await database.read(numbers) == [1, 2, 3]
        database.resize(100 * PAGE)
        await asyncio.gather(*futures)
        assert (database.trouble, database.remedy) == ("", "")
        assert on_disk(database.path) == [1, 2, 3, 4]


async def test_room_that_is_made_lets_works_pass_that_waited(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", max_bytes=20 * PAGE) as database:
        await database.write(note(1, bytes(12 * PAGE)))
        waiting = database.submit(note(2, bytes(12 * PAGE)))
        await until(lambda: database.trouble)
        assert not waiting.done()
        await database.submit(lambda connection: connection.execute("DELETE FROM notes WHERE id = 1"), ahead=True)
        await waiting
        assert on_disk(database.path) == [2]
        assert database.trouble == ""


class Child:
    """A process that notes numbers, one after the other, and prints each when it is told that it is stored."""

    CODE = """
import asyncio, sys
from pathlib import Path
from sluice.database import Database

async def main():
    database = await Database.open(
        Path(sys.argv[1]), version=1, commit_interval=0.002,
        schema=["CREATE TABLE notes (id INTEGER PRIMARY KEY, text BLOB NOT NULL)"],
    )
    first = 1 + (await database.read(lambda c: c.execute("SELECT coalesce(max(id), 0) FROM notes").fetchone()))[0]
    def note(n):
        return lambda c: c.execute("INSERT INTO notes VALUES (?, ?)", (n, bytes(2000)))
    def stored(n, future):
        print(n, future.exception() or "stored", flush=True)
    trouble = ""
    for n in range(first, first + int(sys.argv[2])):
        future = database.submit(note(n))
        future.add_done_callback(lambda f, n=n: stored(n, f))
        while n % 7 == 0 and not future.done():
            if trouble != database.trouble:
                trouble = database.trouble
                print("trouble", trouble or "over", flush=True)
            await asyncio.sleep(0.001)
    await database.close()

asyncio.run(main())
"""

    def __init__(self, path: Path, count: int, *wrapper: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-c", self.CODE, str(path), str(count)],
            env={**os.environ, "PYTHONPATH": str(SHARED)},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            self.lines += (line.strip() for line in iter(output.readline, "") if line.endswith("\n"))

    def stored(self) -> list[int]:
        return [int(line.split()[0]) for line in self.lines if line.endswith(" stored")]

    def limit_file_size(self, size: int) -> None:
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def wait(self) -> int:
        status = self.process.wait(30)
        self._reading.join()
        return status


async def test_a_file_size_limit_is_waited_for_until_it_is_lifted(tmp_path: Path) -> None:
    child = Child(tmp_path / "a.db", 1_000)
    try:
        await until(lambda: len(child.stored()) >= 50)
        child.limit_file_size(100_000)
        await until(lambda: any("trouble" in line for line in child.lines))
        stuck = len(child.stored())
        await asyncio.sleep(0.5)
        assert len(child.stored()) == stuck < 1_000
        child.limit_file_size(resource.RLIM_INFINITY)
        assert child.wait() == 0
        (trouble,) = (line for line in child.lines if line.startswith("trouble") and "over" not in line)
        assert "a.db cannot be written: disk I/O error (" in trouble
        assert child.stored() == on_disk(tmp_path / "a.db") == list(range(1, 1_001))
    finally:
        child.process.kill()
        child.wait()


async def test_a_file_that_may_not_be_written_is_waited_for(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as database:
        await database.write(note(1))
        # Rights do not bind root: that the WAL is a folder does. Where it cannot be made, nothing can be committed.
        await database.close()
    (tmp_path / "a.db-wal").mkdir()
    with pytest.raises(DatabaseError, match=r"cannot be written: unable to open database file") as caught:
        await Database.open(tmp_path / "a.db", schema=SCHEMA, version=1)
    assert caught.value.passing
    (tmp_path / "a.db-wal").rmdir()
    async with opened(tmp_path / "a.db") as database:
        assert await database.read(numbers) == [1]


async def test_after_kill_9_all_that_was_told_as_stored_is_there_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    chance = random.Random()
    told = 0
    for _ in range(30):
        child = Child(path, 100_000)
        try:
            await until(child.stored, 30)
            await asyncio.sleep(chance.uniform(0, 0.06))
        finally:
            child.process.send_signal(signal.SIGKILL)
            child.wait()
        told = max(told, *child.stored())
        stored = on_disk(path)
        assert len(stored) >= told
        assert stored == list(range(1, len(stored) + 1))
        told = len(stored)
