"""What the commands explain, browse and read answer while a connection runs, against a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from opcua_collector.commands import Commands
from opcua_collector.config import Configuration
from opcua_collector.connection import Connection
from opcua_collector.services.connecting import Identity
from sluice.command import Call, CommandError
from sluice.config import load, load_entries
from sluice.log import Secret

from ..cli.opc_server import URI, Plant, plant
from .scripted_stack import Reports
from .test_connection import Sink, until

NODE = f"nsu={URI};s="


@pytest.fixture(scope="module")
def server() -> Iterator[Plant]:
    with plant() as made:
        yield made


async def asked(connection: Connection, command: str, **arguments: Any) -> Any:
    commands = {one.name: one for one in Commands(lambda: {"line1": connection}, lambda: None).all()}
    loaded = load_entries(commands[command].arguments, {"a": {"connection": "line1", **arguments}}, ())
    assert loaded.problems == []
    commands[command].check(loaded.entries["a"])
    result = await commands[command].run(Call("1", loaded.entries["a"], lambda fraction, found: None))
    return orjson.loads(orjson.dumps(result))


async def test_a_running_connection_explains_itself_and_lends_its_session(server: Plant, tmp_path: Path) -> None:
    raw = {
        "endpoint": server.endpoint,
        "security": {"policy": "None"},
        "publishingInterval": "100ms",
        "groups": {"slow": {"mode": "poll", "pollInterval": "200ms"}},
        "tags": {
            "T1": {"node": f"{NODE}T1"},
            "T2": {"node": f"{NODE}T2", "group": "slow"},
            "Gone": {"node": f"{NODE}nope"},
        },
    }
    loaded = load(Configuration, {"connections": {"line1": raw}})
    assert loaded.problems == []
    settings = loaded.config.connections["line1"]

    async def no_password(settings: Any) -> Secret | None:
        return None

    connection = Connection(
        "line1",
        settings,
        settings.tags,
        outlet=Sink(),
        identity=Identity(tmp_path / "pki", "urn:test:collector"),
        password=no_password,
        problems=Reports(),
    )
    running = asyncio.create_task(connection.run())
    try:
        await until(
            lambda: all(
                word in (connection.of_tag(tag) or {})
                for tag, word in (("T1", "last"), ("T2", "last"), ("Gone", "problem"))
            ),
            connection.status,
        )
        report = await asked(connection, "explain", outage="60s")
        assert report["state"]["state"] == "running"
        assert (report["subscriptions"], report["monitored_items"], report["polled_nodes"]) == (1, 1, 1)
        assert report["groups"]["(connection)"]["outage"]["lost_values_at_most"] == 0
        assert report["groups"]["slow"]["outage"]["lost_values_at_most"] == 300
        assert "does not exist on the server" in report["bad_tags"]["some"]["Gone"]
        assert report["load"]["requests_per_s"] >= 0

        one = await asked(connection, "explain", tag="T1")
        assert one["last"]["value"] == 21.5
        assert (one["mode"], one["late"], one["sampling_s"]) == ("subscribe", False, 0.1)
        other = await asked(connection, "explain", tag="T2")
        assert (other["mode"], other["group"]) == ("poll", "slow")
        assert "does not exist" in (await asked(connection, "explain", tag="Gone"))["problem"]

        below = await asked(connection, "browse", path="/Plant", most=5)
        assert len(below["nodes"]) == 5
        assert below["more"] is True
        with pytest.raises(CommandError, match=r"there is no 'Plnat' on the server.*did you mean Plant"):
            await asked(connection, "browse", path="/Plnat")

        values = await asked(connection, "read", tags=["T1", "T2"])
        assert values["values"] == {"T1": {"value": 21.5}, "T2": {"value": 22.5}}
    finally:
        connection.leave()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    with pytest.raises(CommandError, match="line1 is not connected"):
        await asked(connection, "read", tags=["T1"])
