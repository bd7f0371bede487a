"""Types of tags from the data types of nodes, against asyncua's server with types of its own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from importlib import import_module
from typing import Any

import orjson
import pytest
import pytest_asyncio
from asyncua.common.structures104 import new_enum, new_struct, new_struct_field

from opcua_collector.config import Tag
from opcua_collector.services.browse import OperationLimits
from opcua_collector.stack import ua
from opcua_collector.types import data_types
from opcua_collector.types.typed import Rule, Typing
from opcua_collector.values.notifications import decode_values
from opcua_collector.values.samples import Assembler
from sluice.batch import Quality, Sample, Series, ValueType
from sluice.config import Problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

T = ua.VariantType
_numbers = itertools.count()
Client: Any = import_module("asyncua").Client
Server: Any = import_module("asyncua").Server


class Site:
    """A server with types of its own, and the session of a client that knows nothing of them."""

    def __init__(self, server: Any, client: Any, index: int) -> None:
        self.server, self.client, self.index = server, client, index
        self.session = client.uaclient.session
        self.mode: Any = None

    async def variable(self, value: Any, kind: Any = None, data_type: Any = None, rank: int | None = None) -> Any:
        name = f"V{next(_numbers)}"
        node = await self.server.nodes.objects.add_variable(self.index, name, value, kind, data_type)
        if rank is not None:
            await node.write_attribute(ua.AttributeIds.ValueRank, ua.DataValue(ua.Variant(rank, T.Int32)))
        return node

    async def typing(self, node: Any, **of: Any) -> Typing | Problem:
        tag = Tag.model_validate({"node": "i=1", **of})
        found = await data_types.rules(self.session, OperationLimits(), {"T": ("tags.T", tag, node.nodeid)})
        return found["T"]

    async def sample(self, node: Any, typing: Typing | Problem) -> Sample:
        """What the tag's sample is."""
        assert isinstance(typing, Typing), typing
        request = ua.ReadRequest()
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
        request.Parameters.NodesToRead = [ua.ReadValueId(NodeId=node.nodeid, AttributeId=ua.AttributeIds.Value)]
        answer = bytes(await self.session._send_request(request))
        made = Assembler()
        made.fix(made.add(Series("T")), Typing.load(orjson.loads(orjson.dumps(typing.dump()))))
        [columns] = made.columns(decode_values(answer, 0, [0], received=1))
        [sample] = columns.samples()
        return sample


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    server = Server()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0/types")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace("urn:types")
    field, scalar = new_struct_field, ua.VariantType
    mode = await new_enum(server, index, "Mode", ["Off", "Slow", "Fast"])
    motor, _ = await new_struct(
        server,
        index,
        "Motor",
        [field("Speed", scalar.Double), field("Turns", scalar.UInt64), field("Name", scalar.String)],
    )
    await new_struct(
        server,
        index,
        "Machine",
        [
            field("Id", scalar.Int32),
            field("Main", motor),
            field("All", motor, array=True),
            field("Mode", mode),
            field("Marks", scalar.Double, array=True),
            field("Since", scalar.DateTime),
            field("Label", scalar.LocalizedText),
        ],
    )
    await new_struct(
        server,
        index,
        "Partly",
        [
            field("Always", scalar.Int32),
            field("First", scalar.Double, optional=True),
            field("Second", scalar.String, optional=True),
        ],
    )
    await new_struct(
        server, index, "Either", [field("Number", scalar.Double), field("Text", scalar.String)], is_union=True
    )
    await server.load_data_type_definitions()
    await server.start()
    port = server.bserver._server.sockets[0].getsockname()[1]
    client = Client(f"opc.tcp://127.0.0.1:{port}/types")
    await client.connect()
    found = Site(server, client, index)
    found.mode = mode.nodeid
    yield found
    await client.disconnect()
    await server.stop()


