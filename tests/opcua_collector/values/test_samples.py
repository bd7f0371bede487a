"""From notifications to columns: a tag's type never changes, and every sample is handed on, filtered or counted."""

from __future__ import annotations

import math
import struct
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any

import pytest

from opcua_collector.stack import ua
from opcua_collector.types.structures import Field, Structure
from opcua_collector.types.typed import Typing
from opcua_collector.values.notifications import decode
from opcua_collector.values.samples import Assembler, Rule
from sluice.batch import Columns, Quality, Sample, Series, ValueType

struct_to_binary: Any = import_module("asyncua.ua.ua_binary").struct_to_binary
T = ua.VariantType
BASE = datetime(2026, 3, 1, tzinfo=timezone.utc)
BASE_NS = 1_772_323_200_000_000_000


def notified(*items: tuple[int, Any, Any, int, int]) -> bytes:
    """(handle, value, variant type, status, second) each."""
    response = ua.PublishResponse()
    response.Parameters.NotificationMessage.SequenceNumber = 1
    response.Parameters.NotificationMessage.NotificationData = [
        ua.DataChangeNotification(
            [
                ua.MonitoredItemNotification(
                    handle,
                    ua.DataValue(
                        ua.Variant(value, kind) if value is not None else ua.Variant(),
                        ua.StatusCode(status),
                        SourceTimestamp=BASE + timedelta(seconds=second),
                    ),
                )
                for handle, value, kind, status, second in items
            ]
        )
    ]
    return bytes(struct_to_binary(response))


def assembler(*rules: Rule) -> Assembler:
    made = Assembler()
    for number, rule in enumerate(rules):
        made.fix(made.add(Series(f"T{number}")), rule)
    return made


def columns(made: Assembler, *items: tuple[int, Any, Any, int, int]) -> list[Columns]:
    return made.columns(decode(notified(*items), 0, received=0, handles=made.handles))


def samples(made: Assembler, *items: tuple[int, Any, Any, int, int]) -> list[Sample]:
    return [sample for some in columns(made, *items) for sample in some.samples()]


FITTING: list[tuple[Rule, Any, Any, ValueType]] = [
    (Rule.DOUBLE, 1.5, T.Double, ValueType.DOUBLE),
    (Rule.DOUBLE, 0.25, T.Float, ValueType.DOUBLE),
    (Rule.NUMBER, 7, T.Int32, ValueType.DOUBLE),
    (Rule.NUMBER, 7, T.UInt64, ValueType.DOUBLE),
    (Rule.INTEGER, -128, T.SByte, ValueType.INTEGER),
    (Rule.INTEGER, 2**32 - 1, T.UInt32, ValueType.INTEGER),
    (Rule.INTEGER, -(2**63), T.Int64, ValueType.INTEGER),
    (Rule.INTEGER, 2**63 - 1, T.UInt64, ValueType.INTEGER),
    (Rule.BOOLEAN, True, T.Boolean, ValueType.BOOLEAN),
    (Rule.STRING, "on", T.String, ValueType.STRING),
    (Rule.STRING, ua.LocalizedText("an"), T.LocalizedText, ValueType.STRING),
]


@pytest.mark.parametrize(("rule", "value", "kind", "type_"), FITTING)
def test_a_value_that_fits_its_tags_type_is_kept(rule: Rule, value: Any, kind: Any, type_: ValueType) -> None:
    [found] = columns(assembler(rule), (0, value, kind, 0, 1))
    assert found.type is type_
    [sample] = found.samples()
    assert sample.value == getattr(value, "Text", value)
    assert (sample.time, sample.quality, sample.status) == (BASE_NS + 10**9, Quality.GOOD, 0)


@pytest.mark.parametrize(
    ("rule", "value", "kind"),
    [
        (Rule.DOUBLE, 3, T.Int32),
        (Rule.DOUBLE, "3", T.String),
        (Rule.INTEGER, 3.0, T.Double),
        (Rule.INTEGER, True, T.Boolean),
        (Rule.BOOLEAN, 1, T.Byte),
        (Rule.STRING, 1.0, T.Double),
        (Rule.NUMBER, True, T.Boolean),
        (Rule.INTEGER, [1, 2], T.Int32),
    ],
)
def test_a_value_of_another_type_is_null_bad_and_counted_and_the_type_stays(rule: Rule, value: Any, kind: Any) -> None:
    made = assembler(rule)
    [sample] = samples(made, (0, value, kind, 0, 1))
    assert (sample.value, sample.quality, sample.status) == (None, Quality.BAD, "type-mismatch")
    assert made.counts.type_mismatch == 1


