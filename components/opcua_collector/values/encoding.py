"""OPC UA binary encoding of the built-in types (Part 6, 5.2): readers for what has no fixed size.

Every reader has one contract: ``read(data, position, depth) -> (value, position after it)``. The value is ready for
JSON: text, number, boolean, None, list or dict; structures stay opaque (`Opaque`), because their definitions belong to
a connection and not to the process: `types.structures` reads them. A reader raises MalformedError, or lets
IndexError or struct.error through when the bytes end too early: both mean the same to the caller. ``depth`` bounds
nesting.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import numpy as np

Reader = Callable[[bytes, int, int], "tuple[Any, int]"]

MAX_DEPTH: Final = 16

FILETIME_OF_1970: Final = 116_444_736_000_000_000  # 100 ns intervals from 1601-01-01 to 1970-01-01
_FILETIME_OF_9999: Final = 2_650_467_743_990_000_000
_YEAR_1601: Final = datetime(1601, 1, 1)

_U2: Final = struct.Struct("<H")
_U4: Final = struct.Struct("<I")
_I4: Final = struct.Struct("<i")
_I8: Final = struct.Struct("<q")

#: Built-in type id -> numpy type of its fixed-size form on the wire (Part 6, table 1).
FIXED: Final[dict[int, str]] = {
    1: "<u1",  # Boolean: any byte but 0 is true
    2: "<i1",  # SByte
    3: "<u1",  # Byte
    4: "<i2",  # Int16
    5: "<u2",  # UInt16
    6: "<i4",  # Int32
    7: "<u4",  # UInt32
    8: "<i8",  # Int64
    9: "<u8",  # UInt64
    10: "<f4",  # Float
    11: "<f8",  # Double
    13: "<i8",  # DateTime
    19: "<u4",  # StatusCode
}

BOOLEAN, DATE_TIME, EXTENSION_OBJECT, VARIANT = 1, 13, 22, 24


class MalformedError(ValueError):
    """Bytes that are no valid encoding. `elements`: how many values of arrays were read before that showed."""

    elements = 0


def _text(data: bytes, position: int, depth: int) -> tuple[str | None, int]:
    raw, position = _bytes(data, position)
    # Replaced, not refused: a wrong byte in a text is no reason to lose the value, and JSON takes no lone surrogates.
    return None if raw is None else raw.decode("utf-8", "replace"), position


def _bytes(data: bytes, position: int) -> tuple[bytes | None, int]:
    length = _I4.unpack_from(data, position)[0]
    position += 4
    if length < 0:
        return None, position
    stop = position + length
    if stop > len(data):
        raise MalformedError(f"length {length} at byte {position - 4} runs past the end of the message")
    return data[position:stop], stop


def _byte_string(data: bytes, position: int, depth: int) -> tuple[str | None, int]:
    raw, position = _bytes(data, position)
    return None if raw is None else base64.b64encode(raw).decode("ascii"), position


def iso_time(filetime: int) -> str | None:
    """ISO 8601 with the wire's full 100 ns; None for "no time" at either end of the range (Part 6, 5.2.2.5)."""
    if filetime <= 0 or filetime >= _FILETIME_OF_9999:
        return None
    seconds, ticks = divmod(filetime, 10_000_000)
    return f"{(_YEAR_1601 + timedelta(seconds=seconds)).isoformat()}.{ticks:07d}Z"


def _date_time(data: bytes, position: int, depth: int) -> tuple[str | None, int]:
    return iso_time(_I8.unpack_from(data, position)[0]), position + 8


def _guid(data: bytes, position: int, depth: int) -> tuple[str, int]:
    raw = data[position : position + 16]
    if len(raw) < 16:
        raise MalformedError(f"a Guid at byte {position} runs past the end of the message")
    return str(UUID(bytes_le=raw)), position + 16


def _node_id(data: bytes, position: int, depth: int) -> tuple[str, int]:
    encoding = data[position]
    kind = encoding & 0x3F
    if kind == 0:
        namespace, text, position = 0, f"i={data[position + 1]}", position + 2
    elif kind == 1:
        namespace, text = data[position + 1], f"i={_U2.unpack_from(data, position + 2)[0]}"
        position += 4
    elif kind <= 5:
        namespace = _U2.unpack_from(data, position + 1)[0]
        position += 3
        if kind == 2:
            text, position = f"i={_U4.unpack_from(data, position)[0]}", position + 4
        else:
            reader, letter = {3: (_text, "s"), 4: (_guid, "g"), 5: (_byte_string, "b")}[kind]
            value, position = reader(data, position, depth)
            text = f"{letter}={value or ''}"
    else:
        raise MalformedError(f"node id encoding {encoding:#04x} at byte {position} does not exist")
    uri = None
    if encoding & 0x80:
        uri, position = _text(data, position, depth)
    if encoding & 0x40:
        position += 4
        if position > len(data):
            raise MalformedError("an expanded node id runs past the end of the message")
    if uri is not None:
        return f"nsu={uri};{text}", position
    return (f"ns={namespace};{text}" if namespace else text), position


