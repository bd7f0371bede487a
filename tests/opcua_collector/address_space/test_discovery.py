"""Filters over sessions, restarts and changes of configuration: which tags there are, and what is told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opcua_collector.address_space.discovery import Discovery, forget_spaces
from opcua_collector.address_space.selecting import LONGEST_NAME, FoundTag, tag_name
from opcua_collector.config import Connection as Settings
from opcua_collector.config import Tag
from opcua_collector.nodes import learn
from opcua_collector.services.browse import OperationLimits
from opcua_collector.services.connecting import Identity, connect
from opcua_collector.stack import ua
from plant.opcua_server import no_garbage_collection

from ..scripted_space import ScriptedSpace, fault, folder, variable

SPACES = ("http://opcfoundation.org/UA/", "urn:own", "urn:plant")
ENDPOINT = "opc.tcp://plant:4840"


@dataclass
class Reports:
    found: dict[str, tuple[str, str, Any]] = field(default_factory=dict)

    def report(self, scope: str, problem: str, remedy: str, value: Any = None) -> None:
        self.found[scope] = (problem, remedy, value)

    def clear(self, scope: str) -> None:
        for path in [p for p in self.found if p == scope or p.startswith(f"{scope}.")]:
            del self.found[path]

    def of(self, place: str) -> str:
        problem, remedy, _ = self.found[f"connections.line1.{place}"]
        return f"{problem}: {remedy}"


async def until(condition: Callable[[], Any], state: Callable[[], Any], limit: float = 10.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {state()}"
        await asyncio.sleep(0.01)


def settings(refresh: float = 3600.0, **more: Any) -> Settings:
    made = Settings.model_validate({"endpoint": ENDPOINT, **more})
    return made.model_copy(update={"browse": made.browse.model_copy(update={"refresh": refresh})})


def plant() -> ScriptedSpace:
    return ScriptedSpace(
        folder(
            "Plant",
            folder("U1", variable("Temp", identifier="t1"), variable("Level", identifier="l1"), identifier="u1"),
            folder("U2", variable("Temp", identifier="t2"), identifier="u2"),
        )
    )


class Site:
    """A discovery, what it found, and a session with a scripted server."""

    def __init__(self, work: Path, server: ScriptedSpace, config: Settings) -> None:
        self.work = work
        self.server = server
        self.reports = Reports()
        self.tags: Mapping[str, Tag] = {}
        self.handed = 0
        self.started = "2026-03-01T00:00:00Z"
        self.spaces = SPACES
        self.behind = False
        self.discovery = self.fresh(config)

    def fresh(self, config: Settings) -> Discovery:
        """As after a restart of the component."""
        self.discovery = Discovery(
            "line1", config, self.work / "space", self._take, self.reports, behind=lambda: self.behind
        )
        return self.discovery

    def _take(self, tags: Mapping[str, Tag]) -> None:
        self.tags = dict(tags)
        self.handed += 1

    def nodes(self) -> dict[str, str | None]:
        return {name: tag.node for name, tag in self.tags.items()}

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        async def times() -> tuple[str, int]:
            return self.started, 0

        async def facts() -> Any:
            return SimpleNamespace(limits=OperationLimits(browse=100, read=100), spaces=self.spaces)

        session: Any = SimpleNamespace(stack=self.server, times=times)
        known: asyncio.Task[Any] = asyncio.create_task(facts())
        task = asyncio.create_task(self.discovery.run(session, known))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def look(self) -> None:
        """A session in which the server is looked through once."""
        before = self.discovery.status().get("looked_through", 0)

        def done() -> bool:
            status = self.discovery.status()
            return status.get("looked_through", 0) > before and "looking" not in status

        async with self.session():
            await until(done, self.state)

    def state(self) -> Any:
        return self.discovery.status(), self.reports.found, list(self.tags)


ALL = {"all": {"path": "/Plant/**"}}


async def test_filters_become_tags_named_by_their_paths_with_what_the_filter_says_of_them(tmp_path: Path) -> None:
    select = {
        "temps": {"path": "/Plant/*/Temp", "prefix": "Line1/", "group": "fast", "asset": "site/area"},
        "rest": {"path": "/Plant/**", "exclude": ["/**/Temp"]},
    }
    site = Site(tmp_path, plant(), settings(select=select, groups={"fast": {"publishingInterval": "100ms"}}))
    await site.look()
    assert site.nodes() == {
        "Line1/Plant/U1/Temp": "nsu=urn:plant;s=t1",
        "Plant/U1/Level": "nsu=urn:plant;s=l1",
        "Line1/Plant/U2/Temp": "nsu=urn:plant;s=t2",
    }
    first = site.tags["Line1/Plant/U1/Temp"]
    assert (first.group, first.asset, first.setting) == ("fast", "site/area", "select")
    assert first == FoundTag(node="nsu=urn:plant;s=t1", group="fast", asset="site/area")
    assert site.discovery.status()["filters"] == {"temps": 2, "rest": 1}
    assert site.reports.found == {}


async def test_after_a_restart_the_tags_are_there_before_the_server_is_asked(tmp_path: Path) -> None:
    site = Site(tmp_path, plant(), settings(select=ALL))
    await site.look()
    before, asked = site.nodes(), len(site.server.asked)
    site.tags = {}
    await site.fresh(settings(select=ALL)).restore()
    assert site.nodes() == before
    assert len(site.server.asked) == asked
    handed = site.handed
    await site.look()  # the first session looks whether it is still so, and nothing is handed over again
    assert (site.nodes(), site.handed) == (before, handed)


async def test_what_is_on_disk_of_another_server_is_not_taken(tmp_path: Path) -> None:
    site = Site(tmp_path, plant(), settings(select=ALL))
    await site.look()
    site.tags = {}
    await site.fresh(settings(select=ALL, endpoint="opc.tcp://other:4840")).restore()
    assert site.tags == {}


async def test_a_lost_line_alone_makes_nobody_look_again_but_a_restarted_server_does(tmp_path: Path) -> None:
    site = Site(tmp_path, plant(), settings(select=ALL))
    await site.look()
    asked = len(site.server.asked)
    async with site.session():
        await asyncio.sleep(0.1)
    assert len(site.server.asked) == asked
    site.started = "2026-03-02T00:00:00Z"
    await site.look()
    assert len(site.server.asked) > asked


async def test_nodes_come_at_once_and_go_after_two_looks(tmp_path: Path) -> None:
    site = Site(tmp_path, plant(), settings(refresh=0.05, select=ALL))
    server = site.server
    async with site.session():
        await until(lambda: len(site.tags) == 3, site.state)
        unit = server.nodes["u2", 2]
        unit.add(variable("New"))
        server.rebuild()
        await until(lambda: "Plant/U2/New" in site.tags, site.state)
        unit.below.clear()
        server.rebuild()
        looks = site.discovery.status()["looked_through"]
        await until(lambda: "Plant/U2/New" not in site.tags, site.state)
        assert site.discovery.status()["looked_through"] >= looks + 2
        assert list(site.tags) == ["Plant/U1/Temp", "Plant/U1/Level"]


async def test_a_server_that_restarts_twice_before_its_nodes_are_all_there_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, plant(), settings(select=ALL))
    await site.look()
    site.server.objects.below.clear()
    site.server.rebuild()
    for restart in range(4):
        site.started = f"2026-03-02T00:00:0{restart}Z"
        await site.look()
        assert len(site.tags) == 3
    monkeypatch.setattr("opcua_collector.address_space.discovery._APART", 0.1)
    site.started = "2026-03-02T00:01:00Z"
    async with site.session():  # what is missing is looked for soon, not after an hour
        await until(lambda: not site.tags, site.state)


async def test_a_server_that_orders_its_namespaces_anew_has_the_same_tags(tmp_path: Path) -> None:
    site = Site(tmp_path, plant(), settings(select=ALL))
    await site.look()
    before, handed = site.nodes(), site.handed
    site.spaces = ("http://opcfoundation.org/UA/", "urn:plant", "urn:own")

    def turned(node: Any) -> None:
        node.id = (node.id[0], 1 if node.id[1] == 2 else node.id[1])
        for one in node.below:
            turned(one)

    turned(site.server.objects)
    site.server.rebuild()
    await site.look()
    assert (site.nodes(), site.handed) == (before, handed)


async def test_a_look_that_fails_costs_nothing_is_told_and_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opcua_collector.address_space.discovery._PAUSES", (0.05, 0.1))
    site = Site(tmp_path, plant(), settings(refresh=0.05, select=ALL))
    failing = [False]
    site.server.trouble = lambda service, request: fault("BadServiceUnsupported") if failing[0] else None
    async with site.session():
        await until(lambda: len(site.tags) == 3, site.state)
        failing[0] = True
        await until(lambda: "connections.line1.browse" in site.reports.found, site.state)
        assert "BadServiceUnsupported" in site.reports.of("browse")
        assert len(site.tags) == 3
        failing[0] = False
        await until(lambda: not site.reports.found, site.state)
        assert len(site.tags) == 3


async def test_what_the_server_will_not_show_for_a_while_does_not_go(tmp_path: Path) -> None:
    site = Site(tmp_path, plant(), settings(refresh=0.02, select=ALL))
    async with site.session():
        await until(lambda: len(site.tags) == 3, site.state)
        site.server.refuse["u1"] = 0x801F0000
        looks = site.discovery.status()["looked_through"]
        await until(lambda: site.discovery.status()["looked_through"] > looks + 3, site.state)
        assert len(site.tags) == 3
        assert site.discovery.status()["unknown"] == 1


async def test_a_server_with_more_nodes_than_allowed_is_told_and_nothing_goes(tmp_path: Path) -> None:
    server = ScriptedSpace(folder("Plant", *(variable(f"V{n}") for n in range(150))))
    site = Site(tmp_path, server, settings(select=ALL, browse={"maxNodes": 100}))
    await site.look()
    assert len(site.tags) == 99
    assert "raise it" in site.reports.of("browse.maxNodes")


async def test_a_change_of_filters_applies_at_once_without_a_server(tmp_path: Path) -> None:
    site = Site(tmp_path, plant(), settings(select=ALL))
    await site.look()
    await site.discovery.apply(settings(select={"temps": {"path": "/Plant/*/Temp"}}))
    assert list(site.tags) == ["Plant/U1/Temp", "Plant/U2/Temp"]
    await site.discovery.apply(settings())
    assert site.tags == {}
    assert site.discovery.status() == {}


async def test_a_new_filter_finds_in_a_running_session_what_was_not_looked_for_before(tmp_path: Path) -> None:
    site = Site(tmp_path, plant(), settings())
    async with site.session():
        await site.discovery.apply(settings(select={"one": {"path": "/Plant/U1/*"}}))
        await until(lambda: list(site.tags) == ["Plant/U1/Temp", "Plant/U1/Level"], site.state)
        await site.discovery.apply(settings(select={"one": {"path": "/Plant/U2/*"}}))
        await until(lambda: list(site.tags) == ["Plant/U2/Temp"], site.state)


async def test_a_shorter_refresh_counts_from_now_on(tmp_path: Path) -> None:
    site = Site(tmp_path, plant(), settings(select=ALL))
    async with site.session():
        await until(lambda: site.discovery.status().get("looked_through") == 1, site.state)
        await site.discovery.apply(settings(0.05, select=ALL))
        await until(lambda: site.discovery.status()["looked_through"] > 2, site.state)


async def test_looking_waits_while_publishing_is_behind_and_says_so(tmp_path: Path) -> None:
    site = Site(tmp_path, plant(), settings(select=ALL))
    site.behind = True
    async with site.session():
        await until(lambda: site.discovery.status().get("looking", {}).get("waits"), site.state)
        assert site.server.asked == []
        site.behind = False
        await until(lambda: len(site.tags) == 3, site.state)


@pytest.mark.parametrize(
    ("wish", "place", "words"),
    [
        ({"path": "/Plnt/**"}, "path", "fits no variable of the server: did you mean /Plant?"),
        ({"path": "/Plant/U3/Temp"}, "path", "did you mean /Plant/U"),
        ({"path": "/Plant/Reactor/Temp"}, "path", "correct the path below /Plant, where there is U1, U2"),
        ({"path": "/Plant/U1/Pressure"}, "path", "correct the path below /Plant/U1, where there is Level, Temp"),
        ({"path": "/Plant/U1"}, "path", "/Plant/U1 is no variable: write /Plant/U1/** for all below"),
        ({"path": "/Objects/Plant/**"}, "path", "paths begin below Objects: write /Plant/**"),
        ({"path": "/Plant/*/Pressure"}, "path", "correct the path below /Plant, where there is U1, U2"),
        ({"path": "/Plant/**", "historizing": True}, "path", "fits 3 variables, and none of them is as historizing"),
        ({"path": "/Plant/**", "group": "fats"}, "group", "is no group of this connection: use one of: fast"),
    ],
)
async def test_a_filter_that_gives_nothing_is_told_with_what_there_is(
    tmp_path: Path, wish: dict[str, Any], place: str, words: str
) -> None:
    select = {"good": {"path": "/Plant/U2/*"}, "wrong": wish}
    site = Site(tmp_path, plant(), settings(select=select, groups={"fast": {"publishingInterval": "100ms"}}))
    await site.look()
    assert words in site.reports.of(f"select.wrong.{place}")
    assert "Plant/U2/Temp" in site.tags  # nobody else is touched


async def test_a_second_node_of_the_same_name_is_told_and_left_out(tmp_path: Path) -> None:
    server = ScriptedSpace(folder("Plant", variable("Temp", identifier="a"), variable("TEMP", identifier="b")))
    site = Site(tmp_path, server, settings(select={"one": {"path": "/Plant/*"}, "again": {"path": "/**"}}))
    await site.look()
    assert site.nodes() == {"Plant/Temp": "nsu=urn:plant;s=a"}
    assert "whose names other tags have already, such as Plant/TEMP" in site.reports.of("select.one.path")


async def test_an_id_that_nobody_can_write_is_left_out_and_told(tmp_path: Path) -> None:
    server = ScriptedSpace(folder("Plant", variable("A"), variable("B", identifier="b ")))
    site = Site(tmp_path, server, settings(select=ALL))
    await site.look()
    assert list(site.tags) == ["Plant/A"]
    assert "ids nobody can write, such as that of /Plant/B" in site.reports.of("select.all.path")


def test_the_name_of_a_tag_is_printable_and_never_too_long() -> None:
    assert tag_name("Line1/", "/Plant/Temp") == "Line1/Plant/Temp"
    assert tag_name("", "/A\nB") == "A\N{REPLACEMENT CHARACTER}B"
    long = [tag_name("", f"/{'x' * 300}{n}") for n in range(2)]
    assert [len(name) for name in long] == [LONGEST_NAME] * 2
    assert long[0] != long[1]


async def test_what_is_kept_goes_with_its_connection(tmp_path: Path) -> None:
    site = Site(tmp_path, plant(), settings(select=ALL))
    await site.look()
    kept = tmp_path / "space" / "line1.zst"
    await until(kept.exists, site.state)
    forget_spaces(tmp_path / "space", ["line1"])
    assert kept.exists()
    site.discovery.forget()
    assert not kept.exists()
    kept.touch()
    forget_spaces(tmp_path / "space", ["line2"])
    assert not kept.exists()


async def test_nodes_of_a_real_server_come_and_go_by_type_and_path(tmp_path: Path) -> None:
    server: Any = import_module("asyncua").Server()
    with no_garbage_collection():
        await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0/plant")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace("urn:plant")
    plant = await server.nodes.objects.add_folder(index, "Plant")
    speed = await plant.add_variable(ua.NodeId("speed", index), "Speed", 1.5)
    await speed.add_property(ua.NodeId("range", index), ua.QualifiedName("EURange", 0), ua.Range(0, 10))
    await plant.add_variable(ua.NodeId("count", index), "Count", 3, ua.VariantType.Int32)
    await plant.add_variable(ua.NodeId("name", index), "Name", "a")
    await server.start()
    try:
        endpoint = f"opc.tcp://127.0.0.1:{server.bserver.port}/plant"
        select = {
            "numbers": {"path": "/Plant/**", "dataType": ["Number"]},
            "texts": {"path": "/Plant/N*", "prefix": "T/"},
        }
        config = settings(0.05, endpoint=endpoint, security={"policy": "None"}, select=select)
        site = Site(tmp_path, plant, config)
        session = await connect("line1", config, Identity(tmp_path / "pki", "urn:test:collector"), None)
        facts = asyncio.create_task(learn(session, config.load))
        task = asyncio.create_task(site.discovery.run(session, facts))
        try:
            await until(lambda: len(site.tags) == 3, site.state)
            assert site.nodes() == {
                "Plant/Speed": "nsu=urn:plant;s=speed",
                "Plant/Count": "nsu=urn:plant;s=count",
                "T/Plant/Name": "nsu=urn:plant;s=name",
            }
            unit = await plant.add_object(index, "Unit2")
            level = await unit.add_variable(ua.NodeId("level", index), "Level", 2.0)
            await until(lambda: "Plant/Unit2/Level" in site.tags, site.state)
            await server.delete_nodes([level])
            await until(lambda: "Plant/Unit2/Level" not in site.tags, site.state)
            assert len(site.tags) == 3
            assert site.reports.found == {}
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await session.close(politely=True)
    finally:
        await server.stop()
