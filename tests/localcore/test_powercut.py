"""A power cut takes what was not flushed and nothing else, from every process at the same moment.

Where the kernel or the file system does not tell what was flushed, components' files are left alone, and that is said.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_manager import MessageStreamDefinition, Persistence, StrategyOnFull, StreamManagerClient

from localcore import Core, CoreError, DeploymentError, powercut
from localcore.process import Component

from .conftest import BOTH, IDLE, MakeSite, Site, gone, until

PAGE = powercut.PAGE

APPENDS = """
import os, time
def put(file, data):
    os.write(file, data)
    return len(data)
flushed, tail, never = (os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND) for name in ("flushed", "tail", "never"))
for file in flushed, tail:
    os.write(file, b"f" * 10_000)
    os.fsync(file)
total = 0
while True:
    total += put(tail, b"t" * 5_000)
    put(never, b"n" * 5_000)
    print("written", total, flush=True)
    time.sleep(0.001)
"""

COMMITS = """
import itertools, sqlite3
db = sqlite3.connect("db", isolation_level=None)
db.execute("pragma journal_mode = wal")
db.execute("pragma synchronous = {mode}")
db.execute("create table if not exists t (n integer primary key, filler blob)")
for n in itertools.count(db.execute("select count(*) from t").fetchone()[0] + 1):
    db.execute("insert into t values (?, zeroblob(700))", (n,))
    print("committed", n, flush=True)
