"""Goes round a core's folder and tells what is there and what is wrong with it. Changes nothing, follows no links.

What it finds is redacted as it is read (`cli.redact`); private keys and the files of secrets are never opened, only
their modes are looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from cli import machine
from cli.databases import examine, open_plain
from cli.output import IN_THE_WAY, Failure
from cli.plan import newest
from cli.redact import Redactor
from cli.suite import RUNTIME
from sluice import __version__, tag_package
from sluice.problem import Problem
from sluice.units import UnitError, parse_size

ROOTS: Final = (Path("/greengrass/v2"), Path("/var/lib/greengrass"))
LAST_GOOD: Final = "last-good-configuration.json"
PREFIX: Final = "io.sluice."
LARGEST_CONFIGURATION: Final = 2_000_000
LOG_TAIL: Final = 1_000_000
MOST_COMPONENTS: Final = 50
_MOST_FILES: Final = 20_000
_MOST_DATABASES: Final = 10
_MOST_CERTIFICATES: Final = 200
_LARGEST_CERTIFICATE: Final = 65_536
_EXPIRES_SOON: Final = 30 * 86_400
_CERTIFICATES: Final = (".der", ".crt", ".cer")
_KEYS: Final = re.compile(r"\.key$|\.p12$|\.pfx$|(private|priv).*\.pem$|-key\.pem$|^privKey", re.IGNORECASE)
_PASSED_OVER: Final = frozenset({"venv", "venv.new", "venv.old", "__pycache__"})
_STATES: Final = re.compile(r"serviceName=(io\.sluice\.[A-Za-z0-9_.-]+)[,}][^\n]*?(?:currentState|newState)=([A-Z]+)")


@dataclass
class Survey:
    """What was found: `facts` as JSON, problems and notes for people, and redacted texts for the bundle by name."""

    root: Path
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    redactor: Redactor = field(default_factory=Redactor)

    def problem(self, place: Path | str, problem: str, remedy: str) -> None:
        """Note something that is wrong, and what mends it."""
        shown = str(place.relative_to(self.root)) if isinstance(place, Path) and place != self.root else str(place)
        self.problems.append(Problem(shown, None, problem, remedy))


def find_root(given: Path | None) -> Path:
    """The folder of the core. Raises Failure when there is none."""
    try:
        for root in [given] if given is not None else ROOTS:
            if any((root / name).is_dir() for name in ("work", "packages", "logs")):
                return root.resolve()
    except PermissionError as error:
        text = f"{error.filename}: cannot be read ({error.strerror}): run this with sudo"
        raise Failure(text, IN_THE_WAY) from None
    if given is not None:
        raise Failure(f"--root {given}: has no work, packages or logs folder: give the folder of a Greengrass core")
    raise Failure(
        f"there is no Greengrass core in {' or '.join(str(root) for root in ROOTS)}, or it cannot be read: give its "
        f"folder with --root, or run this with sudo",
        IN_THE_WAY,
    )


def survey(root: Path, progress: Callable[[str], None], *, copied: bool = False) -> Survey:
    """Look at everything. copied: the folder comes from another machine, so this one is not looked at."""
    found = Survey(root)
    facts = found.facts
    facts["root"], facts["tool"] = str(root), __version__
    facts["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    facts["profile"], facts["nucleus"] = _profile(root), _versions(root, "aws.greengrass.Nucleus")
    progress("the machine")
    running: dict[str, dict[str, Any]] = {}
    if not copied:
        facts["machine"] = machine.machine()
        facts["disk"] = machine.disk(root)
        running = machine.processes(root / "work")
        _check_machine(found)
    names = _components(found)
    facts["components"] = {}
    for name in names:
        progress(name)
        try:
            facts["components"][name] = _component(found, name, running.get(name))
        except OSError as error:  # what is looked at goes and comes while its component runs
            _unread(found, error)
            facts["components"][name] = {"versions": _versions(root, name)}
    _check_releases(found)
    progress("the nucleus")
    _nucleus(found)
    if not copied:
        _check_running(found, running)
    return found


# --- the core --------------------------------------------------------------------------------------------------------


def _profile(root: Path) -> str:
    if (root / "config.db").exists() or root == ROOTS[1]:
        return "lite"
    if (root / "config").is_dir() or (root / "alts").is_dir():
        return "classic"
    return "local core" if (root / "ipc.socket").exists() else "unknown"


def _versions(root: Path, name: str) -> list[str]:
    found: set[str] = set()
    for folder in ("packages/artifacts", "packages/artifacts-unarchived", "artifacts", "artifacts-unarchived"):
        with contextlib.suppress(OSError):  # what cannot be read is told where the components are looked for
            found |= {path.name for path in (root / folder / name).iterdir() if path.name[:1].isdigit()}
    return sorted(found)


def _components(found: Survey) -> list[str]:
    names: set[str] = set()
    for folder in ("work", "packages/artifacts", "packages/artifacts-unarchived", "artifacts-unarchived"):
        try:
            if not (found.root / folder).is_dir():
                continue
            names |= {path.name for path in (found.root / folder).iterdir() if path.name.startswith(PREFIX)}
        except OSError as error:
            found.problem(found.root / folder, f"cannot be read ({error.strerror})", "run this with sudo")
    if not names:
        found.problem(
            found.root, "has no component of Sluice", "deploy one: `sluice deploy`, and see its outcome there"
        )
    if len(names) > MOST_COMPONENTS:
        found.notes.append(f"{len(names) - MOST_COMPONENTS} of {len(names)} components were not looked at")
    return sorted(names)[:MOST_COMPONENTS]


def _check_releases(found: Survey) -> None:
    """Components and Runtime have to be of one release."""
    versions = {
        name: version
        for name, facts in found.facts["components"].items()
        if not name.startswith(tag_package.PREFIX) and (version := newest(facts["versions"])) is not None
    }
    releases = {".".join(version.split(".")[:2]) for version in versions.values()}
    if len(releases) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        found.problem(
            "components", f"are of different releases: {listed}", "deploy all of them, and the Runtime, in one version"
        )
    needy = [
        name
        for name, facts in found.facts["components"].items()
        if name != RUNTIME and facts.get("installed") is False and facts["versions"]
    ]
    if needy and not _versions(found.root, RUNTIME):
        found.problem(
            RUNTIME,
            f"is not on this core, and {', '.join(needy)} cannot be installed without it",
            f"add {RUNTIME} to the deployment, in the version of the components",
        )


def _nucleus(found: Survey) -> None:
    """The last states of components that the nucleus's own log tells, and the end of that log."""
    text = _log_text(found, found.root / "logs" / "greengrass.log", LOG_TAIL)
    if text:
        found.texts["logs/greengrass.log"] = found.redactor.log(text)
    for name, state in dict(_STATES.findall(text)).items():
        found.facts["components"].setdefault(name, {"versions": []})["state"] = state
        if state in ("BROKEN", "ERRORED"):
            found.problem(
                name,
                f"is {state} in the nucleus's log",
                f"see logs/{name}.log for why, mend that, and deploy again or restart the nucleus",
            )


