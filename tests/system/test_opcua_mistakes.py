"""Each mistake with a server costs its own connection, and the status says what it is and how to mend it.

A wrong endpoint, password, policy, node, and a server that nobody said is to be believed: in one deployment, beside a
connection that is right and loses nothing. And the server counts what it was asked for: nothing was ever written.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from rehearsal import Rehearsal

pytestmark = pytest.mark.system

COLLECTOR, EXPORTER = "io.sluice.OpcUaCollector", "io.sluice.StreamExporter"
PASSWORD, MISTYPED = "let-me-read", "let-me-raed"
LIMIT = 30.0
READING = {
    "ActivateSession",
    "Browse",
    "BrowseNext",
    "CloseSession",
    "CreateMonitoredItems",
    "CreateSession",
    "CreateSubscription",
    "DeleteMonitoredItems",
    "DeleteSubscriptions",
    "GetEndpoints",
    "HistoryRead",
    "ModifyMonitoredItems",
    "ModifySubscription",
    "Publish",
    "Read",
    "RegisterNodes",
    "Republish",
    "TransferSubscriptions",
    "TranslateBrowsePathsToNodeIds",
    "UnregisterNodes",
}
"""Services that change nothing in a plant."""


def secret(path: Path, text: str) -> dict[str, Any]:
    """A file for its owner alone, as a setting."""
    path.write_text(text)
    path.chmod(0o600)
    return {"file": str(path)}


async def test_each_mistake_is_told_with_its_remedy_while_the_right_connection_loses_nothing(
    build: Path, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    right = {"name": "operator", "password": secret(password, PASSWORD)}
    wrong = {"name": "operator", "password": secret(tmp_path / "mistyped", MISTYPED)}
    options = {"user": "operator", "password_file": password, "policies": ("Basic256Sha256",)}
    async with Rehearsal(tmp_path, build, rate=300, units=1, plant_options=options) as rehearsal:
        plant = rehearsal.plant
        assert plant is not None
        collector = rehearsal.collector_config()
        collector["statusInterval"] = "1s"
        good = collector["connections"]["line1"]
        good |= {"user": right, "security": {"policy": "auto", "trust": str(plant.certificate)}}
        some = {"A": {"node": "nsu=urn:sluice:plant;s=Unit1/XMEAS01_AFeed"}}
        other = {key: value for key, value in good.items() if key != "tagsFile"} | {"tags": some}
        secure = good["security"]
        collector["connections"] |= {
            "nobody": other | {"endpoint": "opc.tcp://127.0.0.1:1/plant"},
            "password": other | {"user": wrong},
            "stranger": other | {"security": {"policy": "auto"}},
            "policy": other | {"security": secure | {"policy": "Aes256_Sha256_RsaPss"}},
            "open": other | {"security": {"policy": "None"}},
            "node": other | {"tags": {"Nowhere": {"node": "nsu=urn:sluice:plant;s=Unit1/NoSuchVariable"}}},
        }
        sinks = {"kinesis": {"type": "kinesis", "kinesisStream": "plant-data"}}
        site = {
            "components": {
                COLLECTOR: {"configurationUpdate": {"merge": collector}},
                EXPORTER: {"configurationUpdate": {"merge": {"sinks": sinks}}},
            }
        }
        await rehearsal.provide(site)
        await rehearsal.deploy(site)
        await rehearsal.start_production()

        def status() -> dict[str, Any]:
            return rehearsal.statuses.get("opcua-collector", {})

        def told(name: str) -> str:
            """Why a connection waits and how to mend it, in small letters."""
            connection = status().get("connections", {}).get(name, {})
            return f"{connection.get('why', '')}: {connection.get('remedy', '')}".lower()

        for name, words in (
            ("nobody", ("connections.nobody.endpoint", "refuses the connection", "firewall")),
            ("password", ("connections.password.user", "refused by the server", "secret")),
            ("stranger", ("connections.stranger.security", "trust", "sluice trust")),
            ("policy", ("connections.policy.security.policy", "not offered", "basic256sha256")),
            ("open", ("connections.open", "user.password", "not sent")),
        ):
            await rehearsal.wait_for(
                lambda name=name, words=words: all(word in told(name) for word in words),  # type: ignore[misc]
                f"word of {name}: {words}",
                LIMIT,
            )
        await rehearsal.wait_for(
            lambda: any(
                one["path"] == "connections.node.tags.Nowhere.node" and "does not exist" in one["problem"]
                for one in status()["config"]["rejected"]
            ),
            "word of the unknown node",
            LIMIT,
        )
        connections = status()["connections"]
        assert connections["line1"]["state"] == "running"
        assert connections["node"]["state"] == "running"
        shown = orjson.dumps(rehearsal.statuses).decode()
        assert PASSWORD not in shown
        assert MISTYPED not in shown

        produced = await plant.finish()
        await rehearsal.drain(produced, settle=3.0)
        services = (await plant.counters())["services"]
        assert set(services) <= READING, f"asked for more than reading: {sorted(set(services) - READING)}"
        report = await asyncio.to_thread(rehearsal.reconcile)
    assert report.balances, report.as_dict()
