"""Connections against asyncua's server: what an engineer configures is what flows, whatever else is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.user_managers import UserManager

from opcua_collector.config import Connection as Settings
from opcua_collector.connection import Connection
from opcua_collector.history.requested import Requested
from opcua_collector.security.certificates import make
from opcua_collector.services import monitoring
from opcua_collector.services.connecting import Identity
from opcua_collector.services.monitoring import Wish
from opcua_collector.stack import ua
from opcua_collector.values.notifications import Publication, Quarantined
from plant.certificate import own_certificate as server_certificate
from plant.line import Line
from plant.opcua_server import no_garbage_collection
from sluice.batch import Columns, Sample, SampleBatch
from sluice.log import Secret

from .scripted_stack import Reports

Server: Any = import_module("asyncua").Server
ServiceError: Any = import_module("asyncua.common.utils").ServiceError
URI = "urn:test:plant"
T0 = datetime(2026, 3, 1, tzinfo=timezone.utc)
SECURE = (ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt, ua.SecurityPolicyType.Basic256Sha256_Sign)
PASSWORD = "Kennwort-7"

pytestmark = pytest.mark.asyncio(loop_scope="module")  # servers take a second or more to start: they are shared

T0_NS = 1_772_323_200_000_000_000


@dataclass
class Sink:
    """An outlet that remembers, and commits at once."""

    samples: list[Sample] = field(default_factory=list)
    events: list[Mapping[str, Any]] = field(default_factory=list)
    positions: dict[str, bytes | None] = field(default_factory=dict)
    unreadable: int = 0
    newest: int = 0
    full: bool = False
    recoverable: bool = False
    roomy: bool = True

    async def _done(self) -> None: ...

    def submit(
        self,
        columns: Sequence[Columns],
        *,
        positions: Mapping[str, bytes | None] | None = None,
        filtered: int = 0,
        undelivered: int = 0,
    ) -> Awaitable[None]:
        for part in columns:
            self.samples += part.samples()
        self.newest += len(columns)
        self.unreadable += undelivered
        return self.note(positions or {})

    def submit_backfill(
        self, columns: Sequence[Columns], *, positions: Mapping[str, bytes | None] | None = None, filtered: int = 0
    ) -> Awaitable[None]:
        return self.submit(columns, positions=positions, filtered=filtered)

    def submit_events(
        self, events: Sequence[Mapping[str, Any]], *, positions: Mapping[str, bytes | None] | None = None
    ) -> Awaitable[None]:
        self.events += events
        return self.note(positions or {})

    def note(self, positions: Mapping[str, bytes | None]) -> Awaitable[None]:
        self.positions.update(positions)
        return asyncio.ensure_future(self._done())

    def position(self, key: str) -> bytes | None:
        return self.positions.get(key)

    def keep_after(self, number: int) -> None: ...

    async def recent(self, after: int) -> AsyncIterator[SampleBatch]:
        kept: list[SampleBatch] = []
        for batch in kept:
            yield batch

    def of(self, tag: str) -> list[Any]:
        return [sample.value for sample in self.samples if sample.tag == tag]


async def until(condition: Callable[[], Any], state: Callable[[], Any], limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {state()}"
        await asyncio.sleep(0.01)


class OneUser(UserManager):
    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        if username == "operator" and password == PASSWORD:
            return User(role=UserRole.User)
        return None


class Plant:
    """asyncua's server with a few nodes; its port stays the same over restarts."""

    def __init__(self, port: int = 0, users: UserManager | None = None) -> None:
        self.server = Server(user_manager=users)
        self.port = port
        self.nodes: dict[str, Any] = {}
        self.folder = Path()

    async def start(
        self, policies: Sequence[Any] = (ua.SecurityPolicyType.NoSecurity,), folder: Path | None = None
    ) -> None:
        with no_garbage_collection():
            await self.server.init()
        self.server.set_endpoint(f"opc.tcp://127.0.0.1:{self.port}/plant")
        self.server.set_security_policy(list(policies))
        if folder is not None:
            own = server_certificate(folder, "urn:test:server")
            await self.server.set_application_uri("urn:test:server")
            await self.server.load_certificate(str(own.certificate))
            await self.server.load_private_key(str(own.key))
        index = await self.server.register_namespace(URI)
        area = await self.server.nodes.objects.add_object(ua.NodeId("Area", index), ua.QualifiedName("Area", index))
        for name, value, kind in (
            ("Double", 1.0, ua.VariantType.Double),
            ("Float", 0.5, ua.VariantType.Float),
            ("Int32", -7, ua.VariantType.Int32),
            ("UInt64", 7, ua.VariantType.UInt64),
            ("Boolean", True, ua.VariantType.Boolean),
            ("String", "on", ua.VariantType.String),
            ("Array", [1, 2], ua.VariantType.Int32),
        ):
            self.nodes[name] = await area.add_variable(
                ua.NodeId(name, index), ua.QualifiedName(name, index), ua.Variant(value, kind)
            )
        unit = ua.EUInformation("http://unece", 4408652, ua.LocalizedText("°C"), ua.LocalizedText("degree Celsius"))
        await self.nodes["Double"].add_property(0, "EngineeringUnits", unit)
        await self.nodes["Double"].add_property(0, "EURange", ua.Range(0.0, 250.0))
        self.index = index
        await self.server.start()
        self.port = self.server.bserver._server.sockets[0].getsockname()[1]

    @property
    def endpoint(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}/plant"

    async def set(self, name: str, value: Any, second: int, status: int = 0) -> None:
        node = self.nodes[name]
        kind = await node.read_data_type_as_variant_type()
        stamp = T0 + timedelta(seconds=second)
        variant = ua.Variant(value, kind) if value is not None else ua.Variant()
        await self.server.write_attribute_value(
            node.nodeid, ua.DataValue(variant, ua.StatusCode(status), SourceTimestamp=stamp, ServerTimestamp=stamp)
        )


