"""Limits outside the components: of the nuclei, of deployments, of AWS's names; and secrets in plain text."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from cli.document import Document
from cli.finding import Findings, Level
from cli.gateway import PREPROCESSOR, Configured, Gateway
from sluice.config import Problem
from sluice.problem import render
from sluice.schema import Place

Nucleus = Literal["any", "classic", "lite"]

MOST_KEYS: Final = 256
MOST_CHILDREN: Final = 60
DEEPEST: Final = 10
LONGEST_LEAF: Final = 999  # characters of JSON
LARGEST_MERGE: Final = 10_485_760
LONGEST_POINTER: Final = 256
_OVER_MQTT: Final = {"a thing": 7_000, "a thing group": 31_000}
_LITE_MESSAGE: Final = 7_000
_HOLDS_SECRET: Final = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----")
_ELSEWHERE: Final = "move long tag lists into a CSV file (tagsFile) or a tag package (tagsPackage)"
_IN_FLOWS: Final = (
    "move the instances of models into a table (instancesFile), let patterns and models take the place of steps that "
    "are alike, or have fewer flows"
)


# --- nucleus lite ---------------------------------------------------------------------------------------------------


def check_lite(configured: Configured, findings: Findings, nucleus: Nucleus) -> None:
    """What nucleus lite cannot keep of a configuration: an error when the core is known to run it, else a warning."""
    if nucleus == "classic":
        return
    level: Level = "error" if nucleus == "lite" else "warning"
    name = configured.member.name
    elsewhere = _IN_FLOWS if name == PREPROCESSOR else _ELSEWHERE
    keys = 0
    for place, mapping in _mappings(configured.raw):
        keys += len(mapping)
        if len(mapping) > MOST_CHILDREN:
            problem = f"has {len(mapping)} entries, and nucleus lite takes {MOST_CHILDREN} in one map"
            findings.add(level, name, Problem(render(place), None, problem, elsewhere))
        if mapping and len(place) >= DEEPEST:
            problem = f"is nested {len(place)} levels deep, and nucleus lite takes {DEEPEST}"
            findings.add(level, name, Problem(render(place), None, problem, "write it flatter"))
        for key, leaf in mapping.items():
            size = 0 if isinstance(leaf, Mapping) else len(json.dumps(leaf))
            if size > LONGEST_LEAF:
                problem = f"is {size} characters long, and nucleus lite takes {LONGEST_LEAF}"
                findings.add(level, name, Problem(render((*place, key)), None, problem, "shorten it"))
    if keys > MOST_KEYS:
        problem = f"has {keys} keys with accessControl, and nucleus lite keeps {MOST_KEYS} of a component"
        findings.add(level, name, Problem("", None, problem, elsewhere))
    if nucleus == "lite":
        wanted = configured.config.max_message_bytes
        if wanted != "auto" and wanted > _LITE_MESSAGE:
            remedy = f"use auto; {_LITE_MESSAGE} applies"
            findings.add("error", name, Problem("maxMessageBytes", wanted, "is more than nucleus lite takes", remedy))
        for place, mapping in _mappings(configured.raw):
            if place and place[-1] == "password" and mapping.get("secret"):
                problem = f"the secret {mapping['secret']} cannot be read: this nucleus has no Secret Manager"
                remedy = "put it into a file of mode 0600 and write {file: <path>} instead of {secret: …}"
                findings.add("error", name, Problem(render(place), None, problem, remedy))


def _mappings(value: Any, place: Place = ()) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        yield place, value
        for key, inner in value.items():
            if isinstance(inner, Mapping):
                yield from _mappings(inner, (*place, key))


# --- deployments ----------------------------------------------------------------------------------------------------


def check_deployment(document: Document, findings: Findings) -> None:
    """Sizes and reset pointers of what the service is sent."""
    total = 0
    for name, entry in document.components.items():
        size = len(json.dumps(entry.merge, ensure_ascii=False))
        total += size + sum(map(len, entry.reset)) + len(name) + 60
        if size > LARGEST_MERGE:
            problem = f"is {size} characters as JSON, and a deployment takes {LARGEST_MERGE}"
            findings.add("error", name, Problem("", None, problem, _ELSEWHERE))
        for index, pointer in enumerate(entry.reset):
            wrong = _pointer_problem(pointer)
            if wrong is not None:
                at = document.at(("components", name, "configurationUpdate", "reset", f"[{index}]"))
                findings.at("error", at, name, Problem(f"reset[{index}]", pointer, *wrong))
    over = [kind for kind, limit in _OVER_MQTT.items() if total > limit]
    if over:
        problem = f"is about {total} bytes, and is not sent by MQTT to {' or '.join(over)} but fetched"
        remedy = "allow greengrass:GetDeploymentConfiguration in the IoT policy of the core devices"
        findings.at("note", document.at(()), "", Problem("deployment", None, problem, remedy))


def _pointer_problem(pointer: str) -> tuple[str, str] | None:
    if pointer and not pointer.startswith("/"):
        return "is no JSON pointer", f'write it with slashes from the top, such as "/{pointer.replace(".", "/")}"'
    if len(pointer) > LONGEST_POINTER:
        return f"is longer than {LONGEST_POINTER} characters", "reset a map above it, and merge the rest of that again"
    if re.search(r"~(?![01])", pointer):
        return "has a ~ that stands for nothing", "write ~0 for ~ and ~1 for /"
    return None


# --- AWS ------------------------------------------------------------------------------------------------------------


def check_names(gateway: Gateway, findings: Findings) -> None:
    """Names that fit the component's model and not AWS."""
    exporter = gateway.exporter
    if exporter is None:
        return
    for name, sink in exporter.config.sinks.items():
        if sink.type == "s3":
            level, wrong = _bucket_problem(sink.bucket)
            if wrong is not None:
                findings.add(level, exporter.member.name, Problem(f"sinks.{name}.bucket", sink.bucket, *wrong))


def _bucket_problem(bucket: str) -> tuple[Level, tuple[str, str] | None]:
    try:
        ipaddress.IPv4Address(bucket)
        return "error", ("is an IP address, which S3 allows no bucket to be called", "give the bucket's name")
    except ValueError:
        pass
    if ".." in bucket or ".-" in bucket or "-." in bucket:
        return "error", ("is no name of a bucket: a dot stands beside a dot or hyphen", "give the bucket's name")
    if bucket.startswith(("xn--", "sthree-", "amzn-s3-demo-")) or bucket.endswith(("-s3alias", "--ol-s3", "--x-s3")):
        return "error", ("is a name that S3 keeps for itself", "give the bucket's name")
    if "." in bucket:
        problem = "has a dot, and TLS to s3 by the bucket's name does not know such names"
        return "warning", (problem, "use a bucket without dots in its name")
    return "note", None


# --- secrets --------------------------------------------------------------------------------------------------------


def check_plain_secrets(configured: Configured, findings: Findings) -> None:
    """Keys that stand in configuration as they are, wherever they stand: every component on the core can read it."""
    for place, mapping in _mappings(configured.raw):
        for key, leaf in mapping.items():
            if not isinstance(leaf, Mapping) and _HOLDS_SECRET.search(json.dumps(leaf)):
                problem = "holds a secret, which every component on the core could read"
                remedy = (
                    "take it out, and change it: it is in the deployment's history; what needs one takes a reference, "
                    "{secret: <name or ARN>, key: password} or {file: <path of a file of mode 0600>}"
                )
                findings.add("error", configured.member.name, Problem(render((*place, key)), "***", problem, remedy))
