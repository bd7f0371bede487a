"""Asking a server which nodes hang below others: Browse and BrowseNext (Part 4, 5.8.2 and 5.8.3), in batches it takes.

Node ids are handled packed: kind (``i``, ``s``, ``g``, ``b``), namespace index (two bytes), identifier. A hundred
thousand of them are a few megabytes, and none of them is an object.

Every continuation point is used up before the next Browse, or given back: servers have few. What is wrong with one node
is that node's answer; what is too much for one request is asked in smaller ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from opcua_collector.address_space.address import NodeAddress
from opcua_collector.services.batches import TOO_MUCH, Batch
from opcua_collector.services.browse import node_id
from opcua_collector.stack import NodeId, StackSession, UaError, UaStatusCodeError, ua
from opcua_collector.values.encoding import MalformedError, read_response_header
from sluice.tasks import within

OBJECT, VARIABLE = 1, 2
"""Node classes (Part 3, 8.29), as they are masked."""
MOST_REFERENCES: Final = 1000
"""Of one node in one answer; the rest comes by continuation point."""
_AT_ONCE: Final = 5_000
"""References that one answer should have, about: reading them takes 50 ms, in which nothing else happens."""
_FIRST: Final = 50  # nodes in the first request of a look: how much is below them shows in its answer
_GROWTH: Final = 4
_RESULT_MASK: Final = 4 | 8 | 32  # node class, browse name, type definition
_REPEATED: Final = 5  # answers for a node that were there before, after which it is left
_MOST_ANSWERS: Final = 20_000
"""About one node, after which it is left: a server may always have something new to say."""
_MOST_REFUSED: Final = 5
"""Requests for a single node that the server refuses, or does not answer, in a row; then there is no sense in more."""
_RELEASING: Final = 1.0  # seconds that giving continuation points back may take
_NO_CONTINUATION_POINTS: Final = 0x804B0000
_CONTINUATION_POINT_INVALID: Final = 0x804A0000
_NEVER_ENDS: Final = 0x80AB0000  # BadInvalidState: for a node whose references never end
_TIMEOUT: Final = 0x800A0000

_LESS: Final = TOO_MUCH | {_NO_CONTINUATION_POINTS}
"""What is tried again with fewer nodes."""

_U2: Final = struct.Struct("<H")
_U4: Final = struct.Struct("<I")
_I4: Final = struct.Struct("<i")
_NUMBER: Final = struct.Struct("<cHI")
_HEAD: Final = struct.Struct("<cH")


class Reference(NamedTuple):
    """A node below another one, as the server describes it. Its ids are packed; `type` is b"" where it has none."""

    node: bytes
    name_space: int
    name: str
    node_class: int
    type: bytes


class Result(NamedTuple):
    """What the server says of one node that was asked for."""

    status: int
    continuation: bytes
    references: list[Reference]


# --- packed node ids ---


def pack(address: NodeAddress, index: int) -> bytes:
    """A node id in the namespace with this index."""
    identifier = address.identifier
    if isinstance(identifier, int):
        return _NUMBER.pack(b"i", index, identifier)
    if isinstance(identifier, UUID):
        return _HEAD.pack(b"g", index) + identifier.bytes_le
    return _HEAD.pack(address.kind.encode(), index) + (
        identifier.encode() if isinstance(identifier, str) else identifier
    )


def standard(number: int) -> bytes:
    """A node of the standard's own namespace."""
    return _NUMBER.pack(b"i", 0, number)


def unpack(packed: bytes) -> NodeAddress:
    """The node id, with the namespace as an index."""
    kind, index = _HEAD.unpack_from(packed)
    rest = packed[3:]
    if kind == b"i":
        return NodeAddress("i", _U4.unpack(rest)[0], index)
    if kind == b"s":
        return NodeAddress("s", rest.decode("utf-8", "replace"), index)
    if kind == b"g":
        return NodeAddress("g", UUID(bytes_le=rest), index)
    return NodeAddress("b", rest, index)


def _stack_id(packed: bytes) -> NodeId:
    return node_id(unpack(packed), ())


# --- answers ---


