"""What becomes of files for S3: rows and files compared at the start, and orders given again."""

from __future__ import annotations

from typing import Any

import pytest

from stream_exporter.s3 import GZIP_SUFFIX, FileName, TaskStatus
from stream_exporter.units import Unit
from stream_exporter.uploads import LONGEST_PAUSE, Uploads, recover

EPOCH = "9f2c51aa07be"
STREAM = "opcua-collector/line1"
KEY = (STREAM, EPOCH)


def name(first: int, last: int, stream: str = STREAM, epoch: str = EPOCH) -> FileName:
    return FileName(stream, epoch, "20260131T120000Z", first).sealed(last, GZIP_SUFFIX)


def unit(first: int, last: int, *, newest: int | None = None, number: int = 0, stream: str = STREAM) -> Unit:
    return Unit(
        sink="s3",
        number=number or first,
        stream=stream,
        epoch=EPOCH,
        first=first,
        last=last,
        samples=10,
        messages=1,
        bytes=100,
        settings=str(name(first, last, stream)),
        decided_ns=0,
        noted=-1,
        newest=newest,
    )


def told(of: Unit, outcome: str = "success") -> TaskStatus:
    return TaskStatus(of.settings, outcome, "")


# --- the start --------------------------------------------------------------------------------------------------------


def test_tasked_files_are_waited_for_and_those_that_are_gone_are_exported() -> None:
    there, gone = unit(11, 20, newest=1), unit(1, 10, newest=0)

    found = recover([gone, there], [name(11, 20)], {KEY: 21})

    assert (found.tasked, found.exported) == ((there,), (gone,))
    assert (found.sealed, found.undone, found.adopted, found.deleted, found.cursors) == ((), (), (), (), {})


def test_files_that_were_not_tasked_are_tasked_in_their_order() -> None:
    units = [unit(1, 10, newest=0), unit(11, 20), unit(21, 30)]

    found = recover(units, [name(21, 30), name(11, 20), name(1, 10)], {KEY: 31})

    assert found.tasked == (units[0],)
    assert found.sealed == (units[1], units[2])


def test_a_range_whose_file_vanished_untasked_counts_again_with_all_that_follow_it() -> None:
    other = unit(1, 5, number=4, stream="opcua-collector/line2")
    units = [unit(1, 10, newest=0, number=1), unit(11, 20, number=2), unit(21, 30, number=3), other]

    found = recover(units, [name(1, 10), name(21, 30), name(31, 40), name(1, 5, other.stream)], {KEY: 31})

    assert found.undone == (units[1], units[2])
    assert found.cursors == {KEY: 11}
    assert set(found.deleted) == {name(21, 30), name(31, 40)}
    assert found.sealed == (other,)


def test_a_file_without_a_row_is_adopted_when_its_range_comes_next() -> None:
    found = recover([unit(11, 20)], [name(31, 40), name(21, 30), name(11, 20)], {KEY: 21})

    assert found.adopted == (name(21, 30), name(31, 40))
    assert found.deleted == ()


@pytest.mark.parametrize(
    "file",
    [name(1, 10), name(15, 25), name(22, 30), name(21, 30, epoch="000000000000"), name(21, 30, "opcua-collector/b")],
    ids=["exported", "overlapping", "beyond", "other-epoch", "other-stream"],
)
def test_a_file_without_a_row_is_deleted_when_its_range_is_in_another_or_comes_again(file: FileName) -> None:
    found = recover([], [file], {KEY: 21})

    assert found.adopted == ()
    assert found.deleted == (file,)


def test_of_two_files_that_begin_at_the_cursor_one_is_adopted() -> None:
    found = recover([], [name(1, 10), name(1, 12)], {KEY: 1})

    assert len(found.adopted) == len(found.deleted) == 1


# --- orders -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def uploads() -> Uploads:
    uploads = Uploads()
    uploads.add(unit(1, 10, newest=7))
    return uploads


def test_success_ends_it_and_what_comes_later_says_nothing(uploads: Uploads) -> None:
    file = unit(1, 10, newest=7)

    assert uploads.tell(told(file), 0.0) == file
    assert len(uploads) == 0
    for outcome in ("success", "failure", "canceled", "warning", "under way"):
        assert uploads.tell(told(file, outcome), 1.0) is None
    uploads.look(-1, 2.0)
    assert uploads.due(1e9) == []


def test_success_may_come_for_a_file_whose_task_is_not_known() -> None:
    uploads = Uploads()
    file = unit(1, 10)
    uploads.add(file)
    uploads.look(50, 0.0)
    assert uploads.tell(told(file, "failure"), 0.0) is None
    assert uploads.due(1e9) == [], "it is not ordered again before it was ordered"

    assert uploads.tell(told(file), 1.0) == file


@pytest.mark.parametrize("outcome", ["failure", "canceled"])
def test_a_failure_is_ordered_again_ever_more_slowly(uploads: Uploads, outcome: str) -> None:
    file = unit(1, 10, newest=7)
    now, pauses = 0.0, []
    for _ in range(8):
        uploads.tell(told(file, outcome), now)
        assert uploads.failing
        uploads.look(100, now)
        began = now
        while not uploads.due(now):
            now += 1.0
        assert uploads.due(now) == [], "once"
        uploads.add(file)
        pauses.append(now - began)

    assert pauses == [15, 30, 60, 120, 240, 480, LONGEST_PAUSE, LONGEST_PAUSE]
    uploads.tell(told(file), now)
    assert not uploads.failing


def test_what_stream_manager_tries_again_by_itself_is_not_ordered_again(uploads: Uploads) -> None:
    for outcome in ("warning", "under way"):
        uploads.tell(told(unit(1, 10, newest=7), outcome), 0.0)
    uploads.look(6, 0.0)

    assert uploads.due(1e9) == []
    assert not uploads.failing


@pytest.mark.parametrize("after", [6, -1], ids=["lost-its-tail", "made-anew"])
def test_a_task_that_the_stream_has_lost_is_ordered_again_at_once(uploads: Uploads, after: int) -> None:
    assert [number for number, _ in uploads.tasked()] == [7]
    uploads.lose(after, 5.0)

    assert uploads.tasked() == []
    assert [found.first for found in uploads.due(5.0)] == [1]
    uploads.add(unit(1, 10, newest=after + 1))
    uploads.lose(after + 1, 6.0)
    uploads.look(after, 6.0)
    assert uploads.due(1e9) == []


def test_an_exported_task_of_which_nothing_is_told_is_ordered_again(uploads: Uploads) -> None:
    uploads.look(6, 0.0)
    uploads.look(7, 100.0)
    uploads.look(9, 129.0)
    assert uploads.due(129.0) == []

    uploads.look(9, 130.0)

    assert [found.first for found in uploads.due(130.0)] == [1]


def test_a_task_that_is_exported_again_after_a_power_cut_has_its_time_again(uploads: Uploads) -> None:
    uploads.look(7, 0.0)
    uploads.look(6, 20.0)
    uploads.look(7, 29.0)

    uploads.look(7, 31.0)

    assert uploads.due(31.0) == []
    uploads.look(7, 59.0)
    assert len(uploads.due(59.0)) == 1


def test_a_status_of_another_file_changes_nothing(uploads: Uploads) -> None:
    other: Any = TaskStatus("precious.jsonl", "success", "")
    assert uploads.tell(other, 0.0) is None
    assert len(uploads) == 1
