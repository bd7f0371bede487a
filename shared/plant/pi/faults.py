"""What goes wrong with a PI server, to order.

    server.faults.throttle(share=0.3, retry_after=2)      as a method, in process
    server.faults.inject("throttle", {"share": 0.3})      by name: the control API and the commands of the process
    server.faults.heal("throttle")                        one is over; heal() ends all

Each is counted (`counts`) and goes into the plant's own log. Those that last until they are healed say so:

| fault | what happens |
|---|---|
| `cut` | every connection is reset (RST); new ones work |
| `close` | every channel is closed with a websocket code: 1001 as when a server goes away |
| `silence` | lasts: what is open stays open and says nothing more, new ones too; then they are all reset |
| `refuse_upgrades` | lasts: no channel is opened; an HTTP status instead |
| `delay` | lasts: each answer comes so much later |
| `throttle` | lasts: a share of requests is answered 429 with Retry-After |
| `errors` | lasts: a share of requests is answered with a status such as 500 or 503 |
| `web_exceptions` | lasts: a share of answers is 200 with half of its values and a WebException; cut: broken JSON |
| `truncate` | lasts: a share of answers is 200 and ends in the middle |
| `drip` | lasts: answers come at so many bytes per second |
| `value_errors` | lasts: a share of points answers with Errors in the place of values |
| `archive_down` | lasts: IsConnected false, Errors for values, mute channels; what is written arrives afterwards |
| `skew` | lasts: the clock is wrong by seconds: all of it, or its Date header alone |
| `duplicate` | lasts: a share of frames is sent twice |
| `oversize` | the next frame of each channel is larger than any client wants it |
| `late` | values with times long ago arrive at once |
| `delete_point`, `rename_point`, `recreate_point` | somebody changes the points |
| `restart` | no marker and no channel is known any more, as of a server that was started again |
"""

from __future__ import annotations

import asyncio
import gzip
import inspect
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import orjson
from aiohttp import web

from plant.pi.clock import Clock
from plant.pi.system import PiError
from plant.pi.truth import Truth

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LASTING = (
    "silence",
    "refuse_upgrades",
    "delay",
    "throttle",
    "errors",
    "web_exceptions",
    "truncate",
    "drip",
    "value_errors",
    "archive_down",
    "skew",
    "duplicate",
)
MOMENTARY = ("cut", "close", "oversize", "late", "delete_point", "rename_point", "recreate_point", "restart")

_WEB_EXCEPTION = {"Errors": ["Error occurred during writing of the output stream."], "StatusCode": 500}
_DRIPS_PER_SECOND = 20


class FaultError(ValueError):
    """A fault that is none; the text names it and what there is."""


class Hands(Protocol):
    """What a server lets be done to it."""

    def cut(self) -> int:
        """Reset every connection; how many."""

    def close_channels(self, code: int) -> int:
        """Close every channel with that code; how many."""

    def oversize(self, size: int) -> None:
        """Let the next frame of each channel be that large."""

    def forget(self) -> None:
        """Know no marker any more, and begin anew."""

    def connected(self, connected: bool) -> None:
        """Whether the archive can be reached."""

    def arrive_late(self, values: int, back_s: float) -> int:
        """Let values from so long ago arrive now; how many did."""

    def delete_point(self, name: str) -> None:
        """Remove a point. Raises KeyError."""

    def rename_point(self, name: str, to: str) -> None:
        """Give a point another name. Raises KeyError."""

    def recreate_point(self, name: str) -> None:
        """Remove a point and make one with the same name. Raises KeyError."""


