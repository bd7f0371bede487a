"""Stream updates: what a marker answers, and when it is not known any more."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from plant.pi import updates as texts
from plant.pi.clock import Clock
from plant.pi.points import PiPoint
from plant.pi.server import Options
from plant.pi.system import Event, PiSystem, PointDefinition
from plant.pi.updates import Updates, UpdatesError, UpdatesOptions

from .serving import POST, point, serving, system_with, write

SECOND = 1_000_000_000


class Ours:
    """Our seconds, which only a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def made(options: UpdatesOptions | None = None) -> tuple[PiSystem, Updates, PiPoint, Ours]:
    ours = Ours()
    system = system_with("A", clock=Clock(now=ours))
    clock = system.clock
    assert isinstance(clock, Clock)
    updates = Updates(clock, options or UpdatesOptions())
    system.listeners.append(updates.changed)
    found = system.by_name("A")
    assert found is not None
    return system, updates, found, ours


def put(system: PiSystem, point: PiPoint, *values: float) -> None:
    for value in values:
        system.write(point, Event(system.clock.now_ns() + 1000 * round(value), value))


def told(item: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(event["Action"], event["Value"]) for event in item["Events"]]


def test_a_marker_answers_with_what_has_happened_since_and_the_next_marker() -> None:
    system, updates, point, _ = made()
    put(system, point, 1)
    first = updates.register(point, "W")
    assert first["Status"] == "Succeeded"
    assert re.fullmatch(r"[0-9a-f]{32}_0", first["LatestMarker"])
    put(system, point, 2, 3)
    item = updates.updates(first["LatestMarker"])
    assert (item["Status"], item["Source"], item["SourceName"], item["SourcePath"]) == (
        "Updated",
        "W",
        "A",
        r"\\PISERVER\A",
    )
    assert told(item) == [("Add", 2.0), ("Add", 3.0)]
    assert item["LatestMarker"].endswith("_2")
    assert updates.updates(item["LatestMarker"])["Events"] == []
    put(system, point, 4)
    assert told(updates.updates(item["LatestMarker"])) == [("Add", 4.0)]
    assert told(updates.updates(first["LatestMarker"])) == [("Add", 2.0), ("Add", 3.0), ("Add", 4.0)]


