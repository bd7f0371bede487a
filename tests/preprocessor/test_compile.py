"""From configuration to pipelines: every kind of step is found, and only those that are needed are loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from preprocessor.compile import STEPS, circles, step_of
from preprocessor.config import Flow
from preprocessor.engine.step import Step
from preprocessor.step_settings import AnyStep

ROOT = Path(__file__).resolve().parents[2]
KINDS = [get_args(model.model_fields["type"].annotation)[0] for model in get_args(AnyStep)]


def test_every_kind_of_step_has_a_class_and_a_place_of_its_own() -> None:
    assert {*KINDS, "mode", "publish"} == set(STEPS)
    ranks = {}
    for kind in STEPS:
        found = step_of(kind)
        assert isinstance(found, type)
        assert issubclass(found, Step)
        ranks[kind] = found.rank
    assert len(set(ranks.values())) == len(ranks), ranks
    assert ranks["alarm"] < ranks["aggregate"] < ranks["report"] < ranks["compress"] < ranks["mode"] < ranks["publish"]
    assert not any(600 < rank < 700 for rank in ranks.values()), "the place of detectors"


def test_a_component_without_flows_loads_no_step() -> None:
    program = (
        "import sys, preprocessor.preprocessor; print(*[m for m in sys.modules if m in ('preprocessor.steps.derive',"
        " 'preprocessor.steps.aggregate', 'preprocessor.steps.report')])"
    )
    folders = ":".join(str(ROOT / folder) for folder in ("shared", "components"))
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": folders}, capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == []


def flow(*streams: str) -> Flow:
    return Flow.model_validate({"inputs": {f"i{n}": {"stream": stream} for n, stream in enumerate(streams)}})


@pytest.mark.parametrize(
    ("flows", "refused"),
    [
        ({"a": flow("*/*"), "b": flow("preprocessor/a")}, {}),
        ({"a": flow("preprocessor/a")}, {"a": "a takes from a"}),
        (
            {"a": flow("x/y", "preprocessor/b"), "b": flow("preprocessor/c"), "c": flow("preprocessor/a")},
            {
                "a": "a takes from b takes from c takes from a",
                "b": "b takes from c takes from a takes from b",
                "c": "c takes from a takes from b takes from c",
            },
        ),
    ],
)
def test_flows_that_go_in_circles_are_told_with_their_way(flows: dict[str, Flow], refused: dict[str, str]) -> None:
    found = circles(flows)
    assert found.keys() == refused.keys()
    for name, way in refused.items():
        assert way in found[name].problem


def test_a_flow_that_is_not_there_is_told_with_the_nearest() -> None:
    found = circles({"reactor": flow("x/y"), "b": flow("preprocessor/reacter")})
    assert found["b"].path == "flows.b.inputs.i0.stream"
    assert "did you mean reactor?" in found["b"].remedy
