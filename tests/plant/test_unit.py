"""One unit: what it reports row by row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plant.tags import UNIT_WIDTH, tags
from plant.tennessee import FAULT_ROW, VARIABLES, DataError, load
from plant.unit import BAD_OUT_OF_SERVICE, UNCERTAIN_SENSOR_NOT_ACCURATE, Unit, Value, samples_per_row

NAMES = [tag.tag.removeprefix("Unit1/") for tag in tags(1)]
PROCESS = len(VARIABLES)


def test_a_unit_replays_normal_operation_from_its_offset_and_begins_again_at_the_end() -> None:
    run = load(0).tolist()
    unit = Unit(offset=958)
    rows = [unit.step().values[:22] for _ in range(4)]
    assert rows == [tuple(run[i][:22]) for i in (958, 959, 0, 1)]


def test_the_first_row_reports_everything_and_later_ones_only_what_is_new() -> None:
    unit = Unit()
    shown: dict[int, tuple[Value, int]] = {}
    for number in range(1, 300):
        reading = unit.step()
        if number == 1:
            assert reading.changed == tuple(range(UNIT_WIDTH))
        for column in range(UNIT_WIDTH):
            now = (reading.values[column], reading.statuses[column])
            assert (column in reading.changed) == (shown.get(column) != now), (number, NAMES[column])
            shown[column] = now


def test_a_fault_sets_in_with_the_next_row_and_ends_when_told() -> None:
    unit = Unit()
    unit.step()
    unit.set_fault(4)
    reading = unit.step()
    assert reading.values[:22] == tuple(load(4)[FAULT_ROW, :22].tolist())
    assert reading.values[NAMES.index("Phase")] == "fault 4"
    unit.set_fault(0)
    assert unit.step().values[:22] == tuple(load(0)[2, :22].tolist())


def test_a_fault_goes_on_when_its_run_is_over_and_never_shows_the_rows_before_it() -> None:
    unit = Unit()
    unit.set_fault(6)
    rows = [unit.step().values[0] for _ in range(2 * (960 - FAULT_ROW))]
    assert rows[: 960 - FAULT_ROW] == rows[960 - FAULT_ROW :] == load(6)[FAULT_ROW:, 0].tolist()


def test_an_unknown_fault_is_refused_and_changes_nothing() -> None:
    unit = Unit()
    with pytest.raises(DataError, match="99"):
        unit.set_fault(99)
    assert unit.fault == 0


def test_a_calibration_makes_the_product_analyser_bad_and_null_and_then_uncertain() -> None:
    unit = Unit()
    readings = [unit.step() for _ in range(100)]
    columns = [NAMES.index(f"XMEAS{n}_Product{c}") for n, c in zip(range(37, 42), "DEFGH", strict=True)]
    for column in columns:
        statuses = [reading.statuses[column] for reading in readings]
        assert statuses.count(BAD_OUT_OF_SERVICE) == 4
        assert statuses.count(UNCERTAIN_SENSOR_NOT_ACCURATE) == 6
        assert all(
            (reading.values[column] is None) == (reading.statuses[column] == BAD_OUT_OF_SERVICE) for reading in readings
        )
    others = [i for i in range(PROCESS) if i not in columns]
    assert not any(reading.statuses[i] for reading in readings for i in others)


def test_the_closing_row_says_that_the_unit_stopped_and_leaves_the_process_as_it_stands() -> None:
    unit = Unit()
    last = unit.step()
    closing = unit.stop()
    assert closing.values[:PROCESS] == last.values[:PROCESS]
    assert closing.values[PROCESS:] == (2, False, "stopped")
    assert closing.changed == tuple(range(PROCESS, UNIT_WIDTH))


def test_a_unit_that_never_produced_can_stop() -> None:
    assert Unit().stop().changed == tuple(range(UNIT_WIDTH))


@given(st.integers(0, 2000))
def test_units_at_different_offsets_differ(offset: int) -> None:
    one, other = Unit(offset), Unit(offset + 137)
    assert one.step().values[:22] != other.step().values[:22]


def test_the_mean_number_of_samples_is_what_a_unit_really_reports() -> None:
    unit = Unit()
    unit.step()
    produced = sum(len(unit.step().changed) for _ in range(959))
    assert produced / 959 == pytest.approx(samples_per_row(), rel=0.01)
