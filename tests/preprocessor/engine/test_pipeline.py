"""A pipeline takes batches in, marks what is late, drops exact repeats, and gives batches out."""

from __future__ import annotations

from collections.abc import Sequence

from preprocessor.engine.block import Block
from preprocessor.engine.pipeline import Pipeline, new_context
from preprocessor.engine.step import Step, Turn
from preprocessor.step_settings import StepSettings
from sluice.columns import Quality, Sample

from ..flows import at, feed, flow, pipeline, samples


class LateSeen(Step[StepSettings]):
    """Counts late rows."""

    rank = 500

    def process(self, blocks: Sequence[Block], turn: Turn) -> Sequence[Block]:
        for block in blocks:
            self.count("late", 0 if block.late is None else int(block.late.sum()))
        return blocks


def test_samples_pass_unchanged() -> None:
    of = pipeline(flow())
    given = [
        Sample("a", at(1), 1.5, unit="degC"),
        Sample("b", at(1), None, Quality.BAD, "nan"),
        Sample("a", at(2), 2.5),
    ]
    assert [(s.tag, s.time, s.value, s.quality, s.status) for s in samples(feed(of, given))] == [
        ("a", at(1), 1.5, Quality.GOOD, 0),
        ("b", at(1), None, Quality.BAD, "nan"),
        ("a", at(2), 2.5, Quality.GOOD, 0),
    ]


def test_late_rows_are_marked_and_exact_repeats_dropped() -> None:
    context = flow()
    step = LateSeen("seen", StepSettings(), context)
    of = pipeline(context, step)
    feed(of, [Sample("a", at(5), 1.0)])
    out = samples(feed(of, [Sample("a", at(5), 1.0), Sample("a", at(4), 0.5), Sample("a", at(6), 2.0)]))
    assert [s.time for s in out] == [at(4), at(6)]
    assert (step.counters["late"], of.counters["repeated"]) == (1, 1)
    assert of.held == 0


def test_state_survives() -> None:
    of = pipeline(flow())
    feed(of, [Sample("a", at(5), 1.0), Sample("t", at(5), "text", status="word")])
    again: Pipeline = pipeline(flow())
    assert again.load(of.save()) == []
    assert again.save() == of.save()
    assert samples(feed(again, [Sample("a", at(5), 1.0), Sample("t", at(5), "text", status="word")])) == []


def test_a_future_time_is_set_aside() -> None:
    of = pipeline(flow())
    outcome = feed(of, [Sample("a", at(5), 1.0), Sample("a", at(5000), 1.0)])
    assert [s.time for s in samples(outcome)] == [at(5)]
    assert outcome.events[0]["kind"] == "quarantine"
    assert outcome.filtered == 1


def decisions(of: Pipeline, tag: str) -> list[tuple[str, str, str]]:
    (slot,) = of.tags.find(tag)
    return [(one["step"], one["reason"], one["what"]) for one in of.trace.decisions(slot)]


def test_what_becomes_of_a_watched_tag_outside_of_the_steps_is_written_down() -> None:
    of = pipeline(flow())
    feed(of, [Sample("a", at(5), 1.0)])
    of.trace.watch(of.tags.find("a")[0])
    feed(of, [Sample("a", at(5), 1.0), Sample("a", at(4), 2.0), Sample("a", at(6), 3.0), Sample("a", at(6000), 3.0)])
    assert decisions(of, "a") == [
        ("inputs", "future", "dropped"),
        ("inputs", "repeated", "dropped"),
        ("inputs", "late", "passed"),
        ("output", "end of the flow", "sent"),
        ("output", "end of the flow", "sent"),
    ]


def test_it_is_known_why_a_tag_is_not_taken() -> None:
    of = pipeline(new_context("test", most_tags=1), tags=["a*"])
    feed(of, [Sample("a1", at(5), 1.0), Sample("a2", at(5), 1.0), Sample("b", at(5), 1.0, asset="site")])
    assert "maxTags" in of.turned_away("a2")
    assert "no input of the flow selects it" in of.turned_away("b")
    assert of.turned_away("site/b") == of.turned_away("b")
    assert of.turned_away("a1") == of.turned_away("c") == ""
