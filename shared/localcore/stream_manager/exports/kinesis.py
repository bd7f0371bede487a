"""Export to Kinesis Data Streams: each message is one record."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from localcore.stream_manager.exports.client import make_client
from localcore.stream_manager.exports.exporter import Outcome
from localcore.stream_manager.store import Message

_KEY_BYTES = 36
_MAX_RECORDS = 500


class KinesisDestination:
    """PutRecords with a random partition key per record; only the records that failed are sent again.

    A record that Kinesis never takes (above 1 MiB) blocks the export for ever: the documentation knows no way out.
    """

    max_batch_bytes = (5 << 20) - _MAX_RECORDS * _KEY_BYTES
    pause_s = 1.0  # STREAM_MANAGER_EXPORTER_KINESIS_INTER_CALL_DELAY_MS is 1000 by default
    position_at_once = False

    def __init__(self, stream_name: str, region: str, endpoint: str) -> None:
        self._stream = stream_name
        self._where = (region, endpoint)
        self._client: Any = None

    def send(self, messages: Sequence[Message]) -> Outcome:
        if self._client is None:
            self._client = make_client("kinesis", *self._where)
        records = [{"Data": message.payload, "PartitionKey": str(uuid.uuid4())} for message in messages]
        try:
            results = self._client.put_records(StreamName=self._stream, Records=records)["Records"]
        except (ClientError, BotoCoreError) as error:
            return Outcome(again=messages, error=f"Kinesis stream {self._stream!r}: {error}")
        failed = [
            (message, result)
            for message, result in zip(messages, results, strict=True)
            if result.get("ErrorCode") is not None
        ]
        if not failed:
            return Outcome()
        first = failed[0][1]
        return Outcome(
            again=[message for message, _ in failed],
            error=f"Kinesis stream {self._stream!r}: {len(failed)} of {len(messages)} records failed: "
            f"{first['ErrorCode']}: {first.get('ErrorMessage', '')}",
        )
