"""Channels: what a client is told, when, and how the server knows that it was read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from plant.pi import truth
from plant.pi.channels import ChannelOptions
from plant.pi.clock import Clock
from plant.pi.server import Options
from plant.pi.system import Event, PointDefinition
from .serving import FAST, channel_url, frame, point, serving, system_with, until, write


async def test_a_frame_has_the_streams_that_changed_with_all_their_values_since_the_last_one() -> None:
    async with serving("A", "B") as (server, client), client.ws_connect(channel_url(server, "A", "B")) as socket:
        await until(lambda: server.channels.open == 1, lambda: server.channels.open)
        first, second = write(server, "A", 1.5), write(server, "A", 2.5)
        body = await frame(socket)
        assert [item["Name"] for item in body["Items"]] == ["A"]
        assert [value["Value"] for value in body["Items"][0]["Items"]] == [first.value, second.value]
        assert body["Items"][0]["UnitsAbbreviation"] == "degC"
        write(server, "B", 7.0)
        assert [item["Name"] for item in (await frame(socket))["Items"]] == ["B"]
