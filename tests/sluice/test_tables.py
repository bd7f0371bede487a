"""CSV as spreadsheets of any country write it: every row with its line, every mistake with its place and remedy."""

from __future__ import annotations

import csv
import io
import time
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.tables import MOST_FLAWS, Flaw, Table, TableError, read

COLUMNS = ("tag", "node", "unit", "samplingInterval")
REQUIRED = (("tag",), ("node",))


def table(text: str | bytes) -> Table:
    return read(text.encode() if isinstance(text, str) else text, COLUMNS, REQUIRED)


def rows(text: str | bytes) -> dict[int, dict[str, str]]:
    found = table(text)
    assert not found.flaws
    return {row.line: dict(row.cells) for row in found.rows}


# --- what is read ---

EXPECTED = {2: {"tag": "Kessel/Öl", "node": "nsu=urn:x;s=Öl", "unit": "°C"}, 4: {"tag": "B", "node": "i=7"}}
WRITTEN = "tag,node,unit\nKessel/Öl,nsu=urn:x;s=Öl,°C\n,,\n B , i=7,\n"


def quoted(separator: str) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator).writerows(line.split(",") for line in WRITTEN.splitlines())
    return out.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_every_separator_and_encoding_that_a_spreadsheet_writes_is_read(separator: str, encoding: str) -> None:
    assert rows(quoted(separator).encode(encoding)) == EXPECTED


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_in_any_way(end: str) -> None:
    assert rows(WRITTEN.replace("\n", end)) == EXPECTED
    assert rows(WRITTEN.rstrip("\n").replace("\n", end)) == EXPECTED


@pytest.mark.parametrize(
    "header", ["TAG,Sampling Interval,NODE", " tag , sampling_interval,node", "Tag,sampling-interval,Node"]
)
def test_case_blanks_and_hyphens_of_a_header_do_not_matter(header: str) -> None:
    assert rows(f"{header}\nT,2s,i=1\n") == {2: {"tag": "T", "samplingInterval": "2s", "node": "i=1"}}


def test_blank_lines_are_not_rows_and_a_line_that_names_the_separator_is_not_the_header() -> None:
    assert rows("sep=;\n\n;;\ntag;node;;\n\nT;i=1;;\n;;;\n") == {6: {"tag": "T", "node": "i=1"}}


def test_columns_for_people_may_hold_anything() -> None:
    found = table('tag,remarks,node\nT,"first line\nsecond ""line"", with commas",i=1\nU,Rohr 5" neu,i=2\n')
    assert [(row.line, dict(row.cells)) for row in found.rows] == [
        (2, {"tag": "T", "node": "i=1"}),
        (4, {"tag": "U", "node": "i=2"}),
    ]
    assert not found.flaws
    assert not found.warnings


def test_cells_at_the_end_may_be_left_out() -> None:
    assert rows("tag,node,unit\nT,i=1\n") == {2: {"tag": "T", "node": "i=1"}}


def test_a_column_that_looks_like_a_missing_one_is_a_warning() -> None:
    found = table("tag,node,Units,group\nT,i=1,bar,fast\n")
    assert found.warnings == [Flaw(1, "Units", None, "is no known column and is ignored", "did you mean unit?")]
    assert [dict(row.cells) for row in found.rows] == [{"tag": "T", "node": "i=1"}]


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
LINES = st.lists(st.tuples(CELL, CELL, CELL, CELL), max_size=8)


@given(LINES, st.sampled_from(",;\t"), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), st.booleans())
def test_what_the_csv_module_writes_comes_back(
    lines: list[tuple[str, ...]], separator: str, encoding: str, everything_quoted: bool
) -> None:
    """Excel's dialect: CRLF, quotes where need be, doubled quotes in quotes."""
    out = io.StringIO(newline="")
    quoting: Literal[0, 1] = csv.QUOTE_ALL if everything_quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(out, "excel", delimiter=separator, quoting=quoting)
    writer.writerows([COLUMNS, *lines])
    found = table(out.getvalue().encode(encoding))
    assert not found.flaws
    expected = [
        {column: cell.strip() for column, cell in zip(COLUMNS, line, strict=True) if cell.strip()} for line in lines
    ]
    assert [dict(row.cells) for row in found.rows] == [cells for cells in expected if cells]


@given(st.binary(max_size=300), st.booleans())
def test_nothing_that_a_file_can_hold_does_more_than_be_refused(data: bytes, with_header: bool) -> None:
    try:
        found = table(b"tag;node\n" + data if with_header else data)
    except TableError:
        return
    assert len(found.flaws) + len(found.rows) <= data.count(b"\n") + data.count(b"\r") + 2


# --- what is refused ---


