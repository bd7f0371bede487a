"""With which protection a channel is opened: policies, which never become less by themselves (Part 4, 6.1; Part 7).

What a server offers is asked over an open channel, where anyone can change it. So the choice counts only when the list
in the session's answer leads to the same one (`confirm`). What a connection has had before is remembered (`Policies`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from opcua_collector.config import Security
from opcua_collector.problems import TroubleError
from opcua_collector.security.certificates import first_certificate
from opcua_collector.stack import EndpointDescription, policies, ua
from sluice.kept_file import KeptFile

POLICIES: Final[dict[str, Any]] = {
    "Aes128_Sha256_RsaOaep": policies.SecurityPolicyAes128Sha256RsaOaep,
    "Basic256Sha256": policies.SecurityPolicyBasic256Sha256,
    "Aes256_Sha256_RsaPss": policies.SecurityPolicyAes256Sha256RsaPss,
}
"""Those that are used, weakest first. Deprecated ones (Basic128Rsa15, Basic256) are not among them."""
_RANK: Final = {name: rank for rank, name in enumerate(POLICIES)}
_BY_URI: Final = {kind.URI: name for name, kind in POLICIES.items()}
NO_POLICY: Final[str] = policies.SecurityPolicyNone.URI
BEFORE_CHOICE: Final = "Basic256Sha256"
"""What sessions were made with that do not say it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How the channel will be opened."""

    policy: str
    mode: Any  # MessageSecurityMode
    chain: bytes = b""  # what the server shows: its certificate, DER, and perhaps its authorities
    uri: str = ""  # application URI that it says it has

    @property
    def server(self) -> bytes:
        """The server's certificate; empty for policy None."""
        return first_certificate(self.chain)

    @property
    def label(self) -> str:
        """For people, and for tickets."""
        return f"{self.policy}/{self.mode.name.rstrip('_')}"


UNPROTECTED: Final = Choice("None", ua.MessageSecurityMode.None_)


def needs_trust(security: Security) -> bool:
    """Whether the channel has a server certificate to believe or not."""
    return security.policy != "None"


def offered(security: Security, endpoints: Sequence[EndpointDescription]) -> list[Choice]:
    """What the server offers and the configuration allows, best first: by the server's own level, then by our order."""
    mode = ua.MessageSecurityMode[security.mode]
    found = []
    for endpoint in endpoints:
        policy = _BY_URI.get(endpoint.SecurityPolicyUri)
        wanted = policy is not None and security.policy in ("auto", policy)
        if not wanted or endpoint.SecurityMode != mode or not _over_tcp(endpoint):
            continue
        assert policy is not None
        uri = getattr(endpoint.Server, "ApplicationUri", None) or ""
        choice = Choice(policy, mode, bytes(endpoint.ServerCertificate or b""), str(uri))
        found.append((int(endpoint.SecurityLevel or 0), _RANK[policy], choice))
    found.sort(key=lambda one: one[:2], reverse=True)
    return [choice for _, _, choice in found]


def _over_tcp(endpoint: EndpointDescription) -> bool:
    url = str(endpoint.EndpointUrl or "")
    return not url or url.lower().startswith("opc.tcp:")


def choose(security: Security, endpoints: Sequence[EndpointDescription], before: str = "") -> Choice:
    """The best of what is offered. `before`: the policy that the connection has had; less is refused.

    Raises TroubleError; never weakens.
    """
    found = offered(security, endpoints)
    if found and before in _RANK and security.policy == "auto":
        strong = [choice for choice in found if _RANK[choice.policy] >= _RANK[before]]
        if not strong:
            raise TroubleError(
                "security.policy",
                "auto",
                f"has used {before} with this server, which now offers no better than {found[0].policy}: somebody may "
                "have changed that on the way",
                f"see what has changed at the server; if it shall be so, set security.policy to {found[0].policy}",
            )
        found = strong
    if found:
        return found[0]
    offers = sorted({f"{_policy_name(e.SecurityPolicyUri)}/{e.SecurityMode.name.rstrip('_')}" for e in endpoints})
    if security.policy == "auto" and all(e.SecurityMode == ua.MessageSecurityMode.None_ for e in endpoints):
        remedy = "switch security on at the server, or accept a channel without any by security: {policy: None}"
    else:
        remedy = f"set security.policy and security.mode to one that the server offers ({', '.join(offers)})"
    raise TroubleError(
        "security.policy",
        f"{security.policy}/{security.mode}",
        f"is not offered by the server, which offers {', '.join(offers) or 'nothing'}",
        remedy,
    )


def _policy_name(uri: str | None) -> str:
    return (uri or "").rpartition("#")[2] or "None"


def confirm(choice: Choice, security: Security, endpoints: Sequence[EndpointDescription], before: str = "") -> None:
    """Whether what the server says within the session leads to the same choice (Part 4, 5.6.2.2). Raises TroubleError.

    Fields that servers leave out there, as they may, are not compared.
    """
    try:
        now = choose(security, endpoints, before)
    except TroubleError as error:
        raise _changed(f"{choice.label} is not among what it says now: {error.problem}") from None
    if now.label != choice.label:
        raise _changed(f"the best is {now.label}, and over the open channel it was {choice.label}")
    same = [one for one in offered(security, endpoints) if one.label == choice.label]
    if all(one.server and one.server != choice.server for one in same):
        raise _changed("its certificate is another one")
    if all(one.uri and choice.uri and one.uri != choice.uri for one in same):
        raise _changed(f"its application is {same[0].uri[:200]}, and was {choice.uri[:200]}")


def _changed(what: str) -> TroubleError:
    return TroubleError(
        "security",
        None,
        f"failed: what the server offers differs between the open channel and the protected one: {what}; somebody may "
        "have changed it on the way",
        "find out who is between gateway and server; if the server was just set up anew, the next try succeeds",
    )


class Policies:
    """The policy that each connection with `policy: auto` has had, in pki/policies.json, for its owner alone."""

    def __init__(self, folder: Path) -> None:
        self._file = KeptFile(folder / "policies.json", "list of security policies that servers have offered")
        self._lock = threading.Lock()

    def had(self, connection: str, endpoint: str) -> str:
        """The policy that was used with this endpoint; empty: none yet."""
        with self._lock:
            entry = (self._file.read() or {}).get(connection)
        if not isinstance(entry, dict) or entry.get("endpoint") != endpoint:
            return ""
        policy = entry.get("policy")
        return policy if isinstance(policy, str) and policy in _RANK else ""

    def used(self, connection: str, endpoint: str, policy: str) -> None:
        """A session was made with this policy, by the server's own choice or by an engineer's."""
        entry = {"endpoint": endpoint, "policy": policy}
        with self._lock:
            known = self._file.read() or {}
            if known.get(connection) != entry:
                self._file.write({**known, connection: entry})
