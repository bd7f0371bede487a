"""A look at a server through the session that collects: a few nodes below a path, a few values. Bounded, and read only.

For commands of people, who see by it what the collector sees. Everything goes through the connection's `load`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opcua_collector.address_space.paths import join, split
from opcua_collector.address_space.references import VARIABLE, Browser, Reference, standard
from opcua_collector.address_space.space import address_text
from opcua_collector.nodes import Facts
from opcua_collector.problems import status_name
from opcua_collector.services import wire
from opcua_collector.stack import prepared, ua
from opcua_collector.values.encoding import Attribute, read_attributes

_OBJECTS: Final = standard(85)
_LONGEST: Final = 300  # characters of a value
_MOST_LOOKED_AT: Final = 2000  # nodes of which it is asked what is below
_NEITHER: Final = 3  # TimestampsToReturn


class NotThereError(LookupError):
    """The path leads to nothing: `step` is the first name that is not there, `names` some that are."""

    def __init__(self, step: str, names: Sequence[str]) -> None:
        super().__init__(step)
        self.step, self.names = step, names


class _EnoughError(Exception):
    """No more nodes are wanted."""


async def nodes_below(facts: Facts, path: str, depth: int, most: int) -> dict[str, Any]:
    """Nodes below a path of browse names from Objects, `depth` levels, `most` in all.

    Raises NotThereError, or what asking the server raises.
    """
    browser = Browser(facts.session.stack, facts.spaces, facts.limits.browse, _at_once)
    names = [name for name in split(path) if name]
    node = _OBJECTS
    for name in names:
        node = await _child(browser, node, name)
    rows: list[dict[str, Any]] = []
    visited = {node}
    level: list[tuple[bytes, list[str]]] = [(node, names)]
    more = False
    for _ in range(depth):
        following: list[tuple[bytes, list[str]]] = []

        def take(
            position: int,
            references: Sequence[Reference],
            level: list[tuple[bytes, list[str]]] = level,
            following: list[tuple[bytes, list[str]]] = following,
        ) -> None:
            for one in references:
                if one.node in visited:
                    continue
                if len(rows) >= most:
                    raise _EnoughError
                visited.add(one.node)
                where = [*level[position][1], one.name]
                kind = "variable" if one.node_class == VARIABLE else "object"
                rows.append({"path": join(where), "node": address_text(one.node, facts.spaces), "class": kind})
                following.append((one.node, where))

        try:
            await browser.look([one for one, _ in level[:_MOST_LOOKED_AT]], take)
        except _EnoughError:
            more = True
            break
        level = following
        if not level:
            break
    return {"path": join(names) or "/", "nodes": rows, **({"more": True} if more else {})}


async def _child(browser: Browser, node: bytes, name: str) -> bytes:
    """The node of this name below another one. Raises NotThereError with some of the names that are there."""
    names: list[str] = []
    found: list[bytes] = []

    def take(position: int, references: Sequence[Reference]) -> None:
        for one in references:
            if one.name == name:
                found.append(one.node)
                raise _EnoughError
            if len(names) < _MOST_LOOKED_AT:
                names.append(one.name)

    try:
        failed = await browser.look([node], take)
    except _EnoughError:
        return found[0]
    if failed and not names:
        raise ua.uaerrors.UaStatusCodeError(failed[0])
    raise NotThereError(name, names)


async def _at_once() -> None:
    """Nobody has to go before what a person waits for."""


async def values_of(facts: Facts, requests: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """What the server says now, by tag. requests: what asks for each tag's value."""
    found: list[Attribute] = []
    asked = list(requests.values())
    size = max(1, int(facts.limits.read))
    for start in range(0, len(asked), size):
        body = wire.read_body(asked[start : start + size], timestamps=_NEITHER)
        answer = await facts.session.stack._send_request(prepared("Read", body))
        found += read_attributes(bytes(answer), 0)
    return {tag: _told(one) for tag, one in zip(requests, found, strict=False)}


def _told(answer: Attribute) -> dict[str, Any]:
    told: dict[str, Any] = {"value": _short(answer.value)}
    if answer.status:
        told["status"] = status_name(answer.status)
    return told


def _short(value: Any) -> Any:
    """As JSON takes it, and no longer than a person reads."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"
