"""The faults that a component and the helper processes can be given, one by one: each takes hold, and is over again."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from stream_manager import MessageStreamDefinition, Persistence, StrategyOnFull, StreamManagerClient

from localcore import CoreError
from localcore.aws import AwsProcess
from localcore.child import ChildError, ChildProcess
from localcore.process import members
from localcore.stream_manager import StreamManagerProcess

from .conftest import BOTH, IDLE, MakeSite, Site, gone, until

COUNTS = "trap 'echo bye; exit 0' TERM; sleep 1000 & while :; do echo x >> counts; sleep 0.005; done"


def states(group: int) -> set[str]:
    """What the processes of a group do: R runs, S sleeps, T is stopped, D waits for the kernel or a new child."""
    return {fields[0] for _, fields in members(group)}


def stopped(group: int) -> bool:
    # A child that ended just before is not reaped by a shell that is stopped.
    return "T" in states(group) <= {"T", "D", "Z"}


async def counting(site: Site) -> int:
    """Deploy a component that counts; its process group."""
    site.recipe("a", {"run": COUNTS})
    await site.deploy(a=None)
    component = await site.state("a", "RUNNING")
    await until(lambda: site.file("a", "counts"), component.log_tail)
    assert component.pid is not None
    return component.pid


# --- a component


@BOTH
async def test_a_component_is_told_where_to_crash_at_its_next_start_and_at_no_other(
    make_site: MakeSite, profile: str
) -> None:
    site = await make_site(profile)
    run = f'echo "run $SLUICE_CRASH." >> starts; {IDLE}'
    site.recipe("a", {"install": 'echo "install $SLUICE_CRASH." >> starts', "run": run})
    await site.deploy(a=None)
    component = site.core.component("a")
    for starts, point in ((2, "stored:3"), (3, "")):
        await until(lambda: site.file("a", "starts").count("\n") == starts, lambda: site.file("a", "starts"))  # noqa: B023
        await site.state("a", "RUNNING")
        component.crash_at = point
        component.kill()
    await until(lambda: site.file("a", "starts").count("\n") == 4, lambda: site.file("a", "starts"))
    assert site.file("a", "starts") == "install .\nrun .\nrun stored:3.\nrun .\n"
    assert component.crash_at == ""


async def test_a_stalled_component_does_nothing_until_it_is_resumed(make_site: MakeSite) -> None:
    site = await make_site("classic")
    group = await counting(site)
    component = site.core.component("a")
    component.stall()
    await until(lambda: stopped(group), lambda: states(group))
    assert component.state == "RUNNING"
    before = site.file("a", "counts")
    component.resume()
    await until(lambda: site.file("a", "counts") > before, lambda: states(group))
    assert component.restarts == 0


async def test_a_stalled_component_can_say_goodbye(make_site: MakeSite) -> None:
    site = await make_site("classic")
    group = await counting(site)
    component = site.core.component("a")
    component.stall()
    await until(lambda: stopped(group), lambda: states(group))
    await component.stop()
    assert component.log_tail().endswith("bye\n")
    assert gone(group)


async def test_a_stalled_component_can_be_killed_and_comes_back(make_site: MakeSite) -> None:
    site = await make_site("classic")
    group = await counting(site)
    component = site.core.component("a")
    component.stall()
    component.kill()
    await component.changed()
    await site.state("a", "RUNNING")
    assert component.restarts == 1
    assert gone(group)


async def test_a_full_disk_lets_no_file_grow_beyond_the_limit_until_it_is_lifted(make_site: MakeSite) -> None:
    program = """
import time
with open("data", "ab", buffering=0) as file:
    while True:
        try:
            file.write(b"x" * 100)
            print("written", flush=True)
        except OSError as error:
            print("refused", error.errno, flush=True)
        time.sleep(0.005)
