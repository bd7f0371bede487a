"""What a server can do, how it is, and since when its process runs, as far as its answers say. Pure.

A version alone is not believed: which release brought a call is not certain, and an administrator may switch calls off.
`has_search` and `has_updates` are what the calls themselves answered; None until one was made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import orjson

from pi_collector.web.clock import Instant, from_server_time
from pi_collector.web.errors import MalformedError

_MINUTE: Final = 60 * 1_000_000_000
_MOST_SERVERS: Final = 1000
_OURS: Final = re.compile(r"web ?api|osisoft\.rest", re.IGNORECASE)
_VERSION: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,9}){1,4}")

State = Literal["well", "archive-down", "unreachable", "refused", "busy"]


class Health(NamedTuple):
    """How the server is. problem and remedy are empty when it is well."""

    state: State
    """archive-down: PI Web API answers, and says that it has no connection to the archive. busy: it asks for
    patience."""
    problem: str = ""
    remedy: str = ""
    place: str = "url"
    """The setting that it belongs to, below the connection."""


@dataclass(slots=True)
class Features:
    """What is known of a server."""

    version: str = ""
    """ProductVersion of PI Web API; "": not known."""
    has_search: bool | None = None
    """points/search (2021 SP3 and later)."""
    has_updates: bool | None = None
    """Stream updates (2018 SP1 and later)."""

    def status(self) -> dict[str, Any]:
        """For the status."""
        calls = {"search": self.has_search, "updates": self.has_updates}
        told: dict[str, Any] = {name: known for name, known in calls.items() if known is not None}
        if self.version:
            told["version"] = self.version
        return told


@dataclass(frozen=True, slots=True)
class DataServer:
    """A data archive, as the server told of it."""

    name: str
    web_id: str
    connected: bool
    time: Instant | None


def read(body: bytes) -> Any:
    """The content of a small answer. Raises MalformedError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedError("answers with something that is no JSON", "see that the address is PI Web API's") from None


def version(content: Any) -> str:
    """Of the landing page, or of system/versions, whose keys are names of products; "" where it has none."""
    if not isinstance(content, dict):
        return ""
    told = [content.get("ProductVersion")]
    for name, part in content.items():
        if isinstance(name, str) and _OURS.search(name):
            told += [part.get("FullVersion"), part.get("Version")] if isinstance(part, dict) else [part]
    found = (_VERSION.search(text) for text in told if isinstance(text, str))
    return next((match.group() for match in found if match), "")


def data_servers(content: Any) -> list[DataServer]:
    """Of `requests.data_servers`; what is none is left out."""
    items = content.get("Items") if isinstance(content, dict) else None
    found = []
    for item in items[:_MOST_SERVERS] if isinstance(items, list) else ():
        if not isinstance(item, dict) or not isinstance(item.get("Name"), str):
            continue
        web_id = item.get("WebId")
        found.append(
            DataServer(
                item["Name"],
                web_id if isinstance(web_id, str) else "",
                str(item.get("IsConnected", True)).lower() != "false",
                from_server_time(item.get("ServerTime")),
            )
        )
    return found


def concerned(servers: Sequence[DataServer], names: Sequence[str]) -> list[DataServer]:
    """Those of the names; all when there is none."""
    wanted = {name.casefold() for name in names if name}
    return [server for server in servers if not wanted or server.name.casefold() in wanted]


def health(servers: Sequence[DataServer]) -> Health:
    """Whether the archives that concern us are there."""
    down = [server.name for server in servers if not server.connected]
    if not down:
        return Health("well")
    return Health(
        "archive-down",
        f"answers, but has no connection to the data archive {', '.join(down[:5])}",
        "start the archive, or mend what is between it and PI Web API; what is missed is read once it is back",
    )


class Process:
    """Whether the server's process is another one than before, by how long it says it runs (whole minutes)."""

    def __init__(self) -> None:
        self._newest: int | None = None  # ns of the server's clock: no process that was seen began later

    def another(self, content: Any, now: Instant | None) -> bool:
        """Of system/status and the server's time when it answered. Several behind one address: the newest counts."""
        minutes = content.get("UpTimeInMinutes") if isinstance(content, dict) else None
        if now is None or isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not 0 <= minutes < 1e8:
            return False
        earliest = now.ns - int((minutes + 1) * _MINUTE)
        latest = now.end - int(minutes * _MINUTE)
        before, self._newest = self._newest, latest if self._newest is None else max(self._newest, latest)
        return before is not None and earliest > before
