"""What the server remembers of its rows, against a plain list of everything that was shown."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from asyncua.ua import DataValue, NodeId, Variant
from hypothesis import given
from hypothesis import strategies as st

from plant.history import History
from plant.unit import Reading

T0 = datetime(2026, 11, 22, tzinfo=timezone.utc)
NODE = NodeId("A", 2)  # type: ignore[arg-type]
KEPT = 20


def _prepare(column: int, reading: Reading, time: datetime) -> DataValue:
    return DataValue(Variant(reading.values[column]), SourceTimestamp=time)  # type: ignore[arg-type]


def _second(number: int | None) -> datetime | None:
    return None if number is None else T0 + timedelta(seconds=number)


def _filled(changed: list[bool]) -> tuple[History, list[int]]:
    """A history of rows at seconds 1, 2, 3 … and the seconds that a reader may still find."""
    history = History(KEPT, _prepare)
    history.add_unit([NODE])
    for number, new in enumerate(changed, 1):
        history.remember(0, T0 + timedelta(seconds=number), Reading((number,), (0,), (0,) if new else ()))
    first_kept = max(1, len(changed) - KEPT + 1)
    return history, [n for n, new in enumerate(changed, 1) if new and n >= first_kept]


def _found(values: list[DataValue]) -> list[int]:
    for value in values:
        assert value.Value is not None
        assert value.SourceTimestamp == _second(value.Value.Value)
    return [value.Value.Value for value in values if value.Value is not None]


@given(
    changed=st.lists(st.booleans(), max_size=30),
    start=st.integers(0, 32),
    end=st.integers(0, 32),
    limit=st.integers(0, 6),
)
async def test_reading_on_to_the_end_finds_every_value_between_the_times_once(
    changed: list[bool], start: int, end: int, limit: int
) -> None:
    history, kept = _filled(changed)
    expected = [n for n in kept if start <= n < end or n == start == end]
    if end < start:
        expected = [n for n in reversed(kept) if end < n <= start]
    found: list[int] = []
    position = _second(start)
    while True:
        values, position = await history.read_node_history(NODE, position, _second(end), limit)
        assert len(values) <= limit or limit == 0
        found += _found(values)
        if position is None:
            break
    assert found == expected


@given(changed=st.lists(st.booleans(), max_size=30), time=st.integers(0, 32), limit=st.integers(1, 6))
async def test_with_one_time_given_the_limit_is_all_that_is_answered(
    changed: list[bool], time: int, limit: int
) -> None:
    history, kept = _filled(changed)
    values, position = await history.read_node_history(NODE, _second(time), None, limit)
    assert (_found(values), position) == ([n for n in kept if n >= time][:limit], None)
    values, position = await history.read_node_history(NODE, None, _second(time), limit)
    assert (_found(values), position) == ([n for n in reversed(kept) if n <= time][:limit], None)


async def test_an_unknown_node_has_no_history() -> None:
    history, _ = _filled([True])
    unknown = NodeId("B", 2)  # type: ignore[arg-type]
    assert await history.read_node_history(unknown, _second(0), _second(9), 0) == ([], None)


async def test_the_server_cannot_be_made_to_historize_by_subscribing_to_itself() -> None:
    history, _ = _filled([])
    with pytest.raises(Exception, match="remembers rows"):
        await history.new_historized_node(NODE, None)
