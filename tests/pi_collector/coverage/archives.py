"""A brute-force archive for the tests of coverage: a list of values, and a server before it that cuts off silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi_collector.coverage.pieces import Ask
from pi_collector.values.timed import TICK, Timed

SECOND = 10**9

Row = tuple[int, int, int]
"""Stream, time (ns), hash."""


def timed(rows: Sequence[Row]) -> Timed:
    """Rows as the collector has them."""
    return Timed(
        np.array([row[0] for row in rows], np.int32),
        np.array([row[1] for row in rows], np.int64),
        np.zeros(len(rows)),
        None,
        None,
        None,
        (),
        np.array([row[2] for row in rows], np.uint64),
    )


def rows_of(values: Timed) -> list[Row]:
    """And back."""
    return list(zip(values.stream.tolist(), values.time.tolist(), values.hash.tolist(), strict=True))


def handles(*numbers: int) -> NDArray[np.int32]:
    """A column of handles."""
    return np.array(numbers, np.int32)


class RefusedError(Exception):
    """400: greater than the maximum allowed."""


@dataclass
class Server:
    """Gives the first max_count values of each stream, in the order of time, and does not say that there are more."""

    rows: list[Row]
    limit: int = 1_000_000
    """Streams times max_count that are not refused."""

    def recorded(self, ask: Ask) -> tuple[list[Row], NDArray[np.int64]]:
        if len(ask.streams) * ask.max_count > self.limit:
            raise RefusedError
        found: list[Row] = []
        sent = []
        for stream in ask.streams.tolist():
            there = [row for row in self.rows if row[0] == stream and ask.start <= row[1] <= ask.stop]
            there.sort(key=lambda row: row[1])
            found += there[: ask.max_count]
            sent.append(len(there[: ask.max_count]))
        return found, np.array(sent, np.int64)


def ticks(number: int) -> int:
    """ns of so many ticks of PI."""
    return number * TICK
