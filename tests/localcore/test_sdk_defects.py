"""The known defects of the AWS SDK occur against this stand-in as they do against the real thing.

Whoever builds on the SDK can rely on these tests to tell when one of them is gone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from awsiot.eventstreamrpc import ConnectionClosedError
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from .conftest import Client, Device, until


async def test_the_default_executor_of_client_v2_reorders_events(device: Device) -> None:
    producer = await device.client("producer")
    await device.client("consumer")
    connection = await device.connect(device.server.token("consumer"))
    client = GreengrassCoreIPCClientV2(client=connection)  # its default: a pool of threads
    got: list[bytes] = []
    overtaken = threading.Event()

    def slow_at_first(event: Any) -> None:
        message = event.binary_message.message
        if message == b"first":
            overtaken.wait(30)
        got.append(message)
        overtaken.set()

    future, _ = client.subscribe_to_topic_async(topic="t", on_stream_event=slow_at_first)
    await asyncio.wrap_future(future)
    await producer.publish("t", b"first")
    await producer.publish("t", b"second")
    await until(lambda: len(got) == 2, lambda: got, limit=60.0)
    await asyncio.to_thread(client.close)
    assert got == [b"second", b"first"]


async def test_without_an_executor_an_exception_in_a_handler_silently_closes_the_subscription(device: Device) -> None:
    client = await device.client("a")
    got: list[bytes] = []
    closed: list[bool] = []

    def fragile(event: Any) -> None:
        got.append(event.binary_message.message)
        raise ValueError("a bug in a handler")

    await client.call(
        "subscribe_to_topic", topic="t", on_stream_event=fragile, on_stream_closed=lambda: closed.append(True)
    )
    await client.publish("t", b"1")
    await until(lambda: closed, lambda: (got, closed))
    await client.publish("t", b"2")
    assert device.server.services.local.held() == 0
    assert got == [b"1"]


async def test_with_an_error_handler_that_returns_false_the_subscription_lives(device: Device) -> None:
    client = await device.client("a")
    got: list[bytes] = []
    told: list[Exception] = []

    def fragile(event: Any) -> None:
        got.append(event.binary_message.message)
        raise ValueError("a bug in a handler")

    def live_on(error: Exception) -> bool:
        told.append(error)
        return False

    await client.call("subscribe_to_topic", topic="t", on_stream_event=fragile, on_stream_error=live_on)
    for payload in (b"1", b"2"):
        await client.publish("t", payload)
    await until(lambda: len(got) == 2, lambda: got)
    assert len(told) == 2


async def test_the_client_never_reconnects(device: Device) -> None:
    client = await device.client("a")
    await client.publish("t", b"x")
    await device.server.restart()
    end = time.monotonic() + 30
    while not isinstance(error := await failure(client), ConnectionClosedError):  # it takes a moment to notice
        assert error is not None, "it reconnected"
        assert time.monotonic() < end, repr(error)
    for _ in range(3):
        with pytest.raises(ConnectionClosedError):
            await client.publish("t", b"x")


async def failure(client: Client) -> Exception | None:
    """What publishing fails with."""
    try:
        await client.publish("t", b"x")
    except Exception as error:  # noqa: BLE001 - while a connection goes down, errors are of several kinds
        return error
    return None


async def test_synchronous_calls_have_no_time_limit(device: Device) -> None:
    client = await device.client("a")
    device.server.faults.withheld["GetConfiguration"] = 1
    done: list[Any] = []

    def call() -> None:
        try:
            done.append(client.sdk.get_configuration(key_path=[]))
        except Exception as error:  # noqa: BLE001 - any end of the call is what is waited for
            done.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    await asyncio.sleep(1.0)  # there is no condition to wait for: the point is that nothing happens
    assert done == []
    device.server.cut("a")
    await until(lambda: done, lambda: done)
    assert isinstance(done[0], Exception)
