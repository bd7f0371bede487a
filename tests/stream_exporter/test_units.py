"""The store of units: what was done is there after a restart, and nothing may be acknowledged before it is."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stream_exporter.units import MAX_EPOCHS, Unit, UnitStore

EPOCH = "9f2c51aa07be"
LINE = "opcua-collector/line1"


def unit(number: int, first: int, last: int, **more: Any) -> Unit:
    values: dict[str, Any] = {"sink": "k", "number": number, "stream": LINE, "epoch": EPOCH, "first": first}
    values |= {"last": last, "samples": 10, "messages": 2, "bytes": 100, "settings": "{}", "decided_ns": 1, "noted": -1}
    return Unit(**(values | more))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[UnitStore]:
    store = await UnitStore.open(tmp_path / "exporter.db")
    yield store
    await store.close()


async def again(store: UnitStore, tmp_path: Path) -> UnitStore:
    await store.close()
    return await UnitStore.open(tmp_path / "exporter.db")


async def test_an_intended_unit_is_there_after_a_restart_and_moves_no_cursor(store: UnitStore, tmp_path: Path) -> None:
    await store.intend(unit(1, 1, 5), unit(2, 6, 9, parked=True, found=1, found_samples=3, account='{"a": 1}'))

    store = await again(store, tmp_path)

    assert store.units("k") == [
        unit(1, 1, 5),
        unit(2, 6, 9, parked=True, found=1, found_samples=3, account='{"a": 1}'),
    ]
    assert store.cursors("k") == {(LINE, EPOCH): 1}, "whoever reads again must begin with it"
    assert store.next_number("k") == 3
    assert store.exported_to("k", LINE, EPOCH) == 0
    await store.close()


async def test_a_committed_unit_moves_the_cursor_and_is_acknowledged_once_exported(
    store: UnitStore, tmp_path: Path
) -> None:
    await store.commit(unit(1, 3, 5), 1, ledger={"appended": 10})
    await store.commit(unit(2, 6, 7), 3, ledger={"appended": 20})

    assert store.cursors("k") == {(LINE, EPOCH): 8}
    assert store.committed_to("k", LINE, EPOCH) == 7
    assert store.exported_to("k", LINE, EPOCH) == 2, "what comes before the first unit"

    await store.exported([store.units("k")[0]])

    assert store.exported_to("k", LINE, EPOCH) == 5
    store = await again(store, tmp_path)
    assert store.exported_to("k", LINE, EPOCH) == 5
    assert store.ledger("k") == {"appended": 20}
    await store.exported(store.units("k"))
    assert store.exported_to("k", LINE, EPOCH) == 7
    await store.close()


async def test_nothing_is_acknowledged_before_it_is_on_the_medium(store: UnitStore) -> None:
    committed = store.commit(unit(1, 1, 5), 1, ledger={})

    assert store.cursors("k") == {(LINE, EPOCH): 6}, "the next unit builds on it"
    assert store.committed_to("k", LINE, EPOCH) is None
    await committed
    assert store.committed_to("k", LINE, EPOCH) == 5
    exported = store.exported(store.units("k"))
    assert store.exported_to("k", LINE, EPOCH) == 0
    await exported
    assert store.exported_to("k", LINE, EPOCH) == 5


async def test_what_is_undone_is_wanted_again_and_not_acknowledged_any_more(store: UnitStore, tmp_path: Path) -> None:
    await store.commit(unit(1, 1, 5), 1, ledger={})
    await store.commit(unit(2, 6, 9), 3, ledger={})
    late = store.commit(unit(3, 10, 12), 5, ledger={})

    undone = store.undo(store.units("k")[1:], {(LINE, EPOCH): 6}, ledger={"appended": 1})

    assert (store.exported_to("k", LINE, EPOCH), store.cursors("k")) == (0, {(LINE, EPOCH): 6})
    await asyncio.gather(late, undone)
    assert store.committed_to("k", LINE, EPOCH) == 5, "a commit that was under way says nothing any more"
    store = await again(store, tmp_path)
    assert [kept.number for kept in store.units("k")] == [1]
    assert store.cursors("k") == {(LINE, EPOCH): 6}
    assert store.ledger("k") == {"appended": 1}
    await store.close()


async def test_a_row_that_is_written_again_moves_no_cursor(store: UnitStore) -> None:
    await store.commit(unit(1, 1, 5), None, ledger={})
    await store.commit(unit(2, 6, 9), None, ledger={})

    await store.commit(unit(1, 1, 5), 7, ledger={})

    assert store.cursors("k") == {(LINE, EPOCH): 10}
    assert [kept.newest for kept in store.units("k")] == [7, None]


async def test_events_and_gaps_move_the_cursor(store: UnitStore, tmp_path: Path) -> None:
    await store.move("k", LINE, EPOCH, 7, ledger={"events": 6})
    assert store.exported_to("k", LINE, EPOCH) == 6

    store = await again(store, tmp_path)

    assert (store.cursors("k"), store.ledger("k")) == ({(LINE, EPOCH): 7}, {"events": 6})
    await store.close()


async def test_a_producer_that_lost_numbers_takes_the_cursor_back(store: UnitStore) -> None:
    await store.commit(unit(1, 1, 100), 1, ledger={})
    await store.exported(store.units("k"))

    await store.commit(unit(2, 51, 60), 3, ledger={})
    await store.exported(store.units("k"))

    assert store.exported_to("k", LINE, EPOCH) == 60, "more does not exist there, and would not be believed"


async def test_cursors_of_old_epochs_are_forgotten_unless_units_of_theirs_wait(store: UnitStore) -> None:
    epochs = [f"{number:012x}" for number in range(MAX_EPOCHS + 3)]
    await store.commit(unit(1, 1, 1, epoch=epochs[0]), 1, ledger={})
    for epoch in epochs[1:]:
        await store.move("k", LINE, epoch, 2)

    assert [epoch for _, epoch in store.cursors("k")] == [epochs[0], *epochs[-MAX_EPOCHS:]]


async def test_a_sink_that_is_forgotten_or_of_another_type_begins_anew(store: UnitStore, tmp_path: Path) -> None:
    store.adopt("k", "kinesis")
    await store.commit(unit(1, 1, 5), 1, ledger={"appended": 10})
    store.adopt("k", "kinesis")
    assert store.count("k") == 1

    store.adopt("k", "sitewise")

    assert (store.units("k"), store.cursors("k"), store.ledger("k")) == ([], {}, {})
    await store.forget("k")
    store = await again(store, tmp_path)
    assert store.sinks() == []
    await store.close()


async def test_a_damaged_store_is_set_aside_and_begun_anew(store: UnitStore, tmp_path: Path) -> None:
    await store.commit(unit(1, 1, 5), 1, ledger={})
    await store.close()
    path = tmp_path / "exporter.db"
    path.write_bytes(b"\xa5" * path.stat().st_size)

    store = await UnitStore.open(path)

    assert store.sinks() == []
    assert store.aside is not None
    await store.commit(unit(1, 1, 5), 1, ledger={})
    assert store.committed_to("k", LINE, EPOCH) == 5
    await store.close()


async def test_a_store_that_is_damaged_while_it_runs_is_written_again_from_what_is_known(
    store: UnitStore, tmp_path: Path
) -> None:
    await store.commit(unit(1, 1, 5), 1, ledger={"appended": 10})
    found_damaged = [1, 2]

    def damaged(connection: sqlite3.Connection) -> None:
        if found_damaged:
            found_damaged.pop()
            raise sqlite3.DatabaseError("database disk image is malformed")

    await store._database.write(damaged)
    assert store.aside is not None
    await store.commit(unit(2, 6, 9), 3, ledger={"appended": 20})
    await store.move("k", LINE, EPOCH, 12)
    store = await again(store, tmp_path)

    assert [kept.number for kept in store.units("k")] == [1, 2]
    assert (store.cursors("k"), store.ledger("k")) == ({(LINE, EPOCH): 12}, {"appended": 20})
    await store.close()


class Killed(RuleBasedStateMachine):
    """Whatever is done in whatever order: the store says after a restart what it said before, and never acknowledges
    what is not exported with everything before it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "exporter.db"
        self.store = self.run(UnitStore.open(self.path))
        self.next = 1  # batch
        self.newest = -1  # message
        self.exported: set[int] = set()  # batches
        self.given_up: set[int] = set()  # batches that were events
        self.ranges: dict[int, range] = {}

    def run(self, work: Any) -> Any:
        async def wait() -> Any:
            return await work

        return self.loop.run_until_complete(wait())

    @rule(length=st.integers(1, 4), parked=st.booleans())
    def intend(self, length: int, parked: bool) -> None:
        if any(known.newest is None for known in self.store.units("k")):
            return
        number = self.store.next_number("k")
        part = unit(number, self.next, self.next + length - 1, noted=self.newest, parked=parked)
        self.ranges[number] = range(part.first, part.last + 1)
        self.run_one(self.store.intend, part)

    @rule()
    def commit(self) -> None:
        for known in self.store.units("k"):
            if known.newest is None:
                self.newest += known.messages
                self.next = known.last + 1
                self.run_one(lambda part=known: self.store.commit(part, self.newest, ledger={"newest": self.newest}))

    @rule(count=st.integers(1, 3))
    def export(self, count: int) -> None:
        done = [known for known in self.store.units("k") if known.newest is not None][:count]
        if done:
            for known in done:
                self.exported |= set(self.ranges[known.number])
            self.run_one(self.store.exported, done)

    @rule(count=st.integers(1, 3))
    def lose(self, count: int) -> None:
        lost = self.store.units("k")[-count:]
        if lost:
            first = min(known.first for known in lost)
            self.next = first
            self.newest = min(known.noted for known in lost)
            self.run_one(self.store.undo, lost, {(LINE, EPOCH): first})

    @precondition(lambda self: not any(known.newest is None for known in self.store.units("k")))
    @rule()
    def pass_over(self) -> None:
        self.given_up.add(self.next)
        self.next += 1
        self.run_one(self.store.move, "k", LINE, EPOCH, self.next)

    @rule()
    def restart(self) -> None:
        before = (self.store.units("k"), self.store.cursors("k"), self.store.ledger("k"))
        self.run(self.store.close())
        self.store = self.run(UnitStore.open(self.path))
        assert (self.store.units("k"), self.store.cursors("k"), self.store.ledger("k")) == before

    @invariant()
    def acknowledges_only_what_is_done(self) -> None:
        done = self.store.exported_to("k", LINE, EPOCH) or 0
        assert set(range(1, done + 1)) <= self.exported | self.given_up

    def run_one(self, work: Any, *args: Any) -> None:
        async def wait() -> None:
            await work(*args)

        self.loop.run_until_complete(wait())

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()
        self.folder.cleanup()


TestKilled = Killed.TestCase
TestKilled.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
