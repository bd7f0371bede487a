"""Imports: what can be said here is carried over, the document passes `sluice check`, and the rest is told."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli import published_nodes, sitewise_source
from cli.app import make_app
from cli.document import load
from cli.imported import Made, Notes, TagNames, _seconds, connection_name
from cli.importing import documents, usable
from cli.output import Failure
from cli.site_check import check_document
from cli.tag_file import table_text
from opcua_collector.tags import parse

COLLECTOR = "io.sluice.OpcUaCollector"


def run(kind: str, folder: Path, content: Any, *arguments: str) -> Any:
    source = folder / "source.json"
    source.write_text(content if isinstance(content, str) else json.dumps(content))
    return CliRunner().invoke(
        make_app(), ["import", kind, str(source), "--output", str(folder / "site.yaml"), *arguments]
    )


def imported(kind: str, folder: Path, content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The connections of the document that was written, which passes the check; and the result."""
    done = run(kind, folder, content, "--json")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    result = json.loads(done.stdout)
    assert done.exit_code == (1 if result["lost"] else 0)
    report = check_document(load(folder / "site.yaml"))
    assert [str(one) for one in report.findings if one.level == "error"] == []
    document = yaml.safe_load((folder / "site.yaml").read_text())
    return document["components"][COLLECTOR]["configurationUpdate"]["merge"]["connections"], result


def lost(result: dict[str, Any]) -> dict[str, str]:
    return {note["place"]: note["why"] for note in result["notes"] if note["level"] == "lost"}


# --- SiteWise -------------------------------------------------------------------------------------------------------

ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:greengrass-plant-AbCdEf"
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
SOURCE: dict[str, Any] = {
    "name": "Wind Farm #1",
    "endpoint": {
        "certificateTrust": {"type": "X509", "certificateBody": PEM},
        "endpointUri": "opc.tcp://203.0.113.0:49320",
        "securityPolicy": "BASIC256_SHA256",
        "messageSecurityMode": "SIGN_AND_ENCRYPT",
        "identityProvider": {"type": "Username", "usernameSecretArn": ARN},
        "nodeFilterRules": [
            {"action": "INCLUDE", "definition": {"type": "OpcUaRootPath", "rootPath": "/Farm/*/Turbine"}},
        ],
    },
    "measurementDataStreamPrefix": "/eu/north",
    "typeConversions": {"array": "JsonArray", "datetime": "ISO8601String"},
    "destination": {"type": "StreamManager", "streamName": "SiteWise_Stream", "streamBufferSize": 10},
    "propertyGroups": [
        {
            "name": "fast",
            "nodeFilterRuleDefinitions": [{"type": "OpcUaRootPath", "rootPath": "/Farm/1"}],
            "deadband": {"type": "PERCENT", "value": 2.5, "eguMin": -50, "eguMax": 150, "timeoutMilliseconds": 100},
            "scanMode": {"type": "EXCEPTION", "rate": 100, "timestampToReturn": "SOURCE_TIME"},
            "dataQuality": {"allowGoodQuality": True, "allowBadQuality": False, "allowUncertainQuality": True},
            "subscription": {
                "dataChangeTrigger": "STATUS_VALUE_TIMESTAMP",
                "queueSize": 20,
                "publishingIntervalMilliseconds": 500,
                "snapshotFrequencyMilliseconds": 30000,
            },
        },
        {
            "name": "polled",
            "nodeFilterRuleDefinitions": [{"type": "OpcUaRootPath", "rootPath": "/Farm/2/**"}],
            "scanMode": {"type": "POLL", "rate": 2000},
        },
    ],
}  # fmt: skip


