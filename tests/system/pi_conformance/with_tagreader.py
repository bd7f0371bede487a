"""Reads a PI Web API with tagreader and says as JSON lines what it got; arguments: one JSON object.

{"url": …, "server": name, "user": …, "password": …, "point": name, "pattern": "A*", "start": ISO, "end": ISO}
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from importlib import import_module
from typing import Any

tagreader: Any = import_module("tagreader")
web_handlers: Any = import_module("tagreader.web_handlers")
requests: Any = import_module("requests")


def say(what: str, got: Any) -> None:
    sys.stdout.write(json.dumps({"what": what, "got": got}, default=str) + "\n")
    sys.stdout.flush()


def column(frame: Any, name: str) -> list[list[Any]]:
    return [[at.isoformat(), value] for at, value in frame[name].items()]


def main(told: dict[str, Any]) -> None:
    # Its search looks the data server up at its makers' own address, whatever it was told.
    web_handlers.get_url_pi = lambda: told["url"]
    login = requests.auth.HTTPBasicAuth(told["user"], told["password"])
    client = tagreader.IMSClient(told["server"], imstype="piwebapi", tz="UTC", url=told["url"], auth=login)
    client.cache = client.handler.web_id_cache = None
    client.connect()
    say("search", sorted(client.search(told["pattern"])))
    say("units", client.get_units([told["point"]]))
    say("descriptions", client.get_descriptions([told["point"]]))
    start, end = (datetime.fromisoformat(told[name]) for name in ("start", "end"))
    for name in ("RAW", "INT", "AVG", "MIN", "MAX"):
        kind = getattr(tagreader.ReaderType, name)
        frame = client.read([told["point"]], start, end, ts=2, read_type=kind, get_status=name == "RAW")
        say(name, column(frame, told["point"]))


main(json.loads(sys.argv[1]))
