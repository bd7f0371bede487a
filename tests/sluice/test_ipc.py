"""The supervised IPC client, against the local core's server and against a scripted one for what no core ever does."""

from __future__ import annotations

import asyncio
import base64
import binascii
import gc
import json
import logging
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from localcore.ipc import IpcServer
from localcore.profile import CLASSIC, LITE, Profile
from sluice.ipc import (
    Ipc,
    IpcDisconnected,
    IpcError,
    IpcNotFound,
    IpcRefused,
    IpcTimeout,
    IpcTooLarge,
    IpcUnauthorized,
    IpcUnsupported,
)
from sluice.retry import ExitRule

ME = "io.sluice.Tested"
BOTH = pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])


async def until(condition: Callable[[], object], what: Callable[[], object] = lambda: "", limit: float = 30.0) -> None:
    """Wait for a condition; when it never comes, fail with the state that `what` shows."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {what()}"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def core(tmp_path: Path, profile: Profile = CLASSIC, **settings: Any) -> AsyncIterator[IpcServer]:
    server = IpcServer(tmp_path / "ipc.socket", profile, secrets={"plc": '{"password":"s3cret"}'})
    await server.start()
    policies = {
        service: {f"{ME}:{n}": {"operations": ["*"], "resources": resources}}
        for n, (service, resources) in enumerate(
            {
                "aws.greengrass.ipc.pubsub": ["sluice/*", "t/*"],
                "aws.greengrass.ipc.mqttproxy": ["cloud/*"],
                "aws.greengrass.SecretManager": ["*plc*"],
            }.items()
        )
    }
    server.configuration(ME).merge((), {"accessControl": policies, **settings}, 1.0)
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def client(address: str, token: str = "token", **options: Any) -> AsyncIterator[Ipc]:
    ipc = Ipc(socket_path=address, token=token, **options)
    await asyncio.wait_for(ipc.start(), 30)
    try:
        yield ipc
    finally:
        await ipc.close()


@asynccontextmanager
async def connected(
    tmp_path: Path, profile: Profile = CLASSIC, **settings: Any
) -> AsyncIterator[tuple[IpcServer, Ipc]]:
    async with core(tmp_path, profile, **settings) as server, client(server.address, server.token(ME)) as ipc:
        ipc.lite = profile is LITE
        yield server, ipc


# --- publish and subscribe ---


@BOTH
async def test_five_thousand_pipelined_messages_arrive_in_order(tmp_path: Path, profile: Profile) -> None:
    async with connected(tmp_path, profile) as (_, ipc):
        ipc.timeout = 120.0
        got: list[int] = []
        await ipc.subscribe("sluice/data/#", lambda topic, payload: got.append(int(payload)))
        await asyncio.gather(*(ipc.publish("sluice/data/a/b", str(number).encode()) for number in range(5_000)))
        await until(lambda: len(got) == 5_000, lambda: f"{len(got)} arrived")
        assert got == list(range(5_000))
        assert ipc.dropped == 0


async def test_a_message_comes_with_its_topic_and_its_bytes(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, ipc):
        got: list[tuple[str, bytes]] = []
        await ipc.subscribe("sluice/+/x", lambda topic, payload: got.append((topic, payload)))
        await ipc.publish("sluice/data/x", bytes(range(256)))
        await ipc.publish("sluice/other/x", b"")
        await until(lambda: len(got) == 2, lambda: got)
        assert got == [("sluice/data/x", bytes(range(256))), ("sluice/other/x", b"")]


async def test_a_json_message_of_a_guest_arrives_as_its_text(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, ipc):
        got: list[bytes] = []
        await ipc.subscribe("sluice/#", lambda topic, payload: got.append(payload))
        body = {"jsonMessage": {"message": {"a": "ä"}, "context": {"topic": "sluice/x"}}}
        await server.services.local.publish("sluice/x", json.dumps(body).encode(), "")
        await until(lambda: got)
        assert json.loads(got[0]) == {"a": "ä"}


async def test_own_messages_can_be_left_out(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, ipc):
        got: list[bytes] = []
        await ipc.subscribe("sluice/#", lambda topic, payload: got.append(payload), own=False)
        await ipc.publish("sluice/x", b"mine")
        await server.publish("sluice/x", b"theirs")
        await until(lambda: got)
        assert got == [b"theirs"]


async def test_a_handler_that_raises_is_counted_and_its_subscription_goes_on(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, ipc):
        got: list[bytes] = []

        def handler(topic: str, payload: bytes) -> None:
            got.append(payload)
            if payload == b"2":
                raise ValueError("cannot have two")

        subscription = await ipc.subscribe("sluice/#", handler)
        for payload in (b"1", b"2", b"3"):
            await ipc.publish("sluice/x", payload)
        await until(lambda: len(got) == 3, lambda: got)
        assert subscription.active
        assert ipc.counters["handler_errors"] == 1


async def test_a_closed_subscription_is_silent_and_a_renewed_one_delivers_once(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, ipc):
        closed: list[bytes] = []
        renewed: list[bytes] = []
        first = await ipc.subscribe("sluice/#", lambda topic, payload: closed.append(payload))
        second = await ipc.subscribe("sluice/#", lambda topic, payload: renewed.append(payload))
        await first.close()
        await second.renew()
        await second.renew()
        assert second.active
        await ipc.publish("sluice/x", b"1")
        await ipc.publish("sluice/x", b"2")
        await until(lambda: len(renewed) >= 2, lambda: renewed)
        assert (closed, renewed) == ([], [b"1", b"2"])


async def test_more_than_the_hand_over_holds_is_dropped_and_counted(tmp_path: Path) -> None:
    async with (
        core(tmp_path) as server,
        client(server.address, server.token(ME), handover_items=10) as ipc,
        client(server.address, server.token(ME)) as producer,
    ):
        got: list[int] = []

        def slow(topic: str, payload: bytes) -> None:
            got.append(int(payload))
            time.sleep(0.002)

        await ipc.subscribe("sluice/#", slow)
        await asyncio.gather(*(producer.publish("sluice/x", str(number).encode()) for number in range(500)))
        await until(lambda: len(got) + ipc.dropped == 500, lambda: (len(got), ipc.dropped))
        assert ipc.dropped > 0
        assert got == sorted(got)


@BOTH
async def test_nothing_of_a_finished_call_stays_in_memory(tmp_path: Path, profile: Profile) -> None:
    async with connected(tmp_path, profile) as (_, ipc):

        def operations() -> int:
            gc.collect()
            return sum(type(item).__name__ == "PublishToTopicOperation" for item in gc.get_objects())

        for _ in range(300):
            await ipc.publish("sluice/x", b"")
        await until(lambda: operations() <= 2, operations)


# --- what does not fit or is not allowed ---


async def test_on_lite_a_message_that_would_cut_the_connection_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async with connected(tmp_path, LITE) as (_, ipc):
        got: list[bytes] = []
        await ipc.subscribe("t/long", lambda topic, payload: got.append(payload))
        room = ipc.message_room("t/long")
        assert room == 7_299
        with pytest.raises(IpcTooLarge) as refused:
            await ipc.publish("t/long", b"x" * (room + 1))
        assert str(refused.value) == (
            "a message of 7300 bytes on t/long is above the 7299 bytes that this nucleus takes: "
            "set maxMessageBytes to auto or to 7000"
        )
        await ipc.publish("t/long", b"x" * room)
        await until(lambda: got)
        assert (len(got[0]), ipc.counters["connects"]) == (7_299, 1)


async def test_the_local_core_confirms_what_one_byte_more_would_do(tmp_path: Path) -> None:
    async with connected(tmp_path, LITE) as (_, ipc):
        ipc.lite = False
        with pytest.raises(IpcDisconnected):
            await ipc.publish("t/long", b"x" * 7_400)
        await until(lambda: ipc.counters["connects"] == 2, lambda: ipc.counters)


@pytest.mark.parametrize("topic", ["", "a/+", "a/#", "a/*", "x" * 257])
async def test_a_topic_that_no_nucleus_takes_is_refused_here(tmp_path: Path, topic: str) -> None:
    async with connected(tmp_path) as (_, ipc):
        with pytest.raises(IpcRefused, match="is no topic to publish to"):
            await ipc.publish(topic, b"")


@BOTH
async def test_unauthorised_names_the_topic_and_the_policy_to_add(tmp_path: Path, profile: Profile) -> None:
    async with connected(tmp_path, profile) as (_, ipc):
        with pytest.raises(IpcUnauthorized) as publish:
            await ipc.publish("other/x", b"")
        with pytest.raises(IpcUnauthorized) as subscribe:
            await ipc.subscribe("other/#", print)
        with pytest.raises(IpcUnauthorized) as cloud:
            await ipc.publish_iot_core("else/x", b"")
        assert str(publish.value) == (
            "PublishToTopic of other/x is not authorised: add to the recipe, under "
            "ComponentConfiguration/DefaultConfiguration/accessControl/aws.greengrass.ipc.pubsub, a policy with "
            'operations ["aws.greengrass#PublishToTopic"] and resources ["other/x"], and deploy with RESET '
            '"/accessControl" where an older accessControl was merged'
        )
        assert '"aws.greengrass#SubscribeToTopic"] and resources ["other/#"]' in subscribe.value.remedy
        assert "accessControl/aws.greengrass.ipc.mqttproxy" in cloud.value.remedy


async def test_what_lite_does_not_have_is_unsupported_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(tmp_path, LITE) as (_, ipc):
        with caplog.at_level(logging.WARNING, "sluice.ipc"):
            for _ in range(3):
                with pytest.raises(IpcUnsupported):
                    await ipc.get_secret("plc")
        assert [record.getMessage() for record in caplog.records] == [
            "GetSecretValue does not exist on this nucleus (nucleus lite): doing without it"
        ]


async def test_classic_gives_secrets_out(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, ipc):
        assert await ipc.get_secret("plc") == '{"password":"s3cret"}'
        with pytest.raises(IpcError):
            await ipc.get_secret("unknown-plc")


async def test_iot_core_messages_go_out_and_come_in(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, ipc):
        out: list[bytes] = []
        into: list[tuple[str, bytes]] = []
        server.observe_iot_core("cloud/status", lambda topic, payload: out.append(payload))
        await ipc.subscribe_iot_core("cloud/command/#", lambda topic, payload: into.append((topic, payload)))
        await ipc.publish_iot_core("cloud/status", b"up")
        await server.publish_iot_core("cloud/command/x", b"down")
        await until(lambda: out and into, lambda: (out, into))
        assert (out, into) == ([b"up"], [("cloud/command/x", b"down")])


# --- configuration ---


@BOTH
async def test_configuration_is_read_as_it_stands_leaf_or_map(tmp_path: Path, profile: Profile) -> None:
    async with connected(tmp_path, profile, a={"a": 5}, b=7, c={"d": "x", "list": [1, 2]}) as (_, ipc):
        assert await ipc.get_configuration(["a"]) == {"a": 5}
        assert await ipc.get_configuration(["a", "a"]) == 5
        assert await ipc.get_configuration(["b"]) == 7
        assert await ipc.get_configuration(["c"]) == {"d": "x", "list": [1, 2]}
        assert (await ipc.get_configuration())["b"] == 7
        assert ipc.component_name == ME
        with pytest.raises(IpcNotFound):
            await ipc.get_configuration(["missing"])


async def test_configuration_too_large_for_lite_is_read_key_by_key(tmp_path: Path) -> None:
    big = {f"tag{n}": "x" * 500 for n in range(12)}
    async with connected(tmp_path, LITE, one=big, two=big, three=3) as (_, ipc):
        with pytest.raises(IpcRefused):
            await ipc.get_configuration()
        whole = await ipc.get_configuration(keys=["one", "two", "three", "four"])
        assert whole == {"one": big, "two": big, "three": 3}


async def test_configuration_that_lite_cannot_hand_out_at_all_names_the_key_and_the_remedy(tmp_path: Path) -> None:
    big = {f"tag{n}": "x" * 500 for n in range(30)}
    async with connected(tmp_path, LITE, tags=big) as (_, ipc):
        with pytest.raises(IpcRefused, match=r"below /tags: nucleus lite limits it to about 9,000 bytes: move long"):
            await ipc.get_configuration(keys=["tags"])


@BOTH
async def test_the_nucleus_is_told_by_its_answers(tmp_path: Path, profile: Profile) -> None:
    async with connected(tmp_path, profile) as (_, ipc):
        ipc.lite = profile is CLASSIC
        await ipc.detect_nucleus()
        assert ipc.lite is (profile is LITE)


@BOTH
async def test_a_configuration_update_is_written_seen_and_read_back(tmp_path: Path, profile: Profile) -> None:
    async with connected(tmp_path, profile, a=1, c={"d": "x"}) as (_, ipc):
        seen: list[list[str]] = []
        await ipc.on_configuration_update((), seen.append)
        await ipc.update_configuration(["c"], {"d": "y"})
        await until(lambda: seen)
        assert await ipc.get_configuration(["c", "d"]) == "y"


# --- connections ---


@BOTH
async def test_after_a_cut_it_reconnects_and_renews_every_subscription(tmp_path: Path, profile: Profile) -> None:
    async with connected(tmp_path, profile, a=1) as (server, ipc):
        got: dict[str, list[bytes]] = {"one": [], "two": []}
        changed: list[list[str]] = []
        states: list[bool] = []
        ipc.on_state(lambda up, why: states.append(up))
        subscriptions = [
            await ipc.subscribe("sluice/one", lambda topic, payload: got["one"].append(payload)),
            await ipc.subscribe("sluice/two", lambda topic, payload: got["two"].append(payload)),
            await ipc.on_configuration_update((), changed.append),
        ]
        for round_ in range(1, 4):
            server.cut()
            await until(lambda: ipc.counters["subscriptions_renewed"] == 3 * round_, lambda: ipc.counters)  # noqa: B023
            assert all(subscription.active for subscription in subscriptions)
            await server.publish("sluice/one", b"1")
            await server.publish("sluice/two", b"2")
            await until(lambda: len(got["one"]) == len(got["two"]) == round_, lambda: got)  # noqa: B023
        assert states == [False, True] * 3
        assert changed == [[], [], []], "what changed meanwhile may have been missed: read again"


async def test_it_waits_for_a_nucleus_that_is_away_and_never_counts_that_as_a_refusal(tmp_path: Path) -> None:
    server = IpcServer(tmp_path / "ipc.socket", CLASSIC)
    await server.start()
    token, address = server.token(ME), server.address
    await server.stop()
    ipc = Ipc(socket_path=address, token=token, exit_rule=ExitRule(refusals=1, span=0.0))
    starting = asyncio.create_task(ipc.start())
    await until(lambda: ipc.counters["connects_failed"] >= 2, lambda: ipc.counters)
    assert not starting.done()
    assert not ipc.given_up.is_set()
    with pytest.raises(IpcDisconnected):
        await ipc.publish("sluice/x", b"")
    await server.start()
    await asyncio.wait_for(starting, 30)
    await ipc.close()
    await server.stop()


@BOTH
async def test_a_token_refused_as_often_as_the_rule_says_ends_it(tmp_path: Path, profile: Profile) -> None:
    async with core(tmp_path, profile) as server:
        ipc = Ipc(socket_path=server.address, token="forged", exit_rule=ExitRule(refusals=3, span=0.0))
        with pytest.raises(IpcRefused, match="refuses this component's token"):
            await asyncio.wait_for(ipc.start(), 30)
        assert ipc.given_up.is_set()
        assert ipc.counters["handshakes_refused"] == 3
        await ipc.close()


async def test_when_lite_gives_out_new_tokens_a_running_component_is_told_to_start_anew(tmp_path: Path) -> None:
    async with core(tmp_path, LITE) as server:
        rule = ExitRule(refusals=2, span=0.0)
        async with client(server.address, server.token(ME), exit_rule=rule) as ipc:
            await server.restart()
            await asyncio.wait_for(ipc.given_up.wait(), 30)
            assert not ipc.connected


async def test_subscribing_while_disconnected_subscribes_once_connected(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, ipc):
        got: list[bytes] = []
        server.cut()
        await until(lambda: not ipc.connected)
        subscription = await ipc.subscribe("sluice/#", lambda topic, payload: got.append(payload))
        await until(lambda: subscription.active)
        await server.publish("sluice/x", b"1")
        await until(lambda: got)


async def test_attempts_that_fail_leave_no_threads_and_no_descriptors_behind(tmp_path: Path) -> None:
    async with core(tmp_path, LITE) as server, client(server.address, server.token(ME)) as ipc:

        def held() -> tuple[int, int]:
            return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

        ipc._token = "forged"
        before = held()
        for _ in range(50):
            assert await ipc._connect() is not None
        after = held()
        assert after[0] <= before[0]
        assert after[1] <= before[1] + 2, (before, after)
        ipc._token = server.token(ME)


async def test_without_a_nucleus_the_environment_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SVCUID", raising=False)
    monkeypatch.setenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", "/nowhere")
    with pytest.raises(IpcError, match=r"^SVCUID not set: a Sluice component is started by a Greengrass nucleus"):
        Ipc()


# --- replies that are late or never come ---


async def test_a_reply_that_never_comes_times_out_and_the_client_goes_on(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, ipc):
        ipc.timeout = 0.2
        server.faults.withheld["PublishToTopic"] = 1
        with pytest.raises(IpcTimeout, match=r"PublishToTopic of sluice/x was not answered within 0.2 s"):
            await ipc.publish("sluice/x", b"1")
        ipc.timeout = 5.0
        await ipc.publish("sluice/x", b"2")
        assert (ipc.counters["timeouts"], ipc.counters["connects"]) == (1, 1)


async def test_a_subscription_whose_reply_is_lost_is_made_later(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, ipc):
        ipc.timeout = 0.2
        server.faults.withheld["SubscribeToTopic"] = 1
        subscription = await ipc.subscribe("sluice/#", print)
        assert not subscription.active
        await until(lambda: subscription.active)


# --- a scripted server, for what the local core never does ---


class Peer:
    """The server's side of one connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self) -> tuple[dict[str, Any], bytes]:
        """The next message: its headers and payload. Raises IncompleteReadError at the end."""
        prelude = await self.reader.readexactly(12)
        total, header_length, _ = struct.unpack(">III", prelude)
        rest = await self.reader.readexactly(total - 12)
        headers, position = {}, 0
        while position < header_length:
            size = rest[position]
            name = rest[position + 1 : position + 1 + size].decode()
            kind = rest[position + 1 + size]
            position += size + 2
            if kind == 7:
                (length,) = struct.unpack_from(">H", rest, position)
                headers[name] = rest[position + 2 : position + 2 + length].decode()
                position += 2 + length
            else:
                (headers[name],) = struct.unpack_from(">i", rest, position)
                position += 4
        return headers, rest[header_length:-4]

    def frame(self, kind: int, stream: int, flags: int, model: str = "", payload: bytes = b"") -> bytes:
        numbers = {":message-type": kind, ":message-flags": flags, ":stream-id": stream}
        texts = {":content-type": "application/json", "service-model-type": f"aws.greengrass#{model}"} if model else {}
        headers = b"".join(bytes([len(n)]) + n.encode() + b"\x04" + struct.pack(">i", v) for n, v in numbers.items())
        headers += b"".join(
            bytes([len(n)]) + n.encode() + b"\x07" + struct.pack(">H", len(v)) + v.encode() for n, v in texts.items()
        )
        prelude = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
        body = prelude + struct.pack(">I", binascii.crc32(prelude)) + headers + payload
        return body + struct.pack(">I", binascii.crc32(body))

    def send(self, kind: int, stream: int, flags: int, model: str = "", payload: bytes = b"") -> None:
        self.writer.write(self.frame(kind, stream, flags, model, payload))

    async def accept(self) -> None:
        headers, _ = await self.read()
        assert headers[":message-type"] == 4
        self.send(5, 0, 1)

    async def request(self) -> tuple[int, str]:
        """The next request: its stream and operation; ends of streams are passed over."""
        while True:
            headers, _ = await self.read()
            if "operation" in headers:
                return headers[":stream-id"], headers["operation"].removeprefix("aws.greengrass#")

    async def serve(self) -> None:
        """Answer every request with an empty success."""
        while True:
            stream, operation = await self.request()
            self.send(0, stream, 0 if operation.startswith("Subscribe") else 2, f"{operation}Response", b"{}")

    def event(self, stream: int, payload: bytes, model: str = "SubscriptionResponseMessage") -> None:
        self.send(0, stream, 0, model, payload)

    def message(self, stream: int, payload: bytes, topic: str = "sluice/x") -> None:
        body = {"binaryMessage": {"message": base64.b64encode(payload).decode(), "context": {"topic": topic}}}
        self.event(stream, json.dumps(body).encode())


