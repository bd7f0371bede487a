"""sluice doctor: what is on a core and what is wrong with it, for the engineer and, as a bundle, for support."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.output import IN_THE_WAY, WRONG, Failure, answer, console, say

if TYPE_CHECKING:
    from rich.console import Console

    from cli.survey import Survey

LARGEST_BUNDLE: Final = 20_000_000
_ROOM: Final = LARGEST_BUNDLE - 500_000
"""Bytes of all texts before they are compressed: however badly they compress, the bundle stays below its limit."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("doctor")(doctor)


def doctor(
    root: Annotated[
        Path | None, typer.Option(help="The core's folder; default: /greengrass/v2 or /var/lib/greengrass.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write a bundle for support: a .tar.gz without secrets.")] = None,
    copied: Annotated[
        bool, typer.Option("--copied", help="The folder is a copy of another machine's: this one is not looked at.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Look at a core: versions, configuration, databases, certificates, disk, clock, logs.

    Nothing is changed. Exit status 1 when something is wrong; the output says what, and how to mend it.
    """
    from rich.text import Text

    from cli.survey import find_root, survey

    if output is not None and output.exists():
        raise Failure(f"--output {output}: exists already: give another name, or delete it", 2)
    with console.status("Looking at the core") as status:
        found = survey(find_root(root), lambda what: status.update(Text(f"Looking at {what}")), copied=copied)
    report = finished(found)
    if output is not None:
        write_bundle(output, found, report)
        say(
            f"Bundle written to {output} ({output.stat().st_size / 1e6:.1f} MB, without secrets): look into it before "
            f"you send it."
        )
    answer(report, as_json, lambda shown: _show(shown, report))
    if found.problems:
        raise typer.Exit(WRONG)


def finished(found: Survey) -> dict[str, Any]:
    """The report, out of which every secret was taken that was met anywhere."""
    report = {
        "ok": not found.problems,
        "problems": [{**problem.as_dict(), "text": str(problem)} for problem in found.problems],
        "notes": found.notes,
        **found.facts,
    }
    told = json.loads(found.redactor.finish(json.dumps(found.redactor.value(report), ensure_ascii=False)))
    assert isinstance(told, dict)
    return told


# --- the bundle ------------------------------------------------------------------------------------------------------


def write_bundle(path: Path, found: Survey, report: Mapping[str, Any]) -> None:
    """Write the support bundle, for its owner alone. Raises Failure."""
    members = {"report.json": json.dumps(report, indent=1, ensure_ascii=False)}
    room = _ROOM - len(members["report.json"].encode())
    waiting = sorted(found.texts.items(), key=lambda item: (item[0].startswith("logs/"), len(item[1])))
    for number, (name, text) in enumerate(waiting):
        # Small ones leave what they do not need to the others; of logs the end matters.
        share = max(0, room // (len(waiting) - number))
        content = found.redactor.finish(text).encode("utf-8", "replace")[-share:] if share else b""
        members[name] = content.decode("utf-8", "ignore")
        room -= len(content)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Failure(
            f"--output {path}: cannot be written ({error.strerror}): give another place", IN_THE_WAY
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, text in members.items():
                content = text.encode()
                entry = tarfile.TarInfo(f"sluice-doctor/{name}")
                entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
                archive.addfile(entry, io.BytesIO(content))
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise Failure(f"--output {path}: cannot be written ({error.strerror}): make room", IN_THE_WAY) from None


# --- for people ------------------------------------------------------------------------------------------------------


def _show(shown: Console, report: Mapping[str, Any]) -> None:
    from rich.table import Table

    nucleus = ", ".join(report["nucleus"]) or "version unknown"
    shown.print(f"{report['root']}: {report['profile']} ({nucleus})", soft_wrap=True)
    table = Table()
    for title in ("Component", "Version", "Process", "Kept", "Log (errors, warnings)"):
        table.add_column(title, overflow="fold")
    for name, facts in report["components"].items():
        kept = sum(one.get("tables", {}).get("batches", 0) for one in facts.get("databases", ()))
        lines = facts.get("log", {}).get("lines", {})
        process = facts.get("process")
        table.add_row(
            name,
            ", ".join(facts["versions"]),
            f"{process['pid']}, {(process['memory_kb'] or 0) / 1000:.0f} MB" if process else facts.get("state", "-"),
            f"{kept} batches, {facts.get('bytes', 0) / 1e6:.1f} MB",
            f"{lines.get('ERROR', 0)}, {lines.get('WARNING', 0)}",
        )
    shown.print(table)
    for problem in report["problems"]:
        shown.print(f"✗ {problem['text']}", soft_wrap=True)
    for note in report["notes"]:
        shown.print(f"- {note}", soft_wrap=True)
    shown.print("Nothing is wrong." if report["ok"] else f"{len(report['problems'])} problems.", soft_wrap=True)
