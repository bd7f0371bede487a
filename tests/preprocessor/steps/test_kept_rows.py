"""Rows that are kept by tag come out as they went in, of every type, also after they were stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engine.block import Block
from preprocessor.engine.packing import pack, unpack
from preprocessor.steps.kept_rows import KeptRows
from sluice.columns import DTYPES, ValueType

SIZE = 6
VALUES = {
    ValueType.DOUBLE: st.floats(allow_nan=False),
    ValueType.INTEGER: st.integers(-(2**63), 2**63 - 1),
    ValueType.BOOLEAN: st.booleans(),
    ValueType.STRING: st.text(max_size=3),
}
Row = tuple[ValueType, object, int, int, int, int, bool, bool]


@st.composite
def rows(draw: st.DrawFn) -> Row:
    of = draw(st.sampled_from(list(ValueType)))
    null = draw(st.booleans())
    return (
        of,
        None if null else draw(VALUES[of]),
        draw(st.integers(-(2**63), 2**63 - 1)),
        2 if null else draw(st.integers(0, 2)),
        draw(st.integers(-5, 5)),
        draw(st.integers(0, 3)),
        draw(st.booleans()),
        null,
    )


def block_of(slot: int, row: Row) -> Block:
    of, value, t, quality, status, context, backfill, null = row
    values = np.empty(1, dtype=DTYPES[of])
    values[0] = value if not null else {ValueType.DOUBLE: np.nan, ValueType.STRING: None}.get(of, 0)
    flagged = of in (ValueType.INTEGER, ValueType.BOOLEAN)
    return Block(
        of,
        np.array([slot], dtype=np.int32),
        np.array([t]),
        values,
        np.array([quality], dtype=np.uint8),
        np.array([status]),
        np.array([null]) if flagged else None,
        context=np.array([context], dtype=np.int32),
        backfill=backfill,
    )


def rows_of(block: Block) -> dict[int, Row]:
    nulls = block.nulls().tolist()
    contexts = [0] * len(block) if block.context is None else block.context.tolist()
    values = block.value.tolist()
    return {
        slot: (
            block.type,
            None if nulls[i] else values[i],
            int(block.t[i]),
            int(block.quality[i]),
            int(block.status[i]),
            contexts[i],
            block.backfill,
            nulls[i],
        )
        for i, slot in enumerate(block.slot.tolist())
    }


@given(st.lists(st.tuples(st.integers(0, SIZE - 1), rows()), max_size=30))
def test_the_last_row_of_each_tag_is_kept(puts: list[tuple[int, Row]]) -> None:
    kept = KeptRows()
    kept.grow(SIZE)
    expected: dict[int, Row] = {}
    first = np.zeros(1, dtype=np.intp)
    for slot, row in puts:
        block = block_of(slot, row)
        slots = np.array([slot], dtype=np.intp)
        same = kept.same(slots, block, first, block.nulls())
        before = expected.get(slot)
        alike = before is not None and (before[0], before[1], before[3]) == (row[0], row[1], row[3])
        assert bool(same[0]) == alike
        kept.put(slots, block, first, block.nulls())
        expected[slot] = row
    stored = KeptRows()
    stored.load(unpack(pack(kept.save())))
    copied = KeptRows()
    copied.grow(SIZE)
    copied.copy(kept, np.arange(SIZE))
    for one in (kept, stored, copied):
        found: dict[int, Row] = {}
        for block in one.blocks(np.array(sorted(expected), dtype=np.intp)):
            found |= rows_of(block)
        assert found == expected
        assert [one.value(slot) for slot in range(SIZE)] == [
            expected[slot][1] if slot in expected else None for slot in range(SIZE)
        ]


def test_what_is_no_state_is_refused_and_changes_nothing() -> None:
    kept = KeptRows()
    kept.grow(SIZE)
    saved = kept.save()
    for wrong in ({**saved, "t": np.zeros(2)}, {**saved, "type": np.full(len(kept), 9)}):
        with pytest.raises(ValueError, match="kept row"):
            kept.load(wrong)
    assert len(kept) >= SIZE