def node(name: str) -> str:
    return f"nsu={URI};s={name}"


@dataclass
class Running:
    connection: Connection
    sink: Sink
    reports: Reports
    task: asyncio.Task[None]

    def state(self) -> Any:
        return self.connection.status(), self.reports.found

    async def monitors(self, count: int) -> None:
        await until(lambda: self.connection.status()["monitored"] == count, self.state)

    async def flows(self, *tags: str) -> None:
        """Each of these tags has sent its first value."""
        await until(lambda: all(self.sink.of(tag) for tag in tags), self.state)


async def serving(plant: Plant, *args: Any) -> AsyncIterator[Plant]:
    await plant.start(*args)
    yield plant
    await plant.server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant() -> AsyncIterator[Plant]:
    async for plant in serving(Plant()):
        yield plant


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded() -> AsyncIterator[Plant]:
    """Knows one user and nobody else, and offers no protection."""
    async for plant in serving(Plant(users=OneUser())):
        yield plant


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    """Knows one user and nobody else, and accepts protected channels only."""
    plant = Plant(users=OneUser())
    plant.folder = tmp_path_factory.mktemp("server")
    async for running in serving(plant, SECURE, plant.folder):
        yield running


Start = Callable[..., Running]


@pytest_asyncio.fixture(loop_scope="module")
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    started: list[Running] = []

    def begin(endpoint: str, tags: Mapping[str, Any], *, password: str | None = None, **settings: Any) -> Running:
        settings = {
            "security": {"policy": "None"},
            "publishingInterval": 0.05,
            "keepAlive": 1,
            "requestTimeout": 4,
            **settings,
        }
        configured = Settings.model_validate({"endpoint": endpoint, "tags": tags, **settings})
        sink, reports = Sink(), Reports()

        async def resolve(_: Settings) -> Secret | None:
            return None if password is None else Secret(password)

        identity = Identity(tmp_path / "pki", "urn:test:collector")
        connection = Connection(
            "line1", configured, configured.tags, outlet=sink, identity=identity, password=resolve, problems=reports
        )
        running = Running(connection, sink, reports, asyncio.create_task(connection.run()))
        started.append(running)
        return running

    yield begin
    for running in started:
        running.connection.leave()
        running.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running.task