"""
    site = await make_site("classic")
    script = site.recipes / "program"
    script.write_text(program)
    site.recipe("a", {"run": f"{sys.executable} {script}; true"})
    await site.deploy(a=None)
    component = await site.state("a", "RUNNING")
    data = site.core.folders.work("a") / "data"
    await until(lambda: "written" in component.log_tail(), component.log_tail)
    component.limit_file_size(data.stat().st_size + 1000)
    await until(lambda: "refused 27" in component.log_tail(), component.log_tail)  # 27 is EFBIG
    size = data.stat().st_size
    component.limit_file_size(None)
    await until(lambda: data.stat().st_size > size, component.log_tail)
    assert component.restarts == 0


async def test_what_a_component_writes_is_summed_over_its_restarts_and_without_its_installation(
    make_site: MakeSite,
) -> None:
    def written() -> int:
        return site.core.component("a").io()["write_bytes"]

    write = "dd if=/dev/zero of={0} bs=1M count=1 conv=fsync 2>/dev/null"
    site = await make_site("lite")
    site.recipe("a", {"install": write.format("venv"), "run": f"{write.format('data')}; echo x >> runs; {IDLE}"})
    await site.begin(a=None)
    component = site.core.component("a")
    assert written() == 0
    for runs in (1, 2):
        await until(lambda: site.file("a", "runs").count("x") == runs, lambda: site.file("a", "runs"))  # noqa: B023
        await site.state("a", "RUNNING")
        await until(lambda: written() >= runs << 20, written)  # noqa: B023
        assert written() < (runs << 20) + (1 << 19)
        component.kill()
    await until(lambda: site.file("a", "runs").count("x") == 3, lambda: site.file("a", "runs"))
    await site.state("a", "RUNNING")
    await site.deploy(a={"rate": 2})  # on lite another run, in which it is a new component
    assert written() >= 3 << 20
    await component.stop()


# --- the nucleus


@BOTH
async def test_redeploying_brings_broken_components_back_and_leaves_the_others_alone(
    make_site: MakeSite, profile: str
) -> None:
    site = await make_site(profile)
    with pytest.raises(CoreError, match="nothing was deployed yet"):
        await site.core.redeploy()
    site.recipe("a", {"run": "test -f mended || exit 3; " + IDLE})
    site.recipe("b", {"run": IDLE})
    await site.deploy(a={"rate": 5}, b=None)
    await site.state("a", "BROKEN")
    pid = (await site.state("b", "RUNNING")).pid
    (site.core.folders.work("a") / "mended").touch()
    await site.core.redeploy()
    await site.state("a", "RUNNING")
    assert site.core.ipc.configuration("a").read(("rate",)) == 5
    assert (await site.state("b", "RUNNING")).pid == pid


@BOTH
async def test_a_component_that_says_of_itself_that_it_errs_is_started_again(make_site: MakeSite, profile: str) -> None:
    """UpdateState, called by the unmodified SDK in the component's own process."""
    code = (
        "import pathlib, time; from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2 as C; "
        'again = pathlib.Path("told").exists(); pathlib.Path("told").touch(); '
        'C().update_state(state="RUNNING" if again else "ERRORED"); print("well", flush=True); time.sleep(1000)'
    )
    site = await make_site(profile)
    site.recipe("a", {"run": f"exec {sys.executable} -c '{code}'"})
    await site.deploy(a=None)
    component = await site.state("a", "RUNNING")
    await until(lambda: component.restarts == 1 and component.log_tail().endswith("well\n"), component.log_tail)
    await site.state("a", "RUNNING")
    assert component.restarts == 1


# --- the helper processes


@pytest.fixture(params=["stream manager", "AWS"])
async def helper(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ChildProcess]:
    process: ChildProcess = AwsProcess(tmp_path, region="us-east-1")
    if request.param == "stream manager":
        process = StreamManagerProcess(tmp_path, region="us-east-1", endpoints={})
    await process.start()
    yield process
    await process.stop()


async def test_a_stalled_helper_answers_nothing_until_it_is_resumed_and_can_be_ended(helper: ChildProcess) -> None:
    def state() -> str:
        return Path(f"/proc/{helper.pid}/stat").read_text().rpartition(")")[2].split()[0]

    pid = helper.pid
    helper.stall()
    await until(lambda: state() == "T", state)
    with pytest.raises(ChildError, match=r"is stalled: resume\(\) it first"):
        await helper.clock(0)
    helper.resume()
    await helper.clock(0)
    helper.stall()
    await helper.stop()
    assert gone(pid)
    await helper.start()
    helper.stall()
    await helper.kill()
    with pytest.raises(ChildError, match=r"does not run: start\(\) it first"):
        helper.stall()


async def test_the_clock_of_stream_manager_steps_for_ingestion_and_for_expiry(tmp_path: Path) -> None:
    def follow(call: Callable[[Any], Any]) -> Any:
        client = StreamManagerClient(port=process.port)
        try:
            return call(client)
        finally:
            client.close()

    def create(client: Any) -> None:
        definition = MessageStreamDefinition(
            name="s",
            strategy_on_full=StrategyOnFull.OverwriteOldestData,
            persistence=Persistence.File,
            time_to_live_millis=60_000,
        )
        client.create_message_stream(definition)

    process = StreamManagerProcess(tmp_path, region="us-east-1", endpoints={})
    await process.start()
    try:
        await asyncio.to_thread(follow, create)
        for offset, kept in ((0, 1), (50, 2), (3600, 1), (-3600, 2)):
            await process.clock(offset)
            await asyncio.to_thread(follow, lambda client: client.append_message("s", b"x"))
            messages = await asyncio.to_thread(follow, lambda client: client.read_messages("s"))
            status = (await asyncio.to_thread(follow, lambda c: c.describe_message_stream("s"))).storage_status
            assert status.newest_sequence_number - status.oldest_sequence_number + 1 == kept
            if len(messages) == kept == 1:
                assert abs(messages[0].ingest_time / 1000 - time.time() - offset) < 30
    finally:
        await process.stop()


async def test_the_clock_of_sitewise_steps_and_its_window_with_it(tmp_path: Path) -> None:
    def put(entry_id: str) -> list[Any]:
        stamp = {"timeInSeconds": int(time.time())}
        values = [{"value": {"doubleValue": 1.5}, "timestamp": stamp}]
        entry = {"entryId": entry_id, "propertyAlias": "/a", "propertyValues": values}
        found: list[Any] = process.client("iotsitewise").batch_put_asset_property_value(entries=[entry])["errorEntries"]
        return found

    process = AwsProcess(tmp_path, region="us-east-1")
    await process.start()
    try:
        for offset, accepted in ((0, True), (8 * 86_400, False), (-3600, False), (-300, True)):
            await process.clock(offset)
            errors = await asyncio.to_thread(put, f"e{abs(offset)}")
            assert (errors == []) is accepted
            assert accepted or errors[0]["errors"][0]["errorCode"] == "TimestampOutOfRangeException"
    finally:
        await process.stop()
    (first, second) = ((tmp_path / "witness" / "sitewise.puts").read_text()).splitlines()
    assert first[:15] <= second[:15], "the witness keeps this machine's time"
