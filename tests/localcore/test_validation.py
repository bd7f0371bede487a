"""Validation of configuration before a deployment: who is asked, who is waited for, and the trap in it.

The components that subscribe are played by the unmodified SDK; a row of the table at the top of validation.py each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from awsiot.greengrasscoreipc import model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from localcore import Deployment, DeploymentError
from localcore.deployment import parse_policies

from .conftest import IDLE, Client, Device, MakeDevice, MakeSite, Site, until

SHORT = {"configurationValidationPolicy": {"timeoutInSeconds": 0.4}}
LONG = {"configurationValidationPolicy": {"timeoutInSeconds": 30}}


class Judge:
    """A component that has subscribed, and what it was asked."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.asked: list[Any] = []
        self.operation: Any = None

    async def subscribe(self) -> None:
        future, self.operation = self.client.sdk.subscribe_to_validate_configuration_updates_async(
            on_stream_event=lambda event: self.asked.append(event.validate_configuration_update_event)
        )
        await asyncio.wait_for(asyncio.wrap_future(future), 10)

    async def question(self, number: int = 1) -> Any:
        await until(lambda: len(self.asked) >= number, lambda: self.asked)
        return self.asked[number - 1]

    async def report(self, deployment: str | None, status: str, message: str | None = None) -> None:
        report = model.ConfigurationValidityReport(deployment_id=deployment, status=status, message=message)
        await self.client.call("send_configuration_validity_report", configuration_validity_report=report)


@pytest.fixture
async def judges(make_site: MakeSite) -> Any:
    """`site, judge = ...`: a site with the components a and b, and what makes either of them a judge."""
    site = await make_site("classic")
    device = Device(site.core.ipc)
    for name in ("a", "b"):
        site.recipe(name, {"run": IDLE}, config={"rate": 1, "map": {"x": 1}})
    await site.deploy(a={}, b={})

    async def judge(name: str) -> Judge:
        token = site.core.ipc.token(name)
        client = GreengrassCoreIPCClientV2(client=await device.connect(token), executor=None)
        device._clients.append(client)
        made = Judge(Client(client))
        await made.subscribe()
        return made

    yield site, judge
    for client in device._clients:
        await asyncio.to_thread(client.close)


Judges = tuple[Site, Callable[[str], Any]]


def rates(site: Site) -> tuple[Any, Any]:
    return tuple(site.core.ipc.configuration(name).read(("rate",)) for name in ("a", "b"))


async def test_when_none_of_the_changed_components_subscribes_the_deployment_goes_on_at_once(judges: Judges) -> None:
    site, _ = judges
    deployment = await site.deploy(a={"rate": 2}, b={"rate": 2}, policies=LONG, cloud=True)
    assert (deployment.status, rates(site)) == ("SUCCEEDED", (2, 2))


async def test_a_component_sees_its_whole_new_configuration_and_its_acceptance_lets_the_deployment_go_on(
    judges: Judges,
) -> None:
    site, judge = judges
    a = await judge("a")
    task = asyncio.create_task(site.deploy(a={"map": {"y": 2}}, b={}, policies=LONG, cloud=True))
    question = await a.question()
    proposed = {key: value for key, value in question.configuration.items() if key != "accessControl"}
    assert proposed == {"rate": 1, "map": {"x": 1, "y": 2}}
    assert site.core.ipc.configuration("a").read(("map",)) == {"x": 1}
    await a.report(question.deployment_id, "ACCEPTED")
    deployment = await task
    assert deployment.id == question.deployment_id
    assert (deployment.status, deployment.why) == ("SUCCEEDED", "")
    assert site.core.ipc.configuration("a").read(("map",)) == {"x": 1, "y": 2}


