"""The IPC server as the unmodified AWS SDK sees it, in both profiles."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from awsiot.greengrasscoreipc import model

from localcore.eventstream import Decoder, Message, encode
from localcore.ipc import IpcServer
from localcore.profile import CLASSIC, LITE

from .conftest import EVERYTHING, Client, Device, MakeDevice, until


def at(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)


async def refused(awaitable: Any) -> str:
    """The class of the error that an operation is answered with."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the class is the result
        await awaitable
    return type(caught.value).__name__


# --- connections


async def test_a_wrong_token_is_refused_by_classic_with_an_answer(make_device: MakeDevice) -> None:
    device = await make_device("classic")
    with pytest.raises(Exception, match="AccessDenied"):
        await device.connect("nonsense")


async def test_a_wrong_token_makes_lite_close_the_socket(make_device: MakeDevice) -> None:
    device = await make_device("lite")
    with pytest.raises(Exception, match="AWS_IO_SOCKET_CLOSED"):
        await device.connect("nonsense")


async def test_a_component_keeps_its_token_and_connects_as_often_as_it_likes(device: Device) -> None:
    assert device.server.token("a") == device.server.token("a") != device.server.token("b")
    assert len(device.server.token("a")) == 16
    first, second = await device.client("a"), await device.client("a")
    assert device.server.connected("a") == 2
    for client in (first, second):
        await client.publish("t", b"x")


async def test_lite_takes_fifty_connections(make_device: MakeDevice) -> None:
    device = await make_device("lite")
    idle = [await asyncio.open_unix_connection(device.server.address) for _ in range(49)]
    client = await device.client("a")
    reader, writer = await asyncio.open_unix_connection(device.server.address)
    assert await reader.read() == b""
    await client.publish("t", b"x")
    for _, other in [*idle, (reader, writer)]:
        other.close()


async def test_garbage_costs_its_own_connection_only(device: Device) -> None:
    client = await device.client("a")
    reader, writer = await asyncio.open_unix_connection(device.server.address)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await reader.read() == b""
    writer.close()
    await client.publish("t", b"x")


@pytest.mark.parametrize("temporary", ["short", "long as well"])
async def test_a_socket_path_too_long_for_a_socket_gets_a_link(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, temporary: str
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder) if temporary == "long as well" else None)
    server = IpcServer(folder / "ipc.socket")
    await server.start()
    try:
        assert len(server.address) < 100
        assert (folder / "ipc.socket").resolve() == type(folder)(server.address).resolve()
        _, writer = await asyncio.open_unix_connection(server.address)
        writer.close()
    finally:
        await server.stop()
    assert not (folder / "ipc.socket").exists()


# --- publish and subscribe


async def test_messages_reach_every_matching_subscription_in_order(device: Device) -> None:
    producer, consumer = await device.client("producer"), await device.client("consumer")
    exact, plus = await consumer.subscribe("t/a/b"), await consumer.subscribe("t/+/b")
    many, other = await consumer.subscribe("t/#"), await consumer.subscribe("t/a")
    for number in range(300):
        await producer.publish("t/a/b", b"%d" % number)
    expected = [("t/a/b", b"%d" % number) for number in range(300)]
    await until(lambda: len(many) == 300, lambda: len(many))
    assert exact == plus == many == expected
    assert other == []


async def test_json_messages_keep_their_value(device: Device) -> None:
    client = await device.client("a")
    got = await client.subscribe("t", "RECEIVE_ALL_MESSAGES")
    values: list[Any] = [{"a": [1, 2.5, "ü", None, True]}, [], "text", 5]
    for value in values:
        await client.publish_json("t", value)
    await until(lambda: len(got) == 4, lambda: got)
    assert [value for _, value in got] == [{"a": [1, 2.5, "ü", None, True]}, [], "text", 5]


async def test_publishing_to_nobody_succeeds_and_nothing_is_kept(device: Device) -> None:
    client = await device.client("a")
    await client.publish("t", b"lost")
    got = await client.subscribe("t")
    await client.publish("t", b"seen")
    await until(lambda: got, lambda: got)
    assert got == [("t", b"seen")]


