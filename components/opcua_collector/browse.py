"""Finding nodes: namespaces, operation limits, browse paths, data types, units. In batches that the server takes.

Everything is asked for at each connect, because indexes, types and limits may be others after a server's restart. What
is wrong with one node is the answer for that node and never an exception.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from opcua_collector.address import NamespaceUnknownError, NodeAddress, parse_browse_path, parse_node_id
from opcua_collector.config import Tag
from opcua_collector.encoding import ARRAY_BIT, READERS, Attribute, MalformedError, read_attributes
from opcua_collector.problems import node_problem
from opcua_collector.samples import Rule, rule_of_family
from opcua_collector.stack import NodeId, StackSession, UaError, ua
from sluice.config import Problem

A = TypeVar("A")
B = TypeVar("B")

_DEFAULT_BATCH: Final = 1000
_DEFAULT_HISTORY_BATCH: Final = 100
#: How a server says that one request asked for too much.
TOO_MUCH: Final = (
    ua.uaerrors.BadTooManyOperations,
    ua.uaerrors.BadEncodingLimitsExceeded,
    ua.uaerrors.BadResponseTooLarge,
    ua.uaerrors.BadRequestTooLarge,
)
_DEEPEST_TYPE: Final = 32
_HISTORY_READ: Final = 0x04  # bit of an access level (Part 3, 8.57)
_BASE_DATA_TYPE: Final = 24

#: Built-in or abstract data type -> how its values are typed. BaseDataType is decided by the value.
_RULES: Final[dict[int, Rule]] = {
    1: Rule.BOOLEAN,
    **dict.fromkeys((2, 3, 4, 5, 6, 7, 8, 9, 19), Rule.INTEGER),
    **dict.fromkeys((10, 11), Rule.DOUBLE),
    **dict.fromkeys((12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23, 25), Rule.STRING),
    26: Rule.NUMBER,
    **dict.fromkeys((27, 28, 29), Rule.INTEGER),  # Integer, UInteger, Enumeration
}
_CONFIGURED: Final = {
    "double": Rule.NUMBER,
    "integer": Rule.INTEGER,
    "boolean": Rule.BOOLEAN,
    "string": Rule.STRING,
}

_MAKERS: Final[dict[str, Callable[[Any, int], NodeId]]] = {
    "i": lambda identifier, index: ua.NodeId(identifier, index),
    "s": lambda identifier, index: ua.NodeId(identifier, index, ua.NodeIdType.String),
    "g": lambda identifier, index: ua.NodeId(identifier, index, ua.NodeIdType.Guid),
    "b": lambda identifier, index: ua.NodeId(identifier, index, ua.NodeIdType.ByteString),
}


@dataclass(frozen=True, slots=True)
class OperationLimits:
    """How much one request may ask for (Part 5, 6.3.11); a server that says 0 or nothing gets the default."""

    read: int = _DEFAULT_BATCH
    translate: int = _DEFAULT_BATCH
    browse: int = _DEFAULT_BATCH
    monitor: int = _DEFAULT_BATCH
    history: int = _DEFAULT_HISTORY_BATCH


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the server says about a node's value."""

    unit: str = ""
    low: float | None = None
    high: float | None = None


