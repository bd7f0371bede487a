"""A site document against servers of one's own: the example, as `scripts/demo --config` runs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from plant import PlantProcess

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).resolve().parents[2]


async def test_the_example_delivers_what_the_collector_published(tmp_path: Path) -> None:
    """The command of the README, with the simulated plant as the server, on a port of its own."""
    async with PlantProcess(tmp_path / "plant", units=1, rate=200, expect_items=5) as plant:
        plant.send("start")
        example = (REPOSITORY / "examples" / "site.yaml").read_text()
        assert "opc.tcp://127.0.0.1:4840/plant" in example
        site = tmp_path / "site.yaml"
        site.write_text(example.replace("opc.tcp://127.0.0.1:4840/plant", plant.endpoint))
        report = tmp_path / "report.json"
        command: list[str | Path] = [
            REPOSITORY / "scripts" / "demo",
            "--config",
            site,
            "--seconds",
            "4",
            "--json",
            report,
        ]
        environment = {**os.environ, "TMPDIR": str(tmp_path)}  # where the demo puts what it keeps
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
        counters = await plant.counters()
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text())
    assert told["produced"] > 10
    assert {counts["delivered"] for counts in told["destinations"].values()} == {told["produced"]}
    assert counters["services"].get("Write", 0) == 0


def test_a_wrong_site_document_is_refused_in_words(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("component: {}\n")
    command: list[str | Path] = [REPOSITORY / "scripts" / "demo", "--config", site, "--seconds", "1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 1
    assert "site.yaml: no `components` mapping" in done.stderr.replace("\n", "")
