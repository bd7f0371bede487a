"""sluice check: site documents, merges, recipes and tag files, before anything is deployed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import WRONG, Failure, answer, console

if TYPE_CHECKING:
    from rich.console import Console

    from cli.document import Document
    from cli.limits import Nucleus
    from cli.site_check import Report

_TABLES = (".csv", ".tsv", ".txt")


class Runs(str, Enum):
    """Which nucleus the cores of a deployment run."""

    ANY = "any"
    CLASSIC = "classic"
    LITE = "lite"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("check")(check)


def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Site documents, recipes, tag files (CSV), or merges with --component; else all there are."
        ),
    ] = None,
    component: Annotated[
        str, typer.Option(help="The files are what is merged into this component, such as io.sluice.StreamExporter.")
    ] = "",
    nucleus: Annotated[
        Runs, typer.Option(help="What the cores run: lite makes errors of what lite cannot.")
    ] = Runs.ANY,
    change: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Fraction of sampling intervals in which a tag changes.")
    ] = 1.0,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail as well.")] = False,
    run_tests: Annotated[
        bool,
        typer.Option("--run-tests", help="Run the tests of flows as well: site.tests.yaml beside site.yaml."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Check configuration: every mistake with file, line, column and remedy, and what it will cost to run.

    Ends with 1 when there are errors. Unknown keys are errors here, though a device runs on with them.
    """
    from rich.text import Text

    with console.status("Checking") as status:  # on a terminal: a document of 200,000 tags takes 20 s

        def progress(path: Path) -> None:
            status.update(Text(f"Checking {path}"))

        chosen = files or everything()
        reports = check_files(
            chosen, component=component, nucleus=nucleus.value, change=change, progress=progress, run_tests=run_tests
        )
    errors = sum(report.findings.count("error") for report in reports)
    warnings = sum(report.findings.count("warning") for report in reports)
    failed = bool(errors or (strict and warnings))
    result = {
        "ok": not failed,
        "errors": errors,
        "warnings": warnings,
        "files": [report.as_dict() for report in reports],
    }
    answer(result, as_json, lambda shown: _show(shown, reports, errors, warnings))
    if failed:
        raise typer.Exit(WRONG)


def everything() -> list[Path]:
    """The repository's recipes and examples, relative to the working folder where they lie below it."""
    from cli.flow_tests import documents
    from cli.suite import REPOSITORY

    found = [REPOSITORY / "recipe.yaml", *sorted((REPOSITORY / "recipes").glob("*.yaml"))]
    found += documents(REPOSITORY / "examples")
    here = Path.cwd()
    return [path.relative_to(here) if path.is_relative_to(here) else path for path in found]


def check_files(
    files: Sequence[Path],
    *,
    component: str = "",
    nucleus: Nucleus = "any",
    change: float = 1.0,
    progress: Callable[[Path], None] = lambda path: None,
    run_tests: bool = False,
) -> list[Report]:
    """A report on each file, whatever kind it is. Raises Failure when one is of no kind that is known.

    run_tests: the tests beside a document are run when nothing is wrong with it, and are a file of their own.
    """
    reports = []
    for path in files:
        progress(path)
        report = _check_file(path, component, nucleus, change)
        reports.append(report)
        if run_tests and not component and not report.findings.count("error"):
            from cli.flow_tests import tests_of
            from cli.gateway import PREPROCESSOR
            from sluice.config import Problem

            tests = tests_of(path)
            if tests != path and tests.exists() and tests not in files:
                progress(tests)
                reports.append(_check_file(tests, component, nucleus, change))
            elif tests != path and not tests.exists() and report.flows:
                problem = Problem("flows", None, "have no tests that could be run", f"write some in {tests.name}")
                report.findings.add("warning", PREPROCESSOR, problem)
    return reports


def checked(path: Path) -> Document:
    """The site document at `path` when it has no errors. Raises Failure, whose text is what `sluice check` shows."""
    from cli.document import load
    from cli.site_check import check_document

    document = load(path)
    report = check_document(document)
    errors = [str(finding) for finding in report.findings if finding.level == "error"]
    if errors:
        raise Failure("\n".join([*errors, _summary(report.findings.count("error"), 0)]))
    return document


