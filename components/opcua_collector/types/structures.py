"""Structures by their definitions (Part 3, 8.47 ff.; Part 6, 5.2.6 ff.): bytes to what JSON has. Pure.

A structure on the wire says the node id of its encoding and is otherwise a row of bytes. The definition of its data
type tells what they are. Definitions belong to a connection and to its session: node ids have namespace indexes.

| kind     | on the wire                                                                                          |
|----------|------------------------------------------------------------------------------------------------------|
| PLAIN    | the fields, one after the other                                                                      |
| OPTIONAL | a mask of 32 bits, one per optional field in their order, then the fields that are there              |
| UNION    | a number of 32 bits, 0 for nothing or which of the fields it is, from 1 on, then that field          |

A field is a built-in type, a structure of which the bytes stand in place, or a list of them. A list of several
dimensions tells the dimensions in place of its length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from opcua_collector.values.encoding import MAX_DEPTH, READERS, MalformedError, Opaque

PLAIN, OPTIONAL, UNION = 0, 1, 2
NESTED: Final = -1
"""The kind of a field that is a structure in place."""

_U4: Final = struct.Struct("<I")
_I4: Final = struct.Struct("<i")
_MOST_EMPTY: Final = 100
_FOR_NOTHING: Final = 1000  # parts that a structure may have beyond its bytes: a small one of many optional fields
_PER_BYTE: Final = 4  # parts that end at the same byte: structures in structures
_MOST_FIELDS: Final = 32  # bits of the mask of optional fields
_DAMAGE: Final = (IndexError, struct.error, OverflowError, ValueError)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a structure."""

    name: str
    kind: int  # built-in type, or NESTED
    type: str = ""  # of a NESTED one, and of an enumeration: the node id of its data type
    rank: int = 0  # dimensions: 0 for one value
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Structure:
    """The definition of a data type."""

    type: str  # node id of the data type
    encoding: str  # node id of its binary encoding
    kind: int
    fields: tuple[Field, ...]

    def dump(self) -> Any:
        """As JSON."""
        fields = [[field.name, field.kind, field.type, field.rank, field.optional] for field in self.fields]
        return [self.type, self.encoding, self.kind, fields]

    @classmethod
    def load(cls, content: Any) -> Structure:
        """What `dump` has made. Raises ValueError or TypeError."""
        type_, encoding, kind, fields = content
        return cls(
            str(type_),
            str(encoding),
            int(kind),
            tuple(Field(str(name), int(of), str(nested), int(rank), bool(optional)) for
                  name, of, nested, rank, optional in fields),
        )  # fmt: skip


#: Structures of namespace 0 that values and properties are made of (Part 8, 5.6; Part 3, 8.6; Part 5, 12).
WELL_KNOWN: Final = (
    Structure("i=884", "i=886", PLAIN, (Field("Low", 11), Field("High", 11))),
    Structure(
        "i=887",
        "i=889",
        PLAIN,
        (Field("NamespaceUri", 12), Field("UnitId", 6), Field("DisplayName", 21), Field("Description", 21)),
    ),
    Structure(
        "i=296",
        "i=298",
        PLAIN,
        (
            Field("Name", 12),
            Field("DataType", 17),
            Field("ValueRank", 6),
            Field("ArrayDimensions", 7, rank=1),
            Field("Description", 21),
        ),
    ),
    Structure("i=7594", "i=8251", PLAIN, (Field("Value", 8), Field("DisplayName", 21), Field("Description", 21))),
    Structure(
        "i=12079", "i=12089", PLAIN, (Field("EngineeringUnits", NESTED, "i=887"), Field("EURange", NESTED, "i=884"))
    ),
    Structure("i=12171", "i=12181", PLAIN, (Field("Real", 10), Field("Imaginary", 10))),
    Structure("i=12172", "i=12182", PLAIN, (Field("Real", 11), Field("Imaginary", 11))),
    Structure("i=12080", "i=12090", PLAIN, (Field("X", 11), Field("Value", 10))),
    Structure("i=8912", "i=8917", PLAIN, (Field("Offset", 4), Field("DaylightSavingInOffset", 1))),
    Structure("i=100", "i=123", PLAIN, (Field("Fields", NESTED, "i=102", 1),)),
    Structure(
        "i=102",
        "i=14845",
        PLAIN,
        (Field("Value", 8), Field("DisplayName", 21), Field("Description", 21), Field("Name", 12)),
    ),
    Structure(
        "i=99",
        "i=122",
        PLAIN,
        (
            Field("DefaultEncodingId", 17),
            Field("BaseDataType", 17),
            Field("StructureType", 6),
            Field("Fields", NESTED, "i=101", 1),
        ),
    ),
    Structure(
        "i=101",
        "i=14844",
        PLAIN,
        (
            Field("Name", 12),
            Field("Description", 21),
            Field("DataType", 17),
            Field("ValueRank", 6),
            Field("ArrayDimensions", 7, rank=1),
            Field("MaxStringLength", 7),
            Field("IsOptional", 1),
        ),
    ),
    Structure("i=14533", "i=14846", PLAIN, (Field("Key", 20), Field("Value", 24))),
)


