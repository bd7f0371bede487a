"""The outbox: what was put is kept until it is settled, within its limits, whatever befalls disk, file or process."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import sluice.outbox
import sluice.outbox_tables
from sluice.database import PAGE, DatabaseError
from sluice.delivery import Frame
from sluice.outbox import OVERHEAD, Outbox, Put, Quota, Registered
from sluice.tasks import within

SHARED = Path(__file__).resolve().parents[2] / "shared"
PLENTY = Quota(10**9, None, 0)
LIVE = "opcua-collector/line1"
OTHER = "opcua-collector/line2"


@pytest.fixture(autouse=True)
def settle_soon(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is settled lazily is settled soon, so that tests need not wait for it; one test is about how lazily."""
    if "within_two_seconds" not in request.node.name:
        monkeypatch.setattr(sluice.outbox, "SETTLED_WITHIN", 0.03)


@asynccontextmanager
async def opened(path: Path, quota: Quota = PLENTY, **options: Any) -> AsyncIterator[Outbox]:
    outbox = await Outbox.open(path, quota, commit_interval=0.002, **options)
    try:
        yield outbox
    finally:
        await outbox.close()


@dataclass
class Source:
    """Puts frames of 10 samples and `size` bytes each into a stream, and keeps its ledger as a producer does."""

    outbox: Outbox
    stream: str = LIVE
    size: int = 1_000
    ledger: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("received", "stored", "dropped"), 0))
    evicted: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.next = self.outbox.state(self.stream).next
        before = self.outbox.on_evicted

        def on_evicted(stream: str, first: int, last: int, samples: int) -> None:
            before(stream, first, last, samples)
            if stream == self.stream:
                assert samples == 10 * (last - first + 1)
                self.evicted.append((first, last))
                self.ledger["stored"] -= samples
                self.ledger["dropped"] += samples

        self.outbox.on_evicted = on_evicted

    def put(self, count: int = 1, positions: Mapping[str, bytes | None] | None = None) -> asyncio.Future[None]:
        frames = [Frame(self.next + n, 10, payload(self.next + n, self.size)) for n in range(count)]
        self.next += count
        self.ledger["received"] += 10 * count
        self.ledger["stored"] += 10 * count
        return self.outbox.put([Put(self.stream, frames, dict(self.ledger))], positions)

    def settle(self, delete_to: int, consumer: str = "stream-exporter") -> None:
        self.outbox.settle(self.stream, {consumer: Registered(delete_to, 5.0)}, delete_to, dict(self.ledger))

    def lost(self) -> int:
        return sum(last - first + 1 for first, last in self.evicted)


def payload(number: int, size: int = 1_000) -> bytes:
    return (b"%d " % number * size)[:size]


async def kept(outbox: Outbox, stream: str = LIVE) -> list[int]:
    """Numbers of what is kept; each frame is looked at."""
    numbers: list[int] = []
    first = 0
    while frames := await outbox.read(stream, first, 20_000):
        assert all(frame.payload == payload(frame.seq, len(frame.payload)) for frame in frames)
        numbers += [frame.seq for frame in frames]
        first = numbers[-1] + 1
    return numbers


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.005)


def copied(path: Path, folder: Path) -> Path:
    """The files as they are on the disk now: what a process would find that comes after kill -9."""
    folder.mkdir()
    for name in (path.name, f"{path.name}-wal"):
        if path.with_name(name).exists():
            shutil.copy(path.with_name(name), folder / name)
    return folder / path.name


# --- putting and reading --------------------------------------------------------------------------------------------