async def test_every_type_arrives_as_its_tags_type_in_order_with_the_sources_time(plant: Plant, start: Start) -> None:
    names = ("Double", "Float", "Int32", "UInt64", "Boolean", "String", "Array")
    line = start(plant.endpoint, {name: {"node": node(name)} for name in names}, asset="site/line1")
    await line.flows(*names)
    for second, value in enumerate((2.5, 3.5, 4.5), 1):
        await plant.set("Double", value, second)
    await plant.set("Float", 0.25, 1)
    await plant.set("Int32", -8, 1)
    await plant.set("UInt64", 8, 1)
    await plant.set("Boolean", False, 1)
    await plant.set("String", "off ✓", 1)
    await plant.set("Array", [3, 4], 1)
    await until(lambda: len(line.sink.samples) >= 7 + 9, line.state)
    of = line.sink.of
    assert of("Double")[1:] == [2.5, 3.5, 4.5]
    assert of("Float")[1:] == [0.25]
    assert of("Int32")[1:] == [-8]
    assert of("UInt64")[1:] == [8]
    assert of("Boolean")[1:] == [False]
    assert of("String")[1:] == ["off ✓"]
    assert of("Array")[1:] == ["[3,4]"]
    last = [sample for sample in line.sink.samples if sample.tag == "Double"][-1]
    assert (last.time, last.asset, last.unit) == (T0_NS + 3_000_000_000, "site/line1", "°C")
    [metadata] = [event for event in line.sink.events if event["kind"] == "metadata"]
    assert metadata["tags"]["Double"] == {
        "unit": "°C",
        "low": 0.0,
        "high": 250.0,
        "description": "Double",
        "data_type": "Double",
    }
    assert metadata["tags"]["Int32"] == {"description": "Int32", "data_type": "Int32"}


async def test_a_type_that_a_node_cannot_have_is_told_with_the_remedy(plant: Plant, start: Start) -> None:
    line = start(plant.endpoint, {"T": {"node": node("String"), "type": "double"}})
    await until(lambda: "connections.line1.tags.T.type" in line.reports.found, line.state)
    problem, remedy, value = line.reports.found["connections.line1.tags.T.type"]
    assert (value, "String" in problem, "string" in remedy) == ("double", True, True)


async def test_bad_nodes_are_told_with_place_value_and_remedy_while_the_others_run(plant: Plant, start: Start) -> None:
    tags = {
        "Good": {"path": f"/Objects/{plant.index}:Area/{plant.index}:Double"},
        "Missing": {"node": node("Nowhere")},
        "NoSpace": {"node": "nsu=urn:elsewhere;s=Double"},
        "NoPath": {"path": "/Objects/2:Area/2:Nowhere"},
        "Folder": {"node": node("Area")},
    }
    line = start(plant.endpoint, tags)
    await line.flows("Good")
    await until(lambda: len(line.reports.found) == 4, line.state)
    assert line.connection.status()["monitored"] == 1
    found = line.reports.found
    for scope, value, words in (
        ("connections.line1.tags.Missing.node", node("Nowhere"), "does not exist"),
        ("connections.line1.tags.NoSpace.node", "nsu=urn:elsewhere;s=Double", "urn:elsewhere"),
        ("connections.line1.tags.NoPath.path", "/Objects/2:Area/2:Nowhere", "leads to no node"),
        ("connections.line1.tags.Folder.node", node("Area"), "is no variable"),
    ):
        problem, remedy, shown = found[scope]
        assert (shown, words in problem, bool(remedy)) == (value, True, True), (scope, found[scope])
    assert line.connection.status()["bad_tags"] == 4


