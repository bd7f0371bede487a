"""Channels: what a client is told, when, and how the server knows that it was read."""

from __future__ import annotations

import asyncio
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest

from plant.pi import truth
from plant.pi.channels import ChannelOptions
from plant.pi.clock import Clock
from plant.pi.server import Options, PiServer
from plant.pi.system import Event

from .serving import FAST, channel_url, frame, point, serving, until, write

EMPTY: dict[str, Any] = {"Links": {}, "Items": []}


def values(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """What a frame says: (point, value), in its order."""
    return [(item["Name"], value["Value"]) for item in body["Items"] for value in item["Items"]]


async def opened(server: PiServer, channels: int = 1) -> None:
    await until(lambda: server.channels.open == channels, lambda: f"{server.channels.open} of {channels} are open")


def fast(**options: Any) -> Options:
    return Options(channels=ChannelOptions(poll_s=0.02, **options))


async def test_a_frame_has_the_streams_that_changed_with_all_their_values_since_the_last_one() -> None:
    async with serving("A", "B") as (server, client), client.ws_connect(channel_url(server, "A", "B")) as socket:
        await opened(server)
        write(server, "A", 1.5)
        write(server, "A", 2.5)
        body = await frame(socket)
        assert values(body) == [("A", 1.5), ("A", 2.5)]
        assert body["Items"][0]["UnitsAbbreviation"] == "degC"
        assert body["Items"][0]["Path"] == r"\\PISERVER\A"
        write(server, "B", 7.0)
        assert values(await frame(socket)) == [("B", 7.0)]


async def test_nothing_is_repeated_that_was_written_before_the_channel_was_opened() -> None:
    async with serving("A") as (server, client):
        write(server, "A", 1.0)
        async with client.ws_connect(channel_url(server, "A")) as socket:
            await opened(server)
            write(server, "A", 2.0)
            assert values(await frame(socket)) == [("A", 2.0)]


async def test_initial_values_are_the_snapshots_of_all_streams_and_come_first_when_asked_for() -> None:
    async with serving("A", "B") as (server, client):
        write(server, "A", 1.0)
        write(server, "A", 2.0)
        write(server, "B", 3.0)
        async with client.ws_connect(channel_url(server, "A", "B", includeInitialValues="true")) as socket:
            assert values(await frame(socket)) == [("A", 2.0), ("B", 3.0)]


async def test_a_heartbeat_comes_after_so_many_polls_without_news_and_none_when_it_is_not_asked_for() -> None:
    async with serving("A") as (server, client):
        async with client.ws_connect(channel_url(server, "A", heartbeatRate=3)) as socket:
            assert await frame(socket) == EMPTY
            write(server, "A", 1.0)
            bodies = [await frame(socket) for _ in range(3)]
            assert sorted(len(body["Items"]) for body in bodies) == [0, 0, 1]
        await opened(server, 0)
        async with client.ws_connect(channel_url(server, "A")) as socket:
            with pytest.raises(asyncio.TimeoutError):
                await socket.receive(timeout=0.3)


async def test_the_polls_keep_the_servers_time() -> None:
    """At twenty times the speed a poll of two server seconds takes a tenth of one of ours."""
    options = Options(channels=ChannelOptions(poll_s=2.0))
    async with (
        serving("A", options=options, clock=Clock(speed=20)) as (server, client),
        client.ws_connect(channel_url(server, "A", heartbeatRate=1)) as socket,
    ):
        first = server.clock.now_ns()
        for _ in range(5):
            await frame(socket)
        assert 4 * 2.0 <= (server.clock.now_ns() - first) / 1e9 < 60


async def test_late_values_edits_and_deletions_are_told_with_their_own_times() -> None:
    async with serving("A") as (server, client):
        old = write(server, "A", 1.0, ago_s=100)
        write(server, "A", 2.0)
        async with client.ws_connect(channel_url(server, "A")) as socket:
            await opened(server)
            late = write(server, "A", 3.0, ago_s=50)
            server.system.replace(point(server, "A"), Event(old.time_ns, 4.0))
            server.system.delete(point(server, "A"), late.time_ns)
            told: list[dict[str, Any]] = []
            while len(told) < 3:
                told += (await frame(socket))["Items"][0]["Items"]
    assert [(one["Value"], one["Good"], one["Substituted"]) for one in told] == [
        (3.0, True, False),
        (4.0, True, True),
        (None, False, False),
    ]
    assert told[0]["Timestamp"] == told[2]["Timestamp"] != told[1]["Timestamp"]


@pytest.mark.parametrize("deletions", ["null", "deleted", "none"])
async def test_how_a_deletion_looks_is_the_servers_choice(deletions: Literal["null", "deleted", "none"]) -> None:
    async with serving("A", options=fast(deletions=deletions)) as (server, client):
        event = write(server, "A", 1.0)
        async with client.ws_connect(channel_url(server, "A")) as socket:
            await opened(server)
            server.system.delete(point(server, "A"), event.time_ns)
            if deletions == "none":
                write(server, "A", 2.0)
                assert values(await frame(socket)) == [("A", 2.0)]
                return
            (told,) = (await frame(socket))["Items"][0]["Items"]
            assert (told["Value"], told["Good"]) == (None, False)
            assert ("Errors" in told) is (deletions == "deleted")


async def test_shapes_of_the_documentation_one_value_per_stream_and_texts_for_booleans() -> None:
    async with (
        serving("A", options=fast(shape="Value", text_booleans=True)) as (server, client),
        client.ws_connect(channel_url(server, "A")) as socket,
    ):
        await opened(server)
        write(server, "A", 1.0)
        write(server, "A", 2.0)
        told = [(await frame(socket))["Items"][0] for _ in range(2)]
    assert [item["Value"]["Value"] for item in told] == [1.0, 2.0]
    assert all(item["Value"]["Good"] == "true" and "Items" not in item for item in told)


async def test_values_of_a_frame_may_come_in_any_order() -> None:
    async with (
        serving("A", options=fast(shuffled=True)) as (server, client),
        client.ws_connect(channel_url(server, "A")) as socket,
    ):
        await opened(server)
        for at in range(50):
            write(server, "A", float(at))
        told: list[float] = []
        while len(told) < 50:
            told += [value for _, value in values(await frame(socket))]
    assert sorted(told) == [float(at) for at in range(50)] != told


async def test_a_bad_web_id_fails_the_whole_channel_with_a_status_and_errors() -> None:
    async with serving("A") as (server, client):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(channel_url(server, "A") + "&webId=I1DPnothing")
        assert refused.value.status == 404
        async with client.get(channel_url(server, "A")) as response:
            assert (response.status, await response.json()) == (
                400,
                {"Errors": ["The protocol of the request is not supported."]},
            )
    assert server.channels.open == 0


@pytest.mark.parametrize("full", [1013, None])
async def test_a_channel_too_many_is_closed_with_a_code_or_refused(full: int | None) -> None:
    async with (
        serving("A", options=fast(most=1, full=full)) as (server, client),
        client.ws_connect(channel_url(server, "A")),
    ):
        await opened(server)
        if full is None:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.ws_connect(channel_url(server, "A"))
            assert refused.value.status == 503
        else:
            async with client.ws_connect(channel_url(server, "A")) as second:
                message = await second.receive(timeout=10)
                assert (message.type, second.close_code) == (aiohttp.WSMsgType.CLOSE, full)


async def test_a_frame_counts_as_read_when_the_client_has_taken_it_and_not_before(tmp_path: Path) -> None:
    log = tmp_path / "truth"
    async with serving("A", log=truth.Truth(log)) as (server, client):
        async with client.ws_connect(channel_url(server, "A")) as socket:
            await opened(server)
            first = write(server, "A", 1.0)
            await frame(socket)
            reading = asyncio.ensure_future(socket.receive())  # the ping behind the frame is answered in here
            await until(lambda: server.truth.frames_read == 1, lambda: server.truth.frames_read)
            write(server, "A", 2.0)
            await reading
            await until(lambda: server.truth.frames == 2, lambda: server.truth.frames)
        server.export()
        server.truth.end()
    (read,) = truth.frames_read(log)
    assert [sample.time_ns for sample, _ in read.samples] == [first.time_ns]
    assert [reached.sample.value for reached in truth.produced(log)] == [1.0, 2.0]
    assert list(chain.from_iterable(truth.archive(log).values())) == [r.sample for r in truth.produced(log)]
    assert truth.ended(log)


async def test_a_client_that_reads_too_slowly_loses_the_oldest_values_and_the_server_counts_them() -> None:
    async with (
        serving("A", options=Options(channels=ChannelOptions(poll_s=0.3, queue=10))) as (server, client),
        client.ws_connect(channel_url(server, "A")) as socket,
    ):
        await opened(server)
        for at in range(25):
            write(server, "A", float(at))
        assert [value for _, value in values(await frame(socket))] == [float(at) for at in range(15, 25)]
    assert server.channels.lost == 15


async def test_running_channels_can_be_listed() -> None:
    async with serving("A") as (server, client), client.ws_connect(channel_url(server, "A", heartbeatRate=1)) as socket:
        await frame(socket)
        async with client.get(f"{server.url}/channels/instances") as response:
            (instance,) = (await response.json())["Items"]
    assert instance["SentMessageCount"] >= 1
    assert {"Id", "StartTime", "LastMessageSentTime"} < set(instance)


async def test_routes_and_parameters_are_known_in_any_case() -> None:
    async with serving("A") as (server, client):
        url = channel_url(server, "A", heartbeatrate=1).replace("streamsets/channel", "StreamSets/Channel")
        async with client.ws_connect(url.replace("webId", "WEBID")) as socket:
            assert await frame(socket) == EMPTY
        assert server.requests == {"GET streamsets/channel": 1}


async def test_a_pong_to_the_newest_ping_speaks_for_those_before() -> None:
    async with serving("A") as (server, client), client.ws_connect(channel_url(server, "A"), autoping=False) as socket:
        await opened(server)
        pings = []
        for value in range(3):
            write(server, "A", float(value))
            await frame(socket)
            ping = await socket.receive(timeout=10)
            assert ping.type is aiohttp.WSMsgType.PING
            pings.append(ping.data)
        assert server.truth.frames_read == 0
        await socket.pong(pings[-1])
        await until(lambda: server.truth.frames_read == 3, lambda: server.truth.frames_read)


async def test_a_single_stream_has_a_channel_too() -> None:
    async with serving("A") as (server, client):
        web_id = server.system.web_id_of(point(server, "A"), "IDOnly")
        async with client.ws_connect(f"{server.url}/streams/{web_id}/channel?webIdType=IDOnly") as socket:
            await opened(server)
            write(server, "A", 1.0)
            (item,) = (await frame(socket))["Items"]
    assert item["WebId"] == web_id


async def test_closing_the_server_says_so_to_every_channel() -> None:
    async with (
        serving("A", options=Options(channels=FAST)) as (server, client),
        client.ws_connect(channel_url(server, "A")) as socket,
    ):
        await opened(server)
        closing = asyncio.ensure_future(server.close())
        message = await socket.receive(timeout=10)
        assert (message.type, socket.close_code) == (aiohttp.WSMsgType.CLOSE, 1001)
        await closing