SINCE = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=timezone.utc)
ISO = "2026-03-01T12:00:00.2500000Z"
SCALARS: list[tuple[Any, Any, str, ValueType, Any]] = [
    (1.5, T.Double, "auto", ValueType.DOUBLE, 1.5),
    (0.25, T.Float, "double", ValueType.DOUBLE, 0.25),
    (7, T.Int64, "double", ValueType.DOUBLE, 7.0),
    (SINCE, T.DateTime, "double", ValueType.DOUBLE, SINCE.timestamp()),
    (SINCE, T.DateTime, "auto", ValueType.STRING, ISO),
    (SINCE, T.DateTime, "string", ValueType.STRING, ISO),
    (7, T.Byte, "auto", ValueType.INTEGER, 7),
    (True, T.Boolean, "integer", ValueType.INTEGER, 1),
    (True, T.Boolean, "auto", ValueType.BOOLEAN, True),
    (True, T.Boolean, "boolean", ValueType.BOOLEAN, True),
    (False, T.Boolean, "string", ValueType.STRING, "false"),
    (2**64 - 1, T.UInt64, "string", ValueType.STRING, "18446744073709551615"),
    (-(2**63), T.Int64, "string", ValueType.STRING, "-9223372036854775808"),
    (0.1, T.Float, "string", ValueType.STRING, "0.1"),
    (0.1, T.Double, "string", ValueType.STRING, "0.1"),
    ("on", T.String, "auto", ValueType.STRING, "on"),
    (ua.LocalizedText("an", "de"), T.LocalizedText, "auto", ValueType.STRING, "an"),
    (ua.QualifiedName("n", 2), T.QualifiedName, "auto", ValueType.STRING, "2:n"),
    (b"\x00\xff", T.ByteString, "auto", ValueType.STRING, "AP8="),
    (ua.StatusCode(0x80310000), T.StatusCode, "auto", ValueType.INTEGER, 0x80310000),
]


@pytest.mark.parametrize(("value", "kind", "wanted", "type_", "shown"), SCALARS)
async def test_a_scalar_becomes_what_its_data_type_and_the_tags_type_say(
    site: Site, value: Any, kind: Any, wanted: str, type_: ValueType, shown: Any
) -> None:
    node = await site.variable(value, kind)
    typing = await site.typing(node, type=wanted)
    assert isinstance(typing, Typing)
    assert typing.type is type_
    sample = await site.sample(node, typing)
    assert (sample.value, type(sample.value), sample.quality) == (shown, type(shown), Quality.GOOD)


IMPOSSIBLE: list[tuple[Any, Any, str, str]] = [
    ("on", T.String, "double", "take it out, or set it to string"),
    ("on", T.String, "boolean", "take it out, or set it to string"),
    (1.5, T.Double, "integer", "take it out, or set it to double or string"),
    (1.5, T.Double, "boolean", "take it out, or set it to double or string"),
    (True, T.Boolean, "double", "take it out, or set it to integer or boolean or string"),
    (3, T.Int32, "boolean", "take it out, or set it to double or integer or string"),
]


@pytest.mark.parametrize(("value", "kind", "wanted", "remedy"), IMPOSSIBLE)
async def test_what_cannot_be_had_is_told_once_with_what_can(
    site: Site, value: Any, kind: Any, wanted: str, remedy: str
) -> None:
    found = await site.typing(await site.variable(value, kind), type=wanted)
    assert isinstance(found, Problem)
    assert (found.path, found.value, found.remedy) == ("tags.T.type", wanted, remedy)


async def test_an_array_is_json_and_one_element_of_it_a_value_of_its_type(site: Site) -> None:
    node = await site.variable([1.5, 2.5, 3.5], T.Double, rank=1)
    assert (await site.sample(node, await site.typing(node))).value == "[1.5,2.5,3.5]"
    assert (await site.sample(node, await site.typing(node, type="string"))).value == "[1.5,2.5,3.5]"
    one = await site.typing(node, indexRange="1")
    assert isinstance(one, Typing)
    assert one.type is ValueType.DOUBLE
    element = await site.variable([2.5], T.Double, rank=1)  # what a server sends of it: this one knows no index ranges
    assert (await site.sample(element, one)).value == 2.5
    whole = await site.sample(node, one)
    assert (whole.value, whole.quality, whole.status) == (None, Quality.BAD, "type-mismatch")
    assert (await site.sample(node, await site.typing(node, indexRange="0:2"))).value == "[1.5,2.5,3.5]"
    refused = await site.typing(node, type="double")
    assert isinstance(refused, Problem)
    assert "indexRange" in refused.remedy


async def test_an_enumeration_is_a_number_or_its_label_and_an_unknown_number_its_digits(site: Site) -> None:
    mode = site.mode
    for value, label in ((2, "Fast"), (0, "Off"), (9, "9")):
        node = await site.variable(value, T.Int32, mode)
        assert (await site.sample(node, await site.typing(node))).value == value
        assert (await site.sample(node, await site.typing(node, type="string"))).value == label


