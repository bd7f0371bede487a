"""How a group's points are collected, once what it leaves out is filled in from its connection. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from pi_collector.config import Connection, Gate, Group, Mode, Reconcile, Summary, Tag, Transport

T = TypeVar("T")

OWN: Final = ""
"""The group of tags that name none: it has the connection's own settings."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds throughout; what they mean stands in `config.Connection`."""

    group: str
    mode: Mode
    transport: Transport
    poll: float
    interval: float
    summaries: tuple[Summary, ...]
    gate: Gate
    overlap: float
    settle: float
    reconcile: Reconcile
    initial: str | float
    max_backfill: float

    @property
    def gapless(self) -> bool:
        """Whether every value of the archive is promised; the other modes are samples of it."""
        return self.mode == "recorded"


def plan(connection: Connection, group: str = OWN) -> Plan:
    """How the group collects. One that does not exist collects as the connection does."""
    known = group in connection.groups
    own = connection.groups[group] if known else Group()
    return Plan(
        group=group if known else OWN,
        mode=_first(own.mode, connection.mode),
        transport=_first(own.transport, connection.transport),
        poll=_first(own.poll_interval, connection.poll_interval),
        interval=_first(own.interval, connection.interval),
        summaries=tuple(dict.fromkeys(_first(own.summaries, connection.summaries))),
        gate=_first(own.gate, connection.gate),
        overlap=_first(own.overlap, connection.overlap),
        settle=_first(own.settle, connection.settle),
        reconcile=_first(own.reconcile, connection.reconcile),
        initial=_first(own.initial, connection.initial),
        max_backfill=_first(own.max_backfill, connection.max_backfill),
    )


def _first(own: T | None, otherwise: T) -> T:
    return otherwise if own is None else own


def by_group(connection: Connection, tags: Mapping[str, Tag]) -> dict[str, dict[str, Tag]]:
    """The tags of each group that has any, by the group's name."""
    found: dict[str, dict[str, Tag]] = {}
    for name, tag in tags.items():
        found.setdefault(tag.group if tag.group in connection.groups else OWN, {})[name] = tag
    return found
