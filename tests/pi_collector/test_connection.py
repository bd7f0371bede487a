"""One connection against a simulated PI Web API: the archive and the server's own log are the judges."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from .disk import Disk, Row
from .running import SECOND, Plant, arrived, running, settings, tags, until

TRANSPORTS = ["channel", "updates", "poll"]


def _due(plant: Plant, begun: int) -> set[Row]:
    """All of C, and of the others what came since then."""
    return plant.archived(since=begun) | plant.archived("C")


def _causes(disk: Disk) -> set[str]:
    """Why gaps were opened, apart from what streams begin with."""
    return {gap["cause"] for gap in disk.gaps("opened")} - {"initial"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_everything_since_the_start_arrives_once_whatever_it_comes_by(tmp_path: Path, transport: str) -> None:
    plant, disk = Plant("A", "B"), Disk()
    plant.history("A", 50, first=3600)
    async with plant.server:
        begun = plant.clock.now_ns()
        async with running(plant, tmp_path, disk, tags("A", "B"), transport=transport) as run:
            await run.state("running")
            for number in range(30):
                plant.write("A", 100.0 + number)
                plant.write("B", 200.0 + number)
                await asyncio.sleep(0.03)
            await arrived(disk, lambda: plant.archived(since=begun + 3 * SECOND), run.shown)
            assert run.connection.status()["transports"]["connection"]["transport"] == transport
        older = {row for row in disk.rows if row[1] < begun}
        assert older <= {max(plant.archived("A") - {row for row in disk.rows if row[1] >= begun})}, "initial: now"
        assert plant.server.written == 0


async def test_a_past_that_is_wanted_is_read_beside_what_comes_live(tmp_path: Path) -> None:
    plant, disk = Plant("A", "B"), Disk()
    plant.history("A", 5000, first=86400, last=60)
    plant.history("B", 10, first=80000, last=60)
    async with plant.server:
        async with running(plant, tmp_path, disk, tags("A", "B"), initial="2d") as run:
            await run.state("running")
            for number in range(20):
                plant.write("B", 1000.0 + number)
                await asyncio.sleep(0.02)
            await arrived(disk, plant.archived, run.shown)
            await until(lambda: run.connection.status()["gaps"]["open"] == 0, run.shown)
            gaps = run.connection.status()["gaps"]
            assert gaps["opened"] == gaps["filled"] + gaps["abandoned"]
            await until(lambda: disk.gaps("filled"), run.shown)
        assert any(row[0] == "A" for row in disk.past)
        assert [gap["cause"] for gap in disk.gaps("filled")] == ["initial"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_is_written_while_the_line_is_cut_is_read_back(tmp_path: Path, transport: str) -> None:
    plant, disk = Plant("A", "B"), Disk()
    async with plant.server, running(plant, tmp_path, disk, tags("A", "B"), transport=transport) as run:
        await run.live("A", "B")
        begun = plant.clock.now_ns()
        for number in range(60):
            plant.write("A", float(number))
            if number == 20:
                plant.server.cut()
            if number == 30:
                await plant.server.close()
            if number == 40:
                await plant.server.start()
            await asyncio.sleep(0.02)
        await arrived(disk, lambda: plant.archived(since=begun), run.shown)
        await until(lambda: run.connection.status()["gaps"]["open"] == 0, run.shown)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_after_a_kill_everything_goes_on_where_it_was_without_loss_or_repeats(
    tmp_path: Path, transport: str
) -> None:
    plant, disk = Plant("A", "B", "C"), Disk()
    plant.history("C", 3000, first=86400, last=30)
    async with plant.server:
        written = 0

        async def write(values: int) -> None:
            nonlocal written
            for _ in range(values):
                written += 1
                plant.write("A", float(written))
                plant.write("B", float(-written))
                await asyncio.sleep(0.01)

        begun = 0
        for turn in range(4):
            async with running(plant, tmp_path, disk, tags("A", "B", "C"), transport=transport, initial="2d") as run:
                if turn == 0:
                    await run.state("running")
                    begun = plant.clock.now_ns()
                await write(30)
                if turn < 3:
                    await run.kill()
                    await write(10)
                else:
                    await arrived(disk, partial(_due, plant, begun), run.shown)
                    await until(lambda: run.connection.status()["gaps"]["open"] == 0, run.shown)
                    gaps = run.connection.status()["gaps"]
                    assert gaps["opened"] == gaps["filled"] + gaps["abandoned"]


async def test_while_the_archive_is_down_the_status_says_so_and_what_was_missed_comes_later(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    async with plant.server, running(plant, tmp_path, disk, tags("A")) as run:
        await run.live("A")
        begun = plant.clock.now_ns()
        plant.write("A", 1.0)
        plant.server.faults.archive_down()
        await run.state("waiting")
        told = run.connection.status()["why"]
        assert told == "connections.site.url: answers, but has no connection to the data archive PISERVER"
        plant.write("A", 2.0)
        plant.server.faults.heal()
        plant.write("A", 3.0)
        await run.state("running")
        await arrived(disk, lambda: plant.archived(since=begun), run.shown)
        # Whoever notices it first says why: the channel that falls silent, or the look at the archive.
        await until(lambda: _causes(disk), lambda: disk.events)


async def test_a_full_outbox_pauses_everything_and_nothing_is_missed(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    async with plant.server, running(plant, tmp_path, disk, tags("A")) as run:
        await run.live("A")
        assert run.outlet.recoverable
        begun = plant.clock.now_ns()
        run.outlet.full = True
        await run.state("paused")
        before = len(disk.rows)
        for number in range(20):
            plant.write("A", float(number))
            await asyncio.sleep(0.02)
        assert len(disk.rows) - before <= 1
        run.outlet.full = False
        await run.state("running")
        await arrived(disk, lambda: plant.archived(since=begun), run.shown)
        await until(lambda: "the outbox is full" in _causes(disk), lambda: disk.events)


async def test_when_storing_fails_it_begins_anew_from_what_is_stored(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    async with plant.server, running(plant, tmp_path, disk, tags("A")) as run:
        await run.live("A")
        begun = plant.clock.now_ns()
        plant.write("A", 1.0)
        await until(lambda: disk.rows, run.shown)
        run.outlet.broken = OSError("the disk is gone")
        plant.write("A", 2.0)
        await until(lambda: run.connection.status().get("begun_anew"), run.shown)
        plant.write("A", 3.0)
        run.outlet.broken = None
        await arrived(disk, lambda: plant.archived(since=begun), run.shown)


async def test_late_values_are_found_by_looking_again(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    async with plant.server:
        async with running(
            plant, tmp_path, disk, tags("A"), initial="1h", reconcile={"every": "1s", "window": "1h"}, transport="poll"
        ) as run:
            await run.live("A")
            plant.write("A", 1.0)
            plant.write("A", 2.0, ago=1800)
            await arrived(disk, plant.archived, run.shown)
            await until(lambda: run.connection.status()["reconciled"]["slices"] >= 3, run.shown)
            assert run.connection.status()["reconciled"]["late"] == 1
        assert set(disk.counted().values()) == {1}


@pytest.mark.parametrize("restart", [False, True])
async def test_a_window_that_is_longer_than_what_is_remembered_brings_nothing_twice(
    tmp_path: Path, restart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pi_collector.coverage.state.EVERY", 0.1)
    plant, disk = Plant("A"), Disk()
    plant.history("A", 50, first=3000, last=600)
    short = {"every": "1s", "window": 0}
    long = {"every": "1s", "window": "1h"}
    async with plant.server:
        more = {"initial": "1h", "transport": "poll"}
        async with running(plant, tmp_path, disk, tags("A"), reconcile=short, **more) as run:
            await arrived(disk, plant.archived, run.shown)
            await until(lambda: run.connection.status()["streams"]["remembered"]["keys"] < 25, run.shown)
            if not restart:
                run.connection.reconfigure(settings(plant, reconcile=long, **more), tags("A"))
                await until(lambda: run.connection.status().get("reconciled", {}).get("slices", 0) >= 2, run.shown)
        if restart:
            async with running(plant, tmp_path, disk, tags("A"), reconcile=long, **more) as run:
                await until(lambda: run.connection.status().get("reconciled", {}).get("slices", 0) >= 2, run.shown)
        assert set(disk.counted().values()) == {1}


async def test_a_change_of_tags_touches_nobody_else(tmp_path: Path) -> None:
    plant, disk = Plant("A", "B", "C"), Disk()
    async with plant.server, running(plant, tmp_path, disk, tags("A", "B"), transport="channel") as run:
        await run.live("A", "B")
        begun = plant.clock.now_ns()
        opened = plant.server.requests["GET streamsets/channel"]
        run.connection.reconfigure(settings(plant, transport="channel"), tags("B", "C"))
        await until(lambda: run.connection.status()["streams"]["streams"] == 2, run.shown)
        await run.live("B", "C")
        await asyncio.sleep(0.2)
        later = plant.clock.now_ns()
        for number in range(20):
            for name in ("A", "B", "C"):
                plant.write(name, float(number))
            await asyncio.sleep(0.02)
        await arrived(disk, lambda: plant.archived("B", since=begun) | plant.archived("C", since=later), run.shown)
        assert plant.server.requests["GET streamsets/channel"] == opened + 1, "one for what is new"
        assert not [row for row in disk.rows if row[0] == "A" and row[1] >= later]
        assert not _causes(disk), "nobody lost anything"


async def test_a_tag_that_is_unknown_is_told_and_the_others_run(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    async with plant.server:
        begun = plant.clock.now_ns()
        async with running(plant, tmp_path, disk, tags("A", "NOWHERE")) as run:
            await run.live("A")
            plant.write("A", 1.0)
            await arrived(disk, lambda: plant.archived("A", since=begun), run.shown)
            assert "is not found" in run.problems.told["connections.site.tags.NOWHERE"][0]
            assert run.connection.status()["points"]["set_aside"] == 1


async def test_a_server_that_is_not_there_is_told_and_tried_again(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    await plant.server.start()
    await plant.server.close()
    async with running(plant, tmp_path, disk, tags("A")) as run:
        await run.state("waiting")
        assert run.connection.status()["why"] == "connections.site.url: refuses the connection"
        assert "connections.site.url" in run.problems.told
        async with plant.server:
            await run.state("running")
            assert "connections.site.url" not in run.problems.told


async def test_one_that_is_removed_leaves_nothing_behind(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    async with plant.server, running(plant, tmp_path, disk, tags("A")) as run:
        await run.live("A")
        plant.write("A", 1.0)
        await until(lambda: disk.rows and disk.positions, run.shown)
        run.connection.leave()
        await run.stop()
        run.connection.forget()
        await until(lambda: not disk.positions, lambda: disk.positions.keys())


async def test_one_point_that_cannot_be_read_does_not_hold_the_others(tmp_path: Path) -> None:
    plant, disk = Plant("A", "B", "C"), Disk()
    plant.history("A", 500, first=7200, last=60)
    plant.history("B", 500, first=7200, last=60)
    async with plant.server, running(plant, tmp_path, disk, tags("A", "B", "C"), initial="1d", transport="poll") as run:
        await run.live()
        plant.system.remove(plant.point("B"))
        begun = plant.clock.now_ns()
        for number in range(20):
            plant.write("A", float(number))
            plant.write("C", float(number))
            await asyncio.sleep(0.02)
        await arrived(disk, lambda: plant.archived("A") | plant.archived("C", since=begun), run.shown)


async def test_a_point_that_is_made_anew_under_its_name_goes_on(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    async with plant.server, running(plant, tmp_path, disk, tags("A"), transport="poll") as run:
        await run.live("A")
        plant.write("A", 1.0)
        await until(lambda: disk.rows, run.shown)
        plant.system.recreate(plant.point("A"))
        plant.write("A", 2.0)
        run.connection.refresh()
        await until(lambda: any(event["kind"] == "point-recreated" for event in disk.events), run.shown)
        plant.write("A", 3.0)
        await until(lambda: {2.0, 3.0} <= {row[2] for row in disk.rows}, run.shown)
        assert set(disk.counted().values()) == {1}


async def test_a_range_that_was_asked_for_survives_a_kill_and_each_value_of_it_comes_once(tmp_path: Path) -> None:
    plant, disk = Plant("A", "B"), Disk()
    plant.history("A", 20_000, first=86400 * 3, last=3600)
    plant.history("B", 10, first=86400 * 3, last=3600)
    first, until_ns = plant.clock.now_ns() - 86400 * 4 * SECOND, plant.clock.now_ns() - 1800 * SECOND
    slow = {"load": {"requestsPerSecond": 100, "valuesPerRequest": 500, "parallel": 2}}
    async with plant.server:
        async with running(plant, tmp_path, disk, tags("A", "B"), **slow) as run:
            await run.live("A", "B")
            run.connection.request("cmd-1", first, until_ns, ["A", "B"])
            await until(lambda: len(disk.past) > 1000, run.shown)
            await run.kill()
        assert len(disk.past) < 20_000, "the kill came in the middle"
        async with running(plant, tmp_path, disk, tags("A", "B")) as run:
            request = run.connection.asked_for("cmd-1")
            assert request is not None
            await until(lambda: request.over, run.shown, 40.0)
            await run.connection.settled()
            assert request.result()["tags_done"] == 2
            assert request.result()["values"] == len(plant.archived())
        assert Counter(disk.past) == Counter(plant.archived())


async def test_what_is_asked_twice_comes_twice_and_waits_for_room(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    plant.history("A", 100, first=7200, last=3600)
    async with plant.server, running(plant, tmp_path, disk, tags("A")) as run:
        await run.live("A")
        run.outlet.roomy = False
        now = plant.clock.now_ns()
        requests = [run.connection.request(str(n), now - 8000 * SECOND, now - 3000 * SECOND, ["A"]) for n in (1, 2)]
        await asyncio.sleep(0.5)
        assert not disk.past
        run.outlet.roomy = True
        await until(lambda: all(request.over for request in requests), run.shown)
        await run.connection.settled()
        assert set(Counter(disk.past).values()) == {2}


async def test_values_of_more_than_a_page_at_a_time_all_arrive(tmp_path: Path) -> None:
    plant, disk = Plant("A", "B"), Disk()
    plant.history("A", 2000, first=7200, last=60)
    plant.history("B", 2000, first=7200, last=60)
    load = {"load": {"requestsPerSecond": 500, "valuesPerRequest": 100}}
    async with plant.server, running(plant, tmp_path, disk, tags("A", "B"), initial="1d", **load) as run:
        await arrived(disk, plant.archived, run.shown)


async def test_a_point_whose_type_becomes_one_that_nobody_knows_is_given_up(tmp_path: Path) -> None:
    plant, disk = Plant("A", "B"), Disk()
    async with plant.server, running(plant, tmp_path, disk, tags("A", "B")) as run:
        await run.live("A", "B")
        plant.server.faults.archive_down()
        await until(lambda: run.connection.status()["gaps"]["open"], run.shown)
        found = dict(run.connection._resolved)
        found["A"] = replace(found["A"], point=replace(found["A"].point, type="Float128"))
        run.connection._found(found)
        plant.server.faults.heal()
        await run.live("B")
        await until(lambda: not run.connection.status()["gaps"]["open"], run.shown)
        told = run.connection.status()
        assert told["points"]["unusable"] == 1
        gaps = told["gaps"]
        assert (gaps["open"], gaps["opened"]) == (0, gaps["filled"] + gaps["abandoned"])


async def test_a_point_that_may_not_be_read_is_told_with_its_remedy_and_the_others_run_on(tmp_path: Path) -> None:
    plant, disk = Plant("A", "B"), Disk()
    plant.system.change(plant.point("B"), readers=frozenset({"somebody"}))
    place = "connections.site.tags.B.point"
    async with plant.server, running(plant, tmp_path, disk, tags("A", "B")) as run:
        await until(lambda: place in run.problems.told, run.shown)
        problem, remedy = run.problems.told[place]
        assert problem == "may not be read by this user ([-10401] No Read Access - Secure Object: B)"
        assert "read access" in remedy
        told = run.connection.status()
        assert told["state"] == "running"
        assert "opens none with these streams" in told["transports"]["connection"]["why"]
        begun = plant.clock.now_ns()
        plant.write("A", 1.0)
        await arrived(disk, lambda: {row for row in plant.archived(since=begun) if row[0] == "A"}, run.shown)


async def test_a_data_server_that_does_not_exist_is_why_nothing_is_collected(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    async with plant.server, running(plant, tmp_path, disk, tags("A"), dataServer="NOSUCH") as run:
        await run.state("waiting")
        await until(lambda: "dataServer" in run.connection.status()["why"], run.shown)
        told = run.connection.status()
        assert told["why"] == (
            "connections.site.dataServer: is no data server that this PI Web API knows; it knows PISERVER"
        )
        assert told["remedy"] == "write the name of one that it knows"
