"""How many PublishRequests are outstanding at once. Pure: time is passed in.

Theory. A server can send a message only in answer to a request. While a message is on its way, is made durable and its
request comes back, each subscription has further messages to send: one per publishing interval. With too few requests
they wait in the server's queues, and short queues run over. So there are as many as the round trip asks for, measured
over and over, and one for each subscription's keep-alive.

A server that takes fewer says so (BadTooManyPublishRequests). It is then given what it took, and after a while one
more, in growing pauses if it refuses again: its limit may have been that of a busy moment.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from statistics import median
from typing import Final

FEWEST, MOST = 3, 10
"""PublishRequests in flight, of one subscription; each further one may add one."""
_COMMIT: Final = 0.15  # seconds that a message takes to become durable, usually
_TRIPS: Final = 3  # round trips of which the middle one counts
_PAUSES: Final = (60.0, 960.0)  # seconds until one more is tried


def outstanding(intervals: Collection[float], round_trip: float) -> int:
    """How many requests cover what comes while a message is on its way and being written.

    intervals: of each subscription, in seconds; round_trip: seconds.
    """
    if not intervals:
        return 0
    meanwhile = math.ceil((round_trip + _COMMIT) * sum(1 / interval for interval in intervals))
    subscriptions = len(intervals)
    return min(MOST + subscriptions - 1, max(FEWEST, subscriptions + 1 + meanwhile))


class Pipeline:
    """The number for one session. round_trip: of its first answer, in seconds."""

    def __init__(self, round_trip: float, pauses: tuple[float, float] = _PAUSES) -> None:
        self._trips: deque[float] = deque([round_trip], maxlen=_TRIPS)
        self._pauses = pauses
        self._pause = pauses[0]
        self._ceiling = 0  # what the server takes; 0: it has refused none
        self._again = 0.0  # when one more is tried
        self._tried = False

    @property
    def round_trip(self) -> float:
        """Seconds of an answer, lately."""
        return median(self._trips)

    def measured(self, round_trip: float) -> None:
        """Another answer took so many seconds."""
        self._trips.append(round_trip)

    def refused(self, left: int, now: float) -> None:
        """The server has refused a request as one too many; so many others are left at it."""
        if self._tried:
            self._pause, self._tried = min(2 * self._pause, self._pauses[1]), False
        self._ceiling = max(1, left)
        self._again = now + self._pause

    def count(self, intervals: Collection[float], now: float) -> int:
        """How many there shall be now, for subscriptions with these publishing intervals."""
        wanted = outstanding(intervals, self.round_trip)
        if not self._ceiling:
            return wanted
        if now >= self._again:
            if self._ceiling >= wanted:  # it takes what is wanted by now
                self._ceiling, self._pause, self._tried = 0, self._pauses[0], False
                return wanted
            self._ceiling, self._again, self._tried = self._ceiling + 1, now + self._pause, True
        return min(wanted, self._ceiling)
