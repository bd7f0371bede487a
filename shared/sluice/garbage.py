"""Garbage collection in a process that keeps very many objects: rare, and not of what stays.

Python looks through all objects that have lived for a while, again and again, and stops everything meanwhile: with
100,000 tags for 0.3 s, twice a second while they are made. Nearly nothing of that is ever garbage. So it looks more
rarely, and when a look has taken long, what it has left is set apart and not looked at any more (`gc.freeze`). What is
no longer referred to is freed all the same; only cycles among what was set apart stay. Therefore everything is looked
at again after an hour: so long a memory leak of this kind lasts, and no longer.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

THRESHOLDS: Final = (5_000, 10, 50)
"""New objects, looks at the youngest, looks at the middle-aged, until the next older generation is looked at."""
LONG: Final = 0.05
"""Seconds of a look that stops the others for too long."""
EVERYTHING_EVERY: Final = 3600.0


@contextmanager
def paused() -> Iterator[None]:
    """For what makes very many objects that stay, at once: looking through them all, again and again, takes most of
    the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def seldom(
    *, long: float = LONG, everything_every: float = EVERYTHING_EVERY, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Collect garbage in this way from here on. For whole processes: it changes the interpreter."""
    began = everything = clock()

    def watch(phase: str, info: dict[str, Any]) -> None:
        nonlocal began, everything
        if info["generation"] != 2:
            return
        now = clock()
        if phase == "start":
            if now - everything >= everything_every:
                everything = now
                gc.unfreeze()  # what was set apart is among what is looked at now
            began = now
        elif now - began >= long:
            gc.freeze()

    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    gc.callbacks.append(watch)
    try:
        yield
    finally:
        gc.callbacks.remove(watch)
        gc.set_threshold(*before)
        gc.unfreeze()
