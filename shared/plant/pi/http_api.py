r"""The reading part of PI Web API: system, data servers, points, streams, stream sets and batches.

    api = Api(system, ApiOptions())
    application.add_routes(api.routes("/piwebapi"))

Routes and names of parameters are known in any case. What fails is answered `{"Errors": [...]}`. Who may write, be
pushed to, or come in at all is not decided here; `request[USER]` says who asks.

Elements, attributes and event frames would be further tables of calls; there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import orjson
from aiohttp import web

from plant.pi import batch, timed_values
from plant.pi.api_options import ApiOptions
from plant.pi.authentication import ANONYMOUS, USER
from plant.pi.calls import Answer, Call, CallError, Handler, Query
from plant.pi.events import Event
from plant.pi.lookup import Lookup
from plant.pi.point_calls import PointCalls
from plant.pi.points import PiPoint
from plant.pi.selecting import pruned
from plant.pi.stream_calls import StreamCalls
from plant.pi.system import PiSystem


class Api:
    """Answers calls for a system.

    value_error: asked for each point before its values are read; a text stands in their place.
    """

    def __init__(
        self,
        system: PiSystem,
        options: ApiOptions | None = None,
        *,
        value_error: Callable[[PiPoint], str | None] | None = None,
    ) -> None:
        self._system = system
        self.options = options or ApiOptions()
        lookup = Lookup(system)
        self._points = PointCalls(system, self.options, lookup)
        self._streams = StreamCalls(system, self.options, lookup, value_error or (lambda _: None))
        self._handlers = {(method, route.casefold()): handler for method, route, handler in self._table()}
        self._patterns = sorted({route for _, route, _ in self._table()}, key=lambda route: route.count("{"))

    @property
    def asked(self) -> set[int]:
        """Ids of points whose values were asked for."""
        return self._streams.asked

    @property
    def started_ns(self) -> int:
        """Since when the server runs, as its status says."""
        return self._points.started_ns

    @started_ns.setter
    def started_ns(self, started_ns: int) -> None:
        self._points.started_ns = started_ns

    # ---- the edge to HTTP

    def routes(self, base: str = "/piwebapi") -> list[web.RouteDef]:
        """The routes; the last of them takes what no other does, in any case of its letters."""
        found = [
            web.route(method, f"{base}/{route}".rstrip("/") or "/", self._handler(base, route))
            for method, route, _ in self._table()
        ]
        return [*found, web.get(f"{base}/", self._handler(base, "")), web.route("*", "/{path:.*}", self._other(base))]

    def timed(self, point: PiPoint, event: Event) -> dict[str, Any]:
        """One event of a point as answers have it."""
        return timed_values.timed(point, event)

    def web_id(self, request: web.Request, point: PiPoint) -> str:
        """A point's web id, of the kind that a request asks for. Raises HTTPException."""
        return self._system.web_id_of(point, self._query(request.query.items()).web_id_kind)

    def answer(self, request: web.Request, content: Any, status: int = 200) -> web.Response:
        """An answer with the fields that a request asks for."""
        return _response(Answer(content, status), self._query(request.query.items()))

    def _handler(self, base: str, route: str) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            ids = tuple(request.match_info.values())
            body = await request.read() if request.can_read_body else b""
            return self._served(request, base, route, ids, body)

        return handle

    def _other(self, base: str) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            path = request.path
            if not path.casefold().startswith(base + "/"):
                return _response(_errors(404, f"No HTTP resource was found that matches '{path}'."))
            route, ids = self._matched(path[len(base) + 1 :])
            body = await request.read() if request.can_read_body else b""
            return self._served(request, base, route, ids, body)

        return handle

    def _served(self, request: web.Request, base: str, route: str, ids: tuple[str, ...], body: bytes) -> web.Response:
        pairs = tuple(request.query.items())
        address = f"{request.scheme}://{request.host}{request.path}"
        query = self._query(pairs)
        call = Call(
            request.method,
            route,
            ids,
            query,
            f"{request.scheme}://{request.host}{base}",
            request.get(USER, ANONYMOUS),
            body,
            address,
            pairs,
        )
        return _response(self.call(call), query)

    def _query(self, pairs: Iterable[tuple[str, str]]) -> Query:
        return Query(pairs, self._system.clock.now_ns(), self.options.zone)

    def _matched(self, path: str) -> tuple[str, tuple[str, ...]]:
        """The route of a path, and what stands for its {id}; a path that has none is its own route."""
        parts = path.strip("/").split("/")
        for route in self._patterns:
            names = route.split("/") if route else [""]
            if len(names) == len(parts) and all(
                name.startswith("{") or name == part.casefold() for name, part in zip(names, parts, strict=True)
            ):
                return route, tuple(part for name, part in zip(names, parts, strict=True) if name.startswith("{"))
        return path, ()

    # ---- calls

    def call(self, call: Call) -> Answer:
        """Answer a call; what is wrong with it is in the answer."""
        handler = self._handlers.get((_SAME.get(call.method, call.method), call.route.casefold()))
        try:
            if handler is None:
                known = any(route == call.route.casefold() for _, route in self._handlers)
                raise CallError(
                    405 if known else 404, f"No HTTP resource was found that matches '{call.address or call.route}'."
                )
            return handler(call)
        except CallError as error:
            return _errors(error.status, *error.texts)

    def nested(self, within: Call, method: str, path: str, pairs: Sequence[tuple[str, str]], body: bytes) -> Answer:
        """Answer a call of a batch, its content with the fields that it asks for. path: below the base."""
        route, ids = self._matched(path)
        if route == "batch":
            return _errors(400, "A batch cannot hold a batch.")
        query = self._query(pairs)
        address = f"{within.base}/{path}"
        answer = self.call(Call(method, route, ids, query, within.base, within.user, body, address, tuple(pairs)))
        if answer.status < 400:
            return Answer(pruned(answer.content, query.selection), answer.status, answer.headers)
        return answer

    def _table(self) -> list[tuple[str, str, Handler]]:
        return [
            *self._points.table(),
            *self._streams.table(),
            ("POST", "batch", lambda call: batch.answer(self, call, most=self.options.nesting)),
        ]


_SAME: Final = {"HEAD": "GET"}


def _errors(status: int, *texts: str) -> Answer:
    return Answer({"Errors": list(texts)}, status)


def _response(answer: Answer, query: Query | None = None) -> web.Response:
    content = answer.content
    if query is not None and answer.status < 400:
        content = pruned(content, query.selection)
    return web.Response(
        body=orjson.dumps(content), status=answer.status, headers=answer.headers, content_type="application/json"
    )


__all__ = ["Api", "ApiOptions"]
