"""sluice import: another product's OPC UA configuration as a site document that passes `sluice check`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.output import IN_THE_WAY, WRONG, Failure, answer
from cli.tag_file import table_text

if TYPE_CHECKING:
    from rich.console import Console

    from cli.imported import Made, Notes

TAGS_IN_A_TABLE: Final = 50
"""Tags of a connection from which on they go into a table beside the document."""
_LARGEST: Final = 64_000_000
_DEEPEST: Final = 200
_TRIES: Final = 8  # at most so often is what cannot be used taken out again

Source = Annotated[Path, typer.Argument(help="The other product's file (JSON).", show_default=False)]
Output = Annotated[Path, typer.Option(help="The site document to write; tables and certificates go beside it.")]
Force = Annotated[bool, typer.Option("--force", help="Write over files that are there.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    imports = typer.Typer(no_args_is_help=True, help="Make a site document of another product's OPC UA configuration.")
    imports.command("sitewise")(sitewise)
    imports.command("publishednodes")(publishednodes)
    app.add_typer(imports, name="import")


def sitewise(source: Source, output: Output = Path("site.yaml"), force: Force = False, as_json: AsJson = False) -> None:
    """Sources of the AWS IoT SiteWise OPC UA collector (iotsitewise:opcuacollector:2 and 3).

    Ends with 1 when something could not be carried over; the document is written all the same, and what it is, is told.
    """
    from cli.sitewise_source import connections_of

    _import(source, output, connections_of, force, as_json)


def publishednodes(
    source: Source, output: Output = Path("site.yaml"), force: Force = False, as_json: AsJson = False
) -> None:
    """publishednodes.json of Azure's OPC Publisher.

    Ends with 1 when something could not be carried over; the document is written all the same, and what it is, is told.
    Passwords are never copied.
    """
    from cli.published_nodes import connections_of

    _import(source, output, connections_of, force, as_json)


def _import(
    source: Path, output: Path, connections_of: Callable[[Any, Notes], Made], force: bool, as_json: bool
) -> None:
    from cli.imported import Notes

    notes = Notes()
    made = connections_of(_read(source), notes)
    usable(made, notes)
    tags = {name: len(one.get("tags", {})) for name, one in made.connections.items()}
    filters = {name: len(one.get("select", {})) for name, one in made.connections.items()}
    files = documents(made, output)
    _write(output.parent, files, force)
    result = {
        "ok": not notes.lost,
        "document": str(output),
        "files": [str(output.parent / name) for name in files if name != output.name],
        "connections": {name: {"tags": tags[name], "filters": filters[name]} for name in made.connections},
        "lost": notes.lost,
        "notes": [note.as_dict() for note in notes],
        "notes_left_out": notes.left_out,
    }
    answer(result, as_json, lambda shown: _show(shown, result, notes))
    if notes.lost:
        raise typer.Exit(WRONG)


def _read(path: Path) -> Any:
    """Raises Failure."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        raise Failure(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}): give a JSON file"
        ) from None
    if len(data) > _LARGEST:
        raise Failure(f"{path}: is larger than {_LARGEST:,} bytes: split it")
    try:
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once)
    except UnicodeDecodeError:
        raise Failure(f"{path}: is not UTF-8 text: save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise Failure(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}: correct it there") from None
    except _TwiceError as error:
        raise Failure(f"{path}: has the key {error} twice in one object: rename or delete one of the two") from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise Failure(f"{path}: not valid JSON ({' '.join(str(error).split())[:100]}): correct it") from None
    if (strange := _strange(content)) is not None:
        raise Failure(f"{path}: {strange!r:.100} holds a NUL or half a character, which no table can hold: correct it")
    if _too_deep(content):
        raise Failure(f"{path}: is nested more than {_DEEPEST} levels deep: it is no such configuration")
    return content


def _strange(content: Any) -> str | None:
    """A text that cannot be written."""
    level = [content]
    for _ in range(_DEEPEST):
        following: list[Any] = []
        for one in level:
            if isinstance(one, str) and ("\0" in one or any("\ud800" <= letter <= "\udfff" for letter in one)):
                return one
            if isinstance(one, dict):
                following += one
                following += one.values()
            elif isinstance(one, list):
                following += one
        level = following
    return None


