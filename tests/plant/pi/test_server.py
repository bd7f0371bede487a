"""The server around its parts: who may ask, what is counted, and what every answer carries."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from plant.pi.authentication import TOKEN_PATH, Authentication
from plant.pi.certificates import Authority, Kind
from plant.pi.clock import Clock
from plant.pi.server import Options, PiServer
from plant.pi.system import PiSystem, PointDefinition

from .serving import POST, channel_url, point, serving, until, write

BODY = {"1": {"Method": "GET", "Resource": "https://any/piwebapi/system/status"}}


async def status(client: aiohttp.ClientSession, url: str, **options: Any) -> int:
    async with client.get(url, **options) as response:
        await response.read()
        return response.status


async def test_every_answer_carries_the_servers_time_errors_and_handshakes_too() -> None:
    clock = Clock(speed=50, start_ns=1_600_000_000_000_000_000)
    async with serving("A", clock=clock) as (server, client):
        for url in (f"{server.url}/system/status", f"{server.url}/nothing", "http://" + server.url.split("/")[2] + "/"):
            before = clock.now_ns()
            async with client.get(url) as response:
                date = round(parsedate_to_datetime(response.headers["Date"]).timestamp() * 1e9)
                assert before - 10**9 < date <= clock.now_ns(), url
        async with client.ws_connect(channel_url(server, "A")) as socket:
            assert "Date" in (socket._response.headers)


async def test_requests_are_counted_by_verb_and_route_and_what_could_write_is_told_apart() -> None:
    async with serving("A") as (server, client):
        web_id = server.system.web_id_of(point(server, "A"))
        await status(client, f"{server.url}/streams/{web_id}/value")
        await status(client, f"{server.url}/streamsets/recorded?webId={web_id}")
        await status(client, f"{server.url}/STREAMSETS/recorded?webid={web_id}")
        async with client.post(f"{server.url}/batch", json=BODY, headers=POST) as response:
            assert response.status == 207
        assert server.written == 0
        for method in ("POST", "PUT", "DELETE"):
            async with client.request(method, f"{server.url}/streams/{web_id}/value", headers=POST) as response:
                assert response.status in (404, 405)
        assert server.written == 3
    assert server.requests["GET streams/{id}/value"] == 1
    assert server.requests["POST batch"] == 1


async def test_a_post_without_the_header_against_forgery_is_refused() -> None:
    async with serving("A") as (server, client), client.post(f"{server.url}/batch", json=BODY) as response:
        assert response.status == 400
        assert "X-Requested-With" in (await response.json())["Errors"][0]
    async with (
        serving("A", options=Options(csrf=False)) as (server, client),
        client.post(f"{server.url}/batch", json=BODY) as response,
    ):
        assert response.status == 207


async def test_more_requests_than_the_limit_are_answered_429() -> None:
    async with serving("A", options=Options(rate_limit=3, rate_s=60)) as (server, client):
        found = [await status(client, f"{server.url}/system/status") for _ in range(5)]
        assert found == [200, 200, 200, 429, 429]


async def test_an_address_that_is_too_long_is_refused() -> None:
    async with serving("A") as (server, client):
        assert await status(client, f"{server.url}/points?path={'x' * 15_000}") == 404
        assert await status(client, f"{server.url}/points?path={'x' * 17_000}") == 414


async def test_large_answers_are_compressed_for_clients_that_take_it() -> None:
    async with serving("A") as (server, _):
        for value in range(100):
            write(server, "A", float(value))
        web_id = server.system.web_id_of(point(server, "A"))
        url = f"{server.url}/streams/{web_id}/recorded?startTime=*-1h&endTime=*"
        async with aiohttp.ClientSession(auto_decompress=False) as raw:
            async with raw.get(url, headers={"Accept-Encoding": "gzip"}) as response:
                packed = await response.read()
                assert response.headers["Content-Encoding"] == "gzip"
            async with raw.get(url, headers={"Accept-Encoding": "identity"}) as response:
                plain = await response.read()
                assert "Content-Encoding" not in response.headers
        assert gzip.decompress(packed) == plain
        assert len(packed) < len(plain) / 3


async def test_it_starts_again_at_the_same_address_and_closes_at_once_with_a_client_that_hangs() -> None:
    async with serving("A") as (server, client):
        url = server.url
        server.faults.delay(3600)
        hanging = asyncio.ensure_future(client.get(f"{url}/system/status"))
        await until(lambda: bool(server.requests), lambda: "no request came")
        begun = asyncio.get_running_loop().time()
        await server.close()
        assert asyncio.get_running_loop().time() - begun < 5
        with pytest.raises(aiohttp.ClientError):
            await hanging
        server.faults.heal()
        await server.start()
        assert server.url == url
        assert await status(client, f"{url}/system/status") == 200


# ---- who may ask


async def test_with_users_nobody_else_is_let_in_and_a_changed_password_counts_at_once() -> None:
    who = Authentication({"PLANT\\reader": "grün:1"})
    async with serving("A", authentication=who) as (server, client):
        url = f"{server.url}/system/userinfo"
        async with client.get(url) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == 'Basic realm="PI Web API"'
            assert (await response.json())["Errors"]
        right = {"Authorization": aiohttp.encode_basic_auth("plant\\READER", "grün:1", "utf-8")}
        wrong = {"Authorization": aiohttp.encode_basic_auth("PLANT\\reader", "other", "utf-8")}
        async with client.get(url, headers=right) as response:
            assert (await response.json())["Name"] == "plant\\READER"
        assert await status(client, url, headers=wrong) == 401
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(channel_url(server, "A"), headers=wrong)
        assert refused.value.status == 401
        async with client.ws_connect(channel_url(server, "A"), headers=right):
            who.set_password("PLANT\\reader", "new")
            assert await status(client, url, headers=right) == 401


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Basic eA==", "Bearer", "Bearer x", "Negotiate abc", ""])
async def test_a_header_that_says_nothing_is_refused(header: str) -> None:
    assert Authentication({"a": "b"}, {"c": "d"}).who(header) is None


async def test_a_token_is_given_for_a_secret_and_is_good_until_it_expires_or_is_revoked() -> None:
    seconds = 0.0
    who = Authentication(clients={"sluice": "secret"}, token_s=60, now=lambda: seconds)
    async with serving("A", authentication=who) as (server, client):
        token_url = server.url.removesuffix("/piwebapi") + TOKEN_PATH
        asked = {"grant_type": "client_credentials", "client_id": "sluice", "client_secret": "secret"}

        async def token(**changed: str) -> tuple[int, Any]:
            async with client.post(token_url, data={**asked, **changed}) as response:
                return response.status, await response.json()

        assert await token(client_secret="other") == (400, {"error": "invalid_client"})
        assert await token(grant_type="password") == (400, {"error": "unsupported_grant_type"})
        _, given = await token()
        assert (given["token_type"], given["expires_in"]) == ("Bearer", 60)
        bearer = {"Authorization": f"Bearer {given['access_token']}"}
        url = f"{server.url}/system/userinfo"
        assert await status(client, url) == 401
        assert await status(client, url, headers=bearer) == 200
        seconds = 61.0
        assert await status(client, url, headers=bearer) == 401
        _, given = await token()
        bearer = {"Authorization": f"Bearer {given['access_token']}"}
        assert await status(client, url, headers=bearer) == 200
        who.revoke()
        assert await status(client, url, headers=bearer) == 401
        assert server.written == 0


def test_several_ways_in_are_open_at_once_and_each_is_told() -> None:
    who = Authentication({"a": "b"}, {"c": "d"}, anonymous=True)
    assert who.challenges() == ['Basic realm="PI Web API"', "Bearer"]
    assert who.who(None) == ""
    assert who.who(aiohttp.encode_basic_auth("a", "b")) == "a"
    assert Authentication().who(None) == ""
    assert Authentication({"a": "b"}).who(None) is None
    assert who.counts == {"accepted": 2}


async def test_a_point_that_one_may_not_read_refuses_channels_and_registrations() -> None:
    clock = Clock()
    system = PiSystem(clock)
    system.add(PointDefinition("OPEN"))
    closed = system.add(PointDefinition("CLOSED", readers=frozenset({"boss"})))
    async with PiServer(system, clock) as server, aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect(channel_url(server, "OPEN", "CLOSED"))
        query = {"webId": system.web_id_of(closed)}
        async with client.post(f"{server.url}/streamsets/updates", params=query, headers=POST) as response:
            (item,) = (await response.json())["Items"]
    assert item["Status"] == "Failed"
    assert "No Read Access" in item["Exception"]["Errors"][0]


# ---- TLS


async def asked(url: str, context: ssl.SSLContext) -> int:
    async with aiohttp.ClientSession() as client:
        return await status(client, f"{url}/system/status", ssl=context)


async def test_a_certificate_of_the_plants_own_authority_is_good_for_who_trusts_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving("A", tls=authority.context(authority.server())) as (server, _):
        assert server.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(authority.certificate))
        assert await asked(server.url, trusting) == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match=r"unable to get local issuer|self-signed"):
            await asked(server.url, ssl.create_default_context())


@pytest.mark.parametrize(
    ("kind", "said"),
    [("expired", "expired"), ("not-yet-valid", "not yet valid"), ("other-host", "not valid for '127.0.0.1'|mismatch")],
)
async def test_a_certificate_can_be_wrong_in_one_way(tmp_path: Path, kind: Kind, said: str) -> None:
    authority = Authority(tmp_path)
    async with serving("A", tls=authority.context(authority.server(kind))) as (server, _):
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match=said):
            await asked(server.url, ssl.create_default_context(cafile=str(authority.certificate)))


async def test_a_client_certificate_can_be_demanded(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    shown = authority.client()
    assert shown.key.stat().st_mode & 0o777 == 0o600
    tls = authority.context(authority.server(), client_required=True)
    async with serving("A", tls=tls) as (server, _):
        context = ssl.create_default_context(cafile=str(authority.certificate))
        with pytest.raises(aiohttp.ClientError):
            await asked(server.url, context)
        context.load_cert_chain(shown.certificate, shown.key)
        assert await asked(server.url, context) == 200
