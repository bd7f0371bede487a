"""The tags of a connection: see `sluice.tag_tables`. What is OPC UA's own of it: the columns, and too many groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from opcua_collector.config import Connection, FileTag, PackageTag, Tag
from opcua_collector.plan import plan
from sluice import tag_tables
from sluice.config import Problem
from sluice.problem import render
from sluice.tag_tables import Stamp, TagTables

__all__ = (
    "COLUMNS", "MOST_SUBSCRIBED", "REQUIRED", "TABLES", "Selection", "Stamp", "forget", "forget_others", "parse",
    "select", "sources", "stamps",
)  # fmt: skip

COLUMNS: Final = (
    "tag", "connection", "node", "path", "unit", "asset", "type", "samplingInterval", "group", "indexRange", "field",
)  # fmt: skip
"""In the order in which a table is written."""
REQUIRED: Final = (("tag",), ("node", "path"))
MOST_SUBSCRIBED: Final = 16
"""Groups of a connection that subscribe."""

TABLES: Final = TagTables(Tag, FileTag, PackageTag, COLUMNS, REQUIRED, {"type": Tag.model_fields["type"].annotation})
Selection = tag_tables.Selection[Tag]
sources, stamps, parse = TABLES.sources, TABLES.stamps, TABLES.parse
forget, forget_others = TABLES.forget, TABLES.forget_others


def select(name: str, connection: Connection, directory: Path, *, keep: bool = False) -> Selection:
    """All tags of the connection called `name`, with what is wrong with them; see `TagTables.select`."""
    found = TABLES.select(name, connection, directory, keep=keep)
    return replace(found, problems=(*found.problems, *_too_many(name, connection, found.tags)))


def _too_many(name: str, connection: Connection, tags: Mapping[str, Tag]) -> list[Problem]:
    """Each group that subscribes is a subscription, of which servers have few."""
    named = {tag.group for tag in tags.values()} | {chosen.group for chosen in connection.select.values()}
    plans = {found.group: found for found in (plan(connection, group) for group in named)}
    subscribed = sum(one.mode == "subscribe" for one in plans.values())
    if subscribed <= MOST_SUBSCRIBED:
        return []
    what = f"makes {subscribed} subscriptions of one connection, and {MOST_SUBSCRIBED} are the most that is sensible"
    remedy = "put tags with like settings into one group; a tag may have a samplingInterval of its own"
    effect = "the server may refuse some, whose tags are then not collected"
    return [Problem(render(("connections", name, "groups")), None, what, remedy, effect)]