def test_an_unsigned_value_above_int64_is_out_of_range_and_its_neighbours_are_not() -> None:
    made = assembler(Rule.INTEGER)
    found = samples(made, (0, 2**63, T.UInt64, 0, 1), (0, 5, T.UInt64, 0, 2))
    assert [(s.value, s.quality, s.status) for s in found] == [
        (None, Quality.BAD, "out-of-range"),
        (5, Quality.GOOD, 0),
    ]


def test_a_tags_samples_keep_their_order_across_types_and_layouts() -> None:
    made = assembler(Rule.DOUBLE, Rule.INTEGER)
    found = samples(
        made,
        (0, 1.0, T.Double, 0, 1),
        (1, 1, T.Int32, 0, 1),
        (0, None, None, 0x80310000, 2),
        (0, 3.0, T.Float, 0, 3),
        (0, 4, T.Int32, 0, 4),
        (1, None, None, 0x80310000, 2),
        (0, 5.0, T.Double, 0x40900000, 5),
    )
    of = [(s.value, s.quality, s.status) for s in found if s.tag == "T0"]
    assert of == [
        (1.0, Quality.GOOD, 0),
        (None, Quality.BAD, 0x80310000),
        (3.0, Quality.GOOD, 0),
        (None, Quality.BAD, "type-mismatch"),
        (5.0, Quality.UNCERTAIN, 0x40900000),
    ]
    assert [s.value for s in found if s.tag == "T1"] == [1, None]


@pytest.mark.parametrize(
    ("status", "quality"),
    [
        (0, Quality.GOOD),
        (0x00300000, Quality.GOOD),
        (0x480, Quality.GOOD),
        (0x40900000, Quality.UNCERTAIN),
        (0x80310000, Quality.BAD),
        (0xC0000000, Quality.BAD),
    ],
)
def test_the_severity_bits_decide_the_quality_and_the_code_is_kept(status: int, quality: Quality) -> None:
    [sample] = samples(assembler(Rule.DOUBLE), (0, 1.0, T.Double, status, 1))
    assert (sample.value, sample.quality, sample.status) == (1.0, quality, status)


def test_nan_and_infinity_are_null_and_bad() -> None:
    found = samples(assembler(Rule.DOUBLE), (0, math.nan, T.Double, 0, 1), (0, -math.inf, T.Float, 0, 2))
    assert [(s.value, s.quality, s.status) for s in found] == [(None, Quality.BAD, "nan")] * 2


@pytest.mark.parametrize("rule", [Rule.DOUBLE, Rule.INTEGER, Rule.BOOLEAN, Rule.STRING])
def test_a_null_that_calls_itself_good_is_uncertain(rule: Rule) -> None:
    [sample] = samples(assembler(rule), (0, None, None, 0, 1))
    assert (sample.value, sample.quality) == (None, Quality.UNCERTAIN)


def test_the_servers_overflow_bit_is_counted() -> None:
    made = assembler(Rule.DOUBLE)
    samples(made, (0, 1.0, T.Double, 0x480, 1), (0, 1.0, T.Double, 0x400, 2), (0, 1.0, T.Double, 0x80, 3))
    assert made.counts.overflows == 1


def test_the_promise_of_a_first_value_is_filtered_once_per_item() -> None:
    made = assembler(Rule.DOUBLE)
    made.subscribed(0)
    waiting = (0, None, None, 0x80320000, 1)
    assert samples(made, waiting) == []
    assert made.counts.filtered == 1
    [later] = samples(made, waiting)
    assert later.quality is Quality.BAD
    assert (made.counts.received, made.counts.filtered) == (2, 1)