def _qualified_name(data: bytes, position: int, depth: int) -> tuple[str, int]:
    namespace = _U2.unpack_from(data, position)[0]
    name, position = _text(data, position + 2, depth)
    return (f"{namespace}:{name or ''}" if namespace else name or ""), position


def _localized_text(data: bytes, position: int, depth: int) -> tuple[str | None, int]:
    encoding = data[position]
    position += 1
    text = None
    if encoding & 1:
        _locale, position = _text(data, position, depth)
    if encoding & 2:
        text, position = _text(data, position, depth)
    return text, position


def read_extension_object(data: bytes, position: int) -> tuple[str, bytes | None, int]:
    """An ExtensionObject as (node id of its encoding, body or None, position after it)."""
    type_id, position = _node_id(data, position, 0)
    encoding = data[position]
    position += 1
    if encoding == 0:
        return type_id, None, position
    if encoding > 2:
        raise MalformedError(f"extension object encoding {encoding} at byte {position - 1} does not exist")
    body, position = _bytes(data, position)
    return type_id, body, position


@dataclass(frozen=True, slots=True)
class Opaque:
    """A structure as it came: the node id of its encoding, and its bytes (None: it has none)."""

    type: str
    body: bytes | None

    def shown(self) -> dict[str, str | None]:
        """Its form in JSON where no definition explains it."""
        return {
            "type": self.type,
            "body": None if self.body is None else base64.b64encode(self.body).decode("ascii"),
        }


def _extension_object(data: bytes, position: int, depth: int) -> tuple[Opaque | None, int]:
    type_id, body, position = read_extension_object(data, position)
    if type_id == "i=0" and body is None:
        return None, position
    return Opaque(type_id, body), position


def _data_value(data: bytes, position: int, depth: int) -> tuple[dict[str, Any], int]:
    mask = data[position]
    position += 1
    found: dict[str, Any] = {}
    if mask & 0x01:
        found["value"], position = read_variant(data, position, depth + 1)
    if mask & 0x02:
        found["status"], position = _U4.unpack_from(data, position)[0], position + 4
    for time_bit, picoseconds_bit, name in ((0x04, 0x10, "source"), (0x08, 0x20, "server")):
        if mask & time_bit:
            found[name], position = _date_time(data, position, depth)
        if mask & picoseconds_bit:
            position += 2
    return found, position


def read_diagnostic_info(data: bytes, position: int, depth: int) -> tuple[dict[str, Any], int]:
    """DiagnosticInfo (Part 6, 5.2.2.12)."""
    if depth > MAX_DEPTH:
        raise MalformedError(f"nested more than {MAX_DEPTH} deep")
    mask = data[position]
    position += 1
    found: dict[str, Any] = {}
    for bit, name in ((0x01, "symbolic"), (0x02, "namespace"), (0x08, "locale"), (0x04, "text")):
        if mask & bit:
            found[name], position = _I4.unpack_from(data, position)[0], position + 4
    if mask & 0x10:
        found["info"], position = _text(data, position, depth)
    if mask & 0x20:
        found["status"], position = _U4.unpack_from(data, position)[0], position + 4
    if mask & 0x40:
        found["inner"], position = read_diagnostic_info(data, position, depth + 1)
    return found, position


def _variant_in_variant(data: bytes, position: int, depth: int) -> tuple[Any, int]:
    return read_variant(data, position, depth + 1)


def _fixed(type_id: int) -> Reader:
    form = struct.Struct({"<u1": "<B", "<i1": "<b", "<i2": "<h", "<u2": "<H", "<i4": "<i", "<u4": "<I", "<i8": "<q",
                          "<u8": "<Q", "<f4": "<f", "<f8": "<d"}[FIXED[type_id]])  # fmt: skip

    def read(data: bytes, position: int, depth: int) -> tuple[Any, int]:
        value = form.unpack_from(data, position)[0]
        return (value != 0 if type_id == BOOLEAN else value), position + form.size

    return read


def _null(data: bytes, position: int, depth: int) -> tuple[None, int]:
    return None, position


#: Built-in type id -> reader of one value of it.
READERS: Final[dict[int, Reader]] = {
    0: _null,
    **{type_id: _fixed(type_id) for type_id in FIXED},
    12: _text,  # String
    DATE_TIME: _date_time,
    14: _guid,
    15: _byte_string,
    16: _text,  # XmlElement
    17: _node_id,
    18: _node_id,  # ExpandedNodeId: the same with two flags
    20: _qualified_name,
    21: _localized_text,
    EXTENSION_OBJECT: _extension_object,
    23: _data_value,
    VARIANT: _variant_in_variant,
    25: read_diagnostic_info,
    # Reserved ids: a decoder shall take them for ByteStrings (Part 6, 5.2.2.16).
    **dict.fromkeys(range(26, 32), _byte_string),
}


