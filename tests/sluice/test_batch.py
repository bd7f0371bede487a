"""Batches: round trips against an independent oracle, cutting, malformed input, cost."""

from __future__ import annotations

import contextlib
import json
import math
import random
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sluice.batch import (
    CLASSIC_MAX_MESSAGE_BYTES,
    LITE_MAX_MESSAGE_BYTES,
    NAN,
    NOT_UNICODE,
    TOO_LARGE,
    Announcement,
    BatchError,
    Columns,
    EventBatch,
    Header,
    Quality,
    Sample,
    SampleBatch,
    Series,
    ValueType,
    decode,
    encode,
    encode_announcement,
    encode_events,
    encode_sanitized,
    from_samples,
    sanitize,
)
from sluice.cutting import Cutter, cut, cut_events

HEADER = Header("opcua-collector/line1", "9f2c5a0b77d1", 1042)
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

unhurried = settings(max_examples=60)


# ---------------------------------------------------------------------------------------------------------- the oracle
#
# Written from the description of the wire form alone, with the standard library's json, one sample at a time.


def oracle_read(payload: bytes) -> list[Sample]:
    """The samples of a payload, as a reader would get them who knows the format from its description only."""
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        payload = zstandard.ZstdDecompressor().decompressobj().decompress(payload)

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not strict JSON")

    body = json.loads(payload.decode("utf-8"), parse_constant=refuse)
    assert (body["v"], body["kind"]) == (1, "samples")
    rows = []
    for i, (s, dt, value) in enumerate(zip(body["s"], body["dt"], body["value"], strict=True)):
        series = body["series"][s]
        assert dt >= 0
        rows.append(
            Sample(
                tag=series["tag"],
                time=body["t0"] + dt,
                value=value,
                quality=Quality(body["q"][i] if "q" in body else 0),
                status=body["status"][i] if "status" in body else 0,
                asset=series.get("asset", ""),
                unit=series.get("unit", ""),
                batch=series.get("batch", ""),
                extra=tuple((k, v) for k, v in series.items() if k not in ("tag", "asset", "unit", "batch")),
            )
        )
    return rows


def oracle_write(header: Header, of: ValueType, rows: list[Sample]) -> bytes:
    """A payload of these samples as somebody else would write it: a series per sample, every member spelled out."""
    t0 = min((row.time for row in rows), default=0)
    series = [
        {"batch": r.batch, "unit": r.unit, **dict(r.extra), "tag": r.tag, "asset": r.asset, "more": "kept"}
        for r in rows
    ]
    body = {
        "status": [r.status for r in rows],
        "q": [int(r.quality) for r in rows],
        "value": [r.value for r in rows],
        "dt": [r.time - t0 for r in rows],
        "t0": t0,
        "s": list(range(len(rows))),
        "series": series,
        "type": of.value,
        "seq": header.seq,
        "epoch": header.epoch,
        "stream": header.stream,
        "kind": "samples",
        "v": 1,
        "not known yet": {"ignored": [1, 2]},
    }
    return json.dumps(body, ensure_ascii=True, indent=1).encode()


# ---------------------------------------------------------------------------------------------------------- strategies

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values: dict[ValueType, st.SearchStrategy[Any]] = {
    ValueType.DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
    ValueType.INTEGER: st.integers(INT64_MIN, INT64_MAX),
    ValueType.BOOLEAN: st.booleans(),
    ValueType.STRING: texts,
}
times = st.one_of(st.integers(1_700_000_000_000_000_000, 1_700_000_000_100_000_000), st.integers(INT64_MIN, INT64_MAX))
contexts = st.builds(
    Series,
    tag=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    asset=texts,
    unit=texts,
    batch=texts,
    extra=st.dictionaries(st.sampled_from(["phase", "product", "line"]), texts, max_size=2).map(
        lambda d: tuple(d.items())
    ),
)
statuses = st.one_of(st.just(0), st.integers(1, 2**32 - 1), st.sampled_from(["nan", "Bad Input", "ж"]))


CONTEXTS = (
    Series("Reactor/Temp", "Site/Area/Line1", "degC", "B-1042"),
    Series("Reactor/Temp", "Site/Area/Line2", "degC"),
    Series("Level"),
    Series("ж" * 20, unit="µm/s²"),
    Series('quote"back\\slash', batch="\x00\x1f"),
    Series("x" * 200, extra=(("phase", "heat"), ("product", "€𐀀"))),
)


@st.composite
def samples_of(draw: st.DrawFn, of: ValueType, max_size: int = 12) -> list[Sample]:
    """Legal samples of one type whose tags repeat."""
    series = draw(st.lists(contexts, min_size=1, max_size=4))
    rows = []
    for _ in range(draw(st.integers(0, max_size))):
        context = draw(st.sampled_from(series))
        quality = draw(st.sampled_from(list(Quality)))
        value = draw(st.one_of(values[of], st.none()) if quality else values[of])
        rows.append(
            Sample(
                context.tag,
                draw(times),
                value,
                quality,
                draw(statuses),
                context.asset,
                context.unit,
                context.batch,
                context.extra,
            )
        )
    return rows