@pytest.mark.parametrize(
    ("data", "problem", "remedy"),
    [
        (b"", "is empty", "write a header line"),
        (b"\n , \n", "is empty", "write a header line"),
        (b"PK\x03\x04...", "is a spreadsheet, not CSV", "CSV UTF-8"),
        (b"a\0b", "NUL bytes", "CSV UTF-8"),
        (b"\xff\xfet\0a", "is damaged", "CSV UTF-8"),
        (b"a,b\n1,2\n", "has no column tag in its header", "begin the file with a line such as tag,node"),
        (b"tag;nod\n1;2\n", "has no column node in its header", "nod: did you mean node?"),
        (b"tag,Tag,node\n", "names the column tag twice", "rename one"),
    ],
)
def test_a_file_that_is_no_table_is_refused_as_a_whole(data: bytes, problem: str, remedy: str) -> None:
    with pytest.raises(TableError) as refused:
        table(data)
    assert problem in refused.value.problem
    assert remedy in refused.value.remedy


@pytest.mark.parametrize(
    ("line", "flaw"),
    [
        (
            "T,i=1,bar,0,5s",
            Flaw(2, "", "0,5s", "has 5 cells, its header 4: has a decimal comma", "write 0.5s"),
        ),
        (
            "T,ns=1,s=a,b,c,d",
            Flaw(
                2,
                "",
                "T,ns=1,s=a,b,c,d",
                "has 6 cells, its header 4",
                'put cells that have commas in quotes, such as "a,b"',
            ),
        ),
        (
            'T,"i=1"x,bar',
            Flaw(2, "", None, "has a quote in the middle of a cell", 'put the cell in quotes, and write "" for "'),
        ),
        (
            'T,"i=1,bar',
            Flaw(2, "", None, "opens a quote that is not closed", 'close it, and write "" for a quote in a cell'),
        ),
        ("T\0,i=1", Flaw(2, "", "T,i=1", "has a NUL byte", 'save it as "CSV UTF-8"')),
    ],
)
def test_a_wrong_row_costs_itself_and_is_told_with_its_line(line: str, flaw: Flaw) -> None:
    padding = ",,,\n" * 300  # a NUL at the beginning of a file tells that it is no text at all
    found = table(
        f"tag,node,unit,samplingInterval\n{line}\nGood,i=2,,\n{padding}"
        if "\0" not in line
        else f"tag,node,unit,samplingInterval\n{padding}{line}\nGood,i=2,,\n"
    )
    [told] = found.flaws
    assert (told.column, told.value, told.problem, told.remedy) == (flaw.column, flaw.value, flaw.problem, flaw.remedy)
    assert told.line == (2 if "\0" not in line else 302)
    assert [dict(row.cells) for row in found.rows] == [{"tag": "Good", "node": "i=2"}]


def test_a_node_id_that_is_not_quoted_among_semicolons_is_told() -> None:
    [flaw] = table("tag;node\nT;nsu=urn:x;s=Temp\n").flaws
    assert flaw.problem == "has 3 cells, its header 2"
    assert '"nsu=urn:x;s=Temp"' in flaw.remedy


def test_letters_of_an_old_encoding_cost_their_lines_and_name_the_remedy() -> None:
    found = table("tag,node,Größe\nKessel/Öl,i=1,\nB,i=2,\n".encode("cp1252"))
    assert found.flaws == [Flaw(2, "", "Kessel/Öl,i=1,", "is not UTF-8", 'save it as "CSV UTF-8"')]
    assert [dict(row.cells) for row in found.rows] == [{"tag": "B", "node": "i=2"}]


def test_a_quote_that_is_never_closed_does_not_swallow_the_file() -> None:
    good = "".join(f"T{n},i={n}\n" for n in range(1000))
    found = table(f'tag,node\nBad,"i=1\n{good}')
    assert [(flaw.line, flaw.problem) for flaw in found.flaws] == [(2, "opens a quote that is not closed")]
    assert len(found.rows) == 1000
    assert (found.rows[0].line, found.rows[-1].line) == (3, 1002)


def test_all_mistakes_come_at_once_and_not_without_end() -> None:
    found = table("tag,node\n" + "T,i=1,x\n" * 5000)
    assert len(found.flaws) == MOST_FLAWS + 1
    assert "more than 1000 problems" in found.flaws[-1].problem


def test_a_hundred_thousand_rows_take_no_longer_than_a_breath() -> None:
    data = ("tag;node;unit\n" + "".join(f'Area/T{n};"nsu=urn:x;s=T{n}";degC\n' for n in range(100_000))).encode()
    began = time.process_time()
    assert len(table(data).rows) == 100_000
    assert time.process_time() - began < 3.0  # measured: 0.3 s