def read_variant(data: bytes, position: int, depth: int) -> tuple[Any, int]:
    """A Variant, scalar or array; arrays of several dimensions come as nested lists."""
    encoding = data[position]
    return read_variant_body(data, position + 1, encoding, depth)


def read_variant_body(data: bytes, position: int, encoding: int, depth: int) -> tuple[Any, int]:
    """What follows the encoding byte of a Variant (Part 6, 5.2.2.16)."""
    if depth > MAX_DEPTH:
        raise MalformedError(f"nested more than {MAX_DEPTH} deep")
    type_id = encoding & 0x3F
    reader = READERS.get(type_id)
    if reader is None:
        raise MalformedError(f"variant type {type_id} at byte {position - 1} does not exist")
    if not encoding & 0x80:
        if encoding & 0x40:
            raise MalformedError(f"a scalar variant with dimensions at byte {position - 1}")
        return reader(data, position, depth)
    length = _I4.unpack_from(data, position)[0]
    position += 4
    values: list[Any] | None = None
    if length >= 0:
        if length > len(data) - position or (type_id == 0 and length):
            raise MalformedError(f"an array of {length} at byte {position - 4} cannot fit the message")
        values, position = _array(data, position, type_id, length, depth)
    if encoding & 0x40:
        count = _I4.unpack_from(data, position)[0]
        position += 4
        if count > MAX_DEPTH:
            raise MalformedError(f"an array of {count} dimensions at byte {position - 4}")
        dimensions = struct.unpack_from(f"<{max(count, 0)}i", data, position)
        position += 4 * max(count, 0)
        if values is not None:
            values = _nested(values, dimensions)
    return values, position


def _array(data: bytes, position: int, type_id: int, length: int, depth: int) -> tuple[list[Any], int]:
    if type_id in FIXED and type_id != DATE_TIME:
        form = np.dtype(FIXED[type_id])
        if length * form.itemsize > len(data) - position:
            raise MalformedError(f"an array of {length} at byte {position - 4} runs past the end of the message")
        column = np.frombuffer(data, form, length, position)
        return (column != 0 if type_id == BOOLEAN else column).tolist(), position + length * form.itemsize
    reader = READERS[type_id]
    values: list[Any] = []
    try:
        for _ in range(length):
            value, position = reader(data, position, depth)
            values.append(value)
    except (ValueError, IndexError, struct.error, OverflowError) as error:
        malformed = MalformedError(f"element {len(values)} of an array of {length}: {error}")
        malformed.elements = len(values) + getattr(error, "elements", 0)
        raise malformed from error
    return values, position


def _nested(values: list[Any], dimensions: tuple[int, ...]) -> list[Any]:
    """The flat array in its dimensions; flat where they do not fit, so that no value is lost over it."""
    total = 1
    for size in dimensions:
        total *= size
    if len(dimensions) < 2 or total != len(values) or min(dimensions) <= 0:
        return values
    for size in reversed(dimensions[1:]):
        values = [values[start : start + size] for start in range(0, len(values), size)]
    return values


def read_response_header(data: bytes, position: int) -> tuple[int, int]:
    """Type id and ResponseHeader (Part 4, 7.33): (service result, position behind them)."""
    _, position = _node_id(data, position, 0)
    result = _U4.unpack_from(data, position + 12)[0]  # behind timestamp and request handle
    _, position = read_diagnostic_info(data, position + 16, 0)
    strings = _I4.unpack_from(data, position)[0]
    position += 4
    for _ in range(strings):
        _, position = _text(data, position, 0)
    _, _, position = read_extension_object(data, position)
    return result, position


@dataclass(frozen=True, slots=True)
class Attribute:
    """One result of a Read: `type_id` is the variant's built-in type, with ARRAY_BIT for an array; 0 for no value."""

    value: Any = None
    type_id: int = 0
    status: int = 0


ARRAY_BIT: Final = 0x80


def read_attributes(data: bytes, position: int) -> list[Attribute]:
    """The results of a ReadResponse whose type id begins at `position`. Raises MalformedError.

    Values of any type, structures included, are read here, so that one that no type dictionary explains costs nothing.
    """
    try:
        _, position = read_response_header(data, position)
        count = _I4.unpack_from(data, position)[0]
        position += 4
        found = []
        for _ in range(count):
            type_id = data[position + 1] if data[position] & 0x01 else 0
            content, position = _data_value(data, position, 0)
            found.append(Attribute(content.get("value"), type_id & 0xBF, content.get("status", 0)))
        return found
    except (IndexError, struct.error, OverflowError) as error:
        raise MalformedError(f"ReadResponse of {len(data)} bytes: {error}") from error
