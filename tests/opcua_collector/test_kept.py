"""What a connection keeps for its next run, and what it makes of notes that are damaged or foreign."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from opcua_collector.config import Connection
from opcua_collector.kept import Items, Kept, KeptItem, Reached, fingerprint, load_items, load_sequence, load_session
from opcua_collector.session import Subscribed, Ticket
from opcua_collector.stack import read_node, ua, write_node

TICKET = Ticket("0500", "aabb", "", "anonymous", None)
KEPT = Kept("f00", "urn:server", "2026-03-01T10:00:00.0000000Z", TICKET, Subscribed(77, 0.1, 50, 900))
ITEM = KeptItem("Réactor/Temp", ("node", "nsu=urn:x;s=T", "auto"), 3, 112, 750, 0, "°C", ua.NodeId("T;x", 2))
DAMAGED = [None, b"", b"\xff", b"[]", b"{}", b'{"v":1}', b'{"v":2,"subscription":1,"reserved":0,"items":[]}', b"7"]


def test_sessions_items_and_numbers_come_back_as_they_were_noted() -> None:
    items = Items(77, 9, [ITEM])
    assert load_session(KEPT.dump()) == KEPT
    assert load_items(items.dump()) == items
    assert load_sequence(Reached(77, 4).dump()) == Reached(77, 4)


@pytest.mark.parametrize("data", DAMAGED, ids=repr)
def test_what_cannot_be_read_is_as_good_as_not_there(data: bytes | None) -> None:
    assert load_session(data) is None
    assert load_items(data) is None
    assert load_sequence(data) is None


@pytest.mark.parametrize(
    "node",
    [
        ua.NodeId(2258),
        ua.NodeId("a;s=b;ns=3", 2, ua.NodeIdType.String),
        ua.NodeId(b"\x00;=\xff", 70, ua.NodeIdType.ByteString),
        ua.NodeId(UUID(int=7), 1, ua.NodeIdType.Guid),
    ],
    ids=str,
)
def test_node_ids_of_every_kind_survive(node: Any) -> None:
    assert read_node(write_node(node)) == node


@pytest.mark.parametrize("text", ["", "zz", "07", "02"])
def test_what_is_no_node_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no node id|hexadecimal"):
        read_node(text)


@pytest.mark.parametrize(
    ("change", "another"),
    [
        ({"endpoint": "opc.tcp://b:1"}, True),
        ({"publishingInterval": "1s"}, True),
        ({"queueSize": 7}, True),
        ({"user": {"name": "operator"}}, True),
        ({"security": {"policy": "None"}}, True),
        ({"requestTimeout": "3s"}, False),
        ({"tags": {"T": {"node": "i=2258"}}}, False),
        ({"asset": "site/line"}, False),
    ],
    ids=str,
)
def test_settings_that_need_another_session_or_subscription_are_told_from_those_that_do_not(
    change: dict[str, Any], another: bool
) -> None:
    before = Connection.model_validate({"endpoint": "opc.tcp://a:1"})
    after = Connection.model_validate({"endpoint": "opc.tcp://a:1", **change})
    assert (fingerprint(before) != fingerprint(after)) is another
