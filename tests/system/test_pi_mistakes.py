"""Each mistake with a PI Web API costs its own connection, and the status says what it is and how to mend it.

Passwords, certificates, addresses, points, rights, an archive that is away, a clock that is wrong, a server that is
old: in one deployment, beside a connection that is right and loses nothing. Those that can run do, and lose nothing
either. And the servers count what they were asked for: nothing was ever written.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from plant.pi.api_options import ApiOptions
from plant.pi.authentication import Authentication
from plant.pi.certificates import Authority, Kind
from plant.pi.channels import ChannelOptions
from plant.pi.clock import Clock
from plant.pi.events import Event
from plant.pi.points import PointDefinition
from plant.pi.server import Options, PiServer
from plant.pi.system import PiSystem
from rehearsal import Rehearsal
from rehearsal.recorder import Recorder
from rehearsal.rehearsal import PI_USER
from rehearsal.site import EXPORTER, PI_COLLECTOR
from sluice.tasks import end

pytestmark = pytest.mark.system

PASSWORD, MISTYPED = "let-me-read", "let-me-raed"
SECRETS = [
    *(PASSWORD, MISTYPED),
    *(base64.b64encode(f"{PI_USER}:{one}".encode()).decode() for one in (PASSWORD, MISTYPED)),
]
"""What must be found nowhere: the passwords, and what Basic makes of them."""
LIMIT = 30.0
OLD = ApiOptions(version="1.9.0.266", title="PI Web API 2017 R2", search=False, multiple=False)
PERMITTED = {"POST batch", "POST streamsets/updates"}
"""Beside GET."""
A_POINT = "U1.XMEAS01_AFeed"
"""One of the plant's."""


class Server:
    """A PI Web API in this process: encrypted, for PI_USER alone, with the points A and B that are written to."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        kind: Kind | None = "valid",
        options: Options | None = None,
        skew_s: float = 0.0,
        readers: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """kind: of its certificate, None for plain HTTP; readers: who may read a point that not everybody may."""
        self.name = name
        clock = Clock(skew_s=skew_s)
        self.system = PiSystem(clock)
        self.points = [
            self.system.add(
                PointDefinition(point, readers=None if (who := (readers or {}).get(point)) is None else frozenset(who))
            )
            for point in ("A", "B")
        ]
        self.authority = Authority(folder / name)
        self.server = PiServer(
            self.system,
            clock,
            dataclasses.replace(options or Options(), channels=ChannelOptions(poll_s=0.2)),
            authentication=Authentication({PI_USER: PASSWORD}),
            tls=None if kind is None else self.authority.context(self.authority.server(kind)),
        )
        self.begun = 0
        """Since when (ns of its clock) everything must arrive."""
        self._values = 0

    def begin(self) -> None:
        """What is written from now on must arrive."""
        self.begun = self.server.clock.now_ns()

    def write(self) -> None:
        """One value of each point, now; while the archive is away it comes when that is back."""
        self._values += 1
        now = self.server.clock.now_ns()
        self.server.inlet.write_many([(point, Event(now, float(self._values))) for point in self.points])

    def due(self) -> Counter[tuple[str, int]]:
        """Tag and time (ns) of everything since it has begun that PI_USER may read."""
        return Counter(
            (f"{self.name}/{point.name}", event.time_ns)
            for point in self.points
            if point.definition.readers is None or PI_USER in point.definition.readers
            for event in self.system.archived(point)
            if event.time_ns >= self.begun
        )

    def connection(self, base: Mapping[str, Any], *points: str, **more: Any) -> dict[str, Any]:
        """The connection that is right but for the mistake; its tags begin with the server's name."""
        return {
            **base,
            "url": self.server.url,
            "tls": {"ca": str(self.authority.certificate)},
            "tags": {f"{self.name}/{point}": {"point": point} for point in points or ("A", "B")},
            **more,
        }


def secret(path: Path, text: str, mode: int = 0o600) -> dict[str, Any]:
    """A file for its owner alone (or not), as a setting."""
    path.write_text(text)
    path.chmod(mode)
    return {"file": str(path)}


