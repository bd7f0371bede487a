"""Every mistake that configuration can hold, in the words of `sluice check` and of the status, which are the same.

Each row is a piece of configuration and the whole text about it. The same piece is given to the component itself, run
by the library's runner on a local bus that nobody else is on, and its status must say the same, word for word. That the
table is complete is a test as well: each limit of the models and each refusal in the sources occurs in some row.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.document import load
from cli.settings_table import limits_of
from cli.site_check import check_document
from cli.suite import members
from sluice.component import Component, Runner
from sluice.config import Problem

from .mistakes_of_pi import MISTAKES
from .mistakes_of_preprocessor import MISTAKES as MISTAKES_OF_FLOWS

COLLECTOR = "io.sluice.OpcUaCollector"
EXPORTER = "io.sluice.StreamExporter"
PI = "io.sluice.PiCollector"
PREPROCESSOR = "io.sluice.Preprocessor"
NODE = "ns=2;s=x"
LONG = "x" * 300


@dataclass(frozen=True)
class Row:
    """A component's configuration with one mistake in it, and what is said about it."""

    component: str
    merge: dict[str, Any]
    text: str
    files: dict[str, str | bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text[:90].partition(":")[0]


def connection(**settings: Any) -> dict[str, Any]:
    return {"connections": {"line1": {"endpoint": "opc.tcp://127.0.0.1:1", **settings}}}


def tag(**settings: Any) -> dict[str, Any]:
    return connection(tags={"Temp": settings})


def group(**settings: Any) -> dict[str, Any]:
    return connection(groups={"fast": settings})


def filter_(**settings: Any) -> dict[str, Any]:
    return connection(select={"all": settings})


def sink(kind: str = "s3", **settings: Any) -> dict[str, Any]:
    needed = {"s3": {"bucket": "plant"}, "kinesis": {"kinesisStream": "plant"}, "sitewise": {}}[kind]
    given = {"type": kind, **needed, **settings}
    return {"sinks": {"out": {name: value for name, value in given.items() if value is not ...}}}


ROWS = [
    Row(
        COLLECTOR,
        {"configVersion": 0},
        "configVersion = 0 is too small: use 1 or more (the default of configVersion applies)",
    ),
    Row(
        COLLECTOR,
        {"configVersion": 2},
        "configVersion = 2 was written for a newer version of this component: deploy that version again, or a "
        'configuration of layout 1 together with RESET "" (the defaults apply)',
    ),
    Row(
        COLLECTOR,
        {"configVersion": "one"},
        'configVersion = "one" is not a whole number: write a whole number such as 5, or leave it out for 1 '
        "(the default of configVersion applies)",
    ),
    Row(
        COLLECTOR,
        {"logLevel": "LOUD"},
        'logLevel = "LOUD" is no log level: use one of: DEBUG, INFO, WARNING, ERROR (the default of logLevel applies)',
    ),
    Row(
        COLLECTOR,
        {"statusInterval": "100ms"},
        'statusInterval = "100ms" is too small: use 1s or more (the default of statusInterval applies)',
    ),
    Row(
        COLLECTOR,
        {"statusInterval": "2h"},
        'statusInterval = "2h" is too large: use 1h or less (the default of statusInterval applies)',
    ),
    Row(
        COLLECTOR,
        {"statusInterval": "soon"},
        'statusInterval = "soon" is not a duration: write a number with a unit: 500ms, 5s, 2m, 1h or 7d (the '
        "default of statusInterval applies)",
    ),
    Row(
        COLLECTOR,
        {"statusInterval": "5 parsecs"},
        "statusInterval = \"5 parsecs\" has the unknown unit 'parsecs': write a number with a unit: 500ms, 5s, "
        "2m, 1h or 7d (the default of statusInterval applies)",
    ),
    Row(
        COLLECTOR,
        {"statusInterval": "0,5s"},
        'statusInterval = "0,5s" has a decimal comma: write 0.5s (the default of statusInterval applies)',
    ),
    Row(
        COLLECTOR,
        {"statusInterval": True},
        "statusInterval = true is not a duration: write a number with a unit: 500ms, 5s, 2m, 1h or 7d (the "
        "default of statusInterval applies)",
    ),
    Row(
        COLLECTOR,
        {"maxMessageBytes": "20MB"},
        'maxMessageBytes = "20MB" is outside 1KB to 16MB: use auto, or 7000 for a core that runs nucleus lite '
        "and up to 16MB for one that does not (the default of maxMessageBytes applies)",
    ),
    Row(
        COLLECTOR,
        {"maxMessageBytes": 10},
        "maxMessageBytes = 10 is outside 1KB to 16MB: use auto, or 7000 for a core that runs nucleus lite and "
        "up to 16MB for one that does not (the default of maxMessageBytes applies)",
    ),
    Row(
        COLLECTOR,
        {"maxMessageBytes": "7 apples"},
        "maxMessageBytes = \"7 apples\" has the unknown unit 'apples': write a number of bytes or a size with a "
        "unit: 7000, 64KB, 16MB or 1GiB (the default of maxMessageBytes applies)",
    ),
    Row(
        COLLECTOR,
        {"maxMessageBytes": "1,5KB"},
        'maxMessageBytes = "1,5KB" has a decimal comma: write 1.5KB (the default of maxMessageBytes applies)',
    ),
    Row(
        COLLECTOR,
        {"maxMessageBytes": "lots"},
        'maxMessageBytes = "lots" is not a size: write a number of bytes or a size with a unit: 7000, 64KB, '
        "16MB or 1GiB (the default of maxMessageBytes applies)",
    ),
    Row(
        COLLECTOR,
        {"compress": "perhaps"},
        'compress = "perhaps" is neither true nor false: write true or false, or leave it out for true (the '
        "default of compress applies)",
    ),
    Row(
        COLLECTOR,
        {"cloudCommands": "status"},
        'cloudCommands = "status" is not a list: write a list such as [a, b], or leave it out for ["status", '
        '"backfill"] (the default of cloudCommands applies)',
    ),
    Row(
        COLLECTOR,
        {"cloudCommands": ["stauts"]},
        'cloudCommands[0] = "stauts" is no command: use one of: status, backfill, forget, explain, browse, read, '
        "refresh; did you mean status?; or [] to allow none (the default of cloudCommands applies)",
    ),
    Row(
        COLLECTOR,
        {"cloudCommands": ["status"] * 17},
        'cloudCommands = ["status", "status", "status", "status", "status", "status", "status", "status", '
        '"status", "status", "status", "status",… (170 characters) has too many entries: give at most 16 (the '
        "default of cloudCommands applies)",
    ),
    Row(
        COLLECTOR,
        {"validateDeployments": "perhaps"},
        'validateDeployments = "perhaps" is neither true nor false: write true or false, or leave it out for '
        "false (the default of validateDeployments applies)",
    ),
    Row(
        COLLECTOR,
        {"outbox": "1GB"},
        'outbox = "1GB" is not a map of settings: write key: value lines below it (the default of outbox applies)',
    ),
    Row(
        COLLECTOR,
        {"outbox": {"maxSize": "1MB"}},
        'outbox.maxSize = "1MB" is too small: use 8MB or more (the default of outbox applies)',
    ),
    Row(
        COLLECTOR,
        {"outbox": {"maxSize": "3000GB"}},
        'outbox.maxSize = "3000GB" is too large: use 2000GB or less (the default of outbox applies)',
    ),
    Row(
        COLLECTOR,
        {"outbox": {"maxSize": "10.5B"}},
        'outbox.maxSize = "10.5B" is not a whole number of bytes: write a number of bytes or a size with a '
        "unit: 7000, 64KB, 16MB or 1GiB (the default of outbox applies)",
    ),
    Row(
        COLLECTOR,
        {"outbox": {"maxAge": "1s"}},
        'outbox.maxAge = "1s" is too small: use 1m or more (the default of outbox applies)',
    ),
    Row(
        COLLECTOR,
        {"outbox": {"minFreeDisk": "-1"}},
        'outbox.minFreeDisk = "-1" is not a size: write a number of bytes or a size with a unit: 7000, 64KB, '
        "16MB or 1GiB (the default of outbox applies)",
    ),
    Row(
        COLLECTOR,
        {"outbox": {"commitInterval": "1ms"}},
        'outbox.commitInterval = "1ms" is too small: use 10ms or more (the default of outbox applies)',
    ),
    Row(
        COLLECTOR,
        {"outbox": {"commitInterval": "1s"}},
        'outbox.commitInterval = "1s" is too large: use 250ms or less (the default of outbox applies)',
    ),
    Row(
        COLLECTOR,
        {"outbox": {"consumers": ["two words"]}},
        'outbox.consumers[0] = "two words" is not written as it must be: it must match '
        "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$ (the default of outbox applies)",
    ),
    Row(
        COLLECTOR,
        {"outbox": {"consumers": [f"c{number}" for number in range(17)]}},
        'outbox.consumers = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "c10", "c11", "c12", '
        '"c13", "c14", "c15", "c16"] has too many entries: give at most 16 (the default of outbox applies)',
    ),
    Row(
        COLLECTOR,
        {"outbox": {"consumers": "stream-exporter"}},
        'outbox.consumers = "stream-exporter" is not a list: write a list such as [a, b] (the default of outbox'
        " applies)",
    ),
    Row(
        COLLECTOR,
        {"outbox": {"consumerExpiry": "1s"}},
        'outbox.consumerExpiry = "1s" is too small: use 1m or more (the default of outbox applies)',
    ),
    Row(
        COLLECTOR,
        {"outbox": {"maxSiez": "2GB"}},
        'outbox.maxSiez = "2GB" is an unknown key: did you mean maxSize? A merge cannot remove it: deploy with '
        'RESET "/outbox/maxSiez" (it is ignored)',
    ),
    Row(
        COLLECTOR,
        {"conections": {}},
        "conections = {} is an unknown key: did you mean connections? A merge cannot remove it: deploy with "
        'RESET "/conections" (it is ignored)',
    ),
    Row(
        COLLECTOR,
        {"connections": ["line1"]},
        'connections = ["line1"] is not a map of settings: write key: value lines below it (the default of '
        "connections applies)",
    ),
    Row(
        COLLECTOR,
        {"connections": {"line 1": {"endpoint": "opc.tcp://127.0.0.1:1"}}},
        'connections["line 1"] is not usable as a name in topics: use 1 to 64 letters, digits, dots, hyphens '
        'and underscores, beginning with a letter or digit (connections["line 1"] is not applied)',
    ),
    Row(
        COLLECTOR,
        {
            "connections": {
                "line1": {"endpoint": "opc.tcp://127.0.0.1:1"},
                "Line1": {"endpoint": "opc.tcp://127.0.0.1:1"},
            }
        },
        "connections.Line1 is the same name as line1 to Greengrass, which ignores case: rename one of the two "
        'and remove this one with RESET "/connections/Line1" (connections.Line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        {"connections": {"line1": "opc.tcp://127.0.0.1:1"}},
        'connections.line1 = "opc.tcp://127.0.0.1:1" is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        {"connections": {"line1": {}}},
        "connections.line1.endpoint is required: add it, for example opc.tcp://192.168.0.10:4840 "
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(endpoint="opc.tcp://operator:secret@127.0.0.1:1"),
        'connections.line1.endpoint = "opc.tcp://***@127.0.0.1:1" holds a login: take user and password out of '
        "it and write them under user: {name: …, password: {secret: …}} (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(endpoint="http://127.0.0.1"),
        'connections.line1.endpoint = "http://127.0.0.1" is no OPC UA endpoint: write opc.tcp://<host>:<port>, '
        "and the path behind it if the server has one (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(endpont="x"),
        'connections.line1.endpont = "x" is an unknown key: did you mean endpoint? A merge cannot remove it: '
        'deploy with RESET "/connections/line1/endpont" (it is ignored)',
    ),
    Row(
        COLLECTOR,
        connection(security="none"),
        'connections.line1.security = "none" is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(security={"policy": "Basic128"}),
        'connections.line1.security.policy = "Basic128" is not one of the allowed words: use one of: auto, '
        "None, Basic256Sha256, Aes128_Sha256_RsaOaep, Aes256_Sha256_RsaPss (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(security={"mode": "Encrypt"}),
        'connections.line1.security.mode = "Encrypt" is not one of the allowed words: use one of: '
        "SignAndEncrypt, Sign; did you mean SignAndEncrypt? (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(user="operator"),
        'connections.line1.user = "operator" is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(user={}),
        "connections.line1.user = {} needs exactly one of name and certificate: give the name, and the password if it "
        "has one, or the certificate and its key (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(user={"name": ""}),
        'connections.line1.user = {"name": ""} needs exactly one of name and certificate: give the name, and the '
        "password if it has one, or the certificate and its key (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(user={"name": "o", "password": "hunter2"}),
        'connections.line1.user.password = "***" holds the secret itself, which every component on the core '
        "could read: write a reference, {secret: <name or ARN>, key: password} or {file: <path of a file of "
        "mode 0600>}, and change the secret: it is in the deployment's history (connections.line1 is not "
        "applied)",
    ),
    Row(
        COLLECTOR,
        connection(user={"name": "o", "password": {}}),
        'connections.line1.user.password = "***" must name exactly one of secret and file: write {secret: <name'
        " or ARN>, key: password} or {file: <path of a file of mode 0600>} (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(user={"name": "o", "password": {"secret": "a", "file": "b"}}),
        'connections.line1.user.password = "***" must name exactly one of secret and file: write {secret: <name'
        " or ARN>, key: password} or {file: <path of a file of mode 0600>} (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(user={"name": "o", "allowUnencrypted": "perhaps"}),
        'connections.line1.user.allowUnencrypted = "perhaps" is neither true nor false: write true or false, or'
        " leave it out for false (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(publishingInterval="1ms"),
        'connections.line1.publishingInterval = "1ms" is too small: use 10ms or more (connections.line1 is not '
        "applied)",
    ),
    Row(
        COLLECTOR,
        connection(publishingInterval="2h"),
        'connections.line1.publishingInterval = "2h" is too large: use 1h or less (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(samplingInterval="2h"),
        'connections.line1.samplingInterval = "2h" is too large: use 1h or less (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(samplingInterval="-1s"),
        'connections.line1.samplingInterval = "-1s" is not a duration: write a number with a unit: 500ms, 5s, '
        "2m, 1h or 7d (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(queueSize=0),
        "connections.line1.queueSize = 0 is no queue size: use auto, or a number from 1 to 1000000 of values "
        "that the server keeps per tag (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(queueSize="0,5"),
        'connections.line1.queueSize = "0,5" has a decimal comma: write 0.5 (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(keepAlive="10ms"),
        'connections.line1.keepAlive = "10ms" is too small: use 100ms or more (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(keepAlive="1h"),
        'connections.line1.keepAlive = "1h" is too large: use 10m or less (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(requestTimeout="100ms"),
        'connections.line1.requestTimeout = "100ms" is too small: use 200ms or more (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(requestTimeout="5m"),
        'connections.line1.requestTimeout = "5m" is too large: use 2m or less (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(asset={"site": "a"}),
        'connections.line1.asset = {"site": "a"} is not text: write a path such as site/area/line1 (connections.line1 '
        "is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(tags=["Temp"]),
        'connections.line1.tags = ["Temp"] is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(tags={"Temp": NODE}),
        'connections.line1.tags.Temp = "ns=2;s=x" is not a map of settings: write key: value lines below it '
        "(connections.line1.tags.Temp is not applied)",
    ),
    Row(
        COLLECTOR,
        tag(),
        "connections.line1.tags.Temp = {} needs exactly one of node and path: give the node id (node) or the "
        "browse path (path) (connections.line1.tags.Temp is not applied)",
    ),
    Row(
        COLLECTOR,
        tag(node=NODE, path="/Objects/x"),
        'connections.line1.tags.Temp = {"node": "ns=2;s=x", "path": "/Objects/x"} needs exactly one of node and'
        " path: give the node id (node) or the browse path (path) (connections.line1.tags.Temp is not applied)",
    ),
    Row(
        COLLECTOR,
        tag(node="Temperature"),
        'connections.line1.tags.Temp.node = "Temperature" is no node id: write it as "nsu=<namespace '
        'URI>;s=<name>", or i=, g= or b= in the place of s= (connections.line1.tags.Temp is not applied)',
    ),
    Row(
        COLLECTOR,
        tag(node="ns=70000;s=x"),
        'connections.line1.tags.Temp.node = "ns=70000;s=x" has the namespace index 70000, above 65535: write it'
        ' as "nsu=<namespace URI>;s=<name>", or i=, g= or b= in the place of s= (connections.line1.tags.Temp is'
        " not applied)",
    ),
    Row(
        COLLECTOR,
        tag(node="ns=2;i=seven"),
        'connections.line1.tags.Temp.node = "ns=2;i=seven" has an identifier that is no number below '
        '4294967296: write it as "nsu=<namespace URI>;s=<name>", or i=, g= or b= in the place of s= '
        "(connections.line1.tags.Temp is not applied)",
    ),
    Row(
        COLLECTOR,
        tag(node="ns=2;g=123"),
        'connections.line1.tags.Temp.node = "ns=2;g=123" has an identifier that is no Guid: write it as '
        '"nsu=<namespace URI>;s=<name>", or i=, g= or b= in the place of s= (connections.line1.tags.Temp is not'
        " applied)",
    ),
    Row(
        COLLECTOR,
        tag(node="ns=2;b=%%"),
        'connections.line1.tags.Temp.node = "ns=2;b=%%" has no base64: write it as "nsu=<namespace '
        'URI>;s=<name>", or i=, g= or b= in the place of s= (connections.line1.tags.Temp is not applied)',
    ),
    Row(
        COLLECTOR,
        tag(node="ns=2;s="),
        'connections.line1.tags.Temp.node = "ns=2;s=" has an empty identifier: write it as "nsu=<namespace '
        'URI>;s=<name>", or i=, g= or b= in the place of s= (connections.line1.tags.Temp is not applied)',
    ),
    Row(
        COLLECTOR,
        tag(path="Objects/x"),
        'connections.line1.tags.Temp.path = "Objects/x" is no browse path from the root, because it does not '
        'begin with /: write it from the root, such as "/Objects/2:Plant/2:Temperature", with namespace indexes'
        " (connections.line1.tags.Temp is not applied)",
    ),
    Row(
        COLLECTOR,
        tag(path="/Objects//x"),
        'connections.line1.tags.Temp.path = "/Objects//x" has an empty step: write it from the root, such as '
        '"/Objects/2:Plant/2:Temperature", with namespace indexes (connections.line1.tags.Temp is not applied)',
    ),
    Row(
        COLLECTOR,
        tag(path="/"),
        'connections.line1.tags.Temp.path = "/" has an empty step: write it from the root, such as '
        '"/Objects/2:Plant/2:Temperature", with namespace indexes (connections.line1.tags.Temp is not applied)',
    ),
    Row(
        COLLECTOR,
        tag(path="/x" * 70),
        'connections.line1.tags.Temp.path = "/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x'
        '/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x… (140 characters)" has more than 64 steps: '
        'write it from the root, such as "/Objects/2:Plant/2:Temperature", with namespace indexes '
        "(connections.line1.tags.Temp is not applied)",
    ),
    Row(
        COLLECTOR,
        tag(node=NODE, type="float"),
        'connections.line1.tags.Temp.type = "float" is not one of the allowed words: use one of: auto, double, '
        "integer, boolean, string (connections.line1.tags.Temp is not applied)",
    ),
    Row(
        COLLECTOR,
        tag(node=NODE, unit=["degC"]),
        'connections.line1.tags.Temp.unit = ["degC"] is not text: write text, in quotes if it has special '
        "characters (connections.line1.tags.Temp is not applied)",
    ),
    Row(
        COLLECTOR,
        tag(node=NODE, samplingInterval="2h"),
        'connections.line1.tags.Temp.samplingInterval = "2h" is too large: use 1h or less '
        "(connections.line1.tags.Temp is not applied)",
    ),
    Row(
        COLLECTOR,
        tag(node=NODE, unti="degC"),
        'connections.line1.tags.Temp.unti = "degC" is an unknown key: did you mean unit? A merge cannot remove '
        'it: deploy with RESET "/connections/line1/tags/Temp/unti" (it is ignored)',
    ),
    Row(
        COLLECTOR,
        connection(tags={"": {"node": NODE}}),
        'connections.line1.tags[""] is not usable as a name: use 1 to 256 printable characters without blanks '
        'at the ends (connections.line1.tags[""] is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(tags={LONG: {"node": NODE}}),
        f"connections.line1.tags.{LONG} is not usable as a name: use 1 to 256 printable characters without blanks at "
        f"the ends (connections.line1.tags.{LONG} is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(tags={"a\tb": {"node": NODE}}),
        'connections.line1.tags["a\\tb"] is not usable as a name: use 1 to 256 printable characters without '
        'blanks at the ends (connections.line1.tags["a\\tb"] is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(tags={"Temp": {"node": NODE}, "TEMP": {"node": NODE}}),
        "connections.line1.tags.TEMP is the same name as Temp to Greengrass, which ignores case: rename one of "
        'the two and remove this one with RESET "/connections/line1/tags/TEMP" (connections.line1.tags.TEMP is '
        "not applied)",
    ),
    Row(
        COLLECTOR,
        connection(security={"checkHostName": "perhaps"}),
        'connections.line1.security.checkHostName = "perhaps" is neither true nor false: write true or false, or '
        "leave it out for true (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(security={"allowExpired": "perhaps"}),
        'connections.line1.security.allowExpired = "perhaps" is neither true nor false: write true or false, or '
        "leave it out for false (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(security={"requireRevocationList": "perhaps"}),
        'connections.line1.security.requireRevocationList = "perhaps" is neither true nor false: write true or '
        "false, or leave it out for false (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(user={"name": "o", "certificate": "user.der"}),
        'connections.line1.user = {"name": "o", "certificate": "user.der"} needs exactly one of name and '
        "certificate: give the name, and the password if it has one, or the certificate and its key "
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(user={"certificate": "user.der"}),
        'connections.line1.user = {"certificate": "user.der"} has a certificate, which goes with a key and without'
        " a password: give key: {file: <path of a file of mode 0600>} and take password out (connections.line1 is "
        "not applied)",
    ),
    Row(
        COLLECTOR,
        connection(user={"certificate": "user.der", "key": {"file": "user.pem"}, "password": {"file": "p"}}),
        'connections.line1.user = {"certificate": "user.der", "key": "***", "password": "***"} has a certificate, '
        "which goes with a key and without a password: give key: {file: <path of a file of mode 0600>} and take "
        "password out (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(user={"name": "o", "key": {"file": "user.pem"}}),
        'connections.line1.user = {"name": "o", "key": "***"} has a key without its certificate: give the '
        "certificate in the place of the name, or take the key out (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(user={"certificate": "user.der", "key": "-----BEGIN PRIVATE KEY-----"}),
        'connections.line1.user.key = "***" holds the secret itself, which every component on the core could read:'
        " write a reference, {secret: <name or ARN>, key: password} or {file: <path of a file of mode 0600>}, and "
        "change the secret: it is in the deployment's history (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(mode="push"),
        'connections.line1.mode = "push" is not one of the allowed words: use one of: subscribe, poll '
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(pollInterval="10ms"),
        'connections.line1.pollInterval = "10ms" is too small: use 50ms or more (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(pollInterval="2d"),
        'connections.line1.pollInterval = "2d" is too large: use 1d or less (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(outage="100ms"),
        'connections.line1.outage = "100ms" is too small: use 1s or more (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(outage="2h"),
        'connections.line1.outage = "2h" is too large: use 1h or less (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(discard="middle"),
        'connections.line1.discard = "middle" is not one of the allowed words: use one of: oldest, newest '
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(trigger="always"),
        'connections.line1.trigger = "always" is not one of the allowed words: use one of: status, value, '
        "timestamp (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(deadband=0.5),
        "connections.line1.deadband = 0.5 is not a map of settings: write key: value lines below it "
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(deadband={"absolute": 0}),
        "connections.line1.deadband.absolute = 0 is too small: use more than 0.0 (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(deadband={"percent": 0}),
        "connections.line1.deadband.percent = 0 is too small: use more than 0.0 (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(deadband={"percent": 101}),
        "connections.line1.deadband.percent = 101 is too large: use 100.0 or less (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(heartbeat="100ms"),
        'connections.line1.heartbeat = "100ms" is too small: use 1s or more (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(heartbeat="2d"),
        'connections.line1.heartbeat = "2d" is too large: use 1d or less (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(deadband={}),
        "connections.line1.deadband = {} needs exactly one of absolute and percent: give the width in units "
        "(absolute) or percent of the range (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(deadband={"absolute": 1, "percent": 1}),
        'connections.line1.deadband = {"absolute": 1, "percent": 1} needs exactly one of absolute and percent: '
        "give the width in units (absolute) or percent of the range (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(deadband={"percent": 1, "low": 0}),
        'connections.line1.deadband = {"percent": 1, "low": 0} has no range: give low and high, low below high, or'
        " none of them (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(deadband={"percent": 1, "low": 10, "high": 0}),
        'connections.line1.deadband = {"percent": 1, "low": 10, "high": 0} has no range: give low and high, low '
        "below high, or none of them (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(timestamps="gateway"),
        'connections.line1.timestamps = "gateway" is not one of the allowed words: use one of: source, server '
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(load=5),
        "connections.line1.load = 5 is not a map of settings: write key: value lines below it (connections.line1 "
        "is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(load={"requestsPerSecond": 0.5}),
        "connections.line1.load.requestsPerSecond = 0.5 is too small: use 1.0 or more (connections.line1 is not "
        "applied)",
    ),
    Row(
        COLLECTOR,
        connection(load={"requestsPerSecond": 20000}),
        "connections.line1.load.requestsPerSecond = 20000 is too large: use 10000.0 or less (connections.line1 is "
        "not applied)",
    ),
    Row(
        COLLECTOR,
        connection(load={"batch": 0}),
        "connections.line1.load.batch = 0 is too small: use 1 or more (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(load={"batch": 20000}),
        "connections.line1.load.batch = 20000 is too large: use 10000 or less (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(load={"parallel": 0}),
        "connections.line1.load.parallel = 0 is too small: use 1 or more (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(load={"parallel": 17}),
        "connections.line1.load.parallel = 17 is too large: use 16 or less (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(history=True),
        "connections.line1.history = true is not a map of settings: write key: value lines below it "
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(history={"read": "perhaps"}),
        'connections.line1.history.read = "perhaps" is neither true nor false: write true or false, or leave it '
        "out for true (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(history={"maxWindow": "10s"}),
        'connections.line1.history.maxWindow = "10s" is too small: use 1m or more (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(history={"maxWindow": "31d"}),
        'connections.line1.history.maxWindow = "31d" is too large: use 30d or less (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(history={"valuesPerSecond": 1}),
        "connections.line1.history.valuesPerSecond = 1 is too small: use 10 or more (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(history={"valuesPerSecond": 20000000}),
        "connections.line1.history.valuesPerSecond = 20000000 is too large: use 10000000 or less "
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(browse=False),
        "connections.line1.browse = false is not a map of settings: write key: value lines below it "
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(browse={"refresh": "10s"}),
        'connections.line1.browse.refresh = "10s" is too small: use 1m or more (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(browse={"refresh": "8d"}),
        'connections.line1.browse.refresh = "8d" is too large: use 7d or less (connections.line1 is not applied)',
    ),
    Row(
        COLLECTOR,
        connection(browse={"maxNodes": 10}),
        "connections.line1.browse.maxNodes = 10 is too small: use 100 or more (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(browse={"maxNodes": 2000000}),
        "connections.line1.browse.maxNodes = 2000000 is too large: use 1000000 or less (connections.line1 is not "
        "applied)",
    ),
    Row(
        COLLECTOR,
        connection(groups=["fast"]),
        'connections.line1.groups = ["fast"] is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(groups={"fast": "100ms"}),
        'connections.line1.groups.fast = "100ms" is not a map of settings: write key: value lines below it '
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(groups={"fast group": {}}),
        'connections.line1.groups["fast group"] is not usable as a name in topics: use 1 to 64 letters, digits, '
        'dots, hyphens and underscores, beginning with a letter or digit (connections.line1.groups["fast group"] '
        "is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(groups={"fast": {"publishingIntervall": "1s"}}),
        'connections.line1.groups.fast.publishingIntervall = "1s" is an unknown key: did you mean '
        "publishingInterval? A merge cannot remove it: deploy with RESET "
        '"/connections/line1/groups/fast/publishingIntervall" (it is ignored)',
    ),
    Row(
        COLLECTOR,
        group(publishingInterval="1ms"),
        'connections.line1.groups.fast.publishingInterval = "1ms" is too small: use 10ms or more '
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(publishingInterval="2h"),
        'connections.line1.groups.fast.publishingInterval = "2h" is too large: use 1h or less '
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(samplingInterval="-1s"),
        'connections.line1.groups.fast.samplingInterval = "-1s" is not a duration: write a number with a unit: '
        "500ms, 5s, 2m, 1h or 7d (connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(samplingInterval="2h"),
        'connections.line1.groups.fast.samplingInterval = "2h" is too large: use 1h or less '
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(queueSize=0),
        "connections.line1.groups.fast.queueSize = 0 is no queue size: use auto, or a number from 1 to 1000000 of "
        "values that the server keeps per tag (connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(mode="push"),
        'connections.line1.groups.fast.mode = "push" is not one of the allowed words: use one of: subscribe, poll '
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(pollInterval="10ms"),
        'connections.line1.groups.fast.pollInterval = "10ms" is too small: use 50ms or more '
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(pollInterval="2d"),
        'connections.line1.groups.fast.pollInterval = "2d" is too large: use 1d or less '
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(outage="100ms"),
        'connections.line1.groups.fast.outage = "100ms" is too small: use 1s or more '
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(outage="2h"),
        'connections.line1.groups.fast.outage = "2h" is too large: use 1h or less (connections.line1.groups.fast '
        "is not applied)",
    ),
    Row(
        COLLECTOR,
        group(discard="middle"),
        'connections.line1.groups.fast.discard = "middle" is not one of the allowed words: use one of: oldest, '
        "newest (connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(trigger="always"),
        'connections.line1.groups.fast.trigger = "always" is not one of the allowed words: use one of: status, '
        "value, timestamp (connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(deadband=0.5),
        "connections.line1.groups.fast.deadband = 0.5 is not a map of settings: write key: value lines below it "
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(deadband={"absolute": 0}),
        "connections.line1.groups.fast.deadband.absolute = 0 is too small: use more than 0.0 "
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(deadband={"percent": 0}),
        "connections.line1.groups.fast.deadband.percent = 0 is too small: use more than 0.0 "
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(deadband={"percent": 101}),
        "connections.line1.groups.fast.deadband.percent = 101 is too large: use 100.0 or less "
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(heartbeat="100ms"),
        'connections.line1.groups.fast.heartbeat = "100ms" is too small: use 1s or more '
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        group(heartbeat="2d"),
        'connections.line1.groups.fast.heartbeat = "2d" is too large: use 1d or less '
        "(connections.line1.groups.fast is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(select=["/Plant/**"]),
        'connections.line1.select = ["/Plant/**"] is not a map of settings: write key: value lines below it '
        "(connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(select={"all": "/Plant/**"}),
        'connections.line1.select.all = "/Plant/**" is not a map of settings: write key: value lines below it '
        "(connections.line1.select.all is not applied)",
    ),
    Row(
        COLLECTOR,
        filter_(),
        "connections.line1.select.all.path is required: add it, for example /Plant/** "
        "(connections.line1.select.all is not applied)",
    ),
    Row(
        COLLECTOR,
        filter_(path="Plant/**"),
        'connections.line1.select.all.path = "Plant/**" is no filter, because it does not begin with /: write the '
        "browse names from Objects down, such as /Plant/*/Temperature, or /Plant/** for all below Plant "
        "(connections.line1.select.all is not applied)",
    ),
    Row(
        COLLECTOR,
        filter_(path="/a" * 65),
        f'connections.line1.select.all.path = "{"/a" * 60}… (130 characters)" has more than 64 steps: write fewer '
        "steps: ** stands for any number of them (connections.line1.select.all is not applied)",
    ),
    Row(
        COLLECTOR,
        filter_(path="/Plant//Temp"),
        'connections.line1.select.all.path = "/Plant//Temp" has an empty step: take one of the two slashes away '
        "(connections.line1.select.all is not applied)",
    ),
    Row(
        COLLECTOR,
        filter_(path="/**", exclude="/x"),
        'connections.line1.select.all.exclude = "/x" is not a list: write a list such as [a, b] '
        "(connections.line1.select.all is not applied)",
    ),
    Row(
        COLLECTOR,
        filter_(path="/**", exclude=["/x"] * 65),
        'connections.line1.select.all.exclude = ["/x", "/x", "/x", "/x", "/x", "/x", "/x", "/x", "/x", "/x", "/x",'
        ' "/x", "/x", "/x", "/x", "/x", "/x", "/x", "/x", "/x",… (390 characters) has too many entries: give at '
        "most 64 (connections.line1.select.all is not applied)",
    ),
    Row(
        COLLECTOR,
        filter_(path="/**", exclude=["x"]),
        'connections.line1.select.all.exclude[0] = "x" is no filter, because it does not begin with /: write the '
        "browse names from Objects down, such as /Plant/*/Temperature, or /Plant/** for all below Plant "
        "(connections.line1.select.all is not applied)",
    ),
    Row(
        COLLECTOR,
        filter_(path="/**", dataType=["Double"] * 33),
        'connections.line1.select.all.dataType = ["Double", "Double", "Double", "Double", "Double", "Double", '
        '"Double", "Double", "Double", "Double", "Double", "Double",… (330 characters) has too many entries: give '
        "at most 32 (connections.line1.select.all is not applied)",
    ),
    Row(
        COLLECTOR,
        filter_(path="/**", typeDefinition=["T"] * 33),
        'connections.line1.select.all.typeDefinition = ["T", "T", "T", "T", "T", "T", "T", "T", "T", "T", "T", '
        '"T", "T", "T", "T", "T", "T", "T", "T", "T", "T", "T", "T", "T",… (165 characters) has too many entries: '
        "give at most 32 (connections.line1.select.all is not applied)",
    ),
    Row(
        COLLECTOR,
        filter_(path="/**", historizing="perhaps"),
        'connections.line1.select.all.historizing = "perhaps" is neither true nor false: write true or false '
        "(connections.line1.select.all is not applied)",
    ),
    Row(
        COLLECTOR,
        filter_(path="/**", asset=["a"]),
        'connections.line1.select.all.asset = ["a"] is not text: write a path such as site/area/line1 '
        "(connections.line1.select.all is not applied)",
    ),
    Row(
        COLLECTOR,
        tag(node=NODE, indexRange="9:0"),
        'connections.line1.tags.Temp.indexRange = "9:0" is no range of an array: write an index such as 3, or the '
        "first and the last such as 0:9, from 0 on (connections.line1.tags.Temp is not applied)",
    ),
    Row(
        COLLECTOR,
        tag(node=NODE, indexRange="all"),
        'connections.line1.tags.Temp.indexRange = "all" is no range of an array: write an index such as 3, or the '
        "first and the last such as 0:9, from 0 on (connections.line1.tags.Temp is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(tagsPackage="two words"),
        'connections.line1.tagsPackage = "two words" is no name of a tag package: write the name that it was '
        "made with, such as site-a, or io.sluice.Tags.site-a (connections.line1 is not applied)",
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="no-header.csv"),
        'connections.line1.tagsFile = "Temp,ns=2;s=x" has no column tag in its header (line 1 of '
        "no-header.csv): begin the file with a line such as "
        "tag,connection,node,path,unit,asset,type,samplingInterval,group,indexRange,field (it gives no tags)",
        files={"no-header.csv": "Temp,ns=2;s=x\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="empty.csv"),
        'connections.line1.tagsFile = "empty.csv" is empty: write a header line and a line for each entry (it '
        "gives no tags)",
        files={"empty.csv": ""},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="no-tag.csv"),
        'connections.line1.tagsFile["line 2"] has no tag (line 2 of no-tag.csv): give it a name in the column '
        "tag (the row is left out)",
        files={"no-tag.csv": "tag,node\n,ns=2;s=x\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="twice.csv"),
        'connections.line1.tagsFile["line 3"] = "Temp" is there a second time, after line 2 (line 3 of '
        "twice.csv): give each row a tag of its own (the row is left out)",
        files={"twice.csv": "tag,node\nTemp,ns=2;s=x\nTemp,ns=2;s=y\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="case.csv"),
        'connections.line1.tagsFile["line 3"] = "TEMP" is the same name as Temp, but for upper and lower case, '
        "after line 2 (line 3 of case.csv): give each row a tag of its own (the row is left out)",
        files={"case.csv": "tag,node\nTemp,ns=2;s=x\nTEMP,ns=2;s=y\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="node.csv"),
        'connections.line1.tagsFile.Temp.node = "Temperature" is no node id (line 2 of node.csv): write it as '
        '"nsu=<namespace URI>;s=<name>", or i=, g= or b= in the place of s= (connections.line1.tagsFile.Temp is'
        " not applied)",
        files={"node.csv": "tag,node\nTemp,Temperature\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="address.csv"),
        'connections.line1.tagsFile.Temp = {"unit": "degC"} needs exactly one of node and path (line 2 of '
        "address.csv): give the node id (node) or the browse path (path) (connections.line1.tagsFile.Temp is "
        "not applied)",
        files={"address.csv": "tag,node,unit\nTemp,,degC\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="type.csv"),
        'connections.line1.tagsFile.Temp.type = "float" is not one of the allowed words (line 2 of type.csv): '
        "use one of: auto, double, integer, boolean, string (connections.line1.tagsFile.Temp is not applied)",
        files={"type.csv": "tag,node,type\nTemp,ns=2;s=x,float\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="comma.csv"),
        'connections.line1.tagsFile.Temp.samplingInterval = "0,5s" has a decimal comma (line 2 of comma.csv): '
        "write 0.5s (connections.line1.tagsFile.Temp is not applied)",
        files={"comma.csv": 'tag,node,samplingInterval\nTemp,ns=2;s=x,"0,5s"\n'},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="cells.csv"),
        'connections.line1.tagsFile["line 2"] = "0,5s" has 4 cells, its header 3: has a decimal comma (line 2 '
        "of cells.csv): write 0.5s (the row is left out)",
        files={"cells.csv": "tag,node,samplingInterval\nTemp,ns=2;s=x,0,5s\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="semicolons.csv"),
        'connections.line1.tagsFile["line 2"] = "Temp;ns=2;s=x" has 3 cells, its header 2 (line 2 of '
        'semicolons.csv): put cells that have semicolons in quotes, such as "nsu=urn:x;s=Temp" (the row is left'
        " out)",
        files={"semicolons.csv": "tag;node\nTemp;ns=2;s=x\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="same-column.csv"),
        'connections.line1.tagsFile = "node" names the column node twice (line 1 of same-column.csv): rename '
        "one of the two (it gives no tags)",
        files={"same-column.csv": "tag,node,node\nTemp,ns=2;s=x,ns=2;s=y\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="latin.csv"),
        'connections.line1.tagsFile["line 2"] = "Temp,ns=2;s=x,°C" is not UTF-8 (line 2 of latin.csv): save it '
        'as "CSV UTF-8" (the row is left out)',
        files={"latin.csv": b"tag,node,unit\nTemp,ns=2;s=x,\xb0C\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="sheet.csv"),
        'connections.line1.tagsFile = "sheet.csv" is a spreadsheet, not CSV: save it as "CSV UTF-8" (it gives no tags)',
        files={"sheet.csv": b"PK\x03\x04abc"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="nul.csv"),
        'connections.line1.tagsFile = "nul.csv" is not text: it has NUL bytes: save it as "CSV UTF-8" (it gives'
        " no tags)",
        files={"nul.csv": b"tag\x00,node\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="utf16.csv"),
        'connections.line1.tagsFile = "utf16.csv" is damaged: it begins as UTF-16 and goes on otherwise: save '
        'it as "CSV UTF-8" (it gives no tags)',
        files={"utf16.csv": b"\xff\xfet\x00a\x00g"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="quote.csv"),
        'connections.line1.tagsFile["line 2"] opens a quote that is not closed (line 2 of quote.csv): close it,'
        ' and write "" for a quote in a cell (the row is left out)',
        files={"quote.csv": 'tag,node\nTemp,"ns=2;s=x\n' + "A,ns=2;s=y\n" * 150},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="interval.csv"),
        'connections.line1.tagsFile.Temp.samplingInterval = "2h" is too large (line 2 of interval.csv): use 1h '
        "or less (connections.line1.tagsFile.Temp is not applied)",
        files={"interval.csv": "tag,node,samplingInterval\nTemp,ns=2;s=x,2h\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="long.csv"),
        f"connections.line1.tagsFile.{LONG} is not usable as a name (line 2 of long.csv): use 1 to 256 printable "
        f"characters without blanks at the ends (connections.line1.tagsFile.{LONG} is not applied)",
        files={"long.csv": f"tag,node\n{LONG},ns=2;s=x\n"},
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="nowhere.csv"),
        'connections.line1.tagsFile = "nowhere.csv" cannot be read: No such file or directory: put the file '
        "there, readable for the component's user, or correct the path (it gives no tags)",
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="a\0b"),
        'connections.line1.tagsFile = "a\\u0000b" cannot be a path: correct the path (it gives no tags)',
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="."),
        'connections.line1.tagsFile = "." is not a file: name a CSV file (it gives no tags)',
    ),
    Row(
        COLLECTOR,
        connection(tagsFile="taken.csv", tags={"Temp": {"node": NODE}}),
        'connections.line1.tagsFile["line 2"] = "TEMP" is the same name as Temp in tags, but for upper and '
        "lower case (line 2 of taken.csv): rename one of the two (the row is left out)",
        files={"taken.csv": "tag,node\nTEMP,ns=2;s=x\n"},
    ),
    Row(EXPORTER, {"sources": []}, "sources = [] has too few entries: give 1 or more (the default of sources applies)"),
    Row(
        EXPORTER,
        {"sources": ["a/b/c"]},
        'sources[0] = "a/b/c" names no source: write "*" for all, "<producer>/*" for all of one, or '
        '"<producer>/<source>" such as opcua-collector/line1 (the default of sources applies)',
    ),
    Row(
        EXPORTER,
        {"sources": ["*"] * 6},
        'sources = ["*", "*", "*", "*", "*", "*"] has too many entries: give at most 5 (the default of sources '
        "applies)",
    ),
    Row(
        EXPORTER,
        {"sources": "*"},
        'sources = "*" is not a list: write a list such as [a, b]: whose data is exported: <producer>/<source> '
        "(the default of sources applies)",
    ),
    Row(
        EXPORTER,
        {"streamManager": "5s"},
        'streamManager = "5s" is not a map of settings: write key: value lines below it (the default of '
        "streamManager applies)",
    ),
    Row(
        EXPORTER,
        {"streamManager": {"requestTimeout": "10ms"}},
        'streamManager.requestTimeout = "10ms" is too small: use 100ms or more (the default of streamManager applies)',
    ),
    Row(
        EXPORTER,
        {"streamManager": {"requestTimeout": "2m"}},
        'streamManager.requestTimeout = "2m" is too large: use 1m or less (the default of streamManager applies)',
    ),
    Row(
        EXPORTER,
        {"sinks": ["s3"]},
        'sinks = ["s3"] is not a map of settings: write key: value lines below it (the default of sinks applies)',
    ),
    Row(
        EXPORTER,
        {"sinks": {"my sink": {"type": "sitewise"}}},
        'sinks["my sink"] is not usable as a name in topics: use 1 to 64 letters, digits, dots, hyphens and '
        'underscores, beginning with a letter or digit (sinks["my sink"] is not applied)',
    ),
    Row(
        EXPORTER,
        {"sinks": {"out": "s3"}},
        'sinks.out = "s3" is not a map of settings: write key: value lines below it (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        {"sinks": {"out": {"bucket": "plant"}}},
        "sinks.out.type is required: use one of: sitewise, kinesis, s3 (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        {"sinks": {"out": {"type": "kineses"}}},
        'sinks.out.type = "kineses" is not a known kind: use one of: sitewise, kinesis, s3; did you mean '
        "kinesis? (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink("kinesis", kinesisStream=...),
        "sinks.out.kinesisStream is required: add it, for example plant-data (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink("kinesis", kinesisStream="my stream"),
        'sinks.out.kinesisStream = "my stream" is not written as it must be: it must match '
        "^[A-Za-z0-9_.\\-]{1,128}$ (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink("kinesis", messageSize="10B"),
        'sinks.out.messageSize = "10B" is too small: use 1KB or more (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink("kinesis", messageSize="2MB"),
        'sinks.out.messageSize = "2MB" is too large: use 1023KiB or less (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink("kinesis", compression="zip"),
        'sinks.out.compression = "zip" is not one of the allowed words: use one of: none, gzip; did you mean '
        "gzip? (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(bucket=...),
        "sinks.out.bucket is required: add it, for example plant-archive (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(bucket="Plant"),
        'sinks.out.bucket = "Plant" is not written as it must be: it must match '
        "^[a-z0-9][a-z0-9.\\-]{1,61}[a-z0-9]$ (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(prefix="/a"),
        'sinks.out.prefix = "/a" is not written as it must be: it must match '
        "^([A-Za-z0-9_.=\\-][A-Za-z0-9_.=/\\-]{0,255})?$ (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(rotateInterval="100ms"),
        'sinks.out.rotateInterval = "100ms" is too small: use 1s or more (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(rotateInterval="2d"),
        'sinks.out.rotateInterval = "2d" is too large: use 1d or less (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(rotateSize="1KB"),
        'sinks.out.rotateSize = "1KB" is too small: use 10KB or more (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(rotateSize="6GB"),
        'sinks.out.rotateSize = "6GB" is too large: use 5GB or less (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(spoolSize="1KB"),
        'sinks.out.spoolSize = "1KB" is too small: use 1MiB or more (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(compression="zip"),
        'sinks.out.compression = "zip" is not one of the allowed words: use one of: gzip, none; did you mean '
        "gzip? (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(stream="a/b"),
        'sinks.out.stream = "a/b" is not written as it must be: it must match ^[A-Za-z0-9_.\\-]{1,255}$ '
        "(sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(statusStream="a/b"),
        'sinks.out.statusStream = "a/b" is not written as it must be: it must match ^[A-Za-z0-9_.\\-]{1,255}$ '
        "(sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(segmentSize="1KB"),
        'sinks.out.segmentSize = "1KB" is too small: use 1MiB or more (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(segmentSize="3GB"),
        'sinks.out.segmentSize = "3GB" is too large: use 2147483647B or less (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(streamSize="1MB"),
        'sinks.out.streamSize = "1MB" holds fewer than three segments of 16MiB, and two are always left free: '
        "use 48MiB or more, or a smaller segmentSize (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(streamSize="big"),
        'sinks.out.streamSize = "big" is not a size: write a number of bytes or a size with a unit: 7000, 64KB,'
        " 16MB or 1GiB (sinks.out is not applied)",
    ),
    Row(EXPORTER, sink(priority=0), "sinks.out.priority = 0 is too small: use 1 or more (sinks.out is not applied)"),
    Row(EXPORTER, sink(priority=11), "sinks.out.priority = 11 is too large: use 10 or less (sinks.out is not applied)"),
    Row(
        EXPORTER,
        sink(priority="1,5"),
        'sinks.out.priority = "1,5" has a decimal comma: write 1.5 (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(priority=1.5),
        "sinks.out.priority = 1.5 is not a whole number: write a whole number such as 5: order of exports, 1 "
        "first (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(packInterval="1ms"),
        'sinks.out.packInterval = "1ms" is too small: use 10ms or more (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(packInterval="2m"),
        'sinks.out.packInterval = "2m" is too large: use 1m or less (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(maxWaiting=10),
        "sinks.out.maxWaiting = 10 is too small: use 1000 or more (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(maxWaiting=20_000_000),
        "sinks.out.maxWaiting = 20000000 is too large: use 10000000 or less (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(maxWaiting="many"),
        'sinks.out.maxWaiting = "many" is not a whole number: write a whole number such as 5: samples that may '
        "wait in memory; newer ones wait in outboxes (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(required="perhaps"),
        'sinks.out.required = "perhaps" is neither true nor false: write true or false: whether producers keep '
        "their data until this sink has exported it, however long (sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink(maxLag="100ms"),
        'sinks.out.maxLag = "100ms" is too small: use 1s or more (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(maxLag="400d"),
        'sinks.out.maxLag = "400d" is too large: use 366d or less (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(ackOn="stored"),
        'sinks.out.ackOn = "stored" is not one of the allowed words: use one of: exported, appended (sinks.out '
        "is not applied)",
    ),
    Row(
        EXPORTER,
        sink("sitewise", alias="{line}/{tag}"),
        "sinks.out.alias = {line}/{tag} is no alias template ({line} is not one of {asset}, {tag}, {unit}, "
        '{source}): write text with fields in braces, such as "{asset}/{tag}" (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink("sitewise", alias="{asset}"),
        'sinks.out.alias = {asset} would be the same for every tag: use {tag} in it, such as "{asset}/{tag}" '
        "(sinks.out is not applied)",
    ),
    Row(
        EXPORTER,
        sink("sitewise", alias="{tag"),
        "sinks.out.alias = {tag is no alias template (expected '}' before end of string): write text with "
        'fields in braces, such as "{asset}/{tag}" (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink("sitewise", integers="long"),
        'sinks.out.integers = "long" is not one of the allowed words: use one of: integer, double (sinks.out is'
        " not applied)",
    ),
    Row(
        EXPORTER,
        sink("sitewise", nulls="drop"),
        'sinks.out.nulls = "drop" is not one of the allowed words: use one of: filter, send (sinks.out is not applied)',
    ),
    Row(
        EXPORTER,
        sink(buket="plant"),
        'sinks.out.buket = "plant" is an unknown key: did you mean bucket? A merge cannot remove it: deploy '
        'with RESET "/sinks/out/buket" (it is ignored)',
    ),
    Row(
        EXPORTER,
        {"sinks": {"a": {"type": "sitewise"}, "b": {"type": "sitewise"}}},
        'sinks.b.stream = "SluiceSiteWise" is a stream of the sink a too: give each sink streams of its own '
        "(this sink does not run)",
    ),
    Row(
        EXPORTER,
        {"sinks": {"a": {"type": "s3", "bucket": "plant"}, "b": {"type": "s3", "bucket": "plant", "stream": "Other"}}},
        'sinks.b.statusStream = "SluiceS3Status" is a stream of the sink a too: give each sink streams of its '
        "own (this sink does not run)",
    ),
    Row(
        EXPORTER,
        {"sinks": {"a": {"type": "s3", "bucket": "plant", "stream": "X", "statusStream": "X"}}},
        'sinks.a.statusStream = "X" is the stream of the files too: give the status a stream of its own (this '
        "sink does not run)",
    ),
    Row(
        EXPORTER,
        {"sinks": {"out": {"type": "sitewise"}, "OUT": {"type": "sitewise", "stream": "B"}}},
        "sinks.OUT is the same name as out to Greengrass, which ignores case: rename one of the two and remove "
        'this one with RESET "/sinks/OUT" (sinks.OUT is not applied)',
    ),
]

ROWS += [Row(PI, merge, text, dict(files)) for merge, text, files in MISTAKES]
ROWS += [Row(PREPROCESSOR, merge, text) for merge, text in MISTAKES_OF_FLOWS]


# --- what sluice check says -----------------------------------------------------------------------------------------


def checked(row: Row, folder: Path) -> list[Problem]:
    for name, content in row.files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    site = folder / "site.json"
    site.write_text(json.dumps({"components": {row.component: {"configurationUpdate": {"merge": row.merge}}}}))
    return [one.problem for one in check_document(load(site)).findings if one.level == "error"]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_check_says_what_is_wrong_where_and_how_to_mend_it(row: Row, tmp_path: Path) -> None:
    found = checked(row, tmp_path)
    assert row.text in map(str, found)


@pytest.mark.parametrize("row", [row for row in ROWS if "ok" in row.merge.get("flows", {})], ids=str)
def test_a_mistake_in_a_flow_costs_that_flow_alone_and_is_told_where_it_stands(row: Row, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(yaml.safe_dump({"components": {row.component: {"configurationUpdate": {"merge": row.merge}}}}))
    found = [one for one in check_document(load(site)).findings if one.level == "error"]
    assert not [one for one in found if one.problem.path.startswith("flows.ok")]
    lines = site.read_text().splitlines()
    for one in found:  # the line has the last key of the path that the document has, or the part that lacks one
        keys = re.findall(r"[A-Za-z][\w -]*", one.problem.path)
        assert any(f"{key}:" in lines[one.line - 1] for key in keys) or lines[one.line - 1].strip().startswith("- ")


# --- what the component itself says ---------------------------------------------------------------------------------


class LonelyBus:
    """Local IPC that hands out one configuration, takes the status and has nobody else on it."""

    lite = False
    connected = True
    dropped = 0

    def __init__(self, component: str, configuration: dict[str, Any]) -> None:
        self.component_name = component
        self.configuration = configuration
        self.given_up = asyncio.Event()
        self.counters: dict[str, int] = {}
        self.statuses: list[dict[str, Any]] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def detect_nucleus(self) -> None: ...

    async def get_configuration(self, path: Any, component: str | None = None, **how: Any) -> Any:
        from sluice.ipc import IpcNotFound

        if component is not None:
            raise IpcNotFound(f"there is no component {component}")
        return self.configuration

    async def publish(self, topic: str, payload: bytes) -> None:
        if topic.startswith("sluice/status/"):
            self.statuses.append(json.loads(payload))

    async def subscribe(self, *what: Any, **how: Any) -> Any:
        return LonelySubscription()

    on_configuration_update = subscribe_iot_core = on_proposed_configuration = subscribe

    def on_state(self, callback: Callable[[bool, str], None]) -> None: ...

    def message_room(self, topic: str) -> int:
        return 120_000


class LonelySubscription:
    active = True

    async def renew(self) -> None: ...

    async def close(self) -> None: ...


def component_class(name: str) -> type[Component[Any]]:
    package = members()[name].package
    main = importlib.import_module(f"{package}.{package.rpartition('_')[2]}")
    [found] = [
        one
        for one in vars(main).values()
        if inspect.isclass(one) and issubclass(one, Component) and one.__module__ == main.__name__
    ]
    return found


async def status_of(row: Row, folder: Path, says: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The status of a component that was started with a row's configuration, as soon as it says something."""
    for name, content in row.files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    # Its own interval may be what is wrong: the default of 5 s is then waited for.
    bus = LonelyBus(row.component, {"statusInterval": "1s", **row.merge})
    runner = Runner(component_class(row.component), bus, folder, "gateway")  # type: ignore[arg-type]
    stop = asyncio.Event()
    life = asyncio.create_task(runner.run(stop))
    try:
        for _ in range(1500):
            if bus.statuses and says(bus.statuses[-1]):
                break
            await asyncio.sleep(0.01)
        return bus.statuses[-1] if bus.statuses else {}
    finally:
        stop.set()
        assert await life == 0


def told(status: dict[str, Any]) -> list[str]:
    """What a status says about configuration: rejected entries and warnings."""
    entries = [*status.get("config", {}).get("rejected", ()), *status.get("warnings", ())]
    names = ("path", "value", "problem", "remedy", "effect")
    return [str(Problem(*(entry.get(name, "") for name in names))) for entry in entries]


async def test_the_status_of_the_component_says_the_same_word_for_word(tmp_path: Path) -> None:
    at_once = asyncio.Semaphore(16)
    silent: list[str] = []

    async def one(number: int, row: Row) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        async with at_once:
            status = await status_of(row, folder, lambda status: row.text in told(status))
        if row.text not in told(status):
            silent.append(f"{row.text}\n   but: {told(status) or status}")

    await asyncio.gather(*(one(number, row) for number, row in enumerate(ROWS)))
    assert not silent, "\n".join(silent)


# --- that the table is complete -------------------------------------------------------------------------------------

WORDS = {
    "ge": "is too small",
    "gt": "is too small",
    "le": "is too large",
    "lt": "is too large",
    "pattern": "is not written as it must be",
    "min_length": "is too short",
    "max_length": "is too long",
    "min_items": "has too few entries",
    "max_items": "has too many entries",
    "words": "is not one of the allowed words",
    "required": "is required",
    "boolean": "is neither true nor false",
    "section": "is not a map of settings",
}


def in_template(path: str) -> str:
    """`connections.line1.tags.Temp.node` -> `connections.<connection>.tags.<tag>.node`."""
    path = re.sub(r"\[[0-9]+\]", "", path)
    path = re.sub(r"^connections\.line1\b", "connections.<connection>", path)
    path = re.sub(r"\.tags\.Temp\b", ".tags.<tag>", path)
    path = re.sub(r"\.groups\.fast\b", ".groups.<group>", path)
    path = re.sub(r"\.headers\.X-Api-Key\b", ".headers.<header>", path)
    path = re.sub(r"\.select\.all\b", ".select.<filter>", path)
    return re.sub(r"^sinks\.out\b", "sinks.<sink>", path)


@pytest.mark.parametrize("component", [COLLECTOR, EXPORTER, PI])
def test_every_limit_of_the_models_is_in_a_row(component: str, tmp_path: Path) -> None:
    model = members()[component].settings
    assert model is not None
    said: set[tuple[str, str]] = set()
    for number, row in enumerate(ROWS):
        folder = tmp_path / str(number)
        folder.mkdir()
        said |= {(in_template(one.path), one.problem.partition(" (line")[0]) for one in checked(row, folder)}
    unreached = UNREACHABLE_LIMITS
    missing = [
        f"{path}: {WORDS[kind]}"
        for path, kind in limits_of(model)
        if (path, WORDS[kind]) not in said and (path, kind) not in unreached
    ]
    assert missing == []


UNREACHABLE_LIMITS = {
    ("configVersion", "le"),  # a configuration of a later version is refused as a whole, in words of its own
    # A duration or a size is never negative: that is refused as no duration or size before it is compared with 0.
    ("outbox.minFreeDisk", "ge"),
    ("connections.<connection>.samplingInterval", "ge"),
    ("connections.<connection>.tags.<tag>.samplingInterval", "ge"),
    ("connections.<connection>.groups.<group>.samplingInterval", "ge"),
    ("connections.<connection>.overlap", "ge"),
    ("connections.<connection>.settle", "ge"),
    ("connections.<connection>.reconcile.window", "ge"),
    ("connections.<connection>.groups.<group>.overlap", "ge"),
    ("connections.<connection>.groups.<group>.settle", "ge"),
    ("connections.<connection>.groups.<group>.reconcile.window", "ge"),
    # The same class has the field in each kind of sink; the row of one kind stands for all.
}

SOURCES = (
    "sluice.config",
    "sluice.tag_settings",
    "sluice.units",
    "opcua_collector.config",
    "opcua_collector.address_space.address",
    "pi_collector.config",
    "preprocessor.config",
    "preprocessor.step_settings",
    "stream_exporter.config",
    "stream_exporter.checks",
)


def refusals(module: str) -> Iterator[str]:
    """The constant beginning of each text with which a module refuses a value."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    for node in ast.walk(tree):
        text: ast.expr | None = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            if node.func.id == "refuse":
                text = node.args[0]
            elif node.func.id == "Problem" and len(node.args) > 2:
                text = node.args[2]
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            name = getattr(node.exc.func, "id", "")
            if name in ("UnitError", "NodeIdError", "BrowsePathError"):
                text = node.exc.args[0]
        if isinstance(text, ast.IfExp):
            yield from (str(one.value) for one in (text.body, text.orelse) if isinstance(one, ast.Constant))
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            yield text.value
        if isinstance(text, ast.JoinedStr):
            parts = [str(one.value) for one in text.values if isinstance(one, ast.Constant)]
            yield max(parts, key=len)


UNREACHABLE_REFUSALS = {
    "names no node",  # "/" has an empty step before it names none, and "/Root" alone cannot be written with an index
}


@pytest.mark.parametrize("module", SOURCES)
def test_every_refusal_in_the_sources_is_in_a_row(module: str) -> None:
    texts = "\n".join(row.text for row in ROWS)
    assert [one for one in refusals(module) if one not in texts and one not in UNREACHABLE_REFUSALS] == []
