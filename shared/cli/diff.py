"""sluice diff: what a deployment would change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import answer

if TYPE_CHECKING:
    from rich.console import Console

    from cli.difference import ComponentDifference


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("diff")(diff)


def diff(
    old: Annotated[Path, typer.Argument(help="What is deployed: a site document, or what get-deployment answered.")],
    new: Annotated[Path, typer.Argument(help="What would be deployed.")],
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Show what a deployment of NEW changes where OLD is deployed: paths, versions, restarts, and the resets it needs.

    A merge cannot delete: what OLD merged and NEW has no more stays on the devices until it is reset. `sluice deploy`
    adds these resets by itself.
    """
    from cli.difference import difference
    from cli.document import load

    found = difference(load(old), load(new))
    result = {"changes": bool(found), "components": [one.as_dict() for one in found]}
    answer(result, as_json, lambda console: _show(console, found))


def _show(console: Console, found: Sequence[ComponentDifference]) -> None:
    for one in found:
        before, after = one.versions
        if one.kind == "changed":
            versions = f"{before} -> {after}" if before != after else f"{after or ''}"
            console.print(f"~ {one.name} {versions}".rstrip(), soft_wrap=True)
        else:
            mark, version = ("+", after) if one.kind == "added" else ("-", before)
            console.print(f"{mark} {one.name} {version or ''}".rstrip(), soft_wrap=True)
        for difference in one.differences:
            console.print(f"    {difference}", soft_wrap=True)
        for pointer in one.reset:
            console.print(f'    reset "{pointer}"', soft_wrap=True)
        for nucleus, why in (one.restarts or {}).items():
            console.print(f"    restarts on {nucleus}: {why}", soft_wrap=True)
        if one.kind == "changed" and one.differences and "classic" not in (one.restarts or {}):
            console.print("    applies live on classic", soft_wrap=True)
    if not found:
        console.print("nothing changes")
