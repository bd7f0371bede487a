"""A tag list as a component: made by scripts/sluice, deployed beside the collector, changed while all else flows."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from localcore import received
from plant.log import LoggedRow, read_log
from rehearsal import Rehearsal

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).resolve().parents[2]
COLLECTOR, PACKAGE = "io.sluice.OpcUaCollector", "io.sluice.Tags.site-a"
LIMIT = 60.0
FIRST = 26
"""Tags of the first version."""


def make_package(table: Path, build: Path) -> None:
    command: list[str | Path] = [
        REPOSITORY / "scripts/sluice",
        "tags",
        "package",
        table,
        "--name",
        "site-a",
        "--output",
        build,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("profile", ["classic", "lite"])
async def test_a_new_version_of_a_tag_package_applies_while_the_collector_runs(
    build: Path, tmp_path: Path, profile: str
) -> None:
    tmp_path = tmp_path / "a root"  # with a blank, as a nucleus may have one
    tmp_path.mkdir()
    own = tmp_path / "greengrass-build"
    shutil.copytree(build, own, copy_function=os.link)
    options = {"expect_items": FIRST}
    async with Rehearsal(tmp_path, own, profile=profile, rate=500, units=1, plant_options=options) as rehearsal:
        plant = rehearsal.plant
        assert plant is not None
        site = rehearsal.demo_site()
        header, *rows = (tmp_path / "tags.csv").read_text().splitlines()
        tags = [row.split(",")[0] for row in rows]
        table = tmp_path / "site-a.csv"

        def put(first: int, last: int) -> None:
            table.write_text("\n".join([header, *rows[first:last]]) + "\n")
            make_package(table, own)

        line1 = site["components"][COLLECTOR]["configurationUpdate"]["merge"]["connections"]["line1"]
        del line1["tagsFile"]
        line1["tagsPackage"] = "site-a"
        site["components"][COLLECTOR]["configurationUpdate"]["merge"]["statusInterval"] = "1s"
        exporter = site["components"]["io.sluice.StreamExporter"]["configurationUpdate"]["merge"]
        exporter["sinks"] = {"kinesis": exporter["sinks"]["kinesis"]}
        put(0, FIRST)
        site["components"][PACKAGE] = {}
        await rehearsal.provide(site)
        await rehearsal.deploy(site)

        def line() -> dict[str, Any]:
            connections: dict[str, dict[str, Any]] = rehearsal.statuses.get("opcua-collector", {}).get(
                "connections", {}
            )
            return connections.get("line1", {})

        def rejected() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = rehearsal.statuses["opcua-collector"]["config"]["rejected"]
            return found

        await rehearsal.wait_for(lambda: line().get("monitored") == FIRST, "the package's tags", LIMIT)
        pid = rehearsal.core.component(COLLECTOR).pid
        assert pid is not None
        await plant.produce()
        await rehearsal.wait_for(lambda: rehearsal.core.component(PACKAGE).state == "FINISHED", "its end", LIMIT)

        put(2, len(rows))  # two tags go, all others of the plant come
        assert (own / "recipes" / f"{PACKAGE}-1.0.1.yaml").exists()
        # Nothing is configured by this deployment: nucleus lite starts every component anew for which one has a merge.
        unchanged: dict[str, Any] = {"components": {name: {} for name in site["components"]}}
        await rehearsal.core.deploy(unchanged, own / "recipes", own / "artifacts")
        await rehearsal.wait_for(lambda: line().get("monitored") == len(rows) - 2, "the tags of version 2", LIMIT)
        assert rehearsal.core.component(COLLECTOR).pid == pid
        assert line()["connects"] == 1
        assert not rejected()

        # What a package that is gone or broken gave goes on, and the status says so.
        installed = rehearsal.core.root / "work" / PACKAGE / "tags.csv"
        installed.write_bytes(b"PK\x03\x04")
        await rehearsal.wait_for(lambda: bool(rejected()), "word of the broken table", LIMIT)
        [problem] = rejected()
        assert problem["path"] == "connections.line1.tagsPackage"
        assert problem["effect"] == f"the {len(rows) - 2} tags that it gave last go on"
        produced = await plant.finish()
        assert produced
        await rehearsal.drain(0)
        arrived = Counter(
            (tag, at)
            for tag, at, *_ in await asyncio.to_thread(list, received.kinesis(rehearsal.core.aws, "plant-data"))
        )
    logged = [row for row in read_log(plant.log) if isinstance(row, LoggedRow)]
    steady = set(tags[2:FIRST])
    expected = Counter((tag, row.time_ns) for row in logged for tag in row.values if tag in steady)
    assert expected
    assert Counter({key: count for key, count in arrived.items() if key[0] in steady}) == expected
    seen = {tag for tag, _ in arrived}
    assert seen == set(tags)  # those that went had been there before, those that came are there since
