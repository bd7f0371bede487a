"""Each fault is undone when its time is over and when everything is healed; what fails is told and stops nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from localcore import Core
from plant import PiProcess
from plant.line import Line
from rehearsal.crashes import Crashes
from rehearsal.faults import ACTIONS, FULL_DISK, Faults
from rehearsal.schedule import Act, make_schedule


class Recorder:
    """Stands in for whatever a fault acts on: notes each call, and can be away."""

    def __init__(self, calls: list[str], name: str) -> None:
        self._calls = calls
        self._name = name
        self.pid = 1
        self.broken = False
        self.faults = SimpleNamespace(withheld=Counter())

    def __getattr__(self, call: str) -> Any:
        def note(*arguments: Any, **named: Any) -> Any:
            if self.broken:
                raise OSError(f"{self._name} is away")
            given = ", ".join([*map(str, arguments), *(f"{key}={value}" for key, value in named.items())])
            self._calls.append(f"{self._name}.{call}({given})")
            answer = asyncio.get_running_loop().create_future()
            answer.set_result({})
            return answer

        return note


class Device:
    """A core, a line and crashes of recorders."""

    def __init__(self, tmp_path: Path) -> None:
        self.calls: list[str] = []
        part = {
            name: Recorder(self.calls, name)
            for name in ("ipc", "stream_manager", "aws", "component", "line", "core", "pi")
        }
        self.part = part
        self.core = SimpleNamespace(
            ipc=part["ipc"],
            stream_manager=part["stream_manager"],
            aws=part["aws"],
            component=lambda name: part["component"],
            power_cut=part["core"].power_cut,
            boot=part["core"].boot,
        )
        crashes = Crashes(cast(Core, self.core), [])
        lines = {"opcua": cast(Line, part["line"]), "pi": cast(Line, part["line"])}
        self.faults = Faults(cast(Core, self.core), lines, crashes, pi=cast(PiProcess, part["pi"]))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


UNDONE = {
    "stall": "component.resume()",
    "disk_full": "component.limit_file_size(None)",
    "power_cut": "core.boot()",
    "stream_manager_away": "stream_manager.start()",
    "line_blackhole": "line.blackhole(False)",
    "line_slow": "line.delay(0.0)",
    "line_refused": "line.refuse(False)",
    "pi_fault": "pi.heal(archive_down)",
    "endpoint_unavailable": "aws.fault(kinesis, unavailable, 0)",
    "sitewise_throttled": "aws.fault(iotsitewise, throttle, 0)",
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "stall": {"component": "a"},
    "disk_full": {"component": "a"},
    "line_blackhole": {"plant": "pi"},
    "line_slow": {"plant": "opcua", "delay": 0.1},
    "line_refused": {"plant": "pi"},
    "pi_fault": {"kind": "archive_down"},
    "endpoint_unavailable": {"service": "kinesis"},
    "sitewise_throttled": {"kind": "throttle"},
}


def test_every_fault_that_lasts_has_its_counterpart_here() -> None:
    assert {act.action for act in make_schedule(1, 60.0) if "seconds" in act.arguments} == set(UNDONE)


@pytest.mark.parametrize("action", sorted(UNDONE))
async def test_what_lasts_is_undone_when_its_time_is_over(device: Device, action: str) -> None:
    device.faults.begin(Act(0.0, action, {**ARGUMENTS.get(action, {}), "seconds": 0.01}))
    await device.faults.over()
    assert device.calls[-1] == UNDONE[action]
    assert len(device.calls) >= 2
    assert device.faults.done == {action: 1}
    assert device.faults.failed == []


@pytest.mark.parametrize("action", sorted(UNDONE))
async def test_healing_undoes_at_once_what_lasts_and_tells_that_it_was_cut_short(device: Device, action: str) -> None:
    device.faults.begin(Act(0.0, action, {**ARGUMENTS.get(action, {}), "seconds": 600.0}))
    for _ in range(100):  # turns of the event loop, which only sleeps that are over take
        await asyncio.sleep(0)
    await device.faults.heal()
    assert device.calls[-1] == UNDONE[action]
    assert device.faults.under_way() == []
    assert not device.faults.done
    assert "ended before its time" in device.faults.failed[0]


async def test_a_full_disk_is_a_limit_on_the_size_of_files(device: Device) -> None:
    device.faults.begin(Act(0.0, "disk_full", {"component": "a", "seconds": 0.01}))
    await device.faults.over()
    assert device.calls[0] == f"component.limit_file_size({FULL_DISK})"


async def test_a_fault_that_cannot_be_brought_about_is_told_and_the_others_go_on(device: Device) -> None:
    device.part["stream_manager"].broken = True
    device.faults.begin(Act(1.0, "replies_lost", {"operation": "append", "count": 2}))
    device.faults.begin(Act(2.0, "line_cut", {"plant": "pi"}))
    await device.faults.over()
    assert device.faults.failed == ["replies lost: operation=append, count=2: OSError: stream_manager is away"]
    assert device.faults.done == {"line_cut": 1}
    assert all(act["ended_ns"] >= act["begun_ns"] for act in device.faults.acts)


async def test_replies_of_the_bus_are_withheld_in_numbers_that_add_up(device: Device) -> None:
    for count in (1, 2):
        device.faults.begin(Act(0.0, "ipc_replies_withheld", {"operation": "PublishToTopic", "count": count}))
    await device.faults.over()
    assert device.part["ipc"].faults.withheld == {"PublishToTopic": 3}


def test_a_schedule_gives_each_fault_the_arguments_that_it_takes() -> None:
    for act in make_schedule(7, 240.0):
        code = ACTIONS[act.action].__code__
        assert set(act.arguments) == set(code.co_varnames[1 : code.co_argcount]), act
