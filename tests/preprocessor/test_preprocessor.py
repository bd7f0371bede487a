"""The component: flows come, change and go with the configuration, each by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from preprocessor import compile as compiler
from preprocessor import preprocessor as preprocessor_module
from preprocessor.config import Configuration
from preprocessor.preprocessor import Preprocessor, topic_filters
from sluice.command import Call, CommandError
from sluice.component import Context, Problems
from sluice.config import OutboxSettings, diff, load
from sluice.secrets import Secrets
from sluice.streams import Inlet, Outlets

from ..sluice.test_streams import Kept, MemoryBus, eventually
from . import made

PACE = {"packInterval": "10ms", "checkpointInterval": "500ms"}


def flow(stream: str = "plant/a", **more: Any) -> dict[str, Any]:
    return {"inputs": {"in": {"stream": stream}}, **PACE, **more}


def gain(by: float) -> dict[str, Any]:
    return {"steps": {"scaled": {"type": "convert", "gain": by}}}


class Device:
    """A source, the component with its work folder, and somebody who reads all that it gives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bus = MemoryBus()
        self.reader = Kept()
        self.problems = Problems()
        self.sent = 0

    async def open(self) -> None:
        self.source = await Outlets.open(
            self.bus,
            "plant",
            self.folder / "plant",
            OutboxSettings.model_validate({"commitInterval": "10ms"}),
            max_bytes=7_000,
            compress=True,
            announce_every=0.05,
        )
        self.plant = self.source.outlet("a")
        await self.source.start()
        self.sink = Inlet(self.bus, "exporter", ["sluice/data/preprocessor/#"], tell_every=0.05)
        await self.sink.start({"sink": self.reader})

    async def start(self, models: dict[str, Any] | None = None, **flows: Any) -> None:
        context = Context(
            ipc=self.bus,  # type: ignore[arg-type]
            component_name="io.sluice.Preprocessor",
            work_dir=self.folder / "work",
            thing_name="thing",
            secrets=Secrets(self.bus, self.folder),  # type: ignore[arg-type]
            max_message_bytes=7_000,
            problems=self.problems,
        )
        (self.folder / "work").mkdir(exist_ok=True)
        self.component = Preprocessor(context)
        self.config = self.loaded(flows, models)
        await self.component.start(self.config)

    def loaded(self, flows: dict[str, Any], models: dict[str, Any] | None = None) -> Configuration:
        found = load(Configuration, {"outbox": {"commitInterval": "10ms"}, "flows": flows, "models": models or {}})
        assert found.problems == []
        return found.config

    async def apply(self, **flows: Any) -> None:
        config = self.loaded(flows)
        await self.component.apply(config, diff(self.config, config))
        self.config = config

    async def send(self, *values: float) -> None:
        for value in values:
            self.sent += 1
            await self.plant.submit([made.columns([value], first=self.sent)])

    def values(self, name: str) -> list[float]:
        return [
            float(str(one.value))
            for batch in self.reader.batches
            if batch.header.stream == f"preprocessor/{name}"
            for one in batch.columns.samples()  # type: ignore[union-attr]
        ]

    async def gives(self, name: str, *values: float) -> None:
        await eventually(lambda: len(self.values(name)) >= len(values), self.state, 15.0)
        assert self.values(name) == list(values)

    def assets(self, name: str) -> set[str]:
        return {
            one.asset
            for batch in self.reader.batches
            if batch.header.stream == f"preprocessor/{name}"
            for one in batch.columns.series  # type: ignore[union-attr]
        }

    def connection(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = self.component.status()["connections"][name]
        return told

    def state(self) -> object:
        return dict(self.component.status()), list(self.problems)

    async def command(self, name: str, **arguments: Any) -> Any:
        (command,) = [one for one in self.component.commands() if one.name == name]
        wanted = command.arguments.model_validate(arguments)
        if command.check is not None:
            command.check(wanted)
        return await command.run(Call("1", wanted, lambda *_: None))


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Device]:
    device = Device(tmp_path)
    await device.open()
    yield device
    await device.component.stop()
    await device.sink.close()
    await device.source.close(0.5)


async def test_each_flow_gives_its_own_stream_and_goes_on_after_a_restart(device: Device) -> None:
    await device.start(double=flow(**gain(2)), plain=flow())
    await device.send(1, 2)
    await device.gives("double", 2.0, 4.0)
    await device.gives("plain", 1.0, 2.0)
    await eventually(lambda: device.source.ledgers()["plant/a"]["acknowledged"] == 2, device.state)
    await device.component.stop()
    await device.send(3)
    await device.start(double=flow(**gain(2)), plain=flow())
    await device.send(4)
    await device.gives("double", 2.0, 4.0, 6.0, 8.0)
    await device.gives("plain", 1.0, 2.0, 3.0, 4.0)
    assert device.connection("double")["ledger"]["received"] == 4
    assert list(device.problems) == []