def test_a_source_of_sitewise_becomes_a_connection_with_its_groups_and_filters(tmp_path: Path) -> None:
    connections, result = imported("sitewise", tmp_path, {"sources": [SOURCE]})
    assert connections == {
        "Wind-Farm-1": {
            "endpoint": "opc.tcp://203.0.113.0:49320",
            "security": {"policy": "Basic256Sha256", "trust": "Wind-Farm-1.pem"},
            "user": {"name": "user", "password": {"secret": ARN, "key": "password"}},
            "timestamps": "source",
            "groups": {
                "fast": {
                    "samplingInterval": "100ms",
                    "publishingInterval": "500ms",
                    "trigger": "timestamp",
                    "queueSize": 20,
                    "heartbeat": "30s",
                    "deadband": {"percent": 2.5, "low": -50.0, "high": 150.0},
                },
                "polled": {"mode": "poll", "pollInterval": "2s"},
            },
            "select": {
                "fast": {"path": "/Farm/1/**", "prefix": "eu/north/", "group": "fast"},
                "polled": {"path": "/Farm/2/**", "prefix": "eu/north/", "group": "polled"},
                "all": {"path": "/Farm/*/Turbine/**", "prefix": "eu/north/"},
            },
        }
    }
    assert lost(result) == {
        "sources[0].endpoint.identityProvider.type": "the user's name stands in the secret: write it to user.name",
        "sources[0].propertyGroups[0].deadband.timeoutMilliseconds": "has no counterpart: a heartbeat tells that a "
        "value still holds",
        "sources[0].propertyGroups[0].dataQuality.allowBadQuality": "every quality is collected: choose in the "
        "preprocessor or at the sink",
        "sources[0].destination": "where values go is the exporter's matter: configure a sink",
    }
    assert (tmp_path / "Wind-Farm-1.pem").read_text().startswith("-----BEGIN CERTIFICATE-----")


SIMPLE = {
    "name": "line1",
    "endpoint": {
        "certificateTrust": {"type": "TrustAny"},
        "endpointUri": "opc.tcp://10.0.0.5:4840",
        "securityPolicy": "NONE",
        "messageSecurityMode": "NONE",
        "identityProvider": {"type": "Anonymous"},
        "nodeFilterRules": [],
    },
    "measurementDataStreamPrefix": "",
}


@pytest.mark.parametrize("form", ["bare", "answer of the service", "file of the gateway"])
def test_the_simplest_source_is_carried_over_whole_in_every_form_of_the_file(form: str, tmp_path: Path) -> None:
    content: dict[str, Any] = {"sources": [SIMPLE]}
    if form == "answer of the service":
        content = {"gatewayId": "1", "capabilityConfiguration": json.dumps(content)}
    if form == "file of the gateway":
        content = {"gatewayConfiguration": content}
    connections, result = imported("sitewise", tmp_path, content)
    assert connections == {
        "line1": {
            "endpoint": "opc.tcp://10.0.0.5:4840",
            "security": {"policy": "None"},
            "select": {"all": {"path": "/**"}},
        }
    }
    assert result["ok"]
    assert [note["level"] for note in result["notes"]] == ["changed"]  # it stays without protection


def test_a_group_without_rules_is_the_connection_itself_and_trust_in_all_becomes_trust_in_the_first(
    tmp_path: Path,
) -> None:
    endpoint = {**SIMPLE["endpoint"], "securityPolicy": "BASIC256", "messageSecurityMode": "SIGN"}  # type: ignore[dict-item]
    group = {"name": "all", "scanMode": {"type": "EXCEPTION", "rate": "0", "timestampToReturn": "SERVER_TIME"}}
    connections, result = imported(
        "sitewise", tmp_path, {"sources": [{**SIMPLE, "endpoint": endpoint, "propertyGroups": [group]}]}
    )
    line = connections["line1"]
    assert line["security"] == {"mode": "Sign", "trust": "first-use"}
    assert (line["samplingInterval"], line["timestamps"]) == ("0s", "server")
    assert "groups" not in line
    assert list(lost(result)) == ["sources[0].endpoint.securityPolicy"]


def test_a_source_that_cannot_be_used_costs_itself(tmp_path: Path) -> None:
    wrong = {**SIMPLE, "name": "line2", "endpoint": {**SIMPLE["endpoint"], "endpointUri": "http://x"}}  # type: ignore[dict-item]
    connections, result = imported("sitewise", tmp_path, {"sources": [wrong, SIMPLE]})
    assert list(connections) == ["line1"]
    assert "is no OPC UA endpoint: the connection is left out" in lost(result)["connections.line2.endpoint"]


# --- OPC Publisher --------------------------------------------------------------------------------------------------

