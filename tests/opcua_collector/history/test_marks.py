"""High-water marks survive: small, quick, the same bytes for the same content, and damage costs only themselves."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.history.gaps import Gaps
from opcua_collector.history.marks import ANY_STATUS, Mark, Marks, NoteError, dump, pack, restore, unpack
from opcua_collector.values.notifications import Block, Publication
from opcua_collector.values.samples import Assembler, Rule
from sluice.batch import Columns, Header, Sample, SampleBatch, Series, decode, encode, from_samples

SECOND = 10**9
T0 = 1_772_323_200 * SECOND
DOUBLE, STRING = 11, 12
INT64 = st.integers(-(2**63), 2**63 - 1)


def live(assembler: Assembler, *rows: tuple[int, float, int, int]) -> list[Columns]:
    """(handle, value, status, time) each."""
    handle, value, status, stamp = zip(*rows, strict=True)
    block = Block(
        11,
        np.arange(len(rows)),
        np.array(handle, np.int64),
        np.array(value, np.float64),
        np.array(status, np.uint32),
        np.array(stamp, np.int64),
    )
    return assembler.columns(Publication(blocks=(block,)))


def monitored(marks: Marks | None = None, tags: int = 2) -> Assembler:
    made = Assembler()
    names = [f"T{n}" for n in range(tags)]
    made.restore(marks or Marks(), names)
    for name in names:
        handle = made.add(Series(name))
        made.fix(handle, Rule.DOUBLE)
        made.subscribed(handle)
    return made


def names(assembler: Assembler) -> dict[int, str]:
    return {handle: s.tag for handle in range(assembler.handles) if (s := assembler.series(handle)) is not None}


def times(columns: list[Columns]) -> list[tuple[str, int]]:
    return [(sample.tag, sample.time) for some in columns for sample in some.samples()]


def test_the_repetition_of_the_last_sample_is_known_over_a_restart() -> None:
    first = monitored()
    live(first, (0, 1.0, 0, T0), (1, 5.0, 0x40930000, T0 + 3))
    marks = restore(dump(first, names(first), 12))
    assert (marks.newest, marks.of) == (12, {"T0": Mark(T0, 0), "T1": Mark(T0 + 3, 0x40930000)})
    second = monitored(marks)
    assert live(second, (0, 1.0, 0, T0), (1, 5.0, 0x40930000, T0 + 3)) == []
    assert second.counts.filtered == 2


@pytest.mark.parametrize(("status", "moment"), [(0x808D0000, T0), (0, T0 + 1)])
def test_another_status_or_time_is_a_sample(status: int, moment: int) -> None:
    first = monitored()
    live(first, (0, 1.0, 0, T0))
    second = monitored(restore(dump(first, names(first), 1)))
    assert times(live(second, (0, 1.0, status, moment))) == [("T0", moment)]


def test_the_overflow_bit_does_not_make_a_repetition_another_sample() -> None:
    first = monitored()
    live(first, (0, 1.0, 0x480, T0))
    second = monitored(restore(dump(first, names(first), 1)))
    assert live(second, (0, 1.0, 0, T0)) == []


def test_only_the_first_notification_after_a_restart_can_repeat() -> None:
    """Samples at or below the mark that the server publishes again were not handed on: their number says so."""
    first = monitored()
    live(first, (0, 1.0, 0, T0))
    second = monitored(restore(dump(first, names(first), 1)))
    assert times(live(second, (0, 2.0, 0, T0 + 1), (0, 1.0, 0, T0), (0, 0.0, 0, T0 - 1))) == [
        ("T0", T0 + 1),
        ("T0", T0),
        ("T0", T0 - 1),
    ]


def test_batches_that_were_handed_on_later_roll_the_marks_forward_once() -> None:
    marks = Marks(4, {"A": Mark(T0, 0)})
    samples = [Sample("A", T0 + 1, 1.0, status=5), Sample("B", T0 + 7, 1.0), Sample("A", T0 + 2, float("nan"))]
    [columns] = from_samples(samples)
    marks.advance(SampleBatch(Header("a/b", "0123456789ab", 5), columns))
    assert (marks.newest, marks.of) == (5, {"A": Mark(T0 + 2, 0), "B": Mark(T0 + 7, 0)})
    [columns] = from_samples([Sample("A", T0 + 9, None, status="nan")])
    marks.advance(SampleBatch(Header("a/b", "0123456789ab", 5), columns))
    assert marks.of["A"].time == T0 + 2
    marks.advance(SampleBatch(Header("a/b", "0123456789ab", 6), columns))
    assert marks.of["A"] == Mark(T0 + 9, ANY_STATUS)


@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf"), "another type"])
def test_a_heartbeat_in_the_outbox_rolls_no_mark_forward_and_ends_no_gap(value: Any) -> None:
    """Its time is the server's: what the tag lacks, and what it brings next, may be older."""
    made = monitored()
    live(made, (0, 1.0, 0, T0))
    family = STRING if isinstance(value, str) else DOUBLE
    column = np.array([value], object if family == STRING else np.float64)
    zeros = np.zeros(1, np.int64)
    [columns] = made.beats([Block(family, zeros, zeros, column, zeros.astype(np.uint32), zeros + T0 + 60 * SECOND)])
    batch = decode(encode(Header("a/b", "0123456789ab", 6), columns))
    assert isinstance(batch, SampleBatch)
    assert [sample.status for sample in batch.columns.samples()] == ["heartbeat"]
    marks = Marks(5, {"T0": Mark(T0, 0)})
    gaps = Gaps()
    gaps.mark_of = lambda handle: T0
    gaps.add(0, "T0")
    gaps.open([0], "recreated")
    before = gaps.dump(0)
    gaps.replay(batch, marks)
    marks.advance(batch)
    assert (marks.newest, marks.of) == (6, {"T0": Mark(T0, 0)})
    assert gaps.dump(0) == before


