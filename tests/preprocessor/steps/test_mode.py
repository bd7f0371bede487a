"""Flow modes: what goes out while an expression is true, when it changes, and when it becomes true."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preprocessor.config import Flow
from preprocessor.engine.pipeline import Pipeline
from preprocessor.engine.refusal import Refusal
from preprocessor.steps import mode as modes
from preprocessor.steps.mode import Mode
from sluice.columns import Quality, Sample

from ..flows import at, batch, feed, flow, pipeline, samples, settings, turn


def moded(mode: str, when: str = "{run}") -> tuple[Pipeline, Mode]:
    context = flow()
    step = Mode(settings(Flow, inputs={"a": {"stream": "*"}}, mode=mode, when=when), context)
    return pipeline(context, step), step


def told(rows: list[Sample]) -> list[tuple[str, float, Any]]:
    return [(one.tag, (one.time - at(0)) / 1e9, one.value) for one in rows]


def test_while_true_only_samples_of_that_time_pass() -> None:
    of, step = moded("whileTrue")
    rows = [Sample("a", at(second), float(second)) for second in range(10)]
    rows += [Sample("run", at(2), True), Sample("run", at(6), False)]
    out = [one for one in told(samples(feed(of, rows))) if one[0] == "a"]
    assert out == [("a", second, float(second)) for second in (2, 3, 4, 5)]
    assert step.counters == {"when_not_true": 7}
    assert of.held == 0


def test_while_true_is_by_the_time_of_the_sample_not_of_its_arrival() -> None:
    of, _ = moded("whileTrue")
    feed(of, [Sample("run", at(0), True), Sample("run", at(5), False)])
    assert told(samples(feed(of, [Sample("a", at(3), 3.0), Sample("a", at(7), 7.0)], 8))) == [("a", 3, 3.0)]


def test_what_is_unknown_or_bad_is_not_true() -> None:
    of, _ = moded("whileTrue")
    assert samples(feed(of, [Sample("a", at(0), 1.0)])) == []
    feed(of, [Sample("run", at(1), True, Quality.BAD)], 1)
    assert samples(feed(of, [Sample("a", at(2), 1.0)], 2)) == []


def test_on_change_every_tag_goes_out_with_the_time_of_the_change() -> None:
    of, _ = moded("onChange", "{phase}")
    assert samples(feed(of, [Sample("phase", at(0), "fill"), Sample("a", at(0), 1.0)])) == []
    assert samples(feed(of, [Sample("a", at(1), 2.0), Sample("b", at(1), 7, Quality.UNCERTAIN, "x")], 1)) == []
    out = samples(feed(of, [Sample("phase", at(3), "heat"), Sample("a", at(2), 3.0), Sample("a", at(4), 4.0)], 4))
    assert told(out) == [("a", 3, 3.0), ("b", 3, 7), ("phase", 3, "heat")]
    assert [(one.quality, one.status) for one in out] == [(0, 0), (1, "x"), (0, 0)]
    assert of.held == 1  # the 4.0 that came after the change
    assert told(samples(feed(of, [Sample("phase", at(5), "drain")], 5))) == [
        ("a", 5, 4.0),
        ("b", 5, 7),
        ("phase", 5, "drain"),
    ]
    assert (of.held, of.made) == (0, 1)


def test_on_true_only_becoming_true_counts() -> None:
    of, _ = moded("onTrue", "{level} > 10")
    out = []
    for second, level in enumerate([20.0, 5.0, 8.0, 11.0, 12.0, 3.0, 15.0]):
        out += told(samples(feed(of, [Sample("level", at(second), level)], second)))
    assert out == [("level", 3, 11.0), ("level", 6, 15.0)]


def test_a_time_in_which_it_is_unknown_is_no_change() -> None:
    of, _ = moded("onChange")
    feed(of, [Sample("run", at(0), True)])
    feed(of, [Sample("run", at(1), None, Quality.BAD)], 1)
    assert samples(feed(of, [Sample("run", at(2), True)], 2)) == []
    assert len(samples(feed(of, [Sample("run", at(3), False)], 3))) == 1


def test_late_samples_are_no_newest_value() -> None:
    of, step = moded("onTrue")
    feed(of, [Sample("run", at(0), False), Sample("a", at(5), 5.0)])
    feed(of, [Sample("a", at(4), 4.0)], 5)
    assert told(samples(feed(of, [Sample("run", at(6), True)], 6))) == [("a", 6, 5.0), ("run", 6, True)]
    assert step.counters == {"late": 1, "replaced": 1}
    assert of.held == 0


def test_a_flow_that_sends_always_again_gives_what_never_went_out() -> None:
    of, _ = moded("onTrue")
    feed(of, [Sample("run", at(0), False), Sample("a", at(5), 5.0)])
    assert told(samples(of.finish(["mode"], turn(6)))) == [("run", 0, False), ("a", 5, 5.0)]
    assert of.held == 0


def test_a_flow_that_turns_to_while_true_gives_it_too() -> None:
    of, _ = moded("onTrue")
    feed(of, [Sample("run", at(0), False), Sample("a", at(5), 5.0)])
    other, _ = moded("whileTrue")
    assert other.load(of.save()) == []
    assert told(samples(feed(other, [], 6))) == [("run", 0, False), ("a", 5, 5.0)]
    assert other.held == 0


def test_the_changes_of_one_turn_make_only_so_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "MOST_ROWS", 20)
    of, step = moded("onChange")
    feed(of, [Sample(tag, at(0), 1.0) for tag in "abcdefghi"] + [Sample("run", at(0), 0)])
    outcome = feed(of, [Sample("run", at(second), second) for second in range(1, 8)], 8)
    assert {one.time for one in samples(outcome)} == {at(6), at(7)}
    assert step.counters["changes_skipped"] == 5
    assert [(e["kind"], e["changes"], e["until_ns"]) for e in outcome.events] == [("changes-skipped", 5, at(5))]


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(["run", "run", "a", "b"]), st.integers(0, 2)), max_size=6),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["onChange", "onTrue"]),
    st.data(),
)
def test_it_sends_what_the_rules_say_wherever_turns_end_and_state_is_saved(
    turns: list[list[tuple[str, int]]], mode: str, data: st.DataObject
) -> None:
    of, _ = moded(mode)
    newest: dict[str, int] = {}
    fresh: set[str] = set()
    second = 0
    for rows in turns:
        given_, expected = [], []
        for tag, value in rows:
            second += 1
            before = newest.get(tag)
            newest[tag] = value
            fresh.add(tag)
            given_.append(Sample(tag, at(second), value))
            if tag == "run" and before is not None and before != value and (mode == "onChange" or not before):
                expected += [(name, second, newest[name]) for name in sorted(newest)]
                fresh.clear()
        assert sorted(told(samples(feed(of, given_, second))), key=lambda r: (r[1], r[0])) == expected
        assert of.held == len(fresh)
        if data.draw(st.booleans()):
            saved = of.save()
            of, _ = moded(mode)
            assert of.load(saved) == []


def test_backfill_is_remembered_and_goes_out_live() -> None:
    of, _ = moded("onTrue")
    of.turn(batch([Sample("a", at(0), 1.0)], stream="plant/line/backfill"), turn(0))
    feed(of, [Sample("run", at(1), False)], 1)
    outcome = feed(of, [Sample("run", at(2), True)], 2)
    assert told(samples(outcome)) == [("a", 2, 1.0), ("run", 2, True)]
    assert outcome.backfill == []


@pytest.mark.parametrize(("mode", "when"), [("onTrue", ""), ("whileTrue", " "), ("always", "{run}")])
def test_modes_without_what_they_need_are_refused(mode: str, when: str) -> None:
    with pytest.raises(ValidationError, match="`when`"):
        settings(Flow, inputs={"a": {"stream": "*"}}, mode=mode, when=when)


def test_a_wrong_expression_is_refused_with_its_place() -> None:
    with pytest.raises(Refusal) as refused:
        moded("onTrue", "{run} >")
    assert refused.value.place == "when"
