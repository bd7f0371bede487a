"""Polled groups: values read in step, by registered ids; a bad node or a slow answer costs itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from opcua_collector import nodes, polling
from opcua_collector.config import Connection
from opcua_collector.intake import Intake
from opcua_collector.nodes import learn
from opcua_collector.plan import plan
from opcua_collector.polling import MISSED, Polled
from opcua_collector.stack import UaStatusCodeError, ua
from sluice.batch import Quality
from sluice.tasks import end

from .scripted_stack import T0, URI, Node, Reports, Sink, Stack, until

STATUS = ua.StatusCodes


def node(name: str) -> str:
    return f"nsu={URI};s={name}"


def configured(*names: str, **settings: Any) -> Connection:
    tags = {name: {"node": node(name)} for name in names or ("A", "B")}
    asked = {"mode": "poll", "pollInterval": "50ms", **settings}
    return Connection.model_validate({"endpoint": "opc.tcp://h:1", "tags": tags, **asked})


@dataclass
class Group:
    stack: Stack
    settings: Connection
    sink: Sink = field(default_factory=Sink)
    reports: Reports = field(default_factory=Reports)
    names: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.intake = Intake("line1", self.sink, lambda: self.names)
        parts = (self.settings, plan(self.settings), self.settings.tags, self.intake, self.reports, self.names)
        self.polled = Polled("line1", *parts)

    @asynccontextmanager
    async def session(self, *, ends: bool = False) -> AsyncIterator[asyncio.Task[None]]:
        self.stack.epoch += 1
        self.stack.registered.clear()
        facts = asyncio.create_task(learn(self.stack.session, self.settings.load))
        task = asyncio.create_task(self.polled.run(self.stack.session, facts))
        try:
            yield task
        finally:
            await end(facts)
            if task.done() and not ends:
                task.result()
            if not task.done():
                await end(task)
            self.polled.interrupted()

    def status(self) -> Any:
        return self.polled.status(), self.reports.found, self.stack.asked, self.sink.events

    async def polls(self, more: int) -> None:
        """Until so many polls more are over."""
        wanted = self.polled.status().get("polls", 0) + more + 1
        await until(lambda: self.polled.status().get("polls", 0) >= wanted, self.status)

    def want(self, settings: Connection) -> None:
        self.settings = settings
        self.polled.want(settings, plan(settings), settings.tags)


def later(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


async def test_values_are_read_with_source_time_and_what_has_not_changed_is_not_sent_again() -> None:
    line = Group(Stack({"A": Node(1.0), "B": Node(5.0)}), configured())
    async with line.session():
        await line.polls(3)
        assert (line.sink.of("A"), line.sink.of("B")) == ([1.0], [5.0])
        line.stack.nodes["A"].value, line.stack.nodes["A"].source = 2.0, later(1)
        await line.polls(2)
        line.stack.nodes["A"].status = STATUS.BadSensorFailure
        await line.polls(2)
        line.stack.nodes["A"].status = 0
        line.stack.nodes["A"].value = 3.0  # and the same time: a server may leave it
        await line.polls(2)
    assert line.sink.of("A") == [1.0, 2.0, 2.0, 3.0]
    assert line.sink.of("B") == [5.0]
    bad = line.sink.samples[3]
    assert (bad.quality, bad.status) == (Quality.BAD, STATUS.BadSensorFailure)
    assert line.sink.samples[0].time == int(T0.timestamp()) * 10**9


async def test_nodes_are_registered_in_each_session_and_read_by_their_registered_ids() -> None:
    line = Group(Stack({"A": Node(), "B": Node()}), configured())
    for _ in range(2):
        async with line.session():
            await until(lambda: line.stack.registered, line.status)
            await line.polls(1)
            assert line.polled.describe()["registered"]
            assert sorted(line.stack.registered.values()) == ["A", "B"]
            assert all(alias.startswith(f"#{line.stack.epoch}/") for alias in line.stack.registered)
    async with line.session():
        await line.polls(1)
        line.want(configured("A"))
        await until(lambda: line.stack.unregistered == ["B"], line.status)
        await line.polls(1)


async def test_a_server_that_registers_nothing_is_read_by_plain_ids() -> None:
    line = Group(Stack({"A": Node(), "B": Node()}, registers=False), configured())
    async with line.session():
        await until(lambda: line.sink.of("A") and line.sink.of("B"), line.status)
        assert not line.polled.describe()["registered"]
    assert line.reports.found == {}


async def test_reads_name_no_more_nodes_than_the_server_takes() -> None:
    names = [f"T{number}" for number in range(60)]
    most: list[int] = []

    def refuses(service: str, parameters: Any) -> None:
        if service == "Read":
            most.append(len(parameters.NodesToRead))

    stack = Stack({name: Node() for name in names}, {"MaxNodesPerRead": 25}, refuses)
    line = Group(stack, configured(*names))
    async with line.session():
        await until(lambda: len({sample.tag for sample in line.sink.samples}) == 60, line.status)
    assert max(most) == 25


async def test_a_poll_keeps_its_phase_and_one_that_takes_too_long_costs_the_next() -> None:
    begun: list[float] = []

    def refuses(service: str, parameters: Any) -> None:
        if service == "Read" and parameters.NodesToRead[0].AttributeId == ua.AttributeIds.Value:
            begun.append(asyncio.get_running_loop().time())

    line = Group(Stack({"A": Node(), "B": Node()}, refuses=refuses), configured(pollInterval="100ms"))
    async with line.session():
        await line.polls(2)
        begun.clear()
        await line.polls(4)
        for one in begun[1:]:
            steps = (one - begun[0]) / 0.1
            assert abs(steps - round(steps)) < 0.5, "whole intervals, however late the loop comes to one"
        assert "overruns" not in line.polled.status()
        line.stack.delay = 0.25
        await line.polls(1)
        line.stack.delay = 0.0
        await line.polls(1)
        assert line.polled.status()["overruns"] >= 2


async def test_a_bad_node_costs_itself_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_NODE_PAUSES", (0.05, 0.05))
    monkeypatch.setattr(nodes, "_BUNCH", 0.01)
    line = Group(Stack({"A": Node(), "B": Node(), "C": Node()}), configured("A", "B", "C", "D"))
    async with line.session():
        await line.polls(1)
        assert "connections.line1.tags.D.node" in line.reports.found
        line.stack.nodes["B"].poisons = UaStatusCodeError(STATUS.BadDecodingError)
        gone = line.stack.nodes.pop("C")
        line.stack.nodes["A"].value, line.stack.nodes["A"].source = 2.0, later(1)
        await until(lambda: line.sink.of("A") == [1.0, 2.0] and len(line.reports.found) == 3, line.status)
        assert sorted(place.split(".")[3] for place in line.reports.found) == ["B", "C", "D"]
        line.stack.nodes["B"].poisons = None
        line.stack.nodes["C"] = gone
        line.stack.nodes["D"] = Node(4.0)
        await until(lambda: line.sink.of("D") == [4.0] and not line.reports.found, line.status)
        assert len(line.polled.handles()) == 4


async def test_an_answer_that_does_not_come_costs_that_poll_and_three_in_a_row_the_session() -> None:
    silent = False

    def refuses(service: str, parameters: Any) -> None:
        if silent and service == "Read":
            raise asyncio.TimeoutError

    line = Group(Stack({"A": Node(), "B": Node()}, refuses=refuses), configured())
    async with contextlib.AsyncExitStack() as ending:
        task = await ending.enter_async_context(line.session(ends=True))
        await line.polls(1)
        silent = True
        await until(lambda: line.polled.status().get("timeouts", 0) >= 1, line.status)
        silent = False
        line.stack.nodes["A"].value, line.stack.nodes["A"].source = 2.0, later(1)
        await until(lambda: line.sink.of("A") == [1.0, 2.0], line.status)
        silent = True
        await until(task.done, line.status)
    assert isinstance(task.exception(), asyncio.TimeoutError)


async def test_polls_that_were_missed_are_a_gap_and_the_first_values_after_them_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Group(Stack({"A": Node(), "B": Node()}), configured())
    async with line.session():
        await line.polls(1)
    assert line.intake.traffic.gaps == 1, "our own start: nothing is known of before, so nothing is lost"
    assert line.intake.gaps.dump(0)
    await asyncio.sleep(0.1)
    line.stack.nodes["A"].value, line.stack.nodes["A"].source = 2.0, later(60)
    opened: list[tuple[str, set[str]]] = []
    open_gap = line.intake.open_gap

    def spy(reason: str, handles: Iterable[int] | None = None, only: Iterable[str] = ()) -> None:
        opened.append((reason, set(only)))
        open_gap(reason, handles, set(only))

    monkeypatch.setattr(line.intake, "open_gap", spy)
    async with line.session():
        await until(lambda: line.sink.of("A") == [1.0, 2.0], line.status)
        await line.polls(1)
    assert opened == [(MISSED, {"A", "B"})]
    handles = {name: handle for handle, name in line.names.items()}
    holes = {tag: line.intake.gaps._holes.get(tag, []) for tag in ("A", "B")}
    (hole,) = holes["A"]
    assert (hole.end or 0) - hole.at == 60 * 10**9
    assert holes["B"] == [], "the same value at the same time: nothing lies between"
    assert set(handles) == {"A", "B"}


async def test_polls_that_were_missed_are_a_gap_of_the_tags_as_well_of_which_the_nodes_are_found_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(polling, "CHUNK", 1)
    line = Group(Stack({"A": Node(), "B": Node()}), configured())
    async with line.session():
        await until(lambda: len(line.polled.handles()) == 2, line.status)
        await line.polls(2)
    await asyncio.sleep(0.1)
    found = line.polled._found
    polled = asyncio.Event()

    async def slow(facts: Any, names: Any, total: int) -> Any:
        if "B" in names:  # the first is polled already
            await polled.wait()
        return await found(facts, names, total)

    monkeypatch.setattr(line.polled, "_found", slow)
    line.stack.nodes["B"].value, line.stack.nodes["B"].source = 2.0, later(60)
    async with line.session():
        await line.polls(2)
        assert len(line.polled.handles()) == 1
        polled.set()
        await until(lambda: line.sink.of("B") == [1.0, 2.0], line.status)
    (hole,) = line.intake.gaps._holes["B"]
    assert (hole.end or 0) - hole.at == 60 * 10**9


async def test_another_interval_applies_at_once() -> None:
    line = Group(Stack({"A": Node(), "B": Node()}), configured(pollInterval="1h"))
    async with line.session():
        await until(lambda: line.polled.describe()["registered"] and len(line.polled.handles()) == 2, line.status)
        line.want(configured(pollInterval="50ms"))
        await line.polls(3)
    assert line.stack.asked["RegisterNodes"] == 1


async def test_deadbands_are_kept_here() -> None:
    line = Group(Stack({"A": Node(1.0), "B": Node()}), configured(deadband={"absolute": 1}))
    async with line.session():
        for step, value in enumerate([1.0, 1.5, 1.9, 2.5]):
            line.stack.nodes["A"].value, line.stack.nodes["A"].source = value, later(step)
            await line.polls(2)
    assert line.sink.of("A") == [1.0, 2.5]


async def test_a_tag_without_news_beats_with_the_servers_time_and_its_quality_as_read() -> None:
    server = datetime(2026, 3, 2, tzinfo=timezone.utc)
    stack = Stack({"A": Node(1.0, server=server), "B": Node(2.0, status=STATUS.UncertainLastUsableValue, server=None)})
    line = Group(stack, configured(heartbeat="1s"))
    async with line.session():
        await until(lambda: line.polled.status().get("heartbeats", 0) >= 1, line.status)
        await until(lambda: line.polled.status().get("heartbeats_without_server_time", 0) >= 1, line.status)
        beats = [sample for sample in line.sink.samples if sample.status == "heartbeat"]
        assert {sample.tag for sample in beats} == {"A"}, "no time is made up"
        assert (beats[0].value, beats[0].quality) == (1.0, Quality.GOOD)
        assert beats[0].time == int(server.timestamp()) * 10**9
        line.stack.nodes["A"].value, line.stack.nodes["A"].source = 3.0, later(1)  # before the time of the heartbeat
        await until(lambda: 3.0 in line.sink.of("A"), line.status)
    assert line.sink.samples[-1].time == int(later(1).timestamp()) * 10**9
