"""The one place that speaks HTTP with a PI Web API.

    get, batch, register, websocket      what the collector asks; answers are checked (`answers`), not decoded
      pace        when it is sent, in which order, and how often at most
      identity    who we are; after a 401 the secret is read again and the request repeated, once
      trust       whose server it is
      addresses   the first one, or another one when that cannot be had
    clock, features, generation, health  what the answers tell of the server

**Nothing is ever written.** `_permitted` lets pass GET, and POST of a batch whose parts are all GET and of
streamsets/updates, which registers us for updates. There is no other way to the line. Redirects are not followed,
cookies not kept, and no proxy of the environment is used: what we say of ourselves goes to the configured address.

**Addresses.** An address that cannot be had three times in a row (no answer, 502, 503, 504; a refusal is an answer)
makes way for the next one, which is then kept; one that was left alone before and still cannot be had does so at once.
So does one that answers three looks in a row with a page for people. While another one than the first is in use, the
first is asked every minute how it is, and is taken back when it was well three times in a row. Each change raises
`generation`, and so does a process of the server that is another one than before: markers and channels were the old
one's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
import orjson
from multidict import CIMultiDictProxy
from yarl import URL

from pi_collector.config import Connection
from pi_collector.problems import Reporter, certificate_error, explain, place_of
from pi_collector.web import answers, features, requests, tls
from pi_collector.web.answers import Answer
from pi_collector.web.authentication import Identity, Source
from pi_collector.web.clock import Clock, Instant, Look, from_date
from pi_collector.web.errors import (
    CredentialsError,
    ForbiddenError,
    MalformedError,
    NotFoundError,
    PiError,
    RefusedError,
    ThrottledError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
    UnsupportedError,
    UntrustedError,
)
from pi_collector.web.features import Features, Health
from pi_collector.web.open_lines import token_unencrypted, unencrypted
from pi_collector.web.pace import FAILURES, LIVE, Breaker, Pace, Priority
from pi_collector.web.requests import Query
from sluice.tasks import end, within

logger = logging.getLogger(__name__)

CONNECT: Final = 5.0
"""Seconds in which a server must take a connection, TLS included."""
LARGEST_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes of one message of a websocket."""
GIVEN_UP: Final = 3
"""Failures in a row after which another address is used."""
RETURN: Final = 60.0
"""Seconds between looks at the first address while another one is in use."""
RETURN_AFTER: Final = 3
"""Times in a row that it has to be well then."""
_WAIT: Final = 5.0  # seconds to wait for a look at the server's health
_HELD: Final = Health(
    "busy",
    "gets more requests than it allows, and wants to be left alone for a while",
    "lower load.requestsPerSecond; it goes on by itself",
)
_LINES: Final = 24  # connections: more than can ever be in use at a time
_IDLE: Final = 60.0
_LARGEST_TOKEN: Final = 1_000_000
_STATUS_EVERY: Final = 5  # looks at the time for one at the server's process
_AWAY: Final = frozenset({502, 503, 504})
_POSTS: Final = frozenset({"batch", "streamsets/updates"})


_RAISED: Final = (aiohttp.ClientError, OSError, asyncio.TimeoutError, PiError)
"""What a request raises that has no answer."""


def _permitted(method: str, path: str) -> None:
    """Whether this may be sent to PI at all. Raises ValueError: it is a mistake of ours."""
    if method != "GET" and not (method == "POST" and path in _POSTS):
        raise ValueError(f"{method} {path} is not among what may be sent to a PI Web API: nothing is written there")


def _only_reads(parts: Mapping[str, Mapping[str, Any]]) -> None:
    for name, part in parts.items():
        if str(part.get("Method")).upper() != "GET" or part.get("Content") is not None:
            raise ValueError(f"part {name} of a batch is no GET: nothing is written to a PI Web API")