@st.composite
def columns_of(draw: st.DrawFn, max_size: int = 200) -> Columns:
    """Any columns, sanitized or not, with series that may be unused and statuses laid out in any way."""
    of = draw(st.sampled_from(list(ValueType)))
    size = draw(st.integers(1, max_size))
    series = tuple(draw(st.lists(st.sampled_from(CONTEXTS), min_size=1, max_size=8)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([1, 1_000, 10**9, 2**62]))
    null = rng.random(size) < draw(st.sampled_from([0.0, 0.3]))
    value: NDArray[Any]
    if of is ValueType.DOUBLE:
        odd = rng.choice(np.array([np.nan, np.inf, -np.inf]), size)
        value = np.where(null, odd, np.round(rng.normal(50, 5, size), draw(st.sampled_from([0, 3, 15]))))
    elif of is ValueType.INTEGER:
        value = rng.integers(INT64_MIN, INT64_MAX, size, endpoint=True)
    elif of is ValueType.BOOLEAN:
        value = rng.random(size) < 0.5
    else:
        pool = draw(st.lists(st.text(max_size=40), min_size=1, max_size=5))
        value = np.empty(size, dtype=object)
        value[:] = [None if lost else pool[int(rng.integers(len(pool)))] for lost in null]
    with_null = of in (ValueType.INTEGER, ValueType.BOOLEAN)
    return Columns(
        type=of,
        series=series,
        s=rng.integers(0, len(series), size).astype(np.int32),
        t=1_700_000_000_000_000_000 + np.sort(rng.integers(0, spread, size)),
        value=value,
        quality=rng.integers(0, 3, size).astype(np.uint8) if draw(st.booleans()) else None,
        status=rng.integers(-2, 3, size) if draw(st.booleans()) else None,
        words=("first", "second"),
        null=null if with_null and draw(st.booleans()) else None,
    )


def samples_of_payload(payload: bytes) -> SampleBatch:
    message = decode(payload)
    assert isinstance(message, SampleBatch)
    return message


# --------------------------------------------------------------------------------------------------------- round trips


@unhurried
@given(st.sampled_from(list(ValueType)).flatmap(samples_of))
def test_samples_become_columns_and_samples_again(rows: list[Sample]) -> None:
    groups = from_samples(rows)
    assert sorted(map(repr, (row for columns in groups for row in columns.samples()))) == sorted(map(repr, rows))
    for columns in groups:
        assert sanitize(columns) is columns, "legal samples need no change"


@unhurried
@given(st.lists(st.sampled_from(list(ValueType)).flatmap(lambda of: samples_of(of, 6)), max_size=6))
def test_samples_of_several_types_are_grouped_by_type_and_keep_their_order(groups: list[list[Sample]]) -> None:
    rows = [row for group in groups for row in group if row.value is not None]
    columns = from_samples(rows)
    assert len({of.type for of in columns}) == len(columns)
    for of in columns:
        python_type = {"double": float, "integer": int, "boolean": bool, "string": str}[of.type.value]
        assert list(of.samples()) == [row for row in rows if type(row.value) is python_type]


def test_a_null_takes_the_type_that_its_tag_has_elsewhere() -> None:
    rows = [
        Sample("a", 1, None, Quality.BAD),
        Sample("b", 1, None, Quality.BAD),
        Sample("a", 2, 7),
    ]
    integers, doubles = sorted(from_samples(rows), key=len, reverse=True)
    assert (integers.type, [r.value for r in integers.samples()]) == (ValueType.INTEGER, [None, 7])
    assert (doubles.type, [r.tag for r in doubles.samples()]) == (ValueType.DOUBLE, ["b"])


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        (Sample("T", 0, 2**63), "9223372036854775808 of tag 'T'"),
        (Sample("T", 0, -(2**63) - 1), "-9223372036854775809 of tag 'T'"),
        (Sample("T", 0, 10**5000), "an integer of 16610 bits of tag 'T'"),
        (Sample("T", 2**63, 1.0), "of tag 'T' is not within 64 bits of ns"),
    ],
)
def test_what_does_not_fit_64_bits_is_refused_with_its_tag(sample: Sample, told: str) -> None:
    with pytest.raises(BatchError) as caught:
        from_samples([sample])
    assert told in str(caught.value)


@unhurried
@given(st.sampled_from(list(ValueType)).flatmap(samples_of), st.booleans())
def test_an_independent_reader_finds_in_the_bytes_exactly_the_samples_that_went_in(
    rows: list[Sample], compress: bool
) -> None:
    for columns in from_samples(rows):
        payload = encode(HEADER, columns, compress=compress)
        assert oracle_read(payload) == list(columns.samples())


@unhurried
@given(st.sampled_from(list(ValueType)).flatmap(samples_of))
def test_what_an_independent_writer_wrote_is_read_exactly(rows: list[Sample]) -> None:
    for columns in from_samples(rows):
        batch = samples_of_payload(oracle_write(HEADER, columns.type, list(columns.samples())))
        assert batch.header == HEADER
        assert [(r.tag, r.time, r.value, r.quality, r.status, r.asset, r.unit, r.batch) for r in columns.samples()] == [
            (r.tag, r.time, r.value, r.quality, r.status, r.asset, r.unit, r.batch) for r in batch.columns.samples()
        ]
        assert all(dict(series.extra)["more"] == "kept" for series in batch.columns.series)


@unhurried
@given(columns_of(), st.booleans())
def test_columns_survive_the_wire(columns: Columns, compress: bool) -> None:
    batch = samples_of_payload(encode(HEADER, columns, compress=compress))
    assert batch.header == HEADER
    assert batch.columns.same_as(sanitize(columns))


