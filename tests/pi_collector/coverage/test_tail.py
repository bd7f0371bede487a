"""What was handed on is known again, in few and small pieces, and forgotten when it cannot come any more."""

from __future__ import annotations

import random
from collections import Counter

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from numpy.typing import NDArray

from pi_collector.coverage.tail import FACTOR, Keys, Tail, keys_of, mixed

from .archives import SECOND

U64 = np.uint64
NEVER = -(2**63)


def keys(rows: list[tuple[int, int, int]]) -> tuple[Keys, NDArray[np.intp]]:
    salts = np.array([row[0] for row in rows], U64)
    return keys_of(salts, np.array([row[1] for row in rows], np.int64), np.array([row[2] for row in rows], U64))


def noted(tail: Tail, count: int, time: int, *, stream: int = 0, chance: random.Random | None = None) -> Keys:
    chance = chance or random.Random(time + stream)
    new = np.sort(np.array([chance.getrandbits(64) for _ in range(count)], U64))
    tail.note(new, np.full(count, stream, np.int32), np.full(count, time, np.int64))
    return new


def test_keys_are_the_same_on_every_machine_and_in_every_version() -> None:
    # As the published reference implementation of splitmix64 gives them for the state 0x9E3779B97F4A7C15.
    assert mixed(np.array([0x9E3779B97F4A7C15], U64)).tolist() == [0xE220A8397B1DCDAF]
    made, order = keys([(1, 1_700_000_000_000_000_000, 2), (1, 1_700_000_000_000_000_000, 2), (2, -100, 0)])
    expected = {0: 0xDE99C6D499549DE6, 1: 0x7FC0B6A63D630E65, 2: 0xF219ADF8B8F84566}
    assert dict(zip(order.tolist(), made.tolist(), strict=True)) == expected


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2), st.integers(0, 2)), min_size=1))
def test_rows_have_one_key_only_when_stream_time_value_and_ordinal_are_the_same(
    rows: list[tuple[int, int, int]],
) -> None:
    made, order = keys(rows)
    assert len(set(made.tolist())) == len(rows)
    assert (made[1:] > made[:-1]).all()
    assert sorted(order.tolist()) == list(range(len(rows)))
    # In another order of the answer the same keys come out.
    shuffled = rows[::-1]
    assert keys(shuffled)[0].tolist() == made.tolist()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 1)), min_size=1))
def test_ordinals_count_identical_rows_in_the_order_of_the_answer(rows: list[tuple[int, int, int]]) -> None:
    made, order = keys(rows)
    by_row = np.zeros(len(rows), U64)
    by_row[order] = made
    seen: Counter[tuple[int, int, int]] = Counter()
    expected: dict[tuple[int, int, int, int], int] = {}
    for row, key in zip(rows, by_row.tolist(), strict=True):
        stream, time, value = row
        expected[stream, time, value, seen[row]] = key
        seen[row] += 1
    alone = {(*row, 0): int(keys([row])[0][0]) for row in set(rows)}
    assert {name: expected[name] for name in alone} == alone


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_it_knows_exactly_what_was_noted(seed: int, calls: int) -> None:
    chance, tail = random.Random(seed), Tail()
    known: set[int] = set()
    for call in range(calls):
        new = noted(tail, chance.randrange(1, 30), call * SECOND, chance=chance)
        known.update(new.tolist())
        if chance.random() < 0.3:
            tail.fold(np.full(1, NEVER), NEVER)
    asked = np.sort(np.array(list(known) + [chance.getrandbits(64) for _ in range(50)], U64))
    assert [key in known for key in asked.tolist()] == tail.seen(asked, NEVER, 2**63 - 1).tolist()
    assert len(tail) == len(known)


def test_many_checkpoints_leave_few_segments_and_each_key_is_written_a_few_times() -> None:
    tail, written, kept = Tail(), 0, 0
    for checkpoint in range(1500):
        kept += len(noted(tail, 50, checkpoint * SECOND))
        new, _ = tail.fold(np.full(1, NEVER), NEVER)
        written += sum(len(segment.note) for segment in new)
        assert len(tail.segments) <= 6 * FACTOR
    assert len(tail) == kept
    assert written / 8 / kept < 8


def test_a_segment_goes_when_all_of_it_is_before_the_horizon() -> None:
    tail = Tail()
    for second in range(10):
        noted(tail, 5, second * SECOND)
        tail.fold(np.full(1, NEVER), NEVER)
    before = len(tail.segments)
    _, gone = tail.fold(np.full(1, NEVER), 9 * SECOND)
    assert len(tail.segments) < before
    assert gone
    assert all(segment.run.last >= 9 * SECOND for segment in tail.segments)


def test_what_a_long_backfill_has_brought_is_not_kept_but_for_what_can_be_read_again() -> None:
    tail = Tail()
    noted(tail, 1000, 5 * SECOND, stream=0)
    live = noted(tail, 10, 900 * SECOND, stream=1)
    needed = np.array([60 * SECOND, 100 * SECOND], np.int64)  # stream 0 was read past its old values
    tail.fold(needed, 0)
    assert len(tail) == 10
    assert tail.seen(live, 900 * SECOND, 900 * SECOND).all()


def test_beyond_its_bound_the_oldest_goes_and_is_counted() -> None:
    tail = Tail(most=100)
    for second in range(10):
        noted(tail, 30, second * SECOND)
        tail.fold(np.full(1, NEVER), NEVER)
    assert len(tail) <= 100
    assert len(tail) + tail.shortened == 300
    assert tail.status()["shortened"] == tail.shortened


def test_a_segment_that_was_kept_is_what_it_was_and_a_damaged_one_is_none() -> None:
    tail = Tail()
    known = noted(tail, 100, SECOND)
    (segment,), _ = tail.fold(np.full(1, NEVER), NEVER)
    about = (len(segment.run.keys), segment.crc, segment.run.first, segment.run.last)
    again = Tail()
    assert again.restore(segment.number, segment.note, *about)
    assert again.seen(known, SECOND, SECOND).all()
    assert again.next == segment.number + 1
    damaged = bytearray(segment.note)
    damaged[17] ^= 1
    assert not Tail().restore(segment.number, bytes(damaged), *about)
    assert not Tail().restore(segment.number, segment.note[:-8], *about)
