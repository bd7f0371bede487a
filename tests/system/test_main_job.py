"""The main job: what the plant produces arrives in SiteWise, Kinesis and S3, once and unchanged."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from plant.reconciliation import Report
from rehearsal import Rehearsal

pytestmark = pytest.mark.system


async def produce_and_reconcile(rehearsal: Rehearsal, site: dict[str, Any], seconds: float) -> Report:
    """Deploy the site, let the plant produce for so long, drain, and compare with the plant's log."""
    await rehearsal.provide(site)
    await rehearsal.deploy(site)
    await rehearsal.start_production()
    await asyncio.sleep(seconds)  # the length of the production run, not a wait for something
    produced = await rehearsal.finish_production()
    await rehearsal.drain(produced)
    return await asyncio.to_thread(rehearsal.reconcile)


@pytest.mark.alone
@pytest.mark.installs
@pytest.mark.parametrize("profile", ["classic", "lite"])
async def test_every_sample_arrives_everywhere_once_within_a_second(build: Path, tmp_path: Path, profile: str) -> None:
    async with Rehearsal(tmp_path, build, profile=profile, pi=200.0) as rehearsal:
        report = await produce_and_reconcile(rehearsal, rehearsal.demo_site(), 6.0)
        shown = orjson.dumps(report.as_dict(), option=orjson.OPT_INDENT_2).decode()
        assert rehearsal.plant is not None
        assert rehearsal.pi is not None
        asked = await rehearsal.plant.counters()
        historian = await rehearsal.pi.counters()
    assert report.balances, shown
    assert report.produced >= 4000, shown
    assert {name: found.delivered for name, found in report.destinations.items()} == dict.fromkeys(
        ("sitewise", "kinesis", "s3"), report.produced
    )
    assert report.latency is not None
    assert report.latency.p99 < 1000, shown
    assert asked["services"].get("Write", 0) == 0, f"somebody wrote to the plant: {asked}"
    assert asked["services"].get("Call", 0) == 0, f"somebody called a method of the plant: {asked}"
    assert historian["written"] == 0, f"somebody wrote to PI: {historian['requests']}"


async def test_a_secured_connection_with_a_user_delivers_the_same(build: Path, tmp_path: Path) -> None:
    """Basic256Sha256 with the collector's own certificate; the password comes from Secret Manager by reference."""
    password = tmp_path / "password"
    password.write_text("let-me-read")
    password.chmod(0o600)
    options = {"user": "operator", "password_file": password}
    secrets = {"sluice-plant": orjson.dumps({"password": "let-me-read"}).decode()}
    async with Rehearsal(tmp_path, build, secrets=secrets, units=1, rate=300, plant_options=options) as rehearsal:
        site = rehearsal.demo_site()
        connection = site["components"]["io.sluice.OpcUaCollector"]["configurationUpdate"]["merge"]["connections"]
        connection["line1"] |= {
            "security": {"policy": "Basic256Sha256", "mode": "SignAndEncrypt", "trust": "first-use"},
            "user": {"name": "operator", "password": {"secret": "sluice-plant", "key": "password"}},
        }
        report = await produce_and_reconcile(rehearsal, site, 3.0)
        logs = "".join(path.read_text() for path in rehearsal.core.logs.glob("*.log"))
    assert report.balances, report.as_dict()
    assert "let-me-read" not in logs
