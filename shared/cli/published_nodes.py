"""Entries of `publishednodes.json`, the list of nodes of Azure's OPC Publisher (2.x and before), as connections.

Source: OPC Publisher's documentation, "Configuration schema". Entries for the same endpoint, security and user become
one connection. How a node is collected (intervals, queue, deadband ...) is compared over all nodes of a connection:
what most have in common becomes the connection's own settings, each other way a group.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cli.imported import (
    BROKEN,
    SECURITY_POLICIES,
    UNPROTECTED,
    Bag,
    Made,
    Notes,
    TagNames,
    connection_name,
    duration,
    in_the_open,
)

MOST_GROUPS: Final = 15
"""Besides the connection's own settings: servers have few subscriptions."""
_DEFAULT: Final = 1.0  # seconds: of publishing and sampling where nothing is said
_MODES: Final = {
    "Best": "best", "NotNone": "best", "SignAndEncrypt": "best", "Sign": "sign", "None": "none",
}  # fmt: skip
_TRIGGERS: Final = {
    "Status": "status", "StatusValue": "value", "StatusValueTimestamp": "timestamp",
    "0": "status", "1": "value", "2": "timestamp",
}  # fmt: skip
_DEADBANDS: Final = {
    "None": "", "Absolute": "absolute", "Percent": "percent", "0": "", "1": "absolute", "2": "percent",
}  # fmt: skip
_MESSAGES: Final = "says how messages are made or sent, which is the exporter's matter here"
_ABOUT_MESSAGES: Final = dict.fromkeys(
    (
        "DataSetName", "DataSetDescription", "DataSetKeyFrameCount", "DataSetClassId", "DataSetExtensionFields",
        "MessagingMode", "MessageEncoding", "BatchSize", "BatchTriggerInterval", "BatchTriggerIntervalTimespan",
        "DataSetWriterWatchdogBehavior", "SendKeepAliveDataSetMessages", "MetaDataUpdateTime", "WriterGroupTransport",
        "WriterGroupQualityOfService", "WriterGroupPartitions", "WriterGroupQueueName", "QueueName",
        "MetaDataQueueName", "DataSetRouting", "MessageTtlTimespan", "MessageRetention",
    ),
    _MESSAGES,
)  # fmt: skip
_UNIMPORTANT: Final = ("Version", "LastChangeTimespan", "LastChangeDateTime", "DataSetWriterId", "DataSetWriterGroup")
_AGAIN: Final = "is never copied: put it into a file of mode 0600, or a secret, and name that in user.password"


@dataclass(slots=True)
class _Tag:
    settings: dict[str, Any]
    way: tuple[tuple[str, Any], ...]  # how it is collected


@dataclass(slots=True)
class _Line:
    settings: dict[str, Any]
    tags: dict[str, _Tag] = field(default_factory=dict)
    names: TagNames = field(default_factory=TagNames)
    nodes: set[Any] = field(default_factory=set)


def connections_of(content: Any, notes: Notes) -> Made:
    """The connections of all entries."""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        notes.add("lost", "", content, "is no list of entries: is it a publishednodes.json?")
        content = []
    lines: dict[Any, _Line] = {}
    for number, raw in enumerate(content):
        entry = notes.bag(raw, f"[{number}]")
        settings = {"endpoint": entry.text("EndpointUrl"), **_security(entry), **_user(entry)}
        in_the_open(entry, "OpcAuthenticationPassword", settings)
        key = repr(sorted(settings.items()))
        line = lines.setdefault(key, _Line(settings))
        _nodes(entry, line)
        for word in _UNIMPORTANT:
            entry.take(word)
        entry.rest(**_ABOUT_MESSAGES)
    if not lines:
        notes.add("lost", "", None, "there is no entry in it")
    made = Made()
    for line in lines.values():
        host = re.sub(r"^[a-z.]+://", "", line.settings["endpoint"]).strip("/")
        name = connection_name(host.replace(":", "-").replace("/", "-"), made.connections)
        if "user" in line.settings and "password" in line.settings["user"]:
            line.settings["user"]["password"] = {"file": f"secrets/{name}-password"}
        made.connections[name] = _connection(line, name, notes)
    return made


# --- the server ---


def _security(entry: Bag) -> dict[str, Any]:
    use = entry.flag("UseSecurity")
    mode = entry.word("EndpointSecurityMode", _MODES)
    uri = entry.text("EndpointSecurityPolicy")
    policy = None
    if uri:
        name = uri.rpartition("#")[2]
        known = {key.casefold(): value for key, value in SECURITY_POLICIES.items()}
        policy = known.get(name.casefold())
        if policy is None:
            entry.lost("EndpointSecurityPolicy", uri, f"is none of {', '.join(SECURITY_POLICIES)}")
        elif not policy:
            entry.lost("EndpointSecurityPolicy", uri, BROKEN)
    if mode == "none" or policy == "None" or (mode is None and not policy and not use):
        entry.changed("UseSecurity", False if use is None else use, UNPROTECTED)
        return {"security": {"policy": "None"}}
    security = {**({"policy": policy} if policy else {}), **({"mode": "Sign"} if mode == "sign" else {})}
    return {"security": security} if security else {}


