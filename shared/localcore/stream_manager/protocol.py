"""The stream manager's wire protocol without I/O: frames of CBOR maps.

A connection begins with one version byte from the client, which the server answers; then frames flow both ways:

    frame = length of the rest, i32 big endian | operation, i8 | CBOR map

Requests may be pipelined: a response carries the requestId of its request and may come out of order.

Errors:

    ProtocolError (ValueError)      what arrived cannot be a frame: the connection is of no use any more
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import cbor2

CONNECT_VERSION = 1
PROTOCOL_VERSION = "1.1.0"
SUPPORTED_PROTOCOL_VERSIONS = ("1.0.0", "1.1.0")

MAX_FRAME_BYTES = 16 << 20
"""A longer frame closes the connection: the server would have to buffer it only to refuse it."""

_PREFIX = struct.Struct(">ib")


class Operation(IntEnum):
    UNKNOWN = 0
    CONNECT = 1
    CREATE_STREAM = 2
    DELETE_STREAM = 3
    APPEND = 4
    READ = 5
    CONNECT_RESPONSE = 6
    CREATE_STREAM_RESPONSE = 7
    DELETE_STREAM_RESPONSE = 8
    APPEND_RESPONSE = 9
    READ_RESPONSE = 10
    LIST_STREAMS = 11
    LIST_STREAMS_RESPONSE = 12
    DESCRIBE_STREAM = 13
    DESCRIBE_STREAM_RESPONSE = 14
    UPDATE_STREAM = 15
    UPDATE_STREAM_RESPONSE = 16
    UNKNOWN_OPERATION_ERROR = 17


RESPONSE_TO = {
    Operation.CONNECT: Operation.CONNECT_RESPONSE,
    Operation.CREATE_STREAM: Operation.CREATE_STREAM_RESPONSE,
    Operation.DELETE_STREAM: Operation.DELETE_STREAM_RESPONSE,
    Operation.APPEND: Operation.APPEND_RESPONSE,
    Operation.READ: Operation.READ_RESPONSE,
    Operation.LIST_STREAMS: Operation.LIST_STREAMS_RESPONSE,
    Operation.DESCRIBE_STREAM: Operation.DESCRIBE_STREAM_RESPONSE,
    Operation.UPDATE_STREAM: Operation.UPDATE_STREAM_RESPONSE,
}


class Status(IntEnum):
    SUCCESS = 0
    UNKNOWN_FAILURE = 1
    UNAUTHORIZED = 2
    INVALID_REQUEST = 3
    REQUEST_PAYLOAD_TOO_LARGE = 4
    RESOURCE_NOT_FOUND = 5
    SERVER_TIMEOUT = 6
    RESPONSE_PAYLOAD_TOO_LARGE = 7
    UNSUPPORTED_CONNECT_VERSION = 8
    UNEXPECTED_OPERATION = 9
    UNSUPPORTED_PROTOCOL_VERSION = 10
    INVALID_PROTOCOL_VERSION = 11
    FAILED_TO_CONNECT = 12
    NOT_ENOUGH_MESSAGES = 13
    MESSAGE_STORE_READ_ERROR = 14
    OUT_OF_MEMORY_ERROR = 15
    UPDATE_FAILED = 16
    UPDATE_NOT_ALLOWED = 17
    UNKNOWN_OPERATION = 18


class ProtocolError(ValueError):
    """What arrived cannot be a frame of this protocol."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `operation` may be a number that no `Operation` has."""

    operation: int
    payload: bytes

    def body(self) -> dict[str, Any]:
        """The CBOR map inside. Raises ProtocolError."""
        try:
            body = cbor2.loads(self.payload)
        except (cbor2.CBORDecodeError, ValueError, RecursionError) as error:
            raise ProtocolError(f"operation {self.operation}: the payload is not CBOR ({error})") from error
        if not isinstance(body, dict):
            raise ProtocolError(f"operation {self.operation}: the payload is a {type(body).__name__}, not a map")
        return body


class FrameDecoder:
    """Cuts a byte stream into frames, however it was segmented."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now. Raises ProtocolError on an impossible length, after those before it."""
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _PREFIX.size:
                length, operation = _PREFIX.unpack_from(buffer, start)
                if not 1 <= length <= self._max:
                    raise ProtocolError(f"frame length {length}: 1 to {self._max} bytes are possible")
                end = start + 4 + length
                if len(buffer) < end:
                    break
                payload = bytes(buffer[start + _PREFIX.size : end])
                start = end
                yield Frame(operation, payload)
        finally:
            del buffer[:start]


def encode_frame(operation: int, body: Mapping[str, Any]) -> bytes:
    """One frame, ready to be written."""
    payload = cbor2.dumps(body)
    return _PREFIX.pack(len(payload) + 1, operation) + payload
