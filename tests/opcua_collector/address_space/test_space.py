"""The address space as columns: what goes in comes out, over the disk and over a server that orders its namespaces
anew; and what is gone is gone after two looks."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opcua_collector.address_space.address import format_node_id, parse_node_id
from opcua_collector.address_space.paths import Filters, join
from opcua_collector.address_space.references import OBJECT, VARIABLE, Reference, pack
from opcua_collector.address_space.space import LOOKS, ROOT, Space, file_of, forget, load, merged, save

URIS = ["http://opcfoundation.org/UA/", "urn:a", "urn:b;x%y"]

Tree = dict[tuple[str, ...], str]
"""Path -> node id with its namespace's URI as its number in URIS, ``1:name``."""


def space_of(tree: Tree, uris: list[str] = URIS) -> Space:
    """Of a server whose namespaces stand in this order. Parents that are not named are folders of their own name."""
    space = Space(list(uris), mark="opc.tcp://x")
    there: dict[tuple[str, ...], int] = {(): ROOT}
    every = {one[:depth] for one in tree for depth in range(1, len(one) + 1)}
    for path in sorted(every, key=lambda one: (len(one), one)):
        number, _, name = tree.get(path, f"1:{'/'.join(path)}").partition(":")
        packed = pack(parse_node_id(f"s={name}"), uris.index(URIS[int(number)]))
        kind = VARIABLE if path in tree else OBJECT
        there[path] = space.add(there[path[:-1]], Reference(packed, 1, path[-1], kind, pack(parse_node_id("i=63"), 0)))
    return space


def paths(space: Space) -> dict[str, str]:
    return {space.path(node): space.address(node) for node in range(len(space)) if space.is_variable(node)}


def expected(tree: Tree) -> dict[str, str]:
    quoted = ["", "nsu=urn:a;s=", "nsu=urn:b%3Bx%25y;s="]
    return {join(path): quoted[int(id_[0])] + id_[2:] for path, id_ in tree.items()}


TREES = st.dictionaries(
    st.lists(st.sampled_from(["a", "b", "c/d", "e&"]), min_size=1, max_size=3).map(tuple),
    st.builds("{}:{}".format, st.sampled_from([1, 2]), st.sampled_from(["x", "y", "z"])),
    max_size=8,
)


@given(TREES)
def test_what_goes_in_comes_out_over_the_disk(tree: Tree) -> None:
    space = space_of(tree)
    space.type_names["i=63"] = "BaseDataVariableType"
    space.families["dataType"] = {"Number": ["i=26", "i=11"]}
    again = Space.parse(space.dump())
    assert paths(again) == paths(space) == expected(tree)
    assert again == space


@given(TREES, TREES, st.permutations(URIS[1:]))
def test_what_is_gone_is_gone_after_two_looks_in_a_row_and_what_came_is_there_at_once(
    before: Tree, after: Tree, order: list[str]
) -> None:
    uris = [URIS[0], *order]  # a restart of the server may order its namespaces anew
    first = space_of(before)
    second = merged(first, space_of(after, uris))
    assert paths(second) == {**expected(before), **expected(after)} or clash(before, after)
    assert set(expected(after).items()) <= set(pairs(second))
    assert set(expected(before).items()) <= set(pairs(second))
    third = merged(Space.parse(second.dump()), space_of(after, uris))
    assert pairs(third) == sorted(expected(after).items())


def pairs(space: Space) -> list[tuple[str, str]]:
    return sorted((space.path(node), space.address(node)) for node in range(len(space)) if space.is_variable(node))


def clash(before: Tree, after: Tree) -> bool:
    """A path leads to another node: for one look both are there."""
    return any(before[path] != after[path] for path in before.keys() & after.keys())


@given(TREES, TREES)
def test_a_look_that_is_not_complete_makes_nothing_go(before: Tree, after: Tree) -> None:
    space = space_of(before)
    for _ in range(2 * LOOKS):
        space = merged(space, space_of(after), complete=False)
        assert set(expected(before).items()) <= set(pairs(space))