def _check_file(path: Path, component: str, nucleus: Nucleus, change: float) -> Report:
    from cli import document, site_check
    from cli.finding import Findings
    from cli.flow_tests import is_tests, run
    from sluice.config import Problem

    try:
        if component:
            from cli.suite import find

            made = document.merge_of(path, find(component).name)
            return site_check.check_document(made, nucleus=nucleus, change=change)
        if path.suffix.lower() in _TABLES:
            from cli.tag_file import check_tag_file

            return site_check.Report(check_tag_file(path))
        tree = document.Tree.read(path)
        if isinstance(tree.value, dict) and "RecipeFormatVersion" in tree.value:
            from cli.recipe_lint import check_recipe

            return site_check.Report(check_recipe(tree))
        if is_tests(tree):
            findings = Findings(path)
            result = run(path, findings)
            return site_check.Report(findings, tests=result)
        if isinstance(tree.value, dict) and "components" not in tree.value:
            from cli.suite import members

            known = {key for member in members().values() for key in member.defaults}
            if known & set(tree.value):
                raise Failure(f"{path}: looks like the configuration of one component: name it with --component")
        return site_check.check_document(document.load(path), nucleus=nucleus, change=change)
    except document.DocumentError as error:
        findings = Findings(path)
        for fault in error.faults:
            problem = Problem(fault.place or "file", None, fault.problem, fault.remedy)
            findings.at("error", (fault.line, fault.column), "", problem)
        return site_check.Report(findings)


# --- for people -----------------------------------------------------------------------------------------------------


def _show(shown: Console, reports: Sequence[Report], errors: int, warnings: int) -> None:
    for report in reports:
        for finding in report.findings:
            shown.print(str(finding), soft_wrap=True)
        left_out = sum(report.findings.left_out.values())
        if left_out:
            shown.print(f"{report.path}: {left_out} more are not shown", soft_wrap=True)
    for report in reports:
        if report.estimate is not None and not report.findings.count("error"):
            _show_estimate(shown, report)
    for report in reports:
        if report.tests is not None:
            told = f"{_many(report.tests.passed, 'test')} passed, {report.tests.failed} failed"
            shown.print(f"{report.path}: {told}", soft_wrap=True)
    shown.print(f"{_summary(errors, warnings)} in {_many(len(reports), 'file')}", soft_wrap=True)


def _show_estimate(shown: Console, report: Report) -> None:
    from rich.table import Table

    found = report.estimate
    assert found is not None
    shown.print(
        f"\n{report.path}: at most, when a tag changes in {found.change:.0%} of its sampling intervals", soft_wrap=True
    )
    if found.connections:
        table = Table("connection", box=None, pad_edge=False)
        for heading in ("tags", "values/s", "outage that the disk covers"):
            table.add_column(heading, justify="right")
        for one in found.connections:
            rate = "as fast as it can" if one.values_per_s is None else f"{one.values_per_s:,.1f}"
            table.add_row(one.source, f"{one.tags:,}", rate, _hours(one.outage_hours))
        shown.print(table)
        for one in found.connections:
            if one.requests_per_s is not None and one.bytes_per_s is not None:
                shown.print(
                    f"{one.source}: {_many(one.streams or 0, 'stream')}, {one.requests_per_s:,.1f} requests/s, "
                    f"{one.bytes_per_s / 1000:,.1f} kB/s of answers, {_many(one.sockets or 0, 'websocket')}",
                    soft_wrap=True,
                )
    if found.sinks:
        table = Table("sink", "kind", box=None, pad_edge=False)
        for heading in ("values/s", "kB/s", "GB of flash/day", "disk"):
            table.add_column(heading, justify="right")
        table.add_column("needs")
        for sink in found.sinks:
            table.add_row(
                sink.sink,
                sink.kind,
                f"{sink.values_per_s:,.1f}",
                f"{sink.bytes_per_s / 1000:,.1f}",
                f"{sink.flash_gb_per_day:,.3f}",
                f"{sink.disk_bytes / 1e6:,.0f} MB",
                _needs(sink),
            )
        shown.print(table)
    shown.print(
        f"all: {found.values_per_s:,.1f} values/s, {found.flash_gb_per_day:,.3f} GB of flash/day, "
        f"up to {found.disk_bytes / 1e9:,.1f} GB of disk\n",
        soft_wrap=True,
    )


def _needs(sink: Any) -> str:
    if sink.requests_per_s is not None:
        return f"{sink.requests_per_s:,.1f} requests/s"
    if sink.shards is not None:
        return f"{_many(sink.shards, 'shard')}, {sink.records_per_s:,.1f} records/s"
    return f"{sink.objects_per_day:,.0f} objects/day"


def _hours(hours: float | None) -> str:
    if hours is None:
        return "-"
    return f"{hours:,.1f} h" if hours < 72 else f"{hours / 24:,.0f} d"


def _summary(errors: int, warnings: int) -> str:
    return f"{_many(errors, 'error')}, {_many(warnings, 'warning')}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
