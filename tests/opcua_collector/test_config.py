"""What engineers write: node ids, paths, endpoints, tag files; and what they read when it is wrong."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from opcua_collector.address_space.address import (
    BrowsePathError,
    NamespaceUnknownError,
    NodeIdError,
    parse_browse_path,
    parse_node_id,
)
from opcua_collector.config import Configuration
from sluice.config import load


@pytest.mark.parametrize(
    ("text", "kind", "identifier", "index", "uri"),
    [
        ("i=2258", "i", 2258, 0, ""),
        ("ns=2;s=Temp;a=b", "s", "Temp;a=b", 2, ""),
        ("nsu=urn:sluice:plant;s=Unit1.XMEAS01", "s", "Unit1.XMEAS01", 0, "urn:sluice:plant"),
        ("nsu=http://x.org/a%3Bb;i=7", "i", 7, 0, "http://x.org/a;b"),
        ("ns=3;g=09087e75-8e5e-499b-954f-f2a9603db28a", "g", UUID("09087e75-8e5e-499b-954f-f2a9603db28a"), 3, ""),
        ("ns=1;b=M/RbKBsRVkePCePcx24oRA==", "b", bytes.fromhex("33f45b281b1156478f09e3dcc76e2844"), 1, ""),
    ],
)
def test_node_ids_are_read_in_all_their_forms(text: str, kind: str, identifier: Any, index: int, uri: str) -> None:
    found = parse_node_id(text)
    assert (found.kind, found.identifier, found.index, found.uri) == (kind, identifier, index, uri)


@pytest.mark.parametrize(
    "text", ["", "Temp", "s=", "i=-1", "i=4294967296", "ns=70000;i=1", "g=1234", "b=?", "ns=x;i=1", "i=٣"]
)
def test_what_is_no_node_id_is_refused(text: str) -> None:
    with pytest.raises(NodeIdError):
        parse_node_id(text)


def test_a_namespace_is_found_by_its_uri_wherever_it_stands() -> None:
    found = parse_node_id("nsu=urn:b;s=x")
    assert found.namespace(["http://opcfoundation.org/UA/", "urn:b", "urn:a"]) == 1
    assert found.namespace(["http://opcfoundation.org/UA/", "urn:a", "urn:b"]) == 2
    with pytest.raises(NamespaceUnknownError, match="urn:b"):
        found.namespace(["http://opcfoundation.org/UA/"])


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("/Objects/2:Plant/2:Temp", ((0, "Objects"), (2, "Plant"), (2, "Temp"))),
        ("/Root/Objects", ((0, "Objects"),)),
        ("/0:Objects/3:a&/b&:c&&", ((0, "Objects"), (3, "a/b:c&"))),
        ("/Objects/2:ns=1:x", ((0, "Objects"), (2, "ns=1:x"))),
        ("/Objects/Line:1", ((0, "Objects"), (0, "Line:1"))),
    ],
)
def test_browse_paths_are_read_with_namespaces_and_escapes(text: str, steps: tuple[tuple[int, str], ...]) -> None:
    assert parse_browse_path(text) == steps


@pytest.mark.parametrize("text", ["", "Objects/x", "/", "/Objects//x", "/Root", "/Objects/2:"])
def test_what_is_no_browse_path_is_refused(text: str) -> None:
    with pytest.raises(BrowsePathError):
        parse_browse_path(text)


GOOD = {"endpoint": "opc.tcp://127.0.0.1:4840/plant", "tags": {"T": {"node": "i=1"}}}


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"endpoint": "http://plant"}, "endpoint", ("opc.tcp://",)),
        ({"endpoint": "opc.tcp://operator:geheim@plant"}, "endpoint", ("login", "secret")),
        ({"tags": {"T": {"node": "Temp"}}}, "tags.T.node", ("no node id", "nsu=")),
        ({"tags": {"T": {"path": "Objects/x"}}}, "tags.T.path", ("/Objects/",)),
        ({"tags": {"T": {"node": "i=1", "path": "/Objects"}}}, "tags.T", ("exactly one",)),
        ({"tags": {"T": {"unit": "bar"}}}, "tags.T", ("exactly one",)),
        ({"security": {"policy": "Basic128"}}, "security.policy", ("Basic256Sha256",)),
        ({"user": {"name": "u", "password": "geheim"}}, "user.password", ("secret",)),
        ({"publishingInterval": "fast"}, "publishingInterval", ("500ms",)),
        ({"queueSize": 0}, "queueSize", ("auto",)),
        ({"queueSize": "inf"}, "queueSize", ("auto",)),
        ({"queueSize": "1e999"}, "queueSize", ("auto",)),
        ({"queueSize": "1,5"}, "queueSize", ("decimal comma", "1.5")),
        ({"tags": {"T": {"node": "i=1", "samplingInterval": "2h"}}}, "tags.T.samplingInterval", ("too large", "1h")),
    ],
)
def test_a_wrong_setting_is_told_with_its_place_and_remedy_and_costs_only_itself(
    change: dict[str, Any], path: str, words: tuple[str, ...]
) -> None:
    loaded = load(Configuration, {"connections": {"line1": {**GOOD, **change}, "line2": GOOD}}, None)
    [problem] = loaded.problems
    assert problem.path == f"connections.line1.{path}"
    assert all(word in str(problem) for word in words)
    assert "geheim" not in str(problem)
    assert "line2" in loaded.config.connections


def test_the_policy_without_protection_is_never_the_default() -> None:
    loaded = load(Configuration, {"connections": {"line1": GOOD}}, None)
    assert loaded.config.connections["line1"].security.policy == "auto"


def test_the_outbox_is_configured_beside_the_connections_and_a_mistake_in_it_stops_no_connection() -> None:
    raw: dict[str, Any] = {
        "outbox": {"maxSize": "2GB", "commitInterval": "2s", "consumers": ["stream-exporter"]},
        "connections": {"line1": {"endpoint": "opc.tcp://10.0.0.5:4840"}},
    }
    loaded = load(Configuration, raw)
    [problem] = loaded.problems
    assert problem.path == "outbox.commitInterval"
    assert list(loaded.config.connections) == ["line1"]
    del raw["outbox"]["commitInterval"]
    loaded = load(Configuration, raw)
    assert not loaded.problems
    assert (loaded.config.outbox.max_size, loaded.config.outbox.consumers) == (2_000_000_000, ["stream-exporter"])
