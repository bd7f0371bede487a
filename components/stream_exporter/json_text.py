"""Columns as JSON text, one piece of bytes per sample.

A sample is never a Python object here: numbers of a whole column become text in one call, and a message is one join of
pieces. Integers and doubles are written by orjson (shortest text that reads back as the same double).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sluice.batch import Columns, Quality, ValueType

QUALITY_NAMES: tuple[str, ...] = tuple(quality.name for quality in Quality)

_BOOLEANS = np.array([b"false", b"true"], dtype=object)


def number_texts(numbers: NDArray[Any]) -> list[bytes]:
    """The JSON text of each number of an int64 or float64 column; NaN and ±Inf become `null`."""
    if not len(numbers):
        return []
    text = orjson.dumps(np.ascontiguousarray(numbers), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[1:-1].split(b",")


def value_texts(columns: Columns) -> list[bytes]:
    """The JSON text of each value; null is `null`."""
    values = columns.value
    if columns.type is ValueType.STRING:
        return [orjson.dumps(value) for value in values.tolist()]
    if columns.type is ValueType.BOOLEAN:
        texts: list[bytes] = _BOOLEANS[values.astype(np.intp)].tolist()
    else:
        texts = number_texts(values)
    if columns.null is not None:
        for index in np.flatnonzero(columns.null).tolist():
            texts[index] = b"null"
    return texts


def null_mask(columns: Columns) -> NDArray[np.bool_]:
    """True where a value is null."""
    if columns.type is ValueType.DOUBLE:
        finite: NDArray[np.bool_] = np.isfinite(columns.value)
        return ~finite
    if columns.type is ValueType.STRING:
        return np.fromiter((value is None for value in columns.value.tolist()), dtype=np.bool_, count=len(columns))
    return np.zeros(len(columns), dtype=np.bool_) if columns.null is None else columns.null


def write_digits(target: NDArray[np.uint8], numbers: NDArray[np.int64]) -> None:
    """Write numbers of 0..999999999 as nine decimal digits each into `target` of shape (n, 9)."""
    rest = numbers.astype(np.uint32)
    for column in range(8, -1, -1):
        quotient = rest // np.uint32(10)
        target[:, column] = rest - quotient * np.uint32(10) + np.uint32(ord("0"))
        rest = quotient
