"""From an address space and the filters of a connection to its tags; and what to tell of a filter that fits nothing.
Pure.

A tag is named by its path without the leading slash, behind the filter's prefix. Names are unique whatever their upper
and lower case, as all names of tags are: of two nodes with the same name the first is taken, and the other is told.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from opcua_collector.address_space.paths import Filters, Pattern, PatternError, join, step
from opcua_collector.address_space.space import ROOT, Space
from opcua_collector.address_space.walk import DATA_TYPE, TYPE_DEFINITION, fitting
from opcua_collector.config import Select, Tag
from sluice.config import Problem

MOST_TAGS: Final = 1_000_000
LONGEST_NAME: Final = 256
"""Characters of a tag's name: a longer one is cut and ends in a mark of its own."""
_MARK: Final = 16
_MOST_PATHS: Final = 1 << 25  # characters of paths that are remembered
_SHOWN: Final = 8


class FoundTag(Tag):
    """A tag that a filter gives."""

    setting: ClassVar[str] = "select"


@dataclass(slots=True)
class Chosen:
    """What the filters give."""

    tags: dict[str, Tag] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Tags by filter."""
    problems: list[Problem] = field(default_factory=list)
    mark: bytes = b""
    """The same for the same tags."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """The filters of a connection that can be used, and what is wrong with others."""

    connection: str
    select: Mapping[str, Select]
    filters: Filters
    problems: tuple[Problem, ...] = ()

    @classmethod
    def of(cls, connection: str, select: Mapping[str, Select]) -> Wishes:
        """A filter that is none costs itself."""
        good: dict[str, Select] = {}
        problems: list[Problem] = []
        for name, wish in select.items():
            trouble = _trouble(f"connections.{connection}.select.{name}", wish)
            if trouble is None:
                good[name] = wish
            else:
                problems.append(trouble)
        return cls(connection, good, Filters(good), tuple(problems))


def _trouble(place: str, wish: Select) -> Problem | None:
    setting, value = "path", wish.path
    try:
        Pattern(value)
        setting = "exclude"
        for value in wish.exclude:
            Pattern(value)
    except PatternError as error:
        remedy = "write the browse names from Objects down, with * for one step and ** for any number"
        return Problem(f"{place}.{setting}", value, str(error), remedy, "the filter gives no tags")
    return None


@dataclass(slots=True)
class _Filter:
    """A filter while it is applied."""

    name: str
    wish: Select
    data_types: frozenset[int] | None  # numbers of types; None: any
    definitions: frozenset[int] | None
    inside: bytearray  # per node: it is, or is inside of, one of the definitions
    count: int = 0
    fitted: int = 0  # by the path alone
    twice: list[str] = field(default_factory=list)
    no_name: list[str] = field(default_factory=list)
    beyond: int = 0  # nodes that are more tags than there may be


def choose(
    wishes: Wishes,
    space: Space,
    *,
    looked: bool,
    type_names: Mapping[str, Collection[str]] | None = None,
    groups: Collection[str] = (),
    before: Mapping[str, Tag] | None = None,
    nodes: dict[str, int] | None = None,
) -> Chosen:
    """The tags that the filters give in this address space.

    looked: the server was looked through with these filters, so that what is not there is told. type_names: all types
    that it has, by kind. groups: those of the connection. before: tags that are used again where they are the same,
    because there are many. nodes: is given the node of each tag.
    """
    filters = [_made(name, wish, space) for name, wish in wishes.select.items()]
    found = Chosen()
    taken: dict[str, str] = {}
    above: dict[int, str] = {ROOT: ""}
    room = _MOST_PATHS
    mark = hashlib.blake2b(digest_size=16)
    for node, state in enumerate(space.states(wishes.filters)):
        for one in filters:
            if one.definitions is not None:
                parent = space.parent[node]
                within = space.type[node] in one.definitions or (parent != ROOT and one.inside[parent])
                one.inside.append(bool(within))
        if not state.fits:
            continue
        for number in fitting(wishes.filters, state, space, node):
            one = filters[number]
            one.fitted += 1
            if _wanted(one, space, node):
                parent = space.parent[node]
                if parent not in above:
                    if room <= 0:  # long names in a deep tree; those that follow are mostly of other parents
                        above, room = {ROOT: ""}, _MOST_PATHS
                    above[parent] = space.path(parent)
                    room -= len(above[parent])
                path = f"{above[parent]}/{step(space.name(node))}"
                name = _take(one, path, space.address(node), found, taken, mark, before or {})
                if nodes is not None and name:
                    nodes[name] = node
    found.mark = mark.digest()
    found.counts = {one.name: one.count for one in filters}
    found.problems = [
        *wishes.problems, *_problems(wishes, filters, space, groups, looked=looked, type_names=type_names or {})
    ]  # fmt: skip
    return found


def _made(name: str, wish: Select, space: Space) -> _Filter:
    numbers = {type_: number for number, type_ in enumerate(space.types)}

    def types(names: Sequence[str], kind: str) -> frozenset[int] | None:
        if not names:
            return None
        families = space.families.get(kind, {})
        return frozenset(numbers[type_] for one in names for type_ in families.get(one, ()) if type_ in numbers)

    return _Filter(
        name, wish, types(wish.data_type, DATA_TYPE), types(wish.type_definition, TYPE_DEFINITION), bytearray()
    )


def _wanted(one: _Filter, space: Space, node: int) -> bool:
    if one.data_types is not None and space.data_type[node] not in one.data_types:
        return False
    if one.definitions is not None and not one.inside[node]:
        return False
    return one.wish.historizing is None or space.historizing[node] == one.wish.historizing


def _take(
    one: _Filter,
    path: str,
    address: str,
    found: Chosen,
    taken: dict[str, str],
    mark: hashlib.blake2b,
    before: Mapping[str, Tag],
) -> str:
    """The tag's name; empty when there is none."""
    if not _addressable(address):
        one.no_name.append(path)
        return ""
    name = tag_name(one.wish.prefix, path)
    earlier = taken.get(name.casefold())
    if earlier is not None:
        if earlier != address:
            one.twice.append(name)
        return ""
    if len(found.tags) >= MOST_TAGS:
        one.beyond += 1
        return ""
    taken[name.casefold()] = address
    wish = one.wish
    tag = before.get(name)
    if tag is None or (tag.node, tag.group, tag.asset) != (address, wish.group, wish.asset):
        tag = FoundTag.model_construct(_GIVEN, node=address, group=wish.group, asset=wish.asset)
    found.tags[name] = tag
    one.count += 1
    mark.update(f"{name}\0{address}\0{wish.group}\0{wish.asset}\n".encode("utf-8", "replace"))
    return name


