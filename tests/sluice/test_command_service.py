"""Commands over the local core's IPC, from the device and from the cloud, on both nuclei."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from localcore.ipc import IpcServer
from localcore.profile import CLASSIC, LITE, Profile
from sluice.command import Call, Channel, Command, CommandError, NoArguments, Origin, Step
from sluice.command_service import MEMORY_FILE, CommandService
from sluice.config import Settings
from sluice.ipc import Ipc

ME = "io.sluice.Tested"
ALLOWED = ("count", "dump")
BOTH = pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])


class Upto(Settings):
    number: int


class Desk:
    """What the tested component can do; `gate` lets `count` go on."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun: list[str] = []

    def commands(self) -> list[Command[Any]]:
        return [
            Command("count", Upto, self.count, resumable=True),
            Command("once", NoArguments, self.once),
            Command("dump", NoArguments, self.dump, reads=True),
            Command("fail", NoArguments, self.fail),
        ]

    async def count(self, call: Call[Upto]) -> Mapping[str, Any]:
        self.begun.append(call.id)
        call.progress(0.5, {"sofar": 1})
        await self.gate.wait()
        return {"number": call.arguments.number}

    async def once(self, call: Call[NoArguments]) -> Mapping[str, Any]:
        self.begun.append(call.id)
        await self.gate.wait()
        return {}

    async def dump(self, call: Call[NoArguments]) -> Mapping[str, Any]:
        return {"connections": {f"line{number}": {"state": "running", "text": "x" * 50} for number in range(5_000)}}

    async def fail(self, call: Call[NoArguments]) -> Mapping[str, Any]:
        self.begun.append(call.id)
        if call.id.startswith("expected"):
            raise CommandError("the server has no history", "switch it on")
        raise RuntimeError("unexpected")


class Asker:
    """Who sends commands, on the device and in the cloud, and hears the answers."""

    def __init__(self, server: IpcServer) -> None:
        self.server = server
        self.local: list[dict[str, Any]] = []
        self.cloud: list[dict[str, Any]] = []
        server.observe("sluice/reply/tested", lambda topic, payload: self.local.append(json.loads(payload)))
        server.observe_iot_core("sluice/laptop/reply/tested", self._from_cloud)

    def _from_cloud(self, topic: str, payload: bytes) -> None:
        self.cloud.append(json.loads(payload))

    async def send(self, identity: str, command: str, *, cloud: bool = False, **arguments: Any) -> None:
        body = {"v": 1, "kind": "command", "id": identity, "command": command, "arguments": arguments}
        await self.raw(json.dumps(body).encode(), cloud=cloud)

    async def raw(self, payload: bytes, *, cloud: bool = False) -> None:
        if cloud:
            await self.server.publish_iot_core("sluice/laptop/command/tested", payload)
        else:
            await self.server.publish("sluice/command/tested", payload)

    async def answer(self, identity: str, state: str, *, cloud: bool = False) -> dict[str, Any]:
        heard = self.cloud if cloud else self.local
        found: list[dict[str, Any]] = []

        def come() -> bool:
            found[:] = [one for one in heard if (one["id"], one["state"]) == (identity, state)]
            return bool(found)

        await until(come, lambda: heard)
        return found[0]


