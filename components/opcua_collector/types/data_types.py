"""How the values of tags are typed, from the data types of their nodes (Part 3, 5.8; Part 5, 12).

What `type: auto` makes of a data type, and what else each type can be asked for as, is `_RULES` and `_CONFIGURED`; what
the rules then do with values stands in `typed.py`. What cannot be is told once, as a problem of the tag, not sample by
sample. Definitions of structures and labels of enumerations are read once per data type and session (`Types`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from opcua_collector.config import Tag
from opcua_collector.problems import node_problem
from opcua_collector.services.batches import in_batches
from opcua_collector.services.browse import OperationLimits, read, relative
from opcua_collector.stack import NodeId, StackSession, ua
from opcua_collector.types.structures import NESTED, OPTIONAL, PLAIN, UNION, WELL_KNOWN, Definitions, Field, Structure
from opcua_collector.types.typed import Rule, Typing, rule_of_family
from opcua_collector.values.encoding import ARRAY_BIT, Attribute, MalformedError, Opaque
from opcua_collector.values.notifications import ARRAY, NULL
from sluice.config import Problem

_DEEPEST_TYPE: Final = 32
_MOST_TYPES: Final = 256  # structures that one is made of
_MOST_LABELS: Final = 4096
_VARIANT: Final = 24  # BaseDataType: decided by the value
_STRUCTURE: Final = 22
_ENUMERATION: Final = 29
_ABSTRACT_NUMBERS: Final = frozenset({26, 27, 28})
_INT32: Final = 6

#: Built-in or abstract data type -> how its values are typed. BaseDataType is decided by the value.
_RULES: Final[dict[int, Rule]] = {
    1: Rule.BOOLEAN,
    **dict.fromkeys((2, 3, 4, 5, 6, 7, 8, 9, 19), Rule.INTEGER),
    **dict.fromkeys((10, 11), Rule.DOUBLE),
    **dict.fromkeys((12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23, 25), Rule.STRING),
    26: Rule.NUMBER,
    **dict.fromkeys((27, 28, 29), Rule.INTEGER),  # Integer, UInteger, Enumeration
}
_NUMBERS: Final = frozenset({2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 19, 26, 27, 28, 29})
_WHOLE: Final = _NUMBERS - {10, 11}

#: What can be asked for -> the rule, and the data types of which it can be had; BaseDataType may turn out to be one.
_CONFIGURED: Final[dict[str, tuple[Rule, frozenset[int]]]] = {
    "double": (Rule.NUMBER, _NUMBERS | {13, _VARIANT}),
    "integer": (Rule.INTEGER, _WHOLE | {1, _VARIANT}),
    "boolean": (Rule.BOOLEAN, frozenset({1, _VARIANT})),
    "string": (Rule.TEXT, frozenset({*_RULES, _VARIANT})),
}
#: What a value that does not tell its type in advance has to be, to be had as the type that is asked for.
_FAMILIES: Final = {"double": 11, "integer": 8, "boolean": 1, "string": _VARIANT}
_NAMES: Final = {
    **{number: kind.name for number in range(1, 26) for kind in [ua.VariantType(number)]},
    _STRUCTURE: "a structure",
    26: "Number",
    27: "Integer",
    28: "UInteger",
    _ENUMERATION: "an enumeration",
}
_ONE: Final = re.compile(r"\d+(,\d+)*")


@dataclass(slots=True)
class Types:
    """What is known of a server's data types, by node id. To be made anew for each session."""

    built_in: dict[str, int] = field(default_factory=dict)
    """The built-in or abstract type that each is a subtype of; BaseDataType where none is found."""
    structures: dict[str, Structure | None] = field(default_factory=dict)
    """Definitions; None for what has none."""
    labels: dict[str, tuple[tuple[int, str], ...]] = field(default_factory=dict)
    """Of enumerations."""
    names: dict[str, str] = field(default_factory=dict)
    encodings: dict[str, str] = field(default_factory=dict)
    """The data type of each encoding; empty where it is not known."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A tag, and what its node says of its values."""

    name: str
    place: str
    tag: Tag
    node: NodeId
    type: str
    array: bool
    element: bool


