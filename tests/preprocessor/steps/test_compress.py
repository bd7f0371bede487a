"""Swinging door: the line through what passes is never further off than it may be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preprocessor.engine.pipeline import Outcome, Pipeline
from preprocessor.engine.step import SECOND, Turn
from preprocessor.step_settings import CompressSettings, ReportSettings
from preprocessor.steps.compress import Compress
from preprocessor.steps.report import Report
from sluice.columns import Quality, Sample

from ..flows import at, batch, feed, flow, pipeline, samples, settings, turn


def compressing(*, few: int | None = None, **how: Any) -> tuple[Pipeline, Compress]:
    context = flow()
    step = Compress("compress", settings(CompressSettings, type="compress", **how), context)
    if few is not None:
        step.few = few
    return pipeline(context, step), step


def passed(of: Pipeline, values: Sequence[Any], *, first: float = 0.0, tag: str = "a") -> list[tuple[float, Any]]:
    """A value each second, one turn for each; what came out: seconds and value."""
    found: list[tuple[float, Any]] = []
    for number, value in enumerate(values):
        found += told(feed(of, [Sample(tag, at(first + number), value)], first + number))
    return found


def told(outcome: Outcome) -> list[tuple[float, Any]]:
    return [((one.time - at(0)) / SECOND, one.value) for one in samples(outcome)]


def test_a_ramp_is_its_two_ends() -> None:
    of, _ = compressing(deviation=0.1)
    assert passed(of, [float(n) for n in range(100)]) == [(0, 0.0)]
    assert of.held == 1
    assert told(of.finish(["compress"], turn(100))) == [(99, 99.0)]
    assert of.held == 0


def test_a_corner_is_kept() -> None:
    of, _ = compressing(deviation=0.1)
    values = [*map(float, range(10)), *([9.0] * 10), *(9.0 - n for n in range(1, 10))]
    out = passed(of, values) + told(of.finish(["compress"], turn(100)))
    assert out == [(0, 0.0), (9, 9.0), (19, 9.0), (28, 0.0)]


def test_another_quality_ends_the_line_at_once() -> None:
    of, _ = compressing(deviation=1.0)
    out: list[Sample] = []
    qualities = [Quality.GOOD] * 3 + [Quality.UNCERTAIN] * 3 + [Quality.GOOD]
    for second, quality in enumerate(qualities):
        out += samples(feed(of, [Sample("a", at(second), 5.0, quality, status=second)], second))
    assert [(one.time, one.quality, one.status) for one in out] == [
        (at(0), Quality.GOOD, 0),
        (at(2), Quality.GOOD, 2),
        (at(3), Quality.UNCERTAIN, 3),
        (at(5), Quality.UNCERTAIN, 5),
        (at(6), Quality.GOOD, 6),
    ]
    assert of.held == 0


def test_of_samples_without_a_value_the_first_and_the_last_pass() -> None:
    of, _ = compressing(deviation=1.0)
    given_ = [Sample("a", at(0), 1.0), Sample("a", at(1), 1.0)]
    given_ += [Sample("a", at(second), None, Quality.BAD, "nan") for second in range(2, 8)]
    given_ += [Sample("a", at(8), 1.0)]
    out = samples(feed(of, given_))
    assert [(one.time, one.value, one.status) for one in out] == [
        (at(0), 1.0, 0),
        (at(1), 1.0, 0),
        (at(2), None, "nan"),
        (at(7), None, "nan"),
        (at(8), 1.0, 0),
    ]
    assert of.held == 0


def test_texts_and_booleans_pass() -> None:
    of, _ = compressing(deviation=1.0)
    assert passed(of, ["a", "a", "b"]) == [(0, "a"), (1, "a"), (2, "b")]
    assert passed(of, [True, True], tag="b") == [(0, True), (1, True)]
    assert of.held == 0


def test_another_type_ends_the_line() -> None:
    of, _ = compressing(deviation=1.0)
    assert passed(of, [1.0, 1.0, "off", 1.0, 1.0, 1]) == [(0, 1.0), (1, 1.0), (2, "off"), (3, 1.0), (4, 1.0), (5, 1)]
    assert of.held == 0


def test_another_unit_begins_anew() -> None:
    of, step = compressing(deviation=1.0)
    for second, unit in enumerate(["degC", "degC", "degF", "degF"]):
        feed(of, [Sample("a", at(second), 20.0, unit=unit)], second)
    assert (step.counters, of.held, of.sent) == ({"unit_changed": 1}, 1, 2)


def test_late_samples_pass_and_change_nothing() -> None:
    of, _ = compressing(deviation=0.1)
    passed(of, [0.0, 1.0, 2.0], first=10)
    assert told(feed(of, [Sample("a", at(5), 99.0)], 13)) == [(5, 99.0)]
    assert passed(of, [3.0, 4.0], first=13) == []
    assert of.held == 1


def test_what_a_step_before_put_ahead_of_time_does_no_harm() -> None:
    """A heartbeat stands at a time by our clock: the tag's next samples may be older."""
    context = flow()
    report = Report("report", settings(ReportSettings, type="report", maxInterval="5s"), context)
    step = Compress("compress", settings(CompressSettings, type="compress", deviation=0.1), context)
    of = pipeline(context, report, step)
    out = samples(feed(of, [Sample("a", at(0), 1.0)], 0))
    for second in range(1, 12):
        out += samples(feed(of, [], second))
    out += samples(feed(of, [Sample("a", at(2), 2.0), Sample("a", at(60), 7.0)], 60))
    out += samples(of.finish(["compress"], turn(61)))
    values = [(one.time, one.value, one.status) for one in out]
    assert values[0] == (at(0), 1.0, 0)
    assert (at(2), 2.0, 0) in values
    assert values[-1][:2] == (at(60), 7.0)
    assert of.held == 0


