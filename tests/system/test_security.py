"""What SECURITY.md says of a gateway at work: nothing listens, what is stored is for its owner alone, a password is
nowhere, and nobody writes to the plant. The built zips, an encrypted channel, a server that wants a login; once for
each kind of source."""

from __future__ import annotations

import base64
import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localcore.process import members
from plant import PiProcess, PlantProcess
from rehearsal import Rehearsal
from rehearsal.site import COLLECTOR, EXPORTER, PI_COLLECTOR

pytestmark = pytest.mark.system

LIMIT = 60.0
USER, PASSWORD = "operator", "Tr0ub4dor-and-3-horses"
SECRETS = (PASSWORD.encode(), base64.b64encode(f"{USER}:{PASSWORD}".encode()))
"""What must be found nowhere: the password, and what HTTP makes of it."""
LISTENING = "0A"
"""TCP_LISTEN in /proc/net/tcp."""
UNCONNECTED = "07"
"""The state of a UDP socket that takes datagrams from anybody."""
ACCEPTS = 0x10000
"""__SO_ACCEPTCON in /proc/net/unix: a socket that others can connect to."""
CHANGES = {"Write", "Call", "HistoryUpdate", "AddNodes", "AddReferences", "DeleteNodes", "DeleteReferences"}
"""The services of OPC UA (Part 4, 5.7 to 5.11) that can change something in a server's address space or process."""
READING = ("GET ", "POST batch", "POST streamsets/updates")
"""How requests to a PI Web API begin that can change nothing there."""


@pytest.fixture(autouse=True)
def careless_umask() -> Iterator[None]:
    """The worst that a nucleus can pass on: what a component makes has the mode that the component gives it."""
    before = os.umask(0)
    yield
    os.umask(before)


@dataclass(frozen=True)
class Source:
    """A kind of source: the collector's component and short id, the plant, the connection to it, what is kept of it.

    kept: names of files. folders: those that decide whom the collector believes or what it collects, each for its owner
    alone. untouched: whether the plant's counters show that it was read, and never written to.
    """

    component: str
    topic: str
    plant: Callable[[Path, Path], PlantProcess | PiProcess]
    connection: Callable[[PlantProcess | PiProcess], Mapping[str, Any]]
    kept: frozenset[str]
    folders: frozenset[str]
    untouched: Callable[[Mapping[str, Any]], bool]


def opcua_plant(folder: Path, password_file: Path) -> PlantProcess:
    return PlantProcess(folder, units=1, rate=500, user=USER, password_file=password_file, expect_items=1)


def pi_plant(folder: Path, password_file: Path) -> PiProcess:
    return PiProcess(
        folder, units=1, rate=500, user=USER, password_file=password_file, expect_items=1, tls="valid", poll=0.2
    )


def opcua_connection(plant: PlantProcess | PiProcess) -> Mapping[str, Any]:
    assert isinstance(plant, PlantProcess)
    return {
        "endpoint": plant.endpoint,
        "security": {"trust": "first-use"},
        "tags": {"Reactor/Pressure": {"node": "nsu=urn:sluice:plant;s=Unit1/XMEAS07_ReactorPressure"}},
    }


def pi_connection(plant: PlantProcess | PiProcess) -> Mapping[str, Any]:
    assert isinstance(plant, PiProcess)
    return {
        "url": plant.url,
        "tls": {"ca": str(plant.authority)},
        "tags": {"Reactor/Pressure": {"point": "U1.XMEAS07_ReactorPressure"}},
    }


def opcua_untouched(counters: Mapping[str, Any]) -> bool:
    used: Mapping[str, int] = counters["services"]
    return used.keys().isdisjoint(CHANGES) and used["Publish"] > 0


def pi_untouched(counters: Mapping[str, Any]) -> bool:
    asked: Mapping[str, int] = counters["requests"]
    read = all(name.startswith(READING) for name in asked) and asked["GET streamsets/channel"] > 0
    return read and not counters["written"]


SOURCES = {
    "opcua": Source(
        COLLECTOR,
        "opcua-collector",
        opcua_plant,
        opcua_connection,
        frozenset(("private-key.pem", "line1.der")),
        frozenset(("pki", "pki/own", "pki/trusted")),
        opcua_untouched,
    ),
    "pi": Source(
        PI_COLLECTOR,
        "pi-collector",
        pi_plant,
        pi_connection,
        frozenset(("line1.json",)),
        frozenset(("points",)),
        pi_untouched,
    ),
}


