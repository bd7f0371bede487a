"""The wire form of cursors: what a consumer tells, and everything that is not exactly that."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.batch import LITE_MAX_MESSAGE_BYTES
from sluice.cursors import (
    MAX_CURSORS_BYTES,
    Ask,
    Cursor,
    MessageError,
    ack_topic,
    decode_cursors,
    encode_cursors,
)

TOPIC = "sluice/ack/opcua-collector/stream-exporter"
STREAM = "opcua-collector/line1"
EPOCH = "9f2c5a0b77d1"

numbers = st.integers(0, 2**63 - 2)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
streams = st.builds(
    lambda name, part: f"opcua-collector/{name}{part}", names, st.sampled_from(["", "/backfill", "/events"])
)
epochs = st.from_regex(r"[0-9a-f]{12}", fullmatch=True)
cursors = st.builds(lambda epoch, a, b: Cursor(epoch, min(a, b), max(a, b) + 1), epochs, numbers, numbers)
asks = st.builds(Ask, streams, epochs, st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1))


def body(**members: Any) -> bytes:
    whole = {
        "v": 1,
        "kind": "cursors",
        "consumer": "stream-exporter",
        "streams": {STREAM: {"epoch": EPOCH, "acked": 5, "next": 9}},
        "ask": [{"stream": STREAM, "epoch": EPOCH, "from": 9, "bytes": 1_000_000}],
        **members,
    }
    return orjson.dumps({name: member for name, member in whole.items() if member is not ...})


def cursor(**members: Any) -> dict[str, Any]:
    return {STREAM: {"epoch": EPOCH, "acked": 5, "next": 9, **members}}


def ask(**members: Any) -> list[dict[str, Any]]:
    return [{"stream": STREAM, "epoch": EPOCH, "from": 9, "bytes": 1_000_000, **members}]


def test_the_message_is_the_one_that_is_documented() -> None:
    (payload,) = encode_cursors(
        "stream-exporter", {STREAM: Cursor(EPOCH, 5, 9)}, [Ask(STREAM, EPOCH, 9, 1_000_000)], max_bytes=7_000
    )
    assert orjson.loads(payload) == orjson.loads(body())
    read = decode_cursors(TOPIC, payload)
    assert (read.consumer, read.streams[STREAM]) == ("stream-exporter", Cursor(EPOCH, 5, 9))
    assert read.asks == (Ask(STREAM, EPOCH, 9, 1_000_000),)


@given(
    st.dictionaries(streams, cursors, max_size=200),
    st.lists(asks, max_size=100),
    st.integers(500, LITE_MAX_MESSAGE_BYTES),
)
def test_however_many_streams_there_are_each_message_fits_and_nothing_is_left_out(
    told: dict[str, Cursor], asked: list[Ask], max_bytes: int
) -> None:
    payloads = list(encode_cursors("stream-exporter", told, asked, max_bytes=max_bytes))
    assert all(len(payload) <= max_bytes for payload in payloads)
    read = [decode_cursors(TOPIC, payload) for payload in payloads]
    assert {stream: of for message in read for stream, of in message.streams.items()} == told
    assert [wish for message in read for wish in message.asks] == asked


def test_nothing_to_tell_is_no_message() -> None:
    assert list(encode_cursors("stream-exporter", {}, [], max_bytes=7_000)) == []


def test_unknown_members_are_ignored_so_that_a_later_release_may_add_some() -> None:
    assert decode_cursors(TOPIC, body(lag=3, streams=cursor(lag=3), ask=ask(limit=3))).streams[STREAM].next == 9


def test_a_message_without_asks_or_without_streams_is_one() -> None:
    assert decode_cursors(TOPIC, body(ask=...)).asks == ()
    assert decode_cursors(TOPIC, body(streams=...)).streams == {}


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"\xff\x00junk", "payload: not JSON"),
        (body()[:-2], "payload: not JSON"),
        (b"[]", "kind: "),
        (body(v=2), "no cursors message of version 1"),
        (body(v=True), "no cursors message of version 1"),
        (body(kind="samples"), "no cursors message"),
        (body(consumer=...), "consumer: None is not the name"),
        (body(consumer="a/b"), "consumer: 'a/b' is not the name"),
        (body(streams=[]), "streams: a list of 0 is not an object"),
        (body(streams={"line1": cursor()[STREAM]}), "streams: 'line1' is not <producer>/<source>"),
        (body(streams={STREAM: 5}), "epoch: None is not 12 hex"),
        (body(streams=cursor(epoch="9F2C5A0B77D1")), "epoch: '9F2C5A0B77D1' is not 12 hex"),
        (body(streams=cursor(acked=-1)), "acked: -1 is not an integer from 0 to 8"),
        (body(streams=cursor(acked=9)), "acked: 9 is not an integer from 0 to 8"),
        (body(streams=cursor(acked=1.0)), "acked: 1.0 is not an integer"),
        (body(streams=cursor(next=0)), "next: 0 is not an integer"),
        (body(streams=cursor(next=2**63)), "next: 9223372036854775808 is not an integer"),
        (body(streams=cursor(next="9")), "next: '9' is not an integer"),
        (body(ask={}), "ask: an object of 0 is not a list"),
        (body(ask=[5]), "ask[0].epoch: None is not"),
        (body(ask=ask(stream="#")), "ask[0].stream: '#' is not <producer>/<source>"),
        (body(ask=ask(**{"from": 0})), "ask[0].from: 0 is not"),
        (body(ask=ask(**{"from": -5})), "ask[0].from: -5 is not"),
        (body(ask=ask(bytes=0)), "ask[0].bytes: 0 is not"),
        (body(ask=ask(bytes=1e300)), "ask[0].bytes: 1e+300 is not"),
        (body(note="x" * MAX_CURSORS_BYTES), f"bytes, more than {MAX_CURSORS_BYTES}"),
    ],
)
def test_a_message_that_is_not_exactly_one_is_refused_and_the_reason_names_field_and_value(
    payload: bytes, told: str
) -> None:
    with pytest.raises(MessageError) as refused:
        decode_cursors(TOPIC, payload)
    assert refused.value.counter == "malformed"
    assert told in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("topic", "payload", "told"),
    [
        (ack_topic("opcua-collector", "console"), body(), "claims to be of consumer 'stream-exporter'"),
        (TOPIC, body(consumer="console"), "it may speak for stream-exporter alone"),
        (ack_topic("pi-collector", "stream-exporter"), body(), "not one of pi-collector"),
        (ack_topic("pi-collector", "stream-exporter"), body(streams={}), "not one of pi-collector"),
    ],
)
def test_nobody_can_acknowledge_under_anothers_name_or_to_another_producer(
    topic: str, payload: bytes, told: str
) -> None:
    with pytest.raises(MessageError, match=told) as refused:
        decode_cursors(topic, payload)
    assert refused.value.counter == "forged"


@pytest.mark.parametrize(
    "topic", ["sluice/ack/opcua-collector", "sluice/data/a/b", "sluice/ack/a/b/c", "", "x" * 5_000]
)
def test_other_topics_are_foreign(topic: str) -> None:
    with pytest.raises(MessageError) as refused:
        decode_cursors(topic, body())
    assert refused.value.counter == "foreign"
    assert len(str(refused.value)) < 500


@given(st.binary(max_size=200))
def test_nothing_that_arrives_raises_anything_else(payload: bytes) -> None:
    with pytest.raises(MessageError):
        decode_cursors(TOPIC, payload)
