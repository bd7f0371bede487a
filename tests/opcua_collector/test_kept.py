"""What a connection keeps for its next run, and what it makes of notes that are damaged or foreign."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from opcua_collector.config import Connection
from opcua_collector.kept import (
    ITEMS,
    SEQUENCE,
    Items,
    Kept,
    KeptItem,
    Reached,
    fingerprint,
    load_items,
    load_sequence,
    load_session,
    position,
)
from opcua_collector.services.session import Asked, Subscribed, Ticket
from opcua_collector.stack import node_bytes, read_node, ua, write_node

TICKET = Ticket("0500", "aabb", "", "anonymous", None)
OWN = Subscribed(77, 0.1, 50, 900, Asked(0.05, 100, 1800), 5.0)
STARTED = "2026-03-01T10:00:00.0000000Z"
KEPT = Kept("f00", "urn:server", STARTED, TICKET, {"": OWN, "fast": Subscribed(78, 0.01, 500, 9000)})
SETTINGS = Connection.model_validate({"endpoint": "opc.tcp://a:1"})
#: As version 1 wrote it, for connections that are configured so.
VERSION_1: list[tuple[dict[str, Any], bytes]] = [
    ({}, b"69bcdee11054fef4"),
    (
        {
            "endpoint": "opc.tcp://a:1/p",
            "security": {"policy": "None"},
            "publishingInterval": "50ms",
            "keepAlive": 1,
            "requestTimeout": 4,
            "queueSize": 7,
            "samplingInterval": 0,
            "user": {"name": "operator", "password": {"file": "x"}, "allowUnencrypted": True},
        },
        b"c41d22439f33268b",
    ),
    (
        {
            "security": {"mode": "Sign", "trust": "first-use"},
            "user": {"name": "o", "password": {"secret": "arn:x", "key": "pw"}},
        },
        b"9f75993ce36eee48",
    ),
]
NOTE_1 = (
    b'{"v":1,"settings":"%s","server":"urn:server","started":"2026-03-01T10:00:00.0000000Z","ticket":{"token":"0500",'
    b'"nonce":"aabb","certificate":"","policy_id":"anonymous","policy_uri":null},"subscription":{"id":77,"interval":0.1,'
    b'"keep_alive_count":50,"lifetime_count":900}}'
)
ITEM = KeptItem(
    "Réactor/Temp", ("node", "nsu=urn:x;s=T", "auto"), 3, 112, 750, 0, "°C", node_bytes(ua.NodeId("T;x", 2))
)
DAMAGED = [None, b"", b"\xff", b"[]", b"{}", b'{"v":1}', b'{"v":2,"subscription":1,"reserved":0,"items":[]}', b"7"]


def test_sessions_items_and_numbers_come_back_as_they_were_noted() -> None:
    items = Items(77, 9, [ITEM])
    assert load_session(KEPT.dump(), SETTINGS) == KEPT
    assert load_items(items.dump()) == items
    assert load_sequence(Reached(77, 4).dump()) == Reached(77, 4)


def test_each_group_has_positions_of_its_own_and_tags_without_one_those_that_they_always_had() -> None:
    assert (position(ITEMS, ""), position(SEQUENCE, "")) == ("items", "sequence")
    assert (position(ITEMS, "fast"), position(SEQUENCE, "fast")) == ("items/fast", "sequence/fast")


@pytest.mark.parametrize(("configured", "settings"), VERSION_1, ids=["plain", "all", "secret"])
def test_an_update_resumes_the_session_of_the_version_before(configured: dict[str, Any], settings: bytes) -> None:
    present = Connection.model_validate({"endpoint": "opc.tcp://a:1", **configured})
    loaded = load_session(NOTE_1 % settings, present)
    assert loaded == Kept(
        fingerprint(present), "urn:server", STARTED, TICKET, {"": Subscribed(77, 0.1, 50, 900, None, 0.0)}
    )
    other = Connection.model_validate({**configured, "endpoint": "opc.tcp://another:1"})
    changed = load_session(NOTE_1 % settings, other)
    assert changed is not None
    assert changed.settings != fingerprint(other)


@pytest.mark.parametrize("data", DAMAGED, ids=repr)
def test_what_cannot_be_read_is_as_good_as_not_there(data: bytes | None) -> None:
    assert load_session(data, SETTINGS) is None
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
        ({"security": {"trust": "first-use"}}, True),
        ({"publishingInterval": "1s"}, False),
        ({"keepAlive": 7}, False),
        ({"outage": "5m"}, False),
        ({"queueSize": 7}, False),
        ({"groups": {"fast": {"publishingInterval": "10ms"}}}, False),
        ({"mode": "poll"}, False),
        ({"user": {"name": "operator"}}, True),
        ({"security": {"policy": "None"}}, True),
        ({"requestTimeout": "3s"}, False),
        ({"tags": {"T": {"node": "i=2258"}}}, False),
        ({"asset": "site/line"}, False),
    ],
    ids=str,
)
def test_settings_that_need_another_session_are_told_from_those_that_do_not(
    change: dict[str, Any], another: bool
) -> None:
    before = Connection.model_validate({"endpoint": "opc.tcp://a:1"})
    after = Connection.model_validate({"endpoint": "opc.tcp://a:1", **change})
    assert (fingerprint(before) != fingerprint(after)) is another
