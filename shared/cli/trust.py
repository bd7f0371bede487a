"""sluice trust: which certificates of OPC UA servers this device believes; an engineer's decision, made on the device.

The collector writes what it refuses into pki/rejected of its work folder. This moves one of them to pki/trusted, where
the collector finds it at its next try, 30 s later at most. There is no command for it on the bus, nor from the cloud.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.output import IN_THE_WAY, Failure, answer, say

if TYPE_CHECKING:
    from rich.console import Console

    from opcua_collector.security.certificates import Facts

COMPONENT: Final = "io.sluice.OpcUaCollector"
_SHORTEST: Final = 6  # characters of a thumbprint that may stand for all of it
_MOST: Final = 1000


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("trust")(trust)


def trust(
    thumbprint: Annotated[
        str | None, typer.Argument(help="Of the certificate, or how it begins; without it all are listed.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Trust it no longer.")] = False,
    root: Annotated[
        Path | None, typer.Option(help="The core's folder; default: /greengrass/v2 or /var/lib/greengrass.")
    ] = None,
    work_dir: Annotated[Path | None, typer.Option(help="The collector's work folder, in the place of --root.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")] = False,
) -> None:
    """Believe an OPC UA server: move its certificate from the refused to the trusted ones.

    The collector takes it up at its next try. Compare the thumbprint with the one that the server's own tools show.
    """
    folder = _folder(root, work_dir)
    try:
        if thumbprint is None:
            if remove:
                raise Failure("--remove needs the thumbprint of a trusted certificate: see `sluice trust`", 2)
            listed = _listed(folder)
            answer(listed, as_json, lambda shown: _show(shown, listed))
            return
        change = (_distrust if remove else _trust)(folder, _normal(thumbprint))
    except OSError as error:
        raise Failure(
            f"{error.filename or folder}: {error.strerror}: run this with sudo, or see the disk", IN_THE_WAY
        ) from None
    answer(change, as_json, lambda shown: shown.print(change["text"], soft_wrap=True))
    for note in change["notes"]:
        say(note)


def _folder(root: Path | None, work_dir: Path | None) -> Path:
    """The collector's pki. Raises Failure when it has none."""
    from cli.survey import find_root

    if root is not None and work_dir is not None:
        raise Failure("--root and --work-dir name the same thing: give one of them", 2)
    work = work_dir if work_dir is not None else find_root(root) / "work" / COMPONENT
    folder = work / "pki"
    try:
        there = folder.is_dir()
    except PermissionError as error:
        raise Failure(f"{error.filename}: cannot be read ({error.strerror}): run this with sudo", IN_THE_WAY) from None
    if not there:
        raise Failure(
            f"{folder} is not there: the collector makes it at its first try of a protected connection; "
            "--work-dir names another work folder"
        )
    return folder


def _normal(text: str) -> str:
    """A thumbprint as tools write it: with colons or spaces, in capitals."""
    plain = re.sub(r"[\s:-]", "", text).lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]{1,40}", plain):
        raise Failure(f"{text[:100]!r} is no thumbprint: give its hexadecimal digits, as `sluice trust` lists them", 2)
    if len(plain) < _SHORTEST:
        raise Failure(f"{text!r} is too short: give at least {_SHORTEST} digits of the thumbprint", 2)
    return plain


# --- what is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """A certificate in a file."""

    path: Path
    der: bytes
    facts: Facts
    alone: bool  # the file holds no other

    def as_dict(self) -> dict[str, Any]:
        return {"file": str(self.path), **self.facts.as_dict()}


def _entries(folder: Path, unreadable: list[str]) -> list[_Entry]:
    from opcua_collector.security.certificates import CertificateError, certificates_of_file, facts

    found = []
    for path in _files(folder, unreadable):
        try:
            ders = certificates_of_file(path)
            found += [_Entry(path, der, facts(der), len(ders) == 1) for der in ders]
        except CertificateError as error:  # noqa: PERF203 - each file costs itself
            unreadable.append(f"{path}: {error}")
    return found


def _files(folder: Path, passed_over: list[str]) -> Iterator[Path]:
    """Files that may hold certificates. Links are not followed: the folder belongs to the component, we may be root."""
    for place in (folder, folder / "certs", folder / "crl"):
        if place.is_symlink():
            passed_over.append(f"{place}: is a link, which this command does not follow, and the collector does")
        if place.is_symlink() or not place.is_dir():
            continue
        paths = [one for one in sorted(place.iterdir()) if one.suffix.lower() in (".der", ".pem", ".crt", ".cer")]
        if len(paths) > _MOST:
            passed_over.append(f"{place}: holds {len(paths)} files: only the first {_MOST} are looked at")
        for path in paths[:_MOST]:
            if path.is_symlink():
                passed_over.append(f"{path}: is a link, which this command does not follow, and the collector does")
            elif path.is_file():
                yield path


