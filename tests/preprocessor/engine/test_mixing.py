"""Rows of a tag that come in several types are one sequence in time again once they are of one type."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engine.block import Block
from preprocessor.engine.mixing import as_one
from preprocessor.engine.step import Step, Turn
from preprocessor.step_settings import StepSettings
from sluice.columns import Sample, ValueType

from ..flows import at, feed, flow, pipeline


def block(rows: Sequence[tuple[int, int, bool]], *, of: ValueType = ValueType.DOUBLE, backfill: bool = False) -> Block:
    """Rows of slot, time, late."""
    rows = sorted(rows, key=lambda row: row[0])
    size = len(rows)
    return Block(
        of,
        np.array([slot for slot, _, _ in rows], dtype=np.int32),
        np.array([time for _, time, _ in rows], dtype=np.int64),
        np.arange(size, dtype=np.float64),
        np.zeros(size, dtype=np.uint8),
        np.zeros(size, dtype=np.int64),
        late=np.array([late for _, _, late in rows], dtype=np.bool_),
        backfill=backfill,
    )


def rows(of: Block) -> list[tuple[int, int, bool]]:
    late = np.zeros(len(of), dtype=np.bool_) if of.late is None else of.late
    return list(zip(of.slot.tolist(), of.t.tolist(), late.tolist(), strict=True))


def test_only_tags_that_meet_are_sorted_by_time() -> None:
    one = block([(0, 5, False), (0, 3, True), (1, 7, False)])  # tag 0 comes in this block alone
    other = block([(1, 6, True), (1, 8, False)])
    (out,) = as_one([one, other], {1: 5})
    assert rows(out) == [(0, 5, False), (0, 3, True), (1, 6, False), (1, 7, False), (1, 8, False)]


def test_what_is_older_than_the_turn_stays_late_and_so_does_a_second_row_of_a_time() -> None:
    (out,) = as_one([block([(0, 7, False)]), block([(0, 4, True), (0, 7, True)])], {0: 5})
    assert rows(out) == [(0, 4, True), (0, 7, False), (0, 7, True)]


def test_backfill_is_sorted_and_keeps_its_marks() -> None:
    (out,) = as_one([block([(0, 7, False)], backfill=True), block([(0, 6, True)], backfill=True)], {0: 5})
    assert rows(out) == [(0, 6, True), (0, 7, False)]


def test_types_and_kinds_stay_apart() -> None:
    parts = [
        block([(0, 1, False)]),
        block([(0, 2, False)], backfill=True),
        block([(0, 3, False)], of=ValueType.INTEGER),
    ]
    assert as_one(parts, {}) == parts


TIMES = st.lists(st.integers(0, 30), unique=True, max_size=8).map(sorted)


@given(TIMES, TIMES, st.integers(-1, 15))
def test_rows_that_are_not_late_rise_from_what_was_there_before(
    first: list[int], second: list[int], before: int
) -> None:
    def marked(times: list[int], top: int) -> Block:
        return block([(0, time, time <= top) for time in times])

    parts = [marked(first, before), marked(second, max([before, *first]))]
    out = [row for part in as_one(parts, {0: before} if first and second else {}) for row in rows(part)]
    assert [time for _, time, _ in out] == sorted([*first, *second])
    assert [time for _, time, late in out if not late] == sorted({time for time in [*first, *second] if time > before})


class Mixed(Step[StepSettings]):
    """Sees which tags came in several types."""

    rank = 1
    seen: dict[int, int]

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        self.seen = dict(self.flow.mixed)
        return blocks


def test_a_pipeline_says_which_tags_came_in_several_types_and_since_when() -> None:
    context = flow()
    step = Mixed("mixed", StepSettings(), context)
    of = pipeline(context, step)
    feed(of, [Sample("a", at(1), 1.0), Sample("b", at(2), 1.0)])
    assert step.seen == {}
    feed(of, [Sample("a", at(3), 1.0), Sample("b", at(4), 1.0), Sample("b", at(5), "Bad")], 5)
    assert step.seen == {1: at(2)}
    feed(of, [Sample("b", at(6), 1.0)], 6)
    assert step.seen == {}
    assert of.held == 0
