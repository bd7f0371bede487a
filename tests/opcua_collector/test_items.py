"""Monitored items: what is configured is what a server is asked for, and what it refuses costs what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as run_with
from hypothesis import strategies as st

from opcua_collector import nodes
from opcua_collector.config import Connection
from opcua_collector.intake import Intake
from opcua_collector.items import Items
from opcua_collector.kept import Items as KeptItems
from opcua_collector.kept import KeptItem, address_of, load_items
from opcua_collector.nodes import Facts, learn
from opcua_collector.plan import OWN, by_group, plan
from opcua_collector.services.session import Subscribed
from opcua_collector.stack import UaStatusCodeError, ua
from opcua_collector.values.notifications import Block, Publication
from sluice.tasks import end

from .scripted_stack import STRING, URI, Node, Reports, Sink, Stack, until

STATUS = ua.StatusCodes
SUBSCRIBED = Subscribed(7, 0.5, 10, 100)


def node(name: str) -> str:
    return f"nsu={URI};s={name}"


def configured(tags: dict[str, Any] | None = None, **settings: Any) -> Connection:
    tags = {name: {"node": node(name)} for name in "AB"} if tags is None else tags
    return Connection.model_validate({"endpoint": "opc.tcp://h:1", "tags": tags, **settings})


@dataclass
class Group:
    """The items of one group, in a connection of their own unless they share a `names` and an `intake`."""

    stack: Stack
    settings: Connection
    group: str = OWN
    sink: Sink = field(default_factory=Sink)
    reports: Reports = field(default_factory=Reports)
    names: dict[int, str] = field(default_factory=dict)
    intake: Any = None
    before: Facts | None = None

    def __post_init__(self) -> None:
        self.intake = self.intake or Intake("line1", self.sink, lambda: self.names)
        tags = by_group(self.settings, self.settings.tags).get(self.group, {})
        parts = (self.settings, plan(self.settings, self.group), tags, self.intake, self.reports, self.names)
        self.items = Items("line1", *parts)

    @asynccontextmanager
    async def session(self, subscribed: Subscribed = SUBSCRIBED) -> AsyncIterator[Group]:
        facts = asyncio.create_task(learn(self.stack.session, self.settings.load, self.before))
        task = asyncio.create_task(self.items.keep_up(self.stack.session, subscribed, facts))
        self.task = task
        try:
            yield self
        finally:
            self.before = facts.result() if facts.done() and facts.exception() is None else None
            await end(facts)
            if task.done():
                self.items.interrupted()
                task.result()
            await end(task)
            self.items.interrupted()

    async def monitors(self, count: int) -> None:
        await until(lambda: self.items.monitored == count or self.task.done(), lambda: (self.status(), self.task))
        assert self.items.monitored == count, self.status()

    def status(self) -> Any:
        return self.items.status(), self.reports.found, self.stack.asked

    def want(self, settings: Connection, elsewhere: tuple[str, ...] = ()) -> None:
        self.settings = settings
        tags = by_group(settings, settings.tags).get(self.group, {})
        self.items.want(settings, plan(settings, self.group), tags, elsewhere)

    def brings(self, tag: str, *values: float, at: int = 1) -> None:
        """The server sends values of a tag."""
        handle = self.items.handle(tag)
        assert handle is not None
        count = len(values)
        block = Block(
            11,
            np.arange(count),
            np.full(count, handle),
            np.array(values),
            np.zeros(count, np.uint32),
            np.arange(at, at + count) * 10**9,
        )
        self.intake.hand_on(Publication(blocks=(block,)), {})


def variables(*names: str, **what: Any) -> dict[str, Node]:
    return {name: Node(**what) for name in names}


# --- what is asked for ---


async def test_the_groups_settings_are_what_the_server_is_asked_for() -> None:
    group = {
        "publishingInterval": "1s",
        "samplingInterval": "200ms",
        "queueSize": 33,
        "discard": "newest",
        "trigger": "timestamp",
        "deadband": {"absolute": 0.5},
    }
    tags = {
        "A": {"node": node("A"), "group": "fast"},
        "B": {"node": node("B"), "group": "fast", "samplingInterval": "2s", "indexRange": "3"},
        "C": {"node": node("C")},
    }
    line = Group(Stack(variables("A", "B", "C")), configured(tags, groups={"fast": group}), "fast")
    async with line.session():
        await line.monitors(2)
    a, b = line.stack.of("A").parameters, line.stack.of("B").parameters
    assert (a.SamplingInterval, a.QueueSize, a.DiscardOldest) == (200, 33, False)
    filter_ = line.stack.filter_of("A")
    assert (int(filter_.Trigger), filter_.DeadbandType, filter_.DeadbandValue) == (2, 1, 0.5)
    assert b.SamplingInterval == 2000
    assert (line.stack.of("A").range, line.stack.of("B").range) == ("", "3")
    assert load_items(line.sink.positions["items/fast"]) is not None


async def test_the_smallest_configuration_asks_for_no_filter() -> None:
    line = Group(Stack(variables("A", "B")), configured())
    async with line.session():
        await line.monitors(2)
    assert line.stack.filter_of("A") is None
    assert line.stack.of("A").parameters.QueueSize == 150, "what 75 s bring at 0.5 s"


@pytest.mark.parametrize("data_type", [STRING])
async def test_a_deadband_means_nothing_for_what_is_no_number(data_type: int) -> None:
    stack = Stack({"A": Node("on", data_type), "B": Node(2.0)})
    line = Group(stack, configured(deadband={"absolute": 1}))
    async with line.session():
        await line.monitors(2)
    assert stack.filter_of("A") is None
    assert stack.filter_of("B").DeadbandValue == 1
    assert line.items.status()["deadband"] == {"server": 1, "client": 0}


# --- filters that a server does not take ---

REFUSALS = [
    STATUS.BadFilterNotAllowed,
    STATUS.BadDeadbandFilterInvalid,
    STATUS.BadMonitoredItemFilterUnsupported,
    STATUS.BadMonitoredItemFilterInvalid,
    STATUS.BadFilterElementInvalid,
]


@pytest.mark.parametrize("status", REFUSALS)
async def test_a_deadband_that_the_server_refuses_is_kept_here(status: int) -> None:
    stack = Stack(variables("A", "B"), filter_status=lambda f: status if f is not None and f.DeadbandType else 0)
    line = Group(stack, configured(deadband={"absolute": 1}, trigger="timestamp"))
    async with line.session():
        await line.monitors(2)
        assert int(stack.filter_of("A").Trigger) == 2, "the rest of the filter stays"
        line.brings("A", 5.0, 5.5, 5.9, 7.0)
        assert line.sink.of("A") == [5.0, 7.0]
        assert line.items.status()["deadband"] == {"server": 0, "client": 2}
    assert line.reports.found == {}


async def test_what_a_server_leaves_out_itself_is_no_problem_without_a_range() -> None:
    line = Group(Stack(variables("A", "B")), configured(deadband={"percent": 1}))
    async with line.session():
        await line.monitors(2)
    assert line.reports.found == {}
    assert line.items.status()["deadband"] == {"server": 2, "client": 0}


async def test_a_server_without_filters_is_not_asked_for_one_again_and_again() -> None:
    names = [f"T{number}" for number in range(nodes.CHUNK + 500)]
    stack = Stack(
        variables(*names),
        filter_status=lambda f: STATUS.BadMonitoredItemFilterUnsupported if f is not None else 0,
    )
    line = Group(stack, configured({n: {"node": node(n)} for n in names}, deadband={"absolute": 1}, trigger="status"))
    async with line.session():
        await line.monitors(len(names))
    assert stack.named["CreateMonitoredItems"] == 3 * nodes.CHUNK + 500, "the second chunk is asked for no filter"


async def test_percent_of_the_nodes_range_is_kept_here_where_the_server_does_not() -> None:
    stack = Stack(
        {"A": Node(high=200.0), "B": Node(), "C": Node(high=50.0)},
        filter_status=lambda f: STATUS.BadFilterNotAllowed if f is not None else 0,
    )
    tags = {name: {"node": node(name)} for name in "ABC"}
    line = Group(stack, configured(tags, deadband={"percent": 10}))
    async with line.session():
        await line.monitors(3)
        await until(lambda: line.reports.found, line.status)
        line.brings("A", 0.0, 15.0, 25.0)
        line.brings("B", 0.0, 0.1, 0.2)
        line.brings("C", 0.0, 4.0, 6.0)
    assert line.sink.of("A") == [0.0, 25.0]
    assert line.sink.of("B") == [0.0, 0.1, 0.2], "without a range all is sent"
    assert line.sink.of("C") == [0.0, 6.0]
    problem, remedy, value = line.reports.found["connections.line1.tags.B.deadband"]
    assert "no range" in problem
    assert "low and high beside connections.line1.deadband.percent" in remedy
    assert value == "10 %"


async def test_percent_of_a_configured_range() -> None:
    stack = Stack(variables("A", "B"), filter_status=lambda f: STATUS.BadFilterNotAllowed if f is not None else 0)
    line = Group(stack, configured(deadband={"percent": 10, "low": 0, "high": 100}))
    async with line.session():
        await line.monitors(2)
        line.brings("A", 0.0, 9.0, 11.0)
    assert line.sink.of("A") == [0.0, 11.0]
    assert line.reports.found == {}


# --- changes ---


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"samplingInterval": "3s"}, lambda p, f: p.SamplingInterval == 3000),
        ({"queueSize": 77}, lambda p, f: p.QueueSize == 77),
        ({"outage": "10m"}, lambda p, f: p.QueueSize == 1230),
        ({"discard": "newest"}, lambda p, f: p.DiscardOldest is False),
        ({"trigger": "status"}, lambda p, f: f is not None and int(f.Trigger) == 0),
        ({"deadband": {"absolute": 2}}, lambda p, f: f is not None and f.DeadbandValue == 2),
        ({"deadband": {"percent": 5}}, lambda p, f: f is not None and (f.DeadbandType, f.DeadbandValue) == (2, 5)),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_what_changes_is_told_and_the_items_live_on(change: dict[str, Any], seen: Any) -> None:
    line = Group(Stack(variables("A", "B")), configured())
    async with line.session():
        await line.monitors(2)
        items = dict(line.stack.items)
        line.want(configured(**change))
        await until(lambda: seen(line.stack.of("A").parameters, line.stack.filter_of("A")), line.status)
        assert line.stack.items == items
        line.want(configured())
        await until(lambda: line.stack.filter_of("A") is None, line.status)
    assert line.stack.named["CreateMonitoredItems"] == 2
    assert line.stack.named["DeleteMonitoredItems"] == 0


async def test_a_deadband_that_goes_lets_all_through_again() -> None:
    stack = Stack(variables("A", "B"), filter_status=lambda f: STATUS.BadFilterNotAllowed if f is not None else 0)
    line = Group(stack, configured(deadband={"absolute": 10}))
    async with line.session():
        await line.monitors(2)
        line.brings("A", 1.0, 2.0)
        line.want(configured())
        await until(lambda: "deadband" not in line.items.status(), line.status)
        await until(lambda: not any(kind["deadband"] for kind in line.items.describe()["kinds"]), line.items.describe)
        line.brings("A", 3.0, at=3)
    assert line.sink.of("A") == [1.0, 3.0]


async def test_items_that_a_server_cannot_change_are_made_anew_and_only_they() -> None:
    line = Group(Stack(variables("A", "B"), modifies=False), configured())
    async with line.session():
        await line.monitors(2)
        other = line.stack.of("B").id
        old = line.items.handle("A")
        line.want(configured({"A": {"node": node("A"), "samplingInterval": "2s"}, "B": {"node": node("B")}}))
        await until(lambda: [i.parameters.SamplingInterval for i in line.stack.items.values()] == [500, 2000],
                    lambda: line.stack.items)  # fmt: skip
        assert line.stack.of("B").id == other
        assert line.items.handle("A") != old, "what the old item still sends is known apart"
        line.brings("A", 1.0)
    assert line.sink.of("A") == [1.0]


async def test_a_tag_that_goes_over_to_another_group_goes_on_where_it_was() -> None:
    stack = Stack(variables("A", "B"))
    slow = {"groups": {"slow": {"samplingInterval": "9s"}}}
    before = configured(**slow)
    after = configured({"A": {"node": node("A"), "group": "slow"}, "B": {"node": node("B")}}, **slow)
    own = Group(stack, before)
    other = Group(stack, before, "slow", own.sink, own.reports, own.names, own.intake)
    async with own.session(), other.session(Subscribed(8, 1.0, 10, 100)):
        await own.monitors(2)
        own.brings("A", 1.0, 2.0)
        old = own.items.handle("A")
        own.want(after, ("A",))
        assert old not in own.names, "its handle is given up at once"
        other.want(after)
        await other.monitors(1)
        await own.monitors(1)
        await until(lambda: len(stack.items) == 2, lambda: stack.items)
        other.brings("A", 2.0, 3.0, at=2)
    assert own.sink.of("A") == [1.0, 2.0, 3.0], "what is known is not sent twice"
    assert stack.of("A").parameters.SamplingInterval == 9000


async def test_very_many_tags_that_go_over_to_another_group_are_noted_once() -> None:
    names = [f"T{number}" for number in range(200)]
    slow = {"groups": {"slow": {"samplingInterval": "9s"}}}
    before = configured({name: {"node": node(name)} for name in names}, **slow)
    after = configured({name: {"node": node(name), "group": "slow"} for name in names}, **slow)
    own = Group(Stack(variables(*names)), before)
    async with own.session():
        await own.monitors(200)
        for name in names:
            own.brings(name, 1.0)
        gaps = own.intake.traffic.gaps
        own.want(after, tuple(names))
        assert own.intake.traffic.gaps == gaps + 1, "one note of all, and not one of all for each"
        assert own.intake.gaps.status()["tags"] == 200


async def test_items_come_back_with_a_resumed_session_and_only_differences_are_made_good() -> None:
    stack = Stack(variables("A", "B"))
    first = Group(stack, configured(deadband={"absolute": 1}, queueSize=5))
    async with first.session():
        await first.monitors(2)
    kept = load_items(first.sink.positions["items"])
    second = Group(stack, configured(deadband={"absolute": 1}, queueSize=6))
    await second.items.restore(kept)
    assert second.items.are_of(SUBSCRIBED.id)
    async with second.session():
        await until(lambda: stack.of("B").parameters.QueueSize == 6, second.status)
        assert second.items.monitored == 2
    assert stack.named["CreateMonitoredItems"] == 2
    assert second.items.describe()["kinds"][0]["queue"] == 6
    third = Group(stack, configured(deadband={"absolute": 1}, queueSize=6))
    await third.items.restore(load_items(second.sink.positions["items"]))
    async with third.session():
        await until(lambda: stack.asked["Read"] > 4, third.status)
        await asyncio.sleep(0.05)
    assert stack.named["ModifyMonitoredItems"] == 2, "nothing differs: nothing is told"


async def test_very_many_items_come_back_while_others_have_their_turn() -> None:
    names = [f"T{number}" for number in range(12_000)]
    tags = {name: {"node": node(name)} for name in names}
    settings = configured(tags)
    of = {name: address_of(tag) for name, tag in settings.tags.items()}
    rows = [KeptItem(name, of[name], number, number + 1, 10, 1, "", b"x") for number, name in enumerate(names)]
    group = Group(Stack({}), settings)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    await group.items.restore(KeptItems(7, 13_000, rows))
    await end(task)
    assert turns >= 2
    assert (len(group.names), group.intake.assembler.handles) == (12_000, 13_000), "handles that were reserved stay so"


# --- one bad node ---


@run_with(deadline=None, max_examples=25)
@given(
    bad=st.dictionaries(
        st.integers(0, 59),
        st.sampled_from(["unknown", "refused", "decoding", "encoding", "internal"]),
        max_size=6,
    ),
    limit=st.sampled_from([0, 0, 7, 1]),
)
def test_whatever_nodes_are_bad_all_others_are_monitored(bad: dict[int, str], limit: int) -> None:
    poisons = {
        "decoding": UaStatusCodeError(STATUS.BadDecodingError),
        "encoding": UaStatusCodeError(STATUS.BadEncodingLimitsExceeded),
        "internal": UaStatusCodeError(STATUS.BadInternalError),
    }

    async def scenario() -> None:
        found = {
            f"T{number}": Node(
                refused=STATUS.BadUserAccessDenied if bad.get(number) == "refused" else 0,
                poisons=poisons.get(bad.get(number, "")),
            )
            for number in range(60)
            if bad.get(number) != "unknown"
        }
        stack = Stack(found, {"MaxNodesPerRead": limit, "MaxMonitoredItemsPerCall": limit})
        tags = {f"T{number}": {"node": node(f"T{number}")} for number in range(60)}
        line = Group(stack, configured(tags))
        async with line.session():
            await line.monitors(60 - len(bad))
            await until(lambda: len(line.reports.found) == len(bad), line.status)
        assert {place.split(".")[3] for place in line.reports.found} == {f"T{number}" for number in bad}

    asyncio.run(scenario())


async def test_a_bad_node_is_tried_again_by_itself_and_at_each_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_NODE_PAUSES", (0.02, 0.05))
    monkeypatch.setattr(nodes, "_BUNCH", 0.01)
    line = Group(Stack(variables("A")), configured())
    async with line.session():
        await line.monitors(1)
        await until(lambda: "connections.line1.tags.B.node" in line.reports.found, line.status)
        before = line.stack.of("A").id
        line.stack.nodes["B"] = Node()
        await line.monitors(2)
        assert line.reports.found == {}
        assert line.stack.of("A").id == before


async def test_a_request_that_broke_the_line_is_smaller_in_the_next_session() -> None:
    names = [f"T{number}" for number in range(400)]
    sizes: list[int] = []

    def refuses(service: str, parameters: Any) -> None:
        if service == "CreateMonitoredItems":
            sizes.append(len(parameters.ItemsToCreate))
            if sizes[-1] > 100:
                raise ConnectionError("Connection is closed")

    line = Group(
        Stack(variables(*names), refuses=refuses),
        configured({name: {"node": node(name)} for name in names}, load={"parallel": 1}),
    )
    for _ in range(8):
        try:
            async with line.session():
                await line.monitors(400)
            break
        except ConnectionError:
            continue
    assert line.items.monitored == 400
    assert max(sizes[2:], default=0) <= 250
    assert sizes[-1] <= 100


# --- what an outage costs ---


async def test_queues_that_do_not_cover_the_outage_are_told() -> None:
    stack = Stack(variables("A", "B"), most_queue=10)
    line = Group(stack, configured())
    async with line.session():
        await until(lambda: line.reports.found, line.status)
        problem, remedy, value = line.reports.found["connections.line1.outage"]
        assert "keeps 10 values per tag (asked for: 150), which is 5 s at a sampling interval of 0.5 s" in problem
        assert "samplingInterval" in remedy
        assert value == "60 s"
        assert line.items.status()["queue_covers_s"] == 5.0
        line.want(configured(outage="4s"))
        await until(lambda: not line.reports.found, line.status)


async def test_a_server_that_looks_more_often_than_it_was_asked_to_is_asked_for_longer_queues() -> None:
    stack = Stack(variables("A", "B"), fastest=10.0)
    line = Group(stack, configured(samplingInterval="0s"))
    async with line.session():
        await until(lambda: line.items.status().get("queue_covers_s", 0.0) >= 60.0, line.status)
        assert {item.parameters.QueueSize for item in stack.items.values()} == {7500}
    assert line.reports.found == {}
    assert stack.asked["ModifyMonitoredItems"] == 1
    again = Group(stack, configured(samplingInterval="0s"))
    await again.items.restore(load_items(line.sink.positions["items"]))
    async with again.session():
        reads = stack.asked["Read"]
        await until(lambda: stack.asked["Read"] > reads, again.status)
        await asyncio.sleep(0.05)
    assert stack.asked["ModifyMonitoredItems"] == 1, "a restart asks for no shorter queues"


async def test_a_queue_that_was_asked_for_is_no_problem() -> None:
    line = Group(Stack(variables("A", "B")), configured(queueSize=2))
    async with line.session():
        await line.monitors(2)
    assert line.reports.found == {}
    assert line.items.status()["queue_covers_s"] == 1.0


async def test_queues_of_one_value_are_known() -> None:
    line = Group(Stack(variables("A", "B"), most_queue=1), configured())
    async with line.session():
        await line.monitors(2)
        assert sorted(line.items.shallow()) == sorted(line.items.handles())


# --- units, ranges, and what changes of them ---


async def test_units_and_ranges_of_few_tags_are_there_with_the_first_value() -> None:
    line = Group(Stack({"A": Node(unit="bar", high=10.0), "B": Node()}), configured())
    async with line.session():
        await line.monitors(2)
        line.brings("A", 1.0)
    assert line.sink.samples[0].unit == "bar"
    (event,) = [event for event in line.sink.events if event["kind"] == "metadata"]
    assert event["tags"]["A"] | {"unit": "bar", "low": 0.0, "high": 10.0} == event["tags"]["A"]


async def test_what_the_server_says_has_changed_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_LOOK", 0.01)
    line = Group(Stack({"A": Node(unit="bar"), "B": Node()}), configured())
    async with line.session():
        await line.monitors(2)
        line.stack.nodes["A"].unit = "Pa"
        handle = line.items.handle("A")
        assert handle is not None
        block = Block(11, np.array([0]), np.array([handle]), np.array([1.0]), np.array([0x4000], np.uint32),
                      np.array([10**9]))  # fmt: skip
        line.intake.hand_on(Publication(blocks=(block,)), {})
        await until(lambda: line.sink.events[-1].get("tags", {}).get("A", {}).get("unit") == "Pa", line.status)
        line.brings("A", 2.0, at=5)
    assert line.sink.samples[-1].unit == "Pa"


async def test_one_tag_is_explained() -> None:
    line = Group(Stack(variables("A", high=100.0), most_queue=20), configured(deadband={"percent": 2}))
    async with line.session():
        await line.monitors(1)
        await until(lambda: line.reports.found, line.status)
        known = line.items.of_tag("A")
        bad = line.items.of_tag("B")
    assert known is not None
    assert known["node"] == "ns=1;s=A"
    assert (known["queue"], known["requested_queue"], known["deadband"]) == (20, 150, "2 %")
    assert bad is not None
    assert "does not exist" in bad["problem"]
    assert line.items.of_tag("nobody") is None