def read_results(data: bytes, position: int, spaces: Sequence[str]) -> list[Result]:
    """The results of a BrowseResponse or BrowseNextResponse whose type id begins at `position`.

    spaces: the server's namespaces, for ids that come with a URI. What is on another server is left out. Raises
    MalformedError.
    """
    try:
        _, position = read_response_header(data, position)
        count = _I4.unpack_from(data, position)[0]
        position += 4
        found = []
        for _ in range(count):
            status = _U4.unpack_from(data, position)[0]
            continuation, position = _bytes(data, position + 4)
            number = _I4.unpack_from(data, position)[0]
            position += 4
            references: list[Reference] = []
            for _ in range(number):
                _, position = _id(data, position, spaces)  # reference type
                node, position = _id(data, position + 1, spaces)  # behind whether it is forward
                name_space = _U2.unpack_from(data, position)[0]
                name, position = _bytes(data, position + 2)
                mask = data[position]  # display name
                position += 1
                for bit in (1, 2):
                    if mask & bit:
                        _, position = _bytes(data, position)
                node_class = _U4.unpack_from(data, position)[0]
                type_, position = _id(data, position + 4, spaces)
                if node is not None:
                    text = name.decode("utf-8", "replace")
                    references.append(Reference(node, name_space, text, node_class, type_ or b""))
            found.append(Result(status, continuation, references))
        return found
    except (IndexError, struct.error, OverflowError) as error:
        raise MalformedError(f"BrowseResponse of {len(data)} bytes: {error}") from error


def _bytes(data: bytes, position: int) -> tuple[bytes, int]:
    length = _I4.unpack_from(data, position)[0]
    position += 4
    if length <= 0:
        return b"", position
    end = position + length
    if end > len(data):
        raise MalformedError(f"a text at byte {position} runs past the end of the message")
    return data[position:end], end


def _id(data: bytes, position: int, spaces: Sequence[str]) -> tuple[bytes | None, int]:
    """An ExpandedNodeId (Part 6, 5.2.2.10), packed; None when it is no node of this server, or of unknown namespace."""
    encoding = data[position]
    kind = encoding & 0x3F
    if kind == 0:
        packed, position = _NUMBER.pack(b"i", 0, data[position + 1]), position + 2
    elif kind == 1:
        packed = _NUMBER.pack(b"i", data[position + 1], _U2.unpack_from(data, position + 2)[0])
        position += 4
    elif kind == 2:
        packed = b"i" + data[position + 1 : position + 7]
        position += 7
    elif kind == 4:
        packed = b"g" + data[position + 1 : position + 19]
        position += 19
    elif kind in (3, 5):
        body, end = _bytes(data, position + 3)
        packed = (b"s" if kind == 3 else b"b") + data[position + 1 : position + 3] + body
        position = end
    else:
        raise MalformedError(f"node id encoding {encoding:#04x} at byte {position} does not exist")
    if position > len(data):
        raise MalformedError("a node id runs past the end of the message")
    if not encoding & 0xC0:
        return packed, position
    return _expanded(data, position, encoding, packed, spaces)


def _expanded(
    data: bytes, position: int, encoding: int, packed: bytes, spaces: Sequence[str]
) -> tuple[bytes | None, int]:
    here = True
    if encoding & 0x80:
        uri, position = _bytes(data, position)
        text = uri.decode("utf-8", "replace")
        if text:
            here = text in spaces
            packed = packed[:1] + _U2.pack(spaces.index(text) if here else 0) + packed[3:]
    if encoding & 0x40:
        here = here and _U4.unpack_from(data, position)[0] == 0
        position += 4
    return (packed if here else None), position


# --- asking ---


