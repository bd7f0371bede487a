"""The event-stream message format that Greengrass local IPC is spoken in. Sans-I/O.

    frame  = total length | headers length | crc32 of these 8 bytes | headers | payload | crc32 of everything before
    header = name length u8 | name | type u8 | value

Everything is big endian, lengths and checksums are u32.
Errors, all the peer's fault and none of them survivable on a byte stream:

    EventStreamError
    ├── FrameTooLarge     the announced length is above the limit
    └── FrameCorrupt      a checksum, a length or a header does not fit
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

HeaderValue = bool | int | bytes | str | uuid.UUID

OVERHEAD = 16
"""Bytes of a frame that are neither headers nor payload."""

_PRELUDE = struct.Struct(">III")
_U32 = struct.Struct(">I")
_FIXED = {2: struct.Struct(">b"), 3: struct.Struct(">h"), 4: struct.Struct(">i"), 5: struct.Struct(">q")}


class EventStreamError(ValueError):
    """The peer sent bytes that are not event-stream messages."""


class FrameTooLarge(EventStreamError):  # noqa: N818 - named for the fact
    """A frame announces more bytes than the receiver takes."""


class FrameCorrupt(EventStreamError):  # noqa: N818 - named for the fact
    """A frame contradicts its own lengths or checksums."""


class MessageType(IntEnum):
    """Values of the header `:message-type`."""

    APPLICATION_MESSAGE = 0
    APPLICATION_ERROR = 1
    PING = 2
    PING_RESPONSE = 3
    CONNECT = 4
    CONNECT_ACK = 5
    PROTOCOL_ERROR = 6
    INTERNAL_ERROR = 7


class MessageFlag(IntFlag):
    """Bits of the header `:message-flags`."""

    NONE = 0
    CONNECTION_ACCEPTED = 1
    TERMINATE_STREAM = 2


@dataclass(frozen=True, slots=True)
class Message:
    """One message: typed headers by name, and a payload."""

    headers: Mapping[str, HeaderValue] = field(default_factory=dict)
    payload: bytes = b""

    def text(self, name: str) -> str | None:
        """A header that is a string, or None."""
        value = self.headers.get(name)
        return value if isinstance(value, str) else None

    def number(self, name: str) -> int | None:
        """A header that is an integer, or None."""
        value = self.headers.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def encode(message: Message) -> bytes:
    """The frame of a message. Integers are written as i32, which is what the protocol's own headers are."""
    headers = b"".join(_encode_header(name, value) for name, value in message.headers.items())
    total = OVERHEAD + len(headers) + len(message.payload)
    lengths = struct.pack(">II", total, len(headers))
    body = b"".join((lengths, _U32.pack(zlib.crc32(lengths)), headers, message.payload))
    return body + _U32.pack(zlib.crc32(body))


def _encode_header(name: str, value: HeaderValue) -> bytes:
    raw = name.encode()
    prefix = bytes((len(raw),)) + raw
    if isinstance(value, bool):
        return prefix + (b"\x00" if value else b"\x01")
    if isinstance(value, int):
        return prefix + b"\x04" + _FIXED[4].pack(value)
    if isinstance(value, str):
        text = value.encode()
        return prefix + b"\x07" + struct.pack(">H", len(text)) + text
    if isinstance(value, uuid.UUID):
        return prefix + b"\x09" + value.bytes
    return prefix + b"\x06" + struct.pack(">H", len(value)) + value


def _decode_headers(data: bytes) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    at = 0
    try:
        while at < len(data):
            end = at + 1 + data[at]
            name = data[at + 1 : end].decode()
            kind = data[end]
            at = end + 1
            if kind in (0, 1):
                headers[name] = kind == 0
            elif kind in _FIXED:
                headers[name] = _FIXED[kind].unpack_from(data, at)[0]
                at += _FIXED[kind].size
            elif kind in (6, 7):
                start = at + 2
                at = start + int.from_bytes(data[at:start], "big")
                if at > len(data):
                    raise FrameCorrupt(f"header {name!r} reaches beyond the headers")
                headers[name] = data[start:at] if kind == 6 else data[start:at].decode()
            elif kind == 8:
                headers[name] = _FIXED[5].unpack_from(data, at)[0]
                at += 8
            elif kind == 9:
                headers[name] = uuid.UUID(bytes=data[at : at + 16])
                at += 16
            else:
                raise FrameCorrupt(f"header {name!r} has the unknown type {kind}")
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, EventStreamError):
            raise
        raise FrameCorrupt(f"headers are malformed: {error}") from error
    return headers


class Decoder:
    """Cuts a byte stream, however it was split on its way, into messages.

    After an error the stream has no meaning any more: close the connection.
    """

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame
        self._buffer = bytearray()

    def receive(self, data: bytes) -> Iterator[Message]:
        """Take bytes and yield each message that they complete. Raises EventStreamError."""
        self._buffer += data
        while len(self._buffer) >= _PRELUDE.size:
            total, headers_length, checksum = _PRELUDE.unpack_from(self._buffer)
            if zlib.crc32(self._buffer[:8]) != checksum:
                raise FrameCorrupt("the checksum of the lengths is wrong")
            if total > self._max_frame:
                raise FrameTooLarge(f"a frame of {total} bytes; the limit is {self._max_frame}")
            if total < OVERHEAD + headers_length:
                raise FrameCorrupt(f"a frame of {total} bytes cannot hold {headers_length} bytes of headers")
            if len(self._buffer) < total:
                return
            frame = bytes(self._buffer[:total])
            del self._buffer[:total]
            if zlib.crc32(frame[:-4]) != _U32.unpack(frame[-4:])[0]:
                raise FrameCorrupt("the checksum of the frame is wrong")
            end = _PRELUDE.size + headers_length
            yield Message(_decode_headers(frame[_PRELUDE.size : end]), frame[end:-4])