@unhurried
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_arrives_bit_for_bit(number: float) -> None:
    (columns,) = from_samples([Sample("T", 0, number)])
    (row,) = samples_of_payload(encode(HEADER, columns)).columns.samples()
    assert isinstance(row.value, float)
    assert struct.pack("<d", row.value) == struct.pack("<d", number)


def test_the_whole_range_of_times_fits_one_batch() -> None:
    (columns,) = from_samples([Sample("T", INT64_MAX, 1.0), Sample("T", INT64_MIN, 2.0), Sample("T", 0, 3.0)])
    payload = encode(HEADER, columns, compress=False)
    assert [r.time for r in oracle_read(payload)] == [INT64_MAX, INT64_MIN, 0]
    assert [r.time for r in samples_of_payload(payload).columns.samples()] == [INT64_MAX, INT64_MIN, 0]


def test_an_empty_batch_is_a_batch() -> None:
    empty = Columns(
        ValueType.DOUBLE, (), np.array([], dtype=np.int32), np.array([], dtype=np.int64), np.array([], dtype=np.float64)
    )
    assert len(samples_of_payload(encode(HEADER, empty)).columns) == 0
    assert from_samples([]) == []
    assert cut(empty, LITE_MAX_MESSAGE_BYTES) == []


def test_the_wire_form_is_the_documented_one() -> None:
    rows = [
        Sample("Reactor/Temp", 1_700_000_000_000_000_000, 21.5, asset="Site/Line1", unit="degC", batch="B-1042"),
        Sample("Reactor/Temp", 1_700_000_000_500_000_000, None, Quality.BAD, "nan", "Site/Line1", "degC", "B-1042"),
        Sample("Reactor/Level", 1_700_000_000_000_000_000, 3.0, Quality.UNCERTAIN, 0x40920000),
    ]
    (columns,) = from_samples(rows)
    assert json.loads(encode(HEADER, columns, compress=False)) == {
        "v": 1,
        "kind": "samples",
        "stream": "opcua-collector/line1",
        "epoch": "9f2c5a0b77d1",
        "seq": 1042,
        "type": "double",
        "series": [
            {"tag": "Reactor/Temp", "unit": "degC", "asset": "Site/Line1", "batch": "B-1042"},
            {"tag": "Reactor/Level"},
        ],
        "s": [0, 0, 1],
        "t0": 1_700_000_000_000_000_000,
        "dt": [0, 500_000_000, 0],
        "value": [21.5, None, 3.0],
        "q": [0, 2, 1],
        "status": [0, "nan", 0x40920000],
    }


def test_quality_and_status_cost_nothing_while_all_is_good() -> None:
    columns = plant(100, 10)
    with_zeros = Columns(
        columns.type,
        columns.series,
        columns.s,
        columns.t,
        columns.value,
        np.zeros(100, dtype=np.uint8),
        np.zeros(100, dtype=np.int64),
    )
    assert encode(HEADER, with_zeros) == encode(HEADER, columns)
    assert not {"q", "status"} & json.loads(encode(HEADER, columns, compress=False)).keys()


def test_a_slice_carries_only_the_series_it_uses() -> None:
    columns = plant(100, 10)
    part = columns.slice(3, 6)
    assert [series.tag for series in part.series] == ["Unit1/XMEAS03_Flow", "Unit1/XMEAS04_Flow", "Unit1/XMEAS05_Flow"]
    assert list(part.samples()) == list(columns.samples())[3:6]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"t": np.zeros(2, dtype=np.int64)}, "t"),
        ({"t": np.zeros(3, dtype=np.float64)}, "t"),
        ({"value": np.zeros(3, dtype=np.int64)}, "value"),
        ({"quality": np.zeros(4, dtype=np.uint8)}, "quality"),
        ({"status": np.zeros(3, dtype=np.int32)}, "status"),
        ({"null": np.zeros((3, 1), dtype=np.bool_)}, "null"),
    ],
)
def test_columns_that_do_not_agree_cannot_be_made(change: dict[str, Any], field: str) -> None:
    good: dict[str, Any] = {
        "type": ValueType.DOUBLE,
        "series": (Series("T"),),
        "s": np.zeros(3, dtype=np.int32),
        "t": np.zeros(3, dtype=np.int64),
        "value": np.zeros(3, dtype=np.float64),
    }
    Columns(**good)
    with pytest.raises(BatchError) as caught:
        Columns(**{**good, **change})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"s": np.array([0, 1, 0], dtype=np.int32)}, "s"),
        ({"s": np.array([0, -1, 0], dtype=np.int32)}, "s"),
        ({"quality": np.array([0, 3, 0], dtype=np.uint8)}, "quality"),
        ({"series": (Series("\ud800"),)}, "samples"),
    ],
)
def test_columns_that_no_reader_would_accept_are_not_encoded(change: dict[str, Any], field: str) -> None:
    columns: dict[str, Any] = {
        "type": ValueType.DOUBLE,
        "series": (Series("T"),),
        "s": np.zeros(3, dtype=np.int32),
        "t": np.zeros(3, dtype=np.int64),
        "value": np.zeros(3, dtype=np.float64),
        **change,
    }
    with pytest.raises(BatchError) as caught:
        encode(HEADER, Columns(**columns))
    assert caught.value.field == field


# ------------------------------------------------------------------------------------------------------------ sanitize


@unhurried
@given(columns_of())
def test_sanitizing_twice_changes_nothing_more(columns: Columns) -> None:
    once = sanitize(columns)
    assert sanitize(once) is once