ENTRY: dict[str, Any] = {
    "EndpointUrl": "opc.tcp://plc:4840/plant",
    "UseSecurity": True,
    "EndpointSecurityMode": "SignAndEncrypt",
    "EndpointSecurityPolicy": "http://opcfoundation.org/UA/SecurityPolicy#Aes256_Sha256_RsaPss",
    "OpcAuthenticationMode": "UsernamePassword",
    "OpcAuthenticationUsername": "operator",
    "OpcAuthenticationPassword": "hunter2",
    "DataSetWriterGroup": "Group",
    "DataSetWriterId": "Writer",
    "DataSetPublishingInterval": 1000,
    "MessagingMode": "PubSub",
    "OpcNodes": [
        {"Id": "nsu=urn:plant;s=Temp", "DisplayName": "Temperature", "OpcSamplingInterval": 250},
        {"Id": "nsu=urn:plant;s=Level", "OpcSamplingIntervalTimespan": "00:00:01"},
        {"ExpandedNodeId": "nsu=urn:plant;i=7", "DataSetFieldId": "Seven", "OpcPublishingInterval": "1000"},
        {
            "Id": "http://plant/UA/#s=Old", "OpcPublishingIntervalTimespan": "00:00:05",
            "QueueSize": 10, "DiscardNew": True,
        },
        {
            "Id": "i=85", "BrowsePath": ["/2:Reactor", "/2:Flow"], "DataChangeTrigger": "StatusValueTimestamp",
            "DeadbandType": "Percent", "DeadbandValue": 1.5, "HeartbeatInterval": 60, "IndexRange": "0:3",
        },
        {"Id": "nsu=urn:plant;s=Polled", "UseCyclicRead": True, "OpcSamplingInterval": 5000},
    ],
}  # fmt: skip


def test_entries_of_publishednodes_become_a_connection_with_groups(tmp_path: Path) -> None:
    connections, result = imported("publishednodes", tmp_path, [ENTRY])
    assert connections == {
        "plc-4840-plant": {
            "endpoint": "opc.tcp://plc:4840/plant",
            "security": {"policy": "Aes256_Sha256_RsaPss"},
            "user": {"name": "operator", "password": {"file": "secrets/plc-4840-plant-password"}},
            "publishingInterval": "1s",
            "groups": {
                "group-1": {"discard": "newest", "publishingInterval": "5s", "queueSize": 10},
                "group-2": {
                    "deadband": {"percent": 1.5},
                    "heartbeat": "1m",
                    "publishingInterval": "1s",
                    "trigger": "timestamp",
                },
                "group-3": {"mode": "poll", "pollInterval": "5s"},
            },
            "tags": {
                "Temperature": {"node": "nsu=urn:plant;s=Temp", "samplingInterval": "250ms"},
                "Level": {"node": "nsu=urn:plant;s=Level"},
                "Seven": {"node": "nsu=urn:plant;i=7"},
                "Old": {"node": "nsu=http://plant/UA/;s=Old", "samplingInterval": "1s", "group": "group-1"},
                "Reactor/Flow": {"path": "/Objects/2:Reactor/2:Flow", "indexRange": "0:3", "group": "group-2"},
                "Polled": {"node": "nsu=urn:plant;s=Polled", "group": "group-3"},
            },
        }
    }
    assert set(lost(result)) == {"[0].OpcAuthenticationPassword", "[0].MessagingMode"}
    everything = "".join(path.read_text() for path in tmp_path.iterdir() if path.name != "source.json")
    assert "hunter2" not in everything + json.dumps(result)


def test_what_is_no_value_of_a_node_is_left_out_and_told(tmp_path: Path) -> None:
    nodes = [
        {"Id": "i=2258"},
        {"Id": "i=2253", "EventFilter": {"TypeDefinitionId": "i=2041"}},
        {"Id": "i=2256", "AttributeId": "DisplayName"},
        {"Id": "somewhere"},
        {"Id": "nsu=urn:plant;s=Pump", "BrowsePath": ["/2:Speed"]},
        {"Id": "i=2259", "Strange": 1, "SkipFirst": True},
    ]
    connections, result = imported(
        "publishednodes", tmp_path, [{"EndpointUrl": "opc.tcp://plc:4840", "OpcNodes": nodes}]
    )
    assert {tag["node"] for tag in connections["plc-4840"]["tags"].values()} == {"i=2258", "i=2259"}
    assert set(lost(result)) == {
        "[0].OpcNodes[1].EventFilter",
        "[0].OpcNodes[2].AttributeId",
        "[0].OpcNodes[3].Id",
        "[0].OpcNodes[4].BrowsePath",
        "[0].OpcNodes[5].Strange",
        "[0].OpcNodes[5].SkipFirst",
    }


