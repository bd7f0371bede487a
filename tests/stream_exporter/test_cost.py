"""What a value costs to encode, beside the SDK's own classes in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from stream_manager import AssetPropertyValue, PutAssetPropertyValueEntry, Quality, TimeInNanos, Util, Variant

from sluice.batch import Columns, Header, SampleBatch, Series, ValueType
from stream_exporter.kinesis import KinesisEncoder
from stream_exporter.sitewise import SiteWiseEncoder, SiteWiseRules

NOW = 1_769_860_800_000_000_000
TAGS = 52
ROWS = 100


def batches() -> list[SampleBatch]:
    """Ten values of each of 52 tags per batch, ten batches."""
    series = tuple(Series(f"Unit1/XMEAS{tag:02d}_SomeName", "site/area/line1", "degC") for tag in range(TAGS))
    rows = ROWS // 10
    parts = []
    for seq in range(1, 11):
        time_ns = NOW + (seq * rows + np.repeat(np.arange(rows), TAGS)) * 100_000_000
        values = np.random.default_rng(seq).normal(50.0, 10.0, rows * TAGS)
        columns = Columns(
            ValueType.DOUBLE, series, np.tile(np.arange(TAGS, dtype=np.int32), rows), time_ns.astype(np.int64), values
        )
        parts.append(SampleBatch(Header("opcua-collector/line1", "9f2c51aa07be", seq), columns))
    return parts


def sdk(values: int) -> None:
    """The same entries by the SDK's classes."""
    for number in range(values // 10):
        entry = PutAssetPropertyValueEntry(
            entry_id=f"x-{number}",
            property_alias="site/area/line1/Unit1/XMEAS01_SomeName",
            property_values=[
                AssetPropertyValue(
                    value=Variant(double_value=50.0 + index),
                    timestamp=TimeInNanos(time_in_seconds=NOW // 10**9, offset_in_nanos=index),
                    quality=Quality.GOOD,
                )
                for index in range(10)
            ],
        )
        Util.validate_and_serialize_to_json_bytes(entry)


def microseconds(work: Callable[[], object], values: int) -> float:
    """CPU per value in µs, the best of seven runs."""
    best = float("inf")
    for _ in range(7):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best / values * 1e6


def test_entries_cost_a_fraction_of_what_the_sdk_takes_and_lines_no_more() -> None:
    parts = batches()
    values = TAGS * ROWS
    sitewise = SiteWiseEncoder(SiteWiseRules())
    kinesis = KinesisEncoder(256_000)

    entries = microseconds(lambda: sitewise.encode(parts, NOW), values)
    lines = microseconds(lambda: kinesis.encode(parts, NOW), values)
    reference = microseconds(lambda: sdk(500), 500)

    figures = f"µs per value: entries {entries:.2f}, lines {lines:.2f}, the SDK's entries {reference:.2f}"
    assert entries < reference / 5, figures
    assert lines < reference / 5, figures
    assert sitewise.encode(parts, NOW).samples == kinesis.encode(parts, NOW).samples == values
