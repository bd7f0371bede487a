"""What a flow does about input that does not come again, gaps, numbers that are given twice, and too much of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from preprocessor import checkpoints
from preprocessor import work as work_module
from preprocessor.engine.step import SECOND
from preprocessor.journal import Batch
from preprocessor.work import GONE, SILENT, Commit, Work
from sluice.batch import Announcement, SampleBatch
from sluice.delivery import Gap, Message

from . import made

A, B = "plant/a", "plant/b"
DEFINITION = made.definition(A, B, checkpointInterval=300)
WALL = made.START


class Disk:
    """What a flow has stored, and the flow that runs from it."""

    def __init__(self, definition: Mapping[str, Any] = DEFINITION) -> None:
        self.positions: dict[str, bytes] = {}
        self.events: list[dict[str, Any]] = []
        self.definition = definition
        self.now = 0
        self.begin()

    def begin(self, definition: Mapping[str, Any] | None = None, **more: Any) -> None:
        self.work = Work(
            "flow",
            made.build,
            checkpoints.read(self.positions),
            dict(self.positions),
            definition or self.definition,
            wall=WALL + self.now,
            monotonic=self.now,
            **more,
        )

    def announce(self, stream: str, oldest: int, newest: int) -> None:
        received = self.work.consumer.offer(
            Message(Announcement(stream, made.EPOCH, oldest, newest)), self.now / SECOND
        )
        if received.gap is not None:
            self.work.missed(received.gap)

    def come(self, *batches: Batch) -> int:
        """These arrive; how many were taken."""
        self.work.tick(self.now)
        taken = 0
        for batch in batches:
            received = self.work.consumer.offer(Message(batch), self.now / SECOND, self.work.has_room())
            if received.batch is not None:
                self.work.take(received.batch)
                taken += 1
        return taken

    def turn(self, ns: int = SECOND // 10) -> Commit | None:
        """The next step, and what it gives is on the disk."""
        self.now += ns
        commit = self.work.step(WALL + self.now, self.now)
        if commit is not None:
            for key, value in commit.positions.items():
                if value is None:
                    self.positions.pop(key, None)
                else:
                    self.positions[key] = value
            self.work.stored(commit)
            self.events += commit.events
        return commit


@pytest.fixture
def killed() -> Disk:
    """A flow that has processed two batches of each stream since its checkpoint, and begins again."""
    disk = Disk()
    disk.turn()
    for stream in (A, B):
        disk.announce(stream, 1, 2)
    disk.come(made.batch(A, 1), made.batch(B, 1))
    disk.turn()
    disk.come(made.batch(B, 2), made.batch(A, 2))
    disk.turn()
    disk.begin()
    for stream in (A, B):
        disk.announce(stream, 1, 3)
    return disk


def test_it_says_what_it_waits_for_and_waits(killed: Disk) -> None:
    killed.come(made.batch(A, 1), made.batch(A, 2))
    assert killed.turn() is None
    assert killed.work.waits_for() == f"batches 1 to 1 of {B} (epoch {made.EPOCH})"
    assert killed.work.acknowledged(A, made.EPOCH) == 0
    assert killed.turn(SILENT // 2) is None
    assert killed.work.rebuilding


def test_a_source_that_is_silent_for_a_minute_while_others_come_is_given_up_and_it_is_told(killed: Disk) -> None:
    killed.come(made.batch(A, 1), made.batch(A, 2))
    killed.turn()
    killed.turn(SILENT // 2)
    killed.come(made.batch(A, 3))
    for _ in range(4):
        killed.turn(SILENT // 2)
    assert not killed.work.rebuilding
    (event,) = killed.events
    assert event["kind"] == "state-incomplete"
    assert f"1 to 2 of {B}" in event["why"]
    assert killed.work.counters["left_out"] == 2
    assert killed.come(made.batch(B, 1)) == 0  # should it come after all: what it gave is stored already
    assert killed.come(made.batch(B, 3)) == 1


def test_where_nothing_comes_at_all_it_is_patient(killed: Disk) -> None:
    killed.turn()
    killed.turn(2 * SILENT)
    assert killed.work.rebuilding
    for _ in range(6):
        killed.turn(GONE)
    assert not killed.work.rebuilding


def test_input_that_its_producer_has_lost_meanwhile_is_not_waited_for(killed: Disk) -> None:
    killed.come(made.batch(A, 1), made.batch(A, 2), made.batch(B, 1))
    killed.announce(B, 3, 3)
    for _ in range(4):
        killed.turn()
    assert not killed.work.rebuilding
    assert [event["kind"] for event in killed.events] == ["state-incomplete"]
    assert f"2 to 2 of {B}" in killed.events[0]["why"]


def test_a_record_that_cannot_be_gone_through_again_is_left_out_and_it_is_told(killed: Disk) -> None:
    killed.begin(hopeless=[3])
    for stream in (A, B):
        killed.announce(stream, 1, 2)
    killed.come(*(made.batch(stream, number) for stream in (A, B) for number in (1, 2)))
    for _ in range(4):
        killed.turn()
    assert not killed.work.rebuilding
    (event,) = killed.events
    assert event["kind"] == "state-incomplete"
    assert f"2 to 2 of {B}" in event["why"]
    assert f"2 to 2 of {A}" in event["why"]
    assert "could not be processed again" in event["why"]
    assert killed.work.counters["left_out"] == 2
    assert killed.work.counters["differed"] == 0
    assert [killed.work.acknowledged(stream, made.EPOCH) for stream in (A, B)] == [2, 2]


def test_a_flow_that_is_given_up_while_it_is_rebuilding_says_what_is_lost_and_leaves_nothing(killed: Disk) -> None:
    commit = killed.work.finish(killed.positions, WALL + killed.now, killed.now)
    (event,) = commit.events
    assert event["kind"] == "state-incomplete"
    assert "removed before its state was rebuilt" in event["why"]
    assert commit.live == []
    assert commit.positions == dict.fromkeys(killed.positions)


def test_batches_are_suspected_no_longer_than_they_can_come() -> None:
    suspects = {(stream, made.EPOCH, number): 1 for stream in (A, B) for number in (1, 2, 3)}
    suspects["gone/c", made.EPOCH, 1] = 1
    disk = Disk()
    disk.turn()
    disk.begin(suspects=suspects)
    disk.announce(A, 1, 3)
    disk.announce(B, 1, 3)
    disk.work.missed(Gap(A, made.EPOCH, 1, 3))  # they made room upstream
    disk.come(made.batch(B, 1))
    disk.turn()
    assert set(disk.work.cleared) == {(A, made.EPOCH, number) for number in (1, 2, 3)} | {
        (B, made.EPOCH, 1),
        ("gone/c", made.EPOCH, 1),
    }


def test_while_rebuilding_what_is_needed_always_has_room_and_nothing_else_more_than_usual() -> None:
    disk = Disk(made.definition(A, B, checkpointInterval=300, maxWaiting=1_000))
    disk.turn()
    disk.announce(A, 1, 1)
    disk.come(made.batch(A, 1))
    disk.turn()
    disk.begin()
    disk.announce(A, 1, 1)
    disk.announce(B, 1, 9)
    taken = sum(disk.come(made.batch(B, number, [1.0] * 500)) for number in range(1, 9))
    assert taken == 2
    assert disk.come(made.batch(A, 1)) == 1


def test_a_gap_is_told_once_whatever_happens_afterwards() -> None:
    disk = Disk()
    disk.turn()
    disk.announce(A, 1, 1)
    disk.come(made.batch(A, 1))
    disk.work.missed(Gap(A, made.EPOCH, 2, 4))
    disk.turn()
    disk.begin()
    disk.announce(A, 1, 4)
    disk.come(made.batch(A, 1))
    disk.announce(A, 7, 7)  # and meanwhile more of it is gone
    for _ in range(4):
        disk.turn()
    assert [(event["kind"], event["first"], event["last"]) for event in disk.events] == [("gap", 2, 4), ("gap", 5, 6)]
    assert disk.work.acknowledged(A, made.EPOCH) == 6


def test_numbers_that_a_producer_gives_again_are_not_taken_for_those_of_before() -> None:
    disk = Disk()
    disk.turn()
    disk.announce(A, 1, 5)
    disk.come(*(made.batch(A, number) for number in range(1, 6)))
    for _ in range(3):
        disk.now += 2 * SECOND
        disk.announce(A, 1, 2)  # its disk has lost 3 to 5
    assert disk.come(made.batch(A, 3, [7.0])) == 1
    commit = disk.turn()
    assert commit is not None
    assert commit.cursors == {(A, made.EPOCH): 3}  # behind a checkpoint, as long as both are known apart
    disk.turn()
    disk.begin()
    disk.announce(A, 1, 3)
    disk.come(made.batch(A, 3, [7.0]))
    disk.turn()
    disk.turn()
    assert disk.work.counters["left_out"] == disk.work.counters["differed"] == 0


def test_much_input_makes_a_checkpoint_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "MOST_JOURNALED", 10)
    disk = Disk()
    disk.turn()
    disk.announce(A, 1, 9)
    acknowledged = []
    for number in range(1, 5):
        disk.come(made.batch(A, number, [1.0] * 6))
        disk.turn()
        acknowledged.append(disk.work.acknowledged(A, made.EPOCH))
    assert acknowledged == [0, 0, 3, 3]


def test_a_flow_that_is_idle_writes_nothing_and_keeps_no_more_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "MOST_IDLE", 5)
    disk = Disk(made.definition(A, steps=(), checkpointInterval=1))
    disk.turn()
    commits = [disk.turn(SECOND) is not None for _ in range(12)]
    assert commits == [False] * 5 + [True] + [False] * 5 + [True]


def test_a_definition_that_cannot_be_built_any_more_gives_way_to_the_configured_one(killed: Disk) -> None:
    stored = killed.positions["definition"]
    killed.positions["definition"] = stored.replace(b'"chain"', b'"wrong"')
    killed.begin(DEFINITION)
    for stream in (A, B):
        killed.announce(stream, 1, 2)
    killed.come(*(made.batch(stream, number) for stream in (A, B) for number in (1, 2)))
    for _ in range(4):
        killed.turn()
    assert not killed.work.rebuilding
    (event,) = killed.events
    assert "cannot be built any more" in event["why"]
    assert killed.work.pipeline.received == 4


def test_streams_that_the_flow_does_not_take_do_not_concern_it() -> None:
    disk = Disk(made.definition(A))
    disk.announce(B, 1, 5)
    assert disk.come(made.batch(B, 1)) == 0
    assert disk.work.acknowledged(B, made.EPOCH) is None
    assert disk.work.consumer.next(B, made.EPOCH) is None
    assert [disk.work.covers(f"{A}{kind}") for kind in ("", "/backfill", "/events")] == [True] * 3
    without = Disk(made.definition(A, events="drop"))
    assert not without.work.covers(f"{A}/events")


def test_an_input_that_goes_is_neither_processed_nor_held_upstream() -> None:
    disk = Disk()
    disk.turn()
    for stream in (A, B):
        disk.announce(stream, 1, 2)
    disk.come(made.batch(A, 1), made.batch(B, 1))
    disk.turn()
    disk.work.change(made.definition(A, checkpointInterval=300))
    disk.come(made.batch(B, 2))
    disk.turn()
    assert disk.work.acknowledged(B, made.EPOCH) is None
    assert disk.work.acknowledged(A, made.EPOCH) == 1
    assert (A, made.EPOCH) in checkpoints.read(disk.positions).cursors
    assert (B, made.EPOCH) not in checkpoints.read(disk.positions).cursors


def test_texts_that_wait_are_bounded_by_their_size() -> None:
    disk = Disk()
    disk.announce(A, 1, 999)
    size = 0
    for number in range(1, 999):
        columns = made.columns([1.0])
        batch = SampleBatch(made.batch(A, number).header, columns)
        batch = SampleBatch(batch.header, made.texts("x" * 100_000))
        if not disk.come(batch):
            break
        size += 100_000
    assert size < 20_000_000
