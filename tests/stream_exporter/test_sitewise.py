"""SiteWise entries: nothing is appended that SiteWise would refuse, and nothing is left out uncounted."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from sluice.batch import Columns, Header, Quality, Sample, SampleBatch, ValueType, from_samples
from stream_exporter.destinations import Integers, alias_fields
from stream_exporter.messages import Encoded
from stream_exporter.sitewise import SiteWiseEncoder, SiteWiseRules

NOW = 1_769_860_800_123_456_789
SECOND = 1_000_000_000
DAY = 86_400 * SECOND
EPOCH = "9f2c51aa07be"

_MODEL = botocore.session.get_session().get_service_model("iotsitewise")
_REQUEST = _MODEL.operation_model("BatchPutAssetPropertyValue").input_shape
_ENTRY_ID = re.compile(_MODEL.shape_for("EntryId").metadata["pattern"])
_ALIAS = re.compile(_MODEL.shape_for("AssetPropertyAlias").metadata["pattern"])


def accepted(encoded: Encoded) -> list[dict[str, Any]]:
    """The entries, after botocore's model of the service and its documented limits have found nothing wrong."""
    entries = [strictly(message.payload) for message in encoded.messages]
    report = ParamValidator().validate({"entries": entries}, _REQUEST)
    assert not report.has_errors(), report.generate_report()
    ids = [entry["entryId"] for entry in entries]
    assert len(set(ids)) == len(ids)
    for entry, message in zip(entries, encoded.messages, strict=True):
        assert _ENTRY_ID.fullmatch(entry["entryId"])
        assert len(entry["entryId"]) <= 64
        assert _ALIAS.fullmatch(entry["propertyAlias"])
        values = entry["propertyValues"]
        assert 1 <= len(values) <= 10
        assert len(values) == message.samples
        for value in values:
            ((variant, content),) = value["value"].items()
            assert value["quality"] in ("GOOD", "UNCERTAIN", "BAD")
            assert 0 <= value["timestamp"]["offsetInNanos"] < SECOND
            assert NOW - 7 * DAY <= time_of(value) <= NOW + 600 * SECOND
            if variant == "integerValue":
                assert -(2**31) <= content < 2**31
            if variant == "stringValue":
                assert len(content.encode()) <= 1024
                assert not re.search(r"[\x00-\x1f\x7f]", content)
    return entries


