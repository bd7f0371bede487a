"""HistoryRead of raw values (Part 11, 6.5.3): one request for many nodes, and what its answer says of each.

The request goes through asyncua's session. The answer does not come back through it: the values of a node are given
the form of a notification, handle and all, and read by the decoder that reads notifications. So a value of the past has
the same type, quality and status that it would have had live, costs the same, and damage costs what is damaged.

What a node's status means for what is still to be read of it:

| status                                                        | outcome                                             |
|---------------------------------------------------------------|-----------------------------------------------------|
| good, uncertain; Good_NoData, Good_MoreData, Bad_NoData       | TAKEN: its values; all of them, or up to its point  |
| Bad_ContinuationPointInvalid, Bad_NoContinuationPoints        | RESTART behind the last value that was taken        |
| it cannot be read, and never will (`_NEVER`)                  | NEVER                                               |
| any other                                                     | LATER: tried again after a pause                    |
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any, Final

import numpy as np

from opcua_collector.problems import status_name
from opcua_collector.stack import NodeId, StackSession, ua
from opcua_collector.values.encoding import (
    FIXED,
    MalformedError,
    read_extension_object,
    read_response_header,
    read_variant_body,
)
from opcua_collector.values.notifications import Publication, decode

VALUES_PER_NODE: Final = 1000
_TIMEOUT: Final = 60.0  # seconds that an archive may take
_HISTORY_DATA: Final = "i=658"

_NO_DATA: Final = frozenset({"BadNoData", "BadBoundNotFound"})
_RESTART: Final = frozenset({"BadContinuationPointInvalid", "BadNoContinuationPoints"})
_NEVER: Final = frozenset(
    {
        "BadHistoryOperationUnsupported",
        "BadHistoryOperationInvalid",
        "BadNotSupported",
        "BadNotImplemented",
        "BadServiceUnsupported",
        "BadUserAccessDenied",
        "BadNotReadable",
        "BadNodeIdUnknown",
        "BadNodeIdInvalid",
        "BadTimestampNotSupported",
        "BadInvalidTimestampArgument",
    }
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_U4: Final = struct.Struct("<I")
_I4: Final = struct.Struct("<i")
_MASK_PARTS: Final = ((0x02, 4), (0x04, 8), (0x08, 8), (0x10, 2), (0x20, 2))  # what follows the value of a DataValue

# A PublishResponse around one notification (Part 4, 5.14.5.2; Part 6, 5.2), but for how many there are.
_HEAD: Final = b"".join(
    (
        b"\x01\x00" + (829).to_bytes(2, "little"),  # type: PublishResponse
        bytes(8 + 4 + 4) + b"\0",  # time, request, result, diagnostics
        _I4.pack(-1) + b"\0\0\0",  # texts, additional header
        bytes(4) + _I4.pack(-1) + b"\0",  # subscription, available numbers, more
        bytes(4 + 8),  # sequence number, publish time
    )
)
_TAIL: Final = _I4.pack(-1) + _I4.pack(-1)  # results, diagnostics
_DATA_CHANGE: Final = b"\x01\x00" + (811).to_bytes(2, "little") + b"\x01"


class Outcome(Enum):
    """What the answer means for a node."""

    TAKEN = "taken"
    RESTART = "restart"
    LATER = "later"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Question:
    """A node to read, from the beginning or from where its last answer ended."""

    handle: int
    node: NodeId
    point: bytes = b""


@dataclass(frozen=True, slots=True)
class Page:
    """The answer for one node. `point`: where its values go on; empty: there are no more."""

    outcome: Outcome
    why: str = ""
    body: bytes = b""
    point: bytes = b""
    more: bool = False
    """There are more values, and no point from which to read them."""

    @property
    def count(self) -> int:
        """How many values it says to have."""
        return max(0, int(_I4.unpack_from(self.body)[0])) if len(self.body) >= 4 else 0


async def ask(
    session: StackSession, questions: Sequence[Question], start: int, stop: int, most: int = VALUES_PER_NODE
) -> list[Page]:
    """Values of these nodes with about start <= time < stop (ns), up to `most` of each; one page per question.

    Times of a request have microseconds: a little too much may come on both sides. Raises asyncua's UaError, OSError,
    TimeoutError, MalformedError.
    """
    request = ua.HistoryReadRequest()
    request.Parameters.HistoryReadDetails = _details(start, stop, most)
    request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
    request.Parameters.ReleaseContinuationPoints = False
    request.Parameters.NodesToRead = [_node(question) for question in questions]
    pages = read_pages(bytes(await session._send_request(request, timeout=_TIMEOUT)))
    if len(pages) != len(questions):
        raise MalformedError(f"the server gave {len(pages)} answers to {len(questions)} questions")
    return pages


async def release(session: StackSession, questions: Sequence[Question]) -> None:
    """Tell the server that these continuation points are not needed any more."""
    request = ua.HistoryReadRequest()
    request.Parameters.HistoryReadDetails = _details(0, 0, 1)
    request.Parameters.ReleaseContinuationPoints = True
    request.Parameters.NodesToRead = [_node(question) for question in questions]
    await session._send_request(request)


def _details(start: int, stop: int, most: int) -> Any:
    return ua.ReadRawModifiedDetails(
        IsReadModified=False,
        StartTime=_EPOCH + timedelta(microseconds=start // 1000),
        EndTime=_EPOCH + timedelta(microseconds=-(-stop // 1000)),
        NumValuesPerNode=most,
        ReturnBounds=False,
    )


def _node(question: Question) -> Any:
    return ua.HistoryReadValueId(NodeId=question.node, ContinuationPoint=question.point or None)


def outcome(status: int) -> Outcome:
    """By the table above."""
    if status >> 30 < 2:
        return Outcome.TAKEN
    name = status_name(status)
    if name in _NO_DATA:
        return Outcome.TAKEN
    if name in _RESTART:
        return Outcome.RESTART
    return Outcome.NEVER if name in _NEVER else Outcome.LATER


def read_pages(data: bytes, position: int = 0) -> list[Page]:
    """The results of a HistoryReadResponse whose type id begins at `position`. Raises MalformedError."""
    try:
        _, position = read_response_header(data, position)
        count = _I4.unpack_from(data, position)[0]
        position += 4
        pages = []
        for _ in range(count):
            status = _U4.unpack_from(data, position)[0]
            length = max(0, _I4.unpack_from(data, position + 4)[0])
            point = data[position + 8 : position + 8 + length]
            type_id, body, position = read_extension_object(data, position + 8 + length)
            pages.append(_page(status, point, type_id, body))
        return pages
    except (IndexError, struct.error, OverflowError) as error:
        raise MalformedError(f"HistoryReadResponse of {len(data)} bytes: {error}") from error


def _page(status: int, point: bytes, type_id: str, body: bytes | None) -> Page:
    means = outcome(status)
    if means is not Outcome.TAKEN:
        return Page(means, status_name(status), point=point)
    if body is None:  # no values: the empty object, or a type without a body
        return Page(means, point=point)
    if type_id != _HISTORY_DATA:
        return Page(Outcome.LATER, f"values of the type {type_id}, which are no raw values", point=point)
    return Page(means, "", body, point, not point and status_name(status) == "GoodMoreData")


def publication(
    pages: Iterable[tuple[int, bytes]], handles: int, received: int, *, server_time: bool = False
) -> Publication:
    """Bodies of pages by client handle, as the notifications that they would have been."""
    parts = [_notification(handle, body) for handle, body in pages]
    data = b"".join((_HEAD, _I4.pack(len(parts)), *parts, _TAIL))
    return decode(data, received=received, handles=handles, server_time=server_time)


def _notification(handle: int, body: bytes) -> bytes:
    items = b"".join(_items(handle, body))
    count = body[:4] if len(body) >= 4 else bytes(4)
    return b"".join((_DATA_CHANGE, _I4.pack(8 + len(items)), count, items, _I4.pack(-1)))


def _items(handle: int, body: bytes) -> Iterable[bytes]:
    """The data values of a HistoryData, each with the handle in front; from a damaged one on as they are."""
    head = _U4.pack(handle)
    bytes_ = np.frombuffer(body, np.uint8)
    index, count, position = 0, Page(Outcome.TAKEN, body=body).count, 4
    while index < count and position < len(body):
        try:
            mask = body[position]
            encoding = body[position + 1] if mask & 0x01 else -1
            size = _size(mask, encoding)
            if size:
                length = _run(bytes_, position, size, min(count - index, (len(body) - position) // size))
                stop = position + length * size
                run = np.empty((length, 4 + size), np.uint8)
                run[:, :4] = np.frombuffer(head, np.uint8)
                run[:, 4:] = bytes_[position:stop].reshape(length, size)
                yield run.tobytes()
            else:
                _, stop = read_variant_body(body, position + 2, encoding, 0)
                stop += _behind(mask)
                length = 1
                yield head + body[position:stop]
            if not length:
                raise MalformedError("the values end inside of one")
        except (MalformedError, IndexError, struct.error, ValueError, OverflowError):
            yield head + body[position:]
            return
        index, position = index + length, stop


def _behind(mask: int) -> int:
    return sum(size for bit, size in _MASK_PARTS if mask & bit)


def _size(mask: int, encoding: int) -> int:
    """Bytes of a data value with this mask and variant encoding; 0 where its value has no fixed size."""
    if mask & 0xC0:
        raise MalformedError(f"DataValue mask {mask:#04x} does not exist")
    if encoding < 0:
        return 1 + _behind(mask)
    if encoding == 0:
        return 2 + _behind(mask)
    return 2 + int(FIXED[encoding][-1]) + _behind(mask) if encoding in FIXED else 0


def _run(bytes_: np.ndarray[Any, np.dtype[np.uint8]], position: int, size: int, most: int) -> int:
    """How many values of the same mask and encoding follow each other from `position`."""
    if most <= 0:
        return 0
    rows = bytes_[position : position + most * size].reshape(most, size)
    same = rows[:, 0] == rows[0, 0]
    if rows[0, 0] & 0x01:
        same &= rows[:, 1] == rows[0, 1]
    return most if same.all() else int(same.argmin())
