"""A server's address space as columns: what the filters of a connection are matched against. Sans-I/O but for its file.

A node stands behind its parent; one below Objects has the parent -1. Ids and names are bytes in a row, and types are
numbers, so that 200,000 nodes are some twenty megabytes and no objects. Namespaces are kept as URIs, so that ids stay
right when a server orders its namespaces anew.

What is kept on disk (`load`, `save`) is one zstd frame with a checksum. A file that cannot be understood is as if it
were not there: it is made anew by looking through the server.
"""

from __future__ import annotations

import logging
import os
import struct
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson
import zstandard

from opcua_collector.address_space.address import format_node_id
from opcua_collector.address_space.paths import SERVER, Filters, State, join
from opcua_collector.address_space.references import OBJECT, VARIABLE, Reference, standard, unpack

logger = logging.getLogger(__name__)

ROOT: Final = -1
"""The parent of what stands below Objects."""
UNKNOWN: Final = -128
"""A rank, an access level or whether there is a history, that nobody has asked for, or the server did not say."""
LOOKS: Final = 2
"""Times in a row that a node is not found before it counts as gone."""
_SERVER: Final = standard(2253)
_PROPERTY_TYPE: Final = "i=68"
_VERSION: Final = 1
_MAGIC: Final = b"SLSPACE"
_LARGEST: Final = 1 << 29  # bytes of a file's content
_MOST_TYPES: Final = 100_000
_HEAD: Final = struct.Struct("<I")
_COLUMNS: Final = {
    "parent": "i",
    "node_class": "B",
    "name_space": "H",
    "type": "I",
    "data_type": "I",
    "rank": "i",
    "access": "h",
    "historizing": "b",
    "missed": "B",
    "id_end": "I",
    "name_end": "I",
}


