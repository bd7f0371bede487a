"""The commands of a running collector, against a simulated PI Web API."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from pi_collector.commands import Commands
from pi_collector.config import Configuration
from plant.pi.points import PointDefinition
from sluice.command import Call, CommandError
from sluice.config import COMMANDS, load_entries

from .disk import Disk
from .running import SECOND, Plant, Run, running, tags, until


async def answered(run: Run, command: str, **arguments: Any) -> Any:
    """What the command gives, as JSON, or why it was refused or has failed."""
    commands = {one.name: one for one in Commands(lambda: {"site": run.connection}, lambda: None).all()}
    loaded = load_entries(commands[command].arguments, {"a": {"connection": "site", **arguments}}, ())
    if loaded.problems:
        return str(loaded.problems[0])
    try:
        commands[command].check(loaded.entries["a"])
        told = await commands[command].run(Call("1", loaded.entries["a"], lambda fraction, result: None))
    except CommandError as error:
        return str(error)
    return orjson.loads(orjson.dumps(told))


async def test_a_range_is_read_again_and_the_result_says_what_came_of_it(tmp_path: Path) -> None:
    plant, disk = Plant("A", "B"), Disk()
    plant.history("A", 200, first=7200, last=3600)
    async with plant.server, running(plant, tmp_path, disk, tags("A", "B")) as run:
        await run.live("A", "B")
        now = plant.clock.now_ns()
        result = await answered(
            run, "backfill", **{"from": now - 8000 * SECOND, "to": now - 3000 * SECOND, "tags": "*"}
        )
        assert result == {"tags": 2, "tags_done": 2, "values": 200}
        assert Counter(disk.past) == Counter(plant.archived("A"))


async def test_what_is_calculated_has_no_past_to_read(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    async with plant.server, running(plant, tmp_path, disk, tags("A"), mode="interpolated", interval="1s") as run:
        await run.state("running")
        now = plant.clock.now_ns()
        refused = await answered(run, "backfill", **{"from": now - 8000 * SECOND, "to": now - 3000 * SECOND})
        assert refused.startswith("the past of A of site cannot be read: its values are calculated by the server")


async def test_a_point_that_may_not_be_read_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pi_collector.reading.reader._STREAM_PAUSES", (0.01, 0.02))
    plant, disk = Plant("A", "B"), Disk()
    plant.history("A", 20, first=7200, last=3600)
    async with plant.server, running(plant, tmp_path, disk, tags("A", "B")) as run:
        await run.live("A", "B")
        plant.system.change(plant.point("B"), readers=frozenset({"somebody"}))
        now = plant.clock.now_ns()
        result = await answered(run, "backfill", **{"from": now - 8000 * SECOND, "to": now - 3000 * SECOND})
        assert result["values"] == 20
        assert result["tags_left_out"] == 1
        assert set(result["why"]) == {"B"}


async def test_explain_says_how_a_tag_is_collected_and_what_it_is_just_now(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    async with plant.server, running(plant, tmp_path, disk, tags("A"), transport="channel") as run:
        await run.live("A")
        plant.write("A", 7.5)
        await until(lambda: disk.rows, run.shown)
        told = await answered(run, "explain", tag="A")
        assert told["point"] == "\\\\PISERVER\\A"
        assert (told["mode"], told["transport"]["transport"]) == ("recorded", "channel")
        assert (told["live"], told["in_gap"]) == (True, False)
        assert (told["value"]["value"], told["value"]["quality"]) == (7.5, "GOOD")
        assert told["covered_until"].endswith("Z")
        refused = await answered(run, "explain", tag="a")
        assert refused == "arguments.tag: 'a' names no tag of site: use one of: A"


async def test_explain_says_what_a_connection_costs_and_how_far_it_is(tmp_path: Path) -> None:
    plant, disk = Plant("A", "B"), Disk()
    wanted = {**tags("A", "NOWHERE"), **tags("B", group="slow")}
    groups = {"slow": {"transport": "poll", "gate": "good"}}
    async with plant.server, running(plant, tmp_path, disk, wanted, transport="channel", groups=groups) as run:
        await run.live("A", "B")
        told = await answered(run, "explain")
        assert told["state"]["state"] == "running"
        assert (told["streams"], told["channels"]) == (2, 1)
        assert told["groups"]["connection"]["uses"]["transport"] == "channel"
        assert told["groups"]["slow"]["uses"]["transport"] == "poll"
        assert told["points"]["set_aside"] == 1
        assert told["server"]["requests_per_s"] >= 0


async def test_browse_finds_points_of_the_data_server_by_name(tmp_path: Path) -> None:
    plant, disk = Plant("Unit1.A", "Unit1.B", "Unit2.A"), Disk()
    plant.system.add(PointDefinition("Unit1.T", unit="degC", descriptor="Temperature of unit 1"))
    async with plant.server, running(plant, tmp_path, disk, tags("Unit1.A")) as run:
        await run.live("Unit1.A")
        told = await answered(run, "browse", name="Unit1.*")
        assert [point["name"] for point in told["points"]] == ["Unit1.A", "Unit1.B", "Unit1.T"]
        assert told["points"][2] == {
            "name": "Unit1.T", "type": "Float64", "unit": "degC", "descriptor": "Temperature of unit 1",
        }  # fmt: skip
        told = await answered(run, "browse", most=2)
        assert (len(told["points"]), told["more"]) == (2, True)


async def test_read_gives_the_newest_values_and_refresh_looks_points_up_anew(tmp_path: Path) -> None:
    plant, disk = Plant("A", "B"), Disk()
    plant.write("A", 3.25)
    async with plant.server, running(plant, tmp_path, disk, tags("A", "B", "NOWHERE")) as run:
        await run.live("A", "B")
        told = await answered(run, "read", tags=["A", "NOWHERE"])
        assert told["values"]["A"]["value"] == 3.25
        assert "not collected at present" in told["values"]["NOWHERE"]["problem"]
        plant.system.add(PointDefinition("NOWHERE"))
        assert (await answered(run, "refresh"))["points"]["found"] == 2
        await run.live("A", "B", "NOWHERE")


async def test_a_tag_that_goes_while_it_is_read_is_told_all_the_same(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    plant.write("A", 3.25)
    async with plant.server, running(plant, tmp_path, disk, tags("A")) as run:
        await run.live("A")
        connection = run.connection
        get = connection.client.get

        async def meanwhile(*asked: Any, **how: Any) -> bytes:
            body = await get(*asked, **how)
            connection.reconfigure(connection.settings, {})
            return body

        connection.client.get = meanwhile  # type: ignore[method-assign]
        told = await answered(run, "read", tags=["A"])
        assert told["values"]["A"]["value"] == 3.25


async def test_looks_at_a_server_that_is_away_fail_with_the_reason(tmp_path: Path) -> None:
    plant, disk = Plant("A"), Disk()
    await plant.server.start()
    await plant.server.close()
    async with running(plant, tmp_path, disk, tags("A")) as run:
        await run.state("waiting")
        assert (await answered(run, "browse")).startswith("the server of site refuses the connection: see that")
        assert (await answered(run, "explain", tag="A"))["problem"].startswith("its point is not known")
        assert (await answered(run, "explain"))["state"]["state"] == "waiting"


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [
        ("browse", {"most": 501}, "a.most"),
        ("browse", {"name": ""}, "a.name"),
        ("read", {"tags": []}, "a.tags"),
        ("read", {"tags": ["A"] * 101}, "a.tags"),
        ("read", {"tags": "X"}, "arguments.tags: 'X' names no tag of site: use one of: A"),
        ("explain", {"connection": "sight"}, "arguments.connection = 'sight' is no connection: use one of: site"),
        ("refresh", {"connection": "sight"}, "arguments.connection = 'sight' is no connection"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_what_to_do(
    tmp_path: Path, command: str, arguments: dict[str, Any], told: str
) -> None:
    plant, disk = Plant("A"), Disk()
    async with running(plant, tmp_path, disk, tags("A"), url="http://127.0.0.1:9/piwebapi") as run:
        assert (await answered(run, command, **arguments)).startswith(told)


def test_looks_change_nothing_and_are_not_allowed_from_the_cloud_by_default() -> None:
    commands = {one.name: one for one in Commands(dict, lambda: None).all()}
    assert set(commands) <= set(COMMANDS)
    assert {name for name, one in commands.items() if one.reads} == {"explain", "browse", "read"}
    assert not {"explain", "browse", "read", "refresh"} & set(Configuration().cloud_commands)
