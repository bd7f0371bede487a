"""How points are searched for: names with `*` and `?`, and the conditions of `points/search`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from plant.pi.calls import CallError
from plant.pi.points import PiPoint

Test = Callable[[PiPoint], bool]

_QUERY: Final = re.compile(r'(?:(\w+):)?(=|<>|<|>)?("[^"]*"|\S+)')


def wildcard(text: str) -> re.Pattern[str]:
    """`*` and `?` as PI knows them, in any case."""
    pattern = "".join(".*" if letter == "*" else "." if letter == "?" else re.escape(letter) for letter in text)
    return re.compile(pattern + r"\Z", re.IGNORECASE)


def parse(text: str) -> list[Test]:
    """The conditions of a search, such as `Tag:=SIN* PointSource:=R PointType:="Float32"`; a word alone is a name."""
    tests, at = [], 0
    while text[at:].strip():
        match = _QUERY.match(text, at + len(text[at:]) - len(text[at:].lstrip()))
        field = None if match is None else _SEARCHED.get((match.group(1) or "name").casefold())
        if match is None or field is None:
            raise CallError(400, f"The query '{text}' is not valid at '{text[at:].strip()}'.")
        tests.append(_test(field, match.group(2) or "=", match.group(3).strip('"')))
        at = match.end()
    return tests


def _test(field: Callable[[PiPoint], str], sign: str, wanted: str) -> Test:
    pattern = wildcard(wanted)
    if sign == "<>":
        return lambda point: not pattern.match(field(point))
    if sign in ("<", ">"):
        return lambda point: (field(point).casefold() > wanted.casefold()) == (sign == ">")
    return lambda point: pattern.match(field(point)) is not None


_SEARCHED: Final[dict[str, Callable[[PiPoint], str]]] = {
    "tag": lambda point: point.name,
    "name": lambda point: point.name,
    "pointsource": lambda point: point.definition.source,
    "pointtype": lambda point: point.definition.type,
    "datatype": lambda point: point.definition.type,
    "pointclass": lambda point: point.definition.point_class,
    "descriptor": lambda point: point.definition.descriptor,
    "engunits": lambda point: point.definition.unit,
    "step": lambda point: str(int(point.definition.step)),
    "future": lambda point: str(int(point.definition.future)),
    "id": lambda point: str(point.id),
    "pointid": lambda point: str(point.id),
}
