"""Aggregates: when windows are given, what becomes of samples, and what keeps it within bounds. What the numbers are is
held against a reference in tests/preprocessor/windows."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from preprocessor.engine.block import Block
from preprocessor.engine.pipeline import Pipeline
from preprocessor.engine.refusal import Refusal
from preprocessor.engine.step import SECOND, Turn
from preprocessor.step_settings import AggregateSettings
from preprocessor.steps import aggregate
from preprocessor.steps.aggregate import Aggregate
from sluice.columns import Quality, Sample, Series, ValueType

from ..flows import START, at, feed, flow, pipeline, samples, settings, turn


def windows(**members: Any) -> tuple[Pipeline, Aggregate]:
    """A flow with one step: windows of 10 s, their average, given 1 s behind their end."""
    context = flow()
    given = {"window": "10s", "functions": ["average"], "lateness": "1s", "minGood": 0, **members}
    if "while" in given or "by" in given:
        del given["window"]
    step = Aggregate("agg", settings(AggregateSettings, type="aggregate", **given), context)
    return pipeline(context, step), step


def told(outcome: Any) -> list[tuple[str, float, Any, str]]:
    """Results as name, seconds, value and rev."""
    return [
        (one.tag, (one.time - START) / SECOND, one.value, dict(one.extra).get("rev", ""))
        for one in samples(outcome)
        if one.tag.count(".")
    ]


def silence(of: Pipeline, start: int, end: int) -> list[tuple[str, float, Any, str]]:
    """What comes while nothing comes, second after second."""
    return [one for second in range(start, end) for one in told(of.turn([], turn(second)))]


def test_a_window_is_given_when_lateness_behind_its_end_has_come() -> None:
    of, _ = windows()
    assert told(feed(of, [Sample("a", at(0), 1.0), Sample("a", at(5), 3.0)])) == []
    assert told(feed(of, [Sample("a", at(10.9), 9.0)])) == []
    assert told(feed(of, [Sample("a", at(11), 9.0)])) == [("a.average", 0, 2.0, "")]
    assert of.held == 0


def test_the_value_before_a_window_counts_from_its_start() -> None:
    of, _ = windows()
    feed(of, [Sample("a", at(0), 4.0), Sample("a", at(15), 8.0)])
    assert told(feed(of, [Sample("a", at(21), 0.0)])) == [("a.average", 10, 6.0, "")]
    assert of.held == 0


def test_sloped_the_line_to_the_next_sample_counts_up_to_the_edge() -> None:
    of, _ = windows(sloped=True)
    feed(of, [Sample("a", at(0), 0.0)])
    assert told(feed(of, [Sample("a", at(20), 20.0)])) == [("a.average", 0, 5.0, "")]
    assert told(feed(of, [Sample("a", at(21), 20.0)])) == [("a.average", 10, 15.0, "")]


def test_a_silent_tag_holds_its_windows_open_no_longer_than_idle() -> None:
    of, _ = windows(idle="5s")
    feed(of, [Sample("a", at(3), 7.0)], 3)
    assert silence(of, 4, 15) == []
    assert silence(of, 15, 36) == [("a.average", 0, 7.0, ""), ("a.average", 10, 7.0, ""), ("a.average", 20, 7.0, "")]
    assert of.held == 0


def test_a_slow_clock_makes_no_sample_too_late() -> None:
    of, step = windows(idle="5s")
    for second in range(120):  # a sample each 15 s, by a clock that is 12 s slow
        feed(of, [Sample("a", at(second - 12), 1.0)] if second % 15 == 0 else [], second)
    assert step.counters.get("too-late", 0) <= 1, "that the clock is slow shows with the second sample"
    assert step.counters["aggregated"] >= 7


def test_a_backlog_that_is_read_makes_no_sample_of_slow_tags_too_late() -> None:
    of, step = windows(idle="5s")
    for second in range(1, 401):  # an hour at ten times the speed
        then = second * 10 - 3_600
        slow = [Sample("slow", at(then), 1.0)] if second % 60 == 0 else []
        feed(of, [Sample("fast", at(then), 1.0), *slow], second)
    assert "too-late" not in step.counters
    assert max(given[1] for given in silence(of, 401, 440)) == 420, "and then nobody waits longer than before"


def test_a_value_that_changed_days_ago_makes_nobody_wait() -> None:
    of, _ = windows(idle="5s")
    feed(of, [Sample("setpoint", at(-300_000), 7.0), Sample("a", at(0), 1.0)])
    silence(of, 1, 6)
    for second in range(6, 26):
        given = told(feed(of, [Sample("a", at(second), 1.0)], second))
        assert len(given) <= 1_001
    assert silence(of, 26, 100)[-1] == ("setpoint.average", 80, 7.0, "")


def test_a_sample_of_no_time_that_can_be_is_dropped_once() -> None:
    of, step = windows()
    feed(of, [Sample("a", at(0), 1.0), Sample("a", at(30), 1.0)], 30)
    feed(of, [Sample("a", -(2**62), 1.0)], 31)
    assert step.counters["no-such-time"] == 1
    assert of.held == 0


def test_no_window_is_closed_by_a_clock_that_is_not_trusted() -> None:
    of, _ = windows(idle="5s")
    feed(of, [Sample("a", at(3), 7.0)], 3)
    for second in range(4, 40):
        assert told(of.turn([], Turn(at(second), (second + 1) * SECOND, trusted=False))) == []


def test_time_in_which_nobody_listened_is_no_silence() -> None:
    of, _ = windows(idle="8s")
    feed(of, [Sample("a", at(0), 7.0)], 0)
    assert told(of.turn([], turn(1000))) == []  # stopped for a quarter of an hour: what came meanwhile is still to come
    outcome = feed(of, [Sample("a", at(5), 9.0), Sample("a", at(11), 9.0)], 1000)
    assert told(outcome) == [("a.average", 0, 8.0, "")]


def test_a_late_sample_revises_its_window_and_the_start_of_the_next() -> None:
    of, step = windows(allowedLateness="1m")
    feed(of, [Sample("a", at(0), 1.0), Sample("a", at(11), 1.0), Sample("a", at(25), 1.0)])
    assert told(feed(of, [Sample("a", at(5), 3.0)])) == [("a.average", 0, 2.0, "1"), ("a.average", 10, 1.2, "1")]
    assert told(feed(of, [Sample("a", at(5), 1.0)])) == [("a.average", 0, 1.0, "2"), ("a.average", 10, 1.0, "2")]
    assert told(feed(of, [Sample("a", at(6), 1.0)])) == []  # nothing is another for it
    assert step.counters["revisions"] == 4
    assert of.held == 0


@pytest.mark.parametrize(("late", "passes"), [("drop", False), ("pass", True)])
def test_what_is_too_late_changes_nothing_and_is_counted(late: str, passes: bool) -> None:
    of, step = windows(late=late)
    feed(of, [Sample("a", at(0), 1.0), Sample("a", at(12), 1.0)])
    outcome = feed(of, [Sample("a", at(5), 99.0)])
    assert [one.tag for one in samples(outcome)] == (["a"] if passes else [])
    assert step.counters["too-late"] == 1
    assert of.held == 0


def test_inputs_pass_or_are_dropped_as_aggregated() -> None:
    of, _ = windows(inputs="pass")
    assert [one.value for one in samples(feed(of, [Sample("a", at(0), 1.0)]))] == [1.0]
    of, step = windows()
    assert samples(feed(of, [Sample("a", at(0), 1.0)])) == []
    assert step.counters == {"aggregated": 1}
    assert of.held == 0


def test_a_tag_that_goes_by_the_name_of_a_result_is_a_problem() -> None:
    of, _ = windows(tags=["a"])
    for second in range(0, 60, 5):
        feed(of, [Sample("a", at(second), 1.0), Sample("a.average", at(second), 1.0)], second)
    assert list(of.flow.problems) == ["steps.agg.functions"]
    assert of.held == 0


def test_tags_that_are_not_selected_pass() -> None:
    of, _ = windows(tags=["a"])
    assert [one.tag for one in samples(feed(of, [Sample("a", at(0), 1.0), Sample("b", at(0), 1.0)]))] == ["b"]


@pytest.mark.parametrize(
    ("empty", "given"),
    [
        ("hold", [(10, 1.0, Quality.GOOD, 0), (20, 1.0, Quality.GOOD, 0)]),
        ("bad", [(10, None, Quality.BAD, "no-data"), (20, None, Quality.BAD, "no-data")]),
        ("skip", []),
    ],
)
def test_a_window_without_a_sample(empty: str, given: list[Any]) -> None:
    of, _ = windows(empty=empty)
    feed(of, [Sample("a", at(0), 1.0)])
    outcome = samples(feed(of, [Sample("a", at(31), 1.0)]))
    assert [((s.time - START) / SECOND, s.value, s.quality, s.status) for s in outcome][1:] == given


def test_too_little_good_time_is_bad_and_part_of_it_uncertain() -> None:
    of, _ = windows(minGood=50, functions=["average", "percentGood"])
    feed(of, [Sample("a", at(0), 1.0), Sample("a", at(4), None, Quality.BAD), Sample("a", at(15), 1.0)])
    outcome = samples(feed(of, [Sample("a", at(21), 1.0)]))
    assert [(s.tag, s.value, s.quality, s.status) for s in outcome] == [
        ("a.average", 1.0, Quality.UNCERTAIN, "partial"),
        ("a.percentGood", 50.0, Quality.GOOD, 0),
    ]


def test_units_of_results() -> None:
    of, _ = windows(functions=["average", "integral", "duration", "count", "percentGood"])
    feed(of, [Sample("a", at(0), 1.0, unit="kW")])
    outcome = samples(feed(of, [Sample("a", at(11), 1.0, unit="kW")]))
    assert {s.tag: s.unit for s in outcome} == {
        "a.average": "kW",
        "a.integral": "kW*s",
        "a.duration": "s",
        "a.count": "",
        "a.percentGood": "%",
    }


@pytest.mark.parametrize("fold", [False, True])
def test_no_window_is_made_of_two_units(fold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if fold:
        monkeypatch.setattr(aggregate, "_FOLD_AT", 0)
    of, _ = windows(functions=["average", "count", "transitions"])
    made: list[Sample] = []
    events: list[Any] = []
    for second in range(32):
        unit, value = ("degC", 100.0) if second < 15 else ("degF", 212.0)
        outcome = feed(of, [Sample("a", at(second), value, unit=unit), Sample("b", at(second), 1.0)], second)
        made += [s for s in samples(outcome) if s.tag.startswith("a.")]
        events += outcome.events
    assert [(s.tag, (s.time - START) / SECOND, s.value, s.unit) for s in made if s.tag != "a.transitions"] == [
        ("a.average", 0, 100.0, "degC"),
        ("a.count", 0, 10, ""),
        ("a.average", 10, 212.0, "degF"),
        ("a.count", 10, 5, ""),
        ("a.average", 20, 212.0, "degF"),
        ("a.count", 20, 10, ""),
    ]
    assert [s.value for s in made if s.tag == "a.transitions"] == [0, 0, 0]
    assert made[3].quality is Quality.UNCERTAIN, "of the first half of it nothing is known in this unit"
    assert [(e["kind"], e["tag"], e["was"]) for e in events] == [("unit-changed", "a", "degC")]


def test_results_are_stamped_with_the_end_where_that_is_asked_for() -> None:
    of, _ = windows(stamp="end")
    assert told(feed(of, [Sample("a", at(0), 1.0), Sample("a", at(11), 1.0)])) == [("a.average", 10, 1.0, "")]


def test_texts_and_booleans_have_first_last_count_duration_transitions() -> None:
    of, _ = windows(functions=["first", "last", "count", "duration", "transitions", "average"])
    feed(
        of, [Sample("t", at(0), "run"), Sample("t", at(4), "stop"), Sample("b", at(0), False), Sample("b", at(7), True)]
    )
    outcome = samples(feed(of, [Sample("t", at(11), "run"), Sample("b", at(11), True)]))
    assert {s.tag: s.value for s in outcome} == {
        "t.first": "run",
        "t.last": "stop",
        "t.count": 2,
        "t.duration": 10.0,
        "t.transitions": 1,
        "t.average": None,
        "b.first": False,
        "b.last": True,
        "b.count": 2,
        "b.duration": 3.0,
        "b.transitions": 1,
        "b.average": None,
    }
    assert {s.status for s in outcome if s.tag.endswith("average")} == {"not-numeric"}


def test_a_window_while_an_expression_is_true() -> None:
    of, _ = windows(**{"while": "{run}", "tags": ["a"]})
    feed(of, [Sample("run", at(0), False), Sample("a", at(0), 1.0)])
    feed(of, [Sample("run", at(5), True), Sample("a", at(5), 2.0)])
    assert told(feed(of, [Sample("a", at(15), 4.0)])) == []
    feed(of, [Sample("run", at(25), False)])
    assert told(feed(of, [Sample("a", at(26), 9.0)])) == [("a.average", 5, 3.0, "")]
    feed(of, [Sample("run", at(40), True)])
    feed(of, [Sample("run", at(50), False)])
    assert told(feed(of, [Sample("a", at(60), 9.0)])) == [("a.average", 40, 9.0, "")]
    assert of.held == 0


def test_windows_of_an_expression_survive() -> None:
    of, _ = windows(**{"while": "{run}", "tags": ["a"]})
    feed(of, [Sample("run", at(0), True), Sample("a", at(0), 1.0)])
    again, _ = windows(**{"while": "{run}", "tags": ["a"]})
    assert again.load(of.save()) == []
    feed(again, [Sample("run", at(8), False)])
    assert told(feed(again, [Sample("a", at(9), 5.0)])) == [("a.average", 0, 1.0, "")]


def test_a_window_for_each_batch() -> None:
    of, _ = windows(by="batch")
    feed(of, [Sample("a", at(0), 1.0)])
    feed(of, [Sample("a", at(2), 2.0, batch="B1"), Sample("a", at(7), 4.0, batch="B1")])
    assert samples(feed(of, [Sample("a", at(12), 9.0, batch="B2")])) == []
    outcome = [*samples(feed(of, [Sample("a", at(13), 9.0)])), *samples(feed(of, [Sample("a", at(20), 9.0)]))]
    assert [(s.time, s.value, s.batch) for s in outcome] == [(at(2), 3.0, "B1"), (at(12), 9.0, "B2")]
    assert of.held == 0


def test_a_batch_that_ended_for_one_tag_has_ended_for_silent_ones_of_the_asset() -> None:
    of, _ = windows(by="batch", idle="5s")
    both = [Sample(tag, at(2), 5.0, batch="B1", asset="line1") for tag in ("a", "b")]
    feed(of, [*both, Sample("c", at(2), 5.0, batch="B1", asset="line2")], 2)
    outcome = samples(feed(of, [Sample("a", at(12), 9.0, asset="line1")], 12))
    results = [*outcome, *(one for second in range(13, 20) for one in samples(of.turn([], turn(second))))]
    assert [(s.tag, s.time, s.value, s.batch) for s in results] == [
        ("a.average", at(2), 5.0, "B1"),
        ("b.average", at(2), 5.0, "B1"),
    ]
    assert of.held == 0


def test_state_of_batches_survives() -> None:
    of, _ = windows(by="batch")
    feed(of, [Sample("a", at(2), 2.0, batch="B1")])
    again, _ = windows(by="batch")
    assert again.load(of.save()) == []
    outcome = samples(feed(again, [Sample("a", at(4), 3.0, batch="B2")]))
    assert outcome == []
    outcome = samples(feed(again, [Sample("a", at(9), 3.0, batch="B2")]))
    assert [(s.time, s.value, s.batch) for s in outcome] == [(at(2), 2.0, "B1")]


def test_hopping_windows_hold_a_sample_several_times() -> None:
    of, _ = windows(window="10s", slide="5s", functions=["count"], minGood=0)
    outcome = told(feed(of, [Sample("a", at(1), 1.0), Sample("a", at(7), 1.0), Sample("a", at(16), 1.0)]))
    assert outcome == [("a.count", -5, 1, ""), ("a.count", 0, 2, ""), ("a.count", 5, 1, "")]


def test_many_windows_of_silence_are_given_in_pieces_and_too_many_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "_MOST_AT_ONCE", 100)
    of, _ = windows()
    feed(of, [Sample("a", at(0), 1.0)])
    given = [told(feed(of, [Sample("a", at(3001), 1.0)], 3001)), *(told(of.turn([], turn(3001))) for _ in range(3))]
    assert [len(one) for one in given] == [100, 100, 100, 0]
    outcome = feed(of, [Sample("a", at(3001 + 10 * 365 * 86_400), 1.0)], 10 * 365 * 86_400 + 3001)
    assert [event["kind"] for event in outcome.events] == ["windows-skipped"]
    assert outcome.events[0]["windows"] > 30_000_000
    assert len(told(outcome)) == 1
    assert of.held == 0


@pytest.mark.parametrize("slide", ["10s", "2s"])
@pytest.mark.parametrize("fold_at", [0, 50_000])
def test_windows_that_are_left_out_cost_nothing(slide: str, fold_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "_FOLD_AT", fold_at)
    of, _ = windows(empty="skip", slide=slide, functions=["count"])
    overlap = 10 // int(slide[:-1])
    outcome = told(feed(of, [Sample("a", at(0), 1.0), Sample("a", at(5), 1.0)]))
    outcome += told(feed(of, [Sample("a", at(1_000_001), 1.0)], 1_000_001))
    outcome += told(feed(of, [Sample("a", at(1_000_021), 1.0)], 1_000_021))
    outcome += silence(of, 1_000_021, 1_000_024)
    assert sum(value for _, _, value, _ in outcome) == 3 * overlap
    assert of.held == 0


def test_texts_that_no_sample_has_any_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "_TEXTS_AT", 20)
    monkeypatch.setattr(aggregate, "_FOLD_AT", 10)
    of, step = windows(functions=["first", "last", "transitions"], allowedLateness="5s")
    outcome = []
    for second in range(200):
        outcome += samples(feed(of, [Sample("a", at(second), f"text {second}")], second))
        assert len(step._texts) < 100
    assert [s.value for s in outcome if s.tag == "a.first"] == [f"text {number}" for number in range(0, 190, 10)]
    assert [s.value for s in outcome if s.tag == "a.last"] == [f"text {number}" for number in range(9, 199, 10)]
    assert {s.value for s in outcome if s.tag == "a.transitions"} == {9, 10}


def test_a_clock_that_was_years_ahead_stops_no_tag() -> None:
    of, _ = windows(idle="5s")
    feed(of, [Sample("a", at(0), 1.0)], 0)
    years = 10 * 365 * 86_400
    for second in range(8):
        of.turn([], Turn(at(years + second), (2 + second) * SECOND))
    outcome = of.turn([], turn(12))
    assert [event["kind"] for event in outcome.events] == ["windows-reopened"]
    feed(of, [Sample("a", at(20), 3.0)], 20)
    assert told(feed(of, [Sample("a", at(31), 3.0)], 31))[-1] == ("a.average", 20, 3.0, "")
    assert of.held == 0


def test_samples_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "MOST_ROWS", 100)
    of, step = windows(window="1h", lateness="1h", allowedLateness="10h", functions=["count", "sum"])
    for second in range(300):
        feed(of, [Sample("a", at(second), 1.0)])
        assert len(step._store) <= 101
    assert step.counters["lateness-cut"] > 0
    outcome = told(feed(of, [Sample("a", at(3 * 3600), 1.0)], 3 * 3600))
    assert [value for tag, _, value, _ in outcome if tag == "a.count"] == [300, 0]
    assert of.held == 0


def test_an_exact_repeat_that_comes_late_changes_nothing() -> None:
    of, step = windows(allowedLateness="1m", functions=["count"])
    feed(of, [Sample("a", at(0), 1.0), Sample("a", at(5), 3.0), Sample("a", at(11), 3.0)])
    assert told(feed(of, [Sample("a", at(0), 1.0)])) == []
    assert "revisions" not in step.counters


def test_other_settings_go_on_from_what_is_known() -> None:
    of, _ = windows()
    feed(of, [Sample("a", at(0), 4.0), Sample("a", at(13), 8.0)])
    again, _ = windows(window="20s", minGood=0)
    assert again.load(of.save()) == []
    outcome = told(feed(again, [Sample("a", at(41), 0.0)]))
    assert outcome[-1] == ("a.average", 20, 8.0, "")


def test_state_that_is_none_is_refused() -> None:
    of, step = windows()
    feed(of, [Sample("a", at(0), 4.0)])
    state = dict(step.save())
    with pytest.raises(ValueError, match="not there"):
        step.load({**state, "known": np.array([77], dtype=np.int32)})
    with pytest.raises((ValueError, KeyError)):
        step.load({**state, "rows": {"sorted": {}, "fresh": {}}})


def test_explain_tells_where_a_tag_stands() -> None:
    of, step = windows()
    assert step.explain(0) == {"applies": False, "samples": "none yet"}
    feed(of, [Sample("a", at(3), 4.0)])
    assert step.explain(0) == {
        "applies": True,
        "newest_ns": at(3),
        "watermark_ns": at(2),
        "too_late_before_ns": at(2),
        "next_window": [at(0), at(10)],
        "samples_kept": 1,
    }


@pytest.mark.parametrize(
    "members",
    [{}, {"window": "1m", "by": "batch"}, {"window": "1m", "while": "{a}"}, {"by": "batch", "slide": "5s"}],
)
def test_there_is_one_kind_of_window(members: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(AggregateSettings, type="aggregate", **members)


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"window": "1d", "zone": "Europe/Berln"}, "zone"),
        ({"window": "1m", "slide": "2m"}, "slide"),
        ({"while": "{a"}, "while"),
    ],
)
def test_a_window_that_cannot_be_is_refused_with_its_place(members: dict[str, Any], place: str) -> None:
    with pytest.raises(Refusal) as refused:
        Aggregate("agg", settings(AggregateSettings, type="aggregate", **members), flow())
    assert refused.value.place == place


def test_no_row_costs_python_objects() -> None:
    """10,000 tags in a turn go into their windows as columns: calls are made per turn, not per row."""
    context = flow()
    step = Aggregate("agg", settings(AggregateSettings, type="aggregate", window="1m"), context)
    for number in range(10_000):
        context.tags.slot(Series(f"t{number}"))
    step.prepare(range(10_000))
    size = 10_000
    zeros = np.zeros(size, dtype=np.int64)
    block = Block(
        ValueType.DOUBLE,
        np.arange(size, dtype=np.int32),
        np.full(size, at(1)),
        np.zeros(size),
        zeros.astype(np.uint8),
        zeros,
    )
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        step.process([block], turn(1))
    finally:
        sys.setprofile(None)
    assert calls < 200
