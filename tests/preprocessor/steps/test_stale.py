"""Stale: silence by the steady clock, told once, ended by whatever comes."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engine.pipeline import Pipeline
from preprocessor.engine.step import Turn
from preprocessor.step_settings import StaleSettings
from preprocessor.steps.stale import Stale
from sluice.columns import Quality, Sample

from ..flows import at, batch, feed, flow, pipeline, samples, settings, turn
from .judging import Turns, at_s, judged, run, series, told


def make(**members: object) -> Pipeline:
    context = flow()
    given_ = {"type": "stale", "after": "10s", **members}
    return pipeline(context, Stale("stale", settings(StaleSettings, **given_), context))


def quiet(begin: int, end: int) -> Turns:
    return [(second, []) for second in range(begin, end)]


def test_told_once_and_ended_by_the_next_row() -> None:
    turns = [(0, series("a", [7.0])), *quiet(1, 30), (30, series("a", [8.0], begin=30)), *quiet(31, 35)]
    for cuts in ((), (5, 15, 31)):
        out, events, of = run(make, turns, cuts)
        assert [(at_s(s.time), s.value, int(s.quality), s.status) for s in out] == [
            (0.0, 7.0, 0, 0),
            (10.0, 7.0, 1, "stale"),
            (30.0, 8.0, 0, 0),
        ]
        assert told(events, "kind", "check", "state", "tag", "value", "since", "time_ns") == [
            ("sensor", "stale", "begin", "a", 7.0, 0.0, 10.0),
            ("sensor", "stale", "end", "a", 8.0, 0.0, 30.0),
        ]
        assert (of.held, of.made) == (0, 1)


def test_a_step_that_is_removed_tells_the_end() -> None:
    _, _, of = run(make, [(0, series("a", [7.0])), *quiet(1, 12)])
    assert told(of.finish(["stale"], turn(15)).events, "state", "tag", "time_ns") == [("end", "a", 15.0)]


def test_with_event_nothing_is_repeated() -> None:
    out, events, of = run(lambda: make(action="event"), [(0, series("a", [7.0])), *quiet(1, 15)])
    assert (len(out), len(events), of.made) == (1, 1, 0)


def test_texts_and_bad_values_are_repeated_as_they_were() -> None:
    given_ = [Sample("t", at(0), "RUN"), Sample("b", at(0), None, Quality.BAD, 7), Sample("n", at(0), 2**60)]
    out, _, _ = run(make, [(0, given_), *quiet(1, 12)])
    assert [(s.tag, s.value, int(s.quality), s.status) for s in out if s.time == at(10)] == [
        ("b", None, 2, 7),
        ("n", 2**60, 1, "stale"),
        ("t", "RUN", 1, "stale"),
    ]


def test_while_nothing_was_running_nobody_was_silent() -> None:
    of = make()
    feed(of, series("a", [7.0]))
    again = make()
    assert again.load(of.save()) == []
    for second in range(3_600, 3_610):
        assert feed(again, [], second).events == []
    assert told(feed(again, [], 3_610).events, "state", "time_ns") == [("begin", 10.0)]


def test_a_clock_that_is_set_makes_nobody_silent() -> None:
    of = make()
    of.turn(batch(series("a", [7.0])), turn(0))
    for second in range(1, 10):
        assert of.turn([], Turn(at(second + 7_200), turn(second).steady, trusted=False)).events == []


def test_what_comes_then_and_is_older_than_the_repeat_is_late_behind_it() -> None:
    context = flow()
    first = Stale("first", settings(StaleSettings, type="stale", after="10s", order=1), context)
    second = Stale("second", settings(StaleSettings, type="stale", after="5000s", order=2), context)
    of = pipeline(context, first, second)
    feed(of, series("a", [7.0]))
    for now in range(1, 12):
        feed(of, [], now)
    assert judged(samples(feed(of, series("a", [8.0], begin=4), 12))) == [(8.0, 0, 0)]
    assert second._rows.value(0) == 7.0, "the repeat is what it knows as the newest"
    feed(of, series("a", [9.0], begin=13), 13)
    assert second._rows.value(0) == 9.0


def test_all_tags_at_once_are_found_a_part_in_each_turn() -> None:
    of = make(action="event")
    feed(of, [Sample(f"t{i}", at(0), 1.0) for i in range(6_000)])
    found = [len(feed(of, [], second).events) for second in range(1, 13)]
    assert found == [0] * 9 + [5_000, 1_000, 0]


def test_a_turn_without_news_costs_nearly_nothing_with_many_tags() -> None:
    of = make()
    feed(of, [Sample(f"t{i}", at(0), 1.0) for i in range(100_000)])
    best = min(_timed(of, 0.1 + i / 100) for i in range(5))
    assert best < 0.02, f"{best * 1000:.1f} ms"


def _timed(of: Pipeline, second: float) -> float:
    begin = time.perf_counter()
    feed(of, [], second)
    return time.perf_counter() - begin


def slow(seconds: list[int], end: int) -> list[tuple[str, int]]:
    """Second by second."""
    found: list[tuple[str, int]] = []
    last = None
    for second in range(end):
        if second in seconds:
            if found and found[-1][0] == "begin":
                found.append(("end", second))
            last = second
        elif last is not None and second - last == 10:
            found.append(("begin", second))
    return found


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 70)))
def test_as_second_by_second(seconds: set[int], cuts: set[int]) -> None:
    turns = [(second, series("a", [1.0], begin=second) if second in seconds else []) for second in range(72)]
    _, events, of = run(lambda: make(action="event"), turns, cuts)
    assert of.held == 0
    assert told(events, "state", "time_ns") == slow(sorted(seconds), 72)
