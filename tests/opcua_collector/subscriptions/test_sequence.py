"""Order, gaps and roll-over of notification messages."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.subscriptions.sequence import LAST, Missing, Sequence, distance, following

starts = st.sampled_from([1, 2, 1000, LAST - 3, LAST - 1, LAST])


def passed_over(order: Sequence[int]) -> tuple[list[int], list[int]]:
    """Give up all that is overdue: (what was delivered behind it, the numbers given up)."""
    delivered: list[int] = []
    missing: list[int] = []
    while (gap := order.overdue) is not None:
        missing += [following(gap.first, n) for n in range(len(gap))]
        delivered += order.pass_over().ready
    return delivered, missing


def test_after_the_largest_number_comes_one_and_never_zero() -> None:
    assert following(LAST) == 1
    assert following(LAST - 1, 3) == 2
    assert following(1, -1) == LAST
    assert (distance(LAST, 2), distance(2, LAST)) == (2, -2)


@given(starts, st.integers(1, 30), st.randoms(use_true_random=False))
def test_messages_are_delivered_in_order_however_they_overtake_each_other(
    start: int, count: int, chance: random.Random
) -> None:
    numbers = [following(start, n) for n in range(count)]
    arriving = list(numbers)
    chance.shuffle(arriving)
    order: Sequence[int] = Sequence(start)
    delivered: list[int] = []
    for number in arriving:
        delivered += order.receive(number, number).ready
    assert delivered == numbers
    assert order.overdue is None
    assert order.waiting == 0


@given(starts, st.lists(st.booleans(), min_size=1, max_size=30))
def test_every_message_is_delivered_or_missing_exactly_once(start: int, arrives: list[bool]) -> None:
    numbers = [following(start, n) for n in range(len(arrives))]
    order: Sequence[int] = Sequence(start)
    delivered: list[int] = []
    for number, came in zip(numbers, arrives, strict=True):
        if came:
            delivered += order.receive(number, number).ready
    order.keep_alive(following(numbers[-1]))
    behind, missing = passed_over(order)
    assert delivered + behind == [n for n, came in zip(numbers, arrives, strict=True) if came]
    assert missing == [n for n, came in zip(numbers, arrives, strict=True) if not came]
    assert order.expected == following(numbers[-1])


@given(starts, st.lists(st.sampled_from(["comes", "fetched", "nowhere"]), min_size=1, max_size=30))
def test_what_is_fetched_stands_where_it_would_have_stood(start: int, fates: list[str]) -> None:
    numbers = [following(start, n) for n in range(len(fates))]
    order: Sequence[int] = Sequence(start)
    delivered: list[int] = []
    for number, fate in zip(numbers, fates, strict=True):
        if fate == "comes":
            delivered += order.receive(number, number).ready
    order.keep_alive(following(numbers[-1]))
    while (gap := order.overdue) is not None:
        for number in [following(gap.first, n) for n in range(len(gap))]:
            if fates[distance(start, number)] == "fetched":
                delivered += order.receive(number, number).ready
        while (rest := order.overdue) is not None and distance(rest.first, gap.last) >= 0:
            delivered += order.pass_over().ready
    assert delivered == [n for n, fate in zip(numbers, fates, strict=True) if fate != "nowhere"]


def test_a_keep_alive_with_the_expected_number_changes_nothing() -> None:
    order: Sequence[str] = Sequence()
    order.receive(1, "a")
    order.keep_alive(2)
    assert order.overdue is None
    assert order.receive(2, "b").ready == ("b",)


def test_a_keep_alive_proves_that_what_came_before_its_number_was_sent() -> None:
    order: Sequence[str] = Sequence()
    order.keep_alive(3)
    assert order.overdue == Missing(1, 2)
    assert order.receive(1, "a").ready == ("a",)
    assert order.overdue == Missing(2, 2)
    assert order.pass_over().ready == ()
    assert order.receive(3, "c").ready == ("c",)


def test_a_keep_alive_across_the_roll_over_finds_the_gap() -> None:
    order: Sequence[str] = Sequence(LAST)
    order.keep_alive(2)
    assert order.overdue == Missing(LAST, 1)
    assert len(Missing(LAST, 1)) == 2


def test_a_repeated_message_is_not_delivered_again() -> None:
    order: Sequence[str] = Sequence()
    order.receive(1, "a")
    step = order.receive(1, "a")
    assert step.repeated
    assert step.ready == ()
    order.receive(3, "c")
    assert order.receive(3, "c").repeated


def test_a_server_that_counts_from_zero_or_anew_loses_nothing() -> None:
    order: Sequence[str] = Sequence(500_000)
    assert order.receive(0, "zero").ready == ("zero",)
    assert order.receive(1, "anew").ready == ("anew",)
    assert order.receive(2, "next").ready == ("next",)


def test_a_message_that_comes_after_it_was_passed_over_is_a_repetition() -> None:
    """It has been told as missing, and read back where there is a history: delivered now, it would be there twice."""
    order: Sequence[str] = Sequence()
    order.receive(2, "b")
    assert order.pass_over().ready == ("b",)
    assert order.receive(1, "a").repeated


def test_in_another_session_what_waited_is_expected_again() -> None:
    order: Sequence[str] = Sequence()
    order.receive(1, "a")
    order.receive(3, "c")
    order.forget(2)
    assert order.overdue is None
    assert order.receive(2, "b").ready == ("b",)
    assert order.receive(3, "c").ready == ("c",)


def test_a_server_that_counts_anew_leaves_nobody_waiting_for_what_it_will_never_send() -> None:
    order: Sequence[str] = Sequence(500_000)
    assert not order.receive(500_002, "third").ready
    assert not order.receive(500_001, "second").ready
    assert order.receive(1, "anew").ready == ("second", "third", "anew")
    assert (order.expected, order.waiting, order.overdue) == (2, 0, None)
