"""Units, ranges, descriptions and labels of nodes, against asyncua's server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from asyncua.common.structures104 import new_enum

from opcua_collector.services.browse import OperationLimits
from opcua_collector.stack import ua
from opcua_collector.types.data_types import Types
from opcua_collector.types.metadata import Metadata, metadata

pytestmark = pytest.mark.asyncio(loop_scope="module")

Client: Any = import_module("asyncua").Client
Server: Any = import_module("asyncua").Server
T = ua.VariantType


class Site:
    """A server and a client's session."""

    def __init__(self, server: Any, client: Any, index: int) -> None:
        self.server, self.index, self.session = server, index, client.uaclient.session

    async def variable(
        self, name: Any, value: Any = 1.5, kind: Any = T.Double, data_type: Any = None, **properties: Any
    ) -> Any:
        where = ua.NodeId(name, self.index) if not isinstance(name, str) else self.index
        node = await self.server.nodes.objects.add_variable(where, str(name), value, kind, data_type)
        for property_, content in properties.items():
            await node.add_property(ua.NodeId(f"{name}.{property_}", self.index), f"0:{property_}", content)
        await node.write_attribute(
            ua.AttributeIds.Description, ua.DataValue(ua.Variant(ua.LocalizedText(f"about {name}")))
        )
        return node.nodeid

    async def of(self, *nodes: Any, limits: OperationLimits | None = None) -> list[Metadata]:
        return await metadata(self.session, limits or OperationLimits(), nodes)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    server = Server()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0/metadata")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace("urn:metadata")
    await server.start()
    port = server.bserver._server.sockets[0].getsockname()[1]
    client = Client(f"opc.tcp://127.0.0.1:{port}/metadata")
    await client.connect()
    yield Site(server, client, index)
    await client.disconnect()
    await server.stop()


def unit(text: str) -> Any:
    return ua.EUInformation(NamespaceUri="urn:x", UnitId=7, DisplayName=ua.LocalizedText(text))


async def test_unit_range_description_and_type_of_a_node_are_told(site: Site) -> None:
    node = await site.variable("Temp", EngineeringUnits=unit("°C"), EURange=ua.Range(0.0, 250.0))
    [found] = await site.of(node)
    assert found == Metadata("°C", 0.0, 250.0, "about Temp", "Double")


async def test_the_instruments_range_stands_in_for_a_range_that_is_missing_or_makes_no_sense(site: Site) -> None:
    instrument = ua.Range(-10.0, 10.0)
    nodes = [
        await site.variable("Instrument", InstrumentRange=instrument),
        await site.variable("Senseless", InstrumentRange=instrument, EURange=ua.Range(5.0, 5.0)),
        await site.variable("Both", InstrumentRange=instrument, EURange=ua.Range(0.0, 1.0)),
        await site.variable("Neither"),
    ]
    found = await site.of(*nodes)
    assert [(one.low, one.high) for one in found] == [(-10.0, 10.0), (-10.0, 10.0), (0.0, 1.0), (None, None)]


async def test_labels_are_the_nodes_own_or_those_of_its_enumeration(site: Site) -> None:
    mode = await new_enum(site.server, site.index, "Gear", ["Idle", "First"])
    texts = [ua.LocalizedText("Shut"), ua.LocalizedText("Open")]
    value = ua.EnumValueType(Value=7, DisplayName=ua.LocalizedText("Seven"), Description=ua.LocalizedText())
    nodes = [
        await site.variable("Strings", 1, T.UInt32, EnumStrings=texts),
        await site.variable("Values", 7, T.UInt32, EnumValues=[value]),
        await site.variable(
            "Two", True, T.Boolean, FalseState=ua.LocalizedText("Off"), TrueState=ua.LocalizedText("On")
        ),
        await site.variable("Gear1", 1, T.Int32, mode.nodeid),
        await site.variable("Plain", 1, T.Int32),
    ]
    found = await site.of(*nodes)
    assert [one.labels for one in found] == [
        ((0, "Shut"), (1, "Open")),
        ((7, "Seven"),),
        ((0, "Off"), (1, "On")),
        ((0, "Idle"), (1, "First")),
        None,
    ]
    assert found[3].data_type == "Gear"


async def test_nodes_of_every_kind_of_id_are_described_in_batches_of_any_size(site: Site) -> None:
    identifiers = [4711, UUID(int=9), b"\x00\xff;=", "with;semicolon=and"]
    nodes = []
    for number, identifier in enumerate(identifiers):
        kind = {int: "i", UUID: "g", bytes: "b", str: "s"}[type(identifier)]
        type_ = {
            "i": ua.NodeIdType.Numeric, "g": ua.NodeIdType.Guid, "b": ua.NodeIdType.ByteString,
            "s": ua.NodeIdType.String,
        }[kind]  # fmt: skip
        where = ua.NodeId(identifier, site.index, type_)
        node = await site.server.nodes.objects.add_variable(where, f"Kind{number}", 1.0, T.Double)
        await node.add_property(ua.NodeId(f"Kind{number}.U", site.index), "0:EngineeringUnits", unit(f"u{number}"))
        nodes.append(where)
    for size in (1, 3, 1000):
        found = await site.of(*nodes, limits=OperationLimits(read=size, browse=size, translate=size))
        assert [one.unit for one in found] == ["u0", "u1", "u2", "u3"]


async def test_a_node_that_is_not_there_costs_itself(site: Site) -> None:
    good = await site.variable("Good", EngineeringUnits=unit("bar"))
    found = await site.of(ua.NodeId("no such node", site.index), good)
    assert found == [Metadata(), Metadata("bar", None, None, "about Good", "Double")]


async def test_names_of_data_types_are_asked_for_once_in_a_session(site: Site) -> None:
    node = await site.variable("Once")
    types = Types()
    await metadata(site.session, OperationLimits(), [node], types)
    assert types.names == {"i=11": "Double"}
    types.names["i=11"] = "known"
    [found] = await metadata(site.session, OperationLimits(), [node], types)
    assert found.data_type == "known"
