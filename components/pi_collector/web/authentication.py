"""Who we are to the server: nobody, a name with a password, or a token.

    Authenticator      one way to say it
    ├── Anonymous
    ├── Basic          sent with the first request already: a server may offer only Negotiate in its challenge
    ├── Token          a bearer token that something else keeps fresh, in a secret
    └── Client         a bearer token asked for by client credentials, renewed ahead of its end

    Identity           an Authenticator and the further headers; what a refusal means, and how soon it is tried again

Kerberos (Negotiate) would be one more Authenticator. Its `headers` would need the server's challenge, on the connection
that it came on: `Identity.headers` is the one place that all requests and websockets take their headers from, and
`Client` the one that repeats a request after a 401.

Secrets are asked for when they are needed, and again after a 401: they are rotated. When the server refuses what is
unchanged, no other login is tried for 5 s, then 10 s, up to 5 min, so that no account is locked; the secret is looked
at every 5 s meanwhile, which costs the account nothing, and a new one is tried at once.
"""

from __future__ import annotations

import asyncio
import base64
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import orjson

from pi_collector.config import Bearer, Connection, User
from pi_collector.web.errors import CredentialsError, PiError, UnauthorizedError
from sluice.config import SecretRef
from sluice.log import Secret
from sluice.retry import Backoff
from sluice.secrets import SecretError

Source = Callable[[SecretRef], Awaitable[Secret]]
"""Resolves a reference, now. Raises SecretError."""

Post = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]
"""Sends a form to an address, and gives status and body of the answer. Raises PiError."""

AHEAD: Final = 60.0
"""Seconds before its end in which a token is renewed, or a fifth of its life if that is less."""
LOOK: Final = 5.0
"""Seconds between looks at a secret that was refused, and of the first pause between logins."""
LONGEST_PAUSE: Final = 300.0
_LIFE: Final = 300.0  # seconds of a token that does not say how long it lives
_LONGEST_LIFE: Final = 30 * 86_400.0
_PATIENCE: Final = "it is tried again at longer and longer intervals, so that no account is locked"
_NO_HEADER: Final = re.compile(r"[^\x20-\x7e\x80-\xff]")


async def resolve(source: Source, reference: SecretRef, place: str) -> Secret:
    """The secret as it is now. Raises CredentialsError."""
    try:
        return await source(reference)
    except SecretError as error:
        raise CredentialsError(place, error.problem, error.remedy) from None


def _header(text: str, place: str) -> str:
    line = text.strip()
    if not line or _NO_HEADER.search(line):
        raise CredentialsError(
            place,
            "is empty" if not line else "has characters that no header can have",
            "store the token or key itself, in one line, and name its key if the secret is a JSON object",
        )
    return line


class Authenticator(ABC):
    """One way to say who we are. What it keeps of a secret it keeps as Secret."""

    @abstractmethod
    async def headers(self, now: float) -> Mapping[str, Secret]:
        """What goes with the next request. now: seconds of a clock that does not go back. Raises CredentialsError."""

    @abstractmethod
    async def renew(self, now: float) -> bool:
        """After a 401: read again, or ask again. Whether it is another one now. Raises CredentialsError."""


class Anonymous(Authenticator):
    """Nobody."""

    async def headers(self, now: float) -> Mapping[str, Secret]:
        return {}

    async def renew(self, now: float) -> bool:
        return False


class _Kept(Authenticator):
    """A header made of one secret."""

    def __init__(self, source: Source, reference: SecretRef, place: str) -> None:
        self._source = source
        self._reference = reference
        self._place = place
        self._secret: Secret | None = None
        self._made: Mapping[str, Secret] = {}

    async def headers(self, now: float) -> Mapping[str, Secret]:
        if self._secret is None:
            await self.renew(now)
        return self._made

    async def renew(self, now: float) -> bool:
        secret = await resolve(self._source, self._reference, self._place)
        if secret == self._secret:
            return False
        self._made = {"Authorization": Secret(self._value(secret))}
        self._secret = secret
        return True

    @abstractmethod
    def _value(self, secret: Secret) -> str: ...


class Basic(_Kept):
    """A user's name and password, in UTF-8."""

    def __init__(self, source: Source, user: User) -> None:
        super().__init__(source, user.password, "user.password")
        self._name = user.name

    def _value(self, secret: Secret) -> str:
        return "Basic " + base64.b64encode(f"{self._name}:{secret.reveal()}".encode()).decode()


