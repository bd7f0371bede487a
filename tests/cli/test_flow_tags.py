"""Tags that flows name are compared with those of the collectors in the same document."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.document import load
from cli.site_check import check_document

TAGS = {name: {"node": f"ns=2;s={name}"} for name in ("Reactor/Temp", "Reactor/Level", "Feed/A", "Running")}
LINE1: dict[str, Any] = {"endpoint": "opc.tcp://127.0.0.1:1", "asset": "site/line1", "tags": TAGS}


def document(flow: dict[str, Any], line1: dict[str, Any] = LINE1, **more: Any) -> dict[str, Any]:
    flow = {"inputs": {"line1": {"stream": "opcua-collector/line1"}}, **flow}
    return {
        "components": {
            "io.sluice.OpcUaCollector": {"configurationUpdate": {"merge": {"connections": {"line1": line1}}}},
            "io.sluice.Preprocessor": {"configurationUpdate": {"merge": {"flows": {"f": flow}, **more}}},
        }
    }


def warned(tmp_path: Path, written: dict[str, Any]) -> list[str]:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    found = check_document(load(path)).findings
    assert not found.count("error"), list(map(str, found))
    return [
        str(one.problem)
        for one in found
        if one.level == "warning" and not one.problem.problem.startswith(("is exported", "are exported"))
    ]


def step(**settings: Any) -> dict[str, Any]:
    return {"steps": {"s": settings}}


@pytest.mark.parametrize(
    ("flow", "told"),
    [
        (
            {"inputs": {"line1": {"stream": "opcua-collector/line1", "tags": ["Reactr/**", "Feed/A"]}}},
            'flows.f.inputs.line1.tags[0] = "Reactr/**" means no tag of this input: see how the tags are called at the '
            "connection",
        ),
        (
            {"inputs": {"line1": {"stream": "opcua-collector/*", "tags": ["Feed/a", "**"]}}},
            'flows.f.inputs.line1.tags[0] = "Feed/a" means no tag of this input: did you mean Feed/A?',
        ),
        (
            step(type="report", tags=["site/line1/Feed/A", "Reactor/Tmp"]),
            'flows.f.steps.s.tags[1] = "Reactor/Tmp" is no tag that comes into this flow: did you mean Reactor/Temp?',
        ),
        (
            step(type="alarm", when="{Reactor/Temp} > 5 and {Runing}"),
            'flows.f.steps.s.when = "Runing" is no tag that comes into this flow: did you mean Running?',
        ),
        (
            step(type="derive", outputs={"x": {"expression": "{Feed/B} + {Feed/A}"}}),
            'flows.f.steps.s.outputs.x.expression = "Feed/B" is no tag that comes into this flow: did you mean Feed/A?',
        ),
        (
            step(type="aggregate", **{"while": "{Mixer/On}"}),
            'flows.f.steps.s.while = "Mixer/On" is no tag that comes into this flow: see how the tags are called at '
            "the connection",
        ),
        (
            step(type="context", start="{Running}", stop="not {Runnin}"),
            'flows.f.steps.s.stop = "Runnin" is no tag that comes into this flow: did you mean Running?',
        ),
        (
            {"mode": "whileTrue", "when": "{Reactor/level} > 0"},
            'flows.f.when = "Reactor/level" is no tag that comes into this flow: did you mean Reactor/Level?',
        ),
        (
            {
                "inputs": {"line1": {"stream": "opcua-collector/line1", "tags": ["Reactor/*"]}},
                **step(type="stuck", **{"for": "1m", "when": "{Running}"}),
            },
            'flows.f.steps.s.when = "Running" is a tag that the flow does not take in: add it to the tags of an input; '
            "steps see nothing else",
        ),
    ],
)
def test_a_tag_that_no_collector_of_the_document_has(tmp_path: Path, flow: dict[str, Any], told: str) -> None:
    assert warned(tmp_path, document(flow)) == [told]


def test_tags_that_steps_make_are_known(tmp_path: Path) -> None:
    steps = {
        "rename": {"type": "rename", "rules": [{"match": "Reactor/{what}", "tag": "R1.{what}"}]},
        "derive": {"type": "derive", "outputs": {"x": {"expression": "{R1.Temp} * {Feed/A}", "tag": "Sum"}}},
        "minutes": {"type": "aggregate", "window": "1m"},
        "report": {"type": "report", "tags": ["R1.Level.average", "Sum.maximum", "Feed/A"]},
    }
    assert warned(tmp_path, document({"steps": steps})) == []


def test_instances_of_models_name_tags_as_well(tmp_path: Path) -> None:
    tags = {"flow": "Feed/B", "temp": "Reactor/Temp"}
    pump = {
        "members": {"flow": {}, "temp": {}},
        "derived": {"power": {"expression": "flow * temp"}},
        "instances": {"P1": {"asset": "site/P1", "tags": tags}},
    }
    steps = {"m": {"type": "model", "model": "pump"}, "r": {"type": "report", "tags": ["power", "site/P1/flow"]}}
    assert warned(tmp_path, document({"steps": steps}, models={"pump": pump})) == [
        'models.pump.instances.P1.tags.flow = "Feed/B" is no tag that comes into this flow: did you mean Feed/A?'
    ]


def test_nothing_is_said_where_only_the_device_knows_the_tags(tmp_path: Path) -> None:
    flow = {"inputs": {"line1": {"stream": "opcua-collector/line1", "tags": ["Nowhere"]}}}
    found_there = {**LINE1, "select": {"all": {"path": "/Plant/**"}}}
    assert warned(tmp_path, document(flow, found_there)) == []
    elsewhere = {**LINE1, "tagsFile": "/only/on/the/device.csv"}
    assert warned(tmp_path, document(flow, elsewhere)) == []
    anybody = {"inputs": {"line1": {"stream": "*/line1", "tags": ["Nowhere"]}}}
    assert warned(tmp_path, document(anybody)) == []


def test_a_model_that_no_flow_uses(tmp_path: Path) -> None:
    pump = {"members": {"flow": {"match": "{instance}/Flow"}}}
    assert warned(tmp_path, document({}, models={"pump": pump})) == [
        "models.pump is used by no flow: give a flow a step {type: model, model: pump}"
    ]


def test_ten_thousand_tags_and_fifty_flows_take_no_time(tmp_path: Path) -> None:
    tags = {f"Area{number // 1000}/Tag{number}": {"node": f"ns=2;s={number}"} for number in range(10_000)}
    given = {
        f"f{number}": {
            "inputs": {"a": {"stream": "opcua-collector/line1", "tags": [f"Area{number % 10}/**", "**/Nothing*"]}},
            **step(type="derive", outputs={"x": {"expression": f"{{Area{number % 10}/Tag{number}}} * 2"}}),
        }
        for number in range(50)
    }
    written = document({}, {**LINE1, "tags": tags})
    written["components"]["io.sluice.Preprocessor"]["configurationUpdate"]["merge"]["flows"] = given
    path = tmp_path / "site.json"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    made = load(path)
    began = time.process_time()
    check_document(made)
    assert time.process_time() - began < 4