async def rules(
    session: StackSession,
    limits: OperationLimits,
    nodes: Mapping[str, tuple[str, Tag, NodeId]],
    types: Types | None = None,
) -> dict[str, Typing | Problem]:
    """How each tag's values are typed, from the node's data type; or what is wrong with the node.

    nodes: tag -> (place in the configuration, tag, node). types: what is known from before in this session.
    """
    finder = Finder(session, limits, Types() if types is None else types)
    return await finder.rules(nodes)


class Finder:
    """Asks one server about its data types; what it has learned is in `types`."""

    def __init__(self, session: StackSession, limits: OperationLimits, types: Types) -> None:
        self._session = session
        self._limits = limits
        self._types = types

    async def rules(self, nodes: Mapping[str, tuple[str, Tag, NodeId]]) -> dict[str, Typing | Problem]:
        """As the function of this name."""
        found: dict[str, Typing | Problem] = {}
        asked = await self._asked(nodes, found)
        await self._find_built_in({one.type for one in asked})
        known = self._types.built_in
        await self._define({one.type for one in asked if known[one.type] == _STRUCTURE})
        unsure = [one for one in asked if self._is_unsure(one)]
        values = await self._read([(one.node, ua.AttributeIds.Value) for one in unsure])
        seen = {one.name: value for one, value in zip(unsure, values, strict=True)}
        of_values = await self._types_of_values(seen)
        for one in asked:
            value = seen.get(one.name)
            if value is not None and one.name in of_values:
                found[one.name] = self._typed(one, of_values[one.name], _STRUCTURE, bool(value.type_id & ARRAY_BIT))
            elif value is not None and known[one.type] == _VARIANT:
                found[one.name] = self._by_value(one, value)
            else:
                found[one.name] = self._typed(one, one.type, known[one.type], one.array)
        await self._label([*asked], found)
        return found

    async def _asked(
        self, nodes: Mapping[str, tuple[str, Tag, NodeId]], found: dict[str, Typing | Problem]
    ) -> list[_Asked]:
        attributes = (ua.AttributeIds.DataType, ua.AttributeIds.ValueRank)
        answers = await self._read([(node, attribute) for _, _, node in nodes.values() for attribute in attributes])
        asked = []
        for position, (name, (place, tag, node)) in enumerate(nodes.items()):
            data_type, rank = answers[2 * position], answers[2 * position + 1]
            if data_type.status >> 30 >= 2 or not isinstance(data_type.value, str):
                address = "node" if tag.node is not None else "path"
                found[name] = node_problem(f"{place}.{address}", tag.node or tag.path, data_type.status or 0x80350000)
                continue
            dimensions = rank.value if isinstance(rank.value, int) else -1
            element = dimensions != -1 and _ONE.fullmatch(tag.index_range or "") is not None
            array = dimensions >= 0 and not element
            asked.append(_Asked(name, place, tag, node, data_type.value, array, element))
        return asked

    def _is_unsure(self, one: _Asked) -> bool:
        """Whether only a value says of what type it is: nothing else does, or not which structure."""
        built_in = self._types.built_in[one.type]
        if built_in == _STRUCTURE:
            return self._types.structures.get(one.type) is None
        return built_in == _VARIANT and not one.array and (one.tag.type == "auto" or bool(one.tag.field))

    # --- a tag's typing ---

    def _by_value(self, one: _Asked, value: Attribute) -> Typing | Problem:
        """Of a variable that may have any value; the present one decides."""
        family = value.type_id & ~ARRAY_BIT
        if family == NULL and one.tag.type == "auto":
            return Problem(
                f"{one.place}.type",
                one.tag.type,
                f"cannot be found out: the node has the data type {one.type} and no value yet",
                "set it to double, integer, boolean or string",
                "it is tried again; the other tags are collected",
            )
        if one.tag.type == "auto" and not one.tag.field:
            array = bool(value.type_id & ARRAY_BIT) and not one.element
            return Typing(Rule.STRING if array else rule_of_family(family), element=one.element)
        return self._typed(one, one.type, family or _VARIANT, bool(value.type_id & ARRAY_BIT) and not one.element)

    def _typed(self, one: _Asked, type_: str, built_in: int, array: bool) -> Typing | Problem:
        structures: tuple[Structure, ...] = ()
        if built_in == _STRUCTURE:
            structures = tuple(self._reachable(type_))
        if one.tag.field:
            return self._of_field(one, type_, structures)
        rule = self._rule(one, built_in, array)
        return rule if isinstance(rule, Problem) else Typing(rule, element=one.element, structures=structures)

    def _rule(self, one: _Asked, built_in: int, array: bool) -> Rule | Problem:
        wanted = one.tag.type
        if wanted == "auto" or (wanted == "string" and array):
            return Rule.STRING if array else _RULES.get(built_in, Rule.TEXT)
        rule, possible = _CONFIGURED[wanted]
        if array:
            return Problem(
                f"{one.place}.type",
                wanted,
                "cannot be had: the node's value is an array",
                "set indexRange to the one element that is meant, or set type to string, which gives the array as JSON",
                "it is tried again; the other tags are collected",
            )
        if built_in not in possible:
            what = _NAMES.get(built_in, f"the data type {one.type}")
            fits = [name for name, (_, types) in _CONFIGURED.items() if built_in in types]
            return Problem(
                f"{one.place}.type",
                wanted,
                f"cannot be had: the node's value is of the type {what}",
                f"take it out, or set it to {' or '.join(fits)}",
                "it is tried again; the other tags are collected",
            )
        if wanted == "double" and built_in in (13, _VARIANT):
            return Rule.SECONDS
        if wanted == "integer" and built_in in (1, _VARIANT):
            return Rule.SWITCH
        return rule

    def _of_field(self, one: _Asked, type_: str, structures: tuple[Structure, ...]) -> Typing | Problem:
        """Typed like a node of the field's data type."""
        by_type = {structure.type: structure for structure in (*WELL_KNOWN, *structures)}
        names = tuple(part for part in one.tag.field.split("/") if part)
        at, array, reached = type_, one.array, None
        for depth, name in enumerate(names):
            structure = by_type.get(at)
            if structure is None:
                said = "is no structure" if depth else "is no structure, or the server does not say of what it is made"
                what = f"{'/'.join(names[:depth])} " if depth else "the node's value "
                return _no_field(one, what + said, "take field out")
            if array:
                what = "the node's value" if depth == 0 else "/".join(names[:depth])
                remedy = "set indexRange to the element that is meant" if depth == 0 else "name a field before it"
                return _no_field(one, f"{what} is a list of structures", remedy)
            reached = next((known for known in structure.fields if known.name == name), None)
            if reached is None:
                known = ", ".join(known.name for known in structure.fields)
                return _no_field(one, f"there is no {name}", f"use one of {known[:300] or 'none: it has no fields'}")
            at, array = reached.type, reached.rank > 0
        if reached is None:
            return _no_field(one, "it names nothing", "write the name of a field, such as Speed or Motor/Speed")
        family = _STRUCTURE if reached.kind == NESTED else reached.kind
        built_in = family if reached.kind == NESTED else self._types.built_in.get(reached.type, family)
        if family == _VARIANT and one.tag.type == "auto" and not array:
            return Problem(
                f"{one.place}.type",
                one.tag.type,
                f"cannot be found out: the field {one.tag.field} may have values of any type",
                "set it to double, integer, boolean or string",
                "it is tried again; the other tags are collected",
            )
        rule = self._rule(one, built_in, array)
        if isinstance(rule, Problem):
            return rule
        if family == _VARIANT and not array:
            family = _FAMILIES[one.tag.type]
        return Typing(rule, one.element, (), structures, names, family | ARRAY if array else family)

    # --- built-in types ---

    async def _find_built_in(self, types: Iterable[str]) -> None:
        """The built-in or abstract type that each data type is a subtype of."""
        known = self._types.built_in
        above = {type_: type_ for type_ in sorted(set(types)) if type_ not in known}
        for _ in range(_DEEPEST_TYPE):
            for type_, ancestor in list(above.items()):
                number = int(ancestor[2:]) if ancestor.startswith("i=") else 0
                if number in _RULES or number == _VARIANT:
                    known[type_] = number
                    del above[type_]
                elif ancestor in known:
                    known[type_] = known[ancestor]
                    del above[type_]
            if not above:
                return
            parents = await self._referenced(sorted(set(above.values())), ua.ObjectIds.HasSubtype, forward=False)
            above = {
                type_: parents[ancestor][0][0] if parents[ancestor] else f"i={_VARIANT}"
                for type_, ancestor in above.items()
            }
        known.update(dict.fromkeys(above, _VARIANT))

    async def _referenced(
        self, nodes: Sequence[str], reference: int, *, forward: bool
    ) -> dict[str, list[tuple[str, str]]]:
        """Node ids and browse names of what the nodes refer to."""

        async def ask(batch: Sequence[str]) -> Sequence[Any]:
            parameters = ua.BrowseParameters()
            parameters.RequestedMaxReferencesPerNode = 16 if forward else 1
            parameters.NodesToBrowse = [
                ua.BrowseDescription(
                    NodeId=_node(node),
                    BrowseDirection=ua.BrowseDirection.Forward if forward else ua.BrowseDirection.Inverse,
                    ReferenceTypeId=ua.NodeId(reference),
                    IncludeSubtypes=False,
                    NodeClassMask=0,
                    ResultMask=ua.BrowseResultMask.BrowseName,
                )
                for node in batch
            ]
            return list(await self._session.browse(parameters))

        answers = await in_batches(nodes, self._limits.browse, ask, failed=lambda status: ua.BrowseResult())
        return {
            node: [(_local(one.NodeId), one.BrowseName.Name or "") for one in answer.References or ()]
            for node, answer in zip(nodes, answers, strict=True)
        }

    # --- structures ---

    async def _define(self, types: Iterable[str]) -> None:
        """Reads the definitions of these data types, and of all that they are made of."""
        well_known = {structure.type for structure in WELL_KNOWN}
        known = self._types.structures
        todo = sorted({type_ for type_ in types if type_ not in known and type_ not in well_known})
        known.update({structure.type: structure for structure in WELL_KNOWN})
        budget = _MOST_TYPES
        while todo and budget > 0:
            todo = todo[:budget]
            budget -= len(todo)
            raw = await self._definitions(todo)
            inside = {one["DataType"] for content in raw.values() for one in content["Fields"] or ()}
            await self._find_built_in(inside)
            missing = [type_ for type_, content in raw.items() if content["DefaultEncodingId"] in (None, "i=0")]
            encodings = await self._referenced(missing, ua.ObjectIds.HasEncoding, forward=True) if missing else {}
            for type_ in todo:
                known[type_] = None
                if type_ in raw:
                    names = {name: node for node, name in encodings.get(type_, ())}
                    known[type_] = self._structure(type_, raw[type_], names.get("Default Binary", ""))
            todo = sorted(
                {
                    one.type
                    for type_ in todo
                    if (structure := known[type_]) is not None
                    for one in structure.fields
                    if one.kind == NESTED and one.type not in known
                }
            )

    async def _definitions(self, types: Sequence[str]) -> dict[str, dict[str, Any]]:
        """StructureDefinition by data type, of those that have one."""
        wanted = [(_node(type_), ua.AttributeIds.DataTypeDefinition) for type_ in types]
        found = {}
        for type_, answer in zip(types, await self._read(wanted), strict=True):
            content = content_of(answer.value, "i=122")
            if content is not None:
                found[type_] = content
        return found

    def _structure(self, type_: str, content: Mapping[str, Any], encoding: str) -> Structure | None:
        kind = content["StructureType"]
        if kind not in range(5):
            return None
        subtyped = kind > UNION  # 3, 4: a field's "optional" says that it may be of a subtype, and names it then
        fields = tuple(
            self._field(one, subtyped and bool(one["IsOptional"])) for one in content["Fields"] or () if one is not None
        )
        own = content["DefaultEncodingId"]
        form = {0: PLAIN, 1: OPTIONAL, 2: UNION, 3: PLAIN, 4: UNION}[kind]
        return Structure(type_, encoding if own in (None, "i=0") else own, form, fields)

    def _field(self, content: Mapping[str, Any], named: bool) -> Field:
        type_ = content["DataType"]
        built_in = self._types.built_in.get(type_, _VARIANT)
        rank = max(0, content["ValueRank"])
        optional = bool(content["IsOptional"]) and not named
        name = content["Name"] or ""
        if built_in == _STRUCTURE:
            if named or type_ == f"i={_STRUCTURE}":
                return Field(name, _STRUCTURE, "", rank, optional)
            return Field(name, NESTED, type_, rank, optional)
        if named or built_in in _ABSTRACT_NUMBERS or built_in == _VARIANT:
            return Field(name, _VARIANT, "", rank, optional)
        if built_in == _ENUMERATION:
            return Field(name, _INT32, type_, rank, optional)
        return Field(name, built_in, "", rank, optional)

    def _reachable(self, type_: str) -> list[Structure]:
        """The definition of a data type and of all that it is made of; nothing where one of them is not known."""
        found: dict[str, Structure] = {}
        todo = [type_]
        while todo:
            at = todo.pop()
            if at in found:
                continue
            structure = self._types.structures.get(at)
            if structure is None or len(found) >= _MOST_TYPES:
                return []
            found[at] = structure
            todo += [one.type for one in structure.fields if one.kind == NESTED]
        return list(found.values())

    async def _types_of_values(self, seen: Mapping[str, Attribute]) -> dict[str, str]:
        """The data types of the structures among these values, which say their encoding only."""
        encodings = {name: encoding for name, value in seen.items() if (encoding := _encoding(value.value))}
        known = self._types.encodings
        known.update({structure.encoding: structure.type for structure in WELL_KNOWN})
        new = sorted({encoding for encoding in encodings.values() if encoding not in known and "nsu=" not in encoding})
        if new:
            referrers = await self._referenced(new, ua.ObjectIds.HasEncoding, forward=False)
            known.update({encoding: found[0][0] if found else "" for encoding, found in referrers.items()})
        found = {name: type_ for name, encoding in encodings.items() if (type_ := known.get(encoding, ""))}
        await self._find_built_in(found.values())
        await self._define(found.values())
        return found

    # --- enumerations ---

    async def _label(self, asked: Sequence[_Asked], found: dict[str, Typing | Problem]) -> None:
        """Adds the labels to texts of enumerations."""
        wanted: dict[str, str] = {}
        for one in asked:
            typing = found[one.name]
            if isinstance(typing, Typing) and typing.rule == Rule.TEXT:
                type_ = self._leaf(typing).type if typing.field else one.type
                if self._types.built_in.get(type_) == _ENUMERATION:
                    wanted[one.name] = type_
        if not wanted:
            return
        labels = await self.labels(set(wanted.values()))
        for name, type_ in wanted.items():
            typing = found[name]
            assert isinstance(typing, Typing)
            if labels[type_]:
                found[name] = Typing(
                    Rule.LABEL, typing.element, labels[type_], typing.structures, typing.field, typing.family
                )

    def _leaf(self, typing: Typing) -> Field:
        by_type = {structure.type: structure for structure in (*WELL_KNOWN, *typing.structures)}
        at = typing.structures[0] if typing.structures else WELL_KNOWN[0]
        leaf = Field("", NULL)
        for name in typing.field:
            leaf = next((one for one in at.fields if one.name == name), leaf)
            at = by_type.get(leaf.type, at)
        return leaf

    async def labels(self, types: Iterable[str]) -> dict[str, tuple[tuple[int, str], ...]]:
        """The labels of enumerations: of their definition, else of EnumValues, else of EnumStrings."""
        known = self._types.labels
        new = sorted({type_ for type_ in types if type_ not in known})
        wanted = [(_node(type_), ua.AttributeIds.DataTypeDefinition) for type_ in new]
        for type_, answer in zip(new, await self._read(wanted), strict=True):
            content = content_of(answer.value, "i=123")
            fields = [one for one in (content or {}).get("Fields") or () if one is not None]
            labels = [(one["Value"], one["DisplayName"] or one["Name"] or "") for one in fields]
            known[type_] = tuple(labels[:_MOST_LABELS])
        bare = [type_ for type_ in new if not known[type_]]
        for type_, described in zip(bare, await self._from_properties(bare), strict=True):
            known[type_] = described
        return known

    async def enumerations(self, types: Iterable[str]) -> list[str]:
        """Which of these are enumerations."""
        wanted = sorted(set(types))
        await self._find_built_in(wanted)
        return [type_ for type_ in wanted if self._types.built_in[type_] == _ENUMERATION]

    async def names(self, types: Iterable[str]) -> dict[str, str]:
        """What the data types are called."""
        known = self._types.names
        new = sorted({type_ for type_ in types if type_ not in known})
        answers = await self._read([(_node(type_), ua.AttributeIds.BrowseName) for type_ in new])
        for type_, answer in zip(new, answers, strict=True):
            known[type_] = answer.value.split(":", 1)[-1] if isinstance(answer.value, str) else ""
        return known

    async def _from_properties(self, types: Sequence[str]) -> list[tuple[tuple[int, str], ...]]:
        questions = [(type_, name) for type_ in types for name in ("EnumValues", "EnumStrings")]

        async def ask(batch: Sequence[tuple[str, str]]) -> Sequence[Any]:
            has = ua.ObjectIds.HasProperty
            paths = [relative(_node(type_), has, [(0, name)]) for type_, name in batch]
            return list(await self._session.translate_browsepaths_to_nodeids(paths))

        answers = await in_batches(
            questions, self._limits.translate, ask, failed=lambda status: ua.BrowsePathResult(ua.StatusCode(status))
        )
        exist = {
            place: _node(_local(answer.Targets[0].TargetId))
            for place, answer in enumerate(answers)
            if answer.StatusCode.is_good() and answer.Targets
        }
        values = await self._read([(node, ua.AttributeIds.Value) for node in exist.values()])
        read_ = dict(zip(exist, (value.value for value in values), strict=True))
        found = []
        for place in range(len(types)):
            described = [content_of(one, "i=8251") for one in _listed(read_.get(2 * place))]
            pairs = [(one["Value"], one["DisplayName"] or "") for one in described if one is not None]
            if not pairs:
                pairs = list(enumerate(_listed(read_.get(2 * place + 1))))
            found.append(tuple((int(number), str(text or "")) for number, text in pairs[:_MOST_LABELS]))
        return found

    async def _read(self, nodes: Sequence[tuple[NodeId, int]]) -> list[Attribute]:
        return await read(self._session, nodes, self._limits.read) if nodes else []


