"""Flows tried out without a device: recorded or written samples in, what comes out and why, at any speed.

Time is simulated: the clock stands at the newest sample that has come, a turn is made for every second of it, and
`until` lets it go on when no samples come any more. Pure: nothing is read, written or waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from preprocessor.engine.pipeline import Outcome, Pipeline
from preprocessor.engine.step import SECOND, Turn
from sluice.batch import Header, SampleBatch
from sluice.columns import Columns, Sample, from_samples

MOST_IDLE_TURNS: Final = 100_000
"""Turns without samples, one for each second, that one trial makes."""
_EPOCH: Final = "0" * 12


@dataclass(slots=True)
class Counted:
    """Samples of one tag, with its asset path, that came in, or went out."""

    samples: int = 0
    bad: int = 0
    uncertain: int = 0
    least: float | None = None
    greatest: float | None = None

    def add(self, quality: int, value: Any) -> None:
        """Count one."""
        self.samples += 1
        self.bad += quality == 2
        self.uncertain += quality == 1
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            self.least = value if self.least is None else min(self.least, value)
            self.greatest = value if self.greatest is None else max(self.greatest, value)


@dataclass(slots=True)
class Ran:
    """What a trial gave."""

    samples: list[Sample] = field(default_factory=list)
    """What went out, by time; kept only where nobody else takes it."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """What was told; kept where samples are."""
    kinds: dict[str, int] = field(default_factory=dict)
    """How many events there were of each kind."""
    before: dict[str, Counted] = field(default_factory=dict)
    after: dict[str, Counted] = field(default_factory=dict)
    turns: int = 0


class Trial:
    """One flow on trial. take: given each sample that goes out, instead of keeping them all, and the events."""

    def __init__(
        self, pipeline: Pipeline, *, source: str, start: int, take: Callable[[Sample], None] | None = None
    ) -> None:
        """source: the stream that samples come on; start: ns since 1970 UTC at which the clock begins."""
        self.pipeline = pipeline
        self.ran = Ran()
        self._source = source
        self._now = start
        self._steady = SECOND
        self._seq = 0
        self._take = take

    def feed(self, samples: Sequence[Sample], arrive: int | None = None) -> None:
        """Samples that come together. arrive: when, ns; else at the newest of their times, or now if that is later."""
        if not samples:
            return
        for one in samples:
            self.ran.before.setdefault(_name(one), Counted()).add(one.quality, one.value)
        when = max(one.time for one in samples) if arrive is None else arrive
        if when > self._now:
            self.until(when - 1)
            self._go(when)
        batches = []
        for columns in from_samples(samples):
            self._seq += 1
            batches.append(SampleBatch(Header(self._source, _EPOCH, self._seq), columns))
        self._turn(batches)

    def until(self, time: int) -> None:
        """Nothing comes until then: a turn for every second, and for more than a day larger steps."""
        step = max(SECOND, -(-(time - self._now) // MOST_IDLE_TURNS))
        while self._now + step <= time:
            self._go(self._now + step)
            self._turn([])
        if self._now < time:
            self._go(time)
            self._turn([])

    def _go(self, time: int) -> None:
        self._steady += time - self._now
        self._now = time

    def _turn(self, batches: Sequence[SampleBatch]) -> None:
        outcome = self.pipeline.turn(batches, Turn(self._now, self._steady))
        self.ran.turns += 1
        for event in outcome.events:
            kind = str(event.get("kind"))
            self.ran.kinds[kind] = self.ran.kinds.get(kind, 0) + 1
        if self._take is None:
            self.ran.events += outcome.events
        for columns in _all(outcome):
            for one in columns.samples():
                self.ran.after.setdefault(_name(one), Counted()).add(one.quality, one.value)
                if self._take is None:
                    self.ran.samples.append(one)
                else:
                    self._take(one)


def in_pieces(samples: Iterable[Sample], *, most: int = 10_000) -> Iterator[list[Sample]]:
    """Recorded samples as they would have come: those of a second together, at most so many."""
    piece: list[Sample] = []
    for one in samples:
        if piece and (one.time - piece[0].time >= SECOND or len(piece) >= most):
            yield piece
            piece = []
        piece.append(one)
    if piece:
        yield piece


def _name(one: Sample) -> str:
    return f"{one.asset}/{one.tag}" if one.asset else one.tag


def _all(outcome: Outcome) -> list[Columns]:
    return [*outcome.live, *outcome.backfill]
