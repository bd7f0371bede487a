"""Many questions in few requests: whatever one of them does to its request, the others are answered, and cheaply."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.services.batches import TOO_MUCH, Batch, in_batches
from opcua_collector.stack import UaError, UaStatusCodeError, ua
from opcua_collector.values.encoding import MalformedError

STATUS = ua.StatusCodes
POISONS = sorted(TOO_MUCH - {STATUS.BadTooManyMonitoredItems, STATUS.BadOutOfMemory})
"""Failures that may be the fault of one question. Of the other two, the next question would get them as well."""


@dataclass
class Server:
    """Doubles numbers. `takes`: questions per request; `poisoned`: those that no request survives."""

    takes: int = 10**9
    poisoned: frozenset[int] = frozenset()
    error: int = STATUS.BadDecodingError
    too_large: int = STATUS.BadTooManyOperations
    requests: list[int] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def ask(self, some: Sequence[int]) -> Sequence[int]:
        self.requests.append(len(some))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if len(some) > self.takes:
            raise UaStatusCodeError(self.too_large)
        if self.poisoned.intersection(some):
            raise UaStatusCodeError(self.error)
        return [2 * one for one in some]


def refused(status: int) -> int:
    return -status


@given(
    count=st.integers(0, 300),
    size=st.integers(1, 100),
    parallel=st.integers(1, 4),
    poisoned=st.frozensets(st.integers(0, 299), max_size=12),
    error=st.sampled_from(POISONS),
)
def test_whatever_questions_are_poisoned_all_others_are_answered_in_few_requests(
    count: int, size: int, parallel: int, poisoned: frozenset[int], error: int
) -> None:
    async def scenario() -> None:
        server = Server(poisoned=poisoned, error=error)
        batch = Batch(size, parallel)
        answers = await in_batches(range(count), batch, server.ask, failed=refused)
        assert answers == [-error if one in poisoned else 2 * one for one in range(count)]
        bad = len([one for one in poisoned if one < count])
        assert len(server.requests) <= math.ceil(count / size) + 2 * bad * math.ceil(math.log2(size) + 1)
        assert server.most_at_once <= parallel
        assert batch.now == size, "a poisoned question says nothing about how many a request may have"

    asyncio.run(scenario())


@given(
    count=st.integers(0, 2000),
    size=st.integers(1, 1000),
    takes=st.integers(1, 1000),
    parallel=st.integers(1, 3),
    too_large=st.sampled_from(sorted(TOO_MUCH)),
)
def test_requests_that_are_too_large_become_smaller_and_all_is_answered(
    count: int, size: int, takes: int, parallel: int, too_large: int
) -> None:
    async def scenario() -> None:
        server = Server(takes=takes, too_large=too_large)
        batch = Batch(size, parallel)
        assert await in_batches(range(count), batch, server.ask, failed=refused) == [2 * one for one in range(count)]
        smallest = max(1, min(size, takes) // 2)
        halvings = math.ceil(math.log2(size) + 1)
        assert len(server.requests) <= 2 * math.ceil(count / smallest) + parallel * 4 * halvings
        if count > 2 * size and size > takes:
            assert batch.now <= size // 2 + 1

    asyncio.run(scenario())


@given(
    poisoned=st.frozensets(st.integers(0, 399), max_size=5),
    takes=st.integers(2, 200),
    parallel=st.integers(1, 3),
)
def test_too_large_and_poisoned_at_once(poisoned: frozenset[int], takes: int, parallel: int) -> None:
    async def scenario() -> None:
        server = Server(takes, poisoned)
        answers = await in_batches(range(400), Batch(100, parallel), server.ask, failed=refused)
        assert answers == [-server.error if one in poisoned else 2 * one for one in range(400)]

    asyncio.run(scenario())


async def test_what_a_server_takes_is_remembered_and_more_is_tried_after_a_run_of_successes() -> None:
    server = Server(takes=30)
    batch = Batch(100)
    await in_batches(range(300), batch, server.ask)
    assert batch.now == 25
    server.requests.clear()
    await in_batches(range(100), batch, server.ask)
    assert server.requests == [25] * 4, "nothing is refused any more"
    server.takes = 1000
    for _ in range(50):
        await in_batches(range(400), batch, server.ask)
    assert batch.now == 100


async def test_a_line_that_breaks_under_a_request_is_raised_and_the_next_session_begins_with_half() -> None:
    async def ask(some: Sequence[int]) -> Sequence[int]:
        raise ConnectionError("Connection is closed")

    batch = Batch(100)
    with pytest.raises(ConnectionError):
        await in_batches(range(300), batch, ask, failed=refused)
    assert batch.now == 50
    assert Batch(100, 2, batch.now).now == 50


@pytest.mark.parametrize("error", [STATUS.BadSessionIdInvalid, STATUS.BadSubscriptionIdInvalid, STATUS.BadShutdown])
async def test_what_is_no_questions_fault_is_raised(error: int) -> None:
    server = Server(poisoned=frozenset({5}), error=error)
    with pytest.raises(UaStatusCodeError):
        await in_batches(range(10), 10, server.ask, failed=refused)
    assert server.requests == [10]


async def test_a_question_that_is_never_answered_costs_itself() -> None:
    async def ask(some: Sequence[int]) -> Sequence[int]:
        if 37 in some:
            raise asyncio.TimeoutError
        return some

    answers = await in_batches(range(100), 50, ask, failed=refused)
    assert answers == [*range(37), -STATUS.BadTimeout, *range(38, 100)]


async def test_a_server_that_answers_nothing_in_time_is_not_asked_for_each_question_alone() -> None:
    asked: list[int] = []

    async def ask(some: Sequence[int]) -> Sequence[int]:
        asked.append(len(some))
        raise asyncio.TimeoutError

    with pytest.raises(asyncio.TimeoutError):
        await in_batches(range(1000), 1000, ask, failed=refused)
    assert len(asked) <= 14
    asked.clear()
    with pytest.raises(asyncio.TimeoutError):
        await in_batches(range(3), 1000, ask, failed=refused)
    assert asked == [3]


async def test_an_answer_that_cannot_be_read_costs_the_question_to_blame() -> None:
    async def ask(some: Sequence[int]) -> Sequence[int]:
        if 3 in some:
            raise MalformedError("no such variant")
        return some

    assert await in_batches(range(8), 8, ask, failed=refused) == [0, 1, 2, -STATUS.BadDecodingError, 4, 5, 6, 7]


async def test_a_server_that_is_full_is_not_asked_for_each_of_the_rest() -> None:
    class Full(Server):
        async def ask(self, some: Sequence[int]) -> Sequence[int]:
            self.requests.append(len(some))
            if max(some) >= 100:
                raise UaStatusCodeError(STATUS.BadTooManyMonitoredItems)
            return some

    server = Full()
    answers = await in_batches(range(10_000), 1000, server.ask, failed=refused)
    assert answers == [*range(100), *[-STATUS.BadTooManyMonitoredItems] * 9_900]
    assert len(server.requests) < 40


async def test_without_a_word_for_it_the_error_of_a_single_question_is_raised() -> None:
    with pytest.raises(UaStatusCodeError):
        await in_batches(range(8), 8, Server(poisoned=frozenset({3})).ask)


async def test_another_number_of_answers_than_questions_is_an_error() -> None:
    async def ask(some: Sequence[int]) -> Sequence[int]:
        return some[1:]

    with pytest.raises(UaError, match="9 answers to 10 questions"):
        await in_batches(range(10), 10, ask, failed=refused)
