"""Counters: deltas and totals over rollover, reset and what is not to be believed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engine.pipeline import Pipeline
from preprocessor.step_settings import CounterSettings
from preprocessor.steps.counter import Counter
from sluice.columns import Quality, Sample

from ..flows import at, feed, flow, pipeline, samples, settings


def counter(**members: Any) -> tuple[Pipeline, Counter]:
    context = flow()
    step = Counter("cnt", settings(CounterSettings, type="counter", **{"inputs": "drop", **members}), context)
    return pipeline(context, step), step


def totals(of: Pipeline, values: list[Any], *, what: str = "total") -> list[Any]:
    """What a counter that shows these values second after second gives."""
    given = [Sample("c", at(second), value) for second, value in enumerate(values)]
    found = [one.value for one in samples(feed(of, given)) if one.tag == f"c.{what}"]
    assert of.held == 0
    return found


def test_the_total_begins_at_0_and_rises_as_the_counter_does() -> None:
    of, _ = counter()
    assert totals(of, [1000, 1004, 1004, 1010]) == [0, 4, 4, 10]


def test_deltas_begin_with_the_second_sample() -> None:
    of, _ = counter(output="both")
    assert totals(of, [1000, 1004, 1010], what="delta") == [4, 6]


def test_a_rollover_goes_on_counting() -> None:
    of, step = counter(rollover=65536)
    assert totals(of, [65530, 65535, 4]) == [0, 5, 10]
    assert "resets" not in step.counters


def test_a_small_fall_is_a_reset_even_with_a_rollover() -> None:
    of, step = counter(rollover=65536)
    assert totals(of, [100, 200, 5]) == [0, 100, 105]
    assert step.counters["resets"] == 1


def test_a_reset_counts_what_is_shown_and_is_told() -> None:
    of, _ = counter()
    outcome = feed(of, [Sample("c", at(0), 500.0), Sample("c", at(1), 12.5)])
    assert [one.value for one in samples(outcome)] == [0.0, 12.5]
    assert [(e["kind"], e["before"], e["value"]) for e in outcome.events] == [("counter-reset", 500.0, 12.5)]


def test_a_value_that_such_a_counter_cannot_show_is_bad_and_adds_nothing() -> None:
    of, _ = counter(rollover=1000)
    outcome = samples(feed(of, [Sample("c", at(s), v) for s, v in enumerate([10, 1000, -1, 12])]))
    assert [(one.value, one.status) for one in outcome] == [
        (0, 0),
        (None, "beyond-rollover"),
        (None, "beyond-rollover"),
        (2, 0),
    ]


def test_a_rise_that_cannot_be_is_bad_told_and_not_added() -> None:
    of, _ = counter(maxRate=10)
    outcome = feed(of, [Sample("c", at(s), v) for s, v in enumerate([0, 5, 9000, 15])])
    assert [(one.value, one.quality, one.status) for one in samples(outcome)] == [
        (0, Quality.GOOD, 0),
        (5, Quality.GOOD, 0),
        (None, Quality.BAD, "too-fast"),
        (15, Quality.GOOD, 0),
    ]
    assert [e["kind"] for e in outcome.events] == ["counter-too-fast"]


def test_a_counter_that_was_exchanged_goes_on_from_its_new_value() -> None:
    of, _ = counter(maxRate=10)
    outcome = feed(of, [Sample("c", at(s), v) for s, v in enumerate([0, 5, 9000, 9003, 9004])])
    assert [one.value for one in samples(outcome)] == [0, 5, None, 8, 9]
    assert [e["kind"] for e in outcome.events] == ["counter-too-fast", "counter-exchanged"]


def test_bad_and_missing_values_move_nothing() -> None:
    of, step = counter()
    given = [
        Sample("c", at(0), 10),
        Sample("c", at(1), 99, Quality.BAD),
        Sample("c", at(2), None, Quality.UNCERTAIN),
        Sample("c", at(3), 12, Quality.UNCERTAIN),
    ]
    assert [(s.value, s.quality) for s in samples(feed(of, given))] == [(0, Quality.GOOD), (2, Quality.UNCERTAIN)]
    assert step.counters["not-counted"] == 2
    assert of.held == 0


def test_late_samples_are_counted_told_and_add_nothing() -> None:
    of, step = counter()
    feed(of, [Sample("c", at(5), 10), Sample("c", at(9), 14)])
    outcome = feed(of, [Sample("c", at(7), 12), Sample("c", at(10), 15)])
    assert [one.value for one in samples(outcome)] == [5]
    assert [(e["kind"], e["samples"]) for e in outcome.events] == [("counter-late", 1)]
    assert step.counters["late"] == 1
    assert of.held == 0


def test_what_is_no_number_is_counted_and_passes() -> None:
    of, step = counter(inputs="pass")
    assert [one.tag for one in samples(feed(of, [Sample("c", at(0), "text")]))] == ["c"]
    assert step.counters["not-numeric"] == 1


def test_units_and_types_are_those_of_the_counter() -> None:
    of, _ = counter()
    outcome = samples(feed(of, [Sample("i", at(0), 3, unit="m3"), Sample("d", at(0), 3.5, unit="l")]))
    assert [(one.tag, one.value, type(one.value), one.unit) for one in outcome] == [
        ("d.total", 0.0, float, "l"),
        ("i.total", 0, int, "m3"),
    ]


def test_a_counter_that_becomes_a_double_goes_on() -> None:
    of, _ = counter()
    feed(of, [Sample("c", at(0), 3), Sample("c", at(1), 5)])
    assert [s.value for s in samples(feed(of, [Sample("c", at(2), 5.5)]))] == [2.5]
    assert [s.value for s in samples(feed(of, [Sample("c", at(3), 7)]))] == [4.0]


def test_totals_of_integers_are_exact_beyond_doubles_and_full_ones_are_told() -> None:
    of, step = counter()
    assert totals(of, [0, 2**62 + 1, 2**63 - 1, 0, 5]) == [0, 2**62 + 1, 2**63 - 1, 2**63 - 1, None]
    assert step.counters["too-large"] == 1


class Slow:
    """The same, one value after the other, with fractions."""

    def __init__(self, rollover: int | None, max_rate: int | None) -> None:
        self.rollover, self.max_rate = rollover, max_rate
        self.last: tuple[int, Fraction] | None = None
        self.doubted: tuple[int, Fraction] | None = None
        self.total = Fraction(0)

    def rise(self, before: Fraction, new: Fraction) -> Fraction:
        if new >= before:
            return new - before
        if self.rollover and before - new > Fraction(self.rollover, 2):
            return new - before + self.rollover
        return max(new, Fraction(0))

    def believed(self, rise: Fraction, seconds: int) -> bool:
        return self.max_rate is None or rise <= self.max_rate * seconds

    def take(self, second: int, value: float) -> Fraction | None:
        new = Fraction(value)
        if self.rollover and not 0 <= new < self.rollover:
            return None
        if self.last is None:
            self.last = second, new
            return self.total
        rise = self.rise(self.last[1], new)
        if not self.believed(rise, second - self.last[0]):
            agrees = self.doubted is not None and new >= self.doubted[1]
            if not agrees or not self.believed(new - self.doubted[1], second - self.doubted[0]):  # type: ignore[index]
                self.doubted = second, new
                return None
            rise = new - self.doubted[1]  # type: ignore[index]
        self.total += rise
        self.last, self.doubted = (second, new), None
        return self.total


@given(
    rollover=st.sampled_from([None, 100, 65536]),
    max_rate=st.sampled_from([None, 5, 40]),
    turns=st.lists(
        st.lists(
            st.tuples(st.integers(0, 3), st.one_of(st.integers(-3, 110), st.integers(-(2**61), 2**61))), max_size=8
        ),
        max_size=8,
    ),
    doubles=st.booleans(),
    stops=st.sets(st.integers(0, 7)),
)
def test_totals_are_those_of_a_slow_counter_stopped_anywhere(
    rollover: int | None,
    max_rate: int | None,
    turns: list[list[tuple[int, int]]],
    doubles: bool,
    stops: set[int],
) -> None:
    members = {"rollover": rollover, "maxRate": max_rate, "output": "total"}
    members = {name: value for name, value in members.items() if value is not None}
    of, _ = counter(**members)
    slow = [Slow(rollover, max_rate) for _ in range(4)]
    second = 0
    for number, turn in enumerate(turns):
        given, expected = [], []
        for tag, value in turn:
            second += 1
            shown: Any = float(value % 1000) / 4 if doubles else value
            given.append(Sample(f"c{tag}", at(second), shown))
            total = slow[tag].take(second, shown)
            if total is not None and not -(2**63) <= total < 2**63:
                return
            expected.append((f"c{tag}.total", at(second), total))
        found = [(one.tag, one.time, one.value) for one in samples(feed(of, given))]
        assert found == sorted(expected, key=lambda one: one[1])
        assert of.held == 0
        if number in stops:
            state = of.save()
            of, _ = counter(**members)
            assert of.load(state) == []
            assert of.save() == state


def test_another_unit_begins_anew_and_tells_the_old_total() -> None:
    of, _ = counter()
    feed(of, [Sample("c", at(0), 1000.0, unit="kWh"), Sample("c", at(1), 1500.0, unit="kWh")])
    outcome = feed(of, [Sample("c", at(2), 1.501, unit="MWh"), Sample("c", at(3), 1.6, unit="MWh")])
    assert [(s.value, s.unit) for s in samples(outcome)] == [(0.0, "MWh"), (pytest.approx(0.099), "MWh")]
    assert [(e["kind"], e["was"], e["total"], e["time_ns"]) for e in outcome.events] == [
        ("unit-changed", "kWh", 500.0, at(1))
    ]


@pytest.mark.parametrize("units", [("", "m3"), ("m3", "m³"), ("m3", "", "m3"), ("widgets", "", "widgets")])
def test_a_unit_that_becomes_known_or_is_written_in_another_way_changes_no_total(units: tuple[str, ...]) -> None:
    of, _ = counter()
    for second, unit in enumerate(units):
        outcome = feed(of, [Sample("c", at(second), 10 + second, unit=unit)])
        assert [(s.value, s.unit) for s in samples(outcome)] == [(second, unit)]
        assert outcome.events == []


def test_a_tag_that_goes_by_the_name_of_a_total_is_a_problem() -> None:
    of, _ = counter(tags=["c"], inputs="pass")
    feed(of, [Sample("c", at(0), 1), Sample("c.total", at(0), 77)])
    assert list(of.flow.problems) == ["steps.cnt.tags"]
    assert "makes c.total" in of.flow.problems["steps.cnt.tags"][0]


def test_two_sources_that_fight_about_a_unit_are_no_flood_of_events() -> None:
    of, step = counter()
    told = 0
    for second in range(1_000):
        told += len(feed(of, [Sample("c", at(second), second, unit=("kWh", "MWh")[second % 2])], second).events)
    assert told == 103
    assert step.counters["unit-changed"] == 999


def test_a_total_of_doubles_that_is_full_is_told_and_goes_on() -> None:
    of, step = counter()
    given = [Sample("c", at(second), value) for second, value in enumerate([-1e308, 1e308, 1.5e308])]
    outcome = [(s.value, s.quality, s.status) for one in given for s in samples(feed(of, [one]))]
    assert outcome == [(0.0, 0, 0), (None, 2, "too-large"), (pytest.approx(5e307), 0, 0)]
    assert step.counters["too-large"] == 1


def test_many_tags_and_many_samples_of_one_give_the_same() -> None:
    """Both ways through the step: tag beside tag, and one after the other."""
    wide, _ = counter()
    deep, _ = counter()
    values = np.random.default_rng(1).integers(0, 50, size=(40, 60)).cumsum(axis=1)
    given = [Sample(f"c{tag}", at(s), int(values[tag, s])) for tag in range(40) for s in range(60)]
    at_once = {(s.tag, s.time): s.value for s in samples(feed(deep, given))}
    by_turn = {
        (s.tag, s.time): s.value
        for second in range(60)
        for s in samples(feed(wide, [one for one in given if one.time == at(second)]))
    }
    assert at_once == by_turn


def test_state_of_tags_that_are_not_there_is_refused() -> None:
    of, step = counter()
    totals(of, [1, 2])
    with pytest.raises(ValueError, match="not there"):
        step.load({**step.save(), "known": np.array([99], dtype=np.int32)})
    assert step.explain(0)["total"] == 1
