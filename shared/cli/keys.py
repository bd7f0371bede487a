"""Keys of a document that nobody reads, and keys that differ by case alone."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from cli.document import ENTRY_KEYS, UPDATE_KEYS, Document
from cli.finding import Findings
from sluice.config import Problem
from sluice.problem import pointer, render
from sluice.schema import Place

_TOP_KEYS = (
    "components",
    "targetArn",
    "deploymentName",
    "deploymentPolicies",
    "iotJobConfiguration",
    "parentTargetArn",
    "tags",
    "clientToken",
    # and what get-deployment answers
    "deploymentId",
    "revisionId",
    "iotJobId",
    "iotJobArn",
    "deploymentStatus",
    "creationTimestamp",
    "isLatestForTarget",
)
_MAPS = ("deploymentPolicies", "iotJobConfiguration", "tags")


def check_keys(document: Document, findings: Findings) -> None:
    """Unknown keys around the merges: inside, the components' models know them."""

    def look(value: Any, known: Collection[str], place: Place, component: str) -> None:
        for key in value if isinstance(value, Mapping) else ():
            if key in known:
                continue
            near = difflib.get_close_matches(key.lower(), {one.lower(): one for one in known}, 1, 0.6)
            nearest = next((one for one in known if near and one.lower() == near[0]), None)
            remedy = f"did you mean {nearest}?" if nearest else f"the keys here are: {', '.join(known)}"
            where = key if not component else f"components.{component}.{render((*place[2:], key))}"
            findings.at(
                "error", document.at((*place, key)), component, Problem(where, None, "is an unknown key", remedy)
            )

    def map_at(value: Any, place: Place, component: str) -> None:
        if value is not None and not isinstance(value, Mapping):
            problem = Problem(place[-1], value, "is not a map", "write key: value lines below it, or leave it out")
            findings.at("error", document.at(place), component, problem)

    look(document.raw, _TOP_KEYS, (), "")
    for key in _MAPS:
        map_at(document.raw.get(key), (key,), "")
    for name, entry in document.raw["components"].items():
        look(entry, ENTRY_KEYS, ("components", name), name)
        if isinstance(entry, Mapping):
            look(entry.get("configurationUpdate"), UPDATE_KEYS, ("components", name, "configurationUpdate"), name)
            map_at(entry.get("runWith"), ("components", name, "runWith"), name)


def check_twins(document: Document, findings: Findings) -> None:
    """Keys of one map that Greengrass takes for one, unless the component's own words have said so already."""
    said = {(finding.component, finding.problem.path) for finding in findings.found}
    for twin in document.twins:
        path = render(twin.place)
        if not twin.place or (twin.component, path) in said:
            continue
        problem = f"is the same name as {twin.other} to Greengrass, which ignores case"
        remedy = f'rename one of the two and remove this one with RESET "{pointer(twin.place)}"'
        findings.add("error", twin.component, Problem(path, None, problem, remedy))
