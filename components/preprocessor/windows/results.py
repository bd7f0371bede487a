"""What a window gives: its functions, and how good their values are.

`FUNCTIONS` is the table of all functions: what each is, which values it is for, and its unit. The value of a result is
null where it means nothing; its quality and status word are, by what is known of the window (`given`):

    BAD  no-data          no sample in it, with `empty: bad`
    BAD  not-numeric      a function of numbers, and the value is none
    BAD  too-little-good  a good value is known for less than `minGood` percent of it
    BAD  too-large        beyond what a double holds
    UNCERTAIN  partial    a good value is not known for all of it
    UNCERTAIN  uncertain  an UNCERTAIN sample counted as good

`count`, `samples` and `percentGood` tell of the data, not of the value: they are GOOD however little of it there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preprocessor.windows.folding import NOTHING, NUMBER, Floats, Mask, Sums
from preprocessor.windows.ragged import Times
from sluice.columns import Quality

NO_DATA: Final = "no-data"
NOT_NUMERIC: Final = "not-numeric"
TOO_LITTLE_GOOD: Final = "too-little-good"
TOO_LARGE: Final = "too-large"
PARTIAL: Final = "partial"
DOUBTFUL: Final = "uncertain"
WORDS: Final = ("", NO_DATA, NOT_NUMERIC, TOO_LITTLE_GOOD, TOO_LARGE, PARTIAL, DOUBTFUL)
"""The status words of results, by the number that stands for them in `Given`."""
_SECONDS: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Function:
    """One function. `of`: the values for windows of which the length in ns is given; NaN where there is none."""

    of: Callable[[Sums, Floats], NDArray[np.floating[Any]]]
    numeric: bool = True
    """Only numbers have it; else it is for texts and booleans as well."""
    unit: Callable[[str], str] = lambda unit: unit
    whole: bool = False
    """Its values are integers."""
    kind: Callable[[Sums], NDArray[np.uint8]] | None = None
    """The kind of its values, where they are values of the tag itself."""
    of_data: bool = False
    """It tells of the data, and is GOOD however little there is."""


def _no_unit(unit: str) -> str:
    return ""


def _mean_of_time(sums: Sums, length: Floats) -> Floats:
    mean: Floats = sums.reference + sums.first_sum / (sums.good * _SECONDS)
    return mean


def _deviation(sums: Sums, length: Floats) -> Floats:
    seconds = sums.good * _SECONDS
    mean = sums.first_sum / seconds
    deviation: Floats = np.sqrt(np.maximum(sums.second_sum / seconds - mean * mean, 0.0))
    return deviation


def _integral(sums: Sums, length: Floats) -> Floats:
    integral: Floats = sums.first_sum + sums.reference * (sums.good * _SECONDS)
    return integral


def _mean_of_samples(sums: Sums, length: Floats) -> Floats:
    mean: Floats = sums.sum / sums.count
    return np.where(sums.count > 0, mean, sums.head)


def _or_held(values: Floats, kinds: NDArray[np.uint8], held: Floats) -> Floats:
    return np.where(kinds == NOTHING, held, values)


FUNCTIONS: Final[Mapping[str, Function]] = {
    # the mean over good time
    "average": Function(_mean_of_time),
    # the least value in good time, that which held at the start included
    "minimum": Function(lambda sums, length: sums.low),
    # the greatest value in good time, that which held at the start included
    "maximum": Function(lambda sums, length: sums.high),
    # maximum less minimum
    "range": Function(lambda sums, length: sums.high - sums.low),
    # the standard deviation over good time
    "deviation": Function(_deviation),
    # the first good sample in the window; the value that held where there is none
    "first": Function(
        lambda sums, length: _or_held(sums.first, sums.first_kind, sums.head),
        numeric=False,
        kind=lambda sums: np.where(sums.first_kind == NOTHING, sums.head_kind, sums.first_kind),
    ),
    # the last good sample in the window; the value that held where there is none
    "last": Function(
        lambda sums, length: _or_held(sums.last, sums.last_kind, sums.tail),
        numeric=False,
        kind=lambda sums: np.where(sums.last_kind == NOTHING, sums.tail_kind, sums.last_kind),
    ),
    # the value at the end of good time less that at its start: over windows in a row it adds up
    "delta": Function(lambda sums, length: sums.tail - sums.head),
    # the sum of the good samples
    "sum": Function(lambda sums, length: sums.sum),
    # how many good samples there are
    "count": Function(
        lambda sums, length: sums.count.astype(np.float64), numeric=False, unit=_no_unit, whole=True, of_data=True
    ),
    # the mean of the good samples, each counted once; the value that held where there is none
    "mean": Function(_mean_of_samples),
    # the value times seconds of good time
    "integral": Function(
        _integral,
        unit=lambda unit: f"{unit}*s" if unit else "s",
    ),
    # seconds of good time for which the value is true, not 0, not an empty text
    "duration": Function(lambda sums, length: sums.true * _SECONDS, numeric=False, unit=lambda unit: "s"),
    # how often a good sample differs from the good one before it
    "transitions": Function(
        lambda sums, length: sums.transitions.astype(np.float64), numeric=False, unit=_no_unit, whole=True
    ),
    # percent of the window for which a good value is known
    "percentGood": Function(
        lambda sums, length: 100.0 * (sums.good / length), numeric=False, unit=lambda unit: "%", of_data=True
    ),
}


@dataclass(slots=True, eq=False)
class Results:
    """Results of windows, a row for each window and a column for each function."""

    value: Floats
    """NaN: null. A text's place in the table of texts."""
    kind: NDArray[np.uint8]
    quality: NDArray[np.uint8]
    word: NDArray[np.uint8]
    """Place in `WORDS`."""

    def take(self, rows: Any) -> Results:
        """These rows."""
        return Results(self.value[rows], self.kind[rows], self.quality[rows], self.word[rows])

    def same_as(self, other: Results) -> Mask:
        """Which rows say the same, up to the last digits, which depend on the order in which sums were taken."""
        close = np.isclose(self.value, other.value, rtol=1e-12, atol=0.0, equal_nan=True)
        alike = (self.kind == other.kind) & (self.quality == other.quality) & (self.word == other.word)
        same: Mask = np.all(close & alike, axis=1)
        return same


