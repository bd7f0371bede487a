"""The plant's OPC UA server as an independent client (asyncua's own) sees it."""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import asyncua.ua
import pytest
from asyncua.client.client import Client
from asyncua.common.node import Node
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography import x509
from pytest_asyncio import fixture

from plant.certificate import own_certificate
from plant.opcua_server import PlantServer
from plant.unit import Reading, Unit

ua: Any = asyncua.ua

pytestmark = pytest.mark.asyncio(loop_scope="module")

T0 = 1_795_313_720_078_276_000


@fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PlantServer]:
    """A plant of two units, not yet producing."""
    plant = PlantServer(2, work=tmp_path_factory.mktemp("plant"))
    await plant.start()
    yield plant
    await plant.stop()


@fixture(loop_scope="module", scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PlantServer]:
    """A plant that only its operator may enter."""
    plant = PlantServer(1, work=tmp_path_factory.mktemp("guarded"), user=("operator", "pump 7"))
    await plant.start()
    yield plant
    await plant.stop()


async def test_a_variable_is_found_by_its_browse_path_and_is_the_one_of_its_node_id(server: PlantServer) -> None:
    async with Client(server.endpoint) as client:
        assert await client.get_namespace_index("urn:sluice:plant") == 2
        for tag in server.tags:
            names = tag.path.split("/")[2:]
            node = await client.nodes.objects.get_child(names)
            assert node.nodeid == ua.NodeId(tag.node.partition(";s=")[2], 2)


async def test_a_process_variable_tells_its_unit_its_range_and_what_it_is(server: PlantServer) -> None:
    async with Client(server.endpoint) as client:
        node = client.get_node("ns=2;s=Unit2/XMEAS09_ReactorTemperature")
        assert (await node.read_description()).Text == "Reactor temperature"
        assert await node.read_data_type() == ua.NodeId(ua.ObjectIds.Double)
        assert await node.read_type_definition() == ua.NodeId(ua.ObjectIds.AnalogItemType)
        unit: Any = await (await node.get_child("0:EngineeringUnits")).read_value()
        assert (unit.DisplayName.Text, unit.UnitId) == ("degC", 4408652)  # Part 8: CEL
        span: Any = await (await node.get_child("0:EURange")).read_value()
        assert (span.Low, span.High) == (0.0, 200.0)
        historizing = await node.read_attribute(ua.AttributeIds.Historizing)
        assert historizing.Value is not None
        assert historizing.Value.Value is True


async def test_before_the_first_row_a_variable_waits_for_initial_data(server: PlantServer) -> None:
    async with Client(server.endpoint) as client:
        value = await client.get_node("ns=2;s=Unit1/Phase").read_data_value(raise_on_bad_status=False)
        assert value.StatusCode is not None
        assert value.StatusCode.name == "BadWaitingForInitialData"
        assert value.Value is not None
        assert value.Value.Value is None


class _Seen:
    """Everything that a subscription is told."""

    def __init__(self) -> None:
        self.values: list[tuple[str, Any]] = []

    async def datachange_notification(self, node: Node, val: Any, data: Any) -> None:
        self.values.append((str(node.nodeid.Identifier), data.monitored_item.Value))


