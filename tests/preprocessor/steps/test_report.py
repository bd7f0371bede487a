"""Report by exception: what passes, why, and when a silent tag is heard of again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preprocessor.engine.pipeline import Outcome, Pipeline
from preprocessor.engine.step import SECOND
from preprocessor.step_settings import ReportSettings
from preprocessor.steps.report import Report
from sluice.batch import Header, SampleBatch
from sluice.columns import Columns, Quality, Sample, Series, ValueType

from ..flows import at, feed, flow, pipeline, samples, settings, turn


def reporting(**how: Any) -> tuple[Pipeline, Report]:
    context = flow()
    step = Report("report", settings(ReportSettings, type="report", **how), context)
    return pipeline(context, step), step


def passed(of: Pipeline, values: Sequence[Any], *, first: float = 0.0, tag: str = "a") -> list[tuple[float, Any]]:
    """A value each second, one turn for each; what came out: seconds and value."""
    found: list[tuple[float, Any]] = []
    for number, value in enumerate(values):
        found += told(feed(of, [Sample(tag, at(first + number), value)], first + number))
    return found


def told(outcome: Outcome) -> list[tuple[float, Any]]:
    return [((one.time - at(0)) / SECOND, one.value) for one in samples(outcome)]


# --- bands ---


def test_a_change_by_more_than_the_band_passes_and_is_measured_from_the_last_report() -> None:
    of, _ = reporting(absolute=1.0, previous=False)
    # 0.6 steps: each is within the band of the one before, but not of the last report
    assert passed(of, [0.0, 0.6, 1.2, 1.8, 2.4]) == [(0, 0.0), (2, 1.2), (4, 2.4)]
    assert of.held == 0


def test_exactly_the_band_does_not_pass() -> None:
    of, _ = reporting(absolute=0.5, previous=False)
    assert passed(of, [10.0, 10.5, 9.5, 10.5000001]) == [(0, 10.0), (3, 10.5000001)]


def test_the_value_before_a_change_goes_out_too() -> None:
    of, _ = reporting(absolute=1.0)
    assert passed(of, [10.0, 10.1, 10.2, 20.0, 20.1, 40.0]) == [(0, 10.0), (2, 10.2), (3, 20.0), (4, 20.1), (5, 40.0)]
    assert of.held == 0


def test_the_value_before_a_change_is_not_sent_twice() -> None:
    of, _ = reporting(absolute=1.0)
    assert passed(of, [10.0, 20.0, 30.0]) == [(0, 10.0), (1, 20.0), (2, 30.0)]


def test_without_a_band_every_change_passes() -> None:
    of, _ = reporting(previous=False)
    assert passed(of, [1.0, 1.0, 1.0000000001, 1.0]) == [(0, 1.0), (2, 1.0000000001), (3, 1.0)]


def test_percent_of_range() -> None:
    of, _ = reporting(percentOfRange=2, range=[-50, 150], previous=False)
    assert passed(of, [0.0, 4.0, 4.5]) == [(0, 0.0), (2, 4.5)]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_percent_of_value_is_the_same_for_negative_values(sign: float) -> None:
    of, step = reporting(percentOfValue=10, floor=1.0, previous=False)
    given = [100.0, 109.0, 91.0, 110.5, 120.0]
    assert passed(of, [sign * value for value in given]) == [(0, sign * 100.0), (3, sign * 110.5)]
    assert step.explain(0)["band"] == pytest.approx(11.05)


def test_percent_of_value_does_not_vanish_near_zero() -> None:
    of, _ = reporting(percentOfValue=10, floor=5.0, previous=False)
    assert passed(of, [0.0, 0.4, -0.4, 0.5, 0.6, 0.0]) == [(0, 0.0), (4, 0.6), (5, 0.0)]


def test_integers_are_compared_as_integers() -> None:
    of, _ = reporting(previous=False)
    top = 2**63 - 1
    assert passed(of, [2**53, 2**53, 2**53 + 1, top, top - 1, -(2**63)]) == [
        (0, 2**53),
        (2, 2**53 + 1),
        (3, top),
        (4, top - 1),
        (5, -(2**63)),
    ]
    of, _ = reporting(absolute=1.5, previous=False)
    assert passed(of, [top, top - 1, top - 2, -(2**63), 1 - 2**63]) == [(0, top), (2, top - 2), (3, -(2**63))]


def test_texts_and_booleans_pass_when_they_change_whatever_the_band() -> None:
    of, _ = reporting(absolute=100.0, previous=False)
    assert passed(of, ["run", "run", "stop"]) == [(0, "run"), (2, "stop")]
    assert passed(of, [True, True, False], tag="b") == [(0, True), (2, False)]


# --- quality and type ---


def test_a_change_of_quality_passes_at_once_and_null_once() -> None:
    of, _ = reporting(absolute=1.0, minInterval="1h", maxInterval="2h", previous=False)
    given = [
        Sample("a", at(0), 5.0),
        Sample("a", at(1), 5.0, Quality.UNCERTAIN),
        Sample("a", at(2), None, Quality.BAD, "nan"),
        Sample("a", at(3), None, Quality.BAD, "nan"),
        Sample("a", at(4), None, Quality.UNCERTAIN),
        Sample("a", at(5), 5.0, Quality.UNCERTAIN),
        Sample("a", at(6), 5.0),
        Sample("a", at(7), 5.5),
    ]
    for cuts in (range(1, 9), [9]):
        of, _ = reporting(absolute=1.0, minInterval="1h", maxInterval="2h", previous=False)
        out: list[Sample] = []
        left = list(given)
        begun = 0
        for cut in cuts:
            out += samples(feed(of, left[begun:cut], cut))
            begun = cut
        assert [(one.time, one.quality) for one in out] == [
            (at(0), Quality.GOOD),
            (at(1), Quality.UNCERTAIN),
            (at(2), Quality.BAD),
            (at(4), Quality.UNCERTAIN),
            (at(5), Quality.UNCERTAIN),
            (at(6), Quality.GOOD),
        ]
        assert of.held == 0


def test_null_integers_are_alike_whatever_stands_in_their_place() -> None:
    of, _ = reporting(previous=False)
    for number, junk in enumerate([7, 8]):
        columns = Columns(
            ValueType.INTEGER,
            (Series("a"),),
            np.zeros(1, dtype=np.int32),
            np.array([at(number)]),
            np.array([junk]),
            np.array([2], dtype=np.uint8),
            null=np.array([True]),
        )
        out = of.turn([SampleBatch(Header("plant/line", "0123456789ab", number + 1), columns)], turn(number))
        assert len(samples(out)) == 1 - number


def test_a_change_of_type_passes_with_the_value_before_it() -> None:
    of, _ = reporting(absolute=10.0)
    assert passed(of, [1.0, 2.0, "text", "text", 3]) == [(0, 1.0), (1, 2.0), (2, "text"), (3, "text"), (4, 3)]


def test_another_unit_begins_anew() -> None:
    of, step = reporting(absolute=1.0)
    feed(of, [Sample("a", at(0), 20.0, unit="degC")])
    feed(of, [Sample("a", at(1), 20.5, unit="degC")], 1)
    out = samples(feed(of, [Sample("a", at(2), 20.6, unit="degF")], 2))
    assert [(one.value, one.unit) for one in out] == [(20.6, "degF")]
    assert (step.counters["unit_changed"], of.held) == (1, 0)
    assert samples(feed(of, [Sample("a", at(3), 20.7, unit="degF")], 3)) == []


# --- intervals ---


def test_a_change_that_comes_too_soon_waits_and_goes_out_when_nothing_else_comes() -> None:
    of, _ = reporting(absolute=1.0, minInterval="10s")
    assert passed(of, [0.0, 5.0]) == [(0, 0.0)]
    assert of.held == 1
    assert told(feed(of, [], 9.5)) == []
    assert told(feed(of, [], 10.0)) == [(1, 5.0)]
    assert of.held == 0


def test_a_change_that_is_taken_back_within_the_shortest_interval_is_not_reported() -> None:
    of, _ = reporting(absolute=1.0, minInterval="10s", previous=False)
    assert passed(of, [0.0, 5.0, 0.0]) == [(0, 0.0)]
    assert told(feed(of, [], 60.0)) == []
    assert of.held == 0


def test_noise_within_the_band_has_its_heartbeat() -> None:
    of, _ = reporting(absolute=1.0, maxInterval="10s", heartbeat="off")
    values = [5.0 + 0.01 * (number % 7) for number in range(31)]
    assert [seconds for seconds, _ in passed(of, values)] == [0, 10, 20, 30]
    # in one turn all the same
    again, _ = reporting(absolute=1.0, maxInterval="10s", heartbeat="off")
    out = feed(again, [Sample("a", at(number), value) for number, value in enumerate(values)])
    assert [seconds for seconds, _ in told(out)] == [0, 10, 20, 30]
    assert of.held == again.held == 0


def test_silence_repeats_the_last_value_known_not_the_last_reported() -> None:
    of, step = reporting(absolute=1.0, maxInterval="10s")
    feed(of, [Sample("a", at(0), 5.0, batch="B-7")], 0)
    feed(of, [Sample("a", at(1), 5.5, batch="B-7")], 1)
    out: list[Sample] = []
    for second in range(2, 60):
        out += samples(feed(of, [], second))
    assert {(one.value, one.quality, one.status, one.batch) for one in out} == {(5.5, 1, "heartbeat", "B-7")}
    times = [(one.time - at(0)) / SECOND for one in out]
    assert 11 <= times[0] < 21
    assert [b - a for a, b in itertools.pairwise(times)] == [10.0] * (len(times) - 1)
    assert (step.counters["heartbeat"], of.made, of.held) == (len(out), len(out), 0)


def test_a_value_after_a_heartbeat_passes_and_no_heartbeat_follows_it_soon() -> None:
    of, _ = reporting(absolute=1.0, maxInterval="10s")
    passed(of, [5.0])
    beats = [one for second in range(1, 25) for one in told(feed(of, [], second))]
    assert beats
    assert told(feed(of, [Sample("a", at(25), 5.0)], 25)) == [(25, 5.0)]
    assert [one for second in range(26, 35) for one in told(feed(of, [], second))] == []


@pytest.mark.parametrize("values", [[50.0], [50.0, 60.0]])
def test_changes_from_just_before_a_repeat_pass_however_many_come(values: list[float]) -> None:
    """They may have been on their way when the repeat was made."""
    of, _ = reporting(absolute=1.0, maxInterval="10s")
    feed(of, [Sample("a", at(0), 5.0, Quality.UNCERTAIN)])
    beats = [one for second in range(1, 25) for one in told(feed(of, [], second))]
    first = beats[-1][0] - 0.5
    given = [Sample("a", at(first + place / 10), value, Quality.UNCERTAIN) for place, value in enumerate(values)]
    assert [value for _, value in told(feed(of, given, 25))] == values
    assert of.held == 0


def test_a_bad_value_is_repeated_as_what_it_is() -> None:
    of, _ = reporting(maxInterval="2s")
    feed(of, [Sample("a", at(0), None, Quality.BAD, "comm-fail")])
    out = [one for second in range(1, 5) for one in samples(feed(of, [], second))]
    assert {(one.value, one.quality, one.status) for one in out} == {(None, Quality.BAD, "comm-fail")}


def test_a_pause_of_the_flow_is_no_silence_of_its_tags() -> None:
    of, _ = reporting(maxInterval="60s")
    passed(of, [5.0])
    assert told(feed(of, [], 3600)) == []
    assert told(feed(of, [Sample("a", at(3601), 5.0)], 3601)) == [(3601, 5.0)]


def test_late_samples_pass_and_change_nothing() -> None:
    of, _ = reporting(absolute=1.0, previous=False)
    passed(of, [0.0], first=10)
    assert told(feed(of, [Sample("a", at(5), 99.0)], 11)) == [(5, 99.0)]
    assert told(feed(of, [Sample("a", at(12), 0.5)], 12)) == []


def test_tags_that_are_not_meant_pass() -> None:
    of, step = reporting(absolute=1.0, tags="a*", exclude="ab")
    out = feed(of, [Sample(tag, at(second), 1.0) for tag in ("aa", "ab", "b") for second in range(3)])
    assert [(one.tag, one.time) for one in samples(out)] == [
        *(("aa", at(0)), ("ab", at(0)), ("b", at(0))),
        *((tag, at(second)) for second in (1, 2) for tag in ("ab", "b")),
    ]
    assert (of.held, step.explain(1)["applies"]) == (1, False)


def test_what_is_held_goes_out_when_the_step_is_removed_or_leaves_the_tag_alone() -> None:
    of, _ = reporting(absolute=1.0)
    passed(of, [0.0, 0.5])
    assert told(of.finish(["report"], turn(2))) == [(1, 0.5)]
    assert of.held == 0
    passed(of, [0.0, 0.5], first=5)
    other, _ = reporting(absolute=1.0, tags="b")
    assert other.load(of.save()) == []
    assert told(feed(other, [], 8)) == [(6, 0.5)]
    assert other.held == 0


# --- many tags ---


def test_75_000_silent_tags_are_all_heard_of_and_never_all_at_once() -> None:
    count, every, seconds = 75_000, 60, 240
    of, step = reporting(maxInterval=f"{every}s")
    series = tuple(Series(f"Line/{number % 97}/T{number}") for number in range(count))
    columns = Columns(
        ValueType.DOUBLE,
        series,
        np.arange(count, dtype=np.int32),
        np.full(count, at(0), dtype=np.int64),
        np.ones(count),
    )
    of.turn([SampleBatch(Header("plant/line", "0123456789ab", 1), columns)], turn(0))
    latest: dict[str, int] = {}
    widest = 0
    heard = dict.fromkeys((one.tag for one in series), 0)
    for second in range(1, seconds):
        outcome = of.turn([], turn(second))
        found = [part.series[s].tag for part in outcome.live for s in part.s.tolist()]
        assert len(found) <= 2 * count / every
        for tag in found:
            heard[tag] += 1
            if tag in latest:
                widest = max(widest, second - latest[tag])
            latest[tag] = second
    assert len(latest) == count
    assert widest <= 1.1 * every
    assert min(heard.values()) >= (seconds - 2 * every) // every
    assert step.counters["heartbeat"] == of.made == sum(heard.values())
    assert of.held == 0


# --- against a slow reference ---


class Reference:
    """The same for one tag, sample by sample, as it is written in the rules; numbers as fractions, no timers."""

    def __init__(self, how: ReportSettings) -> None:
        self.how = how
        self.last: Sample | None = None
        self.previous: Sample | None = None

    def push(self, one: Sample) -> list[Sample]:
        last, held = self.last, self.previous
        if last is None or self._class(last) != self._class(one):
            return self._emit(one, held)
        far = self._far(one.value, last.value)
        if far and one.time - last.time >= round(self.how.min_interval * SECOND):
            return self._emit(one, held)
        if self.how.max_interval is not None and one.time - last.time >= round(self.how.max_interval * SECOND):
            return self._emit(one, None)
        self.previous = one
        return []

    def _emit(self, one: Sample, held: Sample | None) -> list[Sample]:
        self.last, self.previous = one, None
        return [one] if held is None or not self.how.previous else [held, one]

    @staticmethod
    def _class(one: Sample) -> tuple[Any, ...]:
        return (None if one.value is None else type(one.value), one.quality, one.value is None)

    def _far(self, value: Any, last: Any) -> bool:
        if value is None:
            return False
        if isinstance(value, (bool, str)):
            return bool(value != last)
        distance = abs(Fraction(value) - Fraction(last))
        band = Fraction(0)
        if self.how.absolute is not None:
            band = Fraction(self.how.absolute)
        elif self.how.percent_of_value is not None and self.how.floor is not None:
            band = Fraction(self.how.percent_of_value) / 100 * max(abs(Fraction(last)), Fraction(self.how.floor))
        return distance > band


# Values on a grid of quarters: distances and bands are exact as floats, so that the reference is right to the last bit.
NUMBERS = st.integers(-12, 12).map(lambda n: n / 4)
VALUES = st.one_of(NUMBERS, NUMBERS, NUMBERS, st.integers(-3, 3), st.booleans(), st.sampled_from(["on", "off"]))
BANDS: list[dict[str, Any]] = [
    {},
    {"absolute": 0.5},
    {"absolute": 1.25, "minInterval": "3s"},
    {"percentOfValue": 50, "floor": 1.0},
    {"absolute": 0.5, "maxInterval": "5s", "heartbeat": "off"},
    {"percentOfValue": 25, "floor": 0.5, "minInterval": "2s", "maxInterval": "9s", "heartbeat": "off"},
]


@st.composite
def histories(draw: st.DrawFn) -> list[list[Sample]]:
    """Turns of samples of some tags; each tag's times rise, and each keeps mostly to one type."""
    second = 0
    turns = []
    of = {tag: draw(st.sampled_from([NUMBERS, NUMBERS, VALUES])) for tag in "abc"}
    for _ in range(draw(st.integers(1, 8))):
        rows = []
        for _ in range(draw(st.integers(0, 12))):
            second += draw(st.integers(1, 3))
            tag = draw(st.sampled_from("abc"))
            quality = draw(st.sampled_from([Quality.GOOD] * 6 + [Quality.UNCERTAIN, Quality.BAD]))
            null = quality is not Quality.GOOD and draw(st.booleans())
            rows.append(Sample(tag, at(second), None if null else draw(of[tag]), quality))
        turns.append(rows)
    return turns


