"""State as bytes: plain values as JSON, numpy arrays as they are, all of it as one zstd frame.

    magic "SL1", length of the JSON (u32, little endian), the JSON, the arrays one after the other

In the JSON an array stands as {"\\u0000": [dtype, shape, offset, size in bytes]}. Arrays of objects are refused: what
is read back must not be able to run anything. NaN and the infinities are kept.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import orjson
import zstandard

_MAGIC: Final = b"SL1"
_ARRAY: Final = "\0"
_FLOAT: Final = "\0f"
_MOST: Final = 512 * 2**20
_PLAIN: Final = frozenset({int, str, bool, type(None)})
_DTYPES: Final = frozenset({"float64", "int64", "int32", "uint8", "bool", "uint64", "float32", "uint32", "int16"})


def pack(state: Mapping[str, Any]) -> bytes:
    """The state as bytes. Raises TypeError for what is neither plain nor an array of numbers."""
    arrays: list[bytes] = []
    offset = 0

    def plain(value: Any) -> Any:
        nonlocal offset
        if isinstance(value, np.ndarray):
            if value.dtype.name not in _DTYPES:
                raise TypeError(f"an array of {value.dtype} cannot be kept")
            raw = np.ascontiguousarray(value).tobytes()
            arrays.append(raw)
            placed = {_ARRAY: [value.dtype.name, list(value.shape), offset, len(raw)]}
            offset += len(raw)
            return placed
        if isinstance(value, Mapping):
            return {str(key): plain(member) for key, member in value.items()}
        if isinstance(value, (list, tuple)):
            if _PLAIN.issuperset(map(type, value)):  # long lists of tags, words, texts
                return value
            return [plain(member) for member in value]
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            return {_FLOAT: repr(value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"{type(value).__name__} cannot be kept")

    head = _dumped(plain(state))
    return zstandard.ZstdCompressor(level=1).compress(b"".join((_MAGIC, struct.pack("<I", len(head)), head, *arrays)))


def unpack(data: bytes) -> dict[str, Any]:
    """What was packed. Raises ValueError for anything else. Arrays are copies, to be written to."""
    try:
        raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=_MOST)
        if raw[:3] != _MAGIC:
            raise ValueError("not packed state")
        (size,) = struct.unpack_from("<I", raw, 3)
        arrays = memoryview(raw)[7 + size :]
        state = json.loads(raw[7 : 7 + size])
    except (zstandard.ZstdError, struct.error, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not packed state: {error}") from None

    def restored(value: Any) -> Any:
        if isinstance(value, dict):
            if _ARRAY in value:
                name, shape, offset, length = value[_ARRAY]
                if name not in _DTYPES:
                    raise ValueError(f"an array of {name} is not ours")
                return np.frombuffer(bytes(arrays[offset : offset + length]), dtype=name).reshape(shape).copy()
            if _FLOAT in value:
                return float(value[_FLOAT])
            return {key: restored(member) for key, member in value.items()}
        if isinstance(value, list):
            return [restored(member) for member in value]
        return value

    found = restored(state)
    if not isinstance(found, dict):
        raise ValueError("not packed state")
    return found


def _dumped(plain: Any) -> bytes:
    try:
        return orjson.dumps(plain)
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(plain).encode()
