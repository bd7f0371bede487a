"""The points of a simulated PI system, over the line: names, ids, rights and searches as a PI Web API has them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pi_collector.config import Connection, Tag
from pi_collector.points.resolving import Points, Resolved
from pi_collector.web.client import Client
from plant.pi.clock import Clock
from plant.pi.http_api import ApiOptions
from plant.pi.points import PointDefinition
from plant.pi.server import Options, PiServer
from plant.pi.system import PiSystem
from sluice.component import Problems
from sluice.config import SecretRef
from sluice.log import Secret

FAST = {"requestsPerSecond": 1000, "parallel": 8}


async def _no_secret(reference: SecretRef) -> Secret:
    raise AssertionError(f"nobody asked for {reference}")


class Site:
    """A PI system with its PI Web API, and a connection's points."""

    def __init__(self, system: PiSystem, server: PiServer, folder: Path, **settings: Any) -> None:
        self.system = system
        self.server = server
        self.found: Mapping[str, Resolved] = {}
        self.events: list[str] = []
        self.problems = Problems()
        self.settings = Connection.model_validate({"url": server.url, "load": FAST, **settings})
        self.client = Client("pi", self.settings, secret=_no_secret, directory=folder, problems=self.problems)
        self.points = Points("pi", self.settings, self.client, folder, self.problems)
        self.points.found = self._found
        self.points.tell = lambda kind, **what: self.events.append(kind)

    def _found(self, found: Mapping[str, Resolved]) -> None:
        self.found = found

    def want(self, *names: str, **tags: str) -> None:
        self.points.want({name: Tag(point=name) for name in names} | {tag: Tag(point=of) for tag, of in tags.items()})

    @property
    def names(self) -> dict[str, str]:
        return {tag: one.point.name for tag, one in self.found.items()}

    def said(self, tag: str) -> str:
        return next((str(one) for one in self.problems if one.path == f"connections.pi.tags.{tag}"), "")


@asynccontextmanager
async def site(
    folder: Path, *definitions: PointDefinition, api: ApiOptions | None = None, **more: Any
) -> AsyncIterator[Site]:
    clock = Clock()
    system = PiSystem(clock)
    for one in definitions:
        system.add(one)
    async with PiServer(system, clock, Options(api=api or ApiOptions())) as server:
        made = Site(system, server, folder, **more)
        try:
            await made.client.start()
            yield made
        finally:
            await made.client.close()


@pytest.mark.parametrize("api", [ApiOptions(), ApiOptions(multiple=False), ApiOptions(multiple=False, unknown=400)])
async def test_points_are_found_whatever_the_server_knows(tmp_path: Path, api: ApiOptions) -> None:
    points = [PointDefinition("SINUSOID", "Float32", unit="degC", descriptor="12 h"), PointDefinition("Count", "Int32")]
    async with site(tmp_path, *points, api=api) as made:
        made.want("sinusoid", "Count", "Nothing", "É & point!")
        await made.points.look()
        assert made.names == {"sinusoid": "SINUSOID", "Count": "Count"}
        sinusoid = made.found["sinusoid"].point
        assert (sinusoid.type, sinusoid.unit, sinusoid.descriptor) == ("Float32", "degC", "12 h")
        assert sinusoid.server == made.system.path.removeprefix("\\\\")
        assert sinusoid.web_id.startswith("I1DP")
        assert len(sinusoid.web_id) == 32  # short, so that many have room in an address
        assert "is not found" in made.said("Nothing")


async def test_a_point_that_this_user_may_not_see_is_set_aside(tmp_path: Path) -> None:
    hidden = PointDefinition("Hidden", visible_to=frozenset({"somebody else"}))
    async with site(tmp_path, PointDefinition("A"), hidden) as made:
        made.want("A", "Hidden")
        await made.points.look()
        assert made.names == {"A": "A"}
        assert "PI calls a point unknown, too, that this user may not read" in made.said("Hidden")


async def test_what_becomes_of_points_is_seen_at_a_refresh(tmp_path: Path) -> None:
    async with site(tmp_path, *map(PointDefinition, ("A", "B", "C", "D"))) as made:
        made.want("A", "B", "C", "D")
        await made.points.look()
        before = dict(made.found)
        for name, what in (("A", "rename"), ("B", "recreate"), ("C", "change")):
            point = made.system.by_name(name)
            assert point is not None
            if what == "rename":
                made.system.rename(point, "A2")
            elif what == "recreate":
                made.system.recreate(point)
            else:
                made.system.change(point, unit="bar")
        made.points.refresh()
        await made.points.look()
        assert made.names == {"A": "A2", "B": "B", "C": "C", "D": "D"}
        same = {name: before[name].point.key == made.found[name].point.key for name in before}
        assert same == {"A": True, "B": False, "C": True, "D": True}
        assert sorted(made.events) == ["point-recreated", "point-renamed", "point-unit-changed"]
        assert made.found["C"].unit == "bar"


@pytest.mark.parametrize(
    "wish", [{"name": "Unit1.*"}, {"query": "Tag:=Unit1.*"}, {"name": "*1.*", "source": "R"}], ids=str
)
async def test_searches_find_all_pages(tmp_path: Path, wish: dict[str, str]) -> None:
    points = [PointDefinition(f"Unit1.P{number}", source="R") for number in range(1500)]
    others = [PointDefinition(f"Unit2.P{number}", source="R") for number in range(50)]
    async with site(tmp_path, *points, *others, select={"all": wish}) as made:
        await made.points.look()
        assert len(made.found) == 1500
        assert all(name.startswith("Unit1.") for name in made.found)


async def test_a_query_on_an_old_server_is_told(tmp_path: Path) -> None:
    for unknown in (404, 400):
        api = ApiOptions(search=False, unknown=unknown)
        async with site(tmp_path, PointDefinition("A"), api=api, select={"q": {"query": "Tag:=A"}}) as made:
            await made.points.look()
            told = [str(one) for one in made.problems]
            assert len(told) == 1
            assert "2021 SP3" in told[0]


async def test_ten_thousand_points_in_a_few_seconds_and_nothing_written(tmp_path: Path) -> None:
    names = [f"Unit{number // 100}.Reactor.Temperature{number}" for number in range(10_000)]
    async with site(tmp_path, *map(PointDefinition, names)) as made:
        made.want(*names)
        begun = time.monotonic()
        await made.points.look()
        assert len(made.found) == 10_000
        assert made.server.requests["GET points/multiple"] <= 160
        assert time.monotonic() - begun < 30
        assert {verb.split()[0] for verb in made.server.requests} == {"GET"}


async def test_a_server_that_comes_back_is_asked_again(tmp_path: Path) -> None:
    async with site(tmp_path, PointDefinition("A")) as made:
        made.want("A")
        await made.server.close()
        task = asyncio.create_task(made.points.run())
        try:
            await until(lambda: "connections.pi.points" in {one.path for one in made.problems}, made)
            await made.server.start()
            await until(lambda: made.names == {"A": "A"}, made)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Any, made: Site, limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {made.names}, {[*map(str, made.problems)]}"
        await asyncio.sleep(0.02)