@pytest.mark.parametrize("name", ["EnumStrings", "EnumValues"])
async def test_labels_come_from_the_properties_of_a_type_without_a_definition(site: Site, name: str) -> None:
    types = site.server.get_node(ua.ObjectIds.Enumeration)
    kind = await types.add_data_type(site.index, f"Bare{name}{next(_numbers)}")
    labels: Any = [ua.LocalizedText("Zero"), ua.LocalizedText("One")]
    if name == "EnumValues":
        labels = [ua.EnumValueType(Value=1, DisplayName=ua.LocalizedText("One"), Description=ua.LocalizedText())]
    await kind.add_property(0, name, labels)
    node = await site.variable(1, T.Int32, kind.nodeid)
    assert (await site.sample(node, await site.typing(node, type="string"))).value == "One"


def machine() -> tuple[Any, dict[str, Any]]:
    """A value, and what it is in JSON."""
    made = ua.Machine()
    made.Id, made.Mode, made.Marks, made.Since = 4, ua.Mode.Fast, [0.5, 1.5], SINCE
    made.Label = ua.LocalizedText("Presse")
    made.Main = ua.Motor(Speed=12.5, Turns=2**64 - 1, Name="M1")
    made.All = [ua.Motor(Speed=1.0, Turns=1, Name="a"), ua.Motor(Speed=2.0, Turns=2, Name=None)]
    shown = {
        "Id": 4,
        "Main": {"Speed": 12.5, "Turns": 2**64 - 1, "Name": "M1"},
        "All": [{"Speed": 1.0, "Turns": 1, "Name": "a"}, {"Speed": 2.0, "Turns": 2, "Name": None}],
        "Mode": 2,
        "Marks": [0.5, 1.5],
        "Since": ISO,
        "Label": "Presse",
    }
    return made, shown


async def test_a_structure_is_json_with_the_names_of_its_fields(site: Site) -> None:
    made, shown = machine()
    node = await site.variable(made, T.ExtensionObject, made.data_type)
    typing = await site.typing(node)
    assert isinstance(typing, Typing)
    assert orjson.loads(str((await site.sample(node, typing)).value)) == shown
    listed = await site.variable([made, made], T.ExtensionObject, made.data_type, rank=1)
    assert orjson.loads(str((await site.sample(listed, await site.typing(listed))).value)) == [shown, shown]


FIELDS: list[tuple[str, str, ValueType, Any]] = [
    ("Id", "auto", ValueType.INTEGER, 4),
    ("Main/Speed", "auto", ValueType.DOUBLE, 12.5),
    ("Main/Turns", "string", ValueType.STRING, str(2**64 - 1)),
    ("Main/Name", "auto", ValueType.STRING, "M1"),
    ("Main", "auto", ValueType.STRING, '{"Speed":12.5,"Turns":18446744073709551615,"Name":"M1"}'),
    ("Mode", "auto", ValueType.INTEGER, 2),
    ("Mode", "string", ValueType.STRING, "Fast"),
    ("Marks", "auto", ValueType.STRING, "[0.5,1.5]"),
    ("Since", "auto", ValueType.STRING, ISO),
    ("Since", "double", ValueType.DOUBLE, SINCE.timestamp()),
    ("Label", "auto", ValueType.STRING, "Presse"),
]


@pytest.mark.parametrize(("field", "wanted", "type_", "shown"), FIELDS)
async def test_a_field_of_a_structure_has_its_own_type(
    site: Site, field: str, wanted: str, type_: ValueType, shown: Any
) -> None:
    made, _ = machine()
    node = await site.variable(made, T.ExtensionObject, made.data_type)
    typing = await site.typing(node, field=field, type=wanted)
    assert isinstance(typing, Typing), typing
    assert typing.type is type_
    assert (await site.sample(node, typing)).value == shown


async def test_a_field_of_one_element_of_a_list_of_structures(site: Site) -> None:
    made, _ = machine()
    node = await site.variable([made, made], T.ExtensionObject, made.data_type, rank=1)
    typing = await site.typing(node, field="Main/Speed", indexRange="1")
    element = await site.variable([made], T.ExtensionObject, made.data_type, rank=1)
    assert (await site.sample(element, typing)).value == 12.5
    refused = await site.typing(node, field="Main/Speed")
    assert isinstance(refused, Problem)
    assert "indexRange" in refused.remedy