def one_type_a_turn(turns: list[list[Sample]]) -> list[list[Sample]]:
    """Batches are of one type, so that rows of different types of a tag have no order within a turn: cut there."""
    found = []
    for rows in turns:
        piece: list[Sample] = []
        for row in rows:
            if piece and type(row.value) is not type(piece[-1].value):
                found.append(piece)
                piece = []
            piece.append(row)
        found.append(piece)
    return found


@given(histories(), st.sampled_from(BANDS), st.booleans(), st.data())
def test_it_reports_what_the_rules_say_wherever_turns_end_and_state_is_saved(
    turns: list[list[Sample]], band: dict[str, Any], previous: bool, data: st.DataObject
) -> None:
    # Null has the type double here, unless its tag says otherwise in the same turn: give nulls of one type only.
    turns = one_type_a_turn(turns)
    how = {**band, "previous": previous}
    of, step = reporting(**how)
    references: dict[str, Reference] = {}
    expected: list[Sample] = []
    found: list[Sample] = []
    for number, rows in enumerate(turns):
        for row in rows:
            expected += references.setdefault(row.tag, Reference(step.settings)).push(row)
        # The steady clock stands still: what timers do is tested by itself.
        found += samples(feed(of, rows))
        if data.draw(st.booleans(), label=f"restart after turn {number}"):
            saved = of.save()
            of, step = reporting(**how)
            assert of.load(saved) == []
            assert of.save() == saved
    waiting = step._waiting
    held = sum(reference.previous is not None for reference in references.values())
    assert [(s.tag, s.time, s.value, s.quality) for s in sorted(found, key=lambda s: (s.tag, s.time))] == [
        (s.tag, s.time, s.value, s.quality) for s in sorted(expected, key=lambda s: (s.tag, s.time))
    ]
    assert of.held == (held if previous else int(waiting.sum()))


# --- settings ---


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"absolute": 1, "percentOfRange": 1, "range": [0, 1]}, "absolute and percentOfRange"),
        ({"percentOfRange": 1}, "percentOfRange and range together"),
        ({"absolute": 1, "range": [0, 1]}, "percentOfRange and range together"),
        ({"percentOfRange": 1, "range": [1, 1]}, "does not rise"),
        ({"percentOfValue": 1}, "floor together"),
        ({"minInterval": "10s", "maxInterval": "10s"}, "not longer than minInterval"),
    ],
)
def test_bands_that_make_no_sense_are_refused(how: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        settings(ReportSettings, type="report", **how)
