"""The plant's own log: what it produced, written before anybody else could know.

JSON lines. One per row: `{"row": n, "t": nanoseconds, "values": {tag: value, …}, "q": {tag: status code, …}}`, where
`q` names only what is not good, and only values that are new in the row appear. The last: `{"end": true, "rows": n,
"samples": n}`. A log without it is of a plant that died; its last line may be cut short, and what it held was never
shown to anyone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import orjson

Value = float | int | bool | str | None


class LogError(ValueError):
    """A line in the middle of a log that is no row; the text names the file and the line."""


class PlantLog:
    """Writes a log; every row is handed to the operating system before `write` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("wb", buffering=0)  # unbuffered: one write per row
        self.rows = 0
        self.samples = 0

    def write(self, time_ns: int, values: Mapping[str, Value], statuses: Mapping[str, int]) -> int:
        """Write the next row and return its number; the first is 1."""
        self.rows += 1
        self.samples += len(values)
        row: dict[str, object] = {"row": self.rows, "t": time_ns, "values": values}
        if statuses:
            row["q"] = statuses
        self._write(row)
        return self.rows

    def end(self) -> None:
        """Write the end mark and close."""
        self._write({"end": True, "rows": self.rows, "samples": self.samples})
        self._file.close()

    def close(self) -> None:
        """Close without an end mark."""
        self._file.close()

    def _write(self, line: Mapping[str, object]) -> None:
        data = memoryview(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        while data:
            data = data[self._file.write(data) :]


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """A row as it was logged."""

    row: int
    time_ns: int
    values: dict[str, Value]
    statuses: dict[str, int]


@dataclass(frozen=True, slots=True)
class EndMark:
    """The last line of a log that was ended."""

    rows: int
    samples: int


def read_log(path: Path) -> Iterator[LoggedRow | EndMark]:
    """The lines of a log, one at a time. Raises LogError; a last line without its line end is left out."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                entry = orjson.loads(line)
                if "end" in entry:
                    yield EndMark(entry["rows"], entry["samples"])
                else:
                    yield LoggedRow(entry["row"], entry["t"], entry["values"], entry.get("q", {}))
            except (ValueError, KeyError, TypeError) as error:
                raise LogError(f"{path}:{number}: not a line of a plant log ({error})") from error
