"""The journal: from which batches, in which order and at which times each turn since the last checkpoint was made.

A turn's outputs are stored together with its record. After a crash the state is that of the last checkpoint, and the
batches since then come again, for nobody acknowledged them: `Rebuild` puts them into the order of the records, so that
the turns are gone through once more, with the same times, and the state becomes what it was. What the turns give then
is stored already and thrown away.

Turns without input that gave nothing change timers all the same: they stand in the record of the next turn that is
stored. What came after the last record is not in the journal and need not be: nobody has seen anything of it.

    {"now":…, "steady":…, "trusted":true, "idle":[[now, steady, trusted], …], "keys":[[stream, epoch], …],
     "spans":[[key, first, last], …], "passed":[[key, first, last], …], "samples":…, "gave":[rows, events]}
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from preprocessor.engine.step import Turn
from sluice.batch import EventBatch, SampleBatch

Key = tuple[str, str]
"""Stream and epoch."""
Batch = SampleBatch | EventBatch

MOST_MISSING: Final = 20
"""Ranges that a text names."""


@dataclass(frozen=True, slots=True)
class Span:
    """Batches `first` to `last` of an epoch of a stream."""

    stream: str
    epoch: str
    first: int
    last: int

    @property
    def key(self) -> Key:
        """Stream and epoch."""
        return self.stream, self.epoch

    def as_dict(self) -> dict[str, Any]:
        """For events."""
        return {"stream": self.stream, "epoch": self.epoch, "first": self.first, "last": self.last}

    def __str__(self) -> str:
        return f"{self.first} to {self.last} of {self.stream} (epoch {self.epoch})"


@dataclass(frozen=True, slots=True)
class Record:
    """One turn: what it was made from, and how much it gave."""

    number: int
    turn: Turn
    idle: tuple[Turn, ...] = ()
    """Turns without input before it, that gave nothing."""
    spans: tuple[Span, ...] = ()
    """The batches that were processed, in this order."""
    passed: tuple[Span, ...] = ()
    """Batches that are done with, though they were not processed: lost upstream, or set aside. It was told."""
    samples: int = 0
    gave: tuple[int, int] = (0, 0)
    """Rows and events: the turn must give as many again."""

    def encode(self) -> bytes:
        """As it is stored."""
        keys: dict[Key, int] = {}

        def placed(spans: Iterable[Span]) -> list[list[int]]:
            return [[keys.setdefault(span.key, len(keys)), span.first, span.last] for span in spans]

        spans, passed = placed(self.spans), placed(self.passed)
        return orjson.dumps(
            {
                **_plain(self.turn),
                "idle": [list(_plain(turn).values()) for turn in self.idle],
                "keys": [list(key) for key in keys],
                "spans": spans,
                "passed": passed,
                "samples": self.samples,
                "gave": list(self.gave),
            }
        )


def decode(number: int, data: bytes) -> Record:
    """The record as it was stored. Raises ValueError."""
    try:
        read = orjson.loads(data)
        keys = [(str(stream), str(epoch)) for stream, epoch in read["keys"]]

        def spans(name: str) -> tuple[Span, ...]:
            return tuple(
                Span(keys[place][0], keys[place][1], int(first), int(last)) for place, first, last in read[name]
            )

        rows, events = read["gave"]
        return Record(
            number,
            Turn(int(read["now"]), int(read["steady"]), bool(read["trusted"])),
            tuple(Turn(int(now), int(steady), bool(trusted)) for now, steady, trusted in read["idle"]),
            spans("spans"),
            spans("passed"),
            int(read["samples"]),
            (int(rows), int(events)),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"the record of turn {number} cannot be read: {error!r}") from error


def spans_of(batches: Iterable[Batch]) -> tuple[Span, ...]:
    """Batches as ranges, in their order."""
    spans: list[Span] = []
    for batch in batches:
        header = batch.header
        before = spans[-1] if spans else None
        if before is not None and before.key == (header.stream, header.epoch) and before.last + 1 == header.seq:
            spans[-1] = Span(header.stream, header.epoch, before.first, header.seq)
        else:
            spans.append(Span(header.stream, header.epoch, header.seq, header.seq))
    return tuple(spans)


class Rebuild:
    """Puts batches that come again into the order of the records. What a record needs and cannot have is left out."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = deque(records)
        self._last: dict[Key, int] = {}
        self._needed: dict[Key, set[int]] = {}
        self._came: dict[tuple[str, str, int], Batch] = {}
        self.left_out: list[Span] = []
        """What the records processed so far were made from and cannot have again."""
        self.skipped: list[Span] = []
        """What came again, and could not be processed again."""
        for record in records:
            for span in record.spans:
                self._needed.setdefault(span.key, set()).update(range(span.first, span.last + 1))
            for span in (*record.spans, *record.passed):
                self._last[span.key] = max(self._last.get(span.key, 0), span.last)

    @property
    def over(self) -> bool:
        """Every record has been given."""
        return not self._records

    @property
    def left(self) -> int:
        """Records that have not been given."""
        return len(self._records)

    def cursors(self) -> dict[Key, int]:
        """The numbers behind everything that the records are about."""
        return {key: last + 1 for key, last in self._last.items()}

    def covers(self, stream: str, epoch: str, number: int) -> bool:
        """Whether the number is one that the records are about, or stands before them."""
        return number <= self._last.get((stream, epoch), 0)

    def take(self, batch: Batch) -> bool:
        """Keep a batch that a record needs. False: no record is about it, it came after them."""
        header = batch.header
        if not self.covers(header.stream, header.epoch, header.seq):
            return False
        needed = self._needed.get((header.stream, header.epoch))
        if needed is not None and header.seq in needed:
            needed.discard(header.seq)
            self._came[header.stream, header.epoch, header.seq] = batch
        return True

    def give_up(self, stream: str, epoch: str, first: int, last: int) -> None:
        """These will not come again."""
        needed = self._needed.get((stream, epoch))
        if needed:
            needed.difference_update([number for number in needed if first <= number <= last])

    def missing(self) -> list[Span]:
        """What the next record still waits for."""
        if not self._records:
            return []
        found: list[Span] = []
        for span in self._records[0].spans:
            needed = self._needed[span.key]
            numbers = [number for number in range(span.first, span.last + 1) if number in needed]
            if numbers:
                found.append(Span(span.stream, span.epoch, numbers[0], numbers[-1]))
        return found

    def next(self) -> tuple[Record, list[Batch]] | None:
        """The next record with its batches, when all of them have come or are given up."""
        if not self._records or self.missing():
            return None
        record = self._records.popleft()
        batches: list[Batch] = []
        for span in record.spans:
            for number in range(span.first, span.last + 1):
                batch = self._came.pop((span.stream, span.epoch, number), None)
                if batch is not None:
                    batches.append(batch)
                else:
                    self._leave_out(span, number)
        return record, batches

    def skip(self, span: Span) -> None:
        """Processing it again failed for good: it is left out."""
        self.skipped.append(span)

    def _leave_out(self, span: Span, number: int) -> None:
        before = self.left_out[-1] if self.left_out else None
        if before is not None and before.key == span.key and before.last + 1 == number:
            self.left_out[-1] = Span(span.stream, span.epoch, before.first, number)
        else:
            self.left_out.append(Span(span.stream, span.epoch, number, number))


def told(spans: Sequence[Span]) -> str:
    """Ranges in a text."""
    shown = ", ".join(map(str, spans[:MOST_MISSING]))
    return f"{shown} and {len(spans) - MOST_MISSING} more" if len(spans) > MOST_MISSING else shown


def _plain(turn: Turn) -> dict[str, Any]:
    return {"now": turn.now, "steady": turn.steady, "trusted": turn.trusted}
