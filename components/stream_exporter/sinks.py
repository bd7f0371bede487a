"""From the configuration of a sink to the sink."""

from __future__ import annotations

from pathlib import Path

from stream_manager import IoTSiteWiseConfig, KinesisConfig, S3ExportTaskExecutorConfig, StatusConfig, StatusLevel

from stream_exporter import kinesis, remedies, sitewise
from stream_exporter.appending import AppendingSink
from stream_exporter.config import AnySink, KinesisSink, SinkSettings, SiteWiseSink
from stream_exporter.files import FileSink
from stream_exporter.sink import Sink
from stream_exporter.spool import Spool
from stream_exporter.stream_client import StreamClient
from stream_exporter.streams import Export, StreamPlan

#: The status stream only says what became of files.
STATUS_STREAM_SIZE = 4 << 20
STATUS_SEGMENT_SIZE = 1 << 20


#: Our export in a stream of ours. Not called as the sink is: a sink that is renamed must not export everything twice.
EXPORT = "sluice"


def make_sink(name: str, settings: AnySink, client: StreamClient, folder: Path) -> Sink:
    """The sink of these settings; `folder` is for files of its own."""
    identifier = EXPORT
    if isinstance(settings, SiteWiseSink):
        rules = sitewise.SiteWiseRules(
            settings.alias, sitewise.Integers(settings.integers), send_nulls=settings.nulls == "send"
        )
        return AppendingSink(
            name,
            client,
            sitewise.SiteWiseEncoder(rules),
            _plan(settings, IoTSiteWiseConfig(identifier=identifier, priority=settings.priority, disabled=False)),
            remedies.sitewise(settings.alias),
            sitewise.REMEDIES,
            pack_interval=settings.pack_interval,
            max_waiting=settings.max_waiting,
        )
    if isinstance(settings, KinesisSink):
        export = KinesisConfig(
            identifier=identifier,
            kinesis_stream_name=settings.kinesis_stream,
            priority=settings.priority,
            disabled=False,
        )
        return AppendingSink(
            name,
            client,
            kinesis.KinesisEncoder(settings.message_size, compress=settings.compression == "gzip"),
            _plan(settings, export),
            remedies.kinesis(settings.kinesis_stream),
            kinesis.REMEDIES,
            pack_interval=settings.pack_interval,
            max_waiting=settings.max_waiting,
        )
    executor = S3ExportTaskExecutorConfig(
        identifier=identifier,
        priority=settings.priority,
        disabled=False,
        status_config=StatusConfig(status_level=StatusLevel.INFO, status_stream_name=settings.status_stream),
    )
    return FileSink(
        name,
        client,
        Spool(
            folder,
            max_bytes=settings.spool_size,
            rotate_size=settings.rotate_size,
            rotate_interval=settings.rotate_interval,
        ),
        _plan(settings, executor),
        StreamPlan(settings.status_stream, STATUS_STREAM_SIZE, STATUS_SEGMENT_SIZE),
        remedies.s3(settings.bucket),
        bucket=settings.bucket,
        prefix=settings.prefix,
        pack_interval=settings.pack_interval,
        max_waiting=settings.max_waiting,
    )


def _plan(settings: SinkSettings, export: Export) -> StreamPlan:
    return StreamPlan(settings.stream, settings.stream_size, settings.segment_size, export)
