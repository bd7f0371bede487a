"""The points that were found last, on disk: after a restart collecting begins before the server was asked for them.

Readable by its owner only. A file that makes no sense costs the lookup that it would have saved, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from pi_collector.points.point import Point
from sluice.config import KeptFile

logger = logging.getLogger(__name__)

FOLDER: Final = "points"
_VERSION: Final = 1
_TYPES: Final = {field.name: {"str": str, "int": int, "bool": bool}[str(field.type)] for field in fields(Point)}


@dataclass(frozen=True, slots=True)
class Known:
    """What was found: points by the path that was asked for (lower case), and those of each search by its name.

    mark: of which server, and with which searches. server: its data server, where it had to be asked for that.
    """

    mark: str = ""
    server: str = ""
    points: Mapping[str, Point] = field(default_factory=dict)
    searched: Mapping[str, tuple[str, tuple[Point, ...]]] = field(default_factory=dict)
    """By the search's name: what it was (as JSON), and what it found."""


class Cache:
    """Of one connection."""

    def __init__(self, directory: Path, connection: str) -> None:
        self.path = directory / FOLDER / f"{connection}.json"
        self._file = KeptFile(self.path, "list of points", "they are looked up again")

    def load(self) -> Known | None:
        """What was kept last; None when there is nothing."""
        found: list[Known] = []
        self._file.read(lambda content: found.append(_known(content)))
        return found[0] if found else None

    def save(self, known: Known) -> None:
        """Replace it. A disk that refuses is a line in the log."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("The list of points cannot be kept in %s: %s", self.path.parent, error)
            return
        self._file.write(
            {
                "version": _VERSION,
                "mark": known.mark,
                "server": known.server,
                "points": {path: _row(point) for path, point in known.points.items()},
                "searched": {name: [what, [*map(_row, points)]] for name, (what, points) in known.searched.items()},
            }
        )

    def forget(self) -> None:
        """The connection is gone."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("The list of points is still in %s: %s", self.path, error)


def forget_others(directory: Path, connections: Collection[str]) -> None:
    """Delete what is kept of all connections but these, which may have gone while nobody ran."""
    for path in (directory / FOLDER).glob("*.json"):
        if path.stem not in connections:
            Cache(directory, path.stem).forget()


def _row(point: Point) -> list[Any]:
    return [getattr(point, name) for name in _TYPES]


def _known(content: Mapping[str, Any]) -> Known:
    """Raises ValueError."""
    if content.get("version") != _VERSION:
        raise ValueError("it is of another version")
    points, searched = content.get("points"), content.get("searched")
    mark, server = content.get("mark"), content.get("server")
    if not (isinstance(points, dict) and isinstance(searched, dict) and isinstance(mark, str)):
        raise ValueError("it is no list of points")
    if not isinstance(server, str):
        raise ValueError("it has no name of a data server")
    found: dict[str, tuple[str, tuple[Point, ...]]] = {}
    for name, entry in searched.items():
        if not (
            isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], list)
        ):
            raise ValueError("it has a search that is none")
        found[name] = (entry[0], tuple(map(_point, entry[1])))
    return Known(mark, server, {path: _point(row) for path, row in points.items()}, found)


def _point(row: Any) -> Point:
    if not isinstance(row, list) or len(row) != len(_TYPES):
        raise ValueError("it has a point that is none")
    for value, (name, kind) in zip(row, _TYPES.items(), strict=True):
        if type(value) is not kind:
            raise ValueError(f"it has a point with another {name} than there can be")
    return Point(*row)