WAITING = {
    "nobody": ("connections.nobody.url", "refuses the connection", "server runs", "firewall"),
    "password": ("connections.password.user", "not accepted by the server (401)", "password", "account is locked"),
    "secret": ("connections.secret.user.password", "can be read by others (mode 0644)", "chmod 600"),
    "stranger": ("connections.stranger.url", "signed by plant authority", "not trusted", "tls.ca"),
    "expired": ("connections.expired.url", "expired on", "renewed", "gateway's clock"),
    "host": ("connections.host.url", "not for 127.0.0.1, but for pi.other-plant.example", "in the address"),
    "open": ("connections.open.allowunencrypted", "others could read the password", "write https:"),
    "archive": ("connections.archive.dataserver", "no data server", "it knows piserver", "write the name"),
    "down": ("connections.down.url", "no connection to the data archive piserver", "start the archive"),
}
"""What the status of each connection that cannot run says, in small letters: the place, what is wrong, what to do."""
REJECTED = {
    "connections.point.tags.Nowhere": ("NO.SUCH", "is not found", "correct the name"),
    "connections.rights.tags.rights/B.point": ("B", "may not be read by this user", "No Read Access", "administrator"),
    "connections.ahead.clock": ("https://", "2.0 h ahead of this gateway's", "time server"),
    "connections.behind.clock": ("https://", "3.0 h behind this gateway's", "time server"),
    "connections.old.select.more": ("Tag:=A*", "no point search", "write name and source"),
    "connections.archive.dataServer": ("NOSUCH", "it knows PISERVER", "write the name"),
}
"""What it says of settings whose connection runs all the same: place, value, what is wrong, what to do."""
RUNNING = ("historian", "point", "rights", "ahead", "behind", "old", "older")
UNHEARD = ("expired", "host", "http")
"""Servers that must never have heard a word: they are not believed, or others could listen."""


def servers(folder: Path) -> dict[str, Server]:
    """One for each mistake that the plant's own PI Web API cannot show."""
    old = Options(updates=None, api=OLD)
    made = [
        Server("expired", folder, kind="expired"),
        Server("host", folder, kind="other-host"),
        Server("http", folder, kind=None),
        Server("rights", folder, readers={"B": {"PLANT\\somebody"}}),
        Server("down", folder),
        Server("ahead", folder, skew_s=7200),
        Server("behind", folder, skew_s=-10_800),
        Server("old", folder, options=old),
        Server("older", folder, options=dataclasses.replace(old, api=dataclasses.replace(OLD, unknown=400))),
    ]
    found = {server.name: server for server in made}
    found["old"].server.faults.refuse_upgrades(404)
    found["older"].server.faults.refuse_upgrades(501)
    found["down"].server.faults.archive_down()
    return found


def connections(good: Mapping[str, Any], others: Mapping[str, Server], folder: Path) -> dict[str, dict[str, Any]]:
    """The connection that is right, and one for each mistake."""
    right = {"name": PI_USER, "password": secret(folder / "password", PASSWORD)}
    wrong = {"name": PI_USER, "password": secret(folder / "mistyped", MISTYPED)}
    shown = {"name": PI_USER, "password": secret(folder / "open-to-others", PASSWORD, 0o644)}
    base = {name: value for name, value in good.items() if name != "tagsFile"}
    base |= {"asset": "site/area/other", "user": right}
    plant = base | {"tags": {"A": {"point": A_POINT}}}
    return {
        "historian": dict(good),
        "nobody": plant | {"url": "https://127.0.0.1:1/piwebapi"},
        "password": plant | {"user": wrong},
        "secret": plant | {"user": shown},
        "stranger": {name: value for name, value in plant.items() if name != "tls"},
        "archive": plant | {"dataServer": "NOSUCH"},
        "point": plant | {"tags": {"A": {"point": A_POINT}, "Nowhere": {"point": "NO.SUCH"}}},
        "expired": others["expired"].connection(base),
        "host": others["host"].connection(base),
        "open": others["http"].connection(base),
        "rights": others["rights"].connection(base),
        "down": others["down"].connection(base),
        "ahead": others["ahead"].connection(base),
        "behind": others["behind"].connection(base),
        "old": others["old"].connection(base, select={"more": {"query": "Tag:=A*"}}),
        "older": others["older"].connection(base),
    }


