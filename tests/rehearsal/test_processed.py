"""The judge of windows and totals: what it expects is worked out by hand here, and whatever goes wrong is seen."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plant.log import PlantLog
from preprocessor import checks
from preprocessor.config import Configuration
from rehearsal.processed import FUNCTIONS, SECOND, Row, Verdict, flows, is_derived, judge, windows_of
from sluice.config import load

START = 1_795_325_440 * SECOND
TAG, ROW = "Unit1/XMEAS01_AFeed", "Unit1/Row"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three seconds of a plant: two windows, with 2.0 held over the edge between them."""
    plant = PlantLog(tmp_path / "log")
    plant.write(START + SECOND // 2, {TAG: 1.0, ROW: 7}, {})
    plant.write(START + SECOND, {TAG: 2.0, ROW: 8, "Unit1/Phase": "normal"}, {})
    plant.write(
        START + 3 * SECOND, {TAG: -4.5, ROW: 9, "Unit1/XMEAS30_BPurge": None}, {"Unit1/XMEAS30_BPurge": 1 << 31}
    )
    plant.end()
    return tmp_path / "log"


FIRST = {
    "count": 2,
    "sum": 3.0,
    "minimum": 1.0,
    "maximum": 2.0,
    "first": 1.0,
    "last": 2.0,
    "integral": 0.5 * 1.0 + 1.0 * 2.0,
    "percentGood": 75.0,
}
SECOND_WINDOW = {
    "count": 1,
    "sum": -4.5,
    "minimum": -4.5,
    "maximum": 2.0,
    "first": -4.5,
    "last": -4.5,
    "integral": 1.0 * 2.0 + 1.0 * -4.5,
    "percentGood": 100.0,
}


def complete() -> list[Row]:
    """Everything that must be made of the log."""
    made = [(TAG, start, results) for start, results in ((START, FIRST), (START + 2 * SECOND, SECOND_WINDOW))]
    rows = [Row(f"{tag}.{name}", start, value, "") for tag, start, results in made for name, value in results.items()]
    rows += [
        Row(f"{ROW}.total", START + at, total, "") for at, total in ((SECOND // 2, 0), (SECOND, 1), (3 * SECOND, 2))
    ]
    return [row._replace(id=f"e.1.{number}") for number, row in enumerate(rows)]


def verdict(log: Path, rows: Sequence[Row], *, by_id: bool = False) -> Verdict:
    return judge(log, {"lake": rows}, drop_by_id=["lake"] if by_id else [])["lake"]


def test_what_is_complete_and_exact_balances_in_any_order(log: Path) -> None:
    rows = complete()
    random.Random(5).shuffle(rows)
    found = verdict(log, rows)
    assert found.balances, found
    assert (found.expected, found.exact, found.totals, found.revisions) == (2 * len(FUNCTIONS) + 1, 17, 3, 0)
    assert found.as_dict()["lost"] == 0
    assert "first" not in found.as_dict()


@pytest.mark.parametrize("number", range(len(FUNCTIONS) * 2))
def test_a_window_that_is_missing_doubled_or_wrong_is_seen(log: Path, number: int) -> None:
    rows = complete()
    row = rows[number]
    assert isinstance(row.value, float | int)
    missing = verdict(log, [*rows[:number], *rows[number + 1 :]])
    assert (missing.lost, missing.doubled, missing.wrong) == (1, 0, 0)
    assert row.tag in missing.first
    doubled = verdict(log, [*rows, row._replace(id="e.2.0")])
    assert (doubled.lost, doubled.doubled, doubled.wrong) == (0, 1, 0)
    wrong = verdict(log, [*rows[:number], row._replace(value=row.value + 1e-6), *rows[number + 1 :]])
    assert (wrong.lost, wrong.doubled, wrong.wrong) == (0, 0, 1)
    null = verdict(log, [*rows[:number], row._replace(value=None), *rows[number + 1 :]])
    assert (null.lost, null.doubled, null.wrong) == (0, 0, 1)


def test_the_last_revision_counts_and_none_may_be_missing(log: Path) -> None:
    rows = complete()
    revised = [rows[0]._replace(value=1, id="e.0.0"), rows[0]._replace(rev=1, id="e.3.0"), *rows[1:]]
    assert verdict(log, revised).balances
    assert verdict(log, revised).revisions == 1
    assert verdict(log, revised[1:]).lost == 1
    assert verdict(log, [*revised, revised[1]._replace(id="e.4.0")]).doubled == 1
    backwards = [rows[0], rows[0]._replace(value=1, rev=1), *rows[1:]]
    assert verdict(log, backwards).wrong == 1


def test_repeats_are_dropped_by_id_where_that_is_the_guarantee(log: Path) -> None:
    rows = complete()
    assert verdict(log, [*rows, *rows], by_id=True).balances
    assert verdict(log, [*rows, *rows]).doubled == len(rows)


def test_a_total_is_exact_at_every_sample_and_there_at_the_last(log: Path) -> None:
    rows = complete()
    assert verdict(log, [row for row in rows if row != rows[-2]]).balances, "a late sample has no total"
    assert verdict(log, rows[:-1]).lost == 1
    assert verdict(log, [*rows, rows[-2]]).doubled == 1
    assert verdict(log, [*rows[:-2], rows[-2]._replace(value=2), rows[-1]]).wrong == 1
    assert verdict(log, [*rows, rows[-1]._replace(time_ns=START)]).unexpected == 1


def test_a_window_of_no_sample_is_unexpected(log: Path) -> None:
    assert verdict(log, [*complete(), Row(f"{TAG}.count", START - 2 * SECOND, 0, "e.9.9")]).unexpected == 1


TIMES = st.lists(st.integers(0, 40), min_size=1, max_size=30, unique=True).map(sorted)


@given(TIMES, st.data())
def test_the_integral_of_windows_is_that_of_the_whole(times: list[int], data: st.DataObject) -> None:
    """Another way to the same: in steps of a tenth of a second, each with the value that holds then."""
    tenth = SECOND // 10
    samples = [(time * tenth, data.draw(st.integers(-100, 100)) / 4) for time in times]
    for start, results in windows_of(samples):
        steps = [[v for t, v in samples if t <= at] for at in range(start, start + 2 * SECOND, tenth)]
        held = [values[-1] for values in steps if values]
        assert results["integral"][0] == Fraction(sum(held)) / 10
        assert results["percentGood"][0] == len(held) * 5
        inside = [v for t, v in samples if start <= t < start + 2 * SECOND]
        assert results["count"][0] == len(inside) > 0
        assert results["sum"][0] == sum(inside)
        assert float(results["minimum"][0]) == min(held)
        assert float(results["maximum"][0]) == max(held)


def test_the_flows_are_a_configuration_without_a_mistake(tmp_path: Path) -> None:
    loaded = load(Configuration, flows(["opcua-collector/line1", "pi-collector/historian"]))
    assert loaded.problems == []
    assert checks.check(loaded.config, tmp_path) == []


def test_what_is_derived_is_told_by_its_name() -> None:
    assert all(is_derived(row.tag) for row in complete())
    assert not is_derived("Unit1/XMEAS01_AFeed")
    assert not is_derived("U1.Row")
