"""Which nodes have a history that can be read: by the attributes that the server says of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from opcua_collector.services.browse import OperationLimits, history, operation_limits
from opcua_collector.stack import ua

struct_to_binary: Any = import_module("asyncua.ua.ua_binary").struct_to_binary
READ, HISTORY = 0x01, 0x04


class Scripted:
    """Answers each attribute of each node; one that is not there does not exist."""

    def __init__(self, values: dict[tuple[Any, int], Any]) -> None:
        self.values = values
        self.most = 0

    async def _send_request(self, request: Any) -> bytes:
        wanted = request.Parameters.NodesToRead
        self.most = max(self.most, len(wanted))
        response = ua.ReadResponse()
        for one in wanted:
            value = self.values.get((one.NodeId.Identifier, one.AttributeId))
            kind = ua.VariantType.Boolean if isinstance(value, bool) else ua.VariantType.Byte
            if one.AttributeId == ua.AttributeIds.Value:
                kind = ua.VariantType.UInt32
            response.Results.append(
                ua.DataValue(ua.Variant(), ua.StatusCode(0x80350000))
                if value is None
                else ua.DataValue(ua.Variant(value, kind))
            )
        return bytes(struct_to_binary(response))


@pytest.mark.parametrize(
    ("ours", "of_all", "historizing", "why"),
    [
        (READ | HISTORY, READ | HISTORY, True, ""),
        (READ | HISTORY, READ | HISTORY, None, ""),
        (None, READ | HISTORY, True, ""),
        (READ | HISTORY, None, True, ""),
        (None, None, True, ""),
        (READ | HISTORY, READ | HISTORY, False, "the server does not record its history at present"),
        (READ, READ | HISTORY, True, "this user may not read its history"),
        (READ, READ, True, "the server keeps no history of it"),
        (READ, None, False, "the server keeps no history of it"),
        (None, None, False, "the server does not say whether it keeps a history of it"),
        (None, None, None, "the server does not say whether it keeps a history of it"),
    ],
)
async def test_a_node_has_a_history_when_it_may_be_read_and_is_recorded(
    ours: int | None, of_all: int | None, historizing: bool | None, why: str
) -> None:
    ids = ua.AttributeIds
    server = Scripted({(7, ids.UserAccessLevel): ours, (7, ids.AccessLevel): of_all, (7, ids.Historizing): historizing})
    assert await history(server, OperationLimits(), [ua.NodeId(7, 2)]) == [why]


async def test_each_node_gets_its_own_answer_in_batches_that_the_server_takes() -> None:
    levels = {(number, ua.AttributeIds.AccessLevel): READ | HISTORY * (number % 2) for number in range(50)}
    server = Scripted(levels)
    found = await history(server, OperationLimits(read=20), [ua.NodeId(number, 2) for number in range(50)])
    assert [why == "" for why in found] == [number % 2 == 1 for number in range(50)]
    assert server.most == 20


@pytest.mark.parametrize(("said", "taken"), [(None, 100), (0, 100), (7, 7), (5000, 100)])
async def test_history_is_read_of_a_hundred_nodes_at_once_or_of_as_many_as_the_server_says(
    said: int | None, taken: int
) -> None:
    server = Scripted({(12165, ua.AttributeIds.Value): said})
    limits = await operation_limits(server)
    assert limits == OperationLimits(history=taken)
