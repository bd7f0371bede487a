"""The server's time, as far as its answers prove it."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_collector.values.times import format7
from pi_collector.web.clock import Clock, Instant, Look, from_date, from_server_time
from pi_collector.web.errors import MalformedError, UnreachableError

NOW = 1_772_359_200  # 2026-03-01T10:00:00Z
S = 1_000_000_000


def clock(*looks: Look | Exception) -> Clock:
    waiting: Iterator[Look | Exception] = iter(looks)

    async def ask() -> Look:
        look = next(waiting)
        if isinstance(look, Exception):
            raise look
        return look

    return Clock(ask)


def hear(one: Clock, date_s: float, ours_s: float = NOW) -> None:
    one.date(formatdate(int(date_s), usegmt=True), ours_s, ours_s)


def archive(one: Clock, ns: int | None, ours_s: float = NOW) -> None:
    one.server_time(None if ns is None else Instant(ns, 100), ours_s, ours_s)


@pytest.mark.parametrize("header", [None, "", "yesterday", "Sun, 99 Mar 2026 10:00:00 GMT", "x" * 10_000, "0"])
def test_a_date_that_is_none_says_nothing(header: str | None) -> None:
    one = clock()
    one.date(header, NOW, NOW)
    assert one.lower == 0


@given(st.text(max_size=60))
def test_no_header_breaks_it(header: str) -> None:
    from_date(header)
    from_server_time(header)


def test_a_date_is_the_second_that_begins_there() -> None:
    assert from_date("Sun, 01 Mar 2026 10:00:00 GMT") == Instant(NOW * S, S)


def test_a_server_time_is_exact_to_its_digits() -> None:
    assert from_server_time("2026-03-01T10:00:00.1234567Z") == Instant(NOW * S + 123_456_700, 100)
    assert from_server_time("2026-03-01T10:00:00Z") == Instant(NOW * S, S)


@pytest.mark.parametrize(
    "text", [None, 5, "", "now", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
)
def test_a_server_time_that_is_none_says_nothing(text: object) -> None:
    assert from_server_time(text) is None


def test_lower_is_the_smaller_of_both() -> None:
    one = clock()
    hear(one, NOW)
    assert one.lower == NOW * S
    archive(one, NOW * S - 5 * S)
    assert one.lower == NOW * S - 5 * S
    archive(one, NOW * S + 5 * S)
    assert one.lower == NOW * S


def test_lower_follows_a_clock_that_jumps_back() -> None:
    one = clock()
    hear(one, NOW)
    hear(one, NOW - 3600)
    assert one.lower == (NOW - 3600) * S


def test_a_date_that_jumps_forward_moves_nothing_while_the_archive_tells_its_time() -> None:
    one = clock()
    archive(one, NOW * S)
    hear(one, NOW + 7200)
    assert one.lower == NOW * S


def test_an_archive_that_tells_no_time_any_more_leaves_the_date() -> None:
    one = clock()
    hear(one, NOW)
    archive(one, NOW * S - 60 * S)
    archive(one, None)
    assert one.lower == NOW * S


async def test_after_is_the_larger_of_both_and_never_too_early() -> None:
    date, exact = Instant(NOW * S, S), Instant(NOW * S + 400_000_000, 100)
    assert await clock(Look(date, exact)).after() == NOW * S + S
    assert await clock(Look(None, exact)).after() == NOW * S + 400_000_100
    assert await clock(Look(date, Instant(NOW * S + 9 * S, 100))).after() == NOW * S + 9 * S + 100


async def test_after_says_why_there_is_none() -> None:
    with pytest.raises(MalformedError, match="tells no time"):
        await clock(Look(None, None)).after()
    with pytest.raises(UnreachableError):
        await clock(UnreachableError("refuses the connection")).after()


@given(
    truth=st.integers(NOW * S, (NOW + 10_000) * S),
    late=st.integers(0, 3 * S),
    date_off=st.integers(-3600, 3600),
    date_right=st.booleans(),
    exact_right=st.booleans(),
)
async def test_both_bounds_hold_whenever_one_of_the_two_clocks_is_right(
    truth: int, late: int, date_off: int, date_right: bool, exact_right: bool
) -> None:
    """The truth is the archive's clock when the server answered; the call was `late` ns before."""
    if not (date_right or exact_right):
        return
    shown = truth + (0 if date_right else date_off * S)
    date = from_date(formatdate(shown // S, usegmt=True))
    exact = from_server_time(format7((truth if exact_right else truth + date_off * S) // 100 * 100))
    one = clock(Look(date, exact))
    assert date is not None
    hear(one, date.ns / S)
    one.server_time(exact, 0.0, 0.0)
    assert one.lower <= truth
    assert await one.after() >= truth - late


@pytest.mark.parametrize(("ahead", "told"), [(0.0, 0.0), (0.9, 0.0), (25.0, 24.0), (-25.0, -24.0)])
def test_the_skew_is_what_rounding_and_the_way_cannot_explain(ahead: float, told: float) -> None:
    one = clock()
    hear(one, NOW + ahead, NOW + 0.0 if ahead >= 0 else NOW)
    assert one.ahead_s is not None
    assert abs(one.ahead_s - told) <= 1.0
    assert not told or one.ahead_s * told > 0


def test_a_slow_answer_is_no_skew() -> None:
    one = clock()
    one.server_time(Instant((NOW + 30) * S, 100), NOW, NOW + 60)
    assert one.ahead_s == 0.0
    assert one.trouble() is None


def test_a_skew_is_told_above_ten_seconds_until_it_is_below_eight_and_not_anew_each_second() -> None:
    one = clock()
    archive(one, (NOW + 9) * S)
    assert one.trouble() is None
    archive(one, (NOW + 100) * S)
    first = one.trouble()
    assert first is not None
    assert "100 s ahead" in first[0]
    archive(one, (NOW + 101) * S)
    assert one.trouble() == first
    archive(one, (NOW - 500) * S)
    second = one.trouble()
    assert second is not None
    assert "500 s behind" in second[0]
    archive(one, (NOW + 7) * S)
    assert one.trouble() is None
    archive(one, (NOW + 9) * S)
    assert one.trouble() is None


@pytest.mark.parametrize(
    ("ahead", "words"),
    [(45, "45 s ahead of"), (-599, "599 s behind"), (1500, "25 min ahead of"), (-10_800, "3.0 h behind")],
)
def test_a_skew_is_told_in_the_unit_that_shows_what_it_is(ahead: int, words: str) -> None:
    one = clock()
    archive(one, (NOW + ahead) * S)
    told = one.trouble()
    assert told is not None
    assert words in told[0]


def test_a_skew_of_weeks_is_told_in_days() -> None:
    one = clock()
    archive(one, (NOW - 20 * 86_400) * S)
    told = one.trouble()
    assert told is not None
    assert "20 days behind" in told[0]


def test_a_server_without_any_time_is_told() -> None:
    one = clock()
    assert one.trouble() is None
    one.date(None, NOW, NOW)
    told = one.trouble()
    assert told is not None
    assert "tells no time" in told[0]
    archive(one, NOW * S)
    assert one.trouble() is None
