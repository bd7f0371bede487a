"""Checkpoints: what is written is read again, and what has not changed is not written again."""

from __future__ import annotations

from preprocessor import checkpoints
from preprocessor.checkpoints import Checkpoints, Stored
from preprocessor.engine.step import Turn
from preprocessor.journal import Record, Span

from . import made

KEY = ("plant/a", made.EPOCH)


def applied(positions: dict[str, bytes], change: dict[str, bytes | None]) -> dict[str, bytes]:
    """What stands on the disk afterwards."""
    return {key: value for key, value in {**positions, **change}.items() if value is not None}


def test_a_flow_that_has_never_run_has_nothing() -> None:
    assert checkpoints.read({}) == Stored()


def test_what_is_written_is_read_again() -> None:
    writer = Checkpoints({})
    change = writer.checkpoint({"settings": {}}, {"flow": b"1", "step/x": b"2"}, {KEY: 7}, 3, Turn(100, 50))
    positions = applied({}, change)
    record = Record(3, Turn(200, 150), spans=(Span(*KEY, 7, 9),), samples=3)
    positions = applied(positions, writer.record(record))
    stored = checkpoints.read(positions)
    assert stored == Stored(
        {"settings": {}}, {"flow": b"1", "step/x": b"2"}, {KEY: 7}, 3, now=100, steady=50, records=[record]
    )
    assert stored.last == (200, 150)


def test_a_checkpoint_writes_what_has_changed_and_ends_the_records() -> None:
    writer = Checkpoints({})
    positions = applied({}, writer.checkpoint({}, {"flow": b"1", "step/x": b"2"}, {}, 1, Turn(1, 1)))
    positions = applied(positions, writer.record(Record(1, Turn(2, 2))))
    writer = Checkpoints(positions)  # after a restart
    change = writer.checkpoint({}, {"flow": b"1", "step/x": b"3"}, {}, 2, Turn(2, 2))
    assert change == {"turn/1": None, "state/step/x": b"3", "checkpoint": change["checkpoint"]}


def test_a_part_that_is_gone_is_deleted() -> None:
    writer = Checkpoints({})
    writer.checkpoint({}, {"flow": b"1", "step/x": b"2"}, {}, 1, Turn(1, 1))
    assert writer.checkpoint({}, {"flow": b"1"}, {}, 1, Turn(1, 1)) == {"state/step/x": None, "checkpoint": change_of()}


def change_of() -> bytes:
    return b'{"turn":1,"now":1,"steady":1,"parts":["flow"],"cursors":[]}'


def test_what_cannot_be_read_is_told_and_the_rest_is_used() -> None:
    writer = Checkpoints({})
    positions = applied({}, writer.checkpoint({}, {"flow": b"1", "step/x": b"2"}, {KEY: 7}, 1, Turn(1, 1)))
    del positions["state/step/x"]
    positions |= {"turn/1": Record(1, Turn(2, 2)).encode(), "turn/2": b"nothing", "turn/3": b"{}"}
    stored = checkpoints.read(positions)
    assert (stored.parts, stored.cursors, len(stored.records)) == ({"flow": b"1"}, {KEY: 7}, 1)
    assert len(stored.troubles) == 2
    assert "step/x" in stored.troubles[0]
    assert "turn 2" in stored.troubles[1]


def test_a_checkpoint_that_cannot_be_read_is_told() -> None:
    stored = checkpoints.read({"checkpoint": b"?", "definition": b"{}"})
    assert stored.definition is None
    assert len(stored.troubles) == 1