@unhurried
@given(columns_of())
def test_after_sanitizing_null_stands_only_beside_bad_or_uncertain_and_nothing_else_has_changed(
    columns: Columns,
) -> None:
    pairs = list(zip(columns.samples(), sanitize(columns).samples(), strict=True))
    for before, after in pairs:
        assert after.value is not None or after.quality is not Quality.GOOD
        assert after.quality >= before.quality
        if before.value is not None and before == after:
            continue
        text_lost = isinstance(before.value, str) and not before.value.isascii() and after.status == NOT_UNICODE
        infinite = isinstance(before.value, float) and math.isinf(before.value)
        assert before.value is None or infinite or text_lost or before.quality is Quality.BAD or before == after
        assert (after.tag, after.time) == (before.tag, before.time)


def test_numbers_that_json_cannot_carry_become_null_with_the_reason_beside_them() -> None:
    nan, inf = math.nan, math.inf
    columns = Columns(
        ValueType.DOUBLE,
        (Series("T"),),
        np.zeros(8, dtype=np.int32),
        np.arange(8, dtype=np.int64),
        np.array([1.0, nan, inf, -inf, nan, nan, inf, inf]),
        np.array([0, 0, 0, 1, 1, 2, 2, 2], dtype=np.uint8),
        np.array([0, 0, 5, 5, 5, 0, 0, 5], dtype=np.int64),
    )
    assert [(r.value, int(r.quality), r.status) for r in sanitize(columns).samples()] == [
        (1.0, 0, 0),
        (None, 2, NAN),
        (None, 2, NAN),
        (None, 2, NAN),
        (None, 1, 5),  # a null that says UNCERTAIN is legal
        (None, 2, 0),
        (None, 2, NAN),
        (None, 2, 5),  # it was BAD for a reason of its own
    ]


def test_other_nulls_that_call_themselves_good_become_uncertain() -> None:
    integers = Columns(
        ValueType.INTEGER,
        (Series("T"),),
        np.zeros(2, dtype=np.int32),
        np.zeros(2, dtype=np.int64),
        np.array([4, 0], dtype=np.int64),
        null=np.array([False, True]),
    )
    assert [(r.value, r.quality) for r in sanitize(integers).samples()] == [
        (4, Quality.GOOD),
        (None, Quality.UNCERTAIN),
    ]


def test_text_that_is_not_unicode_becomes_null_bad() -> None:
    (columns,) = from_samples([Sample("T", 0, "a\ud800"), Sample("T", 1, "ж")])
    batch = samples_of_payload(encode(HEADER, columns))
    assert [(r.value, r.quality, r.status) for r in batch.columns.samples()] == [
        (None, Quality.BAD, NOT_UNICODE),
        ("ж", Quality.GOOD, 0),
    ]


# ------------------------------------------------------------------------------------------------------------- cutting


@unhurried
@given(columns_of(max_size=1_000), st.sampled_from([1_000, 1_500, LITE_MAX_MESSAGE_BYTES]), st.booleans())
def test_every_part_fits_its_frame_and_together_they_are_the_input(
    columns: Columns, max_bytes: int, compress: bool
) -> None:
    parts = cut(columns, max_bytes, compress=compress)
    for part in parts:
        assert len(encode(HEADER, part, compress=compress)) <= max_bytes
    rows = [row for part in parts for row in part.samples()]
    for before, after in zip(sanitize(columns).samples(), rows, strict=True):
        if after.status == TOO_LARGE:
            assert len(parts) > 0
            assert (after.value, after.quality) == (None, Quality.BAD)
            assert (after.tag, after.time) == (before.tag, before.time)
        else:
            assert after == before


@unhurried
@given(columns_of(max_size=1_000), st.sampled_from([1_000, LITE_MAX_MESSAGE_BYTES]), st.booleans())
def test_parts_are_numbered_in_order_and_their_payloads_are_what_is_sent(
    columns: Columns, max_bytes: int, compress: bool
) -> None:
    seq = 7
    for part in Cutter(max_bytes, compress=compress).parts(columns, Header(HEADER.stream, HEADER.epoch, seq)):
        assert part.payload is not None
        assert len(part.payload) <= max_bytes
        batch = samples_of_payload(part.payload)
        assert batch.header.seq == part.seq == seq
        assert batch.columns.same_as(part.columns)
        seq += 1


def test_one_sample_too_large_for_a_frame_becomes_bad_too_large_and_its_neighbours_are_untouched() -> None:
    noise = "".join(random.Random(1).choices("0123456789abcdefghijklmnopqrstuvwxyz", k=20_000))
    texts_in = ["first", noise, "third", noise, noise, "sixth"] * 50
    (columns,) = from_samples([Sample("T", i, text) for i, text in enumerate(texts_in)])
    parts = list(Cutter(LITE_MAX_MESSAGE_BYTES).parts(columns, HEADER))
    assert sum(part.too_large for part in parts) == 150
    rows = [row for part in parts for row in part.columns.samples()]
    assert [row.time for row in rows] == list(range(300))
    assert [row.value for row in rows] == [None if text is noise else text for text in texts_in]
    assert {(row.quality, row.status) for row in rows if row.value is None} == {(Quality.BAD, TOO_LARGE)}


def test_a_long_text_that_compresses_into_a_frame_is_kept() -> None:
    (columns,) = from_samples([Sample("T", 0, "short"), Sample("T", 1, "abc" * 20_000), Sample("T", 2, "short")])
    rows = [row for part in cut(columns, LITE_MAX_MESSAGE_BYTES) for row in part.samples()]
    assert list(columns.samples()) == rows


