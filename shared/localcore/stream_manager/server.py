"""The stream manager on a socket: requests to streams, one connection each, and the faults a test may order."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import struct
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcore import clock
from localcore.stream_manager.definition import RefusedError
from localcore.stream_manager.protocol import (
    CONNECT_VERSION,
    PROTOCOL_VERSION,
    RESPONSE_TO,
    SUPPORTED_PROTOCOL_VERSIONS,
    Frame,
    FrameDecoder,
    Operation,
    ProtocolError,
    Status,
    encode_frame,
)
from localcore.stream_manager.streams import Stream, Streams
from localcore.witness import Witness, appends_path

logger = logging.getLogger(__name__)

SERVER_VERSION = "2.3.1"

FAULT_KINDS = ("rst", "fin", "split", "delay", "lose_reply", "refuse")

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, no time


@dataclass(slots=True)
class Fault:
    """What happens to the next `count` requests, or to those of one operation.

    kind: `rst` or `fin` end the connection instead of a reply; `split` sends the first `split_at` bytes of the reply
        and the rest `seconds` later; `delay` sends the reply `seconds` later; `lose_reply` never sends it; `refuse`
        answers with `status` and does nothing.
    operation: `append`, `read`, `create_stream`, ...; None is any.
    accept: whether the request is carried out before that.
    """

    kind: str
    operation: str | None = None
    count: int = 1
    seconds: float = 0.1
    split_at: int = 2
    accept: bool = True
    status: int = Status.UNKNOWN_FAILURE

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise ValueError(f"fault {self.kind!r}: one of {', '.join(FAULT_KINDS)}")


class Server:
    """Serves streams to SDK clients.

    root: the core's folder: streams live in `stream_manager/`, the witness in `witness/`.
    auth_token: what clients must present; None lets everybody in.
    """

    def __init__(self, root: Path, *, auth_token: str | None = None) -> None:
        self.streams = Streams(root / "stream_manager")
        self.auth_token = auth_token
        self.faults: list[Fault] = []
        self.connections: set[Connection] = set()
        self.on_change: Callable[[Stream], None] = lambda stream: None
        self._root = root
        self._witnesses: dict[str, Witness] = {}
        self._listener: asyncio.Server | None = None

    async def start(self, port: int = 0) -> int:
        """Listens on loopback and returns the port."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), "127.0.0.1", port)
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Ends all connections and closes the streams cleanly."""
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.end("fin")
        self.streams.close()
        for witness in self._witnesses.values():
            witness.close()

    def append(self, stream: Stream, payload: object) -> int:
        """Stores a message and witnesses it. Raises RefusedError."""
        sequence = stream.append(payload, clock.now_ms())
        assert isinstance(payload, bytes)
        name = stream.definition.name
        witness = self._witnesses.get(name)
        if witness is None:
            witness = self._witnesses[name] = Witness(appends_path(self._root, name))
        witness.write(b'{"seq":%d,"at_ns":%d,"payload":"%s"}\n' % (sequence, time.time_ns(), base64.b64encode(payload)))
        return sequence

    def fault_for(self, operation: int) -> Fault | None:
        """The fault that this request meets, used up by it."""
        for fault in self.faults:
            if fault.operation is None or fault.operation == _operation_name(operation):
                fault.count -= 1
                if fault.count <= 0:
                    self.faults.remove(fault)
                return fault
        return None

    async def answer(self, operation: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """What a successful response adds to its requestId and status. Raises RefusedError."""
        if operation == Operation.READ:
            return {"messages": await self._read(body)}
        if operation == Operation.CREATE_STREAM:
            self.on_change(self.streams.create(body.get("definition")))
        elif operation == Operation.UPDATE_STREAM:
            self.on_change(self.streams.update(body.get("definition")))
        elif operation == Operation.DELETE_STREAM:
            self.on_change(self.streams.delete(body.get("name")))
        elif operation == Operation.DESCRIBE_STREAM:
            return {"messageStreamInfo": self.streams.get(body.get("name")).describe()}
        elif operation == Operation.LIST_STREAMS:
            return {"streams": self.streams.names()}
        return {}

    async def _read(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        name = body.get("streamName")
        stream = self.streams.get(name)
        options = body.get("readMessagesOptions") or {}
        start, least, most, timeout_ms = (
            _read_option(options, key, low, high, default)
            for key, low, high, default in (
                ("desiredStartSequenceNumber", 0, 2**63 - 1, 0),
                ("minMessageCount", 1, 2**31 - 1, 1),
                ("maxMessageCount", 1, 2**31 - 1, options.get("minMessageCount") or 1),
                ("readTimeoutMillis", 0, 9223372036854, 0),
            )
        )
        if most < least:
            raise RefusedError(Status.INVALID_REQUEST, f"maxMessageCount {most} is below minMessageCount {least}")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        while True:
            messages = stream.read(start, least, most, clock.now_ms())
            if messages:
                return [
                    {
                        "streamName": name,
                        "sequenceNumber": message.sequence,
                        "ingestTime": message.ingest_ms,
                        "payload": message.payload,
                    }
                    for message in messages
                ]
            if loop.time() >= deadline:
                raise RefusedError(
                    Status.NOT_ENOUGH_MESSAGES,
                    f"stream {name}: fewer than {least} messages from {start} on; the newest is {stream.newest}",
                )
            await _appended(stream, deadline - loop.time())
            stream = self.streams.get(name)


class Connection(asyncio.Protocol):
    """One client. Appends are answered at once; everything else in a task, so that a waiting read holds nobody up."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._greeted = False
        self._connected = False
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = None
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        if not self._greeted:
            self._greeted = True
            self._write(bytes([CONNECT_VERSION]))
            if data[0] != CONNECT_VERSION:
                refusal = {"requestId": "", "status": int(Status.UNSUPPORTED_CONNECT_VERSION)}
                self._write(encode_frame(Operation.CONNECT_RESPONSE, refusal))
                self.end("fin")
                return
            data = data[1:]
        try:
            for frame in self._decoder.feed(data):
                self._receive(frame)
        except ProtocolError as error:
            logger.warning("closing a connection: %s", error)
            self.end("fin")

    def end(self, kind: str) -> None:
        """Ends the connection with FIN or RST."""
        if self._transport is None:
            return
        if kind == "rst":
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()
        else:
            self._transport.close()

    def _receive(self, frame: Frame) -> None:
        body = frame.body()
        request_id = body.get("requestId")
        if not self._connected:
            self._connect(frame.operation, body)
            return
        fault = self._server.fault_for(frame.operation)
        if fault is not None and (fault.kind == "refuse" or not fault.accept):
            self._reply(frame.operation, _refusal(request_id, fault.status, "refused by an ordered fault"), fault)
        elif frame.operation == Operation.APPEND:
            self._append(request_id, body, fault)
        elif frame.operation in RESPONSE_TO and frame.operation != Operation.CONNECT:
            task = asyncio.get_running_loop().create_task(self._answer(frame.operation, request_id, body, fault))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            message = f"operation {frame.operation} is unknown to server version {SERVER_VERSION}"
            self._write(
                encode_frame(Operation.UNKNOWN_OPERATION_ERROR, _refusal(request_id, Status.UNKNOWN_OPERATION, message))
            )

    def _connect(self, operation: int, body: Mapping[str, Any]) -> None:
        offered = {body.get("protocolVersion"), *(body.get("otherSupportedProtocolVersions") or ())}
        common = max((v for v in SUPPORTED_PROTOCOL_VERSIONS if v in offered), default=None)
        token = self._server.auth_token
        if operation != Operation.CONNECT:
            status, problem = Status.UNEXPECTED_OPERATION, f"operation {operation} before Connect"
        elif common is None:
            status, problem = Status.UNSUPPORTED_PROTOCOL_VERSION, f"none of the versions {offered} is supported"
        elif token is not None and body.get("authToken") != token:
            status, problem = Status.UNAUTHORIZED, "the authToken is not valid"
        else:
            status, problem = Status.SUCCESS, None
        response = {
            "requestId": body.get("requestId"),
            "status": int(status),
            "protocolVersion": common or PROTOCOL_VERSION,
            "supportedProtocolVersions": list(SUPPORTED_PROTOCOL_VERSIONS),
            "serverVersion": SERVER_VERSION,
            "clientIdentifier": str(uuid.uuid4()),
        }
        if problem is not None:
            response["errorMessage"] = problem
        self._write(encode_frame(Operation.CONNECT_RESPONSE, response))
        self._connected = status is Status.SUCCESS
        if not self._connected:
            self.end("fin")

    def _append(self, request_id: Any, body: Mapping[str, Any], fault: Fault | None) -> None:
        try:
            sequence = self._server.append(self._server.streams.get(body.get("name")), body.get("payload"))
        except RefusedError as refused:
            response = _refusal(request_id, refused.status, str(refused))
        else:
            response = {"requestId": request_id, "status": int(Status.SUCCESS), "sequenceNumber": sequence}
        self._reply(Operation.APPEND, response, fault)

    async def _answer(self, operation: int, request_id: Any, body: Mapping[str, Any], fault: Fault | None) -> None:
        try:
            response = {"requestId": request_id, "status": int(Status.SUCCESS)}
            response |= await self._server.answer(operation, body)
        except RefusedError as refused:
            response = _refusal(request_id, refused.status, str(refused))
        except Exception as error:
            logger.exception("operation %s failed", _operation_name(operation))
            response = _refusal(request_id, Status.UNKNOWN_FAILURE, repr(error))
        self._reply(operation, response, fault)

    def _reply(self, operation: int, response: Mapping[str, Any], fault: Fault | None) -> None:
        frame = encode_frame(RESPONSE_TO[Operation(operation)], response)
        loop = asyncio.get_running_loop()
        match fault.kind if fault is not None else "":
            case "rst" | "fin" as kind:
                self.end(kind)
            case "lose_reply":
                pass
            case "delay":
                assert fault is not None
                loop.call_later(fault.seconds, self._write, frame)
            case "split":
                assert fault is not None
                self._write(frame[: fault.split_at])
                loop.call_later(fault.seconds, self._write, frame[fault.split_at :])
            case _:
                self._write(frame)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _refusal(request_id: Any, status: int, message: str) -> dict[str, Any]:
    return {"requestId": request_id, "status": int(status), "errorMessage": message}


def _operation_name(operation: int) -> str:
    return Operation(operation).name.lower() if operation in RESPONSE_TO else str(operation)


def _read_option(options: Mapping[str, Any], key: str, low: int, high: int, default: int) -> int:
    value = options.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RefusedError(Status.INVALID_REQUEST, f"{key} {value!r}: an integer from {low} to {high}")
    return value


async def _appended(stream: Stream, timeout: float) -> None:
    """Waits for the next message, no longer than `timeout` seconds."""
    event = asyncio.Event()
    stream.on_append.append(event.set)
    try:
        await asyncio.wait_for(event.wait(), timeout)
    except asyncio.TimeoutError:
        pass
    finally:
        stream.on_append.remove(event.set)
