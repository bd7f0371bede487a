"""How a group's tags are collected, once what it leaves out is filled in from its connection. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from opcua_collector.config import Connection, Deadband, Discard, Group, Mode, Tag, Trigger

T = TypeVar("T")

OWN: Final = ""
"""The group of tags that name none: it has the connection's own settings."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds throughout; what they mean stands in `config.Group`."""

    group: str
    mode: Mode
    publishing: float
    sampling: float
    poll: float
    queue: int | None  # None: as many as the outage brings
    outage: float
    discard: Discard
    trigger: Trigger
    deadband: Deadband | None
    heartbeat: float | None

    def of(self, tag: Tag) -> Plan:
        """The same for one tag, which may have a sampling interval of its own."""
        return self if tag.sampling_interval is None else replace(self, sampling=tag.sampling_interval)


def plan(connection: Connection, group: str = OWN) -> Plan:
    """How the group collects. One that does not exist collects as the connection does."""
    known = group in connection.groups
    own = connection.groups[group] if known else Group()
    publishing = _first(own.publishing_interval, connection.publishing_interval)
    sampling = connection.sampling_interval if own.sampling_interval is None else own.sampling_interval
    queue = _first(own.queue_size, connection.queue_size)
    return Plan(
        group=group if known else OWN,
        mode=_first(own.mode, connection.mode),
        publishing=publishing,
        sampling=publishing if sampling is None else sampling,
        poll=_first(own.poll_interval, connection.poll_interval),
        queue=queue if isinstance(queue, int) else None,
        outage=_first(own.outage, connection.outage),
        discard=_first(own.discard, connection.discard),
        trigger=_first(own.trigger, connection.trigger),
        deadband=connection.deadband if own.deadband is None else own.deadband,
        heartbeat=connection.heartbeat if own.heartbeat is None else own.heartbeat,
    )


def _first(own: T | None, otherwise: T) -> T:
    return otherwise if own is None else own


def by_group(connection: Connection, tags: Mapping[str, Tag]) -> dict[str, dict[str, Tag]]:
    """The tags of each group that has any, by the group's name."""
    found: dict[str, dict[str, Tag]] = {}
    for name, tag in tags.items():
        found.setdefault(tag.group if tag.group in connection.groups else OWN, {})[name] = tag
    return found