def test_what_is_below_a_node_that_was_not_shown_stays() -> None:
    space = space_of({("a", "x"): "1:ax", ("b", "y"): "1:by"})
    for _ in range(2 * LOOKS):
        new = space_of({("b", "z"): "1:bz"})
        folder = new.add(ROOT, Reference(pack(parse_node_id("s=a"), 1), 1, "a", OBJECT, pack(parse_node_id("i=63"), 0)))
        space = merged(space, new, {new.id(folder)})
    assert sorted(paths(space)) == ["/a/x", "/b/z"]


def test_a_node_that_comes_back_in_time_was_never_gone() -> None:
    tree: Tree = {("a",): "1:a", ("b",): "1:b"}
    space = space_of(tree)
    for _ in range(4):
        space = merged(space, space_of({("a",): "1:a"}))
        space = merged(space, space_of(tree))
        assert paths(space) == expected(tree)


def test_attributes_that_one_look_did_not_read_stay_those_of_the_one_before() -> None:
    old = space_of({("a",): "1:a"})
    old.data_type[0], old.rank[0], old.historizing[0] = old.number("i=11"), -1, 1
    new = merged(old, space_of({("a",): "1:a"}))
    assert (new.types[new.data_type[0]], new.rank[0], new.historizing[0]) == ("i=11", -1, 1)


def test_the_states_of_stored_nodes_are_those_of_their_paths() -> None:
    space = space_of({("Plant", "U1", "Temp"): "1:t", ("Plant", "U1", "Level"): "1:l", ("Temp",): "1:x"})
    filters = Filters({"one": type("W", (), {"path": "/**/Temp", "exclude": ["/Temp"]})()})
    fitted = [space.path(node) for node, state in enumerate(space.states(filters)) if state.fits]
    assert fitted == ["/Plant/U1/Temp"]


# --- on disk ---


def test_the_file_is_for_its_owner_alone_and_is_deleted_with_its_connection(tmp_path: Path) -> None:
    path = file_of(tmp_path / "space", "line1")
    assert save(path, space_of({("a",): "1:a"}))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    found = load(path)
    assert found is not None
    assert paths(found) == {"/a": "nsu=urn:a;s=a"}
    forget(path)
    forget(path)
    assert load(path) is None


@pytest.mark.parametrize("damage", ["cut", "turned", "emptied", "other"])
def test_a_damaged_file_is_as_if_it_were_not_there(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "line1.zst"
    save(path, space_of({("a", "b"): "1:a"}))
    data = path.read_bytes()
    whole = {
        "cut": data[: len(data) // 2],
        "turned": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "emptied": b"",
        "other": b"[]",
    }
    path.write_bytes(whole[damage])
    assert load(path) is None


@given(st.integers(0, 400), st.integers(1, 255))
def test_no_content_makes_an_address_space_that_leads_nowhere(place: int, change: int) -> None:
    import zstandard

    content = bytearray(zstandard.ZstdDecompressor().decompress(space_of({("a", "b"): "1:a"}).dump()))
    content[place % len(content)] ^= change
    try:
        space = Space.parse(zstandard.ZstdCompressor().compress(bytes(content)))
    except ValueError:
        return
    for node in range(len(space)):
        space.path(node)
        space.address(node)
        assert space.types[space.type[node]] is not None


def test_a_disk_that_refuses_costs_the_memory_and_nothing_else(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "space").write_text("no folder")
    assert not save(tmp_path / "space" / "line1.zst", Space())
    assert "cannot be kept" in caplog.text
    assert load(tmp_path / "space" / "line1.zst") is None


@pytest.mark.parametrize("text", ["i=85", "nsu=urn:a;s=x;y=z", "nsu=urn:a%3Bb%25;b=AQID", "ns=3;s= x"])
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    assert format_node_id(parse_node_id(text)) == text
