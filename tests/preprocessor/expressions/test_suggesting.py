"""The nearest name is found, soon."""

from __future__ import annotations

import time

import pytest

from preprocessor.expressions.suggesting import did_you_mean, nearest


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("reactor/temp", ["Reactor/Temp", "Reactor/Tamp"], "Reactor/Temp"),
        ("Temp", ["Site/Reactor/Temp", "Flow"], "Site/Reactor/Temp"),
        ("Reactor/Tmep", ["Reactor/Temp", "Reactor/Level", "Boiler/Temp"], "Reactor/Temp"),
        ("Ractor/Temp", ["Reactor/Temp", "Boiler/Flow"], "Reactor/Temp"),
        ("XYZ", ["Reactor/Temp"], ""),
        ("XYZ", [], ""),
    ],
)
def test_the_nearest_name(word: str, known: list[str], expected: str) -> None:
    assert nearest(word, known) == expected
    assert did_you_mean(word, known) == (f"did you mean {expected}?" if expected else "")


def test_a_slip_is_found_among_100_000_names() -> None:
    known = [f"Site/Line{number % 50}/Unit{number % 1000}/Temp{number}" for number in range(100_000)]
    begin = time.perf_counter()
    assert nearest("Site/Line31/Unit31/Tepm22031", known) == "Site/Line31/Unit31/Temp22031"
    assert time.perf_counter() - begin < 2.0
