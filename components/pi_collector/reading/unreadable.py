"""Streams that the server does not give: told as problems of their tags, each with its remedy.

A refusal of rights is told at once: only people end it. Anything else is told when it has lasted for LASTS seconds,
which a first repetition has not mended by then. What was told stands as it was told until the stream can be read again,
whatever else the server says meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from pi_collector.points.lookup import Why, refusal
from pi_collector.problems import Reporter

LASTS: Final = 8.0
"""Seconds before a failure that may pass by itself is told."""
MOST: Final = 100
"""Streams that are told of; of the others the status has the number."""
EFFECT: Final = "it is tried again at growing intervals, and nothing of it is passed over; the others run on"
_OURS: Final = re.compile(r"^does not allow this to our user \((\d+)\)(: )?")

Where = Callable[[int], tuple[str, Any] | None]
"""The setting that a stream comes from, and what it says; None: nobody collects it any more."""


class Unreadable:
    """Of one connection."""

    def __init__(self, problems: Reporter, where: Where) -> None:
        self._problems = problems
        self._where = where
        self._since: dict[int, float] = {}
        self._told: dict[int, tuple[str, Any, str, str]] = {}

    def look(self, failing: Mapping[int, str], now: float) -> None:
        """What fails at present, by handle, each with why; now: seconds of a clock that does not go back."""
        for handle in [handle for handle in self._since if handle not in failing]:
            del self._since[handle]
        for handle in [handle for handle in self._told if handle not in failing or self._where(handle) is None]:
            self._problems.clear(self._told.pop(handle)[0])
        for handle, why in failing.items():
            since = self._since.setdefault(handle, now)
            if handle not in self._told:
                place = self._where(handle) if len(self._told) < MOST else None
                denied = refusal([why]).why is Why.DENIED or _OURS.match(why) is not None
                if place is None or not (denied or now - since >= LASTS):
                    continue
                self._told[handle] = (*place, *words(why))
            scope, value, problem, remedy = self._told[handle]
            self._problems.report(scope, problem, remedy, value, effect=EFFECT)

    def close(self) -> None:
        """Nothing is told any more."""
        self.look({}, 0.0)


def words(why: str) -> tuple[str, str]:
    """Problem and remedy of a stream, of what the server says in the place of its values."""
    said = _OURS.sub("", why)
    if said != why or refusal([why]).why is Why.DENIED:
        return (
            f"may not be read by this user{f' ({said})' if said else ''}",
            "have PI's administrator give the user's identity read access to the point's data (its DataSecurity)",
        )
    return f"cannot be read: {said}", "see in PI what becomes of the point's values, and in the PI Web API's own log"


__all__ = ["EFFECT", "LASTS", "MOST", "Unreadable", "Where", "words"]
