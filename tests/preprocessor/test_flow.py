"""A flow between a producer and a consumer on a bus, with an outbox on the disk: turns, ends, changes, failures."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from preprocessor import flow as flow_module
from preprocessor import work as work_module
from preprocessor.engine.pipeline import Pipeline
from preprocessor.flow import Flow
from preprocessor.problems import FlowProblems
from sluice.component import Problems
from sluice.config import OutboxSettings, Problem
from sluice.retry import Backoff
from sluice.streams import Inlet, Outlet, Outlets

from ..sluice.test_streams import Kept, MemoryBus, eventually
from . import made

SOURCE, OURS = "plant/a", "preprocessor/mixed"
DEFINITION = made.definition(SOURCE, packInterval=0.01, checkpointInterval=0.5)


class Gateway:
    """A source, one flow, and somebody who reads what it gives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bus = MemoryBus()
        self.reader = Kept()
        self.build: Callable[[str, Mapping[str, Any]], Pipeline] = made.build
        self.problems = Problems()
        self.sent = 0

    async def open(self) -> None:
        self.source = await self.outlets("plant")
        self.plant = self.source.outlet("a")
        await self.source.start()
        self.sink = Inlet(self.bus, "exporter", ["sluice/data/preprocessor/#"], tell_every=0.05)
        await self.sink.start({"sink": self.reader})

    async def outlets(self, name: str, **settings: Any) -> Outlets:
        return await Outlets.open(
            self.bus,
            name,
            self.folder / name,
            OutboxSettings.model_validate({"commitInterval": "10ms", **settings}),
            max_bytes=7_000,
            compress=True,
            announce_every=0.05,
        )

    async def start(self, definition: Mapping[str, Any] | None = DEFINITION, **settings: Any) -> Flow:
        self.ours = await self.outlets("preprocessor", **settings)
        self.flow = Flow("mixed", self.ours.outlet("mixed"), self.build, FlowProblems(self.problems))
        self.flow.configure(definition)
        self.inlet = Inlet(self.bus, "preprocessor", ["sluice/data/plant/#"], tell_every=0.05)
        await self.ours.start()
        await self.inlet.start({"mixed": self.flow})
        self.flow.moved = self.inlet.moved
        self.flow.start()
        return self.flow

    async def stop(self) -> None:
        await self.inlet.close()
        await self.flow.stop(1.0)
        await self.ours.close()

    async def send(self, *values: float, events: bool = False) -> None:
        for value in values:
            self.sent += 1
            if events:
                await self.plant.submit_events([{"kind": "audit", "value": value}])
            else:
                await self.plant.submit([made.columns([value], first=self.sent)])

    async def got(self, count: int) -> list[float]:
        await eventually(lambda: len(self.reader.values()) >= count, self.state, 15.0)
        return self.reader.values()

    def ledger(self) -> dict[str, int]:
        work = self.flow.work
        assert work is not None
        return dict(work.pipeline.status()["ledger"])

    def state(self) -> object:
        return self.flow.status(), self.inlet.status(), list(self.problems)


def mixed(*values: float) -> list[float]:
    """What a chain makes of these values when no turn is without input, so that it never mixes in a time."""
    found, state = [], 1
    for value in values:
        state = (state * 31 + int(value)) % made.MODULUS
        found.append(float(state))
    return found


class Steady(made.Chain):
    """A chain that does not care how batches make turns: it heeds none without input, and holds values of 99 alone."""

    def process(self, blocks: Any, turn: Any) -> Any:
        return super().process(blocks, turn) if blocks else ()

    def kept(self, block: Any) -> Any:
        return block.value == 99


@pytest.fixture
async def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(made, "Chain", Steady)
    monkeypatch.setattr(flow_module, "Backoff", lambda first, longest: Backoff(first / 20, longest))
    gateway = Gateway(tmp_path)
    await gateway.open()
    yield gateway
    await gateway.flow.stop(0.5)
    await gateway.inlet.close()
    await gateway.ours.close(0.5)
    await gateway.sink.close()
    await gateway.source.close(0.5)