def results(functions: Sequence[str], sums: Sums, end: Times, *, min_good: float, empty_is_bad: bool) -> Results:
    """What these functions are for windows that end then."""
    size = len(sums)
    value = np.full((size, len(functions)), np.nan)
    kind = np.full((size, len(functions)), NUMBER, dtype=np.uint8)
    quality = np.zeros((size, len(functions)), dtype=np.uint8)
    word = np.zeros((size, len(functions)), dtype=np.uint8)
    length = (end - sums.start).astype(np.float64)
    numeric: Mask = (sums.kinds & ~np.uint8(1 << NUMBER)) == 0
    none = sums.good == 0
    too_little = none | (sums.good * 100.0 < min_good * length)
    partial = sums.good < end - sums.start
    empty: Mask = (sums.samples == 0) & np.bool_(empty_is_bad)
    for place, name in enumerate(functions):
        function = FUNCTIONS[name]
        with np.errstate(all="ignore"):
            values = function.of(sums, length)
        if function.kind is not None:
            kind[:, place] = function.kind(sums)
        by_rank: list[tuple[Mask, Quality, str]] = [(empty, Quality.BAD, NO_DATA)]
        if function.numeric:
            by_rank.append((~numeric, Quality.BAD, NOT_NUMERIC))
        if not function.of_data:
            by_rank += [
                (too_little, Quality.BAD, TOO_LITTLE_GOOD),
                (~np.isfinite(values), Quality.BAD, TOO_LARGE),
                (partial, Quality.UNCERTAIN, PARTIAL),
                (sums.doubtful > 0, Quality.UNCERTAIN, DOUBTFUL),
            ]
        for where, how, what in reversed(by_rank):
            quality[where, place] = how
            word[where, place] = WORDS.index(what)
        value[:, place] = np.where(quality[:, place] == Quality.BAD, np.nan, values)
    return Results(value, kind, quality, word)
