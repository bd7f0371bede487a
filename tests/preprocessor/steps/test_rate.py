"""Rate: a value that cannot be reached from the last believed one is doubtful, until a second one agrees with it."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engine.pipeline import Pipeline
from preprocessor.step_settings import RateSettings
from preprocessor.steps.rate import Rate
from sluice.columns import Quality, Sample

from ..flows import at, flow, pipeline, settings
from .judging import judged, parts, run, series, told


def make(**members: object) -> Pipeline:
    context = flow()
    return pipeline(context, Rate("rate", settings(RateSettings, type="rate", **{"limit": 2, **members}), context))


def doubtful(values: list[float | None]) -> list[bool]:
    out, _, of = run(make, [(0, series("a", values))])
    assert of.held == 0
    return [status == "rate" for _, _, status in judged(out)]


def test_a_change_as_fast_as_allowed_is_believed() -> None:
    assert doubtful([0.0, 2.0, 4.0, 1.9]) == [False, False, False, True]


def test_the_way_back_from_a_spike_is_believed() -> None:
    assert doubtful([10.0, 10.0, 99.0, 10.0, 10.0]) == [False, False, True, False, False]


def test_a_level_that_two_values_agree_on_is_believed() -> None:
    assert doubtful([10.0, 99.0, 99.5, 99.0]) == [False, True, False, False]


def test_a_ramp_that_is_too_fast_is_doubted_all_the_way() -> None:
    assert doubtful([0.0, 5.0, 10.0, 15.0, 20.0]) == [False, True, True, True, True]


def test_after_a_pause_more_is_possible() -> None:
    out, _, _ = run(make, [(0, [*series("a", [0.0]), *series("a", [20.0], begin=10)])])
    assert judged(out) == [(0.0, 0, 0), (20.0, 0, 0)]


def test_bad_values_are_not_compared() -> None:
    out, _, _ = run(
        make, [(0, [Sample("a", at(0), 1.0), Sample("a", at(1), 99.0, Quality.BAD), Sample("a", at(2), 2.0)])]
    )
    assert judged(out) == [(1.0, 0, 0), (99.0, 2, 0), (2.0, 0, 0)]


def test_events_on_transitions_only() -> None:
    turns = [(i, series("a", [value], begin=i)) for i, value in enumerate([0.0, 50.0, 100.0, 150.0, 0.0])]
    for cuts in ((), (1, 2, 3, 4)):
        _, events, _ = run(lambda: make(event=True), turns, cuts)
        assert told(events, "check", "state", "value", "since", "time_ns") == [
            ("rate", "begin", 50.0, 1.0, 1.0),
            ("rate", "end", 0.0, 1.0, 4.0),
        ]


def test_drop_and_hold() -> None:
    turns = [(0, series("a", [1.0, 99.0, 1.0]))]
    out, _, of = run(lambda: make(action="drop"), turns)
    assert (judged(out), of.dropped, of.held) == ([(1.0, 0, 0), (1.0, 0, 0)], 1, 0)
    out, _, _ = run(lambda: make(action="hold"), turns)
    assert judged(out) == [(1.0, 0, 0), (1.0, 1, "held"), (1.0, 0, 0)]


def test_another_unit_begins_anew() -> None:
    turns = [(0, [Sample("a", at(0), 1.0, unit="bar")]), (1, [Sample("a", at(1), 14.5, unit="psi")])]
    out, _, _ = run(make, turns)
    assert judged(out) == [(1.0, 0, 0), (14.5, 0, 0)]


def slow(rows: list[tuple[int, float]]) -> list[bool]:
    """With fractions, and by looking back over all of the past."""
    found: list[bool] = []
    for time, value in rows:
        past = list(zip(rows, found, strict=False))
        anchors = [row for row, doubt in past if not doubt][-1:]
        if past and past[-1][1]:
            anchors.append(past[-1][0])
        slopes = [abs(Fraction(value) - Fraction(v)) / Fraction(time - t, 10**9) for t, v in anchors]
        found.append(bool(slopes) and min(slopes) > 2)
    return found


ROWS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 24), st.integers(1, 3)), max_size=40)


@given(ROWS, st.lists(st.integers(0, 40), max_size=6), st.sets(st.integers(0, 7)))
def test_as_by_looking_back(rows: list[tuple[str, int, int]], turns: list[int], cuts: set[int]) -> None:
    time, given_ = 0, []
    for tag, value, pause in rows:
        time += pause
        given_.append(Sample(tag, at(time), float(value)))
    out, _, of = run(make, parts(given_, turns, 0.1), cuts)
    assert of.held == 0
    for tag in "ab":
        wanted = slow([(s.time, s.value) for s in given_ if s.tag == tag])  # type: ignore[misc]
        assert [s.status == "rate" for s in out if s.tag == tag] == wanted