async def test_samples_and_events_flow_through_and_are_acknowledged_behind_a_checkpoint(gateway: Gateway) -> None:
    await gateway.start()
    await gateway.send(1, 2, 13)
    assert await gateway.got(3) == mixed(1, 2, 13)
    await eventually(lambda: gateway.source.ledgers()[SOURCE]["acknowledged"] == 3, gateway.state)
    await eventually(lambda: [event["kind"] for event in gateway.reader.events()] == ["thirteen"], gateway.state)
    assert gateway.flow.status()["state"] == "running"
    assert gateway.ledger() == {"received": 3, "made": 0, "dropped": 0, "sent": 3, "held": 0}


async def test_events_of_the_inputs_go_on(gateway: Gateway) -> None:
    await gateway.start()
    await gateway.send(7, events=True)
    await eventually(lambda: len(gateway.reader.events()) == 1, gateway.state)
    assert gateway.reader.events() == [{"kind": "audit", "value": 7, "from": "plant/a/events"}]


async def test_after_a_stop_it_goes_on_where_it_was(gateway: Gateway) -> None:
    await gateway.start()
    await gateway.send(1, 2)
    await gateway.got(2)
    await gateway.stop()
    await gateway.send(3)
    flow = await gateway.start()
    assert await gateway.got(3) == mixed(1, 2, 3)
    assert flow.work is not None
    assert flow.work.counters["left_out"] == flow.work.counters["differed"] == 0


async def test_after_a_kill_the_input_since_the_checkpoint_comes_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.start({**DEFINITION, "settings": {**DEFINITION["settings"], "checkpointInterval": 100.0}})
    for value in (1, 2, 3, 4):
        await gateway.send(value)
        await gateway.got(value)
    monkeypatch.setattr(work_module.Work, "last", lambda *_: None)  # no checkpoint at its end
    await gateway.stop()
    monkeypatch.undo()
    monkeypatch.setattr(made, "Chain", Steady)
    assert gateway.source.ledgers()[SOURCE]["acknowledged"] == 0
    flow = await gateway.start()
    await gateway.send(5)
    assert await gateway.got(5) == mixed(1, 2, 3, 4, 5)
    assert flow.work is not None
    assert flow.work.counters["differed"] == 0


async def test_another_definition_takes_the_state_over(gateway: Gateway) -> None:
    flow = await gateway.start()
    await gateway.send(1)
    await gateway.got(1)
    changed = made.definition(SOURCE, packInterval=0.02, checkpointInterval=0.5)
    flow.configure(changed)
    await eventually(lambda: flow.work is not None and flow.work.definition == changed, gateway.state)
    await gateway.send(2)
    assert await gateway.got(2) == mixed(1, 2)


async def test_what_a_step_held_goes_out_when_the_step_goes(gateway: Gateway) -> None:
    flow = await gateway.start()
    await gateway.plant.submit([made.columns([1, 2, 99])])
    await gateway.got(2)
    assert gateway.ledger()["held"] == 1
    flow.configure(made.definition(SOURCE, steps=(), packInterval=0.01))
    assert await gateway.got(3) == mixed(1, 2, 99)
    assert gateway.ledger()["held"] == 0


async def test_a_flow_that_is_removed_gives_out_what_it_holds_and_forgets_the_rest(gateway: Gateway) -> None:
    flow = await gateway.start()
    await gateway.plant.submit([made.columns([1, 2, 99])])
    await gateway.got(2)
    gateway.inlet.replace({})
    await flow.remove(2.0)
    assert await gateway.got(3) == mixed(1, 2, 99)
    assert gateway.ours.outlet("mixed").positions() == {}