def _check_running(found: Survey, running: dict[str, dict[str, Any]]) -> None:
    for name, facts in found.facts["components"].items():
        process = running.get(name)
        if process is not None:
            limit, used = process["open_files_limit"], process["open_files"]
            if limit and used > 0.8 * limit:
                found.problem(
                    name, f"has {used} files open of {limit} that it may", "raise LimitNOFILE of the nucleus's service"
                )
        elif facts.get("installed") and facts.get("state") not in ("BROKEN", "ERRORED"):
            words = f"{name} is installed, and no process of it was seen"
            if found.root in ROOTS and os.geteuid() == 0:
                found.problem(name, "is installed and does not run", f"see logs/{name}.log and the nucleus's log")
            else:
                found.notes.append(words)


# --- the machine -----------------------------------------------------------------------------------------------------


def _check_machine(found: Survey) -> None:
    facts, disk = found.facts["machine"], found.facts["disk"]
    usable = [path for path, version in facts["pythons"].items() if version[:1].isdigit()]
    if not usable:
        listed = "; ".join(f"{path} {why}" for path, why in facts["pythons"].items())
        found.problem(
            "python",
            f"is not there in a usable version{f' ({listed})' if listed else ''}",
            "install Python 3.10 to 3.13 with its venv module, on Debian: apt install python3 python3-venv",
        )
    if facts["clock_synchronised"] is False:
        found.problem(
            "clock",
            "follows no time source: timestamps may be wrong, and AWS refuses requests that are 5 minutes off",
            "switch on systemd-timesyncd or chrony, and let it reach a time server (timedatectl)",
        )
    if disk["read_only"]:
        found.problem(found.root, "is on a disk that is mounted read-only", "see dmesg, and mount it for writing")
    if disk["entries"] and disk["free_entries"] < 0.02 * disk["entries"]:
        found.problem(found.root, "is on a disk with hardly an inode left", "delete what makes so many small files")


