"""Totals of rates: exact, over gaps, bad times and resets."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engine.pipeline import Pipeline
from preprocessor.step_settings import TotalizeSettings
from preprocessor.steps.totalize import Totalize
from preprocessor.windows.summing import add
from sluice.columns import Quality, Sample

from ..flows import START, at, feed, flow, pipeline, samples, settings

SECOND = 10**9


def totalize(**members: Any) -> tuple[Pipeline, Totalize]:
    context = flow()
    given = {"per": "s", "inputs": "drop", "tags": ["f*"], **members}
    step = Totalize("tot", settings(TotalizeSettings, type="totalize", **given), context)
    return pipeline(context, step), step


def totals(of: Pipeline, given: list[Sample], now: float = 0.0) -> list[tuple[Any, Quality]]:
    found = [(one.value, one.quality) for one in samples(feed(of, given, now)) if one.tag.endswith(".total")]
    assert of.held == 0
    return found


GOOD, UNCERTAIN = Quality.GOOD, Quality.UNCERTAIN


@pytest.mark.parametrize(("per", "total"), [("s", 3600.0), ("min", 60.0), ("h", 1.0), ("d", 1 / 24)])
def test_a_rate_is_summed_up_per_its_unit_of_time(per: str, total: float) -> None:
    of, _ = totalize(per=per, maxGap="2h")
    assert totals(of, [Sample("f", at(0), 1.0), Sample("f", at(3600), 9.0)], 3600)[1][0] == pytest.approx(
        total, rel=1e-15
    )


def test_stepped_the_rate_before_counts_and_sloped_the_mean_of_both() -> None:
    given = [Sample("f", at(0), 2.0), Sample("f", at(10), 4.0)]
    assert totals(totalize()[0], given) == [(0.0, GOOD), (20.0, GOOD)]
    assert totals(totalize(sloped=True)[0], given) == [(0.0, GOOD), (30.0, GOOD)]


def test_a_gap_adds_nothing_and_is_told() -> None:
    of, _ = totalize(maxGap="60s")
    outcome = feed(of, [Sample("f", at(0), 2.0), Sample("f", at(61), 2.0), Sample("f", at(62), 2.0)])
    assert [(s.value, s.quality, s.status) for s in samples(outcome)] == [
        (0.0, GOOD, 0),
        (0.0, UNCERTAIN, "gap"),
        (2.0, GOOD, 0),
    ]
    assert [(e["kind"], e["seconds"]) for e in outcome.events] == [("gap-not-totalized", 61.0)]


def test_a_bad_time_adds_nothing_and_leaves_the_total_uncertain_once() -> None:
    of, step = totalize()
    given = [
        Sample("f", at(0), 1.0),
        Sample("f", at(10), None, Quality.BAD),
        Sample("f", at(20), 1.0),
        Sample("f", at(30), 1.0),
    ]
    assert totals(of, given) == [(0.0, GOOD), (10.0, UNCERTAIN), (20.0, GOOD)]
    assert step.counters["not-totalized"] == 1


def test_an_uncertain_rate_makes_what_it_gives_uncertain() -> None:
    of, _ = totalize()
    given = [
        Sample("f", at(0), 1.0),
        Sample("f", at(1), 1.0, UNCERTAIN),
        Sample("f", at(2), 1.0),
        Sample("f", at(3), 1.0),
    ]
    assert totals(of, given) == [(0.0, GOOD), (1.0, UNCERTAIN), (2.0, UNCERTAIN), (3.0, GOOD)]


def test_a_reset_between_samples_divides_what_they_give() -> None:
    of, _ = totalize(reset="{new}", sloped=True)
    feed(of, [Sample("new", at(0), False), Sample("f", at(0), 0.0)])
    outcome = feed(of, [Sample("new", at(4), True), Sample("f", at(10), 10.0)])
    assert [s.value for s in samples(outcome) if s.tag == "f.total"] == [pytest.approx(42.0)]
    assert [(e["kind"], e["time_ns"], e["total"]) for e in outcome.events] == [
        ("total-reset", at(4), pytest.approx(8.0))
    ]
    again = feed(of, [Sample("new", at(15), True), Sample("f", at(20), 10.0)])
    assert again.events == []  # it stayed true


def test_a_reset_is_told_of_a_silent_tag_when_it_comes_again() -> None:
    of, _ = totalize(reset="{new}")
    feed(of, [Sample("new", at(0), False), Sample("f", at(0), 1.0), Sample("f", at(5), 1.0)])
    assert feed(of, [Sample("new", at(8), True)]).events == []
    outcome = feed(of, [Sample("f", at(20), 1.0)])
    assert [(e["time_ns"], e["total"]) for e in outcome.events] == [(at(8), 8.0)]
    assert [s.value for s in samples(outcome)] == [12.0]


def test_late_samples_are_counted_told_and_add_nothing() -> None:
    of, step = totalize()
    feed(of, [Sample("f", at(0), 1.0), Sample("f", at(10), 1.0)])
    outcome = feed(of, [Sample("f", at(5), 99.0)])
    assert samples(outcome) == []
    assert [e["kind"] for e in outcome.events] == ["totalize-late"]
    assert step.counters["late"] == 1
    assert of.held == 0


@pytest.mark.parametrize(
    ("unit", "per", "given", "total"),
    [("m3/h", "h", "", "m3"), ("m3/h", "s", "", ""), ("l/min", "min", "", "l"), ("x", "s", "kg", "kg")],
)
def test_the_unit_of_the_total(unit: str, per: str, given: str, total: str) -> None:
    of, _ = totalize(per=per, unit=given)
    assert [s.unit for s in samples(feed(of, [Sample("f", at(0), 1.0, unit=unit)]))] == [total]


def test_a_rate_in_another_unit_begins_anew_and_tells_the_old_total() -> None:
    of, _ = totalize(per="h")
    feed(of, [Sample("f", at(0), 3600.0, unit="l/h"), Sample("f", at(100), 3600.0, unit="l/h")])
    outcome = feed(of, [Sample("f", at(200), 36.0, unit="m3/h")])
    assert [(s.value, s.unit) for s in samples(outcome)] == [(0.0, "m3")]
    assert [(s.value, s.unit) for s in samples(feed(of, [Sample("f", at(300), 36.0, unit="m³/h")]))] == [(1.0, "m³")]
    assert [(e["kind"], e["was"], e["total"]) for e in outcome.events] == [("unit-changed", "l/h", pytest.approx(100))]


def test_a_total_beyond_all_numbers_is_bad_and_begins_again() -> None:
    of, step = totalize()
    given = [Sample("f", at(0), 1.7e308), Sample("f", at(100), 1.0), Sample("f", at(101), 1.0)]
    assert [(s.value, s.status) for s in samples(feed(of, given))] == [(0.0, 0), (None, "too-large"), (1.0, 0)]
    assert step.counters["too-large"] == 1


def test_a_million_additions_are_exact_to_the_last_digits() -> None:
    total = rest = 0.0
    exact = Fraction(0)
    rng = np.random.default_rng(7)
    for term in (rng.normal(size=1_000_000) * 10.0 ** rng.integers(-8, 8, size=1_000_000)).tolist():
        total, rest = add(total, rest, term)
        exact += Fraction(term)
    assert abs(Fraction(total + rest) - exact) <= abs(exact) * Fraction(1, 10**12)


@given(
    sloped=st.booleans(),
    turns=st.lists(
        st.lists(
            st.tuples(
                st.integers(0, 2),
                st.one_of(st.integers(1, 5 * SECOND), st.integers(1, 90 * SECOND)),
                st.floats(-1e9, 1e9),
                st.sampled_from([0, 0, 0, 1, 2]),
                st.sampled_from([None, None, True, False]),
            ),
            max_size=8,
        ),
        max_size=6,
    ),
    stops=st.sets(st.integers(0, 5)),
)
def test_totals_are_those_of_a_slow_sum_stopped_anywhere(
    sloped: bool, turns: list[list[tuple[int, int, float, int, bool | None]]], stops: set[int]
) -> None:
    members: dict[str, Any] = {"maxGap": "60s", "sloped": sloped, "reset": "{new}", "per": "min"}
    of, _ = totalize(**members)
    now = START
    came: dict[int, list[tuple[int, float, int]]] = {0: [], 1: [], 2: []}
    resets: list[int] = []
    was = False
    for number, turn in enumerate(turns):
        batch = []
        for tag, ahead, value, quality, new in turn:
            now += ahead
            if new is not None:
                batch.append(Sample("new", now, new))
                if new and not was:
                    resets.append(now)
                was = new
            batch.append(Sample(f"f{tag}", now, value, Quality(quality)))
            came[tag].append((now, value, quality))
        outcome = feed(of, batch, (now - START) / SECOND)
        for one in samples(outcome):
            if one.tag.endswith(".total"):
                tag = int(one.tag[1])
                exact, size = slow_total(came[tag], resets, one.time, sloped)
                nearly_nothing = Fraction(1, 10**300)  # where doubles have fewer digits
                assert abs(Fraction(one.value) - exact) <= size * Fraction(1, 10**12) + nearly_nothing  # type: ignore[arg-type]
        assert of.held == 0
        if number in stops:
            state = of.save()
            of, _ = totalize(**members)
            assert of.load(state) == []


def slow_total(
    came: list[tuple[int, float, int]], resets: list[int], until: int, sloped: bool
) -> tuple[Fraction, Fraction]:
    """The total since the last reset, and the sum of the amounts of its parts."""
    first = came[0][0]
    since = max([when for when in resets if first < when <= until], default=first)
    total = size = Fraction(0)
    for (t, value, quality), (then, after, after_quality) in pairwise(one for one in came if one[0] <= until):
        if quality == 2 or then - t > 60 * SECOND or then <= since:
            continue
        begin = max(t, since)
        rise = (Fraction(after) - Fraction(value)) / (then - t) if sloped and after_quality < 2 else Fraction(0)
        ends = [Fraction(value) + rise * (when - t) for when in (begin, then)]
        part = (ends[0] + ends[1]) / 2 * Fraction(then - begin, 60 * SECOND)
        total += part
        size += (abs(Fraction(value)) + abs(Fraction(after))) * Fraction(then - t, 60 * SECOND)
    # what was before the reset leaves no trace in the sum
    return total, size


def test_other_units_of_time_begin_anew() -> None:
    of, step = totalize()
    totals(of, [Sample("f", at(0), 1.0), Sample("f", at(1), 1.0)])
    other, _ = totalize(per="h")
    assert other.load(of.save()) != []
    assert step.explain(of.tags.find("f")[0])["total"] == 1.0