def test_no_line_is_longer_than_the_longest() -> None:
    of, _ = compressing(deviation=1.0, maxInterval="10s")
    out = passed(of, [5.0] * 35)
    assert [seconds for seconds, _ in out] == [0, 10, 20, 30]


def test_in_silence_the_last_sample_passes() -> None:
    of, _ = compressing(deviation=1.0, maxInterval="10s")
    assert passed(of, [5.0, 5.0, 5.0]) == [(0, 5.0)]
    assert told(feed(of, [], 11.9)) == []
    assert told(feed(of, [], 12.0)) == [(2, 5.0)]
    assert of.held == 0
    assert passed(of, [5.0, 5.0], first=13) == [(13, 5.0)]
    assert told(feed(of, [], 23.9)) == []
    assert told(feed(of, [], 24.0)) == [(14, 5.0)]


def test_within_the_shortest_interval_no_door_closes() -> None:
    of, _ = compressing(deviation=0.1, minInterval="5s")
    out = passed(of, [0.0, 9.0, 0.0, 9.0, 0.0, 0.0, 0.0])
    assert [seconds for seconds, _ in out] == [0, 4]


def test_what_is_held_keeps_its_context_and_goes_out_where_it_came_in() -> None:
    of, _ = compressing(deviation=1.0)
    of.turn(batch([Sample("a", at(0), 1.0)]), turn(0))
    of.turn(batch([Sample("a", at(1), 1.0, batch="B-1")], stream="plant/line/backfill"), turn(1))
    outcome = of.turn(batch([Sample("a", at(2), 9.0, batch="B-2")]), turn(2))
    assert [one.batch for part in outcome.backfill for one in part.samples()] == ["B-1"]
    assert outcome.live == []
    outcome = of.turn(batch([Sample("a", at(3), 1.0, batch="B-3")]), turn(3))
    assert [one.batch for one in samples(outcome)] == ["B-2"]


def test_a_new_deviation_ends_the_lines_that_began_under_the_old_one() -> None:
    of, _ = compressing(deviation=5.0)
    passed(of, [0.0, 4.0, 0.0, 4.0])
    other, step = compressing(deviation=0.5)
    assert other.load(of.save()) == []
    again, _ = compressing(deviation=0.5)  # what was loaded is stored before the first turn
    assert again.load(other.save()) == []
    for one in (other, again):
        assert told(feed(one, [], 4)) == [(3, 4.0)]
        assert one.held == 0
    assert step.explain(0)["deviation"] == 0.5


def test_what_is_held_goes_out_when_the_step_leaves_the_tag_alone() -> None:
    of, _ = compressing(deviation=5.0)
    passed(of, [0.0, 4.0])
    other, _ = compressing(deviation=5.0, tags="b")
    assert other.load(of.save()) == []
    assert told(feed(other, [], 4)) == [(1, 4.0)]
    assert other.held == 0


