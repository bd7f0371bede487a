"""The plant as a process, judged by an independent client: what it logged is what it served, row for row."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncua.ua
import pytest
from asyncua.client.client import Client
from asyncua.common.node import Node

from plant import PlantError, PlantProcess, tags
from plant.log import EndMark, LoggedRow, Value, read_log
from plant.reconciliation import Delivered, reconcile

ua: Any = asyncua.ua

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
WAITING = 0x80320000
QUALITY = ("GOOD", "UNCERTAIN", "BAD")


class Recorder:
    """Everything that a subscription is told, but for the initial values of variables that still wait."""

    def __init__(self) -> None:
        self.received: list[tuple[str, int, Value, int]] = []

    def datachange_notification(self, node: Node, val: Any, data: Any) -> None:
        value = data.monitored_item.Value
        if value.StatusCode.value == WAITING:
            return
        time_ns = (value.SourceTimestamp - EPOCH) // timedelta(microseconds=1) * 1000
        tag = str(getattr(node.nodeid, "Identifier", ""))
        self.received.append((tag, time_ns, value.Value.Value, value.StatusCode.value))


@asynccontextmanager
async def following(plant: PlantProcess, variables: int | None = None) -> AsyncIterator[Recorder]:
    """An independent client that watches the plant's variables."""
    recorder = Recorder()
    client = Client(plant.endpoint)
    client.session_timeout = 60_000
    async with client:
        parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=50,
            RequestedLifetimeCount=600,
            RequestedMaxKeepAliveCount=20,
            MaxNotificationsPerPublish=0,
            PublishingEnabled=True,
            Priority=0,
        )
        subscription = await client.create_subscription(parameters, recorder)
        nodes = [client.get_node(ua.NodeId(tag.tag, 2)) for tag in tags(plant.units)[:variables]]
        await subscription.subscribe_data_change(nodes, queuesize=1000)
        yield recorder