# --- one component ---------------------------------------------------------------------------------------------------


def _component(found: Survey, name: str, process: dict[str, Any] | None) -> dict[str, Any]:
    work = found.root / "work" / name
    facts: dict[str, Any] = {"versions": _versions(found.root, name)}
    if process is not None:
        facts["process"] = process
    log = _log_text(found, found.root / "logs" / f"{name}.log", LOG_TAIL) or _journal(found, name)
    if log:
        redacted = found.redactor.log(log)
        found.texts[f"logs/{name}.log"] = redacted
        facts["log"] = _summary(redacted)
    if work.is_symlink() or not work.is_dir():
        return facts
    try:
        present = sorted(work.iterdir())
    except OSError as error:
        found.problem(work, f"cannot be read ({error.strerror})", "run this with sudo")
        return facts
    if any(path.name in (LAST_GOOD, "venv") for path in present):
        facts["installed"] = _check_venv(found, work)
    configuration = _configuration(found, name, work / LAST_GOOD)
    facts["bytes"] = 0
    databases: list[dict[str, Any]] = []
    certificates: list[dict[str, Any]] = []
    for path, status in _files(found, work):
        facts["bytes"] += status.st_size
        _check_mode(found, path, status)
        if path.suffix == ".db" and len(databases) < _MOST_DATABASES:
            databases.append(_database(found, path))
        elif path.suffix in _CERTIFICATES and len(certificates) < _MOST_CERTIFICATES:
            certificates += _certificate(found, path)
        elif ".malformed" in path.name:
            found.problem(path, "was set aside because it was malformed", "keep it for support; delete it afterwards")
    if databases:
        facts["databases"] = databases
    if certificates:
        facts["certificates"] = certificates
    if configuration is not None:
        _check_disk(found, name, configuration, databases)
        _check_secret_files(found, work, configuration)
    return facts


