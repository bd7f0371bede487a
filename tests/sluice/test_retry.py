"""Pauses between attempts, and the rule that ends them."""

from __future__ import annotations

import pytest

from sluice.retry import Backoff, ExitRule


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(1.0, 5.0)
    for expected in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert backoff.next() == pytest.approx(expected, rel=0.2)
    backoff.reset()
    assert backoff.next() == pytest.approx(1.0, rel=0.2)


def test_pauses_are_spread() -> None:
    backoff = Backoff(5.0, 5.0)
    assert len({backoff.next() for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("moments", "exits"),
    [
        ([0, 1, 2, 3], False),  # too few
        ([0, 1, 2, 3, 4, 5, 6, 14.9], False),  # too soon
        ([0, 5, 10, 15], False),  # long enough, too few
        ([0, 4, 8, 12, 15], True),
        ([0, 1, 2, 3, 15], True),
        ([100, 110, 120, 130, 140], True),
    ],
)
def test_only_five_refusals_over_fifteen_seconds_end_a_component(moments: list[float], exits: bool) -> None:
    rule = ExitRule()
    assert [rule.refused(moment) for moment in moments][-1] is exits


def test_anything_but_a_refusal_begins_the_count_anew() -> None:
    rule = ExitRule()
    for moment in (0.0, 5.0, 10.0, 14.0):
        assert not rule.refused(moment)
    rule.otherwise()
    for moment in (20.0, 25.0, 30.0, 34.0):
        assert not rule.refused(moment)
    assert rule.refused(35.0)