_GIVEN: Final = {"node", "group", "asset"}


def _addressable(address: str) -> bool:
    """Whether the text leads to the node again: an empty identifier, or one with blanks around it, does not."""
    return address == address.strip() and not address.endswith(("s=", "b="))


def tag_name(prefix: str, path: str) -> str:
    """The name of the tag of a path: printable, and no longer than a name may be."""
    name = prefix + path[1:]
    if not name.isprintable():
        name = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in name)
    if name != name.strip():  # tables and forms take blanks around a name away, and would name another tag
        name = name.strip() or "\N{REPLACEMENT CHARACTER}"
    if len(name) > LONGEST_NAME:
        digest = hashlib.sha256((prefix + path).encode("utf-8", "replace")).hexdigest()[:_MARK]
        name = f"{name[: LONGEST_NAME - _MARK - 1].rstrip()}~{digest}"
    return name


# --- what is told ---


def _problems(
    wishes: Wishes,
    filters: Sequence[_Filter],
    space: Space,
    groups: Collection[str],
    *,
    looked: bool,
    type_names: Mapping[str, Collection[str]],
) -> Iterator[Problem]:
    for number, one in enumerate(filters):
        place = f"connections.{wishes.connection}.select.{one.name}"
        wish = one.wish
        unknown = False
        for setting, names, kind in (
            ("dataType", wish.data_type, DATA_TYPE),
            ("typeDefinition", wish.type_definition, TYPE_DEFINITION),
        ):
            missing = [name for name in names if not space.families.get(kind, {}).get(name)]
            if looked and missing:
                unknown = unknown or len(missing) == len(names)
                yield Problem(
                    f"{place}.{setting}",
                    missing[0],
                    "is no type that the server has",
                    _nearest_type(missing[0], type_names.get(kind, ())),
                    "it fits nothing; the other types and filters do",
                )
        if looked and not one.count and not unknown:
            yield Problem(
                f"{place}.path",
                wish.path,
                _nothing(one),
                _remedy(wishes.filters, number, one, space),
                "it is looked for again; all others are collected",
            )
        elif one.beyond:
            yield Problem(
                f"{place}.path",
                wish.path,
                f"fits {one.beyond} variables more than the {MOST_TAGS} tags that a connection can have",
                "fit fewer, or collect from the server by several connections",
                "they are left out",
            )
        elif one.twice:
            yield Problem(
                f"{place}.path",
                wish.path,
                f"fits {len(one.twice)} nodes whose names other tags have already, such as {one.twice[0]}",
                "give the filter a prefix, or those nodes tags with names of their own (tags)",
                "they are left out",
            )
        elif one.no_name:
            yield Problem(
                f"{place}.path",
                wish.path,
                f"fits {len(one.no_name)} nodes whose ids nobody can write, such as that of {one.no_name[0]}",
                "leave them out with exclude, or give them other ids on the server",
                "they are left out",
            )
        if wish.group and wish.group not in groups:
            yield Problem(
                f"{place}.group",
                wish.group,
                "is no group of this connection",
                f"use one of: {', '.join(sorted(groups))}" if groups else "add it under groups, or take it out",
                "its tags are collected as the connection says",
            )


