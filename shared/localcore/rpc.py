"""One connection of the event-stream RPC, the server's side. Sans-I/O.

    state       message                                   becomes / is answered
    ----------  ----------------------------------------  --------------------------------------------------------
    CONNECTING  CONNECT with version 0.1.0 and a token    event Connect; accept() -> OPEN, refuse() -> CLOSED
    CONNECTING  anything else                             ProtocolViolation
    OPEN        APPLICATION_MESSAGE, new higher stream    event Request
    OPEN        any, known stream, TERMINATE_STREAM       event StreamEnd, after an empty message that ends the stream
    OPEN        any, ended stream, TERMINATE_STREAM       nothing: both sides ended it at once
    OPEN        PING                                      PING_RESPONSE with the same payload
    OPEN        anything else                             ProtocolViolation

A client numbers its streams 1, 2, 3 …; each operation is a stream. The first message back on it is the response, those
after it are events. A unary operation's stream ends with its response, a subscription's when either side says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from localcore.eventstream import Decoder, Message, MessageFlag, MessageType, encode

_SERVICE = "aws.greengrass#GreengrassCoreIPC"
_VERSION = "0.1.0"
_JSON = "application/json"


class ProtocolViolation(Exception):  # noqa: N818 - named for the fact
    """The peer does not follow the protocol: close the connection."""


class State(Enum):
    """Where a connection is in its life."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Connect:
    """The client introduces itself with the token that the nucleus gave to its component."""

    token: str


@dataclass(frozen=True, slots=True)
class Request:
    """The client asks for an operation, named without its prefix `aws.greengrass#`."""

    stream: int
    operation: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The client ended a stream."""

    stream: int


Event = Connect | Request | StreamEnd


class RpcConnection:
    """Bytes in, events out; calls in, bytes to send out.

    Args:
        max_frame: a longer frame raises FrameTooLarge out of receive().
        ends_unary: whether a unary response carries the flag that ends its stream.
        error_details: whether errors carry `message` beside `_message`.
    """

    def __init__(self, max_frame: int, *, ends_unary: bool, error_details: bool) -> None:
        self._decoder = Decoder(max_frame)
        self._ends_unary = ends_unary
        self._error_details = error_details
        self._streams: set[int] = set()
        self._newest = 0
        self._outgoing: list[bytes] = []
        self.state = State.CONNECTING

    def receive(self, data: bytes) -> Iterator[Event]:
        """Take bytes from the peer. Raises EventStreamError and ProtocolViolation."""
        for message in self._decoder.receive(data):
            event = self._on_message(message)
            if event is not None:
                yield event

    def to_send(self) -> bytes:
        """The bytes that receive() itself wants sent: answers to pings and to ended streams."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    def _on_message(self, message: Message) -> Event | None:
        kind, stream = message.number(":message-type"), message.number(":stream-id")
        flags = message.number(":message-flags")
        if kind is None or stream is None or flags is None:
            raise ProtocolViolation("a message without :message-type, :message-flags and :stream-id")
        if self.state is State.CONNECTING:
            if kind != MessageType.CONNECT or stream != 0 or message.text(":version") != _VERSION:
                raise ProtocolViolation("the first message is not a CONNECT of version 0.1.0")
            token = _object(message.payload).get("authToken")
            return Connect(token if isinstance(token, str) else "")
        if kind == MessageType.PING:
            self._outgoing.append(_frame(MessageType.PING_RESPONSE, 0, MessageFlag.NONE, payload=message.payload))
            return None
        if stream > 0 and flags & MessageFlag.TERMINATE_STREAM and stream <= self._newest:
            if stream not in self._streams:
                return None
            self._streams.discard(stream)
            self._outgoing.append(_frame(MessageType.APPLICATION_MESSAGE, stream, MessageFlag.TERMINATE_STREAM))
            return StreamEnd(stream)
        operation = message.text("operation")
        if kind != MessageType.APPLICATION_MESSAGE or stream <= self._newest or operation is None:
            raise ProtocolViolation(f"message type {kind} on stream {stream} does not belong here")
        self._newest = stream
        self._streams.add(stream)
        return Request(stream, operation.removeprefix("aws.greengrass#"), _object(message.payload))

    def accept(self) -> bytes:
        """The answer to a Connect whose token is good."""
        self.state = State.OPEN
        return _frame(MessageType.CONNECT_ACK, 0, MessageFlag.CONNECTION_ACCEPTED)

    def refuse(self) -> bytes:
        """The answer to a Connect whose token is not good. Close after it."""
        self.state = State.CLOSED
        return _frame(MessageType.CONNECT_ACK, 0, MessageFlag.NONE)

    def response(self, stream: int, model: str, body: dict[str, Any], *, more: bool) -> bytes:
        """The response to a request; `more` when events follow it. Empty when the client has ended the stream."""
        if stream not in self._streams:
            return b""
        if not more:
            self._streams.discard(stream)
        flags = MessageFlag.NONE if more or not self._ends_unary else MessageFlag.TERMINATE_STREAM
        return _frame(MessageType.APPLICATION_MESSAGE, stream, flags, model, json.dumps(body).encode())

    def event(self, stream: int, model: str, payload: bytes) -> bytes:
        """An event of a subscription: `payload` is its JSON. Empty when the client has ended the stream."""
        if stream not in self._streams:
            return b""
        return _frame(MessageType.APPLICATION_MESSAGE, stream, MessageFlag.NONE, model, payload)

    def error(self, stream: int, code: str, text: str) -> bytes:
        """The response that refuses a request with an error of the service model, such as `ServiceError`."""
        if stream not in self._streams:
            return b""
        self._streams.discard(stream)
        body = {"_message": text, "_errorCode": code}
        if self._error_details:
            body |= {"message": text, "_service": _SERVICE}
        return _frame(
            MessageType.APPLICATION_ERROR, stream, MessageFlag.TERMINATE_STREAM, code, json.dumps(body).encode()
        )


def _object(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise ProtocolViolation(f"the payload is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolViolation("the payload is not a JSON object")
    return value


def _frame(kind: MessageType, stream: int, flags: MessageFlag, model: str = "", payload: bytes = b"") -> bytes:
    headers: dict[str, Any] = {":message-type": int(kind), ":message-flags": int(flags), ":stream-id": stream}
    if model:
        headers[":content-type"] = _JSON
        headers["service-model-type"] = f"aws.greengrass#{model}"
    return encode(Message(headers, payload))