async def in_batches(items: Sequence[A], size: int, ask: Callable[[Sequence[A]], Awaitable[Sequence[B]]]) -> list[B]:
    """One answer per item, asked for `size` at a time; half as many when the server says that it was too much."""
    answers: list[B] = []
    size = max(1, size)
    while len(answers) < len(items):
        batch = items[len(answers) : len(answers) + size]
        try:
            found = await ask(batch)
        except TOO_MUCH:
            if len(batch) == 1:
                raise
            size = max(1, len(batch) // 2)
            continue
        if len(found) != len(batch):
            raise UaError(f"the server gave {len(found)} answers to {len(batch)} questions")
        answers += found
    return answers


async def read(session: StackSession, nodes: Sequence[tuple[NodeId, int]], size: int) -> list[Attribute]:
    """Attributes of any type, decoded by our own readers."""

    async def ask(batch: Sequence[tuple[NodeId, int]]) -> Sequence[Attribute]:
        request = ua.ReadRequest()
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Neither
        request.Parameters.NodesToRead = [ua.ReadValueId(NodeId=node, AttributeId=which) for node, which in batch]
        buffer = await session._send_request(request)
        return read_attributes(bytes(buffer), 0)

    return await in_batches(nodes, size, ask)


async def namespaces(session: StackSession) -> tuple[str, ...]:
    """The server's namespace URIs in their present order."""
    node = ua.NodeId(ua.ObjectIds.Server_NamespaceArray)
    (found,) = await read(session, [(node, ua.AttributeIds.Value)], 1)
    return tuple(map(str, found.value)) if isinstance(found.value, list) else ()


async def operation_limits(session: StackSession) -> OperationLimits:
    """What the server's OperationLimits say; the defaults where it has none."""
    prefix = "Server_ServerCapabilities_OperationLimits_"
    names = {
        "MaxNodesPerRead": _DEFAULT_BATCH,
        "MaxNodesPerTranslateBrowsePathsToNodeIds": _DEFAULT_BATCH,
        "MaxNodesPerBrowse": _DEFAULT_BATCH,
        "MaxMonitoredItemsPerCall": _DEFAULT_BATCH,
        "MaxNodesPerHistoryReadData": _DEFAULT_HISTORY_BATCH,
    }
    nodes = [(ua.NodeId(getattr(ua.ObjectIds, prefix + name)), ua.AttributeIds.Value) for name in names]
    found = await read(session, nodes, 1)
    limits = [
        min(most, answer.value) if isinstance(answer.value, int) and answer.value > 0 else most
        for most, answer in zip(names.values(), found, strict=True)
    ]
    return OperationLimits(*limits)


def node_id(address: NodeAddress, spaces: Sequence[str]) -> ua.NodeId:
    """The node id on a server with these namespaces. Raises NamespaceUnknownError."""
    return _MAKERS[address.kind](address.identifier, address.namespace(spaces))


async def resolve(
    session: StackSession, limits: OperationLimits, tags: Mapping[str, tuple[str, Tag]], spaces: Sequence[str]
) -> dict[str, NodeId | Problem]:
    """Node id per tag, or what is wrong with it. `tags`: name -> (path in the configuration, tag)."""
    found: dict[str, NodeId | Problem] = {}
    paths: list[tuple[str, str, str]] = []
    for name, (place, tag) in tags.items():
        if tag.path is not None:
            paths.append((name, place, tag.path))
            continue
        assert tag.node is not None
        try:
            found[name] = node_id(parse_node_id(tag.node), spaces)
        except NamespaceUnknownError as error:
            found[name] = Problem(
                f"{place}.node",
                tag.node,
                f"names the namespace {error}, which the server does not have",
                f"use one of the server's: {', '.join(spaces)[:300]}",
                "it is tried again; the other tags are collected",
            )

    async def ask(batch: Sequence[tuple[str, str, str]]) -> Sequence[Any]:
        return list(await session.translate_browsepaths_to_nodeids([_browse_path(path) for _, _, path in batch]))

    for (name, place, path), answer in zip(paths, await in_batches(paths, limits.translate, ask), strict=True):
        if answer.StatusCode.is_good() and answer.Targets:
            target = answer.Targets[0].TargetId
            found[name] = ua.NodeId(target.Identifier, target.NamespaceIndex, target.NodeIdType)
        else:
            found[name] = node_problem(f"{place}.path", path, answer.StatusCode.value or 0x806F0000)
    return found


def _browse_path(path: str) -> Any:
    return _relative(ua.NodeId(ua.ObjectIds.RootFolder), ua.ObjectIds.HierarchicalReferences, parse_browse_path(path))


def _relative(start: NodeId, reference: int, steps: Sequence[tuple[int, str]]) -> Any:
    elements = [
        ua.RelativePathElement(
            ReferenceTypeId=ua.NodeId(reference),
            IsInverse=False,
            IncludeSubtypes=True,
            TargetName=ua.QualifiedName(name, index),
        )
        for index, name in steps
    ]
    return ua.BrowsePath(StartingNode=start, RelativePath=ua.RelativePath(Elements=elements))


async def rules(
    session: StackSession, limits: OperationLimits, nodes: Mapping[str, tuple[str, Tag, NodeId]]
) -> dict[str, Rule | Problem]:
    """How each tag's values are typed, from the node's data type; or what is wrong with the node."""
    found: dict[str, Rule | Problem] = {}
    names = list(nodes)
    questions = [
        (nodes[name][2], attribute)
        for name in names
        for attribute in (ua.AttributeIds.DataType, ua.AttributeIds.ValueRank)
    ]
    answers = await read(session, questions, limits.read)
    types: dict[str, str] = {}
    for position, name in enumerate(names):
        place, tag, _ = nodes[name]
        data_type, rank = answers[2 * position], answers[2 * position + 1]
        if data_type.status >> 30 >= 2 or not isinstance(data_type.value, str):
            address = "node" if tag.node is not None else "path"
            found[name] = node_problem(f"{place}.{address}", tag.node or tag.path, data_type.status or 0x80350000)
        elif tag.type != "auto":
            found[name] = _CONFIGURED[tag.type]
        elif isinstance(rank.value, int) and rank.value >= 0:
            found[name] = Rule.STRING  # an array, as JSON text
        else:
            types[name] = data_type.value
    known = await _built_in(session, limits, sorted(set(types.values())))
    by_value = [name for name, type_ in types.items() if known[type_] == _BASE_DATA_TYPE]
    values = await read(session, [(nodes[name][2], ua.AttributeIds.Value) for name in by_value], limits.read)
    families = {name: value.type_id for name, value in zip(by_value, values, strict=True)}
    for name, type_ in types.items():
        place, tag, _ = nodes[name]
        built_in = known[type_]
        if built_in in _RULES:
            found[name] = _RULES[built_in]
        elif families.get(name):
            family = families[name]
            found[name] = Rule.STRING if family & ARRAY_BIT else rule_of_family(family)
        else:
            found[name] = Problem(
                f"{place}.type",
                tag.type,
                f"cannot be found out: the node has the data type {type_} and no value yet",
                "set it to double, integer, boolean or string",
                "it is tried again; the other tags are collected",
            )
    return found


async def _built_in(session: StackSession, limits: OperationLimits, types: Sequence[str]) -> dict[str, int]:
    """The built-in or abstract type that each data type is a subtype of; 24 (BaseDataType) where none is found."""
    found: dict[str, int] = {}
    above = {type_: type_ for type_ in types}
    for _ in range(_DEEPEST_TYPE):
        for type_, ancestor in list(above.items()):
            number = int(ancestor[2:]) if ancestor.startswith("i=") else 0
            if number in _RULES or number == _BASE_DATA_TYPE:
                found[type_] = number
                del above[type_]
        if not above:
            break
        parents = await _parents(session, limits, sorted(set(above.values())))
        above = {type_: parents.get(ancestor, f"i={_BASE_DATA_TYPE}") for type_, ancestor in above.items()}
    return {**dict.fromkeys(types, _BASE_DATA_TYPE), **found}


async def _parents(session: StackSession, limits: OperationLimits, types: Sequence[str]) -> dict[str, str]:
    async def ask(batch: Sequence[str]) -> Sequence[Any]:
        parameters = ua.BrowseParameters()
        parameters.RequestedMaxReferencesPerNode = 1
        parameters.NodesToBrowse = [
            ua.BrowseDescription(
                NodeId=ua.NodeId.from_string(type_),
                BrowseDirection=ua.BrowseDirection.Inverse,
                ReferenceTypeId=ua.NodeId(ua.ObjectIds.HasSubtype),
                IncludeSubtypes=False,
                NodeClassMask=0,
                ResultMask=0,
            )
            for type_ in batch
        ]
        return list(await session.browse(parameters))

    answers = await in_batches(types, limits.browse, ask)
    return {
        type_: answer.References[0].NodeId.to_string()
        for type_, answer in zip(types, answers, strict=True)
        if answer.References
    }


async def history(session: StackSession, limits: OperationLimits, nodes: Sequence[NodeId]) -> list[str]:
    """Whether the history of each node can be read, "" or why not (Part 3, 5.6.2: AccessLevel, Historizing)."""
    asked = (ua.AttributeIds.UserAccessLevel, ua.AttributeIds.AccessLevel, ua.AttributeIds.Historizing)
    answers = await read(session, [(node, attribute) for node in nodes for attribute in asked], limits.read)
    return [_no_history(*answers[start : start + len(asked)]) for start in range(0, len(answers), len(asked))]


def _no_history(ours: Attribute, of_all: Attribute, recording: Attribute) -> str:
    levels = [one.value for one in (ours, of_all) if isinstance(one.value, int)]
    if not levels:
        return "" if recording.value is True else "the server does not say whether it keeps a history of it"
    if not levels[-1] & _HISTORY_READ:
        return "the server keeps no history of it"
    if not levels[0] & _HISTORY_READ:
        return "this user may not read its history"
    return "the server does not record its history at present" if recording.value is False else ""


async def metadata(session: StackSession, limits: OperationLimits, nodes: Sequence[NodeId]) -> list[Metadata]:
    """Unit and range of each node (Part 8, 5.6.2: EngineeringUnits, EURange); empty where it has none."""
    names = ("EngineeringUnits", "EURange")

    async def ask(batch: Sequence[tuple[NodeId, str]]) -> Sequence[Any]:
        wanted = [_relative(node, ua.ObjectIds.HasProperty, [(0, name)]) for node, name in batch]
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
    if not isinstance(value, dict) or value.get("type") != encoding or not isinstance(value.get("body"), str):
        return None
    return base64.b64decode(value["body"])


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
