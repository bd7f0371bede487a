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

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cli.document import DocumentError, load
from plant import PiProcess
from plant.pi.production import definitions

COLLECTOR = "io.sluice.OpcUaCollector"
PI_COLLECTOR = "io.sluice.PiCollector"
PREPROCESSOR = "io.sluice.Preprocessor"
EXPORTER = "io.sluice.StreamExporter"
PI_ASSET = "site/area/historian"
"""Where `pi_config` says that the points belong."""
COLLECTORS = {"opcua": COLLECTOR, "pi": PI_COLLECTOR}
"""The component that collects from each kind of source of the simulated plant."""
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
    found = _exporter(site).get("sinks", {})
    return {name: dict(sink) for name, sink in found.items() if isinstance(sink, Mapping)}


def exported_sources(site: Mapping[str, Any]) -> list[str]:
    """Whose data the exporter takes, as the site document merges it."""
    return list(_exporter(site).get("sources", ["*"]))


def is_of(stream: str, sources: Sequence[str]) -> bool:
    """Whether a stream is one of these sources, `<producer>/<source>` with * for any, or * for all."""
    levels = stream.split("/")
    return any(
        all(wanted in ("*", level) for wanted, level in zip(source.split("/"), levels, strict=False))
        for source in sources
    )


def _exporter(site: Mapping[str, Any]) -> Mapping[str, Any]:
    merge = site.get("components", {}).get(EXPORTER, {}).get("configurationUpdate", {}).get("merge", {})
    return dict(json.loads(merge)) if isinstance(merge, str) else dict(merge)


def pi_points(pi: PiProcess) -> list[str]:
    """The names of the points of a PI plant that has units."""
    return [definition.name for definition in definitions(pi.units)]


def pi_config(
    pi: PiProcess, points_csv: Path, *, port: int | None = None, user: str = "", password_file: Path | None = None
) -> dict[str, Any]:
    """The merge for the collector of the plant's PI Web API, its points in a CSV file that is written here.

    port: where the PI Web API is reached, when that is not its own port.
    """
    with points_csv.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("tag", "point"))
        writer.writerows((point, point) for point in pi_points(pi))
    own = urlsplit(pi.url)
    url = own if port is None else own._replace(netloc=f"{own.hostname}:{port}")
    settings: dict[str, Any] = {
        "url": url.geturl(),
        "asset": PI_ASSET,
        "tagsFile": str(points_csv),
        # The demonstration's plant has its values at once, and a rehearsal has no patience for an office's intervals.
        "settle": "1s",
        "overlap": "30s",
        "reconcile": {"every": "5s", "window": "1h"},
        "heartbeat": "2s",
        "load": {"requestsPerSecond": 100},
    }
    if pi.authority is not None:
        settings["tls"] = {"ca": str(pi.authority)}
    if user:
        settings["user"] = {"name": user, "password": {"file": str(password_file)}}
    return {"connections": {"historian": settings}}


def demo_site(
    collectors: Mapping[str, Mapping[str, Any]], *, rotate: str = "5s", preprocessor: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The demonstration's site: the plant's connections (the merge of each collector), and one sink of each kind.

    rotate: how long a file stays open. preprocessor: the merge of the preprocessor that stands between collectors and
    exporter; None: there is none.
    """
    between = {} if preprocessor is None else {PREPROCESSOR: preprocessor}
    exporter = {
        "sources": ["*" if preprocessor is None else "preprocessor/*"],
        "sinks": {
            # Null values, which a plant has whenever a sensor fails, as SiteWise nullValue.
            "sitewise": {"type": "sitewise", "nulls": "send"},
            "kinesis": {"type": "kinesis", "kinesisStream": "plant-data"},
            # Files are sealed often here so that the demonstration ends soon; a plant leaves this at its default.
            "s3": {"type": "s3", "bucket": "plant-archive", "rotateInterval": rotate},
        },
    }
    return {
        "components": {
            **{
                name: {"configurationUpdate": {"merge": dict(merge)}}
                for name, merge in {**collectors, **between}.items()
            },
            EXPORTER: {"configurationUpdate": {"merge": exporter}},
        }
    }
