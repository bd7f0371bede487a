"""Order, gaps and roll-over of notification messages."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.sequence import LAST, Missing, Sequence, distance, following

starts = st.sampled_from([1, 2, 1000, LAST - 3, LAST - 1, LAST])


def test_after_the_largest_number_comes_one_and_never_zero() -> None:
    assert following(LAST) == 1
    assert following(LAST - 1, 3) == 2
    assert following(1, -1) == LAST
    assert (distance(LAST, 2), distance(2, LAST)) == (2, -2)


@given(starts, st.integers(1, 30), st.randoms(use_true_random=False))
def test_messages_that_overtake_each_other_by_less_than_the_room_are_delivered_in_order(
    start: int, count: int, chance: random.Random
) -> None:
    numbers = [following(start, n) for n in range(count)]
    arriving = sorted(range(count), key=lambda n: n + 3 * chance.random())  # at most two overtake a message
    order: Sequence[int] = Sequence(room=3, expected=start)
    delivered: list[int] = []
    for number in (numbers[n] for n in arriving):
        step = order.receive(number, number)
        delivered += step.ready
    step = order.give_up()
    assert delivered + list(step.ready) == numbers
    assert not order.overdue


@given(starts, st.lists(st.booleans(), min_size=1, max_size=30))
def test_every_message_is_delivered_or_missing_exactly_once(start: int, arrives: list[bool]) -> None:
    numbers = [following(start, n) for n in range(len(arrives))]
    order: Sequence[int] = Sequence(room=3, expected=start)
    delivered: list[int] = []
    missing: list[int] = []
    steps = [order.receive(n, n) for n, came in zip(numbers, arrives, strict=True) if came]
    steps.append(order.keep_alive(following(numbers[-1])))
    steps.append(order.give_up())
    for step in steps:
        delivered += step.ready
        missing += [following(gap.first, n) for gap in step.missing for n in range(len(gap))]
    assert delivered == [n for n, came in zip(numbers, arrives, strict=True) if came]
    assert missing == [n for n, came in zip(numbers, arrives, strict=True) if not came]


def test_a_keep_alive_with_the_expected_number_changes_nothing() -> None:
    order: Sequence[str] = Sequence(room=3)
    order.receive(1, "a")
    assert order.keep_alive(2).missing == ()
    assert not order.overdue
    assert order.receive(2, "b").ready == ("b",)


def test_a_keep_alive_proves_that_what_came_before_its_number_was_sent() -> None:
    order: Sequence[str] = Sequence(room=3)
    order.keep_alive(3)
    assert order.overdue
    assert order.receive(1, "a").ready == ("a",)
    assert order.overdue
    assert order.give_up().missing == (Missing(2, 2),)
    assert order.receive(3, "c").ready == ("c",)


def test_a_keep_alive_across_the_roll_over_finds_the_gap() -> None:
    order: Sequence[str] = Sequence(room=3, expected=LAST)
    order.keep_alive(2)
    assert order.give_up().missing == (Missing(LAST, 1),)
    assert len(Missing(LAST, 1)) == 2


def test_a_repeated_message_is_not_delivered_again() -> None:
    order: Sequence[str] = Sequence(room=3)
    order.receive(1, "a")
    step = order.receive(1, "a")
    assert step.repeated
    assert step.ready == ()
    order.receive(3, "c")
    assert order.receive(3, "c").repeated


def test_a_gap_is_told_when_no_more_answers_can_be_under_way() -> None:
    order: Sequence[str] = Sequence(room=3)
    assert order.receive(2, "b").missing == ()
    assert order.receive(3, "c").missing == ()
    step = order.receive(4, "d")
    assert step.missing == (Missing(1, 1),)
    assert step.ready == ("b", "c", "d")


def test_a_server_that_counts_from_zero_or_anew_loses_nothing() -> None:
    order: Sequence[str] = Sequence(room=3, expected=500_000)
    assert order.receive(0, "zero").ready == ("zero",)
    step = order.receive(1, "anew")
    assert step.renumbered
    assert step.ready == ("anew",)
    assert order.receive(2, "next").ready == ("next",)


def test_a_message_that_comes_after_it_was_given_up_is_delivered_once() -> None:
    order: Sequence[str] = Sequence(room=3)
    order.receive(2, "b")
    assert order.give_up().missing == (Missing(1, 1),)
    step = order.receive(1, "a")
    assert step.late
    assert step.ready == ("a",)
    assert order.receive(1, "a").repeated
