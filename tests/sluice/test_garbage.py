"""Garbage is looked for rarely, and not among what stays; but what is garbage goes, sooner or later."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice import garbage


class _Knot:
    """Refers to itself: only a look for garbage frees it."""

    def __init__(self) -> None:
        self.itself = self


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock() -> Iterator[_Clock]:
    gc.unfreeze()  # who runs the tests may have set something apart
    yield _Clock()
    assert gc.get_freeze_count() == 0


def test_what_a_long_look_has_left_is_not_looked_at_again(clock: _Clock) -> None:
    kept: list[list[int]] = [[] for _ in range(1000)]
    with garbage.seldom(long=0.05, everything_every=3600.0, clock=clock):
        gc.collect()
        assert gc.get_freeze_count() == 0, "a short look sets nothing apart"
        clock.step = 0.06
        gc.collect()
        clock.step = 0.0
        assert gc.get_freeze_count() > len(kept)
        assert not any(one is kept for one in gc.get_objects())


def test_garbage_from_before_a_long_look_goes_in_it_and_later_garbage_in_the_next(clock: _Clock) -> None:
    with garbage.seldom(clock=clock):
        first = weakref.ref(_Knot())
        clock.step = 0.06
        gc.collect()
        assert first() is None
        second = weakref.ref(_Knot())
        gc.collect()
        assert second() is None


def test_what_becomes_garbage_after_it_was_set_apart_goes_when_everything_is_looked_at(clock: _Clock) -> None:
    with garbage.seldom(everything_every=3600.0, clock=clock):
        knot = _Knot()
        seen = weakref.ref(knot)
        clock.step = 0.06
        gc.collect()
        clock.step = 0.0
        del knot
        gc.collect()
        assert seen() is not None, "it was set apart"
        clock.now += 3600.0
        gc.collect()
        assert seen() is None


def test_afterwards_all_is_as_before(clock: _Clock) -> None:
    before, callbacks = gc.get_threshold(), list(gc.callbacks)
    with garbage.seldom(clock=clock):
        assert gc.get_threshold() == garbage.THRESHOLDS
    assert (gc.get_threshold(), gc.callbacks) == (before, callbacks)


def test_very_many_objects_are_made_with_few_long_looks() -> None:
    """What a hundred thousand tags are made of, in a process of its own: without it there are dozens of looks."""
    script = """
import gc, time
from sluice import garbage
long = began = 0
def count(phase, info):
    global long, began
    if info["generation"] == 2:
        if phase == "start": began = time.monotonic()
        elif time.monotonic() - began > 0.05: long += 1
with garbage.seldom():
    gc.callbacks.append(count)
    kept = {}
    for number in range(300_000):
        kept[number] = [{"a": [number]}, (number, [])]
        temporary = [[] for _ in range(20)]
    print(long)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(garbage.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    assert int(done.stdout) <= 6, done.stdout