# --- the bound ---


def furthest(given_: Sequence[tuple[int, Any]], kept: Sequence[tuple[int, Any]]) -> Fraction:
    """How far the line through what was kept is from the samples, calculated without rounding."""
    worst = Fraction(0)
    for (t0, v0), (t1, v1) in itertools.pairwise(kept):
        a, b = Fraction(v0), Fraction(v1)
        for t, v in given_:
            if t0 <= t <= t1:
                worst = max(worst, abs(a + (b - a) * Fraction(t - t0, t1 - t0) - Fraction(v)))
    return worst


HUGE = st.floats(allow_nan=False, allow_infinity=False)
CLOSE = st.floats(-1, 1)
GRID = st.integers(-8, 8).map(lambda n: n / 4)
STEPS = st.one_of(st.integers(1, 5), st.integers(1, 10**9), st.integers(10**15, 10**16))
NASTY = st.one_of(
    st.lists(st.tuples(STEPS, HUGE), min_size=2, max_size=40),
    st.lists(st.tuples(STEPS, CLOSE), min_size=2, max_size=40),
    st.lists(st.tuples(STEPS, GRID), min_size=2, max_size=40),
    st.lists(st.tuples(STEPS, st.integers(-(2**63), 2**63 - 1)), min_size=2, max_size=40),
    st.lists(st.tuples(STEPS, st.integers(2**60, 2**60 + 9)), min_size=2, max_size=40),
    st.lists(st.tuples(STEPS, st.integers(2**53 - 4, 2**53 + 4)), min_size=2, max_size=40),
    # a little above and below a line far from 0
    st.lists(st.tuples(STEPS, GRID.map(lambda v: 1e12 + v)), min_size=2, max_size=40),
)


@given(NASTY, st.sampled_from([1e-12, 0.1, 0.25, 1.0, 3.0, 1e9, 1e300]), st.booleans(), st.integers(1, 7))
def test_no_sample_is_further_from_the_line_than_the_deviation(
    steps: list[tuple[int, Any]], deviation: float, at_once: bool, size: int
) -> None:
    given_ = []
    t = at(0) - SECOND * 10**9
    for step, value in steps:
        t += step
        given_.append((t, value))
    of, step_ = compressing(few=0 if at_once else 10**9, deviation=deviation, maxInterval="36500d")
    kept: list[tuple[int, Any]] = []
    for begin in range(0, len(given_), size):
        rows = [Sample("a", time, value) for time, value in given_[begin : begin + size]]
        kept += [(one.time, one.value) for one in samples(feed_untrusted(of, rows))]
    kept += [(one.time, one.value) for one in samples(of.finish([step_.name], turn(1)))]
    assert kept[0] == given_[0]
    assert kept[-1] == given_[-1]
    assert set(kept) <= set(given_)
    assert furthest(given_, kept) <= Fraction(deviation)
    assert of.held == 0


def feed_untrusted(of: Pipeline, rows: list[Sample]) -> Outcome:
    """A turn in which no time is too far ahead."""
    return of.turn(batch(rows), Turn(at(0), SECOND, trusted=False))


# --- against a slow reference ---


class Reference:
    """The door as it is defined: the cone is every sample since the anchor, looked at anew each time."""

    def __init__(self, how: CompressSettings) -> None:
        self.how = how
        # Narrower by next to nothing, as it is with floats: on the grid of the values that decides at the bound alone.
        self.bound = Fraction(how.bound) * (1 - Fraction(1, 10**13))
        self.anchor: Sample | None = None
        self.since: list[Sample] = []

    def push(self, one: Sample) -> list[Sample]:
        anchor = self.anchor
        if anchor is None or self._class(anchor) != self._class(one):
            out = [*self.since[-1:], one]
            self.anchor, self.since = one, []
            return out
        elapsed = one.time - anchor.time
        out = []
        if self.since and elapsed >= round(self.how.min_interval * SECOND) and self._ends(anchor, one):
            out = [self.since[-1]]
            self.anchor, self.since = self.since[-1], []
        self.since.append(one)
        return out

    def _ends(self, anchor: Sample, one: Sample) -> bool:
        if one.time - anchor.time > round(self.how.max_interval * SECOND):
            return True
        if one.value is None:
            return False
        start = Fraction(anchor.value or 0)
        slope = (Fraction(one.value) - start) / (one.time - anchor.time)
        return any(
            abs(start + slope * (left.time - anchor.time) - Fraction(left.value or 0)) > self.bound
            for left in self.since
        )

    @staticmethod
    def _class(one: Sample) -> tuple[Any, ...]:
        return (type(one.value), one.quality)