async def test_a_closed_subscription_gets_nothing_more_and_frees_its_place(device: Device) -> None:
    client = await device.client("a")
    got: list[Any] = []
    future, operation = client.sdk.subscribe_to_topic_async(topic="t", on_stream_event=got.append)
    await asyncio.wrap_future(future)
    assert device.server.services.local.held() == 1
    await asyncio.wrap_future(operation.close())
    await until(lambda: device.server.services.local.held() == 0, lambda: device.server.services.local.held())
    await client.publish("t", b"x")
    assert got == []


async def test_a_lost_client_leaves_no_subscription_behind(device: Device) -> None:
    client = await device.client("a")
    await client.subscribe("t")
    device.server.cut("a")
    await until(lambda: device.server.services.local.held() == 0, lambda: device.server.services.local.held())
    assert device.server.connected("a") == 0


@pytest.mark.parametrize(
    ("profile", "topic", "mode", "hears_itself"),
    [
        ("classic", "t/a", None, True),
        ("classic", "t/+", None, False),
        ("classic", "t/+", "RECEIVE_ALL_MESSAGES", True),
        ("classic", "t/a", "RECEIVE_MESSAGES_FROM_OTHERS", False),
        ("lite", "t/a", None, True),
        ("lite", "t/+", None, True),
        ("lite", "t/a", "RECEIVE_MESSAGES_FROM_OTHERS", True),
    ],
)
async def test_receive_modes_are_honoured_by_classic_and_ignored_by_lite(
    make_device: MakeDevice, profile: str, topic: str, mode: str | None, hears_itself: bool
) -> None:
    device = await make_device(profile)
    own, other = await device.client("own"), await device.client("other")
    got = await own.subscribe(topic, mode)
    await own.publish("t/a", b"mine")
    await other.publish("t/a", b"theirs")
    await until(lambda: ("t/a", b"theirs") in got, lambda: got)
    assert (("t/a", b"mine") in got) is hears_itself


async def test_classic_refuses_wildcards_in_a_topic_and_lite_takes_them_literally(make_device: MakeDevice) -> None:
    classic, lite = await make_device("classic"), await make_device("lite")
    client = await classic.client("a")
    assert await refused(client.publish("t/#", b"x")) == "InvalidArgumentsError"
    assert await refused(client.subscribe("a/#/x")) == "InvalidArgumentsError"
    client = await lite.client("a")
    got = await client.subscribe("t/#")
    await client.publish("t/+", b"x")
    await until(lambda: got, lambda: got)
    assert got == [("t/+", b"x")]
    assert await client.subscribe("a/#/x") == []


async def test_lite_topics_end_at_256_bytes(make_device: MakeDevice) -> None:
    client = await (await make_device("lite")).client("a")
    await client.publish("t" * 256, b"x")
    assert await refused(client.publish("t" * 257, b"x")) == "ServiceError"


@pytest.mark.parametrize("megabytes", [1, 8])
async def test_classic_carries_large_messages(make_device: MakeDevice, megabytes: int) -> None:
    client = await (await make_device("classic")).client("a")
    got = await client.subscribe("t")
    payload = bytes(megabytes << 20)
    await client.publish("t", payload)
    await until(lambda: got, lambda: got)
    assert got[0][1] == payload


