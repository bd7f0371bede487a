"""The account of one sink: every sample that came is in exactly one place.

received = filtered + appended + dropped + waiting

It is kept over restarts, in one transaction with each unit. Only `waiting` is not: what waited comes again, because it
was not acknowledged, and is received then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Ledger:
    """Counts samples. `filtered` and `dropped` are counted by reason: filtered is what cannot go to this destination,
    dropped is what could have gone and was lost. `missed` counts batches, by reason, that never came: nobody knows how
    many samples they had."""

    def __init__(self, kept: Mapping[str, Any] | None = None) -> None:
        kept = kept or {}
        self.received: int = kept.get("received", 0)
        self.appended: int = kept.get("appended", 0)
        self.waiting = 0
        self.filtered: dict[str, int] = dict(kept.get("filtered", {}))
        self.dropped: dict[str, int] = dict(kept.get("dropped", {}))
        self.missed: dict[str, int] = dict(kept.get("missed", {}))
        self.events: int = kept.get("events", 0)

    def kept(self) -> dict[str, Any]:
        """What a restart finds again."""
        return {
            "received": self.received - self.waiting,
            "appended": self.appended,
            "filtered": dict(self.filtered),
            "dropped": dict(self.dropped),
            "missed": dict(self.missed),
            "events": self.events,
        }

    def receive(self, samples: int) -> None:
        """Samples came, and wait."""
        self.received += samples
        self.waiting += samples

    def append(self, samples: int) -> None:
        """Waiting samples are in the target."""
        self.appended += samples
        self.waiting -= samples

    def filter(self, reasons: Mapping[str, int]) -> None:
        """Waiting samples are not for this destination."""
        for reason, samples in reasons.items():
            self.filtered[reason] = self.filtered.get(reason, 0) + samples
            self.waiting -= samples

    def drop(self, reason: str, samples: int) -> None:
        """Waiting samples are lost."""
        if samples:
            self.dropped[reason] = self.dropped.get(reason, 0) + samples
            self.waiting -= samples

    def miss(self, reason: str, batches: int) -> None:
        """Batches will never come."""
        if batches:
            self.missed[reason] = self.missed.get(reason, 0) + batches

    def return_waiting(self) -> None:
        """What waits is given back: it comes again."""
        self.received -= self.waiting
        self.waiting = 0

    def undo(self, appended: int, filtered: Mapping[str, int], dropped: Mapping[str, int]) -> None:
        """The target lost what was appended: the whole range comes again."""
        self.appended -= appended
        self.received -= appended
        for reasons, counts in ((self.filtered, filtered), (self.dropped, dropped)):
            for reason, samples in counts.items():
                reasons[reason] = reasons.get(reason, 0) - samples
                self.received -= samples

    def status(self) -> dict[str, Any]:
        """Totals, and the reasons where there are any."""
        return {
            "received": self.received,
            "filtered": sum(self.filtered.values()),
            "appended": self.appended,
            "dropped": sum(self.dropped.values()),
            "waiting": self.waiting,
            "filtered_by": dict(self.filtered),
            "dropped_by": dict(self.dropped),
            "missed_batches": dict(self.missed),
            "events_passed_over": self.events,
        }
