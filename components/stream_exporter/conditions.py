"""What is wrong with a sink at present, one entry per aspect, for the status and the log."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from sluice.status import when

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that keeps a sink from its work: where it is, what it is, and what to do."""

    since: float  # seconds since 1970
    why: str
    remedy: str


class Conditions:
    """The present conditions of one sink by aspect (`stream`, `export`, `disk`, …); logs when one comes or goes."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._present: dict[str, Condition] = {}
        self._since = time.time()

    def report(self, aspect: str, why: str, remedy: str) -> None:
        """Something is wrong. Repeats of the same are not logged again; `since` stays that of the first."""
        known = self._present.get(aspect)
        if known is None or known.why != why:
            logger.warning("%s: %s. Remedy: %s", self._place, why, remedy)
        if known is None and not self._present:
            self._since = time.time()
        self._present[aspect] = Condition(known.since if known else time.time(), why, remedy)

    def clear(self, aspect: str) -> None:
        """The aspect is well again."""
        known = self._present.pop(aspect, None)
        if known is None:
            return
        logger.info("%s: well again after %.0f s: %s", self._place, time.time() - known.since, known.why)
        if not self._present:
            self._since = time.time()

    def get(self, aspect: str) -> Condition | None:
        """What is wrong in one respect."""
        return self._present.get(aspect)

    def status(self) -> dict[str, Any]:
        """state, since, why and remedy, as a status shows a connection."""
        if not self._present:
            return {"state": "running", "since": when(self._since)}
        conditions = sorted(self._present.values(), key=lambda condition: condition.since)
        return {
            "state": "failed",
            "since": when(self._since),
            "why": "; ".join(condition.why for condition in conditions),
            "remedy": "; ".join(dict.fromkeys(condition.remedy for condition in conditions)),
        }
