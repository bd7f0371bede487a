"""Values and qualities, row by row: what expressions are evaluated over, and what they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """Values of one tag, member, constant or result at many times, or of many instances.

    A column of length 1 stands for the same value in every row. Columns are shared: nobody writes to one.
    """

    value: NDArray[Any]
    """float64, NaN: unknown; truths are 1.0 and 0.0. Or object: texts, None: unknown. No infinities."""
    quality: NDArray[np.uint8]
    """0 GOOD, 1 UNCERTAIN, 2 BAD."""
    before: Column | None = None
    """What the tag was one sample earlier, for prev, delta and rate."""
    age: NDArray[np.float64] | None = None
    """Seconds since the sample whose value this is, for age."""
    span: NDArray[np.float64] | None = None
    """Seconds between that sample and the one before, for rate."""

    def __len__(self) -> int:
        return len(self.value)

    @property
    def text(self) -> bool:
        """Whether these are texts."""
        return self.value.dtype.hasobject

    def known(self) -> Mask:
        """The rows that have a value."""
        return ~nulls(self.value)

    def true(self) -> Mask:
        """The rows that are true, or numbers other than 0, and not BAD. What is unknown, or a text, is not."""
        if self.text:
            return np.zeros(len(self), dtype=np.bool_)
        with np.errstate(invalid="ignore"):
            yes: Mask = (self.value != 0) & ~np.isnan(self.value) & (self.quality < 2)
        return yes

    def take(self, rows: Mask | Index | slice) -> Column:
        """These rows."""
        return Column(
            self.value[rows],
            self.quality[rows],
            None if self.before is None else self.before.take(rows),
            None if self.age is None else self.age[rows],
            None if self.span is None else self.span[rows],
        )

    def with_(self, **members: Any) -> Column:
        """The same with other members."""
        return replace(self, **members)

    @staticmethod
    def constant(value: float | bool | str) -> Column:
        """A GOOD value that is the same in every row."""
        return Column(values_of([value]), np.zeros(1, dtype=np.uint8))

    @staticmethod
    def unknown(size: int = 1) -> Column:
        """Rows of which nothing is known."""
        return Column(np.full(size, np.nan), np.full(size, 2, dtype=np.uint8))

    @staticmethod
    def of(values: Sequence[float | str | None], quality: Sequence[int] | None = None) -> Column:
        """A column of plain values: None is unknown, and BAD unless a quality says more."""
        worst = [2 if value is None or value != value else 0 for value in values] if quality is None else quality
        return Column(values_of(values), np.array(worst, dtype=np.uint8))


def values_of(values: Sequence[float | str | None]) -> NDArray[Any]:
    """Plain values as an array: of objects when one is a text, else of float64. None and infinities are unknown."""
    if any(isinstance(value, str) for value in values):
        texts = np.empty(len(values), dtype=object)
        texts[:] = [value if isinstance(value, str) else None for value in values]
        return texts
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def nulls(values: NDArray[Any]) -> Mask:
    """Which values are unknown."""
    if values.dtype.hasobject:
        return np.fromiter((value is None for value in values.tolist()), np.bool_, len(values))
    isnan: Mask = np.isnan(values)
    return isnan


def together(columns: Sequence[Column]) -> Column:
    """One column of several, one after the other. Where some are texts, numbers among them are unknown."""
    if len(columns) == 1:
        return columns[0]
    values = [column.value for column in columns]
    if len({value.dtype.hasobject for value in values}) > 1:
        values = [value if value.dtype.hasobject else np.full(len(value), None, dtype=object) for value in values]
    return Column(np.concatenate(values), np.concatenate([column.quality for column in columns]))