async def test_tags_come_and_go_while_the_others_flow_on(plant: Plant, start: Start) -> None:
    line = start(plant.endpoint, {"A": {"node": node("Double")}, "B": {"node": node("Float")}})
    await line.flows("A", "B")
    before = len(line.sink.of("B"))
    connects = line.connection.status()["connects"]
    changed = Settings.model_validate(
        {
            "endpoint": plant.endpoint,
            "security": {"policy": "None"},
            "publishingInterval": 0.05,
            "keepAlive": 1,
            "requestTimeout": 4,
            "asset": "site/new",
            "tags": {"A": {"node": node("Double"), "unit": "K"}, "C": {"node": node("Int32")}},
        }
    )
    line.connection.reconfigure(changed, changed.tags)
    await line.flows("C")
    await plant.set("Float", 9.0, 5)
    await plant.set("Double", 9.0, 5)
    await until(lambda: line.sink.of("A")[-1] == 9.0, line.state)
    assert len(line.sink.of("B")) == before
    last = line.sink.samples[-1]
    assert (last.unit, last.asset) == ("K", "site/new")
    assert line.connection.status()["connects"] == connects


def _is_last(found: Sequence[Any], expected: Any) -> bool:
    return bool(found) and found[-1] == expected


async def test_a_tag_may_have_its_own_sampling_interval_and_another_one_while_all_flow_on(
    plant: Plant, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[int], list[float]]] = []
    answered: list[int] = []
    monitor, modify = monitoring.monitor, monitoring.modify

    async def spy_monitor(stack: Any, subscription: int, wishes: Sequence[Wish], batch: int) -> Any:
        found = await monitor(stack, subscription, wishes, batch)
        asked.append(("monitor", [one.id for one in found], [wish.asking.sampling for wish in wishes]))
        return found

    async def spy_modify(
        stack: Any, subscription: int, items: Sequence[int], wishes: Sequence[Wish], batch: int
    ) -> Any:
        found = await modify(stack, subscription, items, wishes, batch)
        asked.append(("resample", list(items), [wish.asking.sampling for wish in wishes]))
        answered.extend(one.status for one in found)
        return found

    monkeypatch.setattr(monitoring, "monitor", spy_monitor)
    monkeypatch.setattr(monitoring, "modify", spy_modify)
    tags = {"A": {"node": node("Double")}, "B": {"node": node("Float"), "samplingInterval": "250ms"}}
    line = start(plant.endpoint, tags, queueSize=10)  # else a server that samples faster is asked for longer ones
    await line.flows("A", "B")
    await until(lambda: asked, line.state)  # values may be there before the answer that told of their items
    [(_, items, intervals)] = asked
    assert intervals == [0.05, 0.25]
    for interval, sent in (("1s", 1.0), (None, 0.05)):
        tags["B"] = {"node": node("Float"), **({"samplingInterval": interval} if interval else {})}
        changed = Settings.model_validate(
            {
                "endpoint": plant.endpoint,
                "security": {"policy": "None"},
                "publishingInterval": 0.05,
                "keepAlive": 1,
                "requestTimeout": 4,
                "queueSize": 10,
                "tags": tags,
            }
        )
        line.connection.reconfigure(changed, changed.tags)
        expected = ("resample", [items[1]], [sent])
        await until(partial(_is_last, asked, expected), line.state)
    assert answered == [0, 0]
    assert line.connection.status()["connects"] == 1
    await plant.set("Float", 7.5, 6)
    await until(lambda: line.sink.of("B")[-1] == 7.5, line.state)


async def test_a_server_that_restarts_with_its_namespaces_in_another_order_is_found_again(start: Start) -> None:
    plant = Plant()
    await plant.start()
    line = start(plant.endpoint, {"A": {"node": node("Double")}})
    await line.flows("A")
    await plant.server.stop()
    await until(lambda: line.connection.state.state != "running", line.state)
    again = Plant(plant.port)
    register = again.server.register_namespace

    async def register_after_others(uri: str) -> Any:
        await register("urn:test:other")
        return await register(uri)

    again.server.register_namespace = register_after_others
    await again.start()
    try:
        await line.monitors(1)
        assert again.index != plant.index
        await again.set("Double", 7.5, 9)
        await until(lambda: line.sink.of("A")[-1:] == [7.5], line.state)
        assert line.connection.status()["losses"] == 1
    finally:
        await again.server.stop()