def test_entries_of_one_server_become_one_connection_and_old_flat_entries_too(tmp_path: Path) -> None:
    entries = [
        {"EndpointUrl": "opc.tcp://plc:4840", "UseSecurity": False, "NodeId": {"Identifier": f"ns=2;s=T{number}"}}
        for number in range(3)
    ]
    entries.append({"EndpointUrl": "opc.tcp://plc:4840", "UseSecurity": True, "OpcNodes": [{"Id": "i=2258"}]})
    connections, result = imported("publishednodes", tmp_path, entries)
    assert {name: len(one["tags"]) for name, one in connections.items()} == {"plc-4840": 3, "plc-4840-2": 1}
    assert connections["plc-4840"]["security"] == {"policy": "None"}
    assert "security" not in connections["plc-4840-2"]
    assert result["ok"]
    [note] = [note for note in result["notes"] if "namespace index" in note["why"]]
    assert note["count"] == 3


def test_many_tags_go_into_a_table_beside_the_document(tmp_path: Path) -> None:
    nodes = [{"Id": f"nsu=urn:plant;s=T{number}", "QueueSize": 5 if number % 7 else 9} for number in range(140)]
    connections, result = imported(
        "publishednodes", tmp_path, [{"EndpointUrl": "opc.tcp://plc:4840", "OpcNodes": nodes}]
    )
    assert "tags" not in connections["plc-4840"]
    table = tmp_path / connections["plc-4840"]["tagsFile"]
    assert result["files"] == [str(table)]
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 140
    assert {row["group"] for row in rows} == {"", "group-1"}
    assert connections["plc-4840"]["queueSize"] == 5


