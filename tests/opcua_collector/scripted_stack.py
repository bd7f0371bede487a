"""A server in the place of the stack: it answers what a collector asks of nodes, and refuses what a test wants.

Requests that were encoded by hand are read with asyncua's readers, so they are checked as well.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from opcua_collector.stack import PreparedRequest, UaStatusCodeError, ua
from sluice.batch import Columns, Sample

binary: Any = import_module("asyncua.ua.ua_binary")
Buffer: Any = import_module("asyncua.common.utils").Buffer

URI = "urn:test:scripted"
T0 = datetime(2026, 3, 1, tzinfo=timezone.utc)
_IDS = ua.ObjectIds
_LIMITS = "Server_ServerCapabilities_OperationLimits_"
_SERVICES = {
    getattr(_IDS, f"{name}Request_Encoding_DefaultBinary"): name
    for name in ("Read", "CreateMonitoredItems", "ModifyMonitoredItems", "DeleteMonitoredItems")
}
_ANSWERS = {
    "Read": "_read",
    "Browse": "_browse",
    "CreateMonitoredItems": "_create_items",
    "ModifyMonitoredItems": "_modify_items",
    "DeleteMonitoredItems": "_delete_items",
}
DOUBLE, STRING = 11, 12


@dataclass
class Node:
    """A variable. `poisons`: each request that names it fails with this."""

    value: Any = 1.0
    data_type: int = DOUBLE
    source: datetime | None = T0
    server: datetime | None = T0
    status: int = 0
    high: float | None = None  # of its EURange, which begins at 0
    unit: str = ""
    poisons: Exception | None = None
    refused: int = 0  # for an item that monitors it


@dataclass
class Item:
    """A monitored item as it was asked for."""

    id: int
    node: str
    handle: int
    parameters: Any
    range: str


@dataclass
class Stack:
    """asyncua's session, scripted. Nodes are named ns=1;s=<name>."""

    nodes: dict[str, Node] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    refuses: Callable[[str, Any], None] = lambda service, parameters: None
    filter_status: Callable[[Any], int] = lambda filter_: 0
    most_queue: int = 10**6
    fastest: float = 0.0  # milliseconds that it makes of a sampling interval of 0
    items: dict[int, Item] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    registered: dict[str, str] = field(default_factory=dict)
    unregistered: list[str] = field(default_factory=list)
    registers: bool = True
    modifies: bool = True
    delay: float = 0.0
    epoch: int = 0
    _created: int = 0

    async def _send_request(self, request: Any, timeout: float | None = None) -> Any:
        if isinstance(request, PreparedRequest):
            service = _SERVICES[request.TypeId.Identifier]
            data = binary.struct_to_binary(request)
            parameters = binary.struct_from_binary(getattr(ua, f"{service}Request"), Buffer(data)).Parameters
        else:
            service, parameters = type(request).__name__.removesuffix("Request"), request.Parameters
        await self._heard(service, parameters)
        response = getattr(ua, f"{service}Response")()
        response.Results = getattr(self, _ANSWERS[service])(parameters)
        return Buffer(binary.struct_to_binary(response))

    async def _heard(self, service: str, parameters: Any) -> None:
        self.asked[service] += 1
        await asyncio.sleep(self.delay)
        self.refuses(service, parameters)

    # --- attributes ---

    def _read(self, parameters: Any) -> list[Any]:
        limit = self.limits.get("MaxNodesPerRead", 0)
        if limit and len(parameters.NodesToRead) > limit:
            raise UaStatusCodeError(ua.StatusCodes.BadTooManyOperations)
        found = []
        for one in parameters.NodesToRead:
            self.named["Read"] += 1
            node = self._node(one.NodeId)
            if node is not None and node.poisons is not None and one.AttributeId == ua.AttributeIds.Value:
                raise node.poisons
            found.append(self._attribute(one, node, parameters.TimestampsToReturn))
        return found

    def _node(self, node: Any) -> Node | None:
        name = str(node.Identifier)
        return self.nodes.get(self.registered.get(name, name).split(".")[0])

    def _attribute(self, one: Any, node: Node | None, timestamps: Any) -> Any:
        if isinstance(one.NodeId.Identifier, int) and one.NodeId.NamespaceIndex == 0:
            return self._of_server(one.NodeId.Identifier)
        if node is None:
            return ua.DataValue(ua.Variant(), ua.StatusCode(ua.StatusCodes.BadNodeIdUnknown))
        ids = ua.AttributeIds
        name = str(one.NodeId.Identifier)
        if name.endswith(".EURange"):
            return ua.DataValue(ua.Variant(ua.Range(0.0, node.high)))
        if name.endswith(".EngineeringUnits"):
            return ua.DataValue(ua.Variant(ua.EUInformation(DisplayName=ua.LocalizedText(node.unit))))
        if one.AttributeId == ids.DataType:
            return ua.DataValue(ua.Variant(ua.NodeId(node.data_type), ua.VariantType.NodeId))
        if one.AttributeId == ids.ValueRank:
            return ua.DataValue(ua.Variant(-1, ua.VariantType.Int32))
        if one.AttributeId == ids.Value:
            kind = ua.VariantType.String if node.data_type == STRING else ua.VariantType.Double
            both = timestamps == ua.TimestampsToReturn.Both
            value = ua.Variant(node.value, kind if node.value is not None else ua.VariantType.Null)
            return ua.DataValue(
                value, ua.StatusCode(node.status), node.source if both else None, node.server if both else None
            )
        return ua.DataValue(ua.Variant(), ua.StatusCode(ua.StatusCodes.BadAttributeIdInvalid))

    def _of_server(self, identifier: int) -> Any:
        if identifier == _IDS.Server_NamespaceArray:
            return ua.DataValue(ua.Variant(["http://opcfoundation.org/UA/", URI], ua.VariantType.String))
        name = ua.ObjectIdNames.get(identifier, "").removeprefix(_LIMITS)
        if name.startswith("Max"):
            return ua.DataValue(ua.Variant(self.limits.get(name, 0), ua.VariantType.UInt32))
        return ua.DataValue(ua.Variant(), ua.StatusCode(ua.StatusCodes.BadNodeIdUnknown))

    def _browse(self, parameters: Any) -> list[Any]:
        return [ua.BrowseResult(References=self._references(one)) for one in parameters.NodesToBrowse]

    def _references(self, one: Any) -> list[Any]:
        node = self._node(one.NodeId)
        if node is None or one.ReferenceTypeId != ua.NodeId(_IDS.HasProperty):
            return []
        has = {"EURange": node.high is not None, "EngineeringUnits": bool(node.unit)}
        found = [
            ua.ReferenceDescription(
                ReferenceTypeId=one.ReferenceTypeId,
                IsForward=True,
                NodeId=ua.ExpandedNodeId(f"{one.NodeId.Identifier}.{name}", 1),
                BrowseName=ua.QualifiedName(name, 0),
            )
            for name, there in has.items()
            if there
        ]
        for reference in found:
            reference.NodeClass = ua.NodeClass.Variable
        return found

    async def translate_browsepaths_to_nodeids(self, paths: Sequence[Any]) -> list[Any]:
        await self._heard("TranslateBrowsePathsToNodeIds", paths)
        return [ua.BrowsePathResult(ua.StatusCode(ua.StatusCodes.BadNoMatch)) for _ in paths]

    async def browse(self, parameters: Any) -> list[Any]:
        await self._heard("Browse", parameters)
        return self._browse(parameters)

    async def register_nodes(self, nodes: Sequence[Any]) -> list[Any]:
        await self._heard("RegisterNodes", nodes)
        if not self.registers:
            raise UaStatusCodeError(ua.StatusCodes.BadServiceUnsupported)
        found = []
        for node in nodes:
            alias = f"#{self.epoch}/{len(self.registered)}"
            self.registered[alias] = str(node.Identifier)
            found.append(ua.NodeId(alias, 1))
        return found

    async def unregister_nodes(self, nodes: Sequence[Any]) -> None:
        await self._heard("UnregisterNodes", nodes)
        self.unregistered += [self.registered.pop(str(node.Identifier)) for node in nodes]

    # --- monitored items ---

    def _create_items(self, parameters: Any) -> list[Any]:
        limit = self.limits.get("MaxMonitoredItemsPerCall", 0)
        if limit and len(parameters.ItemsToCreate) > limit:
            raise UaStatusCodeError(ua.StatusCodes.BadTooManyOperations)
        for one in parameters.ItemsToCreate:
            node = self._node(one.ItemToMonitor.NodeId)
            if node is not None and node.poisons is not None:
                raise node.poisons
        return [self._create(one) for one in parameters.ItemsToCreate]

    def _create(self, one: Any) -> Any:
        self.named["CreateMonitoredItems"] += 1
        node = self._node(one.ItemToMonitor.NodeId)
        status = ua.StatusCodes.BadNodeIdUnknown if node is None else node.refused
        status = status or self.filter_status(_filter(one.RequestedParameters))
        if status:
            return ua.MonitoredItemCreateResult(ua.StatusCode(status))
        self._created += 1
        name, part = str(one.ItemToMonitor.NodeId.Identifier), one.ItemToMonitor.IndexRange or ""
        asked = one.RequestedParameters
        self.items[self._created] = Item(self._created, name, asked.ClientHandle, asked, part)
        queue = min(self.most_queue, asked.QueueSize)
        revised = asked.SamplingInterval or self.fastest
        return ua.MonitoredItemCreateResult(ua.StatusCode(0), self._created, revised, queue)

    def _modify_items(self, parameters: Any) -> list[Any]:
        if not self.modifies:
            raise UaStatusCodeError(ua.StatusCodes.BadServiceUnsupported)
        found = []
        for one in parameters.ItemsToModify:
            self.named["ModifyMonitoredItems"] += 1
            asked = one.RequestedParameters
            status = self.filter_status(_filter(asked))
            if not status:
                self.items[one.MonitoredItemId].parameters = asked
            queue = min(self.most_queue, asked.QueueSize)
            revised = asked.SamplingInterval or self.fastest
            found.append(ua.MonitoredItemModifyResult(ua.StatusCode(status), revised, queue))
        return found

    def _delete_items(self, parameters: Any) -> list[Any]:
        for number in parameters.MonitoredItemIds:
            self.named["DeleteMonitoredItems"] += 1
            self.items.pop(number, None)
        return [ua.StatusCode(0) for _ in parameters.MonitoredItemIds]

    # --- what a test looks at ---

    @property
    def session(self) -> Any:
        """What of a session the collector needs."""
        return SimpleNamespace(stack=self)

    def of(self, node: str) -> Item:
        """The one item that monitors the node."""
        (found,) = [item for item in self.items.values() if item.node == node]
        return found

    def filter_of(self, node: str) -> Any:
        """Its filter; None: none."""
        return _filter(self.of(node).parameters)


