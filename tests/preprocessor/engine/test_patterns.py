"""Patterns over tag names: what they cover, what they capture, and that none costs more than its length."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engine.patterns import Pattern, PatternError, Selection


@pytest.mark.parametrize(
    ("text", "name", "fits"),
    [
        ("Reactor/Temp", "Reactor/Temp", True),
        ("Reactor/Temp", "reactor/temp", False),
        ("*", "Temp", True),
        ("*", "Reactor/Temp", False),
        ("**", "Reactor/Temp", True),
        ("Reactor/*", "Reactor/Temp", True),
        ("Reactor/*", "Reactor/A/Temp", False),
        ("Reactor/**", "Reactor/A/Temp", True),
        ("Reactor/**", "Reactor", False),
        ("Reactor/**", "Reactor2/Temp", False),
        ("**/Temp", "Temp", True),
        ("**/Temp", "site/area/Temp", True),
        ("**/Temp", "site/areaTemp", False),
        ("site/**/Temp", "site/Temp", True),
        ("site/**/Temp", "site/a/b/Temp", True),
        ("FIC???.PV", "FIC101.PV", True),
        ("FIC???.PV", "FIC1.PV", False),
        ("a?b", "a/b", False),
        ("FIC*.PV", "FIC101.PV", True),
        ("FIC101.PV", "FIC101xPV", False),
        ("a**", "a/b/c", True),
    ],
)
def test_what_a_pattern_covers(text: str, name: str, fits: bool) -> None:
    assert Pattern(text).matches(name) is fits


@pytest.mark.parametrize(
    ("text", "name", "captured"),
    [
        ("{unit}/Flow", "P101/Flow", {"unit": "P101"}),
        ("FIC{no}.PV", "FIC101.PV", {"no": "101"}),
        ("{a}-{b}", "x-y-z", {"a": "x", "b": "y-z"}),
        ("**/{unit}/Flow", "site/area/P1/Flow", {"unit": "P1"}),
        ("site/{area}/**", "site/north/P1/Flow", {"area": "north"}),
        ("{unit}/Flow", "/Flow", None),
        ("{unit}/Flow", "a/b/Flow", None),
        ("Flow", "Flow", {}),
    ],
)
def test_what_it_captures(text: str, name: str, captured: dict[str, str] | None) -> None:
    assert Pattern(text).captures(name) == captured


@pytest.mark.parametrize("text", ["", "{", "a}b", "{1}", "{}", "{a}{a}", "x" * 257])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(PatternError) as error:
        Pattern(text)
    assert error.value.remedy


@given(st.text(alphabet="ab*/", min_size=1, max_size=8), st.text(alphabet="ab/", max_size=8))
def test_star_within_a_level_agrees_with_regular_expressions(text: str, name: str) -> None:
    if "**" in text:
        return
    expected = re.fullmatch(re.escape(text).replace(r"\*", "[^/]*"), name) is not None
    assert Pattern(text).matches(name) is expected


@given(
    st.lists(st.sampled_from(["a", "b", "/", "*", "**", "?", "{x}"]), min_size=1, max_size=6).map("".join),
    st.text(alphabet="ab/", max_size=6),
)
def test_the_short_way_says_the_same_as_the_table(text: str, name: str) -> None:
    """`matches` asks a regular expression where that is quick, `captures` always the table of all places."""
    try:
        pattern = Pattern(text)
    except PatternError:
        return
    assert pattern.matches(name) is (pattern.captures(name) is not None)


@pytest.mark.parametrize("text", ["Area*/**", "Count/*", "**/Temp", "FIC?.PV", "*/Area*/Unit*/Loop*0.PV"])
def test_very_many_tags_are_told_apart_quickly(text: str) -> None:
    pattern = Pattern(text)
    began = time.process_time()
    for number in range(20_000):
        pattern.matches(f"Site/Area{number % 7}/Unit{number % 31}/Loop{number}.PV")
    assert time.process_time() - began < 0.5  # with a table for each it takes 5 s


@pytest.mark.parametrize("text", ["*a*a", "**/a*", "a*/a*/a*/a*/a*b", "*a*/*a*/*a*/*a*/b", "**a**a**b", "**/**/**/b"])
def test_no_name_makes_a_pattern_slow(text: str) -> None:
    pattern = Pattern(text)
    began = time.process_time()
    for name in ("a" * 500, "/".join(["a" * 60] * 8), "a/" * 250):
        pattern.matches(name)
    assert time.process_time() - began < 0.2


@given(st.text(alphabet="ab*/{}x?", min_size=1, max_size=12), st.text(alphabet="ab/x", max_size=12))
def test_captures_say_the_same_as_matches(text: str, name: str) -> None:
    try:
        pattern = Pattern(text)
    except PatternError:
        return
    assert (pattern.captures(name) is not None) == pattern.matches(name)


def test_no_pattern_takes_long() -> None:
    pattern = Pattern("*a" * 100 + "b")
    began = time.process_time()
    assert not pattern.matches("a" * 256)
    assert time.process_time() - began < 1.0


def test_a_selection_knows_assets_and_exclusions() -> None:
    of = Selection(["site/*/Temp", "Flow"], ["**/Flow2", "north/Flow"])
    assert of.covers("Temp", "site/p1")
    assert not of.covers("Temp", "site")
    assert of.covers("Flow", "south")
    assert not of.covers("Flow", "north")
    assert Selection(["**"]).everything