@pytest.mark.parametrize(("topic", "largest"), [("test/a", 7299), ("t" * 100, 7230), ("t" * 256, 7113)])
async def test_lite_closes_the_whole_connection_one_byte_above_its_largest_message(
    make_device: MakeDevice, topic: str, largest: int
) -> None:
    """The figures are those measured on nucleus lite 2.6.0."""
    device = await make_device("lite")
    client, listener = await device.client("a"), await device.client("b")
    got = await listener.subscribe("#")
    await client.publish(topic, bytes(largest))
    await until(lambda: got, lambda: got)
    assert got == [(topic, bytes(largest))]
    closed: list[bool] = []
    await client.call(
        "subscribe_to_topic", topic="other", on_stream_event=print, on_stream_closed=lambda: closed.append(True)
    )
    assert await refused(client.publish(topic, bytes(largest + 3))) in ("StreamClosedError", "ConnectionClosedError")
    await until(lambda: closed, lambda: closed)
    # Its streams end before the SDK has closed the connection, and in between it says RuntimeError.
    deadline = time.monotonic() + 10.0
    while (said := await refused(client.publish("test/a", b"x"))) == "RuntimeError":
        assert time.monotonic() < deadline, said
        await asyncio.sleep(0.005)
    assert said == "ConnectionClosedError"


async def test_lite_json_messages_end_at_9730_characters(make_device: MakeDevice) -> None:
    client = await (await make_device("lite")).client("a")
    await client.publish_json("test/a", {"m": "x" * 9730})
    assert await refused(client.publish_json("test/a", {"m": "x" * 9731})) in ("StreamClosedError", "AwsCrtError")


@pytest.mark.parametrize(
    ("last", "first_lost"),
    [
        ([0] * 44, [0] * 45),
        ({f"k{n}": 0 for n in range(23)}, {f"k{n}": 0 for n in range(24)}),
        ([{"a": 0, "b": 0}] * 9, [{"a": 0, "b": 0}] * 10),
    ],
    ids=["list", "dict", "list of dicts"],
)
async def test_on_lite_one_json_message_too_many_elements_kills_every_subscription_in_silence(
    make_device: MakeDevice, last: Any, first_lost: Any
) -> None:
    client = await (await make_device("lite")).client("a")
    got, wide = await client.subscribe("t"), await client.subscribe("#")
    await client.publish_json("t", last)
    await until(lambda: len(wide) == 1, lambda: wide)
    await client.publish_json("t", first_lost)
    alive = await client.subscribe("t")
    await client.publish_json("t", 1)
    await until(lambda: alive, lambda: alive)
    assert len(got) == len(wide) == 1


async def test_lite_refuses_json_that_does_not_fit_its_own_side(make_device: MakeDevice) -> None:
    client = await (await make_device("lite")).client("a")
    await client.publish_json("t", [0] * 194)
    assert await refused(client.publish_json("t", [0] * 195)) == "ServiceError"
    assert await refused(client.publish_json("t", {f"k{n}": 0 for n in range(102)})) == "ServiceError"
    assert await refused(client.publish_json("t", [float("nan")])) == "ServiceError"


async def test_lite_has_99_local_subscriptions(make_device: MakeDevice) -> None:
    device = await make_device("lite")
    clients = [await device.client(f"c{number}") for number in range(3)]
    for number in range(99):
        await clients[number % 3].subscribe(f"t/{number}")
    assert await refused(clients[0].subscribe("one/more")) == "ServiceError"
    device.server.cut("c1")
    await until(lambda: device.server.services.local.held() == 66, lambda: device.server.services.local.held())
    await clients[0].subscribe("one/more")


