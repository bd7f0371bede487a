"""A flood of events of one alarm becomes one that counts them."""

from __future__ import annotations

from preprocessor.alarms.flood import MOST, SPAN, Flood
from preprocessor.engine.step import SECOND


def test_beyond_thirty_in_ten_minutes_they_are_counted() -> None:
    of = Flood()
    allowed = [of.allows(1, second, second * SECOND) for second in range(MOST + 5)]
    assert allowed == [True] * MOST + [False] * 5
    assert of.allows(2, 0, 40 * SECOND), "another tag has its own count"
    assert of.over(SPAN - 1) == []
    assert of.over(SPAN) == [(1, 5, MOST + 4)]
    assert of.over(SPAN + 40 * SECOND) == [], "what was no flood is not told"
    assert of.allows(1, 0, SPAN + SECOND)


def test_counts_are_kept() -> None:
    of, again = Flood(), Flood()
    for second in range(MOST):
        of.allows(7, second, second)
    again.load(of.save())
    assert not again.allows(7, 99, 99)
    assert again.over(SPAN) == [(7, 1, 99)]
