"""What a plant engineer reads after a mistake names the place, the value and the remedy; everything else runs on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from rehearsal import Rehearsal

pytestmark = pytest.mark.system


def text_of(status: dict[str, Any]) -> str:
    return orjson.dumps(status).decode()


async def test_mistakes_cost_themselves_and_nothing_else(build: Path, tmp_path: Path) -> None:
    """A wrong password, an unknown node, a wrong setting and a missing bucket, all in one deployment."""
    password = tmp_path / "password"
    password.write_text("let-me-read")
    password.chmod(0o600)
    secrets = {"sluice-wrong": orjson.dumps({"password": "mistyped"}).decode()}
    options = {"user": "operator", "password_file": password}
    async with Rehearsal(tmp_path, build, secrets=secrets, rate=300, units=1, plant_options=options) as rehearsal:
        plant = rehearsal.plant
        assert plant is not None
        site = rehearsal.demo_site()
        collector = site["components"]["io.sluice.OpcUaCollector"]["configurationUpdate"]["merge"]
        exporter = site["components"]["io.sluice.StreamExporter"]["configurationUpdate"]["merge"]
        good = collector["connections"]["line1"]
        good |= {"user": {"name": "operator", "password": {"file": str(password)}, "allowUnencrypted": True}}
        good["tags"] = {"Nowhere": {"node": "nsu=urn:sluice:plant;s=Unit1/NoSuchVariable"}}
        collector["connections"]["locked"] = good | {
            "asset": "site/area/locked",
            "user": good["user"] | {"password": {"secret": "sluice-wrong", "key": "password"}},
        }
        collector["connections"]["mistyped"] = good | {"publishingInterval": "200 parsecs"}
        await rehearsal.provide(site)
        exporter["sinks"]["nowhere"] = {
            "type": "s3",
            "bucket": "no-such-bucket",
            "stream": "Nowhere",
            "statusStream": "NowhereStatus",
            "rotateInterval": "1s",
        }
        await rehearsal.deploy(site)
        await rehearsal.start_production()
        await asyncio.sleep(3.0)  # the length of the production run
        produced = await plant.finish()

        def collector_says(*words: str) -> bool:
            return all(word in text_of(rehearsal.statuses.get("opcua-collector", {})) for word in words)

        def exporter_says(*words: str) -> bool:
            return all(word in text_of(rehearsal.statuses.get("stream-exporter", {})) for word in words)

        await rehearsal.wait_for(lambda: collector_says("locked", "password"), "word of the wrong password", 20)
        await rehearsal.wait_for(lambda: collector_says("Nowhere", "NoSuchVariable"), "word of the unknown node", 20)
        await rehearsal.wait_for(
            lambda: collector_says("connections.mistyped.publishingInterval", "200 parsecs"), "word of the setting", 20
        )
        await rehearsal.wait_for(lambda: exporter_says("no-such-bucket"), "word of the missing bucket", 30)

        rehearsal.site["components"]["io.sluice.StreamExporter"]["configurationUpdate"]["merge"]["sinks"].pop("nowhere")
        await rehearsal.drain(produced)
        report = await asyncio.to_thread(rehearsal.reconcile)
    assert report.balances, report.as_dict()
