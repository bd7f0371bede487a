"""The exporter's configuration: one wrong sink costs itself; problems name place, value and remedy."""

from __future__ import annotations

from typing import Any

import pytest

from sluice.config import load
from stream_exporter.config import Configuration, KinesisSink, S3Sink, SiteWiseSink, stream_size, topic_filters

SINKS: dict[str, Any] = {
    "sitewise": {"type": "sitewise", "alias": "{asset}/{tag}", "stream": "SluiceSiteWise", "packInterval": "400ms"},
    "kinesis": {"type": "kinesis", "kinesisStream": "plant-data", "stream": "SluiceKinesis"},
    "s3": {
        "type": "s3",
        "bucket": "plant-archive",
        "prefix": "sluice/",
        "stream": "SluiceS3",
        "statusStream": "SluiceS3Status",
        "rotateInterval": "60s",
        "rotateSize": "16MB",
    },
}


def test_the_documented_configuration_is_good() -> None:
    loaded = load(Configuration, {"sources": ["*"], "streamManager": {"requestTimeout": "5s"}, "sinks": SINKS})

    assert (loaded.problems, loaded.warnings) == ([], [])
    sitewise, kinesis, s3 = (loaded.config.sinks[name] for name in ("sitewise", "kinesis", "s3"))
    assert isinstance(sitewise, SiteWiseSink)
    assert isinstance(kinesis, KinesisSink)
    assert isinstance(s3, S3Sink)
    assert (sitewise.pack_interval, kinesis.message_size, s3.rotate_size) == (0.4, 256_000, 16_000_000)


def test_everything_as_text_is_the_same_configuration() -> None:
    """Nucleus lite hands over every scalar of a YAML recipe as text."""
    text = {name: {key: str(value) for key, value in sink.items()} for name, sink in SINKS.items()}
    text["kinesis"]["priority"] = "3"

    loaded = load(Configuration, {"sinks": text})

    assert loaded.problems == []
    assert loaded.config.sinks["kinesis"].priority == 3


def test_a_sink_is_required_and_acknowledges_what_is_exported_unless_told_otherwise() -> None:
    loaded = load(
        Configuration,
        {
            "sinks": {
                "kinesis": SINKS["kinesis"],
                "trial": {**SINKS["kinesis"], "required": "false", "maxLag": "1h", "ackOn": "Appended"},
            }
        },
    )

    kinesis, trial = loaded.config.sinks["kinesis"], loaded.config.sinks["trial"]
    assert (kinesis.required, kinesis.max_lag, kinesis.ack_on) == (True, 86_400.0, "exported")
    assert (trial.required, trial.max_lag, trial.ack_on) == (False, 3_600.0, "appended")


def test_large_segments_make_a_stream_of_three_unless_told_otherwise() -> None:
    loaded = load(Configuration, {"sinks": {"kinesis": {**SINKS["kinesis"], "segmentSize": "100MiB"}}})

    assert loaded.problems == []
    assert stream_size(loaded.config.sinks["kinesis"]) == 300 << 20


def test_nothing_configured_is_good_and_exports_nothing() -> None:
    loaded = load(Configuration, {})

    assert (loaded.problems, loaded.config.sinks, loaded.config.sources) == ([], {}, ["*"])


@pytest.mark.parametrize(
    ("change", "place", "remedy"),
    [
        ({"kinesis": {"type": "kinesis"}}, "sinks.kinesis.kinesisStream", "plant-data"),
        ({"s3": {"type": "s3", "bucket": "Not_A_Bucket"}}, "sinks.s3.bucket", "match"),
        ({"s3": {"type": "s3", "bucket": "abc", "rotateInterval": "1"}, "x": {"type": "ftp"}}, "sinks.x.type", "s3"),
        ({"sitewise": {"type": "sitewise", "alias": "fixed"}}, "sinks.sitewise.alias", "{tag}"),
        ({"sitewise": {"type": "sitewise", "alias": "{tagg}"}}, "sinks.sitewise.alias", "{asset}/{tag}"),
        ({"sitewise": {"type": "sitewise", "integers": "float"}}, "sinks.sitewise.integers", "double"),
        ({"kinesis": {**SINKS["kinesis"], "messageSize": "2MB"}}, "sinks.kinesis.messageSize", "or less"),
        ({"kinesis": {**SINKS["kinesis"], "stream": "a/b"}}, "sinks.kinesis.stream", "match"),
        ({"kinesis": {**SINKS["kinesis"], "streamSize": "32MiB"}}, "sinks.kinesis.streamSize", "48MiB or more"),
        ({"kinesis": {**SINKS["kinesis"], "ackOn": "sent"}}, "sinks.kinesis.ackOn", "exported, appended"),
        ({"kinesis": {**SINKS["kinesis"], "maxLag": "0s"}}, "sinks.kinesis.maxLag", "1s or more"),
    ],
)
def test_a_wrong_sink_costs_itself_and_says_how_to_mend_it(change: dict[str, Any], place: str, remedy: str) -> None:
    loaded = load(Configuration, {"sinks": {"good": SINKS["kinesis"], **change}})

    assert [problem.path for problem in loaded.problems] == [place]
    assert remedy in loaded.problems[0].remedy
    assert "good" in loaded.config.sinks
    assert place.split(".")[1] not in loaded.config.sinks


def test_an_unknown_key_is_a_warning_with_the_nearest_one() -> None:
    loaded = load(Configuration, {"sinks": {"kinesis": {**SINKS["kinesis"], "packInterfal": "1s"}}})

    assert "kinesis" in loaded.config.sinks
    (warning,) = loaded.warnings
    assert warning.path == "sinks.kinesis.packInterfal"
    assert "packInterval" in warning.remedy


@pytest.mark.parametrize(
    ("sources", "filters"),
    [
        (["*"], ["sluice/data/#"]),
        (["*/*"], ["sluice/data/#"]),
        (["opcua-collector/*"], ["sluice/data/opcua-collector/#"]),
        (["opcua-collector/line1"], ["sluice/data/opcua-collector/line1/#"]),
        (["*/line1", "a/b"], ["sluice/data/+/line1/#", "sluice/data/a/b/#"]),
    ],
)
def test_sources_are_followed_with_their_backfill(sources: list[str], filters: list[str]) -> None:
    assert topic_filters(sources) == filters


@pytest.mark.parametrize("source", ["", "line1", "a/b/c", "a/#", "+/b", "a b/c"])
def test_a_source_that_is_none_is_refused(source: str) -> None:
    loaded = load(Configuration, {"sources": [source]})

    assert loaded.problems
    assert loaded.config.sources == ["*"]