async def until(condition: Callable[[], object], what: Callable[[], object] = lambda: "", limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {what()}"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def core(tmp_path: Path, profile: Profile, *, cloud: bool = True) -> AsyncIterator[IpcServer]:
    server = IpcServer(tmp_path / "ipc.socket", profile)
    await server.start()
    both = {"operations": ["*"], "resources": ["sluice/*"]}
    policies: dict[str, Any] = {"aws.greengrass.ipc.pubsub": {f"{ME}:1": both}}
    if cloud:
        policies["aws.greengrass.ipc.mqttproxy"] = {f"{ME}:2": both}
    server.configuration(ME).merge((), {"accessControl": policies}, 1.0)
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def service(
    server: IpcServer, folder: Path, desk: Desk, *, thing: str = "laptop", allowed: tuple[str, ...] = ALLOWED
) -> AsyncIterator[CommandService]:
    ipc = Ipc(socket_path=server.address, token=server.token(ME))
    await ipc.start()
    await ipc.detect_nucleus()
    made = CommandService(ipc, "tested", thing, folder, [])
    made.configure(allowed, 7_000 if ipc.lite else 120_000)
    await made.start()
    made.offer(desk.commands())
    wanted = 1 + bool(thing and allowed)
    await until(lambda: server.services.local.held() + server.services.iot.held() >= wanted)
    try:
        yield made
    finally:
        await made.stop()
        await ipc.close()


@BOTH
async def test_a_command_is_accepted_says_how_far_it_is_and_is_done(tmp_path: Path, profile: Profile) -> None:
    desk = Desk()
    async with core(tmp_path, profile) as server, service(server, tmp_path, desk):
        asker = Asker(server)
        await asker.send("1", "count", number=5)
        accepted = await asker.answer("1", "accepted")
        assert (accepted["component"], accepted["command"], accepted["kind"]) == ("tested", "count", "reply")
        working = await asker.answer("1", "working")
        assert (working["progress"], working["result"]) == (0.5, {"sofar": 1})
        desk.gate.set()
        assert (await asker.answer("1", "done"))["result"] == {"number": 5}
        assert [one["state"] for one in asker.local] == ["accepted", "working", "done"]
        assert asker.cloud == []


@BOTH
async def test_the_cloud_gets_its_answers_and_may_only_what_is_allowed(tmp_path: Path, profile: Profile) -> None:
    desk = Desk()
    desk.gate.set()
    async with core(tmp_path, profile) as server, service(server, tmp_path, desk):
        asker = Asker(server)
        await asker.send("1", "count", cloud=True, number=5)
        assert (await asker.answer("1", "done", cloud=True))["result"] == {"number": 5}
        await asker.send("2", "once", cloud=True)
        refused = await asker.answer("2", "refused", cloud=True)
        assert refused["problem"] == "once is not allowed from the cloud"
        assert "cloudCommands" in refused["remedy"]
        assert desk.begun == ["1"]
        assert asker.local == []


@BOTH
async def test_an_answer_that_is_too_long_is_cut_to_what_each_way_takes(tmp_path: Path, profile: Profile) -> None:
    async with core(tmp_path, profile) as server, service(server, tmp_path, Desk()):
        asker = Asker(server)
        for cloud in (False, True):
            await asker.send(f"d{cloud}", "dump", cloud=cloud)
            told = await asker.answer(f"d{cloud}", "done", cloud=cloud)
            assert 0 < len(told["result"]["connections"]) < 5_000
            assert told["result"]["truncated"]["connections"] > 0


async def test_what_fails_says_why_and_costs_itself(tmp_path: Path) -> None:
    desk = Desk()
    async with core(tmp_path, CLASSIC) as server, service(server, tmp_path, desk):
        asker = Asker(server)
        await asker.send("expected", "fail")
        failed = await asker.answer("expected", "failed")
        assert (failed["problem"], failed["remedy"]) == ("the server has no history", "switch it on")
        await asker.send("other", "fail")
        assert (await asker.answer("other", "failed"))["problem"] == "unexpected"
        await asker.raw(b"\xff no command")
        desk.gate.set()
        await asker.send("1", "count", number=1)
        await asker.answer("1", "done")


async def test_after_a_restart_a_command_goes_on_under_its_id_and_nothing_runs_twice(tmp_path: Path) -> None:
    async with core(tmp_path, CLASSIC) as server:
        asker = Asker(server)
        before = Desk()
        async with service(server, tmp_path, before):
            await asker.send("long", "count", number=7)
            await asker.send("short", "once")
            await until(lambda: before.begun == ["long", "short"])
        assert (tmp_path / MEMORY_FILE).stat().st_mode & 0o777 == 0o600
        after = Desk()
        async with service(server, tmp_path, after):
            failed = await asker.answer("short", "failed")
            assert failed["problem"] == "the component was restarted before it was done"
            await until(lambda: after.begun == ["long"])
            after.gate.set()
            assert (await asker.answer("long", "done"))["result"] == {"number": 7}
        last = Desk()
        asker.local.clear()
        async with service(server, tmp_path, last):
            await asker.send("long", "count", number=7)
            assert (await asker.answer("long", "done"))["result"] == {"number": 7}
            await asker.send("short", "once")
            await asker.answer("short", "failed")
        assert last.begun == []


async def test_what_was_interrupted_goes_on_when_the_component_can_carry_it_out_again(tmp_path: Path) -> None:
    desk = Desk()
    async with core(tmp_path, CLASSIC) as server, service(server, tmp_path, desk) as made:
        asker = Asker(server)
        await asker.send("1", "count", number=7)
        await until(lambda: desk.begun == ["1"])
        await made.withdraw()
        await asker.send("2", "count", number=7)
        assert "is no command" in (await asker.answer("2", "refused"))["problem"]
        desk.gate.set()
        made.offer(desk.commands())
        await asker.answer("1", "done")
        assert desk.begun == ["1", "1"]


async def test_a_command_that_is_interrupted_before_its_first_step_goes_on_later(tmp_path: Path) -> None:
    desk = Desk()
    desk.gate.set()
    ending: list[asyncio.Task[None]] = []
    async with core(tmp_path, CLASSIC) as server, service(server, tmp_path, desk) as made:

        def withdraws(wanted: Upto) -> None:
            if not ending:
                ending.append(asyncio.create_task(made.withdraw()))

        offered = Command("count", Upto, desk.count, check=withdraws, reads=True, resumable=True)
        made.offer([offered])
        asker = Asker(server)
        await asker.send("1", "count", number=7)
        await asker.answer("1", "accepted")
        await ending[0]
        assert desk.begun == []
        made.offer([offered])
        await asker.answer("1", "done")


async def test_a_message_that_breaks_what_reads_it_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk()
    desk.gate.set()
    take = Channel.take

    def breaks(self: Channel, payload: bytes, origin: Origin) -> Step:
        if b"strange" in payload:
            raise RecursionError("too deep")
        return take(self, payload, origin)

    monkeypatch.setattr(Channel, "take", breaks)
    async with core(tmp_path, CLASSIC) as server, service(server, tmp_path, desk) as made:
        asker = Asker(server)
        await asker.raw(b"strange")
        await asker.send("1", "count", number=1)
        await asker.answer("1", "done")
        assert made.status()["malformed"] == 1


async def test_what_is_too_large_to_be_a_command_does_not_even_wait(tmp_path: Path) -> None:
    desk = Desk()
    async with core(tmp_path, CLASSIC) as server, service(server, tmp_path, desk) as made:
        for _ in range(3):
            await Asker(server).raw(b"x" * 1_000_000)
        await until(lambda: made.status().get("malformed") == 3)


@pytest.mark.parametrize("content", [b"", b"no json", b"[]", b'{"v": 9}', b'{"v": 1, "commands": [5]}'])
async def test_a_memory_that_cannot_be_understood_is_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MEMORY_FILE).write_bytes(content)
    desk = Desk()
    desk.gate.set()
    async with core(tmp_path, CLASSIC) as server, service(server, tmp_path, desk):
        asker = Asker(server)
        await asker.send("1", "count", number=1)
        await asker.answer("1", "done")
        assert (tmp_path / f"{MEMORY_FILE}.malformed").read_bytes() == content


