"""The journal: a record is read as it was written; batches that come again are put into the order of the records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor import journal
from preprocessor.engine.step import Turn
from preprocessor.journal import Batch, Rebuild, Record, Span, spans_of

from . import made

OTHER = "ffffffffffff"
turns = st.builds(Turn, st.integers(0, 2**62), st.integers(0, 2**62), st.booleans())
spans = st.builds(
    lambda stream, epoch, first, more: Span(stream, epoch, first, first + more),
    st.sampled_from(["plant/a", "plant/b/backfill"]),
    st.sampled_from([made.EPOCH, OTHER]),
    st.integers(1, 2**40),
    st.integers(0, 10),
)
records = st.builds(
    Record,
    st.integers(1, 2**40),
    turns,
    st.lists(turns, max_size=3).map(tuple),
    st.lists(spans, max_size=4).map(tuple),
    st.lists(spans, max_size=4).map(tuple),
    st.integers(0, 10**6),
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**3)),
)


@given(records)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert journal.decode(record.number, record.encode()) == record


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"now":1}', b"\xff"])
def test_a_record_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="the record of turn 7 cannot be read"):
        journal.decode(7, data)


def test_batches_that_follow_each_other_are_one_range_as_long_as_no_other_comes_between() -> None:
    batches = [made.batch("a/a", 1), made.batch("a/a", 2), made.batch("b/b", 7), made.batch("a/a", 3)]
    assert [(span.stream, span.first, span.last) for span in spans_of(batches)] == [
        ("a/a", 1, 2),
        ("b/b", 7, 7),
        ("a/a", 3, 3),
    ]


@given(st.lists(st.lists(st.sampled_from("ab"), max_size=5), min_size=1, max_size=6), st.randoms())
def test_whatever_the_order_in_which_streams_come_again_the_turns_are_those_of_before(
    made_of: list[list[str]], random: object
) -> None:
    numbers = {"a": 0, "b": 0}
    turns_before: list[list[Batch]] = []
    for streams in made_of:
        turns_before.append([])
        for stream in streams:
            numbers[stream] += 1
            turns_before[-1].append(made.batch(f"plant/{stream}", numbers[stream]))
    rebuild = Rebuild([Record(n, Turn(n, n), spans=spans_of(batches)) for n, batches in enumerate(turns_before, 1)])
    waiting = {name: [b for turn in turns_before for b in turn if b.header.stream[-1] == name] for name in "ab"}
    again = []
    while not rebuild.over:
        while (ready := rebuild.next()) is not None:
            again.append(ready[1])
        name = random.choice([name for name in "ab" if waiting[name]] or ["a"])  # type: ignore[attr-defined]
        if waiting[name]:
            assert rebuild.take(waiting[name].pop(0))
    assert again == turns_before
    assert rebuild.left_out == []
    assert rebuild.cursors() == {(f"plant/{name}", made.EPOCH): n + 1 for name, n in numbers.items() if n}


def test_what_comes_behind_the_records_is_not_theirs() -> None:
    rebuild = Rebuild([Record(1, Turn(1, 1), spans=(Span("a/a", made.EPOCH, 3, 4),))])
    assert rebuild.take(made.batch("a/a", 2))  # stands before them: it is done with
    assert rebuild.take(made.batch("a/a", 3))
    assert not rebuild.take(made.batch("a/a", 5))
    assert not rebuild.take(made.batch("b/b", 1))
    assert [str(span) for span in rebuild.missing()] == [f"4 to 4 of a/a (epoch {made.EPOCH})"]


def test_what_was_passed_over_is_not_waited_for_and_not_processed() -> None:
    passed = (Span("a/a", made.EPOCH, 4, 4), Span("a/a", made.EPOCH, 9, 12))
    rebuild = Rebuild(
        [Record(1, Turn(1, 1), spans=(Span("a/a", made.EPOCH, 3, 3), Span("a/a", made.EPOCH, 5, 5)), passed=passed)]
    )
    for number in (3, 4, 5):
        assert rebuild.take(made.batch("a/a", number))
    ready = rebuild.next()
    assert ready is not None
    assert [batch.header.seq for batch in ready[1]] == [3, 5]
    assert rebuild.cursors() == {("a/a", made.EPOCH): 13}


def test_the_cursor_is_behind_the_last_of_both_what_was_processed_and_what_was_passed_over() -> None:
    record = Record(1, Turn(1, 1), spans=(Span("a/a", made.EPOCH, 4, 4),), passed=(Span("a/a", made.EPOCH, 3, 3),))
    assert Rebuild([record]).cursors() == {("a/a", made.EPOCH): 5}


def test_what_is_given_up_is_left_out_and_told() -> None:
    rebuild = Rebuild([Record(1, Turn(1, 1), spans=(Span("a/a", made.EPOCH, 3, 6),))])
    rebuild.take(made.batch("a/a", 3))
    rebuild.give_up("a/a", made.EPOCH, 1, 5)
    assert rebuild.next() is None
    rebuild.take(made.batch("a/a", 6))
    ready = rebuild.next()
    assert ready is not None
    assert [batch.header.seq for batch in ready[1]] == [3, 6]
    assert rebuild.left_out == [Span("a/a", made.EPOCH, 4, 5)]
