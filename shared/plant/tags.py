"""What the plant offers: every variable of every unit, with its node, and the tag list that a collector reads.

A unit has the 52 variables of the process and three more, so that every type flows:

| name      | type    | meaning                                                              |
|-----------|---------|----------------------------------------------------------------------|
| `Row`     | Int32   | number of the row that the unit produced                              |
| `Running` | Boolean | true from the first row until production stops                        |
| `Phase`   | String  | what the unit is doing: normal operation, a fault, a calibration      |
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plant.tennessee import VARIABLES

NAMESPACE = "urn:sluice:plant"
NAMESPACE_INDEX = 2
"""0 is OPC UA's own, 1 the server's application; the plant's is the first that the server registers."""

DEFAULT_ASSET = "site/area/line1"
"""Where `example_config` says that the plant stands."""

CSV_HEADER = ("tag", "node", "path", "area", "unit", "asset")


@dataclass(frozen=True, slots=True)
class Tag:
    """A variable of a unit.

    `tag` is its name everywhere in the plant (`Unit1/XMEAS01_AFeed`), `node` its node id with the namespace written
    out, `path` its browse path, `type` the OPC UA built-in type, `unit` the engineering unit with its UN/CEFACT code
    `unece`, `low` and `high` its range, `asset` the place in the plant (`Unit1/Feed`).
    """

    tag: str
    node: str
    path: str
    type: str
    unit: str
    unece: str
    low: float
    high: float
    asset: str
    description: str


STATE_VARIABLES: tuple[tuple[str, str, str], ...] = (
    ("Row", "Int32", "Number of the row that the unit produced"),
    ("Running", "Boolean", "True from the first row until production stops"),
    ("Phase", "String", "What the unit is doing"),
)

UNIT_WIDTH = len(VARIABLES) + len(STATE_VARIABLES)
"""Variables per unit."""


def tags(units: int) -> list[Tag]:
    """All variables of a plant of that many units, unit by unit in the order of their columns."""
    return [tag for number in range(1, units + 1) for tag in _unit_tags(f"Unit{number}")]


def _unit_tags(unit: str) -> Iterable[Tag]:
    for variable in VARIABLES:
        yield _tag(
            unit,
            variable.area,
            variable.name,
            "Double",
            variable.description,
            unit_of_measure=(variable.unit, variable.unece),
            span=(variable.low, variable.high),
        )
    for name, kind, description in STATE_VARIABLES:
        yield _tag(unit, "State", name, kind, description)


def _tag(
    unit: str,
    area: str,
    name: str,
    kind: str,
    description: str,
    *,
    unit_of_measure: tuple[str, str] = ("", ""),
    span: tuple[float, float] = (0.0, 0.0),
) -> Tag:
    tag = f"{unit}/{name}"
    i = NAMESPACE_INDEX
    return Tag(
        tag=tag,
        node=f"nsu={NAMESPACE};s={tag}",
        path=f"/Objects/{i}:Plant/{i}:{unit}/{i}:{area}/{i}:{name}",
        type=kind,
        unit=unit_of_measure[0],
        unece=unit_of_measure[1],
        low=span[0],
        high=span[1],
        asset=f"{unit}/{area}",
        description=description,
    )


def write_tags_csv(path: Path, units: int, *, by_path: bool = False) -> None:
    """Write the tag list for a collector: every variable of that many units, by node id or by browse path.

    The asset column stays empty, so that every tag inherits the asset of its connection.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_HEADER)
        for tag in tags(units):
            node, browse = ("", tag.path) if by_path else (tag.node, "")
            writer.writerow((tag.tag, node, browse, tag.asset.split("/")[-1], tag.unit, ""))


def example_config(
    endpoint: str,
    tags_csv: Path,
    *,
    connection: str = "line1",
    asset: str = DEFAULT_ASSET,
    policy: str = "None",
    trust: str = "",
    user: str | None = None,
    password_file: Path | None = None,
    publishing_interval: str = "200ms",
) -> dict[str, Any]:
    """The merge document with which io.sluice.OpcUaCollector follows every variable of the plant.

    A policy other than None needs `trust`: the path of the server's certificate, or `first-use`.
    """
    settings: dict[str, Any] = {
        "endpoint": endpoint,
        "asset": asset,
        "security": {"policy": policy, "trust": trust} if trust else {"policy": policy},
        "publishingInterval": publishing_interval,
        "tagsFile": str(tags_csv),
    }
    if user is not None and password_file is not None:
        settings["user"] = {"name": user, "password": {"file": str(password_file)}}
    return {"connections": {connection: settings}}
