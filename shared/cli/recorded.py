"""Recorded data for dry runs: files of samples, in the forms in which people have them.

    .jsonl, .json, .jsonl.gz    one sample a line, as the gateway's Kinesis and S3 sinks write them
    .csv of rows                columns tag, time, value, and maybe quality, status, unit, asset
    .csv of columns             the first column is the time, every other one a tag

Times are ISO 8601 (UTC where no zone is said), or a column time_ns of ns since 1970. An empty value is none at all.
What cannot be read costs its row, and is told.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, TextIO

import orjson

from cli.output import Failure
from sluice.columns import Quality, Sample

_MOST_TOLD: Final = 20
_ROWS: Final = frozenset({"tag", "value"})
_QUALITIES: Final = {quality.name: quality for quality in Quality}


@dataclass(slots=True)
class Recorded:
    """A file of samples, read as it is gone through. `flaws` are the rows that could not be read: the first 20."""

    path: Path
    unreadable: int = 0
    flaws: list[str] = field(default_factory=list)

    def samples(self) -> Iterator[Sample]:
        """Its samples in the order of the file. Raises Failure when it cannot be read at all."""
        name = self.path.name.lower()
        try:
            with self._opened() as file:
                if name.removesuffix(".gz").endswith((".jsonl", ".json", ".ndjson")):
                    yield from self._lines(file)
                else:
                    yield from self._table(file)
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise Failure(f"{self.path}: cannot be read: {error}") from None

    def _opened(self) -> TextIO:
        if self.path.name.lower().endswith(".gz"):
            return io.TextIOWrapper(gzip.open(self.path), encoding="utf-8-sig", newline="")
        return self.path.open(encoding="utf-8-sig", newline="")

    def _flaw(self, line: int, why: str) -> None:
        self.unreadable += 1
        if len(self.flaws) < _MOST_TOLD:
            self.flaws.append(f"{self.path}:{line}: {why}")

    def _lines(self, file: TextIO) -> Iterator[Sample]:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield _sample(orjson.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                self._flaw(number, f"is no sample: {error}")

    def _table(self, file: TextIO) -> Iterator[Sample]:
        rows = csv.DictReader(file, dialect=_dialect(file))
        names = [name.strip() for name in rows.fieldnames or ()]
        rows.fieldnames = names
        if not names:
            raise Failure(f"{self.path}: is empty: the first line names the columns, such as tag,time,value")
        by_row = set(names) >= _ROWS
        for row in rows:
            try:
                if by_row:
                    yield _sample({**row, "value": _value(row.get("value"))})
                    continue
                time = _time(row[names[0]])
                for name in names[1:]:
                    if row[name] not in (None, ""):
                        yield Sample(name, time, _value(row[name]))
            except (ValueError, KeyError, TypeError) as error:
                self._flaw(rows.line_num, f"is no sample: {error}")


def _dialect(file: TextIO) -> type[csv.Dialect]:
    head = file.readline()
    file.seek(0)
    separator = max(",;\t", key=head.count)

    class Found(csv.excel):
        delimiter = separator

    return Found


def _sample(row: Mapping[str, Any]) -> Sample:
    time = int(row["time_ns"]) if row.get("time_ns") not in (None, "") else _time(row["time"])
    value = row["value"]
    word = str(row.get("quality") or ("GOOD" if value is not None else "BAD")).upper()
    if word not in _QUALITIES:
        raise ValueError(f"quality {word!r} is none of {', '.join(_QUALITIES)}")
    status = row.get("status") or 0
    return Sample(
        str(row["tag"]),
        time,
        value,
        _QUALITIES[word],
        int(status) if str(status).isdigit() else str(status),
        asset=str(row.get("asset") or ""),
        unit=str(row.get("unit") or ""),
        batch=str(row.get("batch") or ""),
    )


def _value(text: str | None) -> float | bool | str | None:
    """A cell: a number, true or false, none, or text."""
    if text is None or text == "":
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    return number if abs(number) != float("inf") and number == number else text


def _time(text: str) -> int:
    """ns since 1970 UTC of a time in ISO 8601, to the ns. Raises ValueError."""
    text = text.strip().replace(" ", "T", 1)
    zone = "+00:00"
    body = text
    if text.endswith(("Z", "z")):
        body = text[:-1]
    elif "+" in text[10:] or "-" in text[10:]:
        cut = max(text.rfind("+"), text.rfind("-"))
        body, zone = text[:cut], text[cut:]
    whole, _, fraction = body.partition(".")
    moment = datetime.fromisoformat(whole + zone).astimezone(timezone.utc)
    if fraction and not fraction.isdigit():
        raise ValueError(f"{text!r} is no time: write it like 2026-01-01T00:00:00.250Z")
    seconds = round((moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds())
    return seconds * 1_000_000_000 + int((fraction[:9] or "0").ljust(9, "0"))