async def test_on_lite_a_subscriber_that_does_not_read_stalls_publishers_and_then_loses_messages(
    make_device: MakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    device = await make_device(replace(LITE, send_timeout=0.5))
    producer, healthy = await device.client("producer"), await device.client("healthy")
    got = await healthy.subscribe("t")
    reader = await silent_subscriber(device)
    took, sent = 0.0, 0
    while "silent does not read: one message for it is dropped" not in caplog.messages and sent < 400:
        began = time.monotonic()
        await producer.publish("t", b"%5d" % sent + bytes(4995))
        took, sent = time.monotonic() - began, sent + 1
    assert 10 < sent < 200, f"{sent} messages went before the first that was dropped"
    assert took >= 0.5
    began = time.monotonic()
    await producer.publish("t", b"late" + bytes(4996))
    assert time.monotonic() - began >= 0.5
    await until(lambda: len(got) == sent + 1, lambda: (len(got), sent))
    # It reads again: nothing on its stream is torn, and messages after the lost ones arrive.
    reader.transport.resume_reading()  # type: ignore[attr-defined]
    await producer.publish("t", b"after")
    await until(lambda: b"YWZ0ZXI=" in reader.seen, lambda: len(reader.seen))
    assert len(reader.messages()) < sent + 3


class Silent(asyncio.Protocol):
    """A client of its own making that subscribes to `t` and then stops reading its socket."""

    def __init__(self) -> None:
        self.seen = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.seen += data

    def messages(self) -> list[Any]:
        return list(Decoder(1 << 20).receive(bytes(self.seen)))


async def silent_subscriber(device: Device) -> Silent:
    await device.client("silent")
    _, client = await asyncio.get_running_loop().create_unix_connection(Silent, device.server.address)
    token = json.dumps({"authToken": device.server.token("silent")}).encode()
    connect = Message({":message-type": 4, ":message-flags": 0, ":stream-id": 0, ":version": "0.1.0"}, token)
    operation = "aws.greengrass#SubscribeToTopic"
    subscribe = Message(
        {":message-type": 0, ":message-flags": 0, ":stream-id": 1, "operation": operation}, b'{"topic": "t"}'
    )
    client.transport.write(encode(connect) + encode(subscribe))  # type: ignore[attr-defined]
    await until(lambda: len(client.messages()) == 2, client.messages)
    client.transport.pause_reading()  # type: ignore[attr-defined]
    return client


async def test_on_classic_a_subscriber_that_does_not_read_stalls_nobody(make_device: MakeDevice) -> None:
    device = await make_device("classic")
    producer = await device.client("producer")
    reader = await silent_subscriber(device)
    for number in range(300):
        await producer.publish("t", b"%5d" % number + bytes(4995))
    reader.transport.resume_reading()  # type: ignore[attr-defined]
    await until(lambda: len(reader.messages()) == 302, lambda: len(reader.messages()))


async def test_tests_can_publish_and_listen_without_a_client(device: Device) -> None:
    client = await device.client("a")
    seen: list[tuple[str, bytes]] = []
    cancel = device.server.observe("t/#", lambda topic, payload: seen.append((topic, payload)))
    got = await client.subscribe("t/x")
    await device.server.publish("t/x", b"from the test")
    await client.publish("t/y", b"from the component")
    await client.publish_json("t/z", {"a": 1})
    await until(lambda: got, lambda: got)
    assert got == [("t/x", b"from the test")]
    assert seen == [("t/x", b"from the test"), ("t/y", b"from the component"), ("t/z", b'{"a": 1}')]
    cancel()
    await client.publish("t/y", b"unseen")
    assert len(seen) == 3


# --- authorisation


async def test_without_a_policy_nothing_may_be_published_or_followed(device: Device) -> None:
    client = await device.client("a", services={})
    assert await refused(client.publish("t", b"x")) == "UnauthorizedError"
    assert await refused(client.subscribe("t")) == "UnauthorizedError"


async def test_a_change_of_policies_applies_at_once(device: Device) -> None:
    client = await device.client("a", services={})
    assert await refused(client.publish("t", b"x")) == "UnauthorizedError"
    policy = {"operations": ["aws.greengrass#PublishToTopic"], "resources": ["t"]}
    device.server.configuration("a").merge(("accessControl", "aws.greengrass.ipc.pubsub"), {"p": policy}, 9.0)
    await client.publish("t", b"x")
    assert await refused(client.publish("u", b"x")) == "UnauthorizedError"


async def test_the_sdk_shows_the_text_of_errors_on_classic_only(make_device: MakeDevice) -> None:
    for profile, expected in (("classic", "a is not authorized"), ("lite", None)):
        device = await make_device(profile)
        client = await device.client("a", services={})
        with pytest.raises(model.UnauthorizedError) as caught:
            await client.publish("t", b"x")
        text = caught.value.message
        assert text is None if expected is None else expected in text


# --- configuration


CONFIG: dict[str, Any] = {"rate": 5, "map": {"x": {"y": "z"}}, "list": [1, 2], "none": None, "empty": {}}


async def test_configuration_is_read_as_a_map_or_as_one_key(device: Device) -> None:
    client = await device.client("a", CONFIG)
    whole = await client.call("get_configuration", key_path=[])
    assert whole.component_name == "a"
    assert whole.value.pop("accessControl")
    assert whole.value == CONFIG
    for path, expected in (
        (["map"], {"x": {"y": "z"}}),
        (["map", "x"], {"y": "z"}),
        (["map", "x", "y"], {"y": "z"}),
        (["rate"], {"rate": 5}),
        (["list"], {"list": [1, 2]}),
        (["none"], {"none": None}),
        (["empty"], {}),
    ):
        assert (await client.call("get_configuration", key_path=path)).value == expected
    assert (await client.call("get_configuration")).value["rate"] == 5


async def test_any_component_reads_any_others_configuration(device: Device) -> None:
    await device.client("a", CONFIG)
    other = await device.client("b", services={})
    assert (await other.call("get_configuration", component_name="a", key_path=["rate"])).value == {"rate": 5}


async def test_what_is_missing_is_not_found(device: Device) -> None:
    client = await device.client("a", CONFIG)
    for arguments in ({"key_path": ["x"]}, {"key_path": ["rate", "x"]}, {"component_name": "nobody", "key_path": []}):
        assert await refused(client.call("get_configuration", **arguments)) == "ResourceNotFoundError"
    subscribing = client.call("subscribe_to_configuration_update", key_path=["x"], on_stream_event=print)
    assert await refused(subscribing) == "ResourceNotFoundError"


async def update(client: Client, value: dict[str, Any], path: list[str], seconds: float) -> None:
    await client.call("update_configuration", key_path=path, value_to_merge=value, timestamp=at(seconds))


async def test_a_component_merges_into_its_own_configuration(device: Device) -> None:
    client = await device.client("a", CONFIG)
    await update(client, {"x": {"new": "value"}}, ["map"], 10.5)
    await update(client, {"deep": "er"}, ["made", "here"], 10.5)
    found = (await client.call("get_configuration", key_path=[])).value
    assert found["map"] == {"x": {"y": "z", "new": "value"}}
    assert found["made"] == {"here": {"deep": "er"}}


async def test_an_older_update_fails_on_classic_and_is_ignored_on_lite(make_device: MakeDevice) -> None:
    for profile in ("classic", "lite"):
        device = await make_device(profile)
        client = await device.client("a", CONFIG)
        await update(client, {"y": "new"}, ["map", "x"], 10.5)
        late = update(client, {"y": "old"}, ["map", "x"], 9.5)
        if profile == "classic":
            assert await refused(late) == "FailedUpdateConditionCheckError"
        else:
            await late
        assert (await client.call("get_configuration", key_path=["map", "x"])).value == {"y": "new"}


async def test_numbers_come_back_as_floats_from_classic(make_device: MakeDevice) -> None:
    for profile, kind in (("classic", float), ("lite", int)):
        client = await (await make_device(profile)).client("a")
        await update(client, {"n": 5000, "b": True}, [], 10.5)
        found = (await client.call("get_configuration", key_path=[])).value
        assert (found["n"], type(found["n"]), found["b"]) == (5000, kind, True)


async def test_access_control_cannot_be_updated(device: Device) -> None:
    client = await device.client("a")
    for value, path in (({"accessControl": {"x": {}}}, []), ({"x": {}}, ["accessControl"])):
        assert await refused(update(client, value, path, 10.5)) == "InvalidArgumentsError"


async def test_an_update_needs_a_timestamp_and_on_lite_one_with_a_fraction(make_device: MakeDevice) -> None:
    for profile in ("classic", "lite"):
        client = await (await make_device(profile)).client("a")
        untimed = client.call("update_configuration", key_path=[], value_to_merge={"x": 1})
        assert await refused(untimed) == "InvalidArgumentsError"


async def test_lites_leaves_end_at_1022_characters_and_a_failing_update_is_not_undone(make_device: MakeDevice) -> None:
    client = await (await make_device("lite")).client("a")
    await update(client, {"a": "x" * 1022}, [], 10.5)
    assert await refused(update(client, {"b": "first", "c": "x" * 1023}, [], 11.5)) == "ServiceError"
    found = (await client.call("get_configuration", key_path=[])).value
    assert found["b"] == "first"
    assert "c" not in found
    assert await refused(update(client, {"a": {"map": 1}}, [], 12.5)) == "ServiceError"


async def test_lite_does_not_read_what_is_too_large_and_narrower_paths_help(make_device: MakeDevice) -> None:
    tags = {f"g{n}": {f"t{m}": "x" for m in range(60)} for n in range(6)}
    client = await (await make_device("lite")).client("a", {"tags": tags})
    assert await refused(client.call("get_configuration", key_path=[])) == "ServiceError"
    assert (await client.call("get_configuration", key_path=["tags", "g3"])).value == tags["g3"]


async def test_every_changed_leaf_is_an_event_with_its_whole_path_and_no_value(device: Device) -> None:
    client, other = await device.client("a", CONFIG), await device.client("b")
    heard: dict[str, list[Any]] = {"own": [], "other": [], "below": []}
    for key, who, component, path in (
        ("own", client, None, []),
        ("other", other, "a", []),
        ("below", client, None, ["map"]),
    ):

        def take(event: Any, key: str = key) -> None:
            changed = event.configuration_update_event
            heard[key].append((changed.component_name, changed.key_path))

        await who.call(
            "subscribe_to_configuration_update", component_name=component, key_path=path, on_stream_event=take
        )
    await update(client, {"rate": 6, "map": {"x": {"y": "z"}, "new": "n"}}, [], 10.5)
    expected = [("a", ["map", "new"]), ("a", ["rate"])]
    await until(lambda: len(heard["other"]) == len(heard["own"]) == 2, lambda: heard)
    assert sorted(heard["own"]) == sorted(heard["other"]) == expected
    assert heard["below"] == expected[:1]


# --- what else there is


@pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])
async def test_what_is_not_offered_is_a_service_error(make_device: MakeDevice, profile: Any) -> None:
    client = await (await make_device(profile)).client("a")
    for operation, arguments in (
        ("list_components", {}),
        ("get_component_details", {"component_name": "a"}),
        ("subscribe_to_component_updates", {"on_stream_event": print}),
        ("put_component_metric", {"metrics": []}),
    ):
        with pytest.raises(model.ServiceError) as caught:
            await client.call(operation, **arguments)
        assert profile is CLASSIC or caught.value.message is None


