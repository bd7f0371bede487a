"""What is to be read of the archive next, and one question of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray


class Kind(str, Enum):
    """Why it is read, the most urgent first."""

    POLL = "poll"
    """It is how these streams are collected: goes into the live stream."""
    GAP = "gap"
    """It is missing: goes into the backfill stream."""
    RECONCILE = "reconcile"
    """It was read or came live before, and is looked at again: moves no coverage."""
    REQUESTED = "requested"
    """Somebody asked for it: moves no coverage, and is not compared with what was handed on before."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Times of some streams that are to be read. Compared by identity: it is busy until it is finished or returned."""

    kind: Kind
    streams: NDArray[np.int32]
    """Handles, each once."""
    start: NDArray[np.int64]
    """From when on, by stream, ns, inclusive. Alike, but not the same."""
    stop: int
    """Until when, ns, inclusive."""


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """One question: the recorded values of some streams. A server gives at most max_count of each, without a word."""

    streams: NDArray[np.int32]
    start: int
    """ns, inclusive."""
    stop: int
    """ns, inclusive."""
    max_count: int
    """Per stream."""
