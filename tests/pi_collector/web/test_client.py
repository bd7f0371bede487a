"""The client against servers on real sockets that answer whatever they are told."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import json
import socket
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pi_collector.web import answers, client, requests
from pi_collector.web.client import Client
from pi_collector.web.errors import (
    ConflictError,
    CredentialsError,
    ForbiddenError,
    MalformedError,
    NotFoundError,
    PiError,
    RefusedError,
    ThrottledError,
    TooMuchError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
    UnsupportedError,
)
from pi_collector.web.pace import BACKFILL, LEAST_FACTOR
from sluice.tasks import within

from .scripted import Scripted, Using, answer

FAST: dict[str, Any] = {"load": {"requestsPerSecond": 1000}}
BASIC: dict[str, Any] = {"user": {"name": "reader", "password": {"file": "password"}}, "allowUnencrypted": True}
S = 1_000_000_000


async def until(true: Callable[[], bool], what: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for a condition; what: the state that is shown when it does not come."""
    end = asyncio.get_running_loop().time() + seconds
    while not true():
        assert asyncio.get_running_loop().time() < end, what()
        await asyncio.sleep(0.02)


def says(*answered: web.Response | Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
    """A handler that gives these in turn, and the last one for ever."""
    left = list(answered)

    async def handler(request: web.Request) -> web.StreamResponse:
        one = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(one, web.Response):
            return web.Response(body=one.body, status=one.status, headers=one.headers)
        return await one(request)

    return handler


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


# --- what is asked, and what goes with it ---


async def test_it_starts_by_learning_what_is_there() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        await one.start()
        assert one.features.version == "1.18.0.44"
        assert (await one.health()).state == "well"
        assert abs(one.clock.lower / S - time.time()) < 3
        assert one.status()["address"] == server.url
        assert one.generation == 1


async def test_every_request_has_the_headers_that_pi_wants() -> None:
    headers = {"X-Site": {"value": "north"}}
    async with Scripted() as server, Using(server.url, headers=headers, **FAST) as one:
        await one.get("points", [("path", "\\\\SRV\\Ä B")], fresh=True)
        await one.get("points")
        await one.register([("webId", "a")])
        for sent in server.headers:
            assert sent["X-Requested-With"]
            assert sent["Accept"] == "application/json"
            assert sent["User-Agent"] == "Sluice"
            assert sent["X-Site"] == "north"
            assert "gzip" in sent["Accept-Encoding"]
            assert "Authorization" not in sent
            assert "Cookie" not in sent
        assert server.headers[0]["Cache-Control"] == "no-cache"
        assert "Cache-Control" not in server.headers[1]


async def test_the_query_arrives_as_it_was_meant() -> None:
    seen: list[list[tuple[str, str]]] = []

    async def points(request: web.Request) -> web.Response:
        seen.append(list(request.query.items()))
        return answer({})

    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.on["points"] = points
        query = [("path", "\\\\SRV\\Unit 1&2=3+4%20#ü;?"), ("path", "b"), ("selectedFields", "A;B")]
        await one.get("points", query)
        assert seen == [query]


async def test_nothing_but_reads_and_registrations_can_be_sent() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        for method in ("PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "post", "POST"):
            for path in ("streams/x/value", "streamsets/recorded", "points/x", "batch/", "streams/x/updates"):
                with pytest.raises(ValueError, match="nothing is written there"):
                    await one._exchange(method, path)
        for part in (
            {"Method": "POST", "Resource": "streams/x/value"},
            {"Method": "DELETE", "Resource": "points/x"},
            {"Resource": "streams/x/value"},
            {"Method": "GET", "Resource": "streams/x/value", "Content": "{}"},
            {"Method": ["GET"], "Resource": "streams/x/value"},
        ):
            with pytest.raises(ValueError, match="nothing is written"):
                await one.batch({"0": {"Method": "GET", "Resource": "points"}, "1": part})
        assert server.asked == []


def test_there_is_one_way_to_the_line_and_it_is_guarded() -> None:
    """Of all the client's source, requests leave in `_send`, which only `_exchange` and the probe with a GET call."""
    source = inspect.getsource(client)
    assert source.count(".request(") == 1
    assert source.count("self._send(") == 2
    assert source.count('self._send("GET"') == 1
    assert source.count(".post(") == 1, "the token endpoint, which is no part of PI"
    assert "_permitted(method, path)" in inspect.getsource(Client._exchange)


async def test_a_batch_has_whole_addresses_and_an_answer_for_each_part() -> None:
    async def batch(request: web.Request) -> web.Response:
        parts = await request.json()
        return answer({name: {"Status": 200, "Headers": {}, "Content": part} for name, part in parts.items()}, 207)

    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.on["batch"] = batch
        found = await one.batch(
            {
                "a": {"Method": "GET", "Resource": "points?path=x"},
                "b": {"Method": "GET", "RequestTemplate": {"Resource": "streams/{0}/value"}, "ParentIds": ["a"]},
                "c": {"Method": "GET", "Resource": "{0}?maxCount=10", "ParentIds": ["a"]},
            },
            priority=BACKFILL,
        )
        assert found["a"].content["Resource"] == f"{server.url}/points?path=x"
        assert found["b"].content["RequestTemplate"]["Resource"] == f"{server.url}/streams/{{0}}/value"
        assert found["c"].content["Resource"] == "{0}?maxCount=10"
        assert server.asked == [("POST", "batch")]


async def test_what_a_server_cannot_do_is_learnt_from_its_answers() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        assert (one.features.has_search, one.features.has_updates) == (None, None)
        server.on["points/search"] = says(answer({"Message": "No HTTP resource was found"}, 404), answer({}))
        server.on["streamsets/updates"] = says(answer({}, 405), answer({}), answer({}, 404))
        with pytest.raises(NotFoundError):
            await one.get("points/search")
        with pytest.raises(UnsupportedError):
            await one.register([("webId", "a")])
        assert (one.features.has_search, one.features.has_updates) == (False, False)
        await one.get("points/search")
        await one.register([("webId", "a")])
        assert (one.features.has_search, one.features.has_updates) == (True, True)
        with pytest.raises(NotFoundError):
            await one.register([("webId", "gone")])
        assert one.features.has_updates, "what is not known is the stream, not the call"


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RefusedError),
        (401, UnauthorizedError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (405, UnsupportedError),
        (409, ConflictError),
        (414, TooMuchError),
        (429, ThrottledError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
async def test_each_status_is_its_error_with_what_the_server_says(status: int, kind: type[RefusedError]) -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.on["points"] = says(answer({"Errors": ["so it is"]}, status))
        with pytest.raises(kind, match="so it is") as caught:
            await one.get("points")
        assert caught.value.status == status


async def test_a_redirect_is_not_followed() -> None:
    async with Scripted() as other, Scripted() as server, Using(server.url, **BASIC, **FAST) as one:
        server.on["points"] = says(answer(b"", 302, Location=f"{other.url}/login"))
        with pytest.raises(RefusedError, match="sends us on"):
            await one.get("points")
        assert other.asked == []


async def test_an_address_that_refuses_is_unreachable() -> None:
    async with Using(f"http://127.0.0.1:{closed_port()}/piwebapi", **FAST) as one:
        with pytest.raises(UnreachableError, match="refuses the connection"):
            await one.start()
        assert (await one.health()).state == "unreachable"


async def test_a_host_that_nobody_knows_is_unreachable() -> None:
    async with Using("http://nobody.invalid/piwebapi", **FAST) as one:
        with pytest.raises(UnreachableError, match="cannot be found"):
            await one.start()


async def _stall(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return answer({})


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(300):
        await response.write(b" ")
        await asyncio.sleep(0.1)
    return response


@pytest.mark.parametrize("slow", [_stall, _drip])
async def test_an_answer_that_does_not_come_in_time_ends_and_slows_us_down(slow: Any) -> None:
    async with Scripted() as server, Using(server.url, requestTimeout=1, **FAST) as one:
        server.on["points"] = slow
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="does not answer within 1 s"):
            await one.get("points")
        assert time.monotonic() - began < 5
        assert one.pace.rules.factor == 0.5
        assert one.pace.rules.busy == 0


async def _cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"Items":[')
    assert request.transport is not None
    request.transport.close()
    return response


async def test_an_answer_that_is_cut_off_in_the_middle_is_malformed_and_the_next_one_is_well() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.on["points"] = says(_cut, answer({"Items": []}))
        with pytest.raises(MalformedError, match="broke an answer off"):
            await one.get("points")
        assert await one.get("points")


async def test_a_web_exception_and_half_an_answer_are_errors_behind_a_200() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        broken = {"Items": [], "WebException": {"Errors": ["writing failed"], "StatusCode": 500}}
        server.on["points"] = says(answer(broken), answer(b'{"Items":[{"Na'), answer(b"<html><title>Login</title>"))
        with pytest.raises(UnavailableError, match="writing failed"):
            await one.get("points")
        with pytest.raises(MalformedError, match="broke an answer off"):
            await one.get("points")
        with pytest.raises(MalformedError, match="Login"):
            await one.get("points")


async def test_packed_answers_are_unpacked_and_a_byte_order_mark_is_no_part_of_them() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        packed = gzip.compress(json.dumps({"Items": ["x" * 1000] * 100}).encode())
        server.on["points"] = says(
            answer(packed, Content_Encoding="gzip"),
            answer(b'\xef\xbb\xbf{"Items":[]}'),
            answer(b"no gzip", Content_Encoding="gzip"),
        )
        assert len(json.loads(await one.get("points"))["Items"]) == 100
        assert json.loads(await one.get("points")) == {"Items": []}
        with pytest.raises(PiError):
            await one.get("points")


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_without_end_is_too_much_and_not_kept(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LARGEST", 1_000_000)
    huge = b"{" + b" " * 3_000_000 + b"}"
    async with Scripted() as server, Using(server.url, **FAST) as one:
        body = gzip.compress(huge) if packed else huge
        server.on["points"] = says(answer(body, Content_Encoding="gzip" if packed else "identity"))
        with pytest.raises(TooMuchError):
            await one.get("points")


async def test_a_long_page_of_an_error_is_not_read_to_its_end() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.on["points"] = says(answer(b"x" * 5_000_000, 500))
        with pytest.raises(UnavailableError):
            await one.get("points")


async def test_a_line_that_was_closed_while_it_was_idle_is_no_error() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        await one.get("points")
        await server.stop()
        await server.start()
        await one.register([("webId", "a")])
        assert await one.get("points")


async def test_it_can_be_cancelled_at_any_time() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.on["points"] = _stall
        asking = asyncio.create_task(one.get("points"))
        await until(lambda: bool(server.asked), lambda: server.asked)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert one.pace.rules.busy == 0


# --- how fast ---


async def test_a_429_holds_everything_for_as_long_as_it_says() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.on["points"] = says(answer({"Errors": ["slow down"]}, 429, Retry_After="1"), answer({}))
        with pytest.raises(ThrottledError) as caught:
            await one.get("points")
        assert caught.value.retry_after == 1
        began = time.monotonic()
        await one.get("streamsets/value")
        assert time.monotonic() - began >= 0.95
        assert one.pace.rules.factor < 1


async def test_retry_after_a_503_is_obeyed_too() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.on["points"] = says(answer({}, 503, Retry_After="1"))
        with pytest.raises(UnavailableError):
            await one.get("points")
        began = time.monotonic()
        await one.get("streamsets/value")
        assert time.monotonic() - began >= 0.95


async def test_no_more_are_sent_at_a_time_than_is_configured() -> None:
    busy = most = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.02)
        busy -= 1
        return answer({})

    load: dict[str, Any] = {"load": {"requestsPerSecond": 1000, "parallel": 3}}
    async with Scripted() as server, Using(server.url, **load) as one:
        server.on["points"] = handler
        await asyncio.gather(*(one.get("points") for _ in range(30)))
        assert most == 3
        most = 0
        await asyncio.gather(*(one.get("points", priority=BACKFILL) for _ in range(30)))
        assert most == 2


async def test_a_server_that_is_down_is_left_alone_and_found_again() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        await server.stop()
        told = []
        for _ in range(200):
            with pytest.raises(UnreachableError) as caught:
                await one.get("points")
            told.append(str(caught.value))
        assert len(set(told)) <= 2, "the same words each time, so that they are told once"
        assert one.pace.requests >= 5
        await server.start()
        deadline = time.monotonic() + 10
        while True:
            try:
                await one.get("points")
                break
            except UnreachableError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        assert server.count("points") == 1


# --- who we are ---


async def test_a_rotated_password_costs_one_401() -> None:
    async def guarded(request: web.Request) -> web.Response:
        right = request.headers.get("Authorization") == "Basic cmVhZGVyOm5ldQ=="  # reader:neu
        return answer({}, 200 if right else 401)

    async with Scripted() as server:
        using = Using(server.url, **BASIC, **FAST)
        async with using as one:
            server.on["points"] = guarded
            using.secrets["password"] = "neu"
            await one.get("points")
            assert server.count("points") == 1
        using = Using(server.url, **BASIC, **FAST)
        async with using as one:
            server.on["streamsets/value"] = says(answer({}))
            await one.get("streamsets/value")  # with the old one
            using.secrets["password"] = "neu"
            server.asked.clear()
            await asyncio.gather(*(one.get("points") for _ in range(4)))
            assert server.count("points") <= 8


async def test_a_wrong_password_is_said_and_not_tried_again_with_every_request() -> None:
    async with Scripted() as server, Using(server.url, **BASIC, **FAST) as one:
        server.on["*"] = says(answer({"Message": "Authorization has been denied for this request."}, 401))
        for _ in range(50):
            with pytest.raises(UnauthorizedError, match="does not accept who we are") as caught:
                await one.get("points")
            assert "geheim" not in str(caught.value)
        assert server.count("points") == 1
        assert (await one.health()).state == "refused"


async def test_passwords_do_not_leave_for_http_even_on_this_machine() -> None:
    settings = {**BASIC, "allowUnencrypted": False}
    async with Scripted() as server, Using(server.url, **settings, **FAST) as one:
        for ask in (one.start(), one.get("points"), one.websocket("streamsets/channel")):
            with pytest.raises(CredentialsError, match="could read"):
                await ask
        assert server.asked == []


async def test_a_token_is_fetched_used_and_renewed_when_the_server_takes_it_no_more() -> None:
    tokens: list[str] = []

    async def give(request: web.Request) -> web.Response:
        form = await request.post()
        assert (form["client_id"], form["client_secret"]) == ("sluice", "geheim")
        tokens.append(f"t{len(tokens) + 1}")
        return answer({"access_token": tokens[-1], "token_type": "Bearer", "expires_in": 3600})

    async def guarded(request: web.Request) -> web.Response:
        return answer({}, 200 if request.headers.get("Authorization") == "Bearer t2" else 401)

    async with Scripted() as server:
        bearer = {"tokenUrl": f"{server.url}/token", "clientId": "sluice", "clientSecret": {"file": "password"}}
        async with Using(server.url, bearer=bearer, allowUnencrypted=True, **FAST) as one:
            server.on.update({"token": give, "points": guarded})
            await one.get("points")
            assert tokens == ["t1", "t2"]
        async with Using(server.url, bearer=bearer, allowUnencrypted=True, **FAST) as one:
            await server.stop()
            with pytest.raises(CredentialsError, match="refuses the connection"):
                await one.get("points")


# --- websockets ---


async def test_a_websocket_leaves_pings_to_its_caller_and_takes_large_messages() -> None:
    async def channel(request: web.Request) -> web.StreamResponse:
        line = web.WebSocketResponse(autoping=False)
        await line.prepare(request)
        await line.ping(b"7")
        await line.send_str("x" * 10_000_000)
        await line.close(code=1001)
        return line

    async with Scripted() as server, Using(server.url, **BASIC, **FAST) as one:
        server.on["streamsets/channel"] = channel
        line = await one.websocket(*requests.channel(["a", "b"], 5))
        assert (await line.receive()).type is aiohttp.WSMsgType.PING
        assert len((await line.receive()).data) == 10_000_000
        assert (await line.receive()).type is aiohttp.WSMsgType.CLOSE
        assert line.close_code == 1001
        sent = server.headers[-1]
        assert sent["Authorization"].startswith("Basic ")
        assert sent["X-Requested-With"]
        assert one.pace.rules.busy == 0, "an open websocket takes no place from requests"


async def test_more_websockets_than_lines_for_requests_leave_requests_alone() -> None:
    async def channel(request: web.Request) -> web.StreamResponse:
        line = web.WebSocketResponse()
        await line.prepare(request)
        await line.receive()
        return line

    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.on["streamsets/channel"] = channel
        lines = [await one.websocket("streamsets/channel") for _ in range(40)]
        assert await one.get("points")
        for line in lines:
            await line.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, UnsupportedError),
        (400, RefusedError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (503, UnavailableError),
    ],
)
async def test_a_websocket_that_is_refused_says_how(status: int, kind: type[RefusedError]) -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.on["streamsets/channel"] = says(answer({}, status))
        with pytest.raises(kind) as caught:
            await one.websocket("streamsets/channel")
        assert caught.value.status == status


async def test_a_websocket_is_tried_again_with_a_rotated_password() -> None:
    async def channel(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] != "Basic cmVhZGVyOm5ldQ==":
            return answer({}, 401)
        line = web.WebSocketResponse()
        await line.prepare(request)
        return line

    async with Scripted() as server:
        using = Using(server.url, **BASIC, **FAST)
        async with using as one:
            await one.get("points")
            server.on["streamsets/channel"] = channel
            using.secrets["password"] = "neu"
            await (await one.websocket("streamsets/channel")).close()


async def test_a_websocket_to_nobody_is_unreachable() -> None:
    async with Using(f"http://127.0.0.1:{closed_port()}/piwebapi", **FAST) as one:
        with pytest.raises(UnreachableError, match="refuses"):
            await one.websocket("streamsets/channel")


# --- time, health, and which server it is ---


async def test_coverage_is_bounded_by_the_slower_of_the_servers_clocks() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.server_time = lambda: time.time() - 100
        await one.start()
        assert one.clock.lower / S < time.time() - 99
        assert await one.clock.after() >= time.time_ns()
        server.date = lambda: None
        server.server_time = None
        with pytest.raises(MalformedError, match="tells no time"):
            await one.clock.after()


async def test_without_a_date_the_archives_own_time_is_enough() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.date = lambda: "yesterday"
        await one.start()
        assert abs(one.clock.lower / S - time.time()) < 2
        assert await one.clock.after() >= one.clock.lower


async def test_a_list_of_archives_that_is_not_for_us_leaves_the_date() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        server.on["dataservers"] = says(answer({"Errors": ["access denied"]}, 403))
        await one.start()
        assert abs(one.clock.lower / S - time.time()) < 3
        assert await one.clock.after() >= time.time_ns() - S
        assert (await one.health()).state == "well"


async def test_an_archive_that_is_down_is_told_and_time_stands_still() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        await one.start()
        server.connected = False
        server.server_time = None
        await until(lambda: one._health is not None and one._health.state == "archive-down", lambda: one._health)
        health, lower = await one.health(), one.clock.lower
        assert "SRV" in health.problem
        await asyncio.sleep(1.2)
        assert one.clock.lower == lower
        server.connected, server.server_time = True, time.time
        await until(lambda: one._health is not None and one._health.state == "well", lambda: one._health)


async def test_only_the_archive_that_is_configured_has_to_be_there() -> None:
    async with Scripted() as server:
        both = {
            "Items": [
                {"Name": "SRV", "WebId": "a", "IsConnected": True},
                {"Name": "OLD", "WebId": "b", "IsConnected": False},
            ]
        }
        server.on["dataservers"] = says(answer(both))
        async with Using(server.url, dataServer="srv", **FAST) as one:
            await one.start()
            assert (await one.health()).state == "well"
            one.servers = frozenset({"OLD"})
            await one._look()
            assert (await one.health()).state == "archive-down"
        async with Using(server.url, **FAST) as one:
            await one.start()
            assert (await one.health()).state == "archive-down"
            one.servers = frozenset({"SRV"})
            await one._look()
            assert (await one.health()).state == "well"


async def test_a_skewed_clock_is_told_and_cleared() -> None:
    async with Scripted() as server:
        using = Using(server.url, **FAST)
        async with using as one:
            server.server_time = lambda: time.time() + 3600
            server.date = lambda: formatdate(time.time() + 3600, usegmt=True)
            await one.start()
            scope = "connections.lab.clock"
            await until(lambda: scope in using.problems.found, lambda: one.status())
            assert "60 min ahead" in using.problems.found[scope][0]
            assert abs(one.status()["clock_ahead_s"] - 3600) < 2
            server.server_time = time.time
            server.date = lambda: formatdate(time.time(), usegmt=True)
            await until(lambda: scope not in using.problems.found, lambda: one.status())


async def test_a_server_that_was_started_anew_is_another_generation() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        await one.start()
        server.up_minutes = 0
        await until(lambda: one.generation == 2, lambda: server.asked)
        await asyncio.sleep(1)
        assert one.generation == 2


# --- fail-over ---


async def test_it_starts_with_another_address_when_the_first_is_away() -> None:
    async with Scripted() as second, Using(f"http://127.0.0.1:{closed_port()}/piwebapi", second.url, **FAST) as one:
        await one.start()
        assert one.address == second.url
        assert one.status()["instead_of"] == one._addresses[0]


async def test_it_says_the_first_addresss_trouble_when_none_answers() -> None:
    async with Using(f"http://127.0.0.1:{closed_port()}/piwebapi", "http://nobody.invalid/piwebapi", **FAST) as one:
        with pytest.raises(UnreachableError, match="refuses"):
            await one.start()


async def test_an_address_that_cannot_be_had_makes_way_and_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETURN", 0.5)
    async with Scripted() as first, Scripted() as second, Using(first.url, second.url, **FAST) as one:
        await one.start()
        assert (one.address, one.generation) == (first.url, 1)
        await first.stop()
        await until(lambda: one.address == second.url, lambda: one.status())
        assert one.generation == 2
        assert await one.get("points")
        assert second.count("points") == 1
        await first.start()
        await until(lambda: one.address == first.url, lambda: one.status(), 30)
        assert one.generation == 3
        assert first.count("system/status") >= client.RETURN_AFTER


async def test_a_gateway_without_its_server_makes_way_and_a_refusal_does_not() -> None:
    async with Scripted() as first, Scripted() as second, Using(first.url, second.url, **FAST) as one:
        first.on["points"] = says(answer({}, 404))
        for _ in range(20):
            with pytest.raises(NotFoundError):
                await one.get("points")
        first.on["points"] = says(answer({}, 500))
        for _ in range(20):
            with pytest.raises(UnavailableError):
                await one.get("points")
        assert one.address == first.url
        first.on["points"] = says(answer({}, 502))
        for _ in range(client.GIVEN_UP):
            with pytest.raises(UnavailableError):
                await one.get("points")
        assert one.address == second.url
        assert await one.get("points")


async def test_an_address_where_something_else_answers_everything_with_a_page_makes_way() -> None:
    async with Scripted() as first, Scripted() as second, Using(first.url, second.url, **FAST) as one:
        await one.start()
        assert one.address == first.url
        first.on["*"] = says(web.Response(text="<html><title>Maintenance</title></html>", content_type="text/html"))
        await until(lambda: one.address == second.url, lambda: one.status(), 30)
        assert await one.get("points")


async def test_of_two_that_were_down_the_one_that_is_back_is_found_soon() -> None:
    async with Scripted() as first, Scripted() as second, Using(first.url, second.url, **FAST) as one:
        for server in (first, second):
            await server.stop()
        for address in (first.url, second.url):
            breaker = one._breaker(address)
            for _ in range(20):  # for long
                breaker.failed(asyncio.get_running_loop().time() - 60)
            breaker._until = 0.0  # and it may be tried now
        await second.start()
        with pytest.raises(UnreachableError):
            await one.get("points")
        assert one.address == second.url, "after one trial, not after three that are a minute apart"
        assert await one.get("points")


async def test_the_first_is_taken_back_though_its_status_is_not_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETURN", 0.2)
    async with Scripted() as first, Scripted() as second, Using(first.url, second.url, **FAST) as one:
        first.on["system/status"] = second.on["system/status"] = says(answer({}, 403))
        await one.start()
        await first.stop()
        await until(lambda: one.address == second.url, lambda: one.status())
        await first.start()
        await until(lambda: one.address == first.url, lambda: one.status(), 30)


async def test_health_tells_at_once_that_the_server_wants_to_be_left_alone() -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        await one.start()
        server.on["points"] = says(answer({}, 429, Retry_After="7200"))
        with pytest.raises(ThrottledError):
            await one.get("points")
        one._looked -= 60
        health = await within(2, one.health())
        assert health.state == "busy"
        assert "left alone" in health.problem


# --- other settings ---


async def test_other_settings_apply_to_the_next_request() -> None:
    async with Scripted() as server, Scripted() as other:
        using = Using(server.url, **BASIC, **FAST)
        async with using as one:
            await one.get("points")
            changed = Using(
                server.url, **{**BASIC, "user": {"name": "else", "password": {"file": "password"}}}
            ).settings
            one.apply(changed)
            await one.get("points")
            assert server.headers[0]["Authorization"] != server.headers[-1]["Authorization"]
            assert one.generation == 1
            assert one.pace.rules.rate == 20
            one.apply(Using(other.url, **BASIC).settings)
            await one.get("points")
            assert other.count("points") == 1
            assert one.generation == 2


async def test_a_login_that_was_refused_late_is_not_held_against_the_one_that_took_its_place() -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def guarded(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Basic cmVhZGVyOm5ldQ==":  # reader:neu
            asked.set()
            await go.wait()
            return answer({}, 401)
        return answer({})

    async with Scripted() as server:
        using = Using(server.url, **BASIC, **FAST)
        using.secrets["new"] = "neu"
        async with using as one:
            server.on["points"] = guarded
            late = asyncio.create_task(one.get("points"))
            await asked.wait()
            one.apply(Using(server.url, **{**BASIC, "user": {"name": "reader", "password": {"file": "new"}}}).settings)
            go.set()
            with pytest.raises(UnauthorizedError):
                await late
            assert await one.get("points")


async def test_a_closed_client_asks_nothing() -> None:
    async with Scripted() as server:
        using = Using(server.url, **FAST)
        async with using as one:
            await one.start()
        asked = len(server.asked)
        with pytest.raises(RuntimeError, match="closed"):
            await one.get("points")
        await asyncio.sleep(1.2)
        assert len(server.asked) == asked


async def test_a_fault_of_ours_does_not_end_what_looks_after_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Scripted() as server, Using(server.url, **FAST) as one:
        await one.start()
        looked = server.count("dataservers")

        def broken() -> None:
            raise KeyError("a mistake")

        monkeypatch.setattr(one, "_tell_clock", broken)
        await until(lambda: server.count("dataservers") >= looked + 3, lambda: server.asked)
        assert one.pace.rules.factor > LEAST_FACTOR
