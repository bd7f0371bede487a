"""`scripts/bench pi`: what it judges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pi_bench import Figures, judged

LIVE = Figures("live", 15_000, 0, 500.0, 0.09, 180.0, 112.0)
PAST = Figures("backfill", 3_000_000, 0, 70_000.0, 0.3, 4.0, 160.0, 450_000.0)


def test_a_run_in_which_all_is_well() -> None:
    assert judged([LIVE, PAST]) == []


@pytest.mark.parametrize(
    ("place", "changed", "told"),
    [
        (0, {"lost": 3}, "live: 3 of 15000 events are missing"),
        (1, {"lost": -3}, "backfill: -3 of 3000000 events are missing"),
        (0, {"core": 0.151}, "15.1% of a core, more than 15%"),
        (0, {"rss_mb": 131.0}, "131 MB, more than 130"),
        (1, {"events_per_s": 49_999.0}, "49,999 events per second, less than 50,000"),
        (0, {"events": 0}, "no event arrived"),
    ],
)
def test_what_is_missing_or_too_much_is_told(place: int, changed: dict[str, Any], told: str) -> None:
    figures = [LIVE, PAST]
    figures[place] = replace(figures[place], **changed)
    assert told in "; ".join(judged(figures))


def test_half_a_run_is_no_proof() -> None:
    assert judged([LIVE]) != []