async def test_a_server_that_falls_silent_is_left_and_tried_again(plant: Plant, start: Start) -> None:
    """A black hole: the line stays up and nothing comes any more."""
    async with Line(plant.port) as hole:
        endpoint = f"opc.tcp://127.0.0.1:{hole.port}/plant"
        line = start(endpoint, {"A": {"node": node("Double")}}, keepAlive=0.1, requestTimeout=0.5)
        await line.flows("A")
        hole.blackhole(True)
        await until(lambda: line.connection.state.state == "waiting", line.state)
        assert "does not answer" in line.connection.state.why
        hole.blackhole(False)
        await until(lambda: line.connection.state.state == "running", line.state)
        assert line.connection.status()["recovery"]["rung"] == "resumed"
        await plant.set("Double", 77.0, 77)
        await until(lambda: line.sink.of("A")[-1] == 77.0, line.state)


Case = tuple[dict[str, Any], str, str, str]
TABLE: list[Case] = [
    ({"endpoint": "opc.tcp://127.0.0.1:1/x"}, "endpoint", "refuses the connection", "firewall"),
    ({"endpoint": "opc.tcp://no-such-host.invalid:4840"}, "endpoint", "cannot be found", "host name"),
    ({"user": {"name": "operator", "password": {"file": "x"}, "allowUnencrypted": True}, "password": "wrong"},
     "user", "refused by the server", "correct the name or the secret"),
    ({"user": None}, "user", "refused by the server", "correct the name"),
    ({"user": {"name": "operator", "password": {"file": "x"}}, "password": PASSWORD},
     "user.password", "is not sent", "allowUnencrypted"),
    ({"security": {"policy": "auto", "trust": "first-use"}}, "security.policy", "is not offered", "policy: None"),
    ({"security": {"policy": "Basic256Sha256", "trust": "first-use"}},
     "security.policy", "offers None", "set security.policy"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "place", "problem", "remedy"), TABLE, ids=[f"{c[1]}: {c[2]}" for c in TABLE])
async def test_what_is_wrong_with_a_connection_is_told_with_place_value_and_remedy(
    guarded: Plant, start: Start, change: dict[str, Any], place: str, problem: str, remedy: str
) -> None:
    right = {"name": "operator", "password": {"file": "x"}, "allowUnencrypted": True}
    settings = {"endpoint": guarded.endpoint, "user": right, "password": PASSWORD, **change}
    line = start(settings.pop("endpoint"), {"A": {"node": node("Double")}}, **settings)
    good = start(guarded.endpoint, {"A": {"node": node("Double")}}, user=right, password=PASSWORD)
    await until(lambda: line.connection.state.state == "waiting", line.state)
    told, mend, _ = line.reports.found[f"connections.line1.{place}"]
    assert problem in told, told
    assert remedy in mend, mend
    assert problem in line.connection.state.why
    await good.flows("A")
    assert PASSWORD not in str(line.state())


async def test_something_that_is_no_opc_ua_server_is_told(start: Start) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    line = start(f"opc.tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", {"A": {"node": "i=2258"}})
    await until(lambda: line.connection.state.state == "waiting", line.state)
    assert "connections.line1.endpoint" in line.reports.found
    server.close()


USER = {"name": "operator", "password": {"file": "x"}}


@pytest.mark.parametrize("mode", ["SignAndEncrypt", "Sign"])
async def test_a_protected_channel_carries_values_and_the_servers_certificate_is_pinned(
    secure: Plant, start: Start, tmp_path: Path, mode: str
) -> None:
    line = start(
        secure.endpoint,
        {"A": {"node": node("Double")}},
        security={"mode": mode, "trust": "first-use"},
        user=USER,
        password=PASSWORD,
    )
    await line.flows("A")
    assert line.connection.status()["policy"] == f"Basic256Sha256/{mode}"
    assert (tmp_path / "pki/trusted/line1.der").read_bytes() == (secure.folder / "plant.der").read_bytes()
    assert (tmp_path / "pki/own/private-key.pem").stat().st_mode & 0o777 == 0o600


