"""Messages for Kinesis Data Streams: each becomes one record, many JSON lines in one.

A stream's records may have 1 MiB including the partition key that stream manager makes; Kinesis is paid by the
25 KB and limited by 1 MB/s and 1,000 records/s per shard, so records of some hundred KB are the cheap form.

Compressed, each record is one gzip member of whole lines, about a fifteenth of their size; a consumer must unpack it.
Nothing but its first two bytes (1f 8b) says so: a record carries no metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sluice.batch import SampleBatch
from stream_exporter.destinations import MAX_RECORD_BYTES
from stream_exporter.lines import GZIP_OVERHEAD, LineEncoder, cut_lines, gzip_member
from stream_exporter.messages import Encoded

REMEDIES = {"too-large": "a Kinesis record holds at most 1 MiB: shorten the value at its source"}


class KinesisEncoder:
    """Encodes ranges as records of whole lines, about `target` bytes of lines each. Satisfies messages.Encoder."""

    def __init__(self, target: int, *, compress: bool = False) -> None:
        self._limit = MAX_RECORD_BYTES - (GZIP_OVERHEAD if compress else 0)
        self._target = min(target, self._limit)
        self._compress = compress
        self._lines = LineEncoder()

    def encode(self, batches: Sequence[SampleBatch], now_ns: int) -> Encoded:
        """Records of the range, lines in the order of its samples."""
        lines = b"".join([self._lines.encode(batch) for batch in batches])
        messages, too_large = cut_lines(lines, self._target, self._limit)
        if self._compress:
            messages = [replace(message, payload=gzip_member(message.payload)) for message in messages]
        return Encoded(tuple(messages), {"too-large": too_large} if too_large else {})
