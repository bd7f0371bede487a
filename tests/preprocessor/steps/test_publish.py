"""What is published: all, all of an asset if any of it changed, or what changed alone."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from preprocessor.config import Flow
from preprocessor.engine.pipeline import Pipeline
from preprocessor.steps.publish import Publish
from sluice.columns import Quality, Sample

from ..flows import at, feed, flow, pipeline, samples, settings


def publishing(publish: str) -> Pipeline:
    context = flow()
    return pipeline(context, Publish(settings(Flow, inputs={"a": {"stream": "*"}}, publish=publish), context))


def sample(tag: str, second: float, value: Any, asset: str = "Mill", quality: Quality = Quality.GOOD) -> Sample:
    return Sample(tag, at(second), value, quality, asset=asset)


def test_all_of_an_asset_goes_out_if_any_of_it_changed() -> None:
    of = publishing("changes")
    feed(of, [sample("a", 0, 1.0), sample("b", 0, True), sample("c", 0, 1.0, "Kiln")])
    out = samples(feed(of, [sample("a", 1, 1.0), sample("b", 1, False), sample("c", 1, 1.0, "Kiln")], 1))
    assert [(one.tag, one.value) for one in out] == [("a", 1.0), ("b", False)]
    assert of.held == 0


def test_what_stands_at_another_time_is_not_brought_along() -> None:
    of = publishing("changes")
    feed(of, [sample("a", 0, 1.0), sample("b", 0, 1.0)])
    out = samples(feed(of, [sample("a", 1, 1.0), sample("a", 2, 1.0), sample("b", 2, 5.0)], 1))
    assert [(one.tag, one.time) for one in out] == [("a", at(2)), ("b", at(2))]


def test_only_what_changed_goes_out() -> None:
    of = publishing("compressed")
    feed(of, [sample("a", 0, 1.0), sample("b", 0, 1)])
    out = samples(feed(of, [sample("a", 1, 1.0), sample("b", 1, 2), sample("a", 2, 1.0, quality=Quality.UNCERTAIN)], 1))
    assert [(one.tag, one.time) for one in out] == [("b", at(1)), ("a", at(2))]
    assert of.held == 0


def test_null_is_a_value_of_its_own_and_like_itself() -> None:
    of = publishing("compressed")
    values = [None, None, 1.0, None]
    out = [
        one
        for second, value in enumerate(values)
        for one in samples(feed(of, [sample("a", second, value, quality=Quality.BAD)], second))
    ]
    assert [one.time for one in out] == [at(0), at(2), at(3)]


def test_late_samples_are_published_and_bring_nothing_along() -> None:
    of = publishing("changes")
    feed(of, [sample("a", 5, 1.0), sample("b", 4, 1.0)])
    out = samples(feed(of, [sample("a", 4.5, 7.0), sample("b", 4.5, 1.0)], 1))
    assert [(one.tag, one.time) for one in out] == [("a", at(4.5))]
    assert samples(feed(of, [sample("a", 6, 1.0)], 2)) == []


VALUES: dict[str, list[Any]] = {"a": [1.0, 2.0], "b": [1, 2], "c": [True, False], "d": ["x", "y"]}


@st.composite
def histories(draw: st.DrawFn) -> list[list[Sample]]:
    """Scans of some tags of two assets, each tag of one type for each quality."""
    turns = []
    second = 0
    for _ in range(draw(st.integers(1, 6))):
        rows = []
        for _ in range(draw(st.integers(0, 4))):
            second += 1
            for tag, of in VALUES.items():
                for asset in ("Mill", "Kiln"):
                    if draw(st.booleans()):
                        quality = draw(st.sampled_from([Quality.GOOD] * 4 + [Quality.BAD]))
                        rows.append(Sample(tag, at(second), draw(st.sampled_from(of)), quality, asset=asset))
        turns.append(rows)
    return turns


@given(histories(), st.sampled_from(["changes", "compressed"]), st.data())
def test_it_publishes_what_the_rules_say_wherever_turns_end_and_state_is_saved(
    turns: list[list[Sample]], publish: str, data: st.DataObject
) -> None:
    of = publishing(publish)
    published: dict[tuple[str, str], Sample] = {}
    for number, rows in enumerate(turns):
        expected: list[Sample] = []
        groups: dict[tuple[int, str], list[Sample]] = {}
        for row in rows:
            groups.setdefault((row.time, row.asset), []).append(row)
        for group in groups.values():
            news = []
            for row in group:
                last = published.get((row.asset, row.tag))
                if last is None or (last.value, last.quality) != (row.value, row.quality):
                    news.append(row)
            out = news if publish == "compressed" else group if news else []
            published.update({(row.asset, row.tag): row for row in out})
            expected += out
        found = samples(feed(of, rows, number))
        order = sorted(found, key=lambda s: (s.time, s.asset, s.tag))
        assert order == sorted(expected, key=lambda s: (s.time, s.asset, s.tag))
        if data.draw(st.booleans(), label=f"restart after turn {number}"):
            saved = of.save()
            of = publishing(publish)
            assert of.load(saved) == []
            assert of.save() == saved
    assert of.held == 0