async def until(condition: Callable[[], bool], what: Callable[[], str], seconds: float = 30.0) -> None:
    """Wait for a condition."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, what()
        await asyncio.sleep(0.01)


def logged(plant: PlantProcess) -> list[LoggedRow]:
    return [line for line in read_log(plant.log) if isinstance(line, LoggedRow)]


def samples(rows: list[LoggedRow]) -> list[tuple[str, int, Value, int]]:
    return [(tag, row.time_ns, value, row.statuses.get(tag, 0)) for row in rows for tag, value in row.values.items()]


async def test_every_row_arrives_with_its_exact_values_qualities_and_time_and_in_order(tmp_path: Path) -> None:
    async with PlantProcess(tmp_path, rate=2000, units=1) as plant, following(plant) as recorder:
        await plant.produce()
        await plant.fault(4)
        # A unit is calibrated every 100 rows: wait until that has happened and is over.
        await until(lambda: plant.samples() > 3000, lambda: f"{plant.samples()} samples")
        produced = await plant.finish()
        await until(lambda: len(recorder.received) >= produced, lambda: f"{len(recorder.received)} of {produced}")
    rows = logged(plant)
    assert list(read_log(plant.log))[-1] == EndMark(len(rows), produced)
    assert [row.row for row in rows] == list(range(1, len(rows) + 1))
    expected, received = samples(rows), recorder.received
    for tag in rows[0].values:
        assert [s for s in received if s[0] == tag] == [s for s in expected if s[0] == tag]
    assert {status >> 30 for _, _, _, status in received} == {0, 1, 2}
    assert {type(value) for _, _, value, _ in received} == {float, int, bool, str, type(None)}

    deliveries = [Delivered(tag, time_ns, value, QUALITY[status >> 30]) for tag, time_ns, value, status in received]
    report = reconcile(plant.log, {"client": deliveries})
    assert report.balances, report.as_dict()
    lost = deliveries[:500] + deliveries[501:]
    assert reconcile(plant.log, {"client": lost}).destinations["client"].lost == 1


async def test_nothing_is_produced_before_every_variable_is_watched(tmp_path: Path) -> None:
    async with PlantProcess(tmp_path, rate=500, units=1) as plant, following(plant, variables=50):
        await plant.watched(items=50)
        with pytest.raises(PlantError, match=r"no 'started'.*\"items\":50"):
            await plant.produce(timeout=0.3)
        assert (await plant.counters())["rows"] == 0
        async with following(plant):
            await plant.wait_event("started", 30.0)
            await plant.finish()
    assert set(logged(plant)[0].values) == {tag.tag for tag in tags(1)}


async def test_a_client_that_vanishes_does_not_hold_the_plant_up_and_the_next_one_sees_all_that_follows(
    tmp_path: Path,
) -> None:
    async with PlantProcess(tmp_path, rate=1000, units=1, expect_items=0) as plant:
        client = Client(plant.endpoint)
        await client.connect()
        subscription = await client.create_subscription(50, Recorder())
        await subscription.subscribe_data_change(client.get_node("ns=2;s=Unit1/Row"))
        await plant.produce()
        transport: Any = client.uaclient.protocol
        transport.transport.abort()  # as when the cable is pulled: no CloseSession
        async with following(plant) as recorder:
            first = len(logged(plant))
            await until(lambda: len(logged(plant)) > first + 20, lambda: f"{len(logged(plant))} rows")
            await plant.finish()
            last = logged(plant)[-1]
            await until(
                lambda: bool(recorder.received) and recorder.received[-1][1] == last.time_ns,
                lambda: f"the client saw {recorder.received[-1:]}, the last row is {last}",
            )
        await client.disconnect()
    after = [row for row in logged(plant) if row.row > first]
    missing = set(samples(after)) - set(recorder.received)
    assert not missing


async def test_a_plant_that_was_held_up_catches_up_and_skips_nothing(tmp_path: Path) -> None:
    async with PlantProcess(tmp_path, rate=2000, units=1, expect_items=0) as plant:
        await plant.produce()
        period = (await plant.wait_event("started", 30.0))["period_s"]
        await until(lambda: len(logged(plant)) > 5, lambda: f"{len(logged(plant))} rows")
        os.kill(plant.pid, signal.SIGSTOP)
        await asyncio.sleep(1.5)  # the fault itself: the process stands still
        os.kill(plant.pid, signal.SIGCONT)
        await until(lambda: len(logged(plant)) * period > 3.0, lambda: f"{len(logged(plant))} rows")
        await plant.finish()
    rows = logged(plant)[:-1]  # the closing row comes whenever production is stopped
    times = [row.time_ns for row in rows]
    assert all(earlier < later for earlier, later in pairwise(times))
    assert all(time_ns % 1000 == 0 for time_ns in times)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) > 1.4e9, "a late row keeps the time at which it was really produced"
    assert gaps.index(max(gaps)) < len(rows) - 2
    assert (times[-1] - times[0]) / 1e9 == pytest.approx(period * (len(rows) - 1), abs=1.0)


async def test_it_counts_what_clients_asked_for_so_that_a_write_could_not_go_unseen(tmp_path: Path) -> None:
    async with PlantProcess(tmp_path, units=1, expect_items=0) as plant:
        async with Client(plant.endpoint) as client:
            node = client.get_node("ns=2;s=Unit1/Row")
            await node.read_data_value(raise_on_bad_status=False)
            assert "Write" not in (await plant.counters())["services"]
            with pytest.raises(ua.UaError):
                await node.write_value(ua.Variant(7, ua.VariantType.Int32))
        await plant.finish()
        services = (await plant.wait_event("finished", 30.0))["services"]
    assert services["Write"] == 1
    assert services["Read"] >= 1


async def test_a_fault_sets_in_in_one_unit_or_in_all_and_an_impossible_one_is_refused(tmp_path: Path) -> None:
    async with PlantProcess(tmp_path, rate=2000, units=2, expect_items=0) as plant:
        await plant.produce()

        def phase(unit: int) -> str:
            phases = [row.values[f"Unit{unit}/Phase"] for row in logged(plant) if f"Unit{unit}/Phase" in row.values]
            return str(phases[-1]).partition(" (")[0] if phases else ""

        await plant.fault(6, unit=2)
        await until(lambda: phase(2) == "fault 6", lambda: phase(2))
        assert phase(1) == "normal operation"
        await plant.fault(1)
        await until(lambda: (phase(1), phase(2)) == ("fault 1", "fault 1"), lambda: phase(1) + phase(2))
        for number, unit, problem in ((22, None, "no fault 22"), (1, 3, "unit 3: expected 1 to 2"), (1, 0, "unit 0")):
            with pytest.raises(PlantError, match=problem):
                await plant.fault(number, unit)
        await plant.fault(0)
        await until(lambda: phase(1) == "normal operation", lambda: phase(1))


async def test_the_rate_can_be_changed_while_it_runs(tmp_path: Path) -> None:
    async with PlantProcess(tmp_path, rate=1, units=1, expect_items=0) as plant:
        await plant.produce()
        plant.set_rate(5000)
        await until(lambda: len(logged(plant)) > 50, lambda: f"{len(logged(plant))} rows")


async def test_a_server_that_forgets_knows_no_subscription_any_more(tmp_path: Path) -> None:
    async with PlantProcess(tmp_path, rate=500, units=1, expect_items=0) as plant, Client(plant.endpoint) as client:
        subscription = await client.create_subscription(100, Recorder())
        await subscription.subscribe_data_change(client.get_node("ns=2;s=Unit1/Row"))
        assert (await plant.counters())["watched"] == 1
        await plant.forget()
        assert (await plant.counters())["watched"] == 0


async def test_commands_that_it_does_not_understand_are_refused_with_what_is_allowed(tmp_path: Path) -> None:
    async with PlantProcess(tmp_path, units=1) as plant:
        for command, fields, problem in (
            ("explode", {}, "'explode': expected one of start, stop, fault, rate, counters, forget, quit"),
            ("rate", {"values_per_s": 0}, "values_per_s 0: expected a number above 0"),
            ("rate", {}, "values_per_s None"),
            ("fault", {"number": "four"}, "number 'four'"),
        ):
            answer = plant.answer("refused")
            plant.send(command, **fields)
            assert problem in (await answer)["problem"]
        assert await plant.counters()


async def test_it_ends_when_its_input_ends_and_a_log_without_end_mark_says_so(tmp_path: Path) -> None:
    async with PlantProcess(tmp_path, rate=2000, units=1, expect_items=0) as plant:
        await plant.produce()
        await until(lambda: len(logged(plant)) > 3, lambda: f"{len(logged(plant))} rows")
        assert await plant.close() == 0
    assert not any(isinstance(line, EndMark) for line in read_log(plant.log))
    with pytest.raises(PlantError, match="not running"):
        plant.send("start")


async def test_ctrl_c_at_the_terminal_does_not_reach_it_so_that_its_log_gets_its_end_mark(tmp_path: Path) -> None:
    async with PlantProcess(tmp_path, rate=2000, units=1, expect_items=0) as plant:
        assert os.getpgid(plant.pid) != os.getpgid(0)  # a terminal interrupts a process group
        await plant.produce()
        produced = await plant.finish()
    assert list(read_log(plant.log))[-1] == EndMark(len(logged(plant)), produced)


async def test_a_plant_that_cannot_start_says_why(tmp_path: Path) -> None:
    plant = PlantProcess(tmp_path, units=1, data=tmp_path)
    with pytest.raises(PlantError, match=r"ended before its 'ready'.*d00_te\.dat: cannot be read"):
        await plant.start()
    assert await plant.close() == 1


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_two_thousand_values_a_second_take_less_than_half_a_core(tmp_path: Path) -> None:
    async with PlantProcess(tmp_path, rate=2000) as plant, following(plant):
        await plant.produce()
        before, first = _cpu_seconds(plant.pid), plant.samples()
        await until(lambda: plant.samples() - first >= 5000, lambda: f"{plant.samples()} samples")
        spent, produced = _cpu_seconds(plant.pid) - before, plant.samples() - first
    # CPU time per value, which does not depend on what else the machine does: half a core is 250 µs.
    assert spent / produced < 250e-6
