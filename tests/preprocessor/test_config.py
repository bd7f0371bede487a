"""Configuration as a nucleus hands it over, which changes the types of numbers and cannot take keys away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from preprocessor.config import Configuration
from sluice.config import load

STEPS: dict[str, dict[str, Any]] = {
    "quality": {"type": "quality", "numbers": True, "words": {"1": "bad"}, "statuses": {"5": "bad"}},
    "convert": {"type": "convert", "gain": 2, "offset": 1, "digits": 3, "clamp": [0, 10], "delta": False},
    "scale": {"type": "convert", "raw": [0, 100], "scaled": [0, 1]},
    "range": {"type": "range", "low": 1, "high": 5, "softLow": 2, "softHigh": 4, "event": True, "order": 5},
    "stuck": {"type": "stuck", "for": 60, "samples": 5, "within": 1},
    "spike": {"type": "spike", "window": 7, "threshold": 4, "floor": 1},
    "rate": {"type": "rate", "limit": 5},
    "stale": {"type": "stale", "after": 10},
    "context": {"type": "context", "start": "{A}", "stop": "{B}", "onlyInBatch": True, "longest": 3600},
    "derive": {"type": "derive", "outputs": {"x": {"expression": "{A}"}}, "maxAge": 5},
    "alarm": {"type": "alarm", "limits": {"high": 5, "low": 1}, "hysteresis": 1, "priority": 5, "onDelay": 3},
    "counter": {"type": "counter", "rollover": 65536, "maxRate": 4},
    "totalize": {"type": "totalize", "per": "h", "sloped": True, "maxGap": 60},
    "aggregate": {"type": "aggregate", "window": 60, "slide": 30, "offset": 10, "minGood": 80, "lateness": 1},
    "report": {"type": "report", "percentOfRange": 5, "range": [0, 100], "maxInterval": 60, "previous": False},
    "compress": {"type": "compress", "deviation": 1, "maxInterval": 60},
}
MODEL = {"members": {"f": {"match": "{instance}/F", "optional": True}}, "values": {"e": 1}}
WRITTEN: dict[str, Any] = {
    "models": {"pump": {**MODEL, "instances": {"P1": {"values": {"e": 2}, "tags": {"f": "x"}}}}},
    "flows": {
        "f": {
            "inputs": {"a": {"stream": "a/b", "backfill": False}},
            "steps": STEPS,
            "maxFuture": 60,
            "maxTags": 100,
            "maxWaiting": 5000,
            "packInterval": 1,
            "checkpointInterval": 5,
        }
    },
}


def changed(value: Any, how: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: changed(one, how) for name, one in value.items()}
    if isinstance(value, list):
        return [changed(one, how) for one in value]
    return how(value) if isinstance(value, (bool, int, float)) else value


def loaded(raw: dict[str, Any]) -> dict[str, Any]:
    found = load(Configuration, raw)
    assert [str(one) for one in (*found.problems, *found.warnings)] == []
    return found.config.model_dump()


def text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def integral_float(value: Any) -> Any:
    return value if isinstance(value, bool) else float(value)


@pytest.mark.parametrize("how", [text, integral_float, lambda value: text(integral_float(value))])
def test_numbers_may_come_as_text_or_as_floats(how: Callable[[Any], Any]) -> None:
    assert loaded(changed(WRITTEN, how)) == loaded(WRITTEN)


def test_what_a_merge_makes_null_is_absent_and_words_may_be_written_in_any_case() -> None:
    step = {"type": "convert", "units": {"degF": "degC", "psi": None}}
    gate = {"type": "quality", "words": {"Off": "Bad", "On": None}}
    raw = {"flows": {"f": {"inputs": {"a": {"stream": "a/b"}}, "steps": {"s": step, "q": gate}}}}
    steps = loaded(raw)["flows"]["f"]["steps"]
    assert steps["s"]["units"] == {"degF": "degC"}
    assert steps["q"]["words"] == {"Off": "bad"}


def test_what_is_wrong_deep_inside_is_told_once() -> None:
    steps = {"s": {"type": "derive", "outputs": {"x": {}}}}
    found = load(Configuration, {"flows": {"f": {"inputs": {"a": {"stream": "a/b"}}, "steps": steps}}})
    assert [one.path for one in found.problems] == ["flows.f.steps.s.outputs.x.expression"]
