"""Frames survive any segmentation; what cannot be a frame is an error, not a wait for ever."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_manager.data import MessageFrame, Operation
from stream_manager.utilinternal import UtilInternal

from localcore.stream_manager.protocol import Frame, FrameDecoder, ProtocolError, encode_frame

BODIES = st.dictionaries(
    st.text(max_size=8), st.one_of(st.integers(-(2**60), 2**60), st.binary(max_size=64)), max_size=4
)


@given(st.lists(st.tuples(st.integers(1, 17), BODIES), max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(
    frames: list[tuple[int, dict[str, Any]]], cuts: list[int]
) -> None:
    data = b"".join(encode_frame(operation, body) for operation, body in frames)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    decoder = FrameDecoder()
    out = [frame for start, end in pairwise(edges) for frame in decoder.feed(data[start:end])]
    assert [(frame.operation, frame.body()) for frame in out] == frames


def test_the_bytes_are_those_of_the_sdk() -> None:
    body = {"requestId": "r", "name": "s", "payload": b"x"}
    theirs = UtilInternal.encode_frame(MessageFrame(operation=Operation.AppendMessage, payload=cbor2.dumps(body)))
    assert encode_frame(Operation.AppendMessage.value, body) == b"".join(theirs)


@pytest.mark.parametrize("length", [-1, 0, 1025])
def test_an_impossible_length_is_an_error(length: int) -> None:
    with pytest.raises(ProtocolError, match="1 to 1024 bytes"):
        list(FrameDecoder(max_frame_bytes=1024).feed(length.to_bytes(4, "big", signed=True) + b"\x04"))


@given(st.binary(max_size=64))
def test_a_payload_that_is_no_map_is_an_error(payload: bytes) -> None:
    try:
        assert isinstance(Frame(4, payload).body(), dict)
    except ProtocolError as error:
        assert "operation 4" in str(error)  # noqa: PT017 - either outcome is right, depending on the bytes
