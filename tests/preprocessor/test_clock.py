"""The clock of a flow goes on steadily over restarts, and trusts the wall clock when the sources agree with it."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessor.clock import BUILT, LONGEST_AWAY, Clock
from preprocessor.engine.step import SECOND

WALL = BUILT + 86_400 * SECOND


def test_it_goes_on_at_the_pace_of_real_time_whatever_the_wall_clock_does() -> None:
    clock = Clock(WALL, 0)
    first = clock.turn(WALL, 0).steady
    assert clock.turn(WALL - 500 * SECOND, 5 * SECOND).steady - first == 5 * SECOND


@pytest.mark.parametrize(
    ("away", "counted"),
    [(60 * SECOND, 60 * SECOND), (-60 * SECOND, 0), (10 * LONGEST_AWAY, LONGEST_AWAY)],
)
def test_over_a_restart_it_goes_on_by_what_the_wall_clock_tells(away: int, counted: int) -> None:
    clock = Clock(WALL + away, 0, now=WALL, steady=1_000)
    assert clock.turn(WALL + away, 0).steady == 1_000 + counted + SECOND


def test_it_is_not_trusted_until_a_source_agrees() -> None:
    clock = Clock(WALL, 0)
    assert not clock.turn(WALL, 0).trusted
    clock.heard(np.array([WALL - 86_400 * SECOND]), WALL, SECOND)
    assert not clock.turn(WALL + SECOND, SECOND).trusted
    clock.heard(np.array([WALL - 86_400 * SECOND, WALL - 200 * SECOND]), WALL, SECOND)
    assert clock.turn(WALL + SECOND, SECOND).trusted


def test_where_nobody_says_anything_for_a_minute_it_is_trusted() -> None:
    clock = Clock(WALL, 0)
    assert not clock.turn(WALL + 59 * SECOND, 59 * SECOND).trusted
    assert clock.turn(WALL + 60 * SECOND, 60 * SECOND).trusted


def test_once_trusted_it_stays_so_unless_the_wall_clock_jumps_back() -> None:
    clock = Clock(WALL, 0)
    clock.heard(np.array([WALL]), WALL, 0)
    assert clock.turn(WALL, 0).trusted
    clock.heard(np.array([WALL - 86_400 * SECOND]), WALL, SECOND)
    assert clock.turn(WALL + SECOND, SECOND).trusted
    assert clock.turn(WALL + SECOND // 2, 2 * SECOND).trusted
    assert not clock.turn(WALL - 60 * SECOND, 3 * SECOND).trusted


def test_a_clock_that_stands_before_this_was_built_is_never_right() -> None:
    clock = Clock(BUILT - SECOND, 0)
    clock.heard(np.array([BUILT - SECOND]), BUILT - SECOND, 0)
    assert not clock.turn(BUILT - SECOND, 0).trusted
    assert not clock.turn(BUILT - SECOND, 100 * SECOND).trusted
