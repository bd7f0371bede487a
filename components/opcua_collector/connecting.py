"""From an endpoint to an activated session: line, secure channel, session, with what asyncua's client offers for it.

Its watchdog, its publish loop, its reconnecting and its subscription objects are not used: they lose data where ours
must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlparse

from opcua_collector.config import Connection
from opcua_collector.problems import TroubleError
from opcua_collector.security import Choice, OwnCertificate, check_server, choose, needs_trust, own_certificate
from opcua_collector.session import Session, Ticket
from opcua_collector.stack import (
    Client,
    StackSession,
    UaError,
    UaStatusCodeError,
    crypto,
    policies,
    read_node,
    ua,
    write_node,
)
from sluice.log import Secret
from sluice.tasks import within

SESSION_TIMEOUT: Final = 90.0
"""Seconds after which the server forgets a session whose client is gone: as long as the subscription lives without us,
and no longer, because small servers have five."""
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


async def connect(
    name: str, settings: Connection, identity: Identity, password: Secret | None, ticket: Ticket | None = None
) -> Session:
    """Channel, session, activation: of the ticket's session while the server has it, else of a new one.

    Raises TroubleError, OSError, TimeoutError or asyncua's UaError; TicketError when it was the old session over which
    the line was lost.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    choice = Choice("None", ua.MessageSecurityMode.None_, b"")
    own: OwnCertificate | None = None
    if needs_trust(settings.security):
        own = own_certificate(identity.folder, identity.application_uri)
        choice = choose(settings.security, await _endpoints(settings))
        check_server(identity.folder, name, settings.security.trust, choice.server, datetime.now(timezone.utc))
        if ticket is not None and ticket.certificate != choice.server.hex():
            ticket = None
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
        opened = clock()
        resumed = ticket is not None and await _activate_again(client, settings, password, ticket)
        server = "" if resumed else await _new_session(client, settings, choice, password)
    except BaseException:
        client.uaclient.disconnect_socket()
        raise
    stack: StackSession = client.uaclient.session
    stack.ensure_publish_loop = lambda: None  # ours runs instead
    session = Session(
        stack=stack,
        policy=f"{choice.policy}/{choice.mode.name.rstrip('_')}",
        resumed=resumed,
        server=server,
        ticket=_ticket(client, settings),
        channel_seconds=opened - began,
        session_seconds=clock() - opened,
        _client=client,
    )
    session._renewal = asyncio.create_task(_renew(client))
    return session


class TicketError(ConnectionError):
    """The server broke the line off when it was shown the ticket: some do so in the place of an answer."""


async def _activate_again(client: Any, settings: Connection, password: Secret | None, ticket: Ticket) -> bool:
    """Whether the server still has the ticket's session, and it is ours again."""
    stack = client.uaclient.session
    stack.restore_authentication_token(read_node(ticket.token))
    client._server_nonce = bytes.fromhex(ticket.nonce)
    believed = client.security_policy.peer_certificate
    client.security_policy.peer_certificate = believed or bytes.fromhex(ticket.certificate)  # encrypts a password
    kind = _token_kind(settings)
    policy = ua.UserTokenPolicy(PolicyId=ticket.policy_id, TokenType=kind, SecurityPolicyUri=ticket.policy_uri)
    client._policy_ids = [policy]
    try:
        await _activate(client, settings, password)
    except UaStatusCodeError:  # the session is gone, or a ticket that has been used since: its nonce is stale
        stack.reset_authentication_token()
        client._server_nonce = None
        client.security_policy.peer_certificate = believed
        return False
    except (OSError, UaError, asyncio.TimeoutError) as error:
        raise TicketError(str(error) or type(error).__name__) from error
    return True


async def _new_session(client: Any, settings: Connection, choice: Choice, password: Secret | None) -> str:
    """CreateSession and ActivateSession; the server's application URI."""
    created = await client.create_session()
    try:
        if settings.user is not None:
            token = client.server_policy(ua.UserTokenType.UserName)
            _check_password(settings, choice, token.SecurityPolicyUri or "")
        await _activate(client, settings, password)
    except (UaError, TroubleError):  # else each try with a wrong password costs a small server one of its sessions
        with contextlib.suppress(Exception):
            await within(_CLOSING, client.uaclient.session.close_session(True))
        raise
    uris = [description.Server.ApplicationUri for description in created.ServerEndpoints or ()]
    return str(uris[0] or "") if uris else ""


async def _activate(client: Any, settings: Connection, password: Secret | None) -> None:
    plain = password.reveal() if password is not None else None
    await client.activate_session(username=settings.user.name if settings.user else None, password=plain)


def _token_kind(settings: Connection) -> Any:
    return ua.UserTokenType.Anonymous if settings.user is None else ua.UserTokenType.UserName


def _ticket(client: Any, settings: Connection) -> Ticket:
    policy = client.server_policy(_token_kind(settings))
    return Ticket(
        write_node(client.uaclient.session.authentication_token),
        (client._server_nonce or b"").hex(),
        (client.security_policy.peer_certificate or b"").hex(),
        policy.PolicyId,
        policy.SecurityPolicyUri,
    )


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


async def _renew(client: Any) -> None:
    """A new security token after 75 % of its lifetime (Part 4, 5.5.2.1)."""
    try:
        while True:
            await asyncio.sleep(client.secure_channel_timeout / 1000 * 0.75)
            await client.open_secure_channel(renew=True)
            client.uaclient.revolve_security_token()
    except (UaError, OSError, asyncio.TimeoutError):
        client.uaclient.disconnect_socket()  # what waits for an answer then fails, and all is made anew