async def test_a_rejection_fails_the_deployment_with_its_message_and_nothing_has_changed(judges: Judges) -> None:
    site, judge = judges
    a = await judge("a")
    pids = [site.core.component(name).pid for name in ("a", "b")]
    site.recipe("c", {"run": IDLE})
    task = asyncio.create_task(site.begin(a={"rate": 2}, c={}, policies=LONG, cloud=True))
    await a.report((await a.question()).deployment_id, "REJECTED", "rate: 2 is too much")
    deployment = await task
    assert deployment.status == "FAILED_NO_STATE_CHANGE"
    assert deployment.why == (
        "Components reported that their to-be-deployed configuration is invalid "
        "{ name = a, message = rate: 2 is too much }"
    )
    assert rates(site) == (1, 1)
    assert set(site.core.components()) == {"a", "b"}
    assert [site.core.component(name).pid for name in ("a", "b")] == pids


async def test_all_reports_are_in_before_one_is_looked_at(judges: Judges) -> None:
    site, judge = judges
    a, b = await judge("a"), await judge("b")
    task = asyncio.create_task(site.begin(a={"rate": 2}, b={"rate": 2}, policies=LONG, cloud=True))
    identity = (await a.question()).deployment_id
    await a.report(identity, "REJECTED", "no")
    await b.question()
    assert not task.done()
    await b.report(identity, "REJECTED", "neither")
    assert "{ name = a, message = no } { name = b, message = neither }" in (await task).why


async def test_who_does_not_answer_in_time_fails_the_deployment(judges: Judges) -> None:
    site, judge = judges
    a = await judge("a")
    began = time.monotonic()
    deployment = await site.begin(a={"rate": 2}, b={}, policies=SHORT, cloud=True)
    assert time.monotonic() - began >= 0.4
    assert (deployment.status, rates(site)) == ("FAILED_NO_STATE_CHANGE", (1, 1))
    assert deployment.why.endswith("none within 0.4 s from a")
    late = (await a.question()).deployment_id
    with pytest.raises(model.InvalidArgumentsError) as refused:
        await a.report(late, "ACCEPTED")
    assert "timed out or was never made" in refused.value.message


async def test_the_trap_one_subscribes_and_the_deployment_waits_for_the_other_one_too(judges: Judges) -> None:
    site, judge = judges
    a = await judge("a")
    task = asyncio.create_task(site.begin(a={"rate": 2}, b={"rate": 2}, policies=SHORT, cloud=True))
    await a.report((await a.question()).deployment_id, "ACCEPTED")
    deployment = await task
    assert (deployment.status, rates(site)) == ("FAILED_NO_STATE_CHANGE", (1, 1))
    assert deployment.why.endswith("none within 0.4 s from b (which has not subscribed)")


async def test_the_trap_stream_manager_never_subscribes(judges: Judges) -> None:
    site, judge = judges
    a = await judge("a")
    update = {"configurationUpdate": {"merge": {"LOG_LEVEL": "DEBUG"}}}
    components = {"a": {"configurationUpdate": {"merge": {"rate": 2}}}, "b": {}, "aws.greengrass.StreamManager": update}
    document = {"components": components, "deploymentPolicies": SHORT}
    task = asyncio.create_task(site.core.deploy(document, site.recipes, site.artifacts, cloud=True))
    await a.report((await a.question()).deployment_id, "ACCEPTED")
    assert "aws.greengrass.StreamManager (which has not subscribed)" in (await task).why


async def test_components_of_the_nucleus_itself_are_not_waited_for(judges: Judges) -> None:
    site, judge = judges
    a = await judge("a")
    components = {
        "a": {"configurationUpdate": {"merge": {"rate": 2}}},
        "b": {},
        "aws.greengrass.Nucleus": {"configurationUpdate": {"merge": {"logging": {"level": "DEBUG"}}}},
    }
    document = {"components": components, "deploymentPolicies": LONG}
    task = asyncio.create_task(site.core.deploy(document, site.recipes, site.artifacts, cloud=True))
    await a.report((await a.question()).deployment_id, "ACCEPTED")
    assert (await site.core.wait_deployment(await task)).status == "SUCCEEDED"