class Faults:
    """The faults at work. `seed` decides who is hit by a share."""

    def __init__(self, hands: Hands, clock: Clock, truth: Truth, *, seed: int = 0) -> None:
        self._hands = hands
        self._clock = clock
        self._truth = truth
        self._random = random.Random(seed)  # noqa: S311 - chance, not a secret
        self._active: dict[str, dict[str, Any]] = {}
        self._loud = asyncio.Event()
        self._loud.set()
        self.healed: list[Callable[[str], None]] = []
        """Called with the name of each lasting fault that is over."""
        self.counts: Counter[str] = Counter()
        """How often each was ordered."""
        self.hits: Counter[str] = Counter()
        """How many answers, frames, connections, channels or values each has hit."""

    # ---- by name

    def inject(self, name: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Order a fault by its name. Raises FaultError for one that is none, or arguments that it does not take."""
        if name not in (*LASTING, *MOMENTARY):
            raise FaultError(f"fault {name!r}: expected one of {', '.join((*LASTING, *MOMENTARY))}")
        method = getattr(self, name)
        try:
            bound = inspect.signature(method).bind(**(arguments or {}))
        except TypeError as error:
            raise FaultError(f"fault {name}: {error}; it takes {inspect.signature(method)}") from error
        try:
            return method(*bound.args, **bound.kwargs)
        except KeyError as error:
            raise FaultError(f"fault {name}: there is no point {error}") from error
        except (TypeError, ValueError, PiError) as error:
            raise FaultError(f"fault {name}: {error}") from error

    def heal(self, name: str | None = None) -> None:
        """End a lasting fault, or all of them. Raises FaultError for a name that is none."""
        if name is not None and name not in LASTING:
            raise FaultError(f"fault {name!r} cannot be healed: expected one of {', '.join(LASTING)}")
        for one in [name] if name is not None else list(self._active):
            if self._active.pop(one, None) is None:
                continue
            self._truth.fault(self._clock.now_ns(), "heal", {"fault": one})
            if one == "silence":
                self._loud.set()
                self._hands.cut()
            elif one == "skew":
                self._clock.skew(0.0)
                self._clock.skew(0.0, date_only=True)
            elif one == "archive_down":
                self._hands.connected(True)
            for told in self.healed:
                told(one)

    @property
    def active(self) -> dict[str, dict[str, Any]]:
        """The lasting faults at work, each with its arguments."""
        return dict(self._active)

    # ---- connections

    def cut(self) -> None:
        """Reset every connection."""
        self._noted("cut")
        self.hits["cut"] += self._hands.cut()

    def close(self, code: int = 1001) -> None:
        """Close every channel."""
        self._noted("close", code=_code(code))
        self.hits["close"] += self._hands.close_channels(_code(code))

    def silence(self) -> None:
        """Half-open: everything is taken and nothing answered."""
        self._lasts("silence")
        self._loud.clear()

    @property
    def silent(self) -> bool:
        """Whether nothing may be said."""
        return not self._loud.is_set()

    async def loud(self) -> None:
        """Wait while nothing may be said."""
        await self._loud.wait()

    def refuse_upgrades(self, status: int = 503) -> None:
        """No channel is opened."""
        self._lasts("refuse_upgrades", status=_status(status))

    def restart(self) -> None:
        """No marker and no channel is known any more."""
        self._noted("restart")
        self._hands.forget()
        self.hits["restart"] += self._hands.cut()

    # ---- answers

    def delay(self, seconds: float) -> None:
        """Each answer comes so many of our seconds later."""
        self._lasts("delay", seconds=_number(seconds))

    def throttle(self, share: float = 1.0, retry_after: float = 1.0) -> None:
        """429 with Retry-After in seconds."""
        self._lasts("throttle", share=_share(share), retry_after=_number(retry_after))

    def errors(self, status: int = 503, share: float = 1.0) -> None:
        """A status instead of an answer."""
        self._lasts("errors", status=_status(status), share=_share(share))

    def web_exceptions(self, share: float = 1.0, cut: bool = False) -> None:
        """200 with half of the values and a WebException."""
        self._lasts("web_exceptions", share=_share(share), cut=bool(cut))

    def truncate(self, share: float = 1.0) -> None:
        """200 with JSON that ends in the middle."""
        self._lasts("truncate", share=_share(share))

    def drip(self, bytes_per_s: float = 1000.0) -> None:
        """Answers come slowly."""
        self._lasts("drip", bytes_per_s=max(1.0, _number(bytes_per_s)))

    def value_errors(self, share: float = 1.0, message: str = "PI Point not found.") -> None:
        """A share of points answers with Errors in the place of values: the same ones until it is over."""
        self._lasts("value_errors", share=_share(share), message=str(message))

    def value_error(self, point: int) -> str | None:
        """What is to be said in the place of this point's values; None: its values."""
        arguments = self._active.get("value_errors")
        # A hash of the number, so that the same points are hit as long as it lasts.
        if arguments is None or (point * 2654435761 & 0xFFFFFFFF) / 2**32 >= arguments["share"]:
            return None
        self.hits["value_errors"] += 1
        return str(arguments["message"])

    # ---- archive, clock, points

    def archive_down(self, heartbeats: bool = False) -> None:
        """The archive behind the web server cannot be reached. heartbeats: channels go on sending theirs."""
        self._lasts("archive_down", heartbeats=bool(heartbeats))
        self._hands.connected(False)

    @property
    def archive_is_down(self) -> bool:
        """Whether the archive cannot be reached."""
        return "archive_down" in self._active

    @property
    def mute(self) -> bool:
        """Whether channels send nothing, not even heartbeats."""
        return self.silent or not self._active.get("archive_down", {"heartbeats": True})["heartbeats"]

    def skew(self, seconds: float, date_only: bool = False) -> None:
        """The clock is wrong."""
        self._lasts("skew", seconds=_number(seconds, signed=True), date_only=bool(date_only))
        self._clock.skew(float(seconds), date_only=bool(date_only))

    def late(self, values: int = 1000, back_s: float = 7200.0) -> int:
        """Values from up to so many seconds ago arrive now; how many did."""
        values, back_s = int(_number(values)), _number(back_s)
        self._noted("late", values=values, back_s=back_s)
        arrived = self._hands.arrive_late(values, back_s)
        self.hits["late"] += arrived
        return arrived

    def delete_point(self, point: str) -> None:
        """Remove a point."""
        self._noted("delete_point", point=point)
        self._hands.delete_point(point)

    def rename_point(self, point: str, to: str) -> None:
        """Give a point another name."""
        self._noted("rename_point", point=point, to=to)
        self._hands.rename_point(point, to)

    def recreate_point(self, point: str) -> None:
        """Remove a point and make one with the same name."""
        self._noted("recreate_point", point=point)
        self._hands.recreate_point(point)

    # ---- frames

    def duplicate(self, share: float = 1.0) -> None:
        """A share of frames is sent twice."""
        self._lasts("duplicate", share=_share(share))

    def twice(self) -> bool:
        """Whether this frame is sent twice."""
        return self._hit("duplicate") is not None

    def oversize(self, size: int = 17 << 20) -> None:
        """The next frame of each channel has that many bytes."""
        self._noted("oversize", size=size)
        self._hands.oversize(int(_number(size)))

    # ---- at work

    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What the request is answered with, with the faults at work."""
        if not self._loud.is_set():
            return await self._swallow(request)
        for name in ("skew", "archive_down"):
            if name in self._active:
                self.hits[name] += 1
        if (arguments := self._active.get("delay")) is not None:
            self.hits["delay"] += 1
            await asyncio.sleep(arguments["seconds"])
        if (arguments := self._hit("throttle")) is not None:
            seconds = arguments["retry_after"]
            return web.json_response(
                {"Errors": ["Too many requests."]}, status=429, headers={"Retry-After": f"{max(1, round(seconds))}"}
            )
        if (arguments := self._hit("errors")) is not None:
            return web.json_response({"Errors": ["The service is unavailable."]}, status=arguments["status"])
        response = await handler(request)
        if not self._loud.is_set() and not isinstance(response, web.WebSocketResponse):
            return await self._swallow(request)
        if not isinstance(response, web.Response) or not isinstance(response.body, bytes) or response.status >= 300:
            return response
        return await self._spoiled(request, response, response.body)

    async def _spoiled(self, request: web.Request, response: web.Response, body: bytes) -> web.StreamResponse:
        if (arguments := self._hit("web_exceptions")) is not None:
            response.body = body = _broken(body) if arguments["cut"] else _halved(body)
        elif self._hit("truncate") is not None:
            response.body = body = body[: len(body) // 2]
        if (arguments := self._active.get("drip")) is None:
            return response
        self.hits["drip"] += 1
        slow = web.StreamResponse(status=response.status, headers=response.headers)
        slow.content_length = len(body)
        await slow.prepare(request)
        piece = max(1, round(arguments["bytes_per_s"] / _DRIPS_PER_SECOND))
        for first in range(0, len(body), piece):
            await slow.write(body[first : first + piece])
            if "drip" in self._active:
                await asyncio.sleep(1 / _DRIPS_PER_SECOND)
        return slow

    async def _swallow(self, request: web.Request) -> web.Response:
        """Say nothing until it is over; the connection is reset then, and nobody gets the answer."""
        self.hits["silence"] += 1
        await self.loud()
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)

    def _hit(self, name: str) -> dict[str, Any] | None:
        arguments = self._active.get(name)
        if arguments is None or self._random.random() >= arguments["share"]:
            return None
        self.hits[name] += 1
        return arguments

    def refused_upgrade(self) -> web.Response | None:
        """What an upgrade is answered with instead."""
        arguments = self._active.get("refuse_upgrades")
        if arguments is None:
            return None
        self.hits["refuse_upgrades"] += 1
        return web.json_response({"Errors": ["A channel cannot be opened now."]}, status=arguments["status"])

    def _lasts(self, name: str, **arguments: Any) -> None:
        self._noted(name, **arguments)
        self._active[name] = arguments

    def _noted(self, name: str, **arguments: Any) -> None:
        self.counts[name] += 1
        self._truth.fault(self._clock.now_ns(), name, arguments)


def zipped(request: web.Request, response: web.StreamResponse, least: int) -> None:
    """Compress the body of an answer when the client takes that and it has so many bytes."""
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes) or len(response.body) < least:
        return
    if "gzip" in request.headers.get("Accept-Encoding", "") and "Content-Encoding" not in response.headers:
        response.body = gzip.compress(response.body, 1)
        response.headers["Content-Encoding"] = "gzip"


def _halved(body: bytes) -> bytes:
    """Half of the values, and the exception: what is there can be read, and is not all."""
    answer = orjson.loads(body)
    if not isinstance(answer, dict):
        return _broken(body)
    items = answer.get("Items")
    if isinstance(items, list):
        for item in items:
            if isinstance(item, dict) and isinstance(item.get("Items"), list):
                del item["Items"][len(item["Items"]) // 2 :]
        del items[(len(items) + 1) // 2 :]
    return orjson.dumps({**answer, "WebException": _WEB_EXCEPTION})


def _broken(body: bytes) -> bytes:
    """The first half, and the exception where the writer stood."""
    return body[: len(body) // 2] + b',"WebException":' + orjson.dumps(_WEB_EXCEPTION) + b"}"


def _share(share: float) -> float:
    number = _number(share)
    if number > 1:
        raise FaultError(f"share {share}: expected a number from 0 to 1")
    return number


def _status(status: int) -> int:
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise FaultError(f"status {status!r}: expected an HTTP status")
    return status


def _code(code: int) -> int:
    if isinstance(code, bool) or not isinstance(code, int) or not 1000 <= code <= 4999:
        raise FaultError(f"code {code!r}: expected a websocket's, from 1000 to 4999")
    return code


def _number(value: float, *, signed: bool = False) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or (value < 0 and not signed)
    ):
        raise FaultError(f"{value!r}: expected a number{'' if signed else ' of 0 or more'}")
    return float(value)


__all__ = ["LASTING", "MOMENTARY", "FaultError", "Faults", "Hands", "zipped"]
