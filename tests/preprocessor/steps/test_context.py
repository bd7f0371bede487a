"""Samples carry the batch and phase of their own time; batches are told of, summed up, and survive a restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from preprocessor.engine.pipeline import Outcome, Pipeline
from preprocessor.engine.refusal import Refusal
from preprocessor.engine.step import FlowContext
from preprocessor.step_settings import ContextSettings
from preprocessor.steps.context import LARGEST_EVENT, ContextStep
from sluice.columns import Quality, Sample

from ..flows import at, batch, feed, flow, pipeline, samples, settings, turn

RULES: dict[str, Any] = {
    "type": "context",
    "asset": "site/r1",
    "id": "{Id}",
    "start": "{Running}",
    "stop": "not {Running}",
}


def step(context: FlowContext | None = None, **given_: Any) -> ContextStep:
    return ContextStep("batch", settings(ContextSettings, **{**RULES, **given_}), context or flow())


def made(**given_: Any) -> Pipeline:
    of = step(**given_)
    return pipeline(of.flow, of)


def running(seconds: float, value: bool, asset: str = "site/r1") -> Sample:
    return Sample("Running", at(seconds), value, asset=asset)


def named(seconds: float, value: str | float, asset: str = "site/r1") -> Sample:
    return Sample("Id", at(seconds), value, asset=asset)


def temp(seconds: float, value: float | None = 1.0, asset: str = "site/r1/jacket") -> Sample:
    return Sample("Temp", at(seconds), value, Quality.BAD if value is None else Quality.GOOD, asset=asset)


def batches(outcome: Outcome, tag: str = "Temp") -> list[tuple[float, str]]:
    """When and in which batch the samples of a tag went out."""
    return [((one.time - at(0)) / 1e9, one.batch) for one in samples(outcome) if one.tag == tag]


def told(outcomes: Sequence[Outcome], *members: str) -> list[tuple[Any, ...]]:
    events = [event for outcome in outcomes for event in outcome.events if event["kind"] == "batch"]
    return [tuple(event.get(member) for member in ("state", *members)) for event in events]


def test_samples_of_the_asset_and_below_carry_the_batch_of_their_time() -> None:
    of = made()
    other = Sample("Temp", at(6), 1.0, asset="site/r2")
    feed(of, [running(0, False)])
    out = feed(of, [named(4, "B1"), running(5, True), *map(temp, (4, 5, 6)), other, running(8, False), temp(8)], 10)
    assert batches(out) == [(4.0, ""), (5.0, "B1"), (6.0, "B1"), (6.0, ""), (8.0, "")]
    assert batches(out, "Running") == [(5.0, "B1"), (8.0, "")]
    assert told([out], "batch", "start_ns", "end_ns", "duration_s") == [
        ("started", "B1", at(5), None, None),
        ("completed", "B1", at(5), at(8), 3.0),
    ]
    assert of.held == 0


def test_late_samples_and_those_of_the_past_get_the_batch_of_then() -> None:
    of = made()
    feed(of, [running(0, False), named(4, "B1"), running(5, True), running(8, False), temp(9)], 10)
    feed(of, [named(14, "B2"), running(15, True), temp(16)], 16)
    assert batches(feed(of, [temp(6), temp(17)], 17)) == [(6.0, "B1"), (17.0, "B2")]
    again = of.turn(batch([temp(7), temp(3)], stream="plant/line/backfill"), turn(18))
    assert [(one.time, one.batch) for columns in again.backfill for one in columns.samples()] == [
        (at(7), "B1"),
        (at(3), ""),
    ]
    assert of.held == 0


def test_what_went_out_otherwise_is_told() -> None:
    of = made()
    feed(of, [running(0, False), named(1, "B1"), temp(6)], 6)
    out = feed(of, [running(5, True)], 7)
    (event,) = [one for one in out.events if one["kind"] == "context"]
    assert {key: event[key] for key in ("state", "asset", "before", "batch", "start_ns", "end_ns")} == {
        "state": "corrected",
        "asset": "site/r1",
        "before": "",
        "batch": "B1",
        "start_ns": at(5),
        "end_ns": at(6) + 1,
    }


def test_outside_of_batches_nothing_passes_where_that_is_wanted() -> None:
    of = made(onlyInBatch=True)
    out = feed(of, [running(0, False), named(4, "B1"), running(5, True), *map(temp, (4, 5, 6)), running(6, False)], 9)
    assert batches(out) == [(5.0, "B1")]
    other = Sample("Temp", at(6), 1.0, asset="site/r2")
    assert batches(feed(of, [other, temp(10)], 10)) == [(6.0, "")]
    assert of.status()["steps"]["batch"]["outside-batch"] == 6
    assert of.held == 0


def test_a_batch_that_runs_already_is_joined_and_numbers_are_ids() -> None:
    of = made()
    out = feed(of, [named(3, 1042.0), running(4, True), temp(5)], 5)
    assert batches(out) == [(5.0, "1042")]
    assert told([out], "batch", "joined") == [("started", "1042", True)]


def test_phases_are_on_samples_and_in_events() -> None:
    of = made(phases={"heat": {"start": "{Step} == 1"}, "react": {"start": "{Step} == 2"}})
    steps = [Sample("Step", at(seconds), value, asset="site/r1") for seconds, value in ((0, 0.0), (6, 1.0), (8, 2.0))]
    given_ = [running(0, False), named(4, "B1"), running(5, True), *steps, *map(temp, (5, 6, 7, 8, 9))]
    out = feed(of, given_, 9)
    assert [dict(one.extra).get("phase") for one in samples(out) if one.tag == "Temp"] == [
        None, "heat", "heat", "react", "react",
    ]  # fmt: skip
    over = feed(of, [running(10, False)], 10)
    assert told([out, over], "phase", "phase_start_ns") == [
        ("started", None, None),
        ("phase", "heat", at(6)),
        ("phase", "react", at(8)),
        ("completed", None, None),
    ]
    assert over.events[-1]["phases"] == [
        {"phase": "heat", "start_ns": at(6), "end_ns": at(8), "duration_s": 2.0},
        {"phase": "react", "start_ns": at(8), "end_ns": at(10), "duration_s": 2.0},
    ]


def test_each_captured_unit_has_its_own_context() -> None:
    of = made(
        asset="site/{unit}", id="{site/{unit}/Id}", start="{site/{unit}/Running}", stop="not {site/{unit}/Running}"
    )
    feed(of, [running(0, False, "site/r1"), running(0, False, "site/r2"), temp(0, asset="site/r3/x")])
    given_ = [
        named(1, "A", "site/r1"),
        running(1, True, "site/r1"),
        named(1, "B", "site/r2"),
        running(2, True, "site/r2"),
    ]
    tags = [temp(2, asset=f"site/r{number}/x") for number in (1, 2, 3)]
    out = samples(feed(of, [*given_, *tags], 3))
    found = {one.asset: one.batch for one in out if one.tag == "Temp"}
    assert found == {"site/r1/x": "A", "site/r2/x": "B", "site/r3/x": ""}
    assert of.steps[0].explain(of.tags.find("site/r2/Id")[0])["batch"] == "B"
    assert of.held == 0


def test_one_that_runs_for_too_long_is_abandoned() -> None:
    of = made(longest="60s")
    feed(of, [running(0, False), named(1, "B1"), running(1, True)], 1)
    assert told([feed(of, [], 60)]) == []
    assert told([feed(of, [], 62)], "batch", "end_ns", "reason") == [("abandoned", "B1", at(61), "too-long")]
    assert batches(feed(of, [temp(60), temp(61)], 63)) == [(60.0, "B1"), (61.0, "")]


def test_the_summary_has_average_minimum_maximum_for_batch_and_phases() -> None:
    of = made(summary=["Temp"], phases={"heat": {"start": "{Step} == 1"}})
    outs = [
        feed(of, [running(0, False), named(4, "B1"), temp(3, 10.0)], 4),
        feed(of, [running(5, True), temp(7, 20.0), temp(9, None)], 9),
        feed(of, [Sample("Step", at(7), 1.0, asset="site/r1")], 9.5),
        feed(of, [running(10, False)], 10),
        feed(of, [temp(12, 99.0)], 12),
        feed(of, [], 12.5),
    ]
    assert [len(out.events) for out in outs[-3:]] == [0, 0, 1]
    event = outs[-1].events[0]
    whole = {"average": 15.0, "minimum": 10.0, "maximum": 20.0, "samples": 2, "percent_good": 80.0}
    heat = {"average": 20.0, "minimum": 20.0, "maximum": 20.0, "samples": 2, "percent_good": 66.667}
    tag = {"tag": "Temp", "asset": "site/r1/jacket"}
    assert event["summary"] == [{**tag, **whole}, {**tag, "phase": "heat", "phase_start_ns": at(7), **heat}]
    assert event["time_ns"] == at(10)


def test_a_long_summary_comes_in_parts_that_fit() -> None:
    of = made(summary=["**"])
    tags = [Sample(f"{'T' * 200}{number}", at(6), float(number), asset="site/r1/x") for number in range(100)]
    feed(of, [running(0, False), named(4, "B1"), running(5, True), *tags, running(8, False)], 8)
    events = feed(of, [], 11).events
    assert [event["state"] for event in events] == ["completed"] + ["summary"] * (len(events) - 1)
    assert [(event["part"], event["parts"]) for event in events] == [
        (number, len(events)) for number in range(1, len(events) + 1)
    ]
    assert max(len(orjson.dumps(event)) for event in events) < LARGEST_EVENT
    assert sum(len(event["summary"]) for event in events) == 101  # with Running; texts are not summed up


def test_removing_the_step_gives_its_batches_up() -> None:
    of = made(summary=["Temp"])
    feed(of, [running(0, False), named(4, "B1"), running(5, True), temp(6)], 6)
    out = of.finish(["batch"], turn(9))
    assert told([out], "batch", "reason", "end_ns") == [("abandoned", "B1", "step-removed", at(9))]


@pytest.mark.parametrize(
    ("given_", "place", "problem"),
    [
        ({"start": "{Running"}, "start", ""),
        ({"stop": "3 > 2"}, "stop", "names no tag"),
        ({"phases": {"heat": {"start": "{Step} = 1"}}}, "phases.heat.start", ""),
        ({"asset": "site/**"}, "asset", "has **"),
        ({"asset": "site/{unit"}, "asset", "brace"),
        ({"asset": "site/{unit}", "id": "{site/{unti}/Id}"}, "id", "has {unti}, which `asset` does not capture"),
        ({"asset": "site/{unit}", "id": "{unit}"}, "id", "has {unit} by itself"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(given_: dict[str, Any], place: str, problem: str) -> None:
    with pytest.raises(Refusal) as refused:
        step(**given_)
    assert refused.value.place == place
    assert problem in refused.value.problem
    assert refused.value.remedy


MOVES = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["Running", "Id", "Step", "Temp"]), st.integers(0, 9), st.integers(0, 2), st.integers(1, 2)
        ),
        max_size=6,
    ),
    max_size=10,
)


@example_settings(max_examples=100, deadline=None)
@given(MOVES, st.integers(0, 10))
def test_a_restart_changes_nothing(turns: list[list[tuple[str, int, int, int]]], cut: int) -> None:
    def fresh() -> Pipeline:
        tags = {"id": "{site/{unit}/Id}", "start": "{site/{unit}/Running}", "stop": "not {site/{unit}/Running}"}
        phases = {"heat": {"start": "{site/{unit}/Step} == 1"}}
        return made(asset="site/{unit}", summary=["Temp"], longest="20s", phases=phases, **tags)

    def sample(tag: str, seconds: float, value: int, unit: int) -> Sample:
        values: dict[str, Any] = {"Running": value > 0, "Id": f"B{value}", "Step": float(value), "Temp": float(value)}
        return Sample(tag, at(seconds), values[tag], asset=f"site/{unit}")

    def run(cut: int) -> tuple[list[Any], Any]:
        of = fresh()
        gave: list[Any] = []
        for number, moves in enumerate([*turns, [], []]):
            if number == cut:
                saved = of.save()
                of = fresh()
                assert of.load(saved) == []
                assert of.save() == saved
            out = feed(
                of, [sample(tag, 4 * number + place, value, unit) for tag, place, value, unit in moves], 4 * number
            )
            gave.append((samples(out), out.events))
            assert of.held == 0
        return gave, of.save()

    assert run(cut) == run(-1)