def _user(entry: Bag) -> dict[str, Any]:
    kind = entry.word(
        "OpcAuthenticationMode",
        {"Anonymous": "", "UsernamePassword": "name", "Username": "name", "Certificate": "certificate"},
    )
    name = entry.text("OpcAuthenticationUsername")
    hidden = entry.take("EncryptedAuthUsername")
    password = [entry.take(key) for key in ("OpcAuthenticationPassword", "EncryptedAuthPassword")]
    if any(one is not None for one in password):
        entry.lost("OpcAuthenticationPassword", "***", _AGAIN)
    if kind == "certificate":
        entry.lost("OpcAuthenticationMode", "Certificate", "set user.certificate and user.key")
    if hidden is not None and not name:
        entry.lost("EncryptedAuthUsername", "***", "cannot be read here: set user.name")
    if kind not in ("name", None) or not name:
        return {}
    return {"user": {"name": name, "password": {"file": "secrets/password"}}}


# --- nodes ---


def _nodes(entry: Bag, line: _Line) -> None:
    publishing = entry.first_seconds(("DataSetPublishingIntervalTimespan", 1.0), ("DataSetPublishingInterval", 0.001))
    sampling = entry.first_seconds(("DataSetSamplingIntervalTimespan", 1.0), ("DataSetSamplingInterval", 0.001))
    heartbeat = entry.first_seconds(("DefaultHeartbeatIntervalTimespan", 1.0), ("DefaultHeartbeatInterval", 1.0))
    defaults = {"publishing": publishing, "sampling": sampling, "heartbeat": heartbeat}
    nodes = entry.bags("OpcNodes") + entry.bags("Nodes")
    if "NodeId" in entry:  # the oldest form: an entry for each node
        flat = entry.take("NodeId")
        identifier = flat.get("Identifier") if isinstance(flat, Mapping) else flat
        nodes.append(entry.notes.bag({"Id": identifier}, entry.at("NodeId")))
    for node in nodes:
        _node(node, line, defaults)


def _node(node: Bag, line: _Line, defaults: Mapping[str, float | None]) -> None:
    address = _address(node)
    attribute = node.text("AttributeId")
    if attribute and attribute.casefold() not in ("value", "13"):
        node.lost("AttributeId", attribute, "only the value of a node is collected: the node is left out")
        address = None
    for key in ("EventFilter", "ConditionHandling", "MethodMetadata"):
        if key in node:
            node.lost(key, node.take(key), "events, alarms and methods are not collected: the node is left out")
            address = None
    way = _way(node, defaults)
    sampling = way.pop("samplingInterval", None)
    tag: dict[str, Any] = {}
    span = node.text("IndexRange")
    if span:
        tag["indexRange"] = span
    if sampling is not None and way.get("mode") != "poll" and sampling != way.get("publishingInterval"):
        tag["samplingInterval"] = sampling
    wanted, shown = node.text("DataSetFieldId"), node.text("DisplayName")
    if wanted and shown and wanted != shown:
        node.changed("DisplayName", shown, "the tag is named by DataSetFieldId")
    if (skip := node.flag("SkipFirst")) is True:
        node.lost("SkipFirst", skip, "the first value is a value")
    if node.flag("RegisterNode") and way.get("mode") != "poll":
        node.changed("RegisterNode", True, "nodes are registered when they are polled, as far as the server can")
    node.rest()
    if address is None:
        return
    same = (address, span, tuple(sorted(map(repr, way.items()))))
    if same in line.nodes:
        node.changed("Id", next(iter(address))[1], "is there twice with the same settings: it is collected once")
        return
    line.nodes.add(same)
    [(setting, text)] = address
    name = line.names.free(wanted or shown or _short(text))
    if (wanted or shown) and name != (wanted or shown):
        node.changed("DisplayName", wanted or shown, f"is {name} now, because the name is taken or cannot be one")
    line.tags[name] = _Tag({setting: text, **tag}, tuple(sorted(way.items(), key=repr)))


Address = tuple[tuple[str, str], ...]


def _address(node: Bag) -> Address | None:
    """(("node", id),) or (("path", path),); None when there is no such thing."""
    from opcua_collector.address_space.address import NodeIdError, parse_node_id

    plain, expanded = node.text("Id"), node.text("ExpandedNodeId")
    text = _node_id(expanded or plain)
    path = node.take("BrowsePath")
    if path is not None:
        steps = _steps(path)
        start = {"": "", "i=84": "", "ns=0;i=84": "", "i=85": "/Objects", "ns=0;i=85": "/Objects"}.get(text)
        if steps is None or start is None:
            node.lost("BrowsePath", path, "is no path from Root or Objects: the node is left out")
            return None
        return (("path", start + steps),)
    if not text:
        node.lost("Id", plain or None, "names no node: it is left out")
        return None
    try:
        address = parse_node_id(text)
    except NodeIdError as error:
        node.lost("Id", plain or expanded, f"{error}: the node is left out")
        return None
    if not address.uri and address.index:
        node.changed(
            "Id", text, "is kept with a namespace index, which may change at a server's restart: sluice browse has URIs"
        )
    return (("node", text),)