async def test_a_change_touches_only_what_changed(device: Device) -> None:
    await device.start(changed=flow(**gain(2)), same=flow(), removed=flow())
    await device.send(1)
    for name in ("changed", "same", "removed"):
        await eventually(lambda name=name: len(device.values(name)) == 1, device.state)  # type: ignore[misc]
    same = device.component._flows["same"].work
    assert same is not None
    pipeline = same.pipeline
    await device.apply(changed=flow(**gain(3)), same=flow(), added=flow("*"))
    assert device.component._flows["same"].work is same
    assert same.pipeline is pipeline
    assert set(device.component.status()["connections"]) == {"changed", "same", "added"}
    changed = device.component._flows["changed"].work
    assert changed is not None
    await eventually(lambda: changed.pipeline.steps[0].settings.gain == 3, device.state)
    await device.send(2)
    await device.gives("changed", 2.0, 6.0)
    await device.gives("same", 1.0, 2.0)
    await eventually(lambda: 2.0 in device.values("added"), device.state)
    assert device.values("removed") == [1.0]


async def test_a_flow_that_is_refused_says_where_and_the_others_run(device: Device) -> None:
    wrong = flow(steps={"unit": {"type": "convert", "to": "degX"}})
    await device.start(good=flow(), wrong=wrong)
    await device.send(1)
    await device.gives("good", 1.0)
    assert device.connection("wrong")["state"] == "refused"
    assert [problem.path for problem in device.problems] == ["flows.wrong.steps.unit.to"]
    await device.apply(good=flow(), wrong=flow())
    await eventually(lambda: device.connection("wrong")["state"] == "running", device.state)
    assert list(device.problems) == []