async def _until(condition: Callable[[], bool], what: Callable[[], str], limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {what()}"
        await asyncio.sleep(0.01)


async def test_the_server_counts_the_variables_that_are_watched_and_forgets_those_of_a_client_that_left(
    server: PlantServer,
) -> None:
    async with Client(server.endpoint) as client:
        before = server.watched
        subscription = await client.create_subscription(50, _Seen())
        nodes = [client.get_node(ua.NodeId(tag.tag, 2)) for tag in server.tags[:7]]
        await subscription.subscribe_data_change([*nodes, nodes[0]])  # twice the same is one variable
        assert server.watched - before == 7
    await _until(lambda: server.watched == before, lambda: f"{server.watched} are watched though the client left")


async def test_history_is_read_in_pieces_and_holds_exact_times_values_and_qualities(server: PlantServer) -> None:
    unit = Unit()
    readings = [unit.step() for _ in range(60)]
    still = Reading((), (), ())
    for number, reading in enumerate(readings):
        await server.show(T0 + number * 1_000_000_000, [reading, still])
    async with Client(server.endpoint) as client:
        node = client.get_node("ns=2;s=Unit1/XMEAS38_ProductE")
        details = ua.ReadRawModifiedDetails(IsReadModified=False, NumValuesPerNode=4, ReturnBounds=False)
        details.StartTime = datetime.fromtimestamp(T0 // 10**9, timezone.utc)
        details.EndTime = datetime.fromtimestamp(T0 // 10**9 + 1000, timezone.utc)
        found: list[tuple[Any, Any, int]] = []
        position = None
        pieces = 0
        while pieces == 0 or position:
            result: Any = await node.history_read(details, position)
            position = result.ContinuationPoint
            pieces += 1
            found += [(v.SourceTimestamp, v.Value.Value, v.StatusCode.value) for v in result.HistoryData.DataValues]
    column = next(i for i, tag in enumerate(server.tags) if tag.tag.endswith("XMEAS38_ProductE"))
    start = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=T0 // 1000)
    expected = [
        (start + timedelta(seconds=number), reading.values[column], reading.statuses[column])
        for number, reading in enumerate(readings)
        if column in reading.changed
    ]
    assert found == expected
    assert pieces == -(-len(expected) // 4)
    assert {quality for _, _, quality in found} == {0, 0x40930000, 0x808D0000}


async def test_writing_is_refused_and_counted_like_every_other_service(server: PlantServer) -> None:
    before = server.services
    async with Client(server.endpoint) as client:
        node = client.get_node("ns=2;s=Unit1/XMV10_ReactorCoolantValve")
        with pytest.raises(Exception, match="BadUserAccessDenied"):
            await node.write_value(100.0)
        with pytest.raises(ua.UaError):
            await client.nodes.server.call_method("0:GetMonitoredItems", ua.Variant(1, ua.VariantType.UInt32))
        await node.read_browse_name()
    counted = {name: number - before.get(name, 0) for name, number in server.services.items()}
    assert counted["Write"] == 1
    assert counted["Call"] == 1
    assert counted["Read"] >= 1


@pytest.mark.parametrize("mode", ["Sign", "SignAndEncrypt"])
async def test_a_client_with_its_own_certificate_connects_securely_and_sees_the_server_s(
    server: PlantServer, tmp_path: Path, mode: str
) -> None:
    assert server.certificate is not None
    assert stat.S_IMODE(server.certificate.key.stat().st_mode) == 0o600
    own = own_certificate(tmp_path, "urn:client")
    client = Client(server.endpoint)
    client.application_uri = "urn:client"
    await client.set_security(
        SecurityPolicyBasic256Sha256, own.certificate, own.key, mode=getattr(ua.MessageSecurityMode, mode)
    )
    async with client:
        endpoints = await client.get_endpoints()
        assert await client.get_node("ns=2;s=Unit1/Row").read_browse_name()
    served = {endpoint.ServerCertificate for endpoint in endpoints}
    assert served == {server.certificate.certificate.read_bytes()}
    assert {endpoint.EndpointUrl for endpoint in endpoints} == {server.endpoint}
    assert {endpoint.SecurityPolicyUri.split("#")[1] for endpoint in endpoints} == {"None", "Basic256Sha256"}


async def test_the_server_s_certificate_is_what_the_specification_asks_of_an_application(server: PlantServer) -> None:
    assert server.certificate is not None
    certificate = x509.load_der_x509_certificate(server.certificate.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:sluice:plant:server"]
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.content_commitment
    assert usage.key_encipherment
    assert usage.data_encipherment


async def test_a_certificate_is_made_once(tmp_path: Path) -> None:
    first = own_certificate(tmp_path, "urn:a")
    content = first.certificate.read_bytes(), first.key.read_bytes()
    assert own_certificate(tmp_path, "urn:a") == first
    assert (first.certificate.read_bytes(), first.key.read_bytes()) == content


async def test_the_operator_may_enter_with_his_password(guarded: PlantServer) -> None:
    client = Client(guarded.endpoint)
    client.set_user("operator")
    client.set_password("pump 7")
    async with client:
        assert await client.get_node("ns=2;s=Unit1/Row").read_browse_name()


@pytest.mark.parametrize(("user", "password"), [("operator", "pump 8"), ("admin", "pump 7"), (None, None)])
async def test_nobody_else_may(guarded: PlantServer, user: str | None, password: str | None) -> None:
    client = Client(guarded.endpoint)
    if user is not None and password is not None:
        client.set_user(user)
        client.set_password(password)
    with pytest.raises(ua.UaError):
        await client.connect()
