"""Everything that can be said about a document without a device: each check in its order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.aliases import check_aliases
from cli.deployments import check_components, check_validation
from cli.document import Document, parse_place
from cli.estimate import Estimate, check_estimate, estimate
from cli.finding import Findings, Level
from cli.flow_tests import Result
from cli.gateway import Configured, Gateway
from cli.keys import check_keys, check_twins
from cli.limits import Nucleus, check_deployment, check_lite, check_names, check_plain_secrets
from cli.routes import check_routes
from sluice.config import Problem
from sluice.problem import render


@dataclass(frozen=True)
class Report:
    """What came out of one file. `estimate` is None where there is nothing to estimate, `tests` where none were run."""

    findings: Findings
    estimate: Estimate | None = None
    tests: Result | None = None
    flows: int = 0
    """Flows of a preprocessor that can run."""

    @property
    def path(self) -> Path:
        return self.findings.file

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "file": str(self.path),
            "findings": [finding.as_dict() for finding in self.findings],
            "left_out": self.findings.left_out,
            "estimate": None if self.estimate is None else self.estimate.as_dict(),
            **({} if self.tests is None else {"tests": {"passed": self.tests.passed, "failed": self.tests.failed}}),
        }


def check_document(document: Document, *, nucleus: Nucleus = "any", change: float = 1.0) -> Report:
    """All checks of a site document.

    nucleus: what the core is known to run; with `any`, what only nucleus lite minds is a warning.
    change: the fraction of sampling intervals in which a tag has a new value, for the estimates.
    """
    findings = Findings(document.path, document.line)
    gateway = Gateway.of(document)
    check_keys(document, findings)
    check_components(document, findings)
    check_deployment(document, findings)
    for configured in gateway.components.values():
        check_component(configured, findings, nucleus)
    check_twins(document, findings)
    check_routes(gateway, findings)
    if gateway.preprocessor is not None:
        from cli.flow_tags import check_tags

        check_tags(gateway, findings)
    check_names(gateway, findings)
    check_aliases(gateway, findings)
    check_validation(gateway, findings)
    found = estimate(gateway, change)
    check_estimate(gateway, found, findings)
    count = 0 if gateway.preprocessor is None else len(gateway.preprocessor.config.flows)
    return Report(findings, found if found.connections or found.sinks else None, flows=count)


def check_component(configured: Configured, findings: Findings, nucleus: Nucleus = "any") -> None:
    """One component's configuration: its models, its own checks, the nuclei's limits, secrets in plain text.

    Problems have the words that the component's status has, for the same code finds them.
    """
    name = configured.member.name
    for problem in configured.loaded.problems:
        findings.add("error", name, problem)
    for warning in configured.loaded.warnings:
        # A device runs on with a key that nobody reads. Whoever writes a document wants to know.
        findings.add("error" if warning.problem == "is an unknown key" else "warning", name, warning)
    both: tuple[tuple[Level, list[Problem]], ...] = (
        ("error", configured.checked),
        ("warning", configured.suspicious),
    )
    for level, problems in both:
        for problem in problems:
            table = _table(configured, problem)
            if table is None:
                findings.add(level, name, problem)
            else:
                findings.at(level, (problem.line, 1), name, problem, table)
    _absent_tables(configured, findings)
    check_lite(configured, findings, nucleus)
    check_plain_secrets(configured, findings)


def _table(configured: Configured, problem: Problem) -> Path | None:
    """The table in whose line the problem lies."""
    if not problem.line:
        return None
    if " line " in problem.path:  # of instances: models.pump.instancesFile line 7 size
        place = parse_place(problem.path.partition(" line ")[0])
        return configured.instance_tables(place[1]).get(place[2]) if place[0] == "models" else None
    place = parse_place(problem.path)
    if len(place) < 3 or place[0] != "connections":
        return None
    return configured.tables(place[1]).get(place[2])


def _absent_tables(configured: Configured, findings: Findings) -> None:
    """Tables that only the device has: nothing is wrong with that, but nothing is known of their tags either."""
    for model in getattr(configured.config, "models", ()):
        for setting, path in configured.instance_tables(model).items():
            if (setting == "instancesPackage" or path.is_absolute()) and "\0" not in str(path) and not path.exists():
                place = render(("models", model, setting))
                remedy = "check the table by itself: sluice check instances.csv"
                told = Problem(place, None, "is not here: its instances are not checked", remedy)
                findings.add("note", configured.member.name, told)
    for connection in getattr(configured.config, "connections", ()):
        for setting, path in configured.tables(connection).items():
            if not path.exists() and (setting == "tagsPackage" or path.is_absolute()):
                what = "is not here: its tags are neither checked nor in the figures below"
                remedy = "check the table by itself: sluice check tags.csv"
                place = render(("connections", connection, setting))
                said = any(one.problem.path == place for one in findings.found)
                if not said:
                    findings.add("note", configured.member.name, Problem(place, None, what, remedy))
