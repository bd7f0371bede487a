"""The quality gate: what statuses, words and numbers in texts mean, and what becomes of what is not good."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preprocessor.engine.pipeline import Pipeline
from preprocessor.numbers import number, whole
from preprocessor.step_settings import QualitySettings
from preprocessor.steps.quality import WORDS, QualityGate
from sluice.batch import SampleBatch
from sluice.columns import Quality, Sample, ValueType, from_samples

from ..flows import at, batch, feed, flow, pipeline, samples, settings, turn

GOOD, UNCERTAIN, BAD = Quality.GOOD, Quality.UNCERTAIN, Quality.BAD


def gate(**members: Any) -> tuple[Pipeline, QualityGate]:
    context = flow()
    step = QualityGate("gate", settings(QualitySettings, type="quality", **members), context)
    return pipeline(context, step), step


def one(sample: Sample, **members: Any) -> tuple[Any, ...] | None:
    """Value, quality and status of a sample behind the gate; None when it was dropped."""
    of, _ = gate(**members)
    out = samples(feed(of, [sample]))
    assert of.held == 0
    return (out[0].value, out[0].quality, out[0].status) if out else None


# --- words ---


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("word", list(WORDS))
def test_every_known_word_is_no_value(word: str, numbers: bool) -> None:
    assert one(Sample("t", at(0), word), numbers=numbers) == (None, WORDS[word], word)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("BAD", "BAD"),
        ("bad", "bad"),
        (" Bad ", "Bad"),
        ("Inp  OutRange", "Inp  OutRange"),
        ("scan timeout", "scan timeout"),
        ("nan", "nan"),
        ("NULL", "NULL"),
    ],
)
def test_case_and_blanks_of_a_word_do_not_count_and_it_is_kept_as_written(text: str, status: str) -> None:
    assert one(Sample("t", at(0), text), numbers=True) == (None, BAD, status)


@pytest.mark.parametrize("text", ["Badly", "Running", "", "Bad" * 50, "x" * 100_000, "Auto"])
def test_other_texts_stay_what_they_are(text: str) -> None:
    assert one(Sample("t", at(0), text)) == (text, GOOD, 0)


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        ({"Maintenance": "uncertain"}, "maintenance", (None, UNCERTAIN, "maintenance")),
        ({"-9999": "bad"}, "-9999", (None, BAD, "-9999")),  # a number that means none
        ({"Shutdown": "good"}, "Shutdown", ("Shutdown", GOOD, 0)),  # here a state like any other
        ({"Bad": "uncertain"}, "Bad", (None, UNCERTAIN, "Bad")),
    ],
)
def test_words_of_a_plants_own(words: dict[str, str], text: str, expected: tuple[Any, ...]) -> None:
    assert one(Sample("t", at(0), text), words=words) == expected


def test_a_number_that_means_none_goes_before_numbers() -> None:
    assert one(Sample("t", at(0), "-9999"), words={"-9999": "bad"}, numbers=True) == (None, BAD, "-9999")
    assert one(Sample("t", at(0), "-9998"), words={"-9999": "bad"}, numbers=True) == (-9998.0, GOOD, 0)


def test_a_word_makes_no_quality_better() -> None:
    assert one(Sample("t", at(0), "Doubtful", BAD, 7)) == (None, BAD, "Doubtful")


@pytest.mark.parametrize("words", [{"": "bad"}, {"x" * 65: "bad"}, {"On Hold": "bad", "on  hold": "good"}])
def test_words_that_make_no_sense_are_refused(words: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        settings(QualitySettings, type="quality", words=words)


# --- numbers in texts ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12.5", 12.5),
        (" 12.5 ", 12.5),
        ("1e3", 1000.0),
        ("-0.0", -0.0),
        ("+7", 7.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0012", 12.0),
        ("9007199254740993", 9007199254740992.0),
        ("1E-400", 0.0),
    ],
)
def test_texts_that_are_numbers(text: str, value: float) -> None:
    assert one(Sample("t", at(0), text), numbers=True) == (value, GOOD, 0)
    read = number(text)
    assert read is not None
    assert read.hex() == value.hex()


@pytest.mark.parametrize(
    "text",
    [
        *("12,5", "1,000", "0x10", "1_000", "inf", "-Infinity", "1e400", "", "  ", "1 2", "1.2.3", "--1"),
        *("\N{ARABIC-INDIC DIGIT THREE}", "12.5 degC", "e5", ".", "1e", "9" * 500),
    ],
)
def test_texts_that_are_none_are_told_apart(text: str) -> None:
    assert one(Sample("t", at(0), text), numbers=True) == (None, BAD, "not-a-number")


@given(st.text(alphabet="0123456789+-.eEx_, infa", max_size=12))
def test_nothing_that_is_not_plainly_a_number_becomes_one(text: str) -> None:
    plain = re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", text.strip(" "))
    value = number(text)
    if plain is None or math.isinf(float(text)):
        assert value is None
    else:
        assert value == float(text)


@given(st.integers(-(2**64), 2**64))
def test_integers_in_texts_are_exact(value: int) -> None:
    assert whole(f" {value} ") == (value if -(2**63) <= value < 2**63 else None)


def test_what_is_no_number_is_told_once_a_minute_for_each_tag() -> None:
    of, step = gate(numbers=True)
    first = feed(of, [Sample("a", at(0), "12,5"), Sample("a", at(1), "12,6"), Sample("b", at(0), "?")], 1).events
    assert [(e["kind"], e["tag"], e["example"], e["samples"]) for e in first] == [
        ("not-a-number", "a", "12,5", 2),
        ("not-a-number", "b", "?", 1),
    ]
    assert feed(of, [Sample("a", at(2), "12,7")], 30).events == []
    assert [(e["tag"], e["samples"]) for e in feed(of, [Sample("a", at(3), "12,8")], 62).events] == [("a", 2)]
    assert step.counters["not-a-number"] == 5
    assert of.held == 0


def test_a_flood_of_them_is_told_over_several_turns() -> None:
    of, _ = gate(numbers=True)
    tags = [f"t{i}" for i in range(250)]
    told = [len(feed(of, [Sample(tag, at(i), "?") for tag in tags], i).events) for i in range(4)]
    assert told == [100, 100, 50, 0]


# --- one stream of a tag ---


def outcome_types(of: Pipeline, given: Sequence[Sample], seconds: float = 0.0) -> list[ValueType]:
    return [columns.type for columns in feed(of, given, seconds).live]


def test_a_word_is_a_null_of_the_type_that_its_tag_has() -> None:
    of, _ = gate()
    feed(
        of,
        [Sample("real", at(0), 1.5), Sample("count", at(0), 7), Sample("on", at(0), True), Sample("name", at(0), "x")],
    )
    out = feed(of, [Sample(tag, at(1), "Bad") for tag in ("real", "count", "on", "name", "new")])
    assert {sample.tag: columns.type.value for columns in out.live for sample in columns.samples()} == {
        "real": "double",
        "count": "integer",
        "on": "boolean",
        "name": "string",
        "new": "string",
    }
    assert all(sample.value is None and sample.quality is BAD for sample in samples(out))
    assert of.held == 0


def test_numbers_and_texts_of_a_tag_become_one_stream_in_the_order_of_time() -> None:
    of, _ = gate(numbers=True)
    given = [
        Sample("a", at(1), "Bad"),
        Sample("a", at(2), 2.0),
        Sample("a", at(3), "3.0"),
        Sample("a", at(4), 4.0),
        Sample("b", at(4), 1.0),
    ]
    out = feed(of, given)
    assert [columns.type for columns in out.live] == [ValueType.DOUBLE]
    assert [(s.tag, s.value) for s in out.live[0].samples()] == [
        ("a", None),
        ("a", 2.0),
        ("a", 3.0),
        ("a", 4.0),
        ("b", 1.0),
    ]


def test_what_two_types_hide_is_not_late_and_what_is_late_stays_so() -> None:
    of, step = gate(numbers=True, bad="hold")
    feed(of, [Sample("a", at(10), 1.0)])
    given = [
        Sample("a", at(11), 2.0),
        Sample("a", at(13), 3.0),
        Sample("a", at(9), "Bad"),  # late: 10 was there before
        Sample("a", at(12), "Bad"),  # between the two: holds 2.0
        Sample("a", at(13), "Bad"),  # a second one at that time is late
    ]
    out = list(feed(of, given, 20).live[0].samples())
    assert [(s.time - at(0), s.value, s.quality) for s in out] == [
        (at(9) - at(0), None, BAD),
        (at(11) - at(0), 2.0, GOOD),
        (at(12) - at(0), 2.0, UNCERTAIN),
        (at(13) - at(0), 3.0, GOOD),
        (at(13) - at(0), None, BAD),
    ]
    assert (step.counters["held"], step.counters["nothing_held"]) == (1, 2)
    assert of.held == 0


TIMES = st.lists(st.integers(0, 60), min_size=1, max_size=12)


@given(st.lists(st.tuples(TIMES, TIMES, st.booleans()), min_size=1, max_size=4))
def test_each_turn_of_a_tag_in_two_types_is_in_the_order_of_time(
    turns: list[tuple[list[int], list[int], bool]],
) -> None:
    """The rows that are not late rise over all turns, exactly as if all had come in one type and sorted."""
    of, _ = gate(numbers=True, bad="hold")
    top, held = -1, False
    for number_, (reals, words, reals_first) in enumerate(turns):
        parts: list[list[Sample]] = [
            [Sample("a", at(t), float(t)) for t in sorted(set(reals))],
            [Sample("a", at(t), "Bad") for t in sorted(set(words) - set(reals))],
        ]
        if not reals_first:
            parts.reverse()
        batches: list[SampleBatch] = [one for part in parts if part for one in batch(part)]
        out = [s for columns in of.turn(batches, turn(100 + number_)).live for s in columns.samples()]
        rows = [(round((s.time - at(0)) / 1e9), s.value, s.quality) for s in out]
        assert [time for time, _, _ in rows] == sorted(time for time, _, _ in rows)
        last = None
        for time, value, quality in rows:
            if time in reals:
                assert (value, quality) == (float(time), GOOD)
                last = float(time) if time > top else last
            elif time > top and (last is not None or held):
                assert quality is UNCERTAIN
                assert last is None or value == last
            else:
                assert (value, quality) == (None, BAD)
        held = held or any(time > top and quality is GOOD for time, _, quality in rows)
        top = max([top, *(time for time, _, _ in rows)])
    assert of.held == 0


# --- what the source says ---


@pytest.mark.parametrize(
    ("sample", "statuses", "expected"),
    [
        (Sample("t", at(0), 1.0, GOOD, 7), {"7": "bad"}, (1.0, BAD, 7)),
        (Sample("t", at(0), 1.0, BAD, 7), {"7": "good"}, (1.0, GOOD, 7)),
        (Sample("t", at(0), 1.0, GOOD, 0x40940000), {"0x40940000": "uncertain"}, (1.0, UNCERTAIN, 0x40940000)),
        (Sample("t", at(0), 1.0, BAD, "substituted"), {"Substituted": "uncertain"}, (1.0, UNCERTAIN, "substituted")),
        (Sample("t", at(0), None, BAD, 7), {"7": "good"}, (None, UNCERTAIN, 7)),  # a null is never good
        (Sample("t", at(0), 1.0, GOOD, 8), {"7": "bad"}, (1.0, GOOD, 8)),
        (Sample("t", at(0), 1.0, UNCERTAIN), {"7": "bad"}, (1.0, UNCERTAIN, 0)),
    ],
)
def test_statuses_mean_what_is_configured(sample: Sample, statuses: dict[str, str], expected: tuple[Any, ...]) -> None:
    assert one(sample, statuses=statuses) == expected


@pytest.mark.parametrize(
    ("value", "quality", "expected"),
    [
        (math.nan, GOOD, (None, BAD, "nan")),
        (math.inf, GOOD, (None, BAD, "nan")),
        (-math.inf, UNCERTAIN, (None, BAD, "nan")),
        (math.nan, UNCERTAIN, (None, UNCERTAIN, 0)),  # a null already
    ],
)
def test_what_is_not_finite_is_no_value(value: float, quality: Quality, expected: tuple[Any, ...]) -> None:
    assert one(Sample("t", at(0), value, quality), numbers=True) == expected


# --- what becomes of it ---

U, B = Sample("t", at(5), 2.0, UNCERTAIN, 3), Sample("t", at(5), 2.0, BAD, 4)


@pytest.mark.parametrize(
    ("sample", "members", "expected"),
    [
        (U, {}, (2.0, UNCERTAIN, 3)),
        (U, {"uncertain": "pass", "bad": "drop"}, (2.0, UNCERTAIN, 3)),
        (U, {"uncertain": "bad"}, (2.0, BAD, 3)),
        (U, {"uncertain": "bad", "bad": "empty"}, (None, BAD, 3)),
        (U, {"uncertain": "bad", "bad": "drop"}, None),
        (U, {"uncertain": "drop"}, None),
        (U, {"uncertain": "hold"}, (1.0, UNCERTAIN, "held")),
        (U, {"uncertain": "bad", "bad": "hold"}, (1.0, UNCERTAIN, "held")),
        (B, {}, (2.0, BAD, 4)),
        (B, {"uncertain": "drop"}, (2.0, BAD, 4)),
        (B, {"bad": "empty"}, (None, BAD, 4)),
        (B, {"bad": "drop"}, None),
        (B, {"bad": "drop", "uncertain": "drop"}, None),
        (B, {"bad": "hold"}, (1.0, UNCERTAIN, "held")),
        (B, {"bad": "hold", "tags": ["other"]}, (2.0, BAD, 4)),
        (B, {"bad": "drop", "exclude": ["t"]}, (2.0, BAD, 4)),
    ],
)
def test_policies(sample: Sample, members: dict[str, Any], expected: tuple[Any, ...] | None) -> None:
    of, _ = gate(**members)
    feed(of, [Sample("t", at(1), 1.0)])
    out = samples(feed(of, [sample], 5))
    assert [(s.value, s.quality, s.status) for s in out] == ([] if expected is None else [expected])
    assert of.held == 0


def test_both_kinds_are_dropped_and_counted_each_for_itself() -> None:
    of, step = gate(uncertain="drop", bad="drop")
    qualities = [GOOD, UNCERTAIN, BAD, BAD, GOOD, UNCERTAIN, BAD]
    out = feed(of, [Sample("t", at(i), float(i), quality) for i, quality in enumerate(qualities)])
    assert [s.value for s in samples(out)] == [0.0, 4.0]
    assert step.counters == {"uncertain": 2, "bad": 3, "dropped_uncertain": 2, "dropped_bad": 3}
    assert (out.received, out.filtered, of.held) == (7, 5, 0)


@pytest.mark.parametrize("value", [1.5, 7, True, "text"])
def test_a_value_of_any_type_is_held_also_over_a_restart(value: Any) -> None:
    of, _ = gate(bad="hold")
    feed(of, [Sample("t", at(0), value)])
    again, _ = gate(bad="hold")
    assert again.load(of.save()) == []
    (columns,) = from_samples([Sample("t", at(1), value, BAD)])
    (held,) = samples(again.turn(batch(columns), turn(1)))
    assert (held.value, held.quality, held.status) == (value, UNCERTAIN, "held")


def test_a_word_holds_the_number_before_it() -> None:
    of, _ = gate(bad="hold")
    feed(of, [Sample("t", at(0), 1.5)])
    assert [(s.value, s.status) for s in samples(feed(of, [Sample("t", at(1), "Bad")], 1))] == [(1.5, "held")]


def test_nothing_to_hold_is_no_value() -> None:
    assert one(Sample("t", at(0), 1.0, UNCERTAIN, 3), uncertain="hold") == (None, BAD, 3)
    assert one(Sample("t", at(0), 1.0, BAD, 3), bad="hold") == (None, BAD, 3)


def test_nothing_is_held_in_another_unit() -> None:
    of, _ = gate(bad="hold")
    feed(of, [Sample("t", at(0), 1.0, unit="bar")])
    assert [(s.value, s.quality) for s in samples(feed(of, [Sample("t", at(1), 2.0, BAD, unit="psi")], 1))] == [
        (None, BAD)
    ]


def test_a_late_sample_neither_is_held_for_nor_remembered() -> None:
    of, _ = gate(bad="hold")
    feed(of, [Sample("t", at(10), 1.0)])
    late = [Sample("t", at(4), 9.0), Sample("t", at(5), 2.0, BAD)]
    assert [(s.value, s.quality) for s in samples(feed(of, late, 11))] == [(9.0, GOOD), (None, BAD)]
    assert [s.value for s in samples(feed(of, [Sample("t", at(12), 3.0, BAD)], 12))] == [1.0]


# --- against a slow reference, and cut anywhere ---

ROWS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["1.5", "Bad", "Doubtful", "x", 2.5, 3.5, None]),
        st.sampled_from([GOOD, UNCERTAIN, BAD]),
    ),
    max_size=8,
)
POLICIES = st.fixed_dictionaries(
    {
        "uncertain": st.sampled_from(["pass", "bad", "drop", "hold"]),
        "bad": st.sampled_from(["pass", "empty", "drop", "hold"]),
    }
)


class Reference:
    """The gate as one reads it, a sample at a time."""

    def __init__(self, uncertain: str, bad: str) -> None:
        self.uncertain, self.bad = uncertain, bad
        self.last: dict[str, float] = {}

    def __call__(self, sample: Sample) -> tuple[Any, ...] | None:
        value, quality, status = sample.value, sample.quality, sample.status
        if isinstance(value, str):
            if value in ("Bad", "Doubtful"):
                quality, status = max(quality, BAD if value == "Bad" else UNCERTAIN), value
                value = None
            elif value == "x":
                value, quality, status = None, BAD, "not-a-number"
            else:
                value = float(value)
        policy = self.uncertain if quality is UNCERTAIN else self.bad if quality is BAD else "pass"
        if quality is UNCERTAIN and policy == "bad":
            quality, policy = BAD, self.bad
        if quality is GOOD and isinstance(value, float):
            self.last[sample.tag] = value
        if policy == "drop":
            return None
        if policy == "empty":
            value = None
        if policy == "hold":
            if sample.tag in self.last:
                return self.last[sample.tag], UNCERTAIN, "held"
            value, quality = None, BAD
        return value, quality, status


@given(st.lists(ROWS, max_size=6), POLICIES, st.integers(0, 6))
def test_the_gate_is_its_reference_and_goes_on_after_a_cut(
    turns: list[list[tuple[str, Any, Quality]]], policies: dict[str, str], cut: int
) -> None:
    of, _ = gate(numbers=True, **policies)
    reference = Reference(**policies)
    clock = 0
    for number_, rows in enumerate(turns):
        if number_ == cut:
            again, _ = gate(numbers=True, **policies)
            assert again.load(of.save()) == []
            of = again
        given: list[Sample] = []
        for tag, value, quality in rows:
            clock += 1
            null_quality = max(quality, UNCERTAIN) if value is None else quality
            given.append(Sample(tag, at(clock), value, null_quality))
        out = feed(of, given, clock)
        assert all(columns.type is ValueType.DOUBLE for columns in out.live)
        expected = [(s.tag, s.time, *found) for s in given if (found := reference(s)) is not None]
        assert [(s.tag, s.time, s.value, s.quality, s.status) for s in samples(out)] == expected
        assert of.held == 0


def test_settings_of_before_leave_their_state_usable() -> None:
    of, _ = gate(bad="hold", numbers=True)
    feed(of, [Sample("t", at(0), "1.5"), Sample("u", at(0), "?")])
    again, _ = gate()
    assert again.load(of.save()) == []
    assert [s.value for s in samples(feed(again, [Sample("t", at(1), "Bad")], 1))] == [None]
    assert outcome_types(again, [Sample("t", at(2), "Bad")], 2) == [ValueType.DOUBLE]


@pytest.mark.parametrize(
    "state", [{}, {"type": [99], "last": {}, "told": []}, {"type": [1], "last": {"x": []}, "told": []}]
)
def test_a_state_that_is_none_is_refused(state: dict[str, Any]) -> None:
    _, step = gate(bad="hold")
    with pytest.raises((ValueError, KeyError)):
        step.load(state)


def test_explaining() -> None:
    of, step = gate(numbers=True, bad="hold", tags=["a"])
    feed(of, [Sample("a", at(0), "1"), Sample("b", at(0), 1.0)])
    slots = {series.tag: slot for slot, series in enumerate(of.tags.series)}
    assert step.explain(slots["a"])["type"] == "double"
    assert (step.explain(slots["a"])["applies"], step.explain(slots["b"])["applies"]) == (True, False)