@dataclass(slots=True)
class Space:
    """The nodes that some filter can fit, or that lead to such. Only ever added to.

    `namespaces`: URIs, of the packed ids; `types`: ids as text of all types that are named, "" first; `type_names`:
    their browse names where they are known; `families`: per kind (``dataType``, ``typeDefinition``) and name in a
    filter the types that it stands for; `mark`: of which server it is; `walked`: when, ns since 1970.
    """

    namespaces: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=lambda: [""])
    type_names: dict[str, str] = field(default_factory=dict)
    families: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    mark: str = ""
    walked: int = 0
    others: dict[int, list[str]] = field(default_factory=dict)
    """Some names below a node that no filter fits, for those that a filter should have named; not kept on disk."""
    parent: array[int] = field(default_factory=lambda: array("i"))
    node_class: array[int] = field(default_factory=lambda: array("B"))
    name_space: array[int] = field(default_factory=lambda: array("H"))
    type: array[int] = field(default_factory=lambda: array("I"))
    data_type: array[int] = field(default_factory=lambda: array("I"))
    rank: array[int] = field(default_factory=lambda: array("i"))
    access: array[int] = field(default_factory=lambda: array("h"))
    historizing: array[int] = field(default_factory=lambda: array("b"))
    missed: array[int] = field(default_factory=lambda: array("B"))
    id_end: array[int] = field(default_factory=lambda: array("I"))
    name_end: array[int] = field(default_factory=lambda: array("I"))
    ids: bytearray = field(default_factory=bytearray)
    names: bytearray = field(default_factory=bytearray)
    _numbers: dict[str, int] = field(default_factory=lambda: {"": 0})

    def __len__(self) -> int:
        return len(self.parent)

    # --- what is in it ---

    def id(self, node: int) -> bytes:
        """The node's id, packed, with its namespace as an index into `namespaces`."""
        return bytes(self.ids[self.id_end[node - 1] if node else 0 : self.id_end[node]])

    def name(self, node: int) -> str:
        """The node's browse name, without its namespace."""
        start = self.name_end[node - 1] if node else 0
        return self.names[start : self.name_end[node]].decode("utf-8", "replace")

    def address(self, node: int) -> str:
        """The node's id as text, with its namespace as a URI."""
        return address_text(self.id(node), self.namespaces)

    def steps(self, node: int) -> list[str]:
        """The browse names from Objects down to the node."""
        found = []
        while node != ROOT:
            found.append(self.name(node))
            node = self.parent[node]
        return found[::-1]

    def path(self, node: int) -> str:
        """The same as a path."""
        return join(self.steps(node))

    def is_variable(self, node: int) -> bool:
        """Whether the node has a value."""
        return bool(self.node_class[node] == VARIABLE)

    def is_standard_property(self, node: int) -> bool:
        """Whether it is a property with a name of the standard, such as EURange: it says something of its parent."""
        return self.name_space[node] == 0 and self.types[self.type[node]] == _PROPERTY_TYPE

    def state(self, filters: Filters, above: State, parent: int, name: str, packed: bytes) -> State:
        """The filters' state at a node, from the one above it. Into the server's own object go only those that name
        it."""
        if parent == ROOT and name == SERVER and packed == _SERVER:
            return filters.into_server
        return above.step(name)

    def states(self, filters: Filters) -> Iterator[State]:
        """The filters' state at each node in turn."""
        found: list[State] = []
        for node, parent in enumerate(self.parent):
            above = filters.start if parent == ROOT else found[parent]
            state = above.step(self.name(node))
            if parent == ROOT and self.id(node) == _SERVER:
                state = self.state(filters, above, parent, self.name(node), _SERVER)
            found.append(state)
            yield state

    # --- adding ---

    def number(self, type_: str) -> int:
        """The number of a type, which is given as text."""
        found = self._numbers.get(type_)
        if found is None:
            if len(self.types) >= _MOST_TYPES:
                return 0
            found = self._numbers[type_] = len(self.types)
            self.types.append(type_)
        return found

    def add(self, parent: int, found: Reference) -> int:
        """A node behind those that are there; its ids have indexes into `namespaces`. Its position is given back."""
        self.parent.append(parent)
        self.node_class.append(found.node_class if found.node_class in (OBJECT, VARIABLE) else 0)
        self.name_space.append(found.name_space)
        self.type.append(self.number(address_text(found.type, self.namespaces)) if found.type else 0)
        self.data_type.append(0)
        self.rank.append(UNKNOWN)
        self.access.append(UNKNOWN)
        self.historizing.append(UNKNOWN)
        self.missed.append(0)
        self.ids += found.node
        self.id_end.append(len(self.ids))
        self.names += found.name.encode("utf-8", "replace")
        self.name_end.append(len(self.names))
        return len(self.parent) - 1

    # --- as bytes ---

    def dump(self) -> bytes:
        """For `Space.parse`."""
        head = {
            "namespaces": self.namespaces,
            "types": self.types,
            "type_names": self.type_names,
            "families": self.families,
            "mark": self.mark,
            "walked": self.walked,
            "nodes": len(self),
            "ids": len(self.ids),
            "names": len(self.names),
        }
        text = orjson.dumps(head)
        parts = [_MAGIC, bytes((_VERSION,)), _HEAD.pack(len(text)), text]
        parts += [_little(getattr(self, column)) for column in _COLUMNS]
        parts += [bytes(self.ids), bytes(self.names)]
        return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(b"".join(parts))

    @classmethod
    def parse(cls, data: bytes) -> Space:
        """What `dump` made. Raises ValueError for anything else."""
        try:
            content = zstandard.ZstdDecompressor().decompress(data, max_output_size=_LARGEST)
        except zstandard.ZstdError as error:
            raise ValueError(f"it is no zstd frame that is whole: {error}") from None
        start = len(_MAGIC) + 1 + _HEAD.size
        if content[: len(_MAGIC)] != _MAGIC or len(content) < start:
            raise ValueError("it holds no address space")
        if content[len(_MAGIC)] != _VERSION:
            raise ValueError(f"it is of version {content[len(_MAGIC)]}, and {_VERSION} is known")
        (length,) = _HEAD.unpack_from(content, len(_MAGIC) + 1)
        head = orjson.loads(content[start : start + length])
        return cls._filled(head, memoryview(content)[start + length :])

    @classmethod
    def _filled(cls, head: Any, rest: memoryview) -> Space:
        try:
            space = cls(
                [str(uri) for uri in head["namespaces"]],
                [str(type_) for type_ in head["types"]],
                {str(type_): str(name) for type_, name in head["type_names"].items()},
                {
                    str(kind): {str(name): [str(type_) for type_ in types] for name, types in families.items()}
                    for kind, families in head["families"].items()
                },
                str(head["mark"]),
                int(head["walked"]),
                {},
            )
            count, ids, names = int(head["nodes"]), int(head["ids"]), int(head["names"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its head is not as it should be: {error!r}") from None
        for column, kind in _COLUMNS.items():
            values = array(kind)
            size = values.itemsize * count
            values.frombytes(rest[:size])
            if len(values) != count:
                raise ValueError("it ends too early")
            if _BIG_ENDIAN:
                values.byteswap()
            setattr(space, column, values)
            rest = rest[size:]
        if len(rest) != ids + names:
            raise ValueError("it ends too early, or goes on")
        space.ids += rest[:ids]
        space.names += rest[ids:]
        space._numbers = {type_: number for number, type_ in enumerate(space.types)}
        space._check()
        return space

    def _check(self) -> None:
        """Raises ValueError when a number leads nowhere."""
        if any(not ROOT <= parent < node for node, parent in enumerate(self.parent)):
            raise ValueError("a node stands before its parent")
        for ends, content in ((self.id_end, self.ids), (self.name_end, self.names)):
            if any(a > b for a, b in zip(ends, islice(ends, 1, None), strict=False)) or (ends[-1:] or [0])[0] != len(
                content
            ):
                raise ValueError("its ids or names are not in a row")
        most = len(self.types)
        if not most or self.types[0] or any(max(column, default=0) >= most for column in (self.type, self.data_type)):
            raise ValueError("it names types that it does not have")
        for node in range(len(self)):
            if len(self.id(node)) < 3 or self.id(node)[1] | self.id(node)[2] << 8 >= len(self.namespaces):
                raise ValueError("it has an id of a namespace that it does not have")
            try:
                unpack(self.id(node))
            except (ValueError, struct.error):
                raise ValueError("it has an id that is none") from None


_BIG_ENDIAN: Final = struct.pack("=H", 1) == b"\0\1"


def _little(values: array[int]) -> bytes:
    if _BIG_ENDIAN:
        values = array(values.typecode, values)
        values.byteswap()
    return values.tobytes()


def address_text(packed: bytes, namespaces: Sequence[str]) -> str:
    """A packed node id as people write it; with its namespace's URI, but for the standard's own."""
    address = unpack(packed)
    if not address.index:
        return format_node_id(address)
    uri = namespaces[address.index] if address.index < len(namespaces) else ""
    return format_node_id(address, uri)


# --- two looks at one server ---


def merged(old: Space, new: Space, unknown: Collection[bytes] = (), *, complete: bool = True) -> Space:
    """`new`, with what `old` has beyond it and that does not count as gone yet. `new` is added to and given back.

    unknown: nodes of `new` of which it is not known what is below. complete: that something is not in `new` says that
    it was not there, but for what is below those. So what is gone is gone after `LOOKS` complete looks in a row.
    """
    if not len(old):
        return new
    indexes = {uri: index for index, uri in reversed(list(enumerate(new.namespaces)))}
    turned = [indexes.get(uri, -1) for uri in old.namespaces]
    for index, uri in enumerate(old.namespaces):
        if turned[index] < 0:
            turned[index] = len(new.namespaces)
            new.namespaces.append(uri)
    blind = set(unknown)
    there = {(new.parent[node], new.name(node), new.id(node)): node for node in range(len(new))}
    excused = bytearray(len(old))
    where: list[int | None] = []
    for node, parent in enumerate(old.parent):
        above = ROOT if parent == ROOT else where[parent]
        if above is None:
            where.append(None)
            continue
        packed = _turned(old.id(node), turned)
        found = there.get((above, old.name(node), packed))
        excused[node] = above != ROOT and (excused[parent] or new.id(above) in blind)
        if found is None:
            spared = excused[node] or not complete
            missed = old.missed[node] + (not spared)
            if missed < LOOKS:
                found = _copied(old, node, new, above, packed)
                new.missed[found] = missed
        elif not new.data_type[found] and old.data_type[node]:
            _attributes(old, node, new, found)
        where.append(found)
    for kind, families in old.families.items():
        for name, types in families.items():
            new.families.setdefault(kind, {}).setdefault(name, types)
    return new


def _turned(packed: bytes, turned: Sequence[int]) -> bytes:
    index = turned[packed[1] | packed[2] << 8]
    return packed[:1] + index.to_bytes(2, "little") + packed[3:]


def _copied(old: Space, node: int, new: Space, parent: int, packed: bytes) -> int:
    made = new.add(parent, Reference(packed, old.name_space[node], old.name(node), old.node_class[node], b""))
    new.type[made] = new.number(old.types[old.type[node]])
    _attributes(old, node, new, made)
    return made


def _attributes(old: Space, node: int, new: Space, to: int) -> None:
    new.data_type[to] = new.number(old.types[old.data_type[node]])
    new.rank[to], new.access[to], new.historizing[to] = old.rank[node], old.access[node], old.historizing[node]


# --- on disk ---


def file_of(folder: Path, connection: str) -> Path:
    """Where the address space of a connection is kept."""
    return folder / f"{connection}.zst"


def load(path: Path) -> Space | None:
    """What was saved; None when there is nothing, or nothing that makes sense."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("The address space last seen, %s, cannot be read: %s", path, error)
        return None
    try:
        return Space.parse(data)
    except ValueError as error:
        logger.warning("The address space last seen, %s, is of no use (%s): it is looked through anew", path, error)
        return None


def save(path: Path, space: Space) -> bool:
    """Replace the file as a whole; False, and a line in the log, when the disk refuses."""
    new = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(space.dump())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        logger.warning("The address space cannot be kept in %s: %s", path, error)
        return False
    return True


def forget(path: Path) -> None:
    """Delete the file of a connection that is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("The address space of a connection that is gone is still in %s: %s", path, error)
