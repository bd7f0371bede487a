"""Asking a server about nodes: attributes, namespaces, operation limits, browse paths. In batches that it takes.

Everything is asked for at each connect, because indexes, types and limits may be others after a server's restart. What
is wrong with one node is the answer for that node and never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from opcua_collector.address_space.address import NamespaceUnknownError, NodeAddress, parse_browse_path, parse_node_id
from opcua_collector.config import Tag
from opcua_collector.problems import node_problem
from opcua_collector.services.batches import in_batches as in_batches
from opcua_collector.stack import NodeId, StackSession, ua
from opcua_collector.values.encoding import Attribute, read_attributes
from sluice.config import Problem

_DEFAULT_BATCH: Final = 1000
_DEFAULT_HISTORY_BATCH: Final = 100
_HISTORY_READ: Final = 0x04  # bit of an access level (Part 3, 8.57)

_MAKERS: Final[dict[str, Callable[[Any, int], NodeId]]] = {
    "i": lambda identifier, index: ua.NodeId(identifier, index),
    "s": lambda identifier, index: ua.NodeId(identifier, index, ua.NodeIdType.String),
    "g": lambda identifier, index: ua.NodeId(identifier, index, ua.NodeIdType.Guid),
    "b": lambda identifier, index: ua.NodeId(identifier, index, ua.NodeIdType.ByteString),
}


@dataclass(frozen=True, slots=True)
class OperationLimits:
    """How much one request may ask for (Part 5, 6.3.11); a server that says 0 or nothing gets the default.

    The numbers may be `batches.Batch`, which learn what the server really takes.
    """

    read: int = _DEFAULT_BATCH
    translate: int = _DEFAULT_BATCH
    browse: int = _DEFAULT_BATCH
    monitor: int = _DEFAULT_BATCH
    history: int = _DEFAULT_HISTORY_BATCH
    register: int = _DEFAULT_BATCH


async def read(session: StackSession, nodes: Sequence[tuple[NodeId, int]], size: int) -> list[Attribute]:
    """Attributes of any type, decoded by our own readers. One that a request fails over has that status."""

    async def ask(batch: Sequence[tuple[NodeId, int]]) -> Sequence[Attribute]:
        request = ua.ReadRequest()
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Neither
        request.Parameters.NodesToRead = [ua.ReadValueId(NodeId=node, AttributeId=which) for node, which in batch]
        buffer = await session._send_request(request)
        return read_attributes(bytes(buffer), 0)

    return await in_batches(nodes, size, ask, failed=lambda status: Attribute(status=status))


async def namespaces(session: StackSession) -> tuple[str, ...]:
    """The server's namespace URIs in their present order."""
    node = ua.NodeId(ua.ObjectIds.Server_NamespaceArray)
    (found,) = await read(session, [(node, ua.AttributeIds.Value)], 1)
    return tuple(map(str, found.value)) if isinstance(found.value, list) else ()


async def operation_limits(session: StackSession, most: int = _DEFAULT_BATCH) -> OperationLimits:
    """What the server's OperationLimits say, `most` at the most; where it says 0 or nothing, that many."""
    prefix = "Server_ServerCapabilities_OperationLimits_"
    names = {
        "MaxNodesPerRead": most,
        "MaxNodesPerTranslateBrowsePathsToNodeIds": most,
        "MaxNodesPerBrowse": most,
        "MaxMonitoredItemsPerCall": most,
        "MaxNodesPerHistoryReadData": min(most, _DEFAULT_HISTORY_BATCH),
        "MaxNodesPerRegisterNodes": most,
    }
    nodes = [(ua.NodeId(getattr(ua.ObjectIds, prefix + name)), ua.AttributeIds.Value) for name in names]
    found = await read(session, nodes, len(nodes))
    limits = [
        min(bound, answer.value) if isinstance(answer.value, int) and answer.value > 0 else bound
        for bound, answer in zip(names.values(), found, strict=True)
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
    return relative(ua.NodeId(ua.ObjectIds.RootFolder), ua.ObjectIds.HierarchicalReferences, parse_browse_path(path))


def relative(start: NodeId, reference: int, steps: Sequence[tuple[int, str]]) -> Any:
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
