"""The log: numbers without gaps, space by whole segments, and what a crash or a power cut leaves."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localcore.stream_manager.store import RECORD_OVERHEAD, Log, StoreError, discard_unflushed_tail


def payloads(log: Log) -> list[bytes]:
    return [message.payload for message in log.read(0, 10_000)]


def durable(folder: Path) -> tuple[int, int]:
    first, size = struct.unpack(">qq", (folder / "durable").read_bytes())
    return first, size


@settings(max_examples=40)
@given(st.lists(st.one_of(st.binary(min_size=1, max_size=80), st.sampled_from(["free", "reopen"])), max_size=40))
def test_a_log_holds_the_youngest_messages_under_gap_free_numbers(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | str]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log, memory = Log(folder, 200), Log(None, 200)
    kept: list[bytes] = []
    for step in steps:
        if isinstance(step, bytes):
            assert log.append(1, step) == memory.append(1, step) == len(kept)
            kept.append(step)
        elif step == "free":
            assert log.free_segment() == memory.free_segment()
        else:
            log.close()
            log = Log(folder, 200)
        assert log.oldest == memory.oldest
        assert log.next == len(kept)
        assert payloads(log) == payloads(memory) == kept[log.oldest :]
        assert log.total_bytes == sum(len(payload) + RECORD_OVERHEAD for payload in kept[log.oldest :])
    log.close()


@settings(max_examples=60)
@given(cut=st.integers(1, 200))
def test_a_torn_tail_is_cut_off_and_the_numbers_go_on_from_there(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = Log(folder, 10_000)
    for index in range(10):
        log.append(index, b"%020d" % index)
    log.close()
    (path,) = folder.glob("*.segment")
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-cut])
    left = (whole - cut) // (20 + RECORD_OVERHEAD)
    log = Log(folder, 10_000)
    assert payloads(log) == [b"%020d" % index for index in range(left)]
    assert log.append(11, b"next") == left
    assert payloads(log)[-1] == b"next"
    log.close()


def test_a_damaged_record_within_older_segments_is_an_error_and_not_a_wrong_message(tmp_path: Path) -> None:
    log = Log(tmp_path, 100)
    for index in range(9):
        log.append(index, b"%040d" % index)
    log.close()
    path = min(tmp_path.glob("*.segment"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    log = Log(tmp_path, 100)
    assert log.next == 9
    with pytest.raises(StoreError):
        log.read(0, 9)
    assert len(log.read(1, 9)) == 8
    log.close()


def test_the_durable_point_tells_what_was_flushed(tmp_path: Path) -> None:
    log = Log(tmp_path, 10 * (100 + RECORD_OVERHEAD))
    log.append(0, bytes(100))
    log.flush()
    assert durable(tmp_path) == (0, 100 + RECORD_OVERHEAD)
    log.append(0, bytes(100))
    assert durable(tmp_path) == (0, 100 + RECORD_OVERHEAD), "an append alone is not flushed"
    for _ in range(9):
        log.append(0, bytes(100))
    assert durable(tmp_path) == (0, 10 * (100 + RECORD_OVERHEAD)), "a full segment is flushed, the next one is not"
    log.close()
    assert durable(tmp_path) == (10, 100 + RECORD_OVERHEAD)


def test_expiry_looks_at_whole_segments(tmp_path: Path) -> None:
    log = Log(tmp_path, 2 * (10 + RECORD_OVERHEAD))
    for time_ms in (100, 200, 300):
        log.append(time_ms, bytes(10))
    assert not log.expired(200)
    assert log.expired(201)
    log.close()


@settings(max_examples=60)
@given(st.lists(st.one_of(st.binary(min_size=1, max_size=80), st.sampled_from(["free", "flush"])), max_size=40))
def test_a_power_cut_leaves_what_was_flushed_and_the_numbers_go_on_from_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | str]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = Log(folder, 200)
    written: list[bytes] = []
    flushed = 0
    for step in steps:
        if step == "free":
            log.free_segment()
        elif step == "flush":
            log.flush()
            flushed = log.next
        elif isinstance(step, bytes):
            written.append(step)
            log.append(1, step)
        if (folder / "durable").stat().st_size:
            flushed = max(flushed, durable(folder)[0])
    before = log.total_bytes
    lost = discard_unflushed_tail(folder)
    log = Log(folder, 200)
    assert flushed <= log.next <= len(written)
    assert payloads(log) == written[log.oldest : log.next]
    assert lost.bytes == before - log.total_bytes
    number = log.next
    assert log.append(2, b"next") == number
    log.close()
    assert discard_unflushed_tail(folder).bytes == 0, "what was closed was flushed"
