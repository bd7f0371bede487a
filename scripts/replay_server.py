"""A lean OPC UA server that replays notifications made beforehand, as fast as they are wanted: benches measure with it.

    python -m replay_server --kind doubles --port 0

It knows variables `ns=1;i=1`, `ns=1;i=2` … (`--nodes` of them, namespace urn:sluice:replay), accepts everything that
clients ask before they subscribe, and keeps one subscription per session. Nothing is simulated: a notification with a
value for each monitored item is encoded a few times with different values, and is sent with handle, numbers and times
written into it. So the server costs next to nothing, and what is measured is the client. Security policy None.

It is told what to do by lines of JSON on its standard input, and answers on standard output:

    {"port": 4840}                                     it listens
    {"do": "watched"}              {"items": 10000}    items monitored at present
    {"do": "produce", "rate": 30, "seconds": 10}       notifications per second; 0: as many as the client asks for
                                   {"offered": 3000000, "sent": 3000000, "dropped": 0, "sum": 1.5e8, "began": 1234.5}

`offered` counts values that were due, `dropped` those of notifications that did not fit the backlog any more because
the client asked for too little, as the queues of a server drop them; `sum` is that of the numbers sent; `began` is the
monotonic time when the first was due. What still waits at the end is delivered for as long as the client asks for some
within `patience` seconds (5).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import import_module
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ua: Any = import_module("asyncua.ua")
_binary: Any = import_module("asyncua.ua.ua_binary")
_Buffer: Any = import_module("asyncua.common.utils").Buffer

NAMESPACE: Final = "urn:sluice:replay"
KINDS: Final[dict[str, tuple[str, ...]]] = {
    "doubles": ("double",),
    "strings": ("string",),
    "mix": (*["double"] * 12, *["int32"] * 4, *["boolean"] * 2, *["string"] * 2),
}
"""What the variables are, in this order, over and over."""
VARIANTS: Final = 8
"""Notifications that are encoded beforehand, each with other values."""
BACKLOG: Final = 60
"""Notifications that wait for a client before the oldest is dropped."""

_TYPES: Final = {"boolean": 1, "int32": 6, "double": 11, "string": 12}
_FORMS: Final = {"boolean": "?", "int32": "<i", "double": "<d"}
_FILETIME_OF_1970: Final = 116_444_736_000_000_000
_POLICY: Final = b"http://opcfoundation.org/UA/SecurityPolicy#None"
_LARGEST_CHUNK: Final = 65_535
_CHUNK_HEADER: Final = struct.Struct("<4sIIIII")  # type, size, channel, token, sequence number, request
_NO_MATCH: Final = 0x806F0000
_UNKNOWN_NODE: Final = 0x80340000
_UNKNOWN_ATTRIBUTE: Final = 0x80350000
_UNSUPPORTED: Final = 0x800B0000
_UNKNOWN_SUBSCRIPTION: Final = 0x80280000
_NO_SUBSCRIPTION: Final = 0x80790000
_NOT_AVAILABLE: Final = 0x807A0000
_NO_SESSION: Final = 0x80250000
_CURRENT_TIME: Final = 2258
_DATA_CHANGE: Final = b"\x01\x00\x2b\x03\x01"  # DataChangeNotification_Encoding_DefaultBinary, with a body
_MONITORED: Final = struct.Struct("<IIdI3x")  # status, item id, revised interval, revised queue, no filter result


def filetime() -> int:
    """Now, in 100 ns since 1601."""
    return time.time_ns() // 100 + _FILETIME_OF_1970


# --- notifications ---


def kind_of(pattern: Sequence[str], node: int) -> str:
    """What the variable ns=1;i=<node> is."""
    return pattern[(node - 1) % len(pattern)]


@dataclass(slots=True)
class Template:
    """One encoded DataChangeNotification of all items: where its times stand, and the sum of its numbers."""

    body: bytearray
    times: NDArray[np.int64]  # where a pair of times begins, per item
    uniform: int  # size of each item when all have the same; else 0
    sum: float

    def stamped(self, now: int) -> bytes:
        """The notification of this moment."""
        if self.uniform:
            at = {"names": ["at"], "formats": ["(2,)<i8"], "offsets": [self.uniform - 16], "itemsize": self.uniform}
            np.ndarray((len(self.times),), np.dtype(at), self.body, 4)["at"] = now  # type: ignore[call-overload]
        else:
            view = np.frombuffer(self.body, np.uint8)
            view[self.times[:, None] + np.arange(16)] = np.frombuffer(struct.pack("<qq", now, now), np.uint8)
        return bytes(self.body)


def template(items: Sequence[tuple[int, int]], pattern: Sequence[str], seed: int) -> Template:
    """A notification with a value of each (client handle, node)."""
    chance = random.Random(seed)  # noqa: S311 - test data
    parts: list[bytes] = [struct.pack("<i", len(items))]
    times: list[int] = []
    position, total = 4, 0.0
    sizes: set[int] = set()
    for handle, node in items:
        kind = kind_of(pattern, node)
        value: Any
        if kind == "double":
            value = round(chance.gauss(50, 20), 4)
        elif kind == "int32":
            value = chance.randrange(-1000, 1000)
        elif kind == "boolean":
            value = chance.random() < 0.5
        else:
            value = f"phase {chance.randrange(10_000)}: running"
        if isinstance(value, str):
            text = value.encode()
            encoded = struct.pack("<i", len(text)) + text
        else:
            encoded = struct.pack(_FORMS[kind], value)
            total += value
        item = struct.pack("<IBB", handle, 0x0D, _TYPES[kind]) + encoded + bytes(16)
        parts.append(item)
        sizes.add(len(item))
        position += len(item)
        times.append(position - 16)
    parts.append(struct.pack("<i", -1))
    uniform = sizes.pop() if len(sizes) == 1 else 0
    return Template(bytearray(b"".join(parts)), np.array(times, np.int64), uniform, total)


def _part(body: bytes) -> bytes:
    return _DATA_CHANGE + struct.pack("<i", len(body)) + body


# --- sessions ---


@dataclass(slots=True)
class Subscription:
    """A subscription and what waits in it."""

    id: int
    interval: float
    keep_alive: float
    most: int = 0  # values of one notification; 0: any number
    items: dict[int, tuple[int, int]] = field(default_factory=dict)  # item id -> (client handle, node)
    canaries: dict[int, tuple[int, float]] = field(default_factory=dict)  # item id -> (client handle, seconds)
    sequence: int = 1
    due: deque[int] = field(default_factory=deque)  # templates whose notifications wait, by number
    kept: dict[int, bytes] = field(default_factory=dict)  # sent and not acknowledged
    spoke: float = 0.0
    canary_at: float = 0.0


@dataclass(slots=True)
class Session:
    """A session: its subscription, and the publish requests that wait for an answer."""

    token: int
    subscription: Subscription | None = None
    requests: deque[tuple[Link, int, int, int]] = field(default_factory=deque)  # link, request, handle, results


class Server:
    """All sessions, and the production that they watch."""

    def __init__(self, kind: str, nodes: int) -> None:
        self.pattern = KINDS[kind]
        self.nodes = nodes
        self.endpoint = ""
        self.started = datetime.now(timezone.utc)
        self.sessions: dict[int, Session] = {}
        self.offered = self.sent = self.dropped = 0
        self.total = 0.0
        self.flood = False
        self.producing = False
        self._parts: list[list[tuple[int, int]]] = []  # what goes into one notification each
        self._templates: list[Template] = []  # all parts of a variant, then those of the next
        self._next = 1

    def number(self) -> int:
        """A new id."""
        self._next += 1
        return self._next

    @property
    def watched(self) -> int:
        """Items monitored at present."""
        return sum(len(one.subscription.items) for one in self.sessions.values() if one.subscription is not None)

    async def produce(self, rate: float, seconds: float, patience: float = 5.0) -> dict[str, float]:
        """Replay for so many seconds; returns what was due and what was sent of it."""
        session = next(
            (one for one in self.sessions.values() if one.subscription is not None and one.subscription.items), None
        )
        if session is None or session.subscription is None:
            raise RuntimeError("nobody monitors anything: there is nothing to replay")
        subscription = session.subscription
        items = list(subscription.items.values())
        most = subscription.most or len(items)
        self._parts = [items[start : start + most] for start in range(0, len(items), most)]
        self._templates = [template(part, self.pattern, seed) for seed in range(VARIANTS) for part in self._parts]
        self.offered = self.sent = self.dropped = 0
        self.total = 0.0
        self.flood, self.producing = rate <= 0, True
        began = time.monotonic()
        made = 0
        while (elapsed := time.monotonic() - began) < seconds:
            if self.flood:
                while session.requests and time.monotonic() - began < seconds:
                    self._make(subscription, len(items))
                    self.answer(session)
                    await asyncio.sleep(0)
                await asyncio.sleep(0.0005)
                continue
            while made < elapsed * rate:
                made += 1
                self._make(subscription, len(items))
            self.answer(session)
            await asyncio.sleep(max(0.0, made / rate - (time.monotonic() - began)))
        self.flood = self.producing = False
        left, since = len(subscription.due), time.monotonic()
        while subscription.due and time.monotonic() - since < patience:  # what is queued is still delivered
            await asyncio.sleep(0.05)
            if len(subscription.due) < left:
                left, since = len(subscription.due), time.monotonic()
        self.dropped += sum(len(self._templates[number].times) for number in subscription.due)
        subscription.due.clear()
        return {
            "offered": self.offered,
            "sent": self.sent,
            "dropped": self.dropped,
            "sum": self.total,
            "began": began,
        }

    def _make(self, subscription: Subscription, values: int) -> None:
        self.offered += values
        variant = self.offered // values % VARIANTS * len(self._parts)
        subscription.due.extend(range(variant, variant + len(self._parts)))
        while len(subscription.due) > BACKLOG * len(self._parts):
            self.dropped += len(self._templates[subscription.due.popleft()].times)

    def answer(self, session: Session) -> None:
        """Answer publish requests with what there is."""
        subscription = session.subscription
        while subscription is not None and session.requests:
            now = time.monotonic()
            parts: list[bytes] = []
            if subscription.due:
                one = self._templates[subscription.due.popleft()]
                parts.append(_part(one.stamped(filetime())))
                self.sent += len(one.times)
                self.total += one.sum
            if subscription.canaries and now >= subscription.canary_at:
                stamp = filetime()
                rows = [
                    struct.pack("<IBBqqq", handle, 0x0D, 13, stamp, stamp, stamp)
                    for handle, _ in subscription.canaries.values()
                ]
                parts.append(_part(struct.pack("<i", len(rows)) + b"".join(rows) + struct.pack("<i", -1)))
                subscription.canary_at = now + min(every for _, every in subscription.canaries.values())
            if not parts and now - subscription.spoke < subscription.keep_alive:
                return
            subscription.spoke = now
            link, request, handle, results = session.requests.popleft()
            message = struct.pack("<IqI", subscription.sequence, filetime(), len(parts)) + b"".join(parts)
            if parts:
                subscription.kept[subscription.sequence] = message
                if len(subscription.kept) > BACKLOG:
                    del subscription.kept[next(iter(subscription.kept))]
                subscription.sequence = subscription.sequence % (2**32 - 1) + 1
            kept = list(subscription.kept)
            link.send(
                request,
                829,
                handle,
                b"".join(
                    (
                        struct.pack(f"<Ii{len(kept)}I?", subscription.id, len(kept), *kept, bool(subscription.due)),
                        message,
                        struct.pack(f"<i{results}I", results, *[0] * results),
                        struct.pack("<i", -1),
                    )
                ),
            )

    async def tend(self) -> None:
        """Keep-alives and canaries while nothing is produced."""
        while True:
            await asyncio.sleep(0.05)
            for session in list(self.sessions.values()):
                self.answer(session)


# --- reading requests ---


def _skip_text(data: bytes, at: int) -> int:
    length = struct.unpack_from("<i", data, at)[0]
    return int(at + 4 + max(0, length))


def _node(data: bytes, at: int) -> tuple[int, int, int]:
    """(namespace, number; -1: not a number, position behind it)."""
    kind = data[at]
    if kind == 0:
        return 0, data[at + 1], at + 2
    if kind == 1:
        return data[at + 1], data[at + 2] | data[at + 3] << 8, at + 4
    space = data[at + 1] | data[at + 2] << 8
    if kind == 2:
        return space, struct.unpack_from("<I", data, at + 3)[0], at + 7
    return space, -1, at + 19 if kind == 4 else _skip_text(data, at + 3)


def _extension(data: bytes, at: int) -> int:
    at = _node(data, at)[2]
    return _skip_text(data, at + 1) if data[at] else at + 1


def _value_id(data: bytes, at: int) -> tuple[int, int, int, int]:
    """A ReadValueId: (namespace, number, attribute, position behind it)."""
    space, number, at = _node(data, at)
    attribute = struct.unpack_from("<I", data, at)[0]
    return space, number, attribute, _skip_text(data, _skip_text(data, at + 4) + 2)


def _request_header(data: bytes, at: int) -> tuple[int, int, int]:
    """(authentication token, request handle, position behind the header)."""
    _, token, at = _node(data, at)
    handle = struct.unpack_from("<I", data, at + 8)[0]
    return token, handle, _extension(data, _skip_text(data, at + 16) + 4)


class Link(asyncio.Protocol):
    """One connection: chunks to messages, messages to services."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._bytes = bytearray()
        self._parts: list[bytes] = []
        self._sequence = 0
        self._channel = self._token = 0
        self._largest = _LARGEST_CHUNK
        self._services: dict[int, Callable[[Session | None, int, int, bytes, int], None]] = {
            428: self._endpoints,
            461: self._create_session,
            467: self._activate,
            473: self._close,
            631: self._read,
            554: self._translate,
            527: self._browse,
            787: self._subscribe,
            751: self._monitor,
            763: self._modify,
            781: self._unmonitor,
            847: self._unsubscribe,
            826: self._publish,
            832: self._republish,
            799: self._publishing_mode,
            793: self._modify_subscription,
            560: self._register,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(64 * 2**20)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for session in self._server.sessions.values():
            session.requests = deque(one for one in session.requests if one[0] is not self)

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        while len(self._bytes) >= 8:
            size = int.from_bytes(self._bytes[4:8], "little")
            if len(self._bytes) < size:
                return
            chunk = bytes(self._bytes[:size])
            del self._bytes[:size]
            self._take(chunk)

    def _take(self, chunk: bytes) -> None:
        kind = chunk[:3]
        if kind == b"HEL":
            theirs = struct.unpack_from("<I", chunk, 12)[0]
            self._largest = max(8192, min(_LARGEST_CHUNK, theirs))
            body = struct.pack("<IIIII", 0, _LARGEST_CHUNK, _LARGEST_CHUNK, 0, 0)
            self._write(b"ACKF" + struct.pack("<I", 8 + len(body)) + body)
        elif kind == b"OPN":
            self._open(chunk)
        elif kind == b"CLO":
            if self._transport is not None:
                self._transport.close()
        else:
            self._parts.append(chunk[24:])
            if chunk[3:4] != b"F":
                return
            body, self._parts = b"".join(self._parts), []
            self._serve(struct.unpack_from("<I", chunk, 20)[0], body)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _open(self, chunk: bytes) -> None:
        at = 12
        for _ in range(3):
            at = _skip_text(chunk, at)
        request = struct.unpack_from("<I", chunk, at + 4)[0]
        _, handle, at = _request_header(chunk, at + 8 + 4)
        renew = struct.unpack_from("<I", chunk, at + 4)[0] == 1
        lifetime = struct.unpack_from("<I", chunk, _skip_text(chunk, at + 12))[0]
        if not renew:
            self._channel = self._server.number()
        self._token += 1
        answer = struct.pack("<IIIqIi", 0, self._channel, self._token, filetime(), lifetime, 0)
        body = _response(449, handle) + answer
        self._sequence += 1
        security = struct.pack("<i", len(_POLICY)) + _POLICY + struct.pack("<ii", -1, -1)
        head = struct.pack("<II", self._sequence, request)
        size = 12 + len(security) + len(head) + len(body)
        self._write(b"OPNF" + struct.pack("<II", size, self._channel) + security + head + body)

    def send(self, request: int, kind: int, handle: int, body: bytes, status: int = 0) -> None:
        """A response: its type, the request's handle, what follows the header."""
        whole = _response(kind, handle, status) + body
        room = self._largest - 24
        out: list[bytes] = []
        places = [*range(0, len(whole), room), len(whole)]
        for first, last in pairwise(places):
            self._sequence = self._sequence % (2**32 - 1) + 1
            ending = b"MSGF" if last == len(whole) else b"MSGC"
            out += (
                _CHUNK_HEADER.pack(ending, 24 + last - first, self._channel, self._token, self._sequence, request),
                whole[first:last],
            )
        self._write(b"".join(out))

    def _fault(self, request: int, handle: int, status: int) -> None:
        self.send(request, 397, handle, b"", status)

    def _serve(self, request: int, body: bytes) -> None:
        _, kind, at = _node(body, 0)
        token, handle, at = _request_header(body, at)
        service = self._services.get(kind)
        session = self._server.sessions.get(token)
        if service is None:
            self._fault(request, handle, _UNSUPPORTED)
        elif session is None and kind not in (428, 461):
            self._fault(request, handle, _NO_SESSION)
        else:
            service(session, request, handle, body, at)

    # --- services ---

    def _descriptions(self) -> list[Any]:
        endpoint = ua.EndpointDescription()
        endpoint.EndpointUrl = self._server.endpoint
        endpoint.Server = ua.ApplicationDescription()
        endpoint.Server.ApplicationUri = NAMESPACE
        endpoint.Server.ApplicationName = ua.LocalizedText("Replay")
        endpoint.Server.ApplicationType = ua.ApplicationType.Server
        endpoint.Server.DiscoveryUrls = [self._server.endpoint]
        endpoint.SecurityMode = ua.MessageSecurityMode.None_
        endpoint.SecurityPolicyUri = _POLICY.decode()
        endpoint.TransportProfileUri = "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary"
        token = ua.UserTokenPolicy()
        token.PolicyId, token.TokenType = "anonymous", ua.UserTokenType.Anonymous
        endpoint.UserIdentityTokens = [token]
        return [endpoint]

    def _send(self, request: int, handle: int, response: Any) -> None:
        """A response that asyncua encodes."""
        response.ResponseHeader.RequestHandle = handle
        response.ResponseHeader.Timestamp = datetime.now(timezone.utc)
        whole = bytes(_binary.struct_to_binary(response))
        _, kind, at = _node(whole, 0)
        self.send(request, kind, handle, whole[at + 24 :])

    def _endpoints(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        response = ua.GetEndpointsResponse()
        response.Endpoints = self._descriptions()
        self._send(request, handle, response)

    def _create_session(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        parameters = _binary.struct_from_binary(ua.CreateSessionParameters, _Buffer(body[at:]))
        made = Session(self._server.number())
        self._server.sessions[made.token] = made
        response = ua.CreateSessionResponse()
        answer = response.Parameters
        answer.SessionId = ua.NodeId(self._server.number(), 1)
        answer.AuthenticationToken = ua.NodeId(made.token, 1)
        answer.RevisedSessionTimeout = parameters.RequestedSessionTimeout
        answer.ServerNonce = bytes(32)
        answer.ServerEndpoints = self._descriptions()
        self._send(request, handle, response)

    def _activate(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        response = ua.ActivateSessionResponse()
        response.Parameters.ServerNonce = bytes(32)
        self._send(request, handle, response)

    def _close(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        assert session is not None
        if body[at]:
            self._server.sessions.pop(session.token, None)
        self.send(request, 476, handle, b"")

    def _read(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        count = struct.unpack_from("<i", body, at + 12)[0]
        at += 16
        answers: list[bytes] = []
        for _ in range(count):
            space, number, attribute, at = _value_id(body, at)
            answers.append(self._attribute(space, number, attribute))
        self.send(request, 634, handle, struct.pack("<i", count) + b"".join(answers) + struct.pack("<i", -1))

    def _attribute(self, space: int, number: int, attribute: int) -> bytes:
        """A DataValue without times."""
        server = self._server
        if space == 0:
            if attribute == 13 and number == 2255:
                spaces = [b"http://opcfoundation.org/UA/", NAMESPACE.encode()]
                texts = b"".join(struct.pack("<i", len(one)) + one for one in spaces)
                return b"\x01\x8c" + struct.pack("<i", len(spaces)) + texts
            if attribute == 13 and number == 2254:
                texts = struct.pack("<i", len(NAMESPACE)) + NAMESPACE.encode()
                return b"\x01\x8c" + struct.pack("<i", 1) + texts
            if attribute == 13 and number == 2257:
                started = int(server.started.timestamp() * 10_000_000) + _FILETIME_OF_1970
                return b"\x01\x0d" + struct.pack("<q", started)
            if attribute == 13 and number == _CURRENT_TIME:
                return b"\x01\x0d" + struct.pack("<q", filetime())
            if attribute == 13 and number == 2259:
                return b"\x01\x06" + struct.pack("<i", 0)
            return b"\x02" + struct.pack("<I", _UNKNOWN_NODE)
        if space != 1 or not 1 <= number <= server.nodes:
            return b"\x02" + struct.pack("<I", _UNKNOWN_NODE)
        kind = kind_of(server.pattern, number)
        if attribute == 14:  # DataType
            return b"\x01\x11\x00" + bytes([_TYPES[kind]])
        if attribute == 15:  # ValueRank
            return b"\x01\x06" + struct.pack("<i", -1)
        if attribute in (17, 18):  # AccessLevel, UserAccessLevel: to be read, without history
            return b"\x01\x03\x01"
        if attribute == 20:  # Historizing
            return b"\x01\x01\x00"
        if attribute == 2:  # NodeClass
            return b"\x01\x06" + struct.pack("<i", 2)
        if attribute == 13:
            encoded = struct.pack("<i", 0) if kind == "string" else struct.pack(_FORMS[kind], 0)
            return b"\x01" + bytes([_TYPES[kind]]) + encoded
        return b"\x02" + struct.pack("<I", _UNKNOWN_ATTRIBUTE)

    def _translate(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        """No variable has properties."""
        count = struct.unpack_from("<i", body, at)[0]
        answers = struct.pack("<Ii", _NO_MATCH, 0) * count
        self.send(request, 557, handle, struct.pack("<i", count) + answers + struct.pack("<i", -1))

    def _browse(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        """No node has references."""
        at = _node(body, at)[2] + 12 + 4  # the view, then how many references at most
        count = struct.unpack_from("<i", body, at)[0]
        answers = struct.pack("<Iii", 0, -1, 0) * count
        self.send(request, 530, handle, struct.pack("<i", count) + answers + struct.pack("<i", -1))

    def _register(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        """Registered nodes keep their ids."""
        self.send(request, 563, handle, body[at:])

    def _subscribe(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        assert session is not None
        interval, lifetime, keep_alive, most, _, _ = struct.unpack_from("<dIII?B", body, at)
        interval = max(interval, 10.0)
        made = Subscription(self._server.number(), interval / 1000, interval / 1000 * keep_alive, most)
        session.subscription = made
        self.send(request, 790, handle, struct.pack("<IdII", made.id, interval, lifetime, keep_alive))

    def _modify_subscription(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        _, interval, lifetime, keep_alive = struct.unpack_from("<IdII", body, at)
        self.send(request, 796, handle, struct.pack("<dII", interval, lifetime, keep_alive))

    def _publishing_mode(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        count = struct.unpack_from("<i", body, at + 1)[0]
        self.send(request, 802, handle, struct.pack(f"<i{count}Ii", count, *[0] * count, -1))

    def _unsubscribe(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        assert session is not None
        count = struct.unpack_from("<i", body, at)[0]
        session.subscription = None
        self.send(request, 850, handle, struct.pack(f"<i{count}Ii", count, *[0] * count, -1))

    def _monitor(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        assert session is not None
        wanted, _, count = struct.unpack_from("<IIi", body, at)
        subscription = session.subscription
        if subscription is None or subscription.id != wanted:
            self._fault(request, handle, _UNKNOWN_SUBSCRIPTION)
            return
        at += 12
        results: list[bytes] = []
        for _ in range(count):
            space, number, _, at = _value_id(body, at)
            client, interval = struct.unpack_from("<Id", body, at + 4)
            at = _extension(body, at + 16)
            queue = max(1, struct.unpack_from("<I", body, at)[0])
            at += 5
            item = self._server.number()
            if space == 1 and 1 <= number <= self._server.nodes:
                subscription.items[item] = (client, number)
            elif space == 0 and number == _CURRENT_TIME:
                subscription.canaries[item] = (client, max(0.5, interval / 1000))
            else:
                results.append(_MONITORED.pack(_UNKNOWN_NODE, 0, 0.0, 0))
                continue
            results.append(_MONITORED.pack(0, item, interval, queue))
        self.send(request, 754, handle, struct.pack("<i", count) + b"".join(results) + struct.pack("<i", -1))

    def _modify(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        count = struct.unpack_from("<i", body, at + 8)[0]
        at += 12
        results: list[bytes] = []
        for _ in range(count):
            interval = struct.unpack_from("<d", body, at + 8)[0]
            at = _extension(body, at + 16)
            results.append(struct.pack("<IdI3x", 0, interval, max(1, struct.unpack_from("<I", body, at)[0])))
            at += 5
        self.send(request, 766, handle, struct.pack("<i", count) + b"".join(results) + struct.pack("<i", -1))

    def _unmonitor(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        assert session is not None
        count = struct.unpack_from("<i", body, at + 4)[0]
        for item in struct.unpack_from(f"<{count}I", body, at + 8):
            if session.subscription is not None:
                session.subscription.items.pop(item, None)
                session.subscription.canaries.pop(item, None)
        self.send(request, 784, handle, struct.pack(f"<i{count}Ii", count, *[0] * count, -1))

    def _publish(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        assert session is not None
        subscription = session.subscription
        if subscription is None:
            self._fault(request, handle, _NO_SUBSCRIPTION)
            return
        count = max(0, struct.unpack_from("<i", body, at)[0])
        for place in range(count):
            subscription.kept.pop(struct.unpack_from("<I", body, at + 8 + 8 * place)[0], None)
        session.requests.append((self, request, handle, count))
        self._server.answer(session)

    def _republish(self, session: Session | None, request: int, handle: int, body: bytes, at: int) -> None:
        assert session is not None
        _, number = struct.unpack_from("<II", body, at)
        kept = None if session.subscription is None else session.subscription.kept.get(number)
        if kept is None:
            self._fault(request, handle, _NOT_AVAILABLE)
        else:
            self.send(request, 835, handle, kept)


def _response(kind: int, handle: int, status: int = 0) -> bytes:
    """Type id and ResponseHeader: no diagnostics, no texts, nothing additional."""
    return struct.pack("<BBHqIIBiBBB", 1, 0, kind, filetime(), handle, status, 0, -1, 0, 0, 0)


async def serve(kind: str, nodes: int, port: int) -> None:
    """Listen, and do what standard input says, until that ends."""
    loop = asyncio.get_running_loop()
    server = Server(kind, nodes)
    listening = await loop.create_server(lambda: Link(server), "127.0.0.1", port)
    port = listening.sockets[0].getsockname()[1]
    server.endpoint = f"opc.tcp://127.0.0.1:{port}"
    tending = asyncio.create_task(server.tend())
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"port": port}), flush=True)
    while line := await reader.readline():
        order = json.loads(line)
        answer: dict[str, Any]
        if order["do"] == "produce":
            try:
                patience = float(order.get("patience", 5.0))
                answer = await server.produce(float(order["rate"]), float(order["seconds"]), patience)
            except RuntimeError as error:
                answer = {"error": str(error)}
        else:
            answer = {"items": server.watched}
        print(json.dumps(answer), flush=True)
    tending.cancel()
    listening.close()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="replay_server", description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=sorted(KINDS), default="doubles")
    parser.add_argument("--nodes", type=int, default=100_000, help="how many variables there are")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(serve(options.kind, options.nodes, options.port))


if __name__ == "__main__":
    main()
