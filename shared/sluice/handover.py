"""From a foreign thread into the event loop: in order, bounded, never blocking the thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

_SLICE = 64


class Handover:
    """A queue whose items are calls that the loop makes in the order in which the thread put them.

    Bounded by bytes and by number. What does not fit is dropped and counted, because blocking the SDK's thread stalls
    the nucleus, and with nucleus lite every publisher on the core. The loop takes at most 64 calls at a time before
    it gives others a turn. The calls must not raise.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_bytes: int, max_items: int) -> None:
        self._loop = loop
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._items: deque[tuple[Callable[..., None], tuple[Any, ...], int]] = deque()
        self._lock = threading.Lock()
        self._scheduled = False
        self.bytes = 0
        self.dropped = 0
        self.dropped_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, size: int, call: Callable[..., None], *args: Any) -> bool:
        """From any thread: have `call(*args)` made in the loop; False when it did not fit and was dropped."""
        with self._lock:
            if self._items and (self.bytes + size > self._max_bytes or len(self._items) >= self._max_items):
                self.dropped += 1
                self.dropped_bytes += size
                return False
            self._items.append((call, args, size))
            self.bytes += size
            if self._scheduled:
                return True
            self._scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._take)
        except RuntimeError:  # the loop is closed: the process is ending
            return False
        return True

    def _take(self) -> None:
        for _ in range(_SLICE):
            with self._lock:
                if not self._items:
                    self._scheduled = False
                    return
                call, args, size = self._items.popleft()
                self.bytes -= size
            call(*args)
        self._loop.call_soon(self._take)
