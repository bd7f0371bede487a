"""Each known defect of the SDK, version 1.1.2, occurs against this server: what a supervising client must survive."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from stream_manager import (
    AssetPropertyValue,
    PutAssetPropertyValueEntry,
    StreamManagerClient,
    TimeInNanos,
    Util,
    ValidationException,
    Variant,
)

from localcore.stream_manager import StreamManagerProcess

TIMEOUT_S = 0.5


@pytest.fixture
def stream(server: StreamManagerProcess, connect: Callable[..., Any], definition: Callable[..., Any]) -> str:
    """The name of an empty stream."""
    wanted = definition()
    connect(server).create_message_stream(wanted)
    name: str = wanted.name
    return name


@pytest.fixture
def hasty(server: StreamManagerProcess, connect: Callable[..., Any]) -> Any:
    """A client that waits for answers a short time only."""
    return connect(server, TIMEOUT_S)


def newest(client: Any, stream: str) -> int:
    number: int = client.describe_message_stream(stream).storage_status.newest_sequence_number
    return number


def test_a_after_a_reset_it_believes_to_be_connected_and_never_reconnects(
    server: StreamManagerProcess, hasty: Any, stream: str, run: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    run(server.cut("rst"))
    seen: list[str] = []

    def wedged() -> bool:
        try:
            hasty.append_message(stream, b"x")
        except (asyncio.TimeoutError, ConnectionError) as error:
            seen.append(type(error).__name__)
        return seen[-3:] == ["ConnectionResetError"] * 3

    eventually(wedged)
    assert hasty.connected is True


@pytest.mark.parametrize("first_bytes", [1, 2, 3])
def test_b_a_length_in_two_segments_wedges_it(
    server: StreamManagerProcess, hasty: Any, stream: str, run: Callable[..., Any], first_bytes: int
) -> None:
    run(server.fault("split", operation="append", split_at=first_bytes, seconds=TIMEOUT_S / 2))
    for _ in range(2):
        with pytest.raises(asyncio.TimeoutError):
            hasty.append_message(stream, b"x")


def test_b_a_split_behind_the_length_does_no_harm(
    server: StreamManagerProcess, hasty: Any, stream: str, run: Callable[..., Any]
) -> None:
    run(server.fault("split", operation="append", split_at=7, seconds=0.05))
    assert hasty.append_message(stream, b"x") == 0


def test_c_a_response_after_the_timeout_ends_its_read_loop(
    server: StreamManagerProcess, hasty: Any, stream: str, run: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    run(server.fault("delay", operation="append", seconds=TIMEOUT_S + 0.2))
    with pytest.raises(asyncio.TimeoutError):
        hasty.append_message(stream, b"late")

    def wedged() -> bool:
        try:
            hasty.append_message(stream, b"before or behind the late response")
        except asyncio.TimeoutError:
            return True
        return False

    eventually(wedged)
    with pytest.raises(asyncio.TimeoutError):
        hasty.append_message(stream, b"never answered")
    assert hasty.connected is True


def test_d_a_request_in_flight_at_a_fin_waits_out_its_timeout_although_it_was_stored(
    server: StreamManagerProcess, hasty: Any, stream: str, run: Callable[..., Any]
) -> None:
    run(server.fault("fin", operation="append"))
    began = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        hasty.append_message(stream, b"ambiguous")
    assert time.monotonic() - began >= TIMEOUT_S
    assert hasty.append_message(stream, b"next") == 1, "it reconnects by itself, and the first append had been stored"


def test_d_a_fin_before_acceptance_looks_the_same_to_the_client(
    server: StreamManagerProcess, hasty: Any, stream: str, run: Callable[..., Any]
) -> None:
    run(server.fault("fin", operation="append", accept=False))
    with pytest.raises(asyncio.TimeoutError):
        hasty.append_message(stream, b"lost")
    assert hasty.append_message(stream, b"next") == 0


def test_a_lost_reply_is_an_ambiguous_append_too(
    server: StreamManagerProcess, hasty: Any, stream: str, run: Callable[..., Any]
) -> None:
    run(server.fault("lose_reply", operation="append"))
    with pytest.raises(asyncio.TimeoutError):
        hasty.append_message(stream, b"stored")
    assert newest(hasty, stream) == 0


def test_e_a_failed_constructor_leaks_a_thread_and_three_files() -> None:
    # In a process of its own, where nobody else opens and closes anything.
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        script = f"""
import os, threading, stream_manager
def used():
    return threading.active_count(), len(os.listdir("/proc/self/fd"))
before = used()
try:
    stream_manager.StreamManagerClient(port={unused.getsockname()[1]})
except ConnectionRefusedError:
    after = used()
print(after[0] - before[0], after[1] - before[1])
"""
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout.split() == ["1", "3"]


def test_f_close_after_a_reset_raises_and_leaks_its_thread(
    server: StreamManagerProcess, run: Callable[..., Any], stream: str
) -> None:
    client = StreamManagerClient(port=server.port, request_timeout=TIMEOUT_S)
    run(server.fault("rst", operation="append"))
    with pytest.raises((asyncio.TimeoutError, ConnectionError)):
        client.append_message(stream, b"x")
    threads = threading.active_count()
    with pytest.raises(ConnectionError):
        client.close()
    assert threading.active_count() == threads


def test_g_its_sitewise_entries_cannot_hold_every_value() -> None:
    def entry(variant: Any) -> bytes:
        value = AssetPropertyValue(value=variant, timestamp=TimeInNanos(time_in_seconds=1, offset_in_nanos=0))
        whole = PutAssetPropertyValueEntry(entry_id="e", property_alias="a", property_values=[value])
        serialized: bytes = Util.validate_and_serialize_to_json_bytes(whole)
        return serialized

    for refused in (Variant(integer_value=-1), Variant(string_value=""), Variant(double_value=1)):
        with pytest.raises(ValidationException):
            entry(refused)
    assert b"NaN" in entry(Variant(double_value=float("nan"))), "which is not JSON"
    assert json.loads(entry(Variant()))["propertyValues"][0]["value"] == {}, "which SiteWise refuses"
