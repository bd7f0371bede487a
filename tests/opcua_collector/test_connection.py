"""Connections against asyncua's server: what an engineer configures is what flows, whatever else is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.user_managers import UserManager

from opcua_collector.config import Connection as Settings
from opcua_collector.connection import Connection
from opcua_collector.session import Identity
from opcua_collector.stack import ua
from sluice.batch import Columns, Sample
from sluice.log import Secret

Server: Any = import_module("asyncua").Server
URI = "urn:test:plant"
T0 = datetime(2026, 3, 1, tzinfo=timezone.utc)
T0_NS = 1_772_323_200_000_000_000


@dataclass
class Sink:
    """An outlet that remembers."""

    samples: list[Sample] = field(default_factory=list)
    events: list[Mapping[str, Any]] = field(default_factory=list)
    left_out: int = 0

    async def send(self, columns: Columns) -> None:
        self.samples += columns.samples()

    async def send_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        self.events += events

    def filtered(self, count: int) -> None:
        self.left_out += count

    def of(self, tag: str) -> list[Any]:
        return [sample.value for sample in self.samples if sample.tag == tag]


@dataclass
class Reports:
    found: dict[str, tuple[str, str, Any]] = field(default_factory=dict)

    def report(self, scope: str, problem: str, remedy: str, value: Any = None) -> None:
        self.found[scope] = (problem, remedy, value)

    def clear(self, scope: str) -> None:
        for path in [p for p in self.found if p == scope or p.startswith(f"{scope}.")]:
            del self.found[path]


async def until(condition: Callable[[], Any], state: Callable[[], Any], limit: float = 8.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {state()}"
        await asyncio.sleep(0.01)


class OneUser(UserManager):
    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
        if username == "operator" and password == "right":
            return User(role=UserRole.User)
        return None


class Plant:
    """asyncua's server with a few nodes; its port stays the same over restarts."""

    def __init__(self, port: int = 0, users: UserManager | None = None) -> None:
        self.server = Server(user_manager=users)
        self.port = port
        self.nodes: dict[str, Any] = {}

    async def start(
        self, policies: Sequence[Any] = (ua.SecurityPolicyType.NoSecurity,), folder: Path | None = None
    ) -> None:
        await self.server.init()
        self.server.set_endpoint(f"opc.tcp://127.0.0.1:{self.port}/plant")
        self.server.set_security_policy(list(policies))
        if folder is not None:
            from plant.certificate import own_certificate

            own = own_certificate(folder, "urn:test:server")
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


@pytest.fixture
async def plant() -> AsyncIterator[Plant]:
    plant = Plant()
    await plant.start()
    yield plant
    await plant.server.stop()


Start = Callable[..., Running]


@pytest.fixture
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
        running.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running.task


async def test_every_type_arrives_as_its_tags_type_in_order_with_the_sources_time(plant: Plant, start: Start) -> None:
    names = ("Double", "Float", "Int32", "UInt64", "Boolean", "String", "Array")
    line = start(plant.endpoint, {name: {"node": node(name)} for name in names}, asset="site/line1")
    await line.monitors(7)
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
    assert of("Double") == [1.0, 2.5, 3.5, 4.5]
    assert of("Float") == [0.5, 0.25]
    assert of("Int32") == [-7, -8]
    assert of("UInt64") == [7, 8]
    assert of("Boolean") == [True, False]
    assert of("String") == ["on", "off ✓"]
    assert of("Array") == ["[1,2]", "[3,4]"]
    last = [sample for sample in line.sink.samples if sample.tag == "Double"][-1]
    assert (last.time, last.asset, last.unit) == (T0_NS + 3_000_000_000, "site/line1", "°C")
    [metadata] = [event for event in line.sink.events if event["kind"] == "metadata"]
    assert metadata["tags"] == {"Double": {"unit": "°C", "low": 0.0, "high": 250.0}}
