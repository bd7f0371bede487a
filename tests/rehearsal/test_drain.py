"""Draining ends when nothing grows any more, so that what comes late is still judged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from rehearsal import Rehearsal


class Arriving(Rehearsal):
    """A rehearsal whose destinations hold what a schedule says: (seconds after the first look, samples at each)."""

    def __init__(self, root: Path, schedule: list[tuple[float, Mapping[str, int]]]) -> None:
        super().__init__(root, root, with_plant=False)
        self._schedule = schedule
        self._first: float | None = None

    def _counts(self) -> dict[str, int]:
        now = time.monotonic()
        self._first = now if self._first is None else self._first
        past = [counts for after, counts in self._schedule if after <= now - self._first]
        return dict(past[-1])


async def test_a_repeat_that_comes_after_everything_has_arrived_is_seen(tmp_path: Path) -> None:
    rehearsal = Arriving(tmp_path, [(0.0, {"lake": 10}), (1.0, {"lake": 11})])
    assert await rehearsal.drain(10, settle=2.0) == {"lake": 11}


async def test_what_never_comes_is_waited_for_with_patience_and_no_longer(tmp_path: Path) -> None:
    rehearsal = Arriving(tmp_path, [(0.0, {"lake": 9})])
    assert await rehearsal.drain(10, patience=1.0, settle=60.0) == {"lake": 9}


@pytest.mark.parametrize("late", ["lake", "site"])
async def test_the_slowest_destination_is_waited_for(tmp_path: Path, late: str) -> None:
    first = {"lake": 10, "site": 10} | {late: 3}
    rehearsal = Arriving(tmp_path, [(0.0, first), (1.0, {"lake": 10, "site": 10})])
    assert await rehearsal.drain(10, patience=10.0, settle=0.0) == {"lake": 10, "site": 10}
