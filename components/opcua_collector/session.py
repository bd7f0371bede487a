"""A session with one server: the I/O shell around asyncua's channel, session and encryption.

Of asyncua's client only the steps of connecting are used. Its watchdog, its publish loop, its reconnecting and its
subscription objects are not: they lose data where ours must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlparse

from opcua_collector.browse import in_batches
from opcua_collector.config import Connection
from opcua_collector.problems import TroubleError
from opcua_collector.security import Choice, OwnCertificate, check_server, choose, needs_trust, own_certificate
from opcua_collector.stack import Buffer, Client, NodeId, StackSession, UaError, crypto, policies, ua
from sluice.log import Secret
from sluice.tasks import within

SESSION_TIMEOUT: Final = 60.0
"""Seconds after which the server forgets a session whose client is gone: short, because small servers have five."""
CHANNEL_LIFETIME: Final = 600.0
_LARGEST_MESSAGE: Final = 64 * 2**20
_CLOSING: Final = 1.5  # seconds that saying goodbye may take
_DEFAULT_PORT: Final = 4840


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are to servers: the folder of our certificate, and names that do not change."""

    folder: Path
    application_uri: str
    name: str = "Sluice OPC UA collector"


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A subscription as the server made it."""

    id: int
    interval: float  # seconds
    keep_alive_count: int
    lifetime_count: int


@dataclass(frozen=True, slots=True)
class Wish:
    """A monitored item to create."""

    node: NodeId
    handle: int
    sampling: float  # seconds
    queue: int


@dataclass(frozen=True, slots=True)
class Monitored:
    """What the server made of a wish."""

    status: int
    id: int = 0
    sampling: float = 0.0
    queue: int = 0


@dataclass(slots=True)
class Session:
    """An activated session. Made by `connect`; ended by `close`."""

    stack: StackSession
    policy: str
    _client: Any
    _renewal: asyncio.Task[None] | None = field(default=None)

    async def publish(self, acknowledge: Sequence[tuple[int, int]]) -> tuple[bytes, int]:
        """One PublishRequest that acknowledges (subscription, number) pairs: (response, its start). Waits for ever."""
        request = ua.PublishRequest()
        request.Parameters.SubscriptionAcknowledgements = [
            ua.SubscriptionAcknowledgement(SubscriptionId=subscription, SequenceNumber=number)
            for subscription, number in acknowledge
        ]
        buffer: Buffer = await self.stack._send_request(request, timeout=0)
        return buffer._data, buffer.cur_pos

    async def subscribe(self, interval: float, keep_alive_count: int, lifetime_count: int, most: int) -> Subscribed:
        """CreateSubscription; all counts are said, because the defaults of asyncua suit nobody."""
        parameters = ua.CreateSubscriptionParameters()
        parameters.RequestedPublishingInterval = interval * 1000
        parameters.RequestedMaxKeepAliveCount = keep_alive_count
        parameters.RequestedLifetimeCount = lifetime_count
        parameters.MaxNotificationsPerPublish = most
        parameters.PublishingEnabled = True
        result = await self.stack.create_subscription(parameters, lambda _: None)
        return Subscribed(
            int(result.SubscriptionId),
            float(result.RevisedPublishingInterval) / 1000,
            int(result.RevisedMaxKeepAliveCount),
            int(result.RevisedLifetimeCount),
        )

    async def monitor(self, subscription: int, wishes: Sequence[Wish], batch: int) -> list[Monitored]:
        """CreateMonitoredItems for the values of nodes, `batch` at a time; one answer per wish."""

        async def ask(some: Sequence[Wish]) -> Sequence[Monitored]:
            parameters = ua.CreateMonitoredItemsParameters()
            parameters.SubscriptionId = subscription
            parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
            parameters.ItemsToCreate = [_item(wish) for wish in some]
            return [
                Monitored(
                    int(result.StatusCode.value),
                    int(result.MonitoredItemId),
                    float(result.RevisedSamplingInterval) / 1000,
                    int(result.RevisedQueueSize),
                )
                for result in await self.stack.create_monitored_items(parameters)
            ]

        return await in_batches(wishes, batch, ask)

    async def unmonitor(self, subscription: int, items: Sequence[int], batch: int) -> None:
        """DeleteMonitoredItems. Items that are gone already are no error."""

        async def ask(some: Sequence[int]) -> Sequence[Any]:
            parameters = ua.DeleteMonitoredItemsParameters()
            parameters.SubscriptionId = subscription
            parameters.MonitoredItemIds = list(some)
            return list(await self.stack.delete_monitored_items(parameters))

        await in_batches(items, batch, ask)

    async def close(self, *, politely: bool) -> None:
        """End the session; politely: tell the server, so that session and subscription end now. Never raises."""
        if self._renewal is not None:
            self._renewal.cancel()
        if politely:
            with contextlib.suppress(Exception):
                await within(_CLOSING, self.stack.close_session(True))
            with contextlib.suppress(Exception):
                await within(_CLOSING, self._client.uaclient.close_secure_channel())
        with contextlib.suppress(Exception):
            self._client.uaclient.disconnect_socket()


async def connect(name: str, settings: Connection, identity: Identity, password: Secret | None) -> Session:
    """Channel, session, activation. Raises TroubleError, OSError, TimeoutError or asyncua's UaError."""
    choice = Choice("None", ua.MessageSecurityMode.None_, b"")
    own: OwnCertificate | None = None
    if needs_trust(settings.security):
        own = own_certificate(identity.folder, identity.application_uri)
        choice = choose(settings.security, await _endpoints(settings))
        check_server(identity.folder, name, settings.security.trust, choice.server, datetime.now(timezone.utc))
    _check_password(settings, choice, token_policy=None)
    client = _client(settings)
    client.name = client.description = f"{identity.name} {name}"
    client.application_uri = own.uri if own is not None else identity.application_uri
    client.session_timeout = int(SESSION_TIMEOUT * 1000)
    client.secure_channel_timeout = int(CHANNEL_LIFETIME * 1000)
    if own is not None:
        await client.set_security(
            policies.SecurityPolicyBasic256Sha256,
            own.path,
            own.key_path,
            server_certificate=crypto.CertProperties(choice.server, "der"),
            mode=choice.mode,
        )
    try:
        await _open_channel(client)
        await client.create_session()
        user = settings.user
        if user is not None:
            token = client.server_policy(ua.UserTokenType.UserName)
            _check_password(settings, choice, token.SecurityPolicyUri or "")
        plain = password.reveal() if password is not None else None
        await client.activate_session(username=user.name if user else None, password=plain)
    except BaseException:
        client.uaclient.disconnect_socket()
        raise
    stack: StackSession = client.uaclient.session
    stack.ensure_publish_loop = lambda: None  # ours runs instead
    session = Session(stack, f"{choice.policy}/{choice.mode.name.rstrip('_')}", client)
    session._renewal = asyncio.create_task(_renew(client))
    return session