async def test_a_definition_that_is_refused_leaves_the_flow_as_it_was(gateway: Gateway) -> None:
    flow = await gateway.start()
    await gateway.send(1)
    await gateway.got(1)
    wrong = Problem("flows.mixed.steps.x", None, "is wrong", "mend it")
    flow.configure(None, [wrong])
    await gateway.send(2)
    assert await gateway.got(2) == mixed(1, 2)
    assert [str(problem) for problem in gateway.problems] == [str(wrong)]
    await gateway.stop()
    flow = await gateway.start(None)
    await gateway.send(3)
    assert await gateway.got(3) == mixed(1, 2, 3)


async def test_a_flow_that_was_never_good_does_not_run(gateway: Gateway) -> None:
    flow = await gateway.start(None)
    assert flow.status()["state"] == "refused"
    assert flow.acknowledged(SOURCE, "0123456789ab") is None
    flow.configure(DEFINITION)
    await gateway.send(1)
    assert await gateway.got(1) == mixed(1)


async def test_a_batch_that_cannot_be_processed_costs_itself(gateway: Gateway) -> None:
    flow = await gateway.start()
    await gateway.send(1, 2, 666, 3)
    assert await gateway.got(3) == mixed(1, 2, 3)
    await eventually(lambda: len(gateway.reader.events()) == 1, gateway.state)
    (event,) = gateway.reader.events()
    assert (event["kind"], event["stream"], event["first"], event["last"]) == ("poisoned", SOURCE, 3, 3)
    assert flow.failures == work_module.FAILURES
    await eventually(lambda: gateway.source.ledgers()[SOURCE]["acknowledged"] == 4, gateway.state)
    assert flow.status()["state"] == "running"


async def test_what_the_producer_has_lost_is_told_once(gateway: Gateway) -> None:
    await gateway.start()
    await gateway.send(1)
    await gateway.got(1)
    await eventually(lambda: gateway.source.ledgers()[SOURCE]["acknowledged"] == 1, gateway.state)
    await gateway.stop()
    await gateway.send(2, 3)
    gateway.source._channels[SOURCE].producer.consumers.clear()
    gateway.source._outbox.settle(SOURCE, {}, 2, {})
    await asyncio.sleep(1.5)
    await gateway.start()
    assert (await gateway.got(2))[1] == mixed(1, 3)[1]
    await eventually(lambda: bool(gateway.reader.events()), gateway.state)
    (event,) = gateway.reader.events()
    assert {name: event[name] for name in ("kind", "reason", "stream", "first", "last")} == {
        "kind": "gap",
        "reason": "missed-upstream",
        "stream": SOURCE,
        "first": 2,
        "last": 2,
    }


