"""How the values of a tag are typed, from the data type of its node (Part 3, 5.8; Part 5, 12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from opcua_collector.browse import OperationLimits, in_batches, read
from opcua_collector.config import Tag
from opcua_collector.encoding import ARRAY_BIT
from opcua_collector.problems import node_problem
from opcua_collector.stack import NodeId, StackSession, ua
from opcua_collector.typed import Rule, Typing, rule_of_family
from sluice.config import Problem

_DEEPEST_TYPE: Final = 32
_BASE_DATA_TYPE: Final = 24

#: Built-in or abstract data type -> how its values are typed. BaseDataType is decided by the value.
_RULES: Final[dict[int, Rule]] = {
    1: Rule.BOOLEAN,
    **dict.fromkeys((2, 3, 4, 5, 6, 7, 8, 9, 19), Rule.INTEGER),
    **dict.fromkeys((10, 11), Rule.DOUBLE),
    **dict.fromkeys((12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23, 25), Rule.STRING),
    26: Rule.NUMBER,
    **dict.fromkeys((27, 28, 29), Rule.INTEGER),  # Integer, UInteger, Enumeration
}
_CONFIGURED: Final = {
    "double": Rule.NUMBER,
    "integer": Rule.INTEGER,
    "boolean": Rule.BOOLEAN,
    "string": Rule.STRING,
}


async def rules(
    session: StackSession, limits: OperationLimits, nodes: Mapping[str, tuple[str, Tag, NodeId]]
) -> dict[str, Typing | Problem]:
    """How each tag's values are typed, from the node's data type; or what is wrong with the node."""
    found: dict[str, Typing | Problem] = {}
    names = list(nodes)
    questions = [
        (nodes[name][2], attribute)
        for name in names
        for attribute in (ua.AttributeIds.DataType, ua.AttributeIds.ValueRank)
    ]
    answers = await read(session, questions, limits.read)
    types: dict[str, str] = {}
    for position, name in enumerate(names):
        place, tag, _ = nodes[name]
        data_type, rank = answers[2 * position], answers[2 * position + 1]
        if data_type.status >> 30 >= 2 or not isinstance(data_type.value, str):
            address = "node" if tag.node is not None else "path"
            found[name] = node_problem(f"{place}.{address}", tag.node or tag.path, data_type.status or 0x80350000)
        elif tag.type != "auto":
            found[name] = Typing(_CONFIGURED[tag.type])
        elif isinstance(rank.value, int) and rank.value >= 0:
            found[name] = Typing(Rule.STRING)  # an array, as JSON text
        else:
            types[name] = data_type.value
    known = await _built_in(session, limits, sorted(set(types.values())))
    by_value = [name for name, type_ in types.items() if known[type_] == _BASE_DATA_TYPE]
    values = await read(session, [(nodes[name][2], ua.AttributeIds.Value) for name in by_value], limits.read)
    families = {name: value.type_id for name, value in zip(by_value, values, strict=True)}
    for name, type_ in types.items():
        place, tag, _ = nodes[name]
        built_in = known[type_]
        if built_in in _RULES:
            found[name] = Typing(_RULES[built_in])
        elif families.get(name):
            family = families[name]
            found[name] = Typing(Rule.STRING if family & ARRAY_BIT else rule_of_family(family))
        else:
            found[name] = Problem(
                f"{place}.type",
                tag.type,
                f"cannot be found out: the node has the data type {type_} and no value yet",
                "set it to double, integer, boolean or string",
                "it is tried again; the other tags are collected",
            )
    return found


async def _built_in(session: StackSession, limits: OperationLimits, types: Sequence[str]) -> dict[str, int]:
    """The built-in or abstract type that each data type is a subtype of; 24 (BaseDataType) where none is found."""
    found: dict[str, int] = {}
    above = {type_: type_ for type_ in types}
    for _ in range(_DEEPEST_TYPE):
        for type_, ancestor in list(above.items()):
            number = int(ancestor[2:]) if ancestor.startswith("i=") else 0
            if number in _RULES or number == _BASE_DATA_TYPE:
                found[type_] = number
                del above[type_]
        if not above:
            break
        parents = await _parents(session, limits, sorted(set(above.values())))
        above = {type_: parents.get(ancestor, f"i={_BASE_DATA_TYPE}") for type_, ancestor in above.items()}
    return {**dict.fromkeys(types, _BASE_DATA_TYPE), **found}


async def _parents(session: StackSession, limits: OperationLimits, types: Sequence[str]) -> dict[str, str]:
    async def ask(batch: Sequence[str]) -> Sequence[Any]:
        parameters = ua.BrowseParameters()
        parameters.RequestedMaxReferencesPerNode = 1
        parameters.NodesToBrowse = [
            ua.BrowseDescription(
                NodeId=ua.NodeId.from_string(type_),
                BrowseDirection=ua.BrowseDirection.Inverse,
                ReferenceTypeId=ua.NodeId(ua.ObjectIds.HasSubtype),
                IncludeSubtypes=False,
                NodeClassMask=0,
                ResultMask=0,
            )
            for type_ in batch
        ]
        return list(await session.browse(parameters))

    answers = await in_batches(types, limits.browse, ask)
    return {
        type_: answer.References[0].NodeId.to_string()
        for type_, answer in zip(types, answers, strict=True)
        if answer.References
    }
