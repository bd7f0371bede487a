"""OPC UA status code -> Sluice quality: the one table of this component (Part 4, 7.39; Part 8, A.4.3.3)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sluice.batch import Quality

#: The two severity bits decide, never ``code == 0``; the reserved severity 3 is treated as bad.
BY_SEVERITY: Final = (Quality.GOOD, Quality.UNCERTAIN, Quality.BAD, Quality.BAD)

_TABLE: Final[NDArray[np.uint8]] = np.array([int(quality) for quality in BY_SEVERITY], np.uint8)

#: Info bits of a DataValue: the server's queue ran over and values were dropped there.
OVERFLOW: Final = 0x0480

#: The node's first notification before the device answered: no sample, only a promise of one.
WAITING_FOR_INITIAL_DATA: Final = 0x80320000


def quality_of(status: NDArray[np.uint32]) -> NDArray[np.uint8] | None:
    """Quality per sample; None when all are good."""
    if not status.any():
        return None
    found = _TABLE[status >> 30]
    return found if found.any() else None


def overflows(status: NDArray[np.uint32]) -> int:
    """How many samples say that the server dropped others before them."""
    return int(np.count_nonzero((status & OVERFLOW) == OVERFLOW))
