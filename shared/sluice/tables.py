"""Tables that engineers keep in a spreadsheet, as CSV of any country: rows with their lines, and all that is wrong.

What a spreadsheet writes depends on its country and on the entry chosen in "Save as": the separator is a comma, a
semicolon or a tab (the header tells, or a first line ``sep=;``), the encoding is UTF-8 with or without a byte order
mark or UTF-16, lines end in any way, cells are quoted where need be and may then hold line breaks. All this is read.
Windows-1252 is not: its letters cannot be told from those of its sisters, so each line that has one is refused.

What is wrong with a row costs that row. Everything wrong is found in one pass, and the number of what is told is
bounded. A quote that is never closed would swallow the rest of the file: a row of more than 100 lines counts as such,
and reading goes on in the line below its first.

Pure: bytes in, rows out.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import itertools
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

LARGEST: Final = 256 * 2**20
"""Bytes of a table."""
MOST_ROWS: Final = 1_000_000
MOST_FLAWS: Final = 1_000
_SEPARATORS: Final = (",", ";", "\t")
_NAMES: Final = {",": "commas", ";": "semicolons", "\t": "tabs"}
_MOST_LINES: Final = 100
_LONGEST_SHOWN: Final = 60
_ALIKE: Final = 0.75
_LINE: Final = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z")
_SEPARATOR_LINE: Final = re.compile(r'"?sep=([,;\t])"?', re.IGNORECASE)
_FILLER: Final = re.compile(r"[\s_-]+")
_AS_UTF8: Final = 'save it as "CSV UTF-8"'


class TableError(ValueError):
    """The file as a whole is no table. `problem` and `remedy` are for people; `line` is 0 where none is to blame."""

    def __init__(self, problem: str, remedy: str, line: int = 0, value: str | None = None) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem, self.remedy, self.line, self.value = problem, remedy, line, value


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something wrong at a line, and in a column where `column` is not empty."""

    line: int
    column: str
    value: str | None
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Row:
    """Cells by column, without blanks around them and without empty ones. `line` is where the row begins, from 1."""

    line: int
    cells: Mapping[str, str]


@dataclass(slots=True)
class Table:
    """The rows that can be read, the known columns that the header has, and what is wrong with the rest."""

    columns: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)
    warnings: list[Flaw] = field(default_factory=list)

    def flaw(self, flaw: Flaw) -> None:
        """Add one; behind the 1,000th there is only a last one that says so."""
        if len(self.flaws) < MOST_FLAWS:
            self.flaws.append(flaw)
        elif len(self.flaws) == MOST_FLAWS:
            self.flaws.append(
                Flaw(
                    flaw.line,
                    "",
                    None,
                    f"and lines below have more than {MOST_FLAWS} problems",
                    "mend the others first",
                )
            )


def read(data: bytes, columns: Sequence[str], required: Sequence[Sequence[str]]) -> Table:
    """The table in `data`.

    columns: the names known, as people write them; upper and lower case, blanks, hyphens and underscores do not matter
    in the file. Other columns are ignored, with a warning where one looks like a known one that is missing.
    required: groups of columns; the header must have one of each group.

    Raises TableError when it is no such table.
    """
    lines = _Lines(_plain(data))
    separator, header_line, header = _header(lines)
    places, warnings = _columns(header, columns, required, header_line, separator)
    table = Table(tuple(column for column in columns if column in places), warnings=warnings)
    _rows(table, lines, separator, places, len(header))
    return table


def header(data: bytes) -> list[str]:
    """The names of all columns as they stand there, without those that are empty. Raises TableError."""
    return [name for cell in _header(_Lines(_plain(data)))[2] if (name := cell.strip())]


# --- bytes to lines ---


def _plain(data: bytes) -> bytes:
    """As UTF-8 without a byte order mark, as far as it can be told from the beginning."""
    if len(data) > LARGEST:
        raise TableError(f"is larger than {LARGEST} bytes", "split it into several files")
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise TableError("is a spreadsheet, not CSV", _AS_UTF8)
    if data.startswith(codecs.BOM_UTF8):
        return data[len(codecs.BOM_UTF8) :]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return data.decode("utf-16").encode()
        except UnicodeError:
            raise TableError("is damaged: it begins as UTF-16 and goes on otherwise", _AS_UTF8) from None
    if b"\0" in data[:1000]:
        raise TableError("is not text: it has NUL bytes", _AS_UTF8)
    return data


class _BadLineError(ValueError):
    def __init__(self, line: int, value: str, problem: str) -> None:
        super().__init__(problem)
        self.line, self.value, self.problem = line, value, problem


class _Lines(Iterator[str]):
    """The lines of a file with their ends, for `csv.reader`, which can be taken back for one row."""

    def __init__(self, data: bytes) -> None:
        self.number = 0
        """The line given last, from 1."""
        self._found = (match.group() for match in _LINE.finditer(data))
        self._again: deque[bytes] = deque()
        self._row: list[bytes] = []

    def begin(self) -> int:
        """A row begins with the next line, whose number is returned."""
        self._row.clear()
        return self.number + 1

    def back(self) -> None:
        """Go back to the line behind the first of the row."""
        self._again.extendleft(reversed(self._row[1:]))
        self.number -= len(self._row) - 1
        self._row.clear()

    def __next__(self) -> str:
        if len(self._row) >= _MOST_LINES:
            raise csv.Error("too many lines")
        line = self._again.popleft() if self._again else next(self._found)
        self.number += 1
        self._row.append(line)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            shown = line.decode("cp1252", "replace").strip()
            raise _BadLineError(self.number, shown, "is not UTF-8") from None
        if "\0" in text:
            raise _BadLineError(self.number, text.replace("\0", "").strip(), "has a NUL byte")
        return text


