"""From an endpoint to an activated session: line, secure channel, session, with what asyncua's client offers for it.

Its watchdog, its publish loop, its reconnecting and its subscription objects are not used: they lose data where ours
must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlparse

from cryptography.exceptions import InvalidSignature

from opcua_collector.config import PASSWORD_IN_THE_OPEN, Connection
from opcua_collector.load import Pace
from opcua_collector.problems import ChannelRefusedError, TroubleError, refused, refuses_us
from opcua_collector.security.certificates import Certificates
from opcua_collector.security.own import Candidates, OwnCertificate, OwnCertificates
from opcua_collector.security.policy import (
    BEFORE_CHOICE,
    NO_POLICY,
    POLICIES,
    UNPROTECTED,
    Choice,
    Policies,
    choose,
    confirm,
    needs_trust,
    offered,
)
from opcua_collector.security.trust import Believed, believe
from opcua_collector.security.user import UNPROTECTED_TOKENS, User, by_strength, token_kind, user_of
from opcua_collector.services.session import Session, Ticket
from opcua_collector.stack import (
    Client,
    StackSession,
    UaError,
    UaStatusCodeError,
    crypto,
    read_node,
    ua,
    write_node,
)
from opcua_collector.subscriptions.timing import session_timeout
from sluice.log import Secret
from sluice.tasks import within

logger = logging.getLogger(__name__)
T = TypeVar("T")

CHANNEL_LIFETIME: Final = 600.0
_LARGEST_MESSAGE: Final = 64 * 2**20
_CLOSING: Final = 1.5  # seconds that saying goodbye may take
_DEFAULT_PORT: Final = 4840


@dataclass(frozen=True)
class Identity:
    """Who we are to servers: the folder of our certificate, and names that do not change. One for all connections."""

    folder: Path
    application_uri: str
    name: str = "Sluice OPC UA collector"
    own: OwnCertificates = field(init=False, repr=False, compare=False)
    policies: Policies = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "own", OwnCertificates(self.folder, self.application_uri))
        object.__setattr__(self, "policies", Policies(self.folder))


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to a session: how the channel is opened, and as whom."""

    choice: Choice
    own: OwnCertificate | None
    ticket: Ticket | None
    fresh: bool  # a new session may be made this way, where the ticket's is gone
    expected: str = ""  # the policy that this connection has had


async def connect(
    name: str, settings: Connection, identity: Identity, credentials: Secret | None, ticket: Ticket | None = None
) -> Session:
    """Channel, session, activation: of the ticket's session while the server has it, else of a new one.

    credentials: the user's password, or the private key (PEM) of the user's certificate.

    Raises TroubleError, OSError, TimeoutError or asyncua's UaError; TicketError when it was the old session over which
    the line was lost.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    user = await asyncio.to_thread(user_of, settings, credentials)
    folder = identity.folder
    if not needs_trust(settings.security):
        _check_password(settings, UNPROTECTED, token_policy=None)
        found = await _take(name, settings, identity, user, _Way(UNPROTECTED, None, ticket, fresh=True), began)
        assert found is not None
        found._certificates = Certificates()
        return found
    endpoints = await _endpoints(settings)
    before = await _on_disk(folder, identity.policies.had, name, settings.endpoint)
    best = choose(settings.security, endpoints, before)
    now = datetime.now(timezone.utc)
    host = urlparse(settings.endpoint).hostname or ""
    look = partial(believe, folder, name, settings.security, best.chain, host=host, uri=best.uri, now=now)
    believed = await _on_disk(folder, look)
    candidates = await _on_disk(folder, identity.own.candidates, name, now)
    if ticket is not None and ticket.certificate != believed.der.hex():
        ticket = None
    errors: dict[str, BaseException] = {}  # by the thumbprint that the server was shown
    for way in _ways(best, offered(settings.security, endpoints), believed, candidates, ticket, before):
        assert way.own is not None
        try:
            session = await _take(name, settings, identity, user, way, began)
        except (UaError, OSError, asyncio.TimeoutError) as refusal:
            another = way.own.thumbprint != candidates.certificates[-1].thumbprint
            if not (refuses_us(refusal) or (another and _ends_the_line(refusal))):
                raise
            errors[way.own.thumbprint] = refusal
            logger.info("Connection %s: the server refuses our certificate %s", name, way.own.thumbprint)
            continue
        if session is None:
            continue
        try:
            if not session.resumed:
                await _on_disk(folder, identity.own.took, name, way.own, candidates)
            await _on_disk(folder, identity.policies.used, name, settings.endpoint, way.choice.policy)
        except BaseException:  # nobody else knows the session yet
            await session.close(politely=False)
            raise
        session._certificates = Certificates(
            way.own.expires,
            believed.expires,
            (*candidates.warnings_with(way.own), *believed.warnings),
            candidates.later(way.own),
        )
        return session
    # Of two that it does not take it is the next one that the server has to trust: the other one ends soon.
    wanted = next(one for one in candidates.certificates if refuses_us(errors[one.thumbprint]))
    error = errors[wanted.thumbprint]
    raise refused(error, str(wanted.path), wanted.thumbprint) from error


def _ends_the_line(error: BaseException) -> bool:
    """Whether a server that was shown our next certificate has ended the line, or is silent: the old one may do."""
    silent = isinstance(error, (ConnectionError, asyncio.TimeoutError))
    return silent and not isinstance(error, TicketError)


async def _on_disk(folder: Path, work: Callable[..., T], *arguments: Any) -> T:
    """What `work` gives, which reads or writes below `folder`. Raises TroubleError where the disk stands in the way."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except OSError as error:
        raise TroubleError(
            "security",
            str(error.filename or folder),
            f"cannot be read or written: {error.strerror or error}",
            f"see the disk, and that {folder} belongs to the user who runs the component",
        ) from error


