"""What a configuration will cost, computed by hand beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.document import Document, load
from cli.estimate import Estimate, estimate
from cli.gateway import Gateway
from cli.site_check import check_document

TAG = {"node": "ns=2;s=x"}


def document(folder: Path, connection: dict[str, Any], sinks: dict[str, Any], **collector: Any) -> Document:
    """One connection line1 of 100 tags, unless it has its own."""
    tags = {f"T{number}": TAG for number in range(100)}
    line1 = {"endpoint": "opc.tcp://10.0.0.5:4840", "tags": tags, **connection}
    merges = {
        "io.sluice.OpcUaCollector": {"connections": {"line1": line1}, **collector},
        "io.sluice.StreamExporter": {"sinks": sinks},
    }
    site = {name: {"configurationUpdate": {"merge": merge}} for name, merge in merges.items()}
    path = folder / "site.json"
    path.write_text(json.dumps({"components": site}))
    return load(path)


def costs(
    folder: Path, connection: dict[str, Any], sinks: dict[str, Any], change: float = 1.0, **more: Any
) -> Estimate:
    return estimate(Gateway.of(document(folder, connection, sinks, **more)), change)


def warnings(folder: Path, connection: dict[str, Any], sinks: dict[str, Any]) -> list[str]:
    findings = check_document(document(folder, connection, sinks), nucleus="classic").findings
    return [str(one.problem) for one in findings if one.level == "warning"]


@pytest.mark.parametrize(
    ("connection", "change", "rate"),
    [
        ({"publishingInterval": "1s"}, 1.0, 100.0),
        ({"publishingInterval": "1s", "samplingInterval": "500ms"}, 1.0, 200.0),
        ({"publishingInterval": "1s"}, 0.2, 20.0),
        ({"publishingInterval": "200ms"}, 1.0, 500.0),
        (
            {"tags": {"fast": {**TAG, "samplingInterval": "100ms"}, "slow": {**TAG, "samplingInterval": "10s"}}},
            1.0,
            10.1,
        ),
        (
            {
                "publishingInterval": "1s",
                "groups": {"slow": {"publishingInterval": "10s"}, "polled": {"mode": "poll", "pollInterval": "5s"}},
                "tags": {"a": TAG, "b": {**TAG, "group": "slow"}, "c": {**TAG, "group": "polled"}},
            },
            1.0,
            1.3,
        ),
    ],
)
def test_values_are_tags_by_sampling_interval(
    tmp_path: Path, connection: dict[str, Any], change: float, rate: float
) -> None:
    [one] = costs(tmp_path, connection, {}, change).connections
    assert one.values_per_s == rate


def test_a_tag_that_is_sampled_as_fast_as_the_server_can_has_no_bound(tmp_path: Path) -> None:
    assert costs(tmp_path, {"samplingInterval": 0}, {}).connections[0].values_per_s is None


def test_the_disk_covers_what_fits_into_the_outbox(tmp_path: Path) -> None:
    """100 values/s of 22 bytes into 7.92 GB: 1,000 hours."""
    [one] = costs(tmp_path, {"publishingInterval": "1s"}, {}, outbox={"maxSize": "7920MB"}).connections
    assert one.outage_hours == 1000.0


def test_all_connections_share_the_outbox_of_their_collector(tmp_path: Path) -> None:
    made = document(tmp_path, {"publishingInterval": "1s"}, {}, outbox={"maxSize": "7920MB"})
    made.components["io.sluice.OpcUaCollector"].merge["connections"]["line2"] = dict(
        made.components["io.sluice.OpcUaCollector"].merge["connections"]["line1"]
    )
    assert [one.outage_hours for one in estimate(Gateway.of(made)).connections] == [500.0, 500.0]


def test_flash_is_the_measured_bytes_per_value(tmp_path: Path) -> None:
    """100 values/s are 8.64 million a day: 22 bytes each for the outbox, 14 for S3, 22, 62 and 218 for the others."""
    sinks = {
        "s3": {"type": "s3", "bucket": "plant"},
        "gzip": {"type": "kinesis", "kinesisStream": "a", "compression": "gzip"},
        "sitewise": {"type": "sitewise"},
        "plain": {"type": "kinesis", "kinesisStream": "b", "stream": "B"},
    }
    found = costs(tmp_path, {"publishingInterval": "1s"}, sinks)
    assert [one.flash_gb_per_day for one in found.sinks] == [0.121, 0.19, 0.536, 1.884]
    assert found.flash_gb_per_day == pytest.approx(0.190 + 0.121 + 0.19 + 0.536 + 1.884, abs=0.002)


def test_sitewise_takes_ten_values_to_an_entry_and_ten_entries_to_a_request(tmp_path: Path) -> None:
    """1,000 tags at 1 Hz are 1,000 entries a second; at 20 Hz and 0.5 s to a pack, 10 values go into one."""
    tags = {f"T{number}": TAG for number in range(1000)}
    slow = costs(tmp_path, {"tags": tags, "publishingInterval": "1s"}, {"out": {"type": "sitewise"}}).sinks[0]
    fast = costs(
        tmp_path, {"tags": tags, "publishingInterval": "50ms"}, {"out": {"type": "sitewise", "packInterval": "500ms"}}
    ).sinks[0]
    assert (slow.values_per_s, slow.requests_per_s) == (1000.0, 100.0)
    assert (fast.values_per_s, fast.requests_per_s) == (20_000.0, 200.0)


def test_kinesis_needs_shards_for_its_bytes(tmp_path: Path) -> None:
    """10,000 values/s are 2.05 MB/s of lines, and a shard takes 1 MB/s."""
    tags = {f"T{number}": TAG for number in range(1000)}
    connection = {"tags": tags, "publishingInterval": "100ms"}
    plain = costs(tmp_path, connection, {"out": {"type": "kinesis", "kinesisStream": "a"}}).sinks[0]
    gzip = costs(tmp_path, connection, {"out": {"type": "kinesis", "kinesisStream": "a", "compression": "gzip"}}).sinks[
        0
    ]
    assert (plain.bytes_per_s, plain.shards, gzip.shards) == (2_050_000.0, 3, 1)
    assert any(
        "may send 2.0 MB/s" in one and "give the stream 3 shards" in one
        for one in warnings(tmp_path, connection, {"out": {"type": "kinesis", "kinesisStream": "a"}})
    )


def test_s3_gets_an_object_an_interval_or_more_when_files_fill_up(tmp_path: Path) -> None:
    slow = costs(tmp_path, {"publishingInterval": "1s"}, {"out": {"type": "s3", "bucket": "plant"}}).sinks[0]
    full = costs(
        tmp_path, {"publishingInterval": "1s"}, {"out": {"type": "s3", "bucket": "plant", "rotateSize": "21KB"}}
    ).sinks[0]
    assert (slow.objects_per_day, full.objects_per_day) == (1440.0, 8640.0)


def test_what_is_not_exported_costs_the_sink_nothing(tmp_path: Path) -> None:
    made = document(tmp_path, {"publishingInterval": "1s"}, {"out": {"type": "s3", "bucket": "plant"}})
    made.components["io.sluice.StreamExporter"].merge["sources"] = ["opcua-collector/line2"]
    [sink] = estimate(Gateway.of(made)).sinks
    assert (sink.values_per_s, sink.objects_per_day) == (0.0, 0.0)


def test_rates_beyond_sitewises_quotas_are_warnings(tmp_path: Path) -> None:
    tags = {f"T{number}": TAG for number in range(11_000)}
    found = warnings(tmp_path, {"tags": tags, "publishingInterval": "1s"}, {"out": {"type": "sitewise"}})
    assert (
        "sinks.out may get 11,000 values/s, and SiteWise's default quota of a region is 1,000: ask for a higher "
        "quota, or sample less often" in found
    )
    assert (
        "sinks.out may make 1,100 requests/s, and SiteWise's default quota of a region is 1,000: ask for a higher "
        "quota, or use a longer packInterval" in found
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.sampled_from(["100ms", "1s", "10s"]), st.floats(0.01, 1.0))
def test_more_changes_never_cost_less(tmp_path_factory: Any, tags: int, interval: str, change: float) -> None:
    folder = tmp_path_factory.mktemp("site")
    connection = {"tags": {f"T{number}": TAG for number in range(tags)}, "publishingInterval": interval}
    sinks = {"s3": {"type": "s3", "bucket": "plant"}, "sitewise": {"type": "sitewise"}}
    gateway = Gateway.of(document(folder, connection, sinks))
    some, every = estimate(gateway, change), estimate(gateway)
    assert some.values_per_s <= every.values_per_s
    assert some.flash_gb_per_day <= every.flash_gb_per_day
    for one, other in zip(some.sinks, every.sinks, strict=True):
        assert (one.bytes_per_s, one.objects_per_day or 0) <= (other.bytes_per_s, other.objects_per_day or 0)


def test_tags_that_only_the_server_knows_are_not_in_the_figures_and_it_says_so(tmp_path: Path) -> None:
    found = check_document(
        document(tmp_path, {"select": {"all": {"path": "/Plant/**"}}}, {"s3": {"type": "s3", "bucket": "b"}}),
        nucleus="classic",
    ).findings
    notes = [str(one.problem) for one in found if one.level == "note"]
    assert [note for note in notes if "connections.line1.select finds its tags on the server" in note], notes


# --- PI -------------------------------------------------------------------------------------------------------------


def of_pi(folder: Path, change: float = 1.0, count: int = 1000, **settings: Any) -> Estimate:
    connection = {"url": "https://pi/piwebapi", "tags": {f"T{n}": {"point": f"P{n}"} for n in range(count)}, **settings}
    site = {"io.sluice.PiCollector": {"configurationUpdate": {"merge": {"connections": {"pi": connection}}}}}
    path = folder / "site.json"
    path.write_text(json.dumps({"components": site}))
    return estimate(Gateway.of(load(path)), change)


@pytest.mark.parametrize(
    ("settings", "values", "streams", "requests", "sockets"),
    [
        # 50 values/s of 1,000 points is what archives have; 10 requests of 100 points each 10 minutes look again.
        ({}, 50.0, 1000, 10 / 600, 2),
        ({"reconcile": {"window": 0}}, 50.0, 1000, 0.0, 2),
        ({"transport": "poll", "pollInterval": "10s", "reconcile": {"window": 0}}, 50.0, 1000, 1.0, 0),
        ({"mode": "snapshot", "pollInterval": "5s"}, 200.0, 1000, 2.0, 0),
        ({"mode": "summary", "interval": "1m", "summaries": ["Average", "Maximum"]}, 33.333, 2000, 0.167, 0),
        ({"mode": "interpolated", "interval": "10s", "load": {"pointsPerRequest": 50}}, 100.0, 1000, 2.0, 0),
    ],
    ids=str,
)
def test_what_is_asked_of_a_pi_web_api(
    tmp_path: Path, settings: dict[str, Any], values: float, streams: int, requests: float, sockets: int
) -> None:
    [one] = of_pi(tmp_path, **settings).connections
    assert one.source == "pi-collector/pi"
    assert one.values_per_s == values
    assert (one.streams, one.requests_per_s, one.sockets) == (streams, round(requests, 3), sockets)
    assert one.bytes_per_s is not None
    assert one.bytes_per_s >= values * 130


def test_a_pi_web_api_that_would_be_asked_too_often_is_told(tmp_path: Path) -> None:
    of_pi(tmp_path, transport="poll", pollInterval="1s", count=3000)
    findings = check_document(load(tmp_path / "site.json"), nucleus="classic").findings
    said = [str(one.problem) for one in findings if "requestsPerSecond" in one.problem.path]
    assert said == [
        "connections.pi.load.requestsPerSecond = 20.0 is too few: the intervals of this connection take 30.1 "
        "requests/s: poll less often, use transport: channel, or raise it as far as the server's administrator allows"
    ]