def _nearest_type(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 3, 0.5) or [
        one for one in known if one.casefold() == name.casefold()
    ]
    if near:
        return f"upper and lower case matter; did you mean {' or '.join(near)}?"
    return "write the type's browse name, such as Double, Number or AnalogItemType"


def _nothing(one: _Filter) -> str:
    if not one.fitted:
        return "fits no variable of the server"
    said = [
        name
        for name, given in (
            ("dataType", one.wish.data_type),
            ("typeDefinition", one.wish.type_definition),
            ("historizing", one.wish.historizing is not None),
        )
        if given
    ]
    if said:
        return f"fits {one.fitted} variables, and none of them is as {' and '.join(said)} want it"
    return f"fits {one.fitted} variables, and none of them can become a tag"


def _remedy(filters: Filters, number: int, one: _Filter, space: Space) -> str:
    """Where the filter leaves what the server has: the nearest path, and what is there."""
    if one.fitted:
        return "take conditions out, or see with a client such as UaExpert what the server says of these variables"
    pattern = filters.patterns[number][0]
    below: dict[int, dict[str, int]] = {}
    for node, parent in enumerate(space.parent):
        below.setdefault(parent, {}).setdefault(space.name(node), node)
    node, steps = ROOT, list(pattern.steps)
    if steps and steps[0] == "Objects":
        rest = one.wish.path.removeprefix("/Objects") or "/**"
        return f"paths begin below Objects: write {rest}"
    for position, wanted in enumerate(steps):
        names = [*below.get(node, {}), *space.others.get(node, ())]
        where = space.path(node) if node != ROOT else "Objects"
        if not isinstance(wanted, str):
            return _there(where, names)
        if wanted not in below.get(node, {}):
            if position == len(steps) - 1 and wanted in space.others.get(node, ()):
                path = _joined(space, node, wanted)
                return f"{path} is no variable: write {path}/** for all below"
            near = difflib.get_close_matches(wanted, sorted(names), 1, 0.5)
            if near:
                return f"did you mean {_joined(space, node, near[0])}?"
            return _there(where, names)
        node = below[node][wanted]
    return f"{space.path(node)} is no variable: write {space.path(node)}/** for all below"


def _joined(space: Space, node: int, name: str) -> str:
    return join([*(space.steps(node) if node != ROOT else ()), name])


def _there(where: str, names: Sequence[str]) -> str:
    if not names:
        return f"there is nothing below {where} that this user can see: correct the path from there on"
    shown = ", ".join(step(name) for name in sorted(names)[:_SHOWN])
    return f"correct the path below {where}, where there is {shown}{' and more' if len(names) > _SHOWN else ''}"
