"""A scripted address space behind a stack's session: Browse, BrowseNext and Read, with the limits and moods of servers.

Answers are written here by hand, as Part 6 has them, and by nothing that the collector reads them with.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from opcua_collector.stack import UaStatusCodeError, ua

_binary: Any = import_module("asyncua.ua.ua_binary")

OBJECT, VARIABLE, VARIABLE_TYPE, OBJECT_TYPE, DATA_TYPE = 1, 2, 16, 8, 64
HIERARCHICAL, HAS_SUBTYPE = 33, 45
PROPERTY, BASE_VARIABLE, FOLDER = 68, 63, 61


@dataclass
class Node:
    """A node; `id` is an asyncua NodeId's (identifier, namespace), `wire` the id as it is encoded."""

    id: tuple[Any, int]
    name: str
    node_class: int = VARIABLE
    type: int = BASE_VARIABLE
    space: int = 2
    below: list[Node] = field(default_factory=list)
    subtypes: list[Node] = field(default_factory=list)
    values: dict[int, Any] = field(default_factory=dict)  # attribute -> value

    def add(self, *nodes: Node) -> Node:
        self.below += nodes
        return self

    @property
    def wire(self) -> bytes:
        identifier, index = self.id
        if isinstance(identifier, int):
            return struct.pack("<BHI", 2, index, identifier)
        return struct.pack("<BH", 3, index) + _text(identifier)


def variable(name: str, *below: Node, identifier: Any = None, **more: Any) -> Node:
    return Node((identifier or name, 2), name, below=list(below), **more)


def folder(name: str, *below: Node, identifier: Any = None, of: int = FOLDER, **more: Any) -> Node:
    return Node((identifier or name, 2), name, OBJECT, of, below=list(below), **more)


def prop(name: str, identifier: str, space: int = 0) -> Node:
    return Node((identifier, 2), name, type=PROPERTY, space=space)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<i", len(raw)) + raw


def _number(identifier: int) -> bytes:
    return struct.pack("<BHI", 2, 0, identifier)


def fault(name: str) -> Exception:
    error: Exception = UaStatusCodeError(getattr(ua.StatusCodes, name))
    return error


class ScriptedSpace:
    """Use as the stack's session. `most`: nodes that one request may name; `references`: in one answer per node;
    `points`: continuation points at the same time."""

    def __init__(self, *top: Node) -> None:
        self.objects = Node((85, 0), "Objects", OBJECT, below=list(top))
        self.types: dict[int, Node] = {}
        self.most = 10**9
        self.references = 10**9
        self.points = 10**9
        self.refuse: dict[Any, int] = {}  # identifier -> status of its Browse
        self.trouble: Callable[[str, Any], Exception | None] = lambda service, request: None
        self.asked: list[tuple[str, int]] = []
        self.open: dict[bytes, tuple[Node, int, int]] = {}
        self.most_open = 0
        self.released = 0
        self._next = 0
        self.rebuild()

    def rebuild(self) -> None:
        """After nodes came or went."""
        self.nodes: dict[tuple[Any, int], Node] = {}
        waiting = [self.objects, *self.types.values()]
        while waiting:
            node = waiting.pop()
            if node.id not in self.nodes:
                self.nodes[node.id] = node
                waiting += [*node.below, *node.subtypes]

    def count(self, service: str) -> int:
        return sum(name == service for name, _ in self.asked)

    async def _send_request(self, request: Any) -> bytes:
        service = type(request).__name__.removesuffix("Request")
        parameters = request.Parameters
        many = {"Browse": "NodesToBrowse", "BrowseNext": "ContinuationPoints", "Read": "NodesToRead"}[service]
        wanted = getattr(parameters, many)
        self.asked.append((service, len(wanted)))
        if (error := self.trouble(service, request)) is not None:
            raise error
        if len(wanted) > self.most:
            raise fault("BadTooManyOperations")
        if service == "Read":
            return self._read(wanted)
        if service == "Browse":
            most = min(self.references, parameters.RequestedMaxReferencesPerNode or 10**9)
            results = [self._browse(one, most) for one in wanted]
        elif parameters.ReleaseContinuationPoints:
            self.released += len(wanted)
            for point in wanted:
                self.open.pop(point, None)
            results = [self._result(0, b"", []) for _ in wanted]
        else:
            results = [self._on(point) for point in wanted]
        return self._response(ua.BrowseResponse() if service == "Browse" else ua.BrowseNextResponse(), results)

    def _response(self, response: Any, results: list[bytes]) -> bytes:
        whole = bytes(_binary.struct_to_binary(response))
        head = whole[: len(whole) - 8]  # without its two empty arrays
        return head + struct.pack("<i", len(results)) + b"".join(results) + struct.pack("<i", -1)

    def _browse(self, one: Any, most: int) -> bytes:
        key = (one.NodeId.Identifier, one.NodeId.NamespaceIndex)
        if key[0] in self.refuse:
            return self._result(self.refuse[key[0]], b"", [])
        node = self.nodes.get(key)
        if node is None:
            return self._result(0x80340000, b"", [])
        kind = int(one.ReferenceTypeId.Identifier)
        return self._part(node, kind, 0, most, one.NodeClassMask)

    def _part(self, node: Node, kind: int, start: int, most: int, mask: int = 0) -> bytes:
        targets = node.subtypes if kind == HAS_SUBTYPE else node.below
        part = targets[start : start + most]
        point = b""
        if start + most < len(targets):
            if len(self.open) >= self.points:
                return self._result(0x804B0000, b"", [])
            self._next += 1
            point = struct.pack("<IH", self._next, most)
            self.open[point] = (node, kind, start + most)
            self.most_open = max(self.most_open, len(self.open))
        return self._result(0, point, [one for one in part if not mask or one.node_class & mask])

    def _on(self, point: bytes) -> bytes:
        found = self.open.pop(point, None)
        if found is None:
            return self._result(0x804A0000, b"", [])
        node, kind, start = found
        return self._part(node, kind, start, struct.unpack("<IH", point)[1])

    def _result(self, status: int, point: bytes, targets: list[Node]) -> bytes:
        parts = [struct.pack("<I", status), struct.pack("<i", len(point) or -1), point]
        parts.append(struct.pack("<i", len(targets)))
        for node in targets:
            parts += [b"\0\0\1", node.wire, struct.pack("<H", node.space), _text(node.name), b"\0"]
            parts += [struct.pack("<I", node.node_class), _number(node.type)]
        return b"".join(parts)

    def _read(self, wanted: list[Any]) -> bytes:
        response = ua.ReadResponse()
        for one in wanted:
            node = self.nodes.get((one.NodeId.Identifier, one.NodeId.NamespaceIndex))
            value = None if node is None else node.values.get(int(one.AttributeId))
            response.Results.append(
                ua.DataValue(ua.Variant(), ua.StatusCode(0x80350000))
                if value is None
                else ua.DataValue(value if isinstance(value, ua.Variant) else ua.Variant(value))
            )
        return bytes(_binary.struct_to_binary(response))
