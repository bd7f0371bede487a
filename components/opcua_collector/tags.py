"""The tags of a connection: those of its configuration and those of its CSV file, through one validator.

The file has a header line; known columns are tag, node, path, unit, asset and type, others are for people. An entry of
the configuration comes before a line of the file with the same tag. A wrong line costs itself, not the file.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from opcua_collector.config import Connection, Tag
from sluice.config import Problem, load_entries

_COLUMNS: Final = ("node", "path", "unit", "asset", "type")
_LARGEST_FILE: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Selection:
    """The tags to collect, and what was wrong with others."""

    tags: Mapping[str, Tag]
    problems: tuple[Problem, ...] = ()


def select(name: str, connection: Connection, directory: Path) -> Selection:
    """All tags of the connection called `name`. Reads its tags file; a relative path starts at `directory`."""
    if not connection.tags_file:
        return Selection(connection.tags)
    place = f"connections.{name}.tagsFile"
    path = directory / connection.tags_file
    try:
        if path.exists() and not path.is_file():
            remedy = "name a CSV file"
            return Selection(connection.tags, (Problem(place, str(path), "is not a file", remedy),))
        if path.stat().st_size > _LARGEST_FILE:
            return Selection(
                connection.tags,
                (Problem(place, str(path), f"is larger than {_LARGEST_FILE} bytes", "split it over connections"),),
            )
        with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
            rows, problems = _rows(name, file)
    except ValueError:  # such as a NUL in the path
        remedy = "correct the path"
        return Selection(connection.tags, (Problem(place, str(path), "cannot be a path", remedy),))
    except OSError as error:
        remedy = "put the file there, readable for the component's user, or correct the path"
        return Selection(connection.tags, (Problem(place, str(path), f"cannot be read: {error.strerror}", remedy),))
    except csv.Error as error:
        return Selection(connection.tags, (Problem(place, str(path), f"is no CSV: {error}", "save it as CSV, UTF-8"),))
    loaded = load_entries(Tag, rows, ("connections", name, "tagsFile"))
    return Selection({**loaded.entries, **connection.tags}, (*problems, *loaded.problems))


def _rows(name: str, file: TextIO) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    """Tag -> its settings, and the lines that cannot be told apart."""
    header = file.readline()
    separator = max((",", ";", "\t"), key=header.count)
    columns = [column.strip().casefold() for column in next(csv.reader([header], delimiter=separator), [])]
    place = f"connections.{name}.tagsFile"
    if "tag" not in columns or not {"node", "path"} & set(columns):
        problem = Problem(
            place,
            header.strip()[:120],
            "has no header with the columns tag and node (or path)",
            f"begin the file with the line {','.join(('tag', *_COLUMNS))}",
        )
        return {}, [problem]
    rows: dict[str, dict[str, str]] = {}
    problems: list[Problem] = []
    reader = csv.reader(file, delimiter=separator)
    for cells in reader:
        line = dict(zip(columns, map(str.strip, cells), strict=False))
        tag = line.get("tag", "")
        if not any(line.values()):
            continue
        if not tag or tag in rows:
            what = (
                f"line {reader.line_num + 1} names {tag} a second time"
                if tag
                else f"line {reader.line_num + 1} has no tag"
            )
            problems.append(Problem(place, tag or None, what, "give each line its own tag", "the line is left out"))
            continue
        rows[tag] = {column: line[column] for column in _COLUMNS if line.get(column)}
    return rows, problems
