"""From the configuration of a sink to the sink."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from stream_manager import IoTSiteWiseConfig, KinesisConfig, S3ExportTaskExecutorConfig, StatusConfig, StatusLevel

from stream_exporter import kinesis, remedies, sitewise
from stream_exporter.appending import AppendingSink, Target
from stream_exporter.config import AnySink, KinesisSink, S3Sink, SinkSettings, SiteWiseSink, stream_size
from stream_exporter.destinations import Integers
from stream_exporter.files import FileSink
from stream_exporter.messages import Encoder
from stream_exporter.s3 import GZIP_SUFFIX, PLAIN_SUFFIX
from stream_exporter.sink import Sink, Terms
from stream_exporter.spool import Spool
from stream_exporter.stream_client import StreamClient
from stream_exporter.streams import Export, StreamPlan
from stream_exporter.units import UnitStore

#: The status stream only says what became of files.
STATUS_STREAM_SIZE = 4 << 20
STATUS_SEGMENT_SIZE = 1 << 20


#: Our export in a stream of ours. Not called as the sink is: a sink that is renamed must not export everything twice.
EXPORT = "sluice"


def make_sink(name: str, settings: AnySink, client: StreamClient, store: UnitStore, folder: Path) -> Sink:
    """The sink of these settings; `folder` is for files of its own."""
    store.adopt(name, settings.type)
    if isinstance(settings, S3Sink):
        return _file_sink(name, settings, client, store, folder)
    made_of: dict[str, Any]
    if isinstance(settings, SiteWiseSink):
        made_of = {"alias": settings.alias, "integers": settings.integers, "nulls": settings.nulls}
        destination, filter_remedies = remedies.sitewise(settings.alias), sitewise.REMEDIES
    else:
        made_of = {"messageSize": settings.message_size, "compression": settings.compression}
        destination, filter_remedies = remedies.kinesis(settings.kinesis_stream), kinesis.REMEDIES
    export = _export(settings)

    def plan(made: str) -> StreamPlan:
        return StreamPlan(orjson.loads(made)["stream"], stream_size(settings), settings.segment_size, export)

    made_of = {"type": settings.type, "stream": settings.stream, **made_of}
    target = Target(orjson.dumps(made_of).decode(), encoder, plan, destination, filter_remedies)
    return AppendingSink(name, client, store, target, terms(settings))


def encoder(settings: str) -> Encoder:
    """The encoder of a unit, from the settings that it was begun with."""
    made_of: Mapping[str, Any] = orjson.loads(settings)
    if made_of["type"] == "sitewise":
        return sitewise.SiteWiseEncoder(
            sitewise.SiteWiseRules(
                made_of["alias"], Integers(made_of["integers"]), send_nulls=made_of["nulls"] == "send"
            )
        )
    return kinesis.KinesisEncoder(made_of["messageSize"], compress=made_of["compression"] == "gzip")


def terms(settings: SinkSettings) -> Terms:
    """How the sink takes part."""
    return Terms(
        pack_interval=settings.pack_interval,
        max_waiting=settings.max_waiting,
        required=settings.required,
        max_lag=settings.max_lag,
        acknowledge_appended=settings.ack_on == "appended",
    )


def _export(settings: SiteWiseSink | KinesisSink) -> Export:
    priority = settings.priority
    export: Export
    if isinstance(settings, SiteWiseSink):
        export = IoTSiteWiseConfig(identifier=EXPORT, priority=priority, disabled=False)
    else:
        export = KinesisConfig(
            identifier=EXPORT, kinesis_stream_name=settings.kinesis_stream, priority=priority, disabled=False
        )
    return export


def _file_sink(name: str, settings: S3Sink, client: StreamClient, store: UnitStore, folder: Path) -> Sink:
    compress = settings.compression == "gzip"
    executor = S3ExportTaskExecutorConfig(
        identifier=EXPORT,
        priority=settings.priority,
        disabled=False,
        status_config=StatusConfig(status_level=StatusLevel.INFO, status_stream_name=settings.status_stream),
    )
    return FileSink(
        name,
        client,
        store,
        Spool(
            folder,
            max_bytes=settings.spool_size,
            rotate_size=settings.rotate_size,
            rotate_interval=settings.rotate_interval,
            suffix=GZIP_SUFFIX if compress else PLAIN_SUFFIX,
        ),
        StreamPlan(settings.stream, stream_size(settings), settings.segment_size, executor),
        StreamPlan(settings.status_stream, STATUS_STREAM_SIZE, STATUS_SEGMENT_SIZE),
        remedies.s3(settings.bucket),
        terms(settings),
        bucket=settings.bucket,
        prefix=settings.prefix,
        compress=compress,
    )
