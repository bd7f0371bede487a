"""A signal is what its expression was at any time: against a slow one that keeps every sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessor.engine.block import Block
from preprocessor.engine.packing import pack, unpack
from preprocessor.engine.pipeline import Pipeline
from preprocessor.engine.refusal import Refusal
from preprocessor.engine.step import FlowContext, Step, Turn
from preprocessor.expressions import compile_expression
from preprocessor.expressions.signal import KEPT, MOST_CHANGES, Signal
from preprocessor.step_settings import StepSettings
from sluice.columns import Quality, Sample

from ..flows import at, feed, flow, pipeline

Value = float | str | None


class Follower(Step[StepSettings]):
    """A step with a signal and nothing else."""

    rank = 500

    def __init__(self, text: str, context: FlowContext) -> None:
        super().__init__("follow", StepSettings(), context)
        self.signal = Signal(text, context, "when", step="follow")

    def prepare(self, slots: Sequence[int]) -> None:
        super().prepare(slots)
        self.signal.prepare(slots)

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        self.signal.feed(blocks, turn)
        return blocks

    def save(self) -> Mapping[str, Any]:
        return self.signal.save()

    def load(self, state: Mapping[str, Any]) -> None:
        self.signal.load(state)

    def values(self, *seconds: float) -> list[Value]:
        column = self.signal.at(np.array([at(one) for one in seconds], dtype=np.int64))
        return [None if value is None or value != value else value for value in column.value.tolist()]

    def changed(self) -> list[tuple[float, Value]]:
        times, column = self.signal.changes()
        values = [None if value is None or value != value else value for value in column.value.tolist()]
        return [((time - at(0)) / 1e9, value) for time, value in zip(times.tolist(), values, strict=True)]


def following(text: str) -> tuple[Follower, Pipeline]:
    context = flow()
    step = Follower(text, context)
    return step, pipeline(context, step)


def number(tag: str, seconds: float, value: float | bool | str | None, **members: str) -> Sample:
    quality = Quality.BAD if value is None else Quality.GOOD
    return Sample(tag, at(seconds), value, quality, **members)  # type: ignore[arg-type]


def test_a_value_holds_from_its_sample_until_the_next() -> None:
    step, of = following("{a} > 5 and {run}")
    feed(of, [number("a", 1, 9.0), number("run", 2, True), number("a", 4, 1.0), number("run", 5, False)])
    assert step.values(0, 1, 2, 3, 4, 5, 60) == [None, None, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert step.changed() == [(1, None), (2, 1.0), (4, 0.0)]
    assert step.signal.truth(np.array([at(1), at(3), at(4)])).tolist() == [False, True, False]


def test_changes_are_those_of_this_turn() -> None:
    step, of = following("{run}")
    feed(of, [number("run", 1, True)])
    feed(of, [number("run", 2, True)])
    assert step.changed() == []
    feed(of, [number("run", 3, False), number("run", 4, False), number("run", 5, True)])
    assert step.changed() == [(3, 0.0), (5, 1.0)]
    feed(of, [])
    assert step.changed() == []
    assert step.signal.now().value.tolist() == [1.0]


def test_a_late_sample_does_not_move_it_back() -> None:
    step, of = following("{a} > 5")
    feed(of, [number("a", 5, 9.0)])
    feed(of, [number("a", 3, 1.0), number("a", 5, 1.0)])
    assert step.changed() == []
    assert step.values(5, 6) == [1.0, 1.0]


def test_a_sample_for_a_time_before_the_newest_counts_at_its_time_and_changes_now() -> None:
    step, of = following("{a} + {b}")
    feed(of, [number("a", 1, 1.0), number("b", 1, 1.0), number("a", 10, 2.0)])
    feed(of, [number("b", 9, 5.0)])
    assert step.values(8.5, 9, 9.5, 10) == [2.0, 6.0, 6.0, 7.0]
    assert step.changed() == [(10, 7.0)]


def test_what_is_bad_is_not_true() -> None:
    step, of = following("{a}")
    feed(of, [Sample("a", at(1), True, Quality.BAD), Sample("a", at(2), True, Quality.UNCERTAIN)])
    assert step.signal.truth(np.array([at(1), at(2)])).tolist() == [False, True]


def test_texts() -> None:
    step, of = following("{Batch/Id}")
    feed(of, [number("Batch/Id", 1, "B-1"), number("Batch/Id", 2, "B-2"), number("Batch/Id", 3, None)])
    assert step.changed()[:2] == [(1, "B-1"), (2, "B-2")]
    feed(of, [number("Batch/Id", 4, "B-3")])
    assert step.changed()[-1] == (4, "B-3")
    assert step.values(2.5) == ["B-2"]


def test_a_tag_that_becomes_a_number_again() -> None:
    step, of = following("{a} == 'x' or {a} == 1")
    values: list[Value] = ["x", 1.0, "y", 2.0, "x"]
    for seconds, value in enumerate(values):
        feed(of, [number("a", seconds, value)])
    assert step.values(4) == [1.0]
    step, of = following("{a}")
    for seconds, value in enumerate(values[:2]):
        feed(of, [number("a", seconds, value)])
    assert (step.changed(), step.values(1)) == ([(1, 1.0)], [1.0])


def test_a_word_between_numbers_does_not_end_them() -> None:
    step, of = following("{a}")
    feed(of, [number("a", 1, 1.0), number("a", 2, "Bad"), number("a", 3, 2.0)])
    assert step.values(3, 4) == [2.0, 2.0]


def test_many_samples_in_one_turn() -> None:
    step, of = following("{a} + {run}")
    many = [number("a", seconds / 10, float(seconds)) for seconds in range(3000)]
    feed(of, [number("run", 0, True), *many], 300)
    assert step.values(0, 0.15, 150, 299.9) == [1.0, 2.0, 1501.0, 3000.0]
    assert len(step.changed()) == 3000


def test_the_past_of_tags() -> None:
    step, of = following("rate({a})")
    feed(of, [number("a", 1, 1.0), number("a", 2, 3.0)])
    feed(of, [number("a", 4, 4.0)])
    assert step.values(1, 2, 4, 9) == [None, 2.0, 0.5, 0.5]
    step, of = following("age({a}) > 5")
    feed(of, [number("a", 1, 1.0)])
    assert step.values(0, 2, 6, 6.5) == [None, 0.0, 0.0, 1.0]


def test_older_times_are_known_by_what_the_result_was() -> None:
    step, of = following("{a}")
    for seconds in range(3000):
        feed(of, [number("a", seconds, float(seconds // 2))], seconds)
    assert step.values(2990, 2500.5, 1500) == [1495.0, 1250.0, 750.0]
    assert step.values(5) == [500.0]  # the oldest that is kept
    assert len(step.signal.save()["tail"][0]) <= MOST_CHANGES
    assert len(step.signal.save()["tracks"]["a"][1]) <= KEPT + 1


def test_names_with_and_without_the_asset() -> None:
    step, of = following("{Site/R1/Temp} > 5")
    feed(of, [number("Temp", 1, 9.0, asset="Site/R1"), number("Temp", 1, 1.0, asset="Site/R2")])
    assert step.values(1) == [1.0]
    assert of.flow.problems == {}


def test_a_name_that_several_assets_have_is_a_problem() -> None:
    step, of = following("{Temp} > 5")
    feed(of, [number("Temp", 1, 9.0, asset="Site/R1"), number("Temp", 1, 1.0, asset="Site/R2")])
    problem, remedy = of.flow.problems["steps.follow.when"]
    assert "is the name of 2 tags" in problem
    assert "{Site/R1/Temp}" in remedy
    assert step.values(1) == [None]


def test_a_tag_that_does_not_come_is_a_problem_until_it_comes() -> None:
    _, of = following("{Reactor/Tmep} > 5")
    feed(of, [], 0)
    feed(of, [number("Reactor/Temp", 100, 9.0)], 100)
    feed(of, [], 159)
    assert of.flow.problems == {}
    feed(of, [], 160)
    problem, remedy = of.flow.problems["steps.follow.when"]
    assert "does not come" in problem
    assert remedy == "did you mean Reactor/Temp?"
    feed(of, [number("Reactor/Tmep", 161, 9.0)], 161)
    assert of.flow.problems == {}


def test_what_cannot_be_followed_is_refused() -> None:
    with pytest.raises(Refusal, match="names no tag"):
        Signal("1 > 0", flow(), "when")
    with pytest.raises(Refusal) as refused:
        Signal("{a} >", flow(), "when", step="x")
    assert refused.value.place == "when"


# --- against every sample that ever came ---

TEXTS = ["{a} > {b}", "{a} + {b}", "{a} and good({b})", "{a}", "max({a}, {c}) if {b} else {c}"]


class Slow:
    """Keeps all samples that are not late, and evaluates one time after the other."""

    def __init__(self, text: str) -> None:
        self.expression = compile_expression(text)
        self.samples: dict[str, list[tuple[int, float | None, int]]] = {}

    def add(self, tag: str, time: int, value: float | None, quality: int) -> None:
        known = self.samples.setdefault(tag, [])
        if not known or time > known[-1][0]:
            known.append((time, value, quality))

    def at(self, time: int) -> tuple[float | str | None, int]:
        values, qualities = {}, {}
        for tag, known in self.samples.items():
            before = [one for one in known if one[0] <= time]
            if before:
                _, values[tag], qualities[tag] = before[-1]
        return self.expression.evaluate_one(values, qualities)


ONE = st.tuples(
    st.sampled_from("abc"), st.integers(0, 40), st.none() | st.integers(-2, 3).map(float), st.integers(0, 1)
)
TURNS = st.lists(st.lists(ONE, max_size=5), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TEXTS), TURNS, st.integers(0, 8))
def test_it_is_what_a_slow_one_finds_and_goes_on_after_a_restart(
    text: str, turns: list[list[tuple[str, int, float | None, int]]], cut: int
) -> None:
    step, of = following(text)
    slow = Slow(text)
    for place, rows in enumerate(turns):
        if place == cut:
            saved = of.save()
            assert unpack(pack(step.signal.save()))["text"] == text
            step, of = following(text)
            assert of.load(saved) == []
        given_samples = [
            Sample(tag, at(seconds), value, Quality.BAD if value is None else Quality(quality))
            for tag, seconds, value, quality in rows
        ]
        feed(of, given_samples, place)
        for one in given_samples:
            assert one.value is None or isinstance(one.value, float)
            slow.add(one.tag, one.time, one.value, int(one.quality))
        newest = max((known[-1][0] for known in slow.samples.values()), default=at(0))
        # exact from the oldest sample that is kept of each tag on
        kept = [known[-KEPT][0] for known in slow.samples.values() if len(known) > KEPT]
        times = list(range(max(kept, default=at(-1)), newest + 2 * 10**9, 500_000_000))
        column = step.signal.at(np.array(times, dtype=np.int64))
        found = [
            (None if value != value else value, quality)
            for value, quality in zip(column.value.tolist(), column.quality.tolist(), strict=True)
        ]
        assert found == [slow.at(time) for time in times]
        current = step.signal.now()
        if any(tag in slow.samples for tag in step.signal.tags):
            assert (None if current.value[0] != current.value[0] else current.value[0]) == slow.at(newest)[0]
        assert of.held == 0
