"""Requests and responses of which there are many, written and read by hand (Part 4, 5.11.2 and 5.13; Part 6, 5.2).

A hundred thousand nodes are asked for in bodies of a thousand; each costs about a microsecond here and about twenty as
an object of the stack. Pure: bytes in, bytes out. What is read raises MalformedError for what is no such response.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from opcua_collector.stack import UaStatusCodeError
from opcua_collector.values.encoding import MalformedError, read_extension_object, read_response_header

VALUE: Final = 13
"""The attribute that is a variable's value."""
SOURCE, SERVER, BOTH, NEITHER = 0, 1, 2, 3
REPORTING: Final = 2

ABSOLUTE, PERCENT = 1, 2
TRIGGERS: Final = {"status": 0, "value": 1, "timestamp": 2}

_NO_TEXT: Final = b"\xff\xff\xff\xff"
_NO_ENCODING: Final = b"\x00\x00" + _NO_TEXT  # QualifiedName of the data encoding
_NO_FILTER: Final = b"\x00\x00\x00"
_FILTER_HEAD: Final = struct.pack("<BBHBi", 1, 0, 724, 1, 16)  # DataChangeFilter_Encoding_DefaultBinary, 16 bytes
_FILTER: Final = struct.Struct("<IId")
_HEAD: Final = struct.Struct("<IIi")  # subscription, timestamps, how many
_READ_HEAD: Final = struct.Struct("<dIi")  # oldest age, timestamps, how many
_ASK: Final = struct.Struct("<Id")  # client handle, sampling interval
_QUEUE: Final = struct.Struct("<I?")
_U4: Final = struct.Struct("<I")
_I4: Final = struct.Struct("<i")
_CREATED: Final = struct.Struct("<IIdI")
_MODIFIED: Final = struct.Struct("<IdI")
_PLAIN: Final = np.dtype(
    [("status", "<u4"), ("id", "<u4"), ("sampling", "<f8"), ("queue", "<u4"), ("filter", "u1", (3,))]
)
_DAMAGE: Final = (IndexError, struct.error, OverflowError, ValueError)


@dataclass(frozen=True, slots=True)
class Asking:
    """How a server is asked to watch a value. Thousands of items share one, so it is compared by identity first."""

    sampling: float  # seconds
    queue: int
    discard_oldest: bool = True
    trigger: str = "value"
    deadband: int = 0  # 0: none; ABSOLUTE, PERCENT
    width: float = 0.0  # of the deadband
    range: str = ""  # of an array, only this part

    @property
    def filtered(self) -> bool:
        """Whether it takes a filter to say it: servers that know none know what goes without saying."""
        return bool(self.deadband) or self.trigger != "value"


@dataclass(frozen=True, slots=True)
class Monitored:
    """What the server made of a monitored item."""

    status: int
    id: int = 0
    sampling: float = 0.0  # seconds, revised
    queue: int = 0  # revised


def read_value_id(node: bytes, attribute: int = VALUE, index_range: str = "") -> bytes:
    """One node of a ReadRequest, or of a monitored item."""
    return node + _U4.pack(attribute) + _text(index_range) + _NO_ENCODING


def read_body(nodes: Sequence[bytes], *, timestamps: int = BOTH) -> bytes:
    """A ReadRequest for nodes as `read_value_id` writes them, past any cache of the server (MaxAge 0)."""
    return _READ_HEAD.pack(0.0, timestamps, len(nodes)) + b"".join(nodes)


