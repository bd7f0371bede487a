"""Whatever arrives on the socket costs its connection and nothing else; and no process is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stream_manager import StreamManagerException

from localcore.stream_manager import StreamManagerProcess
from localcore.stream_manager.protocol import Frame, FrameDecoder, Operation, Status, encode_frame

CONNECT = b"\x01" + encode_frame(Operation.CONNECT, {"requestId": "c", "protocolVersion": "1.1.0"})


def talk(server: StreamManagerProcess, data: bytes) -> tuple[bytes, list[Frame]]:
    """Sends bytes and reads until the server closes: the version byte and the frames."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(data)
        received = b""
        while more := connection.recv(65536):
            received += more
    return received[:1], list(FrameDecoder().feed(received[1:]))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x02" + CONNECT[1:], Status.UNSUPPORTED_CONNECT_VERSION),
        (b"\x01" + encode_frame(Operation.LIST_STREAMS, {"requestId": "l"}), Status.UNEXPECTED_OPERATION),
        (
            b"\x01" + encode_frame(Operation.CONNECT, {"requestId": "c", "protocolVersion": "9.0.0"}),
            Status.UNSUPPORTED_PROTOCOL_VERSION,
        ),
    ],
)
def test_a_bad_beginning_is_answered_and_the_connection_closed(
    server: StreamManagerProcess, data: bytes, status: Status
) -> None:
    version, (answer,) = talk(server, data)
    assert version == b"\x01"
    assert answer.operation == Operation.CONNECT_RESPONSE
    assert answer.body()["status"] == status


def test_an_older_client_is_served_in_its_version(server: StreamManagerProcess) -> None:
    hello = {"requestId": "c", "protocolVersion": "9.0.0", "otherSupportedProtocolVersions": ["1.0.0"]}
    data = b"\x01" + encode_frame(Operation.CONNECT, hello) + b"\xff\xff\xff\xff\x00"
    _, (answer,) = talk(server, data)
    assert (answer.body()["status"], answer.body()["protocolVersion"]) == (Status.SUCCESS, "1.0.0")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff\x04",
        b"\x7f\xff\xff\xff\x04",
        b"\x00\x00\x00\x02\x04\xff",
        encode_frame(Operation.APPEND, {})[:-1] + b"\x05",
    ],
    ids=["negative", "huge", "no-cbor", "no-map"],
)
def test_garbage_closes_its_connection_and_disturbs_no_other(
    server: StreamManagerProcess, client: Any, definition: Callable[..., Any], garbage: bytes
) -> None:
    client.create_message_stream(wanted := definition())
    _, frames = talk(server, CONNECT + garbage)
    assert len(frames) == 1, "only the connect was answered"
    assert client.append_message(wanted.name, b"x") == 0


def test_requests_in_one_segment_are_answered_each_by_its_id(server: StreamManagerProcess) -> None:
    appends = b"".join(
        encode_frame(Operation.APPEND, {"requestId": str(index), "name": "nowhere", "payload": b"x"})
        for index in range(3)
    )
    _, frames = talk(server, CONNECT + appends + b"\x00\x00\x00\x00\x00")
    assert [(f.body()["requestId"], f.body()["status"]) for f in frames[1:]] == [
        (str(index), Status.RESOURCE_NOT_FOUND) for index in range(3)
    ]


def test_it_listens_on_loopback_only(server: StreamManagerProcess) -> None:
    listening = subprocess.run(
        [sys.executable, "-c", "print(open('/proc/net/tcp').read(), open('/proc/net/tcp6').read())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    port = f":{server.port:04X}"
    addresses = {line.split()[1] for line in listening.splitlines() if port in line and " 0A " in line}
    assert addresses == {f"0100007F{port}"}


@pytest.mark.parametrize("process", ["localcore.stream_manager.StreamManagerProcess", "localcore.aws.AwsProcess"])
@pytest.mark.parametrize("fault", ["", "process.stall()"])
def test_it_ends_with_whoever_started_it(
    tmp_path: Path, eventually: Callable[..., Any], process: str, fault: str
) -> None:
    module, name = process.rsplit(".", 1)
    options = "region='us-east-1'" + (", endpoints={}" if name == "StreamManagerProcess" else "")
    script = f"""
import asyncio, pathlib
from {module} import {name}
async def main():
    process = {name}(pathlib.Path({str(tmp_path)!r}), {options})
    await process.start()
    {fault}
    print(process.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.send_signal(signal.SIGKILL)
        parent.wait(5)
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_a_full_disk_refuses_appends_and_recovers(
    tmp_path: Path, run: Callable[..., Any], connect: Callable[..., Any], definition: Callable[..., Any]
) -> None:
    process = StreamManagerProcess(tmp_path, region="us-east-1", endpoints={})
    run(process.start())
    client = connect(process)
    client.create_message_stream(wanted := definition())
    client.append_message(wanted.name, bytes(1000))
    process.fill_disk()
    for _ in range(3):
        with pytest.raises(StreamManagerException, match=r"File too large|bytes could be written"):
            client.append_message(wanted.name, bytes(1000))
    process.fill_disk(False)
    assert client.append_message(wanted.name, b"again") == 1
    assert [m.payload for m in client.read_messages(wanted.name)] == [bytes(1000)]
    run(process.stop())
