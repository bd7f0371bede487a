"""Faults to order: each does what it says, is counted, and ends when it is healed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from plant.pi import faults as kinds
from plant.pi import truth
from plant.pi.faults import FaultError
from plant.pi.server import Options, PiServer
from plant.pi.system import Event

from .serving import FAST, channel_url, frame, point, serving, until, write


def recorded(server: PiServer, *names: str) -> str:
    ids = "&".join(f"webId={server.system.web_id_of(point(server, name), 'IDOnly')}" for name in names)
    return f"{server.url}/streamsets/recorded?{ids}&startTime=*-1h&endTime=*%2B1h"


async def got(client: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    async with client.get(url) as response:
        return response.status, await response.json()


async def rest(socket: Any) -> list[Any]:
    """What was under way, until nothing comes any more."""
    bodies = []
    with contextlib.suppress(asyncio.TimeoutError):
        while True:
            message = await socket.receive(timeout=0.3)
            assert message.type is aiohttp.WSMsgType.TEXT, message
            bodies.append(message.json())
    return bodies


async def opened(server: PiServer) -> None:
    await until(lambda: server.channels.open == 1, lambda: f"{server.channels.open} channels are open")


async def test_cut_resets_every_connection_and_new_ones_work() -> None:
    async with serving("A") as (server, client), client.ws_connect(channel_url(server, "A")) as socket:
        await opened(server)
        server.faults.cut()
        message = await socket.receive(timeout=10)
        assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        assert socket.close_code == 1006
        await until(lambda: server.channels.open == 0, lambda: server.channels.open)
        assert (await got(client, f"{server.url}/system/status"))[0] == 200
        assert server.faults.counts == {"cut": 1}


async def test_close_ends_every_channel_with_a_code() -> None:
    async with serving("A") as (server, client), client.ws_connect(channel_url(server, "A")) as socket:
        await opened(server)
        server.faults.close(1001)
        await socket.receive(timeout=10)
        assert socket.close_code == 1001


async def test_silence_leaves_connections_open_and_says_nothing_until_they_are_reset() -> None:
    async with serving("A") as (server, client):
        async with client.ws_connect(channel_url(server, "A", heartbeatRate=1), autoping=False) as socket:
            await frame(socket)
            server.faults.silence()
            await socket.ping(b"there?")
            write(server, "A", 1.0)
            asking = asyncio.ensure_future(client.get(f"{server.url}/system/status"))
            await rest(socket)
            assert not asking.done()
            assert not socket.closed
            server.faults.heal("silence")
            message = await socket.receive(timeout=10)
            assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
            # The client was reset, and has asked again by itself.
            assert (await asking).status == 200
            assert server.requests["GET system/status"] == 2
        assert (await got(client, f"{server.url}/system/status"))[0] == 200


async def test_upgrades_are_refused_with_a_status_while_reading_works() -> None:
    async with serving("A") as (server, client):
        server.faults.refuse_upgrades(502)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(channel_url(server, "A"))
        assert refused.value.status == 502
        assert (await got(client, recorded(server, "A")))[0] == 200
        server.faults.heal()
        async with client.ws_connect(channel_url(server, "A")):
            await opened(server)


async def test_throttled_errors_and_their_shares_come_by_the_seed() -> None:
    async def statuses(seed: int) -> list[int]:
        async with serving("A", options=Options(seed=seed)) as (server, client):
            server.faults.throttle(share=0.5, retry_after=3)
            found = []
            for _ in range(20):
                async with client.get(f"{server.url}/system/status") as response:
                    found.append(response.status)
                    if response.status == 429:
                        assert response.headers["Retry-After"] == "3"
                        assert (await response.json())["Errors"]
            assert server.faults.hits["throttle"] == found.count(429)
            server.faults.heal()
            server.faults.errors(500)
            assert (await got(client, f"{server.url}/system/status"))[0] == 500
            return found

    first, again, other = await statuses(1), await statuses(1), await statuses(2)
    assert first == again != other
    assert set(first) == {200, 429}


async def test_a_web_exception_stands_in_an_answer_of_status_200_that_holds_half_of_its_values() -> None:
    async with serving("A") as (server, client):
        for value in range(10):
            write(server, "A", float(value))
        server.faults.web_exceptions()
        status, body = await got(client, recorded(server, "A"))
        assert status == 200
        assert body["WebException"]["StatusCode"] == 500
        assert len(body["Items"][0]["Items"]) == 5
        server.faults.web_exceptions(cut=True)
        async with client.get(recorded(server, "A")) as response:
            text = await response.text()
        assert response.status == 200
        assert "WebException" in text
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)


async def test_a_truncated_answer_ends_in_the_middle_and_a_dripping_one_takes_its_time() -> None:
    async with serving("A") as (server, client):
        for value in range(10):
            write(server, "A", float(value))
        server.faults.truncate()
        async with client.get(recorded(server, "A")) as response:
            cut = await response.read()
        with pytest.raises(json.JSONDecodeError):
            json.loads(cut)
        server.faults.heal()
        server.faults.drip(bytes_per_s=10_000)
        begun = time.monotonic()
        _, body = await got(client, recorded(server, "A"))
        assert len(body["Items"][0]["Items"]) == 10
        assert time.monotonic() - begun > len(orjson.dumps(body)) / 10_000 / 2


async def test_values_of_a_share_of_points_are_errors_in_the_same_answer_that_has_others() -> None:
    names = [f"P{number}" for number in range(40)]
    async with serving(*names) as (server, client):
        for name in names:
            write(server, name, 1.0)
        server.faults.value_errors(0.5, "No read access.")
        _, body = await got(client, recorded(server, *names))
        failed = {item["Name"] for item in body["Items"] if any("Errors" in value for value in item.get("Items", []))}
        assert 5 < len(failed) < 35
        _, again = await got(client, recorded(server, *names))
        assert failed == {
            item["Name"] for item in again["Items"] if any("Errors" in value for value in item.get("Items", []))
        }
        assert "No read access." in orjson.dumps(body).decode()


async def test_an_archive_that_is_down_says_so_and_what_was_written_arrives_late_when_it_is_up(tmp_path: Path) -> None:
    log = tmp_path / "truth"
    async with (
        serving("A", log=truth.Truth(log)) as (server, client),
        client.ws_connect(channel_url(server, "A", heartbeatRate=1)) as socket,
    ):
        await frame(socket)
        server.faults.archive_down()
        a = point(server, "A")
        event = Event(server.clock.now_ns(), 5.0)
        server.inlet.write(a, event)
        _, servers = await got(client, f"{server.url}/dataservers")
        assert servers["Items"][0]["IsConnected"] is False
        status, body = await got(client, recorded(server, "A"))
        assert status >= 400 or "Errors" in orjson.dumps(body).decode(), (status, body)
        assert server.system.archived(a) == []
        assert not [body for body in await rest(socket) if body["Items"]]
        server.faults.heal()
        body = await frame(socket)
        while not body["Items"]:
            body = await frame(socket)
        assert [value["Value"] for value in body["Items"][0]["Items"]] == [5.0]
        (reached,) = truth.produced(log)
        assert reached.at_ns > reached.sample.time_ns == event.time_ns
        _, servers = await got(client, f"{server.url}/dataservers")
        assert servers["Items"][0]["IsConnected"] is True


async def test_values_of_machines_whose_clock_is_right_wait_while_the_archives_is_far_behind() -> None:
    async with serving("A") as (server, _):
        a = point(server, "A")
        for at, behind in enumerate((0.0, -7200.0, -60.0)):
            if behind:
                server.faults.skew(behind)
            server.inlet.write(a, Event(server.clock.true_ns(), float(at)))
        # Two hours behind it would have refused the second as of the future; a minute is allowed.
        assert [event.value for event in server.system.archived(a)] == [0.0, 2.0]
        assert server.inlet.buffered == 1
        server.faults.heal()
        assert [event.value for event in server.system.archived(a)] == [0.0, 1.0, 2.0]


async def test_heartbeats_go_on_while_the_archive_is_down_when_that_is_asked_for() -> None:
    async with (
        serving("A") as (server, client),
        client.ws_connect(channel_url(server, "A", heartbeatRate=1)) as socket,
    ):
        server.faults.archive_down(heartbeats=True)
        for _ in range(3):
            assert not (await frame(socket))["Items"]


async def test_the_clock_is_wrong_as_a_whole_or_in_the_date_header_alone() -> None:
    async with serving("A") as (server, client):

        async def seen() -> tuple[str, str]:
            async with client.get(f"{server.url}/dataservers") as response:
                return response.headers["Date"], (await response.json())["Items"][0]["ServerTime"]

        date, now = await seen()
        server.faults.skew(7200, date_only=True)
        other_date, same = await seen()
        assert other_date != date
        assert same[:13] == now[:13]
        server.faults.heal("skew")
        server.faults.skew(-86_400)
        _, before = await seen()
        assert before < now
        server.faults.heal()
        assert (await seen())[1] > now


async def test_frames_are_sent_twice_and_one_is_larger_than_clients_take() -> None:
    async with serving("A") as (server, client), client.ws_connect(channel_url(server, "A")) as socket:
        await opened(server)
        server.faults.duplicate()
        write(server, "A", 1.0)
        assert await frame(socket) == await frame(socket)
        server.faults.heal()
        server.faults.oversize()
        write(server, "A", 2.0)
        message = await socket.receive(timeout=30)
        assert message.type in (aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSED), message.type
        assert socket.close_code == 1009


async def test_late_values_arrive_at_once_with_times_long_ago() -> None:
    async with serving("A", "B") as (server, _):
        before = server.clock.now_ns()
        assert server.faults.late(values=100, back_s=3600) == 100
        times = [event.time_ns for one in server.system for event in server.system.archived(one)]
        assert len(times) == 100
        assert before - 3601 * 10**9 < min(times) < before - 1800 * 10**9


async def test_points_are_deleted_renamed_and_made_anew() -> None:
    async with serving("A", "B", "C") as (server, client):
        old = {name: point(server, name).id for name in "ABC"}
        url = f"{server.url}/points?path=%5C%5CPISERVER%5C"
        server.faults.inject("delete_point", {"point": "A"})
        server.faults.inject("rename_point", {"point": "B", "to": "B2"})
        server.faults.inject("recreate_point", {"point": "C"})
        assert (await got(client, url + "A"))[0] == 404
        assert (await got(client, url + "B"))[0] == 404
        assert (await got(client, url + "B2"))[1]["Id"] == old["B"]
        assert (await got(client, url + "C"))[1]["Id"] not in old.values()
        with pytest.raises(FaultError, match="no point 'NONE'"):
            server.faults.inject("delete_point", {"point": "NONE"})


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("nothing", {}, "expected one of silence"),
        ("throttle", {"part": 1}, "part.*share"),
        ("throttle", {"share": 2}, "from 0 to 1"),
        ("errors", {"status": 99}, "an HTTP status"),
        ("delay", {"seconds": "long"}, "expected a number"),
        ("delay", {}, "seconds"),
        ("delay", {"seconds": float("nan")}, "expected a number"),
        ("close", {"code": "gone"}, "from 1000 to 4999"),
        ("rename_point", {"point": "A", "to": "Running"}, "already exists"),
        ("rename_point", {"point": "A", "to": "*"}, "none that PI would take"),
    ],
)
async def test_a_fault_that_is_none_is_refused_with_what_there_is(
    name: str, arguments: dict[str, Any], said: str
) -> None:
    async with serving("A") as (server, _):
        with pytest.raises(FaultError, match=said):
            server.faults.inject(name, arguments)
        with pytest.raises(FaultError, match="cannot be healed"):
            server.faults.heal("cut")
        assert not server.faults.active
        assert server.system.by_name("A") is not None


async def test_every_fault_is_described_ordered_and_healed_by_its_name_and_stands_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "truth"
    arguments: dict[str, dict[str, Any]] = {
        "delay": {"seconds": 0.001},
        "skew": {"seconds": 5},
        "delete_point": {"point": "A"},
        "rename_point": {"point": "B", "to": "B2"},
        "recreate_point": {"point": "C"},
    }
    names = (*kinds.LASTING, *kinds.MOMENTARY)
    async with serving("A", "B", "C", options=Options(channels=FAST), log=truth.Truth(log)) as (server, _):
        for name in names:
            assert f"`{name}`" in (kinds.__doc__ or ""), name
            server.faults.inject(name, arguments.get(name))
        assert set(server.faults.active) == set(kinds.LASTING)
        server.faults.heal()
        assert not server.faults.active
        assert server.faults.counts == dict.fromkeys(names, 1)
    told = [entry["name"] for entry in truth.faults(log)]
    assert told == [*names, *["heal"] * len(kinds.LASTING)]


async def test_faults_can_be_ordered_over_http() -> None:
    async with serving("A") as (server, client):
        base = server.url.removesuffix("/piwebapi") + "/_sim"
        write(server, "A", 1.5)

        async def post(path: str, body: object) -> tuple[int, Any]:
            async with client.post(f"{base}/{path}", json=body) as response:
                return response.status, await response.json()

        assert (await post("faults", {"fault": "errors", "status": 500}))[0] == 200
        assert (await got(client, f"{server.url}/system/status"))[0] == 500
        assert (await got(client, f"{base}/faults"))[1]["active"] == {"errors": {"status": 500, "share": 1.0}}
        status, body = await post("faults", {"fault": "nothing"})
        assert (status, list(body)) == (400, ["Errors"])
        assert (await post("heal", {}))[1] == {"active": {}}
        assert (await got(client, f"{server.url}/system/status"))[0] == 200
        points = (await got(client, f"{base}/truth"))[1]["points"]
        assert [row[1:] for row in points["A"]] == [[1.5, truth.GOOD, None]]
        assert (await got(client, f"{base}/truth?from=0&to=1"))[1]["points"]["A"] == []
        assert (await got(client, f"{base}/truth?from=x"))[0] == 400
        counted = (await got(client, f"{base}/requests"))[1]
        assert counted == {"requests": {"GET system/status": 2}, "written": 0}
