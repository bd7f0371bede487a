"""What to ask of a subscription, and how long its silence may last. Pure arithmetic (Part 4, 5.14.2)."""

from __future__ import annotations

import math
from typing import Final

from opcua_collector.config import Connection
from opcua_collector.plan import OWN, Plan, plan
from opcua_collector.services.session import Asked

OUTAGE: Final = 60.0
"""Seconds without a connection that cost nothing, where nobody asks for another time."""
_COMING_BACK: Final = 15.0  # seconds until an outage is noticed, and until we are back after it
_BEYOND: Final = 30.0  # seconds that a subscription outlives the outage: what its queues still hold then is good
_SHORTEST: Final = 90.0  # seconds that it lives without us at least
MOST_NOTIFICATIONS: Final = 10_000
_SMALLEST_QUEUE: Final = 100
_LARGEST_QUEUE: Final = 10_000
GRACE: Final = 4.0
"""Seconds by which anything may be late."""
_PROOFS: Final = 3  # keep-alive intervals without data and without the server's clock that make a standstill


def keep_alive_count(interval: float, keep_alive: float) -> int:
    """Publishing intervals without news after which the server says that it lives."""
    return max(1, round(keep_alive / interval))


def lifetime(outage: float = OUTAGE) -> float:
    """Seconds that a subscription shall live without us."""
    return max(_SHORTEST, outage + _BEYOND)


def lifetime_count(interval: float, keep_alives: int, outage: float = OUTAGE) -> int:
    """Publishing intervals without us after which the server drops the subscription: at least three keep-alives."""
    return max(3 * keep_alives, math.ceil(lifetime(outage) / interval))


def asked(group: Plan, keep_alive: float) -> Asked:
    """What is asked of the group's subscription."""
    interval = group.publishing
    keep_alives = keep_alive_count(interval, keep_alive)
    return Asked(interval, keep_alives, lifetime_count(interval, keep_alives, group.outage))


def session_timeout(settings: Connection) -> float:
    """Seconds after which the server forgets a session whose client is gone.

    As long as its longest-lived subscription lives without us, and no longer, because small servers have five.
    """
    wanted = [asked(plan(settings, name), settings.keep_alive) for name in (OWN, *settings.groups)]
    return max(one.interval * one.lifetime_count for one in wanted)


def queue_size(sampling: float, publishing: float, outage: float = OUTAGE) -> int:
    """Values that the server shall keep per item: as many as come in an outage."""
    covered = outage + _COMING_BACK
    return min(_LARGEST_QUEUE, max(_SMALLEST_QUEUE, math.ceil(covered / (sampling or min(publishing, 0.1)))))


def silence(interval: float, keep_alives: int) -> float:
    """Seconds without a sign after which a subscription counts as silent: half as long again as promised, and grace."""
    return interval * keep_alives * 1.5 + GRACE


def standstill(interval: float, keep_alives: int, canary: float) -> float:
    """Seconds without data and without the server's clock after which nothing flows any more, although it answers.

    canary: how often the server looks at its clock for us, in seconds.
    """
    return _PROOFS * max(interval * keep_alives, canary) + interval + GRACE
