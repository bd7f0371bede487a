"""The account of one sink: every sample that came is in exactly one place.

received = filtered + appended + dropped + waiting
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Ledger:
    """Counts samples. `filtered` and `dropped` are counted by reason: filtered is what cannot go to this destination,
    dropped is what could have gone and was lost."""

    def __init__(self) -> None:
        self.received = 0
        self.appended = 0
        self.waiting = 0
        self.filtered: dict[str, int] = {}
        self.dropped: dict[str, int] = {}

    def receive(self, samples: int) -> None:
        """Samples came, and wait."""
        self.received += samples
        self.waiting += samples

    def append(self, samples: int) -> None:
        """Waiting samples were accepted by the stream."""
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
        }
