"""The wire of the scripted server: a line with its Hello, a secure channel without security, requests in chunks; and
the answers that tests are written with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any, Final, Protocol, TypeAlias

ua: Any = import_module("asyncua.ua")
_codec: Any = import_module("asyncua.ua.ua_binary")
_buffer: Any = import_module("asyncua.common.utils").Buffer

_ENCODING: Final = "Request_Encoding_DefaultBinary"
_RESET: Final = struct.pack("ii", 1, 0)
CHANNEL: Final = 7
T0: Final = datetime(2026, 3, 1, tzinfo=timezone.utc)
_HEADERS: Final = 24  # bytes of a chunk before its part of the body

Response: TypeAlias = Any
"""A response of asyncua's, bytes that are sent as they are, or None: silence."""


@dataclass(slots=True)
class Call:
    """One request: which service, over which line, and how it is to be answered."""

    service: str
    request: Any
    line: Line
    number: int  # the request's id in its channel

    @property
    def parameters(self) -> Any:
        """What the service is asked."""
        return getattr(self.request, "Parameters", self.request)

    def answer(self, response: Response) -> None:
        """Send this; a response's header gets the request's handle."""
        self.line.send(self, response)


Answer: TypeAlias = Callable[[Call], Response]


def fault(name: str) -> Any:
    """A ServiceFault with this status code, such as BadTooManySessions."""
    response = ua.ServiceFault()
    response.ResponseHeader.ServiceResult = ua.StatusCode(getattr(ua.StatusCodes, name))
    return response


def refusal(name: str) -> Answer:
    """An override that always answers with this ServiceFault."""
    return lambda _: fault(name)


def silence(_: Call) -> Response:
    """An override that never answers."""
    return None


def result(name: str) -> Any:
    """A status code by its name."""
    return ua.StatusCode(getattr(ua.StatusCodes, name))


def double(value: float, second: float = 0.0, status: int = 0) -> Any:
    """A data value of T0 and some seconds."""
    stamp = T0 + timedelta(seconds=second)
    variant = ua.Variant(float(value), ua.VariantType.Double)
    return ua.DataValue(variant, ua.StatusCode(status), SourceTimestamp=stamp, ServerTimestamp=stamp)


class Server(Protocol):
    """What a line needs of its server."""

    answers: dict[str, Answer]
    lines: set[Line]
    receives: int
    sends: int
    chunk: int
    largest: int
    tokens: int

    def answered(self, call: Call) -> Response:
        """The answer to a request; None: there is none, or not now."""


class Line:
    """One TCP connection: Hello, a secure channel without security, chunks."""

    def __init__(self, server: Server, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._writer = writer
        self._sequence = 0
        self._parts: list[bytes] = []
        self._takes = 65535  # the largest chunk that the client takes

    def reset(self) -> None:
        """End the line without a word."""
        self._server.lines.discard(self)
        with contextlib.suppress(OSError):
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Take chunks until the line ends."""
        while True:
            header = await reader.readexactly(8)
            kind, size = header[:4], int.from_bytes(header[4:], "little")
            self._server.largest = max(self._server.largest, size)
            if size > self._server.receives:
                self._error("BadTcpMessageTooLarge")
                return
            body = await reader.readexactly(size - 8)
            if kind == b"HELF":
                self._hello(body)
            elif kind == b"OPNF":
                self._open(body)
            elif kind in (b"MSGC", b"MSGF"):
                self._message(kind, body)
            else:
                return

    def _hello(self, body: bytes) -> None:
        _, takes, sends, _, _ = struct.unpack_from("<5I", body)
        server = self._server
        self._takes = min(takes, server.sends)
        if "Hello" in server.answers:
            server.answers["Hello"](Call("Hello", None, self, 0))
            return
        self.write(b"ACKF" + struct.pack("<6I", 28, 0, min(sends, server.receives), self._takes, 0, 0))

    def _open(self, body: bytes) -> None:
        buffer = _buffer(body[4:])
        security = _codec.struct_from_binary(ua.AsymmetricAlgorithmHeader, buffer)
        sequence = _codec.struct_from_binary(ua.SequenceHeader, buffer)
        request = _codec.struct_from_binary(ua.OpenSecureChannelRequest, buffer)
        call = Call("OpenSecureChannel", request, self, sequence.RequestId)
        answer = self._server.answered(call)
        if answer is None:
            return
        self._sequence += 1
        inner = _codec.struct_to_binary(security) + struct.pack("<2I", self._sequence, call.number)
        inner += self._encoded(call, answer)
        self.write(b"OPNF" + struct.pack("<2I", 12 + len(inner), CHANNEL) + inner)

    def _message(self, kind: bytes, body: bytes) -> None:
        _, _, _, number = struct.unpack_from("<4I", body)
        self._parts.append(body[16:])
        if kind == b"MSGC":
            return
        buffer = _buffer(b"".join(self._parts))
        self._parts.clear()
        type_id = _codec.nodeid_from_binary(buffer.copy())
        name = ua.ObjectIdNames[type_id.Identifier].removesuffix(_ENCODING)
        request = _codec.struct_from_binary(getattr(ua, f"{name}Request"), buffer)
        call = Call(name, request, self, number)
        response = self._server.answered(call)
        if response is not None:
            self.send(call, response)

    def send(self, call: Call, response: Response) -> None:
        """Send a response, or bytes, in chunks that both sides' buffers hold."""
        body = self._encoded(call, response)
        room = min(self._takes, self._server.chunk) - _HEADERS
        parts = [body[start : start + room] for start in range(0, len(body), room)]
        for position, part in enumerate(parts):
            self._sequence += 1
            last = position == len(parts) - 1
            self.write(
                (b"MSGF" if last else b"MSGC")
                + struct.pack("<5I", _HEADERS + len(part), CHANNEL, self._server.tokens, self._sequence, call.number)
                + part
            )

    def _encoded(self, call: Call, response: Response) -> bytes:
        if isinstance(response, bytes):
            return response
        response.ResponseHeader.RequestHandle = call.request.RequestHeader.RequestHandle
        response.ResponseHeader.Timestamp = datetime.now(timezone.utc)
        return bytes(_codec.struct_to_binary(response))

    def _error(self, name: str) -> None:
        reason = name.encode()
        self.write(b"ERRF" + struct.pack("<3I", 16 + len(reason), getattr(ua.StatusCodes, name), len(reason)) + reason)

    def write(self, data: bytes) -> None:
        """Bytes onto the wire."""
        if not self._writer.transport.is_closing():
            self._writer.write(data)
