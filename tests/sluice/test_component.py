"""A component as a process of its own, started as a nucleus would start it, against the local core's IPC."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from localcore.ipc import IpcServer
from localcore.profile import CLASSIC, LITE, Profile
from sluice.component import LAST_GOOD_FILE, Problems

ME = "io.sluice.Tiny"
SHARED = Path(__file__).parents[2] / "shared"
BOTH = pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])

TINY = """
import asyncio, time
from pathlib import Path
from typing import Annotated
from pydantic import Field
from sluice.command import Command, NoArguments
from sluice.component import Component, main
from sluice.config import ComponentSettings, Duration, Named, Problem, Settings


class Connection(Settings):
    endpoint: str
    interval: Duration = 1.0


class Tiny(ComponentSettings):
    connections: Named[Connection] = Field(default_factory=dict)
    fail: str = ""
    stop_takes: Duration = 0.0


class TinyComponent(Component):
    id = "tiny"
    settings = Tiny
    starts = 0

    async def start(self, config):
        TinyComponent.starts += 1
        self.config = config
        self.changes = []
        if config.fail == "start":
            raise RuntimeError("the disk is full: free some space")
        if config.fail == "start hangs":
            await asyncio.sleep(3600)
        if config.fail == "problem":
            self.context.problems.report("connections.a.endpoint", "is not reachable", "start the server", "a")

    async def apply(self, config, changes):
        if config.fail == "apply":
            raise RuntimeError("cannot change that")
        self.context.problems.clear("connections.a")
        self.config = config
        self.changes.append(str(changes))

    async def stop(self):
        if self.config.fail == "stop blocks":
            time.sleep(3600)
        await asyncio.sleep(self.config.stop_takes)

    @classmethod
    def check(cls, config, directory):
        places = [c.endpoint for c in config.connections.values()]
        twice = {place for place in places if places.count(place) > 1}
        return [Problem("connections", place, "is there twice", "keep one") for place in twice]

    def commands(self):
        return [Command("wait", NoArguments, self.wait, resumable=True)]

    async def wait(self, call):
        while not Path("go").exists():
            await asyncio.sleep(0.01)
        return {"endpoints": len(self.config.connections)}

    def trouble(self):
        return "nothing can be stored: free some space" if self.config.fail == "trouble" else ""

    def status(self):
        if self.config.fail == "status":
            raise RuntimeError("no status")
        return {
            "connections": {n: {"state": "up", "endpoint": c.endpoint} for n, c in self.config.connections.items()},
            "counters": {"starts": TinyComponent.starts},
            "tiny": {
                "changes": self.changes,
                "name": self.context.component_name,
                "thing": self.context.thing_name,
                "max_message_bytes": self.context.max_message_bytes,
            },
        }


