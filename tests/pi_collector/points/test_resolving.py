"""Tags and their points: found in few requests, kept true to the server, and given up for good reason only."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pi_collector.config import Connection, Select, Tag
from pi_collector.points.lookup import DataServer, Lookup
from pi_collector.points.resolving import Points, Resolved
from pi_collector.points.searching import search
from pi_collector.web.errors import UnavailableError
from pi_collector.web.pace import BACKFILL, LIVE
from sluice.component import Problems

from .scripted_web import SERVER, ScriptedWeb


class Site:
    """The points of one connection, with a clock of our own."""

    def __init__(self, folder: Path, web: ScriptedWeb, **settings: Any) -> None:
        self.now = 0.0
        self.folder = folder
        self.web = web
        self.problems = Problems()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.found: list[Mapping[str, Resolved]] = []
        self.points = self.begin(**settings)

    def begin(self, **settings: Any) -> Points:
        """As after a restart."""
        self.settings = Connection.model_validate({"url": self.web.address, **settings})
        self.points = Points(
            "pi", self.settings, self.web, self.folder, self.problems,
            found=self.found.append, tell=lambda kind, **what: self.events.append((kind, what)), clock=lambda: self.now,
        )  # fmt: skip
        return self.points

    def want(self, **tags: Any) -> None:
        self.points.want({name: Tag.model_validate(tag) for name, tag in tags.items()})

    async def look(self, later: float = 0.0) -> None:
        """Once, some seconds later."""
        self.now += later
        await self.points.look()

    @property
    def now_found(self) -> dict[str, str]:
        return {tag: one.point.name for tag, one in (self.found[-1] if self.found else {}).items()}

    def said(self) -> dict[str, str]:
        return {problem.path: f"{problem.problem}: {problem.remedy} ({problem.effect})" for problem in self.problems}


def plant(*names: str) -> ScriptedWeb:
    web = ScriptedWeb()
    for number, name in enumerate(names, 1):
        web.add(name, number)
    return web


# --- found ---


async def test_tags_find_their_points_by_name_and_by_path_in_any_case(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("SINUSOID", "CDT158"), asset="site/a")
    site.want(A={"point": "sinusoid"}, B={"path": "\\\\srv\\cdt158", "unit": "%", "asset": "other"})
    await site.look()
    found = site.found[-1]
    assert (found["A"].point.name, found["A"].unit, found["A"].asset) == ("SINUSOID", "degC", "site/a")
    assert (found["B"].point.id, found["B"].unit, found["B"].asset) == (2, "%", "other")
    assert not site.said()


async def test_ten_thousand_points_are_found_in_a_hundred_or_so_requests(tmp_path: Path) -> None:
    names = [f"Unit{number // 100}.Reactor.Temperature{number}" for number in range(10_000)]
    site = Site(tmp_path, plant(*names))
    site.want(**{name: {"point": name} for name in names})
    await site.look()
    assert len(site.found[-1]) == 10_000
    assert site.web.count("points/multiple") <= 160
    longest = max(len(str(one.query)) for one in site.web.asked)
    assert longest < 12_000  # of the text of a list of pairs; the address has 6,000 bytes
    assert {one.priority for one in site.web.asked} == {LIVE}


async def test_the_status_says_how_many_points_were_not_asked_for_yet(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A", "B", "C"))

    def waiting() -> int:
        return int(site.points.status().get("waiting", 0))

    site.want(A={"point": "A"})
    await site.look()  # until the data server is known nobody can say what a name means
    for wanted in ("AB", "ABX", "BC"):  # the last are as many as those that were found before
        site.want(**{name: {"point": name} for name in wanted})
        assert waiting() == len({*wanted} - {*site.now_found}), wanted
        await site.look()
        assert waiting() == 0


async def test_a_server_without_points_multiple_is_asked_for_one_after_the_other(tmp_path: Path) -> None:
    web = plant("A", "B", "C")
    web.multiple = web.id_only = False
    site = Site(tmp_path, web)
    site.want(A={"point": "A"}, B={"point": "B"}, C={"point": "C"}, D={"point": "D"})
    await site.look()
    assert site.now_found == {"A": "A", "B": "B", "C": "C"}
    assert "is not found" in site.said()["connections.pi.tags.D"]
    assert web.count("points/multiple") == 1  # then it is known


async def test_an_address_that_is_too_long_for_the_server_is_halved(tmp_path: Path) -> None:
    web = plant(*"ABCDEFG")
    web.most = 2
    site = Site(tmp_path, web)
    site.want(**{name: {"point": name} for name in "ABCDEFG"})
    await site.look()
    assert len(site.now_found) == 7


async def test_what_is_known_flows_after_a_restart_before_the_server_answers(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A", "B"))
    site.want(A={"point": "A"}, B={"point": "B"})
    await site.look()
    file = tmp_path / "points" / "pi.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    site.found.clear()
    site.web.asked.clear()
    site.begin().want({"A": Tag(point="A"), "B": Tag(point="B")})
    site.points.restore()
    assert site.now_found == {"A": "A", "B": "B"}
    assert not site.web.asked
    await site.look()
    assert {one.priority for one in site.web.asked if one.path == "points/multiple"} == {BACKFILL}
    assert all(one.fresh for one in site.web.asked if one.path == "points/multiple")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version":1}', b'{"version":1,"mark":"","points":{"x":[1]}}'])
async def test_a_malformed_list_on_disk_costs_a_lookup_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / "pi.json").write_bytes(content)
    site = Site(tmp_path, plant("A"))
    site.points.restore()
    site.want(A={"point": "A"})
    await site.look()
    assert site.now_found == {"A": "A"}


async def test_the_list_of_another_server_is_not_believed(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A"))
    site.want(A={"point": "A"})
    await site.look()
    site.found.clear()
    site.begin(dataServer="OTHER").want({"A": Tag(point="A")})
    site.points.restore()
    assert not site.now_found


# --- set aside ---


async def test_what_is_not_there_is_set_aside_and_found_when_it_comes(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A"))
    site.want(A={"point": "A"}, B={"point": "B"})
    await site.look()
    assert site.now_found == {"A": "A"}
    assert site.said() == {
        "connections.pi.tags.B": "is not found (PI Point not found '\\\\SRV\\B'.): correct the name; PI calls a point "
        "unknown, too, that this user may not read (it is looked for again; the other tags are collected)"
    }
    asked = len(site.web.asked)
    await site.look(29.0)
    assert len(site.web.asked) == asked  # not before half a minute
    site.web.add("B", 2)
    await site.look(1.5)
    assert site.now_found == {"A": "A", "B": "B"}
    assert not site.said()


async def test_looking_for_what_is_not_there_comes_ever_more_seldom(tmp_path: Path) -> None:
    site = Site(tmp_path, plant())
    site.want(B={"point": "B"})
    await site.look()
    when = []
    for _ in range(6 * 3600):
        before = site.web.count("points")
        await site.look(1.0)
        if site.web.count("points") > before:
            when.append(site.now)
    pauses = [round(later - sooner) for sooner, later in pairwise(when)]
    assert when[0] == 30.0
    assert pauses[:7] == [60, 120, 240, 480, 960, 1920, 3600]
    assert set(pauses[7:]) == {3600}


async def test_a_point_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    web = plant("A", "B")
    web.denied.add("\\\\srv\\b")
    site = Site(tmp_path, web)
    site.want(A={"point": "A"}, B={"point": "B"})
    await site.look()
    assert site.now_found == {"A": "A"}
    assert site.said()["connections.pi.tags.B"].startswith("may not be read by this user (Access denied.): have the PI")


async def test_another_user_is_asked_for_at_once(tmp_path: Path) -> None:
    web = plant("A")
    web.denied.add(f"\\\\{SERVER}\\A".casefold())
    site = Site(tmp_path, web)
    site.want(A={"point": "A"})
    await site.look()
    assert not site.now_found
    web.denied.clear()
    reader = {"name": "reader", "password": {"file": "p"}}
    site.points.apply(Connection.model_validate({"url": web.address, "user": reader}))
    await site.look(1.0)
    assert site.now_found == {"A": "A"}


async def test_two_tags_may_have_one_point_only_when_they_collect_it_otherwise(tmp_path: Path) -> None:
    groups = {"slow": {"mode": "snapshot"}, "mean": {"mode": "summary", "summaries": ["Average", "Maximum"]}}
    site = Site(tmp_path, plant("A"), groups={**groups, "top": {"mode": "summary", "summaries": ["Maximum"]}})
    site.want(
        A={"point": "A"}, Again={"point": "a"}, Slow={"point": "A", "group": "slow"},
        Mean={"point": "A", "group": "mean"}, Top={"point": "A", "group": "top"},
    )  # fmt: skip
    await site.look()
    assert sorted(site.now_found) == ["A", "Mean", "Slow"]
    assert site.said() == {
        f"connections.pi.tags.{tag}": f"names the same point as {first}, which collects it in the same way: take one "
        "of the two out, or give one a group with another mode (it is not collected)"
        for tag, first in (("Again", "A"), ("Top", "Mean"))
    }


async def test_no_two_tags_are_sent_on_under_one_name(tmp_path: Path) -> None:
    site = Site(
        tmp_path, plant("T", "T2", "S", "S.Average", "U", "U.Average"),
        groups={"means": {"mode": "summary"}},
        select={"all": {"name": "S*"}, "means": {"name": "S*", "group": "means"}, "u": {"name": "U*"}},
    )  # fmt: skip
    site.want(**{
        "T": {"point": "T", "group": "means"}, "t.average": {"point": "T2"}, "U": {"point": "U", "group": "means"},
    })  # fmt: skip
    await site.look()
    assert "becomes T.Average in mode summary, and there is a tag of that name" in site.said()["connections.pi.tags.T"]
    # Of the point U.Average nothing is collected: the tag U is sent on under its name.
    assert site.now_found == {"t.average": "T2", "U": "U", "S": "S", "S.Average": "S.Average"}


async def test_blobs_are_not_collected(tmp_path: Path) -> None:
    web = plant()
    web.add("Photo", 1, PointType="Blob")
    site = Site(tmp_path, web)
    site.want(Photo={"point": "Photo"})
    await site.look()
    assert not site.now_found
    assert "is a Blob point" in site.said()["connections.pi.tags.Photo"]


async def test_thousands_of_wrong_names_are_told_in_a_bounded_number_of_lines(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A"))
    site.want(A={"point": "A"}, **{f"N{number}": {"point": f"N{number}"} for number in range(1000)})
    await site.look()
    assert len(site.said()) == 201
    assert "1000 tags in all" in site.said()["connections.pi.points"]
    assert site.points.status()["set_aside"] == 1000


# --- the data server ---


async def test_several_data_servers_are_named_and_tags_with_a_path_are_collected(tmp_path: Path) -> None:
    web = plant("A")
    web.servers = {"SRV": True, "HIST2": True}
    site = Site(tmp_path, web)
    site.want(A={"path": f"\\\\{SERVER}\\A"}, B={"point": "A"})
    await site.look()
    assert site.now_found == {"A": "A"}
    said = site.said()["connections.pi.dataServer"]
    assert said.startswith("is left out, and this PI Web API knows several: HIST2, SRV: write dataServer: <name")
    site.points.apply(Connection.model_validate({"url": web.address, "dataServer": "SRV"}))
    site.want(B={"point": "A"})
    await site.look()
    assert site.now_found == {"B": "A"}
    assert not site.said()


async def test_a_data_server_that_nobody_knows_is_told(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A"), dataServer="SVR")
    site.want(A={"point": "A"})
    await site.look()
    assert "it knows SRV" in site.said()["connections.pi.dataServer"]


async def test_while_the_archive_is_away_no_point_is_given_up(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A"))
    site.want(A={"point": "A"})
    await site.look()
    site.web.servers[SERVER] = False
    kept = dict(site.web.points)
    site.web.points.clear()  # a PI Web API without its archive may call every point unknown
    site.points.refresh()
    for _ in range(5):
        with pytest.raises(Exception, match="data server SRV is not connected"):
            await site.look(60.0)
    assert site.now_found == {"A": "A"}
    site.web.servers[SERVER], site.web.points = True, kept
    await site.look(60.0)
    assert site.now_found == {"A": "A"}
    assert not site.events


# --- what becomes of points ---


async def test_a_renamed_point_goes_on_and_is_told(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A"))
    site.want(T={"point": "A"})
    await site.look()
    site.web.remove("A")
    site.web.add("A.new", 1)
    site.points.refresh()
    await site.look()
    assert site.now_found == {"T": "A.new"}
    assert site.found[-1]["T"].point.key == site.found[0]["T"].point.key
    told = ("point-renamed", {"point": "\\\\SRV\\A.new", "id": 1, "tags": ["T"], "was": "A", "now": "A.new"})
    assert site.events == [told]
    site.points.refresh()
    await site.look(100.0)
    assert site.events == [told]  # once


async def test_a_point_made_anew_is_another_stream(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A"))
    site.want(T={"point": "A"})
    await site.look()
    site.web.remove("A")
    site.web.add("A", 7)
    site.points.refresh()
    await site.look()
    assert site.found[-1]["T"].point.key != site.found[0]["T"].point.key
    assert site.events == [("point-recreated", {"point": "\\\\SRV\\A", "id": 7, "tags": ["T"], "was": 1, "now": 7})]


async def test_another_unit_or_type_is_told(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A"))
    site.want(T={"point": "A"})
    await site.look()
    site.web.add("A", 1, EngineeringUnits="K", PointType="Float64")
    site.points.refresh()
    await site.look()
    assert [(kind, what["was"], what["now"]) for kind, what in site.events] == [
        ("point-type-changed", "Float32", "Float64"),
        ("point-unit-changed", "degC", "K"),
    ]
    assert (site.found[-1]["T"].unit, site.found[-1]["T"].point.type) == ("K", "Float64")


async def test_a_point_is_given_up_when_it_was_missing_twice(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A", "B"))
    site.want(A={"point": "A"}, B={"point": "B"})
    await site.look()
    point = site.web.remove("A")
    site.points.refresh()
    await site.look()
    assert site.now_found == {"A": "A", "B": "B"}
    await site.look(31.0)
    assert site.now_found == {"B": "B"}
    assert [kind for kind, _ in site.events] == ["point-gone"]
    site.web.points["\\\\srv\\a"] = {**point, "Id": 9, "WebId": "I1DP9"}
    await site.look(31.0)
    assert site.now_found == {"A": "A", "B": "B"}
    assert [kind for kind, _ in site.events] == ["point-gone", "point-recreated"]


async def test_a_point_that_reading_found_gone_is_looked_up_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A", "B"))
    site.want(A={"point": "A"}, B={"point": "B"})
    await site.look()
    site.web.remove("A")
    site.points.lost("I1DP1")
    await site.look()
    assert site.now_found == {"B": "B"}
    site.points.lost("I1DP2")  # it is there all the same: nothing happens, and it is not asked for again and again
    await site.look()
    asked = len(site.web.asked)
    for _ in range(20):
        site.points.lost("I1DP2")
        await site.look(1.0)
    assert site.now_found == {"B": "B"}
    assert len(site.web.asked) - asked <= 1


async def test_a_known_point_whose_answer_is_an_error_goes_on(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A"))
    site.want(A={"point": "A"})
    await site.look()
    site.web.denied.add("\\\\srv\\a")
    site.points.refresh()
    await site.look()
    await site.look(100.0)
    assert site.now_found == {"A": "A"}
    assert "it is collected as it was last known" in site.said()["connections.pi.tags.A"]


async def test_everything_is_looked_up_anew_by_the_time_and_when_another_server_answers(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A", "B"), refresh="1h")
    site.want(A={"point": "A"}, B={"point": "B"})
    await site.look()
    assert site.web.count("points/multiple") == 1
    await site.look(3590.0)
    assert site.web.count("points/multiple") == 1
    await site.look(20.0)
    assert site.web.count("points/multiple") == 2
    site.web.generation += 1
    await site.look(10.0)  # not twice within a minute
    await site.look(60.0)
    assert site.web.count("points/multiple") == 3


async def test_a_new_tag_does_not_wait_for_a_refresh(tmp_path: Path) -> None:
    names = [f"P{number}" for number in range(500)]
    site = Site(tmp_path, plant(*names, "New"))
    tags = {name: Tag(point=name) for name in names}
    site.points.want(tags)
    await site.look()
    site.points.refresh()
    site.web.asked.clear()
    begun = site.web.before

    def add_one(asked: Any) -> None:
        if len(site.web.asked) == 3:
            site.web.before = begun
            site.points.want({**tags, "New": Tag(point="New")})

    site.web.before = add_one
    await site.look()
    asked = [one.path for one in site.web.asked]
    assert asked.index("points") <= 5  # a single one, while the refresh had four more requests to make
    assert "New" in site.found[-1]


async def test_run_goes_on_whatever_the_server_says(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A"))
    site.web.error = UnavailableError(503, [], "is not available", "see its log")
    site.want(A={"point": "A"})
    task = asyncio.create_task(site.points.run())
    try:
        for _ in range(500):
            if "connections.pi.points" in site.said():
                break
            await asyncio.sleep(0.01)
        assert site.said()["connections.pi.points"].startswith("is not available: see its log (it is tried again")
        site.web.error = None
        site.points.refresh()
        for _ in range(500):
            if site.now_found and not site.said():
                break
            await asyncio.sleep(0.01)
        assert site.now_found == {"A": "A"}, site.said()
        assert not site.said()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- searches ---


async def test_searches_give_tags_with_the_names_of_points(tmp_path: Path) -> None:
    web = plant("U1.Temp", "U1.Level", "U1.Debug", "U2.Temp")
    web.add("U1.Photo", 9, PointType="Blob")
    select = {"unit1": {"name": "U1.*", "exclude": ["*.debug"], "prefix": "PI/", "group": "slow", "asset": "a/u1"}}
    site = Site(tmp_path, web, select=select, groups={"slow": {"transport": "poll"}})
    site.want(Level={"point": "U1.Level"})
    await site.look()
    assert site.now_found == {"Level": "U1.Level", "PI/U1.Temp": "U1.Temp"}
    assert (site.found[-1]["PI/U1.Temp"].tag.group, site.found[-1]["PI/U1.Temp"].asset) == ("slow", "a/u1")
    counts = {"tags": 1, "excluded": 1, "blobs": 1, "collected_otherwise": 1, "unusable": 0}
    assert site.points.status()["select"] == {"unit1": counts}


@pytest.mark.parametrize("links", [True, False])
async def test_searches_read_every_page(tmp_path: Path, links: bool) -> None:
    web = plant(*(f"P{number}" for number in range(2500)))
    web.links = links
    site = Site(tmp_path, web, select={"all": {"name": "*"}})
    await site.look()
    assert len(site.now_found) == 2500
    assert [one.one("startIndex") for one in web.asked if one.path.endswith("/points")] == ["0", "1000", "2000"]


async def test_a_query_needs_a_server_that_searches(tmp_path: Path) -> None:
    web = plant("A")
    web.searches = False
    site = Site(tmp_path, web, select={"q": {"query": "Tag:=A*"}, "n": {"name": "A*"}})
    await site.look()
    assert site.now_found == {"A": "A"}
    assert "2021 SP3" in site.said()["connections.pi.select.q"]


async def test_a_search_that_was_corrected_does_not_wait_until_the_wrong_one_would_be_tried_again(
    tmp_path: Path,
) -> None:
    web = plant("A1", "A2", "B")
    web.searches = False
    site = Site(tmp_path, web, select={"s": {"query": "Tag:=A*"}})
    site.want(C={"point": "B"})
    await site.look()
    assert "connections.pi.select.s" in site.said()
    site.points.apply(Connection.model_validate({"url": web.address, "select": {"s": {"name": "A*"}}}))
    await site.look(1.0)
    assert site.now_found == {"C": "B", "A1": "A1", "A2": "A2"}
    assert not site.said()


async def test_what_a_search_does_not_find_any_more_goes_when_it_is_missing_twice(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A", "B"), select={"all": {"name": "*"}})
    await site.look()
    site.web.remove("A")
    site.web.remove("B")
    site.web.add("B.new", 2)
    site.points.refresh()
    await site.look()
    assert site.now_found == {"A": "A", "B.new": "B.new"}
    assert [(kind, what["tags"]) for kind, what in site.events] == [("point-renamed", ["B"])]
    await site.look(31.0)
    assert site.now_found == {"B.new": "B.new"}
    assert [kind for kind, _ in site.events] == ["point-renamed", "point-gone"]


async def test_more_points_than_searches_may_find_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pi_collector.points.resolving.MOST", 1500)
    site = Site(tmp_path, plant(*(f"P{number}" for number in range(2500))), select={"all": {"name": "*"}})
    await site.look()
    assert len(site.now_found) == 1500
    assert "finds more points than the 1500" in site.said()["connections.pi.select.all"]


async def test_a_server_that_gives_the_same_page_for_ever_is_left(tmp_path: Path) -> None:
    web = plant(*(f"P{number}" for number in range(1000)))
    first = web._page
    web._page = lambda asked, wanted: first(  # type: ignore[method-assign]
        type(asked)(asked.path, tuple(one for one in asked.query if one[0] != "startIndex"), LIVE, True), wanted
    )
    site = Site(tmp_path, web, select={"all": {"name": "*"}})
    await site.look()
    assert len(site.now_found) == 1000
    assert "the same page of points again" in site.said()["connections.pi.select.all"]


@pytest.mark.parametrize("most", [1500, 0])
async def test_pages_of_what_is_no_point_are_not_asked_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("pi_collector.points.searching.MOST", 10_000)
    web = plant()
    web._page = lambda asked, wanted: {"Items": [{"Id": "?"}] * 1000}  # type: ignore[method-assign]
    found = await search(Lookup(web, Connection(url=web.address).load), Select(name="*"), DataServer("S", SERVER, True),
                         most=most, priority=LIVE)  # fmt: skip
    assert found.points == ()
    assert found.repeats
    assert len(web.asked) <= 21


async def test_searches_that_hold_more_than_they_may_find_no_further_points(tmp_path: Path) -> None:
    web = plant("A", "B", "C")
    lookup = Lookup(web, Connection(url=web.address).load)
    found = await search(lookup, Select(name="*"), DataServer("S", SERVER, True), most=-2, priority=LIVE)
    assert (found.points, found.cut) == ((), True)


async def test_a_damaged_text_costs_no_other_point(tmp_path: Path) -> None:
    """Half a character, or bytes that are no UTF-8, as descriptors of old points may have."""
    web = plant("A", "B")
    site = Site(tmp_path, web, select={"all": {"name": "*"}})
    get = web.get

    async def damaged(path: str, query: Any = (), **how: Any) -> bytes:
        body = await get(path, query, **how)
        return body.replace(b'"Descriptor":""', b'"Descriptor":"\\ud800 \xff"')

    web.get = damaged  # type: ignore[method-assign]
    await site.look()
    assert site.now_found == {"A": "A", "B": "B"}
    assert site.found[-1]["A"].point.descriptor == "? \ufffd"
    site.found.clear()
    site.begin(select={"all": {"name": "*"}}).restore()  # the list on disk can be written, and read, all the same
    assert site.now_found == {"A": "A", "B": "B"}


async def test_searched_points_flow_after_a_restart_too(tmp_path: Path) -> None:
    site = Site(tmp_path, plant("A", "B"), select={"all": {"name": "*"}})
    await site.look()
    site.found.clear()
    site.begin(select={"all": {"name": "*"}}).restore()
    assert site.now_found == {"A": "A", "B": "B"}
    site.found.clear()
    site.begin(select={"all": {"name": "A*"}}).restore()
    assert not site.now_found  # another search
