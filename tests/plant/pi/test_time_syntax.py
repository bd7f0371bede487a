"""PI's time syntax: what it accepts, and what each text means. The present is a Wednesday in Berlin."""

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plant.pi.time_syntax import TimeSyntaxError, parse, parse_pair, parse_span, zone_of

_BERLIN = ZoneInfo("Europe/Berlin")
_NOW = "2026-03-18 15:30:20.5"
_S = 1_000_000_000


def _ns(text: str, zone: ZoneInfo | timezone = _BERLIN) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 10) * _S // 10


_NOW_NS = _ns("2026-03-18 15:30:20.500")


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("*", "2026-03-18 15:30:20.500"),
        ("", "2026-03-18 15:30:20.500"),
        (None, "2026-03-18 15:30:20.500"),
        ("t", "2026-03-18 00:00"),
        ("Today", "2026-03-18 00:00"),
        ("y", "2026-03-17 00:00"),
        ("YESTERDAY", "2026-03-17 00:00"),
        ("wed", "2026-03-18 00:00"),
        ("Thursday", "2026-03-12 00:00"),
        ("tue", "2026-03-17 00:00"),
        ("jan", "2026-01-18 00:00"),
        ("September", "2026-09-18 00:00"),
        ("25", "2026-03-25 00:00"),
        ("2024", "2024-03-18 00:00"),
        ("10/25", "2026-10-25 00:00"),
        ("1-2", "2026-01-02 00:00"),
        ("14:30", "2026-03-18 14:30"),
        ("*-1h", "2026-03-18 14:30:20.500"),
        ("* - 1.5h", "2026-03-18 14:00:20.500"),
        ("*-8h30m", "2026-03-18 07:00:20.500"),
        ("-30s", "2026-03-18 15:29:50.500"),
        ("+1 hour", "2026-03-18 16:30:20.500"),
        ("t+8h", "2026-03-18 08:00"),
        ("y-1mo", "2026-02-17 00:00"),
        ("mon+2d", "2026-03-18 00:00"),
        ("*-1w", "2026-03-11 15:30:20.500"),
        ("*-1y", "2025-03-18 15:30:20.500"),
        ("*+500ms", "2026-03-18 15:30:21"),
        ("2014-07-22", "2014-07-22 00:00"),
        ("2014-07-22 14:00", "2014-07-22 14:00"),
        ("22-jul-14 14:00:00", "2014-07-22 14:00"),
        ("7/22/2014 2:00 PM", "2014-07-22 14:00"),
        ("7/22/2014 12:00 am", "2014-07-22 00:00"),
        ("1-Jan-1999", "1999-01-01 00:00"),
        ("2014-07-22+8h", "2014-07-22 08:00"),
    ],
)
def test_what_each_text_means_on_a_server_in_berlin(text: str | None, local: str) -> None:
    assert parse(text, _NOW_NS, _BERLIN) == _ns(local)


@pytest.mark.parametrize(
    ("text", "utc", "ticks"),
    [
        ("2014-07-22T14:00:00Z", "2014-07-22 14:00", 0),
        ("2014-07-22T14:00:00.1234567Z", "2014-07-22 14:00", 1_234_567),
        ("2014-07-22T14:00:00.5Z", "2014-07-22 14:00", 5_000_000),
        ("2014-07-22T16:00:00+02:00", "2014-07-22 14:00", 0),
        ("2014-07-22T08:30:00.0000001-0530", "2014-07-22 14:00", 1),
        ("2014-07-22T14:00:00.5Z-1h", "2014-07-22 13:00", 5_000_000),
    ],
)
def test_absolute_times_keep_every_tick_of_100_ns(text: str, utc: str, ticks: int) -> None:
    assert parse(text, _NOW_NS, _BERLIN) == _ns(utc, timezone.utc) + ticks * 100


@pytest.mark.parametrize(
    "text",
    ["x", "*-", "*-1", "*-1q", "*--1h", "*-1d+2h", "1.5", "32", "13/40", "t-1.5d", "2014-13-01", "25:00", "now",
     "2014-07-22T", "14:00 pmm", "13:00 pm", "0:00 am", "*-99999999y", "2026-02-30"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(TimeSyntaxError):
        parse(text, _NOW_NS, _BERLIN)


def test_days_go_by_the_calendar_and_hours_by_the_clock_where_the_clocks_change() -> None:
    behind = _ns("2026-03-29 12:00")  # the night before, an hour was left out
    assert parse("*-1d", behind, _BERLIN) == _ns("2026-03-28 12:00")
    assert parse("*-24h", behind, _BERLIN) == _ns("2026-03-28 11:00")
    assert parse("*-1mo", _ns("2026-03-31 10:00"), _BERLIN) == _ns("2026-02-28 10:00")


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("-1h", "2026-03-01", ("2026-02-28 23:00", "2026-03-01 00:00")),
        ("2026-03-01", "+1h", ("2026-03-01 00:00", "2026-03-01 01:00")),
        ("*-1d", "*", ("2026-03-17 15:30:20.500", "2026-03-18 15:30:20.500")),
        ("-1h", "", ("2026-03-18 14:30:20.500", "2026-03-18 15:30:20.500")),
        ("t", "y", ("2026-03-18 00:00", "2026-03-17 00:00")),
    ],
)
def test_in_a_pair_an_offset_counts_from_the_other_end(start: str, end: str, expected: tuple[str, str]) -> None:
    assert parse_pair(start, end, _NOW_NS, _BERLIN) == (_ns(expected[0]), _ns(expected[1]))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("1h30m", 5400), ("10s", 10), ("0.5 s", 0.5), ("250ms", 0.25), ("1d", 86400), ("00:10:00", 600),
     ("1w", 7 * 86400), ("2 minutes", 120)],
)  # fmt: skip
def test_spans(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds * _S


@pytest.mark.parametrize("text", ["", "h", "1", "1x", "1.5d", "*"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(TimeSyntaxError):
        parse_span(text)


def test_zones_are_known_by_both_their_names() -> None:
    assert zone_of("W. Europe Standard Time") == zone_of("Europe/Berlin")
    for name in ("Mars", "../../etc/passwd", ""):
        with pytest.raises(TimeSyntaxError):
            zone_of(name)


@given(st.integers(0, 4_102_444_800 * 10_000_000))
def test_a_time_with_all_its_digits_is_that_time(ticks: int) -> None:
    seconds, rest = divmod(ticks, 10_000_000)
    text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:07d}Z"
    assert parse(text, _NOW_NS, _BERLIN) == ticks * 100


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        parse(text, _NOW_NS, _BERLIN)
    except TimeSyntaxError:
        return