async def test_secrets_are_for_whom_a_policy_says_and_do_not_exist_on_lite(make_device: MakeDevice) -> None:
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:plant-opc-AbCdEf"
    device = await make_device("classic", secrets={"plant-pi": '{"key": "s"}', arn: "opc", "other": "t"})
    policy = {"operations": ["aws.greengrass#GetSecretValue"], "resources": ["arn:aws:*:secret:plant-*"]}
    client = await device.client("a", services={"aws.greengrass.SecretManager": policy})
    response = await client.call("get_secret_value", secret_id="plant-pi")
    assert response.secret_value.secret_string == '{"key": "s"}'
    assert response.secret_id.startswith("arn:aws:secretsmanager:")
    assert response.version_stage == ["AWSCURRENT"]
    for secret_id in (arn, "plant-opc"):
        response = await client.call("get_secret_value", secret_id=secret_id)
        assert (response.secret_id, response.secret_value.secret_string) == (arn, "opc")
    assert await refused(client.call("get_secret_value", secret_id="other")) == "UnauthorizedError"
    assert await refused(client.call("get_secret_value", secret_id="plant-x")) == "ResourceNotFoundError"
    lite = await (await make_device("lite", secrets={"plant-pi": "x"})).client("a")
    assert await refused(lite.call("get_secret_value", secret_id="plant-pi")) == "ServiceError"


