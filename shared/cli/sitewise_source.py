"""Sources of the AWS IoT SiteWise OPC UA collector (`iotsitewise:opcuacollector:2` and `:3`) as connections.

Source: AWS IoT SiteWise user guide, "Configure an OPC UA source (CLI)". The file may be the capability configuration
itself, or the answer of `describe-gateway-capability-configuration` that carries it as text.

    source                     connection; its measurementDataStreamPrefix is the prefix of its filters
    nodeFilterRules            filters (select) that collect as the connection does
    property group             group, with a filter for each of its node rules; one without rules: the connection itself
    scanMode EXCEPTION, POLL   mode subscribe, poll; the rate is samplingInterval, pollInterval
"""

from __future__ import annotations

import json
from typing import Any, Final

from cli.imported import (
    BROKEN,
    SECURITY_POLICIES,
    UNPROTECTED,
    Bag,
    Made,
    Notes,
    connection_name,
    duration,
    in_the_open,
)

_MODES: Final = {"None": "None", "Sign": "Sign", "SignAndEncrypt": "SignAndEncrypt"}
_TRIGGERS: Final = {"Status": "status", "StatusValue": "value", "StatusValueTimestamp": "timestamp"}
_MESSAGES: Final = "where values go is the exporter's matter: configure a sink"
_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"


def connections_of(content: Any, notes: Notes) -> Made:
    """The connections of every source."""
    made = Made()
    whole = notes.bag(_inner(content, notes), "")
    for wrapped in ("gatewayConfiguration",):
        if wrapped in whole:
            inner = whole.bag(wrapped)
            whole.rest("says nothing about collecting")
            whole = inner
    sources = whole.bags("sources")
    whole.rest("is no source")
    for source in sources:
        name = source.text("name")
        free = connection_name(name or "line", made.connections)
        if free != name:
            source.changed("name", name, f"is {free} now, because names become part of topics")
        made.connections[free] = _connection(source, free, made)
    if not sources:
        notes.add("lost", "sources", None, "there is none: is it a configuration of the OPC UA collector?")
    return made


def _inner(content: Any, notes: Notes) -> Any:
    """The capability configuration inside the answer of the service, which carries it as text."""
    if isinstance(content, dict) and isinstance(content.get("capabilityConfiguration"), str):
        try:
            return json.loads(content["capabilityConfiguration"])
        except (ValueError, RecursionError):
            notes.add("lost", "capabilityConfiguration", None, "is not JSON")
            return {}
    return content


def _connection(source: Bag, name: str, made: Made) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    endpoint = source.bag("endpoint")
    settings["endpoint"] = endpoint.text("endpointUri")
    security = _security(endpoint, name, made)
    if security:
        settings["security"] = security
    user = _user(endpoint.bag("identityProvider"))
    if user:
        settings["user"] = user
        in_the_open(endpoint, "identityProvider", settings)
    prefix = source.text("measurementDataStreamPrefix").strip("/")
    select: dict[str, dict[str, Any]] = {}
    groups: dict[str, dict[str, Any]] = {}
    stamps: set[str] = set()
    own = 0
    for group in source.bags("propertyGroups"):
        title = group.text("name")
        paths = _paths(group.bags("nodeFilterRuleDefinitions"))
        found, stamp = _group(group)
        stamps.add(stamp)
        group.rest()
        if not paths and not own:
            own += 1
            settings.update(found)
            continue
        if not paths:
            group.lost("nodeFilterRuleDefinitions", None, "is empty, and so is that of another group, which counts")
            continue
        key = connection_name(title or "group", groups)
        if key != title:
            group.changed("name", title, f"is {key} now")
        groups[key] = found
        for path in paths:
            select[connection_name(key, select)] = _filter(path, prefix, key)
    included = [path for rule in endpoint.bags("nodeFilterRules") for path in _rule(rule)]
    for path in included or ["/**"]:
        select[connection_name("all", select)] = _filter(path, prefix, "")
    endpoint.rest()
    conversions = source.bag("typeConversions")
    for key, same in (("array", "JsonArray"), ("datetime", "ISO8601String")):
        said = conversions.text(key)
        if said and said.casefold() != same.casefold():
            conversions.lost(key, said, f"is {same} here always")
    conversions.rest()
    stamps.discard("")
    if len(stamps) == 1:
        settings["timestamps"] = stamps.pop()
    elif stamps:
        source.lost("propertyGroups", sorted(stamps), "a connection takes one kind of time for all: the source's")
    if groups:
        settings["groups"] = groups
    settings["select"] = select
    source.rest(destination=_MESSAGES, id="is of no use here", type="is of no use here")
    return settings


def _security(endpoint: Bag, name: str, made: Made) -> dict[str, Any]:
    policy = endpoint.word("securityPolicy", SECURITY_POLICIES)
    mode = endpoint.word("messageSecurityMode", _MODES)
    trust = endpoint.bag("certificateTrust")
    kind = trust.text("type").casefold()
    security: dict[str, Any] = {}
    if policy == "None" or (policy is None and mode == "None"):
        endpoint.changed("securityPolicy", "NONE", UNPROTECTED)
        security["policy"] = "None"
    elif policy == "":
        endpoint.lost("securityPolicy", "BASIC256 or BASIC128_RSA15", BROKEN)
    elif policy is not None:
        security["policy"] = policy
    if mode == "Sign" and security.get("policy") != "None":
        security["mode"] = "Sign"
    if kind == "x509":
        body = trust.text("certificateBody")
        if body.startswith(_CERTIFICATE) and len(body) < 32_768:
            file = f"{name}.pem"
            made.files[file] = body + "\n"
            security["trust"] = file
            trust.changed("certificateBody", "a certificate", f"is in the file {file}: put it into the work folder")
        else:
            trust.lost("certificateBody", None, "is no certificate in PEM: trust the server with sluice trust")
        if trust.text("certificateChain"):
            trust.lost("certificateChain", "certificates", "put them into pki/issuer or pki/trusted of the component")
    elif kind == "trustany" and security.get("policy") != "None":
        security["trust"] = "first-use"
        trust.changed("type", "TrustAny", "any certificate was taken: now the first one is, and no other")
    elif kind not in ("", "trustany"):
        trust.lost("type", kind, "is none of TrustAny, X509")
    trust.rest()
    return security