def test_a_status_that_became_a_word_matches_whatever_the_source_says_of_that_time() -> None:
    second = monitored(Marks(1, {"T0": Mark(T0, ANY_STATUS)}))
    assert live(second, (0, float("nan"), 0x40930000, T0)) == []


def test_marks_of_tags_that_the_server_has_not_shown_yet_are_kept() -> None:
    waiting = Assembler()
    waiting.restore(Marks(3, {"T0": Mark(T0, 7), "gone": Mark(T0, 0)}), ["T0"])
    assert restore(dump(waiting, {}, 3)).of == {"T0": Mark(T0, 7)}


def test_a_tag_that_was_removed_leaves_no_mark() -> None:
    made = monitored()
    live(made, (0, 1.0, 0, T0), (1, 1.0, 0, T0))
    known = names(made)
    made.remove(0)
    assert set(restore(dump(made, known, 1)).of) == {"T1"}


def test_handles_of_an_earlier_run_can_be_kept() -> None:
    made = Assembler()
    made.restore(Marks(1, {"A": Mark(T0, 0)}), ["A"])
    assert made.add(Series("A"), 70) == 70
    assert made.handles == 71
    assert made.add(Series("B")) == 71
    made.fix(70, Rule.DOUBLE)
    assert live(made, (70, 1.0, 0, T0)) == []
    assert times(live(made, (70, 1.0, 0, T0 + 1), (3, 1.0, 0, T0))) == [("A", T0 + 1)]


def test_ten_thousand_tags_take_less_than_100_kb_and_some_milliseconds() -> None:
    made = monitored(tags=10_000)
    rng = np.random.default_rng(7)
    stamps = (T0 + rng.integers(0, 5000, 10_000) * 1_000_003).tolist()
    live(made, *((handle, 1.0, 0, stamp) for handle, stamp in enumerate(stamps)))
    known = names(made)
    best = 1.0
    for _ in range(5):
        began = time.process_time()
        data = dump(made, known, 1)
        best = min(best, time.process_time() - began)
    assert len(data) < 100_000
    assert best < 0.05
    assert dump(made, known, 1) == data
    assert len(restore(data).of) == 10_000


@given(st.lists(st.tuples(st.text(max_size=5), INT64, INT64), unique_by=lambda row: row[0]), st.integers(0, 2**62))
def test_a_note_comes_back_as_it_was(rows: list[tuple[str, int, int]], newest: int) -> None:
    columns = [np.array([row[place] for row in rows], np.int64) for place in (1, 2)]
    head, back = unpack(pack({"newest": newest, "tags": [row[0] for row in rows]}, columns), 2)
    assert (head["newest"], head["tags"]) == (newest, [row[0] for row in rows])
    assert [column.tolist() for column in back] == [column.tolist() for column in columns]


@given(
    st.one_of(
        st.binary(max_size=60),
        st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=9)).map(lambda one: ("overwrite", *one)),
        st.integers(0, 200),
    )
)
def test_what_is_no_dump_is_told_and_leaves_no_marks(damage: object) -> None:
    made = monitored()
    live(made, (0, 1.0, 0, T0), (1, 1.0, 0, T0))
    good = dump(made, names(made), 1)
    if isinstance(damage, bytes):
        data = damage
    elif isinstance(damage, int):
        data = good[: damage % len(good)]
    else:
        assert isinstance(damage, tuple)
        _, place, content = damage
        place %= len(good)
        data = good[:place] + content + good[place + len(content) :]
    marks = restore(data)
    assert marks.trouble or len(marks.of) == 2
    if marks.trouble:
        assert (marks.of, marks.newest) == ({}, 0)


def test_no_dump_is_no_trouble() -> None:
    assert restore(None) == Marks()


@pytest.mark.parametrize(
    ("head", "columns"),
    [
        ({"v": 2, "tags": []}, 2),
        ({"tags": ["A"]}, 2),
        ({"tags": "A"}, 2),
        ({"tags": [1]}, 2),
        ({}, 2),
        ({"tags": []}, 1),
    ],
)
def test_a_dump_of_another_shape_is_told(head: dict[str, object], columns: int) -> None:
    data = pack(head, [np.zeros(3, np.int64)] * columns)
    assert "cannot be read" in restore(data).trouble


def test_a_size_that_is_not_believable_is_refused_before_memory_is_spent() -> None:
    huge = bytes.fromhex("28b52ffda00000ffff0100") + b"x"
    with pytest.raises(NoteError):
        unpack(huge, 1)