async def test_iot_core_carries_messages_both_ways(device: Device) -> None:
    client = await device.client("a")
    got, seen = [], []
    device.server.observe_iot_core("dt/#", lambda topic, payload: seen.append((topic, payload)))
    await client.call(
        "subscribe_to_iot_core",
        topic_name="cmd/+",
        qos="1",
        on_stream_event=lambda event: got.append((event.message.topic_name, event.message.payload)),
    )
    await client.call("publish_to_iot_core", topic_name="dt/a", qos="1", payload=b"up")
    await device.server.publish_iot_core("cmd/x", b"down")
    await until(lambda: got, lambda: got)
    assert (seen, got) == ([("dt/a", b"up")], [("cmd/x", b"down")])


async def test_a_large_message_to_iot_core_is_lost_on_lite_without_an_error(make_device: MakeDevice) -> None:
    device = await make_device("lite")
    client = await device.client("a")
    seen: list[bytes] = []
    device.server.observe_iot_core("#", lambda topic, payload: seen.append(payload))
    for size in (4987, 4988):
        await client.call("publish_to_iot_core", topic_name="iot/t", qos="1", payload=bytes(size))
    assert [len(payload) for payload in seen] == [4987]
    classic = await (await make_device("classic")).client("a")
    large = classic.call("publish_to_iot_core", topic_name="iot/t", qos="1", payload=bytes(130 * 1024))
    assert await refused(large) == "ServiceError"