class Browser:
    """Follows references of one kind forward. Its batches only ever become smaller.

    breathe: waited for before every request, for whoever has to go before.
    """

    def __init__(
        self,
        session: StackSession,
        spaces: Sequence[str],
        batch: int,
        breathe: Callable[[], Awaitable[None]],
        *,
        reference: int = ua.ObjectIds.HierarchicalReferences,
        classes: int = OBJECT | VARIABLE,
    ) -> None:
        self.requests = 0
        self.batch = max(1, batch.now if isinstance(batch, Batch) else batch)
        self._refused = 0  # requests in a row for a single node
        self._session = session
        self._spaces = spaces
        self._breathe = breathe
        self._reference = reference
        self._classes = classes

    async def look(self, nodes: Sequence[bytes], take: Callable[[int, Sequence[Reference]], None]) -> dict[int, int]:
        """Ask for what is below each of the nodes.

        take: is given the position of a node and some of what is below it; it may be given the same twice.

        Returns the statuses of nodes of which not everything was to be had, by position. Raises UaError,
        MalformedError, OSError or asyncio.TimeoutError when there is no sense in going on.
        """
        failed: dict[int, int] = {}
        waiting = deque(range(len(nodes)))
        again: set[int] = set()
        open_: dict[int, bytes] = {}
        now = _FIRST
        try:
            while waiting:
                some = [waiting.popleft() for _ in range(min(self.batch, now, len(waiting)))]
                results = await self._tried(some, [self._description(nodes[one]) for one in some])
                if results is None:
                    if len(some) == 1:
                        failed[some[0]] = _TIMEOUT
                    else:
                        self.batch = max(1, len(some) // 2)
                        waiting.extendleft(reversed(some))
                    continue
                many = sum(len(result.references) for result in results)
                now = max(1, min(_GROWTH * len(some), _AT_ONCE * len(some) // max(1, many)))
                for position, result in zip(some, results, strict=True):
                    if result.status == _NO_CONTINUATION_POINTS and (len(some) > 1 or position not in again):
                        again.add(position)
                        waiting.append(position)
                        self.batch = max(1, min(self.batch, len(some) // 2))
                    elif result.status >> 30 >= 2:
                        failed[position] = result.status
                    else:
                        if result.continuation:
                            open_[position] = result.continuation
                        take(position, result.references)
                for position in await self._rest(open_, take, failed):
                    if position in again:
                        failed[position] = _CONTINUATION_POINT_INVALID
                    else:
                        again.add(position)
                        waiting.append(position)
        finally:
            if open_:
                await self._release(list(open_.values()))
        return failed

    async def _rest(
        self, open_: dict[int, bytes], take: Callable[[int, Sequence[Reference]], None], failed: dict[int, int]
    ) -> list[int]:
        """What stands behind the continuation points; the positions of those that the server has forgotten."""
        forgotten: list[int] = []
        seen: dict[int, set[int]] = {}
        repeated: dict[int, int] = {}
        size = self.batch
        while open_:
            some = list(open_)[:size]
            results = await self._next([open_[one] for one in some], release=False)
            if results is None:
                if len(some) == 1:
                    failed[some[0]] = _TIMEOUT
                    await self._release([open_.pop(some[0])])
                size = max(1, len(some) // 2)
                continue
            for position, result in zip(some, results, strict=True):
                if result.status >> 30 >= 2:
                    del open_[position]
                    if result.status in (_CONTINUATION_POINT_INVALID, _NO_CONTINUATION_POINTS):
                        forgotten.append(position)
                    else:
                        failed[position] = result.status
                    continue
                answers, answer = seen.setdefault(position, set()), hash(tuple(result.references))
                repeated[position] = repeated.get(position, 0) + (answer in answers)
                answers.add(answer)
                take(position, result.references)
                if not result.continuation:
                    del open_[position]
                    continue
                open_[position] = result.continuation
                if repeated[position] >= _REPEATED or len(answers) >= _MOST_ANSWERS:
                    failed[position] = _NEVER_ENDS
                    await self._release([open_.pop(position)])
        return forgotten

    def _description(self, node: bytes) -> Any:
        return ua.BrowseDescription(
            NodeId=_stack_id(node),
            BrowseDirection=ua.BrowseDirection.Forward,
            ReferenceTypeId=ua.NodeId(self._reference),
            IncludeSubtypes=True,
            NodeClassMask=self._classes,
            ResultMask=_RESULT_MASK,
        )

    async def _tried(self, some: Sequence[int], descriptions: list[Any]) -> list[Result] | None:
        request = ua.BrowseRequest()
        request.Parameters.RequestedMaxReferencesPerNode = MOST_REFERENCES
        request.Parameters.NodesToBrowse = descriptions
        return await self._asked(request, len(some))

    async def _next(self, points: list[bytes], *, release: bool) -> list[Result] | None:
        request = ua.BrowseNextRequest()
        request.Parameters.ReleaseContinuationPoints = release
        request.Parameters.ContinuationPoints = points
        return await self._asked(request, len(points), release=release)

    async def _asked(self, request: Any, count: int, *, release: bool = False) -> list[Result] | None:
        """The answers; None when it was too much for the server."""
        if not release:
            await self._breathe()
        self.requests += 1
        try:
            buffer = await self._session._send_request(request)
        except (UaStatusCodeError, asyncio.TimeoutError) as error:
            if isinstance(error, UaStatusCodeError) and error.code not in _LESS:
                raise
            self._refused = self._refused + 1 if count == 1 else 0
            if self._refused >= _MOST_REFUSED:
                raise
            return None
        self._refused = 0
        results = read_results(bytes(buffer), 0, self._spaces)
        if len(results) != count and not release:
            raise UaError(f"the server gave {len(results)} answers to {count} questions")
        return results

    async def _release(self, points: list[bytes]) -> None:
        """Give continuation points back. A server that is gone has none of them any more."""
        with contextlib.suppress(UaError, MalformedError, OSError, asyncio.TimeoutError):
            await within(_RELEASING, self._next(points, release=True))
