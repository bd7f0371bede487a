"""The stream exporter's configuration.

    sources: ["*"]
    streamManager: {requestTimeout: 5s}
    sinks:
      sitewise: {type: sitewise, alias: "{asset}/{tag}", stream: SluiceSiteWise}
      kinesis: {type: kinesis, kinesisStream: plant-data, stream: SluiceKinesis}
      s3: {type: s3, bucket: plant-archive, prefix: sluice/, stream: SluiceS3, statusStream: SluiceS3Status}
      trial: {type: kinesis, kinesisStream: trial, stream: SluiceTrial, required: false, maxLag: 1h}

Each sink is a scope of its own: one that is wrong is reported and left out, the others run.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from sluice.config import ComponentSettings, Duration, Named, Settings, Size, refuse
from sluice.units import format_size
from stream_exporter.destinations import ALIAS_FIELDS, MAX_RECORD_BYTES, Integers, alias_fields

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_SOURCE = re.compile(rf"\*|(\*|{_NAME})/(\*|{_NAME})")


def _source(value: str) -> str:
    if not _SOURCE.fullmatch(value):
        refuse(
            "names no source",
            'write "*" for all, "<producer>/*" for all of one, or "<producer>/<source>" such as opcua-collector/line1',
        )
    return value


def _alias(value: str) -> str:
    try:
        fields = alias_fields(value)
    except ValueError as error:
        refuse(f"is no alias template ({error})", 'write text with fields in braces, such as "{asset}/{tag}"')
    if "tag" not in fields:
        refuse("would be the same for every tag", 'use {tag} in it, such as "{asset}/{tag}"')
    return value


def _stream_size(value: int, info: ValidationInfo) -> int:
    segment = info.data.get("segment_size")
    if segment is not None and value < 3 * segment:
        refuse(
            f"holds fewer than three segments of {format_size(segment)}, and two are always left free",
            f"use {format_size(3 * segment)} or more, or a smaller segmentSize",
        )
    return value


Source = Annotated[str, AfterValidator(_source)]
StreamName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,255}$", examples=["SluiceKinesis"])]


class StreamManagerSettings(Settings):
    """How stream manager is talked to. Its port is found by itself."""

    request_timeout: Annotated[
        Duration, Field(ge=0.1, le=60.0, description="how long one call may take before the connection is made anew")
    ] = 5.0


class SinkSettings(Settings):
    """What every sink has."""

    pack_interval: Annotated[
        Duration, Field(ge=0.01, le=60.0, description="how long samples are gathered before they are packed")
    ]
    max_waiting: Annotated[
        int, Field(ge=1000, le=10_000_000, description="samples that may wait in memory; newer ones wait in outboxes")
    ] = 500_000
    required: Annotated[
        bool, Field(description="whether producers keep their data until this sink has exported it, however long")
    ] = True
    max_lag: Annotated[
        Duration,
        Field(ge=1.0, le=366 * 86_400.0, description="what a sink that is not required may be behind, until it skips"),
    ] = 86_400.0
    ack_on: Annotated[
        Literal["exported", "appended"],
        Field(
            description="when producers may delete: appended is sooner, and loses samples when a power cut takes what "
            "stream manager had not flushed"
        ),
    ] = "exported"
    stream: StreamName
    """The stream of stream manager that this sink alone appends to; it is made when it is not there."""
    segment_size: Annotated[
        Size, Field(ge=1 << 20, le=(1 << 31) - 1, description="space in the stream is freed in pieces of this size")
    ] = 16 << 20
    stream_size: (
        Annotated[
            Size,
            AfterValidator(_stream_size),
            Field(description="the most that the stream holds: 256MiB unless said otherwise, three segments or more"),
        ]
        | None
    ) = None
    priority: Annotated[int, Field(ge=1, le=10, description="order of exports, 1 first")] = 5


class SiteWiseSink(SinkSettings):
    """To properties of AWS IoT SiteWise, by alias."""

    type: Literal["sitewise"]
    """Properties of AWS IoT SiteWise."""
    alias: Annotated[
        str, AfterValidator(_alias), Field(description=f"fields: {', '.join(ALIAS_FIELDS)}", examples=["{asset}/{tag}"])
    ] = "{asset}/{tag}"
    integers: Annotated[
        Literal["integer", "double"], Field(description="the SiteWise data type of integer tags; integer has 32 bits")
    ] = Integers.INTEGER.value
    nulls: Annotated[
        Literal["filter", "send"], Field(description="send: as nullValue, which older stream managers may not pass on")
    ] = "filter"
    stream: StreamName = "SluiceSiteWise"
    """The stream of stream manager that this sink alone appends to; it is made when it is not there."""
    pack_interval: Annotated[Duration, Field(ge=0.01, le=60.0)] = 0.4
    """How long samples are gathered before they are packed."""


class KinesisSink(SinkSettings):
    """To a Kinesis data stream, as JSON lines."""

    type: Literal["kinesis"]
    """A Kinesis data stream."""
    kinesis_stream: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,128}$", examples=["plant-data"])]
    """The Kinesis data stream, by its name."""
    message_size: Annotated[
        Size, Field(ge=1000, le=MAX_RECORD_BYTES, description="bytes of lines that become one record")
    ] = 256_000
    compression: Annotated[
        Literal["none", "gzip"],
        Field(description="gzip: each record is a gzip member, which its consumers must unpack"),
    ] = "none"
    stream: StreamName = "SluiceKinesis"
    """The stream of stream manager that this sink alone appends to; it is made when it is not there."""
    pack_interval: Annotated[Duration, Field(ge=0.01, le=60.0)] = 0.25
    """How long samples are gathered before they are packed."""


class S3Sink(SinkSettings):
    """To files in an S3 bucket, as JSON lines."""

    type: Literal["s3"]
    """Files in an S3 bucket."""
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]$", examples=["plant-archive"])]
    """The S3 bucket, by its name."""
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9_.=\-][A-Za-z0-9_.=/\-]{0,255})?$", examples=["sluice/"])] = ""
    """What all object keys begin with."""
    rotate_interval: Annotated[Duration, Field(ge=1.0, le=86400.0, description="a file is uploaded after")] = 60.0
    rotate_size: Annotated[Size, Field(ge=10_000, le=5_000_000_000, description="or when it has this size")] = (
        16_000_000
    )
    spool_size: Annotated[
        Size, Field(ge=1 << 20, description="bytes of files on this device; when they are used up, new data waits")
    ] = 512 << 20
    compression: Annotated[
        Literal["gzip", "none"], Field(description="gzip: keys end with .jsonl.gz, and files shrink to a tenth or less")
    ] = "gzip"
    stream: StreamName = "SluiceS3"
    """The stream of stream manager that this sink alone appends to; it is made when it is not there."""
    status_stream: StreamName = "SluiceS3Status"
    """The stream in which stream manager tells how uploads went; it is made when it is not there."""
    pack_interval: Annotated[Duration, Field(ge=0.01, le=60.0)] = 1.0
    """How long samples are gathered before they are packed."""


AnySink = SiteWiseSink | KinesisSink | S3Sink


class Configuration(ComponentSettings):
    """The whole configuration of io.sluice.StreamExporter."""

    sources: list[Source] = Field(
        ["*"], min_length=1, max_length=5, description="whose data is exported: <producer>/<source>"
    )
    stream_manager: StreamManagerSettings = StreamManagerSettings()
    """How stream manager is talked to."""
    sinks: Named[AnySink] = Field({})
    """Where data goes, by a name of your own; each sink exports everything that the sources yield."""


def topic_filters(sources: list[str]) -> list[str]:
    """The topics of the sources' streams: live data, backfill and events of each."""
    filters = []
    for source in sources:
        producer, _, name = ("*/*" if source == "*" else source).partition("/")
        if name == "*":
            filters.append("sluice/data/#" if producer == "*" else f"sluice/data/{producer}/#")
        else:
            filters.append(f"sluice/data/{'+' if producer == '*' else producer}/{name}/#")
    return list(dict.fromkeys(filters))


def stream_size(sink: SinkSettings) -> int:
    """The most that a sink's stream holds."""
    return sink.stream_size or max(256 << 20, 3 * sink.segment_size)


def streams_of(sink: Any) -> list[str]:
    """The streams that a sink alone may use."""
    return [sink.stream, sink.status_stream] if isinstance(sink, S3Sink) else [sink.stream]
