"""Derived tags: against a slow calculation that keeps every sample, and case by case."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from preprocessor.engine.block import Block
from preprocessor.engine.pipeline import Pipeline
from preprocessor.engine.refusal import Refusal
from preprocessor.engine.step import FlowContext, Step, Turn
from preprocessor.expressions import compile_expression
from preprocessor.step_settings import DeriveSettings, StepSettings
from preprocessor.steps.derive import Derive
from sluice.columns import Quality, Sample, ValueType

from ..flows import at, batch, feed, flow, pipeline, samples, settings, turn

Value = float | bool | str | None


class Ordered(Step[StepSettings]):
    """Checks what every step may rely on: sorted by tag, and late what is not newer than what its tag had before."""

    rank = 990

    def __init__(self, context: FlowContext) -> None:
        super().__init__("ordered", StepSettings(), context)
        self.newest: dict[int, int] = {}

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        for block in blocks:
            assert (block.slot[1:] >= block.slot[:-1]).all()
            late = [False] * len(block) if block.late is None else block.late.tolist()
            for slot, moment, is_late in zip(block.slot.tolist(), block.t.tolist(), late, strict=True):
                assert is_late == (moment <= self.newest.get(slot, -1))
                self.newest[slot] = max(self.newest.get(slot, -1), moment)
        return blocks

    def save(self) -> Mapping[str, Any]:
        return {"newest": {str(slot): moment for slot, moment in self.newest.items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        self.newest = {int(slot): moment for slot, moment in state["newest"].items()}


def deriving(outputs: dict[str, Any], **members: Any) -> tuple[Derive, Pipeline]:
    context = flow()
    written = {name: {"expression": one} if isinstance(one, str) else one for name, one in outputs.items()}
    step = Derive("sums", settings(DeriveSettings, type="derive", outputs=written, **members), context)
    return step, pipeline(context, step, Ordered(context))


def number(tag: str, seconds: float, value: Value, quality: Quality = Quality.GOOD, **members: Any) -> Sample:
    return Sample(tag, at(seconds), value, Quality.BAD if value is None else quality, **members)


def results(outcome: Any, *tags: str) -> list[tuple[str, float, Value, int]]:
    return [
        (one.tag, (one.time - at(0)) / 1e9, one.value, int(one.quality)) for one in samples(outcome) if one.tag in tags
    ]


def test_a_result_comes_with_each_sample_of_its_tags_once_all_were_seen() -> None:
    _, of = deriving({"sum": "{a} + {b}"})
    assert results(feed(of, [number("a", 1, 1.0), number("a", 2, 2.0)]), "sum") == []
    out = feed(of, [number("b", 3, 10.0), number("a", 4, 3.0), number("b", 4, 20.0)])
    assert results(out, "sum") == [("sum", 3, 12.0, 0), ("sum", 4, 23.0, 0)]
    assert results(feed(of, [number("b", 5, 30.0)]), "sum") == [("sum", 5, 33.0, 0)]
    assert of.held == 0
    assert of.steps[0].counters["derived"] == 3


def test_results_carry_unit_place_and_name() -> None:
    outputs = {
        "power": {"expression": "{Site/R1/Volt} * {Current}", "unit": "W"},
        "named": {"expression": "{Current} * 1", "tag": "Current copied", "asset": "Site/R9", "unit": "A"},
    }
    _, of = deriving(outputs)
    out = feed(of, [number("Volt", 1, 230.0, asset="Site/R1"), number("Current", 1, 2.0, asset="Site/R2")])
    made = {one.tag: (one.asset, one.unit, one.value) for one in samples(out)}
    assert made["power"] == ("Site/R1", "W", 460.0)
    assert made["Current copied"] == ("Site/R9", "A", 2.0)


def test_results_use_one_another_by_name_and_by_tag() -> None:
    outputs = {
        "d": "{total} * 2 + b",
        "b": "{A sum} + 1",
        "a": {"expression": "{x} + {y}", "tag": "A sum"},
        "total": "a + b",
    }
    _, of = deriving(outputs)
    out = feed(of, [number("x", 1, 1.0), number("y", 1, 2.0), number("x", 2, 5.0)])
    assert results(out, "A sum", "b", "total", "d") == [
        ("A sum", 1, 3.0, 0),
        ("b", 1, 4.0, 0),
        ("d", 1, 18.0, 0),
        ("total", 1, 7.0, 0),
        ("A sum", 2, 7.0, 0),
        ("b", 2, 8.0, 0),
        ("d", 2, 38.0, 0),
        ("total", 2, 15.0, 0),
    ]


@pytest.mark.parametrize(
    ("outputs", "place", "problem", "remedy"),
    [
        ({"a": "{b} + 1", "b": "{a} + 1"}, "outputs.a.expression", "makes a circle: a -> b -> a", "break the circle"),
        ({"Temp": "({Temp} - 32) * 5 / 9"}, "outputs.Temp.expression", "makes a circle: Temp -> Temp", "another name"),
        ({"a": "powr + 1", "power": "{x}"}, "outputs.a.expression", "unknown name powr at column 1", "power?"),
        ({"a": "{x} +"}, "outputs.a.expression", "ends at column 6", "the rest"),
        ({"a": "1 + 2"}, "outputs.a.expression", "names no tag", "braces"),
        ({"a": {"expression": "{x}", "tag": "b"}, "b": "{y}"}, "outputs.b.tag", "is the tag of a as well", "its own"),
    ],
)
def test_what_cannot_be_calculated_is_refused(outputs: dict[str, Any], place: str, problem: str, remedy: str) -> None:
    with pytest.raises(Refusal) as refused:
        deriving(outputs)
    assert refused.value.place == place
    assert problem in refused.value.problem
    assert remedy in refused.value.remedy


def test_what_is_unknown_is_null_and_bad_and_says_why() -> None:
    _, of = deriving({"r": "{a} / {b}"})
    given_samples = [
        number("a", 1, 1.0),
        number("b", 1, 0.0),
        number("b", 2, None),
        number("b", 3, 2.0, Quality.UNCERTAIN),
        number("b", 4, 2.0, Quality.BAD),
        number("b", 5, 2.0),
    ]
    made = [(one.value, int(one.quality), one.status) for one in samples(feed(of, given_samples)) if one.tag == "r"]
    assert made == [
        (None, 2, "nan"),
        (None, 2, "from-inputs"),
        (0.5, 1, "from-inputs"),
        (0.5, 2, "from-inputs"),
        (0.5, 0, 0),
    ]


def test_types_are_those_of_the_expressions() -> None:
    outputs = {
        "number": "{a} + 1",
        "truth": "{a} > 1",
        "text": "'high' if {a} > 1 else 'low'",
        "same": "{s}",
        "copy": "{a}",
    }
    _, of = deriving(outputs)
    out = feed(of, [number("a", 1, 2.0), number("s", 1, "RUN"), number("s", 2, None), number("a", 3, None)])
    types = {one.tag: columns.type for columns in out.live for one in columns.series}
    assert {tag: types[tag] for tag in outputs} == {
        "number": ValueType.DOUBLE,
        "truth": ValueType.BOOLEAN,
        "text": ValueType.STRING,
        "same": ValueType.STRING,
        "copy": ValueType.DOUBLE,
    }
    made = {(one.tag, (one.time - at(0)) // 10**9): one.value for one in samples(out)}
    assert (made["truth", 1], made["truth", 3]) == (True, None)
    assert (made["text", 1], made["text", 3]) == ("high", None)
    assert (made["same", 1], made["copy", 3]) == ("RUN", None)
    assert of.held == 0


def test_integers_and_booleans_are_numbers() -> None:
    _, of = deriving({"sum": "{i} + {b}"})
    assert results(feed(of, [number("i", 1, 41), number("b", 1, True)]), "sum") == [("sum", 1, 42.0, 0)]


def test_a_value_that_is_too_old_makes_the_result_bad() -> None:
    _, of = deriving({"sum": "{a} + {b}", "any": "{a} > 0 or {b} > 0"}, maxAge="10s")
    out = feed(of, [number("a", 0, 1.0), number("b", 10, 1.0), number("b", 10.5, 2.0), number("a", 11, 5.0)])
    assert results(out, "sum") == [("sum", 10, 2.0, 0), ("sum", 10.5, None, 2), ("sum", 11, 7.0, 0)]
    assert [one.status for one in samples(out) if one.tag == "sum"] == [0, "too-old", 0]
    assert results(out, "any") == [("any", 10, True, 0), ("any", 10.5, True, 0), ("any", 11, True, 0)]


def test_a_late_sample_gives_a_late_result_and_moves_nothing_back() -> None:
    _, of = deriving({"sum": "{a} + {b}"})
    feed(of, [number(tag, seconds, float(seconds)) for seconds in range(1, 9) for tag in "ab"], 9)
    out = feed(of, [number("a", 2.5, 100.0)], 9)
    assert results(out, "sum") == [("sum", 2.5, 102.0, 0)]
    assert results(feed(of, [number("b", 9, 9.0)], 9), "sum") == [("sum", 9, 17.0, 0)]
    # what came late is known from then on
    assert results(feed(of, [number("b", 2.7, 0.0)], 9), "sum") == [("sum", 2.7, 100.0, 0)]


def test_what_comes_from_the_past_goes_out_on_the_backfill_stream() -> None:
    _, of = deriving({"sum": "{a} + {b}"})
    feed(of, [number("a", 1, 1.0), number("b", 1, 1.0), number("a", 100, 2.0)])
    out = feed(of, [number("a", 50, 5.0)], stream="plant/line/backfill")
    assert out.live == []
    made = [(one.tag, one.value) for columns in out.backfill for one in columns.samples()]
    assert sorted(made) == [("a", 5.0), ("sum", 6.0)]


def test_inputs_may_be_dropped() -> None:
    _, of = deriving({"sum": "{a} + {b}"}, inputs="drop")
    out = feed(of, [number("a", 1, 1.0), number("b", 1, 1.0), number("c", 1, 1.0)])
    assert {one.tag for one in samples(out)} == {"sum", "c"}
    assert of.steps[0].counters["used"] == 2
    assert of.held == 0


def test_a_tag_that_passes_under_the_name_of_a_result_is_a_problem() -> None:
    _, of = deriving({"Twice": "{A} * 2"})
    feed(of, [number("A", 1, 1.0, asset="s"), number("Twice", 1, 5.0, asset="other")], 1)
    assert of.flow.problems == {}
    feed(of, [number("Twice", 2, 5.0, asset="s")], 2)
    assert of.flow.problems == {
        "steps.sums.outputs.Twice": (
            "makes s/Twice, and a tag of that name comes from elsewhere as well: both go out as one tag",
            "give what is made another tag or asset, or keep the other out of the flow",
        )
    }
    assert of.held == 0


def test_a_result_may_have_the_name_of_a_tag_that_is_dropped() -> None:
    _, of = deriving({"twice": {"expression": "{s/A} * 2", "tag": "A"}}, inputs="drop")
    feed(of, [number("A", 1, 1.0, asset="s")], 1)
    feed(of, [number("A", 2, 1.0, asset="s")], 2)
    assert of.flow.problems == {}
    _, of = deriving({"twice": {"expression": "{s/A} * 2", "tag": "A"}})
    feed(of, [number("A", 1, 1.0, asset="s")], 1)
    assert list(of.flow.problems) == ["steps.sums.outputs.twice"]


def test_only_selected_tags_are_used() -> None:
    _, of = deriving({"twice": "{Temp} * 2"}, tags=["Site/R2/**"])
    out = feed(of, [number("Temp", 1, 1.0, asset="Site/R1"), number("Temp", 1, 2.0, asset="Site/R2")])
    assert results(out, "twice") == [("twice", 1, 4.0, 0)]
    assert of.flow.problems == {}


def test_a_missing_tag_is_a_problem_with_its_place() -> None:
    _, of = deriving({"x": "{Tmep} * 2", "y": "{Temp} + {Flwo}"})
    feed(of, [number("Temp", 0, 1.0), number("Flow", 0, 1.0)], 0)
    feed(of, [], 60)
    assert of.flow.problems == {
        "steps.sums.outputs.x.expression": ("{Tmep} is a tag that does not come", "did you mean Temp?"),
        "steps.sums.outputs.y.expression": ("{Flwo} is a tag that does not come", "did you mean Flow?"),
    }
    feed(of, [number("Flwo", 61, 1.0)], 61)
    assert list(of.flow.problems) == ["steps.sums.outputs.x.expression"]


def test_a_flow_without_room_for_more_tags_counts_what_it_cannot_make() -> None:
    step, of = deriving({"x": "{a} * 2", "y": "{a} * 3"})
    of.tags.most = 2
    assert results(feed(of, [number("a", 1, 1.0)]), "x", "y") == [("x", 1, 2.0, 0)]
    assert step.counters["too-many-tags"] == 1
    assert of.held == 0


def test_the_batch_of_the_sample_is_that_of_the_result() -> None:
    _, of = deriving({"x": "{a} * 2"})
    out = feed(of, [number("a", 1, 1.0, batch="B-1"), number("a", 2, 1.0, batch="B-2")])
    assert [(one.time, one.batch) for one in samples(out) if one.tag == "x"] == [(at(1), "B-1"), (at(2), "B-2")]


def test_rates_begin_with_the_second_sample() -> None:
    _, of = deriving({"r": "rate({a})", "d": "delta({a}) + {b}", "p": "prev({a})", "old": "age({b})"})
    out = feed(of, [number("b", 0, 0.0), number("a", 1, 1.0), number("a", 3, 5.0)])
    assert results(out, "r", "d", "p") == [("d", 3, 4.0, 0), ("p", 3, 1.0, 0), ("r", 3, 2.0, 0)]
    # a late one has its own past
    assert results(feed(of, [number("a", 2, 4.0)]), "r") == [("r", 2, 3.0, 0)]


def test_explain_tells_inputs_and_uses() -> None:
    step, of = deriving({"x": "{a} * 2", "y": "x + {b}"})
    feed(of, [number("a", 1, 1.0), number("b", 2, 3.0)])
    slots = {one.tag: slot for slot, one in enumerate(of.tags.series)}
    assert step.explain(slots["y"]) == {
        "applies": True,
        "output": "y",
        "expression": "x + {b}",
        "inputs": {
            "x": {"time_ns": at(1), "value": 2.0, "quality": 0},
            "b": {"time_ns": at(2), "value": 3.0, "quality": 0},
        },
    }
    assert step.explain(slots["a"]) == {"applies": True, "usedBy": ["x"], "passes": True}


def test_another_configuration_goes_on_with_what_it_knows() -> None:
    _, of = deriving({"sum": "{a} + {b}"})
    feed(of, [number("a", 1, 1.0), number("b", 1, 2.0)])
    _, other = deriving({"difference": "{a} - {b}", "far": "{c}"})
    assert other.load(of.save()) == []
    assert results(feed(other, [number("a", 2, 5.0)]), "difference") == [("difference", 2, 3.0, 0)]


# --- against a slow calculation over all samples that ever came ---

OUTPUTS = {
    "sum": "{a} + {b}",
    "both": "{a} > 0 and {c} > 0",
    "twice": "sum * 2 + {c}",
    "one": "-{a}",
    "two": "-{c}",
    "three": "{a} * 3",
    "four": "{b} / {c}",
    "five": "5 if good({c}) else {a}",
}


class Slow:
    """Keeps all samples by tag, calculates every result on its own; newer samples for the same time take over."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[int, tuple[Value, int]]] = {}
        self.order = [*(name for name in OUTPUTS if name != "twice"), "twice"]

    def feed(self, came: list[Sample]) -> dict[tuple[str, int], tuple[Value, int]]:
        new: dict[str, set[int]] = {}
        for one in came:
            self.tags.setdefault(one.tag, {})[one.time] = (one.value, int(one.quality))
            new.setdefault(one.tag, set()).add(one.time)
        made: dict[tuple[str, int], tuple[Value, int]] = {}
        for output in self.order:
            expression = compile_expression(OUTPUTS[output], names=OUTPUTS)
            inputs = [*expression.tags, *expression.names]
            for moment in sorted(set().union(*(new.get(name, set()) for name in inputs))):
                known = {name: self.at(name, moment) for name in inputs}
                if any(one is None for one in known.values()):
                    continue
                value, quality = expression.evaluate_one(
                    {name: one[0] for name, one in known.items() if one},
                    {name: one[1] for name, one in known.items() if one},
                )
                made[output, moment] = value, quality
                self.tags.setdefault(output, {})[moment] = value, quality
                new.setdefault(output, set()).add(moment)
        return made

    def at(self, tag: str, moment: int) -> tuple[Value, int] | None:
        before = [one for one in self.tags.get(tag, {}) if one <= moment]
        return self.tags[tag][max(before)] if before else None


