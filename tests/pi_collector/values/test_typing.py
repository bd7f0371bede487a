"""The type of a stream is fixed by its point and the configuration."""

from __future__ import annotations

import numpy as np
import pytest

from pi_collector.values.typing import Kind, Typings, kind_of
from sluice.columns import ValueType

from .streams import settings, stream


@pytest.mark.parametrize(
    ("point_type", "mode", "digitals", "expected"),
    [
        ("Float16", "recorded", "name", ValueType.DOUBLE),
        ("Float32", "snapshot", "name", ValueType.DOUBLE),
        ("Float64", "end", "name", ValueType.DOUBLE),
        ("Int16", "recorded", "name", ValueType.INTEGER),
        ("Int32", "snapshot", "name", ValueType.INTEGER),
        ("Int32", "interpolated", "name", ValueType.DOUBLE),
        ("Int32", "summary", "name", ValueType.DOUBLE),
        ("Digital", "recorded", "name", ValueType.STRING),
        ("Digital", "recorded", "code", ValueType.INTEGER),
        ("Digital", "interpolated", "code", ValueType.INTEGER),
        ("Digital", "summary", "name", ValueType.DOUBLE),
        ("String", "recorded", "code", ValueType.STRING),
        ("Timestamp", "interpolated", "name", ValueType.STRING),
        ("String", "summary", "name", ValueType.DOUBLE),
    ],
)
def test_point_types(point_type: str, mode: str, digitals: str, expected: ValueType) -> None:
    connection = settings(mode=mode, digitals=digitals)
    typings = Typings()
    assert typings.fix(stream(3, point_type, connection), connection) == ""
    assert typings.value_type(3) is expected


@pytest.mark.parametrize("point_type", ["Blob", "", "Something new"])
def test_what_cannot_be_collected_is_told(point_type: str) -> None:
    assert kind_of(point_type, "recorded", "name") is None
    typings = Typings()
    assert "cannot be collected" in typings.fix(stream(0, point_type), settings())
    assert not typings.knows(np.array([0], np.int32)).any()


def test_handles_come_and_go() -> None:
    typings = Typings()
    for handle in (0, 63, 64, 5000):
        typings.fix(stream(handle), settings())
    typings.forget(63)
    typings.forget(10**6)
    asked = np.array([-1, 0, 1, 63, 64, 5000, 5001, 10**6], np.int64)
    assert typings.knows(asked).tolist() == [False, True, False, False, True, True, False, False]
    assert typings.kind[64] == Kind.NUMBER
