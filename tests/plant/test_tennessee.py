"""The recorded runs and the table of variables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plant.tennessee import FAULT_ROW, FAULTS, VARIABLES, DataError, load


def test_there_are_41_measurements_and_11_manipulated_variables_in_the_order_of_the_paper() -> None:
    names = [variable.name.split("_")[0] for variable in VARIABLES]
    assert names == [f"XMEAS{n:02}" for n in range(1, 42)] + [f"XMV{n:02}" for n in range(1, 12)]
    assert len({variable.name for variable in VARIABLES}) == 52


@pytest.mark.parametrize(
    ("name", "unit", "base_case"),
    # Downs & Vogel 1993, tables 3 to 5: unit and base case value.
    [
        ("XMEAS01_AFeed", "kscmh", 0.25052),
        ("XMEAS02_DFeed", "kg/h", 3664.0),
        ("XMEAS07_ReactorPressure", "kPa", 2705.0),
        ("XMEAS09_ReactorTemperature", "degC", 120.40),
        ("XMEAS14_SeparatorUnderflow", "m3/h", 25.160),
        ("XMEAS20_CompressorWork", "kW", 341.43),
        ("XMEAS23_ReactorFeedA", "mol%", 32.188),
        ("XMEAS36_PurgeH", "mol%", 2.2999),
        ("XMEAS40_ProductG", "mol%", 53.724),
        ("XMV01_DFeedValve", "%", 63.053),
        ("XMV10_ReactorCoolantValve", "%", 41.106),
    ],
)
def test_a_column_of_normal_operation_lies_around_the_base_case_of_the_paper(
    name: str, unit: str, base_case: float
) -> None:
    column = next(i for i, variable in enumerate(VARIABLES) if variable.name == name)
    assert VARIABLES[column].unit == unit
    assert np.median(load(0)[:, column]) == pytest.approx(base_case, rel=0.02)


@pytest.mark.parametrize("number", FAULTS)
def test_every_run_is_rows_of_52_within_the_ranges_of_the_table(number: int) -> None:
    low, high = np.array([(variable.low, variable.high) for variable in VARIABLES]).T
    test, training = load(number), load(number, training=True)
    assert test.shape == (960, 52)
    assert training.shape == (500 if number == 0 else 480, 52)
    for run in (test, training):
        assert ((run >= low) & (run <= high)).all()


def test_the_transposed_file_is_read_as_the_same_process() -> None:
    assert load(0, training=True).mean(axis=0) == pytest.approx(load(0).mean(axis=0), rel=0.1, abs=0.05)


def test_a_fault_changes_the_process_at_its_row_and_not_before() -> None:
    # Fault 4 is a step in the reactor's cooling water temperature: its valve opens (XMV 10).
    valve = load(4)[:, next(i for i, v in enumerate(VARIABLES) if v.name.startswith("XMV10"))]
    assert valve[:FAULT_ROW].mean() == pytest.approx(41.1, abs=0.2)
    assert valve[FAULT_ROW + 2 :].mean() > 44


@pytest.mark.parametrize("number", [-1, 22])
def test_an_unknown_fault_is_refused_by_name(number: int) -> None:
    with pytest.raises(DataError, match=f"no fault {number}"):
        load(number)


@pytest.mark.parametrize("text", ["", "1 2 3\n", "a b\n", "1 nan " + "0 " * 50 + "\n"])
def test_a_file_that_is_no_run_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "d07_te.dat").write_text(text)
    with pytest.raises(DataError, match=r"d07_te\.dat"):
        load(7, folder=tmp_path)