ONE = st.tuples(
    st.sampled_from("abc"), st.integers(0, 30), st.none() | st.integers(-2, 3).map(float), st.integers(0, 1)
)
TURNS = st.lists(st.lists(ONE, max_size=6), min_size=1, max_size=8)


@hypothesis_settings(max_examples=300, deadline=None)
@given(TURNS, st.integers(0, 8), st.sampled_from([4, 100]))
def test_results_are_those_of_a_slow_calculation_and_go_on_after_a_restart(
    turns: list[list[tuple[str, int, float | None, int]]], cut: int, few: int
) -> None:
    """few: with 4 of them, most rows are evaluated one by one, with 100 all in columns."""
    with patch("preprocessor.steps.derive._FEW", few):
        _compare(turns, cut)


def _compare(turns: list[list[tuple[str, int, float | None, int]]], cut: int) -> None:
    _, of = deriving(OUTPUTS)
    slow = Slow()
    for place, rows in enumerate(turns):
        if place == cut:
            saved = of.save()
            _, of = deriving(OUTPUTS)
            assert of.load(saved) == []
            assert of.save() == saved
        came = [
            Sample(tag, at(seconds), value, Quality.BAD if value is None else Quality(quality))
            for tag, seconds, value, quality in rows
        ]
        stream = "plant/line/backfill" if place % 3 == 2 else "plant/line"
        outcome = feed(of, came, 31, stream=stream)
        all_of_it = [one for columns in (*outcome.live, *outcome.backfill) for one in columns.samples()]
        passed = [one for one in all_of_it if one.tag in "abc"]
        # an exact repeat is dropped at the entry, all others pass in the order in which they came
        waiting = {tag: [(p.time, p.value, p.quality) for p in passed if p.tag == tag] for tag in "abc"}
        kept = []
        for one in came:
            if waiting[one.tag][:1] == [(one.time, one.value, one.quality)]:
                waiting[one.tag].pop(0)
                kept.append(one)
        assert not any(waiting.values())
        expected = slow.feed(kept)
        found = [one for one in all_of_it if one.tag in OUTPUTS]
        assert {(one.tag, one.time): (one.value, int(one.quality)) for one in found} == expected
        assert len(found) == len(expected)
        assert of.held == 0


@pytest.mark.alone
def test_1000_results_of_2000_tags_cost_less_than_2_percent_of_a_core() -> None:
    """Each second in ten turns; the least of several seconds counts."""
    outputs = {f"power{n}": {"expression": f"{{volt{n}}} * {{current{n}}} / 1000"} for n in range(1_000)}
    context = flow()
    of = pipeline(context, Derive("sums", settings(DeriveSettings, type="derive", outputs=outputs), context))
    costs = []
    for second in range(6):
        cost = 0.0
        for part in range(10):
            given_samples = [
                number(f"{tag}{n}", second + part / 10, float(n + second))
                for n in range(part * 100, part * 100 + 100)
                for tag in ("volt", "current")
            ]
            batches = batch(given_samples)
            begin = time.process_time()
            of.turn(batches, turn(second + part / 10))
            cost += time.process_time() - begin
        costs.append(cost)
    assert min(costs[1:]) < 0.02
