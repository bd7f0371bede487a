"""What an engineer reads when something is wrong with a connection: place, value, problem, remedy.

A problem reads on from its place and value: ``connections.lab.url = "https://pi/piwebapi" refuses the connection: see
that …``. Most of the words stand where the thing is known best: of HTTP statuses in `web.answers`, of certificates in
`web.tls`, of tokens in `web.authentication`. Here is what the network raises, and which setting each error belongs to.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final, Protocol

import aiohttp

from pi_collector.config import TRIED_AGAIN, Connection
from pi_collector.web.errors import CredentialsError, PiError, RefusedError, UnauthorizedError
from sluice.config import Problem

_REACH: Final = "see that the server runs, that host and port are right, and that no firewall is between"
_WAIT: Final = "none is needed: it is tried again; look whether the server or the network has too much to do"
_OR_CERTIFICATE: Final = (
    f"{_WAIT}; one that does so with every request may want a certificate of ours (tls.certificate)"
)
_HTTPS: Final = "see that a PI Web API answers there, and that the address begins with https: or http: as it must"
_OWN_CERTIFICATE: Final = (
    "refuses us for want of a certificate that it trusts",
    "give tls.certificate and tls.key of one that the server's administrator has made, or allow clients without one",
)

_TLS: Final[dict[str, tuple[str, str]]] = {
    "WRONG_VERSION_NUMBER": ("does not speak TLS", _HTTPS),
    "HTTP_REQUEST": ("does not speak TLS", _HTTPS),
    "UNSUPPORTED_PROTOCOL": ("speaks only TLS older than 1.2", "have TLS 1.2 switched on at the server"),
    "TLSV1_ALERT_PROTOCOL_VERSION": ("speaks only TLS older than 1.2", "have TLS 1.2 switched on at the server"),
    "NO_PROTOCOLS_AVAILABLE": ("speaks only TLS older than 1.2", "have TLS 1.2 switched on at the server"),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _OWN_CERTIFICATE,
    "SSLV3_ALERT_BAD_CERTIFICATE": _OWN_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": ("finds our certificate expired", "have tls.certificate renewed"),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _OWN_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _OWN_CERTIFICATE,
    "TLSV1_ALERT_UNKNOWN_CA": (
        "does not know the authority of our certificate",
        "have the server trust the authority that made tls.certificate",
    ),
    "DH_KEY_TOO_SMALL": ("offers keys that are too weak", "have stronger ones set up at the server"),
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": (
        "speaks TLS of an unsafe kind",
        "have the server's TLS brought up to date",
    ),
}


class Reporter(Protocol):
    """Where problems that only show while running go: `sluice.component.Problems`."""

    def report(self, scope: str, problem: str, remedy: str, value: Any = None, *, effect: str = "") -> None:
        """Replaces what was reported for the scope."""

    def clear(self, scope: str) -> None:
        """The scope, and all below it, is well."""


def explain(error: BaseException, settings: Connection) -> tuple[str, str]:
    """(problem, remedy) of whatever keeps a connection, or a request of it, from what it should do."""
    if isinstance(error, PiError):
        return error.problem, error.remedy
    refused = certificate_error(error)
    if refused is not None:
        return (
            f"shows a certificate that is not believed: {_text(getattr(refused, 'verify_message', str(refused)))}",
            "have the server's certificate and its chain looked at",
        )
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
            reason = cause.reason or ""
            known = _TLS.get(reason) or next((words for name, words in _TLS.items() if name in str(cause)), None)
            return known or (f"does not agree with us on TLS ({_text(reason or str(cause))})", _HTTPS)
    for cause in chain:
        if isinstance(cause, (socket.gaierror, aiohttp.ClientConnectorDNSError)):
            return "names a host that cannot be found", "correct the host's name, or the DNS"
        if isinstance(cause, ConnectionRefusedError):
            return "refuses the connection", _REACH
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "does not answer to a connection", _REACH
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return f"does not answer within {settings.request_timeout:g} s", _WAIT
    if isinstance(error, aiohttp.ClientPayloadError):
        return "broke an answer off", _WAIT
    if isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError)):
        if settings.url.startswith("https:") and not settings.tls.certificate:
            return "closed the line", _OR_CERTIFICATE
        return "closed the line", _WAIT
    if isinstance(error, aiohttp.ClientResponseError):
        return f"answers with something that is no HTTP ({_text(error.message)})", _HTTPS
    for cause in chain:
        if isinstance(cause, OSError) and cause.strerror:
            return f"cannot be reached: {_text(cause.strerror)}", _REACH
    return f"failed: {type(error).__name__}: {_text(str(error))}", "look into the component's log for the details"


def certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """The server's certificate is not believed: what OpenSSL says of it. aiohttp's own errors only look like it."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError) and not isinstance(cause, aiohttp.ClientError):
            return cause
    return None


def place_of(error: BaseException, settings: Connection) -> tuple[str, Any]:
    """The setting that an error belongs to, below its connection, and what it says."""
    if isinstance(error, CredentialsError):
        return error.place, None
    if isinstance(error, UnauthorizedError) or (isinstance(error, RefusedError) and error.status == 403):
        if settings.user is not None:
            return "user", settings.user.name
        if settings.bearer is not None:
            return "bearer", None
    return "url", settings.url


def problem_of(name: str, settings: Connection, error: BaseException) -> Problem:
    """The problem that keeps connection `name` from running."""
    place, value = place_of(error, settings)
    problem, remedy = explain(error, settings)
    if place in ("user", "bearer"):
        # Read on from who we are: "… is not accepted by the server (401)".
        problem = re.sub(r"^does not accept who we are", "is not accepted by the server", problem)
        problem = re.sub(r"^does not allow this to our user", "may not read this on the server", problem)
    return Problem(f"connections.{name}.{place}", value, problem, remedy, TRIED_AGAIN)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what stands behind it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        behind = (getattr(one, "os_error", None), getattr(one, "certificate_error", None))
        waiting += [*(cause for cause in behind if isinstance(cause, BaseException)), one.__cause__, one.__context__]


def _text(text: str) -> str:
    return re.sub(r"\s+", " ", text)[:200]