def _ways(
    best: Choice,
    offers: Sequence[Choice],
    believed: Believed,
    candidates: Candidates,
    ticket: Ticket | None,
    before: str,
) -> list[_Way]:
    """The ways to try, in their order.

    A session comes back only with the policy and the certificate of ours that it was made with (Part 4, 5.6.3).
    """
    ways = [_Way(best, own, None, fresh=True, expected=before) for own in candidates.certificates]
    if ticket is None:
        return ways
    own = candidates.by_thumbprint(ticket.own)
    label = ticket.policy or f"{BEFORE_CHOICE}/{best.mode.name}"
    choice = next((one for one in offers if one.label == label and one.server == believed.der), None)
    if own is None or choice is None:
        return ways
    if (label, own) == (best.label, candidates.certificates[0]):
        return [replace(ways[0], ticket=ticket), *ways[1:]]
    return [_Way(choice, own, ticket, fresh=False, expected=before), *ways]


async def _take(
    name: str, settings: Connection, identity: Identity, user: User, way: _Way, began: float
) -> Session | None:
    """A session by this way; None when the ticket's is gone and a new one is not to be made this way."""
    clock = asyncio.get_running_loop().time
    own, choice = way.own, way.choice
    client = _client(settings)
    client.name = client.description = f"{identity.name} {name}"
    client.application_uri = own.uri if own is not None else identity.application_uri
    client.session_timeout = int(session_timeout(settings) * 1000)
    client.secure_channel_timeout = int(CHANNEL_LIFETIME * 1000)
    if own is not None:
        await client.set_security(
            POLICIES[choice.policy],
            crypto.CertProperties(own.der, "der"),
            crypto.CertProperties(own.key, "pem"),
            server_certificate=crypto.CertProperties(choice.server, "der"),
            mode=choice.mode,
            certificate_chain=[crypto.CertProperties(der, "der") for der in own.chain],
        )
    try:
        await _open_channel(client)
        opened = clock()
        resumed = way.ticket is not None and await _activate_again(client, settings, user, way.ticket)
        if not (resumed or way.fresh):
            client.uaclient.disconnect_socket()
            return None
        server = "" if resumed else await _new_session(client, settings, way, user)
    except BaseException:
        client.uaclient.disconnect_socket()
        raise
    finally:
        client.user_private_key = None
    stack: StackSession = client.uaclient.session
    stack.ensure_publish_loop = lambda: None  # ours runs instead
    session = Session(
        stack=stack,
        policy=choice.label,
        resumed=resumed,
        server=server,
        ticket=_ticket(client, settings, way),
        channel_seconds=opened - began,
        session_seconds=clock() - opened,
        _client=client,
        pace=Pace.over(stack, settings.load),
    )
    session._renewal = asyncio.create_task(_renew(client))
    return session


class TicketError(ConnectionError):
    """The server broke the line off when it was shown the ticket: some do so in the place of an answer."""


async def _activate_again(client: Any, settings: Connection, user: User, ticket: Ticket) -> bool:
    """Whether the server still has the ticket's session, and it is ours again."""
    stack = client.uaclient.session
    stack.restore_authentication_token(read_node(ticket.token))
    client._server_nonce = bytes.fromhex(ticket.nonce)
    believed = client.security_policy.peer_certificate
    client.security_policy.peer_certificate = believed or bytes.fromhex(ticket.certificate)  # encrypts a password
    kind = user.token_kind
    policy = ua.UserTokenPolicy(PolicyId=ticket.policy_id, TokenType=kind, SecurityPolicyUri=ticket.policy_uri)
    client._policy_ids = [policy]
    try:
        await _activate(client, user)
    except UaStatusCodeError:  # the session is gone, or a ticket that has been used since: its nonce is stale
        stack.reset_authentication_token()
        client._server_nonce = None
        client.security_policy.peer_certificate = believed
        return False
    except (OSError, UaError, asyncio.TimeoutError) as error:
        raise TicketError(str(error) or type(error).__name__) from error
    return True


