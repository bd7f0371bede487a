"""Crash points are armed one after another, and hit or not: judged by how the process of a component ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import yaml

from localcore import Core
from rehearsal.crashes import CrashError, Crashes

NAME = "io.sluice.Brittle"
DIES = 'test "$SLUICE_CRASH" = never || test -z "$SLUICE_CRASH" || kill -9 $$; exec sleep 1000'
"""Dies at whatever point it carries, as soon as it runs, but at `never`."""


async def until(condition: Callable[[], bool], what: Callable[[], object], limit: float = 20.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit} s; instead: {what()!r}")
        await asyncio.sleep(0.01)


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    """A core with one component; no error is remembered longer than an hour, and each reading is an hour later."""
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (tmp_path / "artifacts").mkdir()
    recipe = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": NAME,
        "ComponentVersion": "1.0.0",
        "Manifests": [{"Platform": {"os": "linux", "runtime": "*"}, "Lifecycle": {"run": DIES}}],
    }
    (recipes / f"{NAME}-1.0.0.yaml").write_text(yaml.safe_dump(recipe))
    core = Core(tmp_path / "core", aws=False)
    await core.start()
    await core.deploy({"components": {NAME: {}}}, recipes, tmp_path / "artifacts")
    await core.wait_state(NAME, "RUNNING")
    yield core
    await core.stop()


async def test_a_kill_begins_a_chain_of_deaths_at_the_points_that_it_arms(core: Core) -> None:
    deaths: list[str] = []
    async with Crashes(core, [NAME], on_death=deaths.append) as crashes:
        await crashes.kill(NAME, ["sealed:2"])
        await until(lambda: crashes.hits["sealed"] == 1, crashes.wanted)
        await core.wait_state(NAME, "RUNNING")
        assert crashes.wanted() == {}
        assert crashes.kills == {NAME: 1}
        assert deaths == [NAME, NAME]
        assert crashes.exits == []
        crashes.check()


async def test_what_the_third_error_breaks_is_redeployed_and_goes_on_with_the_points_that_are_wanted(
    core: Core,
) -> None:
    async with Crashes(core, [NAME]) as crashes:
        await crashes.kill(NAME, ["intent", "sealed", "stored", "exported"])
        await until(lambda: not crashes.wanted(), crashes.wanted)
        await core.wait_state(NAME, "RUNNING")
        assert dict(crashes.hits) == {"intent": 1, "sealed": 1, "stored": 1, "exported": 1}
        assert crashes.redeployments[NAME] == 1
        crashes.check()


async def test_a_point_that_is_not_hit_is_told_and_tried_again_behind_the_others(core: Core) -> None:
    async with Crashes(core, [NAME], limit=0.5) as crashes:
        await crashes.kill(NAME, ["never", "sealed:3"])
        await until(lambda: crashes.hits["sealed"] == 1 and crashes.hits["never"] == 1, crashes.wanted)
        assert crashes.missed == {"never": 1}  # then it is `never:1`, at which this component dies
        assert crashes.arming_kills[NAME] == 1


async def test_no_time_counts_while_it_cannot_get_anywhere(core: Core) -> None:
    async with Crashes(core, [NAME], limit=0.3) as crashes:
        with crashes.held():
            await crashes.kill(NAME, ["never"])
            await core.wait_state(NAME, "RUNNING")
            await asyncio.sleep(1.0)  # three times the limit
            assert not crashes.missed
        await until(lambda: crashes.missed["never"] == 1, crashes.wanted)


async def test_an_end_that_nobody_asked_for_is_told_and_is_no_hit(core: Core) -> None:
    async with Crashes(core, [NAME]) as crashes:
        component = core.component(NAME)
        component.kill()
        await until(lambda: bool(crashes.exits), lambda: component.state)
        assert crashes.exits[0]["component"] == NAME
        assert not crashes.hits


async def test_points_outlive_a_power_cut(core: Core) -> None:
    async with Crashes(core, [NAME], limit=60.0) as crashes:
        await crashes.kill(NAME, ["never", "sealed"])
        await until(lambda: core.component(NAME).restarts == 1, lambda: core.component(NAME).state)
        await core.wait_state(NAME, "RUNNING")
        await core.power_cut()
        crashes.load()
        assert core.component(NAME).crash_at == "never"
        await core.boot()
        await core.wait_state(NAME, "RUNNING")
        assert crashes.wanted() == {NAME: ["never", "sealed"]}
        assert not crashes.hits
        crashes.give_up()
        assert crashes.wanted() == {}


async def test_what_does_not_run_cannot_be_killed_and_that_is_told(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rehearsal.crashes.KILL_LIMIT", 0.2)
    crashes = Crashes(core, [NAME])
    await core.component(NAME).stop()
    with pytest.raises(CrashError, match=f"{NAME} is INSTALLED and could not be killed"):
        await crashes.kill(NAME)
