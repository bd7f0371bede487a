"""sluice schema: a component's settings as JSON Schema or as a table, and the tables of the READMEs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import Failure, answer, emit, say

if TYPE_CHECKING:
    from cli.suite import Member


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("schema")(schema)


def schema(
    component: Annotated[str, typer.Argument(help="Such as io.sluice.StreamExporter or stream-exporter.")] = "",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The table of settings in place of JSON Schema.")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Make the tables in components/*/README.md anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON, also with --markdown.")] = False,
) -> None:
    """Show every setting of a component, with its meaning, limits and default."""
    from cli.settings_table import json_schema, settings
    from cli.settings_table import markdown as table

    if write:
        changed = write_tables()
        answer({"written": [str(path) for path in changed]}, as_json, lambda console: _say_written(changed))
        return
    member = _member(component)
    model = member.settings
    assert model is not None
    if not markdown:
        answer(json_schema(model, member.name), True, lambda console: None)
    elif as_json:
        rows = [
            {name: getattr(row, name) for name in ("path", "of", "meaning", "allowed", "default")}
            for row in settings(model)
        ]
        answer({"component": member.name, "settings": rows}, True, lambda console: None)
    else:
        emit(f"{table(model)}\n".encode())


def write_tables() -> list[Path]:
    """Make the table in each component's README anew; the files that changed. Raises Failure."""
    from cli.settings_table import readme_of, written
    from cli.suite import REPOSITORY, members

    changed = []
    for member in members().values():
        if member.settings is None:
            continue
        path = readme_of(member.package, REPOSITORY)
        try:
            before = path.read_text(encoding="utf-8")
            after = written(before, member.settings)
            if after != before:
                path.write_text(after, encoding="utf-8")
                changed.append(path)
        except (OSError, ValueError) as error:
            raise Failure(f"{path}: {error}") from None
    return changed


def _say_written(changed: list[Path]) -> None:
    for path in changed:
        say(f"written: {path}")
    if not changed:
        say("the tables are up to date")


def _member(name: str) -> Member:
    from cli.suite import find

    return find(name)
