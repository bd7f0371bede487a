"""Nothing is lost or doubled against open62541, the C stack in many devices: numbers and strings, whatever happens."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from .peers import COLLECTOR, LIMIT, TAGS, connection, flowing, judge, nodes, open62541, restarted

pytestmark = [pytest.mark.system, pytest.mark.peers]

NAMES = [f"{kind}{number}" for kind in "DS" for number in range(TAGS // 2)]
RATE = 200  # a row every 100 ms: the server looks at its variables every 50 ms at most


async def test_a_cut_line_and_a_killed_collector_cost_nothing(build: Path, tmp_path: Path) -> None:
    async with (
        open62541(tmp_path / "server") as server,
        flowing(build, tmp_path, server, rate=RATE, tags=nodes(NAMES)) as (rehearsal, line),
    ):
        line.refuse(True)
        await line.cut()
        await asyncio.sleep(2.0)  # the length of the outage
        line.refuse(False)
        await rehearsal.wait_for(lambda: connection(rehearsal).get("resumed", 0) >= 1, "resumed session", LIMIT)
        collector = rehearsal.core.component(COLLECTOR)
        collector.kill()
        await rehearsal.wait_for(partial(restarted, collector, 1), "restart", LIMIT)
        await rehearsal.wait_for(
            lambda: connection(rehearsal).get("recovery", {}).get("rung") == "resumed", "resumed session", LIMIT
        )
        await asyncio.sleep(1.0)  # it works for a while
        await judge(rehearsal, server)
        assert connection(rehearsal).get("renewed", 0) == 0
