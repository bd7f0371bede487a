"""sluice tags: checks a tag table, and makes a component of it that collectors find by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import WRONG, Failure, answer, say

if TYPE_CHECKING:
    from cli.finding import Findings
    from cli.tag_package import Package

Table = Annotated[
    Path,
    typer.Argument(
        help="CSV as a spreadsheet saves it: the columns tag and node (or path), for PI tag and point (or path)."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    tags = typer.Typer(no_args_is_help=True, help="Check tag tables (CSV), and make tag packages of them.")
    tags.command("check")(check)
    tags.command("package")(package)
    app.add_typer(tags, name="tags")


def check(
    files: Annotated[list[Path], typer.Argument(help="CSV files.", show_default=False)], as_json: AsJson = False
) -> None:
    """Check tag tables: every row, by the collector's own reader."""
    from cli.finding import counts
    from cli.tag_file import check_tag_file

    found = [check_tag_file(path) for path in files]
    levels = counts(found)
    _show(found, {"errors": levels["error"], "warnings": levels["warning"]}, as_json)
    if levels["error"]:
        raise typer.Exit(WRONG)


def package(
    file: Table,
    name: Annotated[str, typer.Option(help="Such as site-a: the component is then io.sluice.Tags.site-a.")],
    version: Annotated[
        str | None,
        typer.Option(help="Such as 1.2.0. Default: the next one when the tags have changed, the first one 1.0.0."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder with recipes/ and artifacts/.")] = Path("greengrass-build"),
    stage: Annotated[Path | None, typer.Option(help="Instead: folder for a gdk project of the package.")] = None,
    bucket: Annotated[str | None, typer.Option(help="With --stage: instead of the one in gdk-config.json.")] = None,
    region: Annotated[str | None, typer.Option(help="With --stage: instead of the one in gdk-config.json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a tag package: a component without a process that brings the tags to a device.

    A connection names it as `tagsPackage: site-a`; a new version applies while the collector runs. A table of instances
    makes one for an asset model's `instancesPackage`. The next version is counted from what lies in the output folder:
    keep that folder, or give --version.
    """
    from cli.tag_file import check_tag_file
    from cli.tag_package import package as write
    from cli.tag_package import stage as write_project
    from sluice.tag_package import component_name

    try:
        component = component_name(name)
    except ValueError as error:
        raise Failure(
            f"--name {name} {error}: use 1 to 64 letters, digits, dots, hyphens and underscores, beginning with a "
            "letter or digit"
        ) from None
    if stage is None and (bucket or region):
        raise Failure("--bucket and --region belong to --stage: the output folder has neither")
    findings = check_tag_file(file)
    if findings.count("error"):
        _show([findings], {"errors": findings.count("error"), "warnings": findings.count("warning")}, as_json)
        raise typer.Exit(WRONG)
    data = file.read_bytes()
    if stage is not None:
        made = write_project(data, component, version, stage, bucket, region)
    else:
        made = write(data, component, version, output)
    result = {
        "component": made.name,
        "version": made.version,
        "tags": made.tags,
        "changed": made.changed,
        "recipe": str(made.recipe),
        "artifact": str(made.artifact),
        "findings": [finding.as_dict() for finding in findings],
    }
    answer(result, as_json, lambda console: _say_made(findings, made))


def _say_made(findings: Findings, made: Package) -> None:
    for finding in findings:
        say(str(finding))
    if not made.changed:
        say(f"{made.name} {made.version} has these {made.tags} tags already: nothing to do")
        return
    say(f"{made.name} {made.version}: {made.tags} tags")
    say(f"{made.recipe}\n{made.artifact}")


def _show(found: Sequence[Findings], totals: dict[str, int], as_json: bool) -> None:
    every = [finding for findings in found for finding in findings]
    result = {**totals, "findings": [finding.as_dict() for finding in every]}

    def show() -> None:
        for finding in every:
            say(str(finding))
        left_out = sum(sum(findings.left_out.values()) for findings in found)
        if left_out:
            say(f"{left_out} more are not shown")
        say(", ".join(f"{count} {word[:-1] if count == 1 else word}" for word, count in totals.items()))

    answer(result, as_json, lambda console: show())
