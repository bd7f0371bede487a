"""Who we are to a server within the session (Part 4, 7.40): nobody, a name with a password, or an X.509 certificate.

What is secret comes when it is needed and is kept no longer than a session takes to begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from opcua_collector.config import Connection
from opcua_collector.problems import TroubleError
from opcua_collector.security.certificates import (
    CertificateError,
    belong_together,
    certificates_of_file,
    read_certificate,
    read_key,
)
from opcua_collector.security.policy import NO_POLICY, POLICIES
from opcua_collector.stack import policies, ua
from sluice.log import Secret

_STRENGTH: Final = {kind.URI: rank for rank, kind in enumerate(POLICIES.values(), 3)}
_OLD: Final = {policies.SecurityPolicyBasic256.URI: 2, policies.SecurityPolicyBasic128Rsa15.URI: 1}
UNPROTECTED_TOKENS: Final = frozenset(("", NO_POLICY, policies.SecurityPolicyBasic128Rsa15.URI))
"""Policies of user tokens under which others could read a password that a channel does not encrypt."""


@dataclass(frozen=True, slots=True)
class User:
    """A user as it is shown to the server."""

    token_kind: Any  # UserTokenType
    name: str = ""
    password: Secret | None = None
    path: str = ""
    certificate: x509.Certificate | None = None
    chain: tuple[x509.Certificate, ...] = ()  # the authorities that are in the file behind it
    key: rsa.RSAPrivateKey | None = field(default=None, repr=False)

    def check_token(self, offered: Sequence[Any], token: Any) -> None:
        """Whether a server that offers these kinds of users takes this one. Raises TroubleError.

        token: the policy that would be used. Names are left to the server: what it answers is told.
        """
        if self.certificate is None:
            return
        if all(policy.TokenType != self.token_kind for policy in offered):
            kinds = ", ".join(sorted({policy.TokenType.name for policy in offered})) or "none"
            raise TroubleError(
                "user.certificate",
                self.path,
                f"is not taken: the server knows no users by certificate, but these kinds: {kinds}",
                "switch certificates on for users at the server, or set user.name",
            )
        if (token.SecurityPolicyUri or NO_POLICY) not in _STRENGTH:
            raise TroubleError(
                "user.certificate",
                self.path,
                "is not shown: the server asks for no signature, or for one of a policy that is not used here",
                "set a security policy for certificates of users at the server, or security.policy to auto",
            )


def token_kind(settings: Connection) -> Any:
    """The UserTokenType of the connection's user."""
    if settings.user is None:
        return ua.UserTokenType.Anonymous
    return ua.UserTokenType.Certificate if settings.user.certificate else ua.UserTokenType.UserName


def by_strength(offered: Sequence[Any]) -> list[Any]:
    """The server's user token policies, those that protect best first; the first that fits is taken."""
    ranks = {**_STRENGTH, **_OLD, "": 2, None: 2, NO_POLICY: 0}  # empty: that of the channel
    return sorted(offered, key=lambda policy: -ranks.get(policy.SecurityPolicyUri, -1))


def user_of(settings: Connection, credentials: Secret | None) -> User:
    """The connection's user. `credentials`: password, or private key of the certificate. Raises TroubleError."""
    user = settings.user
    kind = token_kind(settings)
    if user is None:
        return User(kind)
    if not user.certificate:
        return User(kind, user.name, credentials)
    try:
        first, *chain = [read_certificate(der) for der in certificates_of_file(Path(user.certificate))]
    except CertificateError as error:
        raise TroubleError(
            "user.certificate",
            user.certificate,
            f"cannot be used: {error}",
            "give the path of the user's certificate (.der or .pem)",
        ) from None
    try:
        if credentials is None:
            raise CertificateError("it is empty")
        key = read_key(credentials.reveal().encode())
    except CertificateError as error:
        raise _bad_key(settings, f"cannot be used: {error}") from None
    if not belong_together(first, key):
        raise _bad_key(settings, f"is not the key of the certificate {user.certificate}")
    return User(kind, "", None, user.certificate, first, tuple(chain), key)


def _bad_key(settings: Connection, problem: str) -> TroubleError:
    reference = settings.user.key if settings.user is not None else None
    where = (reference.secret or reference.file) if reference is not None else None
    return TroubleError(
        "user.key", where, problem, "store the certificate's RSA private key as PEM, without passphrase"
    )
