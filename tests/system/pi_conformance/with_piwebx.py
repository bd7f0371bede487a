"""Reads a PI Web API with piwebx and says as JSON lines what it got; arguments: one JSON object.

{"url": …, "points": [names], "start": ISO, "end": ISO, "values": n}

"search", "types", "recorded", "interpolated", "current" first; then a channel is opened ("open"), and after n values of
it "channel".
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import datetime
from importlib import import_module
from typing import Any

httpx: Any = import_module("httpx")
piwebx: Any = import_module("piwebx")


def say(what: str, got: Any) -> None:
    sys.stdout.write(json.dumps({"what": what, "got": got}, default=str) + "\n")
    sys.stdout.flush()


async def main(told: dict[str, Any]) -> None:
    start, end = (datetime.fromisoformat(told[name]) for name in ("start", "end"))
    async with httpx.AsyncClient(base_url=told["url"] + "/") as client:
        found, missing = await piwebx.find_points_web_id(client, [*told["points"], "NOT THERE"])
        say("search", {"found": [name for name, _ in found], "missing": missing})
        ids = [web_id for _, web_id in found]
        say("types", list((await piwebx.find_points_type(client, ids)).values()))
        rows = piwebx.get_recorded(client, ids, start, end, timezone="UTC")
        say("recorded", [[at.isoformat(), values] async for at, values in rows])
        rows = piwebx.get_interpolated(client, ids, start, end, interval=1, timezone="UTC")
        say("interpolated", [[at.isoformat(), values] async for at, values in rows])
        say("current", (await piwebx.get_current(client, ids))[1])
        names = dict(zip(ids, [name for name, _ in found], strict=True))
        async with piwebx.open_channel_group(client, ids, include_initial_values=True, timezone="UTC") as group:
            got = []
            async for web_id, at, value in group:
                got.append([names.get(web_id, web_id), at.isoformat(), value])
                if len(got) == len(ids):
                    say("open", got)
                if len(got) == len(ids) + told["values"]:
                    break
            say("channel", got[len(ids) :])


asyncio.run(main(json.loads(sys.argv[1])))
