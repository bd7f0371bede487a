"""A tag table by itself, as an engineer keeps it in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cli.finding import Findings
from sluice.config import Problem
from sluice.tables import LARGEST, TableError


def check_tag_file(path: Path) -> Findings:
    """Every row that a collector would refuse, by its own reader; a file that cannot be read is an error of its own."""
    from opcua_collector.tags import parse

    findings = Findings(path)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        problem = Problem("file", None, f"cannot be read ({error.strerror})", "give the path of a CSV file")
        findings.at("error", (1, 1), "", problem)
        return findings
    try:
        parsed = parse(data, (), path.name)
    except TableError as error:
        problem = Problem("file", error.value, error.problem, error.remedy)
        findings.at("error", (max(1, error.line), 1), "", problem)
        return findings
    for problem in parsed.problems:
        findings.at("error", (max(1, problem.line), 1), "", problem)
    for warning in parsed.warnings:
        findings.at("warning", (max(1, warning.line), 1), "", warning)
    return findings


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
