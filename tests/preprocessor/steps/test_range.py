"""Range: beyond hard limits a value is BAD, beyond soft ones UNCERTAIN; on a limit it is inside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preprocessor.engine.pipeline import Pipeline
from preprocessor.step_settings import RangeSettings
from preprocessor.steps.range import Range
from sluice.columns import Quality, Sample

from ..flows import at, feed, flow, pipeline, samples, settings
from .judging import judged, run, series, told


def make(**members: object) -> Pipeline:
    context = flow()
    return pipeline(context, Range("range", settings(RangeSettings, type="range", **members), context))


def test_on_a_limit_is_inside() -> None:
    of = make(low=0, softLow=10, softHigh=90, high=100)
    out = samples(feed(of, series("a", [-0.1, 0.0, 9.9, 10.0, 90.0, 90.1, 100.0, 100.1])))
    assert judged(out) == [
        (-0.1, 2, "out-of-range"),
        (0.0, 1, "out-of-range"),
        (9.9, 1, "out-of-range"),
        (10.0, 0, 0),
        (90.0, 0, 0),
        (90.1, 1, "out-of-range"),
        (100.0, 1, "out-of-range"),
        (100.1, 2, "out-of-range"),
    ]
    assert of.held == 0


def test_what_is_no_good_number_passes() -> None:
    of = make(high=10)
    given_ = [
        Sample("text", at(0), "Bad"),
        Sample("flag", at(0), True),
        Sample("null", at(0), None, Quality.UNCERTAIN, "why"),
        Sample("bad", at(0), 99.0, Quality.BAD, 5),
        Sample("whole", at(0), 11),
    ]
    out = {s.tag: (s.value, int(s.quality), s.status) for s in samples(feed(of, given_))}
    assert out == {
        "text": ("Bad", 0, 0),
        "flag": (True, 0, 0),
        "null": (None, 1, "why"),
        "bad": (99.0, 2, 5),
        "whole": (11, 2, "out-of-range"),
    }


def test_drop_counts_what_it_drops() -> None:
    of = make(high=10, action="drop")
    assert judged(samples(feed(of, series("a", [1.0, 11.0, 2.0])))) == [(1.0, 0, 0), (2.0, 0, 0)]
    assert (of.dropped, of.held) == (1, 0)
    assert of.status()["steps"] == {"range": {"out-of-range": 1}}


def test_hold_gives_the_last_good_value_and_marks_while_there_is_none() -> None:
    turns = [
        (0, series("a", [11.0, 1.0, 12.0])),
        (3, series("a", [13.0, 2.0], begin=3)),
        (5, [Sample("n", at(5), 3), Sample("a", at(5), 14.0)]),
        (6, [Sample("n", at(6), 99)]),
    ]
    for cuts in ((), (1, 2, 3)):
        out, _, of = run(lambda: make(high=10, action="hold"), turns, cuts)
        assert judged(out) == [
            (11.0, 2, "out-of-range"),
            (1.0, 0, 0),
            (1.0, 1, "held"),
            (1.0, 1, "held"),
            (2.0, 0, 0),
            (2.0, 1, "held"),
        ]
        assert judged(out, "n") == [(3, 0, 0), (3, 1, "held")]
        assert of.held == 0


def test_nothing_is_held_for_a_late_value_nor_in_another_unit() -> None:
    of = make(high=10, action="hold")
    feed(of, [Sample("a", at(5), 1.0, unit="bar")])
    assert judged(samples(feed(of, [Sample("a", at(3), 99.0, unit="bar")]))) == [(99.0, 2, "out-of-range")]
    assert judged(samples(feed(of, [Sample("a", at(6), 99.0, unit="psi")]))) == [(99.0, 2, "out-of-range")]


def test_events_on_transitions_only() -> None:
    turns = [(0, series("a", [1.0, 11.0, 12.0])), (3, series("a", [13.0], begin=3)), (4, series("a", [5.0], begin=4))]
    for cuts in ((), (1, 2)):
        _, events, _ = run(lambda: make(high=10, event=True), turns, cuts)
        assert told(events, "kind", "check", "state", "tag", "value", "since", "time_ns") == [
            ("sensor", "out-of-range", "begin", "a", 11.0, 1.0, 1.0),
            ("sensor", "out-of-range", "end", "a", 5.0, 1.0, 4.0),
        ]


def test_a_late_value_is_judged_but_is_no_news() -> None:
    of = make(high=10, event=True)
    feed(of, series("a", [1.0], begin=5))
    outcome = feed(of, series("a", [11.0], begin=4), 1)
    assert judged(samples(outcome)) == [(11.0, 2, "out-of-range")]
    assert outcome.events == []


@pytest.mark.parametrize("wrong", [{}, {"low": 2, "high": 1}, {"low": 1, "softLow": 0}, {"softHigh": 5, "high": 5}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        settings(RangeSettings, type="range", **wrong)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(-20, 20), st.sampled_from([0, 1, 2])), max_size=30),
    st.integers(1, 30),
)
def test_as_one_by_one(rows: list[tuple[str, int, int]], cut: int) -> None:
    given_ = [Sample(tag, at(i), float(value), Quality(quality)) for i, (tag, value, quality) in enumerate(rows)]
    out, _, of = run(lambda: make(low=-10, softHigh=5, high=10), [(0, given_[:cut]), (1, given_[cut:])], (1,))
    assert of.held == 0
    for s, before in zip(out, sorted(given_, key=lambda s: (s.tag, s.time)), strict=True):
        value = before.value
        assert isinstance(value, float)
        worst = 0 if -10 <= value <= 5 else 1 if 5 < value <= 10 else 2
        assert (s.value, s.quality) == (value, max(worst, before.quality))
        assert s.status == ("out-of-range" if worst > before.quality else 0)
