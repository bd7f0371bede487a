"""The way to a running server's faults and to its truth from outside, under `/_sim` (not a part of PI Web API):

GET  /_sim/faults                 what is at work, what was ordered, what was hit
POST /_sim/faults                 {"fault": "throttle", "share": 0.3}
POST /_sim/heal                   {"fault": "throttle"}, or {} for all
GET  /_sim/requests               how often each verb was used on each route
GET  /_sim/truth?from=&to=        every event in the archive by point, times in ns
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from plant.pi.faults import FaultError
from plant.pi.truth import Sample

if TYPE_CHECKING:
    from plant.pi.server import PiServer

PREFIX = "/_sim/"
_FOREVER_NS = 1 << 62


def routes(server: PiServer) -> list[web.RouteDef]:
    """The routes of a server."""

    async def faults(request: web.Request) -> web.Response:
        told = server.faults
        return _json({"active": told.active, "counts": told.counts, "hits": told.hits})

    async def inject(request: web.Request) -> web.Response:
        arguments = await _object(request)
        name = arguments.pop("fault", None)
        try:
            result = server.faults.inject(str(name), arguments)
        except FaultError as error:
            return _json({"Errors": [str(error)]}, status=400)
        return _json({"fault": name, "result": result})

    async def heal(request: web.Request) -> web.Response:
        name = (await _object(request)).get("fault")
        try:
            server.faults.heal(None if name is None else str(name))
        except FaultError as error:
            return _json({"Errors": [str(error)]}, status=400)
        return _json({"active": server.faults.active})

    async def requests(request: web.Request) -> web.Response:
        return _json({"requests": server.requests, "written": server.written})

    async def truth(request: web.Request) -> web.Response:
        first, last = _time(request, "from", -_FOREVER_NS), _time(request, "to", _FOREVER_NS)
        points = {}
        for point in server.system:
            rows = range(point.archive.first_at(first), point.archive.after(last))
            samples = (Sample.of(point.id, point.archive.event(row)) for row in rows)
            points[point.name] = [(s.time_ns, s.value, s.flags, s.state) for s in samples]
        return _json({"points": points})

    return [
        web.get(f"{PREFIX}faults", faults),
        web.post(f"{PREFIX}faults", inject),
        web.post(f"{PREFIX}heal", heal),
        web.get(f"{PREFIX}requests", requests),
        web.get(f"{PREFIX}truth", truth),
    ]


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.read() or b"{}")
    except orjson.JSONDecodeError as error:
        raise web.HTTPBadRequest(text=f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body is no JSON object")
    return body


def _time(request: web.Request, name: str, otherwise: int) -> int:
    text = request.query.get(name, "")
    try:
        return int(text) if text else otherwise
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{name}={text}: expected a time in ns since 1970") from error


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


__all__ = ["PREFIX", "routes"]