def _files(found: Survey, folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Ordinary files below a folder, without those of the venv."""
    count = 0
    for above, folders, names in os.walk(folder, onerror=lambda error: _unread(found, error)):
        folders[:] = sorted(one for one in folders if one not in _PASSED_OVER)
        for name in sorted(names):
            path = Path(above) / name
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # a running component's: a log of a database, a file before it got its name
            if not stat.S_ISREG(status.st_mode):
                continue
            count += 1
            if count > _MOST_FILES:
                found.notes.append(f"{folder.name}: more than {_MOST_FILES} files; the rest was not looked at")
                return
            yield path, status


def _unread(found: Survey, error: OSError) -> None:
    remedy = "run this with sudo" if isinstance(error, PermissionError) else "run this again"
    found.problem(str(error.filename), f"cannot be read ({error.strerror})", remedy)


def _check_venv(found: Survey, work: Path) -> bool:
    python = work / "venv" / "bin" / "python"
    if python.exists():
        return True
    if python.is_symlink():
        found.problem(
            python, "points to a Python that is gone", "deploy again, or restart the nucleus: it is installed anew"
        )
    else:
        found.problem(
            work,
            "has no venv: its install step has not succeeded",
            f"see logs/{work.name}.log; its end says what lacks",
        )
    return False


def _configuration(found: Survey, name: str, path: Path) -> dict[str, Any] | None:
    """The configuration that was applied last, redacted; None when there is none."""
    try:
        with open_plain(path) as file:
            text = file.read(LARGEST_CONFIGURATION * 10)
    except FileNotFoundError:
        return None
    except OSError as error:
        found.problem(path, f"cannot be read ({error.strerror or error})", "run this with sudo")
        return None
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        found.problem(path, "is malformed", "deploy the configuration again; the component runs on without it")
        return None
    redacted = found.redactor.value(raw)
    shown = json.dumps(redacted, indent=1, ensure_ascii=False)
    if len(shown) > LARGEST_CONFIGURATION:
        found.notes.append(f"{name}: its configuration is too large for the bundle, and was left out")
    else:
        found.texts[f"configuration/{name}.json"] = shown
    assert isinstance(redacted, dict)
    return redacted


def _check_mode(found: Survey, path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if (_KEYS.search(path.name) or path.name == LAST_GOOD) and mode & 0o077:
        found.problem(path, f"can be read by others (mode {mode:04o})", f"chmod 600 {path}")
    elif mode & 0o002:
        found.problem(path, f"can be written by everybody (mode {mode:04o})", f"chmod o-w {path}")


def _database(found: Survey, path: Path) -> dict[str, Any]:
    told = found.redactor.value(examine(path))
    assert isinstance(told, dict)
    if told["state"] == "malformed":
        found.problem(
            path,
            f"is malformed ({told.get('why', '')})",
            "see the disk (dmesg, smartctl); the component sets the file aside and begins a new one: keep it",
        )
    elif told["state"] == "not checked":
        found.notes.append(f"{path.relative_to(found.root)} was not checked: {told['why']}")
    return told


def _check_disk(found: Survey, name: str, configuration: dict[str, Any], databases: list[dict[str, Any]]) -> None:
    outbox = configuration.get("outbox")
    settings = outbox if isinstance(outbox, dict) else {}
    size, least = _bytes(settings.get("maxSize"), 10**9), _bytes(settings.get("minFreeDisk"), 200 * 10**6)
    free = found.facts.get("disk", {}).get("free_bytes")
    for told in databases:
        if told["file"] != "outbox.db":
            continue
        kept = sum(one["bytes"] for one in told.get("streams", ()) if isinstance(one.get("bytes"), int))
        if kept > 0.9 * size:
            found.problem(
                name,
                f"keeps {kept / 1e6:.0f} MB of the {size / 1e6:.0f} MB that it may: consumers do not take its data",
                "see why (status and log of stream-exporter); `outbox.maxSize` makes more room",
            )
        if free is not None and free < least:
            found.problem(
                name,
                f"may keep no more: its disk has {free / 1e6:.0f} MB free, and {least / 1e6:.0f} MB are left to others",
                "make room on the disk, or lower outbox.minFreeDisk",
            )


def _bytes(value: Any, default: int) -> int:
    try:
        return int(parse_size(value)) if value is not None else default
    except UnitError:
        return default


def _check_secret_files(found: Survey, work: Path, configuration: Any) -> None:
    """The modes of files that secrets are read from; what is in them is not read."""
    for name in _secret_files(configuration):
        path = work / Path(name).expanduser()
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:
            found.problem(str(path), "is named as the file of a secret and does not exist", "create it with mode 0600")
        except OSError as error:
            found.notes.append(f"{path}: its mode cannot be seen ({error.strerror})")
        else:
            if mode & 0o077:
                found.problem(
                    str(path), f"holds a secret and can be read by others (mode {mode:04o})", f"chmod 600 {path}"
                )


def _secret_files(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("file"), str) and set(value) <= {"secret", "key", "file"}:
            yield value["file"]
        for inner in value.values():
            yield from _secret_files(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _secret_files(inner)


def _certificate(found: Survey, path: Path) -> list[dict[str, Any]]:
    """Names, thumbprint and validity of a certificate; a private key under such a name is told."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    try:
        with open_plain(path) as file:
            content = file.read(_LARGEST_CERTIFICATE)
    except OSError as error:
        found.problem(path, f"cannot be read ({error.strerror or error})", "run this with sudo")
        return []
    if b"PRIVATE KEY" in content:
        found.problem(path, "is named as a certificate and holds a private key", "keep keys in files of their own")
        return []
    try:
        load = x509.load_pem_x509_certificate if b"-----BEGIN" in content else x509.load_der_x509_certificate
        certificate = load(content)
        expires = certificate.not_valid_after_utc
        told = {
            "file": str(path.relative_to(found.root)),
            "subject": certificate.subject.rfc4514_string()[:200],
            "thumbprint": certificate.fingerprint(hashes.SHA1()).hex(),  # noqa: S303 - a name, no protection
            "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
            "expires": expires.isoformat(timespec="seconds"),
        }
    except ValueError:
        found.notes.append(f"{path.relative_to(found.root)} is no certificate that can be read")
        return []
    left = expires.timestamp() - time.time()
    if left < _EXPIRES_SOON and path.parent.name != "rejected":  # nobody relies on those
        words = "has expired" if left < 0 else f"expires in {left / 86_400:.0f} days"
        remedy = (
            "add pki/own/next/certificate.der to the trusted ones of the servers; one that is not ours, renew by hand"
            if path.parent.name == "own"
            else "have the server's certificate renewed; then delete this file, and it is pinned anew"
        )
        found.problem(path, f"{words} ({told['expires']})", remedy)
    return [told]


# --- logs ------------------------------------------------------------------------------------------------------------


def _log_text(found: Survey, path: Path, most: int) -> str:
    """The end of a log, from the beginning of a line on."""
    try:
        with open_plain(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            text = file.read(most).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        found.problem(path, f"cannot be read ({error.strerror or error})", "run this with sudo")
        return ""
    return str(text if size <= most else text.partition("\n")[2])


def _journal(found: Survey, name: str) -> str:
    """The end of a component's log on nucleus lite, where systemd keeps it."""
    journalctl = shutil.which("journalctl")
    if found.root != ROOTS[1] or journalctl is None:
        return ""
    command = [journalctl, "--no-pager", "--output=cat", "--lines=2000", f"--unit=ggl.{name}.service"]
    try:
        told = subprocess.run(command, capture_output=True, timeout=60, check=False)  # noqa: S603 - of our own
    except (OSError, subprocess.TimeoutExpired) as error:
        found.notes.append(f"{name}: the journal cannot be read ({error})")
        return ""
    return told.stdout[-LOG_TAIL:].decode("utf-8", "replace")


def _summary(log: str) -> dict[str, Any]:
    """How many lines of which level the end of a log has, and the last error and warning."""
    counts: dict[str, int] = {}
    last: dict[str, str] = {}
    for line in log.splitlines():
        start = line.find("{")
        try:
            entry = json.loads(line[start:]) if start >= 0 else None
        except (ValueError, RecursionError):
            continue
        if not isinstance(entry, dict):
            continue
        level = entry.get("level")
        if isinstance(level, str) and len(level) <= 10:
            counts[level] = counts.get(level, 0) + 1
            if level in ("WARNING", "ERROR", "CRITICAL"):
                last[level] = f"{entry.get('time', '')} {entry.get('message', '')}"[:500]
    return {"lines": counts, "last": last}
