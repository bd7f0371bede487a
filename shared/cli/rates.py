"""How many values come of a connection, and what is asked of its server for them, by what collects it.

OPC UA: a server sends a value at most once in a sampling interval, and only when it has changed.

PI: values that are sampled or calculated come once in their interval. Those of the archive come as the archive has
them, which nobody configures here: they are counted as `TYPICAL`, what PI systems have of a point on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opcua_collector.plan import plan as opcua_plan
from pi_collector.plan import Plan as PiPlan
from pi_collector.plan import by_group
from pi_collector.plan import plan as pi_plan

if TYPE_CHECKING:
    from cli.routes import Source

TYPICAL: Final = 0.05
"""Values per second of a PI point in the archive: 50 of 1,000 points."""
VALUE_BYTES: Final = 130.0
"""Bytes of a value in an answer of a PI Web API, and below it those of a point in an answer about several."""
POINT_BYTES: Final = 120.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a PI Web API. Values per second are at one new value of a point in each interval."""

    streams: int
    requests_per_s: float
    bytes_per_s: float
    sockets: int


def rates(source: Source, change: float) -> list[float]:
    """Values per second of each tag that is sent on. `change`: the fraction of intervals with a new value."""
    return _RATES[source.producer.member.package](source, change)


def unlimited(source: Source) -> bool:
    """Whether no interval limits how often a tag may have a value."""
    return source.producer.member.package == "opcua_collector" and any(
        _interval(source, tag) == 0 for tag in _tags(source).values()
    )


def asked(source: Source, change: float) -> Asked | None:
    """What is asked of the server, where that is a matter of requests: of a PI Web API."""
    if source.producer.member.package != "pi_collector":
        return None
    load = source.settings.load
    streams = sockets = 0
    requests = size = 0.0
    for group, tags in by_group(source.settings, _tags(source)).items():
        how = pi_plan(source.settings, group)
        count, calls = len(tags), math.ceil(len(tags) / load.points_per_request)
        streams += count * _streams(how)
        every = _asked_every(how)
        if every is not None:
            requests += calls / every
            size += count * POINT_BYTES / every
        else:
            sockets += math.ceil(count / load.points_per_channel)
        values = count * sum(_pi_rate(how, change))
        if how.gapless and how.reconcile.window:
            # Each look reads all that the window has once more.
            requests += calls / how.reconcile.every
            values *= 1 + how.reconcile.window / how.reconcile.every
        size += values * VALUE_BYTES
    return Asked(streams, round(requests, 3), round(size, 3), sockets)


def _tags(source: Source) -> Mapping[str, Any]:
    return source.producer.tags(source.connection)


# --- OPC UA ---


def _interval(source: Source, tag: Any) -> float:
    """Seconds between two looks of the server at a tag's node, or of ours."""
    how = opcua_plan(source.settings, tag.group).of(tag)
    return how.poll if how.mode == "poll" else how.sampling


def _opcua(source: Source, change: float) -> list[float]:
    """One that is sampled as fast as the server can is counted once a publication."""
    return [
        change / (_interval(source, tag) or opcua_plan(source.settings, tag.group).publishing)
        for tag in _tags(source).values()
    ]


# --- PI ---


def _streams(how: PiPlan) -> int:
    return len(how.summaries) if how.mode == "summary" else 1


def _pi_rate(how: PiPlan, change: float) -> list[float]:
    """Of one point, by what is made of it."""
    if how.mode in ("interpolated", "summary"):
        return [1 / how.interval] * _streams(how)
    return [change / how.poll if how.mode in ("snapshot", "end") else change * TYPICAL]


def _asked_every(how: PiPlan) -> float | None:
    """Seconds between two requests about a point; None where it has a websocket."""
    if how.mode in ("interpolated", "summary"):
        return how.interval
    return None if how.gapless and how.transport in ("auto", "channel") else how.poll


def _pi(source: Source, change: float) -> list[float]:
    plans: dict[str, list[float]] = {}
    found: list[float] = []
    for tag in _tags(source).values():
        if tag.group not in plans:
            plans[tag.group] = _pi_rate(pi_plan(source.settings, tag.group), change)
        found += plans[tag.group]
    return found


_RATES: Final[Mapping[str, Callable[[Source, float], list[float]]]] = {"opcua_collector": _opcua, "pi_collector": _pi}