class Client:
    """All that a connection asks of its server. What it raises is a PiError, always."""

    def __init__(self, name: str, settings: Connection, *, secret: Source, directory: Path, problems: Reporter) -> None:
        self.name = name
        self.pace = Pace(settings.load)
        self.features = Features()
        self.clock = Clock(self._look)
        self.generation = 1
        """Rises when another address, or another process of the server, is used."""
        self.servers: frozenset[str] = frozenset()
        """Names of the data servers that points are on: their time counts, and they must be connected."""
        self._settings = settings
        self._source = secret
        self._directory = directory
        self._problems = problems
        self._addresses = settings.addresses
        self._at = 0
        self._breakers: dict[str, Breaker] = {}
        self._errors: dict[str, PiError] = {}  # why an address is left alone
        self._failures = 0  # in a row, of the present address
        self._pages = 0  # looks in a row at which it answered with something for people
        self._switches = 0
        self._identity = self._new_identity()
        self._trust = tls.Trust(settings.tls, secret, directory)
        self._session: aiohttp.ClientSession | None = None
        self._sockets: aiohttp.ClientSession | None = None
        self._process = features.Process()
        self._health: Health | None = None
        self._looked = 0.0  # when health was learnt, by the loop's clock
        self._silent = False  # the server's list of archives is not for us
        self._tending: asyncio.Task[None] | None = None
        self._closed = False

    # --- life ---

    async def start(self) -> None:
        """Find an address that answers, and learn what is there. Raises the first address's PiError when none does.

        May be called again after it failed. Once it has succeeded, time and health are kept by themselves.
        """
        first: PiError | None = None
        for _ in self._addresses:
            try:
                await self._learn()
            except (UnreachableError, UnavailableError, MalformedError) as error:  # noqa: PERF203 - one each
                first = first or error
                if len(self._addresses) > 1:
                    self._switch(str(error.problem))
            else:
                break
        else:
            assert first is not None
            raise first
        if self._tending is None:
            self._tending = asyncio.create_task(self._tend(), name=f"tend {self.name}")

    async def close(self) -> None:
        """End all lines."""
        self._closed = True
        if self._tending is not None:
            await end(self._tending)
            self._tending = None
        for session in (self._session, self._sockets):
            if session is not None:
                await session.close()
        self._session = self._sockets = None
        self._problems.clear(self._scope)

    def apply(self, settings: Connection) -> None:
        """Go over to other settings; requests under way come to their end with the old ones."""
        before, self._settings = self._settings, settings
        if before.load != settings.load:
            self.pace.apply(settings.load)
        if before.tls != settings.tls:
            self._trust = tls.Trust(settings.tls, self._source, self._directory)
        if (before.user, before.bearer, before.headers, before.tls) != (
            settings.user,
            settings.bearer,
            settings.headers,
            settings.tls,
        ):
            self._identity = self._new_identity()
        if before.addresses != settings.addresses:
            address = self.address
            self._addresses = settings.addresses
            if address in self._addresses and before.url == settings.url:
                self._at = self._addresses.index(address)
            else:
                self._at = 0
                self._use_another()
        if before.tls != settings.tls or before.allow_unencrypted != settings.allow_unencrypted:
            self._breakers.clear()
        if before.data_server != settings.data_server:
            self._health = None

    def _new_identity(self) -> Identity:
        return Identity(self._settings, self._source, self._post_form, time.monotonic)

    @property
    def address(self) -> str:
        """The one in use."""
        return self._addresses[self._at]

    @property
    def _scope(self) -> str:
        return f"connections.{self.name}.clock"

    # --- what is asked ---

    async def get(self, path: str, query: Query = (), *, priority: Priority = LIVE, fresh: bool = False) -> bytes:
        """The answer of a path below the address, such as streamsets/recorded. fresh: past the server's caches."""
        try:
            body, _ = await self._exchange("GET", path, query, priority=priority, fresh=fresh)
        except (NotFoundError, UnsupportedError):
            if path == "points/search" and not self.features.has_search:
                self.features.has_search = False
            raise
        if path == "points/search":
            self.features.has_search = True
        return body

    async def batch(
        self, parts: Mapping[str, Mapping[str, Any]], *, priority: Priority = LIVE, fresh: bool = False
    ) -> dict[str, Answer]:
        """Several GETs in one request, each with an answer of its own.

        parts: as PI Web API's batch has them; a `Resource` without a host is a path below the address. Raises
        ValueError when one of them is no GET.
        """
        _only_reads(parts)
        base = f"{self.address}/"
        sent = {name: _resource(part, base) for name, part in parts.items()}
        body, _ = await self._exchange("POST", "batch", priority=priority, fresh=fresh, content=orjson.dumps(sent))
        return answers.parts(body, parts)

    async def register(self, query: Query) -> bytes:
        """Register streams for updates."""
        try:
            body, _ = await self._exchange("POST", "streamsets/updates", query)
        except (NotFoundError, UnsupportedError):
            if not self.features.has_updates:  # one that had it means a stream, or a marker
                self.features.has_updates = False
            raise
        self.features.has_updates = True
        return body

    async def websocket(self, path: str, query: Query = ()) -> aiohttp.ClientWebSocketResponse:
        """An open websocket of this path: pings are the caller's to answer, messages have 16 MiB at most."""
        target = requests.written(path, query)
        again = True
        while True:
            address = self.address
            identity = self._identity
            version, headers = await self._headers(address, identity, fresh=False)
            async with self.pace.turn(LIVE):
                self._may(address)
                try:
                    socket = await within(
                        CONNECT + min(self._settings.request_timeout, 3 * CONNECT),
                        self._open(f"{address}/{target}", headers),
                    )
                except aiohttp.WSServerHandshakeError as error:
                    refused = _handshake(error)
                except _RAISED as error:
                    raise await self._failure(address, error) from None
                except BaseException:
                    self._breaker(address).abandoned()
                    raise
                else:
                    self._well(address)
                    identity.accepted()
                    return socket
            self._judge(address, refused, None)
            again = await self._repeat(refused, identity, version, again)

    async def _open(self, url: str, headers: Mapping[str, str]) -> aiohttp.ClientWebSocketResponse:
        context = await self._context(url)
        socket = await self._lines()[1].ws_connect(
            URL(url, encoded=True),
            headers={name: value for name, value in headers.items() if name != "Accept"},
            ssl=context,
            autoping=False,
            max_msg_size=LARGEST_MESSAGE,
            timeout=aiohttp.ClientWSTimeout(ws_close=CONNECT),
        )
        return cast(aiohttp.ClientWebSocketResponse, socket)  # texts are decoded: that is the default

    # --- one request ---

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Query = (),
        *,
        priority: Priority = LIVE,
        fresh: bool = False,
        content: bytes | None = None,
    ) -> tuple[bytes, Instant | None]:
        """A checked answer, and its Date."""
        _permitted(method, path)
        target = requests.written(path, query)
        again = True
        while True:
            address = self.address
            async with self.pace.turn(priority):
                identity = self._identity
                version, headers = await self._headers(address, identity, fresh=fresh)
                self._may(address)
                try:
                    status, told, body, date = await self._send(method, f"{address}/{target}", headers, content)
                except _RAISED as error:
                    raise await self._failure(address, error) from None
                except BaseException:
                    self._breaker(address).abandoned()
                    raise
            try:
                answers.check(status, told, body)
            except RefusedError as error:
                self._judge(address, error, answers.retry_after(told))
                again = await self._repeat(error, identity, version, again)
                continue
            except MalformedError:
                self._well(address)  # it is there; what it says is another question
                raise
            self._well(address)
            identity.accepted()
            self.pace.well()
            return body, date

    async def _headers(self, address: str, identity: Identity, *, fresh: bool) -> tuple[int, dict[str, str]]:
        """What stands above each request. Raises CredentialsError and UnauthorizedError."""
        if (error := unencrypted(self._settings, address) or token_unencrypted(self._settings)) is not None:
            raise error
        version, headers = await identity.headers()
        headers.update(
            {
                "X-Requested-With": "Sluice",
                "User-Agent": "Sluice",
                "Accept": "application/json",
                "Accept-Encoding": "gzip, deflate",
            }
        )
        if fresh:
            headers["Cache-Control"] = "no-cache"
        return version, headers

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[int, CIMultiDictProxy[str], bytes, Instant | None]:
        context = await self._context(url)
        if content is not None:
            headers = {**headers, "Content-Type": "application/json"}
        # A line that was kept open may have been closed by the other end just now. aiohttp repeats a GET then; the
        # two POSTs are as harmless to repeat.
        for last in (method == "GET", True):
            sent = time.time()
            try:
                async with self._lines()[0].request(
                    method,
                    URL(url, encoded=True),
                    headers=headers,
                    data=content,
                    ssl=context,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=self._settings.request_timeout, connect=2 * CONNECT, sock_connect=CONNECT
                    ),
                ) as response:
                    header = response.headers.get("Date")
                    ours = url.startswith(f"{self.address}/")
                    date = self.clock.date(header, sent, time.time()) if ours else from_date(header)
                    return response.status, response.headers, await _body(response), date
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if last or isinstance(error, aiohttp.ClientConnectorError):
                    raise
        raise AssertionError("unreachable")

    async def _repeat(self, error: RefusedError, identity: Identity, version: int, again: bool) -> bool:
        """Comes back when the request is worth a repetition, which is the last one; raises the error otherwise."""
        if not isinstance(error, UnauthorizedError):
            raise error
        if again and await identity.refused(version):
            return False
        identity.deny(version, error)
        raise error

    def _lines(self) -> tuple[aiohttp.ClientSession, aiohttp.ClientSession]:
        """For requests, and for websockets: these keep their line for days, and must not take it from requests."""
        if self._closed:
            raise RuntimeError(f"the client of {self.name} is closed")
        if self._session is None or self._sockets is None:
            self._session, self._sockets = _session(_LINES), _session(0)
        return self._session, self._sockets

    async def _context(self, url: str) -> ssl.SSLContext | bool:
        return await self._trust.context() if url.startswith(("https:", "wss:")) else True

    async def _post_form(self, url: str, form: bytes) -> tuple[int, bytes]:
        """Ask for a token. It is no part of PI, and gets nothing but the form."""
        if (why := token_unencrypted(self._settings)) is not None:
            raise why
        try:
            async with self._lines()[0].post(
                URL(url),
                data=form,
                headers={"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
                ssl=await self._context(url),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=30, connect=2 * CONNECT, sock_connect=CONNECT),
            ) as response:
                return response.status, await _bounded(response, _LARGEST_TOKEN) or b""
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            problem, remedy = explain(await self._told(url, error), self._settings)
            raise UnreachableError(problem, remedy) from None

    # --- what becomes of it ---

    async def _failure(self, address: str, error: Exception) -> PiError:
        """A request had no answer: what it is in our words. It is remembered of the address."""
        if isinstance(error, CredentialsError):
            self._breaker(address).abandoned()
            return error
        if isinstance(error, (RefusedError, aiohttp.ClientPayloadError)):
            self._well(address)  # it is there, and answers with too much, or breaks off
            return error if isinstance(error, PiError) else MalformedError(*explain(error, self._settings))
        told = await self._told(address, error)
        if isinstance(error, asyncio.TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
            self.pace.overloaded()
        self._away(address, told)
        return told

    async def _told(self, address: str, error: Exception) -> PiError:
        if isinstance(error, PiError):
            return error
        certificate = certificate_error(error)
        if certificate is not None:
            shown = await tls.look(address)
            return UntrustedError(*tls.why(certificate, shown, address, datetime.now(timezone.utc)))
        return UnreachableError(*explain(error, self._settings))

    def _judge(self, address: str, error: RefusedError, wait: float | None) -> None:
        """The server answered with an error: what it means for its address, and for how much is asked.

        wait: seconds of its Retry-After.
        """
        if isinstance(error, ThrottledError):
            self.pace.overloaded(error.retry_after)
        elif error.status == 503:
            self.pace.overloaded(wait or 0.0)
        if error.status in _AWAY:
            self._away(address, error)
        else:
            self._well(address)

    def _breaker(self, address: str) -> Breaker:
        return self._breakers.setdefault(address, Breaker())

    def _may(self, address: str) -> None:
        """Raises why the address is not asked at present."""
        now = asyncio.get_running_loop().time()
        breaker = self._breaker(address)
        if not breaker.may(now):
            raise _again(self._errors[address])

    def _well(self, address: str) -> None:
        self._breaker(address).well()
        self._errors.pop(address, None)
        if address == self.address:
            self._failures = 0

    def _away(self, address: str, error: PiError) -> None:
        self._errors[address] = error
        breaker = self._breaker(address)
        breaker.failed(asyncio.get_running_loop().time())
        if address == self.address:
            self._failures += 1
            if (self._failures >= GIVEN_UP or breaker.failures > FAILURES) and len(self._addresses) > 1:
                self._switch(error.problem)

    def _switch(self, why: str) -> None:
        """To the next address that is not left alone at present, or simply the next."""
        now = asyncio.get_running_loop().time()
        order = [(self._at + step) % len(self._addresses) for step in range(1, len(self._addresses))]
        before = self.address
        self._at = next((i for i in order if not self._breaker(self._addresses[i]).closed_for(now)), order[0])
        self._switches += 1
        logger.warning("Connection %s: %s %s; %s is used from now on", self.name, before, why, self.address)
        self._use_another()

    def _use_another(self) -> None:
        """Another server process answers from now on: what was known of the old one does not hold."""
        self._failures = self._pages = 0
        self.generation += 1
        self.features = Features()
        self._process = features.Process()
        self._health = None
        self._silent = False

    # --- what is there, and how it is ---

    async def _learn(self) -> None:
        for path in ("", "system", "system/versions"):
            try:
                self.features.version = features.version(features.read(await self.get(path, fresh=True)))
            except RefusedError as error:
                if not path or not isinstance(error, (NotFoundError, ForbiddenError, UnsupportedError)):
                    raise  # the landing page is for everybody: what keeps us from it keeps us from all
                logger.info("Connection %s: %s: %s", self.name, path, error.problem)
            if self.features.version:
                break
        await self._look()
        await self._look_at_process()

    async def health(self) -> Health:
        """How the server is, known from a look that is repeated every second or so. Never raises or waits long."""
        now = asyncio.get_running_loop().time()
        if self._health is None or now - self._looked > 2 * self._every:
            if self.pace.rules.held(now) > 0:
                return _HELD
            with contextlib.suppress(asyncio.TimeoutError):
                await within(_WAIT, self._look_safely())
        return self._health or Health(
            "unreachable", f"does not answer within {_WAIT:g} s", "none is needed if it does soon"
        )

    @property
    def _every(self) -> float:
        """Seconds between looks at the server's time: a tenth of the permitted requests at most."""
        return max(1.0, 10.0 / self._settings.load.requests_per_second)

    async def _look(self) -> Look:
        """The server's time and its archives, by one small request."""
        sent = time.time()
        generation = self.generation
        try:
            body, date = await self._exchange("GET", *requests.data_servers(), fresh=True)
            servers = features.data_servers(features.read(body))
        except (NotFoundError, UnsupportedError) as error:
            return await self._look_at_date(error)
        except RefusedError as error:
            if error.status not in (400, 403):
                raise
            return await self._look_at_date(error)
        received = time.time()
        concerned = features.concerned(servers, (self._settings.data_server, *self.servers))
        known = [server.time for server in concerned if server.connected and server.time is not None]
        least = min(known, key=lambda instant: instant.ns, default=None)
        if generation == self.generation:
            if least is not None or all(server.connected for server in concerned):
                self.clock.server_time(least, sent, received)
            self._note(features.health(concerned))
        most = max(known, key=lambda instant: instant.end, default=None)
        return Look(date, most)

    async def _look_at_date(self, error: RefusedError) -> Look:
        """The list of archives is not for us: the time is that of the Date header alone."""
        if not self._silent:
            self._silent = True
            logger.info("Connection %s: the archive's own time is not to be had: %s", self.name, error.problem)
        self.clock.server_time(None, 0.0, 0.0)
        _, date = await self._exchange("GET", "", fresh=True)
        self._note(Health("well"))
        return Look(date, None)

    async def _look_at_process(self) -> None:
        """Whether the server was started anew."""
        try:
            body, date = await self._exchange("GET", "system/status", fresh=True)
            content = features.read(body)
        except RefusedError as error:
            if error.status in _AWAY or isinstance(error, (UnauthorizedError, ThrottledError)):
                raise
            return  # it is not for us; a restart then shows by markers and channels that are gone
        if self._process.another(content, date):
            logger.info("Connection %s: the server was started anew", self.name)
            self._use_another()

    async def _look_safely(self) -> None:
        address = self.address
        try:
            await self._look()
        except ThrottledError as error:
            self._note(Health("busy", error.problem, error.remedy))
        except (UnreachableError, UnavailableError, MalformedError) as error:
            self._note(Health("unreachable", error.problem, error.remedy))
            if isinstance(error, MalformedError) and address == self.address:
                self._pages += 1
                if self._pages >= GIVEN_UP and len(self._addresses) > 1:
                    self._switch(error.problem)
        except PiError as error:
            place, _ = place_of(error, self._settings)
            self._note(Health("refused", error.problem, error.remedy, place))
        else:
            self._pages = 0

    def _note(self, health: Health) -> None:
        self._health = health
        self._looked = asyncio.get_running_loop().time()

    async def _tend(self) -> None:
        """Keep the server's time, its health and the way back to the first address. Never ends by itself."""
        loop = asyncio.get_running_loop()
        looks = well = 0
        back = loop.time() + RETURN
        while True:
            await asyncio.sleep(self._every)
            try:
                await self._look_safely()
                looks += 1
                if looks % _STATUS_EVERY == 0 and self._health is not None and self._health.state != "unreachable":
                    await self._look_at_process()
                self._tell_clock()
                if self._at == 0:
                    well, back = 0, loop.time() + RETURN
                elif loop.time() >= back:
                    back = loop.time() + RETURN
                    well = well + 1 if await self._first_is_well() else 0
                    if well >= RETURN_AFTER:
                        self._return()
            except PiError as error:
                logger.debug("Connection %s: %s", self.name, error)
            except Exception:
                logger.exception("Connection %s: looking after the server failed; it goes on", self.name)

    async def _first_is_well(self) -> bool:
        """One look at the first address, beside all counting."""
        address = self._addresses[0]
        try:
            _, headers = await self._headers(address, self._identity, fresh=True)
            for path in ("system/status", ""):  # the landing page is for everybody
                async with self.pace.turn(LIVE):
                    status, told, body, _ = await self._send("GET", f"{address}/{path}", headers, None)
                if status not in (403, 404, 405):
                    break
            answers.check(status, told, body)
        except (PiError, aiohttp.ClientError, OSError, asyncio.TimeoutError):
            return False
        return True

    def _return(self) -> None:
        logger.info("Connection %s: %s is well again and used from now on", self.name, self._addresses[0])
        self._breaker(self._addresses[0]).well()
        self._at = 0
        self._use_another()

    def _tell_clock(self) -> None:
        trouble = self.clock.trouble()
        if trouble is None:
            self._problems.clear(self._scope)
        else:
            self._problems.report(self._scope, *trouble, self.address)

    def status(self) -> dict[str, Any]:
        """For the status: the address, what is known of the server, and how much is asked of it."""
        told: dict[str, Any] = {
            "address": self.address,
            **self.features.status(),
            **self.clock.status(),
            **self.pace.status(),
        }
        if self._at:
            told["instead_of"] = self._addresses[0]
        if self._switches:
            told["fail_overs"] = self._switches
        if insecure := self._trust.insecure:
            told["insecure"] = insecure
        return told


def _session(lines: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=lines, keepalive_timeout=_IDLE, ttl_dns_cache=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None, connect=2 * CONNECT, sock_connect=CONNECT),
    )


