"""Filters over paths: what each wildcard means, held against a slow reference, and what matching costs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.address_space.paths import MOST_STEPS, Filters, Pattern, PatternError, join, split, step


@dataclass(frozen=True)
class Wish:
    path: str
    exclude: list[str] = field(default_factory=list)


def fits(pattern: str, path: str) -> bool:
    return bool(Filters({"one": Wish(pattern)}).of(split(path)).fits)


@pytest.mark.parametrize(
    ("pattern", "some", "others"),
    [
        # the example of the SiteWise user guide, "Use OPC UA node filters"
        ("/", ["/WA/Factory 1/Line 1/PLC1", "/OR/Factory 1/Line 2/Counter2"], []),
        ("/**/", ["/WA/Factory 1/Line 1/PLC1", "/OR/Factory 1/Line 2/Counter2"], []),
        ("/*/*/*/PLC*", ["/WA/Factory 1/Line 1/PLC1", "/OR/Factory 1/Line 1/PLC1"], ["/WA/Factory 1/Line 2/Counter1"]),
        ("/**/PLC*", ["/WA/Factory 1/Line 1/PLC1"], ["/WA/Factory 1/Line 2/Counter1"]),
        ("/**/Line 2/Counter*", ["/WA/Factory 1/Line 2/Counter1"], ["/WA/Factory 1/Line 1/Counter1"]),
        # * is one step or a part of one, ** any number, none as well
        ("/Plant/*/Temp", ["/Plant/U1/Temp"], ["/Plant/Temp", "/Plant/U1/A/Temp", "/plant/U1/Temp"]),
        ("/Plant/U*1/T*p", ["/Plant/U1/Tp", "/Plant/Unit1/Temp"], ["/Plant/U12/Temp", "/Plant/U1/Tpx"]),
        ("/**/Temp", ["/Temp", "/A/Temp", "/A/B/Temp"], ["/A/Temp/x", "/A/temp"]),
        ("/A/**/B/**/C", ["/A/B/C", "/A/x/B/y/z/C", "/A/B/B/C"], ["/A/C", "/B/A/C"]),
        # at the end: all below, but not the node itself
        ("/Plant/**", ["/Plant/a", "/Plant/a/b"], ["/Plant", "/Planta/b"]),
        ("/Plant/", ["/Plant/a", "/Plant/a/b"], ["/Plant"]),
        ("/Plant", ["/Plant"], ["/Plant/a"]),
        # what a name holds itself is marked by &; any other & is one
        ("/P&&ID/A&/B", ["/P&&ID/A&/B"], ["/P&ID/A/B"]),
        ("/a&*", ["/a&*"], ["/ab"]),
        ("/R&D/*", ["/R&D/x"], ["/RD/x"]),
        ("/2&:x", ["/2:x"], []),
    ],
)
def test_wildcards_are_those_of_sitewise(pattern: str, some: list[str], others: list[str]) -> None:
    assert [path for path in some if not fits(pattern, path)] == []
    assert [path for path in others if fits(pattern, path)] == []


def test_what_is_excluded_is_not_fitted_and_what_is_wholly_excluded_is_not_entered() -> None:
    filters = Filters({"one": Wish("/Plant/**", ["/Plant/Diag/**", "/**/*Test*"])})
    assert filters.of(["Plant", "Temp"]).fits == (0,)
    assert filters.of(["Plant", "Diag"]).fits == (0,)  # the node itself is not below itself
    assert not filters.of(["Plant", "Diag"]).goes_on
    assert filters.of(["Plant", "Diag", "x"]).fits == ()
    assert filters.of(["Plant", "U", "MyTest1"]).fits == ()
    assert filters.of(["Plant", "U", "MyTest1", "x"]).fits == (0,)


def test_a_subtree_that_no_filter_can_fit_is_not_entered() -> None:
    filters = Filters({"a": Wish("/Plant/*/Temp"), "b": Wish("/Other")})
    assert filters.start.goes_on
    assert filters.of(["Plant", "U1"]).goes_on
    assert not filters.of(["Plant", "U1", "Temp"]).goes_on
    assert not filters.of(["Elsewhere"]).goes_on
    assert filters.of(["Other"]).fits == (1,)
    assert not filters.of(["Other"]).goes_on


def test_the_servers_own_object_is_entered_only_by_filters_that_begin_with_its_name() -> None:
    filters = Filters({"all": Wish("/**"), "own": Wish("/Server/ServerStatus/*"), "part": Wish("/Serv*/**")})
    inside = filters.into_server.step("ServerStatus").step("CurrentTime")
    assert inside.fits == (1,)
    assert filters.of(["Server", "ServerStatus", "CurrentTime"]).fits == (0, 1, 2)  # another object of that name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Plant", "does not begin with /"),
        ("/a//b", "empty step"),
        ("/" + "/".join("a" * (MOST_STEPS + 1)), f"more than {MOST_STEPS}"),
    ],
)
def test_a_text_that_is_no_filter_says_why(text: str, why: str) -> None:
    with pytest.raises(PatternError, match=why):
        Pattern(text)


NAMES = st.text(alphabet="ab/&*:", max_size=4)
STEPS = st.lists(st.one_of(st.just("**"), st.just("*"), st.text(alphabet="ab*", min_size=1, max_size=4)), min_size=1,
                 max_size=6)  # fmt: skip


@given(st.lists(NAMES.filter(bool), min_size=1, max_size=5))
def test_a_path_gives_its_names_back(names: list[str]) -> None:
    assert split(join(names)) == names


@given(st.text(alphabet="ab/&*:"))
def test_a_name_as_it_stands_in_a_path_fits_itself_and_nothing_else(name: str) -> None:
    if name and "*" not in name:
        assert fits(f"/{step(name)}", f"/{step(name)}")
        assert not fits(f"/{step(name)}", f"/{step(name + 'x')}")


def slow(steps: list[str], names: list[str]) -> bool:
    """The reference: tries every way."""

    @cache
    def part(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return part(pattern[1:], name) or bool(name and part(pattern, name[1:]))
        return bool(name) and name[0] == pattern[0] and part(pattern[1:], name[1:])

    @cache
    def whole(i: int, j: int) -> bool:
        if i == len(steps):
            return j == len(names)
        if steps[i].count("*") == len(steps[i]) > 1:
            if i == len(steps) - 1:
                return j < len(names)
            return whole(i + 1, j) or (j < len(names) and whole(i, j + 1))
        return j < len(names) and part(steps[i], names[j]) and whole(i + 1, j + 1)

    return whole(0, 0)


PLAIN = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=6)


def normal(steps: list[str]) -> list[str]:
    """A ** beside a ** says nothing more."""
    deep = [len(one) > 1 and not one.strip("*") for one in steps]
    return [one for i, one in enumerate(steps) if not (deep[i] and i and deep[i - 1])]


@given(STEPS, PLAIN)
def test_a_filter_fits_what_the_reference_fits(steps: list[str], names: list[str]) -> None:
    assert fits("/" + "/".join(steps), join(names)) == slow(normal(steps), names)


@given(st.lists(st.tuples(STEPS, st.lists(STEPS, max_size=2)), min_size=1, max_size=4), st.lists(PLAIN, max_size=8))
def test_filters_together_fit_what_each_fits_alone_and_prune_nothing_that_fits(
    wishes: list[tuple[list[str], list[list[str]]]], paths: list[list[str]]
) -> None:
    def text(steps: list[str]) -> str:
        return "/" + "/".join(steps)

    filters = Filters({str(n): Wish(text(p), [text(x) for x in e]) for n, (p, e) in enumerate(wishes)})
    for names in paths:
        expected = tuple(
            number
            for number, (path, exclude) in enumerate(wishes)
            if slow(normal(path), names) and not any(slow(normal(one), names) for one in exclude)
        )
        assert filters.of(names).fits == expected
        if expected:  # whoever goes down only where it goes on comes here
            assert all(filters.of(names[:depth]).goes_on for depth in range(len(names)))


@pytest.mark.parametrize(
    "pattern",
    [
        "/" + "/".join(["**", "a"] * 30),
        "/**/" + "*a" * 40 + "b",
        "/" + "/".join(["**", "a", *["*"] * 40]),
    ],
)
def test_no_filter_costs_more_than_its_steps_times_the_names(pattern: str) -> None:
    filters = Filters({"one": Wish(pattern)})
    began = time.process_time()
    for _ in range(20):
        filters.of(["a" * 200] * 60)
        filters.of(["a"] * 60 + ["c"])
    assert time.process_time() - began < 3


def test_two_hundred_thousand_nodes_are_matched_in_about_a_second() -> None:
    filters = Filters({"t": Wish("/Plant/*/Temp*"), "all": Wish("/Plant/Unit7*/**", ["/**/Diag/**"])})
    found = 0
    began = time.process_time()
    plant = filters.start.step("Plant")
    for unit in range(2000):
        state = plant.step(f"Unit{unit}")
        for tag in range(100):
            found += bool(state.step(f"Temp{tag}" if tag % 2 else f"X{tag}").fits)
    assert time.process_time() - began < 3
    assert found == 2000 * 50 + 111 * 50
