"""Sums of doubles that stay exact to the last digits however many terms there are (Neumaier)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def added(total: Floats, rest: Floats, term: Floats) -> tuple[Floats, Floats]:
    """total + rest, with the term added: the new total, and the new rest that its digits had no room for."""
    with np.errstate(over="ignore", invalid="ignore"):
        new: Floats = total + term
        lost = np.where(np.abs(total) >= np.abs(term), (total - new) + term, (term - new) + total)
    return new, rest + lost


def add(total: float, rest: float, term: float) -> tuple[float, float]:
    """The same for one sum."""
    new = total + term
    lost = (total - new) + term if abs(total) >= abs(term) else (term - new) + total
    return new, rest + lost