async def test_a_flow_that_fails_while_it_is_built_costs_itself_alone(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = compiler.build

    def failing(name: str, of: Any) -> Any:
        if name == "two":
            raise RecursionError("too deep")
        return build(name, of)

    monkeypatch.setattr(compiler, "build", failing)
    await device.start(one={**flow(), **gain(2)}, two={**flow(), **gain(3)})
    await device.send(1)
    await device.gives("one", 2.0)
    (problem,) = device.problems
    assert problem.path == "flows.two"
    assert "RecursionError: too deep" in problem.problem


async def test_tags_that_have_no_place_are_a_problem(device: Device) -> None:
    await device.start(one={**flow(), **gain(2), "maxTags": 1})
    await device.send(1)
    await device.plant.submit([made.columns([1.0], tag="U")])
    await eventually(lambda: "flows.one.maxTags" in [problem.path for problem in device.problems], list)
    (problem,) = [problem for problem in device.problems if problem.path == "flows.one.maxTags"]
    assert "such as U, are dropped" in problem.problem
    assert "raise it" in problem.remedy


async def test_a_change_that_is_refused_leaves_the_flow_as_it_was_also_over_a_restart(device: Device) -> None:
    wrong = flow(steps={"unit": {"type": "convert", "to": "degX"}})
    await device.start(one=flow(**gain(2)))
    await device.send(1)
    await device.gives("one", 2.0)
    await device.apply(one=wrong)
    await device.send(2)
    await device.gives("one", 2.0, 4.0)
    await device.component.stop()
    await device.start(one=wrong)
    await device.send(3)
    await device.gives("one", 2.0, 4.0, 6.0)
    assert device.connection("one")["state"] == "running"
    assert [problem.path for problem in device.problems] == ["flows.one.steps.unit.to"]


async def test_a_flow_may_take_what_another_gives_but_not_in_a_circle(device: Device) -> None:
    await device.start(first=flow(**gain(2)), second=flow("preprocessor/first", **gain(10)))
    await device.send(1, 2)
    await device.gives("second", 20.0, 40.0)
    await device.apply(first=flow("preprocessor/second"), second=flow("preprocessor/first"))
    assert {problem.path for problem in device.problems} == {
        "flows.first.inputs.in.stream",
        "flows.second.inputs.in.stream",
    }


async def test_a_wildcard_never_means_our_own_flows(device: Device) -> None:
    await device.start(everything=flow("*"))
    await device.send(1, 2)
    await device.gives("everything", 1.0, 2.0)
    assert "preprocessor/everything" not in device.component.status()["inlet"]["streams"]


async def test_a_flow_removed_while_the_component_was_away_is_forgotten(device: Device) -> None:
    await device.start(one=flow(), two=flow())
    await device.send(1)
    await device.gives("two", 1.0)
    await device.component.stop()
    await device.start(one=flow())
    assert device.component._outlets is not None
    assert device.component._outlets.sources() == {"one"}


async def test_a_table_of_a_model_that_changes_is_applied(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessor_module, "LOOK", 0.05)
    table = device.folder / "pumps.csv"
    table.write_text("instance,asset,flow\nP1,site/one,T\n")
    models = {"pump": {"members": {"flow": {}}, "instancesFile": str(table)}}
    await device.start(one=flow(steps={"pumps": {"type": "model", "model": "pump"}}), models=models)
    await device.send(1)
    await eventually(lambda: device.assets("one") == {"site/one"}, device.state)
    table.write_text("instance,asset,flow\nP1,site/another,T\n")
    work = device.component._flows["one"].work
    assert work is not None
    before = work.definition
    await eventually(lambda: work.definition != before, device.state)
    await device.send(2)
    await eventually(lambda: device.assets("one") == {"site/one", "site/another"}, device.state)


async def test_a_wrong_row_of_a_table_costs_its_instance_alone(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessor_module, "LOOK", 0.05)
    table = device.folder / "pumps.csv"
    table.write_text("instance,asset,flow,size\nP1,site/one,T,1\nP2,site/two,U,much\n")
    models = {"pump": {"members": {"flow": {}}, "values": {"size": 1}, "instancesFile": str(table)}}
    await device.start(one=flow(steps={"pumps": {"type": "model", "model": "pump"}}), models=models)
    await device.send(1)
    await eventually(lambda: device.assets("one") == {"site/one"}, device.state)
    assert device.connection("one")["state"] == "running"
    (problem,) = device.problems
    assert (problem.path, problem.effect) == ("models.pump.instancesFile line 3 size", "the row is left out")
    table.write_text("instance,asset,flow,size\nP1,site/one,T,1\nP2,site/two,U,2\n")
    await eventually(lambda: not list(device.problems), device.state)


async def test_a_path_that_cannot_be_one_costs_its_flow_alone_and_a_failure_is_tried_again(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocessor_module, "LOOK", 0.05)
    table = device.folder / "pumps.csv"
    table.write_text("instance,asset,flow\nP1,site/one,T\n")
    models = {
        "pump": {"members": {"flow": {}}, "instancesFile": str(table)},
        "wrong": {"members": {"flow": {}}, "instancesFile": "a\0b"},
    }
    one, two = (flow(steps={"m": {"type": "model", "model": name}}) for name in models)
    await device.start(one=one, two=two, models=models)
    await eventually(lambda: device.component._flows["one"].work is not None, device.state)
    assert [problem.path for problem in device.problems] == ["models.wrong.instancesFile"]
    judge, failures = preprocessor_module._judge, [MemoryError()]
    monkeypatch.setattr(
        preprocessor_module, "_judge", lambda *given: raise_(failures.pop()) if failures else judge(*given)
    )
    work = device.component._flows["one"].work
    assert work is not None
    before = work.definition
    table.write_text("instance,asset,flow\nP1,site/another,T\n")
    await eventually(lambda: not failures and work.definition != before, device.state)


def raise_(error: BaseException) -> Any:
    raise error


async def test_explain_says_what_each_step_does_with_a_tag(device: Device) -> None:
    await device.start(one=flow(**gain(2)))
    await device.send(1)
    await device.gives("one", 2.0)
    told = await device.command("explain", tag="T")
    (first, *_) = told["flows"]["one"]
    assert (first["tag"], first["last"]["value"]) == ("T", 1.0)
    assert "scaled" in first["steps"]
    assert "ask again" in first["note"]
    assert "note" not in (await device.command("explain", tag="T", flow="one"))["flows"]["one"][0]
    with pytest.raises(CommandError, match="'t' has not come yet"):
        await device.command("explain", tag="t")
    with pytest.raises(CommandError, match="is no flow"):
        await device.command("explain", tag="T", flow="two")


async def test_explain_says_why_a_tag_is_not_taken(device: Device) -> None:
    inputs: dict[str, Any] = {"in": {"stream": "plant/a", "tags": ["U"]}}
    await device.start(one={**flow(), **gain(2), "inputs": inputs}, two={**flow(), **gain(2)})
    await device.send(1)
    await device.gives("two", 2.0)
    told = await device.command("explain", tag="T")
    assert told["not_taken"] == {"one": "comes, and no input of the flow selects it"}
    assert list(told["flows"]) == ["two"]
    assert not (await device.command("explain", tag="T", flow="one"))["flows"]


@pytest.mark.parametrize(
    ("patterns", "filters"),
    [
        ({"plant/a"}, ["sluice/data/plant/a/#"]),
        ({"plant/*", "plant/a"}, ["sluice/data/plant/#"]),
        ({"*/a", "plant/b"}, ["sluice/data/+/a/#", "sluice/data/plant/b/#"]),
        ({"*/*", "plant/b"}, ["sluice/data/#"]),
        ({"p/a", "p/b", "q/c", "q/d"}, ["sluice/data/p/#", "sluice/data/q/#"]),
        ({"p/a", "q/a", "r/a", "s/a"}, ["sluice/data/#"]),
        (set(), []),
    ],
)
def test_subscriptions_are_few_and_none_covers_another(patterns: set[str], filters: list[str]) -> None:
    assert topic_filters(patterns) == filters