async def test_a_large_message_from_iot_core_is_lost_on_lite_and_none_of_more_than_128_kb_exists(
    device: Device,
) -> None:
    client = await device.client("a")
    got: list[int] = []
    subscription = {"topic_name": "iot/#", "qos": "1", "on_stream_event": lambda e: got.append(len(e.message.payload))}
    await client.call("subscribe_to_iot_core", **subscription)
    for size in (4988, 4987):
        await device.server.publish_iot_core("iot/t", bytes(size))
    await until(lambda: 4987 in got, lambda: got)
    assert got == ([4987] if device.server.profile.name == "lite" else [4988, 4987])
    for topic, size in (("iot/t", 128 * 1024 + 1), ("iot/+", 1)):
        with pytest.raises(ValueError, match="IoT Core takes 131072 bytes on a topic without wildcards"):
            await device.server.publish_iot_core(topic, bytes(size))


async def test_the_cloud_asks_and_hears_the_answer_under_policies_that_do_not_know_the_things_name(
    device: Device,
) -> None:
    """Classic does not put the thing's name into policies: `*` stands for it, and for nothing beyond its topics."""
    policies = {
        "operations": ["aws.greengrass#PublishToIoTCore", "aws.greengrass#SubscribeToIoTCore"],
        "resources": ["sluice/*/command/meter", "sluice/*/reply/meter"],
    }
    client = await device.client("a", services={"aws.greengrass.ipc.mqttproxy": policies})
    heard: list[tuple[str, bytes]] = []
    device.server.observe_iot_core("sluice/core7/reply/#", lambda topic, payload: heard.append((topic, payload)))
    asked: list[bytes] = []
    await client.call(
        "subscribe_to_iot_core",
        topic_name="sluice/core7/command/meter",
        qos="1",
        on_stream_event=lambda event: asked.append(event.message.payload),
    )
    await device.server.publish_iot_core("sluice/core7/command/other", b"not for us")
    await device.server.publish_iot_core("sluice/core7/command/meter", b"status?")
    await until(lambda: asked, lambda: asked)
    await client.call("publish_to_iot_core", topic_name="sluice/core7/reply/meter", qos="1", payload=b"well")
    assert (asked, heard) == ([b"status?"], [("sluice/core7/reply/meter", b"well")])
    for topic in ("sluice/core7/reply/other", "sluice/core7/data/meter", "other/core7/reply/meter"):
        answer = client.call("publish_to_iot_core", topic_name=topic, qos="1", payload=b"x")
        assert await refused(answer) == "UnauthorizedError"
    listening = client.call("subscribe_to_iot_core", topic_name="sluice/#", qos="1", on_stream_event=print)
    assert await refused(listening) == "UnauthorizedError"


