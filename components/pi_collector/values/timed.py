"""Timed values of many streams as columns, as they pass through the collector.

A *stream* is one thing that is collected: a point in one mode, and in mode summary one calculation of it. It has a
handle, a small number that stands for it as long as anything of it is remembered, over restarts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

TICK: Final = 100
"""Nanoseconds: the resolution of PI's times."""


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """Values as columns of equal length, in the order in which the server gave them."""

    stream: NDArray[np.int32]
    """Handle."""
    time: NDArray[np.int64]
    """ns since 1970 UTC, a multiple of TICK."""
    number: NDArray[np.float64]
    """NaN where the value is none."""
    text: NDArray[Any] | None
    """str or None; None: no value is a text."""
    quality: NDArray[np.uint8] | None
    """None: all GOOD."""
    status: NDArray[np.int64] | None
    """As `sluice.columns.Columns.status`; None: none has one."""
    words: tuple[str, ...]
    """What a status below 0 means: words[-status - 1]."""
    hash: NDArray[np.uint64]
    """Of value and quality in their canonical form: what tells two values of one stream and time apart."""

    def __len__(self) -> int:
        return len(self.stream)

    def take(self, rows: NDArray[Any]) -> Timed:
        """Some of them: a mask, or indexes in the order wanted."""
        return Timed(
            self.stream[rows],
            self.time[rows],
            self.number[rows],
            None if self.text is None else self.text[rows],
            None if self.quality is None else self.quality[rows],
            None if self.status is None else self.status[rows],
            self.words,
            self.hash[rows],
        )


def nothing() -> Timed:
    """No values at all."""
    return Timed(
        np.empty(0, np.int32),
        np.empty(0, np.int64),
        np.empty(0, np.float64),
        None,
        None,
        None,
        (),
        np.empty(0, np.uint64),
    )


def join(parts: Sequence[Timed]) -> Timed:
    """Several after one another."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return nothing()
    words: dict[str, int] = {}
    statuses: list[NDArray[np.int64]] = []
    for part in parts:
        known = np.array([0, *(-1 - words.setdefault(word, len(words)) for word in part.words)], np.int64)
        status = np.zeros(len(part), np.int64) if part.status is None else part.status
        statuses.append(np.where(status < 0, known[np.minimum(np.maximum(-status, 0), len(part.words))], status))
    status = np.concatenate(statuses)
    texts = any(part.text is not None for part in parts)
    qualities = any(part.quality is not None for part in parts)
    return Timed(
        np.concatenate([part.stream for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.number for part in parts]),
        np.concatenate([_texts(part) for part in parts]) if texts else None,
        np.concatenate([_qualities(part) for part in parts]) if qualities else None,
        status if status.any() else None,
        tuple(words),
        np.concatenate([part.hash for part in parts]),
    )


def _texts(part: Timed) -> NDArray[Any]:
    return np.full(len(part), None, object) if part.text is None else part.text


def _qualities(part: Timed) -> NDArray[np.uint8]:
    return np.zeros(len(part), np.uint8) if part.quality is None else part.quality