def site(source: Source, plant: PlantProcess | PiProcess, password_file: Path) -> dict[str, Any]:
    """A connection with encryption and login, and one sink of each kind."""
    collector = {
        "statusInterval": "1s",
        "connections": {
            "line1": {
                **source.connection(plant),
                "asset": "site/area/line1",
                "user": {"name": USER, "password": {"file": str(password_file)}},
            }
        },
    }
    exporter = {
        "statusInterval": "1s",
        "sinks": {
            "sitewise": {"type": "sitewise"},
            "kinesis": {"type": "kinesis", "kinesisStream": "plant-data"},
            "s3": {"type": "s3", "bucket": "plant-archive", "rotateInterval": "1h"},
        },
    }
    merges = {source.component: collector, EXPORTER: exporter}
    return {"components": {name: {"configurationUpdate": {"merge": merge}} for name, merge in merges.items()}}


def sockets(pid: int) -> set[str]:
    """Inodes of the sockets that a process has open."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def listeners(pid: int) -> list[str]:
    """Every socket of a process that somebody else could send to first: the lines of /proc."""
    own = sockets(pid)
    found = []
    for table, state in (("tcp", LISTENING), ("tcp6", LISTENING), ("udp", UNCONNECTED), ("udp6", UNCONNECTED)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            cells = line.split()
            if cells[9] in own and cells[3] == state:
                found.append(f"{table} {cells[1]}")
    for line in Path(f"/proc/{pid}/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
        cells = line.split()
        if cells[6] in own and int(cells[3], 16) & ACCEPTS:
            found.append(f"unix {cells[7:]}")
    return found


def test_the_judge_sees_whoever_listens(tmp_path: Path) -> None:
    before = set(listeners(os.getpid()))
    with (
        socket.create_server(("127.0.0.1", 0)),
        socket.create_server(("::1", 0), family=socket.AF_INET6),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as local,
    ):
        datagrams.bind(("127.0.0.1", 0))
        local.bind(str(tmp_path / "socket"))
        local.listen()
        seen = sorted(line.split()[0] for line in set(listeners(os.getpid())) - before)
    assert seen == ["tcp", "tcp6", "udp", "unix"]


def kept(work: Path) -> dict[str, Path]:
    """What a component keeps in its work folder, by relative path. Its Python environment is code and holds no data."""
    files = (path for path in sorted(work.rglob("*")) if path.is_file() and not path.is_symlink())
    return {name: path for path in files if not (name := path.relative_to(work).as_posix()).startswith("venv")}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
async def test_a_gateway_at_work_is_as_security_md_says(build: Path, tmp_path: Path, source: Source) -> None:
    password_file = tmp_path / "password"
    password_file.write_text(PASSWORD, encoding="utf-8")
    password_file.chmod(0o600)
    plant = source.plant(tmp_path / "plant", password_file)
    async with plant, Rehearsal(tmp_path, build, with_plant=False) as rehearsal:
        document = site(source, plant, password_file)
        await rehearsal.provide(document)
        await rehearsal.deploy(document)
        await plant.produce()
        work = rehearsal.core.root / "work"
        await rehearsal.wait_for(
            lambda: "stream-exporter" in rehearsal.statuses and bool(list((work / EXPORTER).rglob("*.part"))),
            "a file for S3",
            LIMIT,
        )
        await rehearsal.wait_for(
            lambda: bool(rehearsal.statuses.get(source.topic, {}).get("outbox", {}).get("consumers")),
            "a consumer of the outbox",
            LIMIT,
        )

        # Nothing listens: not to the network, not to the device.
        for name in (source.component, EXPORTER):
            process = rehearsal.core.component(name).pid
            assert process is not None
            group = [pid for pid, _ in members(process)]
            assert any(sockets(pid) for pid in group), f"{name} has no connection at all: nothing was looked at"
            assert [found for pid in group for found in listeners(pid)] == [], name

        # What is stored is for its owner alone.
        files = {name: kept(work / name) for name in (source.component, EXPORTER)}
        names = {Path(name).name for found in files.values() for name in found}
        assert source.kept | {"outbox.db", "exporter.db", "last-good-configuration.json"} <= names
        open_to_others = {
            str(path): oct(stat.S_IMODE(path.stat().st_mode))
            for found in files.values()
            for path in found.values()
            if path.stat().st_mode & 0o077
        }
        assert open_to_others == {}
        # Whoever may write there says which server is believed, or what is collected.
        home = work / source.component
        tops = [home / name for name in source.folders if "/" not in name]
        folders = [*tops, *(path for top in tops for path in top.rglob("*") if path.is_dir())]
        modes = {path.relative_to(home).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in folders}
        assert modes == dict.fromkeys(source.folders, 0o700)

        counters = await plant.counters()
        statuses = repr(rehearsal.statuses)

    # The password is where it was put, and nowhere else.
    told = [path for path in rehearsal.core.root.rglob("*") if path.is_file() and not path.is_symlink()]
    holding = [str(path) for path in told if any(secret in path.read_bytes() for secret in SECRETS)]
    assert holding == []
    assert not [secret for secret in SECRETS if secret.decode() in statuses]

    # Nobody wrote to the plant.
    assert source.untouched(counters), counters
