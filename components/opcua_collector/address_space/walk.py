"""Looking through a server for what the filters fit: down from Objects, level by level, many nodes per request.

Only subtrees that some filter can fit are entered. A node that is reached twice counts where it was met first on a path
that a filter fits or goes on from, so that loops end and a shared node becomes one tag. The server's own object is left
alone unless a filter begins with its name; properties have nothing below them. Attributes are read for what fits, and
only if a filter asks for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from opcua_collector.address_space.address import NodeIdError, parse_node_id
from opcua_collector.address_space.paths import Filters, State
from opcua_collector.address_space.references import OBJECT, VARIABLE, Browser, Reference, pack, standard, unpack
from opcua_collector.address_space.space import ROOT, UNKNOWN, Space, address_text
from opcua_collector.config import Select
from opcua_collector.services import browse
from opcua_collector.services.browse import OperationLimits
from opcua_collector.stack import StackSession, UaError, ua
from opcua_collector.values.encoding import Attribute

DATA_TYPE, TYPE_DEFINITION = "dataType", "typeDefinition"
"""Kinds of types, named as the settings of a filter that they are for."""
_TREES: Final = {DATA_TYPE: ((24, 64),), TYPE_DEFINITION: ((58, 8), (62, 16))}
"""Per kind: the roots of its types and their node class (BaseDataType; BaseObjectType, BaseVariableType)."""
_MOST_TYPES: Final = 50_000
MOST_LEVELS: Final = 1_000
"""Below Objects: deeper than any address space is that a person made."""
_MOST_BYTES: Final = 1 << 28
"""Of all ids and names: a million of those that Part 3 allows would be gigabytes."""
_HINTS: Final = 1_000  # nodes of which the names below are remembered that no filter fits
_NAMES_PER_HINT: Final = 20
_READ_AT_ONCE: Final = 2_000  # nodes whose attributes are asked for between two looks at who goes before
_LOOK: Final = 0.1  # seconds between looks whether publishing has caught up
_PROPERTY_TYPE: Final = standard(68)


@dataclass(slots=True)
class Progress:
    """How far it is; read while it goes on."""

    nodes: int = 0
    variables: int = 0
    requests: int = 0
    waits: bool = False  # for publishing, which goes before


@dataclass(slots=True)
class Walked:
    """What was found. `unknown`: nodes of which the server did not say what is below, with its answer."""

    space: Space
    unknown: dict[bytes, int] = field(default_factory=dict)
    truncated: bool = False
    type_names: dict[str, list[str]] = field(default_factory=dict)
    """All names of types that the server has, by kind, for those that a filter names and that do not exist."""
    requests: int = 0
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether what is not there is not there, but for what is below `unknown`."""
        return not self.truncated


def fitting(filters: Filters, state: State, space: Space, node: int) -> tuple[int, ...]:
    """Numbers of the filters that fit a variable by its path.

    What the standard says about a node by properties (EURange, EngineeringUnits) is no value of the plant: such a
    property is only meant by a filter whose last step says something of its name.
    """
    if not state.fits or not space.is_variable(node):
        return ()
    if space.is_standard_property(node):
        return tuple(number for number in state.fits if filters.named(number))
    return state.fits


class _EnoughError(Exception):
    """No more is taken: what the server says from now on is of no use."""


