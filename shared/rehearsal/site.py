"""Site documents: what to deploy and how it is configured, in the shape of a Greengrass deployment.

    components:
      io.sluice.OpcUaCollector:
        configurationUpdate:
          merge:
            connections: {…}

A component's version may be left out (the built one is meant), and `merge` may be a mapping or JSON text, as the
service wants it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.document import DocumentError, load

COLLECTOR = "io.sluice.OpcUaCollector"
EXPORTER = "io.sluice.StreamExporter"
TAGS = "io.sluice.Tags."
DATA_ONLY = ("io.sluice.Runtime", TAGS)
"""How the names of components begin that bring files for others and run nothing."""


class SiteError(ValueError):
    """A site document that cannot be used; the text names the file, the place and the remedy."""


def load_site(path: Path) -> dict[str, Any]:
    """Read a site document. Raises SiteError when it is not one."""
    try:
        document = load(path)
    except DocumentError as error:
        first = error.faults[0]
        raise SiteError(f"{path}: {first} (line {first.line})") from None
    return {"components": {name: dict(component or {}) for name, component in document.raw["components"].items()}}


def sinks(site: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The exporter's sinks as the site document merges them, by name."""
    merge = site.get("components", {}).get(EXPORTER, {}).get("configurationUpdate", {}).get("merge", {})
    if isinstance(merge, str):
        merge = json.loads(merge)
    return {name: dict(sink) for name, sink in merge.get("sinks", {}).items() if isinstance(sink, Mapping)}


def demo_site(collector: Mapping[str, Any], *, rotate: str = "5s") -> dict[str, Any]:
    """The demonstration's site: the plant's connection (`collector`), and one sink of each kind.

    rotate: how long a file stays open.
    """
    exporter = {
        "sinks": {
            # Null values, which a plant has whenever a sensor fails, as SiteWise nullValue.
            "sitewise": {"type": "sitewise", "nulls": "send"},
            "kinesis": {"type": "kinesis", "kinesisStream": "plant-data"},
            # Files are sealed often here so that the demonstration ends soon; a plant leaves this at its default.
            "s3": {"type": "s3", "bucket": "plant-archive", "rotateInterval": rotate},
        }
    }
    return {
        "components": {
            COLLECTOR: {"configurationUpdate": {"merge": dict(collector)}},
            EXPORTER: {"configurationUpdate": {"merge": exporter}},
        }
    }