async def test_a_changed_server_certificate_is_refused_until_the_engineer_says_otherwise(
    secure: Plant, start: Start, tmp_path: Path
) -> None:
    pinned = tmp_path / "pki/trusted/line1.der"
    pinned.parent.mkdir(parents=True)
    pinned.write_bytes(make("urn:other")[0])
    security = {"trust": "first-use"}
    line = start(secure.endpoint, {"A": {"node": node("Double")}}, security=security, user=USER, password=PASSWORD)
    await until(lambda: line.connection.state.state == "waiting", line.state)
    problem, remedy, _ = line.reports.found["connections.line1.security.trust"]
    assert "pinned another certificate" in problem
    assert str(pinned) in remedy
    assert not line.sink.samples
    pinned.unlink()
    await line.flows("A")
    assert not line.reports.found


@pytest.mark.parametrize("trust", ["", "/no/such/file", "file"])
async def test_a_server_is_believed_only_by_first_use_or_by_its_certificate_in_a_file(
    secure: Plant, start: Start, trust: str
) -> None:
    trust = str(secure.folder / "plant.der") if trust == "file" else trust
    security = {"trust": trust}
    line = start(secure.endpoint, {"A": {"node": node("Double")}}, security=security, user=USER, password=PASSWORD)
    if trust.endswith("plant.der"):
        await line.flows("A")
    else:
        await until(lambda: line.connection.state.state == "waiting", line.state)
        assert "first-use" in line.reports.found["connections.line1.security.trust"][1]


async def test_a_server_that_does_not_trust_us_is_told_with_the_path_of_our_certificate(
    secure: Plant, start: Start, tmp_path: Path
) -> None:
    async def nobody(*_: Any) -> None:
        raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)

    secure.server.set_certificate_validator(nobody)
    try:
        line = start(
            secure.endpoint,
            {"A": {"node": node("Double")}},
            security={"trust": "first-use"},
            user=USER,
            password=PASSWORD,
        )
        await until(lambda: line.connection.state.state == "waiting", line.state)
        problem, remedy, _ = line.reports.found["connections.line1.security"]
        assert "does not trust our certificate" in problem
        assert str(tmp_path / "pki/own/certificate.der") in remedy
    finally:
        secure.server.set_certificate_validator(None)


async def test_an_undecodable_item_is_counted_and_told_while_its_message_is_delivered(
    plant: Plant, start: Start
) -> None:
    line = start(plant.endpoint, {"A": {"node": node("Double")}})
    await line.flows("A")
    damaged = Publication(sequence=7, quarantined=(Quarantined(0, "variant type 63 does not exist", "00"),), lost=2)
    await line.connection._intake.hand_on(damaged, {})
    [event] = [event for event in line.sink.events if event["kind"] == "undecodable"]
    assert (event["items"][0]["tag"], event["quarantined"], event["lost"]) == ("A", 1, 2)
    assert line.sink.unreadable == 3


async def test_a_range_that_is_asked_for_before_the_connection_has_begun_goes_on_where_it_was(tmp_path: Path) -> None:
    """A command that a restart interrupted goes on as soon as its component runs: its connection may be slower."""
    settings = Settings.model_validate({"endpoint": "opc.tcp://127.0.0.1:9", "security": {"policy": "None"}})

    async def no_password(_: Settings) -> Secret | None:
        return None

    def made(sink: Sink) -> Connection:
        identity = Identity(tmp_path / "pki", "urn:test:collector")
        return Connection(
            "line1", settings, {}, outlet=sink, identity=identity, password=no_password, problems=Reports()
        )

    halfway = Requested(lambda tag: None, lambda tag: None)
    halfway.add("b1", 1_000, 5_000, ["T1", "T2"])
    known = halfway.get("b1")
    assert known is not None
    del known.at["T1"]
    known.values = 7
    after = Sink(positions={"requests": halfway.dump(0)})
    connection = made(after)
    resumed = connection.request("b1", 1_000, 5_000, ["T1", "T2"])
    running = asyncio.create_task(connection.run())
    await until(lambda: connection.state.state != "connecting", lambda: connection.state)
    running.cancel()
    await asyncio.wait({running})
    assert (resumed.values, set(resumed.at)) == (7, {"T2"})
    assert connection.request("b1", 1_000, 5_000, ["T1", "T2"]) is resumed, "whoever waits for it would wait for ever"