class _TwiceError(Exception):
    """A key of an object: all but the last would be dropped without a word."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(repr(next(key for key in found if keys.count(key) > 1))[:100])
    return found


def _too_deep(content: Any) -> bool:
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def usable(made: Made, notes: Notes) -> None:
    """Take out what the collector would refuse, and tell it in the collector's words."""
    from cli.document import parse_place
    from opcua_collector.config import Configuration
    from sluice.config import load
    from sluice.problem import Problem

    for _ in range(_TRIES):
        loaded = load(Configuration, {"connections": made.connections})
        problems: list[Problem] = [*loaded.problems, *loaded.warnings]
        if not problems:
            return
        for problem in problems:
            place = parse_place(problem.path)
            entry: Any = made.connections
            depth = 4 if len(place) >= 4 and place[2] in ("tags", "groups", "select") else 2
            for key in place[1 : depth - 1]:
                entry = entry.get(key, {}) if isinstance(entry, Mapping) else {}
            if len(place) < 2 or not isinstance(entry, dict) or entry.pop(place[depth - 1], None) is None:
                continue  # another problem of the same entry has taken it out
            what = "the connection" if depth == 2 else f"{place[3]} of {place[2]}"
            notes.add("lost", problem.path, problem.value, f"{problem.problem}: {what} is left out")
    made.connections.clear()
    notes.add("lost", "", None, "nothing of it can be used")


def documents(made: Made, output: Path) -> dict[str, str]:
    """The document and what goes beside it, by file name. Long lists of tags become tables."""
    import yaml

    files = {**made.files}
    connections = {}
    for name, connection in made.connections.items():
        settings = dict(connection)
        tags = settings.get("tags", {})
        if len(tags) >= TAGS_IN_A_TABLE:
            table = f"{output.stem}-{name}.csv"
            files[table] = _table(settings.pop("tags"))
            settings["tagsFile"] = table
        connections[name] = settings
    merge = {"connections": connections}
    document = {"components": {"io.sluice.OpcUaCollector": {"configurationUpdate": {"merge": merge}}}}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return {output.name: text, **files}


def _table(tags: Mapping[str, Mapping[str, Any]]) -> str:
    from opcua_collector.tags import COLUMNS

    used = [column for column in COLUMNS if column == "tag" or any(column in tag for tag in tags.values())]
    rows = ([name if column == "tag" else tag.get(column, "") for column in used] for name, tag in tags.items())
    return table_text([used, *rows])


def _write(folder: Path, files: Mapping[str, str], force: bool) -> None:
    """Raises Failure; nothing is written when one of them is there already."""
    there = [str(folder / name) for name in files if (folder / name).exists()]
    if there and not force:
        raise Failure(f"{', '.join(there)}: there already: name another --output, or say --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
    except OSError as error:
        raise Failure(f"{folder}: cannot be written ({error.strerror}): name another --output", IN_THE_WAY) from None


def _show(shown: Console, result: Mapping[str, Any], notes: Notes) -> None:
    from rich.table import Table

    shown.print(f"{result['document']} has been written", soft_wrap=True)
    for file in result["files"]:
        package = ", or as a tag package" if file.endswith(".csv") else ""
        shown.print(f"{file} goes with it: into the component's work folder{package}", soft_wrap=True)
    for name, counts in result["connections"].items():
        shown.print(f"{name}: {counts['tags']:,} tags, {counts['filters']:,} filters", soft_wrap=True)
    if result["notes"]:
        table = Table("", "where", "what", "why", box=None, pad_edge=False)
        for note in notes:
            times = f" ({note.count:,} times)" if note.count > 1 else ""
            table.add_row(note.level, f"{note.place}{times}", note.value, note.why)
        shown.print(table)
    if notes.left_out:
        shown.print(f"{notes.left_out:,} more are not shown")
    shown.print(
        f"{notes.lost:,} things could not be carried over" if notes.lost else "everything was carried over",
        soft_wrap=True,
    )
