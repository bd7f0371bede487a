"""Spike: far from the median of its neighbours, and not confirmed by the next value."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engine.pipeline import Pipeline
from preprocessor.step_settings import SpikeSettings
from preprocessor.steps.spike import Spike
from sluice.columns import Quality, Sample

from ..flows import at, feed, flow, pipeline, samples, settings, turn
from .judging import judged, parts, run, series, told

CALM = [10.0, 10.2, 9.8, 10.1, 9.9]


def make(**members: object) -> Pipeline:
    context = flow()
    given_ = {"type": "spike", "window": 5, "threshold": 4, **members}
    return pipeline(context, Spike("spike", settings(SpikeSettings, **given_), context))


def spikes(values: list[float | None], **members: object) -> list[bool]:
    out, _, of = run(lambda: make(**members), [(0, series("a", values, 0.1)), (60, [])])
    assert of.held == 0
    assert [value for value, _, _ in judged(out)] == values
    return [status == "spike" for _, _, status in judged(out)]


def test_one_value_far_from_its_neighbours() -> None:
    assert spikes([*CALM, 50.0, 10.0, 10.1]) == [False] * 5 + [True, False, False]
    assert spikes([*CALM, 50.0, -50.0, 10.0]) == [False] * 5 + [True, True, False]


def test_a_second_value_that_agrees_proves_a_step() -> None:
    assert spikes([*CALM, 50.0, 50.1, 50.0, 50.2, 49.9, 50.0, 10.0, 50.1]) == [False] * 11 + [True, False]


def test_a_value_within_the_noise_passes() -> None:
    assert spikes([*CALM, 10.5]) == [False] * 6, "4 * 1.4826 * 0.1 = 0.59"
    assert spikes([*CALM, 10.6, 10.0]) == [False] * 5 + [True, False]
    assert spikes([*CALM, 10.6, 10.0], floor=0.7) == [False] * 7


def test_before_the_window_is_full_nothing_is_judged() -> None:
    assert spikes([10.0, 99.0, 10.0, 10.0]) == [False] * 4


def test_a_candidate_waits_for_the_next_value() -> None:
    of = make()
    feed(of, series("a", CALM))
    assert samples(feed(of, series("a", [50.0], begin=5), 5)) == []
    assert of.held == 1
    assert judged(samples(feed(of, series("a", [10.0], begin=6), 6))) == [(50.0, 1, "spike"), (10.0, 0, 0)]
    assert of.held == 0


def test_nothing_confirms_it_in_time() -> None:
    of = make()
    feed(of, series("a", CALM))
    feed(of, series("a", [50.0], begin=5), 5)
    assert samples(feed(of, [], 6.9)) == [], "twice its interval of a second"
    assert judged(samples(feed(of, [], 7.1))) == [(50.0, 1, "spike")]
    out = samples(feed(of, series("a", [50.1, 50.0], begin=30), 30))
    assert judged(out) == [(50.1, 0, 0), (50.0, 0, 0)], "a step all the same"


def test_after_a_pause_of_the_component_the_next_value_still_has_time_to_come() -> None:
    of = make()
    for i, value in enumerate([*CALM, 50.0]):
        feed(of, series("a", [value], begin=i), i)
    again = make()
    assert again.load(of.save()) == []
    assert samples(feed(again, [], 3_600)) == []
    assert judged(samples(feed(again, series("a", [50.1], begin=6), 3_601))) == [(50.0, 0, 0), (50.1, 0, 0)]


@pytest.mark.parametrize(
    "after", [(None, Quality.BAD), (None, Quality.UNCERTAIN), ("Bad", Quality.GOOD), (7.0, Quality.BAD)]
)
def test_no_row_overtakes_a_candidate(after: tuple[float | str | None, Quality]) -> None:
    of = make()
    assert len(samples(feed(of, series("a", [*CALM, 50.0])))) == 5
    out = samples(feed(of, [Sample("a", at(6), *after)], 1))
    assert judged(out) == [(50.0, 1, "spike"), (after[0], int(after[1]), 0)]
    assert of.held == 0


def test_nor_in_the_same_turn() -> None:
    of = make()
    out = samples(feed(of, series("a", [*CALM, 50.0, None, 50.0])))
    assert judged(out)[5:] == [(50.0, 1, "spike"), (None, 2, 0), (50.0, 0, 0)], "the second agrees with the first"
    assert of.held == 0


def test_a_late_row_passes_it() -> None:
    of = make()
    feed(of, series("a", [*CALM, 50.0]))
    assert judged(samples(feed(of, series("a", [3.0], begin=4.5), 1))) == [(3.0, 0, 0)]
    assert of.held == 1


def test_drop_and_hold_and_events() -> None:
    turns = [(0, series("a", [*CALM, 50.0])), (1, series("a", [10.0], begin=6))]
    for cuts in ((), (1,)):
        out, events, of = run(lambda: make(action="drop", event=True), turns, cuts)
        assert [value for value, _, _ in judged(out)] == [*CALM, 10.0]
        assert (of.dropped, of.held) == (1, 0)
        assert told(events, "check", "state", "value", "since", "time_ns") == [("spike", "single", 50.0, 5.0, 5.0)]
        out, _, of = run(lambda: make(action="hold"), turns, cuts)
        assert judged(out)[5:] == [(9.9, 1, "held"), (10.0, 0, 0)]
        assert of.held == 0


def test_whole_numbers_stay_whole() -> None:
    big = 2**53 + 1
    rows = [Sample("n", at(i), value) for i, value in enumerate([1, 2, 3, 2, 1, big, 2])]
    out, _, _ = run(make, [(0, rows[:6]), (1, rows[6:])])
    assert judged(out, "n")[5:] == [(big, 1, "spike"), (2, 0, 0)]


def test_finish_gives_up_what_waits() -> None:
    of = make()
    feed(of, series("a", [*CALM, 50.0]))
    assert of.held == 1
    assert judged(samples(of.finish(["spike"], turn(1)))) == [(50.0, 1, "spike")]
    assert of.held == 0


def test_a_window_goes_on_with_another_size() -> None:
    of = make(window=7)
    feed(of, series("a", [1.0, 1.0, *CALM]))
    smaller = make(window=5)
    assert smaller.load(of.save()) == []
    assert smaller.steps[0].explain(0)["window"] == CALM
    larger = make(window=9)
    assert larger.load(of.save()) == []
    assert larger.steps[0].explain(0)["window"] == [1.0, 1.0, *CALM]


def slow(values: list[float], size: int) -> list[bool]:
    """By the definition, with the statistics of the standard library."""
    verdict = [False] * len(values)
    window: list[float] = []
    place = 0
    while place < len(values):
        value = values[place]
        if len(window) < size:
            window.append(value)
            place += 1
            continue
        middle = statistics.median(window)
        reach = max(4 * 1.4826 * statistics.median([abs(one - middle) for one in window]), 0.3)
        if abs(value - middle) <= reach:
            window = [*window[1:], value]
        elif place + 1 < len(values) and abs(values[place + 1] - value) <= reach:
            window = [value, values[place + 1]]
            place += 1
        else:
            verdict[place] = True
        place += 1
    return verdict


VALUES = st.lists(
    st.tuples(st.sampled_from("aab"), st.sampled_from([0, 0, 0, 0, 1, 2, 3, 40, 41, 42, -70])), min_size=1, max_size=60
)


@given(VALUES, st.integers(3, 8), st.lists(st.integers(0, 60), max_size=40), st.sets(st.integers(0, 40)))
def test_as_by_the_definition(rows: list[tuple[str, int]], size: int, turns: list[int], cuts: set[int]) -> None:
    given_ = [Sample(tag, at(i), value / 4) for i, (tag, value) in enumerate(rows)]
    out, _, of = run(
        lambda: make(window=size, floor=0.3), [*parts(given_, turns, 0.01), (4, []), (8, []), (12, [])], cuts
    )
    assert of.held == 0
    for tag in "ab":
        values = [s.value for s in given_ if s.tag == tag]
        assert [s.value for s in out if s.tag == tag] == values
        assert [s.status == "spike" for s in out if s.tag == tag] == slow(values, size)  # type: ignore[arg-type]


def test_of_noise_hardly_anything_is_a_spike_and_all_real_ones_are_found() -> None:
    chance = random.Random(7)
    values = [chance.gauss(100, 1) for _ in range(5_000)]
    places = set(range(50, 5_000, 100))
    given_ = [value + 30 if i in places else value for i, value in enumerate(values)]
    found = {i for i, spike in enumerate(spikes(list(given_), window=11, threshold=5)) if spike}
    assert places <= found
    assert len(found - places) < 50, "1 % of good values"