class Walk:
    """One look through a server. `run` once.

    wishes: the filters' settings, by name, as `filters` was made from. everything: read the attributes of all variables
    that fit, and the names of all types. deepest: levels below Objects that are looked at. behind: whether somebody
    goes before.
    """

    def __init__(
        self,
        session: StackSession,
        limits: OperationLimits,
        spaces: Sequence[str],
        filters: Filters,
        wishes: Mapping[str, Select],
        *,
        most: int,
        everything: bool = False,
        deepest: int = MOST_LEVELS,
        behind: Callable[[], bool] = lambda: False,
        progress: Progress | None = None,
    ) -> None:
        self.progress = progress if progress is not None else Progress()
        self._session = session
        self._limits = limits
        self._spaces = spaces
        self._filters = filters
        self._wishes = [wishes[name] for name in filters.names]
        self._most = most
        self._everything = everything
        self._deepest = deepest
        self._behind = behind
        self._space = Space(list(spaces))
        self._walked = Walked(self._space)
        self._asked: list[int] = []  # nodes whose attributes a filter asks for

    async def run(self) -> Walked:
        """Raises UaError, MalformedError, OSError or asyncio.TimeoutError when it came to nothing."""
        began = time.monotonic()
        await self._types()
        await self._nodes()
        await self._attributes()
        self._space.walked = time.time_ns()
        self._walked.requests = self.progress.requests
        self._walked.seconds = time.monotonic() - began
        return self._walked

    async def _breathe(self) -> None:
        while self._behind():
            self.progress.waits = True
            await asyncio.sleep(_LOOK)
        self.progress.waits = False
        self.progress.requests += 1
        await asyncio.sleep(0)

    # --- nodes ---

    async def _nodes(self) -> None:
        browser = Browser(self._session, self._spaces, self._limits.browse, self._breathe)
        start = standard(ua.ObjectIds.ObjectsFolder)
        visited = {start}
        level: list[tuple[int, State]] = [(ROOT, self._filters.start)]
        packed = [start]
        for _ in range(self._deepest):
            if not level:
                break
            below: list[tuple[int, State]] = []

            def take(
                position: int,
                references: Sequence[Reference],
                level: list[tuple[int, State]] = level,
                below: list[tuple[int, State]] = below,
            ) -> None:
                parent, above = level[position]
                for reference in references:
                    if reference.node not in visited:
                        self._meet(parent, above, reference, visited, below)

            try:
                failed = await browser.look(packed, take)
            except _EnoughError:
                return
            if failed and packed[0] == start:
                raise ua.uaerrors.UaStatusCodeError(failed[0])
            for position, status in failed.items():
                self._walked.unknown[packed[position]] = status
            level = below
            packed = [self._space.id(node) for node, _ in level]

    def _meet(
        self, parent: int, above: State, found: Reference, visited: set[bytes], below: list[tuple[int, State]]
    ) -> None:
        """A node that was not met before: taken when a filter fits it, or can go on from it."""
        if found.node_class not in (OBJECT, VARIABLE):
            return
        space = self._space
        state = space.state(self._filters, above, parent, found.name, found.node)
        goes_on = state.goes_on and found.type != _PROPERTY_TYPE
        if not goes_on and not (state.fits and found.node_class == VARIABLE):
            self._hint(parent, found.name)
            return
        if len(space) >= self._most or len(space.ids) + len(space.names) > _MOST_BYTES:
            self._walked.truncated = True
            raise _EnoughError
        visited.add(found.node)
        node = space.add(parent, found)
        self.progress.nodes += 1
        if goes_on:
            below.append((node, state))
        fits = fitting(self._filters, state, space, node)
        if fits:
            self.progress.variables += 1
            wishes = [self._wishes[number] for number in fits]
            if self._everything or any(wish.data_type or wish.historizing is not None for wish in wishes):
                self._asked.append(node)

    def _hint(self, parent: int, name: str) -> None:
        others = self._space.others
        names = others.get(parent)
        if names is None:
            if len(others) >= _HINTS:
                return
            names = others[parent] = []
        if len(names) < _NAMES_PER_HINT:
            names.append(name)

    # --- what is said of them ---

    async def _attributes(self) -> None:
        ids = ua.AttributeIds
        asked = (ids.DataType, ids.ValueRank, ids.AccessLevel, ids.Historizing)
        types: dict[str, int] = {}
        space = self._space
        for start in range(0, len(self._asked), _READ_AT_ONCE):
            await self._breathe()
            some = self._asked[start : start + _READ_AT_ONCE]
            nodes = [browse.node_id(unpack(space.id(node)), ()) for node in some]
            questions = [(node, attribute) for node in nodes for attribute in asked]
            answers = await browse.read(self._session, questions, self._limits.read)
            for place, node in enumerate(some):
                data_type, rank, access, historizing = answers[4 * place : 4 * place + 4]
                text = data_type.value
                if isinstance(text, str):
                    if text not in types:
                        types[text] = space.number(self._with_uri(text))
                    space.data_type[node] = types[text]
                space.rank[node] = _number(rank, -(2**31), 2**31 - 1)
                space.access[node] = _number(access, 0, 255)
                space.historizing[node] = _number(historizing, 0, 1)

    def _with_uri(self, text: str) -> str:
        """A type's node id, as it was read, with its namespace's URI."""
        try:
            address = parse_node_id(text)
            return address_text(pack(address, address.namespace(self._spaces)), self._spaces)
        except (NodeIdError, LookupError):
            return ""

    # --- types ---

    async def _types(self) -> None:
        """Which types the names in the filters stand for: each of that name, and all that are derived of it."""
        for kind, trees in _TREES.items():
            names = {name for wish in self._wishes for name in _named(wish, kind)}
            if not names and not self._everything:
                continue
            families: dict[str, list[str]] = {name: [] for name in names}
            known: set[str] = set()
            try:
                for root, classes in trees:
                    await self._tree(standard(root), classes, families, known)
            except UaError:
                if names:  # else it is only for people, and costs them the names
                    raise
            self._space.families[kind] = families
            self._walked.type_names[kind] = sorted(known)

    async def _tree(self, root: bytes, classes: int, families: dict[str, list[str]], known: set[str]) -> None:
        browser = Browser(
            self._session,
            self._spaces,
            self._limits.browse,
            self._breathe,
            reference=ua.ObjectIds.HasSubtype,
            classes=classes,
        )
        visited = {root}
        first = _ROOTS[root]
        level = [(root, tuple(name for name in families if name == first))]
        known.add(first)
        for name in level[0][1]:
            families[name].append(address_text(root, self._spaces))
        self._space.type_names[address_text(root, self._spaces)] = first
        while level and len(visited) < _MOST_TYPES:
            below: list[tuple[bytes, tuple[str, ...]]] = []

            def take(
                position: int,
                references: Sequence[Reference],
                level: list[tuple[bytes, tuple[str, ...]]] = level,
                below: list[tuple[bytes, tuple[str, ...]]] = below,
            ) -> None:
                for found in references:
                    if found.node in visited:
                        continue
                    if len(visited) >= _MOST_TYPES:
                        raise _EnoughError
                    visited.add(found.node)
                    text = address_text(found.node, self._spaces)
                    self._space.type_names[text] = found.name
                    known.add(found.name)
                    of = level[position][1]
                    if found.name in families and found.name not in of:
                        of = (*of, found.name)
                    for name in of:
                        families[name].append(text)
                    below.append((found.node, of))

            try:
                failed = await browser.look([node for node, _ in level], take)
            except _EnoughError:
                return
            if failed:
                raise ua.uaerrors.UaStatusCodeError(next(iter(failed.values())))
            level = below


_ROOTS: Final = {
    standard(24): "BaseDataType",
    standard(58): "BaseObjectType",
    standard(62): "BaseVariableType",
}


def _named(wish: Select, kind: str) -> list[str]:
    return wish.data_type if kind == DATA_TYPE else wish.type_definition


def _number(answer: Attribute, least: int, most: int) -> int:
    value: Any = answer.value
    return int(value) if isinstance(value, int) and least <= value <= most else UNKNOWN