def _no_field(one: _Asked, problem: str, remedy: str) -> Problem:
    return Problem(
        f"{one.place}.field",
        one.tag.field,
        f"cannot be had: {problem}",
        remedy,
        "it is tried again; the other tags are collected",
    )


def _local(node: Any) -> str:
    """An expanded node id of this server, as our readers write node ids."""
    namespace = f"ns={node.NamespaceIndex};" if node.NamespaceIndex else ""
    identifier = node.Identifier
    if isinstance(identifier, bytes):
        return f"{namespace}b={base64.b64encode(identifier).decode('ascii')}"
    letter = "i" if isinstance(identifier, int) else "g" if isinstance(identifier, UUID) else "s"
    return f"{namespace}{letter}={identifier}"


def _node(text: str) -> NodeId:
    """The node id that our readers wrote so; the null one where it cannot be of this server."""
    space, _, rest = text.partition(";") if text.startswith("ns=") else ("", "", text)
    letter, _, value = rest.partition("=")
    namespace = int(space[3:]) if space else 0
    try:
        if letter == "i":
            return ua.NodeId(int(value), namespace)
        if letter == "s":
            return ua.NodeId(value, namespace, ua.NodeIdType.String)
        if letter == "g":
            return ua.NodeId(UUID(value), namespace, ua.NodeIdType.Guid)
        if letter == "b":
            return ua.NodeId(base64.b64decode(value), namespace, ua.NodeIdType.ByteString)
    except ValueError:
        return ua.NodeId()
    return ua.NodeId()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _encoding(value: Any) -> str:
    """Of which encoding a structure is, or the first of a list."""
    for _ in range(_DEEPEST_TYPE):
        if not isinstance(value, list) or not value:
            break
        value = value[0]
    return value.type if isinstance(value, Opaque) else ""


_META: Final = Definitions()


def content_of(value: Any, encoding: str) -> dict[str, Any] | None:
    """A structure of namespace 0 of this encoding; None where it is none, or damaged."""
    if not isinstance(value, Opaque) or value.type != encoding:
        return None
    try:
        return _META.read(value)
    except MalformedError:
        return None
