"""What to ask of a subscription, and how long its silence may last. Pure arithmetic (Part 4, 5.14.2)."""

from __future__ import annotations

import math
from typing import Final

OUTAGE: Final = 60.0
"""Seconds without a connection that cost nothing."""
_COMING_BACK: Final = 15.0  # seconds until an outage is noticed, and until we are back after it
LIFETIME: Final = 90.0
"""Seconds that a subscription lives without us: longer than what its queues cover, for what they still hold is good."""
MOST_NOTIFICATIONS: Final = 10_000
_SMALLEST_QUEUE: Final = 100
_LARGEST_QUEUE: Final = 10_000
_GRACE: Final = 4.0


def keep_alive_count(interval: float, keep_alive: float) -> int:
    """Publishing intervals without news after which the server says that it lives."""
    return max(1, round(keep_alive / interval))


def lifetime_count(interval: float, keep_alives: int) -> int:
    """Publishing intervals without us after which the server drops the subscription: at least three keep-alives."""
    return max(3 * keep_alives, math.ceil(LIFETIME / interval))


def queue_size(sampling: float, publishing: float) -> int:
    """Values that the server shall keep per item: as many as come in an outage."""
    covered = OUTAGE + _COMING_BACK
    return min(_LARGEST_QUEUE, max(_SMALLEST_QUEUE, math.ceil(covered / (sampling or min(publishing, 0.1)))))


def silence(interval: float, keep_alives: int) -> float:
    """Seconds without any answer after which the server counts as gone: half as long again as promised, and grace."""
    return interval * keep_alives * 1.5 + _GRACE


class Watch:
    """Whether the server is silent for too long. Not fooled by a loop that was itself too busy to hear it."""

    def __init__(self, limit: float, now: float) -> None:
        self.limit = limit
        self._heard = now
        self._looked = now

    def heard(self, now: float) -> None:
        """An answer came, or we asked after not asking for a while."""
        self._heard = now

    def silent(self, now: float, step: float) -> bool:
        """Asked every `step` seconds: what a step took longer was our own delay, not the server's."""
        delay = now - self._looked - step
        self._looked = now
        if delay > step:
            self._heard += delay
        return now - self._heard > self.limit
