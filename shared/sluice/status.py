"""Status: what a component tells about itself, every few seconds on `sluice/status/<component>`.

    {"v":1, "kind":"status", "component":"opcua-collector", "version":"0.1.0", "time":"2026-03-01T10:00:00Z",
     "state":"running", "uptime_s":3600,
     "connections":{"line1":{"state":"failed","since":"…","why":"…","remedy":"…", …}},
     "ledger":{"opcua-collector/line1":{"received":…,"filtered":…,"stored":…,"dropped":…, …}},
     "config":{"applied":"…","rejected":[{"path","value","problem","remedy"}, …]},
     "counters":{…}}

A status fits one frame. What does not fit is left out from the end of the largest section, of connections those that
are well before those that are not, and
`"truncated":{"connections":37}` says how many entries of which section are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any, Final

import orjson

from sluice import __version__

STATUS_PREFIX: Final = "sluice/status/"
MAX_TEXT: Final = 500
"""Characters of one text in a status; the rest is cut and marked."""
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def status_topic(component: str) -> str:
    """The topic of a component's status; component is its short id."""
    return STATUS_PREFIX + component


class State(str, Enum):
    """What a component as a whole is doing."""

    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    """It runs, and something of it does not: `why` says what, connections and rejected configuration say more."""
    STOPPING = "stopping"


@dataclass(slots=True)
class Connection:
    """The state of one connection (to a server, to stream manager, of a sink), since when, why, and what mends it."""

    state: str = "starting"
    why: str = ""
    remedy: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    """Further members, such as rates."""
    clock: Callable[[], float] = time.time
    since: float = 0.0

    def __post_init__(self) -> None:
        self.since = self.since or self.clock()

    def set(self, state: str, why: str = "", remedy: str = "") -> bool:
        """Note the state; `since` moves only when the state changes. Whether anything changed, for the log."""
        changed = (state, why, remedy) != (self.state, self.why, self.remedy)
        if state != self.state:
            self.since = self.clock()
        self.state, self.why, self.remedy = state, why, remedy
        return changed

    def as_dict(self) -> dict[str, Any]:
        """For the status; empty members are left out."""
        told: dict[str, Any] = {"state": self.state, "since": when(self.since)}
        if self.why:
            told["why"] = self.why
        if self.remedy:
            told["remedy"] = self.remedy
        return {**told, **self.details}


def when(at: float) -> str:
    """A time in seconds since 1970 as people and programs read it: ISO 8601, UTC."""
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


class Status:
    """Assembles a component's status.

    component: its short id; clock: wall time, seconds since 1970; steady: any steady clock, for the uptime.
    """

    def __init__(
        self,
        component: str,
        version: str = __version__,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.component = component
        self.version = version
        self.state = State.STARTING
        self.why = ""
        self.applied = ""
        """When the present configuration was applied, ISO 8601; empty: none yet."""
        self.rejected: Sequence[Mapping[str, Any]] = ()
        """Configuration entries that are not applied: path, value, problem, remedy."""
        self._clock = clock
        self._steady = steady
        self._started = steady()

    @property
    def topic(self) -> str:
        """Where it is published."""
        return status_topic(self.component)

    def set(self, state: State, why: str = "") -> None:
        """Note what the component is doing, and why when it is not simply running."""
        self.state, self.why = state, why

    def configured(self, rejected: Sequence[Mapping[str, Any]]) -> None:
        """Note that a configuration was applied just now, but for the rejected entries."""
        self.applied = when(self._clock())
        self.rejected = tuple(rejected)

    def report(self, parts: Mapping[str, Any], *, max_bytes: int) -> bytes:
        """The status as JSON of at most max_bytes. parts: connections, ledger, counters and whatever else the
        component tells; its own members win over them. Never raises for what is in parts."""
        head: dict[str, Any] = {
            "v": 1,
            "kind": "status",
            "component": self.component,
            "version": self.version,
            "time": when(self._clock()),
            "state": self.state.value,
        }
        if self.why:
            head["why"] = self.why[:MAX_TEXT]
        head["uptime_s"] = int(self._steady() - self._started)
        config = {"applied": self.applied, "rejected": list(self.rejected)}
        sections = {"connections": {}, "ledger": {}, "config": config, "counters": {}, **parts}
        sections = {name: section for name, section in sections.items() if name not in head}
        try:
            return _fitting(head, _plain(sections), max_bytes)
        except (TypeError, ValueError, RecursionError) as error:
            head["problem"] = f"the rest of the status cannot be written: {error}"[:MAX_TEXT]
            return orjson.dumps(head)


def cut(sections: Mapping[str, Any], max_bytes: int) -> bytes:
    """The sections as one JSON object of at most max_bytes, cut in the way of a status. Never raises."""
    try:
        return _fitting({}, _plain(sections), max_bytes)
    except (TypeError, ValueError, RecursionError) as error:
        return orjson.dumps({"problem": f"this cannot be written: {error}"[: min(MAX_TEXT, max(0, max_bytes - 20))]})


def _is_well(connection: Any) -> bool:
    return not (isinstance(connection, dict) and connection.get("why"))


def _plain(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections as plain JSON objects that may be cut, long texts cut already."""
    plain = orjson.loads(orjson.dumps(sections, default=_written, option=_OPTIONS))
    shortened = _shortened(plain)
    assert isinstance(shortened, dict)
    return shortened


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset | Sequence) and not isinstance(value, str | bytes):
        return list(value)
    return str(value)


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[:MAX_TEXT]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {name: _shortened(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shortened(member) for member in value]
    return value


def _fitting(head: dict[str, Any], sections: dict[str, Any], max_bytes: int) -> bytes:
    """Head and sections as JSON; the largest section loses half of its entries until all fits."""
    config = sections.get("config")
    if isinstance(config, dict) and "rejected" in config:  # the one list below a section that may be long
        sections["rejected"] = config.pop("rejected")
    left_out: dict[str, int] = {}
    whole = orjson.dumps({**head, **sections})
    if len(whole) > max_bytes and isinstance(sections.get("connections"), dict):
        sections["connections"] = dict(sorted(sections["connections"].items(), key=lambda item: _is_well(item[1])))
    while True:
        body = {**head, **sections}
        if isinstance(config, dict) and "rejected" in body:
            body["config"] = {**config, "rejected": body.pop("rejected")}
        if left_out:
            body["truncated"] = left_out
        payload = orjson.dumps(body)
        if len(payload) <= max_bytes:
            return payload
        largest = max(sections, key=lambda name: len(orjson.dumps(sections[name])), default=None)
        if largest is None:
            return payload
        section = sections[largest]
        if isinstance(section, list | dict) and len(section) > 1:
            kept = len(section) // 2
            left_out[largest] = left_out.get(largest, 0) + len(section) - kept
            sections[largest] = section[:kept] if isinstance(section, list) else dict(list(section.items())[:kept])
        else:
            left_out[largest] = left_out.get(largest, 0) + 1
            del sections[largest]