async def test_a_memory_that_cannot_be_written_is_counted_and_commands_run(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"{MEMORY_FILE}.new").mkdir()
    desk = Desk()
    desk.gate.set()
    async with core(tmp_path, CLASSIC) as server, service(server, folder, desk) as made:
        asker = Asker(server)
        await asker.send("1", "count", number=1)
        await asker.answer("1", "done")
        assert made.status()["not_remembered"] >= 1


@BOTH
async def test_without_iot_core_local_commands_work_and_one_line_says_what_does_not(
    tmp_path: Path, profile: Profile, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk()
    desk.gate.set()
    with caplog.at_level(logging.WARNING):
        async with core(tmp_path, profile, cloud=False) as server, service(server, tmp_path, desk, thing=""):
            pass
        assert [line for line in caplog.messages if "IoT Core" in line] == []
        async with core(tmp_path, profile, cloud=False) as server:
            ipc = Ipc(socket_path=server.address, token=server.token(ME))
            await ipc.start()
            made = CommandService(ipc, "tested", "laptop", tmp_path, [])
            made.configure(ALLOWED, 7_000)
            await made.start()
            made.offer(desk.commands())
            await until(lambda: server.services.local.held() == 1)
            asker = Asker(server)
            await asker.send("1", "count", number=1)
            await asker.answer("1", "done")
            await made.stop()
            await ipc.close()
    [line] = [line for line in caplog.messages if "AWS IoT Core" in line]
    assert "are not heard" in line
    assert "SubscribeToIoTCore" in line


async def test_whether_the_cloud_is_listened_to_changes_live(tmp_path: Path) -> None:
    desk = Desk()
    desk.gate.set()
    async with core(tmp_path, CLASSIC) as server, service(server, tmp_path, desk, allowed=()) as made:
        assert server.services.iot.held() == 0
        made.configure(["count"], 120_000)
        await until(lambda: server.services.iot.held() == 1)
        asker = Asker(server)
        held = server.services.iot.held()
        await asker.send("1", "count", cloud=True, number=1)
        await asker.answer("1", "done", cloud=True)
        made.configure([], 120_000)
        await until(lambda: server.services.iot.held() == held - 1)
        await asker.send("2", "count", cloud=True, number=1)
        await asker.send("3", "count", number=1)
        await asker.answer("3", "done")
        assert "2" not in desk.begun


async def test_a_subscription_that_died_without_a_sign_is_made_anew_on_lite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.command_service._RENEW", 0.2)
    desk = Desk()
    desk.gate.set()
    async with core(tmp_path, LITE) as server, service(server, tmp_path, desk):
        asker = Asker(server)
        server.silence()
        number = 0

        async def answered() -> bool:
            nonlocal number
            number += 1
            await asker.send(str(number), "count", number=1)
            await asyncio.sleep(0.1)
            return any(one["state"] == "done" for one in asker.local)

        end = time.monotonic() + 30
        while not await answered():
            assert time.monotonic() < end
        assert len(desk.begun) == len(set(desk.begun))