main(TinyComponent)
"""


class Running:
    """The component's process and what it tells."""

    def __init__(self, server: IpcServer, process: asyncio.subprocess.Process, work_dir: Path) -> None:
        self.server = server
        self.process = process
        self.work_dir = work_dir
        self.statuses: list[dict[str, Any]] = []
        self.replies: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self._clock = 2.0
        server.observe("sluice/status/tiny", lambda topic, payload: self.statuses.append(json.loads(payload)))
        server.observe("sluice/reply/tiny", lambda topic, payload: self.replies.append(json.loads(payload)))
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def merge(self, **settings: Any) -> None:
        """What a deployment's merge does to the configuration."""
        self._clock += 1
        self.server.configuration(ME).merge((), settings, self._clock)

    async def status(self, condition: Callable[[dict[str, Any]], object], limit: float = 30.0) -> dict[str, Any]:
        """The first status from now on that fulfils the condition."""
        seen = len(self.statuses)
        end = time.monotonic() + limit
        while True:
            for status in self.statuses[seen:]:
                if condition(status):
                    return status
            assert time.monotonic() < end, f"no such status; exit {self.process.returncode}; the last: {self.last()}"
            await asyncio.sleep(0.01)

    async def ask(self, identity: str, command: str) -> None:
        body = {"v": 1, "kind": "command", "id": identity, "command": command}
        await self.server.publish("sluice/command/tiny", json.dumps(body).encode())

    async def answer(self, identity: str, state: str, limit: float = 30.0) -> dict[str, Any]:
        end = time.monotonic() + limit
        while True:
            for reply in self.replies:
                if (reply["id"], reply["state"]) == (identity, state):
                    return reply
            assert time.monotonic() < end, f"no such answer: {self.replies}; {self.last()}"
            await asyncio.sleep(0.01)

    def last(self) -> str:
        return json.dumps([*self.statuses[-1:], *self.lines[-8:]], indent=1)

    async def stop(self, limit: float = 30.0) -> tuple[int, float]:
        """Exit code, and seconds that it took, after SIGTERM."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(self.process.wait(), limit)
        return code, time.monotonic() - began


@asynccontextmanager
async def running(tmp_path: Path, profile: Profile = CLASSIC, **settings: Any) -> AsyncIterator[Running]:
    server = IpcServer(tmp_path / "ipc.socket", profile)
    await server.start()
    policy = {
        f"{ME}:1": {
            "operations": ["aws.greengrass#PublishToTopic"],
            "resources": ["sluice/status/tiny", "sluice/reply/tiny"],
        },
        f"{ME}:2": {"operations": ["aws.greengrass#SubscribeToTopic"], "resources": ["sluice/command/tiny"]},
    }
    cloud = {
        f"{ME}:3": {
            "operations": ["aws.greengrass#SubscribeToIoTCore", "aws.greengrass#PublishToIoTCore"],
            "resources": ["sluice/*/command/tiny", "sluice/*/reply/tiny"],
        }
    }
    policies = {"aws.greengrass.ipc.pubsub": policy, "aws.greengrass.ipc.mqttproxy": cloud}
    settings = {"statusInterval": "1s", **settings}
    server.configuration(ME).merge((), {"accessControl": policies, **settings}, 1.0)
    work_dir = tmp_path / "work"
    work_dir.mkdir(exist_ok=True)
    (tmp_path / "tiny.py").write_text(TINY)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        str(tmp_path / "tiny.py"),
        cwd=work_dir,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SHARED),
            "SVCUID": server.token(ME),
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": server.address,
            "AWS_IOT_THING_NAME": "laptop",
            "GGC_VERSION": profile.version,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    component = Running(server, process, work_dir)
    try:
        yield component
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await component.reading
        await server.stop()


def is_running(status: dict[str, Any]) -> bool:
    return bool(status["state"] == "running")


@BOTH
async def test_it_runs_with_its_configuration_and_tells_its_status(tmp_path: Path, profile: Profile) -> None:
    async with running(tmp_path, profile, connections={"a": {"endpoint": "x"}}) as tiny:
        status = await tiny.status(is_running)
        assert status["connections"] == {"a": {"state": "up", "endpoint": "x"}}
        assert status["tiny"] == {
            "changes": [],
            "name": ME,
            "thing": "laptop",
            "max_message_bytes": 7_000 if profile is LITE else 120_000,
        }
        assert (status["component"], status["version"], status["config"]["rejected"]) == ("tiny", "0.1.0", [])


@pytest.mark.alone
@BOTH
async def test_sigterm_stops_it_in_time_with_exit_0_and_a_last_status(tmp_path: Path, profile: Profile) -> None:
    async with running(tmp_path, profile) as tiny:
        await tiny.status(is_running)
        code, seconds = await tiny.stop()
        assert code == 0
        assert seconds < 2
        assert tiny.statuses[-1]["state"] == "stopping"


@pytest.mark.alone
@pytest.mark.parametrize("settings", [{"stopTakes": "60s"}, {"fail": "stop blocks"}, {"fail": "start hangs"}])
async def test_it_stops_within_four_seconds_whatever_hangs(tmp_path: Path, settings: dict[str, Any]) -> None:
    async with running(tmp_path, **settings) as tiny:
        await tiny.status(lambda status: status)
        code, seconds = await tiny.stop()
        assert code == 0, tiny.last()
        assert seconds < 4.2


@pytest.mark.alone
async def test_it_stops_also_while_it_waits_for_a_nucleus(tmp_path: Path) -> None:
    async with running(tmp_path) as tiny:
        await tiny.status(is_running)
        await tiny.server.stop()
        code, seconds = await tiny.stop()
        assert code == 0
        assert seconds < 2
        await tiny.server.start()


async def test_a_change_is_applied_live_and_only_what_changed(tmp_path: Path) -> None:
    async with running(tmp_path, connections={"a": {"endpoint": "x"}, "b": {"endpoint": "y"}}) as tiny:
        await tiny.status(is_running)
        tiny.merge(connections={"b": {"endpoint": "z"}, "c": {"endpoint": "w"}})
        status = await tiny.status(lambda status: status["tiny"]["changes"])
        assert status["tiny"]["changes"] == ["added connections.c; changed connections.b.endpoint"]
        assert status["connections"]["c"] == {"state": "up", "endpoint": "w"}
        assert status["counters"]["starts"] == 1


async def test_a_burst_of_changes_is_applied_once(tmp_path: Path) -> None:
    async with running(tmp_path) as tiny:
        await tiny.status(is_running)
        for number in range(10):
            tiny.merge(connections={f"c{number}": {"endpoint": "x", "interval": "2s"}})
            await asyncio.sleep(0.02)
        status = await tiny.status(lambda status: status["tiny"]["changes"])
        assert len(status["connections"]) == 10
        assert len(status["tiny"]["changes"]) == 1


async def test_a_wrong_entry_is_reported_and_everything_else_runs(tmp_path: Path) -> None:
    async with running(tmp_path, connections={"a": {"endpoint": "x"}, "b": {}}, endpont="x") as tiny:
        status = await tiny.status(is_running)
        assert status["connections"] == {"a": {"state": "up", "endpoint": "x"}}
        assert status["config"]["rejected"] == [
            {
                "path": "connections.b.endpoint",
                "value": None,
                "problem": "is required",
                "remedy": "add it",
                "effect": "connections.b is not applied",
            }
        ]
        assert [warning["path"] for warning in status["warnings"]] == ["endpont"]
        tiny.merge(connections={"b": {"endpoint": "y"}})
        await tiny.status(lambda status: "b" in status["connections"] and not status["config"]["rejected"])
        said = [line["message"] for line in tiny.lines if "connections.b.endpoint" in line["message"]]
        assert said == ["connections.b.endpoint is required: add it (connections.b is not applied)"]


async def test_the_last_good_form_survives_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, connections={"a": {"endpoint": "x", "interval": "2s"}}) as tiny:
        await tiny.status(is_running)
        await tiny.stop()
        kept = tiny.work_dir / LAST_GOOD_FILE
        assert kept.stat().st_mode & 0o777 == 0o600
    async with running(tmp_path, connections={"a": {"endpoint": "y", "interval": "soon"}}) as tiny:
        status = await tiny.status(is_running)
        assert status["connections"]["a"]["endpoint"] == "x"
        assert status["config"]["rejected"][0]["effect"] == "the last good form of connections.a keeps running"


async def test_a_start_that_fails_is_a_status_that_says_why_and_ends_when_mended(tmp_path: Path) -> None:
    async with running(tmp_path, fail="start") as tiny:
        status = await tiny.status(lambda status: status["state"] == "degraded")
        assert status["why"] == "it cannot start: the disk is full: free some space; it is tried again"
        assert tiny.process.returncode is None
        tiny.merge(fail="")
        status = await tiny.status(is_running)
        assert status["counters"]["starts"] == 2


async def test_a_component_that_cannot_do_its_work_is_degraded_and_says_why_until_it_can(tmp_path: Path) -> None:
    async with running(tmp_path) as tiny:
        await tiny.status(is_running)
        tiny.merge(fail="trouble")
        status = await tiny.status(lambda status: status["state"] == "degraded")
        assert status["why"] == "nothing can be stored: free some space"
        tiny.merge(fail="")
        status = await tiny.status(is_running)
        assert "why" not in status


async def test_a_change_that_cannot_be_applied_starts_the_component_anew_with_it(tmp_path: Path) -> None:
    async with running(tmp_path) as tiny:
        await tiny.status(is_running)
        tiny.merge(fail="apply", connections={"a": {"endpoint": "x"}})
        status = await tiny.status(lambda status: status["counters"].get("starts") == 2)
        assert (status["state"], list(status["connections"])) == ("running", ["a"])
        assert any("cannot change that" in line.get("exception", "") for line in tiny.lines)


@BOTH
async def test_it_can_be_asked_for_its_whole_status(tmp_path: Path, profile: Profile) -> None:
    async with running(tmp_path, profile, connections={"a": {"endpoint": "x"}}, statusInterval="1h") as tiny:
        await tiny.status(lambda status: status)
        await tiny.ask("1", "status")
        result = (await tiny.answer("1", "done"))["result"]
        assert (result["kind"], result["state"], result["connections"]["a"]["endpoint"]) == ("status", "running", "x")


async def test_a_command_outlives_a_component_that_is_started_anew_and_one_that_was_killed(tmp_path: Path) -> None:
    async with running(tmp_path, connections={"a": {"endpoint": "x"}}) as tiny:
        await tiny.status(is_running)
        await tiny.ask("1", "wait")
        await tiny.answer("1", "accepted")
        tiny.merge(fail="apply")
        await tiny.status(lambda status: status["counters"].get("starts") == 2)
        tiny.process.kill()
    async with running(tmp_path, connections={"a": {"endpoint": "x"}, "b": {"endpoint": "y"}}) as tiny:
        await tiny.status(is_running)
        (tiny.work_dir / "go").touch()
        assert (await tiny.answer("1", "done"))["result"] == {"endpoints": 2}


async def test_a_deployment_is_validated_when_that_is_wanted_by_models_and_by_the_components_own_check(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, connections={"a": {"endpoint": "x"}}) as tiny:
        validation = tiny.server.services.validation
        await tiny.status(is_running)
        assert not validation.subscribed(ME)
        tiny.merge(validateDeployments=True)
        end = time.monotonic() + 30
        while not validation.subscribed(ME):
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

        async def verdict(**connections: Any) -> str:
            return await validation.ask("d", {ME: {"connections": connections}}, 10.0)

        assert await verdict(a={"endpoint": "y"}) == ""
        assert "connections.b.endpoint is required: add it (connections.b is not applied)" in await verdict(b={})
        assert 'connections = "y" is there twice: keep one' in await verdict(a={"endpoint": "y"}, b={"endpoint": "y"})
        assert (await tiny.status(is_running))["connections"] == {"a": {"state": "up", "endpoint": "x"}}


async def test_a_problem_that_shows_while_running_stands_in_the_status_until_it_is_cleared(tmp_path: Path) -> None:
    async with running(tmp_path, fail="problem") as tiny:
        status = await tiny.status(lambda status: status["config"]["rejected"])
        assert status["config"]["rejected"][0]["path"] == "connections.a.endpoint"
        assert status["config"]["rejected"][0]["remedy"] == "start the server"
        tiny.merge(fail="none")
        await tiny.status(lambda status: is_running(status) and not status["config"]["rejected"])


async def test_a_component_that_cannot_tell_its_status_still_has_one(tmp_path: Path) -> None:
    async with running(tmp_path, fail="status") as tiny:
        status = await tiny.status(lambda status: status["counters"]["status_failures"] > 0)
        assert status["state"] == "running"


async def test_it_survives_a_nucleus_that_restarts_and_hears_of_changes_afterwards(tmp_path: Path) -> None:
    async with running(tmp_path) as tiny:
        await tiny.status(is_running)
        await tiny.server.restart()
        await tiny.status(lambda status: status["counters"]["ipc_connects"] == 2)
        tiny.merge(connections={"a": {"endpoint": "x"}})
        await tiny.status(lambda status: "a" in status["connections"])
        assert tiny.process.returncode is None


async def test_more_than_lite_takes_in_a_message_is_a_problem_and_not_a_cut_connection(tmp_path: Path) -> None:
    async with running(tmp_path, LITE, maxMessageBytes="64KB") as tiny:
        status = await tiny.status(is_running)
        assert status["tiny"]["max_message_bytes"] == 7_000
        assert status["config"]["rejected"][0]["path"] == "maxMessageBytes"


async def test_an_idle_component_is_small_and_quiet(tmp_path: Path) -> None:
    async with running(tmp_path) as tiny:
        await tiny.status(lambda status: status["uptime_s"] >= 2)
        status = (Path("/proc") / str(tiny.process.pid) / "status").read_text()
        rss = int(status.split("VmRSS:")[1].split()[0]) / 1024
        assert rss <= 75, f"{rss:.0f} MB"
        assert len(tiny.lines) <= 5, tiny.lines


async def test_without_a_nucleus_it_says_so_and_exits(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(tmp_path / "tiny.py"),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SHARED)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert "is started by a Greengrass nucleus" in json.loads(out)["message"]


def test_problems_are_replaced_by_place_and_cleared_with_all_below() -> None:
    problems = Problems()
    for scope in ("connections.a", "connections.a.tags.T1", 'connections.a["x.y"]', "connections.ab", "sinks.a"):
        problems.report(scope, "is wrong", "mend it")
    problems.report("sinks.a", "is still wrong", "mend it")
    problems.clear("connections.a")
    assert [(problem.path, problem.problem) for problem in problems] == [
        ("connections.ab", "is wrong"),
        ("sinks.a", "is still wrong"),
    ]


def test_problems_are_bounded() -> None:
    problems = Problems()
    for number in range(1_500):
        problems.report(f"tags.T{number}", "is wrong", "mend it")
    assert len(problems) == 1_000
