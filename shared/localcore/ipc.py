"""The IPC server of the local core: the event-stream RPC on a unix socket, and the faults it can be told to have."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import secrets as tokens
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from localcore.bus import Bus, Subscriber
from localcore.configuration import Configuration
from localcore.eventstream import EventStreamError
from localcore.operations import OPERATIONS, Cancel, Refused, Reply, Services, iot_size
from localcore.profile import CLASSIC, MIB, Profile
from localcore.rpc import Connect, ProtocolViolation, Request, RpcConnection, StreamEnd
from localcore.topics import has_wildcard

log = logging.getLogger(__name__)

_MAX_SOCKET_PATH = 100
_MAX_IOT_CORE = 128 * 1024
_MAX_QUEUED = 256 * MIB
"""The classic nucleus queues without bound for a subscriber that does not read; here the connection is cut then."""


@dataclass(slots=True)
class Faults:
    """What goes wrong on purpose, until it is set back."""

    reply_delay: float = 0.0
    """Seconds that each reply waits, the operation having been carried out."""
    withheld: Counter[str] = field(default_factory=Counter)
    """Operation -> how many of its next replies are never sent, although it was carried out."""


class IpcServer:
    """Local IPC for components that run as other processes.

    Args:
        socket: where the socket is to be. When the path is too long for one, a symbolic link is put there; `address` is
            what clients connect to.
        profile: whose limits and habits apply.
        thing_name: for policies that name `{iot:thingName}`.
        secrets: what Secret Manager holds, by secret id or ARN.
    """

    def __init__(
        self,
        socket: Path,
        profile: Profile = CLASSIC,
        *,
        thing_name: str = "sluice-laptop",
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        self.profile = profile
        self.faults = Faults()
        self.services = Services(profile, {"iot:thingName": thing_name}, dict(secrets or {}))
        self.address = str(socket)
        self._socket = socket
        self._short: Path | None = None
        self._tokens: dict[str, str] = {}
        self._sessions: set[_Session] = set()
        self._server: asyncio.Server | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Open the socket."""
        if len(str(self._socket).encode()) > _MAX_SOCKET_PATH and self._short is None:
            # TMPDIR may itself be what makes the path too long.
            room = _MAX_SOCKET_PATH - len("/localcore-12345678/ipc.socket")
            folder = "/tmp" if len(os.fsencode(tempfile.gettempdir())) > room else None  # noqa: S108 - mkdtemp is safe
            self._short = Path(tempfile.mkdtemp(prefix="localcore-", dir=folder))
            self.address = str(self._short / "ipc.socket")
            self._socket.unlink(missing_ok=True)
            self._socket.symlink_to(self.address)
        self._remove_socket()
        self._server = await asyncio.start_unix_server(self._on_client, self.address)

    async def stop(self) -> None:
        """Cut every connection and remove the socket."""
        await self._close()
        if self._short is not None:
            self._socket.unlink(missing_ok=True)
            shutil.rmtree(self._short, ignore_errors=True)
            self._short = None

    async def restart(self) -> None:
        """Go away and come back, with every connection lost; on lite every token is another one afterwards."""
        await self._close()
        if not self.profile.tokens_survive_restart:
            self._tokens.clear()
        await self.start()

    async def lose_power(self) -> None:
        """Go away as in a power cut, until start(): every token is another one afterwards."""
        await self._close()
        self._tokens.clear()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        sessions = list(self._sessions)
        self.cut()
        await asyncio.gather(*(session.ended.wait() for session in sessions))
        self._remove_socket()

    def _remove_socket(self) -> None:
        Path(self.address).unlink(missing_ok=True)

    def token(self, component: str) -> str:
        """The token (SVCUID) with which a component may connect: the same one until it is lost in a restart."""
        for token, name in self._tokens.items():
            if name == component:
                return token
        token = tokens.token_hex(8).upper()
        self._tokens[token] = component
        return token

    def configuration(self, component: str) -> Configuration:
        """The configuration of a component, made empty when it is new."""
        return self.services.configuration(component)

    def connected(self, component: str) -> int:
        """How many connections a component has."""
        return sum(1 for session in self._sessions if session.component == component)

    def cut(self, component: str | None = None) -> None:
        """Break the connections of one component, or all of them."""
        for session in list(self._sessions):
            if component in (None, session.component):
                session.cut()

    def silence(self) -> None:
        """Let every present local subscription die without a word, as when lite's pub/sub daemon is started again."""
        self.services.local.silence()

    async def publish(self, topic: str, payload: bytes) -> None:
        """Publish a binary message as nobody in particular, past every policy."""
        body = {"message": base64.b64encode(payload).decode(), "context": {"topic": topic}}
        async with self.turn():
            await self.services.local.publish(topic, json.dumps({"binaryMessage": body}).encode(), "")

    def observe(self, topic_filter: str, callback: Callable[[str, bytes], None]) -> Cancel:
        """Call back with each message that is published locally, JSON messages as their JSON text."""

        async def deliver(topic: str, event: bytes) -> None:
            body = json.loads(event)
            if "binaryMessage" in body:
                callback(topic, base64.b64decode(body["binaryMessage"]["message"]))
            else:
                callback(topic, json.dumps(body["jsonMessage"]["message"]).encode())

        return _observe(self.services.local, topic_filter, deliver)

    def observe_iot_core(self, topic_filter: str, callback: Callable[[str, bytes], None]) -> Cancel:
        """Call back with each message that is published to IoT Core."""

        async def deliver(topic: str, event: bytes) -> None:
            callback(topic, base64.b64decode(json.loads(event)["message"]["payload"]))

        return _observe(self.services.iot, topic_filter, deliver)

    async def publish_iot_core(self, topic: str, payload: bytes) -> None:
        """Publish to IoT Core as the cloud: to whoever subscribes now.

        What lite's MQTT client has no room for is lost, with a warning in the log. Raises ValueError for what IoT Core
        itself refuses.
        """
        if len(payload) > _MAX_IOT_CORE or has_wildcard(topic):
            raise ValueError(f"IoT Core takes {_MAX_IOT_CORE} bytes on a topic without wildcards: {topic!r}")
        if self.profile.drops_large_iot_silently and iot_size(topic, payload) > self.profile.max_iot_message:
            log.warning("%d bytes on %s are more than the nucleus can take in: lost", len(payload), topic)
            return
        body = {"message": {"topicName": topic, "payload": base64.b64encode(payload).decode()}}
        async with self.turn():
            await self.services.iot.publish(topic, json.dumps(body).encode(), "")

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Lite does one thing at a time, which is how one slow subscriber stalls everybody."""
        if self.profile.send_timeout is None:
            yield
        else:
            async with self._turn:
                yield

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(self, reader, writer)
        limit = self.profile.max_connections
        if self._server is None or (limit is not None and len(self._sessions) >= limit):
            session.cut()
            return
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            session.ended.set()


def _observe(bus: Bus, topic_filter: str, deliver: Callable[[str, bytes], object]) -> Cancel:
    return bus.subscribe(Subscriber(topic_filter, "", False, deliver))  # type: ignore[arg-type]


class _Session:
    """One connection: moves bytes between its socket and its RpcConnection, and runs its requests in order."""

    def __init__(self, server: IpcServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._rpc = RpcConnection(
            server.profile.max_frame,
            ends_unary=server.profile.ends_unary,
            error_details=server.profile.error_details,
        )
        self._subscriptions: dict[int, Cancel] = {}
        self.component = ""
        self.ended = asyncio.Event()
        self._broken = asyncio.Event()
        # drain() then waits until all is with the peer's socket, so that at most one message waits in this process.
        writer.transport.set_write_buffer_limits(high=0)

    def cut(self) -> None:
        """Break the connection at once."""
        self._broken.set()
        self._writer.transport.abort()

    async def run(self) -> None:
        """Serve until either side has had enough."""
        try:
            while data := await self._reader.read(MIB):
                for event in self._rpc.receive(data):
                    if isinstance(event, Connect):
                        if not await self._on_connect(event):
                            return
                    elif isinstance(event, Request):
                        await self._on_request(event)
                    elif isinstance(event, StreamEnd):
                        self._unsubscribe(event.stream)
                self.write(self._rpc.to_send())
        except (EventStreamError, ProtocolViolation) as error:
            log.warning("connection of %s closed: %s", self.component or "an unknown client", error)
        except OSError as error:
            log.debug("connection of %s lost: %s", self.component, error)
        finally:
            for stream in list(self._subscriptions):
                self._unsubscribe(stream)
            self.cut()

    async def _on_connect(self, event: Connect) -> bool:
        component = self._server._tokens.get(event.token)
        if component is None:
            log.warning("a client with an unknown token was refused")
            if self._server.profile.refuses_politely:
                self.write(self._rpc.refuse())
                # Closing at once could overtake the answer: the client may do it.
                with contextlib.suppress(OSError, asyncio.TimeoutError):
                    await asyncio.wait_for(self._reader.read(), 1.0)
            return False
        self.component = component
        self.write(self._rpc.accept())
        return True

    async def _on_request(self, request: Request) -> None:
        name, faults = request.operation, self._server.faults
        operation = OPERATIONS.get(name)
        reply = Reply()
        refusal: Refused | None = None
        try:
            if operation is None or name not in self._server.profile.operations:
                text = f"{name} is not offered by this local core" if self._server.profile.error_details else ""
                raise Refused("ServiceError", text)
            async with self._server.turn():
                reply = await operation.handler(self._server.services, self.component, request.body)
        except Refused as error:
            refusal = error
        if faults.reply_delay:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._broken.wait(), faults.reply_delay)
        if faults.withheld[name] > 0:
            faults.withheld[name] -= 1
            return
        if refusal is not None:
            self.write(self._rpc.error(request.stream, refusal.code, refusal.text))
            return
        streaming = reply.subscribe is not None
        self.write(self._rpc.response(request.stream, f"{name}Response", reply.body, more=streaming))
        if reply.subscribe is not None and operation is not None:
            self._subscriptions[request.stream] = reply.subscribe(_Outlet(self, request.stream, operation.event))

    def _unsubscribe(self, stream: int) -> None:
        cancel = self._subscriptions.pop(stream, None)
        if cancel is not None:
            cancel()

    def write(self, data: bytes) -> None:
        """Queue bytes for the peer."""
        if not data or self._writer.transport.is_closing():
            return
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > _MAX_QUEUED:
            log.warning("%s does not read: its connection is cut", self.component)
            self.cut()

    def write_event(self, stream: int, model: str, payload: bytes) -> None:
        """Queue an event of a subscription."""
        self.write(self._rpc.event(stream, model, payload))

    async def writable(self) -> bool:
        """Wait, as long as the profile says, until everything before is with the peer's socket."""
        if self._writer.transport.get_write_buffer_size() == 0:
            return True
        try:
            await asyncio.wait_for(self._writer.drain(), self._server.profile.send_timeout)
        except (asyncio.TimeoutError, OSError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Outlet:
    """A subscription's stream of one session."""

    session: _Session
    stream: int
    model: str

    def send(self, payload: bytes) -> None:
        self.session.write_event(self.stream, self.model, payload)

    async def offer(self, payload: bytes) -> None:
        if self.session._server.profile.send_timeout is not None and not await self.session.writable():
            log.warning("%s does not read: one message for it is dropped", self.session.component)
            return
        self.session.write_event(self.stream, self.model, payload)
