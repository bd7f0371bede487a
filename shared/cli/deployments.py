"""What a deployment of a document does beyond the configuration of the suite's components."""

from __future__ import annotations

import difflib
import re
from typing import Final

from cli.document import Document
from cli.finding import Findings
from cli.gateway import Gateway
from cli.suite import members
from sluice import tag_package
from sluice.config import Problem

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_VERSION: Final = re.compile(r"\d{1,6}\.\d{1,6}\.\d{1,6}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


def check_components(document: Document, findings: Findings) -> None:
    """Unknown components, versions of other times, and changes of what does not belong to the suite."""
    suite = members()
    if not document.components:
        nothing = Problem("components", None, "has no component", "add one, with its configurationUpdate")
        findings.at("warning", document.at(("components",)), "", nothing)
    for name, entry in document.components.items():
        at = document.at(("components", name))
        if not _NAME.fullmatch(name):
            remedy = "use 1 to 128 letters, digits, dots, hyphens and underscores"
            findings.at("error", at, name, Problem("components", name, "is no name of a component", remedy))
        if entry.version is not None and not _VERSION.fullmatch(entry.version):
            place = document.at(("components", name, "componentVersion"))
            wrong = Problem("componentVersion", entry.version, "is no version", 'write it such as "0.1.0"')
            findings.at("error", place, name, wrong)
            continue
        if name in suite:
            version = suite[name].version
            if entry.version is not None and entry.version != version:
                at = document.at(("components", name, "componentVersion"))
                problem = f"is not the version of this repository, {version}, whose settings it was checked against"
                remedy = "check it with the tool of the version that is deployed, or leave componentVersion out"
                findings.at("warning", at, name, Problem("componentVersion", entry.version, problem, remedy))
            if suite[name].settings is None and entry.merge:
                problem = "has no configuration"
                findings.at("error", at, name, Problem(name, None, problem, "take configurationUpdate out"))
        elif name.startswith("io.sluice.") and not name.startswith(tag_package.PREFIX):
            near = difflib.get_close_matches(name, suite, 1)
            remedy = f"did you mean {near[0]}?" if near else f"the components are: {', '.join(suite)}"
            findings.at("error", at, name, Problem("components", name, "is no component of Sluice", remedy))
        elif entry.merge or entry.reset:
            problem = "is changed by this document, and does not belong to Sluice"
            remedy = "see that its other users agree; leave configurationUpdate out to leave it as it is"
            findings.at("warning", at, name, Problem("components", name, problem, remedy))
    twins: dict[str, str] = {}
    for name in document.components:
        other = twins.setdefault(name.casefold(), name)
        if other != name:
            problem = f"is the same name as {other} to Greengrass, which ignores case"
            at = document.at(("components", name))
            findings.at("error", at, name, Problem("components", name, problem, "remove one of the two"))


def check_validation(gateway: Gateway, findings: Findings) -> None:
    """The trap of `validateDeployments`: once one component answers, the nucleus waits for every one that changes.

    StreamManager and other components of AWS do not answer, so a deployment that changes them and one of ours fails.
    """
    document = gateway.document
    answers = [name for name, one in gateway.components.items() if one.config.validate_deployments]
    if not answers:
        return
    changed = [name for name, entry in document.components.items() if entry.merge or entry.reset]
    silent = [name for name in changed if name not in answers]
    for name in answers:
        if silent:
            problem = (
                f"is set, and {', '.join(silent)} in the same document does not validate: the nucleus waits for all "
                "that change, and fails the deployment"
            )
            remedy = "set validateDeployments in all of Sluice's components and deploy changes of others apart"
            if all(one in gateway.components for one in silent):
                remedy = f"set it in {', '.join(silent)} too, or nowhere"
            findings.add("error", name, Problem("validateDeployments", True, problem, remedy))
