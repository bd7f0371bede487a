"""Deployments that components may refuse, and the trap in that.

Once one component validates, the nucleus waits for the answer of every component whose configuration a deployment
changes, also of those that never answer, and then fails the deployment. So nobody validates unless all are told to.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import orjson
import pytest

from localcore import Deployment
from rehearsal import Rehearsal

pytestmark = pytest.mark.system

COLLECTOR, EXPORTER = "io.sluice.OpcUaCollector", "io.sluice.StreamExporter"
LIMIT = 60.0
PATIENCE = 5
"""Seconds that the nucleus waits for answers here; a component has 2 for its own."""


def site(*validating: str) -> dict[str, Any]:
    """A collector and an exporter; those named in `validating` judge deployments."""
    connection = {"endpoint": "opc.tcp://127.0.0.1:9", "security": {"policy": "None"}, "publishingInterval": "200ms"}
    merges: dict[str, dict[str, Any]] = {
        COLLECTOR: {"connections": {"line1": connection}},
        EXPORTER: {"sinks": {"lines": {"type": "kinesis", "kinesisStream": "plant-data"}}},
    }
    for name, merge in merges.items():
        merge |= {"statusInterval": "1s", "validateDeployments": name in validating}
    return {
        "components": {name: {"configurationUpdate": {"merge": merge}} for name, merge in merges.items()},
        "deploymentPolicies": {
            "configurationValidationPolicy": {"timeoutInSeconds": PATIENCE},
            "failureHandlingPolicy": "DO_NOTHING",
        },
    }


def changed(before: dict[str, Any], *, collector: dict[str, Any], exporter: dict[str, Any]) -> dict[str, Any]:
    """The same deployment with other settings for line1 and for the sink."""
    after = copy.deepcopy(before)
    after["components"][COLLECTOR]["configurationUpdate"]["merge"]["connections"]["line1"] |= collector
    after["components"][EXPORTER]["configurationUpdate"]["merge"]["sinks"]["lines"] |= exporter
    return after


async def begin(rehearsal: Rehearsal, document: dict[str, Any]) -> None:
    await rehearsal.provide(document)
    await rehearsal.deploy(document)
    await rehearsal.wait_for(lambda: len(rehearsal.statuses) == 2, "first status of both", LIMIT)


async def deploy(rehearsal: Rehearsal, document: dict[str, Any]) -> Deployment:
    """Deploy as from the cloud, and wait for what becomes of it."""
    deployment = await rehearsal.core.deploy(document, rehearsal.recipes, rehearsal.artifacts, cloud=True)
    await rehearsal.wait_for(lambda: deployment.status != "IN_PROGRESS", "end of the deployment", LIMIT)
    return deployment


def pids(rehearsal: Rehearsal) -> dict[str, int | None]:
    return {name: rehearsal.core.component(name).pid for name in (COLLECTOR, EXPORTER)}


def configured(rehearsal: Rehearsal) -> Any:
    """The publishing interval of line1, as the nucleus has it."""
    return rehearsal.core.ipc.configuration(COLLECTOR).read(("connections", "line1", "publishingInterval"))


async def test_a_deployment_with_a_mistake_is_refused_and_what_ran_runs_on(build: Path, tmp_path: Path) -> None:
    async with Rehearsal(tmp_path, build, with_plant=False) as rehearsal:
        document = site(COLLECTOR, EXPORTER)
        await begin(rehearsal, document)
        running = pids(rehearsal)
        wrong = changed(document, collector={"publishingInterval": "200 parsecs"}, exporter={"priority": 3})
        refused = await deploy(rehearsal, wrong)
        assert refused.status == "FAILED_NO_STATE_CHANGE", refused
        assert "connections.line1.publishingInterval" in refused.why, refused.why
        assert "200 parsecs" in refused.why, refused.why
        assert configured(rehearsal) == "200ms"
        assert pids(rehearsal) == running

        right = changed(document, collector={"publishingInterval": "300ms"}, exporter={"priority": 3})
        accepted = await deploy(rehearsal, right)
        assert accepted.status == "SUCCEEDED", accepted
        assert configured(rehearsal) == "300ms"
        assert pids(rehearsal) == running


async def test_one_component_that_validates_alone_makes_the_deployment_of_another_fail(
    build: Path, tmp_path: Path
) -> None:
    """The trap: the exporter was never asked to judge, so it does not answer, and the nucleus waits for it in vain."""
    async with Rehearsal(tmp_path, build, with_plant=False) as rehearsal:
        document = site(COLLECTOR)
        await begin(rehearsal, document)
        harmless = changed(document, collector={"publishingInterval": "300ms"}, exporter={"priority": 3})
        failed = await deploy(rehearsal, harmless)
        assert failed.status == "FAILED_NO_STATE_CHANGE", failed
        assert configured(rehearsal) == "200ms"


async def test_by_default_nobody_validates_and_a_mistake_costs_its_entry(build: Path, tmp_path: Path) -> None:
    async with Rehearsal(tmp_path, build, with_plant=False) as rehearsal:
        document = site()
        for component in document["components"].values():
            del component["configurationUpdate"]["merge"]["validateDeployments"]  # the default, not false
        await begin(rehearsal, document)
        wrong = changed(document, collector={"publishingInterval": "200 parsecs"}, exporter={"priority": 3})
        succeeded = await deploy(rehearsal, wrong)
        assert succeeded.status == "SUCCEEDED", succeeded
        await rehearsal.wait_for(
            lambda: "200 parsecs" in orjson.dumps(rehearsal.statuses["opcua-collector"].get("config")).decode(),
            "the mistake in the status",
            LIMIT,
        )
