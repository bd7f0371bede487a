"""Event-stream frames: written ones are read back however they are split, damaged ones are never taken for one."""

from __future__ import annotations

import contextlib
import struct
import zlib
from uuid import UUID

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from localcore.eventstream import Decoder, EventStreamError, FrameCorrupt, FrameTooLarge, Message, encode

VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    st.binary(max_size=300),
    st.text(max_size=100),
    st.uuids(),
)
MESSAGES = st.builds(
    Message, st.dictionaries(st.text(min_size=1, max_size=40), VALUES, max_size=6), st.binary(max_size=2000)
)


def frame_of(headers: bytes) -> bytes:
    """A frame around headers that were written by hand."""
    lengths = struct.pack(">II", 16 + len(headers), len(headers))
    body = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers
    return body + struct.pack(">I", zlib.crc32(body))


@given(st.lists(MESSAGES, max_size=5), st.integers(1, 50))
def test_messages_survive_any_split_of_the_bytes(messages: list[Message], size: int) -> None:
    stream = b"".join(map(encode, messages))
    decoder = Decoder(1 << 20)
    read = [
        message for start in range(0, len(stream), size) for message in decoder.receive(stream[start : start + size])
    ]
    assert read == messages


@given(MESSAGES.filter(lambda message: not any(isinstance(value, UUID) for value in message.headers.values())))
def test_botocore_reads_what_is_written(message: Message) -> None:
    """botocore's own decoder is the judge of the format."""
    buffer = EventStreamBuffer()
    buffer.add_data(encode(message))
    (judged,) = list(buffer)
    assert dict(judged.headers) == dict(message.headers)
    assert judged.payload == message.payload


@given(MESSAGES, st.data())
def test_a_damaged_byte_is_never_taken_for_a_message(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EventStreamError):
        list(Decoder(1 << 20).receive(bytes(frame)))


def test_a_frame_may_have_exactly_the_limit_and_not_one_byte_more() -> None:
    frame = encode(Message(payload=b"x" * 84))
    assert list(Decoder(100).receive(frame)) == [Message({}, b"x" * 84)]
    with pytest.raises(FrameTooLarge, match="100 bytes; the limit is 99"):
        list(Decoder(99).receive(frame))


def test_a_frame_too_large_is_refused_before_it_has_come() -> None:
    with pytest.raises(FrameTooLarge):
        list(Decoder(1000).receive(encode(Message(payload=b"x" * 5000))[:12]))


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_awaited_but_never_crash(data: bytes) -> None:
    with contextlib.suppress(EventStreamError):
        assert list(Decoder(1000).receive(data)) == []


def test_every_header_type_of_the_format_is_read() -> None:
    """Types that this server never writes itself."""
    headers = b"\x01a\x02\xff" + b"\x01b\x03\xff\xfe" + b"\x01c\x05" + struct.pack(">q", -5) + b"\x01d\x08" + bytes(8)
    (message,) = Decoder(1000).receive(frame_of(headers))
    assert message.headers == {"a": -1, "b": -2, "c": -5, "d": 0}


def test_a_header_of_an_unknown_type_is_named() -> None:
    headers = b"\x01a\x2a"
    with pytest.raises(FrameCorrupt, match="header 'a' has the unknown type 42"):
        list(Decoder(1000).receive(frame_of(headers)))
