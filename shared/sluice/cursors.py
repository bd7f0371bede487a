"""Cursors: what a consumer tells a producer, and how that is written.

On `sluice/ack/<producer>/<consumer>`, strict UTF-8 JSON, of at most MAX_CURSORS_BYTES:

    {"v":1, "kind":"cursors", "consumer":"stream-exporter",
     "streams":{"opcua-collector/line1":{"epoch":"9f2c5a0b77d1", "acked":1040, "next":1043}},
     "ask":[{"stream":"opcua-collector/line1", "epoch":"9f2c5a0b77d1", "from":1043, "bytes":1000000}]}

`acked`: everything up to it may be deleted; `next`: what the furthest reader wants; `ask`: what is to be replayed. A
stream that is not named stands where it was told to stand before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from sluice.batch import EPOCH_PATTERN, STREAM_PATTERN, BatchError
from sluice.columns import shown

ACK_PREFIX: Final = "sluice/ack/"
MAX_CURSORS_BYTES: Final = 120_000
_INT64_MAX: Final = 2**63 - 1
_CONSUMER_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


def ack_topic(producer: str, consumer: str) -> str:
    """The topic on which a consumer tells a producer its cursors."""
    return f"{ACK_PREFIX}{producer}/{consumer}"


class MessageError(ValueError):
    """A message that is not believed; `counter` is the name under which it is counted."""

    def __init__(self, counter: str, told: str) -> None:
        self.counter = counter
        super().__init__(told)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a consumer stands in a stream: it is done with everything up to `acked` and wants `next`."""

    epoch: str
    acked: int
    next: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A wish: kept batches from number `first` on, of up to `bytes` in all, at least one."""

    stream: str
    epoch: str
    first: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Cursors:
    """The message on `sluice/ack/<producer>/<consumer>`."""

    consumer: str
    streams: Mapping[str, Cursor]
    asks: Sequence[Ask]


def encode_cursors(
    consumer: str, streams: Mapping[str, Cursor], asks: Sequence[Ask], *, max_bytes: int
) -> Iterator[bytes]:
    """The cursors as JSON, in as many messages of at most max_bytes as it takes; a stream's ask comes last."""
    head = {"v": 1, "kind": "cursors", "consumer": consumer}
    room = max_bytes - len(orjson.dumps({**head, "streams": {}, "ask": []}))
    told: dict[str, Any] = {}
    asked: list[Any] = []
    used = 0

    def message() -> bytes:
        return orjson.dumps({**head, "streams": told, "ask": asked})

    for stream, cursor in streams.items():
        entry = {"epoch": cursor.epoch, "acked": cursor.acked, "next": cursor.next}
        size = len(stream) + len(orjson.dumps(entry)) + 4
        if used + size > room and used:
            yield message()
            told, asked, used = {}, [], 0
        told[stream] = entry
        used += size
    for ask in asks:
        wish = {"stream": ask.stream, "epoch": ask.epoch, "from": ask.first, "bytes": ask.bytes}
        size = len(orjson.dumps(wish)) + 1
        if used + size > room and used:
            yield message()
            told, asked, used = {}, [], 0
        asked.append(wish)
        used += size
    if used:
        yield message()


def decode_cursors(topic: str, payload: bytes) -> Cursors:
    """The cursors that arrived on a topic. Raises MessageError for anything that is not exactly that."""
    producer, _, name = topic.removeprefix(ACK_PREFIX).partition("/")
    if not topic.startswith(ACK_PREFIX) or not _CONSUMER_PATTERN.fullmatch(name):
        raise MessageError("foreign", f"message on {topic!r:.200}, which is no topic of cursors")
    try:
        cursors = _read_cursors(payload)
    except BatchError as error:
        raise MessageError("malformed", f"message on {topic!r:.200}: {error}") from None
    if cursors.consumer != name:
        told = f"message on {topic!r:.200} claims to be of consumer {cursors.consumer!r}: it may speak for {name} alone"
        raise MessageError("forged", told)
    for stream in (*cursors.streams, *(ask.stream for ask in cursors.asks)):
        if stream.partition("/")[0] != producer:
            raise MessageError("forged", f"message on {topic!r:.200} is about stream {stream!r}, not one of {producer}")
    return cursors


def _read_cursors(payload: bytes) -> Cursors:
    if len(payload) > MAX_CURSORS_BYTES:
        raise BatchError("payload", f"{len(payload)} bytes, more than {MAX_CURSORS_BYTES}", len(payload))
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise BatchError("payload", f"not JSON: {error}; it starts with {shown(bytes(payload[:20]))}") from error
    if type(body) is not dict or type(body.get("v")) is not int or body["v"] != 1 or body.get("kind") != "cursors":
        raise BatchError("kind", f"{shown(body)} is no cursors message of version 1", body)
    consumer = body.get("consumer")
    if type(consumer) is not str or not _CONSUMER_PATTERN.fullmatch(consumer):
        raise BatchError("consumer", f"{shown(consumer)} is not the name of a component", consumer)
    streams, asks = body.get("streams", {}), body.get("ask", [])
    if type(streams) is not dict:
        raise BatchError("streams", f"{shown(streams)} is not an object", streams)
    if type(asks) is not list:
        raise BatchError("ask", f"{shown(asks)} is not a list", asks)
    return Cursors(
        consumer,
        {_stream(stream, "streams"): _read_cursor(stream, entry) for stream, entry in streams.items()},
        tuple(_read_ask(i, entry) for i, entry in enumerate(asks)),
    )


def _read_cursor(stream: str, entry: Any) -> Cursor:
    place = f"streams.{stream}"
    epoch = _epoch(entry, place)
    wanted = _integer(entry, place, "next", 1, _INT64_MAX)
    return Cursor(epoch, _integer(entry, place, "acked", 0, wanted - 1), wanted)


def _read_ask(i: int, entry: Any) -> Ask:
    place = f"ask[{i}]"
    epoch = _epoch(entry, place)
    stream = _stream(entry.get("stream"), f"{place}.stream")
    first = _integer(entry, place, "from", 1, _INT64_MAX)
    return Ask(stream, epoch, first, _integer(entry, place, "bytes", 1, _INT64_MAX))


def _stream(stream: Any, place: str) -> str:
    if type(stream) is not str or not STREAM_PATTERN.fullmatch(stream):
        raise BatchError(place, f"{shown(stream)} is not <producer>/<source>, with /backfill or /events", stream)
    return stream


def _epoch(entry: Any, place: str) -> str:
    epoch = entry.get("epoch") if type(entry) is dict else None
    if type(epoch) is not str or not EPOCH_PATTERN.fullmatch(epoch):
        raise BatchError(f"{place}.epoch", f"{shown(epoch)} is not 12 hex characters", epoch)
    return epoch


def _integer(entry: Mapping[str, Any], place: str, name: str, low: int, high: int) -> int:
    value = entry.get(name)
    if type(value) is not int or not low <= value <= high:
        raise BatchError(f"{place}.{name}", f"{shown(value)} is not an integer from {low} to {high}", value)
    return value
