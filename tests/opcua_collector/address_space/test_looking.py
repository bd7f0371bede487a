"""A look at a server through a session: a few nodes, a few values, whatever the server has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from opcua_collector.address_space.looking import NotThereError, nodes_below, values_of
from opcua_collector.config import Connection as Settings
from opcua_collector.config import Load
from opcua_collector.nodes import Facts, learn
from opcua_collector.services.connecting import Identity, connect
from opcua_collector.services.wire import read_value_id
from opcua_collector.stack import node_bytes, ua

from ...cli.opc_server import URI, Plant, plant


@pytest.fixture(scope="module")
def server() -> Iterator[Plant]:
    with plant() as made:
        yield made


@asynccontextmanager
async def facts(server: Plant, folder: Path) -> AsyncIterator[Facts]:
    settings = Settings.model_validate({"endpoint": server.endpoint, "security": {"policy": "None"}})
    session = await connect("line1", settings, Identity(folder / "pki", "urn:test"), None)
    try:
        yield await learn(session, Load())
    finally:
        await session.close(politely=True)


def request(identifier: str) -> bytes:
    return read_value_id(node_bytes(ua.NodeId(identifier, 2, ua.NodeIdType.String)))


async def test_the_nodes_below_a_path_are_shown_with_ids_that_last(server: Plant, tmp_path: Path) -> None:
    async with facts(server, tmp_path) as known:
        found = await nodes_below(known, "/Plant", 1, 500)
    assert found["path"] == "/Plant"
    assert {"path": "/Plant/T3", "node": f"nsu={URI};s=T3", "class": "variable"} in found["nodes"]
    assert len(found["nodes"]) == 11
    assert "more" not in found


async def test_deeper_levels_and_no_more_nodes_than_wanted(server: Plant, tmp_path: Path) -> None:
    async with facts(server, tmp_path) as known:
        both = await nodes_below(known, "/", 2, 500)
        few = await nodes_below(known, "/", 3, 7)
    paths = {row["path"]: row["class"] for row in both["nodes"]}
    assert paths["/Plant"] == "object"
    assert paths["/Plant/T0"] == "variable"
    assert len(few["nodes"]) == 7
    assert few["more"] is True


async def test_a_path_that_is_not_there_is_told_with_the_names_that_are(server: Plant, tmp_path: Path) -> None:
    async with facts(server, tmp_path) as known:
        with pytest.raises(NotThereError) as told:
            await nodes_below(known, "/Plant/T33", 1, 10)
    assert told.value.step == "T33"
    assert "T3" in told.value.names


async def test_values_come_with_what_is_wrong_with_them(server: Plant, tmp_path: Path) -> None:
    async with facts(server, tmp_path) as known:
        asked = {"Level": request("T3"), "Name": request("Name"), "Gone": request("nope")}
        found = await values_of(known, asked)
    assert found == {
        "Level": {"value": 23.5},
        "Name": {"value": "Reactor"},
        "Gone": {"value": None, "status": "BadNodeIdUnknown"},
    }


async def test_a_server_that_goes_away_is_an_error_and_no_answer(server: Plant, tmp_path: Path) -> None:
    async with facts(server, tmp_path) as known:
        known.session._client.uaclient.disconnect_socket()
        with pytest.raises((OSError, asyncio.TimeoutError, ua.uaerrors.UaError)):
            await values_of(known, {"Level": request("T3")})