def _client(settings: Connection) -> Any:
    client = Client(settings.endpoint, timeout=settings.request_timeout, auto_reconnect=False)
    if client.server_url.port is None:
        parts = urlparse(settings.endpoint)
        client._server_url = parts._replace(netloc=f"{parts.netloc}:{_DEFAULT_PORT}")
    return client


async def _open_channel(client: Any) -> None:
    await client.connect_socket()
    _watch_line(client)
    acknowledge = await client.uaclient.send_hello(client.server_url.geturl(), 0, 0)
    _set_buffer_sizes(client, acknowledge)
    await client.open_secure_channel()


def _watch_line(client: Any) -> None:
    """Have the kernel notice a dead line as well, where it can."""
    line = client.uaclient.protocol.transport.get_extra_info("socket")
    if line is None:
        return
    with contextlib.suppress(OSError, AttributeError):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)


def _set_buffer_sizes(client: Any, acknowledge: Any) -> None:
    """What the server receives is what we may send, and the other way round (Part 6, 7.1.2.4).

    asyncua takes the two for each other, and disconnects from servers whose buffers differ in size.
    """
    limits = client.uaclient.protocol._connection._limits
    limits.max_recv_buffer = acknowledge.SendBufferSize
    limits.max_send_buffer = acknowledge.ReceiveBufferSize
    limits.max_message_size = _LARGEST_MESSAGE
    limits.max_chunk_count = 0


async def _endpoints(settings: Connection) -> list[Any]:
    """What the server offers, asked over an open channel: it is only believed together with the certificate."""
    client = _client(settings)
    try:
        await _open_channel(client)
        return list(await client.get_endpoints())
    finally:
        with contextlib.suppress(Exception):
            await within(_CLOSING, client.uaclient.close_secure_channel())
        client.uaclient.disconnect_socket()


def _check_password(settings: Connection, choice: Choice, token_policy: str | None) -> None:
    """No password where others can read it, unless wanted. `token_policy`: what the server asks for, once known."""
    user = settings.user
    if user is None or user.password is None or user.allow_unencrypted:
        return
    if choice.policy == "None":
        raise TroubleError(
            "user.password",
            None,
            "is not sent, because the channel has no protection (security.policy None) and anyone could read it",
            "set security.policy to auto, or set user.allowUnencrypted to true to send it all the same",
        )
    open_token = token_policy is not None and token_policy in ("", "http://opcfoundation.org/UA/SecurityPolicy#None")
    if open_token and choice.mode != ua.MessageSecurityMode.SignAndEncrypt:
        raise TroubleError(
            "user.password",
            None,
            "is not sent, because the channel is only signed and the server takes passwords unencrypted",
            "set security.mode to SignAndEncrypt, or set user.allowUnencrypted to true to send it all the same",
        )


def _item(wish: Wish) -> Any:
    parameters = ua.MonitoringParameters()
    parameters.ClientHandle = wish.handle
    parameters.SamplingInterval = wish.sampling * 1000
    parameters.QueueSize = wish.queue
    parameters.DiscardOldest = True
    request = ua.MonitoredItemCreateRequest()
    request.ItemToMonitor = ua.ReadValueId(NodeId=wish.node, AttributeId=ua.AttributeIds.Value)
    request.MonitoringMode = ua.MonitoringMode.Reporting
    request.RequestedParameters = parameters
    return request


async def _renew(client: Any) -> None:
    """A new security token after 75 % of its lifetime (Part 4, 5.5.2.1)."""
    try:
        while True:
            await asyncio.sleep(client.secure_channel_timeout / 1000 * 0.75)
            await client.open_secure_channel(renew=True)
            client.uaclient.revolve_security_token()
    except (UaError, OSError, asyncio.TimeoutError):
        client.uaclient.disconnect_socket()  # what waits for an answer then fails, and all is made anew
