"""The cloud asks, through AWS IoT Core: the built components answer, do what is allowed, and nothing else."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from plant.reconciliation import Delivered, reconcile
from rehearsal import Rehearsal
from rehearsal.site import COLLECTOR, EXPORTER

pytestmark = pytest.mark.system

LIMIT = 60.0


class Cloud:
    """Who sends commands from the cloud, and hears the answers."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._rehearsal = rehearsal
        self._thing = rehearsal.core.thing_name
        self.answers: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        rehearsal.core.ipc.observe_iot_core("sluice/+/reply/+", self._hear)

    def _hear(self, topic: str, payload: bytes) -> None:
        self.answers.append(orjson.loads(payload))
        self.sizes.append(len(topic) + len(payload))

    async def ask(self, component: str, identity: str, command: str, **arguments: Any) -> dict[str, Any]:
        """Send until there is an answer that ends it, as whoever must be sure does; the id makes it one command."""
        body = {"v": 1, "kind": "command", "id": identity, "command": command, "arguments": arguments}
        end = time.monotonic() + LIMIT
        while True:
            await self._rehearsal.core.ipc.publish_iot_core(
                f"sluice/{self._thing}/command/{component}", orjson.dumps(body)
            )
            for _ in range(20):
                for answer in self.answers:
                    if answer["id"] == identity and answer["state"] in ("done", "failed", "refused"):
                        return answer
                await asyncio.sleep(0.05)
            assert time.monotonic() < end, (self.answers[-5:], self._rehearsal.statuses)


@pytest.mark.parametrize("profile", ["classic", "lite"])
async def test_a_range_that_nobody_collected_is_had_from_history_when_the_cloud_asks(
    build: Path, tmp_path: Path, profile: str
) -> None:
    async with Rehearsal(
        tmp_path, build, profile=profile, rate=500, units=1, plant_options={"expect_items": 0}
    ) as rehearsal:
        plant = rehearsal.plant
        assert plant is not None
        began = time.time_ns()
        await plant.produce()
        await asyncio.sleep(4.0)  # the length of the production run that nobody sees
        produced = await plant.finish()
        site = {
            "components": {
                COLLECTOR: {"configurationUpdate": {"merge": {**rehearsal.collector_config(), "statusInterval": "1s"}}},
                EXPORTER: {
                    "configurationUpdate": {
                        "merge": {
                            "sinks": {"kinesis": {"type": "kinesis", "kinesisStream": "plant-data"}},
                            "statusInterval": "1s",
                        }
                    }
                },
            }
        }
        await rehearsal.provide(site)
        await rehearsal.deploy(site)
        cloud = Cloud(rehearsal)
        await rehearsal.wait_for(
            lambda: (
                rehearsal.statuses.get("opcua-collector", {}).get("connections", {}).get("line1", {}).get("monitored")
                == plant.items
            ),
            "monitored tags",
            LIMIT,
        )

        told = await cloud.ask("opcua-collector", "s1", "status")
        assert told["state"] == "done"
        assert told["result"]["connections"]["line1"]["state"] == "running"
        assert (await cloud.ask("stream-exporter", "s2", "status"))["state"] == "done"

        refused = await cloud.ask("opcua-collector", "f1", "forget", consumer="stream-exporter")
        assert (refused["state"], refused["problem"]) == ("refused", "forget is not allowed from the cloud")
        assert "cloudCommands" in refused["remedy"]
        refused = await cloud.ask("stream-exporter", "b0", "backfill")
        assert refused["problem"] == "backfill is no command of stream-exporter"
        refused = await cloud.ask("opcua-collector", "b2", "backfill", connection="line2")
        assert {one["path"] for one in refused["problems"]} == {"arguments.from", "arguments.to"}

        asked = {"connection": "line1", "from": began - 60 * 10**9, "to": time.time_ns()}
        done = await cloud.ask("opcua-collector", "b1", "backfill", **asked)
        assert done["state"] == "done", done
        assert done["result"] == {"tags": plant.items, "tags_done": plant.items, "values": produced}

        read = rehearsal.deliveries()["kinesis"]

        def arrived() -> dict[tuple[str, int], Delivered]:
            return {(sample.tag, sample.time_ns): sample for sample in read()}

        end = time.monotonic() + LIMIT
        while len(await asyncio.to_thread(arrived)) < produced:
            assert time.monotonic() < end, rehearsal.statuses
            await asyncio.sleep(0.5)
        report = await asyncio.to_thread(lambda: reconcile(plant.log, {"kinesis": arrived().values()}))
        assert report.balances, report.as_dict()
        count = sum(1 for _ in read())
        assert produced <= count <= produced + plant.items  # each tag's last value came live too, as the first word
        if profile == "lite":
            assert max(cloud.sizes) <= 4_992, "nucleus lite loses a longer message and says nothing"