def _filter(parameters: Any) -> Any:
    return parameters.Filter if type(parameters.Filter).__name__ == "DataChangeFilter" else None


@dataclass
class Sink:
    """An outlet that remembers, and commits at once."""

    samples: list[Sample] = field(default_factory=list)
    events: list[Mapping[str, Any]] = field(default_factory=list)
    positions: dict[str, bytes | None] = field(default_factory=dict)
    newest: int = 0
    full: bool = False
    recoverable: bool = False
    roomy: bool = True

    async def _done(self) -> None: ...

    def submit(self, columns: Sequence[Columns], *, positions: Any = None, **_: int) -> Any:
        for part in columns:
            self.samples += part.samples()
        self.newest += len(columns)
        return self.note(positions or {})

    submit_backfill = submit

    def submit_events(self, events: Sequence[Mapping[str, Any]], *, positions: Any = None) -> Any:
        self.events += events
        return self.note(positions or {})

    def note(self, positions: Mapping[str, bytes | None]) -> Any:
        self.positions.update(positions)
        return asyncio.ensure_future(self._done())

    def position(self, key: str) -> bytes | None:
        return self.positions.get(key)

    def keep_after(self, number: int) -> None: ...

    async def recent(self, after: int) -> Any:
        nothing: tuple[Any, ...] = ()
        for batch in nothing:
            yield batch

    def of(self, tag: str) -> list[Any]:
        """Values of a tag."""
        return [sample.value for sample in self.samples if sample.tag == tag]


@dataclass
class Reports:
    """What was reported, by place."""

    found: dict[str, tuple[str, str, Any]] = field(default_factory=dict)

    def report(self, scope: str, problem: str, remedy: str, value: Any = None) -> None:
        self.found[scope] = (problem, remedy, value)

    def clear(self, scope: str) -> None:
        for path in [p for p in self.found if p == scope or p.startswith(f"{scope}.")]:
            del self.found[path]


async def until(condition: Callable[[], Any], state: Callable[[], Any], limit: float = 10.0) -> None:
    """Wait for it; a failure shows the state."""
    stop = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < stop, f"not within {limit} s: {state()}"
        await asyncio.sleep(0.005)
