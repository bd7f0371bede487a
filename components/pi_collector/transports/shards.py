"""Which streams share a channel, and which of them the server does not take. Pure.

A *shard* is streams of one group that fit into one address: by its bytes first, then by their number. A stream that
stays keeps its shard, and so its socket, whatever else is configured; new streams have new shards; those that leave are
missing when their shard is opened the next time. Shards that have become small are put together when none of them is
open anyway.

A server opens a channel for all streams of an address or for none. So when it refuses one, the streams that it does not
know are searched for by halves. That takes twice the logarithm of their number in openings for each; when even the
first two that are asked for alone are refused and nothing was ever taken, it is not the streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pi_collector.points.point import Stream
from pi_collector.web import requests

SMALL: Final = 0.5
"""Shards are put together when that leaves this share of them or fewer."""
MOST_OPENINGS: Final = 64
"""Openings in one search for streams that are refused; what is left is searched in the next."""
HEARTBEAT_ROOM: Final = 9999
"""The heartbeat rate that addresses have room for."""


@dataclass(slots=True, eq=False)
class Shard:
    """Streams that share a channel; compared by identity."""

    number: int
    group: str
    streams: dict[int, Stream] = field(default_factory=dict)
    """By handle."""
    apart: bool = False
    """The server has refused these streams: they stay away from others."""


@dataclass(frozen=True, slots=True)
class Arranged:
    """What another set of streams changes."""

    left: dict[Shard, list[int]]
    """Handles that a shard has no more; they have left it."""
    added: list[Shard]
    """New ones."""
    gone: list[Shard]
    """Those that nothing is left of."""


class Shards:
    """All shards of a connection."""

    def __init__(self) -> None:
        self.all: list[Shard] = []
        self._count = 0

    def want(self, streams: Iterable[Stream], most: int, url_bytes: int) -> Arranged:
        """Exactly these streams, one shard each. most, url_bytes: of one shard; those that exist stay as they are."""
        wanted = {stream.handle: stream for stream in streams}
        left: dict[Shard, list[int]] = {}
        for shard in self.all:
            for handle, had in list(shard.streams.items()):
                now = wanted.get(handle)
                if now is not None and now.plan.group == shard.group and now.point.web_id == had.point.web_id:
                    shard.streams[handle] = wanted.pop(handle)
                else:
                    del shard.streams[handle]
                    left.setdefault(shard, []).append(handle)
        gone = [shard for shard in self.all if not shard.streams]
        added = self._pack(wanted.values(), most, url_bytes)
        self.all = [shard for shard in self.all if shard.streams] + added
        return Arranged(left, added, gone)

    def merged(self, idle: Sequence[Shard], most: int, url_bytes: int) -> Arranged:
        """What becomes of shards that are not open: fewer ones where that is worth it, else nothing."""
        alive = [shard for shard in idle if shard in self.all and not shard.apart]
        packed = self._pack((stream for shard in alive for stream in shard.streams.values()), most, url_bytes)
        groups = {shard.group for shard in alive}
        before = {group: [shard for shard in alive if shard.group == group] for group in groups}
        after = {group: [shard for shard in packed if shard.group == group] for group in groups}
        worth = {group for group in groups if len(after[group]) <= SMALL * len(before[group])}
        gone = [shard for shard in alive if shard.group in worth]
        added = [shard for shard in packed if shard.group in worth]
        self.all = [shard for shard in self.all if shard not in gone] + added
        return Arranged({}, added, gone)

    def halved(self, shard: Shard) -> Arranged:
        """Two in the place of one whose messages are too large; of one stream alone nothing changes."""
        if len(shard.streams) < 2 or shard not in self.all:
            return Arranged({}, [], [])
        streams = list(shard.streams.values())
        middle = len(streams) // 2
        added = [self._shard(shard.group, half) for half in (streams[:middle], streams[middle:])]
        self.all = [other for other in self.all if other is not shard] + added
        return Arranged({}, added, [shard])

    def isolated(self, shard: Shard, handles: Iterable[int]) -> Arranged:
        """Streams that the server refuses, away from the others of their shard."""
        streams = [shard.streams[handle] for handle in handles if handle in shard.streams]
        if not streams or len(streams) == len(shard.streams) or shard not in self.all:
            return Arranged({}, [], [])
        for stream in streams:
            del shard.streams[stream.handle]
        added = self._shard(shard.group, streams)
        added.apart = True
        self.all.append(added)
        return Arranged({shard: [stream.handle for stream in streams]}, [added], [])

    def _pack(self, streams: Iterable[Stream], most: int, url_bytes: int) -> list[Shard]:
        groups: dict[str, list[Stream]] = {}
        for stream in streams:
            groups.setdefault(stream.plan.group, []).append(stream)
        return [
            self._shard(group, [of[index] for index in chunk])
            for group, of in groups.items()
            for chunk in requests.chunks(
                "streamsets/channel",
                requests.channel_query(HEARTBEAT_ROOM),
                [stream.point.web_id for stream in of],
                most,
                url_bytes,
            )
        ]

    def _shard(self, group: str, streams: Iterable[Stream]) -> Shard:
        self._count += 1
        return Shard(self._count, group, {stream.handle: stream for stream in streams})


class Search:
    """Which of some streams the server refuses, after it has refused all of them together. Pure.

    Ask for `ask()` until it is None, and tell what became of it by `answered`; then `refused` are those that it does
    not take, or `hopeless` says that it takes nothing.
    """

    def __init__(self, handles: Sequence[int], *, works: bool = False) -> None:
        """works: other streams are taken, so it is these."""
        self._left: list[tuple[int, ...]] = []
        self._openings = 0
        self._taken = works
        self.refused: list[int] = []
        self.hopeless = False
        self._split(tuple(handles))

    def ask(self) -> tuple[int, ...] | None:
        """What to open next; None: the search is over."""
        if self.hopeless or self._openings >= MOST_OPENINGS:
            return None
        return self._left[-1] if self._left else None

    def answered(self, *, taken: bool) -> None:
        """What became of the last `ask`."""
        self._openings += 1
        asked = self._left.pop()
        if taken:
            self._taken = True
        else:
            self._split(asked)

    def _split(self, handles: tuple[int, ...]) -> None:
        """All of them together are refused."""
        if len(handles) > 1:
            middle = len(handles) // 2
            self._left += [handles[middle:], handles[:middle]]
            return
        self.refused += handles
        self.hopeless = not self._taken and (len(self.refused) >= 2 or not self._left)
