"""PI's times: seven digits and no less, whatever way they are written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pi_collector.values.times import NEVER, format7, parse

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2200, 12, 30)).map(lambda moment: moment.replace(microsecond=0))
DIGITS = st.text("0123456789", max_size=7)


def read(texts: Sequence[Any]) -> NDArray[np.int64]:
    """The times, which are the same whether there are few or many."""
    few = parse(texts)
    many = parse([*texts, *["2024-05-01T10:00:00Z"] * 100])
    assert few.tolist() == many[: len(texts)].tolist()
    return few


def nanoseconds(moment: datetime, digits: str = "", offset: timedelta = timedelta()) -> int:
    """By Python's own calendar and exact fractions."""
    since = moment.replace(tzinfo=timezone.utc) - offset - EPOCH
    fraction = Fraction(int(digits or "0"), 10 ** len(digits)) * 10**9
    assert fraction.denominator == 1
    return (since.days * 86400 + since.seconds) * 10**9 + int(fraction)


def written(moment: datetime, digits: str) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + (f".{digits}" if digits else "")


@given(st.lists(st.tuples(MOMENTS, DIGITS), max_size=30))
def test_a_time_has_up_to_seven_digits(moments: list[tuple[datetime, str]]) -> None:
    texts = [written(moment, digits) + "Z" for moment, digits in moments]
    assert read(texts).tolist() == [nanoseconds(*moment) for moment in moments]


@given(MOMENTS, DIGITS, st.integers(-14 * 60, 14 * 60), st.booleans())
def test_other_offsets_are_turned_into_utc(moment: datetime, digits: str, minutes: int, colon: bool) -> None:
    sign, size = ("-" if minutes < 0 else "+"), abs(minutes)
    text = f"{written(moment, digits)}{sign}{size // 60:02d}{':' if colon else ''}{size % 60:02d}"
    assert read([text]).tolist() == [nanoseconds(moment, digits, timedelta(minutes=minutes))]


@given(st.integers(0, 7_289_654_399 * 10**7))
def test_what_is_written_for_a_request_is_read_back(ticks: int) -> None:
    text = format7(ticks * 100)
    assert len(text) == 28
    assert read([text]).tolist() == [ticks * 100]


def test_what_is_finer_than_a_tick_is_cut_off() -> None:
    assert format7(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.1234567Z"
    assert read(["2023-11-14T22:13:20.123456789Z"]).tolist() == [1_700_000_000_123_456_700]


@pytest.mark.parametrize(
    "odd",
    [
        "9999-12-31T23:59:59Z",  # PI's "not over"
        "1969-12-31T23:59:59.9999999Z",
        "2201-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "2023-13-01T00:00:00Z",
        "2023-00-01T00:00:00Z",
        "2023-01-00T00:00:00Z",
        "2023-04-31T00:00:00Z",
        "2023-01-01T24:00:00Z",
        "2023-01-01T00:60:00Z",
        "2023-01-01T00:00:60Z",
        "2023-01-01T00:00:00.1234567",
        "2023-01-01T00:00:00+99:99",
        "2023-01-01",
        "2023-01-01T00:00:00ZZ",
        "2023-01-01T00:00:0xZ",
        "2023-01-01T00:00:00.12x4567Z",
        "2023-01-01T00:00:00.1234567Y",
        "٢٠٢٣-01-01T00:00:00Z",
        "2023-01-01T00:00:00Z\n",
        "\n",
        "",
        None,
        17,
        {"a": 1},
    ],
)
def test_what_is_no_time_of_a_value_costs_itself_alone(odd: object) -> None:
    before, after = "2023-01-01T00:00:00Z", "2023-01-01T00:00:01.5Z"
    first, found, last = read([before, odd, after]).tolist()
    assert (first, last) == (1_672_531_200_000_000_000, 1_672_531_201_500_000_000)
    if odd == "2023-01-01T00:00:00.1234567":  # no offset: taken for UTC
        assert found == 1_672_531_200_123_456_700
    elif odd == "2023-01-01T00:00:00Z\n":
        assert found == first
    else:
        assert found == NEVER


@given(st.lists(st.one_of(st.text(max_size=32), st.none(), st.integers()), max_size=10))
def test_anything_can_be_given(texts: list[object]) -> None:
    assert len(read(texts)) == len(texts)


def test_each_month_of_each_year_begins_where_it_begins() -> None:
    months = [datetime(year, month, 1) for year in range(1970, 2201) for month in range(1, 13)]
    ends = [month - timedelta(seconds=1) for month in months[1:]]
    for moments in (months, ends):
        assert read([written(moment, "") + "Z" for moment in moments]).tolist() == list(map(nanoseconds, moments))
