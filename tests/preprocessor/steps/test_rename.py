"""Renaming: rules and captures, and one owner for each name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preprocessor.engine.pipeline import Pipeline
from preprocessor.step_settings import RenameRule, RenameSettings
from preprocessor.steps.rename import Rename, preview
from sluice.columns import Sample, Series

from ..flows import at, feed, flow, pipeline, samples, settings

Rules = list[dict[str, str]]


def renaming(rules: Rules, **members: Any) -> tuple[Pipeline, Rename]:
    context = flow()
    step = Rename("names", settings(RenameSettings, type="rename", rules=rules, **members), context)
    return pipeline(context, step), step


def names(of: Pipeline, *tags: str, asset: str = "", seconds: float = 0.0) -> list[str]:
    """What the tags are called behind the step, in the order given."""
    given = [Sample(tag, at(seconds), float(i), asset=asset) for i, tag in enumerate(tags)]
    out = samples(feed(of, given, seconds))
    assert of.held == 0
    assert len(out) == len(given)
    by_value = {s.value: f"{s.asset}:{s.tag}" if s.asset else s.tag for s in out}
    return [by_value[float(i)] for i in range(len(tags))]


@pytest.mark.parametrize(
    ("rule", "asset", "tag", "expected"),
    [
        ({"match": "FIC101.PV", "tag": "Flow"}, "", "FIC101.PV", "Flow"),
        ({"match": "FIC{no}.PV", "tag": "Flow {no}"}, "", "FIC101.PV", "Flow 101"),
        ({"match": "FIC{no}.PV", "tag": "{tag} ({no})"}, "", "FIC101.PV", "FIC101.PV (101)"),
        ({"match": "{unit}/{name}", "tag": "{name}", "asset": "{asset}/{unit}"}, "site", "R1/Temp", "site/R1:Temp"),
        ({"match": "{unit}/{name}", "tag": "{name}", "asset": "{asset}/{unit}"}, "", "R1/Temp", "R1:Temp"),
        ({"match": "site/line/{name}", "tag": "{name}!"}, "site/line", "Temp", "site/line:Temp!"),  # <asset>/<name>
        ({"match": "**", "asset": "here"}, "there", "Temp", "here:Temp"),
        ({"match": "**", "asset": " a / b/ "}, "", "Temp", "a/b:Temp"),
        ({"match": "**/Temp", "tag": "T"}, "", "a/b/Temp", "T"),
        ({"match": "other", "tag": "T"}, "site", "Temp", "site:Temp"),
        ({"match": "Temp", "tag": "Temp"}, "site", "Temp", "site:Temp"),
    ],
)
def test_rules(rule: dict[str, str], asset: str, tag: str, expected: str) -> None:
    of, _ = renaming([rule])
    assert names(of, tag, asset=asset) == [expected]
    assert of.flow.problems == {}


def test_the_first_rule_that_matches_counts() -> None:
    of, step = renaming([{"match": "a*", "tag": "first {tag}"}, {"match": "**", "tag": "second {tag}"}])
    assert names(of, "ab", "cd") == ["first ab", "second cd"]
    assert step.explain(0) == {"applies": True, "tag": "first ab", "asset": "", "rule": "a*"}


def test_only_selected_tags_are_renamed() -> None:
    of, _ = renaming([{"match": "**", "tag": "x {tag}"}], tags=["a*"], exclude=["ab"])
    assert names(of, "aa", "ab", "b") == ["x aa", "ab", "b"]


def test_values_times_units_and_order_stay() -> None:
    of, _ = renaming([{"match": "z", "tag": "a"}])
    given = [Sample(tag, at(i), float(i), unit="degC") for i in range(3) for tag in ("z", "m")]
    out = samples(feed(of, given))
    assert [(s.tag, s.time, s.value, s.unit) for s in out] == sorted(
        [("a" if s.tag == "z" else s.tag, s.time, s.value, s.unit) for s in given], key=lambda row: (row[1], row[0])
    )
    (columns,) = feed(of, [Sample("z", at(9), 1.0, unit="K")], 9).live
    assert [s.unit for s in columns.series] == ["K"]  # another unit is another unit under the new name too


# --- one owner for each name ---


def test_of_two_tags_that_would_get_one_name_the_second_keeps_its_own() -> None:
    of, step = renaming([{"match": "pump-*", "tag": "Pump"}])
    assert names(of, "pump-1", "pump-2", "pump-3") == ["Pump", "pump-2", "pump-3"]
    problem, remedy = of.flow.problems["steps.names.rules[0]"]
    assert "'pump-2'" in problem
    assert "'pump-1' is called that already" in problem
    assert "1 more tags" in problem
    assert "{name}" in remedy
    assert "is called that already" in step.explain(1)["problem"]


def test_a_tag_that_keeps_its_name_has_it_whoever_came_first() -> None:
    of, _ = renaming([{"match": "a", "tag": "b"}])
    assert names(of, "a") == ["b"]
    assert names(of, "b", "a", seconds=1) == ["b", "a"]
    assert "there is such a tag" in of.flow.problems["steps.names.rules[0]"][0]


def test_going_back_to_ones_name_goes_on_along_the_chain() -> None:
    of, _ = renaming([{"match": "a", "tag": "b"}, {"match": "b", "tag": "c"}])
    assert names(of, "a", "b") == ["b", "c"]
    assert names(of, "c", "b", "a", seconds=1) == ["c", "b", "a"]


def test_names_may_be_swapped() -> None:
    of, _ = renaming([{"match": "a", "tag": "b"}, {"match": "b", "tag": "a"}])
    assert names(of, "a", "b") == ["b", "a"]
    assert of.flow.problems == {}


@pytest.mark.parametrize(
    ("rule", "tag"),
    [
        ({"match": "**", "tag": "{tag}{tag}"}, "x" * 200),
        ({"match": "{a}.{b}", "tag": "{b}"}, "x. "),
        ({"match": "**", "tag": "new {tag}"}, "bell\a"),
        ({"match": "**", "asset": "{tag}/{tag}/{tag}/{tag}/{tag}"}, "y" * 250),
    ],
)
def test_what_nothing_can_be_called_is_not_given(rule: dict[str, str], tag: str) -> None:
    of, _ = renaming([rule])
    assert names(of, tag) == [tag]
    assert "cannot become" in of.flow.problems["steps.names.rules[0]"][0]


def test_a_tag_without_a_place_is_dropped_and_counted() -> None:
    context = flow()
    context.tags.most = 3
    step = Rename("names", settings(RenameSettings, type="rename", rules=[{"match": "**", "tag": "x{tag}"}]), context)
    of = pipeline(context, step)
    out = feed(of, [Sample("a", at(0), 1.0), Sample("b", at(0), 1.0)])
    assert [s.tag for s in samples(out)] == ["xa"]
    assert (step.counters["too_many_tags"], of.held) == (1, 0)


RULES: Rules = [
    {"match": "a{x}", "tag": "b{x}"},
    {"match": "b{x}", "tag": "c"},
    {"match": "d*", "tag": "a1"},
    {"match": "e", "asset": "site"},
]
TAGS = st.lists(st.lists(st.sampled_from(["a1", "a2", "b1", "b2", "c", "d1", "d2", "e", "f"]), unique=True), max_size=6)


@given(TAGS, st.integers(0, 6))
def test_no_two_tags_ever_share_a_name_and_a_restart_moves_none(turns: list[list[str]], cut: int) -> None:
    of, _ = renaming(RULES)
    other, _ = renaming(RULES)
    for number, tags in enumerate(turns):
        if number == cut:
            again, _ = renaming(RULES)
            assert again.load(of.save()) == []
            of = again
        got = names(of, *tags, seconds=number)
        assert len(set(got)) == len(tags)
        assert got == names(other, *tags, seconds=number)
    assert of.flow.problems == other.flow.problems


def test_a_state_of_other_tags_is_refused() -> None:
    _, step = renaming(RULES)
    with pytest.raises(ValueError, match="none of the flow's"):
        step.load({"known": [5]})


def test_other_rules_after_a_change_of_the_configuration() -> None:
    of, _ = renaming([{"match": "a", "tag": "x"}])
    names(of, "a", "b")
    again, _ = renaming([{"match": "b", "tag": "x"}])
    assert again.load(of.save()) == []
    assert names(again, "a", "b", seconds=1) == ["a", "x"]


# --- before anything runs ---


def test_a_preview_says_what_becomes_of_each_tag() -> None:
    rules = [RenameRule.model_validate(rule) for rule in RULES]
    tags = [Series("a1", "s"), Series("a2", "s", "bar"), Series("b1", "s"), Series("b2", "s"), Series("e")]
    assert preview(rules, tags) == [
        (Series("a1", "s"), Series("b1", "s")),
        (Series("a2", "s", "bar"), Series("a2", "s", "bar")),  # b2 keeps its name
        (Series("b1", "s"), Series("c", "s")),
        (Series("b2", "s"), Series("b2", "s")),  # c is b1 by now
        (Series("e"), Series("e", "site")),
    ]


@pytest.mark.parametrize(
    "rule",
    [
        {"match": "a"},
        {"match": "{tag}", "tag": "b"},
        {"match": "a", "tag": "{no}"},
        {"match": "a", "tag": "b{"},
        {"match": "a", "asset": "}"},
        {"match": "a{", "tag": "b"},
        {"match": "", "tag": "b"},
    ],
)
def test_rules_that_make_no_sense_are_refused(rule: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        settings(RenameSettings, type="rename", rules=[rule])