async def test_iot_core_needs_a_policy_of_its_own(device: Device) -> None:
    services = {"aws.greengrass.ipc.pubsub": EVERYTHING["aws.greengrass.ipc.pubsub"]}
    client = await device.client("a", services=services)
    publishing = client.call("publish_to_iot_core", topic_name="t", qos="0", payload=b"x")
    assert await refused(publishing) == "UnauthorizedError"
    subscribing = client.call("subscribe_to_iot_core", topic_name="t", qos="0", on_stream_event=print)
    assert await refused(subscribing) == "UnauthorizedError"


async def test_a_component_reports_its_state(device: Device) -> None:
    told: list[tuple[str, str]] = []
    device.server.services.on_state = lambda component, state: told.append((component, state))
    client = await device.client("a")
    await client.call("update_state", state="ERRORED")
    assert told == [("a", "ERRORED")]
    assert await refused(client.call("update_state", state="FINE")) in ("InvalidArgumentsError", "ServiceError")


# --- faults


async def test_a_cut_ends_the_connections_of_one_component(device: Device) -> None:
    client, other = await device.client("a"), await device.client("b")
    device.server.cut("a")
    assert await refused(client.publish("t", b"x")) in ("ConnectionClosedError", "StreamClosedError", "AwsCrtError")
    await other.publish("t", b"x")


async def test_after_a_restart_classic_knows_its_tokens_and_lite_does_not(make_device: MakeDevice) -> None:
    for profile in ("classic", "lite"):
        device = await make_device(profile)
        token = device.server.token("a")
        await device.client("a", CONFIG)
        await device.server.restart()
        assert device.server.connected("a") == 0
        if profile == "classic":
            await device.client("a")
        else:
            with pytest.raises(Exception, match="AWS_IO_SOCKET_CLOSED"):
                await device.connect(token)
            assert device.server.token("a") != token
        assert device.server.configuration("a").read(("rate",)) == 5


async def test_subscriptions_can_die_in_silence_and_new_ones_live(device: Device) -> None:
    """So it is on lite when the daemon of publish/subscribe is started again."""
    publisher, client = await device.client("a"), await device.client("b")
    dead = await client.subscribe("t")
    observed: list[bytes] = []
    device.server.observe("t", lambda topic, payload: observed.append(payload))
    await publisher.publish("t", b"heard")
    await until(lambda: dead, lambda: dead)
    device.server.silence()
    alive = await client.subscribe("t")
    await publisher.publish("t", b"not heard by the first")
    await until(lambda: alive, lambda: alive)
    assert dead == [("t", b"heard")]
    assert alive == [("t", b"not heard by the first")]
    assert observed == [b"heard", b"not heard by the first"]
    assert device.server.connected("b") == 1


async def test_replies_can_be_delayed_after_the_operation_was_carried_out(device: Device) -> None:
    client = await device.client("a")
    seen: list[bytes] = []
    device.server.observe("t", lambda topic, payload: seen.append(payload))
    device.server.faults.reply_delay = 0.3
    began = time.monotonic()
    waiting = asyncio.ensure_future(client.publish("t", b"x"))
    await until(lambda: seen, lambda: seen)
    assert not waiting.done()
    await waiting
    assert time.monotonic() - began >= 0.3


async def test_a_reply_can_be_withheld_after_acceptance(device: Device) -> None:
    client = await device.client("a")
    seen: list[bytes] = []
    device.server.observe("t", lambda topic, payload: seen.append(payload))
    device.server.faults.withheld["PublishToTopic"] = 1
    waiting = asyncio.ensure_future(client.publish("t", b"lost reply"))
    await until(lambda: seen, lambda: seen)
    await client.publish("t", b"answered")
    assert seen == [b"lost reply", b"answered"]
    assert not waiting.done()
    waiting.cancel()
