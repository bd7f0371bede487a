"""Conversion: scale, unit, range, precision, type, in that order; what does not fit is BAD and says so."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preprocessor.engine.block import Block
from preprocessor.engine.pipeline import Pipeline
from preprocessor.engine.refusal import Refusal
from preprocessor.engineering_units import unit
from preprocessor.step_settings import ConvertSettings
from preprocessor.steps.convert import Convert, rounded
from sluice.columns import Quality, Sample, Series, ValueType

from ..flows import at, feed, flow, pipeline, samples, settings, turn

GOOD, UNCERTAIN, BAD = Quality.GOOD, Quality.UNCERTAIN, Quality.BAD


def converting(**members: Any) -> tuple[Pipeline, Convert]:
    context = flow()
    step = Convert("convert", settings(ConvertSettings, type="convert", **members), context)
    return pipeline(context, step), step


def one(sample: Sample, **members: Any) -> tuple[Any, str, Quality, int | str]:
    """Value, unit, quality and status of a sample behind the step."""
    of, _ = converting(**members)
    (out,) = samples(feed(of, [sample]))
    assert of.held == 0
    return out.value, out.unit, out.quality, out.status


# --- units ---


@pytest.mark.parametrize(
    ("value", "own", "members", "result", "becomes"),
    [
        (212.0, "degF", {"to": "degC"}, 100.0, "degC"),
        (212.0, "°F", {"to": "degC"}, 100.0, "degC"),
        (212.0, "FAH", {"units": {"degF": "degC"}}, 100.0, "degC"),
        (1.0, "psi", {"units": {"degF": "degC", "psi": "kPa"}}, 6.894757293168361, "kPa"),
        (1.0, "widgets", {"units": {"degF": "degC"}}, 1.0, "widgets"),  # none of those: stays what it is
        (1.0, "", {"units": {"degF": "degC"}}, 1.0, ""),
        (212.0, "", {"to": "degC", "sourceUnit": "degF"}, 100.0, "degC"),
        (212.0, "degC", {"to": "degC", "sourceUnit": "degF"}, 100.0, "degC"),  # the source says it wrongly
        (9.0, "degF", {"to": "degC", "delta": True}, 5.0, "degC"),
        (9.0, "delta degF", {"to": "delta degC"}, 5.0, "delta degC"),
        (1.0, "bar", {"to": "kPa", "units": {"bar": "psi"}}, 14.503773773020923, "psi"),  # units goes before to
        (7.0, "", {"sourceUnit": "bar"}, 7.0, "bar"),  # only named
        (1.0, "m³/h", {"to": "m3/h"}, 1.0, "m3/h"),
    ],
)
def test_units(value: float, own: str, members: dict[str, Any], result: float, becomes: str) -> None:
    got = one(Sample("t", at(0), value, unit=own), **members)
    assert got == (pytest.approx(result, rel=1e-15), becomes, GOOD, 0)


@pytest.mark.parametrize(
    ("own", "said", "remedy"),
    [
        ("kPa", "kPa (pressure) cannot become degC (temperature)", "kPa can become"),
        ("degFF", "'degFF' is no unit that is known", "did you mean degF"),
        ("", "it comes without a unit", "sourceUnit"),
        ("delta degF", "delta degF (temperature difference) cannot become degC", "delta degC"),
    ],
)
def test_a_unit_that_does_not_fit_is_a_problem_and_its_tag_has_no_value(own: str, said: str, remedy: str) -> None:
    of, step = converting(to="degC")
    (out,) = samples(feed(of, [Sample("t", at(0), 1.0, asset="site/line", unit=own)]))
    assert (out.value, out.unit, out.quality, out.status) == (None, own, BAD, "unit-mismatch")
    problem, way_out = of.flow.problems["steps.convert.to"]
    assert "site/line/t" in problem
    assert said in problem
    assert remedy in way_out
    assert said in step.explain(0)["problem"]
    assert of.held == 0


def test_the_problem_counts_tags_and_goes_when_their_units_are_mended() -> None:
    of, _ = converting(to="degC")
    feed(of, [Sample(tag, at(0), 1.0, unit="kPa") for tag in ("a", "b", "c")])
    assert "2 more tags" in of.flow.problems["steps.convert.to"][0]
    out = samples(feed(of, [Sample(tag, at(1), 212.0, unit="degF") for tag in ("a", "b", "c")], 1))
    assert [(s.value, s.unit) for s in out] == [(100.0, "degC")] * 3
    assert of.flow.problems == {}
    assert of.held == 0


def test_a_tag_may_get_another_unit_while_it_runs() -> None:
    of, step = converting(units={"degF": "degC", "K": "degC"})
    given = [(212.0, "degF"), (373.15, "K"), (5.0, "bar"), (32.0, "degF")]
    got = [samples(feed(of, [Sample("t", at(i), v, unit=u)], i))[0] for i, (v, u) in enumerate(given)]
    assert [(s.value, s.unit) for s in got] == [(100.0, "degC"), (100.0, "degC"), (5.0, "bar"), (0.0, "degC")]
    assert step.explain(0)["unit"] == {"from": "degF", "to": "degC"}
    assert len(of.tags) == 2


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"to": "degX"}, "to"),
        ({"to": "degC", "sourceUnit": "kPa"}, "to"),
        ({"to": "degC", "sourceUnit": "nothing"}, "sourceUnit"),
        ({"to": "degC", "unit": "kPa", "gain": 2}, "to"),
        ({"units": {"degF": "bar"}}, "units.degF"),
        ({"units": {"degFF": "degC"}}, "units.degFF"),
        ({"units": {"degF": "degCC"}}, "units.degF"),
        ({"units": {"degF": "degC", "°F": "K"}}, "units.°F"),
        ({"units": {"barg": "bar"}}, "units.barg"),
        ({"units": {"degF": "degC"}, "sourceUnit": "psi"}, "sourceUnit"),
    ],
)
def test_wrong_units_are_refused_with_their_place(members: dict[str, Any], place: str) -> None:
    with pytest.raises(Refusal) as refused:
        converting(**members)
    assert refused.value.place == place
    assert refused.value.remedy


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"raw": [0, 1]},
        {"scaled": [0, 1]},
        {"raw": [1, 1], "scaled": [0, 1]},
        {"raw": [0, 1], "scaled": [0, 1], "gain": 2},
        {"gain": 0},
        {"gain": "nan"},
        {"clamp": [1, 0]},
        {"delta": True, "gain": 2},
        {"unit": "bar", "sourceUnit": "bar"},
        {"digits": 16},
    ],
)
def test_settings_that_make_no_sense_are_refused(members: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(ConvertSettings, type="convert", **members)


# --- scale, range, precision ---


@pytest.mark.parametrize(
    ("value", "members", "expected"),
    [
        (10.0, {"gain": 2}, (20.0, "", GOOD, 0)),
        (10.0, {"gain": 2, "offset": 1}, (21.0, "", GOOD, 0)),
        (10, {"offset": 0.5}, (10.5, "", GOOD, 0)),
        (0, {"raw": [0, 65535], "scaled": [0, 100]}, (0.0, "", GOOD, 0)),
        (65535, {"raw": [0, 65535], "scaled": [0, 100]}, (100.0, "", GOOD, 0)),
        (12.0, {"raw": [4, 20], "scaled": [-50, 150], "unit": "degC"}, (50.0, "degC", GOOD, 0)),
        (4.0, {"raw": [20, 4], "scaled": [0, 100]}, (100.0, "", GOOD, 0)),
        (20.0, {"raw": [4, 20], "scaled": [32, 212], "unit": "degF", "to": "degC"}, (100.0, "degC", GOOD, 0)),
        (100.0, {"gain": 2.12, "unit": "degF", "to": "degC"}, (100.0, "degC", GOOD, 0)),
        (5.0, {"clamp": [0, 4]}, (4.0, "", UNCERTAIN, "clamped")),
        (-5.0, {"clamp": [0, 4]}, (0.0, "", UNCERTAIN, "clamped")),
        (4.0, {"clamp": [0, 4]}, (4.0, "", GOOD, 0)),
        (3.0, {"gain": 2, "clamp": [0, 5]}, (5.0, "", UNCERTAIN, "clamped")),  # after scaling
        (2.4949, {"digits": 2}, (2.49, "", GOOD, 0)),
        (2.5, {"digits": 0}, (2.0, "", GOOD, 0)),
        (1e300, {"digits": 15}, (1e300, "", GOOD, 0)),
        (1e308, {"gain": 10}, (None, "", BAD, "nan")),  # too large for a double
        (None, {"gain": 10}, (None, "", BAD, 0)),
        (7, {"digits": 2}, (7, "", GOOD, 0)),  # an integer stays one
        (2**62 + 1, {"clamp": [0, 10**18]}, (10**18, "", UNCERTAIN, "clamped")),
        (2**53 + 1, {"clamp": [0, 10**18]}, (2**53 + 1, "", GOOD, 0)),
        (7, {"clamp": [0, 6.5]}, (6.5, "", UNCERTAIN, "clamped")),
        (True, {"gain": 2}, (True, "", GOOD, 0)),
        ("text", {"gain": 2, "to": "bar", "sourceUnit": "psi"}, ("text", "bar", GOOD, 0)),
    ],
)
def test_scaling_clamping_rounding(value: Any, members: dict[str, Any], expected: tuple[Any, ...]) -> None:
    got = one(Sample("t", at(0), value, BAD if value is None else GOOD), **members)
    assert got == expected
    assert type(got[0]) is type(expected[0])


def test_what_was_bad_keeps_its_status_when_it_is_clamped() -> None:
    assert one(Sample("t", at(0), 9.0, BAD, 7), clamp=[0, 4]) == (4.0, "", BAD, 7)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 15))
def test_rounding_is_to_the_nearest_decimal_and_never_further(value: float, digits: int) -> None:
    got = float(rounded(np.array([value]), digits)[0])
    step = Decimal(1).scaleb(-digits)
    # half of the last digit, and what a double of this size cannot tell anyway
    assert abs(Decimal(got) - Decimal(value)) <= step / 2 + Decimal(math.ulp(value)) * 2
    assert got == round(got, digits)
    assert float(rounded(np.array([got]), digits)[0]) == got


# --- types ---


@pytest.mark.parametrize(
    ("value", "to", "expected"),
    [
        (2.0, "integer", 2),
        (-(2.0**63), "integer", -(2**63)),
        (2.0**63, "integer", None),
        (2.5, "integer", None),
        (True, "integer", 1),
        ("9223372036854775807", "integer", 2**63 - 1),
        ("9223372036854775808", "integer", None),
        (" 12.0 ", "integer", 12),
        ("12.5", "integer", None),
        (2**53, "double", float(2**53)),
        (2**53 + 1, "double", None),  # no double is that
        (2**63 - 1, "double", None),
        (-(2**63), "double", -(2.0**63)),
        (False, "double", 0.0),
        ("1e3", "double", 1000.0),
        ("12,5", "double", None),
        ("Bad", "double", None),
        (1.0, "boolean", True),
        (0, "boolean", False),
        (2, "boolean", None),
        (0.5, "boolean", None),
        ("TRUE", "boolean", True),
        ("off", "boolean", False),
        ("open", "boolean", None),
        (21.5, "string", "21.5"),
        (0.1, "string", "0.1"),
        (2**63 - 1, "string", "9223372036854775807"),
        (True, "string", "true"),
        ("text", "string", "text"),
    ],
)
def test_types(value: Any, to: str, expected: Any) -> None:
    got = one(Sample("t", at(0), value), valueType=to)
    assert got == ((None, "", BAD, "not-convertible") if expected is None else (expected, "", GOOD, 0))
    assert type(got[0]) is type(expected)


def test_numbers_in_texts_are_scaled_as_numbers_are() -> None:
    assert one(Sample("t", at(0), "12.5", unit="bar"), valueType="double", gain=2, to="kPa")[:2] == (2500.0, "kPa")
    assert one(Sample("t", at(0), "3", unit="bar"), valueType="integer", to="kPa")[:2] == (300, "kPa")


def test_nulls_of_every_type_stay_nulls_of_every_type() -> None:
    for target in ("double", "integer", "boolean", "string"):
        of, _ = converting(valueType=target)
        feed(of, [Sample("a", at(0), 1.0), Sample("b", at(0), 1), Sample("c", at(0), True), Sample("d", at(0), "1")])
        given = [Sample("a", at(1), 1.0), Sample("b", at(1), 1), Sample("c", at(1), True), Sample("d", at(1), "1")]
        given += [Sample(tag, at(2), None, BAD, 7) for tag in "abcd"]
        out = feed(of, given, 2)
        assert [columns.type.value for columns in out.live] == [target]
        assert [(s.value, s.quality, s.status) for s in samples(out)][4:] == [(None, BAD, 7)] * 4
        assert of.held == 0


def test_tags_in_two_types_become_one_stream_in_order() -> None:
    of, _ = converting(valueType="double")
    given = [Sample("t", at(1), 1.0), Sample("t", at(2), "2"), Sample("t", at(3), 3.0), Sample("t", at(4), 4)]
    (columns,) = feed(of, given, 5).live
    assert [s.value for s in columns.samples()] == [1.0, 2.0, 3.0, 4.0]
    assert of.held == 0


# --- tags ---


def test_only_selected_tags_are_converted_and_each_by_its_own_unit() -> None:
    of, _ = converting(tags=["T*"], exclude=["TX"], units={"degF": "degC", "psi": "bar"})
    given = [
        Sample("T1", at(0), 212.0, unit="degF"),
        Sample("T2", at(0), 100.0, unit="psi"),
        Sample("T3", at(0), 5.0, unit="m"),
        Sample("TX", at(0), 212.0, unit="degF"),
        Sample("P", at(0), 212.0, unit="degF"),
        Sample("T4", at(0), 32, unit="degF"),
        Sample("T5", at(0), 32, unit="m"),
    ]
    out = samples(feed(of, given))
    assert {s.tag: (s.value, s.unit) for s in out} == {
        "T1": (100.0, "degC"),
        "T2": (pytest.approx(6.894757293168361), "bar"),
        "T3": (5.0, "m"),
        "TX": (212.0, "degF"),
        "P": (212.0, "degF"),
        "T4": (0.0, "degC"),
        "T5": (32, "m"),
    }
    assert of.held == 0


def test_name_place_and_order_of_a_tag_stay() -> None:
    of, _ = converting(units={"degF": "degC"})
    given = [Sample("b", at(i), float(i), asset="site/line", unit="degF") for i in range(3)]
    given += [Sample("a", at(i), float(i), asset="site/line", unit="m") for i in range(3)]
    out = samples(feed(of, given))
    assert {(s.tag, s.asset) for s in out} == {("a", "site/line"), ("b", "site/line")}
    assert [s.value for s in out if s.tag == "b"] == [pytest.approx((i - 32) * 5 / 9) for i in range(3)]


def test_a_tag_without_a_place_is_dropped_and_counted() -> None:
    context = flow()
    context.tags.most = 3
    step = Convert("convert", settings(ConvertSettings, type="convert", to="degC"), context)
    of = pipeline(context, step)
    out = feed(of, [Sample(tag, at(0), 212.0, unit="degF") for tag in "ab"])
    assert [s.tag for s in samples(out)] == ["a"]
    assert (step.counters["too_many_tags"], out.filtered, of.held) == (1, 1, 0)


def test_columns_pass_uncopied_when_there_is_nothing_to_do() -> None:
    context = flow()
    step = Convert("convert", settings(ConvertSettings, type="convert", units={"degF": "degC"}), context)
    slot = context.tags.slot(Series("t", unit="m"))
    step.prepare([slot])
    block = Block(
        ValueType.DOUBLE,
        np.zeros(3, dtype=np.int32),
        np.arange(3, dtype=np.int64),
        np.arange(3.0),
        np.zeros(3, dtype=np.uint8),
        np.zeros(3, dtype=np.int64),
    )
    (out,) = step.process([block], turn(0))
    assert out is block


def test_a_restart_changes_nothing() -> None:
    given = [
        Sample("a", at(0), 212.0, unit="degF"),
        Sample("b", at(0), 1.0, unit="kPa"),
        Sample("c", at(0), 5, unit="m"),
    ]
    later = [Sample(s.tag, at(1), s.value, unit=s.unit) for s in given]
    of, _ = converting(units={"degF": "degC", "kPa": "bar"}, clamp=[0, 90])
    feed(of, given)
    again, _ = converting(units={"degF": "degC", "kPa": "bar"}, clamp=[0, 90])
    assert again.load(of.save()) == []
    assert samples(feed(again, later, 1)) == samples(feed(of, later, 1))
    assert len(again.tags) == len(of.tags)


# --- against a slow reference ---

UNITS = ["degF", "degC", "K", "bar", "m", ""]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.one_of(st.integers(-(10**6), 10**6), st.floats(-1e6, 1e6).map(lambda v: round(v, 6))),
            st.sampled_from([GOOD, BAD]),
        ),
        max_size=12,
    ),
    st.sampled_from([1.0, 2.0, -0.5]),
    st.sampled_from([0.0, 3.0]),
)
def test_every_row_is_what_its_own_tag_and_settings_give(
    rows: list[tuple[int, float | int, Quality]], gain: float, offset: float
) -> None:
    of, _ = converting(units={"degF": "degC", "K": "degC", "bar": "kPa"}, gain=gain, offset=offset)
    given = [
        Sample(f"t{number}", at(i), value, quality, unit=UNITS[number])
        for i, (number, value, quality) in enumerate(rows)
    ]
    out = samples(feed(of, given, 20))
    assert len(out) == len(given)
    targets = {"degF": "degC", "K": "degC", "bar": "kPa"}
    for sample, got in zip(given, out, strict=True):
        assert isinstance(sample.value, (int, float))
        target = targets.get(sample.unit, sample.unit)
        exact = Fraction(sample.value) * Fraction(gain) + Fraction(offset)
        if sample.unit in targets:
            source, other = unit(sample.unit), unit(target)
            exact = (exact * source.factor + source.offset - other.offset) / other.factor
        assert got.value == pytest.approx(float(exact), rel=1e-12, abs=1e-9)
        untouched = gain == 1.0 and offset == 0.0 and sample.unit not in targets
        assert type(got.value) is (type(sample.value) if untouched else float)
        assert (got.tag, got.time, got.unit, got.quality) == (sample.tag, sample.time, target, sample.quality)
    assert of.held == 0
