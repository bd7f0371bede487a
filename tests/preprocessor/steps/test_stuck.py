"""Stuck: a run of values within the band, long enough and of enough samples."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engine.pipeline import Pipeline
from preprocessor.step_settings import StuckSettings
from preprocessor.steps.stuck import Stuck
from sluice.columns import Quality, Sample

from ..flows import at, flow, pipeline, settings
from .judging import judged, parts, run, series, told


def make(**members: object) -> Pipeline:
    context = flow()
    given_ = {"type": "stuck", "for": "3s", "samples": 3, "within": 0.5, **members}
    return pipeline(context, Stuck("stuck", settings(StuckSettings, **given_), context))


def qualities(values: list[float | None], **members: object) -> list[int]:
    out, _, of = run(lambda: make(**members), [(0, series("a", values))])
    assert of.held == 0
    return [quality for _, quality, _ in judged(out)]


def test_enough_samples_for_long_enough() -> None:
    assert qualities([1.0, 1.1, 1.2, 1.0, 1.3, 2.0, 2.0]) == [0, 0, 0, 1, 1, 0, 0]
    assert qualities([1.0] * 7, samples=6) == [0, 0, 0, 0, 0, 1, 1]
    assert qualities([1.0] * 7, **{"for": "5s"}) == [0, 0, 0, 0, 0, 1, 1]


def test_the_band_is_between_the_greatest_and_the_smallest() -> None:
    assert qualities([1.0, 1.5, 1.0, 1.5, 1.25]) == [0, 0, 0, 1, 1], "0.5 is within 0.5"
    assert qualities([1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5]) == [0] * 7, "a slow drift is movement"


def test_what_is_no_value_neither_ends_nor_counts() -> None:
    assert qualities([1.0, None, 1.0, None, 1.0]) == [0, 2, 0, 2, 1]


def test_a_source_that_leaves_out_repeats_makes_no_false_end() -> None:
    turns = [(0, series("a", [1.0] * 4)), (500, series("a", [1.25], begin=500)), (900, series("a", [3.0], begin=900))]
    out, events, _ = run(make, turns)
    assert [quality for _, quality, _ in judged(out)] == [0, 0, 0, 1, 1, 0]
    assert told(events, "check", "state", "value", "since", "time_ns") == [
        ("stuck", "begin", 1.0, 0.0, 3.0),
        ("stuck", "end", 3.0, 0.0, 900.0),
    ]


def test_not_while_the_machine_stands() -> None:
    def running(seconds: float, value: bool) -> Sample:
        return Sample("Run", at(seconds), value)

    turns = [
        (0, [running(0, True), *series("a", [1.0] * 5)]),
        (5, [running(5, False), *series("a", [1.0] * 5, begin=5)]),
        (10, [running(10, True), *series("a", [1.0] * 5, begin=10)]),
    ]
    for cuts in ((), (1,), (2,), (1, 2)):
        out, events, _ = run(lambda: make(tags="a", when="{Run}"), turns, cuts)
        assert [quality for _, quality, _ in judged(out)] == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]
        assert told(events, "state", "time_ns") == [("begin", 3.0), ("end", 5.0), ("begin", 13.0)]


def test_while_the_gate_is_not_known_nothing_is_judged() -> None:
    out, events, _ = run(lambda: make(tags="a", when="{Run}"), [(0, series("a", [1.0] * 9))])
    assert {quality for _, quality, _ in judged(out)} == {0}
    assert events == []


def test_drop_and_hold() -> None:
    out, _, of = run(lambda: make(action="drop"), [(0, series("a", [1.0, 1.1, 1.2, 1.3, 1.4, 5.0]))])
    assert [value for value, _, _ in judged(out)] == [1.0, 1.1, 1.2, 5.0]
    assert (of.dropped, of.held) == (2, 0)
    out, _, _ = run(lambda: make(action="hold"), [(0, series("a", [1.0, 1.1, 1.2, 1.3, 1.4, 5.0]))])
    assert judged(out)[3:] == [(1.2, 1, "held"), (1.2, 1, "held"), (5.0, 0, 0)]


def test_another_unit_begins_anew() -> None:
    turns = [
        (0, [Sample("a", at(i), 1.0, unit="bar") for i in range(3)]),
        (3, [Sample("a", at(i), 1.0, unit="psi") for i in range(3, 7)]),
    ]
    out, _, _ = run(make, turns)
    assert [quality for _, quality, _ in judged(out)] == [0, 0, 0, 0, 0, 0, 1]


def slow(rows: list[tuple[int, float]], samples: int, long: int, within: float) -> list[bool]:
    """For each value: the runs of all values so far made again from the first, then the last of them looked at."""
    found = []
    for last in range(len(rows)):
        runs: list[list[tuple[int, float]]] = []
        for row in rows[: last + 1]:
            band = [value for _, value in (*runs[-1], row)] if runs else []
            if band and max(band) - min(band) <= within:
                runs[-1].append(row)
            else:
                runs.append([row])
        found.append(len(runs[-1]) >= samples and runs[-1][-1][0] - runs[-1][0][0] >= long)
    return found


ROWS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.sampled_from([0, 0, 0, 2]), st.integers(1, 3)), max_size=40
)


@given(ROWS, st.lists(st.integers(0, 40), max_size=6), st.sets(st.integers(0, 7)))
def test_as_made_again_from_the_first(rows: list[tuple[str, int, int, int]], turns: list[int], cuts: set[int]) -> None:
    time, given_ = 0, []
    for tag, value, quality, pause in rows:
        time += pause
        given_.append(Sample(tag, at(time), value / 2, Quality(quality)))
    out, events, of = run(make, parts(given_, turns, 0.1), cuts)
    assert of.held == 0
    begins = 0
    for tag in "ab":
        values = [(s.time, s.value) for s in given_ if s.tag == tag and s.quality < 2]
        wanted = slow(values, 3, 3 * 10**9, 0.5)  # type: ignore[arg-type]
        assert [s.status == "stuck" for s in out if s.tag == tag and s.quality < 2] == wanted
        begins += sum(now and not before for before, now in zip([False, *wanted], wanted, strict=False))
    assert sum(event["state"] == "begin" for event in events) == begins


@given(st.lists(st.floats(-10, 10), max_size=20), st.lists(st.floats(0, 0.5), min_size=9, max_size=20))
def test_who_stays_in_the_band_for_twice_as_long_is_found(moving: list[float], still: list[float]) -> None:
    assert 1 in qualities([*moving, *still])[len(moving) :]
