"""Streams and answers for tests of values: what a PI Web API would say, written by hand."""

from __future__ import annotations

from typing import Any

import orjson

from pi_collector.config import Connection
from pi_collector.plan import plan
from pi_collector.points.point import Point, Stream
from pi_collector.values.typing import Typings


def settings(**of: Any) -> Connection:
    """A connection with these settings."""
    return Connection.model_validate({"url": "https://pi.example.com/piwebapi", **of})


def stream(handle: int, point_type: str = "Float64", connection: Connection | None = None, **of: Any) -> Stream:
    """A stream of a point T<handle> with the web id W<handle>."""
    connection = connection or settings()
    point = Point(f"W{handle}", "SERVER", handle, f"T{handle}", rf"\\SERVER\T{handle}", point_type)
    group = of.pop("group", "")
    return Stream(handle, of.pop("tag", f"T{handle}"), point, plan(connection, group), "degC", "site/line", **of)


def typings(*types: str, **of: Any) -> Typings:
    """Streams 0, 1, … of these point types, all collected with the same settings."""
    connection = settings(**of)
    made = Typings()
    for handle, point_type in enumerate(types):
        assert not made.fix(stream(handle, point_type, connection), connection)
    return made


def handles(count: int) -> dict[str, int]:
    """Handles by web id."""
    return {f"W{handle}": handle for handle in range(count)}


def recorded(*values: list[Any]) -> bytes:
    """An answer of a stream set: the values of streams 0, 1, …"""
    return orjson.dumps({"Items": [{"WebId": f"W{handle}", "Items": own} for handle, own in enumerate(values)]})
