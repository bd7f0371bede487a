"""Durations and sizes as people and nuclei write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.units import UnitError, comma, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5),
        ("5s", 5.0),
        ("2m", 120.0),
        ("2min", 120.0),
        ("1.5h", 5400.0),
        ("7d", 604800.0),
        (" 5 s ", 5.0),
        (5, 5.0),
        (0.25, 0.25),
        ("5", 5.0),
        ("5.0", 5.0),
        ("250us", 0.00025),
    ],
)
def test_a_duration_is_a_number_with_a_unit_or_bare_seconds(written: Any, seconds: float) -> None:
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("7000", 7000),
        (7000, 7000),
        (7000.0, 7000),
        ("7000.0", 7000),
        ("64MB", 64_000_000),
        ("64mb", 64_000_000),
        ("16KiB", 16384),
        ("1.5GB", 1_500_000_000),
        ("12 B", 12),
    ],
)
def test_a_size_is_a_number_with_a_unit_or_bare_bytes(written: Any, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "written", ["", "fast", "-5s", "5 x", "1e999", True, None, [], {}, "5s5s", float("nan"), 10**400]
)
def test_what_is_no_duration_is_refused_with_a_reason(written: Any) -> None:
    with pytest.raises(UnitError, match=r"is not a duration|unknown unit"):
        parse_duration(written)


@pytest.mark.parametrize("written", ["", "big", "-1", "5TBB", "0.5", "0.5B", True, None, float("inf")])
def test_what_is_no_size_is_refused_with_a_reason(written: Any) -> None:
    with pytest.raises(UnitError, match=r"is not a size|unknown unit|whole number"):
        parse_size(written)


@given(st.integers(min_value=1, max_value=10**9))
def test_a_formatted_size_reads_back_as_itself(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(min_value=1, max_value=10**7).map(lambda ms: ms / 1000))
def test_a_formatted_duration_reads_back_as_itself(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize(
    ("written", "problem", "remedy"),
    [
        ("0,5s", "has a decimal comma", "write 0.5s"),
        (" 2,25 h ", "has a decimal comma", "write 2.25 h"),
        ("0,500", "has a decimal comma", "write 0.500"),
        ("1,500ms", "has a comma", "write 1500ms, or 1.500ms if it is a decimal comma"),
        ("1,000,000", "has commas between its digits", "write 1000000"),
        ("1,000.5s", "has commas between its digits", "write 1000.5s"),
    ],
)
def test_a_comma_in_a_number_is_told_in_words(written: str, problem: str, remedy: str) -> None:
    for parse in (parse_duration, parse_size):
        with pytest.raises(UnitError) as refused:
            parse(written)
        assert (str(refused.value), refused.value.remedy) == (problem, remedy)


@given(st.integers(0, 10**6), st.integers(0, 99), st.sampled_from(["", "s", "ms", " MB"]))
def test_the_remedy_of_a_decimal_comma_is_the_number_that_was_meant(whole: int, hundredths: int, unit: str) -> None:
    told = comma(f"{whole},{hundredths:02}{unit}")
    assert told == ("has a decimal comma", f"write {whole}.{hundredths:02}{unit}")


@pytest.mark.parametrize("written", ["a,b", "1.5", ",5", "5,", "1,5,2", 1.5, None, "1," * 1000])
def test_what_is_no_number_with_a_comma_is_left_to_others(written: Any) -> None:
    assert comma(written) is None
