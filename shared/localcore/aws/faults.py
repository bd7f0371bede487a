"""Faults of the AWS endpoints that a test may order: the next so many requests to a service go wrong.

kinds:  unavailable         503 for the request
        throttle            iotsitewise: ThrottlingException for the request
        throttle_entries    iotsitewise: ThrottlingException for each entry of a put
"""

from __future__ import annotations

import threading
from collections import Counter

KINDS = {
    "iotsitewise": ("unavailable", "throttle", "throttle_entries"),
    "kinesis": ("unavailable",),
    "s3": ("unavailable",),
    "secretsmanager": ("unavailable",),
}


class Faults:
    """Ordered faults, used up one by one by any thread."""

    def __init__(self) -> None:
        self._left: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def order(self, service: str, kind: str, count: int = 1) -> None:
        """Makes the next `count` requests fail; 0 ends the fault. Raises ValueError."""
        if kind not in KINDS.get(service, ()):
            raise ValueError(f"fault {kind!r} of {service!r}: known are {KINDS}")
        with self._lock:
            self._left[service, kind] = count

    def take(self, service: str, kind: str) -> bool:
        """Whether this request is to fail so."""
        with self._lock:
            due = self._left[service, kind] > 0
            if due:
                self._left[service, kind] -= 1
            return due
