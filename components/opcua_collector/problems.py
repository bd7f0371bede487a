"""What an engineer reads when something is wrong with a connection: place, value, problem, remedy.

TroubleError            something named precisely where it was found: certificate, policy, password, tags
OSError, TimeoutError,  from the network and the server; `explain` finds place and remedy in the tables below,
asyncua's UaError       by the stage of connecting in which they came
"""

from __future__ import annotations

import asyncio
import re
import socket
from dataclasses import dataclass
from typing import Any, Final

from opcua_collector.config import TRIED_AGAIN
from opcua_collector.stack import UaStatusCodeError, ua
from sluice.config import Problem


class TroubleError(Exception):
    """Something that the engineer can mend. `place` is relative to the connection, such as ``security.trust``."""

    def __init__(self, place: str, value: Any, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.place, self.value, self.problem, self.remedy = place, value, problem, remedy


@dataclass(frozen=True, slots=True)
class _Entry:
    place: str
    problem: str
    remedy: str


_NODE_ENTRIES: Final[dict[str, tuple[str, str]]] = {
    "BadNodeIdUnknown": (
        "does not exist on the server",
        "correct it; a client such as UaExpert shows the server's nodes with their ids",
    ),
    "BadNodeIdInvalid": ("is no node id for this server", "correct it; a browsing client shows the server's nodes"),
    "BadNoMatch": (
        "leads to no node on the server",
        "correct the path: the names are browse names with their namespace indexes, upper and lower case matter",
    ),
    "BadAttributeIdInvalid": ("is no variable, so it has no value", "name a variable below it"),
    "BadNotReadable": ("cannot be read", "have the server's administrator make it readable"),
    "BadUserAccessDenied": (
        "may not be read by this user",
        "give the user the right to read it on the server, or set another user for the connection",
    ),
    "BadTooManyMonitoredItems": (
        "was refused because the server monitors as many items as it can",
        "collect fewer tags from this server, or raise its limit of monitored items",
    ),
}
_NODE_OTHERWISE: Final = (
    "was refused by the server",
    "look the status up in the server's manual or log; it is retried",
)

_USER: Final = _Entry(
    "user",
    "was refused by the server",
    "correct the name or the secret that holds the password, and see that the server knows the user",
)
_OWN_CERTIFICATE: Final = _Entry(
    "security",
    "was refused: the server does not trust our certificate",
    "move our certificate {certificate} (thumbprint {thumbprint}) to the trusted ones on the server",
)
_OWN_CHAIN: Final = _Entry(
    "security",
    "was refused: the server cannot check the issuer of our certificate",
    "give the server the authority of our certificate {certificate} (thumbprint {thumbprint}) and its revocation list",
)
_CLOCKS: Final = _Entry(
    "endpoint",
    "and this gateway differ too much in their clocks",
    "have both follow a time server; a protected channel allows a few minutes at most",
)
_BY_STATUS: Final[dict[str, _Entry]] = {
    "BadIdentityTokenRejected": _USER,
    "BadUserAccessDenied": _USER,
    "BadUserSignatureInvalid": _USER,
    "BadIdentityTokenInvalid": _Entry(
        "user",
        "is of a kind that the server does not take",
        "set user: {name, password} if the server knows no anonymous users",
    ),
    "BadIdentityChangeNotSupported": _Entry(
        "user",
        "cannot be changed in a session of this server",
        "none is needed: it is tried again with another session",
    ),
    "BadSecurityChecksFailed": _OWN_CERTIFICATE,
    "BadCertificateUntrusted": _OWN_CERTIFICATE,
    "BadCertificateInvalid": _OWN_CERTIFICATE,
    "BadCertificateUriInvalid": _OWN_CERTIFICATE,
    "BadCertificateHostNameInvalid": _OWN_CERTIFICATE,
    "BadCertificateUseNotAllowed": _OWN_CERTIFICATE,
    "BadCertificatePolicyCheckFailed": _OWN_CERTIFICATE,
    "BadApplicationSignatureInvalid": _Entry(
        "security",
        "was refused: the server finds our signature wrong",
        "see that {certificate} and the key beside it belong together; delete both to have them made anew",
    ),
    "BadCertificateChainIncomplete": _OWN_CHAIN,
    "BadCertificateRevocationUnknown": _OWN_CHAIN,
    "BadCertificateIssuerRevocationUnknown": _OWN_CHAIN,
    "BadCertificateIssuerUseNotAllowed": _OWN_CHAIN,
    "BadCertificateRevoked": _Entry(
        "security",
        "was refused: our certificate has been revoked",
        "put another certificate and its key in the place of {certificate} (thumbprint {thumbprint})",
    ),
    "BadCertificateIssuerRevoked": _Entry(
        "security",
        "was refused: the issuer of our certificate has been revoked",
        "put a certificate of another authority, and its key, in the place of {certificate} (thumbprint {thumbprint})",
    ),
    "BadCertificateTimeInvalid": _Entry(
        "security",
        "was refused: the server finds our certificate out of its time",
        "set the clocks of server and gateway; if our certificate {certificate} has expired, delete it and its key",
    ),
    "BadCertificateIssuerTimeInvalid": _Entry(
        "security",
        "was refused: the server finds the issuer of our certificate out of its time",
        "set the clocks of server and gateway, and have the authority of {certificate} renewed",
    ),
    "BadInvalidTimestamp": _CLOCKS,
    "BadRequestTypeInvalid": _Entry(
        "endpoint", "does not know a service that every server has to have", "look into the server's manual or log"
    ),
    "BadNonceInvalid": _Entry(
        "security", "was refused: the server finds our random numbers too short", "set another security.policy"
    ),
    "BadSecurityPolicyRejected": _Entry(
        "security.policy", "is refused by the server", "set a policy that the server allows"
    ),
    "BadSecurityModeRejected": _Entry("security.mode", "is refused by the server", "set a mode that the server allows"),
    "BadTcpEndpointUrlInvalid": _Entry(
        "endpoint", "is not known to the server", "write host, port and path as the server's configuration shows them"
    ),
    "BadTooManySessions": _Entry(
        "endpoint",
        "has no session left",
        "end other clients or raise the server's limit of sessions; lost sessions end by themselves after a minute",
    ),
    "BadTooManySubscriptions": _Entry(
        "endpoint", "has no subscription left", "end other clients or raise the server's limit of subscriptions"
    ),
    "BadServerHalted": _Entry("endpoint", "is halted", "start the server"),
    "BadShutdown": _Entry("endpoint", "is shutting down", "none is needed: it is tried again until the server is back"),
}

REFUSES_US: Final = frozenset(
    name
    for name, entry in _BY_STATUS.items()
    if entry.place == "security" and name not in ("BadSecurityModeRejected", "BadNonceInvalid")
)
"""What servers answer when they do not take our certificate; another one may be taken."""

_UNREACHABLE: Final = "see that the server runs, that host and port are right, and that no firewall is between"


def status_name(code: int) -> str:
    """Name of a status code, info bits apart; hexadecimal where it has none."""
    name = str(ua.status_codes.get_name_and_doc(code & 0xFFFF0000)[0])
    return name if name not in ("Bad", "Uncertain") else f"{code:#010x}"


def node_problem(path: str, value: Any, status: int) -> Problem:
    """For a tag whose node the server refuses with `status`."""
    name = status_name(status)
    problem, remedy = _NODE_ENTRIES.get(name, _NODE_OTHERWISE)
    return Problem(path, value, f"{problem} ({name})", remedy, "it is tried again; the other tags are collected")


class ChannelRefusedError(ConnectionError):
    """The server broke the line off in the place of an answer, or is silent, when it was shown our certificate."""

    def __init__(self, text: str, *, silent: bool = False) -> None:
        super().__init__(text)
        self.silent = silent


def refuses_us(error: BaseException) -> bool:
    """Whether the server refuses our certificate, as far as it says so."""
    if isinstance(error, ChannelRefusedError):
        return True
    return isinstance(error, UaStatusCodeError) and status_name(error.code) in REFUSES_US


def refused(error: BaseException, certificate: str, thumbprint: str) -> TroubleError:
    """What an error that `refuses_us` means for the certificate that was shown."""
    if isinstance(error, UaStatusCodeError):
        status = status_name(error.code)
        entry = _BY_STATUS[status]
        problem = f"{entry.problem} ({status})"
    else:
        entry = _OWN_CERTIFICATE
        silent = isinstance(error, ChannelRefusedError) and error.silent
        did = "does not answer any more since" if silent else "closed the line when"
        problem = f"failed: the server {did} it was shown our certificate, so it probably does not trust it"
    return TroubleError(entry.place, None, problem, entry.remedy.format(certificate=certificate, thumbprint=thumbprint))


def explain(error: BaseException, name: str, values: dict[str, Any], own: dict[str, str]) -> Problem:
    """The problem behind a connection attempt that failed, or a connection that was lost.

    `values`: what the configuration says, by place (``endpoint``, ``user`` …). `own`: path and thumbprint of our
    certificate, for remedies.
    """
    if isinstance(error, TroubleError):
        return _problem(name, error.place, error.value, error.problem, error.remedy)
    if isinstance(error, UaStatusCodeError):
        status = status_name(error.code)
        entry = _BY_STATUS.get(status)
        if entry is not None:
            remedy = entry.remedy.format(**own)
            return _problem(name, entry.place, values.get(entry.place), f"{entry.problem} ({status})", remedy)
        return _problem(
            name, "endpoint", values["endpoint"], f"answers {status}", "look the status up in its manual or log"
        )
    if isinstance(error, socket.gaierror):
        return _problem(
            name,
            "endpoint",
            values["endpoint"],
            "names a host that cannot be found",
            "correct the host name, or the DNS",
        )
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return _problem(name, "endpoint", values["endpoint"], "does not answer in time", _UNREACHABLE)
    if isinstance(error, ConnectionRefusedError):
        return _problem(name, "endpoint", values["endpoint"], "refuses the connection", _UNREACHABLE)
    if isinstance(error, OSError):
        what = error.strerror or str(error) or type(error).__name__
        return _problem(name, "endpoint", values["endpoint"], f"cannot be reached: {what}", _UNREACHABLE)
    text = re.sub(r"\s+", " ", str(error))[:200]
    remedy = "see that an OPC UA server (opc.tcp, binary) answers there; the component's log has the details"
    return _problem(name, "endpoint", values["endpoint"], f"failed: {type(error).__name__}: {text}", remedy)


def _problem(name: str, place: str, value: Any, problem: str, remedy: str) -> Problem:
    return Problem(f"connections.{name}.{place}", value, problem, remedy, TRIED_AGAIN)