async def test_who_is_not_asked(judges: Judges) -> None:
    site, judge = judges
    a = await judge("a")

    await site.deploy(a={"rate": 2}, b={}, policies=SHORT)  # a local deployment
    await site.deploy(a={"rate": 2}, b={}, policies=SHORT, cloud=True)  # nothing changes
    site.recipe("c", {"run": IDLE})
    await site.deploy(a={}, b={}, c={"rate": 2}, policies=SHORT, cloud=True)  # a new component
    site.recipe("a", {"run": IDLE}, version="1.1.0")
    deployment = await site.deploy(a={"rate": 3}, b={}, policies=SHORT, cloud=True)  # a new version
    assert deployment.status == "SUCCEEDED"
    assert rates(site) == (3, 1)
    assert a.asked == []


async def test_who_has_gone_is_not_asked(judges: Judges) -> None:
    site, judge = judges
    a = await judge("a")
    site.core.ipc.cut("a")
    await until(lambda: not site.core.ipc.connected("a"), lambda: site.core.ipc.connected("a"))
    assert (await site.deploy(a={"rate": 2}, b={}, policies=SHORT, cloud=True)).status == "SUCCEEDED"
    assert a.asked == []


async def test_the_first_subscription_of_a_component_counts_and_none_once_one_of_them_has_ended(judges: Judges) -> None:
    site, judge = judges
    first, second = await judge("a"), await judge("a")
    deployment = await site.begin(a={"rate": 2}, b={}, policies=SHORT, cloud=True)
    assert deployment.status == "FAILED_NO_STATE_CHANGE"
    assert (len(first.asked), len(second.asked)) == (1, 0)
    second.operation.close()
    await until(lambda: not site.core.ipc.services.validation.subscribed("a"), lambda: "a is subscribed")
    assert (await site.deploy(a={"rate": 2}, b={}, policies=SHORT, cloud=True)).status == "SUCCEEDED"


async def test_a_report_needs_a_deployment(judges: Judges) -> None:
    _, judge = judges
    a = await judge("a")
    for deployment, words in ((None, "deployment ID provided was null"), ("elsewhere", "was never made")):
        with pytest.raises(model.InvalidArgumentsError) as refused:
            await a.report(deployment, "ACCEPTED")
        assert words in refused.value.message


async def test_lite_knows_nothing_of_it(make_device: MakeDevice) -> None:
    client = await (await make_device("lite")).client("a")
    report = model.ConfigurationValidityReport(deployment_id="x", status="ACCEPTED")
    for operation, arguments in (
        ("subscribe_to_validate_configuration_updates", {"on_stream_event": print}),
        ("send_configuration_validity_report", {"configuration_validity_report": report}),
    ):
        with pytest.raises(model.ServiceError):
            await client.call(operation, **arguments)


async def test_lite_applies_what_the_cloud_sends_without_asking(make_site: MakeSite) -> None:
    site = await make_site("lite")
    site.recipe("a", {"run": IDLE}, config={"rate": "1"})
    await site.deploy(a={})
    deployment: Deployment = await site.deploy(a={"rate": "2"}, policies=SHORT, cloud=True)
    assert deployment.status == "SUCCEEDED"


def test_components_have_twenty_seconds_where_the_deployment_does_not_say() -> None:
    assert parse_policies({}).validation_timeout == 20.0
    assert parse_policies({"deploymentPolicies": LONG}).validation_timeout == 30.0


@pytest.mark.parametrize("timeout", [0, -1, "20", True, None])
def test_a_timeout_is_a_number_above_zero(timeout: Any) -> None:
    with pytest.raises(DeploymentError, match="timeoutInSeconds, a number above 0"):
        parse_policies({"deploymentPolicies": {"configurationValidationPolicy": {"timeoutInSeconds": timeout}}})