@asynccontextmanager
async def scripted(tmp_path: Path, *scripts: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[str]:
    """A server whose n-th connection follows the n-th script, later ones the last."""
    count = 0

    async def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        script = scripts[min(count, len(scripts) - 1)]
        count += 1
        try:
            await script(Peer(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    address = str(tmp_path / "scripted.socket")
    server = await asyncio.start_unix_server(on_client, address)
    try:
        yield address
    finally:
        server.close()


async def good(peer: Peer) -> None:
    await peer.accept()
    await peer.serve()


async def test_a_reply_after_the_timeout_disturbs_nothing(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        late, operation = await peer.request()
        stream, _ = await peer.request()
        peer.send(0, late, 2, f"{operation}Response", b"{}")
        peer.send(0, stream, 2, f"{operation}Response", b"{}")
        await peer.serve()

    async with scripted(tmp_path, script) as address, client(address) as ipc:
        ipc.timeout = 0.1
        with pytest.raises(IpcTimeout):
            await ipc.publish("sluice/x", b"")
        ipc.timeout = 5.0
        await ipc.publish("sluice/x", b"")
        await ipc.publish("sluice/x", b"")
        assert ipc.counters["connects"] == 1


async def test_frames_may_arrive_byte_by_byte_or_many_at_once(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        stream, operation = await peer.request()
        peer.send(0, stream, 0, f"{operation}Response", b"{}")
        body = {"binaryMessage": {"message": base64.b64encode(b"1").decode(), "context": {"topic": "t"}}}
        for byte in peer.frame(0, stream, 0, "SubscriptionResponseMessage", json.dumps(body).encode()):
            peer.writer.write(bytes([byte]))
            await peer.writer.drain()
            await asyncio.sleep(0)
        peer.writer.write(
            b"".join(
                peer.frame(0, stream, 0, "SubscriptionResponseMessage", json.dumps(body).encode()) for _ in range(100)
            )
        )
        await peer.serve()

    async with scripted(tmp_path, script) as address, client(address) as ipc:
        got: list[bytes] = []
        await ipc.subscribe("t", lambda topic, payload: got.append(payload))
        await until(lambda: len(got) == 101, lambda: len(got))


async def test_an_event_that_cannot_be_understood_costs_itself(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        stream, operation = await peer.request()
        peer.send(0, stream, 0, f"{operation}Response", b"{}")
        peer.event(stream, b"no json")
        peer.event(stream, b'{"binaryMessage":{"message":"A"}}')
        peer.event(stream, b'{"binaryMessage":{}}')
        peer.event(stream, b"{}")
        peer.event(stream, b"[]")
        peer.event(stream, b"{}", model="SomethingElse")
        peer.message(stream, b"good")
        await peer.serve()

    async with scripted(tmp_path, script) as address, client(address) as ipc:
        got: list[bytes] = []
        subscription = await ipc.subscribe("t", lambda topic, payload: got.append(payload))
        await until(lambda: got, lambda: ipc.counters)
        assert (got, subscription.active) == ([b"good"], True)
        assert ipc.counters["malformed"] == 6
        assert ipc.counters["connects"] == 1


async def test_a_reply_that_cannot_be_understood_is_a_refusal_that_shows_nothing_of_it(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        for payload in (b'{"secretId": hunter2', b'{"secretId":"plc","secretValue":"hunter2"}'):
            stream, operation = await peer.request()
            peer.send(0, stream, 2, f"{operation}Response", payload)
        await peer.serve()

    async with scripted(tmp_path, script) as address, client(address) as ipc:
        for _ in range(2):
            with pytest.raises(IpcError) as refused:
                await ipc.get_secret("plc")
            assert "hunter2" not in str(refused.value)


async def test_a_subscription_that_the_server_ends_is_renewed(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        stream, operation = await peer.request()
        peer.send(0, stream, 0, f"{operation}Response", b"{}")
        peer.send(0, stream, 2)
        again, operation = await peer.request()
        peer.send(0, again, 0, f"{operation}Response", b"{}")
        peer.message(again, b"after")
        await peer.serve()

    async with scripted(tmp_path, script) as address, client(address) as ipc:
        got: list[bytes] = []
        await ipc.subscribe("t", lambda topic, payload: got.append(payload))
        await until(lambda: got, lambda: ipc.counters)
        assert (got, ipc.counters["connects"]) == ([b"after"], 1)


async def garbage(peer: Peer) -> None:
    await peer.accept()
    await peer.request()
    peer.writer.write(b"\xff" * 64)
    await peer.reader.read()


async def half_closed(peer: Peer) -> None:
    await peer.accept()
    await peer.request()
    peer.writer.write_eof()
    await asyncio.wait_for(peer.reader.read(), 30)


async def torn(peer: Peer) -> None:
    await peer.accept()
    stream, operation = await peer.request()
    peer.writer.write(peer.frame(0, stream, 2, f"{operation}Response", b"{}")[:-3])


@pytest.mark.parametrize("fault", [garbage, half_closed, torn])
async def test_a_connection_that_goes_bad_fails_its_calls_and_is_made_anew(
    tmp_path: Path, fault: Callable[[Peer], Awaitable[None]]
) -> None:
    async with scripted(tmp_path, fault, good) as address, client(address) as ipc:
        with pytest.raises(IpcDisconnected, match=r"the connection was lost before the reply to PublishToTopic"):
            await ipc.publish("sluice/x", b"")
        await until(lambda: ipc.connected and ipc.counters["connects"] == 2, lambda: ipc.counters)
        await ipc.publish("sluice/x", b"")


async def refuses(peer: Peer) -> None:
    await peer.read()
    peer.send(5, 0, 0)
    await asyncio.wait_for(peer.reader.read(), 30)


async def hangs_up(peer: Peer) -> None:
    await peer.read()


async def talks_nonsense(peer: Peer) -> None:
    await peer.read()
    peer.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await asyncio.wait_for(peer.reader.read(), 30)


@pytest.mark.parametrize("refusal", [refuses, hangs_up, talks_nonsense])
async def test_a_handshake_that_is_refused_in_any_way_is_counted_and_tried_again(
    tmp_path: Path, refusal: Callable[[Peer], Awaitable[None]]
) -> None:
    async with scripted(tmp_path, refusal, refusal, good) as address, client(address) as ipc:
        assert ipc.counters["handshakes_refused"] == 2
        assert not ipc.given_up.is_set()
        await ipc.publish("sluice/x", b"")


async def test_a_handshake_without_an_answer_is_not_a_refusal(tmp_path: Path) -> None:
    async def silent(peer: Peer) -> None:
        await peer.reader.read()
        await peer.reader.read()

    rule = ExitRule(refusals=1, span=0.0)
    async with scripted(tmp_path, silent, good) as address, client(address, timeout=0.3, exit_rule=rule) as ipc:
        assert ipc.counters["handshakes_refused"] == 0
        await ipc.publish("sluice/x", b"")
