"""Files for S3: their names, object keys, export tasks and status messages. No I/O.

A file holds the lines of one contiguous range of one input stream. Its name says which, and the same range of the same
file always becomes the same object:

    opcua-collector~line1~9f2c51aa07be~20260131T120000Z~1042-1107.jsonl.gz  sealed: complete, on disk, ready for a task
    opcua-collector~line1~9f2c51aa07be~20260131T120000Z~1042.part           open: still written to

`backfill` or `events` streams have that word after the source. The object's key is

    <prefix>opcua-collector/line1/2026/01/31/9f2c51aa07be-20260131T120000Z-1042-1107.jsonl.gz

The suffix says what is in it: `.jsonl` is lines, `.jsonl.gz` the same as gzip (several members one after the other, as
RFC 1952 allows and every reader of gzip files takes). Stream manager sets no Content-Type and no Content-Encoding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import orjson

PLAIN_SUFFIX = ".jsonl"
GZIP_SUFFIX = ".jsonl.gz"
OPEN_SUFFIX = ".part"

_OPENED = "%Y%m%dT%H%M%SZ"

_WORD = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_NAME = re.compile(
    rf"(?P<stream>{_WORD}(?:~{_WORD}){{1,2}})~(?P<epoch>[0-9a-f]{{12}})~(?P<opened>\d{{8}}T\d{{6}}Z)"
    rf"~(?P<first>\d+)(?:-(?P<last>\d+)(?P<suffix>{re.escape(PLAIN_SUFFIX)}|{re.escape(GZIP_SUFFIX)})"
    rf"|{re.escape(OPEN_SUFFIX)})"
)


@dataclass(frozen=True, slots=True)
class FileName:
    """What a file's name says. While the file is open, `last` is None."""

    stream: str
    epoch: str
    opened: str  # UTC, 20260131T120000Z
    first: int
    last: int | None = None
    suffix: str = OPEN_SUFFIX

    @classmethod
    def new(cls, stream: str, epoch: str, first: int, now_ns: int) -> FileName:
        """The name of a file that is opened now."""
        opened = datetime.fromtimestamp(now_ns // 1_000_000_000, tz=timezone.utc).strftime(_OPENED)
        return cls(stream, epoch, opened, first)

    @classmethod
    def parse(cls, name: str) -> FileName | None:
        """What a file's name says; None when it is not one of ours."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        opened = cls(match["stream"].replace("~", "/"), match["epoch"], match["opened"], int(match["first"]))
        return opened if match["last"] is None else opened.sealed(int(match["last"]), match["suffix"])

    def sealed(self, last: int, suffix: str) -> FileName:
        """The name once the file is complete."""
        return replace(self, last=last, suffix=suffix)

    @property
    def opened_ns(self) -> int:
        """When the file was opened, ns since 1970."""
        opened = datetime.strptime(self.opened, _OPENED).replace(tzinfo=timezone.utc)
        return int(opened.timestamp()) * 1_000_000_000

    def __str__(self) -> str:
        return f"{self.stream.replace('/', '~')}~{self.epoch}~{self.opened}~{self._numbers}{self.suffix}"

    def key(self, prefix: str) -> str:
        """The object's key, for a sealed file."""
        day = f"{self.opened[0:4]}/{self.opened[4:6]}/{self.opened[6:8]}"
        return f"{prefix}{self.stream}/{day}/{self.epoch}-{self.opened}-{self._numbers}{self.suffix}"

    @property
    def _numbers(self) -> str:
        return str(self.first) if self.last is None else f"{self.first}-{self.last}"


def task(file: Path, bucket: str, key: str) -> bytes:
    """The message that has stream manager export a file (S3ExportTaskDefinition). The path must be absolute."""
    return orjson.dumps({"inputUrl": file.as_uri(), "bucket": bucket, "key": key})


def task_file(message: bytes) -> str | None:
    """The name of the file that a task is for; None when the message is not a task."""
    try:
        return _name_of(orjson.loads(message)["inputUrl"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What stream manager says about one task."""

    file: str  # name without folder: nothing outside our own folder is ever touched
    outcome: str  # success, failure, under way, warning (tried again by itself) or canceled
    message: str


_OUTCOMES = {0: "success", 1: "failure", 2: "under way", 3: "warning", 4: "canceled"}


def task_status(message: bytes) -> TaskStatus | None:
    """What a message of the status stream says; None when it is not about a task or cannot be read."""
    try:
        content = orjson.loads(message)
        url = content["statusContext"]["s3ExportTaskDefinition"]["inputUrl"]
        outcome = _OUTCOMES[content["status"]]
        text = content.get("message") or ""
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    name = _name_of(url)
    return None if name is None else TaskStatus(name, outcome, str(text)[:500])


def _name_of(url: object) -> str | None:
    return url.rpartition("/")[2] if isinstance(url, str) else None