def test_more_ways_of_collecting_than_a_server_has_subscriptions_are_told(tmp_path: Path) -> None:
    nodes = [{"Id": f"nsu=urn:plant;s=T{number}", "QueueSize": 1 + number} for number in range(30)]
    connections, result = imported(
        "publishednodes", tmp_path, [{"EndpointUrl": "opc.tcp://plc:4840", "OpcNodes": nodes}]
    )
    assert len(connections["plc-4840"]["groups"]) == published_nodes.MOST_GROUPS
    assert len(connections["plc-4840"]["tags"]) == 30
    assert sum(note["count"] for note in result["notes"] if "more than 16 ways" in note["why"]) == 14


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sitewise", "publishednodes"])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "source.json:1:2: not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[" * 300 + "]" * 300, "is nested more than 200 levels deep"),
        ('{"sources": [], "Sources": [], "sources": [1]}', "has the key 'sources' twice in one object"),
        ('[{"EndpointUrl": "opc.tcp://a:1", "OpcNodes": [{"Id": "ns=2;s=a\\u0000b"}]}]', "holds a NUL"),
        ('[{"EndpointUrl": "opc.tcp://a:1", "OpcNodes": [{"Id": "ns=2;s=a\\ud800b"}]}]', "half a character"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(kind: str, content: str, text: str, tmp_path: Path) -> None:
    failure = run(kind, tmp_path, content).exception
    assert isinstance(failure, Failure)
    assert text in str(failure)
    assert not (tmp_path / "site.yaml").exists()


def test_files_that_are_there_are_not_written_over_unless_wanted(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("mine")
    failure = run("sitewise", tmp_path, {"sources": [SIMPLE]}).exception
    assert "there already: name another --output, or say --force" in str(failure)
    assert (tmp_path / "site.yaml").read_text() == "mine"
    assert run("sitewise", tmp_path, {"sources": [SIMPLE]}, "--force").exit_code == 0


def test_people_see_what_was_written_and_what_was_not_carried_over(tmp_path: Path) -> None:
    shown = run("sitewise", tmp_path, {"sources": [SOURCE]}).stdout
    assert "site.yaml has been written" in shown
    assert "Wind-Farm-1: 0 tags, 3 filters" in shown
    assert "4 things could not be carried over" in shown


# --- anything at all ------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def mutated(sample: Any) -> st.SearchStrategy[Any]:
    """The sample with anything in the place of some of its parts."""

    def part(value: Any) -> st.SearchStrategy[Any]:
        if isinstance(value, dict):
            inner: st.SearchStrategy[Any] = st.fixed_dictionaries({key: part(one) for key, one in value.items()})
        elif isinstance(value, list):
            inner = st.tuples(*map(part, value)).map(list)
        else:
            inner = st.just(value)
        return st.integers(0, 9).flatmap(lambda dice: junk if dice == 0 else inner)

    return part(sample)


def always_usable(reader: Any, content: Any) -> None:
    notes = Notes()
    made: Made = reader(content, notes)
    usable(made, notes)
    from opcua_collector.config import Configuration
    from sluice.config import load as load_configuration

    loaded = load_configuration(Configuration, {"connections": made.connections})
    assert not loaded.problems
    files = documents(made, Path("site.yaml"))
    assert yaml.safe_load(files["site.yaml"])
    for note in notes:
        json.dumps(note.as_dict())
        assert note.why
    assert made.connections or notes.lost


@given(junk | mutated({"sources": [SOURCE, SIMPLE]}))
def test_anything_gives_a_document_that_can_be_used_and_words_from_sitewise(content: Any) -> None:
    always_usable(sitewise_source.connections_of, content)


@given(junk | mutated([ENTRY, {"EndpointUrl": "opc.tcp://x:1", "NodeId": {"Identifier": "i=1"}}]))
def test_anything_gives_a_document_that_can_be_used_and_words_from_publishednodes(content: Any) -> None:
    always_usable(published_nodes.connections_of, content)


@pytest.mark.parametrize(
    ("value", "unit", "seconds"),
    [
        (1500, 0.001, 1.5), ("1500", 0.001, 1.5), ("00:00:01", 0.001, 1), ("00:00:00.2500000", 1, 0.25),
        ("1.02:03:04", 1, 93784), ("00:05", 1, 300), ("PT1.5S", 1, 1.5), ("PT2M", 0.001, 120), (0, 1, 0),
        (True, 1, None), ("soon", 1, None), (-1, 1, None), ("nan", 1, None), ([1], 1, None), (10**400, 1, None),
    ],
)  # fmt: skip
def test_times_are_read_in_every_spelling(value: Any, unit: float, seconds: float | None) -> None:
    assert _seconds(value, unit) == (None if seconds is None else pytest.approx(seconds))


@given(st.lists(st.text(max_size=300), max_size=30))
def test_names_of_tags_are_usable_and_there_once(wanted: list[str]) -> None:
    names = TagNames()
    found = [names.free(one) for one in wanted]
    assert len({one.casefold() for one in found}) == len(found)
    assert all(1 <= len(one) <= 256 and one.isprintable() and one == one.strip() for one in found)


@given(st.lists(st.text(max_size=100), max_size=10))
def test_names_of_connections_are_usable_and_there_once(wanted: list[str]) -> None:
    import re

    found: list[str] = []
    for one in wanted:
        found.append(connection_name(one, found))
    assert len({one.casefold() for one in found}) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", one) for one in found)


@pytest.mark.parametrize("hidden", [4711, ["4711"], {"value": "4711"}, {"Password": [{"text": "4711"}]}])
@pytest.mark.parametrize("kind", ["sitewise", "publishednodes"])
def test_what_stands_under_the_name_of_a_secret_is_not_shown_in_whatever_form(
    kind: str, hidden: Any, tmp_path: Path
) -> None:
    entry = {
        "EndpointUrl": "opc.tcp://a:1",
        "OpcNodes": [{"Id": "i=85"}],
        "Password": hidden,
        "More": {"token": hidden},
    }
    content = [entry] if kind == "publishednodes" else {"sources": [{**SIMPLE, **entry}]}
    done = run(kind, tmp_path, content, "--json")
    written = "".join(path.read_text() for path in tmp_path.iterdir() if path.name != "source.json")
    assert "***" in done.stdout
    assert "4711" not in done.stdout + written


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_a_table_gives_back_the_node_that_was_written_into_it(name: str) -> None:
    node = f"nsu=urn:x;s=.{name}."
    parsed = parse(table_text([("tag", "node"), ("T", node), ("Other", "i=85")]).encode(), (), "tags.csv")
    assert {tag: one.node for tag, one in parsed.tags.items()} == {"T": node, "Other": "i=85"}


@pytest.mark.parametrize("kind", ["sitewise", "publishednodes"])
def test_a_password_over_a_channel_without_protection_stays_so_and_that_is_told(kind: str, tmp_path: Path) -> None:
    entry: dict[str, Any] = {"EndpointUrl": "opc.tcp://a:1", "OpcNodes": [{"Id": "i=85"}], "UseSecurity": False}
    entry |= {"OpcAuthenticationMode": "UsernamePassword", "OpcAuthenticationUsername": "operator"}
    identity = {
        "type": "Username",
        "usernameSecretArn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:s-AbCdEf",
    }
    source: dict[str, Any] = json.loads(json.dumps(SIMPLE))
    source["endpoint"]["identityProvider"] = identity
    connections, result = imported(kind, tmp_path, [entry] if kind == "publishednodes" else {"sources": [source]})
    [made] = connections.values()
    assert made["security"] == {"policy": "None"}
    assert made["user"]["allowUnencrypted"] is True
    assert [note for note in result["notes"] if "is sent where others can read it" in note["why"]]
