"""Windows give what a slow reference works out, whatever comes late, twice, in disorder, bad, or not at all; whatever
turns it comes in, and wherever the process is stopped and goes on."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engine.pipeline import Pipeline
from preprocessor.engine.step import SECOND, Turn
from preprocessor.step_settings import AggregateSettings
from preprocessor.steps import aggregate
from preprocessor.steps.aggregate import Aggregate
from sluice.columns import Quality, Sample

from .. import flows
from .reference import _ALL, Came, Passed, Rules, Value, followed, windows

HALF = SECOND // 2


@st.composite
def rules(draw: st.DrawFn) -> Rules:
    size = draw(st.sampled_from([10, 7]))
    return Rules(
        size * SECOND,
        draw(st.sampled_from([size, 5, 3])) * SECOND,
        draw(st.sampled_from([0, 2, 6])) * SECOND,
        draw(st.sampled_from([0, 8, 30])) * SECOND,
        draw(st.sampled_from([3, 12, 60])) * SECOND,
        min_good=draw(st.sampled_from([0, 50, 80, 100])),
        empty=draw(st.sampled_from(["hold", "bad", "skip"])),
        sloped=draw(st.booleans()),
        uncertain_is_good=draw(st.booleans()),
        offset=draw(st.sampled_from([0, 4])) * SECOND,
    )


NUMBERS = st.one_of(st.sampled_from([0.0, 1.0, 2.5, -7.25]), st.floats(-1e6, 1e6, allow_nan=False))
OTHERS = {"t": st.sampled_from(["", "run", "stop"]), "u": st.booleans()}


@st.composite
def logs(draw: st.DrawFn, *, others: bool = False) -> list[Passed]:
    now, steady, log = flows.START, SECOND, []
    seen: set[tuple[Any, ...]] = set()
    for _ in range(draw(st.integers(1, 14))):
        ahead = draw(st.integers(0, 24)) * HALF
        now, steady = now + ahead, steady + ahead
        samples = []
        for tag, back, quality in draw(
            st.lists(
                st.tuples(
                    st.sampled_from(["a", "t", "u"] if others else ["a", "b"]),
                    st.one_of(st.integers(-6, 8), st.integers(-6, 80)),
                    st.sampled_from([0, 0, 0, 0, 1, 2]),
                ),
                max_size=5,
            )
        ):
            value: Any = draw(OTHERS.get(tag, NUMBERS))
            if quality and draw(st.booleans()):
                value = None
            one = Came(tag, now - back * HALF, value, quality)
            if (tag, one.t, type(value), value, quality) not in seen:  # exact repeats are the pipeline's to drop
                seen.add((tag, one.t, type(value), value, quality))
                samples.append(one)
        log.append(Passed(now, steady, draw(st.sampled_from([True, True, True, False])), tuple(samples)))
    return log


def step_of(of: Rules, **members: Any) -> tuple[Pipeline, Aggregate]:
    context = flows.flow()
    written = flows.settings(
        AggregateSettings,
        type="aggregate",
        window=f"{of.size // SECOND}s",
        slide=f"{of.slide // SECOND}s",
        offset=f"{of.offset // SECOND}s",
        functions=list(_ALL),
        lateness=f"{of.lateness // SECOND}s",
        allowedLateness=f"{of.allowed // SECOND}s",
        idle=f"{of.idle // SECOND}s",
        minGood=of.min_good,
        empty=of.empty,
        sloped=of.sloped,
        uncertain="good" if of.uncertain_is_good else "bad",
        **members,
    )
    step = Aggregate("agg", written, context)
    return flows.pipeline(context, step), step


def run(of: Rules, log: list[Passed], stops: set[int]) -> tuple[dict[Any, dict[int, Sample]], Pipeline, Aggregate]:
    """All results by tag, time and rev; the process is stopped and goes on behind the turns `stops`."""
    pipeline, step = step_of(of)
    given: dict[Any, dict[int, Sample]] = defaultdict(dict)
    for number, passed in enumerate(log):
        samples = [Sample(one.tag, one.t, one.value, Quality(one.quality), unit="l") for one in passed.samples]
        outcome = pipeline.turn(flows.batch(samples), Turn(passed.now, passed.steady, passed.trusted))
        for one in flows.samples(outcome):
            rev = int(dict(one.extra).get("rev", 0))
            assert rev not in given[one.tag, one.time], f"{one} is doubled"
            given[one.tag, one.time][rev] = one
        assert pipeline.held == 0
        if number in stops:
            state = pipeline.save()
            pipeline, step = step_of(of)
            assert pipeline.load(state) == []
            assert pipeline.save() == state
    return given, pipeline, step


def compare(expected: dict[tuple[str, int], dict[str, Value]], given: dict[Any, dict[int, Sample]]) -> None:
    wanted = {(f"{tag}.{name}", start): value for (tag, start), by in expected.items() for name, value in by.items()}
    assert {(tag, time - flows.START) for tag, time in given} == {(tag, time - flows.START) for tag, time in wanted}
    for key, value in wanted.items():
        revisions = given[key]
        assert sorted(revisions) == list(range(len(revisions))), f"{key}: {sorted(revisions)}"
        last = revisions[len(revisions) - 1]
        where = (key[0], (key[1] - flows.START) / SECOND)
        assert (last.quality, last.status or "") == (value.quality, value.word), (where, last, value)
        if value.quality == Quality.BAD or not isinstance(value.value, Fraction | float):
            assert last.value == (None if value.quality == Quality.BAD else value.value), (where, last, value)
        elif not isinstance(last.value, int | float):
            pytest.fail(f"{where}: {last}, {value}")
        elif key[0].endswith(".deviation"):
            assert float(last.value) ** 2 == pytest.approx(float(value.value), rel=1e-6, abs=1e-4), where
        else:
            assert float(last.value) == pytest.approx(float(value.value), rel=1e-9, abs=1e-6), (where, last, value)


@given(fold_at=st.sampled_from([0, 3, 50_000]), of=rules(), log=logs(), stops=st.sets(st.integers(0, 13), max_size=3))
def test_the_last_revision_of_every_window_is_what_the_reference_says(
    fold_at: int, of: Rules, log: list[Passed], stops: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate, "_FOLD_AT", fold_at)
        given, _, step = run(of, log, stops)
    compare(windows(of, log, ["a", "b"]), given)
    assert step.counters.get("too-late", 0) == sum(followed(of, log, tag).too_late for tag in "ab")


@given(
    fold_at=st.sampled_from([0, 50_000]),
    of=rules(),
    log=logs(others=True),
    stops=st.sets(st.integers(0, 13), max_size=2),
)
def test_texts_and_booleans_have_what_is_no_arithmetic(
    fold_at: int, of: Rules, log: list[Passed], stops: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate, "_FOLD_AT", fold_at)
        given, *_ = run(of, log, stops)
    compare(windows(of, log, ["a", "t", "u"]), given)


def test_a_late_sample_before_a_window_may_make_a_change_of_its_first() -> None:
    of = Rules(10 * SECOND, 10 * SECOND, 0, 30 * SECOND, 3 * SECOND, min_good=0)
    log = [
        Passed(flows.at(0), SECOND, True, (Came("a", flows.at(0), 0.0, 0), Came("a", flows.at(5), None, 2))),
        Passed(flows.at(13), 2 * SECOND, True, (Came("a", flows.at(12), 0.0, 0),)),
        Passed(flows.at(13), 2 * SECOND, True, (Came("a", flows.at(-0.5), 1.0, 0),)),
    ]
    given, *_ = run(of, log, set())
    assert given["a.transitions", flows.at(0)][1].value == 1
    compare(windows(of, log, ["a"]), given)


@given(of=rules(), log=logs(), stops=st.sets(st.integers(0, 13), min_size=1, max_size=4))
def test_going_on_from_a_checkpoint_gives_the_same_to_the_last_digit(
    of: Rules, log: list[Passed], stops: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate, "_FOLD_AT", 4)
        through, one, _ = run(of, log, set())
        stopped, other, _ = run(of, log, stops)
    assert through == stopped
    assert one.save() == other.save()