def test_events_say_what_they_did_and_what_became_of_the_value_before() -> None:
    ours = Ours()
    system = PiSystem(Clock(now=ours))
    clock = system.clock
    assert isinstance(clock, Clock)
    point = system.add(PointDefinition("C", type="Float64", compressing=True, compdev=1.0))
    updates = Updates(clock, UpdatesOptions())
    system.listeners.append(updates.changed)
    marker = updates.register(point, "W")["LatestMarker"]
    now = clock.now_ns()
    for at, value in enumerate((0.0, 0.0, 0.0, 50.0, 0.0)):
        system.write(point, Event(now + at * SECOND, value))
    system.write(point, Event(now + SECOND // 2, 7.0))
    system.replace(point, Event(now + SECOND // 2, 8.0))
    system.delete(point, now + SECOND // 2)
    events = updates.updates(marker)["Events"]
    assert [event["Action"] for event in events] == ["Add"] * 5 + ["Insert", "Update", "Delete"]
    previous = [event.get("PreviousEventAction") for event in events]
    assert previous[0] is None
    assert {"PreviousEventArchived", "PreviousEventCompressed"} == set(previous[1:5])
    archived = sum(one == "PreviousEventArchived" for one in previous)
    # What was not archived of the five is there no more: the archive and the events tell the same.
    assert len(system.archived(point)) == archived + 1


def test_registering_again_keeps_the_registration_and_says_so() -> None:
    system, updates, point, _ = made()
    first = updates.register(point, "W")
    put(system, point, 1)
    again = updates.register(point, "W")
    assert again["Status"] == "AlreadyRegistered"
    assert again["LatestMarker"] == first["LatestMarker"].replace("_0", "_1")


def test_a_registration_expires_in_server_time_when_nobody_asks() -> None:
    _, updates, point, ours = made(UpdatesOptions(expires_s=60))
    marker = updates.register(point, "W")["LatestMarker"]
    for _ in range(5):
        ours.seconds += 50
        updates.updates(marker)
    ours.seconds += 70
    with pytest.raises(UpdatesError) as gone:
        updates.updates(marker)
    assert (gone.value.status, gone.value.text) == (404, texts.NOT_FOUND)
    assert updates.register(point, "W")["Status"] == "Succeeded"


@pytest.mark.parametrize("marker", ["", "x", "_1", "{hex}_99", "{hex}_-1", "{hex}_x", "{hex}"])
def test_a_marker_that_was_never_given_out_is_invalid(marker: str) -> None:
    _, updates, point, _ = made()
    good = updates.register(point, "W")["LatestMarker"]
    with pytest.raises(UpdatesError) as refused:
        updates.updates(marker.format(hex=good[:32]))
    assert (refused.value.status, refused.value.text) == (409, texts.INVALID)


def test_of_several_markers_the_bad_ones_get_an_exception_each_and_all_of_them_an_error() -> None:
    system, updates, point, _ = made()
    good, forgotten = updates.register(point, "W")["LatestMarker"], f"{'0' * 32}_7"
    put(system, point, 1)
    items = updates.answer([good, forgotten, "nonsense"])
    assert [item["Status"] for item in items] == ["Updated", "Failed", "Failed"]
    assert [item["Exception"]["Errors"] for item in items[1:]] == [[texts.NOT_FOUND], [texts.INVALID]]
    with pytest.raises(UpdatesError, match="Cache not found"):
        updates.answer([forgotten, "nonsense"])


def test_more_events_than_are_kept_end_the_registration() -> None:
    system, updates, point, _ = made(UpdatesOptions(kept=3))
    marker = updates.register(point, "W")["LatestMarker"]
    put(system, point, 1, 2, 3, 4)
    item = updates.updates(marker)
    assert (item["Status"], item["Exception"]["Errors"], item["Events"]) == ("Failed", [texts.OVERFLOWED], [])
    with pytest.raises(UpdatesError):
        updates.updates(marker)


@pytest.mark.parametrize(("removed", "text"), [(False, texts.CHANGED), (True, texts.REMOVED)])
def test_a_point_that_is_changed_or_removed_ends_its_registration(removed: bool, text: str) -> None:
    _, updates, point, _ = made()
    marker = updates.register(point, "W")["LatestMarker"]
    updates.point_changed(point.id, removed=removed)
    assert updates.updates(marker)["Exception"]["Errors"] == [text]
    assert updates.register(point, "W")["Status"] == "Succeeded"


# ---- over HTTP


async def test_streams_are_registered_by_post_and_asked_for_with_the_markers_of_the_answer() -> None:
    async with serving("A", "B") as (server, client):
        ids = [server.system.web_id_of(point(server, name), "IDOnly") for name in "AB"]
        query = [*(("webId", one) for one in ids), ("webId", "I1DPnothing"), ("webIdType", "IDOnly")]
        async with client.post(f"{server.url}/streamsets/updates", params=query, headers=POST) as response:
            assert response.status == 200
            location, items = response.headers["Location"], (await response.json())["Items"]
        assert [item["Status"] for item in items] == ["Succeeded", "Succeeded", "Failed"]
        assert [item["Source"] for item in items] == [*ids, "I1DPnothing"]
        write(server, "B", 5.0)
        async with client.get(location) as response:
            items = (await response.json())["Items"]
        assert [told(item) for item in items] == [[], [("Add", 5.0)]]
        query = [("marker", items[1]["LatestMarker"]), ("selectedFields", "Items.Status;Items.LatestMarker")]
        async with client.get(f"{server.url}/streamsets/updates", params=query) as response:
            assert await response.json() == {"Items": [{"LatestMarker": items[1]["LatestMarker"], "Status": "Updated"}]}
        assert server.watched == {point(server, "A").id, point(server, "B").id}
        assert server.written == 0


async def test_one_stream_has_its_own_form_and_errors_are_statuses() -> None:
    async with serving("A") as (server, client):
        web_id = server.system.web_id_of(point(server, "A"), "IDOnly")
        async with client.post(f"{server.url}/streams/{web_id}/updates", headers=POST) as response:
            marker = (await response.json())["LatestMarker"]
        write(server, "A", 1.0)
        async with client.get(f"{server.url}/streams/updates/{marker}") as response:
            assert told(await response.json()) == [("Add", 1.0)]
        async with client.get(f"{server.url}/streams/updates/{'0' * 32}_1") as response:
            assert (response.status, await response.json()) == (404, {"Errors": [texts.NOT_FOUND]})
        async with client.get(f"{server.url}/streamsets/updates?marker=x") as response:
            assert (response.status, await response.json()) == (409, {"Errors": [texts.INVALID]})
        async with client.post(f"{server.url}/streams/I1DPnothing/updates", headers=POST) as response:
            assert response.status == 404


async def test_a_restart_loses_every_marker_and_so_do_renaming_and_removing_a_point() -> None:
    async with serving("A", "B") as (server, client):
        ids = {name: server.system.web_id_of(point(server, name), "IDOnly") for name in "AB"}

        async def register(name: str) -> str:
            async with client.post(f"{server.url}/streams/{ids[name]}/updates", headers=POST) as response:
                return str((await response.json())["LatestMarker"])

        async def status(marker: str) -> tuple[int, Any]:
            async with client.get(f"{server.url}/streams/updates/{marker}") as response:
                return response.status, (await response.json()).get("Exception")

        marker = await register("A")
        server.faults.rename_point("A", "A2")
        assert await status(marker) == (200, {"Errors": [texts.CHANGED]})
        marker = await register("B")
        server.faults.delete_point("B")
        assert await status(marker) == (200, {"Errors": [texts.REMOVED]})
        marker = await register("A")
        server.faults.restart()
        await asyncio.sleep(0)
        assert (await status(marker))[0] == 404


async def test_an_old_server_has_no_updates() -> None:
    async with (
        serving("A", options=Options(updates=None)) as (server, client),
        client.post(f"{server.url}/streamsets/updates?webId=x", headers=POST) as response,
    ):
        assert response.status == 404
        assert (await response.json())["Errors"]
    assert server.requests == {"POST streamsets/updates": 1}
    assert server.written == 0, "to ask for updates changes nothing, whether there are any or not"