class Token(_Kept):
    """A token in a secret."""

    def __init__(self, source: Source, reference: SecretRef) -> None:
        super().__init__(source, reference, "bearer.token")

    def _value(self, secret: Secret) -> str:
        return f"Bearer {_header(secret.reveal(), self._place)}"


class Client(Authenticator):
    """A token that is asked for by client credentials (RFC 6749, 4.4). Whoever needs one waits for the same answer."""

    def __init__(self, source: Source, settings: Bearer, post: Post) -> None:
        assert settings.token_url is not None
        assert settings.client_secret is not None
        self._source = source
        self._url = settings.token_url
        self._secret = settings.client_secret
        self._id = settings.client_id
        self._scope = settings.scope
        self._post = post
        self._made: Mapping[str, Secret] = {}
        self._renew_at = -math.inf
        self._ends = -math.inf
        self._asking = asyncio.Lock()
        self._pause = Backoff(LOOK, LONGEST_PAUSE)
        self._failed: CredentialsError | None = None
        self._again = -math.inf  # no question before
        self._look = -math.inf  # no look at the secret before
        self._asked_with: Secret | None = None

    async def headers(self, now: float) -> Mapping[str, Secret]:
        if now < self._renew_at:
            return self._made
        before = self._made
        async with self._asking:
            if self._made is before:
                await self._ask(now)
        return self._made

    async def renew(self, now: float) -> bool:
        before = self._made
        async with self._asking:
            if self._made is before:
                self._ends = self._renew_at = -math.inf  # whatever it said, the server takes it no more
                await self._ask(now)
        return True

    async def _ask(self, now: float) -> None:
        """Have another one, unless that has just failed; then the one that is left is used as long as it lives."""
        if self._failed is None or now >= self._again or await self._another_secret(now):
            try:
                self._made, life = await self._fetch()
            except CredentialsError as error:
                self._failed = error
                self._again = now + self._pause.next()
                self._look = now + LOOK
            else:
                self._failed = None
                self._pause.reset()
                self._ends = now + life
                self._renew_at = self._ends - min(AHEAD, life / 5)
                return
        if now >= self._ends:
            assert self._failed is not None
            raise self._failed

    async def _another_secret(self, now: float) -> bool:
        if now < self._look:
            return False
        self._look = now + LOOK
        return await resolve(self._source, self._secret, "bearer.clientSecret") != self._asked_with

    async def _fetch(self) -> tuple[Mapping[str, Secret], float]:
        secret = await resolve(self._source, self._secret, "bearer.clientSecret")
        self._asked_with = secret
        form = {"grant_type": "client_credentials", "client_id": self._id, "client_secret": secret.reveal()}
        if self._scope:
            form["scope"] = self._scope
        try:
            status, body = await self._post(self._url, urlencode(form).encode())
        except PiError as error:
            raise CredentialsError("bearer.tokenUrl", error.problem, error.remedy) from None
        try:
            content = orjson.loads(body)
        except orjson.JSONDecodeError:
            content = None
        if not isinstance(content, dict):
            content = {}
        token = content.get("access_token")
        if status != 200 or not isinstance(token, str):
            raise _denied(status, content)
        kind = content.get("token_type", "Bearer")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise CredentialsError(
                "bearer.tokenUrl", "gives tokens that are no bearer tokens", "have the client set up for bearer tokens"
            )
        return {"Authorization": Secret(f"Bearer {_header(token, 'bearer.tokenUrl')}")}, _life(content)


def _life(content: Mapping[str, Any]) -> float:
    try:
        seconds = float(content.get("expires_in", _LIFE))
    except (TypeError, ValueError):
        return _LIFE
    return min(seconds, _LONGEST_LIFE) if seconds > 0 else _LIFE


_DENIALS: Final[Mapping[str, tuple[str, str, str]]] = {
    "invalid_client": (
        "bearer.clientId",
        "is not known there, or its secret is wrong",
        "correct clientId or its secret",
    ),
    "unauthorized_client": (
        "bearer.clientId",
        "may not ask for tokens by client credentials",
        "have the client set up for the grant type client_credentials",
    ),
    "unsupported_grant_type": (
        "bearer.tokenUrl",
        "gives no tokens by client credentials",
        "have the grant type client_credentials allowed there",
    ),
    "invalid_scope": ("bearer.scope", "is not allowed there", "correct the scope, or leave it out"),
}