def test_what_was_handed_on_before_an_item_was_made_again_is_not_handed_on_twice() -> None:
    made = assembler(Rule.DOUBLE, Rule.DOUBLE)
    made.subscribed(0)
    made.subscribed(1)
    samples(made, (0, 1.0, T.Double, 0, 1), (1, 5.0, T.Double, 0, 1))
    made.subscribed(0)
    made.subscribed(1)
    found = samples(made, (0, 1.0, T.Double, 0, 1), (1, 6.0, T.Double, 0, 2), (0, 2.0, T.Double, 0, 2))
    assert [(s.tag, s.value) for s in found] == [("T1", 6.0), ("T0", 2.0)]
    assert made.counts.filtered == 1


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        (Rule.DOUBLE, (1.0, T.Double, 0), (2.0, T.Double, 0)),
        (Rule.DOUBLE, (1.0, T.Double, 0), (1.0, T.Double, 0x80310000)),
        (Rule.INTEGER, (1, T.Int32, 0), (2, T.Int32, 0)),
        (Rule.BOOLEAN, (True, T.Boolean, 0), (False, T.Boolean, 0)),
        (Rule.STRING, ("on", T.String, 0), ("off", T.String, 0)),
        (Rule.STRING, ("on", T.String, 0), (None, None, 0x80310000)),
    ],
)
def test_a_value_or_quality_that_changed_without_its_time_is_no_repetition(rule: Rule, before: Any, after: Any) -> None:
    made = assembler(rule)
    made.subscribed(0)
    assert len(samples(made, (0, *before, 1))) == 1
    made.subscribed(0)
    assert len(samples(made, (0, *after, 1))) == 1
    made.subscribed(0)
    assert samples(made, (0, *after, 1)) == []
    assert made.counts.filtered == 1


def test_notifications_of_items_that_are_gone_are_filtered() -> None:
    made = assembler(Rule.DOUBLE, Rule.DOUBLE)
    made.remove(0)
    found = samples(made, (0, 1.0, T.Double, 0, 1), (1, 2.0, T.Double, 0, 1))
    assert [(s.tag, s.value) for s in found] == [("T1", 2.0)]
    assert (made.counts.received, made.counts.filtered, made.counts.unknown) == (2, 1, 1)


def test_what_comes_before_there_is_any_tag_is_counted_and_dropped() -> None:
    made = Assembler()
    assert columns(made, (0, 1.0, T.Double, 0, 1)) == []
    assert (made.counts.received, made.counts.filtered, made.counts.unknown) == (1, 1, 1)


def test_columns_name_only_the_series_that_occur() -> None:
    made = assembler(*[Rule.DOUBLE] * 500)
    [found] = columns(made, (321, 1.0, T.Double, 0, 1), (17, 2.0, T.Double, 0, 1))
    assert {series.tag for series in found.series} == {"T17", "T321"}


def test_another_unit_or_asset_shows_from_then_on() -> None:
    made = assembler(Rule.DOUBLE)
    samples(made, (0, 1.0, T.Double, 0, 1))
    made.relabel(0, Series("T0", asset="a/b", unit="bar"))
    [sample] = samples(made, (0, 2.0, T.Double, 0, 2))
    assert (sample.asset, sample.unit) == ("a/b", "bar")


def test_samples_from_history_are_typed_like_live_ones_and_are_not_the_last_of_their_tags() -> None:
    made = assembler(Rule.DOUBLE, Rule.INTEGER)
    live = samples(made, (0, 1.0, T.Double, 0, 50), (1, 1, T.Int32, 0, 50))
    past = decode(notified((0, 3, T.Int32, 0, 1), (1, 7, T.Int32, 0x40900000, 2), (1, 8, T.Int32, 0, 3)), 0, received=0,
                  handles=2)  # fmt: skip
    found = [sample for some in made.brought(past.blocks) for sample in some.samples()]
    assert [(s.tag, s.value, s.quality, s.status) for s in found] == [
        ("T0", None, Quality.BAD, "type-mismatch"),
        ("T1", 7, Quality.UNCERTAIN, 0x40900000),
        ("T1", 8, Quality.GOOD, 0),
    ]
    handles, times, _ = made.marks()
    assert dict(zip(handles.tolist(), times.tolist(), strict=True)) == {0: live[0].time, 1: live[1].time}


# --- what is known of a tag ---


def test_a_parked_tag_goes_on_under_another_handle_and_repeats_nothing() -> None:
    made = assembler(Rule.DOUBLE)
    samples(made, (0, 1.0, T.Double, 0, 1))
    made.gaps.open([0], "away")
    made.park(0)
    assert made.series(0) is None
    assert made.parked["T0"].time == BASE_NS + 10**9
    assert samples(made, (0, 9.0, T.Double, 0, 9)) == [], "what still arrives for the old handle is left out"
    handle = made.add(Series("T0"))
    made.fix(handle, Rule.DOUBLE)
    made.subscribed(handle)
    assert samples(made, (handle, 1.0, T.Double, 0, 1)) == [], "the first value of the new item only repeats"
    assert [s.value for s in samples(made, (handle, 2.0, T.Double, 0, 2))] == [2.0]


