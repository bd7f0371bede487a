"""Units: values from standards, what does not fit, how people write them."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessor.engineering_units import UnitError, conversion, convert, find, names, unit

# value, unit, the same in another unit: NIST SP 811, ISO 80000, IAPWS, the definitions of the international yard and
# pound, ASHRAE and the gallon, the barrel and the horsepower as they are defined; as many digits as are given there.
STANDARDS = [
    (0, "degC", 273.15, "K"),
    (100, "degC", 212, "degF"),
    (212, "degF", 100, "degC"),
    (32, "degF", 0, "degC"),
    (-40, "degF", -40, "degC"),
    (0, "K", -459.67, "degF"),
    (0, "degF", 459.67, "degR"),
    (491.67, "degR", 0, "degC"),
    (9, "delta degF", 5, "delta degC"),
    (1, "delta K", 1, "delta degC"),
    (1, "atm", 101_325, "Pa"),
    (1, "bar", 100, "kPa"),
    (1, "psi", 6_894.757293168361, "Pa"),
    (14.695948775514218, "psi", 1, "atm"),
    (1, "at", 98_066.5, "Pa"),
    (760, "Torr", 1, "atm"),
    (1, "mmHg", 133.322387415, "Pa"),
    (1, "inHg", 3_386.388640341, "Pa"),
    (1, "mmH2O", 9.80665, "Pa"),
    (1, "inH2O", 249.08891, "Pa"),
    (1, "barg", 14.503773773020923, "psig"),
    (1, "gal", 3.785411784, "l"),
    (1, "impgal", 4.54609, "l"),
    (1, "ft3", 28.316846592, "l"),
    (1, "bbl", 158.987294928, "l"),
    (1, "in3", 16.387064, "ml"),
    (1, "gpm", 0.227124707040, "m3/h"),
    (1, "cfm", 1.69901079552, "m3/h"),
    (3.6, "m3/h", 1, "l/s"),
    (60, "l/min", 3.6, "m3/h"),
    (24, "m3/h", 576, "m3/d"),
    (60, "Nl/min", 3.6, "Nm3/h"),
    (60, "scfh", 1, "scfm"),
    (1, "MMscfd", 694.4444444444445, "scfm"),
    (1, "lb", 453.59237, "g"),
    (1, "oz", 28.349523125, "g"),
    (1, "ton (US)", 907.18474, "kg"),
    (1, "ton (UK)", 1_016.0469088, "kg"),
    (1, "t/h", 2_204.6226218487757, "lb/h"),
    (1, "kg/s", 3_600, "kg/h"),
    (1, "g/cm3", 62.42796057614461, "lb/ft3"),
    (1, "g/l", 1_000, "mg/l"),
    (1, "kWh", 3.6, "MJ"),
    (1, "BTU", 1_055.05585262, "J"),
    (1, "kcal", 4_186.8, "J"),
    (1, "therm", 105.505585262, "MJ"),
    (1, "hp", 745.6998715822702, "W"),
    (1, "hp(M)", 735.49875, "W"),
    (1, "TR", 3.5168528420667, "kW"),
    (1, "BTU/lb", 2.326, "J/g"),
    (1, "ft", 0.3048, "m"),
    (1, "in", 25.4, "mm"),
    (1, "mil", 25.4, "um"),
    (1, "mi", 1.609344, "km"),
    (1, "ha", 10_000, "m2"),
    (1, "ft2", 0.09290304, "m2"),
    (1, "mph", 1.609344, "km/h"),
    (1, "kn", 1.852, "km/h"),
    (1, "ft/min", 5.08, "mm/s"),
    (1, "gn", 9.80665, "m/s2"),
    (1, "lbf", 4.4482216152605, "N"),
    (1, "kgf", 9.80665, "N"),
    (1, "lbf.ft", 1.3558179483314004, "N.m"),
    (1, "week", 168, "h"),
    (1, "d", 86_400, "s"),
    (50, "Hz", 3_000, "1/min"),
    (3_000, "rpm", 50, "rps"),
    (60, "rpm", 2 * math.pi, "rad/s"),
    (180, "deg", math.pi, "rad"),
    (4, "mA", 0.004, "A"),
    (1, "kohm", 1_000, "ohm"),
    (1, "mS/cm", 100, "mS/m"),
    (1, "cP", 1, "mPa.s"),
    (1, "P", 0.1, "Pa.s"),
    (1, "cSt", 1, "mm2/s"),
    (1, "mol/l", 1_000, "mol/m3"),
    (1, "%", 10_000, "ppm"),
    (1, "ppm", 1_000, "ppb"),
]


@pytest.mark.parametrize(("value", "source", "result", "target"), STANDARDS)
def test_values_are_those_of_the_standards(value: float, source: str, result: float, target: str) -> None:
    assert convert(value, source, target) == pytest.approx(result, rel=1e-12, abs=1e-12)
    assert convert(result, target, source) == pytest.approx(value, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("value", "source", "result", "target"),
    [
        (212.0, "degF", 100.0, "degC"),
        (100.0, "degC", 212.0, "degF"),
        (-459.67, "degF", 0.0, "K"),
        (0.0, "degC", 273.15, "K"),
        (1.0, "lb", 0.45359237, "kg"),
        (1.0, "ft", 0.3048, "m"),
        (3.6, "m3/h", 1.0, "l/s"),
        (1.0, "bar", 100.0, "kPa"),
        (1.0, "gal", 3.785411784, "l"),
    ],
)
def test_definitions_come_out_to_the_last_digit(value: float, source: str, result: float, target: str) -> None:
    assert float(convert(value, source, target)) == result


@pytest.mark.parametrize(
    ("codes", "names_of_them"),
    [
        ("KGS F31 E93 F30 F29 F28 F27 E18", "kg/s kg/min kg/h kg/d g/s g/min g/h t/h"),
        ("MQS MQH G52 G51 L2 41 G2 G3 2L 2K", "m3/s m3/h m3/d l/s l/min ml/min gpm impgpm cfm cfh"),
        ("PAL A97 KPA MPA BAR MBR ATM F79 F78", "Pa hPa kPa MPa bar mbar atm inHg inH2O"),
        ("C31 WTT KWT MAW BHP D44 KVR MAR K3 MAH", "mW W kW MW hp var kvar Mvar kvarh Mvarh"),
        ("TNE STN LTN LBR ONZ MC GP GQ M1 KMQ", "t|ton (US)|ton (UK)|lb|oz|ug|ug/l|ug/m3|mg/l|kg/m3"),
        ("KEL CEL FAH A48 P1 59 61 NX", "K degC degF degR % ppm ppb permille"),
    ],
)
def test_codes_of_un_ece_are_the_units_that_they_stand_for(codes: str, names_of_them: str) -> None:
    expected = names_of_them.split("|" if "|" in names_of_them else None)
    assert [unit(code).name for code in codes.split()] == expected


@pytest.mark.parametrize("code", ["F20", "F21", "F23", "4W", "E15"])
def test_codes_of_units_that_are_not_in_the_table_mean_no_other_one(code: str) -> None:
    """lb.in2, lbf.in, g/dm3, short tons per hour, kilocalories of another kind per hour."""
    assert find(code) is None


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("kPa", "degC", "kPa (pressure) cannot become degC (temperature)"),
        ("barg", "bar", "barg (gauge pressure) cannot become bar (pressure)"),
        ("psi", "psig", "psi (pressure) cannot become psig (gauge pressure)"),
        ("degF", "delta degC", "degF (temperature) cannot become delta degC (temperature difference)"),
        ("Nm3/h", "m3/h", "Nm3/h (gas flow at 0 degC) cannot become m3/h (volume flow)"),
        ("scfm", "cfm", "scfm (gas flow at 60 degF) cannot become cfm (volume flow)"),
        ("Nm3", "Sm3", "Nm3 (gas volume at 0 degC) cannot become Sm3 (gas volume at 15 degC)"),
        ("kg/h", "m3/h", "kg/h (mass flow) cannot become m3/h (volume flow)"),
        ("rpm", "Hz", "rpm (rotational speed) cannot become Hz (frequency)"),
        ("kW", "kVA", "kW (power) cannot become kVA (apparent power)"),
        ("%", "%RH", "% (ratio) cannot become %RH (relative humidity)"),
        ("kW", "kWh", "kW (power) cannot become kWh (energy)"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_dimensions(source: str, target: str, said: str) -> None:
    with pytest.raises(UnitError) as refused:
        conversion(source, target)
    assert str(refused.value) == said
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("value", "source", "result", "target"),
    [
        (9, "degF", 5, "degC"),
        (5, "K", 9, "degF"),
        (9, "delta degF", 5, "degC"),
        (1, "barg", 100, "kPa"),  # differences of gauge and of absolute pressures are the same
        (10, "%", 0.1, "1"),
    ],
)
def test_differences_know_no_zero_point(value: float, source: str, result: float, target: str) -> None:
    assert convert(value, source, target, delta=True) == pytest.approx(result)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("°C", "degC"),
        ("℃", "degC"),
        ("deg C", "degC"),
        ("DEG C", "degC"),
        ("Celsius", "degC"),
        ("CEL", "degC"),
        ("FAH", "degF"),
        ("C", "degC"),
        ("Δ°C", "delta degC"),
        ("delta_degF", "delta degF"),
        ("m³/h", "m3/h"),
        ("m^3/h", "m3/h"),
        ("M3/H", "m3/h"),
        ("m3 / h", "m3/h"),
        ("m3/hr", "m3/h"),
        ("MQH", "m3/h"),
        ("L/min", "l/min"),
        ("L2", "l/min"),
        ("US gal", "gal"),
        ("mg/L", "mg/l"),
        ("µS/cm", "uS/cm"),
        ("μm", "um"),
        ("kΩ", "kohm"),
        ("Pa·s", "Pa.s"),
        ("N*m", "N.m"),
        ("Nm", "N.m"),
        ("KPA", "kPa"),
        ("kpa", "kPa"),
        ("MPA", "MPa"),
        ("PSIG", "psig"),
        ("bar(g)", "barg"),
        ("bar g", "barg"),
        ("bara", "bar"),
        ("KGM", "kg"),
        ("lbs", "lb"),
        ("P1", "%"),
        ("HZ", "Hz"),
        ("ton(US)", "ton (US)"),
    ],
)
def test_units_are_known_however_they_are_written(written: str, name: str) -> None:
    assert unit(written).name == name


@pytest.mark.parametrize(
    ("lower", "upper"), [("mW", "MW"), ("mPa", "MPa"), ("mV", "MV"), ("mN", "MN"), ("mJ", "MJ"), ("mHz", "MHz")]
)
def test_milli_and_mega_are_never_taken_for_each_other(lower: str, upper: str) -> None:
    assert unit(upper).factor == unit(lower).factor * 10**9
    assert find(lower.lower()) is None  # which of them mw is, nobody can tell
    assert find("mWh") is None  # and MWh is not meant


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("degX", "did you mean deg"),
        ("mw", "did you mean mW or MW? Upper and lower case matter"),
        ("kgh", "did you mean kg/h"),
        ("", "write a unit such as degC"),
        ("§§§", "write a unit such as degC"),
        ("x" * 100_000, "write a unit such as degC"),
    ],
)
def test_an_unknown_unit_is_refused_with_the_nearest(written: str, remedy: str) -> None:
    with pytest.raises(UnitError) as refused:
        unit(written)
    assert refused.value.remedy.startswith(remedy)
    assert len(str(refused.value)) < 120


def test_the_table_is_large_and_every_name_means_itself() -> None:
    table = names()
    assert len(table) >= 150
    assert {unit(name).name for name in table} == set(table)


NAMES = sorted(names())
_numbers = st.floats(-1e9, 1e9).map(lambda value: round(value, 12))  # as far as plants measure


def _alike(data: st.DataObject, count: int) -> list[str]:
    """Units of one dimension."""
    first = data.draw(st.sampled_from(NAMES))
    same = [name for name in NAMES if names()[name] == names()[first]]
    return [first, *(data.draw(st.sampled_from(same)) for _ in range(count - 1))]


def _exactly(value: float, source: str, target: str) -> Fraction:
    """By the definition, with fractions: to the base unit and from it."""
    one, other = unit(source), unit(target)
    return (Fraction(value) * one.factor + one.offset - other.offset) / other.factor


def _near(value: float, exact: Fraction, source: str, target: str) -> bool:
    # an offset costs what its own last digit is worth: 1e-14 degC is nothing in 273.15 K
    one, other = unit(source), unit(target)
    scale = abs(exact) + abs(one.offset / other.factor) + abs(other.offset / other.factor)
    return abs(Fraction(value) - exact) <= scale * Fraction(1, 10**15)


@given(st.data(), _numbers)
def test_a_conversion_is_what_the_definitions_give(data: st.DataObject, value: float) -> None:
    source, target = _alike(data, 2)
    assert _near(float(convert(value, source, target)), _exactly(value, source, target), source, target)


@given(st.data(), _numbers)
def test_there_and_back_is_where_it_began(data: st.DataObject, value: float) -> None:
    source, target = _alike(data, 2)
    one, other = unit(source), unit(target)
    back = float(convert(convert(value, source, target), target, source))
    assert abs(back - value) <= 1e-14 * float(
        abs(value) + abs(one.offset / one.factor) + abs(other.offset / one.factor)
    )


@given(st.data(), _numbers)
def test_by_way_of_another_unit_it_is_the_same(data: st.DataObject, value: float) -> None:
    path = _alike(data, 3)
    there = convert(value, path[0], path[0])
    for source, target in pairwise(path):
        there = convert(there, source, target)
    straight = float(convert(value, path[0], path[2]))
    offsets = sum(abs(unit(name).offset) for name in path) / unit(path[2]).factor
    assert abs(float(there) - straight) <= 1e-14 * float(abs(Fraction(straight)) + offsets)


@given(st.text(max_size=80))
def test_no_text_does_harm(text: str) -> None:
    found = find(text)
    assert found is None or found.name in names() or found.name.startswith("delta ")


def test_nothing_is_copied_when_nothing_is_to_be_done() -> None:
    values = np.array([1.0, 2.0])
    assert convert(values, "bar", "bara") is values
    converted = convert(values, "bar", "kPa")
    assert converted is not values
    assert values.tolist() == [1.0, 2.0]