def test_no_part_unpacks_to_more_than_64_frames() -> None:
    (columns,) = from_samples([Sample("T", 0, "x" * 10_000_000), Sample("T", 1, "x" * 400_000)])
    large, small = (row for part in cut(columns, LITE_MAX_MESSAGE_BYTES) for row in part.samples())
    assert (large.value, large.status) == (None, TOO_LARGE)
    assert small.value == "x" * 400_000


def test_a_tag_that_exceeds_a_frame_by_itself_is_named_and_given_out_without_payload() -> None:
    tag = "".join(random.Random(1).choices("0123456789abcdefghijklmnopqrstuvwxyz", k=20_000))
    (columns,) = from_samples([Sample("a", 0, 1.0), Sample(tag, 1, 2.0), Sample("b", 2, 3.0)])
    parts = list(Cutter(LITE_MAX_MESSAGE_BYTES).parts(columns, HEADER))
    assert [row.tag for part in parts if part.payload is None for row in part.columns.samples()] == [tag]
    assert [part.seq for part in parts if part.payload is not None] == [1042, 1043]
    with pytest.raises(BatchError, match="exceeds a frame of 7000 bytes"):
        cut(columns, LITE_MAX_MESSAGE_BYTES)


LATIN = "0123456789abcdefghijklmnopqrstuvwxyz"
DENSE = "".join(map(chr, range(0x4E00, 0x9E00)))


