"""What a server says about its values: units and ranges (Part 8, 5.6.2)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opcua_collector.browse import OperationLimits, in_batches, read, relative
from opcua_collector.encoding import READERS, MalformedError, Opaque
from opcua_collector.stack import NodeId, StackSession, ua


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the server says about a node's value."""

    unit: str = ""
    low: float | None = None
    high: float | None = None


async def metadata(session: StackSession, limits: OperationLimits, nodes: Sequence[NodeId]) -> list[Metadata]:
    """Unit and range of each node (Part 8, 5.6.2: EngineeringUnits, EURange); empty where it has none."""
    names = ("EngineeringUnits", "EURange")

    async def ask(batch: Sequence[tuple[NodeId, str]]) -> Sequence[Any]:
        wanted = [relative(node, ua.ObjectIds.HasProperty, [(0, name)]) for node, name in batch]
        return list(await session.translate_browsepaths_to_nodeids(wanted))

    questions = [(node, name) for node in nodes for name in names]
    properties = await in_batches(questions, limits.translate, ask)
    exist = [
        (position, answer.Targets[0].TargetId)
        for position, answer in enumerate(properties)
        if answer.StatusCode.is_good() and answer.Targets
    ]
    targets = [(ua.NodeId(t.Identifier, t.NamespaceIndex, t.NodeIdType), ua.AttributeIds.Value) for _, t in exist]
    values = dict(zip([position for position, _ in exist], await read(session, targets, limits.read), strict=True))
    found = []
    for position in range(len(nodes)):
        unit, span = values.get(2 * position), values.get(2 * position + 1)
        low, high = _range(span.value if span else None)
        found.append(Metadata(_unit(unit.value if unit else None), low, high))
    return found


def _body(value: Any, encoding: str) -> bytes | None:
    return value.body if isinstance(value, Opaque) and value.type == encoding else None


def _unit(value: Any) -> str:
    """The text that people read of an EUInformation: its display name."""
    body = _body(value, "i=889")
    if body is None:
        return ""
    try:
        _, position = READERS[12](body, 0, 0)  # namespace
        text, _ = READERS[21](body, position + 4, 0)  # behind the unit's number: display name
    except (MalformedError, IndexError, struct.error):
        return ""
    return str(text or "").strip()[:64]


def _range(value: Any) -> tuple[float | None, float | None]:
    body = _body(value, "i=886")
    if body is None or len(body) < 16:
        return None, None
    low, high = struct.unpack_from("<dd", body)
    return (low, high) if low < high else (None, None)
