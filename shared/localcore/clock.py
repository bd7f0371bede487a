"""The wall clock of a helper process: this machine's, and the step that was ordered.

To a component, whose clock is this machine's, a step of the stream manager and the endpoints is a step of its own
clock. What is witnessed for the reconciliation keeps this machine's time, and so does moto.
"""

from __future__ import annotations

import time

_ahead_ns = 0


def set_ahead(seconds: float) -> None:
    """From now on the clock is so far ahead of this machine's (behind it when negative); 0 puts it right."""
    global _ahead_ns
    _ahead_ns = int(seconds * 1_000_000_000)


def now_ns() -> int:
    """Nanoseconds since 1970."""
    return time.time_ns() + _ahead_ns


def now_ms() -> int:
    """Milliseconds since 1970."""
    return now_ns() // 1_000_000
