"""Reading a piece page by page, with a server that cuts answers off without a word. Pure.

Theory of operation. A server gives the first max_count values of each stream and does not say that there are more: a
full page is taken for a truncated one. What is known then is that everything *before* its last time was sent; of the
last time itself more may come. So the values of the last time are left for the next page, which begins there: what is
handed on always ends between two times, comes once, and can be gone on from.

| answer for a stream                       | handed on                  | the stream goes on                        |
|-------------------------------------------|----------------------------|-------------------------------------------|
| fewer than max_count                      | all of it                  | behind the asked window                   |
| full, in order, ends later than it began  | what is before the last    | at the last time, inclusive               |
| full, one time only                       | nothing                    | there, alone, with a doubled max_count    |
| the same with the most values there are   | all of it                  | behind that time, which is `stuck`: told  |
| full, but not in order, or unreadable     | nothing                    | there, with half the window               |

Streams whose places are alike are asked together from the earliest of them; rows before a stream's own place were
handed on before and are dropped (`repeated`). One that a common page brings no further goes on alone. Rows outside of
what was asked are dropped and counted (`outside`). The *window* of time follows the density of the values: an answer
should have about GOAL of them.

`upto` of an answer is only ever a time up to which everything was sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pi_collector.coverage.pieces import Ask, Piece
from pi_collector.values.timed import TICK, Timed

GOAL: Final = 20_000
"""Values of an answer: 3 MB of JSON, of which several are in memory at once."""
LARGEST: Final = 50_000
"""Values of one stream that are asked for at first."""
WINDOW: Final = 600 * 10**9
"""ns: of the first answer, where nothing is known of the density."""

_MOST_GROWTH: Final = 4.0
_LONGEST: Final = 400 * 86400 * 10**9
_ALIKE: Final = 8  # streams are asked together whose places lie within this part of a window

Handles = NDArray[np.int32]
Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Paged:
    """What an answer brought."""

    rows: NDArray[np.bool_]
    """Of the answer's values those that are to be handed on."""
    upto: Times
    """By stream of the question: everything up to there was sent and is handed on, ns."""


