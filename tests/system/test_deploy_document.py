"""What `sluice deploy` writes is what a core runs: its document deployed as it is, changed, and looked at by doctor."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import validate_parameters

from localcore import Core

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).resolve().parents[2]
SLUICE = REPOSITORY / "scripts" / "sluice"
EXAMPLE = REPOSITORY / "examples" / "site.yaml"
GROUP = "arn:aws:iot:eu-central-1:123456789012:thinggroup/plant"
COLLECTOR, EXPORTER, RUNTIME = "io.sluice.OpcUaCollector", "io.sluice.StreamExporter", "io.sluice.Runtime"
LIMIT = 120.0


def dry_run(site: Path, *arguments: str | Path) -> dict[str, Any]:
    """The deployment document that the command writes, accepted by botocore's model of the service."""
    command: list[str | Path] = [SLUICE, "deploy", "--group", GROUP, "--file", site, "--dry-run", *arguments]
    without_account = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=without_account, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    model = botocore.session.get_session().get_service_model("greengrassv2")
    validate_parameters(document, model.operation_model("CreateDeployment").input_shape)
    assert isinstance(document, dict)
    return document


@asynccontextmanager
async def core(folder: Path, profile: str) -> AsyncIterator[Core]:
    """A core without AWS endpoints: what is deployed runs, and waits for them."""
    made = Core(folder, profile=profile, aws=False)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def deploy(device: Core, document: dict[str, Any], build: Path) -> None:
    deployment = await device.deploy(document, build / "recipes", build / "artifacts", cloud=True)
    await device.wait_deployment(deployment, LIMIT)
    assert (deployment.status, deployment.why) == ("SUCCEEDED", "")


@pytest.mark.parametrize("profile", ["classic", "lite"])
async def test_the_documents_of_dry_runs_are_deployed_as_they_are(build: Path, tmp_path: Path, profile: str) -> None:
    first = dry_run(EXAMPLE)
    assert set(first["components"]) == {COLLECTOR, EXPORTER, RUNTIME}

    site = yaml.safe_load(EXAMPLE.read_text())
    changed = copy.deepcopy(site)
    merge = changed["components"][COLLECTOR]["configurationUpdate"]["merge"]
    line = merge["connections"].pop("line1")
    del line["publishingInterval"]
    merge["connections"]["line2"] = line
    merge["logLevel"] = "DEBUG"
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(changed))
    (tmp_path / "first.json").write_text(json.dumps(first))
    second = dry_run(tmp_path / "changed.yaml", "--against", tmp_path / "first.json")
    assert second["components"][COLLECTOR]["configurationUpdate"]["reset"] == ["/connections/line1"]
    (tmp_path / "second.json").write_text(json.dumps(second))
    third = dry_run(EXAMPLE, "--against", tmp_path / "second.json")

    async with core(tmp_path / "core", profile) as device:
        await deploy(device, first, build)
        configuration = device.ipc.configuration(COLLECTOR)
        assert set(configuration.read(("connections",))) == {"line1"}
        assert configuration.read(("logLevel",)) == "INFO"
        await deploy(device, second, build)
        # A merge alone would have left line1 running beside line2.
        assert set(configuration.read(("connections",))) == {"line2"}
        assert configuration.read(("logLevel",)) == "DEBUG"
        await deploy(device, third, build)
        assert set(configuration.read(("connections",))) == {"line1"}
        assert configuration.read(("logLevel",)) == "INFO"

        for name in (COLLECTOR, EXPORTER):
            await device.wait_state(name, "RUNNING", LIMIT)
            await opened(device, name)
        report = doctor(device.root, tmp_path / "bundle.tar.gz")

    assert report["profile"] == "local core"
    assert {COLLECTOR, EXPORTER, RUNTIME} <= set(report["components"])
    for name in (COLLECTOR, EXPORTER):
        assert report["components"][name]["process"]["pid"] > 0
        assert [one["state"] for one in report["components"][name]["databases"]] == ["ok"], report["notes"]
    about_the_machine = {"clock", "python"}
    assert [one for one in report["problems"] if one["path"] not in about_the_machine] == []


async def opened(device: Core, name: str) -> None:
    """Wait until a component has come as far as to its database."""
    deadline = time.monotonic() + LIMIT
    while not list((device.root / "work" / name).glob("**/*.db")):
        assert time.monotonic() < deadline, device.component(name).log_tail()
        await asyncio.sleep(0.1)


def doctor(root: Path, bundle: Path) -> dict[str, Any]:
    """What doctor says of a core whose components are running."""
    command: list[str | Path] = [SLUICE, "doctor", "--root", root, "--output", bundle, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert bundle.stat().st_size > 1000
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found
