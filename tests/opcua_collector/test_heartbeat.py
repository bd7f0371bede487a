"""Silence is looked into: heartbeats say what the server says with its own time, and late tags are found."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from opcua_collector import heartbeat
from opcua_collector.services.session import Subscribed
from opcua_collector.stack import UaStatusCodeError, ua
from opcua_collector.values.notifications import Block, Publication
from sluice.batch import Quality

from .scripted_stack import STRING, T0, Node, Stack, until
from .test_items import Group, configured

SERVER = datetime(2026, 3, 2, tzinfo=timezone.utc)
FAST = Subscribed(7, 0.01, 10, 100)
STATUS = ua.StatusCodes


def ns(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_GRACE", 0.05)
    monkeypatch.setattr(heartbeat, "_EVERY", 0.1)
    monkeypatch.setattr(heartbeat, "_SHORTEST", 0.02)


def beats(line: Group) -> list[Any]:
    return [sample for sample in line.sink.samples if sample.status == "heartbeat"]


async def test_a_silent_tag_beats_with_the_servers_time_and_its_quality_as_read() -> None:
    stack = Stack({"A": Node(1.5, server=SERVER), "B": Node(2.5, server=SERVER, status=STATUS.UncertainSubNormal)})
    line = Group(stack, configured(heartbeat="1s"))
    async with line.session(FAST):
        await line.monitors(2)
        line.brings("A", 1.5)
        await until(lambda: len(beats(line)) >= 2, line.status)
    found = {sample.tag: sample for sample in beats(line)}
    assert (found["A"].value, found["A"].time, found["A"].quality) == (1.5, ns(SERVER), Quality.GOOD)
    assert (found["B"].value, found["B"].time, found["B"].quality) == (2.5, ns(SERVER), Quality.UNCERTAIN)


async def test_a_heartbeat_moves_no_mark_and_ends_no_gap() -> None:
    line = Group(Stack({"A": Node(1.0, server=SERVER)}), configured(heartbeat="1s"))
    async with line.session(FAST):
        await line.monitors(1)
        line.brings("A", 1.0, at=5)
        handle = line.items.handle("A")
        assert handle is not None
        line.intake.open_gap("test", [handle])
        before = line.intake.assembler.last(handle)
        await until(lambda: beats(line), line.status)
        assert line.intake.assembler.last(handle) == before
        assert line.intake.gaps._holes["A"][-1].end is None
        line.brings("A", 2.0, at=7)
    assert line.sink.of("A")[-1] == 2.0, "what is older than the heartbeat is news all the same"


async def test_tags_with_news_are_not_read() -> None:
    line = Group(Stack({"A": Node(server=SERVER), "B": Node(server=SERVER)}), configured(heartbeat="1s"))
    async with line.session(FAST):
        await line.monitors(2)
        for step in range(150):
            line.brings("A", float(step), at=step + 1)
            if beats(line):
                break
            await asyncio.sleep(0.02)
    assert {sample.tag for sample in beats(line)} == {"B"}


async def test_a_server_that_gives_no_time_gives_no_heartbeat() -> None:
    line = Group(Stack({"A": Node(server=None), "B": Node(server=SERVER)}), configured(heartbeat="1s"))
    async with line.session(FAST):
        await line.monitors(2)
        await until(lambda: line.items.status().get("heartbeats", 0) >= 1, line.status)
        await until(lambda: line.items.status().get("heartbeats_without_server_time", 0) >= 1, line.status)
    assert {sample.tag for sample in beats(line)} == {"B"}


async def test_a_silent_tag_that_cannot_be_read_costs_itself() -> None:
    line = Group(Stack({"A": Node(server=SERVER), "B": Node(server=SERVER)}), configured(heartbeat="1s"))
    async with line.session(FAST):
        await line.monitors(2)
        line.stack.nodes["B"].poisons = UaStatusCodeError(STATUS.BadDecodingError)
        await until(lambda: beats(line) and line.items.status().get("heartbeats_unanswered"), line.status)
    assert {sample.tag for sample in beats(line)} == {"A"}


def changed(line: Group, tag: str, value: Any) -> None:
    line.stack.nodes[tag].value = value
    line.stack.nodes[tag].source = T0 + timedelta(seconds=100)


async def brought(line: Group, *tags: str) -> None:
    """The subscription has brought a value of each, and brings nothing more."""
    await line.monitors(len(line.stack.nodes))
    for tag in tags:
        line.brings(tag, 1.0, at=int(T0.timestamp()))


async def test_values_that_the_subscription_does_not_bring_are_late_and_the_subscription_is_stalled() -> None:
    line = Group(Stack({name: Node() for name in "AB"}), configured())
    stalled: list[int] = []
    line.items.on_stalled = lambda: stalled.append(1)
    async with line.session(FAST):
        await brought(line, "A", "B")
        await asyncio.sleep(0.3)
        assert "late" not in line.items.status(), "what has not changed is not late"
        changed(line, "A", 2.0)
        changed(line, "B", 2.0)
        await until(lambda: line.items.status().get("late") == 2, line.status)
        await until(lambda: stalled, line.status)
        known = line.items.of_tag("A")
        assert known is not None
        assert known["late"]
        assert sorted(line.items.describe()["late_tags"]) == ["A", "B"]
        line.brings("A", 2.0, at=int(T0.timestamp()) + 100)
        await until(lambda: line.items.status().get("late") == 1, line.status)


@pytest.mark.parametrize("settings", [{"samplingInterval": "1h"}, {"trigger": "value"}])
async def test_a_tag_that_is_sampled_seldom_or_a_long_text_with_another_time_is_not_late(
    settings: dict[str, Any],
) -> None:
    text = "x" * 500
    line = Group(Stack({name: Node(text, data_type=STRING) for name in "AB"}), configured(**settings))
    stalled: list[int] = []
    line.items.on_stalled = lambda: stalled.append(1)
    async with line.session(FAST):
        await line.monitors(2)
        for tag in "AB":
            handle = line.items.handle(tag)
            block = Block(
                12,
                np.arange(1),
                np.full(1, handle),
                np.array([text], object),
                np.zeros(1, np.uint32),
                np.full(1, ns(T0)),
            )
            line.intake.hand_on(Publication(blocks=(block,)), {})
            changed(line, tag, "y" + text if "samplingInterval" in settings else text)
        reads = line.stack.named["Read"]
        await until(lambda: line.stack.named["Read"] >= reads + 5, line.status)
        await asyncio.sleep(0.3)
    assert (stalled, line.items.status().get("late", 0)) == ([], 0)


async def test_one_late_tag_of_many_is_no_stall() -> None:
    names = [f"T{number}" for number in range(9)]
    line = Group(
        Stack({name: Node() for name in names}),
        configured({name: {"node": f"nsu=urn:test:scripted;s={name}"} for name in names}),
    )
    stalled: list[int] = []
    line.items.on_stalled = lambda: stalled.append(1)
    async with line.session(FAST):
        await brought(line, *names)
        changed(line, "T3", 2.0)
        await until(lambda: line.items.status().get("late") == 1, line.status)
        await asyncio.sleep(0.3)
    assert stalled == []


@pytest.mark.parametrize(
    ("settings", "value", "late"),
    [
        ({}, 1.0, False),
        ({"trigger": "timestamp"}, 1.0, True),
        ({"trigger": "status"}, 2.0, False),
        ({"deadband": {"absolute": 5}}, 3.0, False),
        ({"deadband": {"absolute": 5}}, 7.0, True),
        ({"deadband": {"percent": 5}}, 7.0, False),
    ],
)
async def test_only_what_the_server_should_have_sent_is_late(
    settings: dict[str, Any], value: float, *, late: bool
) -> None:
    line = Group(Stack({"A": Node(), "B": Node()}), configured(**settings))
    async with line.session(FAST):
        await brought(line, "A", "B")
        changed(line, "A", value)
        reads = line.stack.named["Read"]
        if late:
            await until(lambda: line.items.status().get("late") == 1, line.status)
        else:
            await until(lambda: line.stack.named["Read"] >= reads + 8, line.status)
    assert line.items.status().get("late", 0) == late