@st.composite
def histories(draw: st.DrawFn) -> list[list[Sample]]:
    """Turns of samples of three tags; each tag keeps to one type, its times rise."""
    of = {"a": GRID, "b": st.integers(-6, 6), "c": GRID}
    second = 0
    turns = []
    for _ in range(draw(st.integers(1, 6))):
        rows = []
        for _ in range(draw(st.integers(0, 20))):
            second += draw(st.integers(1, 3))
            tag = draw(st.sampled_from("abc"))
            quality = draw(st.sampled_from([Quality.GOOD] * 8 + [Quality.BAD]))
            null = quality is not Quality.GOOD and tag != "b" and draw(st.booleans())
            rows.append(Sample(tag, at(second), None if null else draw(of[tag]), quality))
        turns.append(rows)
    return turns


@given(
    histories(),
    st.sampled_from([{}, {"minInterval": "4s"}, {"maxInterval": "12s"}, {"minInterval": "2s", "maxInterval": "20s"}]),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.booleans(),
    st.data(),
)
def test_it_keeps_what_the_definition_says_wherever_turns_end_and_state_is_saved(
    turns: list[list[Sample]], how: dict[str, str], deviation: float, at_once: bool, data: st.DataObject
) -> None:
    few = 0 if at_once else 10**9
    of, step = compressing(few=few, deviation=deviation, **how)
    references: dict[str, Reference] = {}
    expected: list[Sample] = []
    found: list[Sample] = []
    for number, rows in enumerate(turns):
        for row in rows:
            expected += references.setdefault(row.tag, Reference(step.settings)).push(row)
        found += samples(feed(of, rows))
        if data.draw(st.booleans(), label=f"restart after turn {number}"):
            saved = of.save()
            of, step = compressing(few=few, deviation=deviation, **how)
            assert of.load(saved) == []
            assert of.save() == saved
    order = [(s.tag, s.time, s.value, s.quality) for s in sorted(found, key=lambda s: (s.tag, s.time))]
    assert order == [(s.tag, s.time, s.value, s.quality) for s in sorted(expected, key=lambda s: (s.tag, s.time))]
    assert of.held == sum(bool(reference.since) for reference in references.values())


@given(st.lists(st.tuples(st.integers(1, 3), GRID), min_size=1, max_size=60))
def test_report_and_compress_together_keep_to_the_bound_that_is_promised(steps: list[tuple[int, float]]) -> None:
    context = flow()
    of = pipeline(
        context,
        Report("report", settings(ReportSettings, type="report", absolute=0.25), context),
        Compress("compress", settings(CompressSettings, type="compress", deviation=0.5), context),
    )
    second, rows = 0, []
    for step, value in steps:
        second += step
        rows.append(Sample("a", at(second), value))
    kept = [(one.time, one.value) for one in samples(feed(of, rows))]
    kept += [(one.time, one.value) for one in samples(of.finish(["report", "compress"], turn(second)))]
    assert furthest([(one.time, one.value) for one in rows], kept) <= Fraction(0.5) + 2 * Fraction(0.25)
    assert of.held == 0


# --- settings ---


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({}, "exactly one of deviation"),
        ({"deviation": 1, "percentOfRange": 1, "range": [0, 1]}, "exactly one of deviation"),
        ({"percentOfRange": 1}, "range together"),
        ({"percentOfRange": 1, "range": [3, 1]}, "does not rise"),
        ({"deviation": 1e-300}, "nearly 0"),
        ({"deviation": 1, "minInterval": "8h"}, "not longer than minInterval"),
    ],
)
def test_doors_that_make_no_sense_are_refused(how: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        settings(CompressSettings, type="compress", **how)


def test_percent_of_range() -> None:
    of, step = compressing(percentOfRange=2, range=[-50, 150])
    passed(of, [0.0])
    assert step.explain(0) == {
        "applies": True,
        "deviation": 4.0,
        "passed_value": 0.0,
        "passed_ns": at(0),
        "samples": 1,
        "passed": 1,
    }
