"""What tells two values of one stream and time apart, in 64 bits. Pure.

The same value has the same hash whichever way it came: what the server says of it decides, and nothing that we are
configured to make of it. Good and Questionable count; Annotated and Substituted do not: an edit that only sets a flag
makes no other value of it. Of points that keep numbers of 32 bits only these count, because some calls of a server
write more digits than others.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

_CACHED: Final = 8192
_LONGEST_CACHED: Final = 256  # characters


class Form(IntEnum):
    """What the 64 bits before mixing stand for."""

    NUMBER = 0
    """The number's own bits."""
    DIGITAL = 1
    """The state's code."""
    TEXT = 2
    """`text_bits`."""
    SYSTEM = 3
    """The system state's code."""
    STATE = 4
    """`text_bits` of the name of a state without a code."""
    NOTHING = 5
    """No value, for whatever reason."""
    WRONG = 6
    """`text_bits` of the JSON of a value of another type."""


LEVELS: Final = 4
"""Below each form: good, questionable, not good."""

_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


def number_bits(number: NDArray[np.float64], single: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """The numbers in canonical form: one zero, one NaN for all that is none, 32 bits where the point has no more."""
    if single.any():
        with np.errstate(over="ignore", invalid="ignore"):
            number = np.where(single, number.astype(np.float32).astype(np.float64), number)
    canonical = number + 0.0  # -0.0 becomes 0.0
    canonical[~np.isfinite(canonical)] = np.nan
    bits: NDArray[np.uint64] = canonical.view(np.uint64)
    return bits


def text_bits(text: str) -> int:
    """Of a text."""
    return _short_text_bits(text) if len(text) <= _LONGEST_CACHED else _text_bits(text)


def _text_bits(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


_short_text_bits = lru_cache(_CACHED)(_text_bits)


def mixed(bits: NDArray[np.uint64], form: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The hashes: bits and form (`Form` * LEVELS + level) through the finaliser of splitmix64."""
    z = bits + (form.astype(np.uint64) + np.uint64(1)) * _STEP
    z = (z ^ (z >> _30)) * _MIX_1
    z = (z ^ (z >> _27)) * _MIX_2
    return np.asarray(z ^ (z >> _31), np.uint64)