async def _body(response: aiohttp.ClientResponse) -> bytes:
    if 200 <= response.status < 300:
        body = await _bounded(response, answers.LARGEST)
        if body is None:
            raise answers.too_large()
        return body.removeprefix(answers.BYTE_ORDER_MARK)
    return await _bounded(response, answers.LARGEST_ERROR) or b""


async def _bounded(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """The body, unpacked; None when it is larger than that: the line is closed, and the rest never read."""
    size = 0
    pieces: list[bytes] = []
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > most:
            response.close()
            return None
        pieces.append(piece)
    return b"".join(pieces)


def _resource(part: Mapping[str, Any], base: str) -> dict[str, Any]:
    """A part of a batch whose addresses have a host: that of the one in use."""
    whole = dict(part)
    if isinstance(whole.get("Resource"), str):
        whole["Resource"] = _whole(whole["Resource"], base)
    template = whole.get("RequestTemplate")
    if isinstance(template, Mapping) and isinstance(template.get("Resource"), str):
        whole["RequestTemplate"] = {**template, "Resource": _whole(template["Resource"], base)}
    return whole


def _whole(resource: str, base: str) -> str:
    return resource if resource.startswith(("https:", "http:", "{")) else base + resource


def _handshake(error: aiohttp.WSServerHandshakeError) -> RefusedError:
    """A websocket that was not opened; aiohttp keeps no text of the answer."""
    if error.status == 200 or error.status == 101:
        return UnsupportedError(
            error.status,
            (),
            f"opens no websocket ({error.status})",
            "see that what stands between us and the server lets websockets pass (Upgrade)",
        )
    return answers.refusal(error.status, (), wait=answers.retry_after(error.headers or {}))


def _again(error: PiError) -> PiError:
    """The error that an address is left alone for, said once more. No seconds: each would be another text to tell."""
    remedy = f"{error.remedy}; it is asked again once a minute at least"
    if isinstance(error, RefusedError):
        return type(error)(error.status, error.errors, error.problem, remedy)
    return type(error)(error.problem, remedy)