@pytest.mark.parametrize(
    ("lengths", "alphabet"),
    [
        ([20] * 6_000, LATIN),
        ([20] * 5_999 + [300_000], LATIN),
        ([20, 20, 20, 9_000] * 500, LATIN),
        (list(range(2_000)), LATIN),
        ([20] * 6_000, DENSE),
        (([0] * 2_000 + [30] * 2_000) * 2, DENSE),
    ],
    ids=["alike", "a giant at the end", "giants everywhere", "ever longer", "denser than guessed", "empty, then dense"],
)
def test_cutting_encodes_no_byte_more_often_than_a_constant(
    lengths: list[int], alphabet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(3)
    texts = ["".join(rng.choices(alphabet, k=length)) for length in lengths]
    (columns,) = from_samples([Sample(f"T{i % 7}", i, text) for i, text in enumerate(texts)])
    encoded = 0

    def counting(header: Header, part: Columns, compress: bool) -> bytes:
        nonlocal encoded
        encoded += sum(len(text or "") + 24 for text in part.value)
        return encode_sanitized(header, part, compress)

    monkeypatch.setattr("sluice.cutting.encode_sanitized", counting)
    parts = list(Cutter(LITE_MAX_MESSAGE_BYTES).parts(columns, HEADER))
    assert sum(len(part.columns) for part in parts) == len(lengths)
    assert encoded <= 4 * sum(length + 24 for length in lengths), f"{encoded} bytes encoded"


def test_frames_are_well_filled_once_the_ratio_is_known() -> None:
    cutter = Cutter(LITE_MAX_MESSAGE_BYTES)
    list(cutter.parts(plant(20_000, 50), HEADER))
    parts = list(cutter.parts(plant(20_000, 50), HEADER))
    filled = [len(part.payload or b"") for part in parts[:-1]]
    assert min(filled) > 0.85 * LITE_MAX_MESSAGE_BYTES, filled


@pytest.mark.parametrize(
    ("tags", "at_least"),
    [(50, 1_700), (20_000, 550)],
    ids=["50 repeating tags", "distinct tags"],
)
def test_a_lite_frame_holds_what_the_budgets_assume(tags: int, at_least: int) -> None:
    parts = cut(plant(20_000, tags), LITE_MAX_MESSAGE_BYTES)
    assert min(len(part) for part in parts[1:-1]) >= at_least, [len(part) for part in parts]


# --------------------------------------------------------------------------------------------------- events, announces

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(INT64_MIN, INT64_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@unhurried
@given(st.lists(st.dictionaries(texts, json_values, max_size=4), max_size=8), st.booleans())
def test_events_survive_the_wire(events: list[dict[str, Any]], compress: bool) -> None:
    batch = decode(encode_events(HEADER, events, compress=compress))
    assert batch == EventBatch(HEADER, tuple(events))


@unhurried
@given(st.lists(st.dictionaries(texts, json_values, max_size=4), max_size=30))
def test_events_are_cut_to_the_frame_in_order(events: list[dict[str, Any]]) -> None:
    read: list[dict[str, Any]] = []
    for i, (count, payload) in enumerate(cut_events(events, 700, HEADER, compress=False)):
        assert len(payload) <= 700
        batch = decode(payload)
        assert isinstance(batch, EventBatch)
        assert (batch.header.seq, len(batch.events)) == (HEADER.seq + i, count)
        read.extend(batch.events)
    assert len(read) == len(events)
    assert all(before == after or "too_large" in after for before, after in zip(events, read, strict=True))


def test_an_event_too_large_for_a_frame_keeps_its_short_members_and_says_so() -> None:
    event = {"type": "alarm", "text": "x" * 5_000, "tag": "Reactor/Temp"}
    ((count, payload),) = cut_events([event], 700, HEADER)
    batch = decode(payload)
    assert count == 1
    assert isinstance(batch, EventBatch)
    assert batch.events == (
        {"too_large": len(json.dumps(event, separators=(",", ":"))), "type": "alarm", "tag": "Reactor/Temp"},
    )


@pytest.mark.parametrize("event", [{"a": object()}, {"a": 2**70}, {"a": "\ud800"}, {1: "a"}])
def test_an_event_that_is_no_json_is_refused(event: dict[Any, Any]) -> None:
    with pytest.raises(BatchError, match="events: cannot be written as JSON"):
        list(cut_events([event], 7_000, HEADER))


@unhurried
@given(st.integers(0, INT64_MAX - 1), st.integers(0, 1_000))
def test_announcements_survive_the_wire(newest: int, kept: int) -> None:
    announcement = Announcement(HEADER.stream, HEADER.epoch, max(1, newest + 1 - kept), newest)
    assert decode(encode_announcement(announcement)) == announcement


# ----------------------------------------------------------------------------------------------------- malformed input


def good() -> dict[str, Any]:
    return {
        "v": 1,
        "kind": "samples",
        "stream": "opcua-collector/line1",
        "epoch": "9f2c5a0b77d1",
        "seq": 1,
        "type": "double",
        "series": [{"tag": "A"}, {"tag": "B", "unit": "degC"}],
        "s": [0, 1, 0],
        "t0": 1_700_000_000_000_000_000,
        "dt": [0, 1, 2],
        "value": [1.5, None, 3.0],
        "q": [0, 2, 1],
        "status": [0, "nan", 7],
    }


def changed(**members: Any) -> bytes:
    body = {**good(), **members}
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


def zstd(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def zstd_of_hidden_size(data: bytes) -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(data) + stream.flush()


NESTED = "[" * 100_000
DEEP: Any = None
for _ in range(900):
    DEEP = [DEEP]

MALFORMED: list[tuple[str, bytes, str, str]] = [
    ("nothing", b"", "payload", "not JSON"),
    ("truncated", changed()[:-10], "payload", "not JSON"),
    ("not UTF-8", changed(stream="x").replace(b"x", b"\xff"), "payload", "not JSON"),
    ("binary junk", bytes(range(256)), "payload", "not JSON"),
    ("a bare NaN", changed().replace(b"1.5", b"NaN"), "payload", "not JSON"),
    ("a bare Infinity", changed().replace(b"1.5", b"-Infinity"), "payload", "not JSON"),
    ("a double beyond doubles", changed().replace(b"1.5", b"1e400"), "payload", "not JSON"),
    ("endless nesting", NESTED.encode(), "payload", "not JSON"),
    ("two documents", changed() * 2, "payload", "not JSON"),
    ("a list", b"[1,2,3]", "payload", "a list of 3 is not a JSON object"),
    ("a string", b'"samples"', "payload", "'samples' is not a JSON object"),
    ("foreign JSON", b'{"propertyAlias":"/a","propertyValues":[]}', "v", "None is not the version"),
    ("zstd cut short", zstd(changed())[:-5], "payload", "zstd"),
    ("zstd header only", b"\x28\xb5\x2f\xfd", "payload", "zstd"),
    ("zstd and more", zstd(changed()) + b"more", "payload", "zstd"),
    ("two zstd frames", zstd(changed()) * 2, "payload", "zstd"),
    ("empty zstd", zstd(b""), "payload", "not JSON"),
    ("zstd of junk", zstd(b"junk"), "payload", "not JSON"),
    ("zstd in zstd", zstd(zstd(changed())), "payload", "not JSON"),
    ("zstd bomb", zstd(b" " * 50_000_000), "payload", "unpacks to 50000000 bytes, more than 16777216"),
    ("zstd bomb of hidden size", zstd_of_hidden_size(b" " * 50_000_000), "payload", "zstd"),
    ("zstd that lies about its size", b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\x00" * 8, "payload", ""),
    ("too much plain JSON", b" " * (16 * 1024 * 1024 + 1), "payload", "16777217 bytes, more than 16777216"),
    ("no version", changed(v=...), "v", "None"),
    ("another version", changed(v=2), "v", "2 is not the version this release reads, 1"),
    ("a version that only equals 1", changed(v=True), "v", "True"),
    ("a version of another type", changed(v=1.0), "v", "1.0"),
    ("no kind", changed(kind=...), "kind", "None is none of samples, events, announce"),
    ("another kind", changed(kind="status"), "kind", "'status'"),
    ("a kind that is no text", changed(kind=["samples"]), "kind", "a list of 1"),
    ("no stream", changed(stream=...), "stream", "None"),
    ("a stream of one name", changed(stream="line1"), "stream", "'line1' is not <producer>/<source>"),
    ("a stream with wildcards", changed(stream="opcua/#"), "stream", "'opcua/#'"),
    ("a stream with a foreign lane", changed(stream="a/b/other"), "stream", "'a/b/other'"),
    ("a stream that ends in a line feed", changed(stream="a/b\n"), "stream", "'a/b\\n'"),
    ("an endless stream", changed(stream="a/" + "b" * 100_000), "stream", "'a/bbbbbbbb"),
    ("an epoch of another length", changed(epoch="9f2c"), "epoch", "'9f2c' is not 12 hex characters"),
    ("an epoch in capitals", changed(epoch="9F2C5A0B77D1"), "epoch", "'9F2C5A0B77D1'"),
    ("an epoch that is a number", changed(epoch=123456789012), "epoch", "123456789012"),
    ("no number", changed(seq=...), "seq", "None"),
    ("number 0", changed(seq=0), "seq", "0 is not an integer from 1"),
    ("a negative number", changed(seq=-5), "seq", "-5"),
    ("a huge number", changed(seq=2**63), "seq", "9223372036854775808"),
    ("an absurd number", changed(seq=10**40), "seq", "1e+40"),
    ("a fractional number", changed(seq=1.5), "seq", "1.5"),
    ("a number that is true", changed(seq=True), "seq", "True"),
    ("no type", changed(type=...), "type", "None is none of double, integer, boolean, string"),
    ("another type", changed(type="float32"), "type", "'float32'"),
    ("a type that is no text", changed(type={"a": 1}), "type", "an object of 1"),
    ("no series", changed(series=...), "series", "None is not a list"),
    ("series as an object", changed(series={"tag": "A"}), "series", "an object of 1 is not a list"),
    ("a series that is a text", changed(series=["A", "B"]), "series[0]", "'A' is not an object"),
    ("a series without a tag", changed(series=[{"tag": "A"}, {"unit": "K"}]), "series[1].tag", "missing or empty"),
    ("a series with an empty tag", changed(series=[{"tag": ""}, {"tag": "B"}]), "series[0].tag", "missing or empty"),
    ("a tag that is a number", changed(series=[{"tag": 5}, {"tag": "B"}]), "series[0].tag", "5 is not a string"),
    ("a unit that is null", changed(series=[{"tag": "A", "unit": None}] * 2), "series[0].unit", "None is not"),
    ("context that is nested", changed(series=[{"tag": "A", "x": {"y": 1}}] * 2), "series[0]", "not a string"),
    ("context nested 900 deep", changed(series=[{"tag": "A", "x": DEEP}] * 2), "series[0]", "not a string"),
    ("no index", changed(s=...), "s", "None is not a list"),
    ("an index beyond the series", changed(s=[0, 1, 2]), "s[2]", "2 is not an index into the 2 series"),
    ("a negative index", changed(s=[0, -1, 0]), "s[1]", "-1"),
    ("a huge index", changed(s=[0, 2**40, 0]), "s[1]", "1099511627776"),
    ("an index that is a fraction", changed(s=[0, 1.0, 0]), "s[1]", "1.0"),
    ("an index that is true", changed(s=[0, True, 0]), "s[1]", "True"),
    ("an index that is nested", changed(s=[0, [1], 0]), "s[1]", "a list of 1"),
    ("no t0", changed(t0=...), "t0", "None"),
    ("a t0 that is a text", changed(t0="2026-01-01"), "t0", "'2026-01-01'"),
    ("a t0 beyond 64 bits", changed(t0=2**63), "t0", "9223372036854775808"),
    ("too few times", changed(dt=[0, 1]), "dt", "has 2 entries, but s has 3"),
    ("a time before t0", changed(dt=[0, -1, 2]), "dt[1]", "-1 is not 0 to"),
    ("a time beyond 64 bits", changed(dt=[0, 2**64 - 1, 2]), "dt[1]", "18446744073709551615"),
    ("a time of another type", changed(dt=[0, 0.5, 2]), "dt[1]", "0.5"),
    ("a time that is null", changed(dt=[0, None, 2]), "dt[1]", "None"),
    ("no value", changed(value=...), "value", "None is not a list"),
    ("too many values", changed(value=[1.0] * 4), "value", "has 4 entries, but s has 3"),
    ("a text among doubles", changed(value=[1.0, None, "NaN"]), "value[2]", "'NaN' is not a number or null"),
    ("true among doubles", changed(value=[1.0, None, True]), "value[2]", "True"),
    ("a list among doubles", changed(value=[1.0, None, [1]]), "value[2]", "a list of 1"),
    ("null and GOOD", changed(value=[None, None, 3.0]), "value[0]", "null with quality GOOD"),
    ("null without quality", changed(q=...), "value[1]", "null with quality GOOD"),
    ("an integer null and GOOD", changed(type="integer", value=[None, None, 3]), "value[0]", "null with quality GOOD"),
    ("a text null and GOOD", changed(type="string", value=[None, None, "c"]), "value[0]", "null with quality GOOD"),
    ("a fraction among integers", changed(type="integer", value=[1, None, 3.0]), "value[2]", "3.0 is not an integer"),
    ("true among integers", changed(type="integer", value=[1, None, True]), "value[2]", "True"),
    ("an integer of 65 bits", changed(type="integer", value=[1, None, 2**63]), "value[2]", "9223372036854775808"),
    ("an integer far beyond", changed(type="integer", value=[1, None, -(2**80)]), "value[2]", "-1.20"),
    ("0 among booleans", changed(type="boolean", value=[True, None, 0]), "value[2]", "0 is not true, false or null"),
    ("a number among texts", changed(type="string", value=["a", None, 3]), "value[2]", "3 is not a string or null"),
    ("a quality beyond BAD", changed(q=[0, 2, 3]), "q[2]", "3 is not 0 (GOOD), 1 (UNCERTAIN) or 2 (BAD)"),
    ("a huge quality", changed(q=[0, 2, 300]), "q[2]", "300"),
    ("a negative quality", changed(q=[0, 2, -1]), "q[2]", "-1"),
    ("a quality in words", changed(q=[0, 2, "GOOD"]), "q[2]", "'GOOD'"),
    ("a quality that is null", changed(q=None), "q", "None is not a list"),
    ("a negative status", changed(status=[0, "nan", -1]), "status[2]", "-1"),
    ("a huge status", changed(status=[0, "nan", 2**63]), "status[2]", "9223372036854775808"),
    ("a status that is null", changed(status=[0, "nan", None]), "status[2]", "None"),
    ("too few statuses", changed(status=[]), "status", "has 0 entries, but s has 3"),
    ("no events", changed(kind="events"), "events", "None is not a list"),
    ("an event that is a text", changed(kind="events", events=[{}, "alarm"]), "events[1]", "'alarm' is not an object"),
    ("events without a number", changed(kind="events", events=[], seq=...), "seq", "None"),
    ("an announcement without numbers", changed(kind="announce"), "newest", "None"),
    ("an announcement of a negative number", changed(kind="announce", newest=-1, oldest=1), "newest", "-1"),
    ("an announcement whose oldest is 0", changed(kind="announce", newest=5, oldest=0), "oldest", "0"),
    ("an announcement beyond its newest", changed(kind="announce", newest=5, oldest=7), "oldest", "7"),
]


@pytest.mark.parametrize(
    ("payload", "field", "told"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED]
)
def test_malformed_input_is_refused_with_place_and_value(payload: bytes, field: str, told: str) -> None:
    with pytest.raises(BatchError) as caught:
        decode(payload)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert told in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_the_batch_that_all_malformed_ones_are_made_from_is_read() -> None:
    assert [r.status for r in samples_of_payload(changed()).columns.samples()] == [0, "nan", 7]
    assert samples_of_payload(zstd_of_hidden_size(changed())).columns.same_as(samples_of_payload(changed()).columns)


@unhurried
@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail_otherwise(junk: bytes) -> None:
    for payload in (junk, b"\x28\xb5\x2f\xfd" + junk, zstd(junk)):
        with pytest.raises(BatchError):
            decode(payload)


@unhurried
@given(st.sampled_from(sorted(good())), json_values, st.booleans())
def test_no_value_in_any_member_makes_the_reader_fail_otherwise(member: str, value: Any, within: bool) -> None:
    body = good()
    if within and isinstance(body[member], list):
        body[member] = [value, *body[member][1:]]
    else:
        body[member] = value
    try:
        batch = decode(json.dumps(body).encode())
    except BatchError:
        return
    assert isinstance(batch, SampleBatch)
    list(batch.columns.samples())
    assert decode(encode(batch.header, batch.columns))


@unhurried
@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_byte_is_refused_or_read_as_a_batch(at: int, byte: int) -> None:
    for payload in (changed(), encode(HEADER, plant(40, 4))):
        damaged = bytearray(payload)
        damaged[at % len(damaged)] = byte
        with contextlib.suppress(BatchError):
            decode(bytes(damaged))


# ---------------------------------------------------------------------------------------------------------------- cost


def plant(size: int, tags: int, digits: int = 3) -> Columns:
    """What a plant sends: rows of all tags with the same time, values with a few digits."""
    rng = np.random.default_rng(1)
    return Columns(
        ValueType.DOUBLE,
        tuple(Series(f"Unit1/XMEAS{i:02d}_Flow", asset="site/area/line1", unit="kg/h") for i in range(tags)),
        (np.arange(size) % tags).astype(np.int32),
        1_700_000_000_000_000_000 + (np.arange(size) // tags).astype(np.int64) * 100_000_000,
        np.round(rng.normal(50, 5, size), digits),
    )


def microseconds(call: Callable[[], Any]) -> float:
    """The least CPU time of one call, over several rounds, less on a slow or busy machine: as much less as the standard
    library takes more there, in rounds that take turns with ours."""
    text = oracle_write(HEADER, ValueType.DOUBLE, list(plant(500, 50).samples()))
    best = reference = math.inf
    for _ in range(60):
        best = min(best, cpu_time(call))
        reference = min(reference, cpu_time(lambda: json.loads(text)))
    return best * 1e6 / max(1.0, reference * 1e6 / REFERENCE)


def cpu_time(call: Callable[[], Any]) -> float:
    """CPU seconds of one call, of five in a row."""
    begun = time.process_time()
    for _ in range(5):
        call()
    return (time.process_time() - begun) / 5


REFERENCE = 800.0
"""Microseconds that json.loads took for that text where the limits were set."""


@pytest.mark.alone
def test_a_value_costs_less_than_half_a_microsecond_each_way(record_property: Callable[[str, object], None]) -> None:
    columns = plant(500, 50)
    payload = encode(HEADER, columns)
    written = microseconds(lambda: encode(HEADER, columns)) / 500
    read = microseconds(lambda: decode(payload)) / 500
    record_property("encode_us_per_value", round(written, 3))
    record_property("decode_us_per_value", round(read, 3))
    assert written < 0.5, f"encoding with zstd took {written:.3f} us per value"
    assert read < 0.5, f"decoding took {read:.3f} us per value"


@pytest.mark.alone
def test_cutting_a_large_batch_for_the_classic_nucleus_costs_no_more() -> None:
    columns = plant(50_000, 1_000)
    cutter = Cutter(CLASSIC_MAX_MESSAGE_BYTES)
    list(cutter.parts(columns, HEADER))
    spent = microseconds(lambda: list(cutter.parts(columns.slice(0, 20_000), HEADER))) / 20_000
    assert spent < 0.5, f"cutting and encoding took {spent:.3f} us per value"