class Definitions:
    """Reads the structures of these definitions, and the well-known ones."""

    def __init__(self, structures: Iterable[Structure] = ()) -> None:
        own = tuple(structures)
        self._by_encoding = {one.encoding: one for one in (*WELL_KNOWN, *own) if one.encoding}
        self._by_type = {one.type: one for one in (*WELL_KNOWN, *own)}
        self._left = 0  # parts that the structure which is being read may still have

    def knows(self, encoding: str) -> bool:
        """Whether structures of this encoding can be read."""
        return encoding in self._by_encoding

    def read(self, value: Opaque) -> dict[str, Any] | None:
        """The fields of a structure by name; None for one that nothing defines. Raises MalformedError."""
        definition = self._by_encoding.get(value.type)
        if definition is None or value.body is None:
            return None
        self._left = _PER_BYTE * len(value.body) + _FOR_NOTHING
        try:
            content, position = self._structure(value.body, 0, definition, 0)
        except _DAMAGE as error:
            raise MalformedError(f"structure {definition.type} of {len(value.body)} bytes: {error}") from error
        if position != len(value.body):
            raise MalformedError(
                f"structure {definition.type} takes {position} of its {len(value.body)} bytes by its definition"
            )
        return content

    def shown(self, value: Any) -> Any:
        """For orjson: a structure inside of a value. Raises MalformedError, TypeError for what is none."""
        if not isinstance(value, Opaque):
            raise TypeError(f"{type(value).__name__} has no JSON form")
        content = self.read(value)
        return value.shown() if content is None else content

    def field(self, value: Opaque, path: Sequence[str]) -> Any:
        """What the names lead to; None where an optional field or a union has nothing there.

        Raises MalformedError, and LookupError where there is no such field.
        """
        found: Any = value
        for name in path:
            if isinstance(found, Opaque):
                found = self.read(found)
                if found is None:
                    raise LookupError(f"no definition of {value.type}")
            if found is None:
                return None
            if not isinstance(found, dict):
                raise LookupError(name)
            found = found.get(name)
        return found

    def _structure(self, data: bytes, position: int, definition: Structure, depth: int) -> tuple[dict[str, Any], int]:
        if depth > MAX_DEPTH:
            raise MalformedError(f"nested more than {MAX_DEPTH} deep")
        self._spend(1 + len(definition.fields) // _MOST_FIELDS)  # those that are not there take time too
        fields: Sequence[Field] = definition.fields
        if definition.kind == UNION:
            chosen = _U4.unpack_from(data, position)[0]
            position += 4
            if chosen > len(fields):
                raise MalformedError(f"field {chosen} of the union does not exist")
            fields = fields[chosen - 1 : chosen] if chosen else ()
        elif definition.kind == OPTIONAL:
            mask = _U4.unpack_from(data, position)[0]
            position += 4
            bits = iter(range(_MOST_FIELDS))
            fields = [field for field in fields if not field.optional or mask >> next(bits, _MOST_FIELDS) & 1]
        content: dict[str, Any] = {}
        for field in fields:
            content[field.name], position = self._field(data, position, field, depth)
        return content, position

    def _field(self, data: bytes, position: int, field: Field, depth: int) -> tuple[Any, int]:
        if field.rank <= 0:
            return self._one(data, position, field, depth)
        dimensions: tuple[int, ...] = ()
        length = _I4.unpack_from(data, position)[0]
        position += 4
        if field.rank > 1 and length >= 0:
            if length > MAX_DEPTH:
                raise MalformedError(f"a list of {length} dimensions at byte {position - 4}")
            dimensions = struct.unpack_from(f"<{length}i", data, position)
            position += 4 * length
            length = prod(max(0, size) for size in dimensions)
        if length < 0:
            return None, position
        if length > len(data) - position:
            raise MalformedError(f"a list of {length} at byte {position} runs past the end of the structure")
        values: list[Any] = []
        for _ in range(length):
            value, after = self._one(data, position, field, depth)
            if after == position and length > _MOST_EMPTY:  # a length that costs the sender nothing has to have an end
                raise MalformedError(f"a list of {length} elements without any bytes at byte {position}")
            values.append(value)
            position = after
        for size in reversed(dimensions[1:]):
            values = [values[start : start + size] for start in range(0, len(values), size)] if size > 0 else []
        return values, position

    def _spend(self, parts: int) -> None:
        """Definitions may multiply what takes no bytes: without an end, a few bytes would take for ever."""
        self._left -= parts
        if self._left < 0:
            raise MalformedError("more parts than its bytes can be")

    def _one(self, data: bytes, position: int, field: Field, depth: int) -> tuple[Any, int]:
        self._spend(1)
        if field.kind != NESTED:
            return READERS[field.kind](data, position, depth + 1)
        definition = self._by_type.get(field.type)
        if definition is None:
            raise MalformedError(f"the data type {field.type} of {field.name} has no definition")
        return self._structure(data, position, definition, depth + 1)
