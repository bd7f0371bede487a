"""SiteWise on HTTP: paths, query strings and errors of its REST-JSON protocol, and the faults a test may order."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

from localcore import clock
from localcore.aws.faults import Faults
from localcore.aws.sitewise import HTTP_STATUS, INVALID, ServiceError, SiteWise

_MAX_BODY_BYTES = 4 << 20


def make_app(sitewise: SiteWise, faults: Faults) -> web.Application:
    """The application that serves `sitewise`."""

    async def put(request: web.Request) -> web.Response:
        body = await request.read()
        throttled = faults.take("iotsitewise", "throttle_entries")
        return _respond(faults, lambda: sitewise.put(_json(body), clock.now_ns(), time.time_ns(), throttled=throttled))

    async def batch_history(request: web.Request) -> web.Response:
        body = await request.read()
        return _respond(faults, lambda: sitewise.batch_history(_json(body)))

    async def batch_latest(request: web.Request) -> web.Response:
        body = await request.read()
        return _respond(faults, lambda: sitewise.batch_latest(_json(body)))

    async def history(request: web.Request) -> web.Response:
        return _respond(faults, lambda: sitewise.history(_query(request)))

    async def latest(request: web.Request) -> web.Response:
        return _respond(faults, lambda: sitewise.latest(_query(request)))

    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_post("/properties", put)
    app.router.add_post("/properties/batch/history", batch_history)
    app.router.add_post("/properties/batch/latest", batch_latest)
    app.router.add_get("/properties/history", history)
    app.router.add_get("/properties/latest", latest)
    return app


def _respond(faults: Faults, work: Callable[[], dict[str, Any]]) -> web.Response:
    try:
        if faults.take("iotsitewise", "throttle"):
            raise ServiceError("ThrottlingException", "the request rate is too high")
        if faults.take("iotsitewise", "unavailable"):
            raise ServiceError("ServiceUnavailableException", "the service is unavailable")
        return web.Response(body=orjson.dumps(work()), content_type="application/json")
    except ServiceError as error:
        return web.Response(
            status=HTTP_STATUS[error.code],
            body=orjson.dumps({"message": str(error)}),
            content_type="application/json",
            headers={"x-amzn-errortype": error.code},
        )


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError as error:
        raise ServiceError(INVALID, f"the request is not JSON: {error}") from error


def _query(request: web.Request) -> dict[str, Any]:
    query: dict[str, Any] = dict(request.query)
    if "qualities" in query:
        query["qualities"] = request.query.getall("qualities")
    if query.get("maxResults", "").isdecimal():
        query["maxResults"] = int(query["maxResults"])
    return query
