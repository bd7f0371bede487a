"""Structures by their definitions: any shape that a definition can have, against a writer of the same."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opcua_collector.types.structures import NESTED, OPTIONAL, PLAIN, UNION, Definitions, Field, Structure
from opcua_collector.values.encoding import MalformedError, Opaque

names = st.text("abcdefgh", min_size=1, max_size=3)
FORMS = {1: "<?", 3: "<B", 6: "<i", 9: "<Q", 11: "<d"}
VALUES: dict[int, Any] = {
    1: st.booleans(),
    3: st.integers(0, 255),
    6: st.integers(-(2**31), 2**31 - 1),
    9: st.integers(0, 2**64 - 1),
    11: st.floats(allow_nan=False, allow_infinity=False),
    12: st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.none(),
}


@st.composite
def definitions(draw: Any) -> list[Structure]:
    """Structures of which each is made of built-in types and of those before it."""
    made: list[Structure] = []
    for number in range(draw(st.integers(1, 4))):
        fields = []
        for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
            kind = draw(st.sampled_from(list(VALUES) + ([NESTED] if made else [])))
            type_ = draw(st.sampled_from([one.type for one in made])) if kind == NESTED else ""
            fields.append(Field(name, kind, type_, draw(st.integers(0, 2)), draw(st.booleans())))
        kind = draw(st.sampled_from([PLAIN, OPTIONAL, UNION]))
        made.append(Structure(f"ns=2;i={number}", f"ns=2;i={100 + number}", kind, tuple(fields)))
    return made


def written(draw: Any, known: dict[str, Structure], type_: str) -> tuple[bytes, Any]:
    """Bytes of a value of the structure, and what it is."""
    definition = known[type_]
    fields: Any = definition.fields
    head = b""
    if definition.kind == UNION:
        chosen = draw(st.integers(0, len(fields)))
        head, fields = struct.pack("<I", chosen), fields[chosen - 1 : chosen] if chosen else ()
    elif definition.kind == OPTIONAL:
        there = [draw(st.booleans()) for field in fields if field.optional]
        head = struct.pack("<I", sum(bit << place for place, bit in enumerate(there)))
        left = iter(there)
        fields = [field for field in fields if not field.optional or next(left)]
    content = {}
    for field in fields:
        data, content[field.name] = field_written(draw, known, field)
        head += data
    return head, content


def field_written(draw: Any, known: dict[str, Structure], field: Field) -> tuple[bytes, Any]:
    if not field.rank:
        return one_written(draw, known, field)
    if draw(st.integers(0, 5)) == 0:
        return struct.pack("<i", -1), None
    if field.rank == 1:
        some = [one_written(draw, known, field) for _ in range(draw(st.integers(0, 2)))]
        return struct.pack("<i", len(some)) + b"".join(data for data, _ in some), [value for _, value in some]
    rows = [[one_written(draw, known, field) for _ in range(2)] for _ in range(draw(st.integers(1, 2)))]
    head = struct.pack("<iii", 2, len(rows), 2)
    return head + b"".join(data for row in rows for data, _ in row), [[value for _, value in row] for row in rows]


def one_written(draw: Any, known: dict[str, Structure], field: Field) -> tuple[bytes, Any]:
    if field.kind == NESTED:
        return written(draw, known, field.type)
    value = draw(VALUES[field.kind])
    if field.kind != 12:
        return struct.pack(FORMS[field.kind], value), value
    if value is None:
        return struct.pack("<i", -1), None
    return struct.pack("<i", len(value.encode())) + value.encode(), value


@settings(max_examples=300)
@given(definitions(), st.data())
def test_what_was_written_by_a_definition_is_read_by_it(made: list[Structure], data: Any) -> None:
    known = {one.type: one for one in made}
    body, content = written(data.draw, known, made[-1].type)
    loaded = [Structure.load(orjson.loads(orjson.dumps(one.dump()))) for one in made]
    assert loaded == made
    assert Definitions(loaded).read(Opaque(made[-1].encoding, body)) == content


@settings(max_examples=300)
@given(definitions(), st.binary(max_size=60))
def test_any_bytes_at_all_are_read_or_malformed(made: list[Structure], body: bytes) -> None:
    for one in made:
        with contextlib.suppress(MalformedError):
            content = Definitions(made).read(Opaque(one.encoding, body))
            assert content is not None
            assert set(content) <= {field.name for field in one.fields}


def test_a_structure_inside_of_itself_has_an_end() -> None:
    endless = Structure("ns=2;i=1", "ns=2;i=2", PLAIN, (Field("Inner", NESTED, "ns=2;i=1"),))
    with pytest.raises(MalformedError, match="deep"):
        Definitions([endless]).read(Opaque("ns=2;i=2", b""))


def test_lists_of_nothing_do_not_take_for_ever() -> None:
    nothing = Structure("ns=2;i=1", "", PLAIN, ())
    list_ = Structure("ns=2;i=3", "ns=2;i=4", PLAIN, (Field("All", NESTED, "ns=2;i=1", 1),))
    with pytest.raises(MalformedError, match="without any bytes"):
        Definitions([nothing, list_]).read(Opaque("ns=2;i=4", struct.pack("<i", 5000) + bytes(5000)))


def test_definitions_that_multiply_nothing_do_not_take_for_ever() -> None:
    def level(number: int) -> Structure:
        inside = tuple(Field(f"F{place}", NESTED, f"i={9001 + number}") for place in range(40))
        return Structure(f"i={9000 + number}", f"i={9100 + number}", PLAIN, inside)

    made = [*map(level, range(9)), Structure("i=9009", "i=9109", PLAIN, ())]
    with pytest.raises(MalformedError, match="more parts than its bytes"):
        Definitions(made).read(Opaque("i=9100", b""))


def test_a_field_inside_of_a_structure_that_came_as_an_object_is_found() -> None:
    outer = Structure("ns=2;i=1", "ns=2;i=2", PLAIN, (Field("Range", 22),))
    low_high = struct.pack("<dd", 1.0, 2.0)
    body = b"\x01\x00" + (886).to_bytes(2, "little") + b"\x01" + struct.pack("<i", len(low_high)) + low_high
    value = Opaque("ns=2;i=2", body)
    assert Definitions([outer]).field(value, ("Range", "High")) == 2.0
    shown = Definitions([outer])
    text = orjson.dumps(value, shown.shown, orjson.OPT_PASSTHROUGH_DATACLASS)
    assert orjson.loads(text) == {"Range": {"Low": 1.0, "High": 2.0}}
