"""Sinks that cannot run beside each other are found without a device, and told in the words of the status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sluice.config import load
from stream_exporter.checks import check, clashes
from stream_exporter.config import Configuration

KINESIS = {"type": "kinesis", "kinesisStream": "plant-data"}
S3 = {"type": "s3", "bucket": "plant-archive"}


def configured(**sinks: dict[str, Any]) -> Configuration:
    loaded = load(Configuration, {"sinks": sinks})
    assert loaded.problems == []
    return loaded.config


def found(**sinks: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in check(configured(**sinks), Path())]


def test_sinks_with_streams_of_their_own_are_well() -> None:
    assert found(kinesis=KINESIS, trial=KINESIS | {"stream": "Trial"}, s3=S3) == []


def test_a_stream_that_two_sinks_want_is_had_by_the_first() -> None:
    assert found(kinesis=KINESIS, trial=KINESIS) == [
        'sinks.trial.stream = "SluiceKinesis" is a stream of the sink kinesis too: give each sink streams of its own '
        "(this sink does not run)"
    ]


def test_the_stream_of_what_became_of_files_is_a_stream_like_others() -> None:
    assert found(kinesis=KINESIS, s3=S3 | {"statusStream": "SluiceKinesis"}) == [
        'sinks.s3.statusStream = "SluiceKinesis" is a stream of the sink kinesis too: give each sink streams of its '
        "own (this sink does not run)"
    ]


def test_files_and_what_became_of_them_need_two_streams() -> None:
    assert found(s3=S3 | {"stream": "One", "statusStream": "One"}) == [
        'sinks.s3.statusStream = "One" is the stream of the files too: give the status a stream of its own '
        "(this sink does not run)"
    ]


def test_a_sink_that_runs_keeps_its_stream_wherever_it_stands() -> None:
    sinks = configured(new=KINESIS, old=KINESIS).sinks
    assert list(clashes(sinks)) == ["old"]
    assert list(clashes(sinks, ["old"])) == ["new"]


def test_a_sink_that_is_gone_from_the_configuration_has_nothing() -> None:
    assert clashes(configured(new=KINESIS).sinks, ["old"]) == {}


@pytest.mark.parametrize("third", ["SluiceKinesis", "Own"])
def test_one_that_does_not_run_takes_nothing_from_others(third: str) -> None:
    sinks = {
        "a": KINESIS,
        "b": S3 | {"stream": "SluiceKinesis", "statusStream": "Own"},
        "c": KINESIS | {"stream": third},
    }
    assert list(clashes(configured(**sinks).sinks)) == (["b"] if third == "Own" else ["b", "c"])