# --- the header ---


def _header(lines: _Lines) -> tuple[str, int, list[str]]:
    """Separator, line and cells of the first line that is not blank."""
    told = ""
    while True:
        line = lines.begin()
        try:
            text = next(lines, None)
        except _BadLineError as bad:
            text = bad.value  # letters of other columns than ours; if not, no column of ours is found
        if text is None:
            raise TableError("is empty", "write a header line and a line for each entry")
        if found := _SEPARATOR_LINE.fullmatch(text.strip("\r\n ")):
            told = found[1]
        elif text.strip(",;\t \r\n"):
            break
    separator = told or max(_SEPARATORS, key=text.count)
    try:
        cells = next(csv.reader([text], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        cells = text.split(separator)
    return separator, line, cells


def _columns(
    header: Sequence[str], columns: Sequence[str], required: Sequence[Sequence[str]], line: int, separator: str
) -> tuple[dict[str, int], list[Flaw]]:
    """Where the known columns are, and what looks like a mistyped one."""
    known = {_bare(column): column for column in columns}
    places: dict[str, int] = {}
    others: list[str] = []
    for place, cell in enumerate(header):
        column = known.get(_bare(cell))
        if column is None:
            others.append(cell.strip())
        elif column in places:
            raise TableError(f"names the column {column} twice", "rename one of the two", line, cell.strip())
        else:
            places[column] = place
    missing = {bare: column for bare, column in known.items() if column not in places}
    warnings = []
    for other in filter(None, others):
        near = difflib.get_close_matches(_bare(other), missing, 1, _ALIKE)
        if near:
            remedy = f"did you mean {missing[near[0]]}?"
            warnings.append(Flaw(line, other[:_LONGEST_SHOWN], None, "is no known column and is ignored", remedy))
    for group in required:
        if not set(group) & set(places):
            hint = "".join(f"; {flaw.column}: {flaw.remedy}" for flaw in warnings)
            remedy = f"begin the file with a line such as {separator.join(columns)}{hint}"
            shown = separator.join(header).strip()[:120]
            raise TableError(f"has no column {' or '.join(group)} in its header", remedy, line, shown)
    return places, warnings


def _bare(name: str) -> str:
    return _FILLER.sub("", name).casefold()


# --- the rows ---


def _rows(table: Table, lines: _Lines, separator: str, places: Mapping[str, int], width: int) -> None:
    columns = tuple(places.items())
    reader = _reader(lines, separator)
    for count in itertools.count():
        line = lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (_BadLineError, csv.Error) as error:
            table.flaw(_unreadable(line, error, lines))
            reader = _reader(lines, separator)
            continue
        if count >= MOST_ROWS:
            table.flaw(Flaw(line, "", None, f"is behind the {MOST_ROWS}th row", "split the file"))
            return
        if len(cells) > width and any(map(str.strip, cells[width:])):
            table.flaw(_too_wide(line, cells, width, separator))
            continue
        last = len(cells)
        found = {column: text for column, place in columns if place < last and (text := cells[place].strip())}
        if found:
            table.rows.append(Row(line, found))
        elif any(map(str.strip, cells)):
            table.rows.append(Row(line, {}))  # only cells for people: it is for the caller to say what is missing


def _reader(lines: _Lines, separator: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)


def _unreadable(line: int, error: Exception, lines: _Lines) -> Flaw:
    """What is wrong with the row that begins at `line`; reading goes on behind that line, or behind the bad one."""
    if isinstance(error, _BadLineError):
        return Flaw(error.line, "", error.value[:_LONGEST_SHOWN], error.problem, _AS_UTF8)
    several = lines.number > line or "end of data" in str(error) or "field larger" in str(error)
    lines.back()
    if several:
        return Flaw(line, "", None, "opens a quote that is not closed", 'close it, and write "" for a quote in a cell')
    return Flaw(line, "", None, "has a quote in the middle of a cell", 'put the cell in quotes, and write "" for "')


def _too_wide(line: int, cells: Sequence[str], width: int, separator: str) -> Flaw:
    problem = f"has {len(cells)} cells, its header {width}"
    for left, right in itertools.pairwise(cells) if separator == "," else ():
        if re.fullmatch(r"\s*\d+", left) and re.fullmatch(r"\d+\s*[A-Za-z]{0,3}\s*", right):
            number, rest = left.strip(), right.strip()
            return Flaw(line, "", f"{number},{rest}", f"{problem}: has a decimal comma", f"write {number}.{rest}")
    remedy = f"put cells that have {_NAMES[separator]} in quotes, such as " + (
        '"nsu=urn:x;s=Temp"' if separator == ";" else f'"a{separator}b"'
    )
    return Flaw(line, "", separator.join(cells)[:_LONGEST_SHOWN], problem, remedy)
