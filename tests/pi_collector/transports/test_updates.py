"""Stream updates and polls: everything that happened comes once, and a marker that is lost is a gap that is filled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from pi_collector.transports import updates as updates_module
from pi_collector.transports.choosing import Way
from plant.pi.events import Change
from plant.pi.server import Options
from plant.pi.updates import Updates, UpdatesOptions

from .rig import STRANGE, Rig, rig, until


async def registered(made: Rig) -> None:
    await until(lambda: made.all_by(Way.UPDATES), made.told)


async def arrives(made: Rig, tag: str, *values: float) -> None:
    await until(lambda: made.got(tag) == list(values), lambda: (made.got(tag), made.told()))


async def test_everything_that_happens_comes_in_order_and_coverage_follows(tmp_path: Path) -> None:
    async with rig("A", "B", directory=tmp_path, transport="updates") as made:
        await registered(made)
        for value in (1.0, 5.0, 2.0, 2.0):
            made.write("A", value)
        await arrives(made, "A", 1.0, 5.0, 2.0, 2.0)
        written = made.server.clock.now_ns()
        await until(lambda: min(made.covered("A"), made.covered("B")) > written, made.told)
        assert made.gaps() == []
        assert made.server.written == 0


async def test_what_happened_before_the_registration_is_read_of_the_archive(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path, transport="updates", running=False) as made:
        made.want(made.stream("A"))
        made.write("A", 1.0)
        made.write("A", 3.0)
        async with made.running():
            await registered(made)
            await arrives(made, "A", 1.0, 3.0)


async def test_markers_that_the_server_has_forgotten_are_a_gap_that_is_filled(tmp_path: Path) -> None:
    async with rig("A", "B", directory=tmp_path, transport="updates") as made:
        await registered(made)
        made.server.forget()
        made.write("A", 1.0)
        await until(lambda: [gap["state"] for gap in made.gaps()] == ["opened", "filled"], made.told)
        assert made.gaps()[0]["cause"].startswith("stream updates:")
        assert made.gaps()[0]["unrecoverable"]
        made.write("A", 2.0)
        await arrives(made, "A", 1.0, 2.0)
        assert made.ways() == {"updates": 2}


async def test_a_point_that_was_changed_is_registered_anew_and_the_others_stay(tmp_path: Path) -> None:
    async with rig("A", "B", directory=tmp_path, transport="updates") as made:
        await registered(made)
        made.server.system.change(made.point("A"), descriptor="another")
        await until(lambda: [gap["state"] for gap in made.gaps()] == ["opened", "filled"], made.told)
        assert made.gaps()[0]["streams"] == 1
        assert "signup was updated" in made.gaps()[0]["cause"]
        made.write("A", 2.0)
        await arrives(made, "A", 2.0)


async def test_a_refresh_is_a_gap_too(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path, transport="updates") as made:
        await registered(made)
        made.server.system.refresh(made.point("A"), made.server.clock.now_ns())
        await until(lambda: [gap["state"] for gap in made.gaps()] == ["opened", "filled"], made.told)
        assert "Refresh" in made.gaps()[0]["cause"]


async def test_deletions_are_told_and_edits_come(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path, transport="updates") as made:
        await registered(made)
        made.write("A", 1.0)
        await arrives(made, "A", 1.0)
        at = made.outlet.values[0][1]
        made.server.system.delete(made.point("A"), at)
        await until(lambda: [e for e in made.outlet.events if e["kind"] == "deleted"], made.told)


@pytest.mark.parametrize(
    "fault",
    [("errors", {"share": 0.5}), ("web_exceptions", {"share": 0.5}), ("truncate", {"share": 0.5}), ("cut", {})],
    ids=lambda fault: fault[0],
)
async def test_answers_that_do_not_come_or_cannot_be_read_cost_nothing(
    tmp_path: Path, fault: tuple[str, dict[str, Any]]
) -> None:
    async with rig("A", directory=tmp_path, transport="updates") as made:
        await registered(made)
        made.server.faults.inject(*fault)
        values = [float(value) for value in range(20)]
        for value in values:
            made.write("A", value)
        await until(lambda: made.server.requests["GET streamsets/updates"] > 12, made.told)
        made.server.faults.heal()
        await arrives(made, "A", *values)


async def test_a_stream_that_cannot_be_registered_is_polled_and_looked_up_again(tmp_path: Path) -> None:
    async with rig("A", "B", directory=tmp_path, transport="updates", running=False) as made:
        made.want(made.stream("A", web_id=STRANGE), made.stream("B"))
        async with made.running():
            await until(lambda: made.ways() == {"updates": 1, "poll": 1}, made.told)
            made.write("B", 1.0)
            await arrives(made, "B", 1.0)


async def test_many_streams_are_registered_and_asked_for_in_addresses_that_are_short_enough(tmp_path: Path) -> None:
    names = [f"P{number}" for number in range(60)]
    async with rig(*names, directory=tmp_path, transport="updates", load={"urlBytes": 1000}) as made:
        await registered(made)
        for name in names:
            made.write(name, 1.0)
        for name in names:
            await arrives(made, name, 1.0)
        assert made.server.requests["POST streamsets/updates"] >= 3


async def test_a_server_that_names_streams_by_another_kind_of_web_id_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pi_collector.web.requests._ID_ONLY", ("webIdType", "Full"))
    for transport in ("updates", "channel"):
        async with rig("A", directory=tmp_path, transport=transport, running=False) as made:
            monkeypatch.setattr("pi_collector.web.requests._ID_ONLY", ("webIdType", "Full"))
            made.want(made.stream("A"))
            await made.client.start()
            async with made.running():
                await until(lambda: made.ways() == {transport: 1}, made.told)  # noqa: B023 - awaited at once
                await until(lambda: made.state.coverage.is_live(made.streams[0].handle), made.told)
                made.write("A", 1.0)
                await arrives(made, "A", 1.0)


async def test_an_old_server_without_updates_says_so(tmp_path: Path) -> None:
    async with rig("A", directory=tmp_path, transport="updates", options=Options(updates=None)) as made:
        await until(lambda: list(made.problems), made.told)
        assert "cannot be had" in next(iter(made.problems)).problem


async def test_expired_registrations_of_a_suspended_connection_begin_anew(tmp_path: Path) -> None:
    seldom = Options(updates=UpdatesOptions(expires_s=5.0))
    async with rig("A", directory=tmp_path, transport="updates", options=seldom) as made:
        await registered(made)
        made.transports.suspend("the archive is down")
        await until(lambda: not made.server.updates or not made.server.updates.watched(), made.told)
        made.write("A", 1.0)
        made.transports.resume()
        await registered(made)
        await arrives(made, "A", 1.0)
        assert made.gaps()[0]["cause"] == "the archive is down"


async def test_polled_streams_are_covered_up_to_the_present_less_settle(tmp_path: Path) -> None:
    async with rig("A", "B", directory=tmp_path, transport="poll") as made:
        await until(lambda: made.ways() == {"poll": 2}, made.told)
        made.write("A", 1.0)
        written = made.server.clock.now_ns()
        await until(lambda: min(made.covered("A"), made.covered("B")) > written, made.told)
        await arrives(made, "A", 1.0)
        assert made.server.requests["GET streamsets/channel"] == 0
        assert made.gaps() == []


async def test_groups_have_their_own_ways_and_change_them_live(tmp_path: Path) -> None:
    groups = {"slow": {"transport": "poll"}, "live": {"transport": "channel"}}
    async with rig("A", "B", directory=tmp_path, groups=groups, running=False) as made:
        made.want(made.stream("A", group="slow"), made.stream("B", group="live"))
        async with made.running():
            await until(lambda: made.ways() == {"poll": 1, "channel": 1}, made.told)
            assert {group: told["transport"] for group, told in made.transports.status().items()} == {
                "slow": "poll",
                "live": "channel",
            }
            made.want(made.stream("A", group="live"), made.stream("B", group="live"))
            await until(lambda: made.ways() == {"channel": 2}, made.told)
            made.write("A", 1.0)
            await arrives(made, "A", 1.0)
            orjson.dumps(made.transports.status())


async def test_an_error_in_the_place_of_a_value_is_read_of_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, failing = Updates._event, [True]

    def event(self: Updates, change: Change) -> dict[str, Any]:
        found = told(self, change)
        if failing and change.event.value == 2.0:
            failing.clear()
            found |= {"Value": None, "Errors": [{"FieldName": "Value", "Message": ["The archive is busy."]}]}
        return found

    monkeypatch.setattr(Updates, "_event", event)
    async with rig("A", "B", directory=tmp_path, transport="updates") as made:
        await registered(made)
        for value in (1.0, 2.0, 9.0):
            made.write("A", value)
        await arrives(made, "A", 1.0, 2.0, 9.0)
        await until(lambda: [gap["state"] for gap in made.gaps()] == ["opened", "filled"], made.told)
        assert "The archive is busy." in made.gaps()[0]["cause"]
        assert made.gaps()[0]["streams"] == 1
        assert made.ways() == {"updates": 2}


async def test_a_server_that_forgets_at_once_what_was_registered_is_polled(tmp_path: Path) -> None:
    async with rig("A", "B", directory=tmp_path, running=False) as made:
        made.want(made.stream("A"), made.stream("B"))
        made.server.faults.refuse_upgrades(501)
        updates = made.server.updates
        assert updates is not None
        register = updates.register

        def forgetful(point: Any, web_id: str) -> dict[str, Any]:
            found = register(point, web_id)
            updates.forget()
            return found

        updates.register = forgetful  # type: ignore[method-assign]
        async with made.running():
            await until(lambda: made.ways() == {"poll": 2}, made.told)
            assert "Cache not found" in made.transports.status()["connection"]["why"]
            assert len(made.gaps()) < 40
            made.write("A", 1.0)
            await arrives(made, "A", 1.0)


async def test_a_stream_that_answers_leave_out_is_proven_by_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updates_module, "UNPROVEN", 0.5)
    answer = Updates.answer

    def brief(self: Updates, markers: Sequence[str]) -> list[dict[str, Any]]:
        return [item for item in answer(self, markers) if item.get("Events")]

    monkeypatch.setattr(Updates, "answer", brief)
    async with rig("A", "B", directory=tmp_path, transport="updates") as made:
        await until(lambda: made.ways() == {"updates": 2}, made.told)
        made.write("A", 1.0)
        await arrives(made, "A", 1.0)
        written = made.server.clock.now_ns() + 10 * 10**9  # well after the hole has ended
        await until(lambda: min(made.covered("A"), made.covered("B")) > written, made.told)
        assert made.gaps() == []
