"""The client with the simulated PI server: its clock, its logins, its faults, and what the server counted."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp
import orjson
import pytest

from pi_collector.web import requests
from pi_collector.web.client import Client
from pi_collector.web.errors import PiError, ThrottledError, UnauthorizedError
from plant.pi.authentication import TOKEN_PATH, Authentication
from plant.pi.clock import Clock
from plant.pi.events import Event
from plant.pi.points import PointDefinition
from plant.pi.server import PiServer
from plant.pi.system import PiSystem

from .scripted import Using

FAST: dict[str, Any] = {"load": {"requestsPerSecond": 1000, "parallel": 8}, "requestTimeout": 2}
S = 1_000_000_000


def plant(speed: float = 20.0, **options: Any) -> tuple[PiServer, list[str]]:
    """A server hours off and faster than ours, and the WebIds of its ten points with a hundred values each."""
    clock = Clock(speed, 1_600_000_000 * S)
    system = PiSystem(clock)
    ids = []
    for index in range(10):
        point = system.add(PointDefinition(f"UNIT.{index}", type="Float32", unit="degC"))
        for value in range(100):
            system.write(point, Event(clock.now_ns() - (100 - value) * 10 * S, float(value)))
        ids.append(system.web_id_of(point))
    return PiServer(system, clock, **options), ids


async def answered(one: Client, request: requests.Request, seconds: float) -> None:
    """Ask until there is an answer."""
    end = asyncio.get_running_loop().time() + seconds
    while not await _answers(one, request):
        assert asyncio.get_running_loop().time() < end, one.status()
        await asyncio.sleep(0.1)


async def _answers(one: Client, request: requests.Request) -> bool:
    try:
        await one.get(*request)
    except PiError:
        return False
    return True


async def test_it_learns_who_it_talks_to_and_what_time_it_is_there() -> None:
    server, ids = plant()
    async with server, Using(server.url, **FAST) as one:
        await one.start()
        assert one.features.version
        for _ in range(20):
            before = server.clock.now_ns()
            after = await one.clock.after()
            assert before <= after
            assert one.clock.lower <= server.clock.now_ns()
            assert after - before < 60 * S
        assert (await one.health()).state == "well"
        body = orjson.loads(await one.get(*requests.recorded(ids, 0, server.clock.now_ns(), 1000)))
        assert [item["WebId"][:2] for item in body["Items"]] == ["I1"] * len(ids)
        assert all(item["Items"] for item in body["Items"])


@pytest.mark.parametrize("date_only", [True, False])
async def test_a_clock_that_is_wrong_for_a_while_never_makes_lower_too_late(date_only: bool) -> None:
    server, _ = plant()
    async with server, Using(server.url, **FAST) as one:
        await one.start()
        for seconds in (7200.0, -7200.0):
            server.faults.skew(seconds, date_only=date_only)
            await one.get("system/status")
            assert one.clock.lower <= server.clock.now_ns()
            assert await one.clock.after() >= server.clock.now_ns() - 20 * S


async def test_an_archive_that_is_down_is_told() -> None:
    server, _ = plant()
    async with server, Using(server.url, **FAST) as one:
        await one.start()
        server.faults.archive_down()
        for _ in range(100):
            if (await one.health()).state == "archive-down":
                break
            await asyncio.sleep(0.05)
        assert (await one.health()).state == "archive-down"


async def test_a_channel_opens_and_speaks() -> None:
    server, ids = plant()
    async with server, Using(server.url, **FAST) as one:
        line = await one.websocket(*requests.channel(ids, 1))
        first = await line.receive(5)
        assert first.type is aiohttp.WSMsgType.TEXT
        assert len(orjson.loads(first.data)["Items"]) == len(ids)
        await line.close()


async def test_a_token_that_expires_every_moment_costs_no_request() -> None:
    server, ids = plant(authentication=Authentication(clients={"sluice": "geheim"}, token_s=0.3))
    async with server:
        origin = server.url.removesuffix("/piwebapi")
        bearer = {
            "tokenUrl": origin + TOKEN_PATH,
            "clientId": "sluice",
            "clientSecret": {"file": "password"},
        }
        async with Using(server.url, bearer=bearer, allowUnencrypted=True, **FAST) as one:
            await one.start()
            for _ in range(15):
                await one.get(*requests.value(ids))
                await asyncio.sleep(0.1)


async def test_a_changed_password_is_taken_up_and_a_wrong_one_spares_the_account() -> None:
    authentication = Authentication(users={"reader": "geheim"})
    server, ids = plant(authentication=authentication)
    user = {"name": "reader", "password": {"file": "password"}}
    async with server:
        using = Using(server.url, user=user, allowUnencrypted=True, **FAST)
        async with using as one:
            await one.start()
            using.secrets["password"] = "falsch"
            authentication.set_password("reader", "neu")
            asked = server.requests["GET streamsets/value"]
            for _ in range(20):
                with pytest.raises(UnauthorizedError):
                    await one.get(*requests.value(ids))
            assert server.requests["GET streamsets/value"] - asked <= 2
            using.secrets["password"] = "neu"
            await answered(one, requests.value(ids), 7)


async def test_throttling_is_obeyed() -> None:
    server, ids = plant()
    async with server, Using(server.url, **FAST) as one:
        await one.start()
        server.faults.throttle(share=1.0, retry_after=1.0)
        with pytest.raises(ThrottledError):
            await one.get(*requests.value(ids))
        server.faults.heal()
        assert one.pace.rules.held(asyncio.get_running_loop().time()) > 0
        await one.get(*requests.value(ids))


async def test_through_a_storm_of_faults_answers_are_whole_or_errors_and_nothing_is_written() -> None:
    server, ids = plant()
    chance = random.Random(6)
    async with server, Using(server.url, **FAST) as one:
        await one.start()
        until = server.clock.now_ns()
        whole = orjson.loads(await one.get(*requests.recorded(ids, 0, until, 1000)))
        faults = server.faults
        storms = [
            lambda: faults.web_exceptions(0.3),
            lambda: faults.web_exceptions(0.3, cut=True),
            lambda: faults.truncate(0.3),
            lambda: faults.errors(500, 0.3),
            lambda: faults.errors(503, 0.3),
            lambda: faults.throttle(0.2, 0.05),
            lambda: faults.delay(0.05),
            faults.cut,
        ]
        well = failed = 0
        end = asyncio.get_running_loop().time() + 8

        async def ask() -> None:
            nonlocal well, failed
            while asyncio.get_running_loop().time() < end:
                try:
                    if chance.random() < 0.3:
                        request = requests.recorded_alone(ids[0], 0, until, 1000)
                        part = {"Method": "GET", "Resource": requests.written(*request)}
                        found = (await one.batch({"0": part}))["0"]
                        if found.error() is None:
                            assert found.content["Items"] == whole["Items"][0]["Items"]
                    else:
                        body = await one.get(*requests.recorded(ids, 0, until, 1000))
                        try:
                            content = orjson.loads(body)
                        except orjson.JSONDecodeError:
                            failed += 1  # cut off where it looks like an end: whoever decodes it says so
                            continue
                        assert content == whole
                    well += 1
                except PiError:
                    failed += 1
                    await asyncio.sleep(0.01)

        async def storm() -> None:
            while asyncio.get_running_loop().time() < end:
                chance.choice(storms)()
                await asyncio.sleep(0.3)
                faults.heal()

        await asyncio.gather(storm(), *(ask() for _ in range(6)))
        faults.heal()
        assert well > 20, (well, failed)
        assert failed > 5, (well, failed)
        await answered(one, requests.value(ids), 70)
        assert one.pace.rules.busy <= 1, "at most the look at the time is under way"
    assert server.written == 0
    assert all(name.startswith("GET ") or name == "POST batch" for name in server.requests), server.requests