class Paging:
    """One piece. most: values that the server gives at once, over all streams. window: of time, ns, to begin with."""

    def __init__(self, piece: Piece, *, most: int, window: int | None = None) -> None:
        self.piece = piece
        self.most = max(1, most)
        """Values that the server gives at once: less, after it has called that too much."""
        self.window = float(max(TICK, WINDOW if window is None else window))
        """ns: for the next piece of this kind to begin with."""
        self.values = 0
        """Values that were sent."""
        self.repeated = 0
        """Rows that were handed on before in this piece."""
        self.outside = 0
        """Rows of streams or times that were not asked for."""
        self.stuck: dict[int, list[int]] = {}
        """By handle: times, ns, of which there are more values than the server gives."""
        self.failures: dict[int, str] = {}
        """By handle, why it is read no further."""
        order = np.argsort(piece.streams, kind="stable")
        self._streams = piece.streams[order]
        self._stop = piece.stop // TICK * TICK
        self._place: Times = piece.start[order] // TICK * TICK
        n = len(order)
        self._began = piece.start[order] - 1
        self._busy = np.zeros(n, np.bool_)
        self._failed = np.zeros(n, np.bool_)
        self._alone = np.zeros(n, np.bool_)
        self._count = np.zeros(n, np.int64)  # max_count that it needs; 0: any
        self._narrow = np.zeros(n, np.int64)  # its own window, ns; 0: as all
        self._most_streams = max(1, n)

    @property
    def done(self) -> bool:
        """All is read, except for what failed."""
        return not self._busy.any() and not self._left().any()

    def _left(self) -> NDArray[np.bool_]:
        left: NDArray[np.bool_] = ~self._failed & (self._place <= self._stop)
        return left

    def ask(self) -> Ask | None:
        """What to ask next. None: all is read, or what is left is under way."""
        free = np.flatnonzero(self._left() & ~self._busy)
        if not len(free):
            return None
        order = np.argsort(self._place[free], kind="stable")
        free = free[order]
        first = int(free[0])
        start = int(self._place[first])
        if self._alone[first]:
            group = free[:1]
        else:
            together = free[~self._alone[free]]
            group = together[self._place[together] - start <= int(self.window) // _ALIKE]
            group = group[: min(self._most_streams, self.most)]
        share = len(self._place) / len(group)
        window = int(self._narrow[first]) or int(min(self.window * share, _LONGEST))
        stop = max(start, min(self._stop, (start + window) // TICK * TICK))
        # A place behind the window would read nothing.
        group = np.sort(group[self._place[group] <= stop])
        count = max(1, min(self.most // len(group), LARGEST))
        if self._alone[first]:
            count = min(max(count, int(self._count[first])), self.most)
        self._busy[group] = True
        return Ask(self._streams[group], start, stop, int(count))

    def answered(self, ask: Ask, timed: Timed, sent: NDArray[np.int64]) -> Paged:
        """The values that came, and how many the server sent of each of ask.streams, readable or not."""
        group = np.searchsorted(self._streams, ask.streams)
        self._busy[group] = False
        sent = np.asarray(sent, np.int64)
        self.values += int(sent.sum())
        n = len(group)
        # Of which of the streams each row is.
        where = np.minimum(np.searchsorted(ask.streams, timed.stream), n - 1)
        asked = (ask.streams[where] == timed.stream) & (timed.time >= ask.start) & (timed.time <= ask.stop)
        self.outside += int((~asked).sum())
        good = asked & ~self._failed[group][where]
        place = self._place[group]
        full = sent >= ask.max_count
        upto = np.where(full, place - 1, ask.stop)
        cut = np.full(n, ask.stop + 1, np.int64)  # rows from here on are left for the next page
        for at in np.flatnonzero(full & ~self._failed[group]):
            upto[at], cut[at] = self._truncated(int(group[at]), ask, timed.time[good & (where == at)])
        upto = np.where(self._failed[group], place - 1, np.maximum(upto, place - 1))
        whole = ~full & ~self._failed[group]
        self._alone[group[whole]], self._count[group[whole]], self._narrow[group[whole]] = False, 0, 0
        before = good & (timed.time < place[where])
        self.repeated += int(before.sum())
        rows = good & ~before & (timed.time < cut[where])
        # The next tick: the server rounds what is between two down, and would send the one before again.
        self._place[group] = np.maximum(place, (upto // TICK + 1) * TICK)
        self._adapt(ask, int(sent.sum()), int(full.sum()))
        return Paged(rows, np.maximum(upto, self._began[group]))

    def _truncated(self, stream: int, ask: Ask, times: Times) -> tuple[int, int]:
        """A full page of one stream: up to where it is complete, and from where on its rows are left."""
        place = int(self._place[stream])
        if not len(times) or (times[1:] < times[:-1]).any():
            # Which values were cut off cannot be told.
            return self._narrowed(stream, ask, times)
        last = int(times[-1])
        if last > place:
            self._narrow[stream] = 0
            self._alone[stream] = True
            self._count[stream] = 0
            return last - 1, last
        if last < place:
            # It was asked from before its place, for the others' sake.
            self._alone[stream] = True
            return place - 1, place
        return self._one_time(stream, ask, place)

    def _narrowed(self, stream: int, ask: Ask, times: Times) -> tuple[int, int]:
        place = int(self._place[stream])
        begins = max(place, ask.start)
        if ask.start < place and ask.stop > ask.start:
            self._alone[stream] = True
            self._narrow[stream] = max(TICK, ask.stop - place)
            return place - 1, place
        if ask.stop - begins < TICK:
            return self._one_time(stream, ask, place)
        self._alone[stream] = True
        self._narrow[stream] = max(1, (ask.stop - begins) // 2)
        return place - 1, place

    def _one_time(self, stream: int, ask: Ask, place: int) -> tuple[int, int]:
        """More values of its first time than were asked for."""
        if ask.max_count < self.most:
            self._alone[stream] = True
            self._count[stream] = 2 * ask.max_count
            return place - 1, place
        self.stuck.setdefault(int(self._streams[stream]), []).append(place)
        self._count[stream] = 0
        return place, place + 1

    def _adapt(self, ask: Ask, sent: int, full: int) -> None:
        streams = len(ask.streams)
        if 2 * streams < len(self._place) and streams < self._most_streams:
            return
        if full * 4 > streams:
            wanted = 0.5
        else:
            span = max(1.0, float(ask.stop - ask.start)) * streams / len(self._place) / self.window
            wanted = GOAL / sent * min(1.0, span) if sent else _MOST_GROWTH
        self.window = min(_LONGEST, max(float(TICK), self.window * min(_MOST_GROWTH, max(1 / _MOST_GROWTH, wanted))))

    def too_much(self, ask: Ask) -> None:
        """The server refused the question for its size: the next ones are smaller. A question of the smallest size
        that is refused fails."""
        group = np.searchsorted(self._streams, ask.streams)
        self._busy[group] = False
        asked = ask.max_count * len(group)
        if len(group) == 1 and ask.max_count == 1:
            self.failed(ask, ask.streams, "the server calls one value too much")
            return
        self.most = max(1, min(self.most, asked // 2))
        self._count[group] = np.minimum(self._count[group], self.most)
        if asked <= 100 * len(group):  # not for its values
            self._most_streams = max(1, len(group) // 2)

    def failed(self, ask: Ask, streams: Handles, why: str) -> None:
        """These streams of the question are not read any further. If it is all of them there is no `answered`."""
        group = np.searchsorted(self._streams, np.asarray(streams, np.int32))
        self._failed[group] = True
        for handle in streams:
            self.failures[int(handle)] = why
        everyone = np.searchsorted(self._streams, ask.streams)
        if self._failed[everyone].all():
            self._busy[everyone] = False
