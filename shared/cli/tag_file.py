"""A table by itself, as an engineer keeps it in a spreadsheet: tags of a collector, or instances of an asset model."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from cli.finding import Findings
from sluice import tables
from sluice.config import Problem
from sluice.tables import LARGEST, TableError
from sluice.tag_tables import TagTables

_BEGINNING: Final = 65_536  # bytes in which the header, and a row with a path, are looked for


def check_tag_file(path: Path) -> Findings:
    """Every row that its collector would refuse, by its reader; a file that cannot be read is an error of its own."""
    findings = Findings(path)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        problem = Problem("file", None, f"cannot be read ({error.strerror})", "give the path of a CSV file")
        findings.at("error", (1, 1), "", problem)
        return findings
    try:
        if instances := instance_columns(data):
            _check_instances(data, instances, findings)
            return findings
        parsed = tag_tables(data).parse(data, (), path.name)
    except TableError as error:
        problem = Problem("file", error.value, error.problem, error.remedy)
        findings.at("error", (max(1, error.line), 1), "", problem)
        return findings
    for problem in parsed.problems:
        findings.at("error", (max(1, problem.line), 1), "", problem)
    for warning in parsed.warnings:
        findings.at("warning", (max(1, warning.line), 1), "", warning)
    return findings


def instance_columns(data: bytes) -> tuple[str, ...]:
    """The columns of a table of instances, which members and constants follow; empty: it is a collector's tag table."""
    try:
        names = {name.casefold(): name for name in tables.header(data)}
    except TableError:
        return ()
    if "instance" not in names or ("tag" in names and {"node", "path", "point"} & names.keys()):
        return ()
    return "instance", "asset", *(name for bare, name in names.items() if bare not in ("instance", "asset"))


def _check_instances(data: bytes, columns: Sequence[str], findings: Findings) -> None:
    """What can be wrong with instances whatever their model is. Raises TableError."""
    table = tables.read(data, columns, (("instance",),))
    for flaw in table.flaws:
        findings.at("error", (flaw.line, 1), "", Problem(flaw.column, flaw.value, flaw.problem, flaw.remedy))
    lines: dict[str, int] = {}
    for row in table.rows:
        name = row.cells.get("instance", "")
        if not name:
            problem = Problem("instance", None, "is missing", "give each instance a name")
            findings.at("error", (row.line, 1), "", problem)
        elif (before := lines.setdefault(name.casefold(), row.line)) != row.line:
            problem = Problem("instance", name, f"is there already, in line {before}", "give each its own name")
            findings.at("error", (row.line, 1), "", problem)


def tag_tables(data: bytes) -> TagTables[Any]:
    """Those of the collector that the table is for, by its columns; OPC UA's where they do not tell.

    A table with the column path alone is PI's when its first path begins as those of points do.
    """
    from opcua_collector.tags import TABLES as OPCUA
    from pi_collector.tags import TABLES as PI

    begin = data[:_BEGINNING] if len(data) <= _BEGINNING else data[:_BEGINNING].rpartition(b"\n")[0]
    try:
        table = tables.read(begin, (*OPCUA.columns, "point"), (("tag",),))
    except TableError:
        return OPCUA
    if "node" in table.columns or not {"point", "path"} & set(table.columns):
        return OPCUA
    if "point" in table.columns:
        return PI
    path = next((row.cells["path"] for row in table.rows if "path" in row.cells), "")
    return PI if path.startswith("\\\\") else OPCUA


def table_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV that reads back as it was: whatever breaks a line is in quotes, a carriage return too."""
    out = io.StringIO(newline="")
    line = io.StringIO(newline="")
    writer = csv.writer(line, lineterminator="\r\n")  # what is in it is quoted; it is taken off again
    for row in rows:
        line.seek(0)
        line.truncate()
        writer.writerow(row)
        out.write(line.getvalue()[:-2] + "\n")
    return out.getvalue()
