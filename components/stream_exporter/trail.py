"""Where streams stood some time ago: what a sink that nobody must wait for may be behind. No clock: times come in."""

from __future__ import annotations

from collections import deque

#: Crumbs of one stream; the oldest is as old as the lag that is asked for, within this fraction of it.
CRUMBS = 60

#: Epochs of streams that have crumbs; those that were silent for longest are forgotten first.
MAX_TRAILS = 4_000

Key = tuple[str, str]


class Trail:
    """Keeps crumbs (time, newest number) of each stream and epoch for `lag` seconds."""

    def __init__(self, lag: float) -> None:
        self._lag = lag
        self._crumbs: dict[Key, deque[tuple[float, int]]] = {}  # who was heard last stands last
        self._stood: dict[Key, int] = {}

    def __len__(self) -> int:
        """How many crumbs there are."""
        return sum(map(len, self._crumbs.values()))

    def note(self, key: Key, newest: int, now: float) -> None:
        """The stream's newest number is `newest`."""
        crumbs = self._crumbs.pop(key, None) or deque()
        if not crumbs or now - crumbs[-1][0] >= self._lag / CRUMBS:
            crumbs.append((now, newest))
        self._crumbs[key] = crumbs
        self.stood(key, now)
        if len(self._crumbs) > MAX_TRAILS:
            silent = next(iter(self._crumbs))
            del self._crumbs[silent]
            self._stood.pop(silent, None)

    def stood(self, key: Key, now: float) -> int:
        """The stream's newest number `lag` seconds ago; 0 when it was not heard of for so long."""
        crumbs = self._crumbs.get(key, ())
        while crumbs and crumbs[0][0] <= now - self._lag:
            self._stood[key] = crumbs.popleft()[1]
        return self._stood.get(key, 0)
