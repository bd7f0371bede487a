"""The plant's own log."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plant.log import EndMark, LogError, LoggedRow, PlantLog, Value, read_log

values = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**31), 2**31 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
)


@given(rows=st.lists(st.tuples(st.integers(0, 2**62), values)))
def test_what_was_written_is_read_again_with_types_and_bits_kept(
    rows: list[tuple[int, dict[str, Value]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "plant.log"
    log = PlantLog(path)
    expected: list[LoggedRow | EndMark] = []
    for number, (time_ns, row) in enumerate(rows, 1):
        statuses = dict.fromkeys(list(row)[:1], 0x808D0000)
        assert log.write(time_ns, row, statuses) == number
        expected.append(LoggedRow(number, time_ns, row, statuses))
    log.end()
    expected.append(EndMark(len(rows), sum(len(row) for _, row in rows)))
    read = list(read_log(path))
    assert read == expected
    assert repr(read) == repr(expected)  # 1.0 and 1 and True are equal, and not the same


def test_a_row_can_be_read_as_soon_as_write_returns(tmp_path: Path) -> None:
    log = PlantLog(tmp_path / "plant.log")
    log.write(1000, {"A": 1.5}, {})
    assert list(read_log(tmp_path / "plant.log")) == [LoggedRow(1, 1000, {"A": 1.5}, {})]
    log.close()


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    log = PlantLog(tmp_path / "plant.log")
    for number in range(1, 4):
        log.write(number * 1000, {"A": float(number)}, {})
    log.close()
    whole = (tmp_path / "plant.log").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "plant.log").write_bytes(whole[:length])
        assert len(list(read_log(tmp_path / "plant.log"))) == whole[:length].count(b"\n")


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"row":1}', b"17", b"\xff"])
def test_a_damaged_line_is_named_with_its_file_and_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "plant.log"
    path.write_bytes(b'{"row":1,"t":1000,"values":{}}\n' + line + b"\n")
    with pytest.raises(LogError, match=r"plant\.log:2: not a line"):
        list(read_log(path))