def _denied(status: int, content: Mapping[str, Any]) -> CredentialsError:
    code = content.get("error")
    if isinstance(code, str) and code in _DENIALS:
        place, problem, remedy = _DENIALS[code]
        return CredentialsError(place, f"{problem} ({code})", remedy)
    named = f" ({code})" if isinstance(code, str) and re.fullmatch(r"[a-z_]{1,60}", code) else ""
    return CredentialsError(
        "bearer.tokenUrl",
        f"gives no token: it answers {status}{named}" if status != 200 else "gives an answer without a token",
        "see that it is the address where tokens are given out, such as …/identitymanager/connect/token",
    )


def authenticator(settings: Connection, source: Source, post: Post) -> Authenticator:
    """The way that the configuration says."""
    if settings.user is not None:
        return Basic(source, settings.user)
    if settings.bearer is not None:
        if settings.bearer.token is not None:
            return Token(source, settings.bearer.token)
        return Client(source, settings.bearer, post)
    return Anonymous()


class Identity:
    """What all requests of a connection say of us, and when a refused login is tried again."""

    def __init__(self, settings: Connection, source: Source, post: Post, clock: Callable[[], float]) -> None:
        self._authenticator = authenticator(settings, source, post)
        self._further = {name: header.value for name, header in settings.headers.items() if header.secret is None}
        self._secret_headers = {
            name: header.secret for name, header in settings.headers.items() if header.secret is not None
        }
        self._resolved: dict[str, Secret] = {}
        self._source = source
        self._clock = clock
        self._version = 1
        self._renewing = asyncio.Lock()
        self._pause = Backoff(LOOK, LONGEST_PAUSE)
        self._refusal: UnauthorizedError | None = None
        self._trial = False
        self._until = -math.inf  # no login before
        self._look = -math.inf  # no look at the secret before

    async def headers(self) -> tuple[int, dict[str, str]]:
        """What goes with the next request, and the number of this version of it.

        Raises CredentialsError, and UnauthorizedError while it is not to be tried again.
        """
        now = self._clock()
        if self._refusal is not None:
            if now < self._until:
                await self._look_again(now)
            else:
                self._trial = True  # this one tries it; the others wait for what becomes of it
                self._until = now + LOOK
        if self._secret_headers and not self._resolved:
            await self._resolve_headers()
        told = {name: secret.reveal() for name, secret in (await self._authenticator.headers(now)).items()}
        told.update({name: secret.reveal() for name, secret in self._resolved.items()})
        return self._version, {**self._further, **told}

    async def refused(self, version: int) -> bool:
        """A 401 to this version: whether there is another one now, so that it is worth while to repeat the request."""
        async with self._renewing:
            if version != self._version:
                return True
            if not await self._renew():
                return False
            self._refusal = None  # it was another one's: this one has not been tried yet
            self._trial = False
            return True

    def deny(self, version: int, error: UnauthorizedError) -> None:
        """A 401 for good: nothing else is known to try."""
        if version != self._version or not (self._refusal is None or self._trial):
            return  # another request that was under way at the same time: one refusal, not two
        now = self._clock()
        self._trial = False
        self._refusal = error
        self._until = now + self._pause.next()
        self._look = now + LOOK

    def accepted(self) -> None:
        """The server took it."""
        if self._refusal is not None:
            self._refusal = None
            self._trial = False
            self._pause.reset()

    async def _look_again(self, now: float) -> None:
        assert self._refusal is not None
        refusal = self._refusal
        if now >= self._look:
            self._look = now + LOOK
            async with self._renewing:
                if await self._renew(asking=False):
                    self._refusal = None
                    return
        raise UnauthorizedError(refusal.status, refusal.errors, refusal.problem, f"{refusal.remedy}; {_PATIENCE}")

    async def _renew(self, *, asking: bool = True) -> bool:
        changed = False
        if asking or not isinstance(self._authenticator, Client):
            changed = await self._authenticator.renew(self._clock())
        if self._secret_headers:
            before = dict(self._resolved)
            await self._resolve_headers()
            changed = changed or before != self._resolved
        self._version += changed
        return changed

    async def _resolve_headers(self) -> None:
        found: dict[str, Secret] = {}
        for name, reference in self._secret_headers.items():
            place = f"headers.{name}"
            found[name] = Secret(_header((await resolve(self._source, reference, place)).reveal(), place))
        self._resolved = found
