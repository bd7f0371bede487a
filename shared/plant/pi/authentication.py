"""Who may ask: Basic, Bearer with tokens that expire, anonymous, or several of them at once.

Tokens are given out at `/identity/connect/token` for a client's id and secret (OpenID Connect client credentials), as
an identity server beside PI does. They expire in our seconds: that server's clock is not the archive's. Passwords can
be changed while clients are connected; what has been opened stays open until the server closes it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from aiohttp import web

TOKEN_PATH = "/identity/connect/token"  # noqa: S105 - where tokens are found
_KEPT = 10_000

USER = web.RequestKey("user", str)
"""Under which a request has the name of who asks."""

ANONYMOUS = ""
"""The name of who has not said who they are."""


class _Token(NamedTuple):
    client: str
    expires: float


class Authentication:
    """Users with passwords (Basic) and clients with secrets (Bearer); neither: everybody is let in.

    Args:
        users: name to password.
        clients: client id to secret.
        token_s: how long a token is good for, in our seconds.
        anonymous: let those in too who do not say who they are, beside users and clients.
        now: our clock in seconds.
    """

    def __init__(
        self,
        users: Mapping[str, str] | None = None,
        clients: Mapping[str, str] | None = None,
        *,
        token_s: float = 3600.0,
        anonymous: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users = {name.lower(): password for name, password in (users or {}).items()}
        self._clients = dict(clients or {})
        self._anonymous = anonymous or not (users or clients)
        self._now = now
        self._tokens: dict[str, _Token] = {}
        self.token_s = token_s
        self.counts: Counter[str] = Counter()
        """Logins: accepted and refused, and tokens given out and refused."""

    def set_password(self, user: str, password: str) -> None:
        """From the next request on this is the user's password; also of a user that is new."""
        self._users[user.lower()] = password

    def set_secret(self, client: str, secret: str) -> None:
        """From the next token on this is the client's secret."""
        self._clients[client] = secret

    def revoke(self) -> None:
        """No token that was given out is good any more."""
        self._tokens.clear()

    def who(self, authorization: str | None) -> str | None:
        """The name of who asks with that header, ANONYMOUS too; None: refused."""
        name = self._who(authorization)
        self.counts["refused" if name is None else "accepted"] += 1
        return name

    def _who(self, authorization: str | None) -> str | None:
        if authorization is None:
            return ANONYMOUS if self._anonymous else None
        scheme, _, credentials = authorization.strip().partition(" ")
        if scheme.lower() == "basic":
            return self._basic(credentials)
        if scheme.lower() == "bearer":
            token = self._tokens.get(credentials.strip())
            return token.client if token is not None and token.expires > self._now() else None
        return None

    def _basic(self, credentials: str) -> str | None:
        try:
            name, colon, password = base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        right = self._users.get(name.lower())
        if not colon or right is None:
            return None
        return name if hmac.compare_digest(right.encode(), password.encode()) else None

    def challenges(self) -> list[str]:
        """What `WWW-Authenticate` says of the ways in."""
        ways = []
        if self._users:
            ways.append('Basic realm="PI Web API"')
        if self._clients:
            ways.append("Bearer")
        return ways

    async def token(self, request: web.Request) -> web.Response:
        """Give out a token: POST of a form with grant_type, client_id and client_secret (or those two as Basic)."""
        form = await request.post()
        client, secret = str(form.get("client_id", "")), str(form.get("client_secret", ""))
        header = request.headers.get("Authorization", "")
        if header.lower().startswith("basic "):
            try:
                client, _, secret = base64.b64decode(header[6:].strip(), validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                client = secret = ""
        if form.get("grant_type") != "client_credentials":
            return self._no_token("unsupported_grant_type")
        right = self._clients.get(client)
        if right is None or not hmac.compare_digest(right.encode(), secret.encode()):
            return self._no_token("invalid_client")
        while len(self._tokens) >= _KEPT:
            del self._tokens[next(iter(self._tokens))]
        token = secrets.token_urlsafe(32)
        self._tokens[token] = _Token(client, self._now() + self.token_s)
        self.counts["tokens"] += 1
        return web.json_response({"access_token": token, "expires_in": int(self.token_s), "token_type": "Bearer"})

    def _no_token(self, error: str) -> web.Response:
        self.counts["tokens refused"] += 1
        return web.json_response({"error": error}, status=400)


__all__ = ["ANONYMOUS", "TOKEN_PATH", "USER", "Authentication"]
