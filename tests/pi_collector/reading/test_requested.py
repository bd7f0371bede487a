"""Ranges asked for by command: each value of a range once, over any order of pages, failures and kills."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from pi_collector.coverage.pieces import Kind, Piece
from pi_collector.reading.requested import NOT_COLLECTED, POSITION, TRIES, WINDOW, Requested

SECOND = 10**9
HOUR = 3600 * SECOND
BEGIN = 1_700_000_000 * SECOND
LATER = BEGIN + 1000 * HOUR


class Positions(dict[str, bytes]):
    """What is durable of a request."""

    def note(self, noted: dict[str, bytes | None]) -> None:
        for key, data in noted.items():
            if data is None:
                self.pop(key, None)
            else:
                self[key] = data


def made(tags: dict[str, int], past: dict[str, str | None] | None = None) -> Requested:
    return Requested(tags.get, lambda tag: (past or {}).get(tag, ""), patience=10.0)


def upto(piece: Piece, time: int) -> NDArray[np.int64]:
    return np.full(len(piece.streams), time, np.int64)


def read(requested: Requested, piece: Piece, values: int = 0) -> None:
    requested.advanced(piece, piece.streams, upto(piece, piece.stop), values)
    requested.finished(piece)


TAGS = {"A": 1, "B": 2, "C": 3}


def test_a_range_is_read_a_day_of_all_tags_before_the_next_day() -> None:
    requested = made(TAGS)
    requested.add("1", BEGIN, BEGIN + WINDOW + HOUR, TAGS)
    stops = []
    while (piece := requested.work(LATER, 0.0, 2)) is not None:
        assert piece.kind is Kind.REQUESTED
        stops.append((sorted(piece.streams.tolist()), int(piece.start[0]), piece.stop))
        read(requested, piece, values=len(piece.streams))
    day = BEGIN + WINDOW - 1
    assert stops == [
        ([1, 2], BEGIN, day), ([3], BEGIN, day),
        ([1, 2], BEGIN + WINDOW, BEGIN + WINDOW + HOUR - 1), ([3], BEGIN + WINDOW, BEGIN + WINDOW + HOUR - 1),
    ]  # fmt: skip
    request = requested.get("1")
    assert request is not None
    assert request.over
    assert request.result() == {"tags": 3, "tags_done": 3, "values": 6}
    assert requested.status() == {}


def test_times_between_two_ticks_do_not_read_a_value_outside_of_the_range() -> None:
    requested = made({"A": 1})
    requested.add("1", BEGIN + 1, BEGIN + 201, ["A"])
    piece = requested.work(LATER, 0.0, 10)
    assert piece is not None
    assert piece.start.tolist() == [BEGIN + 100]
    assert piece.stop == BEGIN + 200


def test_nothing_is_read_past_the_servers_clock() -> None:
    requested = made({"A": 1})
    requested.add("1", BEGIN, BEGIN + HOUR, ["A"])
    piece = requested.work(BEGIN + 60 * SECOND, 0.0, 10)
    assert piece is not None
    assert piece.stop == BEGIN + 60 * SECOND
    read(requested, piece)
    assert requested.work(BEGIN + 60 * SECOND, 0.0, 10) is None
    assert requested.work(BEGIN + 61 * SECOND, 0.0, 10) is not None


def test_a_tag_that_fails_is_read_on_later_and_left_out_in_the_end_while_others_are_done() -> None:
    requested = made(TAGS)
    requested.add("1", BEGIN, BEGIN + HOUR, TAGS)
    now = 0.0
    for _ in range(TRIES):
        piece = requested.work(LATER, now, 10)
        assert piece is not None
        assert 2 in piece.streams
        requested.failed(piece, np.array([2], np.int32), "PI Point not found.", now + 5)
        if len(piece.streams) > 1:
            others = piece.streams[piece.streams != 2]
            requested.advanced(piece, others, np.full(2, piece.stop, np.int64), 7)
            requested.finished(piece)
        assert requested.work(LATER, now, 10) is None, "not before its time"
        now += 5
    request = requested.get("1")
    assert request is not None
    assert request.over
    assert request.result() == {
        "tags": 3, "tags_done": 2, "values": 7, "tags_left_out": 1, "why": {"B": "PI Point not found."},
    }  # fmt: skip


def test_tags_that_are_not_collected_or_are_calculated_are_left_out_with_the_reason() -> None:
    requested = made({"A": 1, "D": 4}, {"D": "it is calculated"})
    requested.add("1", BEGIN, BEGIN + HOUR, ["A", "D", "X"])
    piece = requested.work(LATER, 0.0, 10)
    assert piece is not None
    assert piece.streams.tolist() == [1]
    read(requested, piece)
    assert requested.work(LATER, 9.0, 10) is None
    requested.paused()
    assert requested.work(LATER, 11.0, 10) is None
    request = requested.get("1")
    assert request is not None
    assert not request.over, "while the connection did not run nobody was missed"
    requested.work(LATER, 21.0, 10)
    assert request.why == {"D": "it is calculated", "X": NOT_COLLECTED}
    assert request.over


def test_a_piece_that_was_returned_moves_nothing_and_two_pieces_never_share_a_tag() -> None:
    requested = made(TAGS)
    requested.add("1", BEGIN, BEGIN + HOUR, TAGS)
    piece = requested.work(LATER, 0.0, 2)
    other = requested.work(LATER, 0.0, 2)
    assert piece is not None
    assert other is not None
    assert not set(piece.streams.tolist()) & set(other.streams.tolist())
    requested.returned(piece, 3.0)
    assert requested.work(LATER, 2.0, 2) is None
    again = requested.work(LATER, 3.0, 2)
    assert again is not None
    assert again.start.tolist() == [BEGIN, BEGIN]
    requested.advanced(piece, piece.streams, upto(piece, piece.stop), 1)
    request = requested.get("1")
    assert request is not None
    assert request.progress == 0.0, "what comes of a piece that is not under way any more does not count"


def test_the_names_of_tags_are_written_once_and_deleted_when_their_request_is_over() -> None:
    requested, positions = made(TAGS), Positions()
    requested.add("1", BEGIN, BEGIN + HOUR, TAGS)
    positions.note(requested.dump())
    assert set(positions) == {POSITION, f"{POSITION}/1"}
    assert set(requested.dump()) == {POSITION}
    piece = requested.work(LATER, 0.0, 10)
    assert piece is not None
    read(requested, piece, 3)
    positions.note(requested.dump())
    assert set(positions) == {POSITION}
    after = made(TAGS)
    assert after.load(positions.get) == ""
    kept = after.get("1")
    assert kept is not None
    assert kept.result() == {"tags": 3, "tags_done": 3, "values": 3}


@pytest.mark.parametrize("cut", [0, 1, 3, 10, -1])
def test_notes_that_are_damaged_are_told_and_dropped(cut: int) -> None:
    requested, positions = made(TAGS), Positions()
    requested.add("1", BEGIN, BEGIN + HOUR, TAGS)
    positions.note(requested.dump())
    for key in list(positions):
        damaged = Positions(positions)
        damaged[key] = damaged[key][:cut]
        after = made(TAGS)
        assert "cannot be read and are dropped" in after.load(damaged.get)
        assert after.waiting == 0


@given(st.binary(max_size=200))
def test_notes_that_are_anything_at_all_are_told(data: bytes) -> None:
    assert made(TAGS).load(lambda key: data) != ""


@given(st.data())
def test_each_value_is_handed_on_once_whatever_is_cut_off_refused_or_killed(data: st.DataObject) -> None:
    tags = {f"T{n}": n for n in range(data.draw(st.integers(1, 5)))}
    archive = {
        handle: sorted(BEGIN + 100 * tick for tick in data.draw(st.sets(st.integers(0, 40), max_size=10)))
        for handle in tags.values()
    }
    first, until = BEGIN + 100 * data.draw(st.integers(0, 20)), BEGIN + 100 * data.draw(st.integers(21, 40))
    handed_on: list[tuple[int, int]] = []
    positions = Positions()
    requested = made(tags)
    requested.add("1", first, until, tags)
    positions.note(requested.dump())
    now = 0.0
    for _ in range(60):
        now += 1.0
        if data.draw(st.integers(0, 9)) == 0:
            requested = made(tags)
            assert requested.load(positions.get) == ""
        request = requested.get("1")
        assert request is not None
        if request.over:
            break
        piece = requested.work(LATER, now, data.draw(st.integers(1, 3)))
        if piece is None:
            continue
        fate = data.draw(st.sampled_from(["read", "some", "returned", "killed"]))
        if fate == "returned":
            requested.returned(piece, now + 1)
            continue
        to = piece.stop if fate != "some" else int(data.draw(st.integers(int(piece.start.min()), piece.stop)))
        rows = [
            (handle, time)
            for handle, start in zip(piece.streams.tolist(), piece.start.tolist(), strict=True)
            for time in archive[handle]
            if start <= time <= to
        ]
        requested.advanced(piece, piece.streams, upto(piece, to), len(rows))
        noted = requested.dump()
        if fate == "killed":  # before the transaction was durable: neither values nor note are there
            requested = made(tags)
            assert requested.load(positions.get) == ""
            continue
        handed_on += rows
        positions.note(noted)
        if fate == "some":
            requested.returned(piece, now)
        else:
            requested.finished(piece)
    while (piece := requested.work(LATER, now + 10, 3)) is not None:
        handed_on += [
            (handle, time)
            for handle, start in zip(piece.streams.tolist(), piece.start.tolist(), strict=True)
            for time in archive[handle]
            if start <= time <= piece.stop
        ]
        read(requested, piece)
    expected = sorted((handle, time) for handle in tags.values() for time in archive[handle] if first <= time < until)
    assert sorted(handed_on) == expected