class Watch:
    """What the collector says, by the status that came last."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._rehearsal = rehearsal

    def of(self, name: str) -> dict[str, Any]:
        """How a connection is."""
        status = self._rehearsal.statuses.get("pi-collector", {})
        return dict(status.get("connections", {}).get(name, {}))

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        await self._rehearsal.wait_for(condition, what, LIMIT)

    async def running(self, *names: str) -> None:
        for name in names:
            await self.until(lambda name=name: self.of(name).get("state") == "running", f"running {name}")  # type: ignore[misc]

    async def waiting(self, name: str) -> None:
        """Until the connection waits, and says everything that it must."""

        def said() -> bool:
            one = self.of(name)
            text = f"{one.get('why', '')}: {one.get('remedy', '')}".lower()
            return one.get("state") == "waiting" and all(word in text for word in WAITING[name])

        await self.until(said, f"word of {name}: {WAITING[name]}")

    async def rejected(self, path: str) -> None:
        def said() -> bool:
            told = self._rehearsal.statuses.get("pi-collector", {}).get("config", {}).get("rejected", [])
            return any(
                one["path"] == path and all(word in orjson.dumps(one).decode() for word in REJECTED[path])
                for one in told
            )

        await self.until(said, f"word of {path}: {REJECTED[path]}")


async def writing(some: Iterable[Server]) -> None:
    """Machines at work, until cancelled."""
    some = list(some)
    while True:
        for server in some:
            server.write()
        await asyncio.sleep(0.2)


def asked_for(requests: Mapping[str, int]) -> set[str]:
    """What a server was asked for that is no reading."""
    return {name for name in requests if not name.startswith("GET ") and name not in PERMITTED}


async def test_each_mistake_is_told_with_its_remedy_while_the_right_connection_loses_nothing(
    build: Path, tmp_path: Path
) -> None:
    others = servers(tmp_path)
    live = [others[name] for name in ("rights", "down", "ahead", "behind", "old", "older")]
    spilled: list[str] = []

    def listen(topic: str, payload: bytes) -> None:
        spilled.extend(f"{topic}: {payload[:200]!r}" for word in SECRETS if word.encode() in payload)

    async with AsyncExitStack() as stack:
        for server in others.values():
            await stack.enter_async_context(server.server)
        rehearsal = await stack.enter_async_context(Rehearsal(tmp_path, build, with_plant=False, pi=100))
        pi = rehearsal.pi
        assert pi is not None
        recorder = Recorder(tmp_path / "recorded", "pi-collector")
        stack.callback(recorder.close)
        recorder.start(rehearsal.core.ipc)
        rehearsal.core.ipc.observe("sluice/#", listen)
        collector = rehearsal.collectors()[PI_COLLECTOR]
        good = collector["connections"]["historian"]
        merges = {
            PI_COLLECTOR: {"statusInterval": "1s", "connections": connections(good, others, tmp_path)},
            EXPORTER: {
                "sources": ["pi-collector/historian"],
                "sinks": {"kinesis": {"type": "kinesis", "kinesisStream": "plant-data"}},
            },
        }
        site = {"components": {name: {"configurationUpdate": {"merge": merge}} for name, merge in merges.items()}}
        await rehearsal.provide(site)
        await rehearsal.deploy(site)
        await rehearsal.start_production()
        watch = Watch(rehearsal)

        # Each mistake is told, and stops nothing else.
        for name in WAITING:
            await watch.waiting(name)
        await watch.running(*RUNNING)
        for server in live:
            server.begin()
        machines = asyncio.create_task(writing(live))
        stack.push_async_callback(end, machines)
        for path in REJECTED:
            await watch.rejected(path)

        # An archive that was away at the start, and goes away again, costs nothing but time.
        down = others["down"]
        down.server.faults.heal("archive_down")
        await watch.running("down")
        down.begin()
        await watch.until(lambda: down.due().total() >= 10, "values of the archive that was away")
        down.server.faults.archive_down()
        await watch.waiting("down")
        down.server.faults.heal("archive_down")
        await watch.running("down")

        # An old server is polled, and the status says why it is not better.
        for name, refused in (("old", "404"), ("older", "501")):
            told = watch.of(name)["transports"]["connection"]
            assert (told["transport"], told["streams"]) == ("poll", {"poll": 2}), told
            channel, _, updates = told["why"].partition("; ")
            assert channel.startswith("channel: "), told
            assert refused in channel, told
            assert updates.startswith("updates: does not know this (404)"), told
            server = watch.of(name)["server"]
            assert (server["version"], server["updates"]) == (OLD.version, False), server
        told = watch.of("rights")["transports"]["connection"]
        assert (told["transport"], told["streams"]) == ("channel", {"channel": 1, "poll": 1}), told

        # All that can run does, and has everything once.
        await end(machines)
        expected: Counter[tuple[str, int]] = Counter()
        for server in live:
            expected += server.due()
        assert expected.total() > 100
        tags = {tag for tag, _ in expected}

        def arrived() -> Counter[tuple[str, int]]:
            return Counter((tag, time) for tag, time, *_ in recorder.samples() if tag in tags)

        await watch.until(lambda: not expected - arrived(), "everything of the servers that can be read")
        since = {f"{server.name}/{point.name}": server.begun for server in live for point in server.points}
        again = Counter({key: count for key, count in (arrived() - expected).items() if key[1] >= since[key[0]]})
        assert not again, "came twice, or was never written"
        await watch.running(*RUNNING, "down")
        produced = await rehearsal.finish_production()
        await rehearsal.drain(produced, settle=3.0)
        counters = await pi.counters()
        report = await asyncio.to_thread(rehearsal.reconcile)
        assert PASSWORD not in orjson.dumps(list(recorder.events())).decode()
    assert report.balances, report.as_dict()
    assert report.produced > 500

    # Nothing was ever written, and nothing said to who should not hear it.
    assert (counters["written"], asked_for(counters["requests"])) == (0, set())
    for server in others.values():
        assert (server.server.written, asked_for(server.server.requests)) == (0, set()), server.name
        assert bool(server.server.requests) == (server.name not in UNHEARD), server.name

    # No secret is anywhere: neither on the bus, nor in a log, nor in what is kept.
    assert spilled == []
    told_files = [path for path in rehearsal.core.root.rglob("*") if path.is_file() and not path.is_symlink()]
    holding = [str(path) for path in told_files if any(word.encode() in path.read_bytes() for word in SECRETS)]
    assert holding == []