async def test_what_was_put_is_read_again_unchanged(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        source, other = Source(outbox), Source(outbox, OTHER, size=60_000)
        await asyncio.gather(source.put(3), other.put(2), source.put(4))
        assert await kept(outbox) == [1, 2, 3, 4, 5, 6, 7]
        assert await kept(outbox, OTHER) == [1, 2]
        assert outbox.streams() == [LIVE, OTHER]


async def test_reading_gives_as_much_as_fits_but_at_least_one(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        await Source(outbox).put(20)
        assert [frame.seq for frame in await outbox.read(LIVE, 5, 3_500)] == [5, 6, 7]
        assert [frame.seq for frame in await outbox.read(LIVE, 5, 1)] == [5]
        assert await outbox.read(LIVE, 21, 10**6) == []
        assert await outbox.read("nobody/knows-it", 1, 10**6) == []


async def test_the_state_of_a_stream_is_what_is_on_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        before = outbox.state(LIVE)
        assert (before.next, before.oldest, before.bytes, before.samples) == (1, 1, 0, 0)
        assert len(bytes.fromhex(before.epoch)) == 6
        source = Source(outbox)
        stored = source.put(5)
        assert outbox.state(LIVE) == before
        await stored
        state = outbox.state(LIVE)
        assert (state.next, state.oldest, state.samples) == (6, 1, 50)
        assert state.bytes == 5 * (1_000 + OVERHEAD)
        assert (state.epoch, state.ledger) == (before.epoch, {"received": 50, "stored": 50})


async def test_everything_is_found_again(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        source = Source(outbox)
        await source.put(5, {"session": b"one", "marks": b"two"})
        await source.put(0, {"session": None, "sequence": b"7"})
        source.settle(2)
        await Source(outbox, OTHER).put(1)
        await until(lambda: outbox.state(LIVE).oldest == 3)
        states = {stream: outbox.state(stream) for stream in outbox.streams()}
    async with opened(tmp_path / "outbox.db") as outbox:
        assert {stream: outbox.state(stream) for stream in outbox.streams()} == states
        assert states[LIVE].consumers == {"stream-exporter": Registered(2, 5.0)}
        assert [outbox.position(key) for key in ("session", "marks", "sequence")] == [None, b"two", b"7"]
        assert await kept(outbox) == [3, 4, 5]


async def test_numbers_go_on_even_when_nothing_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        source = Source(outbox)
        await source.put(7)
        source.settle(7)
        epoch = outbox.state(LIVE).epoch
    async with opened(tmp_path / "outbox.db") as outbox:
        state = outbox.state(LIVE)
        assert (state.epoch, state.next, state.oldest, state.bytes, state.samples) == (epoch, 8, 8, 0, 0)
        await Source(outbox).put(1)
        assert await kept(outbox) == [8]


async def test_positions_are_on_the_disk_with_their_frames(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        source = Source(outbox)
        await source.put(1, {"sequence": b"1"})
        stored = source.put(1, {"sequence": b"2"})
        assert outbox.position("sequence") == b"2"
        async with opened(copied(tmp_path / "outbox.db", tmp_path / "before")) as other:
            assert (other.state(LIVE).next, other.position("sequence")) in [(2, b"1"), (3, b"2")]
        await stored
        async with opened(copied(tmp_path / "outbox.db", tmp_path / "after")) as other:
            assert (other.state(LIVE).next, other.position("sequence")) == (3, b"2")


async def test_positions_of_a_put_that_is_refused_are_those_that_were_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sluice.outbox_tables.store

    def choosy(connection: Any, change: Any, room: Any) -> Any:
        if b"refused" in change.positions.values():
            raise ValueError("not this one")
        return store(connection, change, room)

    monkeypatch.setattr(sluice.outbox_tables, "store", choosy)
    async with opened(tmp_path / "outbox.db") as outbox:
        source = Source(outbox)
        await source.put(1, {"sequence": b"1", "marks": b"m"})
        refused = outbox.put([], {"sequence": b"refused", "marks": b"refused", "session": b"refused"})
        later = outbox.put([], {"marks": b"later"})
        with pytest.raises(ValueError, match="not this one"):
            await refused
        await later
        assert [outbox.position(key) for key in ("sequence", "marks", "session")] == [b"1", b"later", None]


async def test_holes_in_the_numbers_are_refused_and_nothing_of_the_put_is_stored(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        await Source(outbox).put(3)
        good, bad = Put(OTHER, [Frame(1, 1, b"x")], {}), Put(LIVE, [Frame(5, 1, b"x")], {})
        with pytest.raises(ValueError, match="frame 5 of opcua-collector/line1 does not follow 3: number it 4"):
            outbox.put([good, bad], {"sequence": b"9"})
        assert outbox.position("sequence") is None
        await outbox.put([good])
        assert (outbox.state(LIVE).next, outbox.state(OTHER).next) == (4, 2)


async def test_ledgers_are_what_the_caller_says(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        source = Source(outbox)
        await asyncio.gather(*(source.put(2) for _ in range(10)))
        puts = [source.put(1)]
        source.ledger |= {"received": 217, "filtered": 7, "acknowledged": 60}
        source.settle(6)
        puts.append(source.put(1))
        await asyncio.gather(*puts)
        await until(lambda: outbox.state(LIVE).oldest == 7)
        wanted = {"received": 227, "filtered": 7, "stored": 220, "acknowledged": 60}
        assert outbox.state(LIVE).ledger == wanted
        assert wanted["stored"] - wanted["acknowledged"] == outbox.state(LIVE).samples
    async with opened(tmp_path / "outbox.db") as outbox:
        assert outbox.state(LIVE).ledger == wanted


# --- settling -------------------------------------------------------------------------------------------------------


async def test_what_is_settled_is_deleted_within_two_seconds_and_with_the_next_put(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        source = Source(outbox)
        await source.put(10)
        source.settle(4)
        start = time.monotonic()
        await until(lambda: outbox.state(LIVE).oldest == 5)
        assert time.monotonic() - start < 2
        source.settle(8)
        await source.put(1)
        assert outbox.state(LIVE).oldest == 9
        assert await kept(outbox) == [9, 10, 11]


async def test_who_consumes_an_empty_stream_is_stored_with_its_first_put(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        source = Source(outbox)
        source.settle(0)
        assert outbox.state(LIVE).consumers == {"stream-exporter": Registered(0, 5.0)}
        await source.put(1)
    async with opened(tmp_path / "outbox.db") as outbox:
        assert outbox.state(LIVE).consumers == {"stream-exporter": Registered(0, 5.0)}


async def test_what_is_not_stored_yet_cannot_be_settled(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        source = Source(outbox)
        await source.put(2)
        stored = source.put(3)
        source.settle(1_000)
        await stored
        await source.put(1)
        assert await kept(outbox) == [3, 4, 5, 6]


async def test_much_is_deleted_in_portions_and_the_room_goes_back_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sluice.outbox_tables, "PORTION", 100)
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        source, other = Source(outbox, size=60_000), Source(outbox, OTHER)
        await asyncio.gather(source.put(450), other.put(2))
        commits = outbox.status()["commits"]
        source.settle(449)
        other.settle(1)
        await until(lambda: (outbox.state(LIVE).oldest, outbox.state(OTHER).oldest) == (450, 2))
        assert outbox.status()["commits"] - commits >= 5
        assert (await kept(outbox), await kept(outbox, OTHER)) == ([450], [2])

        def pages() -> int:
            with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as connection:
                return int(connection.execute("PRAGMA page_count").fetchone()[0])

        await until(lambda: pages() < 20 * 2**20 // PAGE)


async def test_a_stream_is_forgotten_once_it_is_empty_and_comes_back_with_a_new_epoch(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        source = Source(outbox)
        await source.put(3)
        epoch = outbox.state(LIVE).epoch
        outbox.drop(LIVE)
        assert outbox.streams() == [LIVE]
        source.settle(3)
        await until(lambda: outbox.streams() == [])
        state = outbox.state(LIVE)
        assert (state.next, state.ledger, state.epoch != epoch) == (1, {}, True)
        await Source(outbox).put(2)
        assert await kept(outbox) == [1, 2]
    async with opened(tmp_path / "outbox.db") as outbox:
        assert outbox.state(LIVE).epoch == state.epoch
        assert await kept(outbox) == [1, 2]


async def test_a_put_takes_back_that_its_stream_is_to_be_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        source = Source(outbox)
        await source.put(1)
        outbox.drop(LIVE)
        await source.put(1)
        source.settle(2)
        await until(lambda: outbox.state(LIVE).oldest == 3)
        assert outbox.streams() == [LIVE]


# --- limits ---------------------------------------------------------------------------------------------------------

ROOM = 100 * (1_000 + OVERHEAD)
"""For a hundred frames of a thousand bytes."""


async def test_beyond_the_quota_the_oldest_of_all_is_dropped_and_told(tmp_path: Path) -> None:
    now = [1_000.0]
    async with opened(tmp_path / "outbox.db", Quota(ROOM, None, 0), clock=lambda: now[0]) as outbox:
        early, late = Source(outbox), Source(outbox, OTHER)
        for source in (early, late, early):
            now[0] += 1
            await source.put(30)
        assert early.evicted == late.evicted == []
        now[0] += 1
        await late.put(20)
        assert (early.evicted, late.evicted) == ([(1, 11)], [])
        await late.put(30)
        assert early.evicted[-1][1] == 30
        assert late.evicted[0][0] == 1
        assert sum(outbox.state(stream).bytes for stream in (LIVE, OTHER)) <= ROOM
        for source in (early, late):
            state = outbox.state(source.stream)
            assert state.ledger == source.ledger
            assert state.ledger["dropped"] == 10 * source.lost()
            assert state.ledger["stored"] == state.samples == 10 * len(await kept(outbox, source.stream))
            assert state.oldest == source.evicted[-1][1] + 1


async def test_the_quota_is_kept_at_every_moment(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path, Quota(ROOM, None, 0)) as outbox:
        sources = [Source(outbox, f"collector/s{n}") for n in range(5)]
        end = asyncio.gather(*(source.put(random.randrange(1, 9)) for _ in range(40) for source in sources))
        while not end.done():
            with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as connection:
                size = connection.execute("SELECT coalesce(sum(size), 0) FROM batches").fetchone()[0]
            assert size <= ROOM
            await asyncio.sleep(0.001)
        await end
        for source in sources:
            assert outbox.state(source.stream).ledger == source.ledger


async def test_what_is_settled_already_does_not_count_as_dropped(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db", Quota(ROOM, None, 0)) as outbox:
        source = Source(outbox)
        await source.put(100)
        source.settle(60)
        await source.put(90)
        assert source.lost() <= 31
        assert source.evicted[0][0] == 61
        assert outbox.state(LIVE).ledger["dropped"] == 10 * source.lost()


async def test_a_put_that_is_larger_than_the_quota_keeps_its_newest_frames(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db", Quota(ROOM, None, 0)) as outbox:
        source = Source(outbox)
        await source.put(150)
        assert source.evicted == [(1, 51)]
        assert await kept(outbox) == list(range(52, 151))


async def test_a_held_stream_is_never_dropped_from(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db", Quota(ROOM, None, 0)) as outbox:
        held, other = Source(outbox), Source(outbox, OTHER)
        outbox.hold(LIVE, True)
        await held.put(80)
        for _ in range(10):
            await other.put(15)
        assert held.evicted == []
        assert (await kept(outbox))[0] == 1
        await held.put(15)
        assert len(await kept(outbox)) == 95
        assert len(await kept(outbox, OTHER)) <= 5


async def test_full_is_said_at_95_percent_of_what_held_streams_keep_and_unsaid_below_85(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db", Quota(ROOM, None, 0)) as outbox:
        held, other = Source(outbox), Source(outbox, OTHER)
        outbox.hold(LIVE, True)

        def is_full() -> bool:
            return outbox.full

        await other.put(100)
        assert not is_full()
        await held.put(94)
        assert not is_full()
        await held.put(1)
        assert is_full()
        held.settle(10)
        await until(lambda: outbox.state(LIVE).oldest == 11)
        assert is_full()
        held.settle(11)
        await until(lambda: outbox.state(LIVE).oldest == 12)
        assert not is_full()


async def test_a_put_of_a_held_stream_waits_for_room_and_others_pass(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db", Quota(ROOM, None, 0)) as outbox:
        held, other = Source(outbox), Source(outbox, OTHER)
        outbox.hold(LIVE, True)
        await held.put(90)
        waiting = [held.put(20, {"sequence": b"20"}), held.put(1), outbox.put([], {"sequence": b"21"})]
        await other.put(5)
        await asyncio.sleep(0.05)
        assert not any(future.done() for future in waiting)
        assert outbox.full
        assert outbox.trouble == f"{tmp_path}/outbox.db is full of what cannot be dropped: {90 * 1_064} bytes"
        assert outbox.remedy == "bring the consumers back that have not acknowledged it, or raise maxSize"
        held.settle(30)
        await asyncio.gather(*waiting)
        assert await kept(outbox) == list(range(31, 112))
        assert (outbox.full, outbox.trouble) == (False, "")
        assert outbox.position("sequence") == b"21"
    async with opened(tmp_path / "outbox.db") as outbox:
        assert outbox.position("sequence") == b"21"


async def test_a_put_that_waits_passes_when_its_stream_is_not_held_any_more(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db", Quota(ROOM, None, 0)) as outbox:
        source = Source(outbox)
        outbox.hold(LIVE, True)
        await source.put(95)
        waiting = [source.put(10), source.put(10)]
        outbox.hold(LIVE, False)
        await asyncio.gather(*waiting)
        assert source.evicted[0][0] == 1
        assert (await kept(outbox))[-1] == 115


async def test_a_put_that_waits_passes_when_the_quota_is_raised(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db", Quota(ROOM, None, 0)) as outbox:
        source = Source(outbox)
        outbox.hold(LIVE, True)
        await source.put(95)
        waiting = source.put(10)
        outbox.apply(Quota(2 * ROOM, None, 0), 0.002)
        await waiting
        assert await kept(outbox) == list(range(1, 106))


async def test_a_lower_quota_is_reached_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        source = Source(outbox)
        await source.put(500)
        outbox.apply(Quota(ROOM, None, 0), 0.002)
        await until(lambda: outbox.state(LIVE).bytes <= ROOM)
        assert source.evicted[0][0] == 1
        assert outbox.state(LIVE).ledger == source.ledger


async def test_what_is_too_old_is_dropped_unless_it_is_held(tmp_path: Path) -> None:
    now = [1_000_000.0]
    async with opened(tmp_path / "outbox.db", Quota(10**9, 60.0, 0), clock=lambda: now[0]) as outbox:
        source, held = Source(outbox), Source(outbox, OTHER)
        outbox.hold(OTHER, True)
        await asyncio.gather(source.put(3), held.put(3))
        now[0] += 50
        await source.put(2)
        now[0] += 20
        await until(lambda: source.evicted)
        assert source.evicted == [(1, 3)]
        assert (await kept(outbox), await kept(outbox, OTHER)) == ([4, 5], [1, 2, 3])


async def test_a_clock_that_goes_back_changes_no_order(tmp_path: Path) -> None:
    now = [1_000_000.0]
    async with opened(tmp_path / "outbox.db", Quota(ROOM, None, 0), clock=lambda: now[0]) as outbox:
        first, second = Source(outbox), Source(outbox, OTHER)
        await first.put(60)
        now[0] = 5.0
        await second.put(60)
        assert first.evicted[0][0] == 1
        assert second.evicted == []


async def test_a_disk_that_is_nearly_full_stops_the_growth_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10**9]
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free[0] // 4096, f_frsize=4096))
    monkeypatch.setattr(sluice.outbox, "LEAST", 10_000)
    monkeypatch.setattr(sluice.outbox, "_LOOK", 0.02)
    async with opened(tmp_path / "outbox.db", Quota(10**9, None, 10**8)) as outbox:
        source, held = Source(outbox), Source(outbox, OTHER)
        outbox.hold(OTHER, True)
        await asyncio.gather(source.put(50), held.put(50))
        free[0] = 10**7
        await until(lambda: outbox.trouble)
        assert outbox.trouble.startswith(f"the disk of {tmp_path}/outbox.db is nearly full: no more than ")
        assert outbox.remedy == "free space on it, or lower minFreeDisk"
        assert source.evicted == []
        await source.put(10)
        assert 10 <= source.lost() <= 12
        await held.put(46)
        assert outbox.full
        free[0] = 10**9
        await until(lambda: not outbox.trouble)
        before = source.lost()
        await source.put(100)
        assert source.lost() == before
        await until(lambda: not outbox.full)


async def test_the_status_tells_how_full_it_is_and_how_long_it_lasts(tmp_path: Path) -> None:
    now = [1_000.0]
    async with opened(tmp_path / "outbox.db", Quota(10 * ROOM, None, 0), clock=lambda: now[0]) as outbox:
        assert (outbox.status()["oldest_age"], outbox.status()["hours_left"]) == (0.0, None)
        await Source(outbox).put(100)
        now[0] += 30
        await until(lambda: outbox.status()["hours_left"])
        status = outbox.status()
        assert (status["bytes"], status["limit"], status["oldest_age"]) == (ROOM, 10 * ROOM, 30.0)
        assert status["free_disk"] > 0
        assert 0 < status["hours_left"] < 1
        assert (status["full"], status["waiting"], status["trouble"], status["corrupt"]) == (False, 0, "", "")


# --- a disk, a file and a process that fail -------------------------------------------------------------------------


async def test_puts_wait_for_a_disk_that_is_full_and_settling_makes_room(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        source = Source(outbox, size=50_000)
        await source.put(20)
        outbox._database.resize(1_200_000)
        stored = source.put(10)
        await until(lambda: outbox.trouble)
        assert "outbox.db cannot be written: database or disk is full (" in outbox.trouble
        assert not stored.done()
        source.settle(15)
        await stored
        await until(lambda: not outbox.trouble)
        assert await kept(outbox) == list(range(16, 31))


async def test_a_malformed_outbox_is_set_aside_and_begun_with_new_epochs(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        await Source(outbox).put(100)
        epoch = outbox.state(LIVE).epoch
    path.write_bytes(path.read_bytes()[:9_000] + b"rubbish" * 20_000)
    async with opened(path) as outbox:
        assert outbox.aside is not None
        assert outbox.status()["corrupt"] == str(outbox.aside)
        assert outbox.streams() == []
        assert outbox.state(LIVE).epoch != epoch
        await Source(outbox).put(1)


async def test_an_outbox_that_becomes_malformed_says_what_is_lost_and_goes_on_in_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        source, other = Source(outbox, size=50_000), Source(outbox, OTHER)
        await asyncio.gather(source.put(100, {"sequence": b"1", "marks": b"m"}), other.put(1))
        source.settle(10)
        await source.put(1)
        outbox._database.submit(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
        epoch = outbox.state(LIVE).epoch
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(bytes(range(256)) * (path.stat().st_size // 256 - 16))
        with pytest.raises(DatabaseError, match="malformed"):
            await outbox.read(LIVE, 11, 10**9)
        stored = source.put(2, {"sequence": b"3"})
        await until(lambda: source.evicted)
        await stored
        assert (source.evicted, other.evicted) == ([(11, 101)], [(1, 1)])
        assert outbox.aside is not None
        assert await kept(outbox) == [102, 103]
    async with opened(path) as outbox:
        state = outbox.state(LIVE)
        assert (state.epoch, state.oldest, state.next) == (epoch, 102, 104)
        assert state.ledger == source.ledger
        assert state.consumers == {"stream-exporter": Registered(10, 5.0)}
        assert outbox.state(OTHER).next == 2
        assert (outbox.position("sequence"), outbox.position("marks")) == (b"3", b"m")


async def test_closing_stores_what_was_put_and_settled_and_fails_what_waits(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db", Quota(ROOM, None, 0)) as outbox:
        held, other = Source(outbox), Source(outbox, OTHER)
        outbox.hold(LIVE, True)
        stored = [held.put(90), other.put(3)]
        waiting = held.put(20)
        await stored[1]
        other.settle(1)
        stored.append(other.put(1))
    await asyncio.gather(*stored)
    with pytest.raises(DatabaseError, match="is closed"):
        await waiting
    async with opened(tmp_path / "outbox.db") as outbox:
        assert (outbox.state(LIVE).next, outbox.state(OTHER).oldest, outbox.state(OTHER).next) == (91, 2, 5)


CHILD = """
import asyncio, sys
from pathlib import Path
from sluice.delivery import Frame
from sluice.outbox import Outbox, Put, Quota, Registered

async def main():
    outbox = await Outbox.open(Path(sys.argv[1]), Quota(400_000, None, 0), commit_interval=0.002)
    streams = ["c/a", "c/b", "c/c"]
    nexts = {s: outbox.state(s).next for s in streams}
    ledgers = {s: {"received": 0, "stored": 0, "dropped": 0, **outbox.state(s).ledger} for s in streams}
    def evicted(s, first, last, samples):
        ledgers[s]["stored"] -= samples
        ledgers[s]["dropped"] += samples
    outbox.on_evicted = evicted
    def told(s, n, future):
        print(s, n, "stored" if future.exception() is None else "failed", flush=True)
    while True:
        for s in streams:
            frames = [Frame(nexts[s] + k, 1, b"x" * 700) for k in range(3)]
            nexts[s] += 3
            ledgers[s]["received"] += 3
            ledgers[s]["stored"] += 3
            last = nexts[s] - 1
            put = outbox.put([Put(s, frames, ledgers[s])], {s: str(last).encode()})
            put.add_done_callback(lambda f, s=s, last=last: told(s, last, f))
        if nexts["c/a"] % 5 == 0:
            outbox.settle("c/a", {"e": Registered(nexts["c/a"] - 40, 1.0)}, nexts["c/a"] - 40, ledgers["c/a"])
        await put

asyncio.run(main())
"""


def told_by(process: subprocess.Popen[str]) -> tuple[list[str], threading.Thread]:
    lines: list[str] = []
    output = process.stdout
    assert output is not None

    def read() -> None:
        with output:
            lines.extend(line for line in iter(output.readline, "") if line.endswith("stored\n"))

    reading = threading.Thread(target=read)
    reading.start()
    return lines, reading


async def test_after_kill_9_nothing_is_missing_that_was_told_as_stored_and_all_agrees(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    chance = random.Random()
    for _ in range(8):
        environment = {**os.environ, "PYTHONPATH": str(SHARED)}
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path)], env=environment, stdout=subprocess.PIPE, text=True
        )
        lines, reading = told_by(process)
        try:
            await until(lambda lines=lines: len(lines) > 3, 30)  # type: ignore[misc]
            await asyncio.sleep(chance.uniform(0, 0.3))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            reading.join()
        last = {line.split()[0]: int(line.split()[1]) for line in lines}
        async with opened(path, Quota(400_000, None, 0)) as outbox:
            for stream, number in last.items():
                state = outbox.state(stream)
                assert state.next > number
                assert outbox.position(stream) == b"%d" % (state.next - 1)
                frames = await outbox.read(stream, 0, 10**9)
                assert [frame.seq for frame in frames] == list(range(state.oldest, state.next))
                assert state.samples == len(frames)
                assert state.bytes == sum(len(frame.payload) + OVERHEAD for frame in frames)
                assert state.next - 1 == state.ledger["received"]
                assert state.next - 1 == state.ledger["stored"] + state.ledger.get("dropped", 0)


# --- any order of anything ------------------------------------------------------------------------------------------


@dataclass
class Model:
    """What a stream holds, in plain words. `sure`: settled for certain; frames up to `settled` may be gone."""

    frames: dict[int, int] = field(default_factory=dict)  # number -> bytes
    next: int = 1
    settled: int = 0
    received: int = 0
    dropped: int = 0


class OutboxMachine(RuleBasedStateMachine):
    """The real outbox beside a dictionary: puts, settling, holding, reopening and kill -9 in any order."""

    STREAMS = ("c/a", "c/b", "c/c/backfill")
    LIMIT = 20_000

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.copies = 0
        self.models = {stream: Model() for stream in self.STREAMS}
        self.positions: dict[str, bytes] = {}
        self.held: set[str] = set()

    def run(self, waited: Any) -> Any:
        return self.loop.run_until_complete(waited)

    async def _open(self, path: Path) -> Outbox:
        return await Outbox.open(path, Quota(self.LIMIT, None, 0), commit_interval=0.0)

    def _watch(self) -> None:
        def evicted(stream: str, first: int, last: int, samples: int) -> None:
            model = self.models[stream]
            assert stream not in self.held
            lost = {n for n in model.frames if first <= n <= last}
            assert lost == set(range(first, last + 1))
            assert samples == len(lost)
            model.dropped += samples
            # below it only what was settled may have been deleted with it
            assert all(n <= model.settled for n in model.frames if n < first)
            model.frames = {n: size for n, size in model.frames.items() if n > last}

        self.outbox.on_evicted = evicted
        for stream in self.held:
            self.outbox.hold(stream, True)

    @initialize()
    def begin(self) -> None:
        self.path = self.folder / "outbox.db"
        self.outbox: Outbox = self.run(self._open(self.path))
        self._watch()

    def _ledger(self, stream: str) -> dict[str, int]:
        model = self.models[stream]
        return {"received": model.received, "stored": model.received - model.dropped, "dropped": model.dropped}

    @rule(
        batches=st.lists(
            st.tuples(st.sampled_from(STREAMS), st.lists(st.integers(0, 3_000), min_size=1, max_size=4)),
            min_size=1,
            max_size=4,
        ),
        position=st.one_of(st.none(), st.tuples(st.sampled_from("xyz"), st.one_of(st.none(), st.binary(max_size=4)))),
    )
    def put(self, batches: list[tuple[str, list[int]]], position: tuple[str, bytes | None] | None) -> None:
        size = sum(size + OVERHEAD for stream, sizes in batches for size in sizes if stream in self.held)
        keeps = sum(kept + OVERHEAD for stream in self.held for kept in self.models[stream].frames.values())
        if size and keeps + size > self.LIMIT:
            return  # would wait until somebody settles
        puts = []
        for stream, sizes in batches:
            model = self.models[stream]
            frames = [Frame(model.next + n, 1, payload(model.next + n, size)) for n, size in enumerate(sizes)]
            model.frames |= {frame.seq: len(frame.payload) for frame in frames}
            model.next += len(frames)
            model.received += len(frames)
            positions = {} if position is None else dict([position])
            puts.append((Put(stream, frames, self._ledger(stream)), positions))
        if position is not None and position[1] is None:
            self.positions.pop(position[0], None)
        elif position is not None and position[1] is not None:
            self.positions[position[0]] = position[1]

        async def stored() -> None:
            await within(10, asyncio.gather(*(self.outbox.put([put], positions) for put, positions in puts)))

        self.run(stored())

    @rule(stream=st.sampled_from(STREAMS), share=st.floats(0, 1.2))
    def settle(self, stream: str, share: float) -> None:
        model = self.models[stream]
        to = int((model.next - 1) * share)
        model.settled = max(model.settled, min(to, model.next - 1))

        async def settled() -> None:
            self.outbox.settle(stream, {"e": Registered(to, 1.0)}, to, self._ledger(stream))

        self.run(settled())

    @rule(stream=st.sampled_from(STREAMS), held=st.booleans())
    def hold(self, stream: str, held: bool) -> None:
        (self.held.add if held else self.held.discard)(stream)
        self.outbox.hold(stream, held)

    @rule()
    def reopen(self) -> None:
        self.run(self.outbox.close())
        for model in self.models.values():
            model.frames = {n: size for n, size in model.frames.items() if n > model.settled}
        self.outbox = self.run(self._open(self.path))
        self._watch()
        for stream, model in self.models.items():
            assert self.run(self._numbers(stream)) == sorted(model.frames)

    @precondition(lambda self: self.copies < 5)
    @rule()
    def kill(self) -> None:
        """Go on with the files as they are at this moment: all that was put is told as stored."""
        self.copies += 1
        path = copied(self.path, self.folder / f"copy{self.copies}")
        self.run(self.outbox.close())
        self.path = path
        self.outbox = self.run(self._open(path))
        self._watch()
        for stream, model in self.models.items():
            model.settled = min(model.settled, self.outbox.state(stream).oldest - 1)

    async def _numbers(self, stream: str) -> list[int]:
        frames = await self.outbox.read(stream, 0, 10**9)
        assert all(frame.payload == payload(frame.seq, len(frame.payload)) for frame in frames)
        return [frame.seq for frame in frames]

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "outbox"):
            return
        total = 0
        for stream, model in self.models.items():
            state = self.outbox.state(stream)
            numbers = self.run(self._numbers(stream))
            needed = [n for n in sorted(model.frames) if n > model.settled]
            assert numbers[len(numbers) - len(needed) :] == needed
            assert set(numbers) <= set(model.frames)
            assert numbers == list(range(state.oldest, state.next))
            assert state.next == model.next
            assert state.samples == len(numbers)
            assert state.bytes == sum(model.frames[n] + OVERHEAD for n in numbers)
            total += state.bytes
            if model.received:
                assert {name: count for name, count in state.ledger.items() if count} == {
                    name: count for name, count in self._ledger(stream).items() if count
                }
            model.frames = {n: size for n, size in model.frames.items() if n >= state.oldest}
        assert total <= self.LIMIT
        assert all(self.outbox.position(key) == self.positions.get(key) for key in "xyz")

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.run(self.outbox.close())
        self.loop.close()
        shutil.rmtree(self.folder)


OutboxMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=25)
TestOutboxMachine = OutboxMachine.TestCase
