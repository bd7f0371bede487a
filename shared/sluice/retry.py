"""When to try again, and when to stop trying. Pure: time is passed in."""

from __future__ import annotations

import random


class Backoff:
    """Growing pauses between attempts: doubled from `first` to `longest` seconds, each spread by ±20 %.

    The spread keeps the components of one core from all knocking at the same moment.
    """

    def __init__(self, first: float, longest: float) -> None:
        self.first = first
        self.longest = longest
        self._pause = first

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        pause, self._pause = self._pause, min(self._pause * 2, self.longest)
        return pause * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        """After a success."""
        self._pause = self.first


class ExitRule:
    """When a component must exit because its nucleus will never let it in again.

    Nucleus lite gives out new tokens whenever its IPC process restarts, so a running component can only come back as a
    new process. But each exit spends one of three starts per hour, after which the component is BROKEN until it is
    deployed again. So: only when the socket exists and its owner has refused the handshake `refusals` times in a row,
    over `span` seconds or more. A nucleus that is away, or does not answer, is waited for.
    """

    def __init__(self, refusals: int = 5, span: float = 15.0) -> None:
        self.refusals = refusals
        self.span = span
        self._count = 0
        self._since = 0.0

    def refused(self, now: float) -> bool:
        """The handshake was refused; True when it is time to exit."""
        if self._count == 0:
            self._since = now
        self._count += 1
        return self._count >= self.refusals and now - self._since >= self.span

    def otherwise(self) -> None:
        """It succeeded, or nobody was there to refuse it: counting begins anew."""
        self._count = 0