def _user(identity: Bag) -> dict[str, Any]:
    kind = identity.text("type").casefold()
    secret = identity.text("usernameSecretArn")
    user: dict[str, Any] = {}
    if kind == "username" and secret:
        user = {"name": "user", "password": {"secret": secret, "key": "password"}}
        identity.lost("type", "Username", "the user's name stands in the secret: write it to user.name")
    elif kind not in ("", "anonymous"):
        identity.lost(
            "type", kind, "needs usernameSecretArn" if kind == "username" else "is none of Anonymous, Username"
        )
    identity.rest()
    return user


def _rule(rule: Bag) -> list[str]:
    action = rule.text("action")
    if action and action.casefold() != "include":
        rule.lost("action", action, "only INCLUDE is known: add what it excludes to the exclude of the filters")
        rule.take("definition")
        rule.rest()
        return []
    found = _paths([rule.bag("definition")])
    rule.rest()
    return found


def _paths(definitions: list[Bag]) -> list[str]:
    """Filters for root paths: the node and all below it."""
    found = []
    for definition in definitions:
        kind, path = definition.text("type"), definition.text("rootPath")
        definition.rest()
        if kind.casefold() not in ("opcuarootpath", ""):
            definition.lost("type", kind, "is no OpcUaRootPath")
            continue
        steps = [step for step in path.split("/") if step]
        if steps[-1:] != ["**"]:
            steps.append("**")
        found.append("/" + "/".join(steps))
    return found


def _filter(path: str, prefix: str, group: str) -> dict[str, Any]:
    made: dict[str, Any] = {"path": path}
    if prefix:
        made["prefix"] = f"{prefix}/"
    if group:
        made["group"] = group
    return made


def _group(group: Bag) -> tuple[dict[str, Any], str]:
    """The settings of a group, and whose time its samples have."""
    found: dict[str, Any] = {}
    scan = group.bag("scanMode")
    kind = scan.word("type", {"Exception": "subscribe", "Poll": "poll"})
    rate = scan.seconds("rate", 0.001)
    stamp = scan.word("timestampToReturn", {"SourceTime": "source", "ServerTime": "server"}) or ""
    scan.rest()
    if kind == "poll":
        found["mode"] = "poll"
        if rate is not None:
            found["pollInterval"] = duration(scan, "rate", rate, 0.05, 86_400)
    elif rate is not None:
        found["samplingInterval"] = duration(scan, "rate", rate, 0, 3600)
    subscription = group.bag("subscription")
    publishing = subscription.seconds("publishingIntervalMilliseconds", 0.001)
    if publishing:
        found["publishingInterval"] = duration(subscription, "publishingIntervalMilliseconds", publishing, 0.01, 3600)
    trigger = subscription.word("dataChangeTrigger", _TRIGGERS)
    if trigger is not None:
        found["trigger"] = trigger
    queue = subscription.number("queueSize")
    if queue is not None and queue >= 1:
        found["queueSize"] = min(1_000_000, int(queue))
    snapshot = subscription.seconds("snapshotFrequencyMilliseconds", 0.001)
    if snapshot:
        found["heartbeat"] = duration(subscription, "snapshotFrequencyMilliseconds", snapshot, 1, 86_400)
        subscription.changed(
            "snapshotFrequencyMilliseconds", snapshot, "is a heartbeat: the tag is read, and has the server's own time"
        )
    subscription.rest()
    _deadband(group.bag("deadband"), found)
    quality = group.bag("dataQuality")
    for key in ("allowGoodQuality", "allowBadQuality", "allowUncertainQuality"):
        if quality.flag(key) is False:
            quality.lost(key, False, "every quality is collected: choose in the preprocessor or at the sink")
    quality.rest()
    return found, stamp


def _deadband(deadband: Bag, found: dict[str, Any]) -> None:
    kind = deadband.word("type", {"Absolute": "absolute", "Percent": "percent"})
    value = deadband.number("value")
    low, high = deadband.number("eguMin"), deadband.number("eguMax")
    if (timeout := deadband.take("timeoutMilliseconds")) is not None:
        deadband.lost("timeoutMilliseconds", timeout, "has no counterpart: a heartbeat tells that a value still holds")
    deadband.rest()
    if kind is None or value is None:
        return
    if value <= 0 or (kind == "percent" and value > 100):
        deadband.lost("value", value, "is no width of a deadband")
        return
    made: dict[str, Any] = {kind: value}
    if low is not None and high is not None and low < high:
        made |= {"low": low, "high": high} if kind == "percent" else {}
    elif low is not None or high is not None:
        deadband.lost("eguMin", [low, high], "is no range, from low to high")
    found["deadband"] = made