def test_a_parked_tags_next_value_is_no_repetition_when_only_its_time_is_the_same() -> None:
    made = assembler(Rule.DOUBLE)
    samples(made, (0, 1.0, T.Double, 0, 1))
    made.park(0)
    handle = made.add(Series("T0"))
    made.fix(handle, Rule.DOUBLE)
    made.subscribed(handle)
    assert [s.value for s in samples(made, (handle, 2.0, T.Double, 0, 1))] == [2.0]


def test_a_parked_tag_keeps_its_hole_which_ends_with_the_next_live_sample() -> None:
    made = assembler(Rule.DOUBLE)
    samples(made, (0, 1.0, T.Double, 0, 1))
    made.gaps.open([0], "away")
    made.park(0)
    assert made.gaps.status()["gaps"] == 1
    handle = made.add(Series("T0"))
    made.fix(handle, Rule.DOUBLE)
    made.gaps.eligible(handle, "")
    samples(made, (handle, 5.0, T.Double, 0, 5))
    made.gaps.work(0.0, 1)
    [piece] = made.gaps.work(100.0, 1)
    assert (piece.handle, piece.at, piece.until) == (handle, BASE_NS + 10**9, BASE_NS + 5 * 10**9)


@pytest.mark.parametrize(
    ("rule", "value", "kind", "shown"),
    [
        (Rule.DOUBLE, 1.5, T.Double, 1.5),
        (Rule.DOUBLE, math.nan, T.Double, None),
        (Rule.INTEGER, -3, T.Int32, -3),
        (Rule.BOOLEAN, True, T.Boolean, True),
        (Rule.STRING, "on", T.String, "on"),
        (Rule.STRING, "x" * 500, T.String, "x" * 200 + "…"),
    ],
)
def test_the_last_value_of_a_tag_can_be_asked_for(rule: Rule, value: Any, kind: Any, shown: Any) -> None:
    made = assembler(rule)
    assert made.last(0) is None
    samples(made, (0, value, kind, 0x40900000, 1))
    assert made.last(0) == (BASE_NS + 10**9, shown, 0x40900000)
    samples(made, (0, None, None, 0x80310000, 2))
    assert made.last(0) == (BASE_NS + 2 * 10**9, None, 0x80310000)
    made.another(0)
    assert made.last(0) is None
    assert made.last(1) == (BASE_NS + 2 * 10**9, None, 0x80310000)


def test_a_value_that_was_refused_is_not_shown_as_the_last_one() -> None:
    made = assembler(Rule.INTEGER)
    samples(made, (0, 2**63, T.UInt64, 0, 1))
    assert made.last(0) == (BASE_NS + 10**9, None, "out-of-range")


def test_when_something_of_a_tag_arrived_is_known_whether_it_was_kept_or_not() -> None:
    made = assembler(Rule.DOUBLE, Rule.DOUBLE, Rule.DOUBLE)
    made.subscribed(1)
    body = notified((0, 1.0, T.Double, 0, 1), (1, None, None, 0x80320000, 1))
    assert len(made.columns(decode(body, 0, received=0, handles=3), 77)) == 1
    assert made.arrived[:3].tolist() == [77, 77, 0]


@pytest.mark.parametrize(("status", "said"), [(0x4000, True), (0x8000, True), (0x0480, False), (0, False)])
def test_a_server_that_says_that_type_or_unit_may_be_others_is_heard(status: int, said: bool) -> None:
    made = assembler(Rule.DOUBLE, Rule.DOUBLE)
    samples(made, (1, 1.0, T.Double, status, 1))
    assert made.changed == ({1} if said else set())
    made.remove(1)
    assert made.changed == set()


def test_one_structure_that_contradicts_its_definition_in_ten_thousand_costs_itself() -> None:
    made = Assembler()
    typing = Typing(
        Rule.DOUBLE,
        structures=(Structure("ns=2;i=1", "ns=2;i=2", 0, (Field("Speed", 11),)),),
        field=("Speed",),
        family=11,
    )
    for number in range(10_000):
        made.fix(made.add(Series(f"T{number}")), typing)
    speeds = [
        ua.ExtensionObject(ua.NodeId(2, 2), struct.pack("<d", n) if n != 4_711 else b"\x01\x02\x03")
        for n in range(10_000)
    ]
    found = samples(made, *((n, value, T.ExtensionObject, 0, 1) for n, value in enumerate(speeds)))
    assert made.counts.undecodable == 1
    assert [(s.tag, s.value, s.quality, s.status) for s in found if s.status != 0] == [
        ("T4711", None, Quality.BAD, "undecodable")
    ]
    assert [s.value for s in found if s.status == 0] == [n for n in range(10_000) if n != 4_711]
