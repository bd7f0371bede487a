"""What a server says about its values: units, ranges, descriptions, labels (Part 8, 5.6.2; Part 3, 5.6.2).

Properties of a node are found by one Browse of its HasProperty references, whatever they are: asking for each by its
path is a question per property, and most nodes have none of them. Then all that exist are read together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from opcua_collector.address_space.references import VARIABLE, Browser, Reference
from opcua_collector.services import wire
from opcua_collector.services.batches import in_batches
from opcua_collector.services.browse import OperationLimits
from opcua_collector.stack import NodeId, StackSession, node_bytes, prepared, ua
from opcua_collector.types.data_types import Finder, Types, content_of
from opcua_collector.values.encoding import Attribute, read_attributes

_LONGEST_UNIT: Final = 64
_LONGEST_TEXT: Final = 500
_MOST_LABELS: Final = 256  # of one tag, in an event
_WANTED: Final = frozenset(
    {"EngineeringUnits", "EURange", "InstrumentRange", "EnumStrings", "EnumValues", "FalseState", "TrueState"}
)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the server says about a node's value."""

    unit: str = ""
    low: float | None = None
    high: float | None = None
    description: str = ""
    data_type: str = ""
    """The data type's name."""
    labels: tuple[tuple[int, str], ...] | None = None
    """What the numbers of an enumeration, or of a discrete value, mean."""


async def metadata(
    session: StackSession, limits: OperationLimits, nodes: Sequence[NodeId], types: Types | None = None
) -> list[Metadata]:
    """Unit, range, description, data type and labels of each node; empty where it has none.

    types: what is known of the server's data types from before in this session. The range is EURange, where there is
    none InstrumentRange. Raises asyncua's UaError.
    """
    on_wire = [node_bytes(node) for node in nodes]
    properties = await _properties(session, limits, nodes)
    attributes = (ua.AttributeIds.Description, ua.AttributeIds.DataType)
    questions = [(node, attribute) for node in on_wire for attribute in attributes]
    targets = [(place, name) for place, found in enumerate(properties) for name in found]
    questions += [(properties[place][name], wire.VALUE) for place, name in targets]
    answers = await _read(session, limits, questions)
    values: list[dict[str, Any]] = [{} for _ in nodes]
    for (place, name), answer in zip(targets, answers[2 * len(nodes) :], strict=True):
        values[place][name] = answer.value
    data_types = [answer.value if isinstance(answer.value, str) else "" for answer in answers[1 : 2 * len(nodes) : 2]]
    finder = Finder(session, limits, Types() if types is None else types)
    names = await finder.names(set(data_types) - {""})
    labels = await finder.labels(await finder.enumerations(set(data_types) - {""}))
    return [
        _metadata(values[place], answers[2 * place].value, names.get(data_type, ""), labels.get(data_type, ()))
        for place, data_type in enumerate(data_types)
    ]


async def _properties(
    session: StackSession, limits: OperationLimits, nodes: Sequence[NodeId]
) -> list[dict[str, bytes]]:
    """The properties of each node that are wanted: node id, as in requests, by name."""
    found: list[dict[str, bytes]] = [{} for _ in nodes]

    def take(place: int, references: Sequence[Reference]) -> None:
        for one in references:
            if one.name_space == 0 and one.name in _WANTED:
                found[place][one.name] = _on_wire(one.node)

    async def at_once() -> None:
        await asyncio.sleep(0)

    browser = Browser(session, (), int(limits.browse), at_once, reference=ua.ObjectIds.HasProperty, classes=VARIABLE)
    await browser.look([_packed(node) for node in nodes], take)
    return found


async def _read(
    session: StackSession, limits: OperationLimits, questions: Sequence[tuple[bytes, int]]
) -> list[Attribute]:
    async def ask(batch: Sequence[tuple[bytes, int]]) -> Sequence[Attribute]:
        body = wire.read_body([wire.read_value_id(*one) for one in batch], timestamps=wire.NEITHER)
        return read_attributes(bytes(await session._send_request(prepared("Read", body))), 0)

    return await in_batches(questions, limits.read, ask, failed=lambda status: Attribute(status=status))


def _metadata(
    values: dict[str, Any], description: Any, data_type: str, of_type: tuple[tuple[int, str], ...]
) -> Metadata:
    low, high = _range(values.get("EURange"))
    if low is None:
        low, high = _range(values.get("InstrumentRange"))
    return Metadata(
        _unit(values.get("EngineeringUnits")),
        low,
        high,
        description[:_LONGEST_TEXT] if isinstance(description, str) else "",
        data_type[:_LONGEST_TEXT],
        (_labels(values) or of_type)[:_MOST_LABELS] or None,
    )


def _labels(values: dict[str, Any]) -> tuple[tuple[int, str], ...]:
    """Of a discrete value, which has them itself (Part 8, 5.3.3)."""
    described = [content_of(one, "i=8251") for one in _listed(values.get("EnumValues"))]
    found = [(one["Value"], one["DisplayName"] or "") for one in described if one is not None]
    if not found:
        found = list(enumerate(_listed(values.get("EnumStrings"))))
    if not found and "TrueState" in values:
        found = [(0, values.get("FalseState")), (1, values["TrueState"])]
    return tuple((number, str(text or "")[:_LONGEST_UNIT]) for number, text in found)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _unit(value: Any) -> str:
    """The text that people read of an EUInformation: its display name."""
    content = content_of(value, "i=889")
    return "" if content is None else str(content["DisplayName"] or "").strip()[:_LONGEST_UNIT]


def _range(value: Any) -> tuple[float | None, float | None]:
    content = content_of(value, "i=886")
    if content is None or not content["Low"] < content["High"]:
        return None, None
    return content["Low"], content["High"]


def _packed(node: NodeId) -> bytes:
    """A node id as `references` has it."""
    identifier: Any = node.Identifier
    index = int(node.NamespaceIndex).to_bytes(2, "little")
    if isinstance(identifier, int):
        return b"i" + index + int(identifier).to_bytes(4, "little")
    if isinstance(identifier, UUID):
        return b"g" + index + identifier.bytes_le
    return b"s" + index + identifier.encode() if isinstance(identifier, str) else b"b" + index + bytes(identifier)


def _on_wire(packed: bytes) -> bytes:
    """A node id as requests have it, from the form of `references`."""
    kind, index, rest = packed[:1], packed[1:3], packed[3:]
    if kind == b"i":
        return b"\x02" + index + rest
    if kind == b"g":
        return b"\x04" + index + rest
    return (b"\x03" if kind == b"s" else b"\x05") + index + len(rest).to_bytes(4, "little") + rest