def create_body(subscription: int, items: Iterable[tuple[bytes, int, Asking]], mode: int = REPORTING) -> bytes:
    """A CreateMonitoredItemsRequest: the node's id, the client handle and how it is watched, per item.

    mode: of MonitoringMode; 0 makes items that neither sample nor send.
    """
    middles: dict[str, bytes] = {}
    tails: dict[Asking, bytes] = {}
    parts: list[bytes] = []
    for node, handle, asking in items:
        middle = middles.get(asking.range)
        if middle is None:
            middle = middles[asking.range] = read_value_id(b"", VALUE, asking.range) + _U4.pack(mode)
        tail = tails.get(asking)
        if tail is None:
            tail = tails[asking] = _tail(asking)
        parts += (node, middle, _ASK.pack(handle, asking.sampling * 1000), tail)
    return _HEAD.pack(subscription, BOTH, len(parts) // 4) + b"".join(parts)


def modify_body(subscription: int, items: Iterable[tuple[int, int, Asking]]) -> bytes:
    """A ModifyMonitoredItemsRequest: the monitored item, its client handle and how it is watched from now on."""
    parts = [
        _U4.pack(item) + _ASK.pack(handle, asking.sampling * 1000) + _tail(asking) for item, handle, asking in items
    ]
    return _HEAD.pack(subscription, BOTH, len(parts)) + b"".join(parts)


def delete_body(subscription: int, items: Sequence[int]) -> bytes:
    """A DeleteMonitoredItemsRequest."""
    return struct.pack(f"<Ii{len(items)}I", subscription, len(items), *items)


def _tail(asking: Asking) -> bytes:
    """What follows client handle and sampling interval of MonitoringParameters."""
    filter_ = _NO_FILTER
    if asking.filtered:
        filter_ = _FILTER_HEAD + _FILTER.pack(TRIGGERS[asking.trigger], asking.deadband, asking.width)
    return filter_ + _QUEUE.pack(asking.queue, asking.discard_oldest)


def _text(text: str) -> bytes:
    if not text:
        return _NO_TEXT
    data = text.encode()
    return _I4.pack(len(data)) + data


def read_created(data: bytes, start: int) -> list[Monitored]:
    """The results of a CreateMonitoredItemsResponse whose type id begins at `start`."""
    try:
        count, position = _results(data, start)
        plain = _plain(data, position, count)
        if plain is not None:
            return plain
        found = []
        for _ in range(count):
            status, item, sampling, queue = _CREATED.unpack_from(data, position)
            _, _, position = read_extension_object(data, position + _CREATED.size)
            found.append(Monitored(status, item, sampling / 1000, queue))
        return found
    except _DAMAGE as error:
        raise MalformedError(f"CreateMonitoredItemsResponse of {len(data) - start} bytes: {error}") from error


def read_modified(data: bytes, start: int, items: Sequence[int]) -> list[Monitored]:
    """The results of a ModifyMonitoredItemsResponse whose type id begins at `start`, for these items."""
    try:
        count, position = _results(data, start)
        found = []
        for item in items[:count]:
            status, sampling, queue = _MODIFIED.unpack_from(data, position)
            _, _, position = read_extension_object(data, position + _MODIFIED.size)
            found.append(Monitored(status, item, sampling / 1000, queue))
        return found
    except _DAMAGE as error:
        raise MalformedError(f"ModifyMonitoredItemsResponse of {len(data) - start} bytes: {error}") from error


def read_deleted(data: bytes, start: int) -> tuple[int, ...]:
    """The status codes of a DeleteMonitoredItemsResponse whose type id begins at `start`."""
    try:
        count, position = _results(data, start)
        return struct.unpack_from(f"<{count}I", data, position)
    except _DAMAGE as error:
        raise MalformedError(f"DeleteMonitoredItemsResponse of {len(data) - start} bytes: {error}") from error


def _results(data: bytes, start: int) -> tuple[int, int]:
    """How many results a response has, and where they begin. Raises asyncua's UaError when the service was refused."""
    result, position = read_response_header(data, start)
    if result >> 30 >= 2:
        raise UaStatusCodeError(result)
    count = _I4.unpack_from(data, position)[0]
    if count > len(data) - position:
        raise MalformedError(f"{count} results cannot fit")
    return max(0, count), position + 4


def _plain(data: bytes, position: int, count: int) -> list[Monitored] | None:
    """Results without a filter result, the usual case; None where one has any."""
    if count * _PLAIN.itemsize > len(data) - position:
        return None
    rows = np.frombuffer(data, _PLAIN, count, position)
    if rows["filter"].any():
        return None
    columns = (rows["status"], rows["id"], rows["sampling"] / 1000, rows["queue"])
    return [Monitored(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