"""


async def running(site: Site, program: str) -> Component:
    """A component that runs a Python program."""
    script = site.recipes / "program"
    script.write_text(program)
    site.recipe("a", {"install": "echo x >> installs; sync installs", "run": f"exec {sys.executable} {script}"})
    await site.deploy(a=None)
    return await site.state("a", "RUNNING")


def told(component: Component) -> int:
    """The number in the last line that the component wrote; 0 before the first."""
    lines = component.log_tail().split("\n")[:-1]
    return int(lines[-1].split()[1]) if lines else 0


def rows(database: Path) -> list[int]:
    """The rows of an intact database; opening it is what its owner does after a power cut."""
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        return [n for (n,) in db.execute("select n from t order by n")]


# --- the device


async def test_what_was_flushed_stays_and_what_was_not_is_gone(make_site: MakeSite) -> None:
    site = await make_site("classic")
    component = await running(site, APPENDS)
    await until(lambda: told(component) > 100_000, component.log_tail)
    lost = await site.core.power_cut()
    written, is_cut = told(component), lost["component_files"] == "cut"
    work = site.core.folders.work("a")
    assert (work / "flushed").read_bytes() == b"f" * 10_000
    assert (work / "tail").read_bytes()[: 2 * PAGE] == b"f" * 2 * PAGE
    assert ((work / "tail").stat().st_size < 10_000 + written) is is_cut
    assert ((work / "never").stat().st_size < written) is is_cut
    assert lost["components"]["a"]["files"] == (2 if is_cut else 0)
    assert (lost["components"]["a"]["bytes"] > 0) is is_cut


@pytest.mark.parametrize("rounds", [3])
async def test_a_database_that_synchronises_loses_no_commit_that_was_reported(make_site: MakeSite, rounds: int) -> None:
    site = await make_site("classic")
    component = await running(site, COMMITS.format(mode="full"))
    for _ in range(rounds):
        before = told(component)
        await until(lambda: told(component) > before + 12, component.log_tail)  # noqa: B023
        await site.core.power_cut()
        reported = told(component)
        found = rows(site.core.folders.work("a") / "db")
        assert found == list(range(1, len(found) + 1))
        assert reported <= len(found) <= reported + 1
        await site.core.boot()
        await site.state("a", "RUNNING")


async def test_a_database_that_does_not_synchronise_loses_commits_that_were_reported(make_site: MakeSite) -> None:
    site = await make_site("classic")
    component = await running(site, COMMITS.format(mode="off") + "    assert n < 1000 or __import__('time').sleep(60)")
    await until(lambda: told(component) > 200, component.log_tail)
    lost = await site.core.power_cut()
    reported = told(component)
    database = site.core.folders.work("a") / "db"
    with closing(sqlite3.connect(database)) as db:
        try:
            (found,) = db.execute("select count(*) from t").fetchone()
        except sqlite3.DatabaseError:  # its schema, or a page, was among what is gone
            found = 0
    assert (found < reported) is (lost["component_files"] == "cut")


@BOTH
async def test_after_a_power_cut_everything_is_dead_until_the_device_boots(make_site: MakeSite, profile: str) -> None:
    site = await make_site(profile)
    site.recipe("a", {"install": "echo x >> installs; sync installs", "run": f"sleep 1000 & echo $! > child; {IDLE}"})
    site.recipe("b", {"run": "exit 1"})
    await site.deploy(a=None, b=None)
    component, token = await site.state("a", "RUNNING"), site.core.ipc.token("a")
    await site.state("b", "BROKEN")
    await until(lambda: site.file("a", "child"), component.log_tail)
    pid, child = component.pid, int(site.file("a", "child"))
    assert pid is not None

    await site.core.power_cut()
    assert gone(pid)
    assert gone(child)
    assert component.state == "INSTALLED"
    assert not Path(site.core.ipc.address).exists()
    with pytest.raises(DeploymentError, match=r"no power: boot\(\) it first"):
        await site.core.redeploy()

    await site.core.boot()
    assert (await site.state("a", "RUNNING")).pid != pid
    assert site.file("a", "installs") == ("x\nx\n" if profile == "classic" else "x\n")  # classic installs at each boot
    assert site.core.ipc.token("a") != token
    await until(lambda: site.core.component("b").restarts == 4, lambda: site.core.component("b").restarts)
    await site.state("b", "BROKEN")
    with pytest.raises(CoreError, match=r"power_cut\(\) comes before boot\(\)"):
        await site.core.boot()


async def test_a_power_cut_during_the_installation_lets_it_begin_again(make_site: MakeSite) -> None:
    site = await make_site("classic")
    install = "echo x >> installs; sync installs; touch synced; test $(wc -l < installs) -gt 1 || sleep 1000"
    site.recipe("a", {"install": install, "run": IDLE})
    await site.begin(a=None)
    synced = site.core.folders.work("a") / "synced"
    await until(synced.exists, lambda: site.core.component("a").state)
    await site.core.power_cut()
    await site.core.boot()
    await site.state("a", "RUNNING")
    assert site.file("a", "installs").count("x") == 2


async def test_a_device_without_power_can_be_stopped(make_site: MakeSite) -> None:
    site = await make_site("classic")
    site.recipe("a", {"run": IDLE})
    await site.deploy(a=None)
    component = await site.state("a", "RUNNING")
    component.stall()
    await site.core.power_cut()
    await site.core.stop()
    assert component.pid is None


async def test_where_nobody_tells_what_was_flushed_files_are_left_alone_and_that_is_said(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(powercut, "_CACHESTAT", 4095)
    site = await make_site("classic")
    site.recipe("a", {"run": f"echo written > file; {IDLE}"})
    await site.deploy(a=None)
    component = await site.state("a", "RUNNING")
    await until(lambda: site.file("a", "file"), component.log_tail)
    lost = await site.core.power_cut()
    assert lost["component_files"].startswith("not cut: ")
    assert lost["component_files"].endswith("it takes Linux 6.5 or later")
    assert lost["components"] == {"a": {"files": 0, "bytes": 0}}
    assert site.file("a", "file") == "written\n"


async def test_the_stream_manager_loses_what_it_had_not_flushed_and_the_cloud_lives_on(tmp_path: Path) -> None:
    def create_and_append() -> None:
        client = StreamManagerClient(port=core.stream_manager.port)
        for name, flush in (("flushed", True), ("unflushed", False)):
            definition = MessageStreamDefinition(
                name=name,
                strategy_on_full=StrategyOnFull.OverwriteOldestData,
                persistence=Persistence.File,
                stream_segment_size=1024,
                flush_on_write=flush,
            )
            client.create_message_stream(definition)
            for _ in range(10):  # four of them fill a segment, which is flushed then
                client.append_message(name, bytes(200))

    def newest() -> dict[str, Any]:
        client = StreamManagerClient(port=core.stream_manager.port)
        found = {
            name: client.describe_message_stream(name).storage_status.newest_sequence_number
            for name in client.list_streams()
        }
        client.close()
        return found

    core = Core(tmp_path / "core")
    await core.start()
    try:
        port, cloud = core.stream_manager.port, core.aws.pid
        await asyncio.to_thread(create_and_append)
        lost = await core.power_cut()
        assert lost["stream_manager"] == {"files": 1, "bytes": 2 * 216}
        assert not core.stream_manager.running
        await core.boot()
        assert core.stream_manager.port == port
        assert await asyncio.to_thread(newest) == {"flushed": 9, "unflushed": 7}
        assert core.aws.running
        assert core.aws.pid == cloud
    finally:
        await core.stop()


# --- SQLite's files


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[int]]]:
    """A database that is open, and the size of its write-ahead log after each of its commits."""
    path = tmp_path_factory.mktemp("wal") / "db"
    ends: list[int] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma wal_autocheckpoint = 0")
        db.execute("create table t (n integer primary key, filler blob)")
        for n in range(1, 30):
            db.execute("insert into t values (?, zeroblob(?))", (n, n * 997 % 9_000))
            ends.append(path.with_name("db-wal").stat().st_size)
        yield path, ends


@settings(max_examples=30)
@given(st.data())
def test_of_a_log_every_commit_stays_that_was_flushed(log: tuple[Path, list[int]], data: st.DataObject) -> None:
    path, ends = log
    flushed = data.draw(st.integers(0, len(ends) - 1), "commits flushed")
    content = path.with_name("db-wal").read_bytes()
    dirty = list(range(ends[flushed] // PAGE, -(-len(content) // PAGE)))
    assert powercut.wal_flushed(content, dirty) == ends[flushed]


def test_a_log_is_cut_at_the_first_commit_of_which_nothing_was_flushed(log: tuple[Path, list[int]]) -> None:
    path, ends = log
    content = path.with_name("db-wal").read_bytes()
    everything = range(-(-len(content) // PAGE))
    assert powercut.wal_flushed(content, [ends[3] // PAGE]) == len(content), "a commit is longer than one page"
    assert powercut.wal_flushed(content, everything) == 32
    assert powercut.wal_flushed(b"no log", [0]) == 0


def test_a_database_whose_pages_were_not_flushed_is_whole_as_long_as_its_log_is(
    log: tuple[Path, list[int]], tmp_path: Path
) -> None:
    """So it is in the middle of a checkpoint."""
    (tmp_path / "owner").mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(log[0].with_name("db" + suffix), tmp_path / "owner")
    with closing(sqlite3.connect(tmp_path / "owner" / "db")) as owner:
        owner.execute("pragma wal_checkpoint(passive)")
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(tmp_path / "owner" / f"db{suffix}", tmp_path)
    database = tmp_path / "db"
    pages = list(range(database.stat().st_size // PAGE))
    lost = powercut.discard({database: pages, tmp_path / "db-shm": [0]})
    assert lost.to_dict() == {"files": 1, "bytes": len(pages) * PAGE}
    assert database.read_bytes() == b"\xa5" * len(pages) * PAGE
    assert not (tmp_path / "db-shm").exists()
    assert rows(database) == list(range(1, 30))


def test_a_database_without_a_log_loses_its_unflushed_end_as_any_file_does(tmp_path: Path) -> None:
    database = tmp_path / "db"
    database.write_bytes(b"SQLite format 3\0".ljust(5 * PAGE, b"x"))
    assert powercut.discard({database: [1, 4]}).to_dict() == {"files": 1, "bytes": 4 * PAGE}
    assert database.stat().st_size == PAGE