async def test_a_full_outbox_pauses_the_flow_and_the_source_keeps_the_rest(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = await gateway.start()
    full = True
    monkeypatch.setattr(Outlet, "full", property(lambda _: full))
    await eventually(lambda: flow.status()["state"] == "paused", gateway.state)
    assert not flow.has_room()
    await gateway.send(1)
    await asyncio.sleep(0.3)
    assert gateway.reader.values() == []
    full = False
    assert await gateway.got(1) == mixed(1)
    assert flow.status()["state"] == "running"


async def killed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """It has processed these, each in a turn of its own, since its checkpoint, and is gone."""
    await gateway.start({**DEFINITION, "settings": {**DEFINITION["settings"], "checkpointInterval": 100.0}})
    for count, value in enumerate(values, 1):
        await gateway.send(value)
        await gateway.got(count)
    with monkeypatch.context() as patch:
        patch.setattr(work_module.Work, "last", lambda *_: None)
        await gateway.stop()


async def test_a_full_outbox_does_not_keep_a_state_from_being_rebuilt(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await killed(gateway, monkeypatch, 1, 2)
    monkeypatch.setattr(Outlet, "full", property(lambda _: True))
    flow = await gateway.start()
    await eventually(lambda: flow.work is not None and not flow.work.rebuilding, gateway.state)
    assert flow.work is not None
    assert flow.work.counters["left_out"] == flow.work.counters["differed"] == 0
    await eventually(lambda: flow.status()["state"] == "paused", gateway.state)
    assert not flow.has_room()


async def test_a_full_outbox_does_not_pause_what_would_empty_it(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outlet, "full", property(lambda _: True))
    flow = await gateway.start(made.definition("preprocessor/other"))
    await eventually(lambda: flow.status()["state"] == "running", gateway.state)
    assert flow.has_room()


async def test_a_record_that_fails_three_times_is_left_out(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    class Particular(Steady):
        def process(self, blocks: Any, turn: Any) -> Any:
            if any(2.0 in block.value for block in blocks):
                raise RuntimeError("2 cannot be processed any more")
            return super().process(blocks, turn)

    await killed(gateway, monkeypatch, 1, 2, 3)
    monkeypatch.setattr(made, "Chain", Particular)
    flow = await gateway.start()
    await gateway.send(5)
    assert (await gateway.got(4))[3] == mixed(1, 3, 5)[2]
    assert flow.failures == work_module.FAILURES
    await eventually(lambda: len(gateway.reader.events()) == 1, gateway.state)
    (event,) = gateway.reader.events()
    assert event["kind"] == "state-incomplete"
    assert f"2 to 2 of {SOURCE}" in event["why"]
    await eventually(lambda: gateway.source.ledgers()[SOURCE]["acknowledged"] == 4, gateway.state)


async def test_a_definition_that_cannot_take_the_state_over_is_given_up_after_three_failures(gateway: Gateway) -> None:
    def build(name: str, of: Mapping[str, Any]) -> Pipeline:
        pipeline = made.build(name, of)
        if of["settings"]["maxTags"] == 7:
            pipeline.load = lambda parts: 1 // 0  # type: ignore[method-assign, assignment, return-value]
        return pipeline

    gateway.build = build
    flow = await gateway.start()
    await gateway.send(1)
    await gateway.got(1)
    flow.configure(made.definition(SOURCE, packInterval=0.01, checkpointInterval=0.5, maxTags=7))
    await eventually(lambda: len(gateway.problems) == 1, gateway.state)
    await gateway.send(2)
    assert await gateway.got(2) == mixed(1, 2)
    assert flow.failures == work_module.FAILURES
    (problem,) = gateway.problems
    assert problem.path == "flows.mixed"
    assert "cannot take over the state" in problem.problem
    assert "keeps running as it was" in problem.effect
    flow.configure(made.definition(SOURCE, packInterval=0.01, checkpointInterval=0.5, maxTags=8))
    await gateway.send(3)
    assert await gateway.got(3) == mixed(1, 2, 3)
    assert list(gateway.problems) == []


async def test_a_flow_that_is_removed_while_it_is_rebuilding_says_what_is_lost(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await killed(gateway, monkeypatch, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Flow, "has_room", lambda _: False)  # its input does not come
        flow = await gateway.start()
        await eventually(lambda: flow.status()["state"] == "rebuilding", gateway.state)
        gateway.inlet.replace({})
        await flow.remove(2.0)
    await eventually(lambda: len(gateway.reader.events()) == 1, gateway.state)
    (event,) = gateway.reader.events()
    assert (event["kind"], event["flow"]) == ("state-incomplete", "mixed")
    assert "removed before its state was rebuilt" in event["why"]
    assert gateway.ours.outlet("mixed").positions() == {}


async def test_commits_that_fail_one_after_the_other_do_not_end_a_flow(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, left = Outlet.submit_turn, 2

    def refusing(self: Outlet, *args: Any, **more: Any) -> Any:
        nonlocal left
        if not left:
            return submit(self, *args, **more)
        left -= 1
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        loop.call_later(0.3, done.set_exception, sqlite3.DataError("string or blob too big"))
        return done

    monkeypatch.setattr(Outlet, "submit_turn", refusing)
    flow = await gateway.start()
    await gateway.send(1)
    assert await gateway.got(1) == mixed(1)
    assert left == 0
    assert flow.status()["state"] == "running"