def _node_id(text: str) -> str:
    """Also of the form ``http://server/UA/#i=1240``."""
    from opcua_collector.address_space.address import NodeIdError, format_node_id, parse_node_id

    uri, mark, identifier = text.rpartition("#")
    if not mark or not re.match(r"[isgb]=", identifier) or re.match(r"(nsu|ns|svr)=", text):
        return text
    try:
        return format_node_id(parse_node_id(identifier), uri)
    except NodeIdError:
        return text


def _steps(path: Any) -> str | None:
    """``["/2:Boiler", ".2:Level"]`` or one text as a browse path below its start."""
    parts = [path] if isinstance(path, str) else path
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        return None
    text = "".join(part if part[:1] in ("/", ".") else f"/{part}" for part in parts)
    if re.search(r"[<>!#&]|nsu=", text):
        return None
    steps = [step for step in re.split(r"/|\.(?=\d+:)", text) if step]
    return "".join(f"/{step}" for step in steps) if steps else None


def _short(text: str) -> str:
    """The identifier of a node id, or the names of a path."""
    if text.startswith("/"):
        return "/".join(step.partition(":")[2] or step for step in text.removeprefix("/Objects").split("/") if step)
    return re.sub(r"^(?:nsu=[^;]*;|ns=\d+;)?[isgb]=", "", text) or text


def _way(node: Bag, defaults: Mapping[str, float | None]) -> dict[str, Any]:
    """How the node is collected, as settings of a group; samplingInterval is its own."""
    way: dict[str, Any] = {}
    publishing = node.first_seconds(("OpcPublishingIntervalTimespan", 1.0), ("OpcPublishingInterval", 0.001))
    sampling = node.first_seconds(("OpcSamplingIntervalTimespan", 1.0), ("OpcSamplingInterval", 0.001))
    publishing = publishing if publishing is not None else defaults["publishing"]
    sampling = sampling if sampling is not None else defaults["sampling"]
    sampling = _DEFAULT if sampling is None else sampling
    publishing = _DEFAULT if publishing is None else publishing
    if publishing == 0:
        node.changed("OpcPublishingInterval", 0, f"left it to the server: it is {_DEFAULT:g} s now")
        publishing = _DEFAULT
    if node.flag("UseCyclicRead"):
        way["mode"] = "poll"
        way["pollInterval"] = duration(node, "OpcSamplingInterval", sampling, 0.05, 86_400)
    else:
        way["publishingInterval"] = duration(node, "OpcPublishingInterval", publishing, 0.01, 3600)
        way["samplingInterval"] = duration(node, "OpcSamplingInterval", sampling, 0, 3600)
    heartbeat = node.first_seconds(("HeartbeatIntervalTimespan", 1.0), ("HeartbeatInterval", 1.0))
    heartbeat = defaults["heartbeat"] if heartbeat is None else heartbeat
    if heartbeat and way.get("mode") != "poll":
        way["heartbeat"] = duration(node, "HeartbeatInterval", heartbeat, 1, 86_400)
    queue = node.number("QueueSize")
    if queue is not None and queue >= 1:
        way["queueSize"] = min(1_000_000, int(queue))
    if node.flag("DiscardNew"):
        way["discard"] = "newest"
    trigger = node.word("DataChangeTrigger", _TRIGGERS)
    if trigger is not None:
        way["trigger"] = trigger
    kind, width = node.word("DeadbandType", _DEADBANDS), node.number("DeadbandValue")
    if kind and width:
        if width < 0 or (kind == "percent" and width > 100):
            node.lost("DeadbandValue", width, "is no width of a deadband")
        else:
            way["deadband"] = (kind, width)
    return way


# --- the connection ---


def _connection(line: _Line, name: str, notes: Notes) -> dict[str, Any]:
    """Settings, groups and tags: the way of most tags is the connection's own."""
    ways = Counter(tag.way for tag in line.tags.values())
    own, *others = [way for way, _ in ways.most_common()] or [()]
    groups = {way: f"group-{number}" for number, way in enumerate(others[:MOST_GROUPS], 1)}
    for way in others[MOST_GROUPS:]:
        notes.add(
            "lost", f"{name}.OpcNodes", dict(way),
            f"more than {MOST_GROUPS + 1} ways to collect nodes of one server: these are collected as most of them",
        )  # fmt: skip
    settings = {**line.settings, **_settings(own)}
    if groups:
        settings["groups"] = {group: _settings(way) for way, group in groups.items()}
    settings["tags"] = {
        tag: {**one.settings, **({"group": groups[one.way]} if one.way in groups else {})}
        for tag, one in line.tags.items()
    }
    return settings


def _settings(way: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return {key: {value[0]: value[1]} if key == "deadband" else value for key, value in way}
