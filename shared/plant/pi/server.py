"""The PI Web API server: everything that `http_api` reads, channels, stream updates, logins, TLS, and faults to order.

    system = PiSystem(clock)
    async with PiServer(system, clock, Options()) as server:
        server.url                        http://127.0.0.1:<port>/piwebapi
        server.faults.cut()
        server.requests["GET streamsets/recorded"]

It listens on the loopback interface alone. Every request is counted by its verb and route, so that a test can show that
nobody ever wrote. `/_sim/…` (see `control`) is the way to the faults from outside; it is not counted.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import struct
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web

from plant.pi import control, http_api
from plant.pi.activity import Activity
from plant.pi.api_options import ApiOptions
from plant.pi.authentication import ANONYMOUS, TOKEN_PATH, USER, Authentication
from plant.pi.channels import ChannelOptions, Channels
from plant.pi.clock import Clock
from plant.pi.faults import Faults, Handler, zipped
from plant.pi.inlet import Inlet
from plant.pi.points import PiPoint
from plant.pi.system import Change, PiSystem, PointChange
from plant.pi.truth import Sample, Truth
from plant.pi.updates import Updates, UpdatesError, UpdatesOptions

_LOG = logging.getLogger("plant.pi")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_HOST = "127.0.0.1"
_BASE = "/piwebapi"
_UPDATES = "streamsets/updates"
_ANY = "/{path}"  # the route that takes what no other does
_SHUTDOWN_S = 1.0
_WORD = re.compile(r"\{(_\d+)[^}]*\}")
_TRUTHS = ("true", "1", "yes")


@dataclass(frozen=True, slots=True)
class Options:
    """Everything in which servers differ. `api` is what the reading part takes."""

    port: int = 0
    """0 takes a free one."""
    api: ApiOptions = field(default_factory=ApiOptions)
    channels: ChannelOptions = field(default_factory=ChannelOptions)
    updates: UpdatesOptions | None = field(default_factory=UpdatesOptions)
    """None: the server is too old for stream updates, and answers 404."""
    csrf: bool = True
    """Whether a POST needs the header X-Requested-With."""
    rate_limit: int | None = None
    """Requests of a client in `rate_s` of our seconds; more are answered 429. PI Web API's own is 1000 in 1 s."""
    rate_s: float = 1.0
    gzip_least: int = 1400
    """Bytes from which on an answer is compressed for clients that take it."""
    url_bytes: int = 16_000
    """The longest address that the system below takes (http.sys); a longer one is answered 414."""
    seed: int = 0
    """Decides what is left to chance."""


