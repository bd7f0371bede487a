"""Export to S3: each message is a task that names a file, and a status stream tells what became of it.

Tasks run strictly in order. Trouble on the way (no connection, 5xx) is told as Warning and retried for ever; what a
retry would not mend (no such file, no such bucket, no permission, an impossible key) is told as Failure, and the task
is over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from localcore import clock
from localcore.stream_manager.definition import ExportConfig
from localcore.stream_manager.exports.client import error_code, make_client
from localcore.stream_manager.exports.exporter import Outcome
from localcore.stream_manager.store import Message

DEFAULT_MULTIPART_THRESHOLD = 5 << 20
PART_BYTES = 5 << 20

_PLACEHOLDER = re.compile(r"!\{([a-zA-Z]+):([^}]*)\}")
_DATE_FIELDS = {
    "yyyy": "%Y",
    "yy": "%y",
    "MM": "%m",
    "dd": "%d",
    "HH": "%H",
    "mm": "%M",
    "ss": "%S",
    "DDD": "%j",
}


class Level(IntEnum):
    ERROR = 0
    WARN = 1
    INFO = 2
    DEBUG = 3
    TRACE = 4


class TaskStatus(IntEnum):
    SUCCESS = 0
    FAILURE = 1
    IN_PROGRESS = 2
    WARNING = 3
    CANCELED = 4


_LEVELS = {
    TaskStatus.SUCCESS: Level.INFO,
    TaskStatus.FAILURE: Level.ERROR,
    TaskStatus.IN_PROGRESS: Level.INFO,
    TaskStatus.WARNING: Level.WARN,
    TaskStatus.CANCELED: Level.WARN,
}


class TaskError(Exception):
    """A task that no retry would mend."""


@dataclass(frozen=True, slots=True)
class Task:
    """An S3ExportTaskDefinition."""

    path: Path
    bucket: str
    key: str
    metadata: Mapping[str, str]
    wire: Mapping[str, Any]


class S3Destination:
    """Uploads the files that tasks name.

    report: takes the payload for a status stream, in the order of events; called from any thread.
    """

    max_batch_bytes = 1 << 20
    pause_s = 0.0
    position_at_once = True  # or a killed server would do a task again whose file is already gone

    def __init__(
        self,
        stream_name: str,
        config: ExportConfig,
        region: str,
        endpoint: str,
        report: Callable[[str, bytes], None],
    ) -> None:
        self._stream = stream_name
        self._identifier = config.identifier
        self._threshold = config.wire.get("sizeThresholdForMultipartUploadBytes") or DEFAULT_MULTIPART_THRESHOLD
        status = config.wire.get("statusConfig") or {}
        self._level = status.get("statusLevel", Level.ERROR)
        self._status_stream = status.get("statusStreamName")
        self._where = (region, endpoint)
        self._report = report
        self._client: Any = None
        self._tried = -1

    def send(self, messages: Sequence[Message]) -> Outcome:
        (message,) = messages
        task = None
        try:
            task = parse_task(message.payload)
            if self._tried != message.sequence:
                self._tried = message.sequence
                self._tell(message, task, TaskStatus.IN_PROGRESS, f"uploading {task.path} to {_place(task)}")
            self._upload(task)
        except TaskError as error:
            return self._over(message, task, str(error))
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                return self._over(message, task, f"{_place(task)}: {error_code(error)}: {error}")
            return self._again(message, task, f"{_place(task)}: {error}")
        except BotoCoreError as error:
            return self._again(message, task, f"{_place(task)}: {error}")
        return Outcome(done=lambda: self._tell(message, task, TaskStatus.SUCCESS, f"uploaded to {_place(task)}"))

    def _over(self, message: Message, task: Task | None, problem: str) -> Outcome:
        done = lambda: self._tell(message, task, TaskStatus.FAILURE, problem)  # noqa: E731
        return Outcome(skipped=[message], error=problem, done=done)

    def _again(self, message: Message, task: Task | None, problem: str) -> Outcome:
        self._tell(message, task, TaskStatus.WARNING, problem)
        return Outcome(again=[message], error=problem)

    def _tell(self, message: Message, task: Task | None, status: TaskStatus, text: str) -> None:
        level = _LEVELS[status]
        if self._status_stream is None or level > self._level:
            return
        context: dict[str, Any] = {
            "exportIdentifier": self._identifier,
            "streamName": self._stream,
            "sequenceNumber": message.sequence,
        }
        if task is not None:
            context["s3ExportTaskDefinition"] = dict(task.wire)
        report = {
            "eventType": 0,
            "statusLevel": int(level),
            "status": int(status),
            "statusContext": context,
            "message": text,
            "timestampEpochMs": clock.now_ms(),
        }
        self._report(self._status_stream, json.dumps(report).encode())

    def _upload(self, task: Task) -> None:
        if self._client is None:
            self._client = make_client("s3", *self._where)
        key = resolve_key(task.key, datetime.fromtimestamp(clock.now_ms() / 1000, timezone.utc))
        target = {"Bucket": task.bucket, "Key": key}
        try:
            with task.path.open("rb") as file:
                size = task.path.stat().st_size
                if size <= self._threshold:
                    self._client.put_object(**target, Body=file.read(), Metadata=dict(task.metadata))
                    return
                upload = self._client.create_multipart_upload(**target, Metadata=dict(task.metadata))
                target["UploadId"] = upload["UploadId"]
                parts: list[dict[str, Any]] = []
                while data := file.read(PART_BYTES):
                    number = len(parts) + 1
                    part = self._client.upload_part(**target, PartNumber=number, Body=data)
                    parts.append({"PartNumber": number, "ETag": part["ETag"]})
                self._client.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
        except OSError as error:
            raise TaskError(f"the file {task.path} cannot be read: {error.strerror}") from error


def parse_task(payload: bytes) -> Task:
    """The task in a message. Raises TaskError."""
    try:
        wire = json.loads(payload)
        url, bucket, key = (str(wire[name]) for name in ("inputUrl", "bucket", "key"))
    except (ValueError, TypeError, KeyError) as error:
        raise TaskError(f"not an S3 export task: {error!r}") from error
    split = urlsplit(url)
    if split.scheme not in ("file", "") or split.netloc not in ("", "localhost"):
        raise TaskError(f"inputUrl {url!r}: a local file is required, as in file:///folder/name")
    # Keys of user metadata are case-insensitive in S3 and appear there in lower case.
    metadata = {str(name).lower(): str(value) for name, value in (wire.get("userMetadata") or {}).items()}
    return Task(Path(unquote(split.path)), bucket, key, metadata, wire)


def resolve_key(key: str, now: datetime) -> str:
    """The key with its `!{timestamp:yyyy/MM/dd}` placeholders filled in, UTC. Raises TaskError."""

    def resolve(found: re.Match[str]) -> str:
        name, pattern = found.groups()
        if name != "timestamp":
            raise TaskError(f"key {key!r}: the placeholder {name!r} is unknown")
        resolved = ""
        for piece in re.findall(r"([a-zA-Z])(\1*)|([^a-zA-Z]+)", pattern):
            letters, literal = piece[0] + piece[1], piece[2]
            if letters and letters not in _DATE_FIELDS:
                raise TaskError(f"key {key!r}: {letters!r} is none of {', '.join(_DATE_FIELDS)}")
            resolved += now.strftime(_DATE_FIELDS[letters]) if letters else literal
        return resolved

    return _PLACEHOLDER.sub(resolve, key)


def _place(task: Task | None) -> str:
    return "the task" if task is None else f"bucket {task.bucket!r}, key {task.key!r}"
