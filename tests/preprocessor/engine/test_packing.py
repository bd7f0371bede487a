"""State as bytes: everything that a step may keep comes back as it was, and nothing else is believed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engine.packing import pack, unpack

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(alphabet="abc{}é\n"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet="ab", min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(alphabet="xyz", min_size=1), plain))
def test_plain_values_come_back(state: dict[str, object]) -> None:
    assert unpack(pack(state)) == state


@given(
    st.sampled_from(["float64", "int64", "int32", "uint8", "bool"]),
    st.lists(st.integers(0, 1), max_size=20),
    st.booleans(),
)
def test_arrays_come_back_and_can_be_written_to(name: str, values: list[int], square: bool) -> None:
    array = np.array(values, dtype=name)
    if square:
        array = array.reshape(1, -1)
    found = unpack(pack({"a": {"b": [array]}}))["a"]["b"][0]
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert (found == array).all()
    found[...] = 0


def test_what_json_has_no_word_for() -> None:
    found = unpack(pack({"nan": float("nan"), "inf": float("-inf"), "large": 10**30, "float": 1.0}))
    assert math.isnan(found["nan"])
    assert found["inf"] == float("-inf")
    assert found["large"] == 10**30
    assert isinstance(found["float"], float)


def test_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        pack({"a": np.array([object()])})
    with pytest.raises(TypeError, match="set"):
        pack({"a": {1}})


@given(st.binary(max_size=60))
def test_junk_is_no_state(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"state|array"):
        unpack(data)


@given(st.data())
def test_a_damaged_state_is_refused_or_read(data: st.DataObject) -> None:
    whole = bytearray(pack({"a": np.arange(50), "b": [1, 2.5, "x"]}))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = unpack(bytes(whole))
    except ValueError:
        return
    assert isinstance(found, dict)
