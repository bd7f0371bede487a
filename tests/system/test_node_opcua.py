"""Nothing is lost or doubled against node-opcua, a server of somebody else's, whatever happens between it and us.

(Our plant's server is asyncua, which never answers BadMessageNotAvailable by itself and whose Transfer and Republish
had to be mended.)
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sluice.batch import EventBatch, decode

from .peers import COLLECTOR, LIMIT, TAGS, flowing, judge, node_opcua, restarted

pytestmark = [pytest.mark.system, pytest.mark.peers]


async def test_a_cut_line_costs_nothing_because_the_session_goes_on(build: Path, tmp_path: Path) -> None:
    """ActivateSession and Republish: asyncua's own reconnect lost every value of such an outage against this server."""
    async with node_opcua(tmp_path / "server") as server, flowing(build, tmp_path, server) as (rehearsal, line):
        line.refuse(True)
        await line.cut()
        await asyncio.sleep(2.5)  # the length of the outage
        line.refuse(False)
        before = (await server.ask("counters", "counters"))["cumulated_subscriptions"]
        await judge(rehearsal, server)
        after = await server.ask("counters", "counters")
        assert (before, after["cumulated_subscriptions"]) == (1, 1), after
        assert after["cumulated_sessions"] == 1, after


async def test_a_killed_collector_resumes_where_it_was(build: Path, tmp_path: Path) -> None:
    async with node_opcua(tmp_path / "server") as server, flowing(build, tmp_path, server) as (rehearsal, _):
        collector = rehearsal.core.component(COLLECTOR)
        for kills in (1, 2):
            collector.kill()
            await rehearsal.wait_for(partial(restarted, collector, kills), "restart", LIMIT)
            await asyncio.sleep(1.5)  # it works for a while
        await judge(rehearsal, server)
        after = await server.ask("counters", "counters")
        assert after["cumulated_subscriptions"] == 1, after


async def test_a_server_that_forgets_everything_is_read_back_from_its_history(build: Path, tmp_path: Path) -> None:
    """A restarted server has no session and no subscription of ours: what came meanwhile is in its history."""
    options = {"history": True}
    async with (
        node_opcua(tmp_path / "server", **options) as server,
        flowing(build, tmp_path, server) as (rehearsal, line),
    ):
        line.refuse(True)
        await line.cut()
        await server.ask("forget", "forgotten")
        await asyncio.sleep(2.0)  # the length of the outage
        line.refuse(False)
        await judge(rehearsal, server)


async def test_a_gap_that_no_server_can_fill_is_told(build: Path, tmp_path: Path) -> None:
    """Without history the loss is certain, and said: one event names the tags and the time."""
    async with node_opcua(tmp_path / "server") as server, flowing(build, tmp_path, server) as (rehearsal, line):
        events: list[dict[str, Any]] = []

        def note(topic: str, payload: bytes) -> None:
            batch = decode(payload)
            if isinstance(batch, EventBatch):
                events.extend(dict(event) for event in batch.events)

        rehearsal.core.ipc.observe("sluice/data/+/+/events", note)
        line.refuse(True)
        await line.cut()
        await server.ask("forget", "forgotten")
        await asyncio.sleep(1.0)  # the length of the outage
        line.refuse(False)
        await rehearsal.wait_for(lambda: any(event["kind"] == "gap" for event in events), "gap event", LIMIT)
        gap = next(event for event in events if event["kind"] == "gap")
        assert gap["connection"] == "line1", gap
        assert len(gap["tags"]) == TAGS, gap