class PiServer:
    """Serves a system.

    Args:
        system: what is served; it may be changed while it is.
        clock: the server's clock, also the system's.
        options: in what it differs from others.
        log: its own log; without one nothing is kept.
        authentication: who may ask; without it everybody.
        tls: what it is served with; without it plain HTTP.
    """

    def __init__(
        self,
        system: PiSystem,
        clock: Clock,
        options: Options | None = None,
        *,
        log: Truth | None = None,
        authentication: Authentication | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.system = system
        self.clock = clock
        self.options = options or Options()
        self.truth = log or Truth()
        self.authentication = authentication or Authentication()
        self.requests: Counter[str] = Counter()
        """How often each verb was used on each route, such as "GET streamsets/recorded"; ids are {id}."""
        self.url = ""
        self._tls = tls
        self._closing: list[asyncio.Task[None]] = []
        self._limits: dict[str, deque[float]] = {}
        self._runner: web.AppRunner | None = None
        self._port = self.options.port
        system.listeners.append(self._reached)
        system.point_listeners.append(self._point_changed)
        for point in system:
            self.truth.point(point.id, point.name, point.definition.type)
        seed = self.options.seed
        self.faults = Faults(self, clock, self.truth, seed=seed)
        self.api = http_api.Api(system, self.options.api, value_error=self._value_error)
        self.channels = Channels(system, clock, self.faults, self.truth, self.options.channels, seed=seed)
        self.updates: Updates | None = None
        if self.options.updates is not None:
            self.updates = Updates(clock, self.options.updates)
            system.listeners.append(self.updates.changed)
        self.inlet = Inlet(system, self.faults)
        self.activity = Activity(system, self.inlet, clock, seed=seed)

    async def __aenter__(self) -> PiServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen. A server that was closed may be started again: it has the same address then."""
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, _HOST, self._port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"{'http' if self._tls is None else 'https'}://{_HOST}:{self._port}{_BASE}"

    async def close(self) -> None:
        """Close every channel with 1001, and then everything. No marker is known afterwards."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        closing = self.channels.close(1001)
        if closing:
            await asyncio.wait(closing, timeout=_SHUTDOWN_S)
        if runner.server is not None:
            for connection in list(runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
        await runner.cleanup()
        if self.updates is not None:
            self.updates.forget()

    @property
    def watched(self) -> set[int]:
        """Points that a channel or an updates registration follows, or that were asked for since the start."""
        followed = self.channels.watched() | self.api.asked
        return followed if self.updates is None else followed | self.updates.watched()

    @property
    def written(self) -> int:
        """Requests that could have changed something in PI: any but GET, and the POSTs of batch and updates."""
        return sum(count for name, count in self.requests.items() if not _reads(name))

    # ---- what faults do

    def cut(self) -> int:
        """Reset every connection; how many."""
        if self._runner is None or self._runner.server is None:
            return 0
        open_ones = [one.transport for one in self._runner.server.connections if one.transport is not None]
        for transport in open_ones:
            _reset(transport)
        return len(open_ones)

    def close_channels(self, code: int) -> int:
        """Close every channel with that code; how many."""
        self._closing = self.channels.close(code)
        return len(self._closing)

    def oversize(self, size: int) -> None:
        """Let the next frame of each channel be that large."""
        self.channels.oversize(size)

    def forget(self) -> None:
        """Know no marker any more, and begin anew."""
        self.api.started_ns = self.clock.now_ns()
        if self.updates is not None:
            self.updates.forget()

    def arrive_late(self, values: int, back_s: float) -> int:
        """Values from so long ago arrive now."""
        return self.activity.late(values, back_s)

    def delete_point(self, name: str) -> None:
        """Remove a point."""
        self.system.remove(self._named(name))

    def rename_point(self, name: str, to: str) -> None:
        """Give a point another name."""
        self.system.rename(self._named(name), to)

    def recreate_point(self, name: str) -> None:
        """Remove a point and make one with the same name."""
        self.system.recreate(self._named(name))

    def connected(self, connected: bool) -> None:
        """Whether the archive can be reached."""
        self.system.connected = connected

    def export(self) -> int:
        """Write what the archive holds into the log; how many events."""
        count = 0
        for point in self.system:
            events = self.system.archived(point)
            self.truth.archive(point.id, (Sample.of(point.id, event) for event in events))
            count += len(events)
        return count

    def _named(self, name: str) -> PiPoint:
        point = self.system.by_name(str(name))
        if point is None:
            raise KeyError(name)
        return point

    def _value_error(self, point: PiPoint) -> str | None:
        return self.faults.value_error(point.id)

    # ---- what happens in the system

    def _reached(self, changes: Sequence[Change]) -> None:
        # The first listener: the log has it before anybody can be told.
        self.truth.note(self.clock.now_ns(), [(Sample.of(c.point.id, c.event), c.action) for c in changes])

    def _point_changed(self, point: PiPoint, change: PointChange) -> None:
        if change in ("added", "renamed"):
            self.truth.point(point.id, point.name, point.definition.type)
        if change != "added" and self.updates is not None:
            self.updates.point_changed(point.id, removed=change == "removed")

    # ---- requests

    def _application(self) -> web.Application:
        application = web.Application(
            middlewares=[self._middleware], handler_args={"max_line_size": 65_536, "max_field_size": 65_536}
        )
        application.on_response_prepare.append(self._dated)
        application.add_routes(
            [
                web.get(_any_case("streams/{webId}/channel"), self._channel),
                web.get(_any_case("streamsets/channel"), self._channel),
                web.get(_any_case("channels/instances"), self._instances),
                web.post(TOKEN_PATH, self.authentication.token),
                *control.routes(self),
            ]
        )
        if self.updates is not None:
            application.add_routes(
                [
                    web.post(_any_case("streamsets/updates"), self._register),
                    web.get(_any_case("streamsets/updates"), self._updates),
                    web.post(_any_case("streams/{webId}/updates"), self._register_one),
                    web.get(_any_case("streams/updates/{marker}"), self._updates_one),
                ]
            )
        application.add_routes(self.api.routes(_BASE))  # the last of them takes all that no other does
        return application

    async def _dated(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = self.clock.date()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(control.PREFIX):
            return await _answered(request, handler)
        self.requests[f"{request.method} {_route(request)}"] += 1

        async def allowed(request: web.Request) -> web.StreamResponse:
            refused = self._refused(request)
            return refused if refused is not None else await _answered(request, handler)

        response = await self.faults.answer(request, allowed)
        if not response.prepared:
            zipped(request, response, self.options.gzip_least)
        return response

    def _refused(self, request: web.Request) -> web.Response | None:
        """What a request gets that is not let in."""
        if len(request.raw_path) > self.options.url_bytes:
            return _errors(414, "The request URL is too long.")
        if request.path == TOKEN_PATH:
            return None
        user = self.authentication.who(request.headers.get("Authorization"))
        if user is None:
            response = _errors(401, "Authorization has been denied for this request.")
            for challenge in self.authentication.challenges():
                response.headers.add("WWW-Authenticate", challenge)
            return response
        request[USER] = user
        if self.options.csrf and request.method not in ("GET", "HEAD") and "X-Requested-With" not in request.headers:
            return _errors(400, "The X-Requested-With header is missing: the request may be forged.")
        if self._too_many(request.remote or ""):
            response = _errors(429, "The rate limit was exceeded.")
            response.headers["Retry-After"] = str(max(1, round(self.options.rate_s)))
            return response
        return None

    def _too_many(self, client: str) -> bool:
        if self.options.rate_limit is None:
            return False
        now = time.monotonic()
        recent = self._limits.setdefault(client, deque())
        while recent and recent[0] <= now - self.options.rate_s:
            recent.popleft()
        if len(recent) >= self.options.rate_limit:
            return True
        recent.append(now)
        return False

    async def _channel(self, request: web.Request) -> web.StreamResponse:
        points, web_ids, failure = self._points(request)
        if failure is not None:
            return failure
        return await self.channels.serve(
            request,
            points,
            web_ids,
            initial=_one(request, "includeInitialValues").lower() in _TRUTHS,
            heartbeat=_whole(_one(request, "heartbeatRate")),
        )

    async def _instances(self, request: web.Request) -> web.Response:
        return web.json_response(self.channels.instances())

    async def _register(self, request: web.Request) -> web.Response:
        assert self.updates is not None
        items, markers = [], []
        for web_id in _all(request, "webId"):
            item = self._registered(request, web_id)
            items.append(item)
            if "LatestMarker" in item:
                markers.append(f"marker={item['LatestMarker']}")
        if not items:
            return _errors(400, "The parameter webId is missing.")
        location = f"{self.url}/streamsets/updates?{'&'.join(markers)}"
        return web.json_response({"Items": items, "Links": {}}, headers={"Location": location})

    async def _register_one(self, request: web.Request) -> web.Response:
        item = self._registered(request, request.match_info["webId"])
        if "LatestMarker" not in item:
            return _errors(404, *item["Exception"]["Errors"])
        return web.json_response(item, headers={"Location": f"{self.url}/streams/updates/{item['LatestMarker']}"})

    def _registered(self, request: web.Request, web_id: str) -> dict[str, Any]:
        assert self.updates is not None
        point, problem = self._found(request, web_id)
        if point is None:
            return self.updates.failed(web_id, [problem])
        if self.faults.archive_is_down:
            return self.updates.failed(web_id, ["The PI Data Archive is not available."])
        return self.updates.register(point, self.api.web_id(request, point))

    async def _updates(self, request: web.Request) -> web.Response:
        assert self.updates is not None
        markers = _all(request, "marker")
        if not markers:
            return _errors(400, "The parameter marker is missing.")
        try:
            return self.api.answer(request, {"Items": self.updates.answer(markers), "Links": {}})
        except UpdatesError as error:
            return _errors(error.status, error.text)

    async def _updates_one(self, request: web.Request) -> web.Response:
        assert self.updates is not None
        try:
            return self.api.answer(request, self.updates.updates(request.match_info["marker"]))
        except UpdatesError as error:
            return _errors(error.status, error.text)

    def _points(self, request: web.Request) -> tuple[list[PiPoint], list[str], web.Response | None]:
        """The points of a channel with the web ids that its frames name them by; or why it cannot be opened at all."""
        asked = [request.match_info["webId"]] if "webId" in request.match_info else _all(request, "webId")
        if not asked:
            return [], [], _errors(400, "The parameter webId is missing.")
        points: dict[int, PiPoint] = {}
        for web_id in asked:
            point, problem = self._found(request, web_id)
            if point is None:
                return [], [], _errors(404, problem)
            points[point.id] = point
        return list(points.values()), [self.api.web_id(request, point) for point in points.values()], None

    def _found(self, request: web.Request, web_id: str) -> tuple[PiPoint | None, str]:
        """The point of a web id that may be read; else why not."""
        point = self.system.by_web_id(web_id)
        user = request.get(USER, ANONYMOUS)
        visible = None if point is None else point.definition.visible_to
        if point is None or (visible is not None and user not in visible):
            return None, f"The specified WebID {web_id!r} was not found."
        if point.definition.readers is not None and user not in point.definition.readers:
            return None, f"[-10401] No Read Access - Secure Object: {point.name}"
        return point, ""


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The handler's answer, or what went wrong in it in PI Web API's words."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _errors(error.status, error.text or error.reason)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as error:  # noqa: BLE001 - a server answers, whatever goes wrong within
        _LOG.exception("%s %s", request.method, request.path)
        return _errors(500, f"{type(error).__name__}: {error}")


def _errors(status: int, *texts: str) -> web.Response:
    return web.json_response({"Errors": list(texts)}, status=status)


def _route(request: web.Request) -> str:
    """The route that serves the request, without the base."""
    resource = request.match_info.route.resource
    path = request.path if resource is None else resource.canonical
    if path == _ANY and request.path.lower() == f"{_BASE}/{_UPDATES}":  # of a server that has no updates
        return _UPDATES
    return _WORD.sub(lambda word: request.match_info[word[1]].lower(), path).removeprefix(_BASE).strip("/")


def _any_case(route: str) -> str:
    """A route below the base whose words are known in any case."""
    parts = [
        part if part.startswith("{") else f"{{_{number}:(?i:{part})}}" for number, part in enumerate(route.split("/"))
    ]
    return f"{_BASE}/{'/'.join(parts)}"


def _reads(name: str) -> bool:
    verb, _, route = name.partition(" ")
    if verb in ("GET", "HEAD"):
        return True
    return verb == "POST" and (route == "batch" or route.endswith("/updates") or route == TOKEN_PATH.strip("/"))


def _all(request: web.Request, name: str) -> list[str]:
    """All values of a parameter, whatever its case."""
    return [value for key, value in request.query.items() if key.lower() == name.lower()]


def _one(request: web.Request, name: str) -> str:
    """The last value of a parameter; nothing when there is none."""
    return (_all(request, name) or [""])[-1]


def _whole(text: str) -> int:
    return int(text) if text.removeprefix("-").isdigit() else 0


def _reset(transport: asyncio.Transport) -> None:
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except OSError:
            _LOG.debug("a connection was closed already")
    transport.abort()


__all__ = ["Options", "PiServer"]
