"""A device in a sandbox: no network but loopback, a user of its own without rights, and nothing on PATH but a Python
and the shell's own tools. Started as a process by test_device.py, because none of this can be taken back.

    device.py BUILD ROOT REPORT [classic|lite]
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

USER = 64123
"""A user that no system has: it owns nothing but what the core gives it."""

TOOLS = ("sh", "cat", "dirname", "kill", "mkdir", "mv", "cp", "rm", "tail", "tr", "sort", "ls", "sleep", "readlink")
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def leave_the_network() -> None:
    """Go into a network of our own that has a loopback and nothing else."""
    uid, gid, root = os.getuid(), os.getgid(), os.geteuid() == 0
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET if root else _CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network namespace for us: run as root, or allow user namespaces")
    if not root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        name, flags = struct.unpack("16sh", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", name, flags | _IFF_UP))


def device_path(folder: Path, user: int) -> Path:
    """A folder for PATH with the tools of every shell and one Python of this version that the user can run."""
    folder.mkdir()
    for tool in TOOLS:
        if (found := shutil.which(tool)) is not None:
            (folder / tool).symlink_to(found)
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    candidates = [Path(part, name) for part in os.get_exec_path()] + [Path("/usr/bin", name)]
    for candidate in candidates:
        if candidate.exists() and _runs_for(candidate, user):
            (folder / name).symlink_to(candidate.resolve())
            return folder
    # A Python in somebody's home: the device gets one like it.
    copy = folder.parent / "python"
    library = Path(os.__file__).parent
    ignored = shutil.ignore_patterns("site-packages", "test", "__pycache__", "idlelib", "config-*")
    shutil.copytree(library, copy / "lib" / name, ignore=ignored)
    (copy / "bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), copy / "bin" / name)
    (folder / name).symlink_to(copy / "bin" / name)
    return folder


def _runs_for(python: Path, user: int) -> bool:
    try:
        command = [str(python), "-I", "-c", "import venv, zlib"]
        done = subprocess.run(command, user=user or None, cwd="/", capture_output=True, check=False, env={})
    except OSError:
        return False
    return done.returncode == 0


def uid_of(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    raise LookupError(f"/proc/{pid}/status names no user")


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in folder.rglob("*")}


async def live(build: Path, root: Path, profile: str) -> dict[str, Any]:
    """Install and run every component for a while, and tell what was seen."""
    from rehearsal import Rehearsal  # brings threads, which would stay in the network that was left

    user = USER if os.geteuid() == 0 else os.getuid()
    path = device_path(root / "path", user if os.geteuid() == 0 else 0)
    async with Rehearsal(
        root / "device", build, profile=profile, rate=200, pi=100.0, preprocess=True, run_as=user, path=str(path)
    ) as rehearsal:
        site = rehearsal.demo_site()
        await rehearsal.provide(site)
        await rehearsal.deploy(site)
        components = {name: one for name, one in rehearsal.core.components().items() if one.pid is not None}
        seen = {
            "user": user,
            "runs_as": {name: uid_of(one.pid) for name, one in components.items() if one.pid is not None},
            "owners": {name: sorted(owners(one.work_dir / "venv")) for name, one in components.items()},
            "states": {name: one.state for name, one in rehearsal.core.components().items()},
            "interfaces": [name for _, name in socket.if_nameindex()],
            "path": sorted(entry.name for entry in path.iterdir()),
        }
        await rehearsal.start_production()
        for collector in ("opcua-collector", "pi-collector"):
            await rehearsal.wait_for(
                lambda collector=collector: rehearsal.statuses.get(collector, {}).get("state") == "running",  # type: ignore[misc]
                f"running {collector}",
                30.0,
            )
        await asyncio.sleep(3.0)  # the length of the run
        produced = await rehearsal.finish_production()
        await rehearsal.drain(produced)
        made = await rehearsal.drain_processed()
        return {
            **seen,
            "report": (await asyncio.to_thread(rehearsal.reconcile)).as_dict(),
            "processed": {name: {**one.as_dict(), "balances": one.balances} for name, one in made.items()},
        }


def main() -> None:
    build, root, report, profile = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    leave_the_network()
    report.write_text(json.dumps(asyncio.run(live(build, root, profile))))


if __name__ == "__main__":
    main()
