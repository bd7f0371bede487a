"""Small changes are held back by tag, and no change of quality ever is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opcua_collector.history.gaps import Gaps
from opcua_collector.history.marks import Marks
from opcua_collector.types.typed import Rule
from opcua_collector.values.deadband import Deadband, Rows
from opcua_collector.values.notifications import Block, Publication
from opcua_collector.values.samples import Assembler
from sluice.batch import Header, Sample, SampleBatch, Series

statuses = st.sampled_from([0, 0x480, 0x40900000, 0x80310000, -1])
reals = st.integers(-6, 6).map(lambda n: n / 2) | st.sampled_from([None, math.nan, math.inf])
wholes = st.integers(-6, 6) | st.sampled_from([None, 2**62, -(2**62), 2**62 + 1])
Row = tuple[int, Any, int]


def rows(form: Any, some: list[Row], start: int = 0) -> Rows:
    null = np.array([value is None or status < 0 for _, value, status in some], bool)
    values = np.array([0 if none else value for (_, value, _), none in zip(some, null, strict=True)], form)
    return Rows(
        np.array([handle for handle, _, _ in some], np.int64),
        values,
        null,
        np.array([status for _, _, status in some], np.int64),
        np.arange(start, start + len(some), dtype=np.int64),
    )


class Slow:
    """The same, sample by sample, as the text says it."""

    def __init__(self, width: float) -> None:
        self.width = width
        self.of: dict[int, tuple[Any, Any]] = {}  # key and value of the last that was handed on
        self.held: dict[int, int] = {}  # number of the one before, if it was held back

    def take(self, number: int, row: Row) -> list[int]:
        """Numbers of the samples that are handed on now."""
        handle, value, status = row
        none = value is None or status < 0 or not math.isfinite(value)
        kind = "nan" if isinstance(value, float) and not math.isfinite(value) and status >= 0 else none
        key = (kind, 0 if kind == "nan" else status if status < 0 else status >> 16)
        before = self.of.get(handle)
        if before is not None and before[0] == key and (none or abs(value - before[1]) <= self.width):
            self.held[handle] = number
            return []
        found = [number]
        held = self.held.pop(handle, None)
        if before is not None and before[0] != key and held is not None:
            found.insert(0, held)
        self.of[handle] = (key, value)
        return found


@pytest.mark.parametrize("form", [np.float64, np.int64])
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_it_hands_on_what_going_through_sample_by_sample_hands_on(form: Any, data: Any) -> None:
    value = reals if form is np.float64 else wholes
    tags = data.draw(st.sampled_from([1, 3, 200]), "tags")
    row = st.tuples(st.integers(0, tags - 1), value, statuses)
    one = st.lists(row, max_size=60)
    if tags == 200:  # all of them at once, some of them often
        one = st.lists(row, max_size=30).map(lambda more: [(n, float(n % 3), 0) for n in range(200)] * 3 + more)
        one = one.map(lambda some: [(n, None if v is None else form(v).item(), s) for n, v, s in some])
    messages = data.draw(st.lists(one, max_size=4), "messages")
    width = data.draw(st.sampled_from([0.4, 1.0, 2.5]), "width")
    fast, slow = Deadband(), Slow(width)
    for handle in range(tags):
        fast.set(handle, width)
    number = 0
    for some in messages:
        wanted = [found for place, row in enumerate(some) for found in slow.take(number + place, row)]
        got = []
        if some:
            verdict = fast.live(rows(form, some, number))
            before = dict(zip(verdict.at.tolist(), verdict.released.time.tolist(), strict=True))
            for place in range(len(some)):
                got += [before[place]] if place in before else []
                got += [number + place] if verdict.keep[place] else []
        number += len(some)
        assert sorted(got) == sorted(wanted)


def block(*some: tuple[int, float | None, int, int]) -> Block:
    """(handle, value, status, time) each."""
    return Block(
        11,
        np.arange(len(some), dtype=np.int64),
        np.array([handle for handle, *_ in some], np.int64),
        np.array([math.nan if value is None else value for _, value, _, _ in some]),
        np.array([status for _, _, status, _ in some], np.uint32),
        np.array([time for *_, time in some], np.int64),
    )


def assembler(width: float | None, gaps: Gaps | None = None) -> Assembler:
    made = Assembler(gaps)
    made.fix(made.add(Series("T")), Rule.DOUBLE)
    made.filter(0, width)
    return made


def live(made: Assembler, *some: tuple[float | None, int, int]) -> list[tuple[Any, int, Any]]:
    """(value, time, status) of what is handed on of (value, status, time)."""
    message = Publication(blocks=(block(*((0, *one) for one in some)),))
    return shown([sample for columns in made.columns(message) for sample in columns.samples()])


def shown(samples: list[Sample]) -> list[tuple[Any, int, Any]]:
    return [(sample.value, sample.time, sample.status) for sample in samples]


def test_a_change_of_quality_is_told_with_the_value_before_it_even_from_an_earlier_message() -> None:
    made = assembler(1.0)
    assert live(made, (10.0, 0, 1), (10.5, 0, 2)) == [(10.0, 1, 0)]
    assert (made.counts.filtered, made.counts.deadband) == (1, 1)
    assert live(made, (10.6, 0x40900000, 3)) == [(10.5, 2, 0), (10.6, 3, 0x40900000)]
    assert (made.counts.filtered, made.counts.deadband) == (0, 0), "what is handed on after all was not filtered"
    assert live(made, (10.7, 0x40900000, 4), (10.8, 0, 5)) == [(10.7, 4, 0x40900000), (10.8, 5, 0)]


def test_a_value_is_measured_against_the_last_one_handed_on_not_against_its_neighbour() -> None:
    made = assembler(1.0)
    drift = live(made, *((n * 0.4, 0, n + 1) for n in range(8)))
    assert [value for value, _, _ in drift] == pytest.approx([0.0, 1.2, 2.4])


def test_what_is_held_back_has_been_seen_and_history_does_not_bring_it() -> None:
    gaps = Gaps(patience=0, settling=0)
    made = assembler(1.0, gaps)
    live(made, (10.0, 0, 1_000), (10.1, 0, 2_000))
    made.gaps.open(None, "away")
    assert live(made, (10.2, 0, 9_000), (10.3, 0, 9_500)) == [(10.1, 2_000, 0), (10.2, 9_000, 0)]
    made.gaps.eligible(0, "")
    [piece] = gaps.work(0.0, 1)
    assert (piece.at, piece.until) == (2_000, 9_000)


@pytest.mark.parametrize("status", [0, 0x480])
def test_what_was_read_back_once_is_not_read_again_after_a_kill(status: int) -> None:
    """The end of a hole has to be in the outbox: else the mark falls back behind what history has brought."""
    gaps, marks = Gaps(patience=0, settling=0), Marks()
    batches: list[SampleBatch] = []
    made = assembler(1.0, gaps)
    gaps.eligible(0, "")

    def take(*some: tuple[float | None, int, int]) -> None:
        for columns in made.columns(Publication(blocks=(block(*((0, *one) for one in some)),))):
            batches.append(SampleBatch(Header("a/b", "0123456789ab", len(batches) + 1), columns))

    take((10.0, 0, 1_000))
    if not status:
        gaps.open(None, "away")
    take((10.2, status, 9_000))
    [piece] = gaps.work(0.0, 1)
    made.brought([block((0, 10.1, 0, 5_000))])
    gaps.advanced(piece, 5_000)
    gaps.finished(piece)
    note = gaps.dump(len(batches))
    take((10.3, 0, 9_500))  # held back, and gone with the kill
    after = Gaps(patience=0, settling=0)
    after.load(note)
    for batch in batches:
        after.replay(batch, marks)
        marks.advance(batch)
    again = Assembler(after)
    again.restore(marks, {"T"})
    again.fix(again.add(Series("T")), Rule.DOUBLE)
    again.filter(0, 1.0)
    after.eligible(0, "")
    after.open(None, "recreated")
    live(again, (10.4, 0, 20_000))
    assert [(piece.at, piece.until) for piece in after.work(0.0, 9)] == [(9_000, 20_000)]


def test_history_goes_through_the_same_sieve_in_its_own_order_and_leaves_what_is_live_alone() -> None:
    made = assembler(1.0)
    live(made, (10.0, 0, 100))
    past = made.brought([block((0, 3.0, 0, 1), (0, 3.5, 0, 2), (0, 4.5, 0, 3), (0, 4.6, 0x80310000, 4))])
    assert shown([sample for columns in past for sample in columns.samples()]) == [
        (3.0, 1, 0),
        (4.5, 3, 0),
        (4.6, 4, 0x80310000),
    ]
    assert live(made, (10.5, 0, 101)) == []


def test_without_a_width_all_is_handed_on_and_a_new_width_begins_with_a_sample() -> None:
    made = assembler(1.0)
    live(made, (10.0, 0, 1))
    made.filter(0, None)
    assert len(live(made, (10.1, 0, 2), (10.2, 0, 3))) == 2
    made.filter(0, 5.0)
    assert live(made, (10.3, 0, 4), (10.4, 0, 5)) == [(10.3, 4, 0)]


def test_a_tag_under_another_handle_keeps_its_width() -> None:
    made = assembler(1.0)
    live(made, (10.0, 0, 1))
    made.another(0)
    message = Publication(blocks=(block((1, 20.0, 0, 2), (1, 20.5, 0, 3)),))
    assert [len(columns) for columns in made.columns(message)] == [1]