def _listed(folder: Path) -> dict[str, Any]:
    unreadable: list[str] = []
    own = [*_entries(folder / "own", []), *_entries(folder / "own" / "next", [])]
    return {
        "folder": str(folder),
        "rejected": [one.as_dict() for one in _entries(folder / "rejected", unreadable)],
        "trusted": [one.as_dict() for one in _entries(folder / "trusted", unreadable)],
        "own": [one.as_dict() for one in own],
        "unreadable": unreadable,
    }


def _those(folder: Path, name: str, mark: str) -> list[_Entry]:
    """The certificate of pki/<name> whose thumbprint begins so, in each file that holds it. Raises Failure when there
    are several certificates."""
    found = [one for one in _entries(folder / name, []) if one.facts.thumbprint.startswith(mark)]
    marks = sorted({one.facts.thumbprint for one in found})
    if len(marks) > 1:
        raise Failure(f"{mark} is the beginning of several: {', '.join(marks)}: give more digits")
    return found


# --- what is changed -------------------------------------------------------------------------------------------------


def _trust(folder: Path, mark: str) -> dict[str, Any]:
    entries = _those(folder, "rejected", mark)
    if not entries:
        known = _those(folder, "trusted", mark)
        if not known:
            raise Failure(
                f"{mark}: no certificate that was refused has this thumbprint: `sluice trust` lists them; the "
                "collector writes a server's certificate there when it refuses it"
            )
        return _changed(known[0], known[0].path, "is trusted already", [])
    entry = entries[0]
    path = _put(folder, entry, "trusted")
    for one in entries:
        if one.alone:
            one.path.unlink()
    notes = []
    now = datetime.now(timezone.utc)
    if not entry.facts.begins <= now <= entry.facts.expires:
        notes.append("It is out of its time, which the collector refuses unless security.allowExpired is true.")
    if entry.facts.authority:
        notes.append("It is an authority: every server that it has issued a certificate for is believed from now on.")
    return _changed(entry, path, "is trusted from now on", notes)


def _distrust(folder: Path, mark: str) -> dict[str, Any]:
    entries = _those(folder, "trusted", mark)
    if not entries:
        raise Failure(f"{mark}: no trusted certificate has this thumbprint: `sluice trust` lists them")
    entry = entries[0]
    for one in entries:
        if not one.alone:
            raise Failure(f"{one.path} holds several certificates: take this one out of it by hand")
    path = _put(folder, entry, "rejected")
    for one in entries:
        one.path.unlink()
    pins = sorted({one.path.stem for one in entries} - {entry.facts.thumbprint})
    notes = [
        f"If {pin} is a connection with security.trust: first-use, it pins the next certificate that it is shown."
        for pin in pins
    ]
    notes.append("A session that is open goes on until its line ends.")
    return _changed(entry, path, "is trusted no longer", notes)


def _put(folder: Path, entry: _Entry, name: str) -> Path:
    """Into pki/<name>, for the owner of pki alone, whoever runs this."""
    from opcua_collector.security.certificates import make_folder, write_file

    place = folder / name
    for one in (folder, place):
        if one.is_symlink():
            raise Failure(f"{one} is a link: make it a folder of the collector's user")
    make_folder(place)
    path = place / f"{entry.facts.thumbprint}.der"
    write_file(path, entry.der)
    owner = folder.stat()
    for one in (place, path):
        if one.stat().st_uid != owner.st_uid:
            os.chown(one, owner.st_uid, owner.st_gid, follow_symlinks=False)
    return path


def _changed(entry: _Entry, path: Path, what: str, notes: list[str]) -> dict[str, Any]:
    return {"certificate": entry.facts.as_dict(), "file": str(path), "text": f"{entry.facts} {what}.", "notes": notes}


# --- for people ------------------------------------------------------------------------------------------------------


def _show(shown: Console, listed: Mapping[str, Any]) -> None:
    for name, title in (
        ("rejected", "Refused: `sluice trust <thumbprint>` believes one"),
        ("trusted", "Trusted"),
        ("own", "Our own: the servers have to trust it"),
    ):
        shown.print(f"{title}:" if listed[name] else f"{title.partition(':')[0]}: none", soft_wrap=True)
        for one in listed[name]:
            hosts = ", ".join(one["hosts"]) or "no host"
            kind = ", an authority" if one["authority"] else ""
            shown.print(f"  {one['thumbprint']}  {one['subject'] or 'without a name'}{kind}", soft_wrap=True)
            uris = ", ".join(one["uris"]) or "no application"
            shown.print(f"    {one['from'][:10]} to {one['to'][:10]}, for {hosts}; {uris}", soft_wrap=True)
            shown.print(f"    {one['file']}", soft_wrap=True)
    for one in listed["unreadable"]:
        shown.print(f"Cannot be read: {one}", soft_wrap=True)
