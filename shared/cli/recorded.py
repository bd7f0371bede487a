"""Recorded data for dry runs: files of samples, in the forms in which people have them.

    .jsonl, .json, .jsonl.gz    one sample a line, as the gateway's Kinesis and S3 sinks write them
    .csv of rows                columns tag, time, value, and maybe quality, status, unit, asset
    .csv of columns             the first column is the time, every other one a tag

Times are ISO 8601 (UTC where no zone is said), or a column time_ns of ns since 1970. An empty value is none at all.
Where semicolons or tabs stand between cells, numbers may have a decimal comma. What cannot be read costs its row, and
is told.
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
_BEYOND: Final = 2**63
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
        except UnicodeDecodeError:
            raise Failure(f"{self.path}: is not written in UTF-8: save it as CSV UTF-8") from None
        except (OSError, EOFError, csv.Error) as error:
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
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                self._flaw(number, f"is no sample: {_why(error)}")

    def _table(self, file: TextIO) -> Iterator[Sample]:
        dialect = _dialect(file)
        comma = dialect.delimiter != ","
        rows = csv.DictReader(file, dialect=dialect)
        names = [name.strip() for name in rows.fieldnames or ()]
        if not names:
            raise Failure(f"{self.path}: is empty: the first line names the columns, such as tag,time,value")
        by_row = {name.casefold() for name in names} >= _ROWS
        if by_row:
            names = [name.casefold() for name in names]
            if not {"time", "time_ns"} & set(names):
                raise Failure(f"{self.path}: has no column time, but {', '.join(names)}: name it so in the first line")
        rows.fieldnames = names
        for row in rows:
            try:
                if by_row:
                    yield _sample({**row, "value": _value(row.get("value"), comma)})
                    continue
                time = _time(row[names[0]])
                for name in names[1:]:
                    if row[name] not in (None, ""):
                        yield Sample(name, time, _value(row[name], comma))
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                self._flaw(rows.line_num, f"is no sample: {_why(error)}")


def _dialect(file: TextIO) -> type[csv.Dialect]:
    head = file.readline()
    file.seek(0)
    separator = max(",;\t", key=head.count)

    class Found(csv.excel):
        delimiter = separator

    return Found


def _sample(row: Mapping[str, Any]) -> Sample:
    if not isinstance(row, Mapping):
        raise ValueError("it is no object")
    time = int(row["time_ns"]) if row.get("time_ns") not in (None, "") else _time(row["time"])
    value = row["value"]
    if not isinstance(value, (bool, int, float, str, type(None))):
        raise ValueError(f"the value {value!r} is neither a number, true, false nor a text")
    if isinstance(value, int) and not -_BEYOND <= value < _BEYOND:
        value = float(value)
    if not -_BEYOND < time < _BEYOND:
        raise ValueError(f"the time {time} is no ns since 1970")
    word = str(row.get("quality") or ("GOOD" if value is not None else "BAD")).upper()
    if word not in _QUALITIES:
        raise ValueError(f"quality {word!r} is none of {', '.join(_QUALITIES)}")
    if value is None and word == "GOOD":
        raise ValueError("it is GOOD and has no value")
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


def _value(text: str | None, comma: bool = False) -> float | bool | str | None:
    """A cell: a number, true or false, none, or text. comma: numbers may have a decimal comma."""
    if text is None or text == "":
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        number = float(text.replace(",", ".") if comma and text.count(",") == 1 and "." not in text else text)
    except ValueError:
        return text
    return number if abs(number) != float("inf") and number == number else text


def _time(text: str) -> int:
    """ns since 1970 UTC of a time in ISO 8601, to the ns. Raises ValueError."""
    try:
        return _time_of(text.strip().replace(" ", "T", 1))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time: write it like 2026-01-01T00:00:00.250Z") from None


def _time_of(text: str) -> int:
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
        raise ValueError("the fraction of a second is no number")
    seconds = round((moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds())
    if abs(seconds) > 9_000_000_000:
        raise ValueError("is beyond what ns since 1970 can say")
    return seconds * 1_000_000_000 + int((fraction[:9] or "0").ljust(9, "0"))


def _why(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