def strictly(payload: bytes) -> dict[str, Any]:
    """JSON that names no member twice and has no NaN."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    parsed: dict[str, Any] = json.loads(payload, object_pairs_hook=unique, parse_constant=refuse)
    return parsed


def time_of(value: dict[str, Any]) -> int:
    return int(value["timestamp"]["timeInSeconds"]) * SECOND + int(value["timestamp"]["offsetInNanos"])


def batches_of(*samples: Sample, seq: int = 1) -> list[SampleBatch]:
    return [
        SampleBatch(Header("opcua-collector/line1", EPOCH, seq + number), columns)
        for number, columns in enumerate(from_samples(samples))
    ]


def encode(*samples: Sample, **rules: Any) -> Encoded:
    return SiteWiseEncoder(SiteWiseRules(**rules)).encode(batches_of(*samples), NOW)


def values(encoded: Encoded) -> list[tuple[str, Any]]:
    return [next(iter(value["value"].items())) for entry in accepted(encoded) for value in entry["propertyValues"]]


TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.integers(1020, 1028).map(lambda size: "x" * size),
    st.integers(510, 514).map(lambda size: "ä" * size),
)
ANY_VALUE = st.one_of(
    st.none(),
    st.floats(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31) - 2, -(2**31) + 2),
    st.integers(2**31 - 3, 2**31 + 2),
    st.booleans(),
    TEXT,
)
NEAR = st.sampled_from([NOW - 7 * DAY, NOW + 600 * SECOND, NOW]).flatmap(lambda edge: st.integers(edge - 3, edge + 3))
SAMPLES = st.builds(
    Sample,
    tag=st.sampled_from(["A", "B", "C\x07", "D" * 2100, "E é"]),
    time=st.one_of(NEAR, st.integers(NOW - 3, NOW + 3), st.integers(-(2**60), 2**62)),
    value=ANY_VALUE,
    quality=st.sampled_from(list(Quality)),
    asset=st.sampled_from(["", "site/line1"]),
)


@given(st.lists(SAMPLES, max_size=60), st.sampled_from(Integers), st.booleans())
def test_every_sample_is_exported_or_counted_and_the_service_takes_every_entry(
    samples: list[Sample], integers: Integers, send_nulls: bool
) -> None:
    encoded = encode(*samples, integers=integers, send_nulls=send_nulls)

    entries = accepted(encoded)
    assert encoded.samples + sum(encoded.filtered.values()) == len(samples)
    assert set(encoded.examples) >= set(encoded.filtered)
    keys = Counter(
        (entry["propertyAlias"], time_of(value), value["quality"])
        for entry in entries
        for value in entry["propertyValues"]
    )
    assert not [key for key, count in keys.items() if count > 1]


@given(st.lists(SAMPLES, max_size=30))
def test_what_is_exported_is_what_came_and_the_later_of_two_for_one_time_counts(samples: list[Sample]) -> None:
    wanted: dict[tuple[str, int, str], Any] = {}
    for batch in batches_of(*samples):  # from_samples orders by type: that is the order of arrival
        for sample in batch.columns.samples():
            alias = f"{sample.asset}/{sample.tag}"
            if exportable(sample, alias):
                wanted[alias, sample.time, sample.quality.name] = sample.value

    entries = accepted(encode(*samples))

    found = {
        (entry["propertyAlias"], time_of(value), value["quality"]): next(iter(value["value"].values()))
        for entry in entries
        for value in entry["propertyValues"]
    }
    assert found == wanted
    assert all(type(found[key]) is type(wanted[key]) for key in found)


def exportable(sample: Sample, alias: str) -> bool:
    """The rules once more, in words of their own, for one sample."""
    if len(alias) > 2048 or any(ord(c) < 32 or ord(c) == 127 for c in alias):
        return False
    if not NOW - 7 * DAY <= sample.time <= NOW + 600 * SECOND:
        return False
    value = sample.value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return False
    if isinstance(value, str):
        return len(value.encode()) <= 1024 and not any(ord(c) < 32 or ord(c) == 127 for c in value)
    return isinstance(value, (bool, float)) or -(2**31) <= value < 2**31


@given(st.lists(SAMPLES, max_size=30))
def test_the_same_range_and_decision_time_give_the_same_entries(samples: list[Sample]) -> None:
    used = SiteWiseEncoder(SiteWiseRules())
    used.encode(batches_of(*samples[::-1]), NOW - 5)

    assert used.encode(batches_of(*samples), NOW) == SiteWiseEncoder(SiteWiseRules()).encode(batches_of(*samples), NOW)


def test_an_entry_is_written_as_the_service_documents_it() -> None:
    encoded = encode(Sample("Reactor/Temp", NOW, 21.5, asset="site/area/line1", unit="degC"))

    assert encoded.messages[0].payload == (
        b'{"entryId":"9f2c51aa07be-1-0","propertyAlias":"site/area/line1/Reactor/Temp","propertyValues":'
        b'[{"value":{"doubleValue":21.5},"timestamp":{"timeInSeconds":1769860800,"offsetInNanos":123456789},'
        b'"quality":"GOOD"}]}'
    )


def test_ten_values_of_a_property_make_an_entry() -> None:
    encoded = encode(*(Sample(tag, NOW - n * SECOND, float(n)) for n in range(25) for tag in "AB"))

    assert [message.samples for message in encoded.messages] == [10, 10, 5, 10, 10, 5]
    assert [entry["propertyAlias"] for entry in accepted(encoded)] == ["/A"] * 3 + ["/B"] * 3


def test_values_of_an_entry_are_in_order_of_time() -> None:
    encoded = encode(*(Sample("A", NOW - n * SECOND, n) for n in (3, 1, 2)))

    assert values(encoded) == [("integerValue", 3), ("integerValue", 2), ("integerValue", 1)]


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample("A", NOW - 7 * DAY - 1, 1.0), "too-old"),
        (Sample("A", NOW + 600 * SECOND + 1, 1.0), "too-new"),
        (Sample("A", NOW, None, Quality.BAD), "null"),
        (Sample("A", NOW, 2**31), "integer-range"),
        (Sample("A", NOW, -(2**31) - 1), "integer-range"),
        (Sample("A", NOW, "x" * 1025), "string-too-long"),
        (Sample("A", NOW, "ä" * 513), "string-too-long"),
        (Sample("A", NOW, "a\x00b"), "string-control"),
        (Sample("A\x1f", NOW, 1.0), "alias"),
        (Sample("A" * 2048, NOW, 1.0), "alias"),
    ],
)
def test_what_sitewise_refuses_is_left_out_counted_and_shown(sample: Sample, reason: str) -> None:
    good = Sample("Good", NOW, 1.0)

    encoded = encode(good, sample)

    assert encoded.filtered[reason] == 1
    assert "opcua-collector/line1" in encoded.examples[reason]
    assert [entry["propertyAlias"] for entry in accepted(encoded)] == ["/Good"]


@pytest.mark.parametrize(
    "sample",
    [
        Sample("A", NOW - 7 * DAY, 1.0),
        Sample("A", NOW + 600 * SECOND, 1.0),
        Sample("A", NOW, 2**31 - 1),
        Sample("A", NOW, -(2**31)),
        Sample("A", NOW, ""),
        Sample("A", NOW, "ä" * 512),
        Sample("A" * 2047, NOW, 1.0),
    ],
)
def test_what_sitewise_just_takes_is_exported(sample: Sample) -> None:
    encoded = encode(sample)

    assert encoded.filtered == {}
    ((_, value),) = values(encoded)
    assert value == sample.value


def test_integers_go_as_doubles_when_the_rule_says_so_whatever_their_size() -> None:
    encoded = encode(Sample("A", NOW, 5), Sample("A", NOW - 1, 2**40), integers=Integers.DOUBLE)

    assert values(encoded) == [("doubleValue", float(2**40)), ("doubleValue", 5.0)]


def test_nulls_are_sent_with_their_type_when_asked_for() -> None:
    good: dict[str, float | int | bool | str] = {"D": 1.0, "I": 1, "B": True, "S": "x"}
    samples = [Sample(tag, NOW, value) for tag, value in good.items()]
    samples += [Sample(tag, NOW, None, Quality.BAD) for tag in good]

    sent = [content for variant, content in values(encode(*samples, send_nulls=True)) if variant == "nullValue"]

    assert sorted(null["valueType"] for null in sent) == ["B", "D", "I", "S"]


def test_a_value_that_another_of_the_same_time_replaces_is_told_apart_from_a_repetition() -> None:
    encoded = encode(Sample("A", NOW, 1.0), Sample("A", NOW, 1.0), Sample("A", NOW, 2.0))

    assert encoded.filtered == {"repeat": 1, "superseded": 1}
    assert '"doubleValue":1.0, then "doubleValue":2.0' in encoded.examples["superseded"]
    assert [content for _, content in values(encoded)] == [2.0]


def test_two_series_with_one_alias_are_one_property() -> None:
    encoded = encode(Sample("A", NOW, 1.0, unit="K"), Sample("A", NOW - 1, 2.0, unit="degC"))

    assert [message.samples for message in encoded.messages] == [2]


def test_an_alias_is_made_by_the_template() -> None:
    encoded = encode(Sample("A", NOW, 1.0, asset="s/l", unit="K"), alias="/{source}/{asset}/{tag} [{unit}]")

    assert accepted(encoded)[0]["propertyAlias"] == "/line1/s/l/A [K]"


@pytest.mark.parametrize("template", ["{tag", "{nothing}", "{tag!r}", "{tag:>10}", "{}", "{0}", "{tag.__class__}"])
def test_a_template_that_is_none_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        alias_fields(template)


def test_an_entry_holds_values_of_several_batches_of_the_range() -> None:
    parts = [SampleBatch(Header("p/s", EPOCH, seq), double("A", NOW + seq)) for seq in range(1, 5)]

    encoded = SiteWiseEncoder(SiteWiseRules()).encode(parts, NOW)

    assert [message.samples for message in encoded.messages] == [4]
    assert accepted(encoded)[0]["entryId"] == f"{EPOCH}-1-0"


def double(tag: str, time: int) -> Columns:
    (columns,) = from_samples([Sample(tag, time, 1.5)])
    assert columns.type is ValueType.DOUBLE
    return columns


def test_nothing_in_gives_nothing_out() -> None:
    assert SiteWiseEncoder(SiteWiseRules()).encode([], NOW) == Encoded(())