async def _new_session(client: Any, settings: Connection, way: _Way, user: User) -> str:
    """CreateSession and ActivateSession; the server's application URI."""
    created = await _create_session(client)
    try:
        descriptions = list(created.ServerEndpoints or ())
        if way.own is not None:
            confirm(way.choice, settings.security, descriptions, way.expected)
        client._policy_ids = by_strength(client._policy_ids or ())
        token = client.server_policy(user.token_kind)
        _check_password(settings, way.choice, token.SecurityPolicyUri or "")
        user.check_token(client._policy_ids, token)
        await _activate(client, user)
    except (UaError, TroubleError):  # else each try with a wrong password costs a small server one of its sessions
        with contextlib.suppress(Exception):
            await within(_CLOSING, client.uaclient.session.close_session(True))
        raise
    uris = [description.Server.ApplicationUri for description in descriptions]
    return str(uris[0] or "") if uris else ""


async def _create_session(client: Any) -> Any:
    try:
        return await client.create_session()
    except UaStatusCodeError:
        raise
    except (AttributeError, TypeError) as error:  # it looks into lists that the server has left out
        raise TroubleError(
            "endpoint",
            client.server_url.geturl(),
            "makes a session without saying with which security it is",
            "look into the server's manual or log, and for a newer version of it",
        ) from error
    except (UaError, InvalidSignature) as error:
        # asyncua's words for: another certificate, no endpoint of the kind that the channel has, a wrong signature.
        what = str(error) or "its signature is wrong"
        raise TroubleError(
            "security",
            None,
            f"failed: the server does not prove within the session that it is who it was said to be: {what[:200]}",
            "find out who is between gateway and server; if the server was just set up anew, the next try succeeds",
        ) from error


async def _activate(client: Any, user: User) -> None:
    client.user_private_key = user.key
    client.user_certificate_chain = list(user.chain)
    plain = user.password.reveal() if user.password is not None else None
    await client.activate_session(username=user.name or None, password=plain, certificate=user.certificate)


def _ticket(client: Any, settings: Connection, way: _Way) -> Ticket:
    policy = client.server_policy(token_kind(settings))
    return Ticket(
        write_node(client.uaclient.session.authentication_token),
        (client._server_nonce or b"").hex(),
        (client.security_policy.peer_certificate or b"").hex(),
        policy.PolicyId,
        policy.SecurityPolicyUri,
        way.choice.label,
        way.own.thumbprint if way.own is not None else "",
    )


def _client(settings: Connection) -> Any:
    client = Client(settings.endpoint, timeout=settings.request_timeout, auto_reconnect=False)
    if client.server_url.port is None:
        parts = urlparse(settings.endpoint)
        client._server_url = parts._replace(netloc=f"{parts.netloc}:{_DEFAULT_PORT}")
    return client


async def _open_secure_channel(client: Any) -> None:
    """asyncua knows one answer only, and fails an assertion where the server refuses with a ServiceFault."""
    protocol = client.uaclient.protocol
    send, answers = protocol._send_request, []

    def remember(*arguments: Any, **named: Any) -> Any:
        answers.append(send(*arguments, **named))
        return answers[-1]

    protocol._send_request = remember
    try:
        await client.open_secure_channel()
    except AssertionError as error:
        for answer in answers:
            protocol.check_answer(answer.result(), "")
        raise UaError("the answer to OpenSecureChannel is none") from error
    finally:
        protocol._send_request = send


async def _open_channel(client: Any) -> None:
    await client.connect_socket()
    _watch_line(client)
    acknowledge = await client.uaclient.send_hello(client.server_url.geturl(), 0, 0)
    _set_buffer_sizes(client, acknowledge)
    try:
        await _open_secure_channel(client)
    except (ConnectionError, asyncio.TimeoutError) as error:
        if client.security_policy.URI == NO_POLICY:
            raise
        silent = isinstance(error, asyncio.TimeoutError)
        raise ChannelRefusedError(str(error) or type(error).__name__, silent=silent) from error


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
            *PASSWORD_IN_THE_OPEN,
        )
    open_token = token_policy is not None and token_policy in UNPROTECTED_TOKENS
    if open_token and choice.mode != ua.MessageSecurityMode.SignAndEncrypt:
        raise TroubleError(
            "user.password",
            None,
            "is not sent, because the channel is only signed and the server takes passwords unencrypted, or badly so",
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
