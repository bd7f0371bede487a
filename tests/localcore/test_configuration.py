"""Component configuration: merge, reset, time, watchers, limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcore.configuration import Configuration, NoSuchKey, Stale, TooLarge, TypeConflict
from localcore.profile import CLASSIC, LITE, Profile

BOTH = pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])
KEYS = st.sampled_from(["a", "b", "c", "d"])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=3), st.lists(st.integers(), max_size=2)
)
MAPS = st.recursive(
    st.dictionaries(KEYS, LEAVES, max_size=3), lambda below: st.dictionaries(KEYS, st.one_of(LEAVES, below), max_size=3)
)


def merged(old: Any, new: Any) -> Any:
    """What a merge means, in five lines."""
    if not isinstance(new, dict):
        return new
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in new.items():
        result[key] = merged(result.get(key), value)
    return result


def made(profile: Profile, *values: dict[str, Any]) -> Configuration:
    configuration = Configuration(profile)
    for time, value in enumerate(values, start=2):
        configuration.merge((), value, time)
    return configuration


@given(st.lists(MAPS, max_size=4))
def test_later_merges_win_leaf_by_leaf(values: list[dict[str, Any]]) -> None:
    expected: Any = {}
    for value in values:
        expected = merged(expected, value)
    assert made(CLASSIC, *values).read() == expected


@given(MAPS, MAPS)
def test_a_reset_of_everything_leaves_exactly_the_defaults(defaults: dict[str, Any], value: dict[str, Any]) -> None:
    configuration = Configuration(CLASSIC)
    configuration.add_defaults(defaults)
    configuration.merge((), value, 5.0)
    configuration.reset((), defaults)
    assert configuration.read() == defaults


@given(MAPS, MAPS)
def test_watchers_hear_of_exactly_the_leaves_that_changed(before: dict[str, Any], after: dict[str, Any]) -> None:
    configuration = made(CLASSIC, before)
    heard: list[tuple[str, ...]] = []
    configuration.watch((), heard.append)
    old = dict(leaves(configuration.read()))
    configuration.merge((), after, 9.0)
    new = dict(leaves(configuration.read()))
    changed = {
        path
        for path, value in new.items()
        if path not in old or old[path] != value or type(old[path]) is not type(value)
    }
    assert set(heard) == changed
    assert len(heard) == len(changed)


def leaves(value: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, child in value.items():
        found += leaves(child, (*path, key)) if isinstance(child, dict) else [((*path, key), child)]
    return found


@BOTH
def test_an_older_write_does_not_change_a_leaf(profile: Profile) -> None:
    configuration = Configuration(profile)
    configuration.merge((), {"a": "new"}, 10.0)
    configuration.merge((), {"a": "old", "b": "first"}, 9.0)
    assert configuration.read() == {"a": "new", "b": "first"}


@BOTH
def test_defaults_of_a_newer_recipe_do_not_replace_what_is_there_nor_do_removed_ones_go_away(profile: Profile) -> None:
    configuration = Configuration(profile)
    configuration.add_defaults({"rate": 5, "gone": 1})
    configuration.add_defaults({"rate": 7, "new": {"x": 1}})
    assert configuration.read() == {"rate": 5, "gone": 1, "new": {"x": 1}}


@BOTH
def test_a_reset_takes_one_path_back_to_its_default_or_away(profile: Profile) -> None:
    defaults = {"limits": {"low": 1, "high": 2}, "name": "x"}
    configuration = Configuration(profile)
    configuration.add_defaults(defaults)
    configuration.merge((), {"limits": {"low": 5, "high": 6, "extra": 7}, "own": {"a": 1}}, 3.0)
    configuration.reset(("limits", "low"), defaults)
    assert configuration.read(("limits",)) == {"low": 1, "high": 6, "extra": 7}
    configuration.reset(("limits", "extra"), defaults)
    configuration.reset(("own",), defaults)
    configuration.reset(("nothing", "here"), defaults)
    assert configuration.read() == {"limits": {"low": 1, "high": 6}, "name": "x"}


@BOTH
def test_lists_are_leaves_and_empty_values_are_kept(profile: Profile) -> None:
    configuration = made(profile, {"list": [1, {"x": 2}], "none": None, "map": {}, "empty": []}, {"list": [3]})
    assert configuration.read() == {"list": [3], "none": None, "map": {}, "empty": []}


@BOTH
def test_a_missing_key_is_told(profile: Profile) -> None:
    configuration = made(profile, {"a": {"b": 1}})
    for path in (("x",), ("a", "x"), ("a", "b", "c")):
        with pytest.raises(NoSuchKey):
            configuration.read(path)
        with pytest.raises(NoSuchKey):
            configuration.watch(path, lambda _: None)


@BOTH
def test_a_watcher_hears_of_its_subtree_until_it_cancels(profile: Profile) -> None:
    configuration = made(profile, {"a": {"b": 1}, "c": 1})
    heard: list[tuple[str, ...]] = []
    cancel = configuration.watch(("a",), heard.append)
    configuration.merge(("a",), {"b": 2, "n": 3}, 9.0)
    configuration.merge((), {"c": 2, "a": {"b": 2}}, 10.0)
    assert heard == [("a", "b"), ("a", "n")]
    cancel()
    configuration.merge((), {"a": {"b": 3}}, 11.0)
    assert len(heard) == 2


def test_a_watcher_hears_of_what_a_reset_took_away() -> None:
    configuration = made(CLASSIC, {"a": {"b": 1}, "c": 1})
    heard: list[tuple[str, ...]] = []
    configuration.watch((), heard.append)
    configuration.reset(("a",), {})
    assert heard == [("a", "b")]


def test_classic_ignores_the_case_of_keys_and_lite_does_not() -> None:
    classic, lite = made(CLASSIC, {"Tag": 1}, {"tAG": 2}), made(LITE, {"Tag": 1}, {"tAG": 2})
    assert classic.read() == {"Tag": 2}
    assert classic.read(("TAG",)) == 2
    assert lite.read() == {"Tag": 1, "tAG": 2}


def test_classic_turns_leaves_into_maps_and_lite_refuses() -> None:
    classic = made(CLASSIC, {"a": 1, "b": {"c": 1}}, {"a": {"x": 1}, "b": 2})
    assert classic.read() == {"a": {"x": 1}, "b": 2}
    lite = made(LITE, {"a": 1, "b": {"c": 1}})
    with pytest.raises(TypeConflict, match="a is a value"):
        lite.merge((), {"a": {"x": 1}}, 9.0)
    with pytest.raises(TypeConflict, match="b is a map"):
        lite.merge((), {"b": 2}, 9.0)


def test_on_lite_a_failing_merge_leaves_what_it_wrote_before_and_works_in_sorted_order() -> None:
    configuration = made(LITE, {"m": 1})
    heard: list[tuple[str, ...]] = []
    configuration.watch((), heard.append)
    with pytest.raises(TypeConflict):
        configuration.merge((), {"z": 1, "m": {"x": 1}, "b": 1, "a": 1}, 9.0)
    assert configuration.read() == {"a": 1, "b": 1, "m": 1}
    assert heard == [("a",), ("b",)]


def test_lites_longest_string_is_1022_characters() -> None:
    configuration = made(LITE, {"a": "x" * 1022})
    with pytest.raises(TooLarge, match="a is 1025 bytes of JSON"):
        configuration.merge((), {"a": "x" * 1023}, 9.0)
    with pytest.raises(TooLarge):
        configuration.merge((), {"list": ["plant/line/x"] * 80}, 9.0)
    assert made(CLASSIC, {"a": "x" * 100_000}).read(("a",)) == "x" * 100_000


def test_lite_reads_neither_more_than_256_keys_nor_64_in_one_map_nor_9000_bytes() -> None:
    def readable(value: dict[str, Any]) -> bool:
        try:
            return bool(made(LITE, {"t": value}).read_limited(("t",)) == value)
        except TooLarge:
            return False

    wide = {f"k{n}": 1 for n in range(64)}
    assert readable(wide)
    assert not readable({**wide, "one": 1})
    groups = {f"g{n}": {f"k{m}": 1 for m in range(15)} for n in range(16)}
    assert readable(groups)  # 16 + 240
    assert not readable({**groups, "one": 1})
    assert readable({f"k{n}": "x" * 1000 for n in range(8)})
    assert not readable({f"k{n}": "x" * 1000 for n in range(9)})


def test_what_is_too_large_as_a_whole_can_be_read_by_narrower_paths() -> None:
    configuration = made(LITE, {f"g{n}": {f"k{m}": 1 for m in range(50)} for n in range(10)})
    with pytest.raises(TooLarge, match="510 keys, more than 256"):
        configuration.read_limited()
    assert len(configuration.read_limited(("g3",))) == 50


def test_lite_stores_twelve_levels() -> None:
    def nested(depth: int) -> dict[str, Any]:
        return {"k": nested(depth - 1)} if depth else {}

    made(LITE, nested(12))
    with pytest.raises(TooLarge, match="deeper than 12"):
        made(LITE, nested(13))


def test_classic_refuses_an_update_that_is_older_than_what_is_there_and_lite_ignores_it() -> None:
    classic, lite = made(CLASSIC, {"a": {"b": 1}}), made(LITE, {"a": {"b": 1}})
    with pytest.raises(Stale):
        classic.update(("a",), {"b": 2}, 1.5)
    lite.update(("a",), {"b": 2}, 1.5)
    assert classic.read() == lite.read() == {"a": {"b": 1}}
    classic.update(("a",), {"b": 2}, 2.5)
    assert classic.read() == {"a": {"b": 2}}