@pytest.mark.parametrize(
    ("field", "wanted", "place", "remedy"),
    [
        ("Speed", "auto", "field", "use one of Id, Main, All, Mode, Marks, Since, Label"),
        ("Main/Torque", "auto", "field", "use one of Speed, Turns, Name"),
        ("Id/Speed", "auto", "field", "take field out"),
        ("All/Speed", "auto", "field", "name a field before it"),
        ("Main/Name", "double", "type", "take it out, or set it to string"),
    ],
)
async def test_a_wrong_field_is_told_with_those_that_there_are(
    site: Site, field: str, wanted: str, place: str, remedy: str
) -> None:
    made, _ = machine()
    node = await site.variable(made, T.ExtensionObject, made.data_type)
    found = await site.typing(node, field=field, type=wanted)
    assert isinstance(found, Problem)
    assert (found.path, found.remedy) == (f"tags.T.{place}", remedy)


@pytest.mark.parametrize(
    ("first", "second"), [(None, None), (1.5, None), (None, "x"), (2.5, "y")], ids=["none", "first", "second", "both"]
)
async def test_optional_fields_that_are_not_there_are_not_in_the_json_and_are_no_values(
    site: Site, first: float | None, second: str | None
) -> None:
    made = ua.Partly(Always=3, First=first, Second=second)
    node = await site.variable(made, T.ExtensionObject, made.data_type)
    shown = {"Always": 3, "First": first, "Second": second}
    there = {name: value for name, value in shown.items() if value is not None}
    assert orjson.loads(str((await site.sample(node, await site.typing(node))).value)) == there
    sample = await site.sample(node, await site.typing(node, field="First"))
    assert (sample.value, sample.quality) == (first, Quality.UNCERTAIN if first is None else Quality.GOOD)


@pytest.mark.parametrize(("name", "value"), [("Number", 1.5), ("Text", "t")])
async def test_a_union_is_the_one_field_that_it_has(site: Site, name: str, value: Any) -> None:
    made = ua.Either()
    setattr(made, name, value)
    node = await site.variable(made, T.ExtensionObject, made.data_type)
    assert orjson.loads(str((await site.sample(node, await site.typing(node))).value)) == {name: value}
    assert (await site.sample(node, await site.typing(node, field=name))).value == value


async def test_a_structure_of_namespace_0_needs_no_definition_from_the_server(site: Site) -> None:
    node = await site.variable(ua.Range(1.0, 2.0), T.ExtensionObject, ua.NodeId(ua.ObjectIds.Range))
    assert (await site.sample(node, await site.typing(node))).value == '{"Low":1.0,"High":2.0}'
    assert (await site.sample(node, await site.typing(node, field="High"))).value == 2.0


async def test_of_a_variable_of_any_type_the_present_value_decides(site: Site) -> None:
    any_type = ua.NodeId(ua.ObjectIds.BaseDataType)
    assert await site.typing(await site.variable(1.5, T.Double, any_type)) == Typing(Rule.DOUBLE)
    empty = await site.typing(await site.variable(None, T.Null, any_type))
    assert isinstance(empty, Problem)
    assert empty.path == "tags.T.type"
    wanted = await site.typing(await site.variable(None, T.Null, any_type), type="double")
    assert isinstance(wanted, Typing)
    assert wanted.type is ValueType.DOUBLE
    made, shown = machine()
    held = await site.variable(made, T.ExtensionObject, any_type)
    assert orjson.loads(str((await site.sample(held, await site.typing(held))).value)) == shown


async def test_definitions_and_labels_are_read_once_in_a_session(site: Site) -> None:
    made, _ = machine()
    node = await site.variable(made, T.ExtensionObject, made.data_type)
    asked: list[Any] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(site.session, name)

        async def _send_request(self, request: Any, *more: Any, **of: Any) -> Any:
            asked.append(request)
            return await site.session._send_request(request, *more, **of)

        async def browse(self, parameters: Any) -> Any:
            asked.append(parameters)
            return await site.session.browse(parameters)

    types = data_types.Types()
    tags = {"T": ("tags.T", Tag.model_validate({"node": "i=1", "field": "Mode", "type": "string"}), node.nodeid)}
    first = await data_types.rules(Counting(), OperationLimits(), tags, types)
    once = len(asked)
    assert await data_types.rules(Counting(), OperationLimits(), tags, types) == first
    assert len(asked) - once == 1, "only the node's own attributes"
