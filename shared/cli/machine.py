"""What of the machine matters to a gateway: Python, clock, disk, memory, limits, and the processes of components."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

PYTHONS: Final = ("3.13", "3.12", "3.11", "3.10")
_UNSYNCHRONISED: Final = 0x40  # STA_UNSYNC of adjtimex(2)
_PROBE: Final = "import sys, venv; print('.'.join(map(str, sys.version_info[:3])))"


def machine() -> dict[str, Any]:
    """Facts; what cannot be found out is left out."""
    return {
        "system": platform.platform(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(one, 2) for one in os.getloadavg()],
        "memory_kb": _memory(),
        "open_files_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "pythons": pythons(),
        "clock_synchronised": clock_synchronised(),
    }


def pythons() -> dict[str, str]:
    """Supported Pythons that are on PATH, by their command: the version, or why it cannot be used."""
    found = {}
    for version in PYTHONS:
        path = shutil.which(f"python{version}")
        if path is None:
            continue
        try:
            told = subprocess.run(  # noqa: S603 - an argument list of our own
                [path, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            found[path] = f"does not run ({error})"
            continue
        last = (told.stderr.strip().splitlines() or [""])[-1]
        found[path] = told.stdout.strip() if told.returncode == 0 else f"cannot make a venv ({last})"
    return found


def clock_synchronised() -> bool | None:
    """Whether the kernel's clock follows a time source; None when it does not say."""
    if struct.calcsize("l") != 8:
        return None
    buffer = ctypes.create_string_buffer(512)  # struct timex with modes = 0: only asks
    try:
        if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    (status,) = struct.unpack_from("i", buffer.raw, 40)
    return not status & _UNSYNCHRONISED


def disk(folder: Path) -> dict[str, Any]:
    """Space and file entries of the disk on which a folder is."""
    found = os.statvfs(folder)
    return {
        "total_bytes": found.f_blocks * found.f_frsize,
        "free_bytes": found.f_bavail * found.f_frsize,
        "entries": found.f_files,
        "free_entries": found.f_favail,
        "read_only": bool(found.f_flag & os.ST_RDONLY),
    }


def processes(work: Path) -> dict[str, dict[str, Any]]:
    """Running processes whose working folder is one of those below `work`, by the folder's name."""
    found: dict[str, dict[str, Any]] = {}
    for folder in _of_proc():
        try:
            cwd = (folder / "cwd").readlink()
            if cwd.parent != work or (folder / "comm").read_text().strip() in ("sh", "bash"):
                continue
            found[cwd.name] = {
                "pid": int(folder.name),
                "memory_kb": _field(folder / "status", "VmRSS"),
                "threads": _field(folder / "status", "Threads"),
                "open_files": sum(1 for _ in (folder / "fd").iterdir()),
                "open_files_limit": _open_files(folder / "limits"),
            }
        except OSError:
            continue  # it ended meanwhile, or belongs to somebody else
    return found


def _of_proc() -> Iterator[Path]:
    try:
        folders = list(Path("/proc").iterdir())
    except OSError:
        return
    yield from (folder for folder in folders if folder.name.isdigit())


def _field(path: Path, name: str) -> int | None:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return None


def _open_files(path: Path) -> int | None:
    for line in path.read_text().splitlines():
        if line.startswith("Max open files"):
            soft = line.split()[3]
            return int(soft) if soft.isdigit() else None
    return None


def _memory() -> dict[str, int]:
    found = {}
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemAvailable", "SwapFree"):
                found[name] = int(rest.split()[0])
    except OSError:
        return {}
    return found
