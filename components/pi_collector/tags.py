"""The tags of a connection: see `sluice.tag_tables`. What is PI's own of it: the columns."""

from __future__ import annotations

from typing import Final

from pi_collector.config import FileTag, PackageTag, Tag
from sluice import tag_tables
from sluice.tag_tables import Stamp, TagTables

__all__ = (
    "COLUMNS", "REQUIRED", "TABLES", "Selection", "Stamp", "forget", "forget_others", "parse", "select", "sources",
    "stamps",
)  # fmt: skip

COLUMNS: Final = ("tag", "connection", "point", "path", "unit", "asset", "group")
"""In the order in which a table is written."""
REQUIRED: Final = (("tag",), ("point", "path"))

TABLES: Final = TagTables(Tag, FileTag, PackageTag, COLUMNS, REQUIRED)
Selection = tag_tables.Selection[Tag]
select, sources, stamps, parse = TABLES.select, TABLES.sources, TABLES.stamps, TABLES.parse
forget, forget_others = TABLES.forget, TABLES.forget_others
